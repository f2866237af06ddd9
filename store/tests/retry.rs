//! A batch is brought to one outcome, whatever goes wrong with its commits (F4, F8, F12, F22, F23, G5, G9).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationType, Event, HeadRow};
use carillon_store::backend::memory::{Chances, Fault, Memory, Options};
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{World, create, receipt, send};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::retry::{ATTEMPTS_MAX, BatchError};
use carillon_store::txn::{Body, Engine, Read, Row, Txn};
use carillon_store::verb::{Op, Outcome};

const GROUP: ConversationId = ConversationId(10);

struct Bench {
    memory: Arc<Memory>,
    world: World<Arc<dyn Engine>>,
}

fn bench() -> Bench {
    let memory = Arc::new(Memory::new(Options::default()));
    let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
    world.group(GROUP.0, &[1, 2]);
    world.append(send(1, GROUP, "first", "hello"));
    world.append(send(2, GROUP, "second", "hello"));
    Bench { memory, world }
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
    let mut sequences: Vec<Vec<Fault>> = single.iter().map(|fault| vec![*fault]).collect();
    for first in single {
        for second in [Fault::Conflict, Fault::UnknownCommitted, Fault::UnknownLate { steps: 1 }] {
            sequences.push(vec![first, second]);
        }
    }
    sequences
}

#[test]
fn f4_every_fault_on_every_operation_has_its_effect_once() {
    for (name, op) in kinds() {
        let mut calm = bench();
        let expected = plain(calm.world.one(op.clone()));
        calm.world.append(send(2, GROUP, "after", "hello"));
        let expected_rows = contents(&*calm.memory);
        for sequence in faults() {
            let mut bench = bench();
            bench.memory.faults().script(sequence.iter().copied().map(Some));
            let outcome = plain(bench.world.one(op.clone()));
            assert_eq!(outcome, expected, "{name} with {sequence:?}");
            bench.world.append(send(2, GROUP, "after", "hello"));
            bench.memory.land();
            assert_eq!(contents(&*bench.memory), expected_rows, "{name} with {sequence:?}");
        }
    }
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
        let late_steps_max = 6;
        bench.memory.faults().seed(
            seed,
            Chances {
                conflict: 150,
                unknown_committed: 150,
                unknown_lost: 150,
                unknown_late: 250,
                late_steps_max,
            },
        );
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

/// G5: what may have been committed is never called a failure, and is decided once when it is asked again.
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
