//! Watching users of several homes.

use carillon_gateway::turn::Input;
use carillon_link::Peer;
use carillon_protocol::client::Command;
use carillon_protocol::frame::{NotOwner, Presence, Refused, UserPresence, Watch, Watched};
use carillon_protocol::ids::UserId;
use carillon_protocol::placement::slot_of_user;
use carillon_protocol::reason::Code;

use crate::moving::{A, B, live_at, next_to, owns, two_routers};
use crate::rig::{Client, Rig, Seen, Up};

fn subscribe(users: &[u64]) -> Command<'static> {
    Command::PresenceSubscribe { users: users.iter().copied().map(UserId).collect() }
}

fn next_watch(rig: &mut Rig, router: Peer) -> Watch {
    match next_to(rig, router) {
        Some(Up::Watch(watch)) => watch,
        other => panic!("{other:?}"),
    }
}

fn users(watch: &Watch) -> Vec<u64> {
    watch.users.iter().map(|user| user.0).collect()
}

fn state(user: UserId, online: bool) -> UserPresence {
    UserPresence { user, online, last_seen_at_ms: 0 }
}

fn answer(rig: &mut Rig, router: Peer, watch: &Watch, online: &[u64]) {
    let users = watch.users.iter().map(|user| state(*user, online.contains(&user.0))).collect();
    rig.down_from(router, &Watched { session: watch.session, request: watch.request, users });
}

fn comes_or_goes(rig: &mut Rig, router: Peer, client: &Client, user: u64, online: bool) {
    let user = state(UserId(user), online);
    rig.down_from(router, &Presence { user, sessions: vec![client.id.as_u64()] });
}

/// A router is not the home of one whom it was asked about.
fn disowns(rig: &mut Rig, router: Peer, watch: &Watch, user: u64) {
    let slot = slot_of_user(UserId(user)).0;
    rig.down_from(router, &NotOwner { session: watch.session, request: watch.request, slot });
}

fn is_quiet(rig: &Rig) -> bool {
    rig.up.is_empty() && rig.others.is_empty()
}

/// User 1 is live at A and watches 2 and 4 there, 3 and 5 at B.
fn watching() -> (Rig, Client) {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2]);
    owns(&mut rig, A, 2, &[4]);
    owns(&mut rig, B, 1, &[3, 5]);
    let mut client = live_at(&mut rig, A, &[]);
    assert!(client.say(&mut rig, Some("w"), &subscribe(&[5, 2, 3, 4])).is_empty());
    let (at_a, at_b) = (next_watch(&mut rig, A), next_watch(&mut rig, B));
    assert_eq!((users(&at_a), users(&at_b)), (vec![2, 4], vec![5, 3]));
    answer(&mut rig, B, &at_b, &[3, 5]);
    assert!(client.take(&mut rig).is_empty(), "half of an answer is none");
    answer(&mut rig, A, &at_a, &[2]);
    let seen = client.take(&mut rig);
    let [Seen::States { states, .. }] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*states, [(5, true, None), (2, true, None), (3, true, None), (4, false, None)]);
    (rig, client)
}

/// PR3, PR4: users are watched at their homes, and the command is answered once; a home speaks for its own users only.
#[test]
fn pr3_users_of_two_homes_are_watched() {
    let (mut rig, mut client) = watching();
    comes_or_goes(&mut rig, B, &client, 2, false);
    assert!(client.take(&mut rig).is_empty(), "not B's to say");
    comes_or_goes(&mut rig, B, &client, 3, false);
    comes_or_goes(&mut rig, A, &client, 2, false);
    let seen = client.take(&mut rig);
    assert_eq!(seen, [Seen::Presence((3, false, None)), Seen::Presence((2, false, None))]);
    // A router that is not the home of the session hears of its end like this.
    rig.input(Input::Closed { connection: client.id });
    rig.carry_out();
    let end = next_watch(&mut rig, B);
    assert_eq!((end.watch, end.request, users(&end)), (false, 0, vec![3, 5]));
    assert!(matches!(next_to(&mut rig, A), Some(Up::Unregister(_))) && is_quiet(&rig));
}

/// PR3: who comes or goes while a command waits for another home is told as they are.
#[test]
fn pr3_an_answer_is_as_new_as_what_came_before_it() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2]);
    owns(&mut rig, B, 1, &[3]);
    let mut client = live_at(&mut rig, A, &[]);
    client.say(&mut rig, Some("w"), &subscribe(&[2, 3]));
    let (at_a, at_b) = (next_watch(&mut rig, A), next_watch(&mut rig, B));
    answer(&mut rig, A, &at_a, &[]);
    comes_or_goes(&mut rig, A, &client, 2, true);
    answer(&mut rig, B, &at_b, &[3]);
    let seen = client.take(&mut rig);
    let [Seen::States { states, .. }] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*states, [(2, true, None), (3, true, None)]);
}

/// PR3: who moves while a command waits for another home is watched at the next one.
#[test]
fn pr3_an_answer_of_a_former_home_is_none() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2]);
    owns(&mut rig, B, 1, &[3]);
    let mut client = live_at(&mut rig, A, &[]);
    client.say(&mut rig, Some("w"), &subscribe(&[2, 3]));
    let (at_a, at_b) = (next_watch(&mut rig, A), next_watch(&mut rig, B));
    answer(&mut rig, A, &at_a, &[]);
    owns(&mut rig, B, 2, &[2]);
    let moved = next_watch(&mut rig, B);
    assert_eq!(users(&moved), [2]);
    answer(&mut rig, B, &at_b, &[3]);
    assert!(client.take(&mut rig).is_empty(), "half of an answer is none");
    answer(&mut rig, B, &moved, &[2]);
    let seen = client.take(&mut rig);
    let [Seen::States { states, .. }] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*states, [(2, true, None), (3, true, None)]);
}

/// PR3: who moves while their home is asked about them is asked about at the next one.
#[test]
fn pr3_a_former_home_answers_in_vain() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2, 3]);
    let mut client = live_at(&mut rig, A, &[]);
    client.say(&mut rig, Some("w"), &subscribe(&[2, 3]));
    let at_a = next_watch(&mut rig, A);
    owns(&mut rig, B, 2, &[2]);
    answer(&mut rig, A, &at_a, &[3]);
    assert!(client.take(&mut rig).is_empty(), "half of an answer is none");
    let moved = next_watch(&mut rig, B);
    assert_eq!(users(&moved), [2]);
    answer(&mut rig, B, &moved, &[2]);
    let seen = client.take(&mut rig);
    let [Seen::States { states, .. }] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*states, [(2, true, None), (3, true, None)]);
}

/// PR3: only those are watched again whose home is another one, or whose home's lane was lost; who is missing there is
/// doubted once, and nobody else is asked about.
#[test]
fn pr3_those_who_moved_are_watched_again() {
    let (mut rig, mut client) = watching();
    owns(&mut rig, B, 2, &[2]);
    let moved = next_watch(&mut rig, B);
    assert!((moved.watch, users(&moved)) == (true, vec![2]) && is_quiet(&rig));
    comes_or_goes(&mut rig, A, &client, 2, false);
    answer(&mut rig, B, &moved, &[]);
    assert!(client.take(&mut rig).is_empty(), "it may be on its way");
    rig.pass_ms(6_100);
    let doubted = next_watch(&mut rig, B);
    assert_eq!(users(&doubted), [2]);
    answer(&mut rig, B, &doubted, &[]);
    assert_eq!(client.take(&mut rig), [Seen::Presence((2, false, None))]);

    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    owns(&mut rig, A, 3, &[2, 5]);
    let again = next_watch(&mut rig, A);
    assert_eq!(users(&again), [2, 5]);
    answer(&mut rig, A, &again, &[2, 5]);
    assert_eq!(client.take(&mut rig), [Seen::Presence((2, true, None))]);
    // 3 has no home now.
    assert!(is_quiet(&rig));
    owns(&mut rig, A, 3, &[3]);
    assert_eq!(users(&next_watch(&mut rig, A)), [3]);
}

/// A home that is none any more is not asked twice by the same epoch; a part that is refused refuses the command.
#[test]
fn a_watch_finds_the_next_home() {
    let (mut rig, mut client) = watching();
    owns(&mut rig, B, 1, &[6]);
    client.say(&mut rig, Some("x"), &subscribe(&[6, 4]));
    let (at_a, at_b) = (next_watch(&mut rig, A), next_watch(&mut rig, B));
    disowns(&mut rig, B, &at_b, 6);
    assert!(is_quiet(&rig));
    answer(&mut rig, A, &at_a, &[4]);
    assert!(client.take(&mut rig).is_empty());
    owns(&mut rig, A, 2, &[6]);
    let at_a = next_watch(&mut rig, A);
    assert_eq!(users(&at_a), [6]);
    answer(&mut rig, A, &at_a, &[]);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::States { states, .. }] if states.len() == 2), "{seen:?}");

    client.say(&mut rig, Some("y"), &subscribe(&[2, 3]));
    let (at_a, at_b) = (next_watch(&mut rig, A), next_watch(&mut rig, B));
    rig.down_from(
        B,
        &Refused {
            session: at_b.session,
            request: at_b.request,
            code: Code::Overloaded as u16,
            retry_after_ms: 0,
            field: String::new(),
            message: "no".into(),
        },
    );
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Error { code: "overloaded", .. }]), "{seen:?}");
    answer(&mut rig, A, &at_a, &[2]);
    assert!(client.take(&mut rig).is_empty(), "answered already");
}

/// PR3: a router that is not the home of somebody stays that of the others, also when it says so late.
#[test]
fn pr3_a_late_refusal_is_about_whom_it_names() {
    let (mut rig, _client) = watching();
    owns(&mut rig, A, 2, &[3, 5]);
    let at_a = next_watch(&mut rig, A);
    assert_eq!(users(&at_a), [3, 5]);
    owns(&mut rig, B, 3, &[5]);
    assert_eq!(users(&next_watch(&mut rig, B)), [5]);
    disowns(&mut rig, A, &at_a, 5);
    assert_eq!(users(&next_watch(&mut rig, A)), [3]);
}

/// A client that connects while homes are not known is heard when they are.
#[test]
fn a_watch_waits_for_a_home() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1]);
    let mut client = live_at(&mut rig, A, &[]);
    client.say(&mut rig, Some("w"), &subscribe(&[3]));
    assert!(is_quiet(&rig));
    owns(&mut rig, B, 1, &[3]);
    let watch = next_watch(&mut rig, B);
    answer(&mut rig, B, &watch, &[3]);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::States { states, .. }] if *states == [(3, true, None)]));
}
