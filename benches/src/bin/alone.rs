//! `alone`: bounds that Carillon has to keep by itself: a channel of 25,000, three times more than it gets through, and
//! what QUIC between gateway and router costs against rings in one process.
//!
//! ```text
//! cargo build --profile dist -p carillon -p carillon-loadgen
//! cargo run --release -p carillon-benches --bin alone -- target/dist
//! ```
//!
//! Every round runs every load against servers of their own in fresh directories. What is told is the least, the median
//! and the most over the rounds; the median is held against the bound. Nothing else may run meanwhile.

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_benches::run::{Subject, cpu_us_per_message, disk_ms, report, report_of_overload};
use carillon_benches::table::percentile;
use clap::Parser;
use serde_json::Value;

/// Runs loads against a build of Carillon, and holds what they come to against bounds.
///
/// Exit status 1 when a median is not within its bound, 3 when a run says nothing.
#[derive(Parser)]
struct Arguments {
    /// The directory with `carillon` and `loadgen`
    build: PathBuf,
    /// How often each load is run
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which loads
    #[arg(long, value_enum, value_delimiter = ',', default_value = "channel,overload,quic")]
    loads: Vec<Load>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// 25,000 members on two rings, a message every three seconds
    Channel,
    /// Three times what 50 pairs with eight messages on their way each get through
    Overload,
    /// Those 50 pairs with rings between gateway and router, and with QUIC
    Quic,
}

const MEMBERS: u32 = 25_000;
const EIGHT: &str = "--clients 100 --in-flight 8 --receipts none --warmup 1s --duration 5s";

/// What a median has to be.
#[derive(Clone, Copy)]
enum Bound {
    Least(f64),
    Most(f64),
    /// It is told, and nothing hangs on it.
    Told,
}

/// A figure of one round, with its unit in its name.
type Figure = (&'static str, f64, Bound);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut status = ExitCode::SUCCESS;
    for load in &arguments.loads {
        match measure(&arguments, *load) {
            Ok(rounds) if tell(&rounds) => {}
            Ok(_) => status = ExitCode::FAILURE,
            Err(words) => {
                eprintln!("alone: {words}");
                return ExitCode::from(3);
            }
        }
    }
    status
}

fn measure(arguments: &Arguments, load: Load) -> Result<Vec<Vec<Figure>>, String> {
    let rounds_count = arguments.rounds.max(1);
    (0..rounds_count)
        .map(|round| {
            let figures = match load {
                Load::Channel => channel(&arguments.build),
                Load::Overload => overload(&arguments.build),
                Load::Quic => quic(&arguments.build, round % 2 == 0),
            }?;
            let disk = disk_ms().map_err(|error| format!("the disk: {error}"))?;
            eprintln!(
                "round {} of {rounds_count}; the disk appends 4 KiB durably in {:.2} ms (p50), {:.2} ms (p99)",
                round + 1,
                percentile(&disk, 0.5),
                percentile(&disk, 0.99)
            );
            Ok(figures)
        })
        .collect()
}

fn words(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn ms(step: &Value, what: &str, rank: &str) -> f64 {
    step[what][rank].as_f64().unwrap_or(f64::NAN) / 1e3
}

fn per_s(report: &Value) -> f64 {
    report["steps"][0]["achieved_per_s"].as_f64().unwrap_or(f64::NAN)
}

fn channel(build: &std::path::Path) -> Result<Vec<Figure>, String> {
    let server = Subject::carillon("channel", build)
        .with("gateway.shards=2")
        .with(&format!("conversations.max_members={MEMBERS}"));
    let load = format!(
        "--clients {MEMBERS} --mix group=1 --group-size {MEMBERS} --rate 0.33 --arrivals uniform --receipts none \
         --warmup 3s --duration 30s"
    );
    let report = report(&server, &build.join("loadgen"), &words(&load))?;
    let step = &report["steps"][0];
    Ok(vec![
        ("channel: ack p50 ms", ms(step, "to_ack_us", "p50_us"), Bound::Told),
        ("channel: last p50 ms", ms(step, "to_last_us", "p50_us"), Bound::Most(100.0)),
        ("channel: CPU us a copy", cpu_us_per_message(step) / f64::from(MEMBERS - 1), Bound::Told),
    ])
}

fn overload(build: &std::path::Path) -> Result<Vec<Figure>, String> {
    let (server, loadgen) = (Subject::carillon("overload", build), build.join("loadgen"));
    let peak_per_s = per_s(&report(&server, &loadgen, &words(EIGHT))?);
    let load = format!(
        "--clients 100 --rate {} --mix one_to_one=1 --receipts none --warmup 2s --duration 8s",
        (3.0 * peak_per_s).round()
    );
    let report = report_of_overload(&server, &loadgen, &words(&load))?;
    let tally = |what: &str| report["oracle"]["tally"][what].as_f64().unwrap_or(f64::NAN);
    Ok(vec![
        ("overload: peak messages/s", peak_per_s, Bound::Told),
        ("overload: messages/s ÷ peak", per_s(&report) / peak_per_s, Bound::Least(0.9)),
        ("overload: ack p99 ms", ms(&report["steps"][0], "to_ack_us", "p99_us"), Bound::Told),
        ("overload: refused ÷ acknowledged", tally("refused") / tally("acked"), Bound::Told),
    ])
}

fn quic(build: &std::path::Path, is_ring_first: bool) -> Result<Vec<Figure>, String> {
    let loadgen = build.join("loadgen");
    let run = |local: &str| {
        let server = Subject::carillon(local, build).with(&format!("link.local={local}"));
        report(&server, &loadgen, &words(EIGHT))
    };
    let (ring, quic) = if is_ring_first {
        let ring = run("ring")?;
        (ring, run("quic")?)
    } else {
        let quic = run("quic")?;
        (run("ring")?, quic)
    };
    let cpu_us = |report: &Value| cpu_us_per_message(&report["steps"][0]);
    Ok(vec![
        ("rings: messages/s", per_s(&ring), Bound::Told),
        ("QUIC: messages/s ÷ rings", per_s(&quic) / per_s(&ring), Bound::Least(0.75)),
        ("rings: CPU us a message", cpu_us(&ring), Bound::Told),
        ("QUIC: CPU us a message ÷ rings", cpu_us(&quic) / cpu_us(&ring), Bound::Told),
    ])
}

/// Prints the figures of a load. `false`: one is not within its bound.
fn tell(rounds: &[Vec<Figure>]) -> bool {
    let mut is_good = true;
    for (at, (name, _, bound)) in rounds.first().into_iter().flatten().enumerate() {
        let values: Vec<f64> =
            rounds.iter().filter_map(|round| round.get(at)).map(|figure| figure.1).collect();
        let [min, median, max] = [0.0, 0.5, 1.0].map(|share| percentile(&values, share));
        let (wanted, is_met) = match bound {
            Bound::Least(least) => (format!(">= {least}"), median >= *least),
            Bound::Most(most) => (format!("<= {most}"), median <= *most),
            Bound::Told => (String::new(), true),
        };
        is_good &= is_met;
        let missed = if is_met { "" } else { "  MISSED" };
        println!("{name:<34} {min:>12.3} {median:>12.3} {max:>12.3}  {wanted}{missed}");
    }
    is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_beside_its_bound_decides() {
        let check = |bound, values: &[f64], expected| {
            let rounds: Vec<_> = values.iter().map(|value| vec![("figure", *value, bound)]).collect();
            assert_eq!(tell(&rounds), expected, "{values:?}");
        };
        check(Bound::Least(0.9), &[0.5, 0.9, 2.0], true);
        check(Bound::Least(0.9), &[0.5, 0.89, 2.0], false);
        check(Bound::Most(100.0), &[1.0, 101.0, 102.0], false);
        check(Bound::Told, &[f64::NAN], true);
        check(Bound::Most(100.0), &[f64::NAN], false);
    }
}
