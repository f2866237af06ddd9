//! A bell that wakes one sleeping thread: an eventfd behind an atomic, so that ringing costs a system call
//! only when the owner sleeps.
//!
//! The owner, each turn:
//! 1. [`Doorbell::drain`], and only then look at rings and mailboxes;
//! 2. work;
//! 3. if there is nothing left to do, [`Doorbell::arm`]; when it says `true`, go to 1; else sleep until
//!    [`Doorbell::as_fd`] is readable (or something else happens), and go to 1.
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

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::Wake;

/// The owner is at work, and nothing rang since it began to look.
const AWAKE: u8 = 0;
/// Somebody rang since the owner began to look.
const RUNG: u8 = 1;
/// The owner announced that it sleeps; whoever rings next writes the eventfd.
const ASLEEP: u8 = 2;

/// Wakes one owner. Anybody may ring ([`Wake::wake`]); everything else is for the owner's thread alone.
#[derive(Debug)]
pub struct Doorbell {
    state: AtomicU8,
    /// Whether the owner armed since it last drained, so that whoever rang first writes the eventfd. Only the owner uses it.
    armed: AtomicBool,
    /// How many of those writes the owner has not read yet; some may still be on their way. Only the owner uses it.
    owed: AtomicU64,
    event: OwnedFd,
}

impl Doorbell {
    /// A new bell, awake and silent.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Arc<Doorbell>> {
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Doorbell {
            state: AtomicU8::new(AWAKE),
            armed: AtomicBool::new(false),
            owed: AtomicU64::new(0),
            event,
        }))
    }

    /// Announces sleep. `true`: something rang since the last [`drain`](Self::drain), so do not sleep.
    #[must_use]
    pub fn arm(&self) -> bool {
        let rung = self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if rung.is_ok() {
            self.armed.store(true, Ordering::Relaxed);
        }
        // Armed already, and not rung since: still asleep.
        rung.is_err_and(|state| state != ASLEEP)
    }

    /// The owner is awake and about to look: everything published before a ring that came before this is
    /// visible after it. Returns whether anything rang.
    pub fn drain(&self) -> bool {
        let rung = self.state.swap(AWAKE, Ordering::AcqRel) == RUNG;
        let mut owed = self.owed.load(Ordering::Relaxed);
        // Of those who rang a sleeper, the first writes, and nobody else: a sleep that nobody ended costs no system call.
        owed += u64::from(self.armed.swap(false, Ordering::Relaxed) && rung);
        if owed > 0 {
            // The ringer may still stand between its swap and its write. What it writes after this read makes one later
            // sleep end early, and is read then.
            let mut count = [0; 8];
            if rustix::io::read(&self.event, &mut count).is_ok() {
                owed = owed.saturating_sub(u64::from_ne_bytes(count));
            }
        }
        self.owed.store(owed, Ordering::Relaxed);
        rung
    }

    /// Sleeps until something rings, or for `timeout`, for an owner that waits for nothing else; then drains.
    /// Returns whether anything rang. May end early with `false`.
    ///
    /// # Errors
    /// When the kernel refuses to poll (out of memory). Interruption by a signal is not an error.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        if !self.arm() {
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.drain())
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            // The counter cannot overflow (one write per sleep), and any value of it makes the descriptor
            // readable.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Doorbell {
    /// Readable once something rang after [`Doorbell::arm`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
