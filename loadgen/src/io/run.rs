//! A run from its options to its report: plan, connect, make conversations, send, settle, read histories, judge.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carillon_node::clock::Clock;
use carillon_node::prng::Prng;
use carillon_node::random;
use serde_json::Value;

use super::carrier::Choice;
use super::control::{Control, Phase, Plan};
use super::display::{Display, Moment};
use super::engine::{Engine, JOURNAL_TROUBLE, Setup};
use super::inputs::Tokens;
use super::observer::{LOOK, Observer};
use super::watch::Sample;
use super::{inputs, machine, outputs, rest};
use crate::hlog::{Log, StepLog};
use crate::options::{self, Machine, Options};
use crate::oracle::{Judge, Ledger, Roster, Verdict, to_last};
use crate::plan;
use crate::report::{Course, Findings, INVALID, Idle, StepReport, judge_step, text};
use crate::schedule::Rates;
use crate::series::row_ns;
use crate::share;
use crate::stats::Stats;
use crate::thresholds;
use crate::turn::{Shared, Window};
use crate::view::Doing;

/// Everybody has to be connected after this, the time that was asked for, and a while for each client.
const CONNECT_NS: u64 = 60_000_000_000;
const CONNECT_NS_PER_CLIENT: u64 = 10_000_000;
/// Between the plan and the first message, so that every thread has the plan by then.
const LEAD_NS: u64 = 200_000_000;
/// A start that is further away is a mistake.
const START_AT_MS_MAX: u64 = 86_400_000;
/// A thread that has not handed everything over by then is stuck.
const HAND_OVER_NS: u64 = 30_000_000_000;

/// Clients between dialling and caught up, of all threads: a storm of our own making is not what is measured.
const OPENING_MAX: usize = 256;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status: [`crate::report::GOOD`], [`crate::report::VIOLATION`],
    /// [`crate::report::INVALID`] or [`crate::report::MISSED`].
    pub exit: u8,
    /// The report; absent when the plan was refused.
    pub report: Option<Value>,
    /// The same for people, or the sentence that refuses the plan.
    pub text: String,
    /// Whether it is that sentence.
    pub is_refusal: bool,
}

impl Outcome {
    /// Nothing was done, because of this.
    #[must_use]
    pub fn refused(sentence: &str) -> Outcome {
        Outcome { exit: INVALID, report: None, text: format!("loadgen: {sentence}"), is_refusal: true }
    }
}

/// Runs. Prints progress on standard error; writes the files that the options name.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    let ran = match options.worker {
        None => Run::prepare(options).and_then(Run::execute),
        Some(worker) => share::of(worker, options).and_then(|own| Run::prepare(&own).and_then(Run::execute)),
    };
    ran.unwrap_or_else(|sentence| Outcome::refused(&sentence))
}

/// Says how sockets are carried, and why it is not the first choice if it is not.
fn tell_carrier(carrier: Choice, engines: usize, machine: &Machine, why_not: Option<&str>) {
    let because = why_not.map(|why| format!(" (uring is refused here: {why})")).unwrap_or_default();
    eprintln!(
        "sockets by {}{because} · {engines} threads · from {} source addresses",
        carrier.name(),
        machine.addresses_count
    );
}

/// The generator's own CPU and memory.
fn own_sample() -> Sample {
    Sample::take(&[std::process::id()], &[])
}

/// What a log says of each step.
fn step_logs(rates: &Rates, stats: &Stats) -> Vec<StepLog> {
    let mut start = Duration::from_nanos(rates.warmup_ns());
    let steps = stats.steps.iter().enumerate().map(|(place, step)| {
        let end = Duration::from_nanos(rates.step_end_ns(place));
        let length = end.saturating_sub(start);
        let log = StepLog {
            start,
            length,
            to_ack: step.to_ack.clone(),
            to_delivered: step.to_delivered.clone(),
            lag: step.lag.clone(),
        };
        start = end;
        log
    });
    steps.collect()
}

struct Run<'o> {
    options: &'o Options,
    run: u32,
    users: Vec<u64>,
    tokens: Arc<Tokens>,
    carrier: Choice,
    engines: usize,
    control: Arc<Control>,
    before: Sample,
    /// The generator itself, before it has clients.
    own_before: Sample,
    started_wall_ms: u64,
}

type Threads = Vec<std::thread::JoinHandle<io::Result<Ledger>>>;

/// What the sending part found.
#[derive(Default)]
struct Sent {
    steps: Vec<StepReport>,
    invalid: Vec<String>,
}

impl<'o> Run<'o> {
    /// Refuses what cannot work, before anything starts.
    fn prepare(options: &'o Options) -> Result<Run<'o>, String> {
        let given = options.tokens.as_deref().map(inputs::read_tokens).transpose()?;
        // A file of tokens is of the whole scenario.
        let first = options.share.map_or(0, |share| share.first_client as usize);
        let server = *options.server.first().ok_or("--server names no address")?;
        let (carrier, why_not) = Choice::of(options.io)?;
        let machine = machine::allowed(server, carrier == Choice::Uring);
        options::check(options, given.as_ref().map(|given| given.len().saturating_sub(first)), &machine)?;
        let count = options.clients as usize;
        let (users, tokens) = match given {
            Some(given) => {
                let (users, tokens) = given.into_iter().skip(first).take(count).unzip();
                (users, Tokens::Given(tokens))
            }
            None => Tokens::sign(options)?,
        };
        let mut distinct = users.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < count {
            return Err("--tokens holds two tokens of one user: each client is a user of its own".to_owned());
        }
        let before = Sample::take(&options.server_pid, &options.metrics);
        if let Some(complaint) = before.complaints.first() {
            return Err(complaint.clone());
        }
        if options.idle && options.server_pid.is_empty() && options.metrics.is_empty() {
            return Err(
                "--idle measures the server's memory: name it with --server-pid or --metrics".to_owned()
            );
        }
        let engines = machine.engines_count(options.clients, options.threads);
        tell_carrier(carrier, engines, &machine, why_not.as_deref());
        let control = Arc::new(Control::new(engines));
        Ok(Run {
            options,
            run: random::seed() as u32,
            users,
            tokens: Arc::new(tokens),
            carrier,
            engines,
            control,
            before,
            own_before: own_sample(),
            started_wall_ms: Clock.wall_ms(),
        })
    }

    fn execute(self) -> Result<Outcome, String> {
        let mut display = Display::open(self.options, self.control.clone())?;
        let threads = self.start()?;
        let prepared = self.connect(&threads, &mut display).and_then(|opened_s| {
            display.announce(&Moment { doing: Doing::Preparing, elapsed_ns: 0, length_ns: 0, course: None });
            Ok((opened_s, self.make_plan()?))
        });
        let (opened_s, plan) = match prepared {
            Ok(prepared) => prepared,
            Err(sentence) => {
                self.stop(threads)?;
                return Err(sentence);
            }
        };
        let (course, log, mut sent, idle) = if self.options.idle {
            let (idle, course, invalid) = self.stay(&plan, opened_s, &mut display);
            (course, Log::default(), Sent { invalid, ..Sent::default() }, Some(idle))
        } else {
            let keeps_histograms = self.options.hlog_path().is_some();
            let mut observer = Observer::new(&self.control, &plan, &mut display, keeps_histograms);
            let mut sent = self.send(&plan, &mut observer);
            self.settle(&plan, &mut observer, &mut sent);
            observer.announce(Doing::Judging);
            let (course, log) = self.course(&plan, observer);
            (course, log, sent, None)
        };
        let live = self.control.live.load(Ordering::SeqCst);
        // Of an idle run that is a figure, and what it has to be a threshold.
        if live < self.options.clients && !self.options.idle {
            sent.invalid
                .push(format!("{live} of {} clients were connected at the end", self.options.clients));
        }
        let ledgers = self.stop(threads)?;
        let to_last = to_last(&ledgers, plan.window.measure_from_ns);
        let to_last_us = to_last.summary();
        if let [step] = sent.steps.as_mut_slice() {
            step.to_last_us = to_last_us;
        }
        let verdict = self.judge(&plan, ledgers, &mut sent.invalid);
        let stats = self.control.total();
        if stats.troubles.contains_key(JOURNAL_TROUBLE) {
            sent.invalid.push(JOURNAL_TROUBLE.to_owned());
        }
        if let Some(path) = self.options.hlog_path() {
            let steps = step_logs(&plan.window.rates, &stats);
            let heartbeat = stats.heartbeat.clone();
            let start_wall_ms = plan.start_wall_ms;
            outputs::write_hlog(&path, &Log { start_wall_ms, steps, to_last, heartbeat, ..log })?;
        }
        let findings = Findings {
            run: self.run,
            commit: machine::commit(),
            machine: machine::facts(self.carrier.name(), self.engines),
            started_wall_ms: self.started_wall_ms,
            verdict,
            stats,
            steps: sent.steps,
            to_last_us,
            course,
            idle,
            invalid: sent.invalid,
        };
        let mut report = findings.report(self.options);
        thresholds::apply(&self.options.thresholds(), &mut report);
        outputs::write(&report, &self.options.outputs)?;
        let json = serde_json::to_value(&report).map_err(|error| error.to_string())?;
        Ok(Outcome { exit: report.exit, report: Some(json), text: text::lines(&report), is_refusal: false })
    }

    /// Once the schedule is over.
    fn course(&self, plan: &Plan, observer: Observer<'_>) -> (Course, Log) {
        let Window { start_ns, measure_from_ns, row_ns, .. } = plan.window;
        let seconds = |at_ns: u64| at_ns.saturating_sub(start_ns) as f64 / 1e9;
        let (rows, packed) = observer.finish();
        let row_s = row_ns / 1_000_000_000;
        let course = Course {
            start_wall_ms: plan.start_wall_ms,
            row_s,
            measured_from_s: seconds(measure_from_ns),
            measured_to_s: seconds(self.control.stop_ns.load(Ordering::SeqCst)),
            rows,
        };
        (course, Log { rows: packed, row_s, ..Log::default() })
    }

    fn start(&self) -> Result<Threads, String> {
        let options = self.options;
        let count = options.clients as usize;
        // Until there is a plan, everybody is in no conversation.
        let plan = Arc::new(Plan {
            roster: Arc::new(Roster::new(self.run, self.users.clone(), Vec::new())),
            shared: Shared::new(0),
            window: Window {
                start_ns: 0,
                measure_from_ns: u64::MAX,
                rates: Rates::new(0, &[]),
                steps_end: false,
                row_ns: u64::MAX,
            },
            start_wall_ms: 0,
            outlets: Vec::new(),
        });
        let mut root = Prng::new(options.seed);
        // Workers that draw the same would all send at the same moments.
        for _ in 1..options.worker.map_or(1, |worker| worker.number) {
            root = root.fork();
        }
        let share = count.div_ceil(self.engines).max(1);
        let mut threads = Vec::new();
        for index in 0..self.engines {
            let (first, end) = ((index * share).min(count), ((index + 1) * share).min(count));
            let setup = Setup {
                index,
                engines: self.engines,
                first_client: u32::try_from(first).unwrap_or(u32::MAX),
                clients: u32::try_from(end - first).unwrap_or(u32::MAX),
                carrier: self.carrier,
                tokens: self.tokens.clone(),
                open_every_ns: (self.engines as f64 * 1e9 / options.open_rate) as u64,
                opening_max: OPENING_MAX.div_ceil(self.engines),
                servers: options.server.clone(),
                addresses_count: machine::ADDRESSES_COUNT,
                wire: options.encoding.wire(),
                content_bytes: options.content_bytes,
                media: options.media,
                receipts: options.receipts,
                mix: options.mix,
                arrivals: options.arrivals,
                in_flight: options.in_flight,
                retry: options.retry,
                manners: options.manners.clone(),
                prng: root.fork(),
                journal: options.journal.as_deref().map(outputs::open_journal).transpose()?,
            };
            let (control, plan) = (self.control.clone(), plan.clone());
            let thread = std::thread::Builder::new()
                .name(format!("loadgen-{index}"))
                .spawn(move || Engine::new(control, setup, plan)?.run())
                .map_err(|error| format!("thread {index} cannot start: {error}"))?;
            threads.push(thread);
        }
        Ok(threads)
    }

    /// Until everybody has caught up; returns how long it took, in seconds.
    fn connect(&self, threads: &Threads, display: &mut Display) -> Result<f64, String> {
        let started_ns = Clock.now_ns();
        let clients = self.options.clients;
        let paced_ns = (f64::from(clients) * 1e9 / self.options.open_rate) as u64;
        let until_ns = started_ns + CONNECT_NS + CONNECT_NS_PER_CLIENT * u64::from(clients) + paced_ns;
        loop {
            let live = self.control.live.load(Ordering::SeqCst);
            if live >= clients {
                break;
            }
            if threads.iter().any(std::thread::JoinHandle::is_finished) {
                return Err("a thread of the generator ended early".to_owned());
            }
            if self.control.stopped.load(Ordering::SeqCst) > 0 || Clock.now_ns() > until_ns {
                let stats = self.control.total();
                let troubles: Vec<_> =
                    stats.troubles.iter().map(|(words, count)| format!("{words} ({count} times)")).collect();
                return Err(format!("{live} of {clients} clients could connect: {}", troubles.join(", ")));
            }
            let elapsed_ns = Clock.now_ns() - started_ns;
            display.show(&Moment { doing: Doing::Connecting, elapsed_ns, length_ns: 0, course: None });
            std::thread::sleep(LOOK);
        }
        options::check_rate(self.options, self.control.send_per_s.load(Ordering::SeqCst))?;
        Ok((Clock.now_ns() - started_ns) as f64 / 1e9)
    }

    fn make_plan(&self) -> Result<Arc<Plan>, String> {
        let options = self.options;
        let planned = plan::conversations(options);
        let server = *options.server.first().ok_or("--server names no address")?;
        let conversations = rest::make(server, options.seed, &planned, &self.users, &self.tokens)?;
        let outlets = plan::outlets(options, &planned);
        let (start_ns, start_wall_ms) = self.start_time()?;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let rates = options.rates();
        let plan = Arc::new(Plan {
            shared: Shared::new(conversations.len()),
            roster: Arc::new(Roster::new(self.run, self.users.clone(), conversations)),
            window: Window {
                start_ns,
                measure_from_ns: start_ns + rates.warmup_ns(),
                rates,
                steps_end: options.ramp.is_some(),
                row_ns: row_ns(nanoseconds(options.send_time())),
            },
            start_wall_ms,
            outlets,
        });
        if !options.idle {
            let stop_ns = start_ns.saturating_add(nanoseconds(options.send_time()));
            self.control.stop_ns.store(stop_ns, Ordering::SeqCst);
            // It is set here alone, once.
            let _ = self.control.plan.set(plan.clone());
            self.control.enter(Phase::Run);
        }
        Ok(plan)
    }

    /// When the schedule starts, on the clock and in milliseconds of Unix time.
    fn start_time(&self) -> Result<(u64, u64), String> {
        let (now_ns, now_wall_ms) = (Clock.now_ns(), Clock.wall_ms());
        let soonest_wall_ms = now_wall_ms + LEAD_NS / 1_000_000;
        let start_wall_ms = match self.options.start_at {
            None => soonest_wall_ms,
            Some(start_s) => start_s.saturating_mul(1_000),
        };
        if start_wall_ms < soonest_wall_ms {
            let late_ms = soonest_wall_ms - start_wall_ms;
            return Err(format!(
                "all clients were connected {late_ms} ms too late for --start-at: name a later time"
            ));
        }
        let wait_ms = start_wall_ms - now_wall_ms;
        if wait_ms > START_AT_MS_MAX {
            return Err("--start-at is more than a day from now".to_owned());
        }
        Ok((now_ns + wait_ms * 1_000_000, start_wall_ms))
    }

    /// Lets the schedule run; a ramp until it saturates.
    fn send(&self, plan: &Plan, observer: &mut Observer<'_>) -> Sent {
        let mut sent = Sent::default();
        let Window { start_ns, measure_from_ns, rates, steps_end, .. } = &plan.window;
        let sample = || Sample::take(&self.options.server_pid, &self.options.metrics);
        let stages = if *steps_end { 0 } else { rates.steps().len() };
        observer.doing = Doing::Sending { stage: 0, stages, per_s: rates.start_per_s() };
        observer.wait_until(*measure_from_ns);
        let mut earlier = sample();
        let mut begun_ns = rates.warmup_ns();
        for (index, stage) in rates.steps().iter().enumerate() {
            let end_ns = rates.step_end_ns(index);
            observer.doing = Doing::Sending { stage: index + 1, stages, per_s: stage.mean_per_s() };
            observer.wait_until(start_ns.saturating_add(end_ns));
            let later = sample();
            let step = self.control.total().steps.into_iter().nth(index).unwrap_or_default();
            let cpu = later.us_per_message(&earlier, step.acked_count);
            let seconds = (end_ns - begun_ns) as f64 / 1e9;
            let report = judge_step(stage.mean_per_s(), seconds, &step, cpu, self.options.ramp_p99_ms);
            (earlier, begun_ns) = (later, end_ns);
            let is_saturated = report.saturated.is_some();
            sent.steps.push(report);
            if is_saturated && *steps_end {
                break;
            }
        }
        self.control.stop_ns.fetch_min(Clock.now_ns(), Ordering::SeqCst);
        sent
    }

    /// Waits until everything was handed over, answered, and delivered (G7).
    fn settle(&self, plan: &Plan, observer: &mut Observer<'_>, sent: &mut Sent) {
        observer.doing = Doing::Settling;
        let all = || self.control.sent_all.load(Ordering::SeqCst) as usize >= self.engines;
        if !observer.wait_for(HAND_OVER_NS, &all) {
            sent.invalid.push("the generator did not get through its schedule".to_owned());
        }
        let settle_ns = u64::try_from(self.options.settle.as_nanos()).unwrap_or(u64::MAX);
        let unanswered = || plan.shared.unanswered.load(Ordering::SeqCst);
        if !observer.wait_for(settle_ns, &|| unanswered() <= 0) {
            sent.invalid.push(format!("{} messages were never answered", unanswered()));
        }
        self.control.enter(Phase::Deliver);
        // What is missing after this the oracle finds lost.
        observer.wait_for(settle_ns, &|| {
            self.control.settled.iter().all(|settled| settled.load(Ordering::SeqCst))
        });
        if plan.window.steps_end {
            return;
        }
        // The slowest messages are those that came last: all of them count, except as achieved in time.
        for (step, whole) in sent.steps.iter_mut().zip(self.control.total().steps) {
            let (cpu, achieved_per_s) = (std::mem::take(&mut step.cpu_us_per_message), step.achieved_per_s);
            *step = judge_step(step.rate_per_s, step.seconds, &whole, cpu, self.options.ramp_p99_ms);
            step.achieved_per_s = achieved_per_s;
        }
    }

    /// Keeps idle connections.
    fn stay(&self, plan: &Plan, opened_s: f64, display: &mut Display) -> (Idle, Course, Vec<String>) {
        let connections = self.options.clients;
        let sample = || (Sample::take(&self.options.server_pid, &self.options.metrics), own_sample());
        // With the other workers, whose connections the server holds as well.
        if self.options.start_at.is_some() {
            while Clock.now_ns() < plan.window.start_ns {
                std::thread::sleep(LOOK);
            }
        }
        let (earlier, own_earlier) = sample();
        let (begun_ns, begun_wall_ms) = (Clock.now_ns(), Clock.wall_ms());
        let length_ns = u64::try_from(self.options.duration.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = begun_ns.saturating_add(length_ns);
        while Clock.now_ns() < until_ns {
            std::thread::sleep(LOOK);
            let elapsed_ns = Clock.now_ns() - begun_ns;
            display.show(&Moment { doing: Doing::Holding, elapsed_ns, length_ns, course: None });
        }
        let alive = self.control.live.load(Ordering::SeqCst);
        let held_s = (Clock.now_ns() - begun_ns) as f64 / 1e9;
        let (after, own_after) = sample();
        let total = self.control.total();
        let each_bytes = |before: &Sample, after: &Sample| {
            after.memory_bytes.saturating_sub(before.memory_bytes) / u64::from(connections.max(1))
        };
        let each_us = |earlier: &Sample, later: &Sample| {
            let us =
                (later.cpu_s() - earlier.cpu_s()).max(0.0) * 1e6 / held_s / f64::from(connections.max(1));
            (us * 1e3).round() / 1e3
        };
        let idle = Idle {
            connections,
            memory_before_bytes: self.before.memory_bytes,
            memory_after_bytes: after.memory_bytes,
            bytes_per_connection: each_bytes(&self.before, &after),
            opened_s,
            held_s,
            alive,
            lost: total.lost_count,
            heartbeat_us: total.heartbeat.summary(),
            cpu_us_per_connection_s: each_us(&earlier, &after),
            generator_bytes_per_connection: each_bytes(&self.own_before, &own_after),
            generator_cpu_us_per_connection_s: each_us(&own_earlier, &own_after),
        };
        let course = Course { start_wall_ms: begun_wall_ms, measured_to_s: held_s, ..Course::default() };
        (idle, course, after.complaints)
    }

    fn stop(&self, threads: Threads) -> Result<Vec<Ledger>, String> {
        self.control.enter(Phase::Stop);
        let mut ledgers = Vec::new();
        for thread in threads {
            let ended = thread.join().map_err(|_| "a thread of the generator panicked".to_owned())?;
            ledgers.push(ended.map_err(|error| format!("a thread of the generator failed: {error}"))?);
        }
        Ok(ledgers)
    }

    fn judge(&self, plan: &Plan, ledgers: Vec<Ledger>, invalid: &mut Vec<String>) -> Verdict {
        let mut judge = Judge::new(plan.roster.clone(), ledgers);
        if !self.options.history {
            return judge.finish_without_histories();
        }
        if let Some(server) = self.options.server.first()
            && let Err(sentence) = rest::tell(*server, &plan.roster, &self.tokens, &mut judge)
        {
            invalid.push(format!("the history could not be read: {sentence}"));
            // Without a whole history nothing can be called lost; what was seen on the way still counts.
            return judge.abandon();
        }
        judge.finish()
    }
}
