//! One conversation as one connection of a client sees it: cursor + 1, cursor + 2, …, with the client's own sends
//! filled by their acks, which may come early and never late (G6).

use carillon_protocol::ids::Seq;

/// Ranges of skipped seqs kept by a line. Beyond, skips are still counted, but a late filling is not recognised as one.
const HOLES_MAX: usize = 256;

/// What an event, or an own ack, is to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// As it has to be.
    InOrder,
    /// Seen before on this line.
    Repeated,
    /// Skipped before, and here after all.
    Late,
    /// So many before it are missing.
    Skips(u64),
    /// Some before it are missing, which is legal here: the client asks for them and takes nothing else until then.
    MustSync,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// Everything up to here was seen, holes aside.
    cursor: Seq,
    /// Own acks above the cursor, ascending: at most the sends that are in flight.
    early: Vec<Seq>,
    /// Skipped ranges below the cursor, both ends included.
    holes: Vec<(Seq, Seq)>,
    /// After `behind`, the next skip is legal.
    may_skip: bool,
    /// After `reset`, everything up to here is legally unseen.
    excused_to: Seq,
}

impl Line {
    pub(super) fn new(cursor: Seq) -> Line {
        Line { cursor, ..Line::default() }
    }

    pub(super) fn cursor(&self) -> Seq {
        self.cursor
    }

    /// A new connection goes on from the cursor: what was acked early on the old one comes as an event now.
    pub(super) fn reconnected(&mut self) {
        self.early.clear();
        self.may_skip = false;
    }

    pub(super) fn behind(&mut self) {
        self.may_skip = true;
    }

    pub(super) fn reset(&mut self, head_seq: Seq) {
        self.cursor = head_seq;
        self.excused_to = self.excused_to.max(head_seq);
        self.early.clear();
        self.may_skip = false;
    }

    pub(super) fn event(&mut self, seq: Seq) -> Step {
        if seq <= self.cursor {
            return self.old(seq);
        }
        if self.early.binary_search(&seq).is_ok() {
            return Step::Repeated;
        }
        let missing = seq - self.cursor - 1;
        if missing == 0 {
            self.may_skip = false;
            self.advance(seq);
            return Step::InOrder;
        }
        if self.may_skip {
            return Step::MustSync;
        }
        self.skip_to(seq);
        self.advance(seq);
        Step::Skips(missing)
    }

    /// The first ack of an own send: it is that event.
    pub(super) fn own_ack(&mut self, seq: Seq) -> Step {
        if seq <= self.cursor {
            return self.old(seq);
        }
        match self.early.binary_search(&seq) {
            Ok(_) => return Step::Repeated,
            Err(place) => self.early.insert(place, seq),
        }
        self.absorb();
        Step::InOrder
    }

    /// Whether the seq was to be seen and was not.
    pub(super) fn misses(&self, seq: Seq) -> bool {
        if seq <= self.excused_to {
            return false;
        }
        if seq > self.cursor {
            return self.early.binary_search(&seq).is_err();
        }
        self.holes.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    }

    fn old(&mut self, seq: Seq) -> Step {
        let Some(place) = self.holes.iter().position(|(first, last)| (*first..=*last).contains(&seq)) else {
            return Step::Repeated;
        };
        let (first, last) = self.holes.swap_remove(place);
        if first < seq {
            self.holes.push((first, seq - 1));
        }
        if seq < last {
            self.holes.push((seq + 1, last));
        }
        Step::Late
    }

    /// Notes what lies between the cursor and `seq`, own early acks left out.
    fn skip_to(&mut self, seq: Seq) {
        let mut first = self.cursor + 1;
        let below = self.early.iter().copied().filter(|early| *early < seq).chain([seq]);
        for end in below {
            if first < end && self.holes.len() < HOLES_MAX {
                self.holes.push((first, end - 1));
            }
            first = end + 1;
        }
    }

    fn advance(&mut self, seq: Seq) {
        self.cursor = seq;
        self.early.retain(|early| *early > seq);
        self.absorb();
    }

    fn absorb(&mut self) {
        let run =
            self.early.iter().zip(self.cursor + 1..).take_while(|(early, next)| **early == *next).count();
        self.early.drain(..run);
        self.cursor += run as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_own_acks_fill_their_seq_early_and_never_late() {
        let mut line = Line::new(10);
        assert_eq!(line.own_ack(13), Step::InOrder);
        assert_eq!(line.own_ack(12), Step::InOrder);
        assert_eq!(line.cursor(), 10);
        assert!(line.misses(11) && !line.misses(12));
        assert_eq!(line.event(11), Step::InOrder);
        assert_eq!(line.cursor(), 13);
        assert_eq!(line.event(13), Step::Repeated);
        assert_eq!(line.event(15), Step::Skips(1));
        assert_eq!(line.own_ack(14), Step::Late);
        assert_eq!(line.own_ack(14), Step::Repeated);
        assert!(!line.misses(14));
    }

    #[test]
    fn g6_a_skip_is_legal_after_behind_and_reset() {
        let mut line = Line::new(1);
        line.behind();
        assert_eq!(line.event(5), Step::MustSync);
        assert_eq!(line.cursor(), 1);
        assert_eq!(line.event(2), Step::InOrder);
        assert_eq!(line.event(5), Step::Skips(2), "once it goes on, a skip is one");
        assert!(line.misses(3) && line.misses(4) && !line.misses(5) && line.misses(6));
        line.reset(9);
        assert!(!line.misses(3) && !line.misses(9) && line.misses(10));
        assert_eq!(line.event(10), Step::InOrder);
    }

    #[test]
    fn g6_a_new_connection_brings_as_events_what_was_acked_early() {
        let mut line = Line::new(0);
        line.own_ack(2);
        line.reconnected();
        assert_eq!(line.event(1), Step::InOrder);
        assert_eq!(line.event(2), Step::InOrder);
    }
}
