//! Where rows stand in a list, by the hash of their key: an open table of places, each a part of the hash and an index.
//!
//! A place is found by the same 32 bits of the hash that it keeps, from their upper end. So the table grows by one walk
//! from its front to its end, without looking at a single key, and whoever asks compares keys nearly always once.

use super::row_table::KeyHash;

/// The smallest table, as a power of two.
const BITS_MIN: u32 = 6;

/// A place that is taken, or free.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    tag: u32,
    /// One more than the index; 0 where none is.
    number: u32,
}

/// See the module. Linear probing; at most half of it is taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    taken: usize,
}

impl Places {
    /// Forgets everything; the room that it took stays.
    pub(super) fn clear(&mut self) {
        self.places.fill(Place::default());
        self.taken = 0;
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// The index with this hash that `is_it` says is the one.
    pub(super) fn find(&self, hash: KeyHash, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let tag = tag(hash);
        let mut at = self.home(tag);
        // Ends: half of the places are free.
        loop {
            let place = self.places[at];
            let index = place.number.checked_sub(1)?;
            if place.tag == tag && is_it(index) {
                return Some(index);
            }
            at = self.next(at);
        }
    }

    /// Adds one that [`find`](Self::find) did not find.
    pub(super) fn insert(&mut self, hash: KeyHash, index: u32) {
        if self.places.len() < 2 * (self.taken + 1) {
            self.grow();
        }
        self.take(Place { tag: tag(hash), number: index + 1 });
        self.taken += 1;
    }

    fn take(&mut self, place: Place) {
        let mut at = self.home(place.tag);
        while self.places[at].number != 0 {
            at = self.next(at);
        }
        self.places[at] = place;
    }

    fn home(&self, tag: u32) -> usize {
        (u64::from(tag) << self.places.len().trailing_zeros() >> u32::BITS) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    fn grow(&mut self) {
        let length = (2 * self.places.len()).max(1 << BITS_MIN);
        let before = std::mem::replace(&mut self.places, vec![Place::default(); length]);
        before.into_iter().filter(|place| place.number != 0).for_each(|place| self.take(place));
    }
}

/// The part of the hash that is kept. A filter looks at the rest as well, so it is not the lower half.
fn tag(KeyHash(hash): KeyHash) -> u32 {
    (hash >> 32) as u32
}
