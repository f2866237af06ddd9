//! What can go wrong with a commit, on purpose: scripted for tests of one case, by chance with a seed for tests of many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chance::Chance;
use crate::txn::TXN_BYTES_MAX;

/// The most late commits that wait at once.
pub(super) const LATE_MAX: usize = 64;

/// One thing that goes wrong with one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not committed: run it again.
    Conflict,
    /// Committed, but the caller is not told.
    UnknownCommitted,
    /// Not committed, but the caller is not told.
    UnknownLost,
    /// The caller is not told, and the commit comes later, unless it conflicts by then: after so many further steps. A
    /// commit of another transaction takes two: before its body runs, and between its body and its own commit.
    UnknownLate {
        /// 0: before the next body.
        steps: u32,
    },
    /// The body's reads fail after so many, because the version it reads is no longer kept. A body that reads less is
    /// refused when it commits.
    TooOld {
        /// 0: none succeeds.
        reads: u32,
    },
    /// Not committed: the body took too long.
    Slow,
    /// Refused before it began: no space.
    Full,
    /// The disk failed: nothing is acknowledged any more.
    Fatal,
}

/// How often faults come by chance: times in 1,000 commits. Those behind one another are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chances {
    /// [`Fault::Conflict`].
    pub conflict: u64,
    /// [`Fault::UnknownCommitted`].
    pub unknown_committed: u64,
    /// [`Fault::UnknownLost`].
    pub unknown_lost: u64,
    /// [`Fault::UnknownLate`].
    pub unknown_late: u64,
    /// Steps of a late commit are drawn below this.
    pub late_steps_max: u32,
    /// [`Fault::TooOld`].
    pub too_old: u64,
    /// Reads before it are drawn below this.
    pub too_old_reads_max: u32,
    /// [`Fault::Slow`].
    pub slow: u64,
}

/// How often commits met what, so far: by a script or by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// [`Fault::Conflict`].
    pub conflict: u64,
    /// [`Fault::UnknownCommitted`], [`Fault::UnknownLost`] and [`Fault::UnknownLate`].
    pub unknown: u64,
    /// [`Fault::TooOld`].
    pub too_old: u64,
    /// [`Fault::Slow`].
    pub slow: u64,
}

/// Called in the middle of a commit, with its number: between its reads and its writes.
pub type Hook = Arc<dyn Fn(u64) + Send + Sync>;

/// The handle on what goes wrong; clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    script: VecDeque<Option<Fault>>,
    chances: Option<(Chance, Chances)>,
    is_full: bool,
    txn_bytes_max: Option<usize>,
    hook: Option<Hook>,
    snapshots: VecDeque<u32>,
    commits_count: u64,
    met: Met,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("script", &self.script)
            .field("is_full", &self.is_full)
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// The next commits go as told, one entry each; `None` goes well. Behind what is scripted already.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().script.extend(faults);
    }

    /// Commits beyond the script go wrong by chance. The same seed gives the same faults in the same order.
    pub fn seed(&self, seed: u64, chances: Chances) {
        self.lock().chances = Some((Chance::new(seed), chances));
    }

    /// From now on everything goes well, but for the hook.
    pub fn calm(&self) {
        let mut state = self.lock();
        state.chances = None;
        state.script.clear();
        state.is_full = false;
        state.txn_bytes_max = None;
        state.snapshots.clear();
    }

    /// Each of the next snapshots can be read so often and is too old then. Behind what is said already.
    pub fn age_snapshots(&self, reads: impl IntoIterator<Item = u32>) {
        self.lock().snapshots.extend(reads);
    }

    /// Whether the disk is full until further notice (F12).
    pub fn full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// From now on a transaction that writes more bytes of keys and values than this is too large (F23).
    pub fn limit_txn_bytes(&self, txn_bytes_max: usize) {
        self.lock().txn_bytes_max = Some(txn_bytes_max);
    }

    /// Called in the middle of every commit: to make it slow, or to do something at just that moment.
    pub fn hook(&self, hook: Option<Hook>) {
        self.lock().hook = hook;
    }

    /// What the next commit meets.
    pub(super) fn plan(&self) -> Option<Fault> {
        let mut state = self.lock();
        state.commits_count += 1;
        if state.is_full {
            return Some(Fault::Full);
        }
        let fault = match state.script.pop_front() {
            Some(scripted) => scripted,
            None => state.chances.as_mut().and_then(|(chance, chances)| chances.draw(chance)),
        };
        state.met.count(fault);
        fault
    }

    /// How often commits met what.
    #[must_use]
    pub fn met(&self) -> Met {
        self.lock().met
    }

    /// How often the next snapshot can be read, if there is a bound.
    pub(super) fn plan_snapshot(&self) -> Option<u32> {
        self.lock().snapshots.pop_front()
    }

    pub(super) fn txn_bytes_max(&self) -> usize {
        self.lock().txn_bytes_max.unwrap_or(TXN_BYTES_MAX)
    }

    pub(super) fn run_hook(&self) {
        let (hook, commits_count) = {
            let state = self.lock();
            (state.hook.clone(), state.commits_count)
        };
        if let Some(hook) = hook {
            hook(commits_count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Met {
    fn count(&mut self, fault: Option<Fault>) {
        let counter = match fault {
            Some(Fault::Conflict) => &mut self.conflict,
            Some(Fault::UnknownCommitted | Fault::UnknownLost | Fault::UnknownLate { .. }) => {
                &mut self.unknown
            }
            Some(Fault::TooOld { .. }) => &mut self.too_old,
            Some(Fault::Slow) => &mut self.slow,
            Some(Fault::Full | Fault::Fatal) | None => return,
        };
        *counter += 1;
    }
}

impl Chances {
    fn draw(&self, chance: &mut Chance) -> Option<Fault> {
        let drawn = chance.below(1_000);
        let steps = chance.below(u64::from(self.late_steps_max)) as u32;
        let reads = chance.below(u64::from(self.too_old_reads_max)) as u32;
        let table = [
            (self.conflict, Fault::Conflict),
            (self.unknown_committed, Fault::UnknownCommitted),
            (self.unknown_lost, Fault::UnknownLost),
            (self.unknown_late, Fault::UnknownLate { steps }),
            (self.too_old, Fault::TooOld { reads }),
            (self.slow, Fault::Slow),
        ];
        let mut below = 0;
        for (times, fault) in table {
            below += times;
            if drawn < below {
                return Some(fault);
            }
        }
        None
    }
}
