//! The listening side: gateways and other routers connect, and each stream that they open becomes a lane in this
//! router's mailbox.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{
    CONNECTIONS_MAX, Counters, HANDSHAKE_BYTES_MAX, HANDSHAKES_MAX, Options, add, code, endpoint_config,
    peer_role, pump, speaks_link,
};
use crate::tls::{Configs, Identity, Role};
use crate::{Mailbox, Peer};

/// Accepts lanes until it is dropped, which closes all of them.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    counters: ByRole,
}

/// The counters of peers of each role.
#[derive(Clone, Debug, Default)]
struct ByRole {
    routers: Arc<Counters>,
    gateways: Arc<Counters>,
}

impl ByRole {
    fn of(&self, role: Role) -> &Arc<Counters> {
        match role {
            Role::Router => &self.routers,
            Role::Gateway => &self.gateways,
        }
    }
}

impl Listener {
    /// The address to connect to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What went through from and to peers of this role.
    #[must_use]
    pub fn counters(&self, peers: Role) -> Arc<Counters> {
        Arc::clone(self.counters.of(peers))
    }

    /// Closes all connections and waits until the peers know it, or are lost (about 3 round trips at most).
    /// To end in order, let the shard close its lanes first and wait until
    /// [`lanes_open`](super::Counts::lanes_open) is 0.
    pub async fn close(self) {
        self.endpoint.close(code::DONE, b"done");
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.close(code::DONE, b"done");
    }
}

/// Listens at `addr` (UDP) for gateways and routers whose certificates are of `identity`'s authority, and puts the
/// lanes that they open into `mailbox`, as of [`Peer`] 0 and from what the certificate says. Everything runs on
/// `runtime`, which needs its I/O and time drivers.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(
    runtime: &Handle,
    addr: SocketAddr,
    identity: &Identity,
    mailbox: Mailbox,
    options: Options,
) -> io::Result<Listener> {
    let server = server_config(&identity.configs(), &options);
    let socket = UdpSocket::bind(addr)?;
    let _context = runtime.enter();
    let endpoint = Endpoint::new(endpoint_config(identity), Some(server), socket, Arc::new(TokioRuntime))?;
    let local_addr = endpoint.local_addr()?;
    let counters = ByRole::default();
    let shared = Arc::new(Shared { mailbox, options, counters: counters.clone() });
    runtime.spawn(accept(endpoint.clone(), identity.watch(), shared));
    Ok(Listener { endpoint, local_addr, counters })
}

fn server_config(configs: &Configs, options: &Options) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(Arc::clone(&configs.server) as _);
    server
        .transport_config(options.transport())
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(HANDSHAKE_BYTES_MAX)
        .incoming_buffer_size_total(HANDSHAKES_MAX as u64 * HANDSHAKE_BYTES_MAX)
        // Processes do not move; a changed address would be somebody else's.
        .migration(false);
    server
}

struct Shared {
    mailbox: Mailbox,
    options: Options,
    counters: ByRole,
}

async fn accept(endpoint: Endpoint, mut configs: watch::Receiver<Configs>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // When nobody can bring certificates any more, the last ones stay.
            Ok(()) = configs.changed() => {
                let server = server_config(&configs.borrow_and_update(), &shared.options);
                endpoint.set_server_config(Some(server));
            }
            incoming = endpoint.accept() => match incoming {
                None => return,
                Some(incoming) if connections.len() >= CONNECTIONS_MAX => incoming.refuse(),
                Some(incoming) => {
                    connections.spawn(serve(incoming, Arc::clone(&shared)));
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection's life. The tasks of its lanes end with it.
async fn serve(incoming: Incoming, shared: Arc<Shared>) {
    let remote = incoming.remote_address();
    let connection = match incoming.await {
        Ok(connection) if speaks_link(&connection) => connection,
        Ok(connection) => return connection.close(code::DONE, b"another protocol"),
        Err(error) => return tracing::warn!(%remote, %error, "a link was refused"),
    };
    let Some(from) = peer_role(&connection) else {
        tracing::warn!(%remote, "a link was refused: its certificate does not name one role");
        return connection.close(code::DONE, b"no role");
    };
    let counters = shared.counters.of(from);
    add(&counters.connections, 1);
    tracing::info!(%remote, ?from, "a link is connected");
    let mut lanes = JoinSet::new();
    let error = loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok(stream) => {
                    let shared = Arc::clone(&shared);
                    lanes.spawn(async move {
                        let ring_bytes = shared.options.ring_bytes();
                        let counters = shared.counters.of(from);
                        pump::serve_lane(stream, &shared.mailbox, (Peer(0), from), ring_bytes, counters).await;
                    });
                }
                Err(error) => break error,
            },
            Some(_) = lanes.join_next() => {}
        }
    };
    tracing::info!(%remote, ?from, %error, "a link is gone");
}
