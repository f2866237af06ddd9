//! Several lanes at once. A commit that runs inside the body of another one is the same as two side by side, and needs no
//! threads; with a single lane there is nothing to check.

use bytes::Bytes;

use super::{clear, commit, get, list, set, snapshot};
use crate::error::CommitError;
use crate::txn::{Engine, Txn};

/// What the outer transaction relies on, what happens meanwhile, and whether it still may commit.
struct Case {
    name: &'static str,
    relies: fn(&mut dyn Txn),
    meanwhile: fn(&dyn Engine),
    commits: bool,
}

pub(super) fn serializable(engine: Box<dyn Engine>) {
    if engine.lanes_count() < 2 {
        return;
    }
    let cases = [
        Case {
            name: "a read row changed",
            relies: read_a,
            meanwhile: |engine| write(engine, "a"),
            commits: false,
        },
        Case { name: "a read row is written as it was", relies: read_a, meanwhile: same_a, commits: false },
        Case {
            name: "an absent row came",
            relies: |txn| drop(get(txn, "x")),
            meanwhile: |engine| write(engine, "x"),
            commits: false,
        },
        Case {
            name: "an expected row changed",
            relies: |txn| txn.expect_unchanged(b"a"),
            meanwhile: |engine| write(engine, "a"),
            commits: false,
        },
        Case {
            name: "a row came into a range",
            relies: |txn| drop(list(txn, "a", "e", 9, false)),
            meanwhile: |engine| write(engine, "bb"),
            commits: false,
        },
        Case {
            name: "a row of a range went",
            relies: |txn| drop(list(txn, "a", "e", 9, true)),
            meanwhile: remove_c,
            commits: false,
        },
        Case {
            name: "a row came behind what was seen",
            relies: |txn| drop(list(txn, "a", "e", 2, false)),
            meanwhile: |engine| write(engine, "d"),
            commits: true,
        },
        Case {
            name: "a row came below what was seen",
            relies: |txn| drop(list(txn, "a", "e", 1, true)),
            meanwhile: |engine| write(engine, "b"),
            commits: true,
        },
        Case {
            name: "another row changed",
            relies: read_a,
            meanwhile: |engine| write(engine, "b"),
            commits: true,
        },
        Case {
            name: "a row was written blindly",
            relies: |_| {},
            meanwhile: |engine| write(engine, "out"),
            commits: true,
        },
    ];
    for case in cases {
        set(&*engine, &[("a", "1"), ("b", "2"), ("c", "3"), ("out", "0")]);
        clear(&*engine, &["x", "bb", "d"]);
        let outcome = engine.commit(0, &mut |txn| {
            (case.relies)(txn);
            (case.meanwhile)(&*engine);
            (case.relies)(txn);
            txn.set(Bytes::from("out"), Bytes::from("outer"));
            Ok(())
        });
        let out = get(&mut *snapshot(&*engine), "out");
        if case.commits {
            assert!(outcome.is_ok(), "{}: {outcome:?}", case.name);
            assert_eq!(out.as_deref(), Some("outer"), "{}: the later commit wins", case.name);
        } else {
            assert!(matches!(outcome, Err(CommitError::Conflict)), "{}: {outcome:?}", case.name);
            assert_eq!(out.as_deref(), Some("0"), "{}", case.name);
        }
    }
}

/// A transaction reads one version throughout, also what was committed while it ran.
pub(super) fn disjoint(engine: Box<dyn Engine>) {
    if engine.lanes_count() < 2 {
        return;
    }
    set(&*engine, &[("a", "1"), ("b", "2")]);
    let outcome = engine.commit(0, &mut |txn| {
        assert_eq!(get(txn, "a").as_deref(), Some("1"));
        commit(&*engine, 1, |other| {
            assert_eq!(get(other, "b").as_deref(), Some("2"));
            other.set(Bytes::from("b"), Bytes::from("3"));
            other.set(Bytes::from("c"), Bytes::from("3"));
        });
        txn.set(Bytes::from("a"), Bytes::from("4"));
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(list(&mut *snapshot(&*engine), "", "z", 9, false), "a=4,b=3,c=3");
}

fn read_a(txn: &mut dyn Txn) {
    assert_eq!(get(txn, "a").as_deref(), Some("1"));
}

fn write(engine: &dyn Engine, key: &'static str) {
    commit(engine, 1, |txn| txn.set(Bytes::from(key), Bytes::from("meanwhile")));
}

fn same_a(engine: &dyn Engine) {
    commit(engine, 1, |txn| txn.set(Bytes::from("a"), Bytes::from("1")));
}

fn remove_c(engine: &dyn Engine) {
    commit(engine, 1, |txn| txn.clear(Bytes::from("c")));
}
