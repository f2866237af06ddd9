//! Lives through simulated worlds.
//!
//! - `world --seeds 1000 --first 0 --jobs 2`: so many worlds, side by side. Prints every broken promise with how to see it
//!   again, from as few mishaps as still break it, and a table of what went wrong in how many worlds.
//! - `world --seed 7 --timeline`: one world, step by step.
//! - `world --replay-check 100`: that a run is a function of its seed.
//!
//! Ends with status 1 when a promise was broken, or, of a thousand worlds and more, when a kind of fault was met in less than
//! a twentieth of them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use carillon_tests::world::{FAULTS, Grounds, Outcome, Stats, run, run_without, shrink};
use clap::Parser;

/// A third of what a world costs would be the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Each kind of fault is met in one world of so many at least.
const FAULT_SHARE_MIN: u64 = 20;
/// Fewer worlds are no census.
const CENSUS_WORLDS_MIN: u64 = 1_000;

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

/// Tells in which world a panic was.
struct Panics(u64);

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}: it panics", self.0);
        }
    }
}

fn many(options: &Options) -> bool {
    let end = options.first + options.seeds;
    let (next, failures) = (AtomicU64::new(options.first), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let total: Mutex<(u64, Stats, BTreeMap<&'static str, u64>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                let grounds = Grounds::new();
                while !is_over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let panics = Panics(seed);
                    let outcome = run(&grounds, seed, None);
                    drop(panics);
                    let mut total = total.lock().expect("nobody panics with it");
                    total.0 += 1;
                    if total.0.is_multiple_of(PROGRESS) {
                        eprintln!("{} of {} worlds", total.0, options.seeds);
                    }
                    total.1 += outcome.stats;
                    for (what, count) in outcome.stats.list() {
                        *total.2.entry(what).or_default() += u64::from(count > 0);
                    }
                    drop(total);
                    if !outcome.violations.is_empty() {
                        report(&grounds, seed, &outcome, options.no_shrink);
                        let count = failures.fetch_add(1, Ordering::Relaxed) + 1;
                        is_over.fetch_or(count >= options.failures, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (worlds, stats, shares) = total.into_inner().expect("nobody panics with it");
    println!("{:<24} {:>10}  worlds", "", "times");
    for (what, count) in stats.list() {
        let share = shares.get(what).copied().unwrap_or(0) as f64 / worlds.max(1) as f64;
        println!("{what:<24} {count:>10} {:>6.1} %", share * 100.0);
    }
    let failures = failures.into_inner();
    println!("{worlds} worlds, {failures} with a broken promise");
    let is_rare = |what: &&&str| shares.get(**what).copied().unwrap_or(0) * FAULT_SHARE_MIN < worlds;
    let rare: Vec<_> = FAULTS.iter().filter(is_rare).filter(|_| worlds >= CENSUS_WORLDS_MIN).collect();
    rare.iter().for_each(|what| println!("{what} happens in too few worlds"));
    failures == 0 && rare.is_empty()
}

fn report(grounds: &Grounds, seed: u64, outcome: &Outcome, is_whole: bool) {
    use std::fmt::Write as _;
    let mut words = format!("seed {seed}: {} violations\n", outcome.violations.len());
    for violation in outcome.violations.iter().take(8) {
        let _ = writeln!(words, "  {}", violation.chars().take(240).collect::<String>());
    }
    let without = if is_whole { BTreeSet::new() } else { shrink(grounds, seed, outcome) };
    let kept = outcome.mishaps.iter().enumerate().filter(|(number, _)| !without.contains(number));
    kept.for_each(|(number, mishap)| {
        let _ = writeln!(words, "  with {number}: {mishap}");
    });
    let numbers = without.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let option = if numbers.is_empty() { String::new() } else { format!(" --without {numbers}") };
    println!(
        "{words}  cargo run --release -p carillon-tests --bin world -- --seed {seed}{option} --timeline"
    );
}
