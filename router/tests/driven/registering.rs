//! Registering and peeking: who is listed, and what an answer may claim; driven by hand.

use carillon_protocol::frame::{self, Command};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_router::meters::Metric;
use carillon_store::verb::Query;

use crate::hand::{ALICE, BOB, Hand, Heard, Model, ROOM};

fn room() -> Hand {
    Hand::new(Model::with_room(&[ALICE, BOB]))
}

fn seqs(delivers: &[frame::Deliver]) -> Vec<u64> {
    delivers.iter().map(|deliver| deliver.seq).collect()
}

fn replaced(heard: &[Heard]) -> Vec<u64> {
    let session = |heard: &Heard| match heard {
        Heard::Replaced(replaced) => Some(replaced.session),
        _ => None,
    };
    heard.iter().filter_map(session).collect()
}

/// Protocol: a second connection of the same device closes the first with 4507, over all gateways.
#[test]
fn the_newest_session_of_a_device_wins_and_one_that_comes_back_is_not_newer() {
    let mut hand = room();
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, 5, ALICE);
    hand.settle();
    hand.register(two, 6, ALICE);
    hand.settle();
    assert_eq!(replaced(&hand.hear(one)), [5]);
    hand.register_device(one, 5, ALICE, "default", true);
    hand.settle();
    assert_eq!(replaced(&hand.hear(one)), [5], "it was replaced while it was away");
    assert_eq!(replaced(&hand.hear(two)), Vec::<u64>::new());
    hand.register_device(two, 6, ALICE, "default", true);
    hand.settle();
    assert!(matches!(hand.hear(two)[..], [Heard::Registered(_)]), "itself again");
    hand.register_device(one, 9, ALICE, "other", false);
    hand.settle();
    assert_eq!(replaced(&hand.hear(two)), Vec::<u64>::new(), "another device");
    hand.send(one, 9, BOB, "hello");
    hand.settle();
    assert_eq!((hand.delivers(one).len(), hand.delivers(two).len()), (1, 1));
}

/// G13: devices of a user are bounded.
#[test]
fn g13_a_user_has_a_bounded_number_of_devices() {
    let mut hand = room();
    let lane = hand.lane(1);
    for n in 0..=carillon_router::registry::DEVICES_MAX as u64 {
        hand.register_device(lane, n, ALICE, &format!("d{n}"), false);
    }
    hand.settle();
    let refused = hand.hear(lane).into_iter().filter(|heard| matches!(heard, Heard::Refused(_))).count();
    assert_eq!(refused, 1);
}

/// Protocol: a valid token of an unknown user creates that user.
#[test]
fn an_unknown_user_is_provisioned_or_refused() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.hear(lane);
    hand.register(lane, 5, UserId(50));
    hand.settle();
    assert!(matches!(&hand.hear(lane)[..], [Heard::Registered(r)] if r.conversations.is_empty() && !r.more));
    assert!(hand.store.users.contains(&UserId(50)));
    let mut register = hand.registration(6, UserId(51), "default");
    register.auto_provision = false;
    hand.say(lane, &register);
    hand.settle();
    assert!(matches!(hand.hear(lane)[..], [Heard::Refused(_)]));
    assert_eq!(hand.gauge(Metric::Users), 1);
}

/// Lists longer than a frame come in several.
#[test]
fn a_long_list_of_conversations_comes_in_chunks() {
    let mut hand = room();
    let log = hand.store.conversations[&ROOM].clone();
    for n in 0..9_000 {
        hand.store.conversations.insert(ConversationId(1_000 + n), log.clone());
    }
    let lane = hand.lane(1);
    hand.hear(lane);
    hand.register(lane, 5, ALICE);
    hand.settle();
    let sizes: Vec<(usize, bool)> = hand
        .hear(lane)
        .into_iter()
        .map(|heard| match heard {
            Heard::Registered(registered) => (registered.conversations.len(), registered.more),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [(4_096, true), (4_096, true), (809, false)]);
}

/// F6: a conversation that begins while its member registers is on the list, though the reading did not show it.
#[test]
fn f6_a_conversation_that_begins_during_registration_is_listed() {
    let mut hand = room();
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(two, 6, BOB);
    hand.turn();
    let (ticket, query) = hand.queries.pop_front().unwrap();
    let stale = hand.store.answer(&query);
    let command = Command::Create { conversation_type: 0, history: 0, group_name: None, members: vec![BOB] };
    hand.submit(one, 5, 1, ALICE, "c", command);
    hand.settle();
    assert_eq!(hand.delivers(two).len(), 1);
    hand.answer_with(ticket, Ok(stale));
    let heard = hand.hear(two);
    let [Heard::Registered(registered)] = &heard[..] else { panic!("{heard:?}") };
    let mut cursors: Vec<u64> = registered.conversations.iter().map(|joined| joined.cursor).collect();
    cursors.sort_unstable();
    assert_eq!(cursors, [0, 0], "the room, and the one that began");
}

/// F6: an event that was handed on between the snapshot of a peek and its answer is covered by the answer's head.
#[test]
fn f6_a_peek_covers_everything_that_is_on_the_lane() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    hand.peek(lane, 6, BOB);
    let (ticket, query) = hand.queries.pop_front().unwrap();
    let stale = hand.store.answer(&query);
    hand.send(lane, 5, ALICE, "one");
    for _ in 0..5 {
        hand.settle();
        hand.pass_ms(1_000);
    }
    assert_eq!(hand.delivers(lane).len(), 1);
    hand.answer_with(ticket, Ok(stale));
    let heard = hand.hear(lane);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((peeked.standings[0].head_seq, peeked.standings[0].fanned_out_seq), (1, 1));
}

/// F6: a snapshot may show a commit that the router does not know yet: its `Deliver` is still to come, and said so.
#[test]
fn f6_a_peek_does_not_claim_what_is_not_on_the_lane_yet() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    hand.send(lane, 5, ALICE, "one");
    hand.turn();
    let ops = hand.commits[0].1.clone();
    let mut visible = hand.store.clone();
    visible.apply(&ops[0]);
    hand.peek(lane, 6, BOB);
    let (ticket, query) = hand.queries.pop_front().unwrap();
    hand.hear(lane);
    hand.answer_with(ticket, Ok(visible.answer(&query)));
    let heard = hand.hear(lane);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((peeked.standings[0].head_seq, peeked.standings[0].fanned_out_seq), (1, 0));
    hand.settle();
    assert_eq!(seqs(&hand.delivers(lane)), [1]);
}

/// F6: before the markers of the life before are known, nothing is claimed to be on a lane.
#[test]
fn f6_before_the_markers_are_known_nothing_is_claimed() {
    let mut store = Model::with_room(&[ALICE, BOB]);
    let mut before = Hand::new(store.clone());
    let lane = before.lane(1);
    before.send(lane, 5, ALICE, "one");
    before.turn();
    before.commit();
    store = before.store;
    let mut hand = Hand::cold(store);
    let lane = hand.lane(1);
    hand.hear(lane);
    hand.turn();
    let markers = hand.queries.pop_front().unwrap();
    assert_eq!(markers.1, Query::Markers);
    hand.peek(lane, 6, BOB);
    hand.answer_all();
    let heard = hand.hear(lane);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((peeked.standings[0].head_seq, peeked.standings[0].fanned_out_seq), (1, 0));
}
