//! `pairs`: two builds of Carillon under the same load, in turn, on the same machine: has anything become slower?
//!
//! ```text
//! git worktree add ../before REVISION && (cd ../before && cargo build --release -p carillon -p carillon-loadgen)
//! cargo build --release -p carillon -p carillon-loadgen
//! cargo run --release -p carillon-benches --bin pairs -- ../before/target/release target/release
//! ```
//!
//! Each pair runs every load against a server of the one build and then of the other, each with the generator of its
//! build, in a fresh data directory; who goes first changes from pair to pair, so that a machine whose speed drifts
//! favours nobody. What counts is the median over the pairs of (after ÷ before). Nothing else may run meanwhile.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use carillon_benches::run::{Subject, cpu_us_per_message, report};
use carillon_benches::table::{Figures, compared};
use clap::Parser;
use serde_json::Value;

/// Compares two builds of Carillon by the medians of interleaved pairs of runs.
///
/// Exit status 1 when a figure became worse by more than --tolerance, 3 when a run says nothing.
#[derive(Parser)]
struct Arguments {
    /// The directory with the `carillon` and `loadgen` of before
    before: PathBuf,
    /// The directory with those of now
    after: PathBuf,
    /// Pairs of each load
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// How much worse a median ratio may be, in per cent
    #[arg(long, default_value_t = 5.0)]
    tolerance: f64,
    /// Which loads: paced, saturation, idle [default: all]
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
}

/// A load, and the generator's words for it.
struct Load {
    name: &'static str,
    words: &'static [&'static str],
}

const LOADS: &[Load] = &[
    Load {
        name: "paced",
        words: &[
            "--clients",
            "200",
            "--rate",
            "5000",
            "--duration",
            "8s",
            "--warmup",
            "2s",
            "--encoding",
            "rkyv",
        ],
    },
    Load {
        name: "saturation",
        words: &["--clients", "200", "--ramp", "10000:3:2", "--encoding", "rkyv", "--receipts", "none"],
    },
    Load { name: "idle", words: &["--clients", "5000", "--idle", "--duration", "4s", "--encoding", "rkyv"] },
];

/// Of this figure more is better; of every other, less.
const MOST: &str = "most messages/s";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.loads.iter().find(|name| LOADS.iter().all(|load| load.name != **name)) {
        eprintln!("pairs: there is no load {unknown}: paced, saturation, idle");
        return ExitCode::from(2);
    }
    let is_wanted =
        |load: &&Load| arguments.loads.is_empty() || arguments.loads.iter().any(|name| name == load.name);
    let mut status = ExitCode::SUCCESS;
    for load in LOADS.iter().filter(is_wanted) {
        let mut runs: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
        for pair in 0..arguments.pairs.max(1) {
            for side in [pair % 2, (pair + 1) % 2] {
                let build = if side == 0 { &arguments.before } else { &arguments.after };
                match run(build, load) {
                    Ok(figures) => runs[side].push(figures),
                    Err(words) => {
                        eprintln!("pairs: {} with {}: {words}", load.name, build.display());
                        return ExitCode::from(3);
                    }
                }
            }
            eprintln!("{}: pair {} of {}", load.name, pair + 1, arguments.pairs.max(1));
        }
        if !tell(load.name, &runs, arguments.tolerance) {
            status = ExitCode::FAILURE;
        }
    }
    status
}

/// Prints the medians of a load. `false`: something became worse by more than the tolerance.
fn tell(load: &str, [before, after]: &[Vec<Figures>; 2], tolerance_percent: f64) -> bool {
    let mut is_good = true;
    println!(
        "{load:<12} {:<26} {:>12} {:>12} {:>8} {:>8} {:>8}",
        "", "before", "after", "ratio", "min", "max"
    );
    let Some(first) = before.first() else { return true };
    for name in first.keys() {
        let figure = compared(name, before, after);
        let [min, ratio, max] = figure.ratios;
        let worse_percent = if *name == MOST { 1.0 - ratio } else { ratio - 1.0 } * 100.0;
        let is_worse = worse_percent > tolerance_percent;
        is_good &= !is_worse;
        println!(
            "{:<12} {name:<26} {:>12.3} {:>12.3} {ratio:>8.3} {min:>8.3} {max:>8.3}{}",
            "",
            figure.one,
            figure.other,
            if is_worse { "  WORSE" } else { "" }
        );
    }
    is_good
}

/// One load against one server.
fn run(build: &Path, load: &Load) -> Result<Figures, String> {
    let words: Vec<String> = load.words.iter().map(|word| (*word).to_owned()).collect();
    let subject = Subject::carillon(&format!("{} with {}", load.name, build.display()), build);
    report(&subject, &build.join("loadgen"), &words).map(|report| figures(&report))
}

/// What is compared.
fn figures(report: &Value) -> Figures {
    let mut figures = Figures::new();
    if let Some(bytes) = report["idle"]["bytes_per_connection"].as_f64() {
        figures.insert("bytes per connection", bytes);
        return figures;
    }
    let steps = report["steps"].as_array().map_or(&[][..], Vec::as_slice);
    if report["saturates_at_per_s"].is_null() {
        for step in steps {
            let ms = |what: &str, rank: &str| step[what][rank].as_f64().unwrap_or(f64::NAN) / 1e3;
            figures.insert("ack p50 ms", ms("to_ack_us", "p50_us"));
            figures.insert("delivered p50 ms", ms("to_delivered_us", "p50_us"));
            figures.insert("delivered p99 ms", ms("to_delivered_us", "p99_us"));
            figures.insert("CPU us a message", cpu_us_per_message(step));
        }
        return figures;
    }
    let achieved = |step: &&Value| step["achieved_per_s"].as_f64().unwrap_or(0.0);
    if let Some(best) = steps.iter().max_by(|one, other| achieved(one).total_cmp(&achieved(other))) {
        figures.insert(MOST, achieved(&best));
        figures.insert("CPU us a message there", cpu_us_per_message(best));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_ratios_decides() {
        let check = |before: &[f64], after: &[f64], name, expected| {
            let runs = |values: &[f64]| values.iter().map(|value| Figures::from([(name, *value)])).collect();
            assert_eq!(tell("load", &[runs(before), runs(after)], 5.0), expected, "{after:?}");
        };
        check(&[1.0, 2.0, 4.0], &[1.04, 2.0, 40.0], "ack p50 ms", true);
        check(&[1.0, 2.0, 4.0], &[1.06, 2.2, 4.0], "ack p50 ms", false);
        check(&[1.0, 2.0, 4.0], &[0.94, 1.8, 4.0], MOST, false);
        check(&[1.0, 2.0, 4.0], &[2.0, 4.0, 8.0], MOST, true);
    }
}
