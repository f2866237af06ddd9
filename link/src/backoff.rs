//! How long to wait before the next attempt: longer each time, and never the same for everybody.

use std::time::Duration;

/// Delays that double from `floor` to `ceiling`, each drawn between `floor` and the doubled bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    bound: Duration,
    random: u64,
}

impl Backoff {
    /// The first delay lies between `floor` and twice that.
    pub(crate) fn new(floor: Duration, ceiling: Duration, seed: u64) -> Backoff {
        Backoff { floor, ceiling, bound: floor, random: seed }
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        self.bound = (self.bound * 2).min(self.ceiling);
        let room = self.bound.saturating_sub(self.floor);
        // SplitMix64 (Steele, Lea, Flood 2014), of which 32 bits are enough.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.floor + room.mul_f64(f64::from((z >> 32) as u32) / f64::from(u32::MAX))
    }

    /// Things went well: the next delay is short again.
    pub(crate) fn reset(&mut self) {
        self.bound = self.floor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F13: attempts to reconnect are bounded in rate, spread, and start over after success.
    #[test]
    fn f13_delays_grow_to_the_ceiling_and_differ_by_seed() {
        let (floor, ceiling) = (Duration::from_millis(50), Duration::from_secs(1));
        let delays = |seed| {
            let mut backoff = Backoff::new(floor, ceiling, seed);
            (0..100).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert!(delays(1).iter().all(|delay| (floor..=ceiling).contains(delay)));
        assert!(delays(1)[0] <= 2 * floor);
        assert!(delays(1).iter().any(|delay| *delay > ceiling * 9 / 10));
        assert_ne!(delays(1), delays(2));
        let mut backoff = Backoff::new(floor, ceiling, 1);
        for _ in 0..10 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= 2 * floor);
    }
}
