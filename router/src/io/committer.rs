//! A thread for each commit lane: takes a batch, brings it to a definite outcome, reports.

use std::sync::Arc;
use std::time::Duration;

use carillon_link::Wake;
use carillon_node::clock::Clock;
use carillon_protocol::time::WallMs;
use carillon_store::error::CommitError;
use carillon_store::ids::MessageIds;
use carillon_store::ops::Context;
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::Engine;
use carillon_store::verb::{Incarnation, Op};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::Cpu;
use super::life::Report;
use crate::batch::Failure;
use crate::meters::ThreadMetric;

/// Silence after which the store may tidy its tail.
const IDLE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const PAUSE_MS_MAX: u64 = 64;

pub(super) struct Committer {
    pub(super) lane: u16,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) incarnation: Incarnation,
    pub(super) ids: MessageIds,
    pub(super) members_max: u64,
    pub(super) batches: Receiver<Vec<Op>>,
    pub(super) report: Sender<Report>,
    pub(super) wake: Arc<dyn Wake>,
    pub(super) cpu: Cpu,
}

impl Committer {
    /// Until the router's thread is gone.
    pub(super) fn run(mut self) {
        let mut is_tidy = false;
        loop {
            let ops = match self.batches.recv_timeout(IDLE) {
                Ok(ops) => ops,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // One lane tidies for all: an engine with several has no tail of its own.
                    if self.lane == 0 && !is_tidy {
                        is_tidy = true;
                        if let Err(CommitError::Fatal(sentence)) = self.engine.idle() {
                            self.tell(Report::Failed(sentence));
                        }
                    }
                    continue;
                }
            };
            is_tidy = false;
            let report = self.commit(&ops);
            self.tell(report);
            self.cpu.publish();
        }
    }

    fn commit(&mut self, ops: &[Op]) -> Report {
        let began_ns = Clock.now_ns();
        let at = WallMs(Clock.wall_ms());
        let mut context = Context {
            now: at,
            incarnation: self.incarnation,
            ids: &mut self.ids,
            members_max: self.members_max,
        };
        let results = retry::commit_batch(&*self.engine, self.lane, &mut context, ops, &mut pause);
        self.cpu.meter.observe(ThreadMetric::CommitTime, Clock.now_ns().saturating_sub(began_ns));
        Report::Committed { commit_lane: self.lane, at, results }
    }

    fn tell(&self, report: Report) {
        // There is room for every lane's outcome and its last word; a router that is gone needs neither.
        let _ = self.report.send(report);
        self.wake.wake();
    }
}

/// Waits before the next attempt: not at all at first, then longer and longer.
pub(super) fn pause(attempt: u32) {
    if attempt > 1 {
        std::thread::sleep(Duration::from_millis((1 << attempt.min(16)).min(PAUSE_MS_MAX)));
    }
}

/// What a batch's error means to those who wait.
pub(super) fn failure(error: BatchError) -> Failure {
    match error {
        BatchError::Unknown => Failure::Unknown,
        BatchError::Busy => Failure::Busy,
        BatchError::Full { .. } => Failure::Full,
        BatchError::Fenced => Failure::Fenced,
        BatchError::Fatal(sentence) => Failure::Fatal(sentence),
    }
}
