//! An engine in a process of its own, and what it has used up to now.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::engine::Engine;

/// The word before the address, and the one before the reason why there is none.
const LISTENING: &str = "listening ";
const REFUSED: &str = "refused ";

/// Ends with its scope.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// Why it does not run here, in its own words.
    pub fn start(engine: Engine) -> Result<Running, String> {
        let program = std::env::current_exe().map_err(|error| format!("no program: {error}"))?;
        let mut child = Command::new(program)
            .args(["--serve", engine.name()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it does not start: {error}"))?;
        let stdout = child.stdout.take();
        let mut running = Running { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        }
        let line = line.trim_end();
        let address = line.strip_prefix(LISTENING).ok_or(line.strip_prefix(REFUSED).unwrap_or("it ended"))?;
        running.address = address.parse().map_err(|error| format!("{address:?}: {error}"))?;
        Ok(running)
    }

    /// CPU of all its threads, user and system, as the scheduler counts it.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> std::io::Result<Duration> {
        let mut total_ns = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let ran_ns = text.split(' ').next().and_then(|ran_ns| ran_ns.parse::<u64>().ok());
            total_ns += ran_ns.ok_or_else(|| std::io::Error::other(format!("schedstat says {text:?}")))?;
        }
        Ok(Duration::from_nanos(total_ns))
    }

    /// Memory of its own that is resident, in bytes: no files, nothing of the kernel's. Counted page by page: what
    /// `/proc/PID/status` says is a few hundred kilobytes late.
    ///
    /// # Errors
    /// The process is gone.
    pub fn memory_bytes(&self) -> std::io::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kib =
            line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib * 1_024).ok_or_else(|| std::io::Error::other("no line Anonymous"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves in this process, for whoever started it, and no longer than that one lives.
///
/// # Errors
/// The engine does not run here.
pub fn serve(engine: Engine) -> Result<(), String> {
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).map_err(|errno| errno.to_string())?;
    // Or memory would grow by two megabytes at a time.
    rustix::thread::disable_transparent_huge_pages(true).map_err(|errno| errno.to_string())?;
    stay_on(Side::Server);
    match engine.serve(|address| println!("{LISTENING}{address}")) {
        Ok(never) => match never {},
        Err(why) => {
            println!("{REFUSED}{}", why.to_string().replace('\n', "; "));
            Err(why.to_string())
        }
    }
}

/// Who has which processor.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The first.
    Server,
    /// The second.
    Client,
}

/// Stays on a processor that the other side does not use, so that no run depends on where the scheduler puts whom. With one
/// processor everybody shares it.
pub fn stay_on(side: Side) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let (Some(first), Some(second)) = (processors.next(), processors.next()) else { return };
    let mut own = CpuSet::new();
    own.set(match side {
        Side::Server => first,
        Side::Client => second,
    });
    // Only the noise is larger when it is refused.
    let _ = sched_setaffinity(None, &own);
}
