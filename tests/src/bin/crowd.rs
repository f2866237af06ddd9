//! `crowd`: scenarios with thousands of connections, one after the other. CI plays their short form.
//!
//! ```text
//! cargo build --release -p carillon-tests --bins
//! cargo run --release -p carillon-tests --bin crowd -- thousand
//! cargo run --release -p carillon-tests --bin crowd -- all --short
//! ```

use std::process::ExitCode;

use carillon_tests::crowd::{Campaign, SCENARIOS};
use clap::Parser;

/// Plays scenarios with thousands of connections against a server of their own. Exit status 1 when a promise was broken.
#[derive(Parser)]
struct Arguments {
    /// Which: two-hundred, thousand, ack-beside-crowd, stalled-crowd, mass-disconnect, failover, churn, or all
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Smaller crowds and less time, as in CI; figures that depend on the machine are told, not judged
    #[arg(long)]
    short: bool,
    /// Decides who does what when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The crowd confirms what it receives, also where the scenario leaves it open
    #[arg(long)]
    receipts: bool,
    /// The server [default: `carillon-under-test` beside this program]
    #[arg(long)]
    binary: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("carillon-under-test").display().to_string());
    let Some(binary) = arguments.binary.or(beside) else {
        eprintln!("crowd: say with --binary where carillon is");
        return ExitCode::from(2);
    };
    let is_named = |name: &str| arguments.scenarios.iter().any(|wanted| wanted == name || wanted == "all");
    let is_known = |wanted: &String| wanted == "all" || SCENARIOS.iter().any(|(name, _)| name == wanted);
    if let Some(unknown) = arguments.scenarios.iter().find(|wanted| !is_known(wanted)) {
        eprintln!("crowd: there is no scenario {unknown}");
        return ExitCode::from(2);
    }
    let (is_short, seed) = (arguments.short, arguments.seed);
    let campaign = Campaign { binary, is_short, seed, confirms: arguments.receipts };
    let mut status = ExitCode::SUCCESS;
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| is_named(name)) {
        match scenario(&campaign) {
            Ok(words) => println!("PASS {name}: {words}"),
            Err(words) => {
                let short = if is_short { " --short" } else { "" };
                println!("FAIL {name}: {words}\n  again: crowd {name} --seed {seed}{short}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
