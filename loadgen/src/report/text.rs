//! A report for people at a terminal.

use super::{Idle, Report, ThresholdReport, Word, WorkerReport};
use crate::stats::Summary;

/// The lines.
#[must_use]
pub fn lines(report: &Report) -> String {
    let mut lines = Vec::new();
    let tally = &report.oracle.tally;
    lines.push(format!(
        "sends {} · acked {} ({} as duplicates) · refused {} · deliveries {} · in histories {} · reconnects {}",
        tally.sends,
        tally.acked,
        tally.acked_duplicate,
        tally.refused,
        tally.deliveries,
        report.oracle.history_messages,
        report.generator.reconnects
    ));
    for step in &report.steps {
        let asked = report.options.in_flight.map(|count| format!("in flight {count}"));
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
            && (report.options.ramp.is_some() || report.limit.is_some())
        {
            lines.push(format!("  saturated: {why}"));
        }
    }
    if let Some(limit) = &report.limit {
        let rate = |per_s: Option<f64>| per_s.map_or("none".to_owned(), |per_s| format!("{per_s:.0}/s"));
        let (holds, saturates) = (rate(limit.holds_per_s), rate(limit.saturates_per_s));
        let because = limit.because.as_deref().map(|words| format!(" ({words})")).unwrap_or_default();
        lines.push(format!(
            "limit: the highest rate that held is {holds}, the lowest that did not {saturates}{because}"
        ));
    }
    if let Some(idle) = &report.idle {
        lines.extend(idle_lines(idle));
    }
    for (words, count) in &report.troubles {
        lines.push(format!("trouble, {count} times: {words}"));
    }
    lines.extend(report.workers.iter().map(worker));
    let found = report.oracle.violations.iter().map(|(name, count)| format!("{count} {name}"));
    lines.push(format!("oracle: {}", found.collect::<Vec<_>>().join(", ")));
    lines.extend(report.oracle.examples.iter().map(|words| format!("  {words}")));
    lines.extend(report.invalid_because.iter().map(|words| format!("INVALID: {words}")));
    lines.extend(report.thresholds.iter().map(threshold));
    lines.push(verdict(report.verdict).to_owned());
    lines.join("\n")
}

fn idle_lines(idle: &Idle) -> [String; 4] {
    let Idle { connections, alive, lost, opened_s, held_s, .. } = idle;
    [
        format!(
            "{connections} idle connections · opened in {opened_s:.1} s, held for {held_s:.1} s · alive at the end {alive} · \
             lost {lost}"
        ),
        format!("  heartbeat → answer    {}", summary_text(&idle.heartbeat_us)),
        format!(
            "  server                {} bytes each · {:.3} us of CPU a second each",
            idle.bytes_per_connection, idle.cpu_us_per_connection_s
        ),
        format!(
            "  generator             {} bytes each · {:.3} us of CPU a second each",
            idle.generator_bytes_per_connection, idle.generator_cpu_us_per_connection_s
        ),
    ]
}

fn worker(worker: &WorkerReport) -> String {
    let broken = worker.violations.iter().filter(|(_, count)| **count > 0);
    let broken = broken.map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
    format!(
        "worker {}: {} clients from user {} · acked {} · p99 to ack {:.2} ms · its own lag p99 {:.2} ms · started {} ms after the \
         first · broken: {} · {}",
        worker.number,
        worker.clients,
        worker.first_user,
        worker.acked,
        worker.to_ack_us.p99_us as f64 / 1e3,
        worker.generator_lag_us.p99_us as f64 / 1e3,
        worker.late_ms,
        if broken.is_empty() { "none" } else { &broken },
        verdict(worker.verdict)
    )
}

fn threshold(threshold: &ThresholdReport) -> String {
    let ThresholdReport { threshold, value, is_met } = threshold;
    match value {
        Some(value) if *is_met => format!("met: {threshold}, and it is {value}"),
        Some(value) => format!("MISSED: {threshold}, and it is {value}"),
        None => format!("MISSED: {threshold}, and this run does not know it"),
    }
}

/// The last word.
#[must_use]
pub fn verdict(word: Word) -> &'static str {
    match word {
        Word::Good => "GOOD",
        Word::Violation => "VIOLATION",
        Word::Invalid => "INVALID",
        Word::Missed => "MISSED",
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
