//! The people of the table, and a group for each cell in which nothing happened yet.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use carillon_tests::client::{Client, Transport};
use carillon_tests::http::{Answer, request};
use carillon_tests::server::PATIENCE;
use carillon_tests::stage::Stage;
use serde_json::{Value, json};

use crate::table::{Operation, Told, Who};

/// An id as ours are, which nothing has.
pub(crate) const ABSENT: &str = "7210000000000000001";

/// People whom no other place knows.
pub(crate) struct Cast<'a> {
    pub(crate) stage: &'a Stage,
    owner: u64,
    member: u64,
    former: u64,
    stranger: u64,
    other: u64,
    outside: u64,
    /// Said in a conversation of the owner's in which nobody else of these is.
    message_elsewhere: String,
}

/// What one cell is aimed at.
pub(crate) struct Place {
    pub(crate) who: Who,
    /// The id of who asks; of nobody: somebody's.
    pub(crate) caller: String,
    pub(crate) conversation: String,
    /// The owner's, unless aimed elsewhere.
    pub(crate) message: String,
    pub(crate) members_message: String,
    /// In a conversation of the owner's that nobody else here is in.
    pub(crate) message_elsewhere: String,
    /// Somebody else in the group, unless aimed elsewhere.
    pub(crate) user: String,
    /// Somebody who is not in the group.
    pub(crate) outside: String,
    pub(crate) own_token: String,
    pub(crate) foreign_token: String,
}

impl<'a> Cast<'a> {
    pub(crate) fn new(stage: &'a Stage) -> Cast<'a> {
        let [owner, member, former, stranger, other, outside] = stage.people();
        let mut cast =
            Cast { stage, owner, member, former, stranger, other, outside, message_elsewhere: String::new() };
        cast.message_elsewhere = cast.say(owner, &stage.group(owner, &[other]));
        cast
    }

    fn user(&self, who: Who) -> u64 {
        match who {
            Who::Owner => self.owner,
            Who::Member | Who::OtherDevice => self.member,
            Who::Former => self.former,
            Who::Stranger | Who::Nobody => self.stranger,
        }
    }

    /// The token of one of them, or none.
    pub(crate) fn token(&self, who: Who) -> Option<String> {
        let device = if who == Who::OtherDevice { "tablet" } else { "phone" };
        (who != Who::Nobody).then(|| self.stage.server().token(self.user(who), device))
    }

    /// A connection of one of them that has caught up; nobody's does not identify.
    pub(crate) fn connect(&self, who: Who, transport: Transport) -> Client {
        let token = self.token(who);
        let address = self.stage.server().address();
        let mut client = Client::connect(address, transport, token.as_deref()).expect("connected");
        if token.is_some() {
            client.send(&json!({"type": "identify", "cursors": {}}));
            client.until_type("caught_up");
        } else {
            client.until_type("hello");
        }
        client
    }

    fn done(&self, user: u64, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.stage.rest(user, method, path, body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer.body
    }

    /// Says something; the message's id.
    fn say(&self, user: u64, conversation: &str) -> String {
        let body = json!({"conversation_id": conversation, "content": "x", "message_type": "text"});
        let sent = self.done(user, "POST", "/v1/messages", Some(&body));
        sent["message_id"].as_str().expect("an id").to_owned()
    }

    /// A group in which the owner and the member said something, and which the former member has left.
    pub(crate) fn place(&self, who: Who) -> Place {
        let conversation = self.stage.group(self.owner, &[self.member, self.former, self.other]);
        let message = self.say(self.owner, &conversation);
        let members_message = self.say(self.member, &conversation);
        let leave = format!("/v1/conversations/{conversation}/members/{}", self.former);
        let _ = self.done(self.owner, "DELETE", &leave, None);
        let server = self.stage.server();
        let foreign = if self.user(who) == self.owner { self.member } else { self.owner };
        Place {
            who,
            caller: self.user(who).to_string(),
            message,
            members_message,
            message_elsewhere: self.message_elsewhere.clone(),
            conversation,
            user: self.other.to_string(),
            outside: self.outside.to_string(),
            own_token: self.token(who).unwrap_or_else(|| server.token(self.stranger, "phone")),
            foreign_token: server.token(foreign, "phone"),
        }
    }

    /// A conversation of the owner with each of the others: where something is said that everybody hears.
    pub(crate) fn sentinels(&self) -> Vec<String> {
        [self.member, self.former, self.stranger].map(|user| self.stage.pair(self.owner, user)).to_vec()
    }

    /// The owner says something in each of these.
    pub(crate) fn say_in(&self, conversations: &[String]) {
        for conversation in conversations {
            let _ = self.say(self.owner, conversation);
        }
    }

    /// One event of each kind.
    pub(crate) fn something_happens(&self, place: &Place) {
        let at = |rest: &str| format!("/v1/conversations/{}{rest}", place.conversation);
        let _ = self.say(self.owner, &place.conversation);
        let reaction = at(&format!("/messages/{}/reactions/%F0%9F%91%8D", place.message));
        let _ = self.done(self.owner, "PUT", &reaction, None);
        let _ = self.done(self.owner, "DELETE", &at(&format!("/messages/{}", place.message)), None);
        let _ = self.done(self.owner, "PATCH", &at(""), Some(&json!({"group_name": "another"})));
        let _ = self.done(self.owner, "POST", &at("/members"), Some(&json!({"user_ids": [place.outside]})));
    }

    /// The name of a poll session that the member has just begun.
    fn poll(&self) -> String {
        let token = self.token(Who::Member);
        let begun = request(self.stage.server().address(), "POST", "/v1/poll", token.as_deref(), &[], None);
        begun.body["poll_id"].as_str().unwrap_or_else(|| panic!("{begun:?}")).to_owned()
    }

    /// The operation as a request of one of them.
    pub(crate) fn ask(&self, operation: &Operation, place: &Place) -> Answer {
        let (method, pattern, _) = operation.route.expect("it has a route");
        let poll = if pattern.contains("{poll_id}") { self.poll() } else { String::new() };
        let (path, body) = place.request(operation);
        let path = path.replace("{poll_id}", &poll);
        let token = self.token(place.who);
        let address = self.stage.server().address();
        if (method, pattern) == ("GET", "/v1/events") {
            return head(address, &path, token.as_deref());
        }
        request(address, method, &path, token.as_deref(), &[], body.as_ref())
    }
}

impl Place {
    /// Where only a stranger asks.
    pub(crate) fn of_strangers(stranger: u64, conversation: String, message: String) -> Place {
        Place {
            who: Who::Stranger,
            caller: stranger.to_string(),
            conversation,
            members_message: message.clone(),
            message_elsewhere: message.clone(),
            message,
            user: "2".to_owned(),
            outside: "1".to_owned(),
            own_token: String::new(),
            foreign_token: String::new(),
        }
    }

    /// The path and the body of an operation at this place; what a `GET` asks stands in its query.
    pub(crate) fn request(&self, operation: &Operation) -> (String, Option<Value>) {
        let (method, pattern, body) = operation.route.expect("it has a route");
        let mut path = pattern.to_owned();
        for (parameter, value) in [
            ("{conversation_id}", self.conversation.as_str()),
            ("{message_id}", &self.message),
            ("{user_id}", &self.user),
            ("{emoji}", "%F0%9F%91%8D"),
            ("{device_id}", "spare"),
        ] {
            path = path.replace(parameter, value);
        }
        let body = Some(body(self)).filter(|body| !body.is_null());
        match body {
            Some(Value::Object(query)) if method == "GET" => {
                let text = |value: &Value| {
                    value.as_str().map_or_else(|| value.to_string(), |text| text.replace(' ', "%20"))
                };
                let query: Vec<String> =
                    query.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
                (format!("{path}?{}", query.join("&")), None)
            }
            body => (path, body),
        }
    }
}

/// The answer of a stream, which does not end by itself.
fn head(address: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let asked = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{bearer}\r\n");
    stream.write_all(asked.as_bytes()).expect("sent");
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            let body = serde_json::from_str(rest).unwrap_or(Value::Null);
            // A refusal comes whole; of a stream nothing more is wanted.
            if status == 200 || !body.is_null() {
                return Answer { status, head: head.to_owned(), body, text: rest.to_owned() };
            }
        }
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "no whole answer: {text:?}");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// What an answer comes to, and all that is to be seen of it but the names of this one request.
pub(crate) fn told(answer: &Answer) -> (Told, Value) {
    let mut headers: BTreeMap<String, String> = answer
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    headers.remove("date");
    headers.remove("x-request-id");
    let mut body = answer.body.clone();
    let told = if answer.status < 300 { Told::Done } else { code_of(&mut body["error"]) };
    (told, json!({"status": answer.status, "headers": headers, "body": body}))
}

/// The same of a frame.
pub(crate) fn told_by_frame(frame: &Value) -> (Told, Value) {
    let mut frame = frame.clone();
    let told = if frame["type"] == "error" { code_of(&mut frame["error"]) } else { Told::Done };
    (told, frame)
}

/// The code of an error, whose name is taken off.
fn code_of(error: &mut Value) -> Told {
    let code = error["code"].as_str().unwrap_or("no error").to_owned();
    if let Some(error) = error.as_object_mut() {
        assert!(error.remove("request_id").is_some_and(|id| id.is_string()), "{error:?}");
    }
    Told::Code(code.leak())
}
