//! An event of a conversation's log, as it is stored under `e/conv/seq` and as it travels in `Deliver` and `Page`.
//! The conversation and the seq are in the key, not in the value.

use std::borrow::Cow;

use super::codec::{Reader, put_bytes, put_option, put_varint};
use super::{ConversationType, Encoding, History, MessageType, Role, VERSION};
use crate::ids::{CLIENT_MSG_ID_BYTES_MAX, MessageId, Seq, UserId};

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
    /// What is left of a message that was deleted for everyone (FU5): its place, id, sender and type. It stands where
    /// the message stood; id and sender are the message's.
    Tombstone {
        /// The message's.
        message_type: MessageType,
        /// The `Deleted` event that made it so.
        deleted_seq: Seq,
    },
    /// The group has another name.
    Renamed {
        /// The new one.
        group_name: Option<&'a str>,
    },
    /// Members joined; they see the log from this event on, or all of it.
    MembersAdded {
        /// Who, ascending.
        users: Vec<UserId>,
        /// Those of them who had been members before, ascending: what they hold ends before this event.
        returning: Vec<UserId>,
        /// The conversation's, so that whoever hands the event on need not look it up.
        history: History,
    },
    /// A member left or was removed; this is the last event they see.
    MemberRemoved {
        /// Who.
        user: UserId,
        /// Who became the owner by it, when the owner left.
        heir: Option<UserId>,
    },
    /// A member may do more, or less.
    RoleChanged {
        /// Who.
        user: UserId,
        /// From now on.
        role: Role,
    },
    /// A message was deleted for everyone.
    Deleted {
        /// Where the tombstone stands.
        target_seq: Seq,
        /// The message.
        message: MessageId,
    },
    /// Somebody reacted.
    ReactionAdded {
        /// To the message there.
        target_seq: Seq,
        /// The message.
        message: MessageId,
        /// At most [`crate::limits::EMOJI_BYTES_MAX`] bytes.
        emoji: &'a str,
    },
    /// Somebody took a reaction back.
    ReactionRemoved {
        /// From the message there.
        target_seq: Seq,
        /// The message.
        message: MessageId,
        /// Which.
        emoji: &'a str,
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
const KIND_TOMBSTONE: u8 = 2;
const KIND_CREATED: u8 = 3;
const KIND_RENAMED: u8 = 4;
const KIND_MEMBERS_ADDED: u8 = 5;
const KIND_MEMBER_REMOVED: u8 = 6;
const KIND_DELETED: u8 = 7;
const KIND_REACTION_ADDED: u8 = 8;
const KIND_REACTION_REMOVED: u8 = 9;
const KIND_ROLE_CHANGED: u8 = 10;

impl<'a> Event<'a> {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.body_bytes_hint());
        out.push(VERSION);
        out.push(self.body.kind());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        put_varint(&mut out, self.sender.0);
        put_client_msg_id(&mut out, &self.client_msg_id);
        self.body.put(&mut out);
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
        let body = Body::read(kind, &mut reader)?;
        reader.end(Event { id, sender, client_msg_id, body })
    }

    /// Id and sender of stored bytes, without reading the rest, and whether they are a message or what is left of one:
    /// both count in the message index, so that a deletion moves nobody's position.
    #[must_use]
    pub fn decode_sender(bytes: &[u8]) -> Option<(MessageId, UserId, bool)> {
        let mut reader = Reader::versioned(bytes)?;
        let kind = reader.byte()?;
        let id = MessageId(reader.u64_le()?);
        Some((id, UserId(reader.varint()?), matches!(kind, KIND_MESSAGE | KIND_TOMBSTONE)))
    }

    fn body_bytes_hint(&self) -> usize {
        match &self.body {
            Body::Message(message) => message.content.len() + message.media_url.map_or(0, str::len),
            Body::Created { members, .. } => members.len() * 9,
            Body::MembersAdded { users, returning, .. } => (users.len() + returning.len()) * 9,
            _ => 32,
        }
    }
}

impl<'a> Body<'a> {
    const fn kind(&self) -> u8 {
        match self {
            Body::Message(_) => KIND_MESSAGE,
            Body::Created { .. } => KIND_CREATED,
            Body::Tombstone { .. } => KIND_TOMBSTONE,
            Body::Renamed { .. } => KIND_RENAMED,
            Body::MembersAdded { .. } => KIND_MEMBERS_ADDED,
            Body::MemberRemoved { .. } => KIND_MEMBER_REMOVED,
            Body::RoleChanged { .. } => KIND_ROLE_CHANGED,
            Body::Deleted { .. } => KIND_DELETED,
            Body::ReactionAdded { .. } => KIND_REACTION_ADDED,
            Body::ReactionRemoved { .. } => KIND_REACTION_REMOVED,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Body::Message(message) => put_message(out, message),
            Body::Created { conversation_type, group_name, history, members } => {
                out.push(*conversation_type as u8);
                out.push(*history as u8);
                put_option(out, *group_name);
                put_users(out, members);
            }
            Body::Tombstone { message_type, deleted_seq } => {
                out.push(*message_type as u8);
                put_varint(out, *deleted_seq);
            }
            Body::Renamed { group_name } => put_option(out, *group_name),
            Body::MembersAdded { users, returning, history } => {
                out.push(*history as u8);
                put_users(out, users);
                put_users(out, returning);
            }
            Body::MemberRemoved { user, heir } => {
                put_varint(out, user.0);
                put_varint(out, heir.map_or(0, |heir| heir.0));
            }
            Body::RoleChanged { user, role } => {
                put_varint(out, user.0);
                out.push(*role as u8);
            }
            Body::Deleted { target_seq, message } => {
                put_varint(out, *target_seq);
                put_varint(out, message.0);
            }
            Body::ReactionAdded { target_seq, message, emoji }
            | Body::ReactionRemoved { target_seq, message, emoji } => {
                put_varint(out, *target_seq);
                put_varint(out, message.0);
                put_bytes(out, emoji.as_bytes());
            }
        }
    }

    fn read(kind: u8, reader: &mut Reader<'a>) -> Option<Body<'a>> {
        Some(match kind {
            KIND_MESSAGE => Body::Message(read_message(reader)?),
            KIND_CREATED => Body::Created {
                conversation_type: ConversationType::from_number(reader.byte()?)?,
                history: History::from_number(reader.byte()?)?,
                group_name: reader.option()?,
                members: read_users(reader)?,
            },
            KIND_TOMBSTONE => Body::Tombstone {
                message_type: MessageType::from_number(reader.byte()?)?,
                deleted_seq: reader.varint()?,
            },
            KIND_RENAMED => Body::Renamed { group_name: reader.option()? },
            KIND_MEMBERS_ADDED => Body::MembersAdded {
                history: History::from_number(reader.byte()?)?,
                users: read_users(reader)?,
                returning: read_users(reader)?,
            },
            KIND_MEMBER_REMOVED => Body::MemberRemoved {
                user: UserId(reader.varint()?),
                heir: Some(reader.varint()?).filter(|heir| *heir != 0).map(UserId),
            },
            KIND_ROLE_CHANGED => {
                Body::RoleChanged { user: UserId(reader.varint()?), role: Role::from_number(reader.byte()?)? }
            }
            KIND_DELETED => {
                Body::Deleted { target_seq: reader.varint()?, message: MessageId(reader.varint()?) }
            }
            KIND_REACTION_ADDED => Body::ReactionAdded {
                target_seq: reader.varint()?,
                message: MessageId(reader.varint()?),
                emoji: reader.text()?,
            },
            KIND_REACTION_REMOVED => Body::ReactionRemoved {
                target_seq: reader.varint()?,
                message: MessageId(reader.varint()?),
                emoji: reader.text()?,
            },
            _ => return None,
        })
    }
}

fn put_users(out: &mut Vec<u8>, users: &[UserId]) {
    put_varint(out, users.len() as u64);
    for user in users {
        put_varint(out, user.0);
    }
}

fn read_users(reader: &mut Reader<'_>) -> Option<Vec<UserId>> {
    let count = reader.count(1)?;
    let mut users = Vec::with_capacity(count);
    for _ in 0..count {
        users.push(UserId(reader.varint()?));
    }
    Some(users)
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
    fn every_kind_survives_the_store() {
        let (target_seq, message) = (300, MessageId(77 << 22));
        let bodies = [
            Body::Created {
                conversation_type: ConversationType::Group,
                group_name: Some("five"),
                history: History::All,
                members: (1..=5).map(UserId).collect(),
            },
            Body::Tombstone { message_type: MessageType::Image, deleted_seq: 9 },
            Body::Renamed { group_name: Some("six") },
            Body::MembersAdded {
                users: (6..=8).map(UserId).collect(),
                returning: vec![UserId(7)],
                history: History::FromJoin,
            },
            Body::MemberRemoved { user: UserId(6), heir: None },
            Body::MemberRemoved { user: UserId(1), heir: Some(UserId(2)) },
            Body::RoleChanged { user: UserId(2), role: Role::Admin },
            Body::Deleted { target_seq, message },
            Body::ReactionAdded { target_seq, message, emoji: "\u{1f44d}" },
            Body::ReactionRemoved { target_seq, message, emoji: "\u{1f44d}" },
        ];
        for body in bodies {
            let event =
                Event { id: MessageId(1), sender: UserId(1), client_msg_id: Cow::Borrowed("c"), body };
            let bytes = event.encode();
            assert_eq!(Event::decode(&bytes), Some(event.clone()));
            let counts = matches!(event.body, Body::Tombstone { .. });
            assert_eq!(Event::decode_sender(&bytes), Some((event.id, event.sender, counts)));
            for cut in 0..bytes.len() {
                assert_eq!(Event::decode(&bytes[..cut]), None, "{event:?} cut at {cut}");
            }
        }
    }
}
