//! The machine by hand: requests go in, frames come out and are answered as a test says, responses come out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use carillon_gateway::rest::{Body, Headers, Input, Output, Request, Response, Rest, Settings, Ticket};
use carillon_link::Peer;
use carillon_node::tokens::{Claims, KeyTable};
use carillon_protocol::frame::{
    self, Accepted, ConversationView, Entry, Find, Findings, Found, Frame, LinkFrame, Read, Receipt, Refused,
    Submit, UserView, Wanted,
};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Body as EventBody, Event, Message};
use carillon_protocol::time::{Time, WallMs};
use serde_json::Value;

use crate::owners::sole;

pub(crate) const ROUTER: Peer = Peer(0);
/// 2026, in Unix milliseconds.
pub(crate) const WALL: u64 = 1_780_000_000_000;
const KEY: [u8; 32] = [7; 32];

pub(crate) fn keys() -> Arc<KeyTable> {
    Arc::new(KeyTable::from_secret("k", &KEY))
}

/// A token that ends `ttl_s` after `wall_ms`.
pub(crate) fn token_at(wall_ms: u64, user: u64, ttl_s: i64, scope: &str) -> String {
    let claims = Claims {
        user_id: user,
        device_id: "phone".to_owned(),
        issued_s: wall_ms / 1_000,
        expires_s: (wall_ms / 1_000).checked_add_signed(ttl_s).unwrap(),
        name: Some(format!("name-{user}")),
        scope: scope.to_owned(),
    };
    keys().sign(&claims).unwrap()
}

/// A token that was issued at `issued_s`, Unix seconds, and is good for an hour from now.
pub(crate) fn token_issued(user: u64, issued_s: u64) -> String {
    let ttl_s = i64::try_from(WALL / 1_000 - issued_s).unwrap() + 3_600;
    token_at(issued_s * 1_000, user, ttl_s, "")
}

pub(crate) fn token(user: u64) -> String {
    token_at(WALL, user, 3_600, "")
}

pub(crate) fn settings() -> Settings {
    Settings {
        origins: Vec::new(),
        is_development: true,
        auto_provision: true,
        inflight: 64,
        body_bytes: 65_536,
        device_per_s: 0,
        device_burst: 64,
        address_per_s: 50,
        address_burst: 500,
    }
}

/// A request of `user`; 0: without a token.
pub(crate) fn request(user: u64, method: &str, target: &str, body: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Headers {
            authorization: (user != 0).then(|| format!("Bearer {}", token(user)).into_bytes()),
            ..Headers::default()
        },
        body: Body::Whole(body.as_bytes().to_vec()),
        ..Request::default()
    }
}

/// A pattern of the table of routes with something at each `{…}`.
pub(crate) fn filled(pattern: &str) -> String {
    pattern
        .split('/')
        .map(|segment| match segment {
            "{emoji}" => "%F0%9F%91%8D",
            "{device_id}" => "phone",
            parameter if parameter.starts_with('{') => "7",
            literal => literal,
        })
        .collect::<Vec<_>>()
        .join("/")
}

/// A frame that went up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Up {
    Submit(Submit),
    Receipt(Receipt),
    Read(Read),
    Find(Find),
}

impl Up {
    pub(crate) fn number(&self) -> u64 {
        match self {
            Up::Submit(submit) => submit.request,
            Up::Receipt(receipt) => receipt.request,
            Up::Read(read) => read.request,
            Up::Find(find) => find.request,
        }
    }
}

/// Reads a frame that went up.
pub(crate) fn read_up(bytes: &[u8]) -> Up {
    use rkyv::{deserialize, rancor::Error};
    match frame::read(bytes).unwrap() {
        Frame::Submit(submit) => Up::Submit(deserialize::<_, Error>(submit).unwrap()),
        Frame::Receipt(receipt) => Up::Receipt(deserialize::<_, Error>(receipt).unwrap()),
        Frame::Read(read) => Up::Read(deserialize::<_, Error>(read).unwrap()),
        Frame::Find(find) => Up::Find(deserialize::<_, Error>(find).unwrap()),
        other => panic!("not a frame that goes up: {other:?}"),
    }
}

pub(crate) struct Rig {
    pub(crate) rest: Rest,
    pub(crate) now: Time,
    pub(crate) up: VecDeque<Up>,
    /// The same, with where each went, since a test looked last.
    pub(crate) routed: Vec<(Peer, Up)>,
    pub(crate) responses: BTreeMap<Ticket, Response>,
    pub(crate) is_drained: bool,
    pub(crate) closed_lanes_count: usize,
    tickets_count: u64,
}

impl Rig {
    /// With its lane.
    pub(crate) fn new(settings: Settings) -> Rig {
        Rig::of(Rest::new(settings, keys(), 7))
    }

    /// With its lane.
    pub(crate) fn of(rest: Rest) -> Rig {
        let mut rig = Rig::without_lane(rest);
        rig.lane_up();
        rig
    }

    pub(crate) fn lane_up(&mut self) {
        self.handle(Input::LaneUp { router: ROUTER, incarnation: 100 });
        self.hear(&sole(100));
    }

    pub(crate) fn without_lane(rest: Rest) -> Rig {
        Rig {
            rest,
            now: Time(1_000_000_000),
            up: VecDeque::new(),
            routed: Vec::new(),
            responses: BTreeMap::new(),
            is_drained: false,
            closed_lanes_count: 0,
            tickets_count: 0,
        }
    }

    pub(crate) fn handle(&mut self, input: Input<'_>) {
        self.rest.handle(self.now, WallMs(WALL), input);
        while let Some(output) = self.rest.poll_output() {
            match output {
                Output::Response { ticket, response } => {
                    assert!(
                        self.responses.insert(ticket, response).is_none(),
                        "{ticket:?} was answered twice"
                    );
                }
                Output::Link { router, frame } => {
                    self.up.push_back(read_up(&frame));
                    self.routed.push((router, read_up(&frame)));
                }
                Output::CloseLane { .. } => self.closed_lanes_count += 1,
                Output::Drained => self.is_drained = true,
            }
        }
    }

    pub(crate) fn send(&mut self, request: Request) -> Ticket {
        self.tickets_count += 1;
        let ticket = Ticket(self.tickets_count);
        self.handle(Input::Request { ticket, request });
        ticket
    }

    /// Sends a request of a user who gets known on the way.
    pub(crate) fn ask(&mut self, user: u64, method: &str, target: &str, body: &str) -> Ticket {
        self.ask_with(request(user, method, target, body))
    }

    /// Sends a request of a user who gets known on the way.
    pub(crate) fn ask_with(&mut self, request: Request) -> Ticket {
        let ticket = self.send(request);
        if let Some(Up::Find(Find { request, what: Wanted::Admission { .. }, .. })) = self.up.front() {
            let request = *request;
            self.up.pop_front();
            self.hear(&admission(request, true, 0));
        }
        ticket
    }

    pub(crate) fn hear(&mut self, frame: &impl LinkFrame) {
        let frame = frame.to_frame();
        self.handle(Input::LaneFrame { router: ROUTER, frame: &frame });
    }

    pub(crate) fn next_up(&mut self) -> Up {
        self.up.pop_front().expect("a frame went up")
    }

    pub(crate) fn response(&mut self, ticket: Ticket) -> Response {
        self.responses.remove(&ticket).expect("a response")
    }

    /// Status and body of a response.
    pub(crate) fn told(&mut self, ticket: Ticket) -> (u16, Value) {
        let response = self.response(ticket);
        let body = match response.body.as_slice() {
            [] => Value::Null,
            body => serde_json::from_slice(body).unwrap(),
        };
        (response.status, body)
    }

    /// Status, code and field of a refusal.
    pub(crate) fn refused(&mut self, ticket: Ticket) -> (u16, String, Option<String>) {
        let (status, body) = self.told(ticket);
        let error = &body["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        assert!(
            text("request_id").is_some() && text("message").is_some() && error["retryable"].is_boolean(),
            "{body}"
        );
        (status, text("code").unwrap(), text("field"))
    }

    /// Time goes by.
    pub(crate) fn pass_ms(&mut self, millis: u64) {
        self.now = self.now.after_ms(millis);
        self.handle(Input::Tick);
    }
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
}

pub(crate) fn refused(up: &Up, code: Code, field: &str) -> Refused {
    Refused {
        session: 0,
        request: up.number(),
        code: code as u16,
        retry_after_ms: 0,
        field: field.to_owned(),
        message: "no".to_owned(),
    }
}

pub(crate) fn accepted(up: &Up, conversation: u64, seq: Seq, id: u64, duplicate: bool) -> Accepted {
    Accepted {
        session: 0,
        request: up.number(),
        conversation: ConversationId(conversation),
        seq,
        id,
        duplicate,
        unchanged: false,
    }
}

pub(crate) fn admission(request: u64, known: bool, revoked_at_ms: u64) -> Found {
    Found { request, findings: Findings::Admission { known, revoked_at_ms } }
}

pub(crate) fn found_conversations(request: u64, conversations: Vec<ConversationView>, more: bool) -> Found {
    Found { request, findings: Findings::Conversations { conversations, more } }
}

pub(crate) fn found_user(request: u64, user: u64) -> Found {
    let view = UserView {
        user: UserId(user),
        username: format!("name-{user}"),
        created_at_ms: 5,
        last_seen_at_ms: 0,
        push_tokens: Vec::new(),
    };
    Found { request, findings: Findings::User(view) }
}

/// The id of the message at `seq`.
pub(crate) fn message_id(seq: Seq) -> MessageId {
    MessageId((1_000 + seq) << 22)
}

/// A stored message.
pub(crate) fn entry(seq: Seq, sender: u64, content: &str) -> Entry {
    let event = Event {
        id: message_id(seq),
        sender: UserId(sender),
        client_msg_id: format!("c{seq}").into(),
        body: EventBody::Message(Message { content, ..Message::default() }),
    };
    Entry { seq, record: event.encode() }
}

pub(crate) fn conversation(id: u64, last_message: Option<Entry>) -> ConversationView {
    ConversationView {
        conversation: ConversationId(id),
        conversation_type: 1,
        history: 0,
        group_name: Some("five".to_owned()),
        member_ids: vec![UserId(1), UserId(2)],
        members_count: 2,
        created_at_ms: 9,
        created_by: UserId(1),
        head_seq: 4,
        read_seq: 2,
        unread_count: 1,
        last_id: 700 + id,
        last_message,
        marks: Vec::new(),
        last_reactions: Vec::new(),
        muted_until_ms: 0,
    }
}
