//! Whom a client watches. Kept only while there is somebody.
//!
//! The router tells transitions; what it told is remembered here, so that a repeat is dropped, and what could not be said
//! for lack of room is said when there is some: the latest state, once.
//!
//! # Invariants
//! - At most [`WATCHED_MAX`] users a session, and nothing about anybody else is ever said (PR3, PR4).
//! - Presence gives way to everything else: it is said only while the session is live, and never takes the last half of
//!   what may be queued (DS2). What is said last is true.
//! - After a lost lane all are watched again. Who is offline in that answer may only be on the way back to the router:
//!   it is asked once more before anybody is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use carillon_protocol::client::{Done, FrameId, PresenceView, ServerFrame};
use carillon_protocol::frame::{ArchivedUserPresence, ArchivedWatched, Watch};
use carillon_protocol::ids::UserId;
use carillon_protocol::limits::WATCHED_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};

use super::typing::Typists;
use super::{Session, Stage};
use crate::common::Common;
use crate::counters::Shared;
use crate::line::Line;

/// When those are asked about once more who were online before the lane was lost: longer than a router counts them as
/// online after their last connection.
const DOUBT_MS: u64 = 6_000;
/// When a refused question is asked again.
const RETRY_MS: u64 = 1_000;

/// What a session has to do with what is not stored. A session without any has no memory for it.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) watching: Option<Box<Watching>>,
    pub(super) typing: Option<Box<Typists>>,
}

/// How a user is, as a client is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    online: bool,
    /// Unix milliseconds; 0 while online, or when it is not known.
    last_seen_at_ms: u64,
}

impl State {
    pub(crate) fn new(presence: &ArchivedUserPresence) -> State {
        let last_seen_at_ms = if presence.online { 0 } else { presence.last_seen_at_ms.to_native() };
        State { online: presence.online, last_seen_at_ms }
    }

    pub(crate) fn view(self, user: UserId) -> PresenceView {
        let last_seen_at = (self.last_seen_at_ms > 0).then_some(WallMs(self.last_seen_at_ms));
        PresenceView { user, online: self.online, last_seen_at }
    }
}

#[derive(Debug)]
struct Watched {
    /// What the client was told.
    told: State,
    /// What the router told.
    now: State,
}

/// A command that waits for the router.
#[derive(Debug)]
struct Ask {
    /// 0 while it is not on a lane.
    request: u64,
    id: Option<FrameId>,
    users: Vec<UserId>,
    /// Of those, whom the client took back meanwhile.
    taken_back: BTreeSet<UserId>,
    watch: bool,
}

/// Where watching everybody again stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    /// `is_certain`: who is offline then is believed to be.
    Due {
        at: Time,
        is_certain: bool,
    },
    Asked {
        request: u64,
        is_certain: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watching {
    users: BTreeMap<UserId, Watched>,
    /// Bounded: a session with as many as `limits.inflight` is not read.
    asks: VecDeque<Ask>,
    again: Again,
    /// Users of whom there was no room to tell.
    unsaid: BTreeSet<UserId>,
}

impl Watching {
    fn new() -> Watching {
        Watching { users: BTreeMap::new(), asks: VecDeque::new(), again: Again::No, unsaid: BTreeSet::new() }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.asks.is_empty()
    }

    /// The lane is lost: what was asked is to be asked again, and everybody watched again.
    fn lane_down(&mut self) {
        self.asks.iter_mut().for_each(|ask| ask.request = 0);
        let is_watching = !self.users.is_empty();
        self.again = if is_watching { Again::Due { at: Time(0), is_certain: false } } else { Again::No };
    }

    fn deadline(&self) -> Option<Time> {
        match self.again {
            Again::Due { at, .. } if at > Time(0) => Some(at),
            _ => None,
        }
    }

    fn learn(&mut self, user: UserId, state: State) {
        let Some(watched) = self.users.get_mut(&user) else { return };
        watched.now = state;
        if watched.now == watched.told {
            self.unsaid.remove(&user);
        } else {
            self.unsaid.insert(user);
        }
    }
}

impl Session {
    /// `presence_subscribe`, `presence_unsubscribe`.
    pub(super) fn watch(
        &mut self,
        id: Option<FrameId>,
        users: Vec<UserId>,
        watch: bool,
        line: &mut Line,
        common: &mut Common,
    ) {
        let watching = &mut self.live.get_or_insert_default().watching;
        let watching = watching.get_or_insert_with(|| Box::new(Watching::new()));
        if watch {
            let mut all: BTreeSet<UserId> = watching.users.keys().copied().collect();
            all.extend(watching.asks.iter().filter(|ask| ask.watch).flat_map(|ask| &ask.users));
            all.extend(&users);
            if all.len() > WATCHED_MAX {
                let message = format!("a connection subscribes to at most {WATCHED_MAX} users");
                let refusal = Refusal { field: Some("user_ids"), ..Refusal::new(Code::TooLarge, message) };
                line.refuse(common, id, refusal);
                return;
            }
        } else {
            for user in &users {
                watching.users.remove(user);
                watching.unsaid.remove(user);
            }
            for ask in watching.asks.iter_mut().filter(|ask| ask.watch) {
                ask.taken_back.extend(&users);
            }
        }
        watching.asks.push_back(Ask { request: 0, id, users, taken_back: BTreeSet::new(), watch });
    }

    /// Asks what waits to be asked, and says what waits to be said.
    pub(super) fn settle_presence(&mut self, line: &mut Line, common: &mut Common) {
        if self.live.as_ref().is_none_or(|live| live.watching.is_none()) {
            return;
        }
        self.ask_presence(line, common);
        if self.hears_ephemeral(line) {
            self.say_presence(line, common);
        }
        if let Some(live) = &mut self.live {
            live.watching.take_if(|watching| watching.is_empty());
        }
    }

    fn ask_presence(&mut self, line: &Line, common: &mut Common) {
        let router = Common::router_of_user(self.user);
        if !self.is_registered() || !common.is_up(router) {
            return;
        }
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        let frame = |request: u64, users: Vec<UserId>, watch: bool| Watch {
            session: line.id.as_u64(),
            request,
            user: self.user,
            users,
            watch,
        };
        match watching.again {
            Again::Due { .. } if watching.users.is_empty() => watching.again = Again::No,
            Again::Due { at, is_certain } if at <= common.now => {
                let request = common.request();
                watching.again = Again::Asked { request, is_certain };
                common.link(router, &frame(request, watching.users.keys().copied().collect(), true));
            }
            _ => {}
        }
        for ask in watching.asks.iter_mut().filter(|ask| ask.request == 0) {
            ask.request = common.request();
            common.link(router, &frame(ask.request, ask.users.clone(), ask.watch));
        }
    }

    fn say_presence(&mut self, line: &mut Line, common: &mut Common) {
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        while let Some(user) = watching.unsaid.first().copied() {
            if let Some(watched) = watching.users.get_mut(&user) {
                let frame = ServerFrame::Presence(watched.now.view(user));
                let bytes = line.encode(common, &frame);
                if !line.whisper(common, bytes, Shared::Presence) {
                    return;
                }
                watched.told = watched.now;
            }
            watching.unsaid.remove(&user);
        }
    }

    /// The router answered a `Watch`.
    pub(crate) fn watched(&mut self, frame: &ArchivedWatched, line: &mut Line, common: &mut Common) {
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        let request = frame.request.to_native();
        let states = frame.users.iter().map(|one| (UserId(one.user.0.to_native()), State::new(one)));
        if let Again::Asked { request: asked, is_certain } = watching.again
            && asked == request
        {
            let mut is_in_doubt = false;
            for (user, state) in states {
                let was_online = watching.users.get(&user).is_some_and(|watched| watched.told.online);
                if was_online && !state.online && !is_certain {
                    is_in_doubt = true;
                } else {
                    watching.learn(user, state);
                }
            }
            watching.again = Again::No;
            if is_in_doubt {
                watching.again = Again::Due { at: common.now.after_ms(DOUBT_MS), is_certain: true };
            }
            return;
        }
        let Some(place) = watching.asks.iter().position(|ask| ask.request == request && request != 0) else {
            return;
        };
        let Some(ask) = watching.asks.remove(place) else { return };
        let mut presence = Vec::with_capacity(ask.users.len());
        for (user, state) in states {
            presence.push(state.view(user));
            if ask.watch && !ask.taken_back.contains(&user) {
                watching.users.insert(user, Watched { told: state, now: state });
                watching.unsaid.remove(&user);
            }
        }
        line.say(common, &ServerFrame::Ok(Done { id: ask.id, presence: Some(presence), ..Done::default() }));
    }

    /// A request is refused; `false`: it is none about presence.
    pub(super) fn watch_refused(
        &mut self,
        request: u64,
        refusal: &Refusal,
        line: &mut Line,
        common: &mut Common,
    ) -> bool {
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return false };
        if let Again::Asked { request: asked, is_certain } = watching.again
            && asked == request
        {
            watching.again = Again::Due { at: common.now.after_ms(RETRY_MS), is_certain };
            return true;
        }
        let Some(place) = watching.asks.iter().position(|ask| ask.request == request) else { return false };
        if let Some(ask) = watching.asks.remove(place) {
            line.refuse(common, ask.id, refusal.clone());
        }
        true
    }

    /// A watched user came or went. `encoded`: the frame as it goes to those who were told nothing else meanwhile.
    pub(crate) fn presence(
        &mut self,
        user: UserId,
        state: State,
        encoded: &mut [Option<Bytes>; 2],
        line: &mut Line,
        common: &mut Common,
    ) {
        let hears = self.hears_ephemeral(line);
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        watching.learn(user, state);
        if !hears || !watching.unsaid.contains(&user) {
            return;
        }
        let Some(watched) = watching.users.get_mut(&user) else { return };
        let bytes = line.encode_shared(common, encoded, &ServerFrame::Presence(state.view(user)));
        // No room: it stays unsaid until there is some.
        if line.whisper(common, bytes, Shared::Presence) {
            watched.told = state;
            watching.unsaid.remove(&user);
        }
    }

    /// Commands about presence that wait for the router.
    pub(super) fn watches_in_flight(&self) -> usize {
        let watching = self.live.as_ref().and_then(|live| live.watching.as_ref());
        watching.map_or(0, |watching| watching.asks.len())
    }

    /// The lane is lost.
    pub(super) fn live_lane_down(&mut self) {
        let Some(live) = &mut self.live else { return };
        if let Some(watching) = &mut live.watching {
            watching.lane_down();
        }
        if let Some(typing) = &mut live.typing {
            typing.lane_down();
        }
    }

    /// Whether ephemeral frames are said at all: not before the client is caught up, nor while it is behind.
    pub(super) fn hears_ephemeral(&self, line: &Line) -> bool {
        matches!(self.stage, Stage::Live(_)) && line.closing.is_none()
    }

    /// Whether the router knows of this session.
    fn is_registered(&self) -> bool {
        matches!(self.stage, Stage::Peeking(_) | Stage::CatchingUp(_) | Stage::Live(_))
    }

    /// When something about presence or typing is due. What is due but waits for the router is no deadline.
    pub(super) fn live_deadline(&self) -> Option<Time> {
        let live = self.live.as_ref()?;
        let watching = live.watching.as_ref().filter(|_| self.is_registered());
        let watching = watching.and_then(|watching| watching.deadline());
        let typing = live.typing.as_ref().and_then(|typing| typing.deadline());
        watching.into_iter().chain(typing).min()
    }
}
