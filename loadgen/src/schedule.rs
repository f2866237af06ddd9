//! When messages are meant to leave, decided before anybody knows how the server does: an open loop. A server that
//! stalls does not slow the schedule down, so its stall is in the latencies (no coordinated omission).
//!
//! # Invariants
//! - Pure: a function of rate, arrivals and seed. Intended times never decrease.
//! - The schedules of several threads together have the asked rate.

use carillon_node::prng::Prng;

/// How the gaps between messages are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Exponential gaps: what many independent people do, bursts included.
    Poisson,
    /// Equal gaps.
    Uniform,
}

/// A stage: the rate goes evenly from one to the other; a pause is a stage of no rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Messages a second at its start.
    pub from_per_s: f64,
    /// And at its end.
    pub to_per_s: f64,
    /// How long it is.
    pub length_ns: u64,
}

impl Stage {
    /// The same rate throughout.
    #[must_use]
    pub const fn constant(per_s: f64, length_ns: u64) -> Stage {
        Stage { from_per_s: per_s, to_per_s: per_s, length_ns }
    }

    /// Its rate on average.
    #[must_use]
    pub fn mean_per_s(&self) -> f64 {
        f64::midpoint(self.from_per_s, self.to_per_s)
    }

    fn seconds(&self) -> f64 {
        self.length_ns as f64 / 1e9
    }

    /// Messages from its start until so many seconds later.
    fn messages(&self, seconds: f64) -> f64 {
        let rise = (self.to_per_s - self.from_per_s) / self.seconds().max(f64::MIN_POSITIVE);
        seconds * (self.from_per_s + rise * seconds / 2.0)
    }

    /// Seconds from its start until so many messages are due: where [`Stage::messages`] reaches them.
    fn reached_s(&self, messages: f64) -> f64 {
        let rise = (self.to_per_s - self.from_per_s) / self.seconds().max(f64::MIN_POSITIVE);
        let root = (self.from_per_s * self.from_per_s + 2.0 * rise * messages).max(0.0).sqrt();
        // The form of the quadratic's solution that also holds for a rise of 0.
        (2.0 * messages / (self.from_per_s + root)).min(self.seconds())
    }
}

/// How the rate goes over time: a warm-up at the rate of the first stage, then stage after stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// The first is the warm-up.
    stages: Vec<Stage>,
    /// Where each ends, in nanoseconds since the start.
    ends_ns: Vec<u64>,
}

/// A ramp ends after this many steps, saturated or not: at the smallest factor, 1.01, that is still twice the start.
pub const STEPS_MAX: usize = 70;

impl Rates {
    /// These stages, after a warm-up that may take no time.
    #[must_use]
    pub fn new(warmup_ns: u64, stages: &[Stage]) -> Rates {
        let start_per_s = stages.first().map_or(0.0, |stage| stage.from_per_s);
        let stages: Vec<Stage> =
            std::iter::once(Stage::constant(start_per_s, warmup_ns)).chain(stages.iter().copied()).collect();
        let mut end_ns = 0u64;
        let ends_ns = stages.iter().map(|stage| {
            end_ns = end_ns.saturating_add(stage.length_ns);
            end_ns
        });
        Rates { ends_ns: ends_ns.collect(), stages }
    }

    /// Steps that each have a rate this many times the one before.
    #[must_use]
    pub fn ramp(start_per_s: f64, factor: f64, step_ns: u64) -> Rates {
        let step = |step: usize| {
            Stage::constant(start_per_s * factor.powi(i32::try_from(step).unwrap_or(i32::MAX)), step_ns)
        };
        Rates::new(0, &(0..STEPS_MAX).map(step).collect::<Vec<_>>())
    }

    /// The stages behind the warm-up.
    #[must_use]
    pub fn steps(&self) -> &[Stage] {
        self.stages.get(1..).unwrap_or_default()
    }

    /// The step at a time since the start; the first also in the warm-up, the last also behind the end.
    #[must_use]
    pub fn step(&self, elapsed_ns: u64) -> usize {
        let ended = self.ends_ns.partition_point(|end_ns| *end_ns <= elapsed_ns);
        ended.saturating_sub(1).min(self.steps().len().saturating_sub(1))
    }

    /// Where a step ends, since the start.
    #[must_use]
    pub fn step_end_ns(&self, step: usize) -> u64 {
        self.ends_ns.get(step + 1).copied().unwrap_or_else(|| self.length_ns())
    }

    /// Where the warm-up ends.
    #[must_use]
    pub fn warmup_ns(&self) -> u64 {
        self.ends_ns.first().copied().unwrap_or(0)
    }

    /// How long everything takes.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.ends_ns.last().copied().unwrap_or(0)
    }

    /// The rate of the first step.
    #[must_use]
    pub fn start_per_s(&self) -> f64 {
        self.steps().first().map_or(0.0, |stage| stage.from_per_s)
    }
}

/// One thread's share of the schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    rates: Rates,
    arrivals: Arrivals,
    /// This thread has one of so many messages.
    threads: f64,
    prng: Prng,
    stage: usize,
    /// Messages of all threads that were due in this stage by the last one of ours.
    passed: f64,
    next_ns: u64,
}

impl Schedule {
    /// The schedule of thread `index` of `count`.
    #[must_use]
    pub fn new(rates: Rates, arrivals: Arrivals, index: usize, count: usize, prng: Prng) -> Schedule {
        let threads = count.max(1) as f64;
        let mut schedule = Schedule { rates, arrivals, threads, prng, stage: 0, passed: 0.0, next_ns: 0 };
        let first = match arrivals {
            Arrivals::Uniform => (index + 1) as f64,
            Arrivals::Poisson => exponential(&mut schedule.prng) * threads,
        };
        schedule.go_on(first);
        schedule
    }

    /// When the next message is meant to leave, in nanoseconds since the start; `u64::MAX` behind the last.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Goes on to the message after.
    pub fn advance(&mut self) {
        let gap = match self.arrivals {
            Arrivals::Uniform => 1.0,
            Arrivals::Poisson => exponential(&mut self.prng),
        };
        self.go_on(gap * self.threads);
    }

    /// To where so many more messages of all threads are due: gaps are drawn in messages and become time by the rate, so
    /// a rate that changes within a gap, down to a pause, is met exactly.
    fn go_on(&mut self, messages: f64) {
        self.passed += messages;
        while let Some(stage) = self.rates.stages.get(self.stage) {
            let all = stage.messages(stage.seconds());
            if self.passed <= all && all > 0.0 {
                let start_ns = self.rates.ends_ns[self.stage] - stage.length_ns;
                let next_ns = start_ns + (stage.reached_s(self.passed) * 1e9) as u64;
                self.next_ns = next_ns.max(self.next_ns);
                return;
            }
            self.passed -= all;
            self.stage += 1;
        }
        self.next_ns = u64::MAX;
    }
}

/// An exponentially distributed number with mean 1.
fn exponential(prng: &mut Prng) -> f64 {
    -(1.0 - prng.unit()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn times(rates: &Rates, arrivals: Arrivals, threads: usize, seed: u64) -> Vec<u64> {
        let mut root = Prng::new(seed);
        let mut all = Vec::new();
        for index in 0..threads {
            let mut schedule = Schedule::new(rates.clone(), arrivals, index, threads, root.fork());
            let mut last_ns = 0;
            while schedule.next_ns() < u64::MAX {
                assert!(schedule.next_ns() >= last_ns, "intended times never decrease");
                last_ns = schedule.next_ns();
                all.push(last_ns);
                schedule.advance();
            }
        }
        all.sort_unstable();
        all
    }

    fn flat(per_s: f64, seconds: u64) -> Rates {
        Rates::new(0, &[Stage::constant(per_s, seconds * SECOND_NS)])
    }

    #[test]
    fn threads_together_keep_the_rate() {
        for threads in [1, 2, 3] {
            let uniform = times(&flat(1_000.0, 10), Arrivals::Uniform, threads, 1);
            assert!((9_998..=10_000).contains(&uniform.len()), "{}", uniform.len());
            assert!(uniform.windows(2).all(|pair| (999_000..=1_001_000).contains(&(pair[1] - pair[0]))));
            let poisson = times(&flat(1_000.0, 10), Arrivals::Poisson, threads, 1);
            assert!((9_500..=10_500).contains(&poisson.len()), "{}", poisson.len());
            // Half of the gaps of a Poisson process are shorter than ln 2 of the mean.
            let short = poisson.windows(2).filter(|pair| pair[1] - pair[0] < 693_147).count();
            assert!((4_500..=5_500).contains(&short), "{short}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let drawn = |seed| times(&flat(500.0, 1), Arrivals::Poisson, 2, seed);
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn a_ramp_rises_by_its_factor() {
        let rates = Rates::ramp(1_000.0, 2.0, SECOND_NS);
        let mut schedule = Schedule::new(rates.clone(), Arrivals::Uniform, 0, 1, Prng::new(1));
        let mut counts = [0u64; 3];
        while schedule.next_ns() < 3 * SECOND_NS {
            counts[rates.step(schedule.next_ns())] += 1;
            schedule.advance();
        }
        for (sent, expected) in counts.into_iter().zip([1_000, 2_000, 4_000]) {
            assert!(sent.abs_diff(expected) <= 2, "{counts:?}");
        }
        assert_eq!(rates.steps().len(), STEPS_MAX);
    }

    /// Up, along, a pause, and down to nothing.
    fn hill() -> Rates {
        let stages = [
            Stage { from_per_s: 0.0, to_per_s: 1_000.0, length_ns: 4 * SECOND_NS },
            Stage::constant(1_000.0, SECOND_NS),
            Stage::constant(0.0, 3 * SECOND_NS),
            Stage { from_per_s: 1_000.0, to_per_s: 0.0, length_ns: 2 * SECOND_NS },
        ];
        Rates::new(0, &stages)
    }

    #[test]
    fn stages_have_as_many_messages_as_is_under_their_line() {
        let rates = hill();
        for (arrivals, slack) in [(Arrivals::Uniform, 2), (Arrivals::Poisson, 150)] {
            let all = times(&rates, arrivals, 2, 1);
            for (step, expected) in [(0, 2_000), (1, 1_000), (2, 0), (3, 1_000)] {
                let sent = all.iter().filter(|&&at_ns| rates.step(at_ns) == step).count();
                assert!(sent.abs_diff(expected) <= if expected == 0 { 1 } else { slack }, "{step}: {sent}");
            }
            // A quarter of a rise's messages is in its first half.
            let early = all.iter().filter(|&&at_ns| at_ns < 2 * SECOND_NS).count();
            assert!(early.abs_diff(500) <= slack, "{early}");
        }
    }

    #[test]
    fn the_warm_up_runs_at_the_first_rate_and_is_no_step() {
        let rates =
            Rates::new(2 * SECOND_NS, &[Stage::constant(100.0, SECOND_NS), Stage::constant(50.0, SECOND_NS)]);
        assert_eq!(times(&rates, Arrivals::Uniform, 1, 1).len(), 350);
        assert_eq!([0, 2, 3, 9].map(|s| rates.step(s * SECOND_NS)), [0, 0, 1, 1]);
        assert_eq!((rates.warmup_ns(), rates.length_ns()), (2 * SECOND_NS, 4 * SECOND_NS));
        assert_eq!([0, 1, 2].map(|step| rates.step_end_ns(step) / SECOND_NS), [3, 4, 4]);
        assert_eq!(Rates::new(0, &[]).step(5), 0);
    }
}
