//! The files that a run writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::hlog::Log;
use crate::options::Outputs;
use crate::report::{Report, csv, html};

/// Writes whatever forms of the report were asked for.
pub(super) fn write(report: &Report, outputs: &Outputs) -> Result<(), String> {
    if let Some(path) = &outputs.report {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        write_text(path, format!("{text}\n"))?;
    }
    if let Some(path) = &outputs.csv {
        write_text(path, csv::table(&report.series))?;
    }
    if let Some(path) = &outputs.html {
        write_text(path, html::page(report))?;
    }
    Ok(())
}

fn write_text(path: &Path, text: String) -> Result<(), String> {
    fs::write(path, text).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

/// Opens the journal.
pub(super) fn open_journal(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| unwritable(path, &error))
}

/// Writes the histograms.
pub(super) fn write_hlog(path: &Path, log: &Log) -> Result<(), String> {
    write_text(path, log.text())
}
