//! Many senders at once, with real threads (OR2, OR5, G3, G9).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::placement::{lane_of_slot, slot_of_conversation};
use carillon_protocol::record::Event;
use carillon_store::backend::memory::{Chances, Memory, Options};
use carillon_store::conformance::world::{World, send};
use carillon_store::ops::Context;
use carillon_store::retry::commit_batch;
use carillon_store::txn::Engine;
use carillon_store::verb::{Op, Outcome};

const SENDERS: u64 = 64;
const MESSAGES_EACH: u64 = 1_000;
/// As many operations as one batch of the router takes.
const BATCH_OPS_MAX: usize = 400;

/// OR2: 64 concurrent senders × 1,000 messages: every seq once, none missing, each sender's in order (G9), and what was
/// answered is what is stored.
#[test]
fn or2_sixty_four_senders_get_every_seq_once() {
    let memory = Arc::new(Memory::new(Options::default()));
    let mut world = World::begin(memory as Arc<dyn Engine>);
    let members: Vec<u64> = (1..=SENDERS).collect();
    let group = world.group(10, &members);
    let (queue, arrivals) = sync_channel::<Op>(1_024);
    let mut answered: BTreeMap<(u64, u64), Seq> = BTreeMap::new();
    std::thread::scope(|scope| {
        for sender in 1..=SENDERS {
            let queue = queue.clone();
            scope.spawn(move || {
                for index in 0..MESSAGES_EACH {
                    queue.send(send(sender, group, &index.to_string(), "hello")).unwrap();
                }
            });
        }
        drop(queue);
        while let Ok(first) = arrivals.recv() {
            let batch: Vec<Op> =
                std::iter::once(first).chain(arrivals.try_iter().take(BATCH_OPS_MAX - 1)).collect();
            for (op, outcome) in batch.iter().zip(world.commit(&batch)) {
                let (Op::Send(op), Outcome::Appended(appended)) = (op, outcome) else {
                    panic!("not appended")
                };
                let was = answered.insert((op.sender.0, op.client_msg_id.parse().unwrap()), appended.seq);
                assert!(was.is_none() && !appended.duplicate);
            }
        }
    });
    let log = world.log(1, group);
    assert_eq!(log.entries.len() as u64, 1 + SENDERS * MESSAGES_EACH);
    let mut next = [0; SENDERS as usize + 1];
    for (entry, seq) in log.entries.iter().zip(1..) {
        assert_eq!(entry.seq, seq);
        if seq > 1 {
            let event = Event::decode(&entry.record).unwrap();
            let index: u64 = event.client_msg_id.parse().unwrap();
            assert_eq!(index, next[event.sender.0 as usize], "sender {} in order", event.sender);
            next[event.sender.0 as usize] += 1;
            assert_eq!(answered.get(&(event.sender.0, index)), Some(&seq));
        }
    }
}

/// Sixteen lanes at once, with faults by chance: conversations of different lanes never meet (OR5), and every message is
/// in its log once and in order.
#[test]
fn or5_lanes_do_not_conflict_and_faults_change_nothing() {
    let memory = Arc::new(Memory::new(Options { lanes_count: 16 }));
    let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
    let mut groups: BTreeMap<u16, ConversationId> = BTreeMap::new();
    for number in 1_000.. {
        let lane = lane_of_slot(slot_of_conversation(ConversationId(number)), 16);
        if let std::collections::btree_map::Entry::Vacant(free) = groups.entry(lane) {
            free.insert(world.group(number, &[1, 2]));
        }
        if groups.len() == 16 {
            break;
        }
    }
    run_lanes(&memory, &world, &groups, 0);
    assert_eq!(memory.conflicts_count(), 0);
    let chances = Chances {
        conflict: 50,
        unknown_committed: 100,
        unknown_lost: 100,
        unknown_late: 200,
        late_steps_max: 40,
        too_old: 50,
        too_old_reads_max: 12,
        slow: 50,
    };
    memory.faults().seed(7, chances);
    run_lanes(&memory, &world, &groups, 1);
    memory.faults().calm();
    memory.land();
    for group in groups.values() {
        let log = world.log(2, *group);
        let found: Vec<String> = log.entries[1..]
            .iter()
            .map(|entry| Event::decode(&entry.record).unwrap().client_msg_id.into_owned())
            .collect();
        let expected: Vec<String> =
            (0..2).flat_map(|round| (0..40 * 5).map(move |index| format!("{round}-{index}"))).collect();
        assert_eq!(found, expected, "faults with seed 7, {group:?}");
    }
}

/// One thread for each lane, forty batches of five messages each.
fn run_lanes(
    memory: &Memory,
    world: &World<Arc<dyn Engine>>,
    groups: &BTreeMap<u16, ConversationId>,
    round: u64,
) {
    std::thread::scope(|scope| {
        for (lane, group) in groups {
            let mut ids = world.ids(*lane);
            let (now, incarnation) = (world.now, world.incarnation);
            scope.spawn(move || {
                for batch in 0..40 {
                    let ops: Vec<Op> = (0..5)
                        .map(|index| send(1, *group, &format!("{round}-{}", batch * 5 + index), "hello"))
                        .collect();
                    let mut context = Context { now, incarnation, ids: &mut ids, members_max: 10 };
                    for result in commit_batch(memory, *lane, &mut context, &ops, &mut |_| {}) {
                        assert!(matches!(result, Ok(Outcome::Appended(appended)) if !appended.duplicate));
                    }
                }
            });
        }
    });
}
