//! A ring of receive buffers that the kernel takes from.

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// What the kernel wants the entries aligned to.
const PAGE_BYTES: usize = 4_096;

/// See the module. Its memory is never given back: it is the kernel's as long as the process runs.
pub struct Buffers {
    entries: *mut BufRingEntry,
    buffers: *mut u8,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl Buffers {
    /// The only group that a ring here has.
    pub const GROUP: u16 = 0;

    /// `count` buffers, a power of two, all provided.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn register(ring: &IoUring, count: u16, buffer_bytes: u32) -> std::io::Result<Buffers> {
        assert!(count.is_power_of_two(), "as the kernel wants it");
        let mut buffers = Buffers {
            entries: region(usize::from(count) * size_of::<BufRingEntry>()).cast(),
            buffers: region(usize::from(count) * buffer_bytes as usize),
            count,
            buffer_bytes,
            tail: 0,
        };
        (0..count).for_each(|buffer| buffers.give_back(buffer));
        // SAFETY: the entries live as long as the process.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries as u64,
                count,
                Buffers::GROUP,
                0,
            )?;
        }
        Ok(buffers)
    }

    /// The first bytes of a buffer that a completion named, until it is given back.
    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(
            buffer < self.count && length <= self.buffer_bytes as usize,
            "the kernel names buffers of ours"
        );
        // SAFETY: inside the region, initialized when it was allocated, and not the kernel's until it is given back, which
        // needs this mutably.
        unsafe { std::slice::from_raw_parts(self.buffer(buffer), length) }
    }

    fn buffer(&self, buffer: u16) -> *mut u8 {
        // SAFETY: callers name buffers below the count.
        unsafe { self.buffers.add(usize::from(buffer) * self.buffer_bytes as usize) }
    }

    /// Leaves a buffer to the kernel.
    pub fn give_back(&mut self, buffer: u16) {
        assert!(buffer < self.count, "one of ours");
        let address = self.buffer(buffer) as u64;
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: inside the region; the kernel reads no entry at or behind the tail. The fields are set one by one, because
        // the tail lies in the first entry.
        unsafe {
            let entry = &mut *self.entries.add(place);
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: an aligned `u16` in the first entry, which the kernel only reads.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed pages, for good.
fn region(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes.max(PAGE_BYTES), PAGE_BYTES).expect("of ordinary size");
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    assert!(!start.is_null(), "memory");
    start
}
