//! Link frames: everything that gateway shards and routers say to each other. Each is an rkyv archive behind the header
//! of [`crate::framing`], numbered once in [`Kind`] and read in place after validation.
//!
//! # Invariants
//! - Wire types are flat: integers, strings, byte vectors, vectors of small structs. No maps, no pointers to shared
//!   things, no recursion.
//! - A frame that answers another repeats its `session` and `request`. `request` numbers are unique per gateway shard
//!   and process epoch (F13), so a late answer finds nobody.
//! - On one link lane frames arrive in the order they were sent, or the lane is lost as a whole.

mod cluster;
mod command;
mod find;
mod live;
mod page;

pub use cluster::{
    ArchivedLapsed, ArchivedMoved, ArchivedNotified, ArchivedNotify, ArchivedOwn, ArchivedOwned,
    ArchivedOwnedSlot, ArchivedOwners, ArchivedReadBy, ArchivedRouterAddress, Lapsed, Moved, Notified,
    Notify, Own, Owned, OwnedSlot, Owners, ReadBy, RouterAddress,
};
pub use command::{ArchivedChange, ArchivedCommand, Change, Command};
pub use find::{
    ArchivedConversationView, ArchivedDeviceView, ArchivedFind, ArchivedFindings, ArchivedFound,
    ArchivedMemberView, ArchivedPushTokenView, ArchivedUserView, ArchivedWanted, ConversationView,
    DeviceView, Find, Findings, Found, MemberView, PushTokenView, UserView, Wanted,
};
pub use live::{
    ArchivedPresence, ArchivedReadSync, ArchivedRevoked, ArchivedTyped, ArchivedTyping, ArchivedUserPresence,
    ArchivedWatch, ArchivedWatched, Presence, ReadSync, Revoked, Typed, Typing, UserPresence, Watch, Watched,
};
pub use page::{
    ArchivedCounts, ArchivedEntry, ArchivedMark, ArchivedPage, ArchivedReacted, ArchivedReactionCount,
    ArchivedRead, Counts, Entry, Mark, Page, Reacted, ReactionCount, Read,
};

use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::framing::{self, FramingError};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::limits::LINK_FRAME_BYTES_MAX;

macro_rules! frames {
    ($($(#[$doc:meta])* $number:literal $name:ident),+ $(,)?) => {
        /// The number of each link frame, given once and never reused. Client frames are below 0x100.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number),+ }

        impl Kind {
            /// Every kind, for tables of metrics and golden files.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name)),+ }
            }

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Kind> {
                match number { $($number => Some(Kind::$name),)+ _ => None }
            }
        }

        $(impl LinkFrame for $name { const KIND: Kind = Kind::$name; })+

        /// A validated link frame, read in place.
        #[derive(Debug)]
        pub enum Frame<'a> { $($(#[$doc])* $name(&'a <$name as Archive>::Archived)),+ }

        /// Validates the archive of a frame and gives access to it.
        ///
        /// # Errors
        /// A kind that this build does not know, or an archive that is not valid for its kind.
        pub fn access(kind: u16, archive: &[u8]) -> Result<Frame<'_>, FrameError> {
            match kind {
                $($number => rkyv::access::<<$name as Archive>::Archived, rkyv::rancor::Error>(archive)
                    .map(Frame::$name)
                    .map_err(|_| FrameError::Invalid(Kind::$name)),)+
                _ => Err(FrameError::UnknownKind(kind)),
            }
        }
    };
}

/// A type that is a link frame.
pub trait LinkFrame:
    Sized
    + for<'a> Serialize<
        rkyv::api::high::HighSerializer<
            AlignedVec,
            rkyv::ser::allocator::ArenaHandle<'a>,
            rkyv::rancor::Error,
        >,
    >
{
    /// Its number.
    const KIND: Kind;

    /// Appends the frame, header included.
    fn append_to(&self, out: &mut AlignedVec) {
        framing::append(out, Self::KIND as u16, self);
    }

    /// The frame in a buffer of its own, header included.
    fn to_frame(&self) -> AlignedVec {
        let mut out = AlignedVec::new();
        self.append_to(&mut out);
        out
    }
}

/// A frame that cannot be read. The lane it came on is closed: the peer is of another version, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is wrong.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// A kind from another version.
    #[error("unknown link frame kind {0:#06x}")]
    UnknownKind(u16),
    /// The archive does not validate.
    #[error("invalid archive in link frame {}", .0.name())]
    Invalid(Kind),
}

/// Reads the one frame in `bytes` (header and archive, as a link lane carries it). `bytes` has to be aligned to
/// [`framing::ALIGN`], or validation refuses it.
///
/// # Errors
/// As [`FrameError`] says.
pub fn read(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (kind, archive, _) = framing::split(bytes, LINK_FRAME_BYTES_MAX)?.ok_or(FramingError::Cut)?;
    access(kind, archive)
}

frames! {
    /// Both ways, the first frame on a lane: who is at this end.
    0x100 Open,
    /// Up: a session is ready; its user is to be served here.
    0x101 Register,
    /// Down: the session is registered; these are its conversations.
    0x102 Registered,
    /// Down: a newer connection of the same device took over; close with 4507.
    0x103 Replaced,
    /// Up: the session is gone.
    0x104 Unregister,
    /// Up: where do these conversations stand?
    0x105 Peek,
    /// Down: there.
    0x106 Peeked,
    /// Up: a durable command.
    0x107 Submit,
    /// Down: it is committed.
    0x108 Accepted,
    /// Down: it is definitely not.
    0x109 Refused,
    /// Down: another router owns that; ask there.
    0x10a NotOwner,
    /// Router to router: these users have something to hear.
    0x10b Notify,
    /// The answer: all handed on.
    0x10c Notified,
    /// Down: a durable event for these users of this shard.
    0x10d Deliver,
    /// Up: events of one conversation, please.
    0x10e Read,
    /// Down: a page of them.
    0x10f Page,
    /// Up: a user's watermarks moved.
    0x110 Receipt,
    /// Down: a reader's watermark moved; the senders of these messages hear it.
    0x111 Watermark,
    /// Up: look something up.
    0x112 Find,
    /// Down: what was found.
    0x113 Found,
    /// Up: tell this session when these users come and go, or no longer.
    0x114 Watch,
    /// Down: how they are now.
    0x115 Watched,
    /// Down: a user came or went.
    0x116 Presence,
    /// Up: a user types.
    0x117 Typing,
    /// Down: a user types; these hear it.
    0x118 Typed,
    /// Down: a user read on one device; the others hear it.
    0x119 ReadSync,
    /// Down: a device was revoked.
    0x11a Revoked,
    /// Down: the routers there are, and who owns which slot.
    0x11b Owners,
    /// Router to router: these slots are mine.
    0x11c Own,
    /// The answer: from here on what their users hear goes to you.
    0x11d Owned,
    /// Router to router: what you were to hear is let go of.
    0x11e Lapsed,
    /// Router to router: a user of yours read on one device.
    0x11f ReadBy,
    /// Router to router: who has slots that were yours, or are now.
    0x120 Moved,
}

/// Both ways, first on a lane; between routers as well.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Open {
    /// The router's incarnation, or the gateway's process epoch: a random number per process life.
    pub incarnation: u64,
    /// The gateway's shard number; 0 from a router.
    pub shard: u16,
}

/// Up: registers a session with its user's owner, before anything is read, so that nothing can fall between (F6).
/// Answered by [`Registered`] frames, or [`Refused`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Register {
    /// The session, unique per shard and epoch.
    pub session: u64,
    /// Echoed.
    pub request: u64,
    /// Its user.
    pub user: UserId,
    /// Its device.
    pub device: String,
    /// Name from the token, for a user who is not known yet; empty when there is none.
    pub name: String,
    /// Whether an unknown user is created (`auth.auto_provision`).
    pub auto_provision: bool,
    /// Whether this registers a session again after its lane was lost: it replaces nobody but its own old self.
    pub again: bool,
    /// How long ago the client identified, in milliseconds: of two connections of a device the one that came first
    /// yields, however late it gets through.
    pub waited_ms: u64,
    /// When the session's token was issued, Unix seconds: tokens from before a revocation are refused.
    pub issued_at_s: u64,
}

/// One conversation of a registered user.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Joined {
    /// The conversation.
    pub conversation: ConversationId,
    /// What this device confirmed as delivered; 0 for a device that is new there.
    pub cursor: Seq,
    /// Whether the user had been a member before this membership: a device whose cursor lies before it may hold events
    /// from then, and is told to drop them.
    pub is_returning: bool,
}

/// Down: the session is registered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Registered {
    /// The session.
    pub session: u64,
    /// From [`Register`].
    pub request: u64,
    /// At most [`crate::limits::LINK_LIST_MAX`] conversations.
    pub conversations: Vec<Joined>,
    /// Whether another `Registered` follows with more.
    pub more: bool,
}

/// Down: close the session with 4507.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Replaced {
    /// The session.
    pub session: u64,
}

/// Up: the session is gone. No answer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Unregister {
    /// The session.
    pub session: u64,
    /// Its user.
    pub user: UserId,
    /// Whether the client said `bye`: then it is offline at once.
    pub bye: bool,
}

/// Up: where do these conversations stand, without reading events?
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Peek {
    /// The session.
    pub session: u64,
    /// Echoed.
    pub request: u64,
    /// The user who asks; conversations they may not see are left out of the answer.
    pub user: UserId,
    /// At most [`crate::limits::LINK_LIST_MAX`] conversations.
    pub conversations: Vec<ConversationId>,
}

/// Where one conversation stands, for one member.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Standing {
    /// The conversation.
    pub conversation: ConversationId,
    /// The first seq that the member may see.
    pub first_seq: Seq,
    /// The event by which they are a member now: nothing before it was ever pushed to them in this membership.
    pub joined_seq: Seq,
    /// The last seq that the member may see.
    pub head_seq: Seq,
    /// `Deliver` frames up to this seq are on their lanes already; later ones may still follow this answer.
    pub fanned_out_seq: Seq,
}

/// Down: the answer to [`Peek`], in one frame.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Peeked {
    /// The session.
    pub session: u64,
    /// From [`Peek`].
    pub request: u64,
    /// Those that the user may see.
    pub standings: Vec<Standing>,
}

/// Up: a durable command, decided inside the append transaction. Answered by [`Accepted`], [`Refused`] or [`NotOwner`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Submit {
    /// The session that is to be answered; 0 for REST.
    pub session: u64,
    /// Echoed.
    pub request: u64,
    /// Who commands, from the token only.
    pub user: UserId,
    /// The idempotency key: the client's, or minted by the gateway.
    pub client_msg_id: String,
    /// The epoch by which the gateway believes the receiver owns the slot; 0: it does not say. A router that is asked by a
    /// higher epoch than it knows finds out first; of what is asked by one epoch it refuses all or, from some frame of a
    /// lane on, nothing: what a session pipelined stays in order (G9).
    pub slot_epoch: u64,
    /// When this is not the first attempt: the keys of what the session said after it in the same conversation and may
    /// be committed by now. If any is, and this one is not, it was refused then, and stays so: its place is taken (G9).
    pub said_after: Vec<String>,
    /// What.
    pub command: Command,
}

/// Down: the command is committed, for ever (G1).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Accepted {
    /// From [`Submit`] or [`Receipt`].
    pub session: u64,
    /// From [`Submit`] or [`Receipt`].
    pub request: u64,
    /// The conversation; the created one for `Create`; 0 for users.
    pub conversation: ConversationId,
    /// The event's seq; the watermark for a receipt; 0 when there is none.
    pub seq: Seq,
    /// The event's id; the user for `CreateUser`; 0 for a receipt.
    pub id: u64,
    /// Whether an earlier attempt with this `client_msg_id` did it, or the user existed, or the watermark stood there.
    pub duplicate: bool,
    /// Whether it was so already, without this or an earlier attempt: `seq` is the event that made it so, 0 when there is
    /// none. Nothing was appended.
    pub unchanged: bool,
}

/// Down: the request had definitely no effect, unless the code is `unknown_outcome` (G5).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Refused {
    /// From the request.
    pub session: u64,
    /// From the request.
    pub request: u64,
    /// [`crate::reason::Code`] as a number.
    pub code: u16,
    /// How long to wait before trying again; 0: not said.
    pub retry_after_ms: u32,
    /// The field that is wrong, by its name on the client's wire; empty: none.
    pub field: String,
    /// A sentence that says what to change.
    pub message: String,
}

/// Down: ask the owner of that slot instead.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct NotOwner {
    /// From the request.
    pub session: u64,
    /// From the request.
    pub request: u64,
    /// The slot in question.
    pub slot: u16,
}

/// Down: a durable event for these users of this shard, encoded once.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Deliver {
    /// The conversation.
    pub conversation: ConversationId,
    /// The event's seq.
    pub seq: Seq,
    /// The head when this was sent.
    pub head_seq: Seq,
    /// The session on *this* shard whose submit made the event, 0 when there is none: for it, this is the ack.
    pub origin_session: u64,
    /// That submit's request.
    pub origin_request: u64,
    /// Whether an earlier owner of the conversation may have handed this on as well: who has it drops it.
    pub replayed: bool,
    /// Who of this shard hears it.
    pub users: Vec<UserId>,
    /// The stored event.
    pub record: Vec<u8>,
}

/// Up: a user's watermarks. Answered by [`Accepted`] once durable, or [`Refused`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Receipt {
    /// The session; 0 for REST.
    pub session: u64,
    /// Echoed; 0 when nobody waits for the answer (refusals are told all the same).
    pub request: u64,
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

/// A sender and their highest message that a watermark passed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Concerned {
    /// The sender.
    pub user: UserId,
    /// Their highest message at or below the watermark.
    pub seq: Seq,
    /// Its id.
    pub message: MessageId,
    /// In a large group: how many members, without the sender, got so far. 0 where the reader is named.
    pub count: u64,
}

/// Down: `reader`'s watermark moved; the senders on this shard hear it as `delivery_ack`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Watermark {
    /// The conversation.
    pub conversation: ConversationId,
    /// Whose watermark; 0 where members are counted.
    pub reader: UserId,
    /// Whether it is the read watermark; else the delivered one.
    pub read: bool,
    /// When it was committed, Unix milliseconds.
    pub at_ms: u64,
    /// Whether the conversation is small enough for the reader to be named; else the senders carry counts.
    pub named: bool,
    /// Senders on this shard.
    pub senders: Vec<Concerned>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_in_place() {
        let submit = Submit {
            slot_epoch: 0,
            session: 1,
            request: 2,
            user: UserId(3),
            said_after: Vec::new(),
            client_msg_id: "c".into(),
            command: Command::Send {
                conversation: ConversationId(4),
                message_type: 0,
                encoding: 0,
                content: "hello, and a string long enough to be out of line".into(),
                media_url: None,
                reply_to: None,
            },
        };
        let bytes = submit.to_frame();
        let Frame::Submit(read) = read(&bytes).unwrap() else { panic!("another kind") };
        assert_eq!(read.user.0, 3);
        let back: Submit = rkyv::deserialize::<_, rkyv::rancor::Error>(read).unwrap();
        assert_eq!(back, submit);
    }

    #[test]
    fn broken_frames_are_refused() {
        let bytes = Replaced { session: 9 }.to_frame();
        for cut in 0..bytes.len() {
            let mut copy = AlignedVec::<16>::new();
            copy.extend_from_slice(&bytes[..cut]);
            assert!(read(&copy).is_err(), "cut at {cut}");
        }
        let mut other = bytes.clone();
        other[2] = 0xff;
        assert_eq!(read(&other).unwrap_err(), FrameError::UnknownKind(0x01ff));
    }
}
