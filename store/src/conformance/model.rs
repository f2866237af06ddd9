//! Any sequence of transactions does what it does to a sorted map.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Reopen, snapshot};
use crate::chance::Chance;
use crate::txn::{Abort, Engine, Read, Row, Txn};

type Model = BTreeMap<Bytes, Bytes>;

const SEEDS: std::ops::Range<u64> = 1..4;
const COMMITS: u64 = 120;
/// Few enough that rows are met again and again.
const KEYS: u64 = 40;

pub(super) fn random(engine: Box<dyn Engine>) {
    let mut model = Model::new();
    for seed in SEEDS {
        commits(&*engine, &mut model, &mut Chance::new(seed), seed);
    }
}

pub(super) fn random_with_reopening(mut engine: Box<dyn Engine>, reopen: &mut Reopen<'_>) {
    let mut model = Model::new();
    for seed in SEEDS {
        commits(&*engine, &mut model, &mut Chance::new(seed), seed);
        engine = reopen(engine);
        check(&mut *snapshot(&*engine), &model, &mut Chance::new(seed), seed);
    }
}

/// Commits, some of them aborted, and now and then a look at all there is, also at an old snapshot.
fn commits(engine: &dyn Engine, model: &mut Model, chance: &mut Chance, seed: u64) {
    let mut old = (snapshot(engine), model.clone());
    for _ in 0..COMMITS {
        let aborts = chance.below(8) == 0;
        let mut next = model.clone();
        let outcome = engine.commit(0, &mut |txn| {
            for _ in 0..chance.below(12) {
                step(txn, &mut next, chance, seed);
            }
            if aborts { Err(Abort::TooLarge) } else { Ok(()) }
        });
        assert_eq!(outcome.is_err(), aborts, "seed {seed}: {outcome:?}");
        if !aborts {
            *model = next;
        }
        if chance.below(16) == 0 {
            check(&mut *snapshot(engine), model, chance, seed);
            check(&mut *old.0, &old.1, chance, seed);
        }
        if chance.below(32) == 0 {
            old = (snapshot(engine), model.clone());
        }
    }
}

fn step(txn: &mut dyn Txn, model: &mut Model, chance: &mut Chance, seed: u64) {
    let key = key(chance);
    match chance.below(6) {
        0..=2 => {
            let value = Bytes::from(vec![chance.below(256) as u8; chance.below(300) as usize]);
            txn.set(key.clone(), value.clone());
            model.insert(key, value);
        }
        3 => {
            txn.clear(key.clone());
            model.remove(&key);
        }
        4 => assert_eq!(txn.get(&key).ok(), Some(model.get(&key).cloned()), "seed {seed}: {key:?}"),
        _ => check_range(txn, model, chance, seed),
    }
}

fn check(read: &mut dyn Read, model: &Model, chance: &mut Chance, seed: u64) {
    let all = read.range(b"", b"\xff", usize::MAX, false);
    assert_eq!(all.ok(), Some(model.clone().into_iter().collect::<Vec<Row>>()), "seed {seed}");
    for _ in 0..8 {
        let key = key(chance);
        assert_eq!(read.get(&key).ok(), Some(model.get(&key).cloned()), "seed {seed}: {key:?}");
        check_range(read, model, chance, seed);
    }
}

fn check_range(read: &mut dyn Read, model: &Model, chance: &mut Chance, seed: u64) {
    let (from, to) = (key(chance), key(chance));
    let (limit, reverse) = (chance.below(10) as usize, chance.below(2) == 0);
    let rows = read.range(&from, &to, limit, reverse);
    let expected: Vec<Row> = if from >= to {
        Vec::new()
    } else {
        let rows = model.range((Bound::Included(from.clone()), Bound::Excluded(to.clone())));
        let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
        if reverse { rows.rev().take(limit).collect() } else { rows.take(limit).collect() }
    };
    assert_eq!(rows.ok(), Some(expected), "seed {seed}: {from:?}..{to:?} {limit} {reverse}");
}

/// Short keys and their continuations, so that some are prefixes of others.
fn key(chance: &mut Chance) -> Bytes {
    let number = chance.below(KEYS);
    Bytes::from(vec![b'm'; 1 + number as usize % 3]).iter().copied().chain([(number / 3) as u8 * 9]).collect()
}
