//! Users become known, at their first log-in or by an administrator; they take another name, and mute conversations.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::USERNAME_BYTES_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{MemberRow, UserRow};
use carillon_protocol::time::WallMs;

use super::Attempt;
use crate::keys;
use crate::rows::{self, Halt, forbidden};
use crate::verb::Outcome;

/// How many names are tried for a user whose wish is taken. All taken means that somebody took them on purpose: the
/// log-in is refused, and an administrator can create the user by name.
const NAMES_TRIED_MAX: u32 = 16;

pub(super) fn provision(attempt: &mut Attempt<'_, '_>, user: UserId, wish: &str) -> Result<Outcome, Halt> {
    if rows::load_user(attempt.read(), user)?.is_some() {
        return Ok(Outcome::User { user, existed: true });
    }
    let username = free_name(attempt, user, wish)?;
    write(attempt, user, username);
    Ok(Outcome::User { user, existed: false })
}

/// A user who is there under this very name and since this very moment is what this operation made in an attempt whose
/// outcome was unknown (F4).
pub(super) fn create_user(
    attempt: &mut Attempt<'_, '_>,
    user: UserId,
    username: &str,
) -> Result<Outcome, Halt> {
    check_username(username)?;
    if let Some(row) = rows::load_user(attempt.read(), user)? {
        return if row.username == username && row.created_at == attempt.context.now {
            Ok(Outcome::User { user, existed: false })
        } else {
            Err(Refusal::field("user_id", "this user exists").into())
        };
    }
    if is_taken(attempt, username)? {
        return Err(taken().into());
    }
    write(attempt, user, username.to_owned());
    Ok(Outcome::User { user, existed: false })
}

/// Another name; the old one is free from then on. Asked again it is so already.
pub(super) fn rename(attempt: &mut Attempt<'_, '_>, user: UserId, username: &str) -> Result<Outcome, Halt> {
    check_username(username)?;
    let row = rows::load_user(attempt.read(), user)?;
    let row = row.ok_or_else(|| Refusal::new(Code::NotFound, "there is no such user"))?;
    if row.username == username {
        return Ok(Outcome::User { user, existed: true });
    }
    if is_taken(attempt, username)? {
        return Err(taken().into());
    }
    attempt.clear(keys::name(&row.username));
    attempt.set(keys::name(username), rows::number(user.0));
    attempt.set(keys::user(user), UserRow { username: username.to_owned(), ..row }.encode());
    Ok(Outcome::User { user, existed: false })
}

pub(super) fn mute(
    attempt: &mut Attempt<'_, '_>,
    user: UserId,
    conversation: ConversationId,
    until: Option<WallMs>,
) -> Result<Outcome, Halt> {
    let member = rows::load_member(attempt.read(), conversation, user)?;
    member.filter(MemberRow::is_current).ok_or_else(forbidden)?;
    let key = keys::mute(user, conversation);
    // Nobody reads it here, but a commit of unknown outcome must not come after its own repetition (F4).
    attempt.txn.expect_unchanged(&key);
    match until {
        Some(until) => attempt.set(key, rows::number(until.0)),
        None => attempt.clear(key),
    }
    Ok(Outcome::Stored)
}

fn check_username(username: &str) -> Result<(), Refusal> {
    if (1..=USERNAME_BYTES_MAX).contains(&username.len()) {
        return Ok(());
    }
    Err(Refusal::field("username", "username must have 1 to 64 bytes"))
}

fn taken() -> Refusal {
    Refusal::field("username", "this username is taken; choose another")
}

fn free_name(attempt: &mut Attempt<'_, '_>, user: UserId, wish: &str) -> Result<String, Halt> {
    if (1..=USERNAME_BYTES_MAX).contains(&wish.len()) && !is_taken(attempt, wish)? {
        return Ok(wish.to_owned());
    }
    for number in 1..=NAMES_TRIED_MAX {
        let name = if number == 1 { format!("user-{user}") } else { format!("user-{user}-{number}") };
        if !is_taken(attempt, &name)? {
            return Ok(name);
        }
    }
    Err(Refusal::field("username", "every name for this user is taken").into())
}

fn is_taken(attempt: &mut Attempt<'_, '_>, username: &str) -> Result<bool, Halt> {
    Ok(attempt.read().get(&keys::name(username))?.is_some())
}

fn write(attempt: &mut Attempt<'_, '_>, user: UserId, username: String) {
    attempt.set(keys::name(&username), rows::number(user.0));
    let row = UserRow { username, created_at: attempt.context.now, last_seen_at: None };
    attempt.set(keys::user(user), row.encode());
}
