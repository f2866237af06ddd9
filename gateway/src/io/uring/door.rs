//! Who may come in: counts the places of a ring's table, and says when to accept. Pure.
//!
//! The kernel accepts into places by itself, as many as wait, before we hear of the first. A connection that it has accepted
//! and finds no place for is dropped, and so is another one at each new try. So accepting is cancelled while there are still
//! places for everything that one call can bring: no more than the completion queue can report, and one.
//!
//! Those that come in so beyond the cap wait in their places, unread, as they would in the listener's backlog.
//!
//! # Invariants
//! - At most `cap` connections are admitted, and at most `cap` plus [`Door::reserve`] places taken.

use std::collections::VecDeque;
use std::time::Duration;

use carillon_protocol::time::Time;

/// How long accepting rests when the process or the kernel is short of something (F28).
const REST: Duration = Duration::from_millis(100);

/// What to ask of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Accept,
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    No,
    Yes,
    /// Until the kernel has said so.
    Cancelled,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    cap: usize,
    /// Places that are not empty and not waiting.
    admitted_count: usize,
    /// Accepted, and not admitted yet.
    waiting: VecDeque<u32>,
    accepting: Accepting,
    rests_until: Time,
    is_shut: bool,
    /// How often accepting had to rest.
    rests_count: u64,
}

impl Door {
    /// Places that have to be kept free, besides `cap`, when one call into the kernel brings so many completions at most: the
    /// last of an accept comes even when there is no room for it.
    pub(super) const fn reserve(completions_max: usize) -> usize {
        completions_max + 1
    }

    pub(super) fn new(cap: usize) -> Door {
        Door {
            cap,
            admitted_count: 0,
            waiting: VecDeque::new(),
            accepting: Accepting::No,
            rests_until: Time(0),
            is_shut: false,
            rests_count: 0,
        }
    }

    /// A connection was accepted into this place.
    pub(super) fn accepted(&mut self, slot: u32) {
        self.waiting.push_back(slot);
    }

    /// The kernel accepts no more, until it is asked again.
    pub(super) fn ended(&mut self) {
        self.accepting = Accepting::No;
    }

    /// It could not accept: the rest waits in the backlog.
    pub(super) fn failed(&mut self, now: Time) {
        self.rests_until = now.after(REST);
        self.rests_count += 1;
    }

    /// The next that may come in.
    pub(super) fn admit(&mut self) -> Option<u32> {
        if self.admitted_count >= self.cap {
            return None;
        }
        let slot = self.waiting.pop_front()?;
        self.admitted_count += 1;
        Some(slot)
    }

    /// The place of one who was admitted is empty again.
    pub(super) fn left(&mut self) {
        self.admitted_count -= 1;
    }

    /// Nobody is accepted any more.
    pub(super) fn shut(&mut self) {
        self.is_shut = true;
    }

    /// What to ask of the ring; to be called until `None`.
    pub(super) fn next(&mut self, now: Time) -> Option<Order> {
        let is_full = self.places_count() >= self.cap;
        let is_wanted = !is_full && !self.is_shut && self.rests_until <= now;
        match self.accepting {
            Accepting::No if is_wanted => {
                self.accepting = Accepting::Yes;
                Some(Order::Accept)
            }
            Accepting::Yes if is_full || self.is_shut => {
                self.rests_count += u64::from(is_full);
                self.accepting = Accepting::Cancelled;
                Some(Order::Cancel)
            }
            _ => None,
        }
    }

    /// How long until accepting has rested enough, if it rests.
    pub(super) fn sleep(&self, now: Time) -> Option<Duration> {
        (self.accepting == Accepting::No && !self.is_shut && self.rests_until > now)
            .then(|| self.rests_until.since(now))
    }

    /// Places that are taken.
    pub(super) fn places_count(&self) -> usize {
        self.admitted_count + self.waiting.len()
    }

    /// Whether nobody is there and nobody comes.
    pub(super) fn is_deserted(&self) -> bool {
        self.places_count() == 0 && self.accepting == Accepting::No
    }

    /// How often accepting rested.
    pub(super) fn rests_count(&self) -> u64 {
        self.rests_count
    }
}
