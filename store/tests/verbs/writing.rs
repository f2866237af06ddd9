//! Operations: what they do once, and what they refuse.

use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Body, ConversationType, Event, History, Message};
use carillon_protocol::time::WallMs;
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{World, change, create, receipt, reply, send};
use carillon_store::error::CommitError;
use carillon_store::ops::{Context, append};
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Change, ChangeOp, CreateOp, Op, Outcome, Query, SendOp};

use super::*;

#[test]
fn g1_what_is_answered_is_there_as_it_was_answered() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let op = SendOp {
        said_after: Vec::new(),
        conversation: group,
        sender: UserId(1),
        client_msg_id: "0190163d-8694-739b-aea5-966c26f8ad91".to_owned(),
        message_type: carillon_protocol::record::MessageType::Image,
        encoding: carillon_protocol::record::Encoding::Opaque,
        content: "aGk=".to_owned(),
        media_url: Some("https://example.org/1".to_owned()),
        reply_to: None,
    };
    let appended = world.append(Op::Send(op.clone()));
    let log = world.log(2, group);
    assert_eq!(log.entries[1].record, appended.record);
    let event = Event::decode(&appended.record).unwrap();
    assert_eq!((event.id, event.sender, &*event.client_msg_id), (appended.id, op.sender, &*op.client_msg_id));
    let message = Message {
        message_type: op.message_type,
        encoding: op.encoding,
        content: &op.content,
        media_url: op.media_url.as_deref(),
        reply_to: None,
    };
    assert_eq!(event.body, Body::Message(message));
    assert_eq!(appended.id.created_at(), world.now);
}

#[test]
fn g2_other_content_is_any_field_a_client_gives() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let target = world.append(send(2, group, "target", "hello"));
    let Op::Send(op) = send(1, group, "k", "hello") else { unreachable!() };
    let first = world.append(Op::Send(op.clone()));
    let changed = [
        SendOp { content: "hello ".to_owned(), ..op.clone() },
        SendOp { media_url: Some("u".to_owned()), ..op.clone() },
        SendOp { reply_to: Some(target.id), ..op.clone() },
        SendOp { message_type: carillon_protocol::record::MessageType::File, ..op.clone() },
        SendOp { encoding: carillon_protocol::record::Encoding::Opaque, ..op.clone() },
    ];
    for op in changed {
        assert_eq!(world.refusal(Op::Send(op)).code, Code::IdempotencyConflict);
    }
    world.now = WallMs(world.now.0 + 60_000);
    let again = world.append(Op::Send(op));
    assert_eq!((again.seq, again.id, again.duplicate), (first.seq, first.id, true));
    assert_eq!(world.seqs(1, group), [1, 2, 3]);
}

/// G9: what is not committed, while something is that its sender said after it, is refused; nothing else is by that.
#[test]
fn g9_what_was_overtaken_is_refused() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let first = world.append(send(1, group, "first", "hello"));
    let after = |op: Op, keys: &[&str]| {
        let said_after = keys.iter().map(|&key| key.to_owned()).collect();
        match op {
            Op::Send(op) => Op::Send(SendOp { said_after, ..op }),
            Op::Change(op) => Op::Change(ChangeOp { said_after, ..op }),
            other => panic!("{other:?}"),
        }
    };
    let reaction = change(1, group, "reaction", Change::React { message: first.id, emoji: "👍".to_owned() });
    for op in [send(1, group, "new", "hello"), reaction.clone()] {
        let refusal = world.refusal(after(op, &["unknown", "first"]));
        assert_eq!(refusal.code, Code::Unavailable);
    }
    let head = world.append(send(2, group, "other", "hello")).seq;
    assert_eq!(head, first.seq + 1, "what is refused takes no number");
    let again = world.append(after(send(1, group, "first", "hello"), &["first"]));
    assert_eq!((again.seq, again.duplicate), (first.seq, true), "what is committed stays so");
    world.append(after(send(1, group, "new", "hello"), &["other", "unknown"]));
    world.append(after(reaction, &["unknown"]));
}

#[test]
fn g2_a_sender_who_was_removed_still_learns_what_became_of_a_message() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let first = world.append(send(2, group, "k", "hello"));
    add_member(&world, group, 2, 1, 2);
    let again = world.append(send(2, group, "k", "hello"));
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    assert_eq!(world.refusal(send(2, group, "new", "hello")).code, Code::Forbidden);
}

/// A user and a conversation of the same number keep their keys apart.
#[test]
fn g2_a_key_for_creating_is_not_a_key_for_sending() {
    let mut world = world();
    world.users([2, 10]);
    let created = world.append(create(10, ConversationType::Group, &[10, 2], "k"));
    let sent = world.append(send(10, created.conversation, "k", "hello"));
    assert_eq!((sent.seq, sent.duplicate), (2, false));
}

/// G5: a refused attempt never takes effect; a new one with the same key may.
#[test]
fn g5_a_refused_attempt_leaves_no_row() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    assert_eq!(world.refusal(send(3, group, "k", "hello")).code, Code::Forbidden);
    add_member(&world, group, 3, 2, 0);
    let appended = world.append(send(3, group, "k", "something else"));
    assert_eq!((appended.seq, appended.duplicate), (2, false));
}

#[test]
fn g3_g4_seqs_are_dense_and_bind_for_ever() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let mut chance = Chance::new(4);
    let mut seen = Vec::new();
    for batch in 0..40 {
        let ops: Vec<Op> = (0..=chance.below(6))
            .map(|_| {
                let (sender, key) = (1 + chance.below(3), chance.below(30));
                send(sender, group, &key.to_string(), &format!("{}", key % 7))
            })
            .collect();
        world.commit(&ops);
        let log = world.log(1, group).entries;
        assert_eq!(log[..seen.len()], seen[..], "batch {batch}: what was there stays");
        assert!(log.iter().map(|entry| entry.seq).eq(1..=log.len() as u64), "batch {batch}");
        seen = log;
    }
}

#[test]
fn g11_a_reply_is_to_a_message_that_its_sender_sees() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let other = world.group(11, &[1, 2]);
    let mut ids = vec![created_id(&world, group)];
    for index in 0..9 {
        world.now = WallMs(world.now.0 + 1);
        ids.push(world.append(send(1, group, &index.to_string(), "x")).id);
    }
    let elsewhere = world.append(send(1, other, "k", "x")).id;
    world.users([3]);
    add_member(&world, group, 3, 4, 0);
    for (index, id) in ids.iter().enumerate() {
        let seq = index as u64 + 1;
        let key = format!("r{seq}");
        assert_eq!(matches!(world.one(reply(1, group, &key, *id)), Outcome::Appended(_)), seq > 1, "{seq}");
        assert_eq!(matches!(world.one(reply(3, group, &key, *id)), Outcome::Appended(_)), seq >= 4, "{seq}");
    }
    for wrong in [elsewhere, MessageId(1), MessageId(ids[4].0 + 1), MessageId(u64::MAX >> 1)] {
        let refusal = world.refusal(reply(1, group, "wrong", wrong));
        assert_eq!((refusal.code, refusal.field), (Code::NotFound, Some("reply_to")));
    }
}

fn created_id(world: &MemoryWorld, conversation: ConversationId) -> MessageId {
    Event::decode(&world.log(1, conversation).entries[0].record).unwrap().id
}

#[test]
fn g12_nothing_moves_nothing_is_written_and_devices_have_their_own_cursors() {
    let memory = Arc::new(Memory::new(Options::default()));
    let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 4);
    world.one(receipt(2, group, 3, 2));
    let Op::Receipt(op) = receipt(2, group, 2, 0) else { unreachable!() };
    world.one(Op::Receipt(carillon_store::verb::ReceiptOp { device: "tablet".to_owned(), ..op.clone() }));
    let cursor =
        |device: &str| match world.ask(&Query::Session { user: UserId(2), device: device.to_owned() }) {
            Answer::Session { conversations, .. } => conversations[0].cursor,
            other => panic!("{other:?}"),
        };
    assert_eq!((cursor(PHONE), cursor("tablet"), cursor("new")), (3, 2, 0));

    let before = memory.snapshot().unwrap().range(b"", b"\xff", usize::MAX, false).unwrap();
    for (delivered, read) in [(0, 0), (3, 0), (1, 2), (0, 2)] {
        world.one(receipt(2, group, delivered, read));
    }
    assert_eq!(memory.snapshot().unwrap().range(b"", b"\xff", usize::MAX, false).unwrap(), before);
    let refusal = world.refusal(receipt(2, group, 0, 6));
    assert_eq!((refusal.code, refusal.field), (Code::BadRequest, Some("seq")));
    let device = "not a device".to_owned();
    assert_eq!(
        world.refusal(Op::Receipt(carillon_store::verb::ReceiptOp { device, ..op })).code,
        Code::BadRequest
    );
}

#[test]
fn dm2_a_pair_has_one_conversation_whoever_creates_it() {
    let mut world = world();
    world.users([1, 2, 3]);
    let pair = |conversation, members: &[u64]| create(conversation, ConversationType::OneToOne, members, "");
    let outcomes = world.commit(&[pair(50, &[1, 2]), pair(51, &[2, 1]), pair(52, &[1, 3])]);
    let made: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Appended(appended) => (appended.conversation.0, appended.seq, appended.duplicate),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made, [(50, 1, false), (50, 1, true), (52, 1, false)]);
    assert_eq!(summary(&world, 2, ConversationId(50)).member_ids, [UserId(1), UserId(2)]);
}

/// The second creation commits while the first is between its reads and its commit.
#[test]
fn dm2_a_pair_created_at_the_same_time_on_two_lanes_is_one_conversation() {
    let memory: Arc<dyn Engine> = Arc::new(Memory::new(Options { lanes_count: 16 }));
    let mut world = World::begin(memory.clone());
    world.users([1, 2]);
    let one = create(50, ConversationType::OneToOne, &[1, 2], "");
    let lane = world.lane(&one);
    let number =
        (51..).find(|number| world.lane(&create(*number, ConversationType::OneToOne, &[2, 1], "")) != lane);
    let other = create(number.unwrap(), ConversationType::OneToOne, &[2, 1], "");
    let (mut ids, mut other_ids) = (world.ids(lane), world.ids(world.lane(&other)));
    let (now, incarnation, members_max) = (world.now, world.incarnation, 10);
    let outcome = memory.commit(lane, &mut |txn| {
        append(
            txn,
            &mut Context { now, incarnation, ids: &mut ids, members_max },
            std::slice::from_ref(&one),
        )?;
        let committed = memory.commit(world.lane(&other), &mut |txn| {
            let mut context = Context { now, incarnation, ids: &mut other_ids, members_max };
            append(txn, &mut context, std::slice::from_ref(&other)).map(drop)
        });
        committed.unwrap();
        Ok(())
    });
    assert!(matches!(outcome, Err(CommitError::Conflict)), "{outcome:?}");
    let appended = world.append(one);
    assert_eq!((appended.conversation.0, appended.duplicate), (number.unwrap(), true));
}

#[test]
fn groups_are_created_once_for_a_key_and_refused_for_a_reason() {
    let mut world = world();
    world.users([1, 2, 3]);
    let group = |conversation, members: &[u64], key: &str| {
        create(conversation, ConversationType::Group, members, key)
    };
    let first = world.append(group(50, &[1, 2], "k"));
    assert_eq!((first.conversation.0, first.seq, first.duplicate, first.members_version), (50, 1, false, 1));
    let again = world.append(group(51, &[1, 2], "k"));
    assert_eq!((again.conversation, again.id, again.duplicate), (first.conversation, first.id, true));
    assert_eq!(world.refusal(group(52, &[1, 3], "k")).code, Code::IdempotencyConflict);
    assert!(!world.append(group(53, &[2, 1], "k")).duplicate, "another creator's key");

    let again = world.append(group(50, &[1, 2], "k"));
    assert!(again.duplicate, "its own id, drawn again");
    assert!(!world.append(group(54, &[1, 2], "")).duplicate);
    assert!(world.append(group(54, &[1, 2], "")).duplicate, "without a key its id tells");
    assert_eq!(world.refusal(group(54, &[1, 3], "")).code, Code::Unavailable, "the id is in use");

    world.members_max = 3;
    world.users([4]);
    let pair = ConversationType::OneToOne;
    let cases = [
        (group(60, &[1, 99], "a"), Code::NotFound),
        (group(60, &[1], "a"), Code::BadRequest),
        (group(60, &[1, 2, 3, 4], "a"), Code::TooLarge),
        (create(60, pair, &[1, 1], ""), Code::BadRequest),
        (create(60, pair, &[1, 2, 3], ""), Code::BadRequest),
        (create(60, pair, &[1, 99], ""), Code::NotFound),
    ];
    for (op, code) in cases {
        let refusal = world.refusal(op.clone());
        assert_eq!((refusal.code, refusal.field), (code, Some("member_ids")), "{op:?}");
    }
    assert_eq!(world.refusal(group(60, &[98, 1], "a")).code, Code::Forbidden, "an unknown creator");
    assert_eq!(code(&world.ask(&Query::Members { conversation: ConversationId(60) })), Some(Code::Forbidden));
    assert_eq!(world.append(group(60, &[1, 2, 3], "a")).seq, 1, "a refused key is free");
}

#[test]
fn a_creation_is_event_one_and_every_member_has_it() {
    let mut world = world();
    world.users(1..=4);
    let Op::Create(op) = create(50, ConversationType::Group, &[3, 1, 4], "k") else { unreachable!() };
    let appended = world.append(Op::Create(CreateOp { history: History::All, ..op }));
    let Event { sender, body, .. } = Event::decode(&appended.record).unwrap();
    assert_eq!(sender, UserId(3));
    let members = vec![UserId(1), UserId(3), UserId(4)];
    let (conversation_type, group_name, history) = (ConversationType::Group, Some("group"), History::All);
    assert_eq!(body, Body::Created { conversation_type, group_name, history, members: members.clone() });
    for user in [1, 3, 4] {
        let summary = summary(&world, user, appended.conversation);
        assert_eq!((summary.members_count, summary.unread_count, summary.head_seq), (3, 0, 1));
        assert_eq!((summary.created_by, summary.created_at), (UserId(3), world.now));
        assert_eq!((&summary.member_ids, summary.last_message), (&members, None));
    }
    let stranger = Query::Conversation { user: UserId(2), conversation: appended.conversation };
    assert_eq!(code(&world.ask(&stranger)), Some(Code::Forbidden));
}

#[test]
fn users_become_known_once() {
    let mut world = world();
    let provision = |user, name: &str| Op::Provision { user: UserId(user), name: name.to_owned() };
    let named =
        |world: &MemoryWorld, user| match world.ask(&Query::User { asker: UserId(1), user: UserId(user) }) {
            Answer::User(profile) => profile.username,
            other => panic!("{other:?}"),
        };
    for (user, wish, name) in [
        (1, "alice", "alice"),
        (2, "alice", "user-2"),
        (3, "", "user-3"),
        (4, "user-5", "user-5"),
        (5, "alice", "user-5-2"),
        (6, &"x".repeat(65), "user-6"),
    ] {
        assert_eq!(world.one(provision(user, wish)), Outcome::User { user: UserId(user), existed: false });
        assert_eq!(named(&world, user), name);
        world.now = WallMs(world.now.0 + 1);
        assert_eq!(world.one(provision(user, "later")), Outcome::User { user: UserId(user), existed: true });
        assert_eq!(named(&world, user), name);
    }
    let create = |user, name: &str| Op::CreateUser { user: UserId(user), username: name.to_owned() };
    assert_eq!(world.one(create(7, "seven")), Outcome::User { user: UserId(7), existed: false });
    world.now = WallMs(world.now.0 + 1);
    for (op, field) in [
        (create(8, "alice"), "username"),
        (create(1, "new"), "user_id"),
        (create(7, "seven"), "user_id"),
        (create(8, ""), "username"),
    ] {
        let refusal = world.refusal(op.clone());
        assert_eq!((refusal.code, refusal.field), (Code::BadRequest, Some(field)), "{op:?}");
    }
    let by_name = |name: &str| world.ask(&Query::Username { asker: UserId(1), username: name.to_owned() });
    assert!(matches!(by_name("seven"), Answer::User(profile) if profile.user == UserId(7)));
    for nobody in ["eight", "", &"x".repeat(1_000)] {
        assert_eq!(code(&by_name(nobody)), Some(Code::NotFound));
    }
    let nobody = world.ask(&Query::User { asker: UserId(1), user: UserId(8) });
    assert_eq!(code(&nobody), Some(Code::NotFound));
}
