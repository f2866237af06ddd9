//! The settings that this crate owns, as `gateway.toml` explains them.

use std::num::NonZero;

use carillon_node::config::{Config, ConfigError};
use serde::Deserialize;

use crate::proxies::Proxies;

/// The text of the defaults: hand it to [`carillon_node::config::Builder::defaults`].
pub const DEFAULTS: &str = include_str!("../gateway.toml");

/// All of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `gateway.*`.
    pub gateway: Gateway,
    /// `io.*`.
    pub io: Io,
    /// `limits.*`.
    pub limits: Limits,
    /// `auth.*`, as far as it is not the key table's.
    pub auth: Auth,
    /// `link.*`.
    pub link: Link,
    /// `tls.*`.
    pub tls: Tls,
}

/// `gateway.*`: see `gateway.toml` for each key.
#[derive(Clone, Debug, Deserialize)]
pub struct Gateway {
    /// Address.
    pub listen: String,
    /// 0: one per core.
    pub shards: usize,
    /// Addresses.
    pub routers: Vec<String>,
    /// Exact origins.
    pub origins: Vec<String>,
    /// Addresses and networks.
    pub trusted_proxies: Proxies,
    /// Whether trusted proxies begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Of all shards together.
    pub connections_max: usize,
    /// Of each shard.
    pub handshakes_max: usize,
    /// Milliseconds.
    pub handshake_timeout_ms: u64,
    /// Milliseconds.
    pub unknown_after_ms: u64,
    /// Sessions.
    pub slice_sessions: usize,
    /// Milliseconds.
    pub drain_spread_ms: u64,
    /// Milliseconds.
    pub drain_ms: u64,
}

/// `io.*`.
#[derive(Clone, Debug, Deserialize)]
pub struct Io {
    /// `auto`, `uring`, `monoio` or `monoio-epoll`.
    pub driver: String,
    /// 0: the kernel decides.
    pub send_buffer_bytes: usize,
    /// Requests; a power of two.
    pub ring_entries: u32,
    /// A power of two.
    pub ring_buffers: u16,
    /// Bytes of each.
    pub ring_buffer_bytes: u32,
}

/// `limits.*`: see `gateway.toml` for each key.
#[derive(Clone, Debug, Deserialize)]
pub struct Limits {
    /// Commands of a user; 0: unlimited. The router counts; clients are told.
    pub send_per_s: u64,
    /// Commands of a user.
    pub send_burst: u64,
    /// Commands of a device; 0: unlimited.
    pub device_per_s: u64,
    /// Commands of a device.
    pub device_burst: u64,
    /// Frames; 0: unlimited.
    pub connection_per_s: u64,
    /// Frames.
    pub connection_burst: u64,
    /// Commands.
    pub inflight: usize,
    /// Bytes.
    pub conn_queue_bytes: usize,
    /// Bytes, of each shard.
    pub queues_bytes_max: usize,
    /// Milliseconds.
    pub slow_grace_ms: u64,
    /// Milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Intervals.
    pub heartbeats_missed_max: NonZero<u64>,
    /// Milliseconds.
    pub heartbeat_leeway_ms: u64,
    /// Milliseconds.
    pub identify_timeout_ms: u64,
    /// Upgrades; 0: unlimited.
    pub address_per_s: u64,
    /// Upgrades.
    pub address_burst: u64,
    /// Bytes.
    pub frame_bytes: usize,
    /// Frames a minute.
    pub malformed_max: u32,
    /// Milliseconds.
    pub rate_grace_ms: u64,
}

impl Limits {
    /// Milliseconds of silence after which a client counts as gone.
    #[must_use]
    pub fn silence_ms_max(&self) -> u64 {
        let intervals_ms = self.heartbeat_interval_ms.saturating_mul(self.heartbeats_missed_max.get());
        intervals_ms.saturating_add(self.heartbeat_leeway_ms)
    }
}

/// `auth.*`.
#[derive(Clone, Debug, Deserialize)]
pub struct Auth {
    /// Whether an unknown user is created.
    pub auto_provision: bool,
}

/// `link.*`.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// `ring` or `quic`.
    pub local: String,
}

/// `tls.*`.
#[derive(Clone, Debug, Deserialize)]
pub struct Tls {
    /// Empty: in the data directory.
    pub dir: String,
    /// Of the public port; empty: none.
    pub cert: String,
    /// Of the public port; empty: none.
    pub key: String,
}

impl Settings {
    /// Reads the sections of this crate.
    ///
    /// # Errors
    /// A value out of range: one line that names the key.
    pub fn from_config(config: &Config) -> Result<Settings, ConfigError> {
        Ok(Settings {
            gateway: config.section("gateway")?,
            io: config.section("io")?,
            limits: config.section("limits")?,
            auth: config.section("auth")?,
            link: config.section("link")?,
            tls: config.section("tls")?,
        })
    }

    /// How many shards: `gateway.shards`, or one per core.
    #[must_use]
    pub fn shards_count(&self) -> usize {
        match self.gateway.shards {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            count => count,
        }
    }
}
