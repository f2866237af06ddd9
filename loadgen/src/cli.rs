//! The command line: a run when no command is named, else what is done with reports and scenarios.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

use crate::options::{Options, Outputs};
use crate::scenario::PRESETS;
use crate::thresholds::Threshold;

const EXAMPLES: &str = "\
Examples:
  # Against `carillon` on this machine, with the development key of its data directory:
  loadgen --data-dir carillon-data --clients 200 --rate 1000 --duration 30s

  # A scenario: `loadgen presets` lists those there are, `loadgen presets NAME` prints one to begin with:
  loadgen --data-dir carillon-data --preset mixed-day --html day.html

  # Groups only, in the binary encoding, everything read, with a report:
  loadgen --data-dir carillon-data --encoding rkyv --mix group=1 --group-size 20 --receipts read --report report.json

  # Where does it saturate? From 500/s, half as much again every 5 s, with the CPU of the server's threads:
  loadgen --data-dir carillon-data --clients 400 --ramp 500:1.5:5 --server-pid $(pidof carillon)

  # The most that 50 pairs get through with eight messages on their way each, from a server that keeps no history:
  loadgen --data-dir carillon-data --clients 100 --in-flight 8 --receipts none --history false

  # The same by probes of their own, each with the oracle at its end:
  loadgen find-limit --data-dir carillon-data --clients 400 --from 500 --duration 10s --html limit.html

  # Memory of idle connections:
  loadgen --data-dir carillon-data --clients 15000 --idle --duration 60s --server-pid $(pidof carillon)

  # From two machines: the same scenario, a share each, and one report of both:
  loadgen --server 10.0.0.7:8080 --preset one-to-one --worker 1/2 --start-at $(($(date +%s) + 30)) --report w1.json
  loadgen --server 10.0.0.7:8080 --preset one-to-one --worker 2/2 --start-at … --report w2.json
  loadgen merge w1.json w2.json --report both.json --html both.html

The rate is an open loop: messages leave when the schedule says, however the server does, and latencies count from
then. --in-flight is a closed one: it says how much a server gets through, and nothing about latency. The server's
default limit is 20 messages a second and user: use more clients, or `--set limits.send_per_s=0`.

  # Did it become slower? Runs made in turns, compared pair by pair:
  loadgen diff before-1.json,before-2.json,before-3.json after-1.json,after-2.json,after-3.json

Exit status: 0 all promises kept; 2 a promise broken; 3 invalid: the plan cannot work, or the generator was
late; 99 a threshold missed.";

/// Open-loop load over real WebSockets, with an oracle that decides whether anything was lost, duplicated, reordered,
/// skipped, invented, misdelivered or changed.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES)]
#[command(args_override_self = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do other than run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where the run is written down.
    #[command(flatten)]
    pub source: Source,
    /// The run.
    #[command(flatten)]
    pub options: Options,
}

/// A scenario to begin with: what the command line says beside goes before.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Source {
    /// A scenario: clients, stages of the rate, storms, thresholds, in TOML; flags beside it go before it
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// A scenario that comes with the generator: `loadgen presets` lists them
    #[arg(long, value_name = "NAME", conflicts_with = "scenario", value_parser = preset_names())]
    pub preset: Option<String>,
}

fn preset_names() -> PossibleValuesParser {
    PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name))
}

/// What to do other than run.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Compare two reports, or two sets of reports
    Diff(Diff),
    /// Search the highest rate that holds: at least 98 % achieved, and p99 to the ack within a bound
    #[command(args_override_self = true)]
    FindLimit(Box<FindLimit>),
    /// Merge the reports of workers that ran at once into that of the whole
    Merge(Merge),
    /// List the presets, or print one as TOML, to be changed and given to --scenario
    Presets {
        /// Which to print
        name: Option<String>,
    },
}

/// Search the highest rate that holds: at least 98 % achieved, and p99 to the ack within a bound
///
/// Each probe is an open-loop run of --duration after --warmup, with the oracle at its end. Rates are doubled (or halved)
/// until one holds and one does not, then the span between is halved. A probe in which the generator was late does not
/// hold: with both on one machine that is the limit of both. Exit status as of a run.
#[derive(Clone, Debug, clap::Args)]
pub struct FindLimit {
    /// The first rate, messages a second
    #[arg(long, value_name = "PER_S", default_value_t = 500.0)]
    pub from: f64,
    /// p99 from intended to acknowledged, above which a rate does not hold
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub p99_ms: u64,
    /// How near to each other the ends are found: 0.05 is a twentieth
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub precision: f64,
    /// Probes at most
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub probes: u32,
    /// Where the run is written down.
    #[command(flatten)]
    pub source: Source,
    /// The run.
    #[command(flatten)]
    pub options: Options,
}

/// Merge the reports of workers that ran at once into that of the whole
///
/// Each was started with --worker, and wrote its histograms beside its report: w1.json and w1.hlog. They are added bucket by
/// bucket; counts and rates are summed by wall time, and thresholds are judged again. Reports that are not all parts of one
/// scenario are refused. Exit status as of a run.
#[derive(Clone, Debug, clap::Args)]
pub struct Merge {
    /// Reports of all workers
    #[arg(value_name = "REPORT.json", required = true)]
    pub reports: Vec<PathBuf>,
    /// What the whole has to reach, beside what each worker was told
    #[arg(long, value_name = "FIGURE<BOUND")]
    pub threshold: Vec<Threshold>,
    /// Where to write the merged histograms
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Where the report is written.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Compare two reports, or two sets of reports: figure by figure the ratio, how sure it is, and a word
///
/// One report a side is compared second by second. As many on both sides are pairs, in the order given: best made in
/// turns, before and after. Exit status: 0 nothing is worse beyond the tolerance; 1 something is, or a promise was
/// broken; 3 it cannot be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Diff {
    /// Reports of before, with commas
    #[arg(value_name = "A.json", value_delimiter = ',', required = true, num_args = 1)]
    pub before: Vec<PathBuf>,
    /// Reports of after, with commas
    #[arg(value_name = "B.json", value_delimiter = ',', required = true, num_args = 1)]
    pub after: Vec<PathBuf>,
    /// How much worse is not worse yet: 0.1 is a tenth
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub tolerance: f64,
    /// A figure that decides, instead of those that usually do: ack_p50_ms, ack_p99_ms, delivered_p50_ms,
    /// delivered_p99_ms, achieved_per_s, saturates_at_per_s, cpu_us_per_message, bytes_per_connection
    #[arg(long, value_name = "NAME")]
    pub figure: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
