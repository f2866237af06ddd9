//! The ground floor of the gateway: sockets, rings, clock and threads. Everything that decides is upstairs.
//!
//! [`Gateway::start`] opens one listener a shard (`SO_REUSEPORT`) and runs each shard on a thread of its own, under the
//! driver that [`Driver::choose`] picked. What is not a WebSocket goes to the control thread, where [`http`] serves it.

#![expect(clippy::disallowed_methods, reason = "the gateway's threads are started here")]

pub mod certificates;
mod driver;
pub mod http;
pub mod link;
mod meters;
mod monoio;
mod partings;
mod station;
mod uring;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use carillon_link::doorbell::Doorbell;
use carillon_link::{Mailbox, Wake};
use carillon_node::clock::Clock;
use carillon_node::exit::{AbortOnPanic, Fatal};
use carillon_node::metrics::Registry;
use carillon_node::tokens::KeyTable;

use certificates::Certificate;
pub use driver::{Choice, Driver};
use link::{Lanes, Uplinks};
use meters::ShardMeters;
use station::Station;

use crate::front::{self, Front};
use crate::rest::ReadyUsers;
use crate::settings::Settings;
use crate::shard::Shard;
use crate::turn::{Handed, Service};

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 4_096;
/// New lanes that may wait for a shard.
const ARRIVALS_MAX: usize = 64;
/// Connections that may wait for the HTTP server; more are dropped.
const HAND_OFFS_MAX: usize = 1_024;
/// Descriptors kept for everything that is not a client's connection: listeners, rings, the store's files, QUIC.
const DESCRIPTORS_RESERVED: usize = 512;

/// A connection that is not a WebSocket, on its way to the HTTP server.
#[derive(Debug)]
pub struct HandedOff {
    /// The socket, non-blocking.
    pub stream: std::net::TcpStream,
    /// What goes with it.
    pub handed: Box<Handed>,
}

/// What [`Gateway::start`] needs beside the settings.
pub struct Needs {
    /// Our own key table.
    pub keys: Arc<KeyTable>,
    /// Whether the key is the development key.
    pub is_development: bool,
    /// A random number for this life of the process.
    pub epoch: u64,
    /// Seeds the shards' generators.
    pub seed: u64,
    /// Makes lanes inside this process; see [`link::Uplinks`].
    pub uplinks: Arc<dyn Uplinks>,
    /// Where the metrics go.
    pub registry: Registry,
    /// What clients speak TLS by; none: they speak plainly.
    pub certificate: Option<Certificate>,
    /// Who can be tried out on the page to look at; none: there is no page.
    pub ready_users: Option<ReadyUsers>,
}

/// What one shard needs to run, whatever its driver.
struct Parts<S> {
    station: Station<S>,
    listener: TcpListener,
    doorbell: Arc<Doorbell>,
    connections_max: usize,
    hand_off: tokio::sync::mpsc::Sender<HandedOff>,
    drain: Arc<AtomicBool>,
    meters: ShardMeters,
}

/// Doors that are open but not yet served: lets a port that is taken be reported before anything else begins.
pub struct Doors {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

impl Doors {
    /// Opens `gateway.listen`, once a shard.
    ///
    /// # Errors
    /// Status 2, with what to do.
    pub fn open(settings: &Settings) -> Result<Doors, Fatal> {
        if settings.gateway.proxy_protocol && settings.gateway.trusted_proxies.is_empty() {
            return Err(Fatal::config(
                "gateway.proxy_protocol is set, and gateway.trusted_proxies is empty: name the addresses of the balancers \
                 whose headers are to be believed",
            ));
        }
        // A plain bind finds a foreign listener, which SO_REUSEPORT would join in silence.
        let probe = carillon_node::listen::tcp("gateway.listen", &settings.gateway.listen)?;
        let refused = |error: std::io::Error| {
            Fatal::config(format!("gateway.listen {} cannot be opened: {error}", settings.gateway.listen))
        };
        let address = probe.local_addr().map_err(refused)?;
        drop(probe);
        let listeners = (0..settings.shards_count())
            .map(|_| listen(address, settings.io.send_buffer_bytes))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(refused)?;
        Ok(Doors { listeners, address })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listener of one shard: `SO_REUSEPORT`, so that the kernel spreads connections over the shards. What is set here its
/// connections inherit.
fn listen(address: SocketAddr, send_buffer_bytes: usize) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if send_buffer_bytes > 0 {
        sockopt::set_socket_send_buffer_size(&socket, send_buffer_bytes)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The running shards.
pub struct Gateway {
    mailboxes: Vec<Mailbox>,
    doorbells: Vec<Arc<Doorbell>>,
    threads: Vec<JoinHandle<()>>,
    drain: Arc<AtomicBool>,
    hand_offs: Option<tokio::sync::mpsc::Receiver<HandedOff>>,
}

impl Gateway {
    /// Prepares the mailboxes of the shards, before anything runs: lanes may be connected at once.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn start(settings: &Settings, driver: Driver, doors: Doors, needs: &Needs) -> Result<Gateway, Fatal> {
        let (shard_settings, keys) = (settings.clone(), Arc::clone(&needs.keys));
        let (epoch, seed, is_development) = (needs.epoch, needs.seed, needs.is_development);
        let make = move |number: u16| {
            let (settings, keys) = (shard_settings.clone(), Arc::clone(&keys));
            Shard::new(settings, keys, is_development, seed.wrapping_add(u64::from(number)), epoch, number)
        };
        let plan = front::Plan {
            tls: needs.certificate.as_ref().map(Certificate::config),
            balancers: settings.gateway.proxy_protocol.then(|| settings.gateway.trusted_proxies.clone()),
        };
        // Where nothing stands before the shards, nothing is paid for it.
        if plan.is_empty() {
            Gateway::start_with(settings, driver, doors, needs, make)
        } else {
            Gateway::start_with(settings, driver, doors, needs, move |number| {
                Front::new(make(number), plan.clone())
            })
        }
    }

    /// The same with something else where the shards are, made by each one's own thread from its number.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn start_with<S: Service>(
        settings: &Settings,
        driver: Driver,
        doors: Doors,
        needs: &Needs,
        make: impl Fn(u16) -> S + Clone + Send + 'static,
    ) -> Result<Gateway, Fatal> {
        let failed = |error: std::io::Error| Fatal::config(format!("a gateway shard cannot start: {error}"));
        let shards_count = doors.listeners.len();
        let sizes = uring::Sizes::of(&settings.io)?.fitted(descriptors_max());
        let connections_max = match driver {
            Driver::Uring => connections_per_ring(settings, shards_count, sizes),
            Driver::Monoio | Driver::MonoioEpoll => connections_per_shard(settings, shards_count),
        };
        let drain = Arc::new(AtomicBool::new(false));
        let (hand_off, hand_offs) = tokio::sync::mpsc::channel(HAND_OFFS_MAX);
        let mut gateway = Gateway {
            mailboxes: Vec::new(),
            doorbells: Vec::new(),
            threads: Vec::new(),
            drain: Arc::clone(&drain),
            hand_offs: Some(hand_offs),
        };
        for (number, listener) in doors.listeners.into_iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let doorbell = Doorbell::new().map_err(failed)?;
            let wake: Arc<dyn Wake> = Arc::clone(&doorbell) as Arc<dyn Wake>;
            let (mailbox, arrivals) = Mailbox::new(ARRIVALS_MAX, wake);
            gateway.mailboxes.push(mailbox);
            gateway.doorbells.push(Arc::clone(&doorbell));

            let lanes = Lanes::new(arrivals, Arc::clone(&needs.uplinks), needs.epoch, number);
            let make = make.clone();
            let meters = needs.registry.meter(&[]);
            let (hand_off, drain) = (hand_off.clone(), Arc::clone(&drain));
            let thread = std::thread::Builder::new()
                .name(format!("gateway-{number}"))
                .spawn(move || {
                    let _abort = AbortOnPanic;
                    let parts = Parts {
                        station: Station::new(make(number), lanes, Clock),
                        listener,
                        doorbell,
                        connections_max,
                        hand_off,
                        drain,
                        meters: ShardMeters::new(meters, driver),
                    };
                    let ended = match driver {
                        Driver::Uring => uring::run(sizes, parts),
                        Driver::Monoio => monoio::run(monoio::Engine::Uring, parts),
                        Driver::MonoioEpoll => monoio::run(monoio::Engine::Epoll, parts),
                    };
                    if let Err(error) = ended {
                        // A shard without its driver serves nobody: the whole process has to go, loudly.
                        Fatal::config(format!("a gateway shard's driver failed: {error}")).exit();
                    }
                })
                .map_err(failed)?;
            gateway.threads.push(thread);
        }
        Ok(gateway)
    }

    /// One mailbox a shard, for new lanes.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Connections for the HTTP server; can be taken once.
    pub fn take_hand_offs(&mut self) -> Option<tokio::sync::mpsc::Receiver<HandedOff>> {
        self.hand_offs.take()
    }

    /// Tells everybody to reconnect, flushes, closes with 1012, and returns when every shard has ended. Each shard bounds
    /// its own drain (`gateway.drain_ms`).
    pub fn drain(self) {
        self.drain.store(true, Ordering::Release);
        for doorbell in &self.doorbells {
            doorbell.wake();
        }
        for thread in self.threads {
            // A shard that panicked has aborted the process already.
            let _ = thread.join();
        }
    }
}

/// The cap of one shard: what the settings say, and never more than the process has descriptors for (F28).
fn connections_per_shard(settings: &Settings, shards_count: usize) -> usize {
    let possible = descriptors_max().saturating_sub(DESCRIPTORS_RESERVED);
    settings.gateway.connections_max.min(possible).div_ceil(shards_count.max(1))
}

/// The same for a ring with a table of its own, which may have as many places as the process may have descriptors.
fn connections_per_ring(settings: &Settings, shards_count: usize, sizes: uring::Sizes) -> usize {
    let wanted = settings.gateway.connections_max.div_ceil(shards_count.max(1));
    wanted.min(descriptors_max().saturating_sub(uring::places_reserved(sizes)))
}

/// How many descriptors the process may have, raised as far as it goes.
fn descriptors_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let descriptors_max = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    descriptors_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
}
