//! Sessions of a shard, driven by hand under virtual time.

mod changes;
mod cluster;
mod connecting;
mod crowd;
mod early_page;
mod lost_lane;
mod meaning;
mod members;
mod moving;
#[path = "../owners/mod.rs"]
mod owners;
mod presence;
mod random;
mod rates;
mod rig;
mod router;
mod several;
mod typing;
mod watches;
