//! Random operations beside the model. More: `cargo run --release -p carillon-tests --bin model -- 10000`.

use carillon_tests::trial;

/// Cases here; each is a seed.
const CASES: u64 = 300;

/// AP6, FU5c, FU6a, G3, G11, G12, GF3, GF5: history, unread counts, receipts, tombstones and reactions equal the model's.
#[test]
fn a_conversation_is_what_its_model_says() {
    for seed in 0..CASES {
        if let Err(difference) = trial::play(seed) {
            panic!("cargo run -p carillon-tests --bin model -- 1 {seed}\n{difference}");
        }
    }
}
