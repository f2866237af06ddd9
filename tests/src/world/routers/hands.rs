//! What works for a router beside its own thread: batches are committed and snapshots read at their own moments, and the
//! router hears of each later. In between everybody who reads sees what it has not heard of yet.

use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::placement::Slot;
use carillon_protocol::time::WallMs;
use carillon_router::batch::Failure;
use carillon_router::outbox::Ticket;
use carillon_store::error::ReadError;
use carillon_store::ops::{self, Context, Holder, Ownership};
use carillon_store::query;
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::Engine as _;
use carillon_store::verb::{Answer, Incarnation, Op, Outcome, Query};

use super::Results;
use crate::world::World;
use crate::world::agenda::Event;
use crate::world::faults::Crash;
use crate::world::lanes::Place;
use crate::world::plan::MS;

/// The most members of a group.
const MEMBERS_MAX: u64 = 1_000;

impl World<'_> {
    /// A committer does its work.
    pub(in crate::world) fn commit(&mut self, router: usize, life: u32, commit_lane: u16, ops: Vec<Op>) {
        let is_alive = self.routers[router].is_life(life);
        if is_alive {
            if let Some(until) = self.late_for_store(router) {
                self.agenda.put(until, Event::Commit { router, life, commit_lane, ops });
                return;
            }
            if self.armed == Some((router, Crash::BeforeCommit)) {
                self.armed = None;
                self.router_crash(router);
            }
        }
        let is_alive = self.routers[router].is_life(life);
        // What a dead process had handed to the store comes, at once or much later, or does not.
        if !is_alive {
            match self.prng.below(4) {
                0 => return,
                1 => {}
                _ => {
                    let late = self.now + self.prng.below(1_500 * MS);
                    self.agenda.put(late, Event::Commit { router, life, commit_lane, ops });
                    return;
                }
            }
        }
        let at = self.wall();
        let engine = Arc::clone(&self.engine);
        let before = self.holders(&ops);
        let Some(identity) = self.routers[router].identities.get_mut(&life) else { return };
        let incarnation = identity.incarnation;
        let ids = &mut identity.ids[usize::from(commit_lane)];
        let mut context = Context { now: at, incarnation, ids, members_max: MEMBERS_MAX };
        let results = retry::commit_batch(&*engine, commit_lane, &mut context, &ops, &mut |_| ());
        self.may_have_moved();
        // A late commit comes within five seconds, as on FoundationDB.
        let land_at = self.now + self.prng.below(4_900 * MS);
        if engine.late_count() > 0 {
            self.agenda.put(land_at, Event::Land);
        }
        let results: Results = results.into_iter().map(|result| result.map_err(failure)).collect();
        self.judge_owner(incarnation, &ops, &results, &before);
        self.took_note(router, &ops, &results, is_alive);
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.note("commit", [router as u64, u64::from(life), failed as u64], || {
            format!("router {router}, life {life}, lane {commit_lane}: {}", describe(&ops, &results))
        });
        if is_alive && self.armed == Some((router, Crash::AfterCommit)) {
            self.armed = None;
            self.book.stats.crashes_after_commit += 1;
            self.router_crash(router);
        }
        if self.routers[router].is_life(life) {
            let heard_at = self.heard_at(router, self.plan.report_ns);
            self.agenda.put(heard_at, Event::Committed { router, life, commit_lane, at, results });
        }
    }

    /// Whoever committed owned the slot at that moment (G15).
    fn judge_owner(&mut self, incarnation: Incarnation, ops: &[Op], results: &Results, before: &[Holder]) {
        let after = self.holders(ops);
        for ((op, result), (before, after)) in ops.iter().zip(results).zip(before.iter().zip(&after)) {
            let is_its = [before.owner, after.owner].contains(&Some(incarnation));
            if result.is_ok() && !is_its {
                let words = format!("{} committed {op:?}, and the slot is {after:?}'s", incarnation.0);
                self.book.wrong("G15", words);
            }
        }
    }

    /// Of each operation, who owns its slot; nothing when there is one router, which owns everything.
    fn holders(&mut self, ops: &[Op]) -> Vec<Holder> {
        if !self.plan.is_shared {
            return Vec::new();
        }
        let slots: Vec<Slot> = ops.iter().map(ops::slot_of).collect();
        let shown = self.shown();
        slots.iter().map(|slot| shown.owners[usize::from(slot.0)]).collect()
    }

    fn took_note(&mut self, router: usize, ops: &[Op], results: &Results, is_alive: bool) {
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (Op::Change(change), Ok(outcome)) => self.changed(change, outcome),
                // What is refused leaves no trace: if nobody hears of that, the same is decided again later, and by then who
                // sends may be a member.
                (Op::Send(send), Ok(Outcome::Refused(_))) => {
                    self.book.overtakable(send.sender, &send.client_msg_id);
                }
                (Op::Send(send), Err(failure)) => {
                    if *failure == Failure::Fenced {
                        self.book.stats.fenced += 1;
                        if is_alive && !self.plan.is_shared {
                            self.book.wrong("G15", "the living router was fenced");
                        }
                    } else {
                        self.book.overtakable(send.sender, &send.client_msg_id);
                    }
                }
                _ => {}
            }
            if let (Op::Send(_) | Op::Create(_) | Op::Change(_), Ok(Outcome::Appended(appended)), true) =
                (op, result, is_alive)
                && !appended.duplicate
            {
                let unreported = &mut self.routers[router].unreported;
                unreported.entry(appended.conversation).or_default().push(appended.seq);
            }
        }
    }

    pub(in crate::world) fn committed(
        &mut self,
        router: usize,
        life: u32,
        commit_lane: u16,
        at: WallMs,
        results: Results,
    ) {
        if self.routers[router].is_life(life) {
            self.routers[router].in_flight -= 1;
            self.routers[router].inbox.reports.push((commit_lane, at, results));
            self.plan_router_turn(router, self.now + MS / 100);
        }
    }

    /// The router is about to hear what became of these.
    pub(super) fn reported(&mut self, router: usize, results: &Results) {
        for result in results {
            if let Ok(Outcome::Appended(appended)) = result
                && let Some(seqs) = self.routers[router].unreported.get_mut(&appended.conversation)
            {
                seqs.retain(|seq| *seq != appended.seq);
            }
        }
    }

    /// A reader does its work.
    pub(in crate::world) fn read(&mut self, router: usize, life: u32, ticket: Ticket, query: Query) {
        if !self.routers[router].is_life(life) {
            return;
        }
        if let Some(until) = self.late_for_store(router) {
            self.agenda.put(until, Event::Read { router, life, ticket, query });
            return;
        }
        let answer = if !self.is_calm && self.prng.chance(1, 200) {
            Err(ReadError::Again("now and then".to_owned()))
        } else {
            self.ask_store(&query)
        };
        let at = self.heard_at(router, self.plan.read_ns);
        self.agenda.put(at, Event::Answered { router, life, ticket, answer });
    }

    pub(in crate::world) fn ask_store(&self, query: &Query) -> Result<Answer, ReadError> {
        query::answer(&mut *self.engine.snapshot()?, query)
    }

    pub(in crate::world) fn answered(
        &mut self,
        router: usize,
        life: u32,
        ticket: Ticket,
        answer: Result<Answer, ReadError>,
    ) {
        if self.routers[router].is_life(life) {
            self.routers[router].inbox.answers.push((ticket, answer));
            self.plan_router_turn(router, self.now + MS / 100);
        }
    }

    /// Whether an answer shows what its router has not heard of.
    pub(super) fn sees_early(&self, router: usize, answer: &Answer) -> bool {
        let unreported = &self.routers[router].unreported;
        let shows = |conversation: ConversationId, head: Seq| {
            unreported.get(&conversation).is_some_and(|seqs| seqs.iter().any(|seq| *seq <= head))
        };
        match answer {
            Answer::Page(page) => shows(page.standing.conversation, page.standing.head_seq),
            Answer::Standings(standings) => {
                standings.iter().any(|standing| shows(standing.conversation, standing.head_seq))
            }
            _ => false,
        }
    }

    /// Who lives and who owns what, as the store has it.
    pub(in crate::world) fn shown(&mut self) -> &Ownership {
        let engine = &self.engine;
        self.shown.get_or_insert_with(|| {
            let mut snapshot = engine.snapshot().expect("the store does not fail");
            ops::ownership(&mut *snapshot).expect("the store does not fail")
        })
    }

    /// Until when a process' threads do not get to the store: it is paused, or cut off.
    pub(super) fn late_for_store(&mut self, router: usize) -> Option<u64> {
        let paused_until = self.routers[router].paused_until;
        // Half of what a paused process was doing is under way already.
        let paused_until = (paused_until > self.now && self.prng.chance(1, 2)).then_some(paused_until);
        let until = paused_until.max(self.blocked_until(Place::Router(router), Place::Store));
        // Calm ends every pause.
        until.map(|until| until.min(self.plan.faults_ns))
    }

    /// Now and then a commit takes seconds.
    pub(super) fn long_ns(&mut self) -> u64 {
        if self.is_calm || !self.prng.chance(self.plan.long, 1_000) {
            return 0;
        }
        self.book.stats.long_commits += 1;
        self.prng.between(500, 4_900) * MS
    }

    pub(super) fn store_is_cut(&self, router: usize) -> bool {
        let place = Place::Router(router);
        self.blocked_until(place, Place::Store).is_some() || self.blocked_until(Place::Store, place).is_some()
    }

    /// When the router hears what the store says now.
    pub(super) fn heard_at(&mut self, router: usize, slowest_ns: u64) -> u64 {
        let at = self.now + self.delay(slowest_ns);
        let until = self.blocked_until(Place::Store, Place::Router(router)).unwrap_or(0);
        at.max(until.min(self.plan.faults_ns))
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
