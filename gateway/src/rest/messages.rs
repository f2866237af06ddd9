//! Messages: sending one, and paging through those of a conversation.

use std::borrow::Cow;

use carillon_protocol::client::{
    self, EventFrame, MessageView, ReactionView, ReceiptView, SendMessage, Status, check_command, json,
};
use carillon_protocol::frame::{Accepted, Command, Entry, Mark, Page, ReactionCount};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::limits::PAGE_BYTES_MAX;
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::Event;
use carillon_protocol::time::WallMs;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Fields, required};
use super::cursor::{self, Cursor};
use super::plan::{Ask, Call, Plan, Tell, mismatch};
use super::query::Query;
use super::response::Response;
use crate::render;

/// How far a page that met no message at all moves its cursor. The store looks at more events than this before it gives
/// such a page, so no message is skipped, and whoever follows the cursors gets to the end.
const EMPTY_PAGE_EVENTS: u64 = 4_096;

/// `POST /v1/messages`. The same checks as on WebSocket, where `message_type` may be left out (T7).
pub(super) fn send(call: &Call<'_>) -> Result<Plan, Refusal> {
    let fields = Fields::split(call.body)?;
    let message_type = fields.named("message_type", "text, image, video or file")?;
    let message = SendMessage {
        conversation: ConversationId(fields.required_id("conversation_id")?),
        content: fields.required_text("content")?,
        message_type: message_type.ok_or_else(|| required("message_type"))?,
        encoding: fields.named("encoding", "utf8 or opaque")?.unwrap_or_default(),
        media_url: fields.text("media_url")?,
        client_msg_id: None,
        reply_to: fields.id("reply_to")?.map(MessageId),
    };
    let mut command = client::Command::SendMessage(message);
    check_command(&mut command)?;
    let client::Command::SendMessage(message) = command else { return Err(mismatch()) };
    let command = Command::Send {
        conversation: message.conversation,
        message_type: message.message_type as u8,
        encoding: message.encoding as u8,
        content: message.content.into_owned(),
        media_url: message.media_url.map(Cow::into_owned),
        reply_to: message.reply_to,
    };
    call.submit(&fields, command, Tell::Sent)
}

/// A message that is committed.
#[derive(Serialize, JsonSchema)]
pub(super) struct Sent {
    message_id: MessageId,
    timestamp: WallMs,
    status: Status,
    seq: Seq,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

/// The message is committed.
pub(super) fn sent(accepted: &Accepted) -> Response {
    let message_id = MessageId(accepted.id);
    let sent = Sent {
        message_id,
        timestamp: message_id.created_at(),
        status: Status::Sent,
        seq: accepted.seq,
        duplicate: accepted.duplicate.then_some(true),
    };
    Response::json(if accepted.duplicate { 200 } else { 201 }, &sent)
}

/// Which messages a page is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// First seq wanted, inclusive.
    pub(super) from_seq: Seq,
    /// Last seq wanted, inclusive.
    pub(super) to_seq: Seq,
    /// At most so many.
    pub(super) limit: u32,
    /// Downwards from `to_seq`, or upwards from `from_seq`.
    pub(super) newest_first: bool,
}

impl Window {
    fn below(seq: Seq, limit: u32) -> Window {
        Window { from_seq: 1, to_seq: seq.saturating_sub(1), limit, newest_first: true }
    }

    fn above(seq: Seq, limit: u32) -> Window {
        Window { from_seq: seq.saturating_add(1), to_seq: Seq::MAX, limit, newest_first: false }
    }

    /// The cursor behind a page that ended at `last`, or that met nothing.
    fn behind(&self, last: Option<Seq>, head_seq: Seq) -> Cursor {
        if self.newest_first {
            let end = self.to_seq.min(head_seq);
            Cursor::Below(last.unwrap_or_else(|| end.saturating_sub(EMPTY_PAGE_EVENTS)))
        } else {
            Cursor::Above(last.unwrap_or_else(|| self.from_seq.saturating_add(EMPTY_PAGE_EVENTS)))
        }
    }
}

/// `GET /v1/conversations/{id}/messages`.
pub(super) fn history(call: &Call<'_>) -> Result<Plan, Refusal> {
    let conversation = call.path.conversation()?;
    let query = Query::new(call.query);
    let limit = query.limit()?;
    let window = match (query.text("cursor")?, query.seq("after_seq")?, query.seq("before_seq")?) {
        (None, None, None) => Window::below(Seq::MAX, limit),
        (None, Some(seq), None) => Window::above(seq, limit),
        (None, None, Some(seq)) => Window::below(seq, limit),
        (Some(text), None, None) => match Cursor::parse(&text)? {
            Cursor::Below(seq) => Window::below(seq, limit),
            Cursor::Above(seq) => Window::above(seq, limit),
            Cursor::Conversations(..) | Cursor::Members(_) => return Err(cursor::wrong()),
        },
        (cursor, ..) => {
            let field = if cursor.is_some() { "cursor" } else { "after_seq" };
            return Err(Refusal::field(field, "give one of cursor, after_seq and before_seq"));
        }
    };
    Ok(Plan { ask: Ask::Messages { conversation, window }, tell: Tell::Messages })
}

/// A page as it was read for `user`. It ends at [`PAGE_BYTES_MAX`] bytes or with one message: escapes can make JSON
/// several times as long as the record.
pub(super) fn page(page: &Page, window: &Window, user: UserId) -> Result<Response, Refusal> {
    let marks = receipts(&page.marks);
    let mut body = br#"{"messages":["#.to_vec();
    let mut last = None;
    let mut has_more = page.has_more;
    for entry in &page.entries {
        let reacted = page.reacted.binary_search_by_key(&entry.seq, |reacted| reacted.seq).ok();
        let reacted = reacted.and_then(|index| page.reacted.get(index));
        let reactions = reacted.map_or(&[][..], |reacted| &reacted.reactions);
        let message = view(page.conversation, entry, user, &marks, reactions)?;
        let start = body.len();
        if last.is_some() {
            body.push(b',');
        }
        json::message_object(&message, &mut body);
        if body.len() > PAGE_BYTES_MAX && last.is_some() {
            body.truncate(start);
            has_more = true;
            break;
        }
        last = Some(entry.seq);
    }
    let next_cursor = has_more.then(|| window.behind(last, page.head_seq).to_text());
    body.extend_from_slice(br#"],"next_cursor":"#);
    match next_cursor {
        // Base64url needs no escape.
        Some(cursor) => body.extend_from_slice(format!("\"{cursor}\"}}").as_bytes()),
        None => body.extend_from_slice(b"null}"),
    }
    let headers = vec![("content-type", "application/json".to_owned())];
    Ok(Response { status: 200, headers, body })
}

/// A stored message as `user` sees it.
///
/// # Errors
/// `internal`: it is not a message, or of a version that this build does not read.
pub(super) fn view<'a>(
    conversation: ConversationId,
    entry: &'a Entry,
    user: UserId,
    marks: &[ReceiptView],
    reactions: &'a [ReactionCount],
) -> Result<MessageView<'a>, Refusal> {
    let unreadable = || Refusal::new(Code::Internal, "a stored message could not be read");
    let event = Event::decode(&entry.record).ok_or_else(unreadable)?;
    match render::event_frame(conversation, entry.seq, entry.seq, &event, user, marks) {
        EventFrame::NewMessage { message, .. } => {
            Ok(MessageView { reactions: reactions.iter().map(reaction).collect(), ..message })
        }
        _ => Err(unreadable()),
    }
}

fn reaction(count: &ReactionCount) -> ReactionView<'_> {
    ReactionView { emoji: Cow::Borrowed(&count.emoji), count: count.count, mine: count.mine }
}

/// Watermarks as they come over the link.
pub(super) fn receipts(marks: &[Mark]) -> Vec<ReceiptView> {
    let receipt = |mark: &Mark| ReceiptView {
        user: mark.user,
        delivered_seq: mark.delivered_seq,
        read_seq: mark.read_seq,
    };
    marks.iter().map(receipt).collect()
}
