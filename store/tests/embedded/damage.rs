//! F11, G14: damage to a store at rest. Whatever bit is flipped and wherever a file is cut: either nothing acknowledged
//! is missing, or the store says so, at opening or when the damaged row is read. Never fewer messages in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::draws::random_batch;
use super::support::{Model, Rng, all_rows, apply, commit, each_seed, options, scratch};
use carillon_store::backend::embedded::Embedded;
use carillon_store::error::OpenError;
use carillon_store::txn::Engine;

/// Files as they were, by their path below the store's directory.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store with several segments and runs, stopped cleanly or not, and what it holds.
pub(super) fn store(seed: u64, is_clean: bool) -> (tempfile::TempDir, Model) {
    let dir = scratch();
    let mut rng = Rng(seed);
    let mut model = Model::new();
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    for _ in 0..120 {
        let batch = random_batch(&mut rng, 12, 200);
        commit(&engine, &batch).expect("commits");
        apply(&mut model, &batch);
    }
    if is_clean {
        engine.close().expect("closes");
    } else {
        engine.idle().expect("an empty record");
    }
    (dir, model)
}

pub(super) fn read_files(dir: &Path, below: &str, files: &mut Files) {
    for entry in std::fs::read_dir(dir.join(below)).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = Path::new(below).join(entry.file_name());
        let name_text = name.to_string_lossy();
        if entry.file_type().expect("a type").is_dir() {
            read_files(dir, &name_text, files);
        } else if !name_text.ends_with(".jnl") && !name_text.ends_with("lock") {
            // The tables' own journal stays empty; it is 64 MiB of nothing.
            files.insert(name.clone(), std::fs::read(entry.path()).expect("a file"));
        }
    }
}

/// Makes the directory what it was, touching only what differs.
pub(super) fn restore(dir: &Path, files: &Files) {
    let mut now = Files::new();
    read_files(dir, "", &mut now);
    for name in now.keys().filter(|name| !files.contains_key(*name)) {
        std::fs::remove_file(dir.join(name)).expect("removes");
    }
    for (name, bytes) in files {
        if now.get(name) != Some(bytes) {
            std::fs::write(dir.join(name), bytes).expect("writes");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Harmless,
    Refused,
}

/// Opens the damaged store and looks at every row.
fn open_and_compare(dir: &Path, model: &Model, what: &str) -> Outcome {
    let engine = match Embedded::open(dir, options()) {
        Ok(engine) => engine,
        Err(OpenError::Damaged { detail, .. }) => {
            assert!(detail.len() > 40, "{what}: says too little: {detail}");
            return Outcome::Refused;
        }
        Err(OpenError::Io { .. }) => return Outcome::Refused,
        Err(error) => panic!("{what}: {error}"),
    };
    let mut view = engine.snapshot().expect("a snapshot");
    let Ok(rows) = view.range(b"", b"\xff", usize::MAX, false) else { return Outcome::Refused };
    assert_eq!(&rows.into_iter().collect::<Model>(), model, "{what}: rows are missing or wrong, in silence");
    for (key, value) in model {
        match view.get(key) {
            Ok(found) => assert_eq!(found.as_ref(), Some(value), "{what}: {key:?}"),
            Err(_) => return Outcome::Refused,
        }
    }
    Outcome::Harmless
}

/// The places where records of the last segment in use begin, found by walking their lengths, and where they end.
pub(super) fn record_places(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![4096];
    loop {
        let at = places[places.len() - 1];
        let Some(head) = bytes.get(at..at + 16) else { return places };
        if head[8..16] == [0; 8] {
            return places;
        }
        let payload_bytes = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
        places.push(at + (24 + payload_bytes).next_multiple_of(8));
    }
}

/// The last segment that holds a record.
pub(super) fn last_segment(files: &Files) -> (&PathBuf, &Vec<u8>) {
    let in_use = |name: &PathBuf, bytes: &[u8]| name.starts_with("log") && record_places(bytes).len() > 1;
    files.iter().rfind(|(name, bytes)| in_use(name, bytes)).expect("a segment in use")
}

/// Done when: a flipped bit at each of 500 random places of the log of a cleanly stopped store.
#[test]
fn f11_g14_a_flipped_bit_in_the_log_is_harmless_or_refused() {
    each_seed("f11_g14_a_flipped_bit_in_the_log_is_harmless_or_refused", 1, 1, flip_log);
}

fn flip_log(seed: u64) {
    let (dir, model) = store(seed, true);
    let mut files = Files::new();
    read_files(dir.path(), "", &mut files);
    let mut rng = Rng(seed);
    let logs: Vec<_> =
        files.keys().filter(|name| name.starts_with("log") || **name == Path::new("clean")).collect();
    assert!(logs.len() >= 3, "{logs:?}");
    let mut refused_count = 0;
    for round in 0..500 {
        let name = logs[rng.below(logs.len() as u64) as usize];
        let mut bytes = files[name].clone();
        // Half of them where there is something: zeros are most of a segment.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let within = if round % 2 == 0 { used } else { bytes.len() };
        let bit = rng.below(within as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(dir.path().join(name), bytes).expect("writes");
        let what = format!("bit {bit} of {}", name.display());
        if open_and_compare(dir.path(), &model, &what) == Outcome::Refused {
            refused_count += 1;
        }
        restore(dir.path(), &files);
    }
    assert!(refused_count > 400, "only {refused_count} of 500 were seen");
    assert_eq!(open_and_compare(dir.path(), &model, "undamaged"), Outcome::Harmless);
}

/// Done when: a cut of the file at every byte of its last three records, and the same bytes zeroed.
#[test]
fn f10_g14_a_cut_in_the_last_three_records_is_harmless_or_refused() {
    let (dir, model) = store(3, true);
    let mut files = Files::new();
    read_files(dir.path(), "", &mut files);
    let (name, bytes) = last_segment(&files);
    let places = record_places(bytes);
    let (from, to) = (places[places.len().saturating_sub(4)], places[places.len() - 1]);
    assert!(to - from > 48, "three records");
    for at in from..=to {
        let mut zeroed = bytes.clone();
        zeroed[at..].fill(0);
        for (what, damaged) in [("cut", &bytes[..at]), ("zeroed from", &zeroed[..])] {
            std::fs::write(dir.path().join(name), damaged).expect("writes");
            let what = format!("{} {what} {at}", name.display());
            let outcome = open_and_compare(dir.path(), &model, &what);
            let is_harmless = damaged == &bytes[..];
            assert_eq!(outcome, if is_harmless { Outcome::Harmless } else { Outcome::Refused }, "{what}");
            std::fs::write(dir.path().join(name), bytes).expect("writes");
            restore_if_opened(dir.path(), &files, outcome);
        }
    }
}

fn restore_if_opened(dir: &Path, files: &Files, outcome: Outcome) {
    if outcome == Outcome::Harmless {
        restore(dir, files);
    }
}

/// F11: after a crash, too, a flipped bit in any record but the very last is refused; the store was idle, so that the
/// very last is empty.
#[test]
fn f11_g14_after_a_crash_an_idle_log_is_refused_when_damaged() {
    let (dir, model) = store(4, false);
    let mut files = Files::new();
    read_files(dir.path(), "", &mut files);
    assert!(!files.contains_key(Path::new("clean")));
    let (name, bytes) = last_segment(&files);
    let places = record_places(bytes);
    let mut rng = Rng(5);
    for _ in 0..100 {
        let bit = 4096 * 8 + rng.below((places[places.len() - 1] as u64 - 4096) * 8) as usize;
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(dir.path().join(name), damaged).expect("writes");
        // In the last, empty record it looks torn: cutting it loses nothing.
        let expected = if bit / 8 >= places[places.len() - 2] { Outcome::Harmless } else { Outcome::Refused };
        let what = format!("bit {bit} of {}", name.display());
        assert_eq!(open_and_compare(dir.path(), &model, &what), expected, "{what}");
        restore(dir.path(), &files);
    }
}

/// A missing file of the log, or one of another store, is refused, whichever it is.
#[test]
fn g14_a_missing_or_foreign_segment_is_refused() {
    let (dir, model) = store(6, true);
    let (other, _) = store(7, true);
    let mut files = Files::new();
    read_files(dir.path(), "", &mut files);
    let mut foreign = Files::new();
    read_files(other.path(), "", &mut foreign);
    let (last, _) = last_segment(&files);
    let segments: Vec<_> = files.keys().filter(|name| name.starts_with("log")).collect();
    for name in &segments {
        std::fs::remove_file(dir.path().join(name)).expect("removes");
        let outcome = open_and_compare(dir.path(), &model, &format!("{} missing", name.display()));
        // Older segments may hold nothing that the tables do not; one prepared for later holds nothing at all.
        assert!(outcome == Outcome::Refused || *name != last, "{}", name.display());
        restore(dir.path(), &files);
        if let Some(bytes) = foreign.get(*name) {
            std::fs::write(dir.path().join(name), bytes).expect("writes");
            let outcome =
                open_and_compare(dir.path(), &model, &format!("{} of another store", name.display()));
            assert_eq!(outcome, Outcome::Refused, "{}", name.display());
            restore(dir.path(), &files);
        }
    }
    for name in &segments {
        std::fs::remove_file(dir.path().join(name)).expect("removes");
    }
    assert_eq!(open_and_compare(dir.path(), &model, "no log at all"), Outcome::Refused);
    restore(dir.path(), &files);
    for below in ["tables/version", "tables/keyspaces/1/current", "tables/keyspaces/0/current"] {
        std::fs::remove_file(dir.path().join(below)).expect("removes");
        assert_eq!(open_and_compare(dir.path(), &model, below), Outcome::Refused, "{below}");
        restore(dir.path(), &files);
    }
    std::fs::remove_dir_all(dir.path().join("tables")).expect("removes");
    assert_eq!(open_and_compare(dir.path(), &model, "no tables at all"), Outcome::Refused);
}

/// F11 in the tables: a flipped bit in any of their files is refused at opening or when read, or is harmless.
#[test]
fn f11_g14_a_flipped_bit_in_the_tables_is_harmless_or_refused() {
    each_seed("f11_g14_a_flipped_bit_in_the_tables_is_harmless_or_refused", 8, 1, flip_tables);
}

fn flip_tables(seed: u64) {
    let (dir, model) = store(seed, true);
    let mut files = Files::new();
    read_files(dir.path(), "", &mut files);
    let tables: Vec<_> = files.keys().filter(|name| name.starts_with("tables")).collect();
    assert!(tables.len() >= 5, "{tables:?}");
    let mut rng = Rng(seed);
    let mut refused_count = 0;
    // What the panics say is theirs, and expected here.
    std::panic::set_hook(Box::new(|info| {
        if !info.location().is_some_and(|location| location.file().contains("lsm-tree")) {
            eprintln!("{info}");
        }
    }));
    for _ in 0..300 {
        let name = tables[rng.below(tables.len() as u64) as usize];
        let mut bytes = files[name].clone();
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(dir.path().join(name), bytes).expect("writes");
        let what = format!("bit {bit} of {}", name.display());
        if open_and_compare(dir.path(), &model, &what) == Outcome::Refused {
            refused_count += 1;
        }
        restore(dir.path(), &files);
    }
    let _ = std::panic::take_hook();
    // Manifests of the past, which nobody reads, are a good part of the bytes.
    assert!(refused_count > 100, "only {refused_count} of 300 were seen");
}

/// The helpers read what the engine shows.
#[test]
fn undamaged_stores_open() {
    for is_clean in [true, false] {
        let (dir, model) = store(10, is_clean);
        let engine = Embedded::open(dir.path(), options()).expect("opens");
        assert_eq!(all_rows(&mut *engine.snapshot().expect("a snapshot")), model);
    }
}
