//! The conformance suite on each engine (DB1, DC4).

use std::path::PathBuf;

use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options as EmbeddedOptions, Upkeep};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance;
use carillon_store::figures::read;
use carillon_store::txn::{Engine, Txn};

fn memory(lanes_count: u16) -> Box<dyn Engine> {
    Box::new(Memory::new(Options { lanes_count }))
}

/// DB1: the reference passes the suite of every engine.
#[test]
fn memory_with_one_lane() {
    conformance::run(&mut || memory(1));
}

/// DB1: and so it does with lanes that commit beside each other.
#[test]
fn memory_with_sixteen_lanes() {
    conformance::run(&mut || memory(16));
}

/// G13: memory is for what is there, and for what is still being read.
#[test]
fn memory_forgets_what_nobody_reads() {
    let memory = Memory::new(Options::default());
    let rows_count = || read(&memory.figures(), "store_rows", None);
    let commit = |body: &dyn Fn(&mut dyn Txn)| {
        let committed = memory.commit(0, &mut |txn| {
            body(txn);
            Ok(())
        });
        committed.unwrap();
    };
    let key = |number: u8| Bytes::from(vec![number]);
    commit(&|txn| (0..50).for_each(|number| txn.set(key(number), key(number))));
    let mut old = memory.snapshot().unwrap();
    commit(&|txn| (0..50).for_each(|number| txn.clear(key(number))));
    commit(&|txn| txn.set(key(99), key(99)));
    assert_eq!(old.range(b"", b"\xff", 100, false).unwrap().len(), 50);
    assert_eq!(rows_count(), 51, "somebody reads them");
    drop(old);
    commit(&|txn| txn.set(key(99), key(98)));
    assert_eq!(rows_count(), 1);
}

/// A directory for each store, of which one is open at a time.
struct Embeddeds {
    root: tempfile::TempDir,
    stores_count: u32,
    options: EmbeddedOptions,
}

impl Embeddeds {
    fn dir(&self) -> PathBuf {
        self.root.path().join(self.stores_count.to_string())
    }

    fn open(&self) -> Box<dyn Engine> {
        Box::new(Embedded::open(&self.dir(), self.options.clone()).unwrap())
    }
}

/// Small bounds, so that sealing, runs and recycling happen within the suite.
fn embedded(upkeep: Upkeep, closes: bool) {
    let options = EmbeddedOptions {
        segment_bytes: 16 << 20,
        overlay_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        upkeep,
        ..EmbeddedOptions::default()
    };
    let stores =
        std::cell::RefCell::new(Embeddeds { root: tempfile::tempdir().unwrap(), stores_count: 0, options });
    conformance::run_durable(
        &mut || {
            stores.borrow_mut().stores_count += 1;
            stores.borrow().open()
        },
        &mut |engine| {
            if closes {
                engine.close().unwrap();
            }
            drop(engine);
            stores.borrow().open()
        },
    );
}

/// DB1: the embedded engine passes the same suite, and what it takes to be closed and opened again in between.
#[test]
fn embedded_in_the_background() {
    embedded(Upkeep::Background, true);
}

/// DB1: the same, when it is dropped as it stands and every step of upkeep is taken in a commit.
#[test]
fn embedded_inline_and_never_closed() {
    embedded(Upkeep::Inline, false);
}
