//! One connection of a shard, whatever its phase.

use std::net::IpAddr;
use std::sync::Arc;

use carillon_node::tokens::Claims;
use carillon_protocol::client::Wire;
use carillon_protocol::handshake::Head;
use carillon_protocol::time::Time;
use carillon_protocol::websocket::Decoder;

use crate::common::Common;
use crate::line::Line;
use crate::session::Session;
use crate::turn::{ConnectionId, Handed};

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) line: Line,
    pub(super) phase: Phase,
    /// When its entry in the wheel fires; the far future when it has none.
    pub(super) armed_at: Time,
    /// Received but not looked at, because the client has to wait. At most what a driver reads at a time, or two of it.
    #[expect(clippy::box_collection, reason = "an idle connection pays one pointer for it")]
    pub(super) held: Option<Box<Vec<u8>>>,
    /// What it was read of in a turn, and in which.
    frames_read: u16,
    frames_turn: u32,
    pub(super) is_paused: bool,
    pub(super) is_dirty: bool,
    /// Whether it is among those that go on in the next turn.
    pub(super) goes_on: bool,
    /// Whether the roster knows it.
    pub(super) is_listed: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Bytes of an HTTP request are gathered.
    Handshake(Box<Handshake>),
    /// A WebSocket.
    Open(Decoder, Session),
    /// It is for the HTTP server, and goes there at the end of the turn, with what comes until then.
    HandingOff(Box<Handed>),
    /// Nothing is read any more; what is pending goes out.
    Closing,
}

#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) head: Head,
    pub(super) received: Vec<u8>,
    pub(super) address: IpAddr,
    pub(super) since: Time,
    /// As long as somebody holds it, they are counted among those who have not said what they want.
    _place: Arc<()>,
}

/// G13: what an idle connection takes in the gateway, its session included: what an allocator hands out in one piece
/// without rounding up. (The device's name is on the heap beside it: 1 to 64 bytes.)
const IDLE_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<Connection>() <= IDLE_BYTES_MAX);

/// Frames of one connection in one turn. Far above `limits.inflight`, so only who floods notices; few enough that all who
/// flood together hold up a neighbour for less than a millisecond each.
const FRAMES_PER_TURN_MAX: u16 = 256;

impl Connection {
    /// A connection whose first bytes are awaited.
    pub(super) fn accepted(id: ConnectionId, address: IpAddr, now: Time, place: Arc<()>) -> Connection {
        let handshake =
            Handshake { head: Head::new(), received: Vec::new(), address, since: now, _place: place };
        Connection::new(id, Phase::Handshake(Box::new(handshake)))
    }

    /// A connection behind an upgrade that was made elsewhere.
    pub(super) fn opened(id: ConnectionId, claims: Option<Claims>, common: &mut Common) -> Connection {
        let mut opened = Connection::new(id, Phase::Closing);
        opened.begin(Wire::Json, claims, common);
        opened
    }

    fn new(id: ConnectionId, phase: Phase) -> Connection {
        Connection {
            line: Line::new(id),
            phase,
            armed_at: Time(u64::MAX),
            held: None,
            frames_read: 0,
            frames_turn: 0,
            is_paused: false,
            is_dirty: false,
            goes_on: false,
            is_listed: false,
        }
    }

    /// Keeps bytes that are not to be looked at yet.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held.get_or_insert_default().extend_from_slice(bytes);
    }

    /// So many frames of it are taken in this turn.
    pub(super) fn count_frames(&mut self, turn: u32, count: u16) {
        if std::mem::replace(&mut self.frames_turn, turn) != turn {
            self.frames_read = 0;
        }
        self.frames_read = self.frames_read.saturating_add(count);
    }

    /// Whether enough of its frames were taken in this turn: the others' come first.
    pub(super) fn is_spent(&self, turn: u32) -> bool {
        self.frames_turn == turn && self.frames_read >= FRAMES_PER_TURN_MAX
    }

    /// Whether the client has to wait before more of it is read: too much is under way, or too little of what was said
    /// has been taken.
    pub(super) fn has_to_wait(&self, common: &Common) -> bool {
        let Phase::Open(_, session) = &self.phase else { return false };
        common.is_draining || session.is_full(common) || self.line.outbox.bytes() > common.conn_queue_bytes()
    }

    /// The earliest of its deadlines.
    pub(super) fn deadline(&self, common: &Common) -> Option<Time> {
        match &self.phase {
            Phase::Handshake(handshake) => {
                let since = handshake.since.max(common.resumed_at);
                Some(since.after_ms(common.settings.gateway.handshake_timeout_ms))
            }
            Phase::Open(_, session) => Some(session.deadline(&self.line, common)),
            Phase::HandingOff(_) | Phase::Closing => None,
        }
    }
}
