//! The router's side: gateways connect, and each stream that they open becomes a lane in the router's
//! mailbox.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{
    CONNECTIONS_MAX, Counters, HANDSHAKE_BYTES_MAX, HANDSHAKES_MAX, Options, add, code, endpoint_config,
    pump, speaks_link,
};
use crate::tls::Identity;
use crate::{Mailbox, Peer};

/// Accepts lanes until it is dropped, which closes all of them.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    counters: Arc<Counters>,
}

impl Listener {
    /// The address that gateways connect to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What went through.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
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

/// Listens at `addr` (UDP) for gateways whose certificates are of `identity`'s authority, and puts the lanes
/// that they open into `mailbox`, as from [`Peer`] 0. Everything runs on `runtime`, which needs its I/O and
/// time drivers.
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
    let crypto = QuicServerConfig::try_from(Arc::clone(&identity.server)).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(options.transport())
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(HANDSHAKE_BYTES_MAX)
        .incoming_buffer_size_total(HANDSHAKES_MAX as u64 * HANDSHAKE_BYTES_MAX)
        // Gateways do not move; a changed address would be somebody else's.
        .migration(false);
    let socket = UdpSocket::bind(addr)?;
    let _context = runtime.enter();
    let endpoint = Endpoint::new(endpoint_config(identity), Some(server), socket, Arc::new(TokioRuntime))?;
    let local_addr = endpoint.local_addr()?;
    let counters = Arc::<Counters>::default();
    let shared = Arc::new(Shared { mailbox, options, counters: Arc::clone(&counters) });
    runtime.spawn(accept(endpoint.clone(), shared));
    Ok(Listener { endpoint, local_addr, counters })
}

struct Shared {
    mailbox: Mailbox,
    options: Options,
    counters: Arc<Counters>,
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
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
    add(&shared.counters.connections, 1);
    tracing::info!(%remote, "a gateway is connected");
    let mut lanes = JoinSet::new();
    let error = loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok(stream) => {
                    let shared = Arc::clone(&shared);
                    lanes.spawn(async move {
                        let ring_bytes = shared.options.ring_bytes();
                        pump::serve_lane(stream, &shared.mailbox, Peer(0), ring_bytes, &shared.counters).await;
                    });
                }
                Err(error) => break error,
            },
            Some(_) = lanes.join_next() => {}
        }
    };
    tracing::info!(%remote, %error, "a gateway is gone");
}
