//! Is a run worse than another? Figure by figure the ratio, how sure it is, and a word.
//!
//! - One report a side: the median over the seconds of each; the interval by drawing blocks of seconds again.
//! - As many on both sides: pairs, in the order given; the median of their ratios. Runs made in turns, before, after,
//!   before, after, bear a machine that drifts.
//! - Else: the ratio of the medians.
//!
//! # Invariants
//! - Pure: the same reports come to the same words.
//! - Only an interval decides. One that holds both "worse" and "not worse" decides nothing, and that is told.

use carillon_node::prng::Prng;
use serde::Serialize;
use serde_json::Value;

use crate::figures::{self, Better, FIGURES, Figure};
use crate::report::{Report, Word};

pub mod bootstrap;
mod words;

use bootstrap::{Interval, median};
pub use words::text;

/// Nothing is worse beyond the tolerance.
pub const NOT_WORSE: u8 = 0;
/// Something is.
pub const WORSE: u8 = 1;
/// It cannot be told.
pub const SAYS_NOTHING: u8 = 3;

/// Seconds that a report has at least when it is compared alone.
pub const ROWS_MIN: usize = 10;
/// Reports that a side has at least when it is not one.
pub const REPORTS_MIN: usize = 3;

/// Whoever compares the same reports again finds the same.
const SEED: u64 = 1;

/// What is known of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The whole interval is beyond the tolerance.
    Worse,
    /// The whole interval is better by more than the tolerance.
    Better,
    /// No part of the interval is beyond the tolerance.
    NotWorse,
    /// A part is.
    Unclear,
    /// There is no interval: the figure has no course, and there are too few reports.
    Unsure,
}

/// One figure of both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The figure's name.
    pub figure: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Whether it decides the exit status.
    pub decides: bool,
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// After divided by before.
    pub ratio: f64,
    /// In which the ratio lies, 95 of 100 times.
    pub interval: Option<Interval>,
    /// What that says.
    pub finding: Finding,
}

/// Two sides, compared.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// How.
    pub method: &'static str,
    /// What was asked for differently.
    pub unlike: Vec<String>,
    /// By figure.
    pub lines: Vec<Line>,
    /// What forbids a conclusion, whatever the figures.
    pub objections: Vec<String>,
    /// Promises that only the later side broke.
    pub broken: Vec<String>,
    /// The exit status.
    pub exit: u8,
}

/// What to compare by.
#[derive(Clone, Debug)]
pub struct Rule {
    /// A ratio beyond 1 by more than this is worse.
    pub tolerance: f64,
    /// The figures that decide; empty: those that usually do.
    pub deciding: Vec<&'static Figure>,
}

/// Compares.
#[must_use]
pub fn compare(before: &[Report], after: &[Report], rule: &Rule) -> Comparison {
    let mut prng = Prng::new(SEED);
    let mut objections = objections(before, after);
    let (is_alone, is_paired) = (before.len() == 1 && after.len() == 1, before.len() == after.len());
    let lines: Vec<Line> = FIGURES
        .iter()
        .filter_map(|figure| {
            let sides = if is_alone { alone(figure, &before[0], &after[0]) } else { None };
            let sides = sides.or_else(|| together(figure, before, after, is_paired))?;
            let has_any = sides.before.iter().chain(&sides.after).any(|value| *value != 0.0);
            has_any.then(|| sides.line(figure, rule, &mut prng))
        })
        .collect();
    let broken = broken(after);
    if !lines.iter().any(|line| line.decides) {
        objections.push("no figure that decides is in both".to_owned());
    }
    let any = |finding| lines.iter().any(|line| line.decides && line.finding == finding);
    let exit = if !broken.is_empty() {
        WORSE
    } else if !objections.is_empty() {
        SAYS_NOTHING
    } else if any(Finding::Worse) {
        WORSE
    } else if any(Finding::Unclear) || any(Finding::Unsure) {
        SAYS_NOTHING
    } else {
        NOT_WORSE
    };
    let method = if is_alone {
        "one report a side: medians over the seconds, blocks of seconds drawn again; a machine that changed between them \
         looks like a server that did, which several in turns would show"
    } else if is_paired {
        "pairs of reports in their order: the median of their ratios, pairs drawn again"
    } else {
        "two sets of reports: the ratio of their medians, reports drawn again"
    };
    Comparison { method, unlike: unlike(before, after), lines, objections, broken, exit }
}

/// A figure's values on both sides.
struct Sides {
    before: Vec<f64>,
    after: Vec<f64>,
    draw: Draw,
}

#[derive(Clone, Copy, PartialEq)]
enum Draw {
    Courses,
    Pairs,
    Sets,
    Nothing,
}

/// The seconds of two reports.
fn alone(figure: &Figure, before: &Report, after: &Report) -> Option<Sides> {
    let of_row = figure.of_row?;
    let values = |report: &Report| report.series.measured().iter().filter_map(of_row).collect::<Vec<_>>();
    let (before, after) = (values(before), values(after));
    let is_long = before.len() >= ROWS_MIN && after.len() >= ROWS_MIN;
    is_long.then_some(Sides { before, after, draw: Draw::Courses })
}

/// One value a report.
fn together(figure: &Figure, before: &[Report], after: &[Report], is_paired: bool) -> Option<Sides> {
    let values = |reports: &[Report]| reports.iter().map(figure.of).collect::<Option<Vec<_>>>();
    let (before, after) = (values(before)?, values(after)?);
    let draw = match (before.len().min(after.len()) >= REPORTS_MIN, is_paired) {
        (false, _) => Draw::Nothing,
        (true, true) => Draw::Pairs,
        (true, false) => Draw::Sets,
    };
    Some(Sides { before, after, draw })
}

impl Sides {
    fn line(self, figure: &Figure, rule: &Rule, prng: &mut Prng) -> Line {
        let Sides { before, after, draw } = self;
        let ratios: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after / before).collect();
        let (before_median, after_median) = (median(&before), median(&after));
        let ratio = if draw == Draw::Pairs { median(&ratios) } else { after_median / before_median };
        let interval = match draw {
            Draw::Courses => bootstrap::of_courses(&before, &after, prng),
            Draw::Pairs => bootstrap::of_pairs(&ratios, prng),
            Draw::Sets => bootstrap::of_sets(&before, &after, prng),
            Draw::Nothing => None,
        };
        let decides = if rule.deciding.is_empty() {
            // What has no interval is told, and decides only when it was asked for.
            figure.decides && interval.is_some()
        } else {
            rule.deciding.iter().any(|deciding| deciding.name == figure.name)
        };
        Line {
            figure: figure.name,
            better: figure.better,
            decides,
            before: before_median,
            after: after_median,
            ratio,
            finding: finding(interval, figure.better, rule.tolerance),
            interval,
        }
    }
}

fn finding(interval: Option<Interval>, better: Better, tolerance: f64) -> Finding {
    let Some(Interval { low, high }) = interval else { return Finding::Unsure };
    // As how many times as bad.
    let (low, high) = match better {
        Better::Lower => (low, high),
        Better::Higher => (1.0 / high, 1.0 / low),
    };
    let bound = 1.0 + tolerance;
    if low > bound {
        Finding::Worse
    } else if high > bound {
        Finding::Unclear
    } else if high < 1.0 / bound {
        Finding::Better
    } else {
        Finding::NotWorse
    }
}

fn objections(before: &[Report], after: &[Report]) -> Vec<String> {
    let mut found = Vec::new();
    for (side, reports) in [("before", before), ("after", after)] {
        for (place, report) in (1..).zip(reports) {
            let because = report.invalid_because.join("; ");
            match report.verdict {
                Word::Invalid => found.push(format!("report {place} of {side} is invalid: {because}")),
                Word::Violation if side == "before" => {
                    found.push(format!("report {place} of {side} broke promises: nothing to compare with"));
                }
                _ => {}
            }
        }
    }
    let (least, most) = (before.len().min(after.len()), before.len().max(after.len()));
    if least < REPORTS_MIN && most > 1 {
        found.push(format!(
            "{} reports against {}: one a side, or at least {REPORTS_MIN}",
            before.len(),
            after.len()
        ));
    }
    let is_short = |report: &Report| {
        report.idle.is_none()
            && report.saturates_at_per_s.is_none()
            && report.series.measured().len() < ROWS_MIN
    };
    if most == 1 && before.iter().chain(after).any(is_short) {
        found.push(format!("a run of less than {ROWS_MIN} measured seconds says too little alone"));
    }
    found
}

fn broken(after: &[Report]) -> Vec<String> {
    let counts = after.iter().flat_map(|report| &report.oracle.violations).filter(|(_, count)| **count > 0);
    counts.map(|(kind, count)| format!("{count} {kind}")).collect()
}

/// What was asked for differently, beside names and numbers that do not matter.
fn unlike(before: &[Report], after: &[Report]) -> Vec<String> {
    let asked = |report: &Report| serde_json::to_value(&report.options).unwrap_or_default();
    let mut all = before.iter().chain(after).map(asked);
    let Some(first) = all.next() else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    for other in all {
        for (name, value) in first.as_object().into_iter().flatten() {
            let other = other.get(name).unwrap_or(&Value::Null);
            if !["server", "first_user", "seed"].contains(&name.as_str()) && value != other {
                let words = format!("{name}: {value} and {other}");
                if !found.contains(&words) {
                    found.push(words);
                }
            }
        }
    }
    found
}

/// The figures of these names.
///
/// # Errors
/// One sentence with the names there are.
pub fn deciding(names: &[String]) -> Result<Vec<&'static Figure>, String> {
    names.iter().map(|name| figures::by_name(name)).collect()
}

#[cfg(test)]
mod tests;
