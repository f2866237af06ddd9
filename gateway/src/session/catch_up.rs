//! A session that is not live everywhere: what it misses is brought in pages, one conversation at a time, as fast as its
//! client takes them; what the client was told to sync itself (`behind`) comes first.
//!
//! # Invariants
//! - At most one page is asked for, and only while there is room for it: a page never overflows the outbox.
//! - A `Deliver` of a conversation that is still to be brought raises its target. One of a conversation that was brought
//!   is live, or, when it does not fit, opens that conversation again.
//! - `caught_up` is said when nothing is left of either kind, and before anything that comes live then.
//! - Between `behind` and `caught_up` nothing is live, in no conversation.

use carillon_link::Peer;
use carillon_protocol::client::{FrameId, ServerFrame, SyncBatch};
use carillon_protocol::frame::{ArchivedPage, Read};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::PAGE_EVENTS_MAX;
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::reason::{Close, Refusal};
use carillon_protocol::record::Event;
use carillon_protocol::time::Time;

use super::joining::Joining;
use super::place::Before;
use super::plan::{Entry, How, Plan};
use super::register::{Cause, RETRY_MS};
use super::{Session, Stage};
use crate::common::Common;
use crate::counters::Shared;
use crate::line::Line;
use crate::owners::Route;
use crate::render;
use crate::tails::{Life, Moment};

/// Conversations that a client may be told to sync at once. Beyond: 1013 or 4010, and the client resumes anew.
pub(super) const BEHIND_MAX: usize = 512;
/// Conversations in one plan. Beyond: 4010.
const PLAN_MAX: usize = 131_072;

/// See the module.
#[derive(Debug)]
pub(super) struct CatchingUp {
    plan: Plan,
    /// What the client was told to sync, ascending: (conversation, last seq that came live meanwhile).
    listed: Vec<(ConversationId, Seq)>,
    /// When it was told so, of those since the session is here.
    told: Vec<Told>,
    owes_caught_up: bool,
    /// Told `behind`, and not `caught_up` yet.
    is_behind: bool,
    style: Style,
    reading: Option<Reading>,
    pub(super) retry_at: Option<Time>,
    /// When the client last did something about `listed`.
    progress_at: Time,
    life: Life,
}

/// When a client was told to sync a conversation.
#[derive(Clone, Copy, Debug)]
struct Told {
    conversation: ConversationId,
    /// The head that it was told.
    head_seq: Seq,
    /// What was asked for since has a higher number.
    request: u64,
}

/// How pages are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// As `sync_batch` frames.
    Batches,
    /// As the frames that would have come live.
    Live,
}

/// What a `reset` says.
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) id: Option<FrameId>,
    pub(super) conversation: ConversationId,
    pub(super) first_seq: Seq,
    pub(super) head_seq: Seq,
    pub(super) reason: &'static str,
}

/// The page that was asked for.
#[derive(Clone, Copy, Debug)]
struct Reading {
    request: u64,
    conversation: ConversationId,
    to_seq: Seq,
    route: Route,
}

impl CatchingUp {
    pub(super) fn new(
        plan: Plan,
        listed: Vec<(ConversationId, Seq)>,
        owes_caught_up: bool,
        style: Style,
        life: Life,
    ) -> CatchingUp {
        CatchingUp {
            plan,
            is_behind: !listed.is_empty(),
            listed,
            told: Vec::new(),
            owes_caught_up,
            style,
            reading: None,
            retry_at: None,
            progress_at: Time(0),
            life,
        }
    }

    pub(super) fn since(self, now: Time) -> CatchingUp {
        CatchingUp { progress_at: now, ..self }
    }

    /// What the session was, for when it registers again.
    pub(super) fn into_cause(self, moment: impl FnOnce(Life) -> Moment) -> Cause {
        let CatchingUp { plan, listed, owes_caught_up, style, life, .. } = self;
        let before = Before { moment: moment(life), open: plan.into_open(), listed };
        Cause::Again { before, owes_caught_up, style }
    }

    /// The router on whose lane its events come.
    pub(super) fn home(&self) -> Peer {
        self.life.router
    }

    /// Gives up waiting for the page if it was asked for in a way that is `meant`.
    pub(super) fn unask(&mut self, is_meant: impl FnOnce(Slot, Route) -> bool) {
        self.reading.take_if(|reading| is_meant(slot_of_conversation(reading.conversation), reading.route));
    }

    /// How the page was asked for, if this is its request.
    pub(super) fn asked(&self, request: u64) -> Option<(Slot, Route)> {
        let reading = self.reading.filter(|reading| reading.request == request)?;
        Some((slot_of_conversation(reading.conversation), reading.route))
    }

    /// When the client last did something about being behind, while it is.
    pub(super) fn behind_since(&self) -> Option<Time> {
        (!self.listed.is_empty()).then_some(self.progress_at)
    }

    fn is_listed(&self, conversation: ConversationId) -> bool {
        self.listed.binary_search_by_key(&conversation, |(other, _)| *other).is_ok()
    }

    /// Takes it off the list; returns the last seq that came live meanwhile.
    fn unlist(&mut self, conversation: ConversationId) -> Option<Seq> {
        let place = self.listed.binary_search_by_key(&conversation, |(other, _)| *other).ok()?;
        self.told.retain(|told| told.conversation != conversation);
        Some(self.listed.remove(place).1)
    }

    /// Whether a page with this head, by this request, may have been read before the client was told to sync the
    /// conversation, and end below what it had by then. (Of a user who left, no page goes as far as others have heard.)
    fn is_older(&self, conversation: ConversationId, head_seq: Seq, request: u64) -> bool {
        let told = self.told.iter().find(|told| told.conversation == conversation);
        told.is_some_and(|told| request < told.request && head_seq < told.head_seq)
    }
}

/// What becomes of a `Deliver`.
pub(super) enum Way {
    /// It is in a page later, ours or one that the client asks for.
    Later,
    /// It is to be pushed now.
    Live,
}

impl CatchingUp {
    /// What becomes of a `Deliver` of this position, by which the client's user joins, perhaps. Who comes back to a
    /// conversation that is not brought yet, or that live pushes have stopped for, drops it first.
    pub(super) fn way(&mut self, conversation: ConversationId, seq: Seq, joining: Option<Joining>) -> Way {
        if let Some(joining) = joining.filter(|joining| joining.is_returning) {
            let is_new = match self.plan.open(conversation) {
                // Later than its standing, or in what is to be brought anyway.
                Some(entry) => entry.target < seq,
                None => !self.listed.is_empty(),
            };
            if is_new {
                self.unlist(conversation);
                self.plan.begin_anew(conversation, joining.first_seq, seq);
                return Way::Later;
            }
        }
        let place = self.listed.binary_search_by_key(&conversation, |(other, _)| *other).ok();
        if let Some((_, last)) = place.and_then(|place| self.listed.get_mut(place)) {
            *last = (*last).max(seq);
            return Way::Later;
        }
        match self.plan.open(conversation) {
            Some(entry) => {
                entry.raise(seq);
                Way::Later
            }
            None => Way::Live,
        }
    }
}

impl Session {
    /// Goes on bringing what is missed, as far as there is room.
    pub(super) fn advance(&mut self, line: &mut Line, common: &mut Common) {
        loop {
            let Stage::CatchingUp(catching_up) = &mut self.stage else { return };
            let is_waiting = catching_up.reading.is_some() || !catching_up.listed.is_empty();
            if is_waiting || line.closing.is_some() {
                return;
            }
            let next = catching_up.plan.next();
            if next.is_some() && !line.has_room_for_page(common) {
                return;
            }
            match next {
                None => {
                    let life = catching_up.life;
                    if catching_up.owes_caught_up {
                        line.say(common, &ServerFrame::CaughtUp);
                    }
                    self.stage = Stage::Live(life);
                    return;
                }
                Some(entry @ Entry { how: How::Reset(reason), conversation, target, .. }) => {
                    let reset =
                        Reset { id: None, conversation, first_seq: entry.next, head_seq: target, reason };
                    self.say_reset(reset, line, common);
                    self.placed(conversation, target, entry.fanned_out, entry.fanned_out >= target, common);
                }
                Some(Entry { conversation, next, target, .. }) => {
                    let Some(route) = common.owners.route_of_conversation(conversation) else { return };
                    if catching_up.retry_at.is_some_and(|at| at > common.now) {
                        return;
                    }
                    catching_up.retry_at = None;
                    let request = common.request();
                    catching_up.reading = Some(Reading { request, conversation, to_seq: target, route });
                    let read = Read {
                        session: line.id.as_u64(),
                        request,
                        user: self.user,
                        conversation,
                        from_seq: next,
                        to_seq: target,
                        limit: PAGE_EVENTS_MAX,
                        newest_first: false,
                        messages_only: false,
                    };
                    common.link(route.router, &read);
                    return;
                }
            }
        }
    }

    /// Tells the client to drop what it holds of a conversation. A command that waits, and turns out to have taken a seq
    /// that the reset covers, fills nothing any more: the client fetches the event.
    pub(super) fn say_reset(&mut self, reset: Reset, line: &mut Line, common: &mut Common) {
        let Reset { id, conversation, first_seq, head_seq, reason } = reset;
        for asked in self.work.iter_mut().flat_map(|work| &mut work.asked) {
            if asked.conversation() == Some(conversation) {
                asked.reset_seq = asked.reset_seq.max(head_seq);
            }
        }
        common.counters.resets += 1;
        line.say(common, &ServerFrame::Reset { id, conversation, first_seq, head_seq, reason });
    }

    /// The client has a conversation up to `seq`: its place in the plan is done. `is_exact`: nothing above is for it, and
    /// everything up to there was handed on.
    fn placed(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        fanned_out: Seq,
        is_exact: bool,
        common: &mut Common,
    ) {
        if let Stage::CatchingUp(catching_up) = &mut self.stage {
            catching_up.plan.done(conversation);
        }
        self.work.get_or_insert_default().placed(conversation, seq, fanned_out);
        if let Some(home) = self.home() {
            common.tails(home).note(conversation, seq.min(fanned_out), is_exact);
        }
    }

    /// Takes the page that the plan waits for; `false`: it waits for another.
    pub(super) fn plan_page(&mut self, page: &ArchivedPage, line: &mut Line, common: &mut Common) -> bool {
        let Stage::CatchingUp(catching_up) = &mut self.stage else { return false };
        let request = page.request.to_native();
        let Some(reading) = catching_up.reading.filter(|reading| reading.request == request) else {
            return false;
        };
        catching_up.reading = None;
        let style = catching_up.style;
        let conversation = reading.conversation;
        let told = (reading.route, page.fanned_out_seq.to_native());
        let fanned_out = fanned_out(catching_up.life.router, conversation, told, common);
        let (head_seq, first_seq) = (page.head_seq.to_native(), page.first_seq.to_native());
        // A conversation that is to be dropped meanwhile needs no page.
        let Some(entry) = catching_up.plan.open(conversation).filter(|entry| entry.how == How::Pages) else {
            return true;
        };
        entry.fanned_out = entry.fanned_out.max(fanned_out);
        let Entry { next, target, fanned_out, is_first, .. } = *entry;

        if is_first && self.returns_by(page, next) {
            if let Stage::CatchingUp(catching_up) = &mut self.stage {
                catching_up.plan.reset(conversation, first_seq, head_seq, "membership");
            }
            return true;
        }
        let receipts = render::receipts(page);
        let mut events = Vec::with_capacity(page.entries.len());
        let mut last = next.saturating_sub(1);
        for stored in page.entries.iter() {
            let seq = stored.seq.to_native();
            if seq < next {
                continue;
            }
            if seq != last + 1 || seq > target {
                break;
            }
            last = seq;
            let Some(event) = Event::decode(&stored.record) else {
                common.counters.unreadable += 1;
                continue;
            };
            if !self.is_filled(conversation, seq, &event, None, false, line, common) {
                let marks = render::marks(&receipts);
                events.push(render::event_frame(conversation, seq, head_seq, &event, self.user, marks));
            }
        }
        if last < next {
            // Nothing where something should be: the log was cut at either end.
            let reason = if head_seq < next { "cursor_ahead" } else { "retention" };
            if let Stage::CatchingUp(catching_up) = &mut self.stage {
                catching_up.plan.reset(conversation, first_seq, head_seq, reason);
            }
            return true;
        }
        common.counters.events_paged += events.len() as u64;
        match style {
            Style::Live => {
                for event in events {
                    line.say(common, &ServerFrame::Event(event));
                }
            }
            Style::Batches if events.is_empty() => {}
            Style::Batches => {
                render::react(&mut events, &page.reacted);
                let mut rest = Some(SyncBatch {
                    id: None,
                    conversation,
                    events,
                    from_seq: next,
                    to_seq: last,
                    head_seq,
                    has_more: last < target,
                    receipts,
                });
                while let Some(batch) = rest {
                    let (bytes, cut) = render::batch(line.wire, batch, &mut common.scratch);
                    common.counters.said_shared(Shared::SyncBatch);
                    line.answer(common, bytes);
                    rest = cut;
                }
            }
        }
        // Who was removed meanwhile sees less than was aimed at.
        let is_cut = head_seq < reading.to_seq && last >= head_seq;
        if last >= target || is_cut {
            let is_exact = last >= head_seq && fanned_out >= head_seq;
            self.placed(conversation, last, fanned_out, is_exact, common);
        } else {
            self.work.get_or_insert_default().early.passed(conversation, last);
            if let Stage::CatchingUp(catching_up) = &mut self.stage
                && let Some(entry) = catching_up.plan.open(conversation)
            {
                entry.next = last + 1;
            }
        }
        true
    }

    /// Whether the page begins with the event by which the user came back: what they hold ends before it.
    fn returns_by(&self, page: &ArchivedPage, seq: Seq) -> bool {
        let Some(first) = page.entries.first().filter(|first| first.seq == seq) else { return false };
        let event = Event::decode(&first.record);
        let joining = event.and_then(|event| Joining::of(&event, seq, self.user));
        joining.is_some_and(|joining| joining.is_returning && joining.first_seq == seq)
    }

    /// The router could not read the page that the plan waits for; `false`: it waits for another.
    pub(super) fn plan_refused(&mut self, request: u64, refusal: &Refusal, common: &Common) -> bool {
        let Stage::CatchingUp(catching_up) = &mut self.stage else { return false };
        let Some(reading) = catching_up.reading.filter(|reading| reading.request == request) else {
            return false;
        };
        catching_up.reading = None;
        if refusal.code.row().retryable {
            let wait_ms = refusal.retry_after_ms.unwrap_or(RETRY_MS).max(RETRY_MS);
            catching_up.retry_at = Some(common.now.after_ms(wait_ms));
        } else if catching_up.plan.open(reading.conversation).is_some_and(|entry| entry.how == How::Pages) {
            // Nothing of it is for this user.
            catching_up.plan.done(reading.conversation);
        }
        true
    }

    /// A live push did not fit: the conversation, whose next event is `seq`, is brought in another way.
    pub(super) fn overflow(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        head_seq: Seq,
        line: &mut Line,
        common: &mut Common,
    ) {
        match &mut self.stage {
            Stage::CatchingUp(catching_up) => {
                if catching_up.plan.len() >= PLAN_MAX {
                    line.close(Close::SlowConsumer);
                }
                catching_up.plan.page_from(conversation, seq, seq);
            }
            Stage::Live(_) => self.fall_behind(conversation, seq, head_seq, line, common),
            _ => {}
        }
    }

    /// Tells the client to sync a conversation itself. `seq` came live, or is 0.
    pub(super) fn fall_behind(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        head_seq: Seq,
        line: &mut Line,
        common: &mut Common,
    ) {
        if let Stage::Live(life) = self.stage {
            let catching_up = CatchingUp::new(Plan::default(), Vec::new(), true, Style::Batches, life);
            self.stage = Stage::CatchingUp(Box::new(catching_up.since(common.now)));
        }
        let Stage::CatchingUp(catching_up) = &mut self.stage else { return };
        let Err(place) = catching_up.listed.binary_search_by_key(&conversation, |(other, _)| *other) else {
            return;
        };
        if catching_up.listed.len() >= BEHIND_MAX {
            line.close(Close::SlowConsumer);
            return;
        }
        catching_up.listed.insert(place, (conversation, seq));
        let ahead_seq = self.work.as_ref().and_then(|work| work.ahead_of(conversation));
        let tail_seq = common.tails(catching_up.life.router).tail(conversation);
        // What fell out may stand below what came live meanwhile: a page up to there would not be all.
        let head_seq = head_seq.max(ahead_seq.max(tail_seq).unwrap_or(0));
        catching_up.told.push(Told { conversation, head_seq, request: common.request() });
        (catching_up.owes_caught_up, catching_up.is_behind) = (true, true);
        common.counters.behinds += 1;
        line.say(common, &ServerFrame::Behind { conversations: vec![(conversation, head_seq)] });
    }

    /// Whether live pushes have stopped.
    pub(super) fn is_behind(&self) -> bool {
        matches!(&self.stage, Stage::CatchingUp(catching_up) if catching_up.is_behind)
    }

    /// Whether a page of ours has brought this position to the client, and its `Deliver` is still to come.
    pub(super) fn is_paged(&mut self, conversation: ConversationId, seq: Seq) -> bool {
        let is_ahead =
            self.work.as_ref().and_then(|work| work.ahead_of(conversation)).is_some_and(|last| seq <= last);
        let is_before = match &mut self.stage {
            Stage::CatchingUp(catching_up) => catching_up
                .plan
                .open(conversation)
                .is_some_and(|entry| entry.how == How::Pages && seq < entry.next),
            _ => false,
        };
        is_ahead || is_before
    }

    /// Whether the client is to fetch this conversation, or to drop it: it is not known here what it has of it.
    pub(super) fn is_unknown(&mut self, conversation: ConversationId) -> bool {
        let Stage::CatchingUp(catching_up) = &mut self.stage else { return false };
        let open = catching_up.plan.open(conversation);
        let is_reset = open.is_some_and(|entry| matches!(entry.how, How::Reset(_)));
        is_reset || catching_up.is_listed(conversation)
    }

    /// The client has a conversation up to its head, by the page of this request, or because it was told to drop it.
    pub(super) fn synced(
        &mut self,
        conversation: ConversationId,
        request: u64,
        head_seq: Seq,
        fanned_out: Seq,
        common: &mut Common,
    ) {
        let Stage::CatchingUp(catching_up) = &mut self.stage else { return };
        // A head of 0: no member any more, so nothing is left.
        if head_seq > 0 && catching_up.is_older(conversation, head_seq, request) {
            return;
        }
        let Some(last) = catching_up.unlist(conversation) else { return };
        let last = if head_seq == 0 { 0 } else { last };
        let fanned_out = if head_seq == 0 { 0 } else { fanned_out.max(last) };
        catching_up.progress_at = common.now;
        self.work.get_or_insert_default().placed(conversation, head_seq, fanned_out);
        let home = catching_up.life.router;
        common.tails(home).note(conversation, head_seq.min(fanned_out), fanned_out >= head_seq);
        // What came while it was listed, and is newer than what was read, is brought by us.
        if last > head_seq
            && let Stage::CatchingUp(catching_up) = &mut self.stage
        {
            catching_up.plan.page_from(conversation, head_seq + 1, last);
        }
    }

    /// The client works on being behind.
    pub(super) fn sync_progress(&mut self, conversation: ConversationId, now: Time) {
        if let Stage::CatchingUp(catching_up) = &mut self.stage
            && catching_up.is_listed(conversation)
        {
            catching_up.progress_at = now;
        }
    }
}

/// Up to where `Deliver` frames came already on the lane of a session's home, when a page came by this route and says this.
/// What another router's lane says about that one is nothing; what came on it is known here.
pub(super) fn fanned_out(
    home: Peer,
    conversation: ConversationId,
    (route, told): (Route, Seq),
    common: &mut Common,
) -> Seq {
    if route.router == home { told } else { common.tails(home).tail(conversation).unwrap_or(0) }
}
