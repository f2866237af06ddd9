//! Absences: what a client that comes back is told, by the server's cursor and by its own.

use carillon_tests::client::{Client, Event};
use carillon_tests::everywhere;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};

everywhere!(&["limits.send_per_s=0"];
    five_hundred_messages_wait_for_who_was_away,
    a_new_device_gets_the_same_list,
    a_thousand_behind_is_sent_and_one_more_is_reset,
    a_cursor_beyond_the_head_is_reset,
    cursors_of_the_client_win,
    live_goes_on_from_where_the_past_ended,
    sync_pages_from_anywhere,
);

fn chatter(client: &mut Client, conversation: &str, count: usize) {
    let acks = client.say_all(conversation, (0..count).map(|n| format!("word {n}")));
    assert_eq!(acks.len(), count);
}

fn events(frames: &[Value]) -> Vec<Event> {
    frames.iter().flat_map(Event::all).collect()
}

fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

/// OO5f, FR7, G6: by the server's cursor, which moved with what was delivered.
fn five_hundred_messages_wait_for_who_was_away(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let mut at_bob = stage.live(bob, "phone");
    chatter(&mut at_alice, &conversation, 10);
    let live = at_bob.events(&conversation, 10);
    at_bob.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": 11, "id": 0}));
    at_bob.until_type("ok");
    at_bob.cut();
    let acks = at_alice.say_all(&conversation, (0..500).map(|n| format!("while you were out {n}")));

    let mut at_bob = stage.login(bob, "phone");
    let ready = at_bob.until_type("ready");
    assert_eq!((&ready["pending_conversations"], &ready["pending_events"]), (&json!(1), &json!(500)));
    let frames = at_bob.past();
    for page in &frames {
        assert_eq!(page["type"], "sync_batch", "{page}");
        assert!(page["events"].as_array().is_some_and(|events| events.len() <= 200), "bounded pages");
    }
    let past = events(&frames);
    assert_eq!(seqs(&past), (12..512).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(acks.last().map(|ack| &ack["seq"]), Some(&json!(511)));
    assert_eq!(past[499].content, "while you were out 499");
    assert!(at_bob.is_quiet());
    assert_eq!(live.len(), 10);
}

/// FR7: a device that was never there ends with the same list.
fn a_new_device_gets_the_same_list(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let mut phone = stage.live(bob, "phone");
    // In pieces: what waits for a client that does not read, or has not confirmed what it fetched, is bounded.
    let mut first = Vec::new();
    for piece in 0..3 {
        at_alice.say_all(&conversation, (0..100).map(|n| format!("word {piece}/{n}")));
        first.extend(phone.events(&conversation, 100));
    }
    let mut tablet = stage.login(bob, "tablet");
    let second = events(&tablet.past());
    assert_eq!(second[0].content, "conversation_created");
    assert_eq!(first, second[1..]);
}

fn a_thousand_behind_is_sent_and_one_more_is_reset(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    chatter(&mut at_alice, &conversation, 1_001);
    let head = 1_002;

    let mut at_bob = stage.login_at(bob, "phone", &conversation, head - 1_000);
    assert_eq!(at_bob.until_type("ready")["pending_events"], 1_000);
    assert_eq!(seqs(&events(&at_bob.past())), (3..=head).collect::<Vec<_>>());

    let mut at_bob = stage.login_at(bob, "laptop", &conversation, head - 1_001);
    assert_eq!(at_bob.until_type("ready")["pending_events"], 0, "resets are not counted");
    let frames = at_bob.past();
    let expected = json!({"type": "reset", "conversation_id": conversation, "first_seq": 1, "head_seq": head,
        "reason": "too_far_behind"});
    assert_eq!(frames, [expected]);
    // Live goes on from the head; what is older is paged.
    let ack = at_alice.say(&conversation, "and on", "and on");
    assert_eq!(at_bob.until_type("new_message")["message"]["seq"], ack["seq"]);
    at_bob.send(&json!({"type": "sync", "conversation_id": conversation, "from_seq": 1, "limit": 200}));
    assert_eq!(seqs(&at_bob.events(&conversation, 200)), (1..=200).collect::<Vec<_>>());
}

/// F30: a store that was restored from an old copy must not reuse numbers in silence.
fn a_cursor_beyond_the_head_is_reset(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    chatter(&mut at_alice, &conversation, 3);
    let mut at_bob = stage.login_at(bob, "phone", &conversation, 5);
    let frames = at_bob.past();
    let reset = frames.iter().find(|frame| frame["type"] == "reset").expect("a reset");
    assert_eq!((&reset["head_seq"], &reset["reason"]), (&json!(4), &json!("cursor_ahead")), "{reset}");
    assert!(events(&frames).is_empty());
    at_alice.say(&conversation, "number five", "five");
    assert_eq!(at_bob.until_type("new_message")["message"]["seq"], 5);
}

fn cursors_of_the_client_win(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    chatter(&mut at_alice, &conversation, 20);
    let mut at_bob = stage.live(bob, "phone");
    at_bob.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": 21, "id": 0}));
    at_bob.until_type("ok");
    at_bob.cut();
    // The server would begin at 22; this client lost what it had after 15. Again from 0: everything.
    for (cursor, expected) in [(15, 16..22), (0, 1..22), (21, 22..22)] {
        let mut at_bob = stage.login_at(bob, "phone", &conversation, cursor);
        assert_eq!(seqs(&events(&at_bob.past())), expected.collect::<Vec<_>>(), "cursor {cursor}");
    }
    let mut at_bob = stage.login(bob, "phone");
    assert!(events(&at_bob.past()).is_empty(), "the override was for that connection");
}

/// F6: comings and goings while another talks; each stay plus the stays before it is the dense log.
fn live_goes_on_from_where_the_past_ended(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let mut cursor = 1;
    let mut said = 0;
    for _ in 0..6 {
        // Unanswered sends race with the login.
        for _ in 0..20 {
            at_alice.send(&json!({"type": "send_message", "conversation_id": conversation, "content": said.to_string()}));
            said += 1;
        }
        let mut at_bob = stage.login_at(bob, "phone", &conversation, cursor);
        while cursor < said + 1 {
            for event in Event::all(&at_bob.frame()) {
                assert_eq!(event.seq, cursor + 1, "{event:?}");
                assert_eq!(event.content, (event.seq - 2).to_string());
                cursor = event.seq;
            }
        }
        at_bob.cut();
    }
}

fn sync_pages_from_anywhere(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    chatter(&mut at_alice, &conversation, 29);
    let mut at_bob = stage.live(bob, "phone");
    at_bob.send(&json!({"type": "delivered", "conversation_id": conversation, "seq": 7, "id": 0}));
    at_bob.until_type("ok");
    // (from, limit) → (from, to, more)
    let table = [
        ((1, 10), (1, 10, true)),
        ((11, 20), (11, 30, false)),
        ((30, 1), (30, 30, false)),
        ((25, 200), (25, 30, false)),
        ((31, 5), (31, 30, false)),
        ((29, 1), (29, 29, true)),
    ];
    for ((from, limit), (from_seq, to_seq, has_more)) in table {
        at_alice.send(&json!({"type": "sync", "conversation_id": conversation, "from_seq": from, "limit": limit, "id": from}));
        let page = at_alice.until_type("sync_batch");
        let got = (&page["from_seq"], &page["to_seq"], &page["head_seq"], &page["has_more"]);
        assert_eq!(
            got,
            (&json!(from_seq), &json!(to_seq), &json!(30), &json!(has_more)),
            "sync {from} {limit}"
        );
        assert_eq!(seqs(&Event::all(&page)), (from_seq..=to_seq).collect::<Vec<_>>());
        let receipts = json!([{"user_id": bob.to_string(), "delivered_seq": 7, "read_seq": 0}]);
        assert_eq!(page["receipts"], receipts, "where the others are: {page}");
    }
    at_bob.send(&json!({"type": "sync", "conversation_id": conversation, "from_seq": 32, "id": "far"}));
    let reset = at_bob.until_type("reset");
    assert_eq!(
        (&reset["id"], &reset["reason"], &reset["head_seq"]),
        (&json!("far"), &json!("cursor_ahead"), &json!(30))
    );
}
