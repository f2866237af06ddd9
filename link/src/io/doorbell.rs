//! A bell that wakes one sleeping thread: an eventfd behind an atomic ([`Bell`]), so that ringing costs a system call
//! only when the owner sleeps.
//!
//! The owner, each turn:
//! 1. [`Doorbell::drain`], and only then look at rings and mailboxes;
//! 2. work;
//! 3. if there is nothing left to do, [`Doorbell::arm`]; when it says `true`, go to 1; else sleep until
//!    [`Doorbell::as_fd`] is readable (or something else happens), and go to 1.
//!
//! Why no wake-up is lost stands in [`crate::bell`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::Wake;
use crate::bell::Bell;

/// Wakes one owner. Anybody may ring ([`Wake::wake`]); everything else is for the owner's thread alone.
#[derive(Debug)]
pub struct Doorbell {
    bell: Bell,
    event: OwnedFd,
}

impl Doorbell {
    /// A new bell, awake and silent.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Arc<Doorbell>> {
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Doorbell { bell: Bell::new(), event }))
    }

    /// Announces sleep. `true`: something rang since the last [`drain`](Self::drain), so do not sleep.
    #[must_use]
    pub fn arm(&self) -> bool {
        self.bell.arm()
    }

    /// The owner is awake and about to look: everything published before a ring that came before this is
    /// visible after it. Returns whether anything rang.
    pub fn drain(&self) -> bool {
        self.bell.drain(|| {
            let mut count = [0; 8];
            rustix::io::read(&self.event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
        })
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
        if self.bell.ring() {
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
