//! What servers say, read by a client.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::id::Id;
use super::shape;
use crate::client::{EventFrame, FrameId, ServerFrame, SyncBatch, Unreadable, field_name, reason_name};
use crate::ids::{ConversationId, Seq};
use crate::reason::{Code, Refusal};

/// Reads a server's frame. Events of unknown types inside a `sync_batch` are left out.
///
/// # Errors
/// [`Unreadable::UnknownType`] is to be ignored; [`Unreadable::Invalid`] says what is wrong.
pub fn decode_server(text: &str) -> Result<ServerFrame<'_>, Unreadable> {
    let name = type_name(text)?;
    Ok(match &*name {
        "hello" => ServerFrame::Hello(parse::<shape::Hello>(text)?.into()),
        "ready" => {
            let ready: shape::Ready<'_> = parse(text)?;
            ServerFrame::Ready {
                id: ready.id.map(Into::into),
                user: ready.user_id,
                device: ready.device_id,
                pending_conversations: ready.pending_conversations,
                pending_events: ready.pending_events,
            }
        }
        "caught_up" => ServerFrame::CaughtUp,
        "delivery_ack" => ServerFrame::DeliveryAck(parse::<shape::DeliveryAck<'_>>(text)?.into()),
        "sync_batch" => ServerFrame::SyncBatch(sync_batch(text)?),
        "behind" => {
            let behind: shape::Behind = parse(text)?;
            let heads = behind.conversations.into_iter().map(|head| (head.conversation_id, head.head_seq));
            ServerFrame::Behind { conversations: heads.collect() }
        }
        "reset" => {
            let reset: shape::Reset<'_> = parse(text)?;
            ServerFrame::Reset {
                id: reset.id.map(Into::into),
                conversation: reset.conversation_id,
                first_seq: reset.first_seq,
                head_seq: reset.head_seq,
                reason: reason_name(&reset.reason),
            }
        }
        "reconnect" => {
            let reconnect: shape::Reconnect<'_> = parse(text)?;
            ServerFrame::Reconnect { after_ms: reconnect.after_ms, reason: reason_name(&reconnect.reason) }
        }
        "typing" => {
            let typing: shape::Typing = parse(text)?;
            ServerFrame::Typing {
                conversation: typing.conversation_id,
                user: typing.user_id,
                start: matches!(typing.state, shape::TypingState::Start),
            }
        }
        "presence" => ServerFrame::Presence(parse::<shape::PresenceFrame>(text)?.into()),
        "read_sync" => {
            let read: shape::ReadSync = parse(text)?;
            ServerFrame::ReadSync {
                conversation: read.conversation_id,
                read_seq: read.read_seq,
                unread_count: read.unread_count,
            }
        }
        "ok" => ServerFrame::Ok(parse::<shape::Done<'_>>(text)?.into()),
        "error" => error(parse(text)?),
        "heartbeat_ack" => {
            ServerFrame::HeartbeatAck { id: parse::<shape::HeartbeatAck<'_>>(text)?.id.map(FrameId::from) }
        }
        name => ServerFrame::Event(event(name, text)?),
    })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    serde_json::from_str(text).map_err(|error| Unreadable::Invalid(error.to_string()))
}

/// The `type` of a frame. Ours write it first, where no parser is needed to find it.
fn type_name(text: &str) -> Result<Cow<'_, str>, Unreadable> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
    }
    let first = text.strip_prefix("{\"type\":\"").and_then(|rest| rest.split_once('"'));
    match first {
        Some((name, _)) if !name.contains('\\') => Ok(Cow::Borrowed(name)),
        _ => Ok(parse::<Typed<'_>>(text)?.r#type),
    }
}

fn event<'a>(name: &str, text: &'a str) -> Result<EventFrame<'a>, Unreadable> {
    match name {
        "new_message" => Ok(parse::<shape::NewMessage<'_>>(text)?.into()),
        "conversation_created" => Ok(parse::<shape::ConversationCreated<'_>>(text)?.into()),
        "conversation_updated" => Ok(parse::<shape::ConversationUpdated<'_>>(text)?.into()),
        "member_added" => Ok(parse::<shape::MemberAdded<'_>>(text)?.into()),
        "member_removed" => parse::<shape::MemberRemoved<'_>>(text)?.try_into(),
        "message_deleted" => Ok(parse::<shape::MessageDeleted>(text)?.into()),
        "reaction_added" | "reaction_removed" => Ok(parse::<shape::Reaction<'_>>(text)?.into()),
        name => Err(Unreadable::UnknownType(name.to_owned())),
    }
}

fn sync_batch(text: &str) -> Result<SyncBatch<'_>, Unreadable> {
    /// [`shape::SyncBatch`] with events that may be of types this build does not know.
    #[derive(Deserialize)]
    struct Batch<'a> {
        id: Option<Id<'a>>,
        conversation_id: ConversationId,
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
        from_seq: Seq,
        to_seq: Seq,
        head_seq: Seq,
        has_more: bool,
        receipts: shape::Receipts,
    }
    let batch: Batch<'_> = parse(text)?;
    let mut events = Vec::with_capacity(batch.events.len());
    for raw in batch.events {
        match event(&type_name(raw.get())?, raw.get()) {
            Ok(event) => events.push(event),
            Err(Unreadable::UnknownType(_)) => {}
            Err(invalid) => return Err(invalid),
        }
    }
    Ok(SyncBatch {
        id: batch.id.map(Into::into),
        conversation: batch.conversation_id,
        events,
        from_seq: batch.from_seq,
        to_seq: batch.to_seq,
        head_seq: batch.head_seq,
        has_more: batch.has_more,
        receipts: batch.receipts.into(),
    })
}

fn error(frame: shape::ErrorFrame<'_>) -> ServerFrame<'_> {
    let error = frame.error;
    ServerFrame::Error {
        id: frame.id.map(Into::into),
        refusal: Refusal {
            // A code from a newer server is one that this client cannot do anything about.
            code: Code::from_name(&error.code).unwrap_or(Code::Internal),
            message: error.message.into_owned().into(),
            field: error.field.and_then(|field| field_name(&field)),
            retry_after_ms: error.retry_after_ms,
        },
        request_id: error.request_id,
    }
}
