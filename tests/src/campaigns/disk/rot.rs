//! Bits that flip and files that are cut, in the log and in the tables of a store at rest: what is read is what was
//! written, or the store says no.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carillon_node::prng::Prng;
use carillon_store::backend::embedded::{Embedded, Options, Stopped, Upkeep};
use carillon_store::conformance::conversation;
use carillon_store::conformance::world::World;
use carillon_store::txn::{Engine, Read, Row};
use carillon_store::verify::verify;

use super::super::{Run, Skipped, Tally};
use super::played;

/// Conversations in the store, each with some fifty operations of all kinds.
const CONVERSATIONS: u64 = 60;
/// Records at the end of the log that are cut at every byte.
const RECORDS_CUT: usize = 3;
/// Where the records of a segment begin.
const RECORDS_AT: usize = 4_096;
/// The least share of flips that have to be noticed: the rest lies in zeros, and in manifests that nobody reads any more.
const NOTICED_PERCENT: u64 = 50;

/// Files as they were, by their path below the store's directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;
type Rows = Vec<Row>;

/// F10, F11, G14.
///
/// # Errors
/// Never: it takes nothing that is not everywhere.
pub fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let wanted: u64 = run.pick(300, 10_000);
    let mut tally = Tally::default();
    // What the tables' own code says about damage is expected here.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let counts = played(&mut tally, |tally| {
        let mut counts = flips(run, wanted, tally)?;
        for is_clean in [true, false] {
            counts.cuts += cuts(is_clean, tally)?;
        }
        Ok(counts)
    });
    std::panic::set_hook(hook);
    if let Some(counts) = counts {
        tally.count_at_least("bits flipped", counts.flips, wanted);
        tally.count_at_least("noticed", counts.noticed, wanted * NOTICED_PERCENT / 100);
        tally.count_at_least("in files of the tables", counts.in_tables, wanted / 4);
        tally.count_at_least("cuts", counts.cuts, 100);
    }
    Ok(tally)
}

#[derive(Default)]
struct Counts {
    flips: u64,
    noticed: u64,
    in_tables: u64,
    cuts: u64,
}

/// A store at rest.
struct Store {
    directory: tempfile::TempDir,
    rows: Rows,
    files: Files,
}

impl Store {
    /// Made by the verbs: several segments and runs, stopped cleanly or not.
    fn new(is_clean: bool) -> Result<Store, String> {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = made.map_err(|error| error.to_string())?;
        let engine: Arc<dyn Engine> = Arc::new(open(directory.path())?);
        let mut world = World::begin(Arc::clone(&engine));
        for seed in 0..CONVERSATIONS {
            conversation::check(&mut world, seed);
        }
        drop(world);
        let ended = if is_clean { engine.close() } else { engine.idle() };
        ended.map_err(|error| error.to_string())?;
        let rows = rows(&mut *engine.snapshot().map_err(|error| error.to_string())?)?;
        drop(engine);
        let mut files = Files::new();
        read_files(directory.path(), Path::new(""), &mut files).map_err(|error| error.to_string())?;
        Ok(Store { directory, rows, files })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &Path, bytes: &[u8]) -> Result<(), String> {
        std::fs::write(self.path().join(name), bytes).map_err(|error| error.to_string())
    }

    /// Makes the directory what it was.
    fn restore(&self) -> std::io::Result<()> {
        let mut now = Files::new();
        read_files(self.path(), Path::new(""), &mut now)?;
        for name in now.keys().filter(|name| !self.files.contains_key(*name)) {
            std::fs::remove_file(self.path().join(name))?;
        }
        for (name, bytes) in self.files.iter().filter(|(name, bytes)| now.get(*name) != Some(bytes)) {
            std::fs::write(self.path().join(name), bytes)?;
        }
        Ok(())
    }

    /// Whether looking at the store notices anything; and that a start shows what was there, or refuses, which nobody who
    /// looked may have missed.
    fn judge(&self, what: &str, tally: &mut Tally) -> Result<bool, String> {
        let looked = quietly(|| look(self.path()));
        if let Ok(shown) = &looked
            && *shown != self.rows
        {
            tally.broken(format!("{what}: looking at it shows other rows, and nothing is wrong"));
        }
        let started = quietly(|| {
            let engine = open(self.path())?;
            rows(&mut *engine.snapshot().map_err(|error| error.to_string())?)
        });
        match &started {
            Ok(shown) if *shown != self.rows => {
                tally.broken(format!("{what}: it starts, and rows are missing or wrong, in silence"));
            }
            Err(words) if looked.is_ok() => {
                tally.broken(format!("{what}: a start is refused, and nobody who looked noticed: {words}"));
            }
            _ => {}
        }
        self.restore().map_err(|error| error.to_string())?;
        Ok(looked.is_err())
    }
}

fn open(dir: &Path) -> Result<Embedded, String> {
    let options = Options {
        segment_bytes: 256 << 10,
        overlay_bytes: 192 << 10,
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        upkeep: Upkeep::Inline,
        ..Options::default()
    };
    Embedded::open(dir, options).map_err(|error| error.to_string())
}

/// What `carillon store verify` does; the rows when nothing is wrong.
fn look(dir: &Path) -> Result<Rows, String> {
    let stopped = Stopped::hold(dir).map_err(|error| error.to_string())?;
    let wrong = stopped.check_files(&mut |_| {}).map_err(|error| error.to_string())?;
    if let Some(words) = wrong.into_iter().next() {
        return Err(words);
    }
    let engine = stopped.open().map_err(|error| error.to_string())?;
    let mut read = engine.snapshot().map_err(|error| error.to_string())?;
    let report = verify(&mut *read, 1, &mut |_| {});
    match report.findings.into_iter().next() {
        Some(words) => Err(words),
        None => rows(&mut *read),
    }
}

/// All rows.
fn rows(read: &mut dyn Read) -> Result<Rows, String> {
    read.range(&[0], &[u8::MAX], usize::MAX, false).map_err(|error| error.to_string())
}

/// Some damage makes the tables' own code panic: that is a refusal.
fn quietly<T>(act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err("a panic".to_owned()))
}

fn flips(run: &mut Run, wanted: u64, tally: &mut Tally) -> Result<Counts, String> {
    let store = Store::new(true)?;
    let mut prng = Prng::new(run.seed);
    let is_table = |name: &Path| name.starts_with("tables");
    let (tables, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
        store.files.keys().partition(|name| is_table(name));
    let mut counts = Counts::default();
    if store.judge("undamaged", tally)? {
        return Err("an undamaged store is said to be damaged".to_owned());
    }
    while counts.flips < wanted {
        run.progress(|| format!("{} of {wanted} bits, {} noticed", counts.flips, counts.noticed));
        let among = if prng.below(2) == 0 { &tables } else { &others };
        let name = among[prng.below(among.len() as u64) as usize];
        let mut bytes = store.files[name].clone();
        // Zeros are most of a segment: of two flips one is where there is something.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let within = if prng.below(2) == 0 { used } else { bytes.len() };
        if within == 0 {
            continue;
        }
        let bit = prng.below(within as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        store.write(name, &bytes)?;
        counts.flips += 1;
        counts.in_tables += u64::from(is_table(name));
        counts.noticed += u64::from(store.judge(&format!("bit {bit} of {}", name.display()), tally)?);
    }
    Ok(counts)
}

/// The last records cut at every byte, and zeroed from there: all of the rest after a clean stop, the rest of the record
/// after a crash. (A log without its last records is one that ended earlier, and only the word of a clean stop tells.) There
/// the very last is an empty one.
fn cuts(is_clean: bool, tally: &mut Tally) -> Result<u64, String> {
    let store = Store::new(is_clean)?;
    let in_use = |(name, bytes): &(&PathBuf, &Vec<u8>)| name.starts_with("log") && places(bytes).len() > 1;
    let (name, bytes) = store.files.iter().rfind(in_use).ok_or("no segment is in use")?;
    let places = places(bytes);
    let end = places.last().copied().unwrap_or(RECORDS_AT);
    let from = places[places.len().saturating_sub(RECORDS_CUT + 1)];
    let last = places[places.len() - 2];
    let mut count = 0;
    for at in from..=end {
        let next = places.iter().copied().find(|place| *place > at);
        let to = next.filter(|_| !is_clean).unwrap_or(bytes.len());
        let mut zeroed = bytes.clone();
        zeroed[at..to].fill(0);
        for damaged in [&bytes[..at], &zeroed[..]] {
            store.write(name, damaged)?;
            let what = format!("{} cut at {at}", name.display());
            let is_noticed = store.judge(&what, tally)?;
            let is_same = damaged == &bytes[..];
            let is_torn = !is_clean && at >= last && damaged.len() == bytes.len();
            if is_noticed == (is_same || is_torn) {
                tally.broken(format!("{what}: noticed: {is_noticed}"));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// The places where records begin, by their lengths, and where they end.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![RECORDS_AT];
    loop {
        let at = places[places.len() - 1];
        let Some(head) = bytes.get(at..at + 16) else { return places };
        if head[8..16] == [0; 8] {
            return places;
        }
        let payload_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        places.push(at + (24 + payload_bytes).next_multiple_of(8));
    }
}

/// All files but the locks and the tables' own journal, which stays empty.
fn read_files(dir: &Path, below: &Path, files: &mut Files) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read_files(dir, &name, files)?;
        } else if !name.ends_with("lock") && name.extension().is_none_or(|ending| ending != "jnl") {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}
