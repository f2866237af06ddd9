//! From stored events to what clients see.

use std::borrow::Cow;

use bytes::Bytes;
use carillon_protocol::client::{
    EventFrame, MessageView, ReactionView, ReceiptView, ReceiptsView, ServerFrame, Status, SyncBatch, Wire,
};
use carillon_protocol::frame::{ArchivedMark, ArchivedPage, ArchivedReacted};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::PAGE_BYTES_MAX;
use carillon_protocol::record::{Body, Event, Message};

use crate::line::{Scratch, encode};

/// An event as `viewer` sees it. `marks` are the other members' watermarks, as far as they are known: without them, and
/// in groups where members are only counted, a message of one's own stays `sent`.
pub(crate) fn event_frame<'a>(
    conversation: ConversationId,
    seq: Seq,
    head_seq: Seq,
    event: &Event<'a>,
    viewer: UserId,
    marks: &[ReceiptView],
) -> EventFrame<'a> {
    let (by, created_at) = (event.sender, event.id.created_at());
    let message = |message: Message<'a>, deleted: bool| {
        let is_own = event.sender == viewer;
        let view = MessageView {
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
            created_at,
            deleted,
            reactions: Vec::new(),
            client_msg_id: (is_own && !event.client_msg_id.is_empty()).then(|| event.client_msg_id.clone()),
        };
        EventFrame::NewMessage { message: view, head_seq }
    };
    match &event.body {
        Body::Message(body) => message(*body, false),
        Body::Tombstone { message_type, .. } => {
            message(Message { message_type: *message_type, ..Message::default() }, true)
        }
        Body::Created { conversation_type, group_name, history, members } => {
            EventFrame::ConversationCreated {
                conversation,
                seq,
                user_ids: members.clone(),
                by,
                conversation_type: *conversation_type,
                group_name: group_name.map(Cow::Borrowed),
                history: *history,
                created_at,
            }
        }
        Body::Renamed { group_name } => {
            let group_name = group_name.map(Cow::Borrowed);
            EventFrame::ConversationUpdated { conversation, seq, by, group_name, role: None, created_at }
        }
        Body::RoleChanged { user, role } => {
            let role = Some((*user, *role));
            EventFrame::ConversationUpdated { conversation, seq, by, group_name: None, role, created_at }
        }
        Body::MembersAdded { users, .. } => {
            EventFrame::MemberAdded { conversation, seq, user_ids: users.clone(), by, created_at }
        }
        Body::MemberRemoved { user, heir } => {
            EventFrame::MemberRemoved { conversation, seq, user: *user, by, owner: *heir, created_at }
        }
        Body::Deleted { target_seq, message } => EventFrame::MessageDeleted {
            conversation,
            seq,
            message: *message,
            target_seq: *target_seq,
            by,
            created_at,
        },
        Body::ReactionAdded { target_seq, message, emoji }
        | Body::ReactionRemoved { target_seq, message, emoji } => EventFrame::Reaction {
            added: matches!(event.body, Body::ReactionAdded { .. }),
            conversation,
            seq,
            message: *message,
            target_seq: *target_seq,
            user: by,
            emoji: Cow::Borrowed(*emoji),
            created_at,
        },
    }
}

/// Puts the reactions of a page under its messages. Both ascend by seq.
pub(crate) fn react<'a>(events: &mut [EventFrame<'a>], reacted: &'a [ArchivedReacted]) {
    let mut reacted = reacted.iter().peekable();
    for event in events {
        let EventFrame::NewMessage { message, .. } = event else { continue };
        while reacted.next_if(|under| under.seq.to_native() < message.seq).is_some() {}
        let Some(under) = reacted.next_if(|under| under.seq.to_native() == message.seq) else { continue };
        let views = under.reactions.iter().map(|reaction| ReactionView {
            emoji: Cow::Borrowed(reaction.emoji.as_str()),
            count: reaction.count.to_native(),
            mine: reaction.mine,
        });
        message.reactions = views.collect();
    }
}

/// The watermarks of a page: of each other member, or counted.
pub(crate) fn receipts(page: &ArchivedPage) -> ReceiptsView {
    if let Some(counts) = page.counts.as_ref() {
        return ReceiptsView::Counted {
            delivered_count: counts.delivered_count.to_native(),
            read_count: counts.read_count.to_native(),
        };
    }
    let view = |mark: &ArchivedMark| ReceiptView {
        user: UserId(mark.user.0.to_native()),
        delivered_seq: mark.delivered_seq.to_native(),
        read_seq: mark.read_seq.to_native(),
    };
    ReceiptsView::Each(page.marks.iter().map(view).collect())
}

/// Each member's watermarks, where they are known.
pub(crate) fn marks(receipts: &ReceiptsView) -> &[ReceiptView] {
    match receipts {
        ReceiptsView::Each(marks) => marks,
        ReceiptsView::Counted { .. } => &[],
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
    scratch: &mut Scratch,
) -> (Bytes, Option<SyncBatch<'a>>) {
    let mut rest: Option<SyncBatch<'a>> = None;
    loop {
        let frame = ServerFrame::SyncBatch(batch);
        let bytes = encode(wire, &frame, scratch);
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
                // Said once.
                let receipts = ReceiptsView::Each(Vec::new());
                SyncBatch { id: None, events: cut, from_seq, to_seq, has_more, receipts, ..batch }
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
