//! What is asked for again and again, in memory: active conversations (their tail, metadata and members) and profiles.
//!
//! A conversation is held ([`carillon_store::held`]) once somebody opened it, and brought along with each message and
//! receipt that is committed in it. Anything else that is committed there drops it, and so does that nobody asked for
//! long; the next one to open it has it read anew.
//!
//! # Invariants
//! - Nothing is answered from here about a conversation that an operation is in flight for, or of which an outcome is
//!   unknown: a page never shows less than an earlier one did, or an ack (G10).
//! - What was read while anything was committed there is not kept: nobody knows whether it shows that.
//! - Bounded in bytes and in number; what was unused for longest goes first.

mod profiles;

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::held::Held;
use carillon_store::verb::{Answer, Outcome, Query};

use crate::batch::{Failure, Touches};
use crate::cluster::table::SlotSet;
pub use profiles::{PROFILE_TTL_MS, PROFILES_MAX, Profiles};

/// Bytes of all conversations that are held.
pub const HELD_BYTES_MAX: usize = 64 << 20;
/// Conversations that are held, or known not to be worth it for a while.
pub const SLOTS_MAX: usize = 65_536;
/// How long a conversation that could not be held, or was dropped, is left to the store: where much but messages is
/// committed, holding it is in vain.
pub const REST_MS: u64 = 1_000;
/// How long a conversation is left to the store after an unknown outcome: until even a late commit has come to its end.
pub const UNKNOWN_REST_MS: u64 = crate::fanout::RECHECKS_MS[1];
/// A conversation in which so much was committed since somebody asked about it is held no longer: where everybody is live,
/// bringing it along would cost each message something for nobody.
pub const UNASKED_COMMITS_MAX: u32 = 256;
/// A slot that was used among so many latest uses is not moved up again: order among the busiest does not matter.
const RECENT_USES: u64 = 256;

/// What of a conversation a query is about, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Its last events.
    Tail,
    /// What it is, and where it stands.
    Metadata,
    /// Who is in it, and how far they got.
    Membership,
    /// A user's profile.
    Profile,
}

/// The labels of [`Kind`], in its order.
pub const KINDS: [&str; 4] = ["tail", "metadata", "membership", "profile"];

enum State {
    /// The store was asked; in vain if something was committed since.
    Asking { is_stale: bool },
    /// Not to be held until then.
    Resting(Time),
    Held {
        held: Box<Held>,
        /// Commits since somebody asked.
        unasked: u32,
    },
}

struct Slot {
    state: State,
    /// Since somebody opened the conversation; never given again.
    id: u64,
    used: u64,
}

/// The conversations in memory.
#[derive(Default)]
pub struct Cache {
    slots: BTreeMap<ConversationId, Slot>,
    by_use: BTreeMap<u64, ConversationId>,
    uses_count: u64,
    ids_count: u64,
    held_bytes: usize,
    held_count: usize,
}

/// The conversation that a query is about, and how it is counted; `None` for queries that are never answered from here.
#[must_use]
pub fn about(query: &Query) -> Option<(ConversationId, Kind)> {
    match query {
        Query::Page(page) => Some((page.conversation, Kind::Tail)),
        Query::Conversation { conversation, .. } => Some((*conversation, Kind::Metadata)),
        Query::MemberPage { conversation, .. } | Query::Receipts { conversation, .. } => {
            Some((*conversation, Kind::Membership))
        }
        _ => None,
    }
}

impl Cache {
    /// The answer to a query that is [`about`] this conversation, of which nothing is in flight. `None`: ask the store.
    pub fn answer(&mut self, conversation: ConversationId, query: &Query) -> Option<Answer> {
        self.touch(conversation);
        let slot = self.slots.get_mut(&conversation)?;
        let State::Held { held, unasked } = &mut slot.state else { return None };
        *unasked = 0;
        let bytes_before = held.bytes();
        let answer = held.answer(query);
        self.held_bytes = self.held_bytes - bytes_before + held.bytes();
        self.shrink();
        answer
    }

    /// Whether this conversation is to be read and held: nothing of it is in flight, and somebody has opened it.
    pub fn begin(&mut self, now: Time, conversation: ConversationId) -> bool {
        let is_wanted = match self.slots.get(&conversation).map(|slot| &slot.state) {
            None => true,
            Some(State::Resting(until)) => *until <= now,
            Some(State::Asking { .. } | State::Held { .. }) => false,
        };
        if is_wanted {
            self.ids_count += 1;
            self.put(conversation, self.ids_count, State::Asking { is_stale: false });
        }
        is_wanted
    }

    /// The number under which a conversation is held or being read; 0: it is not.
    #[must_use]
    pub fn id(&self, conversation: ConversationId) -> u64 {
        match self.slots.get(&conversation) {
            Some(Slot { state: State::Held { .. } | State::Asking { .. }, id, .. }) => *id,
            _ => 0,
        }
    }

    /// The store told what there is to hold; `None`: it could not, or it is too much. `is_settled`: nothing of the
    /// conversation is in flight.
    pub fn opened(
        &mut self,
        now: Time,
        (conversation, asked_id): (ConversationId, u64),
        held: Option<Box<Held>>,
        is_settled: bool,
    ) {
        let Some(Slot { state: State::Asking { is_stale }, id, .. }) = self.slots.get(&conversation) else {
            return;
        };
        if *id != asked_id {
            return;
        }
        let state = match held.filter(|_| is_settled && !is_stale) {
            Some(held) => State::Held { held, unasked: 0 },
            None => State::Resting(now.after_ms(REST_MS)),
        };
        self.put(conversation, *id, state);
    }

    /// The store told until when a member muted a conversation, asked when its number was `id`: what was asked before
    /// that does not know what was committed since.
    pub fn learn_mute(&mut self, conversation: ConversationId, id: u64, user: UserId, until: Option<WallMs>) {
        if let Some(Slot { state: State::Held { held, .. }, id: now, .. }) = self.slots.get_mut(&conversation)
            && *now == id
        {
            held.learn_mute(user, until);
        }
    }

    /// The outcome of an operation that touches a conversation: told before anybody is answered.
    pub fn settled(&mut self, now: Time, touches: &Touches, result: &Result<Outcome, Failure>) {
        let (Touches::Log(conversation) | Touches::Marks(conversation) | Touches::Mute(conversation, ..)) =
            touches
        else {
            return;
        };
        if let Err(Failure::Unknown) = result {
            return self.put(*conversation, 0, State::Resting(now.after_ms(UNKNOWN_REST_MS)));
        }
        let Some(slot) = self.slots.get_mut(conversation) else { return };
        let held = match &mut slot.state {
            State::Resting(_) => return,
            State::Asking { is_stale } => {
                *is_stale |= has_changed(result);
                return;
            }
            State::Held { unasked: UNASKED_COMMITS_MAX, .. } => return self.remove(*conversation),
            State::Held { held, unasked } => {
                *unasked += 1;
                held
            }
        };
        let bytes_before = held.bytes();
        let is_held = match (touches, result) {
            (_, result) if !has_changed(result) => match result {
                // An event of which the router has not heard: an outcome stayed unknown.
                Ok(Outcome::Appended(again)) => again.seq <= held.head_seq(),
                _ => true,
            },
            (Touches::Log(_), Ok(Outcome::Appended(appended))) => held.appended(appended),
            (Touches::Marks(_), Ok(Outcome::Receipted(receipted))) => held.receipted(receipted),
            (Touches::Mute(_, user, until), Ok(Outcome::Stored)) => {
                held.muted(*user, *until);
                true
            }
            _ => false,
        };
        // What is not to be held has grown, too, until it is dropped.
        self.held_bytes = self.held_bytes - bytes_before + held.bytes();
        if is_held {
            self.shrink();
        } else {
            self.put(*conversation, 0, State::Resting(now.after_ms(REST_MS)));
        }
    }

    /// Slots are not ours any more: what their conversations become is decided elsewhere.
    pub fn lost(&mut self, slots: &SlotSet) {
        let gone: Vec<ConversationId> =
            self.slots.keys().copied().filter(|conversation| slots.has_conversation(*conversation)).collect();
        gone.into_iter().for_each(|conversation| self.remove(conversation));
    }

    /// Conversations that are held.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.held_count
    }

    /// What they take, roughly.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn put(&mut self, conversation: ConversationId, id: u64, state: State) {
        self.remove(conversation);
        self.uses_count += 1;
        let slot = Slot { state, id, used: self.uses_count };
        self.held_bytes += slot.bytes();
        self.held_count += usize::from(slot.is_held());
        self.by_use.insert(slot.used, conversation);
        self.slots.insert(conversation, slot);
        self.shrink();
    }

    fn remove(&mut self, conversation: ConversationId) {
        if let Some(slot) = self.slots.remove(&conversation) {
            self.held_bytes -= slot.bytes();
            self.held_count -= usize::from(slot.is_held());
            self.by_use.remove(&slot.used);
        }
    }

    fn shrink(&mut self) {
        while self.held_bytes > HELD_BYTES_MAX || self.slots.len() > SLOTS_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.remove(oldest);
        }
    }

    fn touch(&mut self, conversation: ConversationId) {
        let Some(slot) = self.slots.get_mut(&conversation) else { return };
        self.uses_count += 1;
        if self.uses_count - slot.used > RECENT_USES {
            self.by_use.remove(&slot.used);
            slot.used = self.uses_count;
            self.by_use.insert(slot.used, conversation);
        }
    }
}

impl Slot {
    fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    fn bytes(&self) -> usize {
        match &self.state {
            State::Held { held, .. } => held.bytes(),
            State::Asking { .. } | State::Resting(_) => 0,
        }
    }
}

/// Whether the store is another one than before the operation.
fn has_changed(result: &Result<Outcome, Failure>) -> bool {
    match result {
        Ok(Outcome::Appended(appended)) => !appended.duplicate,
        Ok(Outcome::Refused(_) | Outcome::Unchanged { .. }) => false,
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use carillon_protocol::record::{ConversationRow, ConversationType, HeadRow, History, MemberRow};
    use carillon_store::verb::{Opened, Receipted};

    use super::*;

    /// A receipt that does not follow what is held drops it, with every byte that it took.
    #[test]
    fn what_is_dropped_leaves_no_bytes_behind() {
        let (conversation, user) = (ConversationId(1), UserId(2));
        let opened = Opened {
            row: ConversationRow {
                conversation_type: ConversationType::Group,
                history: History::All,
                created_at: WallMs(1),
                created_by: user,
                group_name: None,
                named_seq: 1,
            },
            head: HeadRow { seq: 9, ..HeadRow::default() },
            members: vec![(user, MemberRow { delivered_seq: 3, ..MemberRow::default() })],
            tail: Vec::new(),
            reactions: Vec::new(),
            deleted: Vec::new(),
        };
        let mut cache = Cache::default();
        assert!(cache.begin(Time(1), conversation));
        let asked = (conversation, cache.id(conversation));
        cache.opened(Time(1), asked, Some(Box::new(Held::new(conversation, opened))), true);
        assert_eq!(cache.held_count(), 1);
        assert!(cache.held_bytes() > 0);
        let (delivered, read) = ((4, 5), (0, 0));
        let receipted = Receipted { user, conversation, delivered, read, unread_count: 0, small: true };
        cache.settled(Time(1), &Touches::Marks(conversation), &Ok(Outcome::Receipted(receipted)));
        assert_eq!((cache.held_count(), cache.held_bytes()), (0, 0));
    }
}
