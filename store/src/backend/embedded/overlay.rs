//! What the log holds and the tables do not yet: sorted, in memory, seen by each snapshot as of its own record number.
//!
//! One [`Generation`] is written to; older ones are sealed, wait to become a run of the tables, and are dropped.
//!
//! A generation keeps the records themselves and says of each row where in which record its key and its value stand: so
//! a row that comes in costs no memory of its own, and a generation that goes gives back a few large pieces.
//!
//! Invariants: a row's newest version is the one with the highest number; versions that no snapshot can see are dropped
//! when the row is written again, so a row written by every commit has about as many versions as there are snapshots
//! open; a sealed generation never changes.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::filter::Filter;
use super::format::RowPlace;
use super::key_head::KeyHead;
use super::loose::{self, Loose};
use super::row_table::KeyHash;

/// What a key's place in the map costs, about: its nodes are two thirds full.
const FIRST_BYTES: usize = 50;
/// What a row is taken to cost beside the record that it stands in, before there is one: its place in a list that is between
/// half and entirely full, and one in the map.
const ROW_BYTES: usize = size_of::<Row>() * 3 / 2 + FIRST_BYTES;
/// Rows inserted under one hold of the lock, so that a reader waits for microseconds and not for a whole commit.
const INSERT_COUNT: usize = 128;
/// No row.
const NONE: u32 = u32::MAX;

/// The bounds of a range of keys.
pub(super) type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// A row as of some record: where its value stands there.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// Which of the generation's records.
    record: u32,
    value_at: u32,
    /// `None` where it was removed.
    value_bytes: Option<u32>,
}

/// A row with all its versions that somebody may still see.
#[derive(Debug)]
struct Row {
    key_record: u32,
    key_at: u32,
    key_bytes: u32,
    /// The row with the next key of the same head, or [`NONE`]: nearly always.
    next: u32,
    newest: Version,
    /// Older ones, ascending by record. Mostly none, and then a pointer is all they cost.
    #[expect(clippy::box_collection, reason = "a third of the memory of a row that was written once")]
    older: Option<Box<Vec<Version>>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Generation {
    rows: RwLock<Rows>,
    filter: Filter,
    bytes: AtomicUsize,
    /// The last record in it, and that record's segment.
    last: AtomicU64,
    last_segment: AtomicU64,
}

/// All rows, by the order of their keys.
#[derive(Debug, Default)]
struct Rows {
    /// Records by the order in which they came, with their numbers.
    records: Vec<(u64, Bytes)>,
    rows: Vec<Row>,
    /// The first row of each head, of all rows that are not loose.
    firsts: BTreeMap<KeyHead, u32>,
    loose: Loose,
    /// Memory of the records themselves, and of rows' older versions.
    records_bytes: usize,
    older_bytes: usize,
}

impl Rows {
    fn add_record(&mut self, number: u64, whole: Bytes) {
        self.records_bytes += whole.len();
        self.records.push((number, whole));
    }

    /// Memory it takes: what was asked of the allocator, but for the map, whose nodes nobody can ask for theirs.
    fn bytes(&self) -> usize {
        self.records_bytes
            + self.older_bytes
            + self.records.capacity() * size_of::<(u64, Bytes)>()
            + self.rows.capacity() * size_of::<Row>()
            + self.firsts.len() * FIRST_BYTES
            + self.loose.bytes()
    }

    fn row(&self, index: u32) -> Option<&Row> {
        self.rows.get(index as usize)
    }

    fn record(&self, record: u32) -> &Bytes {
        &self.records[record as usize].1
    }

    fn number(&self, version: &Version) -> u64 {
        self.records[version.record as usize].0
    }

    fn key(&self, row: &Row) -> &[u8] {
        key_of(&self.records, row)
    }

    /// The version that a snapshot of `number` sees.
    fn version_at<'a>(&self, row: &'a Row, number: u64) -> Option<&'a Version> {
        if self.number(&row.newest) <= number {
            return Some(&row.newest);
        }
        row.older.as_ref()?.iter().rev().find(|version| self.number(version) <= number)
    }

    /// The value, sharing the memory of its record.
    fn value(&self, version: &Version) -> Option<Bytes> {
        let value_bytes = version.value_bytes?;
        Some(self.record(version.record).slice(span(version.value_at, value_bytes)))
    }

    /// The rows of one head, ascending, beginning with this one.
    fn chain(&self, first: u32) -> impl Iterator<Item = (u32, &Row)> {
        std::iter::successors(self.row(first).map(|row| (first, row)), |(_, row)| {
            self.row(row.next).map(|next| (row.next, next))
        })
    }

    fn find(&self, hash: KeyHash, key: &[u8]) -> Option<&Row> {
        if loose::is_loose(key) {
            return self.row(self.find_loose(hash, key)?);
        }
        let first = self.firsts.get(&KeyHead::of(key))?;
        self.chain(*first).map(|(_, row)| row).find(|row| self.key(row) == key)
    }

    fn find_loose(&self, hash: KeyHash, key: &[u8]) -> Option<u32> {
        self.loose.find(hash, |index| self.row(index).is_some_and(|row| self.key(row) == key))
    }

    /// Puts all rows in order.
    fn order(&mut self) {
        let Rows { records, rows, loose, .. } = self;
        loose.order(|index| key_of(records, &rows[index as usize]));
    }

    /// Rows from one bound to the other, and a few at the bounds that are not between them: keys of one head may be on
    /// both sides, and whoever asks tells them apart. Loose ones only as far as they are in order.
    fn between<'r>(&'r self, bounds: Bounds<'_>, reverse: bool) -> Box<dyn Iterator<Item = &'r Row> + 'r> {
        let edge = KeyHead::of(loose::EDGE);
        let [from, to] = [bounds.0, bounds.1].map(|bound| loose::edge_of(bound).map(KeyHead::of));
        let before = self.firsts.range((
            from.map_or(Bound::Unbounded, |head| Bound::Included(head.min(edge))),
            to.filter(|head| *head < edge).map_or(Bound::Excluded(edge), Bound::Included),
        ));
        let behind = self.firsts.range((
            Bound::Included(from.map_or(edge, |head| head.max(edge))),
            to.map_or(Bound::Unbounded, |head| Bound::Included(head.max(edge))),
        ));
        let (before, behind) = (before.map(|(_, first)| *first), behind.map(|(_, first)| *first));
        let key = |index: u32| self.key(&self.rows[index as usize]);
        let loose = self.loose.between(bounds, key).iter().filter_map(|(_, index)| self.row(*index));
        let chain = |first: u32| self.chain(first).map(|(_, row)| row);
        if !reverse {
            return Box::new(before.flat_map(chain).chain(loose).chain(behind.flat_map(chain)));
        }
        let backwards = move |first: u32| chain(first).collect::<Vec<_>>().into_iter().rev();
        Box::new(behind.rev().flat_map(backwards).chain(loose.rev()).chain(before.rev().flat_map(backwards)))
    }

    /// Puts one row of the last record in its place.
    fn insert(&mut self, hash: KeyHash, place: &RowPlace, open: &[u64]) {
        let record = self.records.len() as u32 - 1;
        let RowPlace { key_at, key_bytes, value_bytes } = *place;
        let version = Version { record, value_at: key_at + key_bytes, value_bytes };
        let index = self.rows.len() as u32;
        let row = Row { key_record: record, key_at, key_bytes, next: NONE, newest: version, older: None };
        if loose::is_loose(self.key(&row)) {
            if let Some(same) = self.find_loose(hash, self.key(&row)) {
                return self.push_version(same, version, open);
            }
            self.loose.insert(hash, index);
            return self.rows.push(row);
        }
        let head = KeyHead::of(self.key(&row));
        let first = *self.firsts.entry(head).or_insert(index);
        if first == index {
            return self.rows.push(row);
        }
        let (before, after) = match self.seek(first, self.key(&row)) {
            Ok(same) => return self.push_version(same, version, open),
            Err(between) => between,
        };
        self.rows.push(Row { next: after, ..row });
        match before {
            Some(before) => self.rows[before as usize].next = index,
            None => {
                self.firsts.insert(head, index);
            }
        }
    }

    /// The row of this key among those of its head; else the one before its place, and the one behind it or [`NONE`].
    fn seek(&self, first: u32, key: &[u8]) -> Result<u32, (Option<u32>, u32)> {
        let mut before = None;
        for (at, row) in self.chain(first) {
            match self.key(row).cmp(key) {
                std::cmp::Ordering::Less => before = Some(at),
                std::cmp::Ordering::Equal => return Ok(at),
                std::cmp::Ordering::Greater => return Err((before, at)),
            }
        }
        Err((before, NONE))
    }

    /// Makes `version` the newest of a row, and drops what none of the `open` snapshots, nor one opened meanwhile, can see.
    fn push_version(&mut self, index: u32, version: Version, open: &[u64]) {
        let Rows { records, rows, older_bytes, .. } = self;
        let number = |version: &Version| records[version.record as usize].0;
        let row = &mut rows[index as usize];
        let before = std::mem::replace(&mut row.newest, version);
        let mut until = number(&before);
        // A snapshot that is being opened now sees `before`; of the older ones each is seen by those between it and its
        // successor.
        *older_bytes -= row.older.as_deref().map_or(0, versions_bytes);
        let older = row.older.get_or_insert_default();
        let mut index = older.len();
        while index > 0 {
            index -= 1;
            let number = older.get(index).map_or(0, number);
            if !open.iter().any(|open| number <= *open && *open < until) {
                older.remove(index);
            }
            until = number;
        }
        older.push(before);
        *older_bytes += versions_bytes(older);
    }
}

fn key_of<'r>(records: &'r [(u64, Bytes)], row: &Row) -> &'r [u8] {
    &records[row.key_record as usize].1[span(row.key_at, row.key_bytes)]
}

/// Memory of a row's older versions.
fn versions_bytes(versions: &Vec<Version>) -> usize {
    size_of::<Vec<Version>>() + versions.capacity() * size_of::<Version>()
}

fn span(at: u32, bytes: u32) -> std::ops::Range<usize> {
    at as usize..at as usize + bytes as usize
}

/// A sealed generation's rows, held while they are written to the tables.
pub(super) struct Sealed<'a>(RwLockReadGuard<'a, Rows>);

impl Sealed<'_> {
    /// Every row ascending, with its newest value; `None` where it was removed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let rows = &*self.0;
        rows.between((Bound::Unbounded, Bound::Unbounded), false).map(|row| {
            let Version { record, value_at, value_bytes } = row.newest;
            let value = value_bytes.map(|bytes| &rows.record(record)[span(value_at, bytes)]);
            (rows.key(row), value)
        })
    }
}

impl Generation {
    /// An empty one, which is about to take so much memory.
    pub(super) fn new(bytes: usize) -> Generation {
        let filter = Filter::new(bytes / ROW_BYTES);
        Generation {
            rows: RwLock::default(),
            bytes: AtomicUsize::new(filter.bytes()),
            filter,
            last: AtomicU64::new(0),
            last_segment: AtomicU64::new(0),
        }
    }

    /// Memory it takes, all told: an empty one takes that of its filter.
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

    /// Adds the rows of record `number`, which lies in `segment`: they stand at `places` of it. `open` are the numbers of
    /// the snapshots that are open. Nobody sees the rows before a snapshot of `number` can be opened.
    pub(super) fn insert(&self, number: u64, segment: u64, whole: &Bytes, places: &[RowPlace], open: &[u64]) {
        self.write(|rows| rows.add_record(number, whole.clone()));
        let mut hashed = Vec::with_capacity(INSERT_COUNT);
        for places in places.chunks(INSERT_COUNT) {
            hashed.clear();
            hashed
                .extend(places.iter().map(|place| KeyHash::of(&whole[span(place.key_at, place.key_bytes)])));
            hashed.iter().for_each(|hash| self.filter.add(*hash));
            self.write(|rows| {
                hashed.iter().zip(places).for_each(|(hash, place)| rows.insert(*hash, place, open));
            });
        }
        self.count();
        self.last.store(number, Relaxed);
        self.last_segment.store(segment, Relaxed);
    }

    /// The row as a snapshot of `number` sees it: `None` when this generation does not know it, `Some(None)` when it was
    /// removed.
    pub(super) fn get(&self, hash: KeyHash, key: &[u8], number: u64) -> Option<Option<Bytes>> {
        if !self.filter.may_have(hash) {
            return None;
        }
        let rows = self.read();
        let version = rows.version_at(rows.find(hash, key)?, number)?;
        Some(rows.value(version))
    }

    /// Appends to `into` at most `limit` rows between the bounds as a snapshot of `number` sees them, removals among
    /// them, ascending, or descending when `reverse`. Returns whether the end of the range was reached.
    pub(super) fn range(
        &self,
        bounds: Bounds<'_>,
        number: u64,
        limit: usize,
        reverse: bool,
        into: &mut Vec<(Bytes, Option<Bytes>)>,
    ) -> bool {
        if loose::may_be_between(bounds) && !self.read().loose.is_ordered() {
            self.order();
        }
        let rows = self.read();
        let seen = |row: &Row| {
            let key = rows.key(row);
            if RangeBounds::<[u8]>::contains(&bounds, key)
                && let Some(version) = rows.version_at(row, number)
            {
                let key = rows.record(row.key_record).slice(span(row.key_at, row.key_bytes));
                into.push((key, rows.value(version)));
            }
            into.len() >= limit
        };
        !rows.between(bounds, reverse).any(seen)
    }

    /// All rows, for the tables. Only of a sealed generation.
    pub(super) fn rows(&self) -> Sealed<'_> {
        self.order();
        Sealed(self.read())
    }

    fn order(&self) {
        self.write(Rows::order);
        self.count();
    }

    fn count(&self) {
        self.bytes.store(self.filter.bytes() + self.read().bytes(), Relaxed);
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<R>(&self, change: impl FnOnce(&mut Rows) -> R) -> R {
        change(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::super::format;
    use super::super::row_table::RowTable;
    use super::*;

    fn put(generation: &Generation, number: u64, rows: &[(&[u8], Option<&[u8]>)], open: &[u64]) {
        let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let writes: RowTable = rows.iter().map(|(key, value)| (own(key), value.map(own))).collect();
        let whole = format::encode(&crc32fast::Hasher::new(), number, 0, &writes).expect("fits");
        let places = format::rows(&whole).expect("rows");
        generation.insert(number, 1, &whole, &places, open);
    }

    fn older_count(generation: &Generation, key: &[u8]) -> usize {
        let rows = generation.read();
        rows.find(KeyHash::of(key), key).and_then(|row| row.older.as_ref()).map_or(0, |older| older.len())
    }

    /// In the sorted map, and among the loose ones.
    #[test]
    fn a_snapshot_sees_its_own_number_and_versions_nobody_sees_are_dropped() {
        for key in [b"k", b"i"] {
            let generation = Generation::new(1 << 10);
            let get = |number| generation.get(KeyHash::of(key), key, number);
            let value = |byte: u8| Some(Bytes::copy_from_slice(&[byte]));
            put(&generation, 1, &[(key, Some(&[1]))], &[]);
            put(&generation, 2, &[(key, Some(&[2]))], &[1]);
            put(&generation, 3, &[(key, None)], &[1]);
            put(&generation, 4, &[(key, Some(&[4]))], &[1]);
            assert_eq!(get(0), None);
            assert_eq!(get(1), Some(value(1)));
            assert_eq!(get(3), Some(None));
            assert_eq!(get(4), Some(value(4)));
            // 2 was seen by nobody once 3 was there.
            assert_eq!(older_count(&generation, key), 2);
            put(&generation, 5, &[(key, Some(&[5]))], &[]);
            assert_eq!(older_count(&generation, key), 1);
        }
    }

    /// Keys that are alike in their first bytes, or but for zeros at their end, are told apart, and stand in the order of
    /// their bytes, whatever the order in which they came.
    #[test]
    fn keys_of_one_head_keep_their_order() {
        let mut keys: Vec<Vec<u8>> = (0..40).map(|zeros| [vec![7; 4], vec![0; zeros]].concat()).collect();
        keys.extend((0..20_u8).map(|last| [vec![7; 30], vec![last]].concat()));
        // Loose ones, and some on both sides of them and between.
        for family in *b"hijk" {
            keys.extend((0..6_usize).map(|zeros| [vec![family; 3], vec![0; zeros * 5]].concat()));
            keys.extend((0..6_u8).map(|last| [vec![family], vec![5; 28], vec![last]].concat()));
            keys.push(vec![family]);
        }
        keys.push(vec![6; 40]);
        keys.push(vec![8]);
        let mut sorted = keys.clone();
        sorted.sort();
        // Any order will do: a stride that meets each of them once.
        let count = keys.len();
        assert_ne!(count % 5, 0);
        let generation = Generation::new(1 << 10);
        for number in 0..count {
            let key = &keys[number * 5 % count];
            put(&generation, number as u64 + 1, &[(key, Some(key))], &[]);
            // Whoever asks before all of them are there has it put in order what came so far.
            if number % 7 == 0 {
                let mut into = Vec::new();
                let all = (Bound::Unbounded, Bound::Unbounded);
                assert!(generation.range(all, u64::MAX, usize::MAX, false, &mut into));
                assert!(into.len() == number + 1 && into.is_sorted());
            }
        }
        let last = count as u64;
        for key in &keys {
            let found = generation.get(KeyHash::of(key), key, last);
            assert_eq!(found, Some(Some(Bytes::copy_from_slice(key))), "{key:?}");
        }
        assert_eq!(generation.get(KeyHash::of(&[7; 29]), &[7; 29], last), None);
        let tabled: Vec<Vec<u8>> = generation.rows().iter().map(|(key, _)| key.to_vec()).collect();
        assert_eq!(tabled, sorted);
        for from in 0..count {
            for to in [from + 1, count / 2, count - 1] {
                let Some(expected) = sorted.get(from..to) else { continue };
                let bounds =
                    (Bound::Included(&sorted[from][..]), Bound::Excluded(&sorted[to.min(count - 1)][..]));
                let expected = if to < count { expected } else { &expected[..expected.len() - 1] };
                for reverse in [false, true] {
                    let mut into = Vec::new();
                    assert!(generation.range(bounds, last, usize::MAX, reverse, &mut into));
                    if reverse {
                        into.reverse();
                    }
                    assert!(
                        into.iter().map(|row| &row.0[..]).eq(expected.iter().map(|key| &key[..])),
                        "{from} {to}"
                    );
                }
            }
        }
    }
}
