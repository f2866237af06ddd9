//! The ground floor: the thread that owns a [`Shard`], its lanes, and the threads that commit and read for it.
//!
//! One turn: take what came (outcomes first, so that acks leave first), with one `now`; let the shard decide; do what it
//! says; sleep until somebody rings or a timeout comes.
//!
//! # Invariants
//! - A panic in any of these threads aborts the process (fail-stop): a router that lost its thread must not look alive,
//!   and its state is made anew from the store.
//! - After a failure of the store the callback is called at once, and nothing is sent any more (G14).
//! - Nothing here blocks but the one place to sleep: channels are as long as what can be outstanding.
#![expect(clippy::disallowed_methods, reason = "the ground floor starts threads and waits")]

mod committer;
mod figures;
mod lanes;
mod reader;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use carillon_link::doorbell::Doorbell;
use carillon_link::{Arrival, Mailbox, Wake};
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metrics::{Meter, Registry};
use carillon_node::random;
use carillon_protocol::time::{Time, WallMs};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Incarnation, Op, Query};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::time::{ClockId, clock_gettime};

use crate::Settings;
use crate::meters::{Role, ThreadMetric};
use crate::outbox::{Output, QUERIES_MAX, Ticket};
use crate::shard::{Input, Shard, ShardSettings};
use lanes::Lanes;

/// Lanes that may arrive in one turn. Beyond: the connector is told to try again.
const ARRIVALS_MAX: usize = 256;
/// Answers taken in one turn: the rest waits for the next, so that lanes have their turn too.
const ANSWERS_TURN_MAX: usize = 1_024;
/// How often gauges and the thread's CPU time are published.
const PUBLISH_MS: u64 = 100;

/// Called with what went wrong when the store failed: has to end the process with its status, at once.
pub type OnFailure = Arc<dyn Fn(Fatal) + Send + Sync>;

/// What a committer reports.
enum Report {
    Committed {
        commit_lane: u16,
        at: WallMs,
        results: Vec<Result<carillon_store::verb::Outcome, BatchError>>,
    },
    Failed(String),
}

/// What a handle orders.
#[derive(Clone, Copy)]
enum Order {
    Drain,
    Stop,
}

/// A running router.
pub struct Handle {
    mailbox: Mailbox,
    incarnation: Incarnation,
    engine: Arc<dyn Engine>,
    orders: Sender<Order>,
    drained: Receiver<()>,
    bell: Arc<Doorbell>,
    threads: Vec<JoinHandle<()>>,
}

/// Claims the store and starts the threads of a router.
///
/// # Errors
/// The store could not be claimed, or the process has no threads or descriptors left.
pub fn start(
    settings: &Settings,
    engine: Arc<dyn Engine>,
    metrics: &Registry,
    on_failure: OnFailure,
) -> Result<Handle, Fatal> {
    let wall = WallMs(Clock.wall_ms());
    let claim = retry::claim(&*engine, wall, &mut committer::pause)
        .map_err(|error| Fatal::disk(format!("the store cannot be claimed: {error}")))?;
    figures::show(metrics, &engine);
    let bell = Doorbell::new().map_err(|error| cannot_start(&error))?;
    let wake: Arc<dyn Wake> = bell.clone();
    let (mailbox, arrivals) = Mailbox::new(ARRIVALS_MAX, Arc::clone(&wake));
    let commit_lanes_count = engine.lanes_count().max(1);

    let (report, reports) = bounded(2 * usize::from(commit_lanes_count));
    let (answer, answers) = bounded(QUERIES_MAX);
    let (query, queries) = bounded(QUERIES_MAX);
    let (order, orders) = bounded(2);
    let (drain, drained) = bounded(1);
    let mut threads = Vec::new();
    let mut commits = Vec::new();
    for lane in 0..commit_lanes_count {
        let (commit, batches) = bounded(1);
        commits.push(commit);
        let committer = committer::Committer {
            lane,
            engine: Arc::clone(&engine),
            incarnation: claim.incarnation,
            ids: claim.message_ids(lane, commit_lanes_count),
            members_max: settings.conversations.max_members,
            batches,
            report: report.clone(),
            wake: Arc::clone(&wake),
            cpu: Cpu::new(metrics, Role::Committer),
        };
        threads.push(spawn(format!("committer-{lane}"), move || committer.run())?);
    }
    for number in 0..settings.router.readers.max(1) {
        let reader = reader::Reader {
            engine: Arc::clone(&engine),
            queries: queries.clone(),
            answer: answer.clone(),
            wake: Arc::clone(&wake),
            cpu: Cpu::new(metrics, Role::Reader),
        };
        threads.push(spawn(format!("reader-{number}"), move || reader.run())?);
    }
    let shard_settings = ShardSettings::of(settings, commit_lanes_count);
    let seed = random::seed();
    let router = Router {
        shard: Shard::new(shard_settings, seed, claim.incarnation, metrics.meter(&[])),
        lanes: Lanes::default(),
        bell: Arc::clone(&bell),
        arrivals,
        commits,
        reports,
        query,
        answers,
        orders,
        drained: drain,
        on_failure,
        cpu: Cpu::new(metrics, Role::Router),
        publish_at: Time(0),
    };
    threads.push(spawn("router".to_owned(), move || router.run())?);
    tracing::info!(incarnation = claim.incarnation.0, commit_lanes_count, "router started");
    Ok(Handle { mailbox, incarnation: claim.incarnation, engine, orders: order, drained, bell, threads })
}

impl Handle {
    /// Where lanes of gateway shards are put, local ones and those of QUIC alike.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// The number of this life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Takes nothing new, finishes what was taken (for `timeout` at most), ends the threads and closes the store.
    ///
    /// # Errors
    /// The store failed at its end.
    pub fn drain(mut self, timeout: Duration) -> Result<(), Fatal> {
        self.order(Order::Drain);
        if self.drained.recv_timeout(timeout).is_err() {
            tracing::warn!(
                "the router did not drain in time; what is not handed on yet is repeated at the next start"
            );
        }
        self.stop();
        let closed = self.engine.idle().and_then(|()| self.engine.close());
        match closed {
            Err(CommitError::Fatal(sentence)) => Err(Fatal::disk(sentence)),
            Err(error) => {
                // No space for a tidy tail: recovery does without it.
                tracing::warn!(%error, "the store was closed untidily");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn order(&self, order: Order) {
        // Full or gone: it was ordered before, or there is nobody left to do it.
        let _ = self.orders.try_send(order);
        self.bell.wake();
    }

    fn stop(&mut self) {
        self.order(Order::Stop);
        for thread in self.threads.drain(..) {
            // A panic there has aborted the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The router's own thread.
struct Router {
    shard: Shard,
    lanes: Lanes,
    bell: Arc<Doorbell>,
    arrivals: Receiver<Arrival>,
    commits: Vec<Sender<Vec<Op>>>,
    reports: Receiver<Report>,
    query: Sender<(Ticket, Query)>,
    answers: Receiver<(Ticket, Result<Answer, ReadError>)>,
    orders: Receiver<Order>,
    drained: Sender<()>,
    on_failure: OnFailure,
    cpu: Cpu,
    publish_at: Time,
}

/// Whether the thread goes on.
enum Then {
    Again,
    Sleep,
    End,
}

impl Router {
    fn run(mut self) {
        self.bell.drain();
        loop {
            let now = Time(Clock.now_ns());
            let timeout = match self.turn(now) {
                Then::End => return,
                Then::Again => Some(Duration::ZERO),
                Then::Sleep => self.shard.poll_timeout().map(|at| at.since(now)),
            };
            if now >= self.publish_at {
                self.publish_at = now.after_ms(PUBLISH_MS);
                self.shard.gauge();
                self.cpu.publish();
            }
            if timeout == Some(Duration::ZERO) {
                self.bell.drain();
            } else if let Err(error) = self.bell.wait(timeout) {
                // Out of kernel memory: look again rather than never.
                tracing::warn!(%error, "waiting failed");
            }
        }
    }

    fn turn(&mut self, now: Time) -> Then {
        for order in self.orders.try_iter() {
            match order {
                Order::Drain => self.shard.handle(now, Input::Drain),
                Order::Stop => return Then::End,
            }
        }
        self.shard.handle(now, Input::Wall(WallMs(Clock.wall_ms())));
        for report in self.reports.try_iter() {
            let input = match report {
                Report::Committed { commit_lane, at, results } => {
                    let results =
                        results.into_iter().map(|result| result.map_err(committer::failure)).collect();
                    Input::Committed { commit_lane, at, results }
                }
                Report::Failed(sentence) => Input::StoreFailed(sentence),
            };
            self.shard.handle(now, input);
        }
        for (ticket, answer) in self.answers.try_iter().take(ANSWERS_TURN_MAX) {
            self.shard.handle(now, Input::Answered { ticket, answer });
        }
        for arrival in self.arrivals.try_iter() {
            self.lanes.arrived(now, arrival.lane, &mut self.shard);
        }
        let more_frames = self.lanes.receive(now, &mut self.shard);
        self.shard.handle(now, Input::Tick);
        // Closing a lane that overflowed is an input, which may give new outputs; each lane overflows once.
        loop {
            while let Some(output) = self.shard.poll_output() {
                if let Then::End = self.act(output) {
                    return Then::End;
                }
            }
            if !self.lanes.flush(now, &mut self.shard) {
                break;
            }
        }
        let is_due = self.shard.poll_timeout().is_some_and(|at| at <= now);
        if more_frames || is_due || !self.answers.is_empty() { Then::Again } else { Then::Sleep }
    }

    fn act(&mut self, output: Output) -> Then {
        match output {
            Output::Frame { lane, frame } => self.lanes.send(lane, frame),
            Output::CloseLane { lane } => self.lanes.close(lane),
            Output::Commit { commit_lane, ops } => {
                // One batch in flight a lane, so there is room; a committer that is gone has aborted the process.
                if let Some(commit) = self.commits.get(usize::from(commit_lane)) {
                    commit.try_send(ops).expect("the committer of an idle lane takes a batch");
                }
            }
            Output::Query { ticket, query } => {
                self.query.try_send((ticket, query)).expect("the queue holds all open questions");
            }
            Output::Fatal(sentence) => {
                tracing::error!(%sentence, "the store failed; nothing is acknowledged any more");
                (self.on_failure)(Fatal::disk(sentence));
                return Then::End;
            }
            Output::Drained => {
                let _ = self.drained.try_send(());
            }
        }
        Then::Sleep
    }
}

/// Publishes what a thread has used of the CPU.
struct Cpu {
    meter: Meter<ThreadMetric>,
    role: Role,
    published_ns: u64,
}

impl Cpu {
    fn new(metrics: &Registry, role: Role) -> Cpu {
        Cpu { meter: metrics.meter(&[]), role, published_ns: 0 }
    }

    /// To be called on the thread itself.
    fn publish(&mut self) {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
        let used_ns = seconds * 1_000_000_000 + u64::try_from(used.tv_nsec).unwrap_or(0);
        self.meter.add_at(ThreadMetric::Cpu, self.role as usize, used_ns.saturating_sub(self.published_ns));
        self.published_ns = used_ns;
    }
}

/// Aborts the process when its thread panics.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fatal> {
    let guarded = move || {
        let _guard = AbortOnPanic;
        body();
    };
    std::thread::Builder::new().name(name).spawn(guarded).map_err(|error| cannot_start(&error))
}

fn cannot_start(error: &std::io::Error) -> Fatal {
    Fatal::config(format!("the router cannot start: {error}"))
}
