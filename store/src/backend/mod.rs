//! The engines.

pub mod embedded;
