//! A cluster under fire: routers and gateways as processes on one FoundationDB, driven by the load generator, while they
//! and the database's processes are killed, stand still and are stopped, by a seed. The generator's oracle judges every
//! round; at the end everything that was ever acknowledged is looked for once more.
//!
//! A round is one run of the generator, with one fault or two at a time in it, and time to recover.

mod fleet;
mod held;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carillon_loadgen::io::Outcome;
use carillon_loadgen::options::Options;
use carillon_node::clock::Clock;
use carillon_node::prng::Prng;
use clap::Parser;
use serde_json::Value;

use crate::crowd::ground::Latencies;
use crate::http::request;
use crate::killing::{judged, wait_for_first_send};
use crate::server::development_token;
pub use fleet::Databases;
use fleet::Fleet;
use held::{Happened, Journal};
use plan::Fault;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Siege {
    /// The server's binary, with the feature `fdb`.
    pub binary: String,
    /// The database's cluster file.
    pub cluster_file: PathBuf,
    /// How processes of the database are killed and so on; without it they are left alone.
    pub databases: Option<Databases>,
    /// How many routers.
    pub routers: usize,
    /// How many gateways.
    pub gateways: usize,
    /// How many processes are killed.
    pub kills: u32,
    /// How many stand still for a while.
    pub pauses: u32,
    /// How long, in seconds: from and to.
    pub pause_s: (u64, u64),
    /// How many routers are stopped as an operator would.
    pub stops: u32,
    /// Messages a second.
    pub rate_per_s: u32,
    /// Decides what happens to whom when. The processes' own timing is not in it: a seed makes a run similar, not the same.
    pub seed: u64,
    /// Where logs and journals go.
    pub state: PathBuf,
}

/// The variable that names the cluster file.
pub const CLUSTER_VARIABLE: &str = "CARILLON_TEST_FDB_CLUSTER";

/// Clients of the generator, its largest group, and the first of its users.
const CLIENTS: u64 = 10;
const GROUP: u32 = 4;
const FIRST_USER: u64 = 1_000;
/// After the last process of a round is back: everything recovers under load.
const RECOVERY_MS: u64 = 5_000;
/// What comes back sooner than this comes back into what its going has caused, and that counts from the going.
const AFTERMATH_MS: u64 = 4_000;
/// A generator that says nothing for this long after its sending is stuck: it may wait twice [`SETTLE_S`].
const VERDICT: Duration = Duration::from_secs(240);
const SETTLE_S: u64 = 60;
/// When something happens in the round in which the cluster grows, in milliseconds after its first message.
const JOIN_AT_MS: u64 = 2_000;
const LEAVE_AT_MS: u64 = 14_000;
/// What two faults at a time do is nobody's alone.
const TOGETHER: &str = "two at a time";

/// What it came to.
#[derive(Debug, Default)]
pub struct Account {
    /// Rounds.
    pub rounds: u32,
    /// Messages sent, retries not counted: all of them were acknowledged.
    pub sends: u64,
    /// Acks that said `duplicate`.
    pub duplicates: u64,
    /// Events that clients received.
    pub deliveries: u64,
    /// Times a client came back.
    pub reconnects: u64,
    /// Messages that were acknowledged and looked for at the end.
    pub found: usize,
    /// Starts of processes that had to be tried again.
    pub starts_again: u32,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Default)]
struct Row {
    times: u32,
    lines: usize,
    until: Latencies,
    longest: Latencies,
}

impl Account {
    /// How long writes were not acknowledged, by what happened. A line is what one client says in one conversation.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text =
            "| what happened | times | lines | held up | first ack after: p50, p99, max | longest wait of a \
                        message: p50, p99, max |\n|---|---|---|---|---|---|\n"
                .to_owned();
        let words = |waits: &Latencies| match waits.count() {
            0 => "–".to_owned(),
            _ => {
                [50.0, 99.0, 100.0]
                    .map(|percent| format!("{:.2}", waits.percentile_ms(percent) / 1e3))
                    .join(", ")
                    + " s"
            }
        };
        for (kind, Row { times, lines, until, longest }) in &self.rows {
            let held = until.count();
            text +=
                &format!("| {kind} | {times} | {lines} | {held} | {} | {} |\n", words(until), words(longest));
        }
        text
    }

    fn count(&mut self, report: &Value) {
        let tally = &report["oracle"]["tally"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        self.rounds += 1;
        self.sends += number(&tally["sends"]);
        self.duplicates += number(&tally["acked_duplicate"]);
        self.deliveries += number(&tally["deliveries"]);
        self.reconnects += number(&report["generator"]["reconnects"]);
    }

    /// Returns the same as text: what happened, on how many lines something was said, and, for each that was held up,
    /// until the first ack and the longest wait, in milliseconds.
    fn measure(&mut self, journal: &Journal, happened: &[Happened]) -> String {
        let mut every = String::new();
        for held in journal.held(happened) {
            every += &format!("{},{}", held.kind, held.lines);
            for wait in &held.held {
                every += &format!(",{}/{}", wait.until_ns / 1_000_000, wait.longest_ns / 1_000_000);
            }
            every.push('\n');
            let row = self.rows.entry(held.kind).or_default();
            row.times += 1;
            row.lines += held.lines;
            for wait in &held.held {
                row.until.record(wait.until_ns);
                row.longest.record(wait.longest_ns);
            }
        }
        every
    }
}

/// A moment of a round: one end of a fault.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at_ms: u64,
    fault: Fault,
    is_end: bool,
}

impl Siege {
    /// Plays the whole of it.
    ///
    /// # Errors
    /// What the oracle found, or why it could not judge.
    pub fn run(&self) -> Result<Account, String> {
        std::fs::create_dir_all(&self.state).map_err(|error| format!("{}: {error}", self.state.display()))?;
        let mut prng = Prng::new(self.seed);
        let mut fleet = Fleet::start(self)?;
        let mut account = Account::default();
        let mut acked = BTreeMap::new();
        self.grow(&mut fleet, &mut account, &mut acked)?;
        let rounds = plan::rounds(self, &mut prng);
        for (number, faults) in rounds.iter().enumerate() {
            let words: Vec<_> = faults.iter().map(ToString::to_string).collect();
            eprintln!("round {} of {}: {}", number + 1, rounds.len(), words.join(" and "));
            self.round(&format!("round-{}", number + 1), faults, &mut fleet, &mut account, &mut acked)
                .map_err(|found| format!("round {} ({}): {found}", number + 1, words.join(" and ")))?;
        }
        account.found = self.find_all(&fleet, &acked)?;
        account.starts_again = fleet.starts_again;
        Ok(account)
    }

    /// A router and a gateway come while messages flow, have their share, and go.
    fn grow(
        &self,
        fleet: &mut Fleet,
        account: &mut Account,
        acked: &mut BTreeMap<u64, u64>,
    ) -> Result<(), String> {
        eprintln!("a router and a gateway more");
        let journal = self.state.join("growth.journal");
        let gateway = fleet.add_gateway()?;
        let running = Running::start(self.options(fleet, &journal, LEAVE_AT_MS + RECOVERY_MS), &journal)?;
        running.sleep_until(JOIN_AT_MS);
        let mut happened = Vec::new();
        let router = fleet.add_router()?;
        happened.push(Happened::now("a router joins"));
        running.sleep_until(LEAVE_AT_MS);
        let (slots, appended) =
            (fleet.metric(router, "carillon_router_slots "), fleet.metric(router, APPENDED));
        let heard = fleet.metric(gateway, "carillon_gateway_frames_total{direction=\"in\"}");
        happened.push(Happened::now("a router that joined is stopped"));
        let left = fleet.leave(router);
        let report = running.finish()?;
        if slots == 0.0 || appended == 0.0 || heard == 0.0 {
            return Err(format!(
                "a router that joined had {slots} slots and appended {appended} events, a gateway heard {heard} frames"
            ));
        }
        eprintln!(
            "the router had {slots} slots and appended {appended} events; the gateway heard {heard} frames"
        );
        left.and(fleet.leave(gateway))?;
        self.close(&report, &journal, &happened, account, acked)
    }

    fn round(
        &self,
        name: &str,
        faults: &[Fault],
        fleet: &mut Fleet,
        account: &mut Account,
        acked: &mut BTreeMap<u64, u64>,
    ) -> Result<(), String> {
        let journal = self.state.join(format!("{name}.journal"));
        let mut moments: Vec<Moment> = Vec::new();
        for fault in faults {
            moments.push(Moment { at_ms: fault.at_ms, fault: *fault, is_end: false });
            moments.push(Moment { at_ms: fault.at_ms + fault.lasts_ms, fault: *fault, is_end: true });
        }
        moments.sort_by_key(|moment| moment.at_ms);
        let last_ms = moments.last().map_or(0, |moment| moment.at_ms);
        let running = Running::start(self.options(fleet, &journal, last_ms + RECOVERY_MS), &journal)?;
        let mut happened = Vec::new();
        let mut failed = Ok(());
        for moment in moments {
            running.sleep_until(moment.at_ms);
            let fault = moment.fault;
            let kind = match faults {
                [_] => fault.kind(moment.is_end),
                _ => TOGETHER.to_owned(),
            };
            // What begins counts from its beginning, what comes back from when it is there. Every end is tried, whatever
            // failed before: nothing is left standing still.
            let done = if moment.is_end {
                let done = fleet.end(&fault);
                if fault.lasts_ms >= AFTERMATH_MS {
                    happened.push(Happened::now(kind));
                }
                done
            } else {
                happened.push(Happened::now(kind));
                fleet.begin(&fault)
            };
            failed = failed.and(done);
        }
        let report = running.finish()?;
        failed.and(fleet.check())?;
        self.close(&report, &journal, &happened, account, acked)
    }

    fn close(
        &self,
        report: &Value,
        path: &Path,
        happened: &[Happened],
        account: &mut Account,
        acked: &mut BTreeMap<u64, u64>,
    ) -> Result<(), String> {
        let tally = &report["oracle"]["tally"];
        if tally["sends"] != tally["acked"] {
            return Err(format!("not everything was acknowledged in the end: {tally}"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let journal = Journal::read(&text);
        account.count(report);
        let every = account.measure(&journal, happened);
        let list = self.state.join("held-up.csv");
        let appended = OpenOptions::new().create(true).append(true).open(&list);
        appended
            .and_then(|mut file| file.write_all(every.as_bytes()))
            .map_err(|error| format!("{}: {error}", list.display()))?;
        acked.extend(journal.acked());
        Ok(())
    }

    fn options(&self, fleet: &Fleet, journal: &Path, length_ms: u64) -> Options {
        let servers: Vec<String> = fleet.gateways().iter().map(ToString::to_string).collect();
        let words = format!(
            "loadgen --server {} --clients {CLIENTS} --rate {} --duration {length_ms}ms --warmup 0s --users {FIRST_USER}- \
             --mix one_to_one=0.5,group=0.5 --group-size {GROUP} --settle {SETTLE_S}s --seed {}",
            servers.join(","),
            self.rate_per_s,
            self.seed,
        );
        let data_dir = fleet.data_dir().into_os_string();
        let paths = ["--data-dir".into(), data_dir, "--journal".into(), journal.into()];
        let words = words.split_ascii_whitespace().map(std::ffi::OsString::from);
        Options::try_parse_from(words.chain(paths)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Everything that was ever acknowledged stands where its ack said, once, and no history has a hole (G1, G2, G3).
    fn find_all(&self, fleet: &Fleet, acked: &BTreeMap<u64, u64>) -> Result<usize, String> {
        let server = *fleet.gateways().first().ok_or("no gateway")?;
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        let mut read = BTreeSet::new();
        for user in FIRST_USER..FIRST_USER + CLIENTS {
            let token = development_token(&fleet.data_dir(), user, "verify", 3_600, "");
            let ask = |path: &str| {
                let answer = request(server, "GET", path, Some(&token), &[], None);
                if answer.status == 200 { Ok(answer.body) } else { Err(format!("{path}: {answer:?}")) }
            };
            let list = ask("/v1/conversations?limit=100")?;
            let ids: Vec<&str> = list["conversations"]
                .as_array()
                .ok_or_else(|| format!("no conversations: {list}"))?
                .iter()
                .filter_map(|conversation| conversation["conversation_id"].as_str())
                .collect();
            for id in ids.into_iter().filter(|id| read.insert((*id).to_owned())) {
                // The creation is the first event.
                let mut last_seq = 1;
                loop {
                    let page =
                        ask(&format!("/v1/conversations/{id}/messages?after_seq={last_seq}&limit=200"))?;
                    let messages =
                        page["messages"].as_array().ok_or_else(|| format!("no messages: {page}"))?;
                    for message in messages {
                        let seq = message["seq"].as_u64().unwrap_or(0);
                        if seq != last_seq + 1 {
                            return Err(format!("in {id}, {seq} comes after {last_seq}"));
                        }
                        last_seq = seq;
                        let number = message["message_id"].as_str().and_then(|text| text.parse().ok());
                        let number = number.ok_or_else(|| format!("no id: {message}"))?;
                        if held.insert(number, seq).is_some() {
                            return Err(format!("message {number} stands twice"));
                        }
                    }
                    if messages.is_empty() {
                        break;
                    }
                }
            }
        }
        match acked.iter().find(|(message, seq)| held.get(message) != Some(seq)) {
            Some((message, seq)) => Err(format!(
                "message {message} was acknowledged at {seq} and stands at {:?} in the end",
                held.get(message)
            )),
            None => Ok(acked.len()),
        }
    }
}

/// A router's own appends, on its page of metrics.
const APPENDED: &str = "carillon_router_requests_total{outcome=\"appended\"}";

/// A generator at work.
struct Running {
    since_ns: u64,
    verdict: crossbeam_channel::Receiver<Outcome>,
}

impl Running {
    fn start(options: Options, journal: &Path) -> Result<Running, String> {
        let (sender, verdict) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            let _ = sender.send(carillon_loadgen::io::run(&options));
        });
        wait_for_first_send(journal, &verdict)?;
        Ok(Running { since_ns: Clock.now_ns(), verdict })
    }

    /// When things happen is what is tested: drawn from the seed, whatever the load is at.
    fn sleep_until(&self, at_ms: u64) {
        let due_ns = self.since_ns + at_ms * 1_000_000;
        std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(Clock.now_ns())));
    }

    fn finish(self) -> Result<Value, String> {
        let outcome = self.verdict.recv_timeout(VERDICT).map_err(|_| "the generator is stuck".to_owned())?;
        judged(&outcome)
    }
}
