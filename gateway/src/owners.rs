//! Who owns which slot, as far as one shard knows, and over which lane its owner is reached.
//!
//! # Invariants
//! - The higher epoch is believed, whoever says it and however late the others are.
//! - An owner is used only when it said itself, on its own lane, that the slot is its own by that epoch; what belongs
//!   there waits until then. That is undone when it says otherwise ([`Owners::refuted`]) or its lane is lost.
//! - One lane a router: of two peers that lead to the same incarnation the one with the lower number stays. (All shards of
//!   a process decide alike, or they would part with both.)
//! - Bounded: 4,096 slots and [`ROUTERS_MAX`] lanes.

use std::collections::{BTreeMap, BTreeSet};

use carillon_link::Peer;
use carillon_protocol::frame::ArchivedOwners;
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation, slot_of_user};

/// Lanes to routers. Beyond: a lane is closed again, and what its router owns waits, as if that router were not reached.
pub(crate) const ROUTERS_MAX: usize = 256;

/// Where something goes: to this router, which owns its slot by this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) router: Peer,
    pub(crate) epoch: u64,
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The highest epoch heard of.
    epoch: u64,
    /// Its owner by that; 0: nobody.
    owner: u64,
    /// The owner's lane, once it confirmed.
    confirmed_by: Option<Peer>,
    /// The epoch by which it was confirmed last.
    served_epoch: u64,
}

/// A router whose lane is or was there.
#[derive(Debug)]
struct Known {
    incarnation: u64,
    is_up: bool,
    /// The living routers, as this one told them last: incarnation and address.
    living: BTreeMap<u64, String>,
}

/// Whether a lane may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    Yes,
    /// It may, and this other one to the same router may not any more.
    Instead(Peer),
    /// There is another one to the same router.
    Alias,
    /// There are [`ROUTERS_MAX`].
    Full,
}

/// A set of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots([u64; SLOTS_COUNT as usize / 64]);

impl Slots {
    fn none() -> Slots {
        Slots([0; SLOTS_COUNT as usize / 64])
    }

    fn insert(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(usize::from(slot.0) / 64) {
            *word |= 1 << (slot.0 % 64);
        }
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot.0) / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    pub(crate) fn contains_user(&self, user: UserId) -> bool {
        self.contains(slot_of_user(user))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// What a word about owners changed.
#[derive(Debug)]
pub(crate) struct Changes {
    /// A higher epoch was heard of: what is under way by a lower one is void. A router that gives a slot away says so on
    /// its own lanes before it hands anything on without the users of that slot: whoever is live there has got everything
    /// up to here.
    pub(crate) raised: Slots,
    /// Confirmed now: what waits can go.
    pub(crate) opened: Slots,
    /// Of those, the ones that were confirmed by another epoch the last time, or never.
    pub(crate) moved: Slots,
}

impl Changes {
    pub(crate) fn are_none(&self) -> bool {
        self.raised.is_empty() && self.opened.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Owners {
    places: Vec<Place>,
    routers: BTreeMap<Peer, Known>,
    /// Where routers were, as far as anybody told: all of it is tried when there is no lane at all (G7). Whoever was gone
    /// when the last lane was lost may be the first to come back.
    addresses: BTreeSet<String>,
}

impl Default for Owners {
    fn default() -> Owners {
        Owners {
            places: vec![Place::default(); usize::from(SLOTS_COUNT)],
            routers: BTreeMap::new(),
            addresses: BTreeSet::new(),
        }
    }
}

impl Owners {
    /// A lane to the router of this incarnation is there.
    pub(crate) fn lane_up(&mut self, peer: Peer, incarnation: u64) -> Welcome {
        let others = || self.routers.iter().filter(|(other, known)| **other != peer && known.is_up);
        let same = others().find(|(_, known)| known.incarnation == incarnation).map(|(other, _)| *other);
        if same.is_some_and(|other| other < peer) {
            return Welcome::Alias;
        }
        if same.is_none() && others().count() >= ROUTERS_MAX {
            return Welcome::Full;
        }
        self.routers.insert(peer, Known { incarnation, is_up: true, living: BTreeMap::new() });
        same.map_or(Welcome::Yes, Welcome::Instead)
    }

    /// The lane is lost: nothing that this router owns can be reached until it confirms it on the next one. `false`: the
    /// lane was never in use.
    pub(crate) fn lane_down(&mut self, peer: Peer) -> bool {
        let Some(known) = self.routers.get_mut(&peer).filter(|known| known.is_up) else { return false };
        known.is_up = false;
        known.living = BTreeMap::new();
        for place in &mut self.places {
            place.confirmed_by.take_if(|by| *by == peer);
        }
        true
    }

    /// Whether the lane to a router is there.
    pub(crate) fn is_up(&self, peer: Peer) -> bool {
        self.routers.get(&peer).is_some_and(|known| known.is_up)
    }

    /// Whether the peer is one that there is or may be a lane to again.
    pub(crate) fn knows(&self, peer: Peer) -> bool {
        self.routers.contains_key(&peer)
    }

    /// A router says who there is, and who owns what.
    pub(crate) fn learn(&mut self, from: Peer, frame: &ArchivedOwners) -> Changes {
        let mut changes = Changes { raised: Slots::none(), opened: Slots::none(), moved: Slots::none() };
        let Some(known) = self.routers.get_mut(&from).filter(|known| known.is_up) else { return changes };
        let routers = frame.routers.iter().take(ROUTERS_MAX);
        known.living =
            routers.map(|one| (one.incarnation.to_native(), one.address.as_str().to_owned())).collect();
        let speaker = known.incarnation;
        if self.addresses.len() + known.living.len() > ROUTERS_MAX {
            self.addresses.clear();
        }
        self.addresses.extend(known.living.values().filter(|address| !address.is_empty()).cloned());
        for owned in frame.slots.iter() {
            let slot = Slot(owned.slot.to_native());
            let (owner, epoch) = (owned.owner.to_native(), owned.epoch.to_native());
            let Some(place) = self.places.get_mut(usize::from(slot.0)) else { continue };
            if epoch > place.epoch {
                (place.epoch, place.owner, place.confirmed_by) = (epoch, owner, None);
                changes.raised.insert(slot);
            }
            let confirms = epoch == place.epoch && owner == speaker && place.owner == speaker && owner != 0;
            if confirms && place.confirmed_by.is_none() {
                place.confirmed_by = Some(from);
                changes.opened.insert(slot);
                if std::mem::replace(&mut place.served_epoch, epoch) != epoch {
                    changes.moved.insert(slot);
                }
            }
        }
        changes
    }

    /// Who is known to own a slot, and can be reached.
    pub(crate) fn route(&self, slot: Slot) -> Option<Route> {
        let place = self.places.get(usize::from(slot.0))?;
        Some(Route { router: place.confirmed_by?, epoch: place.epoch })
    }

    pub(crate) fn route_of_user(&self, user: UserId) -> Option<Route> {
        self.route(slot_of_user(user))
    }

    pub(crate) fn route_of_conversation(&self, conversation: ConversationId) -> Option<Route> {
        self.route(slot_of_conversation(conversation))
    }

    /// Whether a higher epoch of the slot was heard of than the one by which something went there.
    pub(crate) fn is_void(&self, slot: Slot, route: Route) -> bool {
        self.places.get(usize::from(slot.0)).is_some_and(|place| place.epoch > route.epoch)
    }

    /// A router says that it does not own a slot by the epoch by which it was asked.
    pub(crate) fn refuted(&mut self, slot: Slot, route: Route) {
        if self.route(slot) == Some(route)
            && let Some(place) = self.places.get_mut(usize::from(slot.0))
        {
            place.confirmed_by = None;
        }
    }

    /// Addresses of living routers to which there is no lane; of all that were ever told of when there is none.
    pub(crate) fn unmet(&self) -> BTreeSet<String> {
        let up = self.routers.values().filter(|known| known.is_up);
        let met: BTreeSet<u64> = up.map(|known| known.incarnation).collect();
        if met.is_empty() {
            return self.addresses.clone();
        }
        let living = self.routers.values().flat_map(|known| &known.living);
        living
            .filter(|(incarnation, address)| !met.contains(incarnation) && !address.is_empty())
            .map(|(_, address)| address.clone())
            .collect()
    }

    /// Forgets a peer whose lane is lost and whose router nobody counts among the living any more; returns it.
    pub(crate) fn forget_gone(&mut self) -> Option<Peer> {
        let living: BTreeSet<u64> =
            self.routers.values().flat_map(|known| known.living.keys().copied()).collect();
        let is_gone = |known: &Known| !known.is_up && !living.contains(&known.incarnation);
        let (peer, _) = self.routers.iter().find(|(_, known)| !living.is_empty() && is_gone(known))?;
        let peer = *peer;
        self.routers.remove(&peer);
        Some(peer)
    }

    /// How many slots have an owner, and how many of those have confirmed it.
    pub(crate) fn slots_counts(&self) -> (usize, usize) {
        let owned = self.places.iter().filter(|place| place.owner != 0);
        let confirmed = self.places.iter().filter(|place| place.confirmed_by.is_some());
        (owned.count(), confirmed.count())
    }
}

#[cfg(test)]
mod tests {
    use carillon_protocol::frame::{self, Frame, LinkFrame, OwnedSlot, RouterAddress};

    use super::*;

    const A: Peer = Peer(0);
    const B: Peer = Peer(1);
    const SLOT: Slot = Slot(7);

    fn learn(owners: &mut Owners, from: Peer, routers: &[u64], slots: &[(u16, u64, u64)]) -> Changes {
        let address = |incarnation: &u64| RouterAddress {
            incarnation: *incarnation,
            address: format!("r{incarnation}:1"),
        };
        let owned = |&(slot, owner, epoch): &(u16, u64, u64)| OwnedSlot { slot, owner, epoch };
        let said = frame::Owners {
            routers: routers.iter().map(address).collect(),
            slots: slots.iter().map(owned).collect(),
        };
        let bytes = said.to_frame();
        let Ok(Frame::Owners(read)) = frame::read(&bytes) else { panic!("not Owners") };
        owners.learn(from, read)
    }

    fn route(router: Peer, epoch: u64) -> Option<Route> {
        Some(Route { router, epoch })
    }

    /// G9, G15: an owner is used when it says itself that it is one, by the highest epoch that anybody told.
    #[test]
    fn an_owner_confirms_itself() {
        let mut owners = Owners::default();
        assert_eq!(owners.lane_up(A, 10), Welcome::Yes);
        assert_eq!(owners.lane_up(B, 20), Welcome::Yes);
        let changes = learn(&mut owners, A, &[10, 20], &[(7, 20, 3)]);
        assert!(changes.raised.contains(SLOT) && changes.opened.is_empty());
        assert_eq!(owners.route(SLOT), None, "only hearsay");
        let changes = learn(&mut owners, B, &[10, 20], &[(7, 20, 3)]);
        assert!(changes.raised.is_empty() && changes.opened.contains(SLOT) && changes.moved.contains(SLOT));
        assert_eq!(owners.route(SLOT), route(B, 3));
        assert!(learn(&mut owners, A, &[10, 20], &[(7, 10, 2)]).are_none(), "a former owner");
        owners.refuted(SLOT, Route { router: B, epoch: 3 });
        assert!(learn(&mut owners, A, &[10, 20], &[(7, 10, 3)]).are_none(), "an epoch has one owner");
        learn(&mut owners, B, &[10, 20], &[(7, 20, 3)]);
        assert_eq!(owners.route(SLOT), route(B, 3));
        // The next owner was heard of: the present one is none any more.
        learn(&mut owners, B, &[10, 20], &[(7, 10, 4)]);
        assert_eq!(owners.route(SLOT), None);
        assert!(owners.is_void(SLOT, Route { router: B, epoch: 3 }));
        assert!(learn(&mut owners, A, &[10, 20], &[(7, 10, 4)]).moved.contains(SLOT));
        assert_eq!(owners.route(SLOT), route(A, 4));
        assert_eq!(owners.slots_counts(), (1, 1));
        assert!(learn(&mut owners, A, &[10, 20], &[(7, 0, 5), (5_000, 10, 1)]).opened.is_empty());
        assert_eq!((owners.route(SLOT), owners.slots_counts()), (None, (0, 0)), "nobody's");
    }

    /// G7: routers that left one after the other are tried, all of them: nobody is there to tell which comes back.
    #[test]
    fn g7_when_nobody_is_left_everybody_is_tried() {
        let mut owners = Owners::default();
        owners.lane_up(A, 10);
        owners.lane_up(B, 20);
        learn(&mut owners, A, &[10, 20], &[]);
        learn(&mut owners, B, &[20], &[]);
        owners.lane_down(A);
        learn(&mut owners, B, &[20], &[]);
        assert_eq!(owners.forget_gone(), Some(A));
        assert!(owners.unmet().is_empty());
        owners.lane_down(B);
        assert_eq!(owners.unmet(), BTreeSet::from(["r10:1".to_owned(), "r20:1".to_owned()]));
    }

    /// A confirmation ends with its lane or when it is taken back; what was asked by an older one takes nothing back.
    #[test]
    fn a_confirmation_is_taken_back() {
        let mut owners = Owners::default();
        owners.lane_up(A, 10);
        learn(&mut owners, A, &[10], &[(7, 10, 3)]);
        owners.refuted(SLOT, Route { router: A, epoch: 2 });
        owners.refuted(SLOT, Route { router: B, epoch: 3 });
        assert_eq!(owners.route(SLOT), route(A, 3));
        owners.refuted(SLOT, Route { router: A, epoch: 3 });
        assert_eq!(owners.route(SLOT), None);
        let changes = learn(&mut owners, A, &[10], &[(7, 10, 3)]);
        assert!(changes.opened.contains(SLOT) && changes.moved.is_empty(), "it never was anybody else's");
        assert!(owners.lane_down(A) && !owners.lane_down(A));
        assert_eq!(owners.route(SLOT), None);
        owners.lane_up(A, 10);
        assert_eq!(owners.route(SLOT), None, "not before it says so");
        assert!(learn(&mut owners, A, &[10], &[(7, 10, 3)]).moved.is_empty());
    }

    /// G13: one lane a router, and so many routers; who is missing is met, who is gone is parted from.
    #[test]
    fn routers_are_met_and_parted_from() {
        let mut owners = Owners::default();
        owners.lane_up(A, 10);
        learn(&mut owners, A, &[10, 20], &[]);
        assert_eq!(owners.unmet(), BTreeSet::from(["r20:1".to_owned()]));
        owners.lane_up(B, 20);
        assert!(owners.unmet().is_empty());
        assert_eq!(owners.lane_up(Peer(2), 10), Welcome::Alias);
        assert_eq!(owners.lane_up(Peer(3), 30), Welcome::Yes);
        assert_eq!(owners.lane_up(Peer(2), 30), Welcome::Instead(Peer(3)));
        assert!(owners.lane_down(Peer(3)) && owners.lane_down(Peer(2)));
        assert!(owners.forget_gone().is_some() && owners.forget_gone().is_some());
        assert!(!owners.lane_down(Peer(2)) && owners.is_up(A));
        owners.lane_down(B);
        assert_eq!(owners.forget_gone(), None, "it is among the living");
        learn(&mut owners, A, &[10], &[]);
        assert_eq!((owners.forget_gone(), owners.forget_gone()), (Some(B), None));
        owners.lane_down(A);
        assert_eq!(owners.forget_gone(), None, "nobody is there to say so");
        for number in 0..ROUTERS_MAX as u32 {
            assert_eq!(owners.lane_up(Peer(number + 10), 100 + u64::from(number)), Welcome::Yes);
        }
        assert_eq!(owners.lane_up(Peer(5), 5), Welcome::Full);
    }
}
