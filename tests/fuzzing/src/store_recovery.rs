//! The embedded store opened from files that were changed (F10, F11, G14): what it shows is exactly what was committed, or it says
//! no, at opening or when the damaged row is read. Never fewer messages in silence.
//!
//! The input chooses a store (stopped cleanly, or killed when idle), and what is done to its files.
//!
//! # What may be missing all the same
//! Without the word that a clean stop leaves (`clean`), a log that ends early looks like one that was never longer. So then, and
//! only then, the newest commits may be missing, if nothing of the log says that they were there: no record of them is whole.

#![expect(clippy::disallowed_methods, reason = "the files of a store are what is changed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options, RealDisk, Upkeep};
use carillon_store::error::OpenError;
use carillon_store::txn::Engine;

use crate::draw::Draw;
use crate::{Reached, Target};

/// See [`crate::TARGETS`].
pub const TARGET: Target =
    Target { name: "store_recovery", run, outcomes: &["harmless", "refused", "cut", "went on"] };

type Rows = BTreeMap<Bytes, Bytes>;
type Files = BTreeMap<PathBuf, Vec<u8>>;

const COMMITS: u64 = 40;
const SEGMENT_BYTES: u64 = 16 << 10;
const SEGMENT_HEADER_BYTES: usize = 4_096;

/// A store, as it was left and as it was halfway.
struct Left {
    dir: tempfile::TempDir,
    files: Files,
    halfway: Files,
    /// What it held after so many commits. Record `n` of the log is commit `n`; a last, empty one may follow.
    after: Vec<Rows>,
}

thread_local! {
    /// Stopped cleanly, and killed when idle. Of each thread its own: a thread that ends takes its directories along.
    static LEFT: [Left; 2] = {
        panics_of_the_tables_are_expected();
        [leave(true), leave(false)]
    };
}

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        overlay_bytes: 64 << 10,
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        upkeep: Upkeep::Inline,
        disk: Arc::new(RealDisk),
    }
}

fn run(data: &[u8], reached: &mut Reached) {
    LEFT.with(|left| {
        let mut draw = Draw::new(data);
        let left = &left[draw.below(2)];
        let files = changed(left, &mut draw);
        lay(left.dir.path(), &files);
        reached.meet(open_and_compare(left, &files, draw.flag()));
    });
}

/// fjall answers some damage with a panic, which the engine catches; what it would print, or a fuzzer's own hook would stop at, is
/// no failure. Any other panic ends the run as usual.
fn panics_of_the_tables_are_expected() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let is_theirs = |file: &str| ["lsm-tree", "fjall", "sfa-"].iter().any(|name| file.contains(name));
        if !info.location().is_some_and(|location| is_theirs(location.file())) {
            before(info);
        }
    }));
}

fn leave(is_clean: bool) -> Left {
    // A fuzzer's process is ended without ceremony: whoever started it removes what has its number (`fuzz/run`).
    let name = format!("carillon-fuzz-{}-", std::process::id());
    let memory = Path::new("/dev/shm");
    let mut named = tempfile::Builder::new();
    named.prefix(&name);
    let dir = if memory.is_dir() { named.tempdir_in(memory) } else { named.tempdir() }.expect("a directory");
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let (mut rows, mut after, mut halfway) = (Rows::new(), vec![Rows::new()], Files::new());
    for number in 1..=COMMITS {
        commit(&engine, &mut rows, number);
        after.push(rows.clone());
        if number == COMMITS / 2 {
            read_files(dir.path(), Path::new(""), &mut halfway);
        }
    }
    if is_clean {
        engine.close().expect("closes");
    } else {
        engine.idle().expect("an empty record");
    }
    drop(engine);
    let mut files = Files::new();
    read_files(dir.path(), Path::new(""), &mut files);
    Left { dir, files, halfway, after }
}

/// Ten rows, some of them written before, and now and then one less.
fn commit(engine: &Embedded, rows: &mut Rows, number: u64) {
    let written: Vec<(Bytes, Bytes)> = (0..10)
        .map(|row| {
            let key = format!("k{:03}", (number * 7 + row * 13) % 200);
            (Bytes::from(key), Bytes::from(format!("{number} {row} ").repeat(20)))
        })
        .collect();
    let removed = number.is_multiple_of(3).then(|| Bytes::from(format!("k{:03}", (number * 5) % 200)));
    let done = engine.commit(0, &mut |txn| {
        written.iter().for_each(|(key, value)| txn.set(key.clone(), value.clone()));
        removed.iter().for_each(|key| txn.clear(key.clone()));
        Ok(())
    });
    done.expect("commits");
    rows.extend(written);
    removed.iter().for_each(|key| drop(rows.remove(key)));
}

fn read_files(dir: &Path, below: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(dir.join(below)).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = below.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            read_files(dir, &name, files);
        } else if name.extension().is_none_or(|extension| extension != "jnl") && name != Path::new("lock") {
            // The tables' own journal stays empty; it is 64 MiB of nothing.
            files.insert(name, std::fs::read(entry.path()).expect("a file"));
        }
    }
}

/// Makes the directory hold these files and no others, touching only what differs.
fn lay(dir: &Path, files: &Files) {
    let mut now = Files::new();
    read_files(dir, Path::new(""), &mut now);
    for name in now.keys().filter(|name| !files.contains_key(*name)) {
        std::fs::remove_file(dir.join(name)).expect("removes");
    }
    for (name, bytes) in files {
        if now.get(name) != Some(bytes) {
            std::fs::create_dir_all(dir.join(name).parent().expect("a parent")).expect("a directory");
            std::fs::write(dir.join(name), bytes).expect("writes");
        }
    }
}

/// One to four changes, each to one file.
fn changed(left: &Left, draw: &mut Draw<'_>) -> Files {
    let mut files = left.files.clone();
    let names: Vec<PathBuf> = files.keys().cloned().collect();
    for _ in 0..1 + draw.below(4) {
        let name = &names[draw.below(names.len())];
        let other = &names[draw.below(names.len())];
        let plan = draw.byte();
        let Some(bytes) = files.get_mut(name) else { continue };
        // Where there is something: zeros are most of a segment.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let at = draw.below(used + 1);
        match plan % 10 {
            0 | 1 => {
                let bit = draw.below(8);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
            }
            2 => bytes.get_mut(at).into_iter().for_each(|byte| *byte = draw.byte()),
            3 => bytes.truncate(at),
            4 => {
                let end = at + draw.below(used - at + 1);
                bytes[at..end].fill(0);
            }
            5 => {
                let run = draw.bytes(64);
                bytes.iter_mut().skip(at).zip(run).for_each(|(byte, new)| *byte = *new);
            }
            6 => bytes.extend_from_slice(draw.bytes(64)),
            // A write that went elsewhere: whole words of another file.
            7 => {
                let from = left.files[other].clone();
                let from = &from[draw.below(from.len() + 1) / 8 * 8..];
                let count = draw.below(from.len() + 1);
                bytes.iter_mut().skip(at / 8 * 8).zip(&from[..count]).for_each(|(byte, new)| *byte = *new);
            }
            // One that was lost: the file as it was before.
            8 => match left.halfway.get(name) {
                Some(before) => bytes.clone_from(before),
                None => drop(files.remove(name)),
            },
            _ if plan & 0x80 == 0 => drop(files.remove(name)),
            _ => bytes.clone_from(&left.files[other]),
        }
    }
    files
}

fn open_and_compare(left: &Left, files: &Files, goes_on: bool) -> &'static str {
    let dir = left.dir.path();
    let engine = match Embedded::open(dir, options()) {
        Ok(engine) => engine,
        Err(OpenError::Damaged { detail, .. }) => {
            assert!(detail.len() > 40, "says too little: {detail}");
            return "refused";
        }
        Err(OpenError::Io { .. }) => return "refused",
        Err(error) => panic!("{error}"),
    };
    let Some(mut seen) = contents(&engine) else { return "refused when read" };
    let commits = left.after.len() - 1;
    let kept = (0..=commits).rev().find(|kept| left.after[*kept] == seen);
    let Some(kept) = kept else { panic!("rows are missing or wrong, in silence") };
    if kept < commits {
        assert!(
            !files.contains_key(Path::new("clean")),
            "{kept} of {commits} commits after a clean stop, in silence"
        );
        let whole = whole_records(left, files).into_iter().find(|number| *number > kept as u64);
        assert_eq!(whole, None, "{kept} of {commits} commits, in silence, although this record is whole");
    }
    if !goes_on {
        return if kept < commits { "cut" } else { "harmless" };
    }
    commit(&engine, &mut seen, COMMITS + 1);
    assert_eq!(contents(&engine).as_ref(), Some(&seen));
    engine.close().expect("closes");
    drop(engine);
    let engine = Embedded::open(dir, options()).expect("what it wrote itself it opens");
    assert_eq!(contents(&engine).as_ref(), Some(&seen));
    "went on"
}

/// Every row, found both ways; `None` when a read says no.
fn contents(engine: &Embedded) -> Option<Rows> {
    let mut view = engine.snapshot().ok()?;
    let rows: Rows = view.range(b"", b"\xff", usize::MAX, false).ok()?.into_iter().collect();
    for (key, value) in &rows {
        assert_eq!(view.get(key).ok()?.as_ref(), Some(value), "{key:?}, looked up and in a range");
    }
    Some(rows)
}

/// The numbers of the records that lie in `files` where and as they were written.
fn whole_records(left: &Left, files: &Files) -> Vec<u64> {
    let mut whole = Vec::new();
    for (name, before) in left.files.iter().filter(|(name, _)| name.starts_with("log")) {
        let now = files.get(name).map_or(&[][..], |bytes| bytes);
        if now.get(..SEGMENT_HEADER_BYTES) != before.get(..SEGMENT_HEADER_BYTES) {
            continue;
        }
        let mut at = SEGMENT_HEADER_BYTES;
        while let Some((number, bytes)) = record(before, at) {
            if now.get(at..at + bytes) == before.get(at..at + bytes) {
                whole.push(number);
            }
            at += bytes;
        }
    }
    whole
}

/// The number and the length of the record at this place of a log that was not changed (`format.rs` has its shape).
fn record(segment: &[u8], at: usize) -> Option<(u64, usize)> {
    let head = segment.get(at..at + 16)?;
    let number = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    let payload_bytes = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
    (number != 0).then_some((number, (24 + payload_bytes).next_multiple_of(8)))
}
