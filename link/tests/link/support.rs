//! What the tests of Link share: frames that can be recognised, and wakes that count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use carillon_link::doorbell::Doorbell;
use carillon_link::ring::LaneEnd;
use carillon_link::{Arrival, Mailbox, Wake};
use carillon_protocol::framing::{self, HEADER_BYTES};

/// A padded frame that carries `number`, in an archive of `archive_bytes` (at least eight).
pub(crate) fn frame(number: u64, archive_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; framing::framed_bytes(archive_bytes.max(8))];
    let length = u32::try_from(archive_bytes.max(8)).unwrap();
    frame[0] = framing::VERSION;
    frame[2..4].copy_from_slice(&0x107_u16.to_le_bytes());
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    for (at, byte) in frame[HEADER_BYTES..HEADER_BYTES + archive_bytes.max(8)].iter_mut().enumerate() {
        *byte = number.to_le_bytes()[at % 8];
    }
    frame
}

/// The number in a frame of [`frame`], whose every byte is checked.
pub(crate) fn number(received: &[u8]) -> u64 {
    let head = framing::header(received, usize::MAX).unwrap().unwrap();
    let number = u64::from_le_bytes(received[HEADER_BYTES..HEADER_BYTES + 8].try_into().unwrap());
    assert_eq!(received.as_ptr() as usize % framing::ALIGN, 0, "frames are aligned");
    assert!(received == frame(number, head.archive_bytes), "frame {number} came as it went");
    number
}

/// Counts how often it was woken.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn new() -> Arc<Count> {
        Arc::default()
    }

    /// How often since the last time this was asked.
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A small pseudo-random sequence (SplitMix64) with a seed that the test prints.
pub(crate) struct Prng(pub(crate) u64);

impl Prng {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again, for what rings no bell.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// A runtime on a thread of its own: the control thread of a process. Dropped, it is gone like a crashed
/// process: its sockets are closed without a word to anybody.
pub(crate) struct Process {
    pub(crate) handle: tokio::runtime::Handle,
    stop: Arc<tokio::sync::Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start() -> Process {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || runtime.block_on(stopped.notified()));
        Process { handle, stop, thread: Some(thread) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a shard has: a bell, and a mailbox for lanes.
pub(crate) struct Shard {
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) mailbox: Mailbox,
    arrivals: crossbeam_channel::Receiver<Arrival>,
}

impl Shard {
    pub(crate) fn new() -> Shard {
        let bell = Doorbell::new().unwrap();
        let (mailbox, arrivals) = Mailbox::new(16, Arc::clone(&bell) as _);
        Shard { bell, mailbox, arrivals }
    }

    /// Sleeps on the bell until `done` gives something; fails with `what` when it does not within
    /// [`PATIENCE`].
    pub(crate) fn until<T>(&self, what: &str, done: impl FnMut() -> Option<T>) -> T {
        self.within(PATIENCE, done).unwrap_or_else(|| panic!("{what} within {PATIENCE:?}"))
    }

    /// The same, for what may not come.
    pub(crate) fn within<T>(&self, limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            self.bell.drain();
            if let Some(done) = done() {
                return Some(done);
            }
            let left = limit.checked_sub(start.elapsed())?;
            self.bell.wait(Some(left)).unwrap();
        }
    }

    pub(crate) fn lane(&self) -> LaneEnd {
        self.until("a lane", || self.lane_if_any())
    }

    pub(crate) fn lane_if_any(&self) -> Option<LaneEnd> {
        self.arrival_if_any().map(|arrival| arrival.lane)
    }

    pub(crate) fn arrival(&self) -> Arrival {
        self.until("an arrival", || self.arrival_if_any())
    }

    pub(crate) fn arrival_if_any(&self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }

    /// Receives the frames numbered `expected`, in order.
    pub(crate) fn expect(&self, lane: &mut LaneEnd, expected: std::ops::Range<u64>) {
        let mut next = expected.start;
        self.until(&format!("frames up to {}", expected.end), || {
            while next < expected.end {
                let received = lane.receive(100, |frame| {
                    assert_eq!(number(frame), next);
                    next += 1;
                });
                assert!(next >= expected.end || !received.closed, "closed at frame {next}");
                if !received.more {
                    break;
                }
            }
            (next >= expected.end).then_some(())
        });
        assert_eq!(next, expected.end);
    }

    pub(crate) fn expect_closed(&self, lane: &mut LaneEnd) {
        self.until("the close of a lane", || {
            lane.receive(1, |frame| panic!("an unexpected frame {}", number(frame))).closed.then_some(())
        });
    }
}

/// Sends frames numbered `numbers` of `archive_bytes` each, which have to fit.
pub(crate) fn send(lane: &mut LaneEnd, numbers: std::ops::Range<u64>, archive_bytes: usize) {
    for number in numbers {
        lane.send(&frame(number, archive_bytes)).unwrap();
    }
    lane.flush();
}
