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

#![expect(clippy::disallowed_methods, reason = "a command reads files and starts processes")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

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

/// Runs until one has to say something.
const TRIES_MAX: usize = 8;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// What one run came to, by name.
type Figures = BTreeMap<&'static str, (f64, Better)>;

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
                match run_valid(build, load) {
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
    for (name, (_, better)) in first {
        let of =
            |runs: &[Figures]| runs.iter().filter_map(|run| run.get(name)).map(|it| it.0).collect::<Vec<_>>();
        let (one, other) = (of(before), of(after));
        let ratios: Vec<f64> =
            one.iter().zip(&other).map(|(before, after)| after / before.max(f64::MIN_POSITIVE)).collect();
        let ratio = median(&ratios);
        let worse_percent = match better {
            Better::Lower => (ratio - 1.0) * 100.0,
            Better::Higher => (1.0 - ratio) * 100.0,
        };
        let is_worse = worse_percent > tolerance_percent;
        is_good &= !is_worse;
        let (min, max) = (percentile(&ratios, 0.0), percentile(&ratios, 1.0));
        println!(
            "{:<12} {name:<26} {:>12.3} {:>12.3} {ratio:>8.3} {min:>8.3} {max:>8.3}{}",
            "",
            median(&one),
            median(&other),
            if is_worse { "  WORSE" } else { "" }
        );
    }
    is_good
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// With the mean of the two in the middle where there is no one value.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    (sorted[place.floor() as usize] + sorted[place.ceil() as usize]) / 2.0
}

/// One load against one server, made again when it says nothing: the machine may have been busy for a moment.
fn run_valid(build: &Path, load: &Load) -> Result<Figures, String> {
    for _ in 1..TRIES_MAX {
        match run(build, load) {
            Err(words) => eprintln!("{}: once more: {words}", load.name),
            figures => return figures,
        }
    }
    run(build, load)
}

/// One load against one server.
fn run(build: &Path, load: &Load) -> Result<Figures, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
    let (server, gateway) = Server::start(build, &directory.path().join("data"))?;
    let report = directory.path().join("report.json");
    let ended = Command::new(build.join("loadgen"))
        .args(["--server", &gateway, "--server-pid", &server.0.id().to_string()])
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .arg("--report")
        .arg(&report)
        .args(load.words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("loadgen does not start: {error}"))?;
    let text = std::fs::read_to_string(&report).map_err(|error| format!("no report, {ended}: {error}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|error| format!("the report: {error}"))?;
    if !ended.success() {
        return Err(format!("{} because {}", report["verdict"], report["invalid_because"]));
    }
    Ok(figures(&report))
}

/// What is compared.
fn figures(report: &Value) -> Figures {
    let mut figures = Figures::new();
    if let Some(bytes) = report["idle"]["bytes_per_connection"].as_f64() {
        figures.insert("bytes per connection", (bytes, Better::Lower));
        return figures;
    }
    let steps = report["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let cpu_us = |step: &Value| {
        let tiers = step["cpu_us_per_message"].as_object();
        tiers.map(|tiers| tiers.values().filter_map(Value::as_f64).sum::<f64>()).unwrap_or(f64::NAN)
    };
    if report["saturates_at_per_s"].is_null() {
        for step in steps {
            let ms = |what: &str, rank: &str| step[what][rank].as_f64().unwrap_or(f64::NAN) / 1e3;
            figures.insert("ack p50 ms", (ms("to_ack_us", "p50_us"), Better::Lower));
            figures.insert("delivered p50 ms", (ms("to_delivered_us", "p50_us"), Better::Lower));
            figures.insert("delivered p99 ms", (ms("to_delivered_us", "p99_us"), Better::Lower));
            figures.insert("CPU us a message", (cpu_us(step), Better::Lower));
        }
        return figures;
    }
    let achieved = |step: &&Value| step["achieved_per_s"].as_f64().unwrap_or(0.0);
    if let Some(best) = steps.iter().max_by(|one, other| achieved(one).total_cmp(&achieved(other))) {
        figures.insert("most messages/s", (achieved(&best), Better::Higher));
        figures.insert("CPU us a message there", (cpu_us(best), Better::Lower));
    }
    figures
}

/// A server that ends with its scope.
struct Server(Child);

impl Server {
    /// And where its gateway listens.
    fn start(build: &Path, data: &Path) -> Result<(Server, String), String> {
        const SETTINGS: &[&str] = &[
            "gateway.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            "router.listen=127.0.0.1:0",
            "log.format=json",
            "limits.send_per_s=0",
        ];
        let mut command = Command::new(build.join("carillon"));
        command.arg("--data-dir").arg(data).stdout(Stdio::piped()).stderr(Stdio::null());
        for setting in SETTINGS {
            command.args(["--set", setting]);
        }
        let mut child = command.spawn().map_err(|error| format!("carillon does not start: {error}"))?;
        let stdout = child.stdout.take();
        let server = Server(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| format!("the ready line: {error}"))?;
        }
        let ready: Value =
            serde_json::from_str(&line).map_err(|error| format!("the ready line {line:?}: {error}"))?;
        let gateway = ready["gateway"].as_str().ok_or("the ready line names no gateway")?.to_owned();
        Ok((server, gateway))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64], better: Better) -> Vec<Figures> {
        values.iter().map(|value| Figures::from([("figure", (*value, better))])).collect()
    }

    #[test]
    fn the_median_of_the_ratios_decides() {
        let check = |before: &[f64], after: &[f64], better, expected| {
            assert_eq!(
                tell("load", &[runs(before, better), runs(after, better)], 5.0),
                expected,
                "{after:?}"
            );
        };
        check(&[1.0, 2.0, 4.0], &[1.04, 2.0, 40.0], Better::Lower, true);
        check(&[1.0, 2.0, 4.0], &[1.06, 2.2, 4.0], Better::Lower, false);
        check(&[1.0, 2.0, 4.0], &[0.94, 1.8, 4.0], Better::Higher, false);
        check(&[1.0, 2.0, 4.0], &[2.0, 4.0, 8.0], Better::Higher, true);
        assert_eq!((median(&[3.0, 1.0, 2.0, 10.0]), median(&[5.0])), (2.5, 5.0));
    }
}
