//! Link frames to operations and queries. The gateway is ours, yet what it says is checked again: what is stored for
//! ever passes one more border.

use carillon_node::prng::Prng;
use carillon_protocol::frame::{Command, Find, Receipt, Submit, Wanted};
use carillon_protocol::ids::{CLIENT_MSG_ID_BYTES_MAX, ConversationId, ID_MAX, UserId, is_device_id};
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, GROUP_NAME_BYTES_MAX, MEDIA_URL_BYTES_MAX, MEMBER_IDS_MAX, PAGE_EVENTS_MAX,
    USERNAME_BYTES_MAX,
};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType};
use carillon_store::verb::{CreateOp, Op, Query, ReceiptOp, SendOp};

/// The operation that a submit asks for. New ids are drawn here.
///
/// # Errors
/// What is wrong with it, by the name of the field on the client's wire.
pub fn op(submit: Submit, prng: &mut Prng) -> Result<Op, Refusal> {
    let Submit { user, client_msg_id, command, .. } = submit;
    valid(user.is_valid(), "user_id")?;
    match command {
        Command::Send { conversation, message_type, encoding, content, media_url, reply_to } => {
            valid(conversation.is_valid(), "conversation_id")?;
            valid((1..=CLIENT_MSG_ID_BYTES_MAX).contains(&client_msg_id.len()), "client_msg_id")?;
            bounded(content.len(), CONTENT_BYTES_MAX, "content")?;
            bounded(media_url.as_ref().map_or(0, String::len), MEDIA_URL_BYTES_MAX, "media_url")?;
            Ok(Op::Send(SendOp {
                conversation,
                sender: user,
                client_msg_id,
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
                conversation: ConversationId(draw_id(prng)),
                creator: user,
                client_msg_id,
                conversation_type,
                history: known(History::from_number(history), "history")?,
                group_name,
                members,
            }))
        }
        Command::CreateUser { user, username } => {
            bounded(username.len(), USERNAME_BYTES_MAX, "username")?;
            valid(!username.is_empty(), "username")?;
            valid(user.is_none_or(UserId::is_valid), "user_id")?;
            Ok(Op::CreateUser { user: user.unwrap_or_else(|| UserId(draw_id(prng))), username })
        }
        Command::Provision { name } => {
            bounded(name.len(), USERNAME_BYTES_MAX, "username")?;
            Ok(Op::Provision { user, name })
        }
    }
}

/// The operation of a receipt.
///
/// # Errors
/// What is wrong with it.
pub fn receipt(receipt: Receipt) -> Result<ReceiptOp, Refusal> {
    let Receipt { user, device, conversation, delivered_seq, read_seq, .. } = receipt;
    valid(user.is_valid(), "user_id")?;
    valid(is_device_id(&device), "device")?;
    valid(conversation.is_valid(), "conversation_id")?;
    valid(delivered_seq > 0 || read_seq > 0, "seq")?;
    Ok(ReceiptOp { user, device, conversation, delivered_seq, read_seq })
}

/// The query of a look-up.
#[must_use]
pub fn query(find: Find) -> Query {
    let user = find.user;
    match find.what {
        Wanted::Conversations { below, limit } => {
            Query::Conversations { user, below, limit: limit.clamp(1, PAGE_EVENTS_MAX) }
        }
        Wanted::Conversation(conversation) => Query::Conversation { user, conversation },
        Wanted::User(wanted) => Query::User { asker: user, user: wanted },
        Wanted::Username(username) => Query::Username { asker: user, username },
    }
}

/// A canonical id. All slots are this router's, so the first one drawn will do; that it is free is certain enough at
/// 63 bits, and the store refuses one that is not.
fn draw_id(prng: &mut Prng) -> u64 {
    prng.between(1, ID_MAX)
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
