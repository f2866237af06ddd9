//! The disk is full, and free again.

use std::time::{Duration, Instant};

use carillon_protocol::client::Wire;
use serde_json::json;

use super::super::{Run, Skipped, Tally};
use super::ground::{Disk, Ground};
use super::{count, played, stop_and_verify};
use crate::killing::{Load, Toll};
use crate::server::{Deployment, PATIENCE, Server};
use crate::stage;

const DISK_BYTES: u64 = 256 << 20;
const RESERVE_BYTES: u64 = 64 << 20;
/// Between two full disks, in milliseconds.
const BETWEEN_MS: (u64, u64) = (50, 600);
/// Sends and reads while it is full.
const PROBES: u32 = 3;
/// Who asks, beside the generator.
const PROBERS: [u64; 2] = [900_001, 900_002];
const UNAVAILABLE: u16 = 503;

/// F12: below the reserve sends are refused retryably, reads are served, and when there is space again sends are taken
/// again, by the same process.
///
/// # Errors
/// There are no disks to be had here, or no server to start.
pub fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let wanted = run.pick(4, 50);
    let (binary, ground) = (run.binary()?, Ground::new()?);
    let mut tally = Tally::default();
    let mut seen = Seen::default();
    let toll = played(&mut tally, |_| {
        let mut disk = ground.disk("disk", ground.directory(), DISK_BYTES)?;
        disk.mount()?;
        fillings(run, &binary, &ground, wanted, &disk, &mut seen)
    });
    if let Some(toll) = toll {
        count(&mut tally, ("full disks", wanted), toll);
        let enough = u64::from(wanted * PROBES);
        tally.count_at_least("refused while full", seen.refused, enough);
        tally.count_at_least("reads while full", seen.reads, enough);
    }
    Ok(tally)
}

#[derive(Default)]
struct Seen {
    sends: u64,
    refused: u64,
    reads: u64,
}

fn fillings(
    run: &mut Run,
    binary: &str,
    ground: &Ground,
    wanted: u32,
    disk: &Disk<'_>,
    seen: &mut Seen,
) -> Result<Toll, String> {
    let reserve = format!("store.reserve_bytes={RESERVE_BYTES}");
    let settings = ["limits.send_per_s=0", &reserve];
    let data_dir = disk.path().join("data");
    let mut server = Server::start_at(binary, Deployment::OneProcess, &settings, &data_dir);
    let [one, other] = PROBERS;
    PROBERS.iter().for_each(|user| stage::introduce(&server, *user));
    let wish = json!({"type": "one_to_one", "member_ids": [other.to_string()]});
    let conversation = stage::create(&server, one, &wish);
    let load = Load { wire: Wire::Rkyv, seed: run.seed, journals: ground.directory().to_owned() };
    let mut done = 0;
    let toll = load.rounds(wanted, BETWEEN_MS, &mut server, &mut |server, _| {
        run.progress(|| format!("{done} of {wanted}"));
        done += 1;
        let filler = disk.fill(RESERVE_BYTES / 2)?;
        until(server, &conversation, seen, "refused", |status| status == UNAVAILABLE)?;
        for _ in 0..PROBES {
            let (status, has_retry) = send(server, &conversation, seen);
            if (status, has_retry) != (UNAVAILABLE, true) {
                return Err(format!("a send on a full disk is answered {status}, retry hint: {has_retry}"));
            }
            seen.refused += 1;
            let path = format!("/v1/conversations/{conversation}/messages");
            let answer = stage::rest(server, one, "GET", &path, &[], None);
            if answer.status != 200 {
                return Err(format!("a read on a full disk is answered {answer:?}"));
            }
            seen.reads += 1;
        }
        drop(filler);
        until(server, &conversation, seen, "accepted", |status| (200..300).contains(&status))?;
        match server.gateway.as_mut().and_then(|process| process.ended()) {
            Some(status) => Err(format!("the process ended: {status}")),
            None => Ok(()),
        }
    })?;
    stop_and_verify(binary, &mut server)?;
    Ok(toll)
}

/// One message, sent by REST: the status, and whether it says when to come again.
fn send(server: &Server, conversation: &str, seen: &mut Seen) -> (u16, bool) {
    seen.sends += 1;
    let body = json!({
        "conversation_id": conversation,
        "client_msg_id": format!("probe {}", seen.sends),
        "message_type": "text",
        "content": "is there room?",
    });
    let answer = stage::rest(server, PROBERS[0], "POST", "/v1/messages", &[], Some(&body));
    (answer.status, answer.header("retry-after").is_some())
}

/// Sends until the status is as wanted.
fn until(
    server: &Server,
    conversation: &str,
    seen: &mut Seen,
    what: &str,
    is_wanted: impl Fn(u16) -> bool,
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, _) = send(server, conversation, seen);
        if is_wanted(status) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("no send is {what}: {status}"));
        }
        // A send is the only way to ask, and between two of them the server looks at its free space again, ten times a second.
        std::thread::sleep(Duration::from_millis(20));
    }
}
