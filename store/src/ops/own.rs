//! Sharing the slots among several routers: who lives, who owns what, and how a slot goes from one to another (G15).
//!
//! # Invariants
//! - A slot changes hands in two ways: its living owner gives it away, or its owner is dead. Nobody takes from the living.
//! - An incarnation that was declared dead never lives again: its row says so, or is gone.
//! - Everything that decides is read in the transaction that acts on it: of two that act on the same, one conflicts.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::time::WallMs;

use super::claim::{DEAD, ids_ceiling_ms, incarnations, is_live};
use super::{Claim, number};
use crate::error::ReadError;
use crate::keys;
use crate::rows::{self, Halt, Walk, walk};
use crate::txn::{Abort, Read, Txn};
use crate::verb::Incarnation;

/// The most living incarnations that a poll shows; more routers than this are not started on one store.
pub const LIVING_MAX: usize = 256;
/// Nobody, as the owner of a slot.
const NOBODY: u64 = 0;

/// The longest address of a router, in bytes: a DNS name (RFC 1035 section 2.3.4) and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;

/// One living router, as a poll shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Which.
    pub incarnation: Incarnation,
    /// Its last beat: a number that it raises.
    pub beat: u64,
    /// Where it is reached: "host:port".
    pub address: String,
}

/// Who owns a slot at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// `None` is nobody, or somebody who is dead.
    pub owner: Option<Incarnation>,
    /// How often the slot changed hands: of two that say they own it, the one with the higher epoch does.
    pub epoch: u64,
}

/// Who lives and who owns what, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Ascending by incarnation.
    pub living: Vec<Living>,
    /// By slot, [`SLOTS_COUNT`] of them.
    pub owners: Vec<Holder>,
}

/// Takes the next incarnation number beside the living; unlike [`super::claim`] it ends nobody and owns nothing yet. Run
/// again after an unknown outcome it takes one more number, whose life is ended like that of any router that is silent.
/// `address` is where others reach it, at most [`ADDRESS_BYTES_MAX`] long.
///
/// # Errors
/// [`Abort::Read`] when the engine could not read; [`Abort::TooLarge`] when there are more incarnations than are looked at.
pub fn join(txn: &mut dyn Txn, now: WallMs, address: &str) -> Result<Claim, Abort> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(Abort::TooLarge);
    }
    let earlier = incarnations(txn)?;
    let latest = earlier.iter().map(|(incarnation, _)| *incarnation).max().unwrap_or_default();
    let incarnation = Incarnation(latest.0 + 1);
    // A missing row is as dead; the new row keeps numbers from going back.
    for (dead, _) in earlier.iter().filter(|(_, value)| !is_live(*value)) {
        txn.clear(keys::router(*dead));
        txn.clear(keys::beat(*dead));
        txn.clear(keys::address(*dead));
    }
    txn.set(keys::router(incarnation), rows::number(now.0.max(DEAD + 1)));
    txn.set(keys::beat(incarnation), rows::number(0));
    txn.set(keys::address(incarnation), Bytes::copy_from_slice(address.as_bytes()));
    Ok(Claim { incarnation, ids_ceiling_ms: ids_ceiling_ms(txn, incarnation)?, epoch: 0 })
}

/// Says that `incarnation` lives, by its `beat`-th beat.
///
/// # Errors
/// [`Abort::Fenced`] when it was declared dead; [`Abort::Read`] when the engine could not read.
pub fn beat(txn: &mut dyn Txn, incarnation: Incarnation, beat: u64) -> Result<(), Abort> {
    fence(txn, incarnation)?;
    txn.set(keys::beat(incarnation), rows::number(beat));
    Ok(())
}

/// Declares `silent` dead, if its last beat is still the one that `by` saw. Returns whether it is dead now.
///
/// # Errors
/// [`Abort::Fenced`] when `by` is dead itself; [`Abort::Read`] when the engine could not read.
pub fn depose(
    txn: &mut dyn Txn,
    by: Incarnation,
    silent: Incarnation,
    beat_seen: u64,
) -> Result<bool, Abort> {
    fence(txn, by)?;
    if !lives(txn, silent)? {
        return Ok(true);
    }
    let beat = number(txn, &keys::beat(silent))?.unwrap_or(0);
    if beat == beat_seen {
        end(txn, silent);
    }
    Ok(beat == beat_seen)
}

/// The end of a life that gave away what it owned, or wants others to take it.
///
/// # Errors
/// [`Abort::Read`] when the engine could not read.
pub fn retire(txn: &mut dyn Txn, incarnation: Incarnation) -> Result<(), Abort> {
    if lives(txn, incarnation)? {
        end(txn, incarnation);
    }
    Ok(())
}

/// Makes `by` the owner of those of `slots` that are its own already, nobody's, or a dead one's, and returns them with
/// their epochs.
///
/// # Errors
/// [`Abort::Fenced`] when `by` is dead; [`Abort::Read`] when the engine could not read.
pub fn take(txn: &mut dyn Txn, by: Incarnation, slots: &[Slot]) -> Result<Vec<(Slot, u64)>, Abort> {
    fence(txn, by)?;
    fetch_ahead(txn, slots);
    let mut known: BTreeMap<u64, bool> = BTreeMap::from([(NOBODY, false)]);
    let mut taken = Vec::new();
    for slot in slots {
        let (owner, epoch) = super::load_slot(txn, *slot)?;
        let owner_lives = match known.get(&owner) {
            Some(lives) => *lives,
            None => {
                let lives = lives(txn, Incarnation(owner))?;
                known.insert(owner, lives);
                lives
            }
        };
        if owner == by.0 {
            taken.push((*slot, epoch));
        } else if !owner_lives {
            txn.set(keys::slot(*slot), rows::slot(by.0, epoch + 1));
            taken.push((*slot, epoch + 1));
        }
    }
    Ok(taken)
}

/// Gives those of `slots` that `by` owns to `to`, or to nobody when that one is dead or `None`. The giver has no commit
/// in flight there, and begins none.
///
/// # Errors
/// [`Abort::Fenced`] when `by` is dead; [`Abort::Read`] when the engine could not read.
pub fn give(
    txn: &mut dyn Txn,
    by: Incarnation,
    slots: &[Slot],
    to: Option<Incarnation>,
) -> Result<(), Abort> {
    fence(txn, by)?;
    let to = match to {
        Some(to) if lives(txn, to)? => to.0,
        _ => NOBODY,
    };
    fetch_ahead(txn, slots);
    for slot in slots {
        let (owner, epoch) = super::load_slot(txn, *slot)?;
        if owner == by.0 {
            txn.set(keys::slot(*slot), rows::slot(to, epoch + 1));
        }
    }
    Ok(())
}

/// Who lives and who owns what.
///
/// # Errors
/// The engine could not read, or a row of these cannot be read: then nobody may decide anything.
pub fn ownership(read: &mut dyn Read) -> Result<Ownership, ReadError> {
    let told = |halt| match halt {
        Halt::Read(error) => error,
        Halt::Refused(_) => ReadError::Fatal("a row of the routers' own cannot be read".to_owned()),
    };
    let mut living = Vec::new();
    walk(read, keys::routers(), super::claim::ROUTERS_MAX, |(key, value)| {
        let incarnation = keys::router_incarnation(&key).ok_or_else(rows::damaged)?;
        if is_live(rows::read_number(&value)?) {
            living.push(Living { incarnation, beat: 0, address: String::new() });
        }
        Ok(if living.len() < LIVING_MAX { Walk::On } else { Walk::Stop })
    })
    .map_err(told)?;
    for one in &mut living {
        one.beat = rows::load_number(read, &keys::beat(one.incarnation)).map_err(told)?.unwrap_or(0);
        let address = read.get(&keys::address(one.incarnation))?.unwrap_or_default();
        one.address = String::from_utf8_lossy(&address).into_owned();
    }
    let mut owners = vec![Holder::default(); usize::from(SLOTS_COUNT)];
    walk(read, keys::slots(), usize::from(SLOTS_COUNT), |(key, value)| {
        let slot = keys::slot_number(&key).ok_or_else(rows::damaged)?;
        let (owner, epoch) = rows::read_slot(&value)?;
        let owner = Incarnation(owner);
        let place = owners.get_mut(usize::from(slot.0)).ok_or_else(rows::damaged)?;
        let owner = living.iter().any(|one| one.incarnation == owner).then_some(owner);
        *place = Holder { owner, epoch };
        Ok(Walk::On)
    })
    .map_err(told)?;
    Ok(Ownership { living, owners })
}

/// There is no time for one round trip after another when it is about many slots.
fn fetch_ahead(txn: &mut dyn Txn, slots: &[Slot]) {
    if txn.fetches_ahead() {
        let keys: Vec<Bytes> = slots.iter().map(|slot| keys::slot(*slot)).collect();
        txn.prefetch(&keys);
    }
}

fn fence(txn: &mut dyn Txn, incarnation: Incarnation) -> Result<(), Abort> {
    if lives(txn, incarnation)? { Ok(()) } else { Err(Abort::Fenced) }
}

fn lives(txn: &mut dyn Txn, incarnation: Incarnation) -> Result<bool, Abort> {
    Ok(number(txn, &keys::router(incarnation))?.is_some_and(is_live))
}

/// The row stays, so that the number is not given again, until the next router joins.
fn end(txn: &mut dyn Txn, incarnation: Incarnation) {
    txn.set(keys::router(incarnation), rows::number(DEAD));
    txn.clear(keys::beat(incarnation));
    txn.clear(keys::address(incarnation));
}
