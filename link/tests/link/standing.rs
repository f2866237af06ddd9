//! Who stands still, and who goes on: gateways with several shards before several routers, over real sockets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carillon_link::Peer;
use carillon_link::quic::{Listener, Options, Switchboard, listen};
use carillon_link::ring::{ANY_FRAME_BYTES, LaneEnd, SendError};
use carillon_link::tls::Role;

use crate::quic::{Certificates, LOOPBACK};
use crate::support::{Process, Shard, frame, number, send};

const GATEWAYS: usize = 2;
const SHARDS: usize = 2;
const ROUTERS: usize = 2;
const FRAME_BYTES: usize = 10_000;

/// Which lane: gateway, shard, router.
type Place = (usize, usize, usize);

fn places() -> impl Iterator<Item = Place> {
    (0..GATEWAYS * SHARDS * ROUTERS)
        .map(|lane| (lane / (SHARDS * ROUTERS), lane / ROUTERS % SHARDS, lane % ROUTERS))
}

/// One end, and how many frames went into it and came out of it.
struct End {
    lane: LaneEnd,
    sent: u64,
    received: u64,
}

impl End {
    fn new(lane: LaneEnd) -> End {
        End { lane, sent: 0, received: 0 }
    }

    fn send(&mut self) -> Result<(), SendError> {
        self.lane.send(&frame(self.sent, FRAME_BYTES - 8))?;
        self.lane.flush();
        self.sent += 1;
        Ok(())
    }

    /// Takes what is there, in order.
    fn take(&mut self) {
        let received = &mut self.received;
        self.lane.receive(usize::MAX, |frame| {
            assert_eq!(number(frame), *received);
            *received += 1;
        });
    }
}

/// All gateways on one control thread, all routers on another: so that whoever stands still has every chance to hold up
/// somebody else.
struct Cluster {
    gateways: Vec<(Switchboard, Vec<Shard>)>,
    routers: Vec<(Listener, Shard)>,
    up: BTreeMap<Place, End>,
    down: BTreeMap<Place, End>,
    _processes: [Process; 2],
}

impl Cluster {
    fn start() -> Cluster {
        let certificates = Certificates::new();
        let options = Options { ring_bytes: ANY_FRAME_BYTES, ..Options::default() };
        let [there, here] = [Process::start(), Process::start()];
        let router = |_| {
            let (shard, identity) = (Shard::new(), certificates.identity(Role::Router));
            let mailbox = shard.mailbox.clone();
            (listen(&there.handle, LOOPBACK, &identity, mailbox, options.clone()).unwrap(), shard)
        };
        let routers: Vec<(Listener, Shard)> = (0..ROUTERS).map(router).collect();
        let gateway = |_| {
            let shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::new()).collect();
            let board = Switchboard::new(Peer(0));
            for (listener, _) in &routers {
                board.meet(&listener.local_addr().to_string());
            }
            let mailboxes = shards.iter().map(|shard| shard.mailbox.clone()).collect();
            let identity = certificates.identity(Role::Gateway);
            board.start(&here.handle, identity, mailboxes, options.clone()).unwrap();
            (board, shards)
        };
        let gateways: Vec<(Switchboard, Vec<Shard>)> = (0..GATEWAYS).map(gateway).collect();
        let (mut up, mut down) = (BTreeMap::new(), BTreeMap::new());
        for (at_gateway, (_, shards)) in gateways.iter().enumerate() {
            for (at_shard, shard) in shards.iter().enumerate() {
                for _ in 0..ROUTERS {
                    let arrival = shard.arrival();
                    let at_router = usize::try_from(arrival.peer.0).unwrap();
                    let mut end = arrival.lane;
                    send(&mut end, 0..1, 8);
                    let mut other = routers[at_router].1.lane();
                    routers[at_router].1.expect(&mut other, 0..1);
                    up.insert((at_gateway, at_shard, at_router), End::new(end));
                    down.insert((at_gateway, at_shard, at_router), End::new(other));
                }
            }
        }
        Cluster { gateways, routers, up, down, _processes: [there, here] }
    }
}

/// Sends on all of these until none takes any more, for this long.
fn fill<'a>(ends: impl Iterator<Item = &'a mut End>) {
    const FULL_FOR: Duration = Duration::from_millis(700);
    let mut ends: Vec<&mut End> = ends.collect();
    let mut full_since = Instant::now();
    while full_since.elapsed() < FULL_FOR {
        for end in &mut ends {
            while end.send().is_ok() {
                full_since = Instant::now();
            }
        }
        std::thread::yield_now();
    }
    // Two rings, the window, and what the task at the other end has in its hands.
    let bound = 2 * ANY_FRAME_BYTES + 1024 * 1024 + 2 * 64 * 1024;
    for end in ends {
        let bytes = usize::try_from(end.sent).unwrap() * FRAME_BYTES;
        assert!(bytes > ANY_FRAME_BYTES && bytes <= bound, "{bytes} bytes got in");
    }
}

/// DC3, G13, F13: the first router reads nothing of anybody, and the first shard of the first gateway reads nothing either. What
/// is on their lanes is bounded; every other lane goes on, of the same connection and of others, and so does the other way
/// of their own lanes. When they read again, everything is there.
#[test]
fn g13_who_stands_still_holds_up_nobody_else() {
    let Cluster { gateways, routers, mut up, mut down, _processes } = Cluster::start();
    let is_stuck_router = |(_, _, router): Place| router == 0;
    let is_stuck_shard = |(gateway, shard, _): Place| (gateway, shard) == (0, 0);
    fill(
        up.iter_mut()
            .filter(|(place, _)| is_stuck_router(**place))
            .map(|(_, end)| end)
            .chain(down.iter_mut().filter(|(place, _)| is_stuck_shard(**place)).map(|(_, end)| end)),
    );
    for _round in 0..20 {
        for place in places() {
            let (gateway, shard, router) = place;
            let (up, down) = (up.get_mut(&place).unwrap(), down.get_mut(&place).unwrap());
            if !is_stuck_router(place) {
                up.send().unwrap();
                routers[router].1.until("a frame up", || {
                    down.take();
                    (down.received == up.sent).then_some(())
                });
            }
            if !is_stuck_shard(place) {
                down.send().unwrap();
                gateways[gateway].1[shard].until("a frame down", || {
                    up.take();
                    (up.received == down.sent).then_some(())
                });
            }
        }
    }
    for place in places() {
        let (gateway, shard, router) = place;
        let (up, down) = (up.get_mut(&place).unwrap(), down.get_mut(&place).unwrap());
        if is_stuck_router(place) {
            assert_eq!(up.send(), Err(SendError::Full), "it still stands");
            routers[router].1.until("all that went up", || {
                down.take();
                (down.received == up.sent).then_some(())
            });
        }
        if is_stuck_shard(place) {
            assert_eq!(down.send(), Err(SendError::Full), "it still stands");
            gateways[gateway].1[shard].until("all that went down", || {
                up.take();
                (up.received == down.sent).then_some(())
            });
        }
        assert!(!up.lane.is_closed() && !down.lane.is_closed());
    }
}
