//! The lanes of one shard to two routers, of which one stands still.

use std::sync::{Arc, Mutex};

use carillon_gateway::io::link::{BACKLOG_BYTES_MAX, Lanes, Uplinks};
use carillon_gateway::turn::Input;
use carillon_link::doorbell::Doorbell;
use carillon_link::ring::{ANY_FRAME_BYTES, LaneEnd};
use carillon_link::{Mailbox, Peer, local};
use carillon_protocol::frame::{self, Frame, LinkFrame, Open};

/// Remembers whose lanes were asked for.
#[derive(Default)]
struct Asked(Mutex<Vec<Peer>>);

impl Uplinks for Asked {
    fn replace(&self, peer: Peer, _shard: u16) -> bool {
        self.0.lock().unwrap().push(peer);
        true
    }

    fn meet(&self, _address: &str) {}

    fn part(&self, _peer: Peer) {}
}

/// A shard's lanes, and the routers' ends of them.
struct Shard {
    lanes: Lanes,
    asked: Arc<Asked>,
    routers: [LaneEnd; 2],
}

impl Shard {
    fn start() -> Shard {
        let (shard, arrivals) = Mailbox::new(2, Doorbell::new().unwrap());
        let asked = Arc::<Asked>::default();
        let mut lanes = Lanes::new(arrivals, Arc::clone(&asked) as _, 7, 0);
        let routers = [Peer(0), Peer(1)].map(|peer| {
            let (router, arrivals) = Mailbox::new(1, Doorbell::new().unwrap());
            assert!(local::connect(ANY_FRAME_BYTES, &shard, &router, peer));
            arrivals.try_recv().unwrap().lane
        });
        assert_eq!(states(&mut lanes), []);
        lanes.flush();
        let routers = routers.map(|mut router| {
            assert_eq!(numbers(&mut router), [7]);
            router.send(&numbered(1)).unwrap();
            router
        });
        assert_eq!(states(&mut lanes), [(Peer(0), true), (Peer(1), true)]);
        Shard { lanes, asked, routers }
    }
}

/// Which lanes came up and went down in a turn.
fn states(lanes: &mut Lanes) -> Vec<(Peer, bool)> {
    let mut states = Vec::new();
    lanes.receive(|input| match input {
        Input::LaneUp { router, .. } => states.push((router, true)),
        Input::LaneDown { router } => states.push((router, false)),
        _ => panic!("nothing else is said"),
    });
    states
}

/// A frame that carries a number; which kind it is does not matter to lanes.
fn numbered(number: u64) -> rkyv::util::AlignedVec {
    Open { incarnation: number, shard: 0 }.to_frame()
}

fn numbers(router: &mut LaneEnd) -> Vec<u64> {
    let mut numbers = Vec::new();
    router.receive(usize::MAX, |bytes| match frame::read(bytes) {
        Ok(Frame::Open(open)) => numbers.push(open.incarnation.to_native()),
        _ => panic!("these carry numbers"),
    });
    numbers
}

/// G13: what waits for a router that does not read is bounded. Beyond that its lane is given up and a new one asked for,
/// and the other router has had everything all the while.
#[test]
fn g13_a_router_that_stands_still_costs_its_own_lane_only() {
    let Shard { mut lanes, asked, mut routers } = Shard::start();
    let frame_bytes = numbered(0).len();
    let mut sent = 0;
    while !lanes.has_broken() {
        assert!(sent as usize * frame_bytes <= BACKLOG_BYTES_MAX + ANY_FRAME_BYTES, "{sent} frames wait");
        assert_eq!(states(&mut lanes), []);
        lanes.send(Peer(0), numbered(sent));
        lanes.send(Peer(1), numbered(sent));
        lanes.flush();
        assert_eq!(numbers(&mut routers[1]), [sent]);
        sent += 1;
    }
    assert!(sent as usize * frame_bytes > BACKLOG_BYTES_MAX);
    assert_eq!(states(&mut lanes), [(Peer(0), false)]);
    assert_eq!(*asked.0.lock().unwrap(), [Peer(0)]);
    assert_eq!(lanes.queued_bytes(), 0, "nothing of it is kept");
    lanes.send(Peer(1), numbered(sent));
    lanes.flush();
    assert_eq!(numbers(&mut routers[1]), [sent]);
}

/// G13, G9: a router that is late, but not too late, finds everything in order.
#[test]
fn g13_a_late_router_finds_everything_in_order() {
    let Shard { mut lanes, mut routers, .. } = Shard::start();
    let count = (BACKLOG_BYTES_MAX / 2 / numbered(0).len()) as u64;
    for number in 0..count {
        lanes.send(Peer(0), numbered(number));
    }
    assert!(lanes.queued_bytes() > BACKLOG_BYTES_MAX / 4, "the ring did not take all of it");
    let mut next = 0;
    while next < count {
        let received = numbers(&mut routers[0]);
        assert!(!received.is_empty(), "after {next} nothing came");
        assert_eq!(received, (next..next + received.len() as u64).collect::<Vec<_>>());
        next += received.len() as u64;
        lanes.flush();
    }
    assert_eq!((lanes.queued_bytes(), states(&mut lanes)), (0, Vec::new()));
}
