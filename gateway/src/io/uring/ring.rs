//! One ring: requests in, completions out. With what lies below it the only place of this driver that has `unsafe`; everything
//! that it offers is safe to call, whatever is asked in whatever order.
//!
//! # Invariants
//! - What the kernel reads or writes for a request belongs to the ring from the request to its last completion: parcels by
//!   their slot, names by their slot, receive buffers until they are given back.
//! - A request is never lost: what finds no room in the submission queue waits in a queue of its own and goes first. Nor is
//!   a completion: what the completion queue has no room for the kernel keeps (`IORING_FEAT_NODROP`).
//! - Cancelling is by token, never by descriptor, which the kernel would search for among everything that is armed.

#![expect(unsafe_code, reason = "the kernel reads and writes our memory while requests are under way")]

mod pool;
#[cfg(test)]
mod tests;

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use carillon_node::exit::Fatal;
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::parcel::{Form, Parcel};
use super::socket::Watch;
use super::token::{Completion, Filled, Kind, Token};
use crate::settings::Io;
use pool::Pool;

/// The group of our receive buffers; a ring has one.
const BUFFER_GROUP: u16 = 0;
/// What an address of either family takes (`struct sockaddr_in6`).
const NAME_BYTES: usize = 28;

/// How large the parts of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::io) struct Sizes {
    /// Requests that are submitted at a time; the completion queue has room for twice as many. A power of two.
    pub(in crate::io) entries: u32,
    /// Receive buffers. A power of two.
    pub(in crate::io) buffers: u16,
    /// Bytes of each.
    pub(in crate::io) buffer_bytes: u32,
}

impl Sizes {
    /// As the settings say.
    ///
    /// # Errors
    /// Status 2 when no ring can be like that.
    pub(in crate::io) fn of(io: &Io) -> Result<Sizes, Fatal> {
        let check = |key, is_valid, what| {
            let refused = || Fatal::config(format!("io.{key} has to be {what}"));
            if is_valid { Ok(()) } else { Err(refused()) }
        };
        let Io { ring_entries: entries, ring_buffers: buffers, ring_buffer_bytes: buffer_bytes, .. } = *io;
        let is_power = entries.is_power_of_two() && (8..=4_096).contains(&entries);
        check("ring_entries", is_power, "a power of two from 8 to 4096")?;
        check("ring_buffers", buffers.is_power_of_two(), "a power of two up to 32768")?;
        check("ring_buffer_bytes", (64..=65_536).contains(&buffer_bytes), "from 64 to 65536")?;
        Ok(Sizes { entries, buffers, buffer_bytes })
    }

    /// The same, or smaller where the process may have few descriptors: at most half of the places that its table can have are
    /// kept free.
    pub(in crate::io) fn fitted(mut self, descriptors_max: usize) -> Sizes {
        while self.entries > 8 && self.completions_max() > descriptors_max / 2 {
            self.entries /= 2;
        }
        self
    }

    /// Completions that the kernel can report before somebody takes them.
    pub(super) const fn completions_max(self) -> usize {
        self.entries as usize * 2
    }
}

/// See the module.
pub(super) struct Ring {
    // First, because what is dropped first is the ring, and then what its requests used.
    uring: IoUring,
    pool: Pool,
    /// Sends under way, by slot.
    parcels: Vec<Option<Box<Parcel>>>,
    /// Questions for a peer's address that are under way, by slot.
    names: BTreeMap<u32, Box<UnsafeCell<[u8; NAME_BYTES]>>>,
    /// Receives, sends and questions under way: whether the kernel may still use our memory.
    borrows_count: usize,
    /// Requests that found no room in the submission queue. At most a few for each descriptor.
    backlog: VecDeque<squeue::Entry>,
    /// Completions that were moved to make room for those of the next batch. A few for each descriptor.
    stash: VecDeque<Completion>,
    /// Whether connections that were accepted are among them.
    is_accept_stashed: bool,
    overflows_count: u64,
}

impl Ring {
    /// A ring for the calling thread, with a table of `descriptors_max` empty places.
    pub(super) fn new(sizes: Sizes, descriptors_max: u32) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            // Without it the library cannot know that work waits, and leaves it there when it only submits.
            .setup_taskrun_flag()
            .setup_submit_all()
            .dontfork()
            .build(sizes.entries)?;
        uring.submitter().register_files_sparse(descriptors_max)?;
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
            // Not in memory before there are so many: better than growing, which leaves all earlier ones behind.
            parcels: Vec::with_capacity(descriptors_max as usize),
            names: BTreeMap::new(),
            borrows_count: 0,
            backlog: VecDeque::new(),
            stash: VecDeque::new(),
            is_accept_stashed: false,
            overflows_count: 0,
        })
    }

    /// Whether this kernel, and whoever confines this process, allows everything that the driver needs.
    pub(super) fn probe() -> io::Result<()> {
        let ring = Ring::new(Sizes { entries: 8, buffers: 8, buffer_bytes: 64 }, 8)?;
        let mut probe = Probe::new();
        ring.uring.submitter().register_probe(&mut probe)?;
        // The youngest of what is asked for: since Linux 6.8.
        if !probe.is_supported(opcode::FixedFdInstall::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it needs Linux 6.8 or later"));
        }
        Ok(())
    }

    /// Accepts connections into free places of the table, until it is cancelled or fails.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
        self.push(Token::single(Kind::Accept), entry.build());
    }

    /// Reports each ring of a bell.
    pub(super) fn watch(&mut self, bell: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(Fd(bell.as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.push(Token::single(Kind::Bell), entry.build());
    }

    /// Asks for the address of a slot's peer, of a connection to a listener of that family.
    pub(super) fn ask_name(&mut self, slot: u32, is_ipv4: bool) {
        let name = self.names.entry(slot).or_default();
        // Asked for more than the family has, the kernel answers EINVAL.
        let name_bytes =
            if is_ipv4 { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() };
        const { assert!(size_of::<libc::sockaddr_in6>() <= NAME_BYTES) };
        let entry = opcode::GetSockOpt::new(
            Fixed(slot),
            libc::SOL_SOCKET as u32,
            libc::SO_PEERNAME as u32,
            name.get().cast(),
            name_bytes as u32,
        );
        self.borrows_count += 1;
        self.push(Token { kind: Kind::Name, slot }, entry.build());
    }

    /// The answer to [`Ring::ask_name`], which this completes.
    pub(super) fn name(&mut self, completion: &Completion) -> Option<IpAddr> {
        let slot = completion.is_about(Kind::Name)?;
        let name = self.names.remove(&slot)?.into_inner();
        completion.result.ok()?;
        let family = libc::c_int::from(u16::from_ne_bytes([name[0], name[1]]));
        match family {
            libc::AF_INET => name[4..].first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
            libc::AF_INET6 => name[8..].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
            _ => None,
        }
    }

    /// Receives into the ring's buffers, one of them or on and on.
    pub(super) fn receive(&mut self, slot: u32, watch: Watch) {
        let entry = match watch {
            Watch::Once => opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Watch::Always => opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build(),
        };
        self.borrows_count += 1;
        self.push(Token { kind: Kind::Receive, slot }, entry);
    }

    /// What a receive brought.
    pub(super) fn received<'a>(&'a self, completion: &'a Completion) -> &'a [u8] {
        match (completion.result, &completion.buffer) {
            (Ok(bytes), Some(buffer)) => self.pool.bytes(buffer, bytes as usize),
            _ => &[],
        }
    }

    /// A buffer that is not needed any more.
    pub(super) fn give_back(&mut self, buffer: Filled) {
        self.pool.give_back(buffer);
    }

    /// Sends what is in a parcel; it comes back from [`Ring::sent`].
    ///
    /// # Panics
    /// When one is under way on that slot.
    pub(super) fn send(&mut self, slot: u32, parcel: Box<Parcel>) {
        let place = slot as usize;
        if self.parcels.len() <= place {
            self.parcels.resize_with(place + 1, || None);
        }
        let entry = match parcel.form() {
            Form::One(bytes) => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                opcode::Send::new(Fixed(slot), bytes.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build()
            }
            Form::Many(head) => {
                opcode::SendMsg::new(Fixed(slot), head).flags(libc::MSG_NOSIGNAL as u32).build()
            }
        };
        let before = self.parcels[place].replace(parcel);
        assert!(before.is_none(), "one send at a time");
        self.borrows_count += 1;
        self.push(Token { kind: Kind::Send, slot }, entry);
    }

    /// The parcel of the send that this completes.
    pub(super) fn sent(&mut self, completion: &Completion) -> Option<Box<Parcel>> {
        let slot = completion.is_about(Kind::Send)?;
        self.parcels.get_mut(slot as usize)?.take()
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn half_close(&mut self, slot: u32) {
        let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR);
        self.push(Token { kind: Kind::Shutdown, slot }, entry.build());
    }

    /// Makes an ordinary descriptor of the same socket; it comes as the result, for [`Ring::installed`].
    pub(super) fn install(&mut self, slot: u32) {
        let entry = opcode::FixedFdInstall::new(Fixed(slot), 0);
        self.push(Token { kind: Kind::Install, slot }, entry.build());
    }

    /// The descriptor that was made.
    pub(super) fn installed(completion: &Completion) -> Option<OwnedFd> {
        completion.is_about(Kind::Install)?;
        let descriptor = i32::try_from(completion.result.ok()?).ok()?;
        // SAFETY: the kernel made it for this completion, and a completion is taken once.
        Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Empties a place of the table. The socket goes with it only if nothing is under way on it.
    pub(super) fn close(&mut self, slot: u32) {
        self.push(Token { kind: Kind::Close, slot }, opcode::Close::new(Fixed(slot)).build());
    }

    /// Ends a request early; its last completion comes all the same.
    pub(super) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.pack());
        self.push(Token { kind: Kind::Cancel, slot: token.slot }, entry.build());
    }

    fn push(&mut self, token: Token, entry: squeue::Entry) {
        let entry = entry.user_data(token.pack());
        // SAFETY: all memory that an entry points to is owned as the invariants say, and does not move: it is behind a box
        // or in the pool. Descriptors that are closed meanwhile make the request fail, no more.
        if !self.backlog.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Moves what waits into the submission queue. Whether all of it found room.
    fn load(&mut self) -> bool {
        let mut submission = self.uring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { submission.push(entry) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Submits what was asked for, and does not look for what is completed meanwhile: nothing is accepted or received by it,
    /// however many batches it takes.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        if self.submit_all_but_last()? {
            self.submit_batch()?;
        }
        Ok(())
    }

    /// Until the last batch is in the submission queue. `false`: the kernel wants completions to be taken first; the rest goes
    /// with the next turn.
    fn submit_all_but_last(&mut self) -> io::Result<bool> {
        while !self.load() {
            if !self.submit_batch()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn submit_batch(&mut self) -> io::Result<bool> {
        // Room for what the batch completes at once.
        for entry in self.uring.completion() {
            let completion = Completion::of(&entry);
            self.is_accept_stashed |= completion.token.kind == Kind::Accept;
            self.stash.push_back(completion);
        }
        let count = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed, and the flags ask for nothing but the submission.
        let submitted = unsafe { self.uring.submitter().enter::<libc::sigset_t>(count, 0, 0, None) };
        is_taken(submitted)
    }

    /// Submits everything that was asked for, looks for what is completed, and waits until something is, no longer than
    /// `timeout`.
    pub(super) fn enter(&mut self, timeout: Duration) -> io::Result<()> {
        self.submit_all_but_last()?;
        if std::mem::take(&mut self.is_accept_stashed) {
            // It would fill the completion queue once more with connections that nobody has counted: see the door's reserve.
            self.cancel(Token::single(Kind::Accept));
            self.submit_all_but_last()?;
        }
        let is_idle = self.stash.is_empty() && self.uring.completion().is_empty();
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
        self.overflows_count += u64::from(self.uring.submission().cq_overflow());
        Ok(())
    }

    /// Takes what was completed, up to `completions_max` of it.
    pub(super) fn take(&mut self, completions: &mut Vec<Completion>, completions_max: usize) {
        let before = completions.len();
        let stashed = self.stash.len().min(completions_max);
        completions.extend(self.stash.drain(..stashed));
        let fresh =
            self.uring.completion().take(completions_max - stashed).map(|entry| Completion::of(&entry));
        completions.extend(fresh);
        let ended = completions.iter().skip(before).filter(|completion| completion.ends_a_borrow());
        self.borrows_count -= ended.count();
    }

    /// How often the completion queue was too small.
    pub(super) fn overflows_count(&self) -> u64 {
        self.overflows_count
    }
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
            std::mem::forget((std::mem::take(&mut self.parcels), std::mem::take(&mut self.names)));
            self.pool.leak();
        }
    }
}

/// The head of a message to nobody in particular: the socket is connected.
pub(super) fn message_head(slices: *mut libc::iovec, slices_count: usize) -> libc::msghdr {
    // SAFETY: a C structure of integers and pointers, for which all zeroes are valid.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = slices;
    head.msg_iovlen = slices_count as _;
    head
}
