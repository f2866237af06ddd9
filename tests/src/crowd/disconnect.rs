//! Thousands going at once, with some who watch them: presence is bounded, and messages go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carillon_node::clock::Clock;
use serde_json::{Value, json};

use super::ground::{Ground, Latencies, until, users};
use super::swarm::{Heard, Swarm};
use super::{Campaign, Verdict};
use crate::server::Deployment;

/// Whom one watcher watches.
const WATCHED: usize = 50;
/// Pairs that talk all the time, and how often each of them.
const PAIRS: usize = 50;
const TALK: Duration = Duration::from_millis(250);
/// For how long messages are measured, before and from the moment on which everybody goes.
const WINDOW: Duration = Duration::from_secs(20);
const WINDOW_SHORT: Duration = Duration::from_secs(5);
/// How much the p99 of messages may rise meanwhile: the median of so many rounds, because one hiccup of the disk in one
/// of two windows decides what forty of four thousand messages took.
const RATIO_MAX: f64 = 2.0;
const ROUNDS: u64 = 3;
/// Nothing of presence may come this long after the last that was due.
const HUSH: Duration = Duration::from_secs(5);
const FIRST_TALKER: u64 = 101;
const FIRST: u64 = 1_001;
const SET_UP: Duration = Duration::from_secs(180);
/// A dropped connection is seen, its user waited for, and everybody told, within.
const PATIENCE_OF_PRESENCE: Duration = Duration::from_secs(60);

/// The talk of the pairs: how long each message took, by when it was meant to be sent.
#[derive(Default)]
struct Talk {
    /// Intended at, took; nanoseconds.
    taken: Vec<(u64, u64)>,
    sent: u64,
    held: u64,
}

impl Talk {
    fn between(&self, from_ns: u64, to_ns: u64) -> Latencies {
        let mut latencies = Latencies::default();
        let within = self.taken.iter().filter(|(intended_ns, _)| (from_ns..to_ns).contains(intended_ns));
        within.for_each(|(_, took_ns)| latencies.record(*took_ns));
        latencies
    }
}

/// Everybody of the pairs is live, and talks until told to stop; then until everything has arrived.
fn talk(mut swarm: Swarm, conversations: &[String], stop: &AtomicBool) -> Result<Talk, String> {
    let mut talk = Talk::default();
    let gap_ns = TALK.as_nanos() as u64 / conversations.len() as u64;
    let mut due_ns = Clock.now_ns();
    let mut deadline = None;
    loop {
        let is_over = stop.load(Ordering::Relaxed);
        while !is_over && Clock.now_ns() >= due_ns {
            let pair = (talk.sent as usize) % conversations.len();
            let frame = json!({"type": "send_message", "conversation_id": conversations[pair],
                "content": due_ns.to_string(), "client_msg_id": talk.sent.to_string()});
            swarm.say(2 * pair, &frame);
            talk.sent += 1;
            due_ns += gap_ns;
        }
        swarm.turn(Duration::from_millis(1), &mut |number, heard, _| {
            let frame = match heard {
                Heard::Gone(code) => return Err(format!("talker {number} was closed with {code}")),
                Heard::Frame(frame) => frame,
            };
            if frame.kind == "error" {
                return Err(format!("talker {number} got an error: {:?}", frame.error));
            }
            if let Some(message) = &frame.message {
                let intended_ns: u64 =
                    message.content.parse().map_err(|_| "whose message is that?".to_owned())?;
                talk.taken.push((intended_ns, Clock.now_ns().saturating_sub(intended_ns)));
                talk.held += 1;
            }
            Ok(())
        })?;
        if is_over {
            let until = *deadline.get_or_insert_with(|| Instant::now() + crate::server::PATIENCE);
            if talk.held == talk.sent {
                return Ok(talk);
            }
            if Instant::now() >= until {
                return Err(format!("{} of {} messages of the pairs arrived", talk.held, talk.sent));
            }
        }
    }
}

/// Who watches whom: every watcher the next [`WATCHED`] of those who go, one more than the next watcher begins with,
/// so that most are watched once and some twice.
fn watched(watcher: usize, goers: usize) -> Vec<usize> {
    (0..WATCHED).map(|step| (watcher * (WATCHED - 1) + step) % goers).collect()
}

/// What the watchers are told.
#[derive(Default)]
struct Told {
    offline: BTreeSet<(usize, u64)>,
    wrong: Vec<String>,
    frames: u64,
}

impl Told {
    fn hear(&mut self, watcher: usize, heard: &Heard<'_>) -> Result<(), String> {
        let frame = match heard {
            Heard::Gone(code) => return Err(format!("watcher {watcher} was closed with {code}")),
            Heard::Frame(frame) => frame,
        };
        if frame.kind == "presence" {
            self.frames += 1;
            let user = frame.user_id.and_then(|id| id.parse().ok()).unwrap_or(0);
            if frame.status != Some("offline") || !self.offline.insert((watcher, user)) {
                self.wrong.push(format!("watcher {watcher} was told {:?} of {user}", frame.status));
            }
        }
        Ok(())
    }
}

/// Everybody before anybody goes.
struct Scene {
    ground: Ground,
    watchers: Vec<u64>,
    goers: Vec<u64>,
    /// Watcher by number, watched user.
    watched: BTreeSet<(usize, u64)>,
    watching: Swarm,
    /// A swarm of its own, to be dropped at one stroke.
    going: Swarm,
    talking: Swarm,
    pairs: Vec<String>,
}

fn live(ground: &Ground, users: &[u64], seed: u64) -> Result<Swarm, String> {
    let mut swarm = Swarm::new(ground.server.address(), seed)?;
    for user in users {
        swarm.join(ground.token(*user, "phone"));
    }
    swarm.until_all_live(SET_UP, &mut |_, _, _| Ok(()))?;
    Ok(swarm)
}

fn set_up(campaign: &Campaign, goers: usize, watchers: usize) -> Result<Scene, String> {
    let ground = Ground::start(campaign, Deployment::OneProcess, &["limits.send_per_s=0"])?;
    let watcher_users = users(FIRST, watchers);
    let goer_users = users(FIRST + watchers as u64, goers);
    let mut watching = live(&ground, &watcher_users, campaign.seed)?;
    let mut going = live(&ground, &goer_users, campaign.seed)?;

    let mut pairs_watched = BTreeSet::new();
    for (watcher, user) in watcher_users.iter().enumerate() {
        let targets: Vec<u64> = watched(watcher, goers).iter().map(|goer| goer_users[*goer]).collect();
        // Presence is for those who share a conversation.
        ground.group(*user, &targets)?;
        let ids: Vec<String> = targets.iter().map(u64::to_string).collect();
        watching.say(watcher, &json!({"type": "presence_subscribe", "id": "watch", "user_ids": ids}));
        pairs_watched.extend(targets.into_iter().map(|target| (watcher, target)));
    }
    let mut online = vec![0; watchers];
    until("everybody is seen online", PATIENCE_OF_PRESENCE, || {
        watching.turn(Duration::from_millis(20), &mut |watcher, heard, _| {
            if let Heard::Frame(frame) = &heard {
                online[watcher] += frame.presence.iter().filter(|one| one.status == "online").count();
                if frame.kind == "error" {
                    return Err(format!("watcher {watcher} got an error: {:?}", frame.error));
                }
            }
            Ok(())
        })?;
        going.turn(Duration::ZERO, &mut |_, _, _| Ok(()))?;
        Ok(online.iter().all(|count| *count == WATCHED).then_some(()))
    })?;

    // Last, so that nobody waits long without a sign of life.
    let talkers = users(FIRST_TALKER, 2 * PAIRS);
    let talking = live(&ground, &talkers, campaign.seed)?;
    let pairs: Result<Vec<String>, String> =
        talkers.chunks(2).map(|pair| ground.pair(pair[0], pair[1])).collect();
    let pairs = pairs?;
    let (watchers, goers, watched) = (watcher_users, goer_users, pairs_watched);
    Ok(Scene { ground, watchers, goers, watched, watching, going, talking, pairs })
}

/// When what happened, on the clock in nanoseconds.
struct Course {
    start_ns: u64,
    drop_ns: u64,
    gone_wall_ms: u64,
    /// From the drop until every watcher was told of everybody.
    told_after: Duration,
}

/// Everybody goes, after a window of calm; the watchers listen, for another window and then some.
fn drive(
    watching: &mut Swarm,
    mut going: Swarm,
    watched: &BTreeSet<(usize, u64)>,
    told: &mut Told,
    window: Duration,
) -> Result<Course, String> {
    let mut rest = |time: Duration, told: &mut Told| {
        watching.rest(time, &mut |watcher, heard, _| told.hear(watcher, &heard))
    };
    // The first moments are not measured.
    going.rest(Duration::from_secs(2), &mut |_, _, _| Ok(()))?;
    let start_ns = Clock.now_ns();
    rest(window, told)?;
    if told.frames > 0 {
        return Err(format!("{} presence frames before anybody went", told.frames));
    }
    let (gone_wall_ms, drop_ns, since) = (Clock.wall_ms(), Clock.now_ns(), Instant::now());
    drop(going);
    let told_after = until("everybody is seen offline", PATIENCE_OF_PRESENCE, || {
        rest(Duration::from_millis(50), told)?;
        Ok((told.offline.len() >= watched.len()).then(|| since.elapsed()))
    });
    let told_after = told_after.map_err(|late| {
        let (count, wrong) = (told.offline.len(), told.wrong.first());
        format!("{late}: {count} of {} were told, {wrong:?}", watched.len())
    })?;
    rest(window.saturating_sub(since.elapsed()).max(HUSH), told)?;
    Ok(Course { start_ns, drop_ns, gone_wall_ms, told_after })
}

/// PR3, PR6, PR7, FR3: thousands go at once. Each watcher is told once of each that it watches, and of nobody else;
/// messages of others hardly notice; and when everybody was last seen is kept.
///
/// # Errors
/// A frame too many or too few, a p99 of more than twice what it was (the median of three rounds, in the long form), or
/// a missing `last_seen_at`.
pub fn mass_disconnect(campaign: &Campaign) -> Verdict {
    if campaign.is_short {
        // A few seconds beside the rest of CI are no measurement.
        return round(campaign).map(|(words, _)| words);
    }
    let mut rounds = Vec::new();
    for round_number in 0..ROUNDS {
        rounds.push(round(&Campaign { seed: campaign.seed + round_number, ..campaign.clone() })?);
    }
    rounds.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    let ratios: Vec<String> = rounds.iter().map(|(_, ratio)| format!("{ratio:.2}")).collect();
    let (words, ratio) = rounds.swap_remove(rounds.len() / 2);
    let words = format!("{words}, the median of {}", ratios.join(" · "));
    if ratio <= RATIO_MAX { Ok(words) } else { Err(words) }
}

/// All of it once: in words, and how much the p99 of messages rose.
fn round(campaign: &Campaign) -> Result<(String, f64), String> {
    let (goers, watchers) = if campaign.is_short { (1_000, 40) } else { (9_800, 200) };
    let window = if campaign.is_short { WINDOW_SHORT } else { WINDOW };
    let scene = set_up(campaign, goers, watchers)?;
    let Scene { ground, watchers, goers, watched, mut watching, going, talking, pairs } = scene;

    let (is_over, mut told) = (AtomicBool::new(false), Told::default());
    let (talk, course) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| talk(talking, &pairs, &is_over));
        let course = drive(&mut watching, going, &watched, &mut told, window);
        is_over.store(true, Ordering::Relaxed);
        let talk = thread.join().map_err(|_| "the talkers' thread panicked".to_owned())??;
        Ok::<_, String>((talk, course?))
    })?;
    if !told.wrong.is_empty() || told.offline != watched || told.frames > watched.len() as u64 {
        let wrong = told.wrong.first().cloned().unwrap_or_default();
        return Err(format!("{} presence frames for {} watched: {wrong}", told.frames, watched.len()));
    }
    last_seen(&ground, &watchers, &goers, course.gone_wall_ms)?;

    let Course { start_ns, drop_ns, told_after, .. } = course;
    let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
    let before = talk.between(start_ns, drop_ns);
    let during = talk.between(drop_ns, drop_ns.saturating_add(window_ns));
    let ratio = during.percentile_ms(99.0) / before.percentile_ms(99.0).max(f64::MIN_POSITIVE);
    let words = format!(
        "{} of {} connections dropped at once; {} presence frames, at most {} allowed, the last after {:.1} s; \
         messages before {}, meanwhile {}, ratio of p99 {ratio:.2}",
        goers.len(),
        goers.len() + watchers.len() + 2 * PAIRS,
        told.frames,
        watched.len(),
        told_after.as_secs_f64(),
        before.words(),
        during.words(),
    );
    Ok((words, ratio))
}

/// Of one in each watcher's group it is known when they were last seen.
fn last_seen(ground: &Ground, watchers: &[u64], goers: &[u64], gone_wall_ms: u64) -> Result<(), String> {
    for (watcher, user) in watchers.iter().enumerate().step_by(4) {
        let target = goers[watched(watcher, goers.len())[0]];
        until("last_seen_at is written", PATIENCE_OF_PRESENCE, || {
            let answer = ground.rest(*user, "GET", &format!("/v1/users/{target}"), None);
            let seen_ms = answer.body["last_seen_at"].as_u64().unwrap_or(0);
            if answer.status != 200
                || answer.body["last_seen_at"] == Value::Null
                || seen_ms + 1_000 < gone_wall_ms
            {
                // Between two questions of a bounded wait: REST has no push for it.
                std::thread::sleep(Duration::from_millis(50));
                return Ok(None);
            }
            if seen_ms > Clock.wall_ms() {
                Err(format!("user {target} was last seen in the future"))
            } else {
                Ok(Some(()))
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_watches_one_twice() {
        for watcher in 0..200 {
            let distinct: BTreeSet<usize> = watched(watcher, 9_800).into_iter().collect();
            assert_eq!(distinct.len(), WATCHED);
        }
    }
}
