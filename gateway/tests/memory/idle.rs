//! What an idle session takes.

use carillon_protocol::client::Wire;

use crate::counting::taken;
use crate::rig::{Rig, live};

/// Sessions of the smaller of two shards; the other one has twice as many, so that what a shard takes anyway cancels out.
const SESSIONS_COUNT: u64 = 2_000;
/// G13: bytes that an idle session takes upstairs, all included: its connection, its device's name, its places in the table, in
/// the roster and in the wheel, and the room that these keep free for growing. See the budget in `session.rs`.
const SESSION_BYTES_MAX: i64 = 352;

/// What a shard holds with so many idle sessions, each in so many conversations.
fn held_bytes(sessions_count: u64, conversations_count: u64) -> i64 {
    let mut rig = Rig::new(&[]);
    let conversations: Vec<_> = (1..=conversations_count).map(|conversation| (conversation, 7, 7)).collect();
    for user in 1..=sessions_count {
        live(&mut rig, user, "default", Wire::Json, &conversations);
    }
    -taken(|| drop(rig.shard)).1.bytes
}

/// G13: a written number of bytes.
#[test]
fn g13_an_idle_session_takes_few_bytes() {
    let bytes = held_bytes(2 * SESSIONS_COUNT, 0) - held_bytes(SESSIONS_COUNT, 0);
    let each = bytes / SESSIONS_COUNT as i64;
    assert!(each <= SESSION_BYTES_MAX, "{each} bytes");
}

/// G13: and none for a conversation: what a shard remembers of one its sessions share.
#[test]
fn g13_an_idle_session_takes_nothing_for_a_conversation() {
    const SESSIONS_COUNT: u64 = 200;
    let [alone, both] =
        [SESSIONS_COUNT, 2 * SESSIONS_COUNT].map(|count| held_bytes(count, 50) - held_bytes(count, 1));
    assert_eq!(alone, both, "the second two hundred sessions");
}
