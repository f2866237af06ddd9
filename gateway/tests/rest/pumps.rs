//! Long polling by hand under virtual time, without a router.

use std::collections::BTreeMap;

use carillon_gateway::pump::{IDLE_MS_MAX, Input, Output, Pumps};
use carillon_gateway::rest::{Request, Response, Ticket};
use carillon_gateway::settings::Settings;
use carillon_gateway::shard::Shard;
use carillon_gateway::turn;
use carillon_node::config::Config;
use carillon_protocol::time::{Time, WallMs};
use serde_json::{Value, json};

use crate::rig::{WALL, keys, request};

struct Rig {
    pumps: Pumps,
    now: Time,
    responses: BTreeMap<Ticket, Response>,
    tickets_count: u64,
}

impl Rig {
    fn new() -> Rig {
        let config = Config::builder()
            .defaults("node", carillon_node::DEFAULTS)
            .unwrap()
            .defaults("gateway", carillon_gateway::DEFAULTS)
            .unwrap();
        let settings = Settings::from_config(&config.build().unwrap()).unwrap();
        let shard = Shard::new(settings.clone(), keys(), true, 1, 1, 9);
        Rig {
            pumps: Pumps::new(&settings, true, keys(), shard, 1, &[7; 32]),
            now: Time(1_000_000_000),
            responses: BTreeMap::new(),
            tickets_count: 0,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.pumps.handle(self.now, WallMs(WALL), input);
        while let Some(output) = self.pumps.poll_output() {
            if let Output::Response { ticket, response } = output {
                assert!(self.responses.insert(ticket, response).is_none(), "{ticket:?} was answered twice");
            }
        }
    }

    fn send(&mut self, request: Request) -> Ticket {
        self.tickets_count += 1;
        let ticket = Ticket(self.tickets_count);
        self.handle(Input::Request { ticket, request });
        ticket
    }

    fn ask(&mut self, method: &str, target: &str, body: &str) -> Ticket {
        self.send(request(1, method, target, body))
    }

    /// Status and body of what is answered at once.
    fn told(&mut self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let ticket = self.ask(method, target, body);
        let response = self.responses.remove(&ticket).expect("an answer at once");
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
    }

    /// The path of a new session.
    fn begin(&mut self) -> String {
        let (status, begun) = self.told("POST", "/v1/poll", "");
        assert_eq!(status, 201, "{begun}");
        format!("/v1/poll/{}", begun["poll_id"].as_str().expect("a name"))
    }

    fn pass_ms(&mut self, millis: u64) {
        self.now = self.now.after_ms(millis);
        self.handle(Input::Turn(turn::Input::Tick));
    }
}

/// TR2: a session that was closed takes nothing more, whatever of it is still to be fetched; that comes first, then why it
/// was closed.
#[test]
fn tr2_a_closed_session_takes_no_posts() {
    let mut rig = Rig::new();
    let path = rig.begin();
    let (status, hello) = rig.told("GET", &path, "");
    assert_eq!((status, &hello["frames"][0]["type"]), (200, &json!("hello")), "{hello}");
    // Nobody identified in time; the hello is not acknowledged.
    rig.pass_ms(10_000);
    rig.pass_ms(2_000);
    for frames in [r#"{"frames":[]}"#, r#"{"frames":[{"type":"heartbeat"}]}"#] {
        let (status, told) = rig.told("POST", &path, frames);
        assert_eq!((status, &told["error"]["code"]), (410, &json!("gone")), "{frames}");
    }
    assert_eq!(rig.told("GET", &path, ""), (200, hello.clone()), "repeated until it is acknowledged");
    let next = hello["next"].as_str().expect("a next");
    let (status, told) = rig.told("GET", &format!("{path}?ack={next}"), "");
    let message = told["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 410 && message.contains("4003"), "{status} {told}");
}

/// TR2: posted frames are answered when they are taken, `bye` included; what stands behind it is not.
#[test]
fn tr2_posts_are_answered_when_they_are_taken() {
    let mut rig = Rig::new();
    let path = rig.begin();
    assert_eq!(rig.told("POST", &path, r#"{"frames":[]}"#).0, 204);
    assert_eq!(rig.told("POST", &path, r#"{"frames":[{"type":"heartbeat"},{"type":"heartbeat"}]}"#).0, 204);
    assert_eq!(rig.told("POST", &path, r#"{"frames":[{"type":"bye"}]}"#).0, 204);
    assert_eq!(rig.told("POST", &path, r#"{"frames":[{"type":"heartbeat"}]}"#).0, 410);
    let other = rig.begin();
    assert_eq!(rig.told("POST", &other, r#"{"frames":[{"type":"bye"},{"type":"heartbeat"}]}"#).0, 410);
}

/// TR2, G13: a session ends 60 s after its last request, also when a post of it still waits.
#[test]
fn tr2_a_session_ends_when_it_is_not_asked() {
    let mut rig = Rig::new();
    let path = rig.begin();
    // Its client says more and more and fetches no answer.
    let frame = json!({"type": "heartbeat", "id": "x".repeat(64)});
    let frames = json!({"frames": vec![frame; 600]}).to_string();
    let waiting = rig.ask("POST", &path, &frames);
    assert!(!rig.responses.contains_key(&waiting));
    assert_eq!(rig.pumps.counts(), (1, 0));
    rig.pass_ms(IDLE_MS_MAX);
    assert_eq!(rig.pumps.counts(), (0, 0));
    assert_eq!(rig.responses.remove(&waiting).expect("an answer").status, 410);
    assert_eq!(rig.told("GET", &path, "").0, 410);
}

/// TR2, security: a session that began with a token is asked with one of the same user; to everybody else it is not there,
/// in the same words.
#[test]
fn tr2_a_session_is_its_holders() {
    let mut rig = Rig::new();
    let path = rig.begin();
    let told = |rig: &mut Rig, user: u64, method: &str, path: &str| {
        let ticket = rig.send(request(user, method, path, r#"{"frames":[{"type":"bye"}]}"#));
        let response = rig.responses.remove(&ticket).expect("an answer at once");
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        (response.status, body["error"]["code"].clone(), body["error"]["message"].clone())
    };
    for method in ["GET", "POST", "DELETE"] {
        for user in [0, 2] {
            let absent = told(&mut rig, user, method, "/v1/poll/nobody-knows-it");
            assert_eq!((absent.0, &absent.1), (410, &json!("gone")), "{method}");
            assert_eq!(told(&mut rig, user, method, &path), absent, "{method} by {user}");
        }
    }
    assert_eq!(rig.pumps.counts(), (1, 0));
    assert_eq!(told(&mut rig, 1, "DELETE", &path).0, 204);

    // With the token in `identify` there is nothing to hold it against.
    let ticket = rig.send(request(0, "POST", "/v1/poll", ""));
    let begun: Value = serde_json::from_slice(&rig.responses.remove(&ticket).expect("begun").body).unwrap();
    let path = format!("/v1/poll/{}", begun["poll_id"].as_str().expect("a name"));
    assert_eq!(told(&mut rig, 0, "GET", &path).0, 200);
}
