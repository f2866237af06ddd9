//! What must never be forgotten.

pub mod backend;
pub mod error;
pub mod txn;
pub mod verb;
