//! One conversation with something due.

use std::collections::VecDeque;

use bytes::Bytes;
use carillon_protocol::ids::{MessageId, Seq, UserId};
use carillon_protocol::record::Event;
use carillon_protocol::time::Time;
use carillon_store::verb::{Entry, Incarnation};

use super::MARK_EVENTS;
use crate::batch::Origin;
use crate::outbox::Ticket;

/// Events of one conversation whose senders are remembered after they were handed on.
const SENDERS_KEPT_MAX: usize = 32;

/// A committed event that waits to be handed on.
pub(super) struct Recent {
    pub(super) seq: Seq,
    /// Empty: read it from the store.
    pub(super) record: Bytes,
    /// Of the members, after this event.
    pub(super) members_version: u64,
    pub(super) origin: Option<Origin>,
    pub(super) since: Time,
}

/// How many hear a conversation: what decides when its turn comes. Few until it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Crowd {
    /// Handed on in the turn of the commit.
    #[default]
    Few,
    /// One event a visit, in turn.
    Many,
    /// The same, behind all others.
    Mass,
}

pub(super) struct Log {
    /// Given once: answers to what an earlier log of the conversation asked say nothing about this one.
    pub(super) number: u64,
    /// The next seq to hand on; `None` until the markers tell.
    pub(super) next: Option<Seq>,
    /// The highest seq known to be committed.
    pub(super) head: Seq,
    /// Whether more than `head` may be committed: read until nothing comes.
    pub(super) exploring: bool,
    /// Committed lately, rising, perhaps with holes.
    pub(super) tail: VecDeque<Recent>,
    /// Read from the store, rising from `next` on.
    pub(super) fetched: VecDeque<Entry>,
    /// The list of members includes every change below `next`: it was read for that event, or has been brought along.
    pub(super) is_followed: bool,
    /// As of the list used last.
    pub(super) crowd: Crowd,
    /// The first seq that was committed since this state began.
    pub(super) first_seen: Option<Seq>,
    /// A question to the store is open.
    pub(super) is_asking: bool,
    /// Who sent what was handed on last, without a hole; nobody for what is no message. At most [`SENDERS_KEPT_MAX`]: what
    /// is confirmed at once, as most is, finds its sender here.
    senders: VecDeque<(Seq, Option<(UserId, MessageId)>)>,
    /// It stands in the queue of due conversations, or in that of starved ones.
    pub(super) is_queued: bool,
    /// The store's marker lies above this.
    pub(super) marked: Seq,
    pub(super) is_marking: bool,
    /// An operation on it had an unknown outcome.
    pub(super) is_suspect: bool,
    /// What lies below what was committed here may have been handed on by an earlier owner as well.
    pub(super) replays: bool,
    /// Other routers that have not answered for something: from the first to the last seq.
    waiting: Vec<(Incarnation, Seq, Seq)>,
    /// Questions older than this may not know what was handed on last.
    pub(super) handed_on_before: Ticket,
    pub(super) handed_on_at: Time,
    pub(super) timer: Option<Time>,
}

impl Log {
    pub(super) fn new(number: u64, next: Option<Seq>) -> Log {
        Log {
            number,
            next,
            head: 0,
            exploring: false,
            tail: VecDeque::new(),
            fetched: VecDeque::new(),
            is_followed: false,
            crowd: Crowd::Few,
            first_seen: None,
            is_asking: false,
            senders: VecDeque::new(),
            is_queued: false,
            marked: 0,
            is_marking: false,
            is_suspect: false,
            replays: false,
            waiting: Vec::new(),
            handed_on_before: Ticket(0),
            handed_on_at: Time(0),
            timer: None,
        }
    }

    /// Whether an earlier owner may have handed on this event as well.
    pub(super) fn is_replay(&self, seq: Seq) -> bool {
        self.replays && self.first_seen.is_none_or(|first| seq < first)
    }

    /// An event left for another router, which is to answer for it.
    pub(super) fn waits_for(&mut self, router: Incarnation, seq: Seq) {
        match self.waiting.iter_mut().find(|(other, ..)| *other == router) {
            Some((.., last)) => *last = seq,
            None => self.waiting.push((router, seq, seq)),
        }
    }

    /// It has answered for everything up to there.
    pub(super) fn answered(&mut self, router: Incarnation, seq: Seq) {
        self.waiting.retain_mut(|(other, first, last)| {
            if *other == router {
                *first = (*first).max(seq + 1);
            }
            first <= last
        });
    }

    /// Up to here everybody was told, or those who tell them have answered for it.
    pub(super) fn answered_seq(&self) -> Seq {
        let handed_on = self.next.map_or(0, |next| next - 1);
        self.waiting.iter().map(|(_, first, _)| first - 1).fold(handed_on, Seq::min)
    }

    /// Whether everything known is handed on and marked.
    pub(super) fn is_settled(&self) -> bool {
        let is_handed_on = self.next.is_some_and(|next| next > self.head && next - 1 == self.marked);
        is_handed_on && !self.exploring && !self.is_asking && !self.is_marking
    }

    /// Whether much was handed on since the marker was moved. The first mark of a log counts from where it began.
    pub(super) fn is_marked_long_ago(&self) -> bool {
        let from = self.marked.max(self.first_seen.unwrap_or(0));
        !self.is_marking && self.next.is_some_and(|next| next > from + MARK_EVENTS)
    }

    /// Drops what lies below `seq`; returns how many bytes and events of the tail that were.
    pub(super) fn forget_before(&mut self, seq: Seq) -> (usize, usize) {
        let (mut bytes, mut events) = (0, 0);
        while let Some(recent) = self.tail.pop_front_if(|recent| recent.seq < seq) {
            bytes += recent.record.len();
            events += 1;
        }
        while self.fetched.pop_front_if(|entry| entry.seq < seq).is_some() {}
        (bytes, events)
    }

    /// An event was handed on.
    pub(super) fn handed_on(&mut self, seq: Seq, record: &[u8]) {
        if self.senders.back().is_some_and(|(last, _)| last + 1 != seq) {
            self.senders.clear();
        }
        if self.senders.len() == SENDERS_KEPT_MAX {
            self.senders.pop_front();
        }
        match Event::decode_sender(record) {
            Some((id, sender, is_message)) => {
                self.senders.push_back((seq, is_message.then_some((sender, id))));
            }
            // Of another version: the store is asked.
            None => self.senders.clear(),
        }
    }

    /// The highest message of each sender but one above `after_seq`, up to `up_to_seq`. `None`: not all of that is
    /// remembered.
    pub(super) fn senders(
        &self,
        after_seq: Seq,
        up_to_seq: Seq,
        except: UserId,
    ) -> Option<Vec<(UserId, Seq, MessageId)>> {
        let ((first, _), (last, _)) = (self.senders.front()?, self.senders.back()?);
        if after_seq + 1 < *first || up_to_seq > *last {
            return None;
        }
        let mut highest: Vec<(UserId, Seq, MessageId)> = Vec::new();
        let skipped = usize::try_from(after_seq + 1 - first).ok()?;
        for (seq, message) in self.senders.iter().skip(skipped).take_while(|(seq, _)| *seq <= up_to_seq) {
            let Some((sender, id)) = message.filter(|(sender, _)| *sender != except) else { continue };
            match highest.iter_mut().find(|(other, ..)| *other == sender) {
                Some(known) => *known = (sender, *seq, id),
                None => highest.push((sender, *seq, id)),
            }
        }
        Some(highest)
    }

    /// The version of the members after the event `seq`, if it was committed lately.
    pub(super) fn members_version_at(&self, seq: Seq) -> Option<u64> {
        self.tail.front().filter(|recent| recent.seq == seq).map(|recent| recent.members_version)
    }

    pub(super) fn record_at(&self, seq: Seq) -> Option<Bytes> {
        let fetched = self.fetched.front().filter(|entry| entry.seq == seq).map(|entry| &entry.record);
        let recent = || self.tail.front().filter(|recent| recent.seq == seq).map(|recent| &recent.record);
        fetched.or_else(recent).filter(|record| !record.is_empty()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use carillon_protocol::record::{Body, Encoding, Message, MessageType};

    use super::*;

    fn message(seq: Seq, sender: UserId) -> Vec<u8> {
        let body = Body::Message(Message {
            content: "x",
            message_type: MessageType::Text,
            encoding: Encoding::Utf8,
            media_url: None,
            reply_to: None,
        });
        Event { id: MessageId(seq << 22), sender, client_msg_id: Cow::Borrowed("k"), body }.encode()
    }

    /// OO5c: what was handed on a moment ago is confirmed without the store; what is not remembered, or not known, is not
    /// guessed.
    #[test]
    fn senders_of_what_was_handed_on_are_remembered() {
        let (alice, bob, carol) = (UserId(1), UserId(2), UserId(3));
        let mut log = Log::new(1, Some(1));
        assert_eq!(log.senders(0, 1, carol), None);
        let renamed = Event {
            id: MessageId(4 << 22),
            sender: bob,
            client_msg_id: Cow::Borrowed(""),
            body: Body::Renamed { group_name: Some("y") },
        };
        for (seq, record) in
            [(3, message(3, alice)), (4, renamed.encode()), (5, message(5, alice)), (6, message(6, bob))]
        {
            log.handed_on(seq, &record);
        }
        let of = |log: &Log, after, up_to, except| {
            log.senders(after, up_to, except).map(|all| {
                all.into_iter().map(|(sender, seq, id)| (sender, seq, id.0 >> 22)).collect::<Vec<_>>()
            })
        };
        assert_eq!(of(&log, 2, 6, carol), Some(vec![(alice, 5, 5), (bob, 6, 6)]));
        assert_eq!(of(&log, 2, 4, carol), Some(vec![(alice, 3, 3)]));
        assert_eq!(of(&log, 2, 6, bob), Some(vec![(alice, 5, 5)]));
        assert_eq!(of(&log, 3, 4, carol), Some(vec![]), "no message");
        assert_eq!(
            (of(&log, 1, 6, carol), of(&log, 5, 7, carol)),
            (None, None),
            "not all of it is remembered"
        );
        // Of what is skipped, and of what cannot be read, nothing is known.
        log.handed_on(8, &message(8, bob));
        assert_eq!((of(&log, 5, 6, carol), of(&log, 7, 8, carol)), (None, Some(vec![(bob, 8, 8)])));
        log.handed_on(9, b"of another version");
        assert_eq!(of(&log, 7, 8, carol), None);
        for seq in 10..=10 + SENDERS_KEPT_MAX as u64 {
            log.handed_on(seq, &message(seq, alice));
        }
        assert_eq!((of(&log, 9, 10, carol), log.senders.len()), (None, SENDERS_KEPT_MAX));
    }
}
