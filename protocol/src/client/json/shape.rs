//! What servers say, as JSON spells it: one struct per object, its fields named as on the wire and in the order of
//! protocol.md. All of them serialise; REST answers are made of the same objects.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

mod event;
mod live;

pub use event::{
    ConversationCreated, ConversationUpdated, Event, MemberAdded, MemberRemoved, Message, MessageDeleted,
    NewMessage, Reaction, ReactionCount, ReactionType,
};
pub use live::{Presence, PresenceStatus, Receipt, Receipts};
pub(in crate::client) use live::{PresenceFrame, ReadSync, Typing, TypingState};

use super::id::Id;
use crate::client::{self, DeliveryAck as AckFrame, PresenceView, Status};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::reason::Refusal;
use crate::time::WallMs;

/// Version of the client protocol, as `hello` states it.
pub const PROTOCOL: u32 = 1;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The first frame of a connection: who is speaking, and within which limits.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "hello")]
pub(in crate::client) struct Hello {
    /// Version of this protocol.
    protocol: u32,
    /// The server's clock.
    server_time: WallMs,
    /// Say something at least this often.
    heartbeat_interval_ms: u64,
    /// What this server takes.
    limits: Limits,
}

/// What this server takes from a client.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Limits {
    /// The most bytes of one frame from a client.
    frame_bytes: u64,
    /// The most bytes of `content`.
    content_bytes: u64,
    /// Commands that may wait for their answer; above that the server stops reading.
    inflight: u64,
    /// Messages a second, sustained; 0: not limited.
    send_per_s: u64,
    /// Messages at once.
    send_burst: u64,
}

impl From<&client::Hello> for Hello {
    fn from(hello: &client::Hello) -> Hello {
        Hello {
            protocol: PROTOCOL,
            server_time: hello.server_time,
            heartbeat_interval_ms: hello.heartbeat_interval_ms,
            limits: Limits {
                frame_bytes: hello.frame_bytes,
                content_bytes: hello.content_bytes,
                inflight: hello.inflight,
                send_per_s: hello.send_per_s,
                send_burst: hello.send_burst,
            },
        }
    }
}

impl From<Hello> for client::Hello {
    fn from(hello: Hello) -> client::Hello {
        client::Hello {
            server_time: hello.server_time,
            heartbeat_interval_ms: hello.heartbeat_interval_ms,
            frame_bytes: hello.limits.frame_bytes,
            content_bytes: hello.limits.content_bytes,
            inflight: hello.limits.inflight,
            send_per_s: hello.limits.send_per_s,
            send_burst: hello.limits.send_burst,
        }
    }
}

/// Identified; what follows before `caught_up`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "ready")]
pub(in crate::client) struct Ready<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
    pub(super) user_id: UserId,
    /// From the token.
    #[serde(borrow)]
    pub(super) device_id: Cow<'a, str>,
    /// How many conversations have something to catch up with.
    pub(super) pending_conversations: u64,
    /// How many events come before `caught_up`.
    pub(super) pending_events: u64,
}

/// From here on, live.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "caught_up")]
pub(in crate::client) struct CaughtUp {}

/// A message of one's own was sent, delivered or read. It covers all earlier ones of the same sender.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "delivery_ack")]
pub(in crate::client) struct DeliveryAck<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    message_id: MessageId,
    status: Status,
    conversation_id: ConversationId,
    seq: Seq,
    /// When.
    timestamp: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<Cow<'a, str>>,
    /// It was so before: the same seq as then.
    #[serde(default, skip_serializing_if = "is_false")]
    duplicate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    /// To how many members it was delivered, in large groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivered_count: Option<u64>,
    /// How many members read it, in large groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_count: Option<u64>,
}

impl<'a> From<&'a AckFrame<'_>> for DeliveryAck<'a> {
    fn from(ack: &'a AckFrame<'_>) -> DeliveryAck<'a> {
        DeliveryAck {
            id: ack.id.as_ref().map(Into::into),
            message_id: ack.message,
            status: ack.status,
            conversation_id: ack.conversation,
            seq: ack.seq,
            timestamp: ack.timestamp,
            client_msg_id: ack.client_msg_id.as_deref().map(Cow::Borrowed),
            duplicate: ack.duplicate,
            user_id: ack.user,
            delivered_count: ack.count.filter(|_| ack.status == Status::Delivered),
            read_count: ack.count.filter(|_| ack.status == Status::Read),
        }
    }
}

impl<'a> From<DeliveryAck<'a>> for AckFrame<'a> {
    fn from(ack: DeliveryAck<'a>) -> AckFrame<'a> {
        AckFrame {
            id: ack.id.map(Into::into),
            message: ack.message_id,
            status: ack.status,
            conversation: ack.conversation_id,
            seq: ack.seq,
            timestamp: ack.timestamp,
            client_msg_id: ack.client_msg_id,
            duplicate: ack.duplicate,
            user: ack.user_id,
            count: match ack.status {
                Status::Sent => None,
                Status::Delivered => ack.delivered_count,
                Status::Read => ack.read_count,
            },
        }
    }
}

/// Events of one conversation in seq order.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "sync_batch")]
pub(in crate::client) struct SyncBatch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    conversation_id: ConversationId,
    events: Vec<Event<'a>>,
    /// The first seq asked for.
    from_seq: Seq,
    /// The last seq in this batch; `from_seq` - 1 when it is empty.
    to_seq: Seq,
    /// The last seq of the conversation's log.
    head_seq: Seq,
    /// Whether to ask again from `to_seq` + 1.
    has_more: bool,
    receipts: Receipts,
}

impl<'a> From<&'a client::SyncBatch<'_>> for SyncBatch<'a> {
    fn from(batch: &'a client::SyncBatch<'_>) -> SyncBatch<'a> {
        SyncBatch {
            id: batch.id.as_ref().map(Into::into),
            conversation_id: batch.conversation,
            events: batch.events.iter().map(Event::from).collect(),
            from_seq: batch.from_seq,
            to_seq: batch.to_seq,
            head_seq: batch.head_seq,
            has_more: batch.has_more,
            receipts: (&batch.receipts).into(),
        }
    }
}

/// This connection was too slow: live pushes have stopped. Ask with `sync`; ends with `caught_up`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "behind")]
pub(in crate::client) struct Behind {
    pub(super) conversations: Vec<Head>,
}

/// Where a conversation stands.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(in crate::client) struct Head {
    pub(super) conversation_id: ConversationId,
    /// The last seq of the conversation's log.
    pub(super) head_seq: Seq,
}

/// Drop the local copy of this conversation and page its history; live events go on after `head_seq`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "reset")]
pub(in crate::client) struct Reset<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
    pub(super) conversation_id: ConversationId,
    /// The first seq that there still is, for this user.
    pub(super) first_seq: Seq,
    /// The last seq of the conversation's log.
    pub(super) head_seq: Seq,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
}

/// The server drains: connect again after this time.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "reconnect")]
pub(in crate::client) struct Reconnect<'a> {
    /// How long to wait, in milliseconds.
    pub(super) after_ms: u64,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
}

/// `ok`, on WebSocket with its `type`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "ok")]
pub struct Done<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conversation_id: Option<ConversationId>,
    /// Beside a `conversation_id` always there: `null` when nothing in the log stands for what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("x-null" = true)))]
    seq: Option<Option<Seq>>,
    /// It was so before: the same seq as then.
    #[serde(default, skip_serializing_if = "is_false")]
    duplicate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    presence: Option<Vec<Presence>>,
}

impl<'a> From<&'a client::Done> for Done<'a> {
    fn from(done: &'a client::Done) -> Done<'a> {
        Done {
            id: done.id.as_ref().map(Into::into),
            conversation_id: done.conversation,
            seq: (done.conversation.is_some() || done.seq.is_some()).then_some(done.seq),
            duplicate: done.duplicate,
            presence: done.presence.as_ref().map(|views| views.iter().map(Presence::from).collect()),
        }
    }
}

impl From<Done<'_>> for client::Done {
    fn from(done: Done<'_>) -> client::Done {
        client::Done {
            id: done.id.map(Into::into),
            conversation: done.conversation_id,
            seq: done.seq.flatten(),
            duplicate: done.duplicate,
            presence: done.presence.map(|views| views.into_iter().map(PresenceView::from).collect()),
        }
    }
}

/// Not done.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "error")]
pub(in crate::client) struct ErrorFrame<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
    #[serde(borrow)]
    pub(super) error: ErrorObject<'a>,
}

/// The body of a refused REST request: `{"error":{…}}`.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody<'a> {
    /// What is wrong.
    pub error: ErrorObject<'a>,
}

/// What is wrong, in an `error` frame and in the body of a refused REST request.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorObject<'a> {
    #[serde(borrow)]
    pub(super) code: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    /// Whether the same request may succeed later, unchanged.
    retryable: bool,
    /// How long to wait before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<Cow<'a, str>>,
    /// What the operator finds in the log.
    #[serde(borrow)]
    pub(super) request_id: Cow<'a, str>,
}

impl<'a> ErrorObject<'a> {
    /// The object for a refusal; `request_id` is what the operator finds in the log.
    #[must_use]
    pub fn new(refusal: &'a Refusal, request_id: &'a str) -> ErrorObject<'a> {
        let row = refusal.code.row();
        ErrorObject {
            code: Cow::Borrowed(row.name),
            message: Cow::Borrowed(&refusal.message),
            retryable: row.retryable,
            retry_after_ms: refusal.retry_after_ms,
            field: refusal.field.map(Cow::Borrowed),
            request_id: Cow::Borrowed(request_id),
        }
    }
}

/// Heard.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "heartbeat_ack")]
pub(in crate::client) struct HeartbeatAck<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
}
