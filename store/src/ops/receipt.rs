//! Watermarks move: by maximum, never beyond the head (G12).

use carillon_protocol::ids::{ConversationId, Seq, UserId, is_device_id};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{Event, HeadRow, MemberRow};

use super::Attempt;
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Outcome, ReceiptOp, Receipted};

/// The most events that one receipt looks at to count what was read. Those beyond are taken for messages of others, so
/// that the unread count may be off until the member reads up to the head, where it is exact again. Reading on from
/// where one was costs each event at most once, however many receipts it takes.
const SCAN_EVENTS_MAX: usize = 4_096;

pub(super) fn receipt(attempt: &mut Attempt<'_, '_>, op: &ReceiptOp) -> Result<Outcome, Halt> {
    if !is_device_id(&op.device) {
        return Err(Refusal::field("device", "a device id is 1 to 64 of A-Z, a-z, 0-9, _ and -").into());
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
    if op.read_seq > before.read_seq {
        let (read_index, own_since_read) = position(attempt.read(), op, &before, &head)?;
        after = MemberRow { read_seq: op.read_seq, read_index, own_since_read, ..after };
    }
    let cursor_key = keys::device_cursor(op.user, &op.device, conversation);
    let cursor = rows::load_number(attempt.read(), &cursor_key)?.unwrap_or(0);

    if after != before {
        attempt.set(keys::member(conversation, op.user), after.encode());
    }
    if delivered_seq > cursor {
        attempt.set(cursor_key, rows::number(delivered_seq));
    }
    Ok(Outcome::Receipted(Receipted {
        user: op.user,
        conversation,
        delivered: (before.delivered_seq, after.delivered_seq),
        read: (before.read_seq, after.read_seq),
        small: head.members_count <= SMALL_GROUP_MEMBERS_MAX as u64,
    }))
}

/// The message index at `op.read_seq`, and how many own messages lie above it. The usual cases, reading to the head or
/// without anything of one's own in between, read nothing; otherwise the shorter side is counted.
fn position(
    read: &mut dyn Read,
    op: &ReceiptOp,
    before: &MemberRow,
    head: &HeadRow,
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
        let read_now = count(read, op.conversation, before.read_seq, op.read_seq, op.user)?;
        let read_index = (before.read_index + read_now.messages).min(head.message_index);
        return Ok((read_index, before.own_since_read.saturating_sub(read_now.own)));
    }
    let unread = count(read, op.conversation, op.read_seq, head.seq, op.user)?;
    Ok((head.message_index.saturating_sub(unread.messages), unread.own))
}

#[derive(Default)]
struct Counted {
    messages: u64,
    own: u64,
}

/// Counts messages, and those of `user`, in `after_seq < seq <= up_to_seq`.
fn count(
    read: &mut dyn Read,
    conversation: ConversationId,
    after_seq: Seq,
    up_to_seq: Seq,
    user: UserId,
) -> Result<Counted, Halt> {
    let mut counted = Counted::default();
    let mut events = 0;
    walk(read, keys::events(conversation, after_seq + 1, up_to_seq), SCAN_EVENTS_MAX, |(_, record)| {
        let (_, sender, is_message) = expect(Event::decode_sender(&record))?;
        events += 1;
        counted.messages += u64::from(is_message);
        counted.own += u64::from(is_message && sender == user);
        Ok(Walk::On)
    })?;
    counted.messages += up_to_seq - after_seq - events;
    Ok(counted)
}
