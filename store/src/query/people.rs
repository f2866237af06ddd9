//! Users and their devices.

use std::collections::BTreeMap;

use carillon_protocol::ids::{Seq, UserId};
use carillon_protocol::reason::{Code, Refusal};

use super::USER_CONVERSATIONS_MAX;
use crate::keys::{self, KeyRange};
use crate::rows::{self, CHUNK_ROWS, Halt, Walk, expect, walk};
use crate::txn::Read;
use crate::verb::{Answer, Profile};

/// Two range reads, however many conversations there are: the user's list says what each may see first, the device's
/// cursors how far it has got.
pub(super) fn session(read: &mut dyn Read, user: UserId, device: &str) -> Result<Answer, Halt> {
    let known = rows::load_user(read, user)?.is_some();
    let mut cursors: BTreeMap<_, Seq> = BTreeMap::new();
    walk(read, keys::user_conversations(user), USER_CONVERSATIONS_MAX, |(key, value)| {
        let first_visible = rows::read_number(&value)?;
        cursors.insert(expect(keys::user_conversation_id(&key))?, first_visible.saturating_sub(1));
        Ok(Walk::On)
    })?;
    walk(read, keys::device_cursors(user, device), USER_CONVERSATIONS_MAX, |(key, value)| {
        // A cursor of a conversation that the user has left stays for when they are added again.
        if let Some(cursor) = cursors.get_mut(&expect(keys::device_cursor_conversation(&key))?) {
            *cursor = rows::read_number(&value)?.max(*cursor);
        }
        Ok(Walk::On)
    })?;
    Ok(Answer::Session { known, conversations: cursors.into_iter().collect() })
}

pub(super) fn username(read: &mut dyn Read, asker: UserId, username: &str) -> Result<Answer, Halt> {
    if username.len() > carillon_protocol::limits::USERNAME_BYTES_MAX {
        return Err(nobody().into());
    }
    let id = rows::load_number(read, &keys::name(username))?.ok_or_else(nobody)?;
    user(read, asker, UserId(id))
}

pub(super) fn user(read: &mut dyn Read, asker: UserId, user: UserId) -> Result<Answer, Halt> {
    let row = rows::load_user(read, user)?.ok_or_else(nobody)?;
    let last_seen_at = match row.last_seen_at {
        Some(at) if asker == user || share_a_conversation(read, asker, user)? => Some(at),
        _ => None,
    };
    Ok(Answer::User(Profile { user, username: row.username, created_at: row.created_at, last_seen_at }))
}

fn nobody() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such user")
}

/// Walks both lists, which are sorted, side by side. Each step skips at least one row of one list, so there are at most
/// twice [`USER_CONVERSATIONS_MAX`] rows; beyond that bound they count as strangers.
fn share_a_conversation(read: &mut dyn Read, one: UserId, other: UserId) -> Result<bool, Halt> {
    let mut ones = Ids::new(keys::user_conversations(one));
    let mut others = Ids::new(keys::user_conversations(other));
    let (mut left, mut right) = (ones.next(read)?, others.next(read)?);
    for _ in 0..2 * USER_CONVERSATIONS_MAX {
        let (Some(a), Some(b)) = (left, right) else { return Ok(false) };
        match a.cmp(&b) {
            std::cmp::Ordering::Equal => return Ok(true),
            std::cmp::Ordering::Less => left = ones.next(read)?,
            std::cmp::Ordering::Greater => right = others.next(read)?,
        }
    }
    Ok(false)
}

/// The conversations of a range, one after the other, read in chunks.
struct Ids {
    range: KeyRange,
    chunk: std::vec::IntoIter<crate::txn::Row>,
    is_end: bool,
}

impl Ids {
    fn new(range: KeyRange) -> Ids {
        Ids { range, chunk: Vec::new().into_iter(), is_end: false }
    }

    fn next(&mut self, read: &mut dyn Read) -> Result<Option<u64>, Halt> {
        if self.chunk.len() == 0 && !self.is_end {
            let rows = read.range(&self.range.0, &self.range.1, CHUNK_ROWS, false)?;
            self.is_end = rows.len() < CHUNK_ROWS;
            if let Some((key, _)) = rows.last() {
                self.range.0 = keys::after(key);
            }
            self.chunk = rows.into_iter();
        }
        let Some((key, _)) = self.chunk.next() else { return Ok(None) };
        Ok(Some(expect(keys::user_conversation_id(&key))?.0))
    }
}
