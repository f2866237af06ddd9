//! Member lists of conversations that were active lately, and the lanes on which their members hear.
//!
//! # Invariants
//! - A list is used only while it is at least as new as the commit that asks for it.
//! - Bounded in members of all lists together; the list that was unused for longest goes first.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq, UserId};

use crate::outbox::{LaneId, Outbox};
use crate::registry::Registry;

/// Members in all lists: 16 bytes each, and again up to 8 for the lanes.
pub(super) const MEMBERS_MAX: usize = 1 << 20;

/// A list that was used among so many latest uses is not moved up again: order among the busiest does not matter.
const RECENT_USES: u64 = 256;

struct Members {
    version: u64,
    /// Ascending, with the first seq that each may see.
    list: Vec<(UserId, Seq)>,
    /// From this seq on all of them may see every event.
    from_max: Seq,
    /// Who hears on which lane, as of the registry's version.
    groups: Vec<(LaneId, Vec<UserId>)>,
    groups_at: Option<u64>,
    used: u64,
}

/// Who hears an event.
pub(super) struct Listening<'a> {
    /// By lane.
    pub(super) groups: &'a [(LaneId, Vec<UserId>)],
    /// What finding out has cost.
    pub(super) users_looked_at: usize,
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
    pub(super) fn insert(&mut self, conversation: ConversationId, version: u64, list: Vec<(UserId, Seq)>) {
        self.remove(conversation);
        self.members_count += list.len();
        self.uses_count += 1;
        let from_max = list.iter().map(|(_, from)| *from).max().unwrap_or(0);
        let used = self.uses_count;
        let members = Members { version, list, from_max, groups: Vec::new(), groups_at: None, used };
        self.lists.insert(conversation, members);
        self.by_use.insert(used, conversation);
        // The newest stays, however long it is: it is about to be used.
        while self.members_count > MEMBERS_MAX && self.lists.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.remove(oldest);
        }
    }

    pub(super) fn contains(&self, conversation: ConversationId, user: UserId) -> Option<bool> {
        let members = self.lists.get(&conversation)?;
        Some(members.list.binary_search_by_key(&user, |(member, _)| *member).is_ok())
    }

    /// Who hears the event `seq`, from a list of `version` at least; `None`: there is none.
    pub(super) fn listening(
        &mut self,
        conversation: ConversationId,
        version: u64,
        seq: Seq,
        registry: &mut Registry,
        outbox: &Outbox,
    ) -> Option<Listening<'_>> {
        let members = self.lists.get_mut(&conversation).filter(|members| members.version >= version)?;
        self.uses_count += 1;
        if self.uses_count - members.used > RECENT_USES {
            self.by_use.remove(&members.used);
            members.used = self.uses_count;
            self.by_use.insert(members.used, conversation);
        }

        let everybody_sees = members.from_max <= seq;
        if everybody_sees && !registry.has_pending() && members.groups_at == Some(registry.version()) {
            return Some(Listening { groups: &members.groups, users_looked_at: members.groups.len() });
        }
        let mut groups: BTreeMap<LaneId, Vec<UserId>> = BTreeMap::new();
        for (user, _) in members.list.iter().filter(|(_, from)| *from <= seq) {
            for lane in registry.lanes_of(*user, outbox) {
                groups.entry(lane).or_default().push(*user);
            }
            registry.note_late(*user, conversation, seq);
        }
        members.groups = groups.into_iter().collect();
        members.groups_at = everybody_sees.then_some(registry.version());
        Some(Listening { groups: &members.groups, users_looked_at: members.list.len() })
    }

    fn remove(&mut self, conversation: ConversationId) {
        if let Some(members) = self.lists.remove(&conversation) {
            self.members_count -= members.list.len();
            self.by_use.remove(&members.used);
        }
    }
}
