//! A backup: everything that one snapshot shows, written as a new store that a server can be started on.
//!
//! It goes through the snapshot and not through files. So it is consistent without holding up a commit, each block of it was
//! read and found right on the way, it knows nothing of how the tables arrange their files, and what was not merged yet is
//! merged in the copy. It costs reading and writing everything once.
//!
//! # Invariants
//! - What bears the name of a store is whole and durable: until then it has another one.
//! - The copy is a store of its own, with an id of its own: no file of it is taken for one of the original.

use std::io;
use std::path::Path;

use super::clean;
use super::disk::{Disk, RealDisk};
use super::format::StoreId;
use super::open::{LOCK_FILE, LOG_DIR, TABLES_DIR};
use super::recover::Applied;
use super::shelf;
use super::tables::{Tables, TablesError};
use super::{Options, SEGMENT_BYTES_MIN};
use crate::error::ReadError;
use crate::keys;
use crate::txn::{Read, Row};

/// Rows that are read at once.
const PAGE_ROWS: usize = 256;
/// Free space is asked for again after so many bytes.
const SPACE_BYTES_MAX: u64 = 16 << 20;
/// What is being written, until it is whole.
const UNFINISHED: &str = "store.unfinished";
/// Then.
const STORE: &str = "store";

/// What a copy came to, or has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is something in the directory already. Nothing was written.
    #[error("{0} is not empty: a backup goes into a directory of its own")]
    NotEmpty(String),
    /// The disk of the copy would be left with less than the reserve.
    #[error("{free_bytes} bytes are free where the backup goes, and {reserve_bytes} have to stay free")]
    Full {
        /// Free there.
        free_bytes: u64,
        /// What has to stay.
        reserve_bytes: u64,
    },
    /// The store could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The copy could not be written.
    #[error("the copy could not be written: {0}")]
    Write(String),
    /// Whoever watched did not want to go on.
    #[error("the backup was given up")]
    GivenUp,
}

impl From<TablesError> for CopyError {
    fn from(error: TablesError) -> Self {
        CopyError::Write(error.0)
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        CopyError::Write(error.to_string())
    }
}

/// Writes all that `read` shows as `store` in `into`, which is a data directory then, and leaves `reserve_bytes` free there.
/// `goes_on` hears how far it is, and may say no.
///
/// # Errors
/// See [`CopyError`]. What was begun stays under another name.
pub fn copy(
    read: &mut dyn Read,
    into: &Path,
    reserve_bytes: u64,
    goes_on: &mut dyn FnMut(&Copied) -> bool,
) -> Result<Copied, CopyError> {
    take_directory(into)?;
    let check_space = || {
        let free_bytes = RealDisk.free_bytes(into)?;
        if free_bytes < reserve_bytes { Err(CopyError::Full { free_bytes, reserve_bytes }) } else { Ok(()) }
    };
    check_space()?;
    let dir = into.join(UNFINISHED);
    std::fs::create_dir(&dir)?;
    let mut store = StoreId::default();
    RealDisk.random(&mut store)?;
    let applied = Applied { number: 0, segment: 1, store };

    let log_dir = dir.join(LOG_DIR);
    std::fs::create_dir(&log_dir)?;
    let segment_bytes = Options::default().segment_bytes.max(SEGMENT_BYTES_MIN);
    shelf::create_first(&RealDisk, &log_dir, store, segment_bytes)?;

    let mut copied = Copied::default();
    let tables = Tables::open(&dir.join(TABLES_DIR), Options::default().cache_bytes)?;
    let mut rows = Rows { read, from: vec![0].into(), page: Vec::new().into_iter(), is_read: false };
    let mut checked_bytes = 0;
    tables.fill(&applied, || {
        if copied.bytes - checked_bytes > SPACE_BYTES_MAX {
            checked_bytes = copied.bytes;
            check_space()?;
        }
        let row = rows.next(&mut || goes_on(&copied))?;
        if let Some((key, value)) = &row {
            copied.rows += 1;
            copied.bytes += (key.len() + value.len()) as u64;
        }
        Ok::<_, CopyError>(row)
    })?;
    drop(tables);

    std::fs::File::create(dir.join(LOCK_FILE))?.sync_all()?;
    // As after a clean stop: that there is nothing in the log is how it has to be.
    clean::write(&RealDisk, &dir, &store, applied.number)?;
    RealDisk.sync_dir(&dir)?;
    std::fs::rename(&dir, into.join(STORE))?;
    RealDisk.sync_dir(into)?;
    Ok(copied)
}

/// Makes the directory, or takes one that is empty.
fn take_directory(into: &Path) -> Result<(), CopyError> {
    match std::fs::create_dir(into) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(into)?.next().is_some() {
                return Err(CopyError::NotEmpty(into.display().to_string()));
            }
        }
        Err(error) => return Err(CopyError::Write(format!("{}: {error}", into.display()))),
    }
    // Its name in the directory above.
    if let Some(above) = into.canonicalize()?.parent() {
        RealDisk.sync_dir(above)?;
    }
    Ok(())
}

/// All rows of a snapshot, page by page.
struct Rows<'r> {
    read: &'r mut dyn Read,
    from: bytes::Bytes,
    page: std::vec::IntoIter<Row>,
    is_read: bool,
}

impl Rows<'_> {
    fn next(&mut self, goes_on: &mut dyn FnMut() -> bool) -> Result<Option<Row>, CopyError> {
        if self.page.len() == 0 && !self.is_read {
            if !goes_on() {
                return Err(CopyError::GivenUp);
            }
            let page = self.read.range(&self.from, &[u8::MAX], PAGE_ROWS, false)?;
            self.is_read = page.len() < PAGE_ROWS;
            if let Some((key, _)) = page.last() {
                self.from = keys::after(key);
            }
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
