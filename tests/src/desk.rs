//! REST, a router and the memory store at one desk: the real pure machines joined by hand in one thread, so that a
//! request is a function call. What the threads, sockets and rings between them can do wrong is tested elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use carillon_gateway::rest::{self, Body, Headers, Request, Rest, Ticket};
use carillon_link::Peer;
use carillon_node::metrics::Meter;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::frame::{LinkFrame as _, Open};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::batch::Failure;
use carillon_router::cluster::Cluster;
use carillon_router::outbox::{Far, LaneId, Output};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::ids::MessageIds;
use carillon_store::ops::Context;
use carillon_store::query;
use carillon_store::retry;
use carillon_store::txn::Engine as _;
use carillon_store::verb::Incarnation;
use serde_json::Value;

const ROUTER: Peer = Peer(0);
const LANE: LaneId = LaneId(1);
/// 2026, in Unix milliseconds.
const WALL_MS: u64 = 1_780_000_000_000;
/// Turns that one request may take; more would be a machine that runs in circles.
const TURNS_MAX: usize = 1_000;

/// See the module.
pub struct Desk {
    rest: Rest,
    router: Shard,
    engine: Memory,
    incarnation: Incarnation,
    ids: MessageIds,
    keys: Arc<KeyTable>,
    now: Time,
    tickets_count: u64,
    /// Questions that the router put to the store.
    pub queries_count: u64,
    /// Transactions that it wanted.
    pub commits_count: u64,
    /// What the router is to be told, in order.
    up: VecDeque<Up>,
}

enum Up {
    Frame(rkyv::util::AlignedVec),
    Committed(Vec<Result<carillon_store::verb::Outcome, Failure>>),
    Answered(carillon_router::outbox::Ticket, carillon_store::verb::Answer),
}

impl Desk {
    /// An empty store. `seed` is where ids come from.
    ///
    /// # Panics
    /// When the defaults cannot be read, or the store cannot be claimed.
    #[must_use]
    pub fn new(seed: u64) -> Desk {
        let keys = Arc::new(KeyTable::from_secret("k", &[7; 32]));
        let mut settings = crate::world::default_settings();
        (settings.limits.send_per_s, settings.limits.inflight) = (0, 64);
        let engine = Memory::new(Options::default());
        let claim = retry::claim(&engine, WallMs(WALL_MS), &mut |_| ()).expect("claimed");
        let mut desk = Desk {
            rest: Rest::new(rest::Settings::of(&settings, true), Arc::clone(&keys), seed),
            router: Shard::new(
                shard_settings(),
                seed,
                Cluster::sole(claim.incarnation, claim.epoch, ""),
                Meter::detached(),
            ),
            engine,
            incarnation: claim.incarnation,
            ids: claim.message_ids(0, 1),
            keys,
            now: Time(1_000_000_000),
            tickets_count: 0,
            queries_count: 0,
            commits_count: 0,
            up: VecDeque::new(),
        };
        desk.router.handle(desk.now, Input::LaneUp { lane: LANE, far: Far::Gateway });
        desk.up.push_back(Up::Frame(Open { incarnation: 1, shard: 0 }.to_frame()));
        let lane_up = rest::Input::LaneUp { router: ROUTER, incarnation: claim.incarnation.0 };
        desk.rest.handle(desk.now, WallMs(WALL_MS), lane_up);
        desk.run();
        desk
    }

    /// One request of a user: status and body.
    ///
    /// # Panics
    /// When it is not answered.
    pub fn ask(&mut self, user: u64, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
        self.now = self.now.after_ms(5);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Headers {
                authorization: Some(format!("Bearer {}", self.token(user)).into_bytes()),
                ..Headers::default()
            },
            body: Body::Whole(body.map(Value::to_string).unwrap_or_default().into_bytes()),
            ..Request::default()
        };
        self.tickets_count += 1;
        let ticket = Ticket(self.tickets_count);
        self.rest.handle(self.now, self.wall(), rest::Input::Request { ticket, request });
        let answer = self.run();
        let (answered, response) = answer.unwrap_or_else(|| panic!("{method} {target}: no answer"));
        assert_eq!(answered, ticket);
        (response.status, serde_json::from_slice(&response.body).unwrap_or(Value::Null))
    }

    /// Lets time pass: what waits for others to join it goes on.
    pub fn rest_a_while(&mut self, millis: u64) {
        self.now = self.now.after_ms(millis);
        self.run();
    }

    fn token(&self, user: u64) -> String {
        let claims = Claims {
            user_id: user,
            device_id: "desk".to_owned(),
            issued_s: WALL_MS / 1_000,
            expires_s: WALL_MS / 1_000 + 86_400 * 365,
            name: Some(format!("name-{user}")),
            scope: String::new(),
        };
        self.keys.sign(&claims).expect("a token")
    }

    fn wall(&self) -> WallMs {
        WallMs(WALL_MS + self.now.0 / 1_000_000)
    }

    /// Turn after turn until nothing moves any more; the response that came out, if one did.
    fn run(&mut self) -> Option<(Ticket, rest::Response)> {
        let mut answered = None;
        for _ in 0..TURNS_MAX {
            let mut is_idle = true;
            while let Some(output) = self.rest.poll_output() {
                match output {
                    rest::Output::Response { ticket, response } => answered = Some((ticket, response)),
                    rest::Output::Link { frame, .. } => self.up.push_back(Up::Frame(frame)),
                    rest::Output::CloseLane { .. } => panic!("the lane cannot be read"),
                    rest::Output::Drained => {}
                }
            }
            while let Some(up) = self.up.pop_front() {
                is_idle = false;
                let input = match &up {
                    Up::Frame(frame) => Input::LaneFrame { lane: LANE, frame },
                    Up::Committed(results) => {
                        Input::Committed { commit_lane: 0, at: self.wall(), results: results.clone() }
                    }
                    Up::Answered(ticket, answer) => {
                        Input::Answered { ticket: *ticket, answer: Ok(answer.clone()) }
                    }
                };
                self.router.handle(self.now, input);
            }
            self.router.handle(self.now, Input::Tick);
            while let Some(output) = self.router.poll_output() {
                is_idle = false;
                self.carry_out(output);
            }
            if is_idle {
                // Receipts wait for company; nobody else comes here.
                match self.router.poll_timeout() {
                    Some(at) if answered.is_none() && self.rest.waiting_count() > 0 => {
                        self.now = self.now.max(at)
                    }
                    _ => return answered,
                }
            }
        }
        panic!("the machines run in circles");
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Lease(_) | Output::Dial { .. } | Output::HangUp { .. } | Output::Over => {
                panic!("a router that is alone says nothing to others")
            }
            Output::Frame { frame, .. } => {
                let input = rest::Input::LaneFrame { router: ROUTER, frame: &frame };
                // The first frame on a lane is no answer.
                let is_open = carillon_protocol::frame::read(&frame)
                    .is_ok_and(|frame| matches!(frame, carillon_protocol::frame::Frame::Open(_)));
                if !is_open {
                    self.rest.handle(self.now, self.wall(), input);
                }
            }
            Output::Commit { ops, .. } => {
                self.commits_count += 1;
                let now = self.wall();
                let mut context =
                    Context { now, incarnation: self.incarnation, ids: &mut self.ids, members_max: 1_000 };
                let results = retry::commit_batch(&self.engine, 0, &mut context, &ops, &mut |_| ());
                let results =
                    results.into_iter().map(|result| result.map_err(|_| Failure::Unknown)).collect();
                self.up.push_back(Up::Committed(results));
            }
            Output::Query { ticket, query } => {
                self.queries_count += 1;
                let mut snapshot = self.engine.snapshot().expect("a snapshot");
                let answer = query::answer(&mut *snapshot, &query).expect("an answer");
                self.up.push_back(Up::Answered(ticket, answer));
            }
            Output::CloseLane { .. } => panic!("the router closed the lane"),
            Output::Fatal(sentence) => panic!("{sentence}"),
            Output::Drained => {}
        }
    }
}

fn shard_settings() -> ShardSettings {
    crate::world::default_shard_settings()
}
