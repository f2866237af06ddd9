//! Tokens of an identity provider at the running server: who is let in by which key, by every door, while keys change; and
//! what ends a connection that was let in. The whole list of what is refused is in `node/tests/tokens/`.

#![expect(clippy::disallowed_methods, reason = "tests write keys, open sockets and wait for deadlines")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carillon_tests::client::{Client, Transport};
use carillon_tests::http::request;
use carillon_tests::issuer::{Issuer, claims, forge, hs256, publish};
use carillon_tests::raw::{Raw, UPGRADE};
use carillon_tests::server::{Deployment, PATIENCE, Server, command};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");
const TRANSPORTS: [Transport; 4] = [Transport::Json, Transport::Rkyv, Transport::Poll, Transport::Events];

/// A server that checks tokens with a provider's keys.
struct House {
    server: Server,
    keys: PathBuf,
    _directory: tempfile::TempDir,
}

impl House {
    fn new(keys: &[&Issuer], settings: &[&str]) -> House {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("jwks.json");
        publish(&path, keys);
        let jwks = format!("auth.jwks={}", path.display());
        let settings: Vec<&str> = std::iter::once(jwks.as_str()).chain(settings.iter().copied()).collect();
        let server = Server::start(BINARY, Deployment::OneProcess, &settings);
        House { server, keys: path, _directory: directory }
    }

    /// A REST request with this token: status and code.
    fn rest(&self, token: Option<&str>) -> (u16, String) {
        let answer = request(self.server.address(), "GET", "/v1/conversations", token, &[], None);
        let code = answer.body["error"]["code"].as_str().unwrap_or_default().to_owned();
        (answer.status, code)
    }

    fn lets_in(&self, token: &str) -> bool {
        self.rest(Some(token)).0 == 200
    }

    /// A connection that has caught up.
    fn live(&self, transport: Transport, token: &str) -> Client {
        let mut client = Client::connect(self.server.address(), transport, Some(token)).expect("connected");
        client.send(&json!({"type": "identify", "cursors": {}}));
        client.until_type("caught_up");
        client
    }

    /// Asks until it is so: files are looked at every few seconds.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let log = self.server.gateway.as_ref().map(|process| process.log_tail()).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: never; the log:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn has_logged(&self, words: &str) -> bool {
        self.server.gateway.as_ref().is_some_and(|process| process.log_tail().contains(words))
    }
}

/// Security, token: the main ones of the negative list, by every door: the header of an upgrade, the item of its subprotocols,
/// `identify`, REST, polling, a stream. A good one is let in by each of them.
#[test]
fn what_is_refused_is_refused_by_every_door() {
    let (issuer, stranger) = (Issuer::new("a"), Issuer::new("a"));
    let settings = ["auth.issuer=https://id.example.org", "auth.audience=chat"];
    let house = House::new(&[&issuer], &settings);
    let with = |name: &str, value: Value| {
        let mut claims = claims(42, "phone", 600);
        claims["iss"] = json!("https://id.example.org");
        claims["aud"] = json!(["mail", "chat"]);
        claims[name] = value;
        claims
    };
    let good = || with("more", json!(1));
    let now_s = carillon_node::clock::Clock.wall_ms() / 1_000;
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid});
    let secret = |message: &[u8]| hs256(issuer.public(), message);
    let whole = issuer.token(&good());
    let typ = json!({"alg": "EdDSA", "kid": "a", "typ": "logout+jwt"});
    let rows = [
        ("a stranger's", stranger.token(&good())),
        ("no signature", forge(&header("none", "a"), &good(), |_| Vec::new())),
        ("no signature, so it says", issuer.forge(&header("none", "a"), &good())),
        ("a public key for a secret", forge(&header("HS256", "a"), &good(), secret)),
        ("and it lies", forge(&header("EdDSA", "a"), &good(), secret)),
        ("an unknown key", issuer.forge(&header("EdDSA", "b"), &good())),
        ("another kind", issuer.forge(&typ, &good())),
        ("cut", whole[..whole.len() - 4].to_owned()),
        ("prolonged", format!("{whole}AAAA")),
        ("no exp", issuer.token(&with("exp", Value::Null))),
        ("not yet", issuer.token(&with("nbf", json!(now_s + 600)))),
        ("another issuer", issuer.token(&with("iss", json!("https://id.example.com")))),
        ("for somebody else", issuer.token(&with("aud", json!("mail")))),
        ("no user", issuer.token(&with("sub", json!("alice")))),
        ("nonsense", "a.b.c".to_owned()),
        ("too long", issuer.token(&with("more", json!("x".repeat(4_096))))),
    ];
    let over = ("over", issuer.token(&with("exp", json!(now_s - 60))));
    for (what, token) in rows.iter().chain([&over]) {
        let code = if *what == "over" { "token_expired" } else { "unauthenticated" };
        for (door, told) in by_every_door(&house, token) {
            // A field of a frame has a bound of its own.
            let expected = if *what == "too long" && door == "identify" { "too_large" } else { code };
            assert_eq!(told, expected, "{what} by {door}");
        }
    }
    for (door, told) in by_every_door(&house, &whole) {
        assert_eq!(told, "", "a good one by {door}");
    }
    assert!(rows.iter().all(|(_, token)| !house.has_logged(token)) && !house.has_logged(&whole));
}

/// What is said to a token at each door: a code, or nothing.
fn by_every_door(house: &House, token: &str) -> Vec<(&'static str, String)> {
    let address = house.server.address();
    let code = |body: &str| {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or("no code").to_owned()
    };
    let connect = |transport| match Client::connect(address, transport, Some(token)) {
        Ok(_) => String::new(),
        Err((401, body)) => code(&body),
        Err(other) => panic!("{other:?}"),
    };
    let mut told = vec![
        ("the header of an upgrade", connect(Transport::Json)),
        ("polling", connect(Transport::Poll)),
        ("REST", house.rest(Some(token)).1),
    ];
    let ticket = request(address, "POST", "/v1/events", Some(token), &[], None);
    told.push(("a path for a stream", if ticket.status == 201 { String::new() } else { code(&ticket.text) }));

    let list = format!("carillon.v1.json, bearer.{token}");
    let mut headers = UPGRADE.to_vec();
    headers.push(("Sec-WebSocket-Protocol", &list));
    let mut raw = Raw::request(address, &headers);
    let head = raw.head();
    let by_list = if head.starts_with("HTTP/1.1 101 ") { String::new() } else { code(&raw.rest()) };
    told.push(("the list of subprotocols", by_list));

    let mut client = Client::connect(address, Transport::Json, None).expect("upgraded without a token");
    client.send(&json!({"type": "identify", "token": token}));
    let answer = client.until("an answer", |frame| frame["type"] == "ready" || frame["type"] == "error");
    let by_frame = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
    if !by_frame.is_empty() && by_frame != "too_large" {
        assert_eq!(client.until_closed(), 4500, "{answer}");
    }
    told.push(("identify", by_frame));
    told
}

/// Security, token: keys are rotated while the server runs: two are valid at once, a file that cannot be used changes nothing,
/// a key that is taken away lets nobody in any more. Who is connected stays.
#[test]
fn keys_are_rotated_without_a_restart() {
    let (old, new) = (Issuer::new("2026-01"), Issuer::new("2026-02"));
    let house = House::new(&[&old], &[]);
    let by = |issuer: &Issuer| issuer.token(&claims(42, "phone", 600));
    assert!(house.lets_in(&by(&old)) && !house.lets_in(&by(&new)));
    let mut client = house.live(Transport::Json, &by(&old));

    publish(&house.keys, &[&old, &new]);
    house.until("the new key lets in", || house.lets_in(&by(&new)));
    assert!(house.lets_in(&by(&old)), "and the old one still does");

    std::fs::write(&house.keys, r#"{"keys": ["#).expect("written");
    house.until("the bad file is told", || {
        house.has_logged("the keys for tokens cannot be used; the old ones stay")
    });
    assert!(house.lets_in(&by(&old)) && house.lets_in(&by(&new)));

    publish(&house.keys, &[&new]);
    house.until("the old key lets nobody in", || {
        house.rest(Some(&by(&old))) == (401, "unauthenticated".into())
    });
    assert!(house.lets_in(&by(&new)));
    assert!(client.is_quiet(), "who is connected stays");
}

/// Security, live connection: a token that ends closes with 4012, over each transport; a device that is revoked with 4501.
#[test]
fn what_was_let_in_ends_with_its_token_or_its_device() {
    let issuer = Issuer::new("a");
    let house = House::new(&[&issuer], &[]);
    let names = ["json", "rkyv", "poll", "events"];
    let admin = issuer.token(&claims(42, "another", 600));
    // Thirty seconds of leeway, of which some are left.
    let ending = TRANSPORTS.into_iter().zip(names).filter(|(transport, _)| *transport != Transport::Poll);
    let ending = ending.map(|(transport, device)| {
        (transport, house.live(transport, &issuer.token(&claims(42, device, -24))))
    });
    let poll = Polled::begin(&house, &issuer.token(&claims(42, "poll", -24)));
    for (transport, mut client) in ending.collect::<Vec<_>>() {
        assert_eq!(client.until_closed(), 4012, "{transport:?}");
    }
    poll.until_over(&issuer.token(&claims(42, "poll", 600)));
    let revoked = TRANSPORTS.into_iter().zip(names).map(|(transport, device)| {
        (transport, device, house.live(transport, &issuer.token(&claims(42, device, 600))))
    });
    for (transport, device, mut client) in revoked.collect::<Vec<_>>() {
        let path = format!("/v1/devices/{device}");
        let answer = request(house.server.address(), "DELETE", &path, Some(&admin), &[], None);
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(client.until_closed(), 4501, "{transport:?}");
        let (status, code) = house.rest(Some(&issuer.token(&claims(42, device, 600))));
        assert_eq!((status, code.as_str()), (401, "unauthenticated"), "a token from before, by REST");
    }
    assert!(house.lets_in(&admin), "another device");
}

/// A poll session whose token ends: its requests are refused with it, and the next token hears what became of the session.
struct Polled<'a> {
    house: &'a House,
    path: String,
    token: String,
}

impl Polled<'_> {
    fn begin<'a>(house: &'a House, token: &str) -> Polled<'a> {
        let address = house.server.address();
        let begun = request(address, "POST", "/v1/poll", Some(token), &[], None);
        let path = format!("/v1/poll/{}", begun.body["poll_id"].as_str().expect("a name"));
        let identify = json!({"frames": [{"type": "identify"}]});
        assert_eq!(request(address, "POST", &path, Some(token), &[], Some(&identify)).status, 204);
        Polled { house, path, token: token.to_owned() }
    }

    fn until_over(self, next_token: &str) {
        let address = self.house.server.address();
        let mut ack = String::new();
        let mut fetch = |token: &str| {
            let path = format!("{}?timeout_ms=100&ack={ack}", self.path);
            let answer = request(address, "GET", &path, Some(token), &[], None);
            if let Some(next) = answer.body["next"].as_str() {
                next.clone_into(&mut ack);
            }
            answer
        };
        // What came before is fetched first.
        let mut until_refused = |token: &str| {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let answer = fetch(token);
                if answer.status != 200 {
                    return answer;
                }
                assert!(Instant::now() < deadline, "it never ends");
            }
        };
        let refused = until_refused(&self.token);
        let is_over = refused.status == 410 || refused.body["error"]["code"] == "token_expired";
        assert!(is_over, "{refused:?}");
        let gone = until_refused(next_token);
        let message = gone.body["error"]["message"].as_str().unwrap_or_default();
        assert!(gone.status == 410 && (refused.status == 410 || message.contains("4012")), "{gone:?}");
    }
}

/// Security, development mode, token: a secret is for loopback only; keys that cannot be used are told before anything starts.
#[test]
fn configurations_that_cannot_guard_anything_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| -> String {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let secret = file(
        "secret.toml",
        "[[auth.keys]]\nkid = \"s\"\nalg = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
    );
    let private =
        file("private.json", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA","d":"AAAA"}]}"#);
    let data_dir = directory.path().join("data");
    let start = |arguments: &[&str]| {
        let data_dir = data_dir.display().to_string();
        let all = [&["--data-dir", &data_dir, "--set", "admin.listen=127.0.0.1:0"][..], arguments].concat();
        command(BINARY, &all, &[])
    };
    let public = ["--set", "gateway.listen=0.0.0.0:0"];
    let rows = [
        (start(&[&["--config", &secret][..], &public].concat()), "HS256 is for loopback only"),
        (start(&["--set", &format!("auth.jwks={private}")]), "private key"),
        (command(BINARY, &["config", "check", "--set", &format!("auth.jwks={private}")], &[]), "private key"),
        (
            command(BINARY, &["config", "check", "--set", "auth.jwks=absent.json"], &[]),
            "absent.json cannot be read",
        ),
    ];
    for (ended, words) in rows {
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let keys = directory.path().join("jwks.json");
    publish(&keys, &[&Issuer::new("a")]);
    let checked =
        command(BINARY, &["config", "check", "--set", &format!("auth.jwks={}", keys.display())], &[]);
    assert_eq!(checked.status, Some(0), "{checked:?}");
    assert!(!Path::new("carillon-data").exists(), "looking makes nothing");
}
