//! What is said on a WebSocket: the fields of docs/protocol.md that the loads of the generator use.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub const HEARTBEAT_INTERVAL_MS: u64 = 30_000;
pub const FRAME_BYTES_MAX: usize = 65_536;
pub const CONTENT_BYTES_MAX: usize = 16_384;
pub const CLIENT_MSG_ID_BYTES_MAX: usize = 64;
/// A string of 64 bytes in its quotes; an escape counts as it is written.
const ID_BYTES_MAX: usize = 66;

/// Any frame from a client.
#[derive(Deserialize)]
pub struct Incoming<'a> {
    pub r#type: &'a str,
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    #[serde(default)]
    pub conversation_id: Option<&'a str>,
    #[serde(default)]
    pub content: Option<String>,
    #[serde(default)]
    pub client_msg_id: Option<String>,
    #[serde(default)]
    pub seq: Option<u64>,
}

impl Incoming<'_> {
    /// The conversation that it names.
    pub fn conversation(&self) -> Option<u64> {
        self.conversation_id?.parse().ok()
    }

    /// Its `id`, to be echoed; `Err` when it is none.
    pub fn id(&self) -> Result<Option<Box<RawValue>>, ()> {
        let Some(id) = self.id else { return Ok(None) };
        let first = id.get().as_bytes().first().copied().unwrap_or(b' ');
        let is_id = first == b'"' || first == b'-' || first.is_ascii_digit();
        (is_id && id.get().len() <= ID_BYTES_MAX).then(|| Some(id.to_owned())).ok_or(())
    }
}

/// An id: 64 bits, written as a decimal string.
#[derive(Clone, Copy)]
pub struct Id(pub u64);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "hello")]
struct Hello {
    protocol: u32,
    server_time: u64,
    heartbeat_interval_ms: u64,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    frame_bytes: usize,
    content_bytes: usize,
    inflight: u64,
    send_per_s: u64,
    send_burst: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "ready")]
struct Ready {
    user_id: Id,
    device_id: &'static str,
    pending_conversations: u64,
    pending_events: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "new_message")]
struct NewMessage<'a> {
    message: &'a Message<'a>,
    head_seq: u64,
}

/// A message, as it is pushed and as it stands in a history.
#[derive(Serialize)]
pub struct Message<'a> {
    pub message_id: Id,
    pub conversation_id: Id,
    pub seq: u64,
    pub sender_id: Id,
    pub content: &'a str,
    pub encoding: &'static str,
    pub message_type: &'static str,
    pub status: &'static str,
    pub created_at: u64,
}

/// That a message was committed, or that it arrived.
#[derive(Serialize)]
#[serde(tag = "type", rename = "delivery_ack")]
pub struct DeliveryAck<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    pub message_id: Id,
    pub status: &'static str,
    pub conversation_id: Id,
    pub seq: u64,
    pub timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_msg_id: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_count: Option<usize>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "heartbeat_ack")]
struct HeartbeatAck<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "error")]
struct ErrorFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    error: ErrorObject<'a>,
}

/// The one shape of an error.
#[derive(Serialize)]
pub struct ErrorObject<'a> {
    pub code: &'static str,
    pub message: &'a str,
    pub retryable: bool,
    pub request_id: &'static str,
}

pub fn hello(server_time: u64) -> Utf8Bytes {
    text(&Hello {
        protocol: 1,
        server_time,
        heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
        limits: Limits {
            frame_bytes: FRAME_BYTES_MAX,
            content_bytes: CONTENT_BYTES_MAX,
            inflight: 64,
            send_per_s: 0,
            send_burst: 0,
        },
    })
}

pub fn ready(user: u64) -> Utf8Bytes {
    text(&Ready { user_id: Id(user), device_id: "default", pending_conversations: 0, pending_events: 0 })
}

pub fn caught_up() -> Utf8Bytes {
    Utf8Bytes::from_static(r#"{"type":"caught_up"}"#)
}

pub fn new_message(message: &Message<'_>) -> Utf8Bytes {
    text(&NewMessage { message, head_seq: message.seq })
}

pub fn delivery_ack(ack: &DeliveryAck<'_>) -> Utf8Bytes {
    text(ack)
}

pub fn heartbeat_ack(id: Option<&RawValue>) -> Utf8Bytes {
    text(&HeartbeatAck { id })
}

pub fn error(id: Option<&RawValue>, code: &'static str, message: &str) -> Utf8Bytes {
    text(&ErrorFrame { id, error: error_object(code, message) })
}

pub fn error_object<'a>(code: &'static str, message: &'a str) -> ErrorObject<'a> {
    ErrorObject { code, message, retryable: false, request_id: "0" }
}

fn text(frame: &impl Serialize) -> Utf8Bytes {
    serde_json::to_string(frame).expect("structs with named fields serialise into memory").into()
}
