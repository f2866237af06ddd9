//! Replays the corpus of every fuzz target, on an ordinary toolchain: what a fuzzer once found stays fixed.
#![expect(clippy::disallowed_methods, reason = "the corpus lies in files")]

use std::path::{Path, PathBuf};

use carillon_fuzzing::{Reached, TARGETS};

/// The corpus of all targets together stays small enough for the tree, and for every test run.
const CORPUS_BYTES_MAX: u64 = 1 << 20;
const CORPUS_FILES_MAX: usize = 600;

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

/// Runs the corpus of a target; says which file it was that failed.
fn replay(target: &str) {
    let target = TARGETS.iter().find(|known| known.name == target).expect("a target of this name");
    let mut reached = Reached::kept();
    for path in corpus(target.name) {
        let data = std::fs::read(&path).unwrap();
        let run = std::panic::AssertUnwindSafe(|| (target.run)(&data, &mut reached));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("the input is {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
    let missing = reached.missing(target.outcomes);
    assert!(missing.is_empty(), "no input of the corpus of {} reaches {missing:?}", target.name);
}

/// WebSocket frames, beside tungstenite.
#[test]
fn codec() {
    replay("codec");
}

/// The HTTP upgrade, beside tungstenite's.
#[test]
fn upgrade() {
    replay("upgrade");
}

/// Client frames in JSON, beside `serde_json`.
#[test]
fn client_json() {
    replay("client_json");
}

/// DC2: client frames in rkyv, invalid archives among them.
#[test]
fn dc2_client_rkyv() {
    replay("client_rkyv");
}

/// DC2: link frames, invalid archives among them, and the records inside.
#[test]
fn dc2_link_frames() {
    replay("link_frames");
}

/// One command, whichever encoding it came in.
#[test]
fn equivalence() {
    replay("equivalence");
}

/// Tokens, beside a verifier of our own.
#[test]
fn tokens() {
    replay("tokens");
}

/// F10, F11, G14: a store whose files were changed.
#[test]
fn f10_f11_g14_store_recovery() {
    replay("store_recovery");
}

#[test]
fn the_corpus_stays_small() {
    let files: Vec<u64> = TARGETS
        .iter()
        .flat_map(|target| corpus(target.name))
        .map(|path| std::fs::metadata(path).unwrap().len())
        .collect();
    let bytes: u64 = files.iter().sum();
    assert!(
        files.len() <= CORPUS_FILES_MAX && bytes <= CORPUS_BYTES_MAX,
        "{} files, {bytes} bytes",
        files.len()
    );
}
