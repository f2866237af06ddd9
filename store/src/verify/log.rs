//! Conversation by conversation: the log, and what its rows add up to.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Body, ConversationRow, ConversationType, Event, HeadRow, History, TallyRow};

use super::reactions;
use super::remembered::{self, Remembered};
use super::roster::Roster;
use super::{Checked, Cursor, Walk, number};
use crate::keys::{self, Parsed};
use crate::ops::STRETCH_EVENTS;

/// The families that lie in the order of conversations.
pub(super) struct Families {
    conversations: Cursor,
    heads: Cursor,
    members: Cursor,
    events: Cursor,
    deleted: Cursor,
    tallies: Cursor,
    pub(super) reactions: Cursor,
    pub(super) counts: Cursor,
    pub(super) taken_back: Cursor,
}

impl Families {
    fn all(&mut self) -> [&mut Cursor; 9] {
        let Families {
            conversations,
            heads,
            members,
            events,
            deleted,
            tallies,
            reactions,
            counts,
            taken_back,
        } = self;
        [conversations, heads, members, events, deleted, tallies, reactions, counts, taken_back]
    }
}

/// Walks through all of them.
pub(super) fn conversations(walk: &mut Walk<'_>) -> Checked {
    let mut families = Families {
        conversations: Cursor::of(keys::CONVERSATION),
        heads: Cursor::of(keys::HEAD),
        members: Cursor::of(keys::MEMBER),
        events: Cursor::of(keys::EVENT),
        deleted: Cursor::of(keys::DELETED),
        tallies: Cursor::of(keys::TALLY),
        reactions: Cursor::of(keys::REACTION),
        counts: Cursor::of(keys::REACTIONS),
        taken_back: Cursor::of(keys::TAKEN_BACK),
    };
    // Ends: each turn takes all rows of the lowest conversation that has any.
    loop {
        let mut next: Option<ConversationId> = None;
        for cursor in families.all() {
            if let Some(conversation) = cursor.conversation(walk)? {
                next = Some(next.map_or(conversation, |next| next.min(conversation)));
            }
        }
        let Some(id) = next else { return Ok(()) };
        let is_described = conversation(walk, &mut families, id)?;
        let mut left_count = 0_u64;
        for cursor in families.all() {
            while cursor.next_of(walk, id)?.is_some() {
                left_count += 1;
            }
        }
        match (is_described, left_count) {
            (true, 0) => {}
            (true, _) => walk.wrong_in(id, format_args!("{left_count} rows belong to nothing")),
            (false, _) => {
                let words = format!("there are {left_count} rows of it, but not the one that describes it");
                walk.wrong_in(id, words);
            }
        }
    }
}

/// Takes every row that belongs to something; `false`, and none, when no row says what the conversation is.
fn conversation(walk: &mut Walk<'_>, families: &mut Families, id: ConversationId) -> Checked<bool> {
    let Some((key, row)) = families.conversations.next_of(walk, id)? else { return Ok(false) };
    walk.counts().conversations += 1;
    let row = walk.decoded(&key, ConversationRow::decode(&row));
    let head = match families.heads.next_of(walk, id)? {
        Some((key, head)) => walk.decoded(&key, HeadRow::decode(&head)),
        None => {
            walk.wrong_in(id, "the row that says where its log ends is missing");
            None
        }
    };
    let roster = Roster::read(walk, &mut families.members, id)?;
    let mut log = Log::new(id, roster);
    while let Some((key, record)) = families.events.next_of(walk, id)? {
        let Some(seq) = keys::event_seq(&key) else { continue };
        log.event(walk, families, seq, &record)?;
    }
    log.end(walk, row.as_ref(), head.as_ref())?;
    reactions::under(walk, families, id)?;
    Ok(true)
}

/// What a log adds up to, event by event.
struct Log {
    id: ConversationId,
    /// The last event so far, and its id.
    last: Seq,
    last_id: MessageId,
    /// No event was missing or unreadable: what they add up to can be compared.
    is_whole: bool,
    messages: u64,
    members_version: u64,
    deleted_seq: Seq,
    created: Option<Created>,
    /// The last name, and the event that gave it.
    name: (Option<String>, Seq),
    roster: Roster,
    /// Who sent how many in the stretch that is under way.
    tally: BTreeMap<UserId, u64>,
    remembered: Remembered,
    is_above_ceiling: bool,
}

struct Created {
    conversation_type: ConversationType,
    history: History,
    by: UserId,
    id: MessageId,
    members: Vec<UserId>,
}

impl Log {
    fn new(id: ConversationId, roster: Roster) -> Log {
        Log {
            id,
            last: 0,
            last_id: MessageId(0),
            is_whole: true,
            messages: 0,
            members_version: 0,
            deleted_seq: 0,
            created: None,
            name: (None, 0),
            roster,
            tally: BTreeMap::new(),
            remembered: Remembered::new(id),
            is_above_ceiling: false,
        }
    }

    fn event(&mut self, walk: &mut Walk<'_>, families: &mut Families, seq: Seq, record: &Bytes) -> Checked {
        let id = self.id;
        walk.counts().events += 1;
        if seq != self.last + 1 {
            let missing = format!("events {} to {} are missing", self.last + 1, seq.saturating_sub(1));
            walk.wrong_in(id, missing);
            self.is_whole = false;
            // What came before has no neighbours here any more.
            self.remembered.flush(walk)?;
        }
        self.last = seq;
        let Some(event) = Event::decode(record) else {
            walk.wrong_in(id, format_args!("event {seq} cannot be read"));
            self.is_whole = false;
            return self.remembered.flush(walk);
        };
        if event.id <= self.last_id {
            walk.wrong_in(id, format_args!("the id of event {seq} is not above the one before it"));
        }
        self.last_id = event.id;
        self.is_above_ceiling |= !walk.is_below_ceiling(event.id);
        let is_message = matches!(event.body, Body::Message(_) | Body::Tombstone { .. });
        if is_message {
            walk.counts().messages += 1;
            self.messages += 1;
            *self.tally.entry(event.sender).or_default() += 1;
        }
        self.change(walk, seq, &event)?;
        if self.is_whole {
            self.roster.event(walk, id, seq, self.messages, is_message, &event);
        }
        self.deletion(walk, families, seq, &event)?;
        reactions::event(walk, id, seq, &event)?;
        self.remembered.event(walk, seq, &event)?;
        if seq.is_multiple_of(STRETCH_EVENTS) {
            self.stretch(walk, families, seq / STRETCH_EVENTS - 1)?;
        }
        Ok(())
    }

    /// What an event says about the conversation itself.
    fn change(&mut self, walk: &mut Walk<'_>, seq: Seq, event: &Event<'_>) -> Checked {
        match &event.body {
            Body::Created { conversation_type, group_name, history, members } => {
                if seq != 1 {
                    walk.wrong_in(self.id, format_args!("it begins once more with event {seq}"));
                }
                if *conversation_type == ConversationType::Group {
                    remembered::creation(walk, self.id, event)?;
                }
                self.members_version = 1;
                self.name = (group_name.map(str::to_owned), seq);
                self.created = Some(Created {
                    conversation_type: *conversation_type,
                    history: *history,
                    by: event.sender,
                    id: event.id,
                    members: members.clone(),
                });
            }
            Body::Renamed { group_name } => self.name = (group_name.map(str::to_owned), seq),
            Body::MembersAdded { history, .. } => {
                self.members_version += 1;
                if self.created.as_ref().is_some_and(|created| created.history != *history) {
                    walk.wrong_in(self.id, format_args!("event {seq} shows another part of the history"));
                }
            }
            Body::MemberRemoved { .. } => self.members_version += 1,
            Body::Deleted { target_seq, message } => {
                self.deleted_seq = self.deleted_seq.max(*target_seq);
                let (target_seq, message) = (*target_seq, *message);
                let is_deleted = walk.event(self.id, target_seq, |target| {
                    let by_this =
                        matches!(target.body, Body::Tombstone { deleted_seq, .. } if deleted_seq == seq);
                    by_this && target.id == message && target.sender == event.sender
                })?;
                if is_deleted != Some(true) || target_seq >= seq {
                    let words = format!("event {seq} deletes {target_seq}, and it is not deleted by it");
                    walk.wrong_in(self.id, words);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What is left of a message has a row among the deleted ones, and an event that made it so; nothing else has.
    fn deletion(
        &mut self,
        walk: &mut Walk<'_>,
        families: &mut Families,
        seq: Seq,
        event: &Event<'_>,
    ) -> Checked {
        let id = self.id;
        // Those before this event are of events that are missing: told already, as belonging to nothing.
        let listed = families.deleted.next_if(walk, |parsed| *parsed == Parsed::Deleted(id, seq))?;
        match &event.body {
            Body::Tombstone { deleted_seq, .. } => {
                let sender = listed.and_then(|(_, sender)| number(&sender));
                if sender != Some(event.sender.0) {
                    walk.wrong_in(id, format_args!("the deleted message {seq} is not among the deleted"));
                }
                let deletes = walk.event(
                    id,
                    *deleted_seq,
                    |by| matches!(by.body, Body::Deleted { target_seq, .. } if target_seq == seq),
                )?;
                if deletes != Some(true) || *deleted_seq <= seq {
                    let words = format!("event {deleted_seq} does not delete {seq}, which says so");
                    walk.wrong_in(id, words);
                }
            }
            _ if listed.is_some() => {
                walk.wrong_in(id, format_args!("event {seq} is among the deleted messages, and is there"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a stretch: if somebody counted it, they counted the same.
    fn stretch(&mut self, walk: &mut Walk<'_>, families: &mut Families, stretch: u64) -> Checked {
        let counted = std::mem::take(&mut self.tally);
        let id = self.id;
        let stored = families.tallies.next_if(walk, |parsed| *parsed == Parsed::Tally(id, stretch))?;
        if let Some((key, stored)) = stored
            && let Some(stored) = walk.decoded(&key, TallyRow::decode(&stored))
            && self.is_whole
            && !stored.messages.iter().copied().eq(counted)
        {
            walk.wrong_in(
                id,
                format_args!("the tally of stretch {stretch} is not what its events add up to"),
            );
        }
        Ok(())
    }

    fn end(mut self, walk: &mut Walk<'_>, row: Option<&ConversationRow>, head: Option<&HeadRow>) -> Checked {
        self.remembered.flush(walk)?;
        let id = self.id;
        if self.is_above_ceiling {
            walk.wrong_in(id, "an id of an event is above what was set aside for ids");
        }
        if let Some(head) = head
            && head.seq != self.last
        {
            let words = format!("its head says {}, and its last event is {}", head.seq, self.last);
            walk.wrong_in(id, words);
            self.is_whole = false;
        }
        if !self.is_whole {
            return Ok(());
        }
        let Some(created) = self.created.take() else {
            walk.wrong_in(id, "its first event is not its beginning");
            return Ok(());
        };
        if let Some(head) = head {
            self.head(walk, head);
        }
        if let Some(row) = row {
            let (group_name, named_seq) = &self.name;
            let is_same = row.conversation_type == created.conversation_type
                && row.history == created.history
                && row.created_by == created.by
                && row.created_at == created.id.created_at()
                && row.group_name == *group_name
                && row.named_seq == *named_seq;
            if !is_same {
                walk.wrong_in(id, "its description is not what its events say");
            }
        }
        if created.conversation_type == ConversationType::OneToOne
            && let [one, other] = created.members[..]
            && walk.load(&keys::pair(one, other), number)? != Some(id.0)
        {
            walk.wrong_in(id, format_args!("users {one} and {other} are not told that it is theirs"));
        }
        self.roster.end(walk, id, created.history)
    }

    fn head(&self, walk: &mut Walk<'_>, head: &HeadRow) {
        let added_up = HeadRow {
            seq: self.last,
            message_index: self.messages,
            last_id: self.last_id,
            members_version: self.members_version,
            members_count: self.roster.current_count().unwrap_or(head.members_count),
            deleted_seq: self.deleted_seq,
        };
        if *head != added_up {
            let words = format!("its head is {head:?}, and its events add up to {added_up:?}");
            walk.wrong_in(self.id, words);
        }
    }
}
