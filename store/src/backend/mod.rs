//! The engines.

pub mod embedded;
mod in_flight;
pub mod memory;
