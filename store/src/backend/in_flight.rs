//! At most one commit in flight on each lane: an engine's order, and its handling of unknown outcomes, rest on it.

use std::sync::atomic::{AtomicBool, Ordering};

/// A lane with a commit in flight. Two at once are a defect of the caller's.
pub(super) struct InFlight<'a>(&'a AtomicBool);

impl<'a> InFlight<'a> {
    pub(super) fn enter(flag: Option<&'a AtomicBool>, lane: u16) -> InFlight<'a> {
        let Some(flag) = flag else { panic!("there is no commit lane {lane}") };
        assert!(!flag.swap(true, Ordering::Acquire), "two commits at once on lane {lane}");
        InFlight(flag)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
