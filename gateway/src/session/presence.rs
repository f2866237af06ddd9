//! Whom a client watches. Kept only while there is somebody.
//!
//! The router tells transitions; what it told is remembered here, so that a repeat is dropped, and what could not be said
//! for lack of room is said when there is some: the latest state, once.
//!
//! # Invariants
//! - At most [`WATCHED_MAX`] users a session, and nothing about anybody else is ever said (PR3, PR4).
//! - Presence gives way to everything else: it is said only while the session is live, and never takes the last half of
//!   what may be queued (DS2). What is said last is true.
//! - Each is watched at their own home. When the lane to it is lost, or it is another one from now on, those are watched
//!   again, and only those. Who is offline in that answer may only be on the way back to the router: it is asked once more
//!   before anybody is told.
//! - A command is answered once, when all the homes that it concerns have answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use carillon_link::Peer;
use carillon_protocol::client::{Done, FrameId, PresenceView, ServerFrame};
use carillon_protocol::frame::{ArchivedUserPresence, ArchivedWatched, Watch};
use carillon_protocol::ids::UserId;
use carillon_protocol::limits::WATCHED_MAX;
use carillon_protocol::placement::Slot;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};

use super::typing::Typists;
use super::{Session, Stage};
use crate::common::Common;
use crate::counters::Shared;
use crate::line::Line;
use crate::owners::Slots;

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

/// A command that waits for routers.
#[derive(Debug)]
struct Ask {
    /// Counts the commands of a session.
    number: u64,
    id: Option<FrameId>,
    users: Vec<UserId>,
    /// Of those, whom the client took back meanwhile.
    taken_back: BTreeSet<UserId>,
    watch: bool,
    /// What is known already.
    states: BTreeMap<UserId, State>,
}

/// Why routers are asked about users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// For the command with this number.
    Ask(u64),
    /// They are watched already. `is_certain`: who is offline in the answer is believed to be.
    Again { is_certain: bool },
}

/// Users about whom the same is asked, in one frame once it is known where.
#[derive(Debug)]
struct Question {
    why: Why,
    users: Vec<UserId>,
    /// When it is due.
    at: Time,
    /// Its request and where it went.
    sent: Option<(u64, Peer)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watching {
    users: BTreeMap<UserId, Watched>,
    /// Where users are watched, or asked to be. More than [`Watching::users`] while commands are under way.
    homes: BTreeMap<UserId, Peer>,
    /// Bounded: a session with as many as `limits.inflight` is not read.
    asks: VecDeque<Ask>,
    asks_count: u64,
    /// In each a user stands once at most for each command, and once for being watched again.
    questions: Vec<Question>,
    /// Users of whom there was no room to tell.
    unsaid: BTreeSet<UserId>,
}

impl Watching {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.asks.is_empty()
    }

    /// Asks again about watched users that are `meant`, and about those that a command waits with for the answer about
    /// others.
    fn watch_again(&mut self, is_meant: impl Fn(UserId, Option<Peer>) -> bool) {
        let homes = &self.homes;
        let is_meant = |user: &UserId| is_meant(*user, homes.get(user).copied());
        for ask in self.asks.iter_mut().filter(|ask| ask.watch) {
            let users: Vec<UserId> =
                ask.states.extract_if(.., |user, _| is_meant(user)).map(|(user, _)| user).collect();
            if !users.is_empty() {
                self.questions.push(Question { why: Why::Ask(ask.number), users, at: Time(0), sent: None });
            }
        }
        let users: Vec<UserId> = self.users.keys().copied().filter(is_meant).collect();
        if users.is_empty() {
            return;
        }
        for question in &mut self.questions {
            if let Why::Again { .. } = question.why {
                question.users.retain(|user| users.binary_search(user).is_err());
            }
        }
        self.questions.retain(|question| !question.users.is_empty());
        let why = Why::Again { is_certain: false };
        self.questions.push(Question { why, users, at: Time(0), sent: None });
    }

    /// A lane is lost: what was asked there is to be asked again, and who was watched there is watched again.
    fn lane_down(&mut self, router: Peer) {
        for question in &mut self.questions {
            question.sent.take_if(|(_, other)| *other == router);
        }
        self.watch_again(|_, home| home == Some(router));
        self.homes.retain(|_, home| *home != router);
    }

    fn deadline(&self) -> Option<Time> {
        let due = self.questions.iter().filter(|question| question.sent.is_none());
        due.map(|question| question.at).filter(|at| *at > Time(0)).min()
    }

    /// What a router told of a user, which is newer than what it answered before, also to a command that waits for others.
    fn learn(&mut self, user: UserId, state: State) {
        for answered in self.asks.iter_mut().filter_map(|ask| ask.states.get_mut(&user)) {
            *answered = state;
        }
        let Some(watched) = self.users.get_mut(&user) else { return };
        watched.now = state;
        if watched.now == watched.told {
            self.unsaid.remove(&user);
        } else {
            self.unsaid.insert(user);
        }
    }

    /// Takes the question with this request.
    fn take(&mut self, request: u64) -> Option<(Question, Peer)> {
        let is_it = |question: &Question| question.sent.is_some_and(|(sent, _)| sent == request);
        let place = self.questions.iter().position(is_it)?;
        let question = self.questions.remove(place);
        let (_, router) = question.sent?;
        Some((question, router))
    }

    /// Takes a command whose questions are all answered.
    fn take_answered(&mut self, number: u64) -> Option<Ask> {
        if self.questions.iter().any(|question| question.why == Why::Ask(number)) {
            return None;
        }
        self.take_ask(number)
    }

    fn take_ask(&mut self, number: u64) -> Option<Ask> {
        let place = self.asks.iter().position(|ask| ask.number == number)?;
        self.asks.remove(place)
    }

    /// What can be asked now, a frame for each router; what cannot stays.
    fn due(&mut self, common: &mut Common) -> Vec<(Peer, u64, Vec<UserId>, bool)> {
        let mut frames = Vec::new();
        for question in std::mem::take(&mut self.questions) {
            if question.sent.is_some() || question.at > common.now {
                self.questions.push(question);
                continue;
            }
            let Question { why, users, .. } = question;
            let watch = match why {
                Why::Ask(number) => self.asks.iter().any(|ask| ask.number == number && ask.watch),
                Why::Again { .. } => true,
            };
            let mut homes: BTreeMap<Option<Peer>, Vec<UserId>> = BTreeMap::new();
            for user in users {
                let is_unwatched = matches!(why, Why::Again { .. }) && !self.users.contains_key(&user);
                if !is_unwatched {
                    let home = common.owners.route_of_user(user).map(|route| route.router);
                    homes.entry(home).or_default().push(user);
                }
            }
            for (home, users) in homes {
                let sent = home.map(|home| (common.request(), home));
                if let Some((request, home)) = sent {
                    for user in &users {
                        if watch {
                            self.homes.insert(*user, home);
                        } else {
                            self.homes.remove(user);
                        }
                    }
                    frames.push((home, request, users.clone(), watch));
                }
                self.questions.push(Question { why, users, at: Time(0), sent });
            }
        }
        frames
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
        let watching = watching.get_or_insert_default();
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
        watching.asks_count += 1;
        let (number, why) = (watching.asks_count, Why::Ask(watching.asks_count));
        watching.questions.push(Question { why, users: users.clone(), at: Time(0), sent: None });
        let (taken_back, states) = (BTreeSet::new(), BTreeMap::new());
        watching.asks.push_back(Ask { number, id, users, taken_back, watch, states });
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
        if !self.is_registered() {
            return;
        }
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        let session = line.id.as_u64();
        for (router, request, users, watch) in watching.due(common) {
            common.link(router, &Watch { session, request, user: self.user, users, watch });
        }
    }

    /// The session is over: routers that are not its home hear of it only by this.
    pub(super) fn unwatch_all(&mut self, line: &Line, common: &mut Common) {
        let home = self.home();
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.take()) else { return };
        let mut users: BTreeMap<Peer, Vec<UserId>> = BTreeMap::new();
        for (user, router) in watching.homes {
            users.entry(router).or_default().push(user);
        }
        for (router, users) in users.into_iter().filter(|(router, _)| Some(*router) != home) {
            for users in users.chunks(WATCHED_MAX) {
                let (session, users) = (line.id.as_u64(), users.to_vec());
                common.link(router, &Watch { session, request: 0, user: self.user, users, watch: false });
            }
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

    /// A router answered a `Watch`.
    pub(crate) fn watched(&mut self, frame: &ArchivedWatched, line: &mut Line, common: &mut Common) {
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        let Some((Question { why, users, .. }, router)) = watching.take(frame.request.to_native()) else {
            return;
        };
        // What was asked of a home that is none any more is asked of the next one.
        let home = |user: UserId| common.owners.route_of_user(user).map(|route| route.router);
        let is_void = |user: UserId| home(user) != Some(router);
        let moved: Vec<UserId> = users.into_iter().filter(|user| is_void(*user)).collect();
        if !moved.is_empty() {
            watching.questions.push(Question { why, users: moved, at: Time(0), sent: None });
        }
        let states = frame.users.iter().map(|one| (UserId(one.user.0.to_native()), State::new(one)));
        let states = states.filter(|(user, _)| !is_void(*user)).collect::<Vec<_>>();
        match why {
            Why::Again { is_certain } => {
                let mut doubted = Vec::new();
                for (user, state) in states {
                    let was_online = watching.users.get(&user).is_some_and(|watched| watched.told.online);
                    if was_online && !state.online && !is_certain {
                        doubted.push(user);
                    } else {
                        watching.learn(user, state);
                    }
                }
                if !doubted.is_empty() {
                    let (why, at) = (Why::Again { is_certain: true }, common.now.after_ms(DOUBT_MS));
                    watching.questions.push(Question { why, users: doubted, at, sent: None });
                }
            }
            Why::Ask(number) => {
                let Some(ask) = watching.asks.iter_mut().find(|ask| ask.number == number) else { return };
                ask.states.extend(states);
                let Some(ask) = watching.take_answered(number) else { return };
                let Ask { id, users, taken_back, watch, states, .. } = ask;
                let mut presence = Vec::with_capacity(users.len());
                for user in users {
                    let Some(state) = states.get(&user).copied() else { continue };
                    presence.push(state.view(user));
                    if watch && !taken_back.contains(&user) {
                        watching.users.insert(user, Watched { told: state, now: state });
                        watching.unsaid.remove(&user);
                    }
                }
                line.say(common, &ServerFrame::Ok(Done { id, presence: Some(presence), ..Done::default() }));
            }
        }
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
        let Some((question, _)) = watching.take(request) else { return false };
        match question.why {
            Why::Again { .. } => {
                let at = common.now.after_ms(RETRY_MS);
                watching.questions.push(Question { at, sent: None, ..question });
            }
            Why::Ask(number) => {
                // Whatever the others answer, the command has failed.
                watching.questions.retain(|other| other.why != question.why);
                if let Some(ask) = watching.take_ask(number) {
                    line.refuse(common, ask.id, refusal.clone());
                }
            }
        }
        true
    }

    /// A router is not the home of somebody it was asked about; `false`: the request is none about presence.
    pub(super) fn watch_disowned(&mut self, request: u64, named: Slot, common: &mut Common) -> bool {
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return false };
        let Some((question, router)) = watching.take(request) else { return false };
        // Whatever it said before on its lane, it says now that it is not the owner of that one. Of the others it says
        // nothing, even if whoever it names is asked about elsewhere by now.
        if let Some(route) = common.owners.route(named).filter(|route| route.router == router) {
            common.owners.refuted(named, route);
        }
        watching.questions.push(Question { sent: None, ..question });
        true
    }

    /// The slots of some users are another router's now.
    pub(super) fn watched_moved(&mut self, moved: &Slots) {
        if let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) {
            watching.watch_again(|user, _| moved.contains_user(user));
        }
    }

    /// A router knows no more whom the session watches there.
    pub(super) fn watch_again_at(&mut self, router: Peer) {
        if let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) {
            watching.watch_again(|_, home| home == Some(router));
        }
    }

    /// A watched user came or went, says their home. `encoded`: the frame as it goes to those who were told nothing else
    /// meanwhile.
    pub(crate) fn presence(
        &mut self,
        router: Peer,
        user: UserId,
        state: State,
        encoded: &mut [Option<Bytes>; 2],
        line: &mut Line,
        common: &mut Common,
    ) {
        let hears = self.hears_ephemeral(line);
        let Some(watching) = self.live.as_mut().and_then(|live| live.watching.as_mut()) else { return };
        // A former home may have a last word, which is about itself.
        if watching.homes.get(&user) != Some(&router) {
            return;
        }
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

    /// A lane is lost.
    pub(super) fn live_lane_down(&mut self, router: Peer) {
        let Some(live) = &mut self.live else { return };
        if let Some(watching) = &mut live.watching {
            watching.lane_down(router);
        }
        if let Some(typing) = &mut live.typing {
            typing.lane_down(router);
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
