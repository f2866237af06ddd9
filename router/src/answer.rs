//! Answers of the store to link frames. Each fits a frame: what would not is cut, and says that more follow.

use carillon_protocol::frame::{self, Findings, Found};
use carillon_protocol::limits::{
    CONTENT_BYTES_MAX, EMOJI_BYTES_MAX, GROUP_NAME_BYTES_MAX, LINK_FRAME_BYTES_MAX, MEDIA_URL_BYTES_MAX,
    MESSAGE_EMOJIS_MAX, PAGE_BYTES_MAX, PAGE_EVENTS_MAX, PUSH_TOKEN_BYTES_MAX, SMALL_GROUP_MEMBERS_MAX,
};
use carillon_protocol::time::WallMs;
use carillon_store::verb::{Answer, Counts, Device, Entry, Mark, Page, Profile, ReactionCount, Summary};

use crate::batch::Origin;

/// Bytes of conversations in one answer. Beyond: it ends earlier and says that more follow.
pub const FOUND_BYTES_MAX: usize = 160 * 1024;
/// Bytes of reactions on one page. Beyond: the page ends earlier and says that more follow.
pub const REACTED_BYTES_MAX: usize = 96 * 1024;
/// Bytes of push tokens with one's own profile. Beyond: those of the devices that come last are left out.
pub const TOKENS_BYTES_MAX: usize = 160 * 1024;

/// What a reaction takes beside its emoji.
const REACTION_BYTES: usize = 32;
/// The reactions under one message.
const MESSAGE_REACTIONS_BYTES: usize = MESSAGE_EMOJIS_MAX * (EMOJI_BYTES_MAX + REACTION_BYTES);
/// The watermarks of a small group.
const MARKS_BYTES: usize = SMALL_GROUP_MEMBERS_MAX * 24;

// The list, with its last conversation over the edge, fits a link frame.
const _: () = assert!(
    FOUND_BYTES_MAX
        + CONTENT_BYTES_MAX
        + MEDIA_URL_BYTES_MAX
        + GROUP_NAME_BYTES_MAX
        + SMALL_GROUP_MEMBERS_MAX * 8
        + MARKS_BYTES
        + MESSAGE_REACTIONS_BYTES
        + 1_024
        < LINK_FRAME_BYTES_MAX
);
// A page, with its last event and the reactions under its last message over the edge, fits a link frame.
const _: () = assert!(
    PAGE_BYTES_MAX
        + CONTENT_BYTES_MAX
        + MEDIA_URL_BYTES_MAX
        + PAGE_EVENTS_MAX as usize * 64
        + REACTED_BYTES_MAX
        + MESSAGE_REACTIONS_BYTES
        + MARKS_BYTES
        + 1_024
        < LINK_FRAME_BYTES_MAX
);
// So does a profile, with its last token over the edge.
const _: () = assert!(TOKENS_BYTES_MAX + 2 * PUSH_TOKEN_BYTES_MAX + 1_024 < LINK_FRAME_BYTES_MAX);

/// The page as it goes to the session that asked. `fanned_out_seq` is filled in at emission.
#[must_use]
pub fn page(origin: Origin, page: Page, fanned_out_seq: u64) -> frame::Page {
    let Page { standing, mut entries, mut has_more, marks, counts, mut reactions } = page;
    let fitting_count = fitting(&entries, &reactions);
    if fitting_count < entries.len() {
        entries.truncate(fitting_count);
        has_more = true;
        reactions.retain(|(seq, _)| entries.iter().any(|entry| entry.seq == *seq));
    }
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
        counts: counts.map(self::counts),
        reacted: reactions.into_iter().map(reacted).collect(),
    }
}

/// How many entries of a page go with all their reactions: at least one.
fn fitting(entries: &[Entry], reactions: &[(u64, Vec<ReactionCount>)]) -> usize {
    let mut bytes = 0;
    let under = |entry: &Entry| {
        let found = reactions.binary_search_by_key(&entry.seq, |(seq, _)| *seq).ok();
        found.and_then(|at| reactions.get(at)).map_or(0, |(_, counts)| reactions_bytes(counts))
    };
    entries
        .iter()
        .take_while(|entry| {
            let fits = bytes < REACTED_BYTES_MAX;
            bytes += under(entry);
            fits
        })
        .count()
}

fn reactions_bytes(counts: &[ReactionCount]) -> usize {
    REACTION_BYTES + counts.iter().map(|count| REACTION_BYTES + count.emoji.len()).sum::<usize>()
}

/// What REST asked for; `None`: the answer is of a kind that no look-up has.
#[must_use]
pub fn found(request: u64, answer: Answer) -> Option<Found> {
    let findings = match answer {
        Answer::Conversations { summaries, more } => conversations(summaries, more),
        Answer::User(profile) => Findings::User(user(profile)),
        Answer::MemberPage { members, more } => {
            let view = |(user, role, joined_seq)| frame::MemberView { user, role: role as u8, joined_seq };
            Findings::Members { members: members.into_iter().map(view).collect(), more }
        }
        Answer::Marks(marks) => Findings::Marks(marks.into_iter().map(mark).collect()),
        Answer::Counts(all) => Findings::Counts(counts(all.first().copied().unwrap_or_default())),
        Answer::Devices(devices) => Findings::Devices(devices.into_iter().map(device).collect()),
        Answer::Admission { known, revoked_at } => {
            Findings::Admission { known, revoked_at_ms: millis(revoked_at) }
        }
        _ => return None,
    };
    Some(Found { request, findings })
}

/// As many as fit one frame.
fn conversations(mut summaries: Vec<Summary>, more: bool) -> Findings {
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
    Findings::Conversations { conversations: summaries.into_iter().map(conversation).collect(), more }
}

fn summary_bytes(summary: &Summary) -> usize {
    let record_bytes = summary.last_message.as_ref().map_or(0, |entry| entry.record.len());
    let name_bytes = summary.group_name.as_ref().map_or(0, String::len);
    let lists_bytes = summary.member_ids.len() * 8 + summary.marks.len() * 24;
    256 + name_bytes + record_bytes + lists_bytes + reactions_bytes(&summary.last_reactions)
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
        last_reactions: summary.last_reactions.into_iter().map(reaction).collect(),
        muted_until_ms: millis(summary.muted_until),
    }
}

fn user(profile: Profile) -> frame::UserView {
    let mut bytes = 0;
    let fitting = profile.push_tokens.into_iter().take_while(|(device, _, token)| {
        let fits = bytes < TOKENS_BYTES_MAX;
        bytes += device.len() + token.len() + REACTION_BYTES;
        fits
    });
    let push_tokens =
        fitting.map(|(device, platform, token)| frame::PushTokenView { device, platform, token }).collect();
    frame::UserView {
        user: profile.user,
        username: profile.username,
        created_at_ms: profile.created_at.0,
        last_seen_at_ms: millis(profile.last_seen_at),
        push_tokens,
    }
}

fn device(device: Device) -> frame::DeviceView {
    let Device { device, last_seen_at, cursor_lag } = device;
    frame::DeviceView { device, last_seen_at_ms: millis(last_seen_at), cursor_lag }
}

fn reacted((seq, counts): (u64, Vec<ReactionCount>)) -> frame::Reacted {
    frame::Reacted { seq, reactions: counts.into_iter().map(reaction).collect() }
}

fn reaction(count: ReactionCount) -> frame::ReactionCount {
    let ReactionCount { emoji, count, mine } = count;
    frame::ReactionCount { emoji, count, mine }
}

fn entry(entry: Entry) -> frame::Entry {
    frame::Entry { seq: entry.seq, record: entry.record.to_vec() }
}

fn mark(mark: Mark) -> frame::Mark {
    frame::Mark { user: mark.user, delivered_seq: mark.delivered_seq, read_seq: mark.read_seq }
}

fn counts(counts: Counts) -> frame::Counts {
    let Counts { seq, delivered_count, read_count } = counts;
    frame::Counts { seq, delivered_count, read_count }
}

/// A time on a link frame, where 0 stands for none.
fn millis(at: Option<WallMs>) -> u64 {
    at.map_or(0, |at| at.0)
}
