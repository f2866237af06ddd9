//! What a lease wants of the store: its transactions, one at a time, on a thread of their own, and beside them the polls
//! that show who lives, on another. Neither waits for a batch of messages, nor for a disk that readers wait for.

use std::sync::Arc;

use carillon_link::Wake;
use carillon_node::clock::Clock;
use carillon_protocol::time::WallMs;
use carillon_store::error::ReadError;
use carillon_store::ops::{self, Claim};
use carillon_store::retry::{BatchError, commit_one};
use carillon_store::txn::{Abort, Engine, Txn};
use carillon_store::verb::Incarnation;
use crossbeam_channel::{Receiver, Sender};

use super::{Cpu, committer};
use crate::lease::{Input, Output, Told};

/// Joins the routers of a store, reached at `address`.
pub(super) fn join(engine: &dyn Engine, address: &str) -> Result<Claim, BatchError> {
    let now = WallMs(Clock.wall_ms());
    control(engine, &mut |txn| ops::join(txn, now, address))
}

/// Carries out what a lease of this incarnation puts out.
pub(super) struct Membership {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) incarnation: Incarnation,
    pub(super) orders: Receiver<Output>,
    pub(super) told: Sender<Input>,
    pub(super) wake: Arc<dyn Wake>,
    pub(super) cpu: Cpu,
}

impl Membership {
    /// Until the life is over.
    pub(super) fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            if let Some(told) = carry_out(&*self.engine, self.incarnation, order) {
                // There is room for the answer to everything under way; a life that is over needs none.
                let _ = self.told.send(told);
                self.wake.wake();
            }
            self.cpu.publish();
        }
    }
}

/// One order of a lease, and what it is told of it; `None` for what is no order to the store.
pub(super) fn carry_out(engine: &dyn Engine, me: Incarnation, order: Output) -> Option<Input> {
    Some(match order {
        Output::Beat(number) => Input::Beaten(told(control(engine, &mut |txn| ops::beat(txn, me, number)))),
        Output::Poll => Input::Polled(match engine.snapshot().and_then(|mut it| ops::ownership(&mut *it)) {
            Ok(shown) => Told::Done(shown),
            Err(error) => {
                if let ReadError::Fatal(sentence) = error {
                    tracing::error!(sentence, "who owns what cannot be read");
                }
                Told::Failed
            }
        }),
        Output::Depose { silent, beat_seen } => {
            let deposed = control(engine, &mut |txn| ops::depose(txn, me, silent, beat_seen));
            tracing::warn!(incarnation = silent.0, ?deposed, "another router is silent");
            Input::Deposed(told(deposed))
        }
        Output::Take(slots) => Input::Taken(told(control(engine, &mut |txn| ops::take(txn, me, &slots)))),
        Output::Give { slots, to } => {
            Input::Given(told(control(engine, &mut |txn| ops::give(txn, me, &slots, to))))
        }
        Output::Retire => Input::Retired(told(control(engine, &mut |txn| ops::retire(txn, me)))),
        Output::Gained(_) | Output::Leaving(_) | Output::Left(_) | Output::Over => return None,
    })
}

fn control<T>(
    engine: &dyn Engine,
    body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
) -> Result<T, BatchError> {
    commit_one(engine, engine.control_lane(), body, &mut committer::pause)
}

fn told<T>(result: Result<T, BatchError>) -> Told<T> {
    match result {
        Ok(value) => Told::Done(value),
        Err(BatchError::Fenced) => Told::Fenced,
        Err(error) => {
            tracing::warn!(%error, "a step of the lease failed, and is tried again");
            Told::Failed
        }
    }
}
