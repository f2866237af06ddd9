//! What a seed decides before anything happens: how large the world is, how slow, and what goes wrong in it.

use carillon_gateway::settings::Settings;
use carillon_node::config::Config;
use carillon_node::prng::Prng;
use carillon_router::shard::ShardSettings;
use carillon_store::backend::memory::Chances;

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;
/// How long the world is given to converge after the last fault (G7).
pub(super) const CALM_MS: u64 = 30_000;
/// How long after the last fault clients still begin to say new things.
pub(super) const HUSH_MS: u64 = 2_000;

/// What may go wrong, and how often each is drawn among the others. 0: never in this world.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weights {
    pub(super) link_break: u64,
    pub(super) gateway_crash: u64,
    pub(super) router_crash: u64,
    pub(super) client_cut: u64,
    pub(super) client_stall: u64,
    pub(super) pause: u64,
    pub(super) unknown: u64,
    pub(super) full: u64,
    pub(super) wall_jump: u64,
    pub(super) drain: u64,
    pub(super) slow: u64,
}

impl Weights {
    pub(super) fn list(&self) -> [u64; 11] {
        let Weights {
            link_break,
            gateway_crash,
            router_crash,
            client_cut,
            client_stall,
            pause,
            unknown,
            full,
            wall_jump,
            drain,
            slow,
        } = *self;
        [
            link_break,
            gateway_crash,
            router_crash,
            client_cut,
            client_stall,
            pause,
            unknown,
            full,
            wall_jump,
            drain,
            slow,
        ]
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) gateways_count: usize,
    pub(super) users_count: usize,
    pub(super) devices_max: u64,
    pub(super) conversations_count: usize,
    pub(super) late_conversations_count: usize,
    pub(super) commit_lanes_count: u16,
    /// How long faults last, in nanoseconds.
    pub(super) faults_ns: u64,
    /// Between two faults, on average.
    pub(super) fault_gap_ns: u64,
    pub(super) weights: Weights,
    pub(super) chances: Chances,
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
        // Each fault is missing from some worlds, so that the others are seen alone as well.
        let mut weight = |times: u64| if prng.chance(1, 3) { 0 } else { times };
        let weights = Weights {
            link_break: weight(6),
            gateway_crash: weight(2),
            router_crash: weight(4),
            client_cut: weight(8),
            client_stall: weight(4),
            pause: weight(1),
            unknown: weight(2),
            full: weight(1),
            wall_jump: weight(2),
            drain: weight(1),
            slow: weight(2),
        };
        let is_shaky = prng.chance(1, 2);
        let mut often = |max: u64| if is_shaky { prng.below(max) } else { 0 };
        let chances = Chances {
            conflict: often(100),
            unknown_committed: often(60),
            unknown_lost: often(60),
            unknown_late: often(60),
            late_steps_max: 6,
        };
        Plan {
            gateways_count: 2,
            users_count: prng.between(3, 5) as usize,
            devices_max: prng.between(1, 3),
            conversations_count: prng.between(1, 4) as usize,
            late_conversations_count: prng.below(3) as usize,
            commit_lanes_count: [1, 1, 4][prng.index(3)],
            faults_ns: prng.between(2_000, 8_000) * MS,
            fault_gap_ns: prng.between(60, 900) * MS,
            weights,
            chances,
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
