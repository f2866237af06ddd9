//! A gateway without a router, on each driver: it upgrades, says hello, answers pings and closes, which is all that a driver
//! has to do with. And a client of it that says exactly what it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carillon_gateway::io::certificates::Certificate;
use carillon_gateway::io::link::Uplinks;
use carillon_gateway::io::{Doors, Driver, Gateway, HandedOff, Needs, http};
use carillon_gateway::settings::Settings;
use carillon_link::Peer;
use carillon_node::config::Config;
use carillon_node::metrics::Registry;
use carillon_node::tokens::KeyTable;
use carillon_protocol::websocket::{Decoder, Event, Opcode, Role, append_client_frame};
use rkyv::util::AlignedVec;

/// How long anything may take that should take milliseconds: generous, because test machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A ring in which everything is too small.
pub(crate) const TINY: [&str; 4] =
    ["io.ring_entries=8", "io.ring_buffers=2", "io.ring_buffer_bytes=64", "io.send_buffer_bytes=4096"];

/// Nobody is to be reached, and no client is judged by its pace.
const BARE: [&str; 6] = [
    "gateway.listen=127.0.0.1:0",
    "gateway.shards=1",
    "gateway.drain_ms=1",
    "limits.connection_per_s=0",
    "limits.identify_timeout_ms=600000",
    "gateway.handshake_timeout_ms=600000",
];

struct NoUplinks;

impl Uplinks for NoUplinks {
    fn replace(&self, _peer: Peer, _shard: u16) -> bool {
        true
    }

    fn meet(&self, _address: &str) {}

    fn part(&self, _peer: Peer) {}
}

/// A running gateway.
pub(crate) struct House {
    settings: Settings,
    needs: Needs,
    /// Whether everything is too small.
    pub(crate) is_tiny: bool,
    pub(crate) address: SocketAddr,
    pub(crate) hand_offs: tokio::sync::mpsc::Receiver<HandedOff>,
    gateway: Gateway,
    registry: Registry,
}

impl House {
    pub(crate) fn start(driver: Driver, assignments: &[&str]) -> House {
        let settings = settings(assignments);
        println!("{driver:?} with {assignments:?}");
        let doors = Doors::open(&settings).unwrap();
        let address = doors.address();
        let registry = Registry::new();
        let needs = Needs {
            keys: Arc::new(KeyTable::from_secret("k", &[7; 32])),
            is_development: true,
            epoch: 7,
            seed: 7,
            uplinks: Arc::new(NoUplinks),
            registry: registry.clone(),
            certificate: Certificate::of(&settings.tls).unwrap(),
            ready_users: None,
        };
        let mut gateway = Gateway::start(&settings, driver, doors, &needs).unwrap();
        let hand_offs = gateway.take_hand_offs().unwrap();
        let is_tiny = settings.io.ring_entries == 8;
        House { settings, needs, is_tiny, address, hand_offs, gateway, registry }
    }

    /// Has the HTTP server take what is handed over, for as long as what is returned is kept.
    pub(crate) fn serve_http(&mut self) -> tokio::sync::oneshot::Sender<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(stopped));
        let (_, nobodys) = tokio::sync::mpsc::channel(1);
        let hand_offs = std::mem::replace(&mut self.hand_offs, nobodys);
        http::serve(&handle, &self.settings, &self.needs, hand_offs, 7).unwrap();
        stop
    }

    /// What clients are shown.
    pub(crate) fn certificate(&self) -> &Certificate {
        self.needs.certificate.as_ref().unwrap()
    }

    /// Returns when it has counted this; what is counted is published once a turn.
    pub(crate) fn wait_for(&self, event: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Counts(self.registry.text()).ring_events(event) == 0 {
            assert!(Instant::now() < deadline, "no {event}");
            // Between two looks at a page that tells nobody when it changes.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it, and returns what it counted, by the metric's name and labels.
    pub(crate) fn drain(self) -> Counts {
        self.gateway.drain();
        Counts(self.registry.text())
    }
}

pub(crate) fn settings(assignments: &[&str]) -> Settings {
    let mut builder = Config::builder()
        .defaults("node", carillon_node::DEFAULTS)
        .unwrap()
        .defaults("gateway", carillon_gateway::DEFAULTS)
        .unwrap();
    for assignment in BARE.iter().chain(assignments) {
        builder = builder.set(assignment).unwrap();
    }
    Settings::from_config(&builder.build().unwrap()).unwrap()
}

/// The metrics page.
pub(crate) struct Counts(String);

impl Counts {
    pub(crate) fn of(&self, name: &str) -> u64 {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix("carillon_")?.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {name} on the page"));
        value.parse().unwrap()
    }

    /// Of the counter `gateway_ring_events`.
    pub(crate) fn ring_events(&self, event: &str) -> u64 {
        self.of(&format!("gateway_ring_events_total{{event=\"{event}\"}}"))
    }
}

/// Whether this machine allows a driver.
pub(crate) fn is_allowed(driver: Driver) -> bool {
    let is_allowed = Driver::choose(&settings(&[&format!("io.driver={}", driver.name())]).io)
        .is_ok_and(|choice| choice.driver == driver);
    if !is_allowed {
        println!("not tested: {} is refused here", driver.name());
    }
    is_allowed
}

/// Runs a test on every driver that this machine allows, on our own with these settings as well.
pub(crate) fn on_each_driver(assignments: &[&str], test: impl Fn(House)) {
    let tiny = [assignments, &TINY].concat();
    for (driver, assignments) in [
        (Driver::MonoioEpoll, assignments),
        (Driver::Monoio, assignments),
        (Driver::Uring, assignments),
        (Driver::Uring, &tiny),
    ] {
        if is_allowed(driver) {
            test(House::start(driver, assignments));
        }
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Pong(Vec<u8>),
    Close(u16),
}

/// One connection.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    decoder: Decoder,
    scratch: AlignedVec<16>,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client::over(stream)
    }

    /// Connects and asks for the upgrade; does not wait for the answer.
    pub(crate) fn knock(address: SocketAddr) -> Client {
        Client::connect(address).ask()
    }

    /// The same, with little room for what it does not read.
    pub(crate) fn slow(address: SocketAddr) -> Client {
        let client = Client::connect(address);
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 64 << 10).unwrap();
        client.ask()
    }

    pub(crate) fn upgraded(address: SocketAddr) -> Client {
        Client::knock(address).enter()
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Client<S> {
        Client {
            stream,
            decoder: Decoder::new(Role::Client),
            scratch: AlignedVec::new(),
            received: Vec::new(),
        }
    }

    pub(crate) fn ask(mut self) -> Client<S> {
        self.send(
            b"GET /v1/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Protocol: carillon.v1.json\r\n\r\n",
        );
        self
    }

    /// Waits for the answer to the upgrade, and for the hello behind it.
    pub(crate) fn enter(mut self) -> Client<S> {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let Some(Said::Text(hello)) = self.said() else { panic!("no hello") };
        assert!(hello.contains("\"hello\""), "{hello}");
        self
    }

    pub(crate) fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return String::from_utf8(self.received.drain(..end + 4).collect()).unwrap();
            }
            assert!(self.fill(), "no answer but {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// An answer to a request: its head and its body.
    pub(crate) fn answer(&mut self) -> String {
        let mut answer = self.head();
        let length = answer.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length:").map(|length| length.trim().parse::<usize>().unwrap())
        });
        let length = length.expect("a length");
        while self.received.len() < length {
            assert!(self.fill(), "a body of {length} bytes, of which {} came", self.received.len());
        }
        answer.push_str(std::str::from_utf8(&self.received[..length]).unwrap());
        self.received.drain(..length);
        answer
    }

    /// Everything until the server's end.
    pub(crate) fn rest(&mut self) -> String {
        while self.fill() {}
        String::from_utf8(std::mem::take(&mut self.received)).unwrap()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn ping(&mut self, payload: &[u8]) {
        self.send(&ping(payload));
    }

    /// The next that the server says; `None`: it has closed.
    pub(crate) fn said(&mut self) -> Option<Said> {
        loop {
            while !self.received.is_empty() {
                let (used, event) =
                    self.decoder.decode(&self.received, 1 << 20, &mut self.scratch).expect("well-formed");
                let said = event.map(|event| match event {
                    Event::Text(text) => Said::Text(String::from_utf8_lossy(text.as_ref()).into_owned()),
                    Event::Pong(payload) => Said::Pong(payload.to_vec()),
                    Event::Close { code, .. } => Said::Close(code.unwrap_or(1_005)),
                    Event::Binary(_) | Event::Ping(_) => panic!("not to be said"),
                });
                self.received.drain(..used);
                if said.is_some() {
                    return said;
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub(crate) fn assert_pong(&mut self, payload: &[u8]) {
        assert_eq!(self.said(), Some(Said::Pong(payload.to_vec())));
    }

    /// More from the server; `false`: its end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            // A ring that this thread tried out is being taken down.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server says nothing; so far {:?}", self.received)
            }
            Err(_) => false,
        }
    }
}

/// A ping of a client.
pub(crate) fn ping(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_client_frame(&mut frame, Opcode::Ping, payload, [1, 2, 3, 4]);
    frame
}
