//! Several routers on one store: every engine has to carry the verbs through by which they share its slots.

use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation};
use carillon_protocol::time::WallMs;

use super::world::{World, send};
use crate::ids::MessageIds;
use crate::ops::{self, Context, Holder, Living, Ownership, ownership};
use crate::retry::{BatchError, commit_batch, commit_one};
use crate::txn::{Abort, Engine, Txn};
use crate::verb::Incarnation;

fn control<T>(
    engine: &dyn Engine,
    body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
) -> Result<T, BatchError> {
    commit_one(engine, engine.control_lane(), body, &mut |_| {})
}

fn join(engine: &dyn Engine) -> Incarnation {
    control(engine, &mut |txn| ops::join(txn, WallMs(5), ADDRESS)).expect("a router may join").incarnation
}

const ADDRESS: &str = "router.example.org:7400";

fn living(incarnation: Incarnation, beat: u64) -> Living {
    Living { incarnation, beat, address: ADDRESS.to_owned() }
}

fn held(owner: Option<Incarnation>, epoch: u64) -> Holder {
    Holder { owner, epoch }
}

fn shown(engine: &dyn Engine) -> Ownership {
    let mut snapshot = engine.snapshot().expect("a snapshot");
    ownership(&mut *snapshot).expect("who owns what")
}

fn slots() -> Vec<Slot> {
    (0..SLOTS_COUNT).map(Slot).collect()
}

/// Slots go from nobody to who takes them, and from the living only as a gift.
pub(super) fn given_and_taken(engine: Box<dyn Engine>) {
    let engine = &*engine;
    assert_eq!(shown(engine).living, []);
    let (one, other) = (join(engine), join(engine));
    assert!(other > one && one > Incarnation(0));
    let half: Vec<Slot> = slots().into_iter().filter(|slot| slot.0.is_multiple_of(2)).collect();
    assert_eq!(
        control(engine, &mut |txn| ops::take(txn, one, &half)),
        Ok(half.iter().map(|slot| (*slot, 1)).collect())
    );
    // What the other gets is what nobody has.
    let taken = control(engine, &mut |txn| ops::take(txn, other, &slots())).expect("taken");
    assert!(
        taken.len() == half.len()
            && taken.iter().all(|(slot, epoch)| !slot.0.is_multiple_of(2) && *epoch == 1)
    );
    control(engine, &mut |txn| ops::beat(txn, one, 7)).expect("alive");
    let before = shown(engine);
    assert_eq!(before.living, [living(one, 7), living(other, 0)]);
    assert!(
        before
            .owners
            .iter()
            .enumerate()
            .all(|(slot, owner)| *owner == held(Some(if slot.is_multiple_of(2) { one } else { other }), 1))
    );

    // Given to the living, to nobody, and by who does not own it.
    control(engine, &mut |txn| ops::give(txn, one, &[Slot(0), Slot(1)], Some(other))).expect("given");
    control(engine, &mut |txn| ops::give(txn, one, &[Slot(2)], None)).expect("given");
    control(engine, &mut |txn| ops::give(txn, one, &[Slot(4)], Some(Incarnation(99)))).expect("given");
    let after = shown(engine);
    let of = |slot: u16| after.owners[usize::from(slot)];
    assert_eq!(
        (of(0), of(1), of(2), of(4), of(6)),
        (held(Some(other), 2), held(Some(other), 1), held(None, 2), held(None, 2), held(Some(one), 1)),
        "every change raises the epoch, and nothing else does"
    );
}

/// G15: only the silent are deposed; from then on they commit nothing, and what was theirs is free.
pub(super) fn deposed(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let slot = slot_of_conversation(group);
    let old = world.incarnation;
    let op = send(1, group, "a", "hello");
    let mut ids = world.ids(world.lane(&op));
    let new = join(&*world.engine);
    let engine = &*world.engine;

    let taken = control(engine, &mut |txn| ops::take(txn, new, &[slot]));
    assert_eq!(taken, Ok(vec![]), "nobody takes from the living");
    control(engine, &mut |txn| ops::beat(txn, old, 3)).expect("alive");
    let deposed = control(engine, &mut |txn| ops::depose(txn, new, old, 2));
    assert_eq!(deposed, Ok(false), "it has beaten since");
    control(engine, &mut |txn| ops::beat(txn, old, 3)).expect("alive still");
    assert_eq!(control(engine, &mut |txn| ops::depose(txn, new, old, 3)), Ok(true));
    assert_eq!(control(engine, &mut |txn| ops::depose(txn, new, old, 9)), Ok(true), "dead already");

    let fenced = Err(BatchError::Fenced);
    assert_eq!(control(engine, &mut |txn| ops::beat(txn, old, 4)), fenced);
    assert_eq!(control(engine, &mut |txn| ops::take(txn, old, &[Slot(1)])).map(|_| ()), fenced);
    assert_eq!(control(engine, &mut |txn| ops::give(txn, old, &[slot], Some(old))), fenced);
    assert_eq!(control(engine, &mut |txn| ops::depose(txn, old, new, 0)).map(|_| ()), fenced);
    assert!(shown(engine).owners.iter().all(|held| held.owner.is_none()), "a dead owner is none");

    assert_eq!(control(engine, &mut |txn| ops::take(txn, new, &[slot])), Ok(vec![(slot, 2)]));
    let commit = |incarnation, ids: &mut _| {
        let mut context = Context { now: world.now, incarnation, ids, members_max: 1_000 };
        let ops = std::slice::from_ref(&op);
        commit_batch(engine, world.lane(&op), &mut context, ops, &mut |_| {}).remove(0).map(|_| ())
    };
    assert_eq!(commit(old, &mut ids), fenced, "the deposed owner");
    let mut ids_of_new = MessageIds::new(new, 0, world.lane(&op), engine.lanes_count());
    assert_eq!(commit(new, &mut ids_of_new), Ok(()), "the new owner");

    // Another one joins: the dead are forgotten, and no number comes again.
    control(engine, &mut |txn| ops::retire(txn, new)).expect("retired");
    let next = join(engine);
    assert!(next > new);
    assert_eq!(shown(engine).living, [living(next, 0)]);
    assert_eq!(control(engine, &mut |txn| ops::beat(txn, new, 1)), fenced);
}

/// G15: an owner that gives a slot away while its own commit there is under way loses one of the two, on engines with
/// several lanes; with one writer they come one after the other.
pub(super) fn given_under_way(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let op = send(1, group, "a", "hello");
    let slot = slot_of_conversation(group);
    let new = join(&*world.engine);
    if world.engine.lanes_count() == 1 {
        return;
    }
    let (old, lane) = (world.incarnation, world.lane(&op));
    let mut ids = world.ids(lane);
    let engine = &*world.engine;
    let mut attempts_count = 0;
    let committed = commit_one(
        engine,
        lane,
        &mut |txn| {
            let mut context = Context { now: WallMs(9), incarnation: old, ids: &mut ids, members_max: 9 };
            let outcome = ops::append(txn, &mut context, std::slice::from_ref(&op));
            attempts_count += 1;
            if attempts_count == 1 {
                let given = control(engine, &mut |txn| ops::give(txn, old, &[slot], Some(new)));
                assert_eq!(given, Ok(()));
            }
            outcome.map(|_| ())
        },
        &mut |_| {},
    );
    assert_eq!((committed, attempts_count), (Err(BatchError::Fenced), 2), "the slot went away under it");
}
