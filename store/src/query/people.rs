//! Users and their devices.

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::ids::{ConversationId, Seq, UserId, is_device_id};
use carillon_protocol::limits::PRESENCE_IDS_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::UserConversationRow;
use carillon_protocol::time::WallMs;

use super::{USER_CONVERSATIONS_MAX, devices};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, walk};
use crate::txn::Read;
use crate::verb::{Answer, Joined, Profile};

/// Two range reads, however many conversations there are: the user's list says what each may see first, the device's
/// cursors how far it has got.
pub(super) fn session(read: &mut dyn Read, user: UserId, device: &str) -> Result<Answer, Halt> {
    let known = rows::load_user(read, user)?.is_some();
    let revoked_at = revoked_at(read, user, device)?;
    let mut cursors: BTreeMap<ConversationId, Seq> = BTreeMap::new();
    walk(read, keys::device_cursors(user, device), USER_CONVERSATIONS_MAX, |(key, value)| {
        cursors.insert(expect(keys::device_cursor_conversation(&key))?, rows::read_number(&value)?);
        Ok(Walk::On)
    })?;
    let mut conversations = Vec::new();
    walk(read, keys::user_conversations(user), USER_CONVERSATIONS_MAX, |(key, value)| {
        let row = expect(UserConversationRow::decode(&value))?;
        let conversation = expect(keys::user_conversation_id(&key))?;
        let cursor = cursors.get(&conversation).copied().unwrap_or(0);
        // A conversation that was left is done with once the device has its last event.
        if row.left_seq == 0 || cursor < row.left_seq {
            conversations.push(Joined { conversation, cursor, is_returning: row.is_returning });
        }
        Ok(Walk::On)
    })?;
    Ok(Answer::Session { known, revoked_at, conversations })
}

fn revoked_at(read: &mut dyn Read, user: UserId, device: &str) -> Result<Option<WallMs>, Halt> {
    if !is_device_id(device) {
        return Ok(None);
    }
    Ok(rows::load_device(read, user, device)?.and_then(|row| row.revoked_at))
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
        Some(at) if asker == user || Ids::of(read, asker)?.meet(read, user)? => Some(at),
        _ => None,
    };
    let devices = if asker == user { devices::rows(read, user)? } else { Vec::new() };
    let push_tokens = devices.into_iter().filter_map(|(device, row)| {
        let (platform, token) = row.push_token?;
        Some((device, platform, token))
    });
    Ok(Answer::User(Profile {
        user,
        username: row.username,
        created_at: row.created_at,
        last_seen_at,
        push_tokens: push_tokens.collect(),
    }))
}

fn nobody() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such user")
}

pub(super) fn admission(read: &mut dyn Read, user: UserId, device: &str) -> Result<Answer, Halt> {
    let known = rows::load_user(read, user)?.is_some();
    Ok(Answer::Admission { known, revoked_at: revoked_at(read, user, device)? })
}

/// The asker hears of themself. Of the others by the pair's own key, or by a conversation that both are members of.
pub(super) fn presence(
    read: &mut dyn Read,
    asker: UserId,
    users: &[UserId],
    pairs_only: bool,
) -> Result<Answer, Halt> {
    if users.len() > PRESENCE_IDS_MAX {
        let too_large = Refusal::new(Code::TooLarge, "user_ids may name 200 users");
        return Err(Refusal { field: Some("user_ids"), ..too_large }.into());
    }
    let asked = if pairs_only { None } else { Some(Ids::of(read, asker)?) };
    let mut heard = Vec::new();
    for user in users.iter().copied().collect::<BTreeSet<_>>() {
        let Some(row) = rows::load_user(read, user)? else { continue };
        let is_heard = user == asker
            || match &asked {
                None => read.get(&keys::pair(asker, user))?.is_some(),
                Some(ids) => ids.meet(read, user)?,
            };
        if is_heard {
            heard.push((user, row.last_seen_at));
        }
    }
    Ok(Answer::Presence(heard))
}

/// The conversations that a user is a member of: at most [`USER_CONVERSATIONS_MAX`], beyond which the others count as
/// strangers.
struct Ids(BTreeSet<ConversationId>);

impl Ids {
    fn of(read: &mut dyn Read, user: UserId) -> Result<Ids, Halt> {
        let mut ids = BTreeSet::new();
        current(read, user, |conversation| {
            ids.insert(conversation);
            Walk::On
        })?;
        Ok(Ids(ids))
    }

    /// Whether another user is a member of one of them.
    fn meet(&self, read: &mut dyn Read, other: UserId) -> Result<bool, Halt> {
        let mut meet = false;
        current(read, other, |conversation| {
            meet = self.0.contains(&conversation);
            if meet { Walk::Stop } else { Walk::On }
        })?;
        Ok(meet)
    }
}

/// The conversations that a user is a member of, ascending.
pub(super) fn current(
    read: &mut dyn Read,
    user: UserId,
    mut each: impl FnMut(ConversationId) -> Walk,
) -> Result<(), Halt> {
    walk(read, keys::user_conversations(user), USER_CONVERSATIONS_MAX, |(key, value)| {
        if expect(UserConversationRow::decode(&value))?.left_seq > 0 {
            return Ok(Walk::On);
        }
        Ok(each(expect(keys::user_conversation_id(&key))?))
    })
}
