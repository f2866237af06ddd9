//! What a client says of its typing, and what it hears of others'.

use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{self, Accepted, Refused, Typed};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;

use crate::rig::{Client, Rig, Seen, Up, deliver, live, text_id};

const HERE: u64 = 100;
/// How exact timers are.
const TIMER_MS: u64 = 34;

fn types(rig: &mut Rig, client: &mut Client, id: Option<&str>, start: bool) -> Vec<Seen> {
    client.say(rig, id, &Command::Typing { conversation: ConversationId(HERE), start })
}

fn next_typing(rig: &mut Rig) -> frame::Typing {
    match rig.next_up() {
        Up::Typing(typing) => typing,
        other => panic!("{other:?}"),
    }
}

fn accept(rig: &mut Rig, typing: &frame::Typing) {
    rig.down(&Accepted {
        session: typing.session,
        request: typing.request,
        conversation: typing.conversation,
        seq: 0,
        id: 0,
        duplicate: false,
        unchanged: false,
    });
}

fn refuse(rig: &mut Rig, typing: &frame::Typing, code: Code) {
    rig.down(&Refused {
        session: typing.session,
        request: typing.request,
        code: code as u16,
        retry_after_ms: 0,
        field: String::new(),
        message: "no".to_owned(),
    });
}

fn ok(id: &str) -> Seen {
    Seen::Ok { id: Some(text_id(id)), conversation: None, seq: None, duplicate: false }
}

/// FR9: at most one state in three seconds and conversation is passed on: repeats are not, and a change waits for the
/// end of the interval, the latest one only.
#[test]
fn typing_is_throttled_and_a_stop_is_not_lost() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    for _ in 0..10 {
        assert_eq!(types(&mut rig, &mut client, None, true), []);
    }
    let typing = next_typing(&mut rig);
    assert_eq!((typing.user, typing.conversation.0, typing.start), (UserId(1), HERE, true));
    assert_eq!(rig.up.len(), 0);
    // Stopped, began, stopped: what counts is how it ends.
    for start in [false, true, false] {
        types(&mut rig, &mut client, None, start);
    }
    rig.pass_ms(2_999);
    assert_eq!(rig.up.len(), 0);
    rig.pass_ms(1 + TIMER_MS);
    assert!(!next_typing(&mut rig).start);
    // Nothing is left to be passed on, and nothing is remembered.
    rig.pass_ms(60_000);
    assert_eq!(rig.up.len(), 0);
    // Stopped and began again within the interval is no change.
    types(&mut rig, &mut client, None, true);
    next_typing(&mut rig);
    types(&mut rig, &mut client, None, false);
    types(&mut rig, &mut client, None, true);
    rig.pass_ms(10_000);
    assert_eq!(rig.up.len(), 0);
    // Ten seconds of keys pressed: one state in three seconds.
    for _ in 0..100 {
        types(&mut rig, &mut client, None, true);
        rig.pass_ms(100);
    }
    assert!((3..=4).contains(&rig.up.len()), "{}", rig.up.len());
}

/// FR9: every frame with an `id` is answered, those that are not passed on too.
#[test]
fn typing_with_an_id_is_answered() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    assert_eq!(types(&mut rig, &mut client, Some("a"), true), []);
    assert_eq!(types(&mut rig, &mut client, Some("b"), true), []);
    let typing = next_typing(&mut rig);
    accept(&mut rig, &typing);
    assert_eq!(client.take(&mut rig), [ok("a"), ok("b")]);
    assert_eq!(types(&mut rig, &mut client, Some("c"), false), [ok("c")]);
    rig.pass_ms(3_000 + TIMER_MS);
    let typing = next_typing(&mut rig);
    refuse(&mut rig, &typing, Code::Forbidden);
    let seen = client.take(&mut rig);
    assert!(
        matches!(&seen[..], [Seen::Error { id: None, code: "forbidden", .. }]),
        "told all the same: {seen:?}"
    );
    let seen = types(&mut rig, &mut client, Some("d"), true);
    assert!(matches!(&seen[..], [Seen::Error { id: Some(_), code: "forbidden", .. }]), "{seen:?}");

    // A crowd at the router is nothing that who does not ask has to know.
    rig.pass_ms(3_000 + TIMER_MS);
    types(&mut rig, &mut client, None, true);
    while let Some(bytes) = rig.up.pop_front() {
        if let Up::Typing(typing) = Up::read(&bytes) {
            refuse(&mut rig, &typing, Code::Overloaded);
        }
    }
    assert_eq!(client.take(&mut rig), []);

    // A lost lane answers those who wait; without a lane there is nothing to wait for.
    rig.pass_ms(3_000 + TIMER_MS);
    assert_eq!(types(&mut rig, &mut client, Some("e"), true), []);
    rig.lane_down();
    let seen = client.take(&mut rig);
    assert!(matches!(&seen[..], [Seen::Error { id: Some(_), code: "unavailable", .. }]), "{seen:?}");
    let seen = types(&mut rig, &mut client, Some("f"), true);
    assert!(matches!(&seen[..], [Seen::Error { id: Some(_), code: "unavailable", .. }]), "{seen:?}");
    assert_eq!(types(&mut rig, &mut client, None, true), []);
}

/// FR9, DS2: others hear who types, on all their connections; where anything better waits to be said it is dropped, and
/// messages are not.
#[test]
fn typing_is_heard_and_dropped_first() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=4096"]);
    let mut json = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let mut rkyv = live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 0, 0)]);
    let mut other = live(&mut rig, 2, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let typed =
        Typed { conversation: ConversationId(HERE), user: UserId(5), start: true, users: vec![UserId(1)] };
    rig.down(&typed);
    let seen = Seen::Typing { conversation: HERE, user: 5, start: true };
    for client in [&mut json, &mut rkyv] {
        assert_eq!(client.take(&mut rig), std::slice::from_ref(&seen));
    }
    assert_eq!(other.take(&mut rig), []);

    rig.sockets.get_mut(&json.id).unwrap().room = Some(0);
    let text = "x".repeat(1_000);
    for seq in 1..=3 {
        rig.down(&deliver(HERE, seq, 5, &format!("{seq}"), &text, &[1]));
        rig.down(&typed);
    }
    rig.sockets.get_mut(&json.id).unwrap().room = None;
    rig.flush(json.id);
    rig.carry_out();
    let heard = json.take(&mut rig);
    assert_eq!(heard.iter().filter(|seen| matches!(seen, Seen::Event(_))).count(), 3, "{heard:?}");
    assert_eq!(heard.iter().filter(|heard| **heard == seen).count(), 1, "the first one found room");
    assert_eq!(rkyv.take(&mut rig).len(), 6);
    assert_eq!(rig.shard.counters().ephemeral_dropped, 2);
}

/// FR9: nothing ephemeral before the client is caught up.
#[test]
fn nobody_types_before_caught_up() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &crate::rig::identify(&crate::rig::token(1, "phone", 86_400), &[]));
    client.finish_registering(&mut rig, &[(HERE, 0, 9)]);
    rig.down(&Typed {
        conversation: ConversationId(HERE),
        user: UserId(5),
        start: true,
        users: vec![UserId(1)],
    });
    assert_eq!(client.take(&mut rig), []);
}
