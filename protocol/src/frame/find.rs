//! Look-ups that REST makes.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Entry, Mark};
use crate::ids::{ConversationId, Seq, UserId};

/// Up: a look-up for REST. Answered by [`Found`] or [`Refused`](super::Refused).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Find {
    /// Echoed.
    pub request: u64,
    /// Who asks.
    pub user: UserId,
    /// What for.
    pub what: Wanted,
}

/// What a [`Find`] looks for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Wanted {
    /// The user's conversations, latest activity first.
    Conversations {
        /// Only those whose (last id, conversation) is below this; (`u64::MAX`, `u64::MAX`) for the first page.
        below: (u64, u64),
        /// At most [`crate::limits::PAGE_EVENTS_MAX`].
        limit: u32,
    },
    /// One conversation of the user's.
    Conversation(ConversationId),
    /// A user by id.
    User(UserId),
    /// A user by name.
    Username(String),
}

/// Down: what was found; a conversation or user that is not there is a [`Refused`](super::Refused) instead.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Found {
    /// From [`Find`].
    pub request: u64,
    /// Conversations, in the order asked for.
    pub conversations: Vec<ConversationView>,
    /// Users.
    pub users: Vec<UserView>,
    /// Whether more follow.
    pub more: bool,
}

/// A conversation as one member sees it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct ConversationView {
    /// Which.
    pub conversation: ConversationId,
    /// [`crate::record::ConversationType`] as a number.
    pub conversation_type: u8,
    /// [`crate::record::History`] as a number.
    pub history: u8,
    /// For groups.
    pub group_name: Option<String>,
    /// At most [`crate::limits::SMALL_GROUP_MEMBERS_MAX`] of them, ascending.
    pub member_ids: Vec<UserId>,
    /// How many members there are.
    pub members_count: u64,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Who began it.
    pub created_by: UserId,
    /// Last seq that the member may see.
    pub head_seq: Seq,
    /// Read by the member up to here.
    pub read_seq: Seq,
    /// Others' messages above that.
    pub unread_count: u64,
    /// The last event's id: what the list is sorted by.
    pub last_id: u64,
    /// The last message that the member may see, if any.
    pub last_message: Option<Entry>,
    /// Watermarks of the other members in a small group: what `last_message`'s status is derived from.
    pub marks: Vec<Mark>,
}

/// A user as others see them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct UserView {
    /// Who.
    pub user: UserId,
    /// Their name.
    pub username: String,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Unix milliseconds; 0: never, or not for the one who asks.
    pub last_seen_at_ms: u64,
}
