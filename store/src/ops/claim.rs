//! Becoming the owner: a new incarnation, and the end of all before it (G15).

use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::time::WallMs;

use crate::ids::{self, MessageIds};
use crate::keys;
use crate::rows::{self, Halt, Walk, walk};
use crate::txn::{Abort, Txn};
use crate::verb::Incarnation;

/// The value of `router/inc` for a dead incarnation; a living one holds when it began.
pub(super) const DEAD: u64 = 0;
/// The most rows of incarnations that one claim looks at. A claim leaves at most as many as were alive, so there are
/// never more than a handful; beyond the bound the claim is refused, because an older one would stay alive.
pub(super) const ROUTERS_MAX: usize = 4_096;
/// The most rows of id ceilings of one node part: one for each lane.
const CEILINGS_MAX: usize = ids::LANES_MAX as usize;

/// What a router begins its life with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub incarnation: Incarnation,
    /// No message id with this incarnation's node bits was ever given at or above this time, in milliseconds since the
    /// epoch of message ids.
    pub ids_ceiling_ms: u64,
    /// The epoch by which it owns all slots; 0 when it owns none yet.
    pub epoch: u64,
}

impl Claim {
    /// The ids of one commit lane.
    #[must_use]
    pub fn message_ids(&self, lane: u16, lanes_count: u16) -> MessageIds {
        MessageIds::new(self.incarnation, self.ids_ceiling_ms, lane, lanes_count)
    }
}

/// Whether the value of a `router/inc` row is a living incarnation's.
pub(super) fn is_live(value: u64) -> bool {
    value != DEAD
}

/// Takes the next incarnation number, ends every earlier incarnation and claims all slots, in one transaction. `now` is
/// kept for display only (G16). Run again after an unknown outcome it takes one more number, which harms nobody.
///
/// # Errors
/// [`Abort::Read`] when the engine could not read; nothing may be committed then.
pub fn claim(txn: &mut dyn Txn, now: WallMs) -> Result<Claim, Abort> {
    let earlier = incarnations(txn)?;
    let latest = earlier.iter().map(|(incarnation, _)| *incarnation).max().unwrap_or_default();
    let incarnation = Incarnation(latest.0 + 1);
    for (earlier, value) in earlier {
        // The row of the latest stays until the next claim, so that numbers never go back; a missing row is as dead.
        if is_live(value) {
            txn.set(keys::router(earlier), rows::number(DEAD));
        } else {
            txn.clear(keys::router(earlier));
        }
        txn.clear(keys::beat(earlier));
        txn.clear(keys::address(earlier));
    }
    txn.set(keys::router(incarnation), rows::number(now.0.max(DEAD + 1)));
    // One epoch for all, above every one before.
    let epoch = epochs(txn)?.into_iter().max().unwrap_or(0) + 1;
    for slot in (0..SLOTS_COUNT).map(Slot) {
        txn.set(keys::slot(slot), rows::slot(incarnation.0, epoch));
    }
    Ok(Claim { incarnation, ids_ceiling_ms: ids_ceiling_ms(txn, incarnation)?, epoch })
}

/// All incarnations that have a row, ascending, each with whether it lives ([`is_live`]). A row that cannot be read is
/// taken for a living one's: it is ended like any other.
pub(super) fn incarnations(txn: &mut dyn Txn) -> Result<Vec<(Incarnation, u64)>, Abort> {
    let mut all = Vec::new();
    walk(txn, keys::routers(), ROUTERS_MAX + 1, |(key, value)| {
        let incarnation = keys::router_incarnation(&key).unwrap_or_default();
        all.push((incarnation, rows::read_number(&value).unwrap_or(DEAD + 1)));
        Ok(Walk::On)
    })
    .map_err(abort)?;
    if all.len() > ROUTERS_MAX { Err(Abort::TooLarge) } else { Ok(all) }
}

/// The epochs of all slots, 0 where there is no row: as ranges, because there is no time for a round trip for each.
fn epochs(txn: &mut dyn Txn) -> Result<Vec<u64>, Abort> {
    let mut epochs = vec![0; usize::from(SLOTS_COUNT)];
    walk(txn, keys::slots(), usize::from(SLOTS_COUNT), |(key, value)| {
        let slot = keys::slot_number(&key).ok_or_else(rows::damaged)?;
        let (_, epoch) = rows::read_slot(&value)?;
        *epochs.get_mut(usize::from(slot.0)).ok_or_else(rows::damaged)? = epoch;
        Ok(Walk::On)
    })
    .map_err(abort)?;
    Ok(epochs)
}

pub(super) fn ids_ceiling_ms(txn: &mut dyn Txn, incarnation: Incarnation) -> Result<u64, Abort> {
    let mut ceiling_ms = 0;
    walk(txn, keys::id_ceilings(ids::node_of(incarnation)), CEILINGS_MAX, |(_, value)| {
        ceiling_ms = rows::read_number(&value)?.max(ceiling_ms);
        Ok(Walk::On)
    })
    .map_err(abort)?;
    Ok(ceiling_ms)
}

/// Begins the next idempotency generation and returns its number. Called after seven days of accumulated service time:
/// rows of the generation before it still count, older ones do not (G2).
///
/// # Errors
/// [`Abort::Read`] when the engine could not read; nothing may be committed then.
pub fn advance_generation(txn: &mut dyn Txn) -> Result<u64, Abort> {
    let generation = super::number(txn, &keys::generation())?.unwrap_or(0) + 1;
    txn.set(keys::generation(), rows::number(generation));
    Ok(generation)
}

/// Clears rows of an idempotency generation that no longer counts, at most `rows_max` of them, and says whether there may
/// be more. Nothing is cleared of the two generations that count, whatever is asked for.
///
/// # Errors
/// [`Abort::Read`] when the engine could not read; nothing may be committed then.
pub fn clear_generation(txn: &mut dyn Txn, generation: u64, rows_max: usize) -> Result<bool, Abort> {
    let newest = super::number(txn, &keys::generation())?.unwrap_or(0);
    if generation.saturating_add(1) >= newest {
        return Ok(false);
    }
    let mut left = rows_max;
    for range in [keys::sent_in(generation), keys::created_in(generation)] {
        let mut keys = Vec::new();
        walk(txn, range, left, |(key, _)| {
            keys.push(key);
            Ok(Walk::On)
        })
        .map_err(abort)?;
        left -= keys.len().min(left);
        for key in keys {
            txn.clear(key);
        }
    }
    Ok(left == 0)
}

/// A claim over rows that cannot be read would be a claim over an unknown owner.
fn abort(halt: Halt) -> Abort {
    match halt {
        Halt::Read(error) => Abort::Read(error),
        Halt::Refused(_) => Abort::Fenced,
    }
}
