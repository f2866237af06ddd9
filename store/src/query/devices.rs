//! A user's devices: when each was last there, and how much of the log it has not confirmed.

use std::collections::BTreeMap;

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{DeviceRow, UserConversationRow};

use super::USER_CONVERSATIONS_MAX;
use crate::keys;
use crate::ops::DEVICE_ROWS_MAX;
use crate::rows::{self, Halt, Walk, expect, walk};
use crate::txn::Read;
use crate::verb::{Answer, Device};

/// The most devices that are listed; those with the highest names are left out.
const DEVICES_LISTED_MAX: usize = 64;
/// The most conversations that a device's lag is summed over; those with the highest ids are left out beyond it.
const LAG_CONVERSATIONS_MAX: usize = 4_096;
/// The connection of a revoked device ends within this time, in milliseconds. That it was there until then is no later
/// use of it.
const REVOKED_CLOSES_MS: u64 = 10_000;

pub(super) fn list(read: &mut dyn Read, user: UserId) -> Result<Answer, Halt> {
    let mut named: BTreeMap<String, DeviceRow> = rows(read, user)?.into_iter().collect();
    for device in with_cursors(read, user)? {
        named.entry(device).or_default();
    }
    named.retain(|_, row| !is_gone(row));
    let conversations = conversations(read, user)?;
    let mut devices = Vec::new();
    for (device, row) in named.into_iter().take(DEVICES_LISTED_MAX) {
        let cursor_lag = lag(read, user, &device, &conversations)?;
        devices.push(Device { device, last_seen_at: row.last_seen_at, cursor_lag });
    }
    Ok(Answer::Devices(devices))
}

/// Every device that has a row, ascending by name.
pub(super) fn rows(read: &mut dyn Read, user: UserId) -> Result<Vec<(String, DeviceRow)>, Halt> {
    let mut devices = Vec::new();
    walk(read, keys::devices(user), DEVICE_ROWS_MAX, |(key, value)| {
        let device = expect(keys::device_name(&key))?.to_owned();
        devices.push((device, expect(DeviceRow::decode(&value))?));
        Ok(Walk::On)
    })?;
    Ok(devices)
}

/// Devices that confirmed something; one that never disconnected has nothing but that. One read for each.
fn with_cursors(read: &mut dyn Read, user: UserId) -> Result<Vec<String>, Halt> {
    let (mut from, to) = keys::cursors_of(user);
    let mut devices = Vec::new();
    while devices.len() < DEVICE_ROWS_MAX {
        let Some((key, _)) = read.range(&from, &to, 1, false)?.pop() else { break };
        let device = expect(keys::device_cursor_device(&key))?.to_owned();
        (_, from) = keys::device_cursors(user, &device);
        devices.push(device);
    }
    Ok(devices)
}

/// Revoked, and not used since.
fn is_gone(row: &DeviceRow) -> bool {
    row.revoked_at.is_some_and(|revoked_at| {
        row.last_seen_at.is_none_or(|seen_at| seen_at.0 <= revoked_at.0.saturating_add(REVOKED_CLOSES_MS))
    })
}

/// The user's current conversations: what lies before the first visible event, and the head.
fn conversations(read: &mut dyn Read, user: UserId) -> Result<BTreeMap<ConversationId, (Seq, Seq)>, Halt> {
    let mut current = Vec::new();
    walk(read, keys::user_conversations(user), LAG_CONVERSATIONS_MAX, |(key, value)| {
        let row = expect(UserConversationRow::decode(&value))?;
        if row.left_seq == 0 {
            current.push((expect(keys::user_conversation_id(&key))?, row.first_seq.saturating_sub(1)));
        }
        Ok(Walk::On)
    })?;
    let mut conversations = BTreeMap::new();
    for (conversation, before) in current {
        let head = expect(rows::load_head(read, conversation)?)?;
        conversations.insert(conversation, (before, head.seq));
    }
    Ok(conversations)
}

fn lag(
    read: &mut dyn Read,
    user: UserId,
    device: &str,
    conversations: &BTreeMap<ConversationId, (Seq, Seq)>,
) -> Result<u64, Halt> {
    let unconfirmed = |before: Seq, head: Seq| head.saturating_sub(before);
    let mut lag: u64 = conversations.values().map(|(before, head)| unconfirmed(*before, *head)).sum();
    walk(read, keys::device_cursors(user, device), USER_CONVERSATIONS_MAX, |(key, value)| {
        let cursor = rows::read_number(&value)?;
        if let Some((before, head)) = conversations.get(&expect(keys::device_cursor_conversation(&key))?) {
            lag = lag.saturating_sub(unconfirmed(*before, (*head).min(cursor)));
        }
        Ok(Walk::On)
    })?;
    Ok(lag)
}
