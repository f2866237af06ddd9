//! Lives through simulated worlds.
//!
//! - `world --seeds 1000 --first 0 --jobs 2`: so many worlds, side by side. Prints every broken promise with how to see it
//!   again, from as few mishaps as still break it, and a table of what went wrong in how many worlds.
//! - `world --seed 7 --timeline`: one world, step by step.
//! - `world --replay-check 100`: that a run is a function of its seed.
//!
//! Ends with status 1 when a promise was broken, or, of a thousand worlds and more, when a kind of fault was met in less than
//! a twentieth of them.

use std::collections::BTreeSet;
use std::process::ExitCode;

use carillon_tests::world::census::{self, Range};
use carillon_tests::world::{Grounds, run, run_without};
use clap::Parser;

/// A third of what a world costs would be the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line.
#[derive(Parser)]
struct Options {
    /// How many worlds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many side by side.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// End after so many worlds with a broken promise.
    #[arg(long, default_value_t = 10)]
    failures: u64,
    /// Do not look for fewer mishaps that break a promise as well.
    #[arg(long)]
    no_shrink: bool,
    /// One world alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Without the mishaps of these numbers.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// Print every step.
    #[arg(long)]
    timeline: bool,
    /// Live through so many worlds twice, and compare.
    #[arg(long)]
    replay_check: Option<u64>,
}

/// Worlds between two words of how far it is.
const PROGRESS: u64 = 5_000;

fn main() -> ExitCode {
    let options = Options::parse();
    let is_kept = match (options.seed, options.replay_check) {
        (Some(seed), _) => one(seed, &options),
        (None, Some(count)) => replay(options.first, count),
        (None, None) => many(&options),
    };
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, options: &Options) -> bool {
    let without: BTreeSet<usize> = options.without.iter().copied().collect();
    let reader = options.timeline.then(|| Box::new(|line: &str| println!("{line}")) as _);
    let outcome = run_without(&Grounds::new(), seed, &without, reader);
    for (number, mishap) in outcome.mishaps.iter().enumerate() {
        println!("{number:>3} {mishap}{}", if without.contains(&number) { ", left out" } else { "" });
    }
    outcome.violations.iter().for_each(|violation| println!("{violation}"));
    println!("trace {:016x}, {} violations", outcome.trace_hash, outcome.violations.len());
    outcome.violations.is_empty()
}

fn replay(first: u64, count: u64) -> bool {
    let different = (first..first + count).filter(|seed| {
        let lived = run(&Grounds::new(), *seed, None);
        let is_same = lived == run(&Grounds::new(), *seed, Some(Box::new(|_| ())));
        if !is_same {
            println!("seed {seed} went two ways");
        }
        !is_same
    });
    let different = different.count();
    println!("{count} worlds lived through twice, {different} went two ways");
    different == 0
}

fn many(options: &Options) -> bool {
    let range = Range {
        first: options.first,
        seeds: options.seeds,
        jobs: options.jobs,
        failures_max: options.failures,
        shrinks: !options.no_shrink,
    };
    let census = census::take(&range, |census, broken| {
        broken.iter().for_each(|words| println!("{words}"));
        if census.worlds.is_multiple_of(PROGRESS) {
            eprintln!("{} of {} worlds", census.worlds, options.seeds);
        }
    });
    println!("{census}");
    census.failures == 0 && census.rare().is_empty()
}
