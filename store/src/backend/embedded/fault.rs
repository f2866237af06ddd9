//! The store's failure, kept: once something is wrong with the disk, nothing is acknowledged any more (G14).
//!
//! Invariant: a tripped fault never goes away while the process lives; the first reason stays.

use std::sync::OnceLock;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Fault {
    reason: OnceLock<String>,
}

impl Fault {
    /// Stops the store. Returns the reason that counts: the first.
    pub(super) fn trip(&self, reason: &str) -> String {
        self.reason.get_or_init(|| reason.to_owned()).clone()
    }

    /// Why the store has stopped, if it has.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }
}
