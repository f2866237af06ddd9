//! REST, without HTTP: requests come in parsed, become frames for a router, and its answers become responses.
//!
//! Driven by three verbs: [`Rest::handle`], then [`Rest::poll_output`] until `None`, and [`Rest::poll_timeout`] for when
//! to come again. A request goes through [`routes`] (which handler), the token (who), the handler's reading of it (a
//! [`plan::Plan`]), and waits in [`waiting`] for its answer, which the plan turns into the response or the next question.
//!
//! # Invariants
//! - Every request that is handed in gets exactly one response, at the latest [`ANSWER_MS_MAX`] later (G13).
//! - A response that says a write failed is never followed by that write: once a write was on its lane, only the router
//!   says that it failed; silence is `unknown_outcome` (G5).
//! - A write that went unanswered with its lane goes again, in order and under the same `client_msg_id`, on the next one
//!   (F3, F13).
//! - Who asks, and on which device, comes from the token only (G11); a device that was revoked is refused ([`known`]).
//! - A client's requests about one slot go to its owner in the order in which they came, and the router answers from what
//!   is settled: whoever has the answer to a write reads it (G10).
//! - What a router does not own had no effect there, and waits until its owner is known.

mod body;
mod changes;
mod conversations;
mod cursor;
mod devices;
mod field;
mod known;
mod members;
mod messages;
mod openapi;
mod page;
mod path;
mod plan;
pub(crate) mod query;
mod request;
pub(crate) mod response;
mod routes;
mod users;
mod waiting;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carillon_link::Peer;
use carillon_node::prng::Prng;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::frame::{self, ArchivedOwners, Frame, Wanted};
use carillon_protocol::handshake;
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};

pub use field::{Field, Kind};
pub use request::{Body, Headers, Input, Output, ReadyUser, ReadyUsers, Request, Settings, Ticket};
pub use response::Response;
pub use routes::{REFUSALS, ROUTES, Route, Scope, Shape};

use crate::auth;
use crate::limits::{Rate, Rates, wait_ms};
use crate::owners::{Owners, Welcome};
use known::Known;
use path::Parameters;
use plan::{Admission, Ask, Call, Heard, Step, Tell};
use response::Envelope;
use routes::Handler;
use waiting::{Entry, Waiting};

/// Requests that may wait for routers. At this many, further ones are refused with `overloaded`.
pub const WAITING_MAX: usize = 4_096;

/// How long a request waits for its answer, in milliseconds. Then a write is `unknown_outcome` when it may have reached a
/// router, everything else `unavailable`.
pub const ANSWER_MS_MAX: u64 = 10_000;

/// What clients are told to wait when a part is away for now, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The machine.
pub struct Rest {
    settings: Settings,
    keys: Arc<KeyTable>,
    prng: Prng,
    now: Time,
    wall: WallMs,
    owners: Owners,
    is_draining: bool,
    is_drained: bool,
    waiting: Waiting,
    known: Known,
    device_rates: Rates<(UserId, String)>,
    address_rates: Rates<IpAddr>,
    rate_limited: RateLimited,
    ready_users: Option<ReadyUsers>,
    outputs: VecDeque<Output>,
}

/// Requests refused by rate so far. Rates of users and conversations are the router's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimited {
    /// By the rate of their device.
    pub device: u64,
    /// By the rate of their address.
    pub address: u64,
}

impl Rest {
    /// A machine without a lane. `seed` makes request ids and idempotency keys.
    #[must_use]
    pub fn new(settings: Settings, keys: Arc<KeyTable>, seed: u64) -> Rest {
        Rest {
            device_rates: Rates::new(Rate::new(settings.device_per_s, settings.device_burst)),
            address_rates: Rates::new(Rate::new(settings.address_per_s, settings.address_burst)),
            rate_limited: RateLimited::default(),
            ready_users: None,
            settings,
            keys,
            prng: Prng::new(seed),
            now: Time(0),
            wall: WallMs(0),
            owners: Owners::default(),
            is_draining: false,
            is_drained: false,
            waiting: Waiting::default(),
            known: Known::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Serves the page to look at, with these users to choose from. For development mode only.
    #[must_use]
    pub fn with_page(self, ready_users: ReadyUsers) -> Rest {
        Rest { ready_users: Some(ready_users), ..self }
    }

    /// Takes what happened; `wall` is for token expiry only (G16).
    pub fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        (self.now, self.wall) = (now, wall);
        match input {
            Input::Request { ticket, request } => self.request(ticket, &request),
            // Whom it may ask there the router says next.
            Input::LaneUp { router, incarnation } => match self.owners.lane_up(router, incarnation) {
                Welcome::Yes => {}
                Welcome::Instead(other) => {
                    self.lane_down(other);
                    self.outputs.push_back(Output::CloseLane { router: other });
                }
                Welcome::Alias | Welcome::Full => self.outputs.push_back(Output::CloseLane { router }),
            },
            Input::LaneDown { router } => self.lane_down(router),
            Input::LaneFrame { router, frame } if self.owners.is_up(router) => self.frame(router, frame),
            Input::LaneFrame { .. } | Input::Tick => {}
            Input::Drain => self.is_draining = true,
        }
        self.expire();
        if self.is_draining && !self.is_drained && self.waiting.is_empty() {
            self.is_drained = true;
            self.outputs.push_back(Output::Drained);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.waiting.first_deadline()
    }

    /// Requests that wait for a router.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.count()
    }

    /// Requests refused by rate so far.
    #[must_use]
    pub fn rate_limited(&self) -> RateLimited {
        self.rate_limited
    }

    fn request(&mut self, ticket: Ticket, request: &Request) {
        let envelope = self.envelope(ticket, request);
        let allowed = self.origin(request);
        let envelope = match allowed {
            Ok(origin) => Envelope { origin, ..envelope },
            Err(refusal) => {
                return self.respond(&envelope, Response::refusal(&refusal, &envelope.request_id));
            }
        };
        if let Some(ready_users) = self.ready_users.clone()
            && let Some(wanted) = page::wanted(request)
        {
            return self.page(envelope, wanted, ready_users());
        }
        let (route, path) = match routes::find(&request.method, &request.path) {
            routes::Found::Route(route, path) => (route, path),
            routes::Found::Methods(methods) if request.method == "OPTIONS" => {
                return self.respond(&envelope, Response::preflight(&methods));
            }
            routes::Found::Methods(methods) => {
                return self.respond(&envelope, Response::wrong_method(&methods, &envelope.request_id));
            }
            // The first request of a connection is led there before it can get here.
            routes::Found::Nothing if request.path == handshake::PATH && request.method == "GET" => {
                return self.respond(&envelope, Response::upgrade_required(&envelope.request_id));
            }
            routes::Found::Nothing if request.path == handshake::PATH => {
                return self.respond(&envelope, Response::wrong_method(&["GET"], &envelope.request_id));
            }
            routes::Found::Nothing => {
                let refusal = Refusal::new(Code::NotFound, "no such route");
                return self.respond(&envelope, Response::refusal(&refusal, &envelope.request_id));
            }
        };
        if let Err(refusal) = self.lead(&envelope, route, path, request) {
            self.respond(&envelope, Response::refusal(&refusal, &envelope.request_id));
        }
    }

    /// The page that asks, when one does and may.
    fn origin(&self, request: &Request) -> Result<Option<String>, Refusal> {
        let Some(origin) = &request.headers.origin else { return Ok(None) };
        match std::str::from_utf8(origin) {
            Ok(origin)
                if auth::is_origin_allowed(origin, &self.settings.origins, self.settings.is_development) =>
            {
                Ok(Some(origin.to_owned()))
            }
            _ => Err(Refusal::new(
                Code::Forbidden,
                "pages of this origin may not ask here: see gateway.origins",
            )),
        }
    }

    fn lead(
        &mut self,
        envelope: &Envelope,
        route: &Route,
        path: Parameters<'_>,
        request: &Request,
    ) -> Result<(), Refusal> {
        self.admit_address(request)?;
        let read = match route.handler {
            Handler::Ask(read) => read,
            Handler::Tell(tell) => {
                self.respond(envelope, tell());
                return Ok(());
            }
            Handler::Pumps => return Err(Refusal::new(Code::BadRequest, "this is not served here")),
        };
        let claims = self.claims(request)?;
        if route.scope == Scope::Admin && !claims.is_admin() {
            return Err(Refusal::new(Code::Forbidden, "this needs a token with scope \"admin\""));
        }
        let body = if route.takes_body() { request.json_body(self.settings.body_bytes)? } else { &[] };
        let user = UserId(claims.user_id);
        let known = self.known.revoked_at_ms(user, &claims.device_id);
        if let Some(revoked_at_ms) = known {
            not_revoked(claims.issued_s, revoked_at_ms)?;
        }
        let mut plan = read(&Call {
            user,
            device: &claims.device_id,
            path,
            query: &request.query,
            idempotency_key: request.headers.idempotency_key.as_deref(),
            body,
        })?;
        self.has_room(user)?;
        if let Ask::Submit { client_msg_id, .. } = &mut plan.ask {
            self.admit_device(user, &claims.device_id)?;
            if client_msg_id.is_empty() {
                *client_msg_id = mint_client_msg_id(&mut self.prng);
            }
        }

        let entry = Entry {
            envelope: envelope.clone(),
            user,
            deadline: self.now.after_ms(ANSWER_MS_MAX),
            ask: Ask::Find(Wanted::Admission { device: claims.device_id.clone() }),
            tell: Tell::Admission(Box::new(Admission {
                name: claims.name.unwrap_or_default(),
                device: claims.device_id,
                issued_s: claims.issued_s,
                plan,
            })),
            order: 0,
            route: None,
            is_at_stake: false,
            is_repeated: false,
        };
        let entry = if known.is_some() { entry.admitted() } else { entry };
        self.ask(entry);
        Ok(())
    }

    /// A connection is counted at its first request, as an upgrade is; never from this machine.
    fn admit_address(&mut self, request: &Request) -> Result<(), Refusal> {
        let address = request.address.filter(|address| !request.is_follower && !address.is_loopback());
        let Some(address) = address else { return Ok(()) };
        self.address_rates.admit(self.now.0, address).map_err(|wait| {
            self.rate_limited.address += 1;
            rate_limited("too many connections from this address", wait)
        })
    }

    fn admit_device(&mut self, user: UserId, device: &str) -> Result<(), Refusal> {
        if !self.device_rates.is_on() {
            return Ok(());
        }
        self.device_rates.admit(self.now.0, (user, device.to_owned())).map_err(|wait| {
            self.rate_limited.device += 1;
            rate_limited("too many commands of this device in too little time", wait)
        })
    }

    fn claims(&self, request: &Request) -> Result<Claims, Refusal> {
        let none = || Refusal::new(Code::Unauthenticated, "give a token: Authorization: Bearer …");
        let header = request.headers.authorization.as_deref().ok_or_else(none)?;
        let (scheme, token) =
            std::str::from_utf8(header).ok().and_then(|text| text.split_once(' ')).ok_or_else(none)?;
        // RFC 9110 section 11.1: the scheme's case is nobody's business.
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(none());
        }
        auth::verify(&self.keys, token.trim(), self.wall)
    }

    fn has_room(&self, user: UserId) -> Result<(), Refusal> {
        if self.is_draining {
            return Err(
                Refusal::new(Code::Unavailable, "this gateway drains; try again").retry_after(RETRY_MS)
            );
        }
        if self.waiting.count() >= WAITING_MAX {
            return Err(overloaded());
        }
        if self.waiting.count_of(user) >= self.settings.inflight {
            let message = "too many of your requests wait for their answers";
            return Err(Refusal::new(Code::RateLimited, message).retry_after(RETRY_MS));
        }
        Ok(())
    }

    /// Puts a question to its owner now, or when that one is known and reached.
    fn ask(&mut self, mut entry: Entry) {
        let number = self.waiting.number();
        entry.route = self.owners.route(entry.slot());
        if let Some(route) = entry.route {
            entry.is_at_stake |= entry.ask.is_write();
            let frame = entry.ask.to_frame(number, entry.user, route.epoch);
            self.outputs.push_back(Output::Link { router: route.router, frame });
        }
        self.waiting.insert(number, entry);
    }

    /// A router says who owns what: what waits for that goes, and what is under way to a former owner goes again.
    fn learn(&mut self, router: Peer, frame: &ArchivedOwners) {
        let changes = self.owners.learn(router, frame);
        if !changes.moved.is_empty() {
            self.known.forget(|user| changes.moved.contains_user(user));
        }
        let owners = &self.owners;
        let is_to_go = |entry: &Entry| match entry.route {
            None => changes.opened.contains(entry.slot()),
            Some(route) => owners.is_void(entry.slot(), route) && entry.ask.may_repeat(),
        };
        for number in self.waiting.numbers_where(is_to_go) {
            if let Some(entry) = self.waiting.remove(number) {
                self.ask(entry.unanswered());
            }
        }
    }

    /// What waits goes again on the next lane, except what could then be done twice.
    fn lane_down(&mut self, router: Peer) {
        if !self.owners.lane_down(router) {
            return;
        }
        // Revocations that are told meanwhile are not heard.
        self.known.clear();
        for number in self.waiting.numbers_where(|entry| entry.is_sent_to(router)) {
            match self.waiting.remove(number) {
                Some(entry) if entry.ask.may_repeat() => self.ask(entry.unanswered()),
                Some(entry) => self.refuse(&entry, &unknown_outcome()),
                None => {}
            }
        }
    }

    fn frame(&mut self, router: Peer, bytes: &[u8]) {
        match frame::read(bytes) {
            Ok(Frame::Revoked(revoked)) => {
                let (user, at_ms) = (UserId(revoked.user.0.to_native()), revoked.at_ms.to_native());
                self.known.insert(user, &revoked.device, at_ms);
            }
            Ok(Frame::Owners(owners)) => self.learn(router, owners),
            Ok(Frame::NotOwner(not_owner)) => self.disowned(not_owner.request.to_native()),
            Ok(frame) => match heard(frame) {
                Some((number, heard)) => self.hear(number, heard),
                None => self.outputs.push_back(Output::CloseLane { router }),
            },
            // Another version, or not a router: nothing on this lane can be trusted.
            Err(_) => self.outputs.push_back(Output::CloseLane { router }),
        }
    }

    /// A router does not own what it was asked about.
    fn disowned(&mut self, number: u64) {
        let Some(entry) = self.waiting.remove(number) else { return };
        if let Some(route) = entry.route {
            self.owners.refuted(entry.slot(), route);
        }
        self.ask(entry.without_effect());
    }

    fn hear(&mut self, number: u64, heard: Heard) {
        // A late answer finds nobody: whoever asked has been told already.
        let Some(entry) = self.waiting.remove(number) else { return };
        if let Tell::Ready { left, users } = entry.tell {
            return self.provision_ready(entry.envelope, entry.deadline, left, users);
        }
        let Entry { ask, tell, user, .. } = &entry;
        let step = plan::step(ask, tell, heard, *user, self.settings.auto_provision);
        let step = step.and_then(|step| self.admission(&entry, step));
        match step {
            Ok(Step::Respond(response)) => self.respond(&entry.envelope, response),
            Ok(Step::Ask(ask, tell)) => self.ask(Entry { ask, tell, order: 0, ..entry }),
            Ok(Step::Provision) => self.ask(entry.provisioned()),
            Ok(Step::Known { .. }) => self.ask(entry.admitted()),
            Err(refusal) if entry.leaves_open(refusal.code) => self.refuse(&entry, &unknown_outcome()),
            Err(refusal) => self.refuse(&entry, &refusal),
        }
    }

    /// Remembers who may come in, and holds the token to that.
    fn admission(&mut self, entry: &Entry, step: Step) -> Result<Step, Refusal> {
        if let (Step::Known { revoked_at_ms }, Tell::Admission(admission)) = (&step, &entry.tell) {
            let revoked_at_ms = self.known.insert(entry.user, &admission.device, *revoked_at_ms);
            not_revoked(admission.issued_s, revoked_at_ms)?;
        }
        Ok(step)
    }

    fn expire(&mut self) {
        while let Some(entry) = self.waiting.take_due(self.now) {
            let refusal = if entry.is_at_stake {
                unknown_outcome()
            } else {
                Refusal::new(Code::Unavailable, "no router answers; try again").retry_after(RETRY_MS)
            };
            self.refuse(&entry, &refusal);
        }
    }

    fn refuse(&mut self, entry: &Entry, refusal: &Refusal) {
        self.respond(&entry.envelope, Response::refusal(refusal, &entry.envelope.request_id));
    }

    fn respond(&mut self, envelope: &Envelope, response: Response) {
        let response = response.in_envelope(envelope);
        self.outputs.push_back(Output::Response { ticket: envelope.ticket, response });
    }

    fn envelope(&mut self, ticket: Ticket, request: &Request) -> Envelope {
        let given = request.headers.request_id.as_deref().and_then(handshake::request_id);
        let request_id = given.map_or_else(|| format!("{:016x}", self.prng.next_u64()), str::to_owned);
        Envelope { ticket, request_id, origin: None }
    }
}

fn rate_limited(message: &'static str, wait: Duration) -> Refusal {
    Refusal::new(Code::RateLimited, message).retry_after(wait_ms(wait).max(1))
}

fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "too many requests wait here; try again").retry_after(RETRY_MS)
}

fn not_revoked(issued_s: u64, revoked_at_ms: u64) -> Result<(), Refusal> {
    if known::is_revoked(issued_s, revoked_at_ms) {
        return Err(Refusal::new(Code::Unauthenticated, "this device was revoked: log in again"));
    }
    Ok(())
}

fn unknown_outcome() -> Refusal {
    let message = "it may or may not have happened: try again with the same idempotency key";
    Refusal::new(Code::UnknownOutcome, message)
}

/// The answers that a router gives to what is asked here; `None` for bytes that are none.
fn heard(frame: Frame<'_>) -> Option<(u64, Heard)> {
    fn owned<T: rkyv::Archive>(archived: &T::Archived) -> Option<T>
    where
        T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
    {
        rkyv::deserialize::<T, rkyv::rancor::Error>(archived).ok()
    }
    Some(match frame {
        Frame::Accepted(accepted) => (accepted.request.to_native(), Heard::Accepted(owned(accepted)?)),
        Frame::Refused(refused) => (refused.request.to_native(), Heard::Refused(owned(refused)?)),
        Frame::Page(page) => (page.request.to_native(), Heard::Page(owned(page)?)),
        Frame::Found(found) => {
            (found.request.to_native(), Heard::Found(owned::<frame::Found>(found)?.findings))
        }
        _ => return None,
    })
}

/// An idempotency key for a command that came without: a UUID of version 4 (RFC 9562 section 5.4), which the store packs
/// into sixteen bytes. Under it a write can go again on the next lane.
fn mint_client_msg_id(prng: &mut Prng) -> String {
    let high = (prng.next_u64() & !0xf000) | 0x4000;
    let low = (prng.next_u64() & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
