//! A sender with a crowd of thousands on one side and one friend on the other: the ack is for the sender, and waits
//! for neither.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carillon_node::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::ground::{Ground, Latencies, until, users};
use super::swarm::{Heard, Say, Swarm};
use super::{Campaign, Verdict};
use crate::client::{Client, Wire};
use crate::server::{Deployment, Process};

/// How much slower the median ack in the crowd may be (BG2).
const RATIO_MAX: f64 = 1.2;
/// Between two sends: the fan-out of one is done before the next.
const CALM: Duration = Duration::from_millis(400);
/// Between two sends, to see what happens; not judged.
const DENSE: Duration = Duration::from_millis(100);
const SENDER: u64 = 1;
const FRIEND: u64 = 2;
const FIRST: u64 = 1_001;
/// Connecting and making the group.
const SET_UP: Duration = Duration::from_secs(120);
/// Everything sent has arrived everywhere within (G7).
const SETTLE: Duration = Duration::from_secs(60);
/// In [`stalled_crowd`]: rounds of two sends, and the gap between them: three seconds, well below what makes a lane
/// lost.
const STALL_SENDS: usize = 30;
const STALL_GAP: Duration = Duration::from_millis(50);
/// An ack that took longer has waited for somebody: alone it takes a few milliseconds.
const STALL_ACK_MS_MAX: f64 = 1_000.0;
/// A crowd is larger than the default allows.
const SETTINGS: &[&str] = &["limits.send_per_s=0", "conversations.max_members=10000"];

/// What each of the crowd holds of the group, checked as it comes (G6): no repeat, no skip.
struct Holds {
    group: String,
    last_seqs: Vec<u64>,
    events: u64,
}

impl Holds {
    fn hear(&mut self, number: usize, heard: &Heard<'_>, say: &mut Say) -> Result<(), String> {
        let frame = match heard {
            Heard::Gone(code) => return Err(format!("client {number} was closed with {code}")),
            Heard::Frame(frame) => frame,
        };
        if frame.kind == "error" {
            return Err(format!("client {number} got an error: {:?}", frame.error));
        }
        for event in frame.events() {
            let Some((conversation, seq)) = event.position() else { continue };
            if conversation != self.group {
                continue;
            }
            let last = &mut self.last_seqs[number];
            // Who joins later begins at the event by which they joined.
            if *last != 0 && seq != *last + 1 {
                return Err(format!("client {number} got {seq} after {last}"));
            }
            *last = seq;
            self.events += 1;
        }
        let sync = |from_seq: u64| {
            json!({"type": "sync", "id": "more", "conversation_id": self.group, "from_seq": from_seq,
                "limit": 200})
        };
        // Too slow for a moment: what was missed is asked for, and comes.
        let is_listed = frame.conversations.iter().any(|listed| listed.conversation_id == self.group);
        let goes_on = frame.kind == "sync_batch" && frame.has_more && frame.id.is_some();
        if (frame.kind == "behind" && is_listed) || goes_on {
            say.frame(&sync(self.last_seqs[number] + 1));
        }
        if frame.kind == "reset" {
            return Err(format!("client {number} was reset: more than a page was missed"));
        }
        Ok(())
    }

    fn hold_all_to(&self, head_seq: u64) -> bool {
        self.last_seqs.iter().all(|last| *last >= head_seq)
    }
}

struct Stand {
    ground: Ground,
    swarm: Swarm,
    holds: Holds,
    sender: Client,
    pair: String,
}

/// The crowd of `count` is there, at this address, in a group with the sender; and so is the friend.
fn stand(ground: Ground, address: SocketAddr, campaign: &Campaign, count: usize) -> Result<Stand, String> {
    let crowd = users(FIRST, count);
    let mut swarm = Swarm::new(address, campaign.seed)?;
    for user in &crowd {
        swarm.join(ground.token(*user, "phone"));
    }
    let friend = swarm.join(ground.token(FRIEND, "phone"));
    swarm.until_all_live(SET_UP, &mut |_, _, _| Ok(()))?;
    let sender = Client::login(&ground.server, Wire::Json, SENDER, "phone");
    let mut holds = Holds { group: String::new(), last_seqs: vec![0; count + 1], events: 0 };
    // Nobody reads meanwhile: what is said to them waits in their sockets.
    let pair = ground.pair(SENDER, FRIEND)?;
    holds.group = ground.group(SENDER, &crowd)?;
    let head_seq = 1 + (count as u64).saturating_sub(999).div_ceil(1_000);
    // The friend is no member, and holds what there is to hold.
    holds.last_seqs[friend] = u64::MAX;
    until("the crowd learns of its group", SET_UP, || {
        swarm.turn(Duration::from_millis(20), &mut |number, heard, say| holds.hear(number, &heard, say))?;
        Ok(holds.hold_all_to(head_seq).then_some(()))
    })?;
    Ok(Stand { ground, swarm, holds, sender, pair })
}

/// Sends alternately, and returns the times to the acks: in the group, in the pair.
fn alternate(
    sender: &mut Client,
    group: &str,
    pair: &str,
    rounds: usize,
    gap: Duration,
    tag: &str,
) -> [Latencies; 2] {
    let mut latencies = [Latencies::default(), Latencies::default()];
    let mut due = Instant::now();
    for round in 0..rounds {
        // Who goes first changes, so that neither always follows the other.
        for side in [round % 2, (round + 1) % 2] {
            due += gap;
            // The rate is the load: sends leave when the schedule says.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let conversation = if side == 0 { group } else { pair };
            let since_ns = Clock.now_ns();
            sender.say(conversation, "to whom it may concern", &format!("{tag}-{round}-{side}"));
            latencies[side].record(Clock.now_ns() - since_ns);
        }
    }
    latencies
}

/// BG2, BG3, T9: in one run that interleaves both, the ack of a message to thousands comes as fast as that of a
/// message to one; and each of the thousands gets each message once, in order.
///
/// # Errors
/// A ratio above 1.2 (in the long form), or a member that missed, repeated or skipped a message.
///
/// # Panics
/// When a message is not acknowledged.
pub fn ack_beside_crowd(campaign: &Campaign) -> Verdict {
    let (count, rounds, dense_rounds) = if campaign.is_short { (1_500, 12, 0) } else { (5_000, 60, 40) };
    let ground = Ground::start(campaign, Deployment::OneProcess, SETTINGS)?;
    let address = ground.server.address();
    let Stand { ground, mut swarm, mut holds, mut sender, pair } = stand(ground, address, campaign, count)?;
    let group = holds.group.clone();
    let mut confirmed: BTreeMap<usize, u64> = BTreeMap::new();
    let before = holds.last_seqs[0];
    let total = before + (rounds + dense_rounds) as u64;
    let (is_sent, held) = (AtomicBool::new(false), AtomicU64::new(0));
    let (calm, dense) = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let mut deadline = None;
            while !holds.hold_all_to(total) {
                swarm.turn(Duration::from_millis(10), &mut |number, heard, say| {
                    holds.hear(number, &heard, say)?;
                    let last = holds.last_seqs[number];
                    if campaign.confirms && last != u64::MAX && confirmed.get(&number) != Some(&last) {
                        confirmed.insert(number, last);
                        say.frame(&json!({"type": "delivered", "conversation_id": holds.group, "seq": last}));
                    }
                    Ok(())
                })?;
                held.store(holds.events, Ordering::Relaxed);
                if is_sent.load(Ordering::Relaxed) {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + SETTLE);
                    if Instant::now() >= until {
                        let late = holds.last_seqs.iter().filter(|last| **last < total).count();
                        return Err(format!("{late} of {count} members do not hold everything"));
                    }
                }
            }
            // Whatever comes now came twice.
            swarm.rest(Duration::from_millis(500), &mut |number, heard, say| {
                holds.hear(number, &heard, say)
            })?;
            Ok::<u64, String>(holds.events)
        });
        // The first few are not measured: caches fill.
        let calm = alternate(&mut sender, &group, &pair, rounds, CALM, "calm");
        let dense = alternate(&mut sender, &group, &pair, dense_rounds, DENSE, "dense");
        is_sent.store(true, Ordering::Relaxed);
        let events = crowd.join().map_err(|_| "the crowd's thread panicked".to_owned())?;
        events.map(|_| (calm, dense))
    })?;
    drop(ground);
    let ratio = calm[0].percentile_ms(50.0) / calm[1].percentile_ms(50.0).max(f64::MIN_POSITIVE);
    let dense_words = if dense_rounds == 0 {
        String::new()
    } else {
        format!(
            "; every {} ms: {} in the crowd, {} in the pair",
            DENSE.as_millis(),
            dense[0].words(),
            dense[1].words()
        )
    };
    let words = format!(
        "{count} members, ack every {} ms: {} in the crowd, {} in the pair, ratio of medians {ratio:.2}{dense_words}; \
         everybody holds everything once, in order",
        CALM.as_millis(),
        calm[0].words(),
        calm[1].words(),
    );
    // A few sends beside the rest of CI are no measurement.
    if ratio <= RATIO_MAX || campaign.is_short { Ok(words) } else { Err(words) }
}

/// BG3: while the gateway of the whole crowd stands still, the sender is acknowledged all the same; and when it goes
/// on, everybody gets everything.
///
/// # Errors
/// An ack that waited, or a member that missed, repeated or skipped a message.
///
/// # Panics
/// When a message is not acknowledged.
pub fn stalled_crowd(campaign: &Campaign) -> Verdict {
    let count = if campaign.is_short { 300 } else { 2_000 };
    let ground = Ground::start(campaign, Deployment::Tiers, SETTINGS)?;
    let crowded = ground.another_gateway(campaign, SETTINGS);
    let Stand { ground, mut swarm, mut holds, mut sender, pair } =
        stand(ground, crowded.address("gateway"), campaign, count)?;
    let group = holds.group.clone();
    let total = holds.last_seqs[0] + 2 * STALL_SENDS as u64;
    let before = alternate(&mut sender, &group, &pair, STALL_SENDS, STALL_GAP, "before");
    signal(&crowded, Signal::STOP)?;
    let stalled = alternate(&mut sender, &group, &pair, STALL_SENDS, STALL_GAP, "stalled");
    signal(&crowded, Signal::CONT)?;
    until("the crowd holds everything", SETTLE, || {
        swarm.turn(Duration::from_millis(20), &mut |number, heard, say| holds.hear(number, &heard, say))?;
        Ok(holds.hold_all_to(total).then_some(()))
    })?;
    drop((crowded, ground));
    let words = format!(
        "{count} members whose gateway stands still: ack {} in the crowd, {} in the pair; before that {} and {}; then everybody \
         has everything once, in order",
        stalled[0].words(),
        stalled[1].words(),
        before[0].words(),
        before[1].words(),
    );
    let slowest_ms = stalled[0].percentile_ms(100.0);
    if slowest_ms < STALL_ACK_MS_MAX {
        Ok(words)
    } else {
        Err(format!("an ack took {slowest_ms} ms: {words}"))
    }
}

fn signal(process: &Process, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    kill_process(pid, signal).map_err(|error| format!("signal: {error}"))
}
