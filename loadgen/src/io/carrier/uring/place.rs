//! What is known of one place of a ring's table, and what has to be asked of the ring for it next. Pure.
//!
//! It is told what is wanted and what happened, and then driven by [`Place::next`] until `None`.
//!
//! # Invariants
//! - At most one dial, one receive and one send are under way.
//! - A place is emptied only when none is: closing does not close a socket that something is under way on, so its peer would
//!   hear nothing. A new socket is dialled only into an empty place.

/// How a receive goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Until it is cancelled, the peer has ended, or there was no buffer.
    Always,
    /// Until something has come, up to so many bytes.
    Sip(u32),
}

/// What to ask of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Dial,
    Receive(Watch),
    HoldLittle,
    CancelDial,
    CancelReceive,
    CancelSend,
    Close,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The place is empty.
    #[default]
    Free,
    /// A socket is made and connected.
    Dialling,
    Open,
    /// It goes.
    Leaving,
    /// The last thing is asked for it.
    Last,
}

/// A request that may be under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Request {
    #[default]
    Idle,
    UnderWay,
    Cancelled,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Place {
    phase: Phase,
    dial: Request,
    receive: Request,
    send: Request,
    /// As it is received from now on; `None`: as fast as it comes.
    sip_bytes: Option<u32>,
    /// As the receive that is under way does.
    is_sipping: bool,
    /// A sip was taken and the next is not wanted yet.
    is_sated: bool,
    is_to_hold_little: bool,
    /// The peer has ended.
    is_ended: bool,
    /// As soon as the place is empty it is dialled again.
    is_wanted: bool,
}

impl Place {
    /// A connection is wanted.
    pub(super) fn dial(&mut self) {
        self.close();
        self.is_wanted = true;
    }

    /// A dial was completed. Whether the connection stands, and somebody wants it.
    pub(super) fn dialled(&mut self, stands: bool) -> bool {
        self.dial = Request::Idle;
        let is_news = self.phase == Phase::Dialling && stands;
        if is_news {
            self.phase = Phase::Open;
        }
        is_news
    }

    /// Whether what happens is still told.
    pub(super) fn is_heard(&self) -> bool {
        matches!(self.phase, Phase::Dialling | Phase::Open)
    }

    /// Whether something can be sent now.
    pub(super) fn takes(&self) -> bool {
        self.phase == Phase::Open && self.send == Request::Idle
    }

    /// Whether it may be sent to at all.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// A receive brought bytes, or its end. Whether they are to be told.
    pub(super) fn received(&mut self, brought_bytes: bool, is_last: bool) -> bool {
        if is_last {
            self.receive = Request::Idle;
            self.is_sated |= self.is_sipping && brought_bytes;
        }
        self.phase == Phase::Open
    }

    /// The peer has ended.
    pub(super) fn ended(&mut self) {
        self.is_ended = true;
    }

    /// A send begins.
    pub(super) fn sending(&mut self) {
        self.send = Request::UnderWay;
    }

    /// A send was completed.
    pub(super) fn sent(&mut self) {
        self.send = Request::Idle;
    }

    /// Reads on, and in sips if there is a size.
    pub(super) fn sip(&mut self, sip_bytes: Option<u32>) {
        self.is_to_hold_little |= self.sip_bytes.is_none() && sip_bytes.is_some();
        self.sip_bytes = sip_bytes;
        self.is_sated = false;
    }

    /// It goes, whatever is under way.
    pub(super) fn close(&mut self) {
        self.is_wanted = false;
        if self.is_heard() {
            self.phase = Phase::Leaving;
        }
    }

    /// The place is empty.
    pub(super) fn closed(&mut self) {
        *self = Place { is_wanted: self.is_wanted, ..Place::default() };
    }

    /// What to ask of the ring; to be called until `None`.
    pub(super) fn next(&mut self) -> Option<Step> {
        match self.phase {
            Phase::Free if self.is_wanted => {
                *self = Place { phase: Phase::Dialling, dial: Request::UnderWay, ..Place::default() };
                Some(Step::Dial)
            }
            Phase::Free | Phase::Dialling | Phase::Last => None,
            Phase::Open => self.read_on(),
            Phase::Leaving => self.leave(),
        }
    }

    fn read_on(&mut self) -> Option<Step> {
        if std::mem::take(&mut self.is_to_hold_little) {
            return Some(Step::HoldLittle);
        }
        match self.receive {
            Request::Idle if !self.is_sated && !self.is_ended => {
                self.receive = Request::UnderWay;
                self.is_sipping = self.sip_bytes.is_some();
                Some(Step::Receive(self.sip_bytes.map_or(Watch::Always, Watch::Sip)))
            }
            Request::UnderWay if self.is_sipping != self.sip_bytes.is_some() => {
                Some(cancel(&mut self.receive, Step::CancelReceive))
            }
            _ => None,
        }
    }

    fn leave(&mut self) -> Option<Step> {
        match (self.dial, self.receive, self.send) {
            (Request::UnderWay, ..) => Some(cancel(&mut self.dial, Step::CancelDial)),
            (_, Request::UnderWay, _) => Some(cancel(&mut self.receive, Step::CancelReceive)),
            (.., Request::UnderWay) => Some(cancel(&mut self.send, Step::CancelSend)),
            (Request::Idle, Request::Idle, Request::Idle) => {
                self.phase = Phase::Last;
                Some(Step::Close)
            }
            _ => None,
        }
    }
}

fn cancel(request: &mut Request, step: Step) -> Step {
    *request = Request::Cancelled;
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is to be asked now.
    fn steps(place: &mut Place) -> Vec<Step> {
        std::iter::from_fn(|| place.next()).collect()
    }

    fn open() -> Place {
        let mut place = Place::default();
        place.dial();
        assert_eq!(steps(&mut place), [Step::Dial]);
        assert!(place.dialled(true));
        assert_eq!(steps(&mut place), [Step::Receive(Watch::Always)]);
        place
    }

    #[test]
    fn a_place_is_emptied_when_nothing_is_under_way_and_only_then_dialled_again() {
        let mut place = open();
        place.sending();
        place.close();
        assert!(!place.is_heard() && !place.takes());
        place.dial();
        assert_eq!(steps(&mut place), [Step::CancelReceive, Step::CancelSend]);
        assert!(!place.received(true, false), "it is not told any more");
        place.received(false, true);
        assert_eq!(steps(&mut place), [], "the send is still under way");
        place.sent();
        assert_eq!(steps(&mut place), [Step::Close]);
        place.closed();
        assert_eq!(steps(&mut place), [Step::Dial]);
        assert!(place.dialled(true) && place.takes());
    }

    #[test]
    fn a_dial_that_nobody_waits_for_any_more_is_cancelled() {
        let mut place = Place::default();
        place.dial();
        assert_eq!(steps(&mut place), [Step::Dial]);
        place.close();
        assert_eq!(steps(&mut place), [Step::CancelDial]);
        assert!(!place.dialled(true), "it stood before the cancellation, and nobody wants it");
        assert_eq!(steps(&mut place), [Step::Close]);
        place.closed();
        assert_eq!(steps(&mut place), []);
    }

    #[test]
    fn one_receive_at_a_time_and_none_after_the_end() {
        let mut place = open();
        assert!(place.received(true, false));
        assert_eq!(steps(&mut place), []);
        assert!(place.received(false, true), "its end, for want of a buffer");
        assert_eq!(steps(&mut place), [Step::Receive(Watch::Always)]);
        place.received(false, true);
        place.ended();
        assert_eq!(steps(&mut place), []);
    }

    #[test]
    fn sips_are_taken_one_by_one() {
        let mut place = open();
        place.sip(Some(100));
        assert_eq!(steps(&mut place), [Step::HoldLittle, Step::CancelReceive]);
        place.received(false, true);
        assert_eq!(steps(&mut place), [Step::Receive(Watch::Sip(100))]);
        place.received(false, true);
        assert_eq!(
            steps(&mut place),
            [Step::Receive(Watch::Sip(100))],
            "there was no buffer: no sip was taken"
        );
        place.received(true, true);
        assert_eq!(steps(&mut place), [], "sated");
        place.sip(Some(100));
        assert_eq!(steps(&mut place), [Step::Receive(Watch::Sip(100))]);
        place.sip(None);
        assert_eq!(steps(&mut place), [Step::CancelReceive]);
        place.received(true, true);
        place.sip(None);
        assert_eq!(steps(&mut place), [Step::Receive(Watch::Always)]);
    }
}
