//! Typed reading and writing of single rows, for the verbs. A row whose bytes this build cannot read halts the one
//! operation that needs it (`internal`), never its neighbours (F22).

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, ID_MAX, Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{
    ConversationRow, DeviceRow, HeadRow, History, IdempotencyRow, MemberRow, ReactionsRow, TallyRow, UserRow,
    VERSION,
};

use crate::error::ReadError;
use crate::keys::{self, KeyRange};
use crate::txn::{Read, Row};

/// How many rows are asked of an engine at once.
const CHUNK_ROWS: usize = 256;

/// Why an operation or a query goes no further.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The asker is told.
    Refused(Refusal),
    /// The engine could not read.
    Read(ReadError),
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Self {
        Halt::Read(error)
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Halt::Refused(refusal)
    }
}

/// A stored row that this build cannot read.
pub(crate) fn damaged() -> Halt {
    Halt::Refused(Refusal::new(Code::Internal, "a stored row cannot be read"))
}

/// Not a member, or no such conversation: the same answer, so that ids cannot be probed.
pub(crate) fn forbidden() -> Refusal {
    Refusal::new(Code::Forbidden, "not a member of this conversation")
}

/// A number as a value: the version byte and a LEB128 varint, as in `protocol::record`.
pub(crate) fn number(value: u64) -> Bytes {
    let mut out = vec![VERSION];
    push_digits(&mut out, value);
    Bytes::from(out)
}

fn push_digits(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Reads what [`number`] wrote.
pub(crate) fn read_number(bytes: &[u8]) -> Result<u64, Halt> {
    let (version, digits) = bytes.split_first().ok_or_else(damaged)?;
    if *version != VERSION {
        return Err(damaged());
    }
    match take_digits(digits)? {
        (value, []) => Ok(value),
        _ => Err(damaged()),
    }
}

/// One value, and the rest.
fn take_digits(bytes: &[u8]) -> Result<(u64, &[u8]), Halt> {
    let last = bytes.iter().take(10).position(|digit| digit & 0x80 == 0).ok_or_else(damaged)?;
    let (digits, rest) = bytes.split_at(last + 1);
    let mut value = 0_u64;
    for digit in digits.iter().rev() {
        value = value.checked_mul(0x80).ok_or_else(damaged)? | u64::from(digit & 0x7f);
    }
    Ok((value, rest))
}

/// Who owns a slot, and its epoch, stored: two numbers. A row that has only the first is of epoch 0.
pub(crate) fn slot(owner: u64, epoch: u64) -> Bytes {
    let mut out = vec![VERSION];
    push_digits(&mut out, owner);
    push_digits(&mut out, epoch);
    Bytes::from(out)
}

/// Reads what [`slot`] wrote.
pub(crate) fn read_slot(bytes: &[u8]) -> Result<(u64, u64), Halt> {
    let (version, digits) = bytes.split_first().ok_or_else(damaged)?;
    if *version != VERSION {
        return Err(damaged());
    }
    let (owner, rest) = take_digits(digits)?;
    let epoch = if rest.is_empty() { (0, rest) } else { take_digits(rest)? };
    if epoch.1.is_empty() { Ok((owner, epoch.0)) } else { Err(damaged()) }
}

/// The number under `key`, if there is a row.
pub(crate) fn load_number(read: &mut dyn Read, key: &[u8]) -> Result<Option<u64>, Halt> {
    read.get(key)?.map(|bytes| read_number(&bytes)).transpose()
}

fn load<T>(
    read: &mut dyn Read,
    key: &[u8],
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, Halt> {
    read.get(key)?.map(|bytes| decode(&bytes).ok_or_else(damaged)).transpose()
}

pub(crate) fn load_conversation(
    read: &mut dyn Read,
    id: ConversationId,
) -> Result<Option<ConversationRow>, Halt> {
    load(read, &keys::conversation(id), ConversationRow::decode)
}

pub(crate) fn load_head(read: &mut dyn Read, id: ConversationId) -> Result<Option<HeadRow>, Halt> {
    load(read, &keys::head(id), |bytes| {
        let head = HeadRow::decode(bytes)?;
        let numbers =
            [head.seq, head.message_index, head.last_id.0, head.members_version, head.members_count];
        is_plausible(&numbers).then_some(head)
    })
}

pub(crate) fn load_member(
    read: &mut dyn Read,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<MemberRow>, Halt> {
    load(read, &keys::member(conversation, user), decode_member)
}

pub(crate) fn load_user(read: &mut dyn Read, user: UserId) -> Result<Option<UserRow>, Halt> {
    load(read, &keys::user(user), UserRow::decode)
}

pub(crate) fn load_device(
    read: &mut dyn Read,
    user: UserId,
    device: &str,
) -> Result<Option<DeviceRow>, Halt> {
    load(read, &keys::device(user, device), DeviceRow::decode)
}

/// How often each emoji stands under a message; empty when there is no row.
pub(crate) fn load_reactions(
    read: &mut dyn Read,
    conversation: ConversationId,
    target: Seq,
) -> Result<ReactionsRow, Halt> {
    let row = load(read, &keys::reaction_counts(conversation, target), ReactionsRow::decode)?;
    Ok(row.unwrap_or_default())
}

/// Who sent what in a stretch of a log, if somebody counted.
pub(crate) fn load_tally(
    read: &mut dyn Read,
    conversation: ConversationId,
    stretch: u64,
) -> Result<Option<TallyRow>, Halt> {
    load(read, &keys::tally(conversation, stretch), TallyRow::decode)
}

pub(crate) fn load_idempotency(read: &mut dyn Read, key: &[u8]) -> Result<Option<IdempotencyRow>, Halt> {
    load(read, key, IdempotencyRow::decode)
}

/// A membership as it is stored.
pub(crate) fn decode_member(bytes: &[u8]) -> Option<MemberRow> {
    let row = MemberRow::decode(bytes)?;
    let numbers = [row.from, row.to, row.read_seq, row.read_index, row.own_since_read, row.delivered_seq];
    is_plausible(&numbers).then_some(row)
}

/// No number that is counted up ever comes near its end: one that is there was never written, and would overflow.
fn is_plausible(numbers: &[u64]) -> bool {
    numbers.iter().all(|number| *number <= ID_MAX)
}

/// A row that has to be there because another one is.
pub(crate) fn expect<T>(row: Option<T>) -> Result<T, Halt> {
    row.ok_or_else(damaged)
}

/// The first seq that a member may see (G11): from their own joining on, or everything.
pub(crate) fn first_visible(
    read: &mut dyn Read,
    conversation: ConversationId,
    member: &MemberRow,
) -> Result<Seq, Halt> {
    if member.from <= 1 {
        return Ok(1);
    }
    let row = expect(load_conversation(read, conversation)?)?;
    Ok(if row.history == History::All { 1 } else { member.from })
}

/// The most deleted messages above a member's read watermark that are looked at for the unread count. Those beyond still
/// count as unread, until the member reads past some of them.
const DELETED_UNREAD_MAX: usize = 65_536;

/// Others' messages above the member's read watermark that are not deleted. Nothing is read where nothing is unread or
/// nothing above the watermark was deleted.
pub(crate) fn unread_count(
    read: &mut dyn Read,
    conversation: ConversationId,
    user: UserId,
    head: &HeadRow,
    member: &MemberRow,
) -> Result<u64, Halt> {
    let seen = member.read_index.saturating_add(member.own_since_read);
    let mut unread = head.message_index.saturating_sub(seen);
    if unread > 0 && head.deleted_seq > member.read_seq {
        let range = keys::deleted_above(conversation, member.read_seq);
        walk(read, range, DELETED_UNREAD_MAX, |(_, sender)| {
            unread -= u64::from(unread > 0 && read_number(&sender)? != user.0);
            Ok(Walk::On)
        })?;
    }
    Ok(unread)
}

/// Hands the rows of a range to `each`, page by page, until it says stop. At most `rows_max` rows are read; what that
/// means is the caller's to say.
pub(crate) fn walk(
    read: &mut dyn Read,
    range: KeyRange,
    rows_max: usize,
    mut each: impl FnMut(Row) -> Result<Walk, Halt>,
) -> Result<(), Halt> {
    let (mut from, to) = range;
    let mut left = rows_max;
    while left > 0 {
        let asked = left.min(CHUNK_ROWS);
        let rows = read.range(&from, &to, asked, false)?;
        let is_last = rows.len() < asked;
        left -= rows.len().min(left);
        if let Some((key, _)) = rows.last() {
            from = keys::after(key);
        }
        for row in rows {
            if each(row)? == Walk::Stop {
                return Ok(());
            }
        }
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Whether a [`walk`] goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    On,
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_store() {
        for value in [0, 1, 127, 128, 300, 1 << 42, u64::MAX - 1, u64::MAX] {
            assert_eq!(read_number(&number(value)).unwrap(), value);
            assert_eq!(read_slot(&slot(7, value)).unwrap(), (7, value));
            assert_eq!(read_slot(&number(value)).unwrap(), (value, 0));
        }
        assert!(read_number(&slot(7, 1)).is_err() && read_slot(&[1, 7, 1, 1]).is_err());
        for wrong in
            [&[][..], &[1], &[2, 0], &[1, 0x80], &[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 127]]
        {
            assert!(read_number(wrong).is_err(), "{wrong:?}");
        }
    }
}
