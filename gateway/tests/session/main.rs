//! Sessions of a shard, driven by hand under virtual time.

mod random;
mod rig;
mod router;
