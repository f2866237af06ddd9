//! Conversations: listing, creating, looking at one, and how far one has got in it.

use std::borrow::Cow;

use carillon_protocol::client::json::shape;
use carillon_protocol::client::{self, MessageView, check_command};
use carillon_protocol::frame::{Command, ConversationView, Found, Wanted};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::GROUP_NAME_BYTES_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, History};
use carillon_protocol::time::WallMs;
use serde::Serialize;

use super::body::{Fields, required};
use super::cursor::{self, Cursor};
use super::messages;
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::{self, Query};
use super::response::Response;

/// `GET /v1/conversations`.
pub(super) fn list(call: &Call<'_>) -> Result<Plan, Refusal> {
    let query = Query::new(call.query);
    let limit = query.limit()?;
    let below = match query.text("cursor")? {
        None => (u64::MAX, u64::MAX),
        Some(text) => match Cursor::parse(&text)? {
            Cursor::Conversations(last_id, conversation) => (last_id, conversation),
            Cursor::Below(_) | Cursor::Above(_) => return Err(cursor::wrong()),
        },
    };
    Ok(Plan { ask: Ask::Find(Wanted::Conversations { below, limit }), tell: Tell::Conversations })
}

/// `GET /v1/conversations/{id}`.
pub(super) fn one(call: &Call<'_>) -> Result<Plan, Refusal> {
    let conversation = query::conversation(call.parameter)?;
    Ok(Plan { ask: Ask::Find(Wanted::Conversation(conversation)), tell: Tell::Conversation(200) })
}

/// `POST /v1/conversations`. A pair is its own idempotency key.
pub(super) fn create(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    let conversation_type: ConversationType =
        fields.named("type", "one_to_one or group")?.ok_or_else(|| required("type"))?;
    let history: Option<History> = fields.named("history", "from_join or all")?;
    let mut members = fields.required_users("member_ids")?;
    members.retain(|member| *member != call.user);
    members.sort_unstable();
    members.dedup();
    if members.is_empty() {
        return Err(Refusal::field("member_ids", "member_ids must name somebody else"));
    }
    let (group_name, client_msg_id) = match conversation_type {
        ConversationType::OneToOne if members.len() > 1 => {
            return Err(Refusal::field(
                "member_ids",
                "a one_to_one conversation has exactly one other member",
            ));
        }
        ConversationType::OneToOne => (None, None),
        ConversationType::Group => {
            let key = messages::client_msg_id(call, fields.text("client_msg_id")?)?;
            (Some(group_name(&fields)?), key)
        }
    };
    Ok(Plan {
        ask: Ask::Submit {
            client_msg_id: client_msg_id.map(Cow::into_owned).unwrap_or_default(),
            command: Command::Create {
                conversation_type: conversation_type as u8,
                history: history.unwrap_or_default() as u8,
                group_name,
                members,
            },
        },
        tell: Tell::Created,
    })
}

fn group_name(fields: &Fields<'_>) -> Result<String, Refusal> {
    let name = fields.required_text("group_name")?;
    match name.len() {
        0 => Err(Refusal::field("group_name", "group_name must not be empty")),
        1..=GROUP_NAME_BYTES_MAX => Ok(name.into_owned()),
        _ => {
            let message = format!("group_name must be at most {GROUP_NAME_BYTES_MAX} bytes");
            Err(Refusal { code: Code::TooLarge, ..Refusal::field("group_name", message) })
        }
    }
}

/// `POST /v1/conversations/{id}/delivered`.
pub(super) fn delivered(call: &Call<'_>) -> Result<Plan, Refusal> {
    let (conversation, seq) = up_to(call)?;
    Ok(receipt(call, conversation, seq, 0))
}

/// `POST /v1/conversations/{id}/read`.
pub(super) fn read(call: &Call<'_>) -> Result<Plan, Refusal> {
    let (conversation, seq) = up_to(call)?;
    Ok(receipt(call, conversation, 0, seq))
}

fn up_to(call: &Call<'_>) -> Result<(ConversationId, Seq), Refusal> {
    let conversation = query::conversation(call.parameter)?;
    let seq = Fields::split(call.body)?.required_seq("seq")?;
    check_command(&mut client::Command::Read { conversation, seq })?;
    Ok((conversation, seq))
}

fn receipt(call: &Call<'_>, conversation: ConversationId, delivered_seq: Seq, read_seq: Seq) -> Plan {
    let device = call.device.to_owned();
    Plan { ask: Ask::Receipt { device, conversation, delivered_seq, read_seq }, tell: Tell::Receipted }
}

/// The conversation object of protocol.md.
#[derive(Serialize)]
struct Object<'a> {
    conversation_id: ConversationId,
    r#type: ConversationType,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    member_ids: &'a [UserId],
    created_at: WallMs,
    created_by: UserId,
    head_seq: Seq,
    read_seq: Seq,
    unread_count: u64,
    last_message: Option<shape::Message<'a>>,
    history: History,
}

impl<'a> Object<'a> {
    fn new(
        conversation: &'a ConversationView,
        last_message: &'a Option<MessageView<'a>>,
    ) -> Result<Object<'a>, Refusal> {
        Ok(Object {
            conversation_id: conversation.conversation,
            r#type: ConversationType::from_number(conversation.conversation_type).ok_or_else(mismatch)?,
            group_name: conversation.group_name.as_deref(),
            member_ids: &conversation.member_ids,
            created_at: WallMs(conversation.created_at_ms),
            created_by: conversation.created_by,
            head_seq: conversation.head_seq,
            read_seq: conversation.read_seq,
            unread_count: conversation.unread_count,
            last_message: last_message.as_ref().map(Into::into),
            history: History::from_number(conversation.history).ok_or_else(mismatch)?,
        })
    }
}

fn last_message(conversation: &ConversationView, user: UserId) -> Result<Option<MessageView<'_>>, Refusal> {
    let marks = messages::receipts(&conversation.marks);
    let entry = conversation.last_message.as_ref();
    entry.map(|entry| messages::view(conversation.conversation, entry, user, &marks)).transpose()
}

/// One conversation as `user` sees it.
pub(super) fn object(status: u16, found: &Found, user: UserId) -> Result<Response, Refusal> {
    let conversation = found.conversations.first().ok_or_else(mismatch)?;
    let last_message = last_message(conversation, user)?;
    Ok(Response::json(status, &Object::new(conversation, &last_message)?))
}

#[derive(Serialize)]
struct List<'a> {
    conversations: Vec<Object<'a>>,
    next_cursor: Option<String>,
}

/// A page of conversations as `user` sees them.
pub(super) fn page(found: &Found, user: UserId) -> Result<Response, Refusal> {
    let last_messages = found
        .conversations
        .iter()
        .map(|conversation| last_message(conversation, user))
        .collect::<Result<Vec<_>, _>>()?;
    let conversations = found
        .conversations
        .iter()
        .zip(&last_messages)
        .map(|(conversation, last_message)| Object::new(conversation, last_message))
        .collect::<Result<Vec<_>, _>>()?;
    let next_cursor = found.conversations.last().filter(|_| found.more).map(|conversation| {
        Cursor::Conversations(conversation.last_id, conversation.conversation.0).to_text()
    });
    Ok(Response::json(200, &List { conversations, next_cursor }))
}
