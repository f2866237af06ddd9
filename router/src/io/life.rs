//! One life of a router: an incarnation, its state, and the threads that commit, read and beat for it. When other routers
//! have declared it dead, the next one begins in the same process, from the store alone.

use std::sync::Arc;
use std::thread::JoinHandle;

use carillon_link::Wake;
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metrics::Registry;
use carillon_node::random;
use carillon_protocol::time::{Time, WallMs};
use carillon_store::error::ReadError;
use carillon_store::ops::Claim;
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Incarnation, Op, Outcome, Query};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Cpu, Tenure, committer, membership, reader, spawn};
use crate::Settings;
use crate::cluster::Cluster;
use crate::lease::{self, Lease};
use crate::meters::Role;
use crate::outbox::{QUERIES_MAX, Ticket};
use crate::shard::{Shard, ShardSettings};

/// A lease has one transaction and one poll under way.
const LEASE_ORDERS_MAX: usize = 1;

/// What a committer reports.
pub(super) enum Report {
    Committed { commit_lane: u16, at: WallMs, results: Vec<Result<Outcome, BatchError>> },
    Failed(String),
}

/// What every life needs.
pub(super) struct Ground {
    pub(super) settings: Settings,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) metrics: Registry,
    pub(super) tenure: Tenure,
    pub(super) address: String,
    pub(super) wake: Arc<dyn Wake>,
}

/// See the module.
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    pub(super) shard: Shard,
    pub(super) commits: Vec<Sender<Vec<Op>>>,
    pub(super) reports: Receiver<Report>,
    pub(super) query: Sender<(Ticket, Query)>,
    pub(super) answers: Receiver<(Ticket, Result<Answer, ReadError>)>,
    /// For the transactions of the lease, and for its polls.
    pub(super) orders: Sender<lease::Output>,
    pub(super) polls: Sender<lease::Output>,
    pub(super) told: Receiver<lease::Input>,
    /// Those that commit, each on a lane of its own.
    committing: Vec<JoinHandle<()>>,
    reading: Vec<JoinHandle<()>>,
}

impl Life {
    /// Ends it, and waits until nothing of it is in flight: the next life commits on the same lanes. Returns the threads
    /// that may still read something that nobody wants any more.
    pub(super) fn end(self) -> Vec<JoinHandle<()>> {
        let Life { commits, query, orders, polls, committing, reading, .. } = self;
        drop((commits, query, orders, polls));
        for thread in committing {
            // A panic there has aborted the process.
            let _ = thread.join();
        }
        reading
    }
}

impl Ground {
    /// Takes a number for a new life.
    ///
    /// # Errors
    /// The store cannot be claimed or joined.
    pub(super) fn claim(&self) -> Result<(Claim, Time), BatchError> {
        let began = Time(Clock.now_ns());
        let claim = match self.tenure {
            Tenure::Sole => {
                let wall = WallMs(Clock.wall_ms());
                retry::claim(&*self.engine, wall, &mut committer::pause)
            }
            Tenure::Shared => membership::join(&*self.engine, &self.address),
        };
        claim.map(|claim| (claim, began))
    }

    /// Begins a life, whose claim was sent at `began`.
    ///
    /// # Errors
    /// The process has no threads left.
    pub(super) fn begin(&self, (claim, began): (Claim, Time)) -> Result<Life, Fatal> {
        let (mut committing, mut reading) = (Vec::new(), Vec::new());
        let commit_lanes_count = self.engine.lanes_count().max(1);
        let (report, reports) = bounded(2 * usize::from(commit_lanes_count));
        let (answer, answers) = bounded(QUERIES_MAX);
        let (query, queries) = bounded(QUERIES_MAX);
        let (tell, told) = bounded(2 * LEASE_ORDERS_MAX);
        let mut commits = Vec::new();
        for lane in 0..commit_lanes_count {
            let (commit, batches) = bounded(1);
            commits.push(commit);
            let committer = committer::Committer {
                lane,
                engine: Arc::clone(&self.engine),
                incarnation: claim.incarnation,
                ids: claim.message_ids(lane, commit_lanes_count),
                members_max: self.settings.conversations.max_members,
                batches,
                report: report.clone(),
                wake: Arc::clone(&self.wake),
                cpu: Cpu::new(&self.metrics, Role::Committer),
            };
            committing.push(spawn(format!("committer-{lane}"), move || committer.run())?);
        }
        for number in 0..self.settings.router.readers.max(1) {
            let reader = reader::Reader {
                engine: Arc::clone(&self.engine),
                queries: queries.clone(),
                answer: answer.clone(),
                wake: Arc::clone(&self.wake),
                cpu: Cpu::new(&self.metrics, Role::Reader),
            };
            reading.push(spawn(format!("reader-{number}"), move || reader.run())?);
        }
        let member =
            |name: &str, threads: &mut Vec<JoinHandle<()>>| -> Result<Sender<lease::Output>, Fatal> {
                let (order, orders) = bounded(LEASE_ORDERS_MAX);
                let member = membership::Membership {
                    engine: Arc::clone(&self.engine),
                    incarnation: claim.incarnation,
                    orders,
                    told: tell.clone(),
                    wake: Arc::clone(&self.wake),
                    cpu: Cpu::new(&self.metrics, Role::Membership),
                };
                if self.tenure == Tenure::Shared {
                    threads.push(spawn(name.to_owned(), move || member.run())?);
                }
                Ok(order)
            };
        let (orders, polls) = (member("lease", &mut committing)?, member("poll", &mut reading)?);
        let cluster = match self.tenure {
            Tenure::Sole => Cluster::sole(claim.incarnation, claim.epoch, &self.address),
            Tenure::Shared => {
                Cluster::shared(claim.incarnation, Lease::new(claim.incarnation, began), &self.address)
            }
        };
        let shard_settings = ShardSettings::of(&self.settings, commit_lanes_count);
        let shard = Shard::new(shard_settings, random::seed(), cluster, self.metrics.meter(&[]));
        tracing::info!(incarnation = claim.incarnation.0, commit_lanes_count, "router started");
        let incarnation = claim.incarnation;
        Ok(Life {
            incarnation,
            shard,
            commits,
            reports,
            query,
            answers,
            orders,
            polls,
            told,
            committing,
            reading,
        })
    }
}
