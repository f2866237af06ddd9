//! What this machine is and allows, for plans and reports.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::options::Machine;
use crate::report;

/// Source addresses that are taken on loopback: enough that ports in TIME_WAIT never matter.
pub(super) const ADDRESSES_COUNT: u32 = 16;

/// Raises the soft limit of descriptors to the hard one, and says what is allowed then.
pub(super) fn allowed(server: SocketAddr, has_rings: bool) -> Machine {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    let is_loopback = server.is_ipv4() && server.ip().is_loopback();
    Machine {
        descriptors_max: allowed.unwrap_or(u64::MAX),
        has_rings,
        ports_count: ports_count().unwrap_or(28_232),
        addresses_count: if is_loopback { u64::from(ADDRESSES_COUNT) } else { 1 },
    }
}

fn ports_count() -> Option<u64> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last + 1).checked_sub(first)
}

/// The machine, for a report.
pub(super) fn facts(io: &str, engines: usize) -> report::Machine {
    let unknown = || "unknown".to_owned();
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let memory_kib =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| number_after(&text, "MemTotal:"));
    let system = rustix::system::uname();
    report::Machine {
        cpu: cpu.unwrap_or_else(unknown),
        threads: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
        memory_bytes: memory_kib.unwrap_or(0) * 1024,
        io: io.to_owned(),
        engines,
    }
}

/// The commit under test: `CARILLON_COMMIT`, else that of the working directory.
pub(super) fn commit() -> String {
    let named = std::env::var("CARILLON_COMMIT").ok();
    let asked = || {
        let output = Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    named.or_else(asked).filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// The first number on the line that begins with `name`.
pub(super) fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
