//! What goes wrong, drawn from the plan's weights at random moments, until the world is calm.

use carillon_store::backend::memory;

use super::World;
use super::agenda::Event;
use super::gateways::GatewayInput;
use super::plan::MS;

/// As many attempts as a batch is given: then its outcome stays unknown.
const ATTEMPTS: usize = carillon_store::retry::ATTEMPTS_MAX as usize;

/// A crash of the router that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// With a batch at the committer.
    BeforeCommit,
    /// With a batch committed and not reported (F3).
    AfterCommit,
    /// With an ack sent, and nothing of the rest of that turn (F5).
    AfterAck,
}

impl World<'_> {
    pub(super) fn plan_fault(&mut self) {
        let gap = self.prng.below(2 * self.plan.fault_gap_ns) + 1;
        self.agenda.put(self.now + gap, Event::Fault);
    }

    pub(super) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let weights = self.plan.weights.list();
        let mut drawn = self.prng.below(weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        });
        let gateway = self.prng.index(self.gateways.len());
        match kind {
            Some(0) => {
                if let Some(lane) = self.lane_of(gateway) {
                    self.break_lane(lane);
                }
            }
            Some(1) if self.gateways[gateway].is_up() => {
                self.book.stats.gateway_crashes += 1;
                self.kill_gateway(gateway);
            }
            Some(2) => match self.prng.below(4) {
                0 => self.router_crash(),
                1 => self.armed = Some(Crash::BeforeCommit),
                2 => self.armed = Some(Crash::AfterCommit),
                _ => self.armed = Some(Crash::AfterAck),
            },
            Some(3) => {
                let device = self.prng.index(self.devices.len());
                if let Some(socket) = self.devices[device].socket {
                    self.cut(socket);
                }
            }
            Some(4) => {
                let device = self.prng.index(self.devices.len());
                let until = self.now + self.prng.between(100, 4_000) * MS;
                if let Some(socket) = self.devices[device].socket {
                    self.sockets[socket].stalled_until = until;
                }
            }
            Some(5) => {
                let until = self.now + self.prng.between(100, 5_000) * MS;
                if self.prng.chance(1, 2) {
                    self.router.paused_until = until;
                } else {
                    self.gateways[gateway].paused_until = until;
                }
            }
            Some(6) => self.unknown(),
            Some(7) => {
                self.engine.faults().full(true);
                let at = self.now + self.prng.between(50, 1_500) * MS;
                self.agenda.put(at, Event::Room);
            }
            Some(8) => {
                let hours = [-1, 1, 24, 24 * 365 * 15][self.prng.index(4)];
                self.wall_offset_ms = hours * 3_600_000;
            }
            Some(9) if self.prng.chance(1, 2) && self.router.is_up() => {
                self.book.stats.drains += 1;
                self.drain_router();
            }
            Some(9) if self.gateways[gateway].accepts() => {
                self.book.stats.drains += 1;
                self.gateway_input(gateway, GatewayInput::Drain);
            }
            Some(10) => self.slowness = [1, 1, 4, 20][self.prng.index(4)],
            _ => {}
        }
        self.note("fault", [kind.unwrap_or(99) as u64, gateway as u64, 0], || {
            format!("kind {kind:?}, gateway {gateway}")
        });
        self.plan_fault();
    }

    /// A batch whose outcome stays unknown: every attempt is, and one of them may have done it, or may do it later.
    fn unknown(&mut self) {
        let mut script = vec![Some(memory::Fault::UnknownLost); ATTEMPTS];
        let effective = self.prng.index(ATTEMPTS);
        script[effective] = Some(match self.prng.below(4) {
            0 => memory::Fault::UnknownLost,
            1 => memory::Fault::UnknownCommitted,
            _ => memory::Fault::UnknownLate { steps: self.prng.below(200) as u32 },
        });
        self.engine.faults().script(script);
    }

    /// From now on nothing goes wrong.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.armed = None;
        self.slowness = 1;
        self.wall_offset_ms = 0;
        self.engine.faults().calm();
        self.note("calm", [0; 3], String::new);
        self.router.paused_until = 0;
        self.plan_router_turn(self.now);
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].paused_until = 0;
            self.plan_paused_gateway(gateway);
        }
        for socket in 0..self.sockets.len() {
            self.sockets[socket].stalled_until = 0;
        }
    }
}
