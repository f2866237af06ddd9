//! A run from its options to its report: plan, connect, make conversations, send, settle, read histories, judge.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_node::clock::Clock;
use carillon_node::prng::Prng;
use carillon_node::{random, tokens};
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::Value;

use super::control::{Control, Phase, Plan};
use super::engine::{Engine, JOURNAL_TROUBLE, Setup};
use super::watch::Sample;
use super::{machine, rest};
use crate::options::{self, Options};
use crate::oracle::{Judge, Ledger, Roster, Verdict, to_last};
use crate::plan;
use crate::report::{Findings, INVALID, Idle, StepReport};
use crate::schedule::{Rate, STEPS_MAX};
use crate::stats::Stats;
use crate::turn::{Shared, Window};

/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(20);
const PROGRESS_NS: u64 = 1_000_000_000;
/// Everybody has to be connected after this, and a while for each client.
const CONNECT_NS: u64 = 60_000_000_000;
const CONNECT_NS_PER_CLIENT: u64 = 10_000_000;
/// Between the plan and the first message, so that every thread has the plan by then.
const LEAD_NS: u64 = 200_000_000;
/// A token outlives its run by this.
const TOKEN_SPARE_S: u64 = 24 * 3_600;
/// A thread that has not handed everything over by then is stuck.
const HAND_OVER_NS: u64 = 30_000_000_000;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status: [`crate::report::GOOD`], [`crate::report::VIOLATION`] or [`crate::report::INVALID`].
    pub exit: u8,
    /// The report; absent when the plan was refused.
    pub report: Option<Value>,
    /// The same for people, or the sentence that refuses the plan.
    pub text: String,
}

/// Runs. Prints progress on standard error; writes the files that the options name.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    match Run::prepare(options).and_then(Run::execute) {
        Ok(outcome) => outcome,
        Err(sentence) => Outcome { exit: INVALID, report: None, text: format!("loadgen: {sentence}") },
    }
}

struct Run<'o> {
    options: &'o Options,
    run: u32,
    users: Vec<u64>,
    tokens: Vec<String>,
    control: Arc<Control>,
    before: Sample,
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
        let given = options.tokens.as_deref().map(read_tokens).transpose()?;
        let server = *options.server.first().ok_or("--server names no address")?;
        let machine = machine::allowed(server);
        options::check(options, given.as_ref().map(Vec::len), &machine)?;
        let count = options.clients as usize;
        let (users, tokens) = match given {
            Some(given) => given.into_iter().take(count).unzip(),
            None => sign_tokens(options)?,
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
        let control = Arc::new(Control::new(options.threads));
        Ok(Run { options, run: random::seed() as u32, users, tokens, control, before })
    }

    fn execute(self) -> Result<Outcome, String> {
        let threads = self.start()?;
        let prepared = self.connect().and_then(|()| self.make_plan());
        let plan = match prepared {
            Ok(plan) => plan,
            Err(sentence) => {
                self.stop(threads)?;
                return Err(sentence);
            }
        };
        let (mut sent, idle) = if self.options.idle {
            let (idle, invalid) = self.stay();
            (Sent { steps: Vec::new(), invalid }, Some(idle))
        } else {
            let mut sent = self.send(&plan);
            self.settle(&plan, &mut sent);
            (sent, None)
        };
        let live = self.control.live.load(Ordering::SeqCst);
        if live < self.options.clients {
            sent.invalid
                .push(format!("{live} of {} clients were connected at the end", self.options.clients));
        }
        let ledgers = self.stop(threads)?;
        if let Some(step) = sent.steps.first_mut() {
            step.to_last_us = to_last(&ledgers, plan.window.measure_from_ns).summary();
        }
        let verdict = self.judge(&plan, ledgers, &mut sent.invalid);
        let stats = self.control.total();
        if stats.troubles.contains_key(JOURNAL_TROUBLE) {
            sent.invalid.push(JOURNAL_TROUBLE.to_owned());
        }
        self.finish(Findings {
            run: self.run,
            commit: machine::commit(),
            machine: machine::facts(),
            verdict,
            stats,
            steps: sent.steps,
            idle,
            invalid: sent.invalid,
        })
    }

    fn start(&self) -> Result<Threads, String> {
        let options = self.options;
        let count = options.clients as usize;
        // Until there is a plan, everybody is in no conversation.
        let plan = Arc::new(Plan {
            roster: Arc::new(Roster::new(self.run, self.users.clone(), Vec::new())),
            shared: Shared::new(0),
            window: Window { start_ns: 0, measure_from_ns: u64::MAX, rate: Rate::flat(1.0) },
            outlets: Vec::new(),
        });
        let mut root = Prng::new(options.seed);
        let share = count.div_ceil(options.threads).max(1);
        let mut threads = Vec::new();
        for index in 0..options.threads {
            let (first, end) = ((index * share).min(count), ((index + 1) * share).min(count));
            let setup = Setup {
                index,
                threads: options.threads,
                first_client: u32::try_from(first).unwrap_or(u32::MAX),
                tokens: self.tokens.get(first..end).unwrap_or_default().to_vec(),
                servers: options.server.clone(),
                addresses_count: machine::ADDRESSES_COUNT,
                wire: options.encoding.wire(),
                content_bytes: options.content_bytes,
                receipts: options.receipts,
                mix: options.mix,
                arrivals: options.arrivals,
                in_flight: options.in_flight,
                retry: options.retry,
                prng: root.fork(),
                journal: options.journal.as_deref().map(open_journal).transpose()?,
            };
            let engine = Engine::new(self.control.clone(), setup, plan.clone())
                .map_err(|error| format!("thread {index} cannot start: {error}"))?;
            let thread = std::thread::Builder::new()
                .name(format!("loadgen-{index}"))
                .spawn(move || engine.run())
                .map_err(|error| format!("thread {index} cannot start: {error}"))?;
            threads.push(thread);
        }
        Ok(threads)
    }

    fn connect(&self) -> Result<(), String> {
        let clients = self.options.clients;
        let until_ns = Clock.now_ns() + CONNECT_NS + CONNECT_NS_PER_CLIENT * u64::from(clients);
        let mut progress = Progress::new();
        loop {
            let live = self.control.live.load(Ordering::SeqCst);
            if live >= clients {
                break;
            }
            let stats = self.control.total();
            if stats.stopped > 0 || Clock.now_ns() > until_ns {
                let troubles: Vec<_> =
                    stats.troubles.iter().map(|(words, count)| format!("{words} ({count} times)")).collect();
                return Err(format!("{live} of {clients} clients could connect: {}", troubles.join(", ")));
            }
            progress.show(|| format!("connecting: {live} of {clients}"));
            std::thread::sleep(LOOK);
        }
        options::check_rate(self.options, self.control.send_per_s.load(Ordering::SeqCst))
    }

    fn make_plan(&self) -> Result<Arc<Plan>, String> {
        let options = self.options;
        let planned = plan::conversations(options);
        let server = *options.server.first().ok_or("--server names no address")?;
        let conversations = rest::make(server, options.seed, &planned, &self.users, &self.tokens)?;
        let outlets = plan::outlets(options, &planned);
        let start_ns = Clock.now_ns() + LEAD_NS;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let warmup_ns = if options.ramp.is_some() { 0 } else { nanoseconds(options.warmup) };
        let plan = Arc::new(Plan {
            shared: Shared::new(conversations.len()),
            roster: Arc::new(Roster::new(self.run, self.users.clone(), conversations)),
            window: Window { start_ns, measure_from_ns: start_ns + warmup_ns, rate: options.schedule_rate() },
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

    /// Lets the schedule run; a ramp until it saturates.
    fn send(&self, plan: &Plan) -> Sent {
        let mut sent = Sent::default();
        let Window { start_ns, measure_from_ns, rate } = plan.window;
        let stop_ns = self.control.stop_ns.load(Ordering::SeqCst);
        let mut progress = Progress::new();
        let sample = || Sample::take(&self.options.server_pid, &self.options.metrics);
        let mut wait_until = |until_ns: u64| {
            while Clock.now_ns() < until_ns {
                std::thread::sleep(LOOK.min(Duration::from_nanos(until_ns.saturating_sub(Clock.now_ns()))));
                progress.show(|| progress_text(start_ns, plan, &self.control.total()));
            }
        };
        wait_until(measure_from_ns);
        let mut earlier = sample();
        let p99_ms_max = self.options.ramp_p99_ms;
        if self.options.ramp.is_none() {
            wait_until(stop_ns);
            let later = sample();
            let step = self.control.total().steps.into_iter().next().unwrap_or_default();
            let seconds = stop_ns.saturating_sub(measure_from_ns) as f64 / 1e9;
            let cpu = later.us_per_message(&earlier, step.acked_count);
            sent.steps.push(StepReport::new(rate.start_per_s, seconds, &step, cpu, p99_ms_max));
            return sent;
        }
        for index in 0..STEPS_MAX {
            wait_until(start_ns + (index as u64 + 1) * rate.step_ns);
            let later = sample();
            let step = self.control.total().steps.into_iter().nth(index).unwrap_or_default();
            let cpu = later.us_per_message(&earlier, step.acked_count);
            let seconds = rate.step_ns as f64 / 1e9;
            let report = StepReport::new(rate.per_s(index), seconds, &step, cpu, p99_ms_max);
            earlier = later;
            let is_saturated = report.saturated.is_some();
            sent.steps.push(report);
            if is_saturated {
                break;
            }
        }
        self.control.stop_ns.fetch_min(Clock.now_ns(), Ordering::SeqCst);
        sent
    }

    /// Waits until everything was handed over, answered, and delivered (G7).
    fn settle(&self, plan: &Plan, sent: &mut Sent) {
        let wait = |limit_ns: u64, is_done: &dyn Fn() -> bool| {
            let until_ns = Clock.now_ns().saturating_add(limit_ns);
            while !is_done() && Clock.now_ns() < until_ns {
                std::thread::sleep(LOOK);
            }
            is_done()
        };
        let threads = self.options.threads;
        let all = || self.control.sent_all.load(Ordering::SeqCst) as usize >= threads;
        if !wait(HAND_OVER_NS, &all) {
            sent.invalid.push("the generator did not get through its schedule".to_owned());
        }
        let settle_ns = u64::try_from(self.options.settle.as_nanos()).unwrap_or(u64::MAX);
        let unanswered = || plan.shared.unanswered.load(Ordering::SeqCst);
        if !wait(settle_ns, &|| unanswered() <= 0) {
            sent.invalid.push(format!("{} messages were never answered", unanswered()));
        }
        self.control.enter(Phase::Deliver);
        // What is missing after this the oracle finds lost.
        wait(settle_ns, &|| self.control.settled.iter().all(|settled| settled.load(Ordering::SeqCst)));
        if let Some(step) = sent.steps.first_mut()
            && self.options.ramp.is_none()
        {
            // The slowest messages are those that came last: a flat run counts all of them.
            let whole = self.control.total().steps.into_iter().next().unwrap_or_default();
            let cpu = std::mem::take(&mut step.cpu_us_per_message);
            let achieved_per_s = step.achieved_per_s;
            let seconds = self.options.duration.as_secs_f64();
            *step = StepReport::new(step.rate_per_s, seconds, &whole, cpu, self.options.ramp_p99_ms);
            step.achieved_per_s = achieved_per_s;
        }
    }

    /// Keeps idle connections.
    fn stay(&self) -> (Idle, Vec<String>) {
        let until_ns = Clock.now_ns() + u64::try_from(self.options.duration.as_nanos()).unwrap_or(u64::MAX);
        let mut progress = Progress::new();
        while Clock.now_ns() < until_ns {
            std::thread::sleep(LOOK);
            progress.show(|| format!("idle: {} connected", self.control.live.load(Ordering::SeqCst)));
        }
        let after = Sample::take(&self.options.server_pid, &self.options.metrics);
        let mut invalid = after.complaints;
        let reconnects = self.control.total().reconnects;
        if reconnects > 0 {
            invalid.push(format!("{reconnects} idle connections were lost"));
        }
        let connections = self.options.clients;
        let grown_bytes = after.memory_bytes.saturating_sub(self.before.memory_bytes);
        let idle = Idle {
            connections,
            memory_before_bytes: self.before.memory_bytes,
            memory_after_bytes: after.memory_bytes,
            bytes_per_connection: grown_bytes / u64::from(connections.max(1)),
        };
        (idle, invalid)
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

    fn finish(&self, findings: Findings) -> Result<Outcome, String> {
        let report = findings.json(self.options);
        if let Some(path) = &self.options.report {
            let text = format!("{report:#}\n");
            fs::write(path, text)
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
        if let Some(path) = &self.options.hlog {
            write_hlog(path, &findings.stats, self.options)
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
        let exit = findings.exit(&self.options.schedule_rate());
        Ok(Outcome { exit, report: Some(report), text: findings.text(self.options) })
    }
}

fn sign_tokens(options: &Options) -> Result<(Vec<u64>, Vec<String>), String> {
    let keys = tokens::dev_key(&options.data_dir).map_err(|fatal| fatal.to_string())?;
    let now_s = Clock.wall_ms() / 1_000;
    let mut claims = tokens::Claims {
        user_id: 0,
        device_id: "loadgen".to_owned(),
        issued_s: now_s,
        expires_s: now_s + options.send_time().as_secs() + options.duration.as_secs() + TOKEN_SPARE_S,
        name: None,
        scope: String::new(),
    };
    let users: Vec<u64> = (options.users..).take(options.clients as usize).collect();
    let mut signed = Vec::with_capacity(users.len());
    for user in &users {
        claims.user_id = *user;
        signed.push(keys.sign(&claims).map_err(|error| format!("a token cannot be signed: {error}"))?);
    }
    Ok((users, signed))
}

/// The tokens of a file with the users they are of. Nothing is verified: that is the server's.
fn read_tokens(path: &Path) -> Result<Vec<(u64, String)>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let user = |token: &str| {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        carillon_protocol::ids::parse_id(claims.get("sub")?.as_str()?)
    };
    (1..)
        .zip(lines)
        .map(|(line, token)| Ok((user(token), line, token)))
        .map(|read: Result<_, String>| {
            let (user, line, token) = read?;
            let user =
                user.ok_or_else(|| format!("line {line} of {} is not a token with a user", path.display()))?;
            Ok((user, token.to_owned()))
        })
        .collect()
}

fn open_journal(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

fn write_hlog(path: &Path, stats: &Stats, options: &Options) -> io::Result<()> {
    let mut out = Vec::new();
    let mut serializer = V2Serializer::new();
    {
        let mut builder = IntervalLogWriterBuilder::new();
        builder.add_comment("microseconds from the intended time").with_max_value_divisor(1_000.0);
        let mut log = builder.begin_log_with(&mut out, &mut serializer)?;
        let length = options.ramp.map_or(options.duration, |ramp| Duration::from_secs(ramp.step_s));
        for (step, start) in stats.steps.iter().zip(0u32..) {
            for (name, latency) in
                [("ack", &step.to_ack), ("delivered", &step.to_delivered), ("lag", &step.lag)]
            {
                log.write_histogram(&latency.0, length * start, length, Tag::new(name))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
    }
    fs::write(path, out)
}

fn progress_text(start_ns: u64, plan: &Plan, stats: &Stats) -> String {
    let (step, now) = match stats.steps.last() {
        Some(step) => (step, step.to_ack.summary()),
        None => return "warming up".to_owned(),
    };
    let elapsed_s = Clock.now_ns().saturating_sub(start_ns) / 1_000_000_000;
    format!(
        "{elapsed_s} s · intended {} · acked {} · delivered {} · unanswered {} · p99 to ack {:.1} ms",
        step.intended_count,
        step.acked_count,
        step.delivered_count,
        plan.shared.unanswered.load(Ordering::SeqCst),
        now.p99_us as f64 / 1e3
    )
}

/// One line a second on standard error; on a terminal always the same line.
struct Progress {
    next_ns: u64,
    is_terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { next_ns: Clock.now_ns() + PROGRESS_NS, is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        if Clock.now_ns() < self.next_ns {
            return;
        }
        self.next_ns = Clock.now_ns() + PROGRESS_NS;
        let text = text();
        let line = if self.is_terminal { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        // Nobody may be listening; that is no reason to end.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
