//! Who hears what, in which order: fan-out and registration, driven by hand.

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model, ROOM, text};
use carillon_protocol::frame;
use carillon_protocol::ids::ConversationId;
use carillon_router::batch::Failure;
use carillon_router::meters::Metric;
use carillon_router::outbox::LaneId;
use carillon_router::shard::Input;
use carillon_store::error::ReadError;
use carillon_store::verb::{Answer, Entry, Query};

fn room() -> Hand {
    Hand::new(Model::with_room(&[ALICE, BOB]))
}

fn seqs(delivers: &[frame::Deliver]) -> Vec<u64> {
    delivers.iter().map(|deliver| deliver.seq).collect()
}

/// G6, WS2: every lane with listeners hears each event once, in order; only the sender's lane is told its origin.
#[test]
fn g6_events_are_handed_on_in_order_once_a_lane_with_the_origin_on_its_own() {
    let mut hand = room();
    let (one, two, three) = (hand.lane(1), hand.lane(2), hand.lane(3));
    hand.register(one, 5, ALICE);
    hand.register_device(two, 6, ALICE, "phone", false);
    hand.register(two, 7, BOB);
    hand.register(three, 8, CAROL);
    hand.settle();
    let requests: Vec<u64> = (0..40).map(|n| hand.send(one, 5, ALICE, &n.to_string())).collect();
    hand.settle();
    let on_one = hand.delivers(one);
    assert_eq!(seqs(&on_one), (1..=40).collect::<Vec<_>>());
    for (deliver, request) in on_one.iter().zip(&requests) {
        assert_eq!((deliver.origin_session, deliver.origin_request), (5, *request));
        assert_eq!(deliver.users, [ALICE]);
        assert_eq!(deliver.head_seq, 40);
    }
    let on_two = hand.delivers(two);
    assert_eq!(seqs(&on_two), (1..=40).collect::<Vec<_>>());
    for deliver in &on_two {
        assert_eq!((deliver.origin_session, &deliver.users[..]), (0, &[ALICE, BOB][..]));
    }
    assert_eq!(hand.delivers(three), Vec::<frame::Deliver>::new(), "no member of the room hears there");
}

/// G11: a member added later hears only what they may see.
#[test]
fn g11_a_member_hears_only_from_their_first_seq_on() {
    let mut hand = room();
    hand.store.conversations.get_mut(&ROOM).unwrap().members.insert(CAROL, (2, None));
    hand.store.users.push(CAROL);
    let lane = hand.lane(1);
    hand.register(lane, 5, CAROL);
    hand.settle();
    for text in ["one", "two"] {
        hand.send(lane, 9, ALICE, text);
        hand.settle();
    }
    assert_eq!(seqs(&hand.delivers(lane)), [2]);
}

/// An ack is ahead of the crowd: it never waits for fan-out.
#[test]
fn an_ack_is_ahead_of_the_fan_out() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.register(lane, 5, ALICE);
    hand.settle();
    hand.hear(lane);
    hand.send(lane, 5, ALICE, "one");
    hand.settle();
    let heard = hand.hear(lane);
    assert!(matches!(&heard[..], [Heard::Accepted(_), Heard::Deliver(_)]), "{heard:?}");
}

/// The usual case reads no store: members once, events never.
#[test]
fn a_busy_conversation_reads_the_store_once() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.register(lane, 5, BOB);
    hand.settle();
    let before = hand.queries_count;
    for n in 0..50 {
        hand.send(lane, 9, ALICE, &n.to_string());
        hand.settle();
        hand.pass_ms(2_000);
        hand.settle();
    }
    assert_eq!(hand.queries_count, before + 1, "one reading of the members");
    assert_eq!(hand.delivers(lane).len(), 50);
}

/// F5, G7: what the life before did not hand on is handed on; nothing new goes ahead of it.
#[test]
fn f5_a_restart_replays_from_the_marker_before_anything_new() {
    let mut store = Model::with_room(&[ALICE, BOB]);
    let mut before = Hand::new(store.clone());
    let lane = before.lane(1);
    for n in 0..70 {
        before.send(lane, 5, ALICE, &n.to_string());
    }
    before.turn();
    before.commit();
    store = before.store;
    assert_eq!(store.conversations[&ROOM].marker, Some(1));

    let mut hand = Hand::cold(store);
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.send_as(lane, 7, 1, ALICE, "another life", "new");
    hand.turn();
    hand.commit();
    assert_eq!(hand.delivers(lane), Vec::<frame::Deliver>::new(), "the markers are not known yet");
    hand.settle();
    assert_eq!(seqs(&hand.delivers(lane)), (1..=71).collect::<Vec<_>>());
    hand.pass_ms(1_000);
    hand.pass_ms(1_000);
    hand.settle();
    assert_eq!(hand.store.conversations[&ROOM].marker, None, "handed on, so the marker is cleared");
}

/// F4, G7: an outcome stayed unknown and the commit landed late: its event is handed on all the same, in order.
#[test]
fn f4_a_late_commit_is_found_and_handed_on_in_order() {
    for then_another in [false, true] {
        let mut hand = room();
        let lane = hand.lane(1);
        hand.register(lane, 6, BOB);
        hand.settle();
        hand.send(lane, 5, ALICE, "late");
        hand.turn();
        let ops = hand.commits[0].1.clone();
        hand.fail(&Failure::Unknown);
        hand.pass_ms(1_000);
        hand.settle();
        assert_eq!(hand.delivers(lane), Vec::<frame::Deliver>::new());
        hand.store.apply(&ops[0]);
        if then_another {
            hand.send(lane, 5, ALICE, "next");
            hand.settle();
        }
        for _ in 0..20 {
            hand.pass_ms(1_000);
            hand.settle();
        }
        let expected: &[u64] = if then_another { &[1, 2] } else { &[1] };
        assert_eq!(seqs(&hand.delivers(lane)), expected);
        assert_eq!(hand.store.conversations[&ROOM].marker, None);
    }
}

/// F2, F13: a lost lane takes its sessions with it; answers to it vanish, others go on.
#[test]
fn f2_a_lost_lane_takes_only_its_own_sessions() {
    let mut hand = room();
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, 5, ALICE);
    hand.register(two, 6, BOB);
    hand.settle();
    hand.send(one, 5, ALICE, "one");
    hand.turn();
    hand.hear(one);
    hand.input(Input::LaneDown { lane: one });
    hand.settle();
    assert_eq!(hand.hear(one), Vec::<Heard>::new());
    let delivers = hand.delivers(two);
    assert_eq!((seqs(&delivers), delivers[0].origin_session), (vec![1], 0));
    assert_eq!(hand.gauge(Metric::Users), 1, "the dead session is swept");
}

/// A gateway shard that connects anew has given its old lane up.
#[test]
fn an_orphaned_lane_is_closed_when_its_shard_comes_again() {
    let mut hand = room();
    let old = hand.lane_of(1, 77);
    hand.register(old, 5, ALICE);
    hand.settle();
    let new = hand.lane_of(2, 77);
    assert_eq!(hand.closed, [old]);
    hand.hear(old);
    hand.register_device(new, 5, ALICE, "default", true);
    hand.settle();
    hand.send(new, 5, ALICE, "one");
    hand.settle();
    assert_eq!(hand.hear(old), Vec::<Heard>::new());
    assert_eq!(seqs(&hand.delivers(new)), [1]);
}

/// The store may ask to read again; fan-out does, and a client is told to.
#[test]
fn a_busy_store_is_asked_again() {
    let mut hand = room();
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    hand.send(lane, 5, ALICE, "one");
    hand.turn();
    hand.commit();
    let (ticket, query) = hand.queries.pop_front().unwrap();
    assert_eq!(query, Query::Members { conversation: ROOM });
    hand.answer_with(ticket, Err(ReadError::Again("busy".into())));
    assert!(hand.queries.is_empty(), "not at once");
    hand.pass_ms(100);
    hand.settle();
    assert_eq!(seqs(&hand.delivers(lane)), [1]);
    hand.peek(lane, 6, BOB);
    let (ticket, _) = hand.queries.pop_front().unwrap();
    hand.answer_with(ticket, Err(ReadError::Again("busy".into())));
    assert!(matches!(hand.hear(lane)[..], [Heard::Refused(_)]));
}

/// G3, G14: the store shows less than it acknowledged: stop, rather than hand on a log with a hole.
#[test]
fn g14_a_store_that_lost_an_event_stops_the_router() {
    let mut store = Model::with_room(&[ALICE, BOB]);
    store.conversations.get_mut(&ROOM).unwrap().marker = Some(1);
    let mut hand = Hand::new(store);
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    hand.send(lane, 5, ALICE, "one");
    hand.turn();
    let ops = hand.commits[0].1.clone();
    hand.fail(&Failure::Unknown);
    hand.store.apply(&ops[0]);
    hand.send(lane, 5, ALICE, "two");
    hand.turn();
    hand.commit();
    while hand.fatal.is_none() {
        match hand.queries.pop_front() {
            Some((ticket, Query::Events { .. })) => {
                hand.answer_with(ticket, Ok(Answer::Events(Vec::<Entry>::new())));
            }
            Some((ticket, query)) => {
                let answer = hand.store.answer(&query);
                hand.answer_with(ticket, Ok(answer));
            }
            None => hand.pass_ms(1_000),
        }
    }
    assert!(hand.fatal.unwrap().contains("acknowledged data is missing"));
}

/// F21: a hot conversation does not hold up another one.
#[test]
fn f21_conversations_take_turns() {
    const QUIET: ConversationId = ConversationId(101);
    let mut hand = room();
    let log = hand.store.conversations[&ROOM].clone();
    hand.store.conversations.insert(QUIET, log);
    let lane: LaneId = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    for n in 0..500 {
        hand.send(lane, 5, ALICE, &n.to_string());
    }
    hand.submit(lane, 5, 1, ALICE, "q", text(QUIET, "quiet"));
    hand.settle();
    let place = hand.delivers(lane).iter().position(|deliver| deliver.conversation == QUIET).unwrap();
    assert!(place < 100, "{place} events went before it");
}

/// OR6: nothing is promised between conversations, so that one that stands still (its members cannot be read) keeps no other
/// from being acknowledged and told; and when it goes on, it has lost nothing.
#[test]
fn or6_a_stalled_conversation_stalls_no_other() {
    const STREAM: ConversationId = ConversationId(101);
    const MESSAGES: u64 = 100;
    let mut hand = room();
    let log = hand.store.conversations[&ROOM].clone();
    hand.store.conversations.insert(STREAM, log);
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    let mut stalled = Vec::new();
    for n in 0..MESSAGES {
        hand.send(lane, 5, ALICE, &n.to_string());
        hand.submit(lane, 5, n, ALICE, &n.to_string(), text(STREAM, &n.to_string()));
        // Everything happens but the answers about the stalled one.
        for _ in 0..4 {
            hand.turn();
            if !hand.commits.is_empty() {
                hand.commit();
            }
            while let Some((ticket, query)) = hand.queries.pop_front() {
                if matches!(query, Query::Members { conversation: ROOM }) {
                    stalled.push((ticket, query));
                } else {
                    let answer = hand.store.answer(&query);
                    hand.answer_with(ticket, Ok(answer));
                }
            }
        }
        let heard = hand.hear(lane);
        let acked = heard.iter().filter(|heard| matches!(heard, Heard::Accepted(_))).count();
        assert_eq!(acked, 2, "both are acknowledged: {heard:?}");
        let told: Vec<_> = heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::Deliver(deliver) => Some((deliver.conversation, deliver.seq)),
                _ => None,
            })
            .collect();
        assert_eq!(told, [(STREAM, n + 1)], "the other goes on, and only it");
    }
    assert!(!stalled.is_empty(), "one stood still");
    for (ticket, query) in stalled {
        let answer = hand.store.answer(&query);
        hand.answer_with(ticket, Ok(answer));
    }
    hand.settle();
    let delivers = hand.delivers(lane);
    assert!(delivers.iter().all(|deliver| deliver.conversation == ROOM));
    assert_eq!(seqs(&delivers), (1..=MESSAGES).collect::<Vec<_>>());
}

/// G6: markers that were read while a conversation was still being marked are older than what was handed on: its state
/// is kept until they are told, so that nothing is handed on twice.
#[test]
fn g6_old_markers_do_not_repeat_what_was_handed_on() {
    const OTHER: ConversationId = ConversationId(101);
    let mut hand = room();
    let log = hand.store.conversations[&ROOM].clone();
    hand.store.conversations.insert(OTHER, log);
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    hand.submit(lane, 5, 1, ALICE, "lost", text(OTHER, "other"));
    hand.turn();
    hand.fail(&Failure::Unknown);
    hand.send(lane, 5, ALICE, "one");
    hand.settle();
    hand.pass_ms(1_000);
    let place =
        hand.queries.iter().position(|(_, query)| *query == Query::Markers).expect("markers are read again");
    let (ticket, query) = hand.queries.remove(place).unwrap();
    let old = hand.store.answer(&query);
    assert_eq!(old, Answer::Markers(vec![(ROOM, 1)]));
    for _ in 0..3 {
        hand.pass_ms(1_000);
        hand.settle();
    }
    assert_eq!(hand.store.conversations[&ROOM].marker, None, "marked meanwhile");
    hand.answer_with(ticket, Ok(old));
    for _ in 0..20 {
        hand.pass_ms(1_000);
        hand.settle();
    }
    assert_eq!(seqs(&hand.delivers(lane)), [1]);
}

/// G11: a member list that was read before the latest commits does not serve for them.
#[test]
fn g11_a_list_of_members_has_to_be_as_new_as_the_event() {
    let mut hand = room();
    hand.store.users.push(CAROL);
    let lane = hand.lane(1);
    hand.register(lane, 6, CAROL);
    hand.settle();
    hand.send(lane, 5, ALICE, "one");
    hand.turn();
    hand.commit();
    let (ticket, query) = hand.queries.pop_front().unwrap();
    assert_eq!(query, Query::Members { conversation: ROOM });
    let old = hand.store.answer(&query);
    let log = hand.store.conversations.get_mut(&ROOM).unwrap();
    log.members.insert(CAROL, (2, None));
    log.version = 2;
    hand.send(lane, 5, ALICE, "two");
    hand.turn();
    hand.commit();
    hand.answer_with(ticket, Ok(old));
    hand.settle();
    assert_eq!(seqs(&hand.delivers(lane)), [2]);
}

/// G13: more conversations due than questions may be open: each has its turn all the same.
#[test]
fn g13_fan_out_asks_a_bounded_number_of_questions() {
    let mut hand = room();
    let log = hand.store.conversations[&ROOM].clone();
    let lane = hand.lane(1);
    hand.register(lane, 6, BOB);
    hand.settle();
    let rooms_count = carillon_router::outbox::FANOUT_QUERIES_MAX as u64 + 50;
    for n in 0..rooms_count {
        let conversation = ConversationId(1_000 + n);
        hand.store.conversations.insert(conversation, log.clone());
        hand.submit(lane, 5, n, ALICE, "same everywhere", text(conversation, "hello"));
    }
    hand.turn();
    hand.commit();
    for _ in 0..20 {
        hand.turn();
    }
    assert_eq!(hand.queries.len(), carillon_router::outbox::FANOUT_QUERIES_MAX);
    hand.settle();
    assert_eq!(hand.delivers(lane).len() as u64, rooms_count);
}
