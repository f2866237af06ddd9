//! What one other router is to hear, in order, until it has answered for it.
//!
//! # Invariants
//! - Notices to one router count from 1 on without a hole, and leave in that order; what was not answered when the lane was
//!   lost leaves again on the next one, before anything new.
//! - Bounded in bytes: beyond [`NOTICES_BYTES_MAX`] everything that waits is let go of, and the other router is told so
//!   ([`Lapsed`]): it has its users' sessions begin anew, and they find out what they missed. Until it has answered that,
//!   markers stay where they are (G7).

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::frame::{Lapsed, LinkFrame, Notify};
use carillon_protocol::ids::{ConversationId, Seq};
use rkyv::util::AlignedVec;

use crate::outbox::{LaneId, Outbox};

/// Bytes of notices to one router that are not answered. Beyond: see the module.
pub const NOTICES_BYTES_MAX: usize = 32 << 20;

struct Notice {
    request: u64,
    conversation: ConversationId,
    seq: Seq,
    frame: AlignedVec,
}

/// An event that one more router has answered for.
pub type Answered = (ConversationId, Seq);

/// See the module.
#[derive(Default)]
pub struct Notices {
    sent_count: u64,
    unanswered: VecDeque<Notice>,
    bytes: usize,
    /// What was let go of, by conversation the highest seq, up to the number that [`Lapsed`] names.
    lapsed: BTreeMap<ConversationId, Seq>,
    lapsed_at: Option<u64>,
}

impl Notices {
    /// Adds one, and sends it when there is a lane. `notice.request` is set here.
    pub fn add(&mut self, mut notice: Notify, lane: Option<LaneId>, outbox: &mut Outbox) {
        self.sent_count += 1;
        notice.request = self.sent_count;
        let Notify { request, conversation, seq, .. } = notice;
        let frame = notice.to_frame();
        if let Some(lane) = lane {
            outbox.send_bytes(lane, frame.clone());
        }
        self.bytes += frame.len();
        self.unanswered.push_back(Notice { request, conversation, seq, frame });
        if self.bytes > NOTICES_BYTES_MAX {
            self.lapse(lane, outbox);
        }
    }

    /// A lane is there: what is not answered leaves on it.
    pub fn resend(&mut self, lane: LaneId, outbox: &mut Outbox) {
        if let Some(request) = self.lapsed_at {
            outbox.send(lane, &Lapsed { request });
        }
        for notice in &self.unanswered {
            outbox.send_bytes(lane, notice.frame.clone());
        }
    }

    /// The other router has answered for everything up to `request`: which events those were.
    pub fn answered(&mut self, request: u64) -> Vec<Answered> {
        let mut answered = Vec::new();
        if self.lapsed_at.is_some_and(|lapsed_at| lapsed_at <= request) {
            self.lapsed_at = None;
            answered.extend(std::mem::take(&mut self.lapsed));
        }
        while let Some(notice) = self.unanswered.pop_front_if(|notice| notice.request <= request) {
            self.bytes -= notice.frame.len();
            answered.push((notice.conversation, notice.seq));
        }
        answered
    }

    /// The other router is no more: nobody waits for what it was to hear.
    pub fn forget(self) -> Vec<Answered> {
        let waiting = self.unanswered.into_iter().map(|notice| (notice.conversation, notice.seq));
        self.lapsed.into_iter().chain(waiting).collect()
    }

    /// Notices that are not answered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.unanswered.len()
    }

    fn lapse(&mut self, lane: Option<LaneId>, outbox: &mut Outbox) {
        for notice in self.unanswered.drain(..) {
            self.lapsed.insert(notice.conversation, notice.seq);
        }
        self.bytes = 0;
        self.lapsed_at = Some(self.sent_count);
        if let Some(lane) = lane {
            outbox.send(lane, &Lapsed { request: self.sent_count });
        }
    }
}
