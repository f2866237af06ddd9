//! Several generators at once, each a worker with its share of one scenario: clients that no other has, with the
//! conversations among them, and of the rate as much as of the clients. All shares together are the scenario, and none knows
//! of another, so they may be on machines of their own.
//!
//! # Invariants
//! - Pure. Shares are whole groups and pairs: what one oracle judges no other generator touches.

use std::fmt;
use std::str::FromStr;

use crate::options::Options;
use crate::schedule::Stage;

/// More are not told apart by anybody.
const WORKERS_MAX: u32 = 1_000;

/// Which of how many: `2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// From 1 on.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl FromStr for Worker {
    type Err = String;

    fn from_str(text: &str) -> Result<Worker, String> {
        let parts =
            text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) && of <= WORKERS_MAX => {
                Ok(Worker { number, of })
            }
            _ => Err(format!("a worker is 1/4, 2/4 and so on, of {WORKERS_MAX} at most")),
        }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.number, self.of)
    }
}

/// Where a worker's clients are in the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which worker's.
    pub worker: Worker,
    /// The first of its clients, among all.
    pub first_client: u32,
    /// All clients of the scenario.
    pub all_clients: u32,
}

/// A scenario's options as they are for one worker.
///
/// # Errors
/// One sentence when it cannot be shared.
pub fn of(worker: Worker, whole: &Options) -> Result<Options, String> {
    if whole.ramp.is_some() {
        return Err("--worker and --ramp: a ramp ends where one generator finds it saturated".to_owned());
    }
    if whole.outputs.report.is_none() {
        return Err("--worker without --report: what each worker found is to be merged".to_owned());
    }
    let Worker { number, of } = worker;
    // Clients that have to stay together, because they share a conversation that cannot be cut.
    let (unit, what) = if whole.uses_groups() {
        (whole.group_size.max(1), "groups")
    } else if whole.idle {
        (1, "clients")
    } else {
        (2, "pairs")
    };
    let units = whole.clients / unit;
    if units < of {
        return Err(format!("{units} {what} cannot be shared by {of} workers: name fewer of them"));
    }
    // The first workers have one more where it does not come out even; what is less than a unit is the last one's.
    let units_before = |workers: u32| workers * (units / of) + workers.min(units % of);
    let first_client = units_before(number - 1) * unit;
    let end = if number == of { whole.clients } else { units_before(number) * unit };
    let clients = end - first_client;
    let share = f64::from(clients) / f64::from(whole.clients);
    let stage = |stage: &Stage| Stage {
        from_per_s: stage.from_per_s * share,
        to_per_s: stage.to_per_s * share,
        ..*stage
    };
    Ok(Options {
        clients,
        users: whole.users.saturating_add(u64::from(first_client)),
        rate: whole.rate * share,
        stages: whole.stages.iter().map(stage).collect(),
        open_rate: (whole.open_rate * share).max(1.0),
        share: Some(Share { worker, first_client, all_clients: whole.clients }),
        ..whole.clone()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::plan;

    fn parsed(line: &str) -> Options {
        let words = "loadgen --report r.json".split(' ').chain(line.split_whitespace());
        Options::try_parse_from(words).unwrap()
    }

    fn shares(line: &str, workers: u32) -> Vec<Options> {
        let whole = parsed(line);
        (1..=workers).map(|number| of(Worker { number, of: workers }, &whole).unwrap()).collect()
    }

    #[test]
    fn all_shares_together_are_the_scenario() {
        for (line, workers) in [
            ("--clients 200 --rate 1000", 4),
            ("--clients 1003 --group-size 20 --mix group=1", 3),
            ("--clients 7 --mix one_to_one=1", 3),
            ("--clients 200000 --idle", 7),
            ("--clients 10 --in-flight 2", 5),
            ("--clients 40 --group-size 40", 1),
        ] {
            let (whole, shares) = (parsed(line), shares(line, workers));
            let mut next_user = whole.users;
            for share in &shares {
                assert_eq!(share.users, next_user, "{line}");
                next_user += u64::from(share.clients);
                assert_eq!(share.share.unwrap().all_clients, whole.clients);
            }
            assert_eq!(next_user, whole.users + u64::from(whole.clients), "{line}");
            let rate: f64 = shares.iter().map(|share| share.rate).sum();
            assert!((rate - whole.rate).abs() < 1e-9, "{line}");
            // Groups are as many as the scenario has, and as large.
            let groups = |options: &Options| {
                let groups = plan::conversations(options).into_iter().filter(|planned| planned.is_group);
                groups.map(|planned| planned.members.len()).collect::<Vec<_>>()
            };
            assert_eq!(shares.iter().flat_map(groups).collect::<Vec<_>>(), groups(&whole), "{line}");
        }
    }

    #[test]
    fn stages_are_shared_and_their_lengths_are_not() {
        let mut whole = parsed("--clients 100 --mix one_to_one=1");
        whole.stages = vec![Stage { from_per_s: 0.0, to_per_s: 80.0, length_ns: 5 }];
        let half = of(Worker { number: 2, of: 2 }, &whole).unwrap();
        assert_eq!(half.stages, [Stage { from_per_s: 0.0, to_per_s: 40.0, length_ns: 5 }]);
    }

    #[test]
    fn what_cannot_be_shared_is_refused() {
        for (line, words) in [
            ("--clients 1000 --group-size 1000 --mix group=1", "1 groups cannot be shared by 2"),
            ("--clients 3 --mix one_to_one=1", "1 pairs"),
            ("--ramp 1:2:1", "--ramp"),
        ] {
            let sentence = of(Worker { number: 1, of: 2 }, &parsed(line)).unwrap_err();
            assert!(sentence.contains(words), "{line}: {sentence}");
        }
        let silent = Options::try_parse_from(["loadgen"]).unwrap();
        assert!(of(Worker { number: 1, of: 1 }, &silent).unwrap_err().contains("--report"));
        for text in ["0/2", "3/2", "1", "1/x", "1/1001"] {
            assert!(text.parse::<Worker>().is_err(), "{text}");
        }
        assert_eq!("2/4".parse::<Worker>().unwrap().to_string(), "2/4");
    }
}
