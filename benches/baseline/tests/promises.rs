//! What the two forms promise, each against a process of its own: an alternative that promised less than it says would
//! be no measure.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

const ALICE: u64 = 7;
const BOB: u64 = 8;
const MALLORY: u64 = 9;

struct Server {
    process: Child,
    address: String,
    key: Vec<u8>,
}

impl Server {
    fn start(form: &str, data: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_baseline"))
            .args([form, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = ready["gateway"].as_str().unwrap().to_owned();
        // The plain form has no key: any will do.
        let digits = std::fs::read_to_string(data.join("dev.key")).unwrap_or_default();
        let byte = |place: usize| u8::from_str_radix(&digits[place..place + 2], 16).unwrap();
        let key = (0..digits.trim_end().len()).step_by(2).map(byte).collect();
        Server { process, address, key }
    }

    fn token(&self, user: u64) -> String {
        signed(user, &self.key)
    }

    /// Status and body.
    fn rest(&self, user: u64, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (token, address) = (self.token(user), &self.address);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: k\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn pair(&self) -> String {
        let wish = json!({"type": "one_to_one", "member_ids": [BOB.to_string()]});
        let (_, room) = self.rest(ALICE, "POST", "/v1/conversations", &wish);
        room["conversation_id"].as_str().unwrap().to_owned()
    }

    fn history(&self, user: u64, room: &str) -> (u16, Vec<Value>) {
        let path = format!("/v1/conversations/{room}/messages?after_seq=0&limit=200");
        let (status, page) = self.rest(user, "GET", &path, &Value::Null);
        (status, page["messages"].as_array().cloned().unwrap_or_default())
    }

    fn connect(&self, token: &str) -> Result<Client, tungstenite::Error> {
        let mut request = format!("ws://{}/v1/ws", self.address).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.headers_mut().insert("sec-websocket-protocol", "carillon.v1.json".parse().unwrap());
        let stream = TcpStream::connect(&self.address)?;
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Client(socket)),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(tungstenite::HandshakeError::Interrupted(_)) => unreachable!("the socket blocks"),
        }
    }

    fn live(&self, user: u64) -> Client {
        let mut client = self.connect(&self.token(user)).unwrap();
        client.say(&json!({"type": "identify"}));
        client.hear("caught_up");
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn signed(user: u64, key: &[u8]) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": user.to_string(), "iat": now_s, "exp": now_s + 600});
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key)).unwrap()
}

struct Client(WebSocket<TcpStream>);

impl Client {
    fn say(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).unwrap();
    }

    /// The next frame of this type; what comes before it is passed over.
    fn hear(&mut self, name: &str) -> Value {
        loop {
            let frame: Value = serde_json::from_str(self.0.read().unwrap().to_text().unwrap()).unwrap();
            if frame["type"] == name {
                return frame;
            }
        }
    }

    fn send(&mut self, room: &str, n: u64, content: &str) {
        self.say(&json!({"type": "send_message", "id": n, "conversation_id": room, "content": content,
            "client_msg_id": format!("m{n}")}));
    }
}

#[test]
fn a_message_is_acknowledged_and_delivered_in_both_forms() {
    for form in ["plain", "equal"] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(form, directory.path());
        let room = server.pair();
        assert_eq!(server.pair(), room, "one conversation for a pair");
        let (mut alice, mut bob) = (server.live(ALICE), server.live(BOB));
        for n in 1..=3 {
            alice.send(&room, n, "hello, wörld \"1\"");
            let ack = alice.hear("delivery_ack");
            assert_eq!((&ack["id"], &ack["status"], &ack["seq"]), (&json!(n), &json!("sent"), &json!(n)));
            let message = bob.hear("new_message")["message"].clone();
            assert_eq!(message["message_id"], ack["message_id"]);
            assert_eq!(message["sender_id"], ALICE.to_string());
            assert_eq!((&message["seq"], &message["content"]), (&json!(n), &json!("hello, wörld \"1\"")));
        }
        let mut mallory = server.live(MALLORY);
        mallory.send(&room, 1, "let me in");
        assert_eq!(mallory.hear("error")["error"]["code"], "forbidden");
        bob.send(&room, 9, "and you");
        let answer = alice.hear("new_message")["message"].clone();
        assert_eq!((&answer["seq"], &answer["content"]), (&json!(4), &json!("and you")), "{form}");
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let room = {
        let server = Server::start("equal", directory.path());
        let room = server.pair();
        let mut alice = server.live(ALICE);
        for n in 1..=20 {
            alice.send(&room, n, &format!("message {n}"));
            alice.hear("delivery_ack");
        }
        room
    };
    let server = Server::start("equal", directory.path());
    let (status, messages) = server.history(BOB, &room);
    let contents: Vec<&str> = messages.iter().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!((status, contents.len(), contents[19]), (200, 20, "message 20"));
    let mut alice = server.live(ALICE);
    alice.send(&room, 20, "message 20");
    let ack = alice.hear("delivery_ack");
    assert_eq!((&ack["seq"], &ack["duplicate"]), (&json!(20), &json!(true)));
    alice.send(&room, 21, "message 21");
    assert_eq!(alice.hear("delivery_ack")["seq"], 21);
    assert_eq!(server.history(MALLORY, &room).0, 403);
}

#[test]
fn equal_promises_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start("equal", directory.path());
    let room = server.pair();
    let (mut alice, mut bob) = (server.live(ALICE), server.live(BOB));
    for n in [1, 2, 1] {
        alice.send(&room, n, &format!("message {n}"));
    }
    let acks = [(); 3].map(|()| alice.hear("delivery_ack"));
    assert_eq!(acks.each_ref().map(|ack| ack["seq"].as_u64().unwrap()), [1, 2, 1]);
    assert_eq!((&acks[0]["duplicate"], &acks[2]["duplicate"]), (&Value::Null, &json!(true)));
    alice.send(&room, 1, "something else");
    assert_eq!(alice.hear("error")["error"]["code"], "idempotency_conflict");
    assert_eq!(server.history(ALICE, &room).1.len(), 2);

    assert_eq!([(); 2].map(|()| bob.hear("new_message")["message"]["seq"].clone()), [1, 2]);
    bob.say(&json!({"type": "delivered", "conversation_id": room, "seq": 2}));
    let receipt = alice.hear("delivery_ack");
    assert_eq!(receipt["status"], "delivered");
    assert_eq!((&receipt["seq"], &receipt["user_id"]), (&json!(2), &json!(BOB.to_string())));
    assert_eq!(receipt["message_id"], acks[1]["message_id"]);

    let refused = server.connect(&signed(ALICE, b"another key")).err().unwrap();
    assert!(matches!(refused, tungstenite::Error::Http(answer) if answer.status() == 401));
}
