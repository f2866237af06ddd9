//! The engines, and what each is: one thread that accepts, reads, answers.

mod epoll_tokio;
mod gateway;
mod glommio;
mod monoio;
pub mod raw_ring;

use std::convert::Infallible;
use std::net::SocketAddr;

use crate::frames::{BINARY, PING, PONG};

/// Why an engine does not run here.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// What can be measured. The order is the one of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// io_uring by hand and the simplest frames: the floor that the others are held against
    RawRing,
    /// Carillon's gateway on its own driver, with a service that echoes in place of its shard
    GatewayUring,
    /// The same on the portable driver, with io_uring
    GatewayMonoio,
    /// The same on the portable driver, with epoll
    GatewayMonoioEpoll,
    /// Carillon's gateway as it is, on its own driver: its sessions answer pings
    GatewayShard,
    /// monoio on io_uring: a task a connection, `readable()`, one buffer for all
    MonoioUring,
    /// monoio on epoll
    MonoioEpoll,
    /// glommio: a task a connection, with a buffer of 2 KiB each
    Glommio,
    /// tokio on one thread and tungstenite with its buffers set to 2 KiB
    TokioTungstenite,
}

impl Engine {
    /// Its name in the table and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::RawRing => "raw-ring",
            Engine::GatewayUring => "gateway-uring",
            Engine::GatewayMonoio => "gateway-monoio",
            Engine::GatewayMonoioEpoll => "gateway-monoio-epoll",
            Engine::GatewayShard => "gateway-shard",
            Engine::MonoioUring => "monoio-uring",
            Engine::MonoioEpoll => "monoio-epoll",
            Engine::Glommio => "glommio",
            Engine::TokioTungstenite => "tokio-tungstenite",
        }
    }

    /// What a client says to it, and what comes back.
    pub const fn opcodes(self) -> (u8, u8) {
        if matches!(self, Engine::GatewayShard) { (PING, PONG) } else { (BINARY, BINARY) }
    }

    /// How many times the raw ring's CPU a message is wanted, with one message and with sixteen on their way.
    pub const fn ratio_max(self, depth: usize) -> Option<f64> {
        match (self, depth) {
            (Engine::GatewayUring, 1) => Some(1.15),
            (Engine::GatewayUring, 16) => Some(1.3),
            _ => None,
        }
    }

    /// Serves until the process is ended. `ready` is told where.
    ///
    /// # Errors
    /// It cannot run here.
    pub fn serve(self, ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
        use carillon_gateway::io::Driver;
        match self {
            Engine::RawRing => raw_ring::serve(ready),
            Engine::GatewayUring => gateway::serve_echo(Driver::Uring, ready),
            Engine::GatewayMonoio => gateway::serve_echo(Driver::Monoio, ready),
            Engine::GatewayMonoioEpoll => gateway::serve_echo(Driver::MonoioEpoll, ready),
            Engine::GatewayShard => gateway::serve_shard(ready),
            Engine::MonoioUring => monoio::serve_uring(ready),
            Engine::MonoioEpoll => monoio::serve_epoll(ready),
            Engine::Glommio => glommio::serve(ready),
            Engine::TokioTungstenite => epoll_tokio::serve(ready),
        }
    }
}

/// A listener for an engine that takes an ordinary one; what is set here its connections inherit.
fn listen() -> std::io::Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    /// Connections that wait to be accepted.
    const BACKLOG: i32 = 4_096;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0)))?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
