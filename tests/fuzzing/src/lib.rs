//! What is fuzzed, and what has to hold whatever bytes come: one module a target. `fuzz/` drives each with libFuzzer under the
//! address sanitizer; `tests/corpus.rs` replays the corpus in every test run.
//!
//! # Invariants
//! - A body panics exactly when something is wrong with the code under test. Its answer depends on `data` alone.
//! - A body tells what it [`Reached`], so that a corpus that has gone stale, and reaches nothing, is noticed.

use std::collections::BTreeSet;

pub mod client_json;
pub mod client_rkyv;
pub mod codec;
mod draw;
pub mod equivalence;
pub mod link_frames;
pub mod store_recovery;
pub mod tokens;
pub mod upgrade;

/// What a run came across: names of outcomes.
#[derive(Debug, Default)]
pub struct Reached(Option<BTreeSet<&'static str>>);

impl Reached {
    /// Forgets what it is told: for speed.
    #[must_use]
    pub const fn ignored() -> Reached {
        Reached(None)
    }

    /// Remembers what it is told.
    #[must_use]
    pub const fn kept() -> Reached {
        Reached(Some(BTreeSet::new()))
    }

    /// Which of these nothing came across.
    #[must_use]
    pub fn missing(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        let reached = self.0.as_ref();
        wanted
            .iter()
            .filter(|name| !reached.is_some_and(|reached| reached.contains(*name)))
            .copied()
            .collect()
    }

    pub(crate) fn meet(&mut self, what: &'static str) {
        if let Some(reached) = &mut self.0 {
            reached.insert(what);
        }
    }
}

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its module, its corpus and its binary in `fuzz/`.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8], &mut Reached),
    /// What a corpus worth its name reaches.
    pub outcomes: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    codec::TARGET,
    upgrade::TARGET,
    client_json::TARGET,
    client_rkyv::TARGET,
    link_frames::TARGET,
    equivalence::TARGET,
    tokens::TARGET,
    store_recovery::TARGET,
];
