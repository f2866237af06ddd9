//! One core's whole world: its connections, their sessions, and the lanes to the routers. A switchboard; what matters
//! lives with its noun ([`crate::session`](self) and below).
//!
//! Drive it as [`crate::turn`] says: [`Shard::handle`] for everything that completed, [`Shard::poll_output`] until
//! `None`, and again no later than [`Shard::poll_timeout`]. After a `Flush` or `Close` the driver sends what
//! [`Shard::pending`] shows, reports each part with `Sent`, and goes on until nothing is pending.
//!
//! # Invariants
//! - Pure: the same inputs at the same times make the same outputs. Chance comes from the seed.
//! - One connection's faults close that connection; its neighbours notice nothing.
//! - A connection's work is settled once a turn, however much happened to it.
//! - A turn takes so many frames of a connection: who sends more holds up itself.

mod connection;
mod crowd;
mod frames;
mod table;
mod upgrade;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carillon_link::Peer;
use carillon_node::tokens::KeyTable;
use carillon_protocol::client::{ServerFrame, Wire, binary, json};
use carillon_protocol::reason::Close;
use carillon_protocol::time::{Time, WallMs};
use carillon_protocol::websocket::{self, Event};
use rkyv::util::AlignedVec;

use crate::common::Common;
use crate::counters::Counters;
use crate::line::Line;
use crate::owners::Welcome;
use crate::roster::Roster;
use crate::session::Session;
use crate::settings::Settings;
use crate::turn::{ConnectionId, Input, Output};
use crate::wheel::Wheel;
use connection::{Connection, Phase};
use crowd::Crowd;
use table::Table;
use upgrade::Upgrade;

/// A timer that fires this late means that the process was paused: clients are not blamed for what was not read (F26).
const PAUSE: Duration = Duration::from_secs(2);
/// How long connections may take to go after the drain's own time, in milliseconds. Then the shard ends without them.
const DRAIN_LINGER_MS: u64 = 2_000;

/// See the module.
pub struct Shard {
    connections: Table,
    /// Held once by each connection that has not said what it wants, and once here.
    handshakes: Arc<()>,
    roster: Roster,
    wheel: Wheel,
    crowd: Crowd,
    common: Common,
    /// Connections that something happened to in this turn.
    dirty: VecDeque<ConnectionId>,
    /// Connections of which more was held than is taken in one turn.
    flooding: Vec<ConnectionId>,
    /// Counts turns.
    turn: u32,
    /// The longest message so far, unmasked: one buffer for all connections.
    scratch: AlignedVec<16>,
    drain: Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// Until then answers are waited for.
    Until(Time),
    /// Everything is closing; the shard ends then at the latest.
    Closing(Time),
    Done,
}

impl Shard {
    /// A shard without connections or lanes. `seed` is where its chance comes from, `epoch` a random number for this life
    /// of the process.
    #[must_use]
    pub fn new(
        settings: Settings,
        keys: Arc<KeyTable>,
        is_development: bool,
        seed: u64,
        epoch: u64,
        shard_number: u16,
    ) -> Shard {
        Shard {
            connections: Table::default(),
            handshakes: Arc::default(),
            roster: Roster::default(),
            wheel: Wheel::default(),
            crowd: Crowd::default(),
            common: Common::new(settings, keys, is_development, seed, epoch, shard_number),
            dirty: VecDeque::new(),
            flooding: Vec::new(),
            turn: 0,
            scratch: AlignedVec::new(),
            drain: Drain::No,
        }
    }

    /// Something happened. `now` is the same for everything of one turn; `wall` is for tokens and for display.
    pub fn handle(&mut self, now: Time, wall: WallMs, input: Input<'_>) {
        (self.common.now, self.common.wall) = (now, wall);
        match input {
            Input::Accepted { connection, address } => {
                let before_count = Arc::strong_count(&self.handshakes) - 1;
                let place = Arc::clone(&self.handshakes);
                let mut accepted = Connection::accepted(connection, address, now, place);
                if self.common.is_draining {
                    accepted.line.is_close_said = true;
                    accepted.line.close(Close::Restart);
                } else if before_count >= self.common.settings.gateway.handshakes_max {
                    accepted.turn_away(&mut self.common);
                }
                self.insert(accepted);
            }
            Input::Named { connection, address } => {
                if let Some(Phase::Handshake(handshake)) =
                    self.connections.get_mut(connection).map(|connection| &mut connection.phase)
                {
                    handshake.address = address;
                }
            }
            Input::Opened { connection, claims } => {
                let mut opened = Connection::opened(connection, claims, &mut self.common);
                if self.common.is_draining {
                    opened.line.close(Close::Restart);
                }
                self.insert(opened);
            }
            Input::Frame { connection, text } => self.frame(connection, text),
            Input::Heard { connection } => {
                if let Some(Phase::Open(_, session)) =
                    self.connections.get_mut(connection).map(|connection| &mut connection.phase)
                {
                    session.heard(now);
                }
            }
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Sent { connection, bytes } => self.sent(connection, bytes),
            Input::Closed { connection } => self.forget(connection),
            Input::LaneUp { router, incarnation } => self.lane_up(router, incarnation),
            Input::LaneFrame { router, frame } => self.lane_frame(router, frame),
            Input::LaneDown { router } => self.lane_down(router),
            Input::Tick => self.tick(),
            Input::Drain => self.drain(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.common.outputs.pop_front() {
                return Some(output);
            }
            if let Some(connection) = self.dirty.pop_front() {
                self.settle(connection);
            } else if self.crowd.takes_its_turn() {
                return Some(Output::Yield);
            } else if self.crowd.is_next() {
                // Whoever was given something is settled next.
                self.slice();
            } else if matches!(self.drain, Drain::Until(_) | Drain::Closing(_))
                && self.connections.count() == 0
            {
                self.drain = Drain::Done;
                return Some(Output::Drained);
            } else {
                self.crowd.end_turn();
                self.turn = self.turn.wrapping_add(1);
                return None;
            }
        }
    }

    /// When something is due, if anything is.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let drain = match self.drain {
            Drain::Until(at) | Drain::Closing(at) => Some(at),
            Drain::No | Drain::Done => None,
        };
        let has_more = !self.crowd.is_empty() || !self.flooding.is_empty();
        let at_once = has_more.then_some(self.common.now);
        self.wheel.next().into_iter().chain(drain).chain(at_once).min()
    }

    /// What waits to be sent on a connection, in order. A driver whose sends outlive the turn keeps its own handle on each
    /// payload: the shard may forget the connection meanwhile.
    pub fn pending(&self, connection: ConnectionId) -> impl Iterator<Item = &Bytes> + Clone {
        self.connections.get(connection).into_iter().flat_map(|connection| connection.line.outbox.pending())
    }

    /// Takes back the memory of a frame that is on its lane ([`Output::Link`]), for another one.
    pub fn keep_frame(&mut self, frame: AlignedVec) {
        self.common.spares.keep_frame(frame);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.common.counters.clone();
        counters.connections = self.connections.count() as u64;
        counters.queued_bytes = self.common.queued_bytes as u64;
        let (owned_count, confirmed_count) = self.common.owners.slots_counts();
        (counters.slots_owned, counters.slots_confirmed) = (owned_count as u64, confirmed_count as u64);
        counters
    }

    /// Whether a frame of an opened connection would be taken now, rather than have to wait.
    #[must_use]
    pub fn takes_frames(&self, connection: ConnectionId) -> bool {
        self.connections
            .get(connection)
            .is_some_and(|known| known.line.closing.is_none() && !known.has_to_wait(&self.common))
    }

    /// Whether a connection is being closed, or was: no frame of it is taken any more.
    #[must_use]
    pub fn is_closing(&self, connection: ConnectionId) -> bool {
        self.connections.get(connection).is_none_or(|known| known.line.closing.is_some())
    }

    fn insert(&mut self, connection: Connection) {
        let id = connection.line.id;
        if let Some(stale) = self.connections.in_slot(id.slot) {
            self.forget(stale);
        }
        self.common.counters.accepted += 1;
        self.connections.insert(connection);
        self.touch(id);
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        let removed = self.connections.remove(id)?;
        self.common.queued_bytes -= removed.line.outbox.bytes();
        Some(removed)
    }

    fn touch(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.common.counters.bytes_in += bytes.len() as u64;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.line.closing.is_some() {
            return;
        }
        match &mut connection.phase {
            Phase::Handshake(_) => match connection.upgrade(bytes, &mut self.common) {
                Upgrade::Pending => {}
                Upgrade::HandOff(handed) => connection.phase = Phase::HandingOff(handed),
                Upgrade::Done(rest) => self.read(id, &rest),
            },
            Phase::Open(..) if connection.held.is_none() => self.read(id, bytes),
            Phase::Open(..) => connection.hold(bytes),
            Phase::HandingOff(handed) => handed.receive(bytes),
            Phase::Closing => return,
        }
        self.touch(id);
    }

    /// One frame of an opened connection.
    fn frame(&mut self, id: ConnectionId, text: &str) {
        self.common.counters.bytes_in += text.len() as u64;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Phase::Open(_, session) = &mut connection.phase else { return };
        if connection.line.closing.is_some() {
            return;
        }
        self.common.counters.frames_in += 1;
        session.heard(self.common.now);
        session.command(json::decode(text), &mut connection.line, &mut self.common);
        enlist(connection, &mut self.roster, &mut self.common);
        self.touch(id);
    }

    /// Reads WebSocket frames until the bytes are used up or the client has to wait.
    fn read(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Shard { connections, common, scratch, roster, turn, .. } = self;
        let Some(connection) = connections.get_mut(id) else { return };
        let mut rest = bytes;
        while !rest.is_empty() && connection.line.closing.is_none() {
            if connection.has_to_wait(common) || connection.is_spent(*turn) {
                connection.hold(rest);
                break;
            }
            connection.count_frames(*turn, 1);
            let Phase::Open(decoder, session) = &mut connection.phase else { return };
            let line = &mut connection.line;
            let event = match decoder.decode(rest, common.settings.limits.frame_bytes, scratch) {
                Ok((used, event)) => {
                    rest = rest.get(used..).unwrap_or(&[]);
                    event
                }
                Err(violation) => {
                    line.close(violation.close());
                    break;
                }
            };
            let Some(event) = event else { continue };
            common.counters.frames_in += 1;
            let mut more_count = 0_u16;
            // What stands between two fragments does not prolong the time that their message has.
            if decoder.is_idle() {
                session.heard(common.now);
            }
            let reply = websocket::reply(&event);
            match (event, line.wire) {
                (Event::Text(text), Wire::Json) => session.command(json::decode(text), line, common),
                (Event::Binary(message), Wire::Rkyv) => {
                    for incoming in binary::decode(message) {
                        session.command(incoming, line, common);
                        more_count = more_count.saturating_add(1);
                        if line.closing.is_some() {
                            break;
                        }
                    }
                }
                (Event::Text(_) | Event::Binary(_), _) => line.close(Close::UnsupportedData),
                (Event::Ping(_) | Event::Pong(_), _) => {}
                (Event::Close { .. }, _) => {
                    line.is_close_said = true;
                    line.close(Close::Bye);
                }
            }
            if let Some(reply) = reply {
                line.answer(common, reply.into());
            }
            connection.count_frames(*turn, more_count);
        }
        enlist(connection, roster, common);
    }

    fn sent(&mut self, id: ConnectionId, bytes: usize) {
        self.common.counters.bytes_out += bytes as u64;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let before_bytes = connection.line.outbox.bytes();
        connection.line.outbox.sent(bytes);
        self.common.queued_bytes -= before_bytes - connection.line.outbox.bytes();
        connection.line.progress_at = self.common.now;
        if matches!(connection.phase, Phase::Closing) {
            if connection.line.outbox.is_empty() {
                self.remove(id);
            }
        } else {
            self.touch(id);
        }
    }

    /// The driver let go of the connection.
    fn forget(&mut self, id: ConnectionId) {
        self.end_session(id);
        self.remove(id);
    }

    /// A session is over, for whatever reason.
    fn end_session(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Phase::Open(_, session) = &mut connection.phase else { return };
        if let Some(user) = session.user()
            && std::mem::replace(&mut connection.is_listed, false)
        {
            self.common.counters.sessions -= 1;
            self.roster.remove(user, id);
        }
        session.end(&connection.line, &mut self.common);
    }

    /// The end of a connection's turn: what it was given is brought on, and the driver is told what to do with it.
    fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.is_dirty = false;
        if matches!(connection.phase, Phase::HandingOff(_)) {
            if let Some(Phase::HandingOff(handed)) = self.remove(id).map(|gone| gone.phase) {
                self.common.outputs.push_back(Output::HandOff { connection: id, handed });
            }
            return;
        }
        loop {
            let Some(connection) = self.connections.get_mut(id) else { return };
            if let Phase::Open(_, session) = &mut connection.phase {
                session.settle(&mut connection.line, &mut self.common);
            }
            // Each round reads at least one frame of what was held.
            if connection.line.closing.is_some() || connection.has_to_wait(&self.common) {
                break;
            }
            if connection.held.is_some() && connection.is_spent(self.turn) {
                if !std::mem::replace(&mut connection.goes_on, true) {
                    self.flooding.push(id);
                }
                break;
            }
            let Some(held) = connection.held.take() else { break };
            self.read(id, &held);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        if let Some(close) = connection.line.closing {
            if !matches!(connection.phase, Phase::Closing) {
                self.close(id, close);
            }
            return;
        }
        let has_to_wait = connection.held.is_some() || connection.has_to_wait(&self.common);
        if has_to_wait != connection.is_paused {
            connection.is_paused = has_to_wait;
            self.common.outputs.push_back(if has_to_wait {
                Output::Pause { connection: id }
            } else {
                Output::Resume { connection: id }
            });
        }
        if std::mem::take(&mut connection.line.is_unflushed) {
            self.common.outputs.push_back(Output::Flush { connection: id });
        }
        if let Some(deadline) = connection.deadline(&self.common).filter(|at| *at < connection.armed_at) {
            connection.armed_at = deadline;
            self.wheel.insert(self.common.now, id, deadline);
        }
    }

    fn close(&mut self, id: ConnectionId, close: Close) {
        self.end_session(id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.line.is_close_said {
            self.common.counters.close(close);
            connection.line.answer(&mut self.common, websocket::close_frame(close).into());
        }
        connection.phase = Phase::Closing;
        connection.held = None;
        let is_empty = connection.line.outbox.is_empty();
        self.common.outputs.push_back(Output::Close { connection: id });
        if is_empty {
            self.remove(id);
        }
    }

    fn lane_up(&mut self, router: Peer, incarnation: u64) {
        match self.common.owners.lane_up(router, incarnation) {
            // What can be asked there it says next.
            Welcome::Yes => self.common.counters.lanes_up += 1,
            Welcome::Instead(other) => {
                self.common.counters.lanes_up += 1;
                self.lane_down(other);
                self.turn_away(other);
            }
            Welcome::Alias => self.turn_away(router),
            Welcome::Full => self.common.outputs.push_back(Output::CloseLane { router }),
        }
    }

    /// Another peer leads to the same router.
    fn turn_away(&mut self, router: Peer) {
        self.common.outputs.push_back(Output::Part { router });
        self.common.outputs.push_back(Output::CloseLane { router });
    }

    fn lane_down(&mut self, router: Peer) {
        if !self.common.owners.lane_down(router) {
            return;
        }
        self.common.counters.lanes_down += 1;
        self.disperse();
        self.common.tails(router).end_life();
        // What has not left is lost as well: on the next lane it would be ahead of what is sent there again (G9).
        self.common
            .outputs
            .retain(|output| !matches!(output, Output::Link { router: other, .. } if *other == router));
        self.each_session(|session, _, _| {
            session.lane_down(router);
            true
        });
        self.common.meet_and_part();
    }

    /// Has every identified session do something; whether it did is what `each` returns.
    fn each_session(&mut self, mut each: impl FnMut(&mut Session, &mut Line, &mut Common) -> bool) {
        for id in self.connections.ids() {
            if let Some(connection) = self.connections.get_mut(id).filter(|connection| connection.is_listed)
                && let Phase::Open(_, session) = &mut connection.phase
                && each(session, &mut connection.line, &mut self.common)
            {
                self.touch(id);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.common.now;
        for id in std::mem::take(&mut self.flooding) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.goes_on = false;
                self.touch(id);
            }
        }
        if self.wheel.next().is_some_and(|due| now.since(due) > PAUSE) {
            self.common.resumed_at = now;
        }
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for (id, at) in due {
            let Some(connection) =
                self.connections.get_mut(id).filter(|connection| connection.armed_at == at)
            else {
                continue;
            };
            connection.armed_at = Time(u64::MAX);
            let is_over = connection.deadline(&self.common).is_some_and(|deadline| deadline <= now);
            match &mut connection.phase {
                Phase::Handshake(_) if is_over => {
                    // Whatever it is, it has not said enough to be answered.
                    connection.line.is_close_said = true;
                    connection.line.close(Close::GoingAway);
                }
                Phase::Open(_, session) if is_over => {
                    session.expire(connection.is_paused, &mut connection.line, &mut self.common);
                }
                _ => {}
            }
            self.touch(id);
        }
        match self.drain {
            Drain::Until(at) if at <= now => {
                self.drain = Drain::Closing(now.after_ms(DRAIN_LINGER_MS));
                self.close_all();
            }
            Drain::Closing(at) if at <= now => {
                for id in self.connections.ids() {
                    self.forget(id);
                }
            }
            _ => {}
        }
    }

    fn drain(&mut self) {
        if self.drain != Drain::No {
            return;
        }
        let now = self.common.now;
        self.common.is_draining = true;
        self.drain = Drain::Until(now.after_ms(self.common.settings.gateway.drain_ms));
        let spread_ms = self.common.settings.gateway.drain_spread_ms;
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            match connection.phase {
                Phase::Handshake(_) => {
                    connection.line.is_close_said = true;
                    connection.line.close(Close::Restart);
                }
                Phase::Open(..) => {
                    let after_ms = self.common.prng.between(0, spread_ms);
                    let reconnect = ServerFrame::Reconnect { after_ms, reason: "drain" };
                    connection.line.say(&mut self.common, &reconnect);
                }
                Phase::HandingOff(_) | Phase::Closing => {}
            }
            self.touch(id);
        }
    }

    fn close_all(&mut self) {
        for id in self.connections.ids() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.line.close(Close::Restart);
                self.touch(id);
            }
        }
    }
}

/// From `identify` on the roster knows whose a connection is.
fn enlist(connection: &mut Connection, roster: &mut Roster, common: &mut Common) {
    if let Phase::Open(_, session) = &connection.phase
        && let Some(user) = session.user()
        && !std::mem::replace(&mut connection.is_listed, true)
    {
        common.counters.sessions += 1;
        roster.add(user, connection.line.id);
    }
}
