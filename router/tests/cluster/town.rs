//! Several routers over one store, each a real shard; lanes between them and to gateways that only listen. What a router
//! puts out is carried out at once, in order; time passes only when a test lets it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use carillon_node::metrics::Meter;
use carillon_protocol::frame::{
    self, Accepted, Command, Deliver, Frame, LinkFrame, OwnedSlot, Peeked, Refused,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::lease::orders::{self, Hands};
use carillon_router::lease::{self, Lease};
use carillon_router::outbox::{Far, LaneId, Output};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_router::{DEFAULTS, Settings};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::error::ReadError;
use carillon_store::ids::MessageIds;
use carillon_store::ops::{self, Context, Ownership};
use carillon_store::query;
use carillon_store::retry::{BatchError, commit_batch, commit_one};
use carillon_store::txn::{Abort, Engine, Txn};
use carillon_store::verb::{Incarnation, Query};
use rkyv::util::AlignedVec;

pub(crate) const LANES: u16 = 16;
pub(crate) const STEP_MS: u64 = 10;
/// More than anything here takes; beyond, something goes round in circles.
const EVENTS_MAX: usize = 1_000_000;

/// Where a lane of a router leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Router(usize, LaneId),
    Gateway(u64),
}

/// What a gateway hears, as far as tests care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Registered(u64),
    Peeked(Peeked),
    Accepted(Accepted),
    Refused(Refused),
    NotOwner(u64),
    Deliver(Deliver),
    Owners(Vec<OwnedSlot>),
    Other,
}

pub(crate) struct Node {
    pub(crate) shard: Shard,
    pub(crate) incarnation: Incarnation,
    ids: Vec<MessageIds>,
    lanes: BTreeMap<LaneId, End>,
    lanes_count: u32,
    dials: BTreeSet<String>,
    pub(crate) is_over: bool,
    pub(crate) is_drained: bool,
    /// It does nothing, and what is said to it is lost.
    pub(crate) is_paused: bool,
    /// What its store says is kept back until [`Town::release`].
    pub(crate) is_kept_waiting: bool,
    waiting: Vec<Input<'static>>,
}

pub(crate) struct Town {
    engine: Arc<Memory>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Time,
    /// By (router, lane): what its gateway heard and no test has looked at.
    heard: BTreeMap<(usize, LaneId), Vec<Heard>>,
    /// Pairs of routers that do not reach each other.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    request: u64,
    /// What the lease asks is carried out at the next step, as if it took a moment.
    lease_work: VecDeque<(usize, lease::Output)>,
    /// What a poll shows, until somebody changes it: reading 4,096 rows for each would be most of the tests.
    shown: RefCell<Option<Ownership>>,
}

fn owned<T>(archived: &T::Archived) -> T
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rkyv::rancor::Error>>,
{
    rkyv::deserialize::<T, rkyv::rancor::Error>(archived).unwrap()
}

fn heard(bytes: &AlignedVec) -> Heard {
    match frame::read(bytes).unwrap() {
        Frame::Registered(it) => Heard::Registered(it.request.to_native()),
        Frame::Peeked(it) => Heard::Peeked(owned(it)),
        Frame::Accepted(it) => Heard::Accepted(owned(it)),
        Frame::Refused(it) => Heard::Refused(owned(it)),
        Frame::NotOwner(it) => Heard::NotOwner(it.request.to_native()),
        Frame::Deliver(it) => Heard::Deliver(owned(it)),
        Frame::Owners(it) => Heard::Owners(owned::<frame::Owners>(it).slots),
        _ => Heard::Other,
    }
}

impl Town {
    /// So many routers, which have come to rest.
    pub(crate) fn new(routers_count: usize) -> Town {
        let mut town = Town {
            engine: Arc::new(Memory::new(Options { lanes_count: LANES })),
            nodes: Vec::new(),
            now: Time(1_000_000_000),
            heard: BTreeMap::new(),
            cut: BTreeSet::new(),
            request: 0,
            lease_work: VecDeque::new(),
            shown: RefCell::default(),
        };
        for _ in 0..routers_count {
            town.join();
        }
        town.pass_ms(4_000);
        town
    }

    /// One router more.
    pub(crate) fn join(&mut self) -> usize {
        let address = format!("router-{}", self.nodes.len());
        self.shown.take();
        let claim = self.control(&mut |txn| ops::join(txn, WallMs(5), &address)).unwrap();
        let mut settings: Settings = toml::from_str(DEFAULTS).unwrap();
        (settings.limits.send_per_s, settings.limits.conversation_per_s) = (0, 0);
        let lease = Lease::new(claim.incarnation, self.now);
        let cluster = Cluster::shared(claim.incarnation, lease, &address);
        self.nodes.push(Node {
            shard: Shard::new(ShardSettings::of(&settings, LANES), 7, cluster, Meter::detached()),
            incarnation: claim.incarnation,
            ids: (0..LANES).map(|lane| claim.message_ids(lane, LANES)).collect(),
            lanes: BTreeMap::new(),
            lanes_count: 0,
            dials: BTreeSet::new(),
            is_over: false,
            is_drained: false,
            is_paused: false,
            is_kept_waiting: false,
            waiting: Vec::new(),
        });
        self.nodes.len() - 1
    }

    pub(crate) fn pass_ms(&mut self, millis: u64) {
        for _ in 0..millis / STEP_MS {
            self.now = self.now.after_ms(STEP_MS);
            for (node, order) in std::mem::take(&mut self.lease_work) {
                if self.is_awake(node) {
                    let told = self.carry_out(node, &order);
                    self.nodes[node].shard.handle(self.now, Input::Lease(told));
                }
            }
            self.connect();
            for node in 0..self.nodes.len() {
                if self.is_awake(node) {
                    self.nodes[node].shard.handle(self.now, Input::Tick);
                }
            }
            self.settle();
        }
    }

    fn is_awake(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        !node.is_over && !node.is_paused
    }

    /// The process is gone.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].is_over = true;
        for lane in self.nodes[node].lanes.keys().copied().collect::<Vec<_>>() {
            self.lose(node, lane);
        }
        self.settle();
    }

    /// The lane between two routers is lost.
    pub(crate) fn lose_between(&mut self, one: usize, other: usize) {
        let lost = self.lanes_between(one, other);
        assert!(!lost.is_empty(), "there is a lane");
        lost.into_iter().for_each(|lane| self.lose(one, lane));
        self.settle();
    }

    /// The lanes of a router to another one, as it numbers them.
    pub(crate) fn lanes_between(&self, one: usize, other: usize) -> Vec<LaneId> {
        let lanes = self.nodes[one].lanes.iter();
        let leads_there = |end: &End| matches!(end, End::Router(at, _) if *at == other);
        lanes.filter(|(_, end)| leads_there(end)).map(|(lane, _)| *lane).collect()
    }

    fn lose(&mut self, node: usize, lane: LaneId) {
        let Some(end) = self.nodes[node].lanes.remove(&lane) else { return };
        self.nodes[node].shard.handle(self.now, Input::LaneDown { lane });
        if let End::Router(other, its) = end {
            self.nodes[other].lanes.remove(&its);
            self.nodes[other].shard.handle(self.now, Input::LaneDown { lane: its });
        }
    }

    /// Lanes that are dialled and not there are made.
    fn connect(&mut self) {
        for node in (0..self.nodes.len()).filter(|node| self.is_awake(*node)).collect::<Vec<_>>() {
            for address in self.nodes[node].dials.clone() {
                let other: usize = address.trim_start_matches("router-").parse().unwrap();
                let is_there = !self.lanes_between(node, other).is_empty();
                let is_cut = self.cut.contains(&(node.min(other), node.max(other)));
                if is_there || is_cut || self.nodes[other].is_over {
                    continue;
                }
                self.call(node, other);
            }
        }
    }

    /// A router makes a lane to another one, and numbers it so.
    pub(crate) fn call(&mut self, node: usize, other: usize) -> LaneId {
        let (mine, its) = (self.new_lane(node), self.new_lane(other));
        self.nodes[node].lanes.insert(mine, End::Router(other, its));
        self.nodes[other].lanes.insert(its, End::Router(node, mine));
        self.nodes[node].shard.handle(self.now, Input::LaneUp { lane: mine, far: Far::Called });
        self.nodes[other].shard.handle(self.now, Input::LaneUp { lane: its, far: Far::Caller });
        mine
    }

    fn new_lane(&mut self, node: usize) -> LaneId {
        self.nodes[node].lanes_count += 1;
        LaneId(self.nodes[node].lanes_count)
    }

    /// A gateway's shard has a lane to a router.
    pub(crate) fn gateway(&mut self, node: usize, epoch: u64) -> LaneId {
        let lane = self.new_lane(node);
        self.nodes[node].lanes.insert(lane, End::Gateway(epoch));
        self.nodes[node].shard.handle(self.now, Input::LaneUp { lane, far: Far::Gateway });
        self.say(node, lane, &frame::Open { incarnation: epoch, shard: 0 });
        lane
    }

    pub(crate) fn say<F: LinkFrame>(&mut self, node: usize, lane: LaneId, frame: &F) {
        let bytes = frame.to_frame();
        self.nodes[node].shard.handle(self.now, Input::LaneFrame { lane, frame: &bytes });
        self.nodes[node].shard.handle(self.now, Input::Tick);
        self.settle();
    }

    /// One router says something to another, out of turn.
    pub(crate) fn say_between<F: LinkFrame>(&mut self, from: usize, to: usize, frame: &F) {
        let its = self.nodes[from].lanes.values().find_map(|end| match end {
            End::Router(at, its) if *at == to => Some(*its),
            _ => None,
        });
        self.say(to, its.expect("there is a lane"), frame);
    }

    pub(crate) fn drain(&mut self, node: usize) {
        self.nodes[node].shard.handle(self.now, Input::Drain);
        self.settle();
    }

    pub(crate) fn is_up(&self, node: usize, lane: LaneId) -> bool {
        self.nodes[node].lanes.contains_key(&lane)
    }

    pub(crate) fn hear(&mut self, node: usize, lane: LaneId) -> Vec<Heard> {
        self.heard.remove(&(node, lane)).unwrap_or_default()
    }

    /// Everything that is put out is carried out, until nothing is.
    pub(crate) fn settle(&mut self) {
        for _ in 0..EVENTS_MAX {
            let mut is_quiet = true;
            for node in 0..self.nodes.len() {
                while let Some(output) = self.nodes[node].shard.poll_output() {
                    is_quiet = false;
                    if !self.nodes[node].is_over {
                        self.act(node, output);
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn act(&mut self, node: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Frame { lane, frame } => match self.nodes[node].lanes.get(&lane).copied() {
                Some(End::Router(other, _)) if self.nodes[other].is_paused => {}
                Some(End::Router(other, its)) => {
                    self.nodes[other].shard.handle(now, Input::LaneFrame { lane: its, frame: &frame });
                    self.nodes[other].shard.handle(now, Input::Tick);
                }
                Some(End::Gateway(_)) => self.heard.entry((node, lane)).or_default().push(heard(&frame)),
                None => {}
            },
            Output::CloseLane { lane } => self.lose(node, lane),
            Output::Commit { commit_lane, ops } => {
                let incarnation = self.nodes[node].incarnation;
                let ids = &mut self.nodes[node].ids[usize::from(commit_lane)];
                let at = WallMs(now.0 / 1_000_000);
                let mut context = Context { now: at, incarnation, ids, members_max: 1_000 };
                let results = commit_batch(&*self.engine, commit_lane, &mut context, &ops, &mut |_| {});
                let results = results.into_iter().map(|result| result.map_err(failure)).collect();
                self.store_says(node, Input::Committed { commit_lane, at, results });
            }
            Output::Query { ticket, query } => {
                let answer = query::answer(&mut *self.engine.snapshot().unwrap(), &query);
                self.store_says(node, Input::Answered { ticket, answer });
            }
            Output::Lease(order) => self.lease_work.push_back((node, order)),
            Output::Dial { address } => drop(self.nodes[node].dials.insert(address)),
            Output::HangUp { address } => drop(self.nodes[node].dials.remove(&address)),
            Output::Over => self.kill(node),
            Output::Drained => self.nodes[node].is_drained = true,
            Output::Fatal(sentence) => panic!("{sentence}"),
        }
    }

    fn store_says(&mut self, node: usize, input: Input<'static>) {
        let (now, node) = (self.now, &mut self.nodes[node]);
        if node.is_kept_waiting {
            node.waiting.push(input);
        } else {
            node.shard.handle(now, input);
            node.shard.handle(now, Input::Tick);
        }
    }

    /// A router hears what its store said meanwhile, in that order.
    pub(crate) fn release(&mut self, node: usize) {
        self.nodes[node].is_kept_waiting = false;
        for input in std::mem::take(&mut self.nodes[node].waiting) {
            self.store_says(node, input);
        }
        self.settle();
    }

    /// The store has a slot pass from one router to another.
    pub(crate) fn pass_on(&mut self, slot: Slot, from: usize, to: usize) {
        let (from, to) = (self.nodes[from].incarnation, self.nodes[to].incarnation);
        self.control(&mut |txn| ops::give(txn, from, &[slot], Some(to))).unwrap();
        self.shown.take();
    }

    fn carry_out(&mut self, node: usize, order: &lease::Output) -> lease::Input {
        let me = self.nodes[node].incarnation;
        // All that a beat changes, so that not everything has to be read again.
        let mut shown = self.shown.take();
        if let (lease::Output::Beat(beat), Some(shown)) = (order, &mut shown) {
            shown.living.iter_mut().filter(|one| one.incarnation == me).for_each(|one| one.beat = *beat);
        }
        if matches!(order, lease::Output::Beat(_) | lease::Output::Poll) {
            *self.shown.borrow_mut() = shown;
        }
        orders::carry_out(self, me, order).expect("an order to the store")
    }

    pub(crate) fn ownership(&self) -> Ownership {
        let read = || ops::ownership(&mut *self.engine.snapshot().unwrap()).unwrap();
        self.shown.borrow_mut().get_or_insert_with(read).clone()
    }

    /// What the store holds as owner of a slot.
    pub(crate) fn owner(&self, slot: Slot) -> (usize, u64) {
        let shown = self.ownership();
        let held = shown.owners[usize::from(slot.0)];
        let owner = held.owner.expect("every slot has an owner");
        let node = self.nodes.iter().position(|node| node.incarnation == owner).unwrap();
        (node, held.epoch)
    }

    /// Conversations that the store has not handed on.
    pub(crate) fn markers(&self) -> Vec<(ConversationId, Seq)> {
        match query::answer(&mut *self.engine.snapshot().unwrap(), &Query::Markers).unwrap() {
            carillon_store::verb::Answer::Markers(markers) => markers,
            _ => panic!("another answer"),
        }
    }

    /// A user whose slot this router owns, not below `from`.
    pub(crate) fn user_of(&self, node: usize, from: u64) -> UserId {
        let shown = self.ownership();
        let me = Some(self.nodes[node].incarnation);
        let mine = |user: &UserId| shown.owners[usize::from(slot_of_user(*user).0)].owner == me;
        (from..from + u64::from(SLOTS_COUNT)).map(UserId).find(mine).unwrap()
    }

    pub(crate) fn request(&mut self) -> u64 {
        self.request += 1;
        self.request
    }

    /// A session of `user` registers; its request.
    pub(crate) fn register(&mut self, node: usize, lane: LaneId, user: UserId) -> u64 {
        let request = self.request();
        let register = frame::Register {
            session: user.0,
            request,
            user,
            device: "default".into(),
            name: format!("user{user}"),
            auto_provision: true,
            again: false,
            waited_ms: 0,
            issued_at_s: 0,
        };
        self.say(node, lane, &register);
        request
    }

    /// A conversation of these, made by the first of them at their router; where its seq is 1.
    pub(crate) fn create(&mut self, node: usize, lane: LaneId, members: &[UserId]) -> ConversationId {
        let (request, user) = (self.request(), members[0]);
        let command =
            Command::Create { conversation_type: 1, history: 0, group_name: None, members: members.to_vec() };
        let client_msg_id = format!("create-{request}");
        self.say(
            node,
            lane,
            &frame::Submit {
                session: user.0,
                request,
                user,
                said_after: Vec::new(),
                client_msg_id,
                slot_epoch: 0,
                command,
            },
        );
        let accepted = self.hear(node, lane).into_iter().find_map(|heard| match heard {
            Heard::Accepted(accepted) if accepted.request == request => Some(accepted.conversation),
            _ => None,
        });
        accepted.expect("it is made")
    }

    /// A message of `user`, sent to the router of the conversation by this epoch; its request.
    pub(crate) fn send(
        &mut self,
        (node, lane): (usize, LaneId),
        user: UserId,
        conversation: ConversationId,
        slot_epoch: u64,
    ) -> u64 {
        let request = self.request();
        let command = Command::Send {
            conversation,
            message_type: 0,
            encoding: 0,
            content: format!("message {request}"),
            media_url: None,
            reply_to: None,
        };
        let client_msg_id = format!("send-{request}");
        self.say(
            node,
            lane,
            &frame::Submit {
                session: user.0,
                request,
                user,
                said_after: Vec::new(),
                client_msg_id,
                slot_epoch,
                command,
            },
        );
        request
    }

    pub(crate) fn epoch_of(&self, conversation: ConversationId) -> u64 {
        self.owner(slot_of_conversation(conversation)).1
    }
}

/// The seqs of a conversation's events among these, and which of them were said to be repeated perhaps.
pub(crate) fn delivered(heard: &[Heard], conversation: ConversationId) -> Vec<(Seq, bool)> {
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Deliver(it) if it.conversation == conversation => Some((it.seq, it.replayed)),
            _ => None,
        })
        .collect()
}

impl Hands for Town {
    fn ownership(&mut self) -> Result<Ownership, ReadError> {
        Ok(Town::ownership(self))
    }

    fn control<T>(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
    ) -> Result<T, BatchError> {
        commit_one(&*self.engine, self.engine.control_lane(), body, &mut |_| {})
    }
}

fn failure(error: BatchError) -> Failure {
    match error {
        BatchError::Fenced => Failure::Fenced,
        other => panic!("{other}"),
    }
}
