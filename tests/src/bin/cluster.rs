//! `cluster`: routers and gateways as processes on a FoundationDB, under fire.
//!
//! ```text
//! cargo build -p carillon-tests --features fdb --bins
//! CARILLON_TEST_FDB_CLUSTER=fdb.cluster cargo run -p carillon-tests --features fdb --bin cluster -- --short
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_tests::cluster::{CLUSTER_VARIABLE as VARIABLE, Databases, Siege};
use clap::Parser;

const NOTES: &str = "\
CARILLON_TEST_FDB_CLUSTER names the cluster file of a FoundationDB that may be used for this. A run keeps its rows below a
random prefix that begins with `cluster-`, and leaves them there.

Processes of the database are handled by a command of yours, run by sh, with {action} replaced by kill, start, pause or
resume and {number} by 0 and up; it must not wait for what it starts. Without it they are left alone:
  cluster --database-command './database {action} {number}' --databases 3

Exit status: 0 all promises kept; 1 one was broken, or something did not recover; 2 it cannot begin.";

/// Kills, pauses and stops processes of a cluster under load, has the oracle judge, and tells how long writes were held
/// up.
#[derive(Parser)]
#[command(after_help = NOTES)]
struct Arguments {
    /// Processes killed with SIGKILL and started again
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Processes that stand still (SIGSTOP) for 10 to 30 s
    #[arg(long, default_value_t = 50)]
    pauses: u32,
    /// Routers that are stopped with SIGTERM, and started again
    #[arg(long, default_value_t = 10)]
    stops: u32,
    /// Decides what happens to whom when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Routers
    #[arg(long, default_value_t = 2)]
    routers: usize,
    /// Gateways
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Messages a second
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// Few faults and short pauses: less than three minutes
    #[arg(long)]
    short: bool,
    /// How to kill, start, pause and resume a process of the database
    #[arg(long, value_name = "COMMAND")]
    database_command: Option<String>,
    /// Processes of the database
    #[arg(long, default_value_t = 3)]
    databases: usize,
    /// Where logs and journals go, and stay [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The server, built with the feature `fdb` [default: `carillon-under-test` beside this program]
    #[arg(long)]
    binary: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let refuse = |words: &str| {
        eprintln!("cluster: {words}");
        ExitCode::from(2)
    };
    let Some(cluster_file) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        return refuse(&format!(
            "needs a FoundationDB cluster: name its cluster file, {VARIABLE}=/etc/foundationdb/fdb.cluster"
        ));
    };
    if !cluster_file.is_file() {
        return refuse(&format!("{VARIABLE}={}: there is no such file", cluster_file.display()));
    }
    if arguments.routers == 0 || arguments.gateways == 0 {
        return refuse("a cluster has at least one router and one gateway");
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("carillon-under-test").display().to_string());
    let Some(binary) = arguments.binary.or(beside) else {
        return refuse("say with --binary where carillon is");
    };
    let temporary = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => return refuse(&format!("a temporary directory: {error}")),
    };
    let state = arguments.state.unwrap_or_else(|| temporary.path().to_owned());
    let (kills, pauses, stops) =
        if arguments.short { (3, 2, 1) } else { (arguments.kills, arguments.pauses, arguments.stops) };
    let command = arguments.database_command;
    let siege = Siege {
        binary,
        cluster_file,
        databases: command.clone().map(|command| Databases { command, count: arguments.databases }),
        routers: arguments.routers,
        gateways: arguments.gateways,
        kills,
        pauses,
        pause_s: if arguments.short { (10, 10) } else { (10, 30) },
        stops,
        rate_per_s: arguments.rate,
        seed: arguments.seed,
        state,
    };
    let database = command.map_or(String::new(), |command| {
        format!(" --databases {} --database-command '{command}'", arguments.databases)
    });
    let again = format!(
        "cluster --kills {kills} --pauses {pauses} --stops {stops} --seed {} --routers {} --gateways {} --rate {}{database}",
        siege.seed, siege.routers, siege.gateways, siege.rate_per_s
    );
    match siege.run() {
        Ok(account) => {
            println!(
                "{kills} kills, {pauses} pauses, {stops} stops in {} rounds: {} messages sent and acknowledged ({} as \
                 duplicates), {} deliveries, {} reconnects; {} acknowledged messages found at the end, {} starts tried \
                 again; 0 violations",
                account.rounds,
                account.sends,
                account.duplicates,
                account.deliveries,
                account.reconnects,
                account.found,
                account.starts_again
            );
            println!("\n{}\nagain: {again}", account.table());
            ExitCode::SUCCESS
        }
        Err(found) => {
            println!("{found}\nagain: {again}");
            ExitCode::FAILURE
        }
    }
}
