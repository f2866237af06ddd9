//! REST with several routers: every question goes to the owner of its slot, and follows it.

use carillon_gateway::rest::{ANSWER_MS_MAX, Input, Ticket};
use carillon_link::Peer;
use carillon_protocol::frame::{Find, LinkFrame, NotOwner, Wanted};
use carillon_protocol::ids::UserId;
use carillon_protocol::placement::slot_of_user;

use crate::owners::owned;
use crate::rig::{Rig, Up, accepted, admission, found_user, request, settings, token_at};

const A: Peer = Peer(0);
const B: Peer = Peer(1);
const SEND: &str = r#"{"conversation_id":"7","content":"x","message_type":"text"}"#;

fn incarnation(router: Peer) -> u64 {
    100 + u64::from(router.0)
}

/// A router says that it owns the slots of these users and conversations by this epoch.
fn owns(rig: &mut Rig, router: Peer, epoch: u64, ids: &[u64]) {
    let slots = ids.iter().map(|id| slot_of_user(UserId(*id)).0);
    let said = owned(&[A, B].map(incarnation), incarnation(router), epoch, slots);
    hear(rig, router, &said);
}

fn hear(rig: &mut Rig, router: Peer, frame: &impl LinkFrame) {
    let frame = frame.to_frame();
    rig.handle(Input::LaneFrame { router, frame: &frame });
}

fn disown(rig: &mut Rig, router: Peer, up: &Up) {
    hear(rig, router, &NotOwner { session: 0, request: up.number(), slot: 0 });
}

/// Lanes to both: user 1 is A's, conversation 7 is B's.
fn two_routers() -> Rig {
    let mut rig = Rig::without_lane(carillon_gateway::rest::Rest::new(settings(), crate::rig::keys(), 7));
    for router in [A, B] {
        rig.handle(Input::LaneUp { router, incarnation: incarnation(router) });
    }
    owns(&mut rig, A, 1, &[1]);
    owns(&mut rig, B, 1, &[7]);
    rig
}

/// Frames that went to a router since the last time.
fn went_to(rig: &mut Rig, router: Peer) -> Vec<Up> {
    let (to_it, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut rig.routed).into_iter().partition(|(other, _)| *other == router);
    rig.routed = rest;
    rig.up.clear();
    to_it.into_iter().map(|(_, up)| up).collect()
}

/// User 1, who is admitted at A on the way.
fn known(rig: &mut Rig) -> Ticket {
    let ticket = rig.send(request(1, "POST", "/v1/messages", SEND));
    let [Up::Find(find)] = &went_to(rig, A)[..] else { panic!("asks who that is") };
    hear(rig, A, &admission(find.request, true, 0));
    ticket
}

fn epochs(ups: &[Up]) -> Vec<(u64, String)> {
    let epoch = |up: &Up| match up {
        Up::Submit(submit) => (submit.slot_epoch, submit.client_msg_id.clone()),
        other => panic!("{other:?}"),
    };
    ups.iter().map(epoch).collect()
}

/// G9, F3: what is about a user goes to their home, what is about a conversation to its owner; what a former owner refuses
/// waits, and goes to the next one in the order in which it came, ahead of what came later.
#[test]
fn g9_writes_follow_the_owner_in_order() {
    let mut rig = two_routers();
    let first = known(&mut rig);
    let second = rig.send(request(1, "POST", "/v1/messages", SEND));
    let sent = went_to(&mut rig, B);
    let keys = epochs(&sent);
    assert_eq!(keys.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [1, 1]);
    disown(&mut rig, B, &sent[0]);
    let third = rig.send(request(1, "POST", "/v1/messages", SEND));
    assert!(rig.routed.is_empty());
    owns(&mut rig, A, 2, &[7]);
    let again = went_to(&mut rig, A);
    let order: Vec<_> = epochs(&again);
    assert_eq!(order.len(), 3);
    assert_eq!((order[0].clone(), order[1].clone()), ((2, keys[0].1.clone()), (2, keys[1].1.clone())));
    disown(&mut rig, B, &sent[1]);
    assert!(rig.routed.is_empty(), "a late word finds nobody");
    for (up, ticket) in again.iter().zip([first, second, third]) {
        hear(&mut rig, A, &accepted(up, 7, 5, 5, false));
        assert_eq!(rig.response(ticket).status, 201);
    }
}

/// G5: what was refused for that reason only had no effect: it is told as `unavailable` when time is over; what was on a lane
/// that was lost is not.
#[test]
fn g5_what_nobody_owns_is_told_truthfully() {
    for is_lost in [false, true] {
        let mut rig = two_routers();
        let ticket = known(&mut rig);
        let sent = went_to(&mut rig, B);
        if is_lost {
            rig.handle(Input::LaneDown { router: B });
        } else {
            disown(&mut rig, B, &sent[0]);
        }
        rig.pass_ms(ANSWER_MS_MAX);
        let told = rig.refused(ticket);
        let expected = if is_lost { (504, "unknown_outcome") } else { (503, "unavailable") };
        assert_eq!((told.0, told.1.as_str()), expected);
    }
}

/// G5: creating a user may not be repeated: when a former owner refused it, it goes again; when the answer is lost, it does
/// not.
#[test]
fn g5_a_user_is_created_once() {
    let mut rig = two_routers();
    let body = r#"{"username":"ann"}"#;
    let create = || {
        let mut create = request(1, "POST", "/v1/users", body);
        let token = token_at(crate::rig::WALL, 1, 600, "admin");
        create.headers.authorization = Some(format!("Bearer {token}").into_bytes());
        create
    };
    let ticket = rig.send(create());
    let [Up::Find(find)] = &went_to(&mut rig, A)[..] else { panic!("asks who that is") };
    hear(&mut rig, A, &admission(find.request, true, 0));
    let sent = went_to(&mut rig, A);
    disown(&mut rig, A, &sent[0]);
    owns(&mut rig, B, 2, &[1]);
    let again = went_to(&mut rig, B);
    assert_eq!(epochs(&again)[0].0, 2);
    // A later epoch is heard of: the answer may still come.
    owns(&mut rig, A, 3, &[1]);
    assert!(rig.routed.is_empty() && rig.responses.is_empty());
    rig.handle(Input::LaneDown { router: B });
    assert_eq!(rig.refused(ticket).1, "unknown_outcome");
}

/// A user's profile is asked for at their own home, everything else about users at that of the one who asks.
#[test]
fn profiles_are_found_at_their_home() {
    let mut rig = two_routers();
    owns(&mut rig, B, 1, &[2]);
    // Known at A; at B, who has the user now, it is asked again.
    known(&mut rig);
    assert_eq!(went_to(&mut rig, B).len(), 1);
    owns(&mut rig, B, 2, &[1]);
    rig.send(request(1, "GET", "/v1/users/me", ""));
    let again = went_to(&mut rig, B);
    assert!(matches!(&again[..], [Up::Find(Find { what: Wanted::Admission { .. }, .. })]), "{again:?}");
    owns(&mut rig, A, 3, &[1]);
    went_to(&mut rig, A);
    let ticket = rig.send(request(1, "GET", "/v1/users/2", ""));
    let [Up::Find(find)] = &went_to(&mut rig, A)[..] else { panic!("asks who that is") };
    hear(&mut rig, A, &admission(find.request, true, 0));
    let [Up::Find(Find { request, what: Wanted::User(UserId(2)), .. })] = went_to(&mut rig, B)[..] else {
        panic!("asks B")
    };
    hear(&mut rig, B, &found_user(request, 2));
    assert_eq!(rig.response(ticket).status, 200);
    rig.send(crate::rig::request(1, "GET", "/v1/users/me", ""));
    assert_eq!((went_to(&mut rig, A).len(), rig.routed.len()), (1, 0));
}

/// A second way to a router is not taken.
#[test]
fn one_lane_a_router() {
    let mut rig = two_routers();
    rig.handle(Input::LaneUp { router: Peer(7), incarnation: incarnation(A) });
    assert_eq!(rig.closed_lanes_count, 1);
    rig.handle(Input::LaneDown { router: Peer(7) });
    known(&mut rig);
    assert_eq!(went_to(&mut rig, B).len(), 1);
}
