//! The end: the whole log, read from the store, against everything that anybody was told.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Body, Event};
use carillon_store::query::EVENTS_MAX;
use carillon_store::verb::{Answer, PageQuery, Query};

use super::World;
use super::book::{Sight, State};
use super::device::Device;

/// An event of the log.
struct Logged {
    sight: Sight,
    client_msg_id: String,
    members: Option<Vec<UserId>>,
}

type Log = Vec<Logged>;

impl World<'_> {
    /// Judges (G1 … G12).
    pub(super) fn judge(&mut self) {
        let mut logs = BTreeMap::new();
        for conversation in self.conversations() {
            let log = self.read_log(conversation);
            logs.insert(conversation, log);
        }
        for (conversation, log) in &logs {
            self.judge_members(*conversation, log);
            self.judge_sights(*conversation, log);
            self.judge_marks(*conversation, log.len() as Seq);
            self.judge_devices(*conversation, log.len() as Seq);
        }
        self.judge_strangers();
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
    fn read_log(&mut self, conversation: ConversationId) -> Log {
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
                let (message, content, members) = match &event.body {
                    Body::Message(message) => (event.id, message.content.to_owned(), None),
                    Body::Created { members, .. } => {
                        (MessageId(0), "created".to_owned(), Some(members.clone()))
                    }
                    other => (MessageId(0), format!("{other:?}"), None),
                };
                let sight = Sight { message, sender: event.sender, content };
                log.push(Logged { sight, client_msg_id: event.client_msg_id.to_string(), members });
            }
        }
    }

    fn judge_members(&mut self, conversation: ConversationId, log: &Log) {
        let Some(members) = log.first().and_then(|first| first.members.clone()) else {
            self.book.wrong("G3", format!("{conversation} does not begin with its creation"));
            return;
        };
        self.book.members.insert(conversation, members);
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
    fn judge_marks(&mut self, conversation: ConversationId, head: Seq) {
        let members = self.book.members.get(&conversation).cloned().unwrap_or_default();
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
                let delivered =
                    self.book.delivered.get(&(mark.user, conversation)).copied().unwrap_or_default();
                let read = self.book.read.get(&(mark.user, conversation)).copied().unwrap_or_default();
                for (kind, stands, marks) in
                    [("delivered", mark.delivered_seq, delivered), ("read", mark.read_seq, read)]
                {
                    if stands < marks.confirmed || stands > marks.said || stands > head {
                        let words =
                            format!("{}'s {kind} of {conversation} is {stands}: {marks:?}", mark.user);
                        self.book.wrong("G12", words);
                    }
                }
            }
        }
    }

    /// Everybody who may see it has all of it (G7).
    fn judge_devices(&mut self, conversation: ConversationId, head: Seq) {
        let members = self.book.members.get(&conversation).cloned().unwrap_or_default();
        for device in self.devices.iter().filter(|device| !device.is_gone()) {
            if members.contains(&device.user()) {
                let missing = device.missing(conversation, head);
                if !missing.is_empty() {
                    let words =
                        format!("{} lacks {missing:?} of {conversation}, head {head}", device.label());
                    self.book.wrong("G7", words);
                }
            }
        }
    }

    /// Nobody was shown what is not theirs (G11).
    fn judge_strangers(&mut self) {
        for (user, conversation) in std::mem::take(&mut self.book.strangers) {
            if !self.book.members.get(&conversation).is_some_and(|members| members.contains(&user)) {
                self.book.wrong("G11", format!("{user} was shown something of {conversation}"));
            }
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
            for (seq, logged) in (1..).zip(log).filter(|(_, logged)| logged.members.is_none()) {
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
