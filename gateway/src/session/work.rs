//! What a session has under way. An idle session has none of it, and no memory for it.

use std::collections::VecDeque;

use carillon_link::Peer;
use carillon_protocol::client::FrameId;
use carillon_protocol::frame::{Receipt, Submit};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::time::Time;

use crate::owners::Route;
use crate::turn::ConnectionId;

/// Acknowledged sends of a connection whose events have not passed yet. At this many the connection is not read.
pub(super) const EARLY_MAX: usize = 1_024;
/// Conversations with an unsent watermark, or one unheard. Beyond: the oldest is dropped. Then events are delivered once
/// more, or a count of unread messages is old until the next one or a look at the list.
pub(super) const RECEIPTS_MAX: usize = 1_024;

/// Entries of a list that is kept for other sessions.
const FEW: usize = 8;

/// See the module. What is in it is the session's alone; others keep it while it is empty.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Commands without an answer, in the order they came.
    pub(super) asked: VecDeque<Asked>,
    /// Positions that an ack has filled before their event passed.
    pub(super) early: Early,
    /// Conversations that were paged further than what is fanned out: (conversation, last seq paged).
    pub(super) ahead: Vec<(ConversationId, Seq)>,
    /// `sync` commands without an answer, in the order they came.
    pub(super) syncs: VecDeque<SyncAsked>,
    /// Watermarks that nobody waits for, merged until the turn ends.
    pub(super) receipts: Vec<Marked>,
    /// What the user read elsewhere and the client has no room to hear yet.
    pub(super) reads: Vec<ReadTo>,
}

/// A durable command that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    /// The link request; 0 while it is not on a lane.
    pub(super) request: u64,
    /// Where that went.
    pub(super) route: Option<Route>,
    /// How often it was put on a lane.
    pub(super) attempts: u32,
    /// The client's `id`.
    pub(super) id: Option<FrameId>,
    pub(super) at: Time,
    /// The head of a `reset` of its conversation that was said while it waited.
    pub(super) reset_seq: Seq,
    /// The key of a command that was said after it in its conversation, and is committed. One says as much as all.
    pub(super) passed_by: Option<String>,
    pub(super) what: Durable,
}

#[derive(Debug)]
pub(super) enum Durable {
    Submit {
        submit: Box<Submit>,
        /// The client gave no `client_msg_id`.
        is_minted: bool,
    },
    Receipt(Receipt),
}

/// A `sync` that waits for its answer.
#[derive(Debug)]
pub(super) struct SyncAsked {
    /// The link request; 0 while it is not on a lane.
    pub(super) request: u64,
    /// Where that went.
    pub(super) route: Option<Route>,
    pub(super) id: Option<FrameId>,
    pub(super) conversation: ConversationId,
    pub(super) from_seq: Seq,
    pub(super) limit: u32,
}

/// A watermark to be sent; 0: unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) conversation: ConversationId,
    pub(super) delivered_seq: Seq,
    pub(super) read_seq: Seq,
}

/// Watermarks of all sessions of a shard that left lately and that nobody waits for: a router that does not own their slot
/// names no more than that. At most [`MARKS_MAX`]; one that is not remembered any more is lost, as it would be with a lane.
#[derive(Debug, Default)]
pub(crate) struct Marks(VecDeque<(ConnectionId, Marked, Route)>);

/// Watermarks remembered after they left, 64 bytes each: more than a shard sends while one is on its way.
const MARKS_MAX: usize = 4_096;

impl Marks {
    pub(super) fn sent(&mut self, session: ConnectionId, marked: Marked, route: Route) {
        if self.0.len() == MARKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((session, marked, route));
    }

    /// Takes those of a session in a slot that went to this router.
    pub(super) fn take(&mut self, session: ConnectionId, router: Peer, slot: Slot) -> Vec<(Marked, Route)> {
        let is_meant = |(of, marked, route): &(ConnectionId, Marked, Route)| {
            *of == session && route.router == router && slot_of_conversation(marked.conversation) == slot
        };
        let (taken, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.0).into_iter().partition(is_meant);
        self.0 = rest;
        taken.into_iter().map(|(_, marked, route)| (marked, route)).collect()
    }
}

/// How far the user read on another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadTo {
    pub(crate) conversation: ConversationId,
    pub(crate) read_seq: Seq,
    pub(crate) unread_count: u64,
}

/// Positions that an ack has filled.
#[derive(Debug, Default)]
pub(super) struct Early(Vec<(ConversationId, Seq)>);

impl Early {
    pub(super) fn add(&mut self, conversation: ConversationId, seq: Seq) {
        if !self.contains(conversation, seq) {
            self.0.push((conversation, seq));
        }
    }

    pub(super) fn contains(&self, conversation: ConversationId, seq: Seq) -> bool {
        self.0.contains(&(conversation, seq))
    }

    /// The client has everything up to `seq`, one way or another.
    pub(super) fn passed(&mut self, conversation: ConversationId, seq: Seq) {
        self.0.retain(|(other, filled)| *other != conversation || *filled > seq);
    }
}

impl Work {
    /// Whether it can be given back.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
            && self.early.0.is_empty()
            && self.ahead.is_empty()
            && self.syncs.is_empty()
            && self.receipts.is_empty()
            && self.reads.is_empty()
    }

    /// Whether it holds no more memory than a session needs that has a few things under way.
    pub(crate) fn is_small(&self) -> bool {
        let capacities = [
            self.asked.capacity(),
            self.early.0.capacity(),
            self.ahead.capacity(),
            self.syncs.capacity(),
            self.receipts.capacity(),
            self.reads.capacity(),
        ];
        capacities.iter().all(|capacity| *capacity <= FEW)
    }

    /// Whether so much is under way that the client has to wait (`limits.inflight`).
    pub(super) fn is_full(&self, inflight_max: usize) -> bool {
        self.asked.len() + self.syncs.len() >= inflight_max || self.early.0.len() >= EARLY_MAX
    }

    /// The last seq paged, if that is above what is fanned out.
    pub(super) fn ahead_of(&self, conversation: ConversationId) -> Option<Seq> {
        self.ahead.iter().find(|(other, _)| *other == conversation).map(|(_, seq)| *seq)
    }

    /// The client has the conversation up to `seq`, and `Deliver` frames up to `fanned_out_seq` came already.
    pub(super) fn placed(&mut self, conversation: ConversationId, seq: Seq, fanned_out_seq: Seq) {
        self.ahead.retain(|(other, _)| *other != conversation);
        if fanned_out_seq < seq {
            self.ahead.push((conversation, seq));
        }
        self.early.passed(conversation, seq);
    }

    /// A live event passes: whether the client has it already by a page. What is not needed any more is forgotten; while
    /// the next one may be in doubt (`is_doubtful`) it is needed.
    pub(super) fn was_paged(&mut self, conversation: ConversationId, seq: Seq, is_doubtful: bool) -> bool {
        let Some(paged) = self.ahead_of(conversation) else { return false };
        if seq > paged || (seq == paged && !is_doubtful) {
            self.ahead.retain(|(other, _)| *other != conversation);
        }
        seq <= paged
    }

    /// The client was pushed this event, and whether the next one follows nobody else knows.
    pub(super) fn followed(&mut self, conversation: ConversationId, seq: Seq) {
        self.ahead.retain(|(other, _)| *other != conversation);
        self.ahead.push((conversation, seq));
    }

    /// Keeps what the user read elsewhere until there is room to say it. The latest word counts.
    pub(super) fn keep_read(&mut self, read: ReadTo) {
        self.reads.retain(|other| other.conversation != read.conversation);
        if self.reads.len() >= RECEIPTS_MAX {
            self.reads.remove(0);
        }
        self.reads.push(read);
    }

    /// Merges a watermark.
    pub(super) fn mark(&mut self, marked: Marked) {
        if let Some(other) = self.receipts.iter_mut().find(|other| other.conversation == marked.conversation)
        {
            other.delivered_seq = other.delivered_seq.max(marked.delivered_seq);
            other.read_seq = other.read_seq.max(marked.read_seq);
            return;
        }
        if self.receipts.len() >= RECEIPTS_MAX {
            self.receipts.remove(0);
        }
        self.receipts.push(marked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_paged_is_not_pushed_again() {
        let conversation = ConversationId(1);
        let mut work = Work::default();
        work.placed(conversation, 7, 7);
        assert!(!work.was_paged(conversation, 8, false), "everything was fanned out before");
        work.early.add(conversation, 9);
        work.placed(conversation, 10, 8);
        assert!(!work.early.contains(conversation, 9));
        assert!(work.was_paged(conversation, 9, false) && work.was_paged(conversation, 10, false));
        assert!(!work.was_paged(conversation, 11, false) && work.is_empty());
    }

    #[test]
    fn watermarks_merge_by_maximum() {
        let mut work = Work::default();
        for (delivered_seq, read_seq) in [(5, 0), (3, 2), (0, 1)] {
            work.mark(Marked { conversation: ConversationId(1), delivered_seq, read_seq });
        }
        assert_eq!(
            work.receipts,
            [Marked { conversation: ConversationId(1), delivered_seq: 5, read_seq: 2 }]
        );
    }
}
