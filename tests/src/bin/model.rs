//! Random operations on a conversation beside a reference model: `model [CASES] [FIRST_SEED]`.

use carillon_tests::trial;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (cases, first) = match (numbers.next(), numbers.next()) {
        (None, _) => (10_000, 0),
        (Some(Ok(cases)), None) => (cases, 0),
        (Some(Ok(cases)), Some(Ok(first))) => (cases, first),
        _ => {
            eprintln!("usage: model [CASES] [FIRST_SEED]");
            std::process::exit(2);
        }
    };
    for seed in first..first.saturating_add(cases) {
        if let Err(difference) = trial::play(seed) {
            eprintln!("seed {seed} (repeat: model 1 {seed}): {difference}");
            std::process::exit(1);
        }
        if (seed - first + 1) % 1_000 == 0 {
            eprintln!("{} cases equal", seed - first + 1);
        }
    }
    println!("{cases} cases: history, unread counts, receipts, tombstones and reactions equal the model's");
}
