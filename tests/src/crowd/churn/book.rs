//! Everything that anybody sees while members come and go, and the judgement at the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{CHANGES_PER_S_MIN, PEOPLE};
use crate::crowd::frame::Frame;
use crate::crowd::swarm::{Heard, Say};
use crate::crowd::{Campaign, Verdict};

/// Violations told in words.
const EXAMPLES_MAX: usize = 5;

/// From which seq to which somebody was a member; both are theirs to see.
type Interval = (u64, u64);

/// What one person saw of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// On the WebSocket: pushed, in pages, as acks.
    pub(super) socket: BTreeSet<u64>,
    /// The last event on this connection that came by itself; `None`: any may be next.
    pub(super) last: Option<u64>,
    /// Acked on this connection, ahead of that.
    own: BTreeSet<u64>,
}

impl Sight {
    /// An event that came by itself, live or as a page of the resume (G6): returns what is wrong with it.
    fn next(&mut self, seq: u64) -> Option<String> {
        while let Some(last) = self.last
            && self.own.remove(&(last + 1))
        {
            self.last = Some(last + 1);
        }
        let wrong = self.last.filter(|last| seq != last + 1).map(|last| format!("{seq} came after {last}"));
        self.last = Some(seq);
        self.socket.insert(seq);
        wrong
    }

    /// Live events go on above the head that a `reset` names. What was acked above it stays, because an ack may come
    /// before events with lower seqs, and so before the `reset` that a member who came again gets first.
    fn reset(&mut self, head_seq: u64) {
        self.last = Some(head_seq);
        self.own.retain(|seq| *seq > head_seq);
    }

    /// The connection is gone: the next one begins anywhere.
    pub(super) fn forget(&mut self) {
        self.last = None;
        self.own.clear();
    }
}

/// Everything that is seen, by people (owners behind them) and groups.
pub(super) struct Book {
    pub(super) groups: Vec<String>,
    pub(super) sights: Vec<Vec<Sight>>,
    /// By group, by seq: who came, who went.
    changes: Vec<BTreeMap<u64, (bool, Vec<u64>)>>,
    pub(super) wrong: Vec<String>,
    refused: u64,
    resets: u64,
    pub(super) reconnects: u64,
}

impl Book {
    /// Nobody has seen anything.
    pub(super) fn new(groups: Vec<String>) -> Book {
        let count = groups.len();
        Book {
            groups,
            sights: vec![vec![Sight::default(); count]; PEOPLE + count],
            changes: vec![BTreeMap::new(); count],
            wrong: Vec::new(),
            refused: 0,
            resets: 0,
            reconnects: 0,
        }
    }

    fn group(&self, id: &str) -> Option<usize> {
        self.groups.iter().position(|group| group == id)
    }

    /// One frame for one of them.
    ///
    /// # Errors
    /// What no server of ours says in such a run.
    pub(super) fn hear(&mut self, number: usize, heard: &Heard<'_>, say: &mut Say) -> Result<(), String> {
        let frame = match heard {
            Heard::Gone(code @ 4500..=4999) => return Err(format!("client {number} was closed with {code}")),
            Heard::Gone(_) => {
                self.sights[number].iter_mut().for_each(Sight::forget);
                return Ok(());
            }
            Heard::Frame(frame) => frame,
        };
        let conversation = frame.conversation_id.and_then(|id| self.group(id));
        // Pages that were asked for begin anywhere; what comes by itself does not.
        let is_asked = frame.kind == "sync_batch" && frame.id.is_some();
        for event in frame.events() {
            let Some((group, seq)) = event.position().and_then(|(id, seq)| Some((self.group(id)?, seq)))
            else {
                continue;
            };
            self.note_change(number, group, seq, event);
            let sight = &mut self.sights[number][group];
            if is_asked {
                sight.socket.insert(seq);
            } else if let Some(words) = sight.next(seq) {
                self.complain(format!("client {number}, group {group}: {words}"));
            }
        }
        match (frame.kind, conversation) {
            ("delivery_ack", Some(group)) if frame.status == Some("sent") => {
                let seq = frame.seq.unwrap_or(0);
                let sight = &mut self.sights[number][group];
                sight.socket.insert(seq);
                sight.own.insert(seq);
            }
            ("sync_batch", Some(group)) if is_asked && frame.has_more => {
                let from_seq = frame.to_seq.unwrap_or(0) + 1;
                say.frame(&sync(&self.groups[group], from_seq));
            }
            ("reset", Some(group)) => {
                self.resets += 1;
                let (first_seq, head_seq) = (frame.first_seq.unwrap_or(1), frame.head_seq.unwrap_or(0));
                self.sights[number][group].reset(head_seq);
                if first_seq <= head_seq {
                    say.frame(&sync(&self.groups[group], first_seq));
                }
            }
            ("behind", _) => {
                for listed in &frame.conversations {
                    if let Some(group) = self.group(listed.conversation_id) {
                        let sight = &mut self.sights[number][group];
                        let from_seq = sight.last.map_or(1, |last| last + 1);
                        sight.forget();
                        say.frame(&sync(listed.conversation_id, from_seq));
                    }
                }
            }
            ("error", _) => {
                let error = frame.error.as_ref();
                let code = error.and_then(|error| error["code"].as_str()).unwrap_or_default();
                // Who was just removed is refused; that is the point.
                if code != "forbidden" {
                    return Err(format!("client {number} got an error: {error:?}"));
                }
                self.refused += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// The owners' logs are the truth.
    fn note_change(&mut self, number: usize, group: usize, seq: u64, event: &Frame<'_>) {
        let came = match event.kind {
            "conversation_created" | "member_added" => true,
            "member_removed" => false,
            _ => return,
        };
        if number == PEOPLE + group {
            let who = event.user_ids.iter().filter_map(|id| id.parse().ok()).collect();
            self.changes[group].insert(seq, (came, who));
        }
    }

    fn complain(&mut self, words: String) {
        if self.wrong.len() < EXAMPLES_MAX {
            self.wrong.push(words);
        }
    }

    /// When a user was a member of a group.
    fn intervals(&self, group: usize, user: u64) -> Vec<Interval> {
        let mut intervals: Vec<Interval> = Vec::new();
        for (seq, (came, who)) in &self.changes[group] {
            if !who.contains(&user) {
                continue;
            }
            match (came, intervals.last_mut()) {
                (true, _) => intervals.push((*seq, u64::MAX)),
                (false, Some((_, to))) => *to = *seq,
                (false, None) => {}
            }
        }
        intervals
    }

    /// What of a person's group has not come, of those who are members at the end; `None`: nothing.
    pub(super) fn missing(&self, number: usize, group: usize, user: u64, head_seq: u64) -> Option<u64> {
        let (from, _) = *self.intervals(group, user).last().filter(|(_, to)| *to == u64::MAX)?;
        (from..=head_seq).find(|seq| !self.sights[number][group].socket.contains(seq))
    }

    /// Who saw what was not theirs, and what was skipped or repeated.
    ///
    /// # Errors
    /// The first of those.
    pub(super) fn judge(
        &self,
        campaign: &Campaign,
        people: &[u64],
        heads: &[u64],
        changes: u64,
        seconds: u64,
        histories: &[(usize, usize, u64)],
    ) -> Verdict {
        let (mut foreign, mut seen) = (Vec::new(), 0_u64);
        for group in 0..heads.len() {
            for (number, user) in people.iter().enumerate() {
                let intervals = self.intervals(group, *user);
                let socket = self.sights[number][group].socket.iter().map(|seq| ("socket", *seq));
                let of_both =
                    |(person, place, _): &&(usize, usize, u64)| (*person, *place) == (number, group);
                let history = histories.iter().filter(of_both).map(|(_, _, seq)| ("history", *seq));
                for (how, seq) in socket.chain(history) {
                    seen += 1;
                    if !is_within(&intervals, seq) {
                        foreign.push(format!(
                        "user {user} saw {seq} of group {group} by {how}, and was a member in {intervals:?}"
                    ));
                    }
                }
            }
        }
        let rate_per_s = changes as f64 / seconds as f64;
        let words = format!(
            "{changes} membership changes ({rate_per_s:.0}/s), {} events in {} groups, {} reconnections, {} resets, {} refusals; \
         {seen} events seen, {} of them foreign",
            heads.iter().sum::<u64>(),
            heads.len(),
            self.reconnects,
            self.resets,
            self.refused,
            foreign.len(),
        );
        let told =
            || foreign.iter().chain(&self.wrong).take(EXAMPLES_MAX).cloned().collect::<Vec<_>>().join("; ");
        if !foreign.is_empty() || !self.wrong.is_empty() {
            return Err(format!("{words}: {}", told()));
        }
        if rate_per_s < CHANGES_PER_S_MIN && !campaign.is_short {
            return Err(format!("{words}: the machine is too slow for this"));
        }
        Ok(words)
    }
}

/// Asks for a page.
pub(super) fn sync(group: &str, from_seq: u64) -> Value {
    json!({"type": "sync", "id": "asked", "conversation_id": group, "from_seq": from_seq, "limit": 200})
}

fn is_within(intervals: &[Interval], seq: u64) -> bool {
    intervals.iter().any(|(from, to)| (*from..=*to).contains(&seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::new(vec!["7".to_owned()])
    }

    fn hear(book: &mut Book, number: usize, text: &str) {
        book.hear(number, &Heard::Frame(&Frame::read(text).unwrap()), &mut Say::default()).unwrap();
    }

    fn event(kind: &str, seq: u64, user: u64) -> String {
        format!(r#"{{"type":"{kind}","conversation_id":"7","seq":{seq},"user_ids":["{user}"],"by":"1"}}"#)
    }

    #[test]
    fn intervals_are_from_the_coming_to_the_going() {
        let mut book = book();
        for (seq, kind) in [(1, "conversation_created"), (2, "member_removed"), (4, "member_added")] {
            hear(&mut book, PEOPLE, &event(kind, seq, 5));
        }
        let intervals = book.intervals(0, 5);
        assert_eq!(intervals, [(1, 2), (4, u64::MAX)]);
        assert!(is_within(&intervals, 2) && !is_within(&intervals, 3) && is_within(&intervals, 9));
        assert_eq!(book.intervals(0, 6), []);
        assert_eq!(book.missing(3, 0, 5, 4), Some(4));
        hear(&mut book, 3, &event("member_added", 4, 5));
        assert_eq!(book.missing(3, 0, 5, 4), None);
    }

    #[test]
    fn skips_and_repeats_are_noticed_and_own_acks_fill_their_place() {
        let mut book = book();
        let wrong = |book: &mut Book, text: &str| {
            let before = book.wrong.len();
            hear(book, 0, text);
            book.wrong.len() > before
        };
        assert!(!wrong(&mut book, &event("member_added", 5, 1)), "the first may be any");
        assert!(!wrong(
            &mut book,
            r#"{"type":"delivery_ack","status":"sent","conversation_id":"7","seq":6}"#
        ));
        assert!(!wrong(&mut book, &event("member_added", 7, 2)), "6 was the ack");
        assert!(wrong(&mut book, &event("member_added", 9, 2)), "8 is skipped");
        assert!(wrong(&mut book, &event("member_added", 9, 2)), "twice");
        let asked = format!(
            r#"{{"type":"sync_batch","id":"asked","conversation_id":"7","events":[{}],"to_seq":2,"has_more":false}}"#,
            event("member_added", 2, 2)
        );
        assert!(!wrong(&mut book, &asked), "what was asked for may be old");
        let reset = r#"{"type":"reset","conversation_id":"7","first_seq":20,"head_seq":19}"#;
        assert!(!wrong(&mut book, reset) && !wrong(&mut book, &event("member_added", 20, 1)));
        let ack = r#"{"type":"delivery_ack","status":"sent","conversation_id":"7","seq":32}"#;
        let reset = r#"{"type":"reset","conversation_id":"7","first_seq":31,"head_seq":30}"#;
        assert!(!wrong(&mut book, ack) && !wrong(&mut book, reset), "the ack was early");
        assert!(!wrong(&mut book, &event("member_added", 31, 1)));
        assert!(!wrong(&mut book, &event("member_added", 33, 2)), "32 was the ack");
    }

    #[test]
    fn what_is_not_theirs_is_found() {
        let campaign = Campaign { binary: String::new(), is_short: true, seed: 1, confirms: false };
        let mut book = book();
        for (seq, kind) in [(1, "conversation_created"), (2, "member_removed")] {
            hear(&mut book, PEOPLE, &event(kind, seq, 5));
        }
        hear(&mut book, 0, &event("member_removed", 2, 5));
        let verdict = |book: &Book, histories: &[(usize, usize, u64)]| {
            book.judge(&campaign, &[5], &[3], 2, 1, histories)
        };
        assert!(verdict(&book, &[(0, 0, 1)]).is_ok());
        assert!(verdict(&book, &[(0, 0, 3)]).unwrap_err().contains("user 5 saw 3 of group 0 by history"));
        hear(&mut book, 0, &event("conversation_updated", 3, 5));
        assert!(verdict(&book, &[]).unwrap_err().contains("by socket"));
    }
}
