//! Who hears which events of conversations that were active lately, and the lanes on which they hear.
//!
//! A list is read once. Afterwards the events that change it are applied to it when their turn to be handed on comes, so
//! that a conversation whose members come and go is not read again for each.
//!
//! # Invariants
//! - A list includes every change of its membership up to its version; it may include later ones, because each member
//!   hears an interval of seqs and nothing else (G11).
//! - Bounded in members of all lists together; the list that was unused for longest goes first.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{Body, Event};
use carillon_store::verb::{Hearer, Incarnation};

use crate::cluster::Cluster;
use crate::cluster::table::{Owner, SlotSet};
use crate::outbox::{LaneId, Outbox};
use crate::registry::Registry;

/// Members in all lists, former ones included: 24 bytes each, and again up to 8 for the lanes.
pub(super) const MEMBERS_MAX: usize = 1 << 20;

/// A list that was used among so many latest uses is not moved up again: order among the busiest does not matter.
const RECENT_USES: u64 = 256;

/// What an event does to the membership, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The conversation began with these.
    Created(Vec<UserId>),
    /// These joined; the second ones among them had been members before.
    Added(Vec<UserId>, Vec<UserId>),
    /// This is the last event that the user hears.
    Removed(UserId),
}

impl Change {
    /// `None` for events that change nothing about who hears. A record that this build does not know is none that it
    /// wrote, nor one that a member of this conversation could have.
    pub(super) fn of(record: &[u8]) -> Option<Change> {
        if let Some((_, _, true)) = Event::decode_sender(record) {
            return None;
        }
        match Event::decode(record)?.body {
            Body::Created { members, .. } => Some(Change::Created(members)),
            Body::MembersAdded { users, returning, .. } => Some(Change::Added(users, returning)),
            Body::MemberRemoved { user, .. } => Some(Change::Removed(user)),
            _ => None,
        }
    }
}

struct Members {
    version: u64,
    /// Those who may hear something yet, ascending.
    list: Vec<Hearer>,
    /// Those who heard their last event, and which that was: an older snapshot may not know.
    former: BTreeMap<UserId, Seq>,
    /// Who hears on which lane, and whom another router tells: so while the registry and the table of owners are of these
    /// versions, for the events from – to.
    groups: Groups,
    groups_at: Option<((u64, u64), Seq, Seq)>,
    used: u64,
}

/// Who hears, by the way that leads there.
#[derive(Default)]
pub(super) struct Groups {
    /// Users of our own, by lane.
    pub(super) lanes: Vec<(LaneId, Vec<UserId>)>,
    /// Users of other routers.
    pub(super) routers: Vec<(Incarnation, Vec<UserId>)>,
}

/// Who hears an event.
pub(super) struct Listening<'a> {
    pub(super) groups: &'a Groups,
    /// What finding out has cost.
    pub(super) users_looked_at: usize,
    /// Members, whether or not any of them listens.
    pub(super) hearers_count: usize,
}

/// What a list knows of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hears {
    /// There is no list.
    Unknown,
    /// Nothing, ever.
    Nothing,
    /// From – to.
    Between(Seq, Seq),
    /// Nothing any more; up to there before.
    UpTo(Seq),
}

/// See the module.
#[derive(Default)]
pub(super) struct MembersCache {
    lists: BTreeMap<ConversationId, Members>,
    by_use: BTreeMap<u64, ConversationId>,
    uses_count: u64,
    members_count: usize,
}

impl MembersCache {
    pub(super) fn insert(&mut self, conversation: ConversationId, version: u64, list: Vec<Hearer>) {
        self.remove(conversation);
        self.members_count += list.len();
        self.uses_count += 1;
        let used = self.uses_count;
        let (former, groups) = (BTreeMap::new(), Groups::default());
        let members = Members { version, list, former, groups, groups_at: None, used };
        self.lists.insert(conversation, members);
        self.by_use.insert(used, conversation);
        // The newest stays, however long it is: it is about to be used.
        while self.members_count > MEMBERS_MAX && self.lists.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.remove(oldest);
        }
    }

    /// The version of a list, if there is one.
    pub(super) fn version(&self, conversation: ConversationId) -> Option<u64> {
        self.lists.get(&conversation).map(|members| members.version)
    }

    /// What a user hears of a conversation.
    pub(super) fn hears(&self, conversation: ConversationId, user: UserId) -> Hears {
        let Some(members) = self.lists.get(&conversation) else { return Hears::Unknown };
        match members.list.binary_search_by_key(&user, |hearer| hearer.user) {
            Ok(at) => {
                members.list.get(at).map_or(Hears::Nothing, |it| Hears::Between(it.from_seq, it.to_seq))
            }
            Err(_) => members.former.get(&user).map_or(Hears::Nothing, |to| Hears::UpTo(*to)),
        }
    }

    /// Those who may hear something yet, as far as it was handed on, ascending.
    pub(super) fn hearers(&self, conversation: ConversationId) -> Option<&[Hearer]> {
        self.lists.get(&conversation).map(|members| members.list.as_slice())
    }

    /// Applies the event at `seq`, unless the list includes it already. `false`: there is no list, and the event does
    /// not begin one.
    pub(super) fn apply(&mut self, conversation: ConversationId, seq: Seq, change: Option<&Change>) -> bool {
        if let Some(Change::Created(users)) = change
            && !self.lists.contains_key(&conversation)
        {
            let hearer = |user: &UserId| Hearer { user: *user, from_seq: seq, to_seq: Seq::MAX };
            let mut list: Vec<Hearer> = users.iter().map(hearer).collect();
            list.sort_unstable_by_key(|hearer| hearer.user);
            self.insert(conversation, 1, list);
            return true;
        }
        let Some(members) = self.lists.get_mut(&conversation) else { return false };
        let count_before = members.count();
        if change.is_some_and(|change| members.apply(seq, change)) {
            members.version += 1;
            members.groups_at = None;
        }
        self.members_count = self.members_count - count_before + members.count();
        true
    }

    /// Who hears the event `seq`; `None`: there is no list.
    pub(super) fn listening(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        registry: &Registry,
        cluster: &Cluster,
        outbox: &Outbox,
    ) -> Option<Listening<'_>> {
        let members = self.lists.get_mut(&conversation)?;
        self.uses_count += 1;
        if self.uses_count - members.used > RECENT_USES {
            self.by_use.remove(&members.used);
            members.used = self.uses_count;
            self.by_use.insert(members.used, conversation);
        }
        let is_known = members.groups_at.is_some_and(|(versions, from, to)| {
            versions == versions_of(registry, cluster) && from <= seq && seq <= to
        });
        let users_looked_at = if is_known { members.groups.len() } else { members.count() };
        if !is_known {
            members.retire(seq);
            members.group(seq, registry, cluster, outbox);
        }
        let hearers_count = members.list.len();
        Some(Listening { groups: &members.groups, users_looked_at, hearers_count })
    }

    /// Forgets the lists of these slots' conversations.
    pub(super) fn remove_slots(&mut self, slots: &SlotSet) {
        let gone: Vec<ConversationId> =
            self.lists.keys().copied().filter(|conversation| slots.has_conversation(*conversation)).collect();
        gone.into_iter().for_each(|conversation| self.remove(conversation));
    }

    pub(super) fn remove(&mut self, conversation: ConversationId) {
        if let Some(members) = self.lists.remove(&conversation) {
            self.members_count -= members.count();
            self.by_use.remove(&members.used);
        }
    }
}

impl Members {
    fn count(&self) -> usize {
        self.list.len() + self.former.len()
    }

    /// Whether it changed anything: `false` when the list is as new as the event.
    fn apply(&mut self, seq: Seq, change: &Change) -> bool {
        match change {
            Change::Created(_) => false,
            Change::Added(users, _) => {
                let mut changed = false;
                for user in users {
                    let hearer = Hearer { user: *user, from_seq: seq, to_seq: Seq::MAX };
                    match self.list.binary_search_by_key(user, |hearer| hearer.user) {
                        Ok(at) => {
                            if let Some(old) = self.list.get_mut(at).filter(|old| old.to_seq < seq) {
                                (*old, changed) = (hearer, true);
                            }
                        }
                        Err(at) => {
                            if self.former.get(user).is_none_or(|to| *to < seq) {
                                self.former.remove(user);
                                self.list.insert(at, hearer);
                                changed = true;
                            }
                        }
                    }
                }
                changed
            }
            Change::Removed(user) => {
                let Ok(at) = self.list.binary_search_by_key(user, |hearer| hearer.user) else { return false };
                let open = self.list.get_mut(at).filter(|it| it.from_seq <= seq && it.to_seq == Seq::MAX);
                open.map(|hearer| hearer.to_seq = seq).is_some()
            }
        }
    }

    /// Sets those aside who hear nothing from `seq` on.
    fn retire(&mut self, seq: Seq) {
        if self.list.iter().all(|hearer| hearer.to_seq >= seq) {
            return;
        }
        let former = &mut self.former;
        self.list.retain(|hearer| {
            let hears = hearer.to_seq >= seq;
            if !hears {
                former.insert(hearer.user, hearer.to_seq);
            }
            hears
        });
    }

    /// Finds out who hears `seq` on which lane, and for which seqs around it that is the same.
    fn group(&mut self, seq: Seq, registry: &Registry, cluster: &Cluster, outbox: &Outbox) {
        let mut lanes: BTreeMap<LaneId, Vec<UserId>> = BTreeMap::new();
        let mut routers: BTreeMap<Incarnation, Vec<UserId>> = BTreeMap::new();
        let mut to = Seq::MAX;
        for hearer in &self.list {
            if hearer.from_seq > seq {
                to = to.min(hearer.from_seq - 1);
                continue;
            }
            to = to.min(hearer.to_seq);
            match if cluster.is_sole() { Owner::Us } else { cluster.owner_of(hearer.user) } {
                Owner::Us => {
                    for lane in registry.lanes_of(hearer.user, outbox) {
                        lanes.entry(lane).or_default().push(hearer.user);
                    }
                }
                Owner::Other(owner) => routers.entry(owner).or_default().push(hearer.user),
                // Whoever takes them over has their sessions ask anew.
                Owner::Nobody => {}
            }
        }
        self.groups = Groups { lanes: lanes.into_iter().collect(), routers: routers.into_iter().collect() };
        self.groups_at = Some((versions_of(registry, cluster), seq, to));
    }
}

impl Groups {
    pub(super) fn len(&self) -> usize {
        self.lanes.len() + self.routers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn users_count(&self) -> usize {
        let lanes = self.lanes.iter().map(|(_, users)| users.len());
        lanes.chain(self.routers.iter().map(|(_, users)| users.len())).sum()
    }
}

fn versions_of(registry: &Registry, cluster: &Cluster) -> (u64, u64) {
    (registry.version(), cluster.table.version())
}
