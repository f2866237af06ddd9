//! Sockets by completion: direct descriptors in a ring's table, which cost the process none of its own; receives that stay
//! armed; and everything that a turn came to in one call.
//!
//! # Invariants
//! - A client's place in the table is its number, so nothing has to be looked up, and what belongs to an old connection of
//!   its own is over before a new one is dialled ([`place`]).
//! - The ring is made and used by its engine's thread alone.

#![expect(unsafe_code, reason = "the kernel reads and writes our memory while requests are under way")]

mod place;
mod pool;
mod ring;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use place::{Place, Step};
pub(super) use ring::Sizes;
use ring::{Completion, Kind, Ring};
use rustix::io::Errno;

use super::{Carrier, Dial, ENDED, Event};

/// Buffers that are kept for the next sends; more than that were needed for a crowd.
const SPARES_MAX: usize = 256;
/// Larger ones are not kept.
const SPARE_BYTES_MAX: usize = 64 * 1024;

/// Whether the kernel, or whoever confines this process, lets it have such a ring.
pub(super) fn probe() -> Result<(), String> {
    Ring::probe().map_err(|error| error.to_string())
}

#[derive(Debug, Default)]
struct Socket {
    place: Place,
    is_touched: bool,
    /// Something waits for room.
    is_awaited: bool,
}

/// What each client costs here beside its buffers under way; the ring has a parcel of 32 bytes for it.
const _: () = assert!(size_of::<Socket>() <= 24);

/// See the module.
pub(super) struct Uring {
    ring: Ring,
    sockets: Vec<Socket>,
    /// Where those are to go that are not under way yet.
    dials: BTreeMap<u32, Dial>,
    /// Those that something happened to since the ring was last asked.
    touched: Vec<u32>,
    spares: Vec<Vec<u8>>,
}

impl Uring {
    pub(super) fn new(sizes: Sizes, sockets_max: u32) -> io::Result<Uring> {
        let ring = Ring::new(sizes, sockets_max).map_err(|error| {
            let words = format!("no ring with {sockets_max} places ({error}): use --io epoll");
            io::Error::new(error.kind(), words)
        })?;
        Ok(Uring {
            ring,
            sockets: (0..sockets_max).map(|_| Socket::default()).collect(),
            dials: BTreeMap::new(),
            touched: Vec::new(),
            spares: Vec::new(),
        })
    }

    /// Has the socket in a place change.
    fn change<R>(&mut self, slot: u32, change: impl FnOnce(&mut Place) -> R) -> Option<R> {
        let socket = self.sockets.get_mut(slot as usize)?;
        if !std::mem::replace(&mut socket.is_touched, true) {
            self.touched.push(slot);
        }
        Some(change(&mut socket.place))
    }

    /// Asks the ring for everything that was decided.
    fn ask(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            let Some(socket) = self.sockets.get_mut(slot as usize) else { continue };
            socket.is_touched = false;
            while let Some(step) = socket.place.next() {
                let ring = &mut self.ring;
                match step {
                    Step::Dial => {
                        if let Some(dial) = self.dials.remove(&slot) {
                            ring.dial(slot, &dial);
                        }
                    }
                    Step::Receive(watch) => ring.receive(slot, watch),
                    Step::HoldLittle => ring.hold_little(slot),
                    Step::CancelDial => ring.cancel(Kind::Dial, slot),
                    Step::CancelReceive => ring.cancel(Kind::Receive, slot),
                    Step::CancelSend => ring.cancel(Kind::Send, slot),
                    Step::Close => ring.close(slot),
                }
            }
        }
    }

    /// What a completion tells, if it is for the engine.
    fn complete(&mut self, completion: &Completion, input: &mut [u8]) -> Option<Event> {
        match completion.kind {
            Kind::Dial => self.dialled(completion),
            Kind::Receive => self.received(completion, input),
            Kind::Send => self.sent(completion),
            Kind::Close => {
                self.change(completion.slot, Place::closed);
                None
            }
            Kind::Option | Kind::Cancel => None,
        }
    }

    fn dialled(&mut self, completion: &Completion) -> Option<Event> {
        let is_heard = self.change(completion.slot, |place| place.is_heard())?;
        let is_news = self.change(completion.slot, |place| place.dialled(completion.result.is_ok()))?;
        match completion.result {
            Ok(_) => is_news.then_some(Event::Connected),
            Err(error) => is_heard.then(|| ended(error)),
        }
    }

    fn received(&mut self, completion: &Completion, input: &mut [u8]) -> Option<Event> {
        let bytes = self.ring.received(completion, input);
        let is_last = completion.is_last;
        let is_heard = self.change(completion.slot, |place| place.received(bytes > 0, is_last))?;
        let event = match completion.result {
            Ok(0) => Event::Ended(ENDED.to_owned()),
            Ok(_) => Event::Received { bytes },
            // Asked for again when the ring is, and by then buffers have been emptied.
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::NOBUFS) => return None,
            Err(error) => ended(error),
        };
        if matches!(event, Event::Ended(_)) {
            self.change(completion.slot, Place::ended);
        }
        is_heard.then_some(event)
    }

    fn sent(&mut self, completion: &Completion) -> Option<Event> {
        let slot = completion.slot;
        let is_open = self.sockets.get(slot as usize).is_some_and(|socket| socket.place.is_open());
        let is_in_order = matches!(
            completion.result,
            Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
        );
        let spare = self.ring.sent(completion, is_open && is_in_order)?;
        if self.spares.len() < SPARES_MAX && spare.capacity() <= SPARE_BYTES_MAX {
            self.spares.push(spare);
        }
        self.change(slot, Place::sent);
        let is_awaited = self.sockets.get_mut(slot as usize).map(|it| std::mem::take(&mut it.is_awaited));
        match completion.result {
            Err(error) if is_open && error != Errno::CANCELED => Some(ended(error)),
            _ => (is_open && is_awaited == Some(true)).then_some(Event::Room),
        }
    }
}

fn ended(error: Errno) -> Event {
    Event::Ended(io::Error::from(error).kind().to_string())
}

impl Carrier for Uring {
    fn dial(&mut self, local: u32, dial: &Dial) -> io::Result<()> {
        self.dials.insert(local, *dial);
        self.change(local, Place::dial);
        Ok(())
    }

    fn send(&mut self, local: u32, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(local as usize) else { return Ok(()) };
        if out.is_empty() || !socket.place.is_open() {
            return Ok(());
        }
        socket.is_awaited = !socket.place.takes();
        if socket.is_awaited {
            return Ok(());
        }
        self.ring.send(local, out);
        if let Some(spare) = self.spares.pop() {
            *out = spare;
        }
        self.change(local, Place::sending);
        Ok(())
    }

    fn sip(&mut self, local: u32, sip_bytes: Option<u32>) -> io::Result<()> {
        self.change(local, |place| place.sip(sip_bytes));
        Ok(())
    }

    fn close(&mut self, local: u32) {
        self.dials.remove(&local);
        self.change(local, Place::close);
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.ask();
        self.ring.enter(timeout)
    }

    fn next(&mut self, input: &mut [u8]) -> Option<(u32, Event)> {
        while let Some(completion) = self.ring.next() {
            if let Some(event) = self.complete(&completion, input) {
                return Some((completion.slot, event));
            }
        }
        None
    }
}
