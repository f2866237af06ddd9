//! What is true now and is not stored: who is there, who types; and what a user's devices tell each other.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{ConversationId, Seq, UserId};

/// Up: this session wants to hear when these users come and go, or no longer. Answered by [`Watched`], or
/// [`Refused`](super::Refused).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Watch {
    /// The session.
    pub session: u64,
    /// Echoed.
    pub request: u64,
    /// Its user.
    pub user: UserId,
    /// At most [`crate::limits::WATCHED_MAX`].
    pub users: Vec<UserId>,
    /// From now on; else no longer.
    pub watch: bool,
}

/// How one user is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct UserPresence {
    /// Who.
    pub user: UserId,
    /// Whether a device of theirs is connected. Never for those who share no conversation with the one who asks.
    pub online: bool,
    /// When they last went offline, Unix milliseconds; 0: never, or not for the one who asks.
    pub last_seen_at_ms: u64,
}

/// Down: the answer to [`Watch`]; how the users are now.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Watched {
    /// The session.
    pub session: u64,
    /// From [`Watch`].
    pub request: u64,
    /// In the order asked for.
    pub users: Vec<UserPresence>,
}

/// Down: a user came or went. Sent at transitions only, and only to those who watch.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Presence {
    /// Who, and how.
    pub user: UserPresence,
    /// The sessions of this shard that watch them.
    pub sessions: Vec<u64>,
}

/// Up: a user types, or stopped. Answered by [`Accepted`](super::Accepted) when `request` is not 0; refusals are told all
/// the same.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Typing {
    /// The session.
    pub session: u64,
    /// Echoed; 0 when nobody waits.
    pub request: u64,
    /// Who.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// Began; else stopped.
    pub start: bool,
}

/// Down: a user types in a conversation of these.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Typed {
    /// Where.
    pub conversation: ConversationId,
    /// Who.
    pub user: UserId,
    /// Began; else stopped.
    pub start: bool,
    /// Who of this shard hears it.
    pub users: Vec<UserId>,
}

/// Down: a user read on one device; their others hear it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct ReadSync {
    /// Whose.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// Read up to here.
    pub read_seq: Seq,
    /// What is left unread.
    pub unread_count: u64,
    /// The session on *this* shard that said so and needs not hear it; 0: none.
    pub except_session: u64,
}

/// Down, to every shard: a device was revoked; its connections are closed with 4501, and tokens issued up to then are
/// refused.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Revoked {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub device: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}
