//! The HTTP upgrade: read at once and as it grows, beside tungstenite's, and answered so that a client understands.
//!
//! The first byte chooses: the bytes of a connection as they are, lines put together from what such heads are made of, or what
//! our own client writes.

use carillon_protocol::handshake::{self, Answer, Head, Progress, Request};
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server;

use crate::draw::Draw;
use crate::{Reached, Target};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "upgrade",
    run,
    outcomes: &["partial", "other", "upgraded", "with token", "400", "401", "426", "431", "answered"],
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const OFFERED: [&str; 2] = ["carillon.v1.json", "carillon.v1.rkyv"];

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&form, data)) = data.split_first() else { return };
    let bytes = match form % 4 {
        0 | 1 => data.to_vec(),
        2 => head(&mut Draw::new(data)),
        _ => of_our_client(&mut Draw::new(data)),
    };
    read(&bytes, usize::from(form >> 2), reached);
    answer(&bytes, reached);
}

fn read(bytes: &[u8], step_bytes: usize, reached: &mut Reached) {
    let whole = handshake::parse(bytes);
    let mut growing = Head::new();
    // Byte by byte, or in larger steps; whatever it says first, it says of the whole.
    let ends = (0..bytes.len()).step_by(1 + step_bytes).chain([bytes.len()]);
    let first = ends.map(|end| growing.parse(&bytes[..end])).find(|progress| *progress != Progress::Partial);
    assert_eq!(first.unwrap_or(Progress::Partial), whole, "at once, and as it grows");

    match whole {
        Progress::Partial => {
            assert!(bytes.len() < handshake::HEAD_BYTES_MAX, "a head without an end is refused");
            reached.meet("partial");
        }
        Progress::Other => reached.meet("other"),
        Progress::Complete(request, head_bytes) => {
            upgraded(&request, &bytes[..head_bytes]);
            reached.meet(if request.bearer.is_some() { "with token" } else { "upgraded" });
        }
        Progress::Refused(rejection) => {
            let response = rejection.response("made-here");
            let (status, body) = refusal(&response);
            assert_eq!(status, rejection.status);
            assert_eq!(body["error"]["code"], rejection.code.row().name);
            assert_eq!(body["error"]["request_id"], rejection.request_id.unwrap_or("made-here"));
            reached.meet(match status {
                400 => "400",
                401 => "401",
                426 => "426",
                431 => "431",
                other => panic!("status {other}"),
            });
        }
    }
}

/// What was let through is sound, tungstenite lets it through as well, and a client takes the answer.
fn upgraded(request: &Request<'_>, head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    let token = request.bearer.map(|bearer| bearer.reveal());
    assert!(token.is_none_or(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())));
    assert!(token.is_none_or(|token| token.len() < 20 || !format!("{:?}", request.bearer).contains(token)));

    let response = request.response();
    let offered = &request.offered;
    match handshake::parse_response(&response, request.key, offered) {
        Answer::Accepted { subprotocol, consumed } => {
            assert_eq!(consumed, response.len());
            assert_eq!(subprotocol, request.is_selected.then(|| request.subprotocol.name()));
        }
        other => panic!("our own client says {other:?}"),
    }

    // `http` takes fewer queries than we do, and we look at none.
    let Ok(Some((theirs_bytes, theirs))) = server::Request::try_parse(head) else { return };
    assert_eq!(theirs_bytes, head.len(), "both see the same end");
    match server::create_response(&theirs) {
        Ok(answer) => {
            let accept = answer.headers()["sec-websocket-accept"].as_bytes();
            assert!(response.windows(accept.len()).any(|window| window == accept));
        }
        Err(error) => {
            // It takes the first `Connection` alone, and no list in `Upgrade`.
            let headers = theirs.headers();
            let is_list = !headers["upgrade"].as_bytes().eq_ignore_ascii_case(b"websocket");
            let is_split = headers.get_all("connection").iter().count() > 1
                || headers["connection"].as_bytes().contains(&b'\t');
            assert!(is_list || is_split, "tungstenite refuses: {error}");
        }
    }
}

/// The status and the body of a refusal, which has to be one whole HTTP answer.
fn refusal(response: &[u8]) -> (u16, serde_json::Value) {
    let Answer::Refused { status, consumed } = handshake::parse_response(response, KEY, &[]) else {
        panic!("no refusal: {}", String::from_utf8_lossy(response));
    };
    let (head, body) = response.split_at(consumed);
    let length = format!("\r\nContent-Length: {}\r\n", body.len());
    assert!(head.windows(length.len()).any(|window| window == length.as_bytes()), "its length is announced");
    (status, serde_json::from_slice(body).expect("the body is JSON"))
}

/// The same bytes as what a server says.
fn answer(bytes: &[u8], reached: &mut Reached) {
    match handshake::parse_response(bytes, KEY, &OFFERED) {
        Answer::Accepted { consumed, subprotocol } => {
            assert!(consumed <= bytes.len() && subprotocol.is_none_or(|name| OFFERED.contains(&name)));
            reached.meet("answered");
        }
        Answer::Refused { consumed, .. } => assert!(consumed <= bytes.len()),
        Answer::Partial | Answer::Invalid(_) => {}
    }
}

/// A head of the usual lines, in any order and number, with values that are right more often than not.
fn head(draw: &mut Draw<'_>) -> Vec<u8> {
    const LINES: [&[u8]; 6] = [
        b"GET /v1/ws HTTP/1.1",
        b"GET /v1/ws?x=1 HTTP/1.1",
        b"GET /v1/ws HTTP/1.0",
        b"GET /v1/wss HTTP/1.1",
        b"POST /v1/ws HTTP/1.1",
        b"HTTP/1.1 101 Switching Protocols",
    ];
    const RIGHT: [(&str, &[u8]); 6] = [
        ("Host", b"h"),
        ("Upgrade", b"websocket"),
        ("Connection", b"Upgrade"),
        ("Sec-WebSocket-Version", b"13"),
        ("Sec-WebSocket-Key", KEY.as_bytes()),
        ("Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    const NAMES: [&str; 16] = [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Accept",
        "Authorization",
        "Origin",
        "Content-Length",
        "Transfer-Encoding",
        "X-Request-Id",
        "x",
        "sec-websocket-key",
        "CONNECTION",
    ];
    const VALUES: [&[u8]; 16] = [
        b"websocket",
        b"Upgrade",
        b"keep-alive, Upgrade",
        b"13",
        KEY.as_bytes(),
        b"carillon.v1.json",
        b"carillon.v1.rkyv, bearer.aaa.bbb.ccc",
        b"bearer.aaa.bbb.ccc",
        b"Bearer aaa.bbb.ccc",
        b"https://example.org",
        b"0",
        b"chunked",
        b"",
        b"8",
        b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"permessage-deflate",
    ];
    let mut out = draw.pick(&LINES).to_vec();
    let end: &[u8] = draw.pick(&[b"\r\n" as &[u8], b"\r\n", b"\r\n", b"\n"]);
    out.extend_from_slice(end);
    // What a bit of this leaves out is missing.
    let left_out = draw.byte();
    for (index, (name, value)) in RIGHT.iter().enumerate() {
        if left_out >> index & 1 == 0 {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
    for _ in 0..80 {
        if draw.is_empty() {
            break;
        }
        let plan = draw.byte();
        out.extend_from_slice(NAMES[usize::from(plan & 15)].as_bytes());
        out.extend_from_slice(if plan & 0x40 == 0 { b": " } else { b":\t " });
        if plan & 0x80 == 0 {
            out.extend_from_slice(draw.pick(&VALUES));
        } else {
            out.extend_from_slice(draw.bytes(200));
        }
        out.extend_from_slice(if plan & 0x20 == 0 { b"\r\n" } else { end });
    }
    out.extend_from_slice(end);
    out.extend_from_slice(draw.bytes(20));
    out
}

fn of_our_client(draw: &mut Draw<'_>) -> Vec<u8> {
    let key = handshake::encode_key(draw.array());
    let offered: Vec<_> = (0..draw.below(3)).map(|_| draw.text(40)).chain([OFFERED[0].into()]).collect();
    let offered: Vec<&str> = offered.iter().map(|name| name.as_ref()).collect();
    let token = draw.flag().then(|| draw.text(80));
    let host = draw.text(20);
    handshake::request(&host, handshake::PATH, &key, &offered, token.as_deref())
}
