//! What the kernel does with what a ring asks: the facts that the driver is built around. Where one of them changes, the file
//! that it is for can become simpler.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use bytes::Bytes;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const SIZES: Sizes = Sizes { entries: 8, buffers: 2, buffer_bytes: 64 };

/// Completions of a kind, until the last one comes or `count` have come.
fn completions(ring: &mut Ring, kind: Kind, count: usize) -> Vec<Completion> {
    let mut of_kind = Vec::new();
    while of_kind.len() < count {
        ring.enter(PATIENCE).unwrap();
        let mut taken = Vec::new();
        ring.take(&mut taken, 64);
        assert!(!taken.is_empty(), "nothing is completed any more");
        of_kind.extend(taken.into_iter().filter(|completion| completion.token.kind == kind));
        if of_kind.last().is_some_and(|completion| completion.is_last) {
            break;
        }
    }
    of_kind
}

/// A ring, where the kernel allows one.
fn ring(descriptors_max: u32) -> Option<Ring> {
    match Ring::probe() {
        Ok(()) => Some(Ring::new(SIZES, descriptors_max).unwrap()),
        Err(why) => {
            println!("not tested: rings are refused here ({why})");
            None
        }
    }
}

/// A ring that accepted one connection, its slot, and the other end.
fn connected(listen: &str) -> Option<(Ring, u32, TcpStream)> {
    let mut ring = ring(4)?;
    let listener = TcpListener::bind(listen).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    ring.accept(listener.as_fd());
    let slot = completions(&mut ring, Kind::Accept, 1)[0].result.unwrap();
    Some((ring, slot, client))
}

/// F27: a place that is emptied while a receive is under way keeps its socket, and the peer hears nothing; that is why
/// [`Socket`](crate::io::uring::socket::Socket) cancels first.
#[test]
fn f27_a_receive_outlives_its_descriptor() {
    let Some((mut ring, slot, mut client)) = connected("127.0.0.1:0") else { return };
    ring.receive(slot, Watch::Always);
    ring.close(slot);
    assert!(completions(&mut ring, Kind::Close, 1)[0].result.is_ok());
    client.write_all(b"still heard").unwrap();
    let received = completions(&mut ring, Kind::Receive, 1).remove(0);
    assert_eq!(ring.received(&received), b"still heard");
    assert!(!received.is_last);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    client.set_nonblocking(false).unwrap();

    ring.cancel(Token { kind: Kind::Receive, slot });
    assert_eq!(completions(&mut ring, Kind::Receive, 1)[0].result, Err(Errno::CANCELED));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "now it is closed");
}

/// F28: who is accepted when the table is full is dropped, and accepting ends; that is why there is a
/// [`Door`](crate::io::uring::door::Door).
#[test]
fn f28_a_full_table_drops_who_was_accepted() {
    let Some(mut ring) = ring(2) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    ring.accept(listener.as_fd());
    let accepted = completions(&mut ring, Kind::Accept, 3);
    assert!(accepted[0].result.is_ok() && accepted[1].result.is_ok());
    assert!(accepted[2].result == Err(Errno::NFILE) && accepted[2].is_last);
    clients[2].set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(clients[2].read(&mut [0]), Ok(0) | Err(_)), "its connection is lost");
}

/// F28: in a turn with more requests than the submission queue holds, completions make room for each other; connections among
/// them are not counted before they are taken, so no more are accepted until then.
#[test]
fn f28_nobody_is_accepted_beyond_what_is_counted() {
    let Some(mut ring) = ring(64) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect =
        |count| (0..count).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let early: Vec<TcpStream> = connect(10);
    ring.accept(listener.as_fd());
    ring.enter(Duration::ZERO).unwrap();
    let late: Vec<TcpStream> = connect(20);
    // Whatever there is nothing of.
    for slot in 0..20 {
        ring.cancel(Token { kind: Kind::Name, slot });
    }
    ring.enter(Duration::ZERO).unwrap();
    let mut taken = Vec::new();
    ring.take(&mut taken, 1_000);
    let mut accepted = taken.iter().filter(|completion| completion.token.kind == Kind::Accept);
    assert_eq!(accepted.clone().filter(|completion| completion.result.is_ok()).count(), early.len());
    assert!(accepted.next_back().is_some_and(|completion| completion.is_last), "the door asks again");
    drop(late);
}

/// F27: a receive that finds no buffer ends, loses nothing, and goes on when it is asked for again.
#[test]
fn f27_a_receive_without_a_buffer_ends() {
    let Some((mut ring, slot, mut client)) = connected("127.0.0.1:0") else { return };
    let sent: Vec<u8> = (0..200).collect();
    client.write_all(&sent).unwrap();
    let (mut received, mut ends_count) = (Vec::new(), 0);
    ring.receive(slot, Watch::Always);
    while received.len() < sent.len() {
        // As a turn does: what came is read, its buffers go back, and then whoever found none asks again.
        let mut is_ended = false;
        for completion in completions(&mut ring, Kind::Receive, 1) {
            received.extend_from_slice(ring.received(&completion));
            is_ended |= completion.is_last;
            assert_eq!(completion.is_last, completion.result == Err(Errno::NOBUFS));
            completion.buffer.into_iter().for_each(|buffer| ring.give_back(buffer));
        }
        if is_ended {
            ends_count += 1;
            ring.receive(slot, Watch::Always);
        }
    }
    assert_eq!(received, sent);
    assert!(ends_count > 0, "two buffers of 64 bytes do not hold 200");
}

/// F14: half of a connection is closed at once, also while it is received from, and the other half goes on.
#[test]
fn f14_a_half_close_is_heard() {
    let Some((mut ring, slot, mut client)) = connected("127.0.0.1:0") else { return };
    ring.receive(slot, Watch::Always);
    ring.half_close(slot);
    assert!(completions(&mut ring, Kind::Shutdown, 1)[0].result.is_ok());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"still heard").unwrap();
    let received = completions(&mut ring, Kind::Receive, 1).remove(0);
    assert_eq!(ring.received(&received), b"still heard");
}

/// The address of a peer is asked of the socket, of either family, because accepting on and on does not tell it.
#[test]
fn peers_have_names() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let Some((mut ring, slot, client)) = connected(listen) else { return };
        let address = client.local_addr().unwrap();
        ring.ask_name(slot, address.is_ipv4());
        let completion = completions(&mut ring, Kind::Name, 1).remove(0);
        assert_eq!(ring.name(&completion), Some(address.ip()));
    }
}

/// F27: what is sent stays where it is until the kernel is done with it, also when the ring ends before that: then it is left
/// to the kernel for good.
#[test]
fn f27_what_is_under_way_outlives_the_ring() {
    let Some((mut ring, slot, client)) = connected("127.0.0.1:0") else { return };
    // More than any socket buffer takes: of the second a part at least is still to be sent.
    let payload = Bytes::from(vec![7; 32 << 20]);
    for round in 0.. {
        let mut parcel = Box::new(Parcel::new());
        parcel.fill(std::iter::once(&payload));
        ring.send(slot, parcel);
        ring.submit().unwrap();
        let mut taken = Vec::new();
        ring.take(&mut taken, 64);
        let Some(completion) = taken.into_iter().find(|completion| completion.token.kind == Kind::Send)
        else {
            assert!(round > 0, "the first is sent in part");
            break;
        };
        assert!((completion.result.unwrap() as usize) < payload.len(), "short");
        assert!(ring.sent(&completion).is_some_and(|parcel| parcel.bytes() == payload.len()));
    }
    assert!(!payload.is_unique());
    drop(ring);
    assert!(!payload.is_unique(), "not freed under the kernel's hands");
    drop(client);
}
