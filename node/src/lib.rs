//! The manners of a daemon: how a Carillon process is configured, named, measured, asked, and told to stop.
//!
//! Where to look:
//! - [`config`]: every setting from one list of defaults, a file, the environment and `--set`.
//! - [`tokens`]: who a client is, from a JWT checked against our own key table.
//! - [`metrics`]: counters that cost one thread a plain addition, merged when somebody asks.
//! - [`admin`]: `/livez`, `/readyz`, `/metrics` on a port of their own.
//! - [`logging`], [`signals`], [`listen`], [`exit`]: how a process speaks, ends, and opens its doors.
//! - [`memory`]: in which pages a process takes its memory.
//! - [`clock`], [`random`]: time and chance from the outside world; [`prng`]: chance that can be repeated; [`rates`]: how
//!   much is too much.
//!
//! # Invariants
//! - Knows no other crate of Carillon.
//! - This crate touches the world so that the pure floors above it need not: what it reads (time, seeds,
//!   settings, claims) is handed to them as values.
//! - A token, a secret or a key is never logged, printed or put into an error.

#![forbid(unsafe_code)]
// This crate is where the world comes in: the rule that keeps it out elsewhere ends here.
#![expect(clippy::disallowed_methods)]

pub mod admin;
pub mod clock;
pub mod config;
pub mod exit;
pub mod listen;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod prng;
pub mod random;
pub mod rates;
pub mod signals;
pub mod tokens;

/// The settings this crate owns (`data_dir`, `admin.*`, `log.*`, `auth.*`): hand it to
/// [`config::Builder::defaults`].
pub const DEFAULTS: &str = include_str!("node.toml");
