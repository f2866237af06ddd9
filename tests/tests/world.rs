//! The simulated world in CI: a few hundred seeds; and that a run is a function of its seed.

use carillon_tests::world::{Grounds, Stats, run};

/// Worlds lived through here; more by hand: `cargo run --release -p carillon-tests --bin world -- --seeds 100000`.
const SEEDS_COUNT: u64 = 200;
/// What too few worlds meet to be asked for: nobody falls a thousand events behind, and the others are races.
const RARE: [&str; 3] = ["resets", "replaced_unduly", "older_marks"];

/// G1–G12, G15, F1–F7, F13–F16, F18, F24, F26, PR1 under everything that the world's plans do to one router, and to several that
/// share the slots; and every plan is met: a fault that no longer happens proves nothing.
#[test]
fn every_promise_holds_whatever_goes_wrong() {
    let grounds = Grounds::new();
    let mut total = Stats::default();
    let mut failures = Vec::new();
    for seed in 0..SEEDS_COUNT {
        let outcome = run(&grounds, seed, None);
        total += outcome.stats;
        if let Some(first) = outcome.violations.first() {
            let command =
                format!("cargo run --release -p carillon-tests --bin world -- --seed {seed} --timeline");
            failures.push(format!("{first}\n  {command}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (what, count) in total.list() {
        assert!(count > 0 || RARE.contains(&what), "{what} never happened: {total:?}");
    }
}

/// The same seed goes the same way, and reading along changes nothing.
#[test]
fn a_world_is_a_function_of_its_seed() {
    let grounds = Grounds::new();
    for seed in [0, 1, 2, 3, 77] {
        let first = run(&grounds, seed, None);
        let mut lines_count = 0_u64;
        let second = run(&Grounds::new(), seed, Some(Box::new(|_| lines_count += 1)));
        assert_eq!(first, second, "seed {seed}");
        assert!(lines_count > 100);
        assert_ne!(first.trace_hash, run(&grounds, seed + 1_000, None).trace_hash);
    }
}
