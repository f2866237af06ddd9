//! Whose clock counts, what sorts how, and what comes again until it is confirmed.

use std::collections::BTreeMap;

use carillon_node::clock::Clock;
use carillon_tests::client::{Client, Event};
use carillon_tests::stage::Stage;
use carillon_tests::{everywhere, over_events};
use serde_json::{Value, json};

const SETTINGS: &[&str] = &["limits.send_per_s=0"];
const HOUR_MS: u64 = 3_600_000;

everywhere!(crate::SETTINGS;
    a_clients_clock_counts_for_nothing,
    created_at_never_falls_as_the_seq_rises,
    what_was_not_confirmed_comes_again_and_is_seen_once,
);
over_events!(crate::SETTINGS;
    a_clients_clock_counts_for_nothing,
    created_at_never_falls_as_the_seq_rises,
    what_was_not_confirmed_comes_again_and_is_seen_once,
);

/// A conversation's messages over REST, oldest first.
fn history(stage: &Stage, user: u64, conversation: &str) -> Vec<Value> {
    let path = format!("/v1/conversations/{conversation}/messages?after_seq=1&limit=200");
    let answer = stage.rest(user, "GET", &path, None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["messages"].as_array().expect("messages").clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// OR1: whatever a client with a wrong clock claims, an hour early or late, what counts is when the server took its message:
/// for the order, for `timestamp` and for `created_at`.
fn a_clients_clock_counts_for_nothing(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let now_ms = Clock.wall_ms();
    let claims = [now_ms + HOUR_MS, now_ms - HOUR_MS, now_ms, now_ms + HOUR_MS, 1];
    let mut acks = Vec::new();
    for (n, claimed_ms) in claims.into_iter().enumerate() {
        let mut frame = json!({"type": "send_message", "conversation_id": conversation, "content": n.to_string(),
            "client_msg_id": n.to_string()});
        for field in ["timestamp", "created_at", "sent_at", "server_time"] {
            frame[field] = json!(claimed_ms);
        }
        at_alice.send(&frame);
        acks.push(at_alice.until_type("delivery_ack"));
    }
    let body = json!({"conversation_id": conversation, "content": "by REST", "message_type": "text",
        "created_at": now_ms - HOUR_MS, "timestamp": now_ms + HOUR_MS});
    let answer = stage.rest(alice, "POST", "/v1/messages", Some(&body));
    assert_eq!(answer.status, 201, "{answer:?}");
    acks.push(answer.body);

    let messages = history(stage, bob, &conversation);
    let live = (0..acks.len()).map(|_| at_bob.until_type("new_message")["message"].clone());
    for ((ack, message), live) in acks.iter().zip(&messages).zip(live) {
        assert_eq!((&ack["seq"], &ack["timestamp"]), (&message["seq"], &message["created_at"]));
        assert_eq!(message["created_at"], live["created_at"]);
        let off_ms = number(&message["created_at"]).abs_diff(now_ms);
        assert!(off_ms < HOUR_MS / 2, "{message} was created {off_ms} ms away from now");
    }
    let contents: Vec<&str> = messages.iter().filter_map(|message| message["content"].as_str()).collect();
    assert_eq!(contents, ["0", "1", "2", "3", "4", "by REST"], "in the order in which they came");
    assert!(messages.is_sorted_by_key(|message| number(&message["created_at"])), "{messages:?}");
}

/// T2: pairs and groups alike have one seq, and sorting by `created_at` never contradicts it.
fn created_at_never_falls_as_the_seq_rises(stage: &Stage) {
    const EACH: usize = 12;
    let [alice, bob] = stage.people();
    let pair = stage.pair(alice, bob);
    let group = stage.group(alice, &[bob]);
    let mut clients = [stage.live(alice, "phone"), stage.live(bob, "phone")];
    std::thread::scope(|scope| {
        for (speaker, client) in clients.iter_mut().enumerate() {
            let conversations = [&pair, &group];
            scope.spawn(move || {
                for n in 0..EACH {
                    let of_both = conversations[n % 2];
                    client.say(of_both, &format!("{speaker}/{n}"), &format!("{speaker}/{n}"));
                }
            });
        }
    });
    for conversation in [&pair, &group] {
        let messages = history(stage, bob, conversation);
        let seqs: Vec<u64> = messages.iter().map(|message| number(&message["seq"])).collect();
        assert_eq!(seqs, (2..2 + EACH as u64).collect::<Vec<_>>(), "half of what each of two said");
        assert!(messages.is_sorted_by_key(|message| number(&message["created_at"])), "{messages:?}");
        let ids = |message: &Value| message["message_id"].as_str().and_then(|id| id.parse::<u64>().ok());
        assert!(messages.is_sorted_by(|one, next| ids(one) < ids(next)), "ids sort by creation as well");
    }
}

/// OO7, DS1: what a device received and did not confirm comes again whenever it is back, until it confirms; a client that
/// keeps messages by `message_id` shows each once.
fn what_was_not_confirmed_comes_again_and_is_seen_once(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let mut visible: BTreeMap<String, u64> = BTreeMap::new();
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    let mut see = |frame: &Value| {
        let events = if frame["type"] == "sync_batch" { frame["events"].clone() } else { json!([frame]) };
        for message in events.as_array().into_iter().flatten().map(|event| &event["message"]) {
            if let (Some(id), Some(seq)) = (message["message_id"].as_str(), message["seq"].as_u64()) {
                assert_eq!(visible.insert(id.to_owned(), seq).unwrap_or(seq), seq, "an id is one message");
                *times.entry(seq).or_default() += 1;
            }
        }
        (visible.len(), times.clone())
    };

    let mut at_bob = stage.live(bob, "phone");
    for n in 0..3 {
        at_alice.say(&conversation, &n.to_string(), &format!("a-{n}"));
        see(&at_bob.until_type("new_message"));
    }
    at_bob.cut();
    at_alice.say(&conversation, "3", "a-3");
    // Twice nothing is confirmed: everything comes again, in order, and what was missed with it.
    for _ in 0..2 {
        let mut at_bob = stage.login(bob, "phone");
        let past = at_bob.past();
        past.iter().for_each(|frame| drop(see(frame)));
        let seqs: Vec<u64> = past.iter().flat_map(Event::all).map(|event| event.seq).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5], "{past:?}");
        at_bob.cut();
    }
    // What is confirmed does not come again, and what is above it does.
    let mut at_bob = stage.live(bob, "phone");
    confirm(&mut at_bob, &conversation, 4);
    at_bob.cut();
    let mut at_bob = stage.login(bob, "phone");
    let past = at_bob.past();
    let (visible_count, times) = past.iter().map(&mut see).last().expect("a page");
    let seqs: Vec<u64> = past.iter().flat_map(Event::all).map(|event| event.seq).collect();
    assert_eq!(seqs, [5], "{past:?}");
    confirm(&mut at_bob, &conversation, 5);
    at_bob.cut();
    let mut at_bob = stage.login(bob, "phone");
    assert_eq!(at_bob.until_type("ready")["pending_events"], 0);

    assert_eq!(visible_count, 4, "each is seen once");
    assert_eq!(times, BTreeMap::from([(2, 3), (3, 3), (4, 3), (5, 3)]), "and came three times");
}

/// Confirms up to `seq`, durably.
fn confirm(client: &mut Client, conversation: &str, seq: u64) {
    client.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": seq, "id": "c"}));
    assert_eq!(client.until_type("ok")["id"], "c");
}
