//! What routers say about who owns what.

use carillon_protocol::frame::{OwnedSlot, Owners, RouterAddress};
use carillon_protocol::placement::SLOTS_COUNT;

/// A router that owns everything.
pub(crate) fn sole(incarnation: u64) -> Owners {
    owned(&[incarnation], incarnation, 1, 0..SLOTS_COUNT)
}

/// These routers live, and one of them owns these slots by this epoch.
pub(crate) fn owned(living: &[u64], owner: u64, epoch: u64, slots: impl IntoIterator<Item = u16>) -> Owners {
    let address = |incarnation: &u64| RouterAddress {
        incarnation: *incarnation,
        address: format!("router-{incarnation}:1"),
    };
    let owned = |slot| OwnedSlot { slot, owner, epoch };
    Owners { routers: living.iter().map(address).collect(), slots: slots.into_iter().map(owned).collect() }
}
