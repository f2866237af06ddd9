//! Fewer mishaps that break the same promise.

use std::collections::BTreeSet;

use super::{Grounds, Outcome, run_without};

/// Worlds that are lived through in search of a shorter one.
const RUNS_MAX: usize = 120;

/// Which mishaps of a world that broke a promise can be left out, and it breaks the same one: found by leaving out more and
/// more, in smaller and smaller pieces.
#[must_use]
pub fn shrink(grounds: &Grounds, seed: u64, outcome: &Outcome) -> BTreeSet<usize> {
    let promise = |outcome: &Outcome| {
        outcome.violations.first().and_then(|first| first.split(':').next().map(str::to_owned))
    };
    let broken = promise(outcome);
    let mut without = BTreeSet::new();
    let mut runs_count = 0;
    let mut piece = outcome.mishaps.len();
    while piece > 0 {
        let left: Vec<usize> = (0..outcome.mishaps.len()).filter(|it| !without.contains(it)).collect();
        for part in left.chunks(piece) {
            if runs_count == RUNS_MAX {
                return without;
            }
            runs_count += 1;
            let tried: BTreeSet<usize> = without.iter().chain(part).copied().collect();
            if promise(&run_without(grounds, seed, &tried, None)) == broken {
                without = tried;
            }
        }
        piece /= 2;
    }
    without
}
