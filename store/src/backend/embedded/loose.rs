//! Rows of an overlay that are asked for by their whole key, and hardly ever by range: idempotency rows, one for each
//! message. They are found by their hash, and put in order when somebody wants an order: when they are written to the
//! tables, all at once, or when a generation of them is cleared.

use std::ops::Bound;

use super::key_head::KeyHead;
use super::overlay::Bounds;
use super::places::Places;
use super::row_table::KeyHash;
use crate::keys::{CREATED, SENT};

/// By indices of rows, which are held elsewhere.
#[derive(Debug, Default)]
pub(super) struct Loose {
    places: Places,
    /// Those in order, by their keys. With their heads, so that more of them are put among them without a look at a key.
    ordered: Vec<(KeyHead, u32)>,
    /// Those that came since.
    late: Vec<u32>,
}

/// Whether the row of this key is such a one.
pub(super) fn is_loose(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(SENT | CREATED)))
}

/// In front of every such key, and of no other that is in front of any.
pub(super) const EDGE: &[u8] = &[SENT];

const _: () = assert!(SENT + 1 == CREATED, "no other keys are between them");

/// Whether such a key may lie between these bounds.
pub(super) fn may_be_between((from, to): Bounds<'_>) -> bool {
    let is_behind = |edge: &[u8]| edge.first() > Some(&CREATED);
    let is_before = |edge: &[u8]| edge < EDGE;
    !edge_of(from).is_some_and(is_behind) && !edge_of(to).is_some_and(is_before)
}

/// Where a bound is.
pub(super) fn edge_of(bound: Bound<&[u8]>) -> Option<&[u8]> {
    match bound {
        Bound::Included(edge) | Bound::Excluded(edge) => Some(edge),
        Bound::Unbounded => None,
    }
}

impl Loose {
    /// The index with this hash that `is_it` says is the one.
    pub(super) fn find(&self, hash: KeyHash, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.places.find(hash, is_it)
    }

    /// Adds one that [`find`](Self::find) did not find.
    pub(super) fn insert(&mut self, hash: KeyHash, index: u32) {
        self.places.insert(hash, index);
        self.late.push(index);
    }

    /// Puts those in order that are not.
    pub(super) fn order<'k>(&mut self, key: impl Fn(u32) -> &'k [u8]) {
        if self.late.is_empty() {
            return;
        }
        let late = std::mem::take(&mut self.late);
        self.ordered.extend(late.into_iter().map(|index| (KeyHead::of(key(index)), index)));
        // This sort finds that most of it is in order already.
        self.ordered.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| key(one.1).cmp(key(other.1))));
    }

    /// Whether all are in order.
    pub(super) fn is_ordered(&self) -> bool {
        self.late.is_empty()
    }

    /// Those in order from one bound to the other, the bounds included.
    pub(super) fn between<'k>(
        &self,
        (from, to): Bounds<'_>,
        key: impl Fn(u32) -> &'k [u8],
    ) -> &[(KeyHead, u32)] {
        let order = |(head, index): &(KeyHead, u32), edge: &[u8]| {
            head.cmp(&KeyHead::of(edge)).then_with(|| key(*index).cmp(edge))
        };
        let from =
            edge_of(from).map_or(0, |edge| self.ordered.partition_point(|one| order(one, edge).is_lt()));
        let to = edge_of(to)
            .map_or(self.ordered.len(), |edge| self.ordered.partition_point(|one| order(one, edge).is_le()));
        self.ordered.get(from..to).unwrap_or_default()
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.places.bytes()
            + self.ordered.capacity() * size_of::<(KeyHead, u32)>()
            + self.late.capacity() * size_of::<u32>()
    }
}
