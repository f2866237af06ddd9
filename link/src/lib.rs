//! Link: ordered, bounded, reliable lanes of frames between gateway shards and routers, up and down.
//!
//! A shard holds [`ring::LaneEnd`]s and nothing else: whether the other end is a thread of this process or, pumped over
//! QUIC by a control thread, another process, it cannot tell. What differs is who made the pair: [`local`] or [`quic`].
//! (The simulated body, for tests, stands in the tests' own crate: it moves the same frames under virtual time.)
//!
//! # Invariants
//! - Frames come out as they went in, whole and in order, each at an address aligned to eight bytes, or the lane is
//!   lost: a lane never drops, repeats or reorders one frame and goes on.
//! - A lane is bounded in bytes. When it is full the sender is told and keeps the frame; nothing blocks.
//! - A lost lane is never mended. A new one arrives, and the ends say [`carillon_protocol::frame::Open`] anew.

use std::sync::Arc;

pub mod local;
pub mod ring;

mod backoff;
mod bell;
mod io;
#[cfg(all(test, carillon_loom))]
mod model_tests;
mod sync;

pub use io::{doorbell, quic, tls};

/// Wakes the thread that owns the other end of something. Cheap when that thread is awake already; callable from any
/// thread, never blocking.
pub trait Wake: Send + Sync {
    /// Makes the owner look at its lanes and mailboxes soon.
    fn wake(&self);
}

/// Whom a lane leads to: a number given by whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u32);

/// A new lane for a shard or router: put into its mailbox by whoever connected it.
pub struct Arrival {
    /// Whoever connects numbers whom it connects to; the same number comes again with each new lane there. Who was
    /// connected to sees 0.
    pub peer: Peer,
    /// What the far end is, as its certificate says; in one process, as it is.
    pub from: tls::Role,
    /// The shard's end.
    pub lane: ring::LaneEnd,
}

/// Who connects a router with others, at run time and without being waited for: their lanes come into the router's
/// mailbox.
pub trait Dial: Send + Sync {
    /// There is a router at this address ("host:port", compared as text): a lane to it comes, and again whenever it
    /// was lost. Said again, it changes nothing.
    fn dial(&self, address: &str);

    /// There is none any more: the lane is closed, and none comes again.
    fn hang_up(&self, address: &str);
}

/// Where arrivals are put: the owner drains it each turn.
#[derive(Clone)]
pub struct Mailbox {
    sender: crossbeam_channel::Sender<Arrival>,
    wake: Arc<dyn Wake>,
}

impl Mailbox {
    /// A mailbox whose owner is woken by `wake`, and the end that the owner keeps. Holds at most `arrivals_max`.
    #[must_use]
    pub fn new(arrivals_max: usize, wake: Arc<dyn Wake>) -> (Mailbox, crossbeam_channel::Receiver<Arrival>) {
        let (sender, receiver) = crossbeam_channel::bounded(arrivals_max);
        (Mailbox { sender, wake }, receiver)
    }

    /// Puts an arrival in; when the mailbox is full or its owner gone, the lane is closed by being dropped and `false`
    /// comes back: try again later.
    #[must_use]
    pub fn put(&self, arrival: Arrival) -> bool {
        let put = self.sender.try_send(arrival).is_ok();
        self.wake.wake();
        put
    }

    /// What wakes the owner.
    #[must_use]
    pub fn wake(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake)
    }
}
