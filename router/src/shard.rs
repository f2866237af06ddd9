//! The hub: validates each link frame in place and hands it to its noun; hands outcomes and answers of the store to
//! those who wait. It decides nothing itself.
//!
//! Driven by [`Shard::handle`], [`Shard::poll_output`], [`Shard::poll_timeout`]. A turn of the world ends with
//! [`Input::Tick`]: only then batches leave and events are handed on, so that everything of one turn shares a commit,
//! and every ack of a turn is ahead of its fan-out.

mod outcomes;

use carillon_node::metrics::Meter;
use carillon_node::prng::Prng;
use carillon_protocol::frame::{
    self, Find, Frame, Open, Peek, Peeked, Read, Receipt, Register, Standing, Submit,
};
use carillon_protocol::ids::UserId;
use carillon_protocol::limits::{LINK_LIST_MAX, PAGE_EVENTS_MAX};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::error::ReadError;
use carillon_store::verb::{Answer, Incarnation, Op, Outcome, PageQuery, Query};

use crate::batch::{Batches, Failure, Origin, Waiter};
use crate::fanout::Fanout;
use crate::meters::Metric;
use crate::outbox::{Asked, GatewayShard, LaneId, Outbox, Output, Ticket};
use crate::receipts::Receipts;
use crate::registry::{Next, Registration, Registry};
use crate::{answer, submit};

/// When to come back after `unavailable`.
pub const UNAVAILABLE_RETRY_MS: u64 = 1_000;

/// What the world tells.
#[derive(Debug)]
pub enum Input<'a> {
    /// A lane is there.
    LaneUp {
        /// A number that was never given before.
        lane: LaneId,
    },
    /// A frame came on a lane.
    LaneFrame {
        /// Which.
        lane: LaneId,
        /// Header included, aligned to eight bytes.
        frame: &'a [u8],
    },
    /// A lane is gone. Told once everything that came on it was told.
    LaneDown {
        /// Which.
        lane: LaneId,
    },
    /// The outcome of a [`Output::Commit`].
    Committed {
        /// As in the output.
        commit_lane: u16,
        /// Wall-clock time of the commit, for display.
        at: WallMs,
        /// One for each operation, in their order.
        results: Vec<Result<Outcome, Failure>>,
    },
    /// The answer to a [`Output::Query`].
    Answered {
        /// As in the output.
        ticket: Ticket,
        /// What the store said.
        answer: Result<Answer, ReadError>,
    },
    /// The store failed outside of a commit or query.
    StoreFailed(String),
    /// The turn ends, or a timeout has come.
    Tick,
    /// Take nothing new; say [`Output::Drained`] when all is done.
    Drain,
}

/// What the shard has to know; see `router.toml`.
#[derive(Clone, Copy, Debug)]
pub struct ShardSettings {
    /// Commit lanes of the engine.
    pub commit_lanes_count: u16,
    /// What fan-out may spend a turn, in users looked at.
    pub turn_users_max: usize,
}

/// The state of one router.
pub struct Shard {
    incarnation: Incarnation,
    batches: Batches,
    fanout: Fanout,
    registry: Registry,
    receipts: Receipts,
    outbox: Outbox,
    prng: Prng,
    now: Time,
    is_draining: bool,
    is_drained: bool,
}

impl Shard {
    /// A router's state at the start of an incarnation. The first turn asks for the markers of the life before.
    #[must_use]
    pub fn new(settings: ShardSettings, seed: u64, incarnation: Incarnation, meter: Meter<Metric>) -> Shard {
        Shard {
            incarnation,
            batches: Batches::new(settings.commit_lanes_count),
            fanout: Fanout::new(settings.turn_users_max),
            registry: Registry::default(),
            receipts: Receipts::default(),
            outbox: Outbox::new(meter),
            prng: Prng::new(seed),
            now: Time(0),
            is_draining: false,
            is_drained: false,
        }
    }

    /// Takes one input. After a failure of the store nothing is taken any more (G14).
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        if self.outbox.is_failed() {
            return;
        }
        self.now = now;
        match input {
            Input::LaneUp { lane } => {
                self.outbox.lane_up(lane);
                self.outbox.send(lane, &Open { incarnation: self.incarnation.0, shard: 0 });
            }
            Input::LaneFrame { lane, frame } => self.frame(lane, frame),
            Input::LaneDown { lane } => self.lane_down(lane),
            Input::Committed { commit_lane, at, results } => self.committed(commit_lane, at, results),
            Input::Answered { ticket, answer } => self.answered(ticket, answer),
            Input::StoreFailed(sentence) => self.outbox.fail(sentence),
            Input::Tick => self.tick(),
            Input::Drain => {
                self.is_draining = true;
                self.fanout.drain(now);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }

    /// When [`Input::Tick`] is due at the latest; a time that has passed means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let sweep = self.registry.is_sweeping().then_some(self.now);
        [self.batches.poll_timeout(), self.fanout.poll_timeout(self.now), sweep].into_iter().flatten().min()
    }

    /// The meter that everything here is counted with.
    #[must_use]
    pub fn meter(&self) -> &Meter<Metric> {
        &self.outbox.meter
    }

    /// Sets the gauges to how much there is of everything.
    pub fn gauge(&self) {
        let gauges = [
            (Metric::Lanes, self.outbox.lanes_count()),
            (Metric::Users, self.registry.users_count()),
            (Metric::Queued, self.batches.queued_count()),
            (Metric::Due, self.fanout.due_count()),
            (Metric::Asked, self.outbox.asked_count()),
            (Metric::Watermarks, self.receipts.waiting_count()),
        ];
        for (metric, count) in gauges {
            self.outbox.meter.set(metric, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn tick(&mut self) {
        self.batches.depart(self.now, &mut self.outbox);
        self.fanout.advance(self.now, &mut self.registry, &mut self.batches, &mut self.outbox);
        self.registry.sweep(&self.outbox);
        if self.is_draining && !self.is_drained && self.batches.is_idle() && self.fanout.is_idle() {
            self.is_drained = true;
            self.outbox.push(Output::Drained);
        }
    }

    fn lane_down(&mut self, lane: LaneId) {
        if self.outbox.lane_down(lane) {
            self.registry.lane_down(lane);
        }
    }

    /// The far end of a lane speaks another version, or is broken.
    fn refuse_lane(&mut self, lane: LaneId) {
        self.outbox.meter.add(Metric::LanesRefused, 1);
        self.close_lane(lane);
    }

    fn close_lane(&mut self, lane: LaneId) {
        self.lane_down(lane);
        self.outbox.push(Output::CloseLane { lane });
    }

    fn frame(&mut self, lane: LaneId, bytes: &[u8]) {
        if !self.outbox.is_up(lane) {
            return;
        }
        let Ok(frame) = frame::read(bytes) else { return self.refuse_lane(lane) };
        let is_open = self.outbox.is_open(lane);
        let taken = match frame {
            Frame::Open(open) if !is_open => owned::<Open>(open).map(|open| self.open(lane, open)),
            _ if !is_open => None,
            Frame::Register(register) => owned(register).map(|register| self.register(lane, register)),
            Frame::Unregister(gone) => {
                let (session, user) = (gone.session.to_native(), UserId(gone.user.0.to_native()));
                self.registry.unregister(lane, session, user);
                Some(())
            }
            Frame::Peek(peek) => owned(peek).map(|peek| self.peek(lane, peek)),
            Frame::Submit(submit) => owned(submit).map(|submit| self.submit(lane, submit)),
            Frame::Read(read) => owned(read).map(|read| self.read(lane, &read)),
            Frame::Receipt(receipt) => owned(receipt).map(|receipt| self.receipt(lane, receipt)),
            Frame::Find(find) => owned(find).map(|find| self.find(lane, find)),
            // Frames that go down, or between routers: nothing that a gateway says.
            _ => None,
        };
        if taken.is_none() {
            self.refuse_lane(lane);
        }
    }

    fn open(&mut self, lane: LaneId, open: Open) {
        let peer = GatewayShard { epoch: open.incarnation, shard: open.shard };
        if let Some(orphan) = self.outbox.lane_opened(lane, peer) {
            self.close_lane(orphan);
        }
    }

    fn register(&mut self, lane: LaneId, register: Register) {
        let origin = Origin { lane, session: register.session, request: register.request };
        let Register { user, device, name, auto_provision, again, .. } = register;
        let wanted = Registration { user, device, name, auto_provision, again };
        self.registry.register(origin, wanted, &mut self.outbox);
    }

    fn peek(&mut self, lane: LaneId, peek: Peek) {
        let origin = Origin { lane, session: peek.session, request: peek.request };
        let Peek { user, conversations, .. } = peek;
        if conversations.len() > LINK_LIST_MAX {
            return self.refuse_lane(lane);
        }
        self.ask(origin, Asked::Peek(origin, user), Query::Peek { user, conversations });
    }

    fn read(&mut self, lane: LaneId, read: &Read) {
        let origin = Origin { lane, session: read.session, request: read.request };
        let query = Query::Page(PageQuery {
            user: read.user,
            conversation: read.conversation,
            from_seq: read.from_seq,
            to_seq: read.to_seq,
            limit: read.limit.clamp(1, PAGE_EVENTS_MAX),
            newest_first: read.newest_first,
            messages_only: read.messages_only,
        });
        self.ask(origin, Asked::Page(origin), query);
    }

    fn find(&mut self, lane: LaneId, find: Find) {
        let origin = Origin { lane, session: 0, request: find.request };
        self.ask(origin, Asked::Find(origin), submit::query(find));
    }

    fn ask(&mut self, origin: Origin, asked: Asked, query: Query) {
        if let Err(refusal) = self.outbox.ask(asked, query) {
            self.outbox.refuse(origin, &refusal);
        }
    }

    fn submit(&mut self, lane: LaneId, submit: Submit) {
        let origin = Origin { lane, session: submit.session, request: submit.request };
        let offered = self.not_draining().and_then(|()| {
            let op = submit::op(submit, &mut self.prng)?;
            self.batches.offer(self.now, op, Waiter::Submit(origin))
        });
        if let Err(refusal) = offered {
            self.outbox.refuse(origin, &refusal);
        }
    }

    fn receipt(&mut self, lane: LaneId, receipt: Receipt) {
        let origin = Origin { lane, session: receipt.session, request: receipt.request };
        let offered = self.not_draining().and_then(|()| {
            let op = submit::receipt(receipt)?;
            self.batches.offer_receipt(self.now, op, origin)
        });
        if let Err(refusal) = offered {
            self.outbox.refuse(origin, &refusal);
        }
    }

    fn not_draining(&self) -> Result<(), Refusal> {
        if self.is_draining {
            return Err(Refusal::new(Code::Unavailable, "the router restarts; try again")
                .retry_after(UNAVAILABLE_RETRY_MS));
        }
        Ok(())
    }

    fn answered(&mut self, ticket: Ticket, answer: Result<Answer, ReadError>) {
        let Some(asked) = self.outbox.answered(ticket) else { return };
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(ReadError::Again(_)) => None,
            Err(ReadError::Fatal(sentence)) => return self.outbox.fail(sentence),
        };
        match asked {
            Asked::Events(conversation) => {
                let entries = answer.map(|answer| match answer {
                    Answer::Events(entries) => entries,
                    other => mismatch(&other),
                });
                self.fanout.events(self.now, conversation, entries, &mut self.outbox);
            }
            Asked::Members(conversation) => {
                let members = answer.map(|answer| match answer {
                    Answer::Members { version, members } => (version, members),
                    other => mismatch(&other),
                });
                self.fanout.members(self.now, conversation, members);
            }
            Asked::Senders(conversation, reader) => {
                let senders = answer.map(|answer| match answer {
                    Answer::Senders(senders) => senders,
                    other => mismatch(&other),
                });
                self.receipts.senders((conversation, reader), senders, &self.registry, &mut self.outbox);
            }
            Asked::Markers => {
                let markers = answer.map(|answer| match answer {
                    Answer::Markers(markers) => markers,
                    other => mismatch(&other),
                });
                self.fanout.markers(self.now, markers);
            }
            Asked::Session(origin) => match answer {
                Some(Answer::Session { known, conversations }) => self.session(origin, known, conversations),
                Some(Answer::Refused(refusal)) => self.registry.refuse(origin, &refusal, &mut self.outbox),
                None => self.registry.refuse(origin, &read_again(), &mut self.outbox),
                Some(other) => mismatch(&other),
            },
            Asked::Peek(origin, _) | Asked::Page(origin) | Asked::Find(origin) => match answer {
                Some(Answer::Refused(refusal)) => self.outbox.refuse(origin, &refusal),
                Some(answer) => self.tell(&asked, origin, answer),
                None => self.outbox.refuse(origin, &read_again()),
            },
        }
    }

    fn session(
        &mut self,
        origin: Origin,
        known: bool,
        conversations: Vec<(carillon_protocol::ids::ConversationId, u64)>,
    ) {
        match self.registry.session_read(origin, known, conversations, &mut self.outbox) {
            Next::Nothing => {}
            Next::Provision(user, name) => {
                let offered =
                    self.batches.offer(self.now, Op::Provision { user, name }, Waiter::Registration(origin));
                if let Err(refusal) = offered {
                    self.registry.refuse(origin, &refusal, &mut self.outbox);
                }
            }
        }
    }

    /// Sends an answer to the session or REST request that asked, with what is on the lanes by now.
    fn tell(&mut self, asked: &Asked, origin: Origin, answer: Answer) {
        let Origin { lane, session, request } = origin;
        match (asked, answer) {
            (Asked::Peek(_, user), Answer::Standings(standings)) => {
                let standings =
                    standings.into_iter().map(|standing| self.standing(*user, standing)).collect();
                self.outbox.send(lane, &Peeked { session, request, standings });
            }
            (Asked::Page(_), Answer::Page(page)) => {
                let conversation = page.standing.conversation;
                let appending = self.batches.appending_count(conversation);
                let sent_seq = self.fanout.sent_seq(conversation, page.standing.head_seq, appending);
                self.outbox.send(lane, &answer::page(origin, page, sent_seq));
            }
            (Asked::Find(_), Answer::Conversations { summaries, more }) => {
                self.outbox.send(lane, &answer::conversations(request, summaries, more));
            }
            (Asked::Find(_), Answer::User(profile)) => {
                self.outbox.send(lane, &answer::user(request, profile))
            }
            (_, other) => mismatch(&other),
        }
    }

    /// A standing as of now. The gateway drops every `Deliver` that comes before `Peeked`, so the head has to cover
    /// all that are on the lane, also those that the snapshot did not see.
    fn standing(&self, user: UserId, standing: carillon_store::verb::Standing) -> Standing {
        let carillon_store::verb::Standing { conversation, first_seq, head_seq } = standing;
        let appending = self.batches.appending_count(conversation);
        let fanned_out_seq = self.fanout.sent_seq(conversation, head_seq, appending);
        let hears = self.fanout.may_hear(conversation, user);
        let head_seq = if hears { head_seq.max(fanned_out_seq) } else { head_seq };
        Standing { conversation, first_seq, head_seq, fanned_out_seq }
    }
}

/// The frame as owned values: its strings move on into operations.
fn owned<T>(archived: &T::Archived) -> Option<T>
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    rkyv::deserialize::<T, rkyv::rancor::Error>(archived).ok()
}

fn read_again() -> Refusal {
    Refusal::new(Code::Unavailable, "the store is busy; try again").retry_after(UNAVAILABLE_RETRY_MS)
}

/// An answer of another kind than its question: ours to mend, and nothing to go on with.
fn mismatch(answer: &Answer) -> ! {
    panic!("the store gave an answer of another kind: {:?}", std::mem::discriminant(answer))
}
