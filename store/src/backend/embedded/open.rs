//! Opening the store: lock, look, judge, replay; and only then go on.
//!
//! Invariants: nothing in the directory is changed before the log and the tables are known to be whole and to belong
//! together; a store that was never finished being made (a crash in its first second) holds no record, and is made
//! again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex};

use super::clean::{self, Clean};
use super::fault::Fault;
use super::format::{self, HEADER_BYTES, StoreId};
use super::log::Log;
use super::overlay::Generation;
use super::recover::{self, Applied, LogError, Scan, Settled};
use super::shelf::{self, Shelf, ShelfOptions};
use super::stopped::Mirror;
use super::tables::{self, Found, Tables, TablesError};
use super::warm::Warm;
use super::{Counters, Embedded, LANES_COUNT, Options, SEGMENT_BYTES_MIN, Shared, Space, State, Writer};
use crate::error::OpenError;
use crate::figures::Attempts;

pub(super) const LOCK_FILE: &str = "lock";
pub(super) const LOG_DIR: &str = "log";
pub(super) const TABLES_DIR: &str = "tables";
/// What to do about damage; said with every refusal.
const ADVICE: &str = "Nothing was changed. Restore the whole directory from a copy (clients that know more are told to \
                      reset), or keep it for repair; removing single files loses acknowledged messages";

/// Failures on the way, without the directory's name.
pub(super) enum Failure {
    Damaged(String),
    Io(io::Error),
}

impl Failure {
    pub(super) fn at(self, dir: &Path) -> OpenError {
        let path = dir.display().to_string();
        match self {
            Failure::Damaged(detail) => OpenError::Damaged { path, detail: format!("{detail}. {ADVICE}") },
            Failure::Io(source) => OpenError::Io { path, source },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Damaged(detail) => Failure::Damaged(detail),
            LogError::Io(error) => Failure::Io(error),
        }
    }
}

impl From<TablesError> for Failure {
    fn from(error: TablesError) -> Self {
        Failure::Damaged(error.0)
    }
}

impl Embedded {
    /// Opens the store in `dir`, or makes one where there is none. Returns when everything durable is visible.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process, or another engine of this one, holds the directory;
    /// [`OpenError::Damaged`] when its files are not what this engine wrote, in which case nothing was changed;
    /// [`OpenError::Io`] for what the file system said.
    pub fn open(dir: &Path, mut options: Options) -> Result<Embedded, OpenError> {
        options.segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let path = || dir.display().to_string();
        let io_error = |source| OpenError::Io { path: path(), source };
        std::fs::create_dir_all(dir).map_err(io_error)?;
        let lock = lock(dir).map_err(io_error)?.ok_or_else(|| OpenError::InUse { path: path() })?;
        let embedded = open_locked(dir, options, lock, None).map_err(|failure| failure.at(dir))?;
        embedded.start_threads().map_err(io_error)?;
        Ok(embedded)
    }
}

/// Takes the directory; `None` when somebody else has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    try_lock(
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK_FILE))?,
    )
}

pub(super) fn try_lock(file: File) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// With a `mirror` the store is only looked at: `options.disk` changes nothing then, and what is not a finished store is
/// refused instead of made.
pub(super) fn open_locked(
    dir: &Path,
    options: Options,
    lock: File,
    mirror: Option<Mirror>,
) -> Result<Embedded, Failure> {
    let log_dir = dir.join(LOG_DIR);
    let tables_dir = dir.join(TABLES_DIR);
    let disk = options.disk.clone();
    disk.create_dir(&log_dir)?;
    disk.sync_dir(dir)?;

    let found = tables::look(&tables_dir)?;
    let tables = match (&mirror, found) {
        (None, Found::Whole) => Tables::open(&tables_dir, options.cache_bytes)?,
        (None, Found::Nothing) => {
            refuse_if_used(&options, &log_dir, "the directory tables is missing")?;
            Tables::open(&tables_dir, options.cache_bytes)?
        }
        (None, Found::Broken(wrong)) => {
            refuse_if_used(&options, &log_dir, &wrong)?;
            std::fs::remove_dir_all(&tables_dir)?;
            Tables::open(&tables_dir, options.cache_bytes)?
        }
        (Some(mirror), Found::Whole) => Tables::open_still(mirror.path(), options.cache_bytes)?,
        (Some(_), Found::Nothing) => {
            return Err(Failure::Damaged("the directory tables is missing".to_owned()));
        }
        (Some(_), Found::Broken(wrong)) => return Err(Failure::Damaged(wrong)),
    };
    let (applied, settled, scan) = match tables.applied()? {
        Some(applied) => {
            let scan = recover::scan(&*disk, &log_dir, &applied)?;
            check_clean(&options, dir, &applied, &scan)?;
            (applied, None, Some(scan))
        }
        None => {
            refuse_if_used(&options, &log_dir, "the tables are empty")?;
            if mirror.is_some() {
                return Err(Failure::Damaged(
                    "it was never finished being made, and holds nothing".to_owned(),
                ));
            }
            let (applied, settled) = create(&options, &log_dir, &tables)?;
            (applied, Some(settled), None)
        }
    };

    let fault = Arc::new(Fault::default());
    let replayed = match &scan {
        Some(scan) => replay(scan, &tables, &applied, &options)?,
        None => Replayed { applied, generation: options.generation(), runs_count: 0 },
    };
    let settled = match (settled, scan) {
        (Some(settled), _) => settled,
        (None, Some(scan)) => scan.settle(&*disk)?,
        (None, None) => return Err(Failure::Damaged("the log is missing".to_owned())),
    };
    clean::remove(&*disk, dir)?;

    let shelf_options = ShelfOptions {
        disk,
        dir: log_dir,
        store: applied.store,
        segment_bytes: options.segment_bytes,
        reserve_bytes: options.reserve_bytes,
        inline: options.upkeep == super::Upkeep::Inline,
    };
    let Settled { segment, offset, last, oldest, next, ready } = settled;
    let shelf = Arc::new(Shelf::new(shelf_options, fault.clone(), oldest, next, ready));
    shelf.release_below(replayed.applied.segment);
    let log = Log::new(shelf.clone(), fault.clone(), segment, offset, last);
    let state = State {
        visible: last,
        generations: VecDeque::from([replayed.generation]),
        open: std::collections::BTreeMap::new(),
        applied: replayed.applied.number,
    };
    let counters = Counters::default();
    counters.runs.store(replayed.runs_count, Relaxed);
    let shared = Shared {
        dir: dir.to_owned(),
        store: applied.store,
        options,
        tables,
        shelf,
        fault,
        state: Mutex::new(state),
        room: Condvar::new(),
        work: Condvar::new(),
        // With the control lane.
        attempts: Attempts::new(usize::from(LANES_COUNT) + 1),
        counters,
        log_counters: log.counters(),
    };
    // Who only looks writes nothing.
    let is_closed = mirror.is_some();
    Ok(Embedded {
        shared: Arc::new(shared),
        writer: Mutex::new(Writer { log, space: Space::default(), warm: Warm::default(), is_closed }),
        threads: Mutex::default(),
        _lock: lock,
        _mirror: mirror,
    })
}

/// Something is missing that a store has once it holds a record.
fn refuse_if_used(options: &Options, log_dir: &Path, missing: &str) -> Result<(), Failure> {
    if recover::holds_records(&*options.disk, log_dir)? {
        return Err(Failure::Damaged(format!("{missing}, but the commit log holds records")));
    }
    Ok(())
}

/// Makes a new store: first its log, then the row that says they belong together.
fn create(options: &Options, log_dir: &Path, tables: &Tables) -> Result<(Applied, Settled), Failure> {
    recover::wipe(&*options.disk, log_dir)?;
    let mut store = StoreId::default();
    options.disk.random(&mut store)?;
    let segment = shelf::create_first(&*options.disk, log_dir, store, options.segment_bytes)?;
    let applied = Applied { number: 0, segment: 1, store };
    tables.ingest(&[], &applied)?;
    let offset = HEADER_BYTES as u64;
    Ok((applied, Settled { segment, offset, last: 0, oldest: 1, next: 2, ready: VecDeque::new() }))
}

/// A store that was stopped cleanly has to end with the record it ended with.
fn check_clean(options: &Options, dir: &Path, applied: &Applied, scan: &Scan) -> Result<(), Failure> {
    match clean::read(&*options.disk, dir, &applied.store)? {
        Clean::Absent => Ok(()),
        Clean::Last(last) if scan.last >= last && !scan.is_torn => Ok(()),
        Clean::Last(last) => Err(Failure::Damaged(format!(
            "the store was stopped cleanly with record {last} as its last, but its log can be read only to record {}",
            scan.last
        ))),
        Clean::Unreadable => Err(Failure::Damaged(
            "the file clean is not what this store wrote. If you are sure that only this file is damaged, remove it: the \
             log is then judged as after a crash"
                .to_owned(),
        )),
    }
}

/// Where replaying ended.
struct Replayed {
    applied: Applied,
    generation: Arc<Generation>,
    runs_count: u64,
}

/// Fills the overlay from the log. When that outgrows the bound, what is there becomes a run, as it would have.
fn replay(scan: &Scan, tables: &Tables, applied: &Applied, options: &Options) -> Result<Replayed, Failure> {
    let mut replayed = Replayed { applied: *applied, generation: options.generation(), runs_count: 0 };
    scan.replay(|number, segment, whole| {
        let Some(places) = format::rows(&whole) else {
            return Err(Failure::Damaged(format!("record {number} was whole and is not any more")));
        };
        if replayed.generation.bytes() >= options.generation_bytes() {
            replayed.applied = Applied {
                number: replayed.generation.last(),
                segment: replayed.generation.last_segment(),
                store: applied.store,
            };
            tables.ingest(&[replayed.generation.rows()], &replayed.applied)?;
            replayed.generation = options.generation();
            replayed.runs_count += 1;
        }
        replayed.generation.insert(number, segment, &whole, &places, &[]);
        Ok(())
    })?;
    Ok(replayed)
}
