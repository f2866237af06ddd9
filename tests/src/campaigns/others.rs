//! The campaigns that are commands of their own as well, with more to set: here is how much of each is played, and what has
//! to happen in it.

use std::path::PathBuf;

use super::{Run, Skipped, Tally};
use crate::client::Wire;
use crate::cluster::{CLUSTER_VARIABLE, Databases, Siege};
use crate::crowd;
use crate::killing::Killing;
use crate::page::chromium::{self, Browser};
use crate::page::{self, Trial};
use crate::scale::{self, Binaries, Load};
use crate::server::Deployment;
use crate::trial;
use crate::world::census::{self, Range};

/// Broken promises after which a campaign of many seeds ends.
const FAILURES_MAX: u64 = 10;

/// The kill loop: acks, and acks that were asked for again, are what it is about.
pub(super) fn kill_loop(run: &mut Run) -> Result<Tally, Skipped> {
    let (binary, kills) = (run.binary()?, run.pick(20, 1_000));
    let mut tally = Tally::default();
    for (deployment, wire) in [(Deployment::OneProcess, Wire::Rkyv), (Deployment::Tiers, Wire::Json)] {
        let killing = Killing { binary: binary.clone(), deployment, wire, kills, seed: run.seed };
        match killing.run() {
            Ok(toll) => {
                let mut count = |what: &str, number: u64, at_least: u64| {
                    tally.count_at_least(&format!("{what}, {deployment:?}"), number, at_least);
                };
                count("kills", toll.kills.into(), kills.into());
                count("acked", toll.acked, run.pick(1_000, 20_000));
                count("acked as duplicates", toll.duplicates, run.pick(1, 100));
                count("reconnects", toll.reconnects, kills.into());
                count("deliveries", toll.deliveries, 0);
            }
            Err(found) => tally.broken(format!("{deployment:?}: {found}")),
        }
        run.progress(|| format!("{deployment:?} is done"));
    }
    Ok(tally)
}

/// Simulated worlds. Each kind of fault has to be met.
pub(super) fn world(run: &mut Run) -> Result<Tally, Skipped> {
    let mut tally = Tally::default();
    let seeds = run.pick(300, 100_000);
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let range = Range { first: run.seed, seeds, jobs, failures_max: FAILURES_MAX, shrinks: true };
    let census = census::take(&range, |census, broken| {
        broken.into_iter().for_each(|words| tally.broken(words));
        run.progress(|| format!("{} of {seeds} worlds, {} broken", census.worlds, census.failures));
    });
    tally.count_at_least("worlds", census.worlds, seeds);
    for (what, number) in census.stats.list() {
        let is_fault = crate::world::FAULTS.contains(&what);
        tally.count_at_least(what, number, if is_fault { seeds / 100 } else { 0 });
    }
    tally.count_at_least(
        "kinds of fault in enough worlds",
        (crate::world::FAULTS.len() - census.rare().len()) as u64,
        crate::world::FAULTS.len() as u64,
    );
    Ok(tally)
}

/// Random operations beside the model.
pub(super) fn model(run: &mut Run) -> Result<Tally, Skipped> {
    let mut tally = Tally::default();
    let (cases, mut equal) = (run.pick(300, 10_000), 0);
    for seed in run.seed..run.seed.saturating_add(cases) {
        match trial::play(seed) {
            Ok(()) => equal += 1,
            Err(difference) => tally.broken(format!("seed {seed}: {difference}")),
        }
        run.progress(|| format!("{equal} of {cases} cases equal"));
    }
    tally.count_at_least("cases equal", equal, cases);
    Ok(tally)
}

/// The scenarios with thousands of connections.
pub(super) fn crowd(run: &mut Run) -> Result<Tally, Skipped> {
    let mut tally = Tally::default();
    let is_short = run.pick(true, false);
    let campaign = crowd::Campaign { binary: run.binary()?, is_short, seed: run.seed, confirms: false };
    let verdicts = crowd::SCENARIOS.iter().map(|(name, scenario)| (*name, scenario(&campaign)));
    scenarios(run, &mut tally, verdicts, crowd::SCENARIOS.len());
    Ok(tally)
}

/// The page in Chromium; in the long form cut by five seeds.
pub(super) fn page(run: &mut Run) -> Result<Tally, Skipped> {
    let Some(executable) = chromium::find() else {
        return Err(Skipped("there is no Chromium here".to_owned()));
    };
    let mut tally = Tally::default();
    for seed in run.seed..run.seed + run.pick(1, 5) {
        let (binary, messages_count, cuts_count) = (run.binary()?, 2_000, 200);
        let trial = Trial { binary, screenshots: None, picture: None, seed, messages_count, cuts_count };
        let verdicts = page::SCENARIOS.iter().map(|(name, scenario)| {
            // A browser for each: what one scenario leaves behind is not there for the next.
            let verdict = Browser::start(&executable).and_then(|mut browser| {
                let words = scenario(&trial, &mut browser)?;
                match browser.complaints().as_slice() {
                    [] => Ok(words),
                    complaints => Err(format!("the page complained: {complaints:?}")),
                }
            });
            (*name, verdict)
        });
        scenarios(run, &mut tally, verdicts, page::SCENARIOS.len());
    }
    Ok(tally)
}

/// Each scenario is kept or broken, and tells so in one line.
fn scenarios(
    run: &mut Run,
    tally: &mut Tally,
    verdicts: impl Iterator<Item = (&'static str, Result<String, String>)>,
    wanted_count: usize,
) {
    let mut kept_count = 0;
    for (name, verdict) in verdicts {
        match verdict {
            Ok(words) => {
                kept_count += 1;
                tally.note(format!("{name}: {words}"));
            }
            Err(words) => tally.broken(format!("{name}: {words}")),
        }
        run.progress(|| format!("{name} is done"));
    }
    tally.count_at_least("scenarios kept", kept_count, wanted_count as u64);
}

/// Names a command that kills, starts, pauses and resumes processes of the database: see `cluster --help`.
const DATABASE_COMMAND_VARIABLE: &str = "CARILLON_TEST_DATABASE_COMMAND";
/// Processes of the database that the command knows.
const DATABASES: usize = 3;

/// The cluster under fire.
pub(super) fn cluster(run: &mut Run) -> Result<Tally, Skipped> {
    let Some(cluster_file) = std::env::var_os(CLUSTER_VARIABLE).map(PathBuf::from) else {
        return Err(Skipped(format!(
            "it needs a FoundationDB, whose cluster file {CLUSTER_VARIABLE} names, and a server built with the feature fdb"
        )));
    };
    let mut tally = Tally::default();
    let state = match tempfile::tempdir() {
        Ok(state) => state,
        Err(error) => return Err(Skipped(format!("a temporary directory: {error}"))),
    };
    let command = std::env::var(DATABASE_COMMAND_VARIABLE).ok();
    let (kills, pauses, stops) = run.pick((3, 2, 1), (50, 50, 10));
    let siege = Siege {
        binary: run.binary()?,
        cluster_file,
        databases: command.map(|command| Databases { command, count: DATABASES }),
        routers: 2,
        gateways: 2,
        kills,
        pauses,
        pause_s: run.pick((10, 10), (10, 30)),
        stops,
        rate_per_s: 60,
        seed: run.seed,
        state: state.path().to_owned(),
    };
    match siege.run() {
        Ok(account) => {
            tally.count("faults", (kills + pauses + stops).into());
            tally.count_at_least("sent and acknowledged", account.sends, run.pick(1_000, 20_000));
            tally.count("acked as duplicates", account.duplicates);
            tally.count_at_least("reconnects", account.reconnects, 1);
            tally.count_at_least("acknowledged messages found at the end", account.found as u64, 1_000);
            account.table().lines().for_each(|line| tally.note(line));
        }
        Err(found) => {
            tally.note(format!("logs: {}", state.keep().display()));
            tally.broken(found);
        }
    }
    Ok(tally)
}

/// How much more or less than with one gateway a message may cost.
const DEVIATION_MAX: f64 = 0.25;

/// What a message costs with more gateways.
pub(super) fn scale(run: &mut Run) -> Result<Tally, Skipped> {
    if !rustix::process::geteuid().is_root() {
        return Err(Skipped("network namespaces need root".to_owned()));
    }
    let binaries = Binaries {
        server: run.server.with_file_name("carillon"),
        loadgen: run.server.with_file_name("loadgen"),
    };
    if !binaries.server.is_file() || !binaries.loadgen.is_file() {
        return Err(Skipped("it needs carillon and loadgen beside the server".to_owned()));
    }
    let mut tally = Tally::default();
    let state = tempfile::tempdir().map_err(|error| Skipped(format!("a temporary directory: {error}")))?;
    let (gateways, seconds) = run.pick((2, 5), (3, 20));
    let said =
        |cost: &scale::Cost| run.progress(|| format!("{} gateways: {:.1} µs", cost.gateways, cost.micros));
    match scale::measure(&binaries, gateways, Load { rate: 400, clients: 40, seconds }, state.path(), said) {
        Ok(costs) => {
            for cost in &costs {
                let what = format!("messages with {} gateways", cost.gateways);
                tally.count_at_least(&what, cost.messages, 1_000);
                tally.note(format!("{} gateways: {:.1} µs a message", cost.gateways, cost.micros));
            }
            let deviation = scale::deviation(&costs);
            if deviation > DEVIATION_MAX {
                tally.broken(format!("the cost differs by {:.0} %", 100.0 * deviation));
            }
        }
        Err(error) => tally.broken(format!("{error}; logs: {}", state.keep().display())),
    }
    Ok(tally)
}
