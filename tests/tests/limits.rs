//! At the defaults: what the rates refuse, when it may be tried again, and that nobody else feels it. And the other
//! way round, rates off: a crowd in one conversation.

#![expect(clippy::disallowed_methods, reason = "tests wait as long as the server says")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carillon_tests::client::{Client, Wire};
use carillon_tests::everywhere;
use carillon_tests::server::{Deployment, PATIENCE};
use carillon_tests::stage::{Stage, rest};
use serde_json::{Value, json};

everywhere!(&[];
    a_burst_is_taken_and_more_is_refused_for_a_while,
    an_ordinary_chat_never_meets_a_limit,
);

/// `limits.send_burst` and `limits.send_per_s`, as `hello` states them. A refused attempt never takes effect (G5), the
/// same attempt later does, and the others keep their order.
fn a_burst_is_taken_and_more_is_refused_for_a_while(stage: &Stage) {
    const SENDS: usize = 80;
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.login(alice, "phone");
    let hello = at_alice.until_type("hello");
    assert_eq!((&hello["limits"]["send_per_s"], &hello["limits"]["send_burst"]), (&json!(20), &json!(64)));
    at_alice.until_type("caught_up");
    let mut at_bob = stage.live(bob, "phone");
    let message = |n: usize| {
        json!({"type": "send_message", "conversation_id": conversation, "content": format!("{n}"),
            "client_msg_id": format!("{n}"), "id": n})
    };
    for n in 0..SENDS {
        at_alice.send(&message(n));
    }
    let mut waiting: Vec<usize> = Vec::new();
    let (mut taken, mut wait_ms) = (Vec::new(), 0);
    for _ in 0..SENDS {
        let answer = at_alice.frame();
        let n = answer["id"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("an id");
        if answer["type"] == "delivery_ack" {
            taken.push((answer["seq"].as_u64().expect("a seq"), n));
            continue;
        }
        let error = &answer["error"];
        assert_eq!((&error["code"], &error["retryable"]), (&json!("rate_limited"), &json!(true)), "{answer}");
        wait_ms =
            error["retry_after_ms"].as_u64().filter(|wait_ms| (1..=5_000).contains(wait_ms)).expect("a time");
        waiting.push(n);
    }
    assert!(taken.len() >= 64 && !waiting.is_empty(), "{} taken, {} refused", taken.len(), waiting.len());
    // REST shares the limit's shape: 429 with Retry-After.
    let body = json!({"conversation_id": conversation, "content": "x", "message_type": "text"});
    let mut answers =
        (0..SENDS).map(|_| rest(stage.server(), alice, "POST", "/v1/messages", &[], Some(&body)));
    let refused = answers.find(|answer| answer.status == 429).expect("a 429");
    assert!(refused.header("Retry-After").is_some(), "{refused:?}");
    drop(answers);
    // Bob is another user.
    at_bob.say(&conversation, "unmoved", "bob");
    // As long as the server says, and no longer than a client that tries again when told.
    let deadline = Instant::now() + PATIENCE;
    for n in waiting {
        loop {
            std::thread::sleep(Duration::from_millis(wait_ms));
            at_alice.send(&message(n));
            let answer = at_alice.until("answer", |frame| frame["id"] == n);
            if answer["type"] == "delivery_ack" {
                assert!(answer.get("duplicate").is_none(), "a refused attempt left nothing: {answer}");
                taken.push((answer["seq"].as_u64().expect("a seq"), n));
                break;
            }
            wait_ms = answer["error"]["retry_after_ms"].as_u64().unwrap_or(100);
            assert!(Instant::now() < deadline, "{answer}");
        }
    }
    let mut by_seq = taken.clone();
    by_seq.sort_unstable();
    assert_eq!(by_seq, taken, "in the order in which they were taken");
}

/// Two people who talk like people.
fn an_ordinary_chat_never_meets_a_limit(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    for n in 0..20 {
        let (speaker, listener) =
            if n % 2 == 0 { (&mut at_alice, &mut at_bob) } else { (&mut at_bob, &mut at_alice) };
        let ack = speaker.say(&conversation, &n.to_string(), &n.to_string());
        assert_eq!(ack["seq"], n + 2);
        let heard = listener.until_type("new_message");
        assert_eq!(heard["message"]["seq"], ack["seq"]);
        listener.send(&json!({"type": "read", "conversation_id": conversation, "seq": ack["seq"]}));
        speaker.until("read ack", |frame| frame["status"] == "read" && frame["seq"] == ack["seq"]);
    }
}

/// OR2, G3, G9: 64 senders at once, 100 messages each, into one conversation: every seq once, each sender's order kept,
/// and one listener holds the whole.
#[test]
fn sixty_four_senders_share_one_conversation() {
    const SENDERS: usize = 64;
    const EACH: usize = 100;
    let stage = Stage::shared(
        env!("CARGO_BIN_EXE_carillon-under-test"),
        Deployment::Tiers,
        Wire::Rkyv,
        &["limits.send_per_s=0"],
    );
    let people: [u64; SENDERS + 1] = stage.people();
    let [listener, senders @ ..] = people;
    let group = stage.group(listener, &senders);
    let mut clients: Vec<Client> = senders.iter().map(|user| stage.live(*user, "phone")).collect();
    let mut at_listener = stage.login(listener, "phone");

    let held = std::thread::scope(|scope| {
        let hearing = scope.spawn(|| hear(&mut at_listener, &group, SENDERS * EACH));
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(sender, client)| {
                let group = &group;
                scope.spawn(move || {
                    let acks = client.say_all(group, (0..EACH).map(|n| format!("{sender}/{n}")));
                    acks.iter().map(|ack| ack["seq"].as_u64().expect("a seq")).collect::<Vec<_>>()
                })
            })
            .collect();
        let acked: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join().expect("acked")).collect();
        let held = hearing.join().expect("heard");
        for (sender, seqs) in acked.iter().enumerate() {
            assert!(seqs.is_sorted(), "sender {sender} kept its order");
            for (n, seq) in seqs.iter().enumerate() {
                assert_eq!(
                    held.get(seq),
                    Some(&format!("{sender}/{n}")),
                    "seq {seq} is what it was acked for"
                );
            }
        }
        held
    });
    let seqs: Vec<u64> = held.keys().copied().collect();
    assert_eq!(seqs, (2..2 + (SENDERS * EACH) as u64).collect::<Vec<_>>(), "every seq once");
}

/// Hears `count` messages: a listener that falls behind syncs, as `behind` asks it to.
fn hear(client: &mut Client, group: &str, count: usize) -> BTreeMap<u64, String> {
    let mut held = BTreeMap::new();
    let mut cursor = 0;
    while held.len() < count {
        let frame = client.frame();
        let sync = |from_seq: u64| json!({"type": "sync", "conversation_id": group, "from_seq": from_seq, "id": "more"});
        if frame["type"] == "behind" || frame["type"] == "reset" {
            client.send(&sync(cursor + 1));
        }
        for event in carillon_tests::client::Event::all(&frame) {
            assert_eq!(event.seq, cursor + 1, "{event:?}");
            cursor = event.seq;
            if event.seq > 1 {
                held.insert(event.seq, event.content);
            }
        }
        if frame["id"] == "more" && frame["has_more"] == Value::Bool(true) {
            client.send(&sync(cursor + 1));
        }
    }
    held
}
