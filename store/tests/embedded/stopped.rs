//! A stopped store is looked at, and not a byte of it changes.

use std::path::{Path, PathBuf};

use super::damage::{Files, last_segment, read_files, record_places, restore, store};
use super::support::{Model, Rng, all_rows, options, scratch};
use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Stopped};
use carillon_store::error::{CommitError, OpenError};
use carillon_store::txn::Engine;

fn files(dir: &Path) -> Files {
    let mut files = Files::new();
    read_files(dir, "", &mut files);
    files
}

fn wrong_files(dir: &Path) -> Vec<String> {
    Stopped::hold(dir).and_then(|stopped| stopped.check_files(&mut |_| {})).expect("looked at")
}

fn look(dir: &Path) -> Result<Model, OpenError> {
    let engine = Stopped::hold(dir)?.open()?;
    let rows = all_rows(&mut *engine.snapshot().expect("a snapshot"));
    let refused = engine.commit(0, &mut |txn| {
        txn.set(Bytes::from_static(b"c/new"), Bytes::new());
        Ok(())
    });
    assert!(matches!(refused, Err(CommitError::Fatal(_))), "{refused:?}");
    Ok(rows)
}

/// After a clean stop, after a crash, and with a torn tail that a start would cut.
#[test]
fn looking_shows_everything_and_changes_nothing() {
    for (seed, is_clean, is_torn) in [(21, true, false), (22, false, false), (23, false, true)] {
        let (dir, model) = store(seed, is_clean);
        if is_torn {
            let before = files(dir.path());
            let (name, bytes) = last_segment(&before);
            let mut torn = bytes.clone();
            let end = *record_places(bytes).last().expect("a place");
            torn[end..end + 40].fill(7);
            std::fs::write(dir.path().join(name), torn).expect("writes");
        }
        let before = files(dir.path());
        assert_eq!(wrong_files(dir.path()), Vec::<String>::new());
        assert_eq!(look(dir.path()).expect("whole"), model, "seed {seed}");
        assert_eq!(files(dir.path()), before, "seed {seed}: a byte has changed");
        // And it starts as it would have.
        let engine = Embedded::open(dir.path(), options()).expect("opens");
        assert_eq!(all_rows(&mut *engine.snapshot().expect("a snapshot")), model);
    }
}

#[test]
fn what_runs_or_is_not_there_is_not_looked_at() {
    let dir = scratch();
    let absent = Stopped::hold(&dir.path().join("nothing"));
    assert!(matches!(absent, Err(OpenError::Absent { .. })), "{absent:?}");
    assert!(!dir.path().join("nothing").exists());
    let engine = Embedded::open(dir.path(), options()).expect("opens");
    let in_use = Stopped::hold(dir.path());
    assert!(matches!(in_use, Err(OpenError::InUse { .. })), "{in_use:?}");
    drop(engine);
    let held = Stopped::hold(dir.path()).expect("held");
    assert!(matches!(Embedded::open(dir.path(), options()), Err(OpenError::InUse { .. })));
    drop(held);
    Embedded::open(dir.path(), options()).expect("opens");
}

/// F11: every flipped bit of a file that the tables consist of is seen by its checksum, also where no read would come by.
#[test]
fn f11_a_flipped_bit_of_a_table_is_seen() {
    let (dir, _) = store(24, true);
    let before = files(dir.path());
    let tables: Vec<&PathBuf> = before
        .keys()
        .filter(|name| {
            name.starts_with("tables/keyspaces")
                && name.parent().is_some_and(|above| above.ends_with("tables"))
        })
        .collect();
    assert!(tables.len() >= 2, "{tables:?}");
    let mut rng = Rng(24);
    for _ in 0..300 {
        let name = tables[rng.below(tables.len() as u64) as usize];
        let mut bytes = before[name].clone();
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(dir.path().join(name), bytes).expect("writes");
        let expected = format!("{} does not match its checksum", name.display());
        assert_eq!(wrong_files(dir.path()), [expected], "bit {bit}");
        std::fs::write(dir.path().join(name), &before[name]).expect("writes");
    }
    let name = tables[0];
    std::fs::remove_file(dir.path().join(name)).expect("removes");
    assert_eq!(wrong_files(dir.path()), [format!("{} is missing", name.display())]);
    restore(dir.path(), &before);
    assert_eq!(wrong_files(dir.path()), Vec::<String>::new());
}

/// F11, G14: what a start would refuse is refused here, in the same words.
#[test]
fn f11_g14_what_a_start_refuses_is_refused() {
    let (dir, _) = store(25, true);
    let before = files(dir.path());
    let (name, bytes) = last_segment(&before);
    let places = record_places(bytes);
    let mut damaged = bytes.clone();
    damaged[places[places.len() - 3] + 9] ^= 4;
    std::fs::write(dir.path().join(name), damaged).expect("writes");
    let Err(OpenError::Damaged { detail, .. }) = look(dir.path()) else { panic!("not refused") };
    let Err(OpenError::Damaged { detail: at_start, .. }) = Embedded::open(dir.path(), options()) else {
        panic!("not refused")
    };
    assert_eq!(detail, at_start);
    std::fs::write(dir.path().join(name), bytes).expect("writes");
    std::fs::remove_dir_all(dir.path().join("tables")).expect("removes");
    assert!(matches!(look(dir.path()), Err(OpenError::Damaged { .. })));
    assert!(!dir.path().join("tables").exists(), "nothing is made");
}
