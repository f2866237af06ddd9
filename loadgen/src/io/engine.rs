//! One thread of clients: an epoll loop over non-blocking sockets. All state is data in two vectors; nothing is
//! spawned, and an idle client costs a timer.
//!
//! # Invariants
//! - The clock is read once a turn. What is due by then is handed over before sockets are read, so the schedule does
//!   not wait for the server.
//! - A turn is bounded: [`SENDS_MAX`] messages, [`EVENTS_MAX`] sockets, [`READS_MAX`] reads of each.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use carillon_node::clock::Clock;
use carillon_node::prng::Prng;
use carillon_protocol::client::{Unreadable, Wire, binary, json};
use carillon_protocol::websocket::{Event, Opcode, append_client_frame, close_payload};
use rkyv::util::AlignedVec;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::control::{Control, Phase, Plan};
use super::socket::{Refused, Socket, Stage, source};
use crate::options::Mix;
use crate::oracle::Ledger;
use crate::schedule::{Arrivals, Schedule};
use crate::session::{Next, Receipts, Session, jittered};
use crate::stats::Stats;
use crate::turn::{Text, Turn};

/// An engine looks at least this often at what the main thread wants.
pub(super) const LOOK_MS: u64 = 20;
/// Messages handed over in one turn before sockets are looked at.
const SENDS_MAX: usize = 1_000;
/// Sockets looked at in one turn.
const EVENTS_MAX: usize = 512;
/// Reads of one socket in one turn.
const READS_MAX: usize = 8;
const READ_BYTES: usize = 64 * 1024;
/// The largest message that is taken from a server: a page and an event.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Connections of a thread between dialling and caught up: a storm of our own making is not what is measured.
const OPENING_MAX: usize = 64;
/// A connection that has not caught up by then is given up.
const OPENING_MS: u64 = 30_000;
/// Waiting before connecting again: doubled with each failure from the first to the second.
const BACKOFF_MS: (u64, u64) = (50, 2_000);
const COME_BACK_MS_MAX: u64 = 30_000;
/// Everything of the schedule handed over this long after its end still counts as on time.
const LATE_NS: u64 = 10_000_000;
/// The timer's place among the sockets of epoll.
const TIMER: u64 = u64::MAX;

/// What an engine is made of.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) threads: usize,
    pub(super) first_client: u32,
    pub(super) tokens: Vec<String>,
    pub(super) servers: Vec<SocketAddr>,
    pub(super) addresses_count: u32,
    pub(super) wire: Wire,
    pub(super) content_bytes: usize,
    pub(super) receipts: Receipts,
    pub(super) mix: Mix,
    pub(super) arrivals: Arrivals,
    /// In a closed loop, how many messages of a sender wait for their answer.
    pub(super) in_flight: Option<usize>,
    pub(super) retry: bool,
    pub(super) prng: Prng,
    pub(super) journal: Option<File>,
}

/// One client: its session, and the socket beneath when there is one.
#[derive(Debug)]
struct Client {
    session: Session,
    socket: Option<Socket>,
    out: Vec<u8>,
    out_at: usize,
    /// Counts connections, so that what belongs to an old one is recognised.
    generation: u32,
    /// Connections lost; after each it tries the next server.
    losses: u32,
    failures: u32,
    heard_ns: u64,
    was_live: bool,
    is_opening: bool,
    is_live: bool,
    /// Will not connect again.
    is_stopped: bool,
    is_dirty: bool,
    come_back_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Connect,
    Opening(u32),
    Heartbeat(u32),
    Retry(u64),
}

/// What sessions are handed, beside their buffers.
#[derive(Debug)]
struct Desk {
    setup: Setup,
    plan: Arc<Plan>,
    ledger: Ledger,
    json: Vec<u8>,
    binary: AlignedVec<16>,
    text: Text,
    journal: Vec<u8>,
    now_ns: u64,
}

impl Desk {
    fn turn<'t>(&'t mut self, stats: &'t mut Stats, out: &'t mut Vec<u8>) -> Turn<'t> {
        Turn {
            now_ns: self.now_ns,
            roster: &self.plan.roster,
            ledger: &mut self.ledger,
            stats,
            window: self.plan.window,
            shared: &self.plan.shared,
            prng: &mut self.setup.prng,
            wire: self.setup.wire,
            content_bytes: self.setup.content_bytes,
            receipts: self.setup.receipts,
            out,
            json: &mut self.json,
            binary: &mut self.binary,
            text: &mut self.text,
            journal: self.setup.journal.is_some().then_some(&mut self.journal),
        }
    }
}

pub(super) struct Engine {
    control: Arc<Control>,
    desk: Desk,
    clients: Vec<Client>,
    /// Clients that can send, once there is a plan.
    senders: Vec<u32>,
    schedule: Option<Schedule>,
    has_begun: bool,
    has_sent_all: bool,
    backlog: VecDeque<u32>,
    opening_count: usize,
    timers: BinaryHeap<Reverse<(u64, u32, Due)>>,
    dirty: Vec<u32>,
    epoll: OwnedFd,
    timer: OwnedFd,
    scratch: AlignedVec<16>,
    input: Vec<u8>,
}

/// Why a connection ends.
struct Broken(String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken(error.kind().to_string())
    }
}

impl Engine {
    pub(super) fn new(control: Arc<Control>, setup: Setup, plan: Arc<Plan>) -> io::Result<Engine> {
        let count = u32::try_from(setup.tokens.len()).unwrap_or(u32::MAX);
        let client = |local| Client {
            session: Session::new(setup.first_client + local),
            socket: None,
            out: Vec::new(),
            out_at: 0,
            generation: 0,
            losses: 0,
            failures: 0,
            heard_ns: 0,
            was_live: false,
            is_opening: false,
            is_live: false,
            is_stopped: false,
            is_dirty: false,
            come_back_ms: None,
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Engine {
            control,
            clients: (0..count).map(client).collect(),
            senders: Vec::new(),
            schedule: None,
            has_begun: false,
            has_sent_all: false,
            backlog: (0..count).collect(),
            opening_count: 0,
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            epoll,
            timer,
            scratch: AlignedVec::new(),
            input: vec![0; READ_BYTES],
            desk: Desk {
                ledger: Ledger::new(plan.roster.clone(), setup.first_client, count),
                plan,
                setup,
                json: Vec::new(),
                binary: AlignedVec::new(),
                text: Text::default(),
                journal: Vec::new(),
                now_ns: 0,
            },
        })
    }

    /// Runs until the main thread says stop; returns the book.
    pub(super) fn run(mut self) -> io::Result<Ledger> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let control = self.control.clone();
        loop {
            let timeout = self.arm()?;
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut stats = control.stats(self.desk.setup.index);
            self.desk.now_ns = Clock.now_ns();
            let phase = control.phase();
            if phase == Phase::Stop {
                self.leave(&mut stats);
                self.write_journal(&mut stats);
                return Ok(self.desk.ledger);
            }
            self.install();
            self.send_due(&mut stats);
            self.timers_due(&mut stats);
            for event in &events {
                let data = event.data.u64();
                if data != TIMER {
                    self.ready((data & 0xffff_ffff) as u32, (data >> 32) as u32, event.flags, &mut stats);
                }
            }
            self.dial(&mut stats);
            self.flush(&mut stats);
            if phase == Phase::Deliver {
                let is_settled = self.is_settled();
                control.settled[self.desk.setup.index].store(is_settled, Ordering::SeqCst);
            }
            self.write_journal(&mut stats);
        }
    }

    /// Sets the timer to what is due next, to the nanosecond; epoll itself only knows milliseconds.
    fn arm(&mut self) -> io::Result<Timespec> {
        let now_ns = Clock.now_ns();
        let look_ns = now_ns + LOOK_MS * 1_000_000;
        let timer_ns = self.timers.peek().map_or(u64::MAX, |Reverse((due_ns, ..))| *due_ns);
        let due_ns = self.next_send_ns().unwrap_or(u64::MAX).min(timer_ns);
        if due_ns <= now_ns || !self.dirty.is_empty() {
            return Ok(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let due_ns = due_ns.min(look_ns);
        let it_value = Timespec {
            tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (due_ns % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(Timespec { tv_sec: 0, tv_nsec: (2 * LOOK_MS * 1_000_000) as _ })
    }

    fn next_send_ns(&self) -> Option<u64> {
        let next_ns = self.schedule.as_ref()?.next_ns();
        let due_ns = self.desk.plan.window.start_ns.saturating_add(next_ns);
        (!self.has_sent_all && due_ns < self.control.stop_ns.load(Ordering::SeqCst)).then_some(due_ns)
    }

    /// Takes over the plan once there is one.
    fn install(&mut self) {
        if self.schedule.is_some() {
            return;
        }
        let Some(plan) = self.control.plan.get() else { return };
        let Setup { index, threads, first_client, arrivals, .. } = self.desk.setup;
        let count = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        self.desk.plan = plan.clone();
        self.desk.ledger = Ledger::new(plan.roster.clone(), first_client, count);
        for (client, local) in (first_client..).zip(&self.clients) {
            self.desk.ledger.connected(client, local.is_live);
        }
        let can_send = |local: &u32| {
            plan.outlets
                .get((first_client + local) as usize)
                .is_some_and(|outlets| !outlets.pairs.is_empty() || !outlets.groups.is_empty())
        };
        self.senders = (0..count).filter(can_send).collect();
        let prng = self.desk.setup.prng.fork();
        self.schedule = Some(Schedule::new(plan.window.rate, arrivals, index, threads, prng));
    }

    /// Hands over what the schedule wants by now.
    fn send_due(&mut self, stats: &mut Stats) {
        if self.schedule.is_none() || self.has_sent_all {
            return;
        }
        if !self.has_begun && self.desk.now_ns >= self.desk.plan.window.start_ns {
            self.has_begun = true;
            // In a closed loop nothing has been heard yet that would set the first messages off.
            self.senders.clone().into_iter().for_each(|local| self.mark(local));
        }
        let stop_ns = self.control.stop_ns.load(Ordering::SeqCst);
        for _ in 0..SENDS_MAX {
            let Some(intended_ns) = self.next_send_ns().filter(|due_ns| *due_ns <= self.desk.now_ns) else {
                break;
            };
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
            let prng = &mut self.desk.setup.prng;
            if let Some(local) = self.senders.get(prng.index(self.senders.len())).copied() {
                self.send_one(local, stats, intended_ns, stop_ns);
            }
        }
        if self.desk.now_ns >= stop_ns && self.next_send_ns().is_none() {
            self.has_sent_all = true;
            self.control.sent_all.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// In a closed loop: as many more as were answered.
    fn refill(&mut self, local: u32, stats: &mut Stats) {
        let Some(in_flight) = self.desk.setup.in_flight.filter(|_| self.schedule.is_some()) else { return };
        let stop_ns = self.control.stop_ns.load(Ordering::SeqCst);
        let is_time = self.has_begun && self.desk.now_ns < stop_ns;
        if !is_time || self.senders.binary_search(&local).is_err() {
            return;
        }
        let waiting =
            self.clients.get(local as usize).map_or(in_flight, |client| client.session.pending_count());
        for _ in waiting..in_flight {
            self.send_one(local, stats, self.desk.now_ns, stop_ns);
        }
    }

    fn send_one(&mut self, local: u32, stats: &mut Stats, intended_ns: u64, stop_ns: u64) {
        let prng = &mut self.desk.setup.prng;
        let outlets = self.desk.plan.outlets.get((self.desk.setup.first_client + local) as usize);
        let drawn = outlets.and_then(|outlets| outlets.draw(&self.desk.setup.mix, prng));
        let (Some(conversation), Some(client)) = (drawn, self.clients.get_mut(local as usize)) else {
            return;
        };
        let now_ns = self.desk.now_ns;
        stats.due_count += 1;
        stats.on_time_count += u64::from(now_ns < stop_ns.saturating_add(LATE_NS));
        if let Some(step) = self.desk.plan.window.step(intended_ns, intended_ns) {
            let step = stats.step(step);
            step.intended_count += 1;
            step.lag.record_ns(now_ns.saturating_sub(intended_ns));
        }
        // Counted before it can be answered.
        self.desk.plan.shared.unanswered.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.desk.turn(stats, &mut client.out);
        if !client.session.send(&mut turn, conversation, intended_ns) {
            turn.answered();
        }
        self.mark(local);
    }

    fn mark(&mut self, local: u32) {
        if let Some(client) = self.clients.get_mut(local as usize)
            && !client.is_dirty
        {
            client.is_dirty = true;
            self.dirty.push(local);
        }
    }

    fn timers_due(&mut self, stats: &mut Stats) {
        while let Some(Reverse((due_ns, ..))) = self.timers.peek()
            && *due_ns <= self.desk.now_ns
        {
            let Some(Reverse((_, local, due))) = self.timers.pop() else { return };
            let Some(client) = self.clients.get_mut(local as usize) else { continue };
            match due {
                Due::Connect => self.backlog.push_back(local),
                Due::Opening(generation) if generation == client.generation && client.is_opening => {
                    self.lose(local, stats, "no caught_up in time");
                }
                Due::Heartbeat(generation) if generation == client.generation && client.is_live => {
                    let interval_ns = client.session.heartbeat_ms() * 1_000_000;
                    // The server's own rule for a peer that is gone: two intervals and ten seconds.
                    let silence_ns = self.desk.now_ns.saturating_sub(client.heard_ns);
                    if silence_ns > 2 * interval_ns + 10_000_000_000 {
                        self.lose(local, stats, "server silent");
                        continue;
                    }
                    client.session.heartbeat(&mut self.desk.turn(stats, &mut client.out));
                    let next = Due::Heartbeat(generation);
                    self.timers.push(Reverse((self.desk.now_ns + interval_ns, local, next)));
                    self.mark(local);
                }
                Due::Retry(n) => {
                    client.session.retry(&mut self.desk.turn(stats, &mut client.out), n);
                    self.mark(local);
                }
                Due::Opening(_) | Due::Heartbeat(_) => {}
            }
        }
    }

    /// Dials for those who wait for it.
    fn dial(&mut self, stats: &mut Stats) {
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
            let data = EventData::new_u64(u64::from(local) | u64::from(generation) << 32);
            let source = source(server, number, self.desk.setup.addresses_count);
            let dialled = Socket::connect(server, source).and_then(|socket| {
                epoll::add(&self.epoll, &socket.fd, data, EventFlags::IN | EventFlags::OUT)?;
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

    fn ready(&mut self, local: u32, generation: u32, flags: EventFlags, stats: &mut Stats) {
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
            && let Err(Broken(words)) = self.read(local, stats)
        {
            self.lose(local, stats, &words);
            return;
        }
        self.mark(local);
    }

    fn read(&mut self, local: u32, stats: &mut Stats) -> Result<(), Broken> {
        let mut input = std::mem::take(&mut self.input);
        let mut result = Ok(());
        for _ in 0..READS_MAX {
            let Some(socket) = self.clients.get(local as usize).and_then(|client| client.socket.as_ref())
            else {
                break;
            };
            match rustix::io::read(&socket.fd, &mut input[..]) {
                Ok(0) => {
                    result = Err(Broken("connection closed without a close frame".to_owned()));
                    break;
                }
                Ok(count) => {
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
        result
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
    fn lose(&mut self, local: u32, stats: &mut Stats, words: &str) {
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

    /// Lets sessions fill their buffers, and sockets take them.
    fn flush(&mut self, stats: &mut Stats) {
        for local in std::mem::take(&mut self.dirty) {
            self.refill(local, stats);
            let Some(client) = self.clients.get_mut(local as usize) else { continue };
            client.is_dirty = false;
            client.session.flush(&mut self.desk.turn(stats, &mut client.out));
            if let Err(error) = self.write(local) {
                self.lose(local, stats, &error.kind().to_string());
            }
        }
    }

    fn write(&mut self, local: u32) -> io::Result<()> {
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
            let flags = if is_full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(u64::from(local) | u64::from(client.generation) << 32);
            epoll::modify(&self.epoll, &socket.fd, data, flags)?;
        }
        Ok(())
    }

    /// Whether every client that still takes part holds what was acknowledged anywhere.
    fn is_settled(&self) -> bool {
        let told = &self.desk.plan.shared.told_seqs;
        (self.desk.setup.first_client..).zip(&self.clients).all(|(number, client)| {
            let holds_all = self.desk.ledger.cursors(number).all(|(conversation, seq)| {
                told.get(conversation as usize).is_none_or(|told| seq >= told.load(Ordering::SeqCst))
            });
            client.is_stopped || (client.is_live && holds_all)
        })
    }

    /// Says good-bye, as far as sockets take it.
    fn leave(&mut self, stats: &mut Stats) {
        for local in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let Some(client) = self.clients.get_mut(local as usize).filter(|client| client.is_live) else {
                continue;
            };
            client.session.bye(&mut self.desk.turn(stats, &mut client.out));
            let key = (self.desk.setup.prng.next_u64() as u32).to_le_bytes();
            append_client_frame(&mut client.out, Opcode::Close, &close_payload(1000, ""), key);
            // Whoever does not take it finds out when the socket closes.
            let _ = self.write(local);
        }
    }

    fn write_journal(&mut self, stats: &mut Stats) {
        if let Some(file) = &mut self.desk.setup.journal
            && !self.desk.journal.is_empty()
        {
            if file.write_all(&self.desk.journal).is_err() {
                stats.trouble(JOURNAL_TROUBLE);
            }
            self.desk.journal.clear();
        }
    }
}

/// A journal that cannot be written makes the run invalid.
pub(super) const JOURNAL_TROUBLE: &str = "the journal cannot be written";
