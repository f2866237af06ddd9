//! The simulated world: the real gateway shards, the real router and the reference store, in one thread, in virtual
//! time, with everything between them made of chance from one seed. Clients speak the real protocol and check every
//! frame; at the end, when nothing has gone wrong for a while, the [`judge`] holds the whole log against everything
//! that anybody saw.
//!
//! # Invariants
//! - A run is a function of its seed: [`run`] reads no clock, draws no other chance, and iterates nothing unordered.
//! - Nothing here decides what the parts do: it only brings bytes, frames, batches and answers from one to the next, late
//!   or not at all, in the orders that the real ground floors allow.

mod agenda;
mod book;
pub mod census;
mod conversation;
mod device;
mod faults;
mod gateways;
mod judge;
mod lanes;
mod line;
mod members;
mod plan;
mod routers;
mod shrink;
mod sockets;
mod trace;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carillon_gateway::settings::Settings;
use carillon_node::prng::Prng;
use carillon_node::tokens::KeyTable;
use carillon_protocol::time::WallMs;
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::ops::Ownership;

use agenda::{Agenda, Event};
use book::Book;
pub use book::{FAULTS, Stats};
use device::Device;
use faults::{Crash, OrderFault};
use gateways::Gateway;
use lanes::{Lane, Place};
use plan::{CALM_MS, HUSH_MS, MS, Plan};
use routers::{OrderKind, Router};
pub use shrink::shrink;
use sockets::Socket;
pub use trace::Reader;
use trace::Trace;

/// The wall time at which every world begins: somewhere in 2026.
const WALL_START_MS: u64 = 1_790_000_000_000;
/// Events of one world. Beyond it something goes round in circles, which is a violation of its own.
const EVENTS_MAX: u64 = 3_000_000;

/// What all worlds share: settings are parsed and keys are made once.
pub struct Grounds {
    settings: Settings,
    keys: Arc<KeyTable>,
}

impl Grounds {
    /// The shipped settings and a key for tokens.
    #[must_use]
    pub fn new() -> Grounds {
        Grounds { settings: plan::defaults(), keys: Arc::new(KeyTable::from_secret("world", &[7; 32])) }
    }
}

/// The gateway's settings as they are shipped.
#[must_use]
pub fn default_settings() -> Settings {
    plan::defaults()
}

/// The router's, with nobody limited.
#[must_use]
pub fn default_shard_settings() -> carillon_router::shard::ShardSettings {
    plan::shard_defaults()
}

impl Default for Grounds {
    fn default() -> Grounds {
        Grounds::new()
    }
}

/// What became of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Broken promises, in words; empty: all was kept.
    pub violations: Vec<String>,
    /// The same for two runs that went the same way.
    pub trace_hash: u64,
    /// What was met.
    pub stats: Stats,
    /// What was to go wrong, by number.
    pub mishaps: Vec<String>,
}

/// Lives through the world of a seed. `reader` is told every step.
#[must_use]
pub fn run(grounds: &Grounds, seed: u64, reader: Option<Reader<'_>>) -> Outcome {
    run_without(grounds, seed, &BTreeSet::new(), reader)
}

/// The same, but for the mishaps of these numbers.
#[must_use]
pub fn run_without(
    grounds: &Grounds,
    seed: u64,
    without: &BTreeSet<usize>,
    reader: Option<Reader<'_>>,
) -> Outcome {
    let mut world = World::new(grounds, seed, without, reader);
    world.live();
    world.judge();
    let met = world.engine.faults().met();
    let World { mut book, trace, plan, .. } = world;
    book.stats.conflicts = met.conflict;
    book.stats.unknown_commits = met.unknown;
    book.stats.too_old_commits = met.too_old;
    book.stats.slow_commits = met.slow;
    book.violations.dedup();
    let mishaps = plan.mishaps.iter().map(ToString::to_string).collect();
    Outcome { violations: book.violations, trace_hash: trace.hash(), stats: book.stats, mishaps }
}

/// See the module.
struct World<'a> {
    now: u64,
    agenda: Agenda,
    prng: Prng,
    plan: Plan,
    keys: Arc<KeyTable>,
    engine: Arc<Memory>,
    routers: Vec<Router>,
    gateways: Vec<Gateway>,
    lanes: Vec<Lane>,
    sockets: Vec<Socket>,
    devices: Vec<Device>,
    book: Book,
    trace: Trace<'a>,
    /// How far the wall clock is off.
    wall_offset_ms: i64,
    /// Nothing goes wrong any more.
    is_calm: bool,
    /// Everything takes this many times as long.
    slowness: u64,
    /// A crash that waits for its moment.
    armed: Option<(usize, Crash)>,
    /// What the next transaction of this kind of any lease meets.
    armed_order: Option<(OrderKind, OrderFault)>,
    /// Who owns what, until somebody changes it: reading all slots for every poll would be most of what a world does.
    shown: Option<Ownership>,
    /// A transaction about it may still come.
    is_moving: bool,
    /// From where nothing gets to where, and until when.
    blocks: BTreeMap<(Place, Place), u64>,
}

impl<'a> World<'a> {
    fn new(grounds: &Grounds, seed: u64, without: &BTreeSet<usize>, reader: Option<Reader<'a>>) -> World<'a> {
        let mut prng = Prng::new(seed);
        let plan = Plan::draw(&mut prng, &grounds.settings);
        let engine = Arc::new(Memory::new(Options { lanes_count: plan.commit_lanes_count }));
        let gateways = (0..plan.gateways_count).map(|_| Gateway::away()).collect();
        let mut world = World {
            now: 0,
            agenda: Agenda::default(),
            prng,
            keys: Arc::clone(&grounds.keys),
            engine,
            routers: (0..plan.routers_count).map(|number| Router::away(number, true)).collect(),
            gateways,
            lanes: Vec::new(),
            sockets: Vec::new(),
            devices: Vec::new(),
            book: Book::default(),
            trace: Trace::new(reader),
            wall_offset_ms: 0,
            is_calm: false,
            slowness: 1,
            armed: None,
            armed_order: None,
            shown: None,
            is_moving: false,
            blocks: BTreeMap::new(),
            plan,
        };
        world.populate();
        let chance_seed = world.prng.next_u64();
        world.engine.faults().seed(chance_seed, world.plan.chances);
        for router in 0..world.plan.routers_count {
            let at = world.prng.below(200 * MS);
            world.agenda.put(at, Event::RouterStart { router });
        }
        for gateway in 0..world.plan.gateways_count {
            world.start_gateway(gateway);
        }
        let calm_at = world.plan.faults_ns;
        world.agenda.put(calm_at, Event::Calm);
        world.agenda.put(calm_at + HUSH_MS * MS, Event::Hush);
        let mishaps: Vec<(usize, u64)> =
            world.plan.mishaps.iter().enumerate().map(|(number, mishap)| (number, mishap.at)).collect();
        for (number, at) in mishaps.into_iter().filter(|(number, _)| !without.contains(number)) {
            world.agenda.put(at, Event::Fault { number });
        }
        for number in 0..world.plan.late_conversations_count {
            let at = world.prng.below(calm_at);
            world.agenda.put(at, Event::Create { number });
        }
        for number in 0..world.plan.changes_count {
            let at = world.prng.below(calm_at);
            world.agenda.put(at, Event::Change { number });
        }
        world
    }

    fn live(&mut self) {
        let end = self.plan.faults_ns + CALM_MS * MS;
        while let Some((at, event)) = self.agenda.next(end) {
            self.now = at;
            self.happen(event);
            if self.trace.count() > EVENTS_MAX {
                self.book.wrong("G13", "the world goes round in circles");
                return;
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::GatewayTurn { gateway, life } => self.gateway_turn(gateway, life),
            Event::GatewayStart { gateway } => self.start_gateway(gateway),
            Event::RouterTurn { router, life } => self.router_turn(router, life),
            Event::RouterStart { router } => self.start_router(router),
            Event::Commit { router, life, commit_lane, ops } => self.commit(router, life, commit_lane, ops),
            Event::Committed { router, life, commit_lane, at, results } => {
                self.committed(router, life, commit_lane, at, results)
            }
            Event::Read { router, life, ticket, query } => self.read(router, life, ticket, query),
            Event::Answered { router, life, ticket, answer } => self.answered(router, life, ticket, answer),
            Event::Order { router, life, order } => self.order(router, life, order),
            Event::Told { router, life, told } => self.told(router, life, told),
            Event::LaneConnect { gateway, life, peer } => self.connect_lane(gateway, life, peer),
            Event::LaneDial { router, process, address } => self.dial_lane(router, process, address),
            Event::LaneSilent { lane } => self.lane_silent(lane),
            Event::LaneFrame { lane, way } => self.lane_frame(lane, way),
            Event::LaneLost { lane, way } => self.lane_lost(lane, way),
            Event::Accept { socket } => self.accept(socket),
            Event::Up { socket } => self.up(socket),
            Event::Down { socket } => self.down(socket),
            Event::Hangup { socket } => self.hang_up(socket),
            Event::Linger { socket } => self.linger(socket),
            Event::Device { device, at } => self.wake_device(device, at),
            Event::Fault { number } => self.mishap(number),
            Event::Create { number } => self.create(number),
            Event::Change { number } => self.change_members(number),
            Event::Land => {
                self.engine.land();
                self.may_have_moved();
            }
            Event::Room => self.engine.faults().full(false),
            Event::Calm => self.calm(),
            Event::Hush => self.hush(),
        }
    }

    fn wall(&self) -> WallMs {
        let wall = WALL_START_MS + self.now / MS;
        WallMs(wall.saturating_add_signed(self.wall_offset_ms))
    }

    /// A time from a tenth of `slowest_ns` to all of it; now and then ten times as long.
    fn delay(&mut self, slowest_ns: u64) -> u64 {
        let drawn = self.prng.between(slowest_ns / 10, slowest_ns) + 1;
        if self.is_calm {
            return drawn.min(10 * MS);
        }
        let spike = if self.prng.chance(1, 50) { 10 } else { 1 };
        drawn * spike * self.slowness
    }

    fn note(&mut self, tag: &'static str, numbers: [u64; 3], words: impl FnOnce() -> String) {
        self.trace.note(self.now, tag, numbers, words);
    }
}
