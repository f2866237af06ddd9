//! The engine: lanes, attempts, and what is counted of them.

#![expect(clippy::disallowed_methods, reason = "ground floor: the clock for bounds and counters")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use foundationdb::{Database, FdbError};

use super::codes;
use super::network;
use super::prefix::Prefix;
use super::txn::{FdbTxn, Session, View};
use super::{ANSWER_MAX, BODY_MAX, LANES_COUNT, Options};
use crate::backend::in_flight::InFlight;
use crate::error::{CommitError, OpenError, ReadError};
use crate::txn::{Body, Engine, Read};

/// The engine. See the head of the module.
pub struct Fdb {
    database: Database,
    prefix: Prefix,
    /// With the control lane, the last.
    lanes: [Lane; LANES_COUNT as usize + 1],
    counters: Counters,
}

#[derive(Default)]
struct Lane {
    is_busy: AtomicBool,
    /// The last attempt here has to be made again.
    is_retrying: AtomicBool,
}

/// What happened, in numbers.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) commit_ns: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) too_large: AtomicU64,
    pub(super) slow: AtomicU64,
    pub(super) too_old: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_ns: AtomicU64,
}

impl Fdb {
    /// Opens the store of that name, which may be empty, in a cluster that answers. Starts FoundationDB's network thread
    /// when it is the first of the process; it runs to the end of the process.
    ///
    /// # Errors
    /// [`OpenError::Setting`] or [`OpenError::Unreachable`], with what to do.
    pub fn open(options: &Options) -> Result<Fdb, OpenError> {
        let prefix = Prefix::new(&options.key_prefix).map_err(OpenError::Setting)?;
        let cluster_file = match options.cluster_file.as_str() {
            "" => None,
            path if path.contains('\0') => {
                return Err(OpenError::Setting("store.cluster_file is not a path".to_owned()));
            }
            path => Some(path),
        };
        network::boot().map_err(OpenError::Setting)?;
        let named = cluster_file.unwrap_or("the default cluster file");
        let database = Database::new(cluster_file).map_err(|error| {
            OpenError::Setting(format!("store.cluster_file: {named} cannot be used: {}", describe(error)))
        })?;
        let fdb = Fdb { database, prefix, lanes: Default::default(), counters: Counters::default() };
        // A version is what everything else needs first: it comes from a cluster that works.
        match fdb.session(true) {
            Ok(_) => network::spare_at_exit().map(|()| fdb).map_err(OpenError::Setting),
            Err(ReadError::Again(why)) => Err(OpenError::Unreachable(format!(
                "{named}: {why}; see whether the cluster is up and its coordinators can be reached from here"
            ))),
            Err(ReadError::Fatal(why)) => {
                Err(OpenError::Setting(format!("store.cluster_file: {named}: {why}")))
            }
        }
    }

    fn session(&self, is_snapshot: bool) -> Result<Session<'_>, ReadError> {
        Session::begin(&self.database, &self.prefix, &self.counters, is_snapshot)
    }

    /// One body, and one commit of what it wrote.
    fn attempt(&self, body: &mut Body<'_>) -> Result<(), CommitError> {
        let mut txn = FdbTxn::new(
            self.session(false).map_err(|error| CommitError::from(crate::txn::Abort::from(error)))?,
        );
        let began = Instant::now();
        let decided = body(&mut txn).map_err(CommitError::from);
        match decided {
            Ok(()) | Err(CommitError::Conflict) if began.elapsed() > BODY_MAX => {
                return Err(CommitError::Slow);
            }
            decided => decided?,
        }
        txn.commit(Instant::now() + ANSWER_MAX)
    }

    fn count(&self, lane: Option<&Lane>, committed: &Result<(), CommitError>) {
        let counters = &self.counters;
        let counter = match committed {
            Ok(()) => &counters.commits,
            Err(CommitError::Conflict) => &counters.conflicts,
            Err(CommitError::Unknown) => &counters.unknown,
            Err(CommitError::TooLarge) => &counters.too_large,
            Err(CommitError::Slow) => &counters.slow,
            Err(CommitError::Full { .. } | CommitError::Fenced | CommitError::Fatal(_)) => return,
        };
        counter.fetch_add(1, Relaxed);
        if let Some(lane) = lane {
            let is_to_retry = matches!(committed, Err(CommitError::Conflict | CommitError::Unknown));
            if lane.is_retrying.swap(is_to_retry, Relaxed) {
                counters.retries.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Engine for Fdb {
    fn lanes_count(&self) -> u16 {
        LANES_COUNT
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        let of_lane = self.lanes.get(usize::from(lane));
        let in_flight = InFlight::enter(of_lane.map(|lane| &lane.is_busy), lane);
        let committed = self.attempt(body);
        self.count(of_lane, &committed);
        drop(in_flight);
        committed
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        Ok(Box::new(View::new(self.session(true)?)))
    }

    fn gauges(&self) -> Vec<(&'static str, f64)> {
        let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        let seconds = |counter: &AtomicU64| counter.load(Relaxed) as f64 / 1e9;
        let counters = &self.counters;
        vec![
            ("store_commits", count(&counters.commits)),
            ("store_commit_seconds", seconds(&counters.commit_ns)),
            ("store_conflicts", count(&counters.conflicts)),
            ("store_unknown_results", count(&counters.unknown)),
            ("store_retries", count(&counters.retries)),
            ("store_too_large", count(&counters.too_large)),
            ("store_slow", count(&counters.slow)),
            ("store_too_old", count(&counters.too_old)),
            ("store_reads", count(&counters.reads)),
            ("store_read_seconds", seconds(&counters.read_ns)),
        ]
    }
}

/// A code and what FoundationDB says about it.
fn describe(error: FdbError) -> String {
    format!("FoundationDB error {}: {}", error.code(), error.message())
}

impl Counters {
    /// A read, or what has to come before one, failed.
    pub(super) fn read_failed(&self, error: FdbError) -> ReadError {
        if error.code() == codes::TOO_OLD {
            self.too_old.fetch_add(1, Relaxed);
        }
        codes::of_read(error.code(), error.message())
    }
}
