//! The hub: validates each link frame in place and hands it to its noun; hands outcomes and answers of the store to
//! those who wait. It decides nothing itself.
//!
//! Driven by [`Shard::handle`], [`Shard::poll_output`] until `None`, [`Shard::poll_timeout`]. A turn of the world ends
//! with [`Input::Tick`]: only then batches leave, so that everything of one turn shares a commit. Events are handed on
//! when all of that was put out: every ack of a turn is ahead of its fan-out, and the store has its next batch meanwhile.

mod outcomes;
mod owning;
mod peers;
mod reads;

use carillon_node::metrics::Meter;
use carillon_node::prng::Prng;
use carillon_protocol::frame::{self, Frame, Open, Receipt, Register, Submit, Unregister};
use carillon_protocol::placement::{Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::error::ReadError;
use carillon_store::verb::{Answer, Incarnation, Outcome};

use crate::batch::{Batches, Failure, Origin, Waiter};
use crate::cache::{Cache, Profiles};
use crate::cluster::Cluster;
use crate::cluster::table::SlotSet;
use crate::fanout::Fanout;
use crate::lease;
use crate::meters::Metric;
use crate::outbox::{Far, GatewayShard, LaneId, Outbox, Output, Peer, Ticket};
use crate::presence::Presence;
use crate::rates::Limits;
use crate::receipts::Receipts;
use crate::registry::{Registration, Registry};
use crate::settings::{
    FanoutSettings, LimitsSettings, PresenceSettings, ReceiptsSettings, Settings, TypingSettings,
};
use crate::submit;
use crate::typing::Typing;

/// When to come back after `unavailable`.
pub const UNAVAILABLE_RETRY_MS: u64 = 1_000;

/// What the world tells.
#[derive(Debug)]
pub enum Input<'a> {
    /// A lane is there.
    LaneUp {
        /// A number that was never given before.
        lane: LaneId,
        /// What stands at its far end.
        far: Far,
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
    /// What became of a [`Output::Lease`].
    Lease(lease::Input),
    /// The store failed outside of a commit or query.
    StoreFailed(String),
    /// What a wall clock shows: the first of a turn's inputs. For display only (G16).
    Wall(WallMs),
    /// The turn ends, or a timeout has come.
    Tick,
    /// Take nothing new, or, beside other routers, give them everything; say [`Output::Drained`] when all is done.
    Drain,
}

/// What the shard has to know; see `router.toml`.
#[derive(Clone, Copy, Debug)]
pub struct ShardSettings {
    /// Commit lanes of the engine.
    pub commit_lanes_count: u16,
    /// `fanout.*`
    pub fanout: FanoutSettings,
    /// `receipts.*`
    pub receipts: ReceiptsSettings,
    /// `limits.*`
    pub limits: LimitsSettings,
    /// `presence.*`
    pub presence: PresenceSettings,
    /// `typing.*`
    pub typing: TypingSettings,
}

impl ShardSettings {
    /// What the configuration says.
    #[must_use]
    pub fn of(settings: &Settings, commit_lanes_count: u16) -> ShardSettings {
        ShardSettings {
            commit_lanes_count,
            fanout: settings.fanout,
            receipts: settings.receipts,
            limits: settings.limits,
            presence: settings.presence,
            typing: settings.typing,
        }
    }
}

/// What a drain did not come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undone {
    /// Operations that wait for their commit: those who asked for them were not answered.
    pub operations: usize,
    /// Receipts held: their clients say them again when what they are about is delivered again.
    pub receipts: usize,
    /// Devices that left: when they were last seen is not written, and stays what it was.
    pub absences: usize,
    /// Conversations of which something is not handed on: that is done at the next start.
    pub conversations: usize,
}

/// The state of one router.
pub struct Shard {
    cluster: Cluster,
    batches: Batches,
    fanout: Fanout,
    registry: Registry,
    receipts: Receipts,
    cache: Cache,
    profiles: Profiles,
    presence: Presence,
    typing: Typing,
    limits: Limits,
    outbox: Outbox,
    prng: Prng,
    now: Time,
    wall: WallMs,
    /// The turn ended, and what it made known is not handed on yet.
    is_to_hand_on: bool,
    is_draining: bool,
    is_drained: bool,
    /// Slots on their way to another router, while something of theirs is under way here.
    leaving: Option<Vec<Slot>>,
    /// This life is over: nothing is taken any more.
    is_over: bool,
}

impl Shard {
    /// A router's state at the start of an incarnation. The first turn asks for the markers of the life before.
    #[must_use]
    pub fn new(settings: ShardSettings, seed: u64, cluster: Cluster, meter: Meter<Metric>) -> Shard {
        let mut batches = Batches::new(settings.commit_lanes_count);
        if !cluster.is_sole() {
            batches.close(&SlotSet::all());
        }
        let mut shard = Shard {
            cluster,
            batches,
            fanout: Fanout::new(settings.fanout),
            registry: Registry::default(),
            receipts: Receipts::new(settings.receipts),
            cache: Cache::default(),
            profiles: Profiles::default(),
            presence: Presence::new(settings.presence),
            typing: Typing::new(settings.typing),
            limits: Limits::new(settings.limits),
            outbox: Outbox::new(meter),
            prng: Prng::new(seed),
            now: Time(0),
            wall: WallMs(0),
            is_to_hand_on: false,
            is_draining: false,
            is_drained: false,
            leaving: None,
            is_over: false,
        };
        shard.settle_owners(Time(0));
        shard
    }

    /// Takes one input. After a failure of the store nothing is taken any more (G14).
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        if self.outbox.is_failed() || self.is_over {
            return;
        }
        self.now = now;
        match input {
            Input::LaneUp { lane, far } => {
                self.outbox.lane_up(lane, far);
                self.outbox.send(lane, &Open { incarnation: self.cluster.me().0, shard: 0 });
            }
            Input::LaneFrame { lane, frame } => self.frame(lane, frame),
            Input::LaneDown { lane } => self.lane_down(lane),
            Input::Committed { commit_lane, at, results } => self.committed(commit_lane, at, results),
            Input::Answered { ticket, answer } => self.answered(ticket, answer),
            Input::Lease(input) => self.lease(input),
            Input::StoreFailed(sentence) => self.outbox.fail(sentence),
            Input::Wall(wall) => self.wall = wall,
            Input::Tick => self.tick(),
            Input::Drain => {
                self.is_draining = true;
                self.batches.drain();
                self.receipts.drain();
                self.fanout.drain(now);
                // Beside others: their users are not gone, they are served elsewhere.
                if self.cluster.is_sole() {
                    self.presence.drain(now);
                } else {
                    self.lease(lease::Input::Drain);
                }
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outbox.pop();
        if output.is_none() && std::mem::take(&mut self.is_to_hand_on) && !self.outbox.is_failed() {
            self.hand_on();
            return self.outbox.pop();
        }
        output
    }

    /// When [`Input::Tick`] is due at the latest; a time that has passed means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let sweep = self.registry.is_sweeping().then_some(self.now);
        let fanout = self.fanout.poll_timeout(self.now);
        let live = [self.presence.poll_timeout(self.now), self.typing.poll_timeout(self.now)];
        let lease = self.cluster.lease.as_ref().and_then(lease::Lease::poll_timeout);
        [self.batches.poll_timeout(), fanout, self.receipts.poll_timeout(), sweep]
            .into_iter()
            .chain(live)
            .chain([lease])
            .flatten()
            .min()
    }

    /// The meter that everything here is counted with.
    #[must_use]
    pub fn meter(&self) -> &Meter<Metric> {
        &self.outbox.meter
    }

    /// What a drain is cut short of: nothing, if there was none or it came to its end.
    #[must_use]
    pub fn undone(&self) -> Option<Undone> {
        (self.is_draining && !self.is_drained && !self.is_over).then(|| Undone {
            operations: self.batches.queued_count(),
            receipts: self.receipts.held_count(),
            absences: self.presence.leaving_count(),
            conversations: self.fanout.due_count(),
        })
    }

    /// Sets the gauges to how much there is of everything.
    pub fn gauge(&self) {
        let gauges = [
            (Metric::Lanes, self.outbox.lanes_count()),
            (Metric::Users, self.registry.users_count()),
            (Metric::Queued, self.batches.queued_count()),
            (Metric::Due, self.fanout.due_count()),
            (Metric::Asked, self.outbox.asked_count()),
            (Metric::CacheConversations, self.cache.held_count()),
            (Metric::CacheBytes, self.cache.held_bytes()),
            (Metric::Watermarks, self.receipts.waiting_count()),
            (Metric::HeldReceipts, self.receipts.held_count()),
            (Metric::PresenceWatches, self.presence.watches_count()),
            (Metric::PresenceLeaving, self.presence.leaving_count()),
            (Metric::Slots, self.cluster.table.mine_count()),
            (Metric::Peers, self.cluster.peers_count()),
            (Metric::NoticesWaiting, self.cluster.notices_count()),
        ];
        for (metric, count) in gauges {
            self.outbox.meter.set(metric, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn tick(&mut self) {
        self.receipts.advance(self.now, &mut self.batches, &mut self.outbox);
        self.batches.depart(self.now, &mut self.outbox);
        self.advance_lease();
        self.is_to_hand_on = true;
    }

    /// What became known in the turn goes its way.
    fn hand_on(&mut self) {
        let Shard { now, registry, cluster, batches, outbox, .. } = self;
        self.fanout.advance(*now, registry, cluster, batches, outbox);
        self.answer_routers();
        self.registry.sweep(&self.outbox);
        self.live();
        if self.is_draining && !self.is_drained && self.cluster.is_sole() && self.is_idle() {
            self.is_drained = true;
            self.outbox.push(Output::Drained);
        }
    }

    /// Whether all that was taken is done, and all who left are written down.
    fn is_idle(&self) -> bool {
        !self.registry.is_sweeping()
            && self.receipts.is_idle()
            && self.presence.is_idle()
            && self.batches.is_idle()
            && self.fanout.is_idle()
    }

    /// What is true now and may be lost comes behind everything else of a turn.
    fn live(&mut self) {
        let Shard { presence, typing, fanout, registry, cluster, batches, outbox, .. } = self;
        presence.advance(self.now, self.wall, registry, batches, outbox);
        typing.advance(
            self.now,
            fanout.is_busy(),
            |conversation| {
                // Whoever may have another owner by now, or other members, asks the store.
                let answers = cluster.answers(self.now, slot_of_conversation(conversation))
                    && !batches.is_changing(conversation);
                fanout.members_of(conversation).filter(|_| answers)
            },
            (registry, cluster),
            outbox,
        );
    }

    fn lane_down(&mut self, lane: LaneId) {
        let peer = self.outbox.peer(lane);
        if !self.outbox.lane_down(lane) {
            return;
        }
        match peer {
            Some(Peer::Router(router)) => self.router_down(router, lane),
            _ => {
                self.registry.lane_down(lane);
                self.presence.lane_down(lane);
            }
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
        let peer = self.outbox.peer(lane);
        let taken = match frame {
            Frame::Open(open) if peer.is_none() => owned::<Open>(open).map(|open| self.open(lane, open)),
            _ if peer.is_none() => None,
            frame if let Some(Peer::Router(router)) = peer => self.router_frame(lane, router, &frame),
            Frame::Register(register) => owned(register).map(|register| self.register(lane, register)),
            Frame::Unregister(gone) => owned(gone).map(|gone| {
                let Unregister { session, user, bye } = gone;
                self.registry.unregister(lane, session, user, bye);
            }),
            Frame::Peek(peek) => owned(peek).map(|peek| self.peek(lane, peek)),
            Frame::Submit(submit) => owned(submit).map(|submit| self.submit(lane, submit)),
            Frame::Read(read) => owned(read).map(|read| self.read(lane, &read)),
            Frame::Receipt(receipt) => owned(receipt).map(|receipt| self.receipt(lane, receipt)),
            Frame::Watch(watch) => owned(watch).map(|watch| {
                self.watch(lane, watch);
            }),
            Frame::Typing(typing) => owned(typing).map(|typing| {
                self.typing(lane, typing);
            }),
            Frame::Find(find) => owned(find).map(|find| self.find(lane, find)),
            // Frames that go down, or between routers: nothing that a gateway says.
            _ => None,
        };
        if taken.is_none() {
            self.refuse_lane(lane);
        }
    }

    fn open(&mut self, lane: LaneId, open: Open) {
        let Open { incarnation, shard } = open;
        let peer = match self.outbox.far(lane) {
            Some(Far::Caller | Far::Called) => Peer::Router(Incarnation(incarnation)),
            _ => Peer::Gateway(GatewayShard { epoch: incarnation, shard }),
        };
        if let Some(other) = self.outbox.lane_of(peer) {
            if self.is_needless(lane, other, peer) {
                return self.close_lane(lane);
            }
            self.close_lane(other);
        }
        self.outbox.lane_opened(lane, peer);
        match peer {
            Peer::Gateway(_) => {
                let owners = self.cluster.owners();
                self.outbox.send(lane, &owners);
            }
            Peer::Router(router) => self.router_up(router, lane),
        }
    }

    /// Whether a new lane is not needed beside another one with the same peer. Mostly it is: its maker has given up the
    /// other. But two routers may call each other, while the elder does not know the younger one yet: both keep the lane
    /// that the younger one made, whichever they hear of first, or each would close what the other makes for ever.
    fn is_needless(&self, lane: LaneId, other: LaneId, peer: Peer) -> bool {
        let Peer::Router(router) = peer else { return false };
        let elder = if router < self.cluster.me() { Far::Caller } else { Far::Called };
        self.outbox.far(lane) == Some(elder) && self.outbox.far(other) != Some(elder)
    }

    fn register(&mut self, lane: LaneId, register: Register) {
        let origin = Origin { lane, session: register.session, request: register.request };
        if !self.serves(origin, register.user) {
            return;
        }
        let Register { user, device, name, auto_provision, again, waited_ms, issued_at_s, .. } = register;
        let wanted = Registration { user, device, name, auto_provision, again, waited_ms, issued_at_s };
        self.registry.register(self.now, origin, wanted, &mut self.outbox);
    }

    fn submit(&mut self, lane: LaneId, submit: Submit) {
        let origin = Origin { lane, session: submit.session, request: submit.request };
        let slot = submit::slot(submit.user, &submit.command);
        if !self.owns(origin, slot, submit.slot_epoch) {
            return;
        }
        let Shard { now, cluster, limits, batches, fanout, outbox, prng, .. } = self;
        let is_stranger = |conversation, user| fanout.is_stranger(conversation, user);
        let offered = if self.is_draining && cluster.is_sole() { Err(draining()) } else { Ok(()) };
        let offered = offered.and_then(|()| {
            limits.admit(*now, &submit, is_stranger, outbox)?;
            let op = submit::op(submit, prng, &|slot| cluster.table.accepts(slot))?;
            batches.offer(*now, op, Waiter::Submit(origin))
        });
        if let Err(refusal) = offered {
            self.outbox.refuse(origin, &refusal);
        }
    }

    fn receipt(&mut self, lane: LaneId, receipt: Receipt) {
        let origin = Origin { lane, session: receipt.session, request: receipt.request };
        if !self.owns(origin, slot_of_conversation(receipt.conversation), 0) {
            return;
        }
        let offered = if self.is_draining && self.cluster.is_sole() { Err(draining()) } else { Ok(()) };
        let offered = offered.and_then(|()| {
            let op = submit::receipt(receipt)?;
            let is_large = self.fanout.is_large(op.conversation);
            self.receipts.offer(self.now, op, origin, is_large, &mut self.batches)
        });
        if let Err(refusal) = offered {
            self.outbox.refuse(origin, &refusal);
        }
    }

    fn watch(&mut self, lane: LaneId, watch: frame::Watch) {
        let origin = Origin { lane, session: watch.session, request: watch.request };
        let others = watch.users.iter().map(|user| slot_of_user(*user));
        match others.clone().find(|slot| !self.cluster.table.accepts(*slot)) {
            // Whoever ceases to watch somebody elsewhere has ceased to.
            Some(slot) if watch.watch || watch.request != 0 => self.outbox.not_owner(origin, slot),
            _ => self.presence.watch(lane, watch, &mut self.outbox),
        }
    }

    fn typing(&mut self, lane: LaneId, typing: frame::Typing) {
        let origin = Origin { lane, session: typing.session, request: typing.request };
        if self.owns(origin, slot_of_conversation(typing.conversation), 0) {
            self.typing.typed(self.now, lane, typing, &mut self.outbox);
        }
    }
}

fn draining() -> Refusal {
    Refusal::new(Code::Unavailable, "the router restarts; try again").retry_after(UNAVAILABLE_RETRY_MS)
}

/// The frame as owned values: its strings move on into operations.
fn owned<T>(archived: &T::Archived) -> Option<T>
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    rkyv::deserialize::<T, rkyv::rancor::Error>(archived).ok()
}
