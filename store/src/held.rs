//! An active conversation in memory: the rows that its pages, peeks and lists are made of, to be read like a snapshot and
//! brought along with what is committed, so that the same verbs answer from here and from the store (CA1, CA3).
//!
//! # Invariants
//! - Answers what a snapshot would, or nothing: a read of anything that is not held here ends the attempt.
//! - What cannot be brought along exactly is not held any longer; the caller drops it.
//! - Bringing along writes no rows: most of what is committed is never asked for here. What is fresh becomes rows when
//!   somebody asks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::{Event, HeadRow, MemberRow, ReactionsRow};
use carillon_protocol::time::WallMs;

use crate::error::ReadError;
use crate::keys::{self, KeyRange};
use crate::query;
use crate::rows::{number, read_number};
use crate::txn::{Read, Row};
use crate::verb::{Answer, Appended, OPEN_EVENTS_MAX, Opened, Query, Receipted};

/// What a row costs beside its bytes, roughly.
const ROW_BYTES: usize = 96;

/// See the module.
#[derive(Clone, Debug)]
pub struct Held {
    conversation: ConversationId,
    rows: BTreeMap<Bytes, Bytes>,
    bytes: usize,
    head: HeadRow,
    /// Events and reactions are held from here on.
    tail_from: Seq,
    /// Of which members it is known whether they muted the conversation, and until when.
    mutes: BTreeMap<UserId, Option<WallMs>>,
    fresh: Fresh,
}

/// What was committed since the rows were asked for last.
#[derive(Clone, Debug, Default)]
struct Fresh {
    /// The last events, at most [`OPEN_EVENTS_MAX`]: more push out the first.
    events: VecDeque<(Seq, Bytes)>,
    /// Members of whom something was committed, as they are now.
    members: BTreeMap<UserId, MemberRow>,
}

impl Held {
    /// What the store told.
    #[must_use]
    pub fn new(conversation: ConversationId, opened: Opened) -> Held {
        let Opened { row, head, members, tail, reactions, deleted } = opened;
        let tail_from = tail.first().map_or(head.seq + 1, |entry| entry.seq);
        let (rows, mutes) = (BTreeMap::new(), BTreeMap::new());
        let fresh = Fresh::default();
        let mut held = Held { conversation, rows, bytes: 0, head, tail_from, mutes, fresh };
        held.set(keys::conversation(conversation), row.encode().into());
        held.set(keys::head(conversation), head.encode().into());
        for (user, member) in members {
            held.set(keys::member(conversation, user), member.encode().into());
        }
        for entry in tail {
            held.set(keys::event(conversation, entry.seq), entry.record);
        }
        for (seq, under) in reactions {
            for (emoji, users) in &under {
                for user in users {
                    // Which event it was is not asked here.
                    held.set(keys::reaction(conversation, seq, *user, emoji), number(0));
                }
            }
            let counts = under.into_iter().map(|(emoji, users)| (emoji, users.len() as u64)).collect();
            held.set(keys::reaction_counts(conversation, seq), ReactionsRow { counts }.encode().into());
        }
        for (seq, sender) in deleted {
            held.set(keys::deleted(conversation, seq), number(sender.0));
        }
        held
    }

    /// The bytes that it takes, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last event.
    #[must_use]
    pub fn head_seq(&self) -> Seq {
        self.head.seq
    }

    /// Learns until when a member muted the conversation, if it is not known yet.
    pub fn learn_mute(&mut self, user: UserId, until: Option<WallMs>) {
        self.mutes.entry(user).or_insert(until);
    }

    /// A member does not want to be notified until then, or wants to again.
    pub fn muted(&mut self, user: UserId, until: Option<WallMs>) {
        self.mutes.insert(user, until);
    }

    /// An event is committed. `false`: it is not the next message, and this is not to be held any longer.
    #[must_use]
    pub fn appended(&mut self, appended: &Appended) -> bool {
        let Some((_, sender, true)) = Event::decode_sender(&appended.record) else { return false };
        if appended.seq != self.head.seq + 1 || appended.members_version != self.head.members_version {
            return false;
        }
        let Some(member) = self.member(sender).filter(|member| member.is_current()) else { return false };
        member.own_since_read += 1;
        self.head.seq = appended.seq;
        self.head.message_index += 1;
        self.head.last_id = appended.id;
        self.bytes += appended.record.len() + ROW_BYTES;
        self.fresh.events.push_back((appended.seq, appended.record.clone()));
        if self.fresh.events.len() > OPEN_EVENTS_MAX
            && let Some((_, record)) = self.fresh.events.pop_front()
        {
            self.bytes -= record.len() + ROW_BYTES;
        }
        true
    }

    /// A receipt is committed. `false`: its reader is none here, and this is not to be held any longer.
    #[must_use]
    pub fn receipted(&mut self, receipted: &Receipted) -> bool {
        let ((delivered_before, delivered_seq), (read_before, read_seq)) =
            (receipted.delivered, receipted.read);
        let Some(member) = self.member(receipted.user).filter(|member| member.is_current()) else {
            return false;
        };
        if (member.delivered_seq, member.read_seq) != (delivered_before, read_before) {
            return false;
        }
        member.delivered_seq = delivered_seq;
        if read_seq > read_before {
            member.read_seq = read_seq;
            member.own_since_read = 0;
            // Only the sum of position and own messages counts, and that is what the unread count leaves of the index.
            let (from, to) = keys::deleted_above(self.conversation, read_seq);
            let others = |sender: &Bytes| read_number(sender).is_ok_and(|id| id != receipted.user.0);
            let deleted = self.rows.range(from..to).filter(|(_, sender)| others(sender)).count() as u64;
            let read_index = self.head.message_index.saturating_sub(receipted.unread_count + deleted);
            if let Some(member) = self.member(receipted.user) {
                member.read_index = read_index;
            }
        }
        true
    }

    /// The answer to a query about this conversation; `None`: it takes more than is held, or nothing of it is for who asks.
    /// Strangers are left to the store: from here they would be refused sooner than where there is nothing.
    #[must_use]
    pub fn answer(&mut self, query: &Query) -> Option<Answer> {
        self.refresh();
        let mute = match query {
            Query::Conversation { user, .. } => {
                let until = self.mutes.get(user).copied()?;
                Some((keys::mute(*user, self.conversation), until.map(|at| number(at.0))))
            }
            _ => None,
        };
        let answer = query::answer(&mut Reading { held: self, mute }, query).ok()?;
        let is_for_strangers = match &answer {
            Answer::Refused(_) => true,
            Answer::Standings(standings) => standings.is_empty(),
            _ => false,
        };
        (!is_for_strangers).then_some(answer)
    }

    /// A member, to be brought along.
    fn member(&mut self, user: UserId) -> Option<&mut MemberRow> {
        match self.fresh.members.entry(user) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(vacant) => {
                let row = MemberRow::decode(self.rows.get(&keys::member(self.conversation, user))?)?;
                self.bytes += ROW_BYTES;
                Some(vacant.insert(row))
            }
        }
    }

    /// Makes rows of what is fresh.
    fn refresh(&mut self) {
        let conversation = self.conversation;
        let Fresh { events, members } = std::mem::take(&mut self.fresh);
        self.bytes -= members.len() * ROW_BYTES;
        for (user, member) in members {
            self.set(keys::member(conversation, user), member.encode().into());
        }
        let Some((first, _)) = events.front() else { return };
        // Those that were pushed out leave a gap, above which everything is fresh.
        if self.head.seq + 1 - *first >= OPEN_EVENTS_MAX as u64 {
            self.trim(*first);
        }
        self.set(keys::head(conversation), self.head.encode().into());
        for (seq, record) in events {
            self.bytes -= record.len() + ROW_BYTES;
            self.set(keys::event(conversation, seq), record);
        }
        if self.head.seq - self.tail_from >= 2 * OPEN_EVENTS_MAX as u64 {
            self.trim(self.head.seq + 1 - OPEN_EVENTS_MAX as u64);
        }
    }

    fn set(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len() + ROW_BYTES;
        let key_bytes = key.len();
        if let Some(old) = self.rows.insert(key, value) {
            self.bytes -= key_bytes + old.len() + ROW_BYTES;
        }
    }

    /// Holds events and reactions from `from` on only.
    fn trim(&mut self, from: Seq) {
        let conversation = self.conversation;
        let last = from.saturating_sub(1);
        let (under, _) = keys::reactions_under(conversation, self.tail_from);
        let (under_end, _) = keys::reactions_under(conversation, from);
        let ranges = [
            keys::events(conversation, self.tail_from, last),
            keys::reaction_counts_between(conversation, self.tail_from, last),
            (under, under_end),
        ];
        for (from, to) in ranges {
            let gone: BTreeSet<Bytes> = self.rows.range(from..to).map(|(key, _)| key.clone()).collect();
            for key in gone {
                if let Some(value) = self.rows.remove(&key) {
                    self.bytes -= key.len() + value.len() + ROW_BYTES;
                }
            }
        }
        self.tail_from = from;
    }

    /// The ranges of keys of which every row is held.
    fn whole(&self) -> [KeyRange; 7] {
        let conversation = self.conversation;
        let exactly = |key: Bytes| (key.clone(), keys::after(&key));
        let (under, _) = keys::reactions_under(conversation, self.tail_from);
        let (_, under_end) = keys::reactions_under(conversation, Seq::MAX);
        [
            exactly(keys::conversation(conversation)),
            exactly(keys::head(conversation)),
            keys::members(conversation),
            keys::events(conversation, self.tail_from, Seq::MAX),
            keys::reaction_counts_between(conversation, self.tail_from, Seq::MAX),
            (under, under_end),
            keys::deleted_above(conversation, 0),
        ]
    }
}

/// Ends an attempt to answer.
fn not_held() -> ReadError {
    ReadError::Again("not held in memory".to_owned())
}

/// The rows as a snapshot, and one reader's mute.
struct Reading<'a> {
    held: &'a Held,
    mute: Option<(Bytes, Option<Bytes>)>,
}

impl Read for Reading<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if let Some((_, value)) = self.mute.as_ref().filter(|(mute, _)| mute == key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.held.rows.get(key) {
            return Ok(Some(value.clone()));
        }
        let is_held = self.held.whole().iter().any(|(from, to)| **from <= *key && *key < **to);
        if is_held { Ok(None) } else { Err(not_held()) }
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let whole = self.held.whole();
        let held = whole.iter().find(|(begin, end)| *to <= **end && *to > **begin).ok_or_else(not_held)?;
        let begins_below = *from < *held.0;
        // Going down, what lies below does not matter when enough lies above.
        let low = if begins_below { &held.0[..] } else { from };
        if begins_below && !reverse {
            return Err(not_held());
        }
        let rows =
            self.held.rows.range::<[u8], _>((std::ops::Bound::Included(low), std::ops::Bound::Excluded(to)));
        let copied = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        let found: Vec<Row> = match reverse {
            true => rows.rev().take(limit).map(copied).collect(),
            false => rows.take(limit).map(copied).collect(),
        };
        if begins_below && found.len() < limit {
            return Err(not_held());
        }
        Ok(found)
    }
}
