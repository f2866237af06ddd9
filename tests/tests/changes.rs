//! What happens to messages after they were sent: deletion for everyone, reactions.

use carillon_tests::client::{Client, Event};
use carillon_tests::stage::Stage;
use carillon_tests::{everywhere, over_events};
use serde_json::{Value, json};

const SETTINGS: &[&str] = &["limits.send_per_s=0"];

everywhere!(crate::SETTINGS;
    a_deleted_message_is_gone_for_everyone,
    only_the_sender_deletes,
    reactions_are_counted_once_each,
    changes_are_idempotent,
);
over_events!(crate::SETTINGS;
    a_deleted_message_is_gone_for_everyone,
    only_the_sender_deletes,
    reactions_are_counted_once_each,
    changes_are_idempotent,
);

fn event(client: &mut Client, kind: &str) -> Value {
    let frame = client.frame();
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

fn history(stage: &Stage, user: u64, conversation: &str) -> Vec<Value> {
    let answer = stage.rest(user, "GET", &format!("/v1/conversations/{conversation}/messages"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["messages"].as_array().cloned().unwrap_or_default()
}

/// FU5a, FU5c, G4: the event, the tombstone, and no trace of the content in history, pages, lists and unread counts.
fn a_deleted_message_is_gone_for_everyone(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let mut laptop = stage.live(alice, "laptop");
    let ack = at_alice.say(&conversation, "a secret", "a-1");
    event(&mut at_bob, "new_message");
    event(&mut laptop, "new_message");
    let unread = |stage: &Stage| {
        let path = format!("/v1/conversations/{conversation}");
        stage.rest(bob, "GET", &path, None).body["unread_count"].clone()
    };
    assert_eq!(unread(stage), 1);

    at_alice.send(&json!({"type": "delete_message", "conversation_id": conversation,
        "message_id": ack["message_id"], "id": "d"}));
    let ok = event(&mut at_alice, "ok");
    assert_eq!(
        (&ok["id"], &ok["seq"], &ok["conversation_id"]),
        (&json!("d"), &json!(3), &json!(conversation))
    );
    for client in [&mut at_bob, &mut laptop] {
        let frame = event(client, "message_deleted");
        assert_eq!((&frame["seq"], &frame["target_seq"]), (&json!(3), &json!(2)), "{frame}");
        assert_eq!((&frame["message_id"], &frame["by"]), (&ack["message_id"], &json!(alice.to_string())));
    }
    assert!(at_alice.is_quiet(), "its ok is the event");
    assert_eq!(unread(stage), 0, "deleted messages are not unread");

    for user in [alice, bob] {
        let messages = history(stage, user, &conversation);
        assert_eq!(messages.len(), 1);
        let tombstone = &messages[0];
        assert_eq!((&tombstone["deleted"], &tombstone["content"]), (&json!(true), &json!("")), "{tombstone}");
        assert_eq!((&tombstone["seq"], &tombstone["message_id"]), (&json!(2), &ack["message_id"]));
        assert_eq!(
            (&tombstone["sender_id"], &tombstone["message_type"]),
            (&json!(alice.to_string()), &json!("text"))
        );
        assert!(tombstone.get("media_url").is_none());
        let list = stage.rest(user, "GET", "/v1/conversations", None);
        assert_eq!(list.body["conversations"][0]["last_message"]["deleted"], true, "{list:?}");
        assert!(!list.text.contains("a secret"));
    }
    // Also for a device that comes only now.
    let mut tablet = stage.login(bob, "tablet");
    let past: Vec<Value> = tablet.past();
    assert!(!format!("{past:?}").contains("a secret"), "{past:?}");
    let seqs: Vec<u64> = past.iter().flat_map(Event::all).map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    // A late retry of the send is still answered with its seq (G2).
    let again = at_alice.say(&conversation, "a secret", "a-1");
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(2), &json!(true)), "{again}");
}

fn only_the_sender_deletes(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob, mut at_eve) =
        (stage.live(alice, "phone"), stage.live(bob, "phone"), stage.live(eve, "phone"));
    let ack = at_alice.say(&conversation, "mine", "a-1");
    event(&mut at_bob, "new_message");
    let delete = json!({"type": "delete_message", "conversation_id": conversation,
        "message_id": ack["message_id"], "id": 1});
    for client in [&mut at_bob, &mut at_eve] {
        client.send(&delete);
        assert_eq!(event(client, "error")["error"]["code"], "forbidden");
    }
    at_alice.send(
        &json!({"type": "delete_message", "conversation_id": conversation, "message_id": "77", "id": 2}),
    );
    assert_eq!(event(&mut at_alice, "error")["error"]["code"], "not_found");
    assert_eq!(history(stage, bob, &conversation)[0]["content"], "mine");
}

/// FU6a, FU6b: events like messages; counts beside the message, whose own bytes stay as they were.
fn reactions_are_counted_once_each(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let group = stage.group(alice, &[bob, carol]);
    let [mut at_alice, mut at_bob, mut at_carol] = [alice, bob, carol].map(|user| stage.live(user, "phone"));
    let ack = at_alice.say(&group, "what do you think?", "a-1");
    event(&mut at_bob, "new_message");
    event(&mut at_carol, "new_message");
    let before = history(stage, alice, &group)[0].clone();
    let react = |kind: &str, emoji: &str, id: u64| json!({"type": kind, "conversation_id": group, "message_id": ack["message_id"], "emoji": emoji, "id": id});
    at_bob.send(&react("react", "👍", 1));
    assert_eq!(event(&mut at_bob, "ok")["seq"], 3);
    for client in [&mut at_alice, &mut at_carol] {
        let frame = event(client, "reaction_added");
        assert_eq!((&frame["seq"], &frame["emoji"]), (&json!(3), &json!("👍")), "{frame}");
        assert_eq!((&frame["user_id"], &frame["message_id"]), (&json!(bob.to_string()), &ack["message_id"]));
    }
    // Once more is no event: the seq of the one that made it so.
    at_bob.send(&react("react", "👍", 2));
    assert_eq!(event(&mut at_bob, "ok")["seq"], 3);
    at_carol.send(&react("react", "👍", 3));
    assert_eq!(event(&mut at_carol, "ok")["seq"], 4);
    at_carol.send(&react("react", "🧑‍🚀", 4));
    assert_eq!(event(&mut at_carol, "ok")["seq"], 5);
    let reactions = history(stage, bob, &group)[0]["reactions"].clone();
    assert_eq!(
        reactions,
        json!([{"emoji": "👍", "count": 2, "mine": true}, {"emoji": "🧑‍🚀", "count": 1, "mine": false}])
    );
    at_bob.until("carol's", |frame| frame["seq"] == 5);
    at_bob.send(&react("unreact", "👍", 5));
    assert_eq!(event(&mut at_bob, "ok")["seq"], 6);
    let frame = at_alice.until_type("reaction_removed");
    assert_eq!((&frame["seq"], &frame["user_id"]), (&json!(6), &json!(bob.to_string())), "{frame}");
    // Taken back already: the seq of the event that did. What never was there has none.
    at_bob.send(&react("unreact", "👍", 6));
    assert_eq!(event(&mut at_bob, "ok")["seq"], 6);
    at_bob.send(&react("unreact", "🧑‍🚀", 61));
    let nothing = event(&mut at_bob, "ok");
    assert_eq!(nothing["seq"], Value::Null, "there was none: {nothing}");
    at_carol.send(&react("unreact", "👍", 7));
    at_carol.until("its ok", |frame| frame["id"] == 7);
    at_carol.send(&react("unreact", "🧑‍🚀", 8));
    at_carol.until("its ok", |frame| frame["id"] == 8);
    assert_eq!(history(stage, alice, &group)[0], before, "the message is what it was");
    // What is deleted takes none.
    at_alice.send(&json!({"type": "delete_message", "conversation_id": group, "message_id": ack["message_id"], "id": 9}));
    at_alice.until("its ok", |frame| frame["id"] == 9);
    at_bob.until_type("message_deleted");
    at_bob.send(&react("react", "👍", 10));
    assert_eq!(event(&mut at_bob, "error")["error"]["code"], "gone");
    for (emoji, field) in [("", "emoji"), (&*"x".repeat(65), "emoji")] {
        let path = format!(
            "/v1/conversations/{group}/messages/{}/reactions/{emoji}",
            ack["message_id"].as_str().unwrap()
        );
        let answer = stage.rest(bob, "PUT", &path, None);
        assert!(matches!(answer.status, 400 | 404), "{field}: {answer:?}");
    }
}

/// G2: deletions and reactions share one name space of `client_msg_id` with messages, also over REST.
fn changes_are_idempotent(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let ack = at_alice.say(&conversation, "hello", "m");
    event(&mut at_bob, "new_message");
    let react = json!({"type": "react", "conversation_id": conversation, "message_id": ack["message_id"],
        "emoji": "🎉", "client_msg_id": "r", "id": 1});
    at_bob.send(&react);
    let first = event(&mut at_bob, "ok");
    assert!(first.get("duplicate").is_none());
    at_bob.send(&json!({"type": "unreact", "conversation_id": conversation, "message_id": ack["message_id"],
        "emoji": "🎉", "client_msg_id": "u", "id": 2}));
    event(&mut at_bob, "ok");
    // A late retry of the first does not put it back.
    at_bob.send(&react);
    let again = event(&mut at_bob, "ok");
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)), "{again}");
    assert!(history(stage, bob, &conversation)[0].get("reactions").is_none());
    // The same id for something else is a conflict.
    at_bob.send(&json!({"type": "send_message", "conversation_id": conversation, "content": "x",
        "client_msg_id": "r", "id": 3}));
    assert_eq!(event(&mut at_bob, "error")["error"]["code"], "idempotency_conflict");
    at_alice.send(&json!({"type": "delete_message", "conversation_id": conversation,
        "message_id": ack["message_id"], "client_msg_id": "d", "id": 4}));
    let deleted = at_alice.until("its ok", |frame| frame["id"] == 4);
    at_alice.send(&json!({"type": "delete_message", "conversation_id": conversation,
        "message_id": ack["message_id"], "id": 5}));
    let again = at_alice.until("its ok", |frame| frame["id"] == 5);
    assert_eq!(again["seq"], deleted["seq"], "deleting twice is once");
}
