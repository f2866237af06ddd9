//! The gateway: many sockets, no truth. Kill it and only sockets are lost.
//!
//! Upstairs, pure and driven by three verbs: [`shard`] is one core's whole world, [`turn`] the seam to whatever drives
//! it. Downstairs, in `io`, are sockets, lanes, clock and threads.
//!
//! # Invariants
//! - No database and no order: what a client is told was decided by a router.
//! - Outside `io` nothing reads time, chance, files or sockets: they are handed in.
//! - Memory per connection has a written cap, and what happens at each cap is written beside it (G13).

mod auth;
mod common;
pub mod counters;
mod demo;
pub mod front;
mod hash;
pub mod io;
mod limits;
mod line;
mod outbox;
mod owners;
mod proxies;
pub mod pump;
mod render;
pub mod rest;
mod roster;
mod session;
pub mod settings;
pub mod shard;
mod spares;
mod tails;
pub mod turn;
mod wheel;

pub use settings::DEFAULTS;
