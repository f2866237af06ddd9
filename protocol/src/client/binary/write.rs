//! What servers say, written by a server.

use std::borrow::Cow;

use rkyv::util::AlignedVec;

use super::{Kind, wire};
use crate::client::json::shape::PROTOCOL;
use crate::client::{
    DeliveryAck, Done, EventFrame, Hello, MessageView, PresenceView, ReceiptsView, ServerFrame, SyncBatch,
};
use crate::framing;
use crate::reason::Refusal;

/// Appends a server frame. Several of them in one buffer make one WebSocket message.
pub fn encode(frame: &ServerFrame<'_>, out: &mut AlignedVec) {
    match frame {
        ServerFrame::Hello(frame) => framing::append(out, Kind::Hello as u16, &hello(frame)),
        ServerFrame::Ready { id, user, device, pending_conversations, pending_events } => {
            let frame = wire::Ready {
                id: id.clone(),
                user_id: *user,
                device_id: Cow::Borrowed(device),
                pending_conversations: *pending_conversations,
                pending_events: *pending_events,
            };
            framing::append(out, Kind::Ready as u16, &frame);
        }
        ServerFrame::CaughtUp => framing::append(out, Kind::CaughtUp as u16, &wire::Bare { id: None }),
        ServerFrame::Event(frame) => append_event(frame, out),
        ServerFrame::DeliveryAck(frame) => {
            framing::append(out, Kind::DeliveryAck as u16, &delivery_ack(frame));
        }
        ServerFrame::SyncBatch(frame) => framing::append(out, Kind::SyncBatch as u16, &sync_batch(frame)),
        ServerFrame::Behind { conversations } => {
            let conversations = conversations
                .iter()
                .map(|(conversation, head_seq)| wire::Head {
                    conversation_id: *conversation,
                    head_seq: *head_seq,
                })
                .collect();
            framing::append(out, Kind::Behind as u16, &wire::Behind { conversations });
        }
        ServerFrame::Reset { id, conversation, first_seq, head_seq, reason } => {
            let frame = wire::Reset {
                id: id.clone(),
                conversation_id: *conversation,
                first_seq: *first_seq,
                head_seq: *head_seq,
                reason: Cow::Borrowed(reason),
            };
            framing::append(out, Kind::Reset as u16, &frame);
        }
        ServerFrame::Reconnect { after_ms, reason } => {
            let frame = wire::Reconnect { after_ms: *after_ms, reason: Cow::Borrowed(reason) };
            framing::append(out, Kind::Reconnect as u16, &frame);
        }
        ServerFrame::Typing { conversation, user, start } => {
            let frame =
                wire::Typed { conversation_id: *conversation, user_id: *user, state: u8::from(*start) };
            framing::append(out, Kind::Typed as u16, &frame);
        }
        ServerFrame::Presence(frame) => framing::append(out, Kind::Presence as u16, &presence(frame)),
        ServerFrame::ReadSync { conversation, read_seq, unread_count } => {
            let frame = wire::ReadSync {
                conversation_id: *conversation,
                read_seq: *read_seq,
                unread_count: *unread_count,
            };
            framing::append(out, Kind::ReadSync as u16, &frame);
        }
        ServerFrame::Ok(frame) => framing::append(out, Kind::Ok as u16, &done(frame)),
        ServerFrame::Error { id, refusal, request_id } => {
            let frame = wire::Error { id: id.clone(), ..error(refusal, request_id) };
            framing::append(out, Kind::Error as u16, &frame);
        }
        ServerFrame::HeartbeatAck { id } => {
            framing::append(out, Kind::HeartbeatAck as u16, &wire::Bare { id: id.clone() });
        }
    }
}

fn hello(hello: &Hello) -> wire::Hello {
    wire::Hello {
        protocol: PROTOCOL,
        server_time: hello.server_time.0,
        heartbeat_interval_ms: hello.heartbeat_interval_ms,
        frame_bytes: hello.frame_bytes,
        content_bytes: hello.content_bytes,
        inflight: hello.inflight,
        send_per_s: hello.send_per_s,
        send_burst: hello.send_burst,
    }
}

fn append_event(frame: &EventFrame<'_>, out: &mut AlignedVec) {
    match event(frame) {
        wire::Event::NewMessage(frame) => framing::append(out, Kind::NewMessage as u16, &frame),
        wire::Event::ConversationCreated(frame) => {
            framing::append(out, Kind::ConversationCreated as u16, &frame);
        }
        wire::Event::ConversationUpdated(frame) => {
            framing::append(out, Kind::ConversationUpdated as u16, &frame);
        }
        wire::Event::MemberAdded(frame) => framing::append(out, Kind::MemberAdded as u16, &frame),
        wire::Event::MemberRemoved(frame) => framing::append(out, Kind::MemberRemoved as u16, &frame),
        wire::Event::MessageDeleted(frame) => framing::append(out, Kind::MessageDeleted as u16, &frame),
        wire::Event::ReactionAdded(frame) => framing::append(out, Kind::ReactionAdded as u16, &frame),
        wire::Event::ReactionRemoved(frame) => framing::append(out, Kind::ReactionRemoved as u16, &frame),
    }
}

fn event<'a>(event: &'a EventFrame<'_>) -> wire::Event<'a> {
    match event {
        EventFrame::NewMessage { message, head_seq } => {
            wire::Event::NewMessage(wire::NewMessage { message: self::message(message), head_seq: *head_seq })
        }
        EventFrame::ConversationCreated {
            conversation,
            seq,
            user_ids,
            by,
            conversation_type,
            group_name,
            history,
            created_at,
        } => wire::Event::ConversationCreated(wire::ConversationCreated {
            conversation_id: *conversation,
            seq: *seq,
            user_ids: Cow::Borrowed(user_ids),
            by: *by,
            conversation_type: *conversation_type as u8,
            history: *history as u8,
            group_name: group_name.as_deref().map(Cow::Borrowed),
            created_at: created_at.0,
        }),
        EventFrame::ConversationUpdated { conversation, seq, by, group_name, role, created_at } => {
            wire::Event::ConversationUpdated(wire::ConversationUpdated {
                conversation_id: *conversation,
                seq: *seq,
                by: *by,
                group_name: group_name.as_deref().map(Cow::Borrowed),
                role: role.map(|(user_id, role)| wire::RoleOf { user_id, role: role as u8 }),
                created_at: created_at.0,
            })
        }
        EventFrame::MemberAdded { conversation, seq, user_ids, by, created_at } => {
            wire::Event::MemberAdded(wire::MemberAdded {
                conversation_id: *conversation,
                seq: *seq,
                user_ids: Cow::Borrowed(user_ids),
                by: *by,
                created_at: created_at.0,
            })
        }
        EventFrame::MemberRemoved { conversation, seq, user, by, owner, created_at } => {
            wire::Event::MemberRemoved(wire::MemberRemoved {
                conversation_id: *conversation,
                seq: *seq,
                user_id: *user,
                by: *by,
                owner_id: *owner,
                created_at: created_at.0,
            })
        }
        EventFrame::MessageDeleted { conversation, seq, message, target_seq, by, created_at } => {
            wire::Event::MessageDeleted(wire::MessageDeleted {
                conversation_id: *conversation,
                seq: *seq,
                message_id: *message,
                target_seq: *target_seq,
                by: *by,
                created_at: created_at.0,
            })
        }
        EventFrame::Reaction { added, conversation, seq, message, target_seq, user, emoji, created_at } => {
            let reaction = wire::Reaction {
                conversation_id: *conversation,
                seq: *seq,
                message_id: *message,
                target_seq: *target_seq,
                user_id: *user,
                emoji: Cow::Borrowed(emoji),
                created_at: created_at.0,
            };
            if *added { wire::Event::ReactionAdded(reaction) } else { wire::Event::ReactionRemoved(reaction) }
        }
    }
}

fn message<'a>(view: &'a MessageView<'_>) -> wire::Message<'a> {
    let reactions = view.reactions.iter().map(|reaction| wire::Tally {
        emoji: Cow::Borrowed(&reaction.emoji),
        count: reaction.count,
        mine: reaction.mine,
    });
    wire::Message {
        message_id: view.message,
        conversation_id: view.conversation,
        seq: view.seq,
        sender_id: view.sender,
        content: Cow::Borrowed(&view.content),
        encoding: view.encoding as u8,
        message_type: view.message_type as u8,
        status: view.status as u8,
        deleted: view.deleted,
        media_url: view.media_url.as_deref().map(Cow::Borrowed),
        created_at: view.created_at.0,
        reply_to: view.reply_to,
        client_msg_id: view.client_msg_id.as_deref().map(Cow::Borrowed),
        reactions: reactions.collect(),
    }
}

fn delivery_ack<'a>(ack: &'a DeliveryAck<'_>) -> wire::DeliveryAck<'a> {
    wire::DeliveryAck {
        id: ack.id.clone(),
        message_id: ack.message,
        status: ack.status as u8,
        duplicate: ack.duplicate,
        conversation_id: ack.conversation,
        seq: ack.seq,
        timestamp: ack.timestamp.0,
        client_msg_id: ack.client_msg_id.as_deref().map(Cow::Borrowed),
        user_id: ack.user,
        count: ack.count,
    }
}

fn sync_batch<'a>(batch: &'a SyncBatch<'_>) -> wire::SyncBatch<'a> {
    let receipts = match &batch.receipts {
        ReceiptsView::Each(receipts) => {
            let receipts = receipts.iter().map(|receipt| wire::Receipt {
                user_id: receipt.user,
                delivered_seq: receipt.delivered_seq,
                read_seq: receipt.read_seq,
            });
            wire::Receipts::Each(receipts.collect())
        }
        ReceiptsView::Counted { delivered_count, read_count } => {
            wire::Receipts::Counted { delivered_count: *delivered_count, read_count: *read_count }
        }
    };
    wire::SyncBatch {
        id: batch.id.clone(),
        conversation_id: batch.conversation,
        events: batch.events.iter().map(event).collect(),
        from_seq: batch.from_seq,
        to_seq: batch.to_seq,
        head_seq: batch.head_seq,
        has_more: batch.has_more,
        receipts,
    }
}

fn presence(view: &PresenceView) -> wire::Presence {
    wire::Presence {
        user_id: view.user,
        status: u8::from(view.online),
        last_seen_at: view.last_seen_at.map(|at| at.0),
    }
}

fn done(done: &Done) -> wire::Done {
    wire::Done {
        id: done.id.clone(),
        conversation_id: done.conversation,
        seq: done.seq,
        duplicate: done.duplicate,
        presence: done.presence.as_ref().map(|views| views.iter().map(presence).collect()),
    }
}

fn error<'a>(refusal: &'a Refusal, request_id: &'a str) -> wire::Error<'a> {
    wire::Error {
        id: None,
        code: refusal.code as u16,
        retryable: refusal.code.row().retryable,
        message: Cow::Borrowed(&refusal.message),
        retry_after_ms: refusal.retry_after_ms,
        field: refusal.field.map(Cow::Borrowed),
        request_id: Cow::Borrowed(request_id),
    }
}
