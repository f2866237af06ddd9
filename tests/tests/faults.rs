//! Starts that cannot work, ends that were asked for, and a disk that lies: one line that says what to do, the exit
//! status that scripts rely on, and nothing touched.

#![expect(clippy::disallowed_methods, reason = "tests take ports and write files")]

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use carillon_tests::client::{Client, Wire};
use carillon_tests::http::request;
use carillon_tests::server::{Deployment, Ended, Server, command};
use carillon_tests::stage::{create, introduce, rest};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

/// Free ports wherever a test does not say otherwise.
const FREE: [&str; 8] = [
    "--set",
    "gateway.listen=127.0.0.1:0",
    "--set",
    "admin.listen=127.0.0.1:0",
    "--set",
    "router.listen=127.0.0.1:0",
    "--set",
    "log.format=json",
];

fn start(data_dir: &Path, arguments: &[&str]) -> Ended {
    let data_dir = data_dir.display().to_string();
    let all = [&["--data-dir", &data_dir][..], &FREE, arguments].concat();
    command(BINARY, &all, &[])
}

fn assert_refused(what: &str, ended: &Ended, status: i32, words: &[&str]) {
    assert_eq!(ended.status, Some(status), "{what}: {ended:?}");
    assert_eq!(ended.stdout, "", "{what}");
    assert_eq!(ended.stderr.lines().count(), 1, "{what}: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{what}: {word:?} is not in {}", ended.stderr);
    }
}

/// Exit status 2: one line, nothing touched.
#[test]
fn what_cannot_start_says_why_and_touches_nothing() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = |key: &str, address: std::io::Result<std::net::SocketAddr>| {
        format!("{key}={}", address.expect("an address"))
    };
    let gateway = taken("gateway.listen", tcp.local_addr());
    let admin = taken("admin.listen", tcp.local_addr());
    let router = taken("router.listen", udp.local_addr());
    let table: [(&str, &[&str], &[&str]); 14] = [
        ("the clients' port is taken", &["--set", &gateway], &["gateway.listen", "in use", "--set"]),
        ("the admin port is taken", &["--set", &admin], &["admin.listen", "in use"]),
        ("the routers' port is taken", &["--set", &router], &["router.listen", "in use"]),
        ("the router's, of a tier of its own", &["router", "--set", &router], &["router.listen", "in use"]),
        ("a key is misspelt", &["--set", "gatway.listen=127.0.0.1:1"], &["gatway.listen", "gateway.listen"]),
        (
            "a limit is misspelt",
            &["--set", "limits.send_per_sec=1"],
            &["limits.send_per_sec", "limits.send_per_s"],
        ),
        ("a number is none", &["--set", "gateway.shards=many"], &["gateway.shards", "many"]),
        ("an address is none", &["--set", "gateway.listen=here"], &["gateway.listen", "here"]),
        ("no value", &["--set", "gateway.listen"], &["gateway.listen"]),
        (
            "an engine nobody knows",
            &["--set", "store.engine=papyrus"],
            &["store.engine", "papyrus", "embedded"],
        ),
        ("a driver nobody knows", &["--set", "io.driver=horse"], &["io.driver", "horse"]),
        (
            "development on a public address",
            &["--set", "gateway.listen=0.0.0.0:0"],
            &["gateway.listen", "auth.keys"],
        ),
        ("a gateway without routers", &["gateway"], &["gateway.routers"]),
        (
            "a file that is not there",
            &["--config", "/nonexistent/carillon.toml"],
            &["/nonexistent/carillon.toml"],
        ),
    ];
    for (what, arguments, words) in table {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("data");
        assert_refused(what, &start(&data_dir, arguments), 2, words);
        assert!(!data_dir.exists(), "{what}: something was touched");
    }
}

#[test]
fn settings_are_refused_wherever_they_come_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("carillon.toml");
    std::fs::write(&file, "[limits]\nsend_per_secnd = 3\n").expect("written");
    let file = file.display().to_string();
    let by_file = command(BINARY, &["config", "check", "--config", &file], &[]);
    assert_refused("file", &by_file, 2, &["limits.send_per_secnd", "limits.send_per_s", &file]);
    let by_variable = command(BINARY, &["config", "check"], &[("CARILLON_GATEWAY__LISTN", "127.0.0.1:1")]);
    assert_refused(
        "variable",
        &by_variable,
        2,
        &["gateway.listn", "gateway.listen", "CARILLON_GATEWAY__LISTN"],
    );

    std::fs::write(&file, "[limits]\nsend_per_s = 3\nsend_burst = 4\n").expect("written");
    let variables = [("CARILLON_LIMITS__SEND_BURST", "5"), ("CARILLON_HOME", "not a key")];
    let arguments = ["config", "print", "--short", "--config", &file, "--set", "limits.inflight=6"];
    let printed = command(BINARY, &arguments, &variables);
    assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""), "{printed:?}");
    for (key, value, source) in [
        ("limits.send_per_s", "3", "file"),
        ("limits.send_burst", "5", "environment"),
        ("limits.inflight", "6", "--set"),
        ("limits.identify_timeout_ms", "10000", "default"),
        ("gateway.listen", "\"127.0.0.1:8080\"", "default"),
    ] {
        let line = printed.stdout.lines().find(|line| line.starts_with(&format!("{key} = ")));
        let line = line.unwrap_or_else(|| panic!("{key} is missing: {}", printed.stdout));
        assert!(line.contains(&format!("= {value} ")) && line.contains(source), "{line}");
    }
    let checked = command(BINARY, &["config", "check"], &[]);
    assert_eq!((checked.status, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
}

/// One router a store: the second is told, and the first goes on.
#[test]
fn a_data_directory_in_use_is_refused() {
    let server = Server::start(BINARY, Deployment::OneProcess, &[]);
    for tier in [&[][..], &["router"]] {
        assert_refused("in use", &start(&server.data_dir(), tier), 2, &["in use", "store"]);
    }
    introduce(&server, 1);
}

/// `carillon token`, also beside a running server: with the key of its directory.
#[test]
fn tokens_are_printed_one_a_line() {
    let server = Server::start(BINARY, Deployment::OneProcess, &[]);
    let data_dir = server.data_dir().display().to_string();
    let token = |arguments: &[&str]| {
        let ended = command(BINARY, &[&["token", "--data-dir", &data_dir][..], arguments].concat(), &[]);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}: {ended:?}");
        ended.stdout
    };
    let get = |token: &str, path: &str| request(server.address(), "GET", path, Some(token.trim()), &[], None);
    let named = token(&["--user", "42", "--name", "quasimodo", "--device", "phone", "--ttl", "5m"]);
    assert_eq!(named.lines().count(), 1);
    let user = get(&named, "/v1/users/42");
    assert_eq!((user.status, &user.body["username"]), (200, &json!("quasimodo")), "{user:?}");
    let range = token(&["--user", "100-104"]);
    assert_eq!(range.lines().count(), 5);
    for line in range.lines() {
        assert_eq!(get(line, "/v1/conversations").status, 200);
    }
    let expired = get(&token(&["--user", "42", "--ttl", "-5m"]), "/v1/conversations");
    assert_eq!(
        (expired.status, &expired.body["error"]["code"]),
        (401, &json!("token_expired")),
        "{expired:?}"
    );
    let admin = token(&["--user", "43", "--admin"]);
    let wish = json!({"username": "by-the-admin"});
    let made = request(server.address(), "POST", "/v1/users", Some(admin.trim()), &[], Some(&wish));
    assert_eq!(made.status, 201, "{made:?}");
    for (arguments, word) in [
        (["--user", "0", "--ttl", "1h"], "--user"),
        (["--user", "9-1", "--ttl", "1h"], "--user"),
        (["--user", "1", "--ttl", "soon"], "--ttl"),
        (["--user", "1", "--device", "no spaces"], "--device"),
    ] {
        let refused = command(BINARY, &[&["token", "--data-dir", &data_dir][..], &arguments].concat(), &[]);
        assert_refused("a wrong argument", &refused, 2, &[word]);
    }
}

/// The admin port: alive, ready, and metrics that all begin alike.
#[test]
fn the_admin_port_tells_how_it_is() {
    let server = Server::start(BINARY, Deployment::OneProcess, &[]);
    introduce(&server, 1);
    let get = |path: &str| request(server.admin(), "GET", path, None, &[], None);
    assert_eq!((get("/livez").status, get("/readyz").status), (200, 200));
    assert!(get("/readyz").text.contains("io"), "the driver is named");
    let metrics = get("/metrics").text;
    let foreign = metrics.lines().find(|line| {
        !line.is_empty() && !["#", "carillon_", "process_"].iter().any(|prefix| line.starts_with(prefix))
    });
    assert_eq!(foreign, None);
    assert!(metrics.lines().filter(|line| !line.starts_with('#')).count() < 1_500);
    // What the router's thread counts, and what the store does below it.
    for shown in [
        "carillon_router_requests_total{outcome=\"refused\"} ",
        "carillon_store_attempts_total{outcome=\"committed\"} ",
        "carillon_store_log_sync_seconds_count ",
        "carillon_store_failed 0",
    ] {
        assert_eq!(
            metrics.lines().filter(|line| line.starts_with(shown)).count(),
            1,
            "{shown} in\n{metrics}"
        );
    }
    let families: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let distinct: std::collections::BTreeSet<&&str> = families.iter().collect();
    assert_eq!(distinct.len(), families.len(), "{families:?}");
    // Not on the public port.
    for path in ["/metrics", "/livez", "/readyz", "/debug"] {
        assert_eq!(rest(&server, 1, "GET", path, &[], None).status, 404, "{path}");
    }
}

/// F18: SIGTERM says `reconnect`, closes with 1012, ends with 0, and loses nothing.
fn a_drain_says_when_to_come_back(deployment: Deployment, wire: Wire) {
    let mut server = Server::start(BINARY, deployment, &[]);
    introduce(&server, 1);
    introduce(&server, 2);
    let conversation = create(&server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}));
    let mut at_one = Client::login(&server, wire, 1, "phone");
    at_one.until_type("caught_up");
    let acks = at_one.say_all(&conversation, (0..20).map(|n| format!("before the end {n}")));
    assert_eq!(acks.len(), 20);
    let status = server.gateway.as_mut().map(carillon_tests::server::Process::terminate);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    let reconnect = at_one.until_type("reconnect");
    assert_eq!(reconnect["reason"], "drain");
    assert!(reconnect["after_ms"].as_u64().is_some_and(|after_ms| after_ms <= 10_000), "{reconnect}");
    assert_eq!(at_one.until_closed(), 1012);
    if let Some(router) = &mut server.router {
        assert_eq!(router.terminate().code(), Some(0));
        server.start_router();
    }
    server.start_gateway();
    let mut at_two = Client::login(&server, wire, 2, "phone");
    assert_eq!(at_two.events(&conversation, 21).last().map(|event| event.seq), Some(21));
}

#[test]
fn a_drain_says_when_to_come_back_in_one_process() {
    a_drain_says_when_to_come_back(Deployment::OneProcess, Wire::Json);
}

#[test]
fn a_drain_says_when_to_come_back_in_tiers() {
    a_drain_says_when_to_come_back(Deployment::Tiers, Wire::Rkyv);
}

/// The memory engine forgets, and says so; everything else is as with a disk.
#[test]
fn the_memory_engine_serves() {
    let server = Server::start(BINARY, Deployment::OneProcess, &["store.engine=memory"]);
    introduce(&server, 1);
    introduce(&server, 2);
    let conversation = create(&server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}));
    let mut at_one = Client::login(&server, Wire::Json, 1, "phone");
    assert_eq!(at_one.say(&conversation, "for now", "1")["seq"], 2);
    assert!(server.gateway.as_ref().is_some_and(|process| process.log_tail().contains("nothing survives")));
}

/// F11, G14: a byte of the log that changed while nobody looked is refused loudly, with status 74; the byte put back,
/// everything is there.
#[test]
fn a_damaged_store_is_refused_loudly() {
    const NEEDLE: &str = "what was said when the disk was well";
    let mut server = Server::start(BINARY, Deployment::OneProcess, &[]);
    introduce(&server, 1);
    introduce(&server, 2);
    let conversation = create(&server, 1, &json!({"type": "one_to_one", "member_ids": ["2"]}));
    let mut at_one = Client::login(&server, Wire::Json, 1, "phone");
    at_one.say(&conversation, NEEDLE, "the-needle");
    at_one.say_all(&conversation, (0..10).map(|n| format!("and then {n}")));
    // Killed, so that the log is what recovery reads.
    if let Some(process) = &mut server.gateway {
        process.kill();
    }
    let (path, at) =
        find(&server.data_dir().join("store"), NEEDLE.as_bytes()).expect("the message is on the disk");
    let flip = || {
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).expect("written");
    };
    flip();
    let refused = start(&server.data_dir(), &[]);
    assert_refused("damaged", &refused, 74, &["damaged", "store"]);
    flip();
    server.start_gateway();
    let page =
        rest(&server, 2, "GET", &format!("/v1/conversations/{conversation}/messages?after_seq=1"), &[], None);
    assert_eq!(page.body["messages"][0]["content"], NEEDLE, "{page:?}");
}

/// The file below `directory`, and the place in it, where these bytes stand.
fn find(directory: &Path, needle: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, needle) {
                return Some(found);
            }
        } else if let Ok(bytes) = std::fs::read(&path)
            && let Some(at) = bytes.windows(needle.len()).position(|window| window == needle)
        {
            return Some((path, at));
        }
    }
    None
}
