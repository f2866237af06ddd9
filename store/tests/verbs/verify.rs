//! The walk that says whether a store is whole: what the verbs write is, and whatever else is not.

use bytes::Bytes;
use carillon_protocol::ids::MessageId;
use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::record::{
    ConversationType, Event, HeadRow, IdempotencyRow, Role, TallyRow, idempotency_hash,
};
use carillon_protocol::time::WallMs;
use carillon_store::conformance::world::{add, change, create, receipt, remove, reply, send};
use carillon_store::ops::{advance_generation, clear_generation};
use carillon_store::verb::Change;
use carillon_store::verify::{Report, verify};

use super::*;

fn walk(world: &MemoryWorld) -> Report {
    verify(&mut *world.engine.snapshot().unwrap(), 50, &mut |_| {})
}

/// Every verb's rows are those of the others.
pub(super) fn assert_whole(world: &MemoryWorld) -> Report {
    let report = walk(world);
    assert_eq!((&report.findings[..], &report.unchecked[..]), (&[][..], &[][..]));
    report
}

/// A store in which every family has rows.
fn rich() -> MemoryWorld {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    world.append(create(12, ConversationType::OneToOne, &[1, 2], ""));
    let message = world.append(send(1, group, "m", "hello")).id;
    let deleted = world.append(send(2, group, "d", "gone")).id;
    let emoji = || "+".to_owned();
    world.append(change(2, group, "r", Change::React { message, emoji: emoji() }));
    world.append(change(3, group, "r", Change::React { message, emoji: emoji() }));
    world.append(change(3, group, "u", Change::Unreact { message, emoji: emoji() }));
    world.append(change(2, group, "e", Change::Delete { message: deleted }));
    world.append(change(1, group, "name", Change::Rename { group_name: "another".to_owned() }));
    world.append(change(1, group, "role", Change::SetRole { user: UserId(2), role: Role::Admin }));
    world.append(change(3, group, "leave", remove(3)));
    world.append(change(1, group, "back", add(&[3])));
    world.append(change(2, group, "out", remove(3)));
    world.append(reply(2, group, "reply", message));
    // So already: remembered, and no event.
    unchanged(
        &mut world,
        &change(1, group, "again", Change::Rename { group_name: "another".to_owned() }),
        Some(8),
    );
    world.one(receipt(2, group, 5, 3));
    world.one(Op::Mute { user: UserId(1), conversation: group, until: Some(WallMs(5)) });
    let (device, at) = (PHONE.to_owned(), WallMs(9));
    world.one(Op::Seen { user: UserId(1), device, at, offline: true });
    world
}

/// A few slots' rows are as good as all of them, for who walks a thousand times and writes nothing.
fn forget_slots(world: &MemoryWorld) {
    by_hand(world, |txn| (4..SLOTS_COUNT).for_each(|slot| txn.clear(keys::slot(Slot(slot)))));
}

/// A log of several stretches, one of them counted.
fn long(world: &mut MemoryWorld) -> ConversationId {
    let long = world.group(20, &[4, 5]);
    fill(world, long, 4, 2_100);
    fill_more(world, long, 5, 600);
    world.one(receipt(5, long, 1_200, 1_200));
    world.one(Op::FannedOut { conversation: long, seq: 2_000 });
    long
}

fn fill_more(world: &mut MemoryWorld, conversation: ConversationId, sender: u64, count: u64) {
    for index in 0..count {
        world.append(send(sender, conversation, &format!("more {index}"), "hello"));
    }
}

#[test]
fn what_the_verbs_write_is_whole() {
    let mut world = rich();
    let long = long(&mut world);
    let counts = assert_whole(&world).counts;
    assert_eq!(counts.rows, all_rows(&world).len() as u64, "all rows were looked at");
    assert_eq!((counts.conversations, counts.users), (3, 5));
    assert_eq!((counts.messages, counts.memberships), (3 + 2_700, 3 + 2 + 2));
    assert_eq!((counts.events, counts.remembered), (13 + 1 + 2_701, 12 + 1 + 2_700 + 2));
    assert_eq!(walk(&self::world()).findings_count, 0, "a new store, too");

    let tally = keys::tally(long, 0);
    by_hand(&world, |txn| {
        let mut row = TallyRow::decode(&txn.get(&tally).unwrap().unwrap()).unwrap();
        row.messages[0].1 += 1;
        txn.set(tally.clone(), row.encode().into());
    });
    let words = "conversation 20: the tally of stretch 0 is not what its events add up to";
    assert_eq!(walk(&world).findings, [words]);
}

/// F11: a row that is not there any more is missed, whichever it is, unless nothing else says that it was.
#[test]
fn f11_no_row_goes_missing_unseen() {
    let world = rich();
    forget_slots(&world);
    let attempt_at_nothing = keys::sent(0, ConversationId(10), &idempotency_hash(UserId(1), "again"));
    let mut families = std::collections::BTreeSet::new();
    for (key, value) in all_rows(&world) {
        families.insert(char::from(key[0]));
        by_hand(&world, |txn| txn.clear(key.clone()));
        let report = walk(&world);
        // What only says itself: cursors, markers, mutes, devices; and the routers' own.
        // So does the attempt at what was so already: no event is its own.
        let is_of_nothing = *key == *attempt_at_nothing;
        let is_alone = b"dovxswtA".contains(&key[0]) || is_of_nothing;
        assert_eq!(report.findings_count == 0, is_alone, "{key:?}: {report:?}");
        by_hand(&world, |txn| txn.set(key.clone(), value.clone()));
    }
    assert_eq!(families.iter().collect::<String>(), "cdefhijklmnoprsuvwxyz");
    assert_whole(&world);
}

/// F11: so is a bit that flips in a row that something else agrees with.
#[test]
fn f11_no_bit_of_what_is_said_twice_flips_unseen() {
    let world = rich();
    forget_slots(&world);
    let mut flipped = 0;
    for (key, value) in all_rows(&world) {
        if !b"cehljnpryz".contains(&key[0]) {
            continue;
        }
        for bit in 0..value.len() * 8 {
            // An id may be another one and still rise; what kind of message was deleted is said nowhere else.
            // Whether a reaction was made or taken back is not, once it was undone.
            let (is_event, kind, byte) = (key[0] == b'e', value[1], bit / 8);
            let is_free =
                is_event && (byte == 1 && [8, 9].contains(&kind) || (2..10).contains(&byte) || kind == 2);
            // Whoever is back is back by any number but 0.
            if is_free || key[0] == b'l' && byte == 3 {
                continue;
            }
            let mut wrong = value.to_vec();
            wrong[bit / 8] ^= 1 << (bit % 8);
            by_hand(&world, |txn| txn.set(key.clone(), Bytes::from(wrong.clone())));
            assert_ne!(walk(&world).findings_count, 0, "bit {bit} of {key:?} {value:?}");
            flipped += 1;
        }
        by_hand(&world, |txn| txn.set(key.clone(), value.clone()));
    }
    assert!(flipped > 2_000, "{flipped}");
    assert_whole(&world);
}

/// What is wrong is told by its place and numbers, and no more than was asked for.
#[test]
fn what_is_wrong_is_told() {
    let group = ConversationId(10);
    let head = keys::head(group);
    let event = |seq| keys::event(group, seq);
    type Harm<'h> = &'h dyn Fn(&mut dyn Txn);
    let table: [(&str, Harm<'_>); 10] = [
        ("conversation 10: events 3 to 4 are missing", &|txn| {
            [3, 4].iter().for_each(|seq| txn.clear(event(*seq)))
        }),
        ("conversation 10: its head says 14, and its last event is 13", &|txn| {
            let row = HeadRow::decode(&txn.get(&head).unwrap().unwrap()).unwrap();
            txn.set(head.clone(), HeadRow { seq: 14, ..row }.encode().into());
        }),
        ("conversation 10: event 2 cannot be read", &|txn| txn.set(event(2), Bytes::from_static(&[1, 1, 7]))),
        ("the row head of conversation 10 cannot be read", &|txn| {
            txn.set(head.clone(), Bytes::from_static(&[1]))
        }),
        ("conversation 10: the id of event 3 is not above the one before it", &|txn| {
            let record = txn.get(&event(3)).unwrap().unwrap();
            let wrong = Event { id: MessageId(5), ..Event::decode(&record).unwrap() };
            txn.set(event(3), wrong.encode().into());
        }),
        ("conversation 11: there are 1 rows of it, but not the one that describes it", &|txn| {
            txn.set(keys::event(ConversationId(11), 1), Bytes::from_static(&[1]));
        }),
        ("conversation 10: a remembered attempt points to event 99, which is not there", &|txn| {
            let row = IdempotencyRow { seq: 99, payload_hash: [0; 16] };
            txn.set(keys::sent(0, group, &[9; 16]), row.encode().into());
        }),
        ("conversation 10: a remembered attempt points to message 2, which is another's", &|txn| {
            let row = IdempotencyRow { seq: 2, payload_hash: [0; 16] };
            txn.set(keys::sent(0, group, &[9; 16]), row.encode().into());
        }),
        ("conversation 10: user 9 has it in their list, and is no member", &|txn| {
            txn.set(keys::user_conversation(UserId(9), group), Bytes::from_static(&[1, 1]));
        }),
        ("there is a row q1, of a family that nobody writes", &|txn| {
            txn.set(Bytes::from_static(b"q1"), Bytes::new());
        }),
    ];
    for (words, harm) in table {
        let world = rich();
        by_hand(&world, |txn| harm(txn));
        let report = walk(&world);
        assert!(report.findings.iter().any(|found| found == words), "{words:?} is not in {report:#?}");
    }
    let world = rich();
    by_hand(&world, |txn| (2..40).for_each(|id| txn.set(keys::head(ConversationId(id << 8)), Bytes::new())));
    let report = verify(&mut *world.engine.snapshot().unwrap(), 3, &mut |_| {});
    assert_eq!((report.findings.len(), report.findings_count), (3, 38));
}

/// G2: attempts are remembered for a window. Within it none is missed, and none is asked for that is older.
#[test]
fn g2_what_is_remembered_is_checked_within_the_window() {
    let mut world = rich();
    let group = ConversationId(10);
    let advance = |world: &MemoryWorld| {
        by_hand(world, |txn| {
            advance_generation(txn).unwrap();
        });
    };
    for round in 0..3 {
        advance(&world);
        for name in 0..3 {
            world.append(send(1, group, &format!("{round} {name}"), "hello"));
        }
        assert_whole(&world);
    }
    // Some of the first are forgotten, then all.
    for rows_max in [5, 7, usize::MAX] {
        by_hand(&world, |txn| {
            clear_generation(txn, 0, rows_max).unwrap();
        });
        assert_whole(&world);
    }
    let within = |key: &Bytes| key[0] == b'i' && key[8] >= 2;
    for (key, value) in all_rows(&world).into_iter().filter(|(key, _)| within(key)) {
        by_hand(&world, |txn| txn.clear(key.clone()));
        // The first within the window may be the first that there was.
        let is_first = IdempotencyRow::decode(&value).unwrap().seq == 17;
        assert_eq!(walk(&world).findings_count == 0, is_first, "{key:?}");
        by_hand(&world, |txn| txn.set(key.clone(), value.clone()));
    }
}

/// A store that cannot be read is not whole.
#[test]
fn a_walk_that_ends_early_says_so() {
    let memory = Arc::new(Memory::new(Options::default()));
    let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
    world.group(10, &[1, 2]);
    memory.faults().age_snapshots([4]);
    let report = verify(&mut *memory.snapshot().unwrap(), 9, &mut |_| {});
    assert_eq!(report.findings_count, 1, "{report:?}");
    assert!(report.findings[0].starts_with("the walk ended here"), "{report:?}");
}
