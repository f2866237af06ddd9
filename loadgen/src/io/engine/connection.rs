//! The sockets of an engine's clients: dialled, upgraded, read, written, lost.

use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use carillon_protocol::client::{Unreadable, binary, json};
use carillon_protocol::websocket::{self, Opcode, append_client_frame};

use super::stage::{Refused, Stage};
use super::{Due, Engine, GRID_NS};
use crate::io::carrier::{Dial, Event, source};
use crate::session::{Next, jittered};
use crate::stats::Stats;

/// The largest message that is taken from a server: a page and an event.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// A connection that has not caught up by then is given up.
const OPENING_MS: u64 = 30_000;
/// Waiting before connecting again: doubled with each failure from the first to the second.
const BACKOFF_MS: (u64, u64) = (50, 2_000);
const COME_BACK_MS_MAX: u32 = 30_000;

/// What a slow reader reads at once, at most.
const SIP_BYTES_MAX: u32 = 2 * 1024;

/// Why a connection ends.
struct Broken(String);

impl Engine {
    /// Dials for those who wait for it, who come back first.
    pub(super) fn dial(&mut self, stats: &mut Stats) {
        while self.opening_count < self.desk.setup.opening_max {
            let Some(local) = self.backlog.pop_front().or_else(|| self.open()) else { return };
            let number = self.desk.setup.first_client + local;
            let server = self.server(local);
            let Some(client) = self.clients.get_mut(local as usize) else { continue };
            client.generation += 1;
            client.stage = Stage::Connecting;
            client.is_opening = true;
            client.come_back_ms = None;
            client.heard_ns = self.desk.now_ns;
            self.opening_count += 1;
            let deadline_ns = self.desk.now_ns + OPENING_MS * 1_000_000;
            self.timers.push(Reverse((deadline_ns, local, Due::Opening(client.generation))));
            let source = source(server, number, self.desk.setup.addresses_count);
            let dial = Dial { server, source, holds_little: client.is_slow };
            if let Err(error) = self.carrier.dial(local, &dial) {
                self.lose(local, stats, &error.kind().to_string());
            }
        }
    }

    /// When the next client may be dialled for the first time; `None`: all were, or too many are on their way.
    pub(super) fn next_open_ns(&self) -> Option<u64> {
        let is_wanted =
            self.unopened < self.desk.setup.clients && self.opening_count < self.desk.setup.opening_max;
        is_wanted.then_some(self.open_at_ns)
    }

    /// The next client who was never dialled, at its time. What was not opened in time is not made up for all at once.
    fn open(&mut self) -> Option<u32> {
        let now_ns = self.desk.now_ns;
        self.next_open_ns().filter(|open_at_ns| *open_at_ns <= now_ns)?;
        self.open_at_ns = self.open_at_ns.max(now_ns.saturating_sub(GRID_NS)) + self.desk.setup.open_every_ns;
        self.unopened += 1;
        Some(self.unopened - 1)
    }

    /// Where a client connects: they take turns, and whoever loses a connection goes on at the next server.
    fn server(&self, local: u32) -> SocketAddr {
        let servers = &self.desk.setup.servers;
        let losses = self.clients.get(local as usize).map_or(0, |client| client.losses);
        let turn = (self.desk.setup.first_client + local).wrapping_add(losses);
        servers[turn as usize % servers.len()]
    }

    /// Something happened to a client's socket.
    pub(super) fn happened(&mut self, local: u32, event: Event, input: &[u8], stats: &mut Stats) {
        match event {
            Event::Connected => self.connected(local),
            Event::Received { bytes } => {
                match self.take(local, input.get(..bytes).unwrap_or_default(), stats) {
                    Ok(()) => self.rest(local, bytes, stats),
                    Err(Broken(words)) => return self.lose(local, stats, &words),
                }
            }
            Event::Room => {}
            Event::Ended(words) => return self.lose(local, stats, &words),
        }
        self.mark(local);
    }

    fn connected(&mut self, local: u32) {
        let server = self.server(local);
        let Some(client) = self.clients.get_mut(local as usize) else { return };
        let setup = &mut self.desk.setup;
        let token = setup.tokens.of(setup.first_client + local);
        let name = setup.wire.subprotocol();
        client.stage = Stage::upgrade(server, name, &token, &mut setup.prng, &mut client.out);
    }

    /// What a client reads at once that is slow now: at most what it may in a second.
    fn sip_bytes(&self, local: u32) -> Option<u32> {
        let slow = self.desk.setup.manners.slow_readers?;
        let client = self.clients.get(local as usize)?;
        let is_slow = client.is_slow && client.is_live && self.schedule.is_some() && !self.has_sent_all;
        is_slow.then(|| u32::try_from(slow.bytes_per_s).unwrap_or(SIP_BYTES_MAX).clamp(1, SIP_BYTES_MAX))
    }

    /// A slow reader takes the next sip; whoever is not slow any more whatever comes.
    pub(super) fn sip(&mut self, local: u32, stats: &mut Stats) {
        if let Err(error) = self.carrier.sip(local, self.sip_bytes(local)) {
            self.lose(local, stats, &error.kind().to_string());
        }
    }

    /// Leaves the socket of a slow reader alone for as long as those bytes are to take.
    fn rest(&mut self, local: u32, bytes: usize, stats: &mut Stats) {
        let (Some(client), Some(slow)) =
            (self.clients.get(local as usize), self.desk.setup.manners.slow_readers)
        else {
            return;
        };
        if !client.is_slow {
            return;
        }
        let due = Due::Read(client.generation);
        match self.sip_bytes(local) {
            Some(_) => {
                let pause_ns = bytes as u64 * 1_000_000_000 / slow.bytes_per_s.max(1);
                self.timers.push(Reverse((self.desk.now_ns.saturating_add(pause_ns), local, due)));
            }
            None => self.sip(local, stats),
        }
    }

    /// Bytes from the server.
    fn take(&mut self, local: u32, bytes: &[u8], stats: &mut Stats) -> Result<(), Broken> {
        let name = self.desk.setup.wire.subprotocol();
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        client.heard_ns = self.desk.now_ns;
        if matches!(client.stage, Stage::Upgrading(_)) {
            return match client.stage.upgraded(bytes, name) {
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
            let Stage::Open(decoder) = &mut client.stage else { break };
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

    fn event(&mut self, local: u32, event: &websocket::Event<'_>, stats: &mut Stats) -> Result<(), Broken> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        match event {
            websocket::Event::Text(text) => match json::decode_server(text) {
                Ok(frame) => {
                    let next = client.session.frame(&mut self.desk.turn(stats, &mut client.out), &frame);
                    self.next(local, next, stats)
                }
                Err(Unreadable::UnknownType(_)) => Ok(()),
                Err(Unreadable::Invalid(words)) => Err(Broken(format!("unreadable frame: {words}"))),
            },
            websocket::Event::Binary(bytes) => {
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
            websocket::Event::Ping(payload) => {
                let key = (self.desk.setup.prng.next_u64() as u32).to_le_bytes();
                append_client_frame(&mut client.out, Opcode::Pong, payload, key);
                Ok(())
            }
            websocket::Event::Pong(_) => Ok(()),
            websocket::Event::Close { code, .. } => {
                let code = code.unwrap_or(1005);
                client.is_stopped |= (4500..5000).contains(&code);
                Err(Broken(format!("closed with {code}")))
            }
        }
    }

    fn next(&mut self, local: u32, next: Next, stats: &mut Stats) -> Result<(), Broken> {
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
            let is_slow = client.is_slow;
            self.beat_in(local, first_ms * 1_000_000);
            if is_slow {
                self.sip(local, stats);
            }
        }
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        match next {
            Next::Go => Ok(()),
            Next::RetryAt { n, due_ns } => {
                // Four bytes less in each timer; nobody sends as many in a run.
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                self.timers.push(Reverse((due_ns, local, Due::Retry(n))));
                Ok(())
            }
            Next::ComeBack { after_ms } => {
                client.come_back_ms = Some(u32::try_from(after_ms).unwrap_or(u32::MAX).min(COME_BACK_MS_MAX));
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
        client.stage = Stage::Closed;
        self.carrier.close(local);
        client.out.clear();
        if std::mem::take(&mut client.is_opening) {
            self.opening_count -= 1;
        }
        if std::mem::take(&mut client.is_live) {
            self.control.live.fetch_sub(1, Ordering::SeqCst);
            stats.lost_count += 1;
        }
        client.session.disconnected(&mut self.desk.turn(stats, &mut client.out));
        self.desk.take_back(&mut client.out);
        // Before the first connection stands, trying again is no reconnect: a server may still be starting.
        if client.is_stopped || (client.was_live && !self.desk.setup.retry) {
            client.is_stopped = true;
            stats.stopped += 1;
            self.control.stopped.fetch_add(1, Ordering::SeqCst);
            return;
        }
        stats.reconnects += u64::from(client.was_live);
        let (first_ms, last_ms) = BACKOFF_MS;
        let backoff_ms = first_ms.saturating_mul(1 << client.failures.min(10)).min(last_ms);
        client.failures += 1;
        let asked_ms = client.come_back_ms.take().map(u64::from);
        let wait_ms = asked_ms.unwrap_or_else(|| jittered(&mut self.desk.setup.prng, backoff_ms));
        self.timers.push(Reverse((self.desk.now_ns + wait_ms * 1_000_000, local, Due::Connect)));
    }

    /// Gives a client's socket what it has to say.
    pub(super) fn write(&mut self, local: u32) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(local as usize) else { return Ok(()) };
        if matches!(client.stage, Stage::Upgrading(_) | Stage::Open(_)) && !client.out.is_empty() {
            self.carrier.send(local, &mut client.out)?;
        }
        if client.out.is_empty() {
            self.desk.take_back(&mut client.out);
        }
        Ok(())
    }
}
