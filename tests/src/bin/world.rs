//! Lives through simulated worlds: `world --seeds 0..1000`, `world --seeds 7..8 --trace`.
//!
//! Prints a line for every broken promise and how to see it again; ends with status 1 when there was one.

use std::ops::Range;
use std::process::ExitCode;

use carillon_tests::world::{Grounds, Stats, run};
use clap::Parser;

/// The command line.
#[derive(Parser)]
struct Options {
    /// Which worlds: the first, and the one behind the last.
    #[arg(long, value_parser = range, default_value = "0..300")]
    seeds: Range<u64>,
    /// Print every step.
    #[arg(long)]
    trace: bool,
    /// End after so many worlds with a broken promise.
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("two numbers with .. between them")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let grounds = Grounds::new();
    let (mut failures, mut worlds) = (0, 0);
    let mut total = Stats::default();
    for seed in options.seeds {
        let reader = options.trace.then(|| Box::new(|line: &str| println!("{line}")) as _);
        let outcome = run(&grounds, seed, reader);
        worlds += 1;
        total += outcome.stats;
        if !outcome.violations.is_empty() {
            failures += 1;
            println!("seed {seed}: {} violations", outcome.violations.len());
            for violation in outcome.violations.iter().take(8) {
                println!("  {violation}");
            }
            println!("  cargo run -p carillon-tests --bin world -- --seeds {seed}..{} --trace", seed + 1);
            if failures >= options.failures {
                break;
            }
        }
    }
    println!("{worlds} worlds, {failures} with a broken promise");
    println!("{total:#?}");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
