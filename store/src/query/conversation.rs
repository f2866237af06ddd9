//! Conversations as their members see them. A user's list is joined with the heads and sorted at read time, so that a
//! message costs no write for each member.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::time::WallMs;

use super::{member_view, members, page, people, reactions};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect};
use crate::txn::Read;
use crate::verb::{Answer, Summary};

/// The most summaries in one answer, whatever it is asked for.
const LIMIT_MAX: u32 = 1_000;

pub(super) fn one(read: &mut dyn Read, user: UserId, conversation: ConversationId) -> Result<Answer, Halt> {
    Ok(Answer::Conversations { summaries: vec![summary(read, user, conversation)?], more: false })
}

pub(super) fn list(read: &mut dyn Read, user: UserId, below: (u64, u64), limit: u32) -> Result<Answer, Halt> {
    let mut order = Vec::new();
    let mut ids = Vec::new();
    people::current(read, user, |conversation| {
        ids.push(conversation);
        Walk::On
    })?;
    for conversation in ids {
        let head = expect(rows::load_head(read, conversation)?)?;
        order.push((head.last_id.0, conversation.0));
    }
    order.retain(|place| *place < below);
    order.sort_unstable_by(|one, other| other.cmp(one));
    let limit = limit.min(LIMIT_MAX) as usize;
    let more = order.len() > limit;
    let mut summaries = Vec::with_capacity(limit.min(order.len()));
    for (_, conversation) in order.into_iter().take(limit) {
        summaries.push(summary(read, user, ConversationId(conversation))?);
    }
    Ok(Answer::Conversations { summaries, more })
}

/// Refused for those who are not members now.
fn summary(read: &mut dyn Read, user: UserId, conversation: ConversationId) -> Result<Summary, Halt> {
    let view = member_view(read, conversation, user)?;
    let row = expect(rows::load_conversation(read, conversation)?)?;
    let named = members::current(read, conversation, SMALL_GROUP_MEMBERS_MAX)?;
    let marks = if view.is_small() { members::marks(&named, user) } else { Vec::new() };
    let (first, head) = (view.standing.first_seq, view.standing.head_seq);
    let last_message = page::last_message(read, conversation, first, head)?;
    let reacted = reactions::under(read, conversation, last_message.as_slice(), user)?;
    Ok(Summary {
        conversation,
        conversation_type: row.conversation_type,
        history: row.history,
        group_name: row.group_name,
        member_ids: named.iter().map(|(user, _)| *user).collect(),
        members_count: view.head.members_count,
        created_at: row.created_at,
        created_by: row.created_by,
        head_seq: head,
        read_seq: view.member.read_seq,
        unread_count: rows::unread_count(read, conversation, user, &view.head, &view.member)?,
        last_id: view.head.last_id,
        last_message,
        marks,
        last_reactions: reacted.into_iter().next().map(|(_, reactions)| reactions).unwrap_or_default(),
        muted_until: rows::load_number(read, &keys::mute(user, conversation))?.map(WallMs),
    })
}
