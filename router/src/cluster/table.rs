//! Who owns each slot, as far as this router knows: from its own lease, and from what others said, whichever is later.
//!
//! # Invariants
//! - Of two owners of a slot the one with the higher epoch is believed, in whatever order they are heard of.
//! - Nothing is begun in a slot that is not ours or that we leave; once it was left, it is ours again only by a higher
//!   epoch.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation, slot_of_user};
use carillon_store::verb::Incarnation;

/// Nobody, as an owner.
const NOBODY: u64 = 0;

#[derive(Clone, Copy, Default)]
struct Held {
    owner: u64,
    epoch: u64,
    /// It is on its way to somebody else.
    is_leaving: bool,
    /// Every router knows that it is ours: what its users hear comes here.
    is_known: bool,
}

/// Whose users or conversations they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This router's.
    Us,
    /// Another one's.
    Other(Incarnation),
    /// Nobody's, as far as is known.
    Nobody,
}

/// Slots by number: which of them.
#[derive(Clone)]
pub struct SlotSet {
    slots: Vec<bool>,
    count: usize,
}

impl SlotSet {
    /// These.
    #[must_use]
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> SlotSet {
        let mut set = SlotSet { slots: vec![false; usize::from(SLOTS_COUNT)], count: 0 };
        for slot in slots {
            if let Some(place) = set.slots.get_mut(usize::from(slot.0)) {
                set.count += usize::from(!std::mem::replace(place, true));
            }
        }
        set
    }

    /// All of them.
    #[must_use]
    pub fn all() -> SlotSet {
        SlotSet { slots: vec![true; usize::from(SLOTS_COUNT)], count: usize::from(SLOTS_COUNT) }
    }

    /// These as well.
    pub fn extend(&mut self, others: &SlotSet) {
        for (place, is_in) in self.slots.iter_mut().zip(&others.slots) {
            self.count += usize::from(*is_in && !*place);
            *place |= is_in;
        }
    }

    /// These no more.
    pub fn remove(&mut self, others: &SlotSet) {
        for (place, is_in) in self.slots.iter_mut().zip(&others.slots) {
            self.count -= usize::from(*is_in && *place);
            *place &= !is_in;
        }
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, slot: Slot) -> bool {
        self.slots.get(usize::from(slot.0)).copied().unwrap_or(false)
    }

    /// Whether a conversation's is.
    #[must_use]
    pub fn has_conversation(&self, conversation: ConversationId) -> bool {
        self.has(slot_of_conversation(conversation))
    }

    /// Whether a user's is.
    #[must_use]
    pub fn has_user(&self, user: UserId) -> bool {
        self.has(slot_of_user(user))
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        (0..).map(Slot).zip(&self.slots).filter(|(_, is_in)| **is_in).map(|(slot, _)| slot)
    }
}

/// How the table changed since this was asked last.
#[derive(Default)]
pub struct Changes {
    /// Ours since, ascending.
    pub gained: Vec<Slot>,
    /// Not ours any more.
    pub lost: Vec<Slot>,
    /// Of another owner, or none: includes both of the above.
    pub changed: Vec<Slot>,
    /// What passed from one router to another, and who of them may not know: who had it, or if that is us, who has it.
    pub moved: Vec<(Slot, Incarnation)>,
}

/// See the module.
pub struct Table {
    me: u64,
    held: Vec<Held>,
    changes: Changes,
    /// Rises with every change of an owner.
    version: u64,
    mine_count: usize,
}

impl Table {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(me: Incarnation) -> Table {
        let held = vec![Held::default(); usize::from(SLOTS_COUNT)];
        Table { me: me.0, held, changes: Changes::default(), version: 0, mine_count: 0 }
    }

    /// Everything is ours for good, by this epoch, and there is nobody who would have to know.
    pub fn own_all(&mut self, epoch: u64) {
        for slot in (0..SLOTS_COUNT).map(Slot) {
            self.learn(slot, Some(Incarnation(self.me)), epoch);
            self.set_known(slot);
        }
    }

    /// Somebody is said to own a slot. That there is nobody any more is believed by the same epoch, too. Returns whether
    /// it is news.
    pub fn learn(&mut self, slot: Slot, owner: Option<Incarnation>, epoch: u64) -> bool {
        let owner = owner.map_or(NOBODY, |owner| owner.0);
        let Some(held) = self.held.get_mut(usize::from(slot.0)) else { return false };
        let is_news = epoch > held.epoch || (epoch == held.epoch && owner == NOBODY);
        if !is_news || (held.owner, held.epoch) == (owner, epoch) {
            return false;
        }
        let (was, is) = (held.owner, owner);
        let (was_mine, is_mine) = (was == self.me, is == self.me);
        *held = Held { owner, epoch, is_leaving: false, is_known: false };
        self.version += 1;
        self.changes.changed.push(slot);
        if was != is && was != NOBODY && is != NOBODY {
            self.changes.moved.push((slot, Incarnation(if was_mine { is } else { was })));
        }
        // Lost and gained again since it was asked last is both.
        if was_mine {
            self.changes.lost.push(slot);
            self.mine_count -= 1;
        }
        if is_mine {
            self.changes.gained.push(slot);
            self.mine_count += 1;
        }
        true
    }

    /// Nothing is to be begun in these slots any more.
    pub fn leave(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(held) = self.held.get_mut(usize::from(slot.0)) {
                held.is_leaving = held.owner == self.me;
            }
        }
    }

    /// This life is over: nothing is ours.
    pub fn end(&mut self) {
        let me = self.me;
        for held in self.held.iter_mut().filter(|held| held.owner == me) {
            held.is_leaving = true;
        }
    }

    /// Every router knows that the slot is ours.
    pub fn set_known(&mut self, slot: Slot) {
        if let Some(held) = self.held.get_mut(usize::from(slot.0)) {
            held.is_known = held.owner == self.me;
        }
    }

    /// What changed since this was asked last.
    pub fn take_changes(&mut self) -> Option<Changes> {
        (!self.changes.changed.is_empty()).then(|| std::mem::take(&mut self.changes))
    }

    /// The owner of a slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Owner {
        match self.held(slot).owner {
            NOBODY => Owner::Nobody,
            owner if owner == self.me => Owner::Us,
            owner => Owner::Other(Incarnation(owner)),
        }
    }

    /// The slots that are ours.
    #[must_use]
    pub fn mine(&self) -> SlotSet {
        let mine = (0..).map(Slot).zip(&self.held).filter(|(_, held)| held.owner == self.me);
        SlotSet::new(mine.map(|(slot, _)| slot))
    }

    /// The epoch of a slot.
    #[must_use]
    pub fn epoch(&self, slot: Slot) -> u64 {
        self.held(slot).epoch
    }

    /// Whether a slot is ours, and stays.
    #[must_use]
    pub fn accepts(&self, slot: Slot) -> bool {
        let held = self.held(slot);
        held.owner == self.me && !held.is_leaving
    }

    /// Whether its users may register: it is ours, stays, and everybody knows.
    #[must_use]
    pub fn serves(&self, slot: Slot) -> bool {
        self.accepts(slot) && self.held(slot).is_known
    }

    /// Rises with every change of an owner.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many slots are ours.
    #[must_use]
    pub fn mine_count(&self) -> usize {
        self.mine_count
    }

    fn held(&self, slot: Slot) -> Held {
        self.held.get(usize::from(slot.0)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Incarnation = Incarnation(7);
    const OTHER: Incarnation = Incarnation(4);

    /// G15: the later owner is believed, in whatever order both are heard of.
    #[test]
    fn g15_the_higher_epoch_is_believed() {
        let (slot, mut table) = (Slot(9), Table::new(ME));
        table.learn(slot, Some(OTHER), 5);
        table.learn(slot, Some(ME), 4);
        assert_eq!((table.owner(slot), table.epoch(slot)), (Owner::Other(OTHER), 5));
        table.learn(slot, Some(ME), 6);
        assert!(table.accepts(slot) && !table.serves(slot));
        table.learn(slot, Some(OTHER), 6);
        assert_eq!(table.owner(slot), Owner::Us, "one epoch has one owner");
        table.learn(slot, None, 6);
        assert_eq!(table.owner(slot), Owner::Nobody, "who is dead owns nothing");
        let changes = table.take_changes().expect("changes");
        assert_eq!((changes.gained, changes.lost, changes.changed.len()), (vec![slot], vec![slot], 3));
        assert!(table.take_changes().is_none() && table.mine_count() == 0);
    }

    /// G9: what is left is not accepted again by the same epoch.
    #[test]
    fn what_is_left_comes_back_by_a_higher_epoch_only() {
        let (slot, mut table) = (Slot(9), Table::new(ME));
        table.learn(slot, Some(ME), 1);
        table.set_known(slot);
        assert!(table.serves(slot));
        table.leave(&[slot]);
        table.learn(slot, Some(ME), 1);
        assert!(!table.accepts(slot) && table.owner(slot) == Owner::Us);
        table.learn(slot, Some(OTHER), 2);
        table.learn(slot, Some(ME), 3);
        assert!(table.accepts(slot) && !table.serves(slot));
    }
}
