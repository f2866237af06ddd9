//! The fine print on connecting: handshake, identify, heartbeat, tokens, closes.

use std::net::{IpAddr, Ipv4Addr};

use carillon_gateway::turn::{ConnectionId, Input};
use carillon_protocol::client::{Command, FrameId, Wire};
use carillon_protocol::frame::{Refused, Replaced, Revoked};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::Body;
use carillon_protocol::websocket::{Opcode, append_client_frame};

use crate::rig::{Client, Rig, Seen, Up, deliver_event, identify, live, send, settings, token, token_issued};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A deadline is noticed this long after it at the latest.
const TIMER_MS: u64 = 200;

/// What a raw request is answered: status line, and whether the connection ends.
fn request(rig: &mut Rig, address: IpAddr, headers: &str) -> (String, bool) {
    let connection = rig.accept(address);
    let upgrade = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    rig.received(connection, format!("GET /v1/ws HTTP/1.1\r\n{upgrade}{headers}\r\n").as_bytes());
    let socket = &rig.sockets[&connection];
    let status = String::from_utf8_lossy(&socket.bytes).split("\r\n").next().unwrap_or("").to_owned();
    (status, socket.is_closed)
}

/// Security, handshake: who is let in, who is refused with which status, before any frame.
#[test]
fn handshakes_are_let_in_or_refused() {
    let good = token(1, "phone", 3_600);
    let expired = token(1, "phone", -31);
    let in_leeway = token(1, "phone", -29);
    let cases = [
        (String::new(), 101),
        (format!("Authorization: Bearer {good}\r\n"), 101),
        (format!("Authorization: Bearer {in_leeway}\r\n"), 101),
        (format!("Authorization: Bearer {expired}\r\n"), 401),
        (format!("Authorization: Bearer {good}x\r\n"), 401),
        (format!("Sec-WebSocket-Protocol: carillon.v1.json, bearer.{good}\r\n"), 101),
        ("Sec-WebSocket-Protocol: carillon.v1.json, bearer.a.b.c\r\n".to_owned(), 401),
        (format!("Sec-WebSocket-Protocol: bearer.{good}\r\n"), 400),
        ("Sec-WebSocket-Protocol: other\r\n".to_owned(), 400),
        ("Origin: http://localhost:3000\r\n".to_owned(), 101),
        ("Origin: https://evil.example\r\n".to_owned(), 403),
        ("Content-Length: 1\r\n".to_owned(), 400),
    ];
    for (headers, status) in cases {
        let mut rig = Rig::new(&[]);
        let (line, is_closed) = request(&mut rig, LOCAL, &headers);
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {line}");
        assert_eq!(is_closed, status != 101, "{headers:?}");
    }
    let mut strict = Rig::with(settings(&["gateway.origins=https://chat.example.org"]), false, 1);
    assert!(request(&mut strict, LOCAL, "Origin: https://chat.example.org\r\n").0.contains("101"));
    assert!(request(&mut strict, LOCAL, "Origin: http://localhost\r\n").0.contains("403"));
    assert!(request(&mut strict, LOCAL, "").0.contains("101"), "an absent Origin is no browser");
}

/// F19: upgrades from one address are limited, from loopback never.
#[test]
fn upgrades_from_one_address_are_limited() {
    let mut rig = Rig::new(&["limits.address_per_s=1", "limits.address_burst=2"]);
    let far = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let statuses: Vec<bool> = (0..3).map(|_| request(&mut rig, far, "").0.contains("101")).collect();
    assert_eq!(statuses, [true, true, false]);
    assert!(request(&mut rig, far, "").0.contains("429"));
    rig.pass_ms(1_100);
    assert!(request(&mut rig, far, "").0.contains("101"));
    assert!((0..9).all(|_| request(&mut rig, LOCAL, "").0.contains("101")));
}

#[test]
fn what_is_not_a_websocket_is_handed_on_whole() {
    let mut rig = Rig::new(&[]);
    let connection = rig.accept(LOCAL);
    rig.received(connection, b"GET /v1/");
    assert_eq!(rig.sockets[&connection].handed_off, None);
    rig.received(connection, b"conversations HTTP/1.1\r\nHo");
    assert_eq!(
        rig.sockets[&connection].handed_off.as_deref(),
        Some(&b"GET /v1/conversations HTTP/1.1\r\nHo"[..])
    );
    assert_eq!(rig.shard.counters().connections, 0, "the shard has forgotten it");
}

/// What comes behind a request in the same turn goes with it, in however many pieces.
#[test]
fn what_comes_in_the_same_turn_is_handed_on_as_well() {
    let mut rig = Rig::new(&[]);
    let connection = rig.accept(LOCAL);
    for bytes in [&b"POST /v1/messages HTTP/1.1\r\n"[..], b"Host: h\r\n\r\n", b"body"] {
        rig.input(Input::Received { connection, bytes });
    }
    rig.carry_out();
    assert_eq!(
        rig.sockets[&connection].handed_off.as_deref(),
        Some(&b"POST /v1/messages HTTP/1.1\r\nHost: h\r\n\r\nbody"[..])
    );
    assert_eq!(rig.shard.counters().connections, 0);
}

/// G13, F19: so many may be on their way to their first request. One more hears at once when to come back, is not read, and
/// takes nobody's place; those who are through, or gone, make room.
#[test]
fn g13_who_says_nothing_keeps_a_bounded_number_of_places() {
    let mut rig = Rig::new(&["gateway.handshakes_max=3"]);
    let silent: Vec<_> = (0..3).map(|_| rig.accept(LOCAL)).collect();
    let (answer, is_closed) = request(&mut rig, LOCAL, "");
    assert!(answer.contains(" 503 ") && is_closed, "{answer}");
    let late = rig.accept(LOCAL);
    let answer = String::from_utf8_lossy(&rig.sockets[&late].bytes).to_ascii_lowercase();
    assert!(answer.contains("retry-after: ") && answer.contains("retry_after_ms"), "{answer}");
    assert_eq!(rig.shard.counters().turned_away, 2);

    // One is through, one has something else in mind, one is gone.
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let upgrade =
        format!("GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}");
    rig.received(silent[0], upgrade.as_bytes());
    rig.received(silent[1], b"GET / HTTP/1.1\r\n");
    rig.input(Input::Closed { connection: silent[2] });
    for round in 0..3 {
        let connection = rig.accept(LOCAL);
        assert!(!rig.sockets[&connection].is_closed, "{round}: there is room");
    }
    let crowded = rig.accept(LOCAL);
    assert!(rig.sockets[&crowded].is_closed);
    // Nobody stays for good without a word.
    rig.pass_ms(5_200);
    let (answer, _) = request(&mut rig, LOCAL, "");
    assert!(answer.contains(" 101 "), "{answer}");
}

/// G13, security, floods: who sends thousands of frames at once has some of them answered in a turn, and everybody else theirs;
/// then it goes on, in order, without having to say more, and is not read from meanwhile.
#[test]
fn g13_a_flood_holds_up_itself() {
    const PINGS: u32 = 3_000;
    let mut rig = Rig::new(&[]);
    let mut flood = rig.connect(Wire::Json);
    let mut neighbour = rig.connect(Wire::Json);
    flood.take(&mut rig);
    let mut bytes = Vec::new();
    for number in 0..PINGS {
        append_client_frame(&mut bytes, Opcode::Ping, &number.to_be_bytes(), [1, 2, 3, 4]);
    }
    let (flooding, quiet) = (flood.id, neighbour.id);
    // In pieces, as a ring has them, and in one turn with the neighbour's.
    for piece in bytes.chunks(1_000) {
        rig.input(Input::Received { connection: flooding, bytes: piece });
    }
    let mut ping = Vec::new();
    append_client_frame(&mut ping, Opcode::Ping, b"me too", [1, 2, 3, 4]);
    rig.input(Input::Received { connection: quiet, bytes: &ping });
    let (mut pongs, mut turns_count) = (Vec::new(), 0);
    loop {
        rig.input(Input::Tick);
        rig.carry_out();
        turns_count += 1;
        let said = flood.take(&mut rig);
        assert!(said.len() <= 2 * 256, "{} answers in a turn", said.len());
        pongs.extend(said);
        if turns_count == 1 {
            assert!(neighbour.take(&mut rig).contains(&Seen::Pong(b"me too".to_vec())));
        }
        let is_over = pongs.len() == PINGS as usize;
        assert_eq!(rig.sockets[&flooding].is_paused, !is_over, "after {} answers", pongs.len());
        assert_eq!(rig.shard.poll_timeout() == Some(rig.now), !is_over, "the driver does not sleep over it");
        if is_over {
            break;
        }
        assert!(turns_count < 100);
    }
    assert!(turns_count > 5, "{turns_count} turns");
    let expected = (0..PINGS).map(|number| Seen::Pong(number.to_be_bytes().to_vec()));
    assert!(pongs.into_iter().eq(expected));
}

/// Security, floods: whose a connection is, is what was said of it before its first byte, and then what a trusted proxy says
/// in a header.
#[test]
fn an_address_is_that_of_the_client() {
    let mut rig = Rig::new(&[
        "limits.address_per_s=1",
        "limits.address_burst=1",
        "gateway.trusted_proxies=127.0.0.1,10.0.0.0/8",
    ]);
    let far = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    for (status, headers) in [
        (101, "X-Forwarded-For: 192.0.2.1, 10.2.3.4\r\n"),
        (429, "X-Forwarded-For: 192.0.2.1\r\n"),
        (429, "Forwarded: for=192.0.2.1\r\n"),
        (101, "Forwarded: for=192.0.2.2\r\n"),
        (429, "X-Forwarded-For: 192.0.2.3\r\nX-Forwarded-For: 192.0.2.2\r\n"),
    ] {
        let (line, _) = request(&mut rig, LOCAL, headers);
        assert!(line.contains(&format!(" {status} ")), "{headers}: {line}");
    }
    assert!(request(&mut rig, far(7), "X-Forwarded-For: 192.0.2.8\r\n").0.contains(" 101 "));
    assert!(request(&mut rig, far(7), "X-Forwarded-For: 192.0.2.9\r\n").0.contains(" 429 "), "its own");
    let connection = rig.accept(LOCAL);
    rig.input(Input::Named { connection, address: far(7) });
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let upgrade =
        format!("GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}");
    rig.received(connection, upgrade.as_bytes());
    assert!(rig.sockets[&connection].bytes.starts_with(b"HTTP/1.1 429 "));
}

/// A handshake has five seconds, and a process that was paused blames nobody (F26).
#[test]
fn a_handshake_has_a_deadline() {
    let mut rig = Rig::new(&[]);
    let connection = rig.accept(LOCAL);
    rig.received(connection, b"GET /v1/ws HTTP/1.1\r\n");
    rig.pass_ms(4_900);
    assert!(!rig.sockets[&connection].is_closed);
    rig.pass_ms(200);
    assert!(rig.sockets[&connection].is_closed && rig.sockets[&connection].bytes.is_empty());
    assert_eq!(rig.shard.counters().connections, 0);

    let patient = rig.accept(LOCAL);
    rig.now = rig.now.after_ms(30_000);
    rig.input(Input::Tick);
    rig.carry_out();
    assert!(!rig.sockets[&patient].is_closed, "a pause of 30 s is ours, not theirs");
    rig.pass_ms(5_100);
    assert!(rig.sockets[&patient].is_closed);
}

fn closes(seen: &[Seen]) -> Option<u16> {
    seen.iter().find_map(|seen| match seen {
        Seen::Close(code) => *code,
        _ => None,
    })
}

fn codes(seen: &[Seen]) -> Vec<&'static str> {
    let code = |seen: &Seen| match seen {
        Seen::Error { code, .. } => Some(*code),
        _ => None,
    };
    seen.iter().filter_map(code).collect()
}

/// No identify: 4003 after ten seconds. Everything before it: `unauthenticated`, no close.
#[test]
fn identify_comes_first_and_in_time() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    let conversation = ConversationId(9);
    for command in [
        send(9, None, "x"),
        Command::Delivered { conversation, seq: 1 },
        Command::Sync { conversation, from_seq: 1, limit: 1 },
        Command::Heartbeat,
        Command::Identify { token: None, cursors: Vec::new() },
    ] {
        let seen = client.say(&mut rig, Some("n"), &command);
        assert!(
            matches!(seen.as_slice(), [Seen::Error { id: Some(_), code: "unauthenticated", .. }]),
            "{seen:?}"
        );
    }
    assert!(rig.up.is_empty());
    rig.pass_ms(9_900);
    assert!(!client.is_closed(&rig));
    rig.pass_ms(200);
    assert_eq!(closes(&client.take(&mut rig)), Some(4003), "frames before identify do not prolong it");
}

/// (token in identify) → error code, close.
#[test]
fn a_bad_token_in_identify_is_told_and_closes() {
    let cases =
        [(token(1, "d", -31), "token_expired"), (format!("{}x", token(1, "d", 60)), "unauthenticated")];
    for (bad, code) in cases {
        let mut rig = Rig::new(&[]);
        let mut client = rig.connect(Wire::Rkyv);
        let seen = client.say(&mut rig, None, &identify(&bad, &[]));
        assert_eq!((codes(&seen), closes(&seen)), (vec![code], Some(4500)));
        assert!(client.is_closed(&rig));
    }
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.upgrade(Wire::Json, Some(&token(1, "d", 60)));
    client.take(&mut rig);
    let seen = client.say(&mut rig, None, &identify("nonsense", &[]));
    assert!(seen.is_empty(), "the first token that was found counts: {seen:?}");
    assert!(matches!(rig.next_up(), Up::Register(register) if register.user.0 == 1 && !register.again));
}

#[test]
fn a_second_identify_is_a_bad_request() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let seen = client.say(&mut rig, None, &identify(&token(1, "phone", 60), &[]));
    assert_eq!((codes(&seen), client.is_closed(&rig)), (vec!["bad_request"], false));
}

/// (what is sent) → close code. Neighbours notice nothing.
#[test]
fn frames_that_break_the_rules_close_their_connection_only() {
    let raw = |bytes: &[u8]| bytes.to_vec();
    let masked = |opcode: Opcode, payload: &[u8]| {
        let mut out = Vec::new();
        carillon_protocol::websocket::append_client_frame(&mut out, opcode, payload, [1, 2, 3, 4]);
        out
    };
    let cases = [
        ("unmasked", raw(&[0x81, 1, b'x']), 1002),
        ("reserved bit", raw(&[0xc1, 0x80, 0, 0, 0, 0]), 1002),
        ("length not minimal", raw(&[0x81, 0xfe, 0, 1, 0, 0, 0, 0, b'x']), 1002),
        ("too big", raw(&[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), 1009),
        ("not UTF-8", masked(Opcode::Text, &[0xff]), 1007),
        ("binary on json", masked(Opcode::Binary, b"{}"), 1003),
    ];
    let mut rig = Rig::new(&[]);
    let mut neighbour = live(&mut rig, 7, "n", Wire::Json, &[]);
    for (name, bytes, code) in cases {
        let mut client = rig.connect(Wire::Json);
        rig.received(client.id, &bytes);
        assert_eq!(closes(&client.take(&mut rig)), Some(code), "{name}");
        assert!(client.is_closed(&rig), "{name}");
        assert_eq!(neighbour.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
    }
    let mut client = rig.connect(Wire::Rkyv);
    assert_eq!(closes(&client.raw(&mut rig, Opcode::Text, b"{}")), Some(1003), "text on rkyv");
}

/// RFC 6455 sections 5.5.1 to 5.5.3.
#[test]
fn control_frames_are_answered() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.connect(Wire::Json);
    assert_eq!(client.raw(&mut rig, Opcode::Ping, b"abc"), [Seen::Pong(b"abc".to_vec())]);
    assert!(client.raw(&mut rig, Opcode::Pong, b"").is_empty());
    assert_eq!(client.raw(&mut rig, Opcode::Close, &[0x0f, 0xa0]), [Seen::Close(Some(4000))]);
    assert!(client.is_closed(&rig) && rig.shard.counters().connections == 0);
}

/// 16 malformed frames in a minute: 4503. An unknown type is not malformed, and never closes.
#[test]
fn malformed_frames_close_in_the_end() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.connect(Wire::Json);
    for _ in 0..40 {
        let seen = client.raw(&mut rig, Opcode::Text, br#"{"type":"dance"}"#);
        assert_eq!((codes(&seen), closes(&seen)), (vec!["bad_request"], None));
    }
    for _ in 0..15 {
        assert_eq!(closes(&client.raw(&mut rig, Opcode::Text, b"{")), None);
    }
    assert_eq!(closes(&client.raw(&mut rig, Opcode::Text, b"[]")), Some(4503));
}

/// T6: a client is to be heard every thirty seconds, and gone after two intervals and ten seconds of silence (4011),
/// not before. Any frame counts.
#[test]
fn t6_silence_is_noticed_after_two_heartbeats_and_some_slack() {
    let mut rig = Rig::new(&[]);
    assert_eq!(settings(&[]).limits.heartbeat_interval_ms, 30_000);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    rig.pass_ms(69_000);
    client.raw(&mut rig, Opcode::Ping, b"");
    rig.pass_ms(69_999);
    assert!(!client.is_closed(&rig));
    rig.pass_ms(TIMER_MS);
    assert_eq!(closes(&client.take(&mut rig)), Some(4011));
    assert!(matches!(rig.next_up(), Up::Unregister(unregister) if unregister.user.0 == 1 && !unregister.bye));
}

/// T6: the literal rule, by which one is offline as soon as a heartbeat is late, is a legal setting. It is not the default
/// because a millisecond is enough.
#[test]
fn t6_one_interval_and_no_slack_is_a_legal_setting() {
    let literal = ["limits.heartbeats_missed_max=1", "limits.heartbeat_leeway_ms=0"];
    let mut rig = Rig::new(&literal);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    for _ in 0..10 {
        rig.pass_ms(29_999);
        assert_eq!(client.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
    }
    rig.pass_ms(29_999);
    assert!(!client.is_closed(&rig));
    rig.pass_ms(TIMER_MS);
    assert_eq!(closes(&client.take(&mut rig)), Some(4011));
}

/// TR1: a connection that says no more than that it is there stays, and carries both directions, for as long as its token
/// lasts; beside it, one that says nothing does not.
#[test]
fn tr1_heartbeats_keep_an_idle_connection_for_hours() {
    const HOURS_MS: u64 = 6 * 3_600_000;
    const BEAT_MS: u64 = 30_000;
    let mut rig = Rig::new(&[]);
    let mut idle = live(&mut rig, 1, "phone", Wire::Json, &[(7, 3, 3)]);
    let mut silent = live(&mut rig, 2, "phone", Wire::Json, &[(7, 3, 3)]);
    for beat in 1..=HOURS_MS / BEAT_MS {
        rig.pass_ms(BEAT_MS);
        let (seen, expected) = if beat.is_multiple_of(2) {
            (idle.raw(&mut rig, Opcode::Ping, b""), Seen::Pong(Vec::new()))
        } else {
            (idle.say(&mut rig, None, &Command::Heartbeat), Seen::HeartbeatAck)
        };
        assert_eq!(seen, [expected], "after {} s", beat * BEAT_MS / 1_000);
    }
    assert_eq!(closes(&silent.take(&mut rig)), Some(4011));
    assert_eq!(rig.shard.counters().accepted, 2, "it never came back, because it never went");
    // Up, and down.
    rig.up.clear();
    assert_eq!(idle.say(&mut rig, None, &send(7, None, "still here")), []);
    assert!(matches!(rig.next_up(), Up::Submit(submit) if submit.user.0 == 1));
    rig.down(&deliver_event(7, 4, Body::MemberRemoved { user: UserId(2), heir: None }, &[1]));
    assert!(matches!(&idle.take(&mut rig)[..], [Seen::Event(event)] if event.seq == 4));
}

/// Security, frames: a fragmented message has as long to end as silence may last, whatever stands between its fragments.
#[test]
fn a_message_that_never_ends_is_silence() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let frame = |first: u8, byte: u8| [first, 0x81, 0, 0, 0, 0, byte];
    rig.received(client.id, &frame(0x01, b'{'));
    for _ in 0..3 {
        rig.pass_ms(20_000);
        assert_eq!(client.raw(&mut rig, Opcode::Ping, b""), [Seen::Pong(Vec::new())]);
        rig.received(client.id, &frame(0x00, b' '));
    }
    rig.pass_ms(9_900);
    assert!(!client.is_closed(&rig));
    rig.pass_ms(200);
    assert_eq!(closes(&client.take(&mut rig)), Some(4011));

    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    for _ in 0..9 {
        rig.received(client.id, &frame(0x01, b'{'));
        rig.pass_ms(60_000);
        let seen = client.raw(&mut rig, Opcode::Continuation, b"\"type\":\"heartbeat\"}");
        assert_eq!(seen, [Seen::HeartbeatAck], "each message counts anew");
    }
}

/// A live token ends with 4012, thirty seconds late; `refresh_token` moves that, for the same user and device only.
#[test]
fn a_token_ends() {
    let mut rig = Rig::new(&["limits.heartbeat_interval_ms=600000"]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 60), &[]));
    client.finish_registering(&mut rig, &[]);
    let refresh = |token: String| Command::RefreshToken { token: token.into() };
    for (other, code) in [
        (token(2, "phone", 600), "bad_request"),
        (token(1, "pad", 600), "bad_request"),
        (token(1, "phone", -60), "token_expired"),
        ("nonsense".to_owned(), "unauthenticated"),
    ] {
        let seen = client.say(&mut rig, None, &refresh(other));
        assert_eq!((codes(&seen), closes(&seen)), (vec![code], None));
    }
    rig.pass_ms(89_000);
    assert!(!client.is_closed(&rig));
    let seen = client.say(&mut rig, Some("r"), &refresh(token(1, "phone", 120)));
    assert!(matches!(seen.as_slice(), [Seen::Ok { id: Some(_), .. }]), "{seen:?}");
    rig.pass_ms(60_000);
    assert!(!client.is_closed(&rig));
    rig.pass_ms(1_100);
    assert_eq!(closes(&client.take(&mut rig)), Some(4012));
}

/// Security, live connection: a token may have been revoked with its device before the one that let in was issued, so no
/// older one takes its place.
#[test]
fn an_older_token_replaces_none() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let issued_s = crate::rig::WALL / 1_000;
    for (issued_s, expected) in [
        (issued_s - 1, Some("bad_request")),
        (issued_s, None),
        (issued_s + 60, None),
        (issued_s, Some("bad_request")),
    ] {
        let token = token_issued(1, "phone", 6_000, issued_s);
        let seen = client.say(&mut rig, None, &Command::RefreshToken { token: token.into() });
        assert_eq!(codes(&seen), expected.into_iter().collect::<Vec<_>>(), "issued at {issued_s}: {seen:?}");
    }
}

#[test]
fn bye_closes_with_1000_and_unregisters() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    assert_eq!(client.say(&mut rig, None, &Command::Bye), [Seen::Close(Some(1000))]);
    let Up::Unregister(unregister) = rig.next_up() else { panic!("unregisters") };
    assert!(unregister.bye && rig.shard.counters().connections == 0);
}

/// PR1: only who says `bye` is gone at once; a socket that ends, however politely, may come back.
#[test]
fn a_socket_that_ends_is_no_bye() {
    for is_polite in [false, true] {
        let mut rig = Rig::new(&[]);
        let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
        if is_polite {
            client.raw(&mut rig, Opcode::Close, &1001_u16.to_be_bytes());
        } else {
            rig.input(Input::Closed { connection: client.id });
            rig.carry_out();
        }
        assert!(matches!(rig.next_up(), Up::Unregister(unregister) if !unregister.bye));
    }
}

/// Security, live connection: a revoked device is closed with 4501 when its token is not newer than that, and another
/// device or user is not.
#[test]
fn a_revoked_device_closes_with_4501() {
    let issued_ms = crate::rig::WALL;
    for (user, device, at_ms, expected) in [
        (1, "phone", issued_ms, Some(4501)),
        (1, "phone", issued_ms + 60_000, Some(4501)),
        (1, "phone", issued_ms - 1_000, None),
        (1, "pad", issued_ms, None),
        (2, "phone", issued_ms, None),
    ] {
        let mut rig = Rig::new(&[]);
        let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
        rig.down(&Revoked { user: UserId(user), device: device.to_owned(), at_ms });
        assert_eq!(closes(&client.take(&mut rig)), expected, "{user}/{device} at {at_ms}");
    }
}

/// Security, live connection: a device that was revoked while its lane was lost is closed when it registers again.
#[test]
fn a_device_revoked_meanwhile_closes_with_4501() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    rig.lane_down();
    rig.lane_up();
    let Up::Register(register) = rig.next_up() else { panic!("registers again") };
    assert_eq!(register.issued_at_s, crate::rig::WALL / 1_000);
    rig.down(&Refused {
        session: register.session,
        request: register.request,
        code: Code::Unauthenticated as u16,
        retry_after_ms: 0,
        field: "device_id".into(),
        message: "revoked".into(),
    });
    assert_eq!(closes(&client.take(&mut rig)), Some(4501));
}

/// A registration says how long ago its client identified, however late it gets through.
#[test]
fn a_registration_says_how_long_it_waited() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.connect(Wire::Json);
    rig.pass_ms(700);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    rig.pass_ms(1_500);
    rig.lane_up();
    assert!(matches!(rig.next_up(), Up::Register(register) if register.waited_ms == 1_500));
    rig.lane_down();
    rig.pass_ms(500);
    rig.lane_up();
    assert!(matches!(rig.next_up(), Up::Register(register) if register.waited_ms == 2_000));
}

/// TR2, TR4: a connection behind a request that its driver answered: frames in, the same WebSocket frames out, and the
/// driver is told when to wait.
#[test]
fn tr4_a_connection_that_is_opened_speaks_frames() {
    let mut rig = Rig::new(&["limits.inflight=1"]);
    rig.lane_up();
    let connection = ConnectionId { slot: 0, generation: 7 };
    rig.sockets.insert(connection, Default::default());
    rig.input(Input::Opened { connection, claims: None });
    rig.carry_out();
    let mut client = Client::opened(connection);
    assert_eq!(client.take(&mut rig), [Seen::Hello]);
    let say = |rig: &mut Rig, text: &str| {
        rig.input(Input::Frame { connection, text });
        rig.carry_out();
    };
    say(&mut rig, &format!("{{\"type\":\"identify\",\"token\":\"{}\"}}", token(1, "phone", 600)));
    let seen = client.finish_registering(&mut rig, &[]);
    assert_eq!(seen, [Seen::Ready { id: None, conversations: 0, events: 0 }, Seen::CaughtUp]);
    assert!(rig.shard.takes_frames(connection));
    say(&mut rig, r#"{"type":"send_message","conversation_id":"9","content":"x"}"#);
    assert!(!rig.shard.takes_frames(connection), "one is under way");
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    client.accept(&mut rig, &submit, 1, false);
    assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Ack { seq: 1, .. }]));
    assert!(rig.shard.takes_frames(connection));
    say(&mut rig, "nonsense");
    assert_eq!(codes(&client.take(&mut rig)), ["bad_request"]);
    rig.pass_ms(69_000);
    rig.input(Input::Heard { connection });
    rig.pass_ms(69_000);
    assert!(!client.is_closed(&rig), "it was heard");
    rig.pass_ms(2_000);
    assert_eq!(closes(&client.take(&mut rig)), Some(4011));
    assert!(!rig.shard.takes_frames(connection));
}

#[test]
fn a_replaced_session_closes_with_4507() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    rig.down(&Replaced { session: client.id.as_u64() });
    assert_eq!(closes(&client.take(&mut rig)), Some(4507));
}

/// The `id` of `identify` is on its answer, whichever that is: `ready`, or an error from the router, or from us.
#[test]
fn identify_is_answered_by_its_id() {
    let id = || Some(FrameId::Text("me".into()));
    let begin = || {
        let mut rig = Rig::new(&[]);
        rig.lane_up();
        let mut client = rig.connect(Wire::Json);
        client.say(&mut rig, Some("me"), &identify(&token(1, "phone", 600), &[]));
        (rig, client)
    };
    let is_refused = |seen: &[Seen], wanted: &str| matches!(seen, [Seen::Error { id: answered, code, .. }, ..] if *answered == id() && *code == wanted);
    let (mut rig, mut client) = begin();
    let seen = client.finish_registering(&mut rig, &[]);
    assert_eq!(seen, [Seen::Ready { id: id(), conversations: 0, events: 0 }, Seen::CaughtUp]);

    let (mut rig, mut client) = begin();
    let Up::Register(register) = rig.next_up() else { panic!("registers") };
    rig.down(&Refused {
        session: register.session,
        request: register.request,
        code: Code::Forbidden as u16,
        retry_after_ms: 0,
        field: String::new(),
        message: "no".into(),
    });
    let seen = client.take(&mut rig);
    assert!(is_refused(&seen, "forbidden"), "{seen:?}");

    let (mut rig, mut client) = begin();
    rig.pass_ms(10_100);
    let seen = client.take(&mut rig);
    assert!(is_refused(&seen, "unavailable"), "{seen:?}");
}

/// (how a router refuses a registration) → error code, close.
#[test]
fn a_registration_may_be_refused() {
    let cases = [
        (Code::Forbidden, "forbidden", 4500),
        (Code::RateLimited, "rate_limited", 4505),
        (Code::Overloaded, "overloaded", 1013),
    ];
    for (code, name, close) in cases {
        let mut rig = Rig::new(&[]);
        rig.lane_up();
        let mut client = rig.connect(Wire::Json);
        client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
        let Up::Register(register) = rig.next_up() else { panic!("registers") };
        rig.down(&Refused {
            session: register.session,
            request: register.request,
            code: code as u16,
            retry_after_ms: 0,
            field: String::new(),
            message: "no".into(),
        });
        let seen = client.take(&mut rig);
        assert_eq!((codes(&seen), closes(&seen)), (vec![name], Some(close)));
    }
}

/// A home that cannot register anybody yet is asked again, and the client hears nothing of it.
#[test]
fn a_registration_is_asked_again() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    for _ in 0..4 {
        let Up::Register(register) = rig.next_up() else { panic!("registers") };
        rig.down(&Refused {
            session: register.session,
            request: register.request,
            code: Code::Unavailable as u16,
            retry_after_ms: 0,
            field: String::new(),
            message: "no".into(),
        });
        rig.pass_ms(249);
        assert!(rig.up.is_empty());
        rig.pass_ms(51);
    }
    let seen = client.finish_registering(&mut rig, &[]);
    assert!(matches!(seen.as_slice(), [Seen::Ready { .. }, Seen::CaughtUp]), "{seen:?}");
}

/// A router that is never there: told after `gateway.unknown_after_ms`, and 1013.
#[test]
fn nobody_waits_for_a_router_for_ever() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.connect(Wire::Json);
    assert!(client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[])).is_empty());
    rig.pass_ms(10_100);
    let seen = client.take(&mut rig);
    assert_eq!((codes(&seen), closes(&seen)), (vec!["unavailable"], Some(1013)));
}

/// F18: everybody is told to come back at spread times, answers under way are waited for, then 1012.
#[test]
fn f18_a_drain_says_reconnect_and_waits_for_answers() {
    let mut rig = Rig::new(&[]);
    let mut idle = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let mut busy = live(&mut rig, 2, "phone", Wire::Rkyv, &[(9, 0, 0)]);
    busy.say(&mut rig, None, &send(9, Some("k"), "x"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    let handshake = rig.accept(LOCAL);
    rig.input(Input::Drain);
    rig.carry_out();
    let seen = idle.take(&mut rig);
    assert!(
        matches!(seen.as_slice(), [Seen::Reconnect(after_ms), Seen::Close(Some(1012))] if *after_ms <= 5_000)
    );
    assert!(rig.sockets[&handshake].is_closed && !rig.is_drained);
    assert!(matches!(busy.take(&mut rig).as_slice(), [Seen::Reconnect(_)]));
    let late = rig.accept(LOCAL);
    assert!(rig.sockets[&late].is_closed);
    busy.accept(&mut rig, &submit, 1, false);
    let seen = busy.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Ack { seq: 1, .. }, Seen::Close(Some(1012))]), "{seen:?}");
    assert!(rig.is_drained);

    let mut rig = Rig::new(&[]);
    let mut stuck = live(&mut rig, 2, "phone", Wire::Json, &[(9, 0, 0)]);
    stuck.say(&mut rig, None, &send(9, None, "x"));
    rig.input(Input::Drain);
    rig.pass_ms(4_900);
    assert!(!rig.is_drained);
    rig.pass_ms(200);
    assert!(rig.is_drained && closes(&stuck.take(&mut rig)) == Some(1012));
}

/// G13: sessions and connections of an idle shard are a few hundred bytes, and what they said leaves no buffer behind.
#[test]
fn g13_an_idle_connection_holds_nothing() {
    let mut rig = Rig::new(&[]);
    let mut clients: Vec<Client> = (1..=3).map(|user| live(&mut rig, user, "d", Wire::Json, &[])).collect();
    for client in &mut clients {
        client.say(&mut rig, None, &Command::Heartbeat);
        assert_eq!(rig.pending_bytes(client.id), 0);
    }
    assert_eq!((rig.shard.counters().connections, rig.shard.counters().sessions), (3, 3));
    for client in &clients {
        rig.input(Input::Closed { connection: client.id });
    }
    rig.carry_out();
    assert_eq!((rig.shard.counters().connections, rig.shard.counters().sessions), (0, 0));
}
