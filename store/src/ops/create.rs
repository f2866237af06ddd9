//! A conversation begins; that is event 1 of its log.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use carillon_protocol::ids::{MessageId, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{
    Body, ConversationRow, ConversationType, Event, HeadRow, IdempotencyRow, MemberRow, Role,
    UserConversationRow,
};
use carillon_protocol::record::{idempotency_hash, payload_hash};

use super::{Attempt, check_client_msg_id, conflict};
use crate::keys;
use crate::rows::{self, Halt, expect};
use crate::txn::VALUE_BYTES_MAX;
use crate::verb::{CreateOp, Outcome};

/// The first seq, which is also the first that every first member may see.
const FIRST: u64 = 1;

pub(super) fn create(attempt: &mut Attempt<'_, '_>, op: &CreateOp) -> Result<Outcome, Halt> {
    // A pair is its own idempotency key; a group without one is as idempotent as its id.
    check_client_msg_id(&op.client_msg_id, 0)?;
    let members = members(op, attempt.context.members_max)?;
    let event = created_event(op, &members, MessageId(0));
    let hash = payload_hash(&event.encode());
    if let Some(outcome) = earlier(attempt, op, &members, hash)? {
        return Ok(outcome);
    }
    check_users(attempt, op.creator, &members)?;
    begin(attempt, op, &members, hash)
}

/// All members, the creator among them, ascending.
fn members(op: &CreateOp, members_max: u64) -> Result<BTreeSet<UserId>, Refusal> {
    let mut members: BTreeSet<UserId> = op.members.iter().copied().collect();
    members.insert(op.creator);
    if members.len() == 1 {
        return Err(Refusal::field("member_ids", "member_ids must name somebody else"));
    }
    if op.conversation_type == ConversationType::OneToOne && members.len() > 2 {
        return Err(Refusal::field("member_ids", "a one_to_one conversation has exactly one other member"));
    }
    if members.len() as u64 > members_max {
        let too_large = Refusal::new(Code::TooLarge, "more members than a conversation may have");
        return Err(Refusal { field: Some("member_ids"), ..too_large });
    }
    Ok(members)
}

fn created_event<'a>(op: &'a CreateOp, members: &BTreeSet<UserId>, id: MessageId) -> Event<'a> {
    let body = Body::Created {
        conversation_type: op.conversation_type,
        group_name: op.group_name.as_deref(),
        history: op.history,
        members: members.iter().copied().collect(),
    };
    Event { id, sender: op.creator, client_msg_id: Cow::Borrowed(&op.client_msg_id), body }
}

/// What an earlier attempt made, if there was one.
fn earlier(
    attempt: &mut Attempt<'_, '_>,
    op: &CreateOp,
    members: &BTreeSet<UserId>,
    hash: [u8; 16],
) -> Result<Option<Outcome>, Halt> {
    if let Some(pair) = pair_key(op, members) {
        if let Some(bytes) = attempt.read().get(&pair)? {
            let conversation = rows::read_number(&bytes)?;
            return attempt.duplicate(carillon_protocol::ids::ConversationId(conversation), FIRST).map(Some);
        }
    } else if !op.client_msg_id.is_empty() {
        let remembered = idempotency_hash(op.creator, &op.client_msg_id);
        let row = attempt.remembered(|generation| keys::created(generation, op.creator, &remembered))?;
        if let Some(row) = row {
            if row.payload_hash != hash {
                return Err(conflict().into());
            }
            return attempt.duplicate(carillon_protocol::ids::ConversationId(row.seq), FIRST).map(Some);
        }
    }
    taken(attempt, op, hash)
}

/// Ids are drawn: a conversation that has this one already is what this operation made before, or a stranger's.
fn taken(attempt: &mut Attempt<'_, '_>, op: &CreateOp, hash: [u8; 16]) -> Result<Option<Outcome>, Halt> {
    if rows::load_head(attempt.read(), op.conversation)?.is_none() {
        return Ok(None);
    }
    let record = expect(attempt.read().get(&keys::event(op.conversation, FIRST))?)?;
    let stored = Event { id: MessageId(0), ..expect(Event::decode(&record))? };
    if payload_hash(&stored.encode()) == hash {
        return attempt.duplicate(op.conversation, FIRST).map(Some);
    }
    Err(Refusal::new(Code::Unavailable, "the drawn conversation id is in use; try again")
        .retry_after(1)
        .into())
}

/// The identity provider says who exists; a conversation with somebody who does not is refused.
fn check_users(
    attempt: &mut Attempt<'_, '_>,
    creator: UserId,
    members: &BTreeSet<UserId>,
) -> Result<(), Halt> {
    for member in members {
        if attempt.read().get(&keys::user(*member))?.is_some() {
            continue;
        }
        if *member == creator {
            return Err(Refusal::new(Code::Forbidden, "the user of this token is not known").into());
        }
        let unknown = Refusal::new(Code::NotFound, "member_ids names a user who does not exist");
        return Err(Refusal { field: Some("member_ids"), ..unknown }.into());
    }
    Ok(())
}

fn pair_key(op: &CreateOp, members: &BTreeSet<UserId>) -> Option<Bytes> {
    match (op.conversation_type, members.first(), members.last()) {
        (ConversationType::OneToOne, Some(one), Some(other)) => Some(keys::pair(*one, *other)),
        _ => None,
    }
}

fn begin(
    attempt: &mut Attempt<'_, '_>,
    op: &CreateOp,
    members: &BTreeSet<UserId>,
    hash: [u8; 16],
) -> Result<Outcome, Halt> {
    let id = attempt.message_id(MessageId(0))?;
    let conversation = op.conversation;
    let row = ConversationRow {
        conversation_type: op.conversation_type,
        history: op.history,
        created_at: id.created_at(),
        created_by: op.creator,
        group_name: op.group_name.clone(),
        named_seq: FIRST,
    };
    let head = HeadRow {
        seq: FIRST,
        message_index: 0,
        last_id: id,
        members_version: 1,
        members_count: members.len() as u64,
        deleted_seq: 0,
    };
    let record = Bytes::from(created_event(op, members, id).encode());
    if record.len() > VALUE_BYTES_MAX {
        return Err(Refusal::new(Code::TooLarge, "the conversation is too large to be stored").into());
    }

    let appended = attempt.append_event(conversation, &head, record)?;
    attempt.set(keys::conversation(conversation), row.encode());
    for member in members {
        let role = if *member == op.creator { Role::Owner } else { Role::Member };
        attempt.set(
            keys::member(conversation, *member),
            MemberRow { from: FIRST, role, ..MemberRow::default() }.encode(),
        );
        attempt.set(
            keys::user_conversation(*member, conversation),
            UserConversationRow { first_seq: FIRST, ..UserConversationRow::default() }.encode(),
        );
    }
    if let Some(pair) = pair_key(op, members) {
        attempt.set(pair, rows::number(conversation.0));
    } else if !op.client_msg_id.is_empty() {
        let key =
            keys::created(attempt.generation, op.creator, &idempotency_hash(op.creator, &op.client_msg_id));
        attempt.set(key, IdempotencyRow { seq: conversation.0, payload_hash: hash }.encode());
    }
    Ok(appended)
}
