//! `floors`: what the kernel and the disk take alone for what Carillon has them do: nothing of ours is in it, and nothing of
//! ours can be faster.
//!
//! ```text
//! cargo run --release -p carillon-benches --bin floors -- --directory DATA_DIR
//! ```
//!
//! Every round measures each floor once, so that a disk or a machine whose speed drifts favours none; told are the least, the
//! median and the most of the rounds. CPU is of the thread that does it. Nothing else may run meanwhile.

#![expect(clippy::disallowed_methods, reason = "it reads the clock, and opens files and sockets")]

use std::fs::File;
use std::io::{Read as _, Result, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use carillon_benches::table::percentile;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// Measures what fdatasync, a bare log, TCP and a fan-out take alone.
#[derive(Parser)]
struct Arguments {
    /// Where the log's file is made; on the disk that is to be measured [default: where temporary files are]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Rounds of all floors
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Bytes of a commit; 182 messages of one-to-one chat make 39 KB
    #[arg(long, default_value_t = 40_960)]
    commit_bytes: usize,
    /// Sockets of the fan-out
    #[arg(long, default_value_t = 1_000)]
    sockets: usize,
}

/// The log's file, written before, as the engine does it: what is overwritten allocates nothing. In circles.
const LOG_BYTES: usize = 64 << 20;
/// Commits of a round.
const COMMITS: usize = 300;
/// A small commit: a page.
const PAGE_BYTES: usize = 4_096;
/// A message there and back.
const ECHO_BYTES: usize = 64;
/// Messages of a round.
const ECHOES: usize = 20_000;
/// What every member of a group hears.
const EVENT_BYTES: usize = 256;
/// Events of a round; as many fit the sockets, and are read afterwards.
const EVENTS: usize = 50;

/// What one of it took in a round: microseconds.
struct Taken {
    cpu_us: f64,
    wall_us: f64,
}

/// A floor, and what its rounds came to.
struct Floor {
    name: String,
    cpu_us: Vec<f64>,
    wall_us: Vec<f64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floors: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptors();
    let temporary;
    let directory = match &arguments.directory {
        Some(directory) => directory.as_path(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    let log = Log::create(directory)?;
    let crowd = Crowd::gather(arguments.sockets)?;
    let mut floors: Vec<Floor> = Vec::new();
    for _ in 0..arguments.rounds.max(1) {
        let mut floor = |name: String, taken: Taken| {
            let place = floors.iter().position(|floor| floor.name == name).unwrap_or_else(|| {
                floors.push(Floor { name, cpu_us: Vec::new(), wall_us: Vec::new() });
                floors.len() - 1
            });
            floors[place].cpu_us.push(taken.cpu_us);
            floors[place].wall_us.push(taken.wall_us);
        };
        for commit_bytes in [PAGE_BYTES, arguments.commit_bytes] {
            floor(
                format!("fdatasync alone, behind {commit_bytes} bytes"),
                log.commits(commit_bytes, Clocked::Sync)?,
            );
            floor(
                format!("log alone: {commit_bytes} bytes written and synced"),
                log.commits(commit_bytes, Clocked::Both)?,
            );
        }
        floor(format!("TCP echo alone: {ECHO_BYTES} bytes received and sent"), echo()?);
        floor(
            format!("fan-out alone: {EVENT_BYTES} bytes to one of {} sockets", crowd.count()),
            crowd.hear()?,
        );
    }
    println!("| floor | us of CPU: min · median · max | us: min · median · max |");
    println!("|---|---|---|");
    for floor in &floors {
        println!("| {} | {} | {} |", floor.name, told(&floor.cpu_us), told(&floor.wall_us));
    }
    Ok(())
}

fn told(values: &[f64]) -> String {
    [0.0, 0.5, 1.0].map(|share| format!("{:.2}", percentile(values, share))).join(" · ")
}

/// What is measured of a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clocked {
    /// The sync.
    Sync,
    /// The write before it too.
    Both,
}

/// A bare log.
struct Log(File);

impl Log {
    fn create(directory: &Path) -> Result<Log> {
        let path = directory.join("floors.log");
        let file = File::options().write(true).create_new(true).open(&path)?;
        // Nobody else needs its name, and so nothing stays behind.
        std::fs::remove_file(path)?;
        let zeroes = vec![0; 1 << 20];
        for offset in (0..LOG_BYTES).step_by(zeroes.len()) {
            file.write_all_at(&zeroes, offset as u64)?;
        }
        file.sync_all()?;
        Ok(Log(file))
    }

    /// A round of commits. Wall time is the median of one: a disk has outliers of a thousand times as much.
    fn commits(&self, commit_bytes: usize, clocked: Clocked) -> Result<Taken> {
        let record = vec![0x5a; commit_bytes];
        let mut walls_us = Vec::with_capacity(COMMITS);
        let mut cpu = Duration::ZERO;
        for number in 0..COMMITS {
            let offset = number * commit_bytes % (LOG_BYTES - commit_bytes);
            if clocked == Clocked::Sync {
                self.0.write_all_at(&record, offset as u64)?;
            }
            let (since, cpu_before) = (Instant::now(), thread_cpu());
            if clocked == Clocked::Both {
                self.0.write_all_at(&record, offset as u64)?;
            }
            self.0.sync_data()?;
            cpu += thread_cpu() - cpu_before;
            walls_us.push(since.elapsed().as_secs_f64() * 1e6);
        }
        Ok(Taken { cpu_us: cpu.as_secs_f64() * 1e6 / COMMITS as f64, wall_us: percentile(&walls_us, 0.5) })
    }
}

/// Messages that come back on one connection, one at a time. CPU is of the side that receives and sends back, and wakes for
/// each.
fn echo() -> Result<Taken> {
    let (mut near, mut far) = connected(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)?;
    let server = std::thread::spawn(move || -> Result<Duration> {
        let mut message = [0; ECHO_BYTES];
        let before = thread_cpu();
        for _ in 0..ECHOES {
            far.read_exact(&mut message)?;
            far.write_all(&message)?;
        }
        Ok(thread_cpu() - before)
    });
    let mut message = [7; ECHO_BYTES];
    let since = Instant::now();
    for _ in 0..ECHOES {
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
    }
    let wall = since.elapsed();
    let cpu = server.join().map_err(|_| std::io::Error::other("the server's thread panicked"))??;
    let per_message = |time: Duration| time.as_secs_f64() * 1e6 / ECHOES as f64;
    Ok(Taken { cpu_us: per_message(cpu), wall_us: per_message(wall) })
}

/// Both ends of many connections.
struct Crowd(Vec<(TcpStream, TcpStream)>);

impl Crowd {
    fn gather(count: usize) -> Result<Crowd> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        (0..count).map(|_| connected(&listener)).collect::<Result<_>>().map(Crowd)
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    /// Events for all of them, by one system call a copy. Nobody waits for them, so nobody is woken; the kernel delivers within
    /// the call, as it does on loopback.
    fn hear(&self) -> Result<Taken> {
        let event = [7; EVENT_BYTES];
        let (since, cpu_before) = (Instant::now(), thread_cpu());
        for _ in 0..EVENTS {
            for (sender, _) in &self.0 {
                (&*sender).write_all(&event)?;
            }
        }
        let (wall, cpu) = (since.elapsed(), thread_cpu() - cpu_before);
        let mut heard = vec![0; EVENTS * EVENT_BYTES];
        for (_, receiver) in &self.0 {
            (&*receiver).read_exact(&mut heard)?;
        }
        let per_copy = |time: Duration| time.as_secs_f64() * 1e6 / (EVENTS * self.count()) as f64;
        Ok(Taken { cpu_us: per_copy(cpu), wall_us: per_copy(wall) })
    }
}

/// Both ends of a new connection.
fn connected(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// As many descriptors as are allowed: a socket of the fan-out takes two.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Too few show when sockets are opened.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// CPU of the calling thread, user and system.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
