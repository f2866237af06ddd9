//! Crowds: what only shows with thousands of connections in one conversation, or going at once. Each scenario starts
//! a server of its own, plays with lean WebSocket clients, and ends with one line: kept, or what was broken.
//!
//! - [`thousand`]: a group of two hundred, by the clock; a group of a thousand, by the load generator's oracle.
//! - [`beside`]: a sender in a crowd of thousands and in a pair, in one run.
//! - [`disconnect`]: thousands going at once, watched by others.
//! - [`failover`]: a gateway killed with everybody on it, who go on at another one.
//! - [`churn`]: members coming and going all the time; nobody hears what is not theirs.
//! - [`swarm`], [`frame`], [`ground`]: the clients, what they read, and what all scenarios stand on.

pub mod beside;
pub mod churn;
pub mod disconnect;
pub mod failover;
pub mod frame;
pub mod ground;
pub mod swarm;
pub mod thousand;

/// How to play.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The server's binary.
    pub binary: String,
    /// The form for CI: smaller crowds, less time; judges what does not depend on the machine's mood.
    pub is_short: bool,
    /// Decides who does what when. The processes' own timing is not in it: a seed makes a run similar, not the same.
    pub seed: u64,
    /// Whether the crowd confirms what it receives, in scenarios that leave it open.
    pub confirms: bool,
}

/// What a scenario ends with: one line of figures, or what was broken.
pub type Verdict = Result<String, String>;

/// A scenario.
pub type Scenario = fn(&Campaign) -> Verdict;

/// Every scenario by its name.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("two-hundred", thousand::two_hundred),
    ("thousand", thousand::thousand),
    ("ack-beside-crowd", beside::ack_beside_crowd),
    ("stalled-crowd", beside::stalled_crowd),
    ("mass-disconnect", disconnect::mass_disconnect),
    ("failover", failover::failover),
    ("churn", churn::churn),
];
