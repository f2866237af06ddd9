//! Two gateways before one router, as processes: what holds across them, and what becomes of the clients of one that is
//! killed in the middle of their traffic.

#![expect(clippy::disallowed_methods, reason = "tests open sockets and wait for deadlines")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carillon_tests::client::{Client, Event, Transport};
use carillon_tests::http::request;
use carillon_tests::server::{Deployment, PATIENCE, Process, Server};
use carillon_tests::stage::{create, introduce};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

/// A server with two gateways: the addresses, and the second one's process.
fn two_gateways(settings: &[&str]) -> (Server, [SocketAddr; 2], Process) {
    let server = Server::start(BINARY, Deployment::Tiers, settings);
    let (second, address) = server.another_gateway();
    let addresses = [server.address(), address];
    (server, addresses, second)
}

/// Connects and says who it is, with these cursors.
fn identified(server: &Server, address: SocketAddr, user: u64, device: &str, cursors: &Value) -> Client {
    let token = server.token(user, device);
    let mut client = Client::connect(address, Transport::Json, Some(&token)).expect("connected");
    client.send(&json!({"type": "identify", "cursors": cursors}));
    client
}

fn live(server: &Server, address: SocketAddr, user: u64, device: &str) -> Client {
    let mut client = identified(server, address, user, device, &json!({}));
    client.until_type("caught_up");
    client
}

fn pair(server: &Server, one: u64, other: u64) -> String {
    introduce(server, one);
    introduce(server, other);
    create(server, one, &json!({"type": "one_to_one", "member_ids": [other.to_string()]}))
}

/// One client of the failover: what it holds, and what it wants to say and knows to be said.
struct Member {
    user: u64,
    cursor: u64,
    early: BTreeSet<u64>,
    /// The sender and the content of every seq.
    held: BTreeMap<u64, String>,
    acked: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Member {
    fn hear(&mut self, group: &str, frame: &Value) {
        for event in Event::all(frame).into_iter().filter(|event| event.conversation == group) {
            if frame["type"] == "sync_batch" && self.early.contains(&event.seq) {
                continue;
            }
            if event.seq != self.cursor + 1 {
                self.wrong.push(format!("{} came at {}", event.seq, self.cursor));
            }
            self.cursor = self.cursor.max(event.seq);
            self.held.insert(event.seq, event.content);
            self.advance();
        }
        match frame["type"].as_str() {
            Some("delivery_ack") if frame["status"] == "sent" => {
                let seq = frame["seq"].as_u64().expect("a seq");
                let name = frame["client_msg_id"].as_str().expect("its name").to_owned();
                if let Some(before) = self.acked.insert(name.clone(), seq).filter(|before| *before != seq) {
                    self.wrong.push(format!("{name} is {before} and {seq}"));
                }
                // The event of a repeated send comes as well.
                if frame.get("duplicate").is_none() {
                    self.held.insert(seq, name);
                    self.early.insert(seq);
                    self.advance();
                }
            }
            Some("reset" | "behind" | "error") => self.wrong.push(frame.to_string()),
            _ => {}
        }
    }

    fn advance(&mut self) {
        while self.early.remove(&(self.cursor + 1)) {
            self.cursor += 1;
        }
    }

    /// Says what is not acknowledged, a few at a time, until all is acknowledged or the connection ends. `true`: all is.
    fn talk(&mut self, client: &mut Client, group: &str, names: &[String]) -> bool {
        const AT_ONCE: usize = 8;
        let mut said = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let open: Vec<&String> =
                names.iter().filter(|name| !self.acked.contains_key(*name)).take(AT_ONCE).collect();
            if open.is_empty() {
                return true;
            }
            for name in open {
                if said.insert(name) {
                    client.send(&json!({"type": "send_message", "conversation_id": group, "content": name,
                        "client_msg_id": name}));
                }
            }
            match client.next_before(deadline) {
                Some(frame) => self.hear(group, &frame),
                None => return false,
            }
        }
        false
    }
}

/// FU2, NF4, F1, F2, G6: a gateway is killed in the middle of everybody's traffic. They come back to the other one by
/// their cursors and say again what was not acknowledged: nothing is lost, doubled or reordered.
#[test]
fn a_killed_gateways_clients_go_on_at_the_other() {
    const MEMBERS: u64 = 24;
    const EACH: usize = 40;
    let (mut server, [first, second], _process) = two_gateways(&["limits.send_per_s=0"]);
    for user in 1..=MEMBERS {
        introduce(&server, user);
    }
    let others: Vec<String> = (2..=MEMBERS).map(|user| user.to_string()).collect();
    let group = create(&server, 1, &json!({"type": "group", "group_name": "all", "member_ids": others}));
    let names = |user: u64| (0..EACH).map(|n| format!("{user}/{n}")).collect::<Vec<_>>();

    let (acked, acks) = crossbeam_channel::unbounded();
    let mut gateway = server.gateway.take().expect("a gateway");
    let tokens: Vec<String> = (1..=MEMBERS).map(|user| server.token(user, "phone")).collect();
    let start = |address: SocketAddr, user: u64, cursors: &Value| {
        let token = &tokens[user as usize - 1];
        let mut client = Client::connect(address, Transport::Json, Some(token)).expect("connected");
        client.send(&json!({"type": "identify", "cursors": cursors}));
        client
    };
    let (members, killed_at, recovered_at) = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=MEMBERS)
            .map(|user| {
                let (group, acked, start) = (&group, acked.clone(), &start);
                scope.spawn(move || {
                    let mut member = Member {
                        user,
                        cursor: 0,
                        early: BTreeSet::new(),
                        held: BTreeMap::new(),
                        acked: BTreeMap::new(),
                        wrong: Vec::new(),
                    };
                    let all = names(user);
                    let mut client = start(first, user, &json!({}));
                    let half = member.talk(&mut client, group, &all[..EACH / 2]);
                    let _ = acked.send(());
                    // The rest is said into the crash.
                    let was_done = half && member.talk(&mut client, group, &all);
                    while client.closed.is_none() {
                        // Whoever was done before the crash hears the others until it.
                        match client.next_before(Instant::now() + PATIENCE) {
                            Some(frame) => member.hear(group, &frame),
                            None => break,
                        }
                    }
                    member.early.clear();
                    let mut client = start(second, user, &json!({ group.as_str(): member.cursor }));
                    let is_done = member.talk(&mut client, group, &all);
                    let recovered_at = Instant::now();
                    let head = 1 + MEMBERS * EACH as u64;
                    while member.cursor < head && client.closed.is_none() {
                        let Some(frame) = client.next_before(Instant::now() + PATIENCE) else { break };
                        member.hear(group, &frame);
                    }
                    (member, is_done, was_done, recovered_at)
                })
            })
            .collect();
        // In the middle: some have said half, nobody all of it.
        for _ in 0..MEMBERS / 2 {
            acks.recv_timeout(PATIENCE).expect("traffic");
        }
        let killed_at = Instant::now();
        gateway.kill();
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a member")).collect();
        let recovered_at = ended.iter().map(|(_, _, _, at)| *at).max().unwrap_or(killed_at);
        assert!(ended.iter().all(|(_, is_done, ..)| *is_done), "everything is acknowledged in the end");
        assert!(ended.iter().any(|(_, _, was_done, _)| !was_done), "the crash came into the traffic");
        (ended.into_iter().map(|(member, ..)| member).collect::<Vec<_>>(), killed_at, recovered_at)
    });
    println!(
        "{MEMBERS} clients were back, and all they had to say was acknowledged, {} ms after the kill",
        recovered_at.saturating_duration_since(killed_at).as_millis()
    );
    let expected: BTreeSet<String> = (1..=MEMBERS).flat_map(names).collect();
    let truth = &members[0].held;
    for member in &members {
        assert_eq!(member.wrong, Vec::<String>::new(), "user {}", member.user);
        let seqs: Vec<u64> = member.held.keys().copied().collect();
        assert_eq!(seqs, (1..=1 + MEMBERS * EACH as u64).collect::<Vec<_>>(), "user {}", member.user);
        assert_eq!(&member.held, truth, "everybody holds the same");
        let contents: BTreeSet<String> = member.held.values().skip(1).cloned().collect();
        assert_eq!(contents, expected, "each once");
        for (name, seq) in &member.acked {
            assert_eq!(truth.get(seq), Some(name), "what was acknowledged stands at its seq");
        }
    }
}

/// FU3a, PR1, FR9, WS4, WS5: presence and typing cross gateways; a user with devices at both is one presence.
#[test]
fn presence_and_typing_cross_gateways() {
    let (server, [first, second], mut process) = two_gateways(&["presence.offline_after_ms=300"]);
    let conversation = pair(&server, 1, 2);
    let mut at_alice = live(&server, first, 1, "phone");
    at_alice.send(&json!({"type": "presence_subscribe", "user_ids": ["2"], "id": 1}));
    assert_eq!(at_alice.until_type("ok")["presence"][0]["status"], "offline");
    let mut phone = live(&server, second, 2, "phone");
    let told = at_alice.frame();
    assert_eq!((&told["type"], &told["status"]), (&json!("presence"), &json!("online")), "{told}");
    let mut laptop = live(&server, first, 2, "laptop");
    phone.send(&json!({"type": "typing", "conversation_id": conversation, "state": "start", "id": 2}));
    phone.until_type("ok");
    let told = at_alice.frame();
    assert_eq!((&told["type"], &told["user_id"]), (&json!("typing"), &json!("2")), "{told}");
    // One of the two gateways is gone; the user is still there at the other.
    process.kill();
    phone.until_closed();
    laptop.say(&conversation, "still here", "l-1");
    assert_eq!(at_alice.until_type("new_message")["message"]["content"], "still here");
    laptop.send(&json!({"type": "bye"}));
    laptop.until_closed();
    let told = at_alice.frame();
    assert_eq!((&told["type"], &told["status"]), (&json!("presence"), &json!("offline")), "{told}");
}

/// PR1, F20: a gateway that dies takes its users offline, each told once.
#[test]
fn a_killed_gateways_users_go_offline() {
    let (server, [first, second], mut process) = two_gateways(&["presence.offline_after_ms=300"]);
    let _ = pair(&server, 1, 2);
    let mut at_alice = live(&server, first, 1, "phone");
    let _bob = live(&server, second, 2, "phone");
    at_alice.send(&json!({"type": "presence_subscribe", "user_ids": ["2"], "id": 1}));
    assert_eq!(at_alice.until_type("ok")["presence"][0]["status"], "online");
    process.kill();
    let told = at_alice.frame();
    assert_eq!((&told["type"], &told["status"]), (&json!("presence"), &json!("offline")), "{told}");
    assert!(told["last_seen_at"].is_u64(), "{told}");
    assert!(at_alice.is_quiet());
}

/// RL1, FU4b: what a user may send holds on all gateways together.
#[test]
fn a_users_limit_holds_across_gateways() {
    const BURST: usize = 10;
    let (server, addresses, _process) = two_gateways(&["limits.send_per_s=1", "limits.send_burst=10"]);
    // Others create the conversation, so that the sender's bucket is full.
    let conversation = pair(&server, 2, 1);
    let mut clients = [live(&server, addresses[0], 1, "phone"), live(&server, addresses[1], 1, "laptop")];
    let began = Instant::now();
    let mut refused = 0;
    for n in 0..BURST * 2 {
        let client = &mut clients[n % 2];
        client
            .send(&json!({"type": "send_message", "conversation_id": conversation, "content": "x", "id": n,
            "client_msg_id": format!("{n}")}));
        let answer = client.until("answer", |frame| frame["id"] == n);
        if answer["type"] == "error" {
            assert_eq!(answer["error"]["code"], "rate_limited", "{answer}");
            assert!(answer["error"]["retry_after_ms"].is_u64(), "{answer}");
            refused += 1;
        }
    }
    let regained = usize::try_from(began.elapsed().as_secs()).expect("small") + 1;
    assert!(refused >= BURST - regained.min(BURST), "{refused} of {} refused", BURST * 2);
    assert!(refused > 0 || regained >= BURST, "together they are one user");
}

/// G6: of two connections of one device the one that came later stays, on whichever gateway (4507).
#[test]
fn a_device_is_at_one_gateway_only() {
    let (server, [first, second], _process) = two_gateways(&[]);
    introduce(&server, 1);
    let mut old = live(&server, first, 1, "phone");
    let mut new = live(&server, second, 1, "phone");
    assert_eq!(old.until_closed(), 4507);
    assert!(new.is_quiet());
    let mut newest = live(&server, first, 1, "phone");
    assert_eq!(new.until_closed(), 4507);
    assert!(newest.is_quiet());
}

/// G13: a user's connections are counted on all gateways together (4505).
#[test]
fn a_users_connections_are_counted_across_gateways() {
    const DEVICES_MAX: usize = 32;
    let (server, addresses, _process) = two_gateways(&[]);
    introduce(&server, 1);
    let mut clients: Vec<Client> = (0..DEVICES_MAX)
        .map(|device| live(&server, addresses[device % 2], 1, &format!("device-{device}")))
        .collect();
    let mut last = identified(&server, addresses[0], 1, "one-too-many", &json!({}));
    assert_eq!(last.until_closed(), 4505);
    assert!(clients.iter_mut().all(Client::is_quiet), "nobody else notices");
    // Room again.
    let gone = clients.pop().expect("some");
    gone.cut();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut again = identified(&server, addresses[0], 1, "one-too-many", &json!({}));
        if (0..3).any(|_| again.next_before(deadline).is_some_and(|frame| frame["type"] == "ready")) {
            break;
        }
        assert!(Instant::now() < deadline, "no room");
    }
}

/// G10, AP1: what was sent at one gateway is read at the other at once.
#[test]
fn what_one_gateway_acknowledged_the_other_shows() {
    let (server, addresses, _process) = two_gateways(&["limits.send_per_s=0"]);
    let conversation = pair(&server, 1, 2);
    let mut at_alice = live(&server, addresses[0], 1, "phone");
    let token = server.token(2, "rest");
    let path = format!("/v1/conversations/{conversation}/messages?limit=1");
    for n in 0..20 {
        let ack = at_alice.say(&conversation, &format!("{n}"), &format!("a-{n}"));
        let page = request(addresses[1], "GET", &path, Some(&token), &[], None);
        assert_eq!(page.body["messages"][0]["seq"], ack["seq"], "{page:?}");
    }
}
