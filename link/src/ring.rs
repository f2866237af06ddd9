//! A link lane: two byte rings, one each way, between exactly two threads. Frames are copied in once and read
//! in place.
//!
//! Each ring is an [`rtrb`] ring of 64-bit words. A frame (header of [`framing`], archive, zeros to the next
//! multiple of eight) lies in it as it travels on a wire, so its own header says where the next one begins.
//!
//! # Invariants
//! - A frame never wraps: when it does not fit before the end of the ring, the rest is filled with zero
//!   words, which no header begins with, and it starts at the front. So each frame is contiguous and aligned
//!   to eight bytes.
//! - Only whole frames are published, and a batch of them is given back at once after it was read.
//! - Each end is owned by one thread at a time. Nothing here blocks, allocates (after [`pair`]) or makes a
//!   system call, other than what the [`Wake`]s do.
//!
//! # Who is woken when
//! - *Frames*: the receiver's owner, by [`LaneEnd::flush`], once per batch. An owner that goes to sleep while
//!   frames lie in its ring ([`Received::more`]) is not woken for those again.
//! - *Space*: the sender's owner, once, by the receiver, when enough is free after [`SendError::Full`].
//! - *Close*: the other end's owner, at once.

use std::sync::Arc;

use carillon_protocol::framing;
use carillon_protocol::limits::LINK_FRAME_BYTES_MAX;

use crate::Wake;
use crate::sync::{AtomicBool, AtomicUsize, Consumer, Ordering, Producer, ReadChunk, RingBuffer, fence};

/// Bytes of a word of the ring: the alignment of frames.
const WORD_BYTES: usize = framing::ALIGN;
/// Fills the end of the ring when a frame does not fit there. No header is zero: its first byte is the
/// version.
const SKIP: u64 = 0;
/// A ring is never smaller, whatever was asked for.
const RING_WORDS_MIN: usize = 8;
/// A ring of at least this many bytes takes every legal frame. Pairs that carry foreign frames are made no
/// smaller.
pub const ANY_FRAME_BYTES: usize = framing::framed_bytes(LINK_FRAME_BYTES_MAX);
/// A sender that met a full ring is woken when 1 / this of the ring is free (or more, if its frame is
/// larger), so that a slow receiver and a fast sender do not wake each other for every frame.
const SPACE_WAKE_DIVISOR: usize = 4;

const _: () = assert!(WORD_BYTES == size_of::<u64>() && framing::HEADER_BYTES == WORD_BYTES);
const _: () = assert!(framing::VERSION != 0, "a header differs from SKIP");

/// Why a frame was not sent. The caller keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No room now. The owner of this end is woken when there is.
    #[error("the lane is full")]
    Full,
    /// This end or the other one is closed, for ever.
    #[error("the lane is closed")]
    Closed,
    /// Longer than this ring, or than [`LINK_FRAME_BYTES_MAX`]: it will never be taken.
    #[error("the frame is longer than the lane takes")]
    TooLarge,
}

/// What one [`LaneEnd::receive`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames handed over.
    pub frames: usize,
    /// Whether frames were left in the ring because of `frames_max`: come again before sleeping.
    pub more: bool,
    /// Whether the lane is closed *and* everything that the other end sent before was received.
    pub closed: bool,
}

/// What the two ends know of each other besides the frames.
struct Shared {
    closed: [AtomicBool; 2],
    /// Words that the sender on this side waits for; 0: it does not wait.
    space_wanted_words: [AtomicUsize; 2],
    wakes: [Arc<dyn Wake>; 2],
}

impl Shared {
    fn close(&self, side: usize) {
        // Release: whoever sees the flag sees all that was sent before it.
        if !self.closed[side].swap(true, Ordering::Release) {
            self.wakes[1 - side].wake();
        }
    }
}

/// Makes a lane: two ends joined by a ring of `bytes_each_way` (rounded up to a whole and sensible number of
/// words) in each direction. `wake_a` wakes the owner of the first end, `wake_b` the owner of the second.
#[must_use]
pub fn pair(bytes_each_way: usize, wake_a: Arc<dyn Wake>, wake_b: Arc<dyn Wake>) -> (LaneEnd, LaneEnd) {
    let words = bytes_each_way.div_ceil(WORD_BYTES).max(RING_WORDS_MIN);
    let (a_producer, b_consumer) = RingBuffer::new(words);
    let (b_producer, a_consumer) = RingBuffer::new(words);
    let shared = Arc::new(Shared {
        closed: [AtomicBool::new(false), AtomicBool::new(false)],
        space_wanted_words: [AtomicUsize::new(0), AtomicUsize::new(0)],
        wakes: [wake_a, wake_b],
    });
    let end = |side: usize, producer: Producer<u64>, consumer: Consumer<u64>| LaneEnd {
        outbound: Outbound {
            words: producer,
            capacity_words: words,
            next_word: 0,
            side,
            dirty: false,
            shared: Arc::clone(&shared),
        },
        inbound: Inbound { words: consumer, capacity_words: words, side, shared: Arc::clone(&shared) },
    };
    (end(0, a_producer, a_consumer), end(1, b_producer, b_consumer))
}

/// One end of a lane. Dropping it closes it.
pub struct LaneEnd {
    outbound: Outbound,
    inbound: Inbound,
}

impl LaneEnd {
    /// Puts one frame, header included, into the lane; its padding may be absent. The other end's owner is
    /// not told before [`flush`](Self::flush).
    ///
    /// # Errors
    /// As [`SendError`] says; the frame is still the caller's then, and later frames must not overtake it.
    ///
    /// # Panics
    /// When `frame` is not exactly one frame of [`framing`]: a mistake of ours, not of a peer.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.outbound.send(frame)
    }

    /// Tells the other end's owner, if anything was sent since the last time. Once per batch, after the last
    /// `send`.
    pub fn flush(&mut self) {
        self.outbound.flush();
    }

    /// Hands at most `frames_max` frames to `each`, in place and in order, each aligned to eight bytes. Their
    /// space is given back after the last of them.
    pub fn receive(&mut self, frames_max: usize, each: impl FnMut(&[u8])) -> Received {
        if self.outbound.closed_here() {
            return Received { closed: true, ..Received::default() };
        }
        self.inbound.receive(frames_max, each)
    }

    /// Closes the lane. The other end still receives what was sent before, and then sees it closed; what it
    /// sent and this end has not received is lost, like everything sent from now on.
    pub fn close(&mut self) {
        self.outbound.shared.close(self.outbound.side);
    }

    /// Whether either end closed the lane. There may still be frames to receive.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.outbound.is_closed()
    }

    /// Whether a frame of `frame_bytes` (header included) fits now. If not, the owner of this end is woken
    /// when it does, as after [`SendError::Full`].
    #[must_use]
    pub fn has_space(&mut self, frame_bytes: usize) -> bool {
        self.outbound.make_room(frame_bytes.div_ceil(WORD_BYTES))
    }

    /// Bytes sent here and not yet given back by the other end. For gauges.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        (self.outbound.capacity_words - self.outbound.words.slots()) * WORD_BYTES
    }

    /// Bytes that wait here to be received.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.inbound.words.slots() * WORD_BYTES
    }

    /// The two directions apart, for a pump that does both at once. Either half, dropped, closes the lane for
    /// sending from both ends; what was sent before may still be received.
    pub(crate) fn split(self) -> (Outbound, Inbound) {
        (self.outbound, self.inbound)
    }
}

impl std::fmt::Debug for LaneEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneEnd")
            .field("queued_bytes", &self.queued_bytes())
            .field("waiting_bytes", &self.waiting_bytes())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// The sending half of an end.
pub(crate) struct Outbound {
    words: Producer<u64>,
    capacity_words: usize,
    /// Where in the ring the next word goes. Below `capacity_words`.
    next_word: usize,
    side: usize,
    /// Whether something was published that the other owner has not been told of.
    dirty: bool,
    shared: Arc<Shared>,
}

impl Outbound {
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        let archive_bytes = match framing::header(frame, LINK_FRAME_BYTES_MAX) {
            Ok(Some(header)) => header.archive_bytes,
            Err(framing::FramingError::TooLarge(..)) => return Err(SendError::TooLarge),
            Ok(None) | Err(_) => panic!("what is sent begins with a frame header"),
        };
        let unpadded = framing::HEADER_BYTES + archive_bytes;
        let words = framing::framed_bytes(archive_bytes) / WORD_BYTES;
        assert!((unpadded..=words * WORD_BYTES).contains(&frame.len()), "what is sent is one frame");
        if words > self.capacity_words {
            return Err(SendError::TooLarge);
        }
        if self.is_closed() {
            return Err(SendError::Closed);
        }
        if !self.make_room(words) {
            return Err(SendError::Full);
        }
        self.copy(frame, words);
        self.next_word = (self.next_word + words) % self.capacity_words;
        self.dirty = true;
        Ok(())
    }

    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.shared.wakes[1 - self.side].wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed_here() || self.shared.closed[1 - self.side].load(Ordering::Acquire)
    }

    fn closed_here(&self) -> bool {
        self.shared.closed[self.side].load(Ordering::Relaxed)
    }

    /// Whether `words` fit in one piece at `next_word`, after skipping the end of the ring when that is too
    /// short.
    fn make_room(&mut self, words: usize) -> bool {
        let to_end = self.capacity_words - self.next_word;
        if words > to_end && words <= self.capacity_words {
            // The zeros go out as soon as they fit, even if the frame behind them does not fit yet: once the
            // receiver has emptied the ring, all of it is free in one piece. (With frame and zeros published
            // together, a frame of more than half a ring might wait for ever.)
            if !self.is_free(to_end, to_end + words) {
                return false;
            }
            if let Ok(zeros) = self.words.write_chunk(to_end) {
                zeros.commit_all();
            }
            self.next_word = 0;
            self.dirty = true;
        }
        self.is_free(words, words)
    }

    /// Whether `words` are free. If not, the owner will be woken when `wanted_words` are.
    fn is_free(&self, words: usize, wanted_words: usize) -> bool {
        if self.words.cached_slots() >= words || self.words.slots() >= words {
            return true;
        }
        // The sender writes `space_wanted_words` and then reads how much is free; the receiver frees and then
        // reads `space_wanted_words`. With a sequentially consistent fence between the two steps on both
        // sides, at least one of them sees what the other wrote: either there is space below, or there will
        // be a wake.
        let wanted_words =
            wanted_words.max(self.capacity_words / SPACE_WAKE_DIVISOR).min(self.capacity_words);
        let wanted = &self.shared.space_wanted_words[self.side];
        wanted.store(wanted_words, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let free = self.words.slots() >= words;
        if free {
            wanted.store(0, Ordering::Relaxed);
        }
        free
    }

    fn copy(&mut self, frame: &[u8], words: usize) {
        // Frames are built in aligned buffers, with padding: one memory copy. Anything else goes word by
        // word.
        let copied = match bytemuck::try_cast_slice::<u8, u64>(frame) {
            Ok(aligned) => self.words.push_entire_slice(aligned).is_ok(),
            Err(_) => self.words.write_chunk_uninit(words).is_ok_and(|chunk| {
                chunk.fill_from_iter(frame.chunks(WORD_BYTES).map(|bytes| {
                    let mut word = [0; WORD_BYTES];
                    word[..bytes.len()].copy_from_slice(bytes);
                    u64::from_ne_bytes(word)
                })) == words
            }),
        };
        assert!(copied, "only the sender takes space away");
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.shared.close(self.side);
    }
}

/// The receiving half of an end.
pub(crate) struct Inbound {
    words: Consumer<u64>,
    capacity_words: usize,
    side: usize,
    shared: Arc<Shared>,
}

/// Frames that lie one behind the other, as they travel.
pub(crate) struct Run<'a> {
    chunk: ReadChunk<'a, u64>,
    /// How long they are together.
    pub(crate) words: usize,
    /// How many there are.
    pub(crate) frames: usize,
}

impl Run<'_> {
    /// The frames.
    pub(crate) fn bytes(&self) -> &[u8] {
        let (first, _) = self.chunk.as_slices();
        bytemuck::cast_slice(first.get(..self.words).unwrap_or_default())
    }
}

impl Inbound {
    pub(crate) fn receive(&mut self, frames_max: usize, mut each: impl FnMut(&[u8])) -> Received {
        // The flag first, the ring second: when the flag is seen, everything sent before it is seen too.
        let closed = self.is_closed_there();
        let words = self.words.slots();
        let Ok(chunk) = self.words.read_chunk(words) else { return Received::default() };
        if words == 0 {
            return Received { closed, ..Received::default() };
        }
        let (first, second) = chunk.as_slices();
        let (mut taken, mut frames) = walk(first, frames_max, usize::MAX, &mut each);
        if first.get(taken) == Some(&SKIP) {
            taken = first.len();
        }
        if taken == first.len() {
            let (taken_second, frames_second) = walk(second, frames_max - frames, usize::MAX, &mut each);
            taken += taken_second;
            frames += frames_second;
        }
        chunk.commit(taken);
        self.tell_freed();
        let more = taken < words;
        Received { frames, more, closed: closed && !more }
    }

    /// The frames next to each other at the head of the ring: at most `words_max` words of them, or a single
    /// longer one. `None` when there are none. They stay until [`give_back`](Self::give_back).
    pub(crate) fn run(&mut self, words_max: usize) -> Option<Run<'_>> {
        if self.words.peek() == Ok(&SKIP) {
            let published = self.words.slots();
            let to_end = self.words.read_chunk(published).ok()?.as_slices().0.len();
            self.give_back(to_end);
        }
        let published = self.words.slots();
        let chunk = self.words.read_chunk(published).ok()?;
        let (words, frames) = walk(chunk.as_slices().0, usize::MAX, words_max, |_| ());
        (frames > 0).then_some(Run { chunk, words, frames })
    }

    /// Gives back the first `words` of the ring, which were read.
    pub(crate) fn give_back(&mut self, words: usize) {
        if let Ok(chunk) = self.words.read_chunk(words) {
            chunk.commit_all();
        }
        self.tell_freed();
    }

    /// Whether the other end closed the lane. What it sent before may still be here.
    pub(crate) fn is_closed_there(&self) -> bool {
        self.shared.closed[1 - self.side].load(Ordering::Acquire)
    }

    /// Wakes the other end's owner when it waits for space and now has enough.
    fn tell_freed(&self) {
        let wanted = &self.shared.space_wanted_words[1 - self.side];
        // See `Outbound::is_free`.
        fence(Ordering::SeqCst);
        let wanted_words = wanted.load(Ordering::Relaxed);
        if wanted_words != 0
            && self.capacity_words - self.words.slots() >= wanted_words
            && wanted.swap(0, Ordering::Relaxed) != 0
        {
            self.shared.wakes[1 - self.side].wake();
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.shared.close(self.side);
    }
}

/// Hands the whole frames at the head of `words` to `each`, up to `frames_max` frames and `words_max` words
/// (but for the first frame). Returns how many words and frames that was; stops before [`SKIP`].
fn walk(words: &[u64], frames_max: usize, words_max: usize, mut each: impl FnMut(&[u8])) -> (usize, usize) {
    let (mut taken, mut frames) = (0, 0);
    while frames < frames_max {
        let rest = bytemuck::cast_slice(words.get(taken..).unwrap_or_default());
        let Ok(Some(header)) = framing::header(rest, LINK_FRAME_BYTES_MAX) else { break };
        let frame_bytes = framing::framed_bytes(header.archive_bytes);
        let Some(frame) = rest.get(..frame_bytes) else { break };
        if frames > 0 && taken + frame_bytes / WORD_BYTES > words_max {
            break;
        }
        each(frame);
        taken += frame_bytes / WORD_BYTES;
        frames += 1;
    }
    (taken, frames)
}
