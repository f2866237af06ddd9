//! Long polling and server-sent events: the same frames from the same session machine, moved by other pumps (TR4).
//!
//! The pumps drive a [`Shard`] of their own, as a socket driver does. A *poll session* is a connection whose client frames
//! are posted and whose server frames are fetched; a *stream* is one whose server frames are written into a response
//! that does not end, and whose client cannot say anything. What a session decides it decides as for a WebSocket: it
//! queues WebSocket frames, and the pumps take their payloads out ([`payload`]).
//!
//! Driven by three verbs: [`Pumps::handle`], [`Pumps::poll_output`] until `None`, [`Pumps::poll_timeout`].
//!
//! # Invariants
//! - A fetched answer stays queued in its session's outbox until it is acknowledged, and is repeated until then: what a
//!   slow consumer is, and what happens to it, is the session's own rule (F14).
//! - Every request gets exactly one response.
//! - A poll session is known by a name that nobody can guess and, when it was begun with a token, answers only to tokens
//!   of the same user and device.
//! - Bounded: [`POLLS_MAX`] sessions, [`STREAMS_MAX`] streams, [`POSTS_MAX`] posts that wait in one session.

mod cursors;
mod payload;
mod poll;
mod stream;
mod tickets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use carillon_link::Peer;
use carillon_node::prng::Prng;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::handshake;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use rkyv::util::AlignedVec;

use crate::auth;
use crate::counters::Counters;
use crate::rest::response::Envelope;
use crate::rest::{Request, Response, Ticket};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::turn::{self, ConnectionId};
use poll::Poll;
use stream::Stream;
pub use stream::StreamId;
use tickets::{Names, Tickets};

/// Poll sessions at once. Beyond: `overloaded`.
pub const POLLS_MAX: usize = 4_096;
/// Streams at once. Beyond: `overloaded`.
pub const STREAMS_MAX: usize = 1_024;
/// Posts of one poll session that wait until its session takes their frames. Beyond: `rate_limited`.
pub const POSTS_MAX: usize = 4;
/// How long a poll session lives without a request, in milliseconds.
pub const IDLE_MS_MAX: u64 = 60_000;
/// How long a poll is held when it does not say, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u64 = 25_000;
/// The longest that a poll is held, in milliseconds: well below what a session lives without a request.
pub const TIMEOUT_MS_MAX: u64 = 45_000;
/// What clients are told to wait when there is no room, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Whether a request is for the pumps. `OPTIONS` and wrong methods are answered from the table of routes.
#[must_use]
pub fn takes(method: &str, path: &str) -> bool {
    match path.strip_prefix("/v1/") {
        Some("poll") => method == "POST",
        Some("events") => matches!(method, "GET" | "POST"),
        Some(rest) => {
            let name = rest.strip_prefix("poll/");
            name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
                && matches!(method, "GET" | "POST" | "DELETE")
        }
        None => false,
    }
}

/// What happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "handed over once, on the stack")]
pub enum Input<'a> {
    /// A request arrived that [`takes`] named.
    Request {
        /// Its name from now on.
        ticket: Ticket,
        /// The request.
        request: Request,
    },
    /// The chunk of a stream that was put out last is taken.
    Taken {
        /// Which stream.
        stream: StreamId,
    },
    /// The reader of a stream is gone.
    StreamClosed {
        /// Which.
        stream: StreamId,
    },
    /// What came over the lanes, or nothing: for the shard as it is.
    Turn(turn::Input<'a>),
    /// Take nothing new; say when everything is closed.
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
    /// Answer a request with a response whose body goes on in [`Output::Chunk`]s.
    Stream {
        /// Which.
        ticket: Ticket,
        /// The stream's name.
        stream: StreamId,
        /// Status and headers.
        response: Response,
    },
    /// The next piece of a stream. No further one comes before this one is [`Input::Taken`].
    Chunk {
        /// Which.
        stream: StreamId,
        /// Text, in the form of server-sent events.
        bytes: Vec<u8>,
    },
    /// The stream ends behind what was put out.
    End {
        /// Which.
        stream: StreamId,
    },
    /// Put a frame on the lane to a router.
    Link {
        /// Which.
        router: Peer,
        /// Header included.
        frame: AlignedVec,
    },
    /// Give up a lane.
    CloseLane {
        /// Which.
        router: Peer,
    },
    /// As [`turn::Output::Meet`].
    Meet {
        /// "host:port".
        address: String,
    },
    /// As [`turn::Output::Part`].
    Part {
        /// Which.
        router: Peer,
    },
    /// Everything is closed after a drain.
    Drained,
}

/// Whose a connection is.
#[derive(Clone, Debug)]
enum Owner {
    Poll(Arc<str>),
    Stream(StreamId),
}

/// What polls and streams share.
struct Ground {
    shard: Shard,
    keys: Arc<KeyTable>,
    origins: Vec<String>,
    is_development: bool,
    body_bytes_max: usize,
    now: Time,
    wall: WallMs,
    prng: Prng,
    outputs: VecDeque<Output>,
    owners: BTreeMap<ConnectionId, Owner>,
    free: Vec<ConnectionId>,
    slots_count: u32,
    /// Connections that something happened to.
    dirty: BTreeSet<ConnectionId>,
    timers: BTreeSet<(Time, ConnectionId)>,
}

/// The machine.
pub struct Pumps {
    ground: Ground,
    names: Names,
    polls: BTreeMap<Arc<str>, Poll>,
    streams: BTreeMap<StreamId, Stream>,
    streams_count: u64,
    tickets: Tickets,
    is_draining: bool,
}

impl Pumps {
    /// Pumps without sessions. `secret` makes names that nobody can guess; `shard` is a shard that nobody else drives.
    #[must_use]
    pub fn new(
        settings: &Settings,
        is_development: bool,
        keys: Arc<KeyTable>,
        shard: Shard,
        seed: u64,
        secret: &[u8; 32],
    ) -> Pumps {
        Pumps {
            ground: Ground {
                shard,
                keys,
                origins: settings.gateway.origins.clone(),
                is_development,
                body_bytes_max: settings.limits.frame_bytes,
                now: Time(0),
                wall: WallMs(0),
                prng: Prng::new(seed),
                outputs: VecDeque::new(),
                owners: BTreeMap::new(),
                free: Vec::new(),
                slots_count: 0,
                dirty: BTreeSet::new(),
                timers: BTreeSet::new(),
            },
            names: Names::new(secret),
            polls: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_count: 0,
            tickets: Tickets::default(),
            is_draining: false,
        }
    }

    /// Takes what happened; `wall` is for tokens and for display.
    pub fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        (self.ground.now, self.ground.wall) = (now, wall);
        match input {
            Input::Request { ticket, request } => self.request(ticket, &request),
            Input::Taken { stream } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.taken(&mut self.ground);
                }
            }
            Input::StreamClosed { stream } => {
                if let Some(stream) = self.streams.remove(&stream) {
                    self.ground.forget(stream.connection);
                }
            }
            Input::Turn(input) => self.ground.input(input),
            Input::Drain => {
                self.is_draining = true;
                self.ground.input(turn::Input::Drain);
            }
        }
        self.settle();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.ground.outputs.pop_front()
    }

    /// When [`Input::Turn`] with a tick is due at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let timer = self.ground.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.ground.shard.poll_timeout()).min()
    }

    /// What the shard counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.ground.shard.counters()
    }

    /// Poll sessions and streams.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.polls.len(), self.streams.len())
    }

    /// Brings on everything that something happened to, until nothing is left to do now.
    fn settle(&mut self) {
        while let Some((_, connection)) =
            self.ground.timers.first().copied().filter(|(at, _)| *at <= self.ground.now)
        {
            self.ground.timers.pop_first();
            self.ground.dirty.insert(connection);
        }
        self.ground.pull();
        while let Some(connection) = self.ground.dirty.pop_first() {
            match self.ground.owners.get(&connection).cloned() {
                Some(Owner::Poll(name)) => self.bring_on_poll(&name),
                Some(Owner::Stream(id)) => self.bring_on_stream(id),
                None => {}
            }
            self.ground.pull();
        }
    }

    fn bring_on_poll(&mut self, name: &Arc<str>) {
        let Some(poll) = self.polls.get_mut(name) else { return };
        poll.advance(&mut self.ground);
        if poll.is_over(self.ground.now) {
            let connection = poll.connection;
            poll.answer_all(&mut self.ground);
            self.polls.remove(name);
            self.ground.forget(connection);
        }
    }

    fn bring_on_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.advance(&mut self.ground);
        if stream.is_over() {
            let connection = stream.connection;
            self.streams.remove(&id);
            self.ground.outputs.push_back(Output::End { stream: id });
            self.ground.forget(connection);
        }
    }

    fn request(&mut self, ticket: Ticket, request: &Request) {
        let envelope = self.ground.envelope(ticket, request);
        let envelope = match self.ground.origin(request) {
            Ok(origin) => Envelope { origin, ..envelope },
            Err(refusal) => return self.ground.refuse(&envelope, &refusal),
        };
        if let Err(refusal) = self.route(&envelope, request) {
            self.ground.refuse(&envelope, &refusal);
        }
    }

    fn route(&mut self, envelope: &Envelope, request: &Request) -> Result<(), Refusal> {
        match (request.method.as_str(), request.path.strip_prefix("/v1/").unwrap_or_default()) {
            ("POST", "poll") => self.begin_poll(envelope, request),
            ("POST", "events") => self.give_ticket(envelope, request),
            ("GET", "events") => self.begin_stream(envelope, request),
            (method, path) => {
                let name = path.strip_prefix("poll/").unwrap_or_default();
                let claims = self.ground.claims(request)?;
                let poll = self.polls.get_mut(name).filter(|poll| poll.is_for(claims.as_ref()));
                let poll = poll.ok_or_else(|| {
                    Refusal::new(Code::Gone, "there is no such poll session: it expired; begin another")
                })?;
                match method {
                    "GET" => poll.fetch(envelope, request, &mut self.ground),
                    "POST" => poll.post(envelope, request, &mut self.ground),
                    _ => {
                        poll.end(envelope, &mut self.ground);
                        Ok(())
                    }
                }
            }
        }
    }

    fn begin_poll(&mut self, envelope: &Envelope, request: &Request) -> Result<(), Refusal> {
        self.has_room(self.polls.len() < POLLS_MAX)?;
        let claims = self.ground.claims(request)?;
        let name: Arc<str> = self.names.next().into();
        let connection = self.ground.open(Owner::Poll(Arc::clone(&name)), claims.clone());
        self.polls.insert(Arc::clone(&name), Poll::new(connection, claims.as_ref(), &mut self.ground));
        let body = serde_json::json!({ "poll_id": &*name });
        self.ground.respond(envelope, Response::json(201, &body));
        Ok(())
    }

    fn give_ticket(&mut self, envelope: &Envelope, request: &Request) -> Result<(), Refusal> {
        let claims = self.ground.claims(request)?.ok_or_else(no_token)?;
        let name = self.names.next();
        let body = serde_json::json!({ "path": format!("/v1/events?ticket={name}") });
        self.tickets.insert(self.ground.now, name, claims);
        self.ground.respond(envelope, Response::json(201, &body));
        Ok(())
    }

    fn begin_stream(&mut self, envelope: &Envelope, request: &Request) -> Result<(), Refusal> {
        self.has_room(self.streams.len() < STREAMS_MAX)?;
        let claims = match tickets::named(request)? {
            Some(name) => self.tickets.take(self.ground.now, &name).ok_or_else(|| {
                Refusal::new(
                    Code::Unauthenticated,
                    "this path was used or is older than 30 s: POST /v1/events",
                )
            })?,
            None => self.ground.claims(request)?.ok_or_else(no_token)?,
        };
        let cursors = cursors::of(request)?;
        self.streams_count += 1;
        let id = StreamId(self.streams_count);
        let connection = self.ground.open(Owner::Stream(id), Some(claims));
        let response = Stream::response().in_envelope(envelope);
        self.ground.outputs.push_back(Output::Stream { ticket: envelope.ticket, stream: id, response });
        let stream = Stream::new(id, connection, cursors, &mut self.ground);
        self.streams.insert(id, stream);
        self.ground.dirty.insert(connection);
        Ok(())
    }

    fn has_room(&self, is_room: bool) -> Result<(), Refusal> {
        if self.is_draining {
            let refusal = Refusal::new(Code::Unavailable, "this gateway drains; try again");
            return Err(refusal.retry_after(RETRY_MS));
        }
        if !is_room {
            let refusal = Refusal::new(Code::Overloaded, "too many are connected this way; try again");
            return Err(refusal.retry_after(RETRY_MS));
        }
        Ok(())
    }
}

fn no_token() -> Refusal {
    Refusal::new(Code::Unauthenticated, "give a token: Authorization: Bearer …")
}

impl Ground {
    /// Hands something to the shard.
    fn input(&mut self, input: turn::Input<'_>) {
        self.shard.handle(self.now, self.wall, input);
    }

    /// Takes what the shard wants done.
    fn pull(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                turn::Output::Flush { connection }
                | turn::Output::Pause { connection }
                | turn::Output::Resume { connection }
                | turn::Output::Close { connection } => {
                    self.dirty.insert(connection);
                }
                turn::Output::Link { router, frame } => {
                    self.outputs.push_back(Output::Link { router, frame })
                }
                turn::Output::CloseLane { router } => self.outputs.push_back(Output::CloseLane { router }),
                turn::Output::Meet { address } => self.outputs.push_back(Output::Meet { address }),
                turn::Output::Part { router } => self.outputs.push_back(Output::Part { router }),
                turn::Output::Drained => self.outputs.push_back(Output::Drained),
                // Nothing here is a handshake, and nothing is sent on this thread.
                turn::Output::HandOff { .. } | turn::Output::Yield => {}
            }
        }
    }

    /// A connection behind the request that began it.
    fn open(&mut self, owner: Owner, claims: Option<Claims>) -> ConnectionId {
        let connection = match self.free.pop() {
            Some(ConnectionId { slot, generation }) => {
                ConnectionId { slot, generation: generation.wrapping_add(1) }
            }
            None => {
                self.slots_count += 1;
                ConnectionId { slot: self.slots_count - 1, generation: 0 }
            }
        };
        self.owners.insert(connection, owner);
        self.input(turn::Input::Opened { connection, claims });
        connection
    }

    /// The connection is over, on both sides.
    fn forget(&mut self, connection: ConnectionId) {
        if self.owners.remove(&connection).is_some() {
            self.input(turn::Input::Closed { connection });
            self.free.push(connection);
            self.timers.retain(|(_, other)| *other != connection);
        }
    }

    /// Who asks; nobody when there is no token.
    fn claims(&self, request: &Request) -> Result<Option<Claims>, Refusal> {
        let Some(header) = request.headers.authorization.as_deref() else { return Ok(None) };
        let (scheme, token) =
            std::str::from_utf8(header).ok().and_then(|text| text.split_once(' ')).ok_or_else(no_token)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(no_token());
        }
        auth::verify(&self.keys, token.trim(), self.wall).map(Some)
    }

    fn origin(&self, request: &Request) -> Result<Option<String>, Refusal> {
        let Some(origin) = &request.headers.origin else { return Ok(None) };
        match std::str::from_utf8(origin) {
            Ok(origin) if auth::is_origin_allowed(origin, &self.origins, self.is_development) => {
                Ok(Some(origin.to_owned()))
            }
            _ => Err(Refusal::new(
                Code::Forbidden,
                "pages of this origin may not ask here: see gateway.origins",
            )),
        }
    }

    fn envelope(&mut self, ticket: Ticket, request: &Request) -> Envelope {
        let given = request.headers.request_id.as_deref().and_then(handshake::request_id);
        let request_id = given.map_or_else(|| format!("{:016x}", self.prng.next_u64()), str::to_owned);
        Envelope { ticket, request_id, origin: None }
    }

    fn refuse(&mut self, envelope: &Envelope, refusal: &Refusal) {
        self.respond(envelope, Response::refusal(refusal, &envelope.request_id));
    }

    fn respond(&mut self, envelope: &Envelope, response: Response) {
        let response = response.in_envelope(envelope);
        self.outputs.push_back(Output::Response { ticket: envelope.ticket, response });
    }
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn tr2_what_is_for_the_pumps() {
        let cases = [
            ("POST", "/v1/poll", true),
            ("GET", "/v1/poll", false),
            ("GET", "/v1/poll/abc", true),
            ("DELETE", "/v1/poll/abc", true),
            ("PUT", "/v1/poll/abc", false),
            ("GET", "/v1/poll/", false),
            ("GET", "/v1/poll/a/b", false),
            ("GET", "/v1/events", true),
            ("POST", "/v1/events", true),
            ("OPTIONS", "/v1/events", false),
            ("GET", "/v1/conversations", false),
            ("GET", "/", false),
        ];
        for (method, path, expected) in cases {
            assert_eq!(takes(method, path), expected, "{method} {path}");
        }
    }
}
