//! The seam between a shard and the driver that runs it. A driver takes everything that completed, hands it up with one
//! `now`, and then carries out what comes back; it speaks in batches so that a ring can submit them in one system call.
//!
//! One turn: read the clock once → [`Service::handle`] for each [`Input`] → [`Service::poll_output`] until `None` → carry
//! out → sleep no longer than [`Service::poll_timeout`].
//!
//! What a driver runs in production is a [`Shard`]; `benches/engines` has it run an echo, to be held against a bare ring.

use std::net::IpAddr;

use bytes::Bytes;
use carillon_link::Peer;
use carillon_node::tokens::Claims;
use carillon_protocol::time::{Time, WallMs};
use rkyv::util::AlignedVec;

use crate::counters::Counters;
use crate::front::Channel;
use crate::shard::Shard;

/// What a driver runs. Three verbs, as everywhere, and what sends are made of.
pub trait Service {
    /// Something happened. `now` is the same for everything of one turn.
    fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>);

    /// The next thing to do; `None`: the turn is over.
    fn poll_output(&mut self) -> Option<Output>;

    /// When something is due, if anything is.
    fn poll_timeout(&self) -> Option<Time>;

    /// What waits to be sent on a connection, in order.
    fn pending(&self, connection: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone;

    /// The memory of a frame that is on its lane, for another one.
    fn keep_frame(&mut self, frame: AlignedVec);

    /// What was counted so far, for the metrics page.
    fn counters(&self) -> Counters;
}

impl Service for Shard {
    fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        Shard::handle(self, now, wall, input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        Shard::poll_output(self)
    }

    fn poll_timeout(&self) -> Option<Time> {
        Shard::poll_timeout(self)
    }

    fn pending(&self, connection: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        Shard::pending(self, connection)
    }

    fn keep_frame(&mut self, frame: AlignedVec) {
        Shard::keep_frame(self, frame);
    }

    fn counters(&self) -> Counters {
        Shard::counters(self)
    }
}

/// A connection of this shard. The driver makes it from its slot in a table and how often the slot was used, so that
/// what belongs to an earlier connection in the same slot finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Slot in the driver's table.
    pub slot: u32,
    /// How often that slot was used before.
    pub generation: u32,
}

impl ConnectionId {
    /// As one number: the session number on link frames.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        // Never 0, which means "no session": slots count from 0, so one is added.
        ((self.generation as u64) << 32) | (self.slot as u64 + 1)
    }

    /// Back from [`ConnectionId::as_u64`].
    #[must_use]
    pub const fn from_u64(number: u64) -> Option<ConnectionId> {
        #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
        let (slot, generation) = (number as u32, (number >> 32) as u32);
        match slot.checked_sub(1) {
            Some(slot) => Some(ConnectionId { slot, generation }),
            None => None,
        }
    }
}

/// What goes to the HTTP server with a socket.
#[derive(Debug)]
pub struct Handed {
    /// Everything that the client said so far.
    pub received: Vec<u8>,
    /// Who, as far as is known without the request.
    pub address: IpAddr,
    /// What encrypts, where clients speak TLS: with what it still has to send.
    pub channel: Option<Box<Channel>>,
}

impl Handed {
    /// More came while the socket was taken out of its driver's hands.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        match &mut self.channel {
            Some(channel) => channel.hold(bytes),
            None => self.received.extend_from_slice(bytes),
        }
    }

    /// So much of what was being sent then is out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(channel) = &mut self.channel {
            channel.sent(bytes);
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted.
    Accepted {
        /// Its name from now on.
        connection: ConnectionId,
        /// Who.
        address: IpAddr,
    },
    /// Whose connection it is, said by a proxy before it: for one that was accepted, before any bytes of it.
    Named {
        /// Which.
        connection: ConnectionId,
        /// Who.
        address: IpAddr,
    },
    /// A connection begins behind a request that its driver answered itself: frames come as [`Input::Frame`], whole, and
    /// what is pending are WebSocket frames of JSON all the same.
    Opened {
        /// Its name from now on.
        connection: ConnectionId,
        /// What came with the request, if a token did.
        claims: Option<Claims>,
    },
    /// One JSON frame of a client whose connection was [`Input::Opened`]. To be given while
    /// [`Shard::takes_frames`](crate::shard::Shard::takes_frames); one that is given all the same is taken.
    Frame {
        /// From.
        connection: ConnectionId,
        /// The frame, at most `limits.frame_bytes`.
        text: &'a str,
    },
    /// The client of an opened connection is there, whatever it said.
    Heard {
        /// Which.
        connection: ConnectionId,
    },
    /// Bytes arrived. They are the driver's: what is kept has to be copied.
    Received {
        /// From.
        connection: ConnectionId,
        /// In order.
        bytes: &'a [u8],
    },
    /// The kernel took so many bytes of what [`Shard::pending`](crate::shard::Shard::pending) showed.
    Sent {
        /// To.
        connection: ConnectionId,
        /// How many.
        bytes: usize,
    },
    /// The peer closed, or the socket failed. The driver has let go of it.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// A lane to a router is there.
    LaneUp {
        /// Which router.
        router: Peer,
        /// From its `Open`.
        incarnation: u64,
    },
    /// A frame from a router, header included, aligned to eight bytes.
    LaneFrame {
        /// From.
        router: Peer,
        /// The frame; the lane's memory.
        frame: &'a [u8],
    },
    /// A lane is lost; everything unanswered on it is unknown.
    LaneDown {
        /// Which router.
        router: Peer,
    },
    /// A timer of [`Shard::poll_timeout`](crate::shard::Shard::poll_timeout) is due, or nothing happened.
    Tick,
    /// Stop: tell everybody to reconnect, flush, close with 1012.
    Drain,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Everything that somebody waits for was put out; what follows in this turn can wait. Let it leave, and let other
    /// threads have the processor first.
    Yield,
    /// Send what [`Shard::pending`](crate::shard::Shard::pending) shows for the connection. At most once a connection
    /// and turn, however much was queued.
    Flush {
        /// Which.
        connection: ConnectionId,
    },
    /// Stop reading from the connection: it has enough in flight.
    Pause {
        /// Which.
        connection: ConnectionId,
    },
    /// Read again.
    Resume {
        /// Which.
        connection: ConnectionId,
    },
    /// Send what is pending, shut down, close. The shard has forgotten the connection when its bytes are out or the
    /// driver's bound for lingering is over.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Not a WebSocket: give the socket to the HTTP server with what was read already. The shard has forgotten it.
    HandOff {
        /// Which.
        connection: ConnectionId,
        /// What goes with it.
        handed: Box<Handed>,
    },
    /// Put a frame on the lane to a router. Its memory may be given back afterwards:
    /// [`Shard::keep_frame`](crate::shard::Shard::keep_frame).
    Link {
        /// Which.
        router: Peer,
        /// Header included.
        frame: AlignedVec,
    },
    /// Give up a lane: something came on it that cannot be read. `LaneDown` follows, as for any lane that is lost.
    CloseLane {
        /// Which.
        router: Peer,
    },
    /// A router at this address was heard of: make lanes to it, if there are none yet. Said again and again.
    Meet {
        /// "host:port".
        address: String,
    },
    /// A router is reached by another peer, or is gone for good: make no lanes to this one any more.
    Part {
        /// Which.
        router: Peer,
    },
    /// Everything is closed: the driver may end.
    Drained,
}
