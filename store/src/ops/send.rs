//! A message joins its conversation's log.

use std::borrow::Cow;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Body, Event, HeadRow, IdempotencyRow, Message};
use carillon_protocol::record::{idempotency_hash, payload_hash};

use super::{Attempt, check_client_msg_id, conflict};
use crate::keys;
use crate::rows::{self, Halt, expect, forbidden};
use crate::txn::{Read, VALUE_BYTES_MAX};
use crate::verb::{Outcome, SendOp};

/// Idempotency is decided before membership: a sender who was removed meanwhile still learns what became of a message
/// that was committed (G2). Nothing leaks by it, because the hash holds the sender.
pub(super) fn send(attempt: &mut Attempt<'_, '_>, op: &SendOp) -> Result<Outcome, Halt> {
    check_client_msg_id(&op.client_msg_id, 1)?;
    let conversation = op.conversation;
    let message = Message {
        message_type: op.message_type,
        encoding: op.encoding,
        content: &op.content,
        media_url: op.media_url.as_deref(),
        reply_to: op.reply_to,
    };
    let payload_hash = payload_hash(&message.payload());
    let hash = idempotency_hash(op.sender, &op.client_msg_id);
    let key = |generation| keys::sent(generation, conversation, &hash);
    if let Some(row) = attempt.remembered(key)? {
        if row.payload_hash != payload_hash {
            return Err(conflict().into());
        }
        return attempt.duplicate(conversation, row.seq);
    }
    attempt.refuse_overtaken(conversation, op.sender, &op.said_after)?;

    let member = rows::load_member(attempt.read(), conversation, op.sender)?;
    let mut member = member.filter(|member| member.is_current()).ok_or_else(forbidden)?;
    let head = expect(rows::load_head(attempt.read(), conversation)?)?;
    if let Some(target) = op.reply_to {
        let from = rows::first_visible(attempt.read(), conversation, &member)?;
        if find_message(attempt.read(), conversation, from, head.seq, target)?.is_none() {
            return Err(reply_to_nothing().into());
        }
    }

    let head = attempt.next_head(&head)?;
    let head = HeadRow { message_index: head.message_index + 1, ..head };
    let event = Event {
        id: head.last_id,
        sender: op.sender,
        client_msg_id: Cow::Borrowed(&op.client_msg_id),
        body: Body::Message(message),
    };
    let record = Bytes::from(event.encode());
    if record.len() > VALUE_BYTES_MAX {
        return Err(too_large().into());
    }
    member.own_since_read += 1;

    let appended = attempt.append_event(conversation, &head, record)?;
    attempt.set(key(attempt.generation), IdempotencyRow { seq: head.seq, payload_hash }.encode());
    attempt.set(keys::member(conversation, op.sender), member.encode());
    Ok(appended)
}

/// The message `target`, or what is left of it, among the events `from..=head`: its seq and its record. Ids rise with
/// seq, so the log itself is the index.
pub(super) fn find_message(
    read: &mut dyn Read,
    conversation: ConversationId,
    from: Seq,
    head: Seq,
    target: MessageId,
) -> Result<Option<(Seq, Bytes)>, Halt> {
    let (mut low, mut high) = (from.max(1), head);
    while low <= high {
        let middle = low + (high - low) / 2;
        let record = expect(read.get(&keys::event(conversation, middle))?)?;
        let (id, _, is_message) = expect(Event::decode_sender(&record))?;
        match id.cmp(&target) {
            std::cmp::Ordering::Equal => return Ok(is_message.then_some((middle, record))),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle - 1,
        }
    }
    Ok(None)
}

fn reply_to_nothing() -> Refusal {
    Refusal {
        field: Some("reply_to"),
        ..Refusal::new(Code::NotFound, "reply_to must be a message of this conversation that you may see")
    }
}

fn too_large() -> Refusal {
    Refusal {
        field: Some("content"),
        ..Refusal::new(Code::TooLarge, "the message is too large to be stored")
    }
}
