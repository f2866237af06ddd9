//! Conversations as their members see them. A user's list is joined with the heads and sorted at read time, so that a
//! message costs no write for each member.

use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::record::Event;
use carillon_protocol::time::WallMs;

use super::{member_view, members, page, people, reactions};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect};
use crate::txn::Read;
use crate::verb::{Answer, Summary};

/// The most summaries in one answer, whatever it is asked for.
const LIMIT_MAX: u32 = 1_000;
/// The most conversations whose place is looked for that came up since the list was begun: some twenty reads each. Those
/// beyond are found at the top of the next list.
const MOVED_MAX: usize = 1_024;

pub(super) fn one(read: &mut dyn Read, user: UserId, conversation: ConversationId) -> Result<Answer, Halt> {
    Ok(Answer::Conversations { summaries: vec![summary(read, user, conversation)?], more: false })
}

pub(super) fn list(
    read: &mut dyn Read,
    user: UserId,
    below: u64,
    as_of: u64,
    limit: u32,
) -> Result<Answer, Halt> {
    let mut order = Vec::new();
    let mut moved_count = 0;
    let mut ids = Vec::new();
    people::current(read, user, |conversation| {
        ids.push(conversation);
        Walk::On
    })?;
    for conversation in ids {
        let head = expect(rows::load_head(read, conversation)?)?;
        let place = if head.last_id.0 <= as_of {
            Some(head.last_id)
        } else if moved_count < MOVED_MAX {
            moved_count += 1;
            last_id_as_of(read, conversation, head.seq, as_of)?
        } else {
            None
        };
        order.extend(place.filter(|place| place.0 < below).map(|place| (place, conversation)));
    }
    order.sort_unstable_by(|one, other| other.cmp(one));
    let limit = limit.min(LIMIT_MAX) as usize;
    let more = order.len() > limit;
    let mut summaries = Vec::with_capacity(limit.min(order.len()));
    for (place, conversation) in order.into_iter().take(limit) {
        summaries.push(Summary { last_id: place, ..summary(read, user, conversation)? });
    }
    Ok(Answer::Conversations { summaries, more })
}

/// The id of the last event that is not above `as_of`; ids rise with the seq.
fn last_id_as_of(
    read: &mut dyn Read,
    conversation: ConversationId,
    head: Seq,
    as_of: u64,
) -> Result<Option<MessageId>, Halt> {
    let mut last_id = None;
    // Below `low` all are of then, from `high` on none is.
    let (mut low, mut high) = (1, head);
    while low < high {
        let middle = low + (high - low) / 2;
        // A log that lost its beginning has nothing of then there.
        let record = read.get(&keys::event(conversation, middle))?;
        let id = record.map(|record| expect(Event::decode(&record)).map(|event| event.id)).transpose()?;
        if id.is_none_or(|id| id.0 <= as_of) {
            (low, last_id) = (middle + 1, id);
        } else {
            high = middle;
        }
    }
    Ok(last_id)
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
