//! Groups of more than 200 members: their senders hear how many members got how far, at most once a second.
//!
//! Watermarks that moved are gathered; once a second the senders in the range are looked up, and one walk over the
//! members counts for all of those who are connected.
//!
//! # Invariants
//! - A sender gets at most one frame of each kind a second and conversation, and none that says less than the one
//!   before.
//! - What moved while a question was open is told with the next one: after rest the last count is exact.

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::frame::{Concerned, Watermark};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::verb::{COUNTS_MAX, Counts, Query};

use super::{Passed, join};
use crate::cluster::Cluster;
use crate::meters::Metric;
use crate::outbox::{Asked, LaneId, Outbox};
use crate::registry::Registry;
use crate::settings::{LargeReceipts, ReceiptsSettings};

/// How often senders hear counts at most.
pub const TELL_MS: u64 = 1_000;
/// How long a large group is remembered as one without a receipt.
pub const REMEMBER_MS: u64 = 60_000;
/// Large groups with receipts lately. Beyond: the group's counts are not told live; they are in the next page.
pub const GROUPS_MAX: usize = 4_096;
/// Senders of a group whose last counts are remembered. Beyond: those of the last question are.
pub const TOLD_MAX: usize = 4 * COUNTS_MAX;

/// The reader of a question that is about all of them.
pub(super) const EVERYBODY: UserId = UserId(0);

#[derive(Default)]
struct Group {
    delivered: Option<Passed>,
    read: Option<Passed>,
    at: WallMs,
    /// What the open question is about; nothing is asked meanwhile.
    asking: Option<Question>,
    /// What each sender heard last: seq, delivered, read.
    told: BTreeMap<UserId, (Seq, u64, u64)>,
    /// When it is looked at again.
    timer: Time,
    told_at: Option<Time>,
}

enum Question {
    Senders,
    Counts(Vec<(UserId, Seq, MessageId)>),
}

/// See the module.
pub struct Large {
    is_told: bool,
    groups: BTreeMap<ConversationId, Group>,
    timers: BTreeSet<(Time, ConversationId)>,
}

impl Large {
    pub(super) fn new(settings: ReceiptsSettings) -> Large {
        Large {
            is_told: settings.large == LargeReceipts::Counted,
            groups: BTreeMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Whether the conversation was large when its last receipt was written.
    pub(super) fn knows(&self, conversation: ConversationId) -> bool {
        self.groups.contains_key(&conversation)
    }

    /// Watermarks of a member moved.
    pub(super) fn moved(
        &mut self,
        now: Time,
        conversation: ConversationId,
        (delivered, read): (Option<Passed>, Option<Passed>),
        at: WallMs,
        outbox: &Outbox,
    ) {
        if !self.groups.contains_key(&conversation) && self.groups.len() >= GROUPS_MAX {
            outbox.meter.add(Metric::WatermarksDropped, 1);
            return;
        }
        let group = self.groups.entry(conversation).or_default();
        if self.is_told {
            group.delivered = join(group.delivered, delivered);
            group.read = join(group.read, read);
            group.at = at;
        }
        let due = if group.asking.is_none() && self.is_told {
            group.told_at.map_or(now, |told_at| told_at.after_ms(TELL_MS).max(now))
        } else {
            now.after_ms(REMEMBER_MS)
        };
        self.arm(conversation, due);
    }

    /// Asks for what has moved, where it is time.
    pub(super) fn advance(&mut self, now: Time, outbox: &mut Outbox) {
        while let Some((_, conversation)) = self.timers.first().filter(|(at, _)| *at <= now).copied() {
            let Some(group) = self.groups.get_mut(&conversation) else { return };
            let moved = join(group.delivered, group.read).filter(|_| group.asking.is_none());
            let Some((after_seq, up_to_seq)) = moved else {
                self.timers.pop_first();
                if group.asking.is_none() {
                    self.groups.remove(&conversation);
                } else {
                    self.arm(conversation, now.after_ms(REMEMBER_MS));
                }
                continue;
            };
            let query = Query::Senders { conversation, after_seq, up_to_seq, except: EVERYBODY };
            if outbox.ask(Asked::Senders(conversation, EVERYBODY), query).is_ok() {
                (group.asking, group.told_at) = (Some(Question::Senders), Some(now));
                (group.delivered, group.read) = (None, None);
                self.arm(conversation, now.after_ms(REMEMBER_MS));
            } else {
                // Too many questions are open: what moved goes on being gathered.
                self.arm(conversation, now.after_ms(TELL_MS));
            }
        }
    }

    /// The store told whose messages the watermarks passed: those who are here are counted for.
    pub(super) fn senders(
        &mut self,
        now: Time,
        conversation: ConversationId,
        senders: Option<Vec<(UserId, Seq, MessageId)>>,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        let Some(group) = self.groups.get_mut(&conversation) else { return };
        if !matches!(group.asking.take(), Some(Question::Senders)) {
            return;
        }
        let mut senders = senders.unwrap_or_else(|| {
            outbox.meter.add(Metric::WatermarksDropped, 1);
            Vec::new()
        });
        senders.retain(|(user, ..)| {
            let mut is_heard = false;
            cluster.each_way(*user, registry, outbox, |_| is_heard = true);
            is_heard
        });
        // The latest messages are those that somebody looks at.
        senders.sort_unstable_by_key(|(user, seq, _)| (std::cmp::Reverse(*seq), *user));
        senders.truncate(COUNTS_MAX);
        if !senders.is_empty() {
            let asked = senders.iter().map(|(user, seq, _)| (*user, *seq)).collect();
            let query = Query::Counts { conversation, senders: asked };
            if outbox.ask(Asked::Counts(conversation), query).is_ok() {
                group.asking = Some(Question::Counts(senders));
                return;
            }
            outbox.meter.add(Metric::WatermarksDropped, 1);
        }
        self.ask_again(now, conversation);
    }

    /// The store counted.
    pub(super) fn counted(
        &mut self,
        now: Time,
        conversation: ConversationId,
        counts: Option<&[Counts]>,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        let Some(group) = self.groups.get_mut(&conversation) else { return };
        let Some(Question::Counts(senders)) = group.asking.take() else { return };
        match counts {
            Some(counts) => tell(conversation, group, &senders, counts, (registry, cluster), outbox),
            None => outbox.meter.add(Metric::WatermarksDropped, 1),
        }
        if group.told.len() > TOLD_MAX {
            group.told.retain(|user, _| senders.iter().any(|(sender, ..)| sender == user));
        }
        self.ask_again(now, conversation);
    }

    /// When [`Large::advance`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What moved meanwhile is asked about when its second is over.
    fn ask_again(&mut self, now: Time, conversation: ConversationId) {
        let Some(group) = self.groups.get(&conversation) else { return };
        if group.delivered.is_some() || group.read.is_some() {
            let due = group.told_at.map_or(now, |told_at| told_at.after_ms(TELL_MS));
            self.arm(conversation, due);
        }
    }

    fn arm(&mut self, conversation: ConversationId, at: Time) {
        let Some(group) = self.groups.get_mut(&conversation) else { return };
        self.timers.remove(&(group.timer, conversation));
        group.timer = at;
        self.timers.insert((at, conversation));
    }
}

fn tell(
    conversation: ConversationId,
    group: &mut Group,
    senders: &[(UserId, Seq, MessageId)],
    counts: &[Counts],
    (registry, cluster): (&Registry, &Cluster),
    outbox: &mut Outbox,
) {
    let mut lanes: BTreeMap<(LaneId, bool), Vec<Concerned>> = BTreeMap::new();
    for ((user, seq, message), counts) in senders.iter().zip(counts) {
        let Counts { delivered_count, read_count, .. } = *counts;
        let (told_seq, told_delivered, told_read) = group.told.get(user).copied().unwrap_or_default();
        let says_more =
            |count: u64, told: u64| count > 0 && (*seq > told_seq || (*seq == told_seq && count > told));
        for (read, count, told) in [(false, delivered_count, told_delivered), (true, read_count, told_read)] {
            if !says_more(count, told) {
                continue;
            }
            let concerned = Concerned { user: *user, seq: *seq, message: *message, count };
            cluster.each_way(*user, registry, outbox, |lane| {
                lanes.entry((lane, read)).or_default().push(concerned);
            });
        }
        let (delivered, read) = if *seq == told_seq {
            (delivered_count.max(told_delivered), read_count.max(told_read))
        } else {
            (delivered_count, read_count)
        };
        if *seq >= told_seq {
            group.told.insert(*user, (*seq, delivered, read));
        }
    }
    for ((lane, read), senders) in lanes {
        let at_ms = group.at.0;
        let watermark = Watermark { conversation, reader: EVERYBODY, read, at_ms, named: false, senders };
        outbox.send(lane, &watermark);
        outbox.meter.add(Metric::WatermarksCounted, 1);
    }
}
