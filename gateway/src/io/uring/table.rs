//! The sockets of a ring: takes what was completed to the station, and what the station wants to the ring.
//!
//! A connection's name is its place in the ring's table of descriptors, which the kernel chose, and how often that place was
//! used. Whatever happened to a socket in a turn, the ring is asked once, at the end of it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use carillon_link::doorbell::Doorbell;
use carillon_protocol::time::Time;
use rustix::io::Errno;

use super::door::{Door, Order};
use super::parcel::Parcel;
use super::ring::Ring;
use super::socket::{Socket, Step};
use super::token::{Completion, Kind, Token};
use crate::io::HandedOff;
use crate::io::meters::RingEvents;
use crate::io::partings::Partings;
use crate::io::station::{Sent, Sockets, Station};
use crate::turn::{ConnectionId, Handed, Input, Service};

/// Parcels that are kept for the next sends; more than that were needed for a crowd.
const SPARE_PARCELS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    socket: Socket,
    is_touched: bool,
}

/// G13: what a connection takes here, whatever happens to it.
const _: () = assert!(size_of::<Place>() <= 12);

/// See the module.
pub(super) struct Table {
    pub(super) ring: Ring,
    pub(super) door: Door,
    pub(super) partings: Partings,
    pub(super) now: Time,
    listener: TcpListener,
    is_ipv4: bool,
    places: Vec<Place>,
    /// Places that something happened to in this turn.
    touched: Vec<u32>,
    /// Connections whose send was completed in this turn.
    unblocked: Vec<ConnectionId>,
    /// What goes with connections that are on their way to the HTTP server.
    handed: BTreeMap<u32, Box<Handed>>,
    hand_off: tokio::sync::mpsc::Sender<HandedOff>,
    #[expect(clippy::vec_box, reason = "the kernel knows a parcel by its address")]
    spare_parcels: Vec<Box<Parcel>>,
    events: RingEvents,
}

impl Table {
    pub(super) fn new(
        ring: Ring,
        door: Door,
        listener: TcpListener,
        places_max: usize,
        hand_off: tokio::sync::mpsc::Sender<HandedOff>,
    ) -> std::io::Result<Table> {
        Ok(Table {
            ring,
            door,
            partings: Partings::new(),
            events: RingEvents::default(),
            now: Time(0),
            is_ipv4: listener.local_addr()?.is_ipv4(),
            listener,
            places: Vec::with_capacity(places_max),
            touched: Vec::new(),
            unblocked: Vec::new(),
            handed: BTreeMap::new(),
            hand_off,
            spare_parcels: Vec::new(),
        })
    }

    /// Something was completed.
    pub(super) fn complete(
        &mut self,
        completion: Completion,
        bell: &Doorbell,
        station: &mut Station<impl Service>,
    ) {
        let slot = completion.token.slot;
        match completion.token.kind {
            Kind::Accept => self.accepted(&completion),
            Kind::Name => self.named(&completion, station),
            Kind::Receive => self.received(completion, station),
            Kind::Send => self.sent(&completion, station),
            Kind::Install => self.installed(&completion),
            Kind::Close => self.closed(slot),
            // Rung or not, the turn looks at what it is rung for.
            Kind::Bell if completion.is_last => self.ring.watch(bell.as_fd()),
            Kind::Shutdown => {
                self.socket(slot, Socket::half_closed);
            }
            Kind::Bell | Kind::Cancel => {}
        }
    }

    fn accepted(&mut self, completion: &Completion) {
        match completion.result {
            Ok(slot) => self.door.accepted(slot),
            Err(Errno::CANCELED | Errno::CONNABORTED | Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => {
                self.events.places_full += u64::from(errno == Errno::NFILE);
                self.door.failed(self.now);
            }
        }
        if completion.is_last {
            self.door.ended();
        }
    }

    /// Lets in whom there is room for.
    pub(super) fn admit(&mut self) {
        while let Some(slot) = self.door.admit() {
            let place = slot as usize;
            if self.places.len() <= place {
                self.places.resize_with(place + 1, Place::default);
            }
            self.socket(slot, Socket::accepted);
        }
    }

    fn named(&mut self, completion: &Completion, station: &mut Station<impl Service>) {
        let slot = completion.token.slot;
        match self.ring.name(completion) {
            Some(address) => {
                self.socket(slot, Socket::named);
                let connection = self.connection(slot);
                station.input(Input::Accepted { connection, address });
            }
            // It is gone already, and the shard never knew of it.
            None => {
                self.socket(slot, Socket::leave);
            }
        }
    }

    fn received(&mut self, completion: Completion, station: &mut Station<impl Service>) {
        let slot = completion.token.slot;
        let is_wanted = self.socket(slot, |socket| socket.received(completion.is_last));
        match completion.result {
            Ok(0) => self.end(slot),
            Ok(_) if is_wanted == Some(true) => {
                let connection = self.connection(slot);
                station.input(Input::Received { connection, bytes: self.ring.received(&completion) });
            }
            // It came while the receive was being cancelled.
            Ok(_) if let Some(handed) = self.handed.get_mut(&slot) => {
                handed.receive(self.ring.received(&completion));
            }
            Ok(_) | Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            // Asked for again at the end of the turn, when the buffers have come back.
            Err(Errno::NOBUFS) => self.events.buffers_empty += 1,
            Err(_) => self.end(slot),
        }
        if let Some(buffer) = completion.buffer {
            self.ring.give_back(buffer);
        }
    }

    fn sent(&mut self, completion: &Completion, station: &mut Station<impl Service>) {
        let slot = completion.token.slot;
        let Some(parcel) = self.ring.sent(completion) else { return };
        let parcel_bytes = parcel.bytes();
        self.spare(parcel);
        self.socket(slot, Socket::sent);
        let connection = self.connection(slot);
        match completion.result {
            Ok(bytes) => {
                let bytes = bytes as usize;
                self.events.sends_short += u64::from(bytes < parcel_bytes);
                if let Some(handed) = self.handed.get_mut(&slot) {
                    return handed.sent(bytes);
                }
                station.input(Input::Sent { connection, bytes });
                self.unblocked.push(connection);
            }
            Err(Errno::INTR | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => self.unblocked.push(connection),
            Err(Errno::CANCELED) => {}
            Err(_) => self.end(slot),
        }
    }

    fn installed(&mut self, completion: &Completion) {
        let slot = completion.token.slot;
        let handed = self.handed.remove(&slot);
        if let Some((descriptor, handed)) = Ring::installed(completion).zip(handed) {
            let stream = std::net::TcpStream::from(descriptor);
            // A full queue (the HTTP server is overloaded) drops the connection: the client sees a reset and tries again.
            if stream.set_nonblocking(true).is_ok() {
                let _ = self.hand_off.try_send(HandedOff { stream, handed });
            }
        }
        self.socket(slot, Socket::installed);
    }

    fn closed(&mut self, slot: u32) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            place.socket.closed();
            place.generation = place.generation.wrapping_add(1);
            self.door.left();
        }
    }

    /// The peer ended it, or it broke: it goes when it is its turn.
    fn end(&mut self, slot: u32) {
        if self.socket(slot, Socket::end) == Some(true) {
            let connection = self.connection(slot);
            self.partings.end(connection);
        }
    }

    /// Lets go of those whose time has come.
    pub(super) fn let_go(&mut self, station: &mut Station<impl Service>) {
        for connection in self.partings.due(self.now) {
            if self.named_socket(connection, Socket::leave) == Some(true) {
                station.input(Input::Closed { connection });
            }
        }
    }

    /// Sends on where a send was completed: what came meanwhile, and what it left.
    pub(super) fn send_on(&mut self, station: &mut Station<impl Service>) {
        // Taken out for as long as it is gone through: flushing completes nothing, so nobody is added meanwhile.
        let mut unblocked = std::mem::take(&mut self.unblocked);
        for connection in unblocked.drain(..) {
            station.flush(connection, self);
        }
        self.unblocked = unblocked;
    }

    /// Asks the ring for everything that this turn came to.
    pub(super) fn ask(&mut self) {
        for slot in self.touched.drain(..) {
            let Some(place) = self.places.get_mut(slot as usize) else { continue };
            place.is_touched = false;
            while let Some(step) = place.socket.next() {
                let ring = &mut self.ring;
                match step {
                    Step::AskName => ring.ask_name(slot, self.is_ipv4),
                    Step::Receive(watch) => ring.receive(slot, watch),
                    Step::CancelReceive => ring.cancel(Token { kind: Kind::Receive, slot }),
                    Step::CancelSend => ring.cancel(Token { kind: Kind::Send, slot }),
                    Step::HalfClose => ring.half_close(slot),
                    Step::Install => ring.install(slot),
                    Step::Close => ring.close(slot),
                }
            }
        }
        // Last, so that what an accept brings at once is in the same call as what it brings then: see the door's reserve.
        while let Some(order) = self.door.next(self.now) {
            match order {
                Order::Accept => self.ring.accept(self.listener.as_fd()),
                Order::Cancel => self.ring.cancel(Token::single(Kind::Accept)),
            }
        }
    }

    /// What is rare, counted so far.
    pub(super) fn events(&self) -> RingEvents {
        RingEvents {
            accept_rests: self.door.rests_count(),
            completions_full: self.ring.overflows_count(),
            ..self.events
        }
    }

    /// How long the ring may sleep for what this table waits for.
    pub(super) fn sleep(&self) -> Option<Duration> {
        self.partings.sleep(self.now).into_iter().chain(self.door.sleep(self.now)).min()
    }

    /// The connection in a place.
    fn connection(&self, slot: u32) -> ConnectionId {
        let generation = self.places.get(slot as usize).map_or(0, |place| place.generation);
        ConnectionId { slot, generation }
    }

    /// Has the socket in a place change.
    fn socket<R>(&mut self, slot: u32, change: impl FnOnce(&mut Socket) -> R) -> Option<R> {
        let place = self.places.get_mut(slot as usize)?;
        if !std::mem::replace(&mut place.is_touched, true) {
            self.touched.push(slot);
        }
        Some(change(&mut place.socket))
    }

    /// The same, if it is still this connection's.
    fn named_socket<R>(
        &mut self,
        connection: ConnectionId,
        change: impl FnOnce(&mut Socket) -> R,
    ) -> Option<R> {
        let place = self.places.get(connection.slot as usize)?;
        if place.generation != connection.generation {
            return None;
        }
        self.socket(connection.slot, change)
    }

    fn spare(&mut self, mut parcel: Box<Parcel>) {
        parcel.empty();
        if self.spare_parcels.len() < SPARE_PARCELS_MAX && parcel.is_small() {
            self.spare_parcels.push(parcel);
        }
    }
}

impl Sockets for Table {
    fn send<'a>(
        &mut self,
        connection: ConnectionId,
        pieces: impl Iterator<Item = &'a Bytes> + Clone,
    ) -> Sent {
        let mut parcel = self.spare_parcels.pop().unwrap_or_else(|| Box::new(Parcel::new()));
        parcel.fill(pieces);
        self.ring.send(connection.slot, parcel);
        self.named_socket(connection, Socket::sending);
        Sent::UnderWay
    }

    fn is_blocked(&self, connection: ConnectionId) -> bool {
        let place = self.places.get(connection.slot as usize);
        place.is_none_or(|place| place.generation != connection.generation || place.socket.is_blocked())
    }

    fn depart(&mut self) {
        // What is wrong with the ring is wrong at the end of the turn as well.
        let _ = self.ring.submit();
    }

    fn pause(&mut self, connection: ConnectionId) {
        self.named_socket(connection, |socket| socket.pause(true));
    }

    fn resume(&mut self, connection: ConnectionId) {
        self.named_socket(connection, |socket| socket.pause(false));
    }

    fn close(&mut self, connection: ConnectionId) {
        if self.named_socket(connection, Socket::close) == Some(true) {
            self.partings.linger(self.now, connection);
        }
    }

    fn emptied(&mut self, connection: ConnectionId) {
        self.named_socket(connection, Socket::emptied);
    }

    fn hand_off(&mut self, connection: ConnectionId, handed: Box<Handed>) {
        if self.named_socket(connection, Socket::hand_off) == Some(true) {
            self.handed.insert(connection.slot, handed);
        }
    }
}
