//! `scale`: whether a message costs the same with one gateway, two and three (NF6, SC8).

use std::path::PathBuf;
use std::process::ExitCode;

use carillon_tests::scale::{Binaries, Load, deviation, measure};
use clap::Parser;

const NOTES: &str = "\
Needs root, iproute2, and release binaries beside this one:
  cargo build --release -p carillon -p carillon-loadgen -p carillon-tests --bins
  target/release/scale
Nothing else may run meanwhile. It makes network namespaces carillon-scale-N and addresses in 10.213.0.0/16, and takes
them down again.

Exit status: 0 the costs are within a quarter of that with one gateway; 1 they are not, or a promise was broken.";

/// Runs one router and 1, 2, 3, … gateways, each in a network namespace, at the same rate a gateway, and compares the CPU
/// time of the gateways' threads for a message.
#[derive(Parser)]
#[command(after_help = NOTES)]
struct Arguments {
    /// The most gateways
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    /// Messages a second before each gateway
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Clients before each gateway
    #[arg(long, default_value_t = 40)]
    clients: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// The server [default: `carillon` beside this program]
    #[arg(long)]
    server: Option<PathBuf>,
    /// The generator [default: `loadgen` beside this program]
    #[arg(long)]
    loadgen: Option<PathBuf>,
}

/// How much more or less than with one gateway a message may cost.
const DEVIATION_MAX: f64 = 0.25;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().unwrap_or_default();
    let beside = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| own.with_file_name(name));
    let binaries = Binaries {
        server: beside(arguments.server, "carillon"),
        loadgen: beside(arguments.loadgen, "loadgen"),
    };
    let Arguments { rate, clients, seconds, gateways, .. } = arguments;
    let state = match tempfile::tempdir() {
        Ok(state) => state,
        Err(error) => {
            eprintln!("scale: no temporary directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("gateways  messages  CPU µs a message (threads of all gateways)");
    let said = |cost: &carillon_tests::scale::Cost| {
        println!("{:8}  {:8}  {:6.1}", cost.gateways, cost.messages, cost.micros);
    };
    match measure(&binaries, gateways, Load { rate, clients, seconds }, state.path(), said) {
        Ok(costs) => {
            let deviation = deviation(&costs);
            println!("farthest from the cost with one gateway: {:.0} %", 100.0 * deviation);
            if deviation <= DEVIATION_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("scale: {error}\nlogs: {}", state.keep().display());
            ExitCode::FAILURE
        }
    }
}
