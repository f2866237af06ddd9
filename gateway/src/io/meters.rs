//! What one shard counts, copied from its plain counters to the metrics page once a turn.

use carillon_node::metric_table;
use carillon_node::metrics::{COUNT, Def, Meter, WALL_MS};
use carillon_protocol::reason::Close;
use carillon_protocol::time::Time;
use rustix::time::{ClockId, clock_gettime};

use super::Driver;
use super::station::Station;
use crate::counters::{Counters, HEARD, LIMITED_BY, SAID, SECURED};
use crate::turn::Service;

metric_table! {
    pub(super) enum Row {
        Connections = Def::gauge("gateway_connections", "Open client connections."),
        QueuedBytes = Def::gauge("gateway_queued_bytes", "Bytes that wait for clients, shared ones once for each."),
        Sessions = Def::gauge("gateway_sessions", "Identified sessions."),
        Slots = Def::gauge("gateway_slots", "Slots of users and conversations whose owner is known, and those whose owner is reached and confirms it; once for each shard.").by("owner", &["known", "confirmed"]),
        Accepted = Def::counter("gateway_accepted", "Connections accepted."),
        AcceptRests = Def::counter("gateway_accept_rests", "Times that accepting rested: at the cap, or out of descriptors."),
        RingEvents = Def::counter("gateway_ring_events", "What is rare in a ring: no room for a completion, no buffer for a receive, no place for a connection, a send of which a part was taken.")
            .by("event", &["completions_full", "buffers_empty", "places_full", "send_short"]),
        Upgrades = Def::counter("gateway_upgrades", "Upgrade requests, by outcome.").by("outcome", &["done", "refused", "http", "turned_away"]),
        Handshakes = Def::counter("gateway_tls_handshakes", "TLS handshakes, by outcome: also clients that spoke plainly, and trusted proxies whose header could not be read.").by("outcome", &SECURED),
        Bytes = Def::counter("gateway_bytes", "Bytes of client connections.").by("direction", DIRECTIONS),
        Frames = Def::counter("gateway_frames", "Frames of client connections.").by("direction", DIRECTIONS),
        Heard = Def::counter("gateway_heard", "Frames from clients, by kind.").by("kind", &HEARD),
        Said = Def::counter("gateway_said", "Frames queued for clients, by kind.").by("kind", &SAID),
        Refusals = Def::counter("gateway_refusals", "Errors told to clients."),
        Submits = Def::counter("gateway_submits", "Commands sent to routers, repeats included."),
        Delivers = Def::counter("gateway_delivers", "Events received from routers."),
        Events = Def::counter("gateway_events", "Events queued for clients.").by("how", &["live", "paged"]),
        CommitToDeliver = Def::histogram(
            "commit_to_deliver_seconds",
            "From an event's created_at, given in its commit, until it is queued live, once for each client; by wall clocks",
            &WALL_MS,
        ),
        EphemeralDropped = Def::counter("gateway_ephemeral_dropped", "Typing and presence frames that found no room."),
        RateLimited = Def::counter("rate_limited", "Commands and upgrades refused by rate, by whose rate it was")
            .by("by", &LIMITED_BY),
        Behinds = Def::counter("gateway_behinds", "Sessions that were told behind."),
        Resets = Def::counter("gateway_resets", "Conversations that were reset."),
        UnknownOutcomes = Def::counter("gateway_unknown_outcomes", "Commands whose outcome stayed unknown."),
        Lanes = Def::counter("gateway_lanes", "Lanes to routers, by what became of them.").by("event", &["up", "down"]),
        Unreadable = Def::counter("gateway_unreadable", "Link frames and stored events that this build cannot read."),
        Closes = Def::counter("gateway_closes", "Connections closed by the server, by close code.").by("code", CLOSE_CODES),
        TurnCompletions = Def::histogram("gateway_turn_completions", "Completions taken in one turn.", &COUNT),
        LinkQueuedBytes = Def::gauge("gateway_link_queued_bytes", "Bytes that wait for routers."),
        ThreadCpu = Def::counter("gateway_cpu_nanoseconds", "CPU time of the shards' threads."),
        IoDriver = Def::gauge("io_driver", "Gateway shards, by the I/O driver that serves them.").by("driver", super::driver::NAMES),
    }
}

const DIRECTIONS: &[&str] = &["in", "out"];
/// In the order of [`Close::ALL`].
const CLOSE_CODES: &[&str] = &[
    "1000", "1001", "1002", "1003", "1007", "1009", "1011", "1012", "1013", "4003", "4008", "4010", "4011",
    "4012", "4500", "4501", "4503", "4505", "4506", "4507",
];
const _: () = assert!(CLOSE_CODES.len() == Close::ALL.len());

/// What is rare in a ring, counted since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingEvents {
    /// Accepting rested.
    pub(super) accept_rests: u64,
    /// Completions did not fit their queue, so the kernel kept them.
    pub(super) completions_full: u64,
    /// A receive found no buffer, and was asked for again.
    pub(super) buffers_empty: u64,
    /// A connection was dropped because the table was full. Never, if we count well.
    pub(super) places_full: u64,
    /// The kernel took a part of what was to be sent.
    pub(super) sends_short: u64,
}

/// One shard's meter.
pub(super) struct ShardMeters {
    meter: Meter<Row>,
    before: Counters,
    ring_before: RingEvents,
    cpu_ns: u64,
    publish_at: Time,
}

/// How often the page is brought up to date.
const PUBLISH_MS: u64 = 100;

impl ShardMeters {
    /// Begins with everything at zero.
    pub(super) fn new(meter: Meter<Row>, driver: Driver) -> ShardMeters {
        meter.set_at(Row::IoDriver, driver.index(), 1);
        ShardMeters::without_driver(meter)
    }

    /// For a shard that no driver of sockets runs: the pumps'.
    pub(super) fn without_driver(meter: Meter<Row>) -> ShardMeters {
        ShardMeters {
            meter,
            before: Counters::default(),
            ring_before: RingEvents::default(),
            cpu_ns: 0,
            publish_at: Time(0),
        }
    }

    /// Accepting rests.
    pub(super) fn accept_rests(&mut self) {
        self.meter.add(Row::AcceptRests, 1);
    }

    /// What a ring counted so far.
    pub(super) fn ring(&mut self, now: RingEvents) {
        let before = std::mem::replace(&mut self.ring_before, now);
        self.meter.add(Row::AcceptRests, now.accept_rests - before.accept_rests);
        let rows = [
            now.completions_full - before.completions_full,
            now.buffers_empty - before.buffers_empty,
            now.places_full - before.places_full,
            now.sends_short - before.sends_short,
        ];
        for (at, more) in rows.into_iter().enumerate() {
            self.meter.add_at(Row::RingEvents, at, more);
        }
    }

    /// The end of the last turn: nothing that was counted stays untold.
    pub(super) fn end(&mut self, station: &Station<impl Service>) {
        self.publish(station.counters(), station.lanes().queued_bytes());
    }

    /// The end of a turn.
    pub(super) fn turn(&mut self, station: &Station<impl Service>, completions_count: usize) {
        self.meter.observe(Row::TurnCompletions, completions_count as u64);
        if station.now() < self.publish_at {
            return;
        }
        self.publish_at = station.now().after_ms(PUBLISH_MS);
        self.publish(station.counters(), station.lanes().queued_bytes());
        let cpu_ns = thread_cpu_ns();
        self.meter.add(Row::ThreadCpu, cpu_ns.saturating_sub(self.cpu_ns));
        self.cpu_ns = cpu_ns;
    }

    /// Brings the page up to what a shard counted so far.
    pub(super) fn publish(&mut self, now: Counters, link_queued_bytes: usize) {
        let meter = &self.meter;
        let before = std::mem::replace(&mut self.before, now.clone());
        meter.set(Row::Connections, gauge(now.connections));
        meter.set(Row::QueuedBytes, gauge(now.queued_bytes));
        meter.set(Row::Sessions, gauge(now.sessions));
        meter.set_at(Row::Slots, 0, gauge(now.slots_owned));
        meter.set_at(Row::Slots, 1, gauge(now.slots_confirmed));
        meter.set(Row::LinkQueuedBytes, gauge(link_queued_bytes as u64));
        let rows = [
            (Row::Accepted, 0, now.accepted - before.accepted),
            (Row::Upgrades, 0, now.upgraded - before.upgraded),
            (Row::Upgrades, 1, now.upgrades_refused - before.upgrades_refused),
            (Row::Upgrades, 3, now.turned_away - before.turned_away),
            (Row::Upgrades, 2, now.handed_off - before.handed_off),
            (Row::Bytes, 0, now.bytes_in - before.bytes_in),
            (Row::Bytes, 1, now.bytes_out - before.bytes_out),
            (Row::Frames, 0, now.frames_in - before.frames_in),
            (Row::Frames, 1, now.frames_out - before.frames_out),
            (Row::Refusals, 0, now.refusals - before.refusals),
            (Row::Submits, 0, now.submits - before.submits),
            (Row::Delivers, 0, now.delivers - before.delivers),
            (Row::Events, 0, now.events_live - before.events_live),
            (Row::Events, 1, now.events_paged - before.events_paged),
            (Row::EphemeralDropped, 0, now.ephemeral_dropped - before.ephemeral_dropped),
            (Row::Behinds, 0, now.behinds - before.behinds),
            (Row::Resets, 0, now.resets - before.resets),
            (Row::UnknownOutcomes, 0, now.unknown_outcomes - before.unknown_outcomes),
            (Row::Lanes, 0, now.lanes_up - before.lanes_up),
            (Row::Lanes, 1, now.lanes_down - before.lanes_down),
            (Row::Unreadable, 0, now.unreadable - before.unreadable),
        ];
        for (row, at, more) in rows {
            meter.add_at(row, at, more);
        }
        let mut delivered = now.delivered;
        delivered.iter_mut().zip(before.delivered).for_each(|(now, before)| *now -= before);
        meter.merge(Row::CommitToDeliver, &delivered, now.delivered_ms - before.delivered_ms);
        for (at, (now, before)) in now.secured.iter().zip(before.secured).enumerate() {
            meter.add_at(Row::Handshakes, at, now - before);
        }
        for (at, (now, before)) in now.closes.iter().zip(before.closes).enumerate() {
            meter.add_at(Row::Closes, at, now - before);
        }
        for (at, (now, before)) in now.heard.iter().zip(before.heard).enumerate() {
            meter.add_at(Row::Heard, at, now - before);
        }
        for (at, (now, before)) in now.limited.iter().zip(before.limited).enumerate() {
            meter.add_at(Row::RateLimited, at, now - before);
        }
        for (at, (now, before)) in now.said.iter().zip(before.said).enumerate() {
            meter.add_at(Row::Said, at, now - before);
        }
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// CPU time of the calling thread, in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
