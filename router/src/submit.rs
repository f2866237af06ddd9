//! Link frames to operations and queries. The gateway is ours, yet what it says is checked again: what is stored for
//! ever passes one more border.

use crate::batch::OVERLOADED_RETRY_MS;
use carillon_node::prng::Prng;
use carillon_protocol::frame::{self, Command, Find, Read, Receipt, Submit, Wanted};
use carillon_protocol::ids::{CLIENT_MSG_ID_BYTES_MAX, ConversationId, ID_MAX, UserId, is_device_id};
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, EMOJI_BYTES_MAX, GROUP_NAME_BYTES_MAX, MEDIA_URL_BYTES_MAX, MEMBER_IDS_MAX,
    PAGE_EVENTS_MAX, PUSH_TOKEN_BYTES_MAX, USERNAME_BYTES_MAX,
};
use carillon_protocol::placement::{Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType, Platform, Role};
use carillon_protocol::time::WallMs;
use carillon_store::verb::{Change, ChangeOp, CreateOp, Op, PageQuery, Query, ReceiptOp, SendOp};

/// Ids that are drawn for a new conversation until one falls into a slot of ours: a router with one slot of the 4,096 finds
/// none with a chance of one in a million million. Beyond: `unavailable`.
const DRAWS_MAX: u32 = 128 << 10;

/// The slot whose owner decides a command.
#[must_use]
pub fn slot(user: UserId, command: &Command) -> Slot {
    match command {
        Command::Send { conversation, .. } | Command::Change { conversation, .. } => {
            slot_of_conversation(*conversation)
        }
        Command::CreateUser { user: Some(created), .. } => slot_of_user(*created),
        Command::Create { .. }
        | Command::Mute { .. }
        | Command::Profile { .. }
        | Command::PushToken { .. }
        | Command::Revoke { .. }
        | Command::CreateUser { user: None, .. }
        | Command::Provision { .. } => slot_of_user(user),
    }
}

/// The operation that a submit asks for. New ids are drawn here, so that their slots are ours.
///
/// # Errors
/// What is wrong with it, by the name of the field on the client's wire.
pub fn op(submit: Submit, prng: &mut Prng, is_ours: &dyn Fn(Slot) -> bool) -> Result<Op, Refusal> {
    let Submit { user, client_msg_id, said_after, command, .. } = submit;
    valid(user.is_valid(), "user_id")?;
    match command {
        Command::Send { conversation, message_type, encoding, content, media_url, reply_to } => {
            valid(conversation.is_valid(), "conversation_id")?;
            named(&client_msg_id)?;
            bounded(content.len(), CONTENT_BYTES_MAX, "content")?;
            bounded(media_url.as_ref().map_or(0, String::len), MEDIA_URL_BYTES_MAX, "media_url")?;
            Ok(Op::Send(SendOp {
                conversation,
                sender: user,
                client_msg_id,
                said_after,
                message_type: known(MessageType::from_number(message_type), "message_type")?,
                encoding: known(Encoding::from_number(encoding), "encoding")?,
                content,
                media_url,
                reply_to,
            }))
        }
        Command::Create { conversation_type, history, group_name, mut members } => {
            let conversation_type = known(ConversationType::from_number(conversation_type), "type")?;
            let key_bytes_min = usize::from(conversation_type == ConversationType::Group);
            valid((key_bytes_min..=CLIENT_MSG_ID_BYTES_MAX).contains(&client_msg_id.len()), "client_msg_id")?;
            bounded(members.len(), MEMBER_IDS_MAX, "member_ids")?;
            bounded(group_name.as_ref().map_or(0, String::len), GROUP_NAME_BYTES_MAX, "group_name")?;
            valid(members.iter().all(|member| member.is_valid()), "member_ids")?;
            members.sort_unstable();
            members.dedup();
            Ok(Op::Create(CreateOp {
                conversation: draw(prng, ConversationId, |it| is_ours(slot_of_conversation(it)))?,
                creator: user,
                client_msg_id,
                conversation_type,
                history: known(History::from_number(history), "history")?,
                group_name,
                members,
            }))
        }
        Command::Change { conversation, change } => {
            valid(conversation.is_valid(), "conversation_id")?;
            named(&client_msg_id)?;
            let change = self::change(change)?;
            Ok(Op::Change(ChangeOp { conversation, by: user, client_msg_id, said_after, change }))
        }
        Command::Mute { conversation, until_ms } => {
            valid(conversation.is_valid(), "conversation_id")?;
            let until = (until_ms > 0).then_some(WallMs(until_ms));
            Ok(Op::Mute { user, conversation, until })
        }
        Command::Profile { username } => {
            filled(&username, USERNAME_BYTES_MAX, "username")?;
            Ok(Op::Profile { user, username })
        }
        Command::PushToken { device, token } => {
            valid(is_device_id(&device), "device_id")?;
            if let Some((platform, token)) = &token {
                known(Platform::from_number(*platform), "platform")?;
                filled(token, PUSH_TOKEN_BYTES_MAX, "token")?;
            }
            Ok(Op::PushToken { user, device, token })
        }
        Command::Revoke { device } => {
            valid(is_device_id(&device), "device_id")?;
            Ok(Op::Revoke { user, device })
        }
        Command::CreateUser { user, username } => {
            filled(&username, USERNAME_BYTES_MAX, "username")?;
            valid(user.is_none_or(UserId::is_valid), "user_id")?;
            let drawn = || draw(prng, UserId, |it| is_ours(slot_of_user(it)));
            Ok(Op::CreateUser { user: user.map_or_else(drawn, Ok)?, username })
        }
        Command::Provision { name } => {
            bounded(name.len(), USERNAME_BYTES_MAX, "username")?;
            Ok(Op::Provision { user, name })
        }
    }
}

fn draw<T: Copy>(prng: &mut Prng, new: fn(u64) -> T, is_ours: impl Fn(T) -> bool) -> Result<T, Refusal> {
    let mut drawn = (0..DRAWS_MAX).map(|_| new(draw_id(prng)));
    let none = || Refusal::new(Code::Unavailable, "this is changing hands; try again");
    drawn.find(|id| is_ours(*id)).ok_or_else(|| none().retry_after(OVERLOADED_RETRY_MS))
}

/// How a log is to change.
fn change(change: frame::Change) -> Result<Change, Refusal> {
    Ok(match change {
        frame::Change::AddMembers { mut users } => {
            bounded(users.len(), MEMBER_IDS_MAX, "user_ids")?;
            valid(!users.is_empty() && users.iter().all(|user| user.is_valid()), "user_ids")?;
            users.sort_unstable();
            users.dedup();
            Change::AddMembers { users }
        }
        frame::Change::RemoveMember { user } => {
            valid(user.is_valid(), "user_id")?;
            Change::RemoveMember { user }
        }
        frame::Change::Rename { group_name } => {
            filled(&group_name, GROUP_NAME_BYTES_MAX, "group_name")?;
            Change::Rename { group_name }
        }
        frame::Change::SetRole { user, role } => {
            valid(user.is_valid(), "user_id")?;
            let role = known(Role::from_number(role), "role")?;
            // There is one owner, who made the conversation or was left with it.
            valid(role != Role::Owner, "role")?;
            Change::SetRole { user, role }
        }
        frame::Change::Delete { message } => {
            valid(message.is_valid(), "message_id")?;
            Change::Delete { message }
        }
        frame::Change::React { message, emoji } => {
            valid(message.is_valid(), "message_id")?;
            filled(&emoji, EMOJI_BYTES_MAX, "emoji")?;
            Change::React { message, emoji }
        }
        frame::Change::Unreact { message, emoji } => {
            valid(message.is_valid(), "message_id")?;
            filled(&emoji, EMOJI_BYTES_MAX, "emoji")?;
            Change::Unreact { message, emoji }
        }
    })
}

/// The operation of a receipt.
///
/// # Errors
/// What is wrong with it.
pub fn receipt(receipt: Receipt) -> Result<ReceiptOp, Refusal> {
    let Receipt { user, device, conversation, delivered_seq, read_seq, .. } = receipt;
    valid(user.is_valid(), "user_id")?;
    valid(is_device_id(&device), "device_id")?;
    valid(conversation.is_valid(), "conversation_id")?;
    valid(delivered_seq > 0 || read_seq > 0, "seq")?;
    Ok(ReceiptOp { user, device, conversation, delivered_seq, read_seq })
}

/// The query of a page.
#[must_use]
pub fn page(read: &Read) -> PageQuery {
    PageQuery {
        user: read.user,
        conversation: read.conversation,
        from_seq: read.from_seq,
        to_seq: read.to_seq,
        limit: read.limit.clamp(1, PAGE_EVENTS_MAX),
        newest_first: read.newest_first,
        messages_only: read.messages_only,
    }
}

/// The query of a look-up.
///
/// # Errors
/// What is wrong with it.
pub fn query(find: Find) -> Result<Query, Refusal> {
    let user = find.user;
    valid(user.is_valid(), "user_id")?;
    Ok(match find.what {
        Wanted::Conversations { below: (below, as_of), limit } => {
            Query::Conversations { user, below, as_of, limit: limit.clamp(1, PAGE_EVENTS_MAX) }
        }
        Wanted::Conversation(conversation) => Query::Conversation { user, conversation },
        Wanted::User(wanted) => Query::User { asker: user, user: wanted },
        Wanted::Username(username) => Query::Username { asker: user, username },
        Wanted::Members { conversation, after, limit } => {
            Query::MemberPage { user, conversation, after, limit: limit.clamp(1, PAGE_EVENTS_MAX) }
        }
        Wanted::Receipts { conversation, seq } => Query::Receipts { user, conversation, seq },
        Wanted::Devices => Query::Devices { user },
        Wanted::Admission { device } => {
            valid(is_device_id(&device), "device_id")?;
            Query::Admission { user, device }
        }
    })
}

/// A canonical id. All slots are this router's, so the first one drawn will do; that it is free is certain enough at
/// 63 bits, and the store refuses one that is not.
fn draw_id(prng: &mut Prng) -> u64 {
    prng.between(1, ID_MAX)
}

/// An idempotency key.
fn named(client_msg_id: &str) -> Result<(), Refusal> {
    valid((1..=CLIENT_MSG_ID_BYTES_MAX).contains(&client_msg_id.len()), "client_msg_id")
}

/// A text that says something, within its bound.
fn filled(text: &str, bytes_max: usize, field: &'static str) -> Result<(), Refusal> {
    bounded(text.len(), bytes_max, field)?;
    valid(!text.is_empty(), field)
}

fn valid(is_valid: bool, field: &'static str) -> Result<(), Refusal> {
    if is_valid { Ok(()) } else { Err(Refusal::field(field, format!("{field} is not valid"))) }
}

fn known<T>(value: Option<T>, field: &'static str) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::field(field, format!("{field} is not one that this server knows")))
}

fn bounded(length: usize, length_max: usize, field: &'static str) -> Result<(), Refusal> {
    if length <= length_max {
        return Ok(());
    }
    Err(Refusal {
        field: Some(field),
        ..Refusal::new(Code::TooLarge, format!("{field} is limited to {length_max}"))
    })
}
