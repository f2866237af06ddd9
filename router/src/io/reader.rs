//! The read pool: a few threads that answer queries from snapshots, so that nobody else waits for a disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use carillon_link::Wake;
use carillon_store::error::ReadError;
use carillon_store::query;
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Query};
use crossbeam_channel::{Receiver, Sender};

use super::Cpu;
use crate::meters::ThreadMetric;
use crate::outbox::Ticket;

/// How often a query is read when the engine asks to read again. Beyond: whoever asked is told to come back.
const ATTEMPTS_MAX: usize = 3;
/// Queries between two publications of CPU time under load.
const PUBLISH_QUERIES: u32 = 64;

pub(super) struct Reader {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) queries: Receiver<(Ticket, Query)>,
    pub(super) answer: Sender<(Ticket, Result<Answer, ReadError>)>,
    pub(super) wake: Arc<dyn Wake>,
    pub(super) cpu: Cpu,
}

impl Reader {
    /// Until the router's thread is gone.
    pub(super) fn run(mut self) {
        let mut unpublished_count = 0;
        while let Ok((ticket, query)) = self.queries.recv() {
            let answer = self.read(&query);
            // The channel holds the answers to all open questions; a router that is gone needs none.
            let _ = self.answer.send((ticket, answer));
            self.wake.wake();
            self.cpu.meter.add(ThreadMetric::Queries, 1);
            unpublished_count += 1;
            if self.queries.is_empty() || unpublished_count >= PUBLISH_QUERIES {
                self.cpu.publish();
                unpublished_count = 0;
            }
        }
    }

    fn read(&self, query: &Query) -> Result<Answer, ReadError> {
        let mut last = ReadError::Again("not read".to_owned());
        for _ in 0..ATTEMPTS_MAX {
            // A query that panics fails alone: the next one is as good as before (F22).
            let read = catch_unwind(AssertUnwindSafe(|| query::answer(&mut *self.engine.snapshot()?, query)));
            match read {
                Ok(Err(ReadError::Again(why))) => last = ReadError::Again(why),
                Ok(settled) => return settled,
                Err(_) => {
                    tracing::error!(query = ?std::mem::discriminant(query), "a query panicked");
                    return Err(ReadError::Again("the query panicked".to_owned()));
                }
            }
        }
        Err(last)
    }
}
