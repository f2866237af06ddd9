//! A service, which is a shard, and what joins it to the world, without the driver: the part of a turn that is the same whatever moves the
//! bytes. A driver owns one [`Station`], hands it what completed, and lends it the sockets to carry the outputs out.

use std::time::Duration;

use bytes::Bytes;
use carillon_node::clock::Clock;
use carillon_protocol::time::{Time, WallMs};

use super::link::Lanes;
use crate::counters::Counters;
use crate::turn::{ConnectionId, Handed, Input, Output, Service};

/// The longest sleep: wall time moves on and idle work is done at least this often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The kernel took so many bytes. When it was not everything, the socket is blocked, and the driver calls
    /// [`Station::flush`] again once it is not.
    Bytes(usize),
    /// The kernel was asked and has not answered yet. Until then the socket is blocked; the driver tells the shard what was
    /// sent, and calls [`Station::flush`] again.
    UnderWay,
    /// The socket is broken.
    Broken,
}

/// The sockets of a driver, as a station uses them.
pub(super) trait Sockets {
    /// Sends of these pieces, in order, what is taken without waiting. The payloads are shared: a driver that needs them
    /// longer than this call keeps handles of its own.
    fn send<'a>(&mut self, connection: ConnectionId, pieces: impl Iterator<Item = &'a Bytes> + Clone)
    -> Sent;
    /// Whether nothing more can be sent until the driver flushes the connection by itself.
    fn is_blocked(&self, connection: ConnectionId) -> bool;
    /// Lets everything go that was sent so far: what follows in this turn may take a while.
    fn depart(&mut self);
    /// Stops reading.
    fn pause(&mut self, connection: ConnectionId);
    /// Reads again.
    fn resume(&mut self, connection: ConnectionId);
    /// Nothing more will be queued: once `flush` has emptied it, shuts down, lingers and closes.
    fn close(&mut self, connection: ConnectionId);
    /// Everything queued is out.
    fn emptied(&mut self, connection: ConnectionId);
    /// Gives the socket to the HTTP server.
    fn hand_off(&mut self, connection: ConnectionId, handed: Box<Handed>);
}

/// One service, its lanes and its clock.
pub(super) struct Station<S> {
    service: S,
    lanes: Lanes,
    clock: Clock,
    now: Time,
    wall: WallMs,
    is_drained: bool,
}

impl<S: Service> Station<S> {
    pub(super) fn new(service: S, lanes: Lanes, clock: Clock) -> Station<S> {
        let mut station = Station { service, lanes, clock, now: Time(0), wall: WallMs(0), is_drained: false };
        station.begin();
        station
    }

    /// Begins a turn: reads the clock, once.
    pub(super) fn begin(&mut self) {
        self.now = Time(self.clock.now_ns());
        self.wall = WallMs(self.clock.wall_ms());
    }

    /// Something happened.
    pub(super) fn input(&mut self, input: Input<'_>) {
        self.service.handle(self.now, self.wall, input);
    }

    /// Takes what came over the lanes. `true`: there is more.
    pub(super) fn receive_frames(&mut self) -> bool {
        let (service, now, wall) = (&mut self.service, self.now, self.wall);
        self.lanes.receive(|input| service.handle(now, wall, input))
    }

    /// Carries out what the service decided, then lets the lanes go.
    pub(super) fn carry_out(&mut self, sockets: &mut impl Sockets) {
        self.service.handle(self.now, self.wall, Input::Tick);
        while let Some(output) = self.service.poll_output() {
            match output {
                Output::Yield => {
                    self.lanes.flush();
                    sockets.depart();
                    std::thread::yield_now();
                }
                Output::Flush { connection } => self.flush(connection, sockets),
                Output::Link { router, frame } => {
                    if let Some(frame) = self.lanes.send(router, frame) {
                        self.service.keep_frame(frame);
                    }
                }
                Output::CloseLane { router } => self.lanes.close(router),
                Output::Meet { address } => self.lanes.meet(&address),
                Output::Part { router } => self.lanes.part(router),
                Output::Pause { connection } => sockets.pause(connection),
                Output::Resume { connection } => sockets.resume(connection),
                Output::Close { connection } => {
                    sockets.close(connection);
                    self.flush(connection, sockets);
                }
                Output::HandOff { connection, handed } => sockets.hand_off(connection, handed),
                Output::Drained => self.is_drained = true,
            }
        }
        self.lanes.flush();
    }

    /// Sends what is pending on one connection, as far as it goes.
    pub(super) fn flush(&mut self, connection: ConnectionId, sockets: &mut impl Sockets) {
        while !sockets.is_blocked(connection) {
            let pieces = self.service.pending(connection);
            if pieces.clone().all(Bytes::is_empty) {
                sockets.emptied(connection);
                return;
            }
            match sockets.send(connection, pieces) {
                Sent::Bytes(bytes) if bytes > 0 => self.input(Input::Sent { connection, bytes }),
                Sent::Bytes(_) | Sent::UnderWay => {}
                Sent::Broken => {
                    sockets.close(connection);
                    self.input(Input::Closed { connection });
                    return;
                }
            }
        }
    }

    /// How long the driver may sleep when nothing happens.
    pub(super) fn sleep(&self) -> Duration {
        if self.lanes.has_broken() {
            return Duration::ZERO;
        }
        let now = Time(self.clock.now_ns());
        self.service.poll_timeout().map_or(SLEEP_MAX, |due| due.since(now).min(SLEEP_MAX))
    }

    /// Whether the service has closed everything after a drain.
    pub(super) fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// The turn's time.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// For the metrics page.
    pub(super) fn counters(&self) -> Counters {
        self.service.counters()
    }

    /// For the metrics page.
    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }
}
