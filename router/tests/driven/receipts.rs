//! Receipts: named in small groups, counted in large ones, and told to the reader's own devices.

use carillon_node::metrics::Meter;
use carillon_protocol::frame::{self, ReadSync};
use carillon_protocol::ids::{MessageId, Seq, UserId};
use carillon_protocol::placement::slot_of_conversation;
use carillon_protocol::time::{Time, WallMs};
use carillon_router::cluster::Cluster;
use carillon_router::cluster::table::SlotSet;
use carillon_router::fanout::Fanout;
use carillon_router::meters::Metric;
use carillon_router::outbox::{LaneId, Outbox, Output};
use carillon_router::receipts::Receipts;
use carillon_router::receipts::held::{HOLD_MS, STEP_MS, STEP_RECEIPTS_MIN};
use carillon_router::registry::Registry;
use carillon_router::settings::LargeReceipts;
use carillon_router::{DEFAULTS, Settings};
use carillon_store::verb::{Incarnation, Op, Query, Receipted};

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model, ROOM};

fn receipt(hand: &mut Hand, lane: LaneId, user: UserId, session: u64, (delivered_seq, read_seq): (Seq, Seq)) {
    let frame = frame::Receipt {
        session,
        request: 0,
        user,
        device: "default".to_owned(),
        conversation: ROOM,
        delivered_seq,
        read_seq,
    };
    hand.say(lane, &frame);
}

/// (reader, read?, named?, sender, seq, count)
type Told = (UserId, bool, bool, UserId, Seq, u64);

/// What a lane was told.
fn told(hand: &mut Hand, lane: LaneId) -> Vec<Told> {
    let mut told = Vec::new();
    for heard in hand.hear(lane) {
        if let Heard::Watermark(frame) = heard {
            let of =
                |it: &frame::Concerned| (frame.reader, frame.read, frame.named, it.user, it.seq, it.count);
            told.extend(frame.senders.iter().map(of));
        }
    }
    told
}

/// BG4, OO6: in a small group each reader is named to the sender, delivered before read, with no count; and the reader's
/// other sessions hear how far they read, on every lane, but for the one that said so.
#[test]
fn small_groups_name_the_reader() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB, CAROL]));
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, ALICE.0, ALICE);
    hand.register_device(one, 20, BOB, "phone", false);
    hand.register_device(one, 21, BOB, "laptop", false);
    hand.register_device(two, 22, BOB, "tablet", false);
    hand.settle();
    hand.send(one, ALICE.0, ALICE, "one");
    hand.send(one, ALICE.0, ALICE, "two");
    hand.settle();
    hand.hear(one);
    hand.hear(two);
    receipt(&mut hand, one, BOB, 20, (0, 2));
    hand.pass_ms(50);
    hand.settle();
    let sync = |except_session| ReadSync {
        user: BOB,
        conversation: ROOM,
        read_seq: 2,
        unread_count: 0,
        except_session,
    };
    assert!(matches!(&hand.hear(two)[..], [Heard::ReadSync(frame)] if *frame == sync(0)));
    let heard = hand.hear(one);
    assert!(heard.contains(&Heard::ReadSync(sync(20))), "{heard:?}");
    hand.frames.insert(one, heard);
    assert_eq!(told(&mut hand, one), [(BOB, false, true, ALICE, 2, 0), (BOB, true, true, ALICE, 2, 0)]);

    // G12: said again, or less: nothing moved, nobody is told.
    receipt(&mut hand, one, BOB, 21, (1, 2));
    hand.pass_ms(50);
    hand.settle();
    assert_eq!((hand.hear(one), hand.hear(two)), (vec![], vec![]));
}

/// OO6: who has one session only, which is nearly everybody, is told nothing of their own reading.
#[test]
fn the_only_session_is_not_told() {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let lane = hand.lane(1);
    hand.register(lane, BOB.0, BOB);
    hand.send(lane, ALICE.0, ALICE, "one");
    hand.settle();
    hand.hear(lane);
    receipt(&mut hand, lane, BOB, BOB.0, (0, 1));
    hand.pass_ms(50);
    hand.settle();
    assert_eq!(hand.hear(lane), []);
}

fn crowd(count: u64) -> Vec<UserId> {
    (1_000..1_000 + count).map(UserId).collect()
}

/// A large group with Alice and Bob online, in which each of them sent a message (seq 1 and 2).
fn large_group(members: &[UserId], large: LargeReceipts) -> (Hand, LaneId) {
    let all = [&[ALICE, BOB], members].concat();
    let mut hand = Hand::with(Model::with_room(&all), |settings| settings.receipts.large = large);
    hand.settle();
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    hand.send(lane, ALICE.0, ALICE, "one");
    hand.send(lane, BOB.0, BOB, "two");
    hand.settle();
    hand.hear(lane);
    (hand, lane)
}

/// Lets time pass in small steps; returns what was told, with when.
fn watch(hand: &mut Hand, lane: LaneId, millis: u64) -> Vec<(u64, Told)> {
    let mut all = Vec::new();
    for _ in 0..millis / 10 {
        hand.pass_ms(10);
        hand.settle();
        let at_ms = hand.now.0 / 1_000_000;
        all.extend(told(hand, lane).into_iter().map(|told| (at_ms, told)));
    }
    all
}

/// BG5: in a large group nobody is named. Each sender hears how many members got so far, at most once a second and
/// kind, rising, delivered before read; within two seconds of rest the count is exact, and it is the store's own.
#[test]
fn large_groups_are_counted() {
    let members = crowd(500);
    let (mut hand, lane) = large_group(&members, LargeReceipts::Counted);
    let mut all = Vec::new();
    // A member every ten milliseconds: five seconds of receipts.
    for user in &members {
        receipt(&mut hand, lane, *user, user.0, (2, if user.0 % 2 == 0 { 2 } else { 0 }));
        all.extend(watch(&mut hand, lane, 10));
    }
    all.extend(watch(&mut hand, lane, 2_000));
    assert_eq!(hand.store.conversations[&ROOM].marks.len(), 500, "all of them are written");
    for (sender, seq) in [(ALICE, 1), (BOB, 2)] {
        for (read, exact) in [(false, 500), (true, 250)] {
            let own: Vec<(u64, u64)> = all
                .iter()
                .filter(|(_, (.., user, _, _))| *user == sender)
                .filter(|(_, told)| told.1 == read)
                .map(|(at_ms, (reader, _, named, _, at, count))| {
                    assert_eq!((*reader, *named, *at), (UserId(0), false, seq));
                    (*at_ms, *count)
                })
                .collect();
            assert!(own.windows(2).all(|two| two[1].0 - two[0].0 >= 1_000), "one a second: {own:?}");
            assert!(own.windows(2).all(|two| two[0].1 < two[1].1), "rising: {own:?}");
            assert_eq!(own.last().map(|(_, count)| *count), Some(exact), "exact after rest: {own:?}");
            assert!(own.len() <= 8, "{own:?}");
        }
    }
    // Rest: nothing more is told, and nothing is kept.
    assert_eq!(watch(&mut hand, lane, 3_000), []);
}

/// BG5, G12: what moves while a question is open is told with the next one: after rest the count is exact.
#[test]
fn what_moves_while_counting_is_told_later() {
    let members = crowd(300);
    let (mut hand, lane) = large_group(&members, LargeReceipts::Counted);
    let some = |hand: &mut Hand, members: &[UserId]| {
        for user in members {
            receipt(hand, lane, *user, user.0, (2, 0));
        }
        // Held, written in steps, and nothing answered yet.
        for _ in 0..60 {
            hand.pass_ms(10);
            while !hand.commits.is_empty() {
                hand.commit();
            }
        }
    };
    // While the senders are looked up, and again while they are counted for.
    some(&mut hand, &members[..100]);
    assert_eq!(hand.queries.len(), 1);
    some(&mut hand, &members[100..200]);
    hand.answer();
    let (ticket, query) = hand.queries.pop_front().expect("counts are asked for");
    let counted_too_early = hand.store.answer(&query);
    some(&mut hand, &members[200..]);
    assert_eq!(hand.queries.len(), 0);
    hand.answer_with(ticket, Ok(counted_too_early));
    let told = watch(&mut hand, lane, 2_000);
    let last =
        |sender: UserId| told.iter().filter(|(_, told)| told.3 == sender).map(|(_, told)| told.5).next_back();
    assert_eq!((last(ALICE), last(BOB)), (Some(300), Some(300)), "{told:?}");
}

/// BG5: `receipts.large = off`: watermarks move all the same, and no sender hears of it.
#[test]
fn large_groups_may_be_told_nothing() {
    let members = crowd(300);
    let (mut hand, lane) = large_group(&members, LargeReceipts::Off);
    for user in &members {
        receipt(&mut hand, lane, *user, user.0, (2, 2));
    }
    assert_eq!(watch(&mut hand, lane, 3_000), []);
    assert_eq!(hand.store.conversations[&ROOM].marks.len(), 300);
}

/// BG5, G12: the receipts of a crowd do not come in the way of a message: they are merged by maximum while they are held,
/// and leave a few at a time; a receipt that somebody waits for is not held.
#[test]
fn the_receipts_of_a_crowd_leave_a_few_at_a_time() {
    let members = crowd(2_000);
    let (mut hand, lane) = large_group(&members, LargeReceipts::Counted);
    for seq in [1, 2, 1] {
        for user in &members {
            receipt(&mut hand, lane, *user, user.0, (seq, 0));
        }
        hand.turn();
    }
    assert_eq!(hand.gauge(Metric::HeldReceipts), 2_000);
    // Somebody who waits is answered with the next batch.
    let request = hand.receipt(lane, BOB, 1, 0);
    hand.pass_ms(50);
    assert_eq!(hand.commits.front().map(|(_, ops)| ops.len()), Some(1));
    hand.settle();
    let accepted = |heard: &Heard| matches!(heard, Heard::Accepted(frame) if frame.request == request);
    assert!(hand.hear(lane).iter().any(accepted));

    hand.pass_ms(HOLD_MS - 50);
    let mut written = 0;
    let mut steps = 0;
    while hand.gauge(Metric::HeldReceipts) > 0 || !hand.commits.is_empty() {
        hand.pass_ms(STEP_MS);
        steps += 1;
        while let Some((_, ops)) = hand.commits.front() {
            // A batch of receipts alone waits for 50 ms: what three or four steps bring.
            assert!(ops.len() <= 4 * STEP_RECEIPTS_MIN, "{} receipts in one batch", ops.len());
            assert!(ops.iter().all(|op| matches!(op, Op::Receipt(receipt) if receipt.delivered_seq == 2)));
            written += ops.len();
            hand.commit();
        }
        hand.answer_all();
        assert!(steps < 200);
    }
    hand.pass_ms(50);
    hand.settle();
    assert_eq!(hand.store.conversations[&ROOM].marks.len(), 2_001, "{written} seen");
}

/// G12: a drain holds nothing back.
#[test]
fn a_drain_writes_what_is_held() {
    let members = crowd(300);
    let (mut hand, lane) = large_group(&members, LargeReceipts::Counted);
    for user in &members {
        receipt(&mut hand, lane, *user, user.0, (2, 0));
    }
    hand.input(carillon_router::shard::Input::Drain);
    while !hand.drained {
        hand.pass_ms(10);
        hand.settle();
    }
    assert_eq!(hand.store.conversations[&ROOM].marks.len(), 300);
}

/// G12: whose messages a watermark passed is asked of the store. A slot that is left before the answer comes takes nothing
/// away from the next question there: the answer to the former is not told as one to that.
#[test]
fn g12_an_answer_from_before_a_slot_was_left_answers_nothing_later() {
    let settings: Settings = toml::from_str(DEFAULTS).unwrap();
    let (fanout, registry) = (Fanout::new(settings.fanout), Registry::default());
    let cluster = Cluster::sole(Incarnation(1), 1, "");
    let mut outbox = Outbox::new(Meter::detached());
    let mut receipts = Receipts::new(settings.receipts);
    let moved = |receipts: &mut Receipts, delivered, read, outbox: &mut Outbox| {
        let receipted =
            Receipted { user: BOB, conversation: ROOM, delivered, read, unread_count: 0, small: true };
        receipts.committed(Time(1), receipted, (&[], WallMs(1)), &fanout, (&registry, &cluster), outbox);
        std::iter::from_fn(|| outbox.pop())
            .filter_map(|output| match output {
                Output::Query { query: Query::Senders { up_to_seq, .. }, .. } => Some(up_to_seq),
                _ => None,
            })
            .collect::<Vec<Seq>>()
    };
    assert_eq!(moved(&mut receipts, (25, 33), (26, 26), &mut outbox), [33]);
    receipts.lost(&SlotSet::new([slot_of_conversation(ROOM)]));
    // A receipt that was on its way to the store when the slot was left.
    assert!(moved(&mut receipts, (33, 33), (26, 30), &mut outbox).is_empty(), "one question at a time");

    let senders = Some(vec![(CAROL, 33, MessageId(33))]);
    receipts.senders(Time(2), (ROOM, BOB), senders, &fanout, (&registry, &cluster), &mut outbox);
    let asked = outbox.pop();
    assert!(
        matches!(&asked, Some(Output::Query { query: Query::Senders { up_to_seq: 30, .. }, .. })),
        "{asked:?}"
    );
}
