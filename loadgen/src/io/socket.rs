//! One non-blocking connection: connect from an address of our choice, upgrade, then frames.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use carillon_node::prng::Prng;
use carillon_protocol::handshake;
use carillon_protocol::websocket::{Decoder, Role};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};

/// Where in its life a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    Connecting,
    Upgrading { key: String, answer: Vec<u8> },
    Open(Decoder),
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) stage: Stage,
    /// Whether it waits for room to write.
    pub(super) awaits_room: bool,
    /// Whether it is left unread for a while.
    pub(super) is_paused: bool,
}

/// What the kernel holds for a slow reader.
const SLOW_BUFFER_BYTES: usize = 4 * 1024;

/// The address a client connects from: on loopback one of many, because each has ports of its own.
pub(super) fn source(server: SocketAddr, client: u32, addresses_count: u32) -> Option<SocketAddr> {
    let IpAddr::V4(address) = server.ip() else { return None };
    if !address.is_loopback() || addresses_count < 2 {
        return None;
    }
    let last = 1 + client % addresses_count.min(250);
    let source = Ipv4Addr::new(127, 0, 0, u8::try_from(last).unwrap_or(1));
    Some(SocketAddr::V4(SocketAddrV4::new(source, 0)))
}

impl Socket {
    pub(super) fn connect(server: SocketAddr, source: Option<SocketAddr>) -> io::Result<Socket> {
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        if let Some(source) = source {
            bind(&fd, &source)?;
        }
        match connect(&fd, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Socket { fd, stage: Stage::Connecting, awaits_room: true, is_paused: false })
    }

    /// Lets the kernel hold little that nobody has read.
    pub(super) fn hold_little(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_recv_buffer_size(&self.fd, SLOW_BUFFER_BYTES)?)
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.is_paused);
        flags.set(EventFlags::OUT, self.awaits_room);
        flags
    }

    /// The connection is there, or is not: asks to be upgraded.
    pub(super) fn connected(
        &mut self,
        server: SocketAddr,
        subprotocol: &str,
        token: &str,
        prng: &mut Prng,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        sockopt::socket_error(&self.fd)??;
        let mut nonce = [0; 16];
        prng.fill(&mut nonce);
        let key = handshake::encode_key(nonce);
        out.extend(handshake::request(&server.to_string(), "/v1/ws", &key, &[subprotocol], Some(token)));
        self.stage = Stage::Upgrading { key, answer: Vec::new() };
        Ok(())
    }

    /// More of the answer to the upgrade. Once it is whole: the bytes behind it.
    pub(super) fn upgraded(&mut self, bytes: &[u8], subprotocol: &str) -> Result<Option<Vec<u8>>, Refused> {
        let Stage::Upgrading { key, answer } = &mut self.stage else { return Ok(None) };
        answer.extend_from_slice(bytes);
        match handshake::parse_response(answer, key, &[subprotocol]) {
            handshake::Answer::Partial => Ok(None),
            handshake::Answer::Accepted { subprotocol: Some(_), consumed } => {
                let rest = answer.split_off(consumed);
                self.stage = Stage::Open(Decoder::new(Role::Client));
                Ok(Some(rest))
            }
            handshake::Answer::Accepted { subprotocol: None, .. } => {
                Err(Refused::Invalid("no subprotocol was chosen"))
            }
            handshake::Answer::Refused { status, .. } => Err(Refused::Status(status)),
            handshake::Answer::Invalid(words) => Err(Refused::Invalid(words)),
        }
    }
}

/// Why there is no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Status(u16),
    Invalid(&'static str),
}
