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
            let answer = read(&*self.engine, &query);
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
}

/// The answer from one snapshot. One that grows too old is given up for a new one: a query never joins two of them.
fn read(engine: &dyn Engine, query: &Query) -> Result<Answer, ReadError> {
    let mut last = ReadError::Again("not read".to_owned());
    for _ in 0..ATTEMPTS_MAX {
        // A query that panics fails alone: the next one is as good as before (F22).
        let read = catch_unwind(AssertUnwindSafe(|| query::answer(&mut *engine.snapshot()?, query)));
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

#[cfg(test)]
mod tests {
    use carillon_protocol::ids::ConversationId;
    use carillon_store::backend::memory::{Memory, Options};
    use carillon_store::conformance::world::{World, page, send};

    use super::*;

    /// F4: a read that fails is not an answer, whichever of its reads it is; what asked is told to come back.
    #[test]
    fn f4_a_snapshot_that_grows_too_old_is_replaced() {
        let memory = Arc::new(Memory::new(Options::default()));
        let mut world = World::begin(memory.clone() as Arc<dyn Engine>);
        let group = ConversationId(10);
        world.group(group.0, &[1, 2]);
        world.append(send(1, group, "a", "x"));
        let query = Query::Page(page(1, group, 1, 9));
        let expected = world.ask(&query);
        for reads in 0..8 {
            memory.faults().age_snapshots([reads; ATTEMPTS_MAX - 1]);
            assert_eq!(read(&*memory, &query).unwrap(), expected, "after {reads} reads");
            memory.faults().calm();
        }
        memory.faults().age_snapshots([0; ATTEMPTS_MAX]);
        assert!(matches!(read(&*memory, &query), Err(ReadError::Again(_))));
        assert_eq!(read(&*memory, &query).unwrap(), expected);
    }
}
