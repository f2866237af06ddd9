//! The reference engine: an ordered map in memory, with versions. What it does is what the others have to imitate; what
//! can go wrong with them can be made to go wrong here ([`Faults`]).
//!
//! # Invariants
//! - Serializable: a transaction reads one version, and commits only if nothing that it read, was shown to be absent, or
//!   expects unchanged has a newer one.
//! - A version is dropped only when no snapshot or transaction, running or late, can still ask for it.
//! - With the same faults and the same calls in the same order, the same happens: nothing here draws chance of its own.

mod faults;
mod versions;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use faults::{Chances, Fault, Faults, Hook, Met};

use super::in_flight::InFlight;
use crate::error::{CommitError, ReadError};
use crate::figures::{self, Attempts, Figure};
use crate::txn::{Body, Engine, KEY_BYTES_MAX, Read, Row, Txn, VALUE_BYTES_MAX};
use faults::LATE_MAX;
use versions::{Reads, Versions, Writes};

/// How a [`Memory`] engine behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many commits may be in flight side by side: 1 as in the embedded engine, 16 as with FoundationDB.
    pub lanes_count: u16,
}

impl Default for Options {
    fn default() -> Self {
        Options { lanes_count: 1 }
    }
}

/// The reference engine. See the head of this file.
#[derive(Debug)]
pub struct Memory {
    options: Options,
    faults: Faults,
    shared: Arc<Shared>,
    /// One for each lane: whether a commit is in flight there.
    lanes: Vec<AtomicBool>,
    late: Mutex<Vec<Late>>,
    attempts: Attempts,
    /// Attempts that were refused because something they relied on had changed, or that were told so.
    conflicts: AtomicU64,
    too_old: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    versions: RwLock<Versions>,
    /// The first failure: from then on nothing is acknowledged or read (G14).
    failure: Mutex<Option<String>>,
    is_failed: AtomicBool,
    /// Snapshots and transactions by the version they read: older versions may go.
    pins: Mutex<BTreeMap<u64, usize>>,
}

/// A transaction whose commit comes after its caller was told that nobody knows.
#[derive(Debug)]
struct Late {
    steps_left: u32,
    reads: Reads,
    writes: Writes,
    /// Keeps the versions that its conflicts are found by.
    pin: Pin,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(options: Options) -> Memory {
        Memory::with_faults(options, Faults::default())
    }

    /// An empty store that goes wrong as told.
    #[must_use]
    pub fn with_faults(options: Options, faults: Faults) -> Memory {
        // With the control lane.
        let lanes: Vec<_> = (0..=options.lanes_count.max(1)).map(|_| AtomicBool::new(false)).collect();
        let attempts = Attempts::new(lanes.len());
        Memory {
            options,
            faults,
            shared: Arc::default(),
            lanes,
            late: Mutex::default(),
            attempts,
            conflicts: AtomicU64::new(0),
            too_old: AtomicU64::new(0),
        }
    }

    /// What makes this store go wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How many commits were refused because something they relied on had changed.
    #[must_use]
    pub fn conflicts_count(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// How many commits may still come late.
    #[must_use]
    pub fn late_count(&self) -> usize {
        lock(&self.late).len()
    }

    /// Every late commit comes now, or never.
    pub fn land(&self) {
        let mut late = lock(&self.late);
        for late in late.drain(..) {
            self.apply_late(late);
        }
    }

    /// Late commits come one step nearer.
    fn step_late(&self) {
        let mut late = lock(&self.late);
        if late.is_empty() {
            return;
        }
        let (due, waiting): (Vec<Late>, Vec<Late>) = late.drain(..).partition(|late| late.steps_left == 0);
        late.extend(waiting.into_iter().map(|late| Late { steps_left: late.steps_left - 1, ..late }));
        for late in due {
            self.apply_late(late);
        }
    }

    /// As on FoundationDB: a late commit is checked for conflicts when it comes, like any other.
    fn apply_late(&self, late: Late) {
        let mut versions = self.shared.write();
        if versions.is_unchanged(&late.reads, late.pin.version) {
            drop(late.pin);
            versions.apply(late.writes, self.shared.oldest_pin());
        }
    }

    fn check_failure(&self) -> Result<(), CommitError> {
        self.shared.failure().map_or(Ok(()), |reason| Err(CommitError::Fatal(reason)))
    }

    /// One body, and one commit of what it wrote.
    fn attempt(&self, body: &mut Body<'_>) -> Result<(), CommitError> {
        self.check_failure()?;
        self.step_late();
        let fault = self.faults.plan();
        if matches!(fault, Some(Fault::TooOld { .. })) {
            self.too_old.fetch_add(1, Ordering::Relaxed);
        }
        let committed = match fault {
            Some(Fault::Full) => Err(CommitError::Full { free_bytes: 0, reserve_bytes: 1 }),
            fault => self.commit_planned(fault, body),
        };
        // An acknowledgement that overtakes a failure is one too many.
        self.check_failure()?;
        committed
    }

    fn commit_planned(&self, fault: Option<Fault>, body: &mut Body<'_>) -> Result<(), CommitError> {
        let reads_left = match fault {
            Some(Fault::TooOld { reads }) => Some(reads),
            _ => None,
        };
        let mut txn = MemoryTxn::new(Snapshot { pin: Pin::new(&self.shared), reads_left });
        body(&mut txn)?;
        if txn.is_too_large || txn.written_bytes > self.faults.txn_bytes_max() {
            return Err(CommitError::TooLarge);
        }
        let MemoryTxn { snapshot: Snapshot { pin, .. }, reads, writes, .. } = txn;
        self.step_late();
        self.faults.run_hook();
        match fault {
            Some(Fault::Conflict | Fault::TooOld { .. }) => return Err(CommitError::Conflict),
            Some(Fault::Slow) => return Err(CommitError::Slow),
            Some(Fault::UnknownLost) => return Err(CommitError::Unknown),
            Some(Fault::UnknownLate { steps }) => {
                let mut late = lock(&self.late);
                // Beyond the bound the oldest is lost, which an unknown outcome may be.
                if late.len() == LATE_MAX {
                    late.remove(0);
                }
                late.push(Late { steps_left: steps, reads, writes, pin });
                return Err(CommitError::Unknown);
            }
            Some(Fault::Fatal) => {
                let reason = self.shared.fail("input/output error (injected)");
                return Err(CommitError::Fatal(reason));
            }
            Some(Fault::Full | Fault::UnknownCommitted) | None => {}
        }
        // A transaction that writes nothing read one version and is serializable there, whatever came since.
        if !writes.is_empty() {
            let mut versions = self.shared.write();
            if !versions.is_unchanged(&reads, pin.version) {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
                return Err(CommitError::Conflict);
            }
            drop(pin);
            versions.apply(writes, self.shared.oldest_pin());
        }
        if fault == Some(Fault::UnknownCommitted) { Err(CommitError::Unknown) } else { Ok(()) }
    }
}

impl Engine for Memory {
    fn lanes_count(&self) -> u16 {
        self.options.lanes_count.max(1)
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        let in_flight = InFlight::enter(self.lanes.get(usize::from(lane)), lane);
        let committed = self.attempt(body);
        self.attempts.ended(lane, &committed);
        drop(in_flight);
        committed
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        match self.shared.failure() {
            Some(reason) => Err(ReadError::Fatal(reason)),
            None => {
                let reads_left = self.faults.plan_snapshot();
                Ok(Box::new(Snapshot { pin: Pin::new(&self.shared), reads_left }))
            }
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let rows_count = self.shared.read().rows_count();
        let open_count = lock(&self.shared.pins).values().sum::<usize>();
        let is_failed = self.shared.is_failed.load(Ordering::Relaxed);
        let mut figures = self.attempts.figures().to_vec();
        figures.extend([
            figures::too_old(&self.too_old),
            figures::snapshots_open(open_count as u64),
            figures::failed(is_failed),
            Figure::level(
                "store_rows",
                "Rows, those among them that only old snapshots see",
                rows_count as u64,
            ),
        ]);
        figures
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Versions> {
        // Nothing panics while it holds the lock, and an unfinished version is not yet the newest.
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Versions> {
        self.versions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn oldest_pin(&self) -> Option<u64> {
        lock(&self.pins).first_key_value().map(|(version, _)| *version)
    }

    /// The first reason stays.
    fn fail(&self, reason: &str) -> String {
        let reason = lock(&self.failure).get_or_insert_with(|| reason.to_owned()).clone();
        self.is_failed.store(true, Ordering::Release);
        reason
    }

    fn failure(&self) -> Option<String> {
        if self.is_failed.load(Ordering::Acquire) { lock(&self.failure).clone() } else { None }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A version that is being read and must not be dropped.
#[derive(Debug)]
struct Pin {
    shared: Arc<Shared>,
    version: u64,
}

impl Pin {
    fn new(shared: &Arc<Shared>) -> Pin {
        // Pinned under the lock, so that no commit drops the version in between.
        let versions = shared.read();
        let version = versions.newest();
        *lock(&shared.pins).entry(version).or_insert(0) += 1;
        drop(versions);
        Pin { shared: shared.clone(), version }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.shared.pins);
        if let Some(count) = pins.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.version);
            }
        }
    }
}

/// One version, being read.
struct Snapshot {
    pin: Pin,
    /// Reads until it is too old, if it ever is.
    reads_left: Option<u32>,
}

impl Snapshot {
    fn check(&mut self) -> Result<(), ReadError> {
        if let Some(left) = &mut self.reads_left {
            *left = left.checked_sub(1).ok_or_else(|| ReadError::Again("too old (injected)".to_owned()))?;
        }
        self.pin.shared.failure().map_or(Ok(()), |reason| Err(ReadError::Fatal(reason)))
    }
}

impl Read for Snapshot {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.check()?;
        Ok(self.pin.shared.read().value(key, self.pin.version))
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.check()?;
        Ok(self.pin.shared.read().range(&Writes::new(), (from, to), self.pin.version, limit, reverse))
    }
}

/// A transaction: one version with its own writes over it, and what it relies on.
struct MemoryTxn {
    snapshot: Snapshot,
    reads: Reads,
    writes: Writes,
    written_bytes: usize,
    is_too_large: bool,
}

impl MemoryTxn {
    fn new(snapshot: Snapshot) -> MemoryTxn {
        MemoryTxn {
            snapshot,
            reads: Reads::default(),
            writes: Writes::new(),
            written_bytes: 0,
            is_too_large: false,
        }
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        self.written_bytes += key.len() + value_bytes;
        self.is_too_large |= key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX;
        self.writes.insert(key, value);
    }
}

impl Read for MemoryTxn {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if let Some(own) = self.writes.get(key) {
            return Ok(own.clone());
        }
        self.expect_unchanged(key);
        self.snapshot.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.snapshot.check()?;
        let Pin { shared, version } = &self.snapshot.pin;
        let rows = shared.read().range(&self.writes, (from, to), *version, limit, reverse);
        // Cut off by its limit, it has seen only as far as its last row.
        let last = rows.last().filter(|_| rows.len() == limit);
        let seen = match last {
            Some((key, _)) if reverse => (key.clone(), Bytes::copy_from_slice(to)),
            Some((key, _)) => (Bytes::copy_from_slice(from), crate::keys::after(key)),
            None => (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to)),
        };
        self.reads.ranges.push(seen);
        Ok(rows)
    }
}

impl Txn for MemoryTxn {
    fn set(&mut self, key: Bytes, value: Bytes) {
        self.write(key, Some(value));
    }

    fn clear(&mut self, key: Bytes) {
        self.write(key, None);
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        self.reads.keys.push(Bytes::copy_from_slice(key));
    }
}
