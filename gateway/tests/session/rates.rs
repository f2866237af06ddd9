//! How much a client may say.

use std::net::{IpAddr, Ipv4Addr};

use carillon_gateway::counters::Limited;
use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::Refused;
use carillon_protocol::reason::Code;

use crate::rig::{Rig, Seen, Up, live, send};

const HERE: u64 = 100;

/// RL1, FU4b: of one connection a burst of frames is read, then its rate; what is above is refused with how long to
/// wait, others are not, and only who goes on for ten seconds is closed with 4008.
#[test]
fn a_connection_has_its_own_bucket() {
    let mut rig = Rig::new(&["limits.connection_per_s=10", "limits.connection_burst=20"]);
    let mut flood = live(&mut rig, 1, "phone", Wire::Json, &[]);
    let mut other = live(&mut rig, 1, "pad", Wire::Json, &[]);
    // `identify` was the first of twenty.
    for _ in 0..19 {
        assert_eq!(flood.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
    }
    let seen = flood.say(&mut rig, Some("x"), &Command::Heartbeat);
    let [Seen::Error { id: Some(_), code: "rate_limited", retry_after_ms: Some(wait_ms), .. }] = &seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!(*wait_ms, 100);
    rig.pass_ms(*wait_ms);
    assert_eq!(
        flood.say(&mut rig, None, &Command::Heartbeat),
        [Seen::HeartbeatAck],
        "who waits gets through"
    );
    let mut closed_after_ms = None;
    for step in 0..400 {
        let seen = flood.say(&mut rig, None, &Command::Heartbeat);
        if seen.contains(&Seen::Close(Some(4008))) {
            closed_after_ms = Some(step * 50);
            break;
        }
        rig.pass_ms(50);
    }
    // It was refused once before.
    assert!(closed_after_ms.is_some_and(|millis| (9_900..=10_000).contains(&millis)), "{closed_after_ms:?}");
    assert_eq!(other.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
    assert!(rig.shard.counters().limited[Limited::Connection as usize] >= 90);
}

/// RL1: a device has a bucket of its own for durable commands, when one is set; other devices of the user have theirs.
#[test]
fn a_device_has_its_own_bucket() {
    let mut rig = Rig::new(&["limits.device_per_s=1", "limits.device_burst=2"]);
    let mut phone = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let mut pad = live(&mut rig, 1, "pad", Wire::Json, &[(HERE, 0, 0)]);
    for _ in 0..2 {
        assert_eq!(phone.say(&mut rig, None, &send(HERE, None, "x")), []);
    }
    let seen = phone.say(&mut rig, None, &send(HERE, None, "x"));
    assert!(
        matches!(&seen[..], [Seen::Error { code: "rate_limited", retry_after_ms: Some(1_000), .. }]),
        "{seen:?}"
    );
    assert_eq!(pad.say(&mut rig, None, &send(HERE, None, "x")), []);
    assert_eq!(phone.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
    assert_eq!(rig.up.len(), 3);
    assert_eq!(rig.shard.counters().limited[Limited::Device as usize], 1);
}

/// RL1, F19: an address has its own bucket for upgrades, counted when it is refused.
#[test]
fn an_address_has_its_own_bucket() {
    let mut rig = Rig::new(&["limits.address_per_s=1", "limits.address_burst=2"]);
    let far = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request =
        carillon_protocol::handshake::request("localhost", "/v1/ws", key, &[Wire::Json.subprotocol()], None);
    for status in ["101", "101", "429", "429"] {
        let connection = rig.accept(far);
        rig.received(connection, &request);
        let response = String::from_utf8_lossy(&rig.sockets[&connection].bytes).into_owned();
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
        assert_eq!(response.to_lowercase().contains("retry-after"), status == "429", "{response}");
    }
    assert_eq!(rig.shard.counters().limited[Limited::Address as usize], 2);
}

/// FU4b, RL1: what the router refuses by rate (the user's, the conversation's) is told with how long to wait; the
/// connection is not dropped at first, and is with 4008 when that goes on for ten seconds.
#[test]
fn who_goes_on_above_the_users_rate_is_closed() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let mut closed_after_ms = None;
    for step in 0..40 {
        assert_eq!(client.say(&mut rig, None, &send(HERE, None, "x")), []);
        let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
        rig.down(&Refused {
            session: submit.session,
            request: submit.request,
            code: Code::RateLimited as u16,
            retry_after_ms: 50,
            field: String::new(),
            message: "too many messages".to_owned(),
        });
        let seen = client.take(&mut rig);
        assert!(
            matches!(&seen[0], Seen::Error { code: "rate_limited", retry_after_ms: Some(50), .. }),
            "{seen:?}"
        );
        if seen.contains(&Seen::Close(Some(4008))) {
            closed_after_ms = Some(step * 500);
            break;
        }
        rig.pass_ms(500);
    }
    assert_eq!(closed_after_ms, Some(10_000));
}
