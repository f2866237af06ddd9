//! Segments before and after their use: zeros really written and synced ahead of need, so that appending never has to
//! allocate; and, when the tables hold all of a segment's rows, its file made into a new segment.
//!
//! Invariants: segment files bear consecutive indexes without a gap, at every moment and after every crash: a file gets
//! its name only when its header and zeros are durable, and loses it, oldest first, before its bytes are touched. Only
//! [`Shelf::step`] creates, renames and removes, and it runs on one thread at a time.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::{Disk, DiskFile, write_all_at};
use super::fault::Fault;
use super::format::{HEADER_BYTES, SegmentHeader, StoreId};

/// Segments kept ready. One is enough: it is taken when the one before it is full, and the next is made while it fills.
const READY_COUNT: usize = 1;
/// Segments whose rows the tables hold, kept to be made anew; more than these are removed.
const SPARE_COUNT: u64 = 1;
/// Zeros are written in pieces of this size, each synced, so that a commit's own sync never waits for a whole segment.
const ZERO_BYTES: usize = 1 << 20;
/// How long a commit waits for a ready segment before it looks again whether the store has failed.
const READY_WAIT: Duration = Duration::from_millis(50);
/// The name a file bears while it is being made into a segment.
const UNFINISHED: &str = "unfinished.tmp";

/// A segment open for appending.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: Box<dyn DiskFile>,
}

/// The file name of the segment with this index.
pub(super) fn file_name(index: u64) -> String {
    format!("{index:08}.seg")
}

/// The index of a segment file by its name; `None` for a file that is not ours.
pub(super) fn file_index(name: &str) -> Option<u64> {
    let index = name.strip_suffix(".seg")?.parse().ok()?;
    (file_name(index) == name).then_some(index)
}

/// Why there is no segment to append to.
#[derive(Debug)]
pub(super) enum NoSegment {
    /// Free space is below the reserve and there is no old segment to make anew.
    Full,
    /// The store has failed or is closing.
    Fatal(String),
}

/// What the shelf needs to know about its store.
#[derive(Debug)]
pub(super) struct ShelfOptions {
    pub(super) disk: Arc<dyn Disk>,
    /// The directory of the segments.
    pub(super) dir: PathBuf,
    pub(super) store: StoreId,
    /// The length of segments made from now on.
    pub(super) segment_bytes: u64,
    /// Below this much free space no new file is made.
    pub(super) reserve_bytes: u64,
    /// Steps are run by whoever needs them, not by a thread.
    pub(super) inline: bool,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Segment>,
    /// The oldest segment there is.
    oldest: u64,
    /// Segments below this one hold nothing that the tables do not.
    released_below: u64,
    /// The index of the next segment to be made.
    next: u64,
    /// The last attempt to make one found too little space.
    starved: bool,
    stop: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shelf {
    options: ShelfOptions,
    fault: Arc<Fault>,
    state: Mutex<State>,
    changed: Condvar,
}

enum Work {
    Recycle { index: u64, to: u64 },
    Create { to: u64 },
    Remove { index: u64 },
}

impl Shelf {
    /// A shelf over the segments found at opening: `oldest` is the first index there is, `next` the first free one.
    pub(super) fn new(
        options: ShelfOptions,
        fault: Arc<Fault>,
        oldest: u64,
        next: u64,
        ready: VecDeque<Segment>,
    ) -> Self {
        let state = State { ready, oldest, released_below: oldest, next, starved: false, stop: false };
        Shelf { options, fault, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The largest record that a segment can hold.
    pub(super) fn record_bytes_max(&self) -> u64 {
        self.options.segment_bytes.saturating_sub(HEADER_BYTES as u64)
    }

    /// How many segment files there are.
    pub(super) fn segments_count(&self) -> u64 {
        let state = self.lock();
        state.next - state.oldest
    }

    /// Says that the tables hold every row of the segments below `index`.
    pub(super) fn release_below(&self, index: u64) {
        let mut state = self.lock();
        state.released_below = state.released_below.max(index);
        drop(state);
        self.changed.notify_all();
    }

    /// The next segment; waits until it is ready (bound: the time it takes to write one).
    ///
    /// # Errors
    /// See [`NoSegment`]. Nothing was written.
    pub(super) fn take(&self) -> Result<Segment, NoSegment> {
        let mut state = self.lock();
        // Ends: step makes a segment, or says that it is starved, or the store has failed.
        loop {
            if let Some(segment) = state.ready.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Ok(segment);
            }
            if let Some(reason) = self.fault.reason() {
                return Err(NoSegment::Fatal(reason));
            }
            if state.stop {
                return Err(NoSegment::Fatal("the store is closed".to_owned()));
            }
            if state.starved {
                state.starved = false;
                drop(state);
                self.changed.notify_all();
                return Err(NoSegment::Full);
            }
            if self.options.inline {
                drop(state);
                self.step().map_err(|error| {
                    NoSegment::Fatal(self.fault.trip(&format!("no segment could be prepared: {error}")))
                })?;
                state = self.lock();
            } else {
                self.changed.notify_all();
                state = wait(&self.changed, state, READY_WAIT);
            }
        }
    }

    /// Stops [`Shelf::run`] and every wait.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Prepares segments until stopped or until something fails, which stops the store (G14).
    pub(super) fn run(&self) {
        while self.fault.reason().is_none() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => {
                    let state = self.lock();
                    if state.stop {
                        return;
                    }
                    if work(&state).is_none() || state.starved {
                        drop(wait(&self.changed, state, Duration::from_millis(200)));
                    }
                }
                Err(error) => {
                    self.fault.trip(&format!("no segment could be prepared: {error}"));
                    self.changed.notify_all();
                    return;
                }
            }
            if self.lock().stop {
                return;
            }
        }
    }

    /// Does one piece of work: makes one segment or removes one. `false` when there is nothing to do or no space to do
    /// it in.
    ///
    /// # Errors
    /// What the file system said; the store may not go on.
    pub(super) fn step(&self) -> io::Result<bool> {
        let Some(work) = work(&self.lock()) else { return Ok(false) };
        let dir = &self.options.dir;
        match work {
            Work::Remove { index } => {
                self.options.disk.remove(&dir.join(file_name(index)))?;
                self.options.disk.sync_dir(dir)?;
                self.lock().oldest = index + 1;
            }
            Work::Recycle { index, to } => {
                let path = dir.join(UNFINISHED);
                self.options.disk.rename(&dir.join(file_name(index)), &path)?;
                // Before its bytes change, the old name has to be gone for good.
                self.options.disk.sync_dir(dir)?;
                self.lock().oldest = index + 1;
                let file = self.options.disk.open(&path)?;
                if file.bytes()? == self.options.segment_bytes {
                    self.finish(file, &path, to)?;
                } else {
                    // The setting has changed since it was made.
                    self.options.disk.remove(&path)?;
                }
            }
            Work::Create { to } => {
                let free_bytes = self.options.disk.free_bytes(dir)?;
                if free_bytes < self.options.reserve_bytes.saturating_add(self.options.segment_bytes) {
                    self.lock().starved = true;
                    self.changed.notify_all();
                    return Ok(false);
                }
                let path = dir.join(UNFINISHED);
                let file = self.options.disk.create(&path)?;
                self.finish(file, &path, to)?;
            }
        }
        self.changed.notify_all();
        Ok(true)
    }

    /// Zeros the file, writes its header, makes both durable, and only then gives it its name.
    fn finish(&self, file: Box<dyn DiskFile>, path: &Path, index: u64) -> io::Result<()> {
        let header = new_header(&*self.options.disk, self.options.store, index, self.options.segment_bytes)?;
        write_segment(&*file, &header)?;
        self.options.disk.rename(path, &self.options.dir.join(file_name(index)))?;
        self.options.disk.sync_dir(&self.options.dir)?;
        let mut state = self.lock();
        state.next = index + 1;
        state.starved = false;
        state.ready.push_back(Segment { header, file });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most urgent piece of work.
fn work(state: &State) -> Option<Work> {
    let spare_count = state.released_below.saturating_sub(state.oldest);
    if state.ready.len() < READY_COUNT {
        let to = state.next;
        return Some(if spare_count > 0 {
            Work::Recycle { index: state.oldest, to }
        } else {
            Work::Create { to }
        });
    }
    (spare_count > SPARE_COUNT).then_some(Work::Remove { index: state.oldest })
}

/// Makes the first segment of a new store.
pub(super) fn create_first(
    disk: &dyn Disk,
    dir: &Path,
    store: StoreId,
    segment_bytes: u64,
) -> io::Result<Segment> {
    let header = new_header(disk, store, 1, segment_bytes)?;
    let path = dir.join(UNFINISHED);
    let file = disk.create(&path)?;
    write_segment(&*file, &header)?;
    disk.rename(&path, &dir.join(file_name(1)))?;
    disk.sync_dir(dir)?;
    Ok(Segment { header, file })
}

/// Removes what a crash left half made. Says whether `name` was such a file.
pub(super) fn remove_unfinished(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<bool> {
    if name != UNFINISHED {
        return Ok(false);
    }
    disk.remove(&dir.join(name))?;
    Ok(true)
}

fn new_header(disk: &dyn Disk, store: StoreId, index: u64, bytes: u64) -> io::Result<SegmentHeader> {
    let mut epoch = [0; 8];
    disk.random(&mut epoch)?;
    Ok(SegmentHeader { store, index, epoch: u64::from_le_bytes(epoch), bytes })
}

/// Header and zeros, durable; `header.bytes` is more than the header's page, see [`super::SEGMENT_BYTES_MIN`].
fn write_segment(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES];
    let page = header.encode();
    write_all_at(file, &page, 0)?;
    let mut offset = page.len() as u64;
    while offset < header.bytes {
        let count = zeros.len().min(usize::try_from(header.bytes - offset).unwrap_or(usize::MAX));
        write_all_at(file, zeros.get(..count).unwrap_or_default(), offset)?;
        file.sync_data()?;
        offset += count as u64;
    }
    Ok(())
}

/// Waits on `condvar`; wakes after `timeout` at the latest.
pub(super) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}
