//! The world: sockets, threads, files, clocks. What is decided here is only when things happen; what they mean is
//! decided upstairs.

// The ground floor: the rule that keeps the world out elsewhere ends here.
#![expect(clippy::disallowed_methods)]

mod carrier;
mod compare;
mod control;
mod display;
mod engine;
mod http;
mod inputs;
mod limit;
mod machine;
mod merge;
mod observer;
mod outputs;
mod rest;
mod run;
mod scenario;
mod screen;
mod watch;

pub use compare::compare;
pub use limit::find_limit;
pub use merge::merge;
pub use run::{Outcome, run};
pub use scenario::{apply, presets};
