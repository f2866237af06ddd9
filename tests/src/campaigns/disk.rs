//! What becomes of disks: power cuts, syncs that fail, a full disk, rotten bits, and copies of a store that is in use (F8 to
//! F12, F30, G1, G14).
//!
//! The first three have disks of their own, file systems in files that only they see ([`ground`]), and a server under the
//! generator's load on them; so they need root, and loop devices. Its oracle judges at the end whether everything that was
//! acknowledged is there, once and in order, and `carillon store verify` looks at the store after every blow.

mod copies;
mod full;
mod ground;
mod power;
mod rot;

pub use copies::play as backups;
pub use full::play as full_disk;
pub use power::{cuts as power_cuts, failed_syncs};
pub use rot::play as bit_rot;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Tally;
use crate::killing::Toll;
use crate::server::{Server, command};

/// The exit status after a failed disk.
const FAILED_DISK: i32 = 74;

/// What came of a play, or what broke: a panic of the harness (a server that does not start again) as well.
fn played<T>(tally: &mut Tally, play: impl FnOnce(&mut Tally) -> Result<T, String>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| play(tally))) {
        Ok(Ok(played)) => return Some(played),
        Ok(Err(words)) => tally.broken(words),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            tally.broken(words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic"));
        }
    }
    None
}

/// Has the command look at a stopped store.
fn verify(binary: &str, data_dir: &Path) -> Result<(), String> {
    let data_dir = data_dir.display().to_string();
    let ended = command(binary, &["store", "verify", "--data-dir", &data_dir], &[]);
    if ended.status == Some(0) { Ok(()) } else { Err(format!("the store is not whole: {ended:?}")) }
}

/// Stops a server, and has its store looked at.
fn stop_and_verify(binary: &str, server: &mut Server) -> Result<(), String> {
    server.stop();
    verify(binary, &server.data_dir())
}

/// Fewer acknowledged messages for each blow than this say nothing.
const ACKED_MIN: u64 = 20;

fn count(tally: &mut Tally, blows: (&str, u32), toll: Toll) {
    let (name, wanted) = blows;
    tally.count_at_least(name, u64::from(toll.kills), u64::from(wanted));
    tally.count_at_least("acknowledged", toll.acked, u64::from(wanted) * ACKED_MIN);
    tally.count("sent", toll.sends);
    tally.count("duplicates", toll.duplicates);
    tally.count("deliveries", toll.deliveries);
    tally.count("reconnects", toll.reconnects);
}
