//! REST as `curl` would use it: what is written there is on the sockets, and the other way round.

use std::collections::BTreeSet;

use carillon_tests::client::Wire;
use carillon_tests::http::request;
use carillon_tests::server::Deployment;
use carillon_tests::stage::{Stage, rest};
use serde_json::{Value, json};

macro_rules! both {
    ($($scenario:ident),+ $(,)?) => {
        mod one_process {
            $(#[test] fn $scenario() { super::$scenario(&super::stage(super::Deployment::OneProcess)); })+
        }
        mod tiers {
            $(#[test] fn $scenario() { super::$scenario(&super::stage(super::Deployment::Tiers)); })+
        }
    };
}

both!(
    a_posted_message_is_acknowledged_and_delivered,
    a_repeated_post_gets_the_first_answer,
    history_is_paged_in_both_directions,
    a_cursor_survives_new_messages,
    conversations_come_latest_activity_first,
    a_pair_has_one_conversation,
    a_group_is_created_once_per_key,
    members_are_given_whole_up_to_a_bound_and_paged_beyond,
    users_are_found_by_id_and_name,
    receipts_move_by_rest,
    who_is_no_member_is_refused_everywhere,
    what_is_wrong_is_named,
    tokens_are_asked_for_on_every_route,
);

fn stage(deployment: Deployment) -> Stage {
    Stage::shared(env!("CARGO_BIN_EXE_carillon-under-test"), deployment, Wire::Json, &["limits.send_per_s=0"])
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn message(conversation: &str, content: &str) -> Value {
    json!({"conversation_id": conversation, "content": content, "message_type": "text"})
}

fn say(stage: &Stage, user: u64, conversation: &str, content: &str) -> Value {
    let answer = stage.rest(user, "POST", "/v1/messages", Some(&message(conversation, content)));
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body
}

fn seqs(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap_or_else(|| panic!("no messages: {page}"));
    messages.iter().filter_map(|message| message["seq"].as_u64()).collect()
}

/// AP1, AP2, G1: exactly the fields of the source document, and what they lead to.
fn a_posted_message_is_acknowledged_and_delivered(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let body = json!({"conversation_id": conversation, "content": "look", "message_type": "image",
        "media_url": "https://media.example/1.png"});
    let answer = stage.rest(alice, "POST", "/v1/messages", Some(&body));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(keys(&answer.body), ["message_id", "seq", "status", "timestamp"], "{answer:?}");
    assert_eq!((&answer.body["status"], &answer.body["seq"]), (&json!("sent"), &json!(2)));
    assert!(answer.body["message_id"].is_string() && answer.body["timestamp"].is_u64(), "{answer:?}");
    for client in [&mut at_bob, &mut at_alice] {
        let heard = client.until_type("new_message");
        assert_eq!(heard["message"]["message_id"], answer.body["message_id"]);
        assert_eq!(heard["message"]["media_url"], "https://media.example/1.png");
    }
}

/// G2: the header is the `client_msg_id`; the two together must agree.
fn a_repeated_post_gets_the_first_answer(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let post = |headers: &[(&str, &str)], body: &Value| {
        rest(stage.server(), alice, "POST", "/v1/messages", headers, Some(body))
    };
    let first = post(&[("Idempotency-Key", "k-1")], &message(&conversation, "once"));
    assert_eq!(first.status, 201, "{first:?}");
    let mut with_field = message(&conversation, "once");
    with_field["client_msg_id"] = json!("k-1");
    for again in [
        post(&[("Idempotency-Key", "k-1")], &message(&conversation, "once")),
        post(&[], &with_field),
        post(&[("Idempotency-Key", "k-1")], &with_field),
    ] {
        assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)), "{again:?}");
        for key in ["seq", "message_id", "timestamp"] {
            assert_eq!(again.body[key], first.body[key], "{again:?}");
        }
    }
    let other = post(&[("Idempotency-Key", "k-1")], &message(&conversation, "something else"));
    assert_eq!(
        (other.status, &other.body["error"]["code"]),
        (409, &json!("idempotency_conflict")),
        "{other:?}"
    );
    let both = post(&[("Idempotency-Key", "k-2")], &with_field);
    assert_eq!((both.status, &both.body["error"]["code"]), (400, &json!("bad_request")), "{both:?}");
}

/// AP3, AP4, FR6: each once, in order, both ways, with the default limit and others.
fn history_is_paged_in_both_directions(stage: &Stage) {
    const HEAD: u64 = 131;
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    at_alice.say_all(&conversation, (2..=HEAD).map(|seq| format!("number {seq}")));
    let path = format!("/v1/conversations/{conversation}/messages");
    let get = |query: &str| {
        let answer = stage.rest(bob, "GET", &format!("{path}{query}"), None);
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.body
    };
    let walk = |first: String, limit: &str| {
        let mut page = get(&first);
        let mut pages = vec![seqs(&page)];
        while let Some(cursor) = page["next_cursor"].as_str() {
            assert!(pages.len() < 200, "a walk ends");
            page = get(&format!("?cursor={cursor}{limit}"));
            pages.push(seqs(&page));
        }
        pages
    };
    let newest_first: Vec<u64> = (2..=HEAD).rev().collect();
    let pages = walk(String::new(), "");
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50, 30], "the default limit is 50");
    assert_eq!(pages.concat(), newest_first);
    assert_eq!(walk("?limit=7".into(), "&limit=7").concat(), newest_first);
    assert_eq!(
        walk("?limit=100000".into(), "&limit=100000").concat(),
        newest_first,
        "a large limit is clamped"
    );
    assert_eq!(
        walk("?before_seq=50&limit=20".into(), "&limit=20").concat(),
        (2..50).rev().collect::<Vec<_>>()
    );
    assert_eq!(
        walk("?after_seq=100&limit=20".into(), "&limit=20").concat(),
        (101..=HEAD).collect::<Vec<_>>()
    );
    assert_eq!(seqs(&get(&format!("?after_seq={HEAD}"))), [0u64; 0]);
    let page = get("?limit=1");
    assert_eq!(page["messages"][0]["content"], format!("number {HEAD}"));
}

/// AP4.
fn a_cursor_survives_new_messages(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    for n in 0..6 {
        say(stage, alice, &conversation, &n.to_string());
    }
    let path = format!("/v1/conversations/{conversation}/messages");
    let first = stage.rest(bob, "GET", &format!("{path}?limit=2"), None).body;
    assert_eq!(seqs(&first), [7, 6]);
    say(stage, alice, &conversation, "in between");
    let cursor = first["next_cursor"].as_str().expect("more");
    let second = stage.rest(bob, "GET", &format!("{path}?limit=3&cursor={cursor}"), None).body;
    assert_eq!(seqs(&second), [5, 4, 3]);
}

/// AP5, AP6, OR7: with the last message, and what is unread.
fn conversations_come_latest_activity_first(stage: &Stage) {
    let [alice, bob, carol, eve] = stage.people();
    let with_bob = stage.pair(alice, bob);
    let with_carol = stage.pair(carol, alice);
    let group = stage.group(bob, &[alice, carol]);
    let _foreign = stage.pair(bob, eve);
    say(stage, bob, &with_bob, "one");
    say(stage, bob, &with_bob, "two");
    say(stage, carol, &group, "hello all");
    say(stage, carol, &with_carol, "three");
    say(stage, alice, &with_carol, "my own is not unread");
    let list = |query: &str| {
        let answer = stage.rest(alice, "GET", &format!("/v1/conversations{query}"), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let all = list("");
    let seen: Vec<(&str, &Value, u64)> = all["conversations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| {
            let id = object["conversation_id"].as_str().unwrap_or_default();
            (id, &object["last_message"]["content"], object["unread_count"].as_u64().unwrap_or(u64::MAX))
        })
        .collect();
    let (own, all_words, two) = (json!("my own is not unread"), json!("hello all"), json!("two"));
    assert_eq!(
        seen,
        [(with_carol.as_str(), &own, 1), (group.as_str(), &all_words, 1), (with_bob.as_str(), &two, 2)]
    );
    assert_eq!(all["next_cursor"], Value::Null);
    // The same in pages, and in another order after new activity.
    say(stage, bob, &with_bob, "up again");
    let first = list("?limit=2");
    let cursor = first["next_cursor"].as_str().expect("more");
    let second = list(&format!("?limit=2&cursor={cursor}"));
    let ids: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|page| page["conversations"].as_array().expect("a list"))
        .filter_map(|object| object["conversation_id"].as_str())
        .collect();
    assert_eq!(ids, [with_bob, with_carol, group]);
    assert_eq!(second["next_cursor"], Value::Null);
}

/// DM2: also when both ask at once.
fn a_pair_has_one_conversation(stage: &Stage) {
    let [alice, bob] = stage.people();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |by: u64, other: u64| {
            let body = json!({"type": "one_to_one", "member_ids": [other.to_string()]});
            stage.rest(by, "POST", "/v1/conversations", Some(&body))
        };
        let threads: Vec<_> = (0..8)
            .map(|n| scope.spawn(move || if n % 2 == 0 { ask(alice, bob) } else { ask(bob, alice) }))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("answered")).collect()
    });
    let ids: BTreeSet<&str> =
        answers.iter().filter_map(|answer| answer.body["conversation_id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "{answers:?}");
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let found = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((created, found), (1, 7), "{answers:?}");
    let object = &answers[0].body;
    assert_eq!((&object["type"], &object["head_seq"]), (&json!("one_to_one"), &json!(1)), "{object}");
    assert_eq!((&object["last_message"], &object["unread_count"]), (&Value::Null, &json!(0)), "{object}");
    let members: BTreeSet<&str> =
        object["member_ids"].as_array().expect("members").iter().filter_map(Value::as_str).collect();
    assert_eq!(members, BTreeSet::from([alice.to_string().as_str(), bob.to_string().as_str()]));
}

fn a_group_is_created_once_per_key(stage: &Stage) {
    let [alice, bob] = stage.people();
    let body = json!({"type": "group", "group_name": "the two of us", "member_ids": [bob.to_string()]});
    let ask = |key: &str| {
        rest(stage.server(), alice, "POST", "/v1/conversations", &[("Idempotency-Key", key)], Some(&body))
    };
    let first = ask("g-1");
    assert_eq!((first.status, &first.body["group_name"]), (201, &json!("the two of us")), "{first:?}");
    assert_eq!(first.body["created_by"], alice.to_string());
    let again = ask("g-1");
    assert_eq!(
        (again.status, &again.body["conversation_id"]),
        (200, &first.body["conversation_id"]),
        "{again:?}"
    );
    let other = ask("g-2");
    assert_ne!(other.body["conversation_id"], first.body["conversation_id"]);
}

/// T4, DM2: `member_ids` is the whole membership of up to 200; above, its beginning, and the pages of `…/members` are the
/// whole.
fn members_are_given_whole_up_to_a_bound_and_paged_beyond(stage: &Stage) {
    const INLINE_MAX: usize = 200;
    let people: [u64; INLINE_MAX + 5] = stage.people();
    let ids = |users: &[u64]| users.iter().map(u64::to_string).collect::<BTreeSet<String>>();
    let small = stage.group(people[0], &people[1..INLINE_MAX]);
    let inline = |group: &str| {
        let object = stage.rest(people[0], "GET", &format!("/v1/conversations/{group}"), None).body;
        let members: Vec<String> = serde_json::from_value(object["member_ids"].clone()).expect("ids");
        let distinct: BTreeSet<String> = members.iter().cloned().collect();
        assert_eq!(distinct.len(), members.len(), "nobody twice");
        distinct
    };
    let paged = |group: &str| {
        let (mut members, mut query) = (Vec::new(), "?limit=64".to_owned());
        loop {
            let page =
                stage.rest(people[0], "GET", &format!("/v1/conversations/{group}/members{query}"), None).body;
            let rows = page["members"].as_array().unwrap_or_else(|| panic!("{page}"));
            members.extend(rows.iter().filter_map(|row| row["user_id"].as_str().map(str::to_owned)));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            assert!(members.len() <= people.len(), "a walk ends");
            query = format!("?limit=64&cursor={cursor}");
        }
        let distinct: BTreeSet<String> = members.iter().cloned().collect();
        assert_eq!(distinct.len(), members.len(), "nobody twice");
        distinct
    };
    assert_eq!(inline(&small), ids(&people[..INLINE_MAX]));
    assert_eq!(paged(&small), ids(&people[..INLINE_MAX]));
    // One more than fit, by joining; and several more.
    for more in [&people[INLINE_MAX..=INLINE_MAX], &people[INLINE_MAX + 1..]] {
        let wish = json!({"user_ids": more.iter().map(u64::to_string).collect::<Vec<_>>()});
        let path = format!("/v1/conversations/{small}/members");
        assert_eq!(stage.rest(people[0], "POST", &path, Some(&wish)).status, 200);
        let shown = inline(&small);
        assert_eq!(shown.len(), INLINE_MAX);
        assert!(shown.is_subset(&ids(&people)));
    }
    assert_eq!(paged(&small), ids(&people));
}

/// DM1.
fn users_are_found_by_id_and_name(stage: &Stage) {
    let server = stage.server();
    let [alice, admin] = stage.people();
    let admin_token = server.token_with(admin, "rest", 60, "admin");
    let name = format!("carillonneur-{alice}");
    let wish = json!({"username": name});
    let post = |token: &str| request(server.address(), "POST", "/v1/users", Some(token), &[], Some(&wish));
    let plain = post(&server.token(alice, "rest"));
    assert_eq!((plain.status, &plain.body["error"]["code"]), (403, &json!("forbidden")), "{plain:?}");
    let made = post(&admin_token);
    assert_eq!((made.status, &made.body["username"]), (201, &json!(name)), "{made:?}");
    let taken = post(&admin_token);
    assert_eq!((taken.status, &taken.body["error"]["field"]), (400, &json!("username")), "{taken:?}");
    let id = made.body["user_id"].as_str().expect("an id");
    for path in [format!("/v1/users/{id}"), format!("/v1/users?username={name}")] {
        let found = stage.rest(alice, "GET", &path, None);
        assert_eq!((found.status, &found.body["user_id"]), (200, &json!(id)), "{found:?}");
        assert_eq!(found.body["username"], name);
        assert!(found.body["created_at"].is_u64(), "{found:?}");
    }
    // Whom the identity provider vouched for.
    let own = stage.rest(alice, "GET", &format!("/v1/users/{alice}"), None);
    assert_eq!(own.body["username"], format!("user-{alice}"), "{own:?}");
    for path in ["/v1/users/9223372036854775807", "/v1/users?username=nobody-of-that-name"] {
        let answer = stage.rest(alice, "GET", path, None);
        assert_eq!((answer.status, &answer.body["error"]["code"]), (404, &json!("not_found")), "{answer:?}");
    }
}

/// FR4 and G12 by REST: 204, and the sender hears of it.
fn receipts_move_by_rest(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let ack = at_alice.say(&conversation, "read me", "r-1");
    for status in ["delivered", "read"] {
        let path = format!("/v1/conversations/{conversation}/{status}");
        let answer = stage.rest(bob, "POST", &path, Some(&json!({"seq": ack["seq"]})));
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{answer:?}");
        let moved = at_alice.until_type("delivery_ack");
        assert_eq!((&moved["status"], &moved["seq"]), (&json!(status), &ack["seq"]), "{moved}");
    }
    let object = stage.rest(bob, "GET", &format!("/v1/conversations/{conversation}"), None).body;
    assert_eq!((&object["read_seq"], &object["unread_count"]), (&ack["seq"], &json!(0)), "{object}");
    let beyond =
        stage.rest(bob, "POST", &format!("/v1/conversations/{conversation}/read"), Some(&json!({"seq": 99})));
    assert_eq!(beyond.status, 400, "{beyond:?}");
}

/// AP8, G11: the same answer for what is foreign and for what is not there.
fn who_is_no_member_is_refused_everywhere(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let conversation = stage.pair(alice, bob);
    say(stage, alice, &conversation, "a secret");
    let mut texts = BTreeSet::new();
    for id in [conversation.as_str(), "9223372036854775807"] {
        let of = |tail: &str| format!("/v1/conversations/{id}{tail}");
        let table = [
            ("GET", of(""), None),
            ("GET", of("/messages"), None),
            ("POST", of("/delivered"), Some(json!({"seq": 1}))),
            ("POST", of("/read"), Some(json!({"seq": 1}))),
            ("POST", "/v1/messages".to_owned(), Some(message(id, "let me in"))),
        ];
        for (method, path, body) in table {
            let answer = stage.rest(eve, method, &path, body.as_ref());
            assert_eq!(
                (answer.status, &answer.body["error"]["code"]),
                (403, &json!("forbidden")),
                "{method} {path}: {answer:?}"
            );
            texts.insert(format!("{method} {} {}", path.replace(id, "ID"), answer.body["error"]["message"]));
        }
    }
    assert_eq!(texts.len(), 5, "foreign and absent look the same: {texts:?}");
    let history = stage.rest(alice, "GET", &format!("/v1/conversations/{conversation}/messages"), None);
    assert_eq!(seqs(&history.body), [2]);
    assert_eq!(stage.rest(eve, "GET", "/v1/conversations", None).body["conversations"], json!([]));
}

/// AP7 and the one shape of errors: status, code and field.
fn what_is_wrong_is_named(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let pair = |members: Value| Some(json!({"type": "one_to_one", "member_ids": members}));
    let with = |key: &str, value: Value| {
        let mut body = message(&conversation, "x");
        body[key] = value;
        Some(body)
    };
    let history = |query: &str| format!("/v1/conversations/{conversation}/messages{query}");
    // Method, path, body; status, code, field.
    type Row = (&'static str, String, Option<Value>, u16, &'static str, Option<&'static str>);
    let table: Vec<Row> = vec![
        (
            "POST",
            "/v1/messages".into(),
            Some(json!({"conversation_id": conversation, "content": "x"})),
            400,
            "bad_request",
            Some("message_type"),
        ),
        (
            "POST",
            "/v1/messages".into(),
            with("message_type", json!("song")),
            400,
            "bad_request",
            Some("message_type"),
        ),
        ("POST", "/v1/messages".into(), with("content", json!(1)), 400, "bad_request", Some("content")),
        ("POST", "/v1/messages".into(), with("content", json!("")), 400, "bad_request", Some("content")),
        (
            "POST",
            "/v1/messages".into(),
            with("content", json!("x".repeat(16_385))),
            413,
            "too_large",
            Some("content"),
        ),
        (
            "POST",
            "/v1/messages".into(),
            with("conversation_id", json!(7)),
            400,
            "bad_request",
            Some("conversation_id"),
        ),
        (
            "POST",
            "/v1/messages".into(),
            with("client_msg_id", json!("")),
            400,
            "bad_request",
            Some("client_msg_id"),
        ),
        ("POST", "/v1/messages".into(), Some(json!("text")), 400, "bad_request", None),
        ("POST", "/v1/messages".into(), with("extra", json!("x".repeat(70_000))), 413, "too_large", None),
        ("GET", history("?limit=many"), None, 400, "bad_request", Some("limit")),
        ("GET", history("?cursor=bogus"), None, 400, "bad_request", Some("cursor")),
        ("GET", history("?after_seq=x"), None, 400, "bad_request", Some("after_seq")),
        (
            "POST",
            "/v1/conversations".into(),
            pair(json!([alice.to_string()])),
            400,
            "bad_request",
            Some("member_ids"),
        ),
        ("POST", "/v1/conversations".into(), pair(json!([])), 400, "bad_request", Some("member_ids")),
        ("POST", "/v1/conversations".into(), pair(json!([bob])), 400, "bad_request", Some("member_ids")),
        (
            "POST",
            "/v1/conversations".into(),
            pair(json!(["9223372036854775807"])),
            404,
            "not_found",
            Some("member_ids"),
        ),
        (
            "POST",
            "/v1/conversations".into(),
            Some(json!({"member_ids": [bob.to_string()]})),
            400,
            "bad_request",
            Some("type"),
        ),
        ("GET", "/v1/nothing".into(), None, 404, "not_found", None),
        ("PUT", "/v1/messages".into(), Some(json!({})), 405, "bad_request", None),
    ];
    for (method, path, body, status, code, field) in table {
        let answer = stage.rest(alice, method, &path, body.as_ref());
        let error = &answer.body["error"];
        let what = format!("{method} {path} {:.120}: {answer:?}", body.unwrap_or_default().to_string());
        assert_eq!((answer.status, &error["code"]), (status, &json!(code)), "{what}");
        if let Some(field) = field {
            assert_eq!(error["field"], field, "{what}");
        }
        assert!(error["message"].is_string() && error["retryable"] == false, "{what}");
        assert_eq!(error["request_id"].as_str(), answer.header("X-Request-Id"), "{what}");
    }
    let traced = rest(stage.server(), alice, "GET", "/v1/nothing", &[("X-Request-Id", "abc-123")], None);
    assert_eq!(
        (traced.header("X-Request-Id"), &traced.body["error"]["request_id"]),
        (Some("abc-123"), &json!("abc-123"))
    );
}

fn tokens_are_asked_for_on_every_route(stage: &Stage) {
    let server = stage.server();
    let [alice] = stage.people();
    let expired = server.token_with(alice, "rest", -61, "");
    let routes = [
        ("POST", "/v1/messages"),
        ("GET", "/v1/conversations"),
        ("POST", "/v1/conversations"),
        ("GET", "/v1/conversations/1"),
        ("GET", "/v1/conversations/1/messages"),
        ("POST", "/v1/users"),
        ("GET", "/v1/users/1"),
    ];
    for (method, path) in routes {
        for (token, code) in [
            (None, "unauthenticated"),
            (Some("a.b.c"), "unauthenticated"),
            (Some(expired.as_str()), "token_expired"),
        ] {
            let answer = request(server.address(), method, path, token, &[], None);
            assert_eq!(
                (answer.status, &answer.body["error"]["code"]),
                (401, &json!(code)),
                "{method} {path}: {answer:?}"
            );
        }
    }
}
