//! SIGKILL at random moments under load: nothing that was acknowledged is lost, doubled, reordered or skipped (G1, G2,
//! G3, G6, G7, F1, F2, F3). `CARILLON_KILLS` says how many, `CARILLON_SEED` repeats a schedule; `kill-loop` does a
//! thousand.

#![expect(clippy::disallowed_methods, reason = "how many kills is said in the environment")]

use std::collections::BTreeSet;

use carillon_tests::client::{Client, Wire};
use carillon_tests::killing::Killing;
use carillon_tests::server::{Deployment, Server};
use carillon_tests::stage::{create, introduce};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn kill(deployment: Deployment, wire: Wire) {
    let kills = u32::try_from(number("CARILLON_KILLS", 20)).unwrap_or(u32::MAX);
    // The moments differ from run to run; a failure names its seed.
    let seed = number("CARILLON_SEED", u64::from(std::process::id()));
    let killing = Killing { binary: BINARY.to_owned(), deployment, wire, kills, seed };
    match killing.run() {
        Ok(toll) => {
            println!("{deployment:?} {wire:?}, seed {seed}: {toll:?}");
            assert_eq!(toll.kills, kills);
            assert!(toll.acked > 0 && toll.reconnects > 0, "{toll:?}");
        }
        Err(found) => panic!(
            "CARILLON_SEED={seed} CARILLON_KILLS={kills} cargo test -p carillon-tests --test kill\n{found}"
        ),
    }
}

/// T1, NF3, G1: whatever was acknowledged as sent before a kill is there after it.
#[test]
fn one_process_is_killed_under_load() {
    kill(Deployment::OneProcess, Wire::Rkyv);
}

#[test]
fn gateway_and_router_are_killed_apart_under_load() {
    kill(Deployment::Tiers, Wire::Json);
}

/// F1, F3, G2: everything unanswered at the kill is sent again under its id, and stands once, in its order; and asked
/// once more, it is the same seq and `duplicate`.
fn unanswered_sends_are_settled_by_a_retry(deployment: Deployment, wire: Wire) {
    const SENDS: usize = 40;
    let mut server = Server::start(BINARY, deployment, &["limits.send_per_s=0"]);
    let (alice, bob) = (1, 2);
    introduce(&server, alice);
    introduce(&server, bob);
    let conversation =
        create(&server, alice, &json!({"type": "one_to_one", "member_ids": [bob.to_string()]}));
    let message = |n: usize| {
        json!({"type": "send_message", "conversation_id": conversation, "content": format!("number {n}"),
            "client_msg_id": format!("id-{n}"), "id": n})
    };
    let mut duplicates = 0;
    for answered in [0, 1, 5] {
        let mut at_alice = Client::login(&server, wire, alice, "phone");
        at_alice.until_type("caught_up");
        for n in 0..SENDS {
            at_alice.send(&message(n));
        }
        let mut before: Vec<Value> = Vec::new();
        while before.len() < answered {
            before.push(at_alice.until_type("delivery_ack"));
        }
        server.crash_and_restart();
        let mut at_alice = Client::login(&server, wire, alice, "phone");
        at_alice.until_type("caught_up");
        let mut ack = |n: usize| {
            at_alice.send(&message(n));
            at_alice.until("ack", |frame| frame["type"] == "delivery_ack" && frame["id"] == n)
        };
        let first: Vec<Value> = (0..SENDS).map(&mut ack).collect();
        duplicates += first.iter().filter(|ack| ack["duplicate"] == true).count();
        let seqs: BTreeSet<u64> = first.iter().filter_map(|ack| ack["seq"].as_u64()).collect();
        assert_eq!(seqs, (2..2 + SENDS as u64).collect(), "dense, each once");
        for before in &before {
            let n = usize::try_from(before["id"].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
            assert_eq!((&first[n]["seq"], &first[n]["message_id"]), (&before["seq"], &before["message_id"]));
            assert_eq!(first[n]["duplicate"], true, "{before}");
        }
        for (n, first) in first.iter().enumerate() {
            let again = ack(n);
            assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
        }
    }
    assert!(duplicates >= 2 * SENDS, "the second and third round repeat the first");
    let mut at_bob = Client::login(&server, wire, bob, "phone");
    let told = at_bob.events(&conversation, SENDS + 1);
    assert!(at_bob.until_type("caught_up").is_object() && at_bob.is_quiet(), "each once");
    assert_eq!(
        told.iter().map(|event| event.seq).collect::<Vec<_>>(),
        (1..=SENDS as u64 + 1).collect::<Vec<_>>()
    );
}

#[test]
fn unanswered_sends_are_settled_by_a_retry_in_one_process() {
    unanswered_sends_are_settled_by_a_retry(Deployment::OneProcess, Wire::Json);
}

#[test]
fn unanswered_sends_are_settled_by_a_retry_in_tiers() {
    unanswered_sends_are_settled_by_a_retry(Deployment::Tiers, Wire::Rkyv);
}

/// F3: a client that stays connected to a gateway does not notice that the router was killed, except by the time.
#[test]
fn a_killed_router_is_not_noticed_by_connected_clients() {
    let mut server = Server::start(BINARY, Deployment::Tiers, &["limits.send_per_s=0"]);
    let (alice, bob) = (1, 2);
    introduce(&server, alice);
    introduce(&server, bob);
    let conversation =
        create(&server, alice, &json!({"type": "one_to_one", "member_ids": [bob.to_string()]}));
    let mut clients = [alice, bob].map(|user| Client::login(&server, Wire::Json, user, "phone"));
    for client in &mut clients {
        client.until_type("caught_up");
    }
    let [at_alice, at_bob] = &mut clients;
    let mut cursor = 1;
    for round in 0..3 {
        for n in 0..10 {
            at_alice.send(&json!({"type": "send_message", "conversation_id": conversation,
                "content": format!("{round}/{n}"), "client_msg_id": format!("{round}/{n}")}));
        }
        server.crash_and_restart_router();
        for n in 0..10 {
            let ack = at_alice.until_type("delivery_ack");
            assert_eq!(ack["seq"], cursor + n + 1, "{ack}");
            assert_eq!(ack["client_msg_id"], format!("{round}/{n}"));
        }
        for event in at_bob.events(&conversation, 10) {
            cursor += 1;
            assert_eq!(event.seq, cursor, "{event:?}");
        }
    }
    assert!(at_alice.is_quiet() && at_bob.is_quiet());
}
