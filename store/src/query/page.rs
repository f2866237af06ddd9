//! Events of one conversation for one member, in either direction.

use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::{PAGE_BYTES_MAX, RESUME_EVENTS_MAX};
use carillon_protocol::record::Event;

use super::{entry, members, reactions, view};
use crate::keys;
use crate::rows::{Halt, expect, forbidden};
use crate::txn::Read;
use crate::verb::{Answer, Counts, Entry, Page, PageQuery};

/// The most events that one page gives, whatever it is asked for.
const LIMIT_MAX: u32 = RESUME_EVENTS_MAX as u32;
/// The most events that one page looks at. A page that wants messages only and meets more events of other kinds than
/// this ends there with `has_more`, if need be without an entry.
const SCAN_EVENTS_MAX: u64 = 16_384;
/// The most events that are read at once.
const CHUNK_EVENTS: u64 = 64;

pub(super) fn page(read: &mut dyn Read, query: &PageQuery) -> Result<Answer, Halt> {
    let view = view(read, query.conversation, query.user)?.ok_or_else(forbidden)?;
    let mut scan = Scan {
        conversation: query.conversation,
        low: query.from_seq.max(view.standing.first_seq),
        high: query.to_seq.min(view.standing.head_seq),
        newest_first: query.newest_first,
        messages_only: query.messages_only,
        left: SCAN_EVENTS_MAX,
    };
    let (entries, has_more) = scan.page(read, query.limit.min(LIMIT_MAX) as usize)?;
    // Watermarks are for members; a former one has seen the last of them.
    let (marks, counts) = match (view.member.is_current(), view.is_small()) {
        (false, _) => (Vec::new(), None),
        (true, true) => (members::small_marks(read, &view, query.user)?, None),
        (true, false) => (Vec::new(), Some(counts(read, query, &entries)?)),
    };
    let reactions = reactions::under(read, query.conversation, &entries, query.user)?;
    Ok(Answer::Page(Page { standing: view.standing, entries, has_more, marks, counts, reactions }))
}

/// At the reader's own highest message of a page; nothing is read when there is none.
fn counts(read: &mut dyn Read, query: &PageQuery, entries: &[Entry]) -> Result<Counts, Halt> {
    let mut own = None;
    for entry in entries {
        let (_, sender, is_message) = expect(Event::decode_sender(&entry.record))?;
        if is_message && sender == query.user {
            own = own.max(Some(entry.seq));
        }
    }
    let Some(seq) = own else { return Ok(Counts::default()) };
    let counted = members::count(read, query.conversation, &[(query.user, seq)])?;
    Ok(counted.into_iter().next().unwrap_or_default())
}

/// The last message among the events `first..=head`.
pub(super) fn last_message(
    read: &mut dyn Read,
    conversation: ConversationId,
    first: Seq,
    head: Seq,
) -> Result<Option<Entry>, Halt> {
    let mut scan = Scan {
        conversation,
        low: first,
        high: head,
        newest_first: true,
        messages_only: true,
        left: SCAN_EVENTS_MAX,
    };
    Ok(scan.chunk(read, 1)?.into_iter().next())
}

/// A walk over the events `low..=high`, which shrink as it goes.
struct Scan {
    conversation: ConversationId,
    low: Seq,
    high: Seq,
    newest_first: bool,
    messages_only: bool,
    /// How many events may still be looked at.
    left: u64,
}

impl Scan {
    /// Up to `limit` entries, and whether more follow: one entry too many is looked for, so that the end is known.
    fn page(&mut self, read: &mut dyn Read, limit: usize) -> Result<(Vec<Entry>, bool), Halt> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        while self.low <= self.high {
            if self.left == 0 {
                return Ok((entries, true));
            }
            for entry in self.chunk(read, limit + 1 - entries.len())? {
                bytes += entry.record.len();
                if entries.len() == limit || (bytes > PAGE_BYTES_MAX && !entries.is_empty()) {
                    return Ok((entries, true));
                }
                entries.push(entry);
            }
        }
        Ok((entries, false))
    }

    /// The next entries that are wanted: none when the range or the budget ends first.
    fn chunk(&mut self, read: &mut dyn Read, wanted: usize) -> Result<Vec<Entry>, Halt> {
        let mut found = Vec::new();
        while found.is_empty() && self.low <= self.high && self.left > 0 {
            let asked = (wanted as u64).min(CHUNK_EVENTS).min(self.left);
            let (from, to) = keys::events(self.conversation, self.low, self.high);
            let rows = read.range(&from, &to, asked as usize, self.newest_first)?;
            self.left -= asked;
            let is_last = (rows.len() as u64) < asked;
            for row in rows {
                let entry = entry(row)?;
                if self.newest_first {
                    self.high = entry.seq.saturating_sub(1);
                } else {
                    self.low = entry.seq + 1;
                }
                if !self.messages_only || is_message(&entry)? {
                    found.push(entry);
                }
            }
            if is_last {
                self.high = 0;
                self.low = 1;
            }
        }
        Ok(found)
    }
}

fn is_message(entry: &Entry) -> Result<bool, Halt> {
    let (_, _, is_message) = expect(Event::decode_sender(&entry.record))?;
    Ok(is_message)
}
