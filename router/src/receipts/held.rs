//! Receipts of large groups that wait a moment before they are written: a message to thousands brings thousands of
//! receipts at once, and no ack is to wait behind them.
//!
//! # Invariants
//! - Of one device and conversation one receipt is held: the maximum. Losing it only redelivers, so it is never held
//!   when somebody waits for its answer.
//! - They leave in the order in which they came, a few at a time.

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::time::Time;
use carillon_store::verb::ReceiptOp;

use crate::batch::{Batches, Origin};
use crate::cluster::table::SlotSet;

/// Receipts held. Beyond: they join the next batch, as those of small groups do.
pub const HELD_MAX: usize = 1 << 18;
/// How long a receipt is held at least.
pub const HOLD_MS: u64 = 300;
/// How long until the next ones leave.
pub const STEP_MS: u64 = 20;
/// How many leave at a time: what a batch carries without its acks being later for it.
pub const STEP_RECEIPTS_MIN: usize = 128;
/// When more are held they leave in so many steps.
pub const STEPS: usize = 32;

type Key = (ConversationId, UserId, String);

struct One {
    since: Time,
    receipt: ReceiptOp,
    /// Who said the highest.
    origin: Origin,
}

/// See the module.
#[derive(Default)]
pub struct Held {
    receipts: BTreeMap<Key, One>,
    order: VecDeque<Key>,
    next_step: Time,
    is_draining: bool,
}

impl Held {
    /// Holds a receipt; `false`: it cannot be held.
    pub(super) fn hold(&mut self, now: Time, receipt: &ReceiptOp, origin: Origin) -> bool {
        if self.is_draining {
            return false;
        }
        let key = (receipt.conversation, receipt.user, receipt.device.clone());
        if let Some(one) = self.receipts.get_mut(&key) {
            if receipt.read_seq > one.receipt.read_seq {
                one.origin = origin;
            }
            one.receipt.delivered_seq = one.receipt.delivered_seq.max(receipt.delivered_seq);
            one.receipt.read_seq = one.receipt.read_seq.max(receipt.read_seq);
            return true;
        }
        if self.receipts.len() >= HELD_MAX {
            return false;
        }
        self.order.push_back(key.clone());
        self.receipts.insert(key, One { since: now, receipt: receipt.clone(), origin });
        true
    }

    /// Offers those whose time has come.
    pub(super) fn release(&mut self, now: Time, batches: &mut Batches) {
        if now < self.next_step && !self.is_draining {
            return;
        }
        let mut released = false;
        for _ in 0..STEP_RECEIPTS_MIN.max(self.receipts.len() / STEPS) {
            let Some(one) = self.order.front().and_then(|key| self.receipts.get(key)) else { break };
            if now < one.since.after_ms(HOLD_MS) && !self.is_draining {
                break;
            }
            // A full queue: it stays, and goes on merging.
            if batches.offer_receipt(now, one.receipt.clone(), one.origin).is_err() {
                break;
            }
            released = true;
            if let Some(key) = self.order.pop_front() {
                self.receipts.remove(&key);
            }
        }
        if released || !self.order.is_empty() {
            self.next_step = now.after_ms(STEP_MS);
        }
    }

    /// When the next ones leave.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let first = self.receipts.get(self.order.front()?)?;
        let due = if self.is_draining { Time(0) } else { first.since.after_ms(HOLD_MS) };
        Some(due.max(self.next_step))
    }

    /// Slots are left: a receipt that is lost only redelivers.
    pub(super) fn lost(&mut self, slots: &SlotSet) {
        self.receipts.retain(|(conversation, ..), _| !slots.has_conversation(*conversation));
        self.order.retain(|(conversation, ..)| !slots.has_conversation(*conversation));
    }

    /// Holds nothing any longer.
    pub(super) fn drain(&mut self) {
        (self.is_draining, self.next_step) = (true, Time(0));
    }

    /// Receipts held.
    pub(super) fn count(&self) -> usize {
        self.receipts.len()
    }
}
