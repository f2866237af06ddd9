//! Errors by what the caller can do about them.

use crate::txn::Abort;

/// A read that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The snapshot is too old or the engine is busy: open a new one and read again.
    #[error("the store asks to read again: {0}")]
    Again(String),
    /// The engine is damaged or its disk fails; the process has to stop (G14).
    #[error("the store cannot be read: {0}")]
    Fatal(String),
}

/// A commit that did not definitely happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Definitely not committed, and nothing is wrong: run the body again.
    #[error("conflict")]
    Conflict,
    /// Perhaps committed, perhaps later. Run the same operations again with nothing cached; the idempotency rows tell (F4).
    #[error("unknown outcome")]
    Unknown,
    /// Definitely not committed: the transaction is larger than the engine takes. Split it.
    #[error("transaction too large")]
    TooLarge,
    /// Definitely not committed: the body took longer than a transaction of this engine lives (F23). Split it; a single
    /// operation is run again, because it is the engine that was slow.
    #[error("transaction took too long")]
    Slow,
    /// Definitely not committed: free space is below the reserve. New sends are refused retryably until it is back (F12).
    #[error("no space: {free_bytes} bytes free, {reserve_bytes} reserved")]
    Full {
        /// Bytes free on the store's file system.
        free_bytes: u64,
        /// What `store.reserve_bytes` keeps free.
        reserve_bytes: u64,
    },
    /// Definitely not committed: this router's incarnation or slot is no longer its own (G15).
    #[error("fenced: another incarnation owns this slot")]
    Fenced,
    /// The disk or the store's files failed. Stop acknowledging at once and exit with status 74; a restart recovers (G14).
    #[error("the store failed: {0}")]
    Fatal(String),
}

impl From<Abort> for CommitError {
    /// Nothing was sent yet, so whatever stopped the body, it is definite.
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::Read(ReadError::Again(_)) => CommitError::Conflict,
            Abort::Read(ReadError::Fatal(reason)) => CommitError::Fatal(reason),
            Abort::Fenced => CommitError::Fenced,
            Abort::TooLarge => CommitError::TooLarge,
        }
    }
}

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory. Exit status 2.
    #[error("{path} is in use by another process; stop it, or choose another --data-dir")]
    InUse {
        /// The directory.
        path: String,
    },
    /// There is nothing to look at. Exit status 2.
    #[error("there is no store in {path}; name its data directory with --data-dir")]
    Absent {
        /// The directory.
        path: String,
    },
    /// The files are damaged: refused, never shortened in silence (G14). Exit status 74.
    #[error("the store in {path} is damaged: {detail}")]
    Damaged {
        /// The directory.
        path: String,
        /// Where, and what to do.
        detail: String,
    },
    /// The file system said no.
    #[error("the store in {path} cannot be opened: {source}")]
    Io {
        /// The directory.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// A setting cannot work. Exit status 2.
    #[error("{0}")]
    Setting(String),
    /// The cluster that holds the store does not answer. Exit status 74.
    #[error("the store's cluster does not answer: {0}")]
    Unreachable(String),
}
