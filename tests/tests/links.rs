//! What becomes of people when the link between a gateway and its router is cut, or a gateway stands still: with real
//! processes.

#![expect(clippy::disallowed_methods, reason = "tests wait for deadlines")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carillon_tests::cable::{Cable, Way};
use carillon_tests::client::{Client, Event, Transport};
use carillon_tests::http::request;
use carillon_tests::server::{Deployment, PATIENCE, Server};
use carillon_tests::stage::{create, introduce};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

fn live(server: &Server, address: SocketAddr, user: u64) -> Client {
    let token = server.token(user, "phone");
    let mut client = Client::connect(address, Transport::Json, Some(&token)).expect("connected");
    client.send(&json!({"type": "identify", "cursors": {}}));
    client.until_type("caught_up");
    client
}

fn pair(server: &Server) -> String {
    introduce(server, 1);
    introduce(server, 2);
    create(server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}))
}

/// Waits until as many lanes of a gateway are open as `is_so` wants: links are measured twice a second.
fn until_lanes(admin: SocketAddr, what: &str, is_so: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = request(admin, "GET", "/metrics", None, &[], None).text;
        let open =
            page.lines().find_map(|line| line.strip_prefix("carillon_link_lanes_open{peer=\"router\"} "));
        if open.and_then(|open| open.parse().ok()).is_some_and(&is_so) {
            return;
        }
        assert!(Instant::now() < deadline, "{what} was never measured, but {open:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn say(client: &mut Client, conversation: &str, name: &str) {
    client
        .send(&json!({"type": "send_message", "id": name, "conversation_id": conversation, "content": name,
        "client_msg_id": name}));
}

/// Reads until all of these are acknowledged, and says again what may be. Their seqs.
fn until_acked(client: &mut Client, conversation: &str, names: &[String]) -> BTreeMap<String, u64> {
    let mut acked = BTreeMap::new();
    while names.iter().any(|name| !acked.contains_key(name)) {
        let frame = client.frame();
        let name = frame["id"].as_str().map(str::to_owned);
        match (frame["type"].as_str(), name) {
            (Some("delivery_ack"), Some(name)) if frame["status"] == "sent" => {
                let seq = frame["seq"].as_u64().expect("a seq");
                assert!(acked.insert(name, seq).is_none_or(|before| before == seq), "{frame}");
            }
            (Some("error"), Some(name)) => {
                assert_eq!(frame["error"]["retryable"], true, "{frame}");
                say(client, conversation, &name);
            }
            _ => {}
        }
    }
    acked
}

/// Reads, and asks for what it is behind with, until it has all events from the second (the conversation was there when it
/// came) up to `head`: each once, in order, but for pages, which may show again what came live.
fn until_head(client: &mut Client, conversation: &str, head: u64) -> BTreeMap<u64, String> {
    let mut held: BTreeMap<u64, String> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while (held.len() as u64) < head - 1 {
        let Some(frame) = client.next_before(deadline) else {
            panic!("{:?} is all that came; closed: {:?}", held.keys(), client.closed)
        };
        let is_page = frame["type"] == "sync_batch";
        if frame["type"] == "behind" {
            let from_seq = held.keys().next_back().map_or(2, |last| last + 1);
            client.send(&json!({"type": "sync", "id": "more", "conversation_id": conversation,
                "from_seq": from_seq, "limit": 200}));
        }
        for event in Event::all(&frame).into_iter().filter(|event| event.conversation == conversation) {
            if is_page && held.contains_key(&event.seq) {
                continue;
            }
            assert!(held.keys().all(|seq| *seq < event.seq), "{} came late or twice", event.seq);
            held.insert(event.seq, event.content);
        }
    }
    held
}

/// NF5, F13, G2, G9: the link is cut in the middle of a conversation, noticed, and mended. Everything that was said is
/// acknowledged in the end, stands in the history once and in order, and whoever listened has all of it.
fn a_cut_link_loses_and_doubles_nothing(ways: &[Way]) {
    // What the router says of its own address leads nowhere, or a gateway that has lost it would find it beside the cable.
    let settings = ["limits.send_per_s=0", "router.advertise=127.0.0.1:9"];
    let server = Server::start(BINARY, Deployment::Tiers, &settings);
    let cable = Cable::to(server.router());
    let (gateway, address) = server.gateway_before(cable.address());
    let conversation = pair(&server);
    let (mut alice, mut bob) = (live(&server, address, 1), live(&server, address, 2));
    let names = |from: usize, to: usize| (from..to).map(|name| name.to_string()).collect::<Vec<_>>();
    alice.say_all(&conversation, names(0, 20));

    until_lanes(gateway.address("admin"), "open lanes", |open| open > 0);
    cable.cut(ways);
    let said = names(20, 50);
    for name in &said {
        say(&mut alice, &conversation, name);
    }
    until_lanes(gateway.address("admin"), "no open lane", |open| open == 0);
    cable.mend();
    let acked = until_acked(&mut alice, &conversation, &said);
    alice.say_all(&conversation, names(50, 60));

    // The first event is the conversation's beginning.
    let head = 61;
    let held = until_head(&mut bob, &conversation, head);
    let contents: Vec<&String> = held.values().collect();
    assert_eq!(contents, names(0, 60).iter().collect::<Vec<_>>(), "each once, as it was said");
    for (name, seq) in &acked {
        assert_eq!(held.get(seq), Some(name));
    }
    let path = format!("/v1/conversations/{conversation}/messages?limit=200");
    let page = request(server.address(), "GET", &path, Some(&server.token(2, "rest")), &[], None);
    let history = page.body["messages"].as_array().expect("messages");
    let history: BTreeSet<u64> = history.iter().filter_map(|message| message["seq"].as_u64()).collect();
    assert!(held.keys().all(|seq| history.contains(seq)), "{history:?}");
}

/// NF5, F13: both ways.
#[test]
fn nf5_a_link_cut_both_ways_loses_and_doubles_nothing() {
    a_cut_link_loses_and_doubles_nothing(&[Way::Up, Way::Down]);
}

/// NF5, F13: commands arrive, and their answers do not.
#[test]
fn nf5_a_link_without_answers_loses_and_doubles_nothing() {
    a_cut_link_loses_and_doubles_nothing(&[Way::Down]);
}

/// NF5, F13: nothing arrives, though the router is heard.
#[test]
fn nf5_a_link_without_commands_loses_and_doubles_nothing() {
    a_cut_link_loses_and_doubles_nothing(&[Way::Up]);
}

/// SV9, G13: the gateway of everybody who is to hear stands still, and the sender is acknowledged all the while, at another
/// one. When it goes on, they hear everything.
#[test]
fn sv9_acks_do_not_wait_for_a_gateway_that_stands_still() {
    const MESSAGES: usize = 300;
    let server = Server::start(BINARY, Deployment::Tiers, &["limits.send_per_s=0"]);
    let (stuck, address) = server.another_gateway();
    let conversation = pair(&server);
    let (mut alice, mut bob) = (live(&server, server.address(), 1), live(&server, address, 2));
    let pid = i32::try_from(stuck.pid()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::STOP).expect("stopped");
    let began = Instant::now();
    let acks = alice.say_all(&conversation, (0..MESSAGES).map(|name| name.to_string()));
    println!("{MESSAGES} acks while the other gateway stood still, in {} ms", began.elapsed().as_millis());
    let seqs: Vec<Option<u64>> = acks.iter().map(|ack| ack["seq"].as_u64()).collect();
    assert_eq!(seqs, (2..=1 + MESSAGES as u64).map(Some).collect::<Vec<_>>());
    kill_process(pid, Signal::CONT).expect("going on");
    let held = until_head(&mut bob, &conversation, 1 + MESSAGES as u64);
    let contents: Vec<Value> = held.values().map(|content| json!(content)).collect();
    assert_eq!(contents, (0..MESSAGES).map(|name| json!(name.to_string())).collect::<Vec<_>>());
}
