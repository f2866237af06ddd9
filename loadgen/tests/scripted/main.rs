//! The generator against a small scripted server that behaves, or breaks one promise on purpose.

// The scripted server is the world.
#![expect(clippy::disallowed_methods)]

mod carriers;
mod promises;
mod reports;
mod scenarios;
mod server;
mod stall;
mod view;

use server::{Script, Server};

/// Runs the generator against a server with this script, small and short; the exit status and the report.
pub(crate) fn run(script: Script, more: &[&str]) -> (u8, serde_json::Value) {
    run_paced(script, &["--rate", "150"], more)
}

/// As small and short, at another pace.
pub(crate) fn run_paced(script: Script, pace: &[&str], more: &[&str]) -> (u8, serde_json::Value) {
    let small = "--clients 6 --group-size 3 --duration 700ms --warmup 100ms --settle 500ms";
    run_with(script, &[&small.split(' ').collect::<Vec<_>>(), pace, more].concat())
}

/// The whole suite can be run with another carrier of sockets.
const IO: &str = "CARILLON_TEST_LOADGEN_IO";

/// Runs the generator against a server with this script, and with these words alone.
pub(crate) fn run_with(script: Script, words: &[&str]) -> (u8, serde_json::Value) {
    let io = std::env::var(IO).unwrap_or_else(|_| "auto".to_owned());
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(script, dir.path()).to_string();
    let (data_dir, report) = (dir.path().to_str().unwrap(), dir.path().join("report.json"));
    let path = report.to_str().unwrap();
    let mut args =
        vec!["loadgen", "--server", &server, "--data-dir", data_dir, "--report", path, "--io", &io];
    args.extend(words);
    let exit = carillon_loadgen::main_with(args);
    let report =
        std::fs::read(&report).map_or(serde_json::Value::Null, |text| serde_json::from_slice(&text).unwrap());
    (exit, report)
}
