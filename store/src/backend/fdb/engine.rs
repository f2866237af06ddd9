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
use crate::figures::{self, Attempts, Figure, Times};
use crate::txn::{Body, Engine, Read};

/// The engine. See the head of the module.
pub struct Fdb {
    database: Database,
    prefix: Prefix,
    /// For each lane, the control lane being the last: whether a commit is in flight there.
    lanes: [AtomicBool; ALL_LANES_COUNT],
    attempts: Attempts,
    counters: Counters,
}

const ALL_LANES_COUNT: usize = LANES_COUNT as usize + 1;

/// What happened, in numbers.
#[derive(Default)]
pub(super) struct Counters {
    /// From sending a commit to its answer.
    pub(super) commits: Times,
    /// From asking whether an answer is there to having it.
    pub(super) reads: Times,
    pub(super) too_old: AtomicU64,
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
        let fdb = Fdb {
            database,
            prefix,
            lanes: Default::default(),
            attempts: Attempts::new(ALL_LANES_COUNT),
            counters: Counters::default(),
        };
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
}

impl Engine for Fdb {
    fn lanes_count(&self) -> u16 {
        LANES_COUNT
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        let in_flight = InFlight::enter(self.lanes.get(usize::from(lane)), lane);
        let committed = self.attempt(body);
        self.attempts.ended(lane, &committed);
        drop(in_flight);
        committed
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        Ok(Box::new(View::new(self.session(true)?)))
    }

    fn figures(&self) -> Vec<Figure> {
        let Counters { commits, reads, too_old } = &self.counters;
        let mut figures = self.attempts.figures().to_vec();
        figures.extend([
            figures::too_old(too_old),
            commits.figure("store_commit_seconds", "From sending one commit to its answer, whatever it is"),
            reads.figure("store_read_seconds", "How long one answer to a read, or a version, was waited for"),
        ]);
        figures
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
