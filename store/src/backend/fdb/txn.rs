//! A FoundationDB transaction as ours: to read only, or to be committed.

#![expect(clippy::disallowed_methods, reason = "ground floor: the clock for bounds and counters")]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use foundationdb::future::FdbSlice;
use foundationdb::options::{ConflictRangeType, StreamingMode, TransactionOption};
use foundationdb::{Database, FdbResult, RangeOption, Transaction};

use super::engine::Counters;
use super::prefix::Prefix;
use super::wait::wait_until;
use super::{ANSWER_MAX, BODY_MAX, FDB_TXN_BYTES_MAX, PREFETCH_KEYS_MAX, TXN_MS_MAX, codes};
use crate::error::{CommitError, ReadError};
use crate::keys;
use crate::txn::{KEY_BYTES_MAX, Read, Row, TXN_BYTES_MAX, Txn, VALUE_BYTES_MAX};

/// A value on its way.
type Fetch = Box<dyn Future<Output = FdbResult<Option<FdbSlice>>> + Send + Unpin>;

/// A transaction with a read version: everything that was committed and answered before it began.
pub(super) struct Session<'a> {
    transaction: Transaction,
    prefix: &'a Prefix,
    counters: &'a Counters,
    /// Reads that nothing has to conflict with.
    is_snapshot: bool,
    deadline: Instant,
    fetches: BTreeMap<Bytes, Fetch>,
}

impl<'a> Session<'a> {
    pub(super) fn begin(
        database: &Database,
        prefix: &'a Prefix,
        counters: &'a Counters,
        is_snapshot: bool,
    ) -> Result<Session<'a>, ReadError> {
        let created = database.create_trx().and_then(|transaction| {
            transaction.set_option(TransactionOption::Timeout(i32::from(TXN_MS_MAX)))?;
            transaction.set_option(TransactionOption::SizeLimit(FDB_TXN_BYTES_MAX.cast_signed()))?;
            Ok(transaction)
        });
        let transaction = created.map_err(|error| counters.read_failed(error))?;
        let deadline = Instant::now() + ANSWER_MAX;
        let session =
            Session { transaction, prefix, counters, is_snapshot, deadline, fetches: BTreeMap::new() };
        session.wait(session.transaction.get_read_version())?;
        Ok(session)
    }

    /// Blocks until FoundationDB has answered.
    fn wait<T>(&self, answer: impl Future<Output = FdbResult<T>> + Unpin) -> Result<T, ReadError> {
        let began = Instant::now();
        let answered = wait_until(answer, self.deadline);
        self.counters.reads.add(began.elapsed());
        match answered {
            Some(answered) => answered.map_err(|error| self.counters.read_failed(error)),
            None => Err(ReadError::Again("FoundationDB's client does not answer".to_owned())),
        }
    }

    fn fetch(&self, key: &[u8], is_snapshot: bool) -> Fetch {
        Box::new(self.transaction.get(&self.prefix.key(key), is_snapshot))
    }

    /// From now on what is committed here conflicts with whoever changes `key` after this session's version.
    fn rely_on(&self, key: &[u8]) -> Result<(), ReadError> {
        let (from, to) = (self.prefix.key(key), self.prefix.key(&keys::after(key)));
        let added = self.transaction.add_conflict_range(&from, &to, ConflictRangeType::Read);
        added.map_err(|error| self.counters.read_failed(error))
    }

    fn prefetch(&mut self, keys: &[Bytes]) {
        for key in keys {
            if self.fetches.len() >= PREFETCH_KEYS_MAX {
                return;
            }
            if !self.fetches.contains_key(key) {
                // As of a snapshot: only what is asked for is relied on.
                let fetch = self.fetch(key, true);
                self.fetches.insert(key.clone(), fetch);
            }
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let value = match self.fetches.remove(key) {
            Some(fetch) => {
                if !self.is_snapshot {
                    self.rely_on(key)?;
                }
                self.wait(fetch)?
            }
            None => self.wait(self.fetch(key, self.is_snapshot))?,
        };
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(
        &mut self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        is_reverse: bool,
    ) -> Result<Vec<Row>, ReadError> {
        // Both mean something else to FoundationDB: everything, and an error.
        if limit == 0 || from >= to {
            return Ok(Vec::new());
        }
        let mut next = Some(RangeOption {
            limit: Some(limit),
            mode: StreamingMode::WantAll,
            reverse: is_reverse,
            ..RangeOption::from((self.prefix.key(from), self.prefix.key(to)))
        });
        let mut rows = Vec::new();
        // Each part has a row at least, or it is the last: an empty one that promises more is not taken for the end.
        while let Some(range) = next {
            let part = self.wait(self.transaction.get_range(&range, 1, self.is_snapshot))?;
            for row in &part {
                let key = self.prefix.strip(row.key()).ok_or_else(|| {
                    ReadError::Fatal("FoundationDB returned a row outside of the range".to_owned())
                })?;
                rows.push((key, Bytes::copy_from_slice(row.value())));
            }
            if part.more() && part.is_empty() {
                return Err(ReadError::Again("FoundationDB returned an empty part of a range".to_owned()));
            }
            next = range.next_range(&part);
        }
        Ok(rows)
    }
}

/// What is durable, at one version.
pub(super) struct View<'a>(Session<'a>);

impl<'a> View<'a> {
    pub(super) fn new(session: Session<'a>) -> View<'a> {
        View(session)
    }
}

impl Read for View<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.0.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.0.range(from, to, limit, reverse)
    }

    fn prefetch(&mut self, keys: &[Bytes]) {
        self.0.prefetch(keys);
    }

    fn fetches_ahead(&self) -> bool {
        true
    }
}

/// A transaction being built.
pub(super) struct FdbTxn<'a> {
    session: Session<'a>,
    began: Instant,
    /// Its own writes; `None` removes. FoundationDB knows them too, but only its network thread could say so.
    writes: BTreeMap<Bytes, Option<Bytes>>,
    written_bytes: usize,
    is_too_large: bool,
    /// What FoundationDB said of something that has no answer of its own. Nothing is committed then.
    failure: Option<ReadError>,
}

impl<'a> FdbTxn<'a> {
    pub(super) fn new(session: Session<'a>) -> FdbTxn<'a> {
        FdbTxn {
            session,
            began: Instant::now(),
            writes: BTreeMap::new(),
            written_bytes: 0,
            is_too_large: false,
            failure: None,
        }
    }

    /// The one commit of this transaction.
    pub(super) fn commit(self, deadline: Instant) -> Result<(), CommitError> {
        if let Some(failure) = self.failure {
            return Err(crate::txn::Abort::Read(failure).into());
        }
        if self.is_too_large || self.written_bytes > TXN_BYTES_MAX {
            return Err(CommitError::TooLarge);
        }
        // FoundationDB waits for what was fetched ahead in vain, whether anybody still wants it or not.
        let Session { transaction, counters, .. } = self.session;
        let began = Instant::now();
        let answered = wait_until(transaction.commit(), deadline);
        counters.commits.add(began.elapsed());
        match answered {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                if error.code() == codes::TOO_OLD {
                    counters.too_old.fetch_add(1, Relaxed);
                }
                Err(codes::of_commit(error.code(), error.message()))
            }
            None => Err(CommitError::Unknown),
        }
    }

    /// Whether there is time left for another read.
    fn check_time(&self) -> Result<(), ReadError> {
        if self.began.elapsed() > BODY_MAX {
            return Err(ReadError::Again("the transaction has taken too long".to_owned()));
        }
        Ok(())
    }

    /// A write. What is larger than anything may be is not handed on: nothing of this transaction is committed.
    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        self.written_bytes += key.len() + value_bytes;
        self.is_too_large |=
            key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX || self.written_bytes > TXN_BYTES_MAX;
        if self.is_too_large {
            return;
        }
        let Session { transaction, prefix, .. } = &self.session;
        match &value {
            Some(value) => transaction.set(&prefix.key(&key), value),
            None => transaction.clear(&prefix.key(&key)),
        }
        self.writes.insert(key, value);
    }
}

impl Read for FdbTxn<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if let Some(own) = self.writes.get(key) {
            return Ok(own.clone());
        }
        self.check_time()?;
        self.session.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.check_time()?;
        self.session.range(from, to, limit, reverse)
    }

    fn prefetch(&mut self, keys: &[Bytes]) {
        self.session.prefetch(keys);
    }

    fn fetches_ahead(&self) -> bool {
        true
    }
}

impl Txn for FdbTxn<'_> {
    fn set(&mut self, key: Bytes, value: Bytes) {
        self.write(key, Some(value));
    }

    fn clear(&mut self, key: Bytes) {
        self.write(key, None);
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        if let Err(failure) = self.session.rely_on(key) {
            self.failure = Some(failure);
        }
    }
}
