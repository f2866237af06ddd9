//! Thousands of WebSocket clients in one thread: non-blocking sockets over epoll, our own codec, JSON. What a client
//! hears is handed to the scenario; what the scenario says goes out at once.
//!
//! # Invariants
//! - Connections open at most [`OPENING_MAX`] at a time: a storm is what a scenario makes on purpose, not its set-up.
//! - An idle client keeps no buffer.
//! - A client whose connection ends stays as it is until the scenario opens it again.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use carillon_node::prng::Prng;
use carillon_protocol::handshake;
use carillon_protocol::websocket::{Decoder, Event, Opcode, Role, append_client_frame};
use rkyv::util::AlignedVec;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};
use rustix::time::Timespec;
use serde_json::{Value, json};

use super::frame::Frame;

/// Connections between dialling and caught up.
const OPENING_MAX: usize = 64;
/// Sockets looked at in one turn.
const EVENTS_MAX: usize = 512;
/// Bytes of one read; what is left is read in the next turn, so that nobody is served for ever.
const READ_BYTES: usize = 64 * 1024;
/// The largest message that is taken from a server.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// A slice of the clients says that it is there this often, and everybody once in [`BEAT_SLICES`]: every 25 s.
const BEAT: Duration = Duration::from_millis(100);
const BEAT_SLICES: usize = 250;
const SUBPROTOCOL: &str = "carillon.v1.json";

/// What a client hears.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A frame.
    Frame(&'a Frame<'a>),
    /// Its connection ended, with a close code; 1006: without one.
    Gone(u16),
}

/// What a client says in answer.
#[derive(Debug, Default)]
pub struct Say(Vec<String>);

impl Say {
    /// One frame.
    pub fn frame(&mut self, frame: &Value) {
        self.0.push(frame.to_string());
    }
}

/// The scenario's ear: the client's number, what it hears, and what it says to that.
pub type Ear<'e> = &'e mut dyn FnMut(usize, Heard<'_>, &mut Say) -> Result<(), String>;

enum Stage {
    Connecting,
    Upgrading { key: String, answer: Vec<u8> },
    Open(Decoder),
}

struct Socket {
    fd: OwnedFd,
    stage: Stage,
    awaits_room: bool,
}

struct Member {
    token: String,
    cursors: Value,
    socket: Option<Socket>,
    generation: u32,
    out: Vec<u8>,
    is_opening: bool,
    is_live: bool,
}

/// The clients. See the module.
pub struct Swarm {
    server: SocketAddr,
    epoll: OwnedFd,
    members: Vec<Member>,
    waiting: VecDeque<usize>,
    opening_count: usize,
    live_count: usize,
    input: Vec<u8>,
    scratch: AlignedVec<16>,
    say: Say,
    prng: Prng,
    beat_at: Instant,
    beat_next: usize,
}

impl Swarm {
    /// Nobody yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(server: SocketAddr, seed: u64) -> Result<Swarm, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Swarm {
            server,
            epoll,
            members: Vec::new(),
            waiting: VecDeque::new(),
            opening_count: 0,
            live_count: 0,
            input: vec![0; READ_BYTES],
            scratch: AlignedVec::new(),
            say: Say::default(),
            prng: Prng::new(seed),
            beat_at: Instant::now() + BEAT,
            beat_next: 0,
        })
    }

    /// One more, who connects in the next turns. Returns its number.
    pub fn join(&mut self, token: String) -> usize {
        let number = self.members.len();
        self.members.push(Member {
            token,
            cursors: json!({}),
            socket: None,
            generation: 0,
            out: Vec::new(),
            is_opening: false,
            is_live: false,
        });
        self.waiting.push_back(number);
        number
    }

    /// How many have caught up.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live_count
    }

    /// Whether this one has.
    #[must_use]
    pub fn is_live(&self, number: usize) -> bool {
        self.members[number].is_live
    }

    /// Ends a connection without a word.
    pub fn cut(&mut self, number: usize) {
        self.lose(number);
    }

    /// Whoever connects from now on connects to this server.
    pub fn move_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// Connects again in the next turns, with these cursors.
    pub fn reopen(&mut self, number: usize, cursors: Value) {
        let member = &mut self.members[number];
        if member.socket.is_none() && !self.waiting.contains(&number) {
            member.cursors = cursors;
            self.waiting.push_back(number);
        }
    }

    /// Says something. Whoever has not caught up says nothing.
    pub fn say(&mut self, number: usize, frame: &Value) {
        if self.members[number].is_live {
            self.put(number, Opcode::Text, frame.to_string().as_bytes());
            self.write(number);
        }
    }

    /// Takes turns until everybody is live.
    ///
    /// # Errors
    /// What the ear says, and when it takes longer than `patience`.
    pub fn until_all_live(&mut self, patience: Duration, ear: Ear<'_>) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while self.live_count < self.members.len() {
            if Instant::now() >= deadline {
                return Err(format!("{} of {} clients are live", self.live_count, self.members.len()));
            }
            self.turn(Duration::from_millis(20), ear)?;
        }
        Ok(())
    }

    /// Takes turns for as long.
    ///
    /// # Errors
    /// What the ear says.
    pub fn rest(&mut self, time: Duration, ear: Ear<'_>) -> Result<(), String> {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.turn(left.min(Duration::from_millis(20)), ear)?;
        }
        Ok(())
    }

    /// Waits at most so long for sockets, and serves them.
    ///
    /// # Errors
    /// What the ear says, and what a server of ours does not do.
    pub fn turn(&mut self, wait: Duration, ear: Ear<'_>) -> Result<(), String> {
        self.dial()?;
        self.beat();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            let (number, generation) = ((data & 0xffff_ffff) as usize, (data >> 32) as u32);
            let member = &self.members[number];
            if member.socket.is_some() && member.generation == generation {
                self.ready(number, flags, ear)?;
            }
        }
        Ok(())
    }

    fn beat(&mut self) {
        let now = Instant::now();
        while now >= self.beat_at {
            self.beat_at += BEAT;
            for _ in 0..self.members.len().div_ceil(BEAT_SLICES) {
                let number = self.beat_next % self.members.len();
                self.beat_next = number + 1;
                if self.members[number].is_live {
                    self.say(number, &json!({"type": "heartbeat"}));
                }
            }
        }
    }

    fn dial(&mut self) -> Result<(), String> {
        while self.opening_count < OPENING_MAX {
            let Some(number) = self.waiting.pop_front() else { break };
            let member = &mut self.members[number];
            member.generation += 1;
            let data = EventData::new_u64(number as u64 | u64::from(member.generation) << 32);
            let dialled = dialled(self.server).and_then(|socket| {
                epoll::add(&self.epoll, &socket.fd, data, EventFlags::IN | EventFlags::OUT)?;
                Ok(socket)
            });
            member.socket = Some(dialled.map_err(|error| format!("connect: {error}"))?);
            member.is_opening = true;
            self.opening_count += 1;
        }
        Ok(())
    }

    fn ready(&mut self, number: usize, flags: EventFlags, ear: Ear<'_>) -> Result<(), String> {
        let member = &mut self.members[number];
        let Some(socket) = member.socket.as_mut() else { return Ok(()) };
        if matches!(socket.stage, Stage::Connecting) {
            if sockopt::socket_error(&socket.fd).is_ok_and(|error| error.is_ok()) {
                let mut nonce = [0; 16];
                self.prng.fill(&mut nonce);
                let key = handshake::encode_key(nonce);
                let host = self.server.to_string();
                member.out.extend(handshake::request(
                    &host,
                    "/v1/ws",
                    &key,
                    &[SUBPROTOCOL],
                    Some(&member.token),
                ));
                socket.stage = Stage::Upgrading { key, answer: Vec::new() };
            } else {
                return self.gone(number, 1006, ear);
            }
        } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(number, ear)?;
        }
        self.write(number);
        Ok(())
    }

    fn read(&mut self, number: usize, ear: Ear<'_>) -> Result<(), String> {
        let Some(socket) = self.members[number].socket.as_ref() else { return Ok(()) };
        let mut input = std::mem::take(&mut self.input);
        let read = rustix::io::read(&socket.fd, &mut input[..]);
        let result = match read {
            Ok(0) => self.gone(number, 1006, ear),
            Ok(count) => self.take(number, &input[..count], ear),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => self.gone(number, 1006, ear),
        };
        self.input = input;
        result
    }

    fn take(&mut self, number: usize, bytes: &[u8], ear: Ear<'_>) -> Result<(), String> {
        let Some(socket) = self.members[number].socket.as_mut() else { return Ok(()) };
        let Stage::Upgrading { key, answer } = &mut socket.stage else {
            return self.frames(number, bytes, ear);
        };
        answer.extend_from_slice(bytes);
        match handshake::parse_response(answer, key, &[SUBPROTOCOL]) {
            handshake::Answer::Partial => Ok(()),
            handshake::Answer::Accepted { consumed, .. } => {
                let rest = answer.split_off(consumed);
                socket.stage = Stage::Open(Decoder::new(Role::Client));
                self.frames(number, &rest, ear)
            }
            // A server that is busy says so; whoever wants to come in tries again.
            handshake::Answer::Refused { status: 429 | 503, .. } => self.gone(number, 1013, ear),
            refused => Err(format!("client {number} is not upgraded: {refused:?}")),
        }
    }

    fn frames(&mut self, number: usize, bytes: &[u8], ear: Ear<'_>) -> Result<(), String> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let Some(Socket { stage: Stage::Open(decoder), .. }) = self.members[number].socket.as_mut()
            else {
                break;
            };
            match decoder.decode(rest, MESSAGE_BYTES_MAX, &mut scratch) {
                Ok((used, event)) => {
                    rest = &rest[used..];
                    result = match event {
                        None | Some(Event::Pong(_)) => Ok(()),
                        Some(Event::Text(text)) => self.text(number, text, ear),
                        Some(Event::Binary(_)) => Err("binary on a text connection".to_owned()),
                        Some(Event::Ping(payload)) => {
                            self.put(number, Opcode::Pong, payload);
                            Ok(())
                        }
                        Some(Event::Close { code, .. }) => self.gone(number, code.unwrap_or(1005), ear),
                    };
                }
                Err(violation) => result = Err(format!("the server broke RFC 6455: {violation}")),
            }
        }
        self.scratch = scratch;
        result
    }

    fn text(&mut self, number: usize, text: &str, ear: Ear<'_>) -> Result<(), String> {
        let frame = Frame::read(text)?;
        match frame.kind {
            "hello" => {
                let identify = json!({"type": "identify", "cursors": self.members[number].cursors});
                self.put(number, Opcode::Text, identify.to_string().as_bytes());
            }
            "caught_up" if !self.members[number].is_live => {
                self.members[number].is_live = true;
                self.live_count += 1;
                if std::mem::take(&mut self.members[number].is_opening) {
                    self.opening_count -= 1;
                }
            }
            _ => {}
        }
        let mut say = std::mem::take(&mut self.say);
        let result = ear(number, Heard::Frame(&frame), &mut say);
        for text in say.0.drain(..) {
            self.put(number, Opcode::Text, text.as_bytes());
        }
        self.say = say;
        result
    }

    fn put(&mut self, number: usize, opcode: Opcode, payload: &[u8]) {
        let key = (self.prng.next_u64() as u32).to_le_bytes();
        let member = &mut self.members[number];
        if member.socket.is_some() {
            append_client_frame(&mut member.out, opcode, payload, key);
        }
    }

    fn write(&mut self, number: usize) {
        let member = &mut self.members[number];
        let Some(socket) = member.socket.as_mut().filter(|socket| !matches!(socket.stage, Stage::Connecting))
        else {
            return;
        };
        let mut written = 0;
        while written < member.out.len() {
            match rustix::io::write(&socket.fd, &member.out[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // No room, or an end that the next read tells.
                Err(_) => break,
            }
        }
        member.out.drain(..written);
        if member.out.is_empty() {
            member.out.shrink_to(0);
        }
        let awaits_room = !member.out.is_empty();
        if awaits_room != socket.awaits_room {
            socket.awaits_room = awaits_room;
            let flags = if awaits_room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(number as u64 | u64::from(member.generation) << 32);
            // A descriptor of ours that is in the set: this cannot fail, and the next turn would show it.
            let _ = epoll::modify(&self.epoll, &socket.fd, data, flags);
        }
    }

    fn gone(&mut self, number: usize, code: u16, ear: Ear<'_>) -> Result<(), String> {
        self.lose(number);
        ear(number, Heard::Gone(code), &mut Say::default())
    }

    fn lose(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.socket = None;
        member.out = Vec::new();
        if std::mem::take(&mut member.is_opening) {
            self.opening_count -= 1;
        }
        if std::mem::take(&mut member.is_live) {
            self.live_count -= 1;
        }
    }
}

fn dialled(server: SocketAddr) -> io::Result<Socket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match connect(&fd, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(Socket { fd, stage: Stage::Connecting, awaits_room: true }),
        Err(error) => Err(error.into()),
    }
}
