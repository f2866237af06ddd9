//! When a bell has to be heard: what the ringers of a [`Doorbell`](crate::doorbell::Doorbell) and its owner know of each other.
//!
//! # Why no wake-up is lost
//! All steps are swaps or compare-exchanges (read-modify-write) on one atomic with acquire and release, so
//! they have one order. A ringer publishes its data and then swaps in `RUNG`.
//! - If that comes before the owner's swap in `drain`, the owner acquires it, directly or through the swaps
//!   between (a release sequence), and finds the data when it looks.
//! - If it comes after `drain` and before `arm`, `arm` finds `RUNG` and refuses to sleep.
//! - If it comes after `arm`, it finds `ASLEEP`, is the only one to do so, and writes the eventfd, which
//!   stays readable until the owner has read it.
//!
//! A plain load instead of the ringer's swap ("has it rung already?") would be cheaper and wrong: it may be
//! done before the data is visible, while the owner is between `drain` and its look at the ring.

use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// The owner is at work, and nothing rang since it began to look.
const AWAKE: u8 = 0;
/// Somebody rang since the owner began to look.
const RUNG: u8 = 1;
/// The owner announced that it sleeps; whoever rings next writes the eventfd.
const ASLEEP: u8 = 2;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Bell {
    state: AtomicU8,
    /// Whether the owner armed since it last drained, so that whoever rang first writes the eventfd. Only the owner uses it.
    armed: AtomicBool,
    /// How many of those writes the owner has not read yet; some may still be on their way. Only the owner uses it.
    owed: AtomicU64,
}

impl Bell {
    /// Awake and silent.
    pub(crate) fn new() -> Bell {
        Bell { state: AtomicU8::new(AWAKE), armed: AtomicBool::new(false), owed: AtomicU64::new(0) }
    }

    /// Rings. `true`: the owner sleeps, and is to be woken by a write to its eventfd.
    pub(crate) fn ring(&self) -> bool {
        self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP
    }

    /// The owner announces sleep. `true`: something rang since the last [`drain`](Self::drain), so it may not.
    pub(crate) fn arm(&self) -> bool {
        let rung = self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if rung.is_ok() {
            self.armed.store(true, Ordering::Relaxed);
        }
        // Armed already, and not rung since: still asleep.
        rung.is_err_and(|state| state != ASLEEP)
    }

    /// The owner is about to look. `read` empties its eventfd and says how many writes that were. Returns whether anything rang.
    pub(crate) fn drain(&self, read: impl FnOnce() -> u64) -> bool {
        let rung = self.state.swap(AWAKE, Ordering::AcqRel) == RUNG;
        let mut owed = self.owed.load(Ordering::Relaxed);
        // Of those who rang a sleeper, the first writes, and nobody else: a sleep that nobody ended costs no system call.
        owed += u64::from(self.armed.swap(false, Ordering::Relaxed) && rung);
        if owed > 0 {
            // The ringer may still stand between its swap and its write. What it writes after this read makes one later
            // sleep end early, and is read then.
            owed = owed.saturating_sub(read());
        }
        self.owed.store(owed, Ordering::Relaxed);
        rung
    }
}
