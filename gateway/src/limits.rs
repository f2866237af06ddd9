//! How much is too much: rates as data. Time is handed in; nothing runs while nobody comes.

use std::collections::BTreeMap;
use std::time::Duration;

use carillon_protocol::time::Time;

const SECOND_NS: u64 = 1_000_000_000;

/// Keys whose rate is remembered. At this many those that are at rest are forgotten, which changes nothing for them;
/// when all are busy the map grows by what is busy, and that is bounded by the connections.
const KEYS_MAX: usize = 65_536;

/// A rate and a burst, as the generic cell rate algorithm (ITU-T I.371) sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Rate {
    /// `per_s` a second, `burst` at once. 0 a second: no limit.
    #[must_use]
    pub(crate) fn new(per_s: u64, burst: u64) -> Option<Rate> {
        let interval_ns = SECOND_NS.checked_div(per_s)?;
        Some(Rate { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst.max(1) - 1) })
    }
}

/// Where each key stands with one [`Rate`].
#[derive(Debug)]
pub(crate) struct Rates<K> {
    rate: Option<Rate>,
    /// When each key's next cell would be due if it came evenly. In the past: at rest.
    due: BTreeMap<K, u64>,
}

impl<K: Ord> Rates<K> {
    /// Nobody has come yet. No rate: everybody may.
    #[must_use]
    pub(crate) fn new(rate: Option<Rate>) -> Rates<K> {
        Rates { rate, due: BTreeMap::new() }
    }

    /// Whether `key` may go now; counts it when it may.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn admit(&mut self, now: Time, key: K) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let due = self.due.get(&key).copied().unwrap_or(0).max(now.0);
        let ahead_ns = due - now.0;
        if ahead_ns > rate.tolerance_ns {
            return Err(Duration::from_nanos(ahead_ns - rate.tolerance_ns));
        }
        if self.due.len() >= KEYS_MAX {
            self.due.retain(|_, due| *due > now.0);
        }
        self.due.insert(key, due.saturating_add(rate.interval_ns));
        Ok(())
    }
}

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
    fn a_burst_then_the_rate() {
        let mut rates = Rates::new(Rate::new(20, 64));
        let start = Time(5_000_000_000);
        assert_eq!((0..100).filter(|_| rates.admit(start, 1).is_ok()).count(), 64);
        assert_eq!(rates.admit(start, 1), Err(Duration::from_millis(50)));
        assert_eq!(rates.admit(start, 2), Ok(()), "another user");
        let later = start.after_ms(1_000);
        assert_eq!((0..100).filter(|_| rates.admit(later, 1).is_ok()).count(), 20);
        assert!(Rate::new(0, 1).is_none(), "0 turns it off");
    }

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
