//! What the suites share: real processes of the real binary, clients that know nothing of our codec, and the simulated
//! world.

#![expect(clippy::disallowed_methods, reason = "tests start processes, open sockets and wait for deadlines")]

pub mod client;
pub mod http;
pub mod killing;
pub mod raw;
pub mod server;
pub mod stage;
pub mod world;
