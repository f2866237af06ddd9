//! What a run has to reach: `ack_p99_ms<50`, a figure of [`FIGURES`](crate::figures::FIGURES), a comparison, a bound.
//! Looked at once, at the end, over the whole measured time.
//!
//! # Invariants
//! - Pure. A run that says nothing, or that broke a promise, is told as such, whatever its thresholds.

use std::fmt;
use std::str::FromStr;

use crate::figures::{self, Figure};
use crate::report::{GOOD, MISSED, Report, ThresholdReport, Word};

/// A bound on a figure.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    figure: &'static Figure,
    comparison: Comparison,
    bound: f64,
}

#[derive(Clone, Copy, Debug)]
struct Comparison {
    sign: &'static str,
    holds: fn(f64, f64) -> bool,
}

/// The longer before the shorter, which they begin with.
const COMPARISONS: [Comparison; 4] = [
    Comparison { sign: "<=", holds: |value, bound| value <= bound },
    Comparison { sign: ">=", holds: |value, bound| value >= bound },
    Comparison { sign: "<", holds: |value, bound| value < bound },
    Comparison { sign: ">", holds: |value, bound| value > bound },
];

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let form = || format!("{text} is not of the form ack_p99_ms<50");
        let sign_at = text.find(['<', '>']).ok_or_else(form)?;
        let (name, rest) = text.split_at(sign_at);
        let figure = figures::by_name(name.trim())?;
        let comparison = COMPARISONS.into_iter().find(|each| rest.starts_with(each.sign)).ok_or_else(form)?;
        let bound: f64 = rest[comparison.sign.len()..].trim().parse().map_err(|_| form())?;
        if !bound.is_finite() {
            return Err(form());
        }
        Ok(Threshold { figure, comparison, bound })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}{}", self.figure.name, self.comparison.sign, self.bound)
    }
}

impl Threshold {
    /// The name of its figure.
    #[must_use]
    pub fn figure(&self) -> &'static str {
        self.figure.name
    }

    fn check(&self, report: &Report) -> ThresholdReport {
        let value = (self.figure.of)(report);
        // What the run does not know it does not reach.
        let is_met = value.is_some_and(|value| (self.comparison.holds)(value, self.bound));
        ThresholdReport { threshold: self.to_string(), value, is_met }
    }
}

/// Checks all of them, and lets a run that was good miss them.
pub fn apply(thresholds: &[Threshold], report: &mut Report) {
    report.thresholds = thresholds.iter().map(|threshold| threshold.check(report)).collect();
    if report.exit == GOOD && !report.thresholds.iter().all(|threshold| threshold.is_met) {
        report.exit = MISSED;
        report.verdict = Word::Missed;
    }
}

/// Checks more of them, beside those that were checked.
pub fn apply_more(thresholds: &[Threshold], report: &mut Report) {
    let checked = std::mem::take(&mut report.thresholds);
    apply(thresholds, report);
    report.thresholds.splice(0..0, checked);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;
    use crate::stats::Summary;

    fn applied(texts: &[&str], mut report: Report) -> Report {
        report.whole.to_ack_us = Summary { count: 100, p99_us: 50_000, ..Summary::default() };
        let thresholds: Vec<Threshold> = texts.iter().map(|text| text.parse().unwrap()).collect();
        apply(&thresholds, &mut report);
        report
    }

    #[test]
    fn each_comparison_is_what_it_says() {
        for (text, is_met) in [
            ("ack_p99_ms<50", false),
            ("ack_p99_ms<=50", true),
            ("ack_p99_ms > 49.9", true),
            ("ack_p99_ms>=50.1", false),
            ("reconnects<1", true),
            ("bytes_per_connection<1000", false),
        ] {
            let report = applied(&[text], report::sample());
            assert_eq!((report.thresholds[0].is_met, report.exit == GOOD), (is_met, is_met), "{text}");
        }
    }

    #[test]
    fn one_that_is_missed_is_named_and_the_others_too() {
        let report =
            applied(&["ack_p99_ms<50", "achieved_share>0", "cpu_us_per_message<9"], report::sample());
        assert_eq!((report.exit, report.verdict), (99, Word::Missed));
        let text = report::text::lines(&report);
        assert!(text.contains("MISSED: ack_p99_ms<50, and it is 50"), "{text}");
        assert!(text.contains("met: achieved_share>0"), "{text}");
        assert!(text.contains("MISSED: cpu_us_per_message<9, and this run does not know it"), "{text}");
        assert!(text.ends_with("\nMISSED"), "{text}");
    }

    #[test]
    fn a_run_that_says_nothing_does_not_miss() {
        let mut invalid = report::sample();
        (invalid.exit, invalid.verdict) = (report::INVALID, Word::Invalid);
        let report = applied(&["ack_p99_ms<1"], invalid);
        assert_eq!((report.exit, report.verdict, report.thresholds[0].is_met), (3, Word::Invalid, false));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (text, words) in [
            ("ack_p99_ms", "form"),
            ("ack_p99_ms<", "form"),
            ("ack_p99_ms<x", "form"),
            ("ack_p99_ms<inf", "form"),
            ("speed<1", "no figure"),
        ] {
            let sentence = text.parse::<Threshold>().unwrap_err();
            assert!(sentence.contains(words), "{text}: {sentence}");
        }
    }
}
