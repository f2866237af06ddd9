//! The conformance suite on each engine (DB1, DC4).

use std::path::PathBuf;

use carillon_store::backend::embedded::{Embedded, Options as EmbeddedOptions, Upkeep};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance;
use carillon_store::txn::Engine;

fn memory(lanes_count: u16) -> Box<dyn Engine> {
    Box::new(Memory::new(Options { lanes_count }))
}

#[test]
fn memory_with_one_lane() {
    conformance::run(&mut || memory(1));
}

#[test]
fn memory_with_sixteen_lanes() {
    conformance::run(&mut || memory(16));
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

#[test]
fn embedded_in_the_background() {
    embedded(Upkeep::Background, true);
}

#[test]
fn embedded_inline_and_never_closed() {
    embedded(Upkeep::Inline, false);
}
