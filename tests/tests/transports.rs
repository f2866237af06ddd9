//! Long polling and server-sent events, as a client without WebSockets sees them: what is different about the pumps. What
//! is the same is in the scenarios, which play over all of them (TR4).

#![expect(clippy::disallowed_methods, reason = "tests open sockets and wait for deadlines")]

use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use carillon_tests::client::Wire;
use carillon_tests::http::{Answer, request};
use carillon_tests::secure::Stream;
use carillon_tests::server::Deployment;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};

fn stage() -> Stage {
    Stage::shared(
        env!("CARGO_BIN_EXE_carillon-under-test"),
        Deployment::OneProcess,
        Wire::Json,
        &["limits.send_per_s=0"],
    )
}

/// One user's requests.
struct Asker<'a> {
    stage: &'a Stage,
    token: String,
}

impl Asker<'_> {
    fn new(stage: &Stage, user: u64) -> Asker<'_> {
        Asker { stage, token: stage.server().token(user, "browser") }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        request(self.stage.server().address(), method, path, Some(&self.token), &[], body)
    }

    /// Begins a poll session that has caught up; its path and the last `next`.
    fn poll(&self) -> (String, String) {
        let begun = self.ask("POST", "/v1/poll", None);
        assert_eq!(begun.status, 201, "{begun:?}");
        let path = format!("/v1/poll/{}", begun.body["poll_id"].as_str().unwrap());
        let posted = self.ask("POST", &path, Some(&json!({"frames": [{"type": "identify"}]})));
        assert_eq!(posted.status, 204, "{posted:?}");
        let mut next = String::new();
        loop {
            let answer = self.fetch(&path, &next, 5_000);
            next = answer.body["next"].as_str().unwrap().to_owned();
            let frames = answer.body["frames"].as_array().unwrap();
            if frames.iter().any(|frame| frame["type"] == "caught_up") {
                return (path, next);
            }
        }
    }

    fn fetch(&self, path: &str, ack: &str, timeout_ms: u64) -> Answer {
        let answer = self.ask("GET", &format!("{path}?ack={ack}&timeout_ms={timeout_ms}"), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }
}

/// TR2, TR3: held until there is something or the time is over; an answer that is not acknowledged is given again.
#[test]
fn a_poll_is_held_answered_and_repeated() {
    let stage = stage();
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let asker = Asker::new(&stage, bob);
    let (path, next) = asker.poll();

    let quiet = asker.fetch(&path, &next, 50);
    assert_eq!(quiet.body["frames"], json!([]), "{quiet:?}");
    let next = quiet.body["next"].as_str().unwrap().to_owned();

    let mut at_alice = stage.live(alice, "phone");
    let answer = std::thread::scope(|scope| {
        let fetch = scope.spawn(|| (asker.fetch(&path, &next, 40_000), Instant::now()));
        at_alice.say(&conversation, "wake up", "a-1");
        let said = Instant::now();
        let (answer, answered) = fetch.join().expect("an answer");
        assert!(answered.saturating_duration_since(said) < Duration::from_secs(20), "not at its timeout");
        answer
    });
    assert_eq!(answer.body["frames"][0]["message"]["content"], "wake up", "{answer:?}");
    // The answer got lost: asking as before brings it again, and nothing new takes its place.
    at_alice.say(&conversation, "and again", "a-2");
    let repeated = asker.fetch(&path, &next, 50);
    assert_eq!(repeated.body, answer.body);
    let acked = answer.body["next"].as_str().unwrap();
    let second = asker.fetch(&path, acked, 5_000);
    assert_eq!(second.body["frames"][0]["message"]["content"], "and again", "{second:?}");
    let stale = asker.ask("GET", &format!("{path}?ack={next}&timeout_ms=50"), None);
    assert_eq!((stale.status, &stale.body["error"]["field"]), (400, &json!("ack")), "{stale:?}");
}

/// TR2: what ends a poll session, and what it says then.
#[test]
fn a_poll_session_ends() {
    let stage = stage();
    let [alice, eve] = stage.people();
    let asker = Asker::new(&stage, alice);
    let (path, next) = asker.poll();
    let stranger = Asker::new(&stage, eve);
    assert_eq!(stranger.ask("GET", &path, None).status, 410, "nobody else's token opens it");
    // A newer session of the same device takes over.
    let (newer, _) = asker.poll();
    let gone = asker.ask("GET", &format!("{path}?ack={next}&timeout_ms=5000"), None);
    assert_eq!((gone.status, &gone.body["error"]["code"]), (410, &json!("gone")), "{gone:?}");
    assert!(gone.text.contains("4507"), "{gone:?}");
    assert_eq!(asker.ask("DELETE", &newer, None).status, 204);
    assert_eq!(asker.ask("POST", &newer, Some(&json!({"frames": []}))).status, 410);
    for (body, status) in [(json!({"frames": 1}), 400), (json!([]), 400)] {
        let (path, _) = asker.poll();
        assert_eq!(asker.ask("POST", &path, Some(&body)).status, status, "{body}");
    }
    // A wrong frame is answered in its place, as on a WebSocket.
    let (path, next) = asker.poll();
    asker.ask("POST", &path, Some(&json!({"frames": [{"type": "no_such"}, {"type": "heartbeat", "id": 1}]})));
    let answer = asker.fetch(&path, &next, 5_000);
    assert_eq!(answer.body["frames"][0]["error"]["code"], "bad_request", "{answer:?}");
    assert_eq!(answer.body["frames"][1], json!({"type": "heartbeat_ack", "id": 1}));
    let bad = request(stage.server().address(), "POST", "/v1/poll", Some("nonsense"), &[], None);
    assert_eq!(bad.status, 401, "{bad:?}");
}

/// Reads a stream of server-sent events: (id, data).
struct Events(BufReader<Stream>);

impl Events {
    fn open(stage: &Stage, path: &str, headers: &str) -> Result<Events, String> {
        let address = stage.server().address();
        let mut stream = Stream::connect(address, Duration::from_secs(20));
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        let status = events.line();
        if !status.starts_with("HTTP/1.1 200") {
            return Err(status);
        }
        while !events.line().is_empty() {}
        Ok(events)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The next event that is a frame of this type, and the last id up to it. (Chunk headers are lines of their own.)
    fn until(&mut self, kind: &str) -> (String, Value) {
        let mut id = String::new();
        loop {
            let line = self.line();
            if let Some(given) = line.strip_prefix("id: ") {
                given.clone_into(&mut id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let frame: Value = serde_json::from_str(data).expect("JSON");
                if frame["type"] == kind {
                    return (id, frame);
                }
            }
        }
    }
}

/// TR5: a stream resumes by its id, which wins over the stored cursors; a path is good once.
#[test]
fn a_stream_resumes_by_its_id() {
    let stage = stage();
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let asker = Asker::new(&stage, bob);
    let authorization = format!("Authorization: Bearer {}\r\n", asker.token);
    let mut events = Events::open(&stage, "/v1/events", &authorization).expect("a stream");
    events.until("hello");
    events.until("ready");
    events.until("caught_up");
    at_alice.say(&conversation, "one", "a-1");
    let (id, frame) = events.until("new_message");
    assert_eq!(frame["message"]["content"], "one");
    assert!(!id.is_empty());
    at_alice.say(&conversation, "two", "a-2");
    events.until("new_message");
    drop(events);
    at_alice.say(&conversation, "three", "a-3");

    let headers = format!("{authorization}Last-Event-ID: {id}\r\n");
    let mut events = Events::open(&stage, "/v1/events", &headers).expect("a stream");
    let (_, batch) = events.until("sync_batch");
    let seqs: Vec<u64> =
        batch["events"].as_array().unwrap().iter().map(|e| e["message"]["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [3, 4], "from behind the id: {batch}");

    let ticket = asker.ask("POST", "/v1/events", None);
    assert_eq!(ticket.status, 201, "{ticket:?}");
    let path = ticket.body["path"].as_str().unwrap();
    let mut browser = Events::open(&stage, path, "").expect("a stream");
    browser.until("caught_up");
    let refused = Events::open(&stage, path, "").err().expect("used");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let refused = Events::open(&stage, "/v1/events", "").err().expect("no token");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let headers = format!("{authorization}Last-Event-ID: nonsense\r\n");
    let refused = Events::open(&stage, "/v1/events", &headers).err().expect("no id of ours");
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}
