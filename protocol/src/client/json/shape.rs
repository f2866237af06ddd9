//! What servers say, as JSON spells it: one struct per object, its fields named as on the wire and in the order of
//! protocol.md. All of them serialise; REST answers are made of the same objects.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::id::Id;
use crate::client::{self, DeliveryAck as AckFrame, EventFrame, MessageView, ReceiptView, Status};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::reason::Refusal;
use crate::record::{ConversationType, Encoding, History, MessageType};
use crate::time::WallMs;

/// Version of the client protocol, as `hello` states it.
pub const PROTOCOL: u32 = 1;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "hello")]
pub(super) struct Hello {
    protocol: u32,
    server_time: WallMs,
    heartbeat_interval_ms: u64,
    limits: Limits,
}

#[derive(Serialize, Deserialize)]
struct Limits {
    frame_bytes: u64,
    content_bytes: u64,
    inflight: u64,
    send_per_s: u64,
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

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "ready")]
pub(super) struct Ready<'a> {
    pub(super) user_id: UserId,
    #[serde(borrow)]
    pub(super) device_id: Cow<'a, str>,
    pub(super) pending_conversations: u64,
    pub(super) pending_events: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "caught_up")]
pub(super) struct CaughtUp {}

/// A durable event: `new_message` or `conversation_created`, with its `type`.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Event<'a> {
    /// `new_message`.
    NewMessage(NewMessage<'a>),
    /// `conversation_created`.
    ConversationCreated(ConversationCreated<'a>),
}

impl<'a> From<&'a EventFrame<'_>> for Event<'a> {
    fn from(event: &'a EventFrame<'_>) -> Event<'a> {
        match event {
            EventFrame::NewMessage { message, head_seq } => {
                Event::NewMessage(NewMessage { message: message.into(), head_seq: *head_seq })
            }
            EventFrame::ConversationCreated {
                conversation,
                seq,
                user_ids,
                by,
                conversation_type,
                group_name,
                history,
                created_at,
            } => Event::ConversationCreated(ConversationCreated {
                conversation_id: *conversation,
                seq: *seq,
                user_ids: Cow::Borrowed(user_ids),
                by: *by,
                conversation_type: *conversation_type,
                group_name: group_name.as_deref().map(Cow::Borrowed),
                history: *history,
                created_at: *created_at,
            }),
        }
    }
}

/// `new_message`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "new_message")]
pub struct NewMessage<'a> {
    #[serde(borrow)]
    message: Message<'a>,
    head_seq: Seq,
}

impl<'a> From<NewMessage<'a>> for EventFrame<'a> {
    fn from(event: NewMessage<'a>) -> EventFrame<'a> {
        EventFrame::NewMessage { message: event.message.into(), head_seq: event.head_seq }
    }
}

/// `conversation_created`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "conversation_created")]
pub struct ConversationCreated<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    user_ids: Cow<'a, [UserId]>,
    by: UserId,
    conversation_type: ConversationType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_name: Option<Cow<'a, str>>,
    history: History,
    created_at: WallMs,
}

impl<'a> From<ConversationCreated<'a>> for EventFrame<'a> {
    fn from(event: ConversationCreated<'a>) -> EventFrame<'a> {
        EventFrame::ConversationCreated {
            conversation: event.conversation_id,
            seq: event.seq,
            user_ids: event.user_ids.into_owned(),
            by: event.by,
            conversation_type: event.conversation_type,
            group_name: event.group_name,
            history: event.history,
            created_at: event.created_at,
        }
    }
}

/// A message, as it stands in `new_message`, in `last_message` and in the pages of REST.
#[derive(Serialize, Deserialize)]
pub struct Message<'a> {
    message_id: MessageId,
    conversation_id: ConversationId,
    seq: Seq,
    sender_id: UserId,
    #[serde(borrow)]
    content: Cow<'a, str>,
    encoding: Encoding,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_url: Option<Cow<'a, str>>,
    message_type: MessageType,
    status: Status,
    created_at: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<Cow<'a, str>>,
}

impl<'a> From<&'a MessageView<'_>> for Message<'a> {
    fn from(view: &'a MessageView<'_>) -> Message<'a> {
        Message {
            message_id: view.message,
            conversation_id: view.conversation,
            seq: view.seq,
            sender_id: view.sender,
            content: Cow::Borrowed(&view.content),
            encoding: view.encoding,
            media_url: view.media_url.as_deref().map(Cow::Borrowed),
            message_type: view.message_type,
            status: view.status,
            created_at: view.created_at,
            reply_to: view.reply_to,
            client_msg_id: view.client_msg_id.as_deref().map(Cow::Borrowed),
        }
    }
}

impl<'a> From<Message<'a>> for MessageView<'a> {
    fn from(message: Message<'a>) -> MessageView<'a> {
        MessageView {
            message: message.message_id,
            conversation: message.conversation_id,
            seq: message.seq,
            sender: message.sender_id,
            content: message.content,
            encoding: message.encoding,
            message_type: message.message_type,
            media_url: message.media_url,
            reply_to: message.reply_to,
            status: message.status,
            created_at: message.created_at,
            client_msg_id: message.client_msg_id,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "delivery_ack")]
pub(super) struct DeliveryAck<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    message_id: MessageId,
    status: Status,
    conversation_id: ConversationId,
    seq: Seq,
    timestamp: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    duplicate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
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
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "sync_batch")]
pub(super) struct SyncBatch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    conversation_id: ConversationId,
    events: Vec<Event<'a>>,
    from_seq: Seq,
    to_seq: Seq,
    head_seq: Seq,
    has_more: bool,
    receipts: Vec<Receipt>,
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
            receipts: batch.receipts.iter().map(Receipt::from).collect(),
        }
    }
}

/// One member's watermarks, in `sync_batch` and on REST.
#[derive(Serialize, Deserialize)]
pub struct Receipt {
    user_id: UserId,
    delivered_seq: Seq,
    read_seq: Seq,
}

impl From<&ReceiptView> for Receipt {
    fn from(view: &ReceiptView) -> Receipt {
        Receipt { user_id: view.user, delivered_seq: view.delivered_seq, read_seq: view.read_seq }
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> ReceiptView {
        ReceiptView {
            user: receipt.user_id,
            delivered_seq: receipt.delivered_seq,
            read_seq: receipt.read_seq,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "behind")]
pub(super) struct Behind {
    pub(super) conversations: Vec<Head>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) conversation_id: ConversationId,
    pub(super) head_seq: Seq,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "reset")]
pub(super) struct Reset<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
    pub(super) conversation_id: ConversationId,
    pub(super) first_seq: Seq,
    pub(super) head_seq: Seq,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "reconnect")]
pub(super) struct Reconnect<'a> {
    pub(super) after_ms: u64,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
}

/// `ok`, on WebSocket with its `type`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "ok")]
pub struct Done<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conversation_id: Option<ConversationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
    #[serde(default, skip_serializing_if = "is_false")]
    duplicate: bool,
}

impl<'a> From<&'a client::Done> for Done<'a> {
    fn from(done: &'a client::Done) -> Done<'a> {
        Done {
            id: done.id.as_ref().map(Into::into),
            conversation_id: done.conversation,
            seq: done.seq,
            duplicate: done.duplicate,
        }
    }
}

impl From<Done<'_>> for client::Done {
    fn from(done: Done<'_>) -> client::Done {
        client::Done {
            id: done.id.map(Into::into),
            conversation: done.conversation_id,
            seq: done.seq,
            duplicate: done.duplicate,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "error")]
pub(super) struct ErrorFrame<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
    #[serde(borrow)]
    pub(super) error: ErrorObject<'a>,
}

/// The body of a refused REST request: `{"error":{…}}`.
#[derive(Serialize)]
pub struct ErrorBody<'a> {
    /// What is wrong.
    pub error: ErrorObject<'a>,
}

/// What is wrong, in an `error` frame and in the body of a refused REST request.
#[derive(Serialize, Deserialize)]
pub struct ErrorObject<'a> {
    #[serde(borrow)]
    pub(super) code: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<Cow<'a, str>>,
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

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "heartbeat_ack")]
pub(super) struct HeartbeatAck<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Id<'a>>,
}
