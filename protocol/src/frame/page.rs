//! Reading a log: pages of stored events, and what stands beside them.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{ConversationId, Seq, UserId};

/// Up: events of one conversation, for one member.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Read {
    /// The session; 0 for REST.
    pub session: u64,
    /// Echoed.
    pub request: u64,
    /// Who reads.
    pub user: UserId,
    /// What.
    pub conversation: ConversationId,
    /// First seq wanted, inclusive.
    pub from_seq: Seq,
    /// Last seq wanted, inclusive; `u64::MAX` for "to the head".
    pub to_seq: Seq,
    /// At most [`crate::limits::PAGE_EVENTS_MAX`].
    pub limit: u32,
    /// Whether to begin at the end and go down.
    pub newest_first: bool,
    /// Whether only messages are wanted (history), not other events.
    pub messages_only: bool,
}

/// How often an emoji stands under a message.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct ReactionCount {
    /// Which.
    pub emoji: String,
    /// How often.
    pub count: u64,
    /// Whether the one who reads put one of them there.
    pub mine: bool,
}

/// The reactions under one message of a page.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Reacted {
    /// The message's seq.
    pub seq: Seq,
    /// At least one.
    pub reactions: Vec<ReactionCount>,
}

/// How many members of a large group got so far.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Counts {
    /// The seq that is counted at.
    pub seq: Seq,
    /// Members, without the one who asks, to whom everything up to `seq` was delivered.
    pub delivered_count: u64,
    /// Members, without the one who asks, who read everything up to `seq`.
    pub read_count: u64,
}

/// An event in a page.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Entry {
    /// Its seq.
    pub seq: Seq,
    /// The stored event.
    pub record: Vec<u8>,
}

/// A member's watermarks.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Mark {
    /// Whose.
    pub user: UserId,
    /// Delivered up to here.
    pub delivered_seq: Seq,
    /// Read up to here.
    pub read_seq: Seq,
}

/// Down: the answer to [`Read`], in one frame. Ends at [`crate::limits::PAGE_BYTES_MAX`] bytes or with one event.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Page {
    /// From [`Read`].
    pub session: u64,
    /// From [`Read`].
    pub request: u64,
    /// The conversation.
    pub conversation: ConversationId,
    /// The first seq that this member may see.
    pub first_seq: Seq,
    /// The last seq that this member may see, when the page was read.
    pub head_seq: Seq,
    /// As in [`Standing`](super::Standing).
    pub fanned_out_seq: Seq,
    /// In the order asked for.
    pub entries: Vec<Entry>,
    /// Whether more lie in the direction asked for.
    pub has_more: bool,
    /// Watermarks of the other members, in groups up to
    /// [`SMALL_GROUP_MEMBERS_MAX`](crate::limits::SMALL_GROUP_MEMBERS_MAX); empty above.
    pub marks: Vec<Mark>,
    /// In larger groups, at the reader's own highest message of the page; all 0 when there is none on it.
    pub counts: Option<Counts>,
    /// Reactions under the messages of this page, ascending by seq; messages without any are left out.
    pub reacted: Vec<Reacted>,
}
