//! The kill loop: the load generator talks to a real server while its processes are killed with SIGKILL at random
//! moments and started again on the same directory and ports. The generator's oracle judges every round.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carillon_loadgen::io::Outcome;
use carillon_loadgen::options::Options;
use carillon_loadgen::report::{GOOD, VIOLATION};
use carillon_node::prng::Prng;
use carillon_protocol::client::Wire;
use clap::Parser;
use serde_json::Value;

use crate::server::{Deployment, PATIENCE, Server};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Killing {
    /// The server's binary.
    pub binary: String,
    /// Which processes there are to kill.
    pub deployment: Deployment,
    /// How the generator speaks.
    pub wire: Wire,
    /// How many kills.
    pub kills: u32,
    /// Decides who is killed when. The processes' own timing is not in it: a seed makes a run similar, not the same.
    pub seed: u64,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Processes killed, or whatever else happened.
    pub kills: u32,
    /// Messages sent, retries not counted.
    pub sends: u64,
    /// Of them acknowledged.
    pub acked: u64,
    /// Acks that said `duplicate`: committed before the kill, and asked again after it.
    pub duplicates: u64,
    /// Events that clients received.
    pub deliveries: u64,
    /// Times a client came back.
    pub reconnects: u64,
}

/// For how long the generator sends in one round. Its users and conversations are the same in every round.
const ROUND_S: u64 = 6;
/// The last moment of a round in which a process is killed: afterwards everything must come to rest (G7).
const KILLING: Duration = Duration::from_millis(ROUND_S * 1_000 - 300);
/// Between two kills, in milliseconds: from the middle of recovery to well under way.
const BETWEEN_MS: (u64, u64) = (5, 350);
/// A generator that says nothing for this long after its sending is stuck: it may wait 30 s for deliveries.
const VERDICT: Duration = Duration::from_secs(120);
/// Clients of the generator, and messages a second of all of them.
const CLIENTS: u32 = 10;
const RATE_PER_S: u32 = 250;

impl Killing {
    /// Kills, restarts, and has the oracle judge.
    ///
    /// # Errors
    /// What the oracle found, or why it could not judge.
    ///
    /// # Panics
    /// When a process does not start again: with its log.
    pub fn run(&self) -> Result<Toll, String> {
        // Limits off: what is resent after a kill is a burst. Small segments: recovery crosses their borders.
        let mut server = Server::start(&self.binary, self.deployment, &["limits.send_per_s=0"]);
        let load = Load { wire: self.wire, seed: self.seed, journals: server.data_dir() };
        load.rounds(self.kills, BETWEEN_MS, &mut server, &mut |server, prng| {
            match (self.deployment, prng.below(3)) {
                (Deployment::OneProcess, _) | (Deployment::Tiers, 0) => server.crash_and_restart(),
                (Deployment::Tiers, 1) => server.crash_and_restart_router(),
                (Deployment::Tiers, _) => server.crash_and_restart_gateway(),
            }
            Ok(())
        })
    }
}

/// What the generator says to a server while things happen to it.
#[derive(Clone, Debug)]
pub struct Load {
    /// How it speaks.
    pub wire: Wire,
    /// Decides what it says, and what happens when.
    pub seed: u64,
    /// Where its journals lie for the time of a round.
    pub journals: PathBuf,
}

/// What happens to a server.
pub type Blow<'b> = dyn FnMut(&mut Server, &mut Prng) -> Result<(), String> + 'b;

impl Load {
    /// Deals so many blows, each after a pause between these two in milliseconds, in as many rounds as that takes. The
    /// server has to serve again when a blow is over.
    ///
    /// # Errors
    /// What the oracle or a blow found, or why the oracle could not judge.
    pub fn rounds(
        &self,
        blows: u32,
        between_ms: (u64, u64),
        server: &mut Server,
        blow: &mut Blow<'_>,
    ) -> Result<Toll, String> {
        let mut prng = Prng::new(self.seed);
        let mut toll = Toll::default();
        for round in 0.. {
            if toll.kills >= blows {
                break;
            }
            let before = toll.kills;
            let journal = self.journals.join(format!("journal-{round}"));
            let options = self.options(server, &journal);
            let (sender, verdict) = crossbeam_channel::bounded(1);
            std::thread::spawn(move || {
                let _ = sender.send(carillon_loadgen::io::run(&options));
            });
            wait_for_first_send(&journal, &verdict)?;
            let until = Instant::now() + KILLING;
            while toll.kills < blows && Instant::now() < until {
                // The moment of the blow is what is tested: drawn from the seed, at any point of the load.
                std::thread::sleep(Duration::from_millis(prng.between(between_ms.0, between_ms.1)));
                blow(server, &mut prng)?;
                toll.kills += 1;
            }
            let outcome =
                verdict.recv_timeout(KILLING + VERDICT).map_err(|_| "the generator is stuck".to_owned())?;
            let _ = std::fs::remove_file(&journal);
            toll.add(&judged(&outcome)?)?;
            if toll.kills == before {
                return Err(
                    "a whole round went by without a kill: the machine is too slow for this".to_owned()
                );
            }
        }
        Ok(toll)
    }

    fn options(&self, server: &Server, journal: &Path) -> Options {
        let encoding = match self.wire {
            Wire::Json => "json",
            Wire::Rkyv => "rkyv",
        };
        let words = format!(
            "loadgen --server {} --clients {CLIENTS} --rate {RATE_PER_S} --duration {ROUND_S}s --warmup 0s --encoding \
             {encoding} --mix one_to_one=0.5,group=0.5 --group-size 4 --settle 30s --seed {}",
            server.address(),
            self.seed,
        );
        let paths =
            ["--data-dir".into(), server.data_dir().into_os_string(), "--journal".into(), journal.into()];
        let words = words.split_ascii_whitespace().map(std::ffi::OsString::from);
        Options::try_parse_from(words.chain(paths)).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Toll {
    /// A round more, by its report.
    fn add(&mut self, report: &Value) -> Result<(), String> {
        let tally = &report["oracle"]["tally"];
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        self.sends += count(&tally["sends"]);
        self.acked += count(&tally["acked"]);
        self.duplicates += count(&tally["acked_duplicate"]);
        self.deliveries += count(&tally["deliveries"]);
        self.reconnects += count(&report["generator"]["reconnects"]);
        if count(&tally["sends"]) == count(&tally["acked"]) {
            return Ok(());
        }
        Err(format!("not everything was acknowledged in the end: {tally}"))
    }
}

/// The report of a round in which every promise was kept. That the generator was late is no matter here: it measures
/// nothing.
pub(crate) fn judged(outcome: &Outcome) -> Result<Value, String> {
    let report = outcome.report.clone().ok_or_else(|| outcome.text.clone())?;
    let reasons = report["invalid_because"].as_array().cloned().unwrap_or_default();
    let is_late = |reason: &Value| {
        reason
            .as_str()
            .is_some_and(|text| text.contains("generator was late") || text.ends_with("left in time"))
    };
    let is_good = outcome.exit == GOOD || (outcome.exit != VIOLATION && reasons.iter().all(is_late));
    if is_good { Ok(report) } else { Err(outcome.text.clone()) }
}

/// Kills begin when messages flow: before that the generator makes its conversations, over REST and without retries.
pub(crate) fn wait_for_first_send(
    journal: &Path,
    verdict: &crossbeam_channel::Receiver<Outcome>,
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if std::fs::read_to_string(journal).is_ok_and(|text| text.contains(" sent ")) {
            return Ok(());
        }
        // A generator that ends before it has sent anything has nothing good to say.
        if let Ok(outcome) = verdict.recv_timeout(Duration::from_millis(5)) {
            return Err(outcome.text);
        }
    }
    Err("the generator does not begin to send".to_owned())
}
