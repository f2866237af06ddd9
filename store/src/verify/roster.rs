//! Who is a member of a conversation: by its events, by its members' rows, and by each user's own list.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{Body, Event, History, MemberRow, Role, UserConversationRow};

use super::{Checked, Cursor, Walk};
use crate::keys;
use crate::rows::decode_member;

/// Memberships of one conversation that are held at a time. In a larger one they are not compared with its events.
const MEMBERS_MAX: usize = 1 << 18;

/// See the module.
pub(super) struct Roster {
    members: BTreeMap<UserId, Member>,
    /// Whose read watermark lies where, ascending, and which of these comes next.
    reads: Vec<(Seq, UserId)>,
    next_read: usize,
    is_too_large: bool,
}

#[derive(Default)]
struct Member {
    row: Option<MemberRow>,
    /// By the events.
    from: Seq,
    to: Seq,
    role: Role,
    role_seq: Seq,
    is_returning: bool,
    /// Messages up to the read watermark, and their own above it.
    read_index: u64,
    own_since_read: u64,
}

impl Member {
    fn is_current(&self) -> bool {
        self.from > 0 && self.to == 0
    }
}

impl Roster {
    /// Reads the members' rows.
    pub(super) fn read(walk: &mut Walk<'_>, rows: &mut Cursor, id: ConversationId) -> Checked<Roster> {
        let mut members = BTreeMap::new();
        let mut is_too_large = false;
        while let Some((key, row)) = rows.next_of(walk, id)? {
            walk.counts().memberships += 1;
            let (Some(user), row) = (keys::member_user(&key), decode_member(&row)) else { continue };
            let row = walk.decoded(&key, row);
            is_too_large |= members.len() >= MEMBERS_MAX;
            if !is_too_large {
                members.insert(user, Member { row, ..Member::default() });
            }
        }
        if is_too_large {
            members.clear();
            walk.unchecked(format!(
                "conversation {id} has more than {MEMBERS_MAX} memberships: they were not compared with its events"
            ));
        }
        let read = |(user, member): (&UserId, &Member)| Some((member.row?.read_seq, *user));
        let mut reads: Vec<(Seq, UserId)> = members.iter().filter_map(read).collect();
        reads.sort_unstable();
        // Nothing is before the first event: those who have read nothing need no look.
        let next_read = reads.partition_point(|(seq, _)| *seq == 0);
        Ok(Roster { members, reads, next_read, is_too_large })
    }

    /// How many there are now; unknown of a group too large.
    pub(super) fn current_count(&self) -> Option<u64> {
        let current = self.members.values().filter(|member| member.is_current());
        (!self.is_too_large).then(|| current.count() as u64)
    }

    /// The next event; with it there are so many `messages`.
    pub(super) fn event(
        &mut self,
        walk: &mut Walk<'_>,
        id: ConversationId,
        seq: Seq,
        messages: u64,
        is_message: bool,
        event: &Event<'_>,
    ) {
        if self.is_too_large {
            return;
        }
        // What one did one did as a member; the first event makes its sender one.
        if seq > 1 && !self.members.get(&event.sender).is_some_and(Member::is_current) {
            let words = format!("event {seq} is of user {}, who was no member", event.sender);
            walk.wrong_in(id, words);
        }
        match &event.body {
            Body::Created { members, .. } => {
                for user in members {
                    let role = if *user == event.sender { Role::Owner } else { Role::Member };
                    let member = self.members.entry(*user).or_default();
                    (member.from, member.role) = (seq, role);
                }
            }
            Body::MembersAdded { users, returning, .. } => {
                for user in users {
                    let member = self.members.entry(*user).or_default();
                    let was_member = member.from > 0;
                    if member.is_current() || was_member != returning.contains(user) {
                        walk.wrong_in(id, format_args!("event {seq} adds user {user}, who was there"));
                    }
                    (member.from, member.to) = (seq, 0);
                    (member.role, member.role_seq) = (Role::Member, 0);
                    member.is_returning = was_member;
                }
            }
            Body::MemberRemoved { user, heir } => {
                let member = self.members.entry(*user).or_default();
                if !member.is_current() {
                    walk.wrong_in(id, format_args!("event {seq} removes user {user}, who was not there"));
                }
                member.to = seq;
                if let Some(heir) = heir {
                    let member = self.members.entry(*heir).or_default();
                    (member.role, member.role_seq) = (Role::Owner, seq);
                }
            }
            Body::RoleChanged { user, role } => {
                let member = self.members.entry(*user).or_default();
                (member.role, member.role_seq) = (*role, seq);
            }
            _ => {}
        }
        if is_message
            && let Some(member) = self.members.get_mut(&event.sender)
            && member.row.is_some_and(|row| seq > row.read_seq)
        {
            member.own_since_read += 1;
        }
        while let Some((read_seq, user)) = self.reads.get(self.next_read)
            && *read_seq <= seq
        {
            if let Some(member) = self.members.get_mut(user) {
                member.read_index = messages;
            }
            self.next_read += 1;
        }
    }

    /// Behind the last event: everybody agrees.
    pub(super) fn end(self, walk: &mut Walk<'_>, id: ConversationId, history: History) -> Checked {
        if let Some((_, user)) = self.reads.get(self.next_read) {
            walk.wrong_in(id, format_args!("user {user} has read more than there is"));
        }
        let head =
            |read_seq: Seq| self.reads.get(self.next_read).is_none_or(|(beyond, _)| read_seq < *beyond);
        for (user, member) in &self.members {
            let Some(row) = member.row else {
                walk.wrong_in(id, format_args!("user {user} is a member by an event, and by no row"));
                continue;
            };
            let by_events = MemberRow {
                from: member.from,
                to: member.to,
                role: member.role,
                role_seq: member.role_seq,
                read_index: member.read_index,
                own_since_read: member.own_since_read,
                ..row
            };
            if row != by_events && head(row.read_seq) {
                let words = format!("user {user} is {row:?}, and by its events {by_events:?}");
                walk.wrong_in(id, words);
            }
            if row.delivered_seq < row.read_seq {
                walk.wrong_in(id, format_args!("user {user} has read what was not delivered"));
            }
            let first_seq = if history == History::All { 1 } else { member.from };
            let expected =
                UserConversationRow { first_seq, left_seq: member.to, is_returning: member.is_returning };
            let listed = walk.load(&keys::user_conversation(*user, id), UserConversationRow::decode)?;
            if listed != Some(expected) {
                walk.wrong_in(id, format_args!("the list of user {user} does not have it as it is"));
            }
            if walk.read.get(&keys::user(*user))?.is_none() {
                walk.wrong_in(id, format_args!("its member {user} is no user"));
            }
        }
        Ok(())
    }
}
