//! `loadgen find-limit`: probe after probe, each a run of its own with the oracle at its end.

use std::time::Duration;

use super::{Outcome, outputs, run};
use crate::cli::FindLimit;
use crate::options::{Options, Outputs};
use crate::report::{ACHIEVED_SHARE_MIN, Limit, Report, StepReport, VIOLATION, judge_probe, text};
use crate::search::Search;

/// Probes of one search.
const PROBES_MAX: u32 = 40;

/// Searches.
#[must_use]
pub fn find_limit(asked: &FindLimit, options: &Options) -> Outcome {
    search(asked, options).unwrap_or_else(|sentence| Outcome::refused(&sentence))
}

fn search(asked: &FindLimit, options: &Options) -> Result<Outcome, String> {
    check(asked, options)?;
    let mut search = Search::new(asked.from, asked.precision, asked.probes);
    let mut probes: Vec<StepReport> = Vec::new();
    let mut last: Option<Report> = None;
    while let Some(rate_per_s) = search.next_per_s() {
        let number = probes.len() + 1;
        eprintln!("probe {number} of {} at most: {rate_per_s:.0}/s", asked.probes);
        let outcome = run(&probe(options, rate_per_s));
        let report = outcome.report.ok_or_else(|| outcome.text.clone())?;
        let report: Report = serde_json::from_value(report).map_err(|error| error.to_string())?;
        let step = judge_probe(&report, rate_per_s, asked.p99_ms);
        eprintln!("  {}", step.saturated.as_deref().unwrap_or("holds"));
        search.told(step.saturated.is_some());
        probes.push(step);
        let is_broken = report.exit == VIOLATION;
        last = Some(report);
        // A server that breaks promises has no limit worth knowing.
        if is_broken {
            break;
        }
    }
    let mut report = last.ok_or("--probes 0 finds nothing")?;
    let saturates_per_s = search.saturates_per_s();
    let saturating = probes.iter().find(|probe| Some(probe.rate_per_s) == saturates_per_s);
    report.limit = Some(Limit {
        holds_per_s: search.holds_per_s(),
        saturates_per_s,
        because: saturating.and_then(|probe| probe.saturated.clone()),
        p99_ms_max: asked.p99_ms,
        achieved_share_min: ACHIEVED_SHARE_MIN,
    });
    report.options.rate_per_s = asked.from;
    report.take_probes(probes);
    outputs::write(&report, &options.outputs)?;
    let json = serde_json::to_value(&report).map_err(|error| error.to_string())?;
    Ok(Outcome { exit: report.exit, report: Some(json), text: text::lines(&report), is_refusal: false })
}

fn check(asked: &FindLimit, options: &Options) -> Result<(), String> {
    if !(asked.from.is_finite() && asked.from > 0.0) {
        return Err(format!("--from {} is not a number above 0", asked.from));
    }
    if !(0.01..=1.0).contains(&asked.precision) {
        return Err(format!("--precision {} is not within 0.01 to 1", asked.precision));
    }
    if !(1..=PROBES_MAX).contains(&asked.probes) {
        return Err(format!("--probes {} is not within 1 to {PROBES_MAX}", asked.probes));
    }
    if options.idle || options.ramp.is_some() || options.in_flight.is_some() {
        return Err("--idle, --ramp and --in-flight are searches of their own: leave them out".to_owned());
    }
    if options.worker.is_some() || options.start_at.is_some() {
        return Err("a search is of one generator: leave --worker and --start-at out".to_owned());
    }
    if options.duration < Duration::from_secs(1) {
        return Err("a probe of less than a second says nothing: --duration".to_owned());
    }
    Ok(())
}

/// The run of one probe: it writes no files, and its rate is flat.
fn probe(options: &Options, rate_per_s: f64) -> Options {
    Options {
        rate: rate_per_s,
        stages: Vec::new(),
        outputs: Outputs::default(),
        hlog: None,
        threshold: Vec::new(),
        ..options.clone()
    }
}
