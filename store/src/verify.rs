//! Whether a store is what the verbs write: every log dense from its first event to its head, and every row that says the
//! same thing as another one in agreement with it.
//!
//! It walks: each family once, in the order of its keys, side by side with those that belong to it, and looks up what lies
//! elsewhere. What is held at a time is a page of each family and what one conversation adds up to; both have bounds, and
//! what lies beyond them is told as not checked, never passed over.
//!
//! # Invariants
//! - Nothing is written, and nothing that is found ends the walk, but a read that fails.
//! - What is told of a row is its place, numbers and ids: never what users wrote.

mod log;
mod people;
mod reactions;
mod remembered;
mod roster;

use std::collections::VecDeque;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MESSAGE_ID_LOW_BITS, MessageId, Seq, UserId};
use carillon_protocol::record::Event;

use crate::error::ReadError;
use crate::keys::{self, KeyRange, Parsed};
use crate::rows;
use crate::txn::{Read, Row};

/// Rows that are read at once: as many of the largest take 25 MB.
const PAGE_ROWS: usize = 256;
/// The most generations of remembered attempts that there can be: two count, and old ones are cleared one after the other.
const GENERATIONS_MAX: usize = 4_096;
/// Node parts of message ids.
const NODES_COUNT: usize = 1_024;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows of all families.
    pub rows: u64,
    /// Conversations.
    pub conversations: u64,
    /// Events of their logs.
    pub events: u64,
    /// Of these, messages and what is left of deleted ones.
    pub messages: u64,
    /// Memberships, former ones too.
    pub memberships: u64,
    /// Users.
    pub users: u64,
    /// Attempts that are remembered (G2).
    pub remembered: u64,
}

/// What a walk came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was looked at.
    pub counts: Counts,
    /// What is wrong, in words: the first of it, as many as were asked for.
    pub findings: Vec<String>,
    /// How much is wrong in all.
    pub findings_count: u64,
    /// What could not be checked, in words.
    pub unchecked: Vec<String>,
}

impl Report {
    /// One thing more is wrong; told in words while there are fewer than `told_max`.
    pub fn wrong(&mut self, told_max: usize, words: String) {
        self.findings_count += 1;
        if self.findings.len() < told_max {
            self.findings.push(words);
        }
    }
}

/// Walks through all that a snapshot shows. `progress` hears now and then what was looked at so far.
pub fn verify(read: &mut dyn Read, findings_max: usize, progress: &mut dyn FnMut(&Counts)) -> Report {
    let mut walk = Walk {
        read,
        progress,
        findings_max,
        report: Report::default(),
        generations: Vec::new(),
        generation: 0,
        ceilings_ms: vec![0; NODES_COUNT],
    };
    let walked = people::control(&mut walk)
        .and_then(|()| log::conversations(&mut walk))
        .and_then(|()| people::people(&mut walk))
        .and_then(|()| remembered::all(&mut walk));
    if let Err(error) = walked {
        walk.wrong(format!("the walk ended here: {error}"));
    }
    walk.report
}

/// A walk under way.
struct Walk<'r> {
    read: &'r mut dyn Read,
    progress: &'r mut dyn FnMut(&Counts),
    findings_max: usize,
    report: Report,
    /// The generations that something is remembered of, ascending, and the one that is written.
    generations: Vec<u64>,
    generation: u64,
    /// By node: no id was given at or above.
    ceilings_ms: Vec<u64>,
}

type Checked<T = ()> = Result<T, ReadError>;

impl Walk<'_> {
    fn wrong(&mut self, words: impl Into<String>) {
        self.report.wrong(self.findings_max, words.into());
    }

    fn wrong_in(&mut self, conversation: ConversationId, words: impl std::fmt::Display) {
        self.wrong(format!("conversation {conversation}: {words}"));
    }

    fn unchecked(&mut self, words: String) {
        if self.report.unchecked.len() < self.findings_max {
            self.report.unchecked.push(words);
        }
    }

    fn counts(&mut self) -> &mut Counts {
        &mut self.report.counts
    }

    /// The row under `key`, decoded. One that is there and cannot be read is told.
    fn load<T>(&mut self, key: &[u8], decode: impl FnOnce(&[u8]) -> Option<T>) -> Checked<Option<T>> {
        let Some(bytes) = self.read.get(key)? else { return Ok(None) };
        Ok(self.decoded(key, decode(&bytes)))
    }

    /// What a row was decoded to; told when that was nothing.
    fn decoded<T>(&mut self, key: &[u8], decoded: Option<T>) -> Option<T> {
        if decoded.is_none() {
            self.wrong(format!("the row {} cannot be read", Key(key)));
        }
        decoded
    }

    /// Whether attempts are forgotten by now: none is before the third generation.
    fn clears(&self) -> bool {
        self.generation > 1
    }

    /// What the event there says, asked of it.
    fn event<T>(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        ask: impl FnOnce(&Event<'_>) -> T,
    ) -> Checked<Option<T>> {
        let record = self.read.get(&keys::event(conversation, seq))?;
        Ok(record.and_then(|record| Event::decode(&record).map(|event| ask(&event))))
    }

    /// Whether an id is below what its node may have given.
    fn is_below_ceiling(&self, id: MessageId) -> bool {
        let node = (id.0 >> 12) as usize % NODES_COUNT;
        self.ceilings_ms.get(node).is_some_and(|ceiling_ms| id.0 >> MESSAGE_ID_LOW_BITS < *ceiling_ms)
    }
}

/// A stored number.
fn number(bytes: &[u8]) -> Option<u64> {
    rows::read_number(bytes).ok()
}

/// One family, read page by page.
struct Cursor {
    range: KeyRange,
    page: VecDeque<Row>,
    is_read: bool,
    /// Nobody else reads these rows: they are counted here.
    is_counted: bool,
}

impl Cursor {
    /// Over a whole family.
    fn of(family: u8) -> Cursor {
        Cursor { is_counted: true, ..Cursor::once_more(keys::family(family)) }
    }

    /// Over rows that a cursor of their family reads as well.
    fn once_more(range: KeyRange) -> Cursor {
        Cursor { range, page: VecDeque::new(), is_read: false, is_counted: false }
    }

    /// Reads on when there is nothing in hand. Keys that nobody makes are told, and left out.
    fn fill(&mut self, walk: &mut Walk<'_>) -> Checked {
        // Ends: each turn reads on, or reads nothing for the last time.
        while self.page.is_empty() && !self.is_read {
            let (from, to) = &self.range;
            let rows = walk.read.range(from, to, PAGE_ROWS, false)?;
            self.is_read = rows.len() < PAGE_ROWS;
            if let Some((key, _)) = rows.last() {
                self.range.0 = keys::after(key);
            }
            if self.is_counted {
                walk.counts().rows += rows.len() as u64;
            }
            for row in rows {
                if keys::parse(&row.0).is_some() {
                    self.page.push_back(row);
                } else if self.is_counted {
                    walk.wrong(format!("there is a row {}, whose key is none of ours", Key(&row.0)));
                }
            }
            (walk.progress)(&walk.report.counts);
        }
        Ok(())
    }

    /// The next row, if it is one that `is_wanted`.
    fn next_if(
        &mut self,
        walk: &mut Walk<'_>,
        is_wanted: impl FnOnce(&Parsed<'_>) -> bool,
    ) -> Checked<Option<Row>> {
        self.fill(walk)?;
        let is_next = self.peeked().is_some_and(|parsed| is_wanted(&parsed));
        Ok(if is_next { self.page.pop_front() } else { None })
    }

    fn next(&mut self, walk: &mut Walk<'_>) -> Checked<Option<Row>> {
        self.next_if(walk, |_| true)
    }

    /// The key of the row in hand.
    fn peeked(&self) -> Option<Parsed<'_>> {
        self.page.front().and_then(|(key, _)| keys::parse(key))
    }

    /// Which conversation the next row is about.
    fn conversation(&mut self, walk: &mut Walk<'_>) -> Checked<Option<ConversationId>> {
        self.fill(walk)?;
        Ok(self.peeked().and_then(|parsed| parsed.by_conversation()))
    }

    /// The next row about this conversation.
    fn next_of(&mut self, walk: &mut Walk<'_>, conversation: ConversationId) -> Checked<Option<Row>> {
        self.next_if(walk, |parsed| parsed.by_conversation() == Some(conversation))
    }
}

/// A key for a reader: what it says, or its bytes. Names and devices are their users' words, and left out.
struct Key<'k>(&'k [u8]);

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let conversation = |f: &mut std::fmt::Formatter<'_>, what: &str, id: ConversationId| {
            write!(f, "{what} of conversation {id}")
        };
        let of_user =
            |f: &mut std::fmt::Formatter<'_>, what: &str, id: UserId| write!(f, "{what} of user {id}");
        match keys::parse(self.0) {
            Some(Parsed::Event(id, seq)) => write!(f, "event {seq} of conversation {id}"),
            Some(Parsed::Conversation(id)) => conversation(f, "description", id),
            Some(Parsed::Head(id)) => conversation(f, "head", id),
            Some(Parsed::Member(id, user)) => write!(f, "membership of user {user} in conversation {id}"),
            Some(Parsed::Tally(id, _)) => conversation(f, "tally", id),
            Some(Parsed::Reaction(id, ..)) => conversation(f, "reaction", id),
            Some(Parsed::TakenBack(id, ..)) => conversation(f, "reaction that was taken back", id),
            Some(Parsed::Reactions(id, _)) => conversation(f, "count of reactions", id),
            Some(Parsed::Deleted(id, _)) => conversation(f, "deleted message", id),
            Some(Parsed::Marker(_, id)) => conversation(f, "marker", id),
            Some(Parsed::Sent(_, id, _)) => conversation(f, "remembered attempt", id),
            Some(Parsed::User(id)) => of_user(f, "profile", id),
            Some(Parsed::Device(id, _)) => of_user(f, "device", id),
            Some(Parsed::DeviceCursor(id, ..)) => of_user(f, "cursor of a device", id),
            Some(Parsed::UserConversation(id, _)) => of_user(f, "list of conversations", id),
            Some(Parsed::Mute(id, _)) => of_user(f, "mute", id),
            Some(Parsed::Created(_, id, _)) => of_user(f, "remembered creation", id),
            _ => {
                // The family and some numbers; longer keys end with a text of somebody's.
                let shown = self.0.get(..17).unwrap_or(self.0);
                write!(f, "{}", Bytes::copy_from_slice(shown).escape_ascii())
            }
        }
    }
}
