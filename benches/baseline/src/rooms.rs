//! Rooms, in memory: who is in them, how far they are, and who said the last things.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Messages of a room whose senders are remembered for receipts; about older ones the database is asked.
const RECENT_MAX: usize = 1_024;

/// A room.
#[derive(Default)]
pub struct Room {
    /// Ascending.
    pub members: Arc<Vec<u64>>,
    /// Of each member, how far it has confirmed.
    pub delivered_seqs: Vec<u64>,
    pub head_seq: u64,
    /// The last messages, up to the head.
    recent: VecDeque<Said>,
}

/// Where something was said, and by whom.
#[derive(Clone, Copy)]
pub struct Said {
    pub seq: u64,
    pub sender: u64,
}

/// The id of a message: its room and its place there.
pub const fn message_id(room: u64, seq: u64) -> u64 {
    room << 32 | seq
}

impl Room {
    /// The place of a member.
    pub fn place(&self, user: u64) -> Option<usize> {
        self.members.binary_search(&user).ok()
    }

    /// A user is a member from now on.
    pub fn join(&mut self, user: u64) {
        if let Err(place) = self.members.binary_search(&user) {
            Arc::make_mut(&mut self.members).insert(place, user);
            self.delivered_seqs.insert(place, 0);
        }
    }

    /// What a sender would say next.
    pub fn next(&self, sender: u64) -> Said {
        Said { seq: self.head_seq + 1, sender }
    }

    /// It is said.
    pub fn say(&mut self, said: Said) {
        self.head_seq = said.seq;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(said);
    }

    /// The last message of each sender among those after `from_seq` up to `to_seq`; `None` when some of them are
    /// no longer remembered.
    pub fn last_of_each(&self, from_seq: u64, to_seq: u64) -> Option<BTreeMap<u64, Said>> {
        let first_seq = self.head_seq - self.recent.len() as u64 + 1;
        let skipped = (from_seq + 1).checked_sub(first_seq)?;
        let count = to_seq.saturating_sub(from_seq) as usize;
        let said = self.recent.iter().skip(skipped as usize).take(count);
        Some(said.map(|said| (said.sender, *said)).collect())
    }
}

/// All rooms, and the names under which they were made.
#[derive(Default)]
pub struct Rooms {
    pub by_id: HashMap<u64, Room>,
    pub by_key: HashMap<String, u64>,
}
