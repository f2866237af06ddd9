//! Reactions: the events that made and unmade them, the rows that are left of these, and the counts.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::MESSAGE_EMOJIS_MAX;
use carillon_protocol::record::{Body, Event, ReactionsRow};

use super::log::Families;
use super::{Checked, Walk, number};
use crate::keys::{self, Parsed};

/// What an event did is so, or was undone by a later one, or its message is deleted.
pub(super) fn event(walk: &mut Walk<'_>, id: ConversationId, seq: Seq, event: &Event<'_>) -> Checked {
    let (target_seq, message, emoji) = match event.body {
        Body::ReactionAdded { target_seq, message, emoji }
        | Body::ReactionRemoved { target_seq, message, emoji } => (target_seq, message, emoji),
        _ => return Ok(()),
    };
    let target = walk.event(id, target_seq, |target| {
        (target.id, matches!(target.body, Body::Tombstone { .. }), matches!(target.body, Body::Message(_)))
    })?;
    let (is_message, is_deleted) = match target {
        Some((found, is_deleted, is_there)) => (found == message && (is_deleted || is_there), is_deleted),
        None => (false, false),
    };
    if !is_message || target_seq >= seq {
        walk.wrong_in(id, format_args!("event {seq} reacts to {target_seq}, which is not its message"));
    }
    let there = walk.load(&keys::reaction(id, target_seq, event.sender, emoji), number)?;
    let gone = walk.load(&keys::taken_back(id, target_seq, event.sender, emoji), number)?;
    let (kept, undone) = match event.body {
        Body::ReactionAdded { .. } => (there, gone),
        _ => (gone, there),
    };
    if kept.is_some_and(|kept| kept >= seq) || undone.is_some_and(|undone| undone > seq) {
        return Ok(());
    }
    if !is_deleted {
        walk.wrong_in(id, format_args!("the reaction of event {seq} is in no row"));
    }
    Ok(())
}

/// The rows of a conversation.
pub(super) fn under(walk: &mut Walk<'_>, families: &mut Families, id: ConversationId) -> Checked {
    // Ends: each turn takes all rows under the lowest message that has any.
    loop {
        families.reactions.fill(walk)?;
        families.counts.fill(walk)?;
        let target =
            [&families.reactions, &families.counts].into_iter().filter_map(|cursor| match cursor.peeked() {
                Some(Parsed::Reaction(of, target, ..) | Parsed::Reactions(of, target)) if of == id => {
                    Some(target)
                }
                _ => None,
            });
        let Some(target) = target.min() else { break };
        message(walk, families, id, target)?;
    }
    while let Some((key, seq)) = families.taken_back.next_of(walk, id)? {
        let Some(Parsed::TakenBack(_, target, user, emoji)) = keys::parse(&key) else { continue };
        let Some(seq) = walk.decoded(&key, number(&seq)) else { continue };
        let is_so = walk.event(id, seq, |event| {
            let is_same = |of: Seq, other: &str| of == target && other == emoji && event.sender == user;
            matches!(event.body, Body::ReactionRemoved { target_seq, emoji, .. } if is_same(target_seq, emoji))
        })?;
        if is_so != Some(true) {
            let words = format!("user {user} took a reaction under {target} back, not by event {seq}");
            walk.wrong_in(id, words);
        }
    }
    Ok(())
}

/// What stands under one message.
fn message(walk: &mut Walk<'_>, families: &mut Families, id: ConversationId, target: Seq) -> Checked {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let is_under =
        |parsed: &Parsed<'_>| matches!(*parsed, Parsed::Reaction(of, seq, ..) if (of, seq) == (id, target));
    while let Some((key, seq)) = families.reactions.next_if(walk, is_under)? {
        let Some(Parsed::Reaction(_, _, user, emoji)) = keys::parse(&key) else { continue };
        // A message has room for so many different ones; a row of one more is told below, by its count.
        if counted.len() <= MESSAGE_EMOJIS_MAX {
            *counted.entry(emoji.to_owned()).or_default() += 1;
        }
        let Some(seq) = walk.decoded(&key, number(&seq)) else { continue };
        let is_so = walk.event(id, seq, |event| {
            let is_same = |of: Seq, other: &str| of == target && other == emoji && event.sender == user;
            matches!(event.body, Body::ReactionAdded { target_seq, emoji, .. } if is_same(target_seq, emoji))
        })?;
        if is_so != Some(true) {
            let words = format!("user {user} reacted to {target}, not by event {seq}");
            walk.wrong_in(id, words);
        }
    }
    let stored = families.counts.next_if(walk, |parsed| *parsed == Parsed::Reactions(id, target))?;
    let is_deleted = walk.event(id, target, |event| matches!(event.body, Body::Tombstone { .. }))?;
    let Some((key, stored)) = stored else {
        // Under what was deleted some may be left, which nobody sees.
        if is_deleted != Some(true) {
            walk.wrong_in(id, format_args!("the reactions under {target} are not counted"));
        }
        return Ok(());
    };
    let Some(stored) = walk.decoded(&key, ReactionsRow::decode(&stored)) else { return Ok(()) };
    let stored: BTreeMap<String, u64> = stored.counts.into_iter().collect();
    if stored != counted || is_deleted != Some(false) {
        walk.wrong_in(id, format_args!("the count of reactions under {target} is not what is there"));
    }
    Ok(())
}
