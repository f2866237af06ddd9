//! A batch is brought to one outcome, whatever goes wrong with its commits (F4, F8, F12, F22, F23, G5, G9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationType, Event, HeadRow, Role};
use carillon_protocol::time::WallMs;
use carillon_store::backend::memory::{Chances, Fault, Memory, Options};
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{World, add, change, create, receipt, remove, send};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::figures::{self, Outcome as Became};
use carillon_store::ops;
use carillon_store::retry::{self, ATTEMPTS_MAX, BatchError};
use carillon_store::txn::{Abort, Body, Engine, Read, Row, Txn};
use carillon_store::verb::{Change, Op, Outcome};

const GROUP: ConversationId = ConversationId(10);

struct Bench {
    memory: Arc<Memory>,
    world: World<Arc<dyn Engine>>,
}

fn bench() -> Bench {
    let memory = Arc::new(Memory::new(Options::default()));
    let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
    world.users([3]);
    world.group(GROUP.0, &[1, 2]);
    world.one(Op::Mute { user: UserId(1), conversation: GROUP, until: Some(WallMs(9)) });
    world.append(send(1, GROUP, "first", "hello"));
    world.append(send(2, GROUP, "second", "hello"));
    Bench { memory, world }
}

/// G3, G5, G9: the answers are those of the attempt that committed, whole: what it refused is not decided once more, when who
/// sends has become a member by the same attempt, and does not come behind what was said after it, nor out of the order of
/// the batch.
#[test]
fn g9_an_attempt_of_unknown_outcome_that_committed_is_answered_as_it_was() {
    let (early, late) = (send(3, GROUP, "early", "I am none"), send(3, GROUP, "late", "I am one"));
    let come = change(1, GROUP, "come", add(&[3]));
    let other = send(1, GROUP, "other", "welcome");
    let (appended, refused) = (|seq| Ok((seq, false)), Err(Code::Forbidden));
    let cases = [
        (vec![early.clone(), come.clone()], vec![refused, appended(4)]),
        (
            vec![early.clone(), other, come.clone(), late.clone()],
            vec![refused, appended(4), appended(5), appended(6)],
        ),
        // From two connections of a device: each stands twice.
        (
            vec![early.clone(), come, late.clone(), early, late],
            vec![refused, appended(4), appended(5), appended(6), Ok((5, true))],
        ),
    ];
    for (ops, expected) in cases {
        for faults in [
            vec![],
            vec![Fault::UnknownCommitted],
            vec![Fault::UnknownCommitted, Fault::Slow],
            vec![Fault::UnknownLost, Fault::UnknownCommitted],
            vec![Fault::UnknownCommitted, Fault::UnknownLost],
            vec![Fault::UnknownLate { steps: 1 }],
        ] {
            let mut bench = bench();
            bench.memory.faults().script(faults.iter().copied().map(Some));
            let results = bench.world.try_commit(&ops);
            let told = results.iter().map(|result| match result {
                Ok(Outcome::Appended(appended)) => Ok((appended.seq, appended.duplicate)),
                Ok(Outcome::Refused(refusal)) => Err(refusal.code),
                other => panic!("{other:?}"),
            });
            assert_eq!(told.collect::<Vec<_>>(), expected, "{faults:?}");
        }
    }
}

/// G5: what was said after it may be committed by another attempt, long before: that says nothing about an attempt of unknown
/// outcome, which may still come.
#[test]
fn g5_what_may_still_come_is_not_refused() {
    let mut bench = bench();
    let ops = [send(1, GROUP, "new", "hello"), send(1, GROUP, "first", "hello")];
    bench.memory.faults().script([Some(Fault::UnknownLost)]);
    let results = bench.world.try_commit(&ops);
    let found = |result: &Result<Outcome, BatchError>| match result {
        Ok(Outcome::Appended(appended)) => (appended.seq, appended.duplicate),
        other => panic!("{other:?}"),
    };
    assert_eq!(results.iter().map(found).collect::<Vec<_>>(), [(4, false), (2, true)]);
}

/// One of each kind. All of them belong to one lane, since there is one.
fn kinds() -> Vec<(&'static str, Op)> {
    vec![
        ("send", send(1, GROUP, "k", "once")),
        ("create a group", create(20, ConversationType::Group, &[1, 2], "g")),
        ("create a pair", create(21, ConversationType::OneToOne, &[1, 2], "")),
        ("provision", Op::Provision { user: UserId(7), name: "seven".to_owned() }),
        ("create a user", Op::CreateUser { user: UserId(8), username: "eight".to_owned() }),
        ("delivered", receipt(2, GROUP, 3, 0)),
        ("read", receipt(2, GROUP, 0, 2)),
        ("fanned out", Op::FannedOut { conversation: GROUP, seq: 2 }),
        ("fanned out wholly", Op::FannedOut { conversation: GROUP, seq: 3 }),
    ]
}

/// The others: changes of a log, which are appended like messages, and rows beside the logs.
fn other_kinds() -> Vec<(&'static str, Op)> {
    vec![
        ("add a member", change(1, GROUP, "c", add(&[3]))),
        ("remove a member", change(1, GROUP, "c", remove(2))),
        ("rename a group", change(1, GROUP, "c", Change::Rename { group_name: "other".to_owned() })),
        ("give a role", change(1, GROUP, "c", Change::SetRole { user: UserId(2), role: Role::Admin })),
        ("mute", Op::Mute { user: UserId(2), conversation: GROUP, until: Some(WallMs(9)) }),
        ("unmute", Op::Mute { user: UserId(1), conversation: GROUP, until: None }),
        ("rename a user", Op::Profile { user: UserId(2), username: "second".to_owned() }),
        ("seen", seen(true)),
        ("seen on a device", seen(false)),
        ("revoke", Op::Revoke { user: UserId(2), device: "phone".to_owned() }),
        ("push token", push_token(Some("token"))),
    ]
}

fn seen(offline: bool) -> Op {
    Op::Seen { user: UserId(2), device: "phone".to_owned(), at: WallMs(7), offline }
}

fn push_token(token: Option<&str>) -> Op {
    let token = token.map(|token| (1, token.to_owned()));
    Op::PushToken { user: UserId(2), device: "phone".to_owned(), token }
}

/// Everything in a store but the slots, and what depends on how many ids were drawn: the ids of events.
fn contents(engine: &dyn Engine) -> BTreeMap<Bytes, Bytes> {
    let mut snapshot = engine.snapshot().unwrap();
    let below = snapshot.range(b"", b"s", usize::MAX, false).unwrap();
    let above = snapshot.range(b"t", b"\xff", usize::MAX, false).unwrap();
    (below.into_iter().chain(above))
        .map(|(key, value)| {
            let value = match key[0] {
                b'e' => {
                    let event = Event::decode(&value).unwrap();
                    Bytes::from(Event { id: Default::default(), ..event }.encode())
                }
                b'h' => {
                    let head = HeadRow::decode(&value).unwrap();
                    Bytes::from(HeadRow { last_id: Default::default(), ..head }.encode())
                }
                _ => value,
            };
            (key, value)
        })
        .collect()
}

/// An outcome without what depends on how many ids were drawn.
fn plain(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Appended(mut appended) => {
            appended.id = Default::default();
            if !appended.record.is_empty() {
                let event = Event::decode(&appended.record).unwrap();
                appended.record = Bytes::from(Event { id: Default::default(), ..event }.encode());
            }
            Outcome::Appended(appended)
        }
        // To a user who is there by an attempt of unknown outcome it makes no difference whose it was.
        Outcome::User { user, .. } => Outcome::User { user, existed: false },
        other => other,
    }
}

fn faults() -> Vec<Vec<Fault>> {
    let single = [
        Fault::Conflict,
        Fault::UnknownCommitted,
        Fault::UnknownLost,
        Fault::UnknownLate { steps: 0 },
        Fault::UnknownLate { steps: 1 },
        Fault::UnknownLate { steps: 2 },
        Fault::UnknownLate { steps: 3 },
    ];
    let definite = [Fault::TooOld { reads: 4 }, Fault::TooOld { reads: 1_000 }, Fault::Slow];
    let mut sequences: Vec<Vec<Fault>> = single.iter().chain(&definite).map(|fault| vec![*fault]).collect();
    for first in single {
        for second in [Fault::Conflict, Fault::UnknownCommitted, Fault::UnknownLate { steps: 1 }] {
            sequences.push(vec![first, second]);
        }
    }
    sequences
}

#[test]
fn f4_every_fault_on_every_operation_has_its_effect_once() {
    let all_faults = faults();
    let single_faults: Vec<_> = all_faults.iter().filter(|sequence| sequence.len() == 1).cloned().collect();
    let cases = (kinds().into_iter().map(|kind| (kind, &all_faults)))
        .chain(other_kinds().into_iter().map(|kind| (kind, &single_faults)));
    for ((name, op), sequences) in cases {
        let mut calm = bench();
        let expected = plain(calm.world.one(op.clone()));
        calm.world.append(send(1, GROUP, "after", "hello"));
        let expected_rows = contents(&*calm.memory);
        for sequence in sequences {
            let mut bench = bench();
            bench.memory.faults().script(sequence.iter().copied().map(Some));
            let outcome = plain(bench.world.one(op.clone()));
            assert_eq!(outcome, expected, "{name} with {sequence:?}");
            bench.world.append(send(1, GROUP, "after", "hello"));
            bench.memory.land();
            assert_eq!(contents(&*bench.memory), expected_rows, "{name} with {sequence:?}");
        }
    }
}

/// What comes late must not undo what was committed after it was repeated: by then it conflicts.
#[test]
fn f4_a_late_commit_undoes_nothing_that_came_after() {
    let mute = |until| Op::Mute { user: UserId(2), conversation: GROUP, until };
    let rename = |name: &str| Op::Profile { user: UserId(2), username: name.to_owned() };
    let group_name = |id, name: &str| change(1, GROUP, id, Change::Rename { group_name: name.to_owned() });
    let cases = [
        ("mute", mute(Some(WallMs(9))), mute(None)),
        ("unmute", mute(None), mute(Some(WallMs(9)))),
        ("push token", push_token(Some("old")), push_token(None)),
        ("rename a user", rename("old"), rename("new")),
        ("rename a group", group_name("c", "old"), group_name("d", "new")),
        ("add and remove", change(1, GROUP, "c", add(&[3])), change(1, GROUP, "d", remove(3))),
        ("read", receipt(2, GROUP, 0, 2), receipt(2, GROUP, 0, 3)),
        ("send", send(1, GROUP, "k", "old"), send(1, GROUP, "l", "new")),
    ];
    for (name, first, second) in cases {
        let mut calm = bench();
        calm.world.one(first.clone());
        calm.world.one(second.clone());
        let mut bench = bench();
        bench.memory.faults().script([Some(Fault::UnknownLate { steps: 1_000 })]);
        bench.world.one(first);
        bench.world.one(second);
        bench.memory.land();
        assert_eq!(contents(&*bench.memory), contents(&*calm.memory), "{name}");
    }
}

/// An engine that notes what a transaction relies on and what it writes.
struct Noting {
    memory: Arc<Memory>,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Default)]
struct Noted {
    ahead: BTreeSet<Bytes>,
    read: BTreeSet<Bytes>,
    ranges: Vec<(Bytes, Bytes)>,
    written: BTreeSet<Bytes>,
}

struct NotingTxn<'a>(&'a mut dyn Txn, &'a mut Noted);

impl Engine for Noting {
    fn lanes_count(&self) -> u16 {
        self.memory.lanes_count()
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        self.memory.commit(lane, &mut |txn| body(&mut NotingTxn(txn, &mut self.noted.lock().unwrap())))
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        self.memory.snapshot()
    }
}

impl Read for NotingTxn<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if !self.1.written.contains(key) {
            self.1.read.insert(Bytes::copy_from_slice(key));
        }
        self.0.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.1.ranges.push((Bytes::copy_from_slice(from), Bytes::copy_from_slice(to)));
        self.0.range(from, to, limit, reverse)
    }

    fn prefetch(&mut self, keys: &[Bytes]) {
        self.1.ahead.extend(keys.iter().cloned());
    }

    fn fetches_ahead(&self) -> bool {
        true
    }
}

impl Txn for NotingTxn<'_> {
    fn set(&mut self, key: Bytes, value: Bytes) {
        self.1.written.insert(key.clone());
        self.0.set(key, value);
    }

    fn clear(&mut self, key: Bytes) {
        self.1.written.insert(key.clone());
        self.0.clear(key);
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        self.1.read.insert(Bytes::copy_from_slice(key));
        self.0.expect_unchanged(key);
    }
}

/// One run of `op` on a store like that of [`bench`], noted.
fn note(op: &Op) -> Noted {
    let noted = Arc::new(Mutex::new(Noted::default()));
    let Bench { memory, .. } = bench();
    let engine = Noting { memory, noted: Arc::clone(&noted) };
    let mut world = World::begin(Arc::new(engine) as Arc<dyn Engine>);
    *noted.lock().unwrap() = Noted::default();
    world.one(op.clone());
    std::mem::take(&mut *noted.lock().unwrap())
}

/// The argument for unknown outcomes rests on it: of two attempts at the same operation, the one that commits second
/// conflicts, because it relies on a row that the first one wrote.
#[test]
fn f4_every_operation_relies_on_a_row_that_it_writes() {
    for (name, op) in kinds().into_iter().chain(other_kinds()) {
        let Noted { read, ranges, written, .. } = note(&op);
        assert!(!written.is_empty(), "{name} writes something");
        // The ceiling of ids is moved once in a while and protects nothing but itself.
        let relies = |key: &&Bytes| {
            let is_read = read.contains(*key) || ranges.iter().any(|(from, to)| from <= *key && *key < to);
            is_read && key[0] != b'k'
        };
        assert!(written.iter().any(|key| relies(&key)), "{name} writes only rows that it does not rely on");
    }
}

/// F23: on an engine behind a network, a batch takes the time of a few round trips, not of one for each of its rows.
#[test]
fn f23_what_messages_and_receipts_read_is_fetched_side_by_side() {
    // A thousand may be added at once: two rows of each are read.
    for op in [send(1, GROUP, "k", "x"), change(1, GROUP, "c", add(&[3])), receipt(2, GROUP, 0, 3)] {
        let Noted { ahead, mut read, .. } = note(&op);
        // The fence and the generation, known before anything else can be; the ceiling of ids, once in a while.
        read.retain(|key| !ahead.contains(key) && !b"wgk".contains(&key[0]));
        assert_eq!(read.len(), 0, "{op:?}: {read:?}");
    }
}

/// F23, G15: becoming the owner of all slots, and giving them away, takes a few round trips too. One for each slot would be more
/// than a transaction has time for, and no router could begin on a cluster that is a little slow.
#[test]
fn f23_who_owns_the_slots_is_read_side_by_side() {
    const ROUND_TRIPS_MAX: usize = 32;
    let noted = Arc::new(Mutex::new(Noted::default()));
    let engine = Noting { memory: Arc::new(Memory::new(Options::default())), noted: Arc::clone(&noted) };
    let all: Vec<Slot> = (0..SLOTS_COUNT).map(Slot).collect();
    let round_trips = |name: &str| {
        let Noted { ahead, read, ranges, .. } = std::mem::take(&mut *noted.lock().unwrap());
        let count = read.difference(&ahead).count() + ranges.len();
        assert!(count <= ROUND_TRIPS_MAX, "{name}: {count}");
    };
    let now = WallMs(1);
    let first = retry::claim(&engine, now, &mut |_| {}).unwrap();
    round_trips("a claim of an empty store");
    let second = retry::claim(&engine, now, &mut |_| {}).unwrap().incarnation;
    round_trips("a claim of another's");
    assert!(second > first.incarnation);
    let owner = |body: &mut dyn FnMut(&mut dyn Txn) -> Result<(), Abort>| {
        retry::commit_one(&engine, engine.control_lane(), body, &mut |_| {}).unwrap();
    };
    owner(&mut |txn| ops::give(txn, second, &all, None));
    round_trips("giving all");
    owner(&mut |txn| ops::take(txn, second, &all).map(|taken| assert_eq!(taken.len(), all.len())));
    round_trips("taking all");
}

#[test]
fn f4_an_operation_twice_in_a_batch_is_done_once_and_told_once() {
    for sequence in faults() {
        let mut bench = bench();
        bench.memory.faults().script(sequence.iter().copied().map(Some));
        let op = send(1, GROUP, "k", "once");
        let outcomes = bench.world.commit(&[op.clone(), send(2, GROUP, "k", "other"), op]);
        let told: Vec<_> = outcomes.iter().map(appended).collect();
        assert_eq!(told, [(4, false), (5, false), (4, true)], "{sequence:?}");
        bench.memory.land();
        assert_eq!(bench.world.seqs(1, GROUP), [1, 2, 3, 4, 5], "{sequence:?}");
    }
}

#[test]
fn f4_any_faults_by_chance_leave_every_message_once_and_in_order() {
    for seed in 1..=24 {
        let mut bench = bench();
        let chances = Chances {
            conflict: 150,
            unknown_committed: 150,
            unknown_lost: 150,
            unknown_late: 250,
            late_steps_max: 6,
            too_old: 50,
            too_old_reads_max: 12,
            slow: 50,
        };
        bench.memory.faults().seed(seed, chances);
        let mut chance = Chance::new(seed);
        let mut expected = vec![];
        for batch in 0..30 {
            let count = 1 + chance.below(5);
            let sender = |index: u64| 1 + (batch + index) % 2;
            let key = |index: u64| format!("{batch}-{index}");
            let ops: Vec<Op> =
                (0..count).map(|index| send(sender(index), GROUP, &key(index), &key(index))).collect();
            for (index, outcome) in bench.world.commit(&ops).iter().enumerate() {
                expected.push(key(index as u64));
                assert_eq!(appended(outcome), (3 + expected.len() as u64, false), "seed {seed}");
            }
        }
        bench.memory.faults().calm();
        bench.memory.land();
        let log = bench.world.log(1, GROUP);
        let found: Vec<String> = log.entries[3..]
            .iter()
            .map(|entry| Event::decode(&entry.record).unwrap().client_msg_id.into_owned())
            .collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

/// F4, F12, F23: every attempt is counted once, by what became of it; and those that a former one on the lane made necessary.
#[test]
fn f4_every_attempt_is_counted_by_what_became_of_it() {
    let mut bench = bench();
    let faults = bench.memory.faults().clone();
    let counted = |memory: &Memory| {
        let figures = memory.figures();
        let outcomes = [
            Became::Committed,
            Became::Conflict,
            Became::Unknown,
            Became::TooLarge,
            Became::Slow,
            Became::Full,
        ];
        let attempts = outcomes.map(|outcome| figures::read(&figures, "store_attempts", Some(outcome)));
        (attempts, ["store_retries", "store_too_old"].map(|name| figures::read(&figures, name, None)))
    };
    let (before, _) = counted(&bench.memory);
    let mut expected = [before[0], 0, 0, 0, 0, 0];
    let mut others = [0, 0];
    // Faults, index of the outcome of each, how many are retried, how many are too old.
    let cases = [
        (Fault::Conflict, 1, 1, 0),
        (Fault::TooOld { reads: 0 }, 1, 1, 1),
        (Fault::UnknownCommitted, 2, 1, 0),
        (Fault::UnknownLost, 2, 1, 0),
        (Fault::UnknownLate { steps: 0 }, 2, 1, 0),
        (Fault::Slow, 4, 1, 0),
        (Fault::Full, 5, 0, 0),
    ];
    for (number, (fault, outcome, retries_count, too_old_count)) in cases.into_iter().enumerate() {
        faults.script([Some(fault)]);
        let results = bench.world.try_commit(&[send(1, GROUP, &number.to_string(), "x")]);
        // What is full is not tried again: everything else is committed in the end.
        expected[0] += u64::from(results[0].is_ok());
        expected[outcome] += 1;
        others[0] += retries_count;
        others[1] += too_old_count;
        assert_eq!(counted(&bench.memory), (expected, others), "{fault:?}");
    }
    faults.limit_txn_bytes(10);
    bench.world.try_commit(&[send(1, GROUP, "large", "x")]);
    expected[3] += 1;
    assert_eq!(counted(&bench.memory), (expected, others));
}

/// G5, SV2, DC4: what may have been committed is never called a failure, and is decided once when it is asked again.
#[test]
fn g5_attempts_run_out_with_an_unknown_outcome() {
    let mut bench = bench();
    let late = Fault::UnknownLate { steps: 1_000 };
    let lost = (1..ATTEMPTS_MAX).map(|_| Some(Fault::UnknownLost));
    bench.memory.faults().script([Some(late)].into_iter().chain(lost));
    let ops = [send(1, GROUP, "a", "x"), send(2, GROUP, "b", "x")];
    assert_eq!(bench.world.try_commit(&ops), [Err(BatchError::Unknown), Err(BatchError::Unknown)]);
    assert_eq!(bench.world.seqs(1, GROUP).len(), 3);
    bench.memory.land();
    assert_eq!(bench.world.seqs(1, GROUP).len(), 5, "it came late, as a whole");
    let told: Vec<_> = bench.world.commit(&ops).iter().map(appended).collect();
    assert_eq!(told, [(4, true), (5, true)]);
}

#[test]
fn g5_attempts_run_out_with_conflicts_and_nothing_happened() {
    let mut bench = bench();
    bench.memory.faults().script((0..ATTEMPTS_MAX).map(|_| Some(Fault::Conflict)));
    let mut pauses = Vec::new();
    let op = send(1, GROUP, "a", "x");
    assert_eq!(bench.world.try_commit(std::slice::from_ref(&op)), [Err(BatchError::Busy)]);
    assert_eq!(bench.world.seqs(1, GROUP).len(), 3);
    // The pauses are counted from one, and there is none before an attempt that is not made.
    let mut ids = bench.world.ids(0);
    let mut context = carillon_store::ops::Context {
        now: bench.world.now,
        incarnation: bench.world.incarnation,
        ids: &mut ids,
        members_max: 10,
    };
    bench.memory.faults().script([Some(Fault::Conflict), Some(Fault::UnknownLost), None]);
    let results =
        carillon_store::retry::commit_batch(&*bench.memory, 0, &mut context, &[op], &mut |attempt| {
            pauses.push(attempt);
        });
    assert!(matches!(&results[..], [Ok(Outcome::Appended(appended))] if appended.seq == 4));
    assert_eq!(pauses, [1, 2]);
}

#[test]
fn f12_a_full_disk_refuses_until_there_is_space() {
    let mut bench = bench();
    let op = [send(1, GROUP, "a", "x")];
    bench.memory.faults().full(true);
    assert!(matches!(bench.world.try_commit(&op)[..], [Err(BatchError::Full { .. })]));
    assert_eq!(bench.world.seqs(1, GROUP).len(), 3, "reads are served");
    bench.memory.faults().full(false);
    bench.memory.faults().script([Some(Fault::UnknownCommitted), Some(Fault::Full)]);
    assert_eq!(bench.world.try_commit(&op), [Err(BatchError::Unknown)], "it may have been committed before");
    assert_eq!(appended(&bench.world.commit(&op)[0]), (4, true));
}

#[test]
fn f8_a_failed_disk_ends_everything() {
    let mut bench = bench();
    bench.memory.faults().script([Some(Fault::Fatal)]);
    let op = [send(1, GROUP, "a", "x")];
    for _ in 0..3 {
        assert!(matches!(bench.world.try_commit(&op)[..], [Err(BatchError::Fatal(_))]));
    }
    assert!(matches!(bench.memory.snapshot().err(), Some(ReadError::Fatal(_))));
}

#[test]
fn f23_a_batch_that_is_too_large_is_split_and_one_operation_refused() {
    let mut bench = bench();
    bench.memory.faults().limit_txn_bytes(12_000);
    let mut ops: Vec<Op> =
        (0..20).map(|index| send(1 + index % 2, GROUP, &index.to_string(), &"x".repeat(1_000))).collect();
    ops[13] = send(1, GROUP, "guilty", &"x".repeat(13_000));
    let outcomes = bench.world.commit(&ops);
    let mut seq = 3;
    for (index, outcome) in outcomes.iter().enumerate() {
        if index == 13 {
            assert!(
                matches!(outcome, Outcome::Refused(refusal) if refusal.code == Code::TooLarge),
                "{outcome:?}"
            );
        } else {
            seq += 1;
            assert_eq!(appended(outcome), (seq, false));
        }
    }
    assert_eq!(bench.world.seqs(2, GROUP), (1..=22).collect::<Vec<_>>());
}

/// What takes too long is split, in order, until its parts are quick enough.
#[test]
fn f23_a_batch_that_takes_too_long_is_split_and_nothing_is_refused() {
    let mut bench = bench();
    // Twenty, their first ten, and the first five of these; then all goes well.
    bench.memory.faults().script([Some(Fault::Slow); 3]);
    let ops: Vec<Op> = (0..20).map(|index| send(1 + index % 2, GROUP, &index.to_string(), "x")).collect();
    let told: Vec<_> = bench.world.commit(&ops).iter().map(appended).collect();
    assert_eq!(told, (4..24).map(|seq| (seq, false)).collect::<Vec<_>>());
}

/// One operation alone is not to blame for a slow engine.
#[test]
fn f23_one_operation_is_not_refused_because_the_engine_is_slow() {
    let mut bench = bench();
    let op = send(1, GROUP, "a", "x");
    bench.memory.faults().script([Some(Fault::Slow); ATTEMPTS_MAX as usize]);
    assert_eq!(bench.world.try_commit(std::slice::from_ref(&op)), [Err(BatchError::Busy)]);
    bench.memory.faults().script([Some(Fault::UnknownCommitted)]);
    bench.memory.faults().script([Some(Fault::Slow); ATTEMPTS_MAX as usize]);
    assert_eq!(bench.world.try_commit(std::slice::from_ref(&op)), [Err(BatchError::Unknown)]);
    assert_eq!(appended(&bench.world.one(op)), (4, true));
}

/// A read that fails is not a row that is absent: nothing is decided by it.
#[test]
fn f4_a_version_that_is_too_old_decides_nothing() {
    let mut bench = bench();
    let op = send(1, GROUP, "k", "once");
    assert_eq!(appended(&bench.world.one(op.clone())), (4, false));
    for reads in 0..20 {
        bench.memory.faults().script([Some(Fault::TooOld { reads })]);
        assert_eq!(appended(&bench.world.one(op.clone())), (4, true), "after {reads} reads");
    }
    bench.memory.faults().age_snapshots([1]);
    let mut snapshot = bench.memory.snapshot().unwrap();
    assert!(snapshot.get(b"nothing").unwrap().is_none());
    assert!(matches!(snapshot.get(b"nothing"), Err(ReadError::Again(_))));
    assert!(matches!(snapshot.range(b"a", b"z", 9, false), Err(ReadError::Again(_))));
    assert!(bench.memory.snapshot().unwrap().get(b"nothing").is_ok(), "a new one is as good as ever");
}

/// G9: nothing overtakes an operation whose fate is not known.
#[test]
fn g9_nothing_behind_an_unknown_part_is_committed() {
    let part_lost = |parts_before: usize| {
        let mut bench = bench();
        bench.memory.faults().limit_txn_bytes(5_500);
        let ops: Vec<Op> =
            (0..4).map(|index| send(1, GROUP, &index.to_string(), &"x".repeat(2_000))).collect();
        let calm = std::iter::repeat_n(None, 1 + parts_before);
        let lost = (0..ATTEMPTS_MAX).map(|_| Some(Fault::UnknownLost));
        bench.memory.faults().script(calm.chain(lost));
        let results = bench.world.try_commit(&ops);
        let told: Vec<_> =
            results.iter().map(|result| result.as_ref().map(appended).map_err(Clone::clone)).collect();
        (told, bench.world.seqs(1, GROUP).len())
    };
    let (unknown, busy) = (Err(BatchError::Unknown), Err(BatchError::Busy));
    assert_eq!(part_lost(0), (vec![unknown.clone(), unknown.clone(), busy.clone(), busy], 3));
    assert_eq!(part_lost(1), (vec![Ok((4, false)), Ok((5, false)), unknown.clone(), unknown], 5));
}

/// An engine that panics when it is told to write a certain text.
struct Poisoned(Arc<Memory>);

struct PoisonedTxn<'a>(&'a mut dyn Txn);

impl Engine for Poisoned {
    fn lanes_count(&self) -> u16 {
        self.0.lanes_count()
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        self.0.commit(lane, &mut |txn| body(&mut PoisonedTxn(txn)))
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        self.0.snapshot()
    }
}

impl Read for PoisonedTxn<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.0.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.0.range(from, to, limit, reverse)
    }
}

impl Txn for PoisonedTxn<'_> {
    fn set(&mut self, key: Bytes, value: Bytes) {
        assert!(!value.windows(6).any(|bytes| bytes == b"poison"), "a defect that this test plays");
        self.0.set(key, value);
    }

    fn clear(&mut self, key: Bytes) {
        self.0.clear(key);
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        self.0.expect_unchanged(key);
    }
}

#[test]
fn f22_a_poison_message_fails_alone() {
    let Bench { memory, .. } = bench();
    let mut world = World::begin(Arc::new(Poisoned(memory)) as Arc<dyn Engine>);
    let poison = |index: u64| index == 3 || index == 8;
    let ops: Vec<Op> = (0..11)
        .map(|index| send(1, GROUP, &index.to_string(), if poison(index) { "poison" } else { "hello" }))
        .collect();
    let mut seq = 3;
    for (index, outcome) in (0..).zip(world.commit(&ops)) {
        if poison(index) {
            assert!(
                matches!(&outcome, Outcome::Refused(refusal) if refusal.code == Code::Internal),
                "{outcome:?}"
            );
        } else {
            seq += 1;
            assert_eq!(appended(&outcome), (seq, false));
        }
    }
    assert_eq!(world.seqs(1, GROUP), (1..=12).collect::<Vec<_>>());
}

#[test]
fn f4_a_claim_of_unknown_outcome_is_made_again() {
    for sequence in faults() {
        let Bench { memory, world } = bench();
        memory.faults().script(sequence.iter().copied().map(Some));
        let mut next = World::begin(memory.clone() as Arc<dyn Engine>);
        assert!(next.incarnation > world.incarnation);
        memory.land();
        assert_eq!(next.append(send(1, GROUP, "k", "x")).seq, 4, "{sequence:?}: the claim holds");
    }
}

fn appended(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Appended(appended) => {
            assert_eq!(appended.record.is_empty(), appended.duplicate, "an event comes with its record");
            (appended.seq, appended.duplicate)
        }
        other => panic!("not appended: {other:?}"),
    }
}
