//! Many worlds, side by side, and what went wrong in how many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{FAULTS, Grounds, Outcome, Stats, run, shrink};

/// Each kind of fault is met in one world of so many at least.
const FAULT_SHARE_MIN: u64 = 20;
/// Fewer worlds are no census.
const CENSUS_WORLDS_MIN: u64 = 1_000;

/// Which worlds.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// How many side by side.
    pub jobs: u64,
    /// It ends after so many worlds with a broken promise.
    pub failures_max: u64,
    /// Whether fewer mishaps are looked for that break a promise as well.
    pub shrinks: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Worlds lived through.
    pub worlds: u64,
    /// Of them with a broken promise.
    pub failures: u64,
    /// What happened, in all of them together.
    pub stats: Stats,
    shares: BTreeMap<&'static str, u64>,
}

impl Census {
    /// Kinds of fault that were met in less than a twentieth of at least a thousand worlds.
    #[must_use]
    pub fn rare(&self) -> Vec<&'static str> {
        let is_rare =
            |what: &&&str| self.shares.get(**what).copied().unwrap_or(0) * FAULT_SHARE_MIN < self.worlds;
        FAULTS.iter().filter(is_rare).filter(|_| self.worlds >= CENSUS_WORLDS_MIN).copied().collect()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<24} {:>10}  worlds", "", "times")?;
        for (what, count) in self.stats.list() {
            let share = self.shares.get(what).copied().unwrap_or(0) as f64 / self.worlds.max(1) as f64;
            writeln!(out, "{what:<24} {count:>10} {:>6.1} %", share * 100.0)?;
        }
        write!(out, "{} worlds, {} with a broken promise", self.worlds, self.failures)?;
        self.rare().iter().try_for_each(|what| write!(out, "\n{what} happens in too few worlds"))
    }
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

/// Lives through all of them. `told` hears how far it is after each, and of each broken promise.
///
/// # Panics
/// When a world does.
pub fn take(range: &Range, told: impl FnMut(&Census, Option<String>) + Send) -> Census {
    let end = range.first + range.seeds;
    let next = AtomicU64::new(range.first);
    let is_over = AtomicBool::new(false);
    let book = Mutex::new((Census::default(), told));
    std::thread::scope(|scope| {
        for _ in 0..range.jobs.max(1) {
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
                    let is_kept = outcome.violations.is_empty();
                    let words = (!is_kept).then(|| report(&grounds, seed, &outcome, range.shrinks));
                    let mut book = book.lock().expect("nobody panics with it");
                    let (census, told) = &mut *book;
                    census.worlds += 1;
                    census.failures += u64::from(!is_kept);
                    census.stats += outcome.stats;
                    for (what, count) in outcome.stats.list() {
                        *census.shares.entry(what).or_default() += u64::from(count > 0);
                    }
                    is_over.fetch_or(census.failures >= range.failures_max, Ordering::Relaxed);
                    told(census, words);
                }
            });
        }
    });
    book.into_inner().expect("nobody panics with it").0
}

fn report(grounds: &Grounds, seed: u64, outcome: &Outcome, shrinks: bool) -> String {
    use std::fmt::Write as _;
    let mut words = format!("seed {seed}: {} violations\n", outcome.violations.len());
    for violation in outcome.violations.iter().take(8) {
        let _ = writeln!(words, "  {}", violation.chars().take(240).collect::<String>());
    }
    let without = if shrinks { shrink(grounds, seed, outcome) } else { BTreeSet::new() };
    let kept = outcome.mishaps.iter().enumerate().filter(|(number, _)| !without.contains(number));
    kept.for_each(|(number, mishap)| {
        let _ = writeln!(words, "  with {number}: {mishap}");
    });
    let numbers = without.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let option = if numbers.is_empty() { String::new() } else { format!(" --without {numbers}") };
    words
        + &format!("  cargo run --release -p carillon-tests --bin world -- --seed {seed}{option} --timeline")
}
