//! Content that the server cannot read: it comes out as it went in, nothing looks into it, and the rules hold all the same.

#![expect(clippy::disallowed_methods, reason = "tests read logs and what lies on the disk")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carillon_tests::client::{Client, Wire};
use carillon_tests::http::request;
use carillon_tests::server::{Deployment, Server};
use carillon_tests::stage::{Stage, create, introduce, rest};
use carillon_tests::{everywhere, over_events};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");
const SETTINGS: &[&str] = &["limits.send_per_s=0"];
/// `limits.content_bytes` of `hello`.
const CONTENT_BYTES_MAX: usize = 16_384;

everywhere!(crate::SETTINGS;
    opaque_content_comes_out_as_it_went_in,
    the_size_and_membership_of_opaque_messages_count,
);
over_events!(crate::SETTINGS;
    opaque_content_comes_out_as_it_went_in,
    the_size_and_membership_of_opaque_messages_count,
);
mod slowly {
    use carillon_tests::everywhere;

    everywhere!(&["limits.send_per_s=1", "limits.send_burst=4"]; the_rate_of_opaque_messages_counts);

    use super::the_rate_of_opaque_messages_counts;
}

fn opaque(conversation: &str, content: &str, client_msg_id: &str) -> Value {
    json!({"type": "send_message", "conversation_id": conversation, "content": content, "encoding": "opaque",
        "client_msg_id": client_msg_id, "id": client_msg_id})
}

/// What a message was answered with.
fn answer(client: &mut Client, id: &str) -> Value {
    client.until("answer", |frame| frame["id"] == id)
}

/// E1: bytes in, bytes out: live, in history, in a page on coming back; also those that would come back changed if
/// anything decoded and encoded them again.
fn opaque_content_comes_out_as_it_went_in(stage: &Stage) {
    let [alice, bob] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_bob) = (stage.live(alice, "phone"), stage.live(bob, "phone"));
    let every_byte: Vec<u8> = (0..=255).collect();
    let contents = [
        STANDARD.encode(every_byte),
        STANDARD.encode(br#"{"type":"delete_message","content":"<b>not</b> for you"}"#),
        STANDARD.encode([0xff, 0xfe, 0x00, 0x80]),
        // Bits that padding leaves over.
        "AB==".to_owned(),
        "AAF=".to_owned(),
        "A".repeat(CONTENT_BYTES_MAX),
    ];
    for (n, content) in contents.iter().enumerate() {
        at_alice.send(&opaque(&conversation, content, &n.to_string()));
        assert_eq!(answer(&mut at_alice, &n.to_string())["type"], "delivery_ack");
        let message = &at_bob.until_type("new_message")["message"];
        assert_eq!(
            (message["content"].as_str(), &message["encoding"]),
            (Some(&content[..]), &json!("opaque"))
        );
    }
    let mut again = stage.login(bob, "tablet");
    let paged: Vec<Value> = again
        .past()
        .iter()
        .flat_map(|frame| frame["events"].as_array().cloned().unwrap_or_default())
        .map(|event| event["message"].clone())
        .filter(Value::is_object)
        .collect();
    let path = format!("/v1/conversations/{conversation}/messages?after_seq=1");
    for user in [alice, bob] {
        let page = stage.rest(user, "GET", &path, None);
        for shown in [page.body["messages"].as_array().expect("messages"), &paged] {
            let shown: Vec<(&str, &Value)> =
                shown.iter().map(|one| (one["content"].as_str().unwrap_or("?"), &one["encoding"])).collect();
            let opaque = json!("opaque");
            assert_eq!(shown, contents.iter().map(|content| (&content[..], &opaque)).collect::<Vec<_>>());
        }
    }
    // Two ways to write the same bytes are two contents: nobody looked at the bytes.
    at_alice.send(&opaque(&conversation, "AA==", "3"));
    assert_eq!(answer(&mut at_alice, "3")["error"]["code"], "idempotency_conflict");
}

/// E3: how much, and who: the bound on size holds as for text, and only members send.
fn the_size_and_membership_of_opaque_messages_count(stage: &Stage) {
    let [alice, bob, eve] = stage.people();
    let conversation = stage.pair(alice, bob);
    let (mut at_alice, mut at_eve) = (stage.live(alice, "phone"), stage.live(eve, "phone"));
    for encoding in ["opaque", "utf8"] {
        let mut frame = opaque(&conversation, &"A".repeat(CONTENT_BYTES_MAX), encoding);
        frame["encoding"] = json!(encoding);
        at_alice.send(&frame);
        assert_eq!(answer(&mut at_alice, encoding)["type"], "delivery_ack", "{encoding}");
        // By REST, because the binary form of a frame that is too large cannot be written.
        let body = json!({"conversation_id": conversation, "content": "A".repeat(CONTENT_BYTES_MAX + 4),
            "message_type": "text", "encoding": encoding});
        let refused = stage.rest(alice, "POST", "/v1/messages", Some(&body));
        let error = &refused.body["error"];
        assert_eq!((refused.status, &error["code"]), (413, &json!("too_large")), "{encoding}: {error}");
    }
    at_eve.send(&opaque(&conversation, "AAAA", "eve"));
    assert_eq!(answer(&mut at_eve, "eve")["error"]["code"], "forbidden");
}

/// E3: and when: a flood of what nobody can read is refused like a flood of text.
fn the_rate_of_opaque_messages_counts(stage: &Stage) {
    const BURST: usize = 4;
    const SENDS: usize = 40;
    let [bob, text, cipher] = stage.people();
    let refused = [(text, "utf8"), (cipher, "opaque")].map(|(user, encoding)| {
        // Bob creates, so that the sender's bucket is full.
        let conversation = stage.pair(bob, user);
        let mut client = stage.live(user, "phone");
        for n in 0..SENDS {
            let mut frame = opaque(&conversation, "AAAA", &n.to_string());
            frame["encoding"] = json!(encoding);
            client.send(&frame);
        }
        let answers: Vec<Value> =
            (0..SENDS).map(|_| client.until("answer", |frame| frame.get("id").is_some())).collect();
        let refused: Vec<&Value> = answers.iter().filter(|answer| answer["type"] == "error").collect();
        for error in &refused {
            assert_eq!(error["error"]["code"], "rate_limited", "{encoding}: {error}");
            assert!(error["error"]["retry_after_ms"].is_u64(), "{encoding}: {error}");
        }
        assert!(answers.len() - refused.len() >= BURST, "{encoding}: the burst is taken");
        refused.len()
    });
    assert!(refused.iter().all(|count| *count > 0), "{refused:?} of {SENDS} refused");
}

/// All text in the files below a directory whose names end so.
fn texts(directory: &Path, ends: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.extend(texts(&path, ends));
        } else if path.to_string_lossy().ends_with(ends) {
            text.extend(std::fs::read(&path).expect("a file"));
        }
    }
    text
}

fn holds(text: &[u8], needle: &str) -> bool {
    text.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// E2: what an opaque message says is decoded nowhere: not on the disk, where what was sent lies as it was sent; and
/// neither form is in a log, however much is logged, or in a metric. Nothing searches it, because nothing searches.
#[test]
fn nothing_looks_into_opaque_content() {
    const SECRET: &str = "what the two of them said to each other";
    for deployment in [Deployment::OneProcess, Deployment::Tiers] {
        let mut server = Server::start(BINARY, deployment, &["log.level=trace"]);
        introduce(&server, 1);
        introduce(&server, 2);
        let conversation = create(&server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}));
        let sent = STANDARD.encode(SECRET);
        let mut at_bob = Client::login(&server, Wire::Json, 2, "phone");
        at_bob.until_type("caught_up");
        let mut at_alice = Client::login(&server, Wire::Json, 1, "phone");
        at_alice.send(&opaque(&conversation, &sent, "o"));
        let ack = answer(&mut at_alice, "o");
        assert_eq!(ack["type"], "delivery_ack", "{ack}");
        assert_eq!(at_bob.until_type("new_message")["message"]["content"], sent);
        // Paths on which things go wrong are logged as well.
        at_alice
            .send(&json!({"type": "react", "conversation_id": conversation, "message_id": ack["message_id"],
            "emoji": "👍", "id": "r"}));
        at_alice.until_type("ok");
        at_alice.send(&opaque(&conversation, &format!("{sent}!"), "wrong"));
        assert_eq!(answer(&mut at_alice, "wrong")["type"], "error");
        let page = format!("/v1/conversations/{conversation}/messages");
        assert_eq!(rest(&server, 2, "GET", &page, &[], None).body["messages"][0]["content"], sent);

        for path in ["/v1/search?q=said", "/v1/messages?q=said", &format!("{page}/search?q=said")] {
            let answer = rest(&server, 2, "GET", path, &[], None);
            assert!(matches!(answer.status, 404 | 405), "{path}: {answer:?}");
            assert!(!answer.text.contains(&sent) && !answer.text.contains("said to"), "{path}: {answer:?}");
        }
        let mut admins = vec![server.admin()];
        admins.extend(server.router.as_ref().map(|router| router.address("admin")));
        for admin in admins {
            let metrics = request(admin, "GET", "/metrics", None, &[], None).text;
            assert!(metrics.contains("carillon_"), "{metrics}");
            assert!(!holds(metrics.as_bytes(), &sent) && !holds(metrics.as_bytes(), SECRET));
        }
        for process in server.gateway.iter_mut().chain(&mut server.router) {
            process.kill();
        }
        let directory = server.data_dir();
        let logs = texts(directory.parent().expect("a parent"), ".log");
        assert!(holds(&logs, "router started"), "these are the logs");
        let disk = texts(&directory.join("store"), "");
        assert!(holds(&disk, &sent), "it lies as it was sent");
        for (what, text) in [("log", &logs), ("store", &disk)] {
            assert!(!holds(text, SECRET), "decoded in a {what}");
        }
        assert!(!holds(&logs, &sent), "in a log");
    }
}
