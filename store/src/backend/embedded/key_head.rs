//! The first bytes of a key as numbers, so that keys in a sorted map are told apart by comparing numbers that lie side by
//! side, without fetching the keys themselves from elsewhere in memory.

/// Bytes of a key that lie in front: what tells the keys of one conversation apart, idempotency keys nearly always included.
const HEAD_BYTES: usize = 24;

/// The first [`HEAD_BYTES`] of a key, big-endian and padded with zeros. Ordered as the keys are; keys that are alike so far,
/// or differ in zeros at their end, have the same head, and whoever keeps them tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyHead(u64, u64, u64);

impl KeyHead {
    pub(super) fn of(key: &[u8]) -> KeyHead {
        let mut padded = [0; HEAD_BYTES];
        let length = key.len().min(HEAD_BYTES);
        padded[..length].copy_from_slice(&key[..length]);
        let (words, _) = padded.as_chunks::<8>();
        KeyHead(u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]), u64::from_be_bytes(words[2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads never contradict the order of the bytes, whatever keys begin or end with.
    #[test]
    fn heads_are_ordered_as_keys_are() {
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
                let heads = KeyHead::of(one).cmp(&KeyHead::of(other));
                assert!(heads.is_eq() || heads == one.cmp(other), "{one:?} {other:?}");
                let is_short = one.len() == other.len() && one.len() <= HEAD_BYTES;
                assert!(!is_short || heads == one.cmp(other), "{one:?} {other:?}");
            }
        }
    }
}
