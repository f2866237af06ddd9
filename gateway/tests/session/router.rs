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

/// One membership: the events by which it began and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Membership {
    from: Seq,
    to: Option<Seq>,
}

/// What a member may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) first: Seq,
    pub(crate) joined: Seq,
    /// The last one; none while they are a member.
    pub(crate) left: Option<Seq>,
}

#[derive(Debug)]
pub(crate) struct Log {
    history: History,
    /// Each user's memberships, the present one last.
    memberships: BTreeMap<u64, Vec<Membership>>,
    pub(crate) events: Vec<Stored>,
    /// Outcomes processed up to here: what fan-out knows.
    known: Seq,
    /// `Deliver` frames are on the lane up to here.
    sent: Seq,
    /// Whether fan-out knows of the last membership only.
    forgets: bool,
}

impl Log {
    pub(crate) fn head(&self) -> Seq {
        self.events.len() as Seq
    }

    pub(crate) fn is_member(&self, user: u64) -> bool {
        self.sight(user).is_some_and(|sight| sight.left.is_none())
    }

    /// `None`: they never were a member.
    pub(crate) fn sight(&self, user: u64) -> Option<Sight> {
        let Membership { from, to } = *self.memberships.get(&user)?.last()?;
        let first = if self.history == History::All { 1 } else { from };
        Some(Sight { first, joined: from, left: to })
    }

    /// Whether an event was ever for this user.
    pub(crate) fn was_for(&self, user: u64, seq: Seq) -> bool {
        let mut memberships = self.memberships.get(&user).into_iter().flatten();
        memberships.any(|membership| {
            (membership.from <= seq || self.history == History::All)
                && membership.to.is_none_or(|to| seq <= to)
        })
    }

    /// Whether a membership of this user shows the log from here on.
    pub(crate) fn begins(&self, user: u64, seq: Seq) -> bool {
        let mut memberships = self.memberships.get(&user).into_iter().flatten();
        match self.history {
            History::All => seq == 1,
            History::FromJoin => memberships.any(|membership| membership.from == seq),
        }
    }

    /// Whether an event is pushed to this user.
    fn hears(&self, user: u64, seq: Seq) -> bool {
        let memberships = self.memberships.get(&user).map_or(&[][..], Vec::as_slice);
        let known = if self.forgets { memberships.len().saturating_sub(1) } else { 0 };
        memberships[known..].iter().any(|one| one.from <= seq && one.to.is_none_or(|to| seq <= to))
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
    Peeked(Vec<(ConversationId, Sight, Seq)>),
    Page { first: Seq, head: Seq, entries: Vec<Entry>, has_more: bool },
    Forbidden,
}

#[derive(Debug)]
struct Op {
    origin: Origin,
    user: u64,
    client_msg_id: String,
    conversation: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Send(String),
    Add(BTreeSet<u64>),
    Remove(u64),
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
    pub(crate) fn create(
        &mut self,
        conversation: u64,
        history: History,
        forgets: bool,
        members: impl IntoIterator<Item = u64>,
    ) {
        let members: BTreeSet<u64> = members.into_iter().collect();
        let creator = *members.first().unwrap();
        let body = Body::Created {
            conversation_type: ConversationType::Group,
            group_name: Some("g"),
            history,
            members: members.iter().copied().map(UserId).collect(),
        };
        let memberships =
            members.into_iter().map(|member| (member, vec![Membership { from: 1, to: None }])).collect();
        let events = vec![self.event(creator, body)];
        self.logs.insert(conversation, Log { history, memberships, events, known: 1, sent: 0, forgets });
    }

    /// Somebody on REST adds these users.
    pub(crate) fn add(&mut self, conversation: u64, users: BTreeSet<u64>) {
        self.change(conversation, What::Add(users));
    }

    /// Somebody on REST removes this one.
    pub(crate) fn remove(&mut self, conversation: u64, user: u64) {
        self.change(conversation, What::Remove(user));
    }

    fn change(&mut self, conversation: u64, what: What) {
        let origin = Origin { life: self.life, session: 0, request: 0 };
        self.ops.push_back(Op { origin, user: 0, client_msg_id: String::new(), conversation, what });
    }

    fn event(&mut self, sender: u64, body: Body<'_>) -> Stored {
        self.next_id += 1 << 22;
        let id = MessageId(self.next_id);
        let event = Event { id, sender: UserId(sender), client_msg_id: "".into(), body };
        let record = event.encode();
        Stored { sender, client_msg_id: String::new(), content: String::new(), record, origin: None }
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
            Up::Watch(_) | Up::Typing(_) => panic!("nobody watches or types here"),
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
                    what: What::Send(content),
                });
            }
            Up::Receipt(receipt) => {
                let key = (receipt.user.0, receipt.device.clone(), receipt.conversation.0);
                let log = self.logs.get(&receipt.conversation.0).unwrap();
                if !log.is_member(receipt.user.0) {
                    self.refuse(self.life, receipt.session, receipt.request, Code::Forbidden);
                    return;
                }
                let seq = receipt.delivered_seq.max(receipt.read_seq);
                assert!(seq <= log.head(), "G12: a receipt beyond the head");
                let cursor = self.cursors.entry(key).or_default();
                let old = std::mem::replace(cursor, seq.max(*cursor));
                let concerned: Vec<(u64, Seq)> = log
                    .memberships
                    .keys()
                    .filter(|member| **member != receipt.user.0 && log.is_member(**member))
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
                        unchanged: false,
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
                            count: 0,
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
                let user = register.user.0;
                let joined = self.logs.iter().filter_map(|(conversation, log)| {
                    let key = (user, register.device.clone(), *conversation);
                    let cursor = self.cursors.get(&key).copied().unwrap_or(0);
                    let is_listed = log.sight(user)?.left.is_none_or(|left| cursor < left);
                    let is_returning = log.memberships[&user].len() > 1;
                    let conversation = ConversationId(*conversation);
                    is_listed.then_some(Joined { conversation, cursor, is_returning })
                });
                Answer::Registered(joined.collect())
            }
            Up::Peek(peek) => {
                let sights = peek.conversations.iter().filter_map(|id| {
                    let log = &self.logs[&id.0];
                    Some((*id, log.sight(peek.user.0)?, log.head()))
                });
                Answer::Peeked(sights.collect())
            }
            Up::Read(read) => 'read: {
                let log = &self.logs[&read.conversation.0];
                let Some(Sight { first, left, .. }) = log.sight(read.user.0) else {
                    break 'read Answer::Forbidden;
                };
                let head = left.unwrap_or(log.head());
                let limit = read.limit.min(u32::try_from(prng.between(1, 6)).unwrap());
                let (from, to) = (read.from_seq.max(first), read.to_seq.min(head));
                let entries: Vec<Entry> = (from..=to)
                    .take(limit as usize)
                    .map(|seq| Entry { seq, record: log.events[seq as usize - 1].record.clone() })
                    .collect();
                let last = entries.last().map_or(from.saturating_sub(1), |entry| entry.seq);
                Answer::Page { first, head, entries, has_more: last < head }
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
                self.refuse(life, peek.session, peek.request, Code::Unavailable)
            }
            (Up::Read(read), Answer::Page { .. }) if is_refused => {
                self.refuse(life, read.session, read.request, Code::Unavailable)
            }
            (Up::Read(read), Answer::Forbidden) => {
                self.refuse(life, read.session, read.request, Code::Forbidden)
            }
            (Up::Peek(peek), Answer::Peeked(sights)) => {
                let mut standings = Vec::new();
                for (conversation, Sight { first: first_seq, joined: joined_seq, left }, head) in sights {
                    let fanned_out_seq = self.fanned_out(conversation, prng);
                    let log = &self.logs[&conversation.0];
                    // What is on the lane for a member is in the head, whatever the snapshot saw.
                    let head_seq = match left {
                        _ if log.is_member(peek.user.0) => left.unwrap_or(head).max(log.sent),
                        Some(left) => left,
                        None => log.sight(peek.user.0).and_then(|sight| sight.left).unwrap_or(head),
                    };
                    standings.push(Standing {
                        conversation,
                        first_seq,
                        joined_seq,
                        head_seq,
                        fanned_out_seq,
                    });
                }
                self.send(life, &Peeked { session: peek.session, request: peek.request, standings });
            }
            (Up::Read(read), Answer::Page { first, head, entries, has_more }) => {
                let page = Page {
                    session: read.session,
                    request: read.request,
                    conversation: read.conversation,
                    first_seq: first,
                    head_seq: head,
                    fanned_out_seq: self.fanned_out(read.conversation, prng),
                    entries,
                    has_more,
                    marks: Vec::new(),
                    counts: None,
                    reacted: Vec::new(),
                };
                self.send(life, &page);
            }
            (up, answer) => panic!("{up:?} answered by {answer:?}"),
        }
    }

    fn refuse(&mut self, life: u64, session: u64, request: u64, code: Code) {
        let refused = Refused {
            session,
            request,
            code: code as u16,
            retry_after_ms: 0,
            field: String::new(),
            message: "later".into(),
        };
        self.send(life, &refused);
    }

    fn commit(&mut self, prng: &mut Prng, faults: bool) {
        let Some(op) = self.ops.pop_front() else { return };
        let Op { origin, user, client_msg_id, conversation, what } = op;
        if faults && prng.chance(1, 20) {
            self.refuse(origin.life, origin.session, origin.request, Code::Unavailable);
            return;
        }
        let log = self.logs.get_mut(&conversation).unwrap();
        let seq = log.head() + 1;
        let stored = match what {
            What::Send(_) if !log.is_member(user) => {
                self.refuse(origin.life, origin.session, origin.request, Code::Forbidden);
                return;
            }
            What::Send(content) => {
                let is_same = |event: &Stored| event.sender == user && event.client_msg_id == client_msg_id;
                if let Some(place) = log.events.iter().position(is_same) {
                    let seq = place as Seq + 1;
                    self.outcomes.push_back(Outcome { origin, conversation, seq, duplicate: true });
                    return;
                }
                self.next_id += 1 << 22;
                let record = record(self.next_id, user, &client_msg_id, &content);
                Stored { sender: user, record, client_msg_id, content, origin: Some(origin) }
            }
            What::Add(users) => {
                let users: Vec<u64> = users.into_iter().filter(|user| !log.is_member(*user)).collect();
                if users.is_empty() {
                    return;
                }
                let mut returning = Vec::new();
                for user in &users {
                    let memberships = log.memberships.entry(*user).or_default();
                    if !memberships.is_empty() {
                        returning.push(UserId(*user));
                    }
                    memberships.push(Membership { from: seq, to: None });
                }
                let (users, history) = (users.into_iter().map(UserId).collect(), log.history);
                self.event(9, Body::MembersAdded { users, returning, history })
            }
            What::Remove(user) => {
                if !log.is_member(user) {
                    return;
                }
                if let Some(last) = log.memberships.get_mut(&user).and_then(|all| all.last_mut()) {
                    last.to = Some(seq);
                }
                self.event(9, Body::MemberRemoved { user: UserId(user), heir: None })
            }
        };
        let log = self.logs.get_mut(&conversation).unwrap();
        log.events.push(stored);
        self.outcomes.push_back(Outcome { origin, conversation, seq, duplicate: false });
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
            unchanged: false,
        };
        if accepted.session != 0 {
            self.send(outcome.origin.life, &accepted);
        }
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
            .filter(|(user, _)| log.hears(*user, seq))
            .map(|(user, _)| UserId(*user))
            .collect();
        if listeners.is_empty() {
            return;
        }
        // The origin is known as long as it is remembered, and means nothing to another lane.
        let origin = stored.origin.filter(|origin| origin.life == self.life && prng.chance(3, 4));
        let deliver = Deliver {
            replayed: false,
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
