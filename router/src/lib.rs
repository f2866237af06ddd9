//! The order of each conversation, and who must hear it.
//!
//! Upstairs, pure and driven by three verbs (`handle`, `poll_output`, `poll_timeout`):
//! - [`shard`]: the hub. Reads link frames and hands them to the nouns below.
//! - [`batch`]: commit lanes. What is submitted leaves in batches, one in flight.
//! - [`fanout`]: what is committed is handed on in the order of its conversation.
//! - [`registry`]: users, their devices and the lanes on which these hear.
//! - [`receipts`]: moved watermarks are told to the senders they passed.
//! - [`presence`], [`typing`]: what is true now and not stored.
//! - [`rates`]: how much a user may command, and a conversation take.
//! - [`lease`]: which slots are this router's among several.
//! - [`cluster`]: the other routers, who owns what, and what is told across.
//! - [`cache`]: what is asked for again and again, in memory.
//! - [`outbox`]: what leaves a turn, and which questions to the store are open.
//! - [`submit`], [`answer`]: link frames to operations and queries; answers to link frames.
//!
//! Downstairs, [`io`]: the router's thread, committers, readers.
//!
//! # Invariants
//! - Nothing is acknowledged before its commit is definite (G1), and nothing at all after the store failed (G14).
//! - Knows no JSON and no WebSocket.
//! - Outside [`io`] nothing reads a clock or chance, and no map with a random seed is iterated: the same inputs give
//!   the same outputs.

pub mod answer;
pub mod batch;
pub mod cache;
pub mod cluster;
pub mod fanout;
pub mod io;
pub mod lease;
pub mod meters;
pub mod outbox;
pub mod presence;
pub mod rates;
pub mod receipts;
pub mod registry;
pub mod settings;
pub mod shard;
pub mod submit;
pub mod typing;

pub use settings::{DEFAULTS, Settings};
