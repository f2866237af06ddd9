//! What is done over REST: conversations are made before the run, histories read after it.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use carillon_node::clock::Clock;
use carillon_protocol::ids::{ConversationId, MessageId, SEQ_MAX, Seq, UserId};
use carillon_protocol::limits::{MEMBER_IDS_MAX, PAGE_EVENTS_MAX};
use serde::Deserialize;

use super::http::{Http, Request};
use super::inputs::Tokens;
use crate::oracle::{Conversation, Judge, Roster, Told};
use crate::plan::{Planned, idempotency_key};

/// How long one request is tried again while the server is away or busy: a kill loop restarts it in less.
const PATIENCE_NS: u64 = 60_000_000_000;
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that make conversations at the same time.
const MAKERS: usize = 8;

#[derive(Deserialize)]
struct Made {
    conversation_id: ConversationId,
    head_seq: Seq,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    message_id: MessageId,
    seq: Seq,
    sender_id: UserId,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(borrow, default)]
    media_url: Option<Cow<'a, str>>,
}

/// Sends until there is an answer that is one.
fn answer(http: &mut Http, request: &Request<'_>) -> Result<Vec<u8>, String> {
    let until_ns = Clock.now_ns().saturating_add(PATIENCE_NS);
    loop {
        let words = match http.send(request) {
            Ok(answer) if matches!(answer.status, 200..=299) => return Ok(answer.body),
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                let words =
                    format!("{} {} was answered {}: {body}", request.method, request.path, answer.status);
                if !matches!(answer.status, 429 | 503 | 504) {
                    return Err(words);
                }
                words
            }
            Err(error) => format!("{} {} failed: {error}", request.method, request.path),
        };
        if Clock.now_ns() > until_ns {
            return Err(words);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Makes the planned conversations, or finds them when an earlier run made them.
pub(super) fn make(
    server: SocketAddr,
    seed: u64,
    planned: &[Planned],
    users: &[u64],
    tokens: &Tokens,
) -> Result<Vec<Conversation>, String> {
    let share = planned.len().div_ceil(MAKERS).max(1);
    std::thread::scope(|scope| {
        let makers: Vec<_> = planned
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut http = Http::new(server);
                    chunk.iter().map(|planned| make_one(&mut http, seed, planned, users, tokens)).collect()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(planned.len());
        for maker in makers {
            let made: Result<Vec<_>, _> = maker.join().map_err(|_| "a set-up thread panicked".to_owned())?;
            all.extend(made?);
        }
        Ok(all)
    })
}

fn make_one(
    http: &mut Http,
    seed: u64,
    planned: &Planned,
    users: &[u64],
    tokens: &Tokens,
) -> Result<Conversation, String> {
    let user = |client: &u32| users.get(*client as usize).copied().unwrap_or(0);
    let members: Vec<u64> = planned.members.iter().map(user).collect();
    let token = planned.members.first().map(|client| tokens.of(*client));
    let token = token.as_deref();
    let others: Vec<String> = members.iter().skip(1).map(u64::to_string).collect();
    // The creator is a member without being named, and counts.
    let (first, more) = others.split_at(others.len().min(MEMBER_IDS_MAX - 1));
    let key = idempotency_key(seed, &members);
    let body = if planned.is_group {
        serde_json::json!({"type": "group", "group_name": key, "member_ids": first})
    } else {
        serde_json::json!({"type": "one_to_one", "member_ids": first})
    };
    let body = body.to_string();
    let request = Request {
        method: "POST",
        path: "/v1/conversations",
        token,
        idempotency_key: Some(&key),
        body: body.as_bytes(),
    };
    let made = |body: &[u8]| {
        serde_json::from_slice::<Made>(body).map_err(|error| format!("a conversation's answer: {error}"))
    };
    let mut made_last = made(&answer(http, &request)?)?;
    let path = format!("/v1/conversations/{}", made_last.conversation_id);
    if !more.is_empty() {
        // Those who are members already, from an earlier run, stay as they are.
        let members_path = format!("{path}/members");
        for ids in more.chunks(MEMBER_IDS_MAX) {
            let body = serde_json::json!({ "user_ids": ids }).to_string();
            let body = body.as_bytes();
            let request = Request { method: "POST", path: &members_path, token, idempotency_key: None, body };
            answer(http, &request)?;
        }
        let request = Request { method: "GET", path: &path, token, idempotency_key: None, body: b"" };
        made_last = made(&answer(http, &request)?)?;
    }
    let made = made_last;
    if made.head_seq > SEQ_MAX {
        return Err(format!("a conversation was made with the head {}", made.head_seq));
    }
    Ok(Conversation { id: made.conversation_id, base_seq: made.head_seq, members: planned.members.clone() })
}

/// Reads every conversation's history, each as another of its members, and tells it to the judge.
pub(super) fn tell(
    server: SocketAddr,
    roster: &Roster,
    tokens: &Tokens,
    judge: &mut Judge,
) -> Result<(), String> {
    let mut http = Http::new(server);
    for (number, conversation) in (0u32..).zip(roster.conversations()) {
        let reader = conversation.members.get(number as usize % conversation.members.len().max(1));
        let token = reader.map(|client| tokens.of(*client));
        let token = token.as_deref();
        let mut after_seq = conversation.base_seq;
        loop {
            let (id, limit) = (conversation.id, PAGE_EVENTS_MAX);
            let path = format!("/v1/conversations/{id}/messages?after_seq={after_seq}&limit={limit}");
            let request = Request { method: "GET", path: &path, token, idempotency_key: None, body: b"" };
            let body = answer(&mut http, &request)?;
            let page: Page<'_> =
                serde_json::from_slice(&body).map_err(|error| format!("a page of {id}: {error}"))?;
            for message in &page.messages {
                let told = Told {
                    seq: message.seq,
                    message: message.message_id.0,
                    sender: message.sender_id.0,
                    content: &message.content,
                    media_url: message.media_url.as_deref(),
                };
                judge.told(number, &told);
            }
            // The end, or a server that goes in circles: the judge has seen that.
            match page.messages.last() {
                Some(message) if message.seq > after_seq => after_seq = message.seq,
                _ => break,
            }
        }
    }
    Ok(())
}

/// The text behind `http://address/path`.
pub(super) fn text(url: &str) -> io::Result<String> {
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidInput, "not of the form http://127.0.0.1:9100/metrics");
    let (address, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let server = address.parse().map_err(|_| wrong())?;
    let path = format!("/{path}");
    let request = Request { method: "GET", path: &path, token: None, idempotency_key: None, body: b"" };
    let answer = Http::new(server).send(&request)?;
    if answer.status != 200 {
        return Err(io::Error::other(format!("answered {}", answer.status)));
    }
    String::from_utf8(answer.body).map_err(|_| io::ErrorKind::InvalidData.into())
}
