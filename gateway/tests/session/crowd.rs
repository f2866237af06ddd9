//! An event for many is given out over several turns: nobody misses it or hears it twice, and acks do not wait for it.

use carillon_gateway::turn::{Input, Output};
use carillon_protocol::client::Wire;
use carillon_protocol::frame::{Accepted, Deliver, LinkFrame};
use carillon_protocol::ids::ConversationId;

use crate::rig::{Client, ROUTER, Rig, Seen, Up, deliver, live, send};

const HERE: u64 = 9;
const THERE: u64 = 10;
const USERS_COUNT: u64 = 10;

/// Ten users here, and slices of three.
fn rig() -> (Rig, Vec<Client>) {
    let mut rig = Rig::new(&["gateway.slice_sessions=3"]);
    let clients = (1..=USERS_COUNT)
        .map(|user| live(&mut rig, user, "phone", Wire::Json, &[(HERE, 4, 4), (THERE, 4, 4)]))
        .collect();
    (rig, clients)
}

fn users() -> Vec<u64> {
    (1..=USERS_COUNT).collect()
}

/// Frames come, and one turn is carried out.
fn turn(rig: &mut Rig, frames: &[&Deliver]) {
    for frame in frames {
        rig.input(Input::LaneFrame { router: ROUTER, frame: &frame.to_frame() });
    }
    rig.carry_out();
}

fn seqs(seen: &[Seen]) -> Vec<(u64, u64)> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Event(event) => Some((event.conversation, event.seq)),
            Seen::Ack { conversation, seq, status: "sent", .. } => Some((*conversation, *seq)),
            _ => None,
        })
        .collect()
}

/// T5, G6: a slice a turn; order in a conversation holds; what is for a few elsewhere passes.
#[test]
fn t5_a_crowd_is_worked_off_in_slices() {
    let (mut rig, mut clients) = rig();
    let crowd = [5, 6].map(|seq| deliver(HERE, seq, 99, "k", "x", &users()));
    let few_here = deliver(HERE, 7, 99, "k", "x", &[1]);
    let few_there = deliver(THERE, 5, 99, "k", "x", &[10]);
    turn(&mut rig, &[&crowd[0], &crowd[1], &few_here, &few_there]);
    let mut held: Vec<Vec<(u64, u64)>> =
        clients.iter_mut().map(|client| seqs(&client.take(&mut rig))).collect();
    let served = held.iter().filter(|seqs| seqs.contains(&(HERE, 5))).count();
    assert_eq!((served, &held[9]), (3, &vec![(THERE, 5)]), "a slice; and what is for a few elsewhere");
    let mut turns_count = 1;
    while rig.shard.poll_timeout().is_some_and(|due| due <= rig.now) {
        turn(&mut rig, &[]);
        turns_count += 1;
        for (client, held) in clients.iter_mut().zip(&mut held) {
            held.extend(seqs(&client.take(&mut rig)));
        }
    }
    assert_eq!(turns_count, 7, "21 sessions by threes");
    for (user, held) in (1..).zip(&held) {
        let here: Vec<_> = held.iter().filter(|(conversation, _)| *conversation == HERE).copied().collect();
        let expected = [(HERE, 5), (HERE, 6), (HERE, 7)];
        assert_eq!(here, expected[..if user == 1 { 3 } else { 2 }], "user {user}");
    }
}

/// T5: the sender of an event for many hears at once that it is committed, whether the router says so apart or with
/// the event, and however many events wait before it; its event is not repeated.
#[test]
fn t5_acks_overtake_the_crowd() {
    let (mut rig, mut clients) = rig();
    let sender = 9;
    clients[sender].say(&mut rig, None, &send(HERE, Some("a"), "x"));
    let Up::Submit(first) = rig.next_up() else { panic!("submits") };
    clients[sender].say(&mut rig, None, &send(HERE, Some("b"), "x"));
    let Up::Submit(second) = rig.next_up() else { panic!("submits") };
    let crowd = deliver(HERE, 5, 99, "k", "x", &users());
    let own = Deliver {
        replayed: false,
        origin_session: first.session,
        origin_request: first.request,
        ..deliver(HERE, 6, 10, "a", "x", &users())
    };
    rig.input(Input::LaneFrame { router: ROUTER, frame: &crowd.to_frame() });
    rig.input(Input::LaneFrame { router: ROUTER, frame: &own.to_frame() });
    let accepted = Accepted {
        session: second.session,
        request: second.request,
        conversation: ConversationId(HERE),
        seq: 7,
        id: 7 << 22,
        duplicate: false,
        unchanged: false,
    };
    rig.input(Input::LaneFrame { router: ROUTER, frame: &accepted.to_frame() });
    rig.carry_out();
    // First the ack leaves, then others get the processor, once, and only then comes the crowd's slice.
    assert_eq!(rig.flushes[..2], [Some(clients[sender].id), None], "{:?}", rig.flushes);
    assert_eq!(rig.flushes.iter().filter(|flush| flush.is_none()).count(), 1, "{:?}", rig.flushes);
    assert_eq!(rig.flushes.len(), 2 + 3, "a slice of three: {:?}", rig.flushes);
    let seen = clients[sender].take(&mut rig);
    assert_eq!(seqs(&seen), [(HERE, 6), (HERE, 7)], "{seen:?}");
    let second = Deliver {
        replayed: false,
        origin_session: second.session,
        origin_request: second.request,
        ..deliver(HERE, 7, 10, "b", "x", &users())
    };
    turn(&mut rig, &[&second]);
    rig.pass_ms(1);
    assert_eq!(seqs(&clients[sender].take(&mut rig)), [(HERE, 5)]);
    for client in &mut clients[..sender] {
        assert_eq!(seqs(&client.take(&mut rig)), [(HERE, 5), (HERE, 6), (HERE, 7)]);
    }
}

/// T5, G7: a lane that is lost in the middle of a crowd: everybody has the event, once, also after it is back.
#[test]
fn t5_a_lane_lost_in_the_middle_loses_and_doubles_nothing() {
    let (mut rig, mut clients) = rig();
    turn(&mut rig, &[&deliver(HERE, 5, 99, "k", "x", &users())]);
    rig.lane_down();
    rig.lane_up();
    let mut registers = std::mem::take(&mut rig.up);
    for client in &mut clients {
        let held = seqs(&client.take(&mut rig));
        rig.up.extend(registers.pop_front());
        let after = client.finish_registering(&mut rig, &[(HERE, 4, 5), (THERE, 4, 4)]);
        assert_eq!((held, seqs(&after)), (vec![(HERE, 5)], Vec::new()));
    }
    assert!(rig.up.is_empty(), "nothing is missing");
}

/// T5, G6: a page says what came before it, so it waits behind the crowd; a connection that ends in the middle of it
/// hears no more.
#[test]
fn t5_a_new_session_waits_behind_the_crowd() {
    let (mut rig, mut clients) = rig();
    let gone = clients.pop().expect("ten");
    turn(&mut rig, &[&deliver(HERE, 5, 99, "k", "x", &users())]);
    rig.input(Input::Closed { connection: gone.id });
    rig.sockets.remove(&gone.id);
    while let Some(output) = rig.shard.poll_output() {
        assert!(!matches!(output, Output::Flush { connection } if connection == gone.id));
    }
    rig.up.clear();
    let mut late = rig.connect(Wire::Json);
    let token = crate::rig::token(10, "phone", 600);
    rig.received(late.id, &late.frame(None, &crate::rig::identify(&token, &[])));
    late.finish_registering(&mut rig, &[(HERE, 4, 5), (THERE, 4, 4)]);
    rig.pass_ms(1);
    assert_eq!(seqs(&late.take(&mut rig)), [], "what is missing is read");
    let Some(Up::Read(read)) = rig.up.pop_front().map(|bytes| Up::read(&bytes)) else { panic!("reads") };
    assert_eq!((read.from_seq, read.to_seq), (5, 5));
}
