//! One conversation with something due.

use std::collections::VecDeque;

use bytes::Bytes;
use carillon_protocol::ids::Seq;
use carillon_protocol::time::Time;
use carillon_store::verb::Entry;

use super::MARK_EVENTS;
use crate::batch::Origin;
use crate::outbox::Ticket;

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
    /// It stands in the queue of due conversations, or in that of starved ones.
    pub(super) is_queued: bool,
    /// The store's marker lies above this.
    pub(super) marked: Seq,
    pub(super) is_marking: bool,
    /// An operation on it had an unknown outcome.
    pub(super) is_suspect: bool,
    /// Questions older than this may not know what was handed on last.
    pub(super) handed_on_before: Ticket,
    pub(super) handed_on_at: Time,
    pub(super) timer: Option<Time>,
}

impl Log {
    pub(super) fn new(next: Option<Seq>) -> Log {
        Log {
            next,
            head: 0,
            exploring: false,
            tail: VecDeque::new(),
            fetched: VecDeque::new(),
            is_followed: false,
            crowd: Crowd::Few,
            first_seen: None,
            is_asking: false,
            is_queued: false,
            marked: 0,
            is_marking: false,
            is_suspect: false,
            handed_on_before: Ticket(0),
            handed_on_at: Time(0),
            timer: None,
        }
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
