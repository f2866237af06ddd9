//! What must never be forgotten.
//!
//! A store is an ordered map of bytes with transactions ([`txn`]), for which there are several engines ([`backend`]), and
//! the verbs of a chat log on top, written once: [`ops`] changes, [`query`] reads, [`keys`] says where things lie, and
//! [`retry`] brings a batch to a definite outcome.
//!
//! # Invariants
//! - An operation that is answered is durable, decided once, and never changes its answer (G1, G2, G4).
//! - Everything here but the engines is pure: no clock, no chance, no files. The time is an argument.
//! - [`conformance`] is what an engine has to do; the memory engine is the specification that others imitate.

pub mod backend;
pub mod chance;
pub mod conformance;
pub mod error;
pub mod figures;
pub mod held;
pub mod ids;
pub mod keys;
pub mod ops;
pub mod query;
pub mod retry;
mod rows;
pub mod txn;
pub mod verb;
pub mod verify;
