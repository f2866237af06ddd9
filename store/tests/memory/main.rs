//! The memory that the overlay says it takes, beside what is taken from the allocator.

#[path = "../../../gateway/tests/memory/counting.rs"]
mod counting;

use bytes::Bytes;
use carillon_store::backend::embedded::{Embedded, Options, Upkeep};
use carillon_store::figures::read;
use carillon_store::txn::Engine;
use counting::taken;

/// How far it may be from the truth, in percent: nobody knows how full the nodes of a map are.
const WRONG_PERCENT: u64 = 8;
const ROWS_A_COMMIT: u64 = 500;

/// A row of the workload: its key and its value.
type RowOf = fn(u64) -> (Vec<u8>, Vec<u8>);

fn commit(engine: &Embedded, rows: std::ops::Range<u64>, row_of: RowOf) {
    let committed = engine.commit(0, &mut |txn| {
        for number in rows.clone() {
            let (key, value) = row_of(number);
            // Keys of the engine's own begin with other letters.
            txn.set(Bytes::from([b"m/", &key[..]].concat()), Bytes::from(value));
        }
        Ok(())
    });
    committed.expect("commits");
}

fn overlay_bytes(engine: &Embedded) -> u64 {
    read(&engine.figures(), "store_overlay_bytes", None)
}

/// G13: the bound of the overlay is one of memory, so what is counted is what is taken: of rows whose keys come in order or by
/// chance, are alike for long or not at all, that are new or written again; and of an overlay that is empty.
#[test]
fn g13_the_overlay_takes_what_it_says() {
    let table: [(&str, u64, RowOf); 5] = [
        ("in order", 60_000, |number| (number.to_be_bytes().to_vec(), vec![7; 60])),
        ("scattered", 60_000, |number| {
            (number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec(), vec![7; 20])
        }),
        ("long", 10_000, |number| {
            (number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().repeat(4), vec![7; 900])
        }),
        ("alike for long", 5_000, |number| {
            let head = (number / 8).to_be_bytes().repeat(3);
            ([&head[..], &number.to_be_bytes()].concat(), vec![7; 40])
        }),
        ("written again", 60_000, |number| ((number % 1_000).to_be_bytes().to_vec(), vec![7; 60])),
    ];
    for (what, rows_count, row_of) in table {
        let directory = tempfile::tempdir().expect("a directory");
        // Nothing is sealed, so nothing but the overlay grows.
        let options = Options {
            overlay_bytes: 256 << 20,
            reserve_bytes: 0,
            upkeep: Upkeep::Inline,
            ..Options::default()
        };
        let engine = Embedded::open(directory.path(), options).expect("opens");
        commit(&engine, 0..1, row_of);
        let empty = overlay_bytes(&engine);
        assert!(empty > 1 << 20, "{what}: {empty}: the filter of so large an overlay is counted");
        let ((), taken) = taken(|| {
            let mut from = 1;
            while from < rows_count {
                commit(&engine, from..from + ROWS_A_COMMIT, row_of);
                from += ROWS_A_COMMIT;
            }
        });
        let taken = u64::try_from(taken.bytes).expect("it grew");
        let said = overlay_bytes(&engine) - empty;
        let wrong = said.abs_diff(taken) * 100 / taken;
        println!("{what}: {said} said, {taken} taken, {wrong} % apart");
        assert!(wrong <= WRONG_PERCENT, "{what}: {said} said, {taken} taken");
    }
}
