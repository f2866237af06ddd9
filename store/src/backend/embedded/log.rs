//! The commit log's writing end: one record a commit, one write and one sync a record.
//!
//! Invariants: numbers are consecutive over all segments; a record lies in one segment; the next record is begun only
//! after the sync of the one before it returned OK, so at most one record of the log is not durable. After any failed
//! write or sync nothing is ever written again ([`AppendError::Fatal`] is final).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use crc32fast::Hasher;

use super::disk::write_all_at;
use super::fault::Fault;
use super::format::{FLAG_IDLE, encode};
use super::row_table::RowTable;
use super::shelf::{NoSegment, Segment, Shelf};
use crate::figures::Times;

/// A record that is durable.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) number: u64,
    /// The segment it lies in.
    pub(super) segment: u64,
    /// All of its bytes.
    pub(super) whole: Bytes,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// It does not fit into a segment. Nothing was written.
    TooLarge,
    /// It needs a new segment and there is no space for one. Nothing was written.
    Full,
    /// The disk failed, now or before; the outcome of this record is decided by the next recovery.
    Fatal(String),
}

/// Counters of the writing end.
#[derive(Debug, Default)]
pub(super) struct LogCounters {
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) syncs: Times,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Log {
    shelf: Arc<Shelf>,
    fault: Arc<Fault>,
    segment: Segment,
    seed: Hasher,
    /// Where the next record goes.
    offset: u64,
    /// The next record's number.
    next: u64,
    /// The last record is an idle one: nothing is gained by another.
    is_idle: bool,
    counters: Arc<LogCounters>,
}

impl Log {
    /// Goes on behind the record `last`, at `offset` of `segment`.
    pub(super) fn new(
        shelf: Arc<Shelf>,
        fault: Arc<Fault>,
        segment: Segment,
        offset: u64,
        last: u64,
    ) -> Self {
        let seed = segment.header.seed();
        Log { shelf, fault, segment, seed, offset, next: last + 1, is_idle: false, counters: Arc::default() }
    }

    /// The counters, shared.
    pub(super) fn counters(&self) -> Arc<LogCounters> {
        self.counters.clone()
    }

    /// The number of the last record.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether the last record is an idle one.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Appends an empty record, which shows that everything before it is whole.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub(super) fn append_idle(&mut self) -> Result<(), AppendError> {
        self.append_record(FLAG_IDLE, &RowTable::default())?;
        self.is_idle = true;
        Ok(())
    }

    /// Appends the record of a commit; when this returns `Ok` it is durable.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub(super) fn append(&mut self, writes: &RowTable) -> Result<Appended, AppendError> {
        let appended = self.append_record(0, writes)?;
        self.is_idle = false;
        Ok(appended)
    }

    fn append_record(&mut self, flags: u32, writes: &RowTable) -> Result<Appended, AppendError> {
        if let Some(reason) = self.fault.reason() {
            return Err(AppendError::Fatal(reason));
        }
        let mut whole = encode(&self.seed, self.next, flags, writes).ok_or(AppendError::TooLarge)?;
        if self.offset + whole.len() as u64 > self.segment.header.bytes {
            if whole.len() as u64 > self.shelf.record_bytes_max() {
                return Err(AppendError::TooLarge);
            }
            self.segment = self.shelf.take().map_err(|error| match error {
                NoSegment::Full => AppendError::Full,
                NoSegment::Fatal(reason) => AppendError::Fatal(reason),
            })?;
            self.seed = self.segment.header.seed();
            self.offset = super::format::HEADER_BYTES as u64;
            whole = encode(&self.seed, self.next, flags, writes).ok_or(AppendError::TooLarge)?;
            // A segment that was prepared when the setting was smaller.
            if self.offset + whole.len() as u64 > self.segment.header.bytes {
                return Err(AppendError::TooLarge);
            }
        }
        self.write(&whole).map_err(|error| {
            let place = format!("segment {} at {}", self.segment.header.index, self.offset);
            AppendError::Fatal(self.fault.trip(&format!("the commit log failed ({place}): {error}")))
        })?;
        let appended = Appended { number: self.next, segment: self.segment.header.index, whole };
        self.offset += appended.whole.len() as u64;
        self.next += 1;
        self.counters.records.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(appended.whole.len() as u64, Relaxed);
        Ok(appended)
    }

    fn write(&self, whole: &[u8]) -> std::io::Result<()> {
        write_all_at(&*self.segment.file, whole, self.offset)?;
        let began = Instant::now();
        self.segment.file.sync_data()?;
        self.counters.syncs.add(began.elapsed());
        Ok(())
    }
}
