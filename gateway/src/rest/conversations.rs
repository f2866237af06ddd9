//! Conversations: listing, creating, looking at one, and how far one has got in it.

use carillon_protocol::client::json::shape;
use carillon_protocol::client::{self, MessageView, check_command};
use carillon_protocol::frame::{Change, Command, ConversationView, Wanted};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::{GROUP_NAME_BYTES_MAX, MEMBER_IDS_MAX};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, History};
use carillon_protocol::time::WallMs;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Fields, required};
use super::cursor::{self, Cursor};
use super::messages;
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::Query;
use super::response::Response;

/// `GET /v1/conversations`.
pub(super) fn list(call: &Call<'_>) -> Result<Plan, Refusal> {
    let query = Query::new(call.query);
    let limit = query.limit()?;
    let below = match query.text("cursor")? {
        None => (u64::MAX, u64::MAX),
        Some(text) => match Cursor::parse(&text)? {
            Cursor::Conversations(last_id, as_of) => (last_id, as_of),
            _ => return Err(cursor::wrong()),
        },
    };
    Ok(Plan { ask: Ask::Find(Wanted::Conversations { below, limit }), tell: Tell::Conversations { below } })
}

/// `GET /v1/conversations/{id}`.
pub(super) fn one(call: &Call<'_>) -> Result<Plan, Refusal> {
    let conversation = call.path.conversation()?;
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
    let client_msg_id = call.key(&fields)?;
    let (group_name, client_msg_id) = match conversation_type {
        ConversationType::OneToOne if members.len() > 1 => {
            return Err(Refusal::field(
                "member_ids",
                "a one_to_one conversation has exactly one other member",
            ));
        }
        ConversationType::OneToOne => (None, String::new()),
        ConversationType::Group => {
            // With the caller, who need not be named.
            if members.len() >= MEMBER_IDS_MAX {
                let message =
                    format!("a group begins with at most {MEMBER_IDS_MAX} members: add the others later");
                return Err(Refusal { code: Code::TooLarge, ..Refusal::field("member_ids", message) });
            }
            (Some(group_name(&fields)?), client_msg_id)
        }
    };
    Ok(Plan {
        ask: Ask::Submit {
            client_msg_id,
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

/// `PATCH /v1/conversations/{id}`.
pub(super) fn rename(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    call.change(&fields, Change::Rename { group_name: group_name(&fields)? })
}

/// "For ever", as clients say and hear it: the last millisecond of the year 9999.
pub(super) const MUTED_FOREVER_MS: u64 = 253_402_300_799_999;

/// `PUT /v1/conversations/{id}/mute`.
pub(super) fn mute(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split_or_none(call.body)?;
    let until_ms = fields.millis("until")?.filter(|until_ms| *until_ms < MUTED_FOREVER_MS);
    set_mute(call, &fields, until_ms.unwrap_or(u64::MAX))
}

/// `DELETE /v1/conversations/{id}/mute`.
pub(super) fn unmute(call: &Call<'_>) -> Result<Plan, Refusal> {
    set_mute(call, &Fields::split_or_none(call.body)?, 0)
}

fn set_mute(call: &Call<'_>, fields: &Fields<'_>, until_ms: u64) -> Result<Plan, Refusal> {
    let conversation = call.path.conversation()?;
    call.submit(fields, Command::Mute { conversation, until_ms }, Tell::Stored)
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
    let conversation = call.path.conversation()?;
    let seq = Fields::split(call.body)?.required_seq("seq")?;
    check_command(&mut client::Command::Read { conversation, seq })?;
    Ok((conversation, seq))
}

fn receipt(call: &Call<'_>, conversation: ConversationId, delivered_seq: Seq, read_seq: Seq) -> Plan {
    let device = call.device.to_owned();
    Plan { ask: Ask::Receipt { device, conversation, delivered_seq, read_seq }, tell: Tell::Stored }
}

/// The conversation object of protocol.md.
#[derive(Serialize, JsonSchema)]
pub(super) struct Conversation<'a> {
    conversation_id: ConversationId,
    r#type: ConversationType,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    /// Of a group of more than 200 members the first ones.
    member_ids: &'a [UserId],
    members_count: u64,
    created_at: WallMs,
    created_by: UserId,
    head_seq: Seq,
    read_seq: Seq,
    unread_count: u64,
    last_message: Option<shape::Message<'a>>,
    /// No notifications until then; 253402300799999: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    muted_until: Option<WallMs>,
    history: History,
}

impl<'a> Conversation<'a> {
    fn new(
        conversation: &'a ConversationView,
        last_message: &'a Option<MessageView<'a>>,
    ) -> Result<Conversation<'a>, Refusal> {
        let muted_until_ms = conversation.muted_until_ms;
        Ok(Conversation {
            conversation_id: conversation.conversation,
            r#type: ConversationType::from_number(conversation.conversation_type).ok_or_else(mismatch)?,
            group_name: conversation.group_name.as_deref(),
            member_ids: &conversation.member_ids,
            members_count: conversation.members_count,
            created_at: WallMs(conversation.created_at_ms),
            created_by: conversation.created_by,
            head_seq: conversation.head_seq,
            read_seq: conversation.read_seq,
            unread_count: conversation.unread_count,
            last_message: last_message.as_ref().map(Into::into),
            muted_until: (muted_until_ms != 0).then_some(WallMs(muted_until_ms.min(MUTED_FOREVER_MS))),
            history: History::from_number(conversation.history).ok_or_else(mismatch)?,
        })
    }
}

fn last_message(conversation: &ConversationView, user: UserId) -> Result<Option<MessageView<'_>>, Refusal> {
    let marks = messages::receipts(&conversation.marks);
    let entry = conversation.last_message.as_ref();
    let view =
        |entry| messages::view(conversation.conversation, entry, user, &marks, &conversation.last_reactions);
    entry.map(view).transpose()
}

/// One conversation as `user` sees it.
pub(super) fn object(status: u16, view: &ConversationView, user: UserId) -> Result<Response, Refusal> {
    let last_message = last_message(view, user)?;
    Ok(Response::json(status, &Conversation::new(view, &last_message)?))
}

/// A page of conversations.
#[derive(Serialize, JsonSchema)]
pub(super) struct Conversations<'a> {
    conversations: Vec<Conversation<'a>>,
    next_cursor: Option<String>,
}

/// A page of conversations as `user` sees them, `below` the place that was asked for. The list is that of when its first
/// page was asked for, when none had a later event than the first of it.
pub(super) fn page(
    views: &[ConversationView],
    more: bool,
    below: (u64, u64),
    user: UserId,
) -> Result<Response, Refusal> {
    let last_messages = views.iter().map(|view| last_message(view, user)).collect::<Result<Vec<_>, _>>()?;
    let conversations = views.iter().zip(&last_messages);
    let conversations =
        conversations.map(|(view, last)| Conversation::new(view, last)).collect::<Result<Vec<_>, _>>()?;
    let last = views.last().filter(|_| more);
    let as_of = match (below, views.first()) {
        ((u64::MAX, _), Some(first)) => first.last_id,
        ((_, as_of), _) => as_of,
    };
    let next_cursor = last.map(|view| Cursor::Conversations(view.last_id, as_of).to_text());
    Ok(Response::json(200, &Conversations { conversations, next_cursor }))
}
