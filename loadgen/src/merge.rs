//! One report of several: what workers that ran at once against one server found together. Histograms are added from the
//! workers' logs, bucket by bucket, so every quantile is that of all messages; counts and rates are sums, row by row of wall
//! time; thresholds are judged again.
//!
//! # Invariants
//! - Pure, and the same in whatever order the workers are named.
//! - Reports that are not the parts of one scenario, each of them once and all at the same time, are refused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::hlog::{Log, RowLog, StepLog};
use crate::oracle::{EXAMPLES_MAX, Tally};
use crate::report::{
    Asked, AskedWorker, Course, Found, GOOD, Generator, INVALID, Idle, Machine, Report, StepReport,
    VIOLATION, Word, WorkerReport, curves, judge_step, whole_report,
};
use crate::series::Row;
use crate::stats::{Latency, Step};
use crate::thresholds::{self, Threshold};

/// The measured times of all workers have this share of theirs in common: rates that were not there at once do not add up.
const COMMON_SHARE_MIN: f64 = 0.9;

/// How near to each other numbers are that are the same: shares of rates are rounded.
const ALIKE: f64 = 1e-6;

/// What one worker wrote.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is called in sentences: its file.
    pub name: String,
    /// Its report.
    pub report: Report,
    /// Its histograms.
    pub log: Log,
}

struct Worker {
    name: String,
    asked: AskedWorker,
    report: Report,
    log: Log,
}

/// Merges.
///
/// # Errors
/// One sentence that says what does not belong together.
pub fn merge(parts: Vec<Part>) -> Result<(Report, Log), String> {
    let workers = sorted(parts)?;
    check_alike(&workers)?;
    check_at_once(&workers)?;
    workers.iter().try_for_each(check_log)?;
    let [first, ..] = workers.as_slice() else { return Err("there is nothing to merge".to_owned()) };
    let log = Log { row_s: first.report.series.row_s, ..merged_log(&workers)? };
    let mut whole = Step::default();
    let mut steps = Vec::new();
    for (place, step_log) in log.steps.iter().enumerate() {
        let step = step(step_log);
        whole.merge(&step);
        steps.push(step_report(&workers, place, &step));
    }
    let to_last_us = log.to_last.summary();
    if let [step] = steps.as_mut_slice() {
        step.to_last_us = to_last_us;
    }
    let (oracle, invalid_because) = (oracle(&workers), invalid(&workers));
    let (exit, verdict) = if oracle.violations.values().any(|count| *count > 0) {
        (VIOLATION, Word::Violation)
    } else if invalid_because.is_empty() {
        (GOOD, Word::Good)
    } else {
        (INVALID, Word::Invalid)
    };
    let mut report = Report {
        commit: commit(&workers).unwrap_or("unknown").to_owned(),
        machine: machine(&workers),
        run: workers.iter().map(|worker| worker.report.run.as_str()).collect::<Vec<_>>().join(","),
        started_wall_ms: workers.iter().map(|worker| worker.report.started_wall_ms).min().unwrap_or(0),
        options: asked(&workers),
        exit,
        verdict,
        invalid_because,
        thresholds: Vec::new(),
        workers: workers.iter().map(|worker| told(worker, log.start_wall_ms)).collect(),
        oracle,
        generator: generator(&workers),
        troubles: troubles(&workers),
        whole: whole_report(&whole, &steps, to_last_us),
        steps,
        saturates_at_per_s: None,
        limit: None,
        idle: idle(&workers, &log.heartbeat),
        curves: curves(&whole),
        series: course(&workers, &log)?,
        ..first.report.clone()
    };
    let asked: Result<Vec<Threshold>, String> =
        first.report.thresholds.iter().map(|threshold| threshold.threshold.parse()).collect();
    thresholds::apply(&asked?, &mut report);
    Ok((report, log))
}

/// By their numbers, each of which is there once.
fn sorted(parts: Vec<Part>) -> Result<Vec<Worker>, String> {
    let mut workers = parts
        .into_iter()
        .map(|Part { name, report, log }| match report.options.worker {
            Some(asked) => Ok(Worker { name, asked, report, log }),
            None => Err(format!("{name} is of a whole run: those of --worker 1/N to N/N are merged")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    workers.sort_by(|one, other| (one.asked.number, &one.name).cmp(&(other.asked.number, &other.name)));
    for pair in workers.windows(2) {
        if let [one, other] = pair
            && one.asked.number == other.asked.number
        {
            return Err(format!("{} and {} are both of worker {}", one.name, other.name, one.asked.number));
        }
    }
    let of = workers.first().map_or(0, |worker| worker.asked.of);
    let there: BTreeSet<u32> = workers.iter().map(|worker| worker.asked.number).collect();
    if let Some(missing) = (1..=of).find(|number| !there.contains(number)) {
        return Err(format!("worker {missing} of {of} is missing"));
    }
    Ok(workers)
}

/// Refuses what is not of one scenario, one server version, and one set of thresholds.
fn check_alike(workers: &[Worker]) -> Result<(), String> {
    let Some((first, others)) = workers.split_first() else { return Ok(()) };
    let shape = scenario(first)?;
    for other in others {
        let unlike = |what: &str, here: &Value, there: &Value| {
            format!(
                "{} is of another scenario than {}: its {what} is {here}, not {there}",
                other.name, first.name
            )
        };
        for (key, value) in scenario(other)? {
            let expected = shape.get(&key).unwrap_or(&Value::Null);
            if !is_alike(&value, expected) {
                return Err(unlike(&key, &value, expected));
            }
        }
        let of = |worker: &Worker| -> Value {
            worker.report.thresholds.iter().map(|each| each.threshold.clone()).collect::<Vec<_>>().into()
        };
        if of(other) != of(first) {
            return Err(unlike("thresholds", &of(other), &of(first)));
        }
        if other.report.series.row_s != first.report.series.row_s {
            return Err(format!("{} and {} have rows of other lengths", first.name, other.name));
        }
    }
    let commits: BTreeSet<&str> = known_commits(workers).collect();
    if commits.len() > 1 {
        let commits: Vec<_> = commits.into_iter().collect();
        return Err(format!("the workers tested different commits: {}", commits.join(", ")));
    }
    Ok(())
}

fn known_commits(workers: &[Worker]) -> impl Iterator<Item = &str> {
    workers.iter().map(|worker| worker.report.commit.as_str()).filter(|commit| *commit != "unknown")
}

fn commit(workers: &[Worker]) -> Option<&str> {
    known_commits(workers).next()
}

/// What a worker's options say about the scenario: with what is a worker's alone taken out, and its share made whole.
fn scenario(worker: &Worker) -> Result<serde_json::Map<String, Value>, String> {
    let Worker { asked, report, .. } = worker;
    let mut options = report.options.clone();
    let share = f64::from(options.clients.max(1)) / f64::from(asked.all_clients.max(1));
    options.clients = asked.all_clients;
    options.first_user = options.first_user.saturating_sub(u64::from(asked.first_client));
    options.rate_per_s /= share;
    for stage in &mut options.stages {
        stage.from_per_s /= share;
        stage.to_per_s /= share;
    }
    // Each is told the way to the server that is nearest, and has as many threads as its machine.
    (options.server, options.threads) = (Vec::new(), 0);
    options.worker = Some(AskedWorker { number: 0, first_client: 0, ..*asked });
    match serde_json::to_value(options) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(format!("{} has no options", worker.name)),
    }
}

fn is_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap_or(f64::NAN), other.as_f64().unwrap_or(f64::NAN));
            (one - other).abs() <= ALIKE * one.abs().max(other.abs())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| is_alike(value, other)))
        }
        _ => one == other,
    }
}

/// Refuses workers that did not measure at the same time.
fn check_at_once(workers: &[Worker]) -> Result<(), String> {
    let mut common = (f64::MIN, f64::MAX);
    let mut longest_s = 0.0f64;
    for Worker { name, report, .. } in workers {
        let Course { start_wall_ms, measured_from_s, measured_to_s, .. } = report.series;
        if start_wall_ms == 0 {
            return Err(format!("{name} does not say when it started: an older loadgen wrote it"));
        }
        let start_s = start_wall_ms as f64 / 1e3;
        common = (common.0.max(start_s + measured_from_s), common.1.min(start_s + measured_to_s));
        longest_s = longest_s.max(measured_to_s - measured_from_s);
    }
    let common_s = (common.1 - common.0).max(0.0);
    if common_s < COMMON_SHARE_MIN * longest_s {
        return Err(format!(
            "the workers measured for {longest_s:.1} s, and {common_s:.1} s of that at once: start them at the same time, with \
             --start-at"
        ));
    }
    Ok(())
}

/// Refuses a log that is not the one of its report.
fn check_log(worker: &Worker) -> Result<(), String> {
    let Worker { name, report, log, .. } = worker;
    let told = report.steps.iter().map(|step| (step.to_ack_us, step.to_delivered_us, step.generator_lag_us));
    let kept =
        log.steps.iter().map(|step| (step.to_ack.summary(), step.to_delivered.summary(), step.lag.summary()));
    if log.start_wall_ms != report.series.start_wall_ms || !told.eq(kept) {
        return Err(format!("the log beside {name} is not of its run"));
    }
    Ok(())
}

/// How many rows later than the first worker's this one's schedule started.
fn rows_late(worker: &Worker, start_wall_ms: u64) -> u64 {
    let row_ms = worker.report.series.row_s.max(1) * 1_000;
    (worker.report.series.start_wall_ms.saturating_sub(start_wall_ms) + row_ms / 2) / row_ms
}

fn start_wall_ms(workers: &[Worker]) -> u64 {
    workers.iter().map(|worker| worker.report.series.start_wall_ms).min().unwrap_or(0)
}

/// Where a row of a worker is in the merged course.
fn merged_t_s(worker: &Worker, start_wall_ms: u64, t_s: u64) -> u64 {
    t_s + rows_late(worker, start_wall_ms) * worker.report.series.row_s
}

fn merged_log(workers: &[Worker]) -> Result<Log, String> {
    let mut merged = Log { start_wall_ms: start_wall_ms(workers), ..Log::default() };
    let mut rows: BTreeMap<u64, (Latency, Latency)> = BTreeMap::new();
    for worker in workers {
        let log = &worker.log;
        for (place, step) in log.steps.iter().enumerate() {
            if merged.steps.len() <= place {
                merged.steps.push(StepLog { start: step.start, length: step.length, ..StepLog::default() });
            }
            if let Some(into) = merged.steps.get_mut(place) {
                into.to_ack.merge(&step.to_ack);
                into.to_delivered.merge(&step.to_delivered);
                into.lag.merge(&step.lag);
            }
        }
        merged.to_last.merge(&log.to_last);
        merged.heartbeat.merge(&log.heartbeat);
        for (t_s, row) in &log.rows {
            let (to_ack, to_delivered) = row.unpack().map_err(|words| format!("{}: {words}", worker.name))?;
            let into = rows.entry(merged_t_s(worker, merged.start_wall_ms, *t_s)).or_default();
            into.0.merge(&to_ack);
            into.1.merge(&to_delivered);
        }
    }
    let packed =
        rows.into_iter().map(|(t_s, (to_ack, to_delivered))| (t_s, RowLog::new(&to_ack, &to_delivered)));
    merged.rows = packed.collect();
    Ok(merged)
}

fn course(workers: &[Worker], log: &Log) -> Result<Course, String> {
    let row_s = log.row_s.max(1);
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let (mut measured_from_s, mut measured_to_s) = (0.0f64, f64::MAX);
    for worker in workers {
        let series = &worker.report.series;
        for row in &series.rows {
            let into = rows.entry(merged_t_s(worker, log.start_wall_ms, row.t_s)).or_default();
            into.intended += row.intended;
            into.acked += row.acked;
            into.delivered += row.delivered;
            into.refused += row.refused;
            into.errors += row.errors;
        }
        let late_s = merged_t_s(worker, log.start_wall_ms, 0) as f64;
        measured_from_s = measured_from_s.max(late_s + series.measured_from_s);
        measured_to_s = measured_to_s.min(late_s + series.measured_to_s);
    }
    let end_s = rows.keys().next_back().map_or(0, |last| last + row_s);
    let rows = (0..end_s / row_s).map(|place| {
        let t_s = place * row_s;
        let unpacked = log.rows.get(&t_s).map(RowLog::unpack).transpose()?;
        let (to_ack, to_delivered) = unpacked.unwrap_or_default();
        let counts = rows.get(&t_s).copied().unwrap_or_default();
        Ok(Row { t_s, to_ack_us: to_ack.summary(), to_delivered_us: to_delivered.summary(), ..counts })
    });
    Ok(Course {
        start_wall_ms: log.start_wall_ms,
        row_s: log.row_s,
        measured_from_s,
        measured_to_s,
        rows: rows.collect::<Result<_, String>>()?,
    })
}

/// The figures of a step, as one generator would have had them: each message that was to leave has a lag.
fn step(log: &StepLog) -> Step {
    Step {
        intended_count: log.lag.0.len(),
        acked_count: log.to_ack.0.len(),
        delivered_count: log.to_delivered.0.len(),
        lag: log.lag.clone(),
        to_ack: log.to_ack.clone(),
        to_delivered: log.to_delivered.clone(),
    }
}

fn step_report(workers: &[Worker], place: usize, step: &Step) -> StepReport {
    let all: Vec<&StepReport> = workers.iter().filter_map(|worker| worker.report.steps.get(place)).collect();
    let rate_per_s = all.iter().map(|step| step.rate_per_s).sum();
    let seconds = all.first().map_or(0.0, |step| step.seconds);
    let p99_ms_max = workers.first().map_or(0, |worker| worker.report.options.saturated_p99_ms);
    StepReport {
        // What came in time, and not after everything was waited for.
        achieved_per_s: all.iter().map(|step| step.achieved_per_s).sum(),
        ..judge_step(rate_per_s, seconds, step, cpu_us_per_message(&all), p99_ms_max)
    }
}

/// Each worker that watched the server saw all of its CPU, and divided it by its own messages.
fn cpu_us_per_message(steps: &[&StepReport]) -> BTreeMap<String, f64> {
    let per_s: f64 = steps.iter().map(|step| step.achieved_per_s).sum();
    let watchers = steps.iter().filter(|step| !step.cpu_us_per_message.is_empty());
    let share = 1.0 / (watchers.clone().count().max(1) as f64 * per_s.max(f64::MIN_POSITIVE));
    let mut cpu_us = BTreeMap::new();
    for step in watchers {
        for (tier, us) in &step.cpu_us_per_message {
            *cpu_us.entry(tier.clone()).or_insert(0.0) += us * step.achieved_per_s * share;
        }
    }
    cpu_us.values_mut().for_each(|us: &mut f64| *us = (*us * 100.0).round() / 100.0);
    cpu_us
}

fn oracle(workers: &[Worker]) -> Found {
    let mut violations: BTreeMap<String, u64> = BTreeMap::new();
    let (mut examples, mut tally, mut history_messages) = (Vec::new(), Tally::default(), 0);
    for worker in workers {
        let found = &worker.report.oracle;
        for (kind, count) in &found.violations {
            *violations.entry(kind.clone()).or_default() += count;
        }
        let number = worker.asked.number;
        examples.extend(found.examples.iter().map(|words| format!("worker {number}: {words}")));
        tally += found.tally;
        history_messages += found.history_messages;
    }
    examples.truncate(EXAMPLES_MAX);
    Found { violations, examples, tally, history_messages }
}

fn invalid(workers: &[Worker]) -> Vec<String> {
    let of = |worker: &Worker| {
        let number = worker.asked.number;
        let words =
            worker.report.invalid_because.iter().map(move |words| format!("worker {number}: {words}"));
        words.collect::<Vec<_>>()
    };
    workers.iter().flat_map(of).collect()
}

fn told(worker: &Worker, start_wall_ms: u64) -> WorkerReport {
    let report = &worker.report;
    WorkerReport {
        number: worker.asked.number,
        machine: report.machine.clone(),
        run: report.run.clone(),
        late_ms: report.series.start_wall_ms.saturating_sub(start_wall_ms),
        clients: report.options.clients,
        first_user: report.options.first_user,
        acked: report.oracle.tally.acked,
        to_ack_us: report.whole.to_ack_us,
        generator_lag_us: report.whole.generator_lag_us,
        violations: report.oracle.violations.clone(),
        verdict: report.verdict,
    }
}

/// That of the first worker, with the threads of all.
fn machine(workers: &[Worker]) -> Machine {
    let first = workers.first().map(|worker| worker.report.machine.clone()).unwrap_or_default();
    Machine { engines: workers.iter().map(|worker| worker.report.machine.engines).sum(), ..first }
}

/// The whole scenario.
fn asked(workers: &[Worker]) -> Asked {
    let mut all = workers.iter().map(|worker| worker.report.options.clone());
    let mut whole = all.next().expect("there are workers");
    for more in all {
        whole.server.extend(more.server);
        whole.clients += more.clients;
        whole.threads += more.threads;
        whole.rate_per_s += more.rate_per_s;
        for (stage, more) in whole.stages.iter_mut().zip(more.stages) {
            stage.from_per_s += more.from_per_s;
            stage.to_per_s += more.to_per_s;
        }
    }
    whole.server.sort_unstable();
    whole.server.dedup();
    Asked { worker: None, ..whole }
}

fn generator(workers: &[Worker]) -> Generator {
    let mut sum = Generator::default();
    for Worker { report, .. } in workers {
        let Generator { due, on_time, dropped, reconnects, stopped, presence } = report.generator;
        sum.due += due;
        sum.on_time += on_time;
        sum.dropped += dropped;
        sum.reconnects += reconnects;
        sum.stopped += stopped;
        sum.presence += presence;
    }
    sum
}

fn troubles(workers: &[Worker]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (words, count) in workers.iter().flat_map(|worker| &worker.report.troubles) {
        *all.entry(words.clone()).or_default() += count;
    }
    all
}

/// Each worker saw all of the server, with everybody's connections, and of the generators only itself.
fn idle(workers: &[Worker], heartbeat: &Latency) -> Option<Idle> {
    let all: Vec<Idle> = workers.iter().map(|worker| worker.report.idle).collect::<Option<_>>()?;
    let connections: u32 = all.iter().map(|idle| idle.connections).sum();
    let each = f64::from(connections.max(1));
    let own = |of: &dyn Fn(&Idle) -> f64| -> f64 {
        all.iter().map(|idle| of(idle) * f64::from(idle.connections)).sum::<f64>() / each
    };
    let before = all.iter().map(|idle| idle.memory_before_bytes).min()?;
    let after = all.iter().map(|idle| idle.memory_after_bytes).max()?;
    let longest = |of: fn(&Idle) -> f64| all.iter().map(of).fold(0.0, f64::max);
    Some(Idle {
        connections,
        memory_before_bytes: before,
        memory_after_bytes: after,
        bytes_per_connection: after.saturating_sub(before) / u64::from(connections.max(1)),
        opened_s: longest(|idle| idle.opened_s),
        held_s: all.iter().map(|idle| idle.held_s).fold(f64::MAX, f64::min),
        alive: all.iter().map(|idle| idle.alive).sum(),
        lost: all.iter().map(|idle| idle.lost).sum(),
        heartbeat_us: heartbeat.summary(),
        cpu_us_per_connection_s: own(&|idle| idle.cpu_us_per_connection_s) / all.len() as f64,
        generator_bytes_per_connection: own(&|idle| idle.generator_bytes_per_connection as f64) as u64,
        generator_cpu_us_per_connection_s: own(&|idle| idle.generator_cpu_us_per_connection_s),
    })
}

#[cfg(test)]
mod tests;
