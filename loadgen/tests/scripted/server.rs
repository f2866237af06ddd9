//! A small chat server of one lock. Its WebSockets are tungstenite's, so the generator's codec meets an independent peer.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carillon_node::clock::Clock;
use carillon_node::tokens::{KeyTable, dev_key};
use carillon_protocol::client::{
    Command, DeliveryAck, EventFrame, FrameId, Hello, Incoming, MessageView, ReceiptsView, ServerFrame,
    Status, SyncBatch, Wire, binary, json,
};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Encoding, MessageType};
use carillon_protocol::time::WallMs;
use rkyv::util::AlignedVec;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, WebSocket};

/// What the server does wrong, to its tenth message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Behaves,
    /// Acks it and keeps nothing.
    Forgets,
    /// Keeps it and tells nobody.
    Withholds,
    /// Keeps it twice.
    Doubles,
    /// Pushes it behind the next one.
    Swaps,
    /// Tells somebody who is no member.
    Leaks,
    /// Tells other words than it keeps.
    Garbles,
    /// Refuses it, and keeps it.
    Haunts,
    /// Drops the sender's connection between commit and ack.
    Hangs,
    /// Refuses it once, retryably.
    Busy,
    /// Does nothing at all for [`STALL`] before it: the one lock is held.
    Stalls,
    /// Instead of a message, to the tenth heartbeat: drops the connection.
    Tires,
}

const SABOTAGED: u64 = 10;

/// How long a server stalls that does.
pub(crate) const STALL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Stored {
    seq: Seq,
    message: u64,
    sender: u64,
    content: String,
    id: String,
}

#[derive(Debug, Default)]
struct Room {
    members: Vec<u64>,
    /// From seq 2 on: 1 is the creation.
    log: Vec<Stored>,
    head: Seq,
}

#[derive(Debug, Default)]
struct State {
    rooms: BTreeMap<u64, Room>,
    keys: BTreeMap<String, u64>,
    sockets: BTreeMap<u64, Sender<Push>>,
    sends: u64,
    heartbeats: u64,
    held: Option<(u64, Stored)>,
}

#[derive(Clone, Debug)]
struct Push(u64, Stored, Seq);

pub(crate) struct Server {
    script: Script,
    table: KeyTable,
    state: Mutex<State>,
}

impl Server {
    pub(crate) fn start(script: Script, data_dir: &Path) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server {
            script,
            table: dev_key(data_dir).unwrap(),
            state: Mutex::new(State::default()),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        address
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut first = [0; 10];
        while matches!(stream.peek(&mut first), Ok(count) if (1..10).contains(&count)) {}
        if first.starts_with(b"GET /v1/ws") {
            self.socket(stream);
        } else {
            while self.rest(&mut stream).is_ok() {}
        }
    }

    fn user(&self, bearer: Option<&str>) -> u64 {
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).expect("a bearer token");
        self.table.verify(token, Clock.wall_ms()).expect("a valid token").user_id
    }

    fn rest(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body)?;
        let user = self.user(header("authorization").as_deref());
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let answer = if head.starts_with("POST /v1/conversations ") {
            self.create(user, &header("idempotency-key").unwrap(), &serde_json::from_slice(&body).unwrap())
        } else {
            self.page(user, &path)
        };
        let answer = answer.to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
    }

    fn create(&self, user: u64, key: &str, body: &serde_json::Value) -> serde_json::Value {
        let mut state = self.state.lock().unwrap();
        let next = 500 + state.rooms.len() as u64;
        let id = *state.keys.entry(key.to_owned()).or_insert(next);
        let mut members = vec![user];
        members.extend(
            body["member_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_str().unwrap().parse::<u64>().unwrap()),
        );
        let room = state.rooms.entry(id).or_insert(Room { members, log: Vec::new(), head: 1 });
        serde_json::json!({ "conversation_id": id.to_string(), "head_seq": room.head })
    }

    fn page(&self, user: u64, path: &str) -> serde_json::Value {
        let id: u64 = path.split('/').nth(3).unwrap().parse().unwrap();
        let after = path.split("after_seq=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
        let state = self.state.lock().unwrap();
        let room = &state.rooms[&id];
        assert!(room.members.contains(&user), "histories are read by members");
        let page = room.log.iter().filter(|stored| stored.seq > after).take(50);
        let messages: Vec<_> = page
            .map(|stored| {
                serde_json::json!({
                    "message_id": stored.message.to_string(), "conversation_id": id.to_string(), "seq": stored.seq,
                    "sender_id": stored.sender.to_string(), "content": stored.content, "status": "sent",
                })
            })
            .collect();
        serde_json::json!({ "messages": messages, "next_cursor": null })
    }

    #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    fn socket(&self, stream: TcpStream) {
        let mut user = 0;
        let mut wire = Wire::Json;
        let accepted = tungstenite::accept_hdr(stream, |request: &Request, mut response: Response| {
            user = self.user(request.headers().get("authorization").map(|value| value.to_str().unwrap()));
            let offered = request.headers().get("sec-websocket-protocol").unwrap().clone();
            wire = if offered == Wire::Rkyv.subprotocol() { Wire::Rkyv } else { Wire::Json };
            response.headers_mut().insert("sec-websocket-protocol", offered);
            Ok(response)
        });
        let Ok(socket) = accepted else { return };
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let (sender, pushes) = channel();
        let mut peer = Peer { server: self, user, wire, socket, pushes };
        // Errors are connections that end.
        let _ = peer.run(sender);
    }
}

struct Peer<'s> {
    server: &'s Server,
    user: u64,
    wire: Wire,
    socket: WebSocket<TcpStream>,
    pushes: Receiver<Push>,
}

type Ended = Result<(), Box<dyn std::error::Error>>;

impl Peer<'_> {
    fn run(&mut self, sender: Sender<Push>) -> Ended {
        self.put(&ServerFrame::Hello(Hello {
            server_time: WallMs(0),
            heartbeat_interval_ms: 200,
            frame_bytes: 65_536,
            content_bytes: 16_384,
            inflight: 64,
            send_per_s: 0,
            send_burst: 0,
        }))?;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let Incoming { id, command } = json::decode(&text);
                    self.command(id, &command.expect("a frame that is right"), &sender)?;
                }
                Ok(Message::Binary(bytes)) => {
                    let mut aligned = AlignedVec::<16>::new();
                    aligned.extend_from_slice(&bytes);
                    for Incoming { id, command } in binary::decode(&aligned) {
                        self.command(id, &command.expect("a frame that is right"), &sender)?;
                    }
                }
                Ok(Message::Close(_)) => return Ok(()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            while let Ok(Push(id, stored, head_seq)) = self.pushes.try_recv() {
                let message = self.view(id, &stored);
                self.put(&ServerFrame::Event(EventFrame::NewMessage { message, head_seq }))?;
            }
        }
    }

    fn view<'m>(&self, id: u64, stored: &'m Stored) -> MessageView<'m> {
        MessageView {
            message: MessageId(stored.message),
            conversation: ConversationId(id),
            seq: stored.seq,
            sender: UserId(stored.sender),
            content: stored.content.as_str().into(),
            encoding: Encoding::Utf8,
            message_type: MessageType::Text,
            media_url: None,
            reply_to: None,
            status: Status::Sent,
            created_at: WallMs(0),
            deleted: false,
            reactions: Vec::new(),
            client_msg_id: None,
        }
    }

    fn put(&mut self, frame: &ServerFrame<'_>) -> Ended {
        let message = match self.wire {
            Wire::Json => {
                let mut out = Vec::new();
                json::encode(frame, &mut out);
                Message::text(String::from_utf8(out)?)
            }
            Wire::Rkyv => {
                let mut out = AlignedVec::new();
                binary::encode(frame, &mut out);
                Message::binary(out.to_vec())
            }
        };
        self.socket.send(message)?;
        Ok(())
    }

    fn command(&mut self, id: Option<FrameId>, command: &Command<'_>, sender: &Sender<Push>) -> Ended {
        match command {
            Command::Identify { cursors, .. } => {
                let mut batches = Vec::new();
                {
                    let mut state = self.server.state.lock().unwrap();
                    // Registered and read under one lock: nothing falls between resume and live.
                    state.sockets.insert(self.user, sender.clone());
                    for (conversation, held) in cursors {
                        let room = &state.rooms[&conversation.0];
                        let missed: Vec<_> =
                            room.log.iter().filter(|stored| stored.seq > *held).cloned().collect();
                        batches.push((*conversation, *held, missed, room.head));
                    }
                }
                let device = "loadgen".into();
                self.put(&ServerFrame::Ready {
                    id: None,
                    user: UserId(self.user),
                    device,
                    pending_conversations: 0,
                    pending_events: 0,
                })?;
                for (conversation, held, missed, head_seq) in &batches {
                    let event = |stored| EventFrame::NewMessage {
                        message: self.view(conversation.0, stored),
                        head_seq: *head_seq,
                    };
                    let batch = SyncBatch {
                        id: None,
                        conversation: *conversation,
                        events: missed.iter().map(event).collect(),
                        from_seq: held + 1,
                        to_seq: *head_seq,
                        head_seq: *head_seq,
                        has_more: false,
                        receipts: ReceiptsView::Each(Vec::new()),
                    };
                    self.put(&ServerFrame::SyncBatch(batch))?;
                }
                self.put(&ServerFrame::CaughtUp)
            }
            Command::SendMessage(message) => {
                let key = message.client_msg_id.as_deref().expect("an id").to_owned();
                self.send(id, message.conversation.0, key, &message.content)
            }
            Command::Heartbeat => {
                let heartbeats = {
                    let mut state = self.server.state.lock().unwrap();
                    state.heartbeats += 1;
                    state.heartbeats
                };
                if self.server.script == Script::Tires && heartbeats == SABOTAGED {
                    return Err("as scripted".into());
                }
                self.put(&ServerFrame::HeartbeatAck { id })
            }
            _ => Ok(()),
        }
    }

    fn send(&mut self, frame_id: Option<FrameId>, id: u64, key: String, content: &str) -> Ended {
        let server = self.server;
        // The ack is written under the lock, so that nobody hears a later seq first.
        let mut state = server.state.lock().unwrap();
        let state = &mut *state;
        let ack = |stored: &Stored, duplicate| {
            ServerFrame::DeliveryAck(DeliveryAck {
                id: frame_id.clone(),
                message: MessageId(stored.message),
                status: Status::Sent,
                conversation: ConversationId(id),
                seq: stored.seq,
                timestamp: WallMs(0),
                client_msg_id: Some(key.clone().into()),
                duplicate,
                user: None,
                count: None,
            })
        };
        let room = state.rooms.get_mut(&id).unwrap();
        if let Some(stored) = room.log.iter().find(|stored| stored.id == key).cloned() {
            return self.put(&ack(&stored, true));
        }
        state.sends += 1;
        let now = if state.sends == SABOTAGED { server.script } else { Script::Behaves };
        if now == Script::Stalls {
            // The stall is what is scripted: everybody waits for the lock.
            std::thread::sleep(STALL);
        }
        let refused = |code| {
            let refusal = Refusal::new(code, "as scripted");
            ServerFrame::Error { id: frame_id.clone(), refusal, request_id: "1".into() }
        };
        if now == Script::Busy {
            return self.put(&refused(Code::Overloaded));
        }
        room.head += 1;
        let (seq, message) = (room.head, 9_000 + state.sends);
        let stored = Stored { seq, message, sender: self.user, content: content.to_owned(), id: key.clone() };
        if now == Script::Forgets {
            room.head -= 1;
            return self.put(&ack(&stored, false));
        }
        room.log.push(stored.clone());
        let mut told = vec![stored.clone()];
        if now == Script::Doubles {
            room.head += 1;
            let again = Stored { seq: seq + 1, message: message + 100_000, ..stored.clone() };
            room.log.push(again.clone());
            told.push(again);
        }
        if now == Script::Garbles {
            told[0].content.push('x');
        }
        let (members, head_seq) = (room.members.clone(), room.head);
        let push = |state: &State, stored: &Stored, to_sender: bool| {
            for member in members.iter().filter(|member| **member != stored.sender || to_sender) {
                if let Some(socket) = state.sockets.get(member) {
                    let _ = socket.send(Push(id, stored.clone(), head_seq));
                }
            }
        };
        match now {
            Script::Withholds => {}
            Script::Swaps => state.held = Some((id, stored.clone())),
            _ => {
                for (place, stored) in told.iter().enumerate() {
                    push(state, stored, place > 0);
                }
                if state.held.as_ref().is_some_and(|(held_id, _)| *held_id == id)
                    && let Some((_, held)) = state.held.take()
                {
                    push(state, &held, false);
                }
            }
        }
        if now == Script::Leaks {
            let stranger = state.sockets.iter().find(|(user, _)| !members.contains(user));
            let _ = stranger.expect("a stranger").1.send(Push(id, stored.clone(), head_seq));
        }
        match now {
            Script::Hangs => Err("as scripted".into()),
            Script::Haunts => self.put(&refused(Code::Internal)),
            _ => self.put(&ack(&stored, false)),
        }
    }
}
