//! Who is in a conversation, and how far each of them got.

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::PAGE_EVENTS_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::MemberRow;

use super::{MEMBERSHIPS_MAX, View, member_view};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Answer, COUNTS_MAX, Counts, Hearer, Mark};

/// Former members as well: what was appended before they left may still be on its way to them.
pub(super) fn hearers(read: &mut dyn Read, conversation: ConversationId) -> Result<Answer, Halt> {
    let head = rows::load_head(read, conversation)?.ok_or_else(forbidden)?;
    let mut members = Vec::new();
    each(read, conversation, |user, member| {
        let to_seq = if member.is_current() { Seq::MAX } else { member.to };
        members.push(Hearer { user, from_seq: member.from.max(1), to_seq });
        Ok(Walk::On)
    })?;
    Ok(Answer::Members { version: head.members_version, members })
}

/// As [`hearers`], when `user` is a member.
pub(super) fn fellows(
    read: &mut dyn Read,
    user: UserId,
    conversation: ConversationId,
) -> Result<Answer, Halt> {
    let member = rows::load_member(read, conversation, user)?;
    member.filter(MemberRow::is_current).ok_or_else(forbidden)?;
    hearers(read, conversation)
}

/// Every membership, former ones too, ascending by user.
fn each(
    read: &mut dyn Read,
    conversation: ConversationId,
    mut each: impl FnMut(UserId, MemberRow) -> Result<Walk, Halt>,
) -> Result<(), Halt> {
    walk(read, keys::members(conversation), MEMBERSHIPS_MAX, |(key, value)| {
        each(expect(keys::member_user(&key))?, expect(rows::decode_member(&value))?)
    })
}

/// The first `count_max` current members, ascending.
pub(super) fn current(
    read: &mut dyn Read,
    conversation: ConversationId,
    count_max: usize,
) -> Result<Vec<(UserId, MemberRow)>, Halt> {
    let mut members = Vec::new();
    each(read, conversation, |user, member| {
        if member.is_current() {
            members.push((user, member));
        }
        Ok(if members.len() < count_max { Walk::On } else { Walk::Stop })
    })?;
    Ok(members)
}

/// The watermarks of every one of `members` but `reader`.
pub(super) fn marks(members: &[(UserId, MemberRow)], reader: UserId) -> Vec<Mark> {
    let others = members.iter().filter(|(user, _)| *user != reader);
    others.map(|(user, member)| mark(*user, member)).collect()
}

/// What was sent before a member joined is not held back by them.
fn mark(user: UserId, member: &MemberRow) -> Mark {
    let before = member.from.saturating_sub(1);
    Mark { user, delivered_seq: member.delivered_seq.max(before), read_seq: member.read_seq.max(before) }
}

/// How many current members, each sender not counted for themselves, got as far as each of the seqs: one walk for all.
pub(super) fn count(
    read: &mut dyn Read,
    conversation: ConversationId,
    senders: &[(UserId, Seq)],
) -> Result<Vec<Counts>, Halt> {
    let mut counts: Vec<Counts> =
        senders.iter().map(|(_, seq)| Counts { seq: *seq, ..Counts::default() }).collect();
    each(read, conversation, |user, member| {
        let mark = mark(user, &member);
        for (counted, (sender, seq)) in counts.iter_mut().zip(senders) {
            let is_counted = member.is_current() && user != *sender;
            counted.delivered_count += u64::from(is_counted && mark.delivered_seq >= *seq);
            counted.read_count += u64::from(is_counted && mark.read_seq >= *seq);
        }
        Ok(Walk::On)
    })?;
    Ok(counts)
}

/// For a router, which has the senders from the log.
pub(super) fn counts(
    read: &mut dyn Read,
    conversation: ConversationId,
    senders: &[(UserId, Seq)],
) -> Result<Answer, Halt> {
    if senders.len() > COUNTS_MAX {
        return Err(Refusal::new(Code::TooLarge, "more senders than are counted for at once").into());
    }
    rows::load_head(read, conversation)?.ok_or_else(forbidden)?;
    count(read, conversation, senders).map(Answer::Counts)
}

pub(super) fn receipts(
    read: &mut dyn Read,
    user: UserId,
    conversation: ConversationId,
    seq: Seq,
) -> Result<Answer, Halt> {
    let view = member_view(read, conversation, user)?;
    if seq > view.head.seq {
        return Err(Refusal::field("seq", "seq is beyond the head of the conversation").into());
    }
    if view.is_small() {
        return Ok(Answer::Marks(small_marks(read, &view, user)?));
    }
    let seq = if seq == 0 { view.head.seq } else { seq };
    count(read, conversation, &[(user, seq)]).map(Answer::Counts)
}

/// The watermarks of the others, where members are named.
pub(super) fn small_marks(read: &mut dyn Read, view: &View, reader: UserId) -> Result<Vec<Mark>, Halt> {
    Ok(marks(&current(read, view.standing.conversation, usize::MAX)?, reader))
}

pub(super) fn page(
    read: &mut dyn Read,
    user: UserId,
    conversation: ConversationId,
    after: UserId,
    limit: u32,
) -> Result<Answer, Halt> {
    member_view(read, conversation, user)?;
    let limit = limit.min(PAGE_EVENTS_MAX) as usize;
    let mut members = Vec::new();
    let mut more = false;
    walk(read, keys::members_after(conversation, after), MEMBERSHIPS_MAX, |(key, value)| {
        let member = expect(rows::decode_member(&value))?;
        if !member.is_current() {
            return Ok(Walk::On);
        }
        if members.len() == limit {
            more = true;
            return Ok(Walk::Stop);
        }
        members.push((expect(keys::member_user(&key))?, member.role, member.from.max(1)));
        Ok(Walk::On)
    })?;
    Ok(Answer::MemberPage { members, more })
}
