//! One ring: requests in, completions out. With the [`pool`](super::pool) the only place of the generator that has `unsafe`;
//! everything that it offers is safe to call, whatever is asked in whatever order.
//!
//! # Invariants
//! - What the kernel reads or writes for a request belongs to the ring from the request to its last completion: parcels by
//!   their place, addresses as long as the ring lives, receive buffers until they are emptied.
//! - A request is never lost: what finds no room in the submission queue waits in a queue of its own and goes first. Nor is
//!   a completion: what the completion queue has no room for the kernel keeps (`IORING_FEAT_NODROP`).
//! - The requests of a dial are submitted together: a chain ends where a submission does.
//! - Cancelling is by token, never by descriptor, which the kernel would search for among everything that is armed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{DestinationSlot, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::place::Watch;
use super::pool::Pool;
use crate::io::carrier::{Dial, LITTLE_BYTES};

/// The group of our receive buffers; a ring has one.
const BUFFER_GROUP: u16 = 0;
/// What an address of either family takes (`struct sockaddr_in6`).
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Requests of a dial: a socket, its two options, its own address, the server's.
const DIAL_REQUESTS_MAX: usize = 5;

/// Values of socket options, where the kernel may read them at any time.
static ON: libc::c_int = 1;
static LITTLE: libc::c_int = LITTLE_BYTES as libc::c_int;

/// How large the parts of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::io::carrier) struct Sizes {
    /// Requests that are submitted at a time; the completion queue has room for twice as many. A power of two, and room for
    /// a dial.
    pub(in crate::io::carrier) entries: u32,
    /// Receive buffers. A power of two.
    pub(in crate::io::carrier) buffers: u16,
    /// Bytes of each.
    pub(in crate::io::carrier) buffer_bytes: u32,
}

impl Sizes {
    /// A megabyte of buffers, which is 50 bytes a client where a ring is full of them.
    pub(in crate::io::carrier) const USUAL: Sizes =
        Sizes { entries: 1_024, buffers: 1_024, buffer_bytes: 1_024 };
}

/// What a request is about: comes back with its completions, and is what it is cancelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Dial,
    Receive,
    Send,
    Option,
    Close,
    Cancel,
}

const KINDS: [Kind; 6] = [Kind::Dial, Kind::Receive, Kind::Send, Kind::Option, Kind::Close, Kind::Cancel];

const fn token(kind: Kind, slot: u32) -> u64 {
    ((kind as u64) << 32) | slot as u64
}

/// What became of a request, or what it brought this time.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) kind: Kind,
    pub(super) slot: u32,
    pub(super) result: Result<u32, Errno>,
    /// Whether nothing more comes of the request.
    pub(super) is_last: bool,
    /// The receive buffer that it fills.
    buffer: Option<u16>,
}

impl Completion {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    fn of(entry: &cqueue::Entry) -> Completion {
        let (user_data, result) = (entry.user_data(), entry.result());
        Completion {
            // Only tokens of ours go in.
            kind: KINDS.get((user_data >> 32) as usize).copied().unwrap_or(Kind::Cancel),
            slot: user_data as u32,
            result: u32::try_from(result).map_err(|_| Errno::from_raw_os_error(result.wrapping_neg())),
            is_last: !cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        }
    }

    /// Whether the kernel is done with memory of ours.
    fn ends_a_borrow(&self) -> bool {
        self.is_last && matches!(self.kind, Kind::Receive | Kind::Send)
    }
}

/// An address as the kernel wants it.
struct Name {
    bytes: [u8; NAME_BYTES],
    length: libc::socklen_t,
    family: libc::c_int,
}

impl Name {
    fn of(address: &SocketAddr) -> Name {
        let mut bytes = [0; NAME_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        let (family, length) = match address {
            SocketAddr::V4(_) => (libc::AF_INET, size_of::<libc::sockaddr_in>()),
            SocketAddr::V6(_) => (libc::AF_INET6, size_of::<libc::sockaddr_in6>()),
        };
        put(&(family as libc::sa_family_t).to_ne_bytes());
        put(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => put(&address.ip().octets()),
            SocketAddr::V6(address) => {
                put(&address.flowinfo().to_be_bytes());
                put(&address.ip().octets());
                put(&address.scope_id().to_ne_bytes());
            }
        }
        Name { bytes, length: length as libc::socklen_t, family }
    }

    fn address(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }
}

/// What is sent, until the kernel has answered.
#[derive(Debug, Default)]
struct Parcel {
    bytes: Vec<u8>,
    /// So many of them are out.
    sent_bytes: u32,
}

/// A request that waits for room.
struct Waiting {
    entry: squeue::Entry,
    /// Of the first of a chain, how many requests that is; of the others 0.
    chain_count: usize,
}

/// See the module.
pub(super) struct Ring {
    // First, because what is dropped first is the ring, and then what its requests used.
    uring: IoUring,
    pool: Pool,
    /// Sends under way, by place.
    parcels: Vec<Parcel>,
    /// Every address that was dialled, or dialled from: servers, and as many of our own as loopback has for us.
    names: BTreeMap<SocketAddr, Box<Name>>,
    /// Receives and sends under way: whether the kernel may still use our memory.
    borrows_count: usize,
    /// Requests that found no room in the submission queue. At most a few for each place.
    backlog: VecDeque<Waiting>,
    /// Completions that nobody has taken yet. A few for each place.
    completions: VecDeque<Completion>,
}

impl Ring {
    /// A ring for the calling thread, with a table of so many empty places.
    pub(super) fn new(sizes: Sizes, places_count: u32) -> io::Result<Ring> {
        assert!(sizes.entries as usize >= DIAL_REQUESTS_MAX, "a dial is submitted whole");
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            // Without it the library cannot know that work waits, and leaves it there when it only submits.
            .setup_taskrun_flag()
            .setup_submit_all()
            .dontfork()
            .build(sizes.entries)?;
        // A table of none is refused.
        uring.submitter().register_files_sparse(places_count.max(1))?;
        let pool = Pool::new(sizes.buffers, sizes.buffer_bytes);
        // SAFETY: the entries are the pool's, which lives as long as the ring (or is leaked with it).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                pool.entries_address(),
                sizes.buffers,
                BUFFER_GROUP,
                0,
            )?;
        }
        Ok(Ring {
            uring,
            pool,
            parcels: (0..places_count).map(|_| Parcel::default()).collect(),
            names: BTreeMap::new(),
            borrows_count: 0,
            backlog: VecDeque::new(),
            completions: VecDeque::new(),
        })
    }

    /// Whether this kernel, and whoever confines this process, allows everything that is needed.
    pub(super) fn probe() -> io::Result<()> {
        let ring = Ring::new(Sizes { entries: 8, buffers: 8, buffer_bytes: 64 }, 8)?;
        let mut probe = Probe::new();
        ring.uring.submitter().register_probe(&mut probe)?;
        // The youngest of what is asked for.
        if !probe.is_supported(opcode::Bind::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it needs Linux 6.11 or later"));
        }
        Ok(())
    }

    /// Makes a socket in an empty place and connects it: one completion.
    pub(super) fn dial(&mut self, slot: u32, dial: &Dial) {
        let Ok(destination) = DestinationSlot::try_from_slot_target(slot) else { return };
        let (server, family) = {
            let name = self.name(&dial.server);
            ((name.address(), name.length), name.family)
        };
        let source = dial.source.map(|address| {
            let name = self.name(&address);
            (name.address(), name.length)
        });
        let mut entries = vec![
            opcode::Socket::new(family, libc::SOCK_STREAM, libc::IPPROTO_TCP)
                .file_index(Some(destination))
                .build(),
            option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, &ON),
        ];
        if dial.holds_little {
            entries.push(option(slot, libc::SOL_SOCKET, libc::SO_RCVBUF, &LITTLE));
        }
        if let Some((address, length)) = source {
            entries.push(opcode::Bind::new(Fixed(slot), address, length).build());
        }
        // Only the last of them is heard of; or the first that fails, and then none behind it.
        for entry in &mut entries {
            *entry = entry.clone().flags(Flags::IO_LINK | Flags::SKIP_SUCCESS);
        }
        let (address, length) = server;
        entries.push(opcode::Connect::new(Fixed(slot), address, length).build());
        self.push(Kind::Dial, slot, entries);
    }

    fn name(&mut self, address: &SocketAddr) -> &Name {
        self.names.entry(*address).or_insert_with(|| Box::new(Name::of(address)))
    }

    /// Has the kernel hold little that nobody has read.
    pub(super) fn hold_little(&mut self, slot: u32) {
        let entry = option(slot, libc::SOL_SOCKET, libc::SO_RCVBUF, &LITTLE);
        self.push(Kind::Option, slot, [entry]);
    }

    /// Receives into the ring's buffers.
    pub(super) fn receive(&mut self, slot: u32, watch: Watch) {
        let entry = match watch {
            Watch::Always => opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build(),
            Watch::Sip(bytes) => opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), bytes)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(Flags::BUFFER_SELECT),
        };
        self.borrows_count += 1;
        self.push(Kind::Receive, slot, [entry]);
    }

    /// Copies what a receive brought, and has its buffer filled again. Returns how many bytes that were.
    pub(super) fn received(&mut self, completion: &Completion, input: &mut [u8]) -> usize {
        let Some(buffer) = completion.buffer else { return 0 };
        self.pool.empty(buffer, completion.result.map_or(0, |bytes| bytes as usize), input)
    }

    /// Sends these bytes, and leaves an empty buffer in their place. They come back with [`Ring::sent`].
    ///
    /// # Panics
    /// When a send is under way on that place.
    pub(super) fn send(&mut self, slot: u32, bytes: &mut Vec<u8>) {
        let parcel = &mut self.parcels[slot as usize];
        assert!(parcel.bytes.is_empty(), "one send at a time");
        std::mem::swap(&mut parcel.bytes, bytes);
        parcel.sent_bytes = 0;
        self.send_on(slot);
    }

    /// Sends what is left of a parcel.
    fn send_on(&mut self, slot: u32) {
        let parcel = &self.parcels[slot as usize];
        let left = parcel.bytes.get(parcel.sent_bytes as usize..).unwrap_or_default();
        let length = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fixed(slot), left.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build();
        self.borrows_count += 1;
        self.push(Kind::Send, slot, [entry]);
    }

    /// A send was completed: the buffer, if everything is out or `goes_on` is not wanted; else the rest is sent.
    pub(super) fn sent(&mut self, completion: &Completion, goes_on: bool) -> Option<Vec<u8>> {
        let parcel = self.parcels.get_mut(completion.slot as usize)?;
        parcel.sent_bytes = parcel.sent_bytes.saturating_add(completion.result.unwrap_or(0));
        if goes_on && (parcel.sent_bytes as usize) < parcel.bytes.len() {
            self.send_on(completion.slot);
            return None;
        }
        let mut bytes = std::mem::take(&mut parcel.bytes);
        bytes.clear();
        Some(bytes)
    }

    /// Empties a place of the table. The socket goes with it only if nothing is under way on it.
    pub(super) fn close(&mut self, slot: u32) {
        self.push(Kind::Close, slot, [opcode::Close::new(Fixed(slot)).build()]);
    }

    /// Ends a request early; its last completion comes all the same.
    pub(super) fn cancel(&mut self, kind: Kind, slot: u32) {
        self.push(Kind::Cancel, slot, [opcode::AsyncCancel::new(token(kind, slot)).build()]);
    }

    fn push(&mut self, kind: Kind, slot: u32, entries: impl AsMut<[squeue::Entry]>) {
        let mut entries = entries;
        let entries = entries.as_mut();
        for entry in &mut *entries {
            *entry = entry.clone().user_data(token(kind, slot));
        }
        // SAFETY: all memory that an entry points to is owned as the invariants say, and does not move: it is static, behind
        // a box, a parcel's, or in the pool. Descriptors that are closed meanwhile make the request fail, no more.
        if self.backlog.is_empty() && unsafe { self.uring.submission().push_multiple(entries) }.is_ok() {
            return;
        }
        let counts = std::iter::once(entries.len()).chain(std::iter::repeat(0));
        let waiting = entries.iter().cloned().zip(counts);
        self.backlog.extend(waiting.map(|(entry, chain_count)| Waiting { entry, chain_count }));
    }

    /// Moves what waits into the submission queue. Whether all of it found room.
    fn load(&mut self) -> bool {
        let mut submission = self.uring.submission();
        while let Some(Waiting { entry, chain_count }) = self.backlog.front() {
            let has_room = submission.capacity() - submission.len() >= (*chain_count).max(1);
            // SAFETY: as in `push`.
            if !has_room || unsafe { submission.push(entry) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Submits everything that was asked for, and looks for what is completed; when nothing is, waits until something is, no
    /// longer than `timeout`.
    pub(super) fn enter(&mut self, timeout: Duration) -> io::Result<()> {
        while !self.load() {
            if !self.submit_batch()? {
                // The kernel is short of something: the rest goes with the next turn.
                break;
            }
        }
        let is_idle = self.completions.is_empty() && self.uring.completion().is_empty();
        let submission = self.uring.submission();
        let has_work = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if is_idle && !timeout.is_zero() {
            let timespec = Timespec::from(timeout);
            let arguments = SubmitArgs::new().timespec(&timespec);
            is_taken(self.uring.submitter().submit_with_args(1, &arguments))?;
        } else if has_work {
            is_taken(self.uring.submitter().submit())?;
        }
        self.collect();
        Ok(())
    }

    fn submit_batch(&mut self) -> io::Result<bool> {
        // Room for what the batch completes at once.
        self.collect();
        is_taken(self.uring.submitter().submit())
    }

    fn collect(&mut self) {
        for entry in self.uring.completion() {
            let completion = Completion::of(&entry);
            self.borrows_count -= usize::from(completion.ends_a_borrow());
            self.completions.push_back(completion);
        }
    }

    /// What was completed next.
    pub(super) fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }
}

fn option(slot: u32, level: libc::c_int, name: libc::c_int, value: &'static libc::c_int) -> squeue::Entry {
    let address = (&raw const *value).cast();
    opcode::SetSockOpt::new(Fixed(slot), level as u32, name as u32, address, size_of_val(value) as u32)
        .build()
}

/// What a call into the kernel came to. `false`: it is short of memory, or wants completions to be taken first.
fn is_taken(submitted: io::Result<usize>) -> io::Result<bool> {
    match submitted.map_err(|error| (Errno::from_io_error(&error), error)) {
        // Its time is over, or a signal came: what was submitted is submitted.
        Ok(_) | Err((Some(Errno::TIME | Errno::INTR), _)) => Ok(true),
        Err((Some(Errno::AGAIN | Errno::BUSY), _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.borrows_count > 0 {
            // The kernel ends what is under way after the ring is closed, at a time of its own: until then the memory is its.
            std::mem::forget(std::mem::take(&mut self.parcels));
            self.pool.leak();
        }
    }
}
