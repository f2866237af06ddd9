//! Changes of a conversation: members, roles, names, deletions, reactions, muting; and how far members got.

use carillon_protocol::frame::{
    Accepted, Change, Command, Counts, Findings, Found, Mark, MemberView, Page, Reacted, ReactionCount,
    Wanted,
};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::limits::EMOJI_BYTES_MAX;
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Body as EventBody, Event, MessageType};
use serde_json::{Value, json};

use crate::rig::{
    Rig, Up, accepted, conversation, entry, found_conversations, message_id, refused, request, settings,
};

/// What a request sends up as a change of conversation 7, and its key.
fn change(
    rig: &mut Rig,
    method: &str,
    path: &str,
    body: &str,
) -> (carillon_gateway::rest::Ticket, Up, Change) {
    let mut request = request(1, method, &format!("/v1/conversations/7{path}"), body);
    request.headers.idempotency_key = Some(b"key".to_vec());
    let ticket = rig.ask_with(request);
    let up = rig.next_up();
    let Up::Submit(submit) = &up else { panic!("{up:?}") };
    assert_eq!((submit.user, submit.client_msg_id.as_str()), (UserId(1), "key"), "{method} {path}");
    let Command::Change { conversation: ConversationId(7), change } = &submit.command else {
        panic!("{submit:?}")
    };
    let change = change.clone();
    (ticket, up, change)
}

/// T7: every change of a log by its route, under the request's idempotency key.
#[test]
fn routes_change_the_log() {
    let thumb = || "👍".to_owned();
    let cases = [
        ("PATCH", "", r#"{"group_name":"six"}"#, Change::Rename { group_name: "six".to_owned() }),
        (
            "POST",
            "/members",
            r#"{"user_ids":["3","2","3"]}"#,
            Change::AddMembers { users: vec![UserId(2), UserId(3)] },
        ),
        ("DELETE", "/members/2", "", Change::RemoveMember { user: UserId(2) }),
        ("DELETE", "/members/1", "{}", Change::RemoveMember { user: UserId(1) }),
        ("PATCH", "/members/2", r#"{"role":"admin"}"#, Change::SetRole { user: UserId(2), role: 1 }),
        ("PATCH", "/members/2", r#"{"role":"member"}"#, Change::SetRole { user: UserId(2), role: 0 }),
        ("DELETE", "/messages/9", "", Change::Delete { message: MessageId(9) }),
        (
            "PUT",
            "/messages/9/reactions/%F0%9F%91%8D",
            "",
            Change::React { message: MessageId(9), emoji: thumb() },
        ),
        (
            "PUT",
            "/messages/9/reactions/%2B1",
            r#"{"client_msg_id":"key"}"#,
            Change::React { message: MessageId(9), emoji: "+1".to_owned() },
        ),
        ("DELETE", "/messages/9/reactions/👍", "", Change::Unreact { message: MessageId(9), emoji: thumb() }),
    ];
    for (method, path, body, expected) in cases {
        let mut rig = Rig::new(settings());
        let (ticket, up, change) = change(&mut rig, method, path, body);
        assert_eq!(change, expected, "{method} {path}");
        assert!(rig.responses.is_empty(), "no answer before the commit");
        rig.hear(&accepted(&up, 7, 12, 99, false));
        assert_eq!(rig.told(ticket), (200, json!({"conversation_id": "7", "seq": 12})), "{method} {path}");
    }
}

/// G2: the answers to a change: done, done before, and so already, perhaps by no event at all.
#[test]
fn changes_are_answered() {
    for (seq, duplicate, unchanged, expected) in [
        (12, false, false, json!({"conversation_id": "7", "seq": 12})),
        (12, true, false, json!({"conversation_id": "7", "seq": 12, "duplicate": true})),
        (5, false, true, json!({"conversation_id": "7", "seq": 5})),
        (0, false, true, json!({"conversation_id": "7", "seq": null})),
        (0, true, true, json!({"conversation_id": "7", "seq": null, "duplicate": true})),
    ] {
        let mut rig = Rig::new(settings());
        let (ticket, up, _) = change(&mut rig, "DELETE", "/messages/9/reactions/x", "");
        rig.hear(&Accepted { unchanged, ..accepted(&up, 7, seq, 0, duplicate) });
        assert_eq!(rig.told(ticket), (200, expected));
    }
    for (code, status) in
        [(Code::Forbidden, 403), (Code::NotFound, 404), (Code::Gone, 410), (Code::TooLarge, 413)]
    {
        let mut rig = Rig::new(settings());
        let (ticket, up, _) = change(&mut rig, "PUT", "/messages/9/reactions/x", "");
        rig.hear(&refused(&up, code, ""));
        assert_eq!(rig.refused(ticket), (status, code.name().to_owned(), None));
    }
}

#[test]
fn wrong_changes_are_refused() {
    let many = (2..=1_002).map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let many = format!(r#"{{"user_ids":[{many}]}}"#);
    let long = format!("/messages/9/reactions/{}", "x".repeat(EMOJI_BYTES_MAX + 1));
    let name = format!(r#"{{"group_name":"{}"}}"#, "n".repeat(257));
    let cases = [
        ("PATCH", "", "{}", 400, "group_name"),
        ("PATCH", "", r#"{"group_name":""}"#, 400, "group_name"),
        ("PATCH", "", r#"{"group_name":7}"#, 400, "group_name"),
        ("PATCH", "", &name, 413, "group_name"),
        ("POST", "/members", "{}", 400, "user_ids"),
        ("POST", "/members", r#"{"user_ids":[]}"#, 400, "user_ids"),
        ("POST", "/members", r#"{"user_ids":[2]}"#, 400, "user_ids"),
        ("POST", "/members", &many, 413, "user_ids"),
        ("DELETE", "/members/me", "", 400, "user_id"),
        ("DELETE", "/members/02", "", 400, "user_id"),
        ("PATCH", "/members/2", r#"{"role":"owner"}"#, 400, "role"),
        ("PATCH", "/members/2", r#"{"role":1}"#, 400, "role"),
        ("PATCH", "/members/2", "{}", 400, "role"),
        ("DELETE", "/messages/x", "", 400, "message_id"),
        ("PUT", "/messages/9/reactions/%00", "", 400, "emoji"),
        ("PUT", "/messages/9/reactions/%FF", "", 400, "emoji"),
        ("PUT", &long, "", 400, "emoji"),
        ("PUT", "/messages/0/reactions/x", "", 400, "message_id"),
        ("PUT", "/mute", r#"{"until":0}"#, 400, "until"),
        ("PUT", "/mute", r#"{"until":"tomorrow"}"#, 400, "until"),
        ("PUT", "/mute", r#"{"until":-1}"#, 400, "until"),
        ("DELETE", "/messages/9", r#"{"client_msg_id":"other"}"#, 400, "client_msg_id"),
        ("PUT", "/mute", r#"{"client_msg_id":"other"}"#, 400, "client_msg_id"),
        ("GET", "/receipts?seq=0", "", 400, "seq"),
        ("GET", "/receipts?seq=x", "", 400, "seq"),
        ("GET", "/members?cursor=AWKNAAAAAAAAAA", "", 400, "cursor"),
        ("GET", "/members?limit=x", "", 400, "limit"),
    ];
    for (method, path, body, status, field) in cases {
        let mut rig = Rig::new(settings());
        let mut request = request(1, method, &format!("/v1/conversations/7{path}"), body);
        request.headers.idempotency_key = Some(b"key".to_vec());
        let ticket = rig.ask_with(request);
        let code = if status == 413 { "too_large" } else { "bad_request" };
        let expected = (status, code.to_owned(), Some(field.to_owned()));
        assert_eq!(rig.refused(ticket), expected, "{method} {path:.60} {body:.60}");
        assert!(rig.up.is_empty(), "{method} {path:.60}");
    }
}

/// Muted until a time, or for ever, or no longer; the conversation says so.
#[test]
fn conversations_are_muted() {
    let forever = 253_402_300_799_999_u64;
    for (method, body, until_ms) in [
        ("PUT", "", u64::MAX),
        ("PUT", "{}", u64::MAX),
        ("PUT", r#"{"until":253402300799999}"#, u64::MAX),
        ("PUT", r#"{"until":1780000000000}"#, 1_780_000_000_000),
        ("DELETE", "", 0),
    ] {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, method, "/v1/conversations/7/mute", body);
        let up = rig.next_up();
        let command = Command::Mute { conversation: ConversationId(7), until_ms };
        assert!(matches!(&up, Up::Submit(submit) if submit.command == command), "{up:?}");
        rig.hear(&accepted(&up, 7, 0, 0, false));
        assert_eq!(rig.told(ticket), (204, Value::Null));

        let ticket = rig.ask(1, "GET", "/v1/conversations/7", "");
        let mut view = conversation(7, None);
        view.muted_until_ms = until_ms;
        let up = rig.next_up();
        rig.hear(&found_conversations(up.number(), vec![view], false));
        let told = rig.told(ticket).1;
        let expected = match until_ms {
            0 => None,
            u64::MAX => Some(json!(forever)),
            millis => Some(json!(millis)),
        };
        assert_eq!(told.get("muted_until"), expected.as_ref());
    }
}

/// Members with roles, paged by a cursor that names the last one.
#[test]
fn members_are_listed() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", "/v1/conversations/7/members?limit=2", "");
    let up = rig.next_up();
    let wanted =
        |after, limit| Wanted::Members { conversation: ConversationId(7), after: UserId(after), limit };
    assert!(matches!(&up, Up::Find(find) if find.what == wanted(0, 2)), "{up:?}");
    let member = |user, role, joined_seq| MemberView { user: UserId(user), role, joined_seq };
    let members = vec![member(1, 2, 1), member(4, 0, 7)];
    rig.hear(&Found { request: up.number(), findings: Findings::Members { members, more: true } });
    let (status, told) = rig.told(ticket);
    let cursor = told["next_cursor"].as_str().unwrap();
    let expected = json!({
        "members": [
            {"user_id": "1", "role": "owner", "joined_seq": 1},
            {"user_id": "4", "role": "member", "joined_seq": 7},
        ],
        "next_cursor": cursor,
    });
    assert_eq!((status, &told), (200, &expected));

    let ticket = rig.ask(1, "GET", &format!("/v1/conversations/7/members?cursor={cursor}"), "");
    let up = rig.next_up();
    assert!(matches!(&up, Up::Find(find) if find.what == wanted(4, 50)), "{up:?}");
    let members = vec![member(5, 1, 7)];
    rig.hear(&Found { request: up.number(), findings: Findings::Members { members, more: false } });
    let expected =
        json!({"members": [{"user_id": "5", "role": "admin", "joined_seq": 7}], "next_cursor": null});
    assert_eq!(rig.told(ticket), (200, expected));
}

/// Receipts are per user in small groups and counted in large ones.
#[test]
fn receipts_are_told() {
    let mut rig = Rig::new(settings());
    for (query, seq, findings, expected) in [
        (
            "",
            0,
            Findings::Marks(vec![Mark { user: UserId(2), delivered_seq: 6, read_seq: 4 }]),
            json!([{"user_id": "2", "delivered_seq": 6, "read_seq": 4}]),
        ),
        ("?seq=0", 0, Findings::Marks(Vec::new()), Value::Null),
        (
            "?seq=9",
            9,
            Findings::Counts(Counts { seq: 9, delivered_count: 300, read_count: 250 }),
            json!({"delivered_count": 300, "read_count": 250}),
        ),
    ] {
        let ticket = rig.ask(1, "GET", &format!("/v1/conversations/7/receipts{query}"), "");
        if expected.is_null() {
            assert_eq!(rig.refused(ticket).0, 400, "{query}");
            continue;
        }
        let up = rig.next_up();
        let wanted = Wanted::Receipts { conversation: ConversationId(7), seq };
        assert!(matches!(&up, Up::Find(find) if find.what == wanted), "{up:?}");
        rig.hear(&Found { request: up.number(), findings });
        assert_eq!(rig.told(ticket), (200, expected));
    }
}

/// History shows tombstones without content, and reactions with counts; so does `last_message`.
#[test]
fn history_shows_tombstones_and_reactions() {
    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "GET", "/v1/conversations/7/messages", "");
    let Up::Read(read) = rig.next_up() else { panic!("not a read") };
    let tombstone = Event {
        id: message_id(3),
        sender: UserId(2),
        client_msg_id: "c3".into(),
        body: EventBody::Tombstone { message_type: MessageType::Image, deleted_seq: 5 },
    };
    let reaction = |emoji: &str, count, mine| ReactionCount { emoji: emoji.to_owned(), count, mine };
    rig.hear(&Page {
        session: 0,
        request: read.request,
        conversation: ConversationId(7),
        first_seq: 1,
        head_seq: 6,
        fanned_out_seq: 6,
        entries: vec![
            entry(4, 1, "four"),
            carillon_protocol::frame::Entry { seq: 3, record: tombstone.encode() },
            entry(2, 1, "two"),
        ],
        has_more: false,
        marks: Vec::new(),
        counts: None,
        reacted: vec![Reacted {
            seq: 2, reactions: vec![reaction("👍", 2, true), reaction("x", 1, false)]
        }],
    });
    let (_, told) = rig.told(ticket);
    let reactions =
        json!([{"emoji": "👍", "count": 2, "mine": true}, {"emoji": "x", "count": 1, "mine": false}]);
    let messages = &told["messages"];
    assert_eq!((messages[0].get("reactions"), &messages[2]["reactions"]), (None, &reactions));
    assert_eq!(
        messages[1],
        json!({
            "message_id": message_id(3).0.to_string(), "conversation_id": "7", "seq": 3, "sender_id": "2",
            "content": "", "encoding": "utf8", "message_type": "image", "status": "sent",
            "created_at": message_id(3).created_at().0, "deleted": true,
        })
    );

    let ticket = rig.ask(1, "GET", "/v1/conversations/7", "");
    let up = rig.next_up();
    let mut view = conversation(7, Some(entry(2, 1, "two")));
    view.last_reactions = vec![reaction("👍", 2, true), reaction("x", 1, false)];
    rig.hear(&found_conversations(up.number(), vec![view], false));
    assert_eq!(rig.told(ticket).1["last_message"]["reactions"], reactions);
}
