//! A router driven by hand: its shard, a model of the store that answers when it is told to, and ears on every lane.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use carillon_node::metrics::Meter;
use carillon_protocol::frame::{self, Command, Find, Frame, LinkFrame, Wanted};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Body, ConversationType, Event, History};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::meters::Metric;
use carillon_router::outbox::{Far, LaneId, Output, Ticket};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_router::{DEFAULTS, Settings};
use carillon_store::error::ReadError;
use carillon_store::verb::{
    Answer, Appended, Change, Counts, Device, Entry, Hearer, Incarnation, Joined, Op, Outcome, Page, Query,
    Receipted, Standing,
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
    Revoked(frame::Revoked),
    ReadSync(frame::ReadSync),
    Watched(frame::Watched),
    Presence(frame::Presence),
    Typed(frame::Typed),
}

fn owned<T>(archived: &T::Archived) -> T
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    rkyv::deserialize::<T, rkyv::rancor::Error>(archived).unwrap()
}

/// `None`: who owns what, which with one router is the same for ever.
pub(crate) fn heard(bytes: &AlignedVec) -> Option<Heard> {
    Some(match frame::read(bytes).unwrap() {
        Frame::Owners(_) => return None,
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
        Frame::Revoked(x) => Heard::Revoked(owned(x)),
        Frame::ReadSync(x) => Heard::ReadSync(owned(x)),
        Frame::Watched(x) => Heard::Watched(owned(x)),
        Frame::Presence(x) => Heard::Presence(owned(x)),
        Frame::Typed(x) => Heard::Typed(owned(x)),
        _ => panic!("a router does not say this"),
    })
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) events: Vec<(Bytes, UserId)>,
    /// From the event by which each joined, to the one by which they left, if they did.
    pub(crate) members: BTreeMap<UserId, (Seq, Option<Seq>)>,
    /// Those who were removed and added again.
    pub(crate) returned: Vec<UserId>,
    pub(crate) version: u64,
    pub(crate) marker: Option<Seq>,
    pub(crate) marks: BTreeMap<UserId, (Seq, Seq)>,
    pub(crate) ids: BTreeMap<(UserId, String), Seq>,
}

/// Just enough of a store: dense logs, idempotency, members, markers, watermarks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) users: Vec<UserId>,
    /// Devices that were seen or revoked: when last.
    pub(crate) devices: BTreeMap<(UserId, String), (Option<WallMs>, Option<WallMs>)>,
    pub(crate) conversations: BTreeMap<ConversationId, Conversation>,
    /// What revocations are dated with.
    pub(crate) wall_ms: u64,
    /// Every `Seen` that was written, in order.
    pub(crate) seen: Vec<Op>,
}

impl Model {
    pub(crate) fn with_room(members: &[UserId]) -> Model {
        let mut model = Model { users: members.to_vec(), ..Model::default() };
        // Members since before the first event: the room began in no event of its own.
        let members = members.iter().map(|user| (*user, (0, None))).collect();
        model.conversations.insert(ROOM, Conversation { members, version: 1, ..Conversation::default() });
        model
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Send(send) => {
                let Some(log) = self.conversations.get_mut(&send.conversation) else { return forbidden() };
                if !log.is_member(send.sender) {
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
                let mut members = create.members.clone();
                members.push(create.creator);
                members.sort_unstable();
                let log = self.conversations.entry(create.conversation).or_default();
                log.members = members.iter().map(|user| (*user, (1, None))).collect();
                log.version = 1;
                let (conversation_type, history) = (ConversationType::Group, History::FromJoin);
                let body = Body::Created { conversation_type, group_name: None, history, members };
                let (seq, record) = log.append_event(create.creator, body);
                appended(create.conversation, seq, false, record, 1)
            }
            Op::Change(op) => {
                let Some(log) = self.conversations.get_mut(&op.conversation) else { return forbidden() };
                if !log.is_member(op.by) {
                    return forbidden();
                }
                let key = (op.by, op.client_msg_id.clone());
                if let Some(seq) = log.ids.get(&key) {
                    return appended(op.conversation, *seq, true, Bytes::new(), log.version);
                }
                let Some((seq, record)) = log.change(op.by, &op.change) else {
                    return Outcome::Unchanged { conversation: op.conversation, seq: None, duplicate: false };
                };
                log.ids.insert(key, seq);
                appended(op.conversation, seq, false, record, log.version)
            }
            Op::Mute { .. } | Op::PushToken { .. } => Outcome::Stored,
            Op::Profile { user, .. } => Outcome::User { user: *user, existed: true },
            Op::Seen { user, device, at, .. } => {
                let seen = &mut self.devices.entry((*user, device.clone())).or_default().0;
                *seen = (*seen).max(Some(*at));
                self.seen.push(op.clone());
                Outcome::Stored
            }
            Op::Revoke { user, device } => {
                let at = WallMs(self.wall_ms);
                self.devices.entry((*user, device.clone())).or_default().1 = Some(at);
                Outcome::Revoked { user: *user, device: device.clone(), at }
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
                    unread_count: log.head() - read_after,
                    small: log.members.len() <= SMALL_GROUP_MEMBERS_MAX,
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
            Query::Session { user, device } => Answer::Session {
                known: self.users.contains(user),
                revoked_at: self
                    .devices
                    .get(&(*user, device.clone()))
                    .and_then(|(_, revoked_at)| *revoked_at),
                conversations: self
                    .of_user(*user)
                    .map(|(conversation, log)| Joined {
                        conversation,
                        cursor: 0,
                        is_returning: log.returned.contains(user),
                    })
                    .collect(),
            },
            Query::Peek { user, conversations } => Answer::Standings(
                self.of_user(*user)
                    .filter(|(conversation, _)| conversations.contains(conversation))
                    .map(|(conversation, log)| log.standing(conversation, *user))
                    .collect(),
            ),
            Query::Page(page) => {
                let Some(log) = self.conversations.get(&page.conversation) else { return refused() };
                let standing = log.standing(page.conversation, page.user);
                let mut entries = log.entries(page.from_seq.max(standing.first_seq), page.limit);
                entries.retain(|entry| entry.seq <= standing.head_seq);
                let (marks, reactions) = (Vec::new(), Vec::new());
                Answer::Page(Page { standing, entries, has_more: false, marks, counts: None, reactions })
            }
            Query::Devices { user } => Answer::Devices(
                self.devices
                    .iter()
                    .filter(|((owner, _), _)| owner == user)
                    .map(|((_, device), (last_seen_at, _))| Device {
                        device: device.clone(),
                        last_seen_at: *last_seen_at,
                        cursor_lag: 7,
                    })
                    .collect(),
            ),
            Query::Events { conversation, from_seq, limit } => Answer::Events(
                self.conversations.get(conversation).map_or(Vec::new(), |log| log.entries(*from_seq, *limit)),
            ),
            Query::Members { conversation } => {
                let Some(log) = self.conversations.get(conversation) else { return refused() };
                Answer::Members { version: log.version, members: log.hearers() }
            }
            Query::Fellows { user, conversation } => {
                let is_member = |hearer: &Hearer| {
                    hearer.user == *user && hearer.to_seq == carillon_protocol::ids::Seq::MAX
                };
                let log = self.conversations.get(conversation);
                let Some(log) = log.filter(|log| log.hearers().iter().any(is_member)) else {
                    return refused();
                };
                Answer::Members { version: log.version, members: log.hearers() }
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
            Query::Counts { conversation, senders } => {
                let log = &self.conversations[conversation];
                let count = |(sender, seq): &(UserId, Seq)| {
                    let others = || log.marks.iter().filter(|(user, _)| *user != sender);
                    let delivered_count =
                        others().filter(|(_, (delivered, _))| delivered >= seq).count() as u64;
                    let read_count = others().filter(|(_, (_, read))| read >= seq).count() as u64;
                    Counts { seq: *seq, delivered_count, read_count }
                };
                Answer::Counts(senders.iter().map(count).collect())
            }
            Query::Presence { asker, users, .. } => {
                let share = |user: &&UserId| {
                    let of_both = |log: &Conversation| log.is_member(*asker) && log.is_member(**user);
                    self.conversations.values().any(of_both)
                };
                let last_seen = |user: &UserId| {
                    let seen = |op: &Op| match op {
                        Op::Seen { user: seen, at, offline: true, .. } if seen == user => Some(*at),
                        _ => None,
                    };
                    self.seen.iter().filter_map(seen).max()
                };
                Answer::Presence(users.iter().filter(share).map(|user| (*user, last_seen(user))).collect())
            }
            Query::Markers => {
                let markers = self.conversations.iter().filter_map(|(id, log)| Some((*id, log.marker?)));
                Answer::Markers(markers.collect())
            }
            _ => refused(),
        }
    }

    fn of_user(&self, user: UserId) -> impl Iterator<Item = (ConversationId, &Conversation)> {
        let was_member = move |log: &Conversation| log.members.contains_key(&user);
        self.conversations.iter().filter(move |(_, log)| was_member(log)).map(|(id, log)| (*id, log))
    }
}

impl Conversation {
    pub(crate) fn head(&self) -> Seq {
        self.events.len() as u64
    }

    pub(crate) fn is_member(&self, user: UserId) -> bool {
        self.members.get(&user).is_some_and(|(_, to)| to.is_none())
    }

    pub(crate) fn hearers(&self) -> Vec<Hearer> {
        let hearer = |(user, (from, to)): (&UserId, &(Seq, Option<Seq>))| Hearer {
            user: *user,
            from_seq: *from,
            to_seq: to.unwrap_or(Seq::MAX),
        };
        self.members.iter().map(hearer).collect()
    }

    fn standing(&self, conversation: ConversationId, user: UserId) -> Standing {
        let (from, to) = self.members.get(&user).copied().unwrap_or_default();
        let head_seq = to.unwrap_or(self.head());
        Standing { conversation, first_seq: from.max(1), joined_seq: from, head_seq }
    }

    fn change(&mut self, by: UserId, change: &Change) -> Option<(Seq, Bytes)> {
        let seq = self.head() + 1;
        let body = match change {
            Change::AddMembers { users } => {
                let mut users = users.clone();
                users.retain(|user| !self.is_member(*user));
                if users.is_empty() {
                    return None;
                }
                let mut returning = users.clone();
                returning.retain(|user| self.members.contains_key(user));
                self.returned.extend(&returning);
                self.version += 1;
                self.members.extend(users.iter().map(|user| (*user, (seq, None))));
                Body::MembersAdded { users, returning, history: History::FromJoin }
            }
            Change::RemoveMember { user } => {
                if !self.is_member(*user) {
                    return None;
                }
                self.version += 1;
                self.members.entry(*user).or_default().1 = Some(seq);
                Body::MemberRemoved { user: *user, heir: None }
            }
            Change::Rename { group_name } => Body::Renamed { group_name: Some(group_name) },
            other => panic!("the model does not know {other:?}"),
        };
        Some(self.append_event(by, body))
    }

    fn append_event(&mut self, by: UserId, body: Body<'_>) -> (Seq, Bytes) {
        let id = MessageId(self.head() + 1);
        let record = Bytes::from(Event { id, sender: by, client_msg_id: Cow::Borrowed(""), body }.encode());
        (self.append(record.clone(), by), record)
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

fn refused() -> Answer {
    Answer::Refused(Refusal::new(Code::NotFound, "not there"))
}

fn forbidden() -> Outcome {
    Outcome::Refused(Refusal::new(Code::Forbidden, "not allowed, or not there"))
}

/// Says something in a conversation.
pub(crate) fn text(conversation: ConversationId, content: &str) -> Command {
    Command::Send {
        conversation,
        message_type: 0,
        encoding: 0,
        content: content.to_owned(),
        media_url: None,
        reply_to: None,
    }
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
        Hand::with(store, |_| ())
    }

    /// A router that has not begun, with other settings than the shipped ones.
    pub(crate) fn with(store: Model, change: impl FnOnce(&mut Settings)) -> Hand {
        let mut settings: Settings = toml::from_str(DEFAULTS).unwrap();
        settings.fanout.turn_users_max = 64;
        (settings.limits.send_per_s, settings.limits.conversation_per_s) = (0, 0);
        change(&mut settings);
        let settings = ShardSettings::of(&settings, 1);
        Hand {
            shard: Shard::new(settings, 7, Cluster::sole(Incarnation(3), 1, ""), Meter::detached()),
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
        self.input(Input::LaneUp { lane, far: Far::Gateway });
        self.say(lane, &frame::Open { incarnation: epoch, shard: 0 });
        lane
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Lease(_) | Output::Dial { .. } | Output::HangUp { .. } | Output::Over => {
                    panic!("a router that is alone says nothing to others")
                }
                Output::Frame { lane, frame } => self.frames.entry(lane).or_default().extend(heard(&frame)),
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
        self.store.wall_ms = self.wall_ms();
        self.input(Input::Wall(WallMs(self.wall_ms())));
        self.turn();
    }

    /// What the wall clock shows.
    pub(crate) fn wall_ms(&self) -> u64 {
        1_790_000_000_000 + self.now.0 / 1_000_000
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
        let mut register = self.registration(session, user, device);
        register.again = again;
        self.say(lane, &register);
    }

    /// A registration of a client that identified just now.
    pub(crate) fn registration(&mut self, session: u64, user: UserId, device: &str) -> frame::Register {
        frame::Register {
            session,
            request: self.request(),
            user,
            device: device.to_owned(),
            name: "name".to_owned(),
            auto_provision: true,
            again: false,
            waited_ms: 0,
            issued_at_s: self.wall_ms() / 1_000,
        }
    }

    /// Asks for a change of the room.
    pub(crate) fn change(&mut self, lane: LaneId, session: u64, user: UserId, change: frame::Change) -> u64 {
        let request = self.request();
        let command = Command::Change { conversation: ROOM, change };
        self.submit(lane, session, request, user, &format!("{request}"), command);
        request
    }

    pub(crate) fn submit(
        &mut self,
        lane: LaneId,
        session: u64,
        request: u64,
        user: UserId,
        id: &str,
        command: Command,
    ) {
        self.say(
            lane,
            &frame::Submit {
                slot_epoch: 0,
                session,
                request,
                user,
                said_after: Vec::new(),
                client_msg_id: id.to_owned(),
                command,
            },
        );
    }

    /// Looks something up.
    pub(crate) fn find(&mut self, lane: LaneId, user: UserId, what: Wanted) -> u64 {
        let request = self.request();
        self.say(lane, &Find { request, user, what });
        request
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
        self.submit(lane, session, request, user, id, text(ROOM, content));
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

    /// What a counter shows.
    pub(crate) fn count(&self, metric: Metric) -> u64 {
        self.count_at(metric, 0)
    }

    /// What a counter shows for one value of its label.
    pub(crate) fn count_at(&self, metric: Metric, at: usize) -> u64 {
        self.shard.meter().value_at(metric, at).cast_unsigned()
    }

    pub(crate) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }
}
