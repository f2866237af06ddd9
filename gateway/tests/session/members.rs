//! Members come, go, and come back while their clients listen (G11).

use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{
    Accepted, Deliver, Entry, Joined, Page, Peeked, Read, Register, Registered, Standing,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{Body, History};

use crate::rig::{Rig, Seen, Up, deliver, deliver_event, event, identify, live, record, send, token};

const HERE: u64 = 9;
const THERE: u64 = 10;

fn added(user: u64, is_returning: bool, history: History) -> Body<'static> {
    let users = vec![UserId(user)];
    Body::MembersAdded { returning: if is_returning { users.clone() } else { Vec::new() }, users, history }
}

fn removed(user: u64) -> Body<'static> {
    Body::MemberRemoved { user: UserId(user), heir: None }
}

fn page(read: &Read, first_seq: Seq, entries: Vec<Entry>, head_seq: Seq) -> Page {
    Page {
        session: read.session,
        request: read.request,
        conversation: read.conversation,
        first_seq,
        head_seq,
        fanned_out_seq: head_seq,
        entries,
        has_more: false,
        marks: Vec::new(),
        counts: None,
        reacted: Vec::new(),
    }
}

/// What a client sees, in a word each.
fn line(seen: &[Seen]) -> Vec<(&'static str, Seq)> {
    seen.iter()
        .map(|seen| match seen {
            Seen::Event(event) => (event.kind, event.seq),
            Seen::Batch { to, .. } => ("page", *to),
            Seen::Reset { first, head, reason: "membership", .. } => {
                assert!(first <= &(head + 1));
                ("reset", *head)
            }
            Seen::Behind(listed) => ("behind", listed[0].1),
            Seen::CaughtUp => ("caught_up", 0),
            Seen::Ack { seq, duplicate: true, .. } => ("duplicate", *seq),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// G11, D2: the removal is the last that a removed member hears; who comes back drops what they hold and goes on with
/// the event by which they are a member again. So on every device.
#[test]
fn g11_who_was_removed_and_comes_back() {
    for (history, first) in [(History::FromJoin, 8), (History::All, 1)] {
        let mut rig = Rig::new(&[]);
        let mut devices = [
            live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]),
            live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 4, 4)]),
        ];
        rig.down(&deliver_event(HERE, 5, removed(1), &[1, 2]));
        // Not for user 1 any more.
        for seq in 6..=7 {
            rig.down(&deliver(HERE, seq, 2, "k", "x", &[2]));
        }
        rig.down(&deliver_event(HERE, 8, added(1, true, history), &[1, 2]));
        rig.down(&deliver(HERE, 9, 2, "k", "x", &[1, 2]));
        for device in &mut devices {
            let seen = device.take(&mut rig);
            assert_eq!(line(&seen), [("removed", 5), ("reset", 7), ("added", 8), ("message", 9)]);
            assert!(matches!(&seen[1], Seen::Reset { first: from, .. } if *from == first), "{seen:?}");
        }
        assert!(rig.up.is_empty(), "nothing has to be read");
    }
}

/// G11, D2: a member added under `from_join` hears from there; under `all` they are told `behind`, fetch from the first
/// event, and then go on live.
#[test]
fn g11_who_is_added_for_the_first_time() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    rig.down(&deliver_event(THERE, 7, added(1, false, History::FromJoin), &[1]));
    rig.down(&deliver(THERE, 8, 2, "k", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("added", 7), ("message", 8)]);

    rig.down(&deliver_event(HERE, 3, added(1, false, History::All), &[1]));
    rig.down(&deliver(HERE, 4, 2, "k", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("behind", 3)]);
    let conversation = ConversationId(HERE);
    client.say(&mut rig, Some("s"), &Command::Sync { conversation, from_seq: 1, limit: 200 });
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    let entries = (1..=4).map(|seq| Entry { seq, record: record(seq << 22, 2, "k", "x") }).collect();
    rig.down(&page(&read, 1, entries, 4));
    rig.down(&deliver(HERE, 5, 2, "k", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("page", 4), ("caught_up", 0), ("message", 5)]);
}

/// G11, G6: who comes back while the client is behind, there or elsewhere, is told to drop what it holds, and is not
/// left waiting for a `sync` of what it cannot see any more.
#[test]
fn g11_who_comes_back_while_behind() {
    for elsewhere in [false, true] {
        let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
        let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4), (THERE, 4, 4)]);
        rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
        let crowded = if elsewhere { THERE } else { HERE };
        let long = "x".repeat(2_000);
        for seq in 5..=6 {
            rig.down(&deliver(crowded, seq, 2, "k", &long, &[1]));
        }
        let seq = if elsewhere { 5 } else { 7 };
        rig.down(&deliver_event(HERE, seq, removed(1), &[1]));
        rig.down(&deliver_event(HERE, 20, added(1, true, History::FromJoin), &[1]));
        rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
        rig.flush(client.id);
        rig.carry_out();
        let seen = line(&client.take(&mut rig));
        if elsewhere {
            assert_eq!(seen, [("message", 5), ("behind", 6)]);
            let conversation = ConversationId(THERE);
            client.say(&mut rig, Some("s"), &Command::Sync { conversation, from_seq: 6, limit: 200 });
            let Up::Read(read) = rig.next_up() else { panic!("reads") };
            let entries = vec![Entry { seq: 6, record: record(6 << 22, 2, "k", "x") }];
            rig.down(&page(&read, 1, entries, 6));
            assert_eq!(line(&client.take(&mut rig)), [("page", 6), ("reset", 20), ("caught_up", 0)]);
        } else {
            assert_eq!(seen, [("message", 5), ("behind", 6), ("reset", 20), ("caught_up", 0)]);
        }
        rig.down(&deliver(HERE, 21, 2, "k", "x", &[1]));
        assert_eq!(line(&client.take(&mut rig)), [("message", 21)]);
        assert!(rig.up.is_empty());
    }
}

/// G6: what a client is to drop soon says nothing about what it has: its command that a page shows already is answered before that
/// page, as what comes with it, and not behind it.
#[test]
fn g6_a_page_before_a_reset_answers_what_it_shows() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4), (THERE, 4, 4)]);
    client.say(&mut rig, Some("mine"), &send(HERE, Some("mine"), "mine"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    for seq in 5..=6 {
        rig.down(&deliver(THERE, seq, 2, "k", &"x".repeat(2_000), &[1]));
    }
    rig.down(&deliver_event(HERE, 5, removed(1), &[1]));
    rig.down(&deliver_event(HERE, 20, added(1, true, History::FromJoin), &[1]));
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    rig.carry_out();
    assert_eq!(line(&client.take(&mut rig)), [("message", 5), ("behind", 6)]);

    let conversation = ConversationId(HERE);
    client.say(&mut rig, Some("s"), &Command::Sync { conversation, from_seq: 5, limit: 200 });
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    let entries = vec![Entry { seq: 21, record: record(21 << 22, 1, "mine", "mine") }];
    rig.down(&page(&read, 21, entries, 21));
    let (session, request) = (submit.session, submit.request);
    rig.down(&Accepted {
        session,
        request,
        conversation,
        seq: 21,
        id: 21 << 22,
        duplicate: false,
        unchanged: false,
    });
    assert_eq!(line(&client.take(&mut rig)), [("duplicate", 21), ("page", 21)]);
}

/// G11, G7: who is removed while their client is behind has a last page, and with it the client is caught up: that the log
/// went on without them, and was longer already when the client was told, keeps nobody waiting.
#[test]
fn g7_who_is_removed_while_behind_catches_up() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4), (THERE, 4, 4)]);
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    for seq in 5..=6 {
        rig.down(&Deliver { head_seq: 12, ..deliver(HERE, seq, 2, "k", &"x".repeat(2_000), &[1]) });
    }
    rig.down(&Deliver { head_seq: 12, ..deliver_event(HERE, 7, removed(1), &[1]) });
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    assert_eq!(line(&client.take(&mut rig)), [("message", 5), ("behind", 12)]);
    let conversation = ConversationId(HERE);
    client.say(&mut rig, Some("s"), &Command::Sync { conversation, from_seq: 6, limit: 200 });
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    let entries = (6..=7).map(|seq| Entry { seq, record: record(seq << 22, 2, "k", "x") }).collect();
    rig.down(&page(&read, 1, entries, 7));
    assert_eq!(line(&client.take(&mut rig)), [("page", 7), ("caught_up", 0)]);
    rig.down(&deliver(THERE, 5, 2, "k", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("message", 5)]);
}

/// G11, G6: who comes back after the list of their conversations was read, which knows of no earlier membership then, may
/// hold what they never confirmed: the first page shows that they were away, and they are told to drop it. So also when
/// their lane is lost before it comes. Who says that they hold nothing has nothing to drop.
#[test]
fn g11_who_comes_back_while_they_resume() {
    for (is_lost, named) in [(false, None), (true, None), (false, Some((HERE, 0)))] {
        let mut rig = Rig::new(&[]);
        rig.lane_up();
        let mut client = rig.connect(Wire::Json);
        client.say(&mut rig, None, &identify(&token(1, "phone", 600), named.as_slice()));
        stands_anew(&mut rig);
        assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Ready { .. }]));
        if is_lost {
            rig.lane_down();
            rig.up.clear();
            rig.lane_up();
            stands_anew(&mut rig);
        }
        let Up::Read(read) = rig.next_up() else { panic!("reads") };
        assert_eq!((read.from_seq, read.to_seq), (8, 9));
        let back = event(8, added(1, true, History::FromJoin));
        let entries =
            vec![Entry { seq: 8, record: back }, Entry { seq: 9, record: record(9 << 22, 2, "k", "x") }];
        rig.down(&page(&read, 8, entries, 9));
        rig.down(&deliver(HERE, 10, 2, "k", "x", &[1]));
        let first = if named.is_some() { "page" } else { "reset" };
        assert_eq!(line(&client.take(&mut rig)), [(first, 9), ("caught_up", 0), ("message", 10)]);
    }
}

/// Plays a router that knows of no earlier membership in its list, and of another when it is asked where that stands.
fn stands_anew(rig: &mut Rig) {
    let Up::Register(Register { session, request, .. }) = rig.next_up() else { panic!("registers first") };
    let conversation = ConversationId(HERE);
    let conversations = vec![Joined { conversation, cursor: 0, is_returning: false }];
    rig.down(&Registered { session, request, conversations, more: false });
    let Up::Peek(peek) = rig.next_up() else { panic!("then peeks") };
    let standing = Standing { conversation, first_seq: 8, joined_seq: 8, head_seq: 9, fanned_out_seq: 7 };
    rig.down(&Peeked { session, request: peek.request, standings: vec![standing] });
}

/// G6: a command whose seq a reset covers is answered, and fills nothing: the client fetches what it dropped.
#[test]
fn g6_an_ack_below_a_reset_is_a_duplicate() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
    client.say(&mut rig, None, &send(HERE, Some("k"), "mine"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    rig.down(&deliver_event(HERE, 8, added(1, true, History::FromJoin), &[1]));
    client.accept(&mut rig, &submit, 5, false);
    rig.down(&deliver(HERE, 9, 2, "k", "x", &[1]));
    let expected = [("reset", 7), ("added", 8), ("duplicate", 5), ("message", 9)];
    assert_eq!(line(&client.take(&mut rig)), expected);
}

/// G11: in a page as well the removal is the last.
#[test]
fn g11_a_resume_ends_with_the_removal() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    client.finish_registering(&mut rig, &[(HERE, 4, 6)]);
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    let entries = vec![
        Entry { seq: 5, record: record(5 << 22, 2, "k", "x") },
        Entry { seq: 6, record: event(6, removed(1)) },
    ];
    rig.down(&Page { fanned_out_seq: 30, ..page(&read, 1, entries, 6) });
    let seen = client.take(&mut rig);
    assert_eq!(line(&seen), [("page", 6), ("caught_up", 0)]);
    // Others go on; the lane is lost and comes back: nothing is brought that is not for this user.
    rig.down(&deliver(HERE, 31, 2, "k", "x", &[2]));
    rig.lane_down();
    rig.up.clear();
    rig.lane_up();
    client.finish_registering(&mut rig, &[(HERE, 4, 6)]);
    assert!(client.take(&mut rig).is_empty() && rig.up.is_empty());
}
