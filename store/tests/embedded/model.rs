//! The embedded engine against a map: transactions, ranges, snapshots, reopening, runs written and segments turned over.

use super::draws::random_batch;
use super::support::{Batch, Model, Rng, all_rows, apply, commit, contents, each_seed, options, scratch};
use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options, Upkeep};
use carillon_store::error::{CommitError, OpenError};
use carillon_store::figures::read;
use carillon_store::txn::{Abort, Engine, Read, TXN_BYTES_MAX, Txn};

/// Compares random ranges, both ways and limited, and random keys.
fn check(view: &mut dyn Read, model: &Model, rng: &mut Rng) {
    for _ in 0..3 {
        let mut key =
            || Bytes::from(format!("{}/{:03}", ["a", "c", "h", "zz"][rng.below(4) as usize], rng.below(60)));
        let (from, to) = (key(), key());
        let limit = [1, 2, 7, usize::MAX][rng.below(4) as usize];
        let reverse = rng.chance(50);
        let rows = view.range(&from, &to, limit, reverse).expect("a range");
        let range = model.iter().filter(|(key, _)| **key >= from && **key < to);
        let mut expected: Vec<_> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
        if reverse {
            expected.reverse();
        }
        expected.truncate(limit);
        assert_eq!(rows, expected, "{from:?}..{to:?} limit {limit} reverse {reverse}");
        assert_eq!(view.get(&from).expect("a get"), model.get(&from).cloned(), "{from:?}");
    }
}

fn model_case(seed: u64, upkeep: Upkeep) {
    let mut rng = Rng(seed);
    let dir = scratch();
    let options = Options { upkeep, ..options() };
    let mut engine = Embedded::open(dir.path(), options.clone()).expect("opens");
    let mut model = Model::new();
    for _ in 0..rng.below(3) {
        let mut snapshots = Vec::new();
        for _ in 0..20 + rng.below(60) {
            let batch = random_batch(&mut rng, 20, 200);
            // What the transaction sees while it is built: its own writes over everything before.
            let mut seen = model.clone();
            let mut inner = rng.clone();
            engine
                .commit(0, &mut |txn| {
                    for (key, value) in &batch {
                        match value {
                            Some(value) => txn.set(key.clone(), value.clone()),
                            None => txn.clear(key.clone()),
                        }
                        apply(&mut seen, &Batch::from([(key.clone(), value.clone())]));
                    }
                    check_txn(txn, &seen, &mut inner);
                    Ok(())
                })
                .expect("commits");
            apply(&mut model, &batch);
            if rng.chance(10) {
                snapshots.push((engine.snapshot().expect("a snapshot"), model.clone()));
            }
            if rng.chance(20) && !snapshots.is_empty() {
                let index = rng.below(snapshots.len() as u64) as usize;
                let (mut view, model) = snapshots.swap_remove(index);
                check(&mut *view, &model, &mut rng);
                assert_eq!(all_rows(&mut *view), model, "a snapshot stays as it was");
            }
            if rng.chance(5) {
                engine.idle().expect("an empty record");
            }
        }
        check(&mut *engine.snapshot().expect("a snapshot"), &model, &mut rng);
        for (mut view, model) in snapshots {
            assert_eq!(all_rows(&mut *view), model, "a snapshot stays as it was");
        }
        if rng.chance(50) {
            engine.close().expect("closes");
        }
        drop(engine);
        engine = Embedded::open(dir.path(), options.clone()).expect("opens again");
        assert_eq!(contents(&engine), model, "after reopening");
    }
}

fn check_txn(txn: &mut dyn Txn, model: &Model, rng: &mut Rng) {
    let rows: Model = txn.range(b"", b"\xff", usize::MAX, false).expect("a range").into_iter().collect();
    assert_eq!(&rows, model, "a transaction sees its own writes");
    check(txn, model, rng);
}

/// G1, G4: with the background done inline, so that a seed repeats exactly.
#[test]
fn g1_g4_behaves_like_a_map() {
    each_seed("g1_g4_behaves_like_a_map", 1, 40, |seed| model_case(seed, Upkeep::Inline));
}

/// The same with the real threads.
#[test]
fn g1_g4_behaves_like_a_map_with_threads() {
    each_seed("g1_g4_behaves_like_a_map_with_threads", 1000, 10, |seed| model_case(seed, Upkeep::Background));
}

/// Readers on other threads see whole commits only, in order, while runs are written underneath.
#[test]
fn g3_g4_snapshots_never_see_half_a_commit() {
    let dir = scratch();
    let engine =
        Embedded::open(dir.path(), Options { upkeep: Upkeep::Background, ..options() }).expect("opens");
    let keys: Vec<Bytes> = (0..40).map(|index| Bytes::from(format!("k/{index:02}"))).collect();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    let rows = engine
                        .snapshot()
                        .expect("a snapshot")
                        .range(b"k/", b"k0", 1000, false)
                        .expect("a range");
                    let mut rounds: Vec<u64> = rows
                        .iter()
                        .map(|(_, value)| u64::from_le_bytes(value[..8].try_into().expect("eight bytes")))
                        .collect();
                    assert!(rows.is_empty() || rows.len() == keys.len(), "{} rows", rows.len());
                    rounds.dedup();
                    assert!(rounds.len() <= 1, "rows of several commits: {rounds:?}");
                    let round = rounds.first().copied().unwrap_or(0);
                    assert!(round >= last, "{round} after {last}");
                    last = round;
                }
            });
        }
        for round in 1_u64..=400 {
            let mut value = vec![0; 100];
            value[..8].copy_from_slice(&round.to_le_bytes());
            let batch = keys.iter().map(|key| (key.clone(), Some(Bytes::from(value.clone())))).collect();
            commit(&engine, &batch).expect("commits");
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(read(&engine.figures(), "store_tables_runs", None) > 2);
}

/// A body that gives up, a transaction that is too large, and an empty one write nothing.
#[test]
fn g5_what_is_refused_is_not_there() {
    let dir = scratch();
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let key = Bytes::from_static(b"k");
    let fenced = engine.commit(0, &mut |txn| {
        txn.set(key.clone(), Bytes::from_static(b"v"));
        Err(Abort::Fenced)
    });
    assert!(matches!(fenced, Err(CommitError::Fenced)), "{fenced:?}");
    for (value_bytes, rows_count) in [(100_001, 1), (90_000, 1), (90_000, TXN_BYTES_MAX / 90_000 + 1)] {
        // The second fits a transaction, but no segment of this small store.
        let too_large = engine.commit(0, &mut |txn| {
            for index in 0..rows_count {
                txn.set(Bytes::from(format!("k{index}")), Bytes::from(vec![1; value_bytes]));
            }
            Ok(())
        });
        assert!(matches!(too_large, Err(CommitError::TooLarge)), "{too_large:?}");
    }
    let long_key = commit(&engine, &Batch::from([(Bytes::from(vec![7; 513]), Some(Bytes::new()))]));
    assert!(matches!(long_key, Err(CommitError::TooLarge)), "{long_key:?}");
    engine.commit(0, &mut |_| Ok(())).expect("an empty commit");
    assert_eq!(contents(&engine), Model::new());
    commit(&engine, &Batch::from([(key.clone(), Some(Bytes::new()))])).expect("commits after all that");
    assert_eq!(contents(&engine), Model::from([(key, Bytes::new())]));
}

/// Two engines never share a directory; a closed engine commits no more.
#[test]
fn the_directory_is_held_by_one() {
    let dir = scratch();
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let second = Embedded::open(dir.path(), options());
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    engine.close().expect("closes");
    engine.close().expect("closes twice");
    let late = commit(&engine, &Batch::from([(Bytes::from_static(b"k"), None)]));
    assert!(matches!(late, Err(CommitError::Fatal(_))), "{late:?}");
    drop(engine);
    Embedded::open(dir.path(), options()).expect("opens once it is free");
}

/// G13: the log's and the overlay's size stay within their bounds, however much is written.
#[test]
fn g13_the_log_and_the_overlay_stay_bounded() {
    let dir = scratch();
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let mut rng = Rng(5);
    for _ in 0..400 {
        commit(&engine, &random_batch(&mut rng, 30, 300)).expect("commits");
        let figures = engine.figures();
        let figure = |name| read(&figures, name, None);
        assert!(2 * figure("store_overlay_bytes") <= 3 * figure("store_overlay_max_bytes"), "{figures:?}");
        assert!(figure("store_log_segments") <= 8, "{figures:?}");
    }
}
