//! What is told at the end, in four forms: [JSON](Report) for programs, [lines](text) for a terminal, a [table](csv) of
//! the run's course, and a [page](html) to look at.
//!
//! # Invariants
//! - Everything that is told is in [`Report`]: the other forms are functions of it, so a report can be read again and
//!   shown, compared and merged later.
//! - Within one version of the schema, fields are added and never change their meaning.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::oracle::Tally;
use crate::series::Row;
use crate::stats::Summary;

pub mod csv;
mod findings;
pub mod html;
mod plot;
pub mod text;

pub use findings::{Findings, judge_probe, judge_step};
pub(crate) use findings::{curves, whole_report};

/// Every promise was kept.
pub const GOOD: u8 = 0;
/// A promise was broken.
pub const VIOLATION: u8 = 2;
/// The plan could not work, or the generator was late: the run says nothing about the server.
pub const INVALID: u8 = 3;
/// Every promise was kept, and a threshold was missed.
pub const MISSED: u8 = 99;

/// The version of the schema: `docs/loadgen-report.schema.json`.
pub const SCHEMA: &str = "carillon-loadgen-report/1";

/// A run in which messages left later than this (99 of 100) measured the generator.
pub const LAG_P99_US_MAX: u64 = 10_000;
/// Of the messages that were due, this share has to be handed over in time.
pub const ON_TIME_SHARE_MIN: f64 = 0.99;
/// A step that achieves less of its rate is saturated.
pub const ACHIEVED_SHARE_MIN: f64 = 0.98;

/// The report of one run of loadgen.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Report {
    /// Which schema this is: `carillon-loadgen-report/1`.
    pub schema: String,
    /// The generator's version.
    pub carillon_loadgen: String,
    /// The commit under test, as far as it is known.
    pub commit: String,
    /// Where the generator ran.
    pub machine: Machine,
    /// The run's number, in hexadecimal; it is in every message.
    pub run: String,
    /// When the run started: milliseconds of Unix time.
    pub started_wall_ms: u64,
    /// What was asked for.
    pub options: Asked,
    /// The exit status of loadgen.
    pub exit: u8,
    /// The same in a word.
    pub verdict: Word,
    /// Why the run says nothing about the server; empty when it does.
    pub invalid_because: Vec<String>,
    /// What the run had to reach.
    pub thresholds: Vec<ThresholdReport>,
    /// The workers whose reports this one was merged from; empty in the report of one run.
    #[serde(default)]
    pub workers: Vec<WorkerReport>,
    /// What the oracle found.
    pub oracle: Found,
    /// How the generator itself did.
    pub generator: Generator,
    /// What went wrong and is not for the oracle: how often, by words.
    pub troubles: BTreeMap<String, u64>,
    /// The whole measured time.
    pub whole: Whole,
    /// By step of the rate: one for a flat run.
    pub steps: Vec<StepReport>,
    /// Where a rising rate saturated.
    pub saturates_at_per_s: Option<f64>,
    /// What a search found; its probes are the steps, by their rates.
    pub limit: Option<Limit>,
    /// Memory of idle connections, in a run that measured it.
    pub idle: Option<Idle>,
    /// Latencies of the whole measured time, as curves.
    pub curves: Curves,
    /// The run's course.
    pub series: Course,
}

impl Report {
    /// Makes the report of the last probe that of the search: what one probe measured alone is in its step.
    pub fn take_probes(&mut self, mut probes: Vec<StepReport>) {
        probes.sort_by(|one, other| one.rate_per_s.total_cmp(&other.rate_per_s));
        self.steps = probes;
        self.whole = Whole::default();
        self.series = Course::default();
        self.curves = Curves::default();
        let Some(limit) = &self.limit else { return };
        self.saturates_at_per_s = limit.saturates_per_s;
        // That a probe beyond the limit came to nothing is what was searched for.
        if self.verdict != Word::Violation {
            let none = "no rate held: begin lower, with --from, or allow more with --p99-ms".to_owned();
            self.invalid_because = if limit.holds_per_s.is_none() { vec![none] } else { Vec::new() };
            let is_good = self.invalid_because.is_empty();
            (self.exit, self.verdict) = if is_good { (GOOD, Word::Good) } else { (INVALID, Word::Invalid) };
        }
    }
}

/// One worker of a merged run.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct WorkerReport {
    /// Its number, from 1 on.
    pub number: u32,
    /// Where it ran.
    pub machine: Machine,
    /// Its run's number, in hexadecimal.
    pub run: String,
    /// How much later than the first worker's its schedule started.
    pub late_ms: u64,
    /// Its clients.
    pub clients: u32,
    /// The first of them.
    pub first_user: u64,
    /// Messages of its clients that were acknowledged.
    pub acked: u64,
    /// Intended to acknowledged.
    pub to_ack_us: Summary,
    /// How late it was itself.
    pub generator_lag_us: Summary,
    /// Broken promises that its oracle found, by kind.
    pub violations: BTreeMap<String, u64>,
    /// What it came to alone.
    pub verdict: Word,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Every promise was kept.
    Good,
    /// A promise was broken.
    Violation,
    /// The run says nothing.
    Invalid,
    /// Every promise was kept, and a threshold was missed.
    Missed,
}

/// A machine.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Its hardware threads.
    pub threads: usize,
    /// The system and its release.
    pub kernel: String,
    /// Of RAM.
    pub memory_bytes: u64,
    /// How the generator's sockets were carried: `uring` or `epoll`; empty when nobody wrote it down.
    #[serde(default)]
    pub io: String,
    /// Threads that clients were divided between: with `uring`, rings.
    #[serde(default)]
    pub engines: usize,
}

/// What was asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Asked {
    /// The server's addresses.
    pub server: Vec<String>,
    /// Connected clients.
    pub clients: u32,
    /// The scenario's name, when it was one.
    pub scenario: Option<String>,
    /// Messages a second at the start; 0 in a closed loop.
    pub rate_per_s: f64,
    /// A closed loop: so many messages of each pair were on their way.
    pub in_flight: Option<usize>,
    /// How the rate went, in a scenario.
    pub stages: Vec<AskedStage>,
    /// When connections were cut.
    pub storms: Vec<AskedStorm>,
    /// Who read slowly.
    pub slow_readers: Option<AskedSlow>,
    /// Each client watched the presence of so many others.
    pub watch: u32,
    /// A rate that rises until it saturates.
    pub ramp: Option<AskedRamp>,
    /// Nothing was sent.
    pub idle: bool,
    /// How long was measured.
    pub duration_ms: u64,
    /// How long messages were not measured at the start.
    pub warmup_ms: u64,
    /// The WebSocket subprotocol.
    pub encoding: String,
    /// Where messages went.
    pub mix: AskedMix,
    /// Members of a group.
    pub group_size: u32,
    /// Bytes of content in a message.
    pub content_bytes: usize,
    /// What clients confirmed: `none`, `delivered` or `read`.
    pub receipts: String,
    /// How gaps between messages were drawn: `poisson` or `uniform`.
    pub arrivals: String,
    /// The first user's id.
    pub first_user: u64,
    /// Threads of the generator.
    pub threads: usize,
    /// What decided schedule and conversations.
    pub seed: u64,
    /// Whether lost connections were made anew.
    pub retry: bool,
    /// Whether histories were read at the end.
    pub history: bool,
    /// A step whose p99 from intended to acknowledged was above this counts as saturated, in milliseconds.
    #[serde(default)]
    pub saturated_p99_ms: u64,
    /// Which part of the scenario this was, if not all of it.
    #[serde(default)]
    pub worker: Option<AskedWorker>,
}

/// A worker's part of a scenario.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedWorker {
    /// Its number, from 1 on.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// Its first client, among all.
    pub first_client: u32,
    /// Clients of all workers.
    pub all_clients: u32,
}

/// A rate that rises.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedRamp {
    /// Each step's rate is this times the one before.
    pub factor: f64,
    /// How long a step is.
    pub step_s: u64,
}

/// A stage: the rate went evenly from one to the other.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedStage {
    /// Messages a second at its start.
    pub from_per_s: f64,
    /// And at its end.
    pub to_per_s: f64,
    /// How long it was.
    pub length_ms: u64,
}

/// Connections that were cut at the same time.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedStorm {
    /// Since the end of the warm-up.
    pub at_ms: u64,
    /// Of the clients.
    pub share: f64,
    /// How long they stayed away; null: they came back as after any loss.
    #[serde(default)]
    pub away_ms: Option<u64>,
}

/// Clients that read slowly.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedSlow {
    /// Of the clients.
    pub share: f64,
    /// What they read.
    pub bytes_per_s: u64,
}

/// Shares of the messages.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AskedMix {
    /// Into conversations of two.
    pub one_to_one: f64,
    /// Into groups.
    pub group: f64,
    /// Of all messages, those that are media.
    #[serde(default)]
    pub media: f64,
}

/// A bound on a figure.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct ThresholdReport {
    /// As it was given.
    pub threshold: String,
    /// What the run came to; null when it does not know.
    pub value: Option<f64>,
    /// Whether it was reached.
    pub is_met: bool,
}

/// What the oracle found.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Found {
    /// Broken promises by kind; all kinds are there.
    pub violations: BTreeMap<String, u64>,
    /// The first of them in words.
    pub examples: Vec<String>,
    /// How much was looked at.
    pub tally: Tally,
    /// Messages in the histories that were read at the end.
    pub history_messages: u64,
}

/// How the generator itself did.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Generator {
    /// Messages whose intended time came.
    pub due: u64,
    /// Of them handed over before the run was over.
    pub on_time: u64,
    /// Messages that found too many of their sender's waiting, and were not sent at all.
    pub dropped: u64,
    /// Connections that were lost and made anew.
    pub reconnects: u64,
    /// Clients that stopped for good.
    pub stopped: u64,
    /// How often clients were told how another user is.
    pub presence: u64,
}

/// The whole measured time.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Whole {
    /// Messages meant to leave in it.
    pub intended: u64,
    /// Acknowledged per second.
    pub achieved_per_s: f64,
    /// Intended to acknowledged.
    pub to_ack_us: Summary,
    /// Intended to delivered.
    pub to_delivered_us: Summary,
    /// Intended to the last member of a group; its count is of messages.
    pub to_last_us: Summary,
    /// How late the generator was.
    pub generator_lag_us: Summary,
    /// Microseconds of the server's CPU per acknowledged message, by tier.
    pub cpu_us_per_message: BTreeMap<String, f64>,
}

/// One step of the rate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct StepReport {
    /// Asked for.
    pub rate_per_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// Acknowledged in it, per second.
    pub achieved_per_s: f64,
    /// Intended to acknowledged.
    pub to_ack_us: Summary,
    /// Intended to delivered.
    pub to_delivered_us: Summary,
    /// Intended to the last member of a group, where this step is the only one; its count is of messages.
    pub to_last_us: Summary,
    /// How late the generator was.
    pub generator_lag_us: Summary,
    /// Microseconds of the server's CPU per acknowledged message, by tier.
    pub cpu_us_per_message: BTreeMap<String, f64>,
    /// Why this is where it saturates; absent while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<String>,
}

/// What a search for the limit found.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Limit {
    /// The highest rate that held; null when none did.
    pub holds_per_s: Option<f64>,
    /// The lowest rate that did not; null when all did.
    pub saturates_per_s: Option<f64>,
    /// Why it did not.
    pub because: Option<String>,
    /// p99 from intended to acknowledged, above which a rate did not hold.
    pub p99_ms_max: u64,
    /// The share of the intended messages, below which a rate did not hold.
    pub achieved_share_min: f64,
}

/// Idle connections that were held, and what they cost.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Idle {
    /// How many.
    pub connections: u32,
    /// The server's memory before them.
    pub memory_before_bytes: u64,
    /// And with them, at the end.
    pub memory_after_bytes: u64,
    /// The difference, divided.
    pub bytes_per_connection: u64,
    /// How long it took to open all of them.
    #[serde(default)]
    pub opened_s: f64,
    /// How long they were held then.
    #[serde(default)]
    pub held_s: f64,
    /// How many were alive at the end.
    #[serde(default)]
    pub alive: u32,
    /// How often one was lost, from the first on.
    #[serde(default)]
    pub lost: u64,
    /// A heartbeat until its answer.
    #[serde(default)]
    pub heartbeat_us: Summary,
    /// Microseconds of the server's CPU a second and connection, while they were held.
    #[serde(default)]
    pub cpu_us_per_connection_s: f64,
    /// The generator's memory, as the server's.
    #[serde(default)]
    pub generator_bytes_per_connection: u64,
    /// The generator's CPU, as the server's.
    #[serde(default)]
    pub generator_cpu_us_per_connection_s: f64,
}

/// Latencies as curves: by HdrHistogram's own spacing, denser towards the tail.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Curves {
    /// Intended to acknowledged.
    pub to_ack: Vec<CurvePoint>,
    /// Intended to delivered.
    pub to_delivered: Vec<CurvePoint>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CurvePoint {
    /// This share of the messages, within 0 to 1 …
    pub quantile: f64,
    /// … took at most so many microseconds.
    pub us: u64,
}

/// A run's course.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Course {
    /// When the schedule started: milliseconds of Unix time. 0 when nobody wrote it down.
    #[serde(default)]
    pub start_wall_ms: u64,
    /// How long a row is: 1 in any run that is shorter than two hours.
    pub row_s: u64,
    /// Messages intended from then on are measured.
    pub measured_from_s: f64,
    /// Nothing is intended from then on: what follows is the wait for answers.
    pub measured_to_s: f64,
    /// In order of time, without holes.
    pub rows: Vec<Row>,
}

impl Course {
    /// The rows that lie whole in the measured time.
    #[must_use]
    pub fn measured(&self) -> &[Row] {
        let place = |at_s: f64| self.rows.partition_point(|row| (row.t_s as f64) < at_s);
        let end =
            self.rows.partition_point(|row| (row.t_s + self.row_s) as f64 <= self.measured_to_s + 0.001);
        self.rows.get(place(self.measured_from_s)..end).unwrap_or_default()
    }
}

/// The schema of [`Report`], as JSON Schema.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// A report of nothing in particular.
#[cfg(test)]
pub(crate) fn sample() -> Report {
    findings::sample()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_rows_of_the_measured_time_are_measured() {
        let rows = (0..10).map(|t_s| Row { t_s, ..Row::default() }).collect();
        let course = Course { row_s: 1, measured_from_s: 1.5, measured_to_s: 7.2, rows, ..Course::default() };
        let times: Vec<_> = course.measured().iter().map(|row| row.t_s).collect();
        assert_eq!(times, [2, 3, 4, 5, 6]);
        assert!(Course { measured_from_s: 9.0, measured_to_s: 2.0, ..course }.measured().is_empty());
    }
}
