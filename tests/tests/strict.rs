//! Bad input, one row each: what the server answers, and that a neighbour notices nothing. On each driver.

#![expect(clippy::disallowed_methods, reason = "tests wait for deadlines")]

use carillon_node::clock::Clock;
use carillon_node::tokens::{Claims, dev_key};
use carillon_tests::campaigns::handshakes::{self, Cut};
use carillon_tests::client::{Client, Wire};
use carillon_tests::raw::{Raw, UPGRADE, masked};
use carillon_tests::server::Deployment;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};
use tungstenite::Message;

const JSON: &str = "carillon.v1.json";
const RKYV: &str = "carillon.v1.rkyv";

/// Each rule holds on each driver of the sockets.
macro_rules! everywhere {
    (io.driver; $($rule:ident),+ $(,)?) => {
        mod auto { $(#[test] fn $rule() { super::$rule("io.driver=auto"); })+ }
        mod monoio { $(#[test] fn $rule() { super::$rule("io.driver=monoio"); })+ }
    };
}

everywhere!(io.driver;
    frames_that_break_a_rule_close_their_connection_only,
    odd_frames_that_are_allowed_work,
    upgrades_are_read_strictly,
    a_list_of_odd_handshakes_and_frames_is_heard_as_written,
    frames_that_cannot_be_done_are_answered,
    binary_garbage_is_answered,
    repeated_malformed_frames_end_the_connection,
    identify_decides_who_is_there,
    who_is_silent_or_expired_has_to_go,
);

fn stage(driver: &str, wire: Wire, settings: &[&str]) -> Stage {
    let settings = [settings, &[driver]].concat();
    Stage::shared(env!("CARGO_BIN_EXE_carillon-under-test"), Deployment::OneProcess, wire, &settings)
}

/// A client that is served all the while: `is_quiet` proves that it still is, and that it heard nothing.
fn neighbour(stage: &Stage) -> Client {
    let [user] = stage.people();
    stage.live(user, "neighbour")
}

/// RFC 6455, and what protocol.md adds to it: the connection that breaks a rule is closed with the rule's code.
fn frames_that_break_a_rule_close_their_connection_only(driver: &str) {
    let stage = stage(driver, Wire::Json, &[]);
    let mut near = neighbour(&stage);
    let mask = [0u8; 4];
    let with = |head: &[u8], payload: &[u8]| [head, &mask, payload].concat();
    let table: [(&str, &str, Vec<u8>, u16); 20] = [
        ("unmasked", JSON, b"\x81\x02{}".to_vec(), 1002),
        ("reserved bit 1", JSON, masked(0xc1, b"{}"), 1002),
        ("reserved bit 3", JSON, masked(0x91, b"{}"), 1002),
        ("reserved opcode", JSON, masked(0x83, b"{}"), 1002),
        ("reserved control opcode", JSON, masked(0x8b, b""), 1002),
        ("length of 5 in 16 bits", JSON, with(&[0x81, 0x80 | 126, 0, 5], b"hello"), 1002),
        ("length of 5 in 64 bits", JSON, with(&[0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5], b"hello"), 1002),
        ("length with the top bit", JSON, with(&[0x81, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0], b""), 1002),
        (
            "an exabyte, from the header alone",
            JSON,
            with(&[0x81, 0xff, 0x10, 0, 0, 0, 0, 0, 0, 0], b""),
            1009,
        ),
        ("one byte more than a frame may have", JSON, masked(0x81, &vec![b' '; 65_537]), 1009),
        (
            "fragments that add up to too much",
            JSON,
            [masked(0x01, &[b' '; 40_000]), masked(0x80, &[b' '; 40_000])].concat(),
            1009,
        ),
        ("a continuation of nothing", JSON, masked(0x80, b"{}"), 1002),
        ("a message inside a message", JSON, [masked(0x01, b"{"), masked(0x81, b"}")].concat(), 1002),
        ("a fragmented ping", JSON, masked(0x09, b"x"), 1002),
        ("a long ping", JSON, masked(0x89, &[b'x'; 126]), 1002),
        ("a close of one byte", JSON, masked(0x88, b"\x03"), 1002),
        ("a close with a code nobody may send", JSON, masked(0x88, &1005u16.to_be_bytes()), 1002),
        ("text that is no UTF-8", JSON, masked(0x81, b"{\"type\":\"\xff\"}"), 1007),
        ("binary on the text protocol", JSON, masked(0x82, b"{}"), 1003),
        ("text on the binary protocol", RKYV, masked(0x81, b"{\"type\":\"heartbeat\"}"), 1003),
    ];
    for (what, subprotocol, bytes, code) in table {
        let [user] = stage.people();
        let mut raw = Raw::upgrade(stage.server().address(), subprotocol, &stage.server().token(user, "raw"));
        raw.send(&bytes);
        assert_eq!(raw.until_closed(), code, "{what}");
        assert!(near.is_quiet(), "{what}");
    }
}

/// RFC 6455 sections 5.4, 5.5.1 and 5.5.2: what looks odd and is allowed.
fn odd_frames_that_are_allowed_work(driver: &str) {
    let stage = stage(driver, Wire::Json, &[]);
    let [user] = stage.people();
    let mut raw = Raw::upgrade(stage.server().address(), JSON, &stage.server().token(user, "raw"));
    assert!(raw.frame().is_some_and(|hello| hello.payload.starts_with(b"{\"type\":\"hello\"")));
    // A frame that comes byte by byte, in fragments, with a ping between them.
    let text = br#"{"type":"identify"}"#;
    let bytes =
        [masked(0x01, &text[..7]), masked(0x89, b"ping"), masked(0x00, b""), masked(0x80, &text[7..])]
            .concat();
    for byte in bytes {
        raw.send(&[byte]);
    }
    let pong = raw.frame().expect("a pong");
    assert_eq!((pong.first, pong.payload.as_slice()), (0x8a, b"ping".as_slice()));
    assert!(raw.frame().is_some_and(|ready| ready.payload.starts_with(b"{\"type\":\"ready\"")));
    assert!(raw.frame().is_some_and(|last| last.payload.starts_with(b"{\"type\":\"caught_up\"")));
    // The largest frame: white space around a heartbeat.
    let mut largest = vec![b' '; 65_536 - 20];
    largest.extend_from_slice(br#"{"type":"heartbeat"}"#);
    raw.send_frame(0x81, &largest);
    assert!(raw.frame().is_some_and(|ack| ack.payload == br#"{"type":"heartbeat_ack"}"#));
    raw.send_frame(0x88, &4_321u16.to_be_bytes());
    assert_eq!(raw.until_closed(), 4_321, "a close is answered with its code");
}

/// The request to upgrade: status and subprotocol chosen.
fn upgrades_are_read_strictly(driver: &str) {
    let stage = stage(driver, Wire::Json, &[]);
    let mut near = neighbour(&stage);
    let [user] = stage.people();
    let server = stage.server();
    let good = server.token(user, "raw");
    let expired = server.token_with(user, "raw", -61, "");
    let (in_list, foreign_list) =
        (format!("bearer.{good}, {JSON}"), format!("bearer.{}, {JSON}", foreign(user)));
    let only_token = format!("bearer.{good}");
    let bearer = |token: &str| format!("Bearer {token}");
    let protocol = "Sec-WebSocket-Protocol";
    let ok = |selected: &'static str| (101, selected);
    let refused = |status: u16, code: &'static str| (status, code);
    type Row = (&'static str, Vec<(&'static str, String)>, (u16, &'static str));
    let table: Vec<Row> = vec![
        ("no subprotocol: JSON, none selected", vec![], ok("")),
        ("JSON", vec![(protocol, JSON.into())], ok(JSON)),
        ("rkyv", vec![(protocol, RKYV.into())], ok(RKYV)),
        ("the first that is known", vec![(protocol, format!("chat, {RKYV}, {JSON}"))], ok(RKYV)),
        ("a token in the list", vec![(protocol, in_list)], ok(JSON)),
        ("only unknown ones", vec![(protocol, "chat".into())], refused(400, "bad_request")),
        ("only a token", vec![(protocol, only_token)], refused(400, "bad_request")),
        ("a token that expired", vec![("Authorization", bearer(&expired))], refused(401, "token_expired")),
        (
            "a token of another key",
            vec![("Authorization", bearer(&foreign(user)))],
            refused(401, "unauthenticated"),
        ),
        (
            "a token of another key, in the list",
            vec![(protocol, foreign_list)],
            refused(401, "unauthenticated"),
        ),
        ("garbage for a token", vec![("Authorization", bearer("a.b.c"))], refused(401, "unauthenticated")),
        (
            "an origin nobody allowed",
            vec![("Origin", "https://evil.example".into())],
            refused(403, "forbidden"),
        ),
    ];
    for (what, extra, (status, word)) in table {
        let mut headers = UPGRADE.to_vec();
        headers.extend(extra.iter().map(|(name, value)| (*name, value.as_str())));
        let mut raw = Raw::request(server.address(), &headers);
        let head = raw.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
        if status == 101 {
            let selected = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
            assert_eq!(selected.unwrap_or_default(), word, "{what}");
        } else {
            let body: Value =
                serde_json::from_str(&raw.rest()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(body["error"]["code"], word, "{what}: {body}");
            assert!(body["error"]["request_id"].is_string(), "{what}: {body}");
        }
        assert!(near.is_quiet(), "{what}");
    }
    for (what, skipped, instead, status) in [
        ("no key", "Sec-WebSocket-Key", None, 400),
        ("a short key", "Sec-WebSocket-Key", Some("c2hvcnQ="), 400),
        ("an older version", "Sec-WebSocket-Version", Some("8"), 426),
    ] {
        let mut headers = UPGRADE.to_vec();
        headers.retain(|(name, _)| *name != skipped);
        headers.extend(instead.map(|value| (skipped, value)));
        let head = Raw::request(server.address(), &headers).head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
    }
}

/// The list of the campaign `handshakes`, once: how each case is cut is drawn from a seed.
fn a_list_of_odd_handshakes_and_frames_is_heard_as_written(driver: &str) {
    let stage = stage(driver, Wire::Json, &handshakes::SETTINGS);
    let mut near = neighbour(&stage);
    let [user] = stage.people();
    let cases = handshakes::list::all(&stage.server().token(user, "raw"));
    for (case, seed) in cases.iter().zip(1..) {
        if let Err(words) = handshakes::check(stage.server().address(), case, Cut::Random(seed)) {
            panic!("{words}");
        }
    }
    assert!(near.is_quiet());
}

/// Another key's token: right in everything but the signature.
fn foreign(user: u64) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let now_s = Clock.wall_ms() / 1_000;
    let claims = Claims {
        user_id: user,
        device_id: "raw".to_owned(),
        issued_s: now_s,
        expires_s: now_s + 3_600,
        name: None,
        scope: String::new(),
    };
    dev_key(directory.path()).expect("a key").sign(&claims).expect("signed")
}

/// Frames of an identified client that cannot be done: an error that names the field, and no close.
fn frames_that_cannot_be_done_are_answered(driver: &str) {
    let stage = stage(driver, Wire::Json, &["limits.malformed_max=1000"]);
    let mut near = neighbour(&stage);
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut client = stage.live(alice, "phone");
    let send = |rest: &str| format!(r#"{{"type":"send_message","conversation_id":"{conversation}",{rest}}}"#);
    let long = "x".repeat(16_385);
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let table = [
        ("not JSON", "{".to_owned(), "bad_request", None),
        ("nothing", String::new(), "bad_request", None),
        ("no object", "[]".to_owned(), "bad_request", None),
        ("two objects", "{}{}".to_owned(), "bad_request", None),
        ("no type", "{}".to_owned(), "bad_request", Some("type")),
        ("a type that is no string", r#"{"type":1}"#.to_owned(), "bad_request", Some("type")),
        ("an unknown type", r#"{"type":"sing"}"#.to_owned(), "bad_request", Some("type")),
        (
            "typing where one is no member",
            r#"{"type":"typing","conversation_id":"1","state":"start"}"#.to_owned(),
            "forbidden",
            None,
        ),
        (
            "an id that is a number",
            r#"{"type":"sync","conversation_id":1,"from_seq":1}"#.to_owned(),
            "bad_request",
            Some("conversation_id"),
        ),
        (
            "an id with a leading zero",
            r#"{"type":"sync","conversation_id":"01","from_seq":1}"#.to_owned(),
            "bad_request",
            Some("conversation_id"),
        ),
        (
            "an id beyond 2^63 - 1",
            r#"{"type":"sync","conversation_id":"9223372036854775808","from_seq":1}"#.to_owned(),
            "bad_request",
            Some("conversation_id"),
        ),
        ("no id", r#"{"type":"sync","from_seq":1}"#.to_owned(), "bad_request", Some("conversation_id")),
        (
            "a negative seq",
            format!(r#"{{"type":"read","conversation_id":"{conversation}","seq":-1}}"#),
            "bad_request",
            Some("seq"),
        ),
        (
            "seq 0",
            format!(r#"{{"type":"delivered","conversation_id":"{conversation}","seq":0}}"#),
            "bad_request",
            Some("seq"),
        ),
        ("no content", send(r#""message_type":"text""#), "bad_request", Some("content")),
        ("content that is no string", send(r#""content":7"#), "bad_request", Some("content")),
        ("empty content", send(r#""content":"""#), "bad_request", Some("content")),
        ("content over the limit", send(&format!(r#""content":"{long}""#)), "too_large", Some("content")),
        (
            "an unknown message type",
            send(r#""content":"x","message_type":"song""#),
            "bad_request",
            Some("message_type"),
        ),
        (
            "opaque content that is no base64",
            send(r#""content":"x","encoding":"opaque""#),
            "bad_request",
            Some("content"),
        ),
        (
            "a long client_msg_id",
            send(&format!(r#""content":"x","client_msg_id":"{}""#, "i".repeat(65))),
            "bad_request",
            Some("client_msg_id"),
        ),
        (
            "an empty client_msg_id",
            send(r#""content":"x","client_msg_id":"""#),
            "bad_request",
            Some("client_msg_id"),
        ),
        (
            "a long frame id",
            send(&format!(r#""content":"x","id":"{}""#, "i".repeat(65))),
            "bad_request",
            Some("id"),
        ),
        ("a frame id that is no integer", send(r#""content":"x","id":1.5"#), "bad_request", Some("id")),
        ("a key twice", send(r#""content":"x","content":"y""#), "bad_request", None),
        ("nested too deep", send(&format!(r#""content":"x","extra":{deep}"#)), "bad_request", None),
        ("a second identify", r#"{"type":"identify"}"#.to_owned(), "bad_request", None),
        ("a reply to nothing", send(r#""content":"x","reply_to":"12345""#), "not_found", Some("reply_to")),
        (
            "a token for somebody else",
            format!(r#"{{"type":"refresh_token","token":"{}"}}"#, stage.server().token(bob, "phone")),
            "bad_request",
            Some("token"),
        ),
        (
            "a fresh token that is none",
            r#"{"type":"refresh_token","token":"a.b.c"}"#.to_owned(),
            "unauthenticated",
            None,
        ),
    ];
    for (what, text, code, field) in table {
        client.send_raw(Message::text(text));
        let answer = client.frame();
        assert_eq!(
            (&answer["type"], &answer["error"]["code"]),
            (&json!("error"), &json!(code)),
            "{what}: {answer}"
        );
        if let Some(field) = field {
            assert_eq!(answer["error"]["field"], field, "{what}: {answer}");
        }
        for key in ["message", "request_id"] {
            assert!(answer["error"][key].as_str().is_some_and(|text| !text.is_empty()), "{what}: {answer}");
        }
        assert_eq!(answer["error"]["retryable"], false, "{what}: {answer}");
    }
    // Unknown fields are nobody's business, and nothing above took a seq.
    client.send_raw(Message::text(send(r#""content":"fine","colour":{"a":[1,2,null]}"#)));
    assert_eq!(client.until_type("delivery_ack")["seq"], 2);
    assert!(near.is_quiet());
}

/// The binary wire refuses frame by frame as well.
fn binary_garbage_is_answered(driver: &str) {
    let stage = stage(driver, Wire::Rkyv, &["limits.malformed_max=1000"]);
    let mut near = neighbour(&stage);
    let [alice] = stage.people();
    let mut client = stage.live(alice, "phone");
    let header = |version: u8, kind: u16, length: u32| {
        let mut bytes = vec![version, 0];
        bytes.extend(kind.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes
    };
    let table: [(&str, Vec<u8>); 6] = [
        ("half a header", vec![1, 0, 7]),
        ("another version", header(9, 7, 0)),
        ("an unknown kind", header(1, 0x3f, 0)),
        ("a kind of the server's", header(1, 0x45, 0)),
        ("a length beyond the message", header(1, 2, 4_000)),
        ("an archive of noise", [header(1, 2, 64), vec![0xa5; 64]].concat()),
    ];
    for (what, bytes) in table {
        client.send_raw(Message::binary(bytes));
        let answer = client.frame();
        assert_eq!(answer["error"]["code"], "bad_request", "{what}: {answer}");
        assert!(client.is_quiet() && near.is_quiet(), "{what}");
    }
}

/// Sixteen malformed frames within a minute, on either wire: 4503.
fn repeated_malformed_frames_end_the_connection(driver: &str) {
    for wire in [Wire::Json, Wire::Rkyv] {
        let stage = stage(driver, wire, &[]);
        let mut near = neighbour(&stage);
        let [alice] = stage.people();
        let mut client = stage.live(alice, "phone");
        for _ in 0..16 {
            client.send_raw(match wire {
                Wire::Json => Message::text("{"),
                Wire::Rkyv => Message::binary(vec![1, 0, 7]),
            });
        }
        for _ in 0..15 {
            assert_eq!(client.frame()["error"]["code"], "bad_request");
        }
        assert_eq!(client.until_closed(), 4503);
        assert!(near.is_quiet());
    }
}

/// Before `identify`: errors and no close; a token that is no good there: the error, then 4500.
fn identify_decides_who_is_there(driver: &str) {
    let stage = stage(driver, Wire::Json, &[]);
    let mut near = neighbour(&stage);
    let [user] = stage.people();
    let server = stage.server();
    let mut client = Client::connect(server.address(), Wire::Json, None).expect("upgraded without a token");
    assert_eq!(client.frame()["type"], "hello");
    for frame in [json!({"type": "heartbeat", "id": 1}), json!({"type": "identify", "id": 1})] {
        client.send(&frame);
        let answer = client.frame();
        assert_eq!(
            (&answer["error"]["code"], &answer["id"]),
            (&json!("unauthenticated"), &json!(1)),
            "{answer}"
        );
    }
    client.send(&json!({"type": "identify", "token": server.token(user, "phone"), "cursors": {"x": 1}}));
    assert_eq!(client.frame()["error"]["field"], "cursors");
    client.send(&json!({"type": "identify", "token": server.token(user, "phone")}));
    let ready = client.frame();
    assert_eq!(
        (&ready["user_id"], &ready["device_id"]),
        (&json!(user.to_string()), &json!("phone")),
        "{ready}"
    );

    for (token, code) in [
        ("a.b.c".to_owned(), "unauthenticated"),
        (foreign(user), "unauthenticated"),
        (server.token_with(user, "phone", -61, ""), "token_expired"),
    ] {
        let mut client = Client::connect(server.address(), Wire::Json, None).expect("upgraded");
        client.send(&json!({"type": "identify", "token": token}));
        assert_eq!(client.until_type("error")["error"]["code"], code);
        assert_eq!(client.until_closed(), 4500);
    }
    assert!(near.is_quiet());
}

/// 4003 without `identify` in time; 4012 when the token ends; 4011 after silence.
fn who_is_silent_or_expired_has_to_go(driver: &str) {
    // Silence of two intervals and ten seconds ends a connection: the ten seconds cannot be configured away.
    let settings = ["limits.identify_timeout_ms=300", "limits.heartbeat_interval_ms=100"];
    let stage = stage(driver, Wire::Json, &settings);
    let server = stage.server();
    let [silent, talking, expiring] = stage.people();
    let mut silent = stage.live(silent, "phone");
    let mut nobody = Client::connect(server.address(), Wire::Json, None).expect("upgraded");
    assert_eq!(nobody.until_closed(), 4003);

    // Expiry has a leeway of thirty seconds: this one has one left.
    let token = server.token_with(expiring, "phone", -28, "");
    let mut expiring = Client::connect(server.address(), Wire::Json, Some(&token)).expect("upgraded");
    expiring.send(&json!({"type": "identify"}));
    expiring.until_type("caught_up");
    assert_eq!(expiring.until_closed(), 4012);

    let mut talking = stage.live(talking, "phone");
    while silent.closed.is_none() {
        assert!(talking.is_quiet());
        silent.next_before(std::time::Instant::now() + std::time::Duration::from_millis(250));
    }
    assert_eq!(silent.until_closed(), 4011);
    assert!(talking.is_quiet(), "who is heard stays");
}
