//! Open-loop load with a correctness oracle: many clients over real WebSockets, messages that leave when a schedule
//! says, and at the end a verdict on every promise of the protocol.
//!
//! The staircase, from the pure upstairs down to the world:
//! - [`oracle`]: was anything lost, duplicated, reordered, skipped, invented, misdelivered or changed?
//! - [`schedule`], [`plan`], [`content`]: when who says what to whom.
//! - [`session`] on a [`turn`]: one client's side of the protocol.
//! - [`stats`], [`series`], [`report`], [`journal`]: what is measured and told.
//! - [`figures`], [`thresholds`], [`diff`]: what reports are asked and compared by.
//! - [`cli`], [`options`]: the command line, and what is impossible about it.
//! - [`io`]: sockets, threads, files.
//!
//! # Invariants
//! - Knows the protocol and the manners of a process ([`carillon_node`]), and nothing of the server's inside.
//! - Only [`io`] touches clock, sockets, files and threads.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;

use clap::Parser as _;

pub mod cli;
pub mod content;
pub mod diff;
pub mod figures;
pub mod io;
pub mod journal;
pub mod options;
pub mod oracle;
pub mod plan;
pub mod report;
pub mod schedule;
pub mod series;
pub mod session;
pub mod stats;
pub mod thresholds;
pub mod turn;

/// The command: parses, runs, prints, and returns the exit status. Of a run, 0: good, or help was asked for;
/// 2: a violation; 99: a threshold missed; 3: invalid, a command line that cannot be read included. Of a comparison, [`diff`] says.
pub fn main_with<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> u8 {
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be listening; the status tells as well.
            let _ = error.print();
            return if error.use_stderr() { report::INVALID } else { report::GOOD };
        }
    };
    let outcome = match &cli.command {
        None => io::run(&cli.options),
        Some(cli::Command::Diff(options)) => io::compare(options),
    };
    let text = format!("{}\n", outcome.text);
    let _ = if outcome.report.is_some() {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    outcome.exit
}
