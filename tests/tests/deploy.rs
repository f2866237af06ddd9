//! The deployments of deploy/, started by the command that its README names, and the certificates made by its commands.

#![expect(clippy::disallowed_methods, reason = "tests start processes, read files and wait for deadlines")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use carillon_tests::client::{Client, Transport};
use carillon_tests::http::request;
use carillon_tests::server::Deployment::Tiers;
use carillon_tests::server::{PATIENCE, Server, command, development_token};
use carillon_tests::stage::introduce;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A deployment that was started by its `up`.
struct Up {
    up: Child,
    state: TempDir,
    /// What `up` has said so far.
    said: crossbeam_channel::Receiver<String>,
    pids: Vec<(String, Pid)>,
}

impl Up {
    /// Starts it on a loopback address that nobody else has, and waits until it says how it is ended.
    fn start(name: &str) -> Up {
        let state = tempfile::tempdir().expect("a directory");
        // Its ports are fixed; the addresses of two processes that run now differ.
        let [.., high, middle, low] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{middle}.{low}", 128 | high);
        let mut up = Command::new(deploy().join(name).join("up"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CARILLON", BINARY)
            .env("STATE", state.path())
            .env("ADDRESS", address)
            // As for all servers of tests: the disk of a machine that tests may be small.
            .env("CARILLON_STORE__SEGMENT_BYTES", "4194304")
            .env("CARILLON_STORE__RESERVE_BYTES", "1048576")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("up starts");
        let lines = BufReader::new(up.stdout.take().expect("piped")).lines();
        let (sender, said) = crossbeam_channel::unbounded();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut deployment = Up { up, state, said, pids: Vec::new() };
        deployment.until_said("Ctrl-C ends everything");
        deployment
    }

    /// Reads what it says up to a line with these words, and keeps the process ids in it.
    fn until_said(&mut self, words: &str) {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{words} was not said"));
            if let Some((name, rest)) = line.split_once(" is ready (process ") {
                let pid = rest.trim_end_matches(')').parse().ok().and_then(Pid::from_raw);
                self.pids.push((name.to_owned(), pid.expect("a process id")));
            }
            if line.contains(words) {
                return;
            }
        }
    }

    fn pid(&self, name: &str) -> Pid {
        self.pids.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// An address of a process's ready line.
    fn address(&self, name: &str, door: &str) -> SocketAddr {
        let line = std::fs::read_to_string(self.state.path().join(format!("{name}.ready"))).expect("ready");
        let ready: Value = serde_json::from_str(&line).expect("a ready line");
        ready[door].as_str().and_then(|address| address.parse().ok()).expect("an address")
    }

    fn token(&self, user: u64) -> String {
        development_token(&self.state.path().join("data"), user, "phone", 3_600, "")
    }

    /// Connects to a gateway, and is live there.
    fn live(&self, gateway: &str, user: u64, cursors: &Value) -> Client {
        let address = self.address(gateway, "gateway");
        let mut client =
            Client::connect(address, Transport::Json, Some(&self.token(user))).expect("connected");
        client.send(&json!({"type": "identify", "cursors": cursors}));
        client
    }

    /// Waits until the page of metrics of a process says this.
    fn until_measured(&self, name: &str, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = request(self.address(name, "admin"), "GET", "/metrics", None, &[], None).text;
            if page.lines().any(|shown| shown == line) {
                return;
            }
            let links: Vec<&str> = page.lines().filter(|line| line.starts_with("carillon_link")).collect();
            assert!(Instant::now() < deadline, "{name} never measured {line} but {links:#?}");
            // What went over links is published twice a second.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As Ctrl-C in its terminal.
    fn end(&mut self) -> ExitStatus {
        if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.up.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "up does not end");
            // There is no portable wait with a deadline; this polls the process table.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["router", "gateway-1", "gateway-2"] {
                let log = self.state.path().join(format!("{log}.log"));
                eprintln!("--- {}:\n{}", log.display(), std::fs::read_to_string(&log).unwrap_or_default());
            }
            if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
            for (_, pid) in &self.pids {
                let _ = kill_process(*pid, Signal::KILL);
            }
            let _ = self.up.wait();
        }
    }
}

fn content(frame: &Value) -> &str {
    frame["message"]["content"].as_str().unwrap_or_default()
}

/// SV1, SC3, FU2: one command starts two gateways and a router. Two people chat across the gateways; one gateway is killed,
/// and who was there goes on at the other, where what was said meanwhile waits. Then everything ends in order.
#[test]
fn sv1_the_embedded_deployment_goes_on_when_a_gateway_is_killed() {
    let mut deployment = Up::start("embedded");
    let (mut alice, mut bob) =
        (deployment.live("gateway-1", 1, &json!({})), deployment.live("gateway-2", 2, &json!({})));
    alice.until_type("caught_up");
    bob.until_type("caught_up");
    let wish = json!({"type": "one_to_one", "member_ids": ["2"]});
    let (gateway, token) = (deployment.address("gateway-1", "gateway"), deployment.token(1));
    let created = request(gateway, "POST", "/v1/conversations", Some(&token), &[], Some(&wish));
    let conversation = created.body["conversation_id"].as_str().expect("a conversation").to_owned();
    let asked = alice.say(&conversation, "are you there?", "a-1");
    assert_eq!(content(&bob.until_type("new_message")), "are you there?");
    bob.say(&conversation, "always", "b-1");
    assert_eq!(content(&alice.until_type("new_message")), "always");
    let cursors = json!({ conversation.as_str(): asked["seq"].as_u64().expect("a seq") + 1 });
    deployment.until_measured("gateway-1", "carillon_link_connections_total{peer=\"router\"} 1");
    deployment.until_measured("router", "carillon_link_connections_total{peer=\"gateway\"} 2");

    kill_process(deployment.pid("gateway-1"), Signal::KILL).expect("killed");
    alice.until_closed();
    bob.say(&conversation, "still there?", "b-2");
    let mut alice = deployment.live("gateway-2", 1, &cursors);
    let missed = alice.events(&conversation, 1);
    assert_eq!(missed[0].content, "still there?");
    alice.until_type("caught_up");
    alice.say(&conversation, "yes", "a-2");
    assert_eq!(content(&bob.until_type("new_message")), "yes");

    assert_eq!(deployment.end().code(), Some(130));
    deployment.until_said("router has ended");
    for (name, pid) in &deployment.pids {
        assert!(test_kill_process(*pid).is_err(), "{name} is left");
    }
}

/// Every settings file of every deployment is one that can work.
#[test]
fn the_settings_can_work() {
    let mut checked = 0;
    for deployment in ["embedded", "foundationdb"] {
        for file in std::fs::read_dir(deploy().join(deployment)).expect("a deployment") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let path = path.display().to_string();
                let ended = command(BINARY, &["config", "check", "--config", &path], &[]);
                assert_eq!(ended.status, Some(0), "{path}: {}", ended.stderr);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 7);
}

/// The README's commands make certificates with which gateways reach routers, and routers may connect as well as listen.
/// (Where there is no OpenSSL, nobody can follow them either.)
#[test]
fn the_readmes_certificates_are_good() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("not checked: there is no openssl here");
        return;
    }
    let readme = std::fs::read_to_string(deploy().join("README.md")).expect("README.md");
    let (_, rest) = readme.split_once("```sh\n").expect("commands");
    let (commands, _) = rest.split_once("```").expect("their end");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(deploy().join("openssl.cnf"), directory.path().join("openssl.cnf")).expect("copied");
    let made = Command::new("sh").args(["-ec", commands]).current_dir(directory.path()).output().expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (certificate, purpose) in
        [("router.pem", "sslserver"), ("router.pem", "sslclient"), ("gateway.pem", "sslclient")]
    {
        let verified = Command::new("openssl")
            .args(["verify", "-purpose", purpose, "-CAfile", "ca.pem", certificate])
            .current_dir(directory.path())
            .output()
            .expect("openssl");
        assert!(verified.status.success(), "{certificate} {}", String::from_utf8_lossy(&verified.stderr));
    }
    // The router answers through the gateway.
    let setting = format!("tls.dir={}", directory.path().display());
    introduce(&Server::start(BINARY, Tiers, &[&setting]), 1);
}
