//! A client that is an outside eye: tungstenite, plain HTTP/1.1 and `serde_json`. Scenarios are written in JSON whatever
//! the transport: on the binary wire frames are translated by `protocol::client` at the border; a poll session posts and
//! fetches them; a stream of server-sent events says by REST what the others say in frames (TR4, TR5).

mod events;
mod poll;
mod socket;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

pub use carillon_protocol::client::Wire;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::server::{PATIENCE, Server};
use events::Events;
use poll::Poll;
use socket::Socket;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket, text frames.
    Json,
    /// WebSocket, binary frames.
    Rkyv,
    /// Long polling.
    Poll,
    /// Server-sent events and REST.
    Events,
}

impl From<Wire> for Transport {
    fn from(wire: Wire) -> Transport {
        match wire {
            Wire::Json => Transport::Json,
            Wire::Rkyv => Transport::Rkyv,
        }
    }
}

enum Line {
    Socket(Socket),
    Poll(Poll),
    Events(Events),
}

/// What one look at a connection showed.
enum Seen {
    Frames(Vec<Value>),
    Closed(u16, String),
}

/// One connection.
pub struct Client {
    line: Line,
    seen: VecDeque<Value>,
    /// The close code and reason, once they came.
    pub closed: Option<(u16, String)>,
}

/// Why a connection was refused: the HTTP status and the body.
pub type Refused = (u16, String);

impl Client {
    /// Connects; nothing is said yet. `token` goes into the Authorization header.
    ///
    /// # Errors
    /// The server's HTTP answer when it will not.
    ///
    /// # Panics
    /// When there is no server.
    pub fn connect(
        address: SocketAddr,
        transport: impl Into<Transport>,
        token: Option<&str>,
    ) -> Result<Client, Refused> {
        let line = match transport.into() {
            Transport::Json => Line::Socket(Socket::connect(address, Wire::Json, token)?),
            Transport::Rkyv => Line::Socket(Socket::connect(address, Wire::Rkyv, token)?),
            Transport::Poll => Line::Poll(Poll::begin(address, token)?),
            Transport::Events => Line::Events(Events::begin(address, token)),
        };
        Ok(Client { line, seen: VecDeque::new(), closed: None })
    }

    /// Connects as `user`, identifies without cursors, and reads up to `caught_up`. What came before stays readable.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn login(server: &Server, transport: impl Into<Transport>, user: u64, device: &str) -> Client {
        Client::login_with(server, transport, user, device, &json!({}))
    }

    /// As [`Client::login`], with cursors.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn login_with(
        server: &Server,
        transport: impl Into<Transport>,
        user: u64,
        device: &str,
        cursors: &Value,
    ) -> Client {
        let token = server.token(user, device);
        let mut client = Client::connect(server.address(), transport, Some(&token)).expect("connected");
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
        // One answer of a poll may hold what is live as well.
        before.append(&mut client.seen);
        client.seen = before;
        client
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the connection is broken, or the frame cannot be expressed on this transport.
    pub fn send(&mut self, frame: &Value) {
        match &mut self.line {
            Line::Socket(socket) => socket.send(frame),
            Line::Poll(poll) => poll.send(frame),
            Line::Events(events) => {
                let answer = events.send(frame);
                // What the stream brought of one's own before its answer was known is no event of this connection.
                self.seen.retain(|seen| !events.is_own(seen));
                self.seen.extend(answer);
            }
        }
    }

    /// Sends any WebSocket message.
    ///
    /// # Panics
    /// When the socket is broken, or it is none.
    pub fn send_raw(&mut self, message: Message) {
        match &mut self.line {
            Line::Socket(socket) => socket.send_raw(message),
            _ => panic!("only a WebSocket carries raw messages"),
        }
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

    /// Looks once at what came, for a tenth of a second at most.
    fn read(&mut self) {
        let seen = match &mut self.line {
            Line::Socket(socket) => socket.read(),
            Line::Poll(poll) => poll.read(),
            Line::Events(events) => events.read(),
        };
        match seen {
            Seen::Frames(frames) => self.seen.extend(frames),
            Seen::Closed(code, reason) => self.closed = Some((code, reason)),
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

    /// Whether an answered heartbeat brings nothing else: proof that nothing was on its way. A stream cannot be asked;
    /// there, that nothing comes for a while.
    pub fn is_quiet(&mut self) -> bool {
        if let Line::Events(_) = self.line {
            for _ in 0..2 {
                self.read();
            }
            return self.seen.is_empty();
        }
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

    /// Ends the connection without a word; a poll session by `DELETE`.
    pub fn cut(self) {
        match self.line {
            Line::Socket(socket) => {
                let _ = socket.stream().shutdown(std::net::Shutdown::Both);
            }
            Line::Poll(poll) => poll.end(),
            Line::Events(events) => events.cut(),
        }
    }

    /// The WebSocket's own stream.
    ///
    /// # Panics
    /// When it is none.
    pub fn stream(&self) -> &TcpStream {
        match &self.line {
            Line::Socket(socket) => socket.stream(),
            _ => panic!("only a WebSocket has one stream"),
        }
    }
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
            Some(
                kind @ ("conversation_created"
                | "conversation_updated"
                | "member_added"
                | "member_removed"
                | "message_deleted"
                | "reaction_added"
                | "reaction_removed"),
            ) => vec![Event {
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
