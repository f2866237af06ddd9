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
//! - Who asks, and on which device, comes from the token only (G11).

mod body;
mod conversations;
mod cursor;
mod known;
mod messages;
mod plan;
mod query;
mod response;
mod routes;
mod users;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

use carillon_link::Peer;
use carillon_node::prng::Prng;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::frame::{self, Command, Frame, Wanted};
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use rkyv::util::AlignedVec;

pub use response::Response;
pub use routes::{ROUTES, Route, Scope};

use crate::limits::{Rate, Rates};
use crate::{auth, settings};
use known::Known;
use plan::{Ask, Call, Heard, Step, Tell};
use response::Envelope;
use waiting::{Entry, Waiting};

/// Requests that may wait for routers. At this many, further ones are refused with `overloaded`.
pub const WAITING_MAX: usize = 4_096;

/// How long a request waits for its answer, in milliseconds. Then a write is `unknown_outcome` when it may have reached a
/// router, everything else `unavailable`.
pub const ANSWER_MS_MAX: u64 = 10_000;

/// What clients are told to wait when a part is away for now, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The router that everything belongs to. With more than one, a slot map stands here.
const ROUTER: Peer = Peer(0);

/// What of the gateway's settings matters here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `gateway.origins`: exact origins.
    pub origins: Vec<String>,
    /// Whether pages served from this machine may ask when no origin is listed.
    pub is_development: bool,
    /// `auth.auto_provision`.
    pub auto_provision: bool,
    /// `limits.send_per_s`: messages; 0: unlimited.
    pub send_per_s: u64,
    /// `limits.send_burst`: messages.
    pub send_burst: u64,
    /// `limits.inflight`: requests of one user that may wait; at this many, further ones are refused with `rate_limited`.
    pub inflight: usize,
    /// `limits.frame_bytes`: bytes of a body.
    pub body_bytes: usize,
}

impl Settings {
    /// Takes what matters here.
    #[must_use]
    pub fn of(settings: &settings::Settings, is_development: bool) -> Settings {
        Settings {
            origins: settings.gateway.origins.clone(),
            is_development,
            auto_provision: settings.auth.auto_provision,
            send_per_s: settings.limits.send_per_s,
            send_burst: settings.limits.send_burst,
            inflight: settings.limits.inflight,
            body_bytes: settings.limits.frame_bytes,
        }
    }
}

/// Which request a response belongs to: a number that its driver chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request, as far as HTTP has been read off it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// As sent, without the query; still percent-encoded.
    pub path: String,
    /// What stands behind `?`; empty when there is nothing.
    pub query: String,
    /// The headers that are looked at.
    pub headers: Headers,
    /// The body.
    pub body: Body,
}

/// Headers that are looked at. Bytes where a value may be any.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// `Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<Vec<u8>>,
    /// `X-Request-Id`.
    pub request_id: Option<Vec<u8>>,
    /// `Origin`.
    pub origin: Option<Vec<u8>>,
}

/// A request's body.
#[derive(Clone, Debug)]
pub enum Body {
    /// All of it; empty when there is none.
    Whole(Vec<u8>),
    /// More than [`Settings::body_bytes`]; dropped unread.
    TooLarge,
}

impl Default for Body {
    fn default() -> Body {
        Body::Whole(Vec::new())
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A request arrived.
    Request {
        /// Its name from now on.
        ticket: Ticket,
        /// The request.
        request: Request,
    },
    /// A lane to a router is there.
    LaneUp {
        /// Which router.
        router: Peer,
    },
    /// A frame from a router, header included, aligned to eight bytes.
    LaneFrame {
        /// From.
        router: Peer,
        /// The lane's memory.
        frame: &'a [u8],
    },
    /// A lane is lost.
    LaneDown {
        /// Which router.
        router: Peer,
    },
    /// The time of [`Rest::poll_timeout`] has come, or nothing happened.
    Tick,
    /// Take nothing new; say when everything is answered.
    Drain,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Answer a request.
    Response {
        /// Which.
        ticket: Ticket,
        /// How.
        response: Response,
    },
    /// Put a frame on the lane to a router.
    Link {
        /// Which.
        router: Peer,
        /// Header included.
        frame: AlignedVec,
    },
    /// Give up a lane: something came on it that cannot be read. `LaneDown` follows.
    CloseLane {
        /// Which.
        router: Peer,
    },
    /// Everything is answered after a drain.
    Drained,
}

/// The machine.
pub struct Rest {
    settings: Settings,
    keys: Arc<KeyTable>,
    prng: Prng,
    now: Time,
    wall: WallMs,
    is_up: bool,
    is_draining: bool,
    is_drained: bool,
    waiting: Waiting,
    known: Known,
    send_rates: Rates<UserId>,
    outputs: VecDeque<Output>,
}

impl Rest {
    /// A machine without a lane. `seed` makes request ids and idempotency keys.
    #[must_use]
    pub fn new(settings: Settings, keys: Arc<KeyTable>, seed: u64) -> Rest {
        Rest {
            send_rates: Rates::new(Rate::new(settings.send_per_s, settings.send_burst)),
            settings,
            keys,
            prng: Prng::new(seed),
            now: Time(0),
            wall: WallMs(0),
            is_up: false,
            is_draining: false,
            is_drained: false,
            waiting: Waiting::default(),
            known: Known::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened; `wall` is for token expiry only (G16).
    pub fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        (self.now, self.wall) = (now, wall);
        match input {
            Input::Request { ticket, request } => self.request(ticket, &request),
            Input::LaneUp { router } if router == ROUTER => self.lane_up(),
            Input::LaneDown { router } if router == ROUTER => self.lane_down(),
            Input::LaneFrame { router, frame } if router == ROUTER => self.frame(frame),
            Input::LaneUp { .. } | Input::LaneDown { .. } | Input::LaneFrame { .. } | Input::Tick => {}
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

    fn request(&mut self, ticket: Ticket, request: &Request) {
        let envelope = self.envelope(ticket, request);
        let allowed = self.origin(request);
        let envelope = match allowed {
            Ok(origin) => Envelope { origin, ..envelope },
            Err(refusal) => {
                return self.respond(&envelope, Response::refusal(&refusal, &envelope.request_id));
            }
        };
        let (route, parameter) = match routes::find(&request.method, &request.path) {
            routes::Found::Route(route, parameter) => (route, parameter),
            routes::Found::Methods(methods) if request.method == "OPTIONS" => {
                return self.respond(&envelope, Response::preflight(&methods));
            }
            routes::Found::Methods(methods) => {
                return self.respond(&envelope, Response::wrong_method(&methods, &envelope.request_id));
            }
            routes::Found::Nothing => {
                let refusal = Refusal::new(Code::NotFound, "no such route");
                return self.respond(&envelope, Response::refusal(&refusal, &envelope.request_id));
            }
        };
        if let Err(refusal) = self.admit(&envelope, route, parameter, request) {
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

    fn admit(
        &mut self,
        envelope: &Envelope,
        route: &Route,
        parameter: Option<&str>,
        request: &Request,
    ) -> Result<(), Refusal> {
        let claims = self.claims(request)?;
        if route.scope == Scope::Admin && !claims.is_admin() {
            return Err(Refusal::new(Code::Forbidden, "this needs a token with scope \"admin\""));
        }
        let body = match &request.body {
            Body::Whole(bytes) if bytes.len() <= self.settings.body_bytes => bytes,
            _ => {
                let message = format!("the body must be at most {} bytes", self.settings.body_bytes);
                return Err(Refusal::new(Code::TooLarge, message));
            }
        };
        let user = UserId(claims.user_id);
        let mut plan = route.read(&Call {
            user,
            device: &claims.device_id,
            parameter,
            query: &request.query,
            idempotency_key: request.headers.idempotency_key.as_deref(),
            body,
        })?;
        self.has_room(user)?;
        if let Ask::Submit { client_msg_id, command } = &mut plan.ask {
            if matches!(command, Command::Send { .. }) {
                self.send_rates.admit(self.now, user).map_err(|wait| rate_limited(wait.as_millis()))?;
            }
            if client_msg_id.is_empty() {
                *client_msg_id = mint_client_msg_id(&mut self.prng);
            }
        }

        let entry = Entry {
            envelope: envelope.clone(),
            user,
            deadline: self.now.after_ms(ANSWER_MS_MAX),
            ask: Ask::Find(Wanted::User(user)),
            tell: Tell::Admission { name: claims.name.unwrap_or_default(), plan: Box::new(plan) },
            is_sent: false,
            is_at_stake: false,
            is_repeated: false,
        };
        let entry = if self.known.contains(user) { entry.admitted() } else { entry };
        self.ask(entry);
        Ok(())
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
            return Err(Refusal::new(Code::Overloaded, "too many requests wait here; try again")
                .retry_after(RETRY_MS));
        }
        if self.waiting.count_of(user) >= self.settings.inflight {
            let message = "too many of your requests wait for their answers";
            return Err(Refusal::new(Code::RateLimited, message).retry_after(RETRY_MS));
        }
        Ok(())
    }

    /// Puts a question to the router now, or when its lane is there.
    fn ask(&mut self, mut entry: Entry) {
        let number = self.waiting.number();
        if self.is_up {
            entry.is_sent = true;
            entry.is_at_stake |= entry.ask.is_write();
            self.outputs
                .push_back(Output::Link { router: ROUTER, frame: entry.ask.to_frame(number, entry.user) });
        }
        self.waiting.insert(number, entry);
    }

    fn lane_up(&mut self) {
        self.is_up = true;
        for mut entry in self.waiting.take_all() {
            entry.is_repeated |= entry.is_at_stake;
            self.ask(entry);
        }
    }

    /// What waits goes again on the next lane, except what could then be done twice.
    fn lane_down(&mut self) {
        self.is_up = false;
        for number in self.waiting.numbers_where(|entry| entry.is_sent && !entry.ask.may_repeat()) {
            if let Some(entry) = self.waiting.remove(number) {
                self.refuse(&entry, &unknown_outcome());
            }
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        let heard = match frame::read(bytes) {
            Ok(frame) => heard(frame),
            Err(_) => None,
        };
        match heard {
            Some((number, heard)) => self.hear(number, heard),
            // Another version, or not a router: nothing on this lane can be trusted.
            None => self.outputs.push_back(Output::CloseLane { router: ROUTER }),
        }
    }

    fn hear(&mut self, number: u64, heard: Heard) {
        // A late answer finds nobody: whoever asked has been told already.
        let Some(entry) = self.waiting.remove(number) else { return };
        let Entry { ask, tell, user, .. } = &entry;
        match plan::step(ask, tell, heard, *user, self.settings.auto_provision) {
            Ok(Step::Respond(response)) => self.respond(&entry.envelope, response),
            Ok(Step::Ask(ask, tell)) => self.ask(Entry { ask, tell, is_sent: false, ..entry }),
            Ok(Step::Provision) => self.ask(entry.provisioned()),
            Ok(Step::Known) => {
                self.known.insert(entry.user);
                self.ask(entry.admitted());
            }
            Err(refusal) if entry.leaves_open(refusal.code) => self.refuse(&entry, &unknown_outcome()),
            Err(refusal) => self.refuse(&entry, &refusal),
        }
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
        let given = request.headers.request_id.as_deref().and_then(response::sanitised);
        let request_id = given.unwrap_or_else(|| format!("{:016x}", self.prng.next_u64()));
        Envelope { ticket, request_id, origin: None }
    }
}

fn rate_limited(wait_ms: u128) -> Refusal {
    let wait_ms = u64::try_from(wait_ms).unwrap_or(u64::MAX).max(1);
    Refusal::new(Code::RateLimited, "too many messages in too little time").retry_after(wait_ms)
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
        Frame::NotOwner(not_owner) => (not_owner.request.to_native(), Heard::NotOwner),
        Frame::Page(page) => (page.request.to_native(), Heard::Page(owned(page)?)),
        Frame::Found(found) => (found.request.to_native(), Heard::Found(owned(found)?)),
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
