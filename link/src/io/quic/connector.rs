//! The connecting side: one connection to one router, kept up for ever, and on it one lane for each shard (of a
//! gateway; a router has one).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, TokioRuntime, TransportConfig};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{
    BACKOFF_CEILING, BACKOFF_FLOOR, CONNECT_TIME_MAX, Counters, Options, STEADY, add, any_address,
    check_lanes, code, endpoint_config, peer_role, pump, speaks_link,
};
use crate::backoff::Backoff;
use crate::tls::{Identity, Role};
use crate::{Mailbox, Peer};

/// How often it is said again why a router cannot be reached, while nothing changes in that.
const SAME_WARNING_EVERY: Duration = Duration::from_secs(60);

/// Keeps the connection up until it is dropped, which closes it and all its lanes.
#[derive(Debug)]
pub struct Connector {
    endpoint: Endpoint,
    task: AbortHandle,
    counters: Arc<Counters>,
}

impl Connector {
    /// What went through.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Closes the connection and waits until the router knows it, or is lost. To end in order, let the shards
    /// close their lanes just before.
    pub async fn close(self) {
        self.task.abort();
        self.endpoint.close(code::DONE, b"done");
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(code::DONE, b"done");
    }
}

/// Connects to the router at `addr` ("host:port", the name looked up at each attempt), again and again, and
/// gives each of `shards` a lane by its mailbox, named `peer`, each time: a fresh one when the connection, or
/// its own lane, was lost. Everything runs on `runtime`, which needs its I/O and time drivers.
///
/// # Errors
/// When no socket can be opened, or there are more than [`LANES_MAX`](super::LANES_MAX) shards. That nobody answers is no
/// error.
pub fn connect(
    runtime: &Handle,
    peer: Peer,
    addr: String,
    identity: &Identity,
    shards: Vec<Mailbox>,
    options: Options,
) -> io::Result<Connector> {
    check_lanes(&shards)?;
    connect_counted(runtime, peer, addr, identity, shards, options, Arc::default())
}

/// [`connect`], counting together with others.
pub(super) fn connect_counted(
    runtime: &Handle,
    peer: Peer,
    addr: String,
    identity: &Identity,
    shards: Vec<Mailbox>,
    options: Options,
    counters: Arc<Counters>,
) -> io::Result<Connector> {
    let _context = runtime.enter();
    // One socket for both families where the system has both.
    let endpoint = open(identity, true).or_else(|_| open(identity, false))?;
    let transport = options.transport();
    let identity = identity.clone();
    let link = Link { peer, addr, identity, transport, options, counters: Arc::clone(&counters) };
    let task = runtime.spawn(Arc::new(link).keep(endpoint.clone(), shards)).abort_handle();
    Ok(Connector { endpoint, task, counters })
}

fn open(identity: &Identity, v6: bool) -> io::Result<Endpoint> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if v6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &any_address(v6))?;
    Endpoint::new(endpoint_config(identity), None, socket.into(), Arc::new(TokioRuntime))
}

/// One attempt's failure: all are answered by trying again.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the name cannot be looked up: {0}")]
    Name(#[from] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error(transparent)]
    Start(#[from] quinn::ConnectError),
    #[error(transparent)]
    Handshake(#[from] quinn::ConnectionError),
    #[error("it speaks another protocol")]
    Protocol,
    #[error("its certificate names more than a router")]
    Role,
    #[error("no answer within {CONNECT_TIME_MAX:?}")]
    TimedOut,
}

struct Link {
    peer: Peer,
    addr: String,
    identity: Identity,
    transport: Arc<TransportConfig>,
    options: Options,
    counters: Arc<Counters>,
}

impl Link {
    async fn keep(self: Arc<Self>, endpoint: Endpoint, shards: Vec<Mailbox>) {
        let mut backoff = Backoff::new(BACKOFF_FLOOR, BACKOFF_CEILING, self.options.jitter_seed);
        let mut warned = None;
        for attempt in 0_usize.. {
            if attempt > 0 {
                add(&self.counters.reconnects, 1);
            }
            let attempted = tokio::time::timeout(CONNECT_TIME_MAX, self.attempt(&endpoint, attempt)).await;
            match attempted.unwrap_or(Err(ConnectError::TimedOut)) {
                Ok(connection) => {
                    add(&self.counters.connections, 1);
                    tracing::info!(router = self.addr, "connected");
                    warned = None;
                    let since = Instant::now();
                    let error = self.serve(&connection, &shards, attempt as u64).await;
                    tracing::warn!(router = self.addr, %error, "the connection is lost");
                    // A router that refuses our certificate says so only after the handshake is complete at
                    // this end: not each connection is a success.
                    if since.elapsed() >= STEADY {
                        backoff.reset();
                    }
                }
                Err(error) => self.warn(&mut warned, &error.to_string()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Says why there is no connection: when that is news, and as long as it is not, now and then.
    fn warn(&self, warned: &mut Option<(String, Instant)>, error: &str) {
        let is_news =
            warned.as_ref().is_none_or(|(last, at)| last != error || at.elapsed() >= SAME_WARNING_EVERY);
        if is_news {
            tracing::warn!(router = self.addr, error, "cannot connect; trying again and again");
            *warned = Some((error.to_owned(), Instant::now()));
        } else {
            tracing::debug!(router = self.addr, error, "cannot connect");
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, attempt: usize) -> Result<Connection, ConnectError> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&self.addr).await?.collect();
        let address = addresses.get(attempt % addresses.len().max(1)).ok_or(ConnectError::NoAddress)?;
        // Certificates may be new since the last attempt.
        let mut client = ClientConfig::new(self.identity.configs().client);
        client.transport_config(Arc::clone(&self.transport));
        // The name is the role: the handshake fails unless the certificate has it.
        let name = Role::Router.certificate_name();
        let connection = endpoint.connect_with(client, *address, name)?.await?;
        if !speaks_link(&connection) {
            connection.close(code::DONE, b"another protocol");
            return Err(ConnectError::Protocol);
        }
        if peer_role(&connection) != Some(Role::Router) {
            connection.close(code::DONE, b"no router");
            return Err(ConnectError::Role);
        }
        Ok(connection)
    }

    /// Runs a lane for each shard until the connection is lost.
    async fn serve(
        self: &Arc<Self>,
        connection: &Connection,
        shards: &[Mailbox],
        attempt: u64,
    ) -> quinn::ConnectionError {
        let mut lanes = JoinSet::new();
        for (shard, mailbox) in (0_u64..).zip(shards) {
            // Different for each lane and life, and from the connection's own.
            let seed = self.options.jitter_seed ^ ((attempt + 1) << 32) ^ (shard + 1);
            lanes.spawn(Arc::clone(self).keep_lane(connection.clone(), mailbox.clone(), seed));
        }
        // The tasks of the lanes are dropped with the set, and their rings are closed with them: none may
        // hold up the next connection because its shard does not read.
        connection.closed().await
    }

    /// Opens a lane for one shard, and a new one when the lane alone was lost, until the connection is.
    async fn keep_lane(self: Arc<Self>, connection: Connection, mailbox: Mailbox, seed: u64) {
        let mut backoff = Backoff::new(BACKOFF_FLOOR, BACKOFF_CEILING, seed);
        while let Ok(stream) = connection.open_bi().await {
            let since = Instant::now();
            // `attempt` goes on with nobody else.
            let who = (self.peer, Role::Router);
            pump::serve_lane(stream, &mailbox, who, self.options.ring_bytes(), &self.counters).await;
            if since.elapsed() >= STEADY {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
