//! Sessions of a shard, driven by hand under virtual time.

mod changes;
mod connecting;
mod crowd;
mod early_page;
mod lost_lane;
mod meaning;
mod members;
#[path = "../owners/mod.rs"]
mod owners;
mod presence;
mod random;
mod rates;
mod rig;
mod router;
mod typing;
