//! Rows with their versions, and what a transaction remembers of what it read and wrote.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::txn::Row;

/// What a transaction writes: `None` removes.
pub(super) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// What a transaction relies on.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) keys: Vec<Bytes>,
    /// From inclusive, to exclusive: as far as the caller could see, not as far as it asked.
    pub(super) ranges: Vec<(Bytes, Bytes)>,
}

/// All rows, each with its versions, the newest last. Version 0 is the empty store.
#[derive(Debug, Default)]
pub(super) struct Versions {
    rows: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    newest: u64,
    /// Rows that have something to drop once no one reads below this version.
    stale: VecDeque<(u64, Bytes)>,
}

impl Versions {
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    pub(super) fn rows_count(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn value(&self, key: &[u8], version: u64) -> Option<Bytes> {
        self.rows.get(key).and_then(|chain| visible(chain, version)).cloned()
    }

    /// Rows of `from <= key < to` as of `version` with `writes` over them; at most `limit`, in the direction asked for.
    pub(super) fn range(
        &self,
        writes: &Writes,
        (from, to): (&[u8], &[u8]),
        version: u64,
        limit: usize,
        reverse: bool,
    ) -> Vec<Row> {
        if from >= to {
            return Vec::new();
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.rows.range::<[u8], _>(bounds);
        let rows = rows.filter_map(|(key, chain)| visible(chain, version).map(|value| (key, Some(value))));
        let own = writes.range::<[u8], _>(bounds).map(|(key, value)| (key, value.as_ref()));
        if reverse {
            merge(rows.rev(), own.rev(), limit, |one, other| one > other)
        } else {
            merge(rows, own, limit, |one, other| one < other)
        }
    }

    /// Whether nothing of `reads` has a newer version than `version`.
    pub(super) fn is_unchanged(&self, reads: &Reads, version: u64) -> bool {
        let is_old =
            |chain: &Vec<(u64, Option<Bytes>)>| chain.last().is_none_or(|(newest, _)| *newest <= version);
        reads.keys.iter().all(|key| self.rows.get(key).is_none_or(is_old))
            && reads.ranges.iter().all(|(from, to)| {
                from >= to
                    || self
                        .rows
                        .range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])))
                        .all(|(_, chain)| is_old(chain))
            })
    }

    /// Makes `writes` the next version, and drops what nobody reads who reads at `oldest_pin` (the oldest version that is
    /// still being read, if any is) or later.
    pub(super) fn apply(&mut self, writes: Writes, oldest_pin: Option<u64>) {
        self.newest += 1;
        let version = self.newest;
        for (key, value) in writes {
            let chain = self.rows.entry(key.clone()).or_default();
            if !chain.is_empty() || value.is_none() {
                self.stale.push_back((version, key));
            }
            chain.push((version, value));
        }
        let oldest = oldest_pin.unwrap_or(version);
        while let Some((_, key)) = self.stale.pop_front_if(|(version, _)| *version <= oldest) {
            self.trim(&key, oldest);
        }
    }

    fn trim(&mut self, key: &Bytes, oldest: u64) {
        let Some(chain) = self.rows.get_mut(key) else { return };
        let kept_from = chain.iter().rposition(|(version, _)| *version <= oldest).unwrap_or(0);
        chain.drain(..kept_from);
        if let [(version, None)] = chain[..]
            && version <= oldest
        {
            self.rows.remove(key);
        }
    }
}

fn visible(chain: &[(u64, Option<Bytes>)], version: u64) -> Option<&Bytes> {
    chain.iter().rev().find(|(written, _)| *written <= version).and_then(|(_, value)| value.as_ref())
}

/// Merges two sorted sequences; `own` wins where both have a key, and hides it when it removes.
fn merge<'a>(
    rows: impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>,
    own: impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>,
    limit: usize,
    comes_first: impl Fn(&Bytes, &Bytes) -> bool,
) -> Vec<Row> {
    let (mut rows, mut own) = (rows.peekable(), own.peekable());
    let mut merged = Vec::new();
    while merged.len() < limit {
        let next = match (rows.peek(), own.peek()) {
            (None, None) => break,
            (Some(_), None) => rows.next(),
            (Some((key, _)), Some((own_key, _))) if comes_first(key, own_key) => rows.next(),
            (Some((key, _)), Some((own_key, _))) if key == own_key => {
                rows.next();
                own.next()
            }
            (_, Some(_)) => own.next(),
        };
        if let Some((key, Some(value))) = next {
            merged.push((key.clone(), value.clone()));
        }
    }
    merged
}
