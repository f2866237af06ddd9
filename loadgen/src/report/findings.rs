//! From what threads and oracle found to a [`Report`].

use std::collections::BTreeMap;

use super::{
    ACHIEVED_SHARE_MIN, Asked, AskedMix, AskedRamp, AskedSlow, AskedStage, AskedStorm, AskedWorker, Course,
    CurvePoint, Curves, Found, GOOD, Generator, INVALID, Idle, LAG_P99_US_MAX, Machine, ON_TIME_SHARE_MIN,
    Report, SCHEMA, StepReport, VIOLATION, Whole, Word,
};
use crate::options::Options;
use crate::oracle::{Kind, Verdict};
use crate::scenario::Storm;
use crate::schedule::Stage;
use crate::share::Share;
use crate::stats::{Latency, Stats, Step, Summary};

/// Points of a curve between a share of messages and half of the rest.
const CURVE_TICKS_PER_HALF: u32 = 5;

/// Judges a step of `seconds`.
#[must_use]
pub fn judge_step(
    rate_per_s: f64,
    seconds: f64,
    step: &Step,
    cpu_us_per_message: BTreeMap<String, f64>,
    p99_ms_max: u64,
) -> StepReport {
    let (to_ack_us, generator_lag_us) = (step.to_ack.summary(), step.lag.summary());
    let achieved_share = step.acked_count as f64 / step.intended_count.max(1) as f64;
    let saturated = if generator_lag_us.p99_us > LAG_P99_US_MAX {
        Some(format!("the generator was late: p99 {} us", generator_lag_us.p99_us))
    } else if step.intended_count > 0 && achieved_share < ACHIEVED_SHARE_MIN {
        Some(format!("{:.1} % of the rate was achieved", achieved_share * 100.0))
    } else if to_ack_us.p99_us > p99_ms_max * 1_000 {
        Some(format!("p99 to the ack is {} us", to_ack_us.p99_us))
    } else {
        None
    };
    StepReport {
        rate_per_s,
        seconds,
        achieved_per_s: step.acked_count as f64 / seconds,
        to_ack_us,
        to_delivered_us: step.to_delivered.summary(),
        to_last_us: Summary::default(),
        generator_lag_us,
        cpu_us_per_message,
        saturated,
    }
}

/// Judges a whole run as a probe of a rate: what else made it invalid does not hold either.
#[must_use]
pub fn judge_probe(report: &Report, rate_per_s: f64, p99_ms_max: u64) -> StepReport {
    let mut step = report.steps.first().cloned().unwrap_or_default();
    let intended = report.whole.intended;
    // As it was when the time was over, and not after everything was waited for.
    let achieved_share = step.achieved_per_s * step.seconds / intended.max(1) as f64;
    let p99_us = step.to_ack_us.p99_us;
    step.rate_per_s = rate_per_s;
    step.saturated = if step.generator_lag_us.p99_us > LAG_P99_US_MAX {
        Some(format!("the generator was late: p99 {} us", step.generator_lag_us.p99_us))
    } else if achieved_share < ACHIEVED_SHARE_MIN {
        Some(format!("{:.1} % of the rate was achieved", achieved_share * 100.0))
    } else if p99_us > p99_ms_max * 1_000 {
        Some(format!("p99 to the ack is {p99_us} us"))
    } else {
        (!report.invalid_because.is_empty()).then(|| report.invalid_because.join("; "))
    };
    step
}

/// Everything a run found.
#[derive(Debug)]
pub struct Findings {
    /// The run's number.
    pub run: u32,
    /// Of whom.
    pub commit: String,
    /// Where.
    pub machine: Machine,
    /// When the run started: milliseconds of Unix time.
    pub started_wall_ms: u64,
    /// By the oracle.
    pub verdict: Verdict,
    /// By the threads.
    pub stats: Stats,
    /// By the steps; one for a flat run.
    pub steps: Vec<StepReport>,
    /// Intended to the last member of a group.
    pub to_last_us: Summary,
    /// By time.
    pub course: Course,
    /// Of an idle run.
    pub idle: Option<Idle>,
    /// Why the run says nothing, as far as the main thread knows.
    pub invalid: Vec<String>,
}

impl Findings {
    /// Every reason why the run says nothing.
    #[must_use]
    pub fn invalid_reasons(&self, is_ramp: bool) -> Vec<String> {
        let mut reasons = self.invalid.clone();
        let stats = &self.stats;
        // Of a ramp, the step that saturates is meant to be too much.
        for (index, step) in self.steps.iter().enumerate() {
            let lag_us = step.generator_lag_us.p99_us;
            if lag_us > LAG_P99_US_MAX && !(is_ramp && step.saturated.is_some() && index > 0) {
                reasons
                    .push(format!("the generator was late: p99 {lag_us} us, allowed are {LAG_P99_US_MAX}"));
            }
        }
        let on_time_share = stats.on_time_count as f64 / stats.due_count.max(1) as f64;
        if stats.due_count > 0 && on_time_share < ON_TIME_SHARE_MIN && !is_ramp {
            reasons.push(format!("only {:.1} % of the messages left in time", on_time_share * 100.0));
        }
        if stats.dropped_count > 0 {
            reasons
                .push(format!("{} messages found too many waiting and were not sent", stats.dropped_count));
        }
        if stats.stopped > 0 {
            reasons.push(format!("{} clients were turned away or lost for good", stats.stopped));
        }
        if self.idle.is_none() && self.verdict.tally.acked == 0 {
            reasons.push("no message was acknowledged".to_owned());
        }
        reasons
    }

    /// The exit status: a broken promise is one, also in an invalid run.
    #[must_use]
    pub fn exit(&self, is_ramp: bool) -> u8 {
        if !self.verdict.is_clean() {
            VIOLATION
        } else if self.invalid_reasons(is_ramp).is_empty() {
            GOOD
        } else {
            INVALID
        }
    }

    /// The report.
    #[must_use]
    pub fn report(self, options: &Options) -> Report {
        let is_ramp = options.ramp.is_some();
        let (exit, invalid_because) = (self.exit(is_ramp), self.invalid_reasons(is_ramp));
        let saturation = self.steps.iter().find(|step| step.saturated.is_some());
        let Verdict { violations, tally, history_messages } = self.verdict;
        let stats = self.stats;
        let mut whole = Step::default();
        for step in &stats.steps {
            whole.merge(step);
        }
        Report {
            schema: SCHEMA.to_owned(),
            carillon_loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            commit: self.commit,
            machine: self.machine,
            run: format!("{:08x}", self.run),
            started_wall_ms: self.started_wall_ms,
            options: asked(options),
            exit,
            verdict: match exit {
                GOOD => Word::Good,
                VIOLATION => Word::Violation,
                _ => Word::Invalid,
            },
            invalid_because,
            thresholds: Vec::new(),
            workers: Vec::new(),
            oracle: Found {
                violations: Kind::ALL
                    .iter()
                    .map(|kind| (kind.name().to_owned(), violations.count(*kind)))
                    .collect(),
                examples: violations.examples().to_vec(),
                tally,
                history_messages,
            },
            generator: Generator {
                due: stats.due_count,
                on_time: stats.on_time_count,
                dropped: stats.dropped_count,
                reconnects: stats.reconnects,
                stopped: stats.stopped,
                presence: stats.presence_count,
            },
            troubles: stats.troubles,
            saturates_at_per_s: saturation.filter(|_| options.ramp.is_some()).map(|step| step.rate_per_s),
            whole: whole_report(&whole, &self.steps, self.to_last_us),
            steps: self.steps,
            limit: None,
            idle: self.idle,
            curves: curves(&whole),
            series: self.course,
        }
    }
}

/// All steps together: rates weighed by time, CPU by messages.
pub(crate) fn whole_report(whole: &Step, steps: &[StepReport], to_last_us: Summary) -> Whole {
    let mean = |of: &dyn Fn(&StepReport) -> f64| {
        let weight: f64 = steps.iter().map(|step| step.seconds).sum();
        steps.iter().map(|step| step.seconds * of(step)).sum::<f64>() / weight.max(f64::MIN_POSITIVE)
    };
    let mut cpu_us: BTreeMap<String, f64> = BTreeMap::new();
    for step in steps {
        let share = step.to_ack_us.count as f64 / whole.to_ack.0.len().max(1) as f64;
        for (tier, us) in &step.cpu_us_per_message {
            *cpu_us.entry(tier.clone()).or_default() += us * share;
        }
    }
    Whole {
        intended: whole.intended_count,
        achieved_per_s: mean(&|step| step.achieved_per_s),
        to_ack_us: whole.to_ack.summary(),
        to_delivered_us: whole.to_delivered.summary(),
        to_last_us,
        generator_lag_us: whole.lag.summary(),
        cpu_us_per_message: cpu_us,
    }
}

/// A run's curves.
pub(crate) fn curves(whole: &Step) -> Curves {
    Curves { to_ack: curve(&whole.to_ack), to_delivered: curve(&whole.to_delivered) }
}

fn curve(latency: &Latency) -> Vec<CurvePoint> {
    let mut points: Vec<CurvePoint> = Vec::new();
    for value in latency.0.iter_quantiles(CURVE_TICKS_PER_HALF) {
        let point = CurvePoint { quantile: value.quantile_iterated_to(), us: value.value_iterated_to() };
        // Towards the tail one message stands for many shares.
        if points.last().is_none_or(|last| last.us != point.us || last.quantile < 0.99) {
            points.push(point);
        }
    }
    points
}

fn asked_stage(stage: &Stage) -> AskedStage {
    let Stage { from_per_s, to_per_s, length_ns } = *stage;
    AskedStage { from_per_s, to_per_s, length_ms: length_ns / 1_000_000 }
}

fn asked_storm(storm: &Storm) -> AskedStorm {
    let away_ms = storm.away_ns.map(|away_ns| away_ns / 1_000_000);
    AskedStorm { at_ms: storm.at_ns / 1_000_000, share: storm.share, away_ms }
}

fn measured_ms(options: &Options) -> u64 {
    if options.stages.is_empty() {
        return options.duration.as_millis() as u64;
    }
    let rates = options.rates();
    (rates.length_ns() - rates.warmup_ns()) / 1_000_000
}

fn asked(options: &Options) -> Asked {
    Asked {
        server: options.server.iter().map(ToString::to_string).collect(),
        clients: options.clients,
        scenario: options.scenario.clone(),
        rate_per_s: if options.idle { 0.0 } else { options.rates().start_per_s() },
        in_flight: options.in_flight,
        stages: options.stages.iter().map(asked_stage).collect(),
        storms: options.manners.storms.iter().map(asked_storm).collect(),
        slow_readers: options
            .manners
            .slow_readers
            .map(|slow| AskedSlow { share: slow.share, bytes_per_s: slow.bytes_per_s }),
        watch: options.manners.watch,
        ramp: options.ramp.map(|ramp| AskedRamp { factor: ramp.factor, step_s: ramp.step_s }),
        idle: options.idle,
        duration_ms: measured_ms(options),
        warmup_ms: options.warmup.as_millis() as u64,
        encoding: options.encoding.wire().subprotocol().to_owned(),
        mix: match options.in_flight {
            Some(_) => AskedMix { one_to_one: 1.0, group: 0.0, media: options.media },
            None => AskedMix {
                one_to_one: options.mix.one_to_one,
                group: options.mix.group,
                media: options.media,
            },
        },
        group_size: options.group_size,
        content_bytes: options.content_bytes,
        receipts: format!("{:?}", options.receipts).to_lowercase(),
        arrivals: format!("{:?}", options.arrivals).to_lowercase(),
        first_user: options.users,
        threads: options.threads,
        seed: options.seed,
        retry: options.retry,
        history: options.history,
        saturated_p99_ms: options.ramp_p99_ms,
        worker: options.share.map(|Share { worker, first_client, all_clients }| AskedWorker {
            number: worker.number,
            of: worker.of,
            first_client,
            all_clients,
        }),
    }
}

#[cfg(test)]
pub(super) fn sample() -> Report {
    use clap::Parser as _;
    tests::findings().report(&Options::parse_from(["loadgen"]))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::oracle::{Tally, Violations};

    pub(super) fn findings() -> Findings {
        let mut stats = Stats { due_count: 100, on_time_count: 100, ..Stats::default() };
        stats.step(0).intended_count = 100;
        stats.step(0).acked_count = 100;
        stats.step(0).to_ack.record_ns(1_000_000);
        let step = judge_step(100.0, 1.0, &stats.steps[0], BTreeMap::new(), 200);
        let tally = Tally { acked: 100, ..Tally::default() };
        Findings {
            run: 7,
            commit: "unknown".to_owned(),
            machine: Machine::default(),
            started_wall_ms: 0,
            course: Course::default(),
            verdict: Verdict { tally, ..Verdict::default() },
            stats,
            steps: vec![step],
            to_last_us: Summary::default(),
            idle: None,
            invalid: Vec::new(),
        }
    }

    #[test]
    fn the_exit_status_says_good_violation_or_invalid() {
        assert_eq!(findings().exit(false), GOOD);
        let mut late = findings();
        late.steps[0].generator_lag_us.p99_us = LAG_P99_US_MAX + 1;
        assert_eq!(late.exit(false), INVALID);
        let mut slow = findings();
        slow.stats.on_time_count = 98;
        assert_eq!(slow.exit(false), INVALID);
        let mut silent = findings();
        silent.verdict.tally.acked = 0;
        assert_eq!(silent.exit(false), INVALID);
        let mut broken = slow;
        let mut violations = Violations::default();
        violations.add(Kind::Lost, format_args!("one"));
        broken.verdict.violations = violations;
        assert_eq!(broken.exit(false), VIOLATION, "a broken promise counts also in an invalid run");
    }

    #[test]
    fn a_step_saturates_by_rate_latency_or_the_generator() {
        let step = |acked_count, to_ack_ns, lag_ns| {
            let mut step = Step { intended_count: 1_000, acked_count, ..Step::default() };
            step.to_ack.record_ns(to_ack_ns);
            step.lag.record_ns(lag_ns);
            judge_step(1_000.0, 1.0, &step, BTreeMap::new(), 200).saturated
        };
        assert_eq!(step(980, 1_000_000, 1_000), None);
        assert!(step(979, 1_000_000, 1_000).unwrap().contains("97.9 %"));
        assert!(step(1_000, 300_000_000, 1_000).unwrap().contains("p99 to the ack"));
        assert!(step(1_000, 1_000_000, 20_000_000).unwrap().contains("generator"));
    }

    #[test]
    fn the_report_has_its_shape() {
        let options = Options::try_parse_from(["loadgen"]).unwrap();
        let report = serde_json::to_value(findings().report(&options)).unwrap();
        for pointer in [
            "/commit",
            "/machine",
            "/options/clients",
            "/exit",
            "/verdict",
            "/invalid_because",
            "/oracle/violations/lost",
            "/oracle/violations/duplicated",
            "/oracle/violations/reordered",
            "/oracle/violations/gap",
            "/oracle/violations/phantom",
            "/oracle/violations/foreign",
            "/oracle/violations/mutated",
            "/oracle/tally/acked",
            "/oracle/examples",
            "/steps/0/to_ack_us/p999_us",
            "/steps/0/to_delivered_us/p50_us",
            "/steps/0/achieved_per_s",
            "/generator/reconnects",
            "/troubles",
        ] {
            assert!(report.pointer(pointer).is_some(), "{pointer} is missing in {report:#}");
        }
        assert_eq!(report["verdict"], "good");
        assert!(crate::report::text::lines(&findings().report(&options)).ends_with("GOOD"));
    }
}
