//! `engines`: what an echo costs Carillon's gateway, beside a ring driven by hand and beside other ways to do it.
//!
//! ```text
//! cd benches/engines && cargo run --release --locked
//! ```
//!
//! Each engine runs in a process of its own, on one thread, for a client that is the same for all: a round opens
//! connections, has each say bursts of one message and then of sixteen, and leaves many more idle. What a message costs is
//! the CPU of the server's process, user and system, over the number of messages; the kernel's work for loopback TCP, which
//! is most of it, is in it, and so is the receiving end's part of it. The engines take turns, and who begins changes from
//! round to round; ratios are of the same round. Nothing else may run meanwhile.

#![expect(unsafe_code, reason = "rings are driven by hand here")]

mod buffers;
mod engine;
mod frames;
mod load;
mod process;
mod table;

use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};

use engine::Engine;
use load::Connections;
use process::{Running, Side};
use table::{Rounds, Sample};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares what an echo costs the gateway's loop, a ring driven by hand, and other engines.
///
/// Exit status 1 when a median is not within its bound, 3 when a run says nothing.
#[derive(Parser)]
struct Arguments {
    /// Which ones; the raw ring is always among them [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    engines: Vec<Engine>,
    /// Rounds of all engines
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections that talk
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Bursts of each, with one message and again with sixteen
    #[arg(long, default_value_t = 2_000)]
    bursts: u64,
    /// Connections that do nothing
    #[arg(long, default_value_t = 5_000)]
    idle: usize,
    /// Be one of them
    #[arg(long, hide = true, value_enum)]
    serve: Option<Engine>,
}

/// Messages on their way on a connection.
pub const DEPTHS: [usize; 2] = [1, 16];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_descriptors();
    if let Some(engine) = arguments.serve {
        return if process::serve(engine).is_ok() { ExitCode::SUCCESS } else { ExitCode::from(3) };
    }
    process::stay_on(Side::Client);
    let is_wanted = |engine: &Engine| {
        *engine == Engine::RawRing || arguments.engines.is_empty() || arguments.engines.contains(engine)
    };
    let engines: Vec<Engine> = Engine::value_variants().iter().copied().filter(is_wanted).collect();
    let mut rounds = Rounds::default();
    for round in 0..arguments.rounds.max(1) {
        for place in 0..engines.len() {
            let engine = engines[(place + round) % engines.len()];
            if rounds.is_refused(engine) {
                continue;
            }
            let server = match Running::start(engine) {
                Ok(server) => server,
                Err(why) => {
                    rounds.refuse(engine, why);
                    continue;
                }
            };
            match measure(engine, &server, &arguments) {
                Ok(sample) => rounds.add(engine, sample),
                Err(error) => {
                    eprintln!("engines: {}: {error}", engine.name());
                    return ExitCode::from(3);
                }
            }
        }
        eprintln!("round {} of {}", round + 1, arguments.rounds.max(1));
    }
    if rounds.tell(&engines) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One round of an engine.
fn measure(engine: Engine, server: &Running, arguments: &Arguments) -> std::io::Result<Sample> {
    let talking = Connections::open(engine, server.address, arguments.connections)?;
    let mut sample = Sample::default();
    for (place, depth) in DEPTHS.into_iter().enumerate() {
        talking.exchange(depth, arguments.bursts / 10)?;
        let before = server.cpu()?;
        let took = talking.exchange(depth, arguments.bursts)?;
        let used = server.cpu()?.saturating_sub(before);
        let messages = (arguments.connections * depth) as f64 * arguments.bursts as f64;
        sample.cpu_us[place] = used.as_secs_f64() * 1e6 / messages;
        sample.per_s[place] = messages / took.as_secs_f64();
    }
    let before = server.memory_bytes()?;
    let idle = Connections::open(engine, server.address, arguments.idle)?;
    let grown = server.memory_bytes()?.saturating_sub(before);
    sample.idle_bytes = grown as f64 / arguments.idle.max(1) as f64;
    drop((idle, talking));
    Ok(sample)
}

/// As many descriptors as are allowed.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Too few show when connections are opened.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
