//! `against`: Carillon and what a good engineer would write instead (`benches/baseline`), under the same loads of the same
//! generator, in turn, on the same machine.
//!
//! ```text
//! cargo build --profile dist -p carillon -p carillon-loadgen
//! cargo build --release --locked --manifest-path benches/baseline/Cargo.toml
//! cargo run --release -p carillon-benches --bin against -- target/dist benches/baseline/target/release/baseline
//! ```
//!
//! Each pair runs every load against the baseline, then against Carillon (in turn who goes first), each time a server of
//! its own in a fresh directory. What is told is the least, the median and the most of Carillon ÷ baseline over the pairs;
//! the median is held against the bound. Nothing else may run meanwhile.

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_benches::run::{Subject, cpu_us_per_message, disk_ms, report};
use carillon_benches::table::{Figures, compared, percentile};
use clap::Parser;
use serde_json::Value;

/// Compares a build of Carillon with benches/baseline by interleaved pairs of runs.
///
/// Exit status 1 when a median is not within its bound, 3 when a run says nothing.
#[derive(Parser)]
struct Arguments {
    /// The directory with `carillon` and `loadgen`
    build: PathBuf,
    /// The program of the baseline
    baseline: PathBuf,
    /// Which form of the baseline
    #[arg(long, value_enum, value_delimiter = ',', default_value = "plain,equal")]
    forms: Vec<Form>,
    /// Pairs of each load
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Which loads; half needs eight before it
    #[arg(long, value_enum, value_delimiter = ',', default_value = "one,eight,paced,half,crowd")]
    loads: Vec<Load>,
    /// What is spoken with Carillon; the baseline speaks JSON
    #[arg(long, default_value = "json")]
    encoding: String,
}

/// What is promised besides durable before acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Nothing; receipts are off
    Plain,
    /// Tokens, idempotency, history, delivered receipts
    Equal,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Equal => "equal",
        }
    }

    /// How many times its messages a second are wanted.
    const fn ratio_min(self) -> f64 {
        match self {
            Form::Plain => 1.25,
            Form::Equal => 1.6,
        }
    }

    /// The generator's words for what clients confirm.
    const fn receipts(self) -> &'static str {
        match self {
            Form::Plain => "--receipts none",
            Form::Equal => "--receipts delivered",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// 50 pairs, one message on its way each
    One,
    /// 50 pairs, eight on their way each
    Eight,
    /// 1,000 messages a second, whatever the server does
    Paced,
    /// Half of what the baseline got through with eight on their way
    Half,
    /// A group of 1,000, ten messages a second
    Crowd,
}

const CROWD_MEMBERS: u32 = 1_000;

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Load::One => "one",
            Load::Eight => "eight",
            Load::Paced => "paced",
            Load::Half => "half",
            Load::Crowd => "crowd",
        }
    }

    /// The generator's words for it; `None` when it is not known yet how much is half.
    fn words(self, peak_per_s: Option<f64>) -> Option<String> {
        Some(match self {
            Load::One => "--clients 100 --in-flight 1 --warmup 1s --duration 5s".to_owned(),
            Load::Eight => "--clients 100 --in-flight 8 --warmup 1s --duration 5s".to_owned(),
            Load::Paced => {
                "--clients 100 --rate 1000 --mix one_to_one=1 --warmup 2s --duration 8s".to_owned()
            }
            Load::Half => {
                let rate = (peak_per_s? / 2.0).round();
                format!("--clients 100 --rate {rate} --mix one_to_one=1 --warmup 2s --duration 5s")
            }
            Load::Crowd => format!(
                "--clients {CROWD_MEMBERS} --mix group=1 --group-size {CROWD_MEMBERS} --rate 10 --arrivals uniform \
                 --warmup 1s --duration 8s"
            ),
        })
    }
}

/// Messages a second, where answers set the pace.
const PER_S: &str = "messages/s";

/// What is told of a run.
fn figures(load: Load, report: &Value) -> Figures {
    let step = &report["steps"][0];
    let ms = |what: &str, rank: &str| step[what][rank].as_f64().unwrap_or(f64::NAN) / 1e3;
    let cpu_us = cpu_us_per_message(step);
    match load {
        Load::One | Load::Eight => Figures::from([
            (PER_S, step["achieved_per_s"].as_f64().unwrap_or(f64::NAN)),
            ("CPU us a message", cpu_us),
        ]),
        Load::Paced | Load::Half => Figures::from([
            ("ack p50 ms", ms("to_ack_us", "p50_us")),
            ("ack p99 ms", ms("to_ack_us", "p99_us")),
            ("delivered p50 ms", ms("to_delivered_us", "p50_us")),
            ("delivered p99 ms", ms("to_delivered_us", "p99_us")),
            ("CPU us a message", cpu_us),
        ]),
        Load::Crowd => Figures::from([
            ("ack p50 ms", ms("to_ack_us", "p50_us")),
            ("last p50 ms", ms("to_last_us", "p50_us")),
            ("last p99 ms", ms("to_last_us", "p99_us")),
            ("CPU us a copy", cpu_us / f64::from(CROWD_MEMBERS - 1)),
        ]),
    }
}

/// What a median has to be.
#[derive(Clone, Copy)]
enum Bound {
    /// Carillon ÷ baseline, at least.
    RatioMin(f64),
    /// Carillon ÷ baseline, at most.
    RatioMax(f64),
    /// Carillon's own, at most.
    Most(f64),
}

fn bound(form: Form, load: Load, figure: &str) -> Option<Bound> {
    match (load, figure) {
        (_, PER_S) => Some(Bound::RatioMin(form.ratio_min())),
        // With receipts, the copies are the smaller part.
        (Load::Crowd, _) if form == Form::Equal => None,
        (Load::Crowd, "last p50 ms") => Some(Bound::RatioMax(0.6)),
        (Load::Crowd, "CPU us a copy") => Some(Bound::Most(6.5)),
        (Load::Paced | Load::Half, latency) if latency.ends_with("ms") => Some(Bound::RatioMax(1.0)),
        _ => None,
    }
}

/// The runs of one load, pair by pair: of the baseline and of Carillon.
type Runs = [Vec<Figures>; 2];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut status = ExitCode::SUCCESS;
    for form in &arguments.forms {
        match measure(&arguments, *form) {
            Ok(runs) => {
                for (load, runs) in arguments.loads.iter().zip(&runs) {
                    if !tell(*form, *load, runs) {
                        status = ExitCode::FAILURE;
                    }
                }
            }
            Err(words) => {
                eprintln!("against: {words}");
                return ExitCode::from(3);
            }
        }
    }
    status
}

/// Every load, pair by pair, in the order of the arguments.
fn measure(arguments: &Arguments, form: Form) -> Result<Vec<Runs>, String> {
    let baseline = Subject::baseline(&arguments.baseline, form.name());
    let subjects = [baseline, Subject::carillon("carillon", &arguments.build)];
    let loadgen = arguments.build.join("loadgen");
    let mut runs: Vec<Runs> = arguments.loads.iter().map(|_| Runs::default()).collect();
    for pair in 0..arguments.pairs.max(1) {
        let mut peak_per_s = None;
        for (load, runs) in arguments.loads.iter().zip(&mut runs) {
            let words = load.words(peak_per_s).ok_or("half needs eight before it")?;
            for side in [pair % 2, (pair + 1) % 2] {
                let own = match (side, form) {
                    // The plain form keeps no history and speaks to whoever says who it is.
                    (0, Form::Plain) => "--history false",
                    (0, Form::Equal) => "",
                    _ => &format!("--encoding {}", arguments.encoding),
                };
                let words = format!("{words} {} {own}", form.receipts());
                let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
                runs[side].push(figures(*load, &report(&subjects[side], &loadgen, &words)?));
            }
            if *load == Load::Eight {
                peak_per_s = runs[0].last().and_then(|figures| figures.get(PER_S)).copied();
            }
        }
        let disk = disk_ms().map_err(|error| format!("the disk: {error}"))?;
        eprintln!(
            "{}: pair {} of {}; the disk appends 4 KiB durably in {:.2} ms (p50), {:.2} ms (p99)",
            form.name(),
            pair + 1,
            arguments.pairs.max(1),
            percentile(&disk, 0.5),
            percentile(&disk, 0.99)
        );
    }
    Ok(runs)
}

/// Prints the figures of a load. `false`: one is not within its bound.
fn tell(form: Form, load: Load, [baseline, carillon]: &Runs) -> bool {
    let mut is_good = true;
    println!(
        "{:<14} {:<18} {:>12} {:>12} {:>8} {:>8} {:>8}  wanted",
        format!("{} {}", form.name(), load.name()),
        "",
        "baseline",
        "carillon",
        "min",
        "median",
        "max"
    );
    for name in baseline.first().into_iter().flat_map(Figures::keys) {
        let figure = compared(name, baseline, carillon);
        let [min, ratio, max] = figure.ratios;
        let (wanted, is_met) = match bound(form, load, name) {
            Some(Bound::RatioMin(least)) => (format!("ratio >= {least}"), ratio >= least),
            Some(Bound::RatioMax(most)) => (format!("ratio <= {most}"), ratio <= most),
            Some(Bound::Most(most)) => (format!("<= {most}"), figure.other <= most),
            None => (String::new(), true),
        };
        is_good &= is_met;
        let missed = if is_met { "" } else { "  MISSED" };
        println!(
            "{:<14} {name:<18} {:>12.3} {:>12.3} {min:>8.3} {ratio:>8.3} {max:>8.3}  {wanted}{missed}",
            "", figure.one, figure.other
        );
    }
    is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_beside_its_bound_decides() {
        let check = |form, load, name, one: f64, others: &[f64], expected| {
            let runs = |values: &[f64]| values.iter().map(|value| Figures::from([(name, *value)])).collect();
            let runs = [runs(&vec![one; others.len()]), runs(others)];
            assert_eq!(tell(form, load, &runs), expected, "{name} {others:?}");
        };
        check(Form::Plain, Load::One, PER_S, 100.0, &[90.0, 125.0, 200.0], true);
        check(Form::Equal, Load::One, PER_S, 100.0, &[90.0, 125.0, 200.0], false);
        check(Form::Plain, Load::Half, "ack p99 ms", 2.0, &[1.0, 2.0, 9.0], true);
        check(Form::Plain, Load::Paced, "ack p50 ms", 2.0, &[1.0, 2.1, 9.0], false);
        check(Form::Plain, Load::Crowd, "last p50 ms", 10.0, &[6.1], false);
        check(Form::Plain, Load::Crowd, "CPU us a copy", 1.0, &[6.6], false);
        check(Form::Equal, Load::Crowd, "CPU us a copy", 1.0, &[16.6], true);
    }

    #[test]
    fn half_is_half_of_what_was_seen() {
        assert_eq!(Load::Half.words(None), None);
        assert!(Load::Half.words(Some(80_001.0)).is_some_and(|words| words.contains("--rate 40001 ")));
    }
}
