//! The embedded engine under the suite that every engine has to pass, closed and dropped by turns before it is opened
//! again.

use std::cell::RefCell;

use super::support::{options, scratch};
use carillon_store::backend::embedded::{Embedded, Options, Upkeep};
use carillon_store::conformance;
use carillon_store::txn::{Engine, TXN_BYTES_MAX};

/// A segment takes the largest transaction; the overlay is small, so that the tables take part.
fn sizes(upkeep: Upkeep) -> Options {
    Options { segment_bytes: TXN_BYTES_MAX as u64 + (1 << 20), overlay_bytes: 128 << 10, upkeep, ..options() }
}

fn conforms(upkeep: Upkeep) {
    let dir = RefCell::new(scratch());
    let mut reopens_count = 0;
    let open = |path: &std::path::Path| -> Box<dyn Engine> {
        Box::new(Embedded::open(path, sizes(upkeep)).expect("opens"))
    };
    conformance::run_durable(
        &mut || {
            *dir.borrow_mut() = scratch();
            open(dir.borrow().path())
        },
        &mut |engine| {
            reopens_count += 1;
            if reopens_count % 2 == 0 {
                engine.close().expect("closes");
            }
            drop(engine);
            open(dir.borrow().path())
        },
    );
}

#[test]
fn conforms_with_threads() {
    conforms(Upkeep::Background);
}

#[test]
fn conforms_inline() {
    conforms(Upkeep::Inline);
}
