//! Many routers: who is met at run time, and parted with, and what stands still for whom.

use std::collections::BTreeMap;

use carillon_link::quic::{Listener, Options, ROUTERS_MAX, Switchboard, listen};
use carillon_link::ring::LaneEnd;
use carillon_link::tls::Role;
use carillon_link::{Dial, Peer};

use crate::quic::{Certificates, LOOPBACK};
use crate::support::{Process, Shard, eventually, send};

/// A router's listener and its mailbox.
struct Router {
    shard: Shard,
    listener: Listener,
}

impl Router {
    fn start(process: &Process, certificates: &Certificates) -> Router {
        let shard = Shard::new();
        let (identity, mailbox) = (certificates.identity(Role::Router), shard.mailbox.clone());
        let listener = listen(&process.handle, LOOPBACK, &identity, mailbox, Options::default()).unwrap();
        Router { shard, listener }
    }

    fn address(&self) -> String {
        self.listener.local_addr().to_string()
    }

    /// The router's end of a lane on which `up` is the other one; says `hello` to have it arrive.
    fn answer(&self, up: &mut LaneEnd, hello: u64, from: Role) -> LaneEnd {
        send(up, hello..hello + 1, 8);
        let mut arrival = self.shard.arrival();
        assert_eq!((arrival.peer, arrival.from), (Peer(0), from));
        self.shard.expect(&mut arrival.lane, hello..hello + 1);
        arrival.lane
    }
}

/// The ends that came to a shard, by their peers.
fn lanes(shard: &Shard, count: usize) -> BTreeMap<Peer, LaneEnd> {
    (0..count)
        .map(|_| {
            let arrival = shard.arrival();
            assert_eq!(arrival.from, Role::Router);
            (arrival.peer, arrival.lane)
        })
        .collect()
}

/// Routers are met at run time, by every shard, and each shard gets one lane to each; before the mailboxes are
/// known as well. Who is parted with is gone, and the others go on; who is met again has another number.
#[test]
fn routers_are_met_and_parted_with_at_run_time() {
    let (certificates, process) = (Certificates::new(), Process::start());
    let routers = [(); 3].map(|()| Router::start(&process, &certificates));
    let shards = [Shard::new(), Shard::new()];
    let board = Switchboard::new(Peer(1));
    assert_eq!(board.meet(&routers[0].address()), Some(Peer(1)));
    let mailboxes = shards.iter().map(|shard| shard.mailbox.clone()).collect();
    let identity = certificates.identity(Role::Gateway);
    board.start(&process.handle, identity, mailboxes, Options::default()).unwrap();
    for _again in 0..3 {
        assert_eq!(board.meet(&routers[0].address()), Some(Peer(1)));
        assert_eq!(board.meet(&routers[1].address()), Some(Peer(2)));
    }
    let mut ends = shards.each_ref().map(|shard| lanes(shard, 2));
    let mut down = Vec::new();
    for ends in &mut ends {
        assert_eq!(ends.keys().collect::<Vec<_>>(), [&Peer(1), &Peer(2)]);
        for (router, up) in routers.iter().zip(ends.values_mut()) {
            down.push(router.answer(up, 7, Role::Gateway));
        }
    }
    // A third at run time.
    assert_eq!(board.meet(&routers[2].address()), Some(Peer(3)));
    for (shard, ends) in shards.iter().zip(&mut ends) {
        let mut lanes = lanes(shard, 1);
        down.push(routers[2].answer(lanes.get_mut(&Peer(3)).unwrap(), 7, Role::Gateway));
        ends.append(&mut lanes);
    }
    assert!(shards.iter().all(|shard| shard.arrival_if_any().is_none()), "one lane each");

    board.part(Peer(1));
    board.part(Peer(1));
    for (shard, ends) in shards.iter().zip(&mut ends) {
        shard.expect_closed(ends.get_mut(&Peer(1)).unwrap());
    }
    let counters = board.counters();
    eventually("the parted connection is gone", || counters.read().lanes_open == 4);
    send(ends[0].get_mut(&Peer(2)).unwrap(), 8..9, 8);
    routers[1].shard.expect(&mut down[1], 8..9);
    assert_eq!(board.meet(&routers[0].address()), Some(Peer(4)));
    for shard in &shards {
        routers[0].answer(lanes(shard, 1).get_mut(&Peer(4)).unwrap(), 9, Role::Gateway);
    }
}

/// The same for a router, which dials others by their addresses: they see a router arrive.
#[test]
fn a_router_dials_and_hangs_up() {
    let (certificates, process) = (Certificates::new(), Process::start());
    let (there, here) = (Router::start(&process, &certificates), Router::start(&process, &certificates));
    let board = Switchboard::new(Peer(1));
    let dial: &dyn Dial = &board;
    dial.dial(&there.address());
    let identity = certificates.identity(Role::Router);
    board.start(&process.handle, identity, vec![here.shard.mailbox.clone()], Options::default()).unwrap();
    dial.dial(&there.address());
    let mut dialled = here.shard.arrival();
    assert_eq!((dialled.peer, dialled.from), (Peer(1), Role::Router));
    let mut heard = there.answer(&mut dialled.lane, 1, Role::Router);
    send(&mut heard, 2..3, 8);
    here.shard.expect(&mut dialled.lane, 2..3);
    let counters = there.listener.counters(Role::Router);
    assert_eq!((counters.read().connections, counters.read().lanes), (1, 1));
    assert_eq!(there.listener.counters(Role::Gateway).read().connections, 0);

    dial.hang_up("somewhere.else:7400");
    send(&mut heard, 3..4, 8);
    here.shard.expect(&mut dialled.lane, 3..4);
    dial.hang_up(&there.address());
    here.shard.expect_closed(&mut dialled.lane);
    there.shard.expect_closed(&mut heard);
    assert!(here.shard.arrival_if_any().is_none());
}

/// No more than [`ROUTERS_MAX`] are met at a time; who is parted with makes room.
#[test]
fn there_is_room_for_so_many_routers() {
    let board = Switchboard::new(Peer(0));
    let address = |number: u32| format!("router-{number}:7400");
    let bound = u32::try_from(ROUTERS_MAX).unwrap();
    for number in 0..bound {
        assert_eq!(board.meet(&address(number)), Some(Peer(number)));
    }
    assert_eq!(board.meet(&address(bound)), None);
    assert_eq!(board.meet(&address(3)), Some(Peer(3)), "who is there is there");
    board.part(Peer(3));
    assert_eq!(board.meet(&address(bound)), Some(Peer(bound)));
    assert_eq!(board.meet(&address(3)), None);
}

/// Who ends says so: the router need not wait for a time-out, and nobody is met after that.
#[test]
fn a_closed_switchboard_has_said_goodbye() {
    let (certificates, process) = (Certificates::new(), Process::start());
    let router = Router::start(&process, &certificates);
    let shard = Shard::new();
    let board = Switchboard::new(Peer(0));
    let (identity, options) = (certificates.identity(Role::Gateway), Options::default());
    board.start(&process.handle, identity, vec![shard.mailbox.clone()], options).unwrap();
    board.meet(&router.address());
    let mut up = shard.lane();
    let mut down = router.answer(&mut up, 1, Role::Gateway);
    process.handle.block_on(board.close());
    shard.expect_closed(&mut up);
    router.shard.expect_closed(&mut down);
    assert_eq!(board.meet(&router.address()), None);
}
