//! Answers of the store to link frames.

use carillon_protocol::frame;
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, GROUP_NAME_BYTES_MAX, LINK_FRAME_BYTES_MAX, MEDIA_URL_BYTES_MAX,
    SMALL_GROUP_MEMBERS_MAX,
};
use carillon_store::verb::{Entry, Mark, Page, Profile, Summary};

use crate::batch::Origin;

/// Bytes of conversations in one answer. Beyond: it ends earlier and says that more follow.
pub const FOUND_BYTES_MAX: usize = 160 * 1024;

// The list, with its last conversation over the edge, fits a link frame.
const _: () = assert!(
    FOUND_BYTES_MAX
        + CONTENT_BYTES_MAX
        + MEDIA_URL_BYTES_MAX
        + GROUP_NAME_BYTES_MAX
        + SMALL_GROUP_MEMBERS_MAX * 32
        + 1_024
        < LINK_FRAME_BYTES_MAX
);

/// The page as it goes to the session that asked. `fanned_out_seq` is filled in at emission.
#[must_use]
pub fn page(origin: Origin, page: Page, fanned_out_seq: u64) -> frame::Page {
    let Page { standing, entries, has_more, marks } = page;
    frame::Page {
        session: origin.session,
        request: origin.request,
        conversation: standing.conversation,
        first_seq: standing.first_seq,
        head_seq: standing.head_seq,
        fanned_out_seq,
        entries: entries.into_iter().map(entry).collect(),
        has_more,
        marks: marks.into_iter().map(mark).collect(),
    }
}

/// Conversations found, as many as fit one frame.
#[must_use]
pub fn conversations(request: u64, mut summaries: Vec<Summary>, more: bool) -> frame::Found {
    let mut bytes = 0;
    let fitting_count = summaries
        .iter()
        .take_while(|summary| {
            let fits = bytes < FOUND_BYTES_MAX;
            bytes += summary_bytes(summary);
            fits
        })
        .count();
    let more = more || fitting_count < summaries.len();
    summaries.truncate(fitting_count);
    let conversations = summaries.into_iter().map(conversation).collect();
    frame::Found { request, conversations, users: Vec::new(), more }
}

fn summary_bytes(summary: &Summary) -> usize {
    let record_bytes = summary.last_message.as_ref().map_or(0, |entry| entry.record.len());
    let name_bytes = summary.group_name.as_ref().map_or(0, String::len);
    256 + name_bytes + record_bytes + summary.member_ids.len() * 8 + summary.marks.len() * 24
}

/// A user found.
#[must_use]
pub fn user(request: u64, profile: Profile) -> frame::Found {
    let user = frame::UserView {
        user: profile.user,
        username: profile.username,
        created_at_ms: profile.created_at.0,
        last_seen_at_ms: profile.last_seen_at.map_or(0, |at| at.0),
    };
    frame::Found { request, conversations: Vec::new(), users: vec![user], more: false }
}

fn conversation(summary: Summary) -> frame::ConversationView {
    frame::ConversationView {
        conversation: summary.conversation,
        conversation_type: summary.conversation_type as u8,
        history: summary.history as u8,
        group_name: summary.group_name,
        member_ids: summary.member_ids,
        members_count: summary.members_count,
        created_at_ms: summary.created_at.0,
        created_by: summary.created_by,
        head_seq: summary.head_seq,
        read_seq: summary.read_seq,
        unread_count: summary.unread_count,
        last_id: summary.last_id.0,
        last_message: summary.last_message.map(entry),
        marks: summary.marks.into_iter().map(mark).collect(),
    }
}

fn entry(entry: Entry) -> frame::Entry {
    frame::Entry { seq: entry.seq, record: entry.record.to_vec() }
}

fn mark(mark: Mark) -> frame::Mark {
    frame::Mark { user: mark.user, delivered_seq: mark.delivered_seq, read_seq: mark.read_seq }
}
