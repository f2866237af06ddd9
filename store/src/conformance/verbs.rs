//! The verbs on top of an engine: what every engine has to carry them through.

use carillon_protocol::ids::UserId;
use carillon_protocol::reason::Code;
use carillon_protocol::record::ConversationType;

use super::Reopen;
use super::world::{World, add, change, create, page, receipt, remove, send};
use crate::error::CommitError;
use crate::ops::{Context, advance_generation, append};
use crate::retry::BatchError;
use crate::txn::{Abort, Engine};
use crate::verb::{Answer, Change, Joined, Op, Outcome, Query};

pub(super) fn dense(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let mut last = None;
    for round in 0..20 {
        let ops = [
            send(1, group, &format!("a{round}"), "hello"),
            send(9, group, &format!("b{round}"), "not a member"),
            send(2, group, &format!("c{round}"), "hello"),
            send(1, group, &format!("a{round}"), "hello"),
            send(1, group, &format!("a{round}"), "something else"),
        ];
        let outcomes = world.commit(&ops);
        let seqs: Vec<_> = outcomes.iter().map(describe).collect();
        let (first, second) = (2 + 2 * round, 3 + 2 * round);
        let expected = [
            format!("new {first}"),
            "forbidden".to_owned(),
            format!("new {second}"),
            format!("duplicate {first}"),
            "idempotency_conflict".to_owned(),
        ];
        assert_eq!(seqs, expected);
        for outcome in outcomes {
            if let Outcome::Appended(appended) = outcome
                && !appended.duplicate
            {
                assert!(last < Some(appended.id), "ids rise with seq");
                last = Some(appended.id);
            }
        }
    }
    assert_eq!(world.seqs(2, group), (1..=41).collect::<Vec<_>>());
}

pub(super) fn idempotent(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let first = world.append(send(1, group, "k", "hello"));
    let advance = |world: &World<Box<dyn Engine>>| {
        let advanced = world.engine.commit(0, &mut |txn| advance_generation(txn).map(drop));
        assert!(advanced.is_ok(), "{advanced:?}");
    };
    advance(&world);
    let again = world.append(send(1, group, "k", "hello"));
    assert_eq!((again.seq, again.id, again.duplicate), (first.seq, first.id, true), "one generation later");
    assert_eq!(world.refusal(send(1, group, "k", "other")).code, Code::IdempotencyConflict);
    assert!(!world.append(send(2, group, "k", "hello")).duplicate, "another sender's key is another key");
    advance(&world);
    assert!(!world.append(send(1, group, "k", "hello")).duplicate, "beyond the window it is a new message");
    assert_eq!(world.seqs(1, group), [1, 2, 3, 4]);
}

pub(super) fn membership(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    world.append(send(1, group, "k", "hello"));
    let absent = carillon_protocol::ids::ConversationId(77);
    assert_eq!(world.refusal(send(9, group, "k", "x")), world.refusal(send(1, absent, "k", "x")));
    let stranger = world.ask(&Query::Page(page(9, group, 1, 9)));
    assert_eq!(stranger, world.ask(&Query::Page(page(1, absent, 1, 9))));
    assert!(matches!(stranger, Answer::Refused(refusal) if refusal.code == Code::Forbidden));
    let peeked = world.ask(&Query::Peek { user: UserId(9), conversations: vec![group, absent] });
    assert_eq!(peeked, Answer::Standings(Vec::new()));
    assert_eq!(world.seqs(2, group), [1, 2]);
}

pub(super) fn receipts(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    for index in 0..4 {
        world.append(send(1, group, &index.to_string(), "hello"));
    }
    let moves = [
        // (delivered, read) given; delivered and read afterwards.
        ((3, 0), (3, 0)),
        ((2, 0), (3, 0)),
        ((0, 4), (4, 4)),
        ((0, 2), (4, 4)),
        ((5, 5), (5, 5)),
    ];
    for ((delivered, read), expected) in moves {
        let outcome = world.one(receipt(2, group, delivered, read));
        let Outcome::Receipted(receipted) = outcome else { panic!("{outcome:?}") };
        assert_eq!((receipted.delivered.1, receipted.read.1), expected);
    }
    assert_eq!(world.refusal(receipt(2, group, 6, 0)).field, Some("seq"), "beyond the head");
    assert_eq!(world.refusal(receipt(9, group, 1, 0)).code, Code::Forbidden);

    // A log of more than two stretches: even seqs are of user 1, odd ones of user 2. The second reader finds the first
    // stretch counted.
    let long = world.group(11, &[1, 2, 3]);
    for batch in 0..6 {
        let key = |index: u64| (batch * 400 + index).to_string();
        let ops: Vec<Op> = (0..400).map(|index| send(1 + index % 2, long, &key(index), "hello")).collect();
        world.commit(&ops);
    }
    for (user, unread) in [(2, 650), (3, 1_301), (1, 651)] {
        let outcome = world.one(receipt(user, long, 0, 1_100));
        assert!(matches!(&outcome, Outcome::Receipted(now) if now.unread_count == unread), "{outcome:?}");
    }
}

pub(super) fn changes(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    world.users([3]);
    let message = world.append(send(1, group, "a", "hello")).id;
    let react = Change::React { message, emoji: "+".to_owned() };
    let steps = [
        (change(2, group, "b", react.clone()), "new 3"),
        (change(2, group, "b", react.clone()), "duplicate 3"),
        (change(2, group, "c", react), "same 3"),
        (change(2, group, "d", Change::Delete { message }), "forbidden"),
        (change(1, group, "a", Change::Delete { message }), "idempotency_conflict"),
        (change(1, group, "d", Change::Delete { message }), "new 4"),
        (send(1, group, "a", "hello"), "duplicate 2"),
        (change(2, group, "e", add(&[3, 1])), "new 5"),
        (change(3, group, "f", remove(2)), "forbidden"),
        (change(1, group, "f", remove(2)), "new 6"),
        (send(2, group, "g", "hello"), "forbidden"),
        (change(2, group, "e", add(&[1, 3])), "duplicate 5"),
    ];
    let (ops, expected): (Vec<Op>, Vec<&str>) = steps.into_iter().unzip();
    let outcomes = world.commit(&ops);
    assert_eq!(outcomes.iter().map(describe).collect::<Vec<_>>(), expected);
    assert_eq!(world.seqs(1, group), [1, 2, 3, 4, 5, 6]);
    assert_eq!(world.seqs(2, group), [1, 2, 3, 4, 5, 6], "to the event that removed them");
    assert_eq!(world.seqs(3, group), [5, 6], "from the event that added them");
}

pub(super) fn markers(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let markers = |world: &World<Box<dyn Engine>>| match world.ask(&Query::Markers) {
        Answer::Markers(markers) => markers,
        other => panic!("{other:?}"),
    };
    world.append(send(1, group, "a", "hello"));
    world.append(send(1, group, "b", "hello"));
    assert_eq!(markers(&world), [(group, 1)]);
    world.one(Op::FannedOut { conversation: group, seq: 2 });
    assert_eq!(markers(&world), [(group, 3)]);
    world.one(Op::FannedOut { conversation: group, seq: 1 });
    assert_eq!(markers(&world), [(group, 3)], "never back");
    world.one(Op::FannedOut { conversation: group, seq: 3 });
    assert_eq!(markers(&world), []);
    world.append(send(1, group, "c", "hello"));
    assert_eq!(markers(&world), [(group, 4)]);
}

pub(super) fn fenced(engine: Box<dyn Engine>) {
    let mut old = World::begin(engine);
    let group = old.group(10, &[1, 2]);
    old.append(send(1, group, "a", "hello"));
    let op = send(1, group, "b", "too late");
    let (incarnation, lane) = (old.incarnation, old.lane(&op));
    let mut ids = old.ids(lane);
    let mut new = World::begin(old.engine);
    assert!(new.incarnation > incarnation);
    // What the old life still wants to write.
    let mut context = Context { now: new.now, incarnation, ids: &mut ids, members_max: 1_000 };
    let results =
        crate::retry::commit_batch(&*new.engine, lane, &mut context, std::slice::from_ref(&op), &mut |_| {});
    assert_eq!(results, [Err(BatchError::Fenced)]);
    assert!(!new.append(op).duplicate, "the owner decides it");
    assert_eq!(new.seqs(1, group), [1, 2, 3]);
}

pub(super) fn aborted_batch(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let op = send(1, group, "a", "hello");
    let lane = world.lane(&op);
    let (incarnation, mut ids, now) = (world.incarnation, world.ids(lane), world.now);
    let mut seen = None;
    let outcome = world.engine.commit(lane, &mut |txn| {
        let mut context = Context { now, incarnation, ids: &mut ids, members_max: 1_000 };
        seen = Some(append(txn, &mut context, std::slice::from_ref(&op))?);
        Err(Abort::TooLarge)
    });
    assert!(matches!(outcome, Err(CommitError::TooLarge)));
    assert!(matches!(seen.as_deref(), Some([Outcome::Appended(appended)]) if appended.seq == 2));
    assert_eq!(world.seqs(1, group), [1]);
    let committed = world.append(op);
    assert_eq!((committed.seq, committed.duplicate), (2, false));
}

pub(super) fn survives(engine: Box<dyn Engine>, reopen: &mut Reopen<'_>) {
    let mut world = World::begin(engine);
    let group = world.group(10, &[1, 2]);
    let first = world.append(send(1, group, "a", "hello"));
    world.one(receipt(2, group, 2, 2));
    let log = world.log(2, group);
    let incarnation = world.incarnation;

    let mut world = World::begin(reopen(world.engine));
    assert!(world.incarnation > incarnation);
    assert_eq!(world.log(2, group), log, "every event at its seq");
    let again = world.append(send(1, group, "a", "hello"));
    assert_eq!((again.seq, again.id, again.duplicate), (first.seq, first.id, true));
    let next = world.append(send(1, group, "b", "hello"));
    assert!(next.seq == 3 && next.id > first.id);
    let pair = world.append(create(11, ConversationType::OneToOne, &[1, 2], ""));
    let mut world = World::begin(reopen(world.engine));
    let again = world.append(create(12, ConversationType::OneToOne, &[2, 1], ""));
    assert_eq!((again.conversation, again.duplicate), (pair.conversation, true));
    let session = world.ask(&Query::Session { user: UserId(2), device: "phone".to_owned() });
    let joined = |conversation, cursor| Joined { conversation, cursor, is_returning: false };
    let conversations = vec![joined(group, 2), joined(pair.conversation, 0)];
    assert_eq!(session, Answer::Session { known: true, revoked_at: None, conversations });
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Appended(appended) if appended.duplicate => format!("duplicate {}", appended.seq),
        Outcome::Appended(appended) => format!("new {}", appended.seq),
        Outcome::Refused(refusal) => refusal.code.name().to_owned(),
        Outcome::Unchanged { seq, .. } => format!("same {}", seq.unwrap_or(0)),
        other => format!("{other:?}"),
    }
}
