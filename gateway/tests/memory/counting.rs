//! An allocator that counts, for each thread by itself: tests run side by side.

#![expect(unsafe_code, reason = "an allocator is unsafe by its nature; this one hands everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

thread_local! {
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { times: 0, bytes: 0 }) };
}

/// What was taken from the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How often, growing included.
    pub(crate) times: u64,
    /// Bytes, less what was given back.
    pub(crate) bytes: i64,
}

/// What `work` takes from the allocator.
pub(crate) fn taken<R>(work: impl FnOnce() -> R) -> (R, Taken) {
    let before = TAKEN.get();
    let result = work();
    let after = TAKEN.get();
    (result, Taken { times: after.times - before.times, bytes: after.bytes - before.bytes })
}

fn count(times: u64, bytes: usize, bytes_back: usize) {
    let Taken { times: before, bytes: held } = TAKEN.get();
    TAKEN.set(Taken { times: before + times, bytes: held + bytes as i64 - bytes_back as i64 });
}

// SAFETY: everything is the system's allocator's; counting touches a cell that needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(1, bytes, layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(start, layout, bytes) }
    }
}

/// The counter counts: else nothing here could fail.
#[test]
fn what_is_taken_is_counted() {
    let (kept, once) = taken(|| vec![0_u8; 100]);
    assert_eq!(once, Taken { times: 1, bytes: 100 });
    let (longer, grown) = taken(|| {
        let mut longer = kept;
        longer.reserve_exact(900);
        longer
    });
    assert_eq!(grown, Taken { times: 1, bytes: 900 });
    assert_eq!(taken(|| drop(longer)).1, Taken { times: 0, bytes: -1_000 });
}
