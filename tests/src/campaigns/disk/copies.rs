//! Backups of a server under load.

use carillon_protocol::client::Wire;

use super::super::{Run, Skipped, Tally};
use super::{count, played, stop_and_verify, verify};
use crate::killing::{Load, Toll};
use crate::server::{Deployment, Server, command};

/// Between two, in milliseconds.
const BETWEEN_MS: (u64, u64) = (50, 600);

/// F30: each copy that a loaded server makes of its store is whole, and the server goes on.
///
/// # Errors
/// There is no server to start.
pub fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let wanted = run.pick(4, 100);
    let binary = run.binary()?;
    let mut tally = Tally::default();
    if let Some(toll) = played(&mut tally, |_| backups(run, &binary, wanted)) {
        count(&mut tally, ("backups", wanted), toll);
    }
    Ok(tally)
}

fn backups(run: &mut Run, binary: &str, wanted: u32) -> Result<Toll, String> {
    let mut server = Server::start(binary, Deployment::OneProcess, &["limits.send_per_s=0"]);
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let load = Load { wire: Wire::Json, seed: run.seed, journals: server.data_dir() };
    let data_dir = server.data_dir().display().to_string();
    let mut done = 0;
    let toll = load.rounds(wanted, BETWEEN_MS, &mut server, &mut |_, _| {
        run.progress(|| format!("{done} of {wanted}"));
        done += 1;
        let copy = directory.path().join(done.to_string());
        let into = copy.display().to_string();
        let ended = command(binary, &["store", "backup", &into, "--data-dir", &data_dir], &[]);
        if ended.status != Some(0) {
            return Err(format!("no backup: {ended:?}"));
        }
        verify(binary, &copy)?;
        std::fs::remove_dir_all(&copy).map_err(|error| error.to_string())
    })?;
    stop_and_verify(binary, &mut server)?;
    Ok(toll)
}
