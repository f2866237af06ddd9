//! Conversations as their members see them. A user's list is joined with the heads and sorted at read time, so that a
//! message costs no write for each member.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;

use super::{USER_CONVERSATIONS_MAX, current_members, marks, page, view};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Answer, Summary};

/// The most summaries in one answer, whatever it is asked for.
const LIMIT_MAX: u32 = 1_000;

pub(super) fn one(read: &mut dyn Read, user: UserId, conversation: ConversationId) -> Result<Answer, Halt> {
    let summary = summary(read, user, conversation)?.ok_or_else(forbidden)?;
    Ok(Answer::Conversations { summaries: vec![summary], more: false })
}

pub(super) fn list(read: &mut dyn Read, user: UserId, below: (u64, u64), limit: u32) -> Result<Answer, Halt> {
    let mut order = Vec::new();
    for conversation in ids(read, user)? {
        let head = expect(rows::load_head(read, conversation)?)?;
        order.push((head.last_id.0, conversation.0));
    }
    order.retain(|place| *place < below);
    order.sort_unstable_by(|one, other| other.cmp(one));
    let limit = limit.min(LIMIT_MAX) as usize;
    let more = order.len() > limit;
    let mut summaries = Vec::with_capacity(limit.min(order.len()));
    for (_, conversation) in order.into_iter().take(limit) {
        summaries.push(expect(summary(read, user, ConversationId(conversation))?)?);
    }
    Ok(Answer::Conversations { summaries, more })
}

/// The conversations that a user is a member of, ascending.
fn ids(read: &mut dyn Read, user: UserId) -> Result<Vec<ConversationId>, Halt> {
    let mut ids = Vec::new();
    walk(read, keys::user_conversations(user), USER_CONVERSATIONS_MAX, |(key, _)| {
        ids.push(expect(keys::user_conversation_id(&key))?);
        Ok(Walk::On)
    })?;
    Ok(ids)
}

/// `None` for those who are not members now.
fn summary(read: &mut dyn Read, user: UserId, conversation: ConversationId) -> Result<Option<Summary>, Halt> {
    let Some(view) = view(read, conversation, user)?.filter(|view| view.member.is_current()) else {
        return Ok(None);
    };
    let row = expect(rows::load_conversation(read, conversation)?)?;
    let members = current_members(read, conversation)?;
    let seen = view.member.read_index + view.member.own_since_read;
    Ok(Some(Summary {
        conversation,
        conversation_type: row.conversation_type,
        history: row.history,
        group_name: row.group_name,
        member_ids: members.iter().take(SMALL_GROUP_MEMBERS_MAX).map(|(user, _)| *user).collect(),
        members_count: view.head.members_count,
        created_at: row.created_at,
        created_by: row.created_by,
        head_seq: view.standing.head_seq,
        read_seq: view.member.read_seq,
        unread_count: view.head.message_index.saturating_sub(seen),
        last_id: view.head.last_id,
        last_message: page::last_message(
            read,
            conversation,
            view.standing.first_seq,
            view.standing.head_seq,
        )?,
        marks: marks(&members, user),
    }))
}
