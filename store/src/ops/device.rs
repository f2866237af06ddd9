//! Devices of a user: when each was last there, where its notifications go, and whether its tokens still count.

use carillon_protocol::ids::{UserId, is_device_id};
use carillon_protocol::limits::PUSH_TOKEN_BYTES_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{DeviceRow, Platform, UserRow};
use carillon_protocol::time::WallMs;

use super::Attempt;
use crate::keys;
use crate::rows::{self, Halt, Walk, walk};
use crate::verb::Outcome;

/// The most device rows of a user. Beyond, a further device is not written down: its push token and its revocation are
/// refused, and when it was last there is not kept.
pub(crate) const DEVICE_ROWS_MAX: usize = 1_024;

/// Merged by maximum, so it may be repeated and reordered; nothing is written when nothing moves (PR2).
pub(super) fn seen(
    attempt: &mut Attempt<'_, '_>,
    user: UserId,
    device: &str,
    at: WallMs,
    offline: bool,
) -> Result<Outcome, Halt> {
    let profile = profile(attempt, user)?;
    let known = known_device(attempt, user, device)?;
    let has_room = known.is_some() || has_room(attempt, user)?;
    let row = known.unwrap_or_default();

    if has_room && row.last_seen_at < Some(at) {
        attempt.set(keys::device(user, device), DeviceRow { last_seen_at: Some(at), ..row }.encode());
    }
    if offline && profile.last_seen_at < Some(at) {
        attempt.set(keys::user(user), UserRow { last_seen_at: Some(at), ..profile }.encode());
    }
    Ok(Outcome::Stored)
}

/// The row stays, so that what was revoked is remembered; what it said about notifications goes.
pub(super) fn revoke(attempt: &mut Attempt<'_, '_>, user: UserId, device: &str) -> Result<Outcome, Halt> {
    let row = row(attempt, user, device)?;
    let at = row.revoked_at.map_or(attempt.context.now, |before| before.max(attempt.context.now));
    let row = DeviceRow { revoked_at: Some(at), push_token: None, ..row };
    attempt.set(keys::device(user, device), row.encode());
    Ok(Outcome::Revoked { user, device: device.to_owned(), at })
}

pub(super) fn push_token(
    attempt: &mut Attempt<'_, '_>,
    user: UserId,
    device: &str,
    token: Option<&(u8, String)>,
) -> Result<Outcome, Halt> {
    if let Some((platform, token)) = token {
        if Platform::from_number(*platform).is_none() {
            return Err(Refusal::field("platform", "platform must be apns, fcm, webpush or webhook").into());
        }
        if !(1..=PUSH_TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(Refusal::field("token", "token must have 1 to 4096 bytes").into());
        }
    }
    let before = row(attempt, user, device)?;
    if before.push_token.as_ref() != token {
        let row = DeviceRow { push_token: token.cloned(), ..before };
        attempt.set(keys::device(user, device), row.encode());
    }
    Ok(Outcome::Stored)
}

/// The row of a device, or a new one when there is room for it.
fn row(attempt: &mut Attempt<'_, '_>, user: UserId, device: &str) -> Result<DeviceRow, Halt> {
    profile(attempt, user)?;
    match known_device(attempt, user, device)? {
        Some(row) => Ok(row),
        None if has_room(attempt, user)? => Ok(DeviceRow::default()),
        None => {
            let full = Refusal::new(Code::TooLarge, "as many devices as a user may have");
            Err(Refusal { field: Some("device_id"), ..full }.into())
        }
    }
}

fn profile(attempt: &mut Attempt<'_, '_>, user: UserId) -> Result<UserRow, Halt> {
    let row = rows::load_user(attempt.read(), user)?;
    Ok(row.ok_or_else(|| Refusal::new(Code::NotFound, "there is no such user"))?)
}

fn known_device(
    attempt: &mut Attempt<'_, '_>,
    user: UserId,
    device: &str,
) -> Result<Option<DeviceRow>, Halt> {
    if !is_device_id(device) {
        return Err(Refusal::field("device_id", "a device id is 1 to 64 of A-Z, a-z, 0-9, _ and -").into());
    }
    rows::load_device(attempt.read(), user, device)
}

/// Looked at only for a device that is new, so once in its life.
fn has_room(attempt: &mut Attempt<'_, '_>, user: UserId) -> Result<bool, Halt> {
    let mut count = 0;
    walk(attempt.read(), keys::devices(user), DEVICE_ROWS_MAX, |_| {
        count += 1;
        Ok(Walk::On)
    })?;
    Ok(count < DEVICE_ROWS_MAX)
}
