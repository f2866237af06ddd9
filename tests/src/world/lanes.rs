//! Link lanes of the simulated world: ordered frames with a latency, until the lane breaks. Then each end finds out in its
//! own time, and what was under way arrives up to some point.

use carillon_protocol::frame::{self, Frame, LinkFrame, Open};
use carillon_router::outbox::LaneId;
use rkyv::util::AlignedVec;
use std::collections::VecDeque;

use super::World;
use super::agenda::Event;
use super::gateways::GatewayInput;
use super::plan::MS;
use super::routers::LaneInput;

/// Bytes under way in one direction. Beyond: the lane breaks, as the real ones close.
const LANE_BYTES_MAX: usize = 4 << 20;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the router.
    Up,
    /// To the gateway.
    Down,
}

/// One direction of a lane.
#[derive(Default)]
struct Half {
    frames: VecDeque<AlignedVec>,
    bytes: usize,
    /// When the last frame arrives: later ones are behind it.
    last_at: u64,
    /// What arrives after this is lost.
    cut_at: Option<u64>,
    /// The receiving end knows.
    is_closed: bool,
}

/// A lane between a gateway and the router.
pub(super) struct Lane {
    gateway: usize,
    gateway_life: u32,
    router_life: u32,
    pub(super) id: LaneId,
    up: Half,
    down: Half,
    /// The gateway has read the router's `Open`.
    is_open: bool,
}

impl Lane {
    fn half(&mut self, way: Way) -> &mut Half {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    fn is_broken(&self) -> bool {
        self.up.cut_at.is_some()
    }
}

impl World<'_> {
    pub(super) fn connect_lane(&mut self, gateway: usize, life: u32) {
        let at = &self.gateways[gateway];
        if at.life != life || !at.is_up() || at.lane.is_some() {
            return;
        }
        let Some(id) = self.router.next_lane() else {
            let again = self.now + self.prng.between(10, 200) * MS;
            self.agenda.put(again, Event::LaneConnect { gateway, life });
            return;
        };
        let lane = self.lanes.len();
        let (gateway_life, router_life) = (life, self.router.life);
        let halves = (Half::default(), Half::default());
        self.lanes.push(Lane {
            gateway,
            gateway_life,
            router_life,
            id,
            up: halves.0,
            down: halves.1,
            is_open: false,
        });
        self.gateways[gateway].lane = Some(lane);
        self.router.lanes.insert(id, lane);
        self.note("lane", [lane as u64, gateway as u64, 0], || {
            format!("{lane} between gateway {gateway} and the router")
        });
        let epoch = self.gateways[gateway].epoch;
        self.send_frame(lane, Way::Up, Open { incarnation: epoch, shard: gateway as u16 }.to_frame());
        self.router_input(LaneInput::Up(id));
    }

    /// Puts a frame on a lane.
    pub(super) fn send_frame(&mut self, lane: usize, way: Way, frame: AlignedVec) {
        let delay = self.delay(self.plan.link_ns);
        let now = self.now;
        let half = self.lanes[lane].half(way);
        if half.cut_at.is_some_and(|cut_at| cut_at <= now) {
            return;
        }
        half.bytes += frame.len();
        half.frames.push_back(frame);
        half.last_at = (now + delay).max(half.last_at);
        let (at, is_full) = (half.last_at, half.bytes > LANE_BYTES_MAX);
        self.agenda.put(at, Event::LaneFrame { lane, way });
        if is_full {
            self.break_lane(lane);
        }
    }

    pub(super) fn lane_frame(&mut self, lane: usize, way: Way) {
        let now = self.now;
        let half = self.lanes[lane].half(way);
        let Some(frame) = half.frames.pop_front() else { return };
        half.bytes -= frame.len();
        if half.is_closed || half.cut_at.is_some_and(|cut_at| cut_at < now) {
            return;
        }
        let Lane { gateway, gateway_life, router_life, id, is_open, .. } = self.lanes[lane];
        match way {
            Way::Up if self.router.is_life(router_life) => self.router_input(LaneInput::Frame(id, frame)),
            Way::Down if self.gateways[gateway].is_life(gateway_life) => {
                if is_open {
                    self.gateway_input(gateway, GatewayInput::LaneFrame(frame));
                } else if let Ok(Frame::Open(open)) = frame::read(&frame) {
                    self.lanes[lane].is_open = true;
                    self.gateway_input(gateway, GatewayInput::LaneUp(open.incarnation.to_native()));
                } else {
                    self.book.wrong("lane", "the first frame of a router is not Open");
                }
            }
            _ => {}
        }
    }

    /// The lane is lost, at once for what is sent from now on. Both ends find out later.
    pub(super) fn break_lane(&mut self, lane: usize) {
        if self.lanes[lane].is_broken() {
            return;
        }
        self.book.stats.lanes_lost += 1;
        self.note("lane lost", [lane as u64, 0, 0], || format!("{lane}"));
        for way in [Way::Up, Way::Down] {
            let cut_at = self.now + self.prng.below(self.plan.link_ns + 1);
            let slowest = if self.prng.chance(1, 4) { 800 * MS } else { 5 * MS };
            let found_at = cut_at + self.prng.below(slowest);
            self.lanes[lane].half(way).cut_at = Some(cut_at);
            self.agenda.put(found_at + 1, Event::LaneLost { lane, way });
        }
    }

    pub(super) fn lane_lost(&mut self, lane: usize, way: Way) {
        let half = self.lanes[lane].half(way);
        if std::mem::replace(&mut half.is_closed, true) {
            return;
        }
        half.frames.clear();
        half.bytes = 0;
        let Lane { gateway, gateway_life, router_life, id, is_open, .. } = self.lanes[lane];
        match way {
            Way::Up if self.router.is_life(router_life) && self.router.lanes.remove(&id).is_some() => {
                self.router_input(LaneInput::Down(id));
            }
            Way::Down
                if self.gateways[gateway].is_life(gateway_life)
                    && self.gateways[gateway].lane == Some(lane) =>
            {
                self.gateways[gateway].lane = None;
                if is_open {
                    self.gateway_input(gateway, GatewayInput::LaneDown);
                }
                let again = self.now + self.prng.between(1, 100) * MS;
                self.agenda.put(again, Event::LaneConnect { gateway, life: gateway_life });
            }
            _ => {}
        }
    }

    /// One end closes the lane itself: it hears nothing more of it.
    pub(super) fn close_lane(&mut self, lane: usize, by: Way) {
        self.break_lane(lane);
        // The end that receives in this direction is the one that closes.
        self.lanes[lane].half(by).is_closed = true;
        if by == Way::Up {
            let id = self.lanes[lane].id;
            self.router.lanes.remove(&id);
        }
    }

    /// All lanes of a process that died.
    pub(super) fn break_lanes(&mut self, lanes: Vec<usize>) {
        for lane in lanes {
            self.break_lane(lane);
        }
    }
}
