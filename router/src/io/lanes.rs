//! The router's ends of link lanes: received in turn, sent in order, with a bounded backlog behind each ring.

use std::collections::{BTreeMap, VecDeque};

use carillon_link::ring::{LaneEnd, SendError};
use carillon_link::tls::Role;
use carillon_link::{Arrival, Peer};
use carillon_protocol::time::Time;
use rkyv::util::AlignedVec;

use crate::meters::Metric;
use crate::outbox::{Far, LaneId};
use crate::shard::{Input, Shard};

/// Frames taken from one lane in one turn: the others have theirs before it has more.
const FRAMES_TURN_MAX: usize = 256;
/// Bytes of frames that wait for room in a lane's ring. Beyond: the lane is closed; its gateway connects anew, registers
/// its users again and peeks, so nothing is lost but time.
const BACKLOG_BYTES_MAX: usize = 8 << 20;

/// The number of whoever calls this process; those whom it calls have others ([`Dial`](carillon_link::Dial)).
const CALLER: Peer = Peer(0);

struct Lane {
    end: LaneEnd,
    backlog: VecDeque<AlignedVec>,
    backlog_bytes: usize,
    is_overflowed: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<LaneId, Lane>,
    arrived_count: u32,
    /// Lanes to which something was sent this turn, or which have a backlog.
    touched: Vec<LaneId>,
}

impl Lanes {
    /// A new lane, with a number that no other ever had.
    pub(super) fn arrived(&mut self, now: Time, arrival: Arrival, shard: &mut Shard) {
        let far = match (arrival.from, arrival.peer) {
            (Role::Gateway, _) => Far::Gateway,
            (Role::Router, CALLER) => Far::Caller,
            (Role::Router, _) => Far::Called,
        };
        let end = arrival.lane;
        let lane = LaneId(self.arrived_count);
        // Four thousand million lanes in one life: a number used twice would give an answer to the wrong session.
        self.arrived_count = self.arrived_count.checked_add(1).expect("lanes are numbered once");
        self.lanes
            .insert(lane, Lane { end, backlog: VecDeque::new(), backlog_bytes: 0, is_overflowed: false });
        shard.handle(now, Input::LaneUp { lane, far });
    }

    /// Hands the shard what came; `true`: more is waiting.
    pub(super) fn receive(&mut self, now: Time, shard: &mut Shard) -> bool {
        let mut has_more = false;
        let mut closed = Vec::new();
        for (lane, at) in &mut self.lanes {
            let lane = *lane;
            let received =
                at.end.receive(FRAMES_TURN_MAX, |frame| shard.handle(now, Input::LaneFrame { lane, frame }));
            has_more |= received.more;
            if received.closed {
                closed.push(lane);
            }
            if !at.backlog.is_empty() {
                self.touched.push(lane);
            }
        }
        for lane in closed {
            self.lanes.remove(&lane);
            shard.handle(now, Input::LaneDown { lane });
        }
        has_more
    }

    /// Puts a frame into the ring, or behind it.
    pub(super) fn send(&mut self, lane: LaneId, frame: AlignedVec) {
        let Some(at) = self.lanes.get_mut(&lane) else { return };
        if at.backlog.is_empty() {
            self.touched.push(lane);
            match at.end.send(&frame) {
                // A closed end is found when it is received from.
                Ok(()) | Err(SendError::Closed) => return,
                Err(SendError::Full) => {}
                Err(SendError::TooLarge) => {
                    tracing::error!(
                        bytes = frame.len(),
                        "a frame is longer than any lane takes; closing this one"
                    );
                    at.is_overflowed = true;
                    return;
                }
            }
        }
        at.backlog_bytes += frame.len();
        at.backlog.push_back(frame);
        at.is_overflowed |= at.backlog_bytes > BACKLOG_BYTES_MAX;
    }

    /// Moves backlogs on and tells the far ends; closes lanes that overflowed. `true`: the shard was told of such.
    pub(super) fn flush(&mut self, now: Time, shard: &mut Shard) -> bool {
        let mut has_closed = false;
        for lane in std::mem::take(&mut self.touched) {
            let Some(at) = self.lanes.get_mut(&lane) else { continue };
            if at.is_overflowed {
                shard.meter().add(Metric::LanesOverflowed, 1);
                self.lanes.remove(&lane);
                shard.handle(now, Input::LaneDown { lane });
                has_closed = true;
                continue;
            }
            while let Some(frame) = at.backlog.front() {
                if at.end.send(frame) == Err(SendError::Full) {
                    break;
                }
                at.backlog_bytes -= frame.len();
                at.backlog.pop_front();
            }
            at.end.flush();
        }
        has_closed
    }

    /// Closes all, and tells which those were. (A lane that was closed is made anew by whoever made it.)
    pub(super) fn close_all(&mut self) -> Vec<LaneId> {
        self.touched.clear();
        std::mem::take(&mut self.lanes).into_keys().collect()
    }

    /// Closes a lane that the shard has forgotten.
    pub(super) fn close(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
    }
}
