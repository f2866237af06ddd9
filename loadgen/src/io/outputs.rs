//! The files that a run writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::options::Options;
use crate::report::{Report, csv, html};
use crate::stats::Step;

/// Writes whatever forms of the report were asked for.
pub(super) fn write(report: &Report, options: &Options) -> Result<(), String> {
    if let Some(path) = &options.report {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        write_text(path, format!("{text}\n"))?;
    }
    if let Some(path) = &options.csv {
        write_text(path, csv::table(&report.series))?;
    }
    if let Some(path) = &options.html {
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

/// Writes the histograms, when they were asked for.
pub(super) fn write_hlog(steps: &[Step], options: &Options) -> Result<(), String> {
    let Some(path) = &options.hlog else { return Ok(()) };
    hlog(steps, options).and_then(|text| fs::write(path, text)).map_err(|error| unwritable(path, &error))
}

fn hlog(steps: &[Step], options: &Options) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut serializer = V2Serializer::new();
    {
        let mut builder = IntervalLogWriterBuilder::new();
        builder.add_comment("microseconds from the intended time").with_max_value_divisor(1_000.0);
        let mut log = builder.begin_log_with(&mut out, &mut serializer)?;
        let length = options.ramp.map_or(options.duration, |ramp| Duration::from_secs(ramp.step_s));
        for (step, start) in steps.iter().zip(0u32..) {
            for (name, latency) in
                [("ack", &step.to_ack), ("delivered", &step.to_delivered), ("lag", &step.lag)]
            {
                log.write_histogram(&latency.0, length * start, length, Tag::new(name))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
    }
    Ok(out)
}
