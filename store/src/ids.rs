//! Message ids: 41 bits of milliseconds, 10 of incarnation, 12 of counter.
//!
//! # Invariants
//! - An id is larger than every id this generator gave before, and than the one it is to follow: inside a conversation
//!   ids rise with seq, also when the clock steps back, stands still or was never set (F15, G16).
//! - No id is given twice: commit lanes of one incarnation count in different residue classes of the counter, two
//!   incarnations alive together differ in their 10 bits, and a later one with the same 10 bits begins above the
//!   ceiling that the earlier one stored before it went near it.

use carillon_protocol::ids::{MESSAGE_EPOCH_MS, MESSAGE_ID_LOW_BITS, MessageId};
use carillon_protocol::time::WallMs;

use crate::verb::Incarnation;

/// Bits of the counter.
const COUNTER_BITS: u32 = 12;
/// How many counter values there are.
const COUNTERS_COUNT: u64 = 1 << COUNTER_BITS;
/// How many different node parts there are.
const NODES_COUNT: u64 = 1 << (MESSAGE_ID_LOW_BITS - COUNTER_BITS);
/// The last millisecond that 41 bits can hold: in the year 2093.
const MS_MAX: u64 = (1 << 41) - 1;
/// How far ahead the stored ceiling is moved when it is met: one more row every ten seconds. After 1,024 starts within
/// that time, ids run ahead of the clock by as much.
pub const CEILING_AHEAD_MS: u64 = 10_000;
/// The most commit lanes that can share a node's ids: each keeps 16 ids a millisecond.
pub const LANES_MAX: u16 = 256;

const _: () = assert!(41 + MESSAGE_ID_LOW_BITS == 63, "an id fits in 1 … 2^63 − 1");
const _: () = assert!(COUNTERS_COUNT.is_multiple_of(LANES_MAX as u64));

/// The node part of an incarnation's ids.
pub(crate) fn node_of(incarnation: Incarnation) -> u16 {
    (incarnation.0 % NODES_COUNT) as u16
}

/// The generator of one commit lane of one incarnation.
#[derive(Clone, Debug)]
pub struct MessageIds {
    node: u16,
    lane: u16,
    /// The counter goes up in steps of this, from `lane`.
    stride: u64,
    last: MessageId,
    /// The time below which ids may be given without storing anything: durable.
    ceiling_ms: u64,
    /// The ceiling that the transaction being built stores, if it does.
    ceiling_pending_ms: Option<u64>,
}

impl MessageIds {
    /// The generator for `lane` of `lanes_count`. `ceiling_ms` is what [`claim`](crate::ops::claim) found: nothing
    /// below it is given.
    ///
    /// # Panics
    /// When `lane` is not one of at most [`LANES_MAX`].
    #[must_use]
    pub fn new(incarnation: Incarnation, ceiling_ms: u64, lane: u16, lanes_count: u16) -> MessageIds {
        assert!(lane < lanes_count && lanes_count <= LANES_MAX, "lane {lane} of {lanes_count}");
        MessageIds {
            node: node_of(incarnation),
            lane,
            stride: u64::from(lanes_count),
            last: MessageId(ceiling_ms.min(MS_MAX) << MESSAGE_ID_LOW_BITS),
            ceiling_ms,
            ceiling_pending_ms: None,
        }
    }

    /// An id above every earlier one and above `after`; its time is `now`'s where that is possible. `None` when the 41
    /// bits are used up.
    ///
    /// A clock beyond the year 2093 is not believed.
    pub fn next(&mut self, now: WallMs, after: MessageId) -> Option<MessageId> {
        let floor = self.last.max(after);
        let floor_ms = floor.0 >> MESSAGE_ID_LOW_BITS;
        let now_ms = now.0.saturating_sub(MESSAGE_EPOCH_MS);
        let id = if now_ms > floor_ms && now_ms <= MS_MAX {
            self.compose(now_ms, u64::from(self.lane))
        } else {
            self.above(floor)?
        };
        self.last = id;
        Some(id)
    }

    /// The ceiling to store with what is being written, when the last id came too near the stored one.
    pub(crate) fn ceiling_to_store(&mut self) -> Option<u64> {
        let last_ms = self.last.0 >> MESSAGE_ID_LOW_BITS;
        if last_ms < self.ceiling_ms {
            return None;
        }
        self.ceiling_pending_ms = Some(last_ms + CEILING_AHEAD_MS);
        self.ceiling_pending_ms
    }

    /// The transaction is definitely committed: what it stored counts.
    pub(crate) fn committed(&mut self) {
        if let Some(ceiling_ms) = self.ceiling_pending_ms.take() {
            self.ceiling_ms = self.ceiling_ms.max(ceiling_ms);
        }
    }

    /// A new attempt begins: what the last one would have stored does not count.
    pub(crate) fn begin(&mut self) {
        self.ceiling_pending_ms = None;
    }

    pub(crate) fn node(&self) -> u16 {
        self.node
    }

    pub(crate) fn lane(&self) -> u16 {
        self.lane
    }

    /// The smallest id of this lane above `floor`.
    fn above(&self, floor: MessageId) -> Option<MessageId> {
        let floor_ms = floor.0 >> MESSAGE_ID_LOW_BITS;
        let floor_node = (floor.0 >> COUNTER_BITS) % NODES_COUNT;
        let floor_counter = floor.0 % COUNTERS_COUNT;
        let lane = u64::from(self.lane);
        let counter = match floor_node.cmp(&u64::from(self.node)) {
            std::cmp::Ordering::Less => Some(lane),
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal if floor_counter < lane => Some(lane),
            std::cmp::Ordering::Equal => {
                Some(lane + ((floor_counter - lane) / self.stride + 1) * self.stride)
                    .filter(|counter| *counter < COUNTERS_COUNT)
            }
        };
        match counter {
            Some(counter) => Some(self.compose(floor_ms, counter)),
            None if floor_ms < MS_MAX => Some(self.compose(floor_ms + 1, lane)),
            None => None,
        }
    }

    fn compose(&self, ms: u64, counter: u64) -> MessageId {
        MessageId(ms << MESSAGE_ID_LOW_BITS | u64::from(self.node) << COUNTER_BITS | counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn wall(ms: u64) -> WallMs {
        WallMs(MESSAGE_EPOCH_MS + ms)
    }

    #[test]
    fn ids_rise_whatever_the_clock_does() {
        let mut ids = MessageIds::new(Incarnation(5), 0, 0, 1);
        let clock =
            [wall(1_000), wall(1_000), wall(10), WallMs(0), WallMs(u64::MAX), wall(1_001), wall(MS_MAX + 9)];
        let mut last = MessageId(0);
        for now in clock {
            let id = ids.next(now, MessageId(0)).unwrap();
            assert!(id > last && id.is_valid(), "{now:?}");
            last = id;
        }
        assert_eq!(last.created_at(), wall(1_001), "a clock that cannot be believed moves nothing");
    }

    #[test]
    fn an_id_follows_the_last_of_its_conversation() {
        // Heads written by other incarnations, smaller and larger than ours, at the same millisecond and ahead of it.
        let now = wall(500);
        for node in [0_u64, 6, 7, 8, 1023] {
            for counter in [0, 1, 2, 4_094, 4_095] {
                for ms in [499, 500, 501, 90_000] {
                    let after = MessageId(ms << MESSAGE_ID_LOW_BITS | node << COUNTER_BITS | counter);
                    let mut ids = MessageIds::new(Incarnation(7), 0, 1, 16);
                    let id = ids.next(now, after).unwrap();
                    assert!(id > after, "{after:?} {id:?}");
                    assert_eq!(id.0 % 16, 1);
                    assert_eq!((id.0 >> COUNTER_BITS) % NODES_COUNT, 7);
                    assert!(
                        id.0 >> MESSAGE_ID_LOW_BITS <= ms.max(500) + 1,
                        "not further ahead than it has to be"
                    );
                }
            }
        }
    }

    /// DM3: two routers alive together, on clocks that show the same and then both step back an hour: no id is given
    /// twice, and what either makes later sorts later.
    #[test]
    fn dm3_two_routers_with_equal_clocks_never_give_one_id() {
        const LANES: u16 = 4;
        let mut seen = BTreeSet::new();
        let mut routers = [4, 5].map(|incarnation| {
            [0, 1, 2, 3].map(|lane| MessageIds::new(Incarnation(incarnation), 0, lane, LANES))
        });
        let mut lasts = [[MessageId(0); LANES as usize]; 2];
        for now in [wall(7_200_000), wall(7_200_001), wall(3_600_001), wall(3_600_002), wall(7_200_002)] {
            for _ in 0..2_000 {
                for (router, lasts) in routers.iter_mut().zip(&mut lasts) {
                    for (lane, last) in router.iter_mut().zip(lasts) {
                        let id = lane.next(now, MessageId(0)).unwrap();
                        assert!(seen.insert(id), "{id:?} was given before");
                        assert!(id > *last, "{id:?} after {last:?}");
                        *last = id;
                    }
                }
            }
        }
        assert_eq!(seen.len(), 5 * 2_000 * 2 * usize::from(LANES));
    }

    #[test]
    fn lanes_and_restarts_never_meet() {
        let mut seen = BTreeSet::new();
        let mut ceiling_ms = 0;
        // The same node bits again and again, on a clock that stands still.
        for life in 0..3 {
            for lane in 0..4 {
                let mut ids = MessageIds::new(Incarnation(3 + life * 1_024), ceiling_ms, lane, 4);
                for _ in 0..3_000 {
                    assert!(seen.insert(ids.next(wall(100), MessageId(0)).unwrap()));
                }
                ids.ceiling_to_store().unwrap();
                ids.committed();
                if lane == 3 {
                    ceiling_ms = ids.ceiling_ms;
                }
            }
        }
    }

    #[test]
    fn a_ceiling_counts_once_it_is_durable() {
        let mut ids = MessageIds::new(Incarnation(1), 0, 0, 1);
        ids.next(wall(100), MessageId(0)).unwrap();
        assert_eq!(ids.ceiling_to_store(), Some(100 + CEILING_AHEAD_MS));
        ids.begin();
        assert_eq!(ids.ceiling_to_store(), Some(100 + CEILING_AHEAD_MS), "the attempt did not commit");
        ids.committed();
        assert_eq!(ids.ceiling_to_store(), None);
        ids.next(wall(100 + CEILING_AHEAD_MS), MessageId(0)).unwrap();
        assert!(ids.ceiling_to_store().is_some(), "an id at the ceiling needs a new one");
    }

    #[test]
    fn the_last_id_is_followed_by_none() {
        let mut ids = MessageIds::new(Incarnation(1023), 0, 0, 1);
        assert_eq!(ids.next(wall(1), MessageId(u64::MAX >> 1)), None);
        assert!(ids.next(wall(1), MessageId(0)).is_some(), "the others go on");
    }
}
