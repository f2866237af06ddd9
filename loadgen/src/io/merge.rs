//! `loadgen merge`: reports and the logs beside them, from files.

use std::fs;
use std::path::Path;

use super::{Outcome, compare, outputs};
use crate::cli::Merge;
use crate::hlog::Log;
use crate::merge::{self, Part};
use crate::options::hlog_beside;
use crate::report::text;
use crate::thresholds;

/// Merges.
#[must_use]
pub fn merge(options: &Merge) -> Outcome {
    merged(options).unwrap_or_else(|sentence| Outcome::refused(&sentence))
}

fn merged(options: &Merge) -> Result<Outcome, String> {
    let parts = options.reports.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let (mut report, log) = merge::merge(parts)?;
    if !options.threshold.is_empty() {
        thresholds::apply_more(&options.threshold, &mut report);
    }
    if let Some(path) = &options.hlog {
        outputs::write_hlog(path, &log)?;
    }
    outputs::write(&report, &options.outputs)?;
    let json = serde_json::to_value(&report).map_err(|error| error.to_string())?;
    Ok(Outcome { exit: report.exit, report: Some(json), text: text::lines(&report), is_refusal: false })
}

fn read(path: &Path) -> Result<Part, String> {
    let report = compare::read(path)?;
    let beside = hlog_beside(path);
    let wrong = |words: &dyn std::fmt::Display| format!("{}: {words}", beside.display());
    let text = fs::read_to_string(&beside).map_err(|error| wrong(&error))?;
    let log = Log::parse(&text).map_err(|words| wrong(&words))?;
    Ok(Part { name: path.display().to_string(), report, log })
}
