//! What a seed decides before anything happens: how large the world is, how slow, and what goes wrong in it.

use carillon_gateway::settings::Settings;
use carillon_node::config::Config;
use carillon_node::prng::Prng;
use carillon_router::shard::ShardSettings;
use carillon_store::backend::memory::Chances;

use super::faults::Mishap;

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;
/// How long the world is given to converge after the last fault (G7).
pub(super) const CALM_MS: u64 = 30_000;
/// What the kernel takes at least for each client from then on: with less, a client that asked for page upon page of a
/// long log over a slow link is still given them when its time is over.
pub(super) const CALM_SOCKET_BYTES: usize = 4_096;
/// How long after the last fault clients still begin to say new things.
pub(super) const HUSH_MS: u64 = 2_000;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Whether several routers share the slots; else there is one, which owns everything.
    pub(super) is_shared: bool,
    /// At the start.
    pub(super) routers_count: usize,
    pub(super) gateways_count: usize,
    pub(super) users_count: usize,
    pub(super) devices_max: u64,
    pub(super) conversations_count: usize,
    pub(super) late_conversations_count: usize,
    /// Of the conversations of the start, those whose members change; and how often they do.
    pub(super) moving_count: usize,
    pub(super) changes_count: usize,
    pub(super) commit_lanes_count: u16,
    /// How long faults last, in nanoseconds.
    pub(super) faults_ns: u64,
    /// What goes wrong, in the order of time.
    pub(super) mishaps: Vec<Mishap>,
    pub(super) chances: Chances,
    /// Commits that take seconds: times in 1,000.
    pub(super) long: u64,
    /// Between two messages of a device, on average.
    pub(super) send_gap_ns: u64,
    /// The most messages a device sends.
    pub(super) sends_max: usize,
    /// The slowest of each; the fastest is a tenth of it.
    pub(super) link_ns: u64,
    pub(super) tcp_ns: u64,
    /// From leaving the router to being visible.
    pub(super) commit_ns: u64,
    /// From being visible to being heard of by the router.
    pub(super) report_ns: u64,
    pub(super) read_ns: u64,
    /// Bytes that the kernel takes for a client that does not read.
    pub(super) socket_bytes: usize,
    /// Messages of several kilobytes: times in 100.
    pub(super) large: u64,
    /// Messages without a `client_msg_id`: times in 100.
    pub(super) unnamed: u64,
    pub(super) settings: Settings,
    pub(super) shard_settings: ShardSettings,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn draw(prng: &mut Prng, defaults: &Settings) -> Plan {
        let mut settings = defaults.clone();
        settings.limits.send_per_s = 0;
        settings.limits.address_per_s = 0;
        settings.limits.conn_queue_bytes = [1_024, 4_096, 65_536][prng.index(3)];
        settings.limits.slow_grace_ms = [2_000, 10_000, 60_000][prng.index(3)];
        settings.limits.inflight = [2, 64][prng.index(2)];
        settings.gateway.unknown_after_ms = [1_500, 10_000][prng.index(2)];
        settings.gateway.drain_ms = prng.between(100, 5_000);
        settings.gateway.drain_spread_ms = prng.between(0, 1_000);
        let is_shaky = prng.chance(1, 2);
        let mut often = |max: u64| if is_shaky { prng.below(max) } else { 0 };
        let chances = Chances {
            conflict: often(100),
            unknown_committed: often(60),
            unknown_lost: often(60),
            unknown_late: often(60),
            late_steps_max: 6,
            too_old: often(60),
            too_old_reads_max: 12,
            slow: often(60),
        };
        let long = often(20);
        // Two worlds in three have several routers, or one that others may join.
        let is_shared = prng.chance(2, 3);
        let routers_count = if is_shared { prng.between(1, 4) as usize } else { 1 };
        let (faults_min_ms, faults_max_ms) = if is_shared { (3_000, 10_000) } else { (2_000, 8_000) };
        let faults_ns = prng.between(faults_min_ms, faults_max_ms) * MS;
        let (gap_min_ms, gap_max_ms) = if is_shared { (200, 1_500) } else { (60, 900) };
        let fault_gap_ns = prng.between(gap_min_ms, gap_max_ms) * MS;
        let mishaps = Mishap::draw(prng, is_shared, faults_ns, fault_gap_ns);
        let conversations_count = prng.between(1, 4) as usize;
        // In two worlds of three members come and go.
        let changes_count = if prng.chance(2, 3) { prng.between(2, 16) as usize } else { 0 };
        let moving_count =
            if changes_count > 0 { prng.between(1, conversations_count as u64) as usize } else { 0 };
        Plan {
            is_shared,
            routers_count,
            gateways_count: prng.between(1, 3) as usize,
            users_count: prng.between(3, 5) as usize,
            devices_max: prng.between(1, 3),
            conversations_count,
            late_conversations_count: prng.below(3) as usize,
            moving_count,
            changes_count,
            commit_lanes_count: if is_shared { [1, 4, 16] } else { [1, 1, 4] }[prng.index(3)],
            faults_ns,
            mishaps,
            chances,
            long,
            send_gap_ns: prng.between(20, 600) * MS,
            sends_max: prng.between(5, 40) as usize,
            link_ns: [MS / 10, 2 * MS, 40 * MS][prng.index(3)],
            tcp_ns: [MS / 5, 5 * MS, 80 * MS][prng.index(3)],
            commit_ns: [MS / 5, 5 * MS, 60 * MS][prng.index(3)],
            report_ns: [MS / 20, 5 * MS, 100 * MS][prng.index(3)],
            read_ns: [MS / 20, MS, 30 * MS][prng.index(3)],
            socket_bytes: [512, 4_096, 65_536][prng.index(3)],
            large: [0, 0, 20][prng.index(3)],
            unnamed: [0, 20][prng.index(2)],
            settings,
            shard_settings: shard_defaults(),
        }
    }
}

/// The settings as they are shipped.
pub(super) fn defaults() -> Settings {
    let config =
        Config::builder().defaults("gateway", carillon_gateway::DEFAULTS).and_then(|builder| builder.build());
    let settings = config.and_then(|config| Settings::from_config(&config));
    settings.expect("the shipped settings are valid")
}

/// The router's, with nobody limited: how much is too much is tested elsewhere.
pub(super) fn shard_defaults() -> ShardSettings {
    let builder = Config::builder()
        .defaults("gateway", carillon_gateway::DEFAULTS)
        .and_then(|builder| builder.defaults("router", carillon_router::settings::DEFAULTS));
    let config = builder.and_then(|builder| builder.build()).expect("the shipped settings are valid");
    let settings = carillon::configure::router_settings(&config);
    let mut settings = settings.expect("the shipped settings are valid");
    (settings.limits.send_per_s, settings.limits.conversation_per_s) = (0, 0);
    ShardSettings::of(&settings, 1)
}
