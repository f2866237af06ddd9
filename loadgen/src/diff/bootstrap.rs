//! How sure a ratio is, by drawing again from what was measured.
//!
//! # Invariants
//! - Pure: chance is handed in.

use carillon_node::prng::Prng;

/// Draws: enough that the ends of the interval do not move in the second digit.
const DRAWS: usize = 1_000;
/// Of all draws, those within the interval.
const CONFIDENCE: f64 = 0.95;

/// An interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Its low end.
    pub low: f64,
    /// Its high end.
    pub high: f64,
}

impl Interval {
    fn of(mut draws: Vec<f64>) -> Option<Interval> {
        draws.retain(|draw| draw.is_finite());
        draws.sort_by(f64::total_cmp);
        let last = draws.len().checked_sub(1)?;
        let place = |share: f64| draws.get((last as f64 * share).round() as usize).copied();
        Some(Interval { low: place((1.0 - CONFIDENCE) / 2.0)?, high: place((1.0 + CONFIDENCE) / 2.0)? })
    }
}

/// The value in the middle; NaN of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let (_, low, above) = values.select_nth_unstable_by(last / 2, f64::total_cmp);
    let low = *low;
    // Of an even number the two in the middle count.
    let high = if last % 2 == 0 { low } else { above.iter().copied().fold(f64::INFINITY, f64::min) };
    f64::midpoint(low, high)
}

/// The ratio of medians of two courses of time. Whole blocks of neighbours are drawn, a block as long as the cube root of
/// the course: what happens in one second is not independent of the second before.
#[must_use]
pub fn of_courses(before: &[f64], after: &[f64], prng: &mut Prng) -> Option<Interval> {
    let draws = (0..DRAWS).map(|_| median(&blocks(after, prng)) / median(&blocks(before, prng)));
    Interval::of(draws.collect())
}

fn blocks(values: &[f64], prng: &mut Prng) -> Vec<f64> {
    let length = (values.len() as f64).cbrt().ceil().max(1.0) as usize;
    let mut drawn = Vec::with_capacity(values.len() + length);
    while drawn.len() < values.len() {
        let first = prng.index(values.len());
        // In a circle, so that the ends are drawn as often as the middle.
        drawn.extend(values.iter().cycle().skip(first).take(length));
    }
    drawn.truncate(values.len());
    drawn
}

/// The median of ratios of pairs that were measured next to each other.
#[must_use]
pub fn of_pairs(ratios: &[f64], prng: &mut Prng) -> Option<Interval> {
    Interval::of((0..DRAWS).map(|_| median(&singles(ratios, prng))).collect())
}

/// The ratio of medians of two sets of runs.
#[must_use]
pub fn of_sets(before: &[f64], after: &[f64], prng: &mut Prng) -> Option<Interval> {
    let draws = (0..DRAWS).map(|_| median(&singles(after, prng)) / median(&singles(before, prng)));
    Interval::of(draws.collect())
}

fn singles(values: &[f64], prng: &mut Prng) -> Vec<f64> {
    (0..values.len()).map(|_| values[prng.index(values.len())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(center: f64, count: usize, seed: u64) -> Vec<f64> {
        let mut prng = Prng::new(seed);
        (0..count).map(|_| center * (0.9 + 0.2 * prng.unit())).collect()
    }

    #[test]
    fn the_interval_holds_the_truth_and_narrows_with_the_length() {
        let mut held = 0;
        for seed in 0..20 {
            let (before, after) = (noisy(10.0, 30, 2 * seed), noisy(12.0, 30, 2 * seed + 1));
            let found = of_courses(&before, &after, &mut Prng::new(seed)).unwrap();
            held += usize::from(found.low <= 1.2 && 1.2 <= found.high);
        }
        assert!((17..=20).contains(&held), "{held} of 20");
        let width = |count| {
            let found =
                of_courses(&noisy(10.0, count, 1), &noisy(12.0, count, 2), &mut Prng::new(3)).unwrap();
            found.high - found.low
        };
        assert!(width(300) < 0.6 * width(30));
    }

    #[test]
    fn neighbours_that_move_together_widen_it() {
        // The same values, alone and in runs of eight.
        let alone: Vec<f64> = (0..240).map(|at| if at % 2 == 0 { 10.0 } else { 12.0 }).collect();
        let together: Vec<f64> = (0..240).map(|at| if at / 8 % 2 == 0 { 10.0 } else { 12.0 }).collect();
        let mean_width = |values: &[f64]| {
            let mut prng = Prng::new(1);
            let means: Vec<f64> = (0..500)
                .map(|_| {
                    let drawn = blocks(values, &mut prng);
                    drawn.iter().sum::<f64>() / drawn.len() as f64
                })
                .collect();
            let found = Interval::of(means).unwrap();
            found.high - found.low
        };
        assert!(mean_width(&together) > 1.5 * mean_width(&alone));
    }

    #[test]
    fn pairs_and_sets() {
        let pairs = of_pairs(&[1.1, 1.2, 1.15, 1.12, 1.18], &mut Prng::new(1)).unwrap();
        assert!(pairs.low >= 1.1 && pairs.high <= 1.2);
        let sets = of_sets(&[1.0, 1.1, 0.9], &[2.0, 2.1, 1.9], &mut Prng::new(1)).unwrap();
        assert!(sets.low > 1.7 && sets.high < 2.4);
        assert_eq!(of_sets(&[0.0], &[0.0], &mut Prng::new(1)), None);
        assert!(median(&[]).is_nan() && median(&[3.0, 1.0]) == 2.0);
        assert_eq!((median(&[5.0]), median(&[4.0, 1.0, 3.0, 9.0, 2.0])), (5.0, 3.0));
    }
}
