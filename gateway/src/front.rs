//! What stands before a service where clients do not speak to it plainly: a balancer's header that says whose a connection
//! is ([`carillon_protocol::proxy`]), and TLS ([`Channel`]). It is a service itself, made of the one behind it, so every
//! driver serves it as it serves any; where neither is wanted it is not there, and costs nothing.
//!
//! The service behind it sees the same as without: a connection that was accepted, bytes that came, bytes that were sent. It
//! learns of a client's address later ([`Input::Named`]), and what it hands off brings its channel along.
//!
//! # Invariants
//! - A connection has until the service's own deadline for its first request: that begins when it was accepted.
//! - Of what the service has to say at most one record is taken ahead of what the kernel takes, so that a slow client is as
//!   slow there as it is here (G13, F14).
//! - A turn takes at most [`STEPS_PER_TURN_MAX`] steps of handshakes, each of which costs as much as some hundred messages,
//!   and a shard has at most [`HANDSHAKES_MAX`] under way. The rest waits in line, unread.
//! - What is not TLS, or no header, ends that connection and nothing else.

pub(crate) mod channel;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use carillon_protocol::handshake::response_error;
use carillon_protocol::proxy;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use rkyv::util::AlignedVec;
use rustls::ServerConfig;

use crate::counters::{Counters, SECURED, Secured};
use crate::proxies::Proxies;
use crate::turn::{ConnectionId, Input, Output, Service};
pub use channel::Channel;
use channel::{End, FRAGMENT_BYTES_MAX, Scratch};

/// Steps of handshakes in a turn: some are a signature and an exchange of keys, 0.1 to 1 ms by the certificate's kind. Few
/// enough that whoever is connected waits for milliseconds in a storm of those who are not.
const STEPS_PER_TURN_MAX: u32 = 8;
/// Handshakes that a shard has under way: each takes some 10 KB until it is over.
const HANDSHAKES_MAX: usize = 1_024;
/// The first byte of a client that speaks TLS: a record of a handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What is to stand before the shards.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Clients speak TLS, by this.
    pub tls: Option<Arc<ServerConfig>>,
    /// These begin with a header that says whose the connection is; whoever else comes is a client.
    pub balancers: Option<Proxies>,
}

impl Plan {
    /// Whether anything is to stand there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tls.is_none() && self.balancers.is_none()
    }
}

/// See the module.
pub struct Front<S> {
    service: S,
    /// Whether the service was asked for outputs since something happened to it, and had none.
    is_service_idle: bool,
    plan: Plan,
    /// Those who have not passed, or never do because they speak TLS; by the driver's slot.
    visitors: Vec<Option<Box<Visitor>>>,
    /// Those whose handshake is to go on: they come first, because they make room.
    begun: VecDeque<ConnectionId>,
    /// Those whose handshake is to begin.
    waiting: VecDeque<ConnectionId>,
    handshakes_count: usize,
    steps_left: u32,
    scratch: Scratch,
    outputs: VecDeque<Output>,
    now: Time,
    wall: WallMs,
    /// What handshakes came to, in the order of [`crate::counters::SECURED`].
    secured: [u64; SECURED.len()],
}

/// G13: what a connection takes here that has passed, or to which none of this applies.
const _: () = assert!(size_of::<Option<Box<Visitor>>>() == 8);

struct Visitor {
    id: ConnectionId,
    stage: Stage,
    /// In line for a step of its handshake, and not read from meanwhile.
    is_in_line: bool,
    /// Its handshake has begun and is not over.
    is_shaking_hands: bool,
    /// Nothing more will be queued for it.
    is_closing: bool,
}

enum Stage {
    /// A balancer's header is awaited; what came of it.
    Header(Vec<u8>),
    /// The client's first bytes are awaited, or are there and wait for their turn.
    Hello(Vec<u8>),
    Tls(Box<Channel>),
    /// What came was no TLS: this is told, and then it is over.
    Told(Bytes),
}

impl<S: Service> Service for Front<S> {
    fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        (self.now, self.wall) = (now, wall);
        match input {
            Input::Accepted { connection, address } => {
                self.forward(input);
                self.accepted(connection, address);
            }
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Sent { connection, bytes } => self.sent(connection, bytes),
            Input::Closed { connection } => {
                self.remove(connection);
                self.forward(input);
            }
            Input::Tick => {
                self.steps_left = STEPS_PER_TURN_MAX;
                self.step_on();
                self.forward(input);
            }
            _ => self.forward(input),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        // What the service decided comes first: a connection that it hands off is not closed.
        if !self.is_service_idle {
            if let Some(output) = self.service.poll_output() {
                return Some(self.translate(output));
            }
            self.is_service_idle = true;
        }
        while let Some(output) = self.outputs.pop_front() {
            let (Output::Flush { connection }
            | Output::Pause { connection }
            | Output::Resume { connection }
            | Output::Close { connection }) = output
            else {
                continue;
            };
            if self.visitor(connection).is_some() {
                return Some(self.translate(output));
            }
        }
        None
    }

    fn poll_timeout(&self) -> Option<Time> {
        let has_line =
            !self.begun.is_empty() || !self.waiting.is_empty() && self.handshakes_count < HANDSHAKES_MAX;
        self.service.poll_timeout().into_iter().chain(has_line.then_some(self.now)).min()
    }

    fn pending(&self, connection: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        let (ours, theirs) = match self.visitor(connection) {
            Some(visitor) => (visitor.pending(), None),
            None => (None, Some(self.service.pending(connection))),
        };
        ours.into_iter().chain(theirs.into_iter().flatten())
    }

    fn keep_frame(&mut self, frame: AlignedVec) {
        self.service.keep_frame(frame);
    }

    fn counters(&self) -> Counters {
        Counters { secured: self.secured, ..self.service.counters() }
    }
}

impl<S: Service> Front<S> {
    /// Stands before `service`.
    pub fn new(service: S, plan: Plan) -> Front<S> {
        Front {
            service,
            is_service_idle: false,
            plan,
            visitors: Vec::new(),
            begun: VecDeque::new(),
            waiting: VecDeque::new(),
            handshakes_count: 0,
            steps_left: STEPS_PER_TURN_MAX,
            scratch: Scratch::default(),
            outputs: VecDeque::new(),
            now: Time(0),
            wall: WallMs(0),
            secured: [0; SECURED.len()],
        }
    }

    fn forward(&mut self, input: Input<'_>) {
        self.is_service_idle = false;
        self.service.handle(self.now, self.wall, input);
    }

    fn visitor(&self, id: ConnectionId) -> Option<&Visitor> {
        self.visitors.get(id.slot as usize)?.as_deref().filter(|visitor| visitor.id == id)
    }

    fn visitor_mut(&mut self, id: ConnectionId) -> Option<&mut Visitor> {
        self.visitors.get_mut(id.slot as usize)?.as_deref_mut().filter(|visitor| visitor.id == id)
    }

    fn accepted(&mut self, id: ConnectionId, address: IpAddr) {
        let is_balancer = self.plan.balancers.as_ref().is_some_and(|balancers| balancers.contains(address));
        let stage = match (is_balancer, &self.plan.tls) {
            (true, _) => Some(Stage::Header(Vec::new())),
            (false, Some(_)) => Some(Stage::Hello(Vec::new())),
            (false, None) => None,
        };
        let slot = id.slot as usize;
        if self.visitors.len() <= slot {
            self.visitors.resize_with(slot + 1, || None);
        }
        if let Some(stale) = self.visitors.get(slot).and_then(Option::as_ref).map(|visitor| visitor.id) {
            self.remove(stale);
        }
        let visitor = |stage| {
            Box::new(Visitor { id, stage, is_in_line: false, is_shaking_hands: false, is_closing: false })
        };
        if let Some(place) = self.visitors.get_mut(slot) {
            *place = stage.map(visitor);
        }
    }

    /// From here on it is the service's alone, or gone.
    fn remove(&mut self, id: ConnectionId) -> Option<Box<Visitor>> {
        let place = self.visitors.get_mut(id.slot as usize)?;
        let removed = place.take_if(|visitor| visitor.id == id)?;
        self.handshakes_count -= usize::from(removed.is_shaking_hands);
        Some(removed)
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(visitor) = self.visitor_mut(id) else {
            return self.forward(Input::Received { connection: id, bytes });
        };
        if visitor.is_closing {
            return;
        }
        match &mut visitor.stage {
            Stage::Header(received) => {
                received.extend_from_slice(bytes);
                self.header(id);
            }
            Stage::Hello(held) => {
                held.extend_from_slice(bytes);
                self.line_up(id);
            }
            Stage::Tls(channel) if channel.is_open() => self.decrypt(id, bytes),
            Stage::Tls(channel) => {
                channel.hold(bytes);
                self.line_up(id);
            }
            Stage::Told(_) => {}
        }
    }

    /// Looks at what came of a balancer's header.
    fn header(&mut self, id: ConnectionId) {
        let has_tls = self.plan.tls.is_some();
        let Some(visitor) = self.visitor_mut(id) else { return };
        let Stage::Header(received) = &mut visitor.stage else { return };
        let (source, header_bytes) = match proxy::parse(received) {
            Ok(proxy::Progress::Partial) => return,
            Ok(proxy::Progress::Complete(source, header_bytes)) => (source, header_bytes),
            Err(malformed) => {
                tracing::warn!(%malformed, "a connection of a trusted proxy is refused");
                self.count(Secured::Proxy);
                return self.end(id);
            }
        };
        let rest = received.split_off(header_bytes);
        if has_tls {
            visitor.stage = Stage::Hello(Vec::new());
        } else {
            self.remove(id);
        }
        if let proxy::Source::Client(address) = source {
            self.forward(Input::Named { connection: id, address });
        }
        if !rest.is_empty() {
            self.received(id, &rest);
        }
    }

    /// A handshake has something to go on with: now, or when it is its turn.
    fn line_up(&mut self, id: ConnectionId) {
        let is_free = self.steps_left > 0 && self.begun.is_empty();
        let has_room = self.waiting.is_empty() && self.handshakes_count < HANDSHAKES_MAX;
        let Some(visitor) = self.visitor_mut(id).filter(|visitor| !visitor.is_in_line) else { return };
        let has_begun = visitor.is_shaking_hands;
        if is_free && (has_begun || has_room) {
            return self.step(id);
        }
        visitor.is_in_line = true;
        self.outputs.push_back(Output::Pause { connection: id });
        let line = if has_begun { &mut self.begun } else { &mut self.waiting };
        line.push_back(id);
    }

    /// Brings on those in line, as far as a turn goes.
    fn step_on(&mut self) {
        while self.steps_left > 0 {
            let next = match self.begun.pop_front() {
                None if self.handshakes_count < HANDSHAKES_MAX => self.waiting.pop_front(),
                next => next,
            };
            let Some(id) = next else { return };
            // Who has gone meanwhile stays in line until here.
            let Some(visitor) = self.visitor_mut(id) else { continue };
            visitor.is_in_line = false;
            self.outputs.push_back(Output::Resume { connection: id });
            self.step(id);
        }
    }

    /// One step of a handshake, with what came.
    fn step(&mut self, id: ConnectionId) {
        let Some(config) = self.plan.tls.clone() else { return };
        let Some(visitor) = self.visitor_mut(id).filter(|visitor| !visitor.is_closing) else { return };
        let mut came = Vec::new();
        if let Stage::Hello(held) = &mut visitor.stage {
            came = std::mem::take(held);
            if came.first() != Some(&HANDSHAKE_RECORD) {
                visitor.stage = Stage::Told(plain_answer(id));
                self.count(Secured::Plain);
                return self.end(id);
            }
            match Channel::new(config) {
                Ok(channel) => visitor.stage = Stage::Tls(Box::new(channel)),
                Err(error) => {
                    tracing::error!(%error, "no TLS connection can be made");
                    return self.end(id);
                }
            }
            visitor.is_shaking_hands = true;
            self.handshakes_count += 1;
        }
        self.steps_left = self.steps_left.saturating_sub(1);
        self.decrypt(id, &came);
    }

    /// Takes what came of TLS.
    fn decrypt(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Front { visitors, scratch, .. } = self;
        let place = visitors.get_mut(id.slot as usize).and_then(Option::as_deref_mut);
        let Some(visitor) = place.filter(|visitor| visitor.id == id) else { return };
        let Stage::Tls(channel) = &mut visitor.stage else { return };
        let end = channel.receive(bytes, scratch);
        let (is_open, is_pending) = (channel.is_open(), !channel.pending().is_empty());
        if visitor.is_shaking_hands && (is_open || end.is_some()) {
            visitor.is_shaking_hands = false;
            self.handshakes_count -= 1;
            self.count(if is_open { Secured::Done } else { Secured::Failed });
        }
        if is_pending {
            self.outputs.push_back(Output::Flush { connection: id });
        }
        if !self.scratch.plain.is_empty() {
            let plain = std::mem::take(&mut self.scratch.plain);
            self.forward(Input::Received { connection: id, bytes: &plain });
            self.scratch.plain = plain;
        }
        match end {
            None => {}
            // As when its socket ends: what it asked for last is still told.
            Some(End::Said) => self.close(id),
            Some(End::Broken(error)) => {
                tracing::debug!(%error, "a TLS connection is broken off");
                self.end(id);
            }
        }
    }

    /// Nothing more comes of it that the service could hear.
    fn end(&mut self, id: ConnectionId) {
        self.forward(Input::Closed { connection: id });
        self.close(id);
    }

    /// What is pending is sent, and then it goes.
    fn close(&mut self, id: ConnectionId) {
        if let Some(visitor) = self.visitor_mut(id) {
            visitor.is_closing = true;
            self.outputs.push_back(Output::Close { connection: id });
        }
    }

    fn sent(&mut self, id: ConnectionId, bytes: usize) {
        match self.visitor_mut(id).map(|visitor| &mut visitor.stage) {
            None => self.forward(Input::Sent { connection: id, bytes }),
            Some(Stage::Tls(channel)) => {
                channel.sent(bytes);
                self.seal(id);
            }
            Some(Stage::Told(told)) => told.advance(bytes.min(told.len())),
            Some(Stage::Header(_) | Stage::Hello(_)) => {}
        }
    }

    /// Seals what the service has for a client, when nothing that was sealed waits any more.
    fn seal(&mut self, id: ConnectionId) {
        let Front { visitors, scratch, service, .. } = self;
        let place = visitors.get_mut(id.slot as usize).and_then(Option::as_deref_mut);
        let Some(visitor) = place.filter(|visitor| visitor.id == id) else { return };
        let Stage::Tls(channel) = &mut visitor.stage else { return };
        if !channel.pending().is_empty() {
            return;
        }
        let sealed_bytes = seal_pending(service, id, channel, &mut scratch.plain);
        let (is_over, is_closing) = (channel.is_over(), visitor.is_closing);
        if sealed_bytes > 0 {
            self.forward(Input::Sent { connection: id, bytes: sealed_bytes });
        } else if is_closing {
            channel.goodbye();
        } else if is_over {
            self.end(id);
        }
    }

    /// What the service decided, as its driver is to do it.
    fn translate(&mut self, output: Output) -> Output {
        match output {
            Output::Flush { connection } => self.seal(connection),
            Output::Close { connection } => {
                if let Some(visitor) = self.visitor_mut(connection) {
                    visitor.is_closing = true;
                }
                self.seal(connection);
            }
            Output::HandOff { connection, mut handed } => {
                if let Some(Stage::Tls(channel)) = self.remove(connection).map(|visitor| visitor.stage) {
                    handed.channel = Some(channel);
                }
                return Output::HandOff { connection, handed };
            }
            _ => {}
        }
        output
    }

    fn count(&mut self, what: Secured) {
        self.secured[what as usize] += 1;
    }
}

impl Visitor {
    fn pending(&self) -> Option<&Bytes> {
        match &self.stage {
            Stage::Header(_) | Stage::Hello(_) => None,
            Stage::Tls(channel) => Some(channel.pending()),
            Stage::Told(told) => Some(told),
        }
    }
}

/// Seals what a service has for a client, as much as one record takes; how much that was.
fn seal_pending(
    service: &impl Service,
    id: ConnectionId,
    channel: &mut Channel,
    together: &mut Vec<u8>,
) -> usize {
    let mut pieces = service.pending(id).filter(|piece| !piece.is_empty());
    let Some(first) = pieces.next() else { return 0 };
    // A large one is sealed from where it lies; small ones go together.
    if first.len() >= FRAGMENT_BYTES_MAX {
        return channel.seal(first);
    }
    together.clear();
    for piece in std::iter::once(first).chain(pieces) {
        let room = FRAGMENT_BYTES_MAX - together.len();
        together.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if together.len() == FRAGMENT_BYTES_MAX {
            break;
        }
    }
    channel.seal(together)
}

/// What a client reads that speaks plainly where TLS is spoken.
fn plain_answer(id: ConnectionId) -> Bytes {
    let refusal = Refusal::new(Code::BadRequest, "this port speaks TLS: connect by https:// or wss://");
    let status = refusal.code.row().http_status;
    response_error(status, &refusal, &format!("{:016x}", id.as_u64()), &[]).into()
}
