//! Reading: what a snapshot or a transaction sees, merged from its layers, the newest first.
//!
//! Invariants: a view's generations and its tables were taken under one lock, so that together they hold every durable
//! row exactly as of the view's number; a key found in a newer layer, be it a removal, hides all older ones.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::overlay::Generation;
use super::row_table::{KeyHash, Row as TableRow, RowTable};
use super::tables::{APPLIED_KEY, OWN_PREFIX, TablesError, TablesView};
use super::warm::Warm;
use crate::error::ReadError;
use crate::txn::{KEY_BYTES_MAX, Read, Row, TXN_BYTES_MAX, Txn, VALUE_BYTES_MAX};

/// Rows taken from a generation under one hold of its lock.
const CHUNK_COUNT: usize = 128;

/// Everything durable at one moment.
pub(super) struct View {
    pub(super) number: u64,
    /// The newest first.
    pub(super) generations: Vec<Arc<Generation>>,
    pub(super) tables: TablesView,
    pub(super) shared: Arc<Shared>,
}

impl Drop for View {
    fn drop(&mut self) {
        self.shared.view_closed(self.number);
    }
}

impl View {
    fn find(&self, hash: KeyHash, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        for generation in &self.generations {
            if let Some(value) = generation.get(hash, key, self.number) {
                return Ok(value);
            }
        }
        self.tables.get(key).map_err(|error| self.failed(&error))
    }

    fn rows(
        &self,
        own: Option<&RowTable>,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Row>, ReadError> {
        let mut rows = Vec::new();
        if from >= to || limit == 0 {
            return Ok(rows);
        }
        let mut layers: Vec<Layer<'_>> = Vec::with_capacity(self.generations.len() + 2);
        if let Some(own) = own {
            // All of them are looked at: few operations read a range, and a batch has a few thousand rows at most.
            let mut rows: Vec<&TableRow> = own.iter().filter(|(key, _)| *key >= from && *key < to).collect();
            rows.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            layers.push(Layer::Own(if reverse {
                Box::new(rows.into_iter().rev())
            } else {
                Box::new(rows.into_iter())
            }));
        }
        for generation in &self.generations {
            layers.push(Layer::Overlay(Cursor {
                generation,
                number: self.number,
                from: Bound::Included(Bytes::copy_from_slice(from)),
                to: Bound::Excluded(Bytes::copy_from_slice(to)),
                chunk: VecDeque::new(),
                chunk_count: limit.clamp(1, CHUNK_COUNT),
                reverse,
                is_done: false,
            }));
        }
        let tables = self.tables.range(from, to);
        layers.push(Layer::Tables(if reverse { Box::new(tables.rev()) } else { Box::new(tables) }));

        let mut heads = Vec::with_capacity(layers.len());
        for layer in &mut layers {
            heads.push(layer.next().map_err(|error| self.failed(&error))?);
        }
        while rows.len() < limit {
            let mut winner: Option<(usize, &Bytes)> = None;
            for (index, head) in heads.iter().enumerate() {
                if let Some((key, _)) = head
                    && winner.is_none_or(|(_, best)| if reverse { key > best } else { key < best })
                {
                    winner = Some((index, key));
                }
            }
            let Some((winner, key)) = winner.map(|(index, key)| (index, key.clone())) else { break };
            for (index, (head, layer)) in heads.iter_mut().zip(&mut layers).enumerate() {
                if head.as_ref().is_none_or(|(other, _)| *other != key) {
                    continue;
                }
                let next = layer.next().map_err(|error| self.failed(&error))?;
                let taken = std::mem::replace(head, next);
                if index == winner
                    && let Some((key, Some(value))) = taken
                {
                    rows.push((key, value));
                }
            }
        }
        Ok(rows)
    }

    /// A read that failed stops the store: what it could not see may be what a commit depends on (G14).
    fn failed(&self, error: &TablesError) -> ReadError {
        ReadError::Fatal(self.shared.fault.trip(&error.0))
    }
}

impl Read for View {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.find(KeyHash::of(key), key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.rows(None, from, to, limit, reverse)
    }
}

type Head = Option<(Bytes, Option<Bytes>)>;

/// One sorted source of rows.
enum Layer<'a> {
    Own(Box<dyn Iterator<Item = &'a TableRow> + 'a>),
    Overlay(Cursor<'a>),
    Tables(Box<dyn Iterator<Item = fjall::Guard> + 'a>),
}

impl Layer<'_> {
    fn next(&mut self) -> Result<Head, TablesError> {
        match self {
            Layer::Own(rows) => Ok(rows.next().cloned()),
            Layer::Overlay(cursor) => Ok(cursor.next()),
            Layer::Tables(rows) => loop {
                let Some(row) = rows.next() else { return Ok(None) };
                let (key, value) = row.into_inner()?;
                if &key[..] != APPLIED_KEY {
                    return Ok(Some((Bytes::copy_from_slice(&key), Some(Bytes::copy_from_slice(&value)))));
                }
            },
        }
    }
}

/// A place in a generation, read in chunks so that its lock is never held for long.
struct Cursor<'a> {
    generation: &'a Generation,
    number: u64,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    chunk: VecDeque<(Bytes, Option<Bytes>)>,
    chunk_count: usize,
    reverse: bool,
    is_done: bool,
}

impl Cursor<'_> {
    fn next(&mut self) -> Head {
        if self.chunk.is_empty() && !self.is_done {
            let mut chunk = Vec::with_capacity(self.chunk_count);
            let bounds = (as_slice(&self.from), as_slice(&self.to));
            self.is_done =
                self.generation.range(bounds, self.number, self.chunk_count, self.reverse, &mut chunk);
            if let Some((last, _)) = chunk.last() {
                let beyond = Bound::Excluded(last.clone());
                if self.reverse {
                    self.to = beyond;
                } else {
                    self.from = beyond;
                }
                // Excluded on both sides and equal would be no range at all.
                self.is_done |= as_key(&self.from) >= as_key(&self.to);
            }
            self.chunk = chunk.into();
        }
        self.chunk.pop_front()
    }
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

fn as_key(bound: &Bound<Bytes>) -> Option<&Bytes> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

/// A transaction: its own writes over a view of now, of which the writer knows a part by heart.
pub(super) struct EmbeddedTxn<'w> {
    view: View,
    warm: &'w mut Warm,
    writes: RowTable,
    bytes: usize,
    is_too_large: bool,
}

impl<'w> EmbeddedTxn<'w> {
    pub(super) fn new(view: View, warm: &'w mut Warm) -> Self {
        EmbeddedTxn { view, warm, writes: RowTable::default(), bytes: 0, is_too_large: false }
    }

    /// What it wrote, or `None` when that is more than a transaction, a key or a value may have.
    pub(super) fn into_writes(self) -> Option<RowTable> {
        (!self.is_too_large).then_some(self.writes)
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        // Only a mistake of ours can get here: keys are built in one file.
        assert!(!key.starts_with(OWN_PREFIX), "keys under b/ belong to the engine");
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        self.bytes += key.len() + value_bytes;
        self.is_too_large |=
            key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX || self.bytes > TXN_BYTES_MAX;
        if !self.is_too_large {
            self.writes.set(KeyHash::of(&key), key, value);
        }
    }
}

impl Read for EmbeddedTxn<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let hash = KeyHash::of(key);
        if let Some(value) = self.writes.get(hash, key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.warm.get(hash, key) {
            return Ok(value);
        }
        let found = self.view.find(hash, key)?;
        if let Some(value) = &found {
            self.warm.read(hash, key, value);
        }
        Ok(found)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.view.rows(Some(&self.writes), from, to, limit, reverse)
    }
}

impl Txn for EmbeddedTxn<'_> {
    fn set(&mut self, key: Bytes, value: Bytes) {
        self.write(key, Some(value));
    }

    fn clear(&mut self, key: Bytes) {
        self.write(key, None);
    }

    /// Nothing: there is one writer.
    fn expect_unchanged(&mut self, _key: &[u8]) {}
}
