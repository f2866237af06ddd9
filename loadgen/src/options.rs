//! The command line, and what is impossible about it before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use carillon_protocol::client::Wire;
use carillon_protocol::limits::CONTENT_BYTES_MAX;

use crate::content::CONTENT_BYTES_MIN;
use crate::schedule::{Arrivals, Rate, STEPS_MAX};
use crate::session::Receipts;
use crate::thresholds::Threshold;

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
    /// Threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Decides the schedule and who sends to whom; the same seed finds the same groups again
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Instead of --rate and --duration: start at a rate, multiply it after each step, stop where it saturates
    #[arg(long, value_name = "START:FACTOR:STEP_SECONDS", value_parser = ramp, conflicts_with = "idle")]
    pub ramp: Option<Ramp>,
    /// A step whose p99 from intended to acknowledged is above this is saturated
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub ramp_p99_ms: u64,
    /// Send nothing: connect, identify, keep up heartbeats, and report the server's memory per connection
    #[arg(long)]
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
    /// Where to write the report, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where to write the run's course as a table: a row a second
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where to write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where to write the histograms, as an interval log of HdrHistogram
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Where to append a line per send, answer and delivery
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Whether lost connections are made anew, resumed, and unanswered messages repeated
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true")]
    pub retry: bool,
    /// How long to wait at the end until everything acknowledged is delivered (G7)
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub settle: Duration,
}

/// The name of an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
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
#[derive(Clone, Copy, Debug, PartialEq)]
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
    pub fn schedule_rate(&self) -> Rate {
        match self.ramp {
            Some(Ramp { start_per_s, factor, step_s }) => {
                Rate { start_per_s, factor, step_ns: step_s.saturating_mul(1_000_000_000) }
            }
            None => Rate::flat(self.rate),
        }
    }

    /// For how long at most messages are sent.
    #[must_use]
    pub fn send_time(&self) -> Duration {
        match self.ramp {
            Some(ramp) => Duration::from_secs(ramp.step_s.saturating_mul(STEPS_MAX as u64)),
            None => self.warmup + self.duration,
        }
    }

    /// Whether groups are needed.
    #[must_use]
    pub fn uses_groups(&self) -> bool {
        !self.idle && self.mix.group > 0.0
    }

    /// Whether conversations of two are needed.
    #[must_use]
    pub fn uses_pairs(&self) -> bool {
        !self.idle && self.mix.one_to_one > 0.0
    }
}

/// What this machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Descriptors of one process, at most.
    pub descriptors_max: u64,
    /// Ports that an outgoing connection may take, per source address.
    pub ports_count: u64,
    /// Source addresses there are: many on loopback, else one.
    pub addresses_count: u64,
}

/// Descriptors that the generator needs beside its clients'.
const DESCRIPTORS_SPARE: u64 = 64;

/// The largest group: what `conversations.max_members` is tested with.
const GROUP_SIZE_MAX: u32 = 10_000;

/// The most threads: beyond, the generator only competes with itself.
const THREADS_MAX: usize = 64;

/// Whether the plan can work.
///
/// # Errors
/// One sentence that says what cannot, and what to change.
pub fn check(options: &Options, tokens_count: Option<usize>, machine: &Machine) -> Result<(), String> {
    let clients = u64::from(options.clients);
    let two_needed = if options.idle { 1 } else { 2 };
    if clients < two_needed {
        return Err(format!(
            "{clients} clients have nobody to talk to: --clients needs at least {two_needed}"
        ));
    }
    let needed = clients + DESCRIPTORS_SPARE;
    if needed > machine.descriptors_max {
        return Err(format!(
            "{clients} clients need {needed} descriptors and this process may have {}: lower --clients, or raise \
             `ulimit -Hn`",
            machine.descriptors_max
        ));
    }
    let ports = machine.ports_count.saturating_mul(machine.addresses_count);
    if clients > ports {
        return Err(format!(
            "{clients} clients need as many ports and this machine has {ports} from {} source addresses: lower \
             --clients, or widen net.ipv4.ip_local_port_range",
            machine.addresses_count
        ));
    }
    if let Some(count) = tokens_count.filter(|count| (*count as u64) < clients) {
        return Err(format!(
            "{clients} clients need a token each and --tokens holds {count}: lower --clients"
        ));
    }
    if options.users == 0 || options.users.checked_add(clients).is_none_or(|end| end > 1 << 63) {
        return Err(format!(
            "users {} to {clients} more do not lie in 1 … 2^63 − 1: change --users",
            options.users
        ));
    }
    if options.uses_groups() {
        if u64::from(options.group_size) > clients {
            let size = options.group_size;
            return Err(format!("a group of {size} is larger than {clients} clients: lower --group-size"));
        }
        if options.group_size < 2 || options.group_size > GROUP_SIZE_MAX {
            return Err(format!("--group-size {} is not within 2 to {GROUP_SIZE_MAX}", options.group_size));
        }
    }
    if !options.idle && !options.uses_groups() && !options.uses_pairs() {
        return Err("--mix sends nothing anywhere: give one_to_one or group a share above 0".to_owned());
    }
    if !(CONTENT_BYTES_MIN..=CONTENT_BYTES_MAX).contains(&options.content_bytes) {
        let bytes = options.content_bytes;
        return Err(format!(
            "--content-bytes {bytes} is not within {CONTENT_BYTES_MIN} to {CONTENT_BYTES_MAX}"
        ));
    }
    if !(options.rate.is_finite() && options.rate > 0.0) {
        return Err(format!("--rate {} is not a number above 0", options.rate));
    }
    if !(1..=THREADS_MAX).contains(&options.threads) {
        return Err(format!("--threads {} is not within 1 to {THREADS_MAX}", options.threads));
    }
    if options.server.is_empty() {
        return Err("--server names no address".to_owned());
    }
    Ok(())
}

/// Whether the server's own limit leaves room for the plan.
///
/// # Errors
/// One sentence that says what to change.
pub fn check_rate(options: &Options, send_per_s: u64) -> Result<(), String> {
    let per_client = options.schedule_rate().start_per_s / f64::from(options.clients.max(1));
    if options.idle || send_per_s == 0 || per_client <= 0.8 * send_per_s as f64 {
        return Ok(());
    }
    let clients = (options.schedule_rate().start_per_s / (0.8 * send_per_s as f64)).ceil();
    Err(format!(
        "{per_client:.1} messages a second and client are too near to the server's limit of {send_per_s}: use \
         --clients {clients}, or start the server with --set limits.send_per_s=0"
    ))
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a time is a number and ms, s, m or h, such as 30s")?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a time is a number and ms, s, m or h, such as 30s".to_owned()),
    };
    // A week: far above any run, and far from overflowing nanoseconds.
    let millis = number.checked_mul(unit_ms).filter(|millis| *millis <= 604_800_000);
    millis.map(Duration::from_millis).ok_or_else(|| "a time is at most 168h".to_owned())
}

fn mix(text: &str) -> Result<Mix, String> {
    let mut mix = Mix { one_to_one: 0.0, group: 0.0 };
    for part in text.split(',') {
        let (name, share) = part.split_once('=').ok_or("shares are written one_to_one=0.8,group=0.2")?;
        let share: f64 = share.trim().parse().map_err(|_| format!("{share} is not a number"))?;
        if !(share.is_finite() && share >= 0.0) {
            return Err(format!("a share is at least 0, and {share} is not"));
        }
        match name.trim() {
            "one_to_one" => mix.one_to_one = share,
            "group" => mix.group = share,
            other => return Err(format!("{other} is neither one_to_one nor group")),
        }
    }
    Ok(mix)
}

fn ramp(text: &str) -> Result<Ramp, String> {
    let form = || "a ramp is START:FACTOR:STEP_SECONDS, such as 500:1.5:5".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let [start, factor, step] = parts.as_slice() else { return Err(form()) };
    let start_per_s: f64 = start.parse().map_err(|_| form())?;
    let factor: f64 = factor.parse().map_err(|_| form())?;
    let step_s: u64 = step.parse().map_err(|_| form())?;
    if !(start_per_s.is_finite() && start_per_s > 0.0 && (1.01..=10.0).contains(&factor)) {
        return Err("a ramp starts above 0 and its factor lies within 1.01 to 10".to_owned());
    }
    if !(1..=3_600).contains(&step_s) {
        return Err("a step takes 1 to 3600 seconds".to_owned());
    }
    Ok(Ramp { start_per_s, factor, step_s })
}

fn first_user(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('-').unwrap_or(text);
    carillon_protocol::ids::parse_id(number).ok_or_else(|| format!("{number} is not a user id"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const MACHINE: Machine = Machine { descriptors_max: 20_000, ports_count: 28_000, addresses_count: 8 };

    fn parsed(line: &str) -> Options {
        Options::try_parse_from(["loadgen"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn impossible_plans_are_refused_with_a_sentence() {
        let refused = [
            ("--clients 1", None, "nobody to talk to"),
            ("--clients 19990", None, "descriptors"),
            ("--clients 10", Some(9), "--tokens holds 9"),
            ("--clients 4 --group-size 5", None, "larger than 4 clients"),
            ("--mix group=0", None, "sends nothing"),
            ("--content-bytes 63", None, "--content-bytes 63"),
            ("--content-bytes 16385", None, "--content-bytes 16385"),
            ("--rate 0", None, "--rate 0"),
            ("--threads 0", None, "--threads 0"),
            ("--users 9223372036854775807-", None, "--users"),
        ];
        for (line, tokens, words) in refused {
            let sentence = check(&parsed(line), tokens, &MACHINE).expect_err(line);
            assert!(sentence.contains(words) && !sentence.contains('\n'), "{line}: {sentence}");
        }
        let few_ports = Machine { ports_count: 100, addresses_count: 1, ..MACHINE };
        assert!(check(&parsed("--clients 101"), None, &few_ports).unwrap_err().contains("ports"));
        for line in ["", "--clients 19000 --idle", "--clients 1 --idle", "--clients 2 --mix one_to_one=1"] {
            assert_eq!(check(&parsed(line), None, &MACHINE), Ok(()), "{line}");
        }
    }

    #[test]
    fn the_server_s_rate_limit_is_respected_in_the_plan() {
        assert_eq!(check_rate(&parsed("--clients 100 --rate 1000"), 20), Ok(()));
        assert_eq!(check_rate(&parsed("--clients 10 --rate 1000"), 0), Ok(()));
        let sentence = check_rate(&parsed("--clients 10 --rate 1000"), 20).unwrap_err();
        assert!(sentence.contains("--clients 63"), "{sentence}");
    }

    #[test]
    fn what_is_written_is_read() {
        let options = parsed("--duration 2m --warmup 500ms --ramp 500:1.5:5 --users 42- --retry false");
        assert_eq!((options.duration.as_secs(), options.warmup.as_millis()), (120, 500));
        assert_eq!(options.ramp, Some(Ramp { start_per_s: 500.0, factor: 1.5, step_s: 5 }));
        assert!((options.users, options.retry) == (42, false) && parsed("--retry").retry);
        for wrong in
            ["--duration 30", "--mix a=1", "--ramp 1:1:1", "--ramp 1:2", "--users 0-", "--retry maybe"]
        {
            let line = ["loadgen"].into_iter().chain(wrong.split_whitespace());
            assert!(Options::try_parse_from(line).is_err(), "{wrong}");
        }
    }
}
