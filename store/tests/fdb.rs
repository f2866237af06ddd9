//! The conformance suite on a real FoundationDB cluster (DB1, DC4, F4): where `CARILLON_TEST_FDB_CLUSTER` names a cluster
//! file. Each check has a store of its own, whose rows are cleared when it is done.

#![expect(clippy::disallowed_methods, reason = "that time has passed is what some of these are about")]

mod cluster;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use carillon_protocol::ids::ConversationId;
use carillon_protocol::placement::{lane_of_slot, slot_of_conversation};
use carillon_protocol::record::Event;
use carillon_store::backend::fdb::codes::{self, Meaning};
use carillon_store::backend::fdb::{BODY_MAX, Fdb, Options, TXN_MS_MAX};
use carillon_store::conformance;
use carillon_store::conformance::world::{World, send};
use carillon_store::error::{CommitError, OpenError, ReadError};
use carillon_store::figures::{self, Outcome as Became};
use carillon_store::ops::Context;
use carillon_store::retry::commit_batch;
use carillon_store::txn::{Engine, TXN_BYTES_MAX, Txn};
use carillon_store::verb::{Op, Outcome};
use cluster::{Cleared, cluster_file, name, open};

fn fresh(cluster_file: &str) -> Cleared {
    Cleared(open(cluster_file, &name()))
}

fn commit(engine: &dyn Engine, mut body: impl FnMut(&mut dyn Txn)) {
    let committed = engine.commit(0, &mut |txn| {
        body(txn);
        Ok(())
    });
    assert!(committed.is_ok(), "{committed:?}");
}

/// DB1, DC4: the engine of a cluster passes the suite of every engine.
#[test]
fn db1_foundationdb_conforms() {
    let Some(cluster_file) = cluster_file() else { return };
    conformance::run(&mut || Box::new(fresh(&cluster_file)));
}

/// Two stores of one cluster, one's name in front of the other's: neither sees the other, however far it looks.
#[test]
fn db1_stores_of_one_cluster_do_not_meet() {
    let Some(cluster_file) = cluster_file() else { return };
    let name = name();
    let stores = [&name, &format!("{name}2")].map(|name| Cleared(open(&cluster_file, name)));
    for (store, value) in stores.iter().zip(["one", "other"]) {
        commit(store, |txn| txn.set(Bytes::from("a"), Bytes::from(value)));
    }
    for (store, value) in stores.iter().zip(["one", "other"]) {
        let all = store.snapshot().unwrap().range(b"", b"\xff\xff\xff", 10, false).unwrap();
        assert_eq!(all, [(Bytes::from("a"), Bytes::from(value))]);
    }
}

/// What is fetched ahead is what would have been read: own writes are in front of it.
#[test]
fn db1_what_is_fetched_ahead_is_what_is_there() {
    let Some(cluster_file) = cluster_file() else { return };
    let store = fresh(&cluster_file);
    let (a, b, c) = (Bytes::from("a"), Bytes::from("b"), Bytes::from("c"));
    commit(&store, |txn| {
        txn.set(a.clone(), Bytes::from("1"));
        txn.set(b.clone(), Bytes::new());
    });
    commit(&store, |txn| {
        txn.prefetch(&[a.clone(), b.clone(), c.clone()]);
        txn.set(a.clone(), Bytes::from("2"));
        assert_eq!(txn.get(&a).unwrap(), Some(Bytes::from("2")));
        assert_eq!(txn.get(&b).unwrap(), Some(Bytes::new()));
        assert_eq!(txn.get(&c).unwrap(), None);
        txn.set(c.clone(), Bytes::new());
        let rows = txn.range(b"a", b"z", 9, false).unwrap();
        assert_eq!(
            rows[1..],
            [(b.clone(), Bytes::new()), (c.clone(), Bytes::new())],
            "empty values are values"
        );
    });
    // A row that was fetched ahead and read is relied on like any other.
    let outcome = store.commit(0, &mut |txn| {
        txn.prefetch(std::slice::from_ref(&a));
        assert!(txn.get(&a).unwrap().is_some());
        let meanwhile = store.commit(1, &mut |other| {
            other.set(a.clone(), Bytes::from("3"));
            Ok(())
        });
        assert!(meanwhile.is_ok());
        txn.set(b.clone(), Bytes::from("4"));
        Ok(())
    });
    assert!(matches!(outcome, Err(CommitError::Conflict)), "{outcome:?}");
    assert_eq!(figures::read(&store.figures(), "store_attempts", Some(Became::Conflict)), 1);
    commit(&store, |_| {});
    assert_eq!(figures::read(&store.figures(), "store_retries", None), 1);
}

/// What is fetched ahead and not asked for is not relied on.
#[test]
fn db1_what_is_fetched_ahead_in_vain_is_not_relied_on() {
    let Some(cluster_file) = cluster_file() else { return };
    let store = fresh(&cluster_file);
    let (a, b) = (Bytes::from("a"), Bytes::from("b"));
    commit(&store, |txn| txn.set(a.clone(), Bytes::from("1")));
    let outcome = store.commit(0, &mut |txn| {
        txn.prefetch(&[a.clone(), b.clone()]);
        assert_eq!(txn.get(&b)?, None);
        let meanwhile = store.commit(1, &mut |other| {
            other.set(a.clone(), Bytes::from("2"));
            Ok(())
        });
        assert!(meanwhile.is_ok());
        txn.set(b.clone(), Bytes::from("3"));
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// F4: the client that we run with calls no error retryable, or perhaps committed, that our table does not know as such.
#[test]
fn f4_the_table_says_at_least_what_this_client_says() {
    let mut retryable_count = 0;
    for code in 1..10_000 {
        let error = foundationdb::FdbError::from_code(code);
        let meaning = codes::meaning(code);
        if error.is_maybe_committed() {
            assert_eq!(meaning, Meaning::MaybeCommitted, "{code}: {}", error.message());
        }
        if error.is_retryable() {
            retryable_count += 1;
            assert!(
                matches!(meaning, Meaning::MaybeCommitted | Meaning::NotCommitted),
                "{code}: {}",
                error.message()
            );
        }
    }
    assert!(retryable_count >= 12, "{retryable_count} are fewer than FoundationDB 7.3 has");
}

/// A cluster that does not answer is told as such, before long, with what to look for.
#[test]
fn g14_a_cluster_that_does_not_answer_is_told() {
    let Some(_) = cluster_file() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fdb.cluster");
    // Nobody listens there.
    std::fs::write(&path, "nobody:nobody@127.0.0.1:1\n").unwrap();
    let options = Options { cluster_file: path.display().to_string(), key_prefix: name() };
    match Fdb::open(&options) {
        Err(OpenError::Unreachable(sentence)) => {
            assert!(sentence.contains("fdb.cluster") && sentence.contains("coordinators"), "{sentence}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

/// F23: a body that takes longer than a transaction lives is not committed, and called slow.
#[test]
fn f23_a_slow_body_is_not_committed() {
    let Some(cluster_file) = cluster_file() else { return };
    let store = fresh(&cluster_file);
    let outcome = store.commit(0, &mut |txn| {
        txn.set(Bytes::from("a"), Bytes::from("1"));
        // That time has passed is what is tested.
        std::thread::sleep(BODY_MAX + Duration::from_millis(100));
        assert!(matches!(txn.get(b"b"), Err(ReadError::Again(_))), "there is no time left");
        Ok(())
    });
    assert!(matches!(outcome, Err(CommitError::Slow)), "{outcome:?}");
    assert_eq!(store.snapshot().unwrap().get(b"a").unwrap(), None);
}

/// F23: many small rows are more to FoundationDB, which counts what a transaction relies on as well, than to us. What is too
/// much for it alone is split like what is too much for us.
#[test]
fn f23_more_than_foundationdb_takes_is_to_be_split() {
    const ROWS: u32 = 60_000;
    let Some(cluster_file) = cluster_file() else { return };
    let store = fresh(&cluster_file);
    let row = |number: u32| Bytes::from(format!("{number:040}"));
    let write = |from: u32, to: u32| {
        store.commit(0, &mut |txn| {
            (from..to).for_each(|number| txn.set(row(number), Bytes::new()));
            Ok(())
        })
    };
    assert!((ROWS as usize) * row(0).len() < TXN_BYTES_MAX, "we take it");
    let whole = write(0, ROWS);
    assert!(matches!(whole, Err(CommitError::TooLarge)), "{whole:?}");
    assert_eq!(store.snapshot().unwrap().range(b"", b"\xff", 1, false).unwrap(), []);
    let part = write(0, ROWS / 8);
    assert!(part.is_ok(), "{part:?}");
}

/// A snapshot that is too old says so, and never that there is nothing.
#[test]
fn f4_an_old_snapshot_is_to_be_opened_again() {
    let Some(cluster_file) = cluster_file() else { return };
    let store = fresh(&cluster_file);
    commit(&store, |txn| txn.set(Bytes::from("a"), Bytes::from("1")));
    let mut old = store.snapshot().unwrap();
    assert!(old.get(b"a").unwrap().is_some());
    // The age of a snapshot is what is tested.
    std::thread::sleep(Duration::from_millis(u64::from(TXN_MS_MAX) + 500));
    assert!(matches!(old.get(b"a"), Err(ReadError::Again(_))));
    assert!(matches!(old.range(b"", b"z", 9, false), Err(ReadError::Again(_))));
    drop(old);
    assert!(store.snapshot().unwrap().get(b"a").unwrap().is_some());
}

/// OR5: sixteen lanes at once, with a thread each: every message is in its log once and in order.
#[test]
fn or5_sixteen_lanes_at_once() {
    const BATCHES: u64 = 20;
    const BATCH_OPS: u64 = 5;
    let Some(cluster_file) = cluster_file() else { return };
    let store = Arc::new(fresh(&cluster_file));
    let mut world = World::begin(Arc::clone(&store) as Arc<dyn Engine>);
    let mut groups = BTreeMap::new();
    for number in 1_000.. {
        let lane = lane_of_slot(slot_of_conversation(ConversationId(number)), store.lanes_count());
        if let Entry::Vacant(free) = groups.entry(lane) {
            free.insert(world.group(number, &[1, 2]));
        }
        if groups.len() == usize::from(store.lanes_count()) {
            break;
        }
    }
    std::thread::scope(|scope| {
        for (lane, group) in &groups {
            let (mut ids, store) = (world.ids(*lane), &store);
            let (now, incarnation) = (world.now, world.incarnation);
            scope.spawn(move || {
                for batch in 0..BATCHES {
                    let text = |index: u64| (batch * BATCH_OPS + index).to_string();
                    let ops: Vec<Op> = (0..BATCH_OPS)
                        .map(|index| send(1 + index % 2, *group, &text(index), &text(index)))
                        .collect();
                    let mut context = Context { now, incarnation, ids: &mut ids, members_max: 10 };
                    for result in commit_batch(&**store, *lane, &mut context, &ops, &mut |_| {}) {
                        assert!(matches!(result, Ok(Outcome::Appended(appended)) if !appended.duplicate));
                    }
                }
            });
        }
    });
    for group in groups.values() {
        let log = world.log(2, *group);
        let found: Vec<String> = log.entries[1..]
            .iter()
            .map(|entry| Event::decode(&entry.record).unwrap().client_msg_id.into_owned())
            .collect();
        let expected: Vec<String> = (0..BATCHES * BATCH_OPS).map(|index| index.to_string()).collect();
        assert_eq!(found, expected, "{group:?}");
    }
}

/// G15: of two routers on one store, the later is the owner.
#[test]
fn g15_a_second_router_deposes_the_first() {
    let Some(cluster_file) = cluster_file() else { return };
    let name = name();
    let mut first = World::begin(Arc::new(Cleared(open(&cluster_file, &name))) as Arc<dyn Engine>);
    let group = ConversationId(10);
    first.group(group.0, &[1, 2]);
    let mut second = World::begin(Arc::new(open(&cluster_file, &name)) as Arc<dyn Engine>);
    assert!(first.try_commit(&[send(1, group, "a", "x")])[0].is_err(), "deposed");
    assert_eq!(second.append(send(1, group, "a", "x")).seq, 2);
    assert_eq!(second.seqs(2, group), [1, 2]);
}

/// In the process that this test starts: every lane commits without end, and the process exits in the middle of it.
const EXITING: &str = "CARILLON_TEST_FDB_EXITING";
const EXITING_STATUS: i32 = 74;
const EXITS_COUNT: usize = 5;

/// G14: a process that has used the store ends with the status it wants to end with, whichever thread ends it and whatever
/// the others are doing. FoundationDB's client has to be stopped for that.
#[test]
fn g14_a_process_ends_as_it_wants() {
    let Some(cluster_file) = cluster_file() else { return };
    if std::env::var_os(EXITING).is_some() {
        exit_under_load(&fresh(&cluster_file));
    }
    let ends = |test: &str, is_exiting: bool| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test]).stdout(std::process::Stdio::null());
        if is_exiting {
            child.env(EXITING, "1");
        }
        child.status().unwrap()
    };
    let ended = ends("db1_stores_of_one_cluster_do_not_meet", false);
    assert_eq!(ended.code(), Some(0), "after main has returned: {ended}");
    for _ in 0..EXITS_COUNT {
        let ended = ends("g14_a_process_ends_as_it_wants", true);
        assert_eq!(ended.code(), Some(EXITING_STATUS), "under load: {ended}");
    }
}

fn exit_under_load(store: &Cleared) -> ! {
    const COMMITS_BEFORE: u32 = 100;
    let committed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for lane in 0..store.lanes_count() {
            let committed = &committed;
            scope.spawn(move || {
                loop {
                    let _ = store.commit(lane, &mut |txn| {
                        let key = Bytes::from(vec![u8::try_from(lane).unwrap()]);
                        txn.get(&key)?;
                        // Leaves nothing behind.
                        txn.clear(key);
                        Ok(())
                    });
                    if committed.fetch_add(1, Ordering::Relaxed) == COMMITS_BEFORE {
                        std::process::exit(EXITING_STATUS);
                    }
                }
            });
        }
    });
    unreachable!("the process has ended")
}

/// Settings that cannot work are refused with what to do.
#[test]
fn bad_settings_are_told() {
    let refused = |cluster_file: &str, key_prefix: &str| {
        let options = Options { cluster_file: cluster_file.to_owned(), key_prefix: key_prefix.to_owned() };
        match Fdb::open(&options) {
            Err(OpenError::Setting(sentence)) => sentence,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened"),
        }
    };
    assert!(refused("", "").contains("store.key_prefix"));
    if cluster_file().is_some() {
        let sentence = refused("no such file", "carillon");
        assert!(sentence.contains("store.cluster_file") && sentence.contains("no such file"), "{sentence}");
    }
}
