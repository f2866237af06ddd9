//! F3: the process is killed (SIGKILL) again and again while it commits, with the real threads, files and tables. What it
//! said was committed is there; at most the one commit in flight is there as well.
//!
//! A test binary of its own: a child that is being started holds the locks of all stores that are open here until it has
//! become another program.

#![allow(clippy::disallowed_methods, reason = "tests start processes")]

#[path = "embedded/support.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options, Upkeep};
use carillon_store::txn::Engine;
use support::{Batch, Model, Rng, apply, commit, contents, each_seed, options, scratch};

const CHILD: &str = "CARILLON_KILL_DIR";

/// Commit `round`: a row of its own, one that every commit writes, and one that every other commit removes.
fn batch(round: u64) -> Batch {
    let value = Bytes::from(round.to_be_bytes().repeat(30));
    Batch::from([
        (Bytes::from(format!("r/{round:08}")), Some(value.clone())),
        (Bytes::from_static(b"last"), Some(value.slice(..8))),
        (Bytes::from_static(b"odd"), (round % 2 == 1).then_some(value)),
    ])
}

fn rounds(engine: &Embedded) -> u64 {
    let last = engine.snapshot().expect("a snapshot").get(b"last").expect("a get");
    last.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().expect("eight bytes")))
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options { upkeep: Upkeep::Background, ..options() }).expect("a kill is no damage")
}

/// The process that is killed: commits until then, and says which commit is durable.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let engine = open(Path::new(&dir));
    let mut stdout = std::io::stdout();
    for round in rounds(&engine) + 1.. {
        commit(&engine, &batch(round)).expect("commits");
        writeln!(stdout, "durable {round}").expect("the parent listens");
    }
}

#[test]
fn f3_a_killed_process_loses_nothing_acknowledged() {
    each_seed("f3_a_killed_process_loses_nothing_acknowledged", 1, 1, |seed| {
        let mut rng = Rng(seed);
        let dir = scratch();
        for _ in 0..15 {
            let mut child = Command::new(std::env::current_exe().expect("a path"))
                .args(["child", "--exact", "--nocapture"])
                .env(CHILD, dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts");
            let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            let mut kill_after = 1 + rng.below(400);
            let mut durable = 0;
            // After the kill the pipe is read to its end: what is in it was said.
            for line in lines {
                let line = line.expect("a line");
                let Some((_, round)) = line.split_once("durable ") else { continue };
                durable = round.parse().expect("a number");
                kill_after = kill_after.saturating_sub(1);
                if kill_after == 0 {
                    child.kill().expect("kills");
                }
            }
            child.wait().expect("ends");
            assert!(durable > 0, "the child did not get to commit");
            let engine = open(dir.path());
            let found = rounds(&engine);
            assert!(found == durable || found == durable + 1, "{found} found, {durable} acknowledged");
            let mut model = Model::new();
            (1..=found).for_each(|round| apply(&mut model, &batch(round)));
            assert_eq!(contents(&engine), model);
        }
    });
}
