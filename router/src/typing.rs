//! Who types. Never stored, and passed on at the end of a turn, behind everything else.
//!
//! # Invariants
//! - Passed on to other current members only, and only from one (G11): who was a member when the store was asked is not
//!   taken for one of now.
//! - Dropped before anything else: while fan-out has more to do than its turn allows typing waits, and what waited
//!   for [`WAIT_MS`] is forgotten (DS2). Clients let a typing state end by themselves.
//! - Who is no member is refused by the store, by one read, whether or not there is such a conversation.
//! - At most one state of a user and conversation waits: the latest.

use std::collections::BTreeMap;

use carillon_protocol::frame::{Accepted, ArchivedTyped, Typed, Typing as TypingFrame};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::slot_of_conversation;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;
use carillon_store::verb::{Hearer, Query};

use crate::batch::{OVERLOADED_RETRY_MS, Origin};
use crate::cluster::Cluster;
use crate::cluster::table::SlotSet;
use crate::meters::Metric;
use crate::outbox::{Asked, LaneId, Outbox};
use crate::registry::Registry;
use crate::settings::TypingSettings;

/// States that wait to be passed on. Beyond: dropped.
pub const WAITING_MAX: usize = 4_096;
/// Requests that wait for the answer to one state. Beyond: `overloaded`.
pub const ORIGINS_MAX: usize = 16;
/// How long a state waits at most.
pub const WAIT_MS: u64 = 1_000;
/// Members that one turn looks at. Beyond: the rest waits for the next one.
pub const TURN_USERS_MAX: usize = 8_192;

struct Waiting {
    start: bool,
    since: Time,
    /// At least one, the newest last.
    origins: Vec<Origin>,
}

/// Where somebody types, and who.
type Key = (ConversationId, UserId);

/// See the module.
pub struct Typing {
    members_max: usize,
    waiting: BTreeMap<Key, Waiting>,
    /// Whose fellow members are being read, and since when.
    asking: BTreeMap<Key, Time>,
    /// Members just read, for the end of the turn, and when they were asked for.
    read: BTreeMap<Key, (Time, Vec<Hearer>)>,
    /// The last turn ended before everything was passed on.
    is_cut: bool,
}

impl Typing {
    /// Nobody types.
    #[must_use]
    pub fn new(settings: TypingSettings) -> Typing {
        Typing {
            members_max: settings.members_max,
            waiting: BTreeMap::new(),
            asking: BTreeMap::new(),
            read: BTreeMap::new(),
            is_cut: false,
        }
    }

    /// A user types, or stopped.
    pub fn typed(&mut self, now: Time, lane: LaneId, typing: TypingFrame, outbox: &mut Outbox) {
        let TypingFrame { session, request, user, conversation, start } = typing;
        let origin = Origin { lane, session, request };
        if !user.is_valid() || !conversation.is_valid() {
            return outbox.refuse(origin, &Refusal::field("conversation_id", "conversation_id is not valid"));
        }
        let key = (conversation, user);
        let is_full = self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&key);
        if is_full {
            return drop_one(origin, outbox);
        }
        let waiting = self.waiting.entry(key).or_insert(Waiting { start, since: now, origins: Vec::new() });
        (waiting.start, waiting.since) = (start, now);
        // Who wants no answer hears of a refusal only, and one of them is enough.
        waiting.origins.retain(|other| other.request != 0);
        if waiting.origins.len() >= ORIGINS_MAX {
            return drop_one(origin, outbox);
        }
        waiting.origins.push(origin);
    }

    /// The store told who the members are, if who types is one of them; `None`: it could not.
    pub fn members(&mut self, key: (ConversationId, UserId), members: Option<Vec<Hearer>>) {
        if let (Some(asked_at), Some(members)) = (self.asking.remove(&key), members) {
            self.read.insert(key, (asked_at, members));
        }
    }

    /// The end of a turn. `known`: the current members, where they are known. `is_busy`: there is more important work
    /// left over.
    pub fn advance<'a>(
        &mut self,
        now: Time,
        is_busy: bool,
        known: impl Fn(ConversationId) -> Option<&'a [Hearer]>,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        self.is_cut = false;
        let mut users_left = if is_busy { 0 } else { TURN_USERS_MAX };
        let keys: Vec<Key> = self.waiting.keys().copied().collect();
        for key in keys {
            let Some(waiting) = self.waiting.get(&key) else { continue };
            if now.since(waiting.since).as_millis() >= u128::from(WAIT_MS) {
                if let Some(waiting) = self.waiting.remove(&key) {
                    waiting.origins.into_iter().for_each(|origin| drop_one(origin, outbox));
                }
                continue;
            }
            if self.asking.contains_key(&key) {
                continue;
            }
            if users_left == 0 {
                self.is_cut = true;
                continue;
            }
            let read = self.read.get(&key).filter(|(asked_at, _)| waiting.since <= *asked_at);
            let known = || known(key.0).filter(|members| is_member(members, key.1));
            let Some(members) = read.map(|(_, members)| members.as_slice()).or_else(known) else {
                let (conversation, user) = key;
                let query = Query::Fellows { user, conversation };
                if outbox.ask(Asked::Typing(conversation, user), query).is_ok() {
                    self.asking.insert(key, now);
                }
                continue;
            };
            users_left = users_left.saturating_sub(members.len().max(1));
            if let Some(waiting) = self.waiting.remove(&key) {
                pass_on(key, &waiting, members, self.members_max, (registry, cluster), outbox);
            }
        }
        // What was read is as old as its answer: the next turn may know of a change.
        self.read.clear();
    }

    /// Slots are not ours any more: what waits is asked of their next owner.
    pub fn lost(&mut self, slots: &SlotSet, outbox: &mut Outbox) {
        let gone = self.waiting.extract_if(.., |(conversation, _), _| slots.has_conversation(*conversation));
        for ((conversation, _), waiting) in gone {
            let slot = slot_of_conversation(conversation);
            waiting.origins.into_iter().for_each(|origin| outbox.not_owner(origin, slot));
        }
    }

    /// Another router tells that a user types: those of these who are here hear it.
    pub fn relay(&self, typed: &ArchivedTyped, registry: &Registry, outbox: &mut Outbox) {
        let mut lanes: BTreeMap<LaneId, Vec<UserId>> = BTreeMap::new();
        for user in typed.users.iter().map(|user| UserId(user.0.to_native())) {
            registry.lanes_of(user, outbox).for_each(|lane| lanes.entry(lane).or_default().push(user));
        }
        let conversation = ConversationId(typed.conversation.0.to_native());
        let (user, start) = (UserId(typed.user.0.to_native()), typed.start);
        for (lane, users) in lanes {
            outbox.send(lane, &Typed { conversation, user, start, users });
            outbox.meter.add(Metric::TypingFrames, 1);
        }
    }

    /// When [`Typing::advance`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let over = self.waiting.values().map(|waiting| waiting.since.after_ms(WAIT_MS)).min();
        if self.is_cut { Some(now) } else { over }
    }

    /// States that wait to be passed on.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }
}

fn pass_on(
    (conversation, user): (ConversationId, UserId),
    waiting: &Waiting,
    members: &[Hearer],
    members_max: usize,
    (registry, cluster): (&Registry, &Cluster),
    outbox: &mut Outbox,
) {
    let current = || members.iter().filter(|member| member.to_seq == Seq::MAX).map(|member| member.user);
    if !is_member(members, user) {
        let refusal = Refusal::new(Code::Forbidden, "not a member of this conversation, or there is none");
        waiting.origins.iter().for_each(|origin| outbox.refuse(*origin, &refusal));
        return;
    }
    for origin in waiting.origins.iter().filter(|origin| origin.request != 0) {
        accept(*origin, conversation, outbox);
    }
    if current().count() > members_max {
        return;
    }
    let mut lanes: BTreeMap<LaneId, Vec<UserId>> = BTreeMap::new();
    for member in current().filter(|member| *member != user) {
        cluster.each_way(member, registry, outbox, |lane| lanes.entry(lane).or_default().push(member));
    }
    for (lane, users) in lanes {
        outbox.send(lane, &Typed { conversation, user, start: waiting.start, users });
        outbox.meter.add(Metric::TypingFrames, 1);
    }
}

/// Whether a user is a member by this list, which ascends.
fn is_member(members: &[Hearer], user: UserId) -> bool {
    let place = members.binary_search_by_key(&user, |member| member.user).ok();
    place.and_then(|place| members.get(place)).is_some_and(|member| member.to_seq == Seq::MAX)
}

fn accept(origin: Origin, conversation: ConversationId, outbox: &mut Outbox) {
    let Origin { lane, session, request } = origin;
    let accepted =
        Accepted { session, request, conversation, seq: 0, id: 0, duplicate: false, unchanged: false };
    outbox.send(lane, &accepted);
}

/// There is more important work: the state is not passed on, and who waits for an answer hears so.
fn drop_one(origin: Origin, outbox: &mut Outbox) {
    outbox.meter.add(Metric::TypingDropped, 1);
    if origin.request != 0 {
        let refusal = Refusal::new(Code::Overloaded, "too much is waiting; try again");
        outbox.refuse(origin, &refusal.retry_after(OVERLOADED_RETRY_MS));
    }
}
