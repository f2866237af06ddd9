//! Whom a client watches, and what it is told of them.

use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{
    self, Joined, Presence, Refused, Register, Registered, UserPresence, Watched,
};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;

use crate::rig::{Client, Rig, Seen, Up, deliver, identify, live, text_id, token};

const HERE: u64 = 100;
const SEEN: u64 = 1_770_000_000_000;

fn users(ids: &[u64]) -> Vec<UserId> {
    ids.iter().copied().map(UserId).collect()
}

fn state(user: u64, online: bool, last_seen_at_ms: u64) -> UserPresence {
    UserPresence { user: UserId(user), online, last_seen_at_ms }
}

fn next_watch(rig: &mut Rig) -> frame::Watch {
    match rig.next_up() {
        Up::Watch(watch) => watch,
        other => panic!("{other:?}"),
    }
}

fn answer(rig: &mut Rig, watch: &frame::Watch, users: Vec<UserPresence>) {
    rig.down(&Watched { session: watch.session, request: watch.request, users });
}

fn push(rig: &mut Rig, client: &Client, state: UserPresence) {
    rig.down(&Presence { user: state, sessions: vec![client.id.as_u64()] });
}

/// A live client that watches these users, all of them online.
fn watching(rig: &mut Rig, wire: Wire, ids: &[u64]) -> Client {
    let mut client = live(rig, 1, "phone", wire, &[(HERE, 1, 1)]);
    client.say(rig, None, &Command::PresenceSubscribe { users: users(ids) });
    let watch = next_watch(rig);
    answer(rig, &watch, ids.iter().map(|id| state(*id, true, 0)).collect());
    client.take(rig);
    client
}

/// PR3, PR4, PR7: the answer says how each user is now; then transitions come, each once, and only of those who are
/// watched; after `presence_unsubscribe` none, not even those that were on their way.
#[test]
fn subscribing_hearing_and_no_longer() {
    for wire in [Wire::Json, Wire::Rkyv] {
        let mut rig = Rig::new(&[]);
        let mut client = live(&mut rig, 1, "phone", wire, &[(HERE, 0, 0)]);
        let subscribe = Command::PresenceSubscribe { users: users(&[3, 2]) };
        assert_eq!(client.say(&mut rig, Some("s"), &subscribe), []);
        let watch = next_watch(&mut rig);
        assert_eq!((watch.user, watch.watch, &watch.users), (UserId(1), true, &users(&[3, 2])));
        answer(&mut rig, &watch, vec![state(3, true, SEEN), state(2, false, SEEN)]);
        let states = vec![(3, true, None), (2, false, Some(SEEN))];
        assert_eq!(client.take(&mut rig), [Seen::States { id: Some(text_id("s")), states }]);

        push(&mut rig, &client, state(2, true, SEEN));
        push(&mut rig, &client, state(2, true, SEEN));
        push(&mut rig, &client, state(9, true, 0));
        assert_eq!(client.take(&mut rig), [Seen::Presence((2, true, None))]);

        let unsubscribe = Command::PresenceUnsubscribe { users: users(&[2]) };
        assert_eq!(client.say(&mut rig, Some("u"), &unsubscribe), []);
        let watch = next_watch(&mut rig);
        assert!(!watch.watch);
        push(&mut rig, &client, state(2, false, SEEN));
        answer(&mut rig, &watch, vec![state(2, false, SEEN)]);
        let states = vec![(2, false, Some(SEEN))];
        assert_eq!(client.take(&mut rig), [Seen::States { id: Some(text_id("u")), states }]);
        push(&mut rig, &client, state(2, true, SEEN));
        push(&mut rig, &client, state(3, false, SEEN));
        assert_eq!(client.take(&mut rig), [Seen::Presence((3, false, Some(SEEN)))]);
    }
}

/// PR4: taken back before the answer came: nothing is said about that user afterwards.
#[test]
fn a_subscription_taken_back_on_its_way() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    client.say(&mut rig, None, &Command::PresenceSubscribe { users: users(&[2, 3]) });
    client.say(&mut rig, None, &Command::PresenceUnsubscribe { users: users(&[2]) });
    let (subscribed, unsubscribed) = (next_watch(&mut rig), next_watch(&mut rig));
    answer(&mut rig, &subscribed, vec![state(2, false, 0), state(3, false, 0)]);
    answer(&mut rig, &unsubscribed, Vec::new());
    client.take(&mut rig);
    push(&mut rig, &client, state(2, true, 0));
    push(&mut rig, &client, state(3, true, 0));
    assert_eq!(client.take(&mut rig), [Seen::Presence((3, true, None))]);
}

/// DS2: under pressure presence is dropped first and messages are not; when there is room again the latest state is said,
/// once, and not at all if it is what the client knows.
#[test]
fn presence_gives_way_and_the_last_word_is_true() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=4096"]);
    let mut client = watching(&mut rig, Wire::Json, &[2, 3]);
    rig.sockets.get_mut(&client.id).unwrap().room = Some(0);
    let text = "x".repeat(1_000);
    for seq in 2..=4 {
        rig.down(&deliver(HERE, seq, 5, &format!("{seq}"), &text, &[1]));
    }
    push(&mut rig, &client, state(2, false, SEEN));
    push(&mut rig, &client, state(3, false, SEEN));
    push(&mut rig, &client, state(3, true, 0));
    push(&mut rig, &client, state(2, true, 0));
    push(&mut rig, &client, state(2, false, SEEN + 1));
    assert!(rig.shard.counters().ephemeral_dropped > 0);
    rig.sockets.get_mut(&client.id).unwrap().room = None;
    rig.flush(client.id);
    rig.carry_out();
    let seen = client.take(&mut rig);
    let is_event = |seen: &&Seen| matches!(seen, Seen::Event(_));
    assert_eq!(seen.iter().filter(is_event).count(), 3, "{seen:?}");
    assert_eq!(seen[3..], [Seen::Presence((2, false, Some(SEEN + 1)))], "{seen:?}");
}

/// PR1, F20: after a lost lane everybody is watched again. Who was online and is not back at the router yet is given
/// time; what the second answer says is said.
#[test]
fn a_lost_lane_makes_nobody_flicker() {
    let mut rig = Rig::new(&[]);
    let mut client = watching(&mut rig, Wire::Json, &[2, 3, 4]);
    rig.lane_down();
    rig.pass_ms(500);
    rig.lane_up();
    assert_eq!(client.finish_registering(&mut rig, &[(HERE, 1, 1)]), []);
    let watch = next_watch(&mut rig);
    assert_eq!((watch.watch, &watch.users), (true, &users(&[2, 3, 4])));
    answer(&mut rig, &watch, vec![state(2, false, 0), state(3, false, 0), state(4, true, 0)]);
    assert_eq!(client.take(&mut rig), []);
    push(&mut rig, &client, state(2, true, 0));
    rig.pass_ms(5_000);
    assert_eq!((client.take(&mut rig), rig.up.len()), (vec![], 0));
    rig.pass_ms(2_000);
    let watch = next_watch(&mut rig);
    answer(&mut rig, &watch, vec![state(2, true, 0), state(3, false, SEEN), state(4, true, 0)]);
    assert_eq!(client.take(&mut rig), [Seen::Presence((3, false, Some(SEEN)))]);
    rig.pass_ms(60_000);
    assert_eq!(rig.up.len(), 0, "no more questions");
}

/// PR4, G7: a router that could not register a session again has forgotten whom it watches there: it is told once more.
#[test]
fn whom_a_refused_session_watches_is_said_again() {
    let mut rig = Rig::new(&[]);
    let mut client = watching(&mut rig, Wire::Json, &[2]);
    let refuse = |rig: &mut Rig, session, request| {
        let (field, message) = (String::new(), String::new());
        let (code, retry_after_ms) = (Code::Unavailable as u16, 500);
        rig.down(&Refused { session, request, code, retry_after_ms, field, message });
    };
    rig.lane_down();
    rig.lane_up();
    let Up::Register(Register { session, request, .. }) = rig.next_up() else { panic!("registers") };
    let conversations = vec![Joined { conversation: ConversationId(HERE), cursor: 1, is_returning: false }];
    rig.down(&Registered { session, request, conversations, more: false });
    let Up::Peek(peek) = rig.next_up() else { panic!("peeks") };
    let watch = next_watch(&mut rig);
    answer(&mut rig, &watch, vec![state(2, true, 0)]);
    refuse(&mut rig, session, peek.request);
    rig.pass_ms(1_000);
    let Up::Register(register) = rig.next_up() else { panic!("registers again") };
    refuse(&mut rig, session, register.request);
    rig.pass_ms(1_000);
    assert_eq!(client.finish_registering(&mut rig, &[(HERE, 1, 1)]), []);
    let watch = next_watch(&mut rig);
    assert_eq!((watch.watch, &watch.users), (true, &users(&[2])));
}

/// PR4: a subscription from before `ready` waits until the router knows the session; one that a lost lane took is asked
/// again and answered once.
#[test]
fn a_subscription_is_answered_whenever_it_came() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 86_400), &[]));
    client.say(&mut rig, Some("s"), &Command::PresenceSubscribe { users: users(&[2]) });
    assert_eq!(rig.up.len(), 1, "registers first");
    client.finish_registering(&mut rig, &[]);
    next_watch(&mut rig);
    rig.lane_down();
    rig.lane_up();
    client.finish_registering(&mut rig, &[]);
    let watch = next_watch(&mut rig);
    answer(&mut rig, &watch, vec![state(2, true, 0)]);
    let states = vec![(2, true, None)];
    assert_eq!(client.take(&mut rig), [Seen::States { id: Some(text_id("s")), states }]);
    assert_eq!(rig.up.len(), 0);
}

/// PR3, G13: a connection watches a thousand users at most, those it asked for already included.
#[test]
fn a_connection_watches_a_bounded_number() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let all: Vec<u64> = (2..=1_002).collect();
    for some in all[..1_000].chunks(200) {
        assert_eq!(client.say(&mut rig, None, &Command::PresenceSubscribe { users: users(some) }), []);
    }
    assert_eq!(client.say(&mut rig, None, &Command::PresenceSubscribe { users: users(&all[..200]) }), []);
    let seen = client.say(&mut rig, None, &Command::PresenceSubscribe { users: users(&all[1_000..]) });
    assert!(
        matches!(&seen[..], [Seen::Error { code: "too_large", field: Some("user_ids"), .. }]),
        "{seen:?}"
    );
    client.say(&mut rig, None, &Command::PresenceUnsubscribe { users: users(&all[..200]) });
    assert_eq!(rig.up.len(), 7);
}
