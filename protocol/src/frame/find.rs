//! Look-ups that REST makes.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Counts, Entry, Mark, ReactionCount};
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
        /// Only those whose last id is below the first of the two, as the list stood at the second: events with a
        /// higher id do not count. (`u64::MAX`, `u64::MAX`) for the first page.
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
    /// The members of a conversation of the user's, ascending.
    Members {
        /// Which.
        conversation: ConversationId,
        /// Only those above this user.
        after: UserId,
        /// At most [`crate::limits::PAGE_EVENTS_MAX`].
        limit: u32,
    },
    /// How far the members of a conversation got.
    Receipts {
        /// Which.
        conversation: ConversationId,
        /// Where a large group is counted; 0: at the head.
        seq: Seq,
    },
    /// The user's own devices.
    Devices,
    /// Whether the user is known, and this device of theirs was revoked.
    Admission {
        /// Which.
        device: String,
    },
}

/// Down: what was found; a conversation or user that is not there is a [`Refused`](super::Refused) instead.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Found {
    /// From [`Find`].
    pub request: u64,
    /// What.
    pub findings: Findings,
}

/// What a [`Find`] found.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Findings {
    /// To [`Wanted::Conversations`] and [`Wanted::Conversation`].
    Conversations {
        /// In the order asked for.
        conversations: Vec<ConversationView>,
        /// Whether more follow.
        more: bool,
    },
    /// To [`Wanted::User`] and [`Wanted::Username`].
    User(UserView),
    /// To [`Wanted::Members`].
    Members {
        /// Ascending.
        members: Vec<MemberView>,
        /// Whether more follow.
        more: bool,
    },
    /// To [`Wanted::Receipts`], in small groups: every member but the one who asks.
    Marks(Vec<Mark>),
    /// To [`Wanted::Receipts`], in larger groups.
    Counts(Counts),
    /// To [`Wanted::Devices`].
    Devices(Vec<DeviceView>),
    /// To [`Wanted::Admission`].
    Admission {
        /// Whether there is such a user.
        known: bool,
        /// Tokens of the device issued up to then are refused, Unix milliseconds; 0: never revoked.
        revoked_at_ms: u64,
    },
}

/// A member of a conversation.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct MemberView {
    /// Who.
    pub user: UserId,
    /// [`crate::record::Role`] as a number.
    pub role: u8,
    /// The event by which they are one.
    pub joined_seq: Seq,
}

/// A device of one's own.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct DeviceView {
    /// Which.
    pub device: String,
    /// When it was last connected, Unix milliseconds: now for one that is.
    pub last_seen_at_ms: u64,
    /// Visible events of all conversations that it did not confirm.
    pub cursor_lag: u64,
}

/// Where notifications of a device go.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct PushTokenView {
    /// Which device.
    pub device: String,
    /// [`crate::record::Platform`] as a number.
    pub platform: u8,
    /// The token.
    pub token: String,
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
    /// The last event's id, as of when the list was begun: what it is sorted by.
    pub last_id: u64,
    /// The last message that the member may see, if any.
    pub last_message: Option<Entry>,
    /// Watermarks of the other members in a small group: what `last_message`'s status is derived from.
    pub marks: Vec<Mark>,
    /// Reactions under `last_message`.
    pub last_reactions: Vec<ReactionCount>,
    /// No notifications until then, Unix milliseconds; `u64::MAX` for ever; 0: not muted.
    pub muted_until_ms: u64,
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
    /// To oneself only.
    pub push_tokens: Vec<PushTokenView>,
}
