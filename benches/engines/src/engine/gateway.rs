//! Carillon's gateway without a router: its drivers, its turn, its handshake and codec. In place of its shard is either a
//! service that echoes, or the shard itself, whose sessions answer pings before they identify.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use carillon_gateway::counters::Counters;
use carillon_gateway::io::link::Uplinks;
use carillon_gateway::io::{Doors, Driver, Gateway, Needs};
use carillon_gateway::settings::Settings;
use carillon_gateway::turn::{ConnectionId, Input, Output, Service};
use carillon_link::Peer;
use carillon_node::config::Config;
use carillon_node::metrics::Registry;
use carillon_node::tokens::KeyTable;
use carillon_protocol::handshake::{self, Progress};
use carillon_protocol::time::{Time, WallMs};
use carillon_protocol::websocket::{Decoder, Event, Opcode, Role, append_server_frame};
use rkyv::util::AlignedVec;

use super::Refused;

/// The defaults but for these: one shard, and no client is judged by its pace.
const ASSIGNMENTS: [&str; 5] = [
    "gateway.listen=127.0.0.1:0",
    "gateway.shards=1",
    "limits.connection_per_s=0",
    "limits.identify_timeout_ms=3600000",
    "gateway.handshake_timeout_ms=3600000",
];
/// The longest message that the echo takes.
const MESSAGE_BYTES_MAX: usize = 65_536;

/// The echo on a driver.
pub fn serve_echo(driver: Driver, ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    serve(driver, ready, |settings, driver, doors, needs| {
        Gateway::start_with(settings, driver, doors, needs, |_| EchoService::default())
    })
}

/// The shard on its own driver.
pub fn serve_shard(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    serve(Driver::Uring, ready, Gateway::start)
}

fn serve<E: std::error::Error + Send + Sync + 'static>(
    driver: Driver,
    ready: impl FnOnce(SocketAddr),
    start: impl FnOnce(&Settings, Driver, Doors, &Needs) -> Result<Gateway, E>,
) -> Result<Infallible, Refused> {
    let mut builder = Config::builder()
        .defaults("node", carillon_node::DEFAULTS)?
        .defaults("gateway", carillon_gateway::DEFAULTS)?;
    for assignment in ASSIGNMENTS {
        builder = builder.set(assignment)?;
    }
    let settings = Settings::from_config(&builder.build()?)?;
    let doors = Doors::open(&settings)?;
    let address = doors.address();
    let needs = Needs {
        keys: Arc::new(KeyTable::from_secret("k", &[7; 32])),
        is_development: true,
        epoch: 7,
        seed: 7,
        uplinks: Arc::new(NoUplinks),
        registry: Registry::new(),
        certificate: None,
        ready_users: None,
    };
    let gateway = start(&settings, driver, doors, &needs)?;
    ready(address);
    // The shard's thread works from here on.
    loop {
        std::thread::park();
        std::hint::black_box(&gateway);
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
    generation: u32,
    /// `None`: its request to upgrade is awaited.
    decoder: Option<Decoder>,
    /// What came of the request so far.
    head: Vec<u8>,
    /// What waits to be sent, and was shown to the driver.
    shown: Bytes,
    /// What came since.
    fresh: Vec<u8>,
}

/// Says what it hears. One send a connection and turn, as the shard does it.
#[derive(Default)]
struct EchoService {
    connections: Vec<Option<Connection>>,
    /// Connections that have something new to send, or that are to be closed.
    dirty: Vec<ConnectionId>,
    outputs: Vec<Output>,
    scratch: AlignedVec<16>,
}

impl EchoService {
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let place = self.connections.get_mut(id.slot as usize)?;
        place.as_mut().filter(|connection| connection.generation == id.generation)
    }

    fn accepted(&mut self, id: ConnectionId) {
        let slot = id.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(Connection {
            generation: id.generation,
            decoder: None,
            head: Vec::new(),
            shown: Bytes::new(),
            fresh: Vec::new(),
        });
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(connection) = self.connection(id) {
            let had_nothing = connection.fresh.is_empty();
            if connection.receive(bytes, &mut scratch).is_err() {
                self.outputs.push(Output::Close { connection: id });
            } else if had_nothing && !connection.fresh.is_empty() {
                self.dirty.push(id);
            }
        }
        self.scratch = scratch;
    }
}

impl Connection {
    /// Answers what is whole. An error: the connection is to be closed.
    fn receive(&mut self, bytes: &[u8], scratch: &mut AlignedVec<16>) -> Result<(), ()> {
        let Some(decoder) = &mut self.decoder else {
            self.head.extend_from_slice(bytes);
            return match handshake::parse(&self.head) {
                Progress::Complete(request, head_bytes) => {
                    self.fresh = request.response();
                    self.decoder = Some(Decoder::new(Role::Server));
                    let head = std::mem::take(&mut self.head);
                    self.receive(&head[head_bytes..], scratch)
                }
                Progress::Partial => Ok(()),
                Progress::Other | Progress::Refused(_) => Err(()),
            };
        };
        self.fresh.reserve(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            let (used, event) = decoder.decode(rest, MESSAGE_BYTES_MAX, scratch).map_err(|_| ())?;
            rest = &rest[used..];
            match event {
                Some(Event::Binary(payload)) => append_server_frame(&mut self.fresh, Opcode::Binary, payload),
                Some(Event::Text(text)) => {
                    append_server_frame(&mut self.fresh, Opcode::Text, text.as_bytes());
                }
                Some(Event::Ping(payload)) => append_server_frame(&mut self.fresh, Opcode::Pong, payload),
                Some(Event::Pong(_)) | None => {}
                Some(Event::Close { .. }) => return Err(()),
            }
        }
        Ok(())
    }

    /// Shows what is new, if everything before it is out.
    fn show(&mut self) -> bool {
        let is_free = self.shown.is_empty() && !self.fresh.is_empty();
        if is_free {
            self.shown = std::mem::take(&mut self.fresh).into();
        }
        is_free
    }
}

impl Service for EchoService {
    fn handle(&mut self, _now: Time, _wall: WallMs, input: Input<'_>) {
        match input {
            Input::Accepted { connection, .. } => self.accepted(connection),
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Sent { connection: id, bytes } => {
                if let Some(connection) = self.connection(id) {
                    connection.shown.advance(bytes);
                    if connection.shown.is_empty() {
                        // Not a slice of what is out: an idle connection owns nothing.
                        connection.shown = Bytes::new();
                        if !connection.fresh.is_empty() {
                            self.dirty.push(id);
                        }
                    }
                }
            }
            Input::Closed { connection: id } => {
                if self.connection(id).is_some() {
                    self.connections[id.slot as usize] = None;
                }
            }
            // There are no routers, no requests but to upgrade, and nobody drains it.
            Input::Opened { .. }
            | Input::Frame { .. }
            | Input::Heard { .. }
            | Input::LaneUp { .. }
            | Input::LaneFrame { .. }
            | Input::LaneDown { .. }
            | Input::Tick
            | Input::Drain => {}
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop() {
            return Some(output);
        }
        while let Some(id) = self.dirty.pop() {
            if self.connection(id).is_some_and(Connection::show) {
                return Some(Output::Flush { connection: id });
            }
        }
        None
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    fn pending(&self, id: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        let connection = self.connections.get(id.slot as usize).and_then(Option::as_ref);
        connection
            .filter(|connection| connection.generation == id.generation)
            .map(|connection| &connection.shown)
            .into_iter()
    }

    fn keep_frame(&mut self, _frame: AlignedVec) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
