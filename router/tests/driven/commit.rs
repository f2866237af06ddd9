//! Acks and commits, driven by hand.

use crate::hand::{ALICE, BOB, Hand, Heard, Model, ROOM};
use carillon_protocol::reason::Code;
use carillon_protocol::time::Time;
use carillon_router::batch::{BATCH_OPS_MAX, Failure, LAZY_WAIT_MS, QUEUE_OPS_MAX};
use carillon_router::outbox::{Far, LaneId};
use carillon_router::shard::Input;
use carillon_store::verb::Op;

fn room() -> (Hand, LaneId) {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let lane = hand.lane(1);
    hand.hear(lane);
    (hand, lane)
}

fn refusals(heard: Vec<Heard>) -> Vec<(u64, Code, u32)> {
    let refusal = |heard| match heard {
        Heard::Refused(refused) => {
            Some((refused.request, Code::from_number(refused.code), refused.retry_after_ms))
        }
        _ => None,
    };
    heard.into_iter().filter_map(refusal).collect()
}

fn accepted(heard: Vec<Heard>) -> Vec<(u64, u64)> {
    let accepted = |heard| match heard {
        Heard::Accepted(accepted) => Some((accepted.request, accepted.seq)),
        _ => None,
    };
    heard.into_iter().filter_map(accepted).collect()
}

/// T1, G1: neither `sent` nor the message itself leaves before the commit is definite, however long that takes.
#[test]
fn g1_an_ack_leaves_only_after_its_commit_is_definite() {
    let (mut hand, lane) = room();
    let other = hand.lane(2);
    hand.register(other, 6, BOB);
    hand.settle();
    hand.hear(other);
    let request = hand.send(lane, 5, ALICE, "hello");
    assert!(hand.commits.is_empty(), "a batch leaves when the turn ends");
    hand.turn();
    hand.pass_ms(10_000);
    assert_eq!((accepted(hand.hear(lane)), hand.hear(other).len()), (vec![], 0));
    hand.commit();
    assert_eq!(accepted(hand.hear(lane)), [(request, 1)]);
    hand.settle();
    assert_eq!(hand.delivers(other).len(), 1);
}

/// G9, and design: one commit in flight, the next batch forms meanwhile.
#[test]
fn g9_the_next_batch_leaves_when_the_outcome_of_the_last_is_definite_and_in_order() {
    let (mut hand, lane) = room();
    let first = hand.send(lane, 5, ALICE, "0");
    hand.turn();
    let others: Vec<u64> =
        (1..=BATCH_OPS_MAX + 3).map(|n| hand.send(lane, 5, ALICE, &n.to_string())).collect();
    hand.pass_ms(1_000);
    assert_eq!(hand.commits_count, 1);
    hand.commit();
    assert_eq!(hand.commits[0].1.len(), BATCH_OPS_MAX);
    hand.commit();
    assert_eq!(hand.commits[0].1.len(), 3);
    hand.commit();
    let requests: Vec<(u64, u64)> = std::iter::once(first).chain(others).zip(1..).collect();
    assert_eq!(accepted(hand.hear(lane)), requests);
}

/// G2: a retry is answered with the first seq, and makes nothing due.
#[test]
fn g2_a_retry_has_the_same_seq_and_is_not_delivered_again() {
    let (mut hand, lane) = room();
    hand.register(lane, 5, ALICE);
    hand.settle();
    hand.send_as(lane, 5, 1, ALICE, "same", "hello");
    hand.settle();
    assert_eq!(hand.delivers(lane).len(), 1);
    hand.send_as(lane, 5, 2, ALICE, "same", "hello");
    hand.settle();
    let heard = hand.hear(lane);
    assert!(
        matches!(&heard[..], [Heard::Accepted(a)] if a.seq == 1 && a.duplicate && a.request == 2),
        "{heard:?}"
    );
}

/// G5, F12, G15: what is told depends on what is known.
#[test]
fn g5_failures_are_told_as_definite_as_they_are() {
    let table = [
        (Failure::Unknown, Code::UnknownOutcome, false),
        (Failure::Full, Code::Unavailable, true),
        (Failure::Busy, Code::Unavailable, true),
    ];
    for (failure, code, says_when) in table {
        let (mut hand, lane) = room();
        let request = hand.send(lane, 5, ALICE, "hello");
        hand.turn();
        hand.fail(&failure);
        let refused = refusals(hand.hear(lane));
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0, refused[0].1, refused[0].2 > 0), (request, code, says_when), "{failure:?}");
        assert!(code.row().retryable);
    }
    let (mut hand, lane) = room();
    let request = hand.send(lane, 5, ALICE, "hello");
    hand.turn();
    hand.fail(&Failure::Fenced);
    assert!(
        matches!(&hand.hear(lane)[..], [Heard::NotOwner(told)] if told.request == request && told.session == 5)
    );
}

/// G14: the store failed, so nothing is acked any more, not even what committed before it in the same batch.
#[test]
fn g14_after_a_fatal_error_nothing_is_acked_ever() {
    let (mut hand, lane) = room();
    hand.send(lane, 5, ALICE, "one");
    hand.send(lane, 5, ALICE, "two");
    hand.turn();
    let (commit_lane, ops) = hand.commits.pop_front().unwrap();
    let results = vec![Ok(hand.store.apply(&ops[0])), Err(Failure::Fatal("EIO".into()))];
    hand.input(Input::Committed { commit_lane, at: Default::default(), results });
    assert_eq!(hand.fatal.as_deref(), Some("EIO"));
    hand.send(lane, 5, ALICE, "three");
    hand.pass_ms(60_000);
    assert_eq!(hand.hear(lane), Vec::<Heard>::new());
    assert!(hand.commits.is_empty());
}

/// F22: the store refuses the poisoned operation alone; its neighbours go on.
#[test]
fn f22_a_poisoned_message_fails_alone() {
    let (mut hand, lane) = room();
    let first = hand.send(lane, 5, ALICE, "one");
    let poison = hand.send(lane, 5, ALICE, "poison");
    let last = hand.send(lane, 5, ALICE, "two");
    hand.turn();
    hand.commit();
    let heard = hand.hear(lane);
    assert_eq!(accepted(heard.clone()), [(first, 1), (last, 2)]);
    assert_eq!(refusals(heard), [(poison, Code::Internal, 0)]);
}

/// G13: a queue has an end; what is refused there had no effect.
#[test]
fn g13_a_full_queue_refuses_as_overloaded_with_a_time_to_come_back() {
    let (mut hand, lane) = room();
    hand.send(lane, 5, ALICE, "in flight");
    hand.turn();
    for _ in 0..QUEUE_OPS_MAX {
        hand.send(lane, 5, ALICE, "queued");
    }
    assert_eq!(hand.hear(lane), Vec::<Heard>::new());
    let request = hand.send(lane, 5, ALICE, "too many");
    let refused = refusals(hand.hear(lane));
    assert_eq!((refused[0].0, refused[0].1), (request, Code::Overloaded));
    assert!(refused[0].2 > 0);
    hand.settle();
    assert_eq!(hand.store.conversations[&ROOM].head(), QUEUE_OPS_MAX as u64 + 1);
    assert_eq!(accepted(hand.hear(lane)).len(), QUEUE_OPS_MAX + 1);
}

/// What is wrong with a submit is said before the store sees it.
#[test]
fn a_submit_out_of_bounds_is_refused_at_the_border() {
    let (mut hand, lane) = room();
    let request = hand.send(lane, 5, ALICE, &"x".repeat(20_000));
    hand.send_as(lane, 5, 7, ALICE, "", "no key");
    hand.turn();
    assert!(hand.commits.is_empty());
    assert_eq!(refusals(hand.hear(lane)), [(request, Code::TooLarge, 0), (7, Code::BadRequest, 0)]);
}

/// A lane that breaks the protocol is closed; the others notice nothing.
#[test]
fn a_broken_lane_is_closed_alone() {
    let (mut hand, lane) = room();
    let other = LaneId(2);
    hand.input(Input::LaneUp { lane: other, far: Far::Gateway });
    let early = carillon_protocol::frame::Unregister { session: 1, user: ALICE, bye: false };
    hand.say(other, &early);
    assert_eq!(hand.closed, [other], "the first frame has to be Open");
    let mut garbage = rkyv::util::AlignedVec::<16>::new();
    garbage.extend_from_slice(&[
        1, 0, 7, 1, 16, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 9, 9, 9, 9, 9, 9, 9, 9,
    ]);
    let third = hand.lane(3);
    hand.input(Input::LaneFrame { lane: third, frame: &garbage });
    hand.say(lane, &carillon_protocol::frame::Replaced { session: 1 });
    assert_eq!(hand.closed, [other, third, lane], "only what goes up may come up");
}

/// Design: receipts merge by maximum, wait at most 50 ms alone, and each request is answered.
#[test]
fn g12_receipts_merge_by_maximum_and_everyone_is_answered_once_durable() {
    let (mut hand, lane) = room();
    for text in ["one", "two", "three"] {
        hand.send(lane, 5, ALICE, text);
    }
    hand.settle();
    for _ in 0..3 {
        hand.pass_ms(1_000);
        hand.settle();
    }
    hand.hear(lane);
    let commits_before = hand.commits_count;
    let requests = [(2, 0), (3, 0), (1, 1)].map(|(delivered, read)| hand.receipt(lane, BOB, delivered, read));
    hand.turn();
    assert_eq!(hand.commits_count, commits_before, "receipts alone wait to be joined");
    assert_eq!(hand.shard.poll_timeout(), Some(hand.now.after_ms(LAZY_WAIT_MS)));
    hand.pass_ms(LAZY_WAIT_MS);
    let (_, ops) = &hand.commits[0];
    assert!(
        matches!(&ops[..], [Op::Receipt(receipt)] if (receipt.delivered_seq, receipt.read_seq) == (3, 1))
    );
    assert_eq!(accepted(hand.hear(lane)), []);
    hand.commit();
    assert_eq!(accepted(hand.hear(lane)), [(requests[0], 3), (requests[1], 3), (requests[2], 1)]);
}

/// Design: a receipt joins the next batch rather than waiting.
#[test]
fn a_receipt_joins_a_batch_that_leaves_anyway() {
    let (mut hand, lane) = room();
    hand.send(lane, 5, ALICE, "one");
    hand.settle();
    hand.receipt(lane, BOB, 1, 0);
    hand.send(lane, 5, ALICE, "two");
    hand.turn();
    assert_eq!(hand.commits[0].1.len(), 2);
}

/// G12: a wrong receipt that was merged takes no right one with it.
#[test]
fn g12_a_wrong_receipt_is_refused_alone() {
    let (mut hand, lane) = room();
    hand.send(lane, 5, ALICE, "one");
    hand.settle();
    hand.hear(lane);
    let right = hand.receipt(lane, BOB, 1, 0);
    let wrong = hand.receipt(lane, BOB, 0, 99);
    hand.pass_ms(LAZY_WAIT_MS);
    hand.commit();
    assert_eq!(hand.hear(lane), Vec::<Heard>::new(), "not decided yet");
    hand.pass_ms(LAZY_WAIT_MS);
    hand.commit();
    let heard = hand.hear(lane);
    assert_eq!(accepted(heard.clone()), [(right, 1)]);
    assert_eq!(refusals(heard), [(wrong, Code::BadRequest, 0)]);
}

/// FR4, G12: the sender hears `delivered` before `read`, both after the commit.
#[test]
fn fr4_the_sender_hears_delivered_before_read() {
    let (mut hand, lane) = room();
    hand.register(lane, 5, ALICE);
    hand.settle();
    for text in ["one", "two"] {
        hand.send(lane, 5, ALICE, text);
    }
    hand.settle();
    let bobs = hand.lane(2);
    hand.hear(lane);
    hand.receipt(bobs, BOB, 1, 0);
    hand.settle();
    hand.pass_ms(LAZY_WAIT_MS);
    hand.settle();
    hand.receipt(bobs, BOB, 2, 2);
    hand.pass_ms(LAZY_WAIT_MS);
    hand.settle();
    let told: Vec<(bool, u64, bool)> = hand
        .hear(lane)
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::Watermark(told) => Some((told.read, told.senders[0].seq, told.named)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(false, 1, true), (false, 2, true), (true, 2, true)]);
}

/// A drain refuses what is new, finishes what was taken, and clears markers.
#[test]
fn a_drain_finishes_what_was_taken() {
    let (mut hand, lane) = room();
    let taken = hand.send(lane, 5, ALICE, "taken");
    hand.input(Input::Drain);
    let late = hand.send(lane, 5, ALICE, "late");
    hand.turn();
    assert!(!hand.drained);
    for _ in 0..4 {
        hand.settle();
        hand.pass_ms(LAZY_WAIT_MS);
    }
    assert!(hand.drained);
    let heard = hand.hear(lane);
    assert_eq!(accepted(heard.clone()), [(taken, 1)]);
    assert_eq!(refusals(heard)[0].0, late);
    assert_eq!(hand.store.conversations[&ROOM].marker, None);
    assert!(hand.now > Time(0));
}
