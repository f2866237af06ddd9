//! What one shard counts, copied from its plain counters to the metrics page once a turn.

use carillon_node::metric_table;
use carillon_node::metrics::{COUNT, Def, Meter};
use rustix::time::{ClockId, clock_gettime};

use super::Driver;
use super::station::Station;

metric_table! {
    pub(super) enum Row {
        Connections = Def::gauge("gateway_connections", "Open client connections."),
        AcceptRests = Def::counter("gateway_accept_rests", "Times that accepting rested: at the cap, or out of descriptors."),
        TurnCompletions = Def::histogram("gateway_turn_completions", "Completions taken in one turn.", &COUNT),
        LinkQueuedBytes = Def::gauge("gateway_link_queued_bytes", "Bytes that wait for routers."),
        ThreadCpu = Def::counter("gateway_cpu_nanoseconds", "CPU time of the shards' threads."),
        IoDriver = Def::gauge("io_driver", "1 for the I/O driver in use.").by("driver", super::driver::NAMES),
    }
}

/// One shard's meter.
pub(super) struct ShardMeters {
    meter: Meter<Row>,
    cpu_ns: u64,
    turns_count: u32,
}

/// The thread's CPU clock is read once in so many turns: it costs a system call.
const CPU_EVERY_TURNS: u32 = 64;

impl ShardMeters {
    /// Begins with everything at zero.
    pub(super) fn new(meter: Meter<Row>, driver: Driver) -> ShardMeters {
        meter.set_at(Row::IoDriver, driver.index(), 1);
        ShardMeters { meter, cpu_ns: 0, turns_count: 0 }
    }

    /// Accepting rests.
    pub(super) fn accept_rests(&mut self) {
        self.meter.add(Row::AcceptRests, 1);
    }

    /// The end of a turn.
    pub(super) fn turn(&mut self, station: &Station, connections_count: usize, completions_count: usize) {
        self.meter.set(Row::Connections, i64::try_from(connections_count).unwrap_or(i64::MAX));
        self.meter.observe(Row::TurnCompletions, completions_count as u64);
        self.meter.set(Row::LinkQueuedBytes, i64::try_from(station.lanes().queued_bytes()).unwrap_or(i64::MAX));
        self.turns_count += 1;
        if self.turns_count >= CPU_EVERY_TURNS || completions_count == 0 {
            self.turns_count = 0;
            let cpu_ns = thread_cpu_ns();
            self.meter.add(Row::ThreadCpu, cpu_ns.saturating_sub(self.cpu_ns));
            self.cpu_ns = cpu_ns;
        }
    }
}

/// CPU time of the calling thread, in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
