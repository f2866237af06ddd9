//! Brings a batch to a definite outcome, as far as there is one.
//!
//! # Invariants
//! - An answer comes only from the attempt that committed, or from one that turns out to have committed (F4): every
//!   further attempt first looks whether an event of an earlier one is there, and if so takes over what that one decided.
//!   Else it runs the same operations with nothing cached; where no event tells, they are ones that may be done twice.
//! - Operations commit in their order, also when a batch has to be split: after one whose fate is not definite, none
//!   behind it is tried, so that a sender's messages never overtake each other (G9).
//! - Operations that can't commit, because they are too large or because deciding them panics (F22, F23), are found by
//!   halving and refused alone. What takes too long is halved as well, but one operation alone is never refused for it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::WallMs;

use crate::error::CommitError;
use crate::ops::{self, Claim, Context, append, has_committed};
use crate::txn::{Abort, Engine, Txn};
use crate::verb::{Op, Outcome, Receipted};

/// How often one batch, or one part of a split one, is tried. Then [`BatchError::Unknown`] if any attempt may have
/// committed, else [`BatchError::Busy`].
pub const ATTEMPTS_MAX: u32 = 32;

/// Why an operation has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It may have been committed, or may be later: the same operation may be sent again and is decided once (G5).
    #[error("unknown outcome")]
    Unknown,
    /// Definitely not committed: too many conflicts, or an operation before it has no outcome. Send it again.
    #[error("not committed, try again")]
    Busy,
    /// Definitely not committed: the disk is nearly full (F12). Send it again later.
    #[error("no space: {free_bytes} bytes free, {reserve_bytes} reserved")]
    Full {
        /// Bytes free on the store's file system.
        free_bytes: u64,
        /// What `store.reserve_bytes` keeps free.
        reserve_bytes: u64,
    },
    /// Another incarnation owns the slot (G15): this one commits nothing any more. The owner decides the same operation
    /// once, also if an attempt here was committed before.
    #[error("fenced: another incarnation owns this slot")]
    Fenced,
    /// The store failed: acknowledge nothing any more and exit (G14).
    #[error("the store failed: {0}")]
    Fatal(String),
}

/// Commits `ops` in their order and returns one result for each, in their order. `pause` is called with the number of the
/// attempt that failed, from 1, before the next one: the place to wait a little.
///
/// A message, a creation or a receipt whose commit was at first unknown and is then found in place is answered as if it
/// had been known: not as a duplicate, and with its event.
pub fn commit_batch(
    engine: &dyn Engine,
    lane: u16,
    context: &mut Context<'_>,
    ops: &[Op],
    pause: &mut dyn FnMut(u32),
) -> Vec<Result<Outcome, BatchError>> {
    let results = Vec::with_capacity(ops.len());
    let mut batch =
        Batch { engine, lane, context, pause, tentative: Tentative::default(), results, stopped: None };
    if !ops.is_empty() {
        batch.commit(ops, false);
    }
    batch.results
}

/// [`ops::claim`], committed: run again until it is definite. An attempt of unknown outcome may have taken a number that
/// nobody uses.
///
/// # Errors
/// As of an operation in [`commit_batch`].
pub fn claim(engine: &dyn Engine, now: WallMs, pause: &mut dyn FnMut(u32)) -> Result<Claim, BatchError> {
    commit_one(engine, 0, &mut |txn| ops::claim(txn, now), pause)
}

/// One of the verbs by which routers share the slots ([`ops::join`], [`ops::take`] and the like), committed: run again
/// until it is definite, which each of them may be. `lane` has nothing else in flight: [`Engine::control_lane`].
///
/// # Errors
/// As of an operation in [`commit_batch`]; one that is too large for the engine is [`BatchError::Fatal`].
pub fn commit_one<T>(
    engine: &dyn Engine,
    lane: u16,
    body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
    pause: &mut dyn FnMut(u32),
) -> Result<T, BatchError> {
    let mut is_unsure = false;
    for attempt in 1..=ATTEMPTS_MAX {
        let (error, _) = match run(engine, lane, body) {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        match error {
            CommitError::Conflict | CommitError::Slow => {}
            CommitError::Unknown => is_unsure = true,
            CommitError::Full { free_bytes, reserve_bytes } => {
                return Err(BatchError::Full { free_bytes, reserve_bytes });
            }
            CommitError::Fenced => return Err(BatchError::Fenced),
            CommitError::Fatal(reason) => return Err(BatchError::Fatal(reason)),
            CommitError::TooLarge => {
                return Err(BatchError::Fatal("the engine has no room for the rows of all slots".to_owned()));
            }
        }
        pause(attempt);
    }
    Err(exhausted(is_unsure))
}

fn exhausted(is_unsure: bool) -> BatchError {
    if is_unsure { BatchError::Unknown } else { BatchError::Busy }
}

struct Batch<'a, 'c> {
    engine: &'a dyn Engine,
    lane: u16,
    context: &'a mut Context<'c>,
    pause: &'a mut dyn FnMut(u32),
    tentative: Tentative,
    results: Vec<Result<Outcome, BatchError>>,
    /// What the operations behind an indefinite one are answered with.
    stopped: Option<BatchError>,
}

/// What became of one part of a batch.
enum Verdict {
    Committed(Vec<Outcome>),
    /// It cannot be committed as one; alone, an operation of it would be refused like this.
    Split(Refusal),
    Failed(BatchError),
}

impl Batch<'_, '_> {
    /// Commits the next part, splitting it where it must be: the depth is the logarithm of its length. `is_unsure` says that
    /// an attempt at a larger part may have committed these operations.
    fn commit(&mut self, ops: &[Op], mut is_unsure: bool) {
        if let Some(stopped) = &self.stopped {
            self.results.extend(ops.iter().map(|_| Err(stopped.clone())));
            return;
        }
        match self.settle(ops, &mut is_unsure) {
            Verdict::Committed(outcomes) => self.results.extend(outcomes.into_iter().map(Ok)),
            Verdict::Split(_) if ops.len() > 1 => {
                let (first, rest) = ops.split_at(ops.len() / 2);
                self.commit(first, is_unsure);
                self.commit(rest, is_unsure);
            }
            Verdict::Split(_) if is_unsure => self.stop(ops, BatchError::Unknown),
            Verdict::Split(refusal) => self.results.push(Ok(Outcome::Refused(refusal))),
            Verdict::Failed(error) => self.stop(ops, error),
        }
    }

    fn stop(&mut self, ops: &[Op], error: BatchError) {
        self.results.extend(ops.iter().map(|_| Err(error.clone())));
        self.stopped = Some(if error == BatchError::Unknown { BatchError::Busy } else { error });
    }

    /// Tries until the outcome is definite or [`ATTEMPTS_MAX`] is met.
    fn settle(&mut self, ops: &[Op], is_unsure: &mut bool) -> Verdict {
        let offset = self.results.len();
        for attempt in 1..=ATTEMPTS_MAX {
            let (context, tentative) = (&mut *self.context, &self.tentative);
            let mut panicked = false;
            let committed = run(self.engine, self.lane, &mut |txn| {
                let decide = || match tentative.committed(txn, context, offset, ops)? {
                    Some(outcomes) => Ok(outcomes),
                    None => append(txn, context, ops),
                };
                let decided = catch_unwind(AssertUnwindSafe(decide));
                // The engine only has to drop what was written so far; it never sees the unwinding.
                decided.unwrap_or_else(|_| {
                    panicked = true;
                    Err(Abort::TooLarge)
                })
            });
            let (error, outcomes) = match committed {
                Ok(mut outcomes) => {
                    self.context.ids.committed();
                    self.tentative.settle(offset, &mut outcomes);
                    return Verdict::Committed(outcomes);
                }
                Err(failed) => failed,
            };
            match error {
                CommitError::Conflict => {}
                CommitError::Unknown => {
                    *is_unsure = true;
                    self.tentative.remember(offset, outcomes.unwrap_or_default());
                }
                // A part of it takes less time. One operation alone is not to blame for a slow engine: it is run again.
                CommitError::Slow if ops.len() > 1 => return Verdict::Split(too_large()),
                CommitError::Slow => {}
                CommitError::TooLarge => {
                    return Verdict::Split(if panicked { poison() } else { too_large() });
                }
                CommitError::Full { .. } if *is_unsure => return Verdict::Failed(BatchError::Unknown),
                CommitError::Full { free_bytes, reserve_bytes } => {
                    return Verdict::Failed(BatchError::Full { free_bytes, reserve_bytes });
                }
                CommitError::Fenced => return Verdict::Failed(BatchError::Fenced),
                CommitError::Fatal(reason) => return Verdict::Failed(BatchError::Fatal(reason)),
            }
            (self.pause)(attempt);
        }
        Verdict::Failed(exhausted(*is_unsure))
    }
}

/// What attempts of unknown outcome would have answered.
#[derive(Default)]
struct Tentative {
    /// Each: where its part of the batch begins, and what it decided.
    attempts: Vec<(usize, Vec<Outcome>)>,
    /// Watermarks by the index of their operation.
    receipts: BTreeMap<usize, Receipted>,
}

impl Tentative {
    fn remember(&mut self, offset: usize, outcomes: Vec<Outcome>) {
        for (index, outcome) in (offset..).zip(&outcomes) {
            if let Outcome::Receipted(receipted) = outcome {
                self.receipts.entry(index).or_insert(*receipted);
            }
        }
        self.attempts.push((offset, outcomes));
    }

    /// What the attempt that has committed decided of the part of a batch that begins at `offset`: that is what counts, and
    /// deciding it once more would put behind its events what it had refused. `None`: none has, or none that made an event;
    /// those that made none may as well be made again.
    fn committed(
        &self,
        txn: &mut dyn Txn,
        context: &mut Context<'_>,
        offset: usize,
        ops: &[Op],
    ) -> Result<Option<Vec<Outcome>>, Abort> {
        for (from, outcomes) in &self.attempts {
            let Some(decided) =
                offset.checked_sub(*from).and_then(|skipped| outcomes.get(skipped..skipped + ops.len()))
            else {
                continue;
            };
            let made = outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Appended(appended) if !appended.duplicate => Some(appended),
                _ => None,
            });
            if let Some(event) = made
                && has_committed(txn, context, ops, event)?
            {
                return Ok(Some(decided.to_vec()));
            }
        }
        Ok(None)
    }

    /// What an attempt that made no event has moved already counts as moved by this one.
    fn settle(&self, offset: usize, outcomes: &mut [Outcome]) {
        for (index, outcome) in (offset..).zip(outcomes) {
            if let Outcome::Receipted(receipted) = outcome
                && let Some(earlier) = self.receipts.get(&index)
            {
                receipted.delivered.0 = receipted.delivered.0.min(earlier.delivered.0);
                receipted.read.0 = receipted.read.0.min(earlier.read.0);
            }
        }
    }
}

fn too_large() -> Refusal {
    Refusal::new(Code::TooLarge, "the request is too large to be stored")
}

fn poison() -> Refusal {
    Refusal::new(Code::Internal, "the request could not be decided; it had no effect")
}

/// One commit: the value of the body, if that very run is durable; else why not, and the value it would have had.
fn run<T>(
    engine: &dyn Engine,
    lane: u16,
    body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
) -> Result<T, (CommitError, Option<T>)> {
    let mut value = None;
    let committed = engine.commit(lane, &mut |txn| {
        value = Some(body(txn)?);
        Ok(())
    });
    match (committed, value) {
        (Ok(()), Some(value)) => Ok(value),
        (Ok(()), None) => {
            Err((CommitError::Fatal("the engine committed without running the body".to_owned()), None))
        }
        (Err(error), value) => Err((error, value)),
    }
}
