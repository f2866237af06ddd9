//! Rows found by the hash of their key: for what is looked up once by its whole key, again and again, a hash is a
//! fraction of what a walk down a sorted map of many rows costs.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::places::Places;

/// A row: its value, or `None` where it was removed.
pub(super) type Row = (Bytes, Option<Bytes>);

/// What a key is found by, here and in a [`Filter`](super::filter::Filter). The same in every run: keys are made of ids
/// that we draw, and of SHA-256 where a client chooses, so nobody can aim at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash(pub(super) u64);

impl KeyHash {
    pub(super) fn of(key: &[u8]) -> KeyHash {
        KeyHash(xxh3_64(key))
    }
}

/// Each row once, with the value that it was given last, in the order in which rows came.
#[derive(Debug, Default)]
pub(super) struct RowTable {
    rows: Vec<Row>,
    places: Places,
}

impl RowTable {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Forgets all rows; the room that they took stays.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.rows.clear();
    }

    /// All rows, for good.
    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// The value of a row: `None` where the row is not here, `Some(None)` where it was removed.
    pub(super) fn get(&self, hash: KeyHash, key: &[u8]) -> Option<&Option<Bytes>> {
        Some(&self.rows.get(self.find(hash, key)?)?.1)
    }

    /// The same, to be given another value.
    pub(super) fn get_mut(&mut self, hash: KeyHash, key: &[u8]) -> Option<&mut Option<Bytes>> {
        let index = self.find(hash, key)?;
        Some(&mut self.rows.get_mut(index)?.1)
    }

    /// Gives a row its value.
    pub(super) fn set(&mut self, hash: KeyHash, key: Bytes, value: Option<Bytes>) {
        match self.find(hash, &key) {
            Some(index) => self.rows[index].1 = value,
            None => {
                self.places.insert(hash, self.rows.len() as u32);
                self.rows.push((key, value));
            }
        }
    }

    fn find(&self, hash: KeyHash, key: &[u8]) -> Option<usize> {
        let is_it = |index: u32| self.rows.get(index as usize).is_some_and(|row| row.0 == key);
        self.places.find(hash, is_it).map(|index| index as usize)
    }
}

impl FromIterator<Row> for RowTable {
    fn from_iter<T: IntoIterator<Item = Row>>(rows: T) -> RowTable {
        let mut table = RowTable::default();
        rows.into_iter().for_each(|(key, value)| table.set(KeyHash::of(&key), key, value));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(table: &mut RowTable, key: &Bytes, value: Option<Bytes>) {
        table.set(KeyHash::of(key), key.clone(), value);
    }

    /// Every row is found, with its last value, also after the table grew and was used again, and nothing else is.
    #[test]
    fn rows_are_found_with_their_last_value() {
        let mut table = RowTable::default();
        let key = |number: u32| Bytes::from(number.to_be_bytes().repeat(5));
        for round in 0..3_u8 {
            assert_eq!(table.get(KeyHash::of(&key(0)), &key(0)), None, "nothing of the round before");
            for number in 0..1_000 {
                set(&mut table, &key(number), Some(Bytes::from_static(b"first")));
                let value = (number % 3 != 0).then(|| Bytes::from(vec![round; 3]));
                set(&mut table, &key(number), value);
            }
            for number in 0..1_000 {
                let expected = (number % 3 != 0).then(|| Bytes::from(vec![round; 3]));
                assert_eq!(table.get(KeyHash::of(&key(number)), &key(number)), Some(&expected));
            }
            assert_eq!(table.get(KeyHash::of(&key(1_000)), &key(1_000)), None);
            let keys: Vec<Bytes> = table.iter().map(|row| row.0.clone()).collect();
            assert_eq!(
                keys,
                (0..1_000).map(key).collect::<Vec<_>>(),
                "each once, in the order in which they came"
            );
            table.clear();
        }
    }

    /// Keys whose hashes are alike are told apart by their bytes.
    #[test]
    fn equal_hashes_are_told_apart() {
        let mut table = RowTable::default();
        let hash = KeyHash(u64::MAX);
        for number in 0..20_u8 {
            table.set(hash, Bytes::from(vec![number]), Some(Bytes::from(vec![number, number])));
        }
        for number in 0..20_u8 {
            assert_eq!(table.get(hash, &[number]), Some(&Some(Bytes::from(vec![number, number]))));
        }
        assert_eq!(table.get(hash, &[20]), None);
    }
}
