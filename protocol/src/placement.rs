//! Which slot an id falls into. Slots are owned by routers and mapped to commit lanes; the function is part of the
//! protocol between the tiers and of the stored keys, so it never changes.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{ConversationId, UserId};

/// How many slots there are.
pub const SLOTS_COUNT: u16 = 4096;

/// One of the 4,096 slots. It owns the conversations and the users that hash to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

fn slot(id: u64) -> Slot {
    // The low 12 bits of the hash: SLOTS_COUNT is a power of two.
    #[expect(clippy::cast_possible_truncation, reason = "masked to 12 bits")]
    Slot((xxh3_64(&id.to_le_bytes()) & u64::from(SLOTS_COUNT - 1)) as u16)
}

/// The slot of a conversation.
#[must_use]
pub fn slot_of_conversation(id: ConversationId) -> Slot {
    slot(id.0)
}

/// The slot of a user.
#[must_use]
pub fn slot_of_user(id: UserId) -> Slot {
    slot(id.0)
}

/// The commit lane of a slot among `lanes_count` of them (1 on the embedded store, 16 on FoundationDB).
#[must_use]
pub fn lane_of_slot(slot: Slot, lanes_count: u16) -> u16 {
    slot.0 % lanes_count.max(1)
}

const _: () = assert!(SLOTS_COUNT.is_power_of_two());
