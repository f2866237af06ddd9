//! A key in a sorted map of many: its first bytes lie beside it as numbers, so that nearly every comparison is one of
//! numbers that are there already, where comparing the bytes themselves would fetch them from elsewhere in memory.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytes::Bytes;

/// Bytes of a key that lie in front: what tells the keys of one conversation apart, idempotency keys included.
const HEAD_BYTES: usize = 24;

/// The first [`HEAD_BYTES`] of a key, big-endian and padded with zeros: ordered as the bytes are, except that a key and
/// the same one with zeros behind it look alike, which is then decided by the bytes.
type Head = [u64; HEAD_BYTES / 8];

fn head_of(bytes: &[u8]) -> Head {
    let mut padded = [0; HEAD_BYTES];
    let length = bytes.len().min(HEAD_BYTES);
    padded[..length].copy_from_slice(&bytes[..length]);
    let (words, _) = padded.as_chunks::<8>();
    [u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]), u64::from_be_bytes(words[2])]
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct RowKey {
    head: Head,
    bytes: Bytes,
}

impl RowKey {
    /// The key itself.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Bytes> for RowKey {
    fn from(bytes: Bytes) -> RowKey {
        RowKey { head: head_of(&bytes), bytes }
    }
}

/// A key to look for, without owning it.
pub(super) struct Sought<'a> {
    head: Head,
    bytes: &'a [u8],
}

impl<'a> Sought<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Sought<'a> {
        Sought { head: head_of(bytes), bytes }
    }
}

/// What [`RowKey`] and [`Sought`] are both compared as: a map takes one borrowed form for all that is looked for in it.
pub(super) trait AsKey {
    fn parts(&self) -> (&Head, &[u8]);
}

impl AsKey for RowKey {
    fn parts(&self) -> (&Head, &[u8]) {
        (&self.head, &self.bytes)
    }
}

impl AsKey for Sought<'_> {
    fn parts(&self) -> (&Head, &[u8]) {
        (&self.head, self.bytes)
    }
}

fn compare((one_head, one): (&Head, &[u8]), (other_head, other): (&Head, &[u8])) -> Ordering {
    one_head.cmp(other_head).then_with(|| one.cmp(other))
}

impl Ord for RowKey {
    fn cmp(&self, other: &RowKey) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &RowKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &RowKey) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for RowKey {}

impl Ord for dyn AsKey + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

impl PartialOrd for dyn AsKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn AsKey + '_ {}

impl<'a> Borrow<dyn AsKey + 'a> for RowKey {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys are ordered as their bytes are, whatever they begin or end with.
    #[test]
    fn the_order_is_that_of_the_bytes() {
        let mut keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![1], vec![255; 40]];
        for length in [1, 7, 8, 9, 16, 23, 24, 25, 32] {
            for last in [0, 1, 127, 128, 255] {
                let mut key = vec![7; length];
                keys.push(key.clone());
                key.push(last);
                keys.push(key.clone());
                key.push(0);
                keys.push(key);
            }
        }
        for one in &keys {
            for other in &keys {
                let (first, second) =
                    (Bytes::copy_from_slice(one).into(), Bytes::copy_from_slice(other).into());
                let (first, second): (RowKey, RowKey) = (first, second);
                assert_eq!(first.cmp(&second), one.cmp(other), "{one:?} {other:?}");
                let (first, second) = (Sought::new(one), Sought::new(other));
                assert_eq!((&first as &dyn AsKey).cmp(&second), one.cmp(other), "{one:?} {other:?}");
            }
        }
    }
}
