//! F9, F10: the power goes at any moment, sector by sector; what was acknowledged is there afterwards, what was in flight
//! is there whole or not at all, and nothing else is.
//!
//! The log lies on a simulated disk; the tables lie on a real one, and their crash is that the process state is dropped
//! without a close.

use super::draws::random_batch;
use super::sim::{SimDisk, options_on};
use super::support::{Batch, Model, Rng, apply, commit, contents, each_seed, scratch};
use carillon_store::backend::embedded::Embedded;
use carillon_store::error::{CommitError, OpenError};
use carillon_store::txn::Engine;

/// Opens until it succeeds: the power may go while the store recovers, too.
fn open(dir: &std::path::Path, disk: &SimDisk, rng: &mut Rng) -> Embedded {
    loop {
        if rng.chance(30) {
            disk.fail_after(rng.below(30));
        }
        match Embedded::open(dir, options_on(disk.clone())) {
            Ok(engine) => return engine,
            Err(OpenError::Io { .. }) if disk.is_off() => restart(disk, rng),
            Err(error) => panic!("a power cut is no damage: {error}"),
        }
    }
}

/// The power goes, or only the process: then everything written is there to be read, durable or not, and a failed sync
/// has left it in doubt.
fn restart(disk: &SimDisk, rng: &mut Rng) {
    if rng.chance(60) {
        disk.power_cycle();
    } else {
        disk.process_restart();
    }
}

/// Whether the store was other than it has to be, when the disk lies; otherwise it fails.
fn crash_case(seed: u64, lies: bool) -> bool {
    let mut rng = Rng(seed);
    let disk = SimDisk::new(rng.next());
    let dir = scratch();
    let mut acknowledged = Model::new();
    let mut engine = open(dir.path(), &disk, &mut rng);
    if lies {
        disk.lie_about_syncs();
    }
    for _ in 0..2 + rng.below(4) {
        let ops_max = [40, 400][rng.below(2) as usize];
        disk.fail_after(rng.below(ops_max));
        let mut in_flight: Option<Batch> = None;
        for _ in 0..120 {
            let result = match rng.below(20) {
                0 => engine.idle(),
                1 if rng.chance(10) => engine.close(),
                _ => {
                    let rows_max = [1, 10, 40][rng.below(3) as usize];
                    let batch = random_batch(&mut rng, rows_max, 250);
                    let result = commit(&engine, &batch);
                    match &result {
                        Ok(()) => apply(&mut acknowledged, &batch),
                        Err(_) => in_flight = Some(batch),
                    }
                    result
                }
            };
            match result {
                Ok(()) => {}
                Err(CommitError::Fatal(_)) => break,
                Err(error) => panic!("a dead disk is fatal: {error}"),
            }
        }
        drop(engine);
        if lies {
            disk.power_cycle();
            return match Embedded::open(dir.path(), options_on(disk.clone())) {
                Ok(engine) => contents(&engine) != acknowledged,
                Err(_) => true,
            };
        }
        restart(&disk, &mut rng);
        engine = open(dir.path(), &disk, &mut rng);
        let found = contents(&engine);
        let mut with_in_flight = acknowledged.clone();
        if let Some(batch) = &in_flight {
            apply(&mut with_in_flight, batch);
        }
        if found != acknowledged {
            assert_eq!(found, with_in_flight, "what was acknowledged, with or without what was in flight");
        }
        acknowledged = found;
    }
    false
}

/// G1, G5 under F9 and F10.
#[test]
fn f9_f10_a_power_cut_loses_nothing_acknowledged() {
    each_seed("f9_f10_a_power_cut_loses_nothing_acknowledged", 1, 300, |seed| {
        crash_case(seed, false);
    });
}

/// The test above can fail: a disk whose syncs do nothing is found out.
#[test]
fn f9_a_disk_that_lies_is_found_out() {
    let found_out_count = (1..=20).filter(|seed| crash_case(*seed, true)).count();
    assert!(found_out_count > 5, "{found_out_count} of 20");
}
