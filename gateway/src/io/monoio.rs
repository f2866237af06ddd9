//! The portable driver, and with what lies below it the only place that knows monoio: readiness comes from monoio (io_uring, or epoll where
//! io_uring is refused), bytes are moved by plain non-blocking calls into one buffer that the whole shard shares.
//!
//! A connection is one small task that waits for `readable`, reports it, and waits to be told to go on; so an idle
//! connection owns its task and its slot and no buffer. The shard's own task takes everything that was reported since,
//! as one turn.
//!
//! # Invariants
//! - A socket is read only inside a turn, at most [`READ_BYTES`] a connection and turn, and armed again afterwards, unless
//!   the shard paused it.
//! - A socket that is closed is shut down first, which ends its task; the descriptor goes with the last of the two.

mod fair;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use carillon_link::doorbell::Doorbell;
use carillon_protocol::time::Time;
use monoio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use fair::{Gate, Turnstile, yield_once};

use super::partings::Partings;
use super::station::{Sent, Sockets, Station};
use super::{HandedOff, Parts};
use crate::turn::{ConnectionId, Handed, Input, Service};

/// Bytes read from one connection in one turn: the shard's shared buffer.
const READ_BYTES: usize = 64 * 1024;
/// Slices of one vectored send; Linux takes 1,024 (`UIO_MAXIOV`), more than fit a socket buffer here.
const SLICES_MAX: usize = 64;
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN_MAX: usize = 256;
/// Completions taken in one turn; the rest waits for the next. Enough to share a turn's cost, and few enough that what
/// the turn decides leaves within a millisecond.
const COMPLETIONS_PER_TURN_MAX: usize = 512;
/// How long accepting rests when the process has no descriptors left (F28).
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Entries of the submission ring: also how many polls can be armed in one system call.
const RING_ENTRIES: u32 = 1_024;

/// Which of monoio's drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

/// Whether the kernel, or whoever confines this process, lets monoio have a ring.
pub(super) fn probe_uring() -> Result<(), String> {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(8)
        .build()
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Runs one shard until it is drained.
pub(super) fn run(engine: Engine, parts: Parts<impl Service>) -> std::io::Result<()> {
    match engine {
        Engine::Uring => monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()?
            .block_on(serve(parts)),
        Engine::Epoll => monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()?
            .block_on(serve(parts)),
    }
}

/// What the tasks of a shard report to its own task.
#[derive(Clone, Copy, Debug)]
enum Completion {
    Acceptable,
    Readable(ConnectionId),
    Writable(ConnectionId),
    Rung,
}

/// Shared by all tasks of one shard; they run on one thread, so nothing here is locked.
#[derive(Default)]
struct Reports {
    completions: RefCell<VecDeque<Completion>>,
    waker: RefCell<Option<Waker>>,
}

impl Reports {
    fn put(&self, completion: Completion) {
        self.completions.borrow_mut().push_back(completion);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Until there is something.
    async fn some(&self) {
        poll_fn(|context| {
            if self.completions.borrow().is_empty() {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

/// Where a connection's task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// Waiting for `readable`.
    Armed,
    /// It was readable; the task waits to be told to go on.
    Reported,
    /// Told to go on.
    Again,
    /// Told to end.
    Ended,
}

/// One socket, shared by its task and the table.
struct Socket {
    stream: TcpStream,
    watch: Cell<Watch>,
    waker: RefCell<Option<Waker>>,
}

impl Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        borrow(&self.stream)
    }

    fn tell(&self, watch: Watch) {
        self.watch.set(watch);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// What a slot of the table holds beside the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    is_paused: bool,
    is_closing: bool,
    is_lingering: bool,
    awaits_writable: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    socket: Option<Rc<Socket>>,
    flags: Flags,
}

/// The sockets of a shard.
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    partings: Partings,
    closed: Vec<ConnectionId>,
    reports: Rc<Reports>,
    hand_off: tokio::sync::mpsc::Sender<HandedOff>,
    now: Time,
}

async fn serve(parts: Parts<impl Service>) -> std::io::Result<()> {
    let Parts { mut station, listener, doorbell, connections_max, hand_off, drain, mut meters } = parts;
    let reports = Rc::new(Reports::default());
    listener.set_nonblocking(true)?;
    let may_accept = Rc::new(Gate::default());
    monoio::spawn(watch_listener(listener.try_clone()?, Rc::clone(&reports), Rc::clone(&may_accept)));
    monoio::spawn(watch_doorbell(Arc::clone(&doorbell), Rc::clone(&reports))?);

    let mut table = Table {
        slots: Vec::new(),
        free: Vec::new(),
        count: 0,
        partings: Partings::new(),
        closed: Vec::new(),
        reports: Rc::clone(&reports),
        hand_off,
        now: Time(0),
    };
    let turnstile = Turnstile::new();
    let mut buffer = vec![0_u8; READ_BYTES];
    let mut is_draining = false;
    let mut accept_again_at: Option<Time> = None;
    loop {
        // One turn.
        station.begin();
        table.now = station.now();
        let mut has_more = station.receive_frames();
        if !is_draining && drain.load(std::sync::atomic::Ordering::Acquire) {
            is_draining = true;
            station.input(Input::Drain);
        }
        let taken = reports.completions.borrow().len().min(COMPLETIONS_PER_TURN_MAX);
        for _ in 0..taken {
            let Some(completion) = reports.completions.borrow_mut().pop_front() else { break };
            match completion {
                Completion::Readable(connection) => table.read(connection, &mut buffer, &mut station),
                Completion::Writable(connection) => {
                    table.writable(connection);
                    station.flush(connection, &mut table);
                }
                Completion::Acceptable => {
                    if is_draining {
                        continue;
                    }
                    match table.accept(&listener, connections_max, &mut station) {
                        Accepted::Drained => may_accept.open(),
                        Accepted::More => reports.put(Completion::Acceptable),
                        Accepted::Full => {
                            meters.accept_rests();
                            accept_again_at = Some(station.now().after(ACCEPT_REST));
                        }
                    }
                }
                Completion::Rung => {}
            }
        }
        if accept_again_at.is_some_and(|at| at <= station.now()) {
            accept_again_at = None;
            reports.put(Completion::Acceptable);
        }
        table.let_go(&mut station);
        station.carry_out(&mut table);
        table.report_closed(&mut station);
        meters.turn(&station, taken);
        if station.is_drained() && table.count == 0 {
            meters.end(&station);
            return Ok(());
        }

        // Sleep until something is reported, or the shard's timer is due.
        has_more |= doorbell.arm();
        if has_more || !reports.completions.borrow().is_empty() {
            turnstile.give_way().await;
        } else {
            let mut sleep = station.sleep();
            if accept_again_at.is_some() {
                sleep = sleep.min(ACCEPT_REST);
            }
            if let Some(parting) = table.partings.sleep(table.now) {
                sleep = sleep.min(parting);
            }
            monoio::select! {
                () = reports.some() => {}
                () = monoio::time::sleep(sleep) => {}
            }
        }
        doorbell.drain();
    }
}

async fn watch_listener(listener: TcpListener, reports: Rc<Reports>, gate: Rc<Gate>) {
    let Ok(listener) = monoio::net::TcpListener::from_std(listener) else { return };
    while listener.readable(false).await.is_ok() {
        reports.put(Completion::Acceptable);
        gate.pass().await;
    }
}

/// A task that reports each ring of the doorbell.
///
/// monoio polls only its own types; a stream wrapped around a copy of the descriptor is polled and never read.
fn watch_doorbell(
    doorbell: Arc<Doorbell>,
    reports: Rc<Reports>,
) -> std::io::Result<impl Future<Output = ()>> {
    let copy: OwnedFd = rustix::io::fcntl_dupfd_cloexec(doorbell.as_fd(), 0)?;
    let polled = TcpStream::from_std(std::net::TcpStream::from(copy))?;
    Ok(async move {
        while polled.readable(false).await.is_ok() {
            // Drained here, so that the next `readable` waits for the next ring.
            doorbell.drain();
            reports.put(Completion::Rung);
            yield_once().await;
        }
    })
}

async fn watch_socket(socket: Rc<Socket>, connection: ConnectionId, reports: Rc<Reports>) {
    loop {
        // An error is readable too: the next read says which.
        let _ = socket.stream.readable(false).await;
        if socket.watch.get() == Watch::Ended {
            return;
        }
        socket.watch.set(Watch::Reported);
        reports.put(Completion::Readable(connection));
        let next = poll_fn(|context| match socket.watch.get() {
            Watch::Reported => {
                *socket.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
            told => Poll::Ready(told),
        })
        .await;
        if next == Watch::Ended {
            return;
        }
        socket.watch.set(Watch::Armed);
    }
}

async fn watch_writable(socket: Rc<Socket>, connection: ConnectionId, reports: Rc<Reports>) {
    let _ = socket.stream.writable(false).await;
    reports.put(Completion::Writable(connection));
}

enum Accepted {
    /// Nobody waits any more.
    Drained,
    /// More may wait.
    More,
    /// At the cap, or out of descriptors: the rest waits in the backlog.
    Full,
}

impl Table {
    fn get(&self, connection: ConnectionId) -> Option<&Rc<Socket>> {
        let slot = self.slots.get(connection.slot as usize)?;
        slot.socket.as_ref().filter(|_| slot.generation == connection.generation)
    }

    fn flags(&mut self, connection: ConnectionId) -> Option<&mut Flags> {
        let slot = self.slots.get_mut(connection.slot as usize)?;
        (slot.generation == connection.generation && slot.socket.is_some()).then_some(&mut slot.flags)
    }

    fn accept(
        &mut self,
        listener: &TcpListener,
        connections_max: usize,
        station: &mut Station<impl Service>,
    ) -> Accepted {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            if self.count >= connections_max {
                return Accepted::Full;
            }
            match listener.accept() {
                Ok((stream, address)) => self.insert(stream, address.ip(), station),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Accepted::Drained,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the backlog.
                Err(_) => return Accepted::Full,
            }
        }
        Accepted::More
    }

    fn insert(&mut self, stream: std::net::TcpStream, address: IpAddr, station: &mut Station<impl Service>) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let connection = ConnectionId { slot: index, generation: slot.generation };
        let socket = Rc::new(Socket { stream, watch: Cell::new(Watch::Armed), waker: RefCell::new(None) });
        slot.socket = Some(Rc::clone(&socket));
        slot.flags = Flags::default();
        self.count += 1;
        monoio::spawn(watch_socket(socket, connection, Rc::clone(&self.reports)));
        station.input(Input::Accepted { connection, address });
    }

    fn read(&mut self, connection: ConnectionId, buffer: &mut [u8], station: &mut Station<impl Service>) {
        let Some(socket) = self.get(connection).cloned() else { return };
        let received =
            rustix::net::recv(socket.fd(), &mut *buffer, RecvFlags::DONTWAIT).map(|(count, _)| count);
        match received {
            Ok(0) => self.partings.end(connection),
            Ok(count) => {
                let Some(flags) = self.flags(connection).copied() else { return };
                if !flags.is_closing {
                    station.input(Input::Received {
                        connection,
                        bytes: buffer.get(..count).unwrap_or_default(),
                    });
                }
                if !flags.is_paused {
                    socket.tell(Watch::Again);
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => socket.tell(Watch::Again),
            Err(_) => self.partings.end(connection),
        }
    }

    /// Remembers to report when the socket is writable.
    fn await_writable(&mut self, connection: ConnectionId, socket: Rc<Socket>) {
        let reports = Rc::clone(&self.reports);
        let Some(flags) = self.flags(connection) else { return };
        if !std::mem::replace(&mut flags.awaits_writable, true) {
            monoio::spawn(watch_writable(socket, connection, reports));
        }
    }

    fn writable(&mut self, connection: ConnectionId) {
        if let Some(flags) = self.flags(connection) {
            flags.awaits_writable = false;
        }
    }

    /// Lets go of the socket now; the shard hears `Closed` at the end of the turn.
    fn drop_socket(&mut self, connection: ConnectionId) {
        let Some(slot) = self.slots.get_mut(connection.slot as usize) else { return };
        if slot.generation != connection.generation {
            return;
        }
        let Some(socket) = slot.socket.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(connection.slot);
        self.count -= 1;
        // Wakes the task when it waits for `readable`; it then sees that it has ended.
        let _ = rustix::net::shutdown(socket.fd(), Shutdown::Both);
        socket.tell(Watch::Ended);
        self.closed.push(connection);
    }

    /// Lets go of those whose time has come.
    fn let_go(&mut self, station: &mut Station<impl Service>) {
        for connection in self.partings.due(self.now) {
            self.drop_socket(connection);
        }
        self.report_closed(station);
    }

    fn report_closed(&mut self, station: &mut Station<impl Service>) {
        for connection in self.closed.drain(..) {
            station.input(Input::Closed { connection });
        }
    }
}

impl Sockets for Table {
    fn send<'a>(
        &mut self,
        connection: ConnectionId,
        pieces: impl Iterator<Item = &'a Bytes> + Clone,
    ) -> Sent {
        let Some(socket) = self.get(connection).cloned() else { return Sent::Broken };
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut bytes) = (0, 0);
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
            bytes += piece.len();
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match slices.get(..count).unwrap_or_default() {
            [one] => rustix::net::send(socket.fd(), one, flags),
            many => rustix::net::sendmsg(socket.fd(), many, &mut Default::default(), flags),
        };
        let sent = match sent {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(_) => return Sent::Broken,
        };
        if sent < bytes {
            self.await_writable(connection, socket);
        }
        Sent::Bytes(sent)
    }

    fn is_blocked(&self, connection: ConnectionId) -> bool {
        let slot = self.slots.get(connection.slot as usize);
        slot.is_some_and(|slot| slot.generation == connection.generation && slot.flags.awaits_writable)
    }

    fn depart(&mut self) {
        // A send is a system call of its own here: it has left.
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(flags) = self.flags(connection) {
            flags.is_paused = true;
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        let Some(flags) = self.flags(connection) else { return };
        if std::mem::take(&mut flags.is_paused)
            && let Some(socket) = self.get(connection)
            && socket.watch.get() == Watch::Reported
        {
            // Bytes that came meanwhile make it readable at once.
            socket.tell(Watch::Again);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(flags) = self.flags(connection) else { return };
        if !std::mem::replace(&mut flags.is_closing, true) {
            flags.is_paused = false;
            self.partings.linger(self.now, connection);
            if let Some(socket) = self.get(connection)
                && socket.watch.get() == Watch::Reported
            {
                socket.tell(Watch::Again);
            }
        }
    }

    fn emptied(&mut self, connection: ConnectionId) {
        let Some(flags) = self.flags(connection) else { return };
        if flags.is_closing && !std::mem::replace(&mut flags.is_lingering, true) {
            // Half-closed: the peer reads our close frame to its end, and we discard what it still sends, because closing
            // with unread bytes would reset the connection and take the close frame with it.
            if let Some(socket) = self.get(connection) {
                let _ = rustix::net::shutdown(socket.fd(), Shutdown::Write);
            }
        }
    }

    fn hand_off(&mut self, connection: ConnectionId, handed: Box<Handed>) {
        let Some(socket) = self.get(connection).cloned() else { return };
        let copy = rustix::io::fcntl_dupfd_cloexec(socket.fd(), 0);
        let Some(slot) = self.slots.get_mut(connection.slot as usize) else { return };
        slot.socket = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(connection.slot);
        self.count -= 1;
        // The task waits for its verdict on the bytes that led here, so it ends without touching the socket.
        socket.tell(Watch::Ended);
        if let Ok(copy) = copy {
            let stream = std::net::TcpStream::from(copy);
            // A full queue (the HTTP server is overloaded) drops the connection: the client sees a reset and tries again.
            if stream.set_nonblocking(true).is_ok() {
                let _ = self.hand_off.try_send(HandedOff { stream, handed });
            }
        }
    }
}

/// The descriptor of a stream that is alive as long as the borrow.
#[expect(unsafe_code, reason = "monoio 0.2 implements AsRawFd but not AsFd for its stream")]
fn borrow(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: `stream` owns the descriptor and outlives the returned borrow.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
