//! Who may come in: counts the places of a ring's table, and says when to accept. Pure.
//!
//! The kernel accepts into places by itself, as many as wait, before we hear of the first. A connection that it has accepted
//! and finds no place for is dropped, and so is another one at each new try. So accepting is cancelled while there are still
//! places for everything that one call can bring, which is bounded by what the completion queue can report.
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
    /// Places that have to be kept free besides `cap`, when the completion queue has room for so many. One call brings one
    /// more than that, because the last of an accept comes even when there is no room for it; but then one place below the
    /// cap was free before.
    pub(super) const fn reserve(completions_max: usize) -> usize {
        completions_max
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A kernel with a table, and clients that wait at a listener.
    struct Kernel {
        free: BTreeSet<u32>,
        waiting: usize,
        is_accepting: bool,
        dropped: usize,
    }

    impl Kernel {
        /// One call: first what was asked, then whoever waits, as many as completions fit, and the last one.
        fn enter(&mut self, orders: &[Order], completions_max: usize, door: &mut Door) {
            let mut is_cancelled = false;
            for order in orders {
                match order {
                    Order::Accept => self.is_accepting = true,
                    Order::Cancel => is_cancelled = std::mem::take(&mut self.is_accepting),
                }
            }
            if is_cancelled {
                door.ended();
            }
            for _ in 0..self.waiting.min(completions_max + 1) {
                if !self.is_accepting {
                    break;
                }
                self.waiting -= 1;
                match self.free.pop_first() {
                    Some(slot) => door.accepted(slot),
                    None => {
                        self.dropped += 1;
                        self.is_accepting = false;
                        door.ended();
                    }
                }
            }
        }
    }

    fn orders(door: &mut Door, now: Time) -> Vec<Order> {
        std::iter::from_fn(|| door.next(now)).collect()
    }

    /// F28: with any cap and any crowd nobody is accepted whom there is no place for, nobody is admitted above the cap, and
    /// everybody comes in in the end.
    #[test]
    fn f28_nobody_is_dropped_at_the_door() {
        for (cap, completions_max) in [(1, 16), (4, 16), (100, 16), (1_000, 64), (3, 2)] {
            let places_count = cap + Door::reserve(completions_max);
            let mut kernel = Kernel {
                free: (0..u32::try_from(places_count).unwrap()).collect(),
                waiting: 5_000,
                is_accepting: false,
                dropped: 0,
            };
            let mut door = Door::new(cap);
            let mut inside: VecDeque<u32> = VecDeque::new();
            let (mut served, mut turns) = (0, 0);
            while served < 5_000 {
                turns += 1;
                assert!(turns < 100_000, "cap {cap}: {served} came in");
                let asked = orders(&mut door, Time(turns));
                kernel.enter(&asked, completions_max, &mut door);
                inside.extend(std::iter::from_fn(|| door.admit()));
                assert!(inside.len() <= cap && door.places_count() <= places_count);
                // Some leave: now and then all of them.
                let leaving = if turns % 40 == 0 { inside.len() } else { inside.len().min(2) };
                for slot in inside.drain(..leaving) {
                    assert!(kernel.free.insert(slot), "given to one at a time");
                    door.left();
                    served += 1;
                }
            }
            assert_eq!(kernel.dropped, 0, "cap {cap}");
            assert!(door.rests_count() > 0);
        }
    }

    /// F28: when the kernel cannot accept it is left alone for a while.
    #[test]
    fn f28_a_failure_is_a_rest() {
        let (mut door, start) = (Door::new(10), Time(1_000));
        assert_eq!(orders(&mut door, start), [Order::Accept]);
        door.failed(start);
        door.ended();
        assert_eq!(orders(&mut door, start), []);
        assert_eq!(door.sleep(start), Some(REST));
        assert_eq!(orders(&mut door, start.after(REST)), [Order::Accept]);
        assert_eq!((door.sleep(start.after(REST)), door.rests_count()), (None, 1));
    }

    /// A door that is shut stays so, and says when nobody is behind it any more.
    #[test]
    fn a_shut_door_lets_nobody_in() {
        let (mut door, now) = (Door::new(10), Time(1_000));
        assert_eq!(orders(&mut door, now), [Order::Accept]);
        door.accepted(7);
        assert_eq!(door.admit(), Some(7));
        door.shut();
        assert_eq!(orders(&mut door, now), [Order::Cancel]);
        door.ended();
        assert!(!door.is_deserted(), "one is still there");
        door.left();
        assert!(door.is_deserted());
        assert_eq!(orders(&mut door, now), []);
    }
}
