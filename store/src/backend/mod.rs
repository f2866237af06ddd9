//! The engines.

pub mod embedded;
pub mod memory;
