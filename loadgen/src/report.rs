//! What is told at the end: one JSON object, and the lines for people made of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::options::Options;
use crate::oracle::{Kind, Verdict};
use crate::schedule::Rate;
use crate::stats::{Stats, Step, Summary};

/// Every promise was kept.
pub const GOOD: u8 = 0;
/// A promise was broken.
pub const VIOLATION: u8 = 2;
/// The plan could not work, or the generator was late: the run says nothing about the server.
pub const INVALID: u8 = 3;

/// A run in which messages left later than this (99 of 100) measured the generator.
pub const LAG_P99_US_MAX: u64 = 10_000;
/// Of the messages that were due, this share has to be handed over in time.
pub const ON_TIME_SHARE_MIN: f64 = 0.99;
/// A step that achieves less of its rate is saturated.
pub const ACHIEVED_SHARE_MIN: f64 = 0.98;

/// One step of a ramp.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepReport {
    /// Asked for.
    pub rate_per_s: f64,
    /// Acknowledged in it, per second.
    pub achieved_per_s: f64,
    /// Intended to acknowledged.
    pub to_ack_us: Summary,
    /// Intended to delivered.
    pub to_delivered_us: Summary,
    /// Intended to the last member of a group, of a flat run; its count is of messages.
    pub to_last_us: Summary,
    /// How late the generator was.
    pub generator_lag_us: Summary,
    /// Microseconds of the server's CPU per acknowledged message, by tier.
    pub cpu_us_per_message: BTreeMap<String, f64>,
    /// Why this is where it saturates; absent while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated: Option<String>,
}

impl StepReport {
    /// Judges a step of `seconds`.
    #[must_use]
    pub fn new(
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
        } else if achieved_share < ACHIEVED_SHARE_MIN {
            Some(format!("{:.1} % of the rate was achieved", achieved_share * 100.0))
        } else if to_ack_us.p99_us > p99_ms_max * 1_000 {
            Some(format!("p99 to the ack is {} us", to_ack_us.p99_us))
        } else {
            None
        };
        StepReport {
            rate_per_s,
            achieved_per_s: step.acked_count as f64 / seconds,
            to_ack_us,
            to_delivered_us: step.to_delivered.summary(),
            to_last_us: Summary::default(),
            generator_lag_us,
            cpu_us_per_message,
            saturated,
        }
    }
}

/// Memory of idle connections.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Idle {
    /// How many.
    pub connections: u32,
    /// The server's memory before them.
    pub memory_before_bytes: u64,
    /// And with them, at the end.
    pub memory_after_bytes: u64,
    /// The difference, divided.
    pub bytes_per_connection: u64,
}

/// Everything a run found.
#[derive(Debug)]
pub struct Findings {
    /// The run's number.
    pub run: u32,
    /// Of whom.
    pub commit: String,
    /// Where.
    pub machine: Value,
    /// By the oracle.
    pub verdict: Verdict,
    /// By the threads.
    pub stats: Stats,
    /// By the steps; one for a flat run.
    pub steps: Vec<StepReport>,
    /// Of an idle run.
    pub idle: Option<Idle>,
    /// Why the run says nothing, as far as the main thread knows.
    pub invalid: Vec<String>,
}

impl Findings {
    /// Every reason why the run says nothing.
    #[must_use]
    pub fn invalid_reasons(&self, rate: &Rate) -> Vec<String> {
        let mut reasons = self.invalid.clone();
        let stats = &self.stats;
        // Of a ramp, the step that saturates is meant to be too much.
        let is_ramp = rate.factor > 1.0;
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
    pub fn exit(&self, rate: &Rate) -> u8 {
        if !self.verdict.is_clean() {
            VIOLATION
        } else if self.invalid_reasons(rate).is_empty() {
            GOOD
        } else {
            INVALID
        }
    }

    /// The report.
    #[must_use]
    pub fn json(&self, options: &Options) -> Value {
        let rate = options.schedule_rate();
        let violations = &self.verdict.violations;
        let counts: BTreeMap<_, _> =
            Kind::ALL.iter().map(|kind| (kind.name(), violations.count(*kind))).collect();
        let stats = &self.stats;
        let exit = self.exit(&rate);
        let saturation = self.steps.iter().find(|step| step.saturated.is_some());
        json!({
            "carillon_loadgen": env!("CARGO_PKG_VERSION"),
            "commit": self.commit,
            "machine": self.machine,
            "run": format!("{:08x}", self.run),
            "options": options_json(options),
            "exit": exit,
            "verdict": match exit { GOOD => "good", VIOLATION => "violation", _ => "invalid" },
            "invalid_because": self.invalid_reasons(&rate),
            "oracle": {
                "violations": counts,
                "examples": violations.examples(),
                "tally": self.verdict.tally,
                "history_messages": self.verdict.history_messages,
            },
            "generator": {
                "due": stats.due_count,
                "on_time": stats.on_time_count,
                "dropped": stats.dropped_count,
                "reconnects": stats.reconnects,
                "stopped": stats.stopped,
            },
            "troubles": stats.troubles,
            "steps": self.steps,
            "saturates_at_per_s": saturation.filter(|_| options.ramp.is_some()).map(|step| step.rate_per_s),
            "idle": self.idle,
        })
    }

    /// The same for people.
    #[must_use]
    pub fn text(&self, options: &Options) -> String {
        let rate = options.schedule_rate();
        let mut lines = Vec::new();
        let tally = &self.verdict.tally;
        lines.push(format!(
            "sends {} · acked {} ({} as duplicates) · refused {} · deliveries {} · in histories {} · reconnects {}",
            tally.sends,
            tally.acked,
            tally.acked_duplicate,
            tally.refused,
            tally.deliveries,
            self.verdict.history_messages,
            self.stats.reconnects
        ));
        for step in &self.steps {
            let asked = options.in_flight.map(|count| format!("in flight {count}"));
            let asked = asked.unwrap_or_else(|| format!("rate {:.0}/s", step.rate_per_s));
            lines.push(format!("{asked} · achieved {:.0}/s", step.achieved_per_s));
            lines.push(format!("  intended → ack        {}", summary_text(&step.to_ack_us)));
            lines.push(format!("  intended → delivered  {}", summary_text(&step.to_delivered_us)));
            if step.to_last_us.count > 0 {
                lines.push(format!("  intended → last       {}", summary_text(&step.to_last_us)));
            }
            lines.push(format!("  generator's lag       {}", summary_text(&step.generator_lag_us)));
            if !step.cpu_us_per_message.is_empty() {
                let tiers = step.cpu_us_per_message.iter().map(|(tier, us)| format!("{tier} {us:.1}"));
                let tiers = tiers.collect::<Vec<_>>().join(" · ");
                lines.push(format!("  CPU per message, us   {tiers}"));
            }
            if let Some(why) = &step.saturated
                && options.ramp.is_some()
            {
                lines.push(format!("  saturated: {why}"));
            }
        }
        if let Some(idle) = &self.idle {
            let Idle { connections, bytes_per_connection, .. } = idle;
            lines.push(format!(
                "{connections} idle connections · {bytes_per_connection} bytes of server memory each"
            ));
        }
        for (words, count) in &self.stats.troubles {
            lines.push(format!("trouble, {count} times: {words}"));
        }
        let found = Kind::ALL.iter().map(|kind| (kind.name(), self.verdict.violations.count(*kind)));
        let found = found.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ");
        lines.push(format!("oracle: {found}"));
        lines.extend(self.verdict.violations.examples().iter().map(|words| format!("  {words}")));
        lines.extend(self.invalid_reasons(&rate).iter().map(|words| format!("INVALID: {words}")));
        lines.push(match self.exit(&rate) {
            GOOD => "GOOD".to_owned(),
            VIOLATION => "VIOLATION".to_owned(),
            _ => "INVALID".to_owned(),
        });
        lines.join("\n")
    }
}

fn summary_text(summary: &Summary) -> String {
    let ms = |us: u64| us as f64 / 1e3;
    format!(
        "p50 {:.2} ms · p90 {:.2} · p99 {:.2} · p99.9 {:.2} · max {:.2}",
        ms(summary.p50_us),
        ms(summary.p90_us),
        ms(summary.p99_us),
        ms(summary.p999_us),
        ms(summary.max_us)
    )
}

fn options_json(options: &Options) -> Value {
    json!({
        "server": options.server.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "clients": options.clients,
        "rate_per_s": if options.idle { 0.0 } else { options.schedule_rate().start_per_s },
        "in_flight": options.in_flight,
        "ramp": options.ramp.map(|ramp| json!({ "factor": ramp.factor, "step_s": ramp.step_s })),
        "idle": options.idle,
        "duration_ms": options.duration.as_millis() as u64,
        "warmup_ms": options.warmup.as_millis() as u64,
        "encoding": options.encoding.wire().subprotocol(),
        "mix": { "one_to_one": options.mix.one_to_one, "group": options.mix.group },
        "group_size": options.group_size,
        "content_bytes": options.content_bytes,
        "receipts": format!("{:?}", options.receipts).to_lowercase(),
        "arrivals": format!("{:?}", options.arrivals).to_lowercase(),
        "first_user": options.users,
        "threads": options.threads,
        "seed": options.seed,
        "retry": options.retry,
        "history": options.history,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::oracle::{Tally, Violations};

    fn findings() -> Findings {
        let mut stats = Stats { due_count: 100, on_time_count: 100, ..Stats::default() };
        stats.step(0).intended_count = 100;
        stats.step(0).acked_count = 100;
        stats.step(0).to_ack.record_ns(1_000_000);
        let step = StepReport::new(100.0, 1.0, &stats.steps[0], BTreeMap::new(), 200);
        let tally = Tally { acked: 100, ..Tally::default() };
        Findings {
            run: 7,
            commit: "unknown".to_owned(),
            machine: json!({}),
            verdict: Verdict { tally, ..Verdict::default() },
            stats,
            steps: vec![step],
            idle: None,
            invalid: Vec::new(),
        }
    }

    #[test]
    fn the_exit_status_says_good_violation_or_invalid() {
        let flat = Rate::flat(100.0);
        assert_eq!(findings().exit(&flat), GOOD);
        let mut late = findings();
        late.steps[0].generator_lag_us.p99_us = LAG_P99_US_MAX + 1;
        assert_eq!(late.exit(&flat), INVALID);
        let mut slow = findings();
        slow.stats.on_time_count = 98;
        assert_eq!(slow.exit(&flat), INVALID);
        let mut silent = findings();
        silent.verdict.tally.acked = 0;
        assert_eq!(silent.exit(&flat), INVALID);
        let mut broken = slow;
        let mut violations = Violations::default();
        violations.add(Kind::Lost, format_args!("one"));
        broken.verdict.violations = violations;
        assert_eq!(broken.exit(&flat), VIOLATION, "a broken promise counts also in an invalid run");
    }

    #[test]
    fn a_step_saturates_by_rate_latency_or_the_generator() {
        let step = |acked_count, to_ack_ns, lag_ns| {
            let mut step = Step { intended_count: 1_000, acked_count, ..Step::default() };
            step.to_ack.record_ns(to_ack_ns);
            step.lag.record_ns(lag_ns);
            StepReport::new(1_000.0, 1.0, &step, BTreeMap::new(), 200).saturated
        };
        assert_eq!(step(980, 1_000_000, 1_000), None);
        assert!(step(979, 1_000_000, 1_000).unwrap().contains("97.9 %"));
        assert!(step(1_000, 300_000_000, 1_000).unwrap().contains("p99 to the ack"));
        assert!(step(1_000, 1_000_000, 20_000_000).unwrap().contains("generator"));
    }

    #[test]
    fn the_report_has_its_shape() {
        let options = Options::try_parse_from(["loadgen"]).unwrap();
        let report = findings().json(&options);
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
        assert!(findings().text(&options).ends_with("GOOD"));
    }
}
