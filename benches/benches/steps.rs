//! What the pure machines take for a message, without sockets, threads or a store: a gateway's shard from a client's bytes to
//! the router's frame and back, the same shard when a thousand of its sessions hear an event, and a router from a submit to
//! the ack and the fan-out.
//!
//! `cargo bench -p carillon-benches --bench steps` measures; without `--bench` each runs once. The gateway's shard is driven by
//! the rig of its own tests.

mod quick;

#[path = "../../gateway/tests/owners/mod.rs"]
mod owners;
// Most of it is for other tests.
#[expect(dead_code)]
#[path = "../../gateway/tests/session/rig.rs"]
mod rig;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use carillon_gateway::turn;
use carillon_node::metrics::Meter;
use carillon_protocol::client::Wire;
use carillon_protocol::frame::{self, Accepted, Frame, LinkFrame, Register, Submit};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Encoding, MessageType};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::cluster::Cluster;
use carillon_router::outbox::{Far, LaneId, Output};
use carillon_router::shard::{Input, Shard, ShardSettings};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance::world::World;
use carillon_store::txn::Engine;
use carillon_store::verb::{Appended, Op, Outcome};
use criterion::{Criterion, Throughput};
use quick::TEXT;
use rig::{ROUTER, Rig, deliver, live, send};
use rkyv::util::AlignedVec;

const HERE: u64 = 9;
/// Members of a large group.
const CROWD: u64 = 1_000;
const LANE: LaneId = LaneId(1);

/// One turn, as a station carries it out: what goes to the router is copied to its lane, and the memory given back; the
/// kernel takes everything at once. To how many connections something was sent.
fn turn(rig: &mut Rig, input: turn::Input<'_>, lane: &mut AlignedVec) -> u64 {
    lane.clear();
    let mut sends_count = 0;
    rig.shard.handle(rig.now, rig.wall, input);
    while let Some(output) = rig.shard.poll_output() {
        match output {
            turn::Output::Flush { connection } => {
                let bytes = rig.shard.pending(connection).map(|payload| payload.len()).sum();
                rig.shard.handle(rig.now, rig.wall, turn::Input::Sent { connection, bytes });
                sends_count += 1;
            }
            turn::Output::Link { router, frame } => {
                assert_eq!(router, ROUTER);
                lane.extend_from_slice(&frame);
                rig.shard.keep_frame(frame);
            }
            other => panic!("{other:?}"),
        }
    }
    sends_count
}

fn heard(rig: &mut Rig, frame: &[u8], lane: &mut AlignedVec) -> u64 {
    turn(rig, turn::Input::LaneFrame { router: ROUTER, frame }, lane)
}

/// A shard with so many sessions, all in one conversation.
fn shard(wire: Wire, users_count: u64) -> (Rig, Vec<rig::Client>) {
    // Nobody is too fast, and a crowd does not wait.
    let mut rig = Rig::new(&["limits.connection_per_s=0", "gateway.slice_sessions=100000"]);
    let clients =
        (1..=users_count).map(|user| live(&mut rig, user, "phone", wire, &[(HERE, 0, 0)])).collect();
    (rig, clients)
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway shard");
    for (wire, name) in [(Wire::Json, "JSON"), (Wire::Rkyv, "rkyv")] {
        let (mut rig, clients) = shard(wire, 2);
        let bytes = clients[0].frame(None, &send(HERE, Some("a-key-of-the-client"), TEXT));
        let mut lane = AlignedVec::new();
        let mut seq: Seq = 0;
        group.bench_function(format!("a message submitted, acknowledged and delivered, {name}"), |bencher| {
            bencher.iter(|| {
                seq += 1;
                let connection = clients[0].id;
                turn(&mut rig, turn::Input::Received { connection, bytes: &bytes }, &mut lane);
                let Ok(Frame::Submit(submit)) = frame::read(&lane) else { panic!("a message is submitted") };
                let accepted = Accepted {
                    session: submit.session.to_native(),
                    request: submit.request.to_native(),
                    conversation: ConversationId(HERE),
                    seq,
                    id: seq << 22,
                    duplicate: false,
                    unchanged: false,
                };
                assert_eq!(heard(&mut rig, &accepted.to_frame(), &mut lane), 1, "an ack");
                let event = deliver(HERE, seq, 1, "a-key-of-the-client", TEXT, &[1, 2]);
                assert!(heard(&mut rig, &event.to_frame(), &mut lane) >= 1, "the other one hears it");
            });
        });
    }
    let (mut rig, _clients) = shard(Wire::Json, CROWD);
    let users: Vec<u64> = (1..=CROWD).collect();
    let mut lane = AlignedVec::new();
    let mut seq: Seq = 0;
    group.throughput(Throughput::Elements(CROWD));
    group.bench_function(format!("an event to {CROWD} sessions"), |bencher| {
        bencher.iter(|| {
            seq += 1;
            let event = deliver(HERE, seq, CROWD + 1, "k", TEXT, &users);
            assert_eq!(heard(&mut rig, &event.to_frame(), &mut lane), CROWD, "all hear it");
        });
    });
    group.finish();
}

/// A router whose commits succeed at once: what they take is the store's matter. Questions are answered by a store in memory;
/// there are none once everybody is registered.
struct Router {
    shard: Shard,
    world: World<Arc<dyn Engine>>,
    now: Time,
    heads: BTreeMap<ConversationId, Seq>,
    commits: VecDeque<(u16, Vec<Op>)>,
    queries: VecDeque<(carillon_router::outbox::Ticket, carillon_store::verb::Query)>,
    frames_count: u64,
}

impl Router {
    /// With a group of so many, who are all at one gateway's shard.
    fn with_group(members_count: u64) -> Router {
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
        let mut world = World::begin(engine);
        world.members_max = members_count;
        let members: Vec<u64> = (1..=members_count).collect();
        let group = world.group(HERE, &members);
        let mut settings: carillon_router::Settings =
            toml::from_str(carillon_router::DEFAULTS).expect("the defaults");
        (settings.limits.send_per_s, settings.limits.conversation_per_s) = (0, 0);
        let settings = ShardSettings::of(&settings, world.engine.lanes_count());
        let shard = Shard::new(settings, 7, Cluster::sole(world.incarnation, 1, ""), Meter::detached());
        let mut router = Router {
            shard,
            heads: BTreeMap::from([(group, 1)]),
            world,
            now: Time(1),
            commits: VecDeque::new(),
            queries: VecDeque::new(),
            frames_count: 0,
        };
        router.input(Input::LaneUp { lane: LANE, far: Far::Gateway });
        router.frame(&frame::Open { incarnation: 9, shard: 0 }.to_frame());
        router.settle();
        for user in members {
            let register = Register {
                session: user,
                request: user,
                user: UserId(user),
                device: "phone".to_owned(),
                name: String::new(),
                auto_provision: false,
                again: false,
                waited_ms: 0,
                issued_at_s: 0,
            };
            router.frame(&register.to_frame());
            router.settle();
        }
        router
    }

    fn frame(&mut self, frame: &[u8]) {
        self.input(Input::LaneFrame { lane: LANE, frame });
    }

    fn input(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Frame { .. } => self.frames_count += 1,
                Output::Commit { commit_lane, ops } => self.commits.push_back((commit_lane, ops)),
                Output::Query { ticket, query } => self.queries.push_back((ticket, query)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything that can happen without time passing.
    fn settle(&mut self) {
        loop {
            self.input(Input::Tick);
            if let Some((commit_lane, ops)) = self.commits.pop_front() {
                let results = ops.iter().map(|op| Ok(self.outcome(op))).collect();
                self.input(Input::Committed { commit_lane, at: WallMs(9), results });
            } else if let Some((ticket, query)) = self.queries.pop_front() {
                let answer = self.world.ask(&query);
                self.input(Input::Answered { ticket, answer: Ok(answer) });
            } else if self.shard.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
    }

    fn outcome(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Send(send) => {
                let head = self.heads.entry(send.conversation).or_default();
                *head += 1;
                Outcome::Appended(Appended {
                    conversation: send.conversation,
                    seq: *head,
                    id: MessageId(*head),
                    duplicate: false,
                    record: Bytes::copy_from_slice(send.content.as_bytes()),
                    members_version: 1,
                })
            }
            Op::FannedOut { .. } => Outcome::FannedOut,
            Op::Seen { .. } => Outcome::Stored,
            other => panic!("nobody asks for {other:?}"),
        }
    }
}

fn submit(number: u64) -> AlignedVec {
    let submit = Submit {
        session: 1,
        request: number,
        user: UserId(1),
        client_msg_id: format!("key-{number}"),
        slot_epoch: 0,
        said_after: Vec::new(),
        command: frame::Command::Send {
            conversation: ConversationId(HERE),
            message_type: MessageType::Text as u8,
            encoding: Encoding::Utf8 as u8,
            content: TEXT.to_owned(),
            media_url: None,
            reply_to: None,
        },
    };
    submit.to_frame()
}

fn router(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router");
    for (members_count, batch) in [(2, 1), (2, 100), (CROWD, 1)] {
        let mut router = Router::with_group(members_count);
        let submits: Vec<AlignedVec> = (1..=batch).map(submit).collect();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("a batch of {batch} for {members_count} members"), |bencher| {
            bencher.iter(|| {
                let frames_before = router.frames_count;
                submits.iter().for_each(|submit| router.frame(submit));
                router.settle();
                router.now = router.now.after_ms(1);
                assert!(router.frames_count >= frames_before + batch, "an ack or an event for each");
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = quick::criterion();
    session(&mut criterion);
    router(&mut criterion);
    criterion.final_summary();
}
