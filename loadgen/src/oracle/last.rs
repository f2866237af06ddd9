//! How long a message to a group is on its way until the last member has it.

use super::Ledger;
use crate::stats::Latency;

/// The copies of one message that a thread's clients received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copies {
    count: u32,
    intended_ns: u64,
    last_ns: u64,
}

impl Copies {
    pub(super) fn arrived(&mut self, intended_ns: u64, now_ns: u64) {
        self.count += 1;
        self.intended_ns = intended_ns;
        self.last_ns = self.last_ns.max(now_ns);
    }
}

/// From intended to the last member, of every group message intended from `measure_from_ns` on that all other members
/// received. Conversations of two are left out: their first is their last; and so are groups with a member who reads
/// slowly on purpose.
#[must_use]
pub fn to_last(ledgers: &[Ledger], measure_from_ns: u64) -> Latency {
    let mut latency = Latency::default();
    let Some(first) = ledgers.first() else { return latency };
    for (number, conversation) in first.roster.conversations().iter().enumerate() {
        let of_thread = |ledger: &'_ Ledger| ledger.copies.get(number).map_or(0, Vec::len);
        for index in 0..ledgers.iter().map(of_thread).max().unwrap_or(0) {
            let copies = ledgers.iter().filter_map(|ledger| ledger.copies.get(number)?.get(index));
            let whole = copies.fold(Copies::default(), |whole, copies| Copies {
                count: whole.count + copies.count,
                intended_ns: whole.intended_ns.max(copies.intended_ns),
                last_ns: whole.last_ns.max(copies.last_ns),
            });
            if whole.count as usize + 1 == conversation.members.len() && whole.intended_ns >= measure_from_ns
            {
                latency.record_ns(whole.last_ns.saturating_sub(whole.intended_ns));
            }
        }
    }
    latency
}
