//! What can be asked of a chat log, and what is found.

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{ConversationRow, ConversationType, HeadRow, History, MemberRow, Role};
use carillon_protocol::time::WallMs;

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
    /// Everything about a conversation that pages, peeks and lists are made of, to be kept in memory. Answered by
    /// [`Answer::Open`]; refused for a conversation with more than [`OPEN_MEMBERS_MAX`] memberships, former ones
    /// included.
    Open {
        /// Which.
        conversation: ConversationId,
    },
    /// As [`Query::Members`], for one of them. A stranger is refused by the same one read as where there is nothing.
    Fellows {
        /// Who asks, and has to be a member.
        user: UserId,
        /// Of which.
        conversation: ConversationId,
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
    /// The user's conversations, latest activity first, as they stood when the list was begun: so that none is left out
    /// which comes up while somebody pages.
    Conversations {
        /// Whose.
        user: UserId,
        /// Only those whose last id is below this.
        below: u64,
        /// Events with a higher id than this do not move a conversation; one that has no other is left out.
        as_of: u64,
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
    /// The members of a conversation of the user's, ascending.
    MemberPage {
        /// Who asks.
        user: UserId,
        /// Which.
        conversation: ConversationId,
        /// Only those above this user.
        after: UserId,
        /// At most so many.
        limit: u32,
    },
    /// How far the members of a conversation got.
    Receipts {
        /// Who asks, and is not counted.
        user: UserId,
        /// Which.
        conversation: ConversationId,
        /// Where a large group is counted; 0: at the head.
        seq: Seq,
    },
    /// In a large group: how many members but the sender got as far as each of these senders' seqs.
    Counts {
        /// Which.
        conversation: ConversationId,
        /// Sender and seq; at most [`COUNTS_MAX`].
        senders: Vec<(UserId, Seq)>,
    },
    /// A user's devices.
    Devices {
        /// Whose.
        user: UserId,
    },
    /// Whether a user is known and a device of theirs revoked.
    Admission {
        /// Who.
        user: UserId,
        /// On which device.
        device: String,
    },
    /// Which of these users another one may hear of, and when each was last seen.
    Presence {
        /// Who asks.
        asker: UserId,
        /// About whom.
        users: Vec<UserId>,
        /// Only those with whom they have a conversation of two (`presence.scope = open_1to1`), instead of any.
        pairs_only: bool,
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
        /// Tokens of this device issued up to then are refused.
        revoked_at: Option<WallMs>,
        /// Current conversations, and those that the user left beyond what this device confirmed.
        conversations: Vec<Joined>,
    },
    /// To [`Query::Peek`].
    Standings(Vec<Standing>),
    /// To [`Query::Open`].
    Open(Box<Opened>),
    /// To [`Query::Page`].
    Page(Page),
    /// To [`Query::Events`].
    Events(Vec<Entry>),
    /// To [`Query::Members`] and [`Query::Fellows`].
    Members {
        /// Checked against [`Appended::members_version`](super::Appended::members_version).
        version: u64,
        /// Current and former members, ascending, with the events that are pushed to each.
        members: Vec<Hearer>,
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
    /// To [`Query::MemberPage`].
    MemberPage {
        /// User, role, and the event by which they are a member.
        members: Vec<(UserId, Role, Seq)>,
        /// Whether more follow.
        more: bool,
    },
    /// To [`Query::Receipts`] in a small group: every current member but the one who asks.
    Marks(Vec<Mark>),
    /// To [`Query::Receipts`] in a large group: one; to [`Query::Counts`]: one for each, in their order.
    Counts(Vec<Counts>),
    /// To [`Query::Devices`]: ascending by device.
    Devices(Vec<Device>),
    /// To [`Query::Admission`].
    Admission {
        /// Whether there is a profile.
        known: bool,
        /// Tokens of the device issued up to then are refused.
        revoked_at: Option<WallMs>,
    },
    /// To [`Query::Presence`]: those who may be heard of, ascending, with when they were last seen.
    Presence(Vec<(UserId, Option<WallMs>)>),
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
    /// The event by which they are a member now.
    pub joined_seq: Seq,
    /// Last visible seq.
    pub head_seq: Seq,
}

/// A conversation of a connecting device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Which.
    pub conversation: ConversationId,
    /// What the device confirmed; 0: nothing.
    pub cursor: Seq,
    /// Whether the user had been a member before this membership.
    pub is_returning: bool,
}

/// Who hears which events of a conversation live (G11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearer {
    /// Who.
    pub user: UserId,
    /// From the event by which they became a member, whatever of the history they may read.
    pub from_seq: Seq,
    /// To the event by which they ceased to be one; `Seq::MAX` for members.
    pub to_seq: Seq,
}

/// How often an emoji stands under a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionCount {
    /// Which.
    pub emoji: String,
    /// How often.
    pub count: u64,
    /// Whether one of them is the reader's.
    pub mine: bool,
}

/// How many members of a large group got so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The seq that is counted at.
    pub seq: Seq,
    /// Current members, without the one it is for, to whom everything up to `seq` was delivered.
    pub delivered_count: u64,
    /// Those who read everything up to `seq`.
    pub read_count: u64,
}

/// A device of a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which.
    pub device: String,
    /// When it was last connected; none before its first disconnect.
    pub last_seen_at: Option<WallMs>,
    /// Visible events of all conversations that it did not confirm.
    pub cursor_lag: u64,
}

/// Everything about a conversation that is kept in memory while it is active (CA1–CA3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it is.
    pub row: ConversationRow,
    /// Where its log ends.
    pub head: HeadRow,
    /// Current and former members, ascending.
    pub members: Vec<(UserId, MemberRow)>,
    /// The last events, at most [`OPEN_EVENTS_MAX`], ascending.
    pub tail: Vec<Entry>,
    /// Reactions under messages of the tail, with who put each there: (seq, emoji in the order of first use, users
    /// ascending).
    pub reactions: Vec<(Seq, Reactors)>,
    /// Deleted messages and their senders: they do not count as unread.
    pub deleted: Vec<(Seq, UserId)>,
}

/// Who put which emoji under a message.
pub type Reactors = Vec<(String, Vec<UserId>)>;

/// The most memberships of a conversation that [`Query::Open`] answers for.
pub const OPEN_MEMBERS_MAX: usize = 1_000;
/// The most events in [`Opened::tail`]: fifty messages (CA1), and what usually lies among and before them.
pub const OPEN_EVENTS_MAX: usize = 128;
/// The most senders in one [`Query::Counts`].
pub const COUNTS_MAX: usize = 64;

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
    /// In larger groups, at the reader's own highest message of the page; all 0 when there is none on it.
    pub counts: Option<Counts>,
    /// Under messages of this page, ascending by seq; those without any are left out.
    pub reactions: Vec<(Seq, Vec<ReactionCount>)>,
}

/// A member's watermarks; below the event by which they joined, everything counts as delivered and read: what was sent
/// before is not held back by who came later.
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
    /// Under the last message.
    pub last_reactions: Vec<ReactionCount>,
    /// No notifications until then.
    pub muted_until: Option<WallMs>,
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
    /// To oneself only: device, platform's number, token.
    pub push_tokens: Vec<(String, u8, String)>,
}
