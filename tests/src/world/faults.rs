//! What goes wrong: drawn from the seed before anything happens, so that each can be left out, until the world is calm.

use carillon_node::prng::Prng;
use carillon_store::backend::memory;

use super::World;
use super::agenda::Event;
use super::gateways::GatewayInput;
use super::lanes::Place;
use super::plan::{CALM_SOCKET_BYTES, MS};
use super::routers::OrderKind;

/// As many attempts as a batch is given: then its outcome stays unknown.
const ATTEMPTS: usize = carillon_store::retry::ATTEMPTS_MAX as usize;
/// Places where a router can be, at most.
const ROUTERS_MAX: usize = 5;

/// A crash of a router that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// With a batch at the committer.
    BeforeCommit,
    /// With a batch committed and not reported (F3).
    AfterCommit,
    /// With an ack sent, and nothing of the rest of that turn (F5).
    AfterAck,
}

/// What goes wrong with a transaction of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderFault {
    /// Its router dies with it under way: it comes late, or never.
    CrashBefore,
    /// It is committed, and its router dies without hearing of it.
    CrashAfter,
    /// Nobody knows what became of it; what is left to chance about that comes from this seed.
    Unknown { seed: u64 },
}

/// A kind of mishap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    LaneBreak,
    GatewayCrash,
    RouterCrash,
    ClientCut,
    ClientStall,
    GatewayPause,
    RouterPause,
    Unknown,
    Full,
    WallJump,
    GatewayDrain,
    RouterRestart,
    Slow,
    // Only where several routers share the slots.
    RouterLaneBreak,
    RouterNap,
    RouterLeave,
    RouterJoin,
    GatewayPartition,
    RouterPartition,
    StoreCut,
    OrderCrash,
    OrderUnknown,
}

/// Each with how often it is drawn among the others; the second number is for worlds with several routers.
const KINDS: [(Kind, u64, u64); 22] = [
    (Kind::LaneBreak, 6, 6),
    (Kind::GatewayCrash, 2, 2),
    (Kind::RouterCrash, 4, 4),
    (Kind::ClientCut, 8, 6),
    (Kind::ClientStall, 4, 3),
    (Kind::GatewayPause, 1, 2),
    (Kind::RouterPause, 1, 4),
    (Kind::Unknown, 2, 2),
    (Kind::Full, 1, 1),
    (Kind::WallJump, 2, 2),
    (Kind::GatewayDrain, 1, 1),
    (Kind::RouterRestart, 1, 2),
    (Kind::Slow, 2, 2),
    (Kind::RouterLaneBreak, 0, 6),
    (Kind::RouterNap, 0, 3),
    (Kind::RouterLeave, 0, 2),
    (Kind::RouterJoin, 0, 3),
    (Kind::GatewayPartition, 0, 3),
    (Kind::RouterPartition, 0, 3),
    (Kind::StoreCut, 0, 3),
    (Kind::OrderCrash, 0, 4),
    (Kind::OrderUnknown, 0, 4),
];

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mishap {
    pub(super) at: u64,
    kind: Kind,
    /// Of everything about it that is left to chance.
    seed: u64,
}

impl std::fmt::Display for Mishap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {} ms", self.kind, self.at / MS)
    }
}

impl Mishap {
    /// Everything that goes wrong in a world, each kind of it in two worlds of three.
    pub(super) fn draw(prng: &mut Prng, is_shared: bool, faults_ns: u64, gap_ns: u64) -> Vec<Mishap> {
        let weigh = |(kind, sole, shared): (Kind, u64, u64)| {
            let weight = if is_shared { shared } else { sole };
            (kind, if prng.chance(1, 3) { 0 } else { weight })
        };
        let weights = KINDS.map(weigh);
        let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut mishaps = Vec::new();
        let mut at = prng.below(2 * gap_ns) + 1;
        while at < faults_ns && sum > 0 {
            let mut drawn = prng.below(sum);
            let kind = weights.iter().find(|(_, weight)| {
                let is_it = drawn < *weight;
                drawn = drawn.saturating_sub(*weight);
                is_it
            });
            mishaps.extend(kind.map(|(kind, _)| Mishap { at, kind: *kind, seed: prng.next_u64() }));
            at += prng.below(2 * gap_ns) + 1;
        }
        mishaps
    }
}

impl World<'_> {
    pub(super) fn mishap(&mut self, number: usize) {
        let Mishap { kind, seed, .. } = self.plan.mishaps[number];
        let mut chance = Prng::new(seed);
        let has_happened = self.go_wrong(kind, &mut chance);
        self.note("mishap", [number as u64, kind as u64, u64::from(has_happened)], || {
            format!("{number}: {kind:?}{}", if has_happened { "" } else { ", without effect" })
        });
    }

    /// Whether it did anything.
    fn go_wrong(&mut self, kind: Kind, chance: &mut Prng) -> bool {
        let gateway = chance.index(self.gateways.len());
        let router = chance.index(self.routers.len());
        let mut after_ms = |low: u64, high: u64| chance.between(low, high) * MS;
        match kind {
            Kind::LaneBreak | Kind::RouterLaneBreak => {
                let lanes = self.live_lanes(kind == Kind::RouterLaneBreak);
                let Some(lane) = lanes.get(chance.index(lanes.len())).copied() else { return false };
                let stats = &mut self.book.stats;
                let count = if kind == Kind::LaneBreak {
                    &mut stats.lanes_lost
                } else {
                    &mut stats.router_lanes_lost
                };
                *count += 1;
                self.break_lane(lane);
            }
            Kind::GatewayCrash => {
                if !self.gateways[gateway].is_up() {
                    return false;
                }
                self.book.stats.gateway_crashes += 1;
                self.kill_gateway(gateway);
            }
            Kind::RouterCrash => match chance.below(4) {
                0 => self.router_crash(router),
                1 => self.armed = Some((router, Crash::BeforeCommit)),
                2 => self.armed = Some((router, Crash::AfterCommit)),
                _ => self.armed = Some((router, Crash::AfterAck)),
            },
            Kind::ClientCut | Kind::ClientStall => {
                let until = self.now + after_ms(100, 4_000);
                let device = chance.index(self.devices.len());
                let Some(socket) = self.devices[device].socket else { return false };
                if kind == Kind::ClientCut {
                    self.cut(socket);
                } else {
                    self.book.stats.stalls += 1;
                    self.sockets[socket].stalled_until = until;
                }
            }
            Kind::GatewayPause => {
                self.book.stats.gateway_pauses += 1;
                let until = self.now + after_ms(100, 5_000);
                self.gateways[gateway].paused_until = until;
                self.stand_still(Place::Gateway(gateway), until);
            }
            Kind::RouterPause | Kind::RouterNap => {
                if !self.routers[router].is_up() {
                    return false;
                }
                let longest_ms = [300, 3_000, 30_000][chance.index(3)];
                let pause_ns = chance.between(100, longest_ms) * MS;
                if kind == Kind::RouterPause {
                    self.book.stats.router_pauses += 1;
                    self.routers[router].paused_until = self.now + pause_ns;
                } else {
                    self.book.stats.router_naps += 1;
                    self.routers[router].nap_ns = pause_ns;
                }
                self.stand_still(Place::Router(router), self.now + pause_ns);
            }
            Kind::Unknown => {
                self.book.stats.unknowns += 1;
                self.unknown(chance);
            }
            Kind::Full => {
                self.book.stats.disks_full += 1;
                self.engine.faults().full(true);
                self.agenda.put(self.now + after_ms(50, 1_500), Event::Room);
            }
            Kind::WallJump => {
                self.book.stats.wall_jumps += 1;
                let hours = [-1, 1, 24, 24 * 365 * 15][chance.index(4)];
                self.wall_offset_ms = hours * 3_600_000;
            }
            Kind::GatewayDrain => {
                if !self.gateways[gateway].accepts() {
                    return false;
                }
                self.book.stats.gateway_drains += 1;
                self.gateway_input(gateway, GatewayInput::Drain);
            }
            Kind::RouterRestart | Kind::RouterLeave => {
                let is_alone = self.routers.iter().filter(|router| router.is_wanted).count() < 2;
                // The first never leaves for good: gateways know it from their configuration.
                let for_good = kind == Kind::RouterLeave && router > 0 && !is_alone;
                if !self.routers[router].is_up() || (kind == Kind::RouterLeave && !for_good) {
                    return false;
                }
                let stats = &mut self.book.stats;
                let count = if for_good { &mut stats.router_leaves } else { &mut stats.router_restarts };
                *count += 1;
                self.drain_router(router, for_good);
            }
            Kind::RouterJoin => {
                let free = self.routers.iter().position(|router| !router.is_wanted && !router.is_up());
                let Some(router) = free.or_else(|| self.add_router()) else { return false };
                self.book.stats.router_joins += 1;
                self.routers[router].is_wanted = true;
                self.start_router(router);
            }
            Kind::GatewayPartition | Kind::RouterPartition => {
                let other = chance.index(self.routers.len());
                let place = if kind == Kind::GatewayPartition {
                    Place::Gateway(gateway)
                } else {
                    Place::Router(other)
                };
                if place == Place::Router(router) {
                    return false;
                }
                let stats = &mut self.book.stats;
                let count = if kind == Kind::GatewayPartition {
                    &mut stats.gateway_partitions
                } else {
                    &mut stats.router_partitions
                };
                *count += 1;
                self.cut_off(place, Place::Router(router), chance);
            }
            Kind::StoreCut => {
                self.book.stats.store_cuts += 1;
                self.cut_off(Place::Store, Place::Router(router), chance);
            }
            Kind::OrderCrash | Kind::OrderUnknown => {
                let fault = match (kind, chance.chance(1, 2)) {
                    (Kind::OrderUnknown, _) => OrderFault::Unknown { seed: chance.next_u64() },
                    (_, true) => OrderFault::CrashBefore,
                    (_, false) => OrderFault::CrashAfter,
                };
                self.armed_order = Some((OrderKind::draw(chance), fault));
            }
            Kind::Slow => {
                self.slowness = [1, 1, 4, 20][chance.index(4)];
                self.book.stats.slow_times += u64::from(self.slowness > 1);
            }
        }
        true
    }

    /// Two do not reach each other, one way or both.
    fn cut_off(&mut self, one: Place, other: Place, chance: &mut Prng) {
        let until = self.now + chance.between(100, 8_000) * MS;
        let ways = chance.below(3);
        if ways != 0 {
            self.block(one, other, until);
        }
        if ways != 1 {
            self.block(other, one, until);
        }
    }

    /// A batch whose outcome stays unknown: every attempt is, and one of them may have done it, or may do it later.
    pub(super) fn unknown(&mut self, chance: &mut Prng) {
        let mut script = vec![Some(memory::Fault::UnknownLost); ATTEMPTS];
        let effective = chance.index(ATTEMPTS);
        script[effective] = Some(match chance.below(4) {
            0 => memory::Fault::UnknownLost,
            1 => memory::Fault::UnknownCommitted,
            _ => memory::Fault::UnknownLate { steps: chance.below(200) as u32 },
        });
        self.engine.faults().script(script);
    }

    /// One more place where a router can be.
    fn add_router(&mut self) -> Option<usize> {
        let number = self.routers.len();
        (number < ROUTERS_MAX).then(|| {
            self.routers.push(super::routers::Router::away(number, false));
            number
        })
    }

    /// From now on nothing goes wrong.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        (self.armed, self.armed_order) = (None, None);
        self.slowness = 1;
        self.wall_offset_ms = 0;
        self.plan.socket_bytes = self.plan.socket_bytes.max(CALM_SOCKET_BYTES);
        self.engine.faults().calm();
        self.unblock();
        self.note("calm", [0; 3], String::new);
        for router in 0..self.routers.len() {
            self.routers[router].paused_until = 0;
            self.routers[router].nap_ns = 0;
            if self.routers[router].is_up() {
                self.plan_router_turn(router, self.now);
            }
        }
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].paused_until = 0;
            self.plan_paused_gateway(gateway);
        }
        for socket in 0..self.sockets.len() {
            self.sockets[socket].stalled_until = 0;
        }
    }
}
