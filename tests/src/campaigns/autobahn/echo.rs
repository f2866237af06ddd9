//! The gateway with an echo in place of its shards: the drivers, the turn, the handshake, the codec and what a server
//! answers by itself are the product's. There is no router behind it, and no session in it. Only tests have it.
//!
//! Its messages may be larger, and in more fragments, than the product takes: the suite sends 16 MiB in one, and 4 MiB in
//! 65,536. That the product refuses these is another campaign's ([`handshakes`](super::super::handshakes)).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use carillon_gateway::counters::Counters;
use carillon_gateway::io::link::Uplinks;
use carillon_gateway::io::{Doors, Driver, Gateway, Needs};
use carillon_gateway::turn::{ConnectionId, Input, Output, Service};
use carillon_link::Peer;
use carillon_node::exit::Fatal;
use carillon_node::metrics::Registry;
use carillon_node::tokens::KeyTable;
use carillon_protocol::handshake::{Head, Progress};
use carillon_protocol::time::{Time, WallMs};
use carillon_protocol::websocket::{
    Decoder, Event, Opcode, Role, Violation, close_frame, reply, server_frame,
};
use rkyv::util::AlignedVec;

use crate::campaigns::gateway_settings;

/// The largest message of the suite.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The most fragments of one: 4 MiB by 64 bytes.
const FRAGMENTS_MAX: u32 = 65_536;
/// What may wait to be sent to one client before it is not read any more.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// A gateway that echoes. It ends when it is dropped.
pub struct Echo {
    gateway: Option<Gateway>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts one on a driver.
    ///
    /// # Errors
    /// This machine refuses the driver, or has no port or descriptor left.
    pub fn start(driver: &str) -> Result<Echo, Fatal> {
        let settings = gateway_settings(driver)?;
        let choice = Driver::choose(&settings.io)?;
        if choice.driver.name() != driver {
            return Err(Fatal::config(choice.detail));
        }
        let doors = Doors::open(&settings)?;
        let address = doors.address();
        let needs = Needs {
            keys: Arc::new(KeyTable::from_secret("none", &[0; 32])),
            is_development: true,
            epoch: 1,
            seed: 1,
            uplinks: Arc::new(NoUplinks),
            registry: Registry::new(),
            ready_users: None,
            certificate: None,
        };
        let gateway =
            Gateway::start_with(&settings, choice.driver, doors, &needs, |_| EchoService::default())?;
        Ok(Echo { gateway: Some(gateway), address })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.drain();
        }
    }
}

struct NoUplinks;

impl Uplinks for NoUplinks {
    fn replace(&self, _peer: Peer, _shard: u16) -> bool {
        true
    }

    fn meet(&self, _address: &str) {}

    fn part(&self, _peer: Peer) {}
}

/// A connection of the echo.
struct Connection {
    id: ConnectionId,
    phase: Phase,
    /// What waits to be sent.
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    is_paused: bool,
    is_dirty: bool,
}

enum Phase {
    /// The request to upgrade, as far as it came.
    Handshake(Head, Vec<u8>),
    Open(Decoder),
    /// Nothing more is read or queued.
    Ending,
    /// The driver knows it; what is queued goes out, and then it is forgotten.
    Closing,
}

/// Says what it hears.
#[derive(Default)]
struct EchoService {
    /// By slot.
    connections: Vec<Option<Connection>>,
    outputs: VecDeque<Output>,
    /// Connections that something happened to in this turn.
    dirty: VecDeque<ConnectionId>,
    scratch: AlignedVec<16>,
}

impl EchoService {
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let place = self.connections.get_mut(id.slot as usize)?;
        place.as_mut().filter(|connection| connection.id == id)
    }

    fn forget(&mut self, id: ConnectionId) {
        if self.connection(id).is_some() {
            self.connections[id.slot as usize] = None;
        }
    }

    fn touch(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection(id)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    fn accepted(&mut self, id: ConnectionId) {
        let slot = id.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(Connection {
            id,
            phase: Phase::Handshake(Head::new(), Vec::new()),
            queue: VecDeque::new(),
            queue_bytes: 0,
            is_paused: false,
            is_dirty: false,
        });
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(connection) = self.connection(id) {
            connection.receive(bytes, &mut scratch);
        }
        self.scratch = scratch;
        self.touch(id);
    }

    fn sent(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(connection) = self.connection(id) {
            connection.sent(bytes);
        }
        self.touch(id);
    }

    /// Tells the driver what became of a connection in this turn.
    fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else { return };
        connection.is_dirty = false;
        let (is_empty, was_paused) = (connection.queue.is_empty(), connection.is_paused);
        match connection.phase {
            Phase::Ending | Phase::Closing => {
                let is_known = matches!(connection.phase, Phase::Closing);
                connection.phase = Phase::Closing;
                if !is_known {
                    self.outputs.push_back(Output::Close { connection: id });
                }
                if is_empty {
                    self.forget(id);
                }
            }
            Phase::Handshake(..) | Phase::Open(_) => {
                let has_to_wait = connection.queue_bytes > QUEUE_BYTES_MAX;
                connection.is_paused = has_to_wait;
                match (was_paused, has_to_wait) {
                    (false, true) => self.outputs.push_back(Output::Pause { connection: id }),
                    (true, false) => self.outputs.push_back(Output::Resume { connection: id }),
                    _ => {}
                }
                if !is_empty {
                    self.outputs.push_back(Output::Flush { connection: id });
                }
            }
        }
    }

    /// Lets everybody go; nobody new is let in meanwhile.
    fn drain(&mut self) {
        for connection in std::mem::take(&mut self.connections).into_iter().flatten() {
            self.outputs.push_back(Output::Close { connection: connection.id });
        }
        self.outputs.push_back(Output::Drained);
    }
}

impl Connection {
    fn queue(&mut self, bytes: Vec<u8>) {
        self.queue_bytes += bytes.len();
        self.queue.push_back(bytes.into());
    }

    fn receive(&mut self, bytes: &[u8], scratch: &mut AlignedVec<16>) {
        if let Phase::Handshake(head, received) = &mut self.phase {
            received.extend_from_slice(bytes);
            let (response, rest) = match head.parse(received) {
                Progress::Partial => return,
                Progress::Complete(request, head_bytes) => {
                    (request.response(), received.get(head_bytes..).unwrap_or(&[]).to_vec())
                }
                Progress::Other | Progress::Refused(_) => {
                    self.phase = Phase::Ending;
                    return;
                }
            };
            self.queue(response);
            self.phase = Phase::Open(Decoder::with_fragments_max(Role::Server, FRAGMENTS_MAX));
            self.read(&rest, scratch);
        } else {
            self.read(bytes, scratch);
        }
    }

    /// Reads frames, as a shard does.
    fn read(&mut self, mut bytes: &[u8], scratch: &mut AlignedVec<16>) {
        while !bytes.is_empty() {
            let Phase::Open(decoder) = &mut self.phase else { return };
            match decoder.decode(bytes, MESSAGE_BYTES_MAX, scratch) {
                Ok((used, event)) => {
                    bytes = bytes.get(used..).unwrap_or(&[]);
                    if let Some(event) = event {
                        self.heard(event);
                    }
                }
                Err(violation) => self.fail(violation),
            }
        }
    }

    fn heard(&mut self, event: Event<'_>) {
        let answer = match event {
            Event::Text(text) => Some(server_frame(Opcode::Text, text.as_bytes())),
            Event::Binary(bytes) => Some(server_frame(Opcode::Binary, bytes)),
            Event::Ping(_) | Event::Pong(_) | Event::Close { .. } => reply(&event),
        };
        if let Some(answer) = answer {
            self.queue(answer);
        }
        if matches!(event, Event::Close { .. }) {
            self.phase = Phase::Ending;
        }
    }

    fn fail(&mut self, violation: Violation) {
        self.queue(close_frame(violation.close()));
        self.phase = Phase::Ending;
    }

    fn sent(&mut self, mut bytes: usize) {
        self.queue_bytes -= bytes;
        while let Some(first) = self.queue.front_mut() {
            let taken = bytes.min(first.len());
            first.advance(taken);
            bytes -= taken;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
    }
}

impl Service for EchoService {
    fn handle(&mut self, _now: Time, _wall: WallMs, input: Input<'_>) {
        match input {
            Input::Accepted { connection, .. } => self.accepted(connection),
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Sent { connection, bytes } => self.sent(connection, bytes),
            Input::Closed { connection } => self.forget(connection),
            Input::Drain => self.drain(),
            // There are no routers, no proxies, and no requests but to upgrade.
            Input::Named { .. }
            | Input::Opened { .. }
            | Input::Frame { .. }
            | Input::Heard { .. }
            | Input::LaneUp { .. }
            | Input::LaneFrame { .. }
            | Input::LaneDown { .. }
            | Input::Tick => {}
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let touched = self.dirty.pop_front()?;
            self.settle(touched);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    fn pending(&self, id: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        let connection = self.connections.get(id.slot as usize).and_then(Option::as_ref);
        connection
            .filter(|connection| connection.id == id)
            .into_iter()
            .flat_map(|connection| &connection.queue)
    }

    fn keep_frame(&mut self, _frame: AlignedVec) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
