//! A gateway is killed with everybody on it, in the middle of their talk: they go on at the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::frame::Frame;
use super::ground::{Ground, Latencies, until, users};
use super::swarm::{Heard, Say, Swarm};
use super::{Campaign, Verdict};
use crate::server::Deployment;

/// Members of a group. Everybody is in one.
const GROUP: usize = 10;
/// What each of them says, one after the other was acknowledged.
const EACH: usize = 12;
const FIRST: u64 = 1_001;
const SET_UP: Duration = Duration::from_secs(120);
/// From the kill until everybody is back, and until everybody has everything.
const PATIENCE: Duration = Duration::from_secs(60);
const SETTINGS: &[&str] = &["limits.send_per_s=0"];

/// What a client holds, checked as it comes (G6), and what of its own it knows to be said.
struct Member {
    user: u64,
    group: String,
    cursor: u64,
    /// Own events that their acks brought, above the cursor.
    early: BTreeSet<u64>,
    held: BTreeMap<u64, String>,
    /// The seq of each thing it said, in order.
    acked: Vec<u64>,
}

impl Member {
    fn name(&self, n: usize) -> String {
        format!("{}/{n}", self.user)
    }

    /// What it says next; after a kill the same once more, under the same id.
    fn next(&self) -> Value {
        let name = self.name(self.acked.len());
        json!({"type": "send_message", "conversation_id": self.group, "content": name, "client_msg_id": name})
    }

    fn speak(&self, say: &mut Say) {
        if self.acked.len() < EACH {
            say.frame(&self.next());
        }
    }

    fn hear(&mut self, frame: &Frame<'_>, say: &mut Say) -> Result<(), String> {
        let user = self.user;
        let wrong = |what: String| Err(format!("client of user {user}: {what}"));
        let is_page = frame.kind == "sync_batch";
        for event in frame.events() {
            let Some((_, seq)) = event.position().filter(|(conversation, _)| *conversation == self.group)
            else {
                continue;
            };
            if is_page && self.early.contains(&seq) {
                continue;
            }
            if seq != self.cursor + 1 {
                return wrong(format!("{seq} came after {}", self.cursor));
            }
            self.cursor = seq;
            let content = event.message.as_ref().map_or(event.kind, |message| message.content.as_ref());
            self.hold(seq, content.to_owned())?;
            self.advance();
        }
        match frame.kind {
            "delivery_ack" if frame.status == Some("sent") => self.acknowledged(frame, say),
            "caught_up" => {
                self.speak(say);
                Ok(())
            }
            "behind" => {
                say.frame(&self.sync());
                Ok(())
            }
            "sync_batch" if frame.has_more && frame.id.is_some() => {
                say.frame(&self.sync());
                Ok(())
            }
            "error" | "reset" => wrong(format!("got {frame:?}")),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Value {
        json!({"type": "sync", "id": "more", "conversation_id": self.group, "from_seq": self.cursor + 1,
            "limit": 200})
    }

    fn acknowledged(&mut self, frame: &Frame<'_>, say: &mut Say) -> Result<(), String> {
        let name = self.name(self.acked.len());
        let (Some(seq), Some(id)) = (frame.seq, frame.client_msg_id.as_deref()) else {
            return Err(format!("an ack that says of nothing: {frame:?}"));
        };
        if id != name {
            return Err(format!("{id} was acknowledged where {name} was said"));
        }
        self.acked.push(seq);
        // The event of what was committed before the kill comes as well.
        if !frame.duplicate {
            self.hold(seq, name)?;
            self.early.insert(seq);
            self.advance();
        }
        self.speak(say);
        Ok(())
    }

    fn hold(&mut self, seq: u64, content: String) -> Result<(), String> {
        match self.held.insert(seq, content.clone()) {
            Some(before) if before != content => {
                Err(format!("client of user {} held {before} at {seq}, and now {content}", self.user))
            }
            _ => Ok(()),
        }
    }

    fn advance(&mut self) {
        while self.early.remove(&(self.cursor + 1)) {
            self.cursor += 1;
        }
    }

    fn has_all(&self) -> bool {
        self.acked.len() == EACH && self.cursor == head_seq()
    }
}

/// The creation, and what everybody of a group says.
fn head_seq() -> u64 {
    1 + (GROUP * EACH) as u64
}

/// FU2, NF4, F1, F2, G6: a gateway is killed with a thousand clients in the middle of their traffic. All of them come back
/// at the other one by their cursors and say again what was not acknowledged: everybody holds everything, once and in
/// order, and everything that was acknowledged is where its ack said.
///
/// # Errors
/// What is missing, doubled or misplaced, or who did not come back.
pub fn failover(campaign: &Campaign) -> Verdict {
    let count = if campaign.is_short { 200 } else { 1_000 };
    let mut ground = Ground::start(campaign, Deployment::Tiers, SETTINGS)?;
    let second = ground.another_gateway(campaign, SETTINGS);
    let people = users(FIRST, count);
    let mut swarm = Swarm::new(ground.server.address(), campaign.seed)?;
    for user in &people {
        swarm.join(ground.token(*user, "phone"));
    }
    swarm.until_all_live(SET_UP, &mut |_, _, _| Ok(()))?;
    let mut members = Vec::new();
    for of_group in people.chunks(GROUP) {
        let group = ground.group(of_group[0], &of_group[1..])?;
        members.extend(of_group.iter().map(|user| Member {
            user: *user,
            group: group.clone(),
            cursor: 0,
            early: BTreeSet::new(),
            held: BTreeMap::new(),
            acked: Vec::new(),
        }));
    }

    // In the middle: half is said, and everybody has something on the way.
    for (number, member) in members.iter().enumerate() {
        swarm.say(number, &member.next());
    }
    until("half is acknowledged", SET_UP, || {
        swarm.turn(Duration::from_millis(5), &mut |number, heard, say| match heard {
            Heard::Gone(code) => {
                Err(format!("client {number} was closed with {code} before anything happened"))
            }
            Heard::Frame(frame) => members[number].hear(frame, say),
        })?;
        let acked: usize = members.iter().map(|member| member.acked.len()).sum();
        Ok((acked >= count * EACH / 2).then_some(()))
    })?;
    let talking = members.iter().filter(|member| member.acked.len() < EACH).count();
    let killed_at = Instant::now();
    ground.server.gateway.take().ok_or("no gateway")?.kill();
    swarm.move_to(second.address("gateway"));

    let (mut recovered, mut is_gone) = (Latencies::default(), vec![false; count]);
    let mut all_live_after = None;
    let held_after = until("everybody holds everything", PATIENCE, || {
        let mut gone = Vec::new();
        swarm.turn(Duration::from_millis(5), &mut |number, heard, say| match heard {
            Heard::Gone(_) => {
                gone.push(number);
                Ok(())
            }
            Heard::Frame(frame) => {
                if frame.kind == "caught_up" && std::mem::take(&mut is_gone[number]) {
                    recovered.record(u64::try_from(killed_at.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
                members[number].hear(frame, say)
            }
        })?;
        for number in gone {
            let member = &mut members[number];
            // What an ack brought above the cursor comes again, as everything above it does.
            member.early.clear();
            is_gone[number] = true;
            swarm.reopen(number, json!({ member.group.as_str(): member.cursor }));
        }
        if recovered.count() == count {
            all_live_after.get_or_insert_with(|| killed_at.elapsed());
        }
        Ok((all_live_after.is_some() && members.iter().all(Member::has_all)).then(|| killed_at.elapsed()))
    });
    let held_after = held_after.map_err(|late| {
        let has_all = members.iter().filter(|member| member.has_all()).count();
        format!("{late}: {} of {count} are back, {has_all} have everything", recovered.count())
    })?;
    judge(&members)?;
    Ok(format!(
        "{count} clients, {talking} of them in the middle of their talk when their gateway was killed: back at the other \
         after {}, all of them after {:.2} s, everything held once and in order after {:.2} s; {} messages, {} held",
        recovered.words(),
        all_live_after.unwrap_or_default().as_secs_f64(),
        held_after.as_secs_f64(),
        count * EACH,
        members.iter().map(|member| member.held.len()).sum::<usize>(),
    ))
}

/// What was acknowledged is what is held, by everybody of the group alike, each once and without a hole.
fn judge(members: &[Member]) -> Result<(), String> {
    for group in members.chunks(GROUP) {
        let truth = &group[0].held;
        let said: BTreeSet<String> =
            group.iter().flat_map(|member| (0..EACH).map(|n| member.name(n))).collect();
        let held: BTreeSet<String> = truth.values().skip(1).cloned().collect();
        if !truth.keys().copied().eq(1..=head_seq()) || held != said {
            return Err(format!("group {}: {:?} is held and {said:?} was said", group[0].group, truth));
        }
        for member in group {
            if member.held != *truth {
                return Err(format!("user {} holds another log than user {}", member.user, group[0].user));
            }
            for (n, seq) in member.acked.iter().enumerate() {
                if truth.get(seq) != Some(&member.name(n)) {
                    return Err(format!("{} was acknowledged at {seq}, and is not there", member.name(n)));
                }
            }
            if !member.acked.is_sorted() {
                return Err(format!("user {}'s own order is not kept: {:?}", member.user, member.acked));
            }
        }
    }
    Ok(())
}
