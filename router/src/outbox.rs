//! What leaves a turn: frames, batches, questions to the store. Also who is at the other end of each lane, and which
//! questions are open, because both decide what may leave.
//!
//! # Invariants
//! - A frame leaves only on a lane that is up.
//! - Open questions are bounded by kind of asker, so that whoever runs them can hold them all.
//! - After the store failed nothing leaves any more but that message, for ever (G14).

use std::collections::{BTreeMap, VecDeque};

use carillon_node::metrics::Meter;
use carillon_protocol::frame::{LinkFrame, NotOwner, Refused};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::Slot;
use carillon_protocol::reason::{Code, Refusal};
use carillon_store::verb::{Incarnation, Op, Query};
use rkyv::util::AlignedVec;

use crate::batch::Origin;
use crate::lease;
use crate::meters::{Metric, Told};

/// A link lane, numbered by the router's thread and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// A question to the store, numbered in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the world has to do.
#[derive(Debug)]
pub enum Output {
    /// Send this frame (header included) on a lane.
    Frame {
        /// Which.
        lane: LaneId,
        /// The frame.
        frame: AlignedVec,
    },
    /// Close this lane. The machine has forgotten it already.
    CloseLane {
        /// Which.
        lane: LaneId,
    },
    /// Commit these operations, in order, and answer with [`crate::shard::Input::Committed`].
    Commit {
        /// On which commit lane; it has no other batch in flight.
        commit_lane: u16,
        /// At most [`crate::batch::BATCH_OPS_MAX`].
        ops: Vec<Op>,
    },
    /// Ask a snapshot that is opened from now on, and answer with [`crate::shard::Input::Answered`].
    Query {
        /// Repeated in the answer.
        ticket: Ticket,
        /// The question.
        query: Query,
    },
    /// A transaction or poll of [`crate::lease`], answered with [`crate::shard::Input::Lease`].
    Lease(lease::Output),
    /// Keep a lane up to the router at this address.
    Dial {
        /// "host:port".
        address: String,
    },
    /// No lane to that address any more.
    HangUp {
        /// As it was dialled.
        address: String,
    },
    /// This life is over: another router has taken everything. Nothing follows; a new life may begin.
    Over,
    /// Stop the process with status 74 at once. Nothing follows.
    Fatal(String),
    /// After [`crate::shard::Input::Drain`]: nothing is in flight any more.
    Drained,
}

/// The most open questions of sessions and REST. Beyond: refused as `overloaded`.
pub const CLIENT_QUERIES_MAX: usize = 8_192;
/// The most open questions of fan-out. Beyond: the conversation stays due.
pub const FANOUT_QUERIES_MAX: usize = 256;
/// The most open questions about senders, counts and who hears typing. Beyond: the receipt waits.
pub const RECEIPT_QUERIES_MAX: usize = 256;
/// The most conversations that are being read to be held in memory. Beyond: they are not held this time.
pub const OPEN_QUERIES_MAX: usize = 32;
/// The most open questions altogether; one is about markers.
pub const QUERIES_MAX: usize =
    CLIENT_QUERIES_MAX + FANOUT_QUERIES_MAX + RECEIPT_QUERIES_MAX + OPEN_QUERIES_MAX + 1;

/// Why a question was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A session registers.
    Session(Origin),
    /// A session peeks for this user.
    Peek(Origin, UserId),
    /// The part of a peek that is about conversations of our own.
    PeekPart(u64, UserId),
    /// A session reads a page of this conversation.
    Page(Origin, ConversationId),
    /// REST looks something up, in a conversation perhaps.
    Find(Origin, Option<ConversationId>),
    /// REST looks a conversation of a user's up; the number of the slot that it may be held in.
    Summary(Origin, UserId, ConversationId, u64),
    /// REST looks a user up, for another one; as of their epoch.
    Profile(Origin, UserId, u64),
    /// A user's devices; `true`: those that are connected were made known to the store before.
    Devices(Origin, UserId, bool),
    /// A session wants to hear when users come and go.
    Presence(Origin),
    /// Fan-out needs events, for the log of this number.
    Events(ConversationId, u64),
    /// Fan-out needs members, for the log of this number.
    Members(ConversationId, u64),
    /// The members of a conversation in which this user types.
    Typing(ConversationId, UserId),
    /// How many members of a large group got as far as its senders.
    Counts(ConversationId),
    /// A receipt of this reader looks for senders.
    Senders(ConversationId, UserId),
    /// Which conversations are not known to be handed on?
    Markers,
    /// What there is to hold of a conversation, in the place of this number.
    Open(ConversationId, u64),
}

/// Where fan-out stands among the kinds of askers.
const FANOUT_CLASS: usize = 1;
/// Where what is read to be held in memory stands among them.
const OPEN_CLASS: usize = 4;

impl Asked {
    const CLASSES_MAX: [usize; 5] =
        [CLIENT_QUERIES_MAX, FANOUT_QUERIES_MAX, RECEIPT_QUERIES_MAX, 1, OPEN_QUERIES_MAX];

    /// The conversation that somebody wants to look into.
    pub(crate) fn looks_into(&self) -> Option<ConversationId> {
        match self {
            Asked::Page(_, conversation) | Asked::Summary(_, _, conversation, _) => Some(*conversation),
            Asked::Find(_, conversation) => *conversation,
            _ => None,
        }
    }

    fn class(&self) -> usize {
        match self {
            Asked::Session(_)
            | Asked::Peek(..)
            | Asked::PeekPart(..)
            | Asked::Page(..)
            | Asked::Find(..)
            | Asked::Summary(..)
            | Asked::Profile(..)
            | Asked::Devices(..)
            | Asked::Presence(_) => 0,
            Asked::Events(..) | Asked::Members(..) => FANOUT_CLASS,
            Asked::Senders(..) | Asked::Counts(_) | Asked::Typing(..) => 2,
            Asked::Markers => 3,
            Asked::Open(..) => OPEN_CLASS,
        }
    }
}

/// What stands at the far end of a lane, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// A gateway's shard.
    Gateway,
    /// Another router, which called this one.
    Caller,
    /// Another router, which this one called.
    Called,
}

/// Who that is, once it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Which gateway's shard.
    Gateway(GatewayShard),
    /// Which router.
    Router(Incarnation),
}

/// A gateway's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayShard {
    /// The gateway's process epoch.
    pub epoch: u64,
    /// Its shard.
    pub shard: u16,
}

/// See the module.
pub struct Outbox {
    outputs: VecDeque<Output>,
    lanes: BTreeMap<LaneId, (Far, Option<Peer>)>,
    asked: BTreeMap<Ticket, Asked>,
    asked_counts: [usize; 5],
    next_ticket: u64,
    failed: bool,
    /// What is counted.
    pub(crate) meter: Meter<Metric>,
}

impl Outbox {
    /// Nothing to leave, no lane up.
    #[must_use]
    pub fn new(meter: Meter<Metric>) -> Outbox {
        Outbox {
            outputs: VecDeque::new(),
            lanes: BTreeMap::new(),
            asked: BTreeMap::new(),
            asked_counts: [0; 5],
            next_ticket: 0,
            failed: false,
            meter,
        }
    }

    /// Counts what a requester was told.
    pub(crate) fn count(&self, told: Told) {
        self.meter.add_at(Metric::Requests, told as usize, 1);
    }

    /// The next output.
    pub fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Adds an output.
    pub(crate) fn push(&mut self, output: Output) {
        if !self.failed {
            self.outputs.push_back(output);
        }
    }

    /// Sends a frame, if its lane is still up.
    pub(crate) fn send<F: LinkFrame>(&mut self, lane: LaneId, frame: &F) {
        if self.is_up(lane) {
            self.push(Output::Frame { lane, frame: frame.to_frame() });
        }
    }

    /// The same for one that was written before.
    pub(crate) fn send_bytes(&mut self, lane: LaneId, frame: AlignedVec) {
        if self.is_up(lane) {
            self.push(Output::Frame { lane, frame });
        }
    }

    /// Tells that a request has definitely no effect, unless the code is `unknown_outcome` (G5).
    pub(crate) fn refuse(&mut self, origin: Origin, refusal: &Refusal) {
        let is_unknown = refusal.code == Code::UnknownOutcome;
        self.count(if is_unknown { Told::Unknown } else { Told::Refused });
        let millis = refusal.retry_after_ms.unwrap_or(0);
        let frame = Refused {
            session: origin.session,
            request: origin.request,
            code: refusal.code as u16,
            retry_after_ms: u32::try_from(millis).unwrap_or(u32::MAX),
            field: refusal.field.unwrap_or("").to_owned(),
            message: refusal.message.clone().into_owned(),
        };
        self.send(origin.lane, &frame);
    }

    /// Tells that another router owns that slot.
    pub(crate) fn not_owner(&mut self, origin: Origin, slot: Slot) {
        self.count(Told::NotOwner);
        let frame = NotOwner { session: origin.session, request: origin.request, slot: slot.0 };
        self.send(origin.lane, &frame);
    }

    /// Asks the store, unless too many such questions are open.
    ///
    /// # Errors
    /// They are: nothing was asked.
    pub(crate) fn ask(&mut self, asked: Asked, query: Query) -> Result<(), Refusal> {
        let class = asked.class();
        if self.asked_counts[class] >= Asked::CLASSES_MAX[class] {
            return Err(Refusal::new(Code::Overloaded, "too many reads are waiting; try again")
                .retry_after(crate::batch::OVERLOADED_RETRY_MS));
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.asked_counts[class] += 1;
        self.asked.insert(ticket, asked);
        self.push(Output::Query { ticket, query });
        Ok(())
    }

    /// Whether one more conversation may be read to be held in memory.
    pub(crate) fn has_room_to_open(&self) -> bool {
        self.asked_counts[OPEN_CLASS] < OPEN_QUERIES_MAX
    }

    /// How many more questions fan-out may ask.
    pub(crate) fn fanout_room(&self) -> usize {
        FANOUT_QUERIES_MAX.saturating_sub(self.asked_counts[FANOUT_CLASS])
    }

    /// Why the question was asked that this ticket answers.
    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<Asked> {
        let asked = self.asked.remove(&ticket)?;
        self.asked_counts[asked.class()] -= 1;
        Some(asked)
    }

    /// The ticket that the next question will get.
    pub(crate) fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// Whether every question that is older than `ticket` was answered.
    pub(crate) fn is_answered_before(&self, ticket: Ticket) -> bool {
        self.asked.first_key_value().is_none_or(|(oldest, _)| *oldest >= ticket)
    }

    /// Open questions.
    #[must_use]
    pub fn asked_count(&self) -> usize {
        self.asked.len()
    }

    /// The store failed: drops everything that was about to leave and says so, once.
    pub(crate) fn fail(&mut self, sentence: String) {
        if !self.failed {
            self.outputs.clear();
            self.outputs.push_back(Output::Fatal(sentence));
            self.failed = true;
        }
    }

    /// Whether the store failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// A lane is up; who is at its end is not known yet.
    pub(crate) fn lane_up(&mut self, lane: LaneId, far: Far) {
        self.lanes.insert(lane, (far, None));
    }

    /// Forgets a lane: nothing leaves on it any more.
    pub(crate) fn lane_down(&mut self, lane: LaneId) -> bool {
        self.lanes.remove(&lane).is_some()
    }

    /// Learns who is at the end of a lane.
    pub(crate) fn lane_opened(&mut self, lane: LaneId, peer: Peer) {
        if let Some(at) = self.lanes.get_mut(&lane) {
            at.1 = Some(peer);
        }
    }

    /// The lane at whose end somebody is.
    #[must_use]
    pub(crate) fn lane_of(&self, peer: Peer) -> Option<LaneId> {
        self.lanes.iter().find(|(_, at)| at.1 == Some(peer)).map(|(id, _)| *id)
    }

    /// Sends a frame to every gateway shard that said who it is.
    pub(crate) fn broadcast<F: LinkFrame>(&mut self, frame: &F) {
        for lane in self.gateways() {
            self.send(lane, frame);
        }
    }

    /// The lanes to gateway shards that said who they are.
    pub(crate) fn gateways(&self) -> Vec<LaneId> {
        let open = self.lanes.iter().filter(|(_, at)| matches!(at.1, Some(Peer::Gateway(_))));
        open.map(|(id, _)| *id).collect()
    }

    /// What stands at the far end of a lane; `None`: it is not up.
    #[must_use]
    pub(crate) fn far(&self, lane: LaneId) -> Option<Far> {
        self.lanes.get(&lane).map(|at| at.0)
    }

    /// Who is at the far end of a lane, if they said so.
    #[must_use]
    pub(crate) fn peer(&self, lane: LaneId) -> Option<Peer> {
        self.lanes.get(&lane).and_then(|at| at.1)
    }

    /// Whether a lane is up.
    #[must_use]
    pub fn is_up(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Lanes that are up.
    #[must_use]
    pub fn lanes_count(&self) -> usize {
        self.lanes.len()
    }
}
