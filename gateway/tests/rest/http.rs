//! The HTTP server over real sockets, with a router that answers every question the same way.

#![expect(clippy::disallowed_methods, reason = "sockets and threads are what is tested")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use carillon_gateway::io::link::Uplinks;
use carillon_gateway::io::{HandedOff, Needs, http};
use carillon_gateway::settings::Settings;
use carillon_gateway::turn::Handed;
use carillon_link::{Mailbox, Peer, Wake, local};
use carillon_node::clock::Clock;
use carillon_node::config::Config;
use carillon_node::metrics::Registry;
use carillon_protocol::frame::{LinkFrame, Open, Wanted};

use crate::owners::sole;
use crate::rig::{Up, accepted, admission, found_conversations, keys, read_up, token_at};

/// Lanes are made once here, and not again.
struct NoUplinks;

impl Uplinks for NoUplinks {
    fn meet(&self, _address: &str) {}

    fn part(&self, _peer: Peer) {}

    fn replace(&self, _: Peer, _: u16) -> bool {
        true
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

fn settings() -> Settings {
    let builder = Config::builder()
        .defaults("node", carillon_node::DEFAULTS)
        .unwrap()
        .defaults("gateway", carillon_gateway::DEFAULTS)
        .unwrap()
        .set("gateway.handshake_timeout_ms=400")
        .unwrap();
    Settings::from_config(&builder.build().unwrap()).unwrap()
}

/// A server, and what stands for the shards that hand connections over.
struct Server {
    _stop: tokio::sync::oneshot::Sender<()>,
    hand_offs: Option<tokio::sync::mpsc::Sender<HandedOff>>,
    listener: TcpListener,
    registry: Registry,
}

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(stopped));
        let (hand_off, hand_offs) = tokio::sync::mpsc::channel(16);
        let registry = Registry::new();
        let needs = Needs {
            keys: keys(),
            is_development: true,
            epoch: 1,
            seed: 2,
            uplinks: Arc::new(NoUplinks),
            registry: registry.clone(),
            certificate: None,
            ready_users: None,
        };
        let mailboxes = http::serve(&handle, &settings(), &needs, hand_offs, 3).unwrap();
        router(&mailboxes.rest);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server { _stop: stop, hand_offs: Some(hand_off), listener, registry }
    }

    /// A connection of which `received` was read before it was handed over.
    fn connect(&self, received: &str) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.set_nodelay(true).unwrap();
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let received = received.as_bytes().to_vec();
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let handed_off = HandedOff { stream, handed: Box::new(Handed { received, address, channel: None }) };
        self.hand_offs.as_ref().unwrap().blocking_send(handed_off).unwrap();
        client
    }
}

/// A router on a thread of its own: knows every user, commits every message as seq 3, lists nothing.
fn router(gateway: &Mailbox) {
    let (told, mailbox) = std::sync::mpsc::channel();
    let gateway = gateway.clone();
    std::thread::spawn(move || {
        let (mailbox, arrivals) = Mailbox::new(4, Arc::new(Unpark(std::thread::current())));
        told.send(mailbox).unwrap();
        let mut lane = arrivals.recv().unwrap().lane;
        lane.send(&Open { incarnation: 9, shard: 0 }.to_frame()).unwrap();
        lane.send(&sole(9).to_frame()).unwrap();
        lane.flush();
        let mut is_open = false;
        loop {
            let mut asked = Vec::new();
            let received = lane.receive(64, |bytes| {
                if is_open {
                    asked.push(read_up(bytes));
                }
                is_open = true;
            });
            if received.closed {
                return;
            }
            for up in asked {
                let answer = match &up {
                    Up::Submit(_) | Up::Receipt(_) => accepted(&up, 7, 3, 3 << 22, false).to_frame(),
                    Up::Find(find) if matches!(find.what, Wanted::Admission { .. }) => {
                        admission(up.number(), true, 0).to_frame()
                    }
                    _ => found_conversations(up.number(), Vec::new(), false).to_frame(),
                };
                lane.send(&answer).unwrap();
            }
            lane.flush();
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    assert!(local::connect(1 << 20, &gateway, &mailbox.recv().unwrap(), Peer(0)));
}

fn bearer() -> String {
    format!("Authorization: Bearer {}\r\n", token_at(Clock.wall_ms(), 1, 600, ""))
}

fn post(body: &str) -> String {
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n",
        bearer(),
        body.len()
    );
    head + body
}

const MESSAGE: &str = r#"{"conversation_id":"7","content":"x","message_type":"text"}"#;

/// Reads one response: its head, in lower case, and its body.
fn response(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the connection ended in {}", head.escape_ascii());
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
}

/// The shard has read some of the first request already, wherever that was cut; the connection is kept alive.
#[test]
fn requests_cut_anywhere_and_kept_alive() {
    let server = Server::start();
    let text = post(MESSAGE);
    for cut in [0, 1, 20, text.len() - MESSAGE.len(), text.len() - 1, text.len()] {
        let (received, rest) = text.split_at(cut);
        let mut stream = server.connect(received);
        stream.write_all(rest.as_bytes()).unwrap();
        for _ in 0..3 {
            let (head, body) = response(&mut stream);
            assert!(
                head.starts_with("http/1.1 201") && head.contains("x-request-id: "),
                "cut at {cut}: {head}"
            );
            assert!(body.contains(r#""seq":3"#), "{body}");
            stream.write_all(text.as_bytes()).unwrap();
        }
    }
    // More than hyper reads at once.
    let list = format!("GET /v1/conversations HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer());
    let requests_count = 20_000 / list.len();
    let mut pipelined = server.connect(&list.repeat(requests_count));
    for _ in 0..requests_count {
        assert!(response(&mut pipelined).0.starts_with("http/1.1 200"));
    }
    let text = server.registry.text();
    assert!(text.contains("carillon_http_requests_total{status=\"2xx\"}"), "{text}");
}

#[test]
fn head_gets_no_body() {
    let server = Server::start();
    let head_request = format!("HEAD /v1/conversations HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer());
    let mut stream = server.connect(&head_request);
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    while !bytes.ends_with(b"}}") {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0);
        bytes.extend_from_slice(&chunk[..count]);
    }
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
    assert!(!text.contains("next_cursor"), "{text}");
}

/// Security, handshake: what is no HTTP is refused and closed.
#[test]
fn bad_input_is_refused() {
    let server = Server::start();
    let headers = "X: y\r\n".repeat(65);
    let long = "x".repeat(9_000);
    for bad in [
        "GARBAGE\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let mut stream = server.connect(&bad);
        let (head, _) = response(&mut stream);
        assert!(head.starts_with("http/1.1 4"), "{bad:.60}: {head}");
        assert!(is_closed(&mut stream), "{bad:.60}");
    }
}

/// F23: a body above the limit is answered with 413, whether its length is announced or not, and while it is being sent.
#[test]
fn large_bodies_are_answered() {
    let server = Server::start();
    let body = "x".repeat(300_000);
    let mut announced = server.connect("");
    announced.write_all(post(&body).as_bytes()).unwrap();
    assert!(response(&mut announced).0.starts_with("http/1.1 413"));

    let mut chunked = server.connect("");
    let head =
        format!("POST /v1/messages HTTP/1.1\r\nHost: x\r\n{}Transfer-Encoding: chunked\r\n\r\n", bearer());
    chunked.write_all(head.as_bytes()).unwrap();
    for _ in 0..3 {
        chunked.write_all(format!("{:x}\r\n{}\r\n", 30_000, &body[..30_000]).as_bytes()).unwrap();
    }
    chunked.write_all(b"0\r\n\r\n").unwrap();
    let (head, body) = response(&mut chunked);
    assert!(head.starts_with("http/1.1 413") && body.contains("too_large"), "{head}");
    chunked.write_all(post(MESSAGE).as_bytes()).unwrap();
    assert!(response(&mut chunked).0.starts_with("http/1.1 201"), "the connection goes on");

    let mut endless = server.connect("");
    endless
        .write_all(post("").replace("Content-Length: 0", "Content-Length: 99999999999").as_bytes())
        .unwrap();
    assert!(response(&mut endless).0.starts_with("http/1.1 413"), "refused from its head");
}

/// A head that does not come, first or later, costs a connection and nobody else.
#[test]
fn slow_heads_are_cut() {
    let server = Server::start();
    let mut never = server.connect("GET / HT");
    let mut later = server.connect(&post(MESSAGE));
    assert!(response(&mut later).0.starts_with("http/1.1 201"));
    let since = std::time::Instant::now();
    assert!(is_closed(&mut never) && is_closed(&mut later));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

/// F18: when the shards have ended, connections end after the request they are in.
#[test]
fn drains() {
    let mut server = Server::start();
    let mut idle = server.connect(&post(MESSAGE));
    assert!(response(&mut idle).0.starts_with("http/1.1 201"));
    server.hand_offs = None;
    assert!(is_closed(&mut idle));
}

/// G13: beyond the bound a connection is told so, and the others go on.
#[test]
fn connections_are_bounded() {
    let server = Server::start();
    // Their bodies may take longer than this test.
    let unfinished = post(MESSAGE).replace(MESSAGE, "");
    let kept: Vec<_> = (0..http::CONNECTIONS_MAX).map(|_| server.connect(&unfinished)).collect();
    let mut one_more = server.connect("");
    let (head, body) = response(&mut one_more);
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1\r\n"), "{head}");
    assert!(body.contains(r#""code":"overloaded""#) && body.contains(r#""retry_after_ms":1000"#), "{body}");
    drop(kept);
}
