//! A million connections that say something wrong, at the live process: the cases of the list of
//! [`handshakes`](super::handshakes), each damaged by chance. What has to be heard is not known, but that each connection
//! ends, that no answer says that the server is at fault, that it lives on, that its memory comes back, and that a client
//! beside them waits no longer than beside as many who say nothing wrong.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carillon_node::prng::Prng;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::handshakes::SETTINGS;
use super::handshakes::list::{self, Case};
use super::{DRIVERS, Run, Skipped, Tally, refusal};
use crate::client::{Client, Wire};
use crate::crowd::ground::Latencies;
use crate::server::{Deployment, PATIENCE, Server};
use crate::stage;

/// Attackers: as many as the reference machine has hardware threads.
const ATTACKERS: u8 = 2;
/// Before the damage as many connections as a part of it that say nothing wrong: the measure for what is beside them.
const SOUND_PART: u64 = 10;
/// The most damages to one connection.
const DAMAGES_MAX: u64 = 6;
/// The longest run of bytes that is added, doubled or left out.
const RUN_BYTES_MAX: u64 = 40;
/// How much longer a client may wait beside who is malformed than beside who is not.
const RATIO_MAX: f64 = 2.0;
/// How much of its memory the server may keep, and how soon the rest has to be back.
const KEPT_MAX: f64 = 0.05;
const MEMORY_PATIENCE: Duration = Duration::from_secs(20);
/// The client beside them.
const NEIGHBOUR: u64 = 1;

/// Plays it.
pub(super) fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let binary = run.binary()?;
    let mut tally = Tally::default();
    let count = run.pick(6_000, 1_000_000 / DRIVERS.len() as u64 + 1);
    let mut ended = 0;
    for driver in DRIVERS {
        match refusal(driver) {
            None => ended += on_driver(run, &binary, driver, count, &mut tally),
            Some(why) => tally.note(format!("{driver}: {why}")),
        }
    }
    tally.count_at_least("malformed connections, all ended", ended, run.pick(18_000, 1_000_000));
    Ok(tally)
}

fn on_driver(run: &mut Run, binary: &str, driver: &str, count: u64, tally: &mut Tally) -> u64 {
    let io = format!("io.driver={driver}");
    let settings = [&SETTINGS[..], &[io.as_str()]].concat();
    let mut server = Server::start(binary, Deployment::OneProcess, &settings);
    stage::introduce(&server, NEIGHBOUR);
    let mut near = Client::login(&server, Wire::Json, NEIGHBOUR, "neighbour");
    near.until_type("caught_up");
    let cases = list::all(&server.token(NEIGHBOUR, "raw"));
    let sound: Vec<&Case> = cases.iter().filter(|case| case.expected.ends_with("close 1000")).collect();
    let (address, seed) = (server.address(), run.seed);
    let mut storm = |what: &str, count: u64, bytes: &(dyn Fn(&mut Prng) -> Vec<u8> + Sync)| {
        storm(address, seed, count, bytes, &mut near, |done| {
            run.progress(|| format!("{driver}, {what}: {done} of {count} connections"));
        })
    };
    let whole = |case: &Case| [&case.head[..], &case.frames].concat();
    let before = storm("sound", count / SOUND_PART, &|prng| whole(pick(prng, &sound)));
    let memory_before = resident_kib(&server);
    let after = storm("malformed", count, &|prng| {
        let case = pick(prng, &cases.iter().collect::<Vec<_>>());
        damaged(whole(case), prng)
    });
    let memory_after = settled_kib(&server, memory_before);

    if server.gateway.as_mut().is_none_or(|process| process.ended().is_some()) {
        tally.broken(format!("{driver}: the server has ended"));
    }
    for broken in before.broken.iter().chain(&after.broken) {
        tally.broken(format!("{driver}: {broken}"));
    }
    let ratio = after.waits.percentile_ms(99.0) / before.waits.percentile_ms(99.0);
    tally.note(format!(
        "{driver}: a client beside sound connections waits {}; beside malformed ones {}: {ratio:.2} times as long",
        before.waits.words(),
        after.waits.words(),
    ));
    tally.note(format!("{driver}: memory {memory_before} KiB before, {memory_after} KiB after"));
    // What depends on the machine's mood is told in the short form, and judged in the long one.
    if run.pick(false, ratio > RATIO_MAX) {
        tally.broken(format!("{driver}: who is beside malformed connections waits {ratio:.2} times as long"));
    }
    if run.pick(false, is_kept(memory_before, memory_after)) {
        tally.broken(format!(
            "{driver}: of {memory_after} KiB more is kept than before ({memory_before} KiB)"
        ));
    }
    for (what, number) in
        [("upgraded", after.upgraded), ("refused", after.refused), ("unanswered", after.silent)]
    {
        tally.count_at_least(&format!("{what} on {driver}"), number, count / 100);
    }
    after.upgraded + after.refused + after.silent
}

fn pick<'c>(prng: &mut Prng, cases: &[&'c Case]) -> &'c Case {
    cases[usize::try_from(prng.below(cases.len() as u64)).unwrap_or(0)]
}

/// What became of many connections, and how long the client beside them waited meanwhile.
#[derive(Default)]
struct Ends {
    upgraded: u64,
    refused: u64,
    silent: u64,
    broken: Vec<String>,
    waits: Latencies,
}

/// So many connections, as fast as they go, and beside them one client that asks for an answer again and again.
fn storm(
    address: SocketAddr,
    seed: u64,
    count: u64,
    bytes: &(dyn Fn(&mut Prng) -> Vec<u8> + Sync),
    near: &mut Client,
    mut progress: impl FnMut(u64),
) -> Ends {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|attacker| {
                let next = &next;
                scope.spawn(move || {
                    let mut ends = Ends::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return ends;
                        }
                        // Each connection's own, so that one can be played again whoever plays it.
                        let mut prng = Prng::new(seed.wrapping_mul(count).wrapping_add(number));
                        let said = bytes(&mut prng);
                        match attack(address, source(attacker, number), &said, &mut prng) {
                            Ok(heard) => ends.count(&heard),
                            Err(odd) => ends.broken.push(format!("connection {number}: {odd}")),
                        }
                    }
                })
            })
            .collect();
        let mut ends = Ends::default();
        while attackers.iter().any(|attacker| !attacker.is_finished()) {
            let since = Instant::now();
            if !near.is_quiet() {
                ends.broken.push("the client beside them heard something".to_owned());
                break;
            }
            ends.waits.record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
            progress(next.load(Ordering::Relaxed).min(count));
        }
        for attacker in attackers {
            let other = attacker.join().expect("an attacker does not panic");
            ends.upgraded += other.upgraded;
            ends.refused += other.refused;
            ends.silent += other.silent;
            ends.broken.extend(other.broken);
        }
        ends
    })
}

impl Ends {
    fn count(&mut self, heard: &[u8]) {
        match heard.get(..12) {
            Some(b"HTTP/1.1 101") => self.upgraded += 1,
            Some(status) if status.starts_with(b"HTTP/1.1 4") => self.refused += 1,
            None if heard.is_empty() => self.silent += 1,
            _ => {
                self.broken.push(format!("an answer like {:?}", heard[..heard.len().min(60)].escape_ascii()))
            }
        }
    }
}

/// An address of this machine for each connection, so that no port has to wait until it may be used again.
fn source(attacker: u8, number: u64) -> Ipv4Addr {
    let [third, fourth, ..] = number.to_le_bytes();
    Ipv4Addr::new(127, attacker + 1, third, fourth)
}

/// Says it, and that there is no more, and hears everything to the end.
fn attack(address: SocketAddr, source: Ipv4Addr, said: &[u8], prng: &mut Prng) -> Result<Vec<u8>, String> {
    let mut stream = connect(address, source).map_err(|error| format!("no connection: {error}"))?;
    let pieces_count = prng.between(1, 3);
    let piece_bytes = said.len().div_ceil(usize::try_from(pieces_count).unwrap_or(1)).max(1);
    for piece in said.chunks(piece_bytes) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(format!("no end behind {} bytes", heard.len()))
        }
        // A reset is an end: the server has not taken all that was said.
        _ => Ok(heard),
    }
}

fn connect(address: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(source.into(), 0))?;
    rustix::net::connect(&socket, &address)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same bytes with some damage.
fn damaged(mut bytes: Vec<u8>, prng: &mut Prng) -> Vec<u8> {
    for _ in 0..prng.between(1, DAMAGES_MAX) {
        let at = usize::try_from(prng.below(bytes.len() as u64 + 1)).unwrap_or(0);
        let run_bytes = usize::try_from(prng.between(1, RUN_BYTES_MAX)).unwrap_or(1);
        let end = (at + run_bytes).min(bytes.len());
        match prng.below(6) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << prng.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = prng.below(256).to_le_bytes()[0];
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            4 => {
                let noise: Vec<u8> = (0..run_bytes).map(|_| prng.below(256).to_le_bytes()[0]).collect();
                bytes.splice(at..at, noise);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn is_kept(before_kib: u64, after_kib: u64) -> bool {
    after_kib as f64 > before_kib as f64 * (1.0 + KEPT_MAX)
}

/// What the server's process has in memory, when it is no more than before, or not even then.
fn settled_kib(server: &Server, before_kib: u64) -> u64 {
    let deadline = Instant::now() + MEMORY_PATIENCE;
    loop {
        let kib = resident_kib(server);
        if !is_kept(before_kib, kib) || Instant::now() >= deadline {
            return kib;
        }
        // Nobody tells when an allocator gives memory back.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn resident_kib(server: &Server) -> u64 {
    let pid = server.gateway.as_ref().map_or(0, |process| process.pid());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
