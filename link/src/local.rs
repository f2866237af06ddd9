//! The body of Link inside one process: a gateway shard and a router shard hold the two ends of one pair of
//! rings.

use crate::tls::Role;
use crate::{Arrival, Mailbox, Peer, ring};

/// Joins a gateway shard and a router: each finds an end of a new lane in its mailbox, the gateway's named
/// `peer`, the router's [`Peer`] 0. Each way has `bytes`, but at least [`ring::ANY_FRAME_BYTES`].
///
/// `false` when a mailbox is full or its owner gone. The end that was put already, if any, is then closed:
/// its owner sees a lost lane, and the caller tries again later.
#[must_use]
pub fn connect(bytes: usize, gateway: &Mailbox, router: &Mailbox, peer: Peer) -> bool {
    let (gateway_end, router_end) =
        ring::pair(bytes.max(ring::ANY_FRAME_BYTES), gateway.wake(), router.wake());
    gateway.put(Arrival { peer, from: Role::Router, lane: gateway_end })
        && router.put(Arrival { peer: Peer(0), from: Role::Gateway, lane: router_end })
}
