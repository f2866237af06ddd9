//! Which keys a generation may have: most look-ups are of keys that it has not (every message asks for an idempotency key
//! that nobody used), and end here without a walk down its map.
//!
//! A Bloom filter whose bits for one key lie in one word, so that asking costs one look into memory. It is written to
//! while others read: a bit is only ever set, and before any snapshot can see its row.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::row_table::KeyHash;

/// Rows for each word: sixteen bits a row, five of them set. About one look in five hundred is in vain.
const ROWS_A_WORD: usize = 4;
const BITS_A_ROW: u32 = 5;
const WORDS_MIN: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Filter(Box<[AtomicU64]>);

impl Filter {
    /// For about so many rows. More than that make it more often useless, never wrong.
    pub(super) fn new(rows_count: usize) -> Filter {
        let words_count = (rows_count / ROWS_A_WORD).next_power_of_two().max(WORDS_MIN);
        Filter((0..words_count).map(|_| AtomicU64::new(0)).collect())
    }

    /// Memory it takes, however many rows it has.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    pub(super) fn add(&self, hash: KeyHash) {
        let (word, bits) = self.place(hash);
        word.fetch_or(bits, Relaxed);
    }

    /// `false`: the key was certainly not added.
    pub(super) fn may_have(&self, hash: KeyHash) -> bool {
        let (word, bits) = self.place(hash);
        word.load(Relaxed) & bits == bits
    }

    fn place(&self, KeyHash(hash): KeyHash) -> (&AtomicU64, u64) {
        // The upper half chooses the bits, the lower half the word.
        let word = &self.0[hash as usize & (self.0.len() - 1)];
        let bits = (0..BITS_A_ROW).fold(0, |bits, number| bits | 1 << (hash >> (64 - 6 * (number + 1)) & 63));
        (word, bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was added is found; nearly nothing else is.
    #[test]
    fn what_was_added_is_found() {
        let hash = |number: u64| KeyHash::of(&number.to_be_bytes());
        let filter = Filter::new(10_000);
        (0..10_000).for_each(|number| filter.add(hash(number)));
        assert!((0..10_000).all(|number| filter.may_have(hash(number))));
        let in_vain = (10_000..110_000).filter(|number| filter.may_have(hash(*number))).count();
        assert!(in_vain < 2_000, "{in_vain} of 100000");
    }
}
