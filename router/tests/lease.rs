//! Several routers share the slots of one store: leases over the reference engine, in virtual time, with crashes, pauses,
//! an unreachable store, and answers that are late or lost. A run is a function of its seed; a failure prints it.

use std::collections::{BTreeMap, BTreeSet};

use carillon_node::prng::Prng;
use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::lease::orders::{self, Hands};
use carillon_router::lease::{ANSWERS_FOR_MS, Input, Lease, Output, home};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::error::ReadError;
use carillon_store::ops::{self, Ownership};
use carillon_store::retry::{BatchError, commit_one};
use carillon_store::txn::{Abort, Engine, Txn};
use carillon_store::verb::Incarnation;

const MS: u64 = 1_000_000;
/// What is asked of the store is late by less than this.
const LATE_MS: u64 = 4;
/// Now and then it is as late as this.
const VERY_LATE_MS: u64 = 500;
const PAUSE_MS_MAX: u64 = 6_000;
/// Seeds of the one test that draws everything.
const ORDEALS_COUNT: u64 = 24;
/// Events of one run; more means that something goes round in circles.
const EVENTS_MAX: usize = 400_000;

/// What happens next.
#[derive(Debug)]
enum Event {
    /// What a lease put out reaches the store.
    Reach(usize, Incarnation, Output),
    /// A lease hears.
    Hear(usize, Incarnation, Input),
    /// A lease's timeout, or the end of a pause.
    Wake(usize),
    Crash(usize),
    Start(usize),
    Pause(usize, u64),
    Cut(bool),
}

#[derive(Default)]
struct Node {
    lease: Option<Lease>,
    incarnation: Incarnation,
    paused_until: Time,
    /// When the next wake is due that is on the agenda.
    wakes: BTreeSet<Time>,
    /// By slot: when it was last not accepted, until now.
    is_drained: bool,
}

struct World {
    engine: Memory,
    nodes: Vec<Node>,
    now: Time,
    agenda: BTreeMap<(Time, u64), Event>,
    events_count: u64,
    prng: Prng,
    /// What a poll shows, until somebody changes it: reading 4,096 rows for each would be most of the test.
    shown: Option<Ownership>,
    /// Nobody reaches the store.
    is_cut: bool,
    /// Whether answers get lost and are very late.
    is_rough: bool,
    seed: u64,
}

impl World {
    fn new(seed: u64, nodes_count: usize, is_rough: bool) -> World {
        let mut world = World {
            engine: Memory::new(Options { lanes_count: 16 }),
            nodes: (0..nodes_count).map(|_| Node::default()).collect(),
            now: Time(1_000 * MS),
            agenda: BTreeMap::new(),
            events_count: 0,
            prng: Prng::new(seed),
            shown: None,
            is_cut: false,
            is_rough,
            seed,
        };
        for node in 0..nodes_count {
            let at = world.prng.below(200);
            world.plan_ms(at, Event::Start(node));
        }
        world
    }

    fn plan_ms(&mut self, after_ms: u64, event: Event) {
        self.plan(self.now.after_ms(after_ms), event);
    }

    fn plan(&mut self, at: Time, event: Event) {
        self.events_count += 1;
        self.agenda.insert((at.max(self.now), self.events_count), event);
    }

    fn late(&mut self) -> u64 {
        let is_very = self.is_rough && self.prng.chance(1, 100);
        self.prng.below(if is_very { VERY_LATE_MS } else { LATE_MS } * MS)
    }

    fn run_ms(&mut self, millis: u64) {
        let end = self.now.after_ms(millis);
        for _ in 0..EVENTS_MAX {
            let Some(next) = self.agenda.first_entry().filter(|next| next.key().0 <= end) else {
                self.now = end;
                return;
            };
            let ((at, _), event) = next.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        panic!("seed {}: {EVENTS_MAX} events in {millis} ms", self.seed);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) => self.start(node),
            Event::Crash(node) => self.nodes[node].lease = None,
            Event::Pause(node, millis) => {
                self.nodes[node].paused_until = self.now.after_ms(millis);
                self.plan_ms(millis, Event::Wake(node));
            }
            Event::Cut(is_cut) => self.is_cut = is_cut,
            Event::Wake(node) => {
                self.nodes[node].wakes.remove(&self.now);
                self.hear(node, Input::Tick);
            }
            Event::Hear(node, incarnation, input) => {
                if self.nodes[node].incarnation != incarnation {
                    return;
                }
                let until = self.nodes[node].paused_until;
                if until > self.now {
                    // What came meanwhile is heard afterwards, in its order.
                    return self.plan(until, Event::Hear(node, incarnation, input));
                }
                self.hear(node, input);
            }
            Event::Reach(node, incarnation, output) => self.reach(node, incarnation, output),
        }
    }

    fn start(&mut self, node: usize) {
        if self.is_cut {
            return self.plan_ms(100, Event::Start(node));
        }
        let joined = self.control(&mut |txn| ops::join(txn, WallMs(1), "r"));
        let incarnation = joined.expect("a router may join").incarnation;
        self.shown = None;
        let lease = Some(Lease::new(incarnation, self.now));
        self.nodes[node] = Node { lease, incarnation, ..Node::default() };
        self.hear(node, Input::Tick);
    }

    fn hear(&mut self, node: usize, input: Input) {
        let now = self.now;
        if self.nodes[node].paused_until > now {
            return;
        }
        let Some(mut lease) = self.nodes[node].lease.take() else { return };
        lease.handle(now, input);
        let incarnation = self.nodes[node].incarnation;
        let mut is_over = false;
        while let Some(output) = lease.poll_output() {
            match output {
                Output::Gained(_) | Output::Left(_) => {}
                // What is in flight there takes a moment.
                Output::Leaving(_) => {
                    let after = self.prng.below(20);
                    self.plan_ms(after, Event::Hear(node, incarnation, Input::Quiet));
                }
                Output::Over => is_over = true,
                output => {
                    let at = Time(now.0 + self.late());
                    self.plan(at, Event::Reach(node, incarnation, output));
                }
            }
        }
        if is_over {
            assert_eq!(lease.mine_count(), 0);
            // As a process does: it begins a new life, unless it wanted to go.
            if !self.nodes[node].is_drained {
                self.plan_ms(50, Event::Start(node));
            }
            return;
        }
        if let Some(at) = lease.poll_timeout() {
            let at = at.max(now);
            assert!(at > now || self.nodes[node].wakes.len() < 8, "seed {}: it never sleeps", self.seed);
            if self.nodes[node].wakes.first().is_none_or(|due| at < *due) {
                self.nodes[node].wakes.insert(at);
                self.plan(at, Event::Wake(node));
            }
        }
        self.nodes[node].lease = Some(lease);
        // G10, G15: memory answers for nobody else's slots.
        for _ in 0..4 {
            let slot = Slot(self.prng.below(u64::from(SLOTS_COUNT)) as u16);
            self.check(node, slot);
        }
    }

    /// Whoever answers from memory is alive in the store, and owns the slot there.
    fn check(&mut self, node: usize, slot: Slot) {
        let Node { lease: Some(lease), incarnation, paused_until, .. } = &self.nodes[node] else { return };
        if *paused_until <= self.now && lease.answers(self.now, slot) {
            let incarnation = *incarnation;
            let owner = self.shown().owners[usize::from(slot.0)].owner;
            assert_eq!(owner, Some(incarnation), "seed {}: node {node} answers for {slot:?}", self.seed);
        }
    }

    fn shown(&mut self) -> &Ownership {
        let engine = &self.engine;
        self.shown.get_or_insert_with(|| {
            let mut snapshot = engine.snapshot().expect("a snapshot");
            ops::ownership(&mut *snapshot).expect("who owns what")
        })
    }

    fn reach(&mut self, node: usize, incarnation: Incarnation, output: Output) {
        let is_lost = self.is_cut || (self.is_rough && self.prng.chance(1, 100));
        // Done, and the answer is lost.
        let is_untold = self.is_rough && self.prng.chance(1, 100);
        let changed: Vec<Slot> = match &output {
            Output::Take(slots) | Output::Give { slots, .. } => slots.clone(),
            _ => Vec::new(),
        };
        let answer = if is_lost { lost(&output) } else { self.carry_out(incarnation, &output) };
        let answer = if is_untold { lost(&output) } else { answer };
        for slot in changed.iter().step_by(7) {
            for other in 0..self.nodes.len() {
                if self.nodes[other].incarnation != incarnation {
                    self.check(other, *slot);
                }
            }
        }
        let at = Time(self.now.0 + self.late());
        self.plan(at, Event::Hear(node, incarnation, answer));
    }

    fn carry_out(&mut self, me: Incarnation, order: &Output) -> Input {
        // All that a beat changes, so that not everything has to be read again.
        let mut shown = self.shown.take();
        if let (Output::Beat(beat), Some(shown)) = (order, &mut shown) {
            shown.living.iter_mut().filter(|one| one.incarnation == me).for_each(|one| one.beat = *beat);
        }
        if matches!(order, Output::Beat(_) | Output::Poll) {
            self.shown = shown;
        }
        orders::carry_out(self, me, order).expect("an order to the store")
    }

    /// G7, SC3: when nothing has gone wrong for a while, each slot is where it belongs, and everybody knows.
    fn settled(&mut self) {
        let seed = self.seed;
        let shown = self.shown().clone();
        let lives: Vec<(Incarnation, &Lease)> = self
            .nodes
            .iter()
            .filter_map(|node| node.lease.as_ref().map(|lease| (node.incarnation, lease)))
            .collect();
        let hands: Vec<Incarnation> = lives.iter().map(|(incarnation, _)| *incarnation).collect();
        let living: BTreeSet<Incarnation> = shown.living.iter().map(|one| one.incarnation).collect();
        assert_eq!(living, hands.iter().copied().collect(), "seed {seed}: who lives");
        for (slot, held) in (0..).map(Slot).zip(&shown.owners) {
            let owner = &held.owner;
            assert_eq!(*owner, home(slot, &hands), "seed {seed}: {slot:?} of {hands:?}");
            for (incarnation, lease) in &lives {
                assert_eq!(
                    lease.owners()[usize::from(slot.0)],
                    *held,
                    "seed {seed}: {incarnation:?} on {slot:?}"
                );
                let is_mine = Some(*incarnation) == *owner;
                assert_eq!(
                    lease.answers(self.now, slot),
                    is_mine,
                    "seed {seed}: {incarnation:?} on {slot:?}"
                );
            }
        }
    }

    /// For how long each slot was accepted by nobody, at most, in milliseconds, within the next `millis`.
    fn longest_gap_ms(&mut self, millis: u64) -> u64 {
        let mut gaps_ms = vec![0_u64; usize::from(SLOTS_COUNT)];
        let mut longest_ms = 0;
        for _ in 0..millis {
            self.run_ms(1);
            for slot in (0..SLOTS_COUNT).step_by(31).map(Slot) {
                let accepts = self.nodes.iter().filter_map(|node| node.lease.as_ref());
                let is_accepted = accepts.filter(|lease| lease.accepts(slot)).count() > 0;
                let gap_ms = &mut gaps_ms[usize::from(slot.0)];
                *gap_ms = if is_accepted { 0 } else { *gap_ms + 1 };
                longest_ms = longest_ms.max(*gap_ms);
            }
        }
        longest_ms
    }
}

impl Hands for World {
    fn ownership(&mut self) -> Result<Ownership, ReadError> {
        Ok(self.shown().clone())
    }

    fn control<T>(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
    ) -> Result<T, BatchError> {
        commit_one(&self.engine, self.engine.control_lane(), body, &mut |_| {})
    }
}

fn lost(order: &Output) -> Input {
    orders::unknown(order).expect("an order to the store")
}

/// Everything that can happen to three to five routers, for half a minute; then calm.
fn ordeal(seed: u64) {
    let mut chance = Prng::new(seed ^ 0x5eed);
    let nodes_count = 3 + chance.index(3);
    let mut world = World::new(seed, nodes_count, true);
    for _ in 0..chance.between(4, 24) {
        let at_ms = chance.below(30_000);
        let node = chance.index(nodes_count);
        match chance.below(4) {
            0 => {
                world.plan_ms(at_ms, Event::Crash(node));
                let down_ms = chance.below(4_000);
                world.plan_ms(at_ms + down_ms, Event::Start(node));
            }
            1 | 2 => world.plan_ms(at_ms, Event::Pause(node, chance.between(50, PAUSE_MS_MAX))),
            _ => {
                world.plan_ms(at_ms, Event::Cut(true));
                world.plan_ms(at_ms + chance.between(50, 3_000), Event::Cut(false));
            }
        }
    }
    world.run_ms(36_000);
    world.is_rough = false;
    world.is_cut = false;
    world.run_ms(15_000);
    world.settled();
}

/// F7, F26, G15: whatever happens to routers and store, nobody answers from memory for what another one took, and
/// everything comes to rest in one hand.
#[test]
fn g15_leases_survive_crashes_pauses_and_an_unreachable_store() {
    for seed in 0..ORDEALS_COUNT {
        ordeal(seed);
    }
}

/// F3, NF5: what a crashed router owned is accepted again within two and a half seconds.
#[test]
fn f3_what_a_dead_router_owned_is_taken_over() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3, false);
        world.run_ms(5_000);
        world.settled();
        let at_ms = world.prng.below(400);
        world.plan_ms(at_ms, Event::Crash(1));
        let gap_ms = world.longest_gap_ms(5_000);
        assert!((ANSWERS_FOR_MS..=2_500).contains(&gap_ms), "seed {seed}: {gap_ms} ms");
        world.settled();
    }
}

/// SC3: a router that leaves gives its slots away; nobody waits half a second.
#[test]
fn sc3_what_a_leaving_router_owned_is_handed_over() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3, false);
        world.run_ms(5_000);
        world.nodes[2].is_drained = true;
        let incarnation = world.nodes[2].incarnation;
        let at_ms = world.prng.below(400);
        world.plan_ms(at_ms, Event::Hear(2, incarnation, Input::Drain));
        let before = world.shown().owners.clone();
        let gap_ms = world.longest_gap_ms(5_000);
        assert!(gap_ms <= 500, "seed {seed}: {gap_ms} ms");
        assert!(world.nodes[2].lease.is_none(), "it has retired");
        let moves =
            before.iter().zip(&world.shown().owners).map(|(before, after)| after.epoch - before.epoch);
        assert_eq!(moves.max(), Some(1), "seed {seed}: what it gave stays given");
        world.settled();
    }
}

/// SC2: a router that joins gets its share from the living, slot by slot; nobody waits half a second.
#[test]
fn sc2_a_new_router_gets_its_share() {
    for seed in 0..10 {
        let mut world = World::new(seed, 2, false);
        world.run_ms(5_000);
        world.nodes.push(Node::default());
        world.plan_ms(1, Event::Start(2));
        let gap_ms = world.longest_gap_ms(8_000);
        assert!(gap_ms <= 500, "seed {seed}: {gap_ms} ms");
        world.settled();
    }
}

/// G15: a store that nobody can reach, for however long, kills nobody.
#[test]
fn g15_an_unreachable_store_kills_nobody() {
    for seed in 0..10 {
        let mut world = World::new(seed, 4, false);
        world.run_ms(5_000);
        let before: Vec<Incarnation> = world.nodes.iter().map(|node| node.incarnation).collect();
        world.plan_ms(1, Event::Cut(true));
        world.plan_ms(20_000, Event::Cut(false));
        world.run_ms(19_000);
        let answers = world.nodes.iter().filter_map(|node| node.lease.as_ref());
        assert!(answers.into_iter().all(|lease| !lease.answers(world.now, Slot(7))), "nobody knows any more");
        world.run_ms(10_000);
        let after: Vec<Incarnation> = world.nodes.iter().map(|node| node.incarnation).collect();
        assert_eq!(before, after, "seed {seed}");
        world.settled();
    }
}

/// A row of the routers' own that cannot be read is no reason to believe that nobody lives.
#[test]
fn g14_an_unreadable_row_is_no_answer() {
    let mut world = World::new(1, 0, false);
    let incarnation = world.control(&mut |txn| ops::join(txn, WallMs(1), "r")).expect("joined").incarnation;
    let spoil = &mut |txn: &mut dyn Txn| {
        txn.set(carillon_store::keys::router(incarnation), bytes::Bytes::from_static(b"?"));
        Ok(())
    };
    world.control(spoil).expect("written");
    let mut snapshot = world.engine.snapshot().expect("a snapshot");
    assert!(matches!(ops::ownership(&mut *snapshot), Err(ReadError::Fatal(_))));
}
