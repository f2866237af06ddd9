//! Slots that this router gained, until every other router knows.
//!
//! Whoever owns a conversation sends what its members are to hear to the owners of these users, as it knows them. A session
//! that registers reads its user's conversations once; what is committed after that reading has to come to where the
//! session is. So before that reading every router must have heard of the new owner: they are told, and answer. A router
//! that joins later reads who owns what after it joined, and needs not be told.
//!
//! # Invariants
//! - A slot is known when all have answered who lived at a moment after it was gained, or they are dead.

use std::collections::{BTreeSet, VecDeque};

use carillon_protocol::frame::{Own, OwnedSlot};
use carillon_protocol::placement::Slot;
use carillon_protocol::time::Time;
use carillon_store::verb::Incarnation;

struct Claim {
    own: Own,
    gained_at: Time,
    /// Who has not answered; `None` until it is known who lives.
    waits_for: Option<BTreeSet<Incarnation>>,
}

/// See the module.
#[derive(Default)]
pub struct Claims {
    waiting: VecDeque<Claim>,
    requests_count: u64,
}

impl Claims {
    /// These slots were gained, by a transaction that was committed at `gained_at` at the latest.
    pub fn add(&mut self, gained_at: Time, slots: Vec<OwnedSlot>) {
        self.requests_count += 1;
        let own = Own { request: self.requests_count, slots };
        self.waiting.push_back(Claim { own, gained_at, waits_for: None });
    }

    /// A poll that was sent at `sent_at` showed these others alive: what each is to be told.
    pub fn polled(&mut self, sent_at: Time, others: &BTreeSet<Incarnation>) -> Vec<(Incarnation, Own)> {
        let mut told = Vec::new();
        for claim in &mut self.waiting {
            match &mut claim.waits_for {
                // Whoever is dead needs not know.
                Some(waits_for) => waits_for.retain(|other| others.contains(other)),
                None if sent_at >= claim.gained_at => {
                    told.extend(others.iter().map(|other| (*other, claim.own.clone())));
                    claim.waits_for = Some(others.clone());
                }
                None => {}
            }
        }
        told
    }

    /// What a router has not answered, in order: for a new lane to it.
    pub fn unanswered(&self, by: Incarnation) -> impl Iterator<Item = &Own> {
        let waits = move |claim: &&Claim| claim.waits_for.as_ref().is_some_and(|all| all.contains(&by));
        self.waiting.iter().filter(waits).map(|claim| &claim.own)
    }

    /// A router knows.
    pub fn answered(&mut self, by: Incarnation, request: u64) {
        for claim in self.waiting.iter_mut().filter(|claim| claim.own.request == request) {
            if let Some(waits_for) = &mut claim.waits_for {
                waits_for.remove(&by);
            }
        }
    }

    /// The slots that everybody knows of now, with the epochs by which they were gained.
    pub fn take_known(&mut self) -> Vec<(Slot, u64)> {
        let mut known = Vec::new();
        self.waiting.retain(|claim| {
            let is_known = claim.waits_for.as_ref().is_some_and(BTreeSet::is_empty);
            if is_known {
                known.extend(claim.own.slots.iter().map(|owned| (Slot(owned.slot), owned.epoch)));
            }
            !is_known
        });
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F6: nobody's conversations are read before every living router sends what they hear here.
    #[test]
    fn f6_a_slot_is_known_when_all_who_live_have_answered() {
        let (one, other) = (Incarnation(1), Incarnation(2));
        let both = BTreeSet::from([one, other]);
        let owned = OwnedSlot { slot: 7, owner: 9, epoch: 3 };
        let mut claims = Claims::default();
        claims.add(Time(5), vec![owned]);
        assert!(claims.polled(Time(4), &both).is_empty(), "a poll from before says nothing");
        let told: Vec<_> = claims.polled(Time(5), &both).into_iter().map(|(to, _)| to).collect();
        assert_eq!(told, [one, other]);
        assert!(claims.polled(Time(6), &both).is_empty() && claims.take_known().is_empty());
        claims.answered(one, 1);
        claims.answered(one, 1);
        assert!(claims.take_known().is_empty() && claims.unanswered(other).count() == 1);
        assert_eq!(claims.unanswered(one).count(), 0);
        assert!(claims.polled(Time(9), &BTreeSet::from([one])).is_empty());
        assert_eq!(claims.take_known(), [(Slot(7), 3)], "the other one is dead");
        assert!(claims.take_known().is_empty());
    }
}
