//! One stream of server-sent events (HTML standard, section 9.2): what a session queues is written into a response that
//! does not end. Its client says nothing; the stream identifies for it, with the cursors it came with.
//!
//! # Invariants
//! - One chunk is under way at a time; what it holds is reported as sent when it was taken, so a reader that stalls is a
//!   slow consumer like any other.
//! - A stream that falls behind ends: it cannot say `sync`, and its client comes back with the `id:` of the last event.

use carillon_protocol::time::Time;

use super::Ground;
use super::cursors::Cursors;
use super::payload::{Queued, queued};
use crate::rest::Response;
use crate::turn::{ConnectionId, Input};

/// A stream, numbered from 1 and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A comment is written into a quiet stream this often, in milliseconds, so that everybody between knows it lives.
pub const BEAT_MS: u64 = 15_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    pub(super) connection: ConnectionId,
    cursors: Cursors,
    /// What of the outbox the chunk under way stands for.
    under_way: Option<usize>,
    beat_at: Time,
    is_ending: bool,
}

impl Stream {
    /// Status and headers.
    pub(super) fn response() -> Response {
        let mut response = Response::bytes(200, "text/event-stream", Vec::new());
        // Proxies that gather responses are asked not to.
        response.headers.push(("x-accel-buffering", "no".to_owned()));
        response
    }

    pub(super) fn new(
        id: StreamId,
        connection: ConnectionId,
        cursors: Cursors,
        ground: &mut Ground,
    ) -> Stream {
        let identify = cursors.identify();
        ground.input(Input::Frame { connection, text: &identify });
        let mut stream =
            Stream { id, connection, cursors, under_way: None, beat_at: ground.now, is_ending: false };
        stream.arm(ground);
        stream
    }

    /// The chunk under way was taken.
    pub(super) fn taken(&mut self, ground: &mut Ground) {
        if let Some(bytes) = self.under_way.take() {
            if bytes > 0 {
                ground.input(Input::Sent { connection: self.connection, bytes });
            }
            ground.input(Input::Heard { connection: self.connection });
            ground.dirty.insert(self.connection);
        }
    }

    /// Writes what there is, when the chunk before is taken.
    pub(super) fn advance(&mut self, ground: &mut Ground) {
        if self.under_way.is_some() || self.is_ending {
            return;
        }
        let Queued { texts, outbox_bytes, close } = queued(&ground.shard, self.connection);
        let mut chunk = String::new();
        for text in &texts {
            let is_behind = self.cursors.passed(text);
            if is_behind {
                self.is_ending = true;
                break;
            }
            if let Some(id) = self.cursors.id() {
                chunk.push_str("id: ");
                chunk.push_str(&id);
                chunk.push('\n');
            }
            // Our JSON has no line breaks in it.
            chunk.push_str("data: ");
            chunk.push_str(text);
            chunk.push_str("\n\n");
        }
        if let Some((code, reason)) = close {
            self.is_ending = true;
            let data = serde_json::json!({ "code": code, "reason": reason });
            chunk.push_str(&format!("event: close\ndata: {data}\n\n"));
        }
        if chunk.is_empty() && !self.is_ending && self.beat_at <= ground.now {
            chunk.push_str(":\n\n");
        }
        if !chunk.is_empty() {
            self.under_way = Some(outbox_bytes);
            ground.outputs.push_back(super::Output::Chunk { stream: self.id, bytes: chunk.into_bytes() });
            self.arm(ground);
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.is_ending
    }

    fn arm(&mut self, ground: &mut Ground) {
        ground.timers.remove(&(self.beat_at, self.connection));
        self.beat_at = ground.now.after_ms(BEAT_MS);
        ground.timers.insert((self.beat_at, self.connection));
    }
}
