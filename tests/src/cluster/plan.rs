//! What happens to whom when: a function of the seed alone.

use std::fmt;

use carillon_node::prng::Prng;

use super::Siege;

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Gateway(usize),
    Router(usize),
    Database(usize),
}

/// What.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// SIGKILL, and a start after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Pause,
    /// SIGTERM, and a start after a while.
    Stop,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) who: Who,
    pub(super) what: What,
    /// After the round's first message.
    pub(super) at_ms: u64,
    pub(super) lasts_ms: u64,
}

/// When the first fault of a round comes: messages flow by then.
const FIRST_MS: (u64, u64) = (1_500, 2_500);
/// How much later the second comes: before, while and after others have noticed the first.
const SECOND_MS: (u64, u64) = (0, 2_500);
/// How long a killed or stopped process is away: from a supervisor's pause to longer than anybody waits for it.
const AWAY_MS: (u64, u64) = (100, 6_000);
/// One round in so many has two faults.
const TOGETHER_OF: u64 = 5;

impl Fault {
    /// Its row of the table.
    pub(super) fn kind(&self, is_end: bool) -> String {
        let who = match self.who {
            Who::Gateway(_) => "gateway",
            Who::Router(_) => "router",
            Who::Database(_) => "database",
        };
        let what = match (self.what, is_end) {
            (What::Kill, false) => "killed",
            (What::Kill, true) => "back after a kill",
            (What::Pause, false) => "stands still",
            (What::Pause, true) => "goes on",
            (What::Stop, false) => "stopped",
            (What::Stop, true) => "back after a stop",
        };
        format!("{who} {what}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} of {:?} at {} ms for {} ms", self.what, self.who, self.at_ms, self.lasts_ms)
    }
}

/// The faults of each round.
pub(super) fn rounds(siege: &Siege, prng: &mut Prng) -> Vec<Vec<Fault>> {
    let databases = siege.databases.as_ref().map_or(0, |databases| databases.count);
    let mut all = Vec::new();
    for (what, count) in [(What::Kill, siege.kills), (What::Pause, siege.pauses), (What::Stop, siege.stops)] {
        for turn in 0..count {
            let who = match (what, turn % 3) {
                (What::Stop, _) | (_, 0) => Who::Router(prng.index(siege.routers)),
                (_, 2) if databases > 0 => Who::Database(prng.index(databases)),
                _ => Who::Gateway(prng.index(siege.gateways)),
            };
            let lasts_ms = match what {
                What::Pause => prng.between(siege.pause_s.0 * 1_000, siege.pause_s.1 * 1_000),
                What::Kill | What::Stop => prng.between(AWAY_MS.0, AWAY_MS.1),
            };
            all.push(Fault { who, what, at_ms: prng.between(FIRST_MS.0, FIRST_MS.1), lasts_ms });
        }
    }
    prng.shuffle(&mut all);
    let mut rounds: Vec<Vec<Fault>> = Vec::new();
    for fault in all {
        match rounds.last_mut().map(Vec::as_mut_slice) {
            Some([first]) if prng.chance(1, TOGETHER_OF) && may_meet(first, &fault) => {
                let at_ms = first.at_ms + prng.between(SECOND_MS.0, SECOND_MS.1);
                rounds.last_mut().expect("it has a last").push(Fault { at_ms, ..fault });
            }
            _ => rounds.push(vec![fault]),
        }
    }
    rounds
}

/// Whether both may happen at a time: to two processes, and not to two of the database, which then has no majority.
fn may_meet(one: &Fault, other: &Fault) -> bool {
    one.who != other.who && !matches!((one.who, other.who), (Who::Database(_), Who::Database(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Databases;

    fn siege(databases: Option<Databases>) -> Siege {
        Siege {
            binary: String::new(),
            cluster_file: "none".into(),
            databases,
            routers: 2,
            gateways: 2,
            kills: 50,
            pauses: 50,
            pause_s: (10, 30),
            stops: 10,
            rate_per_s: 60,
            seed: 0,
            state: "none".into(),
        }
    }

    fn is_database(fault: &Fault) -> bool {
        matches!(fault.who, Who::Database(_))
    }

    #[test]
    fn a_plan_has_what_is_asked_for_and_some_rounds_have_two_faults() {
        let databases = Databases { command: String::new(), count: 3 };
        let rounds = rounds(&siege(Some(databases)), &mut Prng::new(7));
        let faults: Vec<Fault> = rounds.iter().flatten().copied().collect();
        for (what, count) in [(What::Kill, 50), (What::Pause, 50), (What::Stop, 10)] {
            assert_eq!(faults.iter().filter(|fault| fault.what == what).count(), count, "{what:?}");
        }
        assert!(faults.iter().any(is_database));
        let pauses = faults.iter().filter(|fault| fault.what == What::Pause);
        assert!(pauses.clone().all(|fault| (10_000..=30_000).contains(&fault.lasts_ms)));
        let both: Vec<_> = rounds.iter().filter(|faults| faults.len() == 2).collect();
        assert!(both.len() > 5 && rounds.iter().all(|faults| faults.len() <= 2));
        assert!(both.iter().all(|faults| may_meet(&faults[0], &faults[1])));
    }

    #[test]
    fn a_database_is_left_alone_by_whoever_cannot_start_it_again() {
        let rounds = rounds(&siege(None), &mut Prng::new(7));
        assert!(!rounds.iter().flatten().any(is_database));
    }
}
