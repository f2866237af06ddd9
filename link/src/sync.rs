//! What two threads share in this crate, from one place, so that loom can stand in for it: built with `--cfg carillon_loom` every
//! order in which two threads may see each other's writes is gone through (`src/model_tests.rs`).
//!
//! (The name is our own because crates we depend on know `--cfg loom` as theirs.)

#[cfg(not(carillon_loom))]
pub(crate) use rtrb::chunks::ReadChunk;
#[cfg(not(carillon_loom))]
pub(crate) use rtrb::{Consumer, Producer, RingBuffer};
#[cfg(not(carillon_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(carillon_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(carillon_loom)]
pub(crate) use words::{Consumer, Producer, ReadChunk, RingBuffer};

/// As much of rtrb as a lane uses, with the orderings of its source: positions are published by a release store and looked at by an
/// acquire load. Words themselves are relaxed atomics, so one that is read without an order to its write shows as an old one.
#[cfg(carillon_loom)]
mod words {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::{AtomicU64, AtomicUsize, Ordering};

    struct Words {
        head: AtomicUsize,
        tail: AtomicUsize,
        words: Vec<AtomicU64>,
    }

    impl Words {
        fn at(&self, position: usize) -> &AtomicU64 {
            &self.words[position % self.words.len()]
        }
    }

    pub(crate) struct RingBuffer;

    impl RingBuffer {
        #[expect(clippy::new_ret_no_self, reason = "as rtrb has it")]
        pub(crate) fn new(capacity: usize) -> (Producer<u64>, Consumer<u64>) {
            let words = Arc::new(Words {
                head: AtomicUsize::new(0),
                tail: AtomicUsize::new(0),
                words: (0..capacity).map(|_| AtomicU64::new(u64::MAX)).collect(),
            });
            let producer = Producer {
                words: Arc::clone(&words),
                tail: 0,
                head_seen: Cell::new(0),
                _of: std::marker::PhantomData,
            };
            (
                producer,
                Consumer {
                    words,
                    head: 0,
                    tail_seen: Cell::new(0),
                    peeked: 0,
                    _of: std::marker::PhantomData,
                },
            )
        }
    }

    pub(crate) struct Producer<T> {
        words: Arc<Words>,
        tail: usize,
        head_seen: Cell<usize>,
        _of: std::marker::PhantomData<T>,
    }

    impl Producer<u64> {
        pub(crate) fn slots(&self) -> usize {
            self.head_seen.set(self.words.head.load(Ordering::Acquire));
            self.cached_slots()
        }

        pub(crate) fn cached_slots(&self) -> usize {
            self.words.words.len() - (self.tail - self.head_seen.get())
        }

        pub(crate) fn push_entire_slice(&mut self, words: &[u64]) -> Result<(), ()> {
            let chunk = self.write_chunk_uninit(words.len())?;
            chunk.fill_from_iter(words.iter().copied());
            Ok(())
        }

        pub(crate) fn write_chunk(&mut self, count: usize) -> Result<WriteChunk<'_>, ()> {
            self.write_chunk_uninit(count)
        }

        pub(crate) fn write_chunk_uninit(&mut self, count: usize) -> Result<WriteChunk<'_>, ()> {
            let fits = self.cached_slots() >= count || self.slots() >= count;
            if fits { Ok(WriteChunk { of: self, count }) } else { Err(()) }
        }
    }

    pub(crate) struct WriteChunk<'a> {
        of: &'a mut Producer<u64>,
        count: usize,
    }

    impl WriteChunk<'_> {
        pub(crate) fn commit_all(self) {
            let count = self.count;
            self.fill_from_iter(std::iter::repeat_n(0, count));
        }

        pub(crate) fn fill_from_iter(self, words: impl IntoIterator<Item = u64>) -> usize {
            let of = self.of;
            let mut count = 0;
            for word in words.into_iter().take(self.count) {
                of.words.at(of.tail + count).store(word, Ordering::Relaxed);
                count += 1;
            }
            of.tail += count;
            of.words.tail.store(of.tail, Ordering::Release);
            count
        }
    }

    pub(crate) struct Consumer<T> {
        words: Arc<Words>,
        head: usize,
        tail_seen: Cell<usize>,
        peeked: u64,
        _of: std::marker::PhantomData<T>,
    }

    impl Consumer<u64> {
        pub(crate) fn slots(&self) -> usize {
            self.tail_seen.set(self.words.tail.load(Ordering::Acquire));
            self.tail_seen.get() - self.head
        }

        pub(crate) fn peek(&mut self) -> Result<&u64, ()> {
            if self.tail_seen.get() == self.head && self.slots() == 0 {
                return Err(());
            }
            self.peeked = self.words.at(self.head).load(Ordering::Relaxed);
            Ok(&self.peeked)
        }

        pub(crate) fn read_chunk(&mut self, count: usize) -> Result<ReadChunk<'_, u64>, ()> {
            if self.tail_seen.get() - self.head < count && self.slots() < count {
                return Err(());
            }
            let to_end = self.words.words.len() - self.head % self.words.words.len();
            let word = |offset| self.words.at(self.head + offset).load(Ordering::Relaxed);
            let first = (0..count.min(to_end)).map(word).collect();
            let second = (count.min(to_end)..count).map(word).collect();
            Ok(ReadChunk { of: self, first, second })
        }
    }

    pub(crate) struct ReadChunk<'a, T> {
        of: &'a mut Consumer<T>,
        first: Vec<u64>,
        second: Vec<u64>,
    }

    impl ReadChunk<'_, u64> {
        pub(crate) fn as_slices(&self) -> (&[u64], &[u64]) {
            (&self.first, &self.second)
        }

        pub(crate) fn commit(self, count: usize) {
            self.of.head += count;
            self.of.words.head.store(self.of.head, Ordering::Release);
        }

        pub(crate) fn commit_all(self) {
            let count = self.first.len() + self.second.len();
            self.commit(count);
        }
    }
}
