//! The heart of this crate's tests: clients, one shard and a model router in random interleavings of sends, pages, lost
//! lanes, router crashes, slow sockets and reconnects, each client checking G6 on every frame.
//!
//! A failing seed prints the command that repeats it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_gateway::turn::Input;
use carillon_node::prng::Prng;
use carillon_protocol::client::{Command, FrameId, Wire};
use carillon_protocol::frame;
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::reason::Close;
use carillon_protocol::record::History;

use crate::rig::{Client, ROUTER, Rig, Seen, SeenEvent, Up, identify, send, settings, token};
use crate::router::Router;

/// Seeds of one run of the suite.
const SEEDS_COUNT: u64 = 600;
const STEPS_COUNT: usize = 500;
/// Steps after the faults, within which everybody has to have everything (G7).
const SETTLE_STEPS_MAX: usize = 30_000;

/// What one device holds.
struct Device {
    user: u64,
    name: String,
    client: Option<Client>,
    is_ready: bool,
    /// Whether the stored cursors apply, and are to be looked up at `ready`.
    adopts_cursors: bool,
    /// Contiguously held, per conversation.
    held: BTreeMap<u64, Seq>,
    /// Filled by acks above that, on this connection.
    filled: BTreeSet<(u64, Seq)>,
    /// Told to be synced, and not yet.
    behind: BTreeSet<u64>,
    /// The `sync` on its way: conversation and from.
    syncing: Option<(u64, Seq)>,
    /// Sent and not answered: conversation, key, content.
    unanswered: VecDeque<(u64, String, String)>,
    sends_count: u64,
}

#[derive(Default)]
struct Tally {
    events: usize,
    early: usize,
    duplicates: usize,
    behinds: usize,
    lost_lanes: usize,
    returns: usize,
    closes: BTreeMap<u16, usize>,
    /// As the shard counts them: also those that nobody read.
    replaced: u64,
    unknown_outcomes: u64,
}

struct World {
    rig: Rig,
    router: Router,
    devices: Vec<Device>,
    prng: Prng,
    tally: Tally,
    /// (user, key) → (conversation, seq): G2.
    acked: BTreeMap<(u64, String), (u64, Seq)>,
    next_conversation: u64,
    /// Sockets take nothing between two reads.
    is_slow: bool,
    /// Lanes are lost often, and the router takes its time.
    is_rough: bool,
}

impl Device {
    fn advance(&mut self, conversation: u64) {
        let held = self.held.entry(conversation).or_default();
        while self.filled.remove(&(conversation, *held + 1)) {
            *held += 1;
        }
        let held = *held;
        self.filled.retain(|(other, seq)| *other != conversation || *seq > held);
    }

    /// A durable event that nobody asked for.
    fn event(&mut self, router: &Router, event: &SeenEvent) {
        let SeenEvent { conversation, seq, .. } = *event;
        assert!(
            !self.behind.contains(&conversation),
            "G6: {}/{} got {conversation}:{seq} live while behind in it",
            self.user,
            self.name
        );
        self.advance(conversation);
        let held = self.held.get(&conversation).copied().unwrap_or(0);
        let is_first = held == 0 && router.logs[&conversation].begins(self.user, seq);
        assert!(
            seq == held + 1 || is_first,
            "G6: {}/{} got {conversation}:{seq} after {held}",
            self.user,
            self.name
        );
        self.check(router, event);
        self.held.insert(conversation, seq);
        self.advance(conversation);
    }

    /// G4, G11: it is what the log holds, and was for us.
    fn check(&self, router: &Router, event: &SeenEvent) {
        let log = &router.logs[&event.conversation];
        assert!(
            log.was_for(self.user, event.seq),
            "G11: {}/{} got a foreign event {}:{}",
            self.user,
            self.name,
            event.conversation,
            event.seq
        );
        let stored = &log.events[usize::try_from(event.seq).unwrap() - 1];
        assert_eq!((event.sender, &event.content), (stored.sender, &stored.content), "G4");
        let own = (stored.sender == self.user && !stored.client_msg_id.is_empty())
            .then(|| stored.client_msg_id.clone());
        assert_eq!(event.client_msg_id, own, "own devices only");
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut prng = Prng::new(seed);
        let mut settings = settings(&["limits.send_per_s=0"]);
        settings.limits.conn_queue_bytes = [1_500, 4_000, 65_536][prng.index(3)];
        // A crowd of two is worked off in slices, too.
        settings.gateway.slice_sessions = [1, 2, 256][prng.index(3)];
        settings.limits.inflight = [2, 8, 64][prng.index(3)];
        let rig = Rig::with(settings, true, seed);
        let mut world = World {
            rig,
            router: Router::default(),
            devices: Vec::new(),
            prng,
            tally: Tally::default(),
            acked: BTreeMap::new(),
            next_conversation: 1,
            is_slow: seed.is_multiple_of(3),
            is_rough: seed.is_multiple_of(2),
        };
        for (user, name) in [(1, "a"), (1, "b"), (2, "a"), (3, "a")] {
            world.devices.push(Device {
                user,
                name: name.to_owned(),
                client: None,
                is_ready: false,
                adopts_cursors: false,
                held: BTreeMap::new(),
                filled: BTreeSet::new(),
                behind: BTreeSet::new(),
                syncing: None,
                unanswered: VecDeque::new(),
                sends_count: 0,
            });
        }
        world.create();
        world.create();
        world
    }

    fn create(&mut self) {
        let mut members: BTreeSet<u64> = (1..=3).filter(|_| self.prng.chance(3, 4)).collect();
        members.insert(self.prng.between(1, 3));
        let history = if self.prng.chance(1, 2) { History::All } else { History::FromJoin };
        let forgets = self.prng.chance(1, 2);
        self.router.create(self.next_conversation, history, forgets, members);
        self.next_conversation += 1;
    }

    /// Members come and go, and come back.
    fn change_members(&mut self) {
        let conversation = self.prng.between(1, self.next_conversation - 1);
        let user = self.prng.between(1, 3);
        if self.prng.chance(1, 2) {
            self.router.remove(conversation, user);
        } else {
            let other = self.prng.between(1, 3);
            self.router.add(conversation, BTreeSet::from([user, other]));
        }
    }

    fn lane_up(&mut self) {
        if !self.router.is_up {
            self.router.lane_up();
            self.rig.lane_up();
        }
    }

    fn lane_down(&mut self) {
        if self.router.is_up {
            self.tally.lost_lanes += 1;
            let is_crash = self.prng.chance(1, 2);
            self.router.lane_down(is_crash, &mut self.prng);
            self.rig.lane_down();
        }
    }

    /// Frames travel, one each way at most.
    fn travel(&mut self) {
        if self.router.is_up
            && self.prng.chance(1, 2)
            && let Some(bytes) = self.rig.up.pop_front()
        {
            self.router.inbound.push_back(Up::read(&bytes));
        }
        if let Some(bytes) = self.router.outbound.pop_front() {
            assert!(frame::read(&bytes).is_ok());
            self.rig.input(Input::LaneFrame { router: ROUTER, frame: &bytes });
            if self.prng.chance(1, 2) {
                self.rig.carry_out();
            }
        }
    }

    fn connect(&mut self, place: usize, may_adopt: bool) {
        let wire = if self.prng.chance(1, 2) { Wire::Json } else { Wire::Rkyv };
        let mut client = self.rig.upgrade(wire, None);
        let device = &mut self.devices[place];
        device.filled.clear();
        device.behind.clear();
        device.syncing = None;
        let never_knew = device.adopts_cursors && !device.is_ready;
        device.adopts_cursors = never_knew || (may_adopt && self.prng.chance(1, 4));
        device.is_ready = false;
        if device.adopts_cursors {
            // A new client on an old device: it holds nothing and goes on where the device had confirmed.
            device.held.clear();
        }
        let cursors: Vec<(u64, Seq)> = if device.adopts_cursors {
            Vec::new()
        } else {
            device.held.iter().map(|(conversation, seq)| (*conversation, *seq)).collect()
        };
        let first =
            client.say(&mut self.rig, None, &identify(&token(device.user, &device.name, 86_400), &cursors));
        device.client = Some(client);
        self.take(place, first);
        if self.prng.chance(1, 2) {
            // What was not answered before is sent again, at once.
            let again: Vec<_> = self.devices[place].unanswered.iter().cloned().collect();
            for (conversation, key, content) in again {
                self.say(place, None, &send(conversation, Some(&key), &content));
            }
        } else {
            self.devices[place].unanswered.clear();
        }
    }

    fn say(&mut self, place: usize, id: Option<FrameId>, command: &Command<'_>) {
        let Some(client) = &self.devices[place].client else { return };
        let (connection, bytes) = (client.id, client.frame(id, command));
        self.rig.input(Input::Received { connection, bytes: &bytes });
    }

    fn disconnect(&mut self, place: usize) {
        if let Some(client) = self.devices[place].client.take() {
            self.rig.input(Input::Closed { connection: client.id });
            self.rig.sockets.remove(&client.id);
            self.rig.carry_out();
        }
    }

    fn send(&mut self, place: usize) {
        let device = &mut self.devices[place];
        let mine: Vec<u64> = self
            .router
            .logs
            .iter()
            .filter(|(_, log)| log.sight(device.user).is_some())
            .map(|(id, _)| *id)
            .collect();
        if device.client.is_none() || mine.is_empty() || device.unanswered.len() > 20 {
            return;
        }
        let conversation = mine[self.prng.index(mine.len())];
        device.sends_count += 1;
        let key = format!("{}-{}-{}", device.user, device.name, device.sends_count);
        let content = format!("{key} {}", "x".repeat(self.prng.index(300)));
        device.unanswered.push_back((conversation, key.clone(), content.clone()));
        self.say(place, None, &send(conversation, Some(&key), &content));
    }

    fn confirm(&mut self, place: usize) {
        let device = &self.devices[place];
        let Some((conversation, seq)) =
            device.held.iter().nth(self.prng.index(device.held.len())).map(|(id, seq)| (*id, *seq))
        else {
            return;
        };
        if device.is_ready && seq > 0 {
            let id = self.prng.chance(1, 2).then_some(FrameId::Number(1));
            self.say(place, id, &Command::Delivered { conversation: ConversationId(conversation), seq });
        }
    }

    /// The client reads some of its socket.
    fn read(&mut self, place: usize, everything: bool) {
        let Some(client) = &self.devices[place].client else { return };
        let id = client.id;
        let room = if everything { None } else { Some(self.prng.index(2_000)) };
        if let Some(socket) = self.rig.sockets.get_mut(&id) {
            socket.room = room;
        }
        self.rig.flush(id);
        self.rig.carry_out();
        let Some(client) = &mut self.devices[place].client else { return };
        let seen = client.take(&mut self.rig);
        if (!everything || self.is_slow)
            && let Some(socket) = self.rig.sockets.get_mut(&id)
        {
            socket.room = Some(0);
        }
        self.take(place, seen);
    }

    fn take(&mut self, place: usize, seen: Vec<Seen>) {
        for seen in seen {
            let (device, router) = (&mut self.devices[place], &self.router);
            match seen {
                Seen::Ready { .. } => {
                    device.is_ready = true;
                    if device.adopts_cursors {
                        for ((user, name, conversation), seq) in &router.cursors {
                            if (*user, name) == (device.user, &device.name) {
                                device.held.insert(*conversation, *seq);
                                device.advance(*conversation);
                            }
                        }
                    }
                }
                Seen::Event(event) => {
                    self.tally.events += 1;
                    device.event(router, &event);
                }
                Seen::Batch { id: None, conversation, events, from, to, .. } => {
                    for event in &events {
                        assert!(event.conversation == conversation && (from..=to).contains(&event.seq));
                        device.event(router, event);
                    }
                    self.tally.events += events.len();
                }
                Seen::Batch { id: Some(_), conversation, events, from, to, head, has_more } => {
                    let asked = device.syncing.take().expect("a sync was asked for");
                    let log = &router.logs[&conversation];
                    let is_cut = from > asked.1 && log.begins(device.user, from);
                    assert!((conversation, from) == asked || is_cut, "asked {asked:?}, got {from}");
                    let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
                    assert_eq!(seqs, (from..=to).collect::<Vec<_>>(), "a sync is dense");
                    for event in &events {
                        device.check(router, event);
                    }
                    // Told to drop it meanwhile: what was asked for before is beside the line.
                    if !device.behind.contains(&conversation) {
                        continue;
                    }
                    device.advance(conversation);
                    let held = device.held.entry(conversation).or_default();
                    *held = to.max(*held);
                    device.advance(conversation);
                    if to == head && !has_more {
                        device.behind.remove(&conversation);
                    }
                }
                Seen::Ack { conversation, seq, status: "sent", client_msg_id, duplicate, .. } => {
                    let key = client_msg_id.expect("as it was given");
                    let stored = &router.logs[&conversation].events[usize::try_from(seq).unwrap() - 1];
                    assert_eq!((stored.sender, &stored.client_msg_id), (device.user, &key), "G1");
                    let first = *self.acked.entry((device.user, key.clone())).or_insert((conversation, seq));
                    assert_eq!(first, (conversation, seq), "G2");
                    device.unanswered.retain(|(_, other, _)| *other != key);
                    if duplicate {
                        self.tally.duplicates += 1;
                        continue;
                    }
                    device.advance(conversation);
                    let held = device.held.get(&conversation).copied().unwrap_or(0);
                    assert!(
                        seq > held,
                        "G6: {}/{} acked {conversation}:{seq} after {held}",
                        device.user,
                        device.name
                    );
                    assert!(device.filled.insert((conversation, seq)), "G6: acked twice");
                    self.tally.early += usize::from(seq > held + 1);
                    device.advance(conversation);
                }
                Seen::Ack { conversation, seq, .. } => {
                    let stored = &router.logs[&conversation].events[usize::try_from(seq).unwrap() - 1];
                    assert_eq!(stored.sender, device.user, "a watermark of somebody else's message");
                }
                Seen::Behind(listed) => {
                    self.tally.behinds += 1;
                    device.behind.extend(listed.iter().map(|(conversation, _)| *conversation));
                }
                Seen::Reset { id, conversation, first, head, reason } => {
                    if id.is_some() {
                        device.syncing = None;
                    }
                    device.behind.remove(&conversation);
                    if reason == "membership" {
                        self.tally.returns += 1;
                        assert!(router.logs[&conversation].begins(device.user, first), "from {first}");
                    }
                    device.held.insert(conversation, head);
                    device.advance(conversation);
                }
                Seen::CaughtUp => assert!(device.behind.is_empty(), "caught_up while behind"),
                Seen::Error { id: Some(FrameId::Number(7)), code, .. } => {
                    if let Some((conversation, _)) = device.syncing.take().filter(|_| code == "forbidden") {
                        device.behind.remove(&conversation);
                    }
                }
                Seen::Error { code, .. } => {
                    assert!(["unavailable", "unknown_outcome", "forbidden"].contains(&code), "{code}");
                    // Which of them does not matter here: the others are answered still.
                }
                Seen::Close(code) => {
                    *self.tally.closes.entry(code.unwrap_or(0)).or_default() += 1;
                    assert!(matches!(code, Some(1013 | 4010 | 4507)), "closed with {code:?}");
                }
                Seen::ReadSync { .. } | Seen::States { .. } | Seen::Typing { .. } | Seen::Presence(_) => {
                    panic!("unexpected {seen:?}")
                }
                Seen::Ok { .. } | Seen::Hello | Seen::HeartbeatAck => {}
                Seen::Reconnect(_) | Seen::Pong(_) => panic!("unexpected {seen:?}"),
            }
        }
        let is_closed = self.devices[place].client.as_ref().is_some_and(|client| client.is_closed(&self.rig));
        if is_closed {
            self.disconnect(place);
        }
        self.sync(place);
    }

    fn sync(&mut self, place: usize) {
        let device = &mut self.devices[place];
        let Some(conversation) = device.behind.first().copied().filter(|_| device.syncing.is_none()) else {
            return;
        };
        device.advance(conversation);
        let from_seq = device.held.get(&conversation).copied().unwrap_or(0) + 1;
        device.syncing = Some((conversation, from_seq));
        let limit = u32::try_from(self.prng.between(1, 10)).unwrap();
        let command = Command::Sync { conversation: ConversationId(conversation), from_seq, limit };
        self.say(place, Some(FrameId::Number(7)), &command);
    }

    fn pace(&self) -> usize {
        if self.is_rough { 1 } else { 5 }
    }

    fn step(&mut self) {
        let place = self.prng.index(self.devices.len());
        match self.prng.below(100) {
            0 if self.is_rough || self.prng.chance(1, 8) => self.lane_down(),
            1..=3 => self.lane_up(),
            4 => self.disconnect(place),
            5..=8 if self.devices[place].client.is_none() => self.connect(place, true),
            9 if self.next_conversation < 8 => self.create(),
            10..=12 => self.change_members(),
            13..=24 => self.send(place),
            25..=29 => self.confirm(place),
            30..=44 => {
                let everything = self.prng.chance(1, 2);
                if !self.is_slow || self.prng.chance(1, 6) {
                    self.read(place, everything);
                }
            }
            45 => {
                // Two connections of one device: the newest stays (4507).
                // What the old one confirms at that moment may count or not: the new one brings its own cursors.
                if self.devices[place].is_ready && self.prng.chance(1, 4) {
                    self.read(place, true);
                    if let Some(old) = self.devices[place].client.take() {
                        self.connect(place, false);
                        self.rig.sockets.remove(&old.id);
                    }
                }
            }
            46 if self.prng.chance(1, 6) => self.rig.pass_ms(11_000),
            46..=49 => {
                let millis = self.prng.below(400);
                self.rig.pass_ms(millis);
            }
            50..=69 => (0..self.pace()).for_each(|_| self.travel()),
            _ => (0..self.pace()).for_each(|_| self.router.step(&mut self.prng, true)),
        }
        if self.prng.chance(2, 3) {
            self.rig.carry_out();
        }
    }

    /// Faults are over: everybody who is connected ends up with everything (G7).
    fn converge(&mut self) {
        self.is_slow = false;
        self.lane_up();
        for place in 0..self.devices.len() {
            if self.devices[place].client.is_none() {
                self.connect(place, true);
            }
        }
        for _ in 0..SETTLE_STEPS_MAX {
            self.travel();
            self.rig.carry_out();
            let step = self.prng.below(8);
            match step {
                0 => {
                    let place = self.prng.index(self.devices.len());
                    self.read(place, true);
                    if self.devices[place].client.is_none() {
                        self.connect(place, true);
                    }
                }
                1 => {
                    let place = self.prng.index(self.devices.len());
                    self.say(place, None, &Command::Heartbeat);
                    self.rig.pass_ms(20);
                }
                _ => self.router.step(&mut self.prng, false),
            }
            if self.router.is_idle()
                && self.rig.up.is_empty()
                && self.devices.iter().all(|device| self.has_all(device))
            {
                return;
            }
        }
        let missing: Vec<_> = self.devices.iter().filter(|device| !self.has_all(device)).collect();
        for device in &missing {
            eprintln!(
                "{}/{} holds {:?}, filled {:?}, behind {:?}, syncing {:?}, ready {}",
                device.user,
                device.name,
                device.held,
                device.filled,
                device.behind,
                device.syncing,
                device.is_ready
            );
        }
        panic!(
            "G7: {} devices do not have everything; idle router: {}",
            missing.len(),
            self.router.is_idle()
        );
    }

    fn has_all(&self, device: &Device) -> bool {
        let mine = self.router.logs.iter().filter_map(|(id, log)| Some((id, log, log.sight(device.user)?)));
        let has = |id: &u64| device.held.get(id).copied().unwrap_or(0);
        device.client.is_some()
            && device.is_ready
            && device.behind.is_empty()
            && device.filled.is_empty()
            && mine.into_iter().all(|(id, log, sight)| match sight.left {
                None => has(id) == log.head(),
                // Up to their last event, by which they left.
                Some(left) => has(id) == left,
            })
    }
}

fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    world.lane_up();
    for _ in 0..STEPS_COUNT {
        world.step();
    }
    world.converge();
    let counters = world.rig.shard.counters();
    let replaced = Close::ALL.iter().position(|close| *close == Close::Replaced).unwrap();
    world.tally.replaced = counters.closes[replaced];
    world.tally.unknown_outcomes = counters.unknown_outcomes;
    world.tally
}

/// G1, G2, G4, G6, G7, G11, F1, F3, F5, F6, F13, F14: contiguous for every client, whatever interleaves.
#[test]
#[expect(clippy::disallowed_methods, reason = "the seed to repeat comes from outside")]
fn g6_every_client_holds_a_contiguous_log() {
    let seeds = match std::env::var("CARILLON_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..std::env::var("CARILLON_SEEDS").map_or(SEEDS_COUNT, |count| count.parse().unwrap()),
    };
    let is_one = seeds.end - seeds.start == 1;
    let mut sum = Tally::default();
    for seed in seeds {
        let Ok(tally) = std::panic::catch_unwind(|| run(seed)) else {
            panic!(
                "repeat with: CARILLON_SEED={seed} cargo test -p carillon-gateway --test session g6_every_client"
            )
        };
        sum.events += tally.events;
        sum.early += tally.early;
        sum.duplicates += tally.duplicates;
        sum.behinds += tally.behinds;
        sum.lost_lanes += tally.lost_lanes;
        sum.returns += tally.returns;
        sum.replaced += tally.replaced;
        sum.unknown_outcomes += tally.unknown_outcomes;
        for (code, count) in tally.closes {
            *sum.closes.entry(code).or_default() += count;
        }
    }
    let Tally { events, early, duplicates, behinds, lost_lanes, returns, closes, replaced, unknown_outcomes } =
        sum;
    println!(
        "{events} events, {early} early acks, {duplicates} duplicates, {behinds} behinds, {lost_lanes} lost lanes, {returns} returns, \
         {replaced} replaced, {unknown_outcomes} unknown outcomes, closes {closes:?}"
    );
    // A run in which nothing happens proves nothing.
    let counts = [
        events,
        early,
        duplicates,
        behinds,
        lost_lanes,
        returns,
        replaced as usize,
        unknown_outcomes as usize,
    ];
    assert!(is_one || counts.iter().all(|count| *count > 10), "{counts:?}");
}
