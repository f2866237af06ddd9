//! Rows that commits read again and again, as they are now: the fence, heads, members and markers of conversations in which
//! something is said. They are found here by one look, where the layers of a view would each be asked.
//!
//! Invariants: it belongs to the writer, so whoever looks holds the writer's lock and sees what is durable now; a row is
//! here with the value that a view of now would show, or not at all. Rows that were read come in, rows that were only
//! written do not (an event or an idempotency row is written once and read by nobody who commits).

use bytes::Bytes;

use super::row_table::{KeyHash, RowTable};

/// Rows of each half.
const ROWS_MAX: usize = 32 << 10;
/// A longer value is not kept: with two halves full of the longest ones this takes 16 MiB.
const VALUE_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Warm {
    /// What was read lately.
    young: RowTable,
    /// What was before that: what is read again moves to the young ones, the rest goes when those are too many.
    old: RowTable,
}

impl Warm {
    /// A row as it is now, if it is here: `Some(None)` where it is known that there is none.
    pub(super) fn get(&mut self, hash: KeyHash, key: &[u8]) -> Option<Option<Bytes>> {
        if let Some(value) = self.young.get(hash, key) {
            return Some(value.clone());
        }
        let value = self.old.get(hash, key)?.clone();
        self.insert(hash, Bytes::copy_from_slice(key), value.clone());
        Some(value)
    }

    /// A view of now shows this value. It may be a part of something large, so it is copied.
    pub(super) fn read(&mut self, hash: KeyHash, key: &[u8], value: &Bytes) {
        if value.len() <= VALUE_BYTES_MAX {
            self.insert(hash, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
        }
    }

    /// A commit that is durable has changed a row.
    pub(super) fn written(&mut self, key: &[u8], value: Option<Bytes>) {
        let hash = KeyHash::of(key);
        let known = match self.young.get_mut(hash, key) {
            // What the old ones say of it is never asked for again.
            Some(known) => known,
            None => match self.old.get_mut(hash, key) {
                Some(known) => known,
                None => return,
            },
        };
        if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            // It grew out of here, which nearly none ever does: one that stayed would be wrong.
            *self = Warm::default();
        } else {
            *known = value;
        }
    }

    fn insert(&mut self, hash: KeyHash, key: Bytes, value: Option<Bytes>) {
        if self.young.len() >= ROWS_MAX {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.set(hash, key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(warm: &mut Warm, key: &[u8]) -> Option<Option<Bytes>> {
        warm.get(KeyHash::of(key), key)
    }

    fn read(warm: &mut Warm, key: &[u8], value: &Bytes) {
        warm.read(KeyHash::of(key), key, value);
    }

    /// G10: what is here is what was committed last, whichever half it is in; what was never read does not come in.
    #[test]
    fn g10_a_known_row_is_as_it_was_committed_last() {
        let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
        let mut warm = Warm::default();
        warm.written(b"k", Some(one.clone()));
        assert_eq!(get(&mut warm, b"k"), None, "nobody has asked for it");
        read(&mut warm, b"k", &one);
        assert_eq!(get(&mut warm, b"k"), Some(Some(one.clone())));
        warm.written(b"k", None);
        assert_eq!(get(&mut warm, b"k"), Some(None), "it is known that there is none");
        warm.written(b"k", Some(two.clone()));

        // Among the old ones now.
        let many = |warm: &mut Warm, from: usize| {
            (from..from + ROWS_MAX).for_each(|number| read(warm, &number.to_be_bytes(), &Bytes::new()));
        };
        many(&mut warm, 0);
        warm.written(b"k", Some(one.clone()));
        assert_eq!(
            get(&mut warm, b"k"),
            Some(Some(one.clone())),
            "changed among the old ones, read from there"
        );
        warm.written(b"k", Some(two.clone()));
        assert_eq!(get(&mut warm, b"k"), Some(Some(two.clone())), "the one among the young ones counts");
        many(&mut warm, ROWS_MAX);
        assert_eq!(get(&mut warm, b"k"), Some(Some(two)), "what is read again stays");
        many(&mut warm, 2 * ROWS_MAX);
        many(&mut warm, 3 * ROWS_MAX);
        assert_eq!(get(&mut warm, b"k"), None, "what nobody reads goes");
    }

    /// G10: a value that is too long to be kept takes the one before it away.
    #[test]
    fn g10_a_row_that_grew_too_long_is_not_remembered_as_it_was() {
        let mut warm = Warm::default();
        read(&mut warm, b"k", &Bytes::from_static(b"short"));
        warm.written(b"k", Some(Bytes::from(vec![7; VALUE_BYTES_MAX + 1])));
        assert_eq!(get(&mut warm, b"k"), None);
        read(&mut warm, b"k", &Bytes::from(vec![7; VALUE_BYTES_MAX + 1]));
        assert_eq!(get(&mut warm, b"k"), None);
    }
}
