//! What is said, and what has to be heard, as in `handshakes.rs`: one row a case.
//!
//! Where RFC 6455 or RFC 9110 and 9112 leave a choice, the stricter one is expected: what two readers could understand
//! differently is refused.

use carillon_protocol::limits::TOKEN_BYTES_MAX;

use crate::raw::masked;

/// A connection from its first byte to its last.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is odd about it.
    pub name: String,
    /// The request, or what stands in its place.
    pub head: Vec<u8>,
    /// What is said after it.
    pub frames: Vec<u8>,
    /// Whether the client says that it has no more to say: the end of its stream.
    pub ends: bool,
    /// What has to be heard, to the end of the connection.
    pub expected: String,
}

/// The lines of a sound request. Cases change one at a time.
const SOUND: [&str; 6] = [
    "GET /v1/ws HTTP/1.1",
    "Host: chat.example:8080",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];
/// The answer to a sound request, and to the goodbye behind it.
const UPGRADED: &str = "101, hello, close 1000";
const HEARTBEAT: &[u8] = br#"{"type":"heartbeat"}"#;
/// The answer to [`HEARTBEAT`] of who has not identified: it was read.
const READ: &str = "error unauthenticated";
const BAD: &str = "400 bad_request";
const UPGRADE_REQUIRED: &str = "426 bad_request";
const NO_TOKEN: &str = "401 unauthenticated";
const TOO_LARGE: &str = "431 too_large";
/// What hyper answers to what is no request: a status and nothing else.
const NO_REQUEST: &str = "400";
/// `limits.frame_bytes`.
const FRAME_BYTES_MAX: usize = 65_536;
/// As handshake.rs has them.
const HEAD_BYTES_MAX: usize = 8_192;
const HEADERS_MAX: usize = 64;
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Without FIN.
const TEXT_BEGINS: u8 = 0x01;
const BINARY_BEGINS: u8 = 0x02;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;

/// Every case but those of [`silent`]. `token` is a good one.
#[must_use]
pub fn all(token: &str) -> Vec<Case> {
    let mut list = List::default();
    request_lines(&mut list);
    each_header(&mut list);
    values(&mut list);
    tokens(&mut list, token);
    sizes(&mut list);
    headers(&mut list);
    lengths(&mut list);
    fragments(&mut list);
    control(&mut list);
    text(&mut list);
    closes(&mut list);
    odd_but_allowed(&mut list);
    list.cases
}

/// Cases in which the client says too little: a deadline ends them.
#[must_use]
pub fn silent() -> Vec<Case> {
    let mut list = List::default();
    let long = "x".repeat(HEAD_BYTES_MAX - SOUND[0].len() - 2 - 6);
    for (name, head) in [
        ("nothing is said", String::new()),
        ("one letter is said", "G".to_owned()),
        ("a request line without an end", "GET /v1/ws HTTP/1.1".to_owned()),
        ("a head without an end", SOUND.join("\r\n")),
        ("a head that lacks its last byte", SOUND.join("\r\n") + "\r\n\r"),
        ("a head of the greatest length without an end", format!("{}\r\nX: {long}", SOUND[0])),
        ("lines that end with LF alone, and no end", SOUND.join("\n") + "\n\n"),
    ] {
        list.heard(name, head, &[], "");
    }
    for (name, frames) in [
        ("an upgrade and nothing more", vec![]),
        ("half of a frame's header", vec![0x81]),
        ("a frame without its last byte", masked(TEXT, HEARTBEAT)[..20].to_vec()),
        ("a message without its last fragment", masked(TEXT_BEGINS, b"{")),
        ("pongs, and half of a message", [masked(TEXT_BEGINS, b"{"), masked(PONG, b"")].concat()),
    ] {
        list.heard(name, sound(), &frames, "101, hello, close 4003");
    }
    list.cases
}

#[derive(Default)]
struct List {
    cases: Vec<Case>,
}

impl List {
    fn heard(&mut self, name: impl Into<String>, head: impl Into<Vec<u8>>, frames: &[u8], expected: &str) {
        let (name, head, frames) = (name.into(), head.into(), frames.to_vec());
        self.cases.push(Case { name, head, frames, ends: false, expected: expected.to_owned() });
    }

    /// A request that is odd and good: behind it the client says goodbye.
    fn upgraded(&mut self, name: impl Into<String>, head: impl Into<Vec<u8>>) {
        self.heard(name, head, &goodbye(), UPGRADED);
    }

    fn refused(&mut self, name: impl Into<String>, head: impl Into<Vec<u8>>, expected: &str) {
        self.heard(name, head, &[], expected);
    }

    /// Frames behind a sound request; `expected` follows the hello.
    fn frames(&mut self, name: impl Into<String>, frames: &[u8], expected: &str) {
        self.heard(name, sound(), frames, &format!("101, hello, {expected}"));
    }

    /// Frames that are allowed: the goodbye behind them is heard.
    fn allowed(&mut self, name: impl Into<String>, frames: &[u8], expected: &str) {
        let comma = if expected.is_empty() { "" } else { ", " };
        self.frames(name, &[frames, &goodbye()].concat(), &format!("{expected}{comma}close 1000"));
    }
}

fn goodbye() -> Vec<u8> {
    masked(CLOSE, &1_000_u16.to_be_bytes())
}

fn head(lines: &[&str]) -> Vec<u8> {
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

fn sound() -> Vec<u8> {
    head(&SOUND)
}

/// The sound request with more lines.
fn with(more: &[&str]) -> Vec<u8> {
    head(&[&SOUND, more].concat())
}

/// The sound request with another line in the place of the one that begins like this; bytes, because some are no text.
fn instead(name: &str, line: Option<&[u8]>) -> Vec<u8> {
    let lines = SOUND.iter().filter_map(|sound| match sound.starts_with(name) {
        true => line.map(<[u8]>::to_vec),
        false => Some(sound.as_bytes().to_vec()),
    });
    let lines: Vec<Vec<u8>> = lines.collect();
    [lines.join(&b"\r\n"[..]), b"\r\n\r\n".to_vec()].concat()
}

/// What is no request for the WebSocket is the HTTP server's.
fn request_lines(list: &mut List) {
    let line = |text: &str| instead("GET", Some(text.as_bytes()));
    for text in [
        "GET /v1/ws HTTP/1.0",
        "GET /v1/ws HTTP/0.9",
        "GET /v1/ws HTTP/1.2",
        "GET /v1/ws HTTP/1.10",
        "GET /v1/ws HTTP/2.0",
        "GET /v1/ws http/1.1",
        "GET /v1/ws HTTP/1.1 ",
        "GET /v1/ws HTTP/1.1 x",
        "GET /v1/ws HTTP/1,1",
        "GET /v1/ws  HTTP/1.1",
        "GET /v1/ws\tHTTP/1.1",
        "GET /v1/ws?a b HTTP/1.1",
        "GET /v1/ws?\u{0} HTTP/1.1",
        "GET /v1/ws? ",
    ] {
        let is_ours = text.starts_with("GET /v1/ws ") || text.starts_with("GET /v1/ws?");
        list.refused(format!("{text:?}"), line(text), if is_ours { BAD } else { NO_REQUEST });
    }
    for text in ["GET /v1/ws? HTTP/1.1", "GET /v1/ws?token=a.b.c&x=%20 HTTP/1.1", "GET /v1/ws?%zz HTTP/1.1"] {
        list.upgraded(format!("{text:?}"), line(text));
    }
    // Not this path, or not this method: the HTTP server says so.
    for text in [
        "GET /v1/ws/ HTTP/1.1",
        "GET /v1/wss HTTP/1.1",
        "GET /v1/WS HTTP/1.1",
        "GET /V1/ws HTTP/1.1",
        "GET //v1/ws HTTP/1.1",
        "GET /v1//ws HTTP/1.1",
        "GET /v1/./ws HTTP/1.1",
        "GET /v1/%77s HTTP/1.1",
        "GET /v1/ws%20 HTTP/1.1",
        "GET /v1/ws;a HTTP/1.1",
        "GET /ws HTTP/1.1",
    ] {
        list.refused(format!("{text:?}"), line(text), "404 not_found");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "Get", "WEBSOCKET"] {
        let name = format!("the method {method}");
        list.refused(name, line(&format!("{method} /v1/ws HTTP/1.1")), "405 bad_request");
    }
    for (name, text) in [
        ("no version", "GET /v1/ws"),
        ("no path", "GET"),
        ("no method", "/v1/ws HTTP/1.1"),
        ("two spaces", "GET  /v1/ws HTTP/1.1"),
        ("a method with a colon", "GET: /v1/ws HTTP/1.1"),
        ("a method that is no ASCII", "GÉT /v1/ws HTTP/1.1"),
        ("a space first", " GET /v1/ws HTTP/1.1"),
        ("PROXY protocol 1, which was not asked for", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2"),
        ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0"),
        ("another protocol", "SSH-2.0-OpenSSH_9.6"),
    ] {
        list.refused(name, line(text), NO_REQUEST);
    }
    let hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n".to_vec();
    list.refused("TLS, which was not asked for", hello, NO_REQUEST);
    let over = format!("GET /v1/ws?{} HTTP/1.1", "a".repeat(HEAD_BYTES_MAX));
    list.refused("a query that is longer than a head", line(&over), TOO_LARGE);
}

/// The same damage to each header that an upgrade needs. In each row: what is answered when it is not there, when it is
/// empty, when it is there twice, twice with another value, and when its value has something behind it.
fn each_header(list: &mut List) {
    for (name, value, other, [missing, empty, twice, twice_different, more]) in [
        ("Host", "chat.example:8080", "other.example", [BAD; 5]),
        ("Upgrade", "websocket", "h2c", [UPGRADE_REQUIRED, BAD, BAD, BAD, BAD]),
        // A list in several lines is one list (RFC 9110 section 5.3).
        ("Connection", "Upgrade", "keep-alive", [BAD, BAD, UPGRADED, UPGRADED, BAD]),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA==", [BAD; 5]),
        (
            "Sec-WebSocket-Version",
            "13",
            "8",
            [UPGRADE_REQUIRED, UPGRADE_REQUIRED, BAD, BAD, UPGRADE_REQUIRED],
        ),
    ] {
        let mut row = |what: &str, line: Option<&[u8]>, expected: &str| {
            let frames = if expected == UPGRADED { goodbye() } else { Vec::new() };
            list.heard(format!("{name} {what}"), instead(name, line), &frames, expected);
        };
        let mut line = |what: &str, text: String, expected: &str| row(what, Some(text.as_bytes()), expected);
        line("is empty", format!("{name}:"), empty);
        line("is white space", format!("{name}: \t "), empty);
        line("is there twice", format!("{name}: {value}\r\n{name}: {value}"), twice);
        line("is there twice, and different", format!("{name}: {value}\r\n{name}: {other}"), twice_different);
        line(
            "is there twice, and different, the other way round",
            format!("{name}: {other}\r\n{name}: {value}"),
            twice_different,
        );
        line("has no space", format!("{name}:{value}"), UPGRADED);
        line("has tabs around", format!("{name}:\t{value}\t"), UPGRADED);
        line("has spaces around", format!("{name}:   {value}   "), UPGRADED);
        line("in small letters", format!("{}: {value}", name.to_ascii_lowercase()), UPGRADED);
        line("in capitals", format!("{}: {value}", name.to_ascii_uppercase()), UPGRADED);
        line("has a space before its colon", format!("{name} : {value}"), BAD);
        line("has a tab before its colon", format!("{name}\t: {value}"), BAD);
        line("has a space before its name", format!(" {name}: {value}"), BAD);
        line("is folded", format!("{name}:\r\n {value}"), BAD);
        line("is folded behind its value", format!("{name}: {value}\r\n\t"), BAD);
        line("has no colon", format!("{name} {value}"), BAD);
        line("has a quote in its name", format!("\"{name}\": {value}"), BAD);
        line("ends with LF alone", format!("{name}: {value}\nX-More: x"), BAD);
        line("has CR in it", format!("{name}: {value}\rX-More: x"), BAD);
        line("has CR, CR and LF at its end", format!("{name}: {value}\r\r\nX-More: x"), BAD);
        line("has NUL in it", format!("{name}: {value}\u{0}"), BAD);
        line("has DEL in it", format!("{name}: {value}\u{7f}"), BAD);
        line("is far too long", format!("{name}: {value}{}", "x".repeat(HEAD_BYTES_MAX)), TOO_LARGE);
        line("has a space and more behind it", format!("{name}: {value} x"), more);
        row(
            "has a byte behind it that is no ASCII",
            Some(&[format!("{name}: {value}").as_bytes(), b"\xff"].concat()),
            more,
        );
        row("is not there", None, missing);
    }
}

fn values(list: &mut List) {
    let value = |list: &mut List, name: &str, value: &str, expected: &str| {
        let line = format!("{name}: {value}");
        let bytes = match SOUND.iter().any(|sound| sound.starts_with(name)) {
            true => instead(name, Some(line.as_bytes())),
            false => with(&[&line]),
        };
        let frames = if expected.starts_with("101") { goodbye() } else { Vec::new() };
        list.heard(line.escape_default().to_string(), bytes, &frames, expected);
    };
    for (host, expected) in [
        ("a", UPGRADED),
        ("127.0.0.1:8080", UPGRADED),
        ("[::1]:8080", UPGRADED),
        ("a_b.example", UPGRADED),
        ("a b", BAD),
        ("a/b", BAD),
        ("a,b", BAD),
        ("user@a", BAD),
        ("http://a", BAD),
        ("a?b", BAD),
        ("a#b", BAD),
        ("<a>", BAD),
        ("\"a\"", BAD),
    ] {
        value(list, "Host", host, expected);
    }
    for (upgrade, expected) in [
        ("WebSocket", UPGRADED),
        ("WEBSOCKET", UPGRADED),
        ("h2c, websocket", UPGRADED),
        ("websocket, h2c", UPGRADED),
        (",websocket,", UPGRADED),
        ("websockets", BAD),
        ("web socket", BAD),
        ("web-socket", BAD),
        ("websocket/13", BAD),
        ("websocket;q=1", BAD),
        ("\"websocket\"", BAD),
        ("h2c", BAD),
        ("TLS/1.0", BAD),
    ] {
        value(list, "Upgrade", upgrade, expected);
    }
    for (connection, expected) in [
        ("upgrade", UPGRADED),
        ("UPGRADE", UPGRADED),
        ("keep-alive, Upgrade", UPGRADED),
        ("Upgrade,keep-alive", UPGRADED),
        (",,Upgrade,,", UPGRADED),
        ("keep-alive", BAD),
        ("close", BAD),
        ("upgraded", BAD),
        ("Up-grade", BAD),
        ("Upgrade;q=1", BAD),
        ("keep-alive Upgrade", BAD),
    ] {
        value(list, "Connection", connection, expected);
    }
    for (key, expected) in [
        ("AAAAAAAAAAAAAAAAAAAAAA==", UPGRADED),
        ("/////////////////////w==", UPGRADED),
        ("dGhlIHNhbXBsZSBub25j", BAD),
        ("dGhlIHNhbXBsZSBub25jZWU=", BAD),
        ("dGhlIHNhbXBsZSBub25jZWVl", BAD),
        ("dGhlIHNhbXBsZSBub25jZQ", BAD),
        ("dGhlIHNhbXBsZSBub25jZQ=", BAD),
        ("dGhlIHNhbXBsZSBub25jZQ===", BAD),
        ("dGhlIHNhbXBsZSBub25jZR==", BAD),
        ("____________________-w==", BAD),
        ("dGhlIHNhbXBs ZSBub25jZQ==", BAD),
        ("\"dGhlIHNhbXBsZSBub25jZQ==\"", BAD),
        ("????????????????????????", BAD),
        ("dGhlIHNhbXBsZSBub25jZQ==,AAAAAAAAAAAAAAAAAAAAAA==", BAD),
        ("==", BAD),
        ("A", BAD),
    ] {
        value(list, "Sec-WebSocket-Key", key, expected);
    }
    for version in [
        "0", "1", "7", "8", "12", "14", "25", "255", "013", "+13", "-13", "13.0", "0x0d", "13, 8", "13,13",
        "1 3",
    ] {
        value(list, "Sec-WebSocket-Version", version, UPGRADE_REQUIRED);
    }
    for (origin, expected) in [
        ("http://localhost", UPGRADED),
        ("http://localhost:3000", UPGRADED),
        ("http://127.0.0.1:8080", UPGRADED),
        ("https://[::1]:3000", UPGRADED),
        ("https://evil.example", "403 forbidden"),
        ("null", "403 forbidden"),
        ("file://", "403 forbidden"),
        ("localhost", "403 forbidden"),
        ("HTTP://LOCALHOST", "403 forbidden"),
        ("http://localhost/", "403 forbidden"),
        ("http://localhost.evil.example", "403 forbidden"),
        ("http://evil.example/localhost", "403 forbidden"),
        ("http://localhost@evil.example", "403 forbidden"),
        ("http://127.0.0.1.evil.example", "403 forbidden"),
        ("http://localhost:", "403 forbidden"),
        ("http://localhost:123456", "403 forbidden"),
        ("", BAD),
        ("a b", BAD),
        ("http://localhost\r\nOrigin: http://localhost", BAD),
    ] {
        value(list, "Origin", origin, expected);
    }
    for (protocol, expected) in [
        ("carillon.v1.json", "101 carillon.v1.json, hello, close 1000"),
        ("carillon.v1.rkyv", "101 carillon.v1.rkyv, hello, close 1000"),
        ("chat, carillon.v1.rkyv, carillon.v1.json", "101 carillon.v1.rkyv, hello, close 1000"),
        (",, carillon.v1.json ,", "101 carillon.v1.json, hello, close 1000"),
        ("carillon.v1.json, carillon.v1.json", "101 carillon.v1.json, hello, close 1000"),
        ("chat\r\nSec-WebSocket-Protocol: carillon.v1.json", "101 carillon.v1.json, hello, close 1000"),
        ("", UPGRADED),
        (",", UPGRADED),
        ("chat", BAD),
        ("CARILLON.V1.JSON", BAD),
        ("carillon.v1.json2", BAD),
        ("carillon.v1.json carillon.v1.rkyv", BAD),
        ("carillon.v1.json;q=1", BAD),
        ("\"carillon.v1.json\"", BAD),
        ("carillon.v1.json, (", BAD),
    ] {
        value(list, "Sec-WebSocket-Protocol", protocol, expected);
    }
    for (name, text, expected) in [
        ("Content-Length", "0", UPGRADED),
        ("Content-Length", "1", BAD),
        ("Content-Length", "00", BAD),
        ("Content-Length", "+0", BAD),
        ("Content-Length", "-1", BAD),
        ("Content-Length", "0, 0", BAD),
        ("Content-Length", "0\r\nContent-Length: 0", BAD),
        ("Content-Length", "18446744073709551616", BAD),
        ("Content-Length", "", BAD),
        ("Transfer-Encoding", "chunked", BAD),
        ("Transfer-Encoding", "identity", BAD),
        ("Transfer-Encoding", "", BAD),
        ("Transfer-Encoding", "chunked\r\nContent-Length: 0", BAD),
        ("Sec-WebSocket-Extensions", "permessage-deflate", UPGRADED),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits=8, x-webkit-deflate-frame",
            UPGRADED,
        ),
        ("Sec-WebSocket-Extensions", "((((", UPGRADED),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", UPGRADED),
        ("Cookie", "session=1; token=a.b.c", UPGRADED),
        ("Expect", "100-continue", UPGRADED),
        ("X-Request-Id", "a b", UPGRADED),
        ("X-Forwarded-For", "10.0.0.1", UPGRADED),
    ] {
        value(list, name, text, expected);
    }
}

fn tokens(list: &mut List, token: &str) {
    list.upgraded("a token", with(&[&format!("Authorization: Bearer {token}")]));
    list.upgraded("a token behind bEARER and spaces", with(&[&format!("authorization: bEARER   {token}")]));
    let offered = format!("Sec-WebSocket-Protocol: bearer.{token}, carillon.v1.json");
    list.heard(
        "a token among the subprotocols",
        with(&[&offered]),
        &goodbye(),
        "101 carillon.v1.json, hello, close 1000",
    );
    let (payload_begins, payload_ends) = (token.find('.').unwrap_or(0), token.rfind('.').unwrap_or(0));
    let (unsigned, signature) = (&token[..payload_ends], &token[payload_ends + 1..]);
    let payload = &token[payload_begins + 1..payload_ends];
    // {"alg":"none","typ":"JWT"}
    let without = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    for (name, authorization) in [
        ("nothing", String::new()),
        ("a scheme alone", "Bearer".to_owned()),
        ("a scheme and a space", "Bearer ".to_owned()),
        ("padding alone", "Bearer =".to_owned()),
        ("two words", "Bearer a b".to_owned()),
        ("no JWT", "Bearer a.b.c".to_owned()),
        ("a quote", "Bearer a\"b".to_owned()),
        ("two dots", "Bearer ..".to_owned()),
        ("another scheme", "Basic dXNlcjpwYXNzd29yZA==".to_owned()),
        ("a scheme with parameters", "Digest a=b".to_owned()),
        ("no scheme", token.to_owned()),
        ("a scheme without a space", format!("Bearer{token}")),
        ("a comma for a space", format!("Bearer,{token}")),
        ("a list of two", format!("Bearer {token}, Bearer {token}")),
        ("two lines", format!("Bearer {token}\r\nAuthorization: Bearer {token}")),
        ("an empty signature", format!("Bearer {unsigned}.")),
        ("no signature", format!("Bearer {unsigned}")),
        ("another signature", format!("Bearer {unsigned}.{}", signature.chars().rev().collect::<String>())),
        ("padding", format!("Bearer {token}=")),
        ("a fourth part", format!("Bearer {token}.{signature}")),
        ("the algorithm none", format!("Bearer {without}")),
        ("the algorithm none, signed", format!("Bearer {without}{signature}")),
        ("the greatest length", format!("Bearer {}", "a".repeat(TOKEN_BYTES_MAX))),
        ("one byte more", format!("Bearer {}", "a".repeat(TOKEN_BYTES_MAX + 1))),
    ] {
        let line = format!("Authorization: {authorization}");
        list.refused(format!("for a token {name}"), with(&[&line]), NO_TOKEN);
    }
    for protocol in
        ["carillon.v1.json, bearer.", "carillon.v1.json, bearer.a!b", "carillon.v1.json, bearer.a.b.c"]
    {
        list.refused(
            format!("offered: {protocol}"),
            with(&[&format!("Sec-WebSocket-Protocol: {protocol}")]),
            NO_TOKEN,
        );
    }
    let alone = format!("Sec-WebSocket-Protocol: bearer.{token}");
    list.refused("only a token is offered", with(&[&alone]), BAD);
}

fn sizes(list: &mut List) {
    let padded = |bytes: usize| {
        let padding = "x".repeat(bytes - with(&["Pad: "]).len());
        with(&[&format!("Pad: {padding}")])
    };
    list.upgraded("a head of the greatest length", padded(HEAD_BYTES_MAX));
    list.refused("a head of one byte more", padded(HEAD_BYTES_MAX + 1), TOO_LARGE);
    list.refused("a head of 64 KiB", padded(65_536), TOO_LARGE);
    let more = |count: usize| with(&vec!["A: b"; count - (SOUND.len() - 1)]);
    list.upgraded("as many headers as there may be", more(HEADERS_MAX));
    list.refused("one header more", more(HEADERS_MAX + 1), TOO_LARGE);
    list.refused("a thousand headers", more(1_000), TOO_LARGE);
    list.refused("a header without a name", with(&[": x"]), BAD);
    list.refused("a line that is no header", with(&["x"]), BAD);
    list.refused("a name that is no ASCII", with(&["É: x"]), BAD);
    list.refused("a name with brackets", with(&["X[]: x"]), BAD);
    list.refused(
        "lines that end with LF alone, and an end",
        [SOUND.join("\n").as_bytes(), b"\r\n\r\n"].concat(),
        BAD,
    );
    list.refused("an end of LF alone inside a head", with(&["X: a\n\nGET /v1/users/me HTTP/1.1"]), BAD);
    for (name, said) in [
        ("nothing, and the end", String::new()),
        ("half a head, and the end", SOUND.join("\r\n")),
        ("an empty line, and the end", "\r\n".to_owned()),
    ] {
        list.cases.push(Case {
            name: name.to_owned(),
            head: said.into_bytes(),
            frames: Vec::new(),
            ends: true,
            expected: String::new(),
        });
    }
}

/// Bits and opcodes (RFC 6455 section 5.2), and masks (section 5.1).
fn headers(list: &mut List) {
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        list.frames(format!("opcode {opcode:x}"), &masked(0x80 | opcode, b""), "close 1002");
        list.frames(
            format!("opcode {opcode:x} with a payload, to be continued"),
            &masked(opcode, b"{}"),
            "close 1002",
        );
    }
    for first in [TEXT, BINARY, CLOSE, PING, PONG, ENDS, TEXT_BEGINS] {
        for bits in [0x40, 0x20, 0x10, 0x70] {
            list.frames(
                format!("reserved bits {bits:x} on {first:x}"),
                &masked(first | bits, b""),
                "close 1002",
            );
        }
        let unmasked = |payload: &[u8]| [&[first, payload.len().to_le_bytes()[0]], payload].concat();
        list.frames(format!("no mask on {first:x}"), &unmasked(b"{}"), "close 1002");
        list.frames(format!("no mask on {first:x}, which is empty"), &unmasked(b""), "close 1002");
    }
    let second = [masked(TEXT, HEARTBEAT), vec![TEXT, 2, b'{', b'}']].concat();
    list.frames("no mask on the second message", &second, &format!("{READ}, close 1002"));
    for mask in [[0; 4], [0xff; 4], [0, 0, 0, 1], *b"GET "] {
        list.allowed(format!("the mask {mask:x?}"), &masked_by(TEXT, HEARTBEAT, mask), READ);
    }
}

fn masked_by(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | payload.len().to_le_bytes()[0]];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame with its length in this form: 126 for 16 bits, 127 for 64; the mask is zero.
fn of_form(first: u8, form: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | form];
    match form {
        126 => bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()),
        _ => bytes.extend(length.to_be_bytes()),
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn lengths(list: &mut List) {
    for length in [0, 1, 125] {
        let payload = vec![b' '; length];
        let frame = of_form(TEXT, 126, length as u64, &payload);
        list.frames(format!("a length of {length} in 16 bits"), &frame, "close 1002");
    }
    for length in [0, 1, 125, 126, 65_535] {
        let payload = vec![b' '; length];
        let frame = of_form(TEXT, 127, length as u64, &payload);
        list.frames(format!("a length of {length} in 64 bits"), &frame, "close 1002");
    }
    // From the header alone: nothing of it follows.
    for length in [1 << 63, (1 << 63) + 5, u64::MAX] {
        list.frames(format!("a length of {length:#x}"), &of_form(TEXT, 127, length, b""), "close 1002");
        list.frames(
            format!("a binary length of {length:#x}"),
            &of_form(BINARY, 127, length, b""),
            "close 1002",
        );
    }
    for length in [65_537, 1 << 24, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1] {
        list.frames(format!("a length of {length:#x}"), &of_form(TEXT, 127, length, b""), "close 1009");
        let later = [masked(TEXT_BEGINS, b"{"), of_form(ENDS, 127, length, b"")].concat();
        list.frames(format!("a fragment of {length:#x}"), &later, "close 1009");
    }
    for first in [PING, PONG, CLOSE] {
        for (form, length) in [(126, 126), (126, 65_535), (127, 65_536), (127, (1 << 63) - 1)] {
            let frame = of_form(first, form, length, b"");
            list.frames(format!("{first:x} of {length} bytes"), &frame, "close 1002");
        }
        list.frames(
            format!("{first:x} of 2 bytes in 16 bits"),
            &of_form(first, 126, 2, b"\x03\xe8"),
            "close 1002",
        );
        list.frames(
            format!("{first:x} of 2 bytes in 64 bits"),
            &of_form(first, 127, 2, b"\x03\xe8"),
            "close 1002",
        );
    }
    let padded = |bytes: usize| [&vec![b' '; bytes - HEARTBEAT.len()][..], HEARTBEAT].concat();
    for bytes in [125, 126, 127, 65_535, FRAME_BYTES_MAX] {
        list.allowed(format!("a message of {bytes} bytes"), &masked(TEXT, &padded(bytes)), READ);
    }
    list.frames("a message of one byte more", &masked(TEXT, &padded(FRAME_BYTES_MAX + 1)), "close 1009");
}

/// RFC 6455 section 5.4.
fn fragments(list: &mut List) {
    let pieces = |first: u8, payload: &[u8], each: usize| {
        let chunks: Vec<&[u8]> = payload.chunks(each).collect();
        let last = chunks.len() - 1;
        let frame = |(at, chunk): (usize, &&[u8])| {
            let bits = if at == 0 { first } else { GOES_ON };
            masked(if at == last { bits | ENDS } else { bits }, chunk)
        };
        chunks.iter().enumerate().flat_map(frame).collect::<Vec<u8>>()
    };
    let spaces = |bytes: usize| [&vec![b' '; bytes][..], HEARTBEAT].concat();
    list.allowed("a fragment a byte", &pieces(TEXT_BEGINS, HEARTBEAT, 1), READ);
    list.allowed("64 fragments", &pieces(TEXT_BEGINS, &spaces(64 - HEARTBEAT.len()), 1), READ);
    list.frames("65 fragments", &pieces(TEXT_BEGINS, &spaces(65 - HEARTBEAT.len()), 1), "close 1009");
    list.frames("a thousand fragments", &pieces(TEXT_BEGINS, &spaces(1_000), 1), "close 1009");
    list.frames("a thousand binary fragments", &pieces(BINARY_BEGINS, &spaces(1_000), 1), "close 1009");
    let nothing = [masked(TEXT_BEGINS, b""), masked(GOES_ON, b"").repeat(10_000)].concat();
    list.frames("ten thousand fragments of nothing", &nothing, "close 1009");
    list.frames(
        "fragments of 40,000 bytes, two",
        &pieces(TEXT_BEGINS, &spaces(79_980), 40_000),
        "close 1009",
    );
    list.allowed(
        "fragments of 32,768 bytes, two",
        &pieces(TEXT_BEGINS, &spaces(FRAME_BYTES_MAX - HEARTBEAT.len()), 32_768),
        READ,
    );
    list.allowed(
        "fragments of nothing around a message",
        &[masked(TEXT_BEGINS, b""), masked(GOES_ON, HEARTBEAT), masked(GOES_ON, b""), masked(ENDS, b"")]
            .concat(),
        READ,
    );
    for (name, frames) in [
        ("a continuation of nothing", vec![masked(ENDS, b"{}")]),
        ("a continuation of nothing, to be continued", vec![masked(GOES_ON, b"{}")]),
        ("text inside text", vec![masked(TEXT_BEGINS, b"{"), masked(TEXT, b"}")]),
        ("text that begins inside text", vec![masked(TEXT_BEGINS, b"{"), masked(TEXT_BEGINS, b"}")]),
        ("a binary message inside text", vec![masked(TEXT_BEGINS, b"{"), masked(BINARY, b"}")]),
        ("text inside a binary message", vec![masked(BINARY_BEGINS, b"{"), masked(TEXT, b"}")]),
        ("a reserved opcode inside text", vec![masked(TEXT_BEGINS, b"{"), masked(0x83, b"}")]),
        ("reserved bits on a continuation", vec![masked(TEXT_BEGINS, b"{"), masked(0xc0, b"}")]),
        ("no mask on a continuation", vec![masked(TEXT_BEGINS, b"{"), vec![ENDS, 1, b'}']]),
        ("a ping that is to be continued", vec![masked(0x09, b"x")]),
        ("a pong that is to be continued", vec![masked(0x0a, b"x")]),
        ("a close that is to be continued", vec![masked(0x08, &1_000_u16.to_be_bytes())]),
        ("a ping that is to be continued, and is", vec![masked(0x09, b"x"), masked(ENDS, b"y")]),
    ] {
        list.frames(name, &frames.concat(), "close 1002");
    }
    let after = [masked(TEXT, HEARTBEAT), masked(ENDS, b"{}")].concat();
    list.frames("a continuation of a whole message", &after, &format!("{READ}, close 1002"));
}

/// RFC 6455 section 5.5.
fn control(list: &mut List) {
    list.allowed("an empty ping", &masked(PING, b""), "pong \"\"");
    list.allowed("a ping", &masked(PING, b"hello"), "pong \"hello\"");
    list.allowed("a ping of bytes", &masked(PING, b"\x00\xff\xfe"), "pong \"\\x00\\xff\\xfe\"");
    list.allowed("a ping of 125 bytes", &masked(PING, &[b'x'; 125]), "pong 125 bytes");
    let many: Vec<u8> = (0..1_000).flat_map(|_| masked(PING, &[b'x'; 100])).collect();
    list.allowed("a thousand pings", &many, &vec!["pong 100 bytes"; 1_000].join(", "));
    let three = [masked(PING, b"1"), masked(PING, b"2"), masked(PING, b"3")].concat();
    list.allowed("three pings", &three, "pong \"1\", pong \"2\", pong \"3\"");
    list.allowed("a pong that nobody asked for", &masked(PONG, b"x"), "");
    list.allowed("a thousand pongs that nobody asked for", &masked(PONG, &[b'x'; 125]).repeat(1_000), "");
    let inside = [
        masked(TEXT_BEGINS, &HEARTBEAT[..5]),
        masked(PING, b"in"),
        masked(PONG, b""),
        masked(ENDS, &HEARTBEAT[5..]),
    ];
    list.allowed("a ping inside a message", &inside.concat(), &format!("pong \"in\", {READ}"));
    let then = [masked(PING, b"a"), masked(0x8f, b"")].concat();
    list.frames("a ping before a breach", &then, "pong \"a\", close 1002");
    let then = [masked(0x8f, b""), masked(PING, b"a")].concat();
    list.frames("a ping behind a breach", &then, "close 1002");
    let then = [masked(0x8f, b""), vec![b'x'; 100_000]].concat();
    list.frames("a breach, and much behind it", &then, "close 1002");
}

/// RFC 6455 section 8.1: UTF-8 as in RFC 3629, and a breach is seen as soon as it is certain.
fn text(list: &mut List) {
    for bytes in [
        &b"\x80"[..],
        b"\xbf",
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xc3\x28",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xce\xba\xff",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
    ] {
        list.frames(format!("text of {bytes:x?}"), &masked(TEXT, bytes), "close 1007");
    }
    let begun = |bytes: &[u8]| masked(TEXT_BEGINS, bytes);
    list.frames("the breach in the first fragment", &begun(b"{\xff"), "close 1007");
    list.frames(
        "the breach in a later fragment",
        &[begun(b"{"), masked(GOES_ON, b"\xff")].concat(),
        "close 1007",
    );
    list.frames(
        "a character that its second fragment breaks",
        &[begun(b"\xe2\x82"), masked(GOES_ON, b"\x28")].concat(),
        "close 1007",
    );
    list.frames(
        "a character that the last fragment cuts",
        &[begun(b"{"), masked(ENDS, b"\xe2")].concat(),
        "close 1007",
    );
    let early = [of_form(TEXT, 126, 1_000, b"{\xff")].concat();
    list.frames("the breach before the frame is whole", &early, "close 1007");
    let cut = [begun(b"\"\xf0\x9f"), masked(PING, b"in"), masked(ENDS, b"\x98\x80\"")].concat();
    list.allowed("a character in two fragments, and a ping between", &cut, "pong \"in\", error bad_request");
    for (name, bytes) in [
        ("text of nothing", &b""[..]),
        ("text of NUL", b"\x00"),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("a non-character", b"\"\xef\xbf\xbf\""),
        ("the last character there is", b"\"\xf4\x8f\xbf\xbf\""),
        ("no JSON", b"{"),
        ("JSON in JSON in JSON", &[b'['; 10_000]),
        ("two values", b"{}{}"),
        ("the same key twice", br#"{"type":"heartbeat","type":"heartbeat"}"#),
    ] {
        list.allowed(name, &masked(TEXT, bytes), "error bad_request");
    }
    let sixteen = masked(TEXT, b"{").repeat(16);
    let errors = vec!["error bad_request"; 16].join(", ");
    list.frames("sixteen malformed frames", &sixteen, &format!("{errors}, close 4503"));
    list.frames("a binary message on the text protocol", &masked(BINARY, HEARTBEAT), "close 1003");
    list.frames("an empty binary message on the text protocol", &masked(BINARY, b""), "close 1003");
    let rkyv = with(&["Sec-WebSocket-Protocol: carillon.v1.rkyv"]);
    for (name, frames) in
        [("text on the binary protocol", masked(TEXT, b"{}")), ("empty text on it", masked(TEXT, b""))]
    {
        list.heard(name, rkyv.clone(), &frames, "101 carillon.v1.rkyv, hello, close 1003");
    }
    let invalid = [masked(BINARY, b"\xff\xfe\xc0\xaf"), goodbye()].concat();
    list.heard(
        "bytes on the binary protocol",
        rkyv,
        &invalid,
        "101 carillon.v1.rkyv, hello, binary, close 1000",
    );
}

/// RFC 6455 sections 5.5.1 and 7.4, and the codes registered since.
fn closes(list: &mut List) {
    let close = |code: u16, reason: &[u8]| masked(CLOSE, &[&code.to_be_bytes(), reason].concat());
    for code in [
        1_000, 1_001, 1_002, 1_003, 1_007, 1_008, 1_009, 1_010, 1_011, 1_012, 1_013, 1_014, 3_000, 3_999,
        4_000, 4_999,
    ] {
        list.frames(format!("a close with {code}"), &close(code, b""), &format!("close {code}"));
    }
    for code in [0, 1, 999, 1_004, 1_005, 1_006, 1_015, 1_016, 1_100, 2_000, 2_999, 5_000, 65_535] {
        list.frames(format!("a close with {code}"), &close(code, b""), "close 1002");
    }
    list.frames("an empty close", &masked(CLOSE, b""), "close");
    list.frames("a close of one byte", &masked(CLOSE, b"\x03"), "close 1002");
    list.frames("a close with a reason", &close(1_000, b"bye"), "close 1000");
    list.frames("a close with the longest reason", &close(1_000, &[b'x'; 123]), "close 1000");
    list.frames("a close with a reason of one byte more", &close(1_000, &[b'x'; 124]), "close 1002");
    list.frames("a close with a reason that is no UTF-8", &close(1_000, b"\xff"), "close 1007");
    list.frames("a close with half a character", &close(1_000, b"\xe2\x82"), "close 1007");
    list.frames("two closes", &[close(1_000, b""), close(1_001, b"")].concat(), "close 1000");
    list.frames("text behind a close", &[goodbye(), masked(TEXT, HEARTBEAT)].concat(), "close 1000");
    list.frames("a ping behind a close", &[goodbye(), masked(PING, b"x")].concat(), "close 1000");
    list.frames("a breach behind a close", &[goodbye(), vec![0xff; 1_000]].concat(), "close 1000");
    list.frames("a close inside a message", &[masked(TEXT_BEGINS, b"{"), goodbye()].concat(), "close 1000");
    for (name, frames, expected) in [
        ("the end behind the upgrade", vec![], "101, hello"),
        ("the end behind half a frame", masked(TEXT, HEARTBEAT)[..10].to_vec(), "101, hello"),
        ("the end behind a goodbye", goodbye(), UPGRADED),
    ] {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        list.cases.push(Case { name, head: sound(), frames, ends: true, expected });
    }
}

/// Bytes that come with the upgrade, or right behind it.
fn odd_but_allowed(list: &mut List) {
    let messages = masked(TEXT, HEARTBEAT).repeat(10);
    list.allowed("ten messages at once", &messages, &[READ; 10].join(", "));
    list.frames("a second request behind the first", &sound(), "close 1002");
    list.frames("an empty line behind the request", &[b"\r\n", &goodbye()[..]].concat(), "close 1002");
    list.frames("zeros behind the request", &[0; 100], "close 1002");
    let keys =
        [masked_by(TEXT_BEGINS, &HEARTBEAT[..3], [9; 4]), masked_by(ENDS, &HEARTBEAT[3..], [1, 2, 3, 4])];
    list.allowed("another mask for each fragment", &keys.concat(), READ);
}
