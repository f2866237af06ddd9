//! Users, their devices, and the lanes on which these hear.
//!
//! # Invariants
//! - A session is listed before its conversations are read, so that what is committed after that reading reaches it as
//!   a `Deliver`, and what was committed before is in the reading (F6).
//! - One live session a device. Of two the one that identified earlier yields, however late it gets through.
//! - Sessions of a lost lane are listed no longer, though their memory is given back a little later, in bounded turns.
//! - Who came and who went is told once each, by [`Registry::take_changes`]: a session comes when its registration is
//!   answered, and only who came can go.

use std::collections::BTreeMap;

use carillon_protocol::frame::{Joined, Registered, Replaced};
use carillon_protocol::ids::{ConversationId, DEVICE_ID_DEFAULT, UserId, is_device_id};
use carillon_protocol::limits::LINK_LIST_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::verb::{Joined as Listed, Query};

use crate::batch::Origin;
use crate::cluster::table::SlotSet;
use crate::outbox::{Asked, LaneId, Outbox};
use crate::presence::Change;

/// The most devices of one user. Beyond: the registration is refused, and the gateway closes with 4505.
pub const DEVICES_MAX: usize = 32;
/// The most conversations that may begin for a user while one registration reads. Beyond: it reads again.
pub const LATE_MAX: usize = 1_024;
/// Users whose dead sessions are removed in one turn.
pub const SWEEP_USERS_MAX: usize = 4_096;

const NANOS_PER_MS: i64 = 1_000_000;

/// A registered session.
#[derive(Clone, Debug)]
struct Session {
    lane: LaneId,
    session: u64,
    /// `None`: the default device, which most tokens name.
    device: Option<Box<str>>,
    /// When its client identified, by this router's clock; perhaps before that began.
    identified_ns: i64,
    /// Its registration was answered.
    has_come: bool,
}

/// A user's sessions: almost always one, which then owns no memory of its own.
#[derive(Clone, Debug)]
enum Sessions {
    One(Session),
    Many(Vec<Session>),
}

// About 64 bytes for an idle user, its key included.
const _: () = assert!(size_of::<Sessions>() + size_of::<UserId>() <= 64);

/// A registration that waits for the store.
struct Pending {
    request: u64,
    user: UserId,
    name: String,
    auto_provision: bool,
    issued_at_s: u64,
    /// Conversations that the user joined meanwhile, and whether they had been a member before.
    late: BTreeMap<ConversationId, bool>,
    late_overflowed: bool,
}

/// What a [`Register`](carillon_protocol::frame::Register) frame asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// As on the frame.
    pub user: UserId,
    /// As on the frame.
    pub device: String,
    /// As on the frame.
    pub name: String,
    /// As on the frame.
    pub auto_provision: bool,
    /// As on the frame.
    pub again: bool,
    /// As on the frame.
    pub waited_ms: u64,
    /// As on the frame.
    pub issued_at_s: u64,
}

/// What the store knows of a registering user and device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRead {
    /// Whether there is such a user.
    pub known: bool,
    /// Tokens of the device issued up to then are refused.
    pub revoked_at: Option<WallMs>,
    /// What the session is to be told of.
    pub conversations: Vec<Listed>,
}

/// What a registration needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is answered, or gone.
    Nothing,
    /// The user is created first, with this name.
    Provision(UserId, String),
}

/// See the module.
#[derive(Default)]
pub struct Registry {
    users: BTreeMap<UserId, Sessions>,
    pending: BTreeMap<(LaneId, u64), Pending>,
    /// The pending registrations of each user that has any.
    pending_users: BTreeMap<UserId, Vec<(LaneId, u64)>>,
    /// Rises whenever a listing changes, so that a derived list can be checked.
    version: u64,
    /// Where the removal of dead sessions goes on.
    sweep_from: Option<UserId>,
    /// Not told yet: what one turn brought, at most a session for each frame or swept user.
    changes: Vec<Change>,
}

impl Registry {
    /// Lists a session and asks for its conversations.
    pub fn register(&mut self, now: Time, origin: Origin, wanted: Registration, outbox: &mut Outbox) {
        if !wanted.user.is_valid() || !is_device_id(&wanted.device) {
            outbox.refuse(origin, &Refusal::field("device_id", "user and device have to be valid ids"));
            return;
        }
        let device =
            Some(wanted.device.as_str()).filter(|device| *device != DEVICE_ID_DEFAULT).map(Box::from);
        let waited_ns = i64::try_from(wanted.waited_ms).unwrap_or(i64::MAX).saturating_mul(NANOS_PER_MS);
        let identified_ns = i64::try_from(now.0).unwrap_or(i64::MAX).saturating_sub(waited_ns);
        if !self.insert(origin, &wanted, device, identified_ns, outbox) {
            return;
        }
        self.forget_pending(origin);
        let query = Query::Session { user: wanted.user, device: wanted.device };
        if let Err(refusal) = outbox.ask(Asked::Session(origin), query) {
            self.unlist(origin, wanted.user, false);
            outbox.refuse(origin, &refusal);
            return;
        }
        let pending = Pending {
            request: origin.request,
            user: wanted.user,
            name: wanted.name,
            auto_provision: wanted.auto_provision,
            issued_at_s: wanted.issued_at_s,
            late: BTreeMap::new(),
            late_overflowed: false,
        };
        self.pending_users.entry(wanted.user).or_default().push((origin.lane, origin.session));
        self.pending.insert((origin.lane, origin.session), pending);
    }

    /// The store answered a registration's question.
    pub fn session_read(&mut self, origin: Origin, read: SessionRead, outbox: &mut Outbox) -> Next {
        let SessionRead { known, revoked_at, conversations } = read;
        let key = (origin.lane, origin.session);
        let Some(pending) = self.pending.get_mut(&key).filter(|pending| pending.request == origin.request)
        else {
            return Next::Nothing;
        };
        let issued_at_ms = pending.issued_at_s.saturating_mul(1_000);
        if revoked_at.is_some_and(|at| issued_at_ms <= at.0) {
            let refusal = Refusal {
                field: Some("device_id"),
                ..Refusal::new(Code::Unauthenticated, "this device was revoked; log in again")
            };
            self.refuse(origin, &refusal, outbox);
            return Next::Nothing;
        }
        if !known && pending.auto_provision {
            return Next::Provision(pending.user, std::mem::take(&mut pending.name));
        }
        if !known {
            let refusal = Refusal::new(Code::Forbidden, "the user of this token is not known here");
            self.refuse(origin, &refusal, outbox);
            return Next::Nothing;
        }
        if std::mem::take(&mut pending.late_overflowed) {
            pending.late.clear();
            let user = pending.user;
            let device = self.device_of(origin, user).unwrap_or(DEVICE_ID_DEFAULT).to_owned();
            if let Err(refusal) = outbox.ask(Asked::Session(origin), Query::Session { user, device }) {
                self.refuse(origin, &refusal, outbox);
            }
            return Next::Nothing;
        }
        self.answer(origin, conversations, outbox);
        Next::Nothing
    }

    /// The unknown user of a registration is created now: they have no conversations but those that began meanwhile.
    pub fn provisioned(&mut self, origin: Origin, outbox: &mut Outbox) {
        self.answer(origin, Vec::new(), outbox);
    }

    /// A registration came to nothing.
    pub fn refuse(&mut self, origin: Origin, refusal: &Refusal, outbox: &mut Outbox) {
        if !self.is_pending(origin) {
            return;
        }
        if let Some(user) = self.forget_pending(origin) {
            self.unlist(origin, user, false);
            outbox.refuse(origin, refusal);
        }
    }

    /// A session is gone, with or without a `bye`.
    pub fn unregister(&mut self, lane: LaneId, session: u64, user: UserId, bye: bool) {
        let origin = Origin { lane, session, request: 0 };
        self.forget_pending(origin);
        self.unlist(origin, user, bye);
    }

    /// A lane is gone, and its sessions with it.
    pub fn lane_down(&mut self, lane: LaneId) {
        self.version += 1;
        let keys: Vec<_> = self.pending.range((lane, 0)..=(lane, u64::MAX)).map(|(key, _)| *key).collect();
        for (lane, session) in keys {
            self.forget_pending(Origin { lane, session, request: 0 });
        }
        // Begin again: users before the place that was reached may have had sessions on this lane too.
        self.sweep_from = Some(UserId(0));
    }

    /// Removes sessions of lost lanes, some users a turn.
    pub fn sweep(&mut self, outbox: &Outbox) {
        let Some(from) = self.sweep_from else { return };
        let some: Vec<UserId> =
            self.users.range(from..).take(SWEEP_USERS_MAX).map(|(user, _)| *user).collect();
        self.sweep_from =
            some.last().filter(|_| some.len() == SWEEP_USERS_MAX).map(|last| UserId(last.0 + 1));
        for user in some {
            self.retain(user, false, |session| outbox.is_up(session.lane));
        }
    }

    /// Slots are not ours any more: their users register with their next owner. Nobody came or went by that.
    pub fn lost(&mut self, slots: &SlotSet) {
        self.version += 1;
        self.users.retain(|user, _| !slots.has_user(*user));
        let gone: Vec<(LaneId, u64)> = self
            .pending_users
            .iter()
            .filter(|(user, _)| slots.has_user(**user))
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        for (lane, session) in gone {
            self.forget_pending(Origin { lane, session, request: 0 });
        }
        self.changes.retain(|change| match change {
            Change::Came { user, .. } | Change::Went { user, .. } => !slots.has_user(*user),
        });
    }

    /// Who came and went since this was asked last, in that order: to be asked once a turn.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether a session is registered.
    #[must_use]
    pub fn is_listed(&self, user: UserId, lane: LaneId, session: u64) -> bool {
        self.here(user).any(|listed| (listed.lane, listed.session) == (lane, session))
    }

    /// Whether any device of a user is connected.
    #[must_use]
    pub fn is_online(&self, user: UserId) -> bool {
        self.here(user).next().is_some()
    }

    /// Whether this device of a user is connected; `None`: the default one.
    #[must_use]
    pub fn has_device(&self, user: UserId, device: Option<&str>) -> bool {
        self.here(user).any(|listed| listed.device.as_deref() == device)
    }

    /// The devices on which a user is connected.
    pub fn devices_of(&self, user: UserId) -> impl Iterator<Item = &str> {
        self.here(user).map(|listed| listed.device.as_deref().unwrap_or(DEVICE_ID_DEFAULT))
    }

    /// Whether [`Registry::sweep`] has more to do.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.sweep_from.is_some()
    }

    /// The lanes on which a user hears, without repeats.
    pub fn lanes_of<'a>(&'a self, user: UserId, outbox: &'a Outbox) -> impl Iterator<Item = LaneId> + 'a {
        let sessions = self.users.get(&user).map_or(&[][..], Sessions::as_slice);
        let first_on_its_lane =
            move |at: usize, lane: LaneId| sessions.iter().take(at).all(|session| session.lane != lane);
        let lanes = sessions.iter().enumerate().map(|(at, session)| (at, session.lane));
        lanes
            .filter(move |(at, lane)| outbox.is_up(*lane) && first_on_its_lane(*at, *lane))
            .map(|(_, lane)| lane)
    }

    /// A user's sessions whose registration was answered, with the lanes on which they hear.
    pub fn sessions_of(&self, user: UserId) -> impl Iterator<Item = (LaneId, u64)> {
        self.here(user).map(|listed| (listed.lane, listed.session))
    }

    /// A user's sessions whose registration was answered.
    fn here(&self, user: UserId) -> impl Iterator<Item = &Session> {
        let sessions = self.users.get(&user).map_or(&[][..], Sessions::as_slice);
        sessions.iter().filter(|session| session.has_come)
    }

    /// Notes that a user joined a conversation while they register: the registration's reading may not show it.
    pub fn note_late(&mut self, user: UserId, conversation: ConversationId, is_returning: bool) {
        for key in self.pending_users.get(&user).into_iter().flatten() {
            let Some(pending) = self.pending.get_mut(key) else { continue };
            if pending.late.len() >= LATE_MAX {
                pending.late_overflowed = true;
            } else {
                pending.late.insert(conversation, is_returning);
            }
        }
    }

    /// Whether any registration waits for the store.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Rises whenever who hears where may have changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Users with sessions.
    #[must_use]
    pub fn users_count(&self) -> usize {
        self.users.len()
    }

    /// Lists the session; the one that it replaces is told so. `false`: it is itself replaced, or one too many.
    fn insert(
        &mut self,
        origin: Origin,
        wanted: &Registration,
        device: Option<Box<str>>,
        identified_ns: i64,
        outbox: &mut Outbox,
    ) -> bool {
        self.retain(wanted.user, false, |session| outbox.is_up(session.lane));
        let listed = self.users.get(&wanted.user).map_or(&[][..], Sessions::as_slice);
        let same_device = listed.iter().find(|session| session.device == device).cloned();
        let is_itself =
            same_device.as_ref().is_some_and(|old| (old.lane, old.session) == (origin.lane, origin.session));
        match same_device {
            Some(_) if is_itself => {}
            // At the same moment: one that was here before its lane was lost is not newer.
            Some(old) if (identified_ns, !wanted.again) < (old.identified_ns, true) => {
                outbox.send(origin.lane, &Replaced { session: origin.session });
                return false;
            }
            Some(old) => {
                self.unregister(old.lane, old.session, wanted.user, false);
                outbox.send(old.lane, &Replaced { session: old.session });
            }
            None if listed.len() >= DEVICES_MAX => {
                let refusal = Refusal {
                    field: Some("device_id"),
                    ..Refusal::new(Code::RateLimited, "too many devices are connected")
                };
                outbox.refuse(origin, &refusal);
                return false;
            }
            None => {}
        }
        if !is_itself {
            let Origin { lane, session, .. } = origin;
            let session = Session { lane, session, device, identified_ns, has_come: false };
            match self.users.get_mut(&wanted.user) {
                None => {
                    self.users.insert(wanted.user, Sessions::One(session));
                }
                Some(sessions) => sessions.push(session),
            }
            self.version += 1;
        }
        true
    }

    fn answer(&mut self, origin: Origin, conversations: Vec<Listed>, outbox: &mut Outbox) {
        let key = (origin.lane, origin.session);
        if !self.is_pending(origin) {
            return;
        }
        let mut late =
            self.pending.get_mut(&key).map(|pending| std::mem::take(&mut pending.late)).unwrap_or_default();
        let user = self.forget_pending(origin);
        let mut joined: Vec<Joined> = Vec::with_capacity(conversations.len() + late.len());
        for Listed { conversation, cursor, is_returning } in conversations {
            let is_returning = late.remove(&conversation).unwrap_or(false) || is_returning;
            joined.push(Joined { conversation, cursor, is_returning });
        }
        // Nothing of a conversation that the reading does not show was confirmed by a device that never was in it; one
        // that was is told to drop what it holds.
        let late = late.into_iter();
        joined.extend(late.map(|(conversation, is_returning)| Joined {
            conversation,
            cursor: 0,
            is_returning,
        }));
        let Origin { lane, session, request } = origin;
        let chunks_count = joined.len().div_ceil(LINK_LIST_MAX).max(1);
        for number in 1..=chunks_count {
            let rest = joined.split_off(joined.len().min(LINK_LIST_MAX));
            let conversations = std::mem::replace(&mut joined, rest);
            outbox.send(lane, &Registered { session, request, conversations, more: number < chunks_count });
        }
        if let Some(user) = user {
            self.came(origin, user);
        }
    }

    /// The session is registered; again after a lost answer it is no other than before.
    fn came(&mut self, origin: Origin, user: UserId) {
        let Some(sessions) = self.users.get_mut(&user) else { return };
        let sessions = sessions.as_mut_slice().iter_mut();
        let own = sessions.filter(|s| (s.lane, s.session) == (origin.lane, origin.session));
        for session in own.filter(|session| !session.has_come) {
            session.has_come = true;
            self.changes.push(Change::Came { user, device: session.device.clone() });
        }
    }

    /// Whether this is still the registration that the session waits for.
    fn is_pending(&self, origin: Origin) -> bool {
        let pending = self.pending.get(&(origin.lane, origin.session));
        pending.is_some_and(|pending| pending.request == origin.request)
    }

    fn device_of(&self, origin: Origin, user: UserId) -> Option<&str> {
        let listed = self.users.get(&user)?.as_slice();
        let own = listed.iter().find(|s| (s.lane, s.session) == (origin.lane, origin.session))?;
        Some(own.device.as_deref().unwrap_or(DEVICE_ID_DEFAULT))
    }

    fn forget_pending(&mut self, origin: Origin) -> Option<UserId> {
        let pending = self.pending.remove(&(origin.lane, origin.session))?;
        if let Some(keys) = self.pending_users.get_mut(&pending.user) {
            keys.retain(|key| *key != (origin.lane, origin.session));
            if keys.is_empty() {
                self.pending_users.remove(&pending.user);
            }
        }
        Some(pending.user)
    }

    fn unlist(&mut self, origin: Origin, user: UserId, bye: bool) {
        self.retain(user, bye, |session| (session.lane, session.session) != (origin.lane, origin.session));
    }

    fn retain(&mut self, user: UserId, bye: bool, keep: impl Fn(&Session) -> bool) {
        let Some(sessions) = self.users.get_mut(&user) else { return };
        if sessions.as_slice().iter().all(&keep) {
            return;
        }
        self.version += 1;
        let mut kept = Vec::new();
        for session in sessions.as_slice() {
            if keep(session) {
                kept.push(session.clone());
            } else if session.has_come {
                let Session { lane, session, device, .. } = session.clone();
                self.changes.push(Change::Went { user, device, lane, session, bye });
            }
        }
        match (kept.pop(), kept.is_empty()) {
            (None, _) => {
                self.users.remove(&user);
            }
            (Some(only), true) => *sessions = Sessions::One(only),
            (Some(last), false) => {
                kept.push(last);
                *sessions = Sessions::Many(kept);
            }
        }
    }
}

impl Sessions {
    fn as_slice(&self) -> &[Session] {
        match self {
            Sessions::One(session) => std::slice::from_ref(session),
            Sessions::Many(sessions) => sessions,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Session] {
        match self {
            Sessions::One(session) => std::slice::from_mut(session),
            Sessions::Many(sessions) => sessions,
        }
    }

    fn push(&mut self, session: Session) {
        match self {
            Sessions::One(first) => *self = Sessions::Many(vec![first.clone(), session]),
            Sessions::Many(sessions) => sessions.push(session),
        }
    }
}
