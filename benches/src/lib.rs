//! What Carillon measures itself by: benchmarks of parts beside their floors (`benches/benches`), and whole builds beside
//! each other (`benches/src/bin/pairs.rs`).
