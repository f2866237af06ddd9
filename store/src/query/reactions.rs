//! Reactions under the messages of a page: one range read for the counts, and one more for each message that has any, to
//! tell which are the reader's own.

use std::collections::BTreeSet;

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::MESSAGE_EMOJIS_MAX;
use carillon_protocol::record::ReactionsRow;

use crate::keys;
use crate::rows::{Halt, Walk, expect, walk};
use crate::txn::Read;
use crate::verb::{Entry, ReactionCount};

/// Under `entries`, ascending by seq, whichever way they go; those without any are left out.
pub(super) fn under(
    read: &mut dyn Read,
    conversation: ConversationId,
    entries: &[Entry],
    reader: UserId,
) -> Result<Vec<(Seq, Vec<ReactionCount>)>, Halt> {
    let mut under = Vec::new();
    for (seq, row) in rows(read, conversation, entries)? {
        let own = own(read, conversation, seq, reader)?;
        let counted = row.counts.into_iter().map(|(emoji, count)| {
            let mine = own.contains(&emoji);
            ReactionCount { emoji, count, mine }
        });
        under.push((seq, counted.collect()));
    }
    Ok(under)
}

/// The counts of those entries that have any.
pub(super) fn rows(
    read: &mut dyn Read,
    conversation: ConversationId,
    entries: &[Entry],
) -> Result<Vec<(Seq, ReactionsRow)>, Halt> {
    let seqs: BTreeSet<Seq> = entries.iter().map(|entry| entry.seq).collect();
    let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let range = keys::reaction_counts_between(conversation, *first, *last);
    // Only messages have a row, and between the first and the last entry of a page each message is an entry.
    walk(read, range, seqs.len(), |(key, value)| {
        let seq = expect(keys::event_seq(&key))?;
        if seqs.contains(&seq) {
            found.push((seq, expect(ReactionsRow::decode(&value))?));
        }
        Ok(Walk::On)
    })?;
    Ok(found)
}

/// What the reader put under a message.
fn own(
    read: &mut dyn Read,
    conversation: ConversationId,
    target: Seq,
    reader: UserId,
) -> Result<BTreeSet<String>, Halt> {
    let mut own = BTreeSet::new();
    walk(read, keys::reactions_of(conversation, target, reader), MESSAGE_EMOJIS_MAX, |(key, _)| {
        let (_, emoji) = expect(keys::reaction_parts(&key))?;
        own.insert(emoji.to_owned());
        Ok(Walk::On)
    })?;
    Ok(own)
}
