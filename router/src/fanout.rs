//! What is committed is handed on: each event of a conversation, in the order of its log, to every lane on which a
//! member hears.
//!
//! A conversation with something due has a log here: the next seq to hand on, the known head, and a bounded tail of
//! what was committed lately, so that the usual case reads no store. Whatever the tail does not hold (a start, an
//! overflow, an unknown outcome) is read. When a conversation was handed on up to its head and rested a while, the
//! store's durable marker is cleared and its state here is dropped.
//!
//! # Invariants
//! - Events of a conversation leave in seq order, each once, none skipped (G6).
//! - [`Fanout::sent_seq`] never claims a `Deliver` that is not on its lane yet.
//! - A marker is cleared only after everything below it was handed on, so a restart hands on the rest (F5, G7).
//! - A turn hands on a bounded amount, in turn over all conversations: an ack never waits for a crowd, nor one
//!   conversation for another (F13, F21).

mod log;
mod members;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use carillon_protocol::frame::Deliver;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::{CONTENT_BYTES_MAX, LINK_FRAME_BYTES_MAX, MEDIA_URL_BYTES_MAX};
use carillon_protocol::time::Time;
use carillon_store::verb::{Appended, Entry, Op, Query};

use crate::batch::{Batches, Origin, Waiter};
use crate::meters::{Metric, nanos};
use crate::outbox::{Asked, Outbox};
use crate::registry::Registry;
use log::{Log, Recent};
use members::MembersCache;

/// How long a conversation rests before its marker is cleared.
pub const REST_MS: u64 = 1_000;
/// A conversation that never rests has its marker moved after so many events, so that a restart repeats no more.
pub const MARK_EVENTS: u64 = 1_024;
/// Events read from the store at a time: with events at their largest and all questions open, some 160 MB.
pub const EVENTS_READ_MAX: u32 = 32;
/// Events of one conversation handed on before the next one has its turn.
pub const VISIT_EVENTS_MAX: usize = 16;
/// What a `Deliver` frame costs of a turn's budget, in users looked at.
pub const FRAME_COST: usize = 8;
/// Bytes of records in all tails. Beyond: the record is read from the store again when its turn comes.
pub const TAIL_BYTES_MAX: usize = 64 << 20;
/// Events in all tails. Beyond: an event is not remembered at all; its sender's gateway is not told which session it
/// came from and knows it by its seq.
pub const TAIL_EVENTS_MAX: usize = 262_144;
/// How soon something that the store could not answer is asked again.
pub const RETRY_MS: u64 = 100;
/// When the markers are read after an unknown outcome, in milliseconds: soon, and once more when even a late commit
/// has come to its end (a FoundationDB transaction lives five seconds).
pub const RECHECKS_MS: [u64; 2] = [1_000, 10_000];
/// Users on one `Deliver` frame. Beyond: several frames, for distinct users.
pub const DELIVER_USERS_MAX: usize = 16_384;

const _: () = assert!(
    DELIVER_USERS_MAX * 8 + CONTENT_BYTES_MAX + MEDIA_URL_BYTES_MAX + 16_384 < LINK_FRAME_BYTES_MAX,
    "the longest Deliver fits a link frame"
);

/// See the module.
pub struct Fanout {
    logs: BTreeMap<ConversationId, Log>,
    due: VecDeque<ConversationId>,
    /// Due, but too many questions are open: back in the queue when there is room for more.
    starved: VecDeque<ConversationId>,
    timers: BTreeSet<(Time, ConversationId)>,
    members: MembersCache,
    tail_bytes: usize,
    tail_events: usize,
    /// Whether the markers of the life before are known. Nothing is handed on earlier.
    is_started: bool,
    is_asking_markers: bool,
    /// When to read the markers, rising.
    rechecks: VecDeque<Time>,
    /// What a turn may spend, in users looked at.
    turn_users_max: usize,
    is_draining: bool,
}

impl Fanout {
    /// Nothing due yet; the first turn asks for the markers.
    #[must_use]
    pub fn new(turn_users_max: usize) -> Fanout {
        Fanout {
            logs: BTreeMap::new(),
            due: VecDeque::new(),
            starved: VecDeque::new(),
            timers: BTreeSet::new(),
            members: MembersCache::default(),
            tail_bytes: 0,
            tail_events: 0,
            is_started: false,
            is_asking_markers: false,
            rechecks: VecDeque::from([Time(0)]),
            turn_users_max: turn_users_max.max(1),
            is_draining: false,
        }
    }

    /// An event is definitely committed.
    pub fn committed(&mut self, now: Time, appended: Appended, origin: Option<Origin>) {
        let Appended { conversation, seq, record, members_version, .. } = appended;
        // Without state everything below is handed on; before the start nobody knows.
        let next = self.is_started.then_some(seq);
        let log = self.logs.entry(conversation).or_insert_with(|| Log::new(next));
        log.head = log.head.max(seq);
        log.first_seen.get_or_insert(seq);
        log.version_seen = log.version_seen.max(members_version);
        log.members_version = log.members_version.map(|version| version.max(members_version)).or_else(|| {
            // A log that was never read has nothing of unknown version below this event.
            (log.next == Some(seq) && !log.exploring && !log.is_suspect).then_some(members_version)
        });
        if self.tail_events < TAIL_EVENTS_MAX {
            let fits = self.tail_bytes + record.len() <= TAIL_BYTES_MAX;
            let record = if fits { record } else { Bytes::new() };
            self.tail_bytes += record.len();
            self.tail_events += 1;
            log.tail.push_back(Recent { seq, record, origin, since: now });
        }
        self.queue(conversation);
    }

    /// An operation on this conversation may or may not be committed, now or later: what its log holds is read until
    /// that is certain.
    pub fn suspect(&mut self, now: Time, conversation: ConversationId) {
        let log = self.logs.entry(conversation).or_insert_with(|| Log::new(None));
        log.is_suspect = true;
        log.members_version = None;
        for millis in RECHECKS_MS {
            let at = now.after_ms(millis);
            // One reading serves all suspects of a while.
            if self.rechecks.back().is_none_or(|last| last.after_ms(RECHECKS_MS[0] / 2) < at) {
                self.rechecks.push_back(at);
            }
        }
    }

    /// The store told the markers: (conversation, first seq not known to be handed on). `None`: ask again.
    pub fn markers(&mut self, now: Time, markers: Option<Vec<(ConversationId, Seq)>>) {
        self.is_asking_markers = false;
        let Some(markers) = markers else {
            self.rechecks.push_front(now.after_ms(RETRY_MS));
            return;
        };
        for (conversation, first) in markers {
            let log = self.logs.entry(conversation).or_insert_with(|| Log::new(None));
            if log.next.is_none() || log.is_suspect {
                log.next.get_or_insert(first);
                log.exploring = true;
                self.queue(conversation);
            }
        }
        self.is_started = true;
        let is_last = self.rechecks.is_empty();
        let unsettled: Vec<ConversationId> = self
            .logs
            .iter()
            .filter(|(_, log)| log.next.is_none() || log.is_suspect)
            .map(|(conversation, _)| *conversation)
            .collect();
        for conversation in unsettled {
            self.settle(now, conversation, is_last);
        }
    }

    /// The store told events from the next one on. `None`: ask again.
    pub fn events(
        &mut self,
        now: Time,
        conversation: ConversationId,
        entries: Option<Vec<Entry>>,
        outbox: &mut Outbox,
    ) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        log.is_asking = false;
        let Some(entries) = entries else {
            self.arm(conversation, now.after_ms(RETRY_MS));
            return;
        };
        match entries.last() {
            Some(last) => log.head = log.head.max(last.seq),
            None if log.exploring => log.exploring = false,
            None => outbox.fail(format!(
                "the store shows no event {} of conversation {conversation}, whose head is {}: acknowledged data is missing",
                log.next.unwrap_or(0),
                log.head
            )),
        }
        log.fetched = entries.into();
        self.queue(conversation);
    }

    /// The store told who hears a conversation. `None`: ask again.
    pub fn members(
        &mut self,
        now: Time,
        conversation: ConversationId,
        answer: Option<(u64, Vec<(UserId, Seq)>)>,
    ) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        log.is_asking = false;
        let Some((version, members)) = answer else {
            self.arm(conversation, now.after_ms(RETRY_MS));
            return;
        };
        // The snapshot may be older than what was committed while it was read: then this list is asked for again.
        log.members_version = Some(version.max(log.version_seen));
        self.members.insert(conversation, version, members);
        self.queue(conversation);
    }

    /// The store's marker was moved above `seq`, or was not.
    pub fn marked(
        &mut self,
        now: Time,
        conversation: ConversationId,
        seq: Seq,
        is_done: bool,
        outbox: &Outbox,
    ) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        log.is_marking = false;
        if is_done {
            log.marked = log.marked.max(seq);
        }
        if !self.drop_if_done(conversation, outbox) {
            self.arm(conversation, now.after_ms(REST_MS));
        }
    }

    /// Hands on what a turn may.
    pub fn advance(
        &mut self,
        now: Time,
        registry: &mut Registry,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) {
        if !self.is_asking_markers && self.rechecks.front().is_some_and(|at| *at <= now) {
            self.rechecks.pop_front();
            self.is_asking_markers = outbox.ask(Asked::Markers, Query::Markers).is_ok();
        }
        while let Some((_, conversation)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            self.on_timer(now, conversation, batches, outbox);
        }
        if !self.is_started {
            return;
        }
        let fed_count = self.starved.len().min(outbox.fanout_room());
        self.due.extend(self.starved.drain(..fed_count));
        let mut users_left = self.turn_users_max;
        while users_left > 0 {
            let Some(conversation) = self.due.pop_front() else { break };
            let users = self.visit(now, conversation, registry, batches, outbox);
            users_left = users_left.saturating_sub(users.max(1));
        }
    }

    /// `Deliver` frames up to this seq are on their lanes. `head` is what a snapshot showed, `appending` how many
    /// operations in flight that snapshot may show already.
    #[must_use]
    pub fn sent_seq(&self, conversation: ConversationId, head: Seq, appending: u64) -> Seq {
        match self.logs.get(&conversation) {
            Some(log) => log.next.map_or(0, |next| next - 1),
            None if self.is_started => head.saturating_sub(appending),
            None => 0,
        }
    }

    /// Whether a `Deliver` of this conversation went to this user, were they listed: false only for those who are
    /// known to be no member.
    #[must_use]
    pub fn may_hear(&self, conversation: ConversationId, user: UserId) -> bool {
        self.members.contains(conversation, user).unwrap_or(true)
    }

    /// When [`Fanout::advance`] has something to do; `now` when it has already.
    #[must_use]
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let due = (self.is_started && !self.due.is_empty()).then_some(now);
        let timer = self.timers.first().map(|(at, _)| *at);
        let recheck = self.rechecks.front().copied().filter(|_| !self.is_asking_markers);
        [due, timer, recheck].into_iter().flatten().min()
    }

    /// Clears markers without waiting for rest, so that the next start has nothing to repeat.
    pub fn drain(&mut self, now: Time) {
        self.is_draining = true;
        let all: Vec<ConversationId> = self.logs.keys().copied().collect();
        for conversation in all {
            self.arm(conversation, now);
        }
    }

    /// Whether everything known is handed on and marked. What is suspect stays for the next start's markers.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
            && self.starved.is_empty()
            && self.logs.values().all(|log| log.is_settled() || log.is_suspect)
    }

    /// Conversations that wait for their turn.
    #[must_use]
    pub fn due_count(&self) -> usize {
        self.due.len() + self.starved.len()
    }

    /// Conversations with state.
    #[must_use]
    pub fn logs_count(&self) -> usize {
        self.logs.len()
    }

    /// One conversation's turn; returns what it cost, in users looked at.
    fn visit(
        &mut self,
        now: Time,
        conversation: ConversationId,
        registry: &mut Registry,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) -> usize {
        let Some(log) = self.logs.get_mut(&conversation) else { return 0 };
        log.is_queued = false;
        let mut users_count = 0;
        for _ in 0..VISIT_EVENTS_MAX {
            let Some(next) = log.next.filter(|_| !log.is_asking) else { return users_count };
            if next > log.head && !log.exploring {
                self.rest(now, conversation, batches, outbox);
                return users_count;
            }
            let (bytes, events) = log.forget_before(next);
            self.tail_bytes -= bytes;
            self.tail_events -= events;
            let Some(record) = log.record_at(next) else {
                let query = Query::Events { conversation, from_seq: next, limit: EVENTS_READ_MAX };
                self.ask(conversation, Asked::Events(conversation), query, outbox);
                return users_count;
            };
            let listening = log
                .members_version
                .and_then(|version| self.members.listening(conversation, version, next, registry, outbox));
            let Some(listening) = listening else {
                self.ask(conversation, Asked::Members(conversation), Query::Members { conversation }, outbox);
                return users_count;
            };
            users_count += listening.users_looked_at + FRAME_COST * listening.groups.len();
            let recent = log.tail.front().filter(|recent| recent.seq == next);
            if let Some(recent) = recent {
                outbox.meter.observe(Metric::DeliverTime, nanos(now.since(recent.since)));
            }
            let origin = recent.and_then(|recent| recent.origin);
            let head = log.head.max(next);
            let mut deliver = Deliver {
                conversation,
                seq: next,
                head_seq: head,
                origin_session: 0,
                origin_request: 0,
                users: Vec::new(),
                record: if listening.groups.is_empty() { Vec::new() } else { record.to_vec() },
            };
            for (lane, users) in listening.groups {
                let own = origin.filter(|origin| origin.lane == *lane && origin.session != 0);
                deliver.origin_session = own.map_or(0, |origin| origin.session);
                deliver.origin_request = own.map_or(0, |origin| origin.request);
                for users in users.chunks(DELIVER_USERS_MAX) {
                    deliver.users = users.to_vec();
                    outbox.send(*lane, &deliver);
                    outbox.meter.add(Metric::Delivers, 1);
                }
            }
            log.next = Some(next + 1);
            log.handed_on_at = now;
            log.handed_on_before = outbox.next_ticket();
        }
        self.queue(conversation);
        if self.logs.get(&conversation).is_some_and(Log::is_marked_long_ago) {
            self.mark(now, conversation, batches, outbox);
        }
        users_count
    }

    /// Everything known of a conversation is handed on.
    fn rest(&mut self, now: Time, conversation: ConversationId, batches: &mut Batches, outbox: &mut Outbox) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        if log.is_marked_long_ago() || self.is_draining {
            self.mark(now, conversation, batches, outbox);
        } else {
            self.arm(conversation, now.after_ms(REST_MS));
        }
    }

    fn on_timer(
        &mut self,
        now: Time,
        conversation: ConversationId,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        log.timer = None;
        let rested_at = log.handed_on_at.after_ms(REST_MS);
        if log.next.is_none_or(|next| next <= log.head) || log.exploring {
            self.queue(conversation);
        } else if now < rested_at && !self.is_draining {
            self.arm(conversation, rested_at);
        } else if !self.drop_if_done(conversation, outbox) {
            self.mark(now, conversation, batches, outbox);
        }
    }

    /// Has the store's marker moved above what was handed on.
    fn mark(&mut self, now: Time, conversation: ConversationId, batches: &mut Batches, outbox: &mut Outbox) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        let seq = log.next.map_or(0, |next| next - 1);
        if log.is_marking {
            return;
        }
        if seq > log.marked && !outbox.is_failed() {
            let op = Op::FannedOut { conversation, seq };
            log.is_marking = batches.offer(now, op, Waiter::FanOut(conversation, seq)).is_ok();
        }
        if !log.is_marking {
            self.arm(conversation, now.after_ms(REST_MS));
        }
    }

    /// Forgets a conversation of which nothing is left to do, unless an open question may know less than was handed
    /// on: its answer has to be raised to that.
    fn drop_if_done(&mut self, conversation: ConversationId, outbox: &Outbox) -> bool {
        let Some(log) = self.logs.get_mut(&conversation) else { return true };
        let is_done = log.is_settled()
            && !log.is_suspect
            && !self.is_asking_markers
            && outbox.is_answered_before(log.handed_on_before);
        if is_done {
            let (bytes, events) = log.forget_before(Seq::MAX);
            self.tail_bytes -= bytes;
            self.tail_events -= events;
            if let Some(at) = log.timer.take() {
                self.timers.remove(&(at, conversation));
            }
            self.logs.remove(&conversation);
        }
        is_done
    }

    /// The markers were read: decides what is known of a log without a place, or a suspect one.
    fn settle(&mut self, now: Time, conversation: ConversationId, is_last: bool) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        if log.next.is_none() && !log.is_suspect {
            // No marker when the router began: what was committed since is all there is.
            log.next = log.first_seen;
            self.queue(conversation);
            return;
        }
        if !is_last {
            return;
        }
        if log.next.is_some() {
            log.is_suspect = false;
            log.exploring = true;
            self.queue(conversation);
        } else if log.head == 0 {
            self.logs.remove(&conversation);
        } else {
            // Committed events, yet no marker: the reading was older than they are.
            self.rechecks.push_back(now.after_ms(RECHECKS_MS[0]));
        }
    }

    fn ask(&mut self, conversation: ConversationId, asked: Asked, query: Query, outbox: &mut Outbox) {
        let is_asking = outbox.ask(asked, query).is_ok();
        if let Some(log) = self.logs.get_mut(&conversation) {
            log.is_asking = is_asking;
        }
        if !is_asking {
            self.starve(conversation);
        }
    }

    /// Too many questions are open: the conversation waits until there is room for its own.
    fn starve(&mut self, conversation: ConversationId) {
        if let Some(log) = self.logs.get_mut(&conversation) {
            log.is_queued = true;
            self.starved.push_back(conversation);
        }
    }

    fn queue(&mut self, conversation: ConversationId) {
        if let Some(log) = self.logs.get_mut(&conversation)
            && !log.is_queued
            && !log.is_asking
        {
            log.is_queued = true;
            self.due.push_back(conversation);
        }
    }

    fn arm(&mut self, conversation: ConversationId, at: Time) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        if let Some(armed) = log.timer.filter(|armed| *armed > at) {
            self.timers.remove(&(armed, conversation));
            log.timer = None;
        }
        if log.timer.is_none() {
            log.timer = Some(at);
            self.timers.insert((at, conversation));
        }
    }
}
