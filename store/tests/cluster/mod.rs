//! Where the cluster is that `CARILLON_TEST_FDB_CLUSTER` names, and stores in it that leave nothing behind.

#![expect(
    clippy::disallowed_methods,
    reason = "where the cluster is comes from the environment, names from the clock"
)]

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use carillon_store::backend::fdb::{Fdb, Options};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::figures::Figure;
use carillon_store::txn::{Abort, Body, Engine, Read};

/// The cluster file, or nothing, said aloud: a test that is skipped must not look like one that passed.
pub fn cluster_file() -> Option<String> {
    let cluster_file = std::env::var("CARILLON_TEST_FDB_CLUSTER").ok();
    if cluster_file.is_none() {
        // Not by a macro: what those print is kept back when a test passes.
        let said = "skipped: CARILLON_TEST_FDB_CLUSTER names no cluster file\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    cluster_file
}

/// A name that no other store of the cluster has.
pub fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("carillon-test-{now:x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn open(cluster_file: &str, key_prefix: &str) -> Fdb {
    let options = Options { cluster_file: cluster_file.to_owned(), key_prefix: key_prefix.to_owned() };
    Fdb::open(&options).unwrap()
}

/// A store that leaves nothing behind.
pub struct Cleared(pub Fdb);

impl Drop for Cleared {
    fn drop(&mut self) {
        // What failed is left to be looked at.
        if std::thread::panicking() {
            return;
        }
        let mut troubles_left = 100;
        loop {
            match self.clear_some() {
                Ok(0) => return,
                Ok(_) => {}
                Err(trouble) if troubles_left == 0 => panic!("cannot be cleared: {trouble}"),
                // Clearing twice does no harm, and a cluster may have troubles of its own.
                Err(_) => troubles_left -= 1,
            }
        }
    }
}

impl Cleared {
    /// How many rows it found and cleared.
    fn clear_some(&self) -> Result<usize, CommitError> {
        let rows = self.0.snapshot().and_then(|mut snapshot| snapshot.range(b"", b"\xff", 1_000, false));
        let rows = rows.map_err(|error| CommitError::from(Abort::from(error)))?;
        self.0.commit(0, &mut |txn| {
            rows.iter().for_each(|(key, _)| txn.clear(key.clone()));
            Ok(())
        })?;
        Ok(rows.len())
    }
}

impl Engine for Cleared {
    fn lanes_count(&self) -> u16 {
        self.0.lanes_count()
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        self.0.commit(lane, body)
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        self.0.snapshot()
    }

    fn figures(&self) -> Vec<Figure> {
        self.0.figures()
    }
}
