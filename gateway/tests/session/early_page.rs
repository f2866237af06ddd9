//! A page may show an event before the router has heard of its commit: the sender's own, too.

use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{
    Accepted, Concerned, Deliver, Entry, Joined, Page, Peeked, Registered, Standing, Watermark,
};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};

use crate::rig::{Client, Rig, Seen, Up, identify, record, send, token};

const HERE: ConversationId = ConversationId(9);
const OWN_SEQ: u64 = 2;

/// A client who is brought what it lacks of the conversation, whose fan-out stands at 1.
fn connected(rig: &mut Rig, head_seq: u64) -> (Client, u64) {
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(rig, None, &identify(&token(1, "phone", 3_600), &[(HERE.0, 1)]));
    let Up::Register(register) = rig.next_up() else { panic!("registers first") };
    let session = register.session;
    let conversations = vec![Joined { conversation: HERE, cursor: 1, is_returning: false }];
    rig.down(&Registered { session, request: register.request, conversations, more: false });
    let Up::Peek(peek) = rig.next_up() else { panic!("then peeks") };
    let standing = Standing { conversation: HERE, first_seq: 1, head_seq, fanned_out_seq: 1, joined_seq: 1 };
    rig.down(&Peeked { session, request: peek.request, standings: vec![standing] });
    (client, session)
}

/// What a router reads when its event is visible, and not yet reported to it.
fn own_page(session: u64, request: u64) -> Page {
    Page {
        session,
        request,
        conversation: HERE,
        first_seq: 1,
        head_seq: OWN_SEQ,
        fanned_out_seq: 1,
        entries: vec![Entry { seq: OWN_SEQ, record: record(77, 1, "m", "mine") }],
        has_more: false,
        marks: Vec::new(),
        counts: None,
        reacted: Vec::new(),
    }
}

/// G6: who came back, got its own event by a page, and says it again, hears that it is a duplicate: also when the live
/// push of that event comes first.
#[test]
fn g6_a_push_behind_a_page_is_no_ack() {
    let mut rig = Rig::new(&[]);
    let (mut client, session) = connected(&mut rig, OWN_SEQ);
    let Up::Read(read) = rig.next_up() else { panic!("reads what is missing") };
    rig.down(&own_page(session, read.request));
    let seen = client.take(&mut rig);
    assert!(
        matches!(seen.as_slice(), [Seen::Ready { .. }, Seen::Batch { to: OWN_SEQ, .. }, Seen::CaughtUp]),
        "{seen:?}"
    );
    client.say(&mut rig, Some("send"), &send(HERE.0, Some("m"), "mine"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    rig.down(&Deliver {
        replayed: false,
        conversation: HERE,
        seq: OWN_SEQ,
        head_seq: OWN_SEQ,
        origin_session: 0,
        origin_request: 0,
        users: vec![UserId(1)],
        record: record(77, 1, "m", "mine"),
    });
    let request = submit.request;
    rig.down(&Accepted {
        session,
        request,
        conversation: HERE,
        seq: OWN_SEQ,
        id: 77,
        duplicate: true,
        unchanged: false,
    });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Ack { seq: OWN_SEQ, duplicate: true, .. }]), "{seen:?}");
}

/// G6: whatever comes first of page, ack and live push, the sender hears of its own event once, as the ack, and of what
/// follows after it. What a `sync` shows is beside the live line.
#[test]
fn g6_a_page_before_the_ack_leaves_the_seq_to_the_ack() {
    for is_accepted_first in [true, false] {
        let mut rig = Rig::new(&[]);
        let (mut client, session) = connected(&mut rig, 1);
        let seen = client.take(&mut rig);
        assert!(matches!(seen.last(), Some(Seen::CaughtUp)), "{seen:?}");

        client.say(&mut rig, Some("send"), &send(HERE.0, Some("m"), "mine"));
        let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
        client.say(
            &mut rig,
            Some("sync"),
            &Command::Sync { conversation: HERE, from_seq: OWN_SEQ, limit: 200 },
        );
        let Up::Read(read) = rig.next_up() else { panic!("reads") };
        // Committed and visible, and the router has not heard of it.
        rig.down(&own_page(session, read.request));
        let accepted = Accepted {
            session,
            request: submit.request,
            conversation: HERE,
            seq: OWN_SEQ,
            id: 77,
            duplicate: false,
            unchanged: false,
        };
        if is_accepted_first {
            rig.down(&accepted);
        }
        let deliver = |seq, sender, key: &str, origin_request| Deliver {
            replayed: false,
            conversation: HERE,
            seq,
            head_seq: seq,
            origin_session: if origin_request == 0 { 0 } else { session },
            origin_request,
            users: vec![UserId(1)],
            record: record(75 + seq, sender, key, if sender == 1 { "mine" } else { "theirs" }),
        };
        rig.down(&deliver(OWN_SEQ, 1, "m", submit.request));
        if !is_accepted_first {
            rig.down(&accepted);
        }
        rig.down(&deliver(OWN_SEQ + 1, 2, "t", 0));
        let seen = client.take(&mut rig);
        let line: Vec<_> = seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Ack { seq, duplicate: false, .. } => Some(("ack", *seq)),
                Seen::Event(event) => Some(("event", event.seq)),
                _ => None,
            })
            .collect();
        assert_eq!(line, [("ack", OWN_SEQ), ("event", OWN_SEQ + 1)], "{seen:?}");
        let batches =
            seen.iter().filter(|seen| matches!(seen, Seen::Batch { events, .. } if events.len() == 1));
        assert_eq!(batches.count(), 1, "what was asked for is complete: {seen:?}");
    }
}

/// G6: a page that was read before the client was told `behind`, and arrives after, does not say that it caught up.
#[test]
fn g6_an_older_page_does_not_end_behind() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let (mut client, session) = connected(&mut rig, 1);
    client.say(&mut rig, Some("older"), &Command::Sync { conversation: HERE, from_seq: 1, limit: 200 });
    let Up::Read(older) = rig.next_up() else { panic!("reads") };
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    let long = "x".repeat(2_000);
    for seq in [2, 3] {
        rig.down(&Deliver {
            replayed: false,
            conversation: HERE,
            seq,
            head_seq: 3,
            origin_session: 0,
            origin_request: 0,
            users: vec![UserId(1)],
            record: record(75 + seq, 2, "t", &long),
        });
    }
    let entries = vec![Entry { seq: 1, record: record(76, 2, "s", "first") }];
    let request = older.request;
    rig.down(&Page { head_seq: 1, entries, ..own_page(session, request) });
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    rig.carry_out();
    let seen = client.take(&mut rig);
    let is_behind = |seen: &Seen| matches!(seen, Seen::Behind(list) if *list == [(HERE.0, 3)]);
    assert!(seen.iter().any(is_behind), "{seen:?}");
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::CaughtUp)), "caught up by what is older: {seen:?}");
    assert!(rig.up.is_empty(), "nobody but the client reads on");
    client.say(&mut rig, Some("newer"), &Command::Sync { conversation: HERE, from_seq: 3, limit: 200 });
    let Up::Read(newer) = rig.next_up() else { panic!("the client reads") };
    let entries = vec![Entry { seq: 3, record: record(78, 2, "t", &long) }];
    let request = newer.request;
    rig.down(&Page { head_seq: 3, fanned_out_seq: 3, entries, ..own_page(session, request) });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { .. }, Seen::CaughtUp]), "{seen:?}");
}

/// G2, G6: what was acknowledged and is said again before its event passes is a duplicate, and no second ack.
#[test]
fn g6_a_repeat_before_the_push_is_no_second_ack() {
    let mut rig = Rig::new(&[]);
    let (mut client, session) = connected(&mut rig, 1);
    let accepted = |request, duplicate| Accepted {
        session,
        request,
        conversation: HERE,
        seq: OWN_SEQ,
        id: 77,
        duplicate,
        unchanged: false,
    };
    client.say(&mut rig, Some("send"), &send(HERE.0, Some("m"), "mine"));
    let Up::Submit(first) = rig.next_up() else { panic!("submits") };
    rig.down(&accepted(first.request, false));
    client.take(&mut rig);
    client.say(&mut rig, Some("again"), &send(HERE.0, Some("m"), "mine"));
    let Up::Submit(second) = rig.next_up() else { panic!("submits again") };
    rig.down(&Deliver {
        replayed: false,
        conversation: HERE,
        seq: OWN_SEQ,
        head_seq: OWN_SEQ,
        origin_session: session,
        origin_request: first.request,
        users: vec![UserId(1)],
        record: record(77, 1, "m", "mine"),
    });
    rig.down(&accepted(second.request, true));
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Ack { seq: OWN_SEQ, duplicate: true, .. }]), "{seen:?}");
}

/// G2, G6: where a client's own `sync` stands for the live line, the page brings the event; the command that made it and
/// was not answered yet is answered as a duplicate, which fills nothing, and once.
#[test]
fn g2_an_ack_found_in_ones_own_sync_is_a_duplicate() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let (mut client, session) = connected(&mut rig, 1);
    client.take(&mut rig);
    client.say(&mut rig, Some("send"), &send(HERE.0, Some("m"), "mine"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    let long = "x".repeat(2_000);
    for seq in [2, 3] {
        rig.down(&Deliver {
            replayed: false,
            conversation: HERE,
            seq,
            head_seq: 3,
            origin_session: 0,
            origin_request: 0,
            users: vec![UserId(1)],
            record: record(75 + seq, 2, "t", &long),
        });
    }
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    rig.carry_out();
    let seen = client.take(&mut rig);
    assert!(seen.iter().any(|seen| matches!(seen, Seen::Behind(_))), "{seen:?}");

    client.say(&mut rig, Some("sync"), &Command::Sync { conversation: HERE, from_seq: 3, limit: 200 });
    let Up::Read(read) = rig.next_up() else { panic!("the client reads") };
    let entries = vec![
        Entry { seq: 3, record: record(78, 2, "t", &long) },
        Entry { seq: 4, record: record(79, 1, "m", "mine") },
    ];
    let request = read.request;
    rig.down(&Page { head_seq: 4, fanned_out_seq: 3, entries, ..own_page(session, request) });
    let request = submit.request;
    rig.down(&Accepted {
        session,
        request,
        conversation: HERE,
        seq: 4,
        id: 79,
        duplicate: false,
        unchanged: false,
    });
    rig.down(&Deliver {
        replayed: false,
        conversation: HERE,
        seq: 4,
        head_seq: 4,
        origin_session: session,
        origin_request: request,
        users: vec![UserId(1)],
        record: record(79, 1, "m", "mine"),
    });
    let seen = client.take(&mut rig);
    let [Seen::Ack { seq: 4, duplicate: true, .. }, Seen::Batch { events, to: 4, .. }, Seen::CaughtUp] =
        seen.as_slice()
    else {
        panic!("{seen:?}")
    };
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 4]);
}

/// G6: a watermark that does not fit has the client sync its conversation, too; a page from before, which ends above that
/// watermark and below what came live, does not say that the client has what came live.
#[test]
fn g6_an_older_page_does_not_end_behind_by_a_watermark() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let (mut client, session) = connected(&mut rig, 1);
    client.say(&mut rig, Some("older"), &Command::Sync { conversation: HERE, from_seq: 1, limit: 200 });
    let Up::Read(older) = rig.next_up() else { panic!("reads") };
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    let event = |seq| Deliver {
        replayed: false,
        conversation: HERE,
        seq,
        head_seq: seq,
        origin_session: 0,
        origin_request: 0,
        users: vec![UserId(1)],
        record: record(75 + seq, 2, "t", &"x".repeat(900)),
    };
    rig.down(&event(2));
    rig.down(&Watermark {
        conversation: HERE,
        reader: UserId(2),
        read: false,
        at_ms: 1,
        named: true,
        senders: vec![Concerned { user: UserId(1), seq: 1, message: MessageId(1), count: 0 }],
    });
    rig.down(&event(3));
    let entries = vec![Entry { seq: 1, record: record(76, 2, "s", "first") }];
    rig.down(&Page { head_seq: 1, entries, ..own_page(session, older.request) });
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    rig.carry_out();
    let seen = client.take(&mut rig);
    let is_behind = |seen: &Seen| matches!(seen, Seen::Behind(list) if *list == [(HERE.0, 2)]);
    assert!(seen.iter().any(is_behind), "{seen:?}");
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::CaughtUp)), "caught up by what is older: {seen:?}");
    assert!(rig.up.is_empty(), "nobody but the client reads on");
    client.say(&mut rig, Some("newer"), &Command::Sync { conversation: HERE, from_seq: 3, limit: 200 });
    let Up::Read(newer) = rig.next_up() else { panic!("the client reads") };
    let entries = vec![Entry { seq: 3, record: record(78, 2, "t", "third") }];
    rig.down(&Page { head_seq: 3, fanned_out_seq: 3, entries, ..own_page(session, newer.request) });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { .. }, Seen::CaughtUp]), "{seen:?}");
}

/// G6: a client that is behind has fetched its own event by a page, and says it again: when that event comes live, it hears that
/// it is a duplicate, because the place is taken.
#[test]
fn g6_what_was_fetched_while_behind_fills_no_place() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let (mut client, session) = connected(&mut rig, 1);
    rig.sockets.get_mut(&client.id).expect("it is connected").room = Some(0);
    let event = |seq, sender, key: &str, content: &str| Deliver {
        replayed: false,
        conversation: HERE,
        seq,
        head_seq: 5,
        origin_session: 0,
        origin_request: 0,
        users: vec![UserId(1)],
        record: record(75 + seq, sender, key, content),
    };
    for seq in [2, 3] {
        rig.down(&event(seq, 2, "t", &"x".repeat(2_000)));
    }
    rig.sockets.get_mut(&client.id).expect("it is connected").room = None;
    rig.flush(client.id);
    rig.carry_out();
    client.take(&mut rig);
    client.say(&mut rig, Some("s"), &Command::Sync { conversation: HERE, from_seq: 3, limit: 2 });
    let Up::Read(read) = rig.next_up() else { panic!("the client reads") };
    let mine = record(79, 1, "m", "mine");
    let entries =
        vec![Entry { seq: 3, record: record(78, 2, "t", "third") }, Entry { seq: 4, record: mine.clone() }];
    rig.down(&Page { head_seq: 5, entries, has_more: true, ..own_page(session, read.request) });
    client.take(&mut rig);
    client.say(&mut rig, Some("again"), &send(HERE.0, Some("m"), "mine"));
    rig.down(&event(4, 1, "m", "mine"));
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Ack { seq: 4, duplicate: true, .. }]), "{seen:?}");
}

/// G6: a new owner hands on again what a session was brought by pages, as far as the earlier owner had handed on. That others
/// were told something of it before says nothing: the client is told to sync, and gets no event twice.
#[test]
fn g6_what_is_handed_on_again_to_others_first_is_still_in_doubt() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 3_600), &[(HERE.0, 3)]));
    let Up::Register(register) = rig.next_up() else { panic!("registers first") };
    let session = register.session;
    let conversations = vec![Joined { conversation: HERE, cursor: 3, is_returning: false }];
    rig.down(&Registered { session, request: register.request, conversations, more: false });
    let Up::Peek(peek) = rig.next_up() else { panic!("then peeks") };
    let standing =
        Standing { conversation: HERE, first_seq: 3, head_seq: 4, fanned_out_seq: 4, joined_seq: 3 };
    rig.down(&Peeked { session, request: peek.request, standings: vec![standing] });
    let Up::Read(read) = rig.next_up() else { panic!("brings what is missing") };
    let entries = vec![Entry { seq: 4, record: record(79, 2, "t", "fourth") }];
    // The log went on meanwhile, so it is not known that nobody has more.
    let page =
        Page { first_seq: 3, head_seq: 5, fanned_out_seq: 0, entries, ..own_page(session, read.request) };
    rig.down(&page);
    client.take(&mut rig);
    for (seq, user) in [(1, 2), (2, 2), (3, 1), (4, 1), (5, 1)] {
        rig.down(&Deliver {
            replayed: true,
            conversation: HERE,
            seq,
            head_seq: 5,
            origin_session: 0,
            origin_request: 0,
            users: vec![UserId(user)],
            record: record(75 + seq, 2, "t", "again"),
        });
    }
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Behind(list)] if *list == [(HERE.0, 5)]), "{seen:?}");
}
