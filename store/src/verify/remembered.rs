//! What is remembered of attempts (G2): each row points to an event that is its own, and each event within the window has
//! a row. Both are told by hash, and hashes have no order of their own: so events are held in chunks, and the rows of their
//! conversation are read once for each.

use std::collections::BTreeSet;

use carillon_protocol::ids::{ConversationId, MessageId, Seq};
use carillon_protocol::record::{Body, Event, IdempotencyRow, idempotency_hash, payload_hash};

use super::{Checked, Cursor, GENERATIONS_MAX, Walk};
use crate::keys::{self, Parsed};

/// Events of one conversation that are held at a time.
const CHUNK_EVENTS: usize = 1 << 17;

/// See the module. Events come without a gap between two flushes.
pub(super) struct Remembered {
    id: ConversationId,
    /// The first event held.
    first: Seq,
    events: Vec<Own>,
    /// An event before was remembered in a generation that counts: so is every later one.
    is_within_window: bool,
}

struct Own {
    hash: [u8; 16],
    /// Of a message that is still there.
    payload_hash: Option<[u8; 16]>,
    is_message: bool,
    /// A row has to point to it, as long as attempts are remembered.
    is_expected: bool,
    is_found: bool,
    is_found_in_window: bool,
}

impl Remembered {
    pub(super) fn new(id: ConversationId) -> Remembered {
        Remembered { id, first: 0, events: Vec::new(), is_within_window: false }
    }

    pub(super) fn event(&mut self, walk: &mut Walk<'_>, seq: Seq, event: &Event<'_>) -> Checked {
        if self.events.len() >= CHUNK_EVENTS {
            self.flush(walk)?;
        }
        if self.events.is_empty() {
            self.first = seq;
        }
        let payload_hash = match &event.body {
            Body::Message(message) => Some(payload_hash(&message.payload())),
            _ => None,
        };
        self.events.push(Own {
            hash: idempotency_hash(event.sender, &event.client_msg_id),
            payload_hash,
            is_message: matches!(event.body, Body::Message(_) | Body::Tombstone { .. }),
            // A creation is remembered by its creator, not here.
            is_expected: !event.client_msg_id.is_empty() && !matches!(event.body, Body::Created { .. }),
            is_found: false,
            is_found_in_window: false,
        });
        Ok(())
    }

    /// Compares the events held with the rows, and lets go of them.
    pub(super) fn flush(&mut self, walk: &mut Walk<'_>) -> Checked {
        if self.events.is_empty() {
            return Ok(());
        }
        let id = self.id;
        for generation in walk.generations.clone() {
            let is_in_window = generation + 1 >= walk.generation;
            let mut rows = Cursor::once_more(keys::sent_to(generation, id));
            while let Some((key, row)) = rows.next(walk)? {
                let Some(Parsed::Sent(_, _, hash)) = keys::parse(&key) else { continue };
                let Some(row) = IdempotencyRow::decode(&row) else { continue };
                self.row(walk, &hash, &row, is_in_window);
            }
        }
        let nothing_is_cleared = !walk.clears();
        for (own, seq) in self.events.drain(..).zip(self.first..) {
            let is_missed = own.is_expected && !own.is_found;
            if is_missed && (self.is_within_window || nothing_is_cleared) {
                walk.wrong_in(id, format_args!("the attempt that made event {seq} is not remembered"));
            }
            self.is_within_window |= own.is_found_in_window;
        }
        Ok(())
    }

    fn row(&mut self, walk: &mut Walk<'_>, hash: &[u8; 16], row: &IdempotencyRow, is_in_window: bool) {
        let index = row.seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(own) = index.and_then(|index| self.events.get_mut(index)) else { return };
        if own.hash == *hash {
            own.is_found = true;
            own.is_found_in_window |= is_in_window;
            if own.payload_hash.is_some_and(|payload_hash| payload_hash != row.payload_hash) {
                let words = format!("what is remembered of event {} is not its content", row.seq);
                walk.wrong_in(self.id, words);
            }
        } else if own.is_message {
            // Who wanted what was so already is pointed to what made it so: never to a message.
            let words = format!("a remembered attempt points to message {}, which is another's", row.seq);
            walk.wrong_in(self.id, words);
        }
    }
}

/// The creation of a group is remembered by its creator, as long as nothing is cleared.
pub(super) fn creation(walk: &mut Walk<'_>, id: ConversationId, event: &Event<'_>) -> Checked {
    if event.client_msg_id.is_empty() || walk.clears() {
        return Ok(());
    }
    let hash = idempotency_hash(event.sender, &event.client_msg_id);
    for generation in 0..=walk.generation {
        if walk.read.get(&keys::created(generation, event.sender, &hash))?.is_some() {
            return Ok(());
        }
    }
    walk.wrong_in(id, "its creation is not remembered");
    Ok(())
}

/// Which generations there are rows of.
pub(super) fn generations(walk: &mut Walk<'_>) -> Checked {
    let mut found = BTreeSet::new();
    for family in [keys::SENT, keys::CREATED] {
        let (mut from, to) = keys::family(family);
        // Ends: each turn goes to a higher generation.
        while found.len() < GENERATIONS_MAX {
            let rows = walk.read.range(&from, &to, 1, false)?;
            let Some((key, _)) = rows.first() else { break };
            match keys::parse(key) {
                Some(Parsed::Sent(generation, ..)) => {
                    found.insert(generation);
                    (_, from) = keys::sent_in(generation);
                }
                Some(Parsed::Created(generation, ..)) => {
                    found.insert(generation);
                    (_, from) = keys::created_in(generation);
                }
                _ => from = keys::after(key),
            }
        }
    }
    if let Some(newest) = found.last().filter(|newest| **newest > walk.generation) {
        let words =
            format!("attempts are remembered in generation {newest}, and {} is written", walk.generation);
        walk.wrong(words);
    }
    walk.generations = found.into_iter().collect();
    Ok(())
}

/// Every row of every generation, once more by itself: it can be read, and what it points to is there.
pub(super) fn all(walk: &mut Walk<'_>) -> Checked {
    let mut rows = Cursor::of(keys::SENT);
    let mut head: Option<(ConversationId, Option<Seq>)> = None;
    while let Some((key, row)) = rows.next(walk)? {
        let Some(Parsed::Sent(_, id, _)) = keys::parse(&key) else { continue };
        walk.counts().remembered += 1;
        let Some(row) = walk.decoded(&key, IdempotencyRow::decode(&row)) else { continue };
        let last = match head {
            Some((of, last)) if of == id => last,
            _ => {
                let last = walk.load(&keys::head(id), carillon_protocol::record::HeadRow::decode)?;
                let last = last.map(|head| head.seq);
                head = Some((id, last));
                last
            }
        };
        if last.is_none_or(|last| row.seq > last) {
            let words = format!("a remembered attempt points to event {}, which is not there", row.seq);
            walk.wrong_in(id, words);
        }
    }
    let mut rows = Cursor::of(keys::CREATED);
    while let Some((key, row)) = rows.next(walk)? {
        let Some(Parsed::Created(_, creator, hash)) = keys::parse(&key) else { continue };
        walk.counts().remembered += 1;
        let Some(row) = walk.decoded(&key, IdempotencyRow::decode(&row)) else { continue };
        let is_own = walk.event(ConversationId(row.seq), 1, |event| {
            let asked = Event { id: MessageId(0), ..event.clone() };
            event.sender == creator
                && idempotency_hash(creator, &event.client_msg_id) == hash
                && payload_hash(&asked.encode()) == row.payload_hash
        })?;
        if is_own != Some(true) {
            let words =
                format!("the creation of conversation {} by user {creator} is remembered, and ", row.seq);
            walk.wrong(words + "it did not begin so");
        }
    }
    Ok(())
}
