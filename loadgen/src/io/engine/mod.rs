//! One thread of clients, over sockets that a [`Carrier`] carries. All state is data in two vectors; nothing is spawned, and
//! an idle client costs a timer and [`CLIENT_BYTES_MAX`].
//!
//! # Invariants
//! - The clock is read once a turn. What is due by then is handed over before it is looked at what sockets brought, so the
//!   schedule does not wait for the server.
//! - A turn is bounded: [`SENDS_MAX`] messages, [`TIMERS_MAX`] timers and [`EVENTS_MAX`] events.
//! - A client that has nothing to say owns no buffer.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carillon_node::clock::Clock;
use carillon_node::prng::Prng;
use carillon_protocol::client::Wire;
use carillon_protocol::websocket::{Opcode, append_client_frame, close_payload};
use rkyv::util::AlignedVec;

use super::carrier::{self, Carrier, INPUT_BYTES};
use super::control::{Control, Phase, Plan};
use super::inputs::Tokens;
use crate::options::Mix;
use crate::oracle::Ledger;
use crate::scenario::Manners;
use crate::schedule::{Arrivals, Schedule};
use crate::session::{Receipts, Session};
use crate::stats::Stats;
use crate::turn::{Text, Turn};

mod connection;
mod install;
mod stage;

use stage::Stage;

/// An engine looks at least this often at what the main thread wants.
pub(in crate::io) const LOOK_MS: u64 = 20;
/// Messages handed over in one turn before sockets are looked at.
const SENDS_MAX: usize = 1_000;
/// How often another sender is drawn for one who is away; when nearly all are, one of them it is.
const DRAWS_MAX: usize = 16;
/// Timers that go off in one turn: a storm that cuts everybody at once is cut in pieces, and messages leave in between.
const TIMERS_MAX: usize = 1_000;
/// Events taken in one turn.
const EVENTS_MAX: usize = 1_024;
/// Everything of the schedule handed over this long after its end still counts as on time.
const LATE_NS: u64 = 10_000_000;
/// Heartbeats leave at multiples of this, so that those of a moment leave together.
const GRID_NS: u64 = LOOK_MS * 1_000_000;
/// Buffers that are kept for those who have something to say next; more than that were needed for a crowd.
const SPARES_MAX: usize = 256;
/// Larger ones are not kept.
const SPARE_BYTES_MAX: usize = 64 * 1024;

/// What a client takes here at most while it is idle.
const CLIENT_BYTES_MAX: usize = 208;
const _: () = assert!(size_of::<Client>() <= CLIENT_BYTES_MAX);
const _: () = assert!(size_of::<Reverse<(u64, u32, Due)>>() <= 24);

/// What an engine is made of.
pub(in crate::io) struct Setup {
    pub(in crate::io) index: usize,
    pub(in crate::io) engines: usize,
    pub(in crate::io) first_client: u32,
    pub(in crate::io) clients: u32,
    pub(in crate::io) carrier: carrier::Choice,
    pub(in crate::io) tokens: Arc<Tokens>,
    /// Between the first dials of two clients, at least.
    pub(in crate::io) open_every_ns: u64,
    /// Clients between dialling and caught up, at most: a storm of our own making is not what is measured.
    pub(in crate::io) opening_max: usize,
    pub(in crate::io) servers: Vec<SocketAddr>,
    pub(in crate::io) addresses_count: u32,
    pub(in crate::io) wire: Wire,
    pub(in crate::io) content_bytes: usize,
    pub(in crate::io) media: f64,
    pub(in crate::io) receipts: Receipts,
    pub(in crate::io) mix: Mix,
    pub(in crate::io) arrivals: Arrivals,
    /// In a closed loop, how many messages of a sender wait for their answer.
    pub(in crate::io) in_flight: Option<usize>,
    pub(in crate::io) retry: bool,
    pub(in crate::io) manners: Manners,
    pub(in crate::io) prng: Prng,
    pub(in crate::io) journal: Option<File>,
}

/// One client: its session, and how far its connection is.
#[derive(Debug)]
struct Client {
    session: Session,
    stage: Stage,
    /// What its socket is to be given.
    out: Vec<u8>,
    /// Counts connections, so that a timer of an old one is recognised.
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
    is_slow: bool,
    /// A storm of the scenario keeps it away.
    is_away: bool,
    come_back_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Connect,
    Opening(u32),
    Heartbeat(u32),
    Retry(u32),
    /// A slow reader's pause is over.
    Read(u32),
    /// A storm cuts the connection, for so long if it says how long.
    Cut {
        away_ms: Option<u32>,
    },
}

/// What sessions are handed, beside their buffers.
struct Desk {
    setup: Setup,
    plan: Arc<Plan>,
    ledger: Ledger,
    json: Vec<u8>,
    binary: AlignedVec<16>,
    text: Text,
    journal: Vec<u8>,
    /// Buffers of those who have nothing more to say.
    spares: Vec<Vec<u8>>,
    now_ns: u64,
}

impl Desk {
    /// Surroundings for a client's session; whatever it says is marked, and flushed at the end of the turn.
    fn turn<'t>(&'t mut self, stats: &'t mut Stats, out: &'t mut Vec<u8>) -> Turn<'t> {
        self.lend(out);
        Turn {
            now_ns: self.now_ns,
            roster: &self.plan.roster,
            ledger: &mut self.ledger,
            stats,
            window: &self.plan.window,
            shared: &self.plan.shared,
            prng: &mut self.setup.prng,
            wire: self.setup.wire,
            content_bytes: self.setup.content_bytes,
            media: self.setup.media,
            receipts: self.setup.receipts,
            watch: self.setup.manners.watch,
            out,
            json: &mut self.json,
            binary: &mut self.binary,
            text: &mut self.text,
            journal: self.setup.journal.is_some().then_some(&mut self.journal),
        }
    }

    /// Lends a buffer to a client that has none.
    fn lend(&mut self, out: &mut Vec<u8>) {
        if out.capacity() == 0
            && let Some(spare) = self.spares.pop()
        {
            *out = spare;
        }
    }

    /// Takes the buffer of a client that has nothing more to say.
    fn take_back(&mut self, out: &mut Vec<u8>) {
        let spare = std::mem::take(out);
        if self.spares.len() < SPARES_MAX && (1..=SPARE_BYTES_MAX).contains(&spare.capacity()) {
            self.spares.push(spare);
        }
    }
}

pub(in crate::io) struct Engine {
    control: Arc<Control>,
    desk: Desk,
    clients: Vec<Client>,
    /// Clients that can send, once there is a plan.
    senders: Vec<u32>,
    schedule: Option<Schedule>,
    has_begun: bool,
    has_sent_all: bool,
    /// The first client that was not dialled yet.
    unopened: u32,
    /// When it may be.
    open_at_ns: u64,
    /// Those who wait to be dialled again.
    backlog: VecDeque<u32>,
    opening_count: usize,
    timers: BinaryHeap<Reverse<(u64, u32, Due)>>,
    dirty: Vec<u32>,
    carrier: Box<dyn Carrier>,
    scratch: AlignedVec<16>,
    input: Vec<u8>,
}

impl Engine {
    /// For the calling thread.
    pub(in crate::io) fn new(control: Arc<Control>, setup: Setup, plan: Arc<Plan>) -> io::Result<Engine> {
        let (first_client, count) = (setup.first_client, setup.clients);
        let client = |local| Client {
            session: Session::new(first_client + local),
            stage: Stage::Closed,
            out: Vec::new(),
            generation: 0,
            losses: 0,
            failures: 0,
            heard_ns: 0,
            was_live: false,
            is_opening: false,
            is_live: false,
            is_stopped: false,
            is_dirty: false,
            is_slow: false,
            is_away: false,
            come_back_ms: None,
        };
        Ok(Engine {
            control,
            clients: (0..count).map(client).collect(),
            senders: Vec::new(),
            schedule: None,
            has_begun: false,
            has_sent_all: false,
            unopened: 0,
            open_at_ns: Clock.now_ns(),
            backlog: VecDeque::new(),
            opening_count: 0,
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            carrier: setup.carrier.open(count)?,
            scratch: AlignedVec::new(),
            input: vec![0; INPUT_BYTES],
            desk: Desk {
                ledger: Ledger::new(plan.roster.clone(), first_client, count),
                plan,
                setup,
                json: Vec::new(),
                binary: AlignedVec::new(),
                text: Text::default(),
                journal: Vec::new(),
                spares: Vec::new(),
                now_ns: 0,
            },
        })
    }

    /// Runs until the main thread says stop; returns the book.
    pub(in crate::io) fn run(mut self) -> io::Result<Ledger> {
        let control = self.control.clone();
        loop {
            self.carrier.wait(self.sleep())?;
            let mut stats = control.stats(self.desk.setup.index);
            self.desk.now_ns = Clock.now_ns();
            stats.row = self.desk.plan.window.row(self.desk.now_ns);
            let phase = control.phase();
            if phase == Phase::Stop {
                self.leave(&mut stats);
                self.write_journal(&mut stats);
                return Ok(self.desk.ledger);
            }
            self.install(&mut stats);
            self.send_due(&mut stats);
            self.timers_due(&mut stats);
            self.look(&mut stats);
            self.dial(&mut stats);
            self.flush(&mut stats);
            if phase == Phase::Deliver {
                let is_settled = self.is_settled();
                control.settled[self.desk.setup.index].store(is_settled, Ordering::SeqCst);
            }
            self.write_journal(&mut stats);
            stats.violations = self.desk.ledger.violations().counts();
        }
    }

    /// How long nothing is due, unless something happens.
    fn sleep(&self) -> Duration {
        let now_ns = Clock.now_ns();
        if !self.dirty.is_empty() {
            return Duration::ZERO;
        }
        let timer_ns = self.timers.peek().map_or(u64::MAX, |Reverse((due_ns, ..))| *due_ns);
        let send_ns = self.next_send_ns().unwrap_or(u64::MAX);
        let open_ns = self.next_open_ns().unwrap_or(u64::MAX);
        let due_ns = timer_ns.min(send_ns).min(open_ns).min(now_ns + LOOK_MS * 1_000_000);
        Duration::from_nanos(due_ns.saturating_sub(now_ns))
    }

    fn next_send_ns(&self) -> Option<u64> {
        let next_ns = self.schedule.as_ref()?.next_ns();
        let due_ns = self.desk.plan.window.start_ns.saturating_add(next_ns);
        (!self.has_sent_all && due_ns < self.control.stop_ns.load(Ordering::SeqCst)).then_some(due_ns)
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
            if let Some(local) = self.draw_sender() {
                self.send_one(local, stats, intended_ns, stop_ns);
            }
        }
        if self.desk.now_ns >= stop_ns && self.next_send_ns().is_none() {
            self.has_sent_all = true;
            self.control.sent_all.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Anybody, except for those whom the scenario keeps away: who is not there writes nothing. That is decided by the scenario
    /// and not by how the server does, so the loop stays open.
    fn draw_sender(&mut self) -> Option<u32> {
        let mut drawn = None;
        for _ in 0..DRAWS_MAX {
            let place = self.desk.setup.prng.index(self.senders.len());
            drawn = self.senders.get(place).copied();
            let client = drawn.and_then(|local| self.clients.get(local as usize));
            if !client.is_some_and(|client| client.is_away) {
                break;
            }
        }
        drawn
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
        let window = &self.desk.plan.window;
        stats.series.at(window.row(intended_ns)).intended_count += 1;
        if let Some(step) = window.step(intended_ns, intended_ns) {
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
        for _ in 0..TIMERS_MAX {
            let next = self.timers.peek_mut().filter(|next| next.0.0 <= self.desk.now_ns);
            let Some(Reverse((_, local, due))) = next.map(PeekMut::pop) else { return };
            let Some(client) = self.clients.get_mut(local as usize) else { continue };
            match due {
                Due::Connect => {
                    client.is_away = false;
                    self.backlog.push_back(local);
                }
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
                    self.beat_in(local, interval_ns);
                    self.mark(local);
                }
                Due::Retry(n) => {
                    client.session.retry(&mut self.desk.turn(stats, &mut client.out), u64::from(n));
                    self.mark(local);
                }
                Due::Read(generation) if generation == client.generation => self.sip(local, stats),
                Due::Cut { away_ms } if !matches!(client.stage, Stage::Closed) => {
                    client.come_back_ms = away_ms;
                    client.is_away = away_ms.is_some();
                    self.lose(local, stats, CUT_TROUBLE);
                }
                Due::Opening(_) | Due::Heartbeat(_) | Due::Read(_) | Due::Cut { .. } => {}
            }
        }
    }

    /// The next heartbeat of a client, in so long or a little later.
    fn beat_in(&mut self, local: u32, wait_ns: u64) {
        let Some(client) = self.clients.get(local as usize) else { return };
        let due_ns = (self.desk.now_ns + wait_ns).next_multiple_of(GRID_NS);
        self.timers.push(Reverse((due_ns, local, Due::Heartbeat(client.generation))));
    }

    /// Looks at what happened to sockets.
    fn look(&mut self, stats: &mut Stats) {
        let mut input = std::mem::take(&mut self.input);
        for _ in 0..EVENTS_MAX {
            let Some((local, event)) = self.carrier.next(&mut input) else { break };
            self.happened(local, event, &input, stats);
        }
        self.input = input;
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
        for local in 0..self.desk.setup.clients {
            let Some(client) = self.clients.get_mut(local as usize).filter(|client| client.is_live) else {
                continue;
            };
            client.session.bye(&mut self.desk.turn(stats, &mut client.out));
            let key = (self.desk.setup.prng.next_u64() as u32).to_le_bytes();
            append_client_frame(&mut client.out, Opcode::Close, &close_payload(1000, ""), key);
            // Whoever does not take it finds out when the socket closes.
            let _ = self.write(local);
        }
        let _ = self.carrier.wait(Duration::ZERO);
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

/// A connection that a storm of the scenario cut.
const CUT_TROUBLE: &str = "cut by the scenario";

/// A journal that cannot be written makes the run invalid.
pub(in crate::io) const JOURNAL_TROUBLE: &str = "the journal cannot be written";
