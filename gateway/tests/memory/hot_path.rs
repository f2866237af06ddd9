//! The way of a message through a shard that has served some already takes nothing from the allocator.

use carillon_gateway::turn::{ConnectionId, Input, Output};
use carillon_protocol::client::{Command, FrameId, Wire};
use carillon_protocol::frame::{Accepted, Deliver, LinkFrame};
use carillon_protocol::ids::ConversationId;
use rkyv::util::AlignedVec;

use crate::counting::{Taken, taken};
use crate::rig::{Client, ROUTER, Rig, Up, deliver, live, send};

const HERE: u64 = 9;
/// Messages until all memory is there that they need.
const WARM_UP: u64 = 100;
/// Messages that are counted.
const COUNTED: u64 = 1_000;
/// What a shard grows by and by, whoever is there: the latest tails, watermarks and rises that it remembers, up to their
/// bounds. Each doubles now and then, so this often while the counted messages pass.
const GROWTHS_MAX: u64 = 12;

/// One turn, as a station carries it out: what goes to the router is copied to its lane, and the memory given back; the
/// kernel takes everything at once. Nothing here takes memory once `lane` is large enough.
fn turn(rig: &mut Rig, input: Input<'_>, lane: &mut AlignedVec) {
    lane.clear();
    rig.shard.handle(rig.now, rig.wall, input);
    while let Some(output) = rig.shard.poll_output() {
        match output {
            Output::Flush { connection } => {
                let bytes = rig.shard.pending(connection).map(|payload| payload.len()).sum();
                rig.shard.handle(rig.now, rig.wall, Input::Sent { connection, bytes });
            }
            Output::Link { router, frame } => {
                assert_eq!(router, ROUTER);
                lane.extend_from_slice(&frame);
                rig.shard.keep_frame(frame);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A conversation of so many users, who are all here.
fn rig(users_count: u64) -> (Rig, Vec<Client>) {
    // Nobody is too fast, and a crowd does not wait.
    let mut rig = Rig::new(&["limits.connection_per_s=0", "gateway.slice_sessions=100000"]);
    let clients =
        (1..=users_count).map(|user| live(&mut rig, user, "phone", Wire::Json, &[(HERE, 0, 0)])).collect();
    (rig, clients)
}

/// What the shard takes in all counted rounds together, of each what `round` says.
fn rounds(rig: &mut Rig, mut round: impl FnMut(&mut Rig, u64, &mut AlignedVec) -> Taken) -> Taken {
    let mut lane = AlignedVec::with_capacity(4_096);
    let mut total = Taken { times: 0, bytes: 0 };
    for number in 1..=WARM_UP + COUNTED {
        let taken = round(rig, number, &mut lane);
        if number > WARM_UP {
            (total.times, total.bytes) = (total.times + taken.times, total.bytes + taken.bytes);
        }
    }
    total
}

fn received(rig: &mut Rig, connection: ConnectionId, bytes: &[u8], lane: &mut AlignedVec) -> Taken {
    taken(|| turn(rig, Input::Received { connection, bytes }, lane)).1
}

fn heard(rig: &mut Rig, frame: &impl LinkFrame, lane: &mut AlignedVec) -> Taken {
    let frame = frame.to_frame();
    taken(|| turn(rig, Input::LaneFrame { router: ROUTER, frame: &frame }, lane)).1
}

/// From the client's bytes to the router's lane, with and without a `client_msg_id`, in either encoding. An `id` that is
/// text is kept as it is. The answer, which is written for this client alone, takes the memory that it is written to, and a
/// handle for it.
#[test]
fn a_message_is_forwarded_without_an_allocation() {
    let (number, text) = (FrameId::Number(7), FrameId::Text("seven".into()));
    let cases = [
        (Wire::Json, Some("a-key-of-the-client"), None, 0),
        (Wire::Json, None, Some(number.clone()), 0),
        (Wire::Rkyv, Some("k"), Some(number), 0),
        (Wire::Json, Some("k"), Some(text), COUNTED),
    ];
    for (wire, key, id, times) in cases {
        let (mut rig, mut clients) = rig(2);
        clients.push(live(&mut rig, 3, "tablet", wire, &[(HERE, 0, 0)]));
        let sender = clients.pop().unwrap();
        let bytes = sender.frame(id, &send(HERE, key, "a message as people write them, of some length"));
        let mut answered = 0;
        let forwarded = rounds(&mut rig, |rig, seq, lane| {
            let taken = received(rig, sender.id, &bytes, lane);
            let Up::Submit(submit) = Up::read(lane) else { panic!("a message is submitted") };
            let accepted = Accepted {
                session: submit.session,
                request: submit.request,
                conversation: ConversationId(HERE),
                seq,
                id: seq << 22,
                duplicate: false,
                unchanged: false,
            };
            answered += heard(rig, &accepted, lane).times;
            let event = deliver(HERE, seq, 3, &submit.client_msg_id, "x", &[3]);
            heard(rig, &event, lane);
            taken
        });
        assert_eq!(forwarded.times, times, "{wire:?} {key:?}");
        assert!(answered <= 2 * (WARM_UP + COUNTED) + GROWTHS_MAX, "{wire:?} {key:?}: {answered}");
    }
}

/// The receipt of each who got it as well.
#[test]
fn a_receipt_is_forwarded_without_an_allocation() {
    let (mut rig, clients) = rig(2);
    let forwarded = rounds(&mut rig, |rig, seq, lane| {
        let delivered = Command::Delivered { conversation: ConversationId(HERE), seq };
        let bytes = clients[1].frame(None, &delivered);
        let taken = received(rig, clients[1].id, &bytes, lane);
        assert!(matches!(Up::read(lane), Up::Receipt(_)));
        taken
    });
    assert!(forwarded.times <= GROWTHS_MAX, "{forwarded:?}");
}

/// An event is written once, however many hear it: a hundred take no more than one does.
#[test]
fn nobody_who_hears_an_event_costs_an_allocation() {
    let times = [1, 100].map(|users_count| {
        let (mut rig, _) = rig(users_count);
        let users: Vec<u64> = (1..=users_count).collect();
        let event = |seq| -> Deliver { deliver(HERE, seq, 999, "k", "x", &users) };
        rounds(&mut rig, |rig, seq, lane| heard(rig, &event(seq), lane)).times
    });
    assert_eq!(times[0], times[1]);
    assert!(
        times[0] <= 2 * COUNTED + GROWTHS_MAX,
        "an event is written to one piece of memory and shared: {times:?}"
    );
}
