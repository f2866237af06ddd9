//! What can be asked of a chat log: operations that change it, queries that read it, and their answers. The verbs
//! themselves are in [`crate::ops`] (changing) and [`crate::query`] (reading), each written once over
//! [`crate::txn`].

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType};
use carillon_protocol::time::WallMs;

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
    /// Move a user's watermarks.
    Receipt(ReceiptOp),
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
    /// Whether the conversation has at most
    /// [`SMALL_GROUP_MEMBERS_MAX`](carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX) members.
    pub small: bool,
}

/// Something to read at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// What a connecting device needs: is the user known, and which conversations with which cursor?
    Session {
        /// Who.
        user: UserId,
        /// On which device.
        device: String,
    },
    /// Heads, without reading events.
    Peek {
        /// Who asks; what they may not see is left out.
        user: UserId,
        /// Of these.
        conversations: Vec<ConversationId>,
    },
    /// Events of one conversation for one member.
    Page(PageQuery),
    /// Events of one conversation for fan-out.
    Events {
        /// Which.
        conversation: ConversationId,
        /// Inclusive.
        from_seq: Seq,
        /// At most so many.
        limit: u32,
    },
    /// Who must hear a conversation.
    Members {
        /// Which.
        conversation: ConversationId,
    },
    /// The senders of messages in a range and the highest of each, but for one user's own.
    Senders {
        /// Which.
        conversation: ConversationId,
        /// Exclusive.
        after_seq: Seq,
        /// Inclusive. At most the last 1,000 events of the range are looked at.
        up_to_seq: Seq,
        /// Whose messages do not count.
        except: UserId,
    },
    /// The user's conversations, latest activity first.
    Conversations {
        /// Whose.
        user: UserId,
        /// Only those whose (last id, conversation) is below this.
        below: (u64, u64),
        /// At most so many.
        limit: u32,
    },
    /// One conversation of the user's.
    Conversation {
        /// Whose.
        user: UserId,
        /// Which.
        conversation: ConversationId,
    },
    /// A user by id.
    User {
        /// Who asks: last seen is for those who share a conversation.
        asker: UserId,
        /// Which.
        user: UserId,
    },
    /// A user by name.
    Username {
        /// Who asks.
        asker: UserId,
        /// Which.
        username: String,
    },
    /// The durable markers of conversations whose fan-out is not known to be complete, for a router that starts.
    Markers,
}

/// Which events a member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Who.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// First seq wanted, inclusive.
    pub from_seq: Seq,
    /// Last seq wanted, inclusive.
    pub to_seq: Seq,
    /// At most so many.
    pub limit: u32,
    /// Whether to begin at the end and go down.
    pub newest_first: bool,
    /// Whether only messages are wanted.
    pub messages_only: bool,
}

/// What a [`Query`] found, in the same order of variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Session`].
    Session {
        /// Whether there is a profile.
        known: bool,
        /// (conversation, cursor of this device; first visible − 1 where it has none).
        conversations: Vec<(ConversationId, Seq)>,
    },
    /// To [`Query::Peek`].
    Standings(Vec<Standing>),
    /// To [`Query::Page`].
    Page(Page),
    /// To [`Query::Events`].
    Events(Vec<Entry>),
    /// To [`Query::Members`].
    Members {
        /// Checked against [`Appended::members_version`].
        version: u64,
        /// Current members, ascending, with the first seq each may see.
        members: Vec<(UserId, Seq)>,
    },
    /// To [`Query::Senders`]: (sender, seq, id) of each one's highest message in the range.
    Senders(Vec<(UserId, Seq, MessageId)>),
    /// To [`Query::Conversations`] and [`Query::Conversation`].
    Conversations {
        /// In order.
        summaries: Vec<Summary>,
        /// Whether more follow.
        more: bool,
    },
    /// To [`Query::User`] and [`Query::Username`].
    User(Profile),
    /// To [`Query::Markers`]: (conversation, first seq not known to be fanned out).
    Markers(Vec<(ConversationId, Seq)>),
    /// Not there, or not for this user.
    Refused(Refusal),
}

/// Where a conversation stands for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub conversation: ConversationId,
    /// First visible seq.
    pub first_seq: Seq,
    /// Last visible seq.
    pub head_seq: Seq,
}

/// An event and its seq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// As stored.
    pub record: Bytes,
}

/// A page of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the conversation stood for this member when the page was read.
    pub standing: Standing,
    /// In the order asked for; ends at [`PAGE_BYTES_MAX`](carillon_protocol::limits::PAGE_BYTES_MAX) or with one event.
    pub entries: Vec<Entry>,
    /// Whether more lie in that direction.
    pub has_more: bool,
    /// Of every current member but the reader, in small groups; else empty.
    pub marks: Vec<Mark>,
}

/// A member's watermarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub user: UserId,
    /// Delivered up to here.
    pub delivered_seq: Seq,
    /// Read up to here.
    pub read_seq: Seq,
}

/// A conversation as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which.
    pub conversation: ConversationId,
    /// Its type.
    pub conversation_type: ConversationType,
    /// What members added later may see.
    pub history: History,
    /// Its name.
    pub group_name: Option<String>,
    /// At most [`SMALL_GROUP_MEMBERS_MAX`](carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX), ascending.
    pub member_ids: Vec<UserId>,
    /// All of them.
    pub members_count: u64,
    /// When it began.
    pub created_at: WallMs,
    /// By whom.
    pub created_by: UserId,
    /// Last visible seq.
    pub head_seq: Seq,
    /// Read up to here.
    pub read_seq: Seq,
    /// Others' messages above that.
    pub unread_count: u64,
    /// What the list is sorted by.
    pub last_id: MessageId,
    /// The last visible message.
    pub last_message: Option<Entry>,
    /// As in [`Page::marks`].
    pub marks: Vec<Mark>,
}

/// A user as another one sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Who.
    pub user: UserId,
    /// Their name.
    pub username: String,
    /// Since when.
    pub created_at: WallMs,
    /// For those who share a conversation.
    pub last_seen_at: Option<WallMs>,
}
