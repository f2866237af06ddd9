//! What only looks: history, lists, single conversations and users.

use carillon_protocol::frame::{Find, Findings, Mark, Page, Read, Wanted};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::reason::Code;
use serde_json::{Value, json};

use crate::rig::{
    Rig, Up, conversation, entry, found_conversations, found_user, message_id, refused, settings,
};

const MESSAGES: &str = "/v1/conversations/7/messages";

/// Answers as a router that holds the messages `2..=head` of conversation 7 (event 1 is its creation).
fn page(read: &Read, head: Seq) -> Page {
    let wanted = |seq: &Seq| (read.from_seq..=read.to_seq).contains(seq);
    let mut seqs: Vec<Seq> = (2..=head).filter(wanted).collect();
    if read.newest_first {
        seqs.reverse();
    }
    let limit = read.limit as usize;
    Page {
        session: 0,
        request: read.request,
        conversation: ConversationId(7),
        first_seq: 1,
        head_seq: head,
        fanned_out_seq: head,
        has_more: seqs.len() > limit,
        entries: seqs
            .into_iter()
            .take(limit)
            .map(|seq| entry(seq, 1 + seq % 2, &format!("m{seq}")))
            .collect(),
        marks: vec![Mark { user: UserId(2), delivered_seq: 6, read_seq: 4 }],
        counts: None,
        reacted: Vec::new(),
    }
}

/// The seqs of a page and its cursor.
fn history(rig: &mut Rig, query: &str, head: Seq) -> (Vec<u64>, Value) {
    let ticket = rig.ask(1, "GET", &format!("{MESSAGES}?{query}"), "");
    let Up::Read(read) = rig.next_up() else { panic!("not a read") };
    assert!(read.messages_only && read.user == UserId(1), "{read:?}");
    rig.hear(&page(&read, head));
    let (status, body) = rig.told(ticket);
    assert_eq!(status, 200, "{body}");
    let seqs = body["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_u64().unwrap());
    (seqs.collect(), body["next_cursor"].clone())
}

/// AP3, AP4, FR6: every message once, in order, both ways, by default 50, `next_cursor` null at the end; a cursor keeps
/// its direction, and means the same after a restart and after new messages.
#[test]
fn pages_cover_the_history() {
    let head = 131;
    for (first_query, expected) in [
        ("", (2..=head).rev().collect::<Vec<u64>>()),
        ("before_seq=100", (2..100).rev().collect()),
        ("after_seq=0", (2..=head + 3).collect()),
        ("after_seq=20", (21..=head + 3).collect()),
        ("after_seq=134", vec![]),
        ("before_seq=1", vec![]),
    ] {
        let mut seen = Vec::new();
        let mut query = first_query.to_owned();
        let mut head = head;
        loop {
            let mut rig = Rig::new(settings());
            let (seqs, cursor) = history(&mut rig, &query, head);
            seen.extend(seqs);
            let Some(cursor) = cursor.as_str() else { break };
            assert_eq!(seen.len() % 50, 0, "the default limit");
            query = format!("cursor={cursor}");
            head = 134;
        }
        if first_query.starts_with("after_seq=0")
            || first_query.starts_with("after_seq=2")
            || first_query.is_empty()
        {
            assert!(seen.len() > 100);
        }
        assert_eq!(seen, expected, "{first_query}");
    }
}

/// Message objects are those of WebSocket; the sender alone sees a status and its own `client_msg_id`.
#[test]
fn messages_look_as_on_web_socket() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", MESSAGES, "");
    let Up::Read(read) = rig.next_up() else { panic!("not a read") };
    rig.hear(&page(&read, 8));
    let (_, body) = rig.told(ticket);
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(
        messages[0],
        json!({
            "message_id": message_id(8).0.to_string(), "conversation_id": "7", "seq": 8, "sender_id": "1",
            "content": "m8", "encoding": "utf8", "message_type": "text", "status": "sent",
            "created_at": message_id(8).created_at().0, "client_msg_id": "c8",
        })
    );
    let statuses: Vec<_> = messages
        .iter()
        .map(|message| (message["seq"].as_u64().unwrap(), message["status"].as_str().unwrap().to_owned()))
        .collect();
    let expected =
        [(8, "sent"), (7, "sent"), (6, "delivered"), (5, "sent"), (4, "read"), (3, "sent"), (2, "read")];
    assert_eq!(statuses, expected.map(|(seq, status)| (seq, status.to_owned())), "others' are always sent");
    assert_eq!(messages[1].get("client_msg_id"), None, "others' keys are nobody's business");
}

/// G13: a page ends at 64 KiB of JSON, however the content escapes, and its cursor goes on where it ended.
#[test]
fn pages_are_bounded_in_bytes() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", MESSAGES, "");
    let Up::Read(read) = rig.next_up() else { panic!("not a read") };
    let content = "\u{1}".repeat(8_000);
    let mut page = page(&read, 6);
    page.entries = (2..=6).rev().map(|seq| entry(seq, 1, &content)).collect();
    rig.hear(&page);
    let (_, body) = rig.told(ticket);
    assert_eq!(
        body["messages"].as_array().unwrap().len(),
        1,
        "one event of 48 KB, and the next would not fit"
    );
    let cursor = body["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(history(&mut rig, &format!("cursor={cursor}"), 6).0, [5, 4, 3, 2]);
}

/// A page that met other events only still moves on.
#[test]
fn an_empty_page_with_more_moves_on() {
    for (query, expected) in [("", (1, 90_000 - 4_096 - 1)), ("after_seq=9", (10 + 4_096 + 1, u64::MAX))] {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "GET", &format!("{MESSAGES}?{query}"), "");
        let Up::Read(read) = rig.next_up() else { panic!("not a read") };
        rig.hear(&Page { entries: Vec::new(), has_more: true, head_seq: 90_000, ..page(&read, 1) });
        let cursor = rig.told(ticket).1["next_cursor"].as_str().unwrap().to_owned();
        rig.ask(1, "GET", &format!("{MESSAGES}?cursor={cursor}"), "");
        let Up::Read(read) = rig.next_up() else { panic!("not a read") };
        assert_eq!((read.from_seq, read.to_seq), expected, "{query}");
    }
}

/// AP3: what is no value is refused and named; what is empty counts as absent, so that the route may be asked as it is
/// written.
#[test]
fn queries_are_held_to_their_form() {
    let list = "/v1/conversations";
    let cases = [
        (MESSAGES, "limit=ten", "limit"),
        (MESSAGES, "cursor=nonsense", "cursor"),
        (MESSAGES, "cursor=AWP__________wcAAAAAAAAA", "cursor"),
        (MESSAGES, "cursor=AWKNAAAAAAAAAA&after_seq=1", "cursor"),
        (MESSAGES, "cursor=AWKNAAAAAAAAAA&before_seq=1", "cursor"),
        (MESSAGES, "after_seq=1&before_seq=9", "after_seq"),
        (MESSAGES, "after_seq=-1", "after_seq"),
        (MESSAGES, "before_seq=x", "before_seq"),
        (list, "limit=x", "limit"),
        (list, "cursor=AWKNAAAAAAAAAA", "cursor"),
        ("/v1/users", "", "username"),
        ("/v1/users", "username=", "username"),
        ("/v1/users/you", "", "user_id"),
        ("/v1/conversations/07/messages", "", "conversation_id"),
        ("/v1/conversations/x", "", "conversation_id"),
    ];
    for (path, query, field) in cases {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "GET", &format!("{path}?{query}"), "");
        assert_eq!(
            rig.refused(ticket),
            (400, "bad_request".to_owned(), Some(field.to_owned())),
            "{path}?{query}"
        );
    }
    let mut rig = Rig::new(settings());
    for (query, limit) in [
        ("cursor=&limit=7", 7),
        ("cursor=&after_seq=&before_seq=&limit=", 50),
        ("limit=0", 1),
        ("limit=201", 200),
        ("limit=7", 7),
        ("", 50),
    ] {
        rig.ask(1, "GET", &format!("{MESSAGES}?{query}"), "");
        assert!(matches!(rig.next_up(), Up::Read(read) if read.limit == limit), "{query}");
    }
}

/// AP5, AP6, OR7: the caller's conversations with `last_message` and `unread_count`, paged.
#[test]
fn conversations_are_listed() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", "/v1/conversations?limit=2", "");
    let up = rig.next_up();
    let first = Wanted::Conversations { below: (u64::MAX, u64::MAX), limit: 2 };
    assert!(matches!(&up, Up::Find(find) if find.what == first && find.user == UserId(1)), "{up:?}");
    let conversations = vec![conversation(9, Some(entry(4, 2, "last"))), conversation(8, None)];
    rig.hear(&found_conversations(up.number(), conversations, true));
    let (status, body) = rig.told(ticket);
    assert_eq!(status, 200);
    let [one, other] = body["conversations"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!((&one["conversation_id"], &one["unread_count"]), (&json!("9"), &json!(1)));
    assert_eq!((&one["last_message"]["content"], &one["last_message"]["seq"]), (&json!("last"), &json!(4)));
    assert_eq!((&other["conversation_id"], &other["last_message"]), (&json!("8"), &Value::Null));
    let cursor = body["next_cursor"].as_str().unwrap();

    let ticket = rig.ask(1, "GET", &format!("/v1/conversations?cursor={cursor}"), "");
    let up = rig.next_up();
    let next = Wanted::Conversations { below: (708, 709), limit: 50 };
    assert!(matches!(&up, Up::Find(Find { what, .. }) if *what == next), "as of the first page: {up:?}");
    rig.hear(&found_conversations(up.number(), vec![conversation(7, None)], true));
    let cursor = rig.told(ticket).1["next_cursor"].as_str().unwrap().to_owned();

    let ticket = rig.ask(1, "GET", &format!("/v1/conversations?cursor={cursor}"), "");
    let up = rig.next_up();
    let next = Wanted::Conversations { below: (707, 709), limit: 50 };
    assert!(matches!(&up, Up::Find(Find { what, .. }) if *what == next), "and so it stays: {up:?}");
    rig.hear(&found_conversations(up.number(), Vec::new(), false));
    assert_eq!(rig.told(ticket), (200, json!({"conversations": [], "next_cursor": null})));
}

#[test]
fn users_are_found_by_id_and_by_name() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", "/v1/users?username=J%C3%BCrgen", "");
    let up = rig.next_up();
    assert!(matches!(&up, Up::Find(find) if find.what == Wanted::Username("Jürgen".to_owned())), "{up:?}");
    let mut found = found_user(up.number(), 2);
    if let Findings::User(user) = &mut found.findings {
        user.last_seen_at_ms = 77;
    }
    rig.hear(&found);
    let object = json!({"user_id": "2", "username": "name-2", "created_at": 5, "last_seen_at": 77});
    assert_eq!(rig.told(ticket), (200, object));
    let ticket = rig.ask(1, "GET", "/v1/users/3", "");
    let up = rig.next_up();
    rig.hear(&refused(&up, Code::NotFound, ""));
    assert_eq!(rig.refused(ticket), (404, "not_found".to_owned(), None));
}
