//! `carillon store`: whether a store is whole, copies of it, and what clients hear of one that was restored.

#![expect(clippy::disallowed_methods, reason = "tests read and write files")]

use std::path::{Path, PathBuf};

use carillon_tests::client::{Client, Wire};
use carillon_tests::server::{Deployment, Ended, Server, command};
use carillon_tests::stage::{create, introduce};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-under-test");
const ALICE: u64 = 1_001;
const BOB: u64 = 1_002;

fn store(data_dir: &Path, arguments: &[&str]) -> Ended {
    let data_dir = data_dir.display().to_string();
    let all = [&["store"][..], arguments, &["--data-dir", &data_dir]].concat();
    command(BINARY, &all, &[])
}

/// What `store verify --json` says, and its status.
fn verified(data_dir: &Path) -> (Option<i32>, Value) {
    let ended = store(data_dir, &["verify", "--json"]);
    let document = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.status, document)
}

/// Two people, and a conversation in which one of them has said so much.
fn conversation(server: &Server, said: u64) -> String {
    introduce(server, ALICE);
    introduce(server, BOB);
    let id = create(server, ALICE, &json!({"type": "one_to_one", "member_ids": [BOB.to_string()]}));
    say(server, &id, "first", said);
    id
}

fn say(server: &Server, conversation: &str, what: &str, count: u64) {
    let mut alice = Client::login(server, Wire::Json, ALICE, "phone");
    for number in 0..count {
        let text = format!("{what} {number}");
        alice.say(conversation, &text, &text);
    }
}

/// F30, G14: a copy that a running server made is whole and can be started; a client that knows more than it is told to
/// reset, and hears what comes then.
#[test]
fn f30_a_restored_copy_is_told_by_cursors() {
    for deployment in [Deployment::OneProcess, Deployment::Tiers] {
        let mut server = Server::start(BINARY, deployment, &[]);
        let id = conversation(&server, 3);
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join("copy");
        let path = copy.display().to_string();
        let ended = store(&server.data_dir(), &["backup", &path]);
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("rows"), "{ended:?}");
        say(&server, &id, "second", 4);

        let again = store(&server.data_dir(), &["backup", &path]);
        assert_eq!(again.status, Some(2), "{again:?}");
        assert!(again.stderr.contains("not empty"), "{again:?}");
        let in_use = store(&server.data_dir(), &["verify"]);
        assert_eq!(in_use.status, Some(2), "{in_use:?}");
        assert!(in_use.stderr.contains("in use") && in_use.stderr.contains("store backup"), "{in_use:?}");
        server.stop();

        let (status, document) = verified(&server.data_dir());
        let counts = |document: &Value| {
            [&document["counts"]["messages"], &document["counts"]["users"]].map(Value::as_u64)
        };
        assert_eq!((status, &document["verdict"]), (Some(0), &json!("whole")), "{document}");
        assert_eq!(counts(&document), [Some(7), Some(2)], "{document}");
        let (status, document) = verified(&copy);
        assert_eq!((status, &document["verdict"]), (Some(0), &json!("whole")), "{document}");
        assert_eq!(counts(&document), [Some(3), Some(2)], "{document}");

        let mut restored = Server::start_at(BINARY, deployment, &[], &copy);
        // The beginning and seven messages.
        let mut bob = Client::login_with(&restored, Wire::Json, BOB, "phone", &json!({ id.as_str(): 8 }));
        let reset = bob.past().into_iter().find(|frame| frame["type"] == "reset").expect("a reset");
        assert_eq!((&reset["head_seq"], &reset["reason"]), (&json!(4), &json!("cursor_ahead")), "{reset}");
        say(&restored, &id, "third", 1);
        assert_eq!(bob.until_type("new_message")["message"]["seq"], 5);
        drop(bob);
        restored.stop();
        assert_eq!(verified(&copy).0, Some(0));
    }
}

/// G14, F11: a store that is damaged is said to be, one line for each finding and an exit status for scripts, and is not
/// copied.
#[test]
fn f11_a_damaged_store_is_said_to_be() {
    let mut server = Server::start(BINARY, Deployment::OneProcess, &[]);
    conversation(&server, 20);
    server.stop();
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("copy");
    let path = copy.display().to_string();
    // Without a server the command makes the copy itself.
    let ended = store(&server.data_dir(), &["backup", &path]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(verified(&copy).0, Some(0));

    let log = server.data_dir().join("store/log/00000001.seg");
    flip(&log, 4_096 + 40);
    let ended = store(&server.data_dir(), &["verify"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("damaged: ") && ended.stdout.contains("DAMAGED"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let refused = directory.path().join("refused");
    let ended = store(&server.data_dir(), &["backup", &refused.display().to_string()]);
    assert_eq!(ended.status, Some(74), "{ended:?}");
    assert!(!refused.join("store").exists());

    flip(&table_of(&copy), 100);
    let (status, document) = verified(&copy);
    assert_eq!((status, &document["verdict"]), (Some(1), &json!("damaged")), "{document}");
    assert!(document["findings"][0].as_str().is_some_and(|words| words.contains("checksum")), "{document}");
    let nothing = store(directory.path(), &["verify"]);
    assert_eq!(nothing.status, Some(2), "{nothing:?}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writes");
}

/// A file of the rows' tables.
fn table_of(data_dir: &Path) -> PathBuf {
    let tables = data_dir.join("store/tables/keyspaces/1/tables");
    let mut entries = std::fs::read_dir(tables).expect("a directory");
    entries.next().expect("a table").expect("an entry").path()
}
