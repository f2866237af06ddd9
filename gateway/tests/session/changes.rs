//! Changes of a log that are no messages, and what devices of one user tell each other.

use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{
    self, Accepted, Change, Concerned, Counts, Deliver, Entry, Page, Reacted, ReactionCount, ReadSync,
    Submit, Watermark,
};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::record::{Body, Event, MessageType};

use crate::rig::{Client, Rig, Seen, Up, deliver, deliver_event, event, live, record, text_id};

const HERE: u64 = 9;
const CONVERSATION: ConversationId = ConversationId(HERE);
const MESSAGE: MessageId = MessageId(3 << 22);

fn react(client_msg_id: Option<&str>, add: bool) -> Command<'_> {
    Command::React {
        conversation: CONVERSATION,
        message: MESSAGE,
        emoji: "\u{1f44d}".into(),
        client_msg_id: client_msg_id.map(Into::into),
        add,
    }
}

fn delete(client_msg_id: Option<&str>) -> Command<'_> {
    Command::DeleteMessage {
        conversation: CONVERSATION,
        message: MESSAGE,
        client_msg_id: client_msg_id.map(Into::into),
    }
}

/// The event that a command of user 1 made.
fn outcome(submit: &Submit, seq: u64, is_known: bool) -> Deliver {
    let frame::Command::Change { change, .. } = &submit.command else { panic!("a change") };
    let body = match change {
        Change::Delete { message } => Body::Deleted { target_seq: 3, message: *message },
        Change::React { message, emoji } => Body::ReactionAdded { target_seq: 3, message: *message, emoji },
        Change::Unreact { message, emoji } => {
            Body::ReactionRemoved { target_seq: 3, message: *message, emoji }
        }
        other => panic!("{other:?}"),
    };
    let id = MessageId(seq << 22);
    let event = Event { id, sender: UserId(1), client_msg_id: submit.client_msg_id.as_str().into(), body };
    Deliver {
        replayed: false,
        origin_session: if is_known { submit.session } else { 0 },
        origin_request: if is_known { submit.request } else { 0 },
        record: event.encode(),
        ..deliver_event(HERE, seq, Body::Renamed { group_name: None }, &[1, 2])
    }
}

fn next_submit(rig: &mut Rig) -> Submit {
    let Up::Submit(submit) = rig.next_up() else { panic!("submits") };
    submit
}

fn accepted(submit: &Submit, seq: u64, duplicate: bool, unchanged: bool) -> Accepted {
    Accepted {
        session: submit.session,
        request: submit.request,
        conversation: CONVERSATION,
        seq,
        id: seq << 22,
        duplicate,
        unchanged,
    }
}

fn ok(id: &str, seq: Option<u64>, duplicate: bool) -> Seen {
    Seen::Ok { id: Some(text_id(id)), conversation: Some(HERE), seq, duplicate }
}

fn kinds(seen: &[Seen]) -> Vec<(&'static str, u64)> {
    let event = |seen: &Seen| match seen {
        Seen::Event(event) => (event.kind, event.seq),
        other => panic!("{other:?}"),
    };
    seen.iter().map(event).collect()
}

/// FU5, FU6, G6: whether the answer comes first or the event, and whether the router still knows whose it is: for the
/// sending connection the `ok` is the event; the user's other devices and other users get the event.
#[test]
fn fu5_an_ok_fills_the_seq_of_a_change() {
    for (is_accepted_first, is_known) in [(true, true), (false, true), (false, false)] {
        let mut rig = Rig::new(&[]);
        let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
        let mut others = [
            live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 4, 4)]),
            live(&mut rig, 2, "phone", Wire::Json, &[(HERE, 4, 4)]),
        ];
        let commands = [react(Some("a"), true), react(Some("b"), false), delete(Some("c"))];
        for (seq, command) in (5..).zip(&commands) {
            assert!(client.say(&mut rig, Some("id"), command).is_empty());
            let submit = next_submit(&mut rig);
            if is_accepted_first {
                rig.down(&accepted(&submit, seq, false, false));
            }
            rig.down(&outcome(&submit, seq, is_known));
            if !is_accepted_first {
                rig.down(&accepted(&submit, seq, false, false));
            }
            assert_eq!(client.take(&mut rig), [ok("id", Some(seq), false)]);
        }
        for other in &mut others {
            let seen = other.take(&mut rig);
            assert_eq!(kinds(&seen), [("reacted", 5), ("unreacted", 6), ("deleted", 7)]);
        }
    }
}

/// G2: what was so already is said without an event; what an earlier attempt did comes as an event, too.
#[test]
fn g2_a_change_that_changes_nothing() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 5, 5)]);
    let cases = [
        // (seq, duplicate, unchanged) → what is said.
        ((5, false, true), ok("id", Some(5), false)),
        ((6, false, true), ok("id", Some(6), false)),
        ((0, false, true), ok("id", None, false)),
        ((0, true, true), ok("id", None, true)),
        ((6, true, false), ok("id", Some(6), true)),
    ];
    for ((seq, duplicate, unchanged), expected) in cases {
        client.say(&mut rig, Some("id"), &react(None, false));
        let submit = next_submit(&mut rig);
        assert_eq!(submit.client_msg_id.len(), 36, "minted");
        rig.down(&accepted(&submit, seq, duplicate, unchanged));
        assert_eq!(client.take(&mut rig), [expected]);
    }
    // The user's own, from another device.
    rig.down(&deliver(HERE, 6, 1, "k", "six", &[1]));
    assert_eq!(kinds(&client.take(&mut rig)), [("message", 6)]);
}

/// G2: another command with the same key is not answered by the event of the first.
#[test]
fn g2_an_event_answers_only_what_it_says() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
    client.say(&mut rig, Some("react"), &react(Some("same"), true));
    let first = next_submit(&mut rig);
    client.say(&mut rig, Some("delete"), &delete(Some("same")));
    next_submit(&mut rig);
    rig.down(&outcome(&first, 5, false));
    assert_eq!(client.take(&mut rig), [ok("react", Some(5), false)]);
    rig.down(&outcome(&first, 6, false));
    assert_eq!(kinds(&client.take(&mut rig)), [("reacted", 6)], "the deletion is not answered by it");
}

fn sync(rig: &mut Rig, client: &mut Client, page: impl FnOnce(Page) -> Page) -> Vec<Seen> {
    client.say(rig, Some("s"), &Command::Sync { conversation: CONVERSATION, from_seq: 1, limit: 200 });
    let Up::Read(read) = rig.next_up() else { panic!("reads") };
    rig.down(&page(Page {
        session: read.session,
        request: read.request,
        conversation: CONVERSATION,
        first_seq: 1,
        head_seq: 4,
        fanned_out_seq: 4,
        entries: Vec::new(),
        has_more: false,
        marks: Vec::new(),
        counts: None,
        reacted: Vec::new(),
    }));
    client.take(rig)
}

/// FU5, FU6: a page shows tombstones without content, and the reactions under its messages.
#[test]
fn fu5_a_page_with_tombstones_and_reactions() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
    let thumbs = |count, mine| ReactionCount { emoji: "\u{1f44d}".into(), count, mine };
    let seen = sync(&mut rig, &mut client, |page| Page {
        entries: vec![
            Entry { seq: 1, record: event(1, Body::Renamed { group_name: Some("x") }) },
            Entry { seq: 2, record: record(2 << 22, 5, "k", "two") },
            Entry {
                seq: 3,
                record: event(3, Body::Tombstone { message_type: MessageType::Image, deleted_seq: 9 }),
            },
            Entry { seq: 4, record: record(4 << 22, 1, "k", "four") },
        ],
        reacted: vec![
            Reacted { seq: 2, reactions: vec![thumbs(2, true)] },
            Reacted { seq: 4, reactions: vec![thumbs(1, false)] },
        ],
        counts: Some(Counts { seq: 4, delivered_count: 700, read_count: 700 }),
        ..page
    });
    let [Seen::Batch { events, .. }] = seen.as_slice() else { panic!("{seen:?}") };
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.content.as_str(), event.status, event.reactions.as_slice()))
        .collect();
    let thumbs = |count, mine| [("\u{1f44d}".to_owned(), count, mine)];
    assert_eq!(
        shown,
        [
            ("updated", "", 0, &[][..]),
            ("message", "two", 0, &thumbs(2, true)[..]),
            ("tombstone", "", 0, &[][..]),
            // Where members are only counted, one's own message stays `sent`.
            ("message", "four", 0, &thumbs(1, false)[..]),
        ]
    );
}

/// GF5: in a large group a sender hears how many got so far.
#[test]
fn gf5_watermarks_are_counted_in_large_groups() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
    rig.down(&Watermark {
        conversation: CONVERSATION,
        reader: UserId(0),
        read: false,
        at_ms: 1,
        named: false,
        senders: vec![Concerned { user: UserId(1), seq: 3, message: MESSAGE, count: 412 }],
    });
    let seen = client.take(&mut rig);
    assert!(
        matches!(seen.as_slice(), [Seen::Ack { seq: 3, status: "delivered", count: Some(412), .. }]),
        "{seen:?}"
    );
}

/// OO6: what is read on one device is read on the user's others; what finds no room is said when there is some, the
/// latest word only.
#[test]
fn oo6_what_is_read_on_one_device_is_read_on_all() {
    let mut rig = Rig::new(&["limits.conn_queue_bytes=1024"]);
    let mut reader = live(&mut rig, 1, "phone", Wire::Json, &[(HERE, 4, 4)]);
    let mut other = live(&mut rig, 1, "pad", Wire::Rkyv, &[(HERE, 4, 4)]);
    let read_sync = |read_seq, unread_count| ReadSync {
        user: UserId(1),
        conversation: CONVERSATION,
        read_seq,
        unread_count,
        except_session: reader.id.as_u64(),
    };
    rig.down(&read_sync(2, 2));
    let seen = |read, unread| Seen::ReadSync { conversation: HERE, read, unread };
    assert_eq!(other.take(&mut rig), [seen(2, 2)]);
    rig.sockets.get_mut(&other.id).expect("it is connected").room = Some(0);
    let long = "x".repeat(2_000);
    rig.down(&deliver(HERE, 5, 2, "k", &long, &[1]));
    rig.down(&read_sync(3, 1));
    rig.down(&read_sync(4, 0));
    rig.sockets.get_mut(&other.id).expect("it is connected").room = None;
    rig.flush(other.id);
    rig.carry_out();
    let told = other.take(&mut rig);
    assert!(matches!(&told[0], Seen::Event(event) if event.seq == 5), "{told:?}");
    assert_eq!(told[1..], [seen(4, 0)]);
    let told = reader.take(&mut rig);
    assert!(matches!(told.as_slice(), [Seen::Event(_)]), "{told:?}");
}
