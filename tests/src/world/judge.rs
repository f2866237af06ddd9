//! The end: the whole log, read from the store, against everything that anybody was told.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Body, Event};
use carillon_store::query::EVENTS_MAX;
use carillon_store::verb::{Answer, PageQuery, Query};

use super::World;
use super::book::{Sight, State};
use super::device::Device;
use super::members::{self, Roll};

/// An event of the log.
struct Logged {
    sight: Sight,
    client_msg_id: String,
}

type Log = Vec<Logged>;

impl World<'_> {
    /// Judges (G1 … G12).
    pub(super) fn judge(&mut self) {
        let mut logs = BTreeMap::new();
        let mut rolls = BTreeMap::new();
        for conversation in self.conversations() {
            let mut roll = Roll::new();
            let log = self.read_log(conversation, &mut roll);
            self.judge_sights(conversation, &log);
            self.judge_marks(conversation, log.len() as Seq, &roll);
            self.judge_devices(conversation, log.len() as Seq, &roll);
            logs.insert(conversation, log);
            rolls.insert(conversation, roll);
        }
        self.judge_rolls(&rolls);
        self.judge_sends(&logs);
        self.judge_convergence();
    }

    fn conversations(&self) -> Vec<ConversationId> {
        let mut all: Vec<ConversationId> = self.book.members.keys().copied().collect();
        for user in 1..=self.plan.users_count as u64 + 1 {
            let query =
                Query::Conversations { user: UserId(user), below: u64::MAX, as_of: u64::MAX, limit: 1_000 };
            if let Ok(Answer::Conversations { summaries, .. }) = self.ask_store(&query) {
                all.extend(summaries.iter().map(|summary| summary.conversation));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The log, dense from 1 (G3).
    fn read_log(&mut self, conversation: ConversationId, roll: &mut Roll) -> Log {
        let mut log: Log = Vec::new();
        loop {
            let from_seq = log.len() as Seq + 1;
            let query = Query::Events { conversation, from_seq, limit: EVENTS_MAX as u32 };
            let Ok(Answer::Events(entries)) = self.ask_store(&query) else {
                self.book.wrong("G1", format!("{conversation} cannot be read"));
                return log;
            };
            if entries.is_empty() {
                return log;
            }
            for entry in entries {
                let seq = log.len() as Seq + 1;
                if entry.seq != seq {
                    self.book.wrong("G3", format!("{conversation} has {} where {seq} should be", entry.seq));
                    return log;
                }
                let Some(event) = Event::decode(&entry.record) else {
                    self.book.wrong("G1", format!("{conversation}/{seq} cannot be read"));
                    return log;
                };
                roll.note(
                    (conversation, seq),
                    (event.sender, &event.client_msg_id),
                    &event.body,
                    &mut self.book,
                );
                let (message, content) = match &event.body {
                    Body::Message(message) => (event.id, message.content.to_owned()),
                    other => (MessageId(0), members::words(other)),
                };
                let sight = Sight { message, sender: event.sender, content };
                log.push(Logged { sight, client_msg_id: event.client_msg_id.to_string() });
            }
        }
    }

    /// What was shown stands where it was shown (G1, G4).
    fn judge_sights(&mut self, conversation: ConversationId, log: &Log) {
        let sights = self.book.sights.range((conversation, 0)..=(conversation, Seq::MAX));
        let mut wrong = Vec::new();
        for ((_, seq), sight) in sights {
            let logged = usize::try_from(*seq).ok().and_then(|seq| log.get(seq.checked_sub(1)?));
            if logged.map(|logged| &logged.sight) != Some(sight) {
                let stands = logged.map(|logged| &logged.sight);
                wrong
                    .push(format!("{conversation}/{seq} was shown as {sight:?}, and the log has {stands:?}"));
            }
        }
        for words in wrong {
            self.book.wrong("G1/G4", words);
        }
    }

    /// Watermarks are what was confirmed, and no more (G12).
    fn judge_marks(&mut self, conversation: ConversationId, head: Seq, roll: &Roll) {
        let members = roll.members();
        // Two readers, because nobody is told their own.
        for reader in members.iter().take(2) {
            let query = PageQuery {
                user: *reader,
                conversation,
                from_seq: 1,
                to_seq: 1,
                limit: 1,
                newest_first: false,
                messages_only: false,
            };
            let Ok(Answer::Page(page)) = self.ask_store(&Query::Page(query)) else { continue };
            for mark in page.marks {
                if !members.contains(&mark.user) {
                    let words = format!("{reader} is told how far {} got in {conversation}", mark.user);
                    self.book.wrong("G11", words);
                }
                let joined = roll.joined(mark.user);
                let is_moving = self.book.moving.contains_key(&conversation);
                let delivered =
                    self.book.delivered.get(&(mark.user, conversation)).copied().unwrap_or_default();
                let read = self.book.read.get(&(mark.user, conversation)).copied().unwrap_or_default();
                for (kind, stands, marks) in
                    [("delivered", mark.delivered_seq, delivered), ("read", mark.read_seq, read)]
                {
                    // Joining may count as having read; how far is the store's own to test.
                    let is_too_far = stands > marks.said.max(joined) && !(is_moving && kind == "read");
                    if stands < marks.confirmed || is_too_far || stands > head {
                        let words =
                            format!("{}'s {kind} of {conversation} is {stands}: {marks:?}", mark.user);
                        self.book.wrong("G12", words);
                    }
                }
            }
        }
    }

    /// Everybody has all of it that they may see (G7), also who is no member any more.
    fn judge_devices(&mut self, conversation: ConversationId, head: Seq, roll: &Roll) {
        for device in self.devices.iter().filter(|device| !device.is_gone()) {
            let Some((first, last)) = roll.visible(device.user(), head) else { continue };
            let missing = device.missing(conversation, first, last);
            if !missing.is_empty() {
                let words = format!("{} lacks {missing:?} of {conversation}, head {head}", device.label());
                self.book.wrong("G7", words);
            }
        }
    }

    /// Nobody was shown what is not theirs, or refused what is (G11).
    fn judge_rolls(&mut self, rolls: &BTreeMap<ConversationId, Roll>) {
        let mut wrong = Vec::new();
        for ((user, conversation, seq), at) in &self.book.shown {
            let may_see = rolls.get(conversation).is_some_and(|roll| roll.may_see(*user, *seq, *at));
            if !may_see {
                wrong.push(("G11", format!("{user} was shown {conversation}/{seq} at {at}")));
            }
        }
        for (user, conversation, first_seq) in &self.book.firsts {
            if !rolls.get(conversation).is_some_and(|roll| roll.is_first(*user, *first_seq)) {
                wrong.push(("G11", format!("{user} sees {conversation} from {first_seq} on")));
            }
        }
        for claim in &self.book.claims {
            if rolls.get(&claim.conversation).is_some_and(|roll| roll.refutes(claim)) {
                wrong.push((claim.promise, format!("{} ({}..={})", claim.words, claim.from, claim.to)));
            }
        }
        for (promise, words) in wrong {
            self.book.wrong(promise, words);
        }
        for wish in self.book.wishes.values().filter(|wish| !wish.is_decided()) {
            self.book.violations.push(format!("G7: nobody decided {wish:?}"));
        }
    }

    fn judge_sends(&mut self, logs: &BTreeMap<ConversationId, Log>) {
        let mut places: BTreeMap<&str, Vec<(ConversationId, Seq)>> = BTreeMap::new();
        let mut wrong = Vec::new();
        let sends: BTreeMap<&str, usize> = self
            .book
            .sends
            .iter()
            .enumerate()
            .map(|(number, send)| (send.content.as_str(), number))
            .collect();
        for (conversation, log) in logs {
            for (seq, logged) in (1..).zip(log).filter(|(_, logged)| logged.sight.message != MessageId(0)) {
                let Some(send) =
                    sends.get(logged.sight.content.as_str()).map(|number| &self.book.sends[*number])
                else {
                    wrong.push(("phantom", format!("{conversation}/{seq} was never sent")));
                    continue;
                };
                let is_named_so =
                    send.client_msg_id.as_ref().is_none_or(|name| *name == logged.client_msg_id);
                if (send.user, send.conversation) != (logged.sight.sender, *conversation) || !is_named_so {
                    wrong.push(("phantom", format!("{conversation}/{seq} is not as it was sent: {send:?}")));
                }
                places.entry(&send.content).or_default().push((*conversation, seq));
            }
        }
        // Of each device and conversation, where its last message that nobody may overtake stands (G9).
        let mut last: BTreeMap<(usize, ConversationId), (usize, Seq)> = BTreeMap::new();
        for (number, send) in self.book.sends.iter().enumerate() {
            let at = places.get(send.content.as_str()).map_or(&[][..], Vec::as_slice);
            if at.len() > 1 {
                wrong.push(("G2", format!("send {number} stands at {at:?}")));
            }
            match send.state {
                State::Acked { seq, .. } if at != [(send.conversation, seq)] => {
                    wrong.push((
                        "G1",
                        format!(
                            "send {number} was acked at {seq} of {}, and stands at {at:?}",
                            send.conversation
                        ),
                    ));
                }
                State::Refused if !at.is_empty() => {
                    wrong.push(("G5", format!("send {number} was refused, and stands at {at:?}")));
                }
                State::Open if send.is_expected_refused && !at.is_empty() => {
                    wrong.push(("G5", format!("send {number} must not be taken, and stands at {at:?}")));
                }
                _ => {}
            }
            let Some((_, seq)) = at.first() else { continue };
            if send.floor.is_none_or(|floor| *seq <= floor) {
                wrong.push((
                    "G8",
                    format!("send {number} stands at {at:?}, and {:?} was told before", send.floor),
                ));
            }
            let key = (send.device, send.conversation);
            if let Some((before, before_seq)) = last.get(&key)
                && before_seq > seq
            {
                wrong.push((
                    "G9",
                    format!("send {number} stands at {seq}, before send {before} at {before_seq}"),
                ));
            }
            if !send.may_be_overtaken {
                last.insert(key, (number, *seq));
            }
        }
        for (promise, words) in wrong {
            self.book.wrong(promise, words);
        }
    }

    /// Everybody is there and nothing is left unanswered (G7).
    fn judge_convergence(&mut self) {
        let now = self.now;
        for router in &self.routers {
            if router.is_leaving() {
                self.book.wrong("G7", format!("{} was to leave, and is still there", router.address));
            }
            if router.is_wanted && !router.is_up() {
                self.book.wrong("G7", format!("{} is not there", router.address));
            }
        }
        for device in self.devices.iter().filter(|device| !device.is_gone()) {
            for (user, is_there) in device.watched() {
                let mut others = self.devices.iter().filter(|other| other.user() == *user);
                if others.any(Device::is_live) != *is_there {
                    let words = format!("{} was told last that {user} is there: {is_there}", device.label());
                    self.book.wrong("presence", words);
                }
            }
            if !device.is_live() {
                self.book.wrong("G7", format!("{} is not live at the end", device.label()));
            }
            for number in device.pending() {
                let send = &self.book.sends[*number];
                let words = format!(
                    "send {number} of {} has no answer, said {} times",
                    device.label(),
                    send.attempts
                );
                self.book.violations.push(format!("G7: {words} at {now}"));
            }
        }
    }
}
