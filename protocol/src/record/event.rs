//! An event of a conversation's log, as it is stored under `e/conv/seq` and as it travels in `Deliver` and `Page`.
//! The conversation and the seq are in the key, not in the value.

use std::borrow::Cow;

use super::codec::{Reader, put_bytes, put_option, put_varint};
use super::{ConversationType, Encoding, History, MessageType, VERSION};
use crate::ids::{CLIENT_MSG_ID_BYTES_MAX, MessageId, UserId};

/// One durable event, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's id; its time bits are `created_at`.
    pub id: MessageId,
    /// Who did it.
    pub sender: UserId,
    /// What the sender called it; empty when the event has none.
    pub client_msg_id: Cow<'a, str>,
    /// What happened.
    pub body: Body<'a>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A message was sent.
    Message(Message<'a>),
    /// The conversation began; always seq 1.
    Created {
        /// Its type.
        conversation_type: ConversationType,
        /// Its name, for groups.
        group_name: Option<&'a str>,
        /// What members added later may see.
        history: History,
        /// The first members, the creator among them.
        members: Vec<UserId>,
    },
}

/// The content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Message<'a> {
    /// Its type.
    pub message_type: MessageType,
    /// How its content is to be read.
    pub encoding: Encoding,
    /// The text, or base64.
    pub content: &'a str,
    /// Where its media lie.
    pub media_url: Option<&'a str>,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
}

const KIND_MESSAGE: u8 = 1;
const KIND_CREATED: u8 = 3;

impl<'a> Event<'a> {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.body_bytes_hint());
        out.push(VERSION);
        out.push(match self.body {
            Body::Message(_) => KIND_MESSAGE,
            Body::Created { .. } => KIND_CREATED,
        });
        out.extend_from_slice(&self.id.0.to_le_bytes());
        put_varint(&mut out, self.sender.0);
        put_client_msg_id(&mut out, &self.client_msg_id);
        match &self.body {
            Body::Message(message) => put_message(&mut out, message),
            Body::Created { conversation_type, group_name, history, members } => {
                out.push(*conversation_type as u8);
                out.push(*history as u8);
                put_option(&mut out, *group_name);
                put_varint(&mut out, members.len() as u64);
                for member in members {
                    put_varint(&mut out, member.0);
                }
            }
        }
        out
    }

    /// Reads stored bytes; `None` when they are not an event of a version and kind that this build knows.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Event<'a>> {
        let mut reader = Reader::versioned(bytes)?;
        let kind = reader.byte()?;
        let id = MessageId(reader.u64_le()?);
        let sender = UserId(reader.varint()?);
        let client_msg_id = read_client_msg_id(&mut reader)?;
        let body = match kind {
            KIND_MESSAGE => Body::Message(read_message(&mut reader)?),
            KIND_CREATED => {
                let conversation_type = ConversationType::from_number(reader.byte()?)?;
                let history = History::from_number(reader.byte()?)?;
                let group_name = reader.option()?;
                let members_count = reader.count(1)?;
                let mut members = Vec::with_capacity(members_count);
                for _ in 0..members_count {
                    members.push(UserId(reader.varint()?));
                }
                Body::Created { conversation_type, group_name, history, members }
            }
            _ => return None,
        };
        reader.end(Event { id, sender, client_msg_id, body })
    }

    /// The sender of stored bytes, without reading the rest.
    #[must_use]
    pub fn decode_sender(bytes: &[u8]) -> Option<(MessageId, UserId, bool)> {
        let mut reader = Reader::versioned(bytes)?;
        let kind = reader.byte()?;
        let id = MessageId(reader.u64_le()?);
        Some((id, UserId(reader.varint()?), kind == KIND_MESSAGE))
    }

    fn body_bytes_hint(&self) -> usize {
        match &self.body {
            Body::Message(message) => message.content.len() + message.media_url.map_or(0, str::len),
            Body::Created { members, .. } => members.len() * 9,
        }
    }
}

impl Message<'_> {
    /// The bytes that two attempts with one `client_msg_id` have to share: every field a client gives, after defaults
    /// are filled in (G2).
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.content.len());
        put_message(&mut out, self);
        out
    }
}

/// Marks a `client_msg_id` that was a UUID in its canonical lower-case form: sixteen bytes instead of thirty-six.
const PACKED_UUID: u8 = 0x80;

fn put_client_msg_id(out: &mut Vec<u8>, client_msg_id: &str) {
    if let Some(packed) = pack_uuid(client_msg_id) {
        out.push(PACKED_UUID);
        out.extend_from_slice(&packed);
    } else {
        // At most CLIENT_MSG_ID_BYTES_MAX (64), so the length never looks like the mark.
        out.push(u8::try_from(client_msg_id.len()).unwrap_or(0));
        out.extend_from_slice(client_msg_id.as_bytes());
    }
}

fn read_client_msg_id<'a>(reader: &mut Reader<'a>) -> Option<Cow<'a, str>> {
    match reader.byte()? {
        PACKED_UUID => Some(Cow::Owned(unpack_uuid(&reader.array()?))),
        length if usize::from(length) <= CLIENT_MSG_ID_BYTES_MAX => {
            std::str::from_utf8(reader.take(u64::from(length))?).ok().map(Cow::Borrowed)
        }
        _ => None,
    }
}

/// Where the hyphens of a UUID stand (RFC 9562 section 4).
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn pack_uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut packed = [0_u8; 16];
    let mut digits_count = 0;
    for (index, byte) in text.bytes().enumerate() {
        let digit = match byte {
            b'-' if HYPHENS.contains(&index) => continue,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        let slot = packed.get_mut(digits_count / 2)?;
        *slot = *slot << 4 | digit;
        digits_count += 1;
    }
    (digits_count == 32).then_some(packed)
}

fn unpack_uuid(packed: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in packed.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

fn put_message(out: &mut Vec<u8>, message: &Message<'_>) {
    out.push(message.message_type as u8 | (message.encoding as u8) << 4);
    put_varint(out, message.reply_to.map_or(0, |id| id.0));
    put_option(out, message.media_url);
    put_bytes(out, message.content.as_bytes());
}

fn read_message<'a>(reader: &mut Reader<'a>) -> Option<Message<'a>> {
    let kinds = reader.byte()?;
    let message_type = MessageType::from_number(kinds & 0x0f)?;
    let encoding = Encoding::from_number(kinds >> 4)?;
    let reply_to = Some(reader.varint()?).filter(|id| *id != 0).map(MessageId);
    let media_url = reader.option()?;
    let content = reader.text()?;
    Some(Message { message_type, encoding, content, media_url, reply_to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(client_msg_id: &str) -> Event<'_> {
        Event {
            id: MessageId(77 << 22),
            sender: UserId(42),
            client_msg_id: Cow::Borrowed(client_msg_id),
            body: Body::Message(Message {
                content: "hé",
                reply_to: Some(MessageId(9)),
                ..Message::default()
            }),
        }
    }

    #[test]
    fn events_survive_the_store() {
        let long = "x".repeat(64);
        let uuids = ["0190163d-8694-739b-aea5-966c26f8ad91", "0190163D-8694-739b-aea5-966c26f8ad91"];
        for client_msg_id in ["", "a", &long, uuids[0], uuids[1], "0190163d-8694-739b-aea5-966c26f8ad9-"] {
            let event = message(client_msg_id);
            let bytes = event.encode();
            assert_eq!(Event::decode(&bytes), Some(event.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(Event::decode(&bytes[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(message(uuids[0]).encode().len() + 20, message(uuids[1]).encode().len());
    }

    #[test]
    fn a_created_event_names_its_members() {
        let event = Event {
            id: MessageId(1),
            sender: UserId(1),
            client_msg_id: Cow::Borrowed(""),
            body: Body::Created {
                conversation_type: ConversationType::Group,
                group_name: Some("five"),
                history: History::All,
                members: (1..=5).map(UserId).collect(),
            },
        };
        assert_eq!(Event::decode(&event.encode()), Some(event.clone()));
    }
}
