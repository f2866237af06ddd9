//! How much is too much. The rates themselves are those of every daemon; what is ours is how long somebody may go on
//! above them.

use std::time::Duration;

pub(crate) use carillon_node::rates::{Rate, Rates, wait_ms};
use carillon_protocol::time::Time;

/// How long a pause in something may be for it to count as going on.
const GOING_ON: Duration = Duration::from_secs(1);

/// What a connection did wrong lately. Allocated when it does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    malformed_count: u32,
    malformed_since: Time,
    refused_since: Time,
    refused_last: Option<Time>,
}

impl Faults {
    /// A malformed frame; `true` when it is the `count_max`th within a minute. (The minute begins with the first.)
    #[must_use]
    pub(crate) fn malformed(&mut self, now: Time, count_max: u32) -> bool {
        if now.since(self.malformed_since) > Duration::from_secs(60) {
            (self.malformed_count, self.malformed_since) = (0, now);
        }
        self.malformed_count += 1;
        self.malformed_count >= count_max
    }

    /// Refused by rate; `true` when that has been going on for `grace_ms`. Now and then one gets through even of a
    /// flood, so only a pause in the refusals ends it.
    #[must_use]
    pub(crate) fn refused_by_rate(&mut self, now: Time, grace_ms: u64) -> bool {
        if self.refused_last.is_none_or(|last| now.since(last) > GOING_ON) {
            self.refused_since = now;
        }
        self.refused_last = Some(now);
        now.since(self.refused_since) >= Duration::from_millis(grace_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persistence_is_told_from_accidents() {
        let start = Time(1);
        let mut flood = Faults::default();
        let mut when = (0..).map(|step| start.after_ms(step * 500));
        let closed = when.by_ref().find(|now| flood.refused_by_rate(*now, 10_000)).unwrap();
        assert_eq!(closed.since(start), Duration::from_secs(10));
        let mut accidents = Faults::default();
        assert!((0..100).all(|step| !accidents.refused_by_rate(start.after_ms(step * 1_500), 10_000)));
        let mut malformed = Faults::default();
        assert_eq!((0..16).filter(|_| malformed.malformed(start.after_ms(61_000), 16)).count(), 1);
        let mut slow = Faults::default();
        assert!((0..64).all(|step| !slow.malformed(start.after_ms(61_000 + step * 5_000), 16)));
    }
}
