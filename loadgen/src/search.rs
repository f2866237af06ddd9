//! Where does it saturate? The search behind `loadgen find-limit`: rates are doubled, or halved, until one holds and one
//! does not; then the span between is halved.
//!
//! # Invariants
//! - Pure: told of each probe how it went, it says what to try next.
//! - It ends: after as many probes as it may make, at the latest.

/// From one probe to the next while nothing is known on one side.
const FACTOR: f64 = 2.0;

/// A search.
#[derive(Clone, Debug)]
pub struct Search {
    next_per_s: f64,
    /// The highest rate that held.
    holds_per_s: Option<f64>,
    /// The lowest rate that did not.
    saturates_per_s: Option<f64>,
    /// The ends may lie so far apart: 0.05 is a twentieth.
    precision: f64,
    probes_left: u32,
}

impl Search {
    /// Begins at a rate.
    #[must_use]
    pub fn new(start_per_s: f64, precision: f64, probes_max: u32) -> Search {
        Search {
            next_per_s: start_per_s,
            holds_per_s: None,
            saturates_per_s: None,
            precision,
            probes_left: probes_max,
        }
    }

    /// The rate to try next; `None` once there is nothing more to learn.
    #[must_use]
    pub fn next_per_s(&self) -> Option<f64> {
        let is_found = matches!((self.holds_per_s, self.saturates_per_s), (Some(holds), Some(saturates))
            if saturates <= holds * (1.0 + self.precision));
        (!is_found && self.probes_left > 0).then_some(self.next_per_s)
    }

    /// The probe of the next rate went so.
    pub fn told(&mut self, is_saturated: bool) {
        self.probes_left = self.probes_left.saturating_sub(1);
        if is_saturated {
            self.saturates_per_s = Some(self.next_per_s);
        } else {
            self.holds_per_s = Some(self.next_per_s);
        }
        self.next_per_s = match (self.holds_per_s, self.saturates_per_s) {
            (Some(holds), None) => holds * FACTOR,
            (None, Some(saturates)) => saturates / FACTOR,
            (Some(holds), Some(saturates)) => f64::midpoint(holds, saturates),
            (None, None) => self.next_per_s,
        };
    }

    /// The highest rate that held.
    #[must_use]
    pub fn holds_per_s(&self) -> Option<f64> {
        self.holds_per_s
    }

    /// The lowest rate that did not.
    #[must_use]
    pub fn saturates_per_s(&self) -> Option<f64> {
        self.saturates_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server of this limit; the probes it took.
    fn searched(start_per_s: f64, limit_per_s: f64, probes_max: u32) -> (Search, u32) {
        let (mut search, mut probes) = (Search::new(start_per_s, 0.05, probes_max), 0);
        while let Some(rate_per_s) = search.next_per_s() {
            probes += 1;
            search.told(rate_per_s > limit_per_s);
        }
        (search, probes)
    }

    #[test]
    fn the_limit_is_between_what_holds_and_what_does_not_wherever_it_began() {
        for start_per_s in [1.0, 500.0, 80_000.0, 4_000_000.0] {
            let (search, probes) = searched(start_per_s, 81_000.0, 40);
            let (holds, saturates) = (search.holds_per_s().unwrap(), search.saturates_per_s().unwrap());
            assert!(holds <= 81_000.0 && 81_000.0 < saturates, "{search:?}");
            assert!(saturates <= holds * 1.05 && probes <= 23, "{probes} probes: {search:?}");
        }
    }

    #[test]
    fn it_ends_whatever_it_is_told() {
        let (search, probes) = searched(100.0, f64::INFINITY, 12);
        assert_eq!((probes, search.saturates_per_s()), (12, None));
        let (search, probes) = searched(100.0, 0.0, 12);
        assert_eq!((probes, search.holds_per_s()), (12, None));
        assert_eq!(searched(100.0, 1_000.0, 0).1, 0);
    }
}
