//! The ground floor: the thread that owns a [`Shard`](crate::shard::Shard), its lanes, and the threads that commit and read for it.
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
mod life;
mod membership;
mod reader;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use carillon_link::doorbell::Doorbell;
use carillon_link::{Arrival, Dial, Mailbox, Wake};
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metrics::{Meter, Registry};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::error::CommitError;
use carillon_store::txn::Engine;
use carillon_store::verb::Incarnation;
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::time::{ClockId, clock_gettime};

use crate::Settings;
use crate::lease::{self, ANSWERS_FOR_MS, DEAD_AFTER_MS};
use crate::meters::{Role, ThreadMetric};
use crate::outbox::Output;
use crate::shard::{Input, Undone};
use lanes::Lanes;
use life::{Ground, Life, Report};

/// Lanes that may arrive in one turn. Beyond: the connector is told to try again.
const ARRIVALS_MAX: usize = 256;
/// Answers taken in one turn: the rest waits for the next, so that lanes have their turn too.
const ANSWERS_TURN_MAX: usize = 1_024;
/// How often gauges and the thread's CPU time are published.
const PUBLISH_MS: u64 = 100;
/// A turn that took longer may have been asleep: what it would answer may be old, and whoever asked is to ask anew.
const TURN_MS_MAX: u64 = 250;
/// How soon a new life is tried again that could not begin.
const LIFE_RETRY: Duration = Duration::from_millis(200);

// G10: what memory answered at the end of a beat's time has left before anybody else may own it.
const _: () = assert!(ANSWERS_FOR_MS + TURN_MS_MAX < DEAD_AFTER_MS);

/// Called with what went wrong when the store failed: has to end the process with its status, at once.
pub type OnFailure = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Whether other routers may stand on the same store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// None does: this one owns everything as long as it lives, and whoever was before is dead.
    Sole,
    /// Several share the slots.
    Shared,
}

/// What a router stands on.
pub struct Needs {
    /// The store.
    pub engine: Arc<dyn Engine>,
    /// Whether it is shared.
    pub tenure: Tenure,
    /// Where gateways and other routers reach this one: "host:port".
    pub address: String,
    /// How it reaches other routers.
    pub dial: Arc<dyn Dial>,
    /// See [`OnFailure`].
    pub on_failure: OnFailure,
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
    tenure: Tenure,
    engine: Arc<dyn Engine>,
    orders: Sender<Order>,
    drained: Receiver<()>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

/// Claims or joins the store and starts the threads of a router.
///
/// # Errors
/// The store could not be claimed, or the process has no threads or descriptors left.
pub fn start(settings: &Settings, needs: Needs, metrics: &Registry) -> Result<Handle, Fatal> {
    let Needs { engine, tenure, address, dial, on_failure } = needs;
    figures::show(metrics, &engine);
    let bell = Doorbell::new().map_err(|error| cannot_start(&error))?;
    let wake: Arc<dyn Wake> = bell.clone();
    let (mailbox, arrivals) = Mailbox::new(ARRIVALS_MAX, Arc::clone(&wake));
    let (order, orders) = bounded(2);
    let (drain, drained) = bounded(1);
    let ground = Ground {
        settings: settings.clone(),
        engine: Arc::clone(&engine),
        metrics: metrics.clone(),
        tenure,
        address,
        wake,
    };
    let claim =
        ground.claim().map_err(|error| Fatal::disk(format!("the store cannot be claimed: {error}")))?;
    let life = ground.begin(claim)?;
    let incarnation = life.incarnation;
    let router = Router {
        ground,
        life,
        lanes: Lanes::default(),
        bell: Arc::clone(&bell),
        arrivals,
        orders,
        is_to_drain: false,
        drained: drain,
        dial,
        on_failure,
        cpu: Cpu::new(metrics, Role::Router),
        publish_at: Time(0),
    };
    let thread = Some(spawn("router".to_owned(), move || router.run())?);
    Ok(Handle { mailbox, incarnation, tenure, engine, orders: order, drained, bell, thread })
}

impl Handle {
    /// Where lanes of gateway shards are put, local ones and those of QUIC alike.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// The number of its first life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether there may be others beside it, who take over what it owns while its lanes are still up.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.tenure == Tenure::Shared
    }

    /// Takes nothing new and finishes what was taken, or gives everything away to others, for `timeout` at most.
    pub fn drain(&self, timeout: Duration) {
        self.order(Order::Drain);
        // When it takes longer, the thread says at its end what is not done.
        let _ = self.drained.recv_timeout(timeout);
    }

    /// Ends the threads and closes the store.
    ///
    /// # Errors
    /// The store failed at its end.
    pub fn close(mut self) -> Result<(), Fatal> {
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
        if let Some(thread) = self.thread.take() {
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
    ground: Ground,
    life: Life,
    lanes: Lanes,
    bell: Arc<Doorbell>,
    arrivals: Receiver<Arrival>,
    orders: Receiver<Order>,
    is_to_drain: bool,
    drained: Sender<()>,
    dial: Arc<dyn Dial>,
    on_failure: OnFailure,
    cpu: Cpu,
    publish_at: Time,
}

/// Whether the thread goes on.
enum Then {
    Again,
    Sleep,
    NewLife,
    End,
}

impl Router {
    fn run(mut self) {
        self.bell.drain();
        while self.live() {
            match self.begin_anew() {
                Some(router) => self = router,
                None => return,
            }
        }
        for thread in self.life.end() {
            let _ = thread.join();
        }
    }

    /// Until the process ends (`false`), or this life is over.
    fn live(&mut self) -> bool {
        loop {
            let now = Time(Clock.now_ns());
            let timeout = match self.turn(now) {
                Then::End => return false,
                Then::NewLife => return true,
                Then::Again => Some(Duration::ZERO),
                Then::Sleep => self.life.shard.poll_timeout().map(|at| at.since(now)),
            };
            if now >= self.publish_at {
                self.publish_at = now.after_ms(PUBLISH_MS);
                self.life.shard.gauge();
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

    /// Others have taken everything: begins again from the store, with nothing in memory and no lane. `None`: the process
    /// ends.
    fn begin_anew(mut self) -> Option<Router> {
        tracing::warn!(
            incarnation = self.life.incarnation.0,
            "declared dead by another router; beginning anew"
        );
        self.lanes.close_all();
        // What reads for nobody comes to its end by itself.
        drop(self.life.end());
        loop {
            match self.ground.claim() {
                Ok(claim) => match self.ground.begin(claim) {
                    Ok(life) => return Some(Router { life, ..self }),
                    Err(fatal) => {
                        (self.on_failure)(fatal);
                        return None;
                    }
                },
                Err(error) => tracing::warn!(%error, "the store cannot be joined; trying again"),
            }
            // An order ends the waiting; anything else can wait for it.
            if let Ok(order) = self.orders.recv_timeout(LIFE_RETRY) {
                if let Order::Drain = order {
                    let _ = self.drained.try_send(());
                    continue;
                }
                return None;
            }
        }
    }

    fn turn(&mut self, now: Time) -> Then {
        let Router { life, lanes, .. } = self;
        for order in self.orders.try_iter() {
            match order {
                Order::Drain => self.is_to_drain = true,
                Order::Stop => {
                    life.shard.undone().into_iter().for_each(say_undone);
                    return Then::End;
                }
            }
        }
        life.shard.handle(now, Input::Wall(WallMs(Clock.wall_ms())));
        for report in life.reports.try_iter() {
            let input = match report {
                Report::Committed { commit_lane, at, results } => {
                    let results =
                        results.into_iter().map(|result| result.map_err(committer::failure)).collect();
                    Input::Committed { commit_lane, at, results }
                }
                Report::Failed(sentence) => Input::StoreFailed(sentence),
            };
            life.shard.handle(now, input);
        }
        for told in life.told.try_iter() {
            life.shard.handle(now, Input::Lease(told));
        }
        for (ticket, answer) in life.answers.try_iter().take(ANSWERS_TURN_MAX) {
            life.shard.handle(now, Input::Answered { ticket, answer });
        }
        for arrival in self.arrivals.try_iter() {
            lanes.arrived(now, arrival, &mut life.shard);
        }
        let more_frames = lanes.receive(now, &mut life.shard);
        // A router that is alone hears to their ends the lanes of gateways that have gone: who left is to be written down.
        if self.is_to_drain && !(more_frames && self.ground.tenure == Tenure::Sole) {
            self.is_to_drain = false;
            life.shard.handle(now, Input::Drain);
        }
        life.shard.handle(now, Input::Tick);
        self.forget_if_asleep(now);
        // Closing a lane that overflowed is an input, which may give new outputs; each lane overflows once.
        loop {
            while let Some(output) = self.life.shard.poll_output() {
                match self.act(output) {
                    Then::Sleep | Then::Again => {}
                    then => return then,
                }
            }
            if !self.lanes.flush(now, &mut self.life.shard) {
                break;
            }
        }
        let is_due = self.life.shard.poll_timeout().is_some_and(|at| at <= now);
        if more_frames || is_due || !self.life.answers.is_empty() { Then::Again } else { Then::Sleep }
    }

    /// A process that was paused in the middle of a turn knows what was so before: nobody is to hear it (G10, F26).
    fn forget_if_asleep(&mut self, began: Time) {
        let is_shared = self.ground.tenure == Tenure::Shared;
        if is_shared && Time(Clock.now_ns()) > began.after_ms(TURN_MS_MAX) {
            tracing::warn!("a turn took too long; all lanes begin anew");
            for lane in self.lanes.close_all() {
                self.life.shard.handle(began, Input::LaneDown { lane });
            }
        }
    }

    fn act(&mut self, output: Output) -> Then {
        match output {
            Output::Frame { lane, frame } => self.lanes.send(lane, frame),
            Output::CloseLane { lane } => self.lanes.close(lane),
            Output::Commit { commit_lane, ops } => {
                // One batch in flight a lane, so there is room; a committer that is gone has aborted the process.
                if let Some(commit) = self.life.commits.get(usize::from(commit_lane)) {
                    commit.try_send(ops).expect("the committer of an idle lane takes a batch");
                }
            }
            Output::Query { ticket, query } => {
                self.life.query.try_send((ticket, query)).expect("the queue holds all open questions");
            }
            Output::Lease(order) => {
                let is_poll = matches!(order, lease::Output::Poll);
                let orders = if is_poll { &self.life.polls } else { &self.life.orders };
                orders.try_send(order).expect("a lease has one of each under way");
            }
            Output::Dial { address } => self.dial.dial(&address),
            Output::HangUp { address } => self.dial.hang_up(&address),
            Output::Over => return Then::NewLife,
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

/// What is written down nowhere when the drain was cut short. Messages are none of it: they are acknowledged when they are
/// stored, and handed on again by whoever is next.
fn say_undone(undone: Undone) {
    let Undone { operations, receipts, absences, conversations } = undone;
    tracing::warn!(
        operations,
        receipts,
        absences,
        conversations,
        "the router did not drain in time; operations were not answered, receipts come again, of absences \"last seen\" is not \
         written, and what is not handed on yet in conversations is at the next start, or by others"
    );
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
