//! What can be asked of a chat log: operations that change it, queries that read it, and their answers. The verbs
//! themselves are in [`crate::ops`] (changing) and [`crate::query`] (reading), each written once over
//! [`crate::txn`].

mod ask;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType, Role};
use carillon_protocol::time::WallMs;

pub use ask::{
    Answer, COUNTS_MAX, Counts, Device, Entry, Hearer, Joined, Mark, OPEN_EVENTS_MAX, OPEN_MEMBERS_MAX,
    Opened, Page, PageQuery, Profile, Query, ReactionCount, Reactors, Standing, Summary,
};

/// One life of a router process: the number that fences it (G15). Counts up from 1 in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

/// One operation of a batch. Decided inside the transaction: a refused or duplicate one takes no number and never fails
/// its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Append a message.
    Send(SendOp),
    /// Create a conversation.
    Create(CreateOp),
    /// Make a user known at their first log-in; a no-op for a known one.
    Provision {
        /// Who.
        user: UserId,
        /// The name they would like; `user-<id>` when empty or taken.
        name: String,
    },
    /// Create a user by name; refused when the name or the user is taken.
    CreateUser {
        /// A number drawn by the router when the caller named none.
        user: UserId,
        /// Unique.
        username: String,
    },
    /// Change the log of a conversation otherwise than by a message.
    Change(ChangeOp),
    /// Move a user's watermarks.
    Receipt(ReceiptOp),
    /// No notifications of a conversation for a member.
    Mute {
        /// Who.
        user: UserId,
        /// Which.
        conversation: ConversationId,
        /// Until then; `WallMs(u64::MAX)` for ever; `None`: not any longer.
        until: Option<WallMs>,
    },
    /// Another name for a user; refused when it is taken.
    Profile {
        /// Who.
        user: UserId,
        /// Unique.
        username: String,
    },
    /// A device was last connected at this time. Merged by maximum.
    Seen {
        /// Whose.
        user: UserId,
        /// Which.
        device: String,
        /// When.
        at: WallMs,
        /// Whether no device of the user is connected any more: then it is when the user was last seen, too.
        offline: bool,
    },
    /// Tokens of a device that were issued up to now are refused from now on.
    Revoke {
        /// Whose.
        user: UserId,
        /// Which.
        device: String,
    },
    /// Where notifications of a device go.
    PushToken {
        /// Whose.
        user: UserId,
        /// Which.
        device: String,
        /// The platform's number and the token; `None`: nowhere.
        token: Option<(u8, String)>,
    },
    /// The fan-out of a conversation is complete up to a seq: the durable marker is cleared, or moved on.
    FannedOut {
        /// Which.
        conversation: ConversationId,
        /// Handed on up to here.
        seq: Seq,
    },
}

/// A message to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendOp {
    /// Where.
    pub conversation: ConversationId,
    /// Who, from the token.
    pub sender: UserId,
    /// The idempotency key: 1–64 bytes.
    pub client_msg_id: String,
    /// Keys of later commands of the same sender in this conversation: when one of them is committed, this one, which is
    /// not, is refused (G9). Empty at the first attempt.
    pub said_after: Vec<String>,
    /// Its type.
    pub message_type: MessageType,
    /// How its content is to be read.
    pub encoding: Encoding,
    /// The text.
    pub content: String,
    /// Its media.
    pub media_url: Option<String>,
    /// The message it answers; refused unless it is a message of this conversation that the sender may see.
    pub reply_to: Option<MessageId>,
}

/// A conversation to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOp {
    /// The id that a new conversation gets, drawn until its slot belonged to the router.
    pub conversation: ConversationId,
    /// Who, from the token.
    pub creator: UserId,
    /// The idempotency key of a group; a pair is its own.
    pub client_msg_id: String,
    /// Its type.
    pub conversation_type: ConversationType,
    /// What members added later may see.
    pub history: History,
    /// For groups.
    pub group_name: Option<String>,
    /// The others, without repeats; the creator may be among them.
    pub members: Vec<UserId>,
}

/// A change of a conversation's log. Idempotent by `client_msg_id`, in one name space with messages (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeOp {
    /// Where.
    pub conversation: ConversationId,
    /// Who, from the token.
    pub by: UserId,
    /// The idempotency key: 1–64 bytes.
    pub client_msg_id: String,
    /// Keys of later commands of the same sender in this conversation: when one of them is committed, this one, which is
    /// not, is refused (G9). Empty at the first attempt.
    pub said_after: Vec<String>,
    /// How.
    pub change: Change,
}

/// How a log changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Any member, in groups: these join. Those who are members already stay as they are.
    AddMembers {
        /// Without repeats.
        users: Vec<UserId>,
    },
    /// Owner and admins remove others but the owner; anyone leaves. In groups.
    RemoveMember {
        /// Who.
        user: UserId,
    },
    /// Any member, in groups.
    Rename {
        /// The new name.
        group_name: String,
    },
    /// The owner, for others; in groups.
    SetRole {
        /// Who.
        user: UserId,
        /// Member or admin.
        role: Role,
    },
    /// Its sender: a tombstone takes the message's place.
    Delete {
        /// Which.
        message: MessageId,
    },
    /// Any member, to a message they may see.
    React {
        /// Which.
        message: MessageId,
        /// With what.
        emoji: String,
    },
    /// Who reacted takes it back.
    Unreact {
        /// From which.
        message: MessageId,
        /// Which.
        emoji: String,
    },
}

/// Watermarks to move. Merged by maximum, so it may be repeated and reordered (F16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptOp {
    /// Whose.
    pub user: UserId,
    /// On which device.
    pub device: String,
    /// Where.
    pub conversation: ConversationId,
    /// Delivered up to here; 0: unchanged.
    pub delivered_seq: Seq,
    /// Read up to here; 0: unchanged. Implies delivered.
    pub read_seq: Seq,
}

/// What became of an [`Op`], in the attempt that committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An event was appended, or had been by an earlier attempt.
    Appended(Appended),
    /// It was so already and nothing was appended: the event that made it so, `None` when there is none.
    Unchanged {
        /// Where.
        conversation: ConversationId,
        /// That event.
        seq: Option<Seq>,
        /// An earlier attempt with this `client_msg_id` found it so.
        duplicate: bool,
    },
    /// A row beside the logs (mute, seen, push token) is as it should be.
    Stored,
    /// A device is revoked.
    Revoked {
        /// Whose.
        user: UserId,
        /// Which.
        device: String,
        /// Tokens issued up to then are refused.
        at: WallMs,
    },
    /// The user is there.
    User {
        /// Who.
        user: UserId,
        /// Whether they were before.
        existed: bool,
    },
    /// Watermarks as they are now.
    Receipted(Receipted),
    /// The marker is where it should be.
    FannedOut,
    /// Definitely without effect.
    Refused(Refusal),
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where.
    pub conversation: ConversationId,
    /// Its place.
    pub seq: Seq,
    /// Its id.
    pub id: MessageId,
    /// An earlier attempt with this `client_msg_id` did it.
    pub duplicate: bool,
    /// The stored event; empty for a duplicate, which has nothing to fan out.
    pub record: Bytes,
    /// Of the conversation, after this event.
    pub members_version: u64,
}

/// A user's watermarks after a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipted {
    /// Whose.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// The user's delivered watermark before and after.
    pub delivered: (Seq, Seq),
    /// The user's read watermark before and after.
    pub read: (Seq, Seq),
    /// Others' visible messages above the read watermark, as in [`Summary::unread_count`].
    pub unread_count: u64,
    /// Whether the conversation has at most
    /// [`SMALL_GROUP_MEMBERS_MAX`](carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX) members.
    pub small: bool,
}
