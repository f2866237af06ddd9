//! The store of one node: a commit log of ours, an overlay in memory, and tables on disk (fjall).
//!
//! A commit is one record of the log, written and synced; then its rows are in the overlay and visible. When the
//! overlay has grown to half of its bound, that half is sealed and written to the tables as one sorted run, in the
//! background; then the log segments below it are made anew. Reads merge the overlay over a snapshot of the tables.
//! `docs/commit.md` argues why nothing is lost, doubled or reordered on the way.
//!
//! Invariants: a row is visible only after its record is durable; after the first failed write, sync or read the store
//! acknowledges nothing any more ([`CommitError::Fatal`], G14); there is one writer, so a transaction is serial by
//! construction. Locks are taken in the order writer, state, generation; the shelf's lock is never held with another.

#![expect(
    clippy::disallowed_methods,
    reason = "ground floor: files, threads, and the clock for waits and counters"
)]

mod clean;
mod copy;
mod disk;
mod fault;
mod filter;
mod format;
mod key_head;
mod log;
mod loose;
mod open;
mod overlay;
mod places;
mod recover;
mod row_table;
mod shelf;
mod stopped;
mod tables;
mod view;
mod warm;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use copy::{Copied, CopyError, copy};
pub use disk::{Disk, DiskFile, RealDisk};
use fault::Fault;
use format::StoreId;
use log::{AppendError, Log, LogCounters};
use overlay::Generation;
use recover::Applied;
use shelf::{Shelf, wait};
use stopped::Mirror;
pub use stopped::Stopped;
use tables::{RUNS_MAX, Tables};
use view::{EmbeddedTxn, View};
use warm::Warm;

use crate::error::{CommitError, ReadError};
use crate::figures::{self, Attempts, Figure};
use crate::txn::{Body, Engine, Read};

/// There is one writer.
const LANES_COUNT: u16 = 1;
/// The smallest segment; less is taken for this.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// An overlay is sealed when it has grown by this part of its bound.
const SEAL_PARTS: usize = 2;
/// How old the known amount of free space may be (F12).
const SPACE_AGE_MAX: Duration = Duration::from_millis(100);
/// How much may be written on the strength of it.
const SPACE_BYTES_MAX: u64 = 1 << 20;
/// How long a wait sleeps before it looks again whether the store has failed or stops.
const NAP: Duration = Duration::from_millis(50);
/// How long a run waits for the tables to merge older ones. Then it is added all the same: reads are slower for a while,
/// but commits go on.
const RUNS_WAIT_MAX: Duration = Duration::from_secs(10);

/// Who prepares segments and writes runs to the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Two threads of the engine's own.
    Background,
    /// The committing thread, after each commit: the same steps in the same order every time, for tests.
    Inline,
}

/// How an [`Embedded`] store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a log segment, 16 KiB at least. Two to three times this, beside what the tables do not hold yet, is the
    /// log's size. A commit larger than a segment is refused as too large.
    pub segment_bytes: u64,
    /// The bound of memory for rows that the log holds and the tables do not yet. Commits wait when it is met.
    pub overlay_bytes: usize,
    /// Free space below which commits are refused (F12). What runs and segments need while it lasts is taken from it.
    pub reserve_bytes: u64,
    /// Memory for blocks of the tables.
    pub cache_bytes: u64,
    /// Who does the work in the background.
    pub upkeep: Upkeep,
    /// The file system of the log. The tables always use the machine's own.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            overlay_bytes: 80 << 20,
            reserve_bytes: 1 << 30,
            cache_bytes: 64 << 20,
            upkeep: Upkeep::Background,
            disk: Arc::new(RealDisk),
        }
    }
}

impl Options {
    /// The memory at which a generation is sealed.
    fn generation_bytes(&self) -> usize {
        self.overlay_bytes / SEAL_PARTS
    }

    fn generation(&self) -> Arc<Generation> {
        Arc::new(Generation::new(self.generation_bytes()))
    }
}

/// The embedded engine. See the head of this file.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Holds the lock on the directory, to the end.
    _lock: std::fs::File,
    /// Of a store that is only looked at: what stands for its tables. Gone when these are.
    _mirror: Option<Mirror>,
}

/// What the writer, the readers and the background share.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    store: StoreId,
    options: Options,
    tables: Tables,
    shelf: Arc<Shelf>,
    fault: Arc<Fault>,
    state: Mutex<State>,
    /// A generation was dropped: there is room.
    room: Condvar,
    /// A generation was sealed, or the store stops.
    work: Condvar,
    attempts: Attempts,
    counters: Counters,
    log_counters: Arc<LogCounters>,
}

#[derive(Debug)]
struct State {
    /// The last record that snapshots see.
    visible: u64,
    /// The one being written to first, then the sealed ones, newest first.
    generations: VecDeque<Arc<Generation>>,
    /// How many snapshots are open, by their number.
    open: BTreeMap<u64, usize>,
    /// Up to which record the tables are complete.
    applied: u64,
}

#[derive(Debug, Default)]
struct Counters {
    overlay_waits: AtomicU64,
    overlay_wait_ns: AtomicU64,
    runs: AtomicU64,
    run_rows: AtomicU64,
    run_ns: AtomicU64,
    runs_waits: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Writer {
    log: Log,
    space: Space,
    warm: Warm,
    is_closed: bool,
}

/// What is known about free space.
#[derive(Debug, Default)]
struct Space {
    checked: Option<Instant>,
    written_bytes: u64,
    free_bytes: u64,
}

impl Engine for Embedded {
    fn lanes_count(&self) -> u16 {
        LANES_COUNT
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        let committed = self.attempt(body);
        self.shared.attempts.ended(lane, &committed);
        committed
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        match self.shared.fault.reason() {
            Some(reason) => Err(ReadError::Fatal(reason)),
            None => Ok(Box::new(self.shared.view())),
        }
    }

    fn idle(&self) -> Result<(), CommitError> {
        let mut writer = self.writer();
        self.may_write(&mut writer)?;
        if writer.log.is_idle() || writer.log.last() == 0 {
            return Ok(());
        }
        writer.log.append_idle().map_err(|error| self.not_appended(&mut writer, error))
    }

    fn close(&self) -> Result<(), CommitError> {
        let shared = &self.shared;
        let mut writer = self.writer();
        if let Some(reason) = shared.fault.reason() {
            return Err(CommitError::Fatal(reason));
        }
        if writer.is_closed {
            return Ok(());
        }
        match writer.log.append_idle() {
            // The word below says the same, and there is always room for it in the reserve.
            Ok(()) | Err(AppendError::Full) => {}
            Err(error) => return Err(self.not_appended(&mut writer, error)),
        }
        writer.is_closed = true;
        self.stop_threads();
        clean::write(&*shared.options.disk, &shared.dir, &shared.store, writer.log.last()).map_err(|error| {
            CommitError::Fatal(shared.fault.trip(&format!("the store could not be closed: {error}")))
        })
    }

    fn figures(&self) -> Vec<Figure> {
        let shared = &self.shared;
        let (overlay_bytes, generations_count, snapshots_count, lag) = {
            let state = shared.lock();
            let snapshots_count: usize = state.open.values().sum();
            (state.overlay_bytes(), state.generations.len(), snapshots_count, state.visible - state.applied)
        };
        let (counters, log) = (&shared.counters, &shared.log_counters);
        let mut figures = shared.attempts.figures().to_vec();
        figures.extend([
            figures::snapshots_open(snapshots_count as u64),
            figures::failed(shared.fault.reason().is_some()),
            Figure::count("store_log_records", "Records of the commit log that are durable", &log.records),
            Figure::count("store_log_bytes", "Bytes of them", &log.bytes),
            log.syncs.figure("store_log_sync_seconds", "One fdatasync of the commit log"),
            Figure::level("store_log_segments", "Segments of the commit log", shared.shelf.segments_count()),
            Figure::level(
                "store_overlay_bytes",
                "Memory for rows that the tables do not hold yet",
                overlay_bytes as u64,
            ),
            Figure::level("store_overlay_max_bytes", "Its bound", shared.options.overlay_bytes as u64),
            Figure::level("store_overlay_generations", "Parts of it", generations_count as u64),
            Figure::count(
                "store_overlay_waits",
                "Commits that waited until there was room in the overlay",
                &counters.overlay_waits,
            ),
            Figure::time("store_overlay_wait_seconds", "How long they waited", &counters.overlay_wait_ns),
            Figure::level(
                "store_tables_lag_records",
                "Records of the log that the tables do not hold yet",
                lag,
            ),
            Figure::count("store_tables_runs", "Sorted runs written to the tables", &counters.runs),
            Figure::count("store_tables_rows", "Rows of them", &counters.run_rows),
            Figure::time("store_tables_ingest_seconds", "Writing them", &counters.run_ns),
            Figure::level(
                "store_tables_runs_unmerged",
                "Runs that the tables have not merged yet",
                shared.tables.runs_count() as u64,
            ),
            Figure::count(
                "store_tables_runs_waits",
                "Runs that waited until older ones were merged",
                &counters.runs_waits,
            ),
            Figure::level("store_tables_bytes", "Bytes of the tables on disk", shared.tables.disk_bytes()),
        ]);
        figures
    }
}

impl Embedded {
    /// One body, and one record of what it wrote.
    fn attempt(&self, body: &mut Body<'_>) -> Result<(), CommitError> {
        let mut writer = self.writer();
        self.may_write(&mut writer)?;
        self.shared.wait_for_room()?;
        let mut txn = EmbeddedTxn::new(self.shared.view(), &mut writer.warm);
        body(&mut txn)?;
        let writes = txn.into_writes().ok_or(CommitError::TooLarge)?;
        if writes.is_empty() {
            return Ok(());
        }
        let appended = writer.log.append(&writes).map_err(|error| self.not_appended(&mut writer, error))?;
        writer.space.written_bytes += appended.whole.len() as u64;
        self.shared.publish(appended.number, appended.segment, &appended.whole);
        for (key, value) in writes.into_rows() {
            writer.warm.written(&key, value);
        }
        if self.shared.options.upkeep == Upkeep::Inline {
            self.shared.upkeep_inline();
        }
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A body that panicked had written nothing yet.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses when the store has failed, is closed or is short of space (F12).
    fn may_write(&self, writer: &mut Writer) -> Result<(), CommitError> {
        let shared = &self.shared;
        if let Some(reason) = shared.fault.reason() {
            return Err(CommitError::Fatal(reason));
        }
        if writer.is_closed {
            return Err(CommitError::Fatal("the store is closed".to_owned()));
        }
        let reserve_bytes = shared.options.reserve_bytes;
        let space = &mut writer.space;
        let is_known = space.checked.is_some_and(|checked| checked.elapsed() < SPACE_AGE_MAX)
            && space.written_bytes < SPACE_BYTES_MAX;
        if !is_known {
            space.free_bytes = shared.options.disk.free_bytes(&shared.dir).map_err(|error| {
                CommitError::Fatal(shared.fault.trip(&format!("free space could not be asked for: {error}")))
            })?;
            space.checked = Some(Instant::now());
            space.written_bytes = 0;
        }
        if space.free_bytes < reserve_bytes {
            return Err(CommitError::Full { free_bytes: space.free_bytes, reserve_bytes });
        }
        Ok(())
    }

    fn not_appended(&self, writer: &mut Writer, error: AppendError) -> CommitError {
        match error {
            AppendError::TooLarge => CommitError::TooLarge,
            AppendError::Fatal(reason) => CommitError::Fatal(reason),
            AppendError::Full => {
                writer.space.checked = None;
                let free_bytes = self.shared.options.disk.free_bytes(&self.shared.dir).unwrap_or(0);
                CommitError::Full { free_bytes, reserve_bytes: self.shared.options.reserve_bytes }
            }
        }
    }

    fn start_threads(&self) -> std::io::Result<()> {
        if self.shared.options.upkeep == Upkeep::Inline {
            return Ok(());
        }
        let shelf = self.shared.shelf.clone();
        let segments =
            std::thread::Builder::new().name("store-segments".to_owned()).spawn(move || shelf.run())?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(segments);
        let shared = self.shared.clone();
        threads.push(
            std::thread::Builder::new().name("store-tables".to_owned()).spawn(move || shared.run_tables())?,
        );
        Ok(())
    }

    fn stop_threads(&self) {
        self.shared.counters.stop.store(true, Relaxed);
        self.shared.shelf.stop();
        self.shared.work.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fault.trip("a thread of the store panicked");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl State {
    fn overlay_bytes(&self) -> usize {
        self.generations.iter().map(|generation| generation.bytes()).sum()
    }

    /// The generation being written to.
    fn active(&mut self, options: &Options) -> Arc<Generation> {
        if self.generations.is_empty() {
            self.generations.push_front(options.generation());
        }
        self.generations[0].clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A view of everything visible now: generations and tables taken together.
    fn view(self: &Arc<Self>) -> View {
        let mut state = self.lock();
        let number = state.visible;
        *state.open.entry(number).or_default() += 1;
        View {
            number,
            generations: state.generations.iter().cloned().collect(),
            tables: self.tables.snapshot(),
            shared: self.clone(),
        }
    }

    /// A view of `number` is gone.
    fn view_closed(&self, number: u64) {
        let mut state = self.lock();
        if let Some(count) = state.open.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&number);
            }
        }
    }

    /// Waits until the overlay is below its bound (the tables have to catch up).
    fn wait_for_room(&self) -> Result<(), CommitError> {
        let mut state = self.lock();
        if state.overlay_bytes() < self.options.overlay_bytes || state.generations.len() < 2 {
            return Ok(());
        }
        let began = Instant::now();
        self.counters.overlay_waits.fetch_add(1, Relaxed);
        // Ends when the tables took a generation, or failed, or the store stops.
        while state.overlay_bytes() >= self.options.overlay_bytes && state.generations.len() > 1 {
            if let Some(reason) = self.fault.reason() {
                return Err(CommitError::Fatal(reason));
            }
            if self.counters.stop.load(Relaxed) {
                return Err(CommitError::Fatal("the store is closed".to_owned()));
            }
            state = wait(&self.room, state, NAP);
        }
        let waited_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.overlay_wait_ns.fetch_add(waited_ns, Relaxed);
        Ok(())
    }

    /// Makes a durable record visible, and seals the generation when it is large enough.
    fn publish(&self, number: u64, segment: u64, whole: &bytes::Bytes) {
        let (active, open) = {
            let mut state = self.lock();
            (state.active(&self.options), state.open.keys().copied().collect::<Vec<_>>())
        };
        let places = format::rows(whole).unwrap_or_default();
        active.insert(number, segment, whole, &places, &open);
        let mut state = self.lock();
        state.visible = number;
        if active.bytes() >= self.options.generation_bytes() {
            state.generations.push_front(self.options.generation());
            drop(state);
            self.work.notify_all();
        }
    }

    /// Writes all sealed generations to the tables as one run. `false` when there are none.
    fn ingest(&self) -> Result<bool, String> {
        let sealed: Vec<Arc<Generation>> = self.lock().generations.iter().skip(1).cloned().collect();
        let Some(newest) = sealed.first() else { return Ok(false) };
        let began = Instant::now();
        self.tables.check().map_err(|error| error.0)?;
        let applied = Applied { number: newest.last(), segment: newest.last_segment(), store: self.store };
        let rows: Vec<_> = sealed.iter().map(|generation| generation.rows()).collect();
        let rows_count = self.tables.ingest(&rows, &applied).map_err(|error| error.0)?;
        drop(rows);
        {
            let mut state = self.lock();
            state.generations.retain(|generation| !sealed.iter().any(|done| Arc::ptr_eq(generation, done)));
            state.applied = applied.number;
        }
        self.room.notify_all();
        self.shelf.release_below(applied.segment);
        self.counters.runs.fetch_add(1, Relaxed);
        self.counters.run_rows.fetch_add(rows_count, Relaxed);
        let run_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.run_ns.fetch_add(run_ns, Relaxed);
        Ok(true)
    }

    /// Feeds the tables until the store stops or fails.
    fn run_tables(&self) {
        while !self.counters.stop.load(Relaxed) && self.fault.reason().is_none() {
            {
                let state = self.lock();
                if state.generations.len() < 2 {
                    drop(wait(&self.work, state, NAP * 4));
                    continue;
                }
            }
            self.wait_for_merges();
            if let Err(reason) = self.ingest() {
                self.fault.trip(&reason);
                self.room.notify_all();
            }
        }
    }

    /// Waits while too many runs are unmerged, for [`RUNS_WAIT_MAX`] at most.
    fn wait_for_merges(&self) {
        if self.tables.runs_count() < RUNS_MAX {
            return;
        }
        self.counters.runs_waits.fetch_add(1, Relaxed);
        let began = Instant::now();
        while self.tables.runs_count() >= RUNS_MAX
            && began.elapsed() < RUNS_WAIT_MAX
            && !self.counters.stop.load(Relaxed)
            && self.tables.check().is_ok()
        {
            drop(wait(&self.work, self.lock(), NAP));
        }
    }

    /// What the threads would have done by now.
    fn upkeep_inline(&self) {
        let done = self.ingest().and_then(|_| {
            // Ends: each step makes or removes one segment of few.
            while self.shelf.step().map_err(|error| format!("no segment could be prepared: {error}"))? {}
            Ok(())
        });
        if let Err(reason) = done {
            self.fault.trip(&reason);
        }
    }
}
