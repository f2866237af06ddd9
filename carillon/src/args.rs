//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  carillon                                        one gateway and one router, embedded store in ./carillon-data
  carillon token --user 42 --name alice           a token signed with the development key
  carillon config print                           every setting, its value, where it came from and what it is for
  carillon --set gateway.listen=127.0.0.1:9000    another port for WebSocket and REST
  carillon capacity --dau 10M                     what ten million people a day need
  carillon store verify                           whether a stopped store is whole
  carillon store backup /backups/monday           a consistent copy of the store, while it is running or not

Separate tiers on one machine:
  carillon router --data-dir ./data
  carillon gateway --data-dir ./data --set gateway.routers=127.0.0.1:7400

Exit status: 0 after a clean drain; 1 when `store verify` found damage; 2 when the configuration cannot work (nothing was touched);
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
#[derive(Debug, Default, Args)]
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
    /// How many gateways, routers and bytes a number of people needs.
    Capacity(Box<CapacityArguments>),
    /// Look after the store of the data directory.
    #[command(subcommand)]
    Store(StoreCommand),
}

const VERIFY_EXAMPLES: &str = "\
Checks the checksum of every record of the commit log and of every file of the tables, and then that all rows agree: every
log is dense from 1 to its head, every remembered attempt points to its own event, members and their lists say the same,
and so do counts, tallies, markers and watermarks.

Nothing is changed, and the store must not be in use: stop the server first, or verify a backup.

Exit status: 0 when everything is whole; 1 when something is damaged or cannot be read; 2 when there is nothing to look at.";

const BACKUP_EXAMPLES: &str = "\
Examples:
  carillon store backup /backups/monday --data-dir /var/lib/carillon
  carillon store verify --data-dir /backups/monday
  carillon --data-dir /backups/monday                a server on the copy

A running server makes the copy itself, of one moment, and goes on serving; without one this command makes it. DIRECTORY is
made, or has to be empty. Keys and certificates are not copied. Clients that know more than a restored copy are told to
reset.";

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Say whether a stopped store is whole; exit status 1 when not.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// How many of the things that are wrong are told one by one.
        #[arg(long, value_name = "N", default_value_t = 50)]
        lines: usize,
    },
    /// Write a consistent copy of the store.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup {
        /// Where it goes: a directory of its own.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
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

const CAPACITY_EXAMPLES: &str = "\
Numbers may end with K, M, B (or G) or T: 10K, 500M, 2B.

Examples:
  carillon capacity                                      the source document's numbers: two billion users
  carillon capacity --registered 1M --dau 200K --concurrent 50K --retention-years 1
  carillon capacity --messages-per-core-s 120K --connections-per-gateway 50K --json

What to replace first: --messages-per-core-s and --messages-per-router-s by what `loadgen --ramp` finds on your machine,
--bytes-per-connection by what `loadgen --idle` finds. Exit status 2, and one line, for what cannot be.";

/// How many people there are, what they do, and what a machine takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = CAPACITY_EXAMPLES, next_help_heading = "What people do, and what a machine takes")]
pub struct CapacityArguments {
    /// Users that exist. Ids have room for 2^63; no process keeps anything for all of them
    #[arg(long, value_name = "N", default_value = "2B", allow_hyphen_values = true)]
    pub registered: String,
    /// Users of a day
    #[arg(long, value_name = "N", default_value = "500M", allow_hyphen_values = true)]
    pub dau: String,
    /// Messages that each of them sends a day
    #[arg(long, value_name = "N", default_value = "40", allow_hyphen_values = true)]
    pub messages_per_user_day: String,
    /// Times that each of them comes online a day: each is one write of last_seen_at
    #[arg(long, value_name = "N", default_value = "10", allow_hyphen_values = true)]
    pub sessions_per_user_day: String,
    /// Messages a second at the peak, over the average
    #[arg(long, value_name = "FACTOR", default_value = "3", allow_hyphen_values = true)]
    pub peak_factor: String,
    /// WebSockets open at the peak
    #[arg(long, value_name = "N", default_value = "100M", allow_hyphen_values = true)]
    pub concurrent: String,
    /// Memory that a connection may cost, the kernel's part included
    #[arg(long, value_name = "BYTES", default_value = "10K", allow_hyphen_values = true)]
    pub bytes_per_connection: String,
    /// Stored bytes of a message: 100 of text and as many of key, index and idempotency row
    #[arg(long, value_name = "BYTES", default_value = "200", allow_hyphen_values = true)]
    pub bytes_per_message: String,
    /// Messages that carry media, of all
    #[arg(long, value_name = "SHARE", default_value = "0.1", allow_hyphen_values = true)]
    pub media_share: String,
    /// Bytes of one of those, in object storage
    #[arg(long, value_name = "BYTES", default_value = "200K", allow_hyphen_values = true)]
    pub media_bytes: String,
    /// Years that messages and media are kept
    #[arg(long, value_name = "YEARS", default_value = "5", allow_hyphen_values = true)]
    pub retention_years: String,
    /// Copies of every stored message
    #[arg(long, value_name = "N", default_value = "3", allow_hyphen_values = true)]
    pub replicas: String,
    /// Seconds between two heartbeats of a connection
    #[arg(long, value_name = "SECONDS", default_value = "30", allow_hyphen_values = true)]
    pub heartbeat_s: String,
    /// CPU of one heartbeat and its answer, in microseconds (measured: one small frame, alone in its turn)
    #[arg(long, value_name = "US", default_value = "5.4", allow_hyphen_values = true)]
    pub heartbeat_us: String,
    /// Connections that one gateway is given
    #[arg(long, value_name = "N", default_value = "100K", allow_hyphen_values = true)]
    pub connections_per_gateway: String,
    /// Hardware threads of a gateway
    #[arg(long, value_name = "N", default_value = "8", allow_hyphen_values = true)]
    pub cores_per_gateway: String,
    /// Messages a second and hardware thread, all tiers (measured at saturation over QUIC: 17.1 us of CPU a message)
    #[arg(long, value_name = "PER_S", default_value = "58K", allow_hyphen_values = true)]
    pub messages_per_core_s: String,
    /// Of that CPU, what gateways spend (measured: 5 of 17.1 us)
    #[arg(long, value_name = "SHARE", default_value = "0.29", allow_hyphen_values = true)]
    pub gateway_share: String,
    /// Messages a second that one router with its store commits at most (measured: where it saturates)
    #[arg(long, value_name = "PER_S", default_value = "82K", allow_hyphen_values = true)]
    pub messages_per_router_s: String,
    /// How much of what is measured to plan with: the rest is for failures, receipts and bad days
    #[arg(long, value_name = "SHARE", default_value = "0.6", allow_hyphen_values = true)]
    pub utilization: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
