//! One client: from its first frame to its last. States are types; a session moves through them in one direction, and
//! back to registering when the lane to its home is lost, or its home becomes another one:
//!
//! await identify → registering → peeking → catching up → live (→ catching up, when it fell behind)
//!
//! # Invariants
//! - A session is idle most of its life, and then owns no memory beyond itself and its name.
//! - Per conversation, durable events leave as cursor + 1, cursor + 2, …; what this connection sent itself is filled by
//!   its ack; a skip comes only after `behind` or `reset` (G6).
//! - Who the client is comes from its token and nowhere else.
//!
//! # Budget
//! What an idle connection takes of a gateway's memory (G13), all of it:
//!
//! | what | bytes | held by |
//! |---|---|---|
//! | itself: its line and outbox, decoder, session and limiter | 256 | `shard/connection.rs` |
//! | the name of its device | 8 to 64 | its length |
//! | a place among the shard's connections, and as much for growing | 8 to 16 | `shard/table.rs` |
//! | its user in the roster, and the places that the map keeps free | 29 to 57 | `roster.rs` |
//! | its entry in the wheel, and room for another | 16 to 32 | `wheel.rs` |
//! | a place in the ring's table, and one for a send | 20 | `io/uring/table.rs` |
//!
//! What it has under way, whom it watches, where it types, what it did wrong, what it still has to be brought: each is behind a
//! pointer that is empty while there is none of it. What a message needs on its way is kept by the shard for the next one
//! (`spares.rs`). A shard itself takes 3 MB, most of it receive buffers and the rings of its lanes.

mod catch_up;
mod deliver;
mod joining;
mod place;
mod plan;
mod presence;
mod rates;
mod register;
mod submit;
mod sync;
mod typing;
mod work;

use carillon_link::Peer;
use carillon_node::tokens::Claims;
use carillon_protocol::client::{Command, Done, FrameId, Incoming, ServerFrame, field_name};
use carillon_protocol::frame::{ArchivedNotOwner, ArchivedPage, ArchivedRefused, Change, Unregister};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::{Slot, slot_of_user};
use carillon_protocol::reason::{Close, Code, Refusal};
use carillon_protocol::time::Time;

pub(crate) use deliver::Delivery;
pub(crate) use presence::State;
pub(crate) use work::{Marks, ReadTo, Work};

use crate::auth;
use crate::common::Common;
use crate::limits::Faults;
use crate::line::Line;
use crate::owners::{Changes, Route};
use crate::tails::{Life, Moment};
use catch_up::CatchingUp;
use presence::Live;
use register::{Cause, Peeking, Registering};
use work::Marked;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    stage: Stage,
    user: UserId,
    device: Box<str>,
    /// When the token ends, on our clock; far away before `identify`.
    expires_at: Time,
    /// When the token was issued, Unix seconds.
    issued_at_s: u64,
    /// When the client identified.
    identified_at: Time,
    /// Whether the client said that it goes.
    said_bye: bool,
    /// When a frame last came.
    heard_at: Time,
    work: Option<Box<Work>>,
    faults: Option<Box<Faults>>,
    /// Whom it watches, and where it types.
    live: Option<Box<Live>>,
    /// When its next frame would be due if they came evenly, in nanoseconds of our clock.
    frames_due: u64,
}

#[derive(Debug)]
enum Stage {
    /// What came with the upgrade, if a token did.
    AwaitIdentify(Option<Box<Claims>>),
    Registering(Box<Registering>),
    Peeking(Box<Peeking>),
    CatchingUp(Box<CatchingUp>),
    /// Live in everything since this life of the lane.
    Live(Life),
    /// Over; also while it moves from one stage to the next.
    Gone,
}

impl Session {
    /// A session behind an upgrade that brought these claims, or none.
    pub(crate) fn new(claims: Option<Claims>, now: Time) -> Session {
        Session {
            stage: Stage::AwaitIdentify(claims.map(Box::new)),
            user: UserId(0),
            device: Box::default(),
            expires_at: Time(u64::MAX),
            issued_at_s: 0,
            identified_at: now,
            said_bye: false,
            heard_at: now,
            work: None,
            faults: None,
            live: None,
            frames_due: 0,
        }
    }

    /// What it has under way.
    fn work(&mut self, common: &mut Common) -> &mut Work {
        self.work.get_or_insert_with(|| common.spares.work())
    }

    /// Whose it is, once that is known.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.is_identified().then_some(self.user)
    }

    fn is_identified(&self) -> bool {
        !matches!(self.stage, Stage::AwaitIdentify(_) | Stage::Gone)
    }

    /// Any frame came.
    pub(crate) fn heard(&mut self, now: Time) {
        // Before `identify` time runs from the upgrade.
        if self.is_identified() {
            self.heard_at = now;
        }
    }

    /// Whether so much is under way that the client has to wait.
    pub(crate) fn is_full(&self, common: &Common) -> bool {
        let inflight = common.settings.limits.inflight;
        self.work.as_ref().is_some_and(|work| work.is_full(inflight)) || self.watches_in_flight() >= inflight
    }

    /// A frame of the client.
    pub(crate) fn command(&mut self, incoming: Incoming<'_>, line: &mut Line, common: &mut Common) {
        let Incoming { id, command } = incoming;
        common.counters.heard(command.as_ref().ok());
        if !self.admit_frame(id.as_ref(), line, common) {
            return;
        }
        match command {
            Err(wrong) => {
                line.refuse(common, id, wrong.refusal);
                let count_max = common.settings.limits.malformed_max;
                if wrong.malformed && self.faults.get_or_insert_default().malformed(common.now, count_max) {
                    line.close(Close::MalformedFrames);
                }
            }
            Ok(Command::Bye) => {
                self.said_bye = true;
                line.close(Close::Bye);
            }
            Ok(command) if self.is_identified() => self.identified_command(id, command, line, common),
            Ok(Command::Identify { token, cursors }) => {
                self.identify(id, token.as_deref(), cursors, line, common);
            }
            Ok(_) => line.refuse(common, id, Refusal::new(Code::Unauthenticated, "identify first")),
        }
    }

    fn identified_command(
        &mut self,
        id: Option<FrameId>,
        command: Command<'_>,
        line: &mut Line,
        common: &mut Common,
    ) {
        match command {
            Command::SendMessage(message) => self.send_message(id, message, line, common),
            Command::Delivered { conversation, seq } => {
                self.mark(id, Marked { conversation, delivered_seq: seq, read_seq: 0 }, line, common);
            }
            Command::Read { conversation, seq } => {
                self.mark(id, Marked { conversation, delivered_seq: 0, read_seq: seq }, line, common);
            }
            Command::DeleteMessage { conversation, message, client_msg_id } => {
                self.change(id, client_msg_id, conversation, Change::Delete { message }, line, common);
            }
            Command::React { conversation, message, emoji, client_msg_id, add } => {
                let emoji = emoji.into_owned();
                let change =
                    if add { Change::React { message, emoji } } else { Change::Unreact { message, emoji } };
                self.change(id, client_msg_id, conversation, change, line, common);
            }
            Command::Typing { conversation, start } => self.typing(id, conversation, start, line, common),
            Command::PresenceSubscribe { users } => self.watch(id, users, true, line, common),
            Command::PresenceUnsubscribe { users } => self.watch(id, users, false, line, common),
            Command::Sync { conversation, from_seq, limit } => {
                self.sync(id, conversation, from_seq, limit, common)
            }
            Command::RefreshToken { token } => self.refresh_token(id, &token, line, common),
            Command::Heartbeat => line.say(common, &ServerFrame::HeartbeatAck { id }),
            Command::Identify { .. } => {
                let refusal = Refusal::new(Code::BadRequest, "this connection is identified already");
                line.refuse(common, id, refusal);
            }
            Command::Bye => line.close(Close::Bye),
        }
    }

    fn identify(
        &mut self,
        id: Option<FrameId>,
        token: Option<&str>,
        cursors: Vec<(ConversationId, Seq)>,
        line: &mut Line,
        common: &mut Common,
    ) {
        let Stage::AwaitIdentify(from_upgrade) = &mut self.stage else { return };
        let claims = match (from_upgrade.take(), token) {
            (Some(claims), _) => *claims,
            (None, None) => {
                let refusal = Refusal {
                    field: Some("token"),
                    ..Refusal::new(Code::Unauthenticated, "a token is needed")
                };
                line.refuse(common, id, refusal);
                return;
            }
            (None, Some(token)) => match auth::verify(&common.keys, token, common.wall) {
                Ok(claims) => claims,
                Err(refusal) => {
                    line.refuse(common, id, refusal);
                    line.close(Close::AuthenticationFailed);
                    return;
                }
            },
        };
        self.user = UserId(claims.user_id);
        (self.expires_at, self.issued_at_s) = (expires_at(&claims, common), claims.issued_s);
        self.identified_at = common.now;
        self.device = claims.device_id.into_boxed_str();
        self.heard_at = common.now;
        let name = claims.name.unwrap_or_default();
        let cause = Cause::Fresh { id, since: common.now, name, cursors };
        self.stage = Stage::Registering(Registering::new(cause));
        self.register(line, common);
    }

    fn refresh_token(&mut self, id: Option<FrameId>, token: &str, line: &mut Line, common: &mut Common) {
        let claims = match auth::verify(&common.keys, token, common.wall) {
            Ok(claims) => claims,
            Err(refusal) => return line.refuse(common, id, refusal),
        };
        if claims.user_id != self.user.0 || *claims.device_id != *self.device {
            let refusal = Refusal::field("token", "the token is for another user or device");
            return line.refuse(common, id, refusal);
        }
        // The one before was not issued before its device was revoked; of an older one nobody here knows that.
        if claims.issued_s < self.issued_at_s {
            let refusal = Refusal::field("token", "the token is older than the one that it is to replace");
            return line.refuse(common, id, refusal);
        }
        (self.expires_at, self.issued_at_s) = (expires_at(&claims, common), claims.issued_s);
        line.say(common, &ServerFrame::Ok(Done { id, ..Done::default() }));
    }

    /// The router on whose lane it hears what is for it: its home, once it is registered there or asks to be.
    pub(crate) fn home(&self) -> Option<Peer> {
        match &self.stage {
            Stage::AwaitIdentify(_) | Stage::Gone => None,
            Stage::Registering(registering) => registering.home.map(|home| home.router),
            Stage::Peeking(peeking) => Some(peeking.home.router),
            Stage::CatchingUp(catching_up) => Some(catching_up.home()),
            Stage::Live(life) => Some(life.router),
        }
    }

    /// Whether anything of it may change with who owns what.
    pub(crate) fn is_concerned(&self, changes: &Changes) -> bool {
        let is_idle = matches!(self.stage, Stage::Live(_)) && self.work.is_none() && self.live.is_none();
        !is_idle || changes.raised.contains_user(self.user)
    }

    /// It became known who owns what.
    pub(crate) fn owners_changed(&mut self, changes: &Changes, line: &mut Line, common: &mut Common) {
        // From here on its home may hand on to the others what is for its user as well: it is not live by that.
        if changes.raised.contains_user(self.user) {
            self.unregister(|life| common.tails(life.router).moment(life));
        }
        if !changes.raised.is_empty() {
            self.put_back(|slot, route| changes.raised.contains(slot) && common.owners.is_void(slot, route));
        }
        self.watched_moved(&changes.moved);
        self.register(line, common);
        self.ask_again(common);
    }

    /// The lane to a router is lost.
    pub(crate) fn lane_down(&mut self, router: Peer) {
        if self.home() == Some(router) {
            self.unregister(Moment::end_of);
        }
        self.put_back(|_, route| route.router == router);
        self.live_lane_down(router);
    }

    /// What was asked about conversations, in a way that is `meant`, and is not answered is to be asked again.
    fn put_back(&mut self, is_meant: impl Fn(Slot, Route) -> bool) {
        self.unask(&is_meant);
        self.unask_sync(&is_meant);
        if let Stage::CatchingUp(catching_up) = &mut self.stage {
            catching_up.unask(&is_meant);
        }
    }

    /// A page came.
    pub(crate) fn page(&mut self, page: &ArchivedPage, line: &mut Line, common: &mut Common) {
        if !self.plan_page(page, line, common) {
            self.sync_page(page, line, common);
        }
    }

    /// A device was revoked: tokens issued up to `at_ms` are refused.
    pub(crate) fn revoked(&mut self, device: &str, at_ms: u64, line: &mut Line) {
        if self.is_identified() && *self.device == *device && self.issued_at_s.saturating_mul(1_000) <= at_ms
        {
            line.close(Close::DeviceRevoked);
        }
    }

    /// A request is refused.
    pub(crate) fn refused(&mut self, frame: &ArchivedRefused, line: &mut Line, common: &mut Common) {
        let refusal = Refusal {
            code: Code::from_number(frame.code.to_native()),
            message: frame.message.as_str().to_owned().into(),
            field: field_name(&frame.field),
            retry_after_ms: Some(u64::from(frame.retry_after_ms.to_native())).filter(|millis| *millis > 0),
        };
        self.refuse(frame.request.to_native(), refusal, line, common);
    }

    /// A router does not own what it was asked about: whatever that is, it is not believed to any more by the epoch by
    /// which it was asked, and is put back until the owner is known.
    pub(crate) fn not_owner(
        &mut self,
        router: Peer,
        frame: &ArchivedNotOwner,
        line: &mut Line,
        common: &mut Common,
    ) {
        let request = frame.request.to_native();
        let named = Slot(frame.slot.to_native());
        if request == 0 {
            return self.marks_disowned((router, named), line, common);
        }
        if self.watch_disowned(request, named, common) {
            return;
        }
        let is_one = |_: Slot, _: Route| true;
        let place = match &mut self.stage {
            Stage::Registering(registering) if registering.request == request => registering.home,
            Stage::Peeking(peeking) if peeking.requests.contains(&request) => Some(peeking.home),
            _ => None,
        };
        let place = if let Some(home) = place {
            self.unregister(Moment::end_of);
            Some((slot_of_user(self.user), home))
        } else if let Stage::CatchingUp(catching_up) = &mut self.stage
            && let Some(place) = catching_up.asked(request)
        {
            catching_up.unask(is_one);
            Some(place)
        } else if let Some(place) = self.sync_asked(request) {
            self.unask_sync(is_one);
            Some(place)
        } else {
            self.disowned(request).or_else(|| self.typing_disowned(request, line, common))
        };
        if let Some((slot, route)) = place {
            common.owners.refuted(slot, route);
            self.register(line, common);
            self.ask_again(common);
        }
    }

    fn refuse(&mut self, request: u64, refusal: Refusal, line: &mut Line, common: &mut Common) {
        let is_registering = match &self.stage {
            Stage::Registering(registering) => registering.request == request && request != 0,
            Stage::Peeking(peeking) => peeking.requests.contains(&request),
            _ => false,
        };
        if is_registering {
            self.register_refused(refusal, line, common);
        } else if request == 0 {
            // A watermark that nobody waits for: worth telling all the same.
            line.refuse(common, None, refusal);
        } else {
            let _ = self.plan_refused(request, &refusal, common)
                || self.watch_refused(request, &refusal, line, common)
                || self.typing_refused(request, &refusal, line, common)
                || self.sync_refused(request, &refusal, line, common)
                || self.ask_refused(request, refusal, line, common);
        }
    }

    /// The end of a turn in which something happened here.
    pub(crate) fn settle(&mut self, line: &mut Line, common: &mut Common) {
        if line.closing.is_some() {
            return;
        }
        self.flush_receipts(line, common);
        self.say_reads(line, common);
        self.settle_presence(line, common);
        self.settle_typing(line, common);
        self.start_sync(line, common);
        self.advance(line, common);
        if let Some(idle) = self.work.take_if(|work| work.is_empty()) {
            common.spares.keep_work(idle);
        }
        let is_answered = self.work.as_ref().is_none_or(|work| work.asked.is_empty());
        if common.is_draining && is_answered {
            line.close(Close::Restart);
        }
    }

    /// The earliest of its deadlines. Those that wait for the client count from when this process could listen.
    pub(crate) fn deadline(&self, line: &Line, common: &Common) -> Time {
        let limits = &common.settings.limits;
        let wait = |since: Time, millis: u64| since.max(common.resumed_at).after_ms(millis);
        if let Stage::AwaitIdentify(_) = self.stage {
            return wait(self.heard_at, limits.identify_timeout_ms);
        }
        let heartbeat = wait(self.heard_at, limits.silence_ms_max());
        let stuck = (!line.outbox.is_empty()).then_some(line.progress_at);
        let (behind, retry) = match &self.stage {
            Stage::CatchingUp(catching_up) => {
                (catching_up.behind_since().map(|since| since.max(line.progress_at)), catching_up.retry_at)
            }
            Stage::Registering(registering) => (None, registering.retry_at),
            _ => (None, None),
        };
        let slow = stuck.into_iter().chain(behind).min().map(|since| wait(since, limits.slow_grace_ms));
        let others = [self.gives_up_at(common), self.registers_until(common), self.live_deadline()];
        [Some(self.expires_at), slow, retry].into_iter().chain(others).flatten().fold(heartbeat, Time::min)
    }

    /// When a session that never got through is told so.
    fn registers_until(&self, common: &Common) -> Option<Time> {
        match self.cause() {
            Some(Cause::Fresh { since, .. }) => {
                Some(since.after_ms(common.settings.gateway.unknown_after_ms))
            }
            _ => None,
        }
    }

    /// One of its deadlines is over, or was and moved.
    pub(crate) fn expire(&mut self, is_paused: bool, line: &mut Line, common: &mut Common) {
        let now = common.now;
        if line.closing.is_some() {
            return;
        }
        if let Stage::AwaitIdentify(_) = self.stage {
            if self.deadline(line, common) <= now {
                line.close(Close::IdentifyTimeout);
            }
            return;
        }
        if self.expires_at <= now {
            line.close(Close::TokenExpired);
            return;
        }
        if self.registers_until(common).is_some_and(|until| until <= now) {
            let refusal =
                Refusal::new(Code::Unavailable, "the server cannot reach its store: try again later");
            let id = self.identify_id();
            line.refuse(common, id, refusal);
            line.close(Close::TryLater);
            return;
        }
        self.give_up_unasked(line, common);
        match &mut self.stage {
            Stage::CatchingUp(catching_up) => {
                catching_up.retry_at.take_if(|at| *at <= now);
            }
            Stage::Registering(registering) => {
                registering.retry_at.take_if(|at| *at <= now);
                self.register(line, common);
            }
            _ => {}
        }
        let limits = &common.settings.limits;
        let is_over = |since: Time, millis: u64| since.max(common.resumed_at).after_ms(millis) <= now;
        let is_stuck = !line.outbox.is_empty() && is_over(line.progress_at, limits.slow_grace_ms);
        let is_behind_for_long = match &self.stage {
            Stage::CatchingUp(catching_up) => catching_up
                .behind_since()
                .is_some_and(|since| is_over(since.max(line.progress_at), limits.slow_grace_ms)),
            _ => false,
        };
        if is_stuck || is_behind_for_long {
            line.close(Close::SlowConsumer);
        } else if is_over(self.heard_at, limits.silence_ms_max()) {
            if is_paused {
                // We are not listening: silence means nothing.
                self.heard_at = now;
            } else {
                line.close(Close::HeartbeatMissed);
            }
        }
    }

    /// The session is over; its home is told, and the routers where it watches somebody, and they forget it.
    pub(crate) fn end(&mut self, line: &Line, common: &mut Common) {
        self.unwatch_all(line, common);
        let listed_by = match &self.stage {
            Stage::Registering(registering) => registering.listed_by,
            _ => None,
        };
        if let Some(home) = self.home().or(listed_by).filter(|home| common.owners.is_up(*home)) {
            let unregister = Unregister { session: line.id.as_u64(), user: self.user, bye: self.said_bye };
            common.link(home, &unregister);
        }
        self.stage = Stage::Gone;
        self.work = None;
    }
}

/// When these claims end, on our clock. Wall time only says how long that is from now (G16).
fn expires_at(claims: &Claims, common: &Common) -> Time {
    common.now.after_ms(claims.dead_at_ms().saturating_sub(common.wall.0))
}
