//! The course of a run: what happened in each row of time, a second long in any run that is shorter than two hours.
//!
//! Messages count where they were meant to leave; answers, deliveries and errors where they came, with the latency they
//! had by then.
//!
//! # Invariants
//! - Pure: handed row numbers and durations.
//! - A thread keeps a handful of rows: those that are over are taken from it while it runs. Rows that were taken do not
//!   change any more.

use std::collections::{BTreeMap, VecDeque};

use crate::hlog::RowLog;
use crate::stats::{Latency, Summary};

/// Rows that a report has at most; a longer run has longer rows.
pub const ROWS_MAX: u64 = 7_200;

/// Rows that a thread holds at most; if nobody takes them for so long, the last one swallows what comes.
const HELD_MAX: usize = 60;

/// How long a row of a run of this length is, in nanoseconds: whole seconds.
#[must_use]
pub fn row_ns(run_ns: u64) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    (run_ns / SECOND_NS / ROWS_MAX + 1) * SECOND_NS
}

/// What happened in one row.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// Messages meant to leave in it.
    pub intended_count: u64,
    /// Refusals that came in it, those after which a message is offered again included.
    pub refused_count: u64,
    /// Connections lost in it, and errors about no message.
    pub error_count: u64,
    /// Intended to acknowledged.
    pub to_ack: Latency,
    /// Intended to delivered to another member.
    pub to_delivered: Latency,
}

impl Slot {
    fn merge(&mut self, other: &Slot) {
        self.intended_count += other.intended_count;
        self.refused_count += other.refused_count;
        self.error_count += other.error_count;
        self.to_ack.merge(&other.to_ack);
        self.to_delivered.merge(&other.to_delivered);
    }
}

/// One thread's rows that nobody took yet.
#[derive(Clone, Debug, Default)]
pub struct Series {
    first: u64,
    slots: VecDeque<Slot>,
}

impl Series {
    /// A row to write into. One that was taken already is written as the first that was not.
    pub fn at(&mut self, row: u64) -> &mut Slot {
        if self.slots.is_empty() {
            self.first = self.first.max(row);
        }
        let place = usize::try_from(row.saturating_sub(self.first)).unwrap_or(usize::MAX).min(HELD_MAX - 1);
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, Slot::default);
        }
        &mut self.slots[place]
    }

    /// Takes the rows before this one.
    pub fn take_before(&mut self, row: u64) -> Vec<(u64, Slot)> {
        let count = usize::try_from(row.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let taken = (self.first..).zip(self.slots.drain(..count.min(self.slots.len()))).collect();
        self.first = self.first.max(row);
        taken
    }
}

/// One row of a report.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Row {
    /// Where it begins, in seconds since the schedule's start.
    pub t_s: u64,
    /// Messages meant to leave in it.
    pub intended: u64,
    /// Acknowledgements that came in it.
    pub acked: u64,
    /// Deliveries that came in it.
    pub delivered: u64,
    /// Refusals that came in it.
    pub refused: u64,
    /// Connections lost in it, and errors about no message.
    pub errors: u64,
    /// Intended to acknowledged, of those acknowledged in it.
    pub to_ack_us: Summary,
    /// Intended to delivered, of those delivered in it.
    pub to_delivered_us: Summary,
}

/// Every thread's rows together, as far as they are over.
#[derive(Debug)]
pub struct Recorder {
    row_ns: u64,
    next: u64,
    rows: Vec<Row>,
    /// The rows' histograms, when they are kept.
    packed: Option<BTreeMap<u64, RowLog>>,
    /// All rows so far, one histogram.
    to_ack: Latency,
    to_delivered: Latency,
}

impl Recorder {
    /// For rows of this length, whose histograms are kept or not.
    #[must_use]
    pub fn new(row_ns: u64, keeps_histograms: bool) -> Recorder {
        Recorder {
            row_ns: row_ns.max(1),
            next: 0,
            rows: Vec::new(),
            packed: keeps_histograms.then(BTreeMap::new),
            to_ack: Latency::default(),
            to_delivered: Latency::default(),
        }
    }

    /// The row of a time since the start.
    #[must_use]
    pub fn row(&self, elapsed_ns: u64) -> u64 {
        elapsed_ns / self.row_ns
    }

    /// Whether a row is over that was not taken.
    #[must_use]
    pub fn is_behind(&self, elapsed_ns: u64) -> bool {
        self.row(elapsed_ns) > self.next
    }

    /// The rows that were taken.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Intended to acknowledged, and intended to delivered, of all rows that were taken.
    #[must_use]
    pub fn so_far(&self) -> (Summary, Summary) {
        (self.to_ack.summary(), self.to_delivered.summary())
    }

    /// Adds what threads held of the rows before `end`, in any order. Rows in which nothing happened are rows.
    pub fn take(&mut self, end: u64, slots: impl IntoIterator<Item = (u64, Slot)>) {
        let mut merged: BTreeMap<u64, Slot> = BTreeMap::new();
        for (row, slot) in slots {
            merged.entry(row.max(self.next)).or_default().merge(&slot);
        }
        let row_s = self.row_ns / 1_000_000_000;
        for row in self.next..end {
            let t_s = row * row_s;
            let Some(slot) = merged.get(&row) else {
                self.rows.push(Row { t_s, ..Row::default() });
                continue;
            };
            self.to_ack.merge(&slot.to_ack);
            self.to_delivered.merge(&slot.to_delivered);
            if let Some(packed) = &mut self.packed {
                packed.insert(t_s, RowLog::new(&slot.to_ack, &slot.to_delivered));
            }
            self.rows.push(Row {
                t_s,
                intended: slot.intended_count,
                acked: slot.to_ack.0.len(),
                delivered: slot.to_delivered.0.len(),
                refused: slot.refused_count,
                errors: slot.error_count,
                to_ack_us: slot.to_ack.summary(),
                to_delivered_us: slot.to_delivered.summary(),
            });
        }
        self.next = end.max(self.next);
    }

    /// All rows, without those at the end in which nothing happened, and their histograms.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Row>, BTreeMap<u64, RowLog>) {
        let is_empty = |row: &Row| Row { t_s: 0, ..*row } == Row::default();
        while self.rows.last().is_some_and(is_empty) {
            self.rows.pop();
        }
        (self.rows, self.packed.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn threads_add_up_row_by_row_and_rows_without_anything_are_rows() {
        let (mut one, mut two) = (Series::default(), Series::default());
        let mut recorder = Recorder::new(SECOND_NS, true);
        one.at(0).intended_count = 2;
        two.at(0).to_ack.record_ns(5_000_000);
        two.at(2).to_ack.record_ns(7_000_000);
        assert!(!recorder.is_behind(SECOND_NS - 1) && recorder.is_behind(SECOND_NS));
        let slots = [one.take_before(1), two.take_before(1)].concat();
        recorder.take(1, slots);
        assert_eq!(recorder.rows().last().map(|row| (row.t_s, row.intended, row.acked)), Some((0, 2, 1)));
        // Late: its row was taken.
        one.at(0).refused_count += 1;
        let slots = [one.take_before(9), two.take_before(9)].concat();
        recorder.take(9, slots);
        assert_eq!(recorder.so_far().0.count, 2);
        let (rows, packed) = recorder.finish();
        let counts: Vec<_> = rows.iter().map(|row| (row.t_s, row.intended, row.acked, row.refused)).collect();
        assert_eq!(counts, [(0, 2, 1, 0), (1, 0, 0, 1), (2, 0, 1, 0)]);
        assert!(rows[2].to_ack_us.max_us.abs_diff(7_000) < 10);
        let kept = packed.iter().map(|(t_s, row)| (*t_s, row.unpack().unwrap().0.summary()));
        let told = rows.iter().filter(|row| **row != Row { t_s: row.t_s, ..Row::default() });
        assert_eq!(kept.collect::<Vec<_>>(), told.map(|row| (row.t_s, row.to_ack_us)).collect::<Vec<_>>());
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let mut series = Series::default();
        for row in 0..10_000 {
            series.at(row).error_count += 1;
        }
        let taken = series.take_before(u64::MAX);
        assert_eq!(taken.len(), HELD_MAX);
        assert_eq!(taken.iter().map(|(_, slot)| slot.error_count).sum::<u64>(), 10_000);
    }

    #[test]
    fn a_long_run_has_longer_rows() {
        assert_eq!([0, 30, 7_199].map(|s| row_ns(s * SECOND_NS)), [SECOND_NS; 3]);
        let week_ns = 604_800 * SECOND_NS;
        assert!(week_ns / row_ns(week_ns) <= ROWS_MAX && row_ns(week_ns).is_multiple_of(SECOND_NS));
    }
}
