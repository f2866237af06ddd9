//! Sockets by readiness, where there is no io_uring: an ordinary descriptor each, read and written when epoll says so.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Carrier, Dial, ENDED, Event, LITTLE_BYTES};

/// Sockets looked at in one turn.
const EVENTS_MAX: usize = 512;
/// Reads of one socket in one turn.
const READS_MAX: usize = 8;
/// The timer's place among the sockets.
const TIMER: u64 = u64::MAX;

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    is_connecting: bool,
    /// Whether it waits for room to write.
    awaits_room: bool,
    /// What is read at once, if it is not all there is.
    sip_bytes: Option<u32>,
    /// Whether a sip was taken and the next is not wanted yet.
    is_sated: bool,
}

impl Socket {
    /// What it waits for.
    fn interest(&self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.is_sated);
        flags.set(EventFlags::OUT, self.awaits_room || self.is_connecting);
        flags
    }
}

#[derive(Debug, Default)]
struct Place {
    socket: Option<Socket>,
    /// Counts sockets, so that what belongs to an old one is recognised.
    generation: u32,
}

/// A socket that epoll named, and what is still to be done about it.
#[derive(Clone, Copy, Debug)]
struct Ready {
    local: u32,
    generation: u32,
    flags: EventFlags,
    reads_left: usize,
}

/// See the module.
pub(super) struct Epoll {
    epoll: OwnedFd,
    /// epoll itself only knows milliseconds.
    timer: OwnedFd,
    places: Vec<Place>,
    events: Vec<epoll::Event>,
    /// The last of them first.
    ready: Vec<Ready>,
}

fn name(local: u32, generation: u32) -> EventData {
    EventData::new_u64(u64::from(local) | u64::from(generation) << 32)
}

impl Epoll {
    pub(super) fn new(sockets_max: u32) -> io::Result<Epoll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let places = (0..sockets_max).map(|_| Place::default()).collect();
        Ok(Epoll { epoll, timer, places, events: Vec::with_capacity(EVENTS_MAX), ready: Vec::new() })
    }

    fn socket(&mut self, local: u32) -> Option<(u32, &OwnedFd, &mut Socket)> {
        let place = self.places.get_mut(local as usize)?;
        Some((place.generation, &self.epoll, place.socket.as_mut()?))
    }

    fn connect(&mut self, local: u32, dial: &Dial) -> io::Result<()> {
        let Some(place) = self.places.get_mut(local as usize) else { return Ok(()) };
        let family = if dial.server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        if dial.holds_little {
            sockopt::set_socket_recv_buffer_size(&fd, LITTLE_BYTES)?;
        }
        if let Some(source) = dial.source {
            bind(&fd, &source)?;
        }
        match connect(&fd, &dial.server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = Socket { fd, is_connecting: true, awaits_room: false, sip_bytes: None, is_sated: false };
        epoll::add(&self.epoll, &socket.fd, name(local, place.generation), socket.interest())?;
        place.socket = Some(socket);
        Ok(())
    }

    /// What a socket that is ready has to tell; `None` when that is all.
    fn look(&mut self, ready: &mut Ready, input: &mut [u8]) -> Option<Event> {
        let (generation, epoll, socket) = self.socket(ready.local)?;
        let change = |socket: &Socket| {
            epoll::modify(epoll, &socket.fd, name(ready.local, generation), socket.interest())
        };
        if generation != ready.generation {
            return None;
        }
        if std::mem::take(&mut socket.is_connecting) {
            // What else it is ready for epoll says again.
            ready.reads_left = 0;
            let stands = sockopt::socket_error(&socket.fd).and_then(|error| error);
            let stands = stands.and_then(|()| change(socket));
            return Some(stands.map_or_else(ended, |()| Event::Connected));
        }
        if socket.awaits_room && ready.flags.contains(EventFlags::OUT) {
            socket.awaits_room = false;
            return Some(change(socket).map_or_else(ended, |()| Event::Room));
        }
        let readable = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
        if socket.is_sated || ready.reads_left == 0 || !ready.flags.intersects(readable) {
            return None;
        }
        let sip_bytes = socket.sip_bytes.map_or(input.len(), |bytes| bytes as usize);
        let sip = input.get_mut(..sip_bytes)?;
        let bytes = match rustix::io::read(&socket.fd, &mut *sip) {
            Ok(0) => return Some(Event::Ended(ENDED.to_owned())),
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(error) => return Some(ended(error)),
        };
        ready.reads_left = if bytes < sip_bytes { 0 } else { ready.reads_left - 1 };
        if socket.sip_bytes.is_some() {
            socket.is_sated = true;
            if let Err(error) = change(socket) {
                return Some(ended(error));
            }
        }
        Some(Event::Received { bytes })
    }
}

fn ended(error: Errno) -> Event {
    Event::Ended(io::Error::from(error).kind().to_string())
}

impl Carrier for Epoll {
    fn dial(&mut self, local: u32, dial: &Dial) -> io::Result<()> {
        self.close(local);
        self.connect(local, dial)
    }

    fn send(&mut self, local: u32, out: &mut Vec<u8>) -> io::Result<()> {
        let Some((generation, epoll, socket)) = self.socket(local) else { return Ok(()) };
        let mut written = 0;
        while let Some(left) = out.get(written..).filter(|left| !left.is_empty()) {
            match rustix::io::write(&socket.fd, left) {
                Ok(bytes) => written += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !std::mem::replace(&mut socket.awaits_room, true) {
                        epoll::modify(epoll, &socket.fd, name(local, generation), socket.interest())?;
                    }
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        out.drain(..written);
        Ok(())
    }

    fn sip(&mut self, local: u32, sip_bytes: Option<u32>) -> io::Result<()> {
        let Some((generation, epoll, socket)) = self.socket(local) else { return Ok(()) };
        if socket.sip_bytes.is_none() && sip_bytes.is_some() {
            sockopt::set_socket_recv_buffer_size(&socket.fd, LITTLE_BYTES)?;
        }
        socket.sip_bytes = sip_bytes;
        if std::mem::take(&mut socket.is_sated) {
            epoll::modify(epoll, &socket.fd, name(local, generation), socket.interest())?;
        }
        Ok(())
    }

    fn close(&mut self, local: u32) {
        if let Some(place) = self.places.get_mut(local as usize)
            && place.socket.take().is_some()
        {
            place.generation = place.generation.wrapping_add(1);
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let is_long = self.ready.is_empty() && !timeout.is_zero();
        if is_long {
            let it_value = timespec(timeout);
            let it_interval = timespec(Duration::ZERO);
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        }
        // The timer ends it; a little more is in case that it does not.
        let limit = if is_long { timeout.saturating_mul(2) } else { Duration::ZERO };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Those that nobody has taken come once more, at the end.
        self.ready.clear();
        let named = self.events.iter().filter(|event| event.data.u64() != TIMER);
        self.ready.extend(named.rev().map(|event| Ready {
            local: (event.data.u64() & 0xffff_ffff) as u32,
            generation: (event.data.u64() >> 32) as u32,
            flags: event.flags,
            reads_left: READS_MAX,
        }));
        Ok(())
    }

    fn next(&mut self, input: &mut [u8]) -> Option<(u32, Event)> {
        while let Some(mut ready) = self.ready.pop() {
            if let Some(event) = self.look(&mut ready, input) {
                self.ready.push(ready);
                return Some((ready.local, event));
            }
        }
        None
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos() as _ }
}
