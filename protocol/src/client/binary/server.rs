//! What servers say, read by a client.

use std::borrow::Cow;

use rkyv::option::ArchivedOption;

use super::read::{access_raw, frame_id, optional};
use super::{Kind, wire};
use crate::client::{
    ArchivedFrameId, DeliveryAck, Done, EventFrame, FrameId, Hello, MessageView, PresenceView, ReactionView,
    ReceiptView, ReceiptsView, ServerFrame, Status, SyncBatch, Unreadable, field_name, reason_name,
};
use crate::framing;
use crate::ids::{ConversationId, MessageId, UserId};
use crate::reason::{Code, Refusal};
use crate::record::{ConversationType, Encoding, History, MessageType, Role};
use crate::time::WallMs;

/// The frames of a WebSocket message, which has to be aligned to [`framing::ALIGN`].
#[must_use]
pub fn decode_server(message: &[u8]) -> ServerFrames<'_> {
    ServerFrames { rest: message }
}

/// An iterator over the frames of a message. [`Unreadable::UnknownType`] is to be ignored; after a header that cannot
/// be read there is nothing more.
#[derive(Clone, Debug)]
pub struct ServerFrames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ServerFrames<'a> {
    type Item = Result<ServerFrame<'a>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = std::mem::take(&mut self.rest);
        match framing::split(message, message.len()) {
            Ok(Some((kind, archive, rest))) => {
                self.rest = rest;
                Some(frame(kind, archive))
            }
            Ok(None) => None,
            Err(error) => Some(Err(Unreadable::Invalid(error.to_string()))),
        }
    }
}

impl std::iter::FusedIterator for ServerFrames<'_> {}

fn access<T>(kind: Kind, archive: &[u8]) -> Result<&T, Unreadable>
where
    T: rkyv::Portable
        + for<'b> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'b, rkyv::rancor::Error>>,
{
    access_raw(archive).map_err(|error| Unreadable::Invalid(format!("{}: {error}", kind.name())))
}

fn frame(kind: u16, archive: &[u8]) -> Result<ServerFrame<'_>, Unreadable> {
    let unknown = || Unreadable::UnknownType(format!("{kind:#06x}"));
    let kind = Kind::from_number(kind).ok_or_else(unknown)?;
    Ok(match kind {
        Kind::Hello => ServerFrame::Hello(hello(access(kind, archive)?)),
        Kind::Ready => {
            let frame: &wire::ArchivedReady<'static> = access(kind, archive)?;
            ServerFrame::Ready {
                id: optional_id(&frame.id),
                user: UserId(frame.user_id.0.into()),
                device: Cow::Borrowed(&frame.device_id),
                pending_conversations: frame.pending_conversations.into(),
                pending_events: frame.pending_events.into(),
            }
        }
        Kind::CaughtUp => access::<wire::ArchivedBare>(kind, archive).map(|_| ServerFrame::CaughtUp)?,
        Kind::NewMessage => ServerFrame::Event(new_message(access(kind, archive)?)?),
        Kind::ConversationCreated => ServerFrame::Event(created(access(kind, archive)?)?),
        Kind::DeliveryAck => ServerFrame::DeliveryAck(delivery_ack(access(kind, archive)?)?),
        Kind::SyncBatch => ServerFrame::SyncBatch(sync_batch(access(kind, archive)?)?),
        Kind::Behind => {
            let frame: &wire::ArchivedBehind = access(kind, archive)?;
            let heads = frame.conversations.iter();
            let heads =
                heads.map(|head| (ConversationId(head.conversation_id.0.into()), head.head_seq.into()));
            ServerFrame::Behind { conversations: heads.collect() }
        }
        Kind::Reset => {
            let frame: &wire::ArchivedReset<'static> = access(kind, archive)?;
            ServerFrame::Reset {
                id: optional_id(&frame.id),
                conversation: ConversationId(frame.conversation_id.0.into()),
                first_seq: frame.first_seq.into(),
                head_seq: frame.head_seq.into(),
                reason: reason_name(&frame.reason),
            }
        }
        Kind::Reconnect => {
            let frame: &wire::ArchivedReconnect<'static> = access(kind, archive)?;
            ServerFrame::Reconnect { after_ms: frame.after_ms.into(), reason: reason_name(&frame.reason) }
        }
        Kind::ConversationUpdated => ServerFrame::Event(updated(access(kind, archive)?)?),
        Kind::MemberAdded => ServerFrame::Event(member_added(access(kind, archive)?)),
        Kind::MemberRemoved => ServerFrame::Event(member_removed(access(kind, archive)?)),
        Kind::MessageDeleted => ServerFrame::Event(message_deleted(access(kind, archive)?)),
        Kind::ReactionAdded => ServerFrame::Event(reaction(true, access(kind, archive)?)),
        Kind::ReactionRemoved => ServerFrame::Event(reaction(false, access(kind, archive)?)),
        Kind::Typed => {
            let frame: &wire::ArchivedTyped = access(kind, archive)?;
            ServerFrame::Typing {
                conversation: ConversationId(frame.conversation_id.0.into()),
                user: UserId(frame.user_id.0.into()),
                start: one_of_two("state", frame.state)?,
            }
        }
        Kind::Presence => ServerFrame::Presence(presence(access(kind, archive)?)?),
        Kind::ReadSync => {
            let frame: &wire::ArchivedReadSync = access(kind, archive)?;
            ServerFrame::ReadSync {
                conversation: ConversationId(frame.conversation_id.0.into()),
                read_seq: frame.read_seq.into(),
                unread_count: frame.unread_count.into(),
            }
        }
        Kind::Ok => ServerFrame::Ok(done(access(kind, archive)?)?),
        Kind::Error => error(access(kind, archive)?),
        Kind::HeartbeatAck => {
            let frame: &wire::ArchivedBare = access(kind, archive)?;
            ServerFrame::HeartbeatAck { id: optional_id(&frame.id) }
        }
        // A client's own kinds: from a server they mean nothing.
        _ => return Err(unknown()),
    })
}

fn optional_id(id: &ArchivedOption<ArchivedFrameId>) -> Option<FrameId> {
    id.as_ref().map(frame_id)
}

/// The variant that a number on the wire stands for.
fn named<T>(field: &str, variant: Option<T>) -> Result<T, Unreadable> {
    variant.ok_or_else(|| Unreadable::Invalid(format!("{field} is not a number of this version")))
}

fn one_of_two(field: &str, number: u8) -> Result<bool, Unreadable> {
    named(field, [false, true].get(usize::from(number)).copied())
}

fn hello(frame: &wire::ArchivedHello) -> Hello {
    Hello {
        server_time: WallMs(frame.server_time.into()),
        heartbeat_interval_ms: frame.heartbeat_interval_ms.into(),
        frame_bytes: frame.frame_bytes.into(),
        content_bytes: frame.content_bytes.into(),
        inflight: frame.inflight.into(),
        send_per_s: frame.send_per_s.into(),
        send_burst: frame.send_burst.into(),
    }
}

fn new_message<'a>(frame: &'a wire::ArchivedNewMessage<'static>) -> Result<EventFrame<'a>, Unreadable> {
    Ok(EventFrame::NewMessage { message: message(&frame.message)?, head_seq: frame.head_seq.into() })
}

fn message<'a>(message: &'a wire::ArchivedMessage<'static>) -> Result<MessageView<'a>, Unreadable> {
    let reactions = message.reactions.iter().map(|tally| ReactionView {
        emoji: Cow::Borrowed(&tally.emoji),
        count: tally.count.into(),
        mine: tally.mine,
    });
    Ok(MessageView {
        message: MessageId(message.message_id.0.into()),
        conversation: ConversationId(message.conversation_id.0.into()),
        seq: message.seq.into(),
        sender: UserId(message.sender_id.0.into()),
        content: Cow::Borrowed(&message.content),
        encoding: named("encoding", Encoding::from_number(message.encoding))?,
        message_type: named("message_type", MessageType::from_number(message.message_type))?,
        media_url: optional(&message.media_url),
        reply_to: message.reply_to.as_ref().map(|id| MessageId(id.0.into())),
        status: named("status", Status::from_number(message.status))?,
        created_at: WallMs(message.created_at.into()),
        deleted: message.deleted,
        reactions: reactions.collect(),
        client_msg_id: optional(&message.client_msg_id),
    })
}

fn created<'a>(frame: &'a wire::ArchivedConversationCreated<'static>) -> Result<EventFrame<'a>, Unreadable> {
    let conversation_type = ConversationType::from_number(frame.conversation_type);
    Ok(EventFrame::ConversationCreated {
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        user_ids: frame.user_ids.iter().map(|id| UserId(id.0.into())).collect(),
        by: UserId(frame.by.0.into()),
        conversation_type: named("conversation_type", conversation_type)?,
        group_name: optional(&frame.group_name),
        history: named("history", History::from_number(frame.history))?,
        created_at: WallMs(frame.created_at.into()),
    })
}

fn updated<'a>(frame: &'a wire::ArchivedConversationUpdated<'static>) -> Result<EventFrame<'a>, Unreadable> {
    let role = frame.role.as_ref().map(|of| {
        let role = named("role", Role::from_number(of.role))?;
        Ok::<_, Unreadable>((UserId(of.user_id.0.into()), role))
    });
    Ok(EventFrame::ConversationUpdated {
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        by: UserId(frame.by.0.into()),
        group_name: optional(&frame.group_name),
        role: role.transpose()?,
        created_at: WallMs(frame.created_at.into()),
    })
}

fn member_added<'a>(frame: &'a wire::ArchivedMemberAdded<'static>) -> EventFrame<'a> {
    EventFrame::MemberAdded {
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        user_ids: frame.user_ids.iter().map(|id| UserId(id.0.into())).collect(),
        by: UserId(frame.by.0.into()),
        created_at: WallMs(frame.created_at.into()),
    }
}

fn member_removed(frame: &wire::ArchivedMemberRemoved) -> EventFrame<'static> {
    EventFrame::MemberRemoved {
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        user: UserId(frame.user_id.0.into()),
        by: UserId(frame.by.0.into()),
        owner: frame.owner_id.as_ref().map(|id| UserId(id.0.into())),
        created_at: WallMs(frame.created_at.into()),
    }
}

fn message_deleted(frame: &wire::ArchivedMessageDeleted) -> EventFrame<'static> {
    EventFrame::MessageDeleted {
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        message: MessageId(frame.message_id.0.into()),
        target_seq: frame.target_seq.into(),
        by: UserId(frame.by.0.into()),
        created_at: WallMs(frame.created_at.into()),
    }
}

fn reaction<'a>(added: bool, frame: &'a wire::ArchivedReaction<'static>) -> EventFrame<'a> {
    EventFrame::Reaction {
        added,
        conversation: ConversationId(frame.conversation_id.0.into()),
        seq: frame.seq.into(),
        message: MessageId(frame.message_id.0.into()),
        target_seq: frame.target_seq.into(),
        user: UserId(frame.user_id.0.into()),
        emoji: Cow::Borrowed(&frame.emoji),
        created_at: WallMs(frame.created_at.into()),
    }
}

fn presence(view: &wire::ArchivedPresence) -> Result<PresenceView, Unreadable> {
    Ok(PresenceView {
        user: UserId(view.user_id.0.into()),
        online: one_of_two("status", view.status)?,
        last_seen_at: view.last_seen_at.as_ref().map(|at| WallMs((*at).into())),
    })
}

fn delivery_ack<'a>(ack: &'a wire::ArchivedDeliveryAck<'static>) -> Result<DeliveryAck<'a>, Unreadable> {
    Ok(DeliveryAck {
        id: optional_id(&ack.id),
        message: MessageId(ack.message_id.0.into()),
        status: named("status", Status::from_number(ack.status))?,
        conversation: ConversationId(ack.conversation_id.0.into()),
        seq: ack.seq.into(),
        timestamp: WallMs(ack.timestamp.into()),
        client_msg_id: optional(&ack.client_msg_id),
        duplicate: ack.duplicate,
        user: ack.user_id.as_ref().map(|id| UserId(id.0.into())),
        count: ack.count.as_ref().map(|count| (*count).into()),
    })
}

fn sync_batch<'a>(batch: &'a wire::ArchivedSyncBatch<'static>) -> Result<SyncBatch<'a>, Unreadable> {
    let events = batch.events.iter().map(|event| match event {
        wire::ArchivedEvent::NewMessage(event) => new_message(event),
        wire::ArchivedEvent::ConversationCreated(event) => created(event),
        wire::ArchivedEvent::ConversationUpdated(event) => updated(event),
        wire::ArchivedEvent::MemberAdded(event) => Ok(member_added(event)),
        wire::ArchivedEvent::MemberRemoved(event) => Ok(member_removed(event)),
        wire::ArchivedEvent::MessageDeleted(event) => Ok(message_deleted(event)),
        wire::ArchivedEvent::ReactionAdded(event) => Ok(reaction(true, event)),
        wire::ArchivedEvent::ReactionRemoved(event) => Ok(reaction(false, event)),
    });
    Ok(SyncBatch {
        id: optional_id(&batch.id),
        conversation: ConversationId(batch.conversation_id.0.into()),
        events: events.collect::<Result<_, _>>()?,
        from_seq: batch.from_seq.into(),
        to_seq: batch.to_seq.into(),
        head_seq: batch.head_seq.into(),
        has_more: batch.has_more,
        receipts: receipts(&batch.receipts),
    })
}

fn receipts(receipts: &wire::ArchivedReceipts) -> ReceiptsView {
    match receipts {
        wire::ArchivedReceipts::Each(receipts) => {
            let receipts = receipts.iter().map(|receipt| ReceiptView {
                user: UserId(receipt.user_id.0.into()),
                delivered_seq: receipt.delivered_seq.into(),
                read_seq: receipt.read_seq.into(),
            });
            ReceiptsView::Each(receipts.collect())
        }
        wire::ArchivedReceipts::Counted { delivered_count, read_count } => ReceiptsView::Counted {
            delivered_count: (*delivered_count).into(),
            read_count: (*read_count).into(),
        },
    }
}

fn done(done: &wire::ArchivedDone) -> Result<Done, Unreadable> {
    let presence = done.presence.as_ref().map(|views| views.iter().map(presence).collect());
    Ok(Done {
        id: optional_id(&done.id),
        conversation: done.conversation_id.as_ref().map(|id| ConversationId(id.0.into())),
        seq: done.seq.as_ref().map(|seq| (*seq).into()),
        duplicate: done.duplicate,
        presence: presence.transpose()?,
    })
}

fn error<'a>(error: &'a wire::ArchivedError<'static>) -> ServerFrame<'a> {
    ServerFrame::Error {
        id: optional_id(&error.id),
        refusal: Refusal {
            code: Code::from_number(error.code.into()),
            message: error.message.as_str().to_owned().into(),
            field: error.field.as_ref().and_then(|field| field_name(field)),
            retry_after_ms: error.retry_after_ms.as_ref().map(|millis| (*millis).into()),
        },
        request_id: Cow::Borrowed(&error.request_id),
    }
}
