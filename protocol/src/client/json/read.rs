//! What clients say, read by a server.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::fields::{Field, Fields};
use crate::client::{Command, FrameId, Incoming, SendMessage, Wrong, check};
use crate::ids::{ConversationId, MessageId, Seq, UserId, parse_id};
use crate::limits::{CURSORS_MAX, PAGE_EVENTS_MAX, PRESENCE_IDS_MAX};
use crate::reason::Refusal;

/// Reads a client's frame. Never fails as a whole: what is wrong is inside, with the `id` when that one is readable.
#[must_use]
pub fn decode(text: &str) -> Incoming<'_> {
    let fields = match Fields::split(text) {
        Ok(fields) => fields,
        Err(refusal) => return Incoming { id: None, command: Err(refusal.into()) },
    };
    match frame_id(&fields) {
        Ok(id) => Incoming { id, command: command(&fields) },
        Err(refusal) => Incoming { id: None, command: Err(refusal.into()) },
    }
}

fn frame_id(fields: &Fields<'_>) -> Result<Option<FrameId>, Refusal> {
    if fields.repeated() == Some(Some(Field::Id)) {
        return Err(repeated(Some(Field::Id)));
    }
    let Some(raw) = fields.raw(Field::Id) else { return Ok(None) };
    let id = match text(raw) {
        Some(text) => FrameId::Text(text.into()),
        None => FrameId::Number(raw.parse().map_err(|_| check::wrong_frame_id())?),
    };
    check::frame_id(id).map(Some)
}

fn repeated(field: Option<Field>) -> Refusal {
    let message = "a field may be given only once";
    match field {
        Some(field) => Refusal::field(field.name(), message),
        None => Refusal::new(crate::reason::Code::BadRequest, message),
    }
}

fn command<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Wrong> {
    if let Some(field) = fields.repeated() {
        return Err(repeated(field).into());
    }
    let name = required_text(fields, Field::Type)?;
    let mut command = match &*name {
        "send_message" => Command::SendMessage(send_message(fields)?),
        "delivered" => {
            Command::Delivered { conversation: conversation(fields)?, seq: seq(fields, Field::Seq)? }
        }
        "read" => Command::Read { conversation: conversation(fields)?, seq: seq(fields, Field::Seq)? },
        "sync" => Command::Sync {
            conversation: conversation(fields)?,
            from_seq: seq(fields, Field::FromSeq)?,
            limit: limit(fields)?,
        },
        "identify" => {
            Command::Identify { token: optional_text(fields, Field::Token)?, cursors: cursors(fields)? }
        }
        "typing" => Command::Typing { conversation: conversation(fields)?, start: starts(fields)? },
        "presence_subscribe" => Command::PresenceSubscribe { users: users(fields)? },
        "presence_unsubscribe" => Command::PresenceUnsubscribe { users: users(fields)? },
        "delete_message" => Command::DeleteMessage {
            conversation: conversation(fields)?,
            message: message(fields)?,
            client_msg_id: optional_text(fields, Field::ClientMsgId)?,
        },
        "react" => react(fields, true)?,
        "unreact" => react(fields, false)?,
        "refresh_token" => Command::RefreshToken { token: required_text(fields, Field::Token)? },
        "heartbeat" => Command::Heartbeat,
        "bye" => Command::Bye,
        _ => return Err(Wrong { refusal: check::unknown_type(), malformed: false }),
    };
    check::command(&mut command)?;
    Ok(command)
}

fn send_message<'a>(fields: &Fields<'a>) -> Result<SendMessage<'a>, Refusal> {
    let conversation = conversation(fields)?;
    let media_url = optional_text(fields, Field::MediaUrl)?;
    Ok(SendMessage {
        conversation,
        content: required_text(fields, Field::Content)?,
        message_type: named(fields, Field::MessageType)?,
        encoding: named(fields, Field::Encoding)?,
        media_url,
        client_msg_id: optional_text(fields, Field::ClientMsgId)?,
        reply_to: optional_id(fields, Field::ReplyTo)?.map(MessageId),
    })
}

fn react<'a>(fields: &Fields<'a>, add: bool) -> Result<Command<'a>, Refusal> {
    Ok(Command::React {
        conversation: conversation(fields)?,
        message: message(fields)?,
        emoji: required_text(fields, Field::Emoji)?,
        client_msg_id: optional_text(fields, Field::ClientMsgId)?,
        add,
    })
}

fn required(field: Field) -> Refusal {
    Refusal::field(field.name(), format!("{} is required", field.name()))
}

fn conversation(fields: &Fields<'_>) -> Result<ConversationId, Refusal> {
    optional_id(fields, Field::ConversationId)?
        .map(ConversationId)
        .ok_or_else(|| required(Field::ConversationId))
}

fn message(fields: &Fields<'_>) -> Result<MessageId, Refusal> {
    optional_id(fields, Field::MessageId)?.map(MessageId).ok_or_else(|| required(Field::MessageId))
}

fn starts(fields: &Fields<'_>) -> Result<bool, Refusal> {
    let raw = fields.raw(Field::State).ok_or_else(|| required(Field::State))?;
    match text(raw).as_deref() {
        Some("start") => Ok(true),
        Some("stop") => Ok(false),
        _ => Err(check::wrong_state()),
    }
}

fn optional_id(fields: &Fields<'_>, field: Field) -> Result<Option<u64>, Refusal> {
    let Some(raw) = fields.raw(field) else { return Ok(None) };
    let id = text(raw).and_then(|text| parse_id(&text));
    id.map(Some).ok_or_else(|| check::wrong_id(field.name()))
}

fn seq(fields: &Fields<'_>, field: Field) -> Result<Seq, Refusal> {
    let raw = fields.raw(field).ok_or_else(|| required(field))?;
    raw.parse().map_err(|_| check::wrong_seq(field.name()))
}

/// Any number will do: what is out of range is clamped, not refused.
fn limit(fields: &Fields<'_>) -> Result<u32, Refusal> {
    let Some(raw) = fields.raw(Field::Limit) else { return Ok(PAGE_EVENTS_MAX) };
    let number: f64 =
        serde_json::from_str(raw).map_err(|_| Refusal::field("limit", "limit must be a number, 1 to 200"))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    Ok(number.clamp(1.0, f64::from(PAGE_EVENTS_MAX)) as u32)
}

fn required_text<'a>(fields: &Fields<'a>, field: Field) -> Result<Cow<'a, str>, Refusal> {
    optional_text(fields, field)?.ok_or_else(|| required(field))
}

fn optional_text<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(raw) = fields.raw(field) else { return Ok(None) };
    let text = text(raw);
    text.map(Some).ok_or_else(|| Refusal::field(field.name(), format!("{} must be a string", field.name())))
}

/// A value that goes by a name; the default one when the field is absent.
fn named<T: Default + for<'de> Deserialize<'de>>(fields: &Fields<'_>, field: Field) -> Result<T, Refusal> {
    let Some(raw) = fields.raw(field) else { return Ok(T::default()) };
    serde_json::from_str(raw).map_err(|_| {
        let names = match field {
            Field::Encoding => "utf8 or opaque",
            _ => "text, image, video or file",
        };
        Refusal::field(field.name(), format!("{} must be {names}", field.name()))
    })
}

/// The string that a raw value is, borrowed when nothing in it is escaped; `None` for any other value, and for an
/// escape that is half of a surrogate pair.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn cursors(fields: &Fields<'_>) -> Result<Vec<(ConversationId, Seq)>, Refusal> {
    let Some(raw) = fields.raw(Field::Cursors) else { return Ok(Vec::new()) };
    let cursors: Cursors = serde_json::from_str(raw).map_err(|_| check::wrong_cursors())?;
    Ok(cursors.0)
}

fn users(fields: &Fields<'_>) -> Result<Vec<UserId>, Refusal> {
    let raw = fields.raw(Field::UserIds).ok_or_else(|| required(Field::UserIds))?;
    let users: Users = serde_json::from_str(raw).map_err(|_| check::wrong_users())?;
    Ok(users.0)
}

struct Users(Vec<UserId>);

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UsersVisitor;
        impl<'de> Visitor<'de> for UsersVisitor {
            type Value = Users;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of user ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Users, A::Error> {
                let mut users = Vec::new();
                while let Some(user) = seq.next_element()? {
                    // One more than allowed is enough to be refused by.
                    if users.len() <= PRESENCE_IDS_MAX {
                        users.push(user);
                    }
                }
                Ok(Users(users))
            }
        }
        deserializer.deserialize_seq(UsersVisitor)
    }
}

struct Cursors(Vec<(ConversationId, Seq)>);

impl<'de> Deserialize<'de> for Cursors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CursorsVisitor;
        impl<'de> Visitor<'de> for CursorsVisitor {
            type Value = Cursors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of conversation ids and seqs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cursors, A::Error> {
                let mut cursors = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    // One more than allowed is enough to be refused by.
                    if cursors.len() <= CURSORS_MAX {
                        cursors.push(entry);
                    }
                }
                Ok(Cursors(cursors))
            }
        }
        deserializer.deserialize_map(CursorsVisitor)
    }
}
