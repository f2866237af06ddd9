//! The store of a cluster: FoundationDB does the transactions, this says what its answers mean. Built with the feature
//! `fdb`; the tables of error codes and key prefixes are pure and always there. `docs/foundationdb.md` is for who runs it.
//!
//! # Invariants
//! - One call of `commit` is one transaction and one commit. FoundationDB's own retry loop, and the binding's, are not
//!   used: what is to be done after which outcome is decided in [`crate::retry`] alone.
//! - A commit is *unknown* only from the moment it was sent. Whatever goes wrong before is definite ([`codes`]).
//! - Reads inside a transaction conflict with later writers; reads of snapshots do not, since they write nothing.
//! - Every transaction asks for its read version before anything else. So it sees every commit that was answered before it
//!   began (G10), and what it expects unchanged is unchanged since then.
//! - No wait is without end: FoundationDB ends each transaction after [`TXN_MS_MAX`], and [`ANSWER_MAX`] is for a client
//!   that does not answer at all.
//!
//! # An unknown outcome (F4)
//! The commit A, of batch or operation *o*, may be in place already, may come within the next five seconds, or never. Then
//! [`crate::retry`] runs *o* again as B, with nothing remembered of A. Nothing more is needed, for this reason: every
//! operation that writes anything reads, and not as a snapshot, at least one of the rows that it writes (a send: its
//! idempotency row, its head; a mute: `expect_unchanged`; `store/tests/retry.rs` holds every operation to it). So
//! - A is in place before B's read version: B reads what A wrote, and answers as A would have.
//! - A comes after B's read version and before B commits: A wrote a row that B read. B is refused as a conflict, and runs
//!   again, which is the first case.
//! - A comes after B committed: B wrote a row that A had read. A is refused, and never comes.
//! - B decides otherwise than A did, so that it writes nothing: then a row that A had read was written in between, and A
//!   is refused when it comes.
//!
//! The lane sends no later batch meanwhile, so nothing overtakes *o*.

pub mod codes;
#[cfg(feature = "fdb")]
mod engine;
#[cfg(feature = "fdb")]
mod network;
pub mod prefix;
#[cfg(feature = "fdb")]
mod txn;
#[cfg(any(feature = "fdb", test))]
mod wait;

use std::time::Duration;

#[cfg(feature = "fdb")]
pub use engine::Fdb;

use crate::txn::TXN_BYTES_MAX;

/// Commits that may be in flight side by side. More lanes: more, smaller commits.
pub const LANES_COUNT: u16 = 16;

/// How long a transaction lives, in milliseconds, from its creation to its commit's answer. Then FoundationDB ends it: a
/// read is to be read again, a commit is unknown. FoundationDB keeps no version for more than five seconds, so one that
/// lived longer could not commit anyway.
pub const TXN_MS_MAX: u16 = 4_800;

/// How long a transaction's body may take, from its read version. Then it is not committed but [`Slow`]: a batch is split,
/// so that its parts take less, before five seconds make every attempt at the whole of it a conflict (F23).
///
/// [`Slow`]: crate::error::CommitError::Slow
pub const BODY_MAX: Duration = Duration::from_secs(4);

/// How long an answer of FoundationDB's client is waited for, from the transaction's creation. Only a client whose network
/// thread is gone is silent so long: a read is to be read again then, a commit is unknown.
pub const ANSWER_MAX: Duration = Duration::from_secs(8);

/// How many rows a transaction fetches ahead. What it is told beyond is fetched when it is asked for.
pub const PREFETCH_KEYS_MAX: usize = 4_096;

/// What FoundationDB takes in one transaction, in bytes: keys, values and what the transaction relies on. Beyond, a batch
/// is split.
pub const FDB_TXN_BYTES_MAX: u32 = 10_000_000;

const _: () = {
    assert!(BODY_MAX.as_millis() < TXN_MS_MAX as u128, "a body ends before its transaction does");
    assert!(TXN_MS_MAX < 5_000, "FoundationDB keeps a version for five seconds");
    assert!(ANSWER_MAX.as_millis() > TXN_MS_MAX as u128, "FoundationDB's own time-out comes first");
    assert!(TXN_BYTES_MAX < FDB_TXN_BYTES_MAX as usize, "our own bound is met first");
};

/// How a store in FoundationDB is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster file. Empty: the one that FoundationDB's client finds by itself.
    pub cluster_file: String,
    /// The store's name in the cluster, which stands before all its keys.
    pub key_prefix: String,
}
