//! What Carillon measures itself by: benchmarks of parts beside their floors (`benches/benches`), whole builds beside each
//! other (`benches/src/bin/pairs.rs`), and a build beside what a good engineer would write instead
//! (`benches/src/bin/against.rs`, `benches/baseline`).

pub mod run;
pub mod table;
