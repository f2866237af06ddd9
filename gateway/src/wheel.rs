//! Timers as data: a hashed wheel (Varghese and Lauck, 1987, scheme 6). Each connection keeps one entry, for the
//! earliest of its deadlines; deadlines that move away are found when it fires, and set anew.
//!
//! # Invariants
//! - An entry fires once, never before its time, and at most one [`TICK_NS`] after it.
//! - Inserting and firing cost the same however many entries there are.

use carillon_protocol::time::Time;

use crate::turn::ConnectionId;

/// How exact timers are: 2^25 ns, about 34 ms. The shortest deadlines are seconds.
pub(crate) const TICK_NS: u64 = 1 << 25;
/// One turn of the wheel is about 69 s. What lies beyond fires early inside the wheel and is put back.
const SLOTS_COUNT: usize = 2_048;
const WORD_BITS: usize = 64;

const _: () = assert!(SLOTS_COUNT.is_multiple_of(WORD_BITS) && SLOTS_COUNT.is_power_of_two());

type Entry = (ConnectionId, Time);

/// G13: what a connection takes here; it has one entry. Those of a slot lie in one piece, up to half of which is free.
const _: () = assert!(size_of::<Entry>() <= 16);

/// See the module.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// A bit for each slot that holds entries.
    occupied: [u64; SLOTS_COUNT / WORD_BITS],
    /// The last tick whose slot was emptied.
    tick: u64,
    entries_count: usize,
}

impl Default for Wheel {
    fn default() -> Wheel {
        Wheel {
            slots: std::iter::repeat_with(Vec::new).take(SLOTS_COUNT).collect(),
            occupied: [0; SLOTS_COUNT / WORD_BITS],
            tick: 0,
            entries_count: 0,
        }
    }
}

impl Wheel {
    /// Has `connection` fire at `at`.
    pub(crate) fn insert(&mut self, now: Time, connection: ConnectionId, at: Time) {
        if self.entries_count == 0 {
            self.tick = now.0 / TICK_NS;
        }
        self.place((connection, at));
    }

    fn place(&mut self, entry: Entry) {
        let (first, last) = (self.tick + 1, self.tick + SLOTS_COUNT as u64 - 1);
        let slot = slot_of(entry.1.0.div_ceil(TICK_NS).clamp(first, last));
        if let (Some(entries), Some(word)) =
            (self.slots.get_mut(slot), self.occupied.get_mut(slot / WORD_BITS))
        {
            entries.push(entry);
            *word |= 1 << (slot % WORD_BITS);
            self.entries_count += 1;
        }
    }

    /// Appends to `due` what is due at `now`, with the time that each was set to.
    pub(crate) fn expire(&mut self, now: Time, due: &mut Vec<Entry>) {
        let until = now.0 / TICK_NS;
        while self.entries_count > 0 {
            let Some(tick) = self.next_tick().filter(|tick| *tick <= until) else { break };
            self.tick = tick;
            let slot = slot_of(tick);
            let entries = self.slots.get_mut(slot).map(std::mem::take).unwrap_or_default();
            if let Some(word) = self.occupied.get_mut(slot / WORD_BITS) {
                *word &= !(1 << (slot % WORD_BITS));
            }
            self.entries_count -= entries.len();
            for entry in entries {
                if entry.1 <= now { due.push(entry) } else { self.place(entry) }
            }
        }
        self.tick = self.tick.max(until);
    }

    /// When [`Wheel::expire`] has something to do next.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Time> {
        self.next_tick().map(|tick| Time(tick.saturating_mul(TICK_NS)))
    }

    /// The first tick behind [`Wheel::tick`] whose slot holds entries.
    fn next_tick(&self) -> Option<u64> {
        if self.entries_count == 0 {
            return None;
        }
        let start = slot_of(self.tick + 1);
        let words_count = self.occupied.len();
        // The word that `start` lies in is looked at twice: its high bits first, its low bits last.
        (0..=words_count).find_map(|step| {
            let index = (start / WORD_BITS + step) % words_count;
            let low = (1_u64 << (start % WORD_BITS)) - 1;
            let mask = match step {
                0 => !low,
                _ if step == words_count => low,
                _ => u64::MAX,
            };
            let word = self.occupied.get(index)? & mask;
            (word != 0).then(|| {
                let slot = index * WORD_BITS + word.trailing_zeros() as usize;
                let ahead = (slot + SLOTS_COUNT - start) % SLOTS_COUNT;
                self.tick + 1 + ahead as u64
            })
        })
    }
}

fn slot_of(tick: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "masked to the number of slots")]
    let slot = (tick & (SLOTS_COUNT as u64 - 1)) as usize;
    slot
}

#[cfg(test)]
mod tests {
    use carillon_node::prng::Prng;

    use super::*;

    /// G13: entries fire once, on time, in any mixture of short and very long ones.
    #[test]
    fn every_entry_fires_once_and_on_time() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let mut wheel = Wheel::default();
            let mut now = Time(prng.between(0, 1 << 50));
            let mut open: Vec<Entry> = Vec::new();
            let mut due = Vec::new();
            for slot in 0..400_u32 {
                let connection = ConnectionId { slot, generation: 0 };
                let scale = prng.below(20);
                let at = now.after_ms(prng.between(0, 1 << scale));
                wheel.insert(now, connection, at);
                open.push((connection, at));
                if prng.chance(1, 3) {
                    let next = wheel.next().unwrap();
                    now = if prng.chance(1, 2) { next } else { now.after_ms(prng.below(5_000)) };
                    due.clear();
                    wheel.expire(now, &mut due);
                    for entry in &due {
                        let place = open.iter().position(|other| other == entry).expect("fires once");
                        assert!(entry.1 <= now, "seed {seed}: too early");
                        open.swap_remove(place);
                    }
                    let late = open.iter().any(|entry| entry.1.0 + TICK_NS <= now.0);
                    assert!(!late, "seed {seed}: too late");
                }
            }
            while let Some(next) = wheel.next() {
                due.clear();
                wheel.expire(next, &mut due);
                open.retain(|entry| !due.contains(entry));
            }
            assert!(open.is_empty(), "seed {seed}: {} never fired", open.len());
        }
    }
}
