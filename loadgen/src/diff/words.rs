//! A comparison for people.

use super::{Comparison, Finding, Line, NOT_WORSE, WORSE};

/// The lines.
#[must_use]
pub fn text(comparison: &Comparison, tolerance: f64) -> String {
    let mut lines = vec![comparison.method.to_owned()];
    lines.extend(comparison.unlike.iter().map(|words| format!("unlike runs: {words}")));
    lines.push(format!(
        "{:<22}{:>12}{:>12}{:>8}   {:<18}",
        "figure", "before", "after", "ratio", "95 % within"
    ));
    lines.extend(comparison.lines.iter().map(line));
    lines.extend(comparison.broken.iter().map(|words| format!("BROKEN PROMISES after: {words}")));
    lines.extend(comparison.objections.iter().map(|words| format!("SAYS NOTHING: {words}")));
    let percent = tolerance * 100.0;
    lines.push(match comparison.exit {
        NOT_WORSE => format!("NOT WORSE by more than {percent} %"),
        WORSE => format!("WORSE: {}", named(comparison, Finding::Worse).unwrap_or("promises were broken".to_owned())),
        _ => match named(comparison, Finding::Unclear) {
            Some(names) => format!(
                "SAYS NOTHING: within {percent} % or beyond, it cannot be told: {names}; run longer, or more often"
            ),
            None => "SAYS NOTHING".to_owned(),
        },
    });
    lines.join("\n")
}

fn named(comparison: &Comparison, finding: Finding) -> Option<String> {
    let names = comparison.lines.iter().filter(|line| line.decides && line.finding == finding);
    let names: Vec<_> = names.map(|line| line.figure).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn line(line: &Line) -> String {
    let interval = match line.interval {
        Some(interval) => format!("{:.3} … {:.3}", interval.low, interval.high),
        None => "–".to_owned(),
    };
    let words = match line.finding {
        Finding::Worse => "worse",
        Finding::Better => "better",
        Finding::NotWorse => "not worse",
        Finding::Unclear => "unclear",
        Finding::Unsure => "no interval",
    };
    let note = if line.decides { "" } else { " (does not decide)" };
    format!(
        "{:<22}{:>12}{:>12}{:>8.3}   {interval:<18}{words}{note}",
        line.figure,
        number(line.before),
        number(line.after),
        line.ratio
    )
}

fn number(value: f64) -> String {
    let digits = if value.abs() >= 1_000.0 { 0 } else { 3 };
    format!("{value:.digits$}")
}
