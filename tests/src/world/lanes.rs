//! Link lanes of the simulated world: ordered frames with a latency, until the lane breaks. Then each end finds out in its
//! own time, and what was under way arrives up to some point. They join gateways with routers, and routers in pairs.
//!
//! Also who cannot reach whom: what is sent that way waits until it can, and a lane on which that takes too long breaks.

use std::collections::VecDeque;

use carillon_link::Peer;
use carillon_protocol::frame::{self, Frame, LinkFrame as _, Open};
use carillon_router::outbox::{Far, LaneId};
use rkyv::util::AlignedVec;

use super::World;
use super::agenda::Event;
use super::gateways::GatewayInput;
use super::plan::MS;
use super::routers::RouterInput;
use super::wire;

/// Bytes under way in one direction. Beyond: the lane breaks, as the real ones close.
const LANE_BYTES_MAX: usize = 4 << 20;
/// The real lanes are given up when nothing was heard for so long.
const SILENCE_MS: u64 = 3_000;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the router that was called.
    Up,
    /// To whoever called.
    Down,
}

impl Way {
    pub(super) fn back(self) -> Way {
        match self {
            Way::Up => Way::Down,
            Way::Down => Way::Up,
        }
    }
}

/// A place that others reach, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Gateway(usize),
    Router(usize),
    Store,
}

/// What stands at an end of a lane, in which of its lives, and how it calls the lane.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Gateway { gateway: usize, life: u32, peer: Peer },
    Router { router: usize, life: u32, id: LaneId },
}

impl End {
    fn place(self) -> Place {
        match self {
            End::Gateway { gateway, .. } => Place::Gateway(gateway),
            End::Router { router, .. } => Place::Router(router),
        }
    }
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

/// A lane.
pub(super) struct Lane {
    caller: End,
    called: End,
    up: Half,
    down: Half,
    /// A gateway that called has read the router's `Open`.
    is_open: bool,
}

impl Lane {
    fn half(&mut self, way: Way) -> &mut Half {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// Who receives what goes this way.
    fn receiver(&self, way: Way) -> End {
        match way {
            Way::Up => self.called,
            Way::Down => self.caller,
        }
    }

    fn is_broken(&self) -> bool {
        self.up.cut_at.is_some()
    }

    pub(super) fn joins_routers(&self) -> bool {
        matches!(self.caller, End::Router { .. })
    }
}

impl World<'_> {
    /// A gateway calls the router that a peer of its own leads to.
    pub(super) fn connect_lane(&mut self, gateway: usize, life: u32, peer: Peer) {
        let at = &self.gateways[gateway];
        let is_wanted = at.is_life(life) && !at.lanes.contains_key(&peer);
        let Some(address) = at.peers.get(&peer).filter(|_| is_wanted) else { return };
        let Some(router) = self.reached(Place::Gateway(gateway), address) else {
            let again = self.now + self.prng.between(10, 200) * MS;
            self.agenda.put(again, Event::LaneConnect { gateway, life, peer });
            return;
        };
        let lane = self.join(End::Gateway { gateway, life, peer }, router, Far::Gateway);
        let at = &mut self.gateways[gateway];
        at.lanes.insert(peer, lane);
        let open = Open { incarnation: at.epoch, shard: gateway as u16 };
        self.send_frame(lane, Way::Up, open.to_frame());
    }

    /// A router calls another one, as long as it wants to.
    pub(super) fn dial_lane(&mut self, router: usize, process: u32, address: String) {
        let at = &self.routers[router];
        if at.process != process || at.dials.get(&address) != Some(&None) {
            return;
        }
        let called = self.reached(Place::Router(router), &address);
        let (Some(called), true) = (called, at.is_up()) else {
            let again = self.now + self.prng.between(10, 200) * MS;
            self.agenda.put(again, Event::LaneDial { router, process, address });
            return;
        };
        let id = self.routers[router].next_lane();
        let life = self.routers[router].life;
        let lane = self.join(End::Router { router, life, id }, called, Far::Caller);
        self.routers[router].lanes.insert(id, (lane, Way::Down));
        self.routers[router].dials.insert(address, Some(lane));
        self.router_input(router, RouterInput::Up(id, Far::Called));
    }

    /// The router at an address, if it is there and both can reach each other.
    fn reached(&self, from: Place, address: &str) -> Option<usize> {
        let router = self.routers.iter().position(|router| router.address == address)?;
        let to = Place::Router(router);
        let is_there = self.routers[router].is_up() && self.routers[router].paused_until <= self.now;
        (is_there && self.blocked_until(from, to).is_none() && self.blocked_until(to, from).is_none())
            .then_some(router)
    }

    fn join(&mut self, caller: End, router: usize, far: Far) -> usize {
        let id = self.routers[router].next_lane();
        let called = End::Router { router, life: self.routers[router].life, id };
        let lane = self.lanes.len();
        let (up, down) = (Half::default(), Half::default());
        self.lanes.push(Lane { caller, called, up, down, is_open: false });
        self.routers[router].lanes.insert(id, (lane, Way::Up));
        self.note("lane", [lane as u64, router as u64, 0], || {
            format!("{lane} from {:?} to router {router}", caller.place())
        });
        self.router_input(router, RouterInput::Up(id, far));
        lane
    }

    /// Puts a frame on a lane.
    pub(super) fn send_frame(&mut self, lane: usize, way: Way, frame: AlignedVec) {
        let said = self.trace.is_read().then(|| wire::words(&frame));
        let delay = self.delay(self.plan.link_ns);
        let now = self.now;
        let half = self.lanes[lane].half(way);
        if half.cut_at.is_some_and(|cut_at| cut_at <= now) {
            return;
        }
        let bytes_count = frame.len();
        half.bytes += bytes_count;
        half.frames.push_back(frame);
        half.last_at = (now + delay).max(half.last_at);
        let (at, is_full) = (half.last_at, half.bytes > LANE_BYTES_MAX);
        self.agenda.put(at, Event::LaneFrame { lane, way });
        let said = said.unwrap_or_default();
        self.note("frame", [lane as u64, bytes_count as u64, 0], || format!("lane {lane} {way:?}: {said}"));
        if is_full {
            self.break_lane(lane);
        }
    }

    pub(super) fn lane_frame(&mut self, lane: usize, way: Way) {
        let now = self.now;
        let (from, to) =
            (self.lanes[lane].receiver(way.back()).place(), self.lanes[lane].receiver(way).place());
        if let Some(until) = self.blocked_until(from, to) {
            self.agenda.put(until, Event::LaneFrame { lane, way });
            return;
        }
        let half = self.lanes[lane].half(way);
        let Some(frame) = half.frames.pop_front() else { return };
        half.bytes -= frame.len();
        if half.is_closed || half.cut_at.is_some_and(|cut_at| cut_at < now) {
            return;
        }
        match self.lanes[lane].receiver(way) {
            End::Router { router, life, id } if self.routers[router].is_life(life) => {
                self.router_input(router, RouterInput::Frame(id, frame));
            }
            End::Gateway { gateway, life, peer } if self.gateways[gateway].is_life(life) => {
                if self.lanes[lane].is_open {
                    self.gateway_input(gateway, GatewayInput::LaneFrame(peer, frame));
                } else if let Ok(Frame::Open(open)) = frame::read(&frame) {
                    self.lanes[lane].is_open = true;
                    self.gateway_input(gateway, GatewayInput::LaneUp(peer, open.incarnation.to_native()));
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
        self.note("lane lost", [lane as u64, 0, 0], || format!("{lane}"));
        for way in [Way::Up, Way::Down] {
            let cut_at = self.now + self.prng.below(self.plan.link_ns + 1);
            let slowest = if self.prng.chance(1, 4) { 800 * MS } else { 5 * MS };
            let found_at = cut_at + self.prng.below(slowest);
            self.lanes[lane].half(way).cut_at = Some(cut_at);
            self.agenda.put(found_at + 1, Event::LaneLost { lane, way });
        }
    }

    pub(super) fn lane_silent(&mut self, lane: usize) {
        // Calm ends every silence before its time.
        if !self.is_calm {
            self.break_lane(lane);
        }
    }

    pub(super) fn lane_lost(&mut self, lane: usize, way: Way) {
        let half = self.lanes[lane].half(way);
        if std::mem::replace(&mut half.is_closed, true) {
            return;
        }
        half.frames.clear();
        half.bytes = 0;
        match self.lanes[lane].receiver(way) {
            End::Router { router, life, id } => {
                let is_its = self.routers[router].is_life(life) && self.let_go_of_lane(router, id);
                if is_its {
                    self.router_input(router, RouterInput::Down(id));
                }
            }
            End::Gateway { gateway, life, peer } => {
                let at = &mut self.gateways[gateway];
                if at.is_life(life) && at.lanes.get(&peer) == Some(&lane) {
                    at.lanes.remove(&peer);
                    if self.lanes[lane].is_open {
                        self.gateway_input(gateway, GatewayInput::LaneDown(peer));
                    }
                    let again = self.now + self.prng.between(1, 100) * MS;
                    self.agenda.put(again, Event::LaneConnect { gateway, life, peer });
                }
            }
        }
    }

    /// A router has one lane less; one that it made itself it makes anew.
    fn let_go_of_lane(&mut self, router: usize, id: LaneId) -> bool {
        let Some((lane, _)) = self.routers[router].lanes.remove(&id) else { return false };
        let process = self.routers[router].process;
        let dialled = self.routers[router].dials.iter_mut().find(|(_, made)| **made == Some(lane));
        if let Some((address, made)) = dialled {
            *made = None;
            let address = address.clone();
            let again = self.now + self.prng.between(1, 100) * MS;
            self.agenda.put(again, Event::LaneDial { router, process, address });
        }
        true
    }

    /// A router closes a lane itself: it hears nothing more of it.
    pub(super) fn close_lane(&mut self, router: usize, id: LaneId) {
        if let Some((lane, way)) = self.routers[router].lanes.get(&id).copied() {
            self.break_lane(lane);
            self.lanes[lane].half(way).is_closed = true;
            self.let_go_of_lane(router, id);
        }
    }

    /// All lanes of a process that died, or forgot everything.
    pub(super) fn break_lanes(&mut self, lanes: Vec<usize>) {
        for lane in lanes {
            self.break_lane(lane);
        }
    }

    /// Lanes that are up, of routers with each other or with gateways.
    pub(super) fn live_lanes(&self, of_routers: bool) -> Vec<usize> {
        let numbered = self.lanes.iter().enumerate();
        let live = numbered.filter(|(_, lane)| !lane.is_broken() && lane.joins_routers() == of_routers);
        live.map(|(number, _)| number).collect()
    }

    /// Until when nothing gets from one place to another; `None`: it does.
    pub(super) fn blocked_until(&self, from: Place, to: Place) -> Option<u64> {
        self.blocks.get(&(from, to)).copied().filter(|until| *until > self.now)
    }

    /// From now on nothing gets from one place to another for a while. What is under way there waits.
    pub(super) fn block(&mut self, from: Place, to: Place, until: u64) {
        let known = self.blocks.entry((from, to)).or_insert(0);
        *known = (*known).max(until);
        self.silence(until, |one, other| [one, other].contains(&from) && [one, other].contains(&to));
    }

    /// A place stands still for a while: the far ends of its lanes hear nothing.
    pub(super) fn stand_still(&mut self, place: Place, until: u64) {
        self.silence(until, |one, other| [one, other].contains(&place));
    }

    /// Nothing is heard on these lanes until then: too long for some.
    fn silence(&mut self, until: u64, is_silent: impl Fn(Place, Place) -> bool) {
        let silent_at = self.now + SILENCE_MS * MS;
        if silent_at >= until {
            return;
        }
        for lane in 0..self.lanes.len() {
            let Lane { caller, called, .. } = &self.lanes[lane];
            if !self.lanes[lane].is_broken() && is_silent(caller.place(), called.place()) {
                self.agenda.put(silent_at, Event::LaneSilent { lane });
            }
        }
    }

    /// Everybody reaches everybody.
    pub(super) fn unblock(&mut self) {
        self.blocks.clear();
        // What waits is on the agenda for later: it comes now.
        for lane in 0..self.lanes.len() {
            for way in [Way::Up, Way::Down] {
                for _ in 0..self.lanes[lane].half(way).frames.len() {
                    self.agenda.put(self.now, Event::LaneFrame { lane, way });
                }
            }
        }
    }
}
