//! Client frames: what clients and gateways say to each other, one schema in two encodings. [`json`] is what browsers
//! speak, [`binary`] is rkyv behind the header of [`crate::framing`]. Both decode into [`Command`] and encode from
//! [`ServerFrame`], so that a session never knows which one it serves.
//!
//! # Invariants
//! - A decoder returns either a command or a [`Refusal`] that names the field; it never panics and never closes.
//! - Unknown fields are ignored by both sides.
//! - Strings are borrowed from the frame wherever the encoding allows it.

use std::borrow::Cow;

use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::reason::{Close, Refusal};
use crate::record::{Encoding, MessageType};
use crate::time::WallMs;

pub mod binary;
mod check;
pub mod json;
#[cfg(feature = "schema")]
pub mod schema;
mod view;

pub use check::{command as check_command, field_name, reason_name};
pub use view::{
    DeliveryAck, Done, EventFrame, MessageView, PresenceView, ReactionView, ReceiptView, ReceiptsView,
    Status, SyncBatch,
};

/// The two encodings, chosen by WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Wire {
    /// `carillon.v1.json`: text frames.
    #[default]
    Json,
    /// `carillon.v1.rkyv`: binary frames.
    Rkyv,
}

impl Wire {
    /// The subprotocol's name.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Wire::Json => "carillon.v1.json",
            Wire::Rkyv => "carillon.v1.rkyv",
        }
    }
}

/// The `id` that a client may put on any frame and finds on the answer: text of at most 64 bytes, or an integer within
/// ± 2^53.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(derive(Debug))]
pub enum FrameId {
    /// Text.
    Text(Box<str>),
    /// A number.
    Number(i64),
}

/// A decoded client frame: its `id`, as far as one could be read, and the command or what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming<'a> {
    /// Echoed in the answer, also in an error.
    pub id: Option<FrameId>,
    /// The command.
    pub command: Result<Command<'a>, Wrong>,
}

/// A frame that is not a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What the client is told.
    pub refusal: Refusal,
    /// Whether it counts towards 4503: a frame that cannot be read or has a wrong field does, a `type` that this
    /// version does not know does not.
    pub malformed: bool,
}

impl From<Refusal> for Wrong {
    /// A refusal counts towards 4503 when repeating it leads there by the table of reasons: a wrong field does, content
    /// that is merely too large does not.
    fn from(refusal: Refusal) -> Wrong {
        let malformed = refusal.code.row().close == Some(Close::MalformedFrames);
        Wrong { refusal, malformed }
    }
}

/// Why a client could not read what a server said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A type from a newer version, or an event of one: to be ignored.
    #[error("unknown frame type {0}")]
    UnknownType(String),
    /// Not a frame.
    #[error("unreadable frame: {0}")]
    Invalid(String),
}

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// The first frame of a connection.
    Identify {
        /// A JWT, unless it came with the upgrade.
        token: Option<Cow<'a, str>>,
        /// What the client holds, overriding the stored cursors for this connection.
        cursors: Vec<(ConversationId, Seq)>,
    },
    /// Send a message.
    SendMessage(SendMessage<'a>),
    /// Everything up to `seq` arrived on this device.
    Delivered {
        /// Where.
        conversation: ConversationId,
        /// Up to.
        seq: Seq,
    },
    /// Everything up to `seq` was read.
    Read {
        /// Where.
        conversation: ConversationId,
        /// Up to.
        seq: Seq,
    },
    /// Events from a seq on.
    Sync {
        /// Where.
        conversation: ConversationId,
        /// Inclusive, at least 1.
        from_seq: Seq,
        /// Clamped to 1 ..= [`crate::limits::PAGE_EVENTS_MAX`]; the default is that maximum.
        limit: u32,
    },
    /// The user types, or stopped.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Began; else stopped.
        start: bool,
    },
    /// Tell when these users come and go.
    PresenceSubscribe {
        /// 1 to [`crate::limits::PRESENCE_IDS_MAX`].
        users: Vec<UserId>,
    },
    /// No longer.
    PresenceUnsubscribe {
        /// 1 to [`crate::limits::PRESENCE_IDS_MAX`].
        users: Vec<UserId>,
    },
    /// Delete a message for everyone.
    DeleteMessage {
        /// Where.
        conversation: ConversationId,
        /// Which.
        message: MessageId,
        /// 1–64 bytes.
        client_msg_id: Option<Cow<'a, str>>,
    },
    /// `react`, or `unreact`.
    React {
        /// Where.
        conversation: ConversationId,
        /// To which message.
        message: MessageId,
        /// 1 to [`crate::limits::EMOJI_BYTES_MAX`] bytes without control characters.
        emoji: Cow<'a, str>,
        /// 1–64 bytes.
        client_msg_id: Option<Cow<'a, str>>,
        /// Put it there; else take it back.
        add: bool,
    },
    /// A new token for the live connection.
    RefreshToken {
        /// The JWT.
        token: Cow<'a, str>,
    },
    /// Still there.
    Heartbeat,
    /// Going.
    Bye,
}

/// A message to be sent, as the client gave it, with defaults filled in and bounds checked.
#[derive(Clone, Debug, PartialEq)]
pub struct SendMessage<'a> {
    /// Where.
    pub conversation: ConversationId,
    /// At most [`crate::limits::CONTENT_BYTES_MAX`] bytes; empty only with `media_url`.
    pub content: Cow<'a, str>,
    /// `text` when absent.
    pub message_type: MessageType,
    /// `utf8` when absent.
    pub encoding: Encoding,
    /// At most [`crate::limits::MEDIA_URL_BYTES_MAX`] bytes.
    pub media_url: Option<Cow<'a, str>>,
    /// 1–64 bytes.
    pub client_msg_id: Option<Cow<'a, str>>,
    /// A message of the same conversation.
    pub reply_to: Option<MessageId>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame<'a> {
    /// The first frame.
    Hello(Hello),
    /// Identified.
    Ready {
        /// Of the `identify` that this answers.
        id: Option<FrameId>,
        /// Who.
        user: UserId,
        /// On which device.
        device: Cow<'a, str>,
        /// Conversations that follow before `caught_up`, resets not counted.
        pending_conversations: u64,
        /// Events in them.
        pending_events: u64,
    },
    /// From here on, live.
    CaughtUp,
    /// A durable event.
    Event(EventFrame<'a>),
    /// A message was sent, delivered or read.
    DeliveryAck(DeliveryAck<'a>),
    /// Events from a seq on.
    SyncBatch(SyncBatch<'a>),
    /// Live pushes have stopped until these are synced.
    Behind {
        /// With their heads.
        conversations: Vec<(ConversationId, Seq)>,
    },
    /// Drop the local copy and page.
    Reset {
        /// The `id` of the `sync` that this answers, if one did.
        id: Option<FrameId>,
        /// Where.
        conversation: ConversationId,
        /// First visible.
        first_seq: Seq,
        /// Last.
        head_seq: Seq,
        /// `cursor_ahead`, `retention`, `too_far_behind` or `membership`.
        reason: &'static str,
    },
    /// The server drains.
    Reconnect {
        /// When to come back.
        after_ms: u64,
        /// `drain`.
        reason: &'static str,
    },
    /// A member types, or stopped.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Began; else stopped.
        start: bool,
    },
    /// A watched user came or went.
    Presence(PresenceView),
    /// The user read on another device.
    ReadSync {
        /// Where.
        conversation: ConversationId,
        /// Up to here.
        read_seq: Seq,
        /// What is left.
        unread_count: u64,
    },
    /// Done.
    Ok(Done),
    /// Not done.
    Error {
        /// Of the frame that this answers.
        id: Option<FrameId>,
        /// What to change.
        refusal: Refusal,
        /// For the operator's log.
        request_id: Cow<'a, str>,
    },
    /// Heard.
    HeartbeatAck {
        /// Of the heartbeat.
        id: Option<FrameId>,
    },
}

/// The first frame on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// For display only.
    pub server_time: WallMs,
    /// How often to be heard.
    pub heartbeat_interval_ms: u64,
    /// Bytes of one frame.
    pub frame_bytes: u64,
    /// Bytes of `content`.
    pub content_bytes: u64,
    /// Unanswered commands above which the server stops reading.
    pub inflight: u64,
    /// Messages a second; 0: unlimited.
    pub send_per_s: u64,
    /// And at once.
    pub send_burst: u64,
}
