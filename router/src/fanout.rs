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
//! - Each hears from the event by which they joined to the event by which they left (G11).

mod log;
mod members;
mod visit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, LINK_FRAME_BYTES_MAX, MEDIA_URL_BYTES_MAX, SMALL_GROUP_MEMBERS_MAX,
};
use carillon_protocol::time::Time;
use carillon_store::verb::{Appended, Entry, Hearer, Incarnation, Op, Query};

use crate::batch::{Batches, Origin, Waiter};
use crate::cluster::Cluster;
use crate::cluster::table::SlotSet;
use crate::outbox::{Asked, Outbox};
use crate::registry::Registry;
use crate::settings::FanoutSettings;
use log::{Crowd, Log, Recent};
use members::{Hears, MembersCache};
pub(crate) use visit::note_late;

/// How long a conversation rests before its marker is cleared.
pub const REST_MS: u64 = 1_000;
/// A conversation that never rests has its marker moved after so many events, so that a restart repeats no more.
pub const MARK_EVENTS: u64 = 1_024;
/// Events read from the store at a time: with events at their largest and all questions open, some 160 MB.
pub const EVENTS_READ_MAX: u32 = 32;
/// Events of one conversation of few handed on before the next one has its turn; of a larger one, one.
pub const VISIT_EVENTS_MAX: usize = 16;
/// In one of so many turns each crowd is visited even when smaller conversations take all of it.
pub const FAIR_TURNS: u64 = 8;
/// Users on `Deliver` frames who cost as much as one user looked at.
pub const TOLD_COST: usize = 16;
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
    /// By [`Crowd`].
    due: [VecDeque<ConversationId>; 3],
    /// Due, but too many questions are open: back in the queue when there is room for more.
    starved: VecDeque<ConversationId>,
    timers: BTreeSet<(Time, ConversationId)>,
    members: MembersCache,
    tail_bytes: usize,
    tail_events: usize,
    /// Whether the markers of the life before are known. Nothing is handed on earlier.
    is_started: bool,
    /// Slots whose markers are known.
    known: SlotSet,
    /// Those that the open question about markers is for.
    asking_markers: Option<SlotSet>,
    logs_ever: u64,
    /// When to read the markers, rising.
    rechecks: VecDeque<Time>,
    settings: FanoutSettings,
    turns_count: u64,
    is_draining: bool,
}

impl Fanout {
    /// Nothing due yet; the first turn asks for the markers.
    #[must_use]
    pub fn new(settings: FanoutSettings) -> Fanout {
        Fanout {
            logs: BTreeMap::new(),
            due: Default::default(),
            starved: VecDeque::new(),
            timers: BTreeSet::new(),
            members: MembersCache::default(),
            tail_bytes: 0,
            tail_events: 0,
            is_started: false,
            known: SlotSet::new([]),
            asking_markers: None,
            logs_ever: 0,
            rechecks: VecDeque::from([Time(0)]),
            settings: FanoutSettings { turn_users_max: settings.turn_users_max.max(1), ..settings },
            turns_count: 0,
            is_draining: false,
        }
    }

    /// An event is definitely committed.
    pub fn committed(&mut self, now: Time, appended: Appended, origin: Option<Origin>) {
        let Appended { conversation, seq, record, members_version, .. } = appended;
        // Without state everything below is handed on; before the start nobody knows.
        let next = self.known.has_conversation(conversation).then_some(seq);
        let log = open(&mut self.logs, &mut self.logs_ever, conversation, next);
        log.head = log.head.max(seq);
        log.first_seen.get_or_insert(seq);
        if self.tail_events < TAIL_EVENTS_MAX {
            let fits = self.tail_bytes + record.len() <= TAIL_BYTES_MAX;
            let record = if fits { record } else { Bytes::new() };
            self.tail_bytes += record.len();
            self.tail_events += 1;
            log.tail.push_back(Recent { seq, record, members_version, origin, since: now });
        }
        enqueue(&mut self.due, conversation, log);
    }

    /// An operation on this conversation may or may not be committed, now or later: what its log holds is read until
    /// that is certain.
    pub fn suspect(&mut self, now: Time, conversation: ConversationId) {
        let log = open(&mut self.logs, &mut self.logs_ever, conversation, None);
        log.is_suspect = true;
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
        let Some(covered) = self.asking_markers.take() else { return };
        let Some(markers) = markers else {
            self.rechecks.push_front(now.after_ms(RETRY_MS));
            return;
        };
        for (conversation, first) in markers {
            // Those of other routers' slots are not ours to hand on.
            if !covered.has_conversation(conversation) {
                continue;
            }
            let log = open(&mut self.logs, &mut self.logs_ever, conversation, None);
            if log.next.is_none() || log.is_suspect {
                log.replays |= log.next.is_none();
                log.next.get_or_insert(first);
                log.exploring = true;
                self.queue(conversation);
            }
        }
        self.is_started = true;
        self.known.extend(&covered);
        let is_last = self.rechecks.is_empty();
        let unsettled: Vec<ConversationId> = self
            .logs
            .iter()
            .filter(|(conversation, log)| {
                covered.has_conversation(**conversation) && (log.next.is_none() || log.is_suspect)
            })
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
        (conversation, number): (ConversationId, u64),
        entries: Option<Vec<Entry>>,
        outbox: &mut Outbox,
    ) {
        let Some(log) = self.logs.get_mut(&conversation).filter(|log| log.number == number) else { return };
        log.is_asking = false;
        let Some(entries) = entries else {
            self.arm(conversation, now.after_ms(RETRY_MS));
            return;
        };
        match entries.last() {
            Some(last) => log.head = log.head.max(last.seq),
            None if log.exploring => (log.exploring, log.replays) = (false, false),
            None => outbox.fail(format!(
                "the store shows no event {} of conversation {conversation}, whose head is {}: acknowledged data is missing",
                log.next.unwrap_or(0),
                log.head
            )),
        }
        log.fetched = entries.into();
        self.queue(conversation);
    }

    /// The store told who hears a conversation: asked when the next event was committed, so that one is included, and
    /// all below. `None`: ask again.
    pub fn members(
        &mut self,
        now: Time,
        (conversation, number): (ConversationId, u64),
        answer: Option<(u64, Vec<Hearer>)>,
    ) {
        let Some(log) = self.logs.get_mut(&conversation).filter(|log| log.number == number) else { return };
        log.is_asking = false;
        let Some((version, members)) = answer else {
            self.arm(conversation, now.after_ms(RETRY_MS));
            return;
        };
        log.is_followed = true;
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
        cluster: &mut Cluster,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) {
        if self.asking_markers.is_none() && self.rechecks.front().is_some_and(|at| *at <= now) {
            self.rechecks.pop_front();
            if outbox.ask(Asked::Markers, Query::Markers).is_ok() {
                self.asking_markers = Some(cluster.table.mine());
            }
        }
        while let Some((_, conversation)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            self.on_timer(now, conversation, batches, outbox);
        }
        if !self.is_started {
            return;
        }
        let fed_count = self.starved.len().min(outbox.fanout_room());
        let fed: Vec<ConversationId> = self.starved.drain(..fed_count).collect();
        for conversation in fed {
            self.push_due(conversation);
        }
        let mut users_left = self.settings.turn_users_max;
        let mut visit = |fanout: &mut Fanout, conversation| {
            let users = fanout.visit(now, conversation, registry, cluster, batches, outbox);
            users_left = users_left.saturating_sub(users.max(1));
            users_left > 0
        };
        self.turns_count += 1;
        if self.turns_count.is_multiple_of(FAIR_TURNS) {
            for crowd in [Crowd::Mass, Crowd::Many] {
                if let Some(conversation) = self.due[crowd as usize].pop_front() {
                    visit(self, conversation);
                }
            }
        }
        while let Some(conversation) = self.due.iter_mut().find_map(VecDeque::pop_front) {
            if !visit(self, conversation) {
                break;
            }
        }
    }

    /// `Deliver` frames up to this seq are on their lanes. `head` is what a snapshot showed, `appending` how many
    /// operations in flight that snapshot may show already.
    #[must_use]
    pub fn sent_seq(&self, conversation: ConversationId, head: Seq, appending: u64) -> Seq {
        match self.logs.get(&conversation) {
            Some(log) => log.next.map_or(0, |next| next - 1),
            None if self.known.has_conversation(conversation) => head.saturating_sub(appending),
            None => 0,
        }
    }

    /// The last event of which this user has heard, or whose `Deliver` is on their lanes, given that a snapshot showed
    /// them as a member up to `head`. `None`: that cannot be told, or they left and joined again since.
    #[must_use]
    pub fn heard_seq(&self, conversation: ConversationId, user: UserId, head: Seq) -> Option<Seq> {
        let next = self.logs.get(&conversation).and_then(|log| log.next).unwrap_or(0);
        let sent_seq = next.saturating_sub(1);
        if sent_seq <= head {
            return Some(head);
        }
        match self.members.hears(conversation, user) {
            Hears::Unknown => None,
            Hears::Nothing => Some(head),
            Hears::Between(from, _) if from > head => None,
            Hears::Between(_, to) | Hears::UpTo(to) => Some(sent_seq.min(to).max(head)),
        }
    }

    /// Who hears a conversation, as far as it was handed on, ascending, if that is in memory: members to [`Seq::MAX`].
    #[must_use]
    pub fn hearers_of(&self, conversation: ConversationId) -> Option<&[Hearer]> {
        self.members.hearers(conversation)
    }

    /// Who its members are, as [`Fanout::hearers_of`] has them, if these are those of now: nothing is committed, and nothing may
    /// be, that was not handed on.
    #[must_use]
    pub fn members_of(&self, conversation: ConversationId) -> Option<&[Hearer]> {
        let is_whole =
            |log: &Log| !log.is_suspect && !log.exploring && log.next.is_some_and(|next| next > log.head);
        let are_those_of_now = self.logs.get(&conversation).is_none_or(is_whole);
        self.hearers_of(conversation).filter(|_| are_those_of_now)
    }

    /// Whether it is known that a user is no member.
    #[must_use]
    pub fn is_stranger(&self, conversation: ConversationId, user: UserId) -> bool {
        self.members_of(conversation).is_some_and(|hearers| {
            let place = hearers.binary_search_by_key(&user, |hearer| hearer.user).ok();
            place.and_then(|place| hearers.get(place)).is_none_or(|hearer| hearer.to_seq != Seq::MAX)
        })
    }

    /// The highest message of each member but one above `after_seq`, up to `up_to_seq`, if all of that was handed on a
    /// moment ago. Who is no member any more sees nothing of what comes after (G11).
    #[must_use]
    pub fn senders_of(
        &self,
        conversation: ConversationId,
        (after_seq, up_to_seq): (Seq, Seq),
        except: UserId,
    ) -> Option<Vec<(UserId, Seq, MessageId)>> {
        let mut senders = self.logs.get(&conversation)?.senders(after_seq, up_to_seq, except)?;
        let hearers = self.hearers_of(conversation)?;
        senders.retain(|(sender, ..)| {
            let place = hearers.binary_search_by_key(sender, |hearer| hearer.user).ok();
            place.and_then(|place| hearers.get(place)).is_some_and(|hearer| hearer.to_seq == Seq::MAX)
        });
        Some(senders)
    }

    /// Whether this conversation is known to have more members than receipts are named for.
    #[must_use]
    pub fn is_large(&self, conversation: ConversationId) -> bool {
        self.hearers_of(conversation).is_some_and(|hearers| hearers.len() > SMALL_GROUP_MEMBERS_MAX)
    }

    /// Whether more is due than the last turn took.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_started && self.due.iter().any(|queue| !queue.is_empty())
    }

    /// When [`Fanout::advance`] has something to do; `now` when it has already.
    #[must_use]
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let due = self.is_busy().then_some(now);
        let timer = self.timers.first().map(|(at, _)| *at);
        let recheck = self.rechecks.front().copied().filter(|_| self.asking_markers.is_none());
        [due, timer, recheck].into_iter().flatten().min()
    }

    /// Slots are ours: what is known of their conversations begins with their markers.
    pub fn gained(&mut self, now: Time) {
        self.rechecks.push_front(now);
    }

    /// Slots are not ours any more: their next owner hands on what is left, from their markers on.
    pub fn lost(&mut self, slots: &SlotSet) {
        self.known.remove(slots);
        if let Some(covered) = &mut self.asking_markers {
            covered.remove(slots);
        }
        let gone: Vec<ConversationId> =
            self.logs.keys().copied().filter(|conversation| slots.has_conversation(*conversation)).collect();
        for conversation in gone {
            self.forget(conversation);
        }
        self.members.remove_slots(slots);
    }

    /// Another router has answered for these, or is no more: whoever it served asks anew.
    pub fn answered(&mut self, router: Incarnation, answered: Vec<(ConversationId, Seq)>) {
        for (conversation, seq) in answered {
            if let Some(log) = self.logs.get_mut(&conversation) {
                log.answered(router, seq);
            }
        }
    }

    /// Clears markers without waiting for rest, so that the next start has nothing to repeat.
    pub fn drain(&mut self, now: Time) {
        self.is_draining = true;
        let all: Vec<ConversationId> = self.logs.keys().copied().collect();
        for conversation in all {
            self.arm(conversation, now);
        }
    }

    /// Whether an operation on this conversation may yet turn out to be committed.
    #[must_use]
    pub fn is_suspect(&self, conversation: ConversationId) -> bool {
        self.logs.get(&conversation).is_some_and(|log| log.is_suspect)
    }

    /// Whether everything known is handed on and marked. What is suspect stays for the next start's markers.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.due.iter().all(VecDeque::is_empty)
            && self.starved.is_empty()
            && self.logs.values().all(|log| log.is_settled() || log.is_suspect)
    }

    /// Conversations that wait for their turn.
    #[must_use]
    pub fn due_count(&self) -> usize {
        self.due.iter().map(VecDeque::len).sum::<usize>() + self.starved.len()
    }

    /// Conversations with state.
    #[must_use]
    pub fn logs_count(&self) -> usize {
        self.logs.len()
    }

    /// Everything known of a conversation is handed on.
    fn rest(&mut self, now: Time, conversation: ConversationId, batches: &mut Batches, outbox: &mut Outbox) {
        let Some(log) = self.logs.get_mut(&conversation) else { return };
        if log.is_marked_long_ago() || self.is_draining {
            self.mark(now, conversation, batches, outbox);
        } else {
            arm(&mut self.timers, conversation, log, now.after_ms(REST_MS));
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
        let seq = log.answered_seq();
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
            && self.asking_markers.is_none()
            && outbox.is_answered_before(log.handed_on_before);
        if is_done {
            self.forget(conversation);
        }
        is_done
    }

    fn forget(&mut self, conversation: ConversationId) {
        let Some(mut log) = self.logs.remove(&conversation) else { return };
        let (bytes, events) = log.forget_before(Seq::MAX);
        self.tail_bytes -= bytes;
        self.tail_events -= events;
        if let Some(at) = log.timer.take() {
            self.timers.remove(&(at, conversation));
        }
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
        if let Some(log) = self.logs.get_mut(&conversation) {
            enqueue(&mut self.due, conversation, log);
        }
    }

    fn push_due(&mut self, conversation: ConversationId) {
        let crowd = self.logs.get(&conversation).map(|log| log.crowd).unwrap_or_default();
        self.due[crowd as usize].push_back(conversation);
    }

    fn arm(&mut self, conversation: ConversationId, at: Time) {
        if let Some(log) = self.logs.get_mut(&conversation) {
            arm(&mut self.timers, conversation, log, at);
        }
    }
}

/// The state of a conversation with something due, new if there is none.
fn open<'a>(
    logs: &'a mut BTreeMap<ConversationId, Log>,
    logs_ever: &mut u64,
    conversation: ConversationId,
    next: Option<Seq>,
) -> &'a mut Log {
    logs.entry(conversation).or_insert_with(|| {
        *logs_ever += 1;
        Log::new(*logs_ever, next)
    })
}

/// A conversation's turn is to come, unless it waits for that already, or for the store.
fn enqueue(due: &mut [VecDeque<ConversationId>; 3], conversation: ConversationId, log: &mut Log) {
    if !log.is_queued && !log.is_asking {
        log.is_queued = true;
        due[log.crowd as usize].push_back(conversation);
    }
}

/// Its timer is to fire at that time, or earlier if that was wanted already.
fn arm(timers: &mut BTreeSet<(Time, ConversationId)>, conversation: ConversationId, log: &mut Log, at: Time) {
    if let Some(armed) = log.timer.filter(|armed| *armed > at) {
        timers.remove(&(armed, conversation));
        log.timer = None;
    }
    if log.timer.is_none() {
        log.timer = Some(at);
        timers.insert((at, conversation));
    }
}
