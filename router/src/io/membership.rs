//! What a lease wants of the store: its transactions, one at a time, on a thread of their own, and beside them the polls
//! that show who lives, on another. Neither waits for a batch of messages, nor for a disk that readers wait for.

use std::sync::Arc;

use carillon_link::Wake;
use carillon_node::clock::Clock;
use carillon_protocol::time::WallMs;
use carillon_store::error::ReadError;
use carillon_store::ops::{self, Claim, Ownership};
use carillon_store::retry::{BatchError, commit_one};
use carillon_store::txn::{Abort, Engine, Txn};
use carillon_store::verb::Incarnation;
use crossbeam_channel::{Receiver, Sender};

use super::{Cpu, committer};
use crate::lease::orders::{self, Hands};
use crate::lease::{Input, Output};

/// Joins the routers of a store, reached at `address`.
pub(super) fn join(engine: &dyn Engine, address: &str) -> Result<Claim, BatchError> {
    let now = WallMs(Clock.wall_ms());
    OnEngine(engine).control(&mut |txn| ops::join(txn, now, address))
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
            let told = orders::carry_out(&mut OnEngine(&*self.engine), self.incarnation, &order);
            if let (Output::Depose { silent, .. }, Some(told)) = (&order, &told) {
                tracing::warn!(incarnation = silent.0, ?told, "another router is silent");
            }
            if let Some(told) = told {
                // There is room for the answer to everything under way; a life that is over needs none.
                let _ = self.told.send(told);
                self.wake.wake();
            }
            self.cpu.publish();
        }
    }
}

struct OnEngine<'a>(&'a dyn Engine);

impl Hands for OnEngine<'_> {
    fn ownership(&mut self) -> Result<Ownership, ReadError> {
        let shown = self.0.snapshot().and_then(|mut it| ops::ownership(&mut *it));
        if let Err(ReadError::Fatal(sentence)) = &shown {
            tracing::error!(sentence, "who owns what cannot be read");
        }
        shown
    }

    fn control<T>(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
    ) -> Result<T, BatchError> {
        let result = commit_one(self.0, self.0.control_lane(), body, &mut committer::pause);
        if let Err(error) = &result
            && *error != BatchError::Fenced
        {
            tracing::warn!(%error, "a step of the lease failed, and is tried again");
        }
        result
    }
}
