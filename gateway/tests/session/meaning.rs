//! The fine print on meaning: sends, acks, receipts, sync, resume, being behind.

use carillon_gateway::turn::Input;
use carillon_node::metrics::WALL_MS;
use carillon_protocol::client::{Command, FrameId, Wire};
use carillon_protocol::frame::{
    Accepted, Concerned, Deliver, Entry, Joined, LinkFrame as _, Mark, Page, Peeked, Read, Refused,
    Registered, Standing, Watermark,
};
use carillon_protocol::ids::{ConversationId, MESSAGE_EPOCH_MS, MESSAGE_ID_LOW_BITS, MessageId, Seq, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::websocket::Opcode;

use crate::rig::{
    Client, ROUTER, Rig, Seen, Up, WALL, deliver, identify, live, record, send, text_id, token,
};

const HERE: u64 = 9;
const THERE: u64 = 10;

/// A page of messages of user 5, all of it fanned out.
fn page(read: &Read, seqs: std::ops::RangeInclusive<Seq>, head_seq: Seq) -> Page {
    let last = *seqs.end();
    Page {
        session: read.session,
        request: read.request,
        conversation: read.conversation,
        first_seq: 1,
        head_seq,
        fanned_out_seq: head_seq,
        entries: seqs.map(|seq| Entry { seq, record: record(seq << 22, 5, "k", "paged") }).collect(),
        has_more: last < head_seq,
        marks: Vec::new(),
        counts: None,
        reacted: Vec::new(),
    }
}

fn next_read(rig: &mut Rig) -> Read {
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    read
}

/// The durable seqs a client saw, with how.
fn line(seen: &[Seen]) -> Vec<(&'static str, Seq)> {
    seen.iter()
        .flat_map(|seen| match seen {
            Seen::Event(event) => vec![("live", event.seq)],
            Seen::Batch { events, .. } => events.iter().map(|event| ("page", event.seq)).collect(),
            Seen::Ack { seq, status: "sent", .. } => vec![("ack", *seq)],
            Seen::Reset { head, .. } => vec![("reset", *head)],
            Seen::Behind(_) => vec![("behind", 0)],
            Seen::CaughtUp => vec![("caught_up", 0)],
            _ => Vec::new(),
        })
        .collect()
}

/// F6, OO5: `ready` counts what follows, resets apart; pages per conversation; then `caught_up`, then live. What is
/// committed while pages go out is in them.
#[test]
fn f6_a_resume_counts_pages_and_splices() {
    for wire in [Wire::Json, Wire::Rkyv] {
        let mut rig = Rig::new(&[]);
        rig.lane_up();
        let mut client = rig.connect(wire);
        // The client's own cursor overrides; a conversation without access is ignored.
        client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[(HERE, 2), (777, 5)]));
        let seen = client.finish_registering(&mut rig, &[(HERE, 0, 5), (THERE, 3, 2_000), (11, 4, 4)]);
        assert_eq!(seen[0], Seen::Ready { id: None, conversations: 1, events: 3 });
        assert_eq!(
            seen[1],
            Seen::Reset { id: None, conversation: THERE, first: 1, head: 2_000, reason: "too_far_behind" }
        );
        assert_eq!(seen.len(), 2);
        let read = next_read(&mut rig);
        assert_eq!((read.conversation.0, read.from_seq, read.to_seq, read.limit), (HERE, 3, 5, 200));
        rig.down(&deliver(HERE, 6, 5, "k", "new", &[1]));
        rig.down(&deliver(THERE, 2_001, 5, "k", "new", &[1]));
        rig.down(&page(&read, 3..=4, 6));
        let read = next_read(&mut rig);
        assert_eq!((read.from_seq, read.to_seq), (5, 6));
        rig.down(&page(&read, 5..=6, 6));
        rig.down(&deliver(HERE, 7, 5, "k", "new", &[1]));
        let seen = client.take(&mut rig);
        let expected = [
            ("live", 2_001),
            ("page", 3),
            ("page", 4),
            ("page", 5),
            ("page", 6),
            ("caught_up", 0),
            ("live", 7),
        ];
        assert_eq!(line(&seen), expected);
    }
}

/// G6: what was paged beyond what is fanned out is not pushed again.
#[test]
fn g6_a_page_ahead_of_fan_out_is_not_repeated() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    // Committed up to 3, fanned out up to 1.
    client.finish_registering(&mut rig, &[(HERE, 0, 1)]);
    rig.up.clear();
    rig.lane_down();
    rig.lane_up();
    let Up::Register(register) = rig.next_up() else { panic!("registers again") };
    let joined = Joined { conversation: ConversationId(HERE), cursor: 0, is_returning: false };
    let (session, request) = (register.session, register.request);
    rig.down(&Registered { session, request, conversations: vec![joined], more: false });
    let Up::Peek(peek) = rig.next_up() else { panic!("peeks") };
    let standing = Standing {
        conversation: ConversationId(HERE),
        first_seq: 1,
        head_seq: 3,
        fanned_out_seq: 1,
        joined_seq: 1,
    };
    rig.down(&Peeked { session, request: peek.request, standings: vec![standing] });
    let read = next_read(&mut rig);
    rig.down(&Page { fanned_out_seq: 1, ..page(&read, 1..=3, 3) });
    for seq in 2..=4 {
        rig.down(&deliver(HERE, seq, 5, "k", "x", &[1]));
    }
    let seen = client.take(&mut rig);
    assert_eq!(line(&seen), [("page", 1), ("page", 2), ("page", 3), ("caught_up", 0), ("live", 4)]);
}

/// OO1–OO4, WS2: the sender's connection hears its ack and nothing else, in whichever order ack and event come; its
/// user's other connections hear the message with its `client_msg_id`, others without.
#[test]
fn the_ack_is_the_event_for_its_connection() {
    for is_event_first in [false, true] {
        let mut rig = Rig::new(&[]);
        let mut sender = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
        let mut own = live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 0, 0)]);
        let mut other = live(&mut rig, 2, "phone", Wire::Json, &[(HERE, 0, 0)]);
        assert!(sender.say(&mut rig, Some("s1"), &send(HERE, Some("key"), "hello")).is_empty());
        let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
        assert_eq!((submit.user, submit.client_msg_id.as_str()), (UserId(1), "key"));
        let mut event = deliver(HERE, 1, 1, "key", "hello", &[1, 2]);
        (event.origin_session, event.origin_request) = (submit.session, submit.request);
        if is_event_first {
            rig.down(&event);
            sender.accept(&mut rig, &submit, 1, false);
        } else {
            sender.accept(&mut rig, &submit, 1, false);
            rig.down(&event);
        }
        let ack = Seen::Ack {
            id: Some(text_id("s1")),
            conversation: HERE,
            seq: 1,
            status: "sent",
            client_msg_id: Some("key".to_owned()),
            duplicate: false,
            count: None,
        };
        assert_eq!(sender.take(&mut rig), [ack]);
        for (client, key) in [(&mut own, Some("key")), (&mut other, None)] {
            let seen = client.take(&mut rig);
            let [Seen::Event(event)] = seen.as_slice() else { panic!("{seen:?}") };
            assert_eq!(
                (event.client_msg_id.as_deref(), event.content.as_str(), event.status),
                (key, "hello", 0)
            );
        }
    }
}

/// G2, F1: a duplicate is told as one, and its event comes as well.
#[test]
fn g2_a_duplicate_does_not_fill_its_seq() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    client.say(&mut rig, None, &send(HERE, Some("key"), "hello"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    client.accept(&mut rig, &submit, 1, true);
    rig.down(&deliver(HERE, 1, 1, "key", "hello", &[1]));
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Ack { duplicate: true, .. }, Seen::Event(_)]), "{seen:?}");
}

/// G2, G9, F13: without a lane commands wait; with a new one they leave again, in order, behind the registration, under
/// new numbers and the same key, which is minted as a UUID where the client gave none.
#[test]
fn f13_unanswered_commands_go_again_in_order() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    client.say(&mut rig, None, &send(HERE, None, "one"));
    client.say(&mut rig, None, &send(HERE, Some("two"), "two"));
    let [Up::Submit(one), Up::Submit(two)] = [rig.next_up(), rig.next_up()] else { panic!("submits") };
    assert_eq!(one.client_msg_id.len(), 36);
    assert_eq!(one.client_msg_id.as_bytes()[14], b'4', "version 4: {}", one.client_msg_id);
    rig.lane_down();
    client.say(&mut rig, None, &send(HERE, Some("three"), "three"));
    assert!(rig.up.is_empty());
    rig.lane_up();
    assert!(matches!(rig.next_up(), Up::Register(register) if register.again));
    let again: Vec<_> = (0..3)
        .map(|_| match rig.next_up() {
            Up::Submit(submit) => submit,
            other => panic!("{other:?}"),
        })
        .collect();
    let keys: Vec<_> = again.iter().map(|submit| submit.client_msg_id.as_str()).collect();
    assert_eq!(keys, [one.client_msg_id.as_str(), "two", "three"]);
    assert!(again[0].request > two.request, "F13: numbers are never used again");
    // An answer to the first attempt finds nobody.
    client.accept(&mut rig, &one, 1, false);
    assert!(client.take(&mut rig).is_empty());
    client.accept(&mut rig, &again[0], 1, true);
    let seen = client.take(&mut rig);
    let [Seen::Ack { client_msg_id: None, duplicate: true, .. }] = seen.as_slice() else {
        panic!("{seen:?}")
    };
}

/// G5: no lane for ten seconds: `unknown_outcome`. What was answered so is not sent again, and its event, should it
/// come, comes as an event.
#[test]
fn g5_a_command_without_a_lane_ends_unknown() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    client.say(&mut rig, Some("s"), &send(HERE, Some("key"), "x"));
    rig.lane_down();
    rig.pass_ms(9_900);
    assert!(client.take(&mut rig).is_empty());
    rig.pass_ms(200);
    let seen = client.take(&mut rig);
    assert!(
        matches!(seen.as_slice(), [Seen::Error { id: Some(_), code: "unknown_outcome", .. }]),
        "{seen:?}"
    );
    rig.lane_up();
    client.finish_registering(&mut rig, &[(HERE, 0, 0)]);
    assert!(rig.up.is_empty());
    rig.down(&deliver(HERE, 1, 1, "key", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("live", 1)]);
}

/// A refusal is told with its field; a later one of the same shape in a repeated attempt is not definite (G5).
#[test]
fn g5_refusals_are_told() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let refuse = |rig: &mut Rig, request: u64, session: u64, code: Code, field: &str| {
        rig.down(&Refused {
            session,
            request,
            code: code as u16,
            retry_after_ms: 70,
            field: field.to_owned(),
            message: "no".into(),
        });
    };
    client.say(&mut rig, Some("a"), &send(HERE, Some("k"), "x"));
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    refuse(&mut rig, submit.request, submit.session, Code::NotFound, "reply_to");
    let seen = client.take(&mut rig);
    let expected = Seen::Error {
        id: Some(text_id("a")),
        code: "not_found",
        field: Some("reply_to"),
        retry_after_ms: Some(70),
    };
    assert_eq!(seen, [expected]);

    for code in [Code::Unavailable, Code::Overloaded, Code::RateLimited] {
        client.say(&mut rig, None, &send(HERE, Some("l"), "x"));
        rig.lane_down();
        rig.lane_up();
        rig.up.pop_front();
        let Some(Up::Submit(again)) = rig.up.pop_back().map(|bytes| Up::read(&bytes)) else {
            panic!("submits again")
        };
        refuse(&mut rig, again.request, again.session, code, "");
        let seen = client.take(&mut rig);
        assert!(matches!(seen.as_slice(), [Seen::Error { code: "unknown_outcome", .. }]), "{seen:?}");
    }
}

/// G13: above `limits.inflight` the connection is not read, what was read already is held, and it goes on below.
#[test]
fn g13_too_many_commands_wait_outside() {
    let mut rig = Rig::new(&["limits.inflight=4", "limits.send_per_s=0"]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let keys: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
    let mut bytes = Vec::new();
    for key in &keys {
        bytes.extend(client.frame(None, &send(HERE, Some(key), "x")));
    }
    rig.received(client.id, &bytes);
    assert!(rig.up.len() == 4 && rig.sockets[&client.id].is_paused);
    let mut acked = Vec::new();
    for seq in 1..=10 {
        let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
        client.accept(&mut rig, &submit, seq, false);
        for seen in client.take(&mut rig) {
            let Seen::Ack { client_msg_id: Some(key), .. } = seen else { panic!("{seen:?}") };
            acked.push(key);
        }
        assert!(rig.up.len() <= 4);
    }
    assert_eq!(acked, keys, "G9");
    assert!(!rig.sockets[&client.id].is_paused);
}

/// G12, F16: a turn's `delivered`s leave as one, merged by maximum; without a lane they wait; with an `id` they are
/// answered when durable.
#[test]
fn f16_watermarks_merge() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 9, 9)]);
    let conversation = ConversationId(HERE);
    let mut bytes = Vec::new();
    for seq in [3, 5, 4] {
        bytes.extend(client.frame(None, &Command::Delivered { conversation, seq }));
    }
    bytes.extend(client.frame(None, &Command::Read { conversation, seq: 2 }));
    rig.received(client.id, &bytes);
    let Up::Receipt(receipt) = rig.next_up() else { panic!("one receipt") };
    assert_eq!((receipt.request, receipt.delivered_seq, receipt.read_seq), (0, 5, 2));
    assert_eq!((receipt.device.as_str(), rig.up.len()), ("phone", 0));

    client.say(&mut rig, Some("r"), &Command::Read { conversation, seq: 6 });
    let Up::Receipt(receipt) = rig.next_up() else { panic!("a receipt") };
    rig.down(&Accepted {
        session: receipt.session,
        request: receipt.request,
        conversation,
        seq: 6,
        id: 0,
        duplicate: false,
        unchanged: false,
    });
    let expected =
        Seen::Ok { id: Some(text_id("r")), conversation: Some(HERE), seq: Some(6), duplicate: false };
    assert_eq!(client.take(&mut rig), [expected]);

    rig.lane_down();
    client.say(&mut rig, None, &Command::Delivered { conversation, seq: 7 });
    client.say(&mut rig, None, &Command::Delivered { conversation, seq: 8 });
    rig.lane_up();
    rig.next_up();
    assert!(matches!(rig.next_up(), Up::Receipt(receipt) if receipt.delivered_seq == 8));
}

/// FR4: a reader's watermark is told to the senders it concerns, on all their devices.
#[test]
fn fr4_watermarks_reach_their_senders() {
    let mut rig = Rig::new(&[]);
    let mut senders = [
        live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]),
        live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 4, 4)]),
    ];
    let mut reader = live(&mut rig, 2, "phone", Wire::Json, &[(HERE, 4, 4)]);
    for read in [false, true] {
        rig.down(&Watermark {
            conversation: ConversationId(HERE),
            reader: UserId(2),
            read,
            at_ms: 1,
            named: true,
            senders: vec![Concerned { user: UserId(1), seq: 3, message: MessageId(33), count: 0 }],
        });
    }
    for sender in &mut senders {
        let statuses: Vec<_> = sender
            .take(&mut rig)
            .into_iter()
            .map(|seen| match seen {
                Seen::Ack { seq: 3, status, .. } => status,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(statuses, ["delivered", "read"]);
    }
    assert!(reader.take(&mut rig).is_empty());
}

/// `sync`: its own `id`, one at a time, statuses for the sender, resets and refusals with the `id`.
#[test]
fn sync_is_answered_with_its_id() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 5, "phone", Wire::Json, &[(HERE, 9, 9)]);
    let sync = |from_seq, limit| Command::Sync { conversation: ConversationId(HERE), from_seq, limit };
    client.say(&mut rig, Some("a"), &sync(3, 2));
    client.say(&mut rig, Some("b"), &sync(11, 9));
    let read = next_read(&mut rig);
    assert_eq!((read.from_seq, read.to_seq, read.limit, rig.up.len()), (3, Seq::MAX, 2, 0), "one at a time");
    let marks = vec![
        Mark { user: UserId(1), delivered_seq: 4, read_seq: 3 },
        Mark { user: UserId(2), delivered_seq: 3, read_seq: 3 },
    ];
    rig.down(&Page { marks, ..page(&read, 3..=4, 9) });
    let seen = client.take(&mut rig);
    let [Seen::Batch { id, events, from: 3, to: 4, head: 9, has_more: true, .. }] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(*id, Some(text_id("a")));
    let statuses: Vec<u8> = events.iter().map(|event| event.status).collect();
    assert_eq!(statuses, [2, 0], "the least of the recipients: read, sent");
    assert_eq!(events[0].client_msg_id.as_deref(), Some("k"));

    let read = next_read(&mut rig);
    rig.down(&Page { entries: Vec::new(), ..page(&read, 9..=9, 9) });
    let reset =
        Seen::Reset { id: Some(text_id("b")), conversation: HERE, first: 1, head: 9, reason: "cursor_ahead" };
    assert_eq!(client.take(&mut rig), [reset]);

    client.say(&mut rig, Some("c"), &sync(10, 9));
    let read = next_read(&mut rig);
    rig.down(&Page { entries: Vec::new(), ..page(&read, 9..=9, 9) });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { from: 10, to: 9, has_more: false, .. }]), "{seen:?}");

    client.say(&mut rig, Some("d"), &sync(1, 9));
    let read = next_read(&mut rig);
    rig.down(&Refused {
        session: read.session,
        request: read.request,
        code: Code::Forbidden as u16,
        retry_after_ms: 0,
        field: "conversation_id".into(),
        message: "no".into(),
    });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Error { id: Some(_), code: "forbidden", .. }]), "{seen:?}");
}

/// A page to a client ends at 64 KiB or one event, however long its text becomes in JSON.
#[test]
fn pages_to_clients_are_cut_at_64_kib() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    client.finish_registering(&mut rig, &[(HERE, 0, 4)]);
    let read = next_read(&mut rig);
    // A control character is one byte in the record and six in JSON.
    let content = "\u{1}".repeat(8_000);
    let entries = |from: Seq| {
        (from..=4).map(|seq| Entry { seq, record: record(seq << 22, 5, "k", &content) }).collect()
    };
    rig.down(&Page { entries: entries(1), ..page(&read, 4..=4, 4) });
    let seen = client.take(&mut rig);
    assert_eq!(line(&seen), [("page", 1), ("page", 2), ("page", 3), ("page", 4), ("caught_up", 0)]);
    assert_eq!(seen.len(), 5, "one event a batch");

    client.say(
        &mut rig,
        Some("s"),
        &Command::Sync { conversation: ConversationId(HERE), from_seq: 1, limit: 9 },
    );
    let read = next_read(&mut rig);
    rig.down(&Page { entries: entries(1), ..page(&read, 4..=4, 4) });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { to: 1, has_more: true, .. }]), "{seen:?}");
}

fn fill(rig: &mut Rig, client: &Client, until: Seq) {
    rig.sockets.get_mut(&client.id).unwrap().room = Some(0);
    for seq in 1..=until {
        rig.down(&deliver(HERE, seq, 5, "k", &"x".repeat(100), &[1]));
    }
}

/// F14, G13: a slow client is told `behind`, gets nothing live, syncs at its own pace, and is live again after
/// `caught_up`; its queue stays bounded, and its neighbours notice nothing.
#[test]
fn f14_a_slow_client_is_behind_and_catches_up() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=2000"]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0), (THERE, 0, 0)]);
    let mut neighbour = live(&mut rig, 1, "pad", Wire::Json, &[(HERE, 0, 0), (THERE, 0, 0)]);
    fill(&mut rig, &client, 50);
    rig.down(&deliver(THERE, 1, 5, "k", "x", &[1]));
    assert!(rig.pending_bytes(client.id) < 2_200, "{}", rig.pending_bytes(client.id));
    assert_eq!(neighbour.take(&mut rig).len(), 51);

    rig.sockets.get_mut(&client.id).unwrap().room = None;
    rig.flush(client.id);
    rig.carry_out();
    let seen = client.take(&mut rig);
    let Some((Seen::Behind(listed), events)) = seen.split_last() else { panic!("{seen:?}") };
    let held = events.len() as Seq;
    assert_eq!((listed.as_slice(), held > 3), (&[(HERE, held + 1)][..], true));

    rig.down(&deliver(HERE, 51, 5, "k", "x", &[1]));
    let conversation = ConversationId(HERE);
    client.say(&mut rig, Some("1"), &Command::Sync { conversation, from_seq: held + 1, limit: 20 });
    let read = next_read(&mut rig);
    rig.down(&page(&read, held + 1..=held + 20, 51));
    let mut seen = line(&client.take(&mut rig));
    client.say(&mut rig, Some("2"), &Command::Sync { conversation, from_seq: held + 21, limit: 200 });
    let read = next_read(&mut rig);
    rig.down(&page(&read, held + 21..=51, 51));
    // What the client was not told about is brought by us.
    let read = next_read(&mut rig);
    assert_eq!((read.conversation.0, read.from_seq), (THERE, 1));
    rig.down(&page(&read, 1..=1, 1));
    rig.down(&deliver(HERE, 52, 5, "k", "x", &[1]));
    seen.extend(line(&client.take(&mut rig)));
    let mut expected: Vec<_> = (held + 1..=51).map(|seq| ("page", seq)).collect();
    expected.extend([("page", 1), ("caught_up", 0), ("live", 52)]);
    assert_eq!(seen, expected);
}

/// G13, F14: when many stop reading at once, what waits for all of them together is bounded as well: each has less and is
/// `behind` sooner, and who reads is live all the time. When they are gone nothing is counted any more.
#[test]
fn g13_what_waits_for_all_together_is_bounded() {
    const STUCK: u64 = 40;
    const BOUND: usize = 100_000;
    let mut rig = Rig::new(&["limits.conn_queue_bytes=16000", "limits.queues_bytes_max=100000"]);
    let mut reader = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    let stuck: Vec<Client> = (2..2 + STUCK)
        .map(|user| {
            let client = live(&mut rig, user, "phone", Wire::Json, &[(HERE, 0, 0)]);
            rig.sockets.get_mut(&client.id).unwrap().room = Some(0);
            client
        })
        .collect();
    let users: Vec<u64> = (1..2 + STUCK).collect();
    for seq in 1..=200 {
        rig.down(&deliver(HERE, seq, 99, "k", "some words", &users));
    }
    let waiting = |rig: &Rig| -> usize { stuck.iter().map(|client| rig.pending_bytes(client.id)).sum() };
    let each_max = 16_000 / 16 + 500;
    let waiting_bytes = waiting(&rig);
    assert!(waiting_bytes > BOUND / 2, "they are stuck: {waiting_bytes}");
    assert!(waiting_bytes < BOUND + stuck.len() * each_max, "{waiting_bytes}");
    assert_eq!(rig.shard.counters().queued_bytes, waiting_bytes as u64);
    assert_eq!(reader.take(&mut rig).len(), 200);

    // Who reads again is told what it missed, and the rest leave.
    let (first, rest) = stuck.split_first().unwrap();
    rig.sockets.get_mut(&first.id).unwrap().room = None;
    rig.flush(first.id);
    rig.carry_out();
    assert_eq!(rig.pending_bytes(first.id), 0);
    for client in rest {
        rig.input(Input::Closed { connection: client.id });
    }
    rig.carry_out();
    assert_eq!(rig.shard.counters().queued_bytes, 0);
}

/// F14, G6: what comes in the turn in which a client has synced comes behind its `caught_up`; and what comes of another
/// conversation while something is still to be brought is brought as well, not pushed.
#[test]
fn f14_nothing_is_live_between_behind_and_caught_up() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=2000"]);
    let conversation = ConversationId(HERE);
    for is_more in [false, true] {
        let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0), (THERE, 0, 0)]);
        fill(&mut rig, &client, 50);
        if is_more {
            rig.down(&deliver(THERE, 1, 5, "k", "x", &[1]));
        }
        rig.sockets.get_mut(&client.id).unwrap().room = None;
        rig.flush(client.id);
        rig.carry_out();
        let held = client.take(&mut rig).len() as Seq - 1;
        client.say(&mut rig, None, &Command::Sync { conversation, from_seq: held + 1, limit: 200 });
        let read = next_read(&mut rig);
        let frames = [
            page(&read, held + 1..=50, 50).to_frame(),
            deliver(HERE, 51, 5, "k", "x", &[1]).to_frame(),
            deliver(THERE, 1 + u64::from(is_more), 5, "k", "x", &[1]).to_frame(),
        ];
        for frame in &frames {
            rig.input(Input::LaneFrame { router: ROUTER, frame });
        }
        rig.carry_out();
        let mut seen = line(&client.take(&mut rig));
        assert!(seen.len() as Seq >= 50 - held);
        seen.drain(..(50 - held) as usize);
        if !is_more {
            assert_eq!(seen, [("caught_up", 0), ("live", 51), ("live", 1)]);
            continue;
        }
        assert_eq!(seen, []);
        let read = next_read(&mut rig);
        assert_eq!((read.conversation.0, read.from_seq), (HERE, 51));
        rig.down(&page(&read, 51..=51, 51));
        let read = next_read(&mut rig);
        assert_eq!((read.conversation.0, read.from_seq, read.to_seq), (THERE, 1, 2));
        rig.down(&page(&read, 1..=2, 2));
        let seen = line(&client.take(&mut rig));
        assert_eq!(seen, [("page", 51), ("page", 1), ("page", 2), ("caught_up", 0)]);
    }
}

/// F14: 4010 after the grace time without progress, whether the socket is stuck or the client does not sync.
#[test]
fn f14_no_progress_closes_with_4010() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=2000", "limits.heartbeat_interval_ms=600000"]);
    let mut stuck = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0)]);
    fill(&mut rig, &stuck, 50);
    rig.pass_ms(59_900);
    assert!(!stuck.is_closed(&rig));
    rig.pass_ms(200);
    assert!(stuck.is_closed(&rig));
    rig.sockets.get_mut(&stuck.id).unwrap().room = None;
    rig.flush(stuck.id);
    rig.carry_out();
    assert_eq!(stuck.take(&mut rig).last(), Some(&Seen::Close(Some(4010))));

    rig.up.clear();
    let mut lazy = live(&mut rig, 2, "phone", Wire::Json, &[(HERE, 0, 0)]);
    fill(&mut rig, &lazy, 0);
    for seq in 1..=50 {
        rig.down(&deliver(HERE, seq, 5, "k", &"x".repeat(100), &[2]));
    }
    rig.sockets.get_mut(&lazy.id).unwrap().room = None;
    rig.flush(lazy.id);
    rig.carry_out();
    rig.pass_ms(60_100);
    assert_eq!(lazy.take(&mut rig).last(), Some(&Seen::Close(Some(4010))));
}

/// F5, G7: after a lost lane a live session is brought what its shard did not hear, as live events, without being told.
#[test]
fn f5_a_lost_lane_is_spliced_without_a_word() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 0, 0), (THERE, 7, 7)]);
    rig.down(&deliver(HERE, 1, 5, "k", "x", &[1]));
    rig.lane_down();
    rig.lane_up();
    assert_eq!(line(&client.finish_registering(&mut rig, &[(HERE, 0, 3), (THERE, 7, 7)])), [("live", 1)]);
    let read = next_read(&mut rig);
    assert_eq!((read.conversation.0, read.from_seq, read.to_seq), (HERE, 2, 3));
    rig.down(&page(&read, 2..=3, 3));
    rig.down(&deliver(HERE, 4, 5, "k", "x", &[1]));
    assert_eq!(line(&client.take(&mut rig)), [("live", 2), ("live", 3), ("live", 4)]);
}

/// A lane that says something unreadable is given up, and frames of strangers find nobody.
#[test]
fn an_unreadable_lane_is_given_up() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[]);
    rig.input(Input::LaneFrame { router: ROUTER, frame: &[1, 0, 0xff, 0xff, 0, 0, 0, 0] });
    rig.carry_out();
    assert_eq!(rig.closed_lanes, [ROUTER]);
    rig.down(&Accepted {
        session: u64::MAX,
        request: 1,
        conversation: ConversationId(HERE),
        seq: 1,
        id: 1,
        duplicate: false,
        unchanged: false,
    });
    assert_eq!(client.say(&mut rig, None, &Command::Heartbeat), [Seen::HeartbeatAck]);
}

/// Frames of one binary message are several commands; each answer echoes its `id`.
#[test]
fn a_binary_message_may_hold_several_frames() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Rkyv, &[(HERE, 0, 0)]);
    let mut archive = rkyv::util::AlignedVec::new();
    for number in 1..=2 {
        let command = send(HERE, None, "x");
        carillon_protocol::client::binary::encode_command(
            Some(&FrameId::Number(number)),
            &command,
            &mut archive,
        );
    }
    assert!(client.raw(&mut rig, Opcode::Binary, &archive).is_empty());
    for seq in 1..=2 {
        let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
        client.accept(&mut rig, &submit, seq, false);
        let seen = client.take(&mut rig);
        let [Seen::Ack { id: Some(FrameId::Number(number)), .. }] = seen.as_slice() else {
            panic!("{seen:?}")
        };
        assert_eq!(*number, i64::try_from(seq).unwrap());
    }
}

/// TO2: how long after its commit an event was given to a client is counted, once for each client that gets it live. A
/// clock that is behind the router's counts as no time at all.
#[test]
fn to2_the_time_from_commit_to_delivery_is_counted() {
    let mut rig = Rig::new(&[]);
    let mut clients = [1, 2].map(|user| live(&mut rig, user, "phone", Wire::Json, &[(7, 3, 3)]));
    let event = |seq: Seq, created_at_ms: u64, users: &[u64]| {
        let id = (created_at_ms - MESSAGE_EPOCH_MS) << MESSAGE_ID_LOW_BITS;
        Deliver { record: record(id, 5, "k", "x"), ..deliver(7, seq, 5, "k", "x", users) }
    };
    rig.down(&event(4, WALL - 40, &[1, 2]));
    rig.down(&event(5, WALL - 3_000, &[1]));
    rig.down(&event(6, WALL + 9, &[1]));
    rig.down(&event(7, WALL - 999_999, &[1]));
    assert_eq!(clients.each_mut().map(|client| client.take(&mut rig).len()), [4, 1]);
    let counters = rig.shard.counters();
    let bounds = WALL_MS.bounds.iter().copied().chain([u64::MAX]);
    let counted: Vec<(u64, u64)> = bounds.zip(counters.delivered).filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted, [(1, 1), (50, 2), (10_000, 1), (u64::MAX, 1)]);
    assert_eq!((counters.events_live, counters.delivered_ms), (5, 2 * 40 + 3_000 + 999_999));
}
