//! Members come and go: who hears which event, driven by hand.

use std::collections::BTreeMap;

use carillon_protocol::frame::{self, Change, Command};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_router::outbox::LaneId;
use carillon_store::verb::Query;

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model, ROOM, text};

/// A room of two with Carol at the door, everybody connected on a lane of their own.
fn house() -> (Hand, BTreeMap<UserId, LaneId>) {
    let mut store = Model::with_room(&[ALICE, BOB]);
    store.users.push(CAROL);
    let mut hand = Hand::new(store);
    let mut lanes = BTreeMap::new();
    for (number, user) in (1..).zip([ALICE, BOB, CAROL]) {
        let lane = hand.lane(number);
        hand.register(lane, user.0, user);
        lanes.insert(user, lane);
    }
    hand.settle();
    (hand, lanes)
}

fn add(user: UserId) -> Change {
    Change::AddMembers { users: vec![user] }
}

fn remove(user: UserId) -> Change {
    Change::RemoveMember { user }
}

fn seqs(hand: &mut Hand, lane: LaneId) -> Vec<u64> {
    hand.delivers(lane).iter().map(|deliver| deliver.seq).collect()
}

/// G11, FR5: a member hears from the event by which they joined to the event by which they were removed, and again from the one
/// by which they joined anew.
#[test]
fn g11_a_member_hears_from_joining_to_leaving_and_again() {
    let (mut hand, lanes) = house();
    let alice = lanes[&ALICE];
    hand.send(alice, 1, ALICE, "before");
    hand.settle();
    for change in [add(CAROL), remove(CAROL)] {
        hand.change(alice, 1, ALICE, change);
        hand.settle();
        hand.send(alice, 1, ALICE, "between");
        hand.settle();
    }
    hand.change(alice, 1, ALICE, add(CAROL));
    hand.settle();
    assert_eq!(seqs(&mut hand, lanes[&BOB]), (1..=6).collect::<Vec<_>>());
    assert_eq!(seqs(&mut hand, lanes[&CAROL]), [2, 3, 4, 6], "5 lies between the memberships");
}

/// G11: events before a removal that lag in fan-out still reach the removed one; the removal is their last.
#[test]
fn g11_what_lags_behind_a_removal_is_heard_and_nothing_after() {
    let (mut hand, lanes) = house();
    let alice = lanes[&ALICE];
    hand.change(alice, 1, ALICE, add(CAROL));
    hand.send(alice, 1, ALICE, "two");
    hand.change(alice, 1, ALICE, remove(CAROL));
    hand.send(alice, 1, ALICE, "four");
    hand.turn();
    hand.commit();
    assert!(matches!(hand.queries[0].1, Query::Members { .. }), "read when all of it is committed");
    hand.settle();
    assert_eq!(seqs(&mut hand, lanes[&CAROL]), [1, 2, 3]);
    assert_eq!(seqs(&mut hand, lanes[&BOB]), [1, 2, 3, 4]);
}

/// BG1, G11: the list of members is read once; those who come and go afterwards are told by the events themselves.
#[test]
fn a_change_of_members_reads_no_store() {
    let (mut hand, lanes) = house();
    let alice = lanes[&ALICE];
    hand.send(alice, 1, ALICE, "one");
    hand.settle();
    let before = hand.queries_count;
    for _ in 0..50 {
        hand.change(alice, 1, ALICE, add(CAROL));
        hand.settle();
        hand.change(alice, 1, ALICE, remove(CAROL));
        hand.settle();
        hand.send(alice, 1, ALICE, "not for Carol");
        hand.settle();
        hand.pass_ms(3_000);
        hand.settle();
    }
    assert_eq!(hand.queries_count, before);
    let heard = seqs(&mut hand, lanes[&CAROL]);
    let expected: Vec<u64> = (0..50).flat_map(|n| [2 + 3 * n, 3 + 3 * n]).collect();
    assert_eq!(heard, expected);
}

/// A conversation that begins needs no reading: its first event names its members.
#[test]
fn a_conversation_that_begins_reads_no_store() {
    let (mut hand, lanes) = house();
    let before = hand.queries_count;
    let command =
        Command::Create { conversation_type: 1, history: 0, group_name: None, members: vec![BOB, CAROL] };
    hand.submit(lanes[&ALICE], 1, 7, ALICE, "begin", command);
    hand.settle();
    assert_eq!(hand.queries_count, before);
    for lane in lanes.values() {
        let delivers = hand.delivers(*lane);
        assert_eq!(delivers.len(), 1);
        assert_ne!(delivers[0].conversation, ROOM);
    }
}

/// F5, G11: after a restart the events are read from the store, and the changes among them apply in their turn.
#[test]
fn f5_changes_of_members_are_followed_through_a_replay() {
    let mut store = Model::with_room(&[ALICE, BOB]);
    store.users.push(CAROL);
    let mut before = Hand::new(store);
    let lane = before.lane(1);
    for round in 0..30 {
        before.send(lane, 1, ALICE, &format!("{round}"));
        let change = if round % 2 == 0 { add(CAROL) } else { remove(CAROL) };
        before.change(lane, 1, ALICE, change);
    }
    before.turn();
    before.commit();
    let mut hand = Hand::cold(before.store);
    let (bob, carol) = (hand.lane(1), hand.lane(2));
    hand.register(bob, 2, BOB);
    hand.register(carol, 3, CAROL);
    hand.settle();
    assert_eq!(seqs(&mut hand, bob), (1..=60).collect::<Vec<_>>());
    // One row tells of the latest membership only; an earlier one ends with a reset at the session.
    assert_eq!(seqs(&mut hand, carol), [58, 59, 60]);
}

/// F6, G11: whoever is added while they register finds the conversation on their list, as one they come back to.
#[test]
fn f6_who_is_added_while_registering_is_told_of_it() {
    for was_member in [false, true] {
        let (mut hand, lanes) = house();
        let alice = lanes[&ALICE];
        if was_member {
            hand.change(alice, 1, ALICE, add(CAROL));
            hand.change(alice, 1, ALICE, remove(CAROL));
            hand.settle();
        }
        let lane = hand.lane(9);
        hand.register_device(lane, 30, CAROL, "phone", false);
        hand.turn();
        let (ticket, query) = hand.queries.pop_front().unwrap();
        let stale = hand.store.answer(&query);
        hand.change(alice, 1, ALICE, add(CAROL));
        hand.settle();
        hand.hear(lane);
        hand.answer_with(ticket, Ok(stale));
        let heard = hand.hear(lane);
        let [Heard::Registered(registered)] = &heard[..] else { panic!("{heard:?}") };
        let [joined] = &registered.conversations[..] else { panic!("{registered:?}") };
        assert_eq!((joined.conversation, joined.cursor, joined.is_returning), (ROOM, 0, was_member));
    }
}

/// F6, G11: a peek that was read before a removal covers what the removed one heard until then, and not more.
#[test]
fn f6_a_peek_of_one_who_was_removed_ends_with_the_removal() {
    let (mut hand, lanes) = house();
    let (alice, bob) = (lanes[&ALICE], lanes[&BOB]);
    hand.send(alice, 1, ALICE, "one");
    hand.settle();
    hand.peek(bob, 2, BOB);
    let (ticket, query) = hand.queries.pop_front().unwrap();
    let stale = hand.store.answer(&query);
    hand.send(alice, 1, ALICE, "two");
    hand.change(alice, 1, ALICE, remove(BOB));
    hand.send(alice, 1, ALICE, "four");
    hand.settle();
    hand.hear(bob);
    hand.answer_with(ticket, Ok(stale));
    let heard = hand.hear(bob);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((peeked.standings[0].head_seq, peeked.standings[0].fanned_out_seq), (3, 3));
    hand.peek(bob, 2, BOB);
    hand.settle();
    let heard = hand.hear(bob);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((peeked.standings[0].head_seq, peeked.standings[0].fanned_out_seq), (3, 3));
}

/// F6: a peek that was read in an earlier membership cannot be mended: it is asked for again.
#[test]
fn f6_a_peek_from_an_earlier_membership_is_asked_for_again() {
    let (mut hand, lanes) = house();
    let (alice, bob) = (lanes[&ALICE], lanes[&BOB]);
    hand.send(alice, 1, ALICE, "one");
    hand.settle();
    hand.peek(bob, 2, BOB);
    let (ticket, query) = hand.queries.pop_front().unwrap();
    let stale = hand.store.answer(&query);
    hand.change(alice, 1, ALICE, remove(BOB));
    hand.change(alice, 1, ALICE, add(BOB));
    hand.settle();
    hand.hear(bob);
    hand.answer_with(ticket, Ok(stale));
    assert!(matches!(&hand.hear(bob)[..], [Heard::Refused(refused)] if refused.retry_after_ms > 0));
}

/// T5, BG2, BG3: one visible behaviour whatever the size: each lane hears each event once, in order, for all its members; and
/// the ack of a commit is ahead of its fan-out.
#[test]
fn t5_one_visible_behaviour_at_every_size() {
    const LANES: u64 = 3;
    const EVENTS: u64 = 12;
    for members_count in [2, 199, 200, 201, 999, 1_000, 1_001, 5_000_u64] {
        let users: Vec<UserId> = (1..=members_count).map(UserId).collect();
        let mut hand = Hand::new(Model::with_room(&users));
        let lanes: Vec<LaneId> = (1..=LANES as u32).map(|number| hand.lane(number)).collect();
        for user in &users {
            hand.register(lanes[(user.0 % LANES) as usize], user.0, *user);
        }
        hand.settle();
        lanes.iter().for_each(|lane| drop(hand.hear(*lane)));
        let sender = lanes[1];
        for n in 0..EVENTS {
            hand.send(sender, 1, UserId(1), &n.to_string());
        }
        hand.settle();
        for lane in &lanes {
            let heard = hand.hear(*lane);
            let place = heard.iter().position(|heard| matches!(heard, Heard::Deliver(_)));
            if *lane == sender {
                assert_eq!(place, Some(EVENTS as usize), "{members_count}: acks first");
            }
            let mut told: BTreeMap<u64, Vec<UserId>> = BTreeMap::new();
            let mut last = 0;
            for heard in heard {
                let Heard::Deliver(deliver) = heard else { continue };
                assert!(deliver.seq >= last, "{members_count}: {} after {last}", deliver.seq);
                last = deliver.seq;
                told.entry(deliver.seq).or_default().extend(deliver.users);
            }
            let mine: Vec<UserId> =
                users.iter().copied().filter(|user| lanes[(user.0 % LANES) as usize] == *lane).collect();
            if mine.is_empty() {
                assert!(told.is_empty());
                continue;
            }
            assert_eq!(told.keys().copied().collect::<Vec<_>>(), (1..=EVENTS).collect::<Vec<_>>());
            for (seq, mut users) in told {
                users.sort_unstable();
                assert_eq!(users, mine, "{members_count}: event {seq}");
            }
        }
    }
}

/// BG2, F21: a crowd's events wait behind those of small conversations, and are handed on all the same.
#[test]
fn bg2_a_crowd_waits_behind_small_conversations_and_is_not_starved() {
    const SMALL: ConversationId = ConversationId(101);
    let users: Vec<UserId> = (1..=3_000).map(UserId).collect();
    let mut store = Model::with_room(&users);
    let two = Model::with_room(&[ALICE, BOB]).conversations.remove(&ROOM);
    store.conversations.insert(SMALL, two.unwrap_or_default());
    let mut hand = Hand::new(store);
    let lane = hand.lane(1);
    hand.register(lane, 2, BOB);
    hand.settle();
    // The sizes are known once something was handed on.
    hand.send(lane, 1, ALICE, "warm");
    hand.settle();
    hand.hear(lane);
    for n in 0..40 {
        hand.send(lane, 1, ALICE, &format!("{n}"));
    }
    for n in 0..400 {
        hand.submit(lane, 1, n, ALICE, &format!("small {n}"), text(SMALL, &n.to_string()));
    }
    hand.turn();
    hand.commit();
    hand.settle();
    let order: Vec<ConversationId> =
        hand.delivers(lane).iter().map(|deliver: &frame::Deliver| deliver.conversation).collect();
    let last_small = order.iter().rposition(|conversation| *conversation == SMALL).unwrap();
    let first_large = order.iter().position(|conversation| *conversation == ROOM).unwrap();
    let large_before = order[..last_small].iter().filter(|conversation| **conversation == ROOM).count();
    assert!(first_large < last_small, "not starved: the crowd has a turn now and then");
    assert!(large_before <= 20, "{large_before} events of the crowd went before small ones");
    assert_eq!(order.len(), 440);
}
