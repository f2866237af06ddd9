//! The standard `process_*` metrics, read when somebody asks. What cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use rustix::time::ClockId;

use crate::clock::{Clock, nanoseconds};

/// `/proc/self/stat` field 22, counted from the field after the command name, which is field 2.
const START_FIELD: usize = 22 - 3;

/// What [`Process`] shows at most.
pub(super) const SERIES_COUNT: usize = 5;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let cpu = ConstCounter::new(nanoseconds(ClockId::ProcessCPUTime) as f64 / 1e9);
        let help = "Time spent on all threads, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?)?;

        let limit = getrlimit(Resource::Nofile).current.map(|limit| limit as f64);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory that is in RAM", resident_bytes()),
            ("process_open_fds", "Descriptors that are open", open_fds()),
            ("process_max_fds", "Descriptors that may be open", limit),
            ("process_start_time_seconds", "When the process started, since the epoch", start_s()),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<f64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some((pages * rustix::param::page_size() as u64) as f64)
}

/// The size of the directory since Linux 6.2; counting entries before that.
fn open_fds() -> Option<f64> {
    let counted = fs::metadata("/proc/self/fd").ok()?.len();
    if counted > 0 {
        return Some(counted as f64);
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

/// Now, less the process's age by the boot clock: the kernel tells the start in ticks since boot.
fn start_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command name may hold spaces and parentheses; the last one closes it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(START_FIELD)?.parse().ok()?;
    let started_s = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    let age_s = Clock.now_ns() as f64 / 1e9 - started_s;
    Some(Clock.wall_ms() as f64 / 1e3 - age_s)
}
