//! Router processes of the simulated world: what the real ground floor does with a shard, without threads or clock. Their
//! committers and readers are in [`hands`], what their leases have done in [`orders`].

mod hands;
mod orders;

use std::collections::BTreeMap;

use carillon_node::metrics::Meter;
use carillon_protocol::frame::{self, ArchivedOwnedSlot, Frame};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::lease::orders::Hands;
use carillon_router::lease::{self, Lease};
use carillon_router::outbox::{Far, LaneId, Output, Ticket};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_store::error::ReadError;
use carillon_store::ids::MessageIds;
use carillon_store::ops::{self, Claim};
use carillon_store::retry::{self, BatchError};
use carillon_store::verb::{Answer, Incarnation, Outcome, PageQuery, Query};
use rkyv::util::AlignedVec;

use super::World;
use super::agenda::Event;
use super::faults::Crash;
use super::lanes::Way;
use super::plan::MS;
pub(super) use orders::OrderKind;

/// What a turn of fan-out may spend: little, so that turns end in the middle of it.
const TURN_USERS: [usize; 3] = [2, 16, 4_096];
/// As the real one: a turn that took longer may have been asleep.
const TURN_MS_MAX: u64 = 250;
/// As the real one: how soon a new life is tried again.
const LIFE_RETRY_MS: u64 = 200;

/// What comes over a lane, or about one.
pub(super) enum RouterInput {
    Up(LaneId, Far),
    Frame(LaneId, AlignedVec),
    Down(LaneId),
}

type Results = Vec<Result<Outcome, Failure>>;

/// In whose name a life commits.
struct Identity {
    incarnation: Incarnation,
    ids: Vec<MessageIds>,
}

/// What the threads around a router's own have for its next turn.
#[derive(Default)]
struct Inbox {
    reports: Vec<(u16, WallMs, Results)>,
    told: Vec<lease::Input>,
    answers: Vec<(Ticket, Result<Answer, ReadError>)>,
    frames: Vec<RouterInput>,
    drain: bool,
}

/// A router process, or the place where one is now and then.
pub(super) struct Router {
    pub(super) address: String,
    shard: Option<Shard>,
    /// Counts incarnations.
    pub(super) life: u32,
    /// Counts processes: one may live several lives.
    pub(super) process: u32,
    /// Whether one should run here.
    pub(super) is_wanted: bool,
    is_draining: bool,
    /// Of every life so far: a dead one may still have a batch under way.
    identities: BTreeMap<u32, Identity>,
    offset_ns: u64,
    inbox: Inbox,
    /// Each with the direction in which it receives.
    pub(super) lanes: BTreeMap<LaneId, (usize, Way)>,
    lanes_count: u32,
    /// Addresses that it keeps a lane to, with that lane.
    pub(super) dials: BTreeMap<String, Option<usize>>,
    turn_at: Option<u64>,
    pub(super) paused_until: u64,
    /// How long it will sleep in the middle of its next turn.
    pub(super) nap_ns: u64,
    /// When the turn began in which it sleeps.
    napping: Option<Time>,
    /// Who submitted what under which request.
    requests: BTreeMap<(LaneId, u64), (UserId, String)>,
    /// Who asked for a page under which request, and the highest seq that anybody was told when this was taken up.
    reads: BTreeMap<(LaneId, u64), (UserId, Seq)>,
    in_flight: usize,
    /// Committed events that it has not heard of, by conversation.
    unreported: BTreeMap<ConversationId, Vec<Seq>>,
}

impl Router {
    pub(super) fn away(number: usize, is_wanted: bool) -> Router {
        Router {
            address: format!("router-{number}:1"),
            shard: None,
            life: 0,
            process: 0,
            is_wanted,
            is_draining: false,
            identities: BTreeMap::new(),
            offset_ns: 0,
            inbox: Inbox::default(),
            lanes: BTreeMap::new(),
            lanes_count: 0,
            dials: BTreeMap::new(),
            turn_at: None,
            paused_until: 0,
            nap_ns: 0,
            napping: None,
            requests: BTreeMap::new(),
            reads: BTreeMap::new(),
            in_flight: 0,
            unreported: BTreeMap::new(),
        }
    }

    pub(super) fn is_life(&self, life: u32) -> bool {
        self.shard.is_some() && self.life == life
    }

    pub(super) fn is_up(&self) -> bool {
        self.shard.is_some()
    }

    /// It gives everything away, and has not ended yet.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_up() && self.is_draining
    }

    /// A number for a new lane, that no other one of this process ever had.
    pub(super) fn next_lane(&mut self) -> LaneId {
        self.lanes_count += 1;
        LaneId(self.lanes_count)
    }

    fn incarnation(&self) -> u64 {
        self.identities.get(&self.life).map_or(0, |identity| identity.incarnation.0)
    }
}

impl World<'_> {
    /// A new incarnation claims the store, or joins the others on it.
    pub(super) fn start_router(&mut self, router: usize) {
        if self.routers[router].is_up() || !self.routers[router].is_wanted {
            return;
        }
        let address = self.routers[router].address.clone();
        let Ok(claim) = self.claim(router, &address) else {
            let again = self.now + self.prng.between(10, 300) * MS;
            self.agenda.put(again, Event::RouterStart { router });
            return;
        };
        let lanes_count = self.plan.commit_lanes_count;
        let ids = (0..lanes_count).map(|lane| claim.message_ids(lane, lanes_count)).collect();
        let mut settings = ShardSettings { commit_lanes_count: lanes_count, ..self.plan.shard_settings };
        settings.fanout.turn_users_max = TURN_USERS[self.prng.index(3)];
        let seed = self.prng.next_u64();
        let clock_ns = self.prng.below(1 << 50) + 1;
        let at = &mut self.routers[router];
        // A process keeps its clock.
        if at.offset_ns == 0 {
            at.offset_ns = clock_ns;
        }
        at.life += 1;
        let life = at.life;
        let cluster = if self.plan.is_shared {
            let lease = Lease::new(claim.incarnation, Time(self.now + at.offset_ns));
            Cluster::shared(claim.incarnation, lease, &address)
        } else {
            Cluster::sole(claim.incarnation, claim.epoch, &address)
        };
        let shard = Shard::new(settings, seed, cluster, Meter::detached());
        at.shard = Some(shard);
        at.identities.insert(life, Identity { incarnation: claim.incarnation, ids });
        let incarnation = claim.incarnation.0;
        self.note("router up", [router as u64, u64::from(life), incarnation], || {
            format!("{router}, life {life}, incarnation {incarnation}")
        });
        self.plan_router_turn(router, self.now);
    }

    fn claim(&mut self, router: usize, address: &str) -> Result<Claim, BatchError> {
        let wall = self.wall();
        if !self.plan.is_shared {
            return retry::claim(&*self.engine, wall, &mut |_| ());
        }
        if self.store_is_cut(router) {
            return Err(BatchError::Busy);
        }
        let joined = self.control(&mut |txn| ops::join(txn, wall, address));
        // The process dies without hearing of it: the life that it began is ended by the others.
        if !self.is_calm && self.prng.chance(1, 12) {
            self.book.stats.lost_joins += u64::from(joined.is_ok());
            return Err(BatchError::Unknown);
        }
        joined
    }

    /// Nothing is left of this life but what its committers have handed to the store already: that may come late.
    fn end_life(&mut self, router: usize) -> bool {
        let at = &mut self.routers[router];
        if at.shard.take().is_none() {
            return false;
        }
        if at.in_flight > 0 {
            self.book.stats.crashes_before_commit += 1;
        }
        at.in_flight = 0;
        at.unreported.clear();
        at.requests.clear();
        at.reads.clear();
        at.inbox = Inbox::default();
        (at.turn_at, at.nap_ns, at.napping) = (None, 0, None);
        let ids: Vec<LaneId> = at.lanes.keys().copied().collect();
        for id in ids {
            self.close_lane(router, id);
        }
        true
    }

    /// The process ends: everything of it is gone.
    pub(super) fn kill_router(&mut self, router: usize) {
        if !self.end_life(router) {
            return;
        }
        let at = &mut self.routers[router];
        at.process += 1;
        at.dials.clear();
        (at.is_draining, at.paused_until, at.offset_ns) = (false, 0, 0);
        let life = at.life;
        self.note("router gone", [router as u64, u64::from(life), 0], || format!("{router}, life {life}"));
        let at = self.now + self.prng.between(1, 2_500) * MS;
        self.agenda.put(at, Event::RouterStart { router });
    }

    /// Others have taken everything: the process begins again from the store.
    fn begin_anew(&mut self, router: usize) {
        self.book.stats.new_lives += 1;
        // An order that nobody has heard yet is for whoever comes next.
        let drain = self.routers[router].inbox.drain;
        self.end_life(router);
        self.routers[router].inbox.drain = drain;
        let life = self.routers[router].life;
        self.note("router over", [router as u64, u64::from(life), 0], || format!("{router}, life {life}"));
        let at = self.now + self.prng.below(LIFE_RETRY_MS) * MS;
        self.agenda.put(at, Event::RouterStart { router });
    }

    pub(super) fn router_input(&mut self, router: usize, input: RouterInput) {
        if self.routers[router].is_up() {
            self.routers[router].inbox.frames.push(input);
            let soon = self.now + self.prng.below(MS / 10);
            self.plan_router_turn(router, soon);
        }
    }

    /// It is to end in good order; `for_good`: not to come back.
    pub(super) fn drain_router(&mut self, router: usize, for_good: bool) {
        let at = &mut self.routers[router];
        at.is_wanted &= !for_good;
        at.inbox.drain = true;
        at.is_draining = true;
        self.plan_router_turn(router, self.now);
    }

    pub(super) fn plan_router_turn(&mut self, router: usize, at: u64) {
        let process = &mut self.routers[router];
        let at = at.max(self.now).max(process.paused_until);
        if process.turn_at.is_none_or(|turn_at| turn_at > at) {
            process.turn_at = Some(at);
            self.agenda.put(at, Event::RouterTurn { router, life: process.life });
        }
    }

    pub(super) fn router_turn(&mut self, router: usize, life: u32) {
        let at = &mut self.routers[router];
        if at.life != life || at.turn_at != Some(self.now) {
            return;
        }
        at.turn_at = None;
        if at.paused_until > self.now {
            self.plan_router_turn(router, self.now);
            return;
        }
        let Some(mut shard) = at.shard.take() else { return };
        let offset_ns = at.offset_ns;
        let now = Time(self.now + offset_ns);
        // What came while it slept is heard in a turn of its own.
        let napping = at.napping.take();
        let has_slept = napping.is_some();
        if let Some(began) = napping {
            self.note("router wakes", [router as u64, u64::from(life), 0], || router.to_string());
            self.forget_if_asleep(router, &mut shard, began);
        } else {
            self.hear_all(router, &mut shard, now);
            let nap_ns = std::mem::take(&mut self.routers[router].nap_ns);
            if nap_ns > 0 {
                let at = &mut self.routers[router];
                (at.shard, at.napping, at.paused_until) = (Some(shard), Some(now), self.now + nap_ns);
                self.plan_router_turn(router, self.now);
                return;
            }
        }
        let mut outputs = Vec::new();
        while let Some(output) = shard.poll_output() {
            outputs.push(output);
        }
        let due = shard.poll_timeout().map(|at| at.0.saturating_sub(offset_ns));
        let due = if has_slept { Some(self.now) } else { due };
        self.routers[router].shard = Some(shard);
        for output in outputs {
            self.act(router, output);
            if !self.routers[router].is_life(life) {
                return;
            }
        }
        if let Some(due) = due {
            self.plan_router_turn(router, due.max(self.now + MS / 50));
        }
    }

    /// As the real one does it: outcomes first, so that acks leave first.
    fn hear_all(&mut self, router: usize, shard: &mut Shard, now: Time) {
        let Inbox { reports, told, answers, frames, drain } = std::mem::take(&mut self.routers[router].inbox);
        let counts = [reports.len() as u64, answers.len() as u64, frames.len() as u64];
        self.note("router turn", counts, || {
            format!("{router}: {counts:?} outcomes, answers, frames; told {}", told.len())
        });
        if drain {
            shard.handle(now, Input::Drain);
        }
        shard.handle(now, Input::Wall(self.wall()));
        for (commit_lane, at, results) in reports {
            self.reported(router, &results);
            shard.handle(now, Input::Committed { commit_lane, at, results });
        }
        for told in told {
            shard.handle(now, Input::Lease(told));
        }
        for (ticket, answer) in answers {
            if answer.as_ref().is_ok_and(|answer| self.sees_early(router, answer)) {
                self.book.stats.early_sights += 1;
                self.note("early sight", [0; 3], || {
                    "a page shows what the router has not heard of".to_owned()
                });
            }
            shard.handle(now, Input::Answered { ticket, answer });
        }
        for input in frames {
            match input {
                RouterInput::Up(lane, far) => shard.handle(now, Input::LaneUp { lane, far }),
                RouterInput::Frame(lane, frame) => {
                    self.remember_request(router, lane, &frame);
                    shard.handle(now, Input::LaneFrame { lane, frame: &frame });
                }
                RouterInput::Down(lane) => shard.handle(now, Input::LaneDown { lane }),
            }
        }
        shard.handle(now, Input::Tick);
    }

    /// As the real one: what a turn made known that was asleep in its middle nobody hears.
    fn forget_if_asleep(&mut self, router: usize, shard: &mut Shard, began: Time) {
        let now = Time(self.now + self.routers[router].offset_ns);
        if self.plan.is_shared && now > began.after_ms(TURN_MS_MAX) {
            self.book.stats.forgets += 1;
            let ids: Vec<LaneId> = self.routers[router].lanes.keys().copied().collect();
            for lane in ids {
                self.close_lane(router, lane);
                shard.handle(began, Input::LaneDown { lane });
            }
        }
    }

    fn act(&mut self, router: usize, output: Output) {
        let life = self.routers[router].life;
        match output {
            Output::Lease(order) => {
                let slowest_ns =
                    if order == lease::Output::Poll { self.plan.read_ns } else { self.plan.commit_ns };
                let at = self.now + self.delay(slowest_ns) + self.long_ns();
                self.agenda.put(at, Event::Order { router, life, order });
            }
            Output::Dial { address } => {
                let process = self.routers[router].process;
                self.routers[router].dials.entry(address.clone()).or_insert(None);
                self.agenda.put(self.now, Event::LaneDial { router, process, address });
            }
            Output::HangUp { address } => {
                if let Some(Some(lane)) = self.routers[router].dials.remove(&address) {
                    self.break_lane(lane);
                }
            }
            Output::Over => self.begin_anew(router),
            Output::Frame { lane, frame } => {
                let is_ack = self.hear_frame(router, lane, &frame);
                if let Some((at, way)) = self.routers[router].lanes.get(&lane).copied() {
                    self.send_frame(at, way.back(), frame);
                }
                if is_ack && self.armed == Some((router, Crash::AfterAck)) {
                    self.armed = None;
                    self.book.stats.crashes_after_ack += 1;
                    self.router_crash(router);
                }
            }
            Output::CloseLane { lane } => self.close_lane(router, lane),
            Output::Commit { commit_lane, ops } => {
                self.routers[router].in_flight += 1;
                let at = self.now + self.delay(self.plan.commit_ns) + self.long_ns();
                self.agenda.put(at, Event::Commit { router, life, commit_lane, ops });
            }
            Output::Query { ticket, query } => {
                let at = self.now + self.delay(self.plan.read_ns);
                self.agenda.put(at, Event::Read { router, life, ticket, query });
            }
            Output::Fatal(sentence) => {
                self.book
                    .wrong("G14", format!("the store did not fail, but router {router} says {sentence}"));
            }
            Output::Drained => self.kill_router(router),
        }
    }

    fn remember_request(&mut self, router: usize, lane: LaneId, bytes: &AlignedVec) {
        match frame::read(bytes) {
            Ok(Frame::Submit(submit)) => {
                let who = (UserId(submit.user.0.to_native()), submit.client_msg_id.as_str().to_owned());
                self.routers[router].requests.insert((lane, submit.request.to_native()), who);
            }
            Ok(Frame::Read(read)) => {
                let (user, request) = (UserId(read.user.0.to_native()), read.request.to_native());
                let conversation = ConversationId(read.conversation.0.to_native());
                let told = self.book.told(conversation).min(self.visible(user, conversation));
                self.routers[router].reads.insert((lane, request), (user, told));
            }
            _ => {}
        }
    }

    /// Looks at a frame that a router sends; whether it acknowledges an event.
    fn hear_frame(&mut self, router: usize, lane: LaneId, bytes: &AlignedVec) -> bool {
        match frame::read(bytes) {
            Ok(Frame::Accepted(accepted)) => return accepted.id.to_native() != 0 && !accepted.duplicate,
            Ok(Frame::Refused(refused)) => {
                let refused = refused.request.to_native();
                if let Some((user, client_msg_id)) = self.routers[router].requests.remove(&(lane, refused)) {
                    self.book.overtakable(user, &client_msg_id);
                }
            }
            Ok(Frame::NotOwner(_)) => self.book.stats.not_owners += 1,
            Ok(Frame::Notify(notice)) if notice.replayed => self.book.stats.replays += 1,
            Ok(Frame::Notify(_)) => self.book.stats.notices += 1,
            Ok(Frame::Page(page)) => {
                let conversation = ConversationId(page.conversation.0.to_native());
                let (request, head) = (page.request.to_native(), page.head_seq.to_native());
                self.judge_page(router, (lane, request), conversation, head);
            }
            Ok(Frame::Owners(owners)) => self.owned(router, &owners.slots),
            Ok(Frame::Own(own)) => self.owned(router, &own.slots),
            Ok(_) => {}
            Err(error) => self.book.wrong("lane", error),
        }
        false
    }

    /// A page shows what anybody was told when its router took the question up (G10), as far as its reader may see it, then
    /// and now: also one that nobody waits for any more, because the gateway asks another router by now.
    fn judge_page(&mut self, router: usize, request: (LaneId, u64), conversation: ConversationId, head: Seq) {
        let Some((user, told)) = self.routers[router].reads.remove(&request).filter(|(_, told)| head < *told)
        else {
            return;
        };
        if head < told.min(self.visible(user, conversation)) {
            let words =
                format!("router {router} shows {user} {conversation} up to {head}, and {told} was told");
            self.book.wrong("G10", words);
        }
    }

    /// Up to where a user may see a conversation now; 0: nothing of it.
    fn visible(&self, user: UserId, conversation: ConversationId) -> Seq {
        let query = PageQuery {
            user,
            conversation,
            from_seq: 1,
            to_seq: 1,
            limit: 1,
            newest_first: false,
            messages_only: false,
        };
        match self.ask_store(&Query::Page(query)) {
            Ok(Answer::Page(page)) => page.standing.head_seq,
            _ => 0,
        }
    }

    /// A router says that it owns slots: by this epoch nobody else ever does (G15).
    fn owned(&mut self, router: usize, slots: &[ArchivedOwnedSlot]) {
        let me = self.routers[router].incarnation();
        for owned in slots.iter().filter(|owned| owned.owner == me) {
            let (slot, epoch) = (owned.slot.to_native(), owned.epoch.to_native());
            if let Some(other) = self.book.owner(slot, epoch, me) {
                self.book.wrong("G15", format!("{other} and {me} both own slot {slot} by epoch {epoch}"));
            }
        }
    }

    /// A router dies now.
    pub(super) fn router_crash(&mut self, router: usize) {
        if self.routers[router].is_up() {
            self.book.stats.router_crashes += 1;
        }
        self.kill_router(router);
    }
}
