//! What servers say, written by a server.

use std::borrow::Cow;

use rkyv::util::AlignedVec;

use super::{Kind, wire};
use crate::client::json::shape::PROTOCOL;
use crate::client::{DeliveryAck, Done, EventFrame, Hello, MessageView, ServerFrame, SyncBatch};
use crate::framing;
use crate::reason::Refusal;

/// Appends a server frame. Several of them in one buffer make one WebSocket message.
pub fn encode(frame: &ServerFrame<'_>, out: &mut AlignedVec) {
    match frame {
        ServerFrame::Hello(frame) => framing::append(out, Kind::Hello as u16, &hello(frame)),
        ServerFrame::Ready { user, device, pending_conversations, pending_events } => {
            let frame = wire::Ready {
                user_id: *user,
                device_id: Cow::Borrowed(device),
                pending_conversations: *pending_conversations,
                pending_events: *pending_events,
            };
            framing::append(out, Kind::Ready as u16, &frame);
        }
        ServerFrame::CaughtUp => framing::append(out, Kind::CaughtUp as u16, &wire::Bare { id: None }),
        ServerFrame::Event(frame) => match event(frame) {
            wire::Event::NewMessage(frame) => framing::append(out, Kind::NewMessage as u16, &frame),
            wire::Event::ConversationCreated(frame) => {
                framing::append(out, Kind::ConversationCreated as u16, &frame);
            }
        },
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
    }
}

fn message<'a>(view: &'a MessageView<'_>) -> wire::Message<'a> {
    wire::Message {
        message_id: view.message,
        conversation_id: view.conversation,
        seq: view.seq,
        sender_id: view.sender,
        content: Cow::Borrowed(&view.content),
        encoding: view.encoding as u8,
        message_type: view.message_type as u8,
        status: view.status as u8,
        media_url: view.media_url.as_deref().map(Cow::Borrowed),
        created_at: view.created_at.0,
        reply_to: view.reply_to,
        client_msg_id: view.client_msg_id.as_deref().map(Cow::Borrowed),
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
    }
}

fn sync_batch<'a>(batch: &'a SyncBatch<'_>) -> wire::SyncBatch<'a> {
    let receipts = batch.receipts.iter().map(|receipt| wire::Receipt {
        user_id: receipt.user,
        delivered_seq: receipt.delivered_seq,
        read_seq: receipt.read_seq,
    });
    wire::SyncBatch {
        id: batch.id.clone(),
        conversation_id: batch.conversation,
        events: batch.events.iter().map(event).collect(),
        from_seq: batch.from_seq,
        to_seq: batch.to_seq,
        head_seq: batch.head_seq,
        has_more: batch.has_more,
        receipts: receipts.collect(),
    }
}

fn done(done: &Done) -> wire::Done {
    wire::Done {
        id: done.id.clone(),
        conversation_id: done.conversation,
        seq: done.seq,
        duplicate: done.duplicate,
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
