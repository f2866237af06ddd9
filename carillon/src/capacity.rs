//! `carillon capacity`: how many gateways, routers and bytes a number of people needs.
//!
//! The arithmetic is the one of the source document, with its numbers as defaults; what one core does, and what a
//! connection costs, is measured (README, "First marks") and may be replaced by figures of another machine.
//!
//! # Invariants
//! - Pure: [`Demand::read`] checks words, [`Plan::of`] computes, [`print`](mod@print) shows.
//! - Every figure of a plan is finite and at most 10^24: [`Plan::of`] refuses the rest with one line.
//! - No line of it grows with all registered users: a process needs memory for its own connections and no others (NF6).

pub mod print;

use std::io::Write;

use carillon_node::exit::Fatal;
use carillon_protocol::ids::ID_MAX;

use crate::args::CapacityArguments;

/// Seconds of a day, for averages.
const DAY_S: f64 = 86_400.0;
/// Days of a year, for retention.
const YEAR_DAYS: f64 = 365.0;
/// The devices of one user that may be connected: beyond it the server answers 4505.
const DEVICES_PER_USER_MAX: f64 = 32.0;
/// The largest number that is taken, and the most machines that are counted.
const NUMBER_MAX: f64 = ID_MAX as f64;
/// The largest rate or number of bytes that is answered with: beyond a yottabyte a digit was typed too many.
const RESULT_MAX: f64 = 1e24;
/// The heartbeat of the naive design that the source document warns of.
const NAIVE_HEARTBEAT_S: f64 = 5.0;

/// Our memory per idle authenticated connection above an empty gateway, measured with 200,000 of them (README, "First marks").
pub const CONNECTION_USER_BYTES: f64 = 517.0;
/// The kernel's memory per idle connection on the gateway's side, buffers empty: socket 2,355, inode 824, file 190,
/// entry 192, armed poll 252, the rest around them; from the slabs of Linux 6.18 before and with 8,000 connections of
/// the monoio driver.
pub const CONNECTION_KERNEL_BYTES: f64 = 4_000.0;

/// What is asked for, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Users that exist.
    pub registered: f64,
    /// Users of a day.
    pub daily_users: f64,
    /// What each of them sends a day.
    pub messages_per_user_day: f64,
    /// Times a user of a day comes online.
    pub sessions_per_user_day: f64,
    /// Peak over average.
    pub peak_factor: f64,
    /// Connections at the peak.
    pub concurrent: f64,
    /// The budget for a connection, kernel included.
    pub bytes_per_connection: f64,
    /// Stored bytes of a message.
    pub bytes_per_message: f64,
    /// Messages with media, of all.
    pub media_share: f64,
    /// Bytes of one of those.
    pub media_bytes: f64,
    /// Years that messages are kept.
    pub retention_years: f64,
    /// Copies of everything stored.
    pub replicas: f64,
    /// Seconds between two heartbeats of a connection.
    pub heartbeat_s: f64,
    /// CPU of a heartbeat and its answer, in microseconds.
    pub heartbeat_us: f64,
    /// Connections that one gateway is given.
    pub connections_per_gateway: f64,
    /// Hardware threads of a machine for gateways.
    pub cores_per_gateway: f64,
    /// Messages a second and hardware thread, gateways and routers together.
    pub messages_per_core_s: f64,
    /// Of the CPU of a message, the gateways' part.
    pub gateway_share: f64,
    /// Messages a second that one router commits at most.
    pub messages_per_router_s: f64,
    /// How much of what is measured is planned with.
    pub utilization: f64,
}

/// How a number may be.
enum Range {
    /// A whole number from 1.
    Count,
    /// Any number above 0.
    Above0,
    /// From 0 to 1.
    Share,
    /// Above 0, up to 1.
    Part,
    /// From 1.
    Factor,
}

impl Demand {
    /// Reads the words of the command line.
    ///
    /// # Errors
    /// Status 2 and one line: a word that is no number, or a number that cannot be.
    pub fn read(words: &CapacityArguments) -> Result<Demand, Fatal> {
        use Range::{Above0, Count, Factor, Part, Share};
        let demand = Demand {
            registered: number("registered", &words.registered, &Count)?,
            daily_users: number("dau", &words.dau, &Count)?,
            messages_per_user_day: number("messages-per-user-day", &words.messages_per_user_day, &Above0)?,
            sessions_per_user_day: number("sessions-per-user-day", &words.sessions_per_user_day, &Above0)?,
            peak_factor: number("peak-factor", &words.peak_factor, &Factor)?,
            concurrent: number("concurrent", &words.concurrent, &Count)?,
            bytes_per_connection: number("bytes-per-connection", &words.bytes_per_connection, &Count)?,
            bytes_per_message: number("bytes-per-message", &words.bytes_per_message, &Count)?,
            media_share: number("media-share", &words.media_share, &Share)?,
            media_bytes: number("media-bytes", &words.media_bytes, &Count)?,
            retention_years: number("retention-years", &words.retention_years, &Above0)?,
            replicas: number("replicas", &words.replicas, &Count)?,
            heartbeat_s: number("heartbeat-s", &words.heartbeat_s, &Above0)?,
            heartbeat_us: number("heartbeat-us", &words.heartbeat_us, &Above0)?,
            connections_per_gateway: number(
                "connections-per-gateway",
                &words.connections_per_gateway,
                &Count,
            )?,
            cores_per_gateway: number("cores-per-gateway", &words.cores_per_gateway, &Count)?,
            messages_per_core_s: number("messages-per-core-s", &words.messages_per_core_s, &Above0)?,
            gateway_share: number("gateway-share", &words.gateway_share, &Part)?,
            messages_per_router_s: number("messages-per-router-s", &words.messages_per_router_s, &Above0)?,
            utilization: number("utilization", &words.utilization, &Part)?,
        };
        if demand.registered > ID_MAX as f64 {
            return Err(Fatal::config("--registered does not fit the ids: they end at 2^63 - 1"));
        }
        if demand.daily_users > demand.registered {
            return Err(Fatal::config(format!(
                "--dau {} is more than --registered {}",
                words.dau, words.registered
            )));
        }
        if demand.concurrent > demand.registered * DEVICES_PER_USER_MAX {
            return Err(Fatal::config(format!(
                "--concurrent {} is more than {DEVICES_PER_USER_MAX} devices for each of --registered {}",
                words.concurrent, words.registered
            )));
        }
        Ok(demand)
    }
}

/// A number with an optional K, M, B or T behind it.
fn number(name: &str, text: &str, range: &Range) -> Result<f64, Fatal> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        Some(b'B' | b'G') => (&text[..text.len() - 1], 1e9),
        Some(b'T') => (&text[..text.len() - 1], 1e12),
        _ => (text, 1.0),
    };
    // `f64` reads "inf", "nan" and exponents as well, which nobody means here.
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = digits.parse::<f64>().ok().filter(|_| is_plain).map(|value| value * factor);
    let (wanted, is_good): (_, fn(f64) -> bool) = match range {
        Range::Count => ("a whole number from 1", |value| value >= 1.0 && value.fract() == 0.0),
        Range::Above0 => ("a number above 0", |value| value > 0.0),
        Range::Share => ("a share from 0 to 1", |value| (0.0..=1.0).contains(&value)),
        Range::Part => ("a share above 0, up to 1", |value| value > 0.0 && value <= 1.0),
        Range::Factor => ("a number from 1", |value| value >= 1.0),
    };
    value.filter(|value| *value <= NUMBER_MAX && is_good(*value)).ok_or_else(|| {
        Fatal::config(format!("--{name} {text:?} is not {wanted}, such as 40, 1.5, 10K, 500M, 2B"))
    })
}

/// What is needed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Plan {
    /// Messages of a day.
    pub messages_per_day: f64,
    /// Messages a second, averaged over a day.
    pub messages_per_s_average: f64,
    /// Messages a second at the peak.
    pub messages_per_s_peak: f64,
    /// Bytes of messages a day, one copy.
    pub message_bytes_per_day: f64,
    /// Bytes of messages over the retention, one copy.
    pub message_bytes_retained: f64,
    /// The same in all copies.
    pub message_bytes_replicated: f64,
    /// Messages with media a day.
    pub media_per_day: f64,
    /// Bytes of media a day, one copy, in object storage.
    pub media_bytes_per_day: f64,
    /// Bytes of media over the retention, one copy.
    pub media_bytes_retained: f64,
    /// Memory of all connections by the budget.
    pub connection_bytes_budgeted: f64,
    /// Memory of all connections as measured, kernel included.
    pub connection_bytes_measured: f64,
    /// Memory of one gateway's connections by the budget.
    pub connection_bytes_per_gateway: f64,
    /// Heartbeats a second of all connections.
    pub heartbeats_per_s: f64,
    /// What one idle connection costs, in microseconds of CPU a second.
    pub presence_us_per_connection_s: f64,
    /// Writes a second when every heartbeat of 5 s is written, which is what is avoided.
    pub presence_writes_per_s_naive: f64,
    /// Writes a second when every heartbeat is written.
    pub presence_writes_per_s_by_heartbeat: f64,
    /// Writes a second here: `last_seen_at`, once for each time that somebody goes offline; averaged over a day.
    pub presence_writes_per_s: f64,
    /// Hardware threads of gateways that are busy with messages at the peak.
    pub gateway_cores_for_messages: f64,
    /// Hardware threads of gateways that are busy with heartbeats at the peak.
    pub gateway_cores_for_heartbeats: f64,
    /// Hardware threads of routers and their stores that are busy at the peak.
    pub router_cores: f64,
    /// Gateways that the connections need.
    pub gateways_for_connections: u64,
    /// Gateways that the CPU of messages and heartbeats needs.
    pub gateways_for_cpu: u64,
    /// Gateways: the larger of the two.
    pub gateways: u64,
    /// Routers at the average rate.
    pub routers_at_average: u64,
    /// Routers at the peak rate.
    pub routers: u64,
}

impl Plan {
    /// The plan for a demand.
    ///
    /// # Errors
    /// Status 2 and one line: a result that is out of bounds.
    pub fn of(demand: &Demand) -> Result<Plan, Fatal> {
        let messages_per_day = demand.daily_users * demand.messages_per_user_day;
        let messages_per_s_average = messages_per_day / DAY_S;
        let messages_per_s_peak = messages_per_s_average * demand.peak_factor;
        let message_bytes_per_day = messages_per_day * demand.bytes_per_message;
        let retained_days = YEAR_DAYS * demand.retention_years;
        let message_bytes_retained = message_bytes_per_day * retained_days;
        let media_per_day = messages_per_day * demand.media_share;
        let media_bytes_per_day = media_per_day * demand.media_bytes;
        let heartbeats_per_s = demand.concurrent / demand.heartbeat_s;
        let gateway_cores_for_messages =
            messages_per_s_peak / demand.messages_per_core_s * demand.gateway_share;
        let gateway_cores_for_heartbeats = heartbeats_per_s * demand.heartbeat_us / 1e6;
        let gateway_cores = gateway_cores_for_messages + gateway_cores_for_heartbeats;
        let gateways_for_connections =
            whole("connections-per-gateway", demand.concurrent / demand.connections_per_gateway)?;
        let gateways_for_cpu =
            whole("cores-per-gateway", gateway_cores / (demand.cores_per_gateway * demand.utilization))?;
        let router_rate_per_s = demand.messages_per_router_s * demand.utilization;
        let plan = Plan {
            messages_per_day,
            messages_per_s_average,
            messages_per_s_peak,
            message_bytes_per_day,
            message_bytes_retained,
            message_bytes_replicated: message_bytes_retained * demand.replicas,
            media_per_day,
            media_bytes_per_day,
            media_bytes_retained: media_bytes_per_day * retained_days,
            connection_bytes_budgeted: demand.concurrent * demand.bytes_per_connection,
            connection_bytes_measured: demand.concurrent * (CONNECTION_USER_BYTES + CONNECTION_KERNEL_BYTES),
            connection_bytes_per_gateway: demand.bytes_per_connection
                * demand.connections_per_gateway.min(demand.concurrent),
            heartbeats_per_s,
            presence_us_per_connection_s: demand.heartbeat_us / demand.heartbeat_s,
            presence_writes_per_s_naive: demand.concurrent / NAIVE_HEARTBEAT_S,
            presence_writes_per_s_by_heartbeat: heartbeats_per_s,
            presence_writes_per_s: demand.daily_users * demand.sessions_per_user_day / DAY_S,
            gateway_cores_for_messages,
            gateway_cores_for_heartbeats,
            router_cores: messages_per_s_peak / demand.messages_per_core_s * (1.0 - demand.gateway_share),
            gateways_for_connections,
            gateways_for_cpu,
            gateways: gateways_for_connections.max(gateways_for_cpu),
            routers_at_average: whole("messages-per-router-s", messages_per_s_average / router_rate_per_s)?,
            routers: whole("messages-per-router-s", messages_per_s_peak / router_rate_per_s)?,
        };
        for (name, value) in [
            ("messages a day: lower --dau or --messages-per-user-day", plan.messages_per_day),
            ("messages a second: lower --peak-factor", plan.messages_per_s_peak),
            ("bytes of messages: lower --retention-years or --replicas", plan.message_bytes_replicated),
            ("bytes of media: lower --retention-years or --media-bytes", plan.media_bytes_retained),
            ("bytes of connections: lower --concurrent", plan.connection_bytes_budgeted),
            ("bytes of connections: lower --concurrent", plan.connection_bytes_measured),
            ("heartbeats a second: raise --heartbeat-s", plan.heartbeats_per_s),
            ("writes of last_seen_at: lower --sessions-per-user-day", plan.presence_writes_per_s),
            ("cores: raise --messages-per-core-s", plan.router_cores),
        ] {
            if !(value.is_finite() && value <= RESULT_MAX) {
                return Err(Fatal::config(format!("more than 10^24 {name}")));
            }
        }
        Ok(plan)
    }
}

/// A number of machines: at least one.
fn whole(name: &str, value: f64) -> Result<u64, Fatal> {
    let machines = value.ceil().max(1.0);
    if machines < NUMBER_MAX {
        return Ok(machines as u64);
    }
    Err(Fatal::config(format!("2^63 and more machines: raise --{name}")))
}

/// Prints the plan, for people or as JSON.
///
/// # Errors
/// Status 2 and one line, when the demand cannot be.
pub fn run(words: &CapacityArguments, out: &mut dyn Write) -> Result<(), Fatal> {
    let demand = Demand::read(words)?;
    let plan = Plan::of(&demand)?;
    let text = if words.json { print::json(&demand, &plan) } else { print::table(&demand, &plan) };
    // A closed pipe is the reader's wish.
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests;
