//! A router driven by hand: its shard, a model of the store that answers when it is told to, and ears on every lane.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use carillon_node::metrics::Meter;
use carillon_protocol::frame::{self, Command, Frame, LinkFrame};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::meters::Metric;
use carillon_router::outbox::{LaneId, Output, Ticket};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_store::error::ReadError;
use carillon_store::verb::{
    Answer, Appended, Entry, Incarnation, Op, Outcome, Page, Query, Receipted, Standing,
};
use rkyv::util::AlignedVec;

pub(crate) const ALICE: UserId = UserId(1);
pub(crate) const BOB: UserId = UserId(2);
pub(crate) const CAROL: UserId = UserId(3);
pub(crate) const ROOM: ConversationId = ConversationId(100);

/// A frame that came down a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Open(frame::Open),
    Registered(frame::Registered),
    Replaced(frame::Replaced),
    Peeked(frame::Peeked),
    Accepted(frame::Accepted),
    Refused(frame::Refused),
    NotOwner(frame::NotOwner),
    Deliver(frame::Deliver),
    Page(frame::Page),
    Watermark(frame::Watermark),
    Found(frame::Found),
}

fn owned<T>(archived: &T::Archived) -> T
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    rkyv::deserialize::<T, rkyv::rancor::Error>(archived).unwrap()
}

pub(crate) fn heard(bytes: &AlignedVec) -> Heard {
    match frame::read(bytes).unwrap() {
        Frame::Open(x) => Heard::Open(owned(x)),
        Frame::Registered(x) => Heard::Registered(owned(x)),
        Frame::Replaced(x) => Heard::Replaced(owned(x)),
        Frame::Peeked(x) => Heard::Peeked(owned(x)),
        Frame::Accepted(x) => Heard::Accepted(owned(x)),
        Frame::Refused(x) => Heard::Refused(owned(x)),
        Frame::NotOwner(x) => Heard::NotOwner(owned(x)),
        Frame::Deliver(x) => Heard::Deliver(owned(x)),
        Frame::Page(x) => Heard::Page(owned(x)),
        Frame::Watermark(x) => Heard::Watermark(owned(x)),
        Frame::Found(x) => Heard::Found(owned(x)),
        other => panic!("a router does not say {other:?}"),
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) events: Vec<(Bytes, UserId)>,
    pub(crate) members: Vec<(UserId, Seq)>,
    pub(crate) version: u64,
    pub(crate) marker: Option<Seq>,
    pub(crate) marks: BTreeMap<UserId, (Seq, Seq)>,
    pub(crate) ids: BTreeMap<(UserId, String), Seq>,
}

/// Just enough of a store: dense logs, idempotency, members, markers, watermarks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) users: Vec<UserId>,
    pub(crate) conversations: BTreeMap<ConversationId, Conversation>,
}

impl Model {
    pub(crate) fn with_room(members: &[UserId]) -> Model {
        let mut model = Model { users: members.to_vec(), ..Model::default() };
        let members = members.iter().map(|user| (*user, 1)).collect();
        model.conversations.insert(ROOM, Conversation { members, version: 1, ..Conversation::default() });
        model
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Send(send) => {
                let Some(log) = self.conversations.get_mut(&send.conversation) else { return forbidden() };
                if !log.members.iter().any(|(user, _)| *user == send.sender) {
                    return forbidden();
                }
                if send.content == "poison" {
                    return Outcome::Refused(Refusal::new(Code::Internal, "poison"));
                }
                let key = (send.sender, send.client_msg_id.clone());
                if let Some(seq) = log.ids.get(&key) {
                    return appended(send.conversation, *seq, true, Bytes::new(), log.version);
                }
                let record = Bytes::from(send.content.clone().into_bytes());
                let seq = log.append(record.clone(), send.sender);
                log.ids.insert(key, seq);
                appended(send.conversation, seq, false, record, log.version)
            }
            Op::Create(create) => {
                let mut members: Vec<(UserId, Seq)> = create.members.iter().map(|user| (*user, 1)).collect();
                members.push((create.creator, 1));
                members.sort_unstable();
                let log = self.conversations.entry(create.conversation).or_default();
                (log.members, log.version) = (members, 1);
                let record = Bytes::from_static(b"created");
                let seq = log.append(record.clone(), create.creator);
                appended(create.conversation, seq, false, record, 1)
            }
            Op::Provision { user, .. } | Op::CreateUser { user, .. } => {
                let existed = self.users.contains(user);
                self.users.push(*user);
                Outcome::User { user: *user, existed }
            }
            Op::Receipt(receipt) => {
                let Some(log) = self.conversations.get_mut(&receipt.conversation) else { return forbidden() };
                if receipt.delivered_seq.max(receipt.read_seq) > log.head() {
                    return Outcome::Refused(Refusal::field("seq", "beyond the head"));
                }
                let (delivered, read) = log.marks.get(&receipt.user).copied().unwrap_or_default();
                let delivered_after = delivered.max(receipt.delivered_seq).max(receipt.read_seq);
                let read_after = read.max(receipt.read_seq);
                log.marks.insert(receipt.user, (delivered_after, read_after));
                Outcome::Receipted(Receipted {
                    user: receipt.user,
                    conversation: receipt.conversation,
                    delivered: (delivered, delivered_after),
                    read: (read, read_after),
                    small: true,
                })
            }
            Op::FannedOut { conversation, seq } => {
                if let Some(log) = self.conversations.get_mut(conversation) {
                    log.marker = (log.head() > *seq).then_some(seq + 1);
                }
                Outcome::FannedOut
            }
        }
    }

    pub(crate) fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Session { user, .. } => Answer::Session {
                known: self.users.contains(user),
                conversations: self.of_user(*user).map(|(conversation, _)| (conversation, 0)).collect(),
            },
            Query::Peek { user, conversations } => Answer::Standings(
                self.of_user(*user)
                    .filter(|(conversation, _)| conversations.contains(conversation))
                    .map(|(conversation, log)| Standing { conversation, first_seq: 1, head_seq: log.head() })
                    .collect(),
            ),
            Query::Page(page) => {
                let log = &self.conversations[&page.conversation];
                let standing =
                    Standing { conversation: page.conversation, first_seq: 1, head_seq: log.head() };
                let entries = log.entries(page.from_seq, page.limit);
                Answer::Page(Page { standing, entries, has_more: false, marks: Vec::new() })
            }
            Query::Events { conversation, from_seq, limit } => Answer::Events(
                self.conversations.get(conversation).map_or(Vec::new(), |log| log.entries(*from_seq, *limit)),
            ),
            Query::Members { conversation } => {
                let log = &self.conversations[conversation];
                Answer::Members { version: log.version, members: log.members.clone() }
            }
            Query::Senders { conversation, after_seq, up_to_seq, except } => {
                let log = &self.conversations[conversation];
                let mut highest = BTreeMap::new();
                for (seq, (_, sender)) in (1..).zip(&log.events) {
                    if seq > *after_seq && seq <= *up_to_seq && sender != except {
                        highest.insert(*sender, seq);
                    }
                }
                Answer::Senders(highest.into_iter().map(|(user, seq)| (user, seq, MessageId(seq))).collect())
            }
            Query::Markers => {
                let markers = self.conversations.iter().filter_map(|(id, log)| Some((*id, log.marker?)));
                Answer::Markers(markers.collect())
            }
            _ => Answer::Refused(Refusal::new(Code::NotFound, "not there")),
        }
    }

    fn of_user(&self, user: UserId) -> impl Iterator<Item = (ConversationId, &Conversation)> {
        let is_member = move |log: &Conversation| log.members.iter().any(|(member, _)| *member == user);
        self.conversations.iter().filter(move |(_, log)| is_member(log)).map(|(id, log)| (*id, log))
    }
}

impl Conversation {
    pub(crate) fn head(&self) -> Seq {
        self.events.len() as u64
    }

    fn append(&mut self, record: Bytes, sender: UserId) -> Seq {
        self.events.push((record, sender));
        let head = self.head();
        self.marker.get_or_insert(head);
        head
    }

    fn entries(&self, from_seq: Seq, limit: u32) -> Vec<Entry> {
        let all = (1..).zip(&self.events).filter(|(seq, _)| *seq >= from_seq);
        all.take(limit as usize).map(|(seq, (record, _))| Entry { seq, record: record.clone() }).collect()
    }
}

fn appended(
    conversation: ConversationId,
    seq: Seq,
    duplicate: bool,
    record: Bytes,
    members_version: u64,
) -> Outcome {
    Outcome::Appended(Appended { conversation, seq, id: MessageId(seq), duplicate, record, members_version })
}

fn forbidden() -> Outcome {
    Outcome::Refused(Refusal::new(Code::Forbidden, "not allowed, or not there"))
}

/// A router in hand.
pub(crate) struct Hand {
    pub(crate) shard: Shard,
    pub(crate) now: Time,
    pub(crate) store: Model,
    pub(crate) commits: VecDeque<(u16, Vec<Op>)>,
    pub(crate) queries: VecDeque<(Ticket, Query)>,
    pub(crate) frames: BTreeMap<LaneId, Vec<Heard>>,
    pub(crate) closed: Vec<LaneId>,
    pub(crate) fatal: Option<String>,
    pub(crate) drained: bool,
    pub(crate) commits_count: usize,
    pub(crate) queries_count: usize,
    next_request: u64,
}

impl Hand {
    /// A router whose markers are read already.
    pub(crate) fn new(store: Model) -> Hand {
        let mut hand = Hand::cold(store);
        hand.turn();
        hand.answer_all();
        hand
    }

    /// A router that has not begun.
    pub(crate) fn cold(store: Model) -> Hand {
        let settings = ShardSettings { commit_lanes_count: 1, turn_users_max: 64 };
        Hand {
            shard: Shard::new(settings, 7, Incarnation(3), Meter::detached()),
            now: Time(1),
            store,
            commits: VecDeque::new(),
            queries: VecDeque::new(),
            frames: BTreeMap::new(),
            closed: Vec::new(),
            fatal: None,
            drained: false,
            commits_count: 0,
            queries_count: 0,
            next_request: 1_000,
        }
    }

    pub(crate) fn lane(&mut self, number: u32) -> LaneId {
        self.lane_of(number, u64::from(number))
    }

    pub(crate) fn lane_of(&mut self, number: u32, epoch: u64) -> LaneId {
        let lane = LaneId(number);
        self.input(Input::LaneUp { lane });
        self.say(lane, &frame::Open { incarnation: epoch, shard: 0 });
        lane
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Frame { lane, frame } => self.frames.entry(lane).or_default().push(heard(&frame)),
                Output::CloseLane { lane } => self.closed.push(lane),
                Output::Commit { commit_lane, ops } => {
                    self.commits_count += 1;
                    self.commits.push_back((commit_lane, ops));
                    assert!(self.commits.len() <= 1, "one commit in flight a lane");
                }
                Output::Query { ticket, query } => {
                    self.queries_count += 1;
                    self.queries.push_back((ticket, query));
                }
                Output::Fatal(sentence) => self.fatal = Some(sentence),
                Output::Drained => self.drained = true,
            }
        }
    }

    pub(crate) fn say<F: LinkFrame>(&mut self, lane: LaneId, frame: &F) {
        let frame = frame.to_frame();
        self.input(Input::LaneFrame { lane, frame: &frame });
    }

    pub(crate) fn turn(&mut self) {
        self.input(Input::Tick);
    }

    pub(crate) fn pass_ms(&mut self, millis: u64) {
        self.now = self.now.after_ms(millis);
        self.turn();
    }

    /// The commit in flight succeeds.
    pub(crate) fn commit(&mut self) {
        let (commit_lane, ops) = self.commits.pop_front().expect("a commit in flight");
        let results = ops.iter().map(|op| Ok(self.store.apply(op))).collect();
        self.input(Input::Committed { commit_lane, at: WallMs(9), results });
        self.turn();
    }

    /// The commit in flight fails.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        let (commit_lane, ops) = self.commits.pop_front().expect("a commit in flight");
        let results = ops.iter().map(|_| Err(failure.clone())).collect();
        self.input(Input::Committed { commit_lane, at: WallMs(9), results });
        self.turn();
    }

    pub(crate) fn answer(&mut self) {
        let (ticket, query) = self.queries.pop_front().expect("an open question");
        let answer = self.store.answer(&query);
        self.answer_with(ticket, Ok(answer));
    }

    pub(crate) fn answer_with(&mut self, ticket: Ticket, answer: Result<Answer, ReadError>) {
        self.input(Input::Answered { ticket, answer });
        self.turn();
    }

    pub(crate) fn answer_all(&mut self) {
        while !self.queries.is_empty() {
            self.answer();
        }
    }

    /// Everything that can happen without time passing happens.
    pub(crate) fn settle(&mut self) {
        loop {
            self.turn();
            if !self.commits.is_empty() {
                self.commit();
            } else if !self.queries.is_empty() {
                self.answer();
            } else if self.shard.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
    }

    pub(crate) fn register(&mut self, lane: LaneId, session: u64, user: UserId) {
        self.register_device(lane, session, user, "default", false);
    }

    pub(crate) fn register_device(
        &mut self,
        lane: LaneId,
        session: u64,
        user: UserId,
        device: &str,
        again: bool,
    ) {
        let (device, name) = (device.to_owned(), "name".to_owned());
        let request = self.request();
        self.say(
            lane,
            &frame::Register { session, request, user, device, name, auto_provision: true, again },
        );
    }

    pub(crate) fn send(&mut self, lane: LaneId, session: u64, user: UserId, content: &str) -> u64 {
        let request = self.request();
        let client_msg_id = format!("{request}");
        self.send_as(lane, session, request, user, &client_msg_id, content);
        request
    }

    pub(crate) fn send_as(
        &mut self,
        lane: LaneId,
        session: u64,
        request: u64,
        user: UserId,
        id: &str,
        content: &str,
    ) {
        let command = Command::Send {
            conversation: ROOM,
            message_type: 0,
            encoding: 0,
            content: content.to_owned(),
            media_url: None,
            reply_to: None,
        };
        self.say(lane, &frame::Submit { session, request, user, client_msg_id: id.to_owned(), command });
    }

    pub(crate) fn receipt(&mut self, lane: LaneId, user: UserId, delivered_seq: Seq, read_seq: Seq) -> u64 {
        let request = self.request();
        let device = "default".to_owned();
        let receipt = frame::Receipt {
            session: user.0,
            request,
            user,
            device,
            conversation: ROOM,
            delivered_seq,
            read_seq,
        };
        self.say(lane, &receipt);
        request
    }

    pub(crate) fn peek(&mut self, lane: LaneId, session: u64, user: UserId) -> u64 {
        let request = self.request();
        self.say(lane, &frame::Peek { session, request, user, conversations: vec![ROOM] });
        request
    }

    /// What came down a lane since it was asked last.
    pub(crate) fn hear(&mut self, lane: LaneId) -> Vec<Heard> {
        self.frames.get_mut(&lane).map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn delivers(&mut self, lane: LaneId) -> Vec<frame::Deliver> {
        let deliver = |heard| match heard {
            Heard::Deliver(deliver) => Some(deliver),
            _ => None,
        };
        self.hear(lane).into_iter().filter_map(deliver).collect()
    }

    /// What a gauge shows.
    pub(crate) fn gauge(&self, metric: Metric) -> i64 {
        self.shard.gauge();
        self.shard.meter().value(metric)
    }

    pub(crate) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }
}
