//! `campaign`: plays one of the campaigns (`tests/src/campaigns.rs`) and says what it came to.
//!
//! ```text
//! cargo run --release -p carillon-tests --bin campaign -- list
//! cargo run --release -p carillon-tests --bin campaign -- handshakes --long --seed 7 --report handshakes.json
//! ```
//!
//! Ends with status 0 when everything was kept, 1 when something was broken, 3 when something is missing that the campaign
//! needs (SKIPPED), 4 when too little happened to mean anything (VACUOUS), and 2 when it does not understand.

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_tests::campaigns::{CAMPAIGNS, Campaign, Form, Run};
use clap::Parser;

/// A third of what a simulated world costs would be the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Attacks promises on purpose, and says whether they were kept.
#[derive(Parser)]
struct Arguments {
    /// Which; `list` names them all
    name: String,
    /// The form for a night; without it the one that CI plays
    #[arg(long)]
    long: bool,
    /// Decides what the campaign leaves to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the report goes, as JSON
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// The server [default: `carillon-under-test` beside this program]
    #[arg(long)]
    server: Option<PathBuf>,
}

/// The exit status for what is not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let refuse = |words: String| {
        eprintln!("campaign: {words}");
        ExitCode::from(USAGE)
    };
    if arguments.name == "list" {
        list();
        return ExitCode::SUCCESS;
    }
    let Some(campaign) = Campaign::of_name(&arguments.name) else {
        return refuse(format!("there is no campaign {}; `campaign list` names them", arguments.name));
    };
    let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("carillon-under-test"));
    let Some(server) = arguments.server.or_else(beside) else {
        return refuse("say with --server where carillon-under-test is".to_owned());
    };
    let form = if arguments.long { Form::Long } else { Form::Short };
    println!("{}: {}, {}, seed {}", campaign.name, campaign.attacks, campaign.size(form), arguments.seed);
    let report = campaign.run(Run::new(form, arguments.seed, server));
    println!("{}", report.text());
    if let Some(path) = arguments.report
        && let Err(error) = report.write(&path)
    {
        return refuse(format!("{}: {error}", path.display()));
    }
    ExitCode::from(report.verdict.status())
}

fn list() {
    for Campaign { name, attacks, sizes: [short, long], .. } in CAMPAIGNS {
        println!("{name}\n  attacks {attacks}\n  short: {short}\n  long:  {long}");
    }
}
