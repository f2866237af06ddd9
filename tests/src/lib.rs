//! What the suites share: real processes of the real binary, clients that know nothing of our codec, and the simulated
//! world.

#![expect(clippy::disallowed_methods, reason = "tests start processes, open sockets and wait for deadlines")]

pub mod cable;
pub mod campaigns;
pub mod client;
pub mod cluster;
pub mod confined;
pub mod crowd;
pub mod desk;
pub mod features;
pub mod hall;
pub mod http;
pub mod issuer;
pub mod killing;
mod model;
pub mod page;
pub mod raw;
pub mod scale;
pub mod secure;
pub mod server;
pub mod stage;
pub mod trial;
pub mod world;
