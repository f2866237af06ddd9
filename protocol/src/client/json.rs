//! The JSON encoding: one object per text frame. Ids are decimal strings, a `seq` is a number, absent optional fields
//! are left out when written and may be `null` when read.
//!
//! # Invariants
//! - Field names stand in [`shape`] (what servers say) and in `read` and `command` (what clients say), nowhere else.
//! - No `serde_json::Value` on the way: text is borrowed from the frame unless it holds an escape.
//! - Reading is linear in the length of the text, and refuses nesting deeper than
//!   [`JSON_DEPTH_MAX`](crate::limits::JSON_DEPTH_MAX) before it looks at anything else.

mod command;
mod fields;
mod id;
mod read;
mod server;
pub mod shape;
mod write;

pub use command::encode_command;
pub use fields::{is_repetitive, is_too_deep};
pub use read::decode;
pub use server::decode_server;
#[cfg(feature = "schema")]
pub(super) use {fields::Field, id::Id};

use serde::Serialize;

use super::{MessageView, ServerFrame};
use crate::reason::Refusal;

/// Appends a server frame.
pub fn encode(frame: &ServerFrame<'_>, out: &mut Vec<u8>) {
    match frame {
        ServerFrame::Hello(hello) => write(out, &shape::Hello::from(hello)),
        ServerFrame::Ready { id, user, device, pending_conversations, pending_events } => write(
            out,
            &shape::Ready {
                id: id.as_ref().map(Into::into),
                user_id: *user,
                device_id: device.as_ref().into(),
                pending_conversations: *pending_conversations,
                pending_events: *pending_events,
            },
        ),
        ServerFrame::CaughtUp => write(out, &shape::CaughtUp {}),
        ServerFrame::Event(event) => write(out, &shape::Event::from(event)),
        ServerFrame::DeliveryAck(ack) => write(out, &shape::DeliveryAck::from(ack)),
        ServerFrame::SyncBatch(batch) => write(out, &shape::SyncBatch::from(batch)),
        ServerFrame::Behind { conversations } => {
            let conversations = conversations
                .iter()
                .map(|(conversation, head_seq)| shape::Head {
                    conversation_id: *conversation,
                    head_seq: *head_seq,
                })
                .collect();
            write(out, &shape::Behind { conversations });
        }
        ServerFrame::Reset { id, conversation, first_seq, head_seq, reason } => write(
            out,
            &shape::Reset {
                id: id.as_ref().map(Into::into),
                conversation_id: *conversation,
                first_seq: *first_seq,
                head_seq: *head_seq,
                reason: (*reason).into(),
            },
        ),
        ServerFrame::Reconnect { after_ms, reason } => {
            write(out, &shape::Reconnect { after_ms: *after_ms, reason: (*reason).into() });
        }
        ServerFrame::Typing { conversation, user, start } => {
            let state = if *start { shape::TypingState::Start } else { shape::TypingState::Stop };
            write(out, &shape::Typing { conversation_id: *conversation, user_id: *user, state });
        }
        ServerFrame::Presence(view) => write(out, &shape::PresenceFrame::from(view)),
        ServerFrame::ReadSync { conversation, read_seq, unread_count } => write(
            out,
            &shape::ReadSync {
                conversation_id: *conversation,
                read_seq: *read_seq,
                unread_count: *unread_count,
            },
        ),
        ServerFrame::Ok(done) => write(out, &shape::Done::from(done)),
        ServerFrame::Error { id, refusal, request_id } => write(
            out,
            &shape::ErrorFrame {
                id: id.as_ref().map(Into::into),
                error: shape::ErrorObject::new(refusal, request_id),
            },
        ),
        ServerFrame::HeartbeatAck { id } => {
            write(out, &shape::HeartbeatAck { id: id.as_ref().map(Into::into) });
        }
    }
}

/// Appends a message as it stands in `new_message`, in `last_message` and in the pages of REST.
pub fn message_object(view: &MessageView<'_>, out: &mut Vec<u8>) {
    write(out, &shape::Message::from(view));
}

/// Appends the body of a refused REST request: `{"error":{…}}`.
pub fn error_body(refusal: &Refusal, request_id: &str, out: &mut Vec<u8>) {
    write(out, &shape::ErrorBody { error: shape::ErrorObject::new(refusal, request_id) });
}

fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    value.serialize(&mut write::Writer { out }).expect("our shapes hold kinds of values that are written");
}

/// How many bytes there are before the first that does not stand for itself inside a text: a quote, a backslash or a
/// control character. Looks at eight bytes at a time.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The top bit of each byte below `limit`, and perhaps of bytes behind the first such one.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & TOPS;
    let (words, _) = bytes.as_chunks::<8>();
    for (index, bytes) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let quotes = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslashes = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = below(word, 0x20) | quotes | backslashes;
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let front = words.len() * 8;
    let is_plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    front + bytes.iter().skip(front).take_while(|byte| is_plain(byte)).count()
}
