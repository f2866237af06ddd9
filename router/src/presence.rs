//! Who is there. Nothing of it is stored but when a user was last seen, written once when they go offline.
//!
//! Who is listed in the registry is online; who went is online a little longer, unless they said `bye`. The registry notes
//! each change of its listing ([`Change`]) and [`Presence::advance`] takes them at the end of a turn, so that what went
//! and came back within one turn is no change at all.
//!
//! # Invariants
//! - Told are transitions only, only to sessions that watch, and at most so many users a turn; who went and came back
//!   before their turn came is not told (F20).
//! - A user of whom nobody hears and who does not leave takes no memory here.
//! - Whom a session may hear of is decided by the store when it begins to watch, and again when it watches again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_protocol::frame::{self, UserPresence, Watch, Watched};
use carillon_protocol::ids::{DEVICE_ID_DEFAULT, UserId};
use carillon_protocol::limits::{LINK_FRAME_BYTES_MAX, WATCHED_MAX};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::verb::{Op, Query};

use crate::batch::{BATCH_OPS_MAX, Batches, OVERLOADED_RETRY_MS, Origin, QUEUE_OPS_MAX, Waiter};
use crate::cluster::table::SlotSet;
use crate::meters::Metric;
use crate::outbox::{Asked, LaneId, Outbox};
use crate::registry::Registry;
use crate::settings::{PresenceScope, PresenceSettings};

/// What all sessions together watch: some 100 bytes each. Beyond: `overloaded`.
pub const WATCHES_MAX: usize = 1 << 20;
/// Devices whose absence is not certain yet. Beyond: gone at once, and when is not written.
pub const LEAVING_MAX: usize = 1 << 18;
/// Sessions that one turn tells. A user whom more sessions watch is told in one turn all the same.
pub const TURN_SESSIONS_MAX: usize = 65_536;
/// Sessions on one `Presence` frame. Beyond: several frames.
pub const FRAME_SESSIONS_MAX: usize = 16_384;
/// Watches of lost lanes that are forgotten in one turn.
pub const SWEEP_WATCHES_MAX: usize = 4_096;
/// Absences that are being written at once. The rest waits, so that messages never wait for more of them than a commit
/// carries along.
pub const WRITING_MAX: usize = 128;
/// The same when the process ends, where no message waits any more: full batches, so that it is done after as few commits
/// as may be.
pub const WRITING_LAST_MAX: usize = 4 * BATCH_OPS_MAX;
/// When an absence is written that could not be, because too much was waiting.
pub const SEEN_RETRY_MS: u64 = 1_000;

const _: () = assert!(WRITING_LAST_MAX < QUEUE_OPS_MAX, "none of them is refused");
const _: () = assert!(FRAME_SESSIONS_MAX * 8 + 1_024 < LINK_FRAME_BYTES_MAX);
const _: () = assert!(WATCHED_MAX * 24 + 1_024 < LINK_FRAME_BYTES_MAX, "the longest Watched fits a frame");

/// A device as the registry lists it; `None`: the default one.
pub type Device = Option<Box<str>>;

/// How the registry's listing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device is listed.
    Came {
        /// Whose.
        user: UserId,
        /// Which.
        device: Device,
    },
    /// A session is listed no longer.
    Went {
        /// Whose.
        user: UserId,
        /// On which device.
        device: Device,
        /// On which lane.
        lane: LaneId,
        /// Which.
        session: u64,
        /// Whether the client said so.
        bye: bool,
    },
}

struct Leaving {
    at: WallMs,
    until: Time,
}

struct Target {
    watchers: BTreeSet<(LaneId, u64)>,
    /// What they were told last.
    told_online: bool,
    /// Somebody was told otherwise meanwhile: all are told again.
    is_mixed: bool,
    is_due: bool,
    last_seen: Option<WallMs>,
}

/// A question of the store that a `Watch` waits for.
struct Asking {
    /// As asked for, and whether it still stands.
    users: Vec<(UserId, bool)>,
}

/// See the module.
pub struct Presence {
    settings: PresenceSettings,
    leaving: BTreeMap<(UserId, Device), Leaving>,
    deadlines: BTreeSet<(Time, UserId, Device)>,
    /// Absences whose commit is under way, and how many may be.
    writing_count: usize,
    writing_max: usize,
    targets: BTreeMap<UserId, Target>,
    watches: BTreeSet<(LaneId, u64, UserId)>,
    asking: BTreeMap<(LaneId, u64, u64), Asking>,
    /// Users in all of them.
    asked_count: usize,
    /// Users who came or went and have watchers.
    due: VecDeque<UserId>,
    /// Lanes whose watches are being forgotten.
    lost: BTreeSet<LaneId>,
}

impl Presence {
    /// Nobody is there.
    #[must_use]
    pub fn new(settings: PresenceSettings) -> Presence {
        Presence {
            settings: PresenceSettings {
                transitions_per_turn: settings.transitions_per_turn.max(1),
                ..settings
            },
            leaving: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            writing_count: 0,
            writing_max: WRITING_MAX,
            targets: BTreeMap::new(),
            watches: BTreeSet::new(),
            asking: BTreeMap::new(),
            asked_count: 0,
            due: VecDeque::new(),
            lost: BTreeSet::new(),
        }
    }

    /// A session begins or ceases to watch.
    pub fn watch(&mut self, lane: LaneId, watch: Watch, outbox: &mut Outbox) {
        let Watch { session, request, user, users, watch } = watch;
        let origin = Origin { lane, session, request };
        if !watch {
            for other in &users {
                self.unwatch(lane, session, *other);
            }
            for (_, asking) in self.asking.range_mut((lane, session, 0)..=(lane, session, u64::MAX)) {
                asking
                    .users
                    .iter_mut()
                    .filter(|(user, _)| users.contains(user))
                    .for_each(|(_, on)| *on = false);
            }
        }
        // The session is over: nobody waits for an answer.
        if !watch && request == 0 {
            return;
        }
        // How they are is told in both cases.
        if let Err(refusal) = self.may_ask(origin, &users, watch) {
            return outbox.refuse(origin, &refusal);
        }
        let pairs_only = self.settings.scope == PresenceScope::OpenOneToOne;
        let query = Query::Presence { asker: user, users: users.clone(), pairs_only };
        match outbox.ask(Asked::Presence(origin), query) {
            Ok(()) => {
                self.asked_count += users.len();
                let users = users.into_iter().map(|user| (user, watch)).collect();
                self.asking.insert((lane, session, request), Asking { users });
            }
            Err(refusal) => outbox.refuse(origin, &refusal),
        }
    }

    fn may_ask(&self, origin: Origin, users: &[UserId], watch: bool) -> Result<(), Refusal> {
        let Origin { lane, session, .. } = origin;
        if users.len() > WATCHED_MAX || !users.iter().all(|user| user.is_valid()) {
            return Err(Refusal::field("user_ids", "user_ids have to be valid, and not too many"));
        }
        let own_count = self.watches.range(of_session(lane, session)).take(WATCHED_MAX + 1).count();
        let new_count = users.iter().filter(|user| !self.watches.contains(&(lane, session, **user))).count();
        if watch && own_count + new_count > WATCHED_MAX {
            let message = format!("a connection watches at most {WATCHED_MAX} users");
            return Err(Refusal { field: Some("user_ids"), ..Refusal::new(Code::TooLarge, message) });
        }
        if self.watches.len() + self.asked_count + users.len() > WATCHES_MAX {
            return Err(Refusal::new(Code::Overloaded, "more is watched than is taken on; try again")
                .retry_after(OVERLOADED_RETRY_MS));
        }
        Ok(())
    }

    /// The store told of whom a session may hear. `None`: it could not.
    pub fn answered(
        &mut self,
        origin: Origin,
        visible: Result<Vec<(UserId, Option<WallMs>)>, Refusal>,
        registry: &Registry,
        outbox: &mut Outbox,
    ) {
        let Origin { lane, session, request } = origin;
        let Some(asking) = self.asking.remove(&(lane, session, request)) else { return };
        self.asked_count -= asking.users.len();
        if !outbox.is_up(lane) {
            return;
        }
        let visible: BTreeMap<UserId, Option<WallMs>> = match visible {
            Ok(visible) => visible.into_iter().collect(),
            Err(refusal) => return outbox.refuse(origin, &refusal),
        };
        let mut users = Vec::with_capacity(asking.users.len());
        for (user, is_wanted) in asking.users {
            let Some(last_seen) = visible.get(&user) else {
                self.unwatch(lane, session, user);
                users.push(UserPresence { user, online: false, last_seen_at_ms: 0 });
                continue;
            };
            let online = self.is_online(user, registry);
            let mut last_seen = *last_seen;
            if is_wanted {
                let target = self.targets.entry(user).or_insert(Target {
                    watchers: BTreeSet::new(),
                    told_online: online,
                    is_mixed: false,
                    is_due: false,
                    last_seen: None,
                });
                target.last_seen = target.last_seen.max(last_seen);
                target.is_mixed |= target.told_online != online;
                target.watchers.insert((lane, session));
                last_seen = target.last_seen;
                self.watches.insert((lane, session, user));
            }
            users.push(UserPresence { user, online, last_seen_at_ms: last_seen.map_or(0, |at| at.0) });
        }
        outbox.send(lane, &Watched { session, request, users });
    }

    /// Slots are not ours any more: their users are watched at their next owner, which also sees whether they come back.
    pub fn lost(&mut self, slots: &SlotSet) {
        self.leaving.retain(|(user, _), _| !slots.has_user(*user));
        self.deadlines.retain(|(_, user, _)| !slots.has_user(*user));
        self.targets.retain(|user, _| !slots.has_user(*user));
        self.watches.retain(|(_, _, user)| !slots.has_user(*user));
        self.due.retain(|user| !slots.has_user(*user));
    }

    /// A lane is gone: nobody watches on it any more.
    pub fn lane_down(&mut self, lane: LaneId) {
        self.lost.insert(lane);
        let keys: Vec<_> =
            self.asking.range((lane, 0, 0)..=(lane, u64::MAX, u64::MAX)).map(|(key, _)| *key).collect();
        for asking in keys.iter().filter_map(|key| self.asking.remove(key)) {
            self.asked_count -= asking.users.len();
        }
    }

    /// The end of a turn: takes what changed in the registry, lets those go whose time is over, and tells who came and
    /// went. `wall` is for "last seen".
    pub fn advance(
        &mut self,
        now: Time,
        wall: WallMs,
        registry: &mut Registry,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) {
        for change in registry.take_changes() {
            match change {
                Change::Came { user, device } => self.came(user, device, outbox),
                Change::Went { user, device, lane, session, bye } => {
                    self.forget_session(lane, session);
                    self.went(now, wall, (user, device), bye, registry);
                }
            }
        }
        self.let_go(now, registry, batches, outbox);
        self.tell(registry, outbox);
        self.sweep();
    }

    /// When [`Presence::advance`] has something to do; `now` when it has already.
    #[must_use]
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let is_busy = !self.due.is_empty() || !self.lost.is_empty();
        let may_write = self.writing_count < self.writing_max;
        let deadline = self.deadlines.first().map(|(at, ..)| *at).filter(|_| may_write);
        is_busy.then_some(now).into_iter().chain(deadline).min()
    }

    /// The process ends: from now on nobody is waited for who leaves.
    pub fn drain(&mut self, now: Time) {
        self.settings.offline_after_ms = 0;
        self.writing_max = WRITING_LAST_MAX;
        let keys: Vec<(UserId, Device)> = self.leaving.keys().cloned().collect();
        for key in keys {
            self.postpone(key, now);
        }
    }

    /// An absence is written, or could not be.
    pub fn written(&mut self) {
        self.writing_count -= 1;
    }

    /// Whether nothing is left to be written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.leaving.is_empty()
    }

    /// What is watched, by all sessions together.
    #[must_use]
    pub fn watches_count(&self) -> usize {
        self.watches.len()
    }

    /// Devices whose absence is not certain yet.
    #[must_use]
    pub fn leaving_count(&self) -> usize {
        self.leaving.len()
    }

    fn is_online(&self, user: UserId, registry: &Registry) -> bool {
        registry.is_online(user) || self.is_leaving(user)
    }

    fn is_leaving(&self, user: UserId) -> bool {
        // `None` is the least of all devices.
        self.leaving.range((user, None)..).next().is_some_and(|((other, _), _)| *other == user)
    }

    fn came(&mut self, user: UserId, device: Device, outbox: &Outbox) {
        let key = (user, device);
        if let Some(leaving) = self.leaving.remove(&key) {
            let (user, device) = key;
            self.deadlines.remove(&(leaving.until, user, device));
            outbox.meter.add(Metric::PresenceReturns, 1);
        }
        self.enqueue(user);
    }

    fn went(&mut self, now: Time, wall: WallMs, key: (UserId, Device), bye: bool, registry: &Registry) {
        let (user, device) = &key;
        let user = *user;
        if registry.has_device(user, device.as_deref()) {
            return;
        }
        let is_last = !registry.is_online(user);
        let until = now.after_ms(self.settings.offline_after_ms);
        if self.leaving.len() < LEAVING_MAX {
            if let Some(before) = self.leaving.insert(key.clone(), Leaving { at: wall, until }) {
                self.deadlines.remove(&(before.until, user, key.1.clone()));
            }
            self.deadlines.insert((until, user, key.1));
        }
        if bye && is_last {
            // Nor are their other devices waited for, lost a moment ago.
            let all: Vec<(UserId, Device)> = self
                .leaving
                .range((user, None)..)
                .take_while(|((other, _), _)| *other == user)
                .map(|(key, _)| key.clone())
                .collect();
            for key in all {
                self.postpone(key, now);
            }
        }
        self.enqueue(user);
    }

    /// Sets another end for a device's absence to be certain.
    fn postpone(&mut self, key: (UserId, Device), until: Time) {
        let Some(leaving) = self.leaving.get_mut(&key) else { return };
        let (user, device) = key;
        self.deadlines.remove(&(leaving.until, user, device.clone()));
        leaving.until = until;
        self.deadlines.insert((until, user, device));
    }

    /// Those who did not come back in time are gone.
    fn let_go(&mut self, now: Time, registry: &Registry, batches: &mut Batches, outbox: &mut Outbox) {
        let room = self.writing_max.saturating_sub(self.writing_count);
        for _ in 0..self.settings.transitions_per_turn.min(room) {
            let Some((_, user, device)) = self.deadlines.first().filter(|(at, ..)| *at <= now).cloned()
            else {
                return;
            };
            let key = (user, device);
            let Some(at) = self.leaving.get(&key).map(|leaving| leaving.at) else { return };
            let device = key.1.as_deref().unwrap_or(DEVICE_ID_DEFAULT).to_owned();
            let others = self.leaving.range((user, None)..).take(2).filter(|((other, _), _)| *other == user);
            let offline = others.count() == 1 && !registry.is_online(user);
            let op = Op::Seen { user, device, at, offline };
            if batches.offer(now, op, Waiter::Seen).is_err() {
                self.postpone(key, now.after_ms(SEEN_RETRY_MS));
                continue;
            }
            outbox.meter.add(Metric::PresenceWrites, 1);
            self.writing_count += 1;
            self.deadlines.pop_first();
            self.leaving.remove(&key);
            if offline {
                if let Some(target) = self.targets.get_mut(&user) {
                    target.last_seen = target.last_seen.max(Some(at));
                }
                self.enqueue(user);
            }
        }
    }

    fn enqueue(&mut self, user: UserId) {
        if let Some(target) = self.targets.get_mut(&user)
            && !std::mem::replace(&mut target.is_due, true)
        {
            self.due.push_back(user);
        }
    }

    fn tell(&mut self, registry: &Registry, outbox: &mut Outbox) {
        let mut sessions_count = 0;
        for _ in 0..self.settings.transitions_per_turn {
            if sessions_count >= TURN_SESSIONS_MAX {
                return;
            }
            let Some(user) = self.due.pop_front() else { return };
            let online = self.is_online(user, registry);
            let Some(target) = self.targets.get_mut(&user) else { continue };
            target.is_due = false;
            if target.watchers.is_empty() {
                self.targets.remove(&user);
                continue;
            }
            if target.told_online == online && !std::mem::take(&mut target.is_mixed) {
                continue;
            }
            (target.told_online, target.is_mixed) = (online, false);
            outbox.meter.add(Metric::PresenceTransitions, 1);
            sessions_count += target.watchers.len();
            let last_seen_at_ms = target.last_seen.map_or(0, |at| at.0);
            let user = UserPresence { user, online, last_seen_at_ms };
            let mut lanes: BTreeMap<LaneId, Vec<u64>> = BTreeMap::new();
            for (lane, session) in &target.watchers {
                lanes.entry(*lane).or_default().push(*session);
            }
            for (lane, sessions) in lanes {
                for sessions in sessions.chunks(FRAME_SESSIONS_MAX) {
                    outbox.send(lane, &frame::Presence { user, sessions: sessions.to_vec() });
                    outbox.meter.add(Metric::PresenceFrames, 1);
                }
            }
        }
    }

    fn unwatch(&mut self, lane: LaneId, session: u64, user: UserId) {
        if !self.watches.remove(&(lane, session, user)) {
            return;
        }
        if let Some(target) = self.targets.get_mut(&user) {
            target.watchers.remove(&(lane, session));
            if target.watchers.is_empty() && !target.is_due {
                self.targets.remove(&user);
            }
        }
    }

    fn forget_session(&mut self, lane: LaneId, session: u64) {
        let asking = self.asking.range_mut((lane, session, 0)..=(lane, session, u64::MAX));
        asking.flat_map(|(_, asking)| &mut asking.users).for_each(|(_, is_wanted)| *is_wanted = false);
        // Bounded by what one session may watch.
        while let Some(watch) = self.watches.range(of_session(lane, session)).next().copied() {
            self.unwatch(watch.0, watch.1, watch.2);
        }
    }

    fn sweep(&mut self) {
        let Some(lane) = self.lost.first().copied() else { return };
        let all = (lane, 0, UserId(0))..=(lane, u64::MAX, UserId(u64::MAX));
        let some: Vec<_> = self.watches.range(all).take(SWEEP_WATCHES_MAX).copied().collect();
        if some.len() < SWEEP_WATCHES_MAX {
            self.lost.remove(&lane);
        }
        for (lane, session, user) in some {
            self.unwatch(lane, session, user);
        }
    }
}

fn of_session(lane: LaneId, session: u64) -> std::ops::RangeInclusive<(LaneId, u64, UserId)> {
    (lane, session, UserId(0))..=(lane, session, UserId(u64::MAX))
}
