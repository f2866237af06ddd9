//! Two people and a group of five, as an outside eye sees them: in both deployments, over every transport.

use carillon_tests::client::{Client, Event};
use carillon_tests::stage::Stage;
use carillon_tests::{everywhere, over_events};
use serde_json::{Value, json};

// These scenarios say much at once; `limits.rs` plays at the defaults.
everywhere!(&["limits.send_per_s=0"];
    a_message_goes_through_sent_delivered_and_read,
    the_literal_three_field_frame_is_enough,
    a_message_carries_every_optional_field_through,
    online_members_learn_of_a_new_conversation,
    a_group_of_five_hears_everything_once_and_in_order,
    a_second_device_hears_what_the_first_one_says,
    a_newer_connection_of_a_device_replaces_the_older,
    a_retry_gets_the_first_seq,
    an_id_used_for_other_content_is_refused,
    pipelined_sends_keep_their_order,
    who_is_no_member_is_refused,
    a_frame_id_comes_back_with_its_answer,
    bye_is_answered_with_1000,
);
over_events!(&["limits.send_per_s=0"];
    a_message_goes_through_sent_delivered_and_read,
    the_literal_three_field_frame_is_enough,
    a_message_carries_every_optional_field_through,
    online_members_learn_of_a_new_conversation,
    a_group_of_five_hears_everything_once_and_in_order,
    a_second_device_hears_what_the_first_one_says,
    a_newer_connection_of_a_device_replaces_the_older,
    a_retry_gets_the_first_seq,
    an_id_used_for_other_content_is_refused,
    pipelined_sends_keep_their_order,
    bye_is_answered_with_1000,
);

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        object.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
    keys.sort_unstable();
    keys
}

fn new_message(client: &mut Client) -> Value {
    client.until_type("new_message")
}

/// FR1, FR4, WS2, WS3, OO1–OO6, G12.
fn a_message_goes_through_sent_delivered_and_read(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));

    let ack = at_alice.say(&conversation, "hello bob", "m-1");
    let keys_expected =
        ["client_msg_id", "conversation_id", "message_id", "seq", "status", "timestamp", "type"];
    assert_eq!(keys(&ack), keys_expected, "{ack}");
    assert_eq!((&ack["seq"], &ack["conversation_id"]), (&json!(2), &json!(conversation)));

    let frame = new_message(&mut at_bob);
    assert_eq!(keys(&frame), ["head_seq", "message", "type"], "{frame}");
    let message = &frame["message"];
    let expected = json!({
        "message_id": ack["message_id"], "conversation_id": conversation, "seq": 2, "sender_id": alice.to_string(),
        "content": "hello bob", "encoding": "utf8", "message_type": "text", "status": "sent",
        "created_at": ack["timestamp"],
    });
    assert_eq!(message, &expected);
    assert_eq!(frame["head_seq"], 2);

    for (kind, status) in [("delivered", "delivered"), ("read", "read")] {
        at_bob.send(&json!({"type": kind, "conversation_id": conversation, "seq": 2, "id": kind}));
        let done = at_bob.until_type("ok");
        assert_eq!((&done["id"], &done["seq"]), (&json!(kind), &json!(2)), "{done}");
        let moved = at_alice.frame();
        let keys_expected =
            ["conversation_id", "message_id", "seq", "status", "timestamp", "type", "user_id"];
        assert_eq!(keys(&moved), keys_expected, "{moved}");
        assert_eq!((&moved["type"], &moved["status"]), (&json!("delivery_ack"), &json!(status)), "{moved}");
        assert_eq!((&moved["message_id"], &moved["seq"]), (&ack["message_id"], &json!(2)));
        assert_eq!(moved["user_id"], bob.to_string());
    }
    // Again, and backwards: nothing moves, nothing is told.
    at_bob.send(&json!({"type": "read", "conversation_id": conversation, "seq": 1, "id": 1}));
    at_bob.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": 2, "id": 2}));
    at_bob.until_type("ok");
    at_bob.until_type("ok");
    assert!(at_alice.is_quiet() && at_bob.is_quiet());

    // OO4, OO5e, OO6: the store has it, Bob may read it, and nothing is unread.
    let page = stage.rest(bob, "GET", &format!("/v1/conversations/{conversation}/messages"), None);
    assert_eq!(page.body["messages"], json!([expected]), "{page:?}");
    let own = stage.rest(alice, "GET", &format!("/v1/conversations/{conversation}/messages"), None);
    assert_eq!(own.body["messages"][0]["status"], "read", "{own:?}");
    let object = stage.rest(bob, "GET", &format!("/v1/conversations/{conversation}"), None);
    assert_eq!(
        (&object.body["unread_count"], &object.body["read_seq"]),
        (&json!(0), &json!(2)),
        "{object:?}"
    );
    // Beyond the head there is nothing to read.
    at_bob.send(&json!({"type": "read", "conversation_id": conversation, "seq": 3, "id": "far"}));
    assert_eq!(at_bob.until_type("error")["error"]["code"], "bad_request");
}

/// WS1.
fn the_literal_three_field_frame_is_enough(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    at_alice.send(&json!({"type": "send_message", "conversation_id": conversation, "content": "hi"}));
    let ack = at_alice.frame();
    assert_eq!(
        (&ack["type"], &ack["status"], &ack["seq"]),
        (&json!("delivery_ack"), &json!("sent"), &json!(2))
    );
    assert_eq!(keys(&ack), ["conversation_id", "message_id", "seq", "status", "timestamp", "type"], "{ack}");
    assert_eq!(new_message(&mut at_bob)["message"]["message_type"], "text");
}

/// FR1: every message type, media, replies, opaque content.
fn a_message_carries_every_optional_field_through(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let first = at_alice.say(&conversation, "grüße 🔔 \u{0}\u{1f} \"\\ \u{2028}", "first");
    assert_eq!(new_message(&mut at_bob)["message"]["content"], "grüße 🔔 \u{0}\u{1f} \"\\ \u{2028}");
    let media = "https://media.example/a.bin";
    for kind in ["image", "video", "file"] {
        at_alice.send(&json!({"type": "send_message", "conversation_id": conversation, "content": "",
            "message_type": kind, "media_url": media, "reply_to": first["message_id"], "client_msg_id": kind}));
        let ack = at_alice.until_type("delivery_ack");
        let message = new_message(&mut at_bob)["message"].clone();
        assert_eq!((&message["message_type"], &message["media_url"]), (&json!(kind), &json!(media)));
        assert_eq!(
            (&message["reply_to"], &message["message_id"]),
            (&first["message_id"], &ack["message_id"])
        );
    }
    at_alice.send(&json!({"type": "send_message", "conversation_id": conversation, "content": "AAEC/w==",
        "encoding": "opaque"}));
    let message = new_message(&mut at_bob)["message"].clone();
    assert_eq!((&message["content"], &message["encoding"]), (&json!("AAEC/w=="), &json!("opaque")));
}

/// The creation is event 1 of the log: everybody who is there learns of it, everybody who comes later too.
fn online_members_learn_of_a_new_conversation(stage: &Stage) {
    let [alice, bob, carol] = stage.people();
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let group = stage.group(alice, &[bob, carol]);
    for client in [&mut at_alice, &mut at_bob] {
        let created = client.until_type("conversation_created");
        assert_eq!((&created["conversation_id"], &created["seq"]), (&json!(group), &json!(1)), "{created}");
        assert_eq!(created["by"], alice.to_string());
        let mut members = [alice, bob, carol].map(|user| user.to_string());
        members.sort();
        let mut told: Vec<String> = serde_json::from_value(created["user_ids"].clone()).unwrap();
        told.sort();
        assert_eq!(told, members);
    }
    let mut at_carol = stage.login(carol, "phone");
    let ready = at_carol.until_type("ready");
    assert_eq!((&ready["pending_conversations"], &ready["pending_events"]), (&json!(1), &json!(1)));
    let past: Vec<Event> = at_carol.past().iter().flat_map(Event::all).collect();
    assert_eq!(past.len(), 1, "{past:?}");
    assert_eq!((past[0].seq, past[0].content.as_str()), (1, "conversation_created"));
}

/// FR2, G3, G6, OR2: everybody speaks; everybody holds the same dense log, each sender's words in their order.
fn a_group_of_five_hears_everything_once_and_in_order(stage: &Stage) {
    const EACH: usize = 6;
    let people: [u64; 5] = stage.people();
    let group = stage.group(people[0], &people[1..]);
    let mut clients = people.map(|user| stage.live(user, "phone"));
    let mut acked: Vec<(u64, String)> = Vec::new();
    for round in 0..EACH {
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(&json!({"type": "send_message", "conversation_id": group, "content": format!("{index}/{round}")}));
        }
    }
    // What a client holds: others' words by events, its own by their acks.
    for (index, client) in clients.iter_mut().enumerate() {
        let mut held: Vec<(u64, String)> = Vec::new();
        let (mut own, mut last_event_seq) = (0, 1);
        while held.len() < 5 * EACH {
            let frame = client.frame();
            if frame["type"] == "delivery_ack" {
                held.push((frame["seq"].as_u64().unwrap(), format!("{index}/{own}")));
                own += 1;
            }
            for event in Event::all(&frame) {
                assert!(event.seq > last_event_seq, "events rise: {event:?} after {last_event_seq}");
                last_event_seq = event.seq;
                held.push((event.seq, event.content));
            }
        }
        assert!(client.is_quiet(), "everything came once");
        held.sort();
        let seqs: Vec<u64> = held.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (2..2 + 5 * EACH as u64).collect::<Vec<_>>(), "dense");
        if acked.is_empty() {
            acked = held;
        } else {
            assert_eq!(acked, held, "client {index} holds the same log");
        }
    }
    for index in 0..5 {
        let order: Vec<&String> = acked
            .iter()
            .map(|(_, content)| content)
            .filter(|content| content.starts_with(&index.to_string()))
            .collect();
        assert_eq!(
            order,
            (0..EACH).map(|round| format!("{index}/{round}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
    }
    // Receipts name their reader, and every reader's arrives.
    let head = 1 + 5 * EACH as u64;
    for client in &mut clients[1..] {
        client.send(&json!({"type": "read", "conversation_id": group, "seq": head, "id": 0}));
        client.until_type("ok");
    }
    let mut readers: Vec<String> = (0..4)
        .map(|_| {
            let ack = clients[0]
                .until("read ack", |frame| frame["type"] == "delivery_ack" && frame["status"] == "read");
            ack["user_id"].as_str().unwrap().to_owned()
        })
        .collect();
    readers.sort();
    let mut expected: Vec<String> = people[1..].iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(readers, expected);
}

/// FR7: the user's other devices get the event, with the `client_msg_id`, and no ack.
fn a_second_device_hears_what_the_first_one_says(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut phone, mut laptop) = (stage.live(alice, "phone"), stage.live(alice, "laptop"));
    let mut at_bob = stage.live(bob, "phone");
    let ack = phone.say(&conversation, "from the phone", "p-1");
    let heard = laptop.frame();
    assert_eq!((&heard["type"], &heard["message"]["seq"]), (&json!("new_message"), &ack["seq"]), "{heard}");
    assert_eq!(heard["message"]["client_msg_id"], "p-1", "own devices see the id");
    assert!(new_message(&mut at_bob)["message"].get("client_msg_id").is_none(), "others do not");
    let back = laptop.say(&conversation, "from the laptop", "l-1");
    assert_eq!(new_message(&mut phone)["message"]["seq"], back["seq"]);
    // Both devices of the sender hear how far it got.
    at_bob.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": back["seq"]}));
    for device in [&mut phone, &mut laptop] {
        let ack = device.until_type("delivery_ack");
        assert_eq!((&ack["status"], &ack["seq"]), (&json!("delivered"), &back["seq"]), "{ack}");
    }
    assert!(phone.is_quiet() && laptop.is_quiet());
}

fn a_newer_connection_of_a_device_replaces_the_older(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut older = stage.live(alice, "phone");
    let mut newer = stage.live(alice, "phone");
    assert_eq!(older.until_closed(), 4507);
    let mut at_bob = stage.live(bob, "phone");
    at_bob.say(&conversation, "still there?", "b-1");
    assert_eq!(new_message(&mut newer)["message"]["content"], "still there?");
}

/// G2, F1: also from another device, and over REST.
fn a_retry_gets_the_first_seq(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut phone, mut laptop) = (stage.live(alice, "phone"), stage.live(alice, "laptop"));
    let mut at_bob = stage.live(bob, "phone");
    let first = phone.say(&conversation, "once", "the-id");
    assert!(first.get("duplicate").is_none());
    phone.say(&conversation, "between", "another-id");
    for client in [&mut phone, &mut laptop] {
        let again = client.say(&conversation, "once", "the-id");
        assert_eq!(again["duplicate"], true, "{again}");
        assert_eq!((&again["seq"], &again["message_id"]), (&first["seq"], &first["message_id"]));
    }
    let body = json!({"conversation_id": conversation, "content": "once", "message_type": "text",
        "client_msg_id": "the-id"});
    let answer = stage.rest(alice, "POST", "/v1/messages", Some(&body));
    assert_eq!((answer.status, &answer.body["seq"]), (200, &first["seq"]), "{answer:?}");
    assert_eq!(answer.body["duplicate"], true, "{answer:?}");
    // The same id of another sender is another id.
    assert!(at_bob.say(&conversation, "once", "the-id").get("duplicate").is_none());
    assert_eq!(new_message(&mut phone)["message"]["seq"], 4);
}

/// G2, G5: a conflict is definite, and leaves nothing behind.
fn an_id_used_for_other_content_is_refused(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let first = at_alice.say(&conversation, "one thing", "same");
    at_alice
        .send(&json!({"type": "send_message", "conversation_id": conversation, "content": "another thing",
        "client_msg_id": "same", "id": "x"}));
    let error = at_alice.until_type("error");
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&json!("x"), &json!("idempotency_conflict")),
        "{error}"
    );
    assert_eq!(error["error"]["retryable"], false);
    let next = at_alice.say(&conversation, "a third", "other");
    assert_eq!(next["seq"].as_u64(), first["seq"].as_u64().map(|seq| seq + 1), "nothing in between");
}

/// G9.
fn pipelined_sends_keep_their_order(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    for n in 0..64 {
        at_alice.send(&json!({"type": "send_message", "conversation_id": conversation, "content": n.to_string(), "id": n}));
    }
    for n in 0..64 {
        let ack = at_alice.until_type("delivery_ack");
        assert_eq!((&ack["id"], &ack["seq"]), (&json!(n), &json!(n + 2)), "{ack}");
    }
    for (n, event) in at_bob.events(&conversation, 64).iter().enumerate() {
        assert_eq!((event.seq, event.content.as_str()), (n as u64 + 2, n.to_string().as_str()));
    }
}

/// AP8 on WebSocket, G11: what is not there and what is not yours get the same answer.
fn who_is_no_member_is_refused(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_eve, mut at_bob) = (stage.live(eve, "phone"), stage.live(bob, "phone"));
    for id in [conversation.as_str(), "9223372036854775807"] {
        for frame in [
            json!({"type": "send_message", "conversation_id": id, "content": "let me in", "id": 1}),
            json!({"type": "sync", "conversation_id": id, "from_seq": 1, "id": 1}),
            json!({"type": "delivered", "conversation_id": id, "seq": 1, "id": 1}),
            json!({"type": "read", "conversation_id": id, "seq": 1, "id": 1}),
        ] {
            at_eve.send(&frame);
            let error = at_eve.frame();
            assert_eq!(error["error"]["code"], "forbidden", "{frame} → {error}");
            assert_eq!(error["id"], 1, "{frame} → {error}");
        }
    }
    // A cursor for it is ignored.
    let mut again = stage.login_at(eve, "laptop", &conversation, 1);
    assert_eq!(again.until_type("ready")["pending_events"], 0);
    assert!(at_bob.is_quiet());
}

fn a_frame_id_comes_back_with_its_answer(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    for id in [json!("text"), json!(7), json!(-9_007_199_254_740_992_i64)] {
        at_alice.send(&json!({"type": "heartbeat", "id": id}));
        assert_eq!(at_alice.frame(), json!({"type": "heartbeat_ack", "id": id}));
        at_alice.send(&json!({"type": "sync", "conversation_id": conversation, "from_seq": 1, "id": id}));
        assert_eq!(at_alice.until_type("sync_batch")["id"], id);
        at_alice.send(
            &json!({"type": "send_message", "conversation_id": conversation, "content": "x", "id": id}),
        );
        assert_eq!(at_alice.until_type("delivery_ack")["id"], id);
    }
}

fn bye_is_answered_with_1000(stage: &Stage) {
    let [alice] = stage.people();
    let mut at_alice = stage.live(alice, "phone");
    at_alice.send(&json!({"type": "bye"}));
    assert_eq!(at_alice.until_closed(), 1000);
}
