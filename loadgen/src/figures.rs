//! The figures of a report by name: what thresholds ask for and what is compared.
//!
//! # Invariants
//! - Each figure's name ends in its unit, and is in one row of [`FIGURES`].

use crate::report::Report;
use crate::series::Row;
use crate::stats::Summary;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less is.
    Lower,
    /// More is.
    Higher,
}

/// One figure.
#[derive(Debug)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Whether a comparison that was not told otherwise decides by it.
    pub decides: bool,
    /// Of a report; `None` where the run has no such thing.
    pub of: fn(&Report) -> Option<f64>,
    /// Of a row of its course, where it has one.
    pub of_row: Option<fn(&Row) -> Option<f64>>,
}

fn some(summary: &Summary, us: u64) -> Option<f64> {
    (summary.count > 0).then_some(us as f64 / 1e3)
}

fn heartbeat(report: &Report, rank: fn(&Summary) -> u64) -> Option<f64> {
    let summary = &report.idle.as_ref()?.heartbeat_us;
    some(summary, rank(summary))
}

macro_rules! latency {
    ($name:literal, $decides:literal, $what:ident, $rank:ident) => {
        Figure {
            name: $name,
            better: Better::Lower,
            decides: $decides,
            of: |report| some(&report.whole.$what, report.whole.$what.$rank),
            of_row: Some(|row| some(&row.$what, row.$what.$rank)),
        }
    };
}

const fn whole(name: &'static str, better: Better, decides: bool, of: fn(&Report) -> Option<f64>) -> Figure {
    Figure { name, better, decides, of, of_row: None }
}

/// Every figure.
pub const FIGURES: &[Figure] = &[
    latency!("ack_p50_ms", true, to_ack_us, p50_us),
    latency!("ack_p90_ms", false, to_ack_us, p90_us),
    latency!("ack_p99_ms", true, to_ack_us, p99_us),
    latency!("ack_p999_ms", false, to_ack_us, p999_us),
    latency!("ack_max_ms", false, to_ack_us, max_us),
    latency!("delivered_p50_ms", true, to_delivered_us, p50_us),
    latency!("delivered_p90_ms", false, to_delivered_us, p90_us),
    latency!("delivered_p99_ms", true, to_delivered_us, p99_us),
    latency!("delivered_p999_ms", false, to_delivered_us, p999_us),
    latency!("delivered_max_ms", false, to_delivered_us, max_us),
    Figure {
        name: "achieved_per_s",
        better: Better::Higher,
        decides: true,
        of: |report| (report.whole.intended > 0).then_some(report.whole.achieved_per_s),
        of_row: Some(|row| Some(row.acked as f64)),
    },
    whole("achieved_share", Better::Higher, false, |report| {
        let whole = &report.whole;
        (whole.intended > 0).then(|| whole.to_ack_us.count as f64 / whole.intended as f64)
    }),
    whole("saturates_at_per_s", Better::Higher, true, |report| report.saturates_at_per_s),
    whole("cpu_us_per_message", Better::Lower, true, |report| {
        let cpu = &report.whole.cpu_us_per_message;
        (!cpu.is_empty()).then(|| cpu.values().sum())
    }),
    whole("bytes_per_connection", Better::Lower, true, |report| {
        report.idle.as_ref().map(|idle| idle.bytes_per_connection as f64)
    }),
    whole("cpu_us_per_connection_s", Better::Lower, false, |report| {
        report.idle.as_ref().map(|idle| idle.cpu_us_per_connection_s)
    }),
    whole("connections_lost", Better::Lower, false, |report| {
        report.idle.as_ref().map(|idle| idle.lost as f64)
    }),
    whole("heartbeat_p50_ms", Better::Lower, false, |report| heartbeat(report, |summary| summary.p50_us)),
    whole("heartbeat_p99_ms", Better::Lower, false, |report| heartbeat(report, |summary| summary.p99_us)),
    whole("heartbeat_max_ms", Better::Lower, false, |report| heartbeat(report, |summary| summary.max_us)),
    whole("lag_p99_ms", Better::Lower, false, |report| {
        some(&report.whole.generator_lag_us, report.whole.generator_lag_us.p99_us)
    }),
    whole("refused", Better::Lower, false, |report| {
        Some(report.series.rows.iter().map(|row| row.refused).sum::<u64>() as f64)
    }),
    whole("errors", Better::Lower, false, |report| {
        Some(report.series.rows.iter().map(|row| row.errors).sum::<u64>() as f64)
    }),
    whole("reconnects", Better::Lower, false, |report| Some(report.generator.reconnects as f64)),
];

/// The figure of a name.
///
/// # Errors
/// One sentence with the names there are.
pub fn by_name(name: &str) -> Result<&'static Figure, String> {
    FIGURES.iter().find(|figure| figure.name == name).ok_or_else(|| {
        let names: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        format!("{name} is no figure; there are {}", names.join(", "))
    })
}
