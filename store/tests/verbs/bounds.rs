//! What holds a batch in: the fence, ids across lives, bytes written, rows that cannot be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MESSAGE_EPOCH_MS, MessageId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationType, Event, HeadRow};
use carillon_protocol::time::WallMs;
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance::world::{World, add, change, create, page, receipt, send};
use carillon_store::error::ReadError;
use carillon_store::keys;
use carillon_store::ops::{Context, append};
use carillon_store::txn::{Abort, Engine, Read, Row, Txn};
use carillon_store::verb::{Incarnation, Op, Outcome, Query};

use super::*;

/// DM3: ids sort by creation, also when the clock steps back.
#[test]
fn g8_g9_order_of_commits_is_order_of_seqs_and_ids_whatever_the_clock_says() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let clock = [5_000_000, 5_000_000, 0, 4_000_000, 9_000_000, 8_999_999];
    let mut last = (1, MessageId(0));
    for (round, now) in clock.into_iter().enumerate() {
        world.now = WallMs(MESSAGE_EPOCH_MS + now);
        let ops: Vec<Op> = (0..4).map(|index| send(1, group, &format!("{round} {index}"), "x")).collect();
        for outcome in world.commit(&ops) {
            let Outcome::Appended(appended) = outcome else { panic!("{outcome:?}") };
            assert_eq!(appended.seq, last.0 + 1);
            assert!(appended.id > last.1);
            last = (appended.seq, appended.id);
        }
    }
    assert_eq!(last.1.created_at(), WallMs(MESSAGE_EPOCH_MS + 9_000_000));
}

/// T2, DM3: pairs and groups are numbered by one mechanism, whose `created_at` never falls as the seq rises, whatever the
/// clock does: to sort by it is to sort by seq.
#[test]
fn t2_created_at_never_falls_with_seq_in_pairs_and_groups() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    let pair = world.append(create(11, ConversationType::OneToOne, &[1, 2], "pair")).conversation;
    let clock = [6_000_000, 2_400_000, 2_400_001, 6_000_000, 0, 9_000_000, 8_999_999, 9_000_001];
    for (round, now) in clock.into_iter().enumerate() {
        world.now = WallMs(MESSAGE_EPOCH_MS + now);
        for conversation in [group, pair] {
            for sender in [1, 2] {
                let appended = world.append(send(sender, conversation, &round.to_string(), "x"));
                assert!(appended.id.created_at() >= world.now, "never before it was sent");
            }
        }
    }
    for conversation in [group, pair] {
        let entries = world.log(2, conversation).entries;
        let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=1 + 2 * clock.len() as u64).collect::<Vec<_>>());
        let ids: Vec<MessageId> =
            entries.iter().map(|entry| Event::decode(&entry.record).unwrap().id).collect();
        assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
        assert!(ids.is_sorted_by_key(|id| id.created_at()), "{ids:?}");
        assert_eq!(ids.last().unwrap().created_at(), WallMs(MESSAGE_EPOCH_MS + 9_000_001));
    }
}

/// T4: a member is a key of its own. Who joins a crowd writes what who joins a pair of friends does, in rows of the same
/// size, and nobody's row but their own.
#[test]
fn t4_a_member_is_one_key_however_many_there_are() {
    let mut world = world();
    let (small, crowd) = (world.group(10, &[1, 2]), world.group(11, &(1..=900).collect::<Vec<_>>()));
    world.users([1_000]);
    let mut joining = |conversation: ConversationId| {
        let before: BTreeMap<Bytes, Bytes> = all_rows(&world).into_iter().collect();
        world.append(change(1, conversation, "join", add(&[1_000])));
        let after = all_rows(&world);
        let written = after.into_iter().filter(|(key, value)| before.get(key) != Some(value));
        let mut sizes: Vec<(char, usize)> =
            written.map(|(key, value)| (char::from(key[0]), key.len() + value.len())).collect();
        sizes.sort_unstable();
        sizes
    };
    let (of_few, of_many) = (joining(small), joining(crowd));
    let families = |sizes: &[(char, usize)]| sizes.iter().map(|(family, _)| *family).collect::<String>();
    assert_eq!(families(&of_few), families(&of_many));
    assert_eq!(families(&of_many).matches('m').count(), 1, "one member's row: {of_many:?}");
    let bytes = |sizes: &[(char, usize)]| sizes.iter().map(|(_, bytes)| bytes).sum::<usize>();
    // Numbers take a byte more where they are larger.
    assert!(bytes(&of_many) <= bytes(&of_few) + 16, "{of_few:?} {of_many:?}");
}

#[test]
fn g15_every_touched_slot_is_read() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let ops = [send(1, group, "k", "x"), Op::Provision { user: UserId(1), name: String::new() }];
    for op in ops {
        let key = keys::slot(carillon_store::ops::slot_of(&op));
        let owned = world.engine.snapshot().unwrap().get(&key).unwrap().unwrap();
        by_hand(&world, |txn| txn.set(key.clone(), vec![1, 99].into()));
        assert_eq!(
            world.try_commit(&[op]),
            [Err(carillon_store::retry::BatchError::Fenced)],
            "a slot that was given away"
        );
        by_hand(&world, |txn| txn.set(key.clone(), owned.clone()));
    }
    assert_eq!(world.append(send(1, group, "k", "x")).seq, 2);
}

/// The row of the incarnation itself counts, whatever the slots say.
#[test]
fn g15_a_dead_incarnation_commits_nothing_in_slots_that_still_bear_its_name() {
    let memory: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let mut old = World::begin(memory.clone());
    let group = old.group(10, &[1, 2]);
    let op = send(1, group, "k", "x");
    let slot = keys::slot(carillon_store::ops::slot_of(&op));
    let owned = memory.snapshot().unwrap().get(&slot).unwrap().unwrap();
    let new = World::begin(memory);
    by_hand(&new, |txn| txn.set(slot.clone(), owned.clone()));
    assert_eq!(old.try_commit(&[op]), [Err(carillon_store::retry::BatchError::Fenced)]);
}

/// A transaction that notes which keys are written.
struct Noted<'a> {
    txn: &'a mut dyn Txn,
    written: Vec<Bytes>,
}

impl Read for Noted<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.txn.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.txn.range(from, to, limit, reverse)
    }
}

impl Txn for Noted<'_> {
    fn set(&mut self, key: Bytes, value: Bytes) {
        self.written.push(key.clone());
        self.txn.set(key, value);
    }

    fn clear(&mut self, key: Bytes) {
        self.written.push(key.clone());
        self.txn.clear(key);
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        self.txn.expect_unchanged(key);
    }
}

/// What a batch would write; it is not committed.
fn written(world: &MemoryWorld, ops: &[Op]) -> Vec<Bytes> {
    let (now, incarnation, mut ids) = (world.now, world.incarnation, world.ids(0));
    let mut keys = Vec::new();
    let outcome = world.engine.commit(0, &mut |txn| {
        let mut noted = Noted { txn, written: Vec::new() };
        append(&mut noted, &mut Context { now, incarnation, ids: &mut ids, members_max: 10 }, ops)?;
        keys = noted.written;
        Err(Abort::TooLarge)
    });
    assert!(outcome.is_err());
    keys
}

/// CP10: a message costs its event, its idempotency row, the head, its sender's row, and a marker when there is none.
#[test]
fn cp10_operations_write_what_they_must_and_no_more() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    world.append(send(1, group, "a", "x"));
    let families = |ops: &[Op]| written(&world, ops).iter().map(|key| char::from(key[0])).collect::<String>();
    assert_eq!(families(&[send(1, group, "b", "x")]), "ehim");
    let nothing = [
        send(1, group, "a", "x"),
        send(1, group, "a", "y"),
        send(9, group, "k", "x"),
        create(10, ConversationType::Group, &[1, 2], "create 10"),
        Op::Provision { user: UserId(1), name: "x".to_owned() },
        receipt(2, group, 0, 0),
        receipt(2, group, 9, 0),
        Op::FannedOut { conversation: group, seq: 0 },
        Op::FannedOut { conversation: ConversationId(99), seq: 9 },
    ];
    assert_eq!(families(&nothing), "");
    assert_eq!(families(&[receipt(2, group, 1, 0), receipt(2, group, 1, 0)]), "md");
    assert_eq!(
        families(&[Op::FannedOut { conversation: group, seq: 2 }, send(1, group, "b", "x")]),
        "ooehim"
    );
    world.now = WallMs(world.now.0 + carillon_store::ids::CEILING_AHEAD_MS);
    let families = written(&world, &[send(1, group, "b", "x")]);
    assert_eq!(families.last().map(|key| key[0]), Some(b'k'), "the ceiling of ids moves every ten seconds");
}

#[test]
fn f23_a_batch_that_outgrows_a_transaction_is_refused_before_the_engine_sees_it() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let content = "x".repeat(90_000);
    let ops: Vec<Op> = (0..100).map(|index| send(1, group, &index.to_string(), &content)).collect();
    let (now, incarnation, mut ids) = (world.now, world.incarnation, world.ids(0));
    let mut abort = None;
    let outcome = world.engine.commit(0, &mut |txn| {
        abort = append(txn, &mut Context { now, incarnation, ids: &mut ids, members_max: 10 }, &ops).err();
        Ok(())
    });
    assert!(matches!(abort, Some(Abort::TooLarge)), "{abort:?} {outcome:?}");
    let refusal = world.refusal(send(1, group, "huge", &"x".repeat(100_001)));
    assert_eq!((refusal.code, refusal.field), (Code::TooLarge, Some("content")));
}

/// The node bits of an incarnation come round after 1,024 lives.
#[test]
fn message_ids_are_not_given_again_by_a_later_life_with_the_same_bits() {
    let memory: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let mut first = World::begin(memory.clone());
    assert_eq!(first.incarnation, Incarnation(1));
    first.now = WallMs(first.now.0 + 3_600_000);
    let group = first.group(10, &[1, 2]);
    let early = first.append(send(1, group, "a", "x"));
    by_hand(&first, |txn| txn.set(keys::router(Incarnation(1_024)), vec![1, 1].into()));
    // The clock is an hour behind now, and the conversation is another one.
    let mut second = World::begin(memory);
    assert_eq!(second.incarnation, Incarnation(1_025));
    let late = second.group(11, &[1, 2]);
    let late = second.append(send(1, late, "a", "x"));
    assert!(late.id > early.id, "{:?} {:?}", late.id, early.id);
}

/// A new life has other node bits, and perhaps a slower clock: ids of a conversation rise all the same (G16).
#[test]
fn message_ids_rise_across_lives() {
    let memory: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let mut first = World::begin(memory.clone());
    first.now = WallMs(first.now.0 + 3_600_000);
    let group = first.group(10, &[1, 2]);
    let early = first.append(send(1, group, "a", "x"));
    let late = World::begin(memory).append(send(1, group, "b", "x"));
    assert!(late.seq == early.seq + 1 && late.id > early.id, "{:?} {:?}", late.id, early.id);
}

/// F22: a row that cannot be read fails the operation that needs it, and no other.
#[test]
fn f22_a_row_of_another_version_fails_its_operation_alone() {
    let mut world = world();
    let (group, other) = (world.group(10, &[1, 2]), world.group(11, &[1, 2]));
    by_hand(&world, |txn| txn.set(keys::head(group), vec![99].into()));
    let outcomes =
        world.commit(&[send(1, other, "a", "x"), send(1, group, "a", "x"), send(1, other, "b", "x")]);
    assert!(
        matches!(&outcomes[1], Outcome::Refused(refusal) if refusal.code == Code::Internal),
        "{outcomes:?}"
    );
    assert_eq!(world.seqs(1, other), [1, 2, 3]);
    assert_eq!(code(&world.ask(&Query::Page(page(1, group, 1, 9)))), Some(Code::Internal));
    by_hand(&world, |txn| {
        let head = HeadRow { seq: 1, members_version: 1, members_count: 2, ..HeadRow::default() };
        txn.set(keys::head(group), head.encode().into());
    });
    assert_eq!(world.append(send(1, group, "a", "x")).seq, 2, "nothing was left behind");
}
