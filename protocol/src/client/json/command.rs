//! What clients say, written by a client.

use serde::{Serialize, Serializer};

use super::id::Id;
use super::write;
use crate::client::{Command, FrameId};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::record::{Encoding, MessageType};

/// Every field that a command can have, in the order of protocol.md; a frame is those of them that are there.
#[derive(Serialize)]
struct Frame<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursors: Option<Cursors<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<ConversationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_ids: Option<&'a [UserId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_type: Option<MessageType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

struct Cursors<'a>(&'a [(ConversationId, Seq)]);

impl Serialize for Cursors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// Appends a client frame. What is a default is left out.
pub fn encode_command(id: Option<&FrameId>, command: &Command<'_>, out: &mut Vec<u8>) {
    let mut frame = Frame {
        r#type: "",
        id: id.map(Into::into),
        token: None,
        cursors: None,
        conversation_id: None,
        message_id: None,
        emoji: None,
        state: None,
        user_ids: None,
        content: None,
        message_type: None,
        media_url: None,
        client_msg_id: None,
        reply_to: None,
        encoding: None,
        seq: None,
        from_seq: None,
        limit: None,
    };
    match command {
        Command::Identify { token, cursors } => {
            frame.r#type = "identify";
            frame.token = token.as_deref();
            frame.cursors = (!cursors.is_empty()).then_some(Cursors(cursors));
        }
        Command::SendMessage(message) => {
            frame.r#type = "send_message";
            frame.conversation_id = Some(message.conversation);
            frame.content = Some(&message.content);
            frame.message_type = Some(message.message_type).filter(|kind| *kind != MessageType::default());
            frame.encoding = Some(message.encoding).filter(|encoding| *encoding != Encoding::default());
            frame.media_url = message.media_url.as_deref();
            frame.client_msg_id = message.client_msg_id.as_deref();
            frame.reply_to = message.reply_to;
        }
        Command::Delivered { conversation, seq } => {
            frame.r#type = "delivered";
            frame.conversation_id = Some(*conversation);
            frame.seq = Some(*seq);
        }
        Command::Read { conversation, seq } => {
            frame.r#type = "read";
            frame.conversation_id = Some(*conversation);
            frame.seq = Some(*seq);
        }
        Command::Sync { conversation, from_seq, limit } => {
            frame.r#type = "sync";
            frame.conversation_id = Some(*conversation);
            frame.from_seq = Some(*from_seq);
            frame.limit = Some(*limit);
        }
        Command::Typing { conversation, start } => {
            frame.r#type = "typing";
            frame.conversation_id = Some(*conversation);
            frame.state = Some(if *start { "start" } else { "stop" });
        }
        Command::PresenceSubscribe { users } => {
            frame.r#type = "presence_subscribe";
            frame.user_ids = Some(users);
        }
        Command::PresenceUnsubscribe { users } => {
            frame.r#type = "presence_unsubscribe";
            frame.user_ids = Some(users);
        }
        Command::DeleteMessage { conversation, message, client_msg_id } => {
            frame.r#type = "delete_message";
            frame.conversation_id = Some(*conversation);
            frame.message_id = Some(*message);
            frame.client_msg_id = client_msg_id.as_deref();
        }
        Command::React { conversation, message, emoji, client_msg_id, add } => {
            frame.r#type = if *add { "react" } else { "unreact" };
            frame.conversation_id = Some(*conversation);
            frame.message_id = Some(*message);
            frame.emoji = Some(emoji);
            frame.client_msg_id = client_msg_id.as_deref();
        }
        Command::RefreshToken { token } => {
            frame.r#type = "refresh_token";
            frame.token = Some(token);
        }
        Command::Heartbeat => frame.r#type = "heartbeat",
        Command::Bye => frame.r#type = "bye",
    }
    write(out, &frame);
}
