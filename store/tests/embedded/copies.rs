//! Backups: a copy is of one moment, whole, and a store that can be started.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::draws::random_batch;
use super::support::{Batch, Rng, apply, commit, contents, options, scratch};
use bytes::Bytes;
use carillon_store::backend::embedded::{CopyError, Embedded, Options, Stopped, Upkeep, copy};
use carillon_store::txn::Engine;

/// Of a store with an overlay and several runs; and the copy goes its own way afterwards.
#[test]
fn a_copy_is_a_store() {
    let (dir, into) = (scratch(), scratch());
    let into = into.path().join("copy");
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let mut rng = Rng(31);
    let mut model = super::support::Model::new();
    for _ in 0..200 {
        let batch = random_batch(&mut rng, 12, 200);
        commit(&engine, &batch).expect("commits");
        apply(&mut model, &batch);
    }
    let copied = copy(&mut *engine.snapshot().expect("a snapshot"), &into, 0, &mut |_| true).expect("copies");
    assert_eq!(copied.rows, model.len() as u64);
    let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(copied.bytes, bytes as u64);

    let store = into.join("store");
    let wrong = Stopped::hold(&store).and_then(|stopped| stopped.check_files(&mut |_| {}));
    assert_eq!(wrong.expect("looked at"), Vec::<String>::new());
    for round in 0..3 {
        let copy = Embedded::open(&store, options()).expect("opens");
        assert_eq!(contents(&copy), model, "round {round}");
        let batch = random_batch(&mut rng, 12, 200);
        commit(&copy, &batch).expect("commits");
        apply(&mut model, &batch);
        if round == 1 {
            copy.close().expect("closes");
        }
    }
    assert_ne!(contents(&engine), model, "the original knows nothing of it");
}

/// While commits go on: each writes two rows that are the same, far apart; so they are in the copy.
#[test]
fn a_copy_is_of_one_moment() {
    let (dir, into) = (scratch(), scratch());
    let upkeep = Upkeep::Background;
    let engine = Embedded::open(dir.path(), Options { upkeep, ..options() }).expect("opens");
    let batch = |round: u64| {
        let value = Bytes::from(round.to_be_bytes().repeat(20));
        let row = |key: String| (Bytes::from(key), Some(value.clone()));
        Batch::from([row("c/first".to_owned()), row(format!("m/{round:05}")), row("z/last".to_owned())])
    };
    let is_over = AtomicBool::new(false);
    let first = 600;
    (1..=first).for_each(|round| commit(&engine, &batch(round)).expect("commits"));
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| {
            let mut round = first;
            while !is_over.load(Relaxed) {
                round += 1;
                commit(&engine, &batch(round)).expect("commits");
            }
            round
        });
        for number in 0..3 {
            let into = into.path().join(number.to_string());
            copy(&mut *engine.snapshot().expect("a snapshot"), &into, 0, &mut |_| true).expect("copies");
        }
        is_over.store(true, Relaxed);
        assert!(committing.join().expect("commits") > first + 3, "nothing was committed meanwhile");
    });
    for number in 0..3 {
        let copy = Embedded::open(&into.path().join(format!("{number}/store")), options()).expect("opens");
        let rows = contents(&copy);
        let last = u64::from_be_bytes(rows[&b"z/last"[..]][..8].try_into().expect("eight bytes"));
        let mut expected = super::support::Model::new();
        (1..=last).for_each(|round| apply(&mut expected, &batch(round)));
        assert_eq!(rows, expected, "copy {number}");
    }
}

/// What is not whole does not look like a store, and nothing is written over.
#[test]
fn a_copy_is_there_as_a_whole_or_not_at_all() {
    let (dir, into) = (scratch(), scratch());
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let mut rng = Rng(33);
    for _ in 0..200 {
        commit(&engine, &random_batch(&mut rng, 12, 200)).expect("commits");
    }
    let mut read = engine.snapshot().expect("a snapshot");
    let given_up = into.path().join("given-up");
    assert!(matches!(copy(&mut *read, &given_up, 0, &mut |_| false), Err(CopyError::GivenUp)));
    assert!(!given_up.join("store").exists());
    let again = copy(&mut *read, &given_up, 0, &mut |_| true);
    assert!(matches!(again, Err(CopyError::NotEmpty(_))), "{again:?}");
    let full = copy(&mut *read, &into.path().join("full"), u64::MAX, &mut |_| true);
    assert!(matches!(full, Err(CopyError::Full { .. })), "{full:?}");
    assert!(!into.path().join("full/store").exists());
    let nowhere = copy(&mut *read, &into.path().join("a/b/c"), 0, &mut |_| true);
    assert!(matches!(nowhere, Err(CopyError::Write(_))), "{nowhere:?}");
}
