//! Three ways of fan-out, one visible behaviour: the same random conversation at every size around the thresholds, with
//! the real machines in one thread. `CARILLON_SIZES_SEED=N cargo test -p carillon-tests --test sizes` repeats one seed.

#![expect(clippy::disallowed_methods, reason = "a test is told its seed by the environment")]

use carillon_tests::hall::Hall;

/// (members, things that somebody does, seeds): less of it where each is heard by thousands.
const SIZES: [(usize, usize, u64); 8] = [
    (2, 200, 8),
    (199, 60, 2),
    (200, 60, 2),
    (201, 60, 2),
    (999, 40, 1),
    (1_000, 40, 1),
    (1_001, 40, 1),
    (5_000, 16, 1),
];
const STEPS_UNDER_WAY: usize = 8;

fn play(seed: u64, members: usize, steps: usize) -> Vec<String> {
    let mut hall = Hall::new(seed, members);
    for step in 0..steps {
        hall.step();
        if step % STEPS_UNDER_WAY == 0 {
            hall.settle();
        }
    }
    hall.check_acks_overtake();
    hall.judge();
    hall.violations
}

fn check(members: usize) {
    let (_, steps, seeds) =
        SIZES.into_iter().find(|(size, ..)| *size == members).expect("a size of the list");
    let only = std::env::var("CARILLON_SIZES_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in only.map_or(1..=seeds, |seed| seed..=seed) {
        let violations = play(seed, members, steps);
        let shown = &violations[..violations.len().min(5)];
        assert!(
            violations.is_empty(),
            "{members} members, {} violations; CARILLON_SIZES_SEED={seed} cargo test -p carillon-tests --test sizes\n{}",
            violations.len(),
            shown.join("\n")
        );
    }
}

/// T5, GF4, OR3, BG1: up to `fanout.direct_max` and just above it.
#[test]
fn two_and_two_hundred_members_see_the_same() {
    for members in [2, 199, 200, 201] {
        check(members);
    }
}

/// T5, GF4, OR3, BG2, BG3: around `fanout.queue_min`.
#[test]
fn a_thousand_members_see_the_same() {
    for members in [999, 1_000, 1_001] {
        check(members);
    }
}

/// T5, T9, GF4, BG2, BG3: a crowd's sender has its ack before anybody else has the event, and neighbours do not wait.
#[test]
fn five_thousand_members_see_the_same() {
    check(5_000);
}
