//! What an engine counts, as it goes onto the metrics page: names and helps, and what all engines count alike.
//!
//! # Invariants
//! - A closed set: no name and no label comes from a user, and an engine always has the same ones.
//! - Counters only rise. They are read one by one: what is shown is near one moment, not of one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::error::CommitError;

/// A number, or some that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Without `carillon_` and `_total`; with its unit at the end.
    pub name: &'static str,
    /// What it is, for who reads the page.
    pub help: &'static str,
    /// How much.
    pub value: Value,
}

/// How much of something there is, or was.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// What only ever grows.
    Count(u64),
    /// Time that only ever grows, in nanoseconds.
    TimeNs(u64),
    /// What goes up and down.
    Level(u64),
    /// Counts under a label that is called `outcome`.
    Outcomes(Vec<(&'static str, u64)>),
    /// How long something took.
    Times(TimesRead),
}

impl Figure {
    /// What only ever grows.
    #[must_use]
    pub fn count(name: &'static str, help: &'static str, counter: &AtomicU64) -> Figure {
        Figure { name, help, value: Value::Count(counter.load(Relaxed)) }
    }

    /// Time that only ever grows.
    #[must_use]
    pub fn time(name: &'static str, help: &'static str, counter_ns: &AtomicU64) -> Figure {
        Figure { name, help, value: Value::TimeNs(counter_ns.load(Relaxed)) }
    }

    /// What goes up and down.
    #[must_use]
    pub fn level(name: &'static str, help: &'static str, level: u64) -> Figure {
        Figure { name, help, value: Value::Level(level) }
    }
}

/// What is shown as `name`; of a label's values the one that is called `outcome`. Of times: how many.
///
/// # Panics
/// When there is no such figure.
#[must_use]
pub fn read(figures: &[Figure], name: &str, outcome: Option<Outcome>) -> u64 {
    let found = figures.iter().find(|figure| figure.name == name).map(|figure| &figure.value);
    match (found, outcome) {
        (Some(Value::Count(value) | Value::TimeNs(value) | Value::Level(value)), None) => *value,
        (Some(Value::Times(times)), None) => times.counts.iter().sum(),
        (Some(Value::Outcomes(counts)), Some(outcome)) => counts[outcome as usize].1,
        _ => panic!("no figure {name} {outcome:?} in {figures:?}"),
    }
}

/// What became of an attempt to commit, as indexes into [`OUTCOMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// Durable.
    Committed,
    /// Refused, because what it relied on had changed; or its reads have to be made again.
    Conflict,
    /// Perhaps committed.
    Unknown,
    /// Larger than the engine takes.
    TooLarge,
    /// It took longer than a transaction lives.
    Slow,
    /// Refused for want of space.
    Full,
    /// Refused, because the owner is another.
    Fenced,
    /// The store failed.
    Failed,
}

/// The values of the label, in the order of [`Outcome`].
pub const OUTCOMES: [&str; 8] =
    ["committed", "conflict", "unknown", "too_large", "slow", "full", "fenced", "failed"];

impl Outcome {
    fn of(committed: &Result<(), CommitError>) -> Outcome {
        match committed {
            Ok(()) => Outcome::Committed,
            Err(CommitError::Conflict) => Outcome::Conflict,
            Err(CommitError::Unknown) => Outcome::Unknown,
            Err(CommitError::TooLarge) => Outcome::TooLarge,
            Err(CommitError::Slow) => Outcome::Slow,
            Err(CommitError::Full { .. }) => Outcome::Full,
            Err(CommitError::Fenced) => Outcome::Fenced,
            Err(CommitError::Fatal(_)) => Outcome::Failed,
        }
    }

    /// Whether the same operations are tried again, at once and on the same lane.
    fn is_tried_again(self) -> bool {
        matches!(self, Outcome::Conflict | Outcome::Unknown | Outcome::Slow)
    }
}

/// Every attempt to commit, by what became of it.
#[derive(Debug)]
pub struct Attempts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    retries: AtomicU64,
    /// For each lane: the last attempt has to be made again.
    is_open: Vec<AtomicBool>,
}

impl Attempts {
    /// For an engine with so many lanes, the control lane among them.
    #[must_use]
    pub fn new(lanes_count: usize) -> Attempts {
        Attempts {
            outcomes: Default::default(),
            retries: AtomicU64::new(0),
            is_open: (0..lanes_count).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// An attempt on `lane` ended.
    pub fn ended(&self, lane: u16, committed: &Result<(), CommitError>) {
        let outcome = Outcome::of(committed);
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        let Some(is_open) = self.is_open.get(usize::from(lane)) else { return };
        if is_open.swap(outcome.is_tried_again(), Relaxed) {
            self.retries.fetch_add(1, Relaxed);
        }
    }

    /// As they stand now.
    #[must_use]
    pub fn figures(&self) -> [Figure; 2] {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        [
            Figure {
                name: "store_attempts",
                help: "Attempts to commit, by what became of them",
                value: Value::Outcomes(OUTCOMES.into_iter().zip(counts).collect()),
            },
            Figure::count(
                "store_retries",
                "Attempts that followed one on the same lane that ended as conflict, unknown or slow",
                &self.retries,
            ),
        ]
    }
}

/// The upper bounds of the buckets of [`Times`], each included: 100 µs to 10 s, in nanoseconds.
pub const BOUNDS_NS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How long something takes, each time. Any thread may add to it.
#[derive(Debug, Default)]
pub struct Times {
    counts: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

/// [`Times`] as they stood.
#[derive(Clone, Debug, PartialEq)]
pub struct TimesRead {
    /// How many fell into each bucket; those above the last bound at the end.
    pub counts: [u64; BOUNDS_NS.len() + 1],
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
}

impl Times {
    /// Once more.
    pub fn add(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_NS.partition_point(|&bound_ns| bound_ns < took_ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(took_ns, Relaxed);
    }

    /// As they stand now.
    #[must_use]
    pub fn figure(&self, name: &'static str, help: &'static str) -> Figure {
        let counts = std::array::from_fn(|index| self.counts[index].load(Relaxed));
        let sum_ns = self.sum_ns.load(Relaxed);
        Figure { name, help, value: Value::Times(TimesRead { counts, sum_ns }) }
    }
}

/// Commits and reads that found their version forgotten. To an attempt that is a conflict.
#[must_use]
pub fn too_old(counter: &AtomicU64) -> Figure {
    Figure::count("store_too_old", "Reads and commits whose version the store no longer kept", counter)
}

/// Snapshots and transactions that are being read.
#[must_use]
pub fn snapshots_open(count: u64) -> Figure {
    Figure::level("store_snapshots_open", "Snapshots and transactions that are being read", count)
}

/// Whether the store has failed for good (G14).
#[must_use]
pub fn failed(is_failed: bool) -> Figure {
    Figure::level(
        "store_failed",
        "1 when the store has failed and acknowledges nothing any more",
        is_failed.into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_what_follows_an_open_attempt_on_its_lane() {
        let attempts = Attempts::new(2);
        let read = |name, outcome| read(&attempts.figures(), name, outcome);
        attempts.ended(0, &Err(CommitError::Unknown));
        attempts.ended(1, &Ok(()));
        assert_eq!(read("store_retries", None), 0, "another lane");
        attempts.ended(0, &Err(CommitError::Conflict));
        attempts.ended(0, &Ok(()));
        attempts.ended(0, &Ok(()));
        attempts.ended(1, &Err(CommitError::TooLarge));
        attempts.ended(1, &Ok(()));
        assert_eq!(read("store_retries", None), 2);
        let expected = [4, 1, 1, 1, 0, 0, 0, 0];
        let outcomes: [Outcome; OUTCOMES.len()] = [
            Outcome::Committed,
            Outcome::Conflict,
            Outcome::Unknown,
            Outcome::TooLarge,
            Outcome::Slow,
            Outcome::Full,
            Outcome::Fenced,
            Outcome::Failed,
        ];
        assert_eq!(outcomes.map(|outcome| read("store_attempts", Some(outcome))), expected);
    }

    #[test]
    fn times_fall_into_the_bucket_that_they_do_not_exceed() {
        let times = Times::default();
        for took_ns in [1, 100_000, 100_001, 10_000_000_000, 10_000_000_001] {
            times.add(Duration::from_nanos(took_ns));
        }
        let Value::Times(read) = times.figure("", "").value else { panic!("times") };
        assert_eq!((read.counts[0], read.counts[1], read.counts[15], read.counts[16]), (2, 1, 1, 1));
        assert_eq!(read.sum_ns, 20_000_200_003);
    }
}
