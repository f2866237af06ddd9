//! The sockets of an engine's clients: dialled, upgraded, read, written, lost.

use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use carillon_protocol::client::{Unreadable, binary, json};
use carillon_protocol::websocket::{Event, Opcode, append_client_frame};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::{Due, Engine};
use crate::io::socket::{Refused, Socket, Stage, source};
use crate::session::{Next, jittered};
use crate::stats::Stats;

/// Reads of one socket in one turn.
const READS_MAX: usize = 8;
pub(super) const READ_BYTES: usize = 64 * 1024;
/// The largest message that is taken from a server: a page and an event.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Connections of a thread between dialling and caught up: a storm of our own making is not what is measured.
const OPENING_MAX: usize = 64;
/// A connection that has not caught up by then is given up.
const OPENING_MS: u64 = 30_000;
/// Waiting before connecting again: doubled with each failure from the first to the second.
const BACKOFF_MS: (u64, u64) = (50, 2_000);
const COME_BACK_MS_MAX: u64 = 30_000;

/// What a slow reader reads at once.
const SLOW_BYTES_MAX: usize = 2 * 1024;

/// How a client's connection is called in epoll.
fn name(local: u32, generation: u32) -> EventData {
    EventData::new_u64(u64::from(local) | u64::from(generation) << 32)
}

/// Why a connection ends.
struct Broken(String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken(error.kind().to_string())
    }
}

impl Engine {
    /// Dials for those who wait for it.
    pub(super) fn dial(&mut self, stats: &mut Stats) {
        while self.opening_count < OPENING_MAX {
            let Some(local) = self.backlog.pop_front() else { return };
            let number = self.desk.setup.first_client + local;
            let server = self.server(local);
            let Some(client) = self.clients.get_mut(local as usize) else { continue };
            client.generation += 1;
            client.out.clear();
            client.out_at = 0;
            client.is_opening = true;
            client.come_back_ms = None;
            client.heard_ns = self.desk.now_ns;
            self.opening_count += 1;
            let generation = client.generation;
            let is_slow = client.is_slow;
            let data = name(local, generation);
            let source = source(server, number, self.desk.setup.addresses_count);
            let dialled = Socket::connect(server, source).and_then(|socket| {
                if is_slow {
                    socket.hold_little()?;
                }
                epoll::add(&self.epoll, &socket.fd, data, socket.interest())?;
                Ok(socket)
            });
            match dialled {
                Ok(socket) => {
                    client.socket = Some(socket);
                    let deadline_ns = self.desk.now_ns + OPENING_MS * 1_000_000;
                    self.timers.push(Reverse((deadline_ns, local, Due::Opening(generation))));
                }
                Err(error) => self.lose(local, stats, &error.kind().to_string()),
            }
        }
    }

    /// Where a client connects: they take turns, and whoever loses a connection goes on at the next server.
    fn server(&self, local: u32) -> SocketAddr {
        let servers = &self.desk.setup.servers;
        let losses = self.clients.get(local as usize).map_or(0, |client| client.losses);
        let turn = (self.desk.setup.first_client + local).wrapping_add(losses);
        servers[turn as usize % servers.len()]
    }

    pub(super) fn ready(&mut self, local: u32, generation: u32, flags: EventFlags, stats: &mut Stats) {
        let server = self.server(local);
        let Some(client) = self.clients.get_mut(local as usize) else { return };
        let Some(socket) = client.socket.as_mut().filter(|_| client.generation == generation) else { return };
        if matches!(socket.stage, Stage::Connecting) {
            let setup = &mut self.desk.setup;
            let token = setup.tokens.get(local as usize).map_or("", String::as_str);
            let name = setup.wire.subprotocol();
            if let Err(error) = socket.connected(server, name, token, &mut setup.prng, &mut client.out) {
                self.lose(local, stats, &error.kind().to_string());
                return;
            }
        } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            && let Err(Broken(words)) = self.read(local, stats).and_then(|bytes| Ok(self.rest(local, bytes)?))
        {
            self.lose(local, stats, &words);
            return;
        }
        self.mark(local);
    }

    /// Reads what there is, or the little that a slow reader takes at once; returns how many bytes that was.
    fn read(&mut self, local: u32, stats: &mut Stats) -> Result<usize, Broken> {
        let mut input = std::mem::take(&mut self.input);
        let at_once = self.slow_bytes(local).unwrap_or(READ_BYTES);
        let mut result = Ok(());
        let mut taken = 0;
        for _ in 0..READS_MAX {
            let Some(socket) = self.clients.get(local as usize).and_then(|client| client.socket.as_ref())
            else {
                break;
            };
            match rustix::io::read(&socket.fd, &mut input[..at_once]) {
                Ok(0) => {
                    result = Err(Broken("connection closed without a close frame".to_owned()));
                    break;
                }
                Ok(count) => {
                    taken += count;
                    result = self.take(local, input.get(..count).unwrap_or_default(), stats);
                    if result.is_err() || count < READ_BYTES {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => {
                    result = Err(io::Error::from(error).into());
                    break;
                }
            }
        }
        self.input = input;
        result.map(|()| taken)
    }

    /// What a client reads at once that is slow now: at most what it may in a second.
    fn slow_bytes(&self, local: u32) -> Option<usize> {
        let slow = self.desk.setup.manners.slow_readers?;
        let client = self.clients.get(local as usize)?;
        let is_slow = client.is_slow && client.is_live && self.schedule.is_some() && !self.has_sent_all;
        is_slow.then(|| usize::try_from(slow.bytes_per_s).unwrap_or(SLOW_BYTES_MAX).clamp(1, SLOW_BYTES_MAX))
    }

    /// Leaves the socket of a slow reader alone for as long as those bytes are to take.
    fn rest(&mut self, local: u32, bytes: usize) -> io::Result<()> {
        let (Some(_), Some(slow)) = (self.slow_bytes(local), self.desk.setup.manners.slow_readers) else {
            return Ok(());
        };
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        let Some(socket) = client.socket.as_mut().filter(|_| bytes > 0) else { return Ok(()) };
        let pause_ns = bytes as u64 * 1_000_000_000 / slow.bytes_per_s.max(1);
        socket.is_paused = true;
        epoll::modify(&self.epoll, &socket.fd, name(local, client.generation), socket.interest())?;
        let due = Due::Read(client.generation);
        self.timers.push(Reverse((self.desk.now_ns.saturating_add(pause_ns), local, due)));
        Ok(())
    }

    /// A slow reader looks again.
    pub(super) fn read_on(&mut self, local: u32) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        let Some(socket) = client.socket.as_mut().filter(|socket| socket.is_paused) else { return Ok(()) };
        socket.is_paused = false;
        Ok(epoll::modify(&self.epoll, &socket.fd, name(local, client.generation), socket.interest())?)
    }

    /// Bytes from the server.
    fn take(&mut self, local: u32, bytes: &[u8], stats: &mut Stats) -> Result<(), Broken> {
        let name = self.desk.setup.wire.subprotocol();
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        client.heard_ns = self.desk.now_ns;
        let Some(socket) = client.socket.as_mut() else { return Ok(()) };
        if matches!(socket.stage, Stage::Upgrading { .. }) {
            return match socket.upgraded(bytes, name) {
                Ok(Some(rest)) => self.frames(local, &rest, stats),
                Ok(None) => Ok(()),
                Err(refused) => {
                    client.is_stopped |= matches!(refused, Refused::Status(400..=499) | Refused::Invalid(_));
                    let words = match refused {
                        Refused::Status(status) => format!("upgrade refused with {status}"),
                        Refused::Invalid(words) => words.to_owned(),
                    };
                    Err(Broken(words))
                }
            };
        }
        self.frames(local, bytes, stats)
    }

    fn frames(&mut self, local: u32, bytes: &[u8], stats: &mut Stats) -> Result<(), Broken> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let Some(client) = self.clients.get_mut(local as usize) else { break };
            let Some(Socket { stage: Stage::Open(decoder), .. }) = client.socket.as_mut() else { break };
            match decoder.decode(rest, MESSAGE_BYTES_MAX, &mut scratch) {
                Ok((used, event)) => {
                    rest = rest.get(used..).unwrap_or_default();
                    if let Some(event) = event {
                        result = self.event(local, &event, stats);
                    }
                }
                Err(violation) => result = Err(Broken(format!("server broke RFC 6455: {violation}"))),
            }
        }
        self.scratch = scratch;
        result
    }

    fn event(&mut self, local: u32, event: &Event<'_>, stats: &mut Stats) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        match event {
            Event::Text(text) => match json::decode_server(text) {
                Ok(frame) => {
                    let next = client.session.frame(&mut self.desk.turn(stats, &mut client.out), &frame);
                    self.next(local, next, stats)
                }
                Err(Unreadable::UnknownType(_)) => Ok(()),
                Err(Unreadable::Invalid(words)) => Err(Broken(format!("unreadable frame: {words}"))),
            },
            Event::Binary(bytes) => {
                for frame in binary::decode_server(bytes) {
                    let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
                    match frame {
                        Ok(frame) => {
                            let next =
                                client.session.frame(&mut self.desk.turn(stats, &mut client.out), &frame);
                            self.next(local, next, stats)?;
                        }
                        Err(Unreadable::UnknownType(_)) => {}
                        Err(Unreadable::Invalid(words)) => {
                            return Err(Broken(format!("unreadable frame: {words}")));
                        }
                    }
                }
                Ok(())
            }
            Event::Ping(payload) => {
                let key = (self.desk.setup.prng.next_u64() as u32).to_le_bytes();
                append_client_frame(&mut client.out, Opcode::Pong, payload, key);
                Ok(())
            }
            Event::Pong(_) => Ok(()),
            Event::Close { code, .. } => {
                let code = code.unwrap_or(1005);
                client.is_stopped |= (4500..5000).contains(&code);
                Err(Broken(format!("closed with {code}")))
            }
        }
    }

    fn next(&mut self, local: u32, next: Next, _stats: &mut Stats) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        if client.session.is_live() && !client.is_live {
            client.is_live = true;
            client.was_live = true;
            client.failures = 0;
            self.control.live.fetch_add(1, Ordering::SeqCst);
            self.control.send_per_s.store(client.session.send_per_s(), Ordering::SeqCst);
            if std::mem::take(&mut client.is_opening) {
                self.opening_count -= 1;
            }
            // Spread over the first interval, so that heartbeats of clients that came together do not.
            let first_ms = self.desk.setup.prng.between(1, client.session.heartbeat_ms());
            let due = Due::Heartbeat(client.generation);
            self.timers.push(Reverse((self.desk.now_ns + first_ms * 1_000_000, local, due)));
        }
        match next {
            Next::Go => Ok(()),
            Next::RetryAt { n, due_ns } => {
                self.timers.push(Reverse((due_ns, local, Due::Retry(n))));
                Ok(())
            }
            Next::ComeBack { after_ms } => {
                client.come_back_ms = Some(after_ms.min(COME_BACK_MS_MAX));
                Err(Broken("reconnect".to_owned()))
            }
            Next::Stop(code) => {
                client.is_stopped = true;
                Err(Broken(format!("identify refused: {}", code.name())))
            }
        }
    }

    /// The connection is gone, whatever the reason.
    pub(super) fn lose(&mut self, local: u32, stats: &mut Stats, words: &str) {
        let Some(client) = self.clients.get_mut(local as usize) else { return };
        stats.trouble(words);
        client.losses = client.losses.wrapping_add(1);
        client.socket = None;
        client.out.clear();
        client.out_at = 0;
        if std::mem::take(&mut client.is_opening) {
            self.opening_count -= 1;
        }
        if std::mem::take(&mut client.is_live) {
            self.control.live.fetch_sub(1, Ordering::SeqCst);
        }
        client.session.disconnected(&mut self.desk.turn(stats, &mut client.out));
        // Before the first connection stands, trying again is no reconnect: a server may still be starting.
        if client.is_stopped || (client.was_live && !self.desk.setup.retry) {
            client.is_stopped = true;
            stats.stopped += 1;
            return;
        }
        stats.reconnects += u64::from(client.was_live);
        let (first_ms, last_ms) = BACKOFF_MS;
        let backoff_ms = first_ms.saturating_mul(1 << client.failures.min(10)).min(last_ms);
        client.failures += 1;
        let wait_ms =
            client.come_back_ms.take().unwrap_or_else(|| jittered(&mut self.desk.setup.prng, backoff_ms));
        self.timers.push(Reverse((self.desk.now_ns + wait_ms * 1_000_000, local, Due::Connect)));
    }

    pub(super) fn write(&mut self, local: u32) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        let Some(socket) = client.socket.as_mut() else { return Ok(()) };
        if matches!(socket.stage, Stage::Connecting) {
            return Ok(());
        }
        let is_full = loop {
            let left = client.out.get(client.out_at..).unwrap_or_default();
            if left.is_empty() {
                client.out.clear();
                client.out_at = 0;
                break false;
            }
            match rustix::io::write(&socket.fd, left) {
                Ok(count) => client.out_at += count,
                Err(Errno::AGAIN) => break true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        if client.out_at > READ_BYTES {
            client.out.drain(..client.out_at);
            client.out_at = 0;
        }
        if is_full != socket.awaits_room {
            socket.awaits_room = is_full;
            epoll::modify(&self.epoll, &socket.fd, name(local, client.generation), socket.interest())?;
        }
        Ok(())
    }
}
