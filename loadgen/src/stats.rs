//! What a run measures: latencies from the *intended* time of a message, so that waiting in our own queues counts
//! (no coordinated omission), and how late the generator itself was.
//!
//! # Invariants
//! - Pure: handed durations. One per thread, merged at the end; histograms of threads add up, averages never do.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::oracle::Kind;
use crate::series::{Series, Slot};

/// Latencies are kept in microseconds up to this; longer ones count as this long.
pub const LATENCY_US_MAX: u64 = 120_000_000;

const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies in microseconds.
#[derive(Clone, Debug)]
pub struct Latency(pub Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        // The one error is of constants that make no histogram, and these do.
        Latency(Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("bounds in order"))
    }
}

impl Latency {
    /// Adds one.
    pub fn record_ns(&mut self, nanoseconds: u64) {
        self.0.saturating_record((nanoseconds / 1_000).max(1));
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("histograms of the same bounds add up");
    }

    /// A quantile, in microseconds; 0 when nothing was recorded.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(quantile) }
    }

    /// The usual quantiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: if self.0.is_empty() { 0 } else { self.0.max() },
        }
    }
}

/// Quantiles in microseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Half are at most this.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// All.
    pub max_us: u64,
}

/// One step of the rate; a flat run is one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Messages meant to leave in it.
    pub intended_count: u64,
    /// Acknowledgements that came in it.
    pub acked_count: u64,
    /// Deliveries that came in it.
    pub delivered_count: u64,
    /// How much later than intended messages were handed over, by the generator's own fault.
    pub lag: Latency,
    /// Intended to acknowledged.
    pub to_ack: Latency,
    /// Intended to delivered to another member.
    pub to_delivered: Latency,
}

impl Step {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Step) {
        self.intended_count += other.intended_count;
        self.acked_count += other.acked_count;
        self.delivered_count += other.delivered_count;
        self.lag.merge(&other.lag);
        self.to_ack.merge(&other.to_ack);
        self.to_delivered.merge(&other.to_delivered);
    }
}

/// What one thread measured.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By step.
    pub steps: Vec<Step>,
    /// By time, as far as nobody took it.
    pub series: Series,
    /// The row of the series that it is now.
    pub row: u64,
    /// Messages whose intended time came.
    pub due_count: u64,
    /// Of them handed over before the run was over.
    pub on_time_count: u64,
    /// Messages that found too many of their sender's waiting, and were not sent at all.
    pub dropped_count: u64,
    /// Connections that were lost after they stood, whether they were made anew or not.
    pub lost_count: u64,
    /// Of them made anew.
    pub reconnects: u64,
    /// Clients that stopped for good.
    pub stopped: u64,
    /// How often clients were told how another user is.
    pub presence_count: u64,
    /// Heartbeat to its answer.
    pub heartbeat: Latency,
    /// Broken promises that the thread's ledger has seen, by kind: all others are found at the end.
    pub violations: [u64; Kind::ALL.len()],
    /// Errors by code, close codes and broken connections by their words.
    pub troubles: BTreeMap<String, u64>,
}

/// Kinds of trouble that are told apart; a server that invents more has the rest counted as one.
const TROUBLES_MAX: usize = 64;

impl Stats {
    /// The step, made when it is new.
    pub fn step(&mut self, step: usize) -> &mut Step {
        if self.steps.len() <= step {
            self.steps.resize_with(step + 1, Step::default);
        }
        &mut self.steps[step]
    }

    /// What happens now.
    pub fn slot(&mut self) -> &mut Slot {
        self.series.at(self.row)
    }

    /// A message was refused.
    pub fn refused(&mut self, words: &str) {
        self.slot().refused_count += 1;
        self.note(words);
    }

    /// Something went wrong that is not for the oracle, and about no message.
    pub fn trouble(&mut self, words: &str) {
        self.slot().error_count += 1;
        self.note(words);
    }

    fn note(&mut self, words: &str) {
        let known = self.troubles.len() < TROUBLES_MAX || self.troubles.contains_key(words);
        *self.troubles.entry(if known { words } else { "others" }.to_owned()).or_default() += 1;
    }

    /// Adds another thread's; the course of time is not in it.
    pub fn merge(&mut self, other: &Stats) {
        for (index, step) in other.steps.iter().enumerate() {
            self.step(index).merge(step);
        }
        self.due_count += other.due_count;
        self.on_time_count += other.on_time_count;
        self.dropped_count += other.dropped_count;
        self.lost_count += other.lost_count;
        self.reconnects += other.reconnects;
        self.stopped += other.stopped;
        self.presence_count += other.presence_count;
        self.heartbeat.merge(&other.heartbeat);
        for (count, more) in self.violations.iter_mut().zip(other.violations) {
            *count += more;
        }
        for (words, count) in &other.troubles {
            *self.troubles.entry(words.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let (mut one, mut two) = (Stats::default(), Stats::default());
        for ms in 1..=100 {
            one.step(0).to_ack.record_ns(ms * 1_000_000);
            two.step(1).to_ack.record_ns(ms * 2_000_000);
        }
        one.trouble("rate_limited");
        two.trouble("rate_limited");
        one.merge(&two);
        let first = one.step(0).to_ack.summary();
        assert_eq!((first.count, one.steps.len(), one.troubles["rate_limited"]), (100, 2, 2));
        assert!(first.p50_us.abs_diff(50_000) < 100 && first.p99_us.abs_diff(99_000) < 200, "{first:?}");
        assert_eq!(Latency::default().summary(), Summary::default());
    }

    #[test]
    fn the_longest_is_kept_and_kinds_are_bounded() {
        let mut stats = Stats::default();
        stats.step(0).lag.record_ns(u64::MAX);
        assert_eq!(stats.step(0).lag.summary().count, 1);
        for kind in 0..1_000 {
            stats.trouble(&kind.to_string());
        }
        assert_eq!(stats.troubles.len(), TROUBLES_MAX + 1);
        assert_eq!(stats.troubles.values().sum::<u64>(), 1_000);
    }
}
