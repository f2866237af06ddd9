//! The oracle: decides from what clients saw, and from the history that the server tells at the end, whether the
//! promises of the protocol were kept.
//!
//! Drive it: one [`Ledger`] per thread is told what its clients do and see, while it happens; at the end a [`Judge`]
//! takes all ledgers, is read each conversation's history, and gives the [`Verdict`].
//!
//! # Invariants
//! - Pure: no clock, no sockets. It believes nobody: what a server says is compared, never indexed with.
//! - Memory is bounded by what was really sent and seen: 24 bytes a send, 8 bytes a seq and thread, 32 in a group.
//! - What it cannot know it does not call wrong: an unanswered send may stand in the history or not, and one that was
//!   refused retryably may be overtaken by later ones.

mod judge;
mod last;
mod ledger;
mod line;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use carillon_protocol::ids::{ConversationId, Seq};

pub use judge::{Judge, Told};
pub use last::to_last;
pub use ledger::{Ledger, Seen, Tally};

/// A conversation of the run.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// Its head before the run: events up to here are from before, and not looked at.
    pub base_seq: Seq,
    /// Clients, by number, ascending.
    pub members: Vec<u32>,
}

/// Who takes part, and where.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    run: u32,
    users: Vec<u64>,
    clients: BTreeMap<u64, u32>,
    conversations: Vec<Conversation>,
    numbers: BTreeMap<u64, u32>,
    memberships: Vec<Vec<u32>>,
}

impl Roster {
    /// The roster of a run: `users[client]` is the client's user id.
    #[must_use]
    pub fn new(run: u32, users: Vec<u64>, conversations: Vec<Conversation>) -> Roster {
        let mut memberships = vec![Vec::new(); users.len()];
        let mut numbers = BTreeMap::new();
        for (number, conversation) in (0u32..).zip(&conversations) {
            numbers.insert(conversation.id.0, number);
            for member in &conversation.members {
                if let Some(list) = memberships.get_mut(*member as usize) {
                    list.push(number);
                }
            }
        }
        let clients = users.iter().copied().zip(0u32..).collect();
        Roster { run, users, clients, conversations, numbers, memberships }
    }

    /// The run's number, in every message of it.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// All conversations, by number.
    #[must_use]
    pub fn conversations(&self) -> &[Conversation] {
        &self.conversations
    }

    /// The number of a conversation; `None` when it is not of this run.
    #[must_use]
    pub fn number(&self, id: ConversationId) -> Option<u32> {
        self.numbers.get(&id.0).copied()
    }

    /// The conversations of a client, by number, ascending.
    #[must_use]
    pub fn memberships(&self, client: u32) -> &[u32] {
        self.memberships.get(client as usize).map_or(&[], Vec::as_slice)
    }

    /// A client's user id; 0 for a client that does not exist.
    #[must_use]
    pub fn user(&self, client: u32) -> u64 {
        self.users.get(client as usize).copied().unwrap_or(0)
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients_count(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }

    /// The client who is this user.
    #[must_use]
    pub fn client(&self, user: u64) -> Option<u32> {
        self.clients.get(&user).copied()
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal),+ $(,)?) => {
        /// The promises, by how they break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $kind),+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),+];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),+ }
            }
        }
    };
}
kinds! {
    /// Acknowledged, but not in the history, or not delivered to a member (G1, G7).
    Lost = "lost",
    /// One send at two seqs, or one event twice on a connection (G2, G6).
    Duplicated = "duplicated",
    /// Against the order of its sender, of real time, or of the connection (G6, G8, G9).
    Reordered = "reordered",
    /// A skip without `behind` or `reset`, or a hole in the history (G3, G6).
    Gap = "gap",
    /// There although nobody sent it, or although it was definitely refused (G5).
    Phantom = "phantom",
    /// Delivered to somebody who is not a member (G11).
    Foreign = "foreign",
    /// One seq, two contents (G4).
    Mutated = "mutated",
}

/// How many violations are told in words; all are counted.
pub const EXAMPLES_MAX: usize = 20;

/// Violations: all counted, the first of them in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    counts: [u64; Kind::ALL.len()],
    examples: Vec<String>,
}

impl Violations {
    pub(crate) fn add(&mut self, kind: Kind, words: fmt::Arguments<'_>) {
        self.counts[kind as usize] += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{}: {words}", kind.name()));
        }
    }

    pub(crate) fn merge(&mut self, other: Violations) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
    }

    /// How many of each kind, in the order of [`Kind::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u64; Kind::ALL.len()] {
        self.counts
    }

    /// How many of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// The first [`EXAMPLES_MAX`], in words.
    #[must_use]
    pub fn examples(&self) -> &[String] {
        &self.examples
    }
}

/// What the oracle found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong.
    pub violations: Violations,
    /// What was looked at.
    pub tally: Tally,
    /// Messages in the histories.
    pub history_messages: u64,
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}
