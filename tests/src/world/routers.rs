//! The router process of the simulated world, with its committers and readers: batches are committed and snapshots are
//! read at their own moments, and the router hears of both later. In between everybody who reads sees what it has not
//! heard of yet.

use std::collections::BTreeMap;

use carillon_node::metrics::Meter;
use carillon_protocol::frame::{self, Frame};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::outbox::{Far, LaneId, Output, Ticket};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_store::error::ReadError;
use carillon_store::ids::MessageIds;
use carillon_store::ops::Context;
use carillon_store::query;
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::Engine as _;
use carillon_store::verb::{Answer, Incarnation, Op, Outcome, Query};
use rkyv::util::AlignedVec;

use super::World;
use super::agenda::Event;
use super::faults::Crash;
use super::lanes::Way;
use super::plan::MS;

/// The most members of a group.
const MEMBERS_MAX: u64 = 1_000;
/// What a turn of fan-out may spend: little, so that turns end in the middle of it.
const TURN_USERS: [usize; 3] = [2, 16, 4_096];

/// What comes over a lane.
pub(super) enum LaneInput {
    Up(LaneId),
    Frame(LaneId, AlignedVec),
    Down(LaneId),
}

type Results = Vec<Result<Outcome, Failure>>;

/// In whose name a life commits.
struct Identity {
    incarnation: Incarnation,
    ids: Vec<MessageIds>,
}

/// The router process, or the place where it was.
pub(super) struct Router {
    shard: Option<Shard>,
    pub(super) life: u32,
    /// Of every life so far: a dead one may still have a batch under way.
    identities: BTreeMap<u32, Identity>,
    offset_ns: u64,
    reports: Vec<(u16, WallMs, Results)>,
    answers: Vec<(Ticket, Result<Answer, ReadError>)>,
    frames: Vec<LaneInput>,
    drain: bool,
    pub(super) lanes: BTreeMap<LaneId, usize>,
    lanes_count: u32,
    turn_at: Option<u64>,
    pub(super) paused_until: u64,
    /// Who submitted what under which request.
    requests: BTreeMap<(LaneId, u64), (UserId, String)>,
    in_flight: usize,
}

impl Router {
    pub(super) fn away() -> Router {
        Router {
            shard: None,
            life: 0,
            identities: BTreeMap::new(),
            offset_ns: 0,
            reports: Vec::new(),
            answers: Vec::new(),
            frames: Vec::new(),
            drain: false,
            lanes: BTreeMap::new(),
            lanes_count: 0,
            turn_at: None,
            paused_until: 0,
            requests: BTreeMap::new(),
            in_flight: 0,
        }
    }

    pub(super) fn is_life(&self, life: u32) -> bool {
        self.shard.is_some() && self.life == life
    }

    pub(super) fn is_up(&self) -> bool {
        self.shard.is_some()
    }

    /// A number for a new lane; `None` while there is no router.
    pub(super) fn next_lane(&mut self) -> Option<LaneId> {
        self.is_up().then(|| {
            self.lanes_count += 1;
            LaneId(self.lanes_count)
        })
    }
}

impl World<'_> {
    /// A new incarnation claims the store.
    pub(super) fn start_router(&mut self) {
        if self.router.is_up() {
            return;
        }
        let Ok(claim) = retry::claim(&*self.engine, self.wall(), &mut |_| ()) else {
            let again = self.now + self.prng.between(10, 300) * MS;
            self.agenda.put(again, Event::RouterStart);
            return;
        };
        let lanes_count = self.plan.commit_lanes_count;
        let ids = (0..lanes_count).map(|lane| claim.message_ids(lane, lanes_count)).collect();
        let life = self.router.life + 1;
        let mut settings = ShardSettings { commit_lanes_count: lanes_count, ..self.plan.shard_settings };
        settings.fanout.turn_users_max = TURN_USERS[self.prng.index(3)];
        let shard = Shard::new(
            settings,
            self.prng.next_u64(),
            Cluster::sole(claim.incarnation, claim.epoch, ""),
            Meter::detached(),
        );
        let mut identities = std::mem::take(&mut self.router.identities);
        identities.insert(life, Identity { incarnation: claim.incarnation, ids });
        let offset_ns = self.prng.below(1 << 50);
        self.router = Router { shard: Some(shard), life, identities, offset_ns, ..Router::away() };
        let incarnation = claim.incarnation.0;
        self.note("router up", [u64::from(life), incarnation, 0], || {
            format!("life {life}, incarnation {incarnation}")
        });
        self.plan_router_turn(self.now);
    }

    /// Everything of it is gone, but for what its committers have handed to the store already: that may come late.
    pub(super) fn kill_router(&mut self) {
        if self.router.shard.take().is_none() {
            return;
        }
        let life = self.router.life;
        self.note("router gone", [u64::from(life), 0, 0], || format!("life {life}"));
        if self.router.in_flight > 0 {
            self.book.stats.crashes_before_commit += 1;
        }
        self.unreported.clear();
        let lanes = std::mem::take(&mut self.router.lanes).into_values().collect();
        self.break_lanes(lanes);
        let at = self.now + self.prng.between(1, 2_500) * MS;
        self.agenda.put(at, Event::RouterStart);
    }

    pub(super) fn router_input(&mut self, input: LaneInput) {
        if !self.router.is_up() {
            return;
        }
        self.router.frames.push(input);
        let soon = self.now + self.prng.below(MS / 10);
        self.plan_router_turn(soon);
    }

    pub(super) fn drain_router(&mut self) {
        self.router.drain = true;
        self.plan_router_turn(self.now);
    }

    pub(super) fn plan_router_turn(&mut self, at: u64) {
        let at = at.max(self.now).max(self.router.paused_until);
        if self.router.turn_at.is_none_or(|turn_at| turn_at > at) {
            self.router.turn_at = Some(at);
            self.agenda.put(at, Event::RouterTurn { life: self.router.life });
        }
    }

    /// A committer does its work.
    pub(super) fn commit(&mut self, life: u32, commit_lane: u16, ops: &[Op]) {
        let is_alive = self.router.is_life(life);
        if is_alive && self.armed == Some(Crash::BeforeCommit) {
            self.armed = None;
            self.router_crash();
        }
        let is_alive = self.router.is_life(life);
        // What a dead process had handed to the store comes, at once or much later, or does not.
        if !is_alive {
            match self.prng.below(4) {
                0 => return,
                1 => {}
                _ => {
                    let ops = ops.to_vec();
                    let late = self.now + self.prng.below(1_500 * MS);
                    self.agenda.put(late, Event::Commit { life, commit_lane, ops });
                    return;
                }
            }
        }
        let at = self.wall();
        let engine = std::sync::Arc::clone(&self.engine);
        let Some(identity) = self.router.identities.get_mut(&life) else { return };
        let ids = &mut identity.ids[usize::from(commit_lane)];
        let mut context =
            Context { now: at, incarnation: identity.incarnation, ids, members_max: MEMBERS_MAX };
        let results = retry::commit_batch(&*engine, commit_lane, &mut context, ops, &mut |_| ());
        // A late commit comes within five seconds, as on FoundationDB.
        let land_at = self.now + self.prng.below(4_900 * MS);
        if self.plan.chances.unknown_late > 0 || self.plan.weights.unknown > 0 {
            self.agenda.put(land_at, Event::Land);
        }
        let results: Results = results.into_iter().map(|result| result.map_err(failure)).collect();
        self.took_note(ops, &results, is_alive);
        let failed = results.iter().filter(|result| result.is_err()).count();
        let count = ops.len() as u64;
        self.note("commit", [u64::from(life), count, failed as u64], || {
            format!("life {life}, lane {commit_lane}: {}", describe(ops, &results))
        });
        if is_alive && self.armed == Some(Crash::AfterCommit) {
            self.armed = None;
            self.book.stats.crashes_after_commit += 1;
            self.router_crash();
        }
        if self.router.is_life(life) {
            let heard_at = self.now + self.delay(self.plan.report_ns);
            self.agenda.put(heard_at, Event::Committed { life, commit_lane, at, results });
        }
    }

    fn took_note(&mut self, ops: &[Op], results: &Results, is_alive: bool) {
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (Op::Send(send), Err(failure)) => {
                    self.book.overtakable(send.sender, &send.client_msg_id);
                    if *failure == Failure::Fenced {
                        self.book.stats.fenced += 1;
                        if is_alive {
                            self.book.wrong("G15", "the living router was fenced");
                        }
                    }
                }
                (Op::Send(_) | Op::Create(_), Ok(Outcome::Appended(appended)))
                    if !appended.duplicate && is_alive =>
                {
                    self.unreported.entry(appended.conversation).or_default().push(appended.seq);
                }
                _ => {}
            }
        }
    }

    pub(super) fn committed(&mut self, life: u32, commit_lane: u16, at: WallMs, results: Results) {
        if self.router.is_life(life) {
            self.router.in_flight -= 1;
            self.router.reports.push((commit_lane, at, results));
            self.plan_router_turn(self.now + MS / 100);
        }
    }

    /// A reader does its work.
    pub(super) fn read(&mut self, life: u32, ticket: Ticket, query: &Query) {
        if !self.router.is_life(life) {
            return;
        }
        let answer = if !self.is_calm && self.prng.chance(1, 200) {
            Err(ReadError::Again("now and then".to_owned()))
        } else {
            self.ask_store(query)
        };
        let at = self.now + self.delay(self.plan.read_ns);
        self.agenda.put(at, Event::Answered { life, ticket, answer });
    }

    pub(super) fn ask_store(&self, query: &Query) -> Result<Answer, ReadError> {
        query::answer(&mut *self.engine.snapshot()?, query)
    }

    pub(super) fn answered(&mut self, life: u32, ticket: Ticket, answer: Result<Answer, ReadError>) {
        if !self.router.is_life(life) {
            return;
        }
        self.router.answers.push((ticket, answer));
        self.plan_router_turn(self.now + MS / 100);
    }

    /// Whether an answer shows what the router has not heard of.
    fn sees_early(&self, answer: &Answer) -> bool {
        let shows = |conversation: ConversationId, head: Seq| {
            self.unreported.get(&conversation).is_some_and(|seqs| seqs.iter().any(|seq| *seq <= head))
        };
        match answer {
            Answer::Page(page) => shows(page.standing.conversation, page.standing.head_seq),
            Answer::Standings(standings) => {
                standings.iter().any(|standing| shows(standing.conversation, standing.head_seq))
            }
            _ => false,
        }
    }

    pub(super) fn router_turn(&mut self, life: u32) {
        if self.router.life != life || self.router.turn_at != Some(self.now) {
            return;
        }
        self.router.turn_at = None;
        if self.router.paused_until > self.now {
            self.plan_router_turn(self.now);
            return;
        }
        let Some(mut shard) = self.router.shard.take() else { return };
        let offset_ns = self.router.offset_ns;
        let now = Time(self.now + offset_ns);
        shard.handle(now, Input::Wall(self.wall()));
        if std::mem::take(&mut self.router.drain) {
            shard.handle(now, Input::Drain);
        }
        let reports = std::mem::take(&mut self.router.reports);
        let answers = std::mem::take(&mut self.router.answers);
        let frames = std::mem::take(&mut self.router.frames);
        let counts = [reports.len() as u64, answers.len() as u64, frames.len() as u64];
        self.note("router turn", counts, || format!("{counts:?} outcomes, answers, frames"));
        for (commit_lane, at, results) in reports {
            for result in &results {
                if let Ok(Outcome::Appended(appended)) = result
                    && let Some(seqs) = self.unreported.get_mut(&appended.conversation)
                {
                    seqs.retain(|seq| *seq != appended.seq);
                }
            }
            shard.handle(now, Input::Committed { commit_lane, at, results });
        }
        for (ticket, answer) in answers {
            if answer.as_ref().is_ok_and(|answer| self.sees_early(answer)) {
                self.book.stats.early_sights += 1;
                self.note("early sight", [0; 3], || {
                    "a page shows what the router has not heard of".to_owned()
                });
            }
            shard.handle(now, Input::Answered { ticket, answer });
        }
        for input in frames {
            match input {
                LaneInput::Up(lane) => shard.handle(now, Input::LaneUp { lane, far: Far::Gateway }),
                LaneInput::Frame(lane, frame) => {
                    self.remember_request(lane, &frame);
                    shard.handle(now, Input::LaneFrame { lane, frame: &frame });
                }
                LaneInput::Down(lane) => shard.handle(now, Input::LaneDown { lane }),
            }
        }
        shard.handle(now, Input::Tick);
        let due = shard.poll_timeout().map(|at| at.0.saturating_sub(offset_ns));
        let mut outputs = Vec::new();
        while let Some(output) = shard.poll_output() {
            outputs.push(output);
        }
        self.router.shard = Some(shard);
        for output in outputs {
            self.act(output);
            if !self.router.is_life(life) {
                return;
            }
        }
        if let Some(due) = due {
            self.plan_router_turn(due.max(self.now + MS / 50));
        }
    }

    fn act(&mut self, output: Output) {
        let life = self.router.life;
        match output {
            Output::Lease(_) | Output::Dial { .. } | Output::HangUp { .. } | Output::Over => {
                panic!("a router that is alone says nothing to others")
            }
            Output::Frame { lane, frame } => {
                let is_ack = self.hear_frame(lane, &frame);
                if let Some(at) = self.router.lanes.get(&lane).copied() {
                    self.send_frame(at, Way::Down, frame);
                }
                if is_ack && self.armed == Some(Crash::AfterAck) {
                    self.armed = None;
                    self.book.stats.crashes_after_ack += 1;
                    self.router_crash();
                }
            }
            Output::CloseLane { lane } => {
                if let Some(at) = self.router.lanes.get(&lane).copied() {
                    self.close_lane(at, Way::Up);
                }
            }
            Output::Commit { commit_lane, ops } => {
                self.router.in_flight += 1;
                let at = self.now + self.delay(self.plan.commit_ns);
                self.agenda.put(at, Event::Commit { life, commit_lane, ops });
            }
            Output::Query { ticket, query } => {
                let at = self.now + self.delay(self.plan.read_ns);
                self.agenda.put(at, Event::Read { life, ticket, query });
            }
            Output::Fatal(sentence) => {
                self.book.wrong("G14", format!("the store did not fail, but the router says {sentence}"));
            }
            Output::Drained => self.kill_router(),
        }
    }

    fn remember_request(&mut self, lane: LaneId, bytes: &AlignedVec) {
        if let Ok(Frame::Submit(submit)) = frame::read(bytes) {
            let who = (UserId(submit.user.0.to_native()), submit.client_msg_id.as_str().to_owned());
            self.router.requests.insert((lane, submit.request.to_native()), who);
        }
    }

    /// Looks at a frame on its way down; whether it acknowledges an event.
    fn hear_frame(&mut self, lane: LaneId, bytes: &AlignedVec) -> bool {
        let refused = match frame::read(bytes) {
            Ok(Frame::Accepted(accepted)) => return accepted.id.to_native() != 0 && !accepted.duplicate,
            Ok(Frame::Refused(refused)) => refused.request.to_native(),
            Ok(Frame::NotOwner(not_owner)) => not_owner.request.to_native(),
            Ok(_) => return false,
            Err(error) => {
                self.book.wrong("lane", error);
                return false;
            }
        };
        if let Some((user, client_msg_id)) = self.router.requests.remove(&(lane, refused)) {
            self.book.overtakable(user, &client_msg_id);
        }
        false
    }

    /// The router dies now.
    pub(super) fn router_crash(&mut self) {
        if self.router.is_up() {
            self.book.stats.router_crashes += 1;
        }
        self.kill_router();
    }
}

/// As the real committer says it.
fn failure(error: BatchError) -> Failure {
    match error {
        BatchError::Unknown => Failure::Unknown,
        BatchError::Busy => Failure::Busy,
        BatchError::Full { .. } => Failure::Full,
        BatchError::Fenced => Failure::Fenced,
        BatchError::Fatal(sentence) => Failure::Fatal(sentence),
    }
}

fn describe(ops: &[Op], results: &Results) -> String {
    let one = |(op, result): (&Op, &Result<Outcome, Failure>)| {
        let what = match op {
            Op::Send(send) => {
                format!("send {} by {} to {}", send.client_msg_id, send.sender, send.conversation)
            }
            Op::Create(create) => format!("create {}", create.conversation),
            Op::Receipt(receipt) => format!(
                "receipt {}@{} {} {}/{}",
                receipt.user, receipt.device, receipt.conversation, receipt.delivered_seq, receipt.read_seq
            ),
            Op::FannedOut { conversation, seq } => format!("fanned out {conversation}/{seq}"),
            Op::Provision { user, .. } => format!("provision {user}"),
            Op::CreateUser { user, .. } => format!("create user {user}"),
            other => format!("{other:?}"),
        };
        let became = match result {
            Ok(Outcome::Appended(appended)) if appended.duplicate => format!("duplicate of {}", appended.seq),
            Ok(Outcome::Appended(appended)) => format!("{}", appended.seq),
            Ok(Outcome::Refused(refusal)) => format!("refused {}", refusal.code.name()),
            Ok(_) => "done".to_owned(),
            Err(failure) => format!("{failure:?}"),
        };
        format!("{what} -> {became}")
    };
    ops.iter().zip(results).map(one).collect::<Vec<_>>().join("; ")
}
