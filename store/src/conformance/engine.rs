//! One engine, one lane.

use bytes::Bytes;

use super::{Reopen, clear, commit, get, list, set, snapshot};
use crate::error::{CommitError, ReadError};
use crate::txn::{Abort, Engine, KEY_BYTES_MAX, TXN_BYTES_MAX, VALUE_BYTES_MAX};

pub(super) fn empty(engine: Box<dyn Engine>) {
    let mut read = snapshot(&*engine);
    assert_eq!(get(&mut *read, "a"), None);
    assert_eq!(list(&mut *read, "", "\u{7f}", 10, false), "");
    assert!(engine.lanes_count() >= 1);
}

pub(super) fn committed(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1"), ("b", ""), ("c", "3")]);
    set(&*engine, &[("a", "4")]);
    let mut read = snapshot(&*engine);
    assert_eq!(get(&mut *read, "a").as_deref(), Some("4"));
    assert_eq!(get(&mut *read, "b").as_deref(), Some(""), "an empty value is a value");
    assert_eq!(get(&mut *read, "bb"), None);
    assert_eq!(list(&mut *read, "a", "z", 10, false), "a=4,b=,c=3");
}

pub(super) fn own_writes(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1"), ("b", "2")]);
    commit(&*engine, 0, |txn| {
        assert_eq!(get(txn, "a").as_deref(), Some("1"));
        txn.set(Bytes::from("a"), Bytes::from("3"));
        assert_eq!(get(txn, "a").as_deref(), Some("3"));
        txn.clear(Bytes::from("b"));
        assert_eq!(get(txn, "b"), None);
        txn.set(Bytes::from("b"), Bytes::from("4"));
        assert_eq!(get(txn, "b").as_deref(), Some("4"));
        txn.set(Bytes::from("c"), Bytes::from("5"));
        txn.clear(Bytes::from("c"));
        txn.clear(Bytes::from("never there"));
        assert_eq!(get(txn, "c"), None);
        txn.expect_unchanged(b"a");
    });
    assert_eq!(list(&mut *snapshot(&*engine), "a", "z", 10, false), "a=3,b=4");
}

pub(super) fn ranges(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
    let mut read = snapshot(&*engine);
    let cases = [
        (("b", "d"), 10, false, "b=2,c=3"),
        (("b", "d"), 10, true, "c=3,b=2"),
        (("a", "e\0"), 2, false, "a=1,b=2"),
        (("a", "e\0"), 2, true, "e=5,d=4"),
        (("", "b"), 10, false, "a=1"),
        (("bb", "dd"), 10, true, "d=4,c=3"),
        (("a", "z"), 0, false, ""),
        (("c", "c"), 10, false, ""),
        (("d", "b"), 10, false, ""),
        (("f", "z"), 10, true, ""),
    ];
    for ((from, to), limit, reverse, expected) in cases {
        assert_eq!(
            list(&mut *read, from, to, limit, reverse),
            expected,
            "{from:?}..{to:?} {limit} {reverse}"
        );
        commit(&*engine, 0, |txn| assert_eq!(list(txn, from, to, limit, reverse), expected));
    }
}

pub(super) fn ranges_over_own_writes(engine: Box<dyn Engine>) {
    set(&*engine, &[("b", "2"), ("d", "4"), ("f", "6")]);
    commit(&*engine, 0, |txn| {
        txn.set(Bytes::from("a"), Bytes::from("1"));
        txn.set(Bytes::from("d"), Bytes::from("own"));
        txn.clear(Bytes::from("b"));
        txn.set(Bytes::from("e"), Bytes::from("5"));
        assert_eq!(list(txn, "", "z", 10, false), "a=1,d=own,e=5,f=6");
        assert_eq!(list(txn, "", "z", 2, false), "a=1,d=own", "a removed row does not count");
        assert_eq!(list(txn, "", "z", 3, true), "f=6,e=5,d=own");
        txn.clear(Bytes::from("f"));
        assert_eq!(list(txn, "", "z", 1, true), "e=5");
    });
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "a=1,d=own,e=5");
}

pub(super) fn tombstones(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1"), ("b", "2"), ("c", "3")]);
    clear(&*engine, &["b", "never there"]);
    let mut before = snapshot(&*engine);
    assert_eq!(list(&mut *before, "a", "z", 2, false), "a=1,c=3");
    set(&*engine, &[("b", "4")]);
    assert_eq!(get(&mut *before, "b"), None, "removed then is removed there");
    assert_eq!(list(&mut *snapshot(&*engine), "a", "z", 10, true), "c=3,b=4,a=1");
    clear(&*engine, &["a", "b", "c"]);
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "");
}

pub(super) fn snapshots(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1"), ("b", "1")]);
    let mut old = snapshot(&*engine);
    for round in 2..20 {
        let value = round.to_string();
        set(&*engine, &[("a", &value), ("c", &value)]);
        clear(&*engine, &["b"]);
        let mut new = snapshot(&*engine);
        assert_eq!(
            list(&mut *new, "a", "z", 10, false),
            format!("a={round},c={round}"),
            "durable is visible"
        );
        assert_eq!(list(&mut *old, "a", "z", 10, false), "a=1,b=1");
        assert_eq!(get(&mut *old, "c"), None);
    }
}

pub(super) fn aborts(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1")]);
    let aborted = |abort: fn() -> Abort| {
        let mut runs_count = 0;
        let outcome = engine.commit(0, &mut |txn| {
            runs_count += 1;
            txn.set(Bytes::from("a"), Bytes::from("2"));
            txn.clear(Bytes::from("b"));
            Err(abort())
        });
        assert_eq!(runs_count, 1, "an engine runs a body once");
        outcome
    };
    assert!(matches!(aborted(|| Abort::Fenced), Err(CommitError::Fenced)));
    assert!(matches!(aborted(|| Abort::TooLarge), Err(CommitError::TooLarge)));
    let again = || Abort::Read(ReadError::Again("try".to_owned()));
    assert!(matches!(aborted(again), Err(CommitError::Conflict)));
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "a=1");
    set(&*engine, &[("c", "3")]);
}

pub(super) fn large_rows(engine: Box<dyn Engine>) {
    let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    let value = Bytes::from((0..VALUE_BYTES_MAX).map(|index| (index % 251) as u8).collect::<Vec<_>>());
    commit(&*engine, 0, |txn| txn.set(key.clone(), value.clone()));
    let mut read = snapshot(&*engine);
    assert_eq!(read.get(&key).ok().flatten(), Some(value.clone()));
    assert!(read.range(&key[..1], b"l", 10, true).is_ok_and(|rows| rows == [(key.clone(), value.clone())]));
}

pub(super) fn too_large(engine: Box<dyn Engine>) {
    let value = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let outcome = engine.commit(0, &mut |txn| {
        for index in 0..=TXN_BYTES_MAX / VALUE_BYTES_MAX {
            txn.set(Bytes::from(format!("k{index}")), value.clone());
        }
        Ok(())
    });
    assert!(matches!(outcome, Err(CommitError::TooLarge)), "{outcome:?}");
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "");
    set(&*engine, &[("a", "1")]);
}

pub(super) fn read_only(engine: Box<dyn Engine>) {
    set(&*engine, &[("a", "1")]);
    let mut seen = None;
    commit(&*engine, 0, |txn| seen = get(txn, "a"));
    assert_eq!(seen.as_deref(), Some("1"));
    assert!(engine.idle().is_ok());
    set(&*engine, &[("a", "2")]);
    assert!(engine.close().is_ok());
}

pub(super) fn survives(engine: Box<dyn Engine>, reopen: &mut Reopen<'_>) {
    set(&*engine, &[("a", "1"), ("b", "2"), ("c", "3")]);
    clear(&*engine, &["b"]);
    set(&*engine, &[("c", "4")]);
    let engine = reopen(engine);
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "a=1,c=4");
    set(&*engine, &[("b", "5")]);
    let engine = reopen(engine);
    let engine = reopen(engine);
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 10, false), "a=1,b=5,c=4");
}
