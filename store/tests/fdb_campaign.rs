//! A campaign on a real FoundationDB cluster (F4, G1, G2, G3, G9, G10, G15): sixteen lanes append to many conversations
//! while processes of the cluster are killed, stopped and woken again; in the end a second life takes the store over under
//! them. A command:
//!
//! ```text
//! CARILLON_TEST_FDB_CLUSTER=FILE CARILLON_TEST_FDB_KILL=COMMAND \
//!     cargo test --release -p carillon-store --features fdb --test fdb_campaign -- --storm-s 300 --seed 7
//! ```
//!
//! `COMMAND` is called with `stop N` (kill process N of the cluster), `start N`, `pause N` (SIGSTOP) or `resume N`. Without it
//! nothing happens to the cluster. N is below `--processes`, which is 3. With `--outage-s` all of them are stopped for so long
//! before the storm: after three minutes of that, batches end as unknown and their clients send them again.
//!
//! What is judged: every message has the number that its lane expects, whatever became of the attempts at it; a message
//! that is sent again has the number that it has; a snapshot opened after an acknowledgement has it; after the takeover
//! nothing comes of the former life; and every log, read by the new one, is what was acknowledged, in the order in which it
//! was sent, and nothing else. Of what was in flight at the takeover any beginning may be there.

#![expect(clippy::disallowed_methods, reason = "a campaign has a clock, threads and an environment")]

mod cluster;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::{lane_of_slot, slot_of_conversation};
use carillon_protocol::record::Event;
use carillon_store::backend::fdb::Fdb;
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{World, page, send};
use carillon_store::error::ReadError;
use carillon_store::figures::{self, OUTCOMES, Value};
use carillon_store::ids::MessageIds;
use carillon_store::ops::Context;
use carillon_store::query::answer;
use carillon_store::retry::{BatchError, commit_batch};
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Entry, Incarnation, Op, Outcome, Query};

const CONVERSATIONS_PER_LANE: usize = 8;
const BATCH_OPS_MAX: u64 = 8;
/// One message in so many is one that was sent before.
const REPEATED: u64 = 10;
const READERS_COUNT: u64 = 2;
/// How long one batch may be without a definite outcome, and one read without an answer, when there is no outage.
const PATIENCE: Duration = Duration::from_secs(180);
/// Creating a conversation takes the first number of its log.
const FIRST_MESSAGE: Seq = 2;
const WRITER: u64 = 1;
const READER: u64 = 2;
const PHASES: [&str; 2] = ["calm", "storm"];

struct Settings {
    cluster_file: String,
    kill: Option<String>,
    processes: u64,
    calm: Duration,
    outage: Duration,
    storm: Duration,
    seed: u64,
}

impl Settings {
    /// From the environment and the command line; nothing when there is no cluster.
    fn read() -> Result<Option<Settings>, String> {
        let Some(cluster_file) = cluster::cluster_file() else { return Ok(None) };
        let mut settings = Settings {
            cluster_file,
            kill: std::env::var("CARILLON_TEST_FDB_KILL").ok(),
            processes: 3,
            calm: Duration::from_secs(5),
            outage: Duration::ZERO,
            storm: Duration::from_secs(15),
            seed: 1,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            let value = value.ok_or_else(|| format!("{name} wants a number"))?;
            match name.as_str() {
                "--processes" => settings.processes = value.max(1),
                "--calm-s" => settings.calm = Duration::from_secs(value),
                "--outage-s" => settings.outage = Duration::from_secs(value),
                "--storm-s" => settings.storm = Duration::from_secs(value),
                "--seed" => settings.seed = value,
                _ => {
                    let known = "--processes, --calm-s, --outage-s, --storm-s, --seed";
                    return Err(format!("{name} is none of {known}"));
                }
            }
        }
        Ok(Some(settings))
    }
}

/// One conversation, as its lane knows it.
struct Conversation {
    id: ConversationId,
    /// The client's ids of its messages, in their order.
    sent: Vec<String>,
    /// How many of them are acknowledged, for readers.
    acked: Arc<AtomicU64>,
}

/// What all threads share.
struct Stage {
    store: Fdb,
    incarnation: Incarnation,
    now: carillon_protocol::time::WallMs,
    began: Instant,
    patience: Duration,
    phase: AtomicUsize,
    is_over: AtomicBool,
    tallies: [Tally; PHASES.len()],
    last_ack_us: AtomicU64,
}

/// What was measured in one phase.
#[derive(Default)]
struct Tally {
    batches_us: Mutex<Vec<u64>>,
    messages: AtomicU64,
    repeated: AtomicU64,
    /// Messages of batches that were answered so, and sent again.
    unknown: AtomicU64,
    busy: AtomicU64,
    /// Messages that were in place already when they were sent again after an unknown outcome.
    found: AtomicU64,
    pages: AtomicU64,
    pages_again: AtomicU64,
    /// The longest time without an acknowledgement on any lane.
    silence_us: AtomicU64,
}

impl Stage {
    fn tally(&self) -> &Tally {
        &self.tallies[self.phase.load(Relaxed)]
    }

    fn acknowledged(&self, took: Duration) {
        let now_us = micros(self.began.elapsed());
        let silence_us = now_us.saturating_sub(self.last_ack_us.swap(now_us, Relaxed));
        let tally = self.tally();
        tally.silence_us.fetch_max(silence_us, Relaxed);
        tally.batches_us.lock().unwrap_or_else(PoisonError::into_inner).push(micros(took));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A message of a batch, and the number that it must be given.
struct Sending {
    op: Op,
    seq: Seq,
    is_repeated: bool,
}

/// One commit lane, and the clients that send what it commits.
struct Lane {
    number: u16,
    ids: MessageIds,
    conversations: Vec<Conversation>,
    chance: Chance,
}

impl Lane {
    fn run(mut self, stage: &Stage) -> Vec<Conversation> {
        while !stage.is_over.load(Relaxed) {
            let batch = self.draw();
            let began = Instant::now();
            if !self.commit(stage, &batch) {
                break;
            }
            stage.acknowledged(began.elapsed());
        }
        self.conversations
    }

    fn draw(&mut self) -> Vec<Sending> {
        let count = 1 + self.chance.below(BATCH_OPS_MAX);
        (0..count).map(|_| self.draw_one()).collect()
    }

    fn draw_one(&mut self) -> Sending {
        let index = self.chance.below(self.conversations.len() as u64) as usize;
        let conversation = &mut self.conversations[index];
        let sent_count = conversation.sent.len() as u64;
        let is_repeated = sent_count > 0 && self.chance.below(REPEATED) == 0;
        let place = if is_repeated { self.chance.below(sent_count) } else { sent_count };
        let client_msg_id = place.to_string();
        if !is_repeated {
            conversation.sent.push(client_msg_id.clone());
        }
        let op = send(WRITER, conversation.id, &client_msg_id, &format!("message {place}"));
        Sending { op, seq: FIRST_MESSAGE + place, is_repeated }
    }

    /// Sends what has no outcome again and again, as its clients would, unless another life has taken over.
    fn commit(&mut self, stage: &Stage, mut batch: &[Sending]) -> bool {
        let began = Instant::now();
        let mut is_unsure = false;
        while !batch.is_empty() {
            assert!(began.elapsed() < stage.patience, "lane {}: no outcome for long", self.number);
            let ops: Vec<Op> = batch.iter().map(|sending| sending.op.clone()).collect();
            let Stage { now, incarnation, .. } = *stage;
            let mut context = Context { now, incarnation, ids: &mut self.ids, members_max: 10 };
            let results = commit_batch(&stage.store, self.number, &mut context, &ops, &mut pause);
            assert_eq!(results.len(), ops.len());
            let mut settled_count = 0;
            for (index, (sending, result)) in batch.iter().zip(results).enumerate() {
                match result {
                    Ok(outcome) => {
                        assert_eq!(settled_count, index, "nothing is committed behind what is not");
                        self.acknowledge(stage, sending, &outcome, is_unsure);
                        settled_count += 1;
                    }
                    Err(BatchError::Unknown) => {
                        stage.tally().unknown.fetch_add(1, Relaxed);
                        is_unsure = true;
                    }
                    Err(BatchError::Busy) => {
                        stage.tally().busy.fetch_add(1, Relaxed);
                    }
                    Err(BatchError::Fenced) => return false,
                    Err(error) => panic!("lane {}: {error}", self.number),
                }
            }
            batch = &batch[settled_count..];
        }
        true
    }

    fn acknowledge(&self, stage: &Stage, sending: &Sending, outcome: &Outcome, is_unsure: bool) {
        let Outcome::Appended(appended) = outcome else {
            panic!("lane {}: not appended: {outcome:?}", self.number)
        };
        assert_eq!(appended.seq, sending.seq, "lane {}: {:?}", self.number, sending.op);
        let tally = stage.tally();
        match (sending.is_repeated, appended.duplicate) {
            (true, true) => tally.repeated.fetch_add(1, Relaxed),
            (false, false) => tally.messages.fetch_add(1, Relaxed),
            (false, true) if is_unsure => {
                tally.found.fetch_add(1, Relaxed);
                tally.messages.fetch_add(1, Relaxed)
            }
            _ => panic!("lane {}: {:?} is a duplicate: {}", self.number, sending.op, appended.duplicate),
        };
        let mut conversations = self.conversations.iter();
        let conversation = conversations.find(|conversation| conversation.id == appended.conversation);
        let conversation = conversation.unwrap_or_else(|| panic!("lane {}: not mine", self.number));
        conversation.acked.fetch_max(1 + appended.seq - FIRST_MESSAGE, SeqCst);
    }
}

/// As the router's committers wait.
fn pause(attempt: u32) {
    if attempt > 1 {
        // A pause between attempts is the point of it.
        std::thread::sleep(Duration::from_millis((1 << attempt.min(16)).min(64)));
    }
}

/// One page of a log, from a snapshot opened now; none when it has to be asked for again.
fn read_page(store: &Fdb, id: ConversationId, from: Seq) -> Option<(Vec<Entry>, bool)> {
    let query = Query::Page(page(READER, id, from, Seq::MAX));
    match store.snapshot().and_then(|mut snapshot| answer(&mut *snapshot, &query)) {
        Ok(Answer::Page(page)) => Some((page.entries, page.has_more)),
        Ok(other) => panic!("no page: {other:?}"),
        Err(ReadError::Again(_)) => None,
        Err(ReadError::Fatal(sentence)) => panic!("{sentence}"),
    }
}

/// Reads what was just acknowledged: the end of any log, dense, and as far as its lane had it acknowledged before.
fn run_reader(stage: &Stage, all: &[(ConversationId, Arc<AtomicU64>)], mut chance: Chance) {
    const TAIL: u64 = 40;
    while !stage.is_over.load(Relaxed) {
        let (id, acked) = &all[chance.below(all.len() as u64) as usize];
        let acked = acked.load(SeqCst);
        let from = FIRST_MESSAGE + acked.saturating_sub(TAIL);
        let Some((entries, _)) = read_page(&stage.store, *id, from) else {
            stage.tally().pages_again.fetch_add(1, Relaxed);
            continue;
        };
        let seqs: Vec<Seq> = entries.iter().map(|entry| entry.seq).collect();
        let expected: Vec<Seq> = (from..from + entries.len() as u64).collect();
        assert_eq!(seqs, expected, "{id:?} is not dense");
        let end = from + entries.len() as u64;
        assert!(end >= FIRST_MESSAGE + acked, "{id:?}: {acked} are acknowledged, read up to {end}");
        stage.tally().pages.fetch_add(1, Relaxed);
    }
}

/// What happens to the cluster.
struct Storm<'a> {
    settings: &'a Settings,
    chance: Chance,
    kills: u32,
    pauses: u32,
    blackouts: u32,
}

impl Storm<'_> {
    fn run(&mut self) {
        if self.settings.kill.is_none() {
            println!("  no storm: CARILLON_TEST_FDB_KILL names no command");
            // How long a storm blows is a setting: without one it is a calm as long.
            std::thread::sleep(self.settings.storm);
            return;
        }
        if !self.settings.outage.is_zero() {
            (0..self.settings.processes).for_each(|process| self.order("pause", process));
            // How long nobody answers is what is tested.
            std::thread::sleep(self.settings.outage);
            (0..self.settings.processes).for_each(|process| self.order("resume", process));
        }
        let began = Instant::now();
        while began.elapsed() < self.settings.storm {
            let process = self.chance.below(self.settings.processes);
            match self.chance.below(20) {
                0..9 => {
                    self.kills += 1;
                    self.order("stop", process);
                    self.wait_ms(500, 4_000);
                    self.order("start", process);
                }
                9..18 => {
                    self.pauses += 1;
                    self.order("pause", process);
                    self.wait_ms(1_000, 10_000);
                    self.order("resume", process);
                }
                // The power goes: nobody has anything but what is on disk.
                _ => {
                    self.blackouts += 1;
                    (0..self.settings.processes).for_each(|process| self.order("stop", process));
                    self.wait_ms(500, 2_000);
                    (0..self.settings.processes).for_each(|process| self.order("start", process));
                }
            }
            self.wait_ms(500, 8_000);
        }
    }

    fn wait_ms(&mut self, min_ms: u64, max_ms: u64) {
        // When what happens next is drawn from the seed; nothing else is waited for.
        std::thread::sleep(Duration::from_millis(min_ms + self.chance.below(max_ms - min_ms)));
    }

    fn order(&self, verb: &str, process: u64) {
        let Some(kill) = &self.settings.kill else { return };
        let command = format!("{kill} {verb} {process}");
        let status = Command::new("sh").args(["-c", &command]).status();
        assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command}: {status:?}");
    }
}

/// Groups of two users, as many for each lane.
fn conversations(world: &mut World<Arc<dyn Engine>>) -> BTreeMap<u16, Vec<Conversation>> {
    let lanes_count = world.engine.lanes_count();
    let mut lanes: BTreeMap<u16, Vec<Conversation>> = BTreeMap::new();
    let mut missing = usize::from(lanes_count) * CONVERSATIONS_PER_LANE;
    for number in 1_000.. {
        if missing == 0 {
            break;
        }
        let id = ConversationId(number);
        let of_lane = lanes.entry(lane_of_slot(slot_of_conversation(id), lanes_count)).or_default();
        if of_lane.len() < CONVERSATIONS_PER_LANE {
            world.group(number, &[WRITER, READER]);
            of_lane.push(Conversation { id, sent: Vec::new(), acked: Arc::default() });
            missing -= 1;
        }
    }
    lanes
}

/// Reads a log from one of its numbers to its end. The number behind the last.
fn read_to_end(store: &Fdb, id: ConversationId, mut from: Seq, mut each: impl FnMut(&Entry, Seq)) -> Seq {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "{id:?} cannot be read for {PATIENCE:?}");
        let Some((entries, has_more)) = read_page(store, id, from) else { continue };
        for entry in &entries {
            each(entry, from);
            from += 1;
        }
        if !has_more {
            return from;
        }
    }
}

/// The whole log is what was acknowledged, and nothing else but a beginning of what was in flight when the store was taken
/// over; and it ends where it ended then.
fn judge(store: &Fdb, conversation: &Conversation, end_at_takeover: Seq) {
    let Conversation { id, sent, acked } = conversation;
    let end = read_to_end(store, *id, FIRST_MESSAGE, |entry, seq| {
        let event = Event::decode(&entry.record).unwrap_or_else(|| panic!("{id:?}: no event"));
        let expected = sent.get((seq - FIRST_MESSAGE) as usize).map(String::as_str);
        assert_eq!((entry.seq, Some(&*event.client_msg_id)), (seq, expected), "{id:?}");
        assert_eq!(event.sender, UserId(WRITER), "{id:?}");
    });
    let acked = acked.load(SeqCst);
    assert!(end - FIRST_MESSAGE >= acked, "{id:?}: {acked} are acknowledged, it ends before {end}");
    assert_eq!(end, end_at_takeover, "{id:?}: the former life wrote after it was deposed");
}

fn tell(stage: &Stage, phase: usize, lasted: Duration) {
    let tally = &stage.tallies[phase];
    let mut batches_us = tally.batches_us.lock().unwrap_or_else(PoisonError::into_inner);
    batches_us.sort_unstable();
    let at_ms = |per_mille: usize| {
        let index = (batches_us.len() * per_mille / 1_000).min(batches_us.len().saturating_sub(1));
        batches_us.get(index).map_or(0.0, |us| *us as f64 / 1e3)
    };
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let per_s = |count: u64| count as f64 / lasted.as_secs_f64();
    println!(
        "{}: {:.1} s; {} batches, {:.0}/s; {} messages, {:.0}/s; {} repeated",
        PHASES[phase],
        lasted.as_secs_f64(),
        batches_us.len(),
        per_s(batches_us.len() as u64),
        read(&tally.messages),
        per_s(read(&tally.messages)),
        read(&tally.repeated),
    );
    println!(
        "  batch until definite, ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}; longest silence of all lanes {:.1}",
        at_ms(500),
        at_ms(900),
        at_ms(990),
        at_ms(999),
        at_ms(1_000),
        read(&tally.silence_us) as f64 / 1e3,
    );
    println!(
        "  sent again by clients: {} unknown, {} busy; {} of the unknown ones were found in place; {} pages read, {} asked for again",
        read(&tally.unknown),
        read(&tally.busy),
        read(&tally.found),
        read(&tally.pages),
        read(&tally.pages_again),
    );
}

fn tell_store(store: &Fdb, title: &str, before: &[figures::Figure]) -> Vec<figures::Figure> {
    let now = store.figures();
    let number = |figures: &[figures::Figure], name| {
        if figures.is_empty() { 0 } else { figures::read(figures, name, None) }
    };
    let since = |name: &'static str| number(&now, name) - number(before, name);
    let outcomes = |figures: &[figures::Figure]| match figures.first().map(|figure| figure.value.clone()) {
        Some(Value::Outcomes(counts)) => counts.iter().map(|(_, count)| *count).collect(),
        _ => vec![0; OUTCOMES.len()],
    };
    let counts = outcomes(&now).into_iter().zip(outcomes(before)).map(|(now, before)| now - before);
    let attempts: Vec<String> =
        OUTCOMES.iter().zip(counts).map(|(outcome, count)| format!("{count} {outcome}")).collect();
    println!(
        "  {title}: attempts: {}; {} retries, {} too old",
        attempts.join(", "),
        since("store_retries"),
        since("store_too_old")
    );
    now
}

fn campaign(settings: &Settings) {
    let name = cluster::name();
    println!("store {name}, seed {}", settings.seed);
    let store = Arc::new(cluster::open(&settings.cluster_file, &name));
    let mut world = World::begin(Arc::clone(&store) as Arc<dyn Engine>);
    let lanes = conversations(&mut world);
    let all: Vec<_> = (lanes.values().flatten())
        .map(|conversation| (conversation.id, Arc::clone(&conversation.acked)))
        .collect();
    let ids: Vec<MessageIds> = lanes.keys().map(|lane| world.ids(*lane)).collect();
    let (incarnation, now) = (world.incarnation, world.now);
    drop(world);
    let store = Arc::into_inner(store).unwrap_or_else(|| panic!("nobody else has the store"));
    let stage = Stage {
        store,
        incarnation,
        now,
        began: Instant::now(),
        patience: PATIENCE + 2 * settings.outage,
        phase: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        tallies: Default::default(),
        last_ack_us: AtomicU64::new(0),
    };
    let mut storm = Storm { settings, chance: Chance::new(settings.seed), kills: 0, pauses: 0, blackouts: 0 };
    // A thread that panics ends the process, with what it says: the others would go on for ever.
    let whole = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        whole(info);
        std::process::exit(1);
    }));
    let before = tell_store(&stage.store, "before", &[]);
    let (conversations, ends) = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for ((number, conversations), ids) in lanes.into_iter().zip(ids) {
            let chance = Chance::new(settings.seed ^ (u64::from(number) << 32));
            let lane = Lane { number, ids, conversations, chance };
            let stage = &stage;
            running.push(scope.spawn(move || lane.run(stage)));
        }
        for reader in 0..READERS_COUNT {
            let (stage, all) = (&stage, &all);
            let chance = Chance::new(settings.seed ^ (reader << 48));
            scope.spawn(move || run_reader(stage, all, chance));
        }
        // How long it is measured without faults is a setting.
        std::thread::sleep(settings.calm);
        let calm_lasted = stage.began.elapsed();
        stage.phase.store(1, Relaxed);
        let calm = tell_store(&stage.store, "calm", &before);
        storm.run();
        let stormed = stage.began.elapsed();
        let successor =
            World::begin(Arc::new(cluster::open(&settings.cluster_file, &name)) as Arc<dyn Engine>);
        assert!(successor.incarnation > incarnation);
        let ends = all.iter().map(|(id, acked)| {
            let from = FIRST_MESSAGE + acked.load(SeqCst);
            (*id, read_to_end(&stage.store, *id, from, |_, _| {}))
        });
        let ends: BTreeMap<ConversationId, Seq> = ends.collect();
        // Every lane ends when it is told that it is deposed.
        let conversations: Vec<Conversation> =
            running.into_iter().flat_map(|lane| lane.join().unwrap_or_default()).collect();
        stage.is_over.store(true, Relaxed);
        tell_store(&stage.store, "storm", &calm);
        tell(&stage, 0, calm_lasted);
        tell(&stage, 1, stormed - calm_lasted);
        (conversations, ends)
    });
    println!("  {} kills, {} pauses, {} blackouts", storm.kills, storm.pauses, storm.blackouts);
    drop(stage);
    let judge_store = cluster::Cleared(cluster::open(&settings.cluster_file, &name));
    for conversation in &conversations {
        judge(&judge_store.0, conversation, ends[&conversation.id]);
    }
    let messages_count: u64 = ends.values().map(|end| end - FIRST_MESSAGE).sum();
    println!(
        "  judged: {} logs with {messages_count} messages are what was acknowledged",
        conversations.len()
    );
}

fn main() -> ExitCode {
    match Settings::read() {
        Ok(Some(settings)) => campaign(&settings),
        Ok(None) => {}
        Err(sentence) => {
            eprintln!("fdb_campaign: {sentence}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
