//! What the log holds and the tables do not yet: sorted, in memory, seen by each snapshot as of its own record number.
//!
//! One [`Generation`] is written to; older ones are sealed, wait to become a run of the tables, and are dropped.
//!
//! Invariants: a row's newest version is the one with the highest number; versions that no snapshot can see are dropped
//! when the row is written again, so a row written by every commit has about as many versions as there are snapshots
//! open; a sealed generation never changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::filter::Filter;
use super::row_key::{AsKey, RowKey, Sought};
use super::row_table::KeyHash;

/// What a row in the map costs beside the record whose bytes it shares; measured with the allocator's own numbers.
const ROW_BYTES: usize = 160;
/// Rows inserted under one hold of the lock, so that a reader waits for microseconds and not for a whole commit.
const INSERT_COUNT: usize = 128;

/// A row as of some record: its value, or `None` where it was removed.
pub(super) type Version = (u64, Option<Bytes>);

/// All versions of a row that somebody may still see.
#[derive(Debug)]
struct Versions {
    newest: Version,
    /// Older ones, ascending by number. Mostly none, and then a pointer is all they cost.
    #[expect(clippy::box_collection, reason = "a third of the memory of a row that was written once")]
    older: Option<Box<Vec<Version>>>,
}

impl Versions {
    /// The version that a snapshot of `number` sees.
    fn at(&self, number: u64) -> Option<&Version> {
        if self.newest.0 <= number {
            return Some(&self.newest);
        }
        self.older.as_ref()?.iter().rev().find(|version| version.0 <= number)
    }

    /// Makes `version` the newest, and drops what none of the `open` snapshots, nor one opened meanwhile, can see.
    fn push(&mut self, version: Version, open: &[u64]) {
        let before = std::mem::replace(&mut self.newest, version);
        let mut until = before.0;
        // A snapshot that is being opened now sees `before`; of the older ones each is seen by those between it and its
        // successor.
        let older = self.older.get_or_insert_default();
        let mut index = older.len();
        while index > 0 {
            index -= 1;
            let number = older.get(index).map_or(0, |version| version.0);
            if !open.iter().any(|open| number <= *open && *open < until) {
                older.remove(index);
            }
            until = number;
        }
        older.push(before);
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Generation {
    rows: RwLock<BTreeMap<RowKey, Versions>>,
    filter: Filter,
    bytes: AtomicUsize,
    /// The last record in it, and that record's segment.
    last: AtomicU64,
    last_segment: AtomicU64,
}

/// A sealed generation's rows, held while they are written to the tables.
pub(super) struct Rows<'a>(RwLockReadGuard<'a, BTreeMap<RowKey, Versions>>);

impl Rows<'_> {
    /// Every row ascending, with its newest version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Version)> {
        self.0.iter().map(|(key, versions)| (key.bytes(), &versions.newest))
    }
}

impl Generation {
    /// An empty one, which is about to take so much memory.
    pub(super) fn new(bytes: usize) -> Generation {
        Generation {
            rows: RwLock::default(),
            filter: Filter::new(bytes / ROW_BYTES),
            bytes: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            last_segment: AtomicU64::new(0),
        }
    }

    /// Memory it takes, all told.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The last record in it.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    /// The segment of the last record in it.
    pub(super) fn last_segment(&self) -> u64 {
        self.last_segment.load(Relaxed)
    }

    /// Adds the rows of record `number`, which lies in `segment` and takes `record_bytes`. `open` are the numbers of
    /// the snapshots that are open. Nobody sees the rows before a snapshot of `number` can be opened.
    pub(super) fn insert(
        &self,
        number: u64,
        segment: u64,
        record_bytes: usize,
        rows: Vec<(Bytes, Option<Bytes>)>,
        open: &[u64],
    ) {
        let mut new_count = 0;
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let mut map = self.rows.write().unwrap_or_else(PoisonError::into_inner);
            for (key, value) in rows.by_ref().take(INSERT_COUNT) {
                self.filter.add(KeyHash::of(&key));
                match map.entry(key.into()) {
                    Entry::Vacant(entry) => {
                        entry.insert(Versions { newest: (number, value), older: None });
                        new_count += 1;
                    }
                    Entry::Occupied(mut entry) => entry.get_mut().push((number, value), open),
                }
            }
        }
        self.bytes.fetch_add(record_bytes + new_count * ROW_BYTES, Relaxed);
        self.last.store(number, Relaxed);
        self.last_segment.store(segment, Relaxed);
    }

    /// The row as a snapshot of `number` sees it: `None` when this generation does not know it, `Some(None)` when it was
    /// removed.
    pub(super) fn get(&self, hash: KeyHash, key: &[u8], number: u64) -> Option<Option<Bytes>> {
        if !self.filter.may_have(hash) {
            return None;
        }
        let sought = Sought::new(key);
        let rows = self.read();
        rows.get(&sought as &dyn AsKey)
            .and_then(|versions| versions.at(number))
            .map(|version| version.1.clone())
    }

    /// Appends to `into` at most `limit` rows between the bounds as a snapshot of `number` sees them, removals among
    /// them, ascending, or descending when `reverse`. Returns whether the end of the range was reached.
    pub(super) fn range(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        number: u64,
        limit: usize,
        reverse: bool,
        into: &mut Vec<(Bytes, Option<Bytes>)>,
    ) -> bool {
        let rows = self.read();
        let (from, to) = (bounds.0.map(Sought::new), bounds.1.map(Sought::new));
        let bounds = (from.as_ref().map(|it| it as &dyn AsKey), to.as_ref().map(|it| it as &dyn AsKey));
        let range = rows.range::<dyn AsKey, _>(bounds);
        let mut seen = |(key, versions): (&RowKey, &Versions)| {
            if let Some((_, value)) = versions.at(number) {
                into.push((key.bytes().clone(), value.clone()));
            }
            into.len() >= limit
        };
        if reverse { !range.rev().any(&mut seen) } else { !range.into_iter().any(&mut seen) }
    }

    /// All rows, for the tables. Only of a sealed generation.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows(self.read())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<RowKey, Versions>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&[byte]))
    }

    #[test]
    fn a_snapshot_sees_its_own_number_and_versions_nobody_sees_are_dropped() {
        let key = Bytes::from_static(b"k");
        let generation = Generation::new(1 << 10);
        let get = |number| generation.get(KeyHash::of(b"k"), b"k", number);
        generation.insert(1, 1, 8, vec![(key.clone(), value(1))], &[]);
        generation.insert(2, 1, 8, vec![(key.clone(), value(2))], &[1]);
        generation.insert(3, 1, 8, vec![(key.clone(), None)], &[1]);
        generation.insert(4, 1, 8, vec![(key.clone(), value(4))], &[1]);
        assert_eq!(get(0), None);
        assert_eq!(get(1), Some(value(1)));
        assert_eq!(get(3), Some(None));
        assert_eq!(get(4), Some(value(4)));
        // 2 was seen by nobody once 3 was there.
        assert_eq!(
            generation
                .read()
                .get(&RowKey::from(key.clone()))
                .map(|versions| versions.older.as_ref().map_or(0, |older| older.len())),
            Some(2)
        );
        generation.insert(5, 1, 8, vec![(key.clone(), value(5))], &[]);
        assert_eq!(
            generation
                .read()
                .get(&RowKey::from(key.clone()))
                .map(|versions| versions.older.as_ref().map_or(0, |older| older.len())),
            Some(1)
        );
    }
}
