//! What a shard takes from the allocator: a bounded number of bytes for a session that is idle, and nothing for a message on
//! its way, once it has the memory that messages need.

#[path = "../owners/mod.rs"]
mod owners;
// Most of it is for other tests.
#[expect(dead_code)]
#[path = "../session/rig.rs"]
mod rig;

mod counting;
mod hot_path;
mod idle;
mod tls;
