//! Open-loop load with a correctness oracle: many clients over real WebSockets, messages that leave when a schedule
//! says, and at the end a verdict on every promise of the protocol.
//!
//! The staircase, from the pure upstairs down to the world:
//! - [`oracle`]: was anything lost, duplicated, reordered, skipped, invented, misdelivered or changed?
//! - [`scenario`], [`schedule`], [`plan`], [`content`]: when who says what to whom.
//! - [`session`] on a [`turn`]: one client's side of the protocol.
//! - [`stats`], [`series`], [`report`], [`journal`]: what is measured and told.
//! - [`figures`], [`thresholds`], [`diff`], [`search`]: what reports are asked and compared by, and the way to a limit.
//! - [`share`], [`hlog`], [`merge`]: several generators, and what they found together.
//! - [`view`]: what is shown while it goes on.
//! - [`cli`], [`options`]: the command line, and what is impossible about it.
//! - [`io`]: sockets, threads, files.
//!
//! # Invariants
//! - Knows the protocol and the manners of a process ([`carillon_node`]), and nothing of the server's inside.
//! - Only [`io`] touches clock, sockets, files and threads.

use std::ffi::OsString;
use std::io::Write as _;

use clap::{CommandFactory as _, FromArgMatches as _};

pub mod cli;
pub mod content;
pub mod diff;
pub mod figures;
pub mod hlog;
pub mod io;
pub mod journal;
pub mod merge;
pub mod options;
pub mod oracle;
pub mod plan;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod search;
pub mod series;
pub mod session;
pub mod share;
pub mod stats;
pub mod thresholds;
pub mod turn;
pub mod view;

/// [`main_at`] no terminal: nothing takes it over unless `--view live` asks for that.
pub fn main_with<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> u8 {
    main_at(args, false)
}

/// The command: parses, runs, prints, and returns the exit status. Of a run, 0: good, or help was asked for;
/// 2: a violation; 99: a threshold missed; 3: invalid, a command line that cannot be read included. Of a comparison, [`diff`] says.
pub fn main_at<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>, is_terminal: bool) -> u8 {
    let parsed = cli::Cli::command().try_get_matches_from(args).and_then(|matches| {
        let cli = cli::Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Nobody may be listening; the status tells as well.
            let _ = error.print();
            return if error.use_stderr() { report::INVALID } else { report::GOOD };
        }
    };
    let outcome = match cli.command {
        None => run(&cli.source, &matches, cli.options.shown(is_terminal)),
        Some(cli::Command::Diff(options)) => io::compare(&options),
        Some(cli::Command::Merge(options)) => io::merge(&options),
        Some(cli::Command::FindLimit(asked)) => {
            let given = matches.subcommand_matches("find-limit").unwrap_or(&matches);
            let mut options = asked.options.clone().shown(is_terminal);
            match io::apply(&asked.source, given, &mut options) {
                Ok(()) => io::find_limit(&asked, &options),
                Err(sentence) => io::Outcome::refused(&sentence),
            }
        }
        Some(cli::Command::Presets { name }) => io::presets(name.as_deref()),
    };
    let text = format!("{}\n", outcome.text);
    let _ = if outcome.is_refusal {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
    outcome.exit
}

fn run(source: &cli::Source, given: &clap::ArgMatches, mut options: options::Options) -> io::Outcome {
    match io::apply(source, given, &mut options) {
        Ok(()) => io::run(&options),
        Err(sentence) => io::Outcome::refused(&sentence),
    }
}
