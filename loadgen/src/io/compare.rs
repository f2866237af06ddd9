//! `loadgen diff`: reports from files.

use std::fs;
use std::path::{Path, PathBuf};

use super::Outcome;
use crate::cli::Diff;
use crate::diff::{self, Rule, SAYS_NOTHING};
use crate::report::{Report, SCHEMA};

/// Compares.
#[must_use]
pub fn compare(options: &Diff) -> Outcome {
    match compared(options) {
        Ok(outcome) => outcome,
        Err(sentence) => Outcome { exit: SAYS_NOTHING, ..Outcome::refused(&sentence) },
    }
}

fn compared(options: &Diff) -> Result<Outcome, String> {
    if !(options.tolerance.is_finite() && options.tolerance >= 0.0) {
        return Err(format!("--tolerance {} is not a number from 0 on", options.tolerance));
    }
    let rule = Rule { tolerance: options.tolerance, deciding: diff::deciding(&options.figure)? };
    let comparison = diff::compare(&all(&options.before)?, &all(&options.after)?, &rule);
    let json = serde_json::to_value(&comparison).map_err(|error| error.to_string())?;
    let text = if options.json { format!("{json:#}") } else { diff::text(&comparison, options.tolerance) };
    Ok(Outcome { exit: comparison.exit, report: Some(json), text, is_refusal: false })
}

fn all(paths: &[PathBuf]) -> Result<Vec<Report>, String> {
    paths.iter().map(|path| read(path)).collect()
}

/// Reads a report.
pub(super) fn read(path: &Path) -> Result<Report, String> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| format!("{name} is no report of this schema: {error}"))?;
    if report.schema != SCHEMA {
        return Err(format!("{name} is of the schema {}, read is {SCHEMA}", report.schema));
    }
    Ok(report)
}
