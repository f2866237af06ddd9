//! Figures of runs beside each other: pair by pair, as ratios, with their median and how far they reach.

use std::collections::BTreeMap;

/// What one run came to, by name.
pub type Figures = BTreeMap<&'static str, f64>;

/// A figure of two sides over all pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// The median of the one side.
    pub one: f64,
    /// The median of the other.
    pub other: f64,
    /// Other ÷ one, pair by pair: least, median and most.
    pub ratios: [f64; 3],
}

/// Compares a figure of runs in pairs.
#[must_use]
pub fn compared(name: &str, one: &[Figures], other: &[Figures]) -> Compared {
    let of = |runs: &[Figures]| runs.iter().filter_map(|run| run.get(name)).copied().collect::<Vec<f64>>();
    let (one, other) = (of(one), of(other));
    let ratios: Vec<f64> =
        one.iter().zip(&other).map(|(one, other)| other / one.max(f64::MIN_POSITIVE)).collect();
    let ratios = [0.0, 0.5, 1.0].map(|share| percentile(&ratios, share));
    Compared { one: median(&one), other: median(&other), ratios }
}

/// The value in the middle.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// With the mean of the two in the middle where there is no one value.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    (sorted[place.floor() as usize] + sorted[place.ceil() as usize]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs() {
        let runs = |values: &[f64]| values.iter().map(|value| Figures::from([("figure", *value)])).collect();
        let (one, other): (Vec<_>, Vec<_>) = (runs(&[1.0, 2.0, 4.0]), runs(&[3.0, 2.0, 8.0]));
        let compared = compared("figure", &one, &other);
        assert_eq!(compared, Compared { one: 2.0, other: 3.0, ratios: [1.0, 2.0, 3.0] });
        assert_eq!((median(&[3.0, 1.0, 2.0, 10.0]), median(&[5.0])), (2.5, 5.0));
    }
}
