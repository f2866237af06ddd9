//! Two hundred people in one group, who are told directly; a thousand, all of them there, and a hundred messages.

use std::time::{Duration, Instant};

use carillon_loadgen::options::Options;
use carillon_loadgen::report::{GOOD, VIOLATION};
use clap::Parser;
use serde_json::{Value, json};

use super::ground::{Ground, Latencies, until, users};
use super::swarm::{Heard, Swarm};
use super::{Campaign, Verdict};
use crate::server::Deployment;

/// Messages a second, and for how many seconds: a hundred.
const RATE_PER_S: u64 = 20;
const SECONDS: u64 = 5;

/// Members who are told directly (`fanout.direct_max`), and messages to them, one after the other.
const DIRECT: usize = 200;
const DIRECT_MESSAGES: usize = 100;
/// The last of them has a message this long after it was sent, of 99 in 100 messages; beside the rest of CI, all of
/// them.
const DIRECT_MS_MAX: f64 = 10.0;
const DIRECT_MS_MAX_SHORT: f64 = 1_000.0;
const FIRST: u64 = 1_001;
const PATIENCE: Duration = Duration::from_secs(60);

/// BG1: from the sending of a message until the last of two hundred has it, commit and all, it takes milliseconds.
///
/// # Errors
/// A p99 above ten, or a member that did not get a message.
pub fn two_hundred(campaign: &Campaign) -> Verdict {
    let ground = Ground::start(campaign, Deployment::OneProcess, &["limits.send_per_s=0"])?;
    let people = users(FIRST, DIRECT);
    let mut swarm = Swarm::new(ground.server.address(), campaign.seed)?;
    for user in &people {
        swarm.join(ground.token(*user, "phone"));
    }
    swarm.until_all_live(PATIENCE, &mut |_, _, _| Ok(()))?;
    let group = ground.group(people[0], &people[1..])?;
    let mut latencies = Latencies::default();
    for message in 0..DIRECT_MESSAGES {
        let frame = json!({"type": "send_message", "conversation_id": group, "content": message.to_string()});
        let (since, mut heard_count) = (Instant::now(), 0);
        swarm.say(0, &frame);
        let took = until("everybody has the message", PATIENCE, || {
            swarm.turn(Duration::from_millis(20), &mut |number, heard, _| match heard {
                Heard::Gone(code) => Err(format!("client {number} was closed with {code}")),
                Heard::Frame(frame) => {
                    heard_count += usize::from(frame.message.is_some());
                    Ok(())
                }
            })?;
            Ok((heard_count >= DIRECT - 1).then(|| since.elapsed()))
        })?;
        latencies.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if heard_count > DIRECT - 1 {
            return Err(format!("message {message} was heard {heard_count} times by {} members", DIRECT - 1));
        }
    }
    let words = format!("{DIRECT} members, sent to heard by all: {}", latencies.words());
    let allowed_ms = if campaign.is_short { DIRECT_MS_MAX_SHORT } else { DIRECT_MS_MAX };
    if latencies.percentile_ms(99.0) < allowed_ms { Ok(words) } else { Err(words) }
}

/// FR2, BG7, OR3: each of a thousand online members gets each of a hundred messages exactly once, in order, by the
/// load generator's oracle; and the server counts how many heard them.
///
/// # Errors
/// What the oracle found, or why it could not judge.
pub fn thousand(campaign: &Campaign) -> Verdict {
    let members: u64 = if campaign.is_short { 250 } else { 1_000 };
    let ground = Ground::start(campaign, Deployment::OneProcess, &["limits.send_per_s=0"])?;
    let words = format!(
        "loadgen --server {} --clients {members} --mix group=1 --group-size {members} --rate {RATE_PER_S} --duration \
         {SECONDS}s --warmup 0s --arrivals uniform --settle 60s --encoding json --seed {} --data-dir",
        ground.server.address(),
        campaign.seed,
    );
    let words = words.split_ascii_whitespace().map(std::ffi::OsString::from);
    let words = words.chain([ground.server.data_dir().into_os_string()]);
    let options = Options::try_parse_from(words).map_err(|error| error.to_string())?;
    let before = ground.metric("carillon_fanout_recipients_sum").unwrap_or(0.0);
    let outcome = carillon_loadgen::io::run(&options);
    let report = outcome.report.ok_or_else(|| outcome.text.clone())?;
    // That the generator was late is no matter here: nothing is measured.
    if outcome.exit == VIOLATION || (outcome.exit != GOOD && !is_only_late(&report)) {
        return Err(outcome.text);
    }
    let tally = &report["oracle"]["tally"];
    let count = |name: &str| tally[name].as_u64().unwrap_or(0);
    let (sends, acked, deliveries) = (count("sends"), count("acked"), count("deliveries"));
    let expected = RATE_PER_S * SECONDS;
    if sends < expected * 9 / 10 || acked != sends {
        return Err(format!("{expected} messages were to be sent and acknowledged: {tally}"));
    }
    // The sender's own message is its ack.
    if deliveries != sends * (members - 1) {
        return Err(format!(
            "{sends} messages for {} others each came as {deliveries} deliveries",
            members - 1
        ));
    }
    let heard = ground.metric("carillon_fanout_recipients_sum").unwrap_or(0.0) - before;
    if heard < (sends * (members - 1)) as f64 {
        return Err(format!("carillon_fanout_recipients counts {heard} for {deliveries} deliveries"));
    }
    Ok(format!(
        "{sends} messages, {members} members, {deliveries} deliveries, each once and in order; {heard} by the server's \
         count; intended to delivered p99 {} ms",
        report["steps"][0]["to_delivered_us"]["p99_us"].as_f64().unwrap_or(0.0) / 1e3
    ))
}

fn is_only_late(report: &Value) -> bool {
    let reasons = report["invalid_because"].as_array().cloned().unwrap_or_default();
    reasons
        .iter()
        .filter_map(Value::as_str)
        .all(|words| words.contains("generator was late") || words.ends_with("in time"))
}
