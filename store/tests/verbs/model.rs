//! Random traffic against the model of a conversation, more of it than an engine's suite has.

use carillon_store::conformance::conversation;

use super::*;

/// The first case, and how many: each is a function of its number.
const CASES: (u64, u64) = (1_000, 300);

/// G2, G3, G4, G11, G12: after any traffic, history, unread counts, watermarks, tombstones, reactions and who hears what
/// are those of the model. One case alone: `CARILLON_SEED=<seed> cargo test -p carillon-store --test verbs model::`;
/// more of them: `CARILLON_CASES=10000`.
#[test]
#[expect(clippy::disallowed_methods, reason = "a failing case is run again by its number")]
fn any_traffic_is_what_the_model_says() {
    let mut world = world();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = match number("CARILLON_SEED") {
        Some(seed) => (seed, 1),
        None => (CASES.0, number("CARILLON_CASES").unwrap_or(CASES.1)),
    };
    for seed in first..first + count {
        conversation::check(&mut world, seed);
    }
    // And whatever it was, all rows of it agree.
    verify::assert_whole(&world);
}
