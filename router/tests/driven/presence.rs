//! Who is there: told at transitions, to those who watch, and written once.

use carillon_protocol::frame::{self, UserPresence};
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::Code;
use carillon_protocol::time::WallMs;
use carillon_router::batch::{BATCH_OPS_MAX, LAZY_WAIT_MS};
use carillon_router::meters::Metric;
use carillon_router::outbox::LaneId;
use carillon_router::presence::WRITING_MAX;
use carillon_router::settings::PresenceScope;
use carillon_router::shard::Input;
use carillon_store::verb::{Op, Query};

use crate::hand::{ALICE, BOB, CAROL, Hand, Heard, Model};

const LINGER_MS: u64 = 5_000;

fn hand() -> Hand {
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB, CAROL]));
    hand.pass_ms(1);
    hand
}

fn watch(hand: &mut Hand, lane: LaneId, user: UserId, users: &[UserId], watch: bool) -> u64 {
    let request = hand.request();
    hand.say(lane, &frame::Watch { session: user.0, request, user, users: users.to_vec(), watch });
    request
}

fn bye(hand: &mut Hand, lane: LaneId, user: UserId, bye: bool) {
    hand.say(lane, &frame::Unregister { session: user.0, user, bye });
    hand.settle();
}

fn told(hand: &mut Hand, lane: LaneId) -> Vec<(UserId, bool, u64)> {
    let presence = |heard| match heard {
        Heard::Presence(frame) => Some((frame.user.user, frame.user.online, frame.user.last_seen_at_ms)),
        _ => None,
    };
    hand.hear(lane).into_iter().filter_map(presence).collect()
}

fn answered(hand: &mut Hand, lane: LaneId) -> Vec<UserPresence> {
    let watched = |heard| match heard {
        Heard::Watched(frame) => Some(frame.users),
        _ => None,
    };
    hand.hear(lane).into_iter().find_map(watched).expect("an answer")
}

/// FR3, PR1, PR3, PR7: who watches hears a transition each, with when they were last seen; who does not hears nothing.
#[test]
fn watchers_hear_who_comes_and_goes() {
    let mut hand = hand();
    let (one, two) = (hand.lane(1), hand.lane(2));
    hand.register(one, ALICE.0, ALICE);
    hand.register(two, CAROL.0, CAROL);
    hand.settle();
    watch(&mut hand, one, ALICE, &[BOB], true);
    hand.settle();
    assert_eq!(answered(&mut hand, one), [UserPresence { user: BOB, online: false, last_seen_at_ms: 0 }]);
    hand.hear(two);

    hand.register(two, BOB.0, BOB);
    hand.settle();
    assert_eq!(told(&mut hand, one), [(BOB, true, 0)]);

    // A lost socket: online a while longer, then offline once.
    let went_at_ms = hand.wall_ms();
    bye(&mut hand, two, BOB, false);
    hand.pass_ms(LINGER_MS - 1);
    hand.settle();
    assert_eq!(told(&mut hand, one), []);
    hand.pass_ms(1);
    hand.settle();
    hand.pass_ms(100);
    hand.settle();
    assert_eq!(told(&mut hand, one), [(BOB, false, went_at_ms)]);
    let seen = Op::Seen { user: BOB, device: "default".into(), at: WallMs(went_at_ms), offline: true };
    assert_eq!(hand.store.seen, [seen]);
    assert!(hand.hear(two).iter().all(|heard| !matches!(heard, Heard::Presence(_))), "nobody there watches");
}

/// T6: the slack is a setting: with none, a lost socket is offline in the turn in which it is lost.
#[test]
fn t6_without_slack_a_lost_socket_is_offline_at_once() {
    let room = Model::with_room(&[ALICE, BOB]);
    let mut hand = Hand::with(room, |settings| settings.presence.offline_after_ms = 0);
    hand.pass_ms(1);
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    hand.settle();
    assert!(answered(&mut hand, lane)[0].online);
    bye(&mut hand, lane, BOB, false);
    let at_ms = hand.wall_ms();
    assert_eq!(told(&mut hand, lane), [(BOB, false, at_ms)]);
}

/// CA4, PR1: who is there is known from memory alone: however often somebody comes and goes, nobody who asks or watches
/// makes the store be asked again about a user whose state changes, and without a heartbeat a state ends by itself. The
/// store is told when they were seen last, once each time they go, and nothing else.
#[test]
fn ca4_presence_lives_in_memory_and_ends_by_itself() {
    const TIMES: usize = 20;
    let mut hand = hand();
    let lane = hand.lane(1);
    for user in [ALICE, BOB] {
        hand.register(lane, user.0, user);
    }
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    hand.settle();
    hand.hear(lane);
    for time in 0..TIMES {
        // Gone without a word: the state's time runs out, and then it is written when that was.
        let queries_count = hand.queries_count;
        bye(&mut hand, lane, BOB, false);
        hand.pass_ms(LINGER_MS);
        hand.settle();
        hand.pass_ms(100);
        hand.settle();
        assert!(matches!(told(&mut hand, lane)[..], [(BOB, false, _)]), "offline, time {time}");
        assert_eq!(hand.queries_count, queries_count, "no store is asked whether somebody is there");
        // Back: what is asked is what the session needs, and nothing about presence.
        hand.register(lane, BOB.0, BOB);
        while let Some((ticket, query)) = hand.queries.pop_front() {
            assert!(!matches!(query, Query::Presence { .. }), "{query:?}");
            let answer = hand.store.answer(&query);
            hand.answer_with(ticket, Ok(answer));
        }
        hand.settle();
        assert!(matches!(told(&mut hand, lane)[..], [(BOB, true, _)]), "online, time {time}");
    }
    let offline = |op: &&Op| matches!(op, Op::Seen { user: BOB, offline: true, .. });
    assert_eq!(hand.store.seen.iter().filter(offline).count(), TIMES);
    assert_eq!(hand.store.seen.len(), TIMES, "{:?}", hand.store.seen);
}

/// PR1, F20: who says `bye` is offline at once; who is back within the linger was never away, and nothing is written.
#[test]
fn a_bye_is_at_once_and_a_return_is_no_transition() {
    let mut hand = hand();
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    hand.settle();
    assert!(answered(&mut hand, lane)[0].online);

    bye(&mut hand, lane, BOB, false);
    hand.pass_ms(LINGER_MS - 1);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    hand.pass_ms(10 * LINGER_MS);
    hand.settle();
    assert_eq!((told(&mut hand, lane), hand.store.seen.len()), (vec![], 0));
    assert_eq!(hand.count(Metric::PresenceReturns), 1);

    bye(&mut hand, lane, BOB, true);
    let at_ms = hand.wall_ms();
    assert_eq!(told(&mut hand, lane), [(BOB, false, at_ms)]);
}

/// PR1: several devices are one presence: only the last one to go is a transition. The device's own time is written all
/// the same.
#[test]
fn devices_are_one_presence() {
    let mut hand = hand();
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register_device(lane, 20, BOB, "phone", false);
    hand.register_device(lane, 21, BOB, "laptop", false);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    hand.settle();
    hand.hear(lane);
    hand.say(lane, &frame::Unregister { session: 20, user: BOB, bye: true });
    hand.settle();
    hand.pass_ms(LINGER_MS);
    hand.settle();
    assert_eq!(told(&mut hand, lane), []);
    hand.say(lane, &frame::Unregister { session: 21, user: BOB, bye: false });
    hand.settle();
    hand.pass_ms(LINGER_MS);
    hand.settle();
    assert_eq!(told(&mut hand, lane).len(), 1);
    hand.pass_ms(100);
    hand.settle();
    let offline = |op: &Op| matches!(op, Op::Seen { offline: true, .. });
    assert_eq!(hand.store.seen.iter().map(offline).collect::<Vec<_>>(), [false, true]);
}

/// PR4: nothing after `presence_unsubscribe`, also when it overtakes the answer to the subscription; nor after the
/// session is gone.
#[test]
fn who_watches_no_longer_hears_no_longer() {
    let mut hand = hand();
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    watch(&mut hand, lane, ALICE, &[BOB], false);
    hand.settle();
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    assert_eq!(told(&mut hand, lane), []);

    watch(&mut hand, lane, ALICE, &[BOB, CAROL], true);
    hand.settle();
    hand.hear(lane);
    let stranger = UserId(77);
    hand.register(lane, stranger.0, stranger);
    watch(&mut hand, lane, ALICE, &[BOB, stranger], false);
    hand.settle();
    let states = [(BOB, true), (stranger, false)];
    let states = states.map(|(user, online)| UserPresence { user, online, last_seen_at_ms: 0 });
    assert_eq!(answered(&mut hand, lane), states, "how they are is told for the last time");
    bye(&mut hand, lane, BOB, true);
    assert_eq!(told(&mut hand, lane), []);
    bye(&mut hand, lane, ALICE, true);
    hand.register(lane, CAROL.0, CAROL);
    hand.settle();
    assert_eq!(told(&mut hand, lane), []);
}

/// PR3, PR5: those who share no conversation are always offline, and never heard of. `presence.scope = open_1to1` asks the
/// store for pairs only.
#[test]
fn strangers_are_always_offline() {
    let stranger = UserId(77);
    let mut hand = hand();
    let lane = hand.lane(1);
    hand.register(lane, ALICE.0, ALICE);
    hand.register(lane, stranger.0, stranger);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[stranger], true);
    hand.settle();
    let offline = UserPresence { user: stranger, online: false, last_seen_at_ms: 0 };
    assert_eq!(answered(&mut hand, lane), [offline]);
    bye(&mut hand, lane, stranger, true);
    hand.register(lane, stranger.0, stranger);
    hand.settle();
    assert_eq!(told(&mut hand, lane), []);

    let model = Model::with_room(&[ALICE, BOB]);
    let mut hand = Hand::with(model, |settings| settings.presence.scope = PresenceScope::OpenOneToOne);
    let lane = hand.lane(1);
    hand.settle();
    hand.register(lane, ALICE.0, ALICE);
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    let asked = hand.queries.back().map(|(_, query)| query);
    assert!(matches!(asked, Some(Query::Presence { pairs_only: true, .. })), "{asked:?}");
}

/// PR2, PR6: while states do not change nothing is written, however long and however many heartbeats; a change writes once.
#[test]
fn nothing_is_written_while_nothing_changes() {
    let mut hand = hand();
    let lane = hand.lane(1);
    for user in [ALICE, BOB] {
        hand.register(lane, user.0, user);
    }
    hand.settle();
    watch(&mut hand, lane, ALICE, &[BOB], true);
    hand.settle();
    let commits_count = hand.commits_count;
    for _ in 0..1_000 {
        hand.pass_ms(30_000);
        hand.settle();
    }
    assert_eq!((hand.commits_count, hand.count(Metric::PresenceWrites)), (commits_count, 0));
    // Coming online writes nothing either.
    bye(&mut hand, lane, BOB, true);
    hand.pass_ms(100);
    hand.settle();
    assert_eq!(hand.count(Metric::PresenceWrites), 1);
    hand.register(lane, BOB.0, BOB);
    hand.settle();
    hand.pass_ms(30_000);
    hand.settle();
    assert_eq!(hand.count(Metric::PresenceWrites), 1);
}

/// F20: 10,000 users vanish with their gateway. Each turn tells 256 of them at most, with one frame for each lane that has
/// watchers; only so many are written at once; those who are back before the linger ends are not told at all, and nobody who does not watch hears
/// anything.
#[test]
fn a_gateway_dies_without_a_storm() {
    const USERS: u64 = 10_000;
    const PER_TURN: usize = 256;
    let users: Vec<UserId> = (1_000..1_000 + USERS).map(UserId).collect();
    let mut members = users.clone();
    members.extend([ALICE, BOB]);
    let mut hand = Hand::new(Model::with_room(&members));
    let (doomed, watching, other) = (hand.lane(1), hand.lane(2), hand.lane(3));
    for some in users.chunks(4_000) {
        some.iter().for_each(|user| hand.register(doomed, user.0, *user));
        hand.settle();
    }
    hand.register(watching, ALICE.0, ALICE);
    hand.register(other, BOB.0, BOB);
    hand.settle();
    // Alice watches the most that one session may.
    for some in users[..1_000].chunks(200) {
        watch(&mut hand, watching, ALICE, some, true);
        hand.settle();
    }
    hand.hear(watching);
    hand.hear(other);

    hand.input(carillon_router::shard::Input::LaneDown { lane: doomed });
    hand.settle();
    hand.pass_ms(LINGER_MS / 2);
    // Half of them are back in time.
    let again = hand.lane(4);
    for user in users.iter().step_by(2) {
        hand.register_device(again, user.0, *user, "default", true);
    }
    hand.settle();
    assert_eq!(told(&mut hand, watching), []);

    hand.pass_ms(LINGER_MS / 2);
    let mut most_a_turn = 0;
    let mut heard = Vec::new();
    // The pass of time was a turn already.
    let mut written = hand.count(Metric::PresenceWrites);
    assert!(written <= PER_TURN as u64);
    // A turn is over when the router says when it wants the next one: settle takes many, so they are counted here.
    for _ in 0..10_000 {
        let some = told(&mut hand, watching);
        let writes = hand.count(Metric::PresenceWrites);
        most_a_turn = most_a_turn.max(some.len()).max(usize::try_from(writes - written).unwrap());
        written = writes;
        heard.extend(some);
        if let Some((_, ops)) = hand.commits.front() {
            assert!(ops.len() <= WRITING_MAX, "{} absences before a message", ops.len());
            hand.commit();
        } else if written == USERS / 2 {
            break;
        } else {
            hand.pass_ms(LAZY_WAIT_MS);
        }
    }
    assert!(most_a_turn <= PER_TURN, "{most_a_turn} in one turn");
    assert_eq!(heard.len(), 500, "one for each watched user who stayed away");
    assert!(heard.iter().all(|(user, online, _)| !online && user.0 % 2 == 1));
    assert_eq!(hand.count(Metric::PresenceWrites), USERS / 2);
    assert_eq!(hand.count(Metric::PresenceFrames), 500);
    assert_eq!(told(&mut hand, other), []);
}

/// FR3, PR7: what a process that ends has to write of those who left takes as many commits as it fills, and no waiting: so it
/// is over in a moment however many left, and every one of them was seen.
#[test]
fn a_drain_writes_who_left_in_full_batches() {
    const USERS: u64 = 20_000;
    let users: Vec<UserId> = (10..10 + USERS).map(UserId).collect();
    let mut hand = Hand::new(Model::with_room(&users));
    let (doomed, leaves_last) = (hand.lane(1), hand.lane(2));
    for (some, lane) in users.chunks(4_000).zip([doomed, doomed, doomed, doomed, leaves_last]) {
        some.iter().for_each(|user| hand.register(lane, user.0, *user));
        hand.settle();
    }
    hand.input(carillon_router::shard::Input::LaneDown { lane: doomed });
    hand.settle();
    assert_eq!((hand.store.seen.len(), hand.shard.undone()), (0, None), "they may come back yet");

    let commits_count = hand.commits_count;
    hand.input(carillon_router::shard::Input::LaneDown { lane: leaves_last });
    hand.input(carillon_router::shard::Input::Drain);
    assert!(hand.shard.undone().is_some_and(|undone| undone.absences > 0));
    // No time passes, but for the router's own turns while a batch is being written.
    let is_due = |hand: &Hand| hand.shard.poll_timeout().is_some_and(|at| at <= hand.now);
    loop {
        hand.turn();
        while is_due(&hand) {
            hand.turn();
        }
        if hand.commits.is_empty() {
            break;
        }
        hand.commit();
    }
    assert!(hand.drained, "{:?}", hand.shard.undone());
    assert_eq!(hand.shard.undone(), None);
    assert_eq!(hand.store.seen.len(), users.len());
    let most = users.len() / BATCH_OPS_MAX + 8;
    assert!(hand.commits_count - commits_count <= most, "{} commits", hand.commits_count - commits_count);
}

/// PR3, G13: a session watches a bounded number.
#[test]
fn what_a_session_watches_is_bounded() {
    let mut hand = hand();
    let lane = hand.lane(1);
    let refused = |hand: &mut Hand| {
        let refused = |heard| match heard {
            Heard::Refused(frame) => Some(Code::from_number(frame.code)),
            _ => None,
        };
        hand.hear(lane).into_iter().find_map(refused)
    };
    let members: Vec<UserId> = (2..=1_002).map(UserId).collect();
    hand.store = Model::with_room(&[&[ALICE], &members[..]].concat());
    hand.register(lane, ALICE.0, ALICE);
    hand.settle();
    watch(&mut hand, lane, ALICE, &members[..1_000], true);
    hand.settle();
    assert_eq!(refused(&mut hand), None);
    watch(&mut hand, lane, ALICE, &members[..1_000], true);
    hand.settle();
    assert_eq!(refused(&mut hand), None, "the same ones again");
    watch(&mut hand, lane, ALICE, &members[1_000..], true);
    hand.settle();
    assert_eq!(refused(&mut hand), Some(Code::TooLarge));
}

/// PR4, G13: a session that ended while it was being found out whom it may watch watches nobody, whether its end is told by
/// its registration or, where it has none, by itself.
#[test]
fn a_session_that_ended_watches_nobody() {
    for is_registered in [true, false] {
        let mut hand = hand();
        let lane = hand.lane(1);
        if is_registered {
            hand.register(lane, ALICE.0, ALICE);
            hand.settle();
        }
        watch(&mut hand, lane, ALICE, &[BOB], true);
        if is_registered {
            hand.say(lane, &frame::Unregister { session: ALICE.0, user: ALICE, bye: true });
        } else {
            let (users, watch) = (vec![BOB], false);
            hand.say(lane, &frame::Watch { session: ALICE.0, request: 0, user: ALICE, users, watch });
        }
        hand.input(Input::Tick);
        hand.settle();
        hand.shard.gauge();
        assert_eq!(hand.count(Metric::PresenceWatches), 0, "registered: {is_registered}");
    }
}
