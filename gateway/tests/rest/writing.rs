//! What changes something: messages, conversations, watermarks, users.

use carillon_gateway::rest::Ticket;
use carillon_protocol::client::{Command as ClientCommand, json};
use carillon_protocol::frame::{Command, Wanted};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use serde_json::json;

use crate::rig::{
    Rig, Up, accepted, admission as found_admission, conversation, found_conversations, found_user,
    message_id, refused, request, settings,
};

/// AP1, AP2, T7, G1, G2: the fields of the source document and no others; the answer comes after the commit; a repeat
/// says so.
#[test]
fn a_message_is_sent() {
    let mut rig = Rig::new(settings());
    let body = r#"{"conversation_id":"7","content":"hi","media_url":"https://m/1","message_type":"image"}"#;
    let ticket = rig.ask(1, "POST", "/v1/messages", body);
    let up = rig.next_up();
    let Up::Submit(submit) = &up else { panic!("{up:?}") };
    assert_eq!((submit.session, submit.user, submit.client_msg_id.len()), (0, UserId(1), 36), "{submit:?}");
    let command = Command::Send {
        conversation: ConversationId(7),
        message_type: 1,
        encoding: 0,
        content: "hi".to_owned(),
        media_url: Some("https://m/1".to_owned()),
        reply_to: None,
    };
    assert_eq!(submit.command, command);
    assert!(rig.responses.is_empty(), "no answer before the commit");
    rig.hear(&accepted(&up, 7, 3, message_id(3).0, false));
    let sent = json!({
        "message_id": message_id(3).0.to_string(),
        "timestamp": message_id(3).created_at().0,
        "status": "sent",
        "seq": 3,
    });
    assert_eq!(rig.told(ticket), (201, sent.clone()));

    let mut again = request(1, "POST", "/v1/messages", body);
    again.headers.idempotency_key = Some("ключ".as_bytes().to_vec());
    let ticket = rig.send(again);
    let up = rig.next_up();
    assert!(
        matches!(&up, Up::Submit(submit) if submit.client_msg_id == "ключ"),
        "known users are not asked for again"
    );
    rig.hear(&accepted(&up, 7, 3, message_id(3).0, true));
    let mut repeated = sent;
    repeated["duplicate"] = true.into();
    assert_eq!(rig.told(ticket), (200, repeated));
}

/// G2: `Idempotency-Key` and `client_msg_id` are one thing.
#[test]
fn both_names_of_the_idempotency_key() {
    type Case = (Option<&'static [u8]>, Option<&'static str>, Option<&'static str>);
    let cases: [Case; 7] = [
        (Some(b"a"), None, Some("a")),
        (None, Some("b"), Some("b")),
        (Some(b"a"), Some("a"), Some("a")),
        (Some(b"a"), Some("b"), None),
        (Some(b""), None, None),
        (Some(b"\xff"), None, None),
        (Some(&[b'x'; 65]), None, None),
    ];
    for (header, field, expected) in cases {
        let mut rig = Rig::new(settings());
        rig.ask(1, "GET", "/v1/conversations", "");
        rig.up.clear();
        let mut body = json!({"conversation_id": "7", "content": "hi", "message_type": "text"});
        if let Some(field) = field {
            body["client_msg_id"] = field.into();
        }
        let mut request = request(1, "POST", "/v1/messages", &body.to_string());
        request.headers.idempotency_key = header.map(<[u8]>::to_vec);
        let ticket = rig.send(request);
        match expected {
            Some(expected) => {
                let up = rig.next_up();
                assert!(matches!(&up, Up::Submit(submit) if submit.client_msg_id == expected), "{up:?}");
            }
            None => {
                let refusal = (400, "bad_request".to_owned(), Some("client_msg_id".to_owned()));
                assert_eq!(rig.refused(ticket), refusal, "{header:?} {field:?}");
            }
        }
    }
}

/// T7, AP7: what WebSocket refuses REST refuses, with the same code and field; what it takes becomes the same command.
/// Only `message_type` has no default here.
#[test]
fn the_same_checks_as_on_web_socket() {
    let long = "x".repeat(16_385);
    let fields = [
        r#""conversation_id":"7","content":"hi","message_type":"file","encoding":"utf8","reply_to":"9""#
            .to_owned(),
        r#""conversation_id":"7","content":"QUJD","message_type":"text","encoding":"opaque","x":[{}]"#
            .to_owned(),
        r#""conversation_id":"7","content":"","message_type":"image","media_url":"u","client_msg_id":"é\n""#
            .to_owned(),
        r#""conversation_id":"7","content":"a\u0000\ud83d\ude00","message_type":"text","reply_to":null"#
            .to_owned(),
        r#""content":"hi","message_type":"text""#.to_owned(),
        r#""conversation_id":7,"content":"hi","message_type":"text""#.to_owned(),
        r#""conversation_id":"07","content":"hi","message_type":"text""#.to_owned(),
        r#""conversation_id":"7","message_type":"text""#.to_owned(),
        r#""conversation_id":"7","content":"","message_type":"text""#.to_owned(),
        r#""conversation_id":"7","content":["hi"],"message_type":"text""#.to_owned(),
        r#""conversation_id":"7","content":"\ud800","message_type":"text""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"song""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":1"#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","encoding":"rot13""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","encoding":"opaque""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","media_url":"""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","client_msg_id":"""#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","client_msg_id":7"#.to_owned(),
        r#""conversation_id":"7","content":"hi","message_type":"text","reply_to":"-1""#.to_owned(),
        r#""conversation_id":"7","content":"hi","content":"ho","message_type":"text""#.to_owned(),
        format!(r#""conversation_id":"7","content":"{long}","message_type":"text""#),
    ];
    for fields in fields {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "POST", "/v1/messages", &format!("{{{fields}}}"));
        let frame = format!(r#"{{"type":"send_message",{fields}}}"#);
        match json::decode(&frame).command {
            Ok(ClientCommand::SendMessage(message)) => {
                let expected = Command::Send {
                    conversation: message.conversation,
                    message_type: message.message_type as u8,
                    encoding: message.encoding as u8,
                    content: message.content.into_owned(),
                    media_url: message.media_url.map(Into::into),
                    reply_to: message.reply_to,
                };
                let up = rig.next_up();
                assert!(matches!(&up, Up::Submit(submit) if submit.command == expected), "{fields}: {up:?}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(wrong) => {
                let row = wrong.refusal.code.row();
                let expected = (row.http_status, row.name.to_owned(), wrong.refusal.field.map(str::to_owned));
                assert_eq!(rig.refused(ticket), expected, "{fields}");
                assert!(rig.up.is_empty(), "{fields}");
            }
        }
    }

    let mut rig = Rig::new(settings());
    let ticket = rig.ask(1, "POST", "/v1/messages", r#"{"conversation_id":"7","content":"hi"}"#);
    assert_eq!(rig.refused(ticket), (400, "bad_request".to_owned(), Some("message_type".to_owned())));
}

/// `POST /v1/conversations`: 201 with the object, 200 when it was there.
#[test]
fn conversations_are_created() {
    for (duplicate, status) in [(false, 201), (true, 200)] {
        let mut rig = Rig::new(settings());
        let body = r#"{"type":"group","group_name":"five","member_ids":["2","1","2"],"history":"all"}"#;
        let mut create = request(1, "POST", "/v1/conversations", body);
        create.headers.idempotency_key = Some(b"k".to_vec());
        let ticket = rig.send(create);
        let admission = rig.next_up();
        rig.hear(&found_admission(admission.number(), true, 0));
        let up = rig.next_up();
        let Up::Submit(submit) = &up else { panic!("{up:?}") };
        let command = Command::Create {
            conversation_type: 1,
            history: 1,
            group_name: Some("five".to_owned()),
            members: vec![UserId(2)],
        };
        assert_eq!((&submit.command, submit.client_msg_id.as_str()), (&command, "k"));
        rig.hear(&accepted(&up, 8, 1, 99, duplicate));
        let up = rig.next_up();
        assert!(
            matches!(&up, Up::Find(find) if find.what == Wanted::Conversation(ConversationId(8))),
            "{up:?}"
        );
        rig.hear(&found_conversations(up.number(), vec![conversation(8, None)], false));
        let object = json!({
            "conversation_id": "8", "type": "group", "group_name": "five", "member_ids": ["1", "2"],
            "members_count": 2, "created_at": 9, "created_by": "1", "head_seq": 4, "read_seq": 2, "unread_count": 1, "last_message": null,
            "history": "from_join",
        });
        assert_eq!(rig.told(ticket), (status, object));
    }
}

#[test]
fn wrong_conversations_are_refused() {
    let many = (2..=1_001).map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let name = "n".repeat(257);
    let cases = [
        (r#"{"member_ids":["2"]}"#.to_owned(), 400, "type"),
        (r#"{"type":"room","member_ids":["2"]}"#.to_owned(), 400, "type"),
        (r#"{"type":"one_to_one"}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"one_to_one","member_ids":[]}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"one_to_one","member_ids":["1"]}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"one_to_one","member_ids":["2","3"]}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"one_to_one","member_ids":"2"}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"one_to_one","member_ids":[2]}"#.to_owned(), 400, "member_ids"),
        (r#"{"type":"group","member_ids":["2"]}"#.to_owned(), 400, "group_name"),
        (r#"{"type":"group","group_name":"","member_ids":["2"]}"#.to_owned(), 400, "group_name"),
        (r#"{"type":"group","group_name":"n","member_ids":["1"]}"#.to_owned(), 400, "member_ids"),
        (
            r#"{"type":"group","group_name":"n","member_ids":["2"],"history":"none"}"#.to_owned(),
            400,
            "history",
        ),
        (format!(r#"{{"type":"group","group_name":"{name}","member_ids":["2"]}}"#), 413, "group_name"),
        (format!(r#"{{"type":"group","group_name":"n","member_ids":[{many}]}}"#), 413, "member_ids"),
    ];
    for (body, status, field) in cases {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "POST", "/v1/conversations", &body);
        let (told, code, named) = rig.refused(ticket);
        let expected = if status == 413 { "too_large" } else { "bad_request" };
        assert_eq!((told, code.as_str(), named.as_deref()), (status, expected, Some(field)), "{body:.200}");
    }
}

/// G12: receipts are durable before they are confirmed, on the token's device.
#[test]
fn watermarks_move() {
    for (path, watermarks) in [("delivered", (5, 0)), ("read", (0, 5))] {
        let mut rig = Rig::new(settings());
        let ticket = rig.ask(1, "POST", &format!("/v1/conversations/7/{path}"), r#"{"seq":5}"#);
        let up = rig.next_up();
        let Up::Receipt(receipt) = &up else { panic!("{up:?}") };
        assert_eq!((receipt.delivered_seq, receipt.read_seq), watermarks);
        assert_eq!((receipt.user, receipt.device.as_str()), (UserId(1), "phone"));
        rig.hear(&accepted(&up, 7, 5, 0, false));
        assert_eq!(rig.told(ticket), (204, serde_json::Value::Null));
        for body in
            [r#"{"seq":0}"#, r#"{"seq":"5"}"#, r#"{"seq":-1}"#, r#"{"seq":9223372036854775808}"#, "{}"]
        {
            let ticket = rig.ask(1, "POST", &format!("/v1/conversations/7/{path}"), body);
            assert_eq!(
                rig.refused(ticket),
                (400, "bad_request".to_owned(), Some("seq".to_owned())),
                "{body}"
            );
        }
    }
}

/// The identity provider says who exists: the first request of an unknown user makes them known, once.
#[test]
fn unknown_users_are_made_known() {
    let mut rig = Rig::new(settings());
    let ticket = rig.send(request(1, "GET", "/v1/users/2", ""));
    let up = rig.next_up();
    let device = Wanted::Admission { device: "phone".to_owned() };
    assert!(matches!(&up, Up::Find(find) if find.what == device && find.user == UserId(1)), "{up:?}");
    rig.hear(&found_admission(up.number(), false, 0));
    let up = rig.next_up();
    let provision = Command::Provision { name: "name-1".to_owned() };
    assert!(
        matches!(&up, Up::Submit(submit) if submit.command == provision && submit.user == UserId(1)),
        "{up:?}"
    );
    rig.hear(&accepted(&up, 0, 0, 1, false));
    let up = rig.next_up();
    rig.hear(&found_user(up.number(), 2));
    assert_eq!(rig.told(ticket), (200, json!({"user_id": "2", "username": "name-2", "created_at": 5})));
    rig.send(request(1, "GET", "/v1/users/3", ""));
    assert!(matches!(rig.next_up(), Up::Find(find) if find.what == Wanted::User(UserId(3))), "known by now");

    let mut rig = Rig::new(carillon_gateway::rest::Settings { auto_provision: false, ..settings() });
    let ticket = rig.send(request(1, "GET", "/v1/users/2", ""));
    let up = rig.next_up();
    rig.hear(&found_admission(up.number(), false, 0));
    assert_eq!(rig.refused(ticket), (403, "forbidden".to_owned(), None));
}

/// `POST /v1/users` is for administrators.
#[test]
fn administrators_create_users() {
    let mut rig = Rig::new(settings());
    let admin = |body: &str| {
        let mut request = request(1, "POST", "/v1/users", body);
        let token = crate::rig::token_at(crate::rig::WALL, 1, 60, "other admin");
        request.headers.authorization = Some(format!("bearer {token}").into_bytes());
        request
    };
    let ticket = rig.send(admin(r#"{"user_id":"9","username":"name-9"}"#));
    let up = rig.next_up();
    rig.hear(&found_admission(up.number(), true, 0));
    let up = rig.next_up();
    let command = Command::CreateUser { user: Some(UserId(9)), username: "name-9".to_owned() };
    assert!(matches!(&up, Up::Submit(submit) if submit.command == command), "{up:?}");
    rig.hear(&accepted(&up, 0, 0, 9, false));
    let up = rig.next_up();
    rig.hear(&found_user(up.number(), 9));
    assert_eq!(rig.told(ticket), (201, json!({"user_id": "9", "username": "name-9", "created_at": 5})));

    let ticket = rig.send(admin(r#"{"username":"name-9"}"#));
    let up = rig.next_up();
    rig.hear(&refused(&up, Code::BadRequest, "username"));
    assert_eq!(rig.refused(ticket), (400, "bad_request".to_owned(), Some("username".to_owned())));
    for body in [r#"{"username":""}"#, r#"{}"#, r#"{"username":"a\nb"}"#] {
        let ticket: Ticket = rig.send(admin(body));
        assert_eq!(rig.refused(ticket).2.as_deref(), Some("username"), "{body}");
    }
    let ticket = rig.send(request(1, "POST", "/v1/users", r#"{"username":"x"}"#));
    assert_eq!(rig.refused(ticket), (403, "forbidden".to_owned(), None));
}
