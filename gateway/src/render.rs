//! From stored events to what clients see.

use std::borrow::Cow;

use bytes::Bytes;
use carillon_protocol::client::{EventFrame, MessageView, ReceiptView, ServerFrame, Status, SyncBatch, Wire};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::PAGE_BYTES_MAX;
use carillon_protocol::record::{Body, Event};
use rkyv::util::AlignedVec;

use crate::line::encode;

/// An event as `viewer` sees it. `marks` are the other members' watermarks, as far as they are known.
pub(crate) fn event_frame<'a>(
    conversation: ConversationId,
    seq: Seq,
    head_seq: Seq,
    event: &Event<'a>,
    viewer: UserId,
    marks: &[ReceiptView],
) -> EventFrame<'a> {
    let is_own = event.sender == viewer;
    match &event.body {
        Body::Message(message) => EventFrame::NewMessage {
            message: MessageView {
                message: event.id,
                conversation,
                seq,
                sender: event.sender,
                content: Cow::Borrowed(message.content),
                encoding: message.encoding,
                message_type: message.message_type,
                media_url: message.media_url.map(Cow::Borrowed),
                reply_to: message.reply_to,
                status: if is_own { status(seq, marks) } else { Status::Sent },
                created_at: event.id.created_at(),
                client_msg_id: (is_own && !event.client_msg_id.is_empty())
                    .then(|| event.client_msg_id.clone()),
            },
            head_seq,
        },
        Body::Created { conversation_type, group_name, history, members } => {
            EventFrame::ConversationCreated {
                conversation,
                seq,
                user_ids: members.clone(),
                by: event.sender,
                conversation_type: *conversation_type,
                group_name: group_name.map(Cow::Borrowed),
                history: *history,
                created_at: event.id.created_at(),
            }
        }
    }
}

/// For the sender: the minimum over the recipients. Nobody known: sent.
pub(crate) fn status(seq: Seq, marks: &[ReceiptView]) -> Status {
    let of = |mark: &ReceiptView| match seq {
        _ if mark.read_seq >= seq => Status::Read,
        _ if mark.delivered_seq >= seq => Status::Delivered,
        _ => Status::Sent,
    };
    marks.iter().map(of).min().unwrap_or_default()
}

/// Encodes a batch so that it ends at [`PAGE_BYTES_MAX`] or with one event: escapes can make JSON several times as long
/// as the record. What did not fit comes back as a batch of its own, and `has_more` is set on the first.
pub(crate) fn batch<'a>(
    wire: Wire,
    mut batch: SyncBatch<'a>,
    archive: &mut AlignedVec,
) -> (Bytes, Option<SyncBatch<'a>>) {
    let mut rest: Option<SyncBatch<'a>> = None;
    loop {
        let frame = ServerFrame::SyncBatch(batch);
        let bytes = encode(wire, &frame, archive);
        let ServerFrame::SyncBatch(encoded) = frame else { return (bytes, rest) };
        batch = encoded;
        let count = batch.events.len();
        if bytes.len() <= PAGE_BYTES_MAX || count <= 1 {
            return (bytes, rest);
        }
        // In proportion, and always fewer: ends after a few rounds.
        let mut cut = batch.events.split_off((count * PAGE_BYTES_MAX / bytes.len()).clamp(1, count - 1));
        let (to_seq, has_more) = (batch.to_seq, batch.has_more);
        batch.to_seq = batch.events.last().map_or(to_seq, |event| event.position().1);
        batch.has_more = true;
        let from_seq = batch.to_seq + 1;
        rest = Some(match rest {
            Some(mut rest) => {
                cut.append(&mut rest.events);
                SyncBatch { events: cut, from_seq, ..rest }
            }
            None => {
                SyncBatch { id: None, events: cut, from_seq, to_seq, has_more, receipts: Vec::new(), ..batch }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_least_of_the_recipients() {
        let mark = |delivered_seq, read_seq| ReceiptView { user: UserId(2), delivered_seq, read_seq };
        assert_eq!(status(5, &[]), Status::Sent);
        assert_eq!(status(5, &[mark(5, 5)]), Status::Read);
        assert_eq!(status(5, &[mark(9, 9), mark(5, 4)]), Status::Delivered);
        assert_eq!(status(5, &[mark(9, 9), mark(4, 0)]), Status::Sent);
    }
}
