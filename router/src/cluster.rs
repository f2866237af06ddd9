//! The other routers, and who owns what among all of them.
//!
//! A router owns slots: the conversations in them it orders, the users in them it serves. What a conversation's owner has
//! for users of others goes to their owners as [`Notify`], and from there to the sessions; what a session asks about
//! conversations of others its user's owner asks on the same lane. One lane joins each pair of routers.
//!
//! With one router there is nobody else, and everything is its own for good ([`Cluster::sole`]).
//!
//! # Invariants
//! - What is handed on for a user leaves for the router that owns them *now*, as far as is known; a peek of a user is
//!   answered only to that router. So a session hears, after its peek, everything that its peek did not know: when its
//!   user's owner changes, it registers again and peeks again.
//! - Whoever had a slot is told before anything is handed on to its users elsewhere ([`Moved`]): what a router tells its
//!   gateways behind that never leaves out users whom they still believe to be its own.
//! - A `Notify` of an owner whose slot is somebody else's by a higher epoch is answered, and nobody hears it.
//! - Every `Notify` is passed on once, in the order of its sender (see [`notices`]).

pub mod claims;
pub mod notices;
pub mod peeks;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::frame::{Moved, Notify, OwnedSlot, Owners, RouterAddress};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::time::Time;
use carillon_store::ops::Living;
use carillon_store::verb::Incarnation;

use crate::lease::Lease;
use crate::outbox::{LaneId, Outbox, Output};
use crate::registry::Registry;
use claims::Claims;
use notices::{Answered, Notices};
use peeks::Peeks;
use table::{Owner, Table};

/// Another router.
#[derive(Default)]
struct Peer {
    /// Where it is reached; empty until a poll has shown it.
    address: String,
    lane: Option<LaneId>,
    /// When its lane was opened: polls from before do not know of it.
    opened_at: Time,
    notices: Notices,
    /// The last `Notify` of its own that was passed on.
    heard_count: u64,
    /// It has not been answered for that yet.
    is_owed_answer: bool,
}

/// See the module.
pub struct Cluster {
    me: Incarnation,
    address: String,
    pub(crate) table: Table,
    /// `None`: there is no other router, ever.
    pub(crate) lease: Option<Lease>,
    peers: BTreeMap<Incarnation, Peer>,
    /// Addresses to which lanes are kept up.
    dialled: BTreeSet<String>,
    pub(crate) claims: Claims,
    pub(crate) peeks: Peeks,
    /// The map of the lease that the table knows.
    lease_version: Option<u64>,
    /// When the poll was sent that was looked at last.
    polled_at: Option<Time>,
    /// Slots whose owners the gateways were not told yet.
    untold: BTreeSet<Slot>,
    /// The routers there are changed since the gateways were told.
    is_untold: bool,
}

impl Cluster {
    /// The only router there is: everything is its own by this epoch. `address` is where it is reached.
    #[must_use]
    pub fn sole(me: Incarnation, epoch: u64, address: &str) -> Cluster {
        let mut cluster = Cluster::new(me, None, address);
        cluster.table.own_all(epoch);
        cluster
    }

    /// One of several, which owns what its lease says.
    #[must_use]
    pub fn shared(me: Incarnation, lease: Lease, address: &str) -> Cluster {
        Cluster::new(me, Some(lease), address)
    }

    fn new(me: Incarnation, lease: Option<Lease>, address: &str) -> Cluster {
        Cluster {
            me,
            address: address.to_owned(),
            table: Table::new(me),
            lease,
            peers: BTreeMap::new(),
            dialled: BTreeSet::new(),
            claims: Claims::default(),
            peeks: Peeks::default(),
            lease_version: None,
            polled_at: None,
            untold: BTreeSet::new(),
            is_untold: false,
        }
    }

    /// Whether there is no other router, ever.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        self.lease.is_none()
    }

    /// Whose life this is.
    #[must_use]
    pub fn me(&self) -> Incarnation {
        self.me
    }

    /// Who owns a user.
    #[must_use]
    pub fn owner_of(&self, user: UserId) -> Owner {
        self.table.owner(slot_of_user(user))
    }

    /// Who owns a conversation.
    #[must_use]
    pub fn owner_of_conversation(&self, conversation: ConversationId) -> Owner {
        self.table.owner(slot_of_conversation(conversation))
    }

    /// Whether memory may answer what is asked about this slot now (G10).
    #[must_use]
    pub fn answers(&self, now: Time, slot: Slot) -> bool {
        self.table.accepts(slot) && self.lease.as_ref().is_none_or(|lease| lease.answers(now, slot))
    }

    /// The lanes on which a user hears: of gateways if they are ours, else that of their owner.
    pub fn each_way(&self, user: UserId, registry: &Registry, outbox: &Outbox, mut each: impl FnMut(LaneId)) {
        match if self.is_sole() { Owner::Us } else { self.owner_of(user) } {
            Owner::Us => registry.lanes_of(user, outbox).for_each(each),
            Owner::Other(owner) => {
                if let Some(lane) = self.lane_to(owner) {
                    each(lane);
                }
            }
            Owner::Nobody => {}
        }
    }

    /// The lane to another router.
    #[must_use]
    pub fn lane_to(&self, router: Incarnation) -> Option<LaneId> {
        self.peers.get(&router).and_then(|peer| peer.lane)
    }

    /// Has another router tell these users of an event.
    pub(crate) fn notify(&mut self, to: Incarnation, notice: Notify, outbox: &mut Outbox) {
        // Learned of by somebody's word before any poll has shown it: it will have a lane, or never have lived.
        let peer = self.peers.entry(to).or_default();
        peer.notices.add(notice, peer.lane, outbox);
    }

    /// Another router has answered for everything up to that number.
    pub(crate) fn notified(&mut self, by: Incarnation, request: u64) -> Vec<Answered> {
        self.peers.get_mut(&by).map(|peer| peer.notices.answered(request)).unwrap_or_default()
    }

    /// Whether a `Notify` with this number is the next of its sender's. `None`: a number is missing, which never happens on
    /// a lane that is whole.
    pub(crate) fn is_next(&mut self, from: Incarnation, request: u64) -> Option<bool> {
        let peer = self.peers.get_mut(&from)?;
        peer.is_owed_answer = true;
        if request <= peer.heard_count {
            return Some(false);
        }
        let is_next = request == peer.heard_count + 1;
        peer.heard_count += u64::from(is_next);
        is_next.then_some(true)
    }

    /// The sender let go of everything up to this number.
    pub(crate) fn lapsed(&mut self, from: Incarnation, request: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        peer.is_owed_answer = true;
        let is_news = request > peer.heard_count;
        peer.heard_count = peer.heard_count.max(request);
        is_news
    }

    /// Who is owed an answer for what was passed on in this turn, and up to which number.
    pub(crate) fn take_owed(&mut self) -> Vec<(LaneId, u64)> {
        let owed = self.peers.values_mut().filter(|peer| peer.is_owed_answer);
        owed.filter_map(|peer| {
            peer.is_owed_answer = false;
            peer.lane.map(|lane| (lane, peer.heard_count))
        })
        .collect()
    }

    /// A lane to another router is there: what it has not answered leaves on it first, behind what it may not know of slots
    /// that were its own.
    pub(crate) fn router_up(&mut self, now: Time, router: Incarnation, lane: LaneId, outbox: &mut Outbox) {
        let is_elsewhere =
            |slot: &Slot| ![Owner::Nobody, Owner::Other(router)].contains(&self.table.owner(*slot));
        let slots = (0..SLOTS_COUNT).map(Slot).filter(is_elsewhere).map(|slot| self.owned(slot)).collect();
        outbox.send(lane, &Moved { slots });
        let peer = self.peers.entry(router).or_default();
        (peer.lane, peer.opened_at) = (Some(lane), now);
        peer.notices.resend(lane, outbox);
        for own in self.claims.unanswered(router) {
            outbox.send(lane, own);
        }
    }

    /// A lane to another router is gone.
    pub(crate) fn router_down(&mut self, router: Incarnation, lane: LaneId) {
        if let Some(peer) = self.peers.get_mut(&router).filter(|peer| peer.lane == Some(lane)) {
            peer.lane = None;
        }
    }

    /// Takes over what the lease knows of owners, if that changed.
    pub(crate) fn learn_owners(&mut self) {
        let Some(lease) = &self.lease else { return };
        if self.lease_version.replace(lease.map_version()) == Some(lease.map_version()) {
            return;
        }
        for (slot, held) in (0..SLOTS_COUNT).map(Slot).zip(lease.owners()) {
            self.table.learn(slot, held.owner, held.epoch);
        }
    }

    /// Slots changed hands: who else has to know is told.
    pub(crate) fn tell_routers(&self, moved: &[(Slot, Incarnation)], outbox: &mut Outbox) {
        let mut told: BTreeMap<LaneId, Vec<OwnedSlot>> = BTreeMap::new();
        for (slot, whom) in moved {
            if let Some(lane) = self.lane_to(*whom) {
                told.entry(lane).or_default().push(self.owned(*slot));
            }
        }
        for (lane, slots) in told {
            outbox.send(lane, &Moved { slots });
        }
    }

    /// Takes over who lives, if there was a poll. Returns the routers that are no more, with what they never answered.
    pub(crate) fn learn_living(&mut self, outbox: &mut Outbox) -> Vec<(Incarnation, Vec<Answered>)> {
        let Some((lease, sent_at)) = self.lease.as_ref().and_then(|lease| Some((lease, lease.polled_at()?)))
        else {
            return Vec::new();
        };
        if self.polled_at.replace(sent_at) == Some(sent_at) {
            return Vec::new();
        }
        let living: Vec<Living> = lease.living().to_vec();
        let others: BTreeSet<Incarnation> =
            living.iter().map(|one| one.incarnation).filter(|one| *one != self.me).collect();
        for (to, own) in self.claims.polled(sent_at, &others) {
            if let Some(lane) = self.lane_to(to) {
                outbox.send(lane, &own);
            }
        }
        let gone: Vec<Incarnation> = self
            .peers
            .iter()
            .filter(|(router, peer)| {
                // One that a poll from before its lane does not show may only be new.
                !others.contains(router) && (peer.lane.is_none() || peer.opened_at < sent_at)
            })
            .map(|(router, _)| *router)
            .collect();
        let gone = gone.into_iter().filter_map(|router| {
            let peer = self.peers.remove(&router)?;
            self.is_untold = true;
            if let Some(lane) = peer.lane {
                outbox.push(Output::CloseLane { lane });
                outbox.lane_down(lane);
            }
            Some((router, peer.notices.forget()))
        });
        let gone: Vec<_> = gone.collect();
        for one in living.into_iter().filter(|one| one.incarnation != self.me) {
            let peer = self.peers.entry(one.incarnation).or_default();
            self.is_untold |= peer.address != one.address;
            peer.address = one.address;
        }
        self.dial(outbox);
        gone
    }

    /// The younger one calls. Of those that are said to live at one address only the youngest does, and at our own
    /// nobody else: a router that was started again is known sooner than the death of the one before.
    fn dial(&mut self, outbox: &mut Outbox) {
        let mut youngest = BTreeMap::from([(self.address.as_str(), self.me)]);
        let others = self.peers.iter().filter(|(_, peer)| !peer.address.is_empty());
        for (router, peer) in others {
            let known = youngest.entry(&peer.address).or_insert(*router);
            *known = (*known).max(*router);
        }
        let elders = youngest.into_iter().filter(|(_, router)| *router < self.me);
        let elders: BTreeSet<String> = elders.map(|(address, _)| address.to_owned()).collect();
        for address in elders.difference(&self.dialled) {
            outbox.push(Output::Dial { address: address.clone() });
        }
        for address in self.dialled.difference(&elders) {
            outbox.push(Output::HangUp { address: address.clone() });
        }
        self.dialled = elders;
    }

    /// This life is over: the next one dials anew.
    pub(crate) fn hang_up(&mut self, outbox: &mut Outbox) {
        for address in std::mem::take(&mut self.dialled) {
            outbox.push(Output::HangUp { address });
        }
    }

    /// Slots changed hands: the gateways are to hear of it.
    pub(crate) fn tell_of(&mut self, slots: &[Slot]) {
        self.untold.extend(slots);
    }

    /// Everything that gateways are told.
    #[must_use]
    pub(crate) fn owners(&self) -> Owners {
        self.owners_of((0..SLOTS_COUNT).map(Slot))
    }

    /// What changed since the gateways were told last.
    pub(crate) fn take_news(&mut self) -> Option<Owners> {
        let is_news = std::mem::take(&mut self.is_untold) || !self.untold.is_empty();
        is_news.then(|| {
            let slots = std::mem::take(&mut self.untold);
            self.owners_of(slots.into_iter())
        })
    }

    fn owners_of(&self, slots: impl Iterator<Item = Slot>) -> Owners {
        let me = RouterAddress { incarnation: self.me.0, address: self.address.clone() };
        let others = self.peers.iter().filter(|(_, peer)| !peer.address.is_empty());
        let others = others
            .map(|(router, peer)| RouterAddress { incarnation: router.0, address: peer.address.clone() });
        let mut routers: Vec<RouterAddress> = others.chain([me]).collect();
        routers.sort_unstable_by_key(|router| router.incarnation);
        let slots = slots.map(|slot| self.owned(slot)).collect();
        Owners { routers, slots }
    }

    /// A slot as frames say it.
    pub(crate) fn owned(&self, slot: Slot) -> OwnedSlot {
        let owner = match self.table.owner(slot) {
            Owner::Us => self.me.0,
            Owner::Other(other) => other.0,
            Owner::Nobody => 0,
        };
        OwnedSlot { slot: slot.0, owner, epoch: self.table.epoch(slot) }
    }

    /// Other routers that live.
    #[must_use]
    pub fn peers_count(&self) -> usize {
        self.peers.len()
    }

    /// Notices that other routers have not answered.
    #[must_use]
    pub fn notices_count(&self) -> usize {
        self.peers.values().map(|peer| peer.notices.count()).sum()
    }
}
