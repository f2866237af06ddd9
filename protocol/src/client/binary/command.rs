//! What clients say, written by a client.

use std::borrow::Cow;

use rkyv::util::AlignedVec;

use super::{Kind, wire};
use crate::client::{Command, FrameId};
use crate::framing;

/// Appends a client frame. Several of them in one buffer make one WebSocket message.
pub fn encode_command(id: Option<&FrameId>, command: &Command<'_>, out: &mut AlignedVec) {
    let id = id.cloned();
    match command {
        Command::Identify { token, cursors } => {
            let cursors = cursors
                .iter()
                .map(|(conversation, seq)| wire::Cursor { conversation_id: *conversation, seq: *seq })
                .collect();
            let token = token.as_deref().map(Cow::Borrowed);
            framing::append(out, Kind::Identify as u16, &wire::Identify { id, token, cursors });
        }
        Command::SendMessage(message) => {
            let frame = wire::SendMessage {
                id,
                conversation_id: message.conversation,
                content: Cow::Borrowed(&message.content),
                message_type: message.message_type as u8,
                encoding: message.encoding as u8,
                media_url: message.media_url.as_deref().map(Cow::Borrowed),
                client_msg_id: message.client_msg_id.as_deref().map(Cow::Borrowed),
                reply_to: message.reply_to,
            };
            framing::append(out, Kind::SendMessage as u16, &frame);
        }
        Command::Delivered { conversation, seq } => {
            let frame = wire::UpTo { id, conversation_id: *conversation, seq: *seq };
            framing::append(out, Kind::Delivered as u16, &frame);
        }
        Command::Read { conversation, seq } => {
            let frame = wire::UpTo { id, conversation_id: *conversation, seq: *seq };
            framing::append(out, Kind::Read as u16, &frame);
        }
        Command::Sync { conversation, from_seq, limit } => {
            let frame = wire::Sync { id, conversation_id: *conversation, from_seq: *from_seq, limit: *limit };
            framing::append(out, Kind::Sync as u16, &frame);
        }
        Command::Typing { conversation, start } => {
            let frame = wire::Typing { id, conversation_id: *conversation, state: u8::from(*start) };
            framing::append(out, Kind::Typing as u16, &frame);
        }
        Command::PresenceSubscribe { users } => {
            let frame = wire::Users { id, user_ids: Cow::Borrowed(users) };
            framing::append(out, Kind::PresenceSubscribe as u16, &frame);
        }
        Command::PresenceUnsubscribe { users } => {
            let frame = wire::Users { id, user_ids: Cow::Borrowed(users) };
            framing::append(out, Kind::PresenceUnsubscribe as u16, &frame);
        }
        Command::DeleteMessage { conversation, message, client_msg_id } => {
            let frame = wire::DeleteMessage {
                id,
                conversation_id: *conversation,
                message_id: *message,
                client_msg_id: client_msg_id.as_deref().map(Cow::Borrowed),
            };
            framing::append(out, Kind::DeleteMessage as u16, &frame);
        }
        Command::React { conversation, message, emoji, client_msg_id, add } => {
            let frame = wire::React {
                id,
                conversation_id: *conversation,
                message_id: *message,
                emoji: Cow::Borrowed(emoji),
                client_msg_id: client_msg_id.as_deref().map(Cow::Borrowed),
            };
            let kind = if *add { Kind::React } else { Kind::Unreact };
            framing::append(out, kind as u16, &frame);
        }
        Command::RefreshToken { token } => {
            let frame = wire::RefreshToken { id, token: Cow::Borrowed(token) };
            framing::append(out, Kind::RefreshToken as u16, &frame);
        }
        Command::Heartbeat => framing::append(out, Kind::Heartbeat as u16, &wire::Bare { id }),
        Command::Bye => framing::append(out, Kind::Bye as u16, &wire::Bare { id }),
    }
}
