//! What the main thread tells the engines, and what they let it see. Engines look at least every
//! [`LOOK_MS`](super::engine::LOOK_MS).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::oracle::{Kind, Roster};
use crate::plan::Outlets;
use crate::series::Slot;
use crate::stats::{Latency, Stats};
use crate::turn::{Shared, Window};

/// What the run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Clients connect.
    Connect = 0,
    /// The schedule runs.
    Run = 1,
    /// Nothing waits for an answer any more; deliveries are awaited.
    Deliver = 2,
    /// Everybody leaves.
    Stop = 3,
}

/// A run, once its conversations are made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) roster: Arc<Roster>,
    pub(crate) shared: Shared,
    pub(crate) window: Window,
    /// When the schedule starts: milliseconds of Unix time.
    pub(crate) start_wall_ms: u64,
    /// Per client.
    pub(crate) outlets: Vec<Outlets>,
}

/// Counters of all threads.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lost: u64,
    pub(crate) reconnects: u64,
    pub(crate) stopped: u64,
    pub(crate) dropped: u64,
    pub(crate) heartbeat: Latency,
    /// By the place of the kind in [`Kind::ALL`].
    pub(crate) violations: [u64; Kind::ALL.len()],
    pub(crate) troubles: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, stats: &Stats) {
        self.lost += stats.lost_count;
        self.reconnects += stats.reconnects;
        self.stopped += stats.stopped;
        self.dropped += stats.dropped_count;
        self.heartbeat.merge(&stats.heartbeat);
        for (count, more) in self.violations.iter_mut().zip(stats.violations) {
            *count += more;
        }
        for (words, count) in &stats.troubles {
            *self.troubles.entry(words.clone()).or_default() += count;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Control {
    phase: AtomicU8,
    /// Clients that have caught up.
    pub(crate) live: AtomicU32,
    /// Clients that will not connect again.
    pub(crate) stopped: AtomicU32,
    /// Threads that have handed over all of their schedule.
    pub(crate) sent_all: AtomicU32,
    /// Messages intended from then on are not sent.
    pub(crate) stop_ns: AtomicU64,
    /// The server's limit per user, as `hello` told it.
    pub(crate) send_per_s: AtomicU64,
    /// Per thread: every client holds everything that was acknowledged.
    pub(crate) settled: Vec<AtomicBool>,
    pub(crate) plan: OnceLock<Arc<Plan>>,
    stats: Vec<Mutex<Stats>>,
}

impl Control {
    pub(crate) fn new(threads: usize) -> Control {
        Control {
            phase: AtomicU8::new(Phase::Connect as u8),
            live: AtomicU32::new(0),
            stopped: AtomicU32::new(0),
            sent_all: AtomicU32::new(0),
            stop_ns: AtomicU64::new(u64::MAX),
            send_per_s: AtomicU64::new(0),
            settled: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            plan: OnceLock::new(),
            stats: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Connect,
            1 => Phase::Run,
            2 => Phase::Deliver,
            _ => Phase::Stop,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// One thread's figures. It holds them while it works and lets go while it waits.
    pub(crate) fn stats(&self, thread: usize) -> MutexGuard<'_, Stats> {
        // Figures are numbers: those of a thread that panicked are still figures.
        self.stats[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes everybody's rows of the series before this one.
    pub(crate) fn take_rows(&self, end: u64) -> Vec<(u64, Slot)> {
        (0..self.stats.len()).flat_map(|thread| self.stats(thread).series.take_before(end)).collect()
    }

    /// Everybody's counters, without the histograms of messages: what is looked at several times a second.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for thread in 0..self.stats.len() {
            counts.add(&self.stats(thread));
        }
        counts
    }

    /// Everybody's figures.
    pub(crate) fn total(&self) -> Stats {
        let mut total = Stats::default();
        for thread in 0..self.stats.len() {
            total.merge(&self.stats(thread));
        }
        total
    }
}
