//! The admin port over real TCP.
#![expect(clippy::disallowed_methods, reason = "real sockets are what is tested")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use carillon_node::admin::{Admin, CONNECTIONS_COUNT_MAX, Readiness};
use carillon_node::metric_table;
use carillon_node::metrics::{Def, Registry};
use serde_json::{Value, json};

metric_table! { enum Metric { Turns = Def::counter("test_turns", "Turns taken") } }

fn start() -> (Admin, Registry, Readiness) {
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let admin = Admin::start("127.0.0.1:0", registry.clone(), readiness.clone()).unwrap();
    (admin, registry, readiness)
}

/// Sends one request and reads until the server closes: status, head and body.
fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n"))
}

#[test]
fn ready_is_what_every_part_says_and_alive_is_always() {
    let (admin, _, readiness) = start();
    let ready = || {
        let (status, head, body) = get(admin.address(), "/readyz");
        assert!(head.contains("content-type: application/json"));
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    assert_eq!(ready(), (503, json!({"ready": false, "checks": {}})), "nobody has spoken");
    readiness.set("store", false, "opening");
    readiness.set("io", true, "uring");
    let checks = json!({"store": {"ok": false, "detail": "opening"}, "io": {"ok": true, "detail": "uring"}});
    assert_eq!(ready(), (503, json!({"ready": false, "checks": checks})));
    assert_eq!(get(admin.address(), "/livez").0, 200);
    readiness.set("store", true, "embedded");
    let (status, body) = ready();
    assert_eq!((status, &body["ready"], readiness.is_ready()), (200, &json!(true), true));
    readiness.set("drain", false, "asked to stop");
    assert_eq!(ready().0, 503);
}

#[test]
fn a_process_says_what_it_is() {
    let (admin, _, readiness) = start();
    readiness.set("io", true, "uring");
    let (status, head, body) = get(admin.address(), "/debug");
    let mut about: Value = serde_json::from_str(&body).unwrap();
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    assert!(about["uptime_s"].take().is_u64(), "{body}");
    let checks = json!({"io": {"ok": true, "detail": "uring"}});
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process_id": std::process::id(),
        "uptime_s": null,
        "readiness": {"ready": true, "checks": checks},
    });
    assert_eq!(about, expected);
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    let (admin, registry, _) = start();
    let meter = registry.meter::<Metric>(&[]);
    meter.add(Metric::Turns, 3);
    let (status, head, body) = get(admin.address(), "/metrics?name=x");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("carillon_test_turns_total 3\n") && body.contains("process_open_fds "), "{body}");
    meter.add(Metric::Turns, 1);
    let request = "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n";
    let (_, head, body) = ask(admin.address(), request);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("carillon_test_turns_total 4\n") && body.ends_with("# EOF\n"));
}

#[test]
fn anything_else_is_refused_with_a_hint() {
    let (admin, ..) = start();
    for path in ["/", "/v1/ws", "/metrics/", "/readyz/store"] {
        let (status, _, body) = get(admin.address(), path);
        assert!(status == 404 && body.contains("/readyz"), "{path}: {status} {body}");
    }
    let (status, head, _) =
        ask(admin.address(), "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(status == 405 && head.contains("allow: get, head"));
    let (status, head, body) = ask(admin.address(), "HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(status == 200 && body.is_empty() && head.contains("content-length: 6"));
    assert_eq!(ask(admin.address(), "nonsense\r\n\r\n").0, 400);
}

/// G13: connections that ask nothing cost a bounded number of places, and give them back when they go.
#[test]
fn silent_connections_are_bounded_and_the_port_lives_on() {
    let (admin, ..) = start();
    let silent: Vec<TcpStream> =
        (0..CONNECTIONS_COUNT_MAX + 8).map(|_| TcpStream::connect(admin.address()).unwrap()).collect();
    let mut waiting = TcpStream::connect(admin.address()).unwrap();
    waiting.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    drop(silent);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_taken_port_is_one_sentence_and_a_dropped_one_is_free_again() {
    let (admin, registry, readiness) = start();
    let address = admin.address().to_string();
    let fatal = Admin::start(&address, registry.clone(), readiness.clone()).unwrap_err();
    let expected = format!("admin.listen {address} is in use: choose another with --set admin.listen=…");
    assert_eq!((fatal.status, fatal.sentence), (2, expected));

    let open = TcpStream::connect(admin.address()).unwrap();
    drop(admin);
    assert!(TcpStream::connect(&address).is_err(), "closed when drop returns, whoever is connected");
    drop(open);
    TcpListener::bind(&address).expect("free");
}
