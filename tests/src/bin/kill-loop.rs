//! `kill-loop`: a thousand kills, or as many as wanted, in both deployments. CI runs twenty of each as a test.
//!
//! ```text
//! cargo build --release -p carillon-tests
//! cargo run --release -p carillon-tests --bin kill-loop -- --kills 1000 --seed 7
//! ```

use std::process::ExitCode;

use carillon_tests::client::Wire;
use carillon_tests::killing::Killing;
use carillon_tests::server::Deployment;
use clap::Parser;

/// Kills a Carillon under load with SIGKILL, again and again, and has the oracle judge what was acknowledged.
#[derive(Parser)]
struct Arguments {
    /// Kills in each deployment
    #[arg(long, default_value_t = 1_000)]
    kills: u32,
    /// Decides who is killed when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The server [default: `carillon-under-test` beside this program]
    #[arg(long)]
    binary: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("carillon-under-test").display().to_string());
    let Some(binary) = arguments.binary.or(beside) else {
        eprintln!("kill-loop: say with --binary where carillon is");
        return ExitCode::from(2);
    };
    for (deployment, wire) in [(Deployment::OneProcess, Wire::Rkyv), (Deployment::Tiers, Wire::Json)] {
        let killing = Killing {
            binary: binary.clone(),
            deployment,
            wire,
            kills: arguments.kills,
            seed: arguments.seed,
        };
        match killing.run() {
            Ok(toll) => println!("{deployment:?}: {toll:?}"),
            Err(found) => {
                println!("{deployment:?}, seed {}: {found}", arguments.seed);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
