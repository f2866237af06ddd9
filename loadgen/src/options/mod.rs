//! The command line, and what is impossible about it before anything starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carillon_protocol::client::Wire;

use crate::scenario::Manners;
use crate::schedule::{Arrivals, Rates, Stage};
use crate::session::Receipts;
use crate::share::{Share, Worker};
use crate::thresholds::Threshold;

mod check;
pub(crate) mod parse;

pub use check::{Machine, check, check_rate};
use parse::{duration, first_user, mix, ramp};

/// Open-loop load over real WebSockets, with an oracle that decides whether anything was lost, duplicated, reordered,
/// skipped, invented, misdelivered or changed.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "loadgen", version, args_override_self = true)]
pub struct Options {
    /// Public address of the server; several gateways with commas, clients take turns, and go on at the next one when
    /// they lose a connection
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:8080")]
    pub server: Vec<SocketAddr>,
    /// Connected clients, each a user of its own
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub clients: u32,
    /// Messages a second, all clients together
    #[arg(long, value_name = "PER_S", default_value_t = 100.0)]
    pub rate: f64,
    /// How long to send (or to stay, with --idle): 500ms, 30s, 2m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub duration: Duration,
    /// Messages intended in this time at the start are judged but not measured
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warmup: Duration,
    /// What is spoken on the sockets
    #[arg(long, value_enum, default_value = "json")]
    pub encoding: EncodingName,
    /// What share of the messages goes where
    #[arg(long, value_name = "SHARES", value_parser = mix, default_value = "one_to_one=0.8,group=0.2")]
    pub mix: Mix,
    /// Members of each group; above 1,000 the server needs --set conversations.max_members
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub group_size: u32,
    /// Bytes of content in a message
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub content_bytes: usize,
    /// The share of the messages that are media: an image behind a URL, beside the content
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub media: f64,
    /// What clients confirm
    #[arg(long, value_enum, default_value = "delivered")]
    pub receipts: Receipts,
    /// Gaps between messages
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// Data directory of a server in development mode: tokens are signed with its key
    #[arg(long, value_name = "DIR", default_value = "carillon-data")]
    pub data_dir: PathBuf,
    /// Tokens to use instead, one a line, each of another user
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// The first user id; clients count up from it
    #[arg(long, value_name = "FIRST", value_parser = first_user, default_value = "1000-")]
    pub users: u64,
    /// Threads of the generator, at least: with io_uring there is one for as many clients as it may have descriptors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// How sockets are carried: by io_uring, by epoll, or by the first that is allowed here
    #[arg(long, value_enum, default_value = "auto")]
    pub io: IoName,
    /// Connections opened a second at the start, at most
    #[arg(long, value_name = "PER_S", default_value_t = 5_000.0)]
    pub open_rate: f64,
    /// Decides the schedule and who sends to whom; the same seed finds the same groups again
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Instead of --rate and --duration: start at a rate, multiply it after each step, stop where it saturates
    #[arg(long, value_name = "START:FACTOR:STEP_SECONDS", value_parser = ramp, conflicts_with = "idle")]
    pub ramp: Option<Ramp>,
    /// A step whose p99 from intended to acknowledged is above this is saturated
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub ramp_p99_ms: u64,
    /// Instead of --rate: clients are pairs, and the first of each sends as soon as fewer than this many of its messages
    /// wait for their acknowledgement
    #[arg(long, value_name = "N", conflicts_with_all = ["ramp", "idle", "rate", "mix"])]
    pub in_flight: Option<usize>,
    /// Send nothing: connect, identify, keep up heartbeats for --duration, and report what that costs the server and whether
    /// a connection was lost
    #[arg(long, visible_alias = "hold")]
    pub idle: bool,
    /// What the run has to reach, such as 'ack_p99_ms<50'; may be given several times; exit status 99 when one is missed
    #[arg(long, value_name = "FIGURE<BOUND")]
    pub threshold: Vec<Threshold>,
    /// The server's metrics, for its CPU and memory
    #[arg(long, value_name = "URL")]
    pub metrics: Vec<String>,
    /// Processes of the server on this machine, for the CPU of their threads and their memory
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// Where the report is written.
    #[command(flatten)]
    pub outputs: Outputs,
    /// Where to write the histograms, as an interval log of HdrHistogram
    #[arg(long, value_name = "FILE", conflicts_with = "worker")]
    pub hlog: Option<PathBuf>,
    /// How the run is shown while it goes on
    #[arg(long, value_enum, default_value = "auto")]
    pub view: View,
    /// Where to append a line per send, answer and delivery
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Whether lost connections are made anew, resumed, and unanswered messages repeated
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true")]
    pub retry: bool,
    /// Whether histories are read at the end and held against what was seen; a server that keeps none is judged by what
    /// was acknowledged and delivered alone
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub history: bool,
    /// This generator is one of several that run at once, such as 2/4: it has its share of the clients and of the rate, and
    /// its histograms are written beside its --report, for `loadgen merge`
    #[arg(long, value_name = "NUMBER/OF")]
    pub worker: Option<Worker>,
    /// When the schedule starts (or --idle begins to count), in seconds of Unix time: the same for all workers, and late
    /// enough that all clients are connected by then
    #[arg(long, value_name = "SECONDS")]
    pub start_at: Option<u64>,
    /// How long to wait at the end until everything acknowledged is delivered (G7)
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub settle: Duration,
    /// Of a scenario: its name.
    #[arg(skip)]
    pub scenario: Option<String>,
    /// Of a scenario: how the rate goes, instead of --rate and --duration.
    #[arg(skip)]
    pub stages: Vec<Stage>,
    /// Of a scenario: what clients do beside sending.
    #[arg(skip)]
    pub manners: Manners,
    /// Of a worker: where its clients are.
    #[arg(skip)]
    pub share: Option<Share>,
}

/// Where the histograms of a report are.
#[must_use]
pub fn hlog_beside(report: &Path) -> PathBuf {
    report.with_extension("hlog")
}

/// Where a report is written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Outputs {
    /// Where to write the report, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where to write the run's course as a table: a row a second
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where to write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// How a run is shown while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum View {
    /// On a screen when standard output is a terminal, else by lines
    Auto,
    /// On a screen
    Live,
    /// By a line a second on standard error
    Plain,
}

/// What a run of idle connections is about.
const NONE_LOST: &str = "connections_lost<1";

/// The name of a way to carry sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IoName {
    /// The first that the kernel allows
    Auto,
    /// Direct descriptors of a ring
    Uring,
    /// A descriptor each
    Epoll,
}

/// The name of an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncodingName {
    /// Text frames
    Json,
    /// Binary frames
    Rkyv,
}

impl EncodingName {
    /// The encoding.
    #[must_use]
    pub const fn wire(self) -> Wire {
        match self {
            EncodingName::Json => Wire::Json,
            EncodingName::Rkyv => Wire::Rkyv,
        }
    }
}

/// Shares of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Into conversations of two.
    pub one_to_one: f64,
    /// Into groups.
    pub group: f64,
}

/// A rising rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Messages a second in the first step.
    pub start_per_s: f64,
    /// Above 1.
    pub factor: f64,
    /// Length of a step.
    pub step_s: u64,
}

impl Options {
    /// How the rate goes.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let warmup_ns = nanoseconds(self.warmup);
        match self.ramp {
            Some(Ramp { start_per_s, factor, step_s }) => {
                Rates::ramp(start_per_s, factor, step_s.saturating_mul(1_000_000_000))
            }
            None if self.stages.is_empty() => {
                // In a closed loop answers set the pace.
                let per_s = if self.in_flight.is_some() { 0.0 } else { self.rate };
                Rates::new(warmup_ns, &[Stage::constant(per_s, nanoseconds(self.duration))])
            }
            None => Rates::new(warmup_ns, &self.stages),
        }
    }

    /// The highest rate there will be, a ramp aside.
    #[must_use]
    pub fn peak_per_s(&self) -> f64 {
        let ends = |stage: &Stage| stage.from_per_s.max(stage.to_per_s);
        self.rates().steps().iter().map(ends).fold(0.0, f64::max)
    }

    /// For how long at most messages are sent.
    #[must_use]
    pub fn send_time(&self) -> Duration {
        Duration::from_nanos(self.rates().length_ns())
    }

    /// As it is shown where standard output is a terminal, or is none. On a terminal `auto` stays what it is: the live view
    /// where that terminal can be had, lines where it cannot.
    #[must_use]
    pub fn shown(self, is_terminal: bool) -> Options {
        let view = match self.view {
            View::Auto if !is_terminal => View::Plain,
            asked => asked,
        };
        Options { view, ..self }
    }

    /// Where the histograms are written: a worker's are beside its report, where `loadgen merge` looks for them.
    #[must_use]
    pub fn hlog_path(&self) -> Option<PathBuf> {
        let beside = self.worker.and(self.outputs.report.as_deref()).map(hlog_beside);
        self.hlog.clone().or(beside)
    }

    /// What the run has to reach: what was asked for, and of idle connections that none is lost unless it was asked for
    /// otherwise.
    #[must_use]
    pub fn thresholds(&self) -> Vec<Threshold> {
        let none_lost: Threshold = NONE_LOST.parse().expect("a figure and its bound");
        let is_asked = self.threshold.iter().any(|threshold| threshold.figure() == none_lost.figure());
        self.threshold.iter().copied().chain((self.idle && !is_asked).then_some(none_lost)).collect()
    }

    /// Whether groups are needed.
    #[must_use]
    pub fn uses_groups(&self) -> bool {
        !self.idle && self.in_flight.is_none() && self.mix.group > 0.0
    }

    /// Whether conversations of two are needed.
    #[must_use]
    pub fn uses_pairs(&self) -> bool {
        !self.idle && (self.in_flight.is_some() || self.mix.one_to_one > 0.0)
    }
}
