//! The line to one client: how frames are encoded for it, and what waits to be sent. A session speaks through it and
//! never learns which encoding it is.

use bytes::Bytes;
use carillon_protocol::client::{FrameId, ServerFrame, Wire, binary, json};
use carillon_protocol::reason::{Close, Refusal};
use carillon_protocol::time::Time;
use carillon_protocol::websocket::{self, Opcode};
use rkyv::util::AlignedVec;

use crate::common::Common;
use crate::counters::Shared;
use crate::outbox::Outbox;
use crate::turn::ConnectionId;

/// Scratch memory that is kept for the next frame: every frame but a page of large messages fits.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: ConnectionId,
    pub(crate) wire: Wire,
    pub(crate) outbox: Outbox,
    /// When the client last took something, or the outbox last became non-empty.
    pub(crate) progress_at: Time,
    /// Why the connection is to be closed, once somebody decided that.
    pub(crate) closing: Option<Close>,
    /// Whether the close frame was said already.
    pub(crate) is_close_said: bool,
    /// Whether something was queued that the driver has not been told of.
    pub(crate) is_unflushed: bool,
}

impl Line {
    pub(crate) fn new(id: ConnectionId) -> Line {
        Line {
            id,
            wire: Wire::Json,
            outbox: Outbox::default(),
            progress_at: Time(0),
            closing: None,
            is_close_said: false,
            is_unflushed: false,
        }
    }

    /// Says something that answers the client or that it cannot do without.
    pub(crate) fn say(&mut self, common: &mut Common, frame: &ServerFrame<'_>) {
        let bytes = encode(self.wire, frame, &mut common.scratch);
        common.counters.said(frame);
        self.answer(common, bytes);
    }

    /// Queues bytes that answer.
    pub(crate) fn answer(&mut self, common: &mut Common, bytes: Bytes) {
        if self.outbox.is_empty() {
            self.progress_at = common.now;
        }
        common.counters.frames_out += 1;
        self.is_unflushed = true;
        common.queued_bytes += bytes.len();
        self.outbox.answer(bytes);
    }

    /// Queues a live push, if it fits.
    #[must_use]
    pub(crate) fn push(&mut self, common: &mut Common, bytes: Bytes, kind: Shared) -> bool {
        if self.outbox.is_empty() {
            self.progress_at = common.now;
        }
        let queued_bytes = bytes.len();
        let fits = self.outbox.push(bytes, common.conn_queue_bytes());
        if fits {
            common.queued_bytes += queued_bytes;
            common.counters.frames_out += 1;
            common.counters.said_shared(kind);
        }
        self.is_unflushed |= fits;
        fits
    }

    /// Queues a frame that may be lost, if there is plenty of room.
    #[must_use]
    pub(crate) fn whisper(&mut self, common: &mut Common, bytes: Bytes, kind: Shared) -> bool {
        let was_empty = self.outbox.is_empty();
        let queued_bytes = bytes.len();
        let fits = self.outbox.whisper(bytes, common.conn_queue_bytes());
        if fits {
            common.queued_bytes += queued_bytes;
            if was_empty {
                self.progress_at = common.now;
            }
            common.counters.frames_out += 1;
            common.counters.said_shared(kind);
        } else {
            common.counters.ephemeral_dropped += 1;
        }
        self.is_unflushed |= fits;
        fits
    }

    /// A frame as this client reads it.
    pub(crate) fn encode(&self, common: &mut Common, frame: &ServerFrame<'_>) -> Bytes {
        encode(self.wire, frame, &mut common.scratch)
    }

    /// A frame that others get too: encoded once for each wire.
    pub(crate) fn encode_shared(
        &self,
        common: &mut Common,
        encoded: &mut [Option<Bytes>; 2],
        frame: &ServerFrame<'_>,
    ) -> Bytes {
        let place = usize::from(self.wire == Wire::Rkyv);
        match encoded.get_mut(place) {
            Some(bytes) => bytes.get_or_insert_with(|| encode(self.wire, frame, &mut common.scratch)).clone(),
            None => self.encode(common, frame),
        }
    }

    /// Tells what is wrong.
    pub(crate) fn refuse(&mut self, common: &mut Common, id: Option<FrameId>, refusal: Refusal) {
        common.counters.refusals += 1;
        let request_id = common.request_id();
        self.say(common, &ServerFrame::Error { id, refusal, request_id: request_id.into() });
    }

    /// Decides that the connection ends. The first reason stands.
    pub(crate) fn close(&mut self, close: Close) {
        self.closing.get_or_insert(close);
    }

    /// Whether there is room for a page: at most half of what may be queued is.
    pub(crate) fn has_room_for_page(&self, common: &Common) -> bool {
        self.outbox.bytes() <= common.conn_queue_bytes() / 2
    }
}

/// Memory that frames are written into, one after the other, before they are as long as they are.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    text: Vec<u8>,
    archive: AlignedVec,
}

/// A frame as it goes out, WebSocket header included.
pub(crate) fn encode(wire: Wire, frame: &ServerFrame<'_>, scratch: &mut Scratch) -> Bytes {
    match wire {
        Wire::Json => {
            let Scratch { text, .. } = scratch;
            let bytes = websocket::server_frame_with(Opcode::Text, text, |out| json::encode(frame, out));
            if text.capacity() > SCRATCH_BYTES_MAX {
                *text = Vec::new();
            }
            bytes
        }
        Wire::Rkyv => {
            let Scratch { archive, .. } = scratch;
            archive.clear();
            binary::encode(frame, archive);
            Bytes::from(websocket::server_frame(Opcode::Binary, archive))
        }
    }
}
