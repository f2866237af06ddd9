//! Server-sent events for hearing, REST for saying (TR5). What a WebSocket would have answered is put together from REST's
//! answers, and what the stream brings of one's own is left out: there, the answer is the event.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::Seen;
use crate::http::{Answer, request};
use crate::secure::Stream;

/// See the module.
pub(super) struct Events {
    address: SocketAddr,
    token: Option<String>,
    stream: Option<Stream>,
    /// What came and is not a whole event yet, chunk headers taken off.
    text: String,
    raw: Vec<u8>,
    is_body: bool,
    /// Events that REST's answers stand for.
    own: BTreeSet<(String, u64)>,
    /// What was read by REST; the stream is another connection of the same device and is told.
    own_reads: BTreeSet<(String, u64)>,
}

impl Events {
    pub(super) fn begin(address: SocketAddr, token: Option<&str>) -> Events {
        Events {
            address,
            token: token.map(str::to_owned),
            stream: None,
            text: String::new(),
            raw: Vec::new(),
            is_body: false,
            own: BTreeSet::new(),
            own_reads: BTreeSet::new(),
        }
    }

    fn rest(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        request(self.address, method, path, self.token.as_deref(), headers, body)
    }

    /// Whether a frame is an event that an answer stood for.
    pub(super) fn is_own(&self, frame: &Value) -> bool {
        if frame["type"] == "read_sync" {
            let conversation = frame["conversation_id"].as_str().unwrap_or_default();
            let read_seq = frame["read_seq"].as_u64().unwrap_or(0);
            return self.own_reads.contains(&(conversation.to_owned(), read_seq));
        }
        super::Event::all(frame)
            .iter()
            .any(|event| self.own.contains(&(event.conversation.clone(), event.seq)))
            && frame["type"] != "sync_batch"
    }

    pub(super) fn send(&mut self, frame: &Value) -> Option<Value> {
        let conversation = frame["conversation_id"].as_str().unwrap_or_default().to_owned();
        let below = format!("/v1/conversations/{conversation}");
        let message = frame["message_id"].as_str().unwrap_or_default();
        let key = frame["client_msg_id"].as_str();
        let headers: Vec<(&str, &str)> = key.map(|key| ("Idempotency-Key", key)).into_iter().collect();
        let seq = json!({ "seq": frame["seq"] });
        let answer = match frame["type"].as_str().unwrap_or_default() {
            "identify" => {
                assert!(
                    frame["cursors"].as_object().is_none_or(serde_json::Map::is_empty),
                    "a stream's cursors are opaque"
                );
                self.open();
                return None;
            }
            "send_message" => {
                let mut body = frame.clone();
                let fields = body.as_object_mut().expect("an object");
                fields.remove("type");
                fields.remove("id");
                fields.entry("message_type").or_insert(json!("text"));
                self.rest("POST", "/v1/messages", &[], Some(&body))
            }
            kind @ ("delivered" | "read") => {
                if kind == "read" {
                    let seq = frame["seq"].as_u64().unwrap_or(0);
                    self.own_reads.insert((conversation.clone(), seq));
                }
                self.rest("POST", &format!("{below}/{kind}"), &[], Some(&seq))
            }
            "delete_message" => self.rest("DELETE", &format!("{below}/messages/{message}"), &headers, None),
            kind @ ("react" | "unreact") => {
                let method = if kind == "react" { "PUT" } else { "DELETE" };
                let emoji: String = frame["emoji"]
                    .as_str()
                    .unwrap_or_default()
                    .bytes()
                    .map(|byte| format!("%{byte:02X}"))
                    .collect();
                self.rest(method, &format!("{below}/messages/{message}/reactions/{emoji}"), &headers, None)
            }
            "bye" => {
                self.stream = None;
                return None;
            }
            kind => panic!("{kind} cannot be said by REST"),
        };
        self.answered(frame, &conversation, &answer)
    }

    /// What a WebSocket would have answered.
    fn answered(&mut self, frame: &Value, conversation: &str, answer: &Answer) -> Option<Value> {
        let mut said = match answer.status {
            200 | 201 if frame["type"] == "send_message" => {
                let mut ack =
                    json!({"type": "delivery_ack", "status": "sent", "conversation_id": conversation});
                for field in ["message_id", "seq", "timestamp", "duplicate"] {
                    if let Some(value) = answer.body.get(field) {
                        ack[field] = value.clone();
                    }
                }
                if let Some(key) = frame.get("client_msg_id") {
                    ack["client_msg_id"] = key.clone();
                }
                ack
            }
            200 => {
                let mut ok = answer.body.clone();
                ok["type"] = json!("ok");
                ok
            }
            204 if frame.get("id").is_none() => return None,
            204 => json!({"type": "ok", "conversation_id": conversation, "seq": frame["seq"]}),
            _ => json!({"type": "error", "error": answer.body["error"]}),
        };
        if said["type"] != "error"
            && answer.status != 204
            && said.get("duplicate").is_none()
            && let Some(seq) = said["seq"].as_u64()
        {
            self.own.insert((conversation.to_owned(), seq));
        }
        if let Some(id) = frame.get("id") {
            said["id"] = id.clone();
        }
        Some(said)
    }

    /// Opens the stream by a path that is good once, as a browser has to.
    fn open(&mut self) {
        let answer = self.rest("POST", "/v1/events", &[], None);
        assert_eq!(answer.status, 201, "{answer:?}");
        let path = answer.body["path"].as_str().unwrap_or_else(|| panic!("no path: {answer:?}"));
        let mut stream = Stream::connect(self.address, Duration::from_millis(100));
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).expect("sent");
        self.stream = Some(stream);
    }

    pub(super) fn cut(self) {
        if let Some(stream) = self.stream {
            let _ = stream.socket().shutdown(std::net::Shutdown::Both);
        }
    }

    pub(super) fn read(&mut self) -> Seen {
        let Some(stream) = &mut self.stream else { return Seen::Closed(1000, "bye".to_owned()) };
        let mut buffer = [0; 16_384];
        match stream.read(&mut buffer) {
            Ok(0) => return Seen::Closed(1006, "the stream ended".to_owned()),
            Ok(count) => self.raw.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Seen::Closed(1006, error.to_string()),
        }
        self.unchunk();
        let mut frames = Vec::new();
        while let Some((event, rest)) = self.text.split_once("\n\n").map(owned) {
            let is_close = event.lines().any(|line| line == "event: close");
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let data: Option<Value> = data.map(|data| serde_json::from_str(data).expect("JSON"));
            self.text = rest;
            match data {
                Some(close) if is_close => {
                    let code =
                        close["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(1006);
                    if frames.is_empty() {
                        return Seen::Closed(code, close["reason"].to_string());
                    }
                    // Told again by the next look.
                    self.text = format!("{event}\n\n{}", self.text);
                    break;
                }
                Some(frame) if !self.is_own(&frame) => frames.push(frame),
                _ => {}
            }
        }
        Seen::Frames(frames)
    }

    /// Takes the head and the chunk headers off (RFC 9112 section 7.1).
    fn unchunk(&mut self) {
        let find = |raw: &[u8], what: &[u8]| raw.windows(what.len()).position(|window| window == what);
        if !self.is_body {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else { return };
            let head = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 200"), "no stream: {head}");
            assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
            self.raw.drain(..end + 4);
            self.is_body = true;
        }
        while let Some(end) = find(&self.raw, b"\r\n") {
            let size = std::str::from_utf8(&self.raw[..end])
                .ok()
                .and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let size = size.expect("a chunk's size");
            if self.raw.len() < end + 2 + size + 2 {
                return;
            }
            self.text.push_str(std::str::from_utf8(&self.raw[end + 2..end + 2 + size]).expect("UTF-8"));
            self.raw.drain(..end + 2 + size + 2);
        }
    }
}

fn owned((event, rest): (&str, &str)) -> (String, String) {
    (event.to_owned(), rest.to_owned())
}
