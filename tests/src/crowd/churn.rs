//! Members come and go all the time, a hundred changes a second, under a stream of messages, while everybody
//! reconnects, asks for old pages and reads histories. Nobody may ever see an event from before they came or from
//! after they went (G11).
//!
//! The truth is the log of each group as its owner, who stays, receives it: who was a member from which seq to which.
//! It is known only at the end, so everything that anybody sees is kept, as numbers, and judged then.

mod book;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carillon_node::prng::Prng;
use serde_json::{Value, json};

use self::book::{Book, sync};
use super::ground::{Ground, until, users};
use super::swarm::Swarm;
use super::{Campaign, Verdict};
use crate::server::{Deployment, PATIENCE};

/// People who come and go, in every group.
const PEOPLE: usize = 40;
/// Changes a second, of all groups together.
const CHANGES_PER_S: u64 = 100;
/// Of that, what has to be reached for a verdict in the long form.
const CHANGES_PER_S_MIN: f64 = 90.0;
/// Between two messages, two reconnections, two pages asked for.
const SPEAK: Duration = Duration::from_millis(20);
const RECONNECT: Duration = Duration::from_millis(60);
const PAGE: Duration = Duration::from_millis(25);
/// The connecting takes a moment.
const SET_UP: Duration = Duration::from_secs(60);
const FIRST_OWNER: u64 = 11;
const FIRST: u64 = 1_001;

/// Adds and removes over REST, at its share of the rate. Returns how many changes there were.
fn change(
    ground: &Ground,
    groups: &[(u64, String)],
    people: &[u64],
    per_s: u64,
    mut prng: Prng,
    stop: &AtomicBool,
) -> Result<u64, String> {
    // Everybody begins as a member.
    let mut is_member = vec![vec![true; people.len()]; groups.len()];
    let (mut changes, mut due) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        due += Duration::from_secs(1) / u32::try_from(per_s).unwrap_or(1);
        // The rate is the load: changes leave when the schedule says.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (place, person) = (prng.index(groups.len()), prng.index(people.len()));
        let (owner, group) = &groups[place];
        let user = people[person];
        let flag = &mut is_member[place][person];
        if *flag {
            ground.change(*owner, "DELETE", group, &format!("/{user}"), None)?;
        } else {
            ground.change(*owner, "POST", group, "", Some(&json!({"user_ids": [user.to_string()]})))?;
        }
        *flag = !*flag;
        changes += 1;
    }
    Ok(changes)
}

/// Reads histories over REST, as anybody. Returns who saw which seqs of which group, by person and group.
fn read(
    ground: &Ground,
    groups: &[String],
    people: &[u64],
    mut prng: Prng,
    stop: &AtomicBool,
) -> Result<Vec<(usize, usize, u64)>, String> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // Between two looks of somebody who keeps on looking: the pace is the load.
        std::thread::sleep(PAGE);
        let (person, group) = (prng.index(people.len()), prng.index(groups.len()));
        let id = &groups[group];
        let path = match prng.below(3) {
            0 => format!("/v1/conversations/{id}/messages?limit=200"),
            1 => format!("/v1/conversations/{id}/messages?after_seq=0&limit=200"),
            _ => format!("/v1/conversations/{id}"),
        };
        let answer = ground.rest(people[person], "GET", &path, None);
        match answer.status {
            200 => {
                let listed = answer.body["messages"].as_array().into_iter().flatten();
                let messages = listed.chain(answer.body.get("last_message"));
                seen.extend(messages.filter_map(|message| Some((person, group, message["seq"].as_u64()?))));
            }
            403 => {}
            _ => return Err(format!("GET {path}: {answer:?}")),
        }
    }
    Ok(seen)
}

/// G11, GF1, GF3, GF4: under a hundred membership changes a second nobody sees what is not theirs: not pushed, not on
/// coming back, not in a page, not in the history; and who is a member at the end holds everything since they came.
///
/// # Errors
/// The first events seen by somebody who was no member then, skipped, repeated, or missing at the end.
pub fn churn(campaign: &Campaign) -> Verdict {
    let (groups_count, seconds) = if campaign.is_short { (2, 8) } else { (4, 30) };
    let ground = Ground::start(campaign, Deployment::OneProcess, &["limits.send_per_s=0"])?;
    let people = users(FIRST, PEOPLE);
    let owners = users(FIRST_OWNER, groups_count);
    let mut prng = Prng::new(campaign.seed);
    let mut swarm = Swarm::new(ground.server.address(), campaign.seed)?;
    for user in people.iter().chain(&owners) {
        swarm.join(ground.token(*user, "phone"));
    }
    swarm.until_all_live(SET_UP, &mut |_, _, _| Ok(()))?;
    let groups: Result<Vec<String>, String> =
        owners.iter().map(|owner| ground.group(*owner, &people)).collect();
    let groups = groups?;
    let mut book = Book::new(groups.clone());

    let stop = AtomicBool::new(false);
    let owned: Vec<(u64, String)> = owners.iter().copied().zip(groups.iter().cloned()).collect();
    let (changes, histories) = std::thread::scope(|scope| {
        // A thread for each half: a request has to return before its group's next.
        let halves: Vec<_> = owned.chunks(groups_count / 2).collect();
        let share = CHANGES_PER_S / halves.len() as u64;
        let (ground, people, stop) = (&ground, &people[..], &stop);
        let changers: Vec<_> = halves
            .into_iter()
            .map(|half| {
                let prng = prng.fork();
                scope.spawn(move || change(ground, half, people, share, prng, stop))
            })
            .collect();
        let (reader_prng, names) = (prng.fork(), &groups[..]);
        let reader = scope.spawn(move || read(ground, names, people, reader_prng, stop));
        let stirred = stir(&mut swarm, &mut book, &mut prng, Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let mut changes = 0;
        for changer in changers {
            changes += changer.join().map_err(|_| "a changer panicked".to_owned())??;
        }
        let histories = reader.join().map_err(|_| "the reader panicked".to_owned())??;
        stirred.map(|()| (changes, histories))
    })?;

    let heads: Vec<u64> =
        owned.iter().map(|(owner, group)| head(&ground, *owner, group)).collect::<Result<_, _>>()?;
    settle(&mut swarm, &mut book, &people, &heads)?;
    book.judge(campaign, &people, &heads, changes, seconds, &histories)
}

fn head(ground: &Ground, owner: u64, group: &str) -> Result<u64, String> {
    let answer = ground.rest(owner, "GET", &format!("/v1/conversations/{group}"), None);
    answer.body["head_seq"].as_u64().ok_or_else(|| format!("no head_seq: {answer:?}"))
}

/// Speaks, reconnects, and asks for pages, at random, for as long.
fn stir(swarm: &mut Swarm, book: &mut Book, prng: &mut Prng, time: Duration) -> Result<(), String> {
    let start = Instant::now();
    let (mut speak, mut reconnect, mut page) = (start, start + RECONNECT, start + PAGE);
    let mut said = 0_u64;
    while start.elapsed() < time {
        let now = Instant::now();
        if now >= speak {
            speak += SPEAK;
            said += 1;
            let group = prng.index(book.groups.len());
            // Every other message is somebody's who may be no member any more.
            let speaker = if said.is_multiple_of(2) { PEOPLE + group } else { prng.index(PEOPLE) };
            let frame = json!({"type": "send_message", "conversation_id": book.groups[group],
                "content": format!("said {said}"), "client_msg_id": said.to_string()});
            swarm.say(speaker, &frame);
        }
        if now >= reconnect {
            reconnect += RECONNECT;
            come_back(swarm, book, prng.index(PEOPLE), prng.chance(2, 3));
        }
        if now >= page {
            page += PAGE;
            let group = prng.index(book.groups.len());
            let from_seq = 1 + prng.below(head_seen(book, group));
            swarm.say(prng.index(PEOPLE), &sync(&book.groups[group], from_seq));
        }
        swarm.turn(Duration::from_millis(2), &mut |number, heard, say| book.hear(number, &heard, say))?;
    }
    Ok(())
}

/// The last event that the owner saw, at least 1.
fn head_seen(book: &Book, group: usize) -> u64 {
    book.sights[PEOPLE + group][group].socket.last().copied().unwrap_or(1)
}

/// Ends a connection and opens the next; with cursors it says what it holds, without it leaves that to the server.
fn come_back(swarm: &mut Swarm, book: &mut Book, number: usize, with_cursors: bool) {
    if swarm.is_live(number) {
        swarm.cut(number);
    }
    book.reconnects += 1;
    let mut cursors = serde_json::Map::new();
    for (group, sight) in book.sights[number].iter_mut().enumerate() {
        let held = sight.last;
        sight.forget();
        if let Some(last) = held.filter(|_| with_cursors) {
            cursors.insert(book.groups[group].clone(), json!(last));
            sight.last = Some(last);
        }
    }
    swarm.reopen(number, Value::Object(cursors));
}

/// Everybody comes back, and gets what is theirs (G7).
fn settle(swarm: &mut Swarm, book: &mut Book, people: &[u64], heads: &[u64]) -> Result<(), String> {
    let mut late = None;
    let done = until("everybody holds what is theirs", PATIENCE, || {
        for number in 0..PEOPLE {
            if !swarm.is_live(number) {
                // Does nothing for those who are on their way.
                swarm.reopen(number, json!({}));
            }
        }
        swarm.turn(Duration::from_millis(20), &mut |number, heard, say| book.hear(number, &heard, say))?;
        let owners = heads.iter().enumerate().find_map(|(group, head_seq)| {
            let seen = &book.sights[PEOPLE + group][group].socket;
            (1..=*head_seq).find(|seq| !seen.contains(seq)).map(|seq| (PEOPLE + group, group, seq))
        });
        late = owners.or_else(|| {
            people.iter().enumerate().find_map(|(number, user)| {
                let missing = |group: usize| book.missing(number, group, *user, heads[group]);
                (0..heads.len()).find_map(|group| missing(group).map(|seq| (number, group, seq)))
            })
        });
        Ok(late.is_none().then_some(()))
    });
    done.map_err(|words| format!("{words}; missing (client, group, seq): {late:?}; {:?}", book.wrong))
}
