//! Everything about an active conversation, to be kept in memory (CA1–CA3).

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::MemberRow;

use super::{entry, reactions};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Answer, Entry, OPEN_EVENTS_MAX, OPEN_MEMBERS_MAX, Opened, Reactors};

/// The most reactions under the tail, and the most deleted messages, of a conversation that is kept in memory. Beyond,
/// it is refused, and its pages are read from the store.
const ROWS_MAX: usize = 16_384;

pub(super) fn open(read: &mut dyn Read, conversation: ConversationId) -> Result<Answer, Halt> {
    let row = rows::load_conversation(read, conversation)?.ok_or_else(forbidden)?;
    let head = expect(rows::load_head(read, conversation)?)?;
    let members = members(read, conversation)?;
    let (from, to) = keys::events(conversation, 1, head.seq);
    let mut tail = read.range(&from, &to, OPEN_EVENTS_MAX, true)?;
    tail.reverse();
    let tail = tail.into_iter().map(entry).collect::<Result<Vec<Entry>, Halt>>()?;
    let reactions = reactions(read, conversation, &tail)?;
    let mut deleted = Vec::new();
    if head.deleted_seq > 0 {
        walk(read, keys::deleted_above(conversation, 0), ROWS_MAX + 1, |(key, sender)| {
            deleted.push((expect(keys::event_seq(&key))?, UserId(rows::read_number(&sender)?)));
            Ok(Walk::On)
        })?;
    }
    if deleted.len() > ROWS_MAX {
        return Err(too_large());
    }
    Ok(Answer::Open(Box::new(Opened { row, head, members, tail, reactions, deleted })))
}

fn members(read: &mut dyn Read, conversation: ConversationId) -> Result<Vec<(UserId, MemberRow)>, Halt> {
    let mut members = Vec::new();
    walk(read, keys::members(conversation), OPEN_MEMBERS_MAX + 1, |(key, value)| {
        members.push((expect(keys::member_user(&key))?, expect(rows::decode_member(&value))?));
        Ok(Walk::On)
    })?;
    if members.len() > OPEN_MEMBERS_MAX {
        return Err(too_large());
    }
    Ok(members)
}

/// Under the messages of the tail: each emoji in the order of its first use, with who put it there, ascending.
fn reactions(
    read: &mut dyn Read,
    conversation: ConversationId,
    tail: &[Entry],
) -> Result<Vec<(Seq, Reactors)>, Halt> {
    let mut reactions = Vec::new();
    let mut left = ROWS_MAX + 1;
    for (seq, row) in reactions::rows(read, conversation, tail)? {
        let mut under: Reactors = row.counts.into_iter().map(|(emoji, _)| (emoji, Vec::new())).collect();
        walk(read, keys::reactions_under(conversation, seq), left, |(key, _)| {
            left -= 1;
            let (user, emoji) = expect(keys::reaction_parts(&key))?;
            let (_, users) = expect(under.iter_mut().find(|(counted, _)| counted == emoji))?;
            users.push(user);
            Ok(Walk::On)
        })?;
        if left == 0 {
            return Err(too_large());
        }
        reactions.push((seq, under));
    }
    Ok(reactions)
}

fn too_large() -> Halt {
    Refusal::new(Code::TooLarge, "the conversation is too large to be kept in memory").into()
}
