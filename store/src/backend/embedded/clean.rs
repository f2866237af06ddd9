//! The word a clean stop leaves behind: which record is the last. Without it a damaged last record looks like a torn
//! one, which recovery may cut; with it the log has to reach that record, or is refused (G14).
//!
//! Invariants: it is written after everything else, whole or not at all, and it is gone for good before the log is
//! appended to again.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, read_all, write_all_at};
use super::format::{StoreId, u64_at};

const NAME: &str = "clean";
const UNFINISHED: &str = "clean.tmp";
const MAGIC: [u8; 8] = *b"CARICLEN";
const BYTES: usize = 36;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Clean {
    /// The store was not stopped cleanly, or never ran.
    Absent,
    /// It was, and this is its last record.
    Last(u64),
    /// There is a file, but not one that this store wrote.
    Unreadable,
}

/// Reads it. Changes nothing.
pub(super) fn read(disk: &dyn Disk, dir: &Path, store: &StoreId) -> io::Result<Clean> {
    let file = match disk.open(&path(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Clean::Absent),
        Err(error) => return Err(error),
    };
    let bytes = read_all(&*file)?;
    Ok(decode(&bytes, store).map_or(Clean::Unreadable, Clean::Last))
}

/// Writes it: `last` is the last record, and durable.
pub(super) fn write(disk: &dyn Disk, dir: &Path, store: &StoreId, last: u64) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    let file = disk.create(&unfinished)?;
    write_all_at(&*file, &encode(store, last), 0)?;
    file.sync_data()?;
    disk.rename(&unfinished, &path(dir))?;
    disk.sync_dir(dir)
}

/// Takes it away, for good.
pub(super) fn remove(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove(&path(dir)) {
        Ok(()) => disk.sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn encode(store: &StoreId, last: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(store);
    bytes.extend_from_slice(&last.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], store: &StoreId) -> Option<u64> {
    let last = u64_at(bytes, 24)?;
    (bytes == encode(store, last)).then_some(last)
}
