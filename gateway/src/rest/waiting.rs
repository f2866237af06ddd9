//! Requests that wait for a router, by the number that their frame carries.
//!
//! # Invariants
//! - Numbers rise and are never used again in the life of this process (F13). A question that goes again has a new one, and
//!   the place that its first one gave it (G9).
//! - Each entry stands in all three maps or in none.

use std::collections::{BTreeMap, BTreeSet};

use carillon_link::Peer;
use carillon_protocol::frame::Command;
use carillon_protocol::ids::UserId;
use carillon_protocol::placement::Slot;
use carillon_protocol::reason::Code;
use carillon_protocol::time::Time;

use super::plan::{Ask, Tell};
use super::response::Envelope;
use crate::owners::Route;

/// One request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) envelope: Envelope,
    pub(super) user: UserId,
    pub(super) deadline: Time,
    /// What is asked now.
    pub(super) ask: Ask,
    /// What becomes of the answer.
    pub(super) tell: Tell,
    /// Its place among the others: its first number; 0 before it has one.
    pub(super) order: u64,
    /// Where it was put on a lane.
    pub(super) route: Option<Route>,
    /// Whether what the client wants may have been done: from here on silence is no failure (G5).
    pub(super) is_at_stake: bool,
    /// Whether it went again after its lane was lost.
    pub(super) is_repeated: bool,
}

impl Entry {
    /// What decides who is asked.
    pub(super) fn slot(&self) -> Slot {
        self.ask.slot(self.user)
    }

    pub(super) fn is_sent_to(&self, router: Peer) -> bool {
        self.route.is_some_and(|route| route.router == router)
    }

    /// The same request when nobody will answer it where it went, if it went anywhere.
    pub(super) fn unanswered(self) -> Entry {
        let is_repeated = self.is_repeated || (self.is_at_stake && self.route.is_some());
        Entry { is_repeated, route: None, ..self }
    }

    /// The same request when it definitely did nothing where it went.
    pub(super) fn without_effect(self) -> Entry {
        let is_at_stake = self.is_at_stake && (self.is_repeated || !self.ask.is_write());
        Entry { is_at_stake, route: None, ..self }
    }

    /// Whether a refusal with `code` leaves open what happened: it speaks of this attempt only, while an earlier one, or
    /// an earlier step, may have done what the client wants (G5).
    pub(super) fn leaves_open(&self, code: Code) -> bool {
        let is_earlier_open = self.is_at_stake && (self.is_repeated || !self.ask.is_write());
        is_earlier_open && (code.row().retryable || code == Code::Internal)
    }

    /// The same request, making its user known first.
    pub(super) fn provisioned(self) -> Entry {
        match &self.tell {
            Tell::Admission(admission) => {
                let command = Command::Provision { name: admission.name.clone() };
                // Making known is idempotent by nature: no key.
                Entry { ask: Ask::Submit { client_msg_id: String::new(), command }, order: 0, ..self }
            }
            _ => self,
        }
    }

    /// The same request once its user is known: on to what it wants.
    pub(super) fn admitted(self) -> Entry {
        match self.tell {
            Tell::Admission(admission) => {
                Entry { ask: admission.plan.ask, tell: admission.plan.tell, order: 0, ..self }
            }
            _ => self,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    entries: BTreeMap<u64, Entry>,
    deadlines: BTreeSet<(Time, u64)>,
    users: BTreeMap<UserId, usize>,
    numbers_count: u64,
}

impl Waiting {
    /// The next number; never 0, which means that nobody waits.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers_count += 1;
        self.numbers_count
    }

    pub(super) fn insert(&mut self, number: u64, mut entry: Entry) {
        if entry.order == 0 {
            entry.order = number;
        }
        self.deadlines.insert((entry.deadline, number));
        *self.users.entry(entry.user).or_default() += 1;
        self.entries.insert(number, entry);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.deadlines.remove(&(entry.deadline, number));
        if let Some(count) = self.users.get_mut(&entry.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&entry.user);
            }
        }
        Some(entry)
    }

    /// In the order in which they were sent, or began to wait.
    pub(super) fn numbers_where(&self, is_meant: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let meant = self.entries.iter().filter(|(_, entry)| is_meant(entry));
        let mut numbers: Vec<(u64, u64)> = meant.map(|(number, entry)| (entry.order, *number)).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|(_, number)| number).collect()
    }

    /// One whose time is over.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Entry> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline <= now { self.remove(number) } else { None }
    }

    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn count_of(&self, user: UserId) -> usize {
        self.users.get(&user).copied().unwrap_or(0)
    }
}
