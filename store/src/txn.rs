//! One transaction for all engines: get, range, set, clear, `expect_unchanged`. The verbs in `ops.rs` are written once
//! over these traits; an engine only has to be a serializable, ordered map of bytes that can say when a commit is durable.

use bytes::Bytes;

use crate::error::{CommitError, ReadError};
use crate::figures::Figure;

/// A key/value pair as an engine returns it.
pub type Row = (Bytes, Bytes);

/// The most bytes of one key (the tightest of our engines: FoundationDB allows 10,000; nothing of ours comes near).
pub const KEY_BYTES_MAX: usize = 512;
/// The most bytes of one value (FoundationDB's bound).
pub const VALUE_BYTES_MAX: usize = 100_000;
/// The most bytes of keys and values that one transaction may write. FoundationDB refuses more than 10 MB; a batch is
/// split long before that.
pub const TXN_BYTES_MAX: usize = 8 << 20;

/// Reads at one point in time: everything durable when it was opened, nothing that came later.
pub trait Read {
    /// The value of `key`, if there is one.
    ///
    /// # Errors
    /// The engine could not read; see [`ReadError`].
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// At most `limit` rows with `from <= key < to`, ascending, or descending from the end when `reverse`.
    ///
    /// # Errors
    /// The engine could not read; see [`ReadError`].
    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError>;

    /// Says which keys will be read next, so that an engine behind a network can fetch them side by side. A key that is
    /// not read after all costs its fetch and nothing else.
    fn prefetch(&mut self, _keys: &[Bytes]) {}

    /// Whether [`Read::prefetch`] does anything. Who has to work out the keys first asks this first.
    fn fetches_ahead(&self) -> bool {
        false
    }
}

/// A transaction being built: sees its own writes; nothing of it is seen by others before it is durable.
pub trait Txn: Read {
    /// Sets `key` to `value`.
    fn set(&mut self, key: Bytes, value: Bytes);

    /// Removes `key`, present or not.
    fn clear(&mut self, key: Bytes);

    /// The commit fails with a conflict when `key` was changed by another transaction since this one began: a read
    /// conflict without a fetch. A no-op for an engine with a single writer. To be said before this transaction writes
    /// `key` itself: FoundationDB relies on nothing outside for a row that is the transaction's own already.
    fn expect_unchanged(&mut self, key: &[u8]);
}

/// What a commit closure says when it wants nothing written.
#[derive(Debug)]
pub enum Abort {
    /// A read failed.
    Read(ReadError),
    /// This router's incarnation is dead or a slot is no longer its own: it may never commit again (G15).
    Fenced,
    /// The transaction outgrew [`TXN_BYTES_MAX`]: split the batch.
    TooLarge,
}

impl From<ReadError> for Abort {
    fn from(error: ReadError) -> Self {
        Abort::Read(error)
    }
}

/// The body of a transaction. It may be run several times; only the attempt that committed counts.
pub type Body<'a> = dyn FnMut(&mut dyn Txn) -> Result<(), Abort> + 'a;

/// A store engine.
pub trait Engine: Send + Sync + 'static {
    /// How many commits may be in flight side by side, one per commit lane.
    fn lanes_count(&self) -> u16;

    /// One lane more, for what routers say about themselves: a beat does not wait for a batch of messages.
    fn control_lane(&self) -> u16 {
        self.lanes_count()
    }

    /// Runs `body` once and commits what it wrote. Returns only when the outcome is known as far as it ever will be:
    /// `Ok` means durable and visible to every snapshot opened from now on. At most one call per `lane` at a time; lanes
    /// are those below [`Engine::lanes_count`] and [`Engine::control_lane`].
    ///
    /// # Errors
    /// By what the caller can do about it, see [`CommitError`].
    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError>;

    /// A view of everything that is durable now.
    ///
    /// # Errors
    /// The engine could not read; see [`ReadError`].
    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError>;

    /// Called when there has been no commit for a second, and at drain: the engine may tidy its tail (the embedded log
    /// appends an empty record, so that nothing older can be mistaken for a torn last one).
    ///
    /// # Errors
    /// As [`Engine::commit`].
    fn idle(&self) -> Result<(), CommitError> {
        Ok(())
    }

    /// Flushes and closes; a clean shutdown.
    ///
    /// # Errors
    /// As [`Engine::commit`].
    fn close(&self) -> Result<(), CommitError> {
        Ok(())
    }

    /// Numbers for the metrics page, always the same ones.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
}
