//! Balancers and reverse proxies before the gateway: whose a connection or a request is, is what they say, if they are
//! trusted, and is what is counted by its address.

use std::io::Write as _;
use std::net::SocketAddr;

use carillon_gateway::io::{Doors, Driver};
use carillon_protocol::proxy::SIGNATURE;

use crate::rig::{Client, House, is_allowed, on_each_driver, settings};

/// One upgrade an address, and no more for a long time.
const ONE_EACH: [&str; 2] = ["limits.address_per_s=1", "limits.address_burst=1"];

fn header(client: [u8; 4]) -> Vec<u8> {
    [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &client, &[127, 0, 0, 1, 0x1f, 0x90, 0x1f, 0x90]].concat()
}

fn status(mut client: Client) -> String {
    client.head().lines().next().unwrap_or_default().to_owned()
}

/// Security, floods: behind a balancer that sends headers each client is counted by its own address, and told when to come
/// again; the balancer's looks whether we are well are not counted as anybody's.
#[test]
fn clients_behind_a_balancer_are_told_apart() {
    let assignments =
        [&ONE_EACH[..], &["gateway.proxy_protocol=true", "gateway.trusted_proxies=127.0.0.0/8"]].concat();
    on_each_driver(&assignments, |house| {
        let knock = |header: &[u8]| {
            let mut client = Client::connect(house.address);
            client.send(header);
            client.ask()
        };
        for last in 1..5 {
            drop(knock(&header([198, 51, 100, last])).enter());
            let refused = knock(&header([198, 51, 100, last])).head();
            assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
            assert!(refused.to_ascii_lowercase().contains("retry-after: "), "{refused}");
        }
        for _ in 0..3 {
            drop(knock(&[&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()).enter());
        }
        // Nobody may leave it out, and the text of version 1 is not taken.
        assert!(!knock(b"").fill());
        assert!(!knock(b"PROXY TCP4 198.51.100.9 127.0.0.1 1 2\r\n").fill());
        let counts = house.drain();
        assert_eq!(counts.of("gateway_tls_handshakes_total{outcome=\"proxy\"}"), 2);
        assert_eq!(counts.of("rate_limited_total{by=\"address\"}"), 4);
    });
}

/// Security, floods: what a proxy says in a header of HTTP is believed of it, for WebSockets and for REST alike, and of nobody
/// else.
#[test]
fn a_proxy_is_believed_if_it_is_trusted() {
    let knock = |address: SocketAddr, said: &str| {
        let mut client = Client::connect(address);
        client.send(
            format!(
                "GET /v1/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{said}\r\n"
            )
            .as_bytes(),
        );
        status(client)
    };
    on_each_driver(&[&ONE_EACH[..], &["gateway.trusted_proxies=127.0.0.1"]].concat(), |house| {
        for said in
            ["X-Forwarded-For: 9.9.9.9, 198.51.100.1\r\n", "Forwarded: for=198.51.100.2;proto=https\r\n"]
        {
            assert!(knock(house.address, said).contains(" 101 "), "{said}");
            assert!(knock(house.address, said).contains(" 429 "), "{said}");
        }
        house.drain();
    });
    on_each_driver(&[&ONE_EACH[..], &["gateway.trusted_proxies=10.0.0.0/8"]].concat(), |house| {
        for _ in 0..3 {
            let said = "X-Forwarded-For: 198.51.100.1\r\n";
            assert!(knock(house.address, said).contains(" 101 "), "it is this machine, which is not counted");
        }
        house.drain();
    });
}

/// Settings that cannot be meant are refused, with what to do.
#[test]
fn a_header_of_nobody_is_refused_at_start() {
    let refused = Doors::open(&settings(&["gateway.proxy_protocol=true"])).err().unwrap();
    assert!(refused.sentence.contains("gateway.trusted_proxies"), "{}", refused.sentence);
}

/// The header and the first request in one piece, and each byte by itself.
#[test]
fn a_header_may_be_cut_anywhere() {
    if !is_allowed(Driver::MonoioEpoll) {
        return;
    }
    let assignments = ["gateway.proxy_protocol=true", "gateway.trusted_proxies=127.0.0.1"];
    let house = House::start(Driver::MonoioEpoll, &assignments);
    let mut client = Client::connect(house.address);
    for byte in header([198, 51, 100, 7]) {
        client.stream.write_all(&[byte]).unwrap();
    }
    let mut client = client.ask().enter();
    client.ping(b"there");
    client.assert_pong(b"there");
    drop(client);
    house.drain();
}
