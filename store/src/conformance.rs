//! What an engine has to do, as a suite that any engine has to pass: the transaction, row by row and against a model; and
//! the verbs on top of it. Every check begins with a store of its own.
//!
//! A failed check panics and says which one it is; those that draw say their seed.

pub mod conversation;
mod engine;
mod lanes;
mod model;
mod sharing;
mod verbs;
pub mod world;

use crate::txn::Engine;

/// Makes an empty store.
pub type Make<'a> = dyn FnMut() -> Box<dyn Engine> + 'a;
/// Closes a store, or drops it as it is, and opens it again.
pub type Reopen<'a> = dyn FnMut(Box<dyn Engine>) -> Box<dyn Engine> + 'a;

/// A name and a check on an empty store.
type Check = (&'static str, fn(Box<dyn Engine>));

const CHECKS: [Check; 26] = [
    ("an empty store is empty", engine::empty),
    ("what is committed is there", engine::committed),
    ("a transaction sees its own writes", engine::own_writes),
    ("ranges have bounds, limits and two directions", engine::ranges),
    ("ranges see own writes and own removals", engine::ranges_over_own_writes),
    ("removed rows stay removed", engine::tombstones),
    ("a snapshot stands still", engine::snapshots),
    ("an aborted body leaves nothing", engine::aborts),
    ("rows may be as large as they may be", engine::large_rows),
    ("a transaction that is too large is refused", engine::too_large),
    ("a transaction without writes commits", engine::read_only),
    ("lanes are serializable", lanes::serializable),
    ("lanes that do not meet do not conflict (OR5)", lanes::disjoint),
    ("any sequence does what a sorted map does", model::random),
    ("seqs are dense, and refused operations take none (G3, G5)", verbs::dense),
    ("a retry has one answer, across generations (G2)", verbs::idempotent),
    ("members see what is theirs (G11)", verbs::membership),
    ("watermarks rise and count (G12)", verbs::receipts),
    ("a log changes, and says so once (G2, G11)", verbs::changes),
    ("any traffic of a conversation is what its model says", conversation::random),
    ("the marker promises fan-out until it is kept (F5)", verbs::markers),
    ("a deposed incarnation commits nothing (G15)", verbs::fenced),
    ("slots are given by the living and taken from the dead (G15)", sharing::given_and_taken),
    ("who is silent is deposed, and commits nothing more (G15, F7)", sharing::deposed),
    ("a slot that goes away under a commit stops it (G15)", sharing::given_under_way),
    ("a batch that was not committed left nothing (G5)", verbs::aborted_batch),
];

/// Runs every check on engines that `make` makes.
///
/// # Panics
/// When the engine does not do what it has to.
pub fn run(make: &mut Make<'_>) {
    for (name, check) in CHECKS {
        named(name, || check(make()));
    }
}

/// Runs every check, and those that close the store and open it again.
///
/// # Panics
/// When the engine does not do what it has to.
pub fn run_durable(make: &mut Make<'_>, reopen: &mut Reopen<'_>) {
    run(make);
    named("rows survive (G1)", || engine::survives(make(), reopen));
    named("any sequence survives (G1)", || model::random_with_reopening(make(), reopen));
    named("answers survive (G1, G2)", || verbs::survives(make(), reopen));
}

/// Names the check when it panics, whichever way the message of the panic goes.
fn named(name: &'static str, check: impl FnOnce()) {
    struct OnPanic(&'static str);
    impl Drop for OnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("conformance: failed: {}", self.0);
            }
        }
    }
    let _name = OnPanic(name);
    check();
}

/// Commits what `body` writes.
fn commit(engine: &dyn Engine, lane: u16, mut body: impl FnMut(&mut dyn crate::txn::Txn)) {
    let committed = engine.commit(lane, &mut |txn| {
        body(txn);
        Ok(())
    });
    assert!(committed.is_ok(), "{committed:?}");
}

fn set(engine: &dyn Engine, rows: &[(&str, &str)]) {
    commit(engine, 0, |txn| {
        for (key, value) in rows {
            txn.set(
                bytes::Bytes::copy_from_slice(key.as_bytes()),
                bytes::Bytes::copy_from_slice(value.as_bytes()),
            );
        }
    });
}

fn clear(engine: &dyn Engine, keys: &[&str]) {
    commit(engine, 0, |txn| {
        for key in keys {
            txn.clear(bytes::Bytes::copy_from_slice(key.as_bytes()));
        }
    });
}

/// The value of a key, as text.
fn get(read: &mut dyn crate::txn::Read, key: &str) -> Option<String> {
    let value = read.get(key.as_bytes());
    assert!(value.is_ok(), "{value:?}");
    value.ok().flatten().map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// The rows of a range, as `key=value` with commas.
fn list(read: &mut dyn crate::txn::Read, from: &str, to: &str, limit: usize, reverse: bool) -> String {
    let rows = read.range(from.as_bytes(), to.as_bytes(), limit, reverse);
    assert!(rows.is_ok(), "{rows:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let rows = rows.unwrap_or_default();
    rows.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect::<Vec<_>>().join(",")
}

/// A view of everything durable.
fn snapshot(engine: &dyn Engine) -> Box<dyn crate::txn::Read + Send + '_> {
    match engine.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => panic!("no snapshot: {error}"),
    }
}
