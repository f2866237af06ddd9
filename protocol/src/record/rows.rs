//! The small rows beside the events.

use super::codec::{Reader, put_option, put_varint};
use super::{ConversationType, History, Role, VERSION};
use crate::ids::{MessageId, Seq, UserId};
use crate::time::WallMs;

/// `c/conv`: what a conversation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationRow {
    /// Its type.
    pub conversation_type: ConversationType,
    /// What members added later may see.
    pub history: History,
    /// When it began.
    pub created_at: WallMs,
    /// Who began it.
    pub created_by: UserId,
    /// Its name, for groups.
    pub group_name: Option<String>,
}

impl ConversationRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.conversation_type as u8, self.history as u8];
        put_varint(&mut out, self.created_at.0);
        put_varint(&mut out, self.created_by.0);
        put_option(&mut out, self.group_name.as_deref());
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<ConversationRow> {
        let mut reader = Reader::versioned(bytes)?;
        let row = ConversationRow {
            conversation_type: ConversationType::from_number(reader.byte()?)?,
            history: History::from_number(reader.byte()?)?,
            created_at: WallMs(reader.varint()?),
            created_by: UserId(reader.varint()?),
            group_name: reader.option()?.map(str::to_owned),
        };
        reader.end(row)
    }
}

/// `h/conv`: where a conversation's log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadRow {
    /// The last seq.
    pub seq: Seq,
    /// How many of the events are messages.
    pub message_index: u64,
    /// The last event's id; the next one is larger.
    pub last_id: MessageId,
    /// Rises whenever the member list changes, so that a cached list can be checked.
    pub members_version: u64,
    /// How many members there are.
    pub members_count: u64,
}

impl HeadRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.push(VERSION);
        for number in [self.seq, self.message_index, self.last_id.0, self.members_version, self.members_count]
        {
            put_varint(&mut out, number);
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<HeadRow> {
        let mut reader = Reader::versioned(bytes)?;
        let row = HeadRow {
            seq: reader.varint()?,
            message_index: reader.varint()?,
            last_id: MessageId(reader.varint()?),
            members_version: reader.varint()?,
            members_count: reader.varint()?,
        };
        reader.end(row)
    }
}

/// `m/conv/user`: one membership and its watermarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberRow {
    /// The first seq the member may see.
    pub from: Seq,
    /// The last seq a former member may see; 0 while they are one.
    pub to: Seq,
    /// What they may do.
    pub role: Role,
    /// Read up to here.
    pub read_seq: Seq,
    /// Message index at `read_seq`: unread = head's index − this − `own_since_read`.
    pub read_index: u64,
    /// Messages of their own above `read_seq`.
    pub own_since_read: u64,
    /// Delivered up to here, on whichever of their devices is furthest.
    pub delivered_seq: Seq,
}

impl MemberRow {
    /// Whether the user is a member now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.to == 0
    }

    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.push(VERSION);
        out.push(self.role as u8);
        let numbers =
            [self.from, self.to, self.read_seq, self.read_index, self.own_since_read, self.delivered_seq];
        for number in numbers {
            put_varint(&mut out, number);
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<MemberRow> {
        let mut reader = Reader::versioned(bytes)?;
        let row = MemberRow {
            role: Role::from_number(reader.byte()?)?,
            from: reader.varint()?,
            to: reader.varint()?,
            read_seq: reader.varint()?,
            read_index: reader.varint()?,
            own_since_read: reader.varint()?,
            delivered_seq: reader.varint()?,
        };
        reader.end(row)
    }
}

/// `i/gen/conv/hash`: the answer to every further attempt with the same `client_msg_id` (G2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// The seq that the first attempt got; the conversation id where a creation is remembered.
    pub seq: u64,
    /// Hash of what the client gave, to tell a retry from a conflict.
    pub payload_hash: [u8; 16],
}

impl IdempotencyRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(22);
        out.push(VERSION);
        out.extend_from_slice(&self.payload_hash);
        put_varint(&mut out, self.seq);
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<IdempotencyRow> {
        let mut reader = Reader::versioned(bytes)?;
        let row = IdempotencyRow { payload_hash: reader.array()?, seq: reader.varint()? };
        reader.end(row)
    }
}

/// `u/user`: a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Unique name.
    pub username: String,
    /// When the user was first seen or created.
    pub created_at: WallMs,
    /// When they last went offline, if ever.
    pub last_seen_at: Option<WallMs>,
}

impl UserRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.created_at.0);
        put_varint(&mut out, self.last_seen_at.map_or(0, |at| at.0));
        put_option(&mut out, Some(&self.username));
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<UserRow> {
        let mut reader = Reader::versioned(bytes)?;
        let row = UserRow {
            created_at: WallMs(reader.varint()?),
            last_seen_at: Some(reader.varint()?).filter(|at| *at != 0).map(WallMs),
            username: reader.option()??.to_owned(),
        };
        reader.end(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_store() {
        let conversation = ConversationRow {
            conversation_type: ConversationType::Group,
            history: History::All,
            created_at: WallMs(1_700_000_000_000),
            created_by: UserId(1),
            group_name: Some("five".into()),
        };
        assert_eq!(ConversationRow::decode(&conversation.encode()), Some(conversation));
        let head = HeadRow {
            seq: 9,
            message_index: 8,
            last_id: MessageId(u64::MAX),
            members_version: 1,
            members_count: 5,
        };
        assert_eq!(HeadRow::decode(&head.encode()), Some(head));
        let member = MemberRow {
            from: 1,
            to: 0,
            role: Role::Owner,
            read_seq: 4,
            read_index: 3,
            own_since_read: 1,
            delivered_seq: 6,
        };
        assert_eq!(MemberRow::decode(&member.encode()), Some(member));
        let idempotency = IdempotencyRow { seq: 300, payload_hash: [7; 16] };
        assert_eq!(IdempotencyRow::decode(&idempotency.encode()), Some(idempotency));
        let user = UserRow { username: "alice".into(), created_at: WallMs(1), last_seen_at: None };
        assert_eq!(UserRow::decode(&user.encode()), Some(user));
        assert_eq!(HeadRow::decode(&[2, 0, 0, 0, 0, 0]), None, "another version");
    }
}
