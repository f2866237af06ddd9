//! What a group is called, and what its members may do.

use carillon_protocol::ids::UserId;
use carillon_protocol::limits::GROUP_NAME_BYTES_MAX;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{Body, ConversationRow, MemberRow, Role};

use super::{Decided, Plan, Scene, not_allowed, not_found};
use crate::keys;
use crate::rows::Halt;

pub(super) fn rename<'a>(scene: &mut Scene<'_>, group_name: &'a str) -> Result<Decided<'a>, Halt> {
    let group = scene.group("group_name")?;
    if !(1..=GROUP_NAME_BYTES_MAX).contains(&group_name.len()) {
        return Err(Refusal::field("group_name", "group_name must have 1 to 256 bytes").into());
    }
    if group.group_name.as_deref() == Some(group_name) {
        return Ok(Decided::Unchanged(Some(group.named_seq)));
    }
    let row = ConversationRow { group_name: Some(group_name.to_owned()), named_seq: scene.seq(), ..group };
    Ok(Decided::Append(Plan {
        body: Body::Renamed { group_name: Some(group_name) },
        head: scene.head,
        rows: vec![(keys::conversation(scene.conversation), Some(row.encode()))],
    }))
}

pub(super) fn set_role<'a>(scene: &mut Scene<'_>, user: UserId, role: Role) -> Result<Decided<'a>, Halt> {
    scene.group("user_id")?;
    if scene.member.role != Role::Owner {
        return Err(not_allowed("only the owner says what others may do").into());
    }
    if role == Role::Owner {
        return Err(Refusal::field("role", "role must be member or admin").into());
    }
    if user == scene.by {
        return Err(
            Refusal::field("user_id", "the owner stays the owner; leave, and another one follows").into()
        );
    }
    let member = scene.member(user)?.filter(MemberRow::is_current);
    let member = member.ok_or_else(|| not_found("user_id", "user_id must be a member of the group"))?;
    if member.role == role {
        return Ok(Decided::Unchanged(Some(member.role_seq.max(member.from))));
    }
    let row = MemberRow { role, role_seq: scene.seq(), ..member };
    Ok(Decided::Append(Plan {
        body: Body::RoleChanged { user, role },
        head: scene.head,
        rows: vec![(keys::member(scene.conversation, user), Some(row.encode()))],
    }))
}
