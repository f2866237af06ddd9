//! A client made of tungstenite and `serde_json`: an outside eye. Scenarios are written in JSON whatever the wire; on
//! the binary one, frames are translated by `protocol::client` at the border.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub use carillon_protocol::client::Wire;
use carillon_protocol::client::{ServerFrame, binary, json};
use rkyv::util::AlignedVec;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use crate::server::{PATIENCE, Server};

/// One connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
    wire: Wire,
    seen: VecDeque<Value>,
    /// The close frame, once it came.
    pub closed: Option<(u16, String)>,
}

/// Why a connection was refused: the HTTP status and the body.
pub type Refused = (u16, String);

impl Client {
    /// Connects and upgrades; nothing is said yet. `token` goes into the Authorization header.
    ///
    /// # Errors
    /// The server's HTTP answer when it is not 101.
    ///
    /// # Panics
    /// When there is no server.
    pub fn connect(address: SocketAddr, wire: Wire, token: Option<&str>) -> Result<Client, Refused> {
        let mut request = format!("ws://{address}/v1/ws").into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", wire.subprotocol().parse().expect("a name"));
        if let Some(token) = token {
            headers.insert("Authorization", format!("Bearer {token}").parse().expect("a token"));
        }
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        // The default read buffer is 128 KiB, resident at the first read.
        let config = WebSocketConfig::default().read_buffer_size(1_024);
        let mut attempt = tungstenite::client::client_with_config(request, stream, Some(config));
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match attempt {
                Ok((socket, _)) => break socket,
                Err(tungstenite::HandshakeError::Interrupted(again)) => {
                    assert!(Instant::now() < deadline, "no answer to the upgrade");
                    attempt = again.handshake();
                }
                Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                    let body =
                        answer.body().as_deref().map(|body| String::from_utf8_lossy(body).into_owned());
                    return Err((answer.status().as_u16(), body.unwrap_or_default()));
                }
                Err(error) => panic!("the upgrade failed: {error}"),
            }
        };
        Ok(Client { socket, wire, seen: VecDeque::new(), closed: None })
    }

    /// Connects as `user`, identifies without cursors, and reads up to `caught_up`. What came before stays readable.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn login(server: &Server, wire: Wire, user: u64, device: &str) -> Client {
        Client::login_with(server, wire, user, device, &json!({}))
    }

    /// As [`Client::login`], with cursors.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn login_with(server: &Server, wire: Wire, user: u64, device: &str, cursors: &Value) -> Client {
        let token = server.token(user, device);
        let mut client = Client::connect(server.address(), wire, Some(&token)).expect("upgraded");
        client.send(&json!({"type": "identify", "cursors": cursors}));
        let mut before = VecDeque::new();
        loop {
            let frame = client.frame();
            let is_last = frame["type"] == "caught_up";
            before.push_back(frame);
            if is_last {
                break;
            }
        }
        client.seen = before;
        client
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the socket is broken, or the frame cannot be expressed on the binary wire.
    pub fn send(&mut self, frame: &Value) {
        let text = frame.to_string();
        match self.wire {
            Wire::Json => self.send_raw(Message::text(text)),
            Wire::Rkyv => {
                let incoming = json::decode(&text);
                let command = incoming.command.unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
                let mut bytes = AlignedVec::new();
                binary::encode_command(incoming.id.as_ref(), &command, &mut bytes);
                self.send_raw(Message::binary(bytes.to_vec()));
            }
        }
    }

    /// Sends any message.
    ///
    /// # Panics
    /// When the socket is broken.
    pub fn send_raw(&mut self, message: Message) {
        self.socket.send(message).expect("sent");
    }

    /// The next frame, in order.
    ///
    /// # Panics
    /// When none comes, or the connection ends.
    pub fn frame(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        self.next_before(deadline).unwrap_or_else(|| panic!("no frame came; closed: {:?}", self.closed))
    }

    /// The next frame, unless the connection ends or the deadline passes.
    pub fn next_before(&mut self, deadline: Instant) -> Option<Value> {
        loop {
            if let Some(frame) = self.seen.pop_front() {
                return Some(frame);
            }
            if self.closed.is_some() || Instant::now() >= deadline {
                return None;
            }
            self.read();
        }
    }

    /// Reads once from the socket.
    fn read(&mut self) {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                assert_eq!(self.wire, Wire::Json, "text on a binary connection");
                self.seen.push_back(serde_json::from_str(&text).expect("JSON from the server"));
            }
            Ok(Message::Binary(bytes)) => {
                assert_eq!(self.wire, Wire::Rkyv, "binary on a text connection");
                let mut aligned = AlignedVec::<16>::new();
                aligned.extend_from_slice(&bytes);
                for frame in binary::decode_server(&aligned) {
                    self.seen.push_back(to_json(&frame.expect("a frame that we know")));
                }
            }
            Ok(Message::Close(frame)) => {
                self.closed = Some(frame.map_or((1005, String::new()), |CloseFrame { code, reason }| {
                    (code.into(), reason.to_string())
                }));
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => {
                // 1006: the connection is gone without a close frame (RFC 6455 section 7.1.5).
                self.closed.get_or_insert((1006, error.to_string()));
            }
        }
    }

    /// Skips to the next frame that `wanted` accepts; everything before is dropped.
    ///
    /// # Panics
    /// When none comes.
    pub fn until(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut skipped = Vec::new();
        while let Some(frame) = self.next_before(deadline) {
            if wanted(&frame) {
                return frame;
            }
            skipped.push(frame);
        }
        panic!("no {what} came; closed: {:?}; instead {skipped:?}", self.closed);
    }

    /// Skips to the next frame of a type.
    pub fn until_type(&mut self, kind: &str) -> Value {
        self.until(kind, |frame| frame["type"] == kind)
    }

    /// Reads until the server closes, and returns the code.
    ///
    /// # Panics
    /// When it does not.
    pub fn until_closed(&mut self) -> u16 {
        let deadline = Instant::now() + PATIENCE;
        while self.closed.is_none() && Instant::now() < deadline {
            self.read();
        }
        self.closed.as_ref().unwrap_or_else(|| panic!("not closed; saw {:?}", self.seen)).0
    }

    /// Whether an answered heartbeat brings nothing else: proof that nothing was on its way.
    pub fn is_quiet(&mut self) -> bool {
        self.send(&json!({"type": "heartbeat", "id": "quiet?"}));
        self.frame()["type"] == "heartbeat_ack"
    }

    /// Sends a message and returns its ack.
    ///
    /// # Panics
    /// When it is not acknowledged.
    pub fn say(&mut self, conversation: &str, content: &str, client_msg_id: &str) -> Value {
        self.send(&json!({"type": "send_message", "conversation_id": conversation, "content": content,
            "client_msg_id": client_msg_id}));
        self.until("ack", |frame| {
            frame["type"] == "delivery_ack"
                && frame["status"] == "sent"
                && frame["client_msg_id"] == client_msg_id
        })
    }

    /// Ends the TCP connection without a word.
    pub fn cut(self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }
}

/// A server frame as it would stand on the JSON wire.
fn to_json(frame: &ServerFrame<'_>) -> Value {
    let mut text = Vec::new();
    json::encode(frame, &mut text);
    serde_json::from_slice(&text).expect("our own JSON")
}

/// Sends that one client leaves unanswered: below the default of `limits.inflight`, so that the server never pauses it.
const PIPELINE: usize = 50;

impl Client {
    /// Sends messages without waiting for each answer, and returns their acks in the order in which they came. The
    /// `client_msg_id` of each is its content.
    ///
    /// # Panics
    /// When one is not acknowledged.
    pub fn say_all(&mut self, conversation: &str, contents: impl IntoIterator<Item = String>) -> Vec<Value> {
        let mut contents = contents.into_iter().peekable();
        let (mut acks, mut sent) = (Vec::new(), 0);
        while contents.peek().is_some() || acks.len() < sent {
            while sent - acks.len() < PIPELINE
                && let Some(content) = contents.next()
            {
                self.send(
                    &json!({"type": "send_message", "conversation_id": conversation, "content": content,
                    "client_msg_id": content}),
                );
                sent += 1;
            }
            acks.push(self.until("ack", |frame| {
                assert_ne!(frame["type"], "error", "{frame}");
                frame["type"] == "delivery_ack" && frame["status"] == "sent"
            }));
        }
        acks
    }

    /// Reads up to `caught_up`, and returns the frames before it.
    ///
    /// # Panics
    /// When it does not come.
    pub fn past(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame();
            if frame["type"] == "caught_up" {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// Reads the next `count` durable events of a conversation, live or paged.
    ///
    /// # Panics
    /// When they do not come.
    pub fn events(&mut self, conversation: &str, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let frame = self.frame();
            events.extend(Event::all(&frame).into_iter().filter(|event| event.conversation == conversation));
        }
        events
    }
}

/// What a client keeps of a durable event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub conversation: String,
    /// Its place.
    pub seq: u64,
    /// Its sender; nobody for what is no message.
    pub sender: String,
    /// Its content; the frame's type for what is no message.
    pub content: String,
}

impl Event {
    /// The durable events in a frame: none, one, or a page of them.
    #[must_use]
    pub fn all(frame: &Value) -> Vec<Event> {
        match frame["type"].as_str() {
            Some("sync_batch") => {
                frame["events"].as_array().into_iter().flatten().flat_map(Event::all).collect()
            }
            Some("new_message") => {
                let message = &frame["message"];
                vec![Event {
                    conversation: text(&message["conversation_id"]),
                    seq: message["seq"].as_u64().unwrap_or(0),
                    sender: text(&message["sender_id"]),
                    content: text(&message["content"]),
                }]
            }
            Some(kind @ "conversation_created") => vec![Event {
                conversation: text(&frame["conversation_id"]),
                seq: frame["seq"].as_u64().unwrap_or(0),
                sender: String::new(),
                content: kind.to_owned(),
            }],
            _ => Vec::new(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
