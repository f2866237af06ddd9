//! The receive buffers of a ring. The kernel takes one when bytes have come, so an idle socket owns none.
//!
//! # Invariants
//! - A buffer is the kernel's from the moment it is provided until a completion names it, and ours from then until it is
//!   provided again.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// What the kernel wants the entries aligned to.
const PAGE_BYTES: usize = 4_096;

/// Memory that two parties use, of which the compiler knows one.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(bytes: usize) -> Region {
        let layout = Layout::from_size_align(bytes.max(PAGE_BYTES), PAGE_BYTES).expect("of ordinary size");
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        Region { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody uses it any more: see `Pool::leak`.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// See the module.
pub(super) struct Pool {
    memory: Option<(Region, Region)>,
    /// What the kernel takes from; its tail lies in the first entry.
    entries: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    /// How many were provided, ever.
    tail: u16,
}

impl Pool {
    /// `count` buffers, a power of two, all provided.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Pool {
        assert!(count.is_power_of_two(), "the kernel counts in powers of two");
        let entries = Region::new(usize::from(count) * size_of::<BufRingEntry>());
        let buffers = Region::new(usize::from(count) * buffer_bytes as usize);
        let mut pool = Pool {
            entries: entries.start.cast(),
            buffers: buffers.start,
            memory: Some((entries, buffers)),
            count,
            buffer_bytes,
            tail: 0,
        };
        for buffer in 0..count {
            pool.provide(buffer);
        }
        pool
    }

    /// For the kernel.
    pub(super) fn entries_address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Copies the first `length` bytes of a buffer that a completion named, as far as there is room, and provides it again.
    /// Returns how many bytes that were.
    pub(super) fn empty(&mut self, buffer: u16, length: usize, into: &mut [u8]) -> usize {
        let length = length.min(self.buffer_bytes as usize).min(into.len());
        // SAFETY: inside the region, initialized since it was allocated, and ours: a completion is taken once, and named it.
        let bytes = unsafe { std::slice::from_raw_parts(self.buffer(buffer), length) };
        into[..length].copy_from_slice(bytes);
        self.provide(buffer);
        length
    }

    fn buffer(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < self.count, "the kernel names buffers of ours");
        // SAFETY: inside the region, as was just checked.
        unsafe { self.buffers.as_ptr().add(usize::from(buffer) * self.buffer_bytes as usize) }
    }

    fn provide(&mut self, buffer: u16) {
        let address = self.buffer(buffer) as u64;
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: inside the region; the kernel reads no entry at or behind the tail, and there are never more buffers
        // provided than there are entries. The fields are set one by one, because the tail lies in the first entry.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned `u16` in the first entry, which the kernel only reads.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Leaves the memory to the kernel for good.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.memory.take());
    }
}
