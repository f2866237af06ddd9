//! What the driver knows of one direct descriptor, and what has to be asked of the ring for it next. Pure.
//!
//! It is told what happened and what is wanted, and then driven by [`Socket::next`] until `None`.
//!
//! # Invariants
//! - At most one receive, one send and one half close are under way.
//! - A place of the table is emptied only when none is. For a receive or a send the kernel would keep the socket, and the peer
//!   would hear nothing. A half close it leaves to a thread of its own, which looks into the place only then: it would be the
//!   next connection's.
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
    is_half_closing: bool,
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
        // Also who has ended may still read: what they asked for last is sent before they go.
        !matches!(self.phase, Phase::Open | Phase::Closing) || self.send != Request::Idle
    }

    /// The peer ended it, or it broke. `false`: that was known, or it goes anyway.
    pub(super) fn end(&mut self) -> bool {
        let is_news = !self.is_ended && !matches!(self.phase, Phase::Leaving | Phase::Last);
        self.is_ended = true;
        is_news
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

    /// The peer was told that nothing more comes.
    pub(super) fn half_closed(&mut self) {
        self.is_half_closing = false;
    }

    /// It is for the HTTP server. `false`: it goes already.
    pub(super) fn hand_off(&mut self) -> bool {
        let is_open = self.phase == Phase::Open;
        if is_open {
            self.phase = Phase::HandingOff;
        }
        is_open
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
                self.is_half_closing = true;
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
            (Request::Idle, Request::Idle) if !self.is_half_closing => {
                self.phase = Phase::Last;
                Some(step)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is to be asked now.
    fn steps(socket: &mut Socket) -> Vec<Step> {
        std::iter::from_fn(|| socket.next()).collect()
    }

    fn open() -> Socket {
        let mut socket = Socket::default();
        socket.accepted();
        assert_eq!(steps(&mut socket), [Step::AskName]);
        socket.named();
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Once)]);
        socket
    }

    /// Open, and receiving for good.
    fn answered() -> Socket {
        let mut socket = open();
        assert!(socket.received(true));
        socket.sending();
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Always)]);
        socket.sent();
        socket
    }

    /// Until it was answered a connection is read one buffer at a time, so that nothing is under way when it is given to
    /// the HTTP server.
    #[test]
    fn what_is_handed_off_is_not_read_from() {
        let mut socket = open();
        assert!(socket.received(true), "a part of a request");
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Once)]);
        assert!(socket.received(true), "the rest");
        assert!(socket.hand_off() && !socket.hand_off());
        assert!(socket.is_blocked() && !socket.leave(), "it is not ours any more");
        assert_eq!(steps(&mut socket), [Step::Install]);
        socket.installed();
        assert_eq!(steps(&mut socket), [Step::Close]);
    }

    /// F27: a receive goes on until it says that it does not: cancelled, or without a buffer, it is asked for again once, and
    /// only after its end.
    #[test]
    fn f27_one_receive_at_a_time() {
        let mut socket = answered();
        assert!(socket.received(false));
        assert_eq!(steps(&mut socket), []);
        assert!(socket.received(true), "its end, for want of a buffer");
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Always)]);

        socket.pause(true);
        assert_eq!(steps(&mut socket), [Step::CancelReceive]);
        assert!(socket.received(false), "what came before the cancellation is the shard's as well");
        socket.pause(false);
        assert_eq!(steps(&mut socket), [], "its end is still to come");
        assert!(socket.received(true));
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Always)]);
    }

    /// F14: what is closed says its last, tells the peer so, and reads on without listening.
    #[test]
    fn what_is_closed_lingers() {
        let mut socket = answered();
        socket.pause(true);
        assert_eq!(steps(&mut socket), [Step::CancelReceive]);
        socket.sending();
        assert!(socket.close() && !socket.close());
        socket.emptied();
        assert_eq!(steps(&mut socket), [], "not yet: the send is under way");
        socket.received(true);
        assert_eq!(steps(&mut socket), [Step::Receive(Watch::Always)], "a pause is over");
        socket.sent();
        socket.emptied();
        assert_eq!(steps(&mut socket), [Step::HalfClose]);
        assert!(socket.is_blocked() && !socket.received(false), "nothing is said or heard any more");
        socket.received(true);
        assert!(socket.end() && socket.leave());
        assert_eq!(steps(&mut socket), [], "the half close is under way");
        socket.half_closed();
        assert_eq!(steps(&mut socket), [Step::Close]);
    }

    /// F27: a place is emptied only when nothing is under way on it, and then nothing is asked until the kernel has done so.
    #[test]
    fn f27_what_leaves_is_let_go_by_everything_first() {
        let mut socket = answered();
        socket.sending();
        assert!(socket.leave() && !socket.leave());
        assert_eq!(steps(&mut socket), [Step::CancelReceive, Step::CancelSend]);
        assert!(!socket.received(false));
        assert_eq!(steps(&mut socket), []);
        socket.received(true);
        assert_eq!(steps(&mut socket), [], "the send is still under way");
        socket.sent();
        assert_eq!(steps(&mut socket), [Step::Close]);
        assert!(socket.is_blocked() && !socket.leave() && !socket.close() && !socket.end());
        socket.closed();
        assert_eq!(steps(&mut socket), []);
    }

    /// Who has ended is not read from again, may still be told something, and ends once.
    #[test]
    fn an_end_is_the_end_of_reading() {
        let mut socket = answered();
        socket.received(true);
        assert!(socket.end() && !socket.end());
        assert_eq!(steps(&mut socket), []);
        assert!(!socket.is_blocked());
        assert!(socket.leave());
        assert_eq!(steps(&mut socket), [Step::Close]);
    }

    /// One that is gone before its name is known goes unheard.
    #[test]
    fn who_has_no_name_goes() {
        let mut socket = Socket::default();
        socket.accepted();
        assert_eq!(steps(&mut socket), [Step::AskName]);
        assert!(socket.leave());
        socket.named();
        assert_eq!(steps(&mut socket), [Step::Close]);
    }
}
