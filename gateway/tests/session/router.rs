//! A tiny model router: a map of logs, and every step between a frame and its answer taken at a drawn moment, so that
//! snapshots are stale, outcomes late and pages old in all the ways that a real one's can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_node::prng::Prng;
use carillon_protocol::frame::{
    Accepted, Command, Concerned, Deliver, Entry, Joined, LinkFrame, Page, Peeked, Refused, Registered,
    Replaced, Standing, Watermark,
};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Body, ConversationType, Event, History};
use rkyv::util::AlignedVec;

use crate::rig::{Up, record};

/// One stored event.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) sender: u64,
    pub(crate) client_msg_id: String,
    pub(crate) content: String,
    record: Vec<u8>,
    origin: Option<Origin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    life: u64,
    session: u64,
    request: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) members: BTreeSet<u64>,
    pub(crate) events: Vec<Stored>,
    /// Outcomes processed up to here: what fan-out knows.
    known: Seq,
    /// `Deliver` frames are on the lane up to here.
    sent: Seq,
}

impl Log {
    pub(crate) fn head(&self) -> Seq {
        self.events.len() as Seq
    }
}

#[derive(Debug)]
struct Job {
    life: u64,
    up: Up,
    /// What the snapshot showed; `None` before it is taken.
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Answer {
    Registered(Vec<Joined>),
    Peeked(Vec<(ConversationId, Seq)>),
    Page { head: Seq, entries: Vec<Entry>, has_more: bool },
}

#[derive(Debug)]
struct Op {
    origin: Origin,
    user: u64,
    client_msg_id: String,
    conversation: u64,
    content: String,
}

#[derive(Debug)]
struct Outcome {
    origin: Origin,
    conversation: u64,
    seq: Seq,
    duplicate: bool,
}

#[derive(Default)]
pub(crate) struct Router {
    pub(crate) logs: BTreeMap<u64, Log>,
    pub(crate) cursors: BTreeMap<(u64, String, u64), Seq>,
    /// Frames from the gateway that were not looked at yet, and frames to it that did not arrive yet.
    pub(crate) inbound: VecDeque<Up>,
    pub(crate) outbound: VecDeque<AlignedVec>,
    pub(crate) is_up: bool,
    life: u64,
    sessions: BTreeMap<u64, (u64, String)>,
    jobs: Vec<Job>,
    ops: VecDeque<Op>,
    outcomes: VecDeque<Outcome>,
    next_id: u64,
}

impl Router {
    pub(crate) fn create(&mut self, conversation: u64, members: impl IntoIterator<Item = u64>) {
        let members: BTreeSet<u64> = members.into_iter().collect();
        self.next_id += 1 << 22;
        let creator = *members.first().unwrap();
        let event = Event {
            id: MessageId(self.next_id),
            sender: UserId(creator),
            client_msg_id: "".into(),
            body: Body::Created {
                conversation_type: ConversationType::Group,
                group_name: Some("g"),
                history: History::All,
                members: members.iter().copied().map(UserId).collect(),
            },
        };
        let stored = Stored {
            sender: creator,
            client_msg_id: String::new(),
            content: String::new(),
            record: event.encode(),
            origin: None,
        };
        let log = Log { members, events: vec![stored], known: 1, sent: 0 };
        self.logs.insert(conversation, log);
    }

    pub(crate) fn lane_up(&mut self) {
        self.is_up = true;
    }

    /// The lane is lost. After a crash the outcomes that were not processed are found in the log, what was not committed
    /// is gone, and fan-out begins again a little earlier.
    pub(crate) fn lane_down(&mut self, is_crash: bool, prng: &mut Prng) {
        self.is_up = false;
        self.life += 1;
        self.inbound.clear();
        self.outbound.clear();
        self.sessions.clear();
        self.jobs.clear();
        if is_crash {
            self.ops.clear();
            self.outcomes.clear();
            for log in self.logs.values_mut() {
                log.known = log.head();
                log.sent = log.sent.saturating_sub(prng.below(5));
            }
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.inbound.is_empty()
            && self.outbound.is_empty()
            && self.jobs.is_empty()
            && self.ops.is_empty()
            && self.outcomes.is_empty()
            && self.logs.values().all(|log| log.sent == log.head())
    }

    fn send(&mut self, life: u64, frame: &impl LinkFrame) {
        if self.is_up && life == self.life {
            self.outbound.push_back(frame.to_frame());
        }
    }

    /// Does one thing, if the one that was drawn is there to be done. `faults`: whether requests may be refused.
    pub(crate) fn step(&mut self, prng: &mut Prng, faults: bool) {
        match prng.below(6) {
            0 => self.look(),
            1 => self.take_snapshot(prng),
            2 => self.answer(prng, faults),
            3 => self.commit(prng, faults),
            4 => self.settle(),
            _ => self.fan_out(prng),
        }
    }

    fn look(&mut self) {
        let Some(up) = self.inbound.pop_front() else { return };
        match up {
            Up::Register(register) => {
                let (user, device) = (register.user.0, register.device.clone());
                let same = |(session, (other_user, other_device)): (&u64, &(u64, String))| {
                    (*session != register.session && *other_user == user && *other_device == device)
                        .then_some(*session)
                };
                if let Some(other) = self.sessions.iter().find_map(same) {
                    // The newest wins, but for one that only registers again.
                    let loser = if register.again { register.session } else { other };
                    self.send(self.life, &Replaced { session: loser });
                    if register.again {
                        return;
                    }
                    self.sessions.remove(&other);
                }
                self.sessions.insert(register.session, (user, device));
                self.jobs.push(Job { life: self.life, up: Up::Register(register), answer: None });
            }
            Up::Unregister(unregister) => {
                self.sessions.remove(&unregister.session);
            }
            Up::Submit(submit) => {
                let Command::Send { conversation, content, .. } = submit.command else {
                    panic!("not sent by a shard")
                };
                self.ops.push_back(Op {
                    origin: Origin { life: self.life, session: submit.session, request: submit.request },
                    user: submit.user.0,
                    client_msg_id: submit.client_msg_id,
                    conversation: conversation.0,
                    content,
                });
            }
            Up::Receipt(receipt) => {
                let key = (receipt.user.0, receipt.device.clone(), receipt.conversation.0);
                let log = self.logs.get(&receipt.conversation.0).unwrap();
                let seq = receipt.delivered_seq.max(receipt.read_seq);
                assert!(seq <= log.head(), "G12: a receipt beyond the head");
                let cursor = self.cursors.entry(key).or_default();
                let old = std::mem::replace(cursor, seq.max(*cursor));
                let concerned: Vec<(u64, Seq)> = log
                    .members
                    .iter()
                    .filter(|member| **member != receipt.user.0)
                    .filter_map(|member| {
                        let own = (old + 1..=seq).rev().find(|seq| {
                            log.events.get(*seq as usize - 1).is_some_and(|event| event.sender == *member)
                        });
                        own.map(|seq| (*member, seq))
                    })
                    .collect();
                if receipt.request != 0 {
                    let accepted = Accepted {
                        session: receipt.session,
                        request: receipt.request,
                        conversation: receipt.conversation,
                        seq,
                        id: 0,
                        duplicate: false,
                    };
                    self.send(self.life, &accepted);
                }
                if !concerned.is_empty() {
                    let senders = concerned
                        .iter()
                        .map(|(user, seq)| Concerned {
                            user: UserId(*user),
                            seq: *seq,
                            message: MessageId(*seq),
                        })
                        .collect();
                    let watermark = Watermark {
                        conversation: receipt.conversation,
                        reader: receipt.user,
                        read: receipt.read_seq > 0,
                        at_ms: 1,
                        named: true,
                        senders,
                    };
                    self.send(self.life, &watermark);
                }
            }
            up @ (Up::Peek(_) | Up::Read(_)) => self.jobs.push(Job { life: self.life, up, answer: None }),
        }
    }

    fn take_snapshot(&mut self, prng: &mut Prng) {
        let place = prng.index(self.jobs.len());
        let Some(job) = self.jobs.get_mut(place).filter(|job| job.answer.is_none()) else { return };
        job.answer = Some(match &job.up {
            Up::Register(register) => {
                let mine = self.logs.iter().filter(|(_, log)| log.members.contains(&register.user.0));
                let joined = mine.map(|(conversation, _)| {
                    let key = (register.user.0, register.device.clone(), *conversation);
                    let cursor = self.cursors.get(&key).copied().unwrap_or(0);
                    Joined { conversation: ConversationId(*conversation), cursor }
                });
                Answer::Registered(joined.collect())
            }
            Up::Peek(peek) => {
                let heads = peek.conversations.iter().map(|id| (*id, self.logs[&id.0].head()));
                Answer::Peeked(heads.collect())
            }
            Up::Read(read) => {
                let log = &self.logs[&read.conversation.0];
                let limit = read.limit.min(u32::try_from(prng.between(1, 6)).unwrap());
                let to = read.to_seq.min(log.head());
                let entries: Vec<Entry> = (read.from_seq..=to)
                    .take(limit as usize)
                    .map(|seq| Entry { seq, record: log.events[seq as usize - 1].record.clone() })
                    .collect();
                let last = entries.last().map_or(read.from_seq.saturating_sub(1), |entry| entry.seq);
                Answer::Page { head: log.head(), entries, has_more: last < log.head() }
            }
            other => panic!("no question: {other:?}"),
        });
    }

    /// `Deliver` frames up to this seq are on the lane; sometimes less is claimed.
    fn fanned_out(&self, conversation: ConversationId, prng: &mut Prng) -> Seq {
        let sent = self.logs[&conversation.0].sent;
        if prng.chance(1, 4) { sent.saturating_sub(prng.below(4)) } else { sent }
    }

    fn answer(&mut self, prng: &mut Prng, faults: bool) {
        let ready: Vec<usize> =
            (0..self.jobs.len()).filter(|place| self.jobs[*place].answer.is_some()).collect();
        let Some(place) = ready.get(prng.index(ready.len())) else { return };
        let Job { life, up, answer } = self.jobs.remove(*place);
        let is_refused = faults && prng.chance(1, 12);
        match (up, answer.unwrap()) {
            (Up::Register(register), Answer::Registered(mut joined)) => {
                let (session, request) = (register.session, register.request);
                let rest = joined.split_off(prng.index(joined.len() + 1));
                self.send(life, &Registered { session, request, conversations: joined, more: true });
                self.send(life, &Registered { session, request, conversations: rest, more: false });
            }
            (Up::Peek(peek), Answer::Peeked(_)) if is_refused => {
                self.refuse(life, peek.session, peek.request)
            }
            (Up::Read(read), Answer::Page { .. }) if is_refused => {
                self.refuse(life, read.session, read.request)
            }
            (Up::Peek(peek), Answer::Peeked(heads)) => {
                let mut standings = Vec::new();
                for (conversation, head_seq) in heads {
                    let fanned_out_seq = self.fanned_out(conversation, prng);
                    standings.push(Standing { conversation, first_seq: 1, head_seq, fanned_out_seq });
                }
                self.send(life, &Peeked { session: peek.session, request: peek.request, standings });
            }
            (Up::Read(read), Answer::Page { head, entries, has_more }) => {
                let page = Page {
                    session: read.session,
                    request: read.request,
                    conversation: read.conversation,
                    first_seq: 1,
                    head_seq: head,
                    fanned_out_seq: self.fanned_out(read.conversation, prng),
                    entries,
                    has_more,
                    marks: Vec::new(),
                };
                self.send(life, &page);
            }
            (up, answer) => panic!("{up:?} answered by {answer:?}"),
        }
    }

    fn refuse(&mut self, life: u64, session: u64, request: u64) {
        let refused = Refused {
            session,
            request,
            code: Code::Unavailable as u16,
            retry_after_ms: 0,
            field: String::new(),
            message: "later".into(),
        };
        self.send(life, &refused);
    }

    fn commit(&mut self, prng: &mut Prng, faults: bool) {
        let Some(op) = self.ops.pop_front() else { return };
        if faults && prng.chance(1, 20) {
            self.refuse(op.origin.life, op.origin.session, op.origin.request);
            return;
        }
        let log = self.logs.get_mut(&op.conversation).unwrap();
        let is_same = |event: &Stored| event.sender == op.user && event.client_msg_id == op.client_msg_id;
        let (seq, duplicate) = match log.events.iter().position(is_same) {
            Some(place) => (place as Seq + 1, true),
            None => {
                self.next_id += 1 << 22;
                log.events.push(Stored {
                    sender: op.user,
                    record: record(self.next_id, op.user, &op.client_msg_id, &op.content),
                    client_msg_id: op.client_msg_id,
                    content: op.content,
                    origin: Some(op.origin),
                });
                (log.head(), false)
            }
        };
        self.outcomes.push_back(Outcome { origin: op.origin, conversation: op.conversation, seq, duplicate });
    }

    fn settle(&mut self) {
        let Some(outcome) = self.outcomes.pop_front() else { return };
        let log = self.logs.get_mut(&outcome.conversation).unwrap();
        log.known = log.known.max(outcome.seq);
        let accepted = Accepted {
            session: outcome.origin.session,
            request: outcome.origin.request,
            conversation: ConversationId(outcome.conversation),
            seq: outcome.seq,
            id: outcome.seq << 22,
            duplicate: outcome.duplicate,
        };
        self.send(outcome.origin.life, &accepted);
    }

    fn fan_out(&mut self, prng: &mut Prng) {
        let due: Vec<u64> = self
            .logs
            .iter()
            .filter(|(_, log)| log.sent < log.known)
            .map(|(conversation, _)| *conversation)
            .collect();
        let Some(conversation) = due.get(prng.index(due.len())).copied() else { return };
        let log = self.logs.get_mut(&conversation).unwrap();
        log.sent += 1;
        let (seq, head_seq) = (log.sent, log.known);
        let stored = log.events[seq as usize - 1].clone();
        let listeners: BTreeSet<UserId> = self
            .sessions
            .values()
            .filter(|(user, _)| log.members.contains(user))
            .map(|(user, _)| UserId(*user))
            .collect();
        if listeners.is_empty() {
            return;
        }
        // The origin is known as long as it is remembered, and means nothing to another lane.
        let origin = stored.origin.filter(|origin| origin.life == self.life && prng.chance(3, 4));
        let deliver = Deliver {
            conversation: ConversationId(conversation),
            seq,
            head_seq,
            origin_session: origin.map_or(0, |origin| origin.session),
            origin_request: origin.map_or(0, |origin| origin.request),
            users: listeners.into_iter().collect(),
            record: stored.record,
        };
        self.send(self.life, &deliver);
    }
}
