//! A shard by hand: virtual time, sockets that are byte vectors, clients that speak the real protocol, and the frames
//! that went up to the router.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use carillon_gateway::settings::Settings;
use carillon_gateway::shard::Shard;
use carillon_gateway::turn::{ConnectionId, Input, Output};
use carillon_link::Peer;
use carillon_node::config::{Builder, Config};
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::client::{
    Command, Done, FrameId, PresenceView, SendMessage, ServerFrame, Wire, binary, json,
};
use carillon_protocol::frame::{
    self, Accepted, Deliver, Frame, Joined, LinkFrame, Peeked, Register, Registered, Standing, Submit,
};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Body, Encoding, Event, Message, MessageType};
use carillon_protocol::time::{Time, WallMs};
use carillon_protocol::websocket::{self, Decoder, Event as WebSocketEvent, Opcode, Role};
use rkyv::util::AlignedVec;

use crate::owners::sole;

pub(crate) const ROUTER: Peer = Peer(0);
/// Its incarnation.
pub(crate) const INCARNATION: u64 = 100;
/// 2026, in Unix milliseconds.
pub(crate) const WALL: u64 = 1_780_000_000_000;
const KEY: [u8; 32] = [7; 32];

/// The defaults, with these keys set.
pub(crate) fn settings(assignments: &[&str]) -> Settings {
    static DEFAULTS: OnceLock<Builder> = OnceLock::new();
    let defaults = DEFAULTS.get_or_init(|| {
        let builder = Config::builder().defaults("node", carillon_node::DEFAULTS).unwrap();
        builder.defaults("gateway", carillon_gateway::DEFAULTS).unwrap()
    });
    let builder =
        assignments.iter().fold(defaults.clone(), |builder, assignment| builder.set(assignment).unwrap());
    Settings::from_config(&builder.build().unwrap()).unwrap()
}

/// A token of `user` on `device` that ends `ttl_s` after [`WALL`].
pub(crate) fn token(user: u64, device: &str, ttl_s: i64) -> String {
    token_issued(user, device, ttl_s, WALL / 1_000)
}

/// The same, issued then.
pub(crate) fn token_issued(user: u64, device: &str, ttl_s: i64, issued_s: u64) -> String {
    let claims = Claims {
        user_id: user,
        device_id: device.to_owned(),
        issued_s,
        expires_s: (WALL / 1_000).checked_add_signed(ttl_s).unwrap(),
        name: Some(format!("user-{user}")),
        scope: String::new(),
    };
    KeyTable::from_secret("k", &KEY).sign(&claims).unwrap()
}

/// What a client's socket holds.
#[derive(Default)]
pub(crate) struct Socket {
    /// Bytes that the shard said and nobody decoded yet.
    pub(crate) bytes: Vec<u8>,
    /// How many more bytes the kernel takes; `None`: all.
    pub(crate) room: Option<usize>,
    pub(crate) is_paused: bool,
    pub(crate) is_closed: bool,
    pub(crate) handed_off: Option<Vec<u8>>,
}

pub(crate) struct Rig {
    pub(crate) shard: Shard,
    pub(crate) now: Time,
    pub(crate) wall: WallMs,
    pub(crate) sockets: BTreeMap<ConnectionId, Socket>,
    /// Frames to the router, in order.
    pub(crate) up: VecDeque<AlignedVec>,
    /// Frames to other routers.
    pub(crate) others: VecDeque<(Peer, AlignedVec)>,
    pub(crate) closed_lanes: Vec<Peer>,
    pub(crate) met: BTreeSet<String>,
    pub(crate) parted: Vec<Peer>,
    pub(crate) is_drained: bool,
    /// The flushes of the last turn, in order; `None`: others got the processor.
    pub(crate) flushes: Vec<Option<ConnectionId>>,
    is_lane_up: bool,
    slots: u32,
}

impl Rig {
    pub(crate) fn new(assignments: &[&str]) -> Rig {
        Rig::with(settings(assignments), true, 1)
    }

    pub(crate) fn with(settings: Settings, is_development: bool, seed: u64) -> Rig {
        let keys = Arc::new(KeyTable::from_secret("k", &KEY));
        Rig {
            shard: Shard::new(settings, keys, is_development, seed, 0xabcd_ef01, 3),
            now: Time(1_000_000_000_000),
            wall: WallMs(WALL),
            sockets: BTreeMap::new(),
            up: VecDeque::new(),
            others: VecDeque::new(),
            closed_lanes: Vec::new(),
            met: BTreeSet::new(),
            parted: Vec::new(),
            is_drained: false,
            flushes: Vec::new(),
            is_lane_up: false,
            slots: 0,
        }
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, self.wall, input);
    }

    /// Carries out everything; a turn's end.
    pub(crate) fn carry_out(&mut self) {
        self.flushes.clear();
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Yield => self.flushes.push(None),
                Output::Flush { connection } => {
                    self.flushes.push(Some(connection));
                    self.flush(connection);
                }
                Output::Close { connection } => {
                    self.flush(connection);
                    self.sockets.entry(connection).or_default().is_closed = true;
                }
                Output::Pause { connection } => self.sockets.entry(connection).or_default().is_paused = true,
                Output::Resume { connection } => {
                    self.sockets.entry(connection).or_default().is_paused = false
                }
                Output::HandOff { connection, handed } => {
                    self.sockets.entry(connection).or_default().handed_off = Some(handed.received);
                }
                Output::Link { router: ROUTER, frame } => self.up.push_back(frame),
                Output::Link { router, frame } => self.others.push_back((router, frame)),
                Output::CloseLane { router } => self.closed_lanes.push(router),
                Output::Meet { address } => drop(self.met.insert(address)),
                // Whoever was met before may have been met there.
                Output::Part { router } => {
                    self.met.clear();
                    self.parted.push(router);
                }
                Output::Drained => self.is_drained = true,
            }
        }
    }

    /// Gives the kernel what it takes.
    pub(crate) fn flush(&mut self, connection: ConnectionId) {
        let socket = self.sockets.entry(connection).or_default();
        let mut taken = 0;
        for piece in self.shard.pending(connection) {
            let count = socket.room.unwrap_or(usize::MAX).min(piece.len());
            socket.bytes.extend_from_slice(&piece[..count]);
            if let Some(room) = &mut socket.room {
                *room -= count;
            }
            taken += count;
            if count < piece.len() {
                break;
            }
        }
        if taken > 0 {
            self.input(Input::Sent { connection, bytes: taken });
        }
    }

    /// Bytes that wait for the kernel.
    pub(crate) fn pending_bytes(&self, connection: ConnectionId) -> usize {
        self.shard.pending(connection).map(|payload| payload.len()).sum()
    }

    /// Time passes; timers fire on their way.
    pub(crate) fn pass_ms(&mut self, millis: u64) {
        let until = self.now.after_ms(millis);
        while let Some(due) = self.shard.poll_timeout().filter(|due| *due <= until) {
            self.set_now(due.max(self.now));
            self.input(Input::Tick);
            self.carry_out();
        }
        self.set_now(until);
        self.input(Input::Tick);
        self.carry_out();
    }

    fn set_now(&mut self, now: Time) {
        self.wall.0 += u64::try_from(now.since(self.now).as_millis()).unwrap();
        self.now = now;
    }

    /// A new connection, nothing said on it yet.
    pub(crate) fn accept(&mut self, address: IpAddr) -> ConnectionId {
        let connection = ConnectionId { slot: self.slots, generation: 0 };
        self.slots += 1;
        self.sockets.insert(connection, Socket::default());
        self.input(Input::Accepted { connection, address });
        self.carry_out();
        connection
    }

    pub(crate) fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.input(Input::Received { connection, bytes });
        self.carry_out();
    }

    /// A client that has sent its request to upgrade, with these subprotocols and token.
    pub(crate) fn upgrade(&mut self, wire: Wire, bearer: Option<&str>) -> Client {
        let connection = self.accept(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let request = carillon_protocol::handshake::request(
            "localhost",
            "/v1/ws",
            "dGhlIHNhbXBsZSBub25jZQ==",
            &[wire.subprotocol()],
            bearer,
        );
        self.received(connection, &request);
        Client::new(connection, wire)
    }

    /// An upgraded client whose `hello` was taken.
    pub(crate) fn connect(&mut self, wire: Wire) -> Client {
        let mut client = self.upgrade(wire, None);
        let seen = client.take(self);
        assert!(matches!(seen.as_slice(), [Seen::Hello]), "{seen:?}");
        client
    }

    pub(crate) fn lane_up(&mut self) {
        self.is_lane_up = true;
        self.lane_up_of(ROUTER, INCARNATION);
        self.down(&sole(INCARNATION));
    }

    /// A lane to a router of which nothing is known yet.
    pub(crate) fn lane_up_of(&mut self, router: Peer, incarnation: u64) {
        self.input(Input::LaneUp { router, incarnation });
        self.carry_out();
    }

    fn lane_up_once(&mut self) {
        if !self.is_lane_up {
            self.lane_up();
        }
    }

    pub(crate) fn lane_down(&mut self) {
        self.is_lane_up = false;
        self.up.clear();
        self.input(Input::LaneDown { router: ROUTER });
        self.carry_out();
    }

    /// A frame of the router.
    pub(crate) fn down(&mut self, frame: &impl LinkFrame) {
        self.down_from(ROUTER, frame);
    }

    /// A frame of this router.
    pub(crate) fn down_from(&mut self, router: Peer, frame: &impl LinkFrame) {
        let bytes = frame.to_frame();
        self.input(Input::LaneFrame { router, frame: &bytes });
        self.carry_out();
    }

    /// The next frame to the router.
    pub(crate) fn next_up(&mut self) -> Up {
        let bytes = self.up.pop_front().expect("a frame to the router");
        Up::read(&bytes)
    }
}

/// A frame to the router, owned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Up {
    Register(frame::Register),
    Unregister(frame::Unregister),
    Peek(frame::Peek),
    Submit(frame::Submit),
    Read(frame::Read),
    Receipt(frame::Receipt),
    Watch(frame::Watch),
    Typing(frame::Typing),
}

impl Up {
    pub(crate) fn read(bytes: &[u8]) -> Up {
        macro_rules! owned {
            ($frame:expr) => {
                rkyv::deserialize::<_, rkyv::rancor::Error>($frame).unwrap()
            };
        }
        match frame::read(bytes).unwrap() {
            Frame::Register(frame) => Up::Register(owned!(frame)),
            Frame::Unregister(frame) => Up::Unregister(owned!(frame)),
            Frame::Peek(frame) => Up::Peek(owned!(frame)),
            Frame::Submit(frame) => Up::Submit(owned!(frame)),
            Frame::Read(frame) => Up::Read(owned!(frame)),
            Frame::Receipt(frame) => Up::Receipt(owned!(frame)),
            Frame::Watch(frame) => Up::Watch(owned!(frame)),
            Frame::Typing(frame) => Up::Typing(owned!(frame)),
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A stored message.
pub(crate) fn record(id: u64, sender: u64, client_msg_id: &str, content: &str) -> Vec<u8> {
    let message = Message {
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        content,
        media_url: None,
        reply_to: None,
    };
    Event {
        id: MessageId(id),
        sender: UserId(sender),
        client_msg_id: Cow::Borrowed(client_msg_id),
        body: Body::Message(message),
    }
    .encode()
}

/// What a client sees of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenEvent {
    pub(crate) kind: &'static str,
    pub(crate) conversation: u64,
    pub(crate) seq: Seq,
    pub(crate) sender: u64,
    pub(crate) content: String,
    pub(crate) client_msg_id: Option<String>,
    pub(crate) status: u8,
    pub(crate) reactions: Vec<(String, u64, bool)>,
}

/// What a client sees.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Hello,
    Ready {
        id: Option<FrameId>,
        conversations: u64,
        events: u64,
    },
    CaughtUp,
    Event(SeenEvent),
    Ack {
        id: Option<FrameId>,
        conversation: u64,
        seq: Seq,
        status: &'static str,
        client_msg_id: Option<String>,
        duplicate: bool,
        count: Option<u64>,
    },
    Batch {
        id: Option<FrameId>,
        conversation: u64,
        events: Vec<SeenEvent>,
        from: Seq,
        to: Seq,
        head: Seq,
        has_more: bool,
    },
    Behind(Vec<(u64, Seq)>),
    Reset {
        id: Option<FrameId>,
        conversation: u64,
        first: Seq,
        head: Seq,
        reason: &'static str,
    },
    Reconnect(u64),
    Ok {
        id: Option<FrameId>,
        conversation: Option<u64>,
        seq: Option<Seq>,
        duplicate: bool,
    },
    ReadSync {
        conversation: u64,
        read: Seq,
        unread: u64,
    },
    /// The answer to `presence_subscribe`.
    States {
        id: Option<FrameId>,
        states: Vec<State>,
    },
    Typing {
        conversation: u64,
        user: u64,
        start: bool,
    },
    Presence(State),
    Error {
        id: Option<FrameId>,
        code: &'static str,
        field: Option<&'static str>,
        retry_after_ms: Option<u64>,
    },
    HeartbeatAck,
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// User, online, last seen.
pub(crate) type State = (u64, bool, Option<u64>);

fn state(view: &PresenceView) -> State {
    (view.user.0, view.online, view.last_seen_at.map(|at| at.0))
}

fn seen_event(event: carillon_protocol::client::EventFrame<'_>) -> SeenEvent {
    use carillon_protocol::client::EventFrame;
    let (conversation, seq) = event.position();
    let mut seen = SeenEvent {
        kind: "",
        conversation: conversation.0,
        seq,
        sender: 0,
        content: String::new(),
        client_msg_id: None,
        status: 0,
        reactions: Vec::new(),
    };
    (seen.kind, seen.sender) = match event {
        EventFrame::NewMessage { message, .. } => {
            seen.content = message.content.into_owned();
            seen.client_msg_id = message.client_msg_id.map(Cow::into_owned);
            seen.status = message.status as u8;
            let reactions = message.reactions.into_iter();
            seen.reactions = reactions.map(|view| (view.emoji.into_owned(), view.count, view.mine)).collect();
            (if message.deleted { "tombstone" } else { "message" }, message.sender.0)
        }
        EventFrame::ConversationCreated { by, .. } => ("created", by.0),
        EventFrame::ConversationUpdated { by, .. } => ("updated", by.0),
        EventFrame::MemberAdded { by, .. } => ("added", by.0),
        EventFrame::MemberRemoved { by, .. } => ("removed", by.0),
        EventFrame::MessageDeleted { by, .. } => ("deleted", by.0),
        EventFrame::Reaction { added: true, user, .. } => ("reacted", user.0),
        EventFrame::Reaction { user, .. } => ("unreacted", user.0),
    };
    seen
}

impl Seen {
    fn of(frame: ServerFrame<'_>) -> Seen {
        match frame {
            ServerFrame::Hello(_) => Seen::Hello,
            ServerFrame::Ready { id, pending_conversations, pending_events, .. } => {
                Seen::Ready { id, conversations: pending_conversations, events: pending_events }
            }
            ServerFrame::CaughtUp => Seen::CaughtUp,
            ServerFrame::Event(event) => Seen::Event(seen_event(event)),
            ServerFrame::DeliveryAck(ack) => Seen::Ack {
                id: ack.id,
                conversation: ack.conversation.0,
                seq: ack.seq,
                status: ack.status.name(),
                client_msg_id: ack.client_msg_id.map(Cow::into_owned),
                duplicate: ack.duplicate,
                count: ack.count,
            },
            ServerFrame::SyncBatch(batch) => Seen::Batch {
                id: batch.id,
                conversation: batch.conversation.0,
                events: batch.events.into_iter().map(seen_event).collect(),
                from: batch.from_seq,
                to: batch.to_seq,
                head: batch.head_seq,
                has_more: batch.has_more,
            },
            ServerFrame::Behind { conversations } => Seen::Behind(
                conversations.into_iter().map(|(conversation, head)| (conversation.0, head)).collect(),
            ),
            ServerFrame::Reset { id, conversation, first_seq, head_seq, reason } => {
                Seen::Reset { id, conversation: conversation.0, first: first_seq, head: head_seq, reason }
            }
            ServerFrame::Reconnect { after_ms, .. } => Seen::Reconnect(after_ms),
            ServerFrame::Ok(Done { id, presence: Some(views), .. }) => {
                Seen::States { id, states: views.iter().map(state).collect() }
            }
            ServerFrame::Ok(done) => Seen::Ok {
                id: done.id,
                conversation: done.conversation.map(|id| id.0),
                seq: done.seq,
                duplicate: done.duplicate,
            },
            ServerFrame::ReadSync { conversation, read_seq, unread_count } => {
                Seen::ReadSync { conversation: conversation.0, read: read_seq, unread: unread_count }
            }
            ServerFrame::Typing { conversation, user, start } => {
                Seen::Typing { conversation: conversation.0, user: user.0, start }
            }
            ServerFrame::Presence(view) => Seen::Presence(state(&view)),
            ServerFrame::Error { id, refusal, .. } => Seen::Error {
                id,
                code: refusal.code.name(),
                field: refusal.field,
                retry_after_ms: refusal.retry_after_ms,
            },
            ServerFrame::HeartbeatAck { .. } => Seen::HeartbeatAck,
        }
    }
}

/// One end of a socket.
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    pub(crate) wire: Wire,
    /// Between the response to the upgrade and everything else.
    is_upgraded: bool,
    pub(crate) response: Vec<u8>,
    decoder: Decoder,
    scratch: AlignedVec<16>,
}

impl Client {
    pub(crate) fn new(id: ConnectionId, wire: Wire) -> Client {
        Client {
            id,
            wire,
            is_upgraded: false,
            response: Vec::new(),
            decoder: Decoder::new(Role::Client),
            scratch: AlignedVec::new(),
        }
    }

    /// One whose upgrade was made elsewhere.
    pub(crate) fn opened(id: ConnectionId) -> Client {
        Client { is_upgraded: true, ..Client::new(id, Wire::Json) }
    }

    /// Everything that arrived since the last time.
    pub(crate) fn take(&mut self, rig: &mut Rig) -> Vec<Seen> {
        let Some(socket) = rig.sockets.get_mut(&self.id) else { return Vec::new() };
        let mut bytes = std::mem::take(&mut socket.bytes);
        if !self.is_upgraded {
            self.response.append(&mut bytes);
            let Some(end) = self.response.windows(4).position(|window| window == b"\r\n\r\n") else {
                return Vec::new();
            };
            if !self.response.starts_with(b"HTTP/1.1 101") {
                return Vec::new();
            }
            self.is_upgraded = true;
            bytes = self.response.split_off(end + 4);
        }
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (used, event) = self.decoder.decode(rest, 1 << 20, &mut self.scratch).unwrap();
            rest = &rest[used..];
            match event {
                Some(WebSocketEvent::Text(text)) => {
                    assert_eq!(self.wire, Wire::Json);
                    seen.push(Seen::of(json::decode_server(text).unwrap()));
                }
                Some(WebSocketEvent::Binary(message)) => {
                    assert_eq!(self.wire, Wire::Rkyv);
                    seen.extend(binary::decode_server(message).map(|frame| Seen::of(frame.unwrap())));
                }
                Some(WebSocketEvent::Pong(payload)) => seen.push(Seen::Pong(payload.to_vec())),
                Some(WebSocketEvent::Close { code, .. }) => seen.push(Seen::Close(code)),
                Some(WebSocketEvent::Ping(_)) | None => {}
            }
        }
        seen
    }

    /// A frame of the client, as bytes on the socket.
    pub(crate) fn frame(&self, id: Option<FrameId>, command: &Command<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let key = [1, 2, 3, 4];
        match self.wire {
            Wire::Json => {
                let mut text = Vec::new();
                json::encode_command(id.as_ref(), command, &mut text);
                websocket::append_client_frame(&mut out, Opcode::Text, &text, key);
            }
            Wire::Rkyv => {
                let mut archive = AlignedVec::new();
                binary::encode_command(id.as_ref(), command, &mut archive);
                websocket::append_client_frame(&mut out, Opcode::Binary, &archive, key);
            }
        }
        out
    }

    /// Says something and takes what comes back at once.
    pub(crate) fn say(&mut self, rig: &mut Rig, id: Option<&str>, command: &Command<'_>) -> Vec<Seen> {
        let bytes = self.frame(id.map(text_id), command);
        rig.received(self.id, &bytes);
        self.take(rig)
    }

    /// Raw bytes on the socket.
    pub(crate) fn raw(&mut self, rig: &mut Rig, opcode: Opcode, payload: &[u8]) -> Vec<Seen> {
        let mut out = Vec::new();
        websocket::append_client_frame(&mut out, opcode, payload, [9, 8, 7, 6]);
        rig.received(self.id, &out);
        self.take(rig)
    }

    /// Plays the router until the session is live: these conversations with their (stored cursor, head), of which
    /// everything is fanned out. Leaves pages unanswered. Returns what the client saw.
    pub(crate) fn finish_registering(
        &mut self,
        rig: &mut Rig,
        conversations: &[(u64, Seq, Seq)],
    ) -> Vec<Seen> {
        let Up::Register(register) = rig.next_up() else { panic!("registers first") };
        let joined = conversations
            .iter()
            .map(|(conversation, cursor, _)| Joined {
                conversation: ConversationId(*conversation),
                cursor: *cursor,
                is_returning: false,
            })
            .collect();
        let Register { session, request, .. } = register;
        rig.down(&Registered { session, request, conversations: joined, more: false });
        if !conversations.is_empty() {
            let Up::Peek(peek) = rig.next_up() else { panic!("then peeks") };
            let standings = conversations
                .iter()
                .map(|(conversation, _, head)| Standing {
                    conversation: ConversationId(*conversation),
                    first_seq: 1,
                    head_seq: *head,
                    fanned_out_seq: *head,
                    joined_seq: 1,
                })
                .collect();
            rig.down(&Peeked { session, request: peek.request, standings });
        }
        self.take(rig)
    }

    /// Plays the router that accepts a command.
    pub(crate) fn accept(&self, rig: &mut Rig, submit: &Submit, seq: Seq, duplicate: bool) {
        let frame::Command::Send { conversation, .. } = submit.command else { panic!("no message") };
        rig.down(&Accepted {
            session: submit.session,
            request: submit.request,
            conversation,
            seq,
            id: seq << 22,
            duplicate,
            unchanged: false,
        });
    }

    /// Whether the server closed the connection.
    pub(crate) fn is_closed(&self, rig: &Rig) -> bool {
        rig.sockets.get(&self.id).is_none_or(|socket| socket.is_closed)
    }
}

/// A client that is live in these conversations: (id, stored cursor, head), nothing missing.
pub(crate) fn live(
    rig: &mut Rig,
    user: u64,
    device: &str,
    wire: Wire,
    conversations: &[(u64, Seq, Seq)],
) -> Client {
    rig.lane_up_once();
    let mut client = rig.connect(wire);
    assert!(client.say(rig, None, &identify(&token(user, device, 86_400), &[])).is_empty());
    let seen = client.finish_registering(rig, conversations);
    assert!(
        matches!(seen.as_slice(), [Seen::Ready { conversations: 0, events: 0, .. }, Seen::CaughtUp]),
        "{seen:?}"
    );
    client
}

/// A stored event of user 5's.
pub(crate) fn event(seq: Seq, body: Body<'_>) -> Vec<u8> {
    let (id, sender) = (MessageId(seq << 22), UserId(5));
    Event { id, sender, client_msg_id: Cow::Borrowed(""), body }.encode()
}

/// A `Deliver` of anything to these users.
pub(crate) fn deliver_event(conversation: u64, seq: Seq, body: Body<'_>, users: &[u64]) -> Deliver {
    Deliver { record: event(seq, body), ..deliver(conversation, seq, 5, "", "", users) }
}

/// A `Deliver` of a message to these users.
pub(crate) fn deliver(
    conversation: u64,
    seq: Seq,
    sender: u64,
    key: &str,
    content: &str,
    users: &[u64],
) -> Deliver {
    Deliver {
        replayed: false,
        conversation: ConversationId(conversation),
        seq,
        head_seq: seq,
        origin_session: 0,
        origin_request: 0,
        users: users.iter().copied().map(UserId).collect(),
        record: record(seq << 22, sender, key, content),
    }
}

pub(crate) fn text_id(text: &str) -> FrameId {
    FrameId::Text(text.into())
}

pub(crate) fn identify(token: &str, cursors: &[(u64, Seq)]) -> Command<'static> {
    Command::Identify {
        token: Some(Cow::Owned(token.to_owned())),
        cursors: cursors.iter().map(|(conversation, seq)| (ConversationId(*conversation), *seq)).collect(),
    }
}

pub(crate) fn send<'a>(conversation: u64, client_msg_id: Option<&'a str>, content: &'a str) -> Command<'a> {
    Command::SendMessage(SendMessage {
        conversation: ConversationId(conversation),
        content: Cow::Borrowed(content),
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        media_url: None,
        client_msg_id: client_msg_id.map(Cow::Borrowed),
        reply_to: None,
    })
}
