//! The upgrade: each rule of RFC 6455 section 4.2.1 and of guarantees.md ("handshake", "token"), the choice of a
//! subprotocol (protocol.md, "Fine print"), and tungstenite as the other end.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use carillon_protocol::handshake::{
    Answer, HEAD_BYTES_MAX, Head, Progress, Request, Subprotocol, encode_key, parse, parse_response, request,
    response_error,
};
use carillon_protocol::reason::{Code, Refusal};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The lines of a sound request; tests change one at a time.
const SOUND: [&str; 6] = [
    "GET /v1/ws HTTP/1.1",
    "Host: chat.example:8080",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn head(lines: &[&str]) -> Vec<u8> {
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

/// The sound request with more lines.
fn with(more: &[&str]) -> Vec<u8> {
    head(&[&SOUND, more].concat())
}

/// The sound request with the line that begins like `name` replaced, or left out.
fn instead(name: &str, line: Option<&str>) -> Vec<u8> {
    let lines: Vec<&str> =
        SOUND.iter().filter_map(|sound| if sound.starts_with(name) { line } else { Some(*sound) }).collect();
    assert_ne!(lines, SOUND, "{name} is one of the lines");
    head(&lines)
}

fn complete(bytes: &[u8]) -> Request<'_> {
    match parse(bytes) {
        Progress::Complete(request, consumed) => {
            assert_eq!(consumed, bytes.len());
            request
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_refused(bytes: &[u8], status: u16) {
    match parse(bytes) {
        Progress::Refused(rejection) => {
            assert_eq!(rejection.status, status, "{}", rejection.message);
            let response = String::from_utf8(rejection.response("made-here")).unwrap();
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
        }
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn a_sound_request_is_upgraded_as_in_the_rfc() {
    let bytes = head(&SOUND);
    let request = complete(&bytes);
    assert_eq!(request.key, KEY);
    assert_eq!((request.subprotocol, request.is_selected), (Subprotocol::Json, false));
    assert_eq!((request.bearer, request.origin, request.request_id), (None, None, None));
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(String::from_utf8(request.response()).unwrap(), expected);
}

#[test]
fn spellings_that_are_allowed() {
    for bytes in [
        instead("GET", Some("GET /v1/ws?token=ignored&x=%20 HTTP/1.1")),
        instead("GET", Some("GET /v1/ws? HTTP/1.1")),
        instead("Upgrade", Some("UPGRADE:  h2c, WebSocket ")),
        instead("Connection", Some("connection: keep-alive, upgrade")),
        instead("Connection", Some("Connection: keep-alive\r\nConnection: Upgrade")),
        with(&["Content-Length: 0"]),
        with(&["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
        with(&["Sec-WebSocket-Protocol: ,"]),
        with(&["Cookie: ignored=1"]),
    ] {
        let request = complete(&bytes);
        assert_eq!((request.bearer, request.is_selected), (None, false));
    }
}

#[test]
fn each_breach_is_refused_with_its_status() {
    for (name, line, status) in [
        ("GET", Some("GET /v1/ws HTTP/1.0"), 400),
        ("GET", Some("GET /v1/ws HTTP/2.0"), 400),
        ("GET", Some("GET /v1/ws  HTTP/1.1"), 400),
        ("Host", None, 400),
        ("Host", Some("Host:"), 400),
        ("Host", Some("Host: a b"), 400),
        ("Host", Some("Host: a/b"), 400),
        ("Host", Some("Host: user@a"), 400),
        ("Host", Some("Host: a, b"), 400),
        ("Host", Some("Host: é"), 400),
        ("Upgrade", None, 426),
        ("Upgrade", Some("Upgrade: h2c"), 400),
        ("Upgrade", Some("Upgrade: websockets"), 400),
        ("Connection", None, 400),
        ("Connection", Some("Connection: keep-alive"), 400),
        ("Sec-WebSocket-Version", None, 426),
        ("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 8"), 426),
        ("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 13, 8"), 426),
        ("Sec-WebSocket-Key", None, 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: "), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWZm"), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), 400),
    ] {
        check_refused(&instead(name, line), status);
    }
    for (more, status) in [
        ("Host: other", 400),
        ("Upgrade: websocket", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
        ("Sec-WebSocket-Version: 13", 400),
        ("Content-Length: 1", 400),
        ("Content-Length: 00", 400),
        ("Content-Length: 0\r\nContent-Length: 0", 400),
        ("Transfer-Encoding: chunked", 400),
        ("Transfer-Encoding: identity", 400),
        ("Origin: a\r\nOrigin: b", 400),
        ("Origin: a b", 400),
        ("no colon", 400),
        ("Spaced : name", 400),
        (" folded: line", 400),
        ("Nul: \0", 400),
    ] {
        check_refused(&with(&[more]), status);
    }
}

#[test]
fn a_426_says_what_to_upgrade_to() {
    let bytes = instead("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 7"));
    let Progress::Refused(rejection) = parse(&bytes) else { panic!("refused") };
    let response = String::from_utf8(rejection.response("made-here")).unwrap();
    for line in ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"] {
        assert!(response.contains(&format!("\r\n{line}\r\n")), "{line} in {response}");
    }
}

/// Two readers of one head have to see the same headers: a line that ends in LF alone is refused.
#[test]
fn bare_line_feeds_end_neither_a_line_nor_a_head() {
    for name in ["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"] {
        let sound = SOUND.iter().find(|line| line.starts_with(name)).unwrap();
        check_refused(&instead(name, Some(&format!("{sound}\nX-More: x"))), 400);
        check_refused(&instead(name, Some(&format!("{sound}\n"))), 400);
    }
    check_refused(&instead("GET", Some("GET /v1/ws HTTP/1.1\nX-More: x")), 400);
    let smuggled = b"GET /v1/ws HTTP/1.1\r\nHost: a\n\nGET /v1/users/me HTTP/1.1\r\n\r\n";
    check_refused(smuggled, 400);
    assert_eq!(parse(b"GET /v1/ws HTTP/1.1\nHost: a\n\n"), Progress::Partial);
}

#[test]
fn anything_else_is_for_the_http_server_as_soon_as_it_shows() {
    for bytes in [
        "P",
        "GET /v1/m",
        "GET /v1/wss",
        "GET /v1/ws/",
        "GET /v1/ws#",
        "GET /V1/ws ",
        "get /v1/ws ",
        "HEAD /v1/ws HTTP/1.1\r\n\r\n",
        "POST /v1/ws HTTP/1.1\r\n\r\n",
        "GET http://host/v1/ws HTTP/1.1\r\n\r\n",
        "\r\nGET /v1/ws HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(parse(bytes.as_bytes()), Progress::Other, "{bytes}");
    }
    for bytes in ["", "G", "GET ", "GET /v1/w", "GET /v1/ws", "GET /v1/ws ", "GET /v1/ws?a"] {
        assert_eq!(parse(bytes.as_bytes()), Progress::Partial, "{bytes}");
    }
}

#[test]
fn the_head_has_its_bounds() {
    let pad = |bytes: usize| {
        let filler = "a".repeat(bytes - with(&["Pad: "]).len());
        with(&[&format!("Pad: {filler}")])
    };
    assert_eq!(pad(HEAD_BYTES_MAX).len(), HEAD_BYTES_MAX);
    complete(&pad(HEAD_BYTES_MAX));
    check_refused(&pad(HEAD_BYTES_MAX + 1), 431);
    assert_eq!(parse(&pad(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX - 1]), Progress::Partial);

    complete(&with(&["A: b"; 59]));
    check_refused(&with(&["A: b"; 60]), 431);
}

#[test]
fn frames_behind_the_head_are_left_alone() {
    let mut bytes = head(&SOUND);
    let head_bytes = bytes.len();
    bytes.extend_from_slice(b"\x81\x80\0\0\0\0\r\n\r\n");
    assert!(matches!(parse(&bytes), Progress::Complete(_, consumed) if consumed == head_bytes));
}

#[test]
fn the_token_comes_from_the_header_or_a_subprotocol_and_never_from_the_url() {
    let json = "carillon.v1.json";
    for (lines, token) in [
        (vec!["Authorization: Bearer abc.d-e_f.g"], Some("abc.d-e_f.g")),
        (vec!["authorization: bEARER   abc="], Some("abc=")),
        (vec!["Sec-WebSocket-Protocol: bearer.abc.def, carillon.v1.json"], Some("abc.def")),
        (vec!["Sec-WebSocket-Protocol: carillon.v1.json, bearer.token-1, bearer.token-2"], Some("token-1")),
        (vec!["Sec-WebSocket-Protocol: carillon.v1.json", "Sec-WebSocket-Protocol: bearer.abc"], Some("abc")),
        (
            vec!["Sec-WebSocket-Protocol: bearer.second, carillon.v1.json", "Authorization: Bearer first"],
            Some("first"),
        ),
        (vec!["Sec-WebSocket-Protocol: carillon.v1.json"], None),
    ] {
        let bytes = with(&lines);
        let request = complete(&bytes);
        assert_eq!(request.bearer.map(|bearer| bearer.reveal()), token, "{lines:?}");
        assert!(
            request.offered.is_empty() || request.offered == [json],
            "no token among {:?}",
            request.offered
        );
        if let Some(token) = token {
            assert!(!format!("{request:?}").contains(token), "Debug shows no token");
        }
    }
    let in_url =
        instead("GET", Some("GET /v1/ws?token=abc&access_token=abc&authorization=Bearer%20abc HTTP/1.1"));
    assert_eq!(complete(&in_url).bearer, None);
    for line in [
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization: Bearer =",
        "Authorization: Bearer a b",
        "Authorization: Bearer a\"b",
        "Authorization: Basic abc",
        "Authorization: abc",
        "Authorization: Bearer a\r\nAuthorization: Bearer a",
        "Sec-WebSocket-Protocol: carillon.v1.json, bearer.",
        "Sec-WebSocket-Protocol: carillon.v1.json, bearer.a!b",
    ] {
        check_refused(&with(&[line]), 401);
    }
    check_refused(&with(&[&format!("Authorization: Bearer {}", "a".repeat(4_097))]), 401);
    complete(&with(&[&format!("Authorization: Bearer {}", "a".repeat(4_096))]));
}

#[test]
fn the_first_known_subprotocol_is_chosen() {
    for (offer, chosen) in [
        ("carillon.v1.json", Subprotocol::Json),
        ("carillon.v1.rkyv", Subprotocol::Rkyv),
        ("carillon.v1.rkyv, carillon.v1.json", Subprotocol::Rkyv),
        ("carillon.v9.json,carillon.v1.json , carillon.v1.rkyv", Subprotocol::Json),
        ("bearer.abc, carillon.v1.rkyv", Subprotocol::Rkyv),
    ] {
        let bytes = with(&[&format!("Sec-WebSocket-Protocol: {offer}")]);
        let request = complete(&bytes);
        assert_eq!((request.subprotocol, request.is_selected), (chosen, true), "{offer}");
        let line = format!("\r\nSec-WebSocket-Protocol: {}\r\n", chosen.name());
        assert!(String::from_utf8(request.response()).unwrap().contains(&line));
    }
    for offer in ["chat", "bearer.abc", "chat, bearer.abc", "CARILLON.V1.JSON", "a b", "(", "é"] {
        check_refused(&with(&[&format!("Sec-WebSocket-Protocol: {offer}")]), 400);
    }
}

#[test]
fn request_ids_are_echoed_when_they_are_fit_to_be() {
    for (value, echoed) in [
        ("trace-1:a/b", Some("trace-1:a/b")),
        ("two words", None),
        ("quote\"", None),
        (&"x".repeat(129), None),
        (&"x".repeat(128), Some(&*"x".repeat(128))),
    ] {
        let bytes = with(&[&format!("X-Request-Id: {value}"), "Origin: https://chat.example"]);
        let request = complete(&bytes);
        assert_eq!(request.request_id, echoed);
        assert_eq!(request.origin, Some("https://chat.example"));
        let response = String::from_utf8(request.response()).unwrap();
        assert_eq!(response.contains("X-Request-Id"), echoed.is_some());

        let bytes = with(&[&format!("X-Request-Id: {value}"), "Content-Length: 5"]);
        let Progress::Refused(rejection) = parse(&bytes) else { panic!("refused") };
        let response = String::from_utf8(rejection.response("made-here")).unwrap();
        let id = echoed.unwrap_or("made-here");
        assert!(response.contains(&format!("X-Request-Id: {id}\r\n")), "{response}");
        assert!(response.ends_with(&format!("\"request_id\":\"{id}\"}}}}")), "{response}");
    }
}

#[test]
fn errors_have_the_one_shape_and_nothing_in_them_ends_a_line() {
    let refusal = Refusal::new(Code::Overloaded, "too many \"new\" connections").retry_after(1_500);
    let evil = "a\r\nSet-Cookie: b";
    let response =
        String::from_utf8(response_error(503, &refusal, evil, &[("X-More", "c\r\n\r\nd")])).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        head.lines().collect::<Vec<_>>(),
        [
            "HTTP/1.1 503 Service Unavailable",
            "Content-Type: application/json",
            &format!("Content-Length: {}", body.len()),
            "Retry-After: 2",
            "X-Request-Id: aSet-Cookie: b",
            "X-More: cd",
            "Connection: close",
        ]
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({"error": {
        "code": "overloaded", "message": "too many \"new\" connections", "retryable": true,
        "retry_after_ms": 1_500, "request_id": evil,
    }});
    assert_eq!(body, expected);
}

#[test]
fn our_two_halves_agree() {
    let key = encode_key([7; 16]);
    let offered = ["carillon.v1.rkyv", "carillon.v1.json"];
    let bytes = request("127.0.0.1:8080", "/v1/ws", &key, &offered, Some("abc.def"));
    let upgrade = complete(&bytes);
    assert_eq!(upgrade.bearer.map(|bearer| bearer.reveal()), Some("abc.def"));
    assert_eq!(upgrade.offered, offered);

    let mut response = upgrade.response();
    let consumed = response.len();
    for cut in 0..consumed {
        assert_eq!(parse_response(&response[..cut], &key, &offered), Answer::Partial);
    }
    response.extend_from_slice(&[0x81, 0]);
    let accepted = Answer::Accepted { subprotocol: Some("carillon.v1.rkyv"), consumed };
    assert_eq!(parse_response(&response, &key, &offered), accepted);

    assert!(matches!(parse_response(&response, &encode_key([8; 16]), &offered), Answer::Invalid(_)));
    assert!(matches!(parse_response(&response, &key, &[]), Answer::Invalid(_)));
    assert!(matches!(parse_response(b"SSH-2.0\r\n\r\n", &key, &[]), Answer::Invalid(_)));
    let refused = response_error(401, &Refusal::new(Code::Unauthenticated, "no"), "id", &[]);
    assert!(matches!(parse_response(&refused, &key, &offered), Answer::Refused { status: 401, .. }));
    let evil = request("a\r\nX: y", "/v1/ws HTTP/1.1\r\nZ: z", &key, &[], Some("t\r\nQ: q"));
    assert_eq!(evil.windows(2).filter(|window| window == b"\r\n").count(), 1 + 6 + 1);
}

/// tungstenite's client accepts what we answer, and its request is one that we accept.
#[test]
fn tungstenite_connects() {
    use std::io::{self, Read, Write};
    use tungstenite::client::IntoClientRequest as _;

    /// Answers the request as soon as its head is whole.
    struct Server {
        received: Vec<u8>,
        answer: Vec<u8>,
    }
    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.extend_from_slice(bytes);
            if let Progress::Complete(request, _) = parse(&self.received) {
                assert_eq!(request.bearer.map(|bearer| bearer.reveal()), Some("abc"));
                self.answer = request.response();
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Server {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = (&self.answer[..]).read(out)?;
            self.answer.drain(..count);
            Ok(count)
        }
    }

    let mut request = "ws://localhost:8080/v1/ws".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "carillon.v1.json".parse().unwrap());
    request.headers_mut().insert("Authorization", "Bearer abc".parse().unwrap());
    let server = Server { received: Vec::new(), answer: Vec::new() };
    let (_, response) = tungstenite::client(request, server).unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "carillon.v1.json");
}

fn config(cases: u32) -> Config {
    let mut config = Config::with_cases(cases);
    config.failure_persistence = None;
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().build_hasher().finish());
    }
    eprintln!(
        "repeat with: PROPTEST_RNG_SEED={} cargo test -p carillon-protocol --test handshake",
        config.rng_seed
    );
    config
}

/// However a head is cut, the answer is that of the whole; and no bytes make the parser panic.
#[test]
fn a_growing_buffer_ends_like_a_whole_one() {
    let line = prop_oneof![
        prop::sample::select(SOUND.to_vec()).prop_map(|line| line.as_bytes().to_vec()),
        "Sec-WebSocket-Protocol: [a-z.,1 ]{0,30}".prop_map(String::into_bytes),
        "Authorization: (Bearer|Basic) ?[a-z.=]{0,9}".prop_map(String::into_bytes),
        "[A-Za-z-]{0,12}:? ?[ -~]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let damages = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let input = (any::<bool>(), prop::collection::vec(line, 0..6), damages);
    let outcomes = std::cell::Cell::new([0; 4]);
    TestRunner::new(config(1_500))
        .run(&input, |(is_sound, lines, damages)| {
            let start = if is_sound { SOUND.join("\r\n") + "\r\n" } else { format!("{}\r\n", SOUND[0]) };
            let mut bytes = [start.as_bytes(), &lines.join(&b"\r\n"[..]), b"\r\n\r\n"].concat();
            for (place, byte) in damages {
                *place.get_mut(&mut bytes) = byte;
            }
            let whole = parse(&bytes);
            let mut head = Head::new();
            let grown = (1..=bytes.len())
                .map(|length| head.parse(&bytes[..length]))
                .find(|progress| *progress != Progress::Partial)
                .unwrap_or(Progress::Partial);
            prop_assert_eq!(&grown, &whole);
            let _ = parse_response(&bytes, KEY, &["carillon.v1.json"]);
            let mut counts = outcomes.get();
            counts[match whole {
                Progress::Partial => 0,
                Progress::Other => 1,
                Progress::Complete(..) => 2,
                Progress::Refused(_) => 3,
            }] += 1;
            outcomes.set(counts);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    // The property is empty where an outcome never comes.
    let [_, others, completes, refusals] = outcomes.get();
    assert!(others > 0 && completes > 0 && refusals > 0, "{:?}", outcomes.get());
}
