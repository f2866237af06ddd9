//! F8, F12, G14: a disk that answers with errors. The first one ends it: nothing is written or synced after it, nothing
//! is acknowledged; a disk that is merely full refuses and goes on by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::sim::options_on;
use super::support::{Batch, Model, commit, contents, scratch};
use bytes::Bytes;
use carillon_store::backend::embedded::{Disk, DiskFile, Embedded, RealDisk};
use carillon_store::error::CommitError;
use carillon_store::txn::Engine;

/// What the disk does wrong.
#[derive(Debug, Default)]
struct Plan {
    /// Writes until one fails, or is short and then fails; 0 is never.
    write_fails: AtomicU64,
    is_short: std::sync::atomic::AtomicBool,
    /// Syncs until one fails; 0 is never.
    sync_fails: AtomicU64,
    free_bytes: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
}

/// The real disk, but for the plan.
#[derive(Clone, Debug, Default)]
struct FaultyDisk(Arc<Plan>);

#[derive(Debug)]
struct FaultyFile(Arc<Plan>, Box<dyn DiskFile>);

/// Counts down to the operation that fails.
fn is_due(counter: &AtomicU64) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(self.0.clone(), RealDisk.open(path)?)))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(self.0.clone(), RealDisk.create(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Relaxed))
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        RealDisk.random(bytes)
    }
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> io::Result<u64> {
        self.1.bytes()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.writes.fetch_add(1, Relaxed);
        if is_due(&self.0.write_fails) {
            if self.0.is_short.swap(false, Relaxed) {
                self.0.write_fails.store(1, Relaxed);
                return self.1.write_at(&bytes[..bytes.len() / 2], offset);
            }
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        self.1.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Relaxed);
        if is_due(&self.0.sync_fails) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.1.sync_data()
    }
}

fn batch(round: u8) -> Batch {
    Batch::from([(Bytes::from(vec![b'k', round]), Some(Bytes::from(vec![round; 300])))])
}

fn model(rounds: u8) -> Model {
    (0..rounds).map(|round| (Bytes::from(vec![b'k', round]), Bytes::from(vec![round; 300]))).collect()
}

/// F8, G14: whichever write or sync fails, the store stops at once, touches the disk no more, and a restart recovers.
#[test]
fn f8_g14_the_first_error_is_final() {
    for (what, is_short) in [("write", false), ("write", true), ("sync", false)] {
        for nth in [1, 2, 7] {
            let dir = scratch();
            let disk = FaultyDisk::default();
            disk.0.free_bytes.store(u64::MAX, Relaxed);
            let engine = Embedded::open(dir.path(), options_on(disk.clone())).expect("opens");
            let counter = if what == "write" { &disk.0.write_fails } else { &disk.0.sync_fails };
            counter.store(nth, Relaxed);
            disk.0.is_short.store(is_short, Relaxed);
            let mut acknowledged = 0;
            let failed = loop {
                match commit(&engine, &batch(acknowledged)) {
                    Ok(()) => acknowledged += 1,
                    Err(error) => break error,
                }
                assert!(acknowledged < 20, "{what} {nth}: no error came up");
            };
            assert!(matches!(failed, CommitError::Fatal(_)), "{what} {nth}: {failed:?}");
            let (writes, syncs) = (disk.0.writes.load(Relaxed), disk.0.syncs.load(Relaxed));
            for _ in 0..3 {
                let later = commit(&engine, &batch(200));
                assert!(matches!(later, Err(CommitError::Fatal(_))), "{what} {nth}: {later:?}");
            }
            assert!(matches!(engine.idle(), Err(CommitError::Fatal(_))));
            assert!(matches!(engine.close(), Err(CommitError::Fatal(_))));
            assert!(engine.snapshot().is_err(), "a stopped store answers nothing");
            let after = (disk.0.writes.load(Relaxed), disk.0.syncs.load(Relaxed));
            assert_eq!(after, (writes, syncs), "{what} {nth}: the disk was touched again");
            drop(engine);
            let engine = Embedded::open(dir.path(), options_on(disk.clone())).expect("a restart recovers");
            let found = contents(&engine);
            let possible = [model(acknowledged), model(acknowledged + 1)];
            assert!(
                possible.contains(&found),
                "{what} {nth}: {} rows, {acknowledged} acknowledged",
                found.len()
            );
        }
    }
}

/// F12: below the reserve commits are refused, nothing is written, reads go on; and it resumes by itself.
#[test]
fn f12_a_full_disk_refuses_and_resumes() {
    let dir = scratch();
    let disk = FaultyDisk::default();
    disk.0.free_bytes.store(10 << 20, Relaxed);
    let options =
        carillon_store::backend::embedded::Options { reserve_bytes: 1 << 20, ..options_on(disk.clone()) };
    let engine = Embedded::open(dir.path(), options).expect("opens");
    commit(&engine, &batch(0)).expect("there is space");
    disk.0.free_bytes.store((1 << 20) - 1, Relaxed);
    // What is known about free space may be 100 ms old.
    let began = std::time::Instant::now();
    let mut rounds = 1_u8;
    let refused = loop {
        match commit(&engine, &batch(rounds)) {
            Ok(()) => rounds = rounds.wrapping_add(1),
            Err(error) => break error,
        }
        assert!(began.elapsed().as_secs() < 5, "not refused");
        std::thread::yield_now();
    };
    assert!(
        matches!(refused, CommitError::Full { free_bytes: 1_048_575, reserve_bytes: 1_048_576 }),
        "{refused:?}"
    );
    let writes = disk.0.writes.load(Relaxed);
    let before = contents(&engine);
    assert!(matches!(commit(&engine, &batch(251)), Err(CommitError::Full { .. })));
    assert_eq!(disk.0.writes.load(Relaxed), writes, "nothing is written");
    assert_eq!(contents(&engine), before, "reads go on, and see nothing of it");
    disk.0.free_bytes.store(10 << 20, Relaxed);
    while let Err(error) = commit(&engine, &batch(251)) {
        assert!(matches!(error, CommitError::Full { .. }), "{error:?}");
        assert!(began.elapsed().as_secs() < 10, "does not resume");
        std::thread::yield_now();
    }
    assert!(contents(&engine).contains_key(&vec![b'k', 251][..]));
}

/// F12 at the end of a segment: with no space for the next one the commit is refused, and goes through later.
#[test]
fn f12_no_space_for_a_segment_is_full_not_fatal() {
    let dir = scratch();
    let disk = FaultyDisk::default();
    disk.0.free_bytes.store(u64::MAX, Relaxed);
    let engine = Embedded::open(dir.path(), options_on(disk.clone())).expect("opens");
    // Enough for the reserve of nothing, not enough for a segment.
    disk.0.free_bytes.store(100, Relaxed);
    let mut rounds = 0_u8;
    let refused = loop {
        match commit(&engine, &batch(rounds)) {
            Ok(()) => rounds += 1,
            Err(error) => break error,
        }
        assert!(rounds < 200, "a segment came from nowhere");
    };
    assert!(matches!(refused, CommitError::Full { .. }), "{refused:?}");
    assert_eq!(contents(&engine), model(rounds));
    disk.0.free_bytes.store(u64::MAX, Relaxed);
    commit(&engine, &batch(rounds)).expect("there is space again");
    drop(engine);
    let engine = Embedded::open(dir.path(), options_on(disk)).expect("opens");
    assert_eq!(contents(&engine), model(rounds + 1));
}
