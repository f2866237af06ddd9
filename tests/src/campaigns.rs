//! Campaigns: each attacks some of the promises of guarantees.md on purpose, in a short form for CI and in a long one, and
//! ends with a verdict that anybody can ask for again by one command.
//!
//! A campaign is a row of [`CAMPAIGNS`] and a function that plays a [`Run`] and counts what happened into a [`Tally`]. The
//! verdict is not its own: it follows from the tally. Who broke nothing but did too little to break anything has not passed.

pub mod autobahn;
mod disk;
mod garbage;
pub mod handshakes;
mod others;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carillon_gateway::io::Driver;
use carillon_gateway::settings::Settings;
use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use serde_json::{Value, json};

/// A campaign.
pub struct Campaign {
    /// By which it is called.
    pub name: &'static str,
    /// What it attacks, with ids of guarantees.md.
    pub attacks: &'static str,
    /// How much that is, in the short form and in the long one.
    pub sizes: [&'static str; 2],
    /// Plays it.
    pub play: fn(&mut Run) -> Result<Tally, Skipped>,
}

/// Every campaign.
pub const CAMPAIGNS: &[Campaign] = &[
    Campaign {
        name: "autobahn",
        attacks: "RFC 6455 at the gateway's loop, by the Autobahn test suite (security: frames; F27)",
        sizes: ["247 cases on uring", "301 cases on each of uring, monoio, monoio-epoll"],
        play: autobahn::play,
    },
    Campaign {
        name: "handshakes",
        attacks: "malformed and unusual handshakes and frames at the live process (security: handshake, frames; G13, F27)",
        sizes: ["each case once on each driver", "each case cut in 40 ways on each driver"],
        play: handshakes::play,
    },
    Campaign {
        name: "garbage",
        attacks: "the same, damaged by chance: no crash, neighbours wait no longer, memory comes back (G13, F22)",
        sizes: ["18,000 connections", "1,000,000 connections"],
        play: garbage::play,
    },
    Campaign {
        name: "kill-loop",
        attacks: "kill -9 under load, in one process and in tiers (G1 to G10, F2, F3, F5)",
        sizes: ["20 kills of each deployment", "1,000 kills of each deployment"],
        play: others::kill_loop,
    },
    Campaign {
        name: "power-cuts",
        attacks: "the power of the store's disk goes under load: loop ext4, shutdown ioctl (G1 to G10, F9, F10)",
        sizes: ["8 cuts", "300 cuts"],
        play: disk::power_cuts,
    },
    Campaign {
        name: "failed-syncs",
        attacks: "the disk below the store's file system fails under load: EIO on fdatasync (G1, G14, F8)",
        sizes: ["5 failures", "100 failures"],
        play: disk::failed_syncs,
    },
    Campaign {
        name: "full-disk",
        attacks: "the store's disk is full under load, and free again (F12)",
        sizes: ["4 times", "50 times"],
        play: disk::full_disk,
    },
    Campaign {
        name: "bit-rot",
        attacks: "flipped bits and cuts in the log and the tables of a store at rest (G3, G14, F10, F11)",
        sizes: ["300 bits, cuts at every byte of the last 3 records", "10,000 bits, the same cuts"],
        play: disk::bit_rot,
    },
    Campaign {
        name: "backups",
        attacks: "copies of a store under load: each is whole (G3, F30)",
        sizes: ["4 copies", "100 copies"],
        play: disk::backups,
    },
    Campaign {
        name: "world",
        attacks: "the simulated cluster under faults (G1 to G12, G15, G16, F1 to F7, F13 to F18, F24, F26)",
        sizes: ["300 worlds", "100,000 worlds"],
        play: others::world,
    },
    Campaign {
        name: "model",
        attacks: "random operations on a conversation beside a reference model (G2 to G4, G11, G12)",
        sizes: ["300 cases", "10,000 cases"],
        play: others::model,
    },
    Campaign {
        name: "crowd",
        attacks: "thousands of connections: large groups, mass disconnect, churn, failover (G6, G7, G11, F2, F14, F19, F20)",
        sizes: ["7 scenarios, small", "7 scenarios"],
        play: others::crowd,
    },
    Campaign {
        name: "page",
        attacks: "the page and the client module in Chromium, cut off again and again (G2, G6, G7)",
        sizes: ["7 scenarios, 200 cuts", "7 scenarios, 1,000 cuts"],
        play: others::page,
    },
    Campaign {
        name: "cluster",
        attacks: "routers and gateways on a FoundationDB, killed, paused and stopped under load (G1 to G10, G15, F2 to F7, F26)",
        sizes: ["3 kills, 2 pauses, 1 stop", "50 kills, 50 pauses, 10 stops"],
        play: others::cluster,
    },
    Campaign {
        name: "scale",
        attacks: "whether a message costs the same with more gateways (NF6, SC8)",
        sizes: ["2 gateways, 5 s each", "3 gateways, 20 s each"],
        play: others::scale,
    },
];

/// The drivers of the sockets, by their names.
pub const DRIVERS: [&str; 3] = ["uring", "monoio", "monoio-epoll"];

/// Why this machine refuses a driver, if it does.
#[must_use]
pub fn refusal(driver: &str) -> Option<String> {
    match gateway_settings(driver).and_then(|settings| Driver::choose(&settings.io)) {
        Ok(choice) if choice.driver.name() == driver => None,
        Ok(choice) => Some(choice.detail),
        Err(fatal) => Some(fatal.to_string()),
    }
}

/// The settings of a gateway of one shard inside this process.
fn gateway_settings(driver: &str) -> Result<Settings, Fatal> {
    let builder = Config::builder()
        .defaults("node", carillon_node::DEFAULTS)?
        .defaults("gateway", carillon_gateway::DEFAULTS)?
        .set("gateway.listen=127.0.0.1:0")?
        .set("gateway.shards=1")?
        .set(&format!("io.driver={driver}"))?;
    Ok(Settings::from_config(&builder.build()?)?)
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For CI.
    Short,
    /// For a night.
    Long,
}

/// One play of a campaign.
#[derive(Debug)]
pub struct Run {
    /// How much is done.
    pub form: Form,
    /// Decides what the campaign leaves to chance. The processes' own timing is not in it.
    pub seed: u64,
    /// The server, and beside it what else was built.
    pub server: PathBuf,
    said_at: Instant,
}

/// Between two words of how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

impl Run {
    /// One that begins now.
    #[must_use]
    pub fn new(form: Form, seed: u64, server: PathBuf) -> Run {
        Run { form, seed, server, said_at: Instant::now() }
    }

    /// The one or the other.
    pub fn pick<T>(&self, short: T, long: T) -> T {
        match self.form {
            Form::Short => short,
            Form::Long => long,
        }
    }

    /// The server, for those who start one.
    ///
    /// # Errors
    /// It is not there.
    pub fn binary(&self) -> Result<String, Skipped> {
        if !self.server.is_file() {
            let why = "there is no server: cargo build --release -p carillon-tests --bins, or name one with --server";
            return Err(Skipped(why.to_owned()));
        }
        Ok(self.server.display().to_string())
    }

    /// How far it is; said now and then only.
    pub fn progress(&mut self, words: impl FnOnce() -> String) {
        if self.said_at.elapsed() >= PROGRESS {
            self.said_at = Instant::now();
            eprintln!("  {}", words());
        }
    }
}

/// Why a campaign was not played: something that it needs is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped(pub String);

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: Vec<Count>,
    broken: Vec<String>,
    broken_count: u64,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Count {
    name: String,
    number: u64,
    at_least: u64,
}

/// Broken promises that are told word by word.
const BROKEN_TOLD_MAX: usize = 50;

impl Tally {
    /// So many of these happened.
    pub fn count(&mut self, name: &str, number: u64) {
        self.count_at_least(name, number, 0);
    }

    /// The same; a run with fewer of them than `at_least` says nothing.
    pub fn count_at_least(&mut self, name: &str, number: u64, at_least: u64) {
        self.counts.push(Count { name: name.to_owned(), number, at_least });
    }

    /// A promise was broken.
    pub fn broken(&mut self, words: impl Into<String>) {
        self.broken_count += 1;
        if self.broken.len() < BROKEN_TOLD_MAX {
            let words = words.into();
            eprintln!("  broken: {words}");
            self.broken.push(words);
        }
    }

    /// Something to be told with the verdict.
    pub fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    /// What it comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.broken_count > 0 {
            Verdict::Failed
        } else if self.counts.iter().any(|count| count.number < count.at_least) {
            Verdict::Vacuous
        } else {
            Verdict::Passed
        }
    }
}

/// How a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was kept, and there was enough of it.
    Passed,
    /// Something was broken.
    Failed,
    /// It did too little to mean anything.
    Vacuous,
    /// It was not played: what it needs is not here.
    Skipped,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Vacuous => "VACUOUS",
            Verdict::Skipped => "SKIPPED",
        }
    }

    /// The exit status. 2 is a command line that cannot be understood.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::Skipped => 3,
            Verdict::Vacuous => 4,
        }
    }
}

/// What is told about a run in the end.
#[derive(Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// Everything.
    pub document: Value,
}

impl Campaign {
    /// The campaign of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<&'static Campaign> {
        CAMPAIGNS.iter().find(|campaign| campaign.name == name)
    }

    /// How much the form is.
    #[must_use]
    pub fn size(&self, form: Form) -> &'static str {
        self.sizes[usize::from(form == Form::Long)]
    }

    /// The command that plays it like this.
    #[must_use]
    pub fn command(&self, form: Form, seed: u64) -> String {
        let form = if form == Form::Long { " --long" } else { "" };
        format!("cargo run --release -p carillon-tests --bin campaign -- {}{form} --seed {seed}", self.name)
    }

    /// Plays it to its end.
    pub fn run(&self, mut run: Run) -> Report {
        let (form, seed, since) = (run.form, run.seed, Instant::now());
        let (tally, skipped) = match (self.play)(&mut run) {
            Ok(tally) => (tally, None),
            Err(Skipped(why)) => (Tally::default(), Some(why)),
        };
        let verdict = if skipped.is_some() { Verdict::Skipped } else { tally.verdict() };
        let counts = tally.counts.iter().map(|Count { name, number, at_least }| {
            (name.clone(), json!({ "count": number, "at_least": at_least }))
        });
        let document = json!({
            "campaign": self.name,
            "attacks": self.attacks,
            "form": if form == Form::Long { "long" } else { "short" },
            "seed": seed,
            "size": self.size(form),
            "counts": counts.collect::<serde_json::Map<_, _>>(),
            "broken_count": tally.broken_count,
            "broken": tally.broken,
            "notes": tally.notes,
            "skipped_because": skipped,
            "verdict": verdict.name(),
            "seconds": since.elapsed().as_secs(),
            "command": self.command(form, seed),
            "version": env!("CARGO_PKG_VERSION"),
        });
        Report { verdict, document }
    }
}

impl Report {
    /// Writes the document.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, format!("{:#}\n", self.document))
    }

    /// In words: what was counted, what was broken, the verdict, and how to see it again.
    #[must_use]
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let of = |name: &str| &self.document[name];
        let words = |name: &str| of(name).as_str().unwrap_or_default();
        let mut text = String::new();
        for (name, count) in of("counts").as_object().into_iter().flatten() {
            let (number, at_least) = (&count["count"], count["at_least"].as_u64().unwrap_or(0));
            let wanted = if at_least > 0 { format!(" (at least {at_least})") } else { String::new() };
            let _ = writeln!(text, "  {name}: {number}{wanted}");
        }
        for note in of("notes").as_array().into_iter().flatten() {
            let _ = writeln!(text, "  {}", note.as_str().unwrap_or_default());
        }
        for broken in of("broken").as_array().into_iter().flatten() {
            let _ = writeln!(text, "  broken: {}", broken.as_str().unwrap_or_default());
        }
        let name = words("campaign");
        let _ = match self.verdict {
            Verdict::Skipped => writeln!(text, "{name}: SKIPPED: {}", words("skipped_because")),
            Verdict::Vacuous => writeln!(text, "{name}: VACUOUS: too little happened to mean anything"),
            Verdict::Passed | Verdict::Failed => writeln!(
                text,
                "{name}: {}, {} broken, in {} s",
                self.verdict.name(),
                of("broken_count"),
                of("seconds")
            ),
        };
        let _ = write!(text, "  again: {}", words("command"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(play: fn(&mut Run) -> Result<Tally, Skipped>) -> Report {
        let campaign = Campaign { name: "test", attacks: "nothing", sizes: ["small", "large"], play };
        campaign.run(Run::new(Form::Long, 7, PathBuf::new()))
    }

    /// Who did too little never passes, and who broke something fails however little it was.
    #[test]
    fn a_verdict_follows_from_what_was_counted() {
        let enough = report(|_| {
            let mut tally = Tally::default();
            tally.count_at_least("acks", 10, 10);
            tally.count("retries", 0);
            Ok(tally)
        });
        assert_eq!(enough.verdict, Verdict::Passed);
        assert_eq!(enough.document["counts"]["acks"], json!({"count": 10, "at_least": 10}));
        assert_eq!(enough.document["size"], "large");
        let command = "cargo run --release -p carillon-tests --bin campaign -- test --long --seed 7";
        assert_eq!(enough.document["command"], command);
        assert!(enough.text().contains("test: passed") && enough.text().ends_with(command));

        let too_few = report(|_| {
            let mut tally = Tally::default();
            tally.count_at_least("acks", 9, 10);
            Ok(tally)
        });
        assert_eq!((too_few.verdict, &too_few.document["verdict"]), (Verdict::Vacuous, &json!("VACUOUS")));
        assert!(!too_few.text().contains("passed"), "{}", too_few.text());

        let broken = report(|_| {
            let mut tally = Tally::default();
            tally.count_at_least("acks", 0, 10);
            (0..60).for_each(|number| tally.broken(format!("promise {number}")));
            Ok(tally)
        });
        assert_eq!((broken.verdict, &broken.document["broken_count"]), (Verdict::Failed, &json!(60)));

        let skipped = report(|_| Err(Skipped("there is no interpreter".to_owned())));
        assert_eq!(skipped.verdict, Verdict::Skipped);
        assert!(skipped.text().contains("SKIPPED: there is no interpreter"));
        let statuses = [&enough, &broken, &skipped, &too_few].map(|report| report.verdict.status());
        assert_eq!(statuses, [0, 1, 3, 4]);
    }

    #[test]
    fn names_are_different() {
        let names: std::collections::BTreeSet<_> = CAMPAIGNS.iter().map(|campaign| campaign.name).collect();
        assert_eq!(names.len(), CAMPAIGNS.len());
    }
}
