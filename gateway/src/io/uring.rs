//! The fast driver: one io_uring a shard. Connections are direct descriptors, which cost the process none of its own; bytes
//! come into buffers that the whole ring shares, from receives that stay armed; everything that happened to a connection in a
//! turn leaves in one send, and all sends of a turn in one system call.
//!
//! One turn: what was completed goes up with one `now` ([`table`]), what was decided comes down, the ring is asked for all of
//! it ([`socket`] and [`door`] say what), and one call submits and sleeps ([`ring`]).
//!
//! # Invariants
//! - The ring is made and used by the shard's own thread alone.
//! - What is under way on a socket is ended before its place is given to another ([`socket`]).
//! - Nobody is accepted whom there is no place for ([`door`]).

mod door;
mod parcel;
mod ring;
mod socket;
mod table;
mod token;

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use door::Door;
use ring::Ring;
pub(super) use ring::Sizes;
use table::Table;

use super::Parts;
use crate::turn::{Input, Service};

/// Completions taken in one turn; the rest waits for the next. Enough to share a turn's cost, and few enough that what
/// the turn decides leaves within a millisecond.
const COMPLETIONS_PER_TURN_MAX: usize = 512;

/// Whether the kernel, or whoever confines this process, lets it have such a ring.
pub(super) fn probe() -> Result<(), String> {
    Ring::probe().map_err(|error| error.to_string())
}

/// Places of a ring's table that stand free at its cap.
pub(super) const fn places_reserved(sizes: Sizes) -> usize {
    Door::reserve(sizes.completions_max())
}

/// Runs one shard until it is drained.
pub(super) fn run(sizes: Sizes, parts: Parts<impl Service>) -> std::io::Result<()> {
    let Parts { mut station, listener, doorbell, connections_max, hand_off, drain, mut meters } = parts;
    let places_count = connections_max + places_reserved(sizes);
    let ring = Ring::new(sizes, u32::try_from(places_count).unwrap_or(u32::MAX)).map_err(|error| {
        std::io::Error::new(error.kind(), format!("no ring of {sizes:?} with {places_count} places: {error}"))
    })?;
    let mut table = Table::new(ring, Door::new(connections_max), listener, places_count, hand_off)?;
    table.ring.watch(doorbell.as_fd());
    let mut completions = Vec::with_capacity(COMPLETIONS_PER_TURN_MAX);
    let mut is_draining = false;
    loop {
        // One turn.
        station.begin();
        table.now = station.now();
        let mut has_more = station.receive_frames();
        if !is_draining && drain.load(Ordering::Acquire) {
            is_draining = true;
            table.door.shut();
            station.input(Input::Drain);
        }
        // Whoever ended in an earlier turn: what was decided for them since then has been sent.
        table.let_go(&mut station);
        table.ring.take(&mut completions, COMPLETIONS_PER_TURN_MAX);
        let taken = completions.len();
        for completion in completions.drain(..) {
            table.complete(completion, &doorbell, &mut station);
        }
        table.admit();
        station.carry_out(&mut table);
        table.send_on(&mut station);
        table.ask();
        meters.ring(table.events());
        meters.turn(&station, taken);
        if station.is_drained() && table.door.is_deserted() {
            meters.end(&station);
            return Ok(());
        }

        // Submit, and sleep until something is completed or the shard's timer is due.
        has_more |= doorbell.arm();
        let sleep = station.sleep().min(table.sleep().unwrap_or(Duration::MAX));
        table.ring.enter(if has_more { Duration::ZERO } else { sleep })?;
        doorbell.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F28: with few descriptors there is still room for connections.
    #[test]
    fn f28_a_ring_leaves_half_of_its_table_to_connections() {
        let sizes = Sizes { entries: 1_024, buffers: 8, buffer_bytes: 64 };
        assert_eq!(sizes.fitted(20_000), sizes);
        for descriptors_max in [64, 256, 1_024, 4_095] {
            let fitted = sizes.fitted(descriptors_max);
            assert!(fitted.entries.is_power_of_two() && fitted.entries >= 8);
            assert!(places_reserved(fitted) <= descriptors_max / 2, "{descriptors_max}: {fitted:?}");
            assert!(places_reserved(fitted) * 4 > descriptors_max, "not smaller than it has to be");
        }
    }
}
