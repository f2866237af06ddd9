//! The log changes otherwise than by a message: members, a name, roles, deletions, reactions. What is common to all is
//! here; each kind of change has a file below.
//!
//! # Invariants
//! - Idempotency is decided before membership, as for messages and in one name space with them (G2): who left by a first
//!   attempt still learns of it by the second.
//! - A kind of change only reads, and says what is to be written ([`Decided`]): a refused one leaves no trace (G5).
//! - What is so already takes no number; that, too, is remembered under its `client_msg_id`.

mod deletion;
mod members;
mod naming;
mod reactions;

use std::borrow::Cow;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{
    Body, ConversationRow, ConversationType, Event, HeadRow, IdempotencyRow, MemberRow,
};
use carillon_protocol::record::{idempotency_hash, payload_hash};

use super::{Attempt, check_client_msg_id, conflict};
use crate::keys;
use crate::rows::{self, Halt, expect, forbidden};
use crate::txn::{Read, VALUE_BYTES_MAX};
use crate::verb::{Change, ChangeOp, Outcome};

/// What a kind of change comes to.
enum Decided<'a> {
    /// It is so already, by this event if by any.
    Unchanged(Option<Seq>),
    /// It becomes so.
    Append(Plan<'a>),
}

/// What is to be written beside the event itself, its idempotency row and its marker.
struct Plan<'a> {
    body: Body<'a>,
    /// The head after the event, as far as this change moves more than its seq and id.
    head: HeadRow,
    /// Rows to set, or to clear.
    rows: Vec<(Bytes, Option<Vec<u8>>)>,
}

/// What every kind of change starts from.
struct Scene<'a> {
    read: &'a mut dyn Read,
    conversation: ConversationId,
    /// Who changes, and is a member.
    by: UserId,
    member: MemberRow,
    /// Before the event.
    head: HeadRow,
    /// `conversations.max_members`.
    members_max: u64,
}

pub(super) fn change(attempt: &mut Attempt<'_, '_>, op: &ChangeOp) -> Result<Outcome, Halt> {
    check_client_msg_id(&op.client_msg_id, 1)?;
    let conversation = op.conversation;
    let hashes = Hashes::of(&op.change);
    let hash = idempotency_hash(op.by, &op.client_msg_id);
    let key = |generation| keys::sent(generation, conversation, &hash);
    if let Some(row) = attempt.remembered(key)? {
        return earlier(attempt, conversation, &row, &hashes);
    }
    attempt.refuse_overtaken(conversation, op.by, &op.said_after)?;

    let member = rows::load_member(attempt.read(), conversation, op.by)?;
    let member = member.filter(MemberRow::is_current).ok_or_else(forbidden)?;
    let head = expect(rows::load_head(attempt.read(), conversation)?)?;
    let members_max = attempt.context.members_max;
    let mut scene = Scene { read: attempt.read(), conversation, by: op.by, member, head, members_max };
    let decided = match &op.change {
        Change::AddMembers { users } => members::add(&mut scene, users)?,
        Change::RemoveMember { user } => members::remove(&mut scene, *user)?,
        Change::Rename { group_name } => naming::rename(&mut scene, group_name)?,
        Change::SetRole { user, role } => naming::set_role(&mut scene, *user, *role)?,
        Change::Delete { message } => deletion::delete(&mut scene, *message)?,
        Change::React { message, emoji } => reactions::react(&mut scene, *message, emoji)?,
        Change::Unreact { message, emoji } => reactions::unreact(&mut scene, *message, emoji)?,
    };
    let plan = match decided {
        Decided::Append(plan) => plan,
        Decided::Unchanged(seq) => {
            let row = IdempotencyRow { seq: seq.unwrap_or(0), payload_hash: hashes.unchanged };
            attempt.set(key(attempt.generation), row.encode());
            return Ok(Outcome::Unchanged { conversation, seq, duplicate: false });
        }
    };

    let head = attempt.next_head(&plan.head)?;
    let event = Event {
        id: head.last_id,
        sender: op.by,
        client_msg_id: Cow::Borrowed(&op.client_msg_id),
        body: plan.body,
    };
    let record = Bytes::from(event.encode());
    if record.len() > VALUE_BYTES_MAX {
        return Err(Refusal::new(Code::TooLarge, "the change is too large to be stored").into());
    }
    let appended = attempt.append_event(conversation, &head, record)?;
    let row = IdempotencyRow { seq: head.seq, payload_hash: hashes.appended };
    attempt.set(key(attempt.generation), row.encode());
    for (key, value) in plan.rows {
        match value {
            Some(value) => attempt.set(key, value),
            None => attempt.clear(key),
        }
    }
    Ok(appended)
}

/// What the first attempt with this `client_msg_id` came to.
fn earlier(
    attempt: &mut Attempt<'_, '_>,
    conversation: ConversationId,
    row: &IdempotencyRow,
    hashes: &Hashes,
) -> Result<Outcome, Halt> {
    if row.payload_hash == hashes.appended {
        return attempt.duplicate(conversation, row.seq);
    }
    if row.payload_hash == hashes.unchanged {
        let seq = Some(row.seq).filter(|seq| *seq != 0);
        return Ok(Outcome::Unchanged { conversation, seq, duplicate: true });
    }
    Err(conflict().into())
}

/// By what a retry is known to want the same (G2), and which of the two answers it had.
struct Hashes {
    appended: [u8; 16],
    unchanged: [u8; 16],
}

impl Hashes {
    fn of(change: &Change) -> Hashes {
        let mut payload = payload(change);
        let appended = payload_hash(&payload);
        payload.push(UNCHANGED);
        Hashes { appended, unchanged: payload_hash(&payload) }
    }
}

/// Behind the payload of a change that found everything so already.
const UNCHANGED: u8 = 0xff;

/// Every field a client gives. The first byte tells the kinds apart, and from a message, whose payload begins with its
/// type and encoding, below 0x20.
fn payload(change: &Change) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    match change {
        Change::AddMembers { users } => {
            out.push(0x80);
            // The order in which they are named means nothing.
            let mut users = users.clone();
            users.sort_unstable();
            users.dedup();
            users.iter().for_each(|user| out.extend_from_slice(&user.0.to_le_bytes()));
        }
        Change::RemoveMember { user } => {
            out.push(0x81);
            out.extend_from_slice(&user.0.to_le_bytes());
        }
        Change::Rename { group_name } => {
            out.push(0x82);
            out.extend_from_slice(group_name.as_bytes());
        }
        Change::SetRole { user, role } => {
            out.push(0x83);
            out.push(*role as u8);
            out.extend_from_slice(&user.0.to_le_bytes());
        }
        Change::Delete { message } => {
            out.push(0x84);
            out.extend_from_slice(&message.0.to_le_bytes());
        }
        Change::React { message, emoji } => {
            out.push(0x85);
            out.extend_from_slice(&message.0.to_le_bytes());
            out.extend_from_slice(emoji.as_bytes());
        }
        Change::Unreact { message, emoji } => {
            out.push(0x86);
            out.extend_from_slice(&message.0.to_le_bytes());
            out.extend_from_slice(emoji.as_bytes());
        }
    }
    out
}

impl<'a> Scene<'a> {
    /// The seq that the event will have.
    fn seq(&self) -> Seq {
        self.head.seq + 1
    }

    /// What the conversation is; refused when it is of two, naming the field that does not fit it.
    fn group(&mut self, field: &'static str) -> Result<ConversationRow, Halt> {
        let row = expect(rows::load_conversation(self.read, self.conversation)?)?;
        match row.conversation_type {
            ConversationType::Group => Ok(row),
            ConversationType::OneToOne => {
                Err(Refusal::field(field, "a conversation of two keeps its members and has no name").into())
            }
        }
    }

    /// A message that the one who changes may see, or what is left of it.
    fn message(&mut self, message: MessageId) -> Result<(Seq, Bytes), Halt> {
        let from = rows::first_visible(self.read, self.conversation, &self.member)?;
        let found = super::send::find_message(self.read, self.conversation, from, self.head.seq, message)?;
        Ok(found.ok_or_else(|| not_found("message_id", "message_id must be a message that you may see"))?)
    }

    fn member(&mut self, user: UserId) -> Result<Option<MemberRow>, Halt> {
        rows::load_member(self.read, self.conversation, user)
    }
}

fn not_found(field: &'static str, message: &'static str) -> Refusal {
    Refusal { field: Some(field), ..Refusal::new(Code::NotFound, message) }
}

fn too_large(field: &'static str, message: &'static str) -> Refusal {
    Refusal { field: Some(field), ..Refusal::new(Code::TooLarge, message) }
}

fn not_allowed(message: &'static str) -> Refusal {
    Refusal::new(Code::Forbidden, message)
}
