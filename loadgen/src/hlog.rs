//! The histograms of a run as an interval log of HdrHistogram: what a report says only the quantiles of, whole. So the logs of
//! several workers add up to that of one run ([`merge`](crate::merge)), and any tool that reads such logs reads them.
//!
//! Its tags: `ack`, `delivered` and `lag` of each step, `row.ack` and `row.delivered` of each row of the run's course, `last`
//! and `heartbeat` of the whole run. Values are microseconds, times are seconds since the schedule's start, which is the base
//! time.
//!
//! # Invariants
//! - Pure: text in, text out. What was written is read as it was, bucket by bucket.
//! - A line that is not understood is refused, and so is a histogram that is none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogHistogram, IntervalLogIterator, LogEntry};
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use crate::series::ROWS_MAX;
use crate::stats::Latency;

const ACK: &str = "ack";
const DELIVERED: &str = "delivered";
const LAG: &str = "lag";
const ROW_ACK: &str = "row.ack";
const ROW_DELIVERED: &str = "row.delivered";
const LAST: &str = "last";
const HEARTBEAT: &str = "heartbeat";

/// Lines of a log that is read, at most: far above those of any run.
const LINES_MAX: usize = 4 * ROWS_MAX as usize;

/// Histograms of one step.
#[derive(Clone, Debug, Default)]
pub struct StepLog {
    /// Where it begins, since the schedule's start.
    pub start: Duration,
    /// How long it is.
    pub length: Duration,
    /// Intended to acknowledged.
    pub to_ack: Latency,
    /// Intended to delivered.
    pub to_delivered: Latency,
    /// How late the generator was.
    pub lag: Latency,
}

/// Histograms of one row, in the little room that they take in a log: a long run has thousands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowLog {
    to_ack: Packed,
    to_delivered: Packed,
}

impl RowLog {
    /// Packs them.
    #[must_use]
    pub fn new(to_ack: &Latency, to_delivered: &Latency) -> RowLog {
        RowLog { to_ack: Packed::new(to_ack), to_delivered: Packed::new(to_delivered) }
    }

    /// Intended to acknowledged, of those acknowledged in it; and intended to delivered.
    ///
    /// # Errors
    /// When what was read is no histogram.
    pub fn unpack(&self) -> Result<(Latency, Latency), String> {
        Ok((self.to_ack.unpack()?, self.to_delivered.unpack()?))
    }
}

/// A log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// When the schedule started: milliseconds of Unix time.
    pub start_wall_ms: u64,
    /// By step.
    pub steps: Vec<StepLog>,
    /// By where the row begins, in seconds since the schedule's start.
    pub rows: BTreeMap<u64, RowLog>,
    /// How long a row is.
    pub row_s: u64,
    /// Intended to the last member of a group.
    pub to_last: Latency,
    /// Heartbeats to their answers.
    pub heartbeat: Latency,
}

impl Log {
    /// Writes it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = "#microseconds from the intended time\n".to_owned();
        let _ = writeln!(
            out,
            "#[BaseTime: {:.3} (seconds since epoch)]\n#[MaxValueDivisor: {MAX_DIVISOR:.3}]",
            self.start_wall_ms as f64 / 1e3
        );
        let row = Duration::from_secs(self.row_s);
        for (t_s, packed) in &self.rows {
            let start = Duration::from_secs(*t_s);
            line(&mut out, ROW_ACK, start, row, &packed.to_ack);
            line(&mut out, ROW_DELIVERED, start, row, &packed.to_delivered);
        }
        for StepLog { start, length, to_ack, to_delivered, lag } in &self.steps {
            for (tag, latency) in [(ACK, to_ack), (DELIVERED, to_delivered), (LAG, lag)] {
                line(&mut out, tag, *start, *length, &Packed::new(latency));
            }
        }
        let whole = self.steps.iter().map(|step| step.start + step.length).max().unwrap_or_default();
        for (tag, latency) in [(LAST, &self.to_last), (HEARTBEAT, &self.heartbeat)] {
            line(&mut out, tag, Duration::ZERO, whole, &Packed::new(latency));
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn parse(text: &str) -> Result<Log, String> {
        let mut log = Log::default();
        // Of each step there are three lines, which belong together by when it begins.
        let mut steps: BTreeMap<Duration, StepLog> = BTreeMap::new();
        for (place, entry) in IntervalLogIterator::new(text.as_bytes()).enumerate() {
            if place >= LINES_MAX {
                return Err(format!("more than {LINES_MAX} lines"));
            }
            match entry.map_err(|error| format!("not an interval log: {error:?}"))? {
                LogEntry::BaseTime(time) => log.start_wall_ms = time.as_millis() as u64,
                LogEntry::StartTime(_) => {}
                LogEntry::Interval(interval) => log.take(&interval, &mut steps)?,
            }
        }
        log.steps = steps.into_values().collect();
        Ok(log)
    }

    fn take(
        &mut self,
        interval: &IntervalLogHistogram<'_>,
        steps: &mut BTreeMap<Duration, StepLog>,
    ) -> Result<(), String> {
        let (start, length) = (interval.start_timestamp(), interval.duration());
        let packed = Packed::read(interval)?;
        let mut step = |into: fn(&mut StepLog) -> &mut Latency| -> Result<(), String> {
            let step = steps.entry(start).or_insert_with(|| StepLog { start, length, ..StepLog::default() });
            into(step).merge(&packed.unpack()?);
            Ok(())
        };
        match interval.tag().map_or("", |tag| tag.as_str()) {
            ACK => step(|step| &mut step.to_ack)?,
            DELIVERED => step(|step| &mut step.to_delivered)?,
            LAG => step(|step| &mut step.lag)?,
            ROW_ACK => self.row(start, length).to_ack = packed,
            ROW_DELIVERED => self.row(start, length).to_delivered = packed,
            LAST => self.to_last.merge(&packed.unpack()?),
            HEARTBEAT => self.heartbeat.merge(&packed.unpack()?),
            other => return Err(format!("a histogram of {other:?} is none of a run")),
        }
        Ok(())
    }

    fn row(&mut self, start: Duration, length: Duration) -> &mut RowLog {
        self.row_s = length.as_secs();
        self.rows.entry(start.as_secs()).or_default()
    }
}

/// The largest value of a line is written in milliseconds, for people.
const MAX_DIVISOR: f64 = 1_000.0;

fn line(out: &mut String, tag: &str, start: Duration, length: Duration, packed: &Packed) {
    let (start_s, length_s, max) =
        (start.as_secs_f64(), length.as_secs_f64(), packed.max_us as f64 / MAX_DIVISOR);
    let _ = writeln!(out, "Tag={tag},{start_s:.3},{length_s:.3},{max:.3},{}", packed.text());
}

/// A histogram in HdrHistogram's own form of bytes; without any when nothing was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed {
    bytes: Vec<u8>,
    max_us: u64,
}

impl Packed {
    fn new(latency: &Latency) -> Packed {
        if latency.0.is_empty() {
            return Packed::default();
        }
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&latency.0, &mut bytes).expect("writing to memory");
        Packed { bytes, max_us: latency.0.max() }
    }

    fn read(interval: &IntervalLogHistogram<'_>) -> Result<Packed, String> {
        let bytes = STANDARD.decode(interval.encoded_histogram());
        let bytes = bytes.map_err(|error| format!("a histogram is not base64: {error}"))?;
        Ok(Packed { bytes, max_us: (interval.max() * MAX_DIVISOR).max(0.0).round() as u64 })
    }

    /// A log has a histogram on each line, be it of nothing.
    fn text(&self) -> String {
        if self.bytes.is_empty() {
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(&Latency::default().0, &mut bytes).expect("writing to memory");
            return STANDARD.encode(bytes);
        }
        STANDARD.encode(&self.bytes)
    }

    fn unpack(&self) -> Result<Latency, String> {
        let mut latency = Latency::default();
        if self.bytes.is_empty() {
            return Ok(latency);
        }
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut self.bytes.as_slice())
            .map_err(|error| format!("a histogram that is none: {error:?}"))?;
        // Into bounds of our own, so that those of all logs are the same.
        latency.0.add(histogram).map_err(|error| format!("a histogram of other bounds: {error:?}"))?;
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values_us: &[u64]) -> Latency {
        let mut latency = Latency::default();
        values_us.iter().for_each(|us| latency.record_ns(us * 1_000));
        latency
    }

    fn log() -> Log {
        let seconds = Duration::from_secs;
        let step = |start_s, length_s, us: u64| StepLog {
            start: seconds(start_s),
            length: seconds(length_s),
            to_ack: latency(&[us, 2 * us, 119_999_999]),
            to_delivered: latency(&[us]),
            lag: Latency::default(),
        };
        Log {
            start_wall_ms: 1_700_000_000_123,
            steps: vec![step(1, 2, 700), step(3, 9, 1_000)],
            rows: BTreeMap::from([
                (0, RowLog::new(&latency(&[5, 5, 60_000]), &Latency::default())),
                (7, RowLog::new(&Latency::default(), &latency(&[1]))),
            ]),
            row_s: 1,
            to_last: latency(&[33]),
            heartbeat: latency(&[44, 45]),
        }
    }

    #[test]
    fn what_was_written_is_read_bucket_by_bucket() {
        let (log, read) = (log(), Log::parse(&log().text()).unwrap());
        assert_eq!((read.start_wall_ms, read.row_s, read.steps.len()), (1_700_000_000_123, 1, 2));
        for (step, again) in log.steps.iter().zip(&read.steps) {
            assert_eq!((step.start, step.length), (again.start, again.length));
            assert_eq!(
                (&step.to_ack.0, &step.to_delivered.0, &step.lag.0),
                (&again.to_ack.0, &again.to_delivered.0, &again.lag.0)
            );
        }
        for (t_s, row) in &log.rows {
            let ((ack, delivered), (ack_again, delivered_again)) =
                (row.unpack().unwrap(), read.rows[t_s].unpack().unwrap());
            assert_eq!((ack.0, delivered.0), (ack_again.0, delivered_again.0));
        }
        assert_eq!((log.to_last.0, log.heartbeat.0), (read.to_last.0, read.heartbeat.0));
    }

    #[test]
    fn what_is_no_log_of_a_run_is_refused() {
        let good = log().text();
        let first = good.lines().find(|line| line.starts_with("Tag=")).unwrap();
        let (head, histogram) = first.rsplit_once(',').unwrap();
        for (text, words) in [
            ("Tag=ack,1".to_owned(), "not an interval log"),
            (format!("Tag=speed,{}\n", first.split_once(',').unwrap().1), "none of a run"),
            (format!("{head},%%%\n"), "not base64"),
            (format!("{}{}\n", "Tag=ack,0.000,1.000,0.000,", &histogram[..8]), "that is none"),
        ] {
            let sentence = Log::parse(&text).map(|log| log.steps.len()).unwrap_err();
            assert!(sentence.contains(words), "{text}: {sentence}");
        }
        assert!(Log::parse("").unwrap().steps.is_empty());
    }
}
