//! `carillon store`: whether a stopped store is whole, and copies of a store.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use carillon_store::backend::embedded::{self, CopyError, Stopped};
use carillon_store::error::OpenError;
use carillon_store::txn::Engine as _;
use carillon_store::verify::{self, Report};
use serde_json::json;

use crate::configure;
use crate::control::{self, Answer, Question};
use crate::start::not_opened;

/// Between two words of how far it is, to a person and to a file.
const PROGRESS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

/// Says whether the store is whole.
///
/// # Errors
/// Status 1: it is not. Status 2: there is none, or it is in use.
pub fn verify(config: &Config, json: bool, lines: usize) -> Result<(), Fatal> {
    let dir = store_dir(config)?;
    let stopped = Stopped::hold(&dir).map_err(|error| match error {
        OpenError::InUse { .. } => Fatal::config(format!(
            "{} is in use: stop the server first, or verify a backup of it (carillon store backup DIRECTORY)",
            dir.display()
        )),
        error => not_opened(&error),
    })?;
    let began = Instant::now();
    let report = look(stopped, lines);
    let text =
        if json { format!("{:#}\n", document(&dir, &report, began.elapsed())) } else { words(&dir, &report) };
    // A closed pipe is the reader's wish.
    let _ = std::io::stdout().write_all(text.as_bytes());
    match report.findings_count {
        0 => Ok(()),
        count => Err(Fatal::damaged(format!(
            "the store in {} is damaged ({count} findings). Nothing was changed. Keep the directory, and start from a backup \
             that verifies",
            dir.display()
        ))),
    }
}

/// Files first, then what is in them.
fn look(stopped: Stopped, lines: usize) -> Report {
    let mut shown = Shown::new();
    let mut early = Report::default();
    let checked = stopped.check_files(&mut |bytes| {
        shown.show(|| format!("files of the tables: {} MB read", bytes >> 20));
    });
    match checked {
        Ok(wrong) => wrong.into_iter().for_each(|words| early.wrong(lines, words)),
        Err(error) => early.wrong(lines, error.to_string()),
    }
    // What is damaged may be read in spite of it, and may make the tables' own code panic.
    let walked = catch_unwind(AssertUnwindSafe(|| {
        let engine = stopped.open().map_err(|error| error.to_string())?;
        let mut read = engine.snapshot().map_err(|error| error.to_string())?;
        Ok::<_, String>(verify::verify(&mut *read, lines, &mut |counts| {
            shown.show(|| {
                format!(
                    "{} conversations, {} events, {} rows",
                    counts.conversations, counts.events, counts.rows
                )
            });
        }))
    }));
    shown.end();
    match walked {
        Ok(Ok(mut report)) => {
            report.findings_count += early.findings_count;
            early.findings.append(&mut report.findings);
            early.findings.truncate(lines);
            Report { findings: early.findings, ..report }
        }
        Ok(Err(words)) => {
            early.wrong(lines, words);
            early
        }
        Err(_) => {
            early.wrong(
                lines,
                "the tables could not be read: a file of theirs is not what they wrote".to_owned(),
            );
            early
        }
    }
}

fn words(dir: &Path, report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("damaged: {finding}\n"));
    }
    let untold = report.findings_count - report.findings.len() as u64;
    if untold > 0 {
        text.push_str(&format!("damaged: {untold} more (--lines N shows more of them)\n"));
    }
    for unchecked in &report.unchecked {
        text.push_str(&format!("not checked: {unchecked}\n"));
    }
    let counts = &report.counts;
    text.push_str(&format!(
        "{}: {} conversations, {} events ({} messages), {} memberships, {} users, {} remembered attempts; {}\n",
        dir.display(),
        counts.conversations,
        counts.events,
        counts.messages,
        counts.memberships,
        counts.users,
        counts.remembered,
        if report.findings_count == 0 { "whole" } else { "DAMAGED" },
    ));
    text
}

fn document(dir: &Path, report: &Report, took: Duration) -> serde_json::Value {
    let counts = &report.counts;
    json!({
        "store": dir.display().to_string(),
        "verdict": if report.findings_count == 0 { "whole" } else { "damaged" },
        "findings_count": report.findings_count,
        "findings": report.findings,
        "unchecked": report.unchecked,
        "counts": {
            "rows": counts.rows,
            "conversations": counts.conversations,
            "events": counts.events,
            "messages": counts.messages,
            "memberships": counts.memberships,
            "users": counts.users,
            "remembered": counts.remembered,
        },
        "seconds": took.as_secs_f64(),
    })
}

/// Writes a copy of the store, by the server that runs on it or without one.
///
/// # Errors
/// Status 2: there is no store, the directory is not empty, or the server does not answer. Status 74: reading or writing
/// failed.
pub fn backup(config: &Config, directory: &Path) -> Result<(), Fatal> {
    let dir = store_dir(config)?;
    let into = std::path::absolute(directory)
        .map_err(|error| Fatal::config(format!("{} is no directory ({error})", directory.display())))?;
    let began = Instant::now();
    let (rows, bytes) = match Stopped::hold(&dir) {
        Ok(stopped) => copy(stopped, &into, reserve_bytes(config)?)?,
        Err(OpenError::InUse { .. }) => ask(&configure::data_dir(config), &into)?,
        Err(error) => return Err(not_opened(&error)),
    };
    let _ = writeln!(
        std::io::stdout(),
        "{}: {rows} rows, {} MB, in {:.1} s. Check it: carillon store verify --data-dir {0}",
        into.display(),
        bytes >> 20,
        began.elapsed().as_secs_f64(),
    );
    Ok(())
}

fn copy(stopped: Stopped, into: &Path, reserve_bytes: u64) -> Result<(u64, u64), Fatal> {
    let engine = stopped.open().map_err(|error| not_opened(&error))?;
    let mut read = engine.snapshot().map_err(|error| Fatal::disk(error.to_string()))?;
    let mut shown = Shown::new();
    let copied = embedded::copy(&mut *read, into, reserve_bytes, &mut |copied| {
        shown.show(|| so_far(copied.rows, copied.bytes));
        true
    });
    shown.end();
    let copied = copied.map_err(|error| match error {
        CopyError::NotEmpty(_) => Fatal::config(error.to_string()),
        error => Fatal::disk(error.to_string()),
    })?;
    Ok((copied.rows, copied.bytes))
}

/// By the server that runs on the store.
fn ask(data_dir: &Path, into: &Path) -> Result<(u64, u64), Fatal> {
    let mut shown = Shown::new();
    let mut outcome = None;
    let asked = control::ask(data_dir, &Question::Backup(into.to_owned()), |answer| match answer {
        Answer::Progress { rows, bytes } => shown.show(|| so_far(rows, bytes)),
        Answer::Done { rows, bytes } => outcome = Some(Ok((rows, bytes))),
        Answer::Refused(words) => outcome = Some(Err(Fatal::config(words))),
        Answer::Failed(words) => outcome = Some(Err(Fatal::disk(words))),
    });
    shown.end();
    match (outcome, asked) {
        (Some(outcome), _) => outcome,
        (None, Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Err(Fatal::config(format!(
                "the store in {} is in use, and who uses it has no control socket there: is it a server of this version, \
                 and does it have this data directory?",
                data_dir.display()
            )))
        }
        (None, Err(error)) => Err(Fatal::config(format!("the server does not answer ({error})"))),
        (None, Ok(())) => Err(Fatal::config(
            "the server went away before the backup was there; what is in the directory is none".to_owned(),
        )),
    }
}

fn so_far(rows: u64, bytes: u64) -> String {
    format!("{rows} rows, {} MB", bytes >> 20)
}

/// The store of the data directory, if it is of the engine that has files.
fn store_dir(config: &Config) -> Result<PathBuf, Fatal> {
    match configure::router_settings(config)?.store.engine.as_str() {
        "embedded" => Ok(configure::data_dir(config).join("store")),
        other => Err(Fatal::config(format!(
            "store.engine is {other}: only the embedded store is verified and copied by this command (FoundationDB has tools \
             of its own: fdbbackup)"
        ))),
    }
}

fn reserve_bytes(config: &Config) -> Result<u64, Fatal> {
    Ok(configure::router_settings(config)?.store.reserve_bytes)
}

/// How far it is, on standard error: one line that changes, on a terminal; elsewhere a line now and then.
struct Shown {
    is_terminal: bool,
    last: Instant,
    is_dirty: bool,
}

impl Shown {
    fn new() -> Shown {
        Shown { is_terminal: std::io::stderr().is_terminal(), last: Instant::now(), is_dirty: false }
    }

    fn show(&mut self, words: impl FnOnce() -> String) {
        let [person, file] = PROGRESS;
        if self.last.elapsed() < if self.is_terminal { person } else { file } {
            return;
        }
        self.last = Instant::now();
        if self.is_terminal {
            self.is_dirty = true;
            eprint!("\r\x1b[2K{}", words());
        } else {
            eprintln!("{}", words());
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_dirty) {
            eprint!("\r\x1b[2K");
        }
    }
}
