//! The Autobahn test suite against the gateway's loop, which runs an [`echo`] in place of its shards, on each driver.
//!
//! All cases but those of compression, which is never negotiated: 301. Each has to be OK, in what it says as in how it
//! closes; the three for which the suite knows no other answer may be INFORMATIONAL.

mod echo;
mod suite;

use std::collections::BTreeMap;

use echo::Echo;
use suite::{Outcome, Suite};

use super::{DRIVERS, Run, Skipped, Tally};

/// Cases that the suite only tells about: data after a close, and closes with codes above 4999.
const INFORMATIONAL: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];
/// Everything but compression, and how many cases that is.
const LONG: (&[&str], u64) = (&["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"], 301);
/// Without large messages and long series: seconds.
const SHORT: (&[&str], u64) = (&["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"], 247);

/// Plays it.
///
/// # Errors
/// There is no Python 2.7 here, or no suite for it.
pub fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let suite = Suite::find(&run.server)?;
    let (cases, cases_count) = run.pick(SHORT, LONG);
    let mut tally = Tally::default();
    for &driver in run.pick(&DRIVERS[..1], &DRIVERS[..]) {
        let played = match Echo::start(driver) {
            Ok(echo) => suite.play(echo.address, driver, cases, |words| run.progress(|| words.to_owned())),
            // Too few cases then, which says it as it is.
            Err(fatal) => {
                tally.note(format!("{driver}: {fatal}"));
                Ok(BTreeMap::new())
            }
        };
        match played {
            Ok(outcomes) => judge(driver, &outcomes, cases_count, &mut tally),
            Err(why) => tally.broken(format!("{driver}: {why}")),
        }
    }
    Ok(tally)
}

fn judge(driver: &str, outcomes: &BTreeMap<String, Outcome>, cases_count: u64, tally: &mut Tally) {
    tally.count_at_least(&format!("cases on {driver}"), outcomes.len() as u64, cases_count);
    let mut times = BTreeMap::<&str, u64>::new();
    for (case, outcome) in outcomes {
        for word in [&outcome.behavior, &outcome.behavior_close] {
            *times.entry(word).or_default() += 1;
            let is_told_only = word == "INFORMATIONAL" && INFORMATIONAL.contains(&case.as_str());
            if word != "OK" && !is_told_only {
                tally.broken(format!("case {case} on {driver}: {outcome:?}"));
                break;
            }
        }
    }
    // Each case is judged twice: for what was said, and for how it was closed.
    for (word, number) in times {
        tally.count(&format!("judgements {word} on {driver}"), number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(outcomes: &[(&str, &str, &str)]) -> super::super::Verdict {
        let outcome = |behavior: &str, behavior_close: &str| Outcome {
            behavior: behavior.to_owned(),
            behavior_close: behavior_close.to_owned(),
        };
        let outcomes = outcomes.iter().map(|(case, one, other)| ((*case).to_owned(), outcome(one, other)));
        let mut tally = Tally::default();
        judge("uring", &outcomes.collect(), 2, &mut tally);
        tally.verdict()
    }

    /// Anything but OK is a failure, INFORMATIONAL as well where there is another answer, and too few cases are none.
    #[test]
    fn nothing_but_ok_passes() {
        use super::super::Verdict::{Failed, Passed, Vacuous};
        let ok = ("1.1.1", "OK", "OK");
        assert_eq!(verdicts(&[ok, ("7.1.6", "INFORMATIONAL", "INFORMATIONAL")]), Passed);
        assert_eq!(verdicts(&[ok, ("7.1.5", "INFORMATIONAL", "OK")]), Failed);
        assert_eq!(verdicts(&[ok, ("6.4.1", "NON-STRICT", "OK")]), Failed);
        assert_eq!(verdicts(&[ok, ("7.9.1", "OK", "UNCLEAN")]), Failed);
        assert_eq!(verdicts(&[ok]), Vacuous);
    }
}
