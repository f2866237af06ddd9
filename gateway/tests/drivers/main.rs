//! What a driver owes the shard that it runs, on all drivers, over real sockets; on our own also with a ring in which
//! everything is too small.

#![expect(clippy::disallowed_methods, reason = "tests open sockets and threads")]

mod proxies;
mod rig;
mod tls;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use carillon_gateway::io::Driver;
use rig::{Client, House, Said, TINY, is_allowed, on_each_driver, ping};

/// F27: many connections at once, each is answered what it asked, in order, whatever the ring is short of.
#[test]
fn everybody_is_answered_in_order() {
    const CLIENTS: usize = 60;
    const PINGS: usize = 20;
    on_each_driver(&[], |house| {
        let knocking: Vec<Client> = (0..CLIENTS).map(|_| Client::knock(house.address)).collect();
        let mut clients: Vec<Client> = knocking.into_iter().map(Client::enter).collect();
        let payload = |client: usize, number: usize| format!("{client} says {number}").into_bytes();
        for (at, client) in clients.iter_mut().enumerate() {
            for number in 0..PINGS {
                client.ping(&payload(at, number));
            }
        }
        for (at, client) in clients.iter_mut().enumerate() {
            for number in 0..PINGS {
                client.assert_pong(&payload(at, number));
            }
        }
        drop(clients);
        let counts = house.drain();
        assert_eq!(counts.of("gateway_accepted_total"), CLIENTS as u64);
        assert_eq!(counts.of("gateway_connections"), 0);
    });
}

/// F27: the same in a ring that is too small, with everybody at once: completions overflow and receives find no buffers, again
/// and again, and nobody notices.
#[test]
fn a_ring_that_is_too_small_loses_nothing() {
    const CLIENTS: usize = 100;
    if !is_allowed(Driver::Uring) {
        return;
    }
    let house = House::start(Driver::Uring, &TINY);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::upgraded(house.address)).collect();
    for round in 0..20_usize {
        // Longer than a buffer, so that each needs several.
        let payload = |client: usize| format!("{client} {round} {}", "x".repeat(100)).into_bytes();
        for (at, client) in clients.iter_mut().enumerate() {
            client.ping(&payload(at));
        }
        for (at, client) in clients.iter_mut().enumerate() {
            client.assert_pong(&payload(at));
        }
    }
    drop(clients);
    let counts = house.drain();
    assert!(counts.ring_events("completions_full") > 0, "more at once than the queue has room for");
    assert!(counts.ring_events("buffers_empty") > 0, "more at once than there are buffers");
    assert_eq!(counts.ring_events("places_full"), 0);
}

/// F14: who asks for more than they read is not read from any more, and gets every byte in the end. Sends are cut short on
/// the way, and go on where they were.
#[test]
fn who_reads_late_gets_everything_in_order() {
    const PINGS: u32 = 50_000;
    on_each_driver(&[], |house| {
        let mut client = Client::slow(house.address).enter();
        let mut writer = client.stream.try_clone().unwrap();
        let payload = |number: u32| [&number.to_be_bytes()[..], &[b'x'; 100]].concat();
        let writing = std::thread::spawn(move || {
            for first in (0..PINGS).step_by(1_000) {
                let pings: Vec<u8> =
                    (first..first + 1_000).flat_map(|number| ping(&payload(number))).collect();
                writer.write_all(&pings).unwrap();
            }
        });
        let mut neighbour = Client::upgraded(house.address);
        if house.is_tiny {
            house.wait_for("send_short");
        }
        for number in 0..PINGS {
            client.assert_pong(&payload(number));
            if number % 100 == 0 {
                neighbour.ping(b"still there");
                neighbour.assert_pong(b"still there");
            }
        }
        writing.join().unwrap();
        drop((client, neighbour));
        house.drain();
    });
}

/// Plain HTTP is handed over with every byte that came before, from a socket that does not block, and the
/// connection goes on from there.
#[test]
fn plain_http_is_handed_over_whole() {
    on_each_driver(&[], |mut house| {
        // Longer than any buffer, and partly sent only when the rest was handed over.
        let head = format!("POST /v1/messages HTTP/1.1\r\nHost: here\r\nX-Long: {}\r\n\r\n", "h".repeat(300));
        let body: Vec<u8> = (0..30_000_u32).map(|at| b'a' + (at % 26) as u8).collect();
        for early_bytes in [0, 1, 100, 20_000] {
            let mut client = Client::connect(house.address);
            client.send(&[head.as_bytes(), &body[..early_bytes]].concat());
            let mut handed = house.hand_offs.blocking_recv().unwrap();
            client.send(&body[early_bytes..]);
            client.stream.shutdown(Shutdown::Write).unwrap();

            let flags = rustix::fs::fcntl_getfl(&handed.stream).unwrap();
            assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
            let flags = rustix::io::fcntl_getfd(&handed.stream).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "of no process that we start");
            assert!(handed.stream.nodelay().unwrap(), "as the listener was told");
            handed.stream.set_nonblocking(false).unwrap();
            let mut received = std::mem::take(&mut handed.handed.received);
            handed.stream.read_to_end(&mut received).unwrap();
            assert!(received == [head.as_bytes(), &body].concat(), "{early_bytes}: {} bytes", received.len());
            handed.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            assert_eq!(client.head(), "HTTP/1.1 200 OK\r\n\r\n");
            // The only descriptor of it is the one that was handed over.
            drop(handed);
            assert!(!client.fill(), "closed");
        }
        drop(house.drain());
    });
}

/// F14: a connection that the server closes hears so at once, also while it is read from; and one that does not go then
/// is dropped.
#[test]
fn who_is_closed_hears_the_end() {
    on_each_driver(&["gateway.handshake_timeout_ms=100"], |house| {
        // Says nothing: the server has only its descriptor to close.
        assert!(!Client::connect(house.address).fill());

        // Breaks the protocol, and stays: a close frame, the end of the stream, and then nothing is taken any more.
        let mut client = Client::upgraded(house.address);
        client.send(&[0xff, 0xff, 0xff]);
        assert_eq!(client.said(), Some(Said::Close(1_002)));
        assert_eq!(client.said(), None);
        while client.stream.write_all(&[0; 1_000]).is_ok() {}

        // Says goodbye and closes its half at once: it is answered before it goes.
        let mut client = Client::upgraded(house.address);
        client.send(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.said(), Some(Said::Close(1_000)));
        assert_eq!(client.said(), None);
        let counts = house.drain();
        assert_eq!(counts.of("gateway_connections"), 0);
    });
}

/// F28: at the cap the rest waits outside, is not refused, and comes in as others leave.
#[test]
fn at_the_cap_the_rest_waits() {
    const CAP: usize = 4;
    on_each_driver(&["gateway.connections_max=4"], |house| {
        let mut waiting: Vec<Client> = (0..50).map(|_| Client::knock(house.address)).collect();
        let mut inside: Vec<Client> = waiting.drain(..CAP).map(Client::enter).collect();
        for next in waiting {
            next.stream.set_nonblocking(true).unwrap();
            let peeked = next.stream.peek(&mut [0]).map_err(|error| error.kind());
            assert_eq!(peeked, Err(std::io::ErrorKind::WouldBlock), "nobody is let in before there is room");
            next.stream.set_nonblocking(false).unwrap();
            drop(inside.remove(0));
            inside.push(next.enter());
            inside[0].ping(b"still there");
            inside[0].assert_pong(b"still there");
        }
        drop(inside);
        let counts = house.drain();
        assert_eq!(counts.of("gateway_accepted_total"), 50);
        assert!(counts.of("gateway_accept_rests_total") > 0);
        assert_eq!(counts.ring_events("places_full"), 0);
    });
}

/// Each shard has a ring of its own; there may be more of them than cores, and all let go of everything.
#[test]
fn several_shards_share_a_door() {
    on_each_driver(&["gateway.shards=5", "gateway.connections_max=500"], |house| {
        let mut clients: Vec<Client> = (0..100).map(|_| Client::upgraded(house.address)).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            client.ping(&at.to_be_bytes());
        }
        for (at, client) in clients.iter_mut().enumerate() {
            client.assert_pong(&at.to_be_bytes());
        }
        drop(clients);
        let counts = house.drain();
        assert_eq!((counts.of("gateway_accepted_total"), counts.of("gateway_connections")), (100, 0));
    });
}

/// F27: what belongs to one connection never reaches the next in its place.
#[test]
fn places_are_used_again() {
    on_each_driver(&["gateway.connections_max=2"], |house| {
        for round in 0..200_u32 {
            let mut client = Client::upgraded(house.address);
            client.ping(&round.to_be_bytes());
            client.assert_pong(&round.to_be_bytes());
            if round % 3 == 0 {
                // Leaves answers that nobody reads, and bytes of a frame that never ends: a reset.
                client.ping(b"unread");
                client.send(&[0x82, 0xfe, 0x10]);
            }
        }
        let counts = house.drain();
        assert_eq!(counts.of("gateway_accepted_total"), 200);
        assert_eq!(counts.of("gateway_connections"), 0);
    });
}

/// F27: a connection that was closed has a second to go; when it went at once, that second is not held against who came into its
/// place.
#[test]
fn a_place_owes_nothing_to_the_next() {
    on_each_driver(&["gateway.connections_max=1"], |house| {
        let mut broken = Client::upgraded(house.address);
        broken.send(&[0xff, 0xff, 0xff]);
        assert_eq!(broken.said(), Some(Said::Close(1_002)));
        drop(broken);
        let mut next = Client::upgraded(house.address);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1_500) {
            next.ping(b"still there");
            next.assert_pong(b"still there");
        }
        drop(next);
        house.drain();
    });
}

/// An address is known when its connection is: this machine's own are not counted by it, of either family.
#[test]
fn addresses_are_known() {
    let settings = ["limits.address_per_s=1", "limits.address_burst=1"];
    for listen in ["gateway.listen=127.0.0.1:0", "gateway.listen=[::1]:0"] {
        on_each_driver(&[&settings[..], &[listen]].concat(), |house| {
            let clients: Vec<Client> = (0..5).map(|_| Client::upgraded(house.address)).collect();
            drop(clients);
            house.drain();
        });
    }
}

/// F18: who is connected hears that it ends, and everything has ended when the gateway has.
#[test]
fn a_drain_tells_everybody() {
    on_each_driver(&["gateway.connections_max=80"], |house| {
        let mut clients: Vec<Client> = (0..80).map(|_| Client::upgraded(house.address)).collect();
        let draining = std::thread::spawn(move || house.drain());
        for client in &mut clients {
            let Some(Said::Text(reconnect)) = client.said() else { panic!("nothing said") };
            assert!(reconnect.contains("\"reconnect\""), "{reconnect}");
            assert_eq!(client.said(), Some(Said::Close(1_012)));
            assert_eq!(client.said(), None);
        }
        drop(clients);
        assert_eq!(draining.join().unwrap().of("gateway_connections"), 0);
    });
}
