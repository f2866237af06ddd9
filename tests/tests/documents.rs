//! What a real server says, held against the documents that the same server publishes.

// One checker for everybody who holds answers against documents.
#[path = "../../gateway/tests/rest/schema.rs"]
mod schema;

use std::collections::BTreeSet;

use carillon_tests::client::Client;
use carillon_tests::stage::Stage;
use carillon_tests::{everywhere, over_events};
use schema::faults;
use serde_json::{Value, json};

const SETTINGS: &[&str] = &["limits.send_per_s=0"];

everywhere!(crate::SETTINGS; messages_are_as_published);
over_events!(crate::SETTINGS; messages_are_as_published);

/// What the server publishes.
struct Published {
    rest: Value,
    frames: Value,
}

impl Published {
    fn by(stage: &Stage, user: u64) -> Published {
        let get = |path: &str| {
            let answer = stage.rest(user, "GET", path, None);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            answer.body
        };
        Published { rest: get("/v1/openapi.json"), frames: get("/v1/asyncapi.json") }
    }

    /// A frame from the server is one of those that are described.
    fn check_frame(&self, frame: &Value) {
        let name = format!("server.{}", frame["type"].as_str().unwrap_or_default());
        let schema = &self.frames["components"]["messages"][&name]["payload"];
        assert!(schema.is_object(), "{name} is not described: {frame}");
        assert_eq!(faults(&self.frames, schema, frame), Vec::<String>::new(), "{frame}");
    }

    /// An answer of this route is as described.
    fn check_answer(&self, path: &str, method: &str, status: u64, body: &Value) {
        let response = &self.rest["paths"][path][method]["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} {status} is not described");
        assert_eq!(faults(&self.rest, schema, body), Vec::<String>::new(), "{method} {path} {status} {body}");
    }

    /// The schema of a message, by way of the frame that carries one.
    fn message<'a>(&'a self) -> &'a Value {
        let resolved = |mut schema: &'a Value| {
            while let Some(pointer) = schema["$ref"].as_str() {
                schema = self.frames.pointer(pointer.trim_start_matches('#')).expect("a component");
            }
            schema
        };
        let frame = resolved(&self.frames["components"]["messages"]["server.new_message"]["payload"]);
        resolved(&frame["properties"]["message"])
    }
}

/// Every frame up to the first that `wanted` accepts, which is returned.
fn checked(client: &mut Client, published: &Published, mut wanted: impl FnMut(&Value) -> bool) -> Value {
    loop {
        let frame = client.frame();
        published.check_frame(&frame);
        if wanted(&frame) {
            return frame;
        }
    }
}

/// DM4: a message has the fields of the data model, wherever it is shown: pushed, paged on coming back, and in history; of
/// every type, with media and without, opaque, as an answer, with reactions, and deleted.
fn messages_are_as_published(stage: &Stage) {
    let [alice, bob] = stage.people();
    let published = Published::by(stage, alice);
    let message = published.message();
    let required: BTreeSet<&str> =
        message["required"].as_array().expect("required").iter().filter_map(Value::as_str).collect();
    let always = [
        "message_id",
        "conversation_id",
        "seq",
        "sender_id",
        "content",
        "message_type",
        "status",
        "created_at",
    ];
    assert!(required.is_superset(&BTreeSet::from(always)), "{required:?}");
    assert!(message["properties"]["media_url"].is_object() && !required.contains("media_url"), "{message}");

    let conversation = stage.pair(alice, bob);
    let mut at_alice = stage.live(alice, "phone");
    let mut at_bob = stage.login(bob, "phone");
    checked(&mut at_bob, &published, |frame| frame["type"] == "caught_up");
    let media = "https://media.example/a.bin";
    let mut wishes = vec![
        json!({"content": "plain"}),
        json!({"content": "AAEC/w==", "encoding": "opaque"}),
        json!({"content": "an answer", "reply_to": true, "client_msg_id": "own"}),
    ];
    wishes.extend(
        ["text", "image", "video", "file"]
            .map(|kind| json!({"content": kind, "message_type": kind, "media_url": media})),
    );
    let mut ids: Vec<Value> = Vec::new();
    for wish in &wishes {
        let mut frame = json!({"type": "send_message", "conversation_id": conversation});
        for (field, value) in wish.as_object().expect("fields") {
            frame[field] = if field == "reply_to" { ids[0].clone() } else { value.clone() };
        }
        at_alice.send(&frame);
        let ack = checked(&mut at_alice, &published, |frame| frame["status"] == "sent");
        ids.push(ack["message_id"].clone());
        let pushed = checked(&mut at_bob, &published, |frame| frame["type"] == "new_message");
        assert_eq!(pushed["message"]["message_id"], ack["message_id"]);
    }
    at_bob
        .send(&json!({"type": "react", "conversation_id": conversation, "message_id": ids[0], "emoji": "👍",
        "id": "r"}));
    checked(&mut at_bob, &published, |frame| frame["type"] == "ok");
    at_alice.send(&json!({"type": "delete_message", "conversation_id": conversation, "message_id": ids[1],
        "id": "d"}));
    checked(&mut at_alice, &published, |frame| frame["type"] == "ok");
    checked(&mut at_bob, &published, |frame| frame["type"] == "message_deleted");

    for user in [alice, bob] {
        let path = format!("/v1/conversations/{conversation}/messages");
        let page = stage.rest(user, "GET", &path, None);
        published.check_answer("/v1/conversations/{conversation_id}/messages", "get", 200, &page.body);
        let messages = page.body["messages"].as_array().expect("messages");
        assert_eq!(messages.len(), wishes.len());
        for message in messages {
            assert_eq!(
                faults(&published.frames, published.message(), message),
                Vec::<String>::new(),
                "{message}"
            );
        }
        let types: BTreeSet<&str> =
            messages.iter().filter_map(|message| message["message_type"].as_str()).collect();
        assert_eq!(types, BTreeSet::from(["text", "image", "video", "file"]));
        let mut tablet = stage.login(user, "tablet");
        let mut paged = 0;
        checked(&mut tablet, &published, |frame| {
            let events = frame["events"].as_array().into_iter().flatten();
            paged += events.filter(|event| event["type"] == "new_message").count();
            frame["type"] == "caught_up"
        });
        assert_eq!(paged, wishes.len(), "all of them are in the pages");
    }
    // The checker sees what is wrong.
    let mut wrong = json!({});
    assert!(!faults(&published.frames, published.message(), &wrong).is_empty());
    wrong = stage.rest(bob, "GET", &format!("/v1/conversations/{conversation}/messages?limit=1"), None).body;
    wrong["messages"][0]["status"] = json!("seen");
    assert!(!faults(&published.frames, published.message(), &wrong["messages"][0]).is_empty());
}
