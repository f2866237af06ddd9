//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  carillon                                        one gateway and one router, embedded store in ./carillon-data
  carillon token --user 42 --name alice           a token signed with the development key
  carillon config print                           every setting, its value, where it came from and what it is for
  carillon --set gateway.listen=127.0.0.1:9000    another port for WebSocket and REST

Separate tiers on one machine:
  carillon router --data-dir ./data
  carillon gateway --data-dir ./data --set gateway.routers=127.0.0.1:7400

Exit status: 0 after a clean drain; 2 when the configuration cannot work (nothing was touched);
74 for a failed disk or a damaged store.";

/// A chat backend: messages that are never lost, never doubled and never out of order.
#[derive(Debug, Parser)]
#[command(name = "carillon", version, about, after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do; `run` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: SettingsArguments,
}

/// Where settings come from; every command takes these.
#[derive(Debug, Args)]
pub struct SettingsArguments {
    /// A TOML file with settings; `carillon config print` shows which there are.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the store, the development key and the development certificates live [default: ./carillon-data].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// One setting; may be given often, and wins over the file and the environment (CARILLON_GATEWAY__LISTEN).
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One gateway and one router in one process (the default).
    Run,
    /// Only the gateway tier: sockets and sessions. Needs gateway.routers.
    Gateway,
    /// Only the router tier: order, fan-out and the store.
    Router,
    /// Print a token signed with the development key of the data directory.
    Token(TokenArguments),
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What is to be in the token.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// The user id, or a range such as 1-1000: one token a line.
    #[arg(long, value_name = "ID[-ID]")]
    pub user: String,
    /// The device id; a token without one is the device `default`.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// The name that a user who is not known yet gets.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How long it is valid: a number with s, m, h or d. Negative: a token that has expired, for tests.
    #[arg(long, default_value = "24h", allow_hyphen_values = true, value_name = "TIME")]
    pub ttl: String,
    /// With the scope `admin`.
    #[arg(long)]
    pub admin: bool,
}

/// How to look at the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every key with its value and where it came from.
    Print {
        /// Leave out what each key is for.
        #[arg(long)]
        short: bool,
    },
    /// Say whether the settings can work; exit status 2 when not.
    Check,
}
