//! How much is too much: rates as data. Time is handed in, in nanoseconds of the caller's own clock; nothing runs while
//! nobody comes.
//!
//! # Invariants
//! - What is refused is not counted: who waits as long as told gets through.
//! - A key that rests is forgotten sooner or later, which changes nothing for it.

use std::collections::BTreeMap;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// Keys whose rate is remembered before those at rest are forgotten. When all of them are busy the map grows by what
/// is busy, and the next clearing waits until it has doubled: clearing never costs more than counting.
pub const KEYS_MAX: usize = 65_536;

/// A rate and a burst, as the generic cell rate algorithm (ITU-T I.371) sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Rate {
    /// `per_s` a second, `burst` at once after silence. 0 a second: no limit.
    #[must_use]
    pub fn new(per_s: u64, burst: u64) -> Option<Rate> {
        // Above one a nanosecond a rate limits nothing that a clock of nanoseconds could see.
        let interval_ns = SECOND_NS.checked_div(per_s)?.max(1);
        Some(Rate { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst.max(1) - 1) })
    }

    /// Counts one more on `due` (when the next would be due if all came evenly; 0 at first), unless that is too much.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(&self, now_ns: u64, due: &mut u64) -> Result<(), Duration> {
        if let Some(wait) = self.wait(now_ns, *due) {
            return Err(wait);
        }
        *due = (*due).max(now_ns).saturating_add(self.interval_ns);
        Ok(())
    }

    fn wait(&self, now_ns: u64, due: u64) -> Option<Duration> {
        let ahead_ns = due.saturating_sub(now_ns);
        (ahead_ns > self.tolerance_ns).then(|| Duration::from_nanos(ahead_ns - self.tolerance_ns))
    }
}

/// Where each key stands with one [`Rate`].
#[derive(Debug)]
pub struct Rates<K> {
    rate: Option<Rate>,
    /// When each key's next one would be due if they came evenly. In the past: at rest.
    due: BTreeMap<K, u64>,
    clear_at: usize,
}

impl<K: Ord> Rates<K> {
    /// Nobody has come yet. No rate: everybody may.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Rates<K> {
        Rates { rate, due: BTreeMap::new(), clear_at: KEYS_MAX }
    }

    /// Whether there is a rate at all: without one a key need not be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.rate.is_some()
    }

    /// How long `key` has to wait; `None`: it may go now. Nothing is counted.
    #[must_use]
    pub fn wait(&self, now_ns: u64, key: &K) -> Option<Duration> {
        self.rate?.wait(now_ns, self.due.get(key).copied()?)
    }

    /// Whether `key` may go now; counts it when it may.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(&mut self, now_ns: u64, key: K) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        if let Some(due) = self.due.get_mut(&key) {
            return rate.admit(now_ns, due);
        }
        if self.due.len() >= self.clear_at {
            self.due.retain(|_, due| *due > now_ns);
            self.clear_at = KEYS_MAX.max(2 * self.due.len());
        }
        let mut due = 0;
        rate.admit(now_ns, &mut due)?;
        self.due.insert(key, due);
        Ok(())
    }
}

/// A wait as clients are told it: whole milliseconds, never too short.
#[must_use]
pub fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RL1, FU4b: no more than burst and rate gets through, and who waits as told is not refused again.
    #[test]
    fn a_burst_then_the_rate() {
        let mut rates = Rates::new(Rate::new(20, 64));
        let start = 5 * SECOND_NS;
        assert_eq!((0..100).filter(|_| rates.admit(start, 1).is_ok()).count(), 64);
        assert_eq!(rates.wait(start, &1), Some(Duration::from_millis(50)));
        assert_eq!(rates.admit(start, 1), Err(Duration::from_millis(50)));
        assert_eq!((rates.wait(start, &2), rates.admit(start, 2)), (None, Ok(())), "another user");
        let later = start + SECOND_NS;
        assert_eq!((0..100).filter(|_| rates.admit(later, 1).is_ok()).count(), 20);
        let wait = rates.admit(later, 1).unwrap_err();
        assert_eq!(rates.admit(later + u64::try_from(wait.as_nanos()).unwrap(), 1), Ok(()));
        assert!(Rate::new(0, 1).is_none(), "0 turns it off");
        assert_eq!(wait_ms(Duration::from_nanos(1)), 1);
    }

    /// G13: what is remembered is bounded by what is busy.
    #[test]
    fn who_rests_is_forgotten() {
        let mut rates = Rates::new(Rate::new(1, 1));
        for key in 0..4 * KEYS_MAX as u64 {
            // Each rests when the next thousand has come.
            assert!(rates.admit(key * 1_000_000, key).is_ok());
        }
        assert!(rates.due.len() <= KEYS_MAX);
    }
}
