//! Every byte Carillon speaks: ids, client frames, link frames, stored records, and the numbers that relate them.
//!
//! # Invariants
//! - Pure: no clock, no randomness, no sockets, no files. Builds for `wasm32-unknown-unknown`.
//! - A type that crosses a wire or a disk lives here and nowhere else, and `golden/` freezes its bytes.
//! - Nothing here panics on bytes from outside; what is wrong with them is a [`reason::Code`].

pub mod client;
pub mod frame;
pub mod framing;
pub mod handshake;
pub mod ids;
pub mod limits;
pub mod placement;
pub mod proxy;
pub mod reason;
pub mod record;
pub mod time;
pub mod websocket;
