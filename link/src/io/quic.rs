//! The body of Link between processes: one QUIC connection per gateway and router, and per pair of routers; one
//! stream of it per lane.
//!
//! A task per lane (`pump`) moves frames between the lane's stream and a pair of rings, whose other end a
//! shard holds. It runs on a tokio runtime that the caller gives; shards see rings and nothing else.
//!
//! # Invariants
//! - A lane is one stream's life. When stream or connection is lost, or a frame header is wrong, the lane is
//!   closed, and a new stream makes a new lane; nothing is sent twice.
//! - A lane that is closed by its shard is finished in order: what was sent before still arrives, if the peer
//!   takes it within [`LINGER_TIME_MAX`].
//! - Memory is bounded by the numbers in this file. A receiver that does not read fills its ring, then its
//!   stream's window, then the sender's ring; other lanes of the connection go on.
//! - A stream reaches the listening router with its first bytes, so whoever connected speaks first (with
//!   [`Open`](carillon_protocol::frame::Open)).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::RandomConnectionIdGenerator;
use rustls::pki_types::CertificateDer;

use super::tls;
use crate::Mailbox;

mod connector;
mod listener;
mod pump;
mod switchboard;

pub use connector::{Connector, connect};
pub use listener::{Listener, listen};
pub use switchboard::{ROUTERS_MAX, Switchboard};

/// The most lanes of one connection, so of shards in one gateway process: more than a machine has processors. More
/// are refused when the process starts.
pub const LANES_MAX: u32 = 512;
/// The most processes connected to one listener. More are refused, and try again.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Bytes that a lane's sender may have under way or unread beyond its ring.
const LANE_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for a connection: all its lanes together, so that lanes nobody reads cannot stop the others.
const CONNECTION_WINDOW_BYTES: u32 = LANES_MAX * LANE_WINDOW_BYTES;
/// Bytes of a connection that are sent and not yet acknowledged by the peer's QUIC.
const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Handshakes that are begun and not yet taken up, and the bytes held for each. More are refused.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_BYTES_MAX: u64 = 64 * 1024;
/// What a round trip takes before one was measured. Tiers stand near each other: the default of 333 ms would
/// make each lost first packet cost a second.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(50);
/// One attempt to connect, name look-up included, takes no longer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Delays before connecting or opening a lane again.
const BACKOFF_FLOOR: Duration = Duration::from_millis(50);
const BACKOFF_CEILING: Duration = Duration::from_secs(1);
/// What lived this long counts as a success: the next attempt after it comes soon.
const STEADY: Duration = BACKOFF_CEILING;
/// How long a lane that its shard has closed may take to send what it still holds; then the stream is reset.
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(
    LANE_WINDOW_BYTES as usize >= 2 * crate::ring::ANY_FRAME_BYTES,
    "a window takes a frame while another is read"
);

/// Codes of QUIC's CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING (RFC 9000 section 20.2). For people who
/// read a trace: no decision depends on them.
mod code {
    use quinn::VarInt;

    /// The process is done.
    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    /// A shard closed the lane.
    pub(super) const LANE_CLOSED: VarInt = VarInt::from_u32(1);
    /// The bytes were no frames.
    pub(super) const NOT_A_FRAME: VarInt = VarInt::from_u32(2);
    /// The shard's mailbox was full.
    pub(super) const NO_ROOM: VarInt = VarInt::from_u32(3);
}

/// What may differ between deployments and tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the ring of each lane, each way; at least
    /// [`ring::ANY_FRAME_BYTES`](crate::ring::ANY_FRAME_BYTES).
    pub ring_bytes: usize,
    /// How often an idle connection is made to say something.
    pub keep_alive: Duration,
    /// A connection that is silent for this long is lost. Three times `keep_alive`, so that two packets may
    /// be.
    pub idle_timeout: Duration,
    /// Seeds the jitter of reconnecting.
    pub jitter_seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ring_bytes: 512 * 1024,
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3),
            jitter_seed: 0,
        }
    }
}

impl Options {
    fn ring_bytes(&self) -> usize {
        self.ring_bytes.max(crate::ring::ANY_FRAME_BYTES)
    }

    fn transport(&self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(LANES_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(LANE_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES)
            .initial_rtt(INITIAL_ROUND_TRIP)
            .keep_alive_interval(Some(self.keep_alive))
            // Only 2^62 ms and more are refused.
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok());
        Arc::new(transport)
    }
}

/// Of an endpoint for its whole life: certificates that come later bring no reset key of their own.
fn endpoint_config(identity: &tls::Identity) -> EndpointConfig {
    let mut config = EndpointConfig::new(identity.configs().reset_key);
    // The default generator recognises only its own connection ids and stays silent about those of a former
    // life; with this one a restarted process answers them with a stateless reset, and the peer reconnects at
    // once instead of after a time-out.
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::default()));
    config
}

/// What went through a [`Connector`], a [`Switchboard`], or a [`Listener`] with peers of one role, since it was
/// made. Written once per batch, not per frame.
#[derive(Debug, Default)]
pub struct Counters {
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    connections: AtomicU64,
    reconnects: AtomicU64,
    lanes: AtomicU64,
    lanes_open: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames received from peers.
    pub frames_in: u64,
    /// Frames sent to peers.
    pub frames_out: u64,
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames sent.
    pub bytes_out: u64,
    /// Connections that came about.
    pub connections: u64,
    /// Attempts to connect after the first.
    pub reconnects: u64,
    /// Lanes that came about.
    pub lanes: u64,
    /// Lanes open now.
    pub lanes_open: u64,
}

impl Counters {
    /// The counts now.
    #[must_use]
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            frames_in: read(&self.frames_in),
            frames_out: read(&self.frames_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            connections: read(&self.connections),
            reconnects: read(&self.reconnects),
            lanes: read(&self.lanes),
            lanes_open: read(&self.lanes_open),
        }
    }
}

fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

/// Whether the handshake agreed on our protocol. TLS over QUIC has to refuse anything else (RFC 9001 section
/// 8.1); checked once more, because all that follows relies on it.
fn speaks_link(connection: &quinn::Connection) -> bool {
    connection
        .handshake_data()
        .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .is_some_and(|data| data.protocol.as_deref() == Some(tls::ALPN))
}

fn check_lanes(mailboxes: &[Mailbox]) -> io::Result<()> {
    let lanes = mailboxes.len();
    let too_many = || io::Error::other(format!("{lanes} shards are more than {LANES_MAX} lanes"));
    if lanes <= LANES_MAX as usize { Ok(()) } else { Err(too_many()) }
}

/// What the peer is, by the certificate that the handshake has verified.
fn peer_role(connection: &quinn::Connection) -> Option<tls::Role> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::Role::named_by(chain.first()?)
}

fn any_address(v6: bool) -> SocketAddr {
    if v6 {
        SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0))
    }
}
