//! Watermarks move: by maximum, never beyond the head (G12).

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq, UserId, is_device_id};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{Event, HeadRow, MemberRow, TallyRow};

use super::Attempt;
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Outcome, ReceiptOp, Receipted};

/// The length of a stretch of a log: stretch n holds the events `n * STRETCH_EVENTS + 1 ..= (n + 1) * STRETCH_EVENTS`.
/// Part of the stored form: a tally names its stretch.
pub(crate) const STRETCH_EVENTS: u64 = 1_024;
/// The most stretches that one receipt counts: a log of 64 million events. A receipt that would have to count more is
/// refused; the member reads up to the head instead, which counts nothing.
const STRETCHES_MAX: u64 = 65_536;

pub(super) fn receipt(attempt: &mut Attempt<'_, '_>, op: &ReceiptOp) -> Result<Outcome, Halt> {
    if !is_device_id(&op.device) {
        return Err(Refusal::field("device_id", "a device id is 1 to 64 of A-Z, a-z, 0-9, _ and -").into());
    }
    let conversation = op.conversation;
    let member = rows::load_member(attempt.read(), conversation, op.user)?;
    let before = member.filter(|member| member.is_current()).ok_or_else(forbidden)?;
    let head = expect(rows::load_head(attempt.read(), conversation)?)?;
    // Reading implies delivery.
    let delivered_seq = op.delivered_seq.max(op.read_seq);
    if delivered_seq > head.seq {
        return Err(Refusal::field("seq", "seq is beyond the head of the conversation").into());
    }

    let mut after = before;
    after.delivered_seq = before.delivered_seq.max(delivered_seq);
    let mut tallies = Vec::new();
    if op.read_seq > before.read_seq {
        let (read_index, own_since_read) = position(attempt.read(), op, &before, &head, &mut tallies)?;
        after = MemberRow { read_seq: op.read_seq, read_index, own_since_read, ..after };
    }
    let unread_count = rows::unread_count(attempt.read(), conversation, op.user, &head, &after)?;
    let cursor_key = keys::device_cursor(op.user, &op.device, conversation);
    let cursor = rows::load_number(attempt.read(), &cursor_key)?.unwrap_or(0);

    if after != before {
        attempt.set(keys::member(conversation, op.user), after.encode());
    }
    if delivered_seq > cursor {
        attempt.set(cursor_key, rows::number(delivered_seq));
    }
    for (stretch, tally) in tallies {
        attempt.set(keys::tally(conversation, stretch), tally.encode());
    }
    Ok(Outcome::Receipted(Receipted {
        user: op.user,
        conversation,
        delivered: (before.delivered_seq, after.delivered_seq),
        read: (before.read_seq, after.read_seq),
        unread_count,
        small: head.members_count <= SMALL_GROUP_MEMBERS_MAX as u64,
    }))
}

/// Stretches that were counted and have no row yet.
type Tallies = Vec<(u64, TallyRow)>;

/// The message index at `op.read_seq`, and how many own messages lie above it. The usual cases, reading to the head or
/// without anything of one's own in between, read nothing; otherwise the shorter side is counted, exactly.
fn position(
    read: &mut dyn Read,
    op: &ReceiptOp,
    before: &MemberRow,
    head: &HeadRow,
    tallies: &mut Tallies,
) -> Result<(u64, u64), Halt> {
    let events_above = head.seq - op.read_seq;
    let events_between = op.read_seq - before.read_seq;
    let messages_since = head.message_index.saturating_sub(before.read_index);
    if events_above == 0 {
        return Ok((head.message_index, 0));
    }
    if before.own_since_read == 0 && messages_since == events_above + events_between {
        return Ok((before.read_index + events_between, 0));
    }
    if events_between <= events_above {
        let read_now = count(read, op, before.read_seq, op.read_seq, tallies)?;
        let read_index = (before.read_index + read_now.messages).min(head.message_index);
        return Ok((read_index, before.own_since_read.saturating_sub(read_now.own)));
    }
    let unread = count(read, op, op.read_seq, head.seq, tallies)?;
    Ok((head.message_index.saturating_sub(unread.messages), unread.own))
}

#[derive(Default)]
struct Counted {
    messages: u64,
    own: u64,
}

impl Counted {
    fn add(&mut self, tally: &TallyRow, user: UserId) {
        for (sender, count) in &tally.messages {
            self.messages = self.messages.saturating_add(*count);
            self.own = self.own.saturating_add(if *sender == user { *count } else { 0 });
        }
    }
}

/// Counts messages, and those of the reader, in `after_seq < seq <= up_to_seq`: event by event in the stretches at both
/// ends, by their tally in those between, each of which is counted once and for all members.
fn count(
    read: &mut dyn Read,
    op: &ReceiptOp,
    after_seq: Seq,
    up_to_seq: Seq,
    tallies: &mut Tallies,
) -> Result<Counted, Halt> {
    let mut counted = Counted::default();
    let (first, last) = (after_seq / STRETCH_EVENTS, up_to_seq.saturating_sub(1) / STRETCH_EVENTS);
    if last.saturating_sub(first) > STRETCHES_MAX {
        return Err(Refusal::field("seq", "seq is too far from what was read; read up to the head").into());
    }
    for stretch in first..=last {
        let begin = stretch * STRETCH_EVENTS;
        let end = begin.saturating_add(STRETCH_EVENTS);
        let is_whole = after_seq <= begin && end <= up_to_seq;
        let known = if is_whole { rows::load_tally(read, op.conversation, stretch)? } else { None };
        if let Some(tally) = known {
            counted.add(&tally, op.user);
            continue;
        }
        let tally = tally(read, op.conversation, after_seq.max(begin), up_to_seq.min(end))?;
        counted.add(&tally, op.user);
        if is_whole {
            tallies.push((stretch, tally));
        }
    }
    Ok(counted)
}

/// Who sent how many of the messages in `after_seq < seq <= up_to_seq`, within one stretch.
fn tally(
    read: &mut dyn Read,
    conversation: ConversationId,
    after_seq: Seq,
    up_to_seq: Seq,
) -> Result<TallyRow, Halt> {
    let mut messages: BTreeMap<UserId, u64> = BTreeMap::new();
    let range = keys::events(conversation, after_seq + 1, up_to_seq);
    walk(read, range, STRETCH_EVENTS as usize, |(_, record)| {
        let (_, sender, is_message) = expect(Event::decode_sender(&record))?;
        if is_message {
            *messages.entry(sender).or_default() += 1;
        }
        Ok(Walk::On)
    })?;
    Ok(TallyRow { messages: messages.into_iter().collect() })
}
