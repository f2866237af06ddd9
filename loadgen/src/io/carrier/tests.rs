//! Every carrier against real sockets: what is promised of one holds for all, and of a ring also when everything in it is too
//! small.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::uring::{self, Sizes, Uring};
use super::{Carrier, Choice, Dial, ENDED, Event, INPUT_BYTES, source};
use crate::options::IoName;

const TINY: Sizes = Sizes { entries: 8, buffers: 2, buffer_bytes: 64 };

/// Turns, each of a second at most, in which nothing may happen that is told.
const EMPTY_TURNS_MAX: u32 = 60;

/// Each sort of carrier that is allowed here.
fn carriers(sockets_max: u32) -> Vec<(&'static str, Box<dyn Carrier>)> {
    let mut all = vec![("epoll", Choice::Epoll.open(sockets_max).unwrap())];
    if uring::probe().is_ok() {
        all.push(("uring", Choice::Uring.open(sockets_max).unwrap()));
        all.push(("tiny", Box::new(Uring::new(TINY, sockets_max).unwrap())));
    }
    all
}

/// Takes what happens until `see` has seen enough.
fn watch(carrier: &mut dyn Carrier, mut see: impl FnMut(&mut dyn Carrier, u32, Event, &[u8]) -> bool) {
    let mut input = vec![0; INPUT_BYTES];
    let mut empty_turns = 0;
    while empty_turns < EMPTY_TURNS_MAX {
        carrier.wait(Duration::from_secs(1)).unwrap();
        empty_turns += 1;
        while let Some((local, event)) = carrier.next(&mut input) {
            empty_turns = 0;
            if see(carrier, local, event, &input) {
                return;
            }
        }
    }
    panic!("nothing happens any more");
}

/// What comes next of one socket.
fn next(carrier: &mut dyn Carrier) -> (u32, Event, Vec<u8>) {
    let mut found = None;
    watch(carrier, |_, local, event, input| {
        let bytes = if let Event::Received { bytes } = event { input[..bytes].to_vec() } else { Vec::new() };
        found = Some((local, event, bytes));
        true
    });
    found.unwrap()
}

/// A server that has a thread for each connection.
fn serve(address: &str, each: fn(TcpStream, &Sender<String>)) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || each(stream, &sender));
        }
    });
    (address, told)
}

/// Says everything back, and tells how it ended.
fn echo(mut stream: TcpStream, told: &Sender<String>) {
    let mut bytes = vec![0; 10_000];
    let ended = loop {
        match stream.read(&mut bytes) {
            Ok(0) => break "closed".to_owned(),
            Ok(count) => stream.write_all(&bytes[..count]).unwrap(),
            Err(error) => break error.kind().to_string(),
        }
    };
    let _ = told.send(ended);
}

fn to(server: SocketAddr) -> Dial {
    Dial { server, source: None, holds_little: false }
}

fn pattern(local: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32 * 7 + local) as u8).collect()
}

/// Many sockets at the same time say a lot and hear all of it again, in order; each is closed so that its peer hears of it,
/// and its place is dialled again at once.
#[test]
fn everything_comes_back_and_every_end_is_heard() {
    const SOCKETS: u32 = 40;
    const ROUNDS: u32 = 3;
    let (server, told) = serve("127.0.0.1:0", echo);
    for (name, mut carrier) in carriers(SOCKETS) {
        let said: Vec<Vec<u8>> =
            (0..SOCKETS).map(|local| pattern(local, 100 + local as usize * 300)).collect();
        let mut heard: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut left: Vec<Vec<u8>> = vec![Vec::new(); SOCKETS as usize];
        let mut rounds = [0; SOCKETS as usize];
        let mut finished = 0;
        for local in 0..SOCKETS {
            let source = source(server, local, 16);
            assert_ne!(source, None);
            carrier.dial(local, &Dial { source, ..to(server) }).unwrap();
        }
        watch(&mut *carrier, |carrier, local, event, input| {
            let place = local as usize;
            match event {
                Event::Connected => left[place].extend_from_slice(&said[place]),
                Event::Received { bytes } => {
                    heard.entry(local).or_default().extend_from_slice(&input[..bytes]);
                }
                Event::Room => {}
                Event::Ended(words) => panic!("{name}: {local} {words}"),
            }
            carrier.send(local, &mut left[place]).unwrap();
            if heard.get(&local).is_some_and(|heard| heard.len() >= said[place].len()) {
                assert!(heard.remove(&local).as_ref() == Some(&said[place]), "{name}: {local}");
                rounds[place] += 1;
                carrier.close(local);
                if rounds[place] < ROUNDS {
                    carrier.dial(local, &to(server)).unwrap();
                } else {
                    finished += 1;
                }
            }
            finished == SOCKETS
        });
        // What was closed last the kernel has not been told yet.
        let (mut ends, mut turns) = (0, 0);
        while ends < SOCKETS * ROUNDS {
            turns += 1;
            assert!(turns < EMPTY_TURNS_MAX * 1_000, "{name}: {ends} ends were heard");
            carrier.wait(Duration::from_millis(1)).unwrap();
            assert_eq!(
                carrier.next(&mut [0; INPUT_BYTES]),
                None,
                "{name}: nothing is told of what is closed"
            );
            for end in told.try_iter() {
                assert_eq!(end, "closed", "{name}");
                ends += 1;
            }
        }
    }
}

/// More than the kernel takes at once is sent piece by piece, and what was said behind it follows.
#[test]
fn what_is_too_much_at_once_goes_in_pieces() {
    const MUCH: usize = 8 * 1024 * 1024;
    let (server, _told) = serve("127.0.0.1:0", |mut stream, _| {
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(b"s").unwrap();
        let mut all = vec![0; MUCH];
        stream.read_exact(&mut all).unwrap();
        let is_right = all == pattern(1, MUCH);
        stream.write_all(if is_right { b"y" } else { b"n" }).unwrap();
    });
    for (name, mut carrier) in carriers(1) {
        carrier.dial(0, &to(server)).unwrap();
        let mut out = b"here".to_vec();
        let mut heard = Vec::new();
        let mut rooms = 0;
        watch(&mut *carrier, |carrier, local, event, input| {
            match event {
                Event::Connected => {}
                Event::Received { bytes } => {
                    heard.extend_from_slice(&input[..bytes]);
                    if heard == b"s" {
                        // In two parts, so that the second waits for the first.
                        let all = pattern(1, MUCH);
                        out.extend_from_slice(&all[..MUCH - 100]);
                        carrier.send(local, &mut out).unwrap();
                        out.extend_from_slice(&all[MUCH - 100..]);
                    }
                }
                Event::Room => rooms += 1,
                Event::Ended(words) => panic!("{name}: {words}"),
            }
            carrier.send(local, &mut out).unwrap();
            heard.len() == 2
        });
        assert_eq!((heard.as_slice(), out.is_empty(), rooms > 0), (b"sy".as_slice(), true, true), "{name}");
    }
}

/// Each way in which a connection ends has the same words, whoever carries it.
#[test]
fn an_end_has_its_words() {
    let (closes, _told) = serve("127.0.0.1:0", |_, _| {});
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (name, mut carrier) in carriers(2) {
        carrier.dial(0, &to(closes)).unwrap();
        assert_eq!(next(&mut *carrier).1, Event::Connected, "{name}");
        assert_eq!(next(&mut *carrier).1, Event::Ended(ENDED.to_owned()), "{name}");
        carrier.close(0);
        // At once (as epoll's `dial` does), or by an event.
        let refused = match carrier.dial(1, &to(nobody)) {
            Err(error) => error.kind().to_string(),
            Ok(()) => match next(&mut *carrier) {
                (1, Event::Ended(words), _) => words,
                other => panic!("{name}: {other:?}"),
            },
        };
        assert_eq!(refused, "connection refused", "{name}");
        carrier.close(1);
        // Its place is good for another.
        carrier.dial(1, &to(closes)).unwrap();
        assert_eq!(next(&mut *carrier).1, Event::Connected, "{name}");
    }
}

/// One that is given up before it stands is not told of, and the next in its place is.
#[test]
fn a_dial_can_be_given_up() {
    let (server, _told) = serve("127.0.0.1:0", echo);
    for (name, mut carrier) in carriers(1) {
        for _ in 0..20 {
            carrier.dial(0, &to(server)).unwrap();
            carrier.wait(Duration::ZERO).unwrap();
            carrier.close(0);
            carrier.dial(0, &to(server)).unwrap();
            assert_eq!(next(&mut *carrier).1, Event::Connected, "{name}");
            carrier.send(0, &mut b"hear me".to_vec()).unwrap();
            let (_, event, bytes) = next(&mut *carrier);
            assert_eq!(
                (event, bytes.as_slice()),
                (Event::Received { bytes: 7 }, b"hear me".as_slice()),
                "{name}"
            );
            carrier.close(0);
        }
    }
}

/// Who reads in sips is given no more than was asked for, and the rest when it asks.
#[test]
fn sips_are_small_and_are_asked_for() {
    const SIP: u32 = 50;
    let (server, _told) = serve("127.0.0.1:0", |mut stream, _| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&pattern(3, 1_000)).unwrap();
        let _ = stream.read(&mut first);
    });
    for (name, mut carrier) in carriers(1) {
        carrier.dial(0, &Dial { holds_little: true, ..to(server) }).unwrap();
        assert_eq!(next(&mut *carrier).1, Event::Connected, "{name}");
        carrier.sip(0, Some(SIP)).unwrap();
        carrier.send(0, &mut b"g".to_vec()).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 500 {
            let (_, event, bytes) = next(&mut *carrier);
            assert!((1..=SIP as usize).contains(&bytes.len()), "{name}: {event:?}");
            heard.extend(bytes);
            carrier.wait(Duration::from_millis(5)).unwrap();
            assert_eq!(carrier.next(&mut [0; INPUT_BYTES]), None, "{name}: nobody asked");
            carrier.sip(0, Some(SIP)).unwrap();
        }
        carrier.sip(0, None).unwrap();
        while heard.len() < 1_000 {
            heard.extend(next(&mut *carrier).2);
        }
        assert!(heard == pattern(3, 1_000), "{name}");
    }
}

/// Clients do not always divide evenly: an engine may have none, and still keeps time.
#[test]
fn there_may_be_nobody_to_carry() {
    for (name, mut carrier) in carriers(0) {
        carrier.wait(Duration::from_millis(1)).unwrap();
        assert_eq!(carrier.next(&mut [0; INPUT_BYTES]), None, "{name}");
    }
}

/// Other addresses: from one of our own choice, and of the other family.
#[test]
fn addresses_are_what_was_asked_for() {
    fn tell(stream: TcpStream, told: &Sender<String>) {
        let _ = told.send(stream.peer_addr().unwrap().ip().to_string());
    }
    let (server, told) = serve("127.0.0.1:0", tell);
    for (name, mut carrier) in carriers(1) {
        let source = source(server, 22, 16);
        assert_eq!(source.map(|it| it.ip()), Some(Ipv4Addr::new(127, 0, 0, 7).into()));
        carrier.dial(0, &Dial { source, ..to(server) }).unwrap();
        assert_eq!(
            (next(&mut *carrier).1, told.recv().unwrap()),
            (Event::Connected, "127.0.0.7".to_owned()),
            "{name}"
        );
    }
    // Not every machine has it.
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let (server, told) = serve("[::1]:0", tell);
    for (name, mut carrier) in carriers(1) {
        assert_eq!(source(server, 22, 16), None);
        carrier.dial(0, &to(server)).unwrap();
        assert_eq!(
            (next(&mut *carrier).1, told.recv().unwrap()),
            (Event::Connected, "::1".to_owned()),
            "{name}"
        );
    }
}

#[test]
fn the_first_choice_is_taken_where_it_is_allowed() {
    let refused = || Err("Operation not permitted".to_owned());
    let judged = |asked, probed| Choice::judge(asked, probed);
    assert_eq!(judged(IoName::Auto, Ok(())), Ok((Choice::Uring, None)));
    let (choice, why) = judged(IoName::Auto, refused()).unwrap();
    assert_eq!((choice, why.as_deref()), (Choice::Epoll, Some("Operation not permitted")));
    assert_eq!(judged(IoName::Epoll, Ok(())), Ok((Choice::Epoll, None)));
    assert!(judged(IoName::Uring, refused()).unwrap_err().contains("--io auto"));
    if uring::probe().is_ok() {
        let error = Choice::Uring.open(u32::MAX / 2).err().unwrap();
        assert!(error.to_string().contains("--io epoll"), "{error}");
    }
}
