//! What the driver knows of one direct descriptor, and what has to be asked of the ring for it next. Pure.
//!
//! It is told what happened and what is wanted, and then driven by [`Socket::next`] until `None`.
//!
//! # Invariants
//! - At most one receive and one send are under way.
//! - A place of the table is emptied only when neither is: the kernel would keep the socket for them, the peer would hear
//!   nothing, and what they bring would be taken for the next connection's.
//! - Until something was sent, bytes are received one buffer at a time: so when the shard has seen that they are plain HTTP,
//!   nothing is under way, and all that was received is what the shard has.

/// How a receive goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Until something has come.
    Once,
    /// Until it is cancelled, the peer has ended, or there was no buffer.
    Always,
}

/// What to ask of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    AskName,
    Receive(Watch),
    CancelReceive,
    CancelSend,
    HalfClose,
    Install,
    Close,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The place is empty.
    #[default]
    Free,
    /// Accepted; its peer's address is to be asked for.
    Accepted,
    /// The question is under way.
    Asked,
    /// The shard knows it.
    Open,
    /// Nothing more will be queued for it.
    Closing,
    /// Everything is out: the peer is to hear that.
    Emptied,
    /// What still comes is discarded, because closing with unread bytes would reset the connection, and take with it what the
    /// peer has not read.
    Lingering,
    /// The HTTP server gets it.
    HandingOff,
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
pub(super) struct Socket {
    phase: Phase,
    receive: Request,
    send: Request,
    is_paused: bool,
    /// Something was sent.
    is_answered: bool,
    /// The peer ended, or the connection broke.
    is_ended: bool,
}

impl Socket {
    /// A connection was accepted into this place.
    pub(super) fn accepted(&mut self) {
        *self = Socket { phase: Phase::Accepted, ..Socket::default() };
    }

    /// The peer's address is known.
    pub(super) fn named(&mut self) {
        if self.phase == Phase::Asked {
            self.phase = Phase::Open;
        }
    }

    /// A receive brought bytes, or its end. Whether they are for the shard.
    pub(super) fn received(&mut self, is_last: bool) -> bool {
        if is_last {
            self.receive = Request::Idle;
        }
        self.phase == Phase::Open
    }

    /// A send begins.
    pub(super) fn sending(&mut self) {
        self.send = Request::UnderWay;
        self.is_answered = true;
    }

    /// A send was completed.
    pub(super) fn sent(&mut self) {
        self.send = Request::Idle;
    }

    /// Whether nothing can be sent now.
    pub(super) fn is_blocked(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Open | Phase::Closing);
        !is_open || self.is_ended || self.send != Request::Idle
    }

    /// The peer ended it, or it broke. `false`: that was known.
    pub(super) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_ended, true)
    }

    pub(super) fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Nothing more will be queued. `false`: that was known, or it goes anyway.
    pub(super) fn close(&mut self) -> bool {
        let is_news = self.phase == Phase::Open;
        if is_news {
            self.phase = Phase::Closing;
        }
        is_news
    }

    /// Everything queued is out.
    pub(super) fn emptied(&mut self) {
        if self.phase == Phase::Closing && self.send == Request::Idle {
            self.phase = Phase::Emptied;
        }
    }

    /// It is for the HTTP server.
    pub(super) fn hand_off(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::HandingOff;
        }
    }

    /// An ordinary descriptor was made, or could not be.
    pub(super) fn installed(&mut self) {
        self.phase = Phase::Leaving;
    }

    /// It goes now, whatever is under way. `false`: it does already.
    pub(super) fn leave(&mut self) -> bool {
        let is_here = !matches!(self.phase, Phase::Free | Phase::HandingOff | Phase::Leaving | Phase::Last);
        if is_here {
            self.phase = Phase::Leaving;
        }
        is_here
    }

    /// The place is empty.
    pub(super) fn closed(&mut self) {
        *self = Socket::default();
    }

    /// What to ask of the ring; to be called until `None`.
    pub(super) fn next(&mut self) -> Option<Step> {
        match self.phase {
            Phase::Free | Phase::Asked | Phase::Last => None,
            Phase::Accepted => {
                self.phase = Phase::Asked;
                Some(Step::AskName)
            }
            Phase::Open => self.read_on(self.is_paused),
            Phase::Closing | Phase::Lingering => self.read_on(false),
            Phase::Emptied => {
                self.phase = Phase::Lingering;
                Some(Step::HalfClose)
            }
            Phase::HandingOff => self.last(Step::Install),
            Phase::Leaving => self.last(Step::Close),
        }
    }

    fn read_on(&mut self, is_paused: bool) -> Option<Step> {
        match self.receive {
            Request::Idle if !is_paused && !self.is_ended => {
                self.receive = Request::UnderWay;
                Some(Step::Receive(if self.is_answered { Watch::Always } else { Watch::Once }))
            }
            Request::UnderWay if is_paused => self.cancel_receive(),
            _ => None,
        }
    }

    fn cancel_receive(&mut self) -> Option<Step> {
        self.receive = Request::Cancelled;
        Some(Step::CancelReceive)
    }

    /// What is under way is ended, and then this is the last step.
    fn last(&mut self, step: Step) -> Option<Step> {
        match (self.receive, self.send) {
            (Request::UnderWay, _) => self.cancel_receive(),
            (_, Request::UnderWay) => {
                self.send = Request::Cancelled;
                Some(Step::CancelSend)
            }
            (Request::Idle, Request::Idle) => {
                self.phase = Phase::Last;
                Some(step)
            }
            _ => None,
        }
    }
}
