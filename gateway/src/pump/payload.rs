//! What a session queued, without the WebSocket around it.

use carillon_protocol::limits::PAGE_BYTES_MAX;

use crate::shard::Shard;
use crate::turn::ConnectionId;

/// The payloads at the front of an outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queued {
    /// JSON texts, in order: up to [`PAGE_BYTES_MAX`] bytes, or one.
    pub(super) texts: Vec<String>,
    /// What of the outbox they stand for.
    pub(super) outbox_bytes: usize,
    /// The close frame, when that is what stands at the front.
    pub(super) close: Option<(u16, String)>,
}

/// Reads what is queued on a connection of `shard`. Frames stand whole in the outbox, because they are reported as sent
/// only whole.
pub(super) fn queued(shard: &Shard, connection: ConnectionId) -> Queued {
    gather(shard.pending(connection).map(|payload| &payload[..]))
}

fn gather<'a>(pending: impl Iterator<Item = &'a [u8]>) -> Queued {
    let mut queued = Queued::default();
    let mut bytes = 0;
    for mut rest in pending {
        while let Some((opcode, payload, frame_bytes)) = split(rest) {
            match opcode {
                TEXT => {
                    if !queued.texts.is_empty() && bytes + payload.len() > PAGE_BYTES_MAX {
                        return queued;
                    }
                    bytes += payload.len();
                    // Our own encoder's, so UTF-8.
                    queued.texts.push(String::from_utf8_lossy(payload).into_owned());
                }
                // What comes before it goes out first.
                CLOSE if !queued.texts.is_empty() => return queued,
                CLOSE => {
                    queued.close = Some(closing(payload));
                    queued.outbox_bytes += frame_bytes;
                    return queued;
                }
                // Pongs: nobody here sends pings.
                _ => {}
            }
            queued.outbox_bytes += frame_bytes;
            rest = rest.get(frame_bytes..).unwrap_or_default();
        }
    }
    queued
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// The first frame: its opcode, payload, and length with the header (RFC 6455 section 5.2; a server's are not masked).
fn split(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (payload_bytes, header_bytes) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = header_bytes + usize::try_from(payload_bytes).ok()?;
    Some((first & 0x0f, bytes.get(header_bytes..end)?, end))
}

fn closing(payload: &[u8]) -> (u16, String) {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => (u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()),
        // RFC 6455 section 7.1.5.
        None => (1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use carillon_protocol::reason::Close;
    use carillon_protocol::websocket::{self, Opcode};

    use super::*;

    /// TR4: the very frames that a WebSocket would carry.
    #[test]
    fn payloads_come_out_as_they_went_in() {
        let texts = ["{}".to_owned(), "x".repeat(125), "y".repeat(126), "z".repeat(65_536)];
        let frames: Vec<Vec<u8>> =
            texts.iter().map(|text| websocket::server_frame(Opcode::Text, text.as_bytes())).collect();
        let close = websocket::close_frame(Close::Replaced);
        let pending = || frames.iter().map(Vec::as_slice).chain([&close[..]]);
        let first = gather(pending());
        assert_eq!(first.texts, texts[..3], "the fourth would be beyond a page");
        assert_eq!(first.outbox_bytes, frames[..3].iter().map(Vec::len).sum::<usize>());
        let second = gather(pending().skip(3));
        assert_eq!((second.texts.len(), second.close), (1, None));
        let last = gather(pending().skip(4));
        assert_eq!(last.close.map(|(code, _)| code), Some(4507));
        assert_eq!(last.outbox_bytes, close.len());
        assert_eq!(gather(std::iter::empty()), Queued::default());
    }
}
