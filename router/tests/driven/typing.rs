//! Who types: passed on to those who are there, and nowhere else.

use carillon_protocol::frame;
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use carillon_router::batch::Failure;
use carillon_router::meters::Metric;
use carillon_router::outbox::LaneId;
use carillon_router::typing::{WAIT_MS, WAITING_MAX};

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model, ROOM};

fn types(hand: &mut Hand, lane: LaneId, user: UserId, conversation: ConversationId, start: bool) -> u64 {
    let request = hand.request();
    hand.say(lane, &frame::Typing { session: user.0, request, user, conversation, start });
    request
}

fn typed(hand: &mut Hand, lane: LaneId) -> Vec<(UserId, bool, Vec<UserId>)> {
    let typed = |heard| match heard {
        Heard::Typed(frame) => Some((frame.user, frame.start, frame.users)),
        _ => None,
    };
    hand.hear(lane).into_iter().filter_map(typed).collect()
}

/// FR9: typing reaches the other members who are online, in the same turn once they are known, and leaves no trace: no
/// commit, and no question to the store but who the members are.
#[test]
fn typing_is_passed_on_and_never_stored() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB, CAROL]));
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, ALICE.0, ALICE);
    hand.register(two, BOB.0, BOB);
    hand.settle();
    let (commits_count, before) = (hand.commits_count, hand.store.clone());
    types(&mut hand, one, ALICE, ROOM, true);
    hand.settle();
    assert_eq!(typed(&mut hand, two), [(ALICE, true, vec![BOB])]);
    assert_eq!(typed(&mut hand, one), [], "not to who types");
    // Of what one turn brings the latest counts.
    types(&mut hand, one, ALICE, ROOM, true);
    types(&mut hand, one, ALICE, ROOM, false);
    hand.settle();
    assert_eq!(typed(&mut hand, two), [(ALICE, false, vec![BOB])]);
    assert_eq!(hand.commits_count, commits_count);
    assert_eq!(format!("{:?}", hand.store), format!("{before:?}"));

    // The members are known from the fan-out of a message: no question at all.
    hand.send(one, ALICE.0, ALICE, "hello");
    hand.settle();
    hand.hear(two);
    let queries_count = hand.queries_count;
    types(&mut hand, one, ALICE, ROOM, true);
    hand.turn();
    assert_eq!((typed(&mut hand, two).len(), hand.queries_count), (1, queries_count));
}

/// FR9, G11, security, authorisation: who is no member is refused, the same where there is no conversation and by as much
/// work, and nobody hears them; who was removed hears nothing more.
#[test]
fn only_members_type_and_hear() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let (one, two) = (hand.lane(1), hand.lane(2));
    for user in [ALICE, CAROL] {
        hand.register(one, user.0, user);
    }
    hand.register(two, BOB.0, BOB);
    hand.settle();
    hand.hear(one);
    for conversation in [ROOM, ConversationId(9_999), ROOM] {
        let queries_count = hand.queries_count;
        types(&mut hand, one, CAROL, conversation, true);
        hand.settle();
        let heard = hand.hear(one);
        assert!(
            matches!(&heard[..], [Heard::Refused(frame)] if Code::from_number(frame.code) == Code::Forbidden),
            "{heard:?}"
        );
        assert_eq!(hand.queries_count, queries_count + 1, "the store is asked, about {conversation:?}");
        // By the last time the members are known.
        hand.send(one, ALICE.0, ALICE, "hello");
        hand.settle();
        hand.hear(one);
        hand.hear(two);
    }
    hand.change(one, ALICE.0, ALICE, frame::Change::RemoveMember { user: BOB });
    types(&mut hand, one, ALICE, ROOM, true);
    hand.settle();
    let heard = hand.hear(two);
    assert!(matches!(heard.last(), Some(Heard::Deliver(_))), "{heard:?}");
    types(&mut hand, one, ALICE, ROOM, false);
    hand.settle();
    assert_eq!(typed(&mut hand, two), []);
}

/// G11: the members that the store was asked for before somebody typed are not those of now.
#[test]
fn g11_who_left_since_the_store_was_asked_types_no_more() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, ALICE.0, ALICE);
    hand.register(two, BOB.0, BOB);
    hand.settle();
    hand.hear(one);
    types(&mut hand, one, ALICE, ROOM, true);
    hand.turn();
    let (ticket, query) = hand.queries.pop_front().expect("who the members are");
    let answer = hand.store.answer(&query);
    hand.store = Model::with_room(&[BOB]);
    hand.pass_ms(1);
    types(&mut hand, one, ALICE, ROOM, false);
    hand.answer_with(ticket, Ok(answer));
    hand.settle();
    assert_eq!(typed(&mut hand, two), []);
    assert!(matches!(hand.hear(one).last(), Some(Heard::Refused(_))));
}

/// G11: who may have been removed, by a change whose outcome is not told yet, or unknown, is looked for in the store.
#[test]
fn g11_whose_removal_is_not_told_types_no_more() {
    for is_unknown in [false, true] {
        let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
        let (one, two) = (hand.lane(1), hand.lane(2));
        hand.register(one, ALICE.0, ALICE);
        hand.register(two, BOB.0, BOB);
        // The members are known from the fan-out of a message.
        hand.send(one, ALICE.0, ALICE, "hello");
        hand.settle();
        hand.change(one, ALICE.0, ALICE, frame::Change::RemoveMember { user: BOB });
        hand.turn();
        for op in hand.commits.front().expect("a commit in flight").1.clone() {
            hand.store.apply(&op);
        }
        if is_unknown {
            hand.fail(&Failure::Unknown);
        }
        hand.hear(one);
        types(&mut hand, two, BOB, ROOM, true);
        hand.turn();
        hand.answer_all();
        assert_eq!(typed(&mut hand, one), []);
        assert!(hand.hear(two).iter().any(|heard| matches!(heard, Heard::Refused(_))));
    }
}

/// FR9: in groups above `typing.members_max` typing is answered and not passed on.
#[test]
fn large_groups_are_not_told() {
    let members: Vec<UserId> = (1..=201).map(UserId).collect();
    for (count, heard_count) in [(200, 1), (201, 0)] {
        let mut hand = Hand::new(Model::with_room(&members[..count]));
        let (one, two) = (hand.lane(1), hand.lane(2));
        hand.register(one, ALICE.0, ALICE);
        hand.register(two, BOB.0, BOB);
        hand.settle();
        hand.hear(one);
        let request = types(&mut hand, one, ALICE, ROOM, true);
        hand.settle();
        assert!(matches!(&hand.hear(one)[..], [Heard::Accepted(frame)] if frame.request == request));
        assert_eq!(typed(&mut hand, two).len(), heard_count, "{count} members");
    }
}

/// DS2, G13: typing waits behind everything else, a bounded number of states for a bounded time; then it is dropped, and
/// messages are not.
#[test]
fn typing_is_dropped_first() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    hand.hear(lane);
    let states = WAITING_MAX as u64 + 10;
    for number in 0..states {
        types(&mut hand, lane, ALICE, ConversationId(10_000 + number), true);
    }
    hand.send(lane, ALICE.0, ALICE, "hello");
    assert_eq!(hand.count(Metric::TypingDropped), 10);
    // The store does not answer who the members are: nobody waits for ever.
    hand.turn();
    hand.pass_ms(WAIT_MS);
    assert_eq!(hand.count(Metric::TypingDropped), states);
    hand.settle();
    let heard = hand.hear(lane);
    assert_eq!(heard.iter().filter(|heard| matches!(heard, Heard::Deliver(_))).count(), 1);
    assert!(heard.iter().all(|heard| !matches!(heard, Heard::Typed(_))));
}
