//! Sessions of a shard, driven by hand under virtual time.

mod connecting;
mod early_page;
mod lost_lane;
mod meaning;
mod random;
mod rig;
mod router;
