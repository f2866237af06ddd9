//! The verbs that change the store, each written once over [`Txn`]. [`append`] decides a batch of operations in order
//! inside one transaction, each seeing what those before it wrote.
//!
//! # Invariants
//! - Nothing is decided before the fence is read: a deposed incarnation writes nothing (G15).
//! - An operation reads everything it needs before it writes anything: a refused or duplicate one leaves no trace, takes
//!   no number and never fails its neighbours (G3, G5).
//! - No row that decides anything is taken from memory: every attempt reads again, so that whatever a late commit wrote
//!   is either seen or conflicts (F4).

mod ahead;
mod change;
mod claim;
mod create;
mod device;
mod marker;
mod own;
mod receipt;
mod send;
mod user;

use bytes::Bytes;
use carillon_protocol::ids::{CLIENT_MSG_ID_BYTES_MAX, ConversationId, MessageId, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Event, HeadRow, IdempotencyRow, idempotency_hash};
use carillon_protocol::time::WallMs;

pub use claim::{Claim, advance_generation, claim, clear_generation};
pub(crate) use device::DEVICE_ROWS_MAX;
pub use own::{
    ADDRESS_BYTES_MAX, Holder, LIVING_MAX, Living, Ownership, beat, depose, give, join, ownership, retire,
    take,
};
pub(crate) use receipt::STRETCH_EVENTS;

use crate::ids::MessageIds;
use crate::keys;
use crate::rows::{self, Halt, expect};
use crate::txn::{Abort, Read, TXN_BYTES_MAX, Txn};
use crate::verb::{Appended, Incarnation, Op, Outcome};

/// What a batch needs to know beside its operations.
#[derive(Debug)]
pub struct Context<'a> {
    /// What new events and users are dated with: never an order, only a display (G16).
    pub now: WallMs,
    /// In whose name: must be alive and own every slot that the batch touches.
    pub incarnation: Incarnation,
    /// The ids of this commit lane.
    pub ids: &'a mut MessageIds,
    /// `conversations.max_members`: what would make a conversation larger, the creator counted, is refused.
    pub members_max: u64,
}

/// Decides `ops` in order inside `txn`. The outcomes, one for each operation and in their order, count only if this very
/// transaction commits.
///
/// # Errors
/// [`Abort::Fenced`] when the incarnation is dead or does not own a slot; [`Abort::TooLarge`] when what is to be written
/// outgrows [`TXN_BYTES_MAX`]; [`Abort::Read`] when the engine could not read. Nothing may be committed then.
pub fn append(txn: &mut dyn Txn, context: &mut Context<'_>, ops: &[Op]) -> Result<Vec<Outcome>, Abort> {
    let mut attempt = Attempt::begin(txn, context)?;
    if attempt.txn.fetches_ahead() {
        let keys = ahead::keys(ops, attempt.generation);
        attempt.txn.prefetch(&keys);
    }
    let mut outcomes = Vec::with_capacity(ops.len());
    for op in ops {
        attempt.fence_slot(slot_of(op))?;
        let decided = match op {
            Op::Send(op) => send::send(&mut attempt, op),
            Op::Create(op) => create::create(&mut attempt, op),
            Op::Provision { user, name } => user::provision(&mut attempt, *user, name),
            Op::CreateUser { user, username } => user::create_user(&mut attempt, *user, username),
            Op::Change(op) => change::change(&mut attempt, op),
            Op::Receipt(op) => receipt::receipt(&mut attempt, op),
            Op::Mute { user, conversation, until } => user::mute(&mut attempt, *user, *conversation, *until),
            Op::Profile { user, username } => user::rename(&mut attempt, *user, username),
            Op::Seen { user, device, at, offline } => {
                device::seen(&mut attempt, *user, device, *at, *offline)
            }
            Op::Revoke { user, device } => device::revoke(&mut attempt, *user, device),
            Op::PushToken { user, device, token } => {
                device::push_token(&mut attempt, *user, device, token.as_ref())
            }
            Op::FannedOut { conversation, seq } => marker::fanned_out(&mut attempt, *conversation, *seq),
        };
        outcomes.push(match decided {
            Ok(outcome) => outcome,
            Err(Halt::Refused(refusal)) => Outcome::Refused(refusal),
            Err(Halt::Read(error)) => return Err(Abort::Read(error)),
        });
        if attempt.written_bytes > TXN_BYTES_MAX {
            return Err(Abort::TooLarge);
        }
    }
    attempt.store_ceiling()?;
    Ok(outcomes)
}
/// Whether an attempt at a batch that made this event has committed, asked in the name of the same incarnation: the id is
/// its alone.
///
/// # Errors
/// As of [`append`].
pub fn has_committed(
    txn: &mut dyn Txn,
    context: &mut Context<'_>,
    ops: &[Op],
    event: &Appended,
) -> Result<bool, Abort> {
    let mut attempt = Attempt::begin(txn, context)?;
    for op in ops {
        attempt.fence_slot(slot_of(op))?;
    }
    let record = attempt.read().get(&keys::event(event.conversation, event.seq))?;
    Ok(record.and_then(|record| Event::decode_sender(&record)).is_some_and(|(id, _, _)| id == event.id))
}

/// The slot whose owner decides an operation: the conversation's, or the user's.
#[must_use]
pub fn slot_of(op: &Op) -> Slot {
    match op {
        Op::Send(op) => slot_of_conversation(op.conversation),
        Op::Create(op) => slot_of_conversation(op.conversation),
        Op::Change(op) => slot_of_conversation(op.conversation),
        Op::Receipt(op) => slot_of_conversation(op.conversation),
        Op::FannedOut { conversation, .. } => slot_of_conversation(*conversation),
        Op::Provision { user, .. }
        | Op::CreateUser { user, .. }
        | Op::Mute { user, .. }
        | Op::Profile { user, .. }
        | Op::Seen { user, .. }
        | Op::Revoke { user, .. }
        | Op::PushToken { user, .. } => slot_of_user(*user),
    }
}

/// One run of a batch's transaction.
struct Attempt<'t, 'c> {
    txn: &'t mut dyn Txn,
    context: &'t mut Context<'c>,
    /// The idempotency generation that is written; it and the one before are read.
    generation: u64,
    written_bytes: usize,
    slots: Slots,
}

impl<'t, 'c> Attempt<'t, 'c> {
    /// Behind the fence.
    fn begin(txn: &'t mut dyn Txn, context: &'t mut Context<'c>) -> Result<Attempt<'t, 'c>, Abort> {
        context.ids.begin();
        let (generation, written_bytes, slots) = (0, 0, Slots::default());
        let mut attempt = Attempt { txn, context, generation, written_bytes, slots };
        attempt.fence()?;
        Ok(attempt)
    }

    fn read(&mut self) -> &mut dyn Read {
        self.txn
    }

    fn set(&mut self, key: Bytes, value: impl Into<Bytes>) {
        let value = value.into();
        self.written_bytes += key.len() + value.len();
        self.txn.set(key, value);
    }

    fn clear(&mut self, key: Bytes) {
        self.written_bytes += key.len();
        self.txn.clear(key);
    }

    /// Reads the incarnation's own row and the generation.
    fn fence(&mut self) -> Result<(), Abort> {
        let router = keys::router(self.context.incarnation);
        if !number(self.txn, &router)?.is_some_and(claim::is_live) {
            return Err(Abort::Fenced);
        }
        self.generation = number(self.txn, &keys::generation())?.unwrap_or(0);
        Ok(())
    }

    /// Reads the row of a slot, once a batch.
    fn fence_slot(&mut self, slot: Slot) -> Result<(), Abort> {
        let is_new = self.slots.insert(slot);
        if is_new && load_slot(self.txn, slot)?.0 != self.context.incarnation.0 {
            return Err(Abort::Fenced);
        }
        Ok(())
    }

    /// Moves the ceiling of this lane's ids when they came near it. Read first, so that a commit that comes late cannot
    /// put a lower one in its place.
    fn store_ceiling(&mut self) -> Result<(), Abort> {
        if let Some(ceiling_ms) = self.context.ids.ceiling_to_store() {
            let key = keys::id_ceiling(self.context.ids.node(), self.context.ids.lane());
            let stored_ms = number(self.txn, &key)?.unwrap_or(0);
            self.set(key, rows::number(ceiling_ms.max(stored_ms)));
        }
        Ok(())
    }

    /// A new id, above the last of its conversation.
    fn message_id(&mut self, after: MessageId) -> Result<MessageId, Halt> {
        let now = self.context.now;
        let id = self.context.ids.next(now, after);
        id.ok_or_else(|| Refusal::new(Code::Internal, "there are no message ids left").into())
    }

    /// The row of an idempotency key in the two generations that count (G2).
    fn remembered(&mut self, key: impl Fn(u64) -> Bytes) -> Result<Option<IdempotencyRow>, Halt> {
        let generation = self.generation;
        let newest = rows::load_idempotency(self.read(), &key(generation))?;
        match (newest, generation.checked_sub(1)) {
            (None, Some(before)) => rows::load_idempotency(self.read(), &key(before)),
            (newest, _) => Ok(newest),
        }
    }

    fn is_committed(
        &mut self,
        conversation: ConversationId,
        sender: UserId,
        client_msg_id: &str,
    ) -> Result<bool, Halt> {
        let hash = idempotency_hash(sender, client_msg_id);
        Ok(self.remembered(|generation| keys::sent(generation, conversation, &hash))?.is_some())
    }

    /// Refuses what is not committed while something is that the sender said after it: it was refused before, nobody heard
    /// of that, and by now its place is taken (G9).
    fn refuse_overtaken(
        &mut self,
        conversation: ConversationId,
        sender: UserId,
        said_after: &[String],
    ) -> Result<(), Halt> {
        for client_msg_id in said_after {
            if self.is_committed(conversation, sender, client_msg_id)? {
                let words = "what was sent after it is committed, and this is not: send it again";
                return Err(Refusal::new(Code::Unavailable, words).into());
            }
        }
        Ok(())
    }

    /// The answer to a further attempt at what stands at `seq`.
    fn duplicate(&mut self, conversation: ConversationId, seq: u64) -> Result<Outcome, Halt> {
        let record = expect(self.read().get(&keys::event(conversation, seq))?)?;
        let (id, _, _) = expect(Event::decode_sender(&record))?;
        let head = expect(rows::load_head(self.read(), conversation)?)?;
        Ok(Outcome::Appended(Appended {
            conversation,
            seq,
            id,
            duplicate: true,
            record: Bytes::new(),
            members_version: head.members_version,
        }))
    }

    /// The head with one more event, whose id it names.
    fn next_head(&mut self, head: &HeadRow) -> Result<HeadRow, Halt> {
        let last_id = self.message_id(head.last_id)?;
        Ok(HeadRow { seq: head.seq + 1, last_id, ..*head })
    }

    /// The event of `head.seq` joins the log. Everything is read and allowed: from here on, writes.
    fn append_event(
        &mut self,
        conversation: ConversationId,
        head: &HeadRow,
        record: Bytes,
    ) -> Result<Outcome, Halt> {
        self.mark(conversation, head.seq)?;
        self.set(keys::event(conversation, head.seq), record.clone());
        self.set(keys::head(conversation), head.encode());
        Ok(Outcome::Appended(Appended {
            conversation,
            seq: head.seq,
            id: head.last_id,
            duplicate: false,
            record,
            members_version: head.members_version,
        }))
    }

    /// Sets the durable promise to fan out from `seq` on, unless an older one stands.
    fn mark(&mut self, conversation: ConversationId, seq: u64) -> Result<(), Halt> {
        let key = keys::marker(slot_of_conversation(conversation), conversation);
        if self.txn.get(&key)?.is_none() {
            self.set(key, rows::number(seq));
        }
        Ok(())
    }
}

/// A number of the fence. One that cannot be read is nobody's life: without its fence nothing may be decided.
fn number(txn: &mut dyn Txn, key: &[u8]) -> Result<Option<u64>, Abort> {
    rows::load_number(txn, key).map_err(|halt| match halt {
        Halt::Read(error) => Abort::Read(error),
        Halt::Refused(_) => Abort::Fenced,
    })
}

/// The owner of a slot, 0 when nobody ever was, and its epoch. A row that cannot be read fences like a number.
fn load_slot(txn: &mut dyn Txn, slot: Slot) -> Result<(u64, u64), Abort> {
    let Some(row) = txn.get(&keys::slot(slot)).map_err(Abort::Read)? else { return Ok((0, 0)) };
    rows::read_slot(&row).map_err(|_| Abort::Fenced)
}

/// Refuses an idempotency key that the edge should not have let through: the stored form has room for this many bytes.
fn check_client_msg_id(client_msg_id: &str, bytes_min: usize) -> Result<(), Refusal> {
    if (bytes_min..=CLIENT_MSG_ID_BYTES_MAX).contains(&client_msg_id.len()) {
        return Ok(());
    }
    Err(Refusal::field("client_msg_id", "client_msg_id must have 1 to 64 bytes"))
}

/// The retry has other content than the first attempt.
fn conflict() -> Refusal {
    Refusal {
        field: Some("client_msg_id"),
        ..Refusal::new(
            Code::IdempotencyConflict,
            "this client_msg_id was used with other content; choose a new one",
        )
    }
}

/// A set of slots.
#[derive(Default)]
struct Slots(Vec<u64>);

impl Slots {
    /// Whether the slot is new.
    fn insert(&mut self, slot: Slot) -> bool {
        self.0.resize(usize::from(SLOTS_COUNT).div_ceil(64), 0);
        let Some(word) = self.0.get_mut(usize::from(slot.0 / 64)) else { return true };
        let bit = 1 << (slot.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}
