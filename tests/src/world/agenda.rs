//! What is still to happen, in the order of virtual time; what is due at the same time happens in the order in which it
//! was planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use carillon_link::Peer;
use carillon_protocol::time::WallMs;
use carillon_router::batch::Failure;
use carillon_router::lease;
use carillon_router::outbox::Ticket;
use carillon_store::error::ReadError;
use carillon_store::verb::{Answer, Op, Outcome, Query};

use super::lanes::Way;

/// Something that is going to happen. What names a `life` happens only if its process still lives it.
pub(super) enum Event {
    /// A gateway takes a turn.
    GatewayTurn { gateway: usize, life: u32 },
    /// A gateway that is away comes back, empty.
    GatewayStart { gateway: usize },
    /// A router takes a turn.
    RouterTurn { router: usize, life: u32 },
    /// A router that is away comes back as a new incarnation.
    RouterStart { router: usize },
    /// A batch is committed: from now on everybody who reads sees it.
    Commit { router: usize, life: u32, commit_lane: u16, ops: Vec<Op> },
    /// The router hears what became of it.
    Committed {
        router: usize,
        life: u32,
        commit_lane: u16,
        at: WallMs,
        results: Vec<Result<Outcome, Failure>>,
    },
    /// A snapshot is opened and read.
    Read { router: usize, life: u32, ticket: Ticket, query: Query },
    /// The router hears what was read.
    Answered { router: usize, life: u32, ticket: Ticket, answer: Result<Answer, ReadError> },
    /// A transaction or poll of a lease reaches the store.
    Order { router: usize, life: u32, order: lease::Output },
    /// The lease hears what became of it.
    Told { router: usize, life: u32, told: lease::Input },
    /// A gateway tries to reach the router that this peer of its own leads to.
    LaneConnect { gateway: usize, life: u32, peer: Peer },
    /// A router tries to reach the one at this address.
    LaneDial { router: usize, process: u32, address: String },
    /// The next frame of a lane arrives.
    LaneFrame { lane: usize, way: Way },
    /// Too long was nothing heard on a lane.
    LaneSilent { lane: usize },
    /// The receiving end of a lane finds that it is lost.
    LaneLost { lane: usize, way: Way },
    /// A connection reaches its gateway.
    Accept { socket: usize },
    /// Bytes of a client arrive.
    Up { socket: usize },
    /// A client reads.
    Down { socket: usize },
    /// A gateway finds that a connection was cut.
    Hangup { socket: usize },
    /// A gateway waits no longer for a client to take its last bytes.
    Linger { socket: usize },
    /// A device has something to do.
    Device { device: usize, at: u64 },
    /// What goes wrong with this number in the plan.
    Fault { number: usize },
    /// A conversation begins, as REST would ask for it.
    Create { number: usize },
    /// Somebody changes who is a member, as REST would ask for it.
    Change { number: usize },
    /// A commit of unknown outcome comes now or never.
    Land,
    /// The full disk has room again.
    Room,
    /// Nothing goes wrong any more.
    Calm,
    /// Nothing new is said any more.
    Hush,
}

struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// See the module.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Agenda {
    /// Plans an event. `at` is virtual nanoseconds.
    pub(super) fn put(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.heap.push(Entry { at, order: self.order, event });
    }

    /// The next event that is due until `end`.
    pub(super) fn next(&mut self, end: u64) -> Option<(u64, Event)> {
        if self.heap.peek()?.at > end {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
