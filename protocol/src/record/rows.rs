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
    /// The event that gave it this name: 1, or the last renaming.
    pub named_seq: Seq,
}

impl ConversationRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.conversation_type as u8, self.history as u8];
        put_varint(&mut out, self.created_at.0);
        put_varint(&mut out, self.created_by.0);
        put_option(&mut out, self.group_name.as_deref());
        // Rows of conversations that were never renamed have the form they always had.
        if self.named_seq > 1 {
            put_varint(&mut out, self.named_seq);
        }
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
            named_seq: if reader.is_empty() { 1 } else { reader.varint()? },
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
    /// The highest seq of a message that was deleted; 0: none was. Who has read up to there needs no look at the
    /// deleted ones to count what is unread.
    pub deleted_seq: Seq,
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
        if self.deleted_seq > 0 {
            put_varint(&mut out, self.deleted_seq);
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
            deleted_seq: if reader.is_empty() { 0 } else { reader.varint()? },
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
    /// The last event that changed their role after they joined; 0: none did.
    pub role_seq: Seq,
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
        if self.role_seq > 0 {
            put_varint(&mut out, self.role_seq);
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
            role_seq: if reader.is_empty() { 0 } else { reader.varint()? },
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

/// `u/user/c/conv`: a conversation of a user's, current or left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserConversationRow {
    /// The first seq the user may see.
    pub first_seq: Seq,
    /// The last one, for a conversation they left; 0 while they are a member.
    pub left_seq: Seq,
    /// Whether they had been a member before this membership: what their devices hold ends before it.
    pub is_returning: bool,
}

impl UserConversationRow {
    /// The stored bytes. A first membership is only its first seq.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.first_seq);
        if self.left_seq > 0 || self.is_returning {
            put_varint(&mut out, self.left_seq);
            out.push(u8::from(self.is_returning));
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<UserConversationRow> {
        let mut reader = Reader::versioned(bytes)?;
        let mut row = UserConversationRow { first_seq: reader.varint()?, ..Self::default() };
        if !reader.is_empty() {
            row.left_seq = reader.varint()?;
            row.is_returning = reader.byte()? != 0;
        }
        reader.end(row)
    }
}

/// `v/user/device`: a device of a user's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRow {
    /// When it was last connected, or asked something; none before its first disconnect.
    pub last_seen_at: Option<WallMs>,
    /// Tokens issued up to then are refused; none when it was never revoked.
    pub revoked_at: Option<WallMs>,
    /// Where its notifications go: the platform's number and the token.
    pub push_token: Option<(u8, String)>,
}

impl DeviceRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.last_seen_at.map_or(0, |at| at.0));
        put_varint(&mut out, self.revoked_at.map_or(0, |at| at.0));
        if let Some((platform, token)) = &self.push_token {
            out.push(*platform);
            put_option(&mut out, Some(token));
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<DeviceRow> {
        let mut reader = Reader::versioned(bytes)?;
        let last_seen_at = Some(reader.varint()?).filter(|at| *at != 0).map(WallMs);
        let revoked_at = Some(reader.varint()?).filter(|at| *at != 0).map(WallMs);
        let push_token = match reader.is_empty() {
            true => None,
            false => Some((reader.byte()?, reader.option()??.to_owned())),
        };
        reader.end(DeviceRow { last_seen_at, revoked_at, push_token })
    }
}

/// `z/conv/target`: how often each emoji stands under a message, in the order of their first use. Who put it there is
/// in `r/conv/target/user/emoji`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReactionsRow {
    /// Emoji and count, at most [`crate::limits::MESSAGE_EMOJIS_MAX`]; no count is 0.
    pub counts: Vec<(String, u64)>,
}

impl ReactionsRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.counts.len() as u64);
        for (emoji, count) in &self.counts {
            put_option(&mut out, Some(emoji));
            put_varint(&mut out, *count);
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<ReactionsRow> {
        let mut reader = Reader::versioned(bytes)?;
        let mut counts = Vec::new();
        for _ in 0..reader.count(2)? {
            counts.push((reader.option()??.to_owned(), reader.varint()?));
        }
        reader.end(ReactionsRow { counts })
    }
}

/// `a/conv/n`: who sent how many of the messages of one stretch of a log, deleted ones too, so that a member who reads
/// far on costs a row for each stretch in between, and not an event each. Written by the first who needs it; the log
/// does not change, so it holds for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TallyRow {
    /// Sender and how many, ascending by sender; no count is 0.
    pub messages: Vec<(UserId, u64)>,
}

impl TallyRow {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.messages.len() as u64);
        for (sender, count) in &self.messages {
            put_varint(&mut out, sender.0);
            put_varint(&mut out, *count);
        }
        out
    }

    /// Reads stored bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<TallyRow> {
        let mut reader = Reader::versioned(bytes)?;
        let mut messages = Vec::new();
        for _ in 0..reader.count(2)? {
            messages.push((UserId(reader.varint()?), reader.varint()?));
        }
        reader.end(TallyRow { messages })
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
            named_seq: 1,
        };
        assert_eq!(ConversationRow::decode(&conversation.encode()), Some(conversation.clone()));
        let renamed = ConversationRow { named_seq: 300, ..conversation };
        assert_eq!(ConversationRow::decode(&renamed.encode()), Some(renamed));
        for (left_seq, is_returning) in [(0, false), (9, false), (0, true), (12, true)] {
            let row = UserConversationRow { first_seq: 7, left_seq, is_returning };
            assert_eq!(UserConversationRow::decode(&row.encode()), Some(row));
        }
        for push_token in [None, Some((2, "t".to_owned()))] {
            let row = DeviceRow { last_seen_at: Some(WallMs(5)), revoked_at: None, push_token };
            assert_eq!(DeviceRow::decode(&row.encode()), Some(row));
        }
        let reactions = ReactionsRow { counts: vec![("x".into(), 2), ("\u{1f44d}".into(), 300)] };
        assert_eq!(ReactionsRow::decode(&reactions.encode()), Some(reactions));
        let head = HeadRow {
            seq: 9,
            message_index: 8,
            last_id: MessageId(u64::MAX),
            members_version: 1,
            members_count: 5,
            deleted_seq: 0,
        };
        assert_eq!(HeadRow::decode(&head.encode()), Some(head));
        let shortened = HeadRow { deleted_seq: 7, ..head };
        assert_eq!(HeadRow::decode(&shortened.encode()), Some(shortened));
        let tally = TallyRow { messages: vec![(UserId(1), 1_023), (UserId(300), 1)] };
        assert_eq!(TallyRow::decode(&tally.encode()), Some(tally));
        let member = MemberRow {
            from: 1,
            to: 0,
            role: Role::Owner,
            read_seq: 4,
            read_index: 3,
            own_since_read: 1,
            delivered_seq: 6,
            role_seq: 0,
        };
        assert_eq!(MemberRow::decode(&member.encode()), Some(member));
        let promoted = MemberRow { role_seq: 8, ..member };
        assert_eq!(MemberRow::decode(&promoted.encode()), Some(promoted));
        let idempotency = IdempotencyRow { seq: 300, payload_hash: [7; 16] };
        assert_eq!(IdempotencyRow::decode(&idempotency.encode()), Some(idempotency));
        let user = UserRow { username: "alice".into(), created_at: WallMs(1), last_seen_at: None };
        assert_eq!(UserRow::decode(&user.encode()), Some(user));
        assert_eq!(HeadRow::decode(&[2, 0, 0, 0, 0, 0]), None, "another version");
    }
}
