//! One cluster may hold several stores: each keeps all its keys below a prefix of its own.
//!
//! # Invariants
//! - No store's keys are below another's: the prefix ends with a zero byte, which its name cannot hold, so that `chat` is
//!   not in front of `chat2`.
//! - A range of ours is a range below the prefix: both its ends begin with it, so nothing outside lies between them.

use bytes::Bytes;

use crate::txn::KEY_BYTES_MAX;

/// The most bytes of a store's name in its cluster.
pub const KEY_PREFIX_BYTES_MAX: usize = 64;
/// The longest key that FoundationDB takes.
const FDB_KEY_BYTES_MAX: usize = 10_000;

const _: () = assert!(
    KEY_PREFIX_BYTES_MAX + 1 + KEY_BYTES_MAX < FDB_KEY_BYTES_MAX,
    "the longest key fits below the longest prefix, with the byte that ends a single-key range"
);

/// What stands before every key of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Bytes);

impl Prefix {
    /// The prefix of the store called `name`.
    ///
    /// # Errors
    /// A sentence that says what a name has to be. An empty one would put our keys among everybody's.
    pub fn new(name: &str) -> Result<Prefix, String> {
        let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_printable || !(1..=KEY_PREFIX_BYTES_MAX).contains(&name.len()) {
            return Err(format!(
                "store.key_prefix {name:?} must be 1 to {KEY_PREFIX_BYTES_MAX} printable ASCII characters without spaces"
            ));
        }
        Ok(Prefix(Bytes::from([name.as_bytes(), &[0]].concat())))
    }

    /// `key` as it is in the cluster.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.0[..], key].concat()
    }

    /// A key of the cluster as it is in the store, if it is in the store.
    #[must_use]
    pub fn strip(&self, key: &[u8]) -> Option<Bytes> {
        key.strip_prefix(&self.0[..]).map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_printable() {
        for name in ["a", "carillon", "carillon/eu-1", &"x".repeat(KEY_PREFIX_BYTES_MAX)] {
            assert!(Prefix::new(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a\0b", "\u{ff}", "ä", &"x".repeat(KEY_PREFIX_BYTES_MAX + 1)] {
            let refused = Prefix::new(name).unwrap_err();
            assert!(refused.contains("store.key_prefix"), "{refused}");
        }
    }

    #[test]
    fn keys_come_back_and_strange_ones_do_not() {
        let prefix = Prefix::new("chat").unwrap();
        for key in [&b""[..], b"a", b"\0", b"\xff\xff"] {
            assert_eq!(prefix.strip(&prefix.key(key)).as_deref(), Some(key));
        }
        for strange in [&b""[..], b"chat", b"chat2\0a", b"cha", b"\xff"] {
            assert_eq!(prefix.strip(strange), None);
        }
    }

    /// A range that runs past everything of ours stays below the prefix, and no neighbour's key is in it.
    #[test]
    fn ranges_do_not_leave_the_prefix() {
        let prefix = Prefix::new("chat").unwrap();
        let neighbours =
            ["cha", "chat2", "chat!", "chau", "chat\u{7e}"].map(|name| Prefix::new(name).unwrap());
        let ends = [&b""[..], b"\0", b"a", b"\xff", b"\xff\xff\xff\xff"];
        for from in ends {
            for to in ends.into_iter().filter(|to| from < *to) {
                let (from, to) = (prefix.key(from), prefix.key(to));
                assert!(from < to);
                for key in ends {
                    for neighbour in &neighbours {
                        let theirs = neighbour.key(key);
                        assert!(!(from <= theirs && theirs < to), "{theirs:?} in {from:?}..{to:?}");
                    }
                }
                for system in [&b"\xff"[..], b"\xff\xff"] {
                    assert!(to.as_slice() < system);
                }
            }
        }
    }
}
