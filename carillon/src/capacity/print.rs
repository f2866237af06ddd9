//! A plan as a table for people, and as JSON for scripts.

use serde_json::json;

use super::{CONNECTION_KERNEL_BYTES, CONNECTION_USER_BYTES, Demand, Plan};

/// The table.
#[must_use]
pub fn table(demand: &Demand, plan: &Plan) -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: &[(&str, String, String)]| {
        text.push_str(title);
        text.push('\n');
        for (what, value, how) in rows {
            text.push_str(&format!("  {what:<36} {value:>12}   {how}\n"));
        }
        text.push('\n');
    };
    section(
        "Messages",
        &[
            (
                "registered users",
                short(demand.registered),
                format!("{} of them on a day", short(demand.daily_users)),
            ),
            (
                "messages a day",
                short(plan.messages_per_day),
                format!("{} each", short(demand.messages_per_user_day)),
            ),
            (
                "messages a second, average",
                short(plan.messages_per_s_average),
                "a day has 86,400 seconds".to_owned(),
            ),
            (
                "messages a second, peak",
                short(plan.messages_per_s_peak),
                format!("{} times the average", short(demand.peak_factor)),
            ),
        ],
    );
    section(
        "Storage",
        &[
            (
                "messages, a day",
                bytes(plan.message_bytes_per_day),
                format!("{} each, index and idempotency row included", bytes(demand.bytes_per_message)),
            ),
            (
                "messages, retained",
                bytes(plan.message_bytes_retained),
                format!("{} years", short(demand.retention_years)),
            ),
            (
                "messages, retained, all copies",
                bytes(plan.message_bytes_replicated),
                format!("{} copies", short(demand.replicas)),
            ),
            (
                "messages with media, a day",
                short(plan.media_per_day),
                format!("{} % of all", short(demand.media_share * 100.0)),
            ),
            (
                "media, a day",
                bytes(plan.media_bytes_per_day),
                format!("{} each, in object storage", bytes(demand.media_bytes)),
            ),
            (
                "media, retained",
                bytes(plan.media_bytes_retained),
                format!("{} years, one copy", short(demand.retention_years)),
            ),
        ],
    );
    section("Connections", &connections(demand, plan));
    section("Presence", &presence(demand, plan));
    section("Machines", &machines(demand, plan));
    text.push_str(NOTES);
    text
}

type Row = (&'static str, String, String);

fn connections(demand: &Demand, plan: &Plan) -> [Row; 4] {
    [
        ("connections at the peak", short(demand.concurrent), "WebSockets, all open at once".to_owned()),
        (
            "memory, by the budget",
            bytes(plan.connection_bytes_budgeted),
            format!("{} each, kernel included", bytes(demand.bytes_per_connection)),
        ),
        (
            "memory, as measured",
            bytes(plan.connection_bytes_measured),
            format!("{CONNECTION_USER_BYTES} B ours, {CONNECTION_KERNEL_BYTES} B the kernel's, each"),
        ),
        (
            "memory of one gateway",
            bytes(plan.connection_bytes_per_gateway),
            format!("{} connections, by the budget", short(demand.connections_per_gateway)),
        ),
    ]
}

fn presence(demand: &Demand, plan: &Plan) -> [Row; 5] {
    [
        (
            "writes/s if each beat of 5 s wrote",
            short(plan.presence_writes_per_s_naive),
            "what is to be avoided".to_owned(),
        ),
        (
            "writes/s if each beat wrote",
            short(plan.presence_writes_per_s_by_heartbeat),
            format!("one every {} s", short(demand.heartbeat_s)),
        ),
        (
            "writes/s here",
            short(plan.presence_writes_per_s),
            format!(
                "last_seen_at when going offline, {} times a day and user; beats stay in memory",
                short(demand.sessions_per_user_day)
            ),
        ),
        (
            "CPU of an idle connection",
            format!("{} us/s", short(plan.presence_us_per_connection_s)),
            format!("{} us for a beat and its answer", short(demand.heartbeat_us)),
        ),
        (
            "CPU of all of them",
            format!("{} cores", short(plan.gateway_cores_for_heartbeats)),
            format!("{} beats a second", short(plan.heartbeats_per_s)),
        ),
    ]
}

fn machines(demand: &Demand, plan: &Plan) -> [Row; 5] {
    let percent = short(demand.utilization * 100.0);
    [
        (
            "gateways",
            grouped(plan.gateways),
            format!(
                "{} for connections, {} for CPU ({} cores each, {percent} % used)",
                grouped(plan.gateways_for_connections),
                grouped(plan.gateways_for_cpu),
                short(demand.cores_per_gateway)
            ),
        ),
        (
            "gateway cores busy at the peak",
            short(plan.gateway_cores_for_messages + plan.gateway_cores_for_heartbeats),
            format!(
                "{} with messages, {} with beats",
                short(plan.gateway_cores_for_messages),
                short(plan.gateway_cores_for_heartbeats)
            ),
        ),
        (
            "routers at the average",
            grouped(plan.routers_at_average),
            format!("{}/s each, {percent} % used", short(demand.messages_per_router_s)),
        ),
        ("routers at the peak", grouped(plan.routers), "the same".to_owned()),
        (
            "router cores busy at the peak",
            short(plan.router_cores),
            format!("{} messages/s a core, gateways' part taken off", short(demand.messages_per_core_s)),
        ),
    ]
}

const NOTES: &str = "\
A core is a hardware thread. Defaults are the source document's numbers, and for what a core, a router and a connection do, those
measured on one machine with two hardware threads that ran server and load generator together (README, \"First marks\"): full
batches, 1.6 recipients a message, no receipts. Receipts add a commit for each recipient and batch. Replace them by your own.
";

/// The JSON object: what went in, and what came out.
#[must_use]
pub fn json(demand: &Demand, plan: &Plan) -> String {
    let object = json!({
        "demand": {
            "registered": demand.registered,
            "dau": demand.daily_users,
            "messages_per_user_day": demand.messages_per_user_day,
            "sessions_per_user_day": demand.sessions_per_user_day,
            "peak_factor": demand.peak_factor,
            "concurrent": demand.concurrent,
            "bytes_per_connection": demand.bytes_per_connection,
            "bytes_per_message": demand.bytes_per_message,
            "media_share": demand.media_share,
            "media_bytes": demand.media_bytes,
            "retention_years": demand.retention_years,
            "replicas": demand.replicas,
            "heartbeat_s": demand.heartbeat_s,
            "heartbeat_us": demand.heartbeat_us,
            "connections_per_gateway": demand.connections_per_gateway,
            "cores_per_gateway": demand.cores_per_gateway,
            "messages_per_core_s": demand.messages_per_core_s,
            "gateway_share": demand.gateway_share,
            "messages_per_router_s": demand.messages_per_router_s,
            "utilization": demand.utilization,
        },
        "measured": {
            "connection_user_bytes": CONNECTION_USER_BYTES,
            "connection_kernel_bytes": CONNECTION_KERNEL_BYTES,
        },
        "plan": plan,
    });
    format!("{object:#}\n")
}

/// Three digits and a unit: `694 K`, `20 B`, `1.16`.
fn short(value: f64) -> String {
    scaled(value, &["", "K", "M", "B", "T", "Q"])
}

/// The same for bytes: `7.3 PB`.
fn bytes(value: f64) -> String {
    scaled(value, &["B", "KB", "MB", "GB", "TB", "PB", "EB", "ZB"])
}

fn scaled(value: f64, units: &[&str]) -> String {
    let (mut value, mut place) = (value, 0);
    while value >= 999.5 && place + 1 < units.len() {
        value /= 1_000.0;
        place += 1;
    }
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let mut digits = format!("{value:.decimals$}");
    if decimals > 0 {
        digits.truncate(digits.trim_end_matches('0').trim_end_matches('.').len());
    }
    let unit = units.get(place).copied().unwrap_or_default();
    if unit.is_empty() { digits } else { format!("{digits} {unit}") }
}

/// A whole number with commas: `1,000`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        for (value, expected) in [
            (0.0, "0"),
            (0.18, "0.18"),
            (40.0, "40"),
            (231_481.48, "231 K"),
            (694_444.4, "694 K"),
            (999_600.0, "1 M"),
            (2e9, "2 B"),
            (1e21, "1000000 Q"),
        ] {
            assert_eq!(short(value), expected);
        }
        assert_eq!(
            (bytes(7.3e15), bytes(200.0), bytes(1e12)),
            ("7.3 PB".into(), "200 B".into(), "1 TB".into())
        );
        assert_eq!(
            (grouped(7), grouped(1_000), grouped(1_234_567)),
            ("7".into(), "1,000".into(), "1,234,567".into())
        );
    }
}
