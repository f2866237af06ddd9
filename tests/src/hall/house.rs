//! The machines of a hall, and what lies between them.

use std::collections::VecDeque;
use std::sync::Arc;

use carillon_gateway::shard::Shard as Gateway;
use carillon_gateway::turn::{self, ConnectionId};
use carillon_link::Peer;
use carillon_node::metrics::Meter;
use carillon_node::prng::Prng;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::frame::{self, Command, Frame, LinkFrame as _, Open, Submit};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::outbox::{Far, LaneId, Output, Ticket};
use carillon_router::shard::{Input, Shard as Router};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::ids::MessageIds;
use carillon_store::ops::Context;
use carillon_store::query;
use carillon_store::retry;
use carillon_store::txn::Engine as _;
use carillon_store::verb::{Answer, Incarnation, Outcome};
use rkyv::util::AlignedVec;

use super::GATEWAYS;

const ROUTER: Peer = Peer(0);
/// The lane by which changes are asked for, as REST has one; the gateways' are below it.
const OFFICE: LaneId = LaneId(GATEWAYS as u32);
/// 2026, in Unix milliseconds.
const WALL_MS: u64 = 1_780_000_000_000;
/// More than any size that is tried.
const MEMBERS_MAX: u64 = 10_000;
/// Little enough that a client that stops reading for a while is told `behind`.
const CONN_QUEUE_BYTES: usize = 2_048;

/// See the module.
pub(super) struct House {
    router: Router,
    gateways: Vec<Side>,
    engine: Memory,
    incarnation: Incarnation,
    ids: MessageIds,
    now: Time,
    requests: u64,
    /// What came up the lanes and waits for the router.
    up: VecDeque<(LaneId, AlignedVec)>,
    /// What the store did and the router has not heard: (turns to wait, results).
    committed: VecDeque<(u64, Vec<Result<Outcome, Failure>>)>,
    answered: VecDeque<(u64, Ticket, Answer)>,
    /// What became of the last change that was asked for.
    pub(super) answer: Option<Result<(ConversationId, u64), String>>,
}

/// One gateway shard.
struct Side {
    shard: Gateway,
    down: VecDeque<AlignedVec>,
    flushes: VecDeque<ConnectionId>,
    generations: Vec<u32>,
}

impl House {
    pub(super) fn new(seed: u64) -> House {
        let engine = Memory::new(Options::default());
        let claim = retry::claim(&engine, WallMs(WALL_MS), &mut |_| ()).expect("claimed");
        let keys = Arc::new(KeyTable::from_secret("k", &[7; 32]));
        let mut settings = crate::world::default_settings();
        settings.limits.conn_queue_bytes = CONN_QUEUE_BYTES;
        let router = Router::new(
            crate::world::default_shard_settings(),
            seed,
            Cluster::sole(claim.incarnation, claim.epoch, ""),
            Meter::detached(),
        );
        let mut house = House {
            router,
            gateways: Vec::new(),
            engine,
            incarnation: claim.incarnation,
            ids: claim.message_ids(0, 1),
            now: Time(1_000_000_000),
            requests: 0,
            up: VecDeque::new(),
            committed: VecDeque::new(),
            answered: VecDeque::new(),
            answer: None,
        };
        for number in 0..=OFFICE.0 {
            let lane = LaneId(number);
            house.router.handle(house.now, Input::LaneUp { lane, far: Far::Gateway });
            let epoch = u64::from(number) + 1;
            house.up.push_back((lane, Open { incarnation: epoch, shard: 0 }.to_frame()));
            if lane == OFFICE {
                continue;
            }
            let mut shard = Gateway::new(settings.clone(), Arc::clone(&keys), true, seed ^ epoch, epoch, 0);
            let lane_up = turn::Input::LaneUp { router: ROUTER, incarnation: claim.incarnation.0 };
            shard.handle(house.now, WallMs(WALL_MS), lane_up);
            let (down, flushes) = (VecDeque::new(), VecDeque::new());
            house.gateways.push(Side { shard, down, flushes, generations: Vec::new() });
        }
        house
    }

    fn wall(&self) -> WallMs {
        WallMs(WALL_MS + self.now.0 / 1_000_000)
    }

    /// A new connection of a user, in their own slot; what it is told at once.
    pub(super) fn open(&mut self, gateway: usize, user: u64) -> ConnectionId {
        let (now, wall) = (self.now, self.wall());
        let claims = Claims {
            user_id: user,
            device_id: "phone".to_owned(),
            issued_s: WALL_MS / 1_000,
            expires_s: WALL_MS / 1_000 + 86_400,
            name: None,
            scope: String::new(),
        };
        let side = &mut self.gateways[gateway];
        let slot = usize::try_from(user).expect("small");
        if side.generations.len() <= slot {
            side.generations.resize(slot + 1, 0);
        }
        side.generations[slot] += 1;
        let slot = u32::try_from(slot).expect("small");
        let connection = ConnectionId { slot, generation: side.generations[slot as usize] };
        side.shard.handle(now, wall, turn::Input::Opened { connection, claims: Some(claims) });
        connection
    }

    pub(super) fn close(&mut self, gateway: usize, connection: ConnectionId) {
        let (now, wall) = (self.now, self.wall());
        self.gateways[gateway].shard.handle(now, wall, turn::Input::Closed { connection });
    }

    pub(super) fn takes_frames(&self, gateway: usize, connection: ConnectionId) -> bool {
        self.gateways[gateway].shard.takes_frames(connection)
    }

    pub(super) fn tell(&mut self, gateway: usize, connection: ConnectionId, text: &str) {
        let (now, wall) = (self.now, self.wall());
        self.gateways[gateway].shard.handle(now, wall, turn::Input::Frame { connection, text });
    }

    /// Asks for a change as REST does; [`House::answer`] is what became of it.
    pub(super) fn submit(&mut self, user: UserId, command: Command) {
        self.requests += 1;
        let submit = Submit {
            slot_epoch: 0,
            session: 0,
            request: self.requests,
            user,
            said_after: Vec::new(),
            client_msg_id: format!("office-{}", self.requests),
            command,
        };
        self.up.push_back((OFFICE, submit.to_frame()));
    }

    /// The router's turn, with some of what came. `false`: there was nothing.
    pub(super) fn router_turn(&mut self, prng: &mut Prng) -> bool {
        self.now = self.now.after_ms(1);
        let mut is_busy = !self.up.is_empty() || !self.committed.is_empty() || !self.answered.is_empty();
        let wall = self.wall();
        self.router.handle(self.now, Input::Wall(wall));
        for (wait, _) in &mut self.committed {
            *wait = wait.saturating_sub(1);
        }
        while let Some((_, results)) = self.committed.pop_front_if(|(wait, _)| *wait == 0) {
            self.router.handle(self.now, Input::Committed { commit_lane: 0, at: wall, results });
        }
        let answered = std::mem::take(&mut self.answered);
        for (wait, ticket, answer) in answered {
            if wait == 0 {
                self.router.handle(self.now, Input::Answered { ticket, answer: Ok(answer) });
            } else {
                self.answered.push_back((wait - 1, ticket, answer));
            }
        }
        for (lane, frame) in some_of(&mut self.up, prng) {
            self.router.handle(self.now, Input::LaneFrame { lane, frame: &frame });
        }
        self.router.handle(self.now, Input::Tick);
        while let Some(output) = self.router.poll_output() {
            is_busy = true;
            self.carry_out(output, prng);
        }
        // What rests on purpose is not waited for; what is due now is.
        is_busy || self.router.poll_timeout().is_some_and(|at| at <= self.now)
    }

    fn carry_out(&mut self, output: Output, prng: &mut Prng) {
        match output {
            Output::Lease(_) | Output::Dial { .. } | Output::HangUp { .. } | Output::Over => {
                panic!("a router that is alone says nothing to others")
            }
            Output::Frame { lane: OFFICE, frame } => self.office(&frame),
            Output::Frame { lane, frame } => {
                if !matches!(frame::read(&frame), Ok(Frame::Open(_))) {
                    self.gateways[lane.0 as usize].down.push_back(frame);
                }
            }
            Output::Commit { ops, .. } => {
                let mut context = Context {
                    now: self.wall(),
                    incarnation: self.incarnation,
                    ids: &mut self.ids,
                    members_max: MEMBERS_MAX,
                };
                let results = retry::commit_batch(&self.engine, 0, &mut context, &ops, &mut |_| ());
                let results =
                    results.into_iter().map(|result| result.map_err(|_| Failure::Unknown)).collect();
                self.committed.push_back((prng.below(3), results));
            }
            Output::Query { ticket, query } => {
                let mut snapshot = self.engine.snapshot().expect("a snapshot");
                let answer = query::answer(&mut *snapshot, &query).expect("an answer");
                self.answered.push_back((prng.below(3), ticket, answer));
            }
            Output::CloseLane { lane } => panic!("the router closed {lane:?}"),
            Output::Fatal(sentence) => panic!("{sentence}"),
            Output::Drained => {}
        }
    }

    fn office(&mut self, bytes: &AlignedVec) {
        match frame::read(bytes).expect("a frame") {
            Frame::Accepted(accepted) => {
                let conversation = ConversationId(accepted.conversation.0.to_native());
                self.answer = Some(Ok((conversation, accepted.seq.to_native())));
            }
            Frame::Refused(refused) => self.answer = Some(Err(refused.message.as_str().to_owned())),
            _ => {}
        }
    }

    /// A gateway's turn, with some of what came. `false`: there was nothing.
    pub(super) fn gateway_turn(&mut self, gateway: usize, prng: &mut Prng) -> bool {
        let (now, wall) = (self.now, self.wall());
        let side = &mut self.gateways[gateway];
        let mut is_busy = !side.down.is_empty();
        for frame in some_of(&mut side.down, prng) {
            side.shard.handle(now, wall, turn::Input::LaneFrame { router: ROUTER, frame: &frame });
        }
        side.shard.handle(now, wall, turn::Input::Tick);
        while let Some(output) = side.shard.poll_output() {
            is_busy = true;
            match output {
                turn::Output::Flush { connection } | turn::Output::Close { connection } => {
                    side.flushes.push_back(connection);
                }
                turn::Output::Link { frame, .. } => {
                    self.up.push_back((LaneId(u32::try_from(gateway).expect("few")), frame));
                }
                turn::Output::CloseLane { .. } => panic!("a gateway cannot read what the router says"),
                turn::Output::Pause { .. }
                | turn::Output::Resume { .. }
                | turn::Output::HandOff { .. }
                | turn::Output::Yield
                | turn::Output::Meet { .. }
                | turn::Output::Part { .. }
                | turn::Output::Drained => {}
            }
        }
        is_busy || side.shard.poll_timeout().is_some_and(|at| at <= now)
    }

    /// The next connection that has something to read, in the order in which the gateway said so.
    pub(super) fn next_flush(&mut self, gateway: usize) -> Option<ConnectionId> {
        self.gateways[gateway].flushes.pop_front()
    }

    /// Takes everything that waits on a connection: the texts of its frames.
    pub(super) fn take(&mut self, gateway: usize, connection: ConnectionId, texts: &mut Vec<Vec<u8>>) {
        let (now, wall) = (self.now, self.wall());
        let shard = &mut self.gateways[gateway].shard;
        loop {
            let bytes: Vec<u8> = shard.pending(connection).flatten().copied().collect();
            if bytes.is_empty() {
                return;
            }
            let mut rest = &bytes[..];
            while let Some((frame, used)) = crate::raw::parse(rest) {
                // A close, or nothing that a server says here, becomes a frame of a type of its own.
                let text = match (frame.first, &frame.payload[..]) {
                    (0x81, _) => frame.payload,
                    (0x88, [high, low, ..]) => {
                        let code = u16::from_be_bytes([*high, *low]);
                        serde_json::json!({"type": "closed", "code": code}).to_string().into()
                    }
                    (first, _) => serde_json::json!({"type": "nonsense", "first": first}).to_string().into(),
                };
                texts.push(text);
                rest = &rest[used..];
            }
            assert!(rest.is_empty(), "whole frames");
            shard.handle(now, wall, turn::Input::Sent { connection, bytes: bytes.len() });
        }
    }
}

/// Usually all of it.
fn some_of<T>(queue: &mut VecDeque<T>, prng: &mut Prng) -> Vec<T> {
    let all = queue.len();
    let count = if prng.chance(1, 4) { prng.index(all + 1) } else { all };
    queue.drain(..count).collect()
}
