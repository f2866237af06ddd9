//! When messages are meant to leave, decided before anybody knows how the server does: an open loop. A server that
//! stalls does not slow the schedule down, so its stall is in the latencies (no coordinated omission).
//!
//! # Invariants
//! - Pure: a function of rate, arrivals and seed. Intended times never decrease.
//! - The schedules of several threads together have the asked rate.

use carillon_node::prng::Prng;

/// How the gaps between messages are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Exponential gaps: what many independent people do, bursts included.
    Poisson,
    /// Equal gaps.
    Uniform,
}

/// How the rate goes over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Messages a second in step 0.
    pub start_per_s: f64,
    /// Each step's rate is this times the one before; 1 for a flat rate.
    pub factor: f64,
    /// How long a step is; `u64::MAX` for a flat rate.
    pub step_ns: u64,
}

/// A ramp ends after this many steps, saturated or not: at the smallest factor, 1.01, that is still twice the start.
pub const STEPS_MAX: usize = 70;

impl Rate {
    /// The same rate throughout.
    #[must_use]
    pub const fn flat(per_s: f64) -> Rate {
        Rate { start_per_s: per_s, factor: 1.0, step_ns: u64::MAX }
    }

    /// The step at a time since the start.
    #[must_use]
    pub fn step(&self, elapsed_ns: u64) -> usize {
        usize::try_from(elapsed_ns / self.step_ns).unwrap_or(usize::MAX).min(STEPS_MAX - 1)
    }

    /// Messages a second in a step.
    #[must_use]
    pub fn per_s(&self, step: usize) -> f64 {
        self.start_per_s * self.factor.powi(i32::try_from(step.min(STEPS_MAX)).unwrap_or(i32::MAX))
    }
}

/// One thread's share of the schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: Rate,
    arrivals: Arrivals,
    share: f64,
    prng: Prng,
    next_ns: f64,
}

impl Schedule {
    /// The schedule of thread `index` of `count`.
    #[must_use]
    pub fn new(rate: Rate, arrivals: Arrivals, index: usize, count: usize, mut prng: Prng) -> Schedule {
        let share = 1.0 / count.max(1) as f64;
        let first_s = match arrivals {
            Arrivals::Uniform => (index + 1) as f64 / rate.start_per_s,
            Arrivals::Poisson => exponential(&mut prng) / (rate.start_per_s * share),
        };
        Schedule { rate, arrivals, share, prng, next_ns: first_s * 1e9 }
    }

    /// When the next message is meant to leave, in nanoseconds since the start.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        // A float too large, or infinite at a rate of 0, becomes the far future.
        self.next_ns as u64
    }

    /// Goes on to the message after.
    pub fn advance(&mut self) {
        let per_s = self.rate.per_s(self.rate.step(self.next_ns())) * self.share;
        let gap_s = match self.arrivals {
            Arrivals::Uniform => 1.0 / per_s,
            Arrivals::Poisson => exponential(&mut self.prng) / per_s,
        };
        self.next_ns += gap_s * 1e9;
    }
}

/// An exponentially distributed number with mean 1.
fn exponential(prng: &mut Prng) -> f64 {
    -(1.0 - prng.unit()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(rate: Rate, arrivals: Arrivals, threads: usize, seed: u64, until_ns: u64) -> Vec<u64> {
        let mut root = Prng::new(seed);
        let mut all = Vec::new();
        for index in 0..threads {
            let mut schedule = Schedule::new(rate, arrivals, index, threads, root.fork());
            let mut last_ns = 0;
            while schedule.next_ns() < until_ns {
                assert!(schedule.next_ns() >= last_ns, "intended times never decrease");
                last_ns = schedule.next_ns();
                all.push(last_ns);
                schedule.advance();
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn threads_together_keep_the_rate() {
        let ten_s = 10_000_000_000;
        for threads in [1, 2, 3] {
            let uniform = times(Rate::flat(1_000.0), Arrivals::Uniform, threads, 1, ten_s);
            assert!((9_998..=10_000).contains(&uniform.len()), "{}", uniform.len());
            assert!(uniform.windows(2).all(|pair| (999_000..=1_001_000).contains(&(pair[1] - pair[0]))));
            let poisson = times(Rate::flat(1_000.0), Arrivals::Poisson, threads, 1, ten_s);
            assert!((9_500..=10_500).contains(&poisson.len()), "{}", poisson.len());
            // Half of the gaps of a Poisson process are shorter than ln 2 of the mean.
            let short = poisson.windows(2).filter(|pair| pair[1] - pair[0] < 693_147).count();
            assert!((4_500..=5_500).contains(&short), "{short}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let second = 1_000_000_000;
        let drawn = |seed| times(Rate::flat(500.0), Arrivals::Poisson, 2, seed, second);
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn a_ramp_rises_by_its_factor() {
        let rate = Rate { start_per_s: 1_000.0, factor: 2.0, step_ns: 1_000_000_000 };
        let all = times(rate, Arrivals::Uniform, 2, 1, 3_000_000_000);
        for (step, expected) in [(0, 1_000), (1, 2_000), (2, 4_000)] {
            let sent = all.iter().filter(|&&at_ns| rate.step(at_ns) == step).count();
            assert!(sent.abs_diff(expected) <= 3, "{step}: {sent}");
        }
        assert_eq!(Rate::flat(5.0).step(u64::MAX - 1), 0);
        assert_eq!(Rate::flat(5.0).per_s(0), 5.0);
    }
}
