//! Members join and leave. Both are events, so that who may see what is decided by seq (G11): a member hears from the
//! event that added them to the event that removed them, both included.

use std::collections::BTreeSet;

use carillon_protocol::ids::{Seq, UserId};
use carillon_protocol::limits::MEMBER_IDS_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{Body, HeadRow, History, MemberRow, Role, UserConversationRow};

use super::{Decided, Plan, Scene, not_allowed, not_found, too_large};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, walk};

/// The most memberships that are looked at for who follows an owner who leaves. In a larger group it is the earliest of
/// those with the lowest ids.
const HEIRS_MAX: usize = 65_536;

pub(super) fn add<'a>(scene: &mut Scene<'_>, users: &[UserId]) -> Result<Decided<'a>, Halt> {
    let group = scene.group("user_ids")?;
    if users.is_empty() {
        return Err(Refusal::field("user_ids", "user_ids must name somebody").into());
    }
    if users.len() > MEMBER_IDS_MAX {
        return Err(too_large(
            "user_ids",
            "user_ids may name 1,000 users; add the others by further requests",
        )
        .into());
    }
    let seq = scene.seq();
    let mut joined_seq: Seq = 0;
    let mut joining = Vec::new();
    for user in users.iter().copied().collect::<BTreeSet<_>>() {
        match scene.member(user)? {
            Some(member) if member.is_current() => joined_seq = joined_seq.max(member.from),
            earlier => {
                if earlier.is_none() && rows::load_user(scene.read, user)?.is_none() {
                    return Err(not_found("user_ids", "user_ids names a user who does not exist").into());
                }
                joining.push((user, earlier));
            }
        }
    }
    if joining.is_empty() {
        return Ok(Decided::Unchanged(Some(joined_seq)));
    }
    let members_count = scene.head.members_count + joining.len() as u64;
    if members_count > scene.members_max {
        return Err(too_large("user_ids", "more members than a conversation may have").into());
    }

    let mut written = Vec::with_capacity(2 * joining.len());
    for (user, earlier) in &joining {
        let member = joined(&scene.head, group.history, earlier.as_ref());
        written.push((keys::member(scene.conversation, *user), Some(member.encode())));
        let first_seq = if group.history == History::All { 1 } else { seq };
        let row = UserConversationRow { first_seq, left_seq: 0, is_returning: earlier.is_some() };
        written.push((keys::user_conversation(*user, scene.conversation), Some(row.encode())));
    }
    let returning = joining.iter().filter(|(_, earlier)| earlier.is_some()).map(|(user, _)| *user).collect();
    let body = Body::MembersAdded {
        users: joining.iter().map(|(user, _)| *user).collect(),
        returning,
        history: group.history,
    };
    let head = HeadRow { members_version: scene.head.members_version + 1, members_count, ..scene.head };
    Ok(Decided::Append(Plan { body, head, rows: written }))
}

/// The membership that begins with the event behind `head`. Who sees the log from there on has nothing unread; who sees
/// all of it has everything unread, or what came since they read last.
fn joined(head: &HeadRow, history: History, earlier: Option<&MemberRow>) -> MemberRow {
    let earlier = earlier.copied().unwrap_or_default();
    let member = MemberRow { from: head.seq + 1, to: 0, role: Role::Member, role_seq: 0, ..earlier };
    match history {
        History::All => member,
        History::FromJoin => MemberRow {
            delivered_seq: earlier.delivered_seq.max(head.seq),
            read_seq: earlier.read_seq.max(head.seq),
            read_index: head.message_index,
            own_since_read: 0,
            ..member
        },
    }
}

pub(super) fn remove<'a>(scene: &mut Scene<'_>, user: UserId) -> Result<Decided<'a>, Halt> {
    scene.group("user_id")?;
    if user != scene.by && scene.member.role == Role::Member {
        return Err(not_allowed("only the owner and admins remove others").into());
    }
    let member = match scene.member(user)? {
        Some(member) if member.is_current() => member,
        Some(former) => return Ok(Decided::Unchanged(Some(former.to))),
        None if rows::load_user(scene.read, user)?.is_none() => {
            return Err(not_found("user_id", "there is no such user").into());
        }
        None => return Ok(Decided::Unchanged(None)),
    };
    if user != scene.by && member.role == Role::Owner {
        return Err(not_allowed("the owner is not removed by others").into());
    }
    let seq = scene.seq();
    let key = keys::user_conversation(user, scene.conversation);
    let listed = expect(scene.read.get(&key)?.and_then(|bytes| UserConversationRow::decode(&bytes)))?;
    let heir = if member.role == Role::Owner { heir(scene, user)? } else { None };

    let mut written = vec![
        (keys::member(scene.conversation, user), Some(MemberRow { to: seq, ..member }.encode())),
        (key, Some(UserConversationRow { left_seq: seq, ..listed }.encode())),
    ];
    if let Some((heir, member)) = heir {
        let owner = MemberRow { role: Role::Owner, role_seq: seq, ..member };
        written.push((keys::member(scene.conversation, heir), Some(owner.encode())));
    }
    let head = HeadRow {
        members_version: scene.head.members_version + 1,
        members_count: scene.head.members_count.saturating_sub(1),
        ..scene.head
    };
    let body = Body::MemberRemoved { user, heir: heir.map(|(heir, _)| heir) };
    Ok(Decided::Append(Plan { body, head, rows: written }))
}

/// The admin who joined first, else the member who did; nobody when the last one leaves.
fn heir(scene: &mut Scene<'_>, leaving: UserId) -> Result<Option<(UserId, MemberRow)>, Halt> {
    let mut heir: Option<(UserId, MemberRow)> = None;
    walk(scene.read, keys::members(scene.conversation), HEIRS_MAX, |(key, value)| {
        let user = expect(keys::member_user(&key))?;
        let member = expect(rows::decode_member(&value))?;
        let place = |member: &MemberRow| (member.role == Role::Member, member.from);
        let is_before = heir.as_ref().is_none_or(|(_, best)| place(&member) < place(best));
        if user != leaving && member.is_current() && is_before {
            heir = Some((user, member));
        }
        Ok(Walk::On)
    })?;
    Ok(heir)
}
