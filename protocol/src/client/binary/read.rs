//! What clients say, read by a server.

use std::borrow::Cow;

use rkyv::option::ArchivedOption;
use rkyv::string::ArchivedString;

use super::{Kind, wire};
use crate::client::{ArchivedFrameId, Command, FrameId, Incoming, SendMessage, Wrong, check};
use crate::framing::{self, FramingError};
use crate::ids::{ConversationId, MessageId, UserId};
use crate::limits::{FRAME_BYTES_DEFAULT, PRESENCE_IDS_MAX};
use crate::reason::{Code, Refusal};
use crate::record::{Encoding, MessageType};

/// The frames of a WebSocket message, which has to be aligned to [`framing::ALIGN`].
#[must_use]
pub fn decode(message: &[u8]) -> Frames<'_> {
    Frames { rest: Some(message), first: true }
}

/// An iterator over the frames of a message. Its length is bounded by the message's: a frame takes eight bytes at
/// least.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    /// `None` once a header could not be read.
    rest: Option<&'a [u8]>,
    first: bool,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Incoming<'a>;

    fn next(&mut self) -> Option<Incoming<'a>> {
        let message = self.rest?;
        let first = std::mem::take(&mut self.first);
        // The message is in memory already: the cap only decides which of two refusals a length that does not fit gets.
        match framing::split(message, FRAME_BYTES_DEFAULT.max(message.len())) {
            Ok(Some((kind, archive, rest))) => {
                self.rest = Some(rest);
                Some(frame(kind, archive))
            }
            Ok(None) if first => self.broken(Refusal::new(Code::BadRequest, "the message holds no frame")),
            Ok(None) => None,
            Err(error @ FramingError::TooLarge(..)) => {
                self.broken(Refusal::new(Code::TooLarge, error.to_string()))
            }
            Err(error) => self.broken(Refusal::new(Code::BadRequest, error.to_string())),
        }
    }
}

impl std::iter::FusedIterator for Frames<'_> {}

impl<'a> Frames<'a> {
    /// Ends the message: where the next frame would begin is not known.
    fn broken(&mut self, refusal: Refusal) -> Option<Incoming<'a>> {
        self.rest = None;
        Some(Incoming { id: None, command: Err(Wrong { refusal, malformed: true }) })
    }
}

/// What an archive gives away: its `id`, and the command or what is wrong with it.
type Opened<'a> = (&'a ArchivedOption<ArchivedFrameId>, Result<Command<'a>, Refusal>);

fn frame(kind: u16, archive: &[u8]) -> Incoming<'_> {
    let opened = match open(kind, archive) {
        Ok(opened) => opened,
        Err(wrong) => return Incoming { id: None, command: Err(wrong) },
    };
    let (id, command) = opened;
    match id.as_ref().map(frame_id).map(check::frame_id).transpose() {
        Ok(id) => Incoming { id, command: command.and_then(checked).map_err(Wrong::from) },
        Err(refusal) => Incoming { id: None, command: Err(refusal.into()) },
    }
}

fn checked(mut command: Command<'_>) -> Result<Command<'_>, Refusal> {
    check::command(&mut command)?;
    Ok(command)
}

fn open(kind: u16, archive: &[u8]) -> Result<Opened<'_>, Wrong> {
    let opened: Opened<'_> = match Kind::from_number(kind) {
        Some(Kind::SendMessage) => {
            let frame = access::<wire::ArchivedSendMessage<'static>>(archive)?;
            (&frame.id, send_message(frame).map(Command::SendMessage))
        }
        Some(Kind::Delivered) => {
            let frame = access::<wire::ArchivedUpTo>(archive)?;
            let conversation = ConversationId(frame.conversation_id.0.into());
            (&frame.id, Ok(Command::Delivered { conversation, seq: frame.seq.into() }))
        }
        Some(Kind::Read) => {
            let frame = access::<wire::ArchivedUpTo>(archive)?;
            let conversation = ConversationId(frame.conversation_id.0.into());
            (&frame.id, Ok(Command::Read { conversation, seq: frame.seq.into() }))
        }
        Some(Kind::Sync) => {
            let frame = access::<wire::ArchivedSync>(archive)?;
            let command = Command::Sync {
                conversation: ConversationId(frame.conversation_id.0.into()),
                from_seq: frame.from_seq.into(),
                limit: frame.limit.into(),
            };
            (&frame.id, Ok(command))
        }
        Some(Kind::Identify) => {
            let frame = access::<wire::ArchivedIdentify<'static>>(archive)?;
            let cursors = frame.cursors.iter();
            let cursors =
                cursors.map(|cursor| (ConversationId(cursor.conversation_id.0.into()), cursor.seq.into()));
            (&frame.id, Ok(Command::Identify { token: optional(&frame.token), cursors: cursors.collect() }))
        }
        Some(Kind::Typing) => {
            let frame = access::<wire::ArchivedTyping>(archive)?;
            (&frame.id, typing(frame))
        }
        Some(Kind::PresenceSubscribe) => {
            let frame = access::<wire::ArchivedUsers<'static>>(archive)?;
            (&frame.id, Ok(Command::PresenceSubscribe { users: users(frame) }))
        }
        Some(Kind::PresenceUnsubscribe) => {
            let frame = access::<wire::ArchivedUsers<'static>>(archive)?;
            (&frame.id, Ok(Command::PresenceUnsubscribe { users: users(frame) }))
        }
        Some(Kind::DeleteMessage) => {
            let frame = access::<wire::ArchivedDeleteMessage<'static>>(archive)?;
            let command = Command::DeleteMessage {
                conversation: ConversationId(frame.conversation_id.0.into()),
                message: MessageId(frame.message_id.0.into()),
                client_msg_id: optional(&frame.client_msg_id),
            };
            (&frame.id, Ok(command))
        }
        Some(kind @ (Kind::React | Kind::Unreact)) => {
            let frame = access::<wire::ArchivedReact<'static>>(archive)?;
            let command = Command::React {
                conversation: ConversationId(frame.conversation_id.0.into()),
                message: MessageId(frame.message_id.0.into()),
                emoji: Cow::Borrowed(&frame.emoji),
                client_msg_id: optional(&frame.client_msg_id),
                add: kind == Kind::React,
            };
            (&frame.id, Ok(command))
        }
        Some(Kind::RefreshToken) => {
            let frame = access::<wire::ArchivedRefreshToken<'static>>(archive)?;
            (&frame.id, Ok(Command::RefreshToken { token: Cow::Borrowed(&frame.token) }))
        }
        Some(Kind::Heartbeat) => (&access::<wire::ArchivedBare>(archive)?.id, Ok(Command::Heartbeat)),
        Some(Kind::Bye) => (&access::<wire::ArchivedBare>(archive)?.id, Ok(Command::Bye)),
        // A server's own kinds included: from a client they mean nothing.
        _ => return Err(Wrong { refusal: check::unknown_type(), malformed: false }),
    };
    Ok(opened)
}

/// Validates an archive (bytecheck) and gives access to it in place.
pub(super) fn access_raw<T>(archive: &[u8]) -> Result<&T, rkyv::rancor::Error>
where
    T: rkyv::Portable
        + for<'b> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'b, rkyv::rancor::Error>>,
{
    rkyv::access::<T, rkyv::rancor::Error>(archive)
}

fn access<T>(archive: &[u8]) -> Result<&T, Wrong>
where
    T: rkyv::Portable
        + for<'b> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'b, rkyv::rancor::Error>>,
{
    access_raw(archive)
        .map_err(|_| Refusal::new(Code::BadRequest, "the frame's archive is not valid for its kind").into())
}

pub(super) fn frame_id(id: &ArchivedFrameId) -> FrameId {
    match id {
        ArchivedFrameId::Text(text) => FrameId::Text((**text).into()),
        ArchivedFrameId::Number(number) => FrameId::Number((*number).into()),
    }
}

pub(super) fn optional(text: &ArchivedOption<ArchivedString>) -> Option<Cow<'_, str>> {
    text.as_ref().map(|text| Cow::Borrowed(text.as_str()))
}

fn typing(frame: &wire::ArchivedTyping) -> Result<Command<'_>, Refusal> {
    let conversation = ConversationId(frame.conversation_id.0.into());
    match frame.state {
        0 | 1 => Ok(Command::Typing { conversation, start: frame.state == 1 }),
        _ => Err(Refusal::field("state", "state must be 0 (stop) or 1 (start)")),
    }
}

/// One more than allowed is enough to be refused by.
fn users(frame: &wire::ArchivedUsers<'static>) -> Vec<UserId> {
    frame.user_ids.iter().take(PRESENCE_IDS_MAX + 1).map(|id| UserId(id.0.into())).collect()
}

fn send_message<'a>(frame: &'a wire::ArchivedSendMessage<'static>) -> Result<SendMessage<'a>, Refusal> {
    let message_type = MessageType::from_number(frame.message_type)
        .ok_or_else(|| Refusal::field("message_type", "message_type must be 0 (text) to 3 (file)"))?;
    let encoding = Encoding::from_number(frame.encoding)
        .ok_or_else(|| Refusal::field("encoding", "encoding must be 0 (utf8) or 1 (opaque)"))?;
    Ok(SendMessage {
        conversation: ConversationId(frame.conversation_id.0.into()),
        content: Cow::Borrowed(&frame.content),
        message_type,
        encoding,
        media_url: optional(&frame.media_url),
        client_msg_id: optional(&frame.client_msg_id),
        reply_to: frame.reply_to.as_ref().map(|id| MessageId(id.0.into())),
    })
}
