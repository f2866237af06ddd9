//! The engines.

pub mod embedded;
pub mod fdb;
mod in_flight;
pub mod memory;
