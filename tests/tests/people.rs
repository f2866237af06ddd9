//! People and their devices: presence, last seen, typing, reading, devices.

#![expect(clippy::disallowed_methods, reason = "tests open sockets and wait for deadlines")]

use std::time::{Duration, Instant};

use carillon_tests::client::{Client, Event, Transport, Wire};
use carillon_tests::everywhere;
use carillon_tests::server::Deployment;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};

/// Offline soon, so that tests need not wait.
const SETTINGS: &[&str] = &["limits.send_per_s=0", "presence.offline_after_ms=300"];

everywhere!(crate::SETTINGS;
    presence_is_told_to_subscribers_only,
    many_devices_are_one_presence,
    strangers_are_always_offline,
    typing_is_heard_and_forgotten,
    reading_is_told_to_ones_other_devices,
    receipts_name_their_readers,
    status_is_the_least_of_all_and_watermarks_are_exact,
    a_muted_conversation_keeps_its_history_and_its_counts,
    devices_are_listed_and_revoked,
);

fn event(client: &mut Client, kind: &str) -> Value {
    let frame = client.frame();
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

fn subscribe(client: &mut Client, user: u64) -> Value {
    client.send(&json!({"type": "presence_subscribe", "user_ids": [user.to_string()], "id": "s"}));
    let ok = client.until("its ok", |frame| frame["id"] == "s");
    assert_eq!(ok["type"], "ok", "{ok}");
    ok["presence"][0].clone()
}

/// FR3, PR1, PR3, PR4, PR7, WS5, DM1.
fn presence_is_told_to_subscribers_only(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let _ = stage.group(alice, &[bob, carol]);
    let (mut at_alice, mut at_carol) = (stage.live(alice, "phone"), stage.live(carol, "phone"));
    let state = subscribe(&mut at_alice, bob);
    assert_eq!(
        (&state["user_id"], &state["status"]),
        (&json!(bob.to_string()), &json!("offline")),
        "{state}"
    );
    let mut at_bob = stage.live(bob, "phone");
    let frame = event(&mut at_alice, "presence");
    assert_eq!((&frame["user_id"], &frame["status"]), (&json!(bob.to_string()), &json!("online")), "{frame}");
    // A dropped connection is offline after a while, and seen last then.
    at_bob.cut();
    let frame = event(&mut at_alice, "presence");
    assert_eq!(frame["status"], "offline", "{frame}");
    let seen = frame["last_seen_at"].as_u64().unwrap_or_else(|| panic!("{frame}"));
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let user = stage.rest(alice, "GET", &format!("/v1/users/{bob}"), None);
        if user.body["last_seen_at"] == seen {
            break;
        }
        assert!(Instant::now() < deadline, "{user:?} and not {seen}");
    }
    // Who says bye is offline at once.
    at_bob = stage.live(bob, "phone");
    assert_eq!(event(&mut at_alice, "presence")["status"], "online");
    at_bob.send(&json!({"type": "bye"}));
    assert_eq!(event(&mut at_alice, "presence")["status"], "offline");
    // Not any longer.
    at_alice.send(&json!({"type": "presence_unsubscribe", "user_ids": [bob.to_string()], "id": "u"}));
    assert_eq!(event(&mut at_alice, "ok")["id"], "u");
    let _at_bob = stage.live(bob, "phone");
    assert!(at_alice.is_quiet() && at_carol.is_quiet(), "nobody is told who did not ask");
}

/// PR1, FU3a.
fn many_devices_are_one_presence(stage: &Stage) {
    let [alice, bob] = stage.people();
    let _ = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    subscribe(&mut at_alice, bob);
    let mut phone = stage.live(bob, "phone");
    assert_eq!(event(&mut at_alice, "presence")["status"], "online");
    let mut laptop = stage.live(bob, "laptop");
    phone.send(&json!({"type": "bye"}));
    phone.until_closed();
    // One device is left: no transition. Coming back at once is none either.
    assert_eq!(subscribe(&mut at_alice, bob)["status"], "online");
    laptop.send(&json!({"type": "heartbeat"}));
    laptop.until_type("heartbeat_ack");
    // A poll session that is not asked any more is not gone yet.
    if stage.transport != Transport::Poll {
        laptop.cut();
    }
    let mut laptop = stage.live(bob, "laptop");
    assert!(laptop.is_quiet() && at_alice.is_quiet());
}

/// PR5: without a conversation in common nothing is told, whatever is asked.
fn strangers_are_always_offline(stage: &Stage) {
    let [alice, bob] = stage.people();
    let mut at_alice = stage.live(alice, "phone");
    let mut at_bob = stage.live(bob, "phone");
    let state = subscribe(&mut at_alice, bob);
    assert_eq!((&state["status"], state.get("last_seen_at")), (&json!("offline"), None), "{state}");
    at_bob.send(&json!({"type": "bye"}));
    at_bob.until_closed();
    let _again = stage.live(bob, "phone");
    assert!(at_alice.is_quiet());
    let user = stage.rest(alice, "GET", &format!("/v1/users/{bob}"), None);
    assert_eq!((user.status, user.body.get("last_seen_at")), (200, None), "{user:?}");
}

/// FR9, WS4: to the other members, soon; throttled; in no history.
fn typing_is_heard_and_forgotten(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob, mut at_eve) =
        (stage.live(alice, "phone"), stage.live(bob, "phone"), stage.live(eve, "phone"));
    let typing = |state: &str, id: u64| json!({"type": "typing", "conversation_id": conversation, "state": state, "id": id});
    at_alice.send(&typing("start", 1));
    assert_eq!(event(&mut at_alice, "ok")["id"], 1);
    let frame = event(&mut at_bob, "typing");
    assert_eq!(
        frame,
        json!({"type": "typing", "conversation_id": conversation, "user_id": alice.to_string(), "state": "start"})
    );
    for id in 2..10 {
        at_alice.send(&typing("start", id));
        assert_eq!(event(&mut at_alice, "ok")["id"], id);
    }
    assert!(at_bob.is_quiet(), "at most one in three seconds");
    at_eve.send(&typing("start", 1));
    assert_eq!(event(&mut at_eve, "error")["error"]["code"], "forbidden");
    assert_eq!(at_bob.say(&conversation, "I see you type", "b-1")["seq"], 2, "typing takes no seq");
    let page = stage.rest(bob, "GET", &format!("/v1/conversations/{conversation}/messages"), None);
    assert_eq!(page.body["messages"].as_array().map(Vec::len), Some(1), "{page:?}");
}

/// OO6, FU3b: the user's other devices learn what is read, and what is left.
fn reading_is_told_to_ones_other_devices(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let (mut phone, mut laptop) = (stage.live(bob, "phone"), stage.live(bob, "laptop"));
    for n in 0..3 {
        at_alice.say(&conversation, "x", &format!("a-{n}"));
    }
    phone.events(&conversation, 3);
    laptop.events(&conversation, 3);
    phone.send(&json!({"type": "read", "conversation_id": conversation, "seq": 3, "id": 1}));
    phone.until_type("ok");
    let frame = event(&mut laptop, "read_sync");
    assert_eq!(
        frame,
        json!({"type": "read_sync", "conversation_id": conversation, "read_seq": 3, "unread_count": 1})
    );
    assert!(phone.is_quiet(), "it knows");
    let body = json!({"seq": 4});
    let answer = stage.rest(bob, "POST", &format!("/v1/conversations/{conversation}/read"), Some(&body));
    assert_eq!(answer.status, 204, "{answer:?}");
    for device in [&mut phone, &mut laptop] {
        assert_eq!(event(device, "read_sync")["unread_count"], 0);
    }
}

/// BG4, GF5: who got how far, exactly.
fn receipts_name_their_readers(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let mut at_alice = stage.live(alice, "phone");
    let (mut at_bob, mut at_carol) = (stage.live(bob, "phone"), stage.live(carol, "phone"));
    at_alice.say(&group, "x", "a-1");
    at_bob.send(&json!({"type": "read", "conversation_id": group, "seq": 2, "id": 0}));
    at_bob.until_type("ok");
    at_carol.send(&json!({"type": "delivered", "conversation_id": group, "seq": 2, "id": 0}));
    at_carol.until_type("ok");
    let answer = stage.rest(alice, "GET", &format!("/v1/conversations/{group}/receipts?seq=2"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipts = answer.body.get("receipts").unwrap_or(&answer.body);
    assert_eq!(
        *receipts,
        json!([{"user_id": bob.to_string(), "delivered_seq": 2, "read_seq": 2},
               {"user_id": carol.to_string(), "delivered_seq": 2, "read_seq": 0}]),
        "{answer:?}"
    );
    let page = stage.rest(alice, "GET", &format!("/v1/conversations/{group}/messages"), None);
    assert_eq!(page.body["messages"][0]["status"], "delivered", "the least of them (T3)");
}

/// The statuses of a conversation's messages as one member sees them, oldest first.
fn statuses(stage: &Stage, user: u64, conversation: &str) -> Vec<String> {
    let path = format!("/v1/conversations/{conversation}/messages?after_seq=1");
    let answer = stage.rest(user, "GET", &path, None);
    let messages = answer.body["messages"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    messages.iter().map(|message| message["status"].as_str().unwrap_or_default().to_owned()).collect()
}

/// T3: a message's `status` is for its sender: exact in a pair, in a group the least of all recipients, whoever of them is
/// ahead. Recipients see `sent`, always. The truth is a pair of watermarks for each member.
fn status_is_the_least_of_all_and_watermarks_are_exact(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let (pair, group) = (stage.pair(alice, bob), stage.group(alice, &[bob, carol]));
    let mut at_alice = stage.live(alice, "phone");
    let [mut at_bob, mut at_carol] = [bob, carol].map(|user| stage.live(user, "phone"));
    for conversation in [&pair, &group] {
        for n in 0..2 {
            at_alice.say(conversation, &n.to_string(), &n.to_string());
        }
    }
    let moved = |client: &mut Client, conversation: &str, kind: &str, seq: u64| {
        client.send(&json!({"type": kind, "conversation_id": conversation, "seq": seq, "id": "w"}));
        client.until("its ok", |frame| frame["id"] == "w" && frame["type"] == "ok");
        statuses(stage, alice, conversation)
    };
    assert_eq!(statuses(stage, alice, &pair), ["sent", "sent"]);
    assert_eq!(moved(&mut at_bob, &pair, "delivered", 2), ["delivered", "sent"]);
    assert_eq!(moved(&mut at_bob, &pair, "read", 2), ["read", "sent"]);
    assert_eq!(moved(&mut at_bob, &pair, "delivered", 3), ["read", "delivered"]);
    assert_eq!(moved(&mut at_bob, &pair, "read", 3), ["read", "read"]);

    assert_eq!(moved(&mut at_bob, &group, "read", 3), ["sent", "sent"], "carol has nothing yet");
    assert_eq!(moved(&mut at_carol, &group, "delivered", 2), ["delivered", "sent"]);
    assert_eq!(moved(&mut at_carol, &group, "read", 2), ["read", "sent"]);
    assert_eq!(moved(&mut at_carol, &group, "delivered", 3), ["read", "delivered"]);
    for recipient in [bob, carol] {
        assert_eq!(statuses(stage, recipient, &group), ["sent", "sent"]);
    }
    let answer = stage.rest(alice, "GET", &format!("/v1/conversations/{group}/receipts"), None);
    assert_eq!(
        answer.body,
        json!([{"user_id": bob.to_string(), "delivered_seq": 3, "read_seq": 3},
               {"user_id": carol.to_string(), "delivered_seq": 3, "read_seq": 2}]),
        "{answer:?}"
    );
}

/// BG6: to mute is not to leave: history, unread counts and what comes live stay as they are, for who muted and for
/// everybody else; and the conversation says until when, to who muted it.
fn a_muted_conversation_keeps_its_history_and_its_counts(stage: &Stage) {
    const UNTIL_MS: u64 = 4_102_444_800_000;
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let mut at_alice = stage.live(alice, "phone");
    let mut at_bob = stage.live(bob, "phone");
    let path = format!("/v1/conversations/{group}");
    let mute = format!("{path}/mute");
    let state = |user: u64| {
        let answer = stage.rest(user, "GET", &path, None);
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.body["unread_count"].as_u64(), answer.body.get("muted_until").and_then(Value::as_u64))
    };
    at_alice.say(&group, "before", "1");
    assert_eq!(stage.rest(bob, "PUT", &mute, Some(&json!({"until": UNTIL_MS}))).status, 204);
    assert_eq!(state(bob), (Some(1), Some(UNTIL_MS)));
    for n in 2..5 {
        at_alice.say(&group, "meanwhile", &n.to_string());
    }
    let live: Vec<u64> = at_bob.events(&group, 4).iter().map(|event| event.seq).collect();
    assert_eq!(live, [2, 3, 4, 5], "an open client hears as before");
    assert_eq!((state(bob), state(carol)), ((Some(4), Some(UNTIL_MS)), (Some(4), None)));
    let history =
        |user: u64| stage.rest(user, "GET", &format!("{path}/messages"), None).body["messages"].clone();
    assert_eq!(history(bob).as_array().map(Vec::len), Some(4));
    assert_eq!(history(bob), history(carol));
    let list = stage.rest(bob, "GET", "/v1/conversations", None);
    assert_eq!(list.body["conversations"][0]["unread_count"], 4, "{list:?}");
    at_bob.send(&json!({"type": "read", "conversation_id": group, "seq": 4, "id": "r"}));
    at_bob.until("its ok", |frame| frame["id"] == "r");
    assert_eq!(state(bob), (Some(1), Some(UNTIL_MS)));
    // A device that comes later gets everything, too.
    let mut tablet = stage.login(bob, "tablet");
    let seqs: Vec<u64> = tablet.past().iter().flat_map(Event::all).map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(stage.rest(bob, "DELETE", &mute, None).status, 204);
    assert_eq!(state(bob), (Some(1), None));
}

/// FU3c, DM1: devices with their lag; a revoked one is closed within five seconds and its token refused.
fn devices_are_listed_and_revoked(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let (mut phone, mut laptop) = (stage.live(bob, "phone"), stage.live(bob, "laptop"));
    at_alice.say(&conversation, "x", "a-1");
    phone.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": 2, "id": 0}));
    phone.until_type("ok");
    laptop.until_type("new_message");
    let answer = stage.rest(bob, "GET", "/v1/devices", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let lag = |device: &str| {
        let devices = answer.body["devices"].as_array().into_iter().flatten();
        let found = devices.into_iter().find(|row| row["device_id"] == device);
        found.unwrap_or_else(|| panic!("no {device} in {answer:?}"))["cursor_lag"].as_u64()
    };
    assert_eq!((lag("phone"), lag("laptop")), (Some(0), Some(2)));

    let old_token = stage.server().token(bob, "laptop");
    let revoked_at = Instant::now();
    let answer = stage.rest(bob, "DELETE", "/v1/devices/laptop", None);
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(laptop.until_closed(), 4501);
    assert!(revoked_at.elapsed() < Duration::from_secs(5));
    let refused = Client::connect(stage.server().address(), stage.transport, Some(&old_token));
    if let Ok(mut again) = refused {
        again.send(&json!({"type": "identify"}));
        assert_eq!(again.until_closed(), 4501);
    }
    assert!(phone.is_quiet(), "the other device notices nothing");
    let asked = carillon_tests::http::request(
        stage.server().address(),
        "GET",
        "/v1/conversations",
        Some(&old_token),
        &[],
        None,
    );
    assert_eq!(asked.status, 401, "{asked:?}");
}

/// PR5: `presence.scope = open_1to1` tells only those who have a conversation of two with somebody.
#[test]
fn presence_by_open_conversation_only() {
    let settings = &["presence.scope=open_1to1", "presence.offline_after_ms=300"];
    let stage = Stage::shared(
        env!("CARGO_BIN_EXE_carillon-under-test"),
        Deployment::OneProcess,
        Wire::Json,
        settings,
    );
    let [alice, bob, carol] = stage.people();
    let _ = stage.group(alice, &[bob, carol]);
    let _ = stage.pair(alice, bob);
    let _bob = stage.live(bob, "phone");
    let (mut at_alice, mut at_carol) = (stage.live(alice, "phone"), stage.live(carol, "phone"));
    assert_eq!(subscribe(&mut at_alice, bob)["status"], "online");
    assert_eq!(subscribe(&mut at_carol, bob)["status"], "offline", "a group is not enough");
    // The home screen shows what is stored.
    let user = stage.rest(carol, "GET", &format!("/v1/users/{bob}"), None);
    assert_eq!(user.status, 200, "{user:?}");
}
