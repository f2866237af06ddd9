//! How an engine's sockets are carried: dialled, read, written and closed, by completion ([`uring`]) or by readiness
//! ([`epoll`]). What is said on them is the engine's.
//!
//! Drive it: ask for things, [`Carrier::wait`], and take what happened from [`Carrier::next`] until there is nothing, or
//! enough for one turn; what is left comes in the next. A socket is called by the number of its client in the engine.
//!
//! # How many
//! A client on a ring needs no descriptor of the process, but a place in the ring's table, and a table has at most as many
//! as the process may have descriptors. So an engine, which is a thread with one ring, has at most that many clients, and
//! 200,000 of them are ten threads where 20,000 descriptors are allowed. Threads, and not several rings on one: a ring works
//! only while its own thread is inside it (`DEFER_TASKRUN`), so a thread with several of them would have to look at each
//! in turn, with a call of its own, where a thread that sleeps costs nothing. What many sleepers cost is being woken for
//! little; therefore heartbeats leave on a grid (see the engine), a batch of them at a time.
//!
//! # Invariants
//! - What happened to a socket before [`Carrier::close`] is not told after it.
//! - Nothing here blocks but [`Carrier::wait`].

mod epoll;
#[cfg(test)]
mod tests;
mod uring;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::options::IoName;

/// What a carrier hands over at once, at most.
pub(in crate::io) const INPUT_BYTES: usize = 64 * 1024;

/// A connection that is wanted.
#[derive(Clone, Copy, Debug)]
pub(in crate::io) struct Dial {
    pub(in crate::io) server: SocketAddr,
    /// Where from; `None`: the kernel chooses.
    pub(in crate::io) source: Option<SocketAddr>,
    /// The kernel is to hold little that nobody has read.
    pub(in crate::io) holds_little: bool,
}

/// What happened to a socket.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) enum Event {
    /// It stands.
    Connected,
    /// So many bytes came: they are the first of the buffer that [`Carrier::next`] was handed.
    Received { bytes: usize },
    /// It takes more.
    Room,
    /// It is gone, in words. It is still to be closed.
    Ended(String),
}

/// See the module.
pub(in crate::io) trait Carrier {
    /// Connects. One that is closed may be dialled again at once.
    fn dial(&mut self, local: u32, dial: &Dial) -> io::Result<()>;

    /// Takes of `out` what the socket can be given now. When something is left, [`Event::Room`] says when to try again.
    fn send(&mut self, local: u32, out: &mut Vec<u8>) -> io::Result<()>;

    /// From now on it is read a sip at a time: up to so many bytes, and then no more until this is called again. `None`: as
    /// fast as they come.
    fn sip(&mut self, local: u32, sip_bytes: Option<u32>) -> io::Result<()>;

    /// Closes it, if it is open.
    fn close(&mut self, local: u32);

    /// Has the kernel do what was asked for, and waits until something happened, so long at most.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// What happened next; bytes are put into `input`, which has room for [`INPUT_BYTES`].
    fn next(&mut self, input: &mut [u8]) -> Option<(u32, Event)>;
}

/// Which carrier engines have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::io) enum Choice {
    Uring,
    Epoll,
}

impl Choice {
    /// The one that is asked for, and why it is not the first choice if it is not.
    pub(in crate::io) fn of(asked: IoName) -> Result<(Choice, Option<String>), String> {
        Choice::judge(asked, if asked == IoName::Epoll { Ok(()) } else { uring::probe() })
    }

    fn judge(asked: IoName, probed: Result<(), String>) -> Result<(Choice, Option<String>), String> {
        match (asked, probed) {
            (IoName::Epoll, _) => Ok((Choice::Epoll, None)),
            (_, Ok(())) => Ok((Choice::Uring, None)),
            (IoName::Auto, Err(why)) => Ok((Choice::Epoll, Some(why))),
            (IoName::Uring, Err(why)) => Err(format!("--io uring is refused here ({why}): use --io auto")),
        }
    }

    /// Its name in reports.
    pub(in crate::io) const fn name(self) -> &'static str {
        match self {
            Choice::Uring => "uring",
            Choice::Epoll => "epoll",
        }
    }

    /// For the calling thread, with room for so many sockets.
    pub(in crate::io) fn open(self, sockets_max: u32) -> io::Result<Box<dyn Carrier>> {
        Ok(match self {
            Choice::Uring => Box::new(uring::Uring::new(uring::Sizes::USUAL, sockets_max)?),
            Choice::Epoll => Box::new(epoll::Epoll::new(sockets_max)?),
        })
    }
}

/// What the kernel holds for a slow reader.
const LITTLE_BYTES: usize = 4 * 1024;

/// The address a client connects from: on loopback one of many, because each has ports of its own.
pub(in crate::io) fn source(server: SocketAddr, client: u32, addresses_count: u32) -> Option<SocketAddr> {
    let IpAddr::V4(address) = server.ip() else { return None };
    if !address.is_loopback() || addresses_count < 2 {
        return None;
    }
    let last = 1 + client % addresses_count.min(250);
    let source = Ipv4Addr::new(127, 0, 0, u8::try_from(last).unwrap_or(1));
    Some(SocketAddr::V4(SocketAddrV4::new(source, 0)))
}

/// The peer closed, in words.
const ENDED: &str = "connection closed without a close frame";
