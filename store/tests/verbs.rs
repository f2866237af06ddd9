//! What each verb promises, on the reference engine. See `guarantees.md` for the numbers in the names.

use std::sync::Arc;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MESSAGE_EPOCH_MS, MessageId, UserId};
use carillon_protocol::limits::PAGE_BYTES_MAX;
use carillon_protocol::reason::Code;
use carillon_protocol::record::{
    Body, ConversationRow, ConversationType, Event, HeadRow, History, MemberRow, Message, UserRow,
};
use carillon_protocol::time::WallMs;
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{World, create, page, receipt, reply, send};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::keys;
use carillon_store::ops::{Context, append};
use carillon_store::txn::{Abort, Engine, Read, Row, Txn};
use carillon_store::verb::{
    Answer, CreateOp, Incarnation, Mark, Op, Outcome, PageQuery, Query, SendOp, Standing, Summary,
};

type MemoryWorld = World<Arc<dyn Engine>>;

const PHONE: &str = "phone";

fn world() -> MemoryWorld {
    World::begin(Arc::new(Memory::new(Options::default())))
}

/// Writes rows that no verb writes yet.
fn by_hand(world: &MemoryWorld, mut body: impl FnMut(&mut dyn Txn)) {
    let written = world.engine.commit(0, &mut |txn| {
        body(txn);
        Ok(())
    });
    written.unwrap();
}

/// Makes `user` a member who sees `from..=to`; `to` 0 is to the end.
fn add_member(world: &MemoryWorld, conversation: ConversationId, user: u64, from: u64, to: u64) {
    by_hand(world, |txn| {
        let row = MemberRow { from, to, read_seq: from - 1, ..MemberRow::default() };
        txn.set(keys::member(conversation, UserId(user)), row.encode().into());
        if to == 0 {
            // The version byte and a small varint.
            let first = u8::try_from(from).unwrap();
            txn.set(keys::user_conversation(UserId(user), conversation), vec![1, first].into());
        }
    });
}

fn set_history_all(world: &MemoryWorld, conversation: ConversationId) {
    by_hand(world, |txn| {
        let key = keys::conversation(conversation);
        let row = ConversationRow::decode(&txn.get(&key).unwrap().unwrap()).unwrap();
        txn.set(key, ConversationRow { history: History::All, ..row }.encode().into());
    });
}

fn fill(world: &mut MemoryWorld, conversation: ConversationId, sender: u64, count: u64) {
    for index in 0..count {
        world.append(send(sender, conversation, &format!("fill {index}"), "hello"));
    }
}

fn summary(world: &MemoryWorld, user: u64, conversation: ConversationId) -> Summary {
    match world.ask(&Query::Conversation { user: UserId(user), conversation }) {
        Answer::Conversations { mut summaries, more: false } if summaries.len() == 1 => summaries.remove(0),
        other => panic!("no conversation: {other:?}"),
    }
}

fn code(answer: &Answer) -> Option<Code> {
    match answer {
        Answer::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

fn read_page(world: &MemoryWorld, query: PageQuery) -> (Vec<u64>, bool) {
    match world.ask(&Query::Page(query)) {
        Answer::Page(page) => (page.entries.iter().map(|entry| entry.seq).collect(), page.has_more),
        other => panic!("no page: {other:?}"),
    }
}

#[test]
fn g1_what_is_answered_is_there_as_it_was_answered() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let op = SendOp {
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

#[test]
fn g11_everything_a_query_shows_lies_within_the_membership() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 9);
    world.users([3, 4]);
    add_member(&world, group, 3, 4, 0);
    add_member(&world, group, 4, 4, 7);

    assert_eq!(world.seqs(1, group), (1..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(3, group), (4..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(4, group), (4..=7).collect::<Vec<_>>());
    for (user, first_seq, head_seq) in [(1, 1, 10), (3, 4, 10), (4, 4, 7)] {
        let standing = Standing { conversation: group, first_seq, head_seq };
        assert_eq!(world.log(user, group).standing, standing);
        let peeked = world.ask(&Query::Peek { user: UserId(user), conversations: vec![group] });
        assert_eq!(peeked, Answer::Standings(vec![standing]));
    }
    assert_eq!(read_page(&world, page(3, group, 1, 3)), (vec![], false));
    assert_eq!(
        read_page(&world, PageQuery { newest_first: true, ..page(4, group, 0, 9) }),
        (vec![7, 6, 5, 4], false)
    );
    let members = world.ask(&Query::Members { conversation: group });
    assert!(matches!(members, Answer::Members { members, .. }
        if members == [(UserId(1), 1), (UserId(2), 1), (UserId(3), 4)]));
    let session = |user| world.ask(&Query::Session { user: UserId(user), device: PHONE.to_owned() });
    assert_eq!(session(3), Answer::Session { known: true, conversations: vec![(group, 3)] });
    assert_eq!(session(4), Answer::Session { known: true, conversations: vec![] });
    assert_eq!(summary(&world, 3, group).last_message.unwrap().seq, 10);
    let query = Query::Conversation { user: UserId(4), conversation: group };
    assert_eq!(code(&world.ask(&query)), Some(Code::Forbidden));
    assert!(world.log(4, group).marks.is_empty(), "watermarks are for members");
    assert_eq!(world.refusal(receipt(4, group, 7, 0)).code, Code::Forbidden);

    set_history_all(&world, group);
    assert_eq!(world.seqs(3, group), (1..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(4, group), (1..=7).collect::<Vec<_>>(), "nothing after, whatever came before");
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

/// G12, and the unread count: others' messages above the watermark, counted here one by one.
#[test]
fn g12_watermarks_and_unread_counts_are_those_of_the_log() {
    for seed in 1..=6 {
        let mut world = world();
        let group = world.group(10, &[1, 2, 3]);
        let mut chance = Chance::new(seed);
        let mut senders = vec![0];
        let mut marks = [[0_u64; 2]; 3];
        for step in 0..250 {
            let user = 1 + chance.below(3);
            if chance.below(3) > 0 {
                world.append(send(user, group, &step.to_string(), "x"));
                senders.push(user);
                continue;
            }
            let head = senders.len() as u64;
            let (delivered, read) = (chance.below(head + 1), chance.below(2) * chance.below(head + 1));
            let mark = &mut marks[user as usize - 1];
            let before = *mark;
            *mark = [mark[0].max(delivered).max(read), mark[1].max(read)];
            let outcome = world.one(receipt(user, group, delivered, read));
            let Outcome::Receipted(receipted) = outcome else { panic!("seed {seed}: {outcome:?}") };
            assert_eq!(receipted.delivered, (before[0], mark[0]), "seed {seed} step {step}");
            assert_eq!(receipted.read, (before[1], mark[1]), "seed {seed} step {step}");
            for user in 1..=3 {
                let read_seq = marks[user as usize - 1][1] as usize;
                let unread =
                    senders[read_seq..].iter().filter(|sender| **sender != user && **sender != 0).count();
                let summary = summary(&world, user, group);
                assert_eq!(summary.unread_count, unread as u64, "seed {seed} step {step} user {user}");
                assert_eq!(summary.marks.len(), 2);
            }
        }
        let shown = world.log(1, group).marks;
        let expected: Vec<Mark> = (2..=3)
            .map(|user| (user, marks[user as usize - 1]))
            .map(|(user, [delivered_seq, read_seq])| Mark { user: UserId(user), delivered_seq, read_seq })
            .collect();
        assert_eq!(shown, expected, "seed {seed}");
    }
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
            Answer::Session { conversations, .. } => conversations[0].1,
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

#[test]
fn last_seen_is_for_those_who_share_a_conversation() {
    let mut world = world();
    world.users(1..=3);
    // Enough conversations that the two lists are read in several pieces.
    for number in 0..300 {
        let other = 3 + number % 2 * 7;
        world.group(100 + number, &[1, other]);
        world.group(500 + number, &[2, other + 1]);
    }
    let shared = Query::User { asker: UserId(1), user: UserId(2) };
    by_hand(&world, |txn| {
        let row = UserRow { username: "two".into(), created_at: WallMs(1), last_seen_at: Some(WallMs(9)) };
        txn.set(keys::user(UserId(2)), row.encode().into());
    });
    let last_seen = |query: &Query| match world.ask(query) {
        Answer::User(profile) => profile.last_seen_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_seen(&shared), None);
    assert_eq!(last_seen(&Query::User { asker: UserId(2), user: UserId(2) }), Some(WallMs(9)));
    world.append(create(900, ConversationType::OneToOne, &[1, 2], ""));
    let last_seen = match world.ask(&shared) {
        Answer::User(profile) => profile.last_seen_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_seen, Some(WallMs(9)));
}

#[test]
fn pages_go_both_ways_and_say_whether_more_follows() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 9);
    let query = page(2, group, 1, u64::MAX);
    let newest = PageQuery { newest_first: true, ..query };
    let cases = [
        (PageQuery { limit: 3, ..query }, vec![1, 2, 3], true),
        (PageQuery { limit: 10, ..query }, (1..=10).collect(), false),
        (PageQuery { limit: 3, from_seq: 8, ..query }, vec![8, 9, 10], false),
        (PageQuery { limit: 3, from_seq: 11, ..query }, vec![], false),
        (PageQuery { limit: 3, from_seq: 4, to_seq: 5, ..query }, vec![4, 5], false),
        (PageQuery { limit: 2, from_seq: 4, to_seq: 6, ..query }, vec![4, 5], true),
        (PageQuery { limit: 0, ..query }, vec![], true),
        (PageQuery { from_seq: 5, to_seq: 4, ..query }, vec![], false),
        (PageQuery { limit: 3, ..newest }, vec![10, 9, 8], true),
        (PageQuery { limit: 3, to_seq: 3, ..newest }, vec![3, 2, 1], false),
        (PageQuery { limit: 9, messages_only: true, ..newest }, (2..=10).rev().collect(), false),
        (PageQuery { limit: 8, messages_only: true, ..newest }, (3..=10).rev().collect(), true),
        (PageQuery { limit: 2, messages_only: true, ..query }, vec![2, 3], true),
        (PageQuery { to_seq: 1, messages_only: true, ..query }, vec![], false),
    ];
    for (query, seqs, has_more) in cases {
        assert_eq!(read_page(&world, query), (seqs, has_more), "{query:?}");
    }
}

#[test]
fn a_page_ends_at_its_bytes_or_with_one_event() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    for index in 0..8 {
        world.append(send(1, group, &index.to_string(), &"x".repeat(16_000)));
    }
    let page = match world.ask(&Query::Page(page(1, group, 2, 100))) {
        Answer::Page(page) => page,
        other => panic!("{other:?}"),
    };
    assert_eq!((page.entries.len(), page.has_more), (4, true));
    assert!(page.entries.iter().map(|entry| entry.record.len()).sum::<usize>() <= PAGE_BYTES_MAX);
    world.append(send(1, group, "big", &"x".repeat(PAGE_BYTES_MAX + 1)));
    assert_eq!(read_page(&world, self::page(1, group, 10, 100)), (vec![10], false));
    assert_eq!(world.seqs(2, group).len(), 10);
}

#[test]
fn lists_are_by_latest_activity_and_go_on_below_a_place() {
    let mut world = world();
    for number in 1..=5 {
        world.group(number, &[1, 2]);
    }
    world.group(6, &[2, 3]);
    for number in [4, 2, 5] {
        world.append(send(2, ConversationId(number), "k", "hello"));
    }
    let list = |below, limit| match world.ask(&Query::Conversations { user: UserId(1), below, limit }) {
        Answer::Conversations { summaries, more } => (summaries, more),
        other => panic!("{other:?}"),
    };
    let (all, more) = list((u64::MAX, u64::MAX), 10);
    let order = |summaries: &[Summary]| summaries.iter().map(|one| one.conversation.0).collect::<Vec<_>>();
    assert_eq!((order(&all), more), (vec![5, 2, 4, 3, 1], false));
    assert_eq!(all.iter().map(|one| one.unread_count).collect::<Vec<_>>(), [1, 1, 1, 0, 0]);
    let last: Vec<_> = all.iter().map(|one| one.last_message.as_ref().map(|entry| entry.seq)).collect();
    assert_eq!(last, [Some(2), Some(2), Some(2), None, None]);

    let (first, more) = list((u64::MAX, u64::MAX), 2);
    assert_eq!((order(&first), more), (vec![5, 2], true));
    world.append(send(2, ConversationId(3), "k", "comes up while paging"));
    let list = |below, limit| match world.ask(&Query::Conversations { user: UserId(1), below, limit }) {
        Answer::Conversations { summaries, more } => (order(&summaries), more),
        other => panic!("{other:?}"),
    };
    let place = (first[1].last_id.0, first[1].conversation.0);
    assert_eq!(list(place, 2), (vec![4, 1], false));
    assert_eq!(list(place, 1), (vec![4], true));
}

#[test]
fn fan_out_reads_events_and_senders_in_pieces() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    for (index, sender) in [1, 2, 1, 3, 2].into_iter().enumerate() {
        world.append(send(sender, group, &index.to_string(), "x"));
    }
    let events = |from_seq, limit| match world.ask(&Query::Events { conversation: group, from_seq, limit }) {
        Answer::Events(entries) => entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(events(1, 100), [1, 2, 3, 4, 5, 6]);
    assert_eq!(events(4, 2), [4, 5]);
    assert!(events(7, 9).is_empty());
    let senders = |after_seq, up_to_seq, except| {
        let except = UserId(except);
        match world.ask(&Query::Senders { conversation: group, after_seq, up_to_seq, except }) {
            Answer::Senders(senders) => {
                senders.iter().map(|(user, seq, _)| (user.0, *seq)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(senders(0, 6, 3), [(1, 4), (2, 6)]);
    assert_eq!(senders(2, 5, 2), [(1, 4), (3, 5)]);
    assert_eq!(senders(6, 6, 9), []);
    assert_eq!(senders(6, 2, 9), []);
    assert_eq!(senders(0, 1, 9), [], "a creation is nobody's message");
    assert_eq!(senders(0, u64::MAX, 3), [], "only the last thousand of a range");
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
    assert_eq!(families(&[send(1, group, "b", "x")]), "eihm");
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
        "ooeihm"
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
