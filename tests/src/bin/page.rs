//! `page`: the page and the client module in a real Chromium.
//!
//! ```text
//! cargo build --release -p carillon-tests --bins
//! cargo run --release -p carillon-tests --bin page
//! cargo run --release -p carillon-tests --bin page -- cuts --seed 7
//! cargo run --release -p carillon-tests --bin page -- looks --screenshots shots --picture docs/page.png
//! ```
//!
//! Ends with status 1 when something is not as promised, 3 when there is no Chromium.

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_tests::page::chromium::{self, Browser};
use carillon_tests::page::{SCENARIOS, Trial};
use clap::Parser;

/// Plays the page's scenarios in a headless Chromium against servers of their own.
#[derive(Parser)]
struct Arguments {
    /// Which: scripted, chat, outage, cuts, throttle, looks, size; all when none is named
    scenarios: Vec<String>,
    /// Where screenshots go
    #[arg(long)]
    screenshots: Option<PathBuf>,
    /// Where the README's picture goes: a desktop and a phone
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Decides where connections are cut
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Messages of the cut run
    #[arg(long, default_value_t = 2_000)]
    messages: usize,
    /// Cuts of that run
    #[arg(long, default_value_t = 200)]
    cuts: u32,
    /// The server [default: `carillon-under-test` beside this program]
    #[arg(long)]
    binary: Option<String>,
}

/// Exit status when there is no browser: the test was not made.
const NO_CHROMIUM: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("carillon-under-test").display().to_string());
    let Some(binary) = arguments.binary.or(beside) else {
        eprintln!("page: say with --binary where carillon is");
        return ExitCode::from(2);
    };
    let is_known = |wanted: &&String| SCENARIOS.iter().any(|(name, _)| name == wanted);
    if let Some(unknown) = arguments.scenarios.iter().find(|wanted| !is_known(wanted)) {
        eprintln!("page: there is no scenario {unknown}");
        return ExitCode::from(2);
    }
    let Some(executable) = chromium::find() else {
        eprintln!("page: no Chromium found. Debian, Ubuntu: apt-get install chromium fonts-noto-color-emoji");
        return ExitCode::from(NO_CHROMIUM);
    };
    let trial = Trial {
        binary,
        screenshots: arguments.screenshots,
        picture: arguments.picture,
        seed: arguments.seed,
        messages_count: arguments.messages,
        cuts_count: arguments.cuts,
    };
    let is_wanted = |name: &str| {
        arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|wanted| wanted == name)
    };
    let mut status = ExitCode::SUCCESS;
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| is_wanted(name)) {
        println!("page: {name} …");
        // A browser for each: what one scenario leaves behind is not there for the next.
        let verdict = Browser::start(&executable).and_then(|mut browser| {
            let words = scenario(&trial, &mut browser)?;
            match browser.complaints().as_slice() {
                [] => Ok(words),
                complaints => Err(format!("the page complained: {complaints:?}")),
            }
        });
        match verdict {
            Ok(words) => println!("PASS {name}: {words}"),
            Err(words) => {
                println!("FAIL {name}: {words}");
                let Trial { seed, messages_count, cuts_count, .. } = &trial;
                let again = format!("{name} --seed {seed} --messages {messages_count} --cuts {cuts_count}");
                println!("  again: cargo run --release -p carillon-tests --bin page -- {again}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
