//! What the tests of the embedded engine share: a seeded generator, a model and a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options, RealDisk, Upkeep};
use carillon_store::error::CommitError;
use carillon_store::txn::{Engine, Read};

/// Rows as the engine has to show them.
pub(crate) type Model = BTreeMap<Bytes, Bytes>;
/// What one commit changes.
pub(crate) type Batch = BTreeMap<Bytes, Option<Bytes>>;

/// A small generator (splitmix64): the same seed, the same test.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seed to run: `CARILLON_SEED`, or the one given. `CARILLON_CASES` runs more cases than the default.
pub(crate) fn seeds(first: u64, count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("CARILLON_SEED") {
        Some(seed) => vec![seed],
        None => (first..first + number("CARILLON_CASES").unwrap_or(count)).collect(),
    }
}

/// Runs one case per seed; a failure prints the command that repeats it.
pub(crate) fn each_seed(test: &str, first: u64, count: u64, mut case: impl FnMut(u64)) {
    for seed in seeds(first, count) {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(seed)));
        if let Err(panic) = failed {
            eprintln!("repeat with: CARILLON_SEED={seed} cargo test -p carillon-store {test}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A directory in memory where there is one: what is tested is order, not the speed of a disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("a directory")
    } else {
        tempfile::tempdir().expect("a directory")
    }
}

/// Small sizes, so that segments turn over and runs are written within a few commits.
pub(crate) fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        overlay_bytes: 64 << 10,
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        upkeep: Upkeep::Inline,
        disk: Arc::new(RealDisk),
    }
}

/// Commits a batch.
pub(crate) fn commit(engine: &Embedded, batch: &Batch) -> Result<(), CommitError> {
    engine.commit(0, &mut |txn| {
        for (key, value) in batch {
            match value {
                Some(value) => txn.set(key.clone(), value.clone()),
                None => txn.clear(key.clone()),
            }
        }
        Ok(())
    })
}

/// What the batch makes of the model.
pub(crate) fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// Everything a snapshot shows.
pub(crate) fn contents(engine: &Embedded) -> Model {
    all_rows(&mut *engine.snapshot().expect("a snapshot"))
}

/// Everything this view shows.
pub(crate) fn all_rows(view: &mut dyn Read) -> Model {
    view.range(b"", b"\xff", usize::MAX, false).expect("a range").into_iter().collect()
}
