use super::*;
use crate::report::{Course, Report};
use crate::series::Row;
use crate::stats::Summary;

/// A report of `count` seconds around a latency.
fn report(us: u64, noise: f64, count: u64, seed: u64) -> Report {
    let mut prng = Prng::new(seed);
    let mut summary = |count| {
        let us = (us as f64 * (1.0 + noise * (prng.unit() - 0.5))) as u64;
        Summary { count, p50_us: us, p90_us: us, p99_us: us, p999_us: us, max_us: us }
    };
    let rows = (0..count).map(|t_s| Row {
        t_s,
        intended: 100,
        acked: 100,
        to_ack_us: summary(100),
        to_delivered_us: summary(100),
        ..Row::default()
    });
    let rows = rows.collect();
    let mut report = crate::report::sample();
    report.whole.to_ack_us = summary(1_000);
    report.whole.to_delivered_us = summary(1_000);
    report.series =
        Course { row_s: 1, measured_from_s: 0.0, measured_to_s: count as f64, rows, ..Course::default() };
    report
}

fn compared(before: &[Report], after: &[Report]) -> Comparison {
    compare(before, after, &Rule { tolerance: 0.1, deciding: Vec::new() })
}

fn line<'c>(comparison: &'c Comparison, name: &str) -> &'c Line {
    comparison.lines.iter().find(|line| line.figure == name).unwrap()
}

#[test]
fn a_run_compared_with_its_like_is_not_worse() {
    let comparison = compared(&[report(1_000, 0.2, 60, 1)], &[report(1_000, 0.2, 60, 2)]);
    assert_eq!(comparison.exit, NOT_WORSE, "{}", text(&comparison, 0.1));
    assert!(text(&comparison, 0.1).ends_with("NOT WORSE by more than 10 %"));
    assert!(comparison.unlike.is_empty());
}

#[test]
fn what_is_slower_is_worse_and_what_is_faster_is_better() {
    let (slow, fast) = ([report(1_500, 0.2, 60, 1)], [report(1_000, 0.2, 60, 2)]);
    let worse = compared(&fast, &slow);
    assert_eq!((worse.exit, line(&worse, "ack_p99_ms").finding), (WORSE, Finding::Worse));
    assert!(text(&worse, 0.1).contains("WORSE: ack_p50_ms, ack_p99_ms"), "{}", text(&worse, 0.1));
    let better = compared(&slow, &fast);
    assert_eq!((better.exit, line(&better, "ack_p99_ms").finding), (NOT_WORSE, Finding::Better));
}

#[test]
fn noise_as_large_as_the_question_says_nothing() {
    let comparison = compared(&[report(1_000, 1.2, 12, 1)], &[report(1_080, 1.2, 12, 2)]);
    assert_eq!(comparison.exit, SAYS_NOTHING, "{}", text(&comparison, 0.1));
    assert_eq!(line(&comparison, "ack_p99_ms").finding, Finding::Unclear);
}

#[test]
fn more_is_better_where_more_is_better() {
    let mut slow = report(1_000, 0.1, 60, 2);
    for row in &mut slow.series.rows {
        row.acked = 70;
    }
    let comparison = compared(&[report(1_000, 0.1, 60, 1)], &[slow]);
    assert_eq!((comparison.exit, line(&comparison, "achieved_per_s").finding), (WORSE, Finding::Worse));
}

#[test]
fn pairs_bear_a_machine_that_drifts() {
    // Each pair ten times as slow as the one before, and always a fifth between its two.
    let drifting =
        |us: u64, seed| [1, 10, 100, 10, 1].map(|times| report(us * times, 0.01, 3, seed)).to_vec();
    let comparison = compared(&drifting(1_000, 1), &drifting(1_200, 2));
    let line = line(&comparison, "ack_p99_ms");
    assert_eq!((comparison.exit, line.finding), (WORSE, Finding::Worse));
    assert!((1.18..1.22).contains(&line.ratio), "{line:?}");
    let unpaired = compared(&drifting(1_000, 1), &drifting(1_200, 2)[..4]);
    assert_eq!(unpaired.exit, SAYS_NOTHING, "{}", text(&unpaired, 0.1));
}

#[test]
fn what_forbids_a_conclusion_is_named() {
    let good = || report(1_000, 0.1, 60, 1);
    let mut invalid = good();
    (invalid.verdict, invalid.invalid_because) = (Word::Invalid, vec!["late".to_owned()]);
    let comparison = compared(&[good()], &[invalid]);
    assert!(comparison.exit == SAYS_NOTHING && comparison.objections[0].contains("late"));
    let mut broken = good();
    broken.verdict = Word::Violation;
    broken.oracle.violations.insert("lost".to_owned(), 2);
    assert_eq!(compared(&[good()], &[broken.clone()]).exit, WORSE);
    assert_eq!(compared(&[broken], &[good()]).exit, SAYS_NOTHING);
    assert_eq!(compared(&[good()], &[report(1_000, 0.1, 5, 1)]).exit, SAYS_NOTHING);
    assert_eq!(compared(&[good(), good()], &[good(), good()]).exit, SAYS_NOTHING);
    let mut other = good();
    other.options.clients = 7;
    other.options.seed = 9;
    assert_eq!(compared(&[good()], &[other]).unlike, ["clients: 100 and 7"]);
}

#[test]
fn only_figures_that_were_asked_for_decide() {
    let (fast, slow) = ([report(1_000, 0.1, 60, 1)], [report(2_000, 0.1, 60, 2)]);
    let rule = Rule { tolerance: 0.1, deciding: deciding(&["achieved_per_s".to_owned()]).unwrap() };
    assert_eq!(compare(&fast, &slow, &rule).exit, NOT_WORSE);
    assert!(deciding(&["speed".to_owned()]).unwrap_err().contains("ack_p99_ms"));
}
