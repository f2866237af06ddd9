//! One conversation on one connection: what has to come next (G6).

use std::collections::BTreeSet;

use carillon_protocol::ids::Seq;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The next seq is one of these: two different ends only while the stored cursor is not known to the client.
    next: (Seq, Seq),
    /// Filled by acks above `next`.
    early: BTreeSet<Seq>,
    /// The client was told that it is no member any more: nothing comes until it was told otherwise.
    pub(super) is_closed: bool,
    /// The client was told to sync: nothing comes live until it did.
    pub(super) is_behind: bool,
    /// The head that it was told with that: what was read below it is from before.
    pub(super) behind_head: Seq,
}

impl Line {
    /// After a cursor that lies within these.
    pub(super) fn new(cursor_min: Seq, cursor_max: Seq) -> Line {
        Line {
            next: (cursor_min + 1, cursor_max.max(cursor_min) + 1),
            early: BTreeSet::new(),
            is_closed: false,
            is_behind: false,
            behind_head: 0,
        }
    }

    /// As it goes on behind a `reset`. What was acked above it came early, and comes no other way.
    pub(super) fn reset(&self, head_seq: Seq) -> Line {
        let mut line = Line::new(head_seq, head_seq);
        line.early = self.early.clone();
        line.moved(head_seq + 1);
        line
    }

    /// The client's user joins by this event; whether nothing else came before.
    pub(super) fn begin(&mut self, seq: Seq) -> bool {
        let is_first = self.next.0 == 1 && self.next.0 == self.next.1 && !self.is_behind && !self.is_closed;
        if is_first {
            self.next = (seq, seq);
        }
        is_first
    }

    /// Everything up to here is there; `None` while that is not known.
    pub(super) fn cursor(&self) -> Option<Seq> {
        (self.next.0 == self.next.1).then(|| self.least())
    }

    /// Whether the line has gone on beyond this event.
    pub(super) fn is_past(&self, seq: Seq) -> bool {
        seq + 1 < self.next.0
    }

    /// Everything up to here is there, and perhaps more.
    pub(super) fn least(&self) -> Seq {
        self.after_acks(self.next.0) - 1
    }

    fn after_acks(&self, mut next: Seq) -> Seq {
        while self.early.contains(&next) {
            next += 1;
        }
        next
    }

    fn moved(&mut self, next: Seq) {
        let next = self.after_acks(next);
        self.next = (next, next);
        self.early = self.early.split_off(&next);
    }

    /// Whether a page with this head was read before the client was told to sync, if its user may still see the rest.
    pub(super) fn is_older(&self, head_seq: Seq, is_over: bool) -> bool {
        self.is_behind && head_seq < self.behind_head && !is_over
    }

    /// A durable event came.
    pub(super) fn event(&mut self, seq: Seq) -> Result<(), String> {
        if self.is_closed {
            return Err(format!("{seq} came although it was told that it is no member any more"));
        }
        if self.is_behind {
            return Err(format!("{seq} came live although it was told to sync"));
        }
        let (low, high) = self.next;
        if (low..=high).any(|next| self.after_acks(next) == seq) {
            self.moved(seq + 1);
            return Ok(());
        }
        let is_repeated = seq < low || self.early.contains(&seq);
        let words = if is_repeated { "came a second time" } else { "skips some" };
        let message = format!("{seq} {words}: expected {low}..={high}, filled by acks {:?}", self.early);
        self.moved(seq + 1);
        Err(message)
    }

    /// An ack that is not a duplicate came: it is the event.
    pub(super) fn ack(&mut self, seq: Seq) -> Result<(), String> {
        let (low, high) = self.next;
        if seq < low {
            return Err(format!("the ack of {seq} came when everything below {low} was there"));
        }
        // Below an earlier ack is legal: a message that was refused once and is said again may be overtaken by a later one.
        if !self.early.insert(seq) {
            return Err(format!("the ack of {seq} came a second time"));
        }
        if low == high {
            self.moved(low);
        }
        Ok(())
    }

    /// A page says that everything up to `to_seq` is there now.
    pub(super) fn covered(&mut self, to_seq: Seq) -> Result<(), String> {
        let (_, high) = self.next;
        if self.after_acks(high) <= to_seq {
            let message = format!("a batch up to {to_seq} leaves a hole from {}", self.after_acks(high));
            self.moved(to_seq + 1);
            return Err(message);
        }
        Ok(())
    }

    /// The client asked for events up to here itself, or was told to drop everything up to here.
    pub(super) fn jump(&mut self, seq: Seq) {
        let next = self.next.0.max(seq + 1);
        self.moved(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G6: the line can fail in each way it is meant to.
    #[test]
    fn g6_skips_repeats_and_late_acks_are_seen() {
        let mut line = Line::new(4, 4);
        assert!(line.event(5).is_ok());
        assert!(line.ack(8).is_ok());
        assert!(line.event(6).is_ok() && line.event(7).is_ok());
        assert_eq!(line.cursor(), Some(8));
        assert!(line.event(8).is_err());
        assert!(line.clone().ack(8).is_err());
        assert!(line.clone().event(11).is_err());
        assert!(line.event(9).is_ok());
        let mut unknown = Line::new(2, 5);
        assert!(unknown.ack(4).is_ok());
        assert!(unknown.event(5).is_ok());
        assert!(Line::new(2, 5).event(7).is_err());
    }
}
