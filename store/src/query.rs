//! The verbs that read, each written once over [`Read`].
//!
//! # Invariants
//! - A member sees the events from the first to the last of their membership and nothing else, whichever query shows
//!   them (G11); a stranger gets the same answer as for a conversation that is not there.
//! - Every answer is bounded by what the query asks for or by a constant with its consequence; a list that can be longer
//!   says that more follows.

mod conversation;
mod devices;
mod members;
mod open;
mod page;
mod people;
mod reactions;

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_protocol::record::{Event, HeadRow, MemberRow};

use crate::error::ReadError;
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, forbidden, walk};
use crate::txn::Read;
use crate::verb::{Answer, Entry, Query, Standing};

/// The most conversations of one user that are listed; those with the highest ids are left out beyond it.
pub const USER_CONVERSATIONS_MAX: usize = 65_536;
/// The most memberships of one conversation that are read, former ones included; the highest users are left out
/// beyond it.
pub const MEMBERSHIPS_MAX: usize = 262_144;
/// The most markers that a starting router is given. The fan-out of the others waits for their next message, or for the
/// next start.
pub const MARKERS_MAX: usize = 1 << 20;
/// The most events one [`Query::Events`] gives; it asks again from behind the last.
pub const EVENTS_MAX: usize = 1_024;
/// The most bytes of records one [`Query::Events`] gives, or one event.
pub const EVENTS_BYTES_MAX: usize = 4 << 20;
/// The most events that [`Query::Senders`] looks at, counted from the end of its range. Senders of messages below that
/// hear of the watermark with a later one.
pub const SENDERS_EVENTS_MAX: u64 = 1_000;

/// Answers a query from one point in time.
///
/// # Errors
/// The engine could not read; see [`ReadError`].
pub fn answer(read: &mut dyn Read, query: &Query) -> Result<Answer, ReadError> {
    let found = match query {
        Query::Session { user, device } => people::session(read, *user, device),
        Query::Peek { user, conversations } => peek(read, *user, conversations),
        Query::Open { conversation } => open::open(read, *conversation),
        Query::Page(query) => page::page(read, query),
        Query::Events { conversation, from_seq, limit } => events(read, *conversation, *from_seq, *limit),
        Query::Members { conversation } => members::hearers(read, *conversation),
        Query::Fellows { user, conversation } => members::fellows(read, *user, *conversation),
        Query::Senders { conversation, after_seq, up_to_seq, except } => {
            senders(read, *conversation, *after_seq, *up_to_seq, *except)
        }
        Query::Conversations { user, below, as_of, limit } => {
            conversation::list(read, *user, *below, *as_of, *limit)
        }
        Query::Conversation { user, conversation } => conversation::one(read, *user, *conversation),
        Query::MemberPage { user, conversation, after, limit } => {
            members::page(read, *user, *conversation, *after, *limit)
        }
        Query::Receipts { user, conversation, seq } => members::receipts(read, *user, *conversation, *seq),
        Query::Counts { conversation, senders } => members::counts(read, *conversation, senders),
        Query::Devices { user } => devices::list(read, *user),
        Query::Admission { user, device } => people::admission(read, *user, device),
        Query::Presence { asker, users, pairs_only } => people::presence(read, *asker, users, *pairs_only),
        Query::User { asker, user } => people::user(read, *asker, *user),
        Query::Username { asker, username } => people::username(read, *asker, username),
        Query::Markers => markers(read),
    };
    match found {
        Ok(answer) => Ok(answer),
        Err(Halt::Refused(refusal)) => Ok(Answer::Refused(refusal)),
        Err(Halt::Read(error)) => Err(error),
    }
}

/// What a member, or a former one, can see of a conversation.
struct View {
    head: HeadRow,
    member: MemberRow,
    standing: Standing,
}

/// `None` for strangers and for what is not there.
fn view(read: &mut dyn Read, conversation: ConversationId, user: UserId) -> Result<Option<View>, Halt> {
    let Some(member) = rows::load_member(read, conversation, user)? else { return Ok(None) };
    let head = expect(rows::load_head(read, conversation)?)?;
    let first_seq = rows::first_visible(read, conversation, &member)?;
    let joined_seq = member.from.max(1);
    let head_seq = if member.is_current() { head.seq } else { member.to };
    Ok(Some(View { head, member, standing: Standing { conversation, first_seq, joined_seq, head_seq } }))
}

impl View {
    /// Whether members are named in receipts; else they are counted.
    fn is_small(&self) -> bool {
        self.head.members_count <= SMALL_GROUP_MEMBERS_MAX as u64
    }
}

/// As [`view`], for members now; strangers and former members are refused alike.
fn member_view(read: &mut dyn Read, conversation: ConversationId, user: UserId) -> Result<View, Halt> {
    let view = view(read, conversation, user)?.filter(|view| view.member.is_current());
    Ok(view.ok_or_else(forbidden)?)
}

fn peek(read: &mut dyn Read, user: UserId, conversations: &[ConversationId]) -> Result<Answer, Halt> {
    let mut standings = Vec::with_capacity(conversations.len());
    for conversation in conversations {
        if let Some(view) = view(read, *conversation, user)? {
            standings.push(view.standing);
        }
    }
    Ok(Answer::Standings(standings))
}

fn events(
    read: &mut dyn Read,
    conversation: ConversationId,
    from_seq: Seq,
    limit: u32,
) -> Result<Answer, Halt> {
    let limit = EVENTS_MAX.min(limit as usize);
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    walk(read, keys::events(conversation, from_seq, Seq::MAX), limit, |row| {
        let entry = entry(row)?;
        bytes += entry.record.len();
        if bytes > EVENTS_BYTES_MAX && !entries.is_empty() {
            return Ok(Walk::Stop);
        }
        entries.push(entry);
        Ok(Walk::On)
    })?;
    Ok(Answer::Events(entries))
}

fn entry((key, record): (Bytes, Bytes)) -> Result<Entry, Halt> {
    Ok(Entry { seq: expect(keys::event_seq(&key))?, record })
}

fn senders(
    read: &mut dyn Read,
    conversation: ConversationId,
    after_seq: Seq,
    up_to_seq: Seq,
    except: UserId,
) -> Result<Answer, Halt> {
    let from_seq = after_seq.saturating_add(1).max(up_to_seq.saturating_sub(SENDERS_EVENTS_MAX - 1));
    let mut highest = BTreeMap::new();
    if from_seq <= up_to_seq {
        let range = keys::events(conversation, from_seq, up_to_seq);
        walk(read, range, SENDERS_EVENTS_MAX as usize, |row| {
            let entry = entry(row)?;
            let (id, sender, is_message) = expect(Event::decode_sender(&entry.record))?;
            if is_message && sender != except {
                highest.insert(sender, (entry.seq, id));
            }
            Ok(Walk::On)
        })?;
    }
    let mut senders = Vec::with_capacity(highest.len());
    for (sender, (seq, id)) in highest {
        // Who is no member any more sees nothing of what comes after, not even how far their messages get (G11).
        if rows::load_member(read, conversation, sender)?.is_some_and(|member| member.is_current()) {
            senders.push((sender, seq, id));
        }
    }
    Ok(Answer::Senders(senders))
}

fn markers(read: &mut dyn Read) -> Result<Answer, Halt> {
    let mut markers = Vec::new();
    walk(read, keys::markers(), MARKERS_MAX, |(key, value)| {
        markers.push((expect(keys::marker_conversation(&key))?, rows::read_number(&value)?));
        Ok(Walk::On)
    })?;
    Ok(Answer::Markers(markers))
}
