//! A router with its real threads, driven over local rings, on the memory engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use carillon_link::doorbell::Doorbell;
use carillon_link::ring::{LaneEnd, SendError};
use carillon_link::{Dial, Mailbox, Peer, local};
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metrics::Registry;
use carillon_protocol::frame::{self, Command, Frame, LinkFrame};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_router::io::{self, Handle, Needs, Tenure};
use carillon_router::{DEFAULTS, Settings};
use carillon_store::backend::memory::{Fault, Faults, Memory, Options};
use carillon_store::error::{CommitError, ReadError};
use carillon_store::ops;
use carillon_store::txn::{Abort, Body, Engine, Read};
use rkyv::util::AlignedVec;

const LANE_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody answers at any address; and whoever is the only router has none to dial.
struct Unanswered {
    tenure: Tenure,
}

impl Dial for Unanswered {
    fn dial(&self, address: &str) {
        assert!(self.tenure == Tenure::Shared, "there is no router at {address}");
    }

    fn hang_up(&self, _address: &str) {}
}

fn start(engine: &Arc<dyn Engine>) -> (Handle, mpsc::Receiver<Fatal>) {
    start_with(engine, &Registry::new())
}

fn start_with(engine: &Arc<dyn Engine>, metrics: &Registry) -> (Handle, mpsc::Receiver<Fatal>) {
    start_as(engine, metrics, Tenure::Sole)
}

fn start_as(engine: &Arc<dyn Engine>, metrics: &Registry, tenure: Tenure) -> (Handle, mpsc::Receiver<Fatal>) {
    let mut settings: Settings = toml::from_str(DEFAULTS).unwrap();
    // More than one conversation may have a second is what some of these send.
    settings.limits.conversation_per_s = 0;
    let (failed, failures) = mpsc::channel();
    let failed = std::sync::Mutex::new(failed);
    let on_failure = Arc::new(move |fatal| drop(failed.lock().unwrap().send(fatal)));
    let needs = Needs {
        engine: Arc::clone(engine),
        tenure,
        address: "127.0.0.1:7400".to_owned(),
        dial: Arc::new(Unanswered { tenure }),
        on_failure,
    };
    (io::start(&settings, needs, metrics).unwrap(), failures)
}

/// What a test hears, as far as it cares.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Registered(u64),
    Peeked(Seq),
    Accepted { session: u64, request: u64, conversation: ConversationId, seq: Seq },
    Refused(u16),
    NotOwner,
    Deliver { seq: Seq, origin_session: u64, origin_request: u64, users_count: usize },
    Other,
}

fn heard(bytes: &[u8]) -> Heard {
    match frame::read(bytes).unwrap() {
        Frame::Registered(registered) => Heard::Registered(registered.session.to_native()),
        Frame::Peeked(peeked) => Heard::Peeked(peeked.standings[0].head_seq.to_native()),
        Frame::Accepted(accepted) => Heard::Accepted {
            session: accepted.session.to_native(),
            request: accepted.request.to_native(),
            conversation: ConversationId(accepted.conversation.0.to_native()),
            seq: accepted.seq.to_native(),
        },
        Frame::Refused(refused) => Heard::Refused(refused.code.to_native()),
        Frame::NotOwner(_) => Heard::NotOwner,
        Frame::Deliver(deliver) => Heard::Deliver {
            seq: deliver.seq.to_native(),
            origin_session: deliver.origin_session.to_native(),
            origin_request: deliver.origin_request.to_native(),
            users_count: deliver.users.len(),
        },
        _ => Heard::Other,
    }
}

/// One gateway shard with one lane.
struct Gateway {
    bell: Arc<Doorbell>,
    end: LaneEnd,
}

impl Gateway {
    fn connect(router: &Mailbox, epoch: u64) -> Gateway {
        let bell = Doorbell::new().unwrap();
        let (mailbox, arrivals) = Mailbox::new(1, bell.clone());
        assert!(local::connect(LANE_BYTES, &mailbox, router, Peer(0)));
        let mut gateway = Gateway { bell, end: arrivals.try_recv().unwrap().lane };
        gateway.say(&frame::Open { incarnation: epoch, shard: 0 });
        gateway
    }

    fn say<F: LinkFrame>(&mut self, frame: &F) {
        let frame: AlignedVec = frame.to_frame();
        while self.end.send(&frame) == Err(SendError::Full) {
            self.end.flush();
            self.bell.wait(Some(Duration::from_millis(100))).unwrap();
        }
    }

    /// Waits for some frames; none: the lane is closed.
    fn hear(&mut self) -> Vec<Heard> {
        self.end.flush();
        let began = Time(Clock.now_ns());
        let mut frames = Vec::new();
        loop {
            self.bell.drain();
            let received = self.end.receive(1_024, |bytes| frames.push(heard(bytes)));
            if !frames.is_empty() || received.closed {
                return frames;
            }
            assert!(Time(Clock.now_ns()).since(began) < PATIENCE, "nothing came");
            self.bell.wait(Some(Duration::from_millis(100))).unwrap();
        }
    }

    /// Waits for the first frame that `wanted` finds.
    fn hear_until<T>(&mut self, wanted: impl Fn(&Heard) -> Option<T>) -> T {
        loop {
            let frames = self.hear();
            assert!(!frames.is_empty(), "the lane was closed");
            if let Some(found) = frames.iter().find_map(&wanted) {
                return found;
            }
        }
    }

    fn register(&mut self, user: UserId) {
        let (device, name) = ("default".to_owned(), format!("user{user}"));
        let register = frame::Register {
            session: user.0,
            request: 1,
            user,
            device,
            name,
            auto_provision: true,
            again: false,
            waited_ms: 0,
            issued_at_s: 0,
        };
        self.say(&register);
        self.hear_until(|heard| (*heard == Heard::Registered(user.0)).then_some(()));
    }

    fn create(&mut self, creator: UserId, members: Vec<UserId>) -> ConversationId {
        let command = Command::Create { conversation_type: 1, history: 0, group_name: None, members };
        let client_msg_id = "group".to_owned();
        self.say(&frame::Submit {
            slot_epoch: 0,
            session: creator.0,
            request: 2,
            user: creator,
            said_after: Vec::new(),
            client_msg_id,
            command,
        });
        self.hear_until(|heard| match heard {
            Heard::Accepted { request: 2, conversation, .. } => Some(*conversation),
            _ => None,
        })
    }

    fn send(&mut self, conversation: ConversationId, user: UserId, request: u64) {
        let command = Command::Send {
            conversation,
            message_type: 0,
            encoding: 0,
            content: format!("message {request} of {user}"),
            media_url: None,
            reply_to: None,
        };
        let client_msg_id = format!("{user}-{request}");
        self.say(&frame::Submit {
            slot_epoch: 0,
            session: user.0,
            request,
            user,
            said_after: Vec::new(),
            client_msg_id,
            command,
        });
    }
}

/// OR2, G3, G6, G8, G9: 64 senders on four gateway shards, a thousand messages each, pipelined, into one conversation.
/// Every seq is given once; each sender's acks rise in the order of sending; every shard hears every event once, in
/// order, and knows its own.
#[test]
fn or2_g9_concurrent_senders_share_one_dense_log() {
    const SHARDS: u64 = 4;
    const SENDERS_EACH: u64 = 16;
    const MESSAGES: u64 = 1_000;
    const WINDOW: u64 = 64;
    const TOTAL: u64 = SHARDS * SENDERS_EACH * MESSAGES;

    let engine: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let (router, _failures) = start(&engine);
    let users = |shard: u64| (1..=SENDERS_EACH).map(move |n| UserId(shard * SENDERS_EACH + n));
    let mut gateways: Vec<Gateway> =
        (0..SHARDS).map(|shard| Gateway::connect(&router.mailbox(), shard + 1)).collect();
    for (gateway, shard) in gateways.iter_mut().zip(0..) {
        users(shard).for_each(|user| gateway.register(user));
    }
    let everybody: Vec<UserId> = (0..SHARDS).flat_map(users).collect();
    let conversation = gateways[0].create(UserId(1), everybody.clone());

    let run = |mut gateway: Gateway, shard: u64| {
        let mut sent: BTreeMap<u64, u64> = users(shard).map(|user| (user.0, 0)).collect();
        let mut acked: BTreeMap<u64, Vec<Seq>> = users(shard).map(|user| (user.0, Vec::new())).collect();
        let mut delivered_to = 1;
        let mut origins: BTreeMap<Seq, (u64, u64)> = BTreeMap::new();
        let mut acks: BTreeMap<Seq, (u64, u64)> = BTreeMap::new();
        // Requests are numbered from 100 in the order of sending.
        while delivered_to < TOTAL + 1 || acks.len() < (SENDERS_EACH * MESSAGES) as usize {
            for (user, count) in &mut sent {
                let unanswered = *count - acked[user].len() as u64;
                for _ in unanswered..WINDOW.min(unanswered + MESSAGES - *count) {
                    gateway.send(conversation, UserId(*user), 100 + *count);
                    *count += 1;
                }
            }
            for frame in gateway.hear() {
                match frame {
                    Heard::Accepted { session, request, seq, .. } if request >= 100 => {
                        let order = acked.get_mut(&session).unwrap();
                        assert_eq!(
                            request,
                            100 + order.len() as u64,
                            "G9: answers come in the order of sending"
                        );
                        order.push(seq);
                        assert_eq!(acks.insert(seq, (session, request)), None, "G3: a seq twice");
                    }
                    Heard::Deliver { seq, origin_session, origin_request, users_count } => {
                        // The first one may be the creation, when it came after its ack.
                        if seq == 1 {
                            continue;
                        }
                        assert_eq!(seq, delivered_to + 1, "G6");
                        assert_eq!(users_count, SENDERS_EACH as usize);
                        delivered_to = seq;
                        if origin_session != 0 {
                            origins.insert(seq, (origin_session, origin_request));
                        }
                    }
                    Heard::Refused(code) => panic!("refused with {code}"),
                    _ => {}
                }
            }
        }
        assert_eq!(origins, acks, "each shard is told its own");
        for seqs in acked.values() {
            assert!(seqs.is_sorted_by(|one, next| one < next), "G9");
        }
        acked.into_values().flatten().collect::<Vec<Seq>>()
    };
    let seqs: Vec<Seq> = std::thread::scope(|scope| {
        let threads: Vec<_> = gateways
            .into_iter()
            .zip(0..)
            .map(|(gateway, shard)| scope.spawn(move || run(gateway, shard)))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: BTreeSet<Seq> = seqs.iter().copied().collect();
    assert_eq!(distinct.len(), seqs.len());
    assert_eq!(distinct, (2..=TOTAL + 1).collect::<BTreeSet<Seq>>(), "OR2: every seq once, without a hole");
    router.drain(PATIENCE);
    router.close().unwrap();
}

/// G1, G2, G7: a drained router leaves nothing undone; its successor knows every message and answers a retry.
#[test]
fn g2_a_retry_at_the_next_router_finds_the_first_seq() {
    let engine: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let (router, _failures) = start(&engine);
    let (alice, bob) = (UserId(1), UserId(2));
    let mut gateway = Gateway::connect(&router.mailbox(), 1);
    gateway.register(alice);
    gateway.register(bob);
    let conversation = gateway.create(alice, vec![bob]);
    gateway.send(conversation, alice, 100);
    let seq = |heard: &Heard| match heard {
        Heard::Accepted { request: 100, seq, .. } => Some(*seq),
        _ => None,
    };
    let first = gateway.hear_until(seq);
    router.drain(PATIENCE);
    router.close().unwrap();
    while !gateway.hear().is_empty() {}

    let (router, _failures) = start(&engine);
    let mut gateway = Gateway::connect(&router.mailbox(), 1);
    gateway.register(alice);
    gateway.say(&frame::Peek { session: 1, request: 3, user: alice, conversations: vec![conversation] });
    let head = gateway.hear_until(|heard| match heard {
        Heard::Peeked(head) => Some(*head),
        _ => None,
    });
    assert_eq!((first, head), (2, 2));
    gateway.send(conversation, alice, 100);
    assert_eq!(gateway.hear_until(seq), first);
}

/// G15: a router whose store was claimed by another commits nothing any more and says so.
#[test]
fn g15_a_deposed_router_answers_not_owner() {
    let engine: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let (old, _failures) = start(&engine);
    let alice = UserId(1);
    let mut gateway = Gateway::connect(&old.mailbox(), 1);
    gateway.register(alice);
    let (new, _failures) = start(&engine);
    assert!(new.incarnation() > old.incarnation());
    let command = Command::Create { conversation_type: 1, history: 0, group_name: None, members: vec![] };
    gateway.say(&frame::Submit {
        slot_epoch: 0,
        session: 1,
        request: 2,
        user: alice,
        said_after: Vec::new(),
        client_msg_id: "x".into(),
        command,
    });
    gateway.hear_until(|heard| (*heard == Heard::NotOwner).then_some(()));
}

/// G14, F8: the disk fails: the process is told to end with status 74, and the message is not acknowledged.
#[test]
fn g14_a_failing_store_is_reported_at_once_and_nothing_is_acked() {
    let faults = Faults::default();
    let memory = Arc::new(Memory::with_faults(Options::default(), faults));
    let engine: Arc<dyn Engine> = memory.clone();
    let (router, failures) = start(&engine);
    let alice = UserId(1);
    let mut gateway = Gateway::connect(&router.mailbox(), 1);
    gateway.register(alice);
    gateway.register(UserId(2));
    let conversation = gateway.create(alice, vec![UserId(2)]);
    memory.faults().script([Some(Fault::Fatal)]);
    gateway.send(conversation, alice, 100);
    gateway.end.flush();
    let fatal = failures.recv_timeout(PATIENCE).unwrap();
    assert_eq!(fatal.status, carillon_node::exit::DISK);
    let mut last = gateway.hear();
    while !last.is_empty() {
        assert!(!last.iter().any(|heard| matches!(heard, Heard::Accepted { request: 100, .. })));
        last = gateway.hear();
    }
}

/// F4, F23: what became of commits is on the metrics page: those that were refused, of unknown outcome, too old or too
/// slow, and how often one was tried again. A store that is gone is not asked any more.
#[test]
fn f4_what_became_of_commits_is_on_the_metrics_page() {
    let memory = Arc::new(Memory::new(Options::default()));
    let engine: Arc<dyn Engine> = memory.clone();
    let metrics = Registry::new();
    let (router, _failures) = start_with(&engine, &metrics);
    let (alice, bob) = (UserId(1), UserId(2));
    let mut gateway = Gateway::connect(&router.mailbox(), 1);
    gateway.register(alice);
    gateway.register(bob);
    let conversation = gateway.create(alice, vec![bob]);
    let shown = |name: &str| -> u64 {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    };
    let attempts = |outcome| shown(&format!("carillon_store_attempts_total{{outcome=\"{outcome}\"}}"));
    let retries = || shown("carillon_store_retries_total");
    assert_eq!((attempts("conflict"), attempts("unknown"), attempts("slow"), retries()), (0, 0, 0, 0));
    assert!(attempts("committed") > 0);
    memory.faults().script(
        [
            Fault::Conflict,
            Fault::TooOld { reads: 0 },
            Fault::UnknownCommitted,
            Fault::UnknownLost,
            Fault::UnknownLost,
            Fault::Slow,
        ]
        .map(Some),
    );
    gateway.send(conversation, alice, 100);
    gateway.hear_until(|heard| matches!(heard, Heard::Accepted { request: 100, seq: 2, .. }).then_some(()));
    assert_eq!((attempts("conflict"), attempts("unknown"), attempts("slow"), retries()), (2, 3, 1, 6));
    assert_eq!((shown("carillon_store_too_old_total"), shown("carillon_store_failed")), (1, 0));
    assert_eq!(metrics.text().matches("# TYPE carillon_store_attempts ").count(), 1);
    router.drain(PATIENCE);
    router.close().unwrap();
    drop((engine, memory));
    assert!(!metrics.text().contains("carillon_store_"));
}

/// G13, F14: a gateway shard that does not read is cut off at its bound; the others notice nothing.
#[test]
fn g13_a_lane_that_is_not_read_is_closed_and_others_go_on() {
    const MESSAGES: u64 = 900;
    let engine: Arc<dyn Engine> = Arc::new(Memory::new(Options::default()));
    let (router, _failures) = start(&engine);
    let (alice, bob) = (UserId(1), UserId(2));
    let mut reading = Gateway::connect(&router.mailbox(), 1);
    let mut stuck = Gateway::connect(&router.mailbox(), 2);
    reading.register(alice);
    stuck.register(bob);
    let conversation = reading.create(alice, vec![bob]);
    let mut delivered_to = 1;
    for request in 100..100 + MESSAGES {
        let command = Command::Send {
            conversation,
            message_type: 0,
            encoding: 0,
            content: "x".repeat(16_000),
            media_url: None,
            reply_to: None,
        };
        let client_msg_id = request.to_string();
        reading.say(&frame::Submit {
            slot_epoch: 0,
            session: 1,
            request,
            user: alice,
            said_after: Vec::new(),
            client_msg_id,
            command,
        });
        while delivered_to + 20 < request - 98 {
            for heard in reading.hear() {
                if let Heard::Deliver { seq, .. } = heard {
                    delivered_to = seq;
                }
            }
        }
    }
    reading.hear_until(|heard| match heard {
        Heard::Deliver { seq, .. } => (*seq == MESSAGES + 1).then_some(()),
        _ => None,
    });
    let mut delivers_count = 0;
    loop {
        let frames = stuck.hear();
        if frames.is_empty() {
            break;
        }
        delivers_count += frames.iter().filter(|heard| matches!(heard, Heard::Deliver { .. })).count() as u64;
    }
    assert!(delivers_count < MESSAGES, "the lane was closed before all of it");

    let mut again = Gateway::connect(&router.mailbox(), 2);
    again.register(bob);
    again.say(&frame::Peek { session: 2, request: 3, user: bob, conversations: vec![conversation] });
    let head = again.hear_until(|heard| match heard {
        Heard::Peeked(head) => Some(*head),
        _ => None,
    });
    assert_eq!(head, MESSAGES + 1, "a peek tells what was missed");
}

/// The memory engine, with a commit on the control lane that can be held.
struct Held {
    memory: Memory,
    /// Whether the next commit there is held, and whether one is.
    is_closed: Mutex<(bool, bool)>,
    changed: Condvar,
    /// Commits on the control lane while one was held there: more than a lane may have.
    beside: AtomicUsize,
}

impl Held {
    fn set(&self, change: impl FnOnce(&mut (bool, bool))) {
        change(&mut self.is_closed.lock().unwrap());
        self.changed.notify_all();
    }
}

impl Engine for Held {
    fn lanes_count(&self) -> u16 {
        self.memory.lanes_count()
    }

    fn commit(&self, lane: u16, body: &mut Body<'_>) -> Result<(), CommitError> {
        if lane == self.control_lane() {
            let mut state = self.is_closed.lock().unwrap();
            self.beside.fetch_add(usize::from(state.1), Ordering::SeqCst);
            if state.0 && !state.1 {
                state.1 = true;
                self.changed.notify_all();
                state = self.changed.wait_while(state, |state| state.0).unwrap();
                state.1 = false;
            }
            drop(state);
        }
        self.memory.commit(lane, body)
    }

    fn snapshot(&self) -> Result<Box<dyn Read + Send + '_>, ReadError> {
        self.memory.snapshot()
    }
}

/// G15, F26: a router that was declared dead while a beat of its was under way begins anew when that has come to its end:
/// a lane has one commit in flight.
#[test]
fn g15_a_new_life_waits_for_what_the_one_before_has_in_flight() {
    let held = Arc::new(Held {
        memory: Memory::new(Options::default()),
        is_closed: Mutex::new((false, false)),
        changed: Condvar::new(),
        beside: AtomicUsize::new(0),
    });
    let engine: Arc<dyn Engine> = held.clone();
    let (router, _failures) = start_as(&engine, &Registry::new(), Tenure::Shared);
    let mut gateway = Gateway::connect(&router.mailbox(), 1);
    let incarnation = router.incarnation();
    held.set(|state| state.0 = true);
    drop(held.changed.wait_while(held.is_closed.lock().unwrap(), |state| !state.1).unwrap());
    // Another router has seen nothing of it for long.
    let lane = held.memory.control_lane();
    held.memory
        .commit(lane, &mut |txn| {
            let other = ops::join(txn, WallMs(1), "elsewhere:7400")?.incarnation;
            let ownership = ops::ownership(txn).map_err(|_| Abort::Fenced)?;
            let seen = ownership.living.iter().find(|one| one.incarnation == incarnation).map(|one| one.beat);
            assert!(ops::depose(txn, other, incarnation, seen.unwrap_or(0))?, "deposed");
            Ok(())
        })
        .unwrap();
    while !gateway.hear().is_empty() {}
    held.set(|state| state.0 = false);
    // The next life takes lanes.
    let mut gateway = Gateway::connect(&router.mailbox(), 2);
    gateway.hear_until(|heard| (*heard == Heard::Other).then_some(()));
    assert_eq!(held.beside.load(Ordering::SeqCst), 0, "commits beside one that was in flight");
    router.close().unwrap();
}
