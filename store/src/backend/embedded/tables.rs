//! The tables: fjall, fed with sorted runs, never through its own journal or memtables.
//!
//! Invariants: a run and the row `b/applied` that says up to which record the tables are complete become visible and
//! durable together, at `finish`; a run that was not finished is not there at the next opening. Before fjall opens its
//! files, its manifests are checked against the checksums it keeps beside them: it does not look at these itself, and a
//! flipped bit in a manifest would hide rows. Blocks are checked by fjall at every read.

use std::io;
use std::iter::Peekable;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::format::u64_at;
use super::overlay::Sealed;
use super::recover::Applied;
use crate::txn::Row;

/// The engine's own row. Keys that begin with [`OWN_PREFIX`] are never the user's, and no range shows them.
pub(super) const APPLIED_KEY: &[u8] = b"b/applied";
/// See [`APPLIED_KEY`].
pub(super) const OWN_PREFIX: &[u8] = b"b/";
const KEYSPACE: &str = "rows";
/// The file that fjall writes last when it makes a database.
const VERSION_FILE: &str = "version";
pub(super) const KEYSPACES_DIR: &str = "keyspaces";
const CURRENT_FILE: &str = "current";
/// The directory of a keyspace's tables, and the part of its manifest that lists them.
pub(super) const FILES_DIR: &str = "tables";

/// Sorted runs that wait to be merged, above which the next run waits too: reads get slower with each.
pub(super) const RUNS_MAX: usize = 24;

/// Why the tables did not do what they were asked for. All of these stop the store (G14).
#[derive(Debug)]
pub(super) struct TablesError(pub(super) String);

impl From<fjall::Error> for TablesError {
    fn from(error: fjall::Error) -> Self {
        TablesError(format!("the tables failed: {error:?}"))
    }
}

/// What lies in the directory of the tables.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing at all.
    Nothing,
    /// A database whose manifests are as they were written.
    Whole,
    /// Something that cannot be opened as it is: never finished, or damaged. The log tells which.
    Broken(String),
}

/// Looks at the directory without opening or changing anything.
pub(super) fn look(dir: &Path) -> io::Result<Found> {
    if !dir.try_exists()? {
        return Ok(Found::Nothing);
    }
    if !dir.join(VERSION_FILE).try_exists()? {
        return Ok(Found::Broken("tables/version is missing".to_owned()));
    }
    for entry in std::fs::read_dir(dir.join(KEYSPACES_DIR))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir()
            && let Some(wrong) = check_manifest(&entry.path())?
        {
            return Ok(Found::Broken(format!("tables/{KEYSPACES_DIR}/{name}/{wrong}")));
        }
    }
    Ok(Found::Whole)
}

/// A keyspace's files, as its manifest lists them: name and xxh3 checksum of all bytes. Only of a manifest that is whole.
pub(super) fn listed_files(dir: &Path) -> io::Result<Vec<(String, u128)>> {
    let current = std::fs::read(dir.join(CURRENT_FILE))?;
    let manifest = dir.join(format!("v{}", u64_at(&current, 0).unwrap_or_default()));
    let reader = sfa::Reader::new(&manifest).map_err(|error| io::Error::other(format!("{error:?}")))?;
    let mut bytes = Vec::new();
    if let Some(section) = reader.toc().section(FILES_DIR.as_bytes()) {
        io::Read::read_to_end(&mut section.buf_reader(&manifest)?, &mut bytes)?;
    }
    parse_files(&bytes).ok_or_else(|| io::Error::other("the manifest lists its tables in another way"))
}

/// `levels u8, each: runs u8, each: tables u32, each: number u64, 0 u8, checksum u128, first seqno u64`.
fn parse_files(mut bytes: &[u8]) -> Option<Vec<(String, u128)>> {
    let mut files = Vec::new();
    let [levels_count] = *take(&mut bytes)?;
    for _ in 0..levels_count {
        let [runs_count] = *take(&mut bytes)?;
        for _ in 0..runs_count {
            let tables_count = u32::from_le_bytes(*take(&mut bytes)?);
            for _ in 0..tables_count {
                let number = u64::from_le_bytes(*take(&mut bytes)?);
                let [0] = *take(&mut bytes)? else { return None };
                let checksum = u128::from_le_bytes(*take(&mut bytes)?);
                let _: &[u8; 8] = take(&mut bytes)?;
                files.push((number.to_string(), checksum));
            }
        }
    }
    bytes.is_empty().then_some(files)
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

/// Compares a keyspace's manifest with the checksum in the file that names it; says what is wrong.
fn check_manifest(dir: &Path) -> io::Result<Option<String>> {
    let current = match std::fs::read(dir.join(CURRENT_FILE)) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some("current is missing".to_owned()));
        }
        Err(error) => return Err(error),
    };
    // The manifest's number u64, its xxh3 checksum u128, a zero byte.
    let (Some(number), Some(checksum), 25) = (u64_at(&current, 0), current.get(8..24), current.len()) else {
        return Ok(Some("current is not what the tables write".to_owned()));
    };
    let name = format!("v{number}");
    let manifest = match std::fs::read(dir.join(&name)) {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("{name} is missing")));
        }
        Err(error) => return Err(error),
    };
    let is_whole = xxhash_rust::xxh3::xxh3_128(&manifest).to_le_bytes() == *checksum;
    Ok((!is_whole).then(|| format!("{name} does not match its checksum")))
}

/// See the head of this file.
pub(super) struct Tables {
    database: Database,
    rows: Keyspace,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Tables {
    /// Opens or creates the tables in `dir`.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Tables, TablesError> {
        Tables::open_with(dir, cache_bytes, 1)
    }

    /// Opens them without anybody who merges runs.
    pub(super) fn open_still(dir: &Path, cache_bytes: u64) -> Result<Tables, TablesError> {
        Tables::open_with(dir, cache_bytes, 0)
    }

    fn open_with(dir: &Path, cache_bytes: u64, workers_count: usize) -> Result<Tables, TablesError> {
        // fjall answers some kinds of damage with a panic.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder(dir)
                .cache_size(cache_bytes)
                .worker_threads_unchecked(workers_count)
                .manual_journal_persist(true)
                .open()?;
            let rows = database.keyspace(KEYSPACE, KeyspaceCreateOptions::default)?;
            Ok::<_, fjall::Error>(Tables { database, rows })
        }));
        match opened {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(TablesError(
                "the tables could not be read: a file of theirs is not what they wrote".to_owned(),
            )),
        }
    }

    /// Up to where the tables are complete; `None` before the first run.
    pub(super) fn applied(&self) -> Result<Option<Applied>, TablesError> {
        let Some(value) = self.database.snapshot().get(&self.rows, APPLIED_KEY)? else { return Ok(None) };
        match Applied::decode(&value) {
            Some(applied) => Ok(Some(applied)),
            None => Err(TablesError("the row b/applied cannot be read".to_owned())),
        }
    }

    /// Everything that is in the tables now.
    pub(super) fn snapshot(&self) -> TablesView {
        TablesView { snapshot: self.database.snapshot(), rows: self.rows.clone() }
    }

    /// How many sorted runs wait to be merged.
    pub(super) fn runs_count(&self) -> usize {
        self.rows.l0_table_count()
    }

    /// Bytes of the tables' files.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.rows.disk_space()
    }

    /// Whether the tables' own background work failed.
    pub(super) fn check(&self) -> Result<(), TablesError> {
        // The cheapest question that looks at its flag; its journal is empty.
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    /// Adds one run: the newest version of each row of `generations` (the newest generation first), and `applied`. When
    /// this returns `Ok` all of it is visible and durable.
    pub(super) fn ingest(&self, generations: &[Sealed<'_>], applied: &Applied) -> Result<u64, TablesError> {
        let mut ingestion = self.rows.start_ingestion()?;
        let mut applied = Some(applied.encode());
        let mut rows_count = 0;
        // Mostly it is one generation: nothing is compared with anything.
        let rows = Merged { heads: generations.iter().map(|rows| rows.iter().peekable()).collect() };
        for (key, value) in rows {
            if key > APPLIED_KEY
                && let Some(applied) = applied.take()
            {
                ingestion.write(APPLIED_KEY, applied.as_slice())?;
            }
            rows_count += 1;
            match value {
                Some(value) => ingestion.write(key, value)?,
                None => ingestion.write_tombstone(key)?,
            }
        }
        if let Some(applied) = applied.take() {
            ingestion.write(APPLIED_KEY, applied.as_slice())?;
        }
        ingestion.finish()?;
        Ok(rows_count)
    }

    /// Fills new tables with rows from elsewhere, which come ascending until there are none, and `applied`. When this
    /// returns `Ok` all of it is durable.
    pub(super) fn fill<E: From<TablesError>>(
        &self,
        applied: &Applied,
        mut next: impl FnMut() -> Result<Option<Row>, E>,
    ) -> Result<(), E> {
        let failed = |error: fjall::Error| E::from(TablesError::from(error));
        let mut ingestion = self.rows.start_ingestion().map_err(failed)?;
        let mut applied = Some(applied.encode());
        while let Some((key, value)) = next()? {
            if &key[..] > APPLIED_KEY
                && let Some(applied) = applied.take()
            {
                ingestion.write(APPLIED_KEY, applied.as_slice()).map_err(failed)?;
            }
            ingestion.write(&key[..], &value[..]).map_err(failed)?;
        }
        if let Some(applied) = applied.take() {
            ingestion.write(APPLIED_KEY, applied.as_slice()).map_err(failed)?;
        }
        ingestion.finish().map_err(failed)
    }
}

/// The rows of several generations, the newest first: each key once, ascending, as the newest generation has it.
struct Merged<I: Iterator> {
    heads: Vec<Peekable<I>>,
}

impl<'a, I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>> Iterator for Merged<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if let [only] = &mut self.heads[..] {
            return only.next();
        }
        // The lowest key; of equal ones the newest generation's, which comes first.
        let lowest = self.heads.iter_mut().filter_map(|head| head.peek().map(|row| row.0)).min()?;
        let mut newest = None;
        for head in &mut self.heads {
            let row = head.next_if(|row| row.0 == lowest);
            newest = newest.or(row);
        }
        newest
    }
}

/// The tables as they were at one moment.
pub(super) struct TablesView {
    snapshot: Snapshot,
    rows: Keyspace,
}

impl TablesView {
    /// The value of `key`. The bytes are a copy, so that a small row never keeps a block alive.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TablesError> {
        if key == APPLIED_KEY {
            return Ok(None);
        }
        Ok(self.snapshot.get(&self.rows, key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The rows with `from <= key < to`; `from < to` is the caller's duty.
    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> fjall::Iter {
        self.snapshot.range(&self.rows, from..to)
    }
}
