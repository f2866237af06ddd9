//! The power goes, and a sync fails, under load.

use std::time::{Duration, Instant};

use carillon_protocol::client::Wire;

use super::super::{Run, Skipped, Tally};
use super::ground::{Disk, Ground};
use super::{FAILED_DISK, count, played, stop_and_verify, verify};
use crate::killing::{Load, Toll};
use crate::server::{Deployment, Server};

/// A disk for a store with segments of 4 MiB, and one for a disk in a file.
const DISK_BYTES: u64 = 256 << 20;
const OUTER_BYTES: u64 = 512 << 20;
/// Between two blows, in milliseconds: from the middle of recovery to well under way.
const BETWEEN_MS: (u64, u64) = (5, 600);
/// How soon a process ends whose disk has failed.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

/// F9, G1: the power of the store's disk goes, again and again. What was acknowledged is there afterwards.
///
/// # Errors
/// There are no disks to be had here, or no server to start.
pub fn cuts(run: &mut Run) -> Result<Tally, Skipped> {
    let wanted = run.pick(8, 300);
    let (binary, ground) = (run.binary()?, Ground::new()?);
    let mut tally = Tally::default();
    let toll = played(&mut tally, |_| {
        let mut disk = ground.disk("disk", ground.directory(), DISK_BYTES)?;
        disk.mount()?;
        blows(run, &binary, &ground, wanted, &mut [disk], &mut |_, _| Ok(()))
    });
    if let Some(toll) = toll {
        count(&mut tally, ("power cuts", wanted), toll);
    }
    Ok(tally)
}

/// F8, G14: the disk below the store's file system fails, so that its next sync does. No ack after that, an end within a
/// second with status 74, and a clean restart when the disk is back.
///
/// The disk is a file on another disk, whose power goes: the kernel takes the store's write, and its sync comes back with
/// EIO, as with a real disk that fails.
///
/// # Errors
/// There are no disks to be had here, or no server to start.
pub fn failed_syncs(run: &mut Run) -> Result<Tally, Skipped> {
    let wanted = run.pick(5, 100);
    let (binary, ground) = (run.binary()?, Ground::new()?);
    let mut tally = Tally::default();
    let mut longest = Duration::ZERO;
    let mut io_errors = 0;
    let toll = played(&mut tally, |tally| {
        let mut outer = ground.disk("outer", ground.directory(), OUTER_BYTES)?;
        outer.mount()?;
        let inner_path = outer.inner_path().to_owned();
        let mut inner = ground.disk("disk", &inner_path, DISK_BYTES)?;
        inner.mount()?;
        blows(run, &binary, &ground, wanted, &mut [inner, outer], &mut |took, log| {
            longest = longest.max(took);
            if took > STOPPED_WITHIN {
                tally.broken(format!("the process ended only {took:?} after its disk had failed"));
            }
            if log.contains("os error 5") {
                io_errors += 1;
            }
            Ok(())
        })
    });
    if let Some(toll) = toll {
        count(&mut tally, ("failed disks", wanted), toll);
        tally.count_at_least("ends because of EIO", io_errors, u64::from(wanted));
        tally.note(format!("the longest from failure to end: {} ms", longest.as_millis()));
    }
    Ok(tally)
}

/// What is looked at when the process has ended: how long that took, and what it logged.
type Look<'l> = dyn FnMut(Duration, &str) -> Result<(), String> + 'l;

/// The store is on the first disk; the power of the last, which may be below it, goes.
fn blows(
    run: &mut Run,
    binary: &str,
    ground: &Ground,
    wanted: u32,
    disks: &mut [Disk<'_>],
    look: &mut Look<'_>,
) -> Result<Toll, String> {
    let data_dir = disks.first().ok_or("there is no disk")?.path().join("data");
    let mut server = Server::start_at(binary, Deployment::OneProcess, &["limits.send_per_s=0"], &data_dir);
    let load = Load { wire: Wire::Json, seed: run.seed, journals: ground.directory().to_owned() };
    let mut done = 0;
    let toll = load.rounds(wanted, BETWEEN_MS, &mut server, &mut |server, _| {
        run.progress(|| format!("{done} of {wanted}"));
        done += 1;
        disks.last().ok_or("there is no disk")?.cut_power()?;
        let since = Instant::now();
        let process = server.gateway.as_mut().ok_or("there is no process")?;
        let status = process.wait();
        let (took, log) = (since.elapsed(), process.log_tail());
        if status.code() != Some(FAILED_DISK) {
            return Err(format!("{status} instead of status {FAILED_DISK}:\n{log}"));
        }
        look(took, &log)?;
        disks.iter_mut().try_for_each(Disk::unmount)?;
        disks.iter_mut().rev().try_for_each(Disk::mount)?;
        verify(binary, &data_dir)?;
        server.start_gateway();
        Ok(())
    })?;
    stop_and_verify(binary, &mut server)?;
    Ok(toll)
}
