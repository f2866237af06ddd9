//! Durable messages a second and CPU a message: the embedded engine beside fjall's own journal and a bare log, in one run
//! on one disk.
//!
//! `cargo bench -p carillon-benches --bench store` measures; without `--bench` (as in a test run) it only goes through the
//! motions. A message is an event row (about 150 bytes), an idempotency row (about 32) and an update of its
//! conversation's head. CPU is of the whole process, user and system, and is counted until the background work has come
//! to rest; messages a second are counted until the last commit returned.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and files")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use carillon_store::backend::embedded::{Embedded, Options};
use carillon_store::txn::Engine;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};

const CONVERSATIONS_COUNT: u64 = 1000;
/// The bare log's file; written in circles.
const LOG_BYTES: u64 = 64 << 20;

/// The three rows of message `index`.
fn message(index: u64) -> [(Bytes, Bytes); 3] {
    let conversation = index % CONVERSATIONS_COUNT;
    let seq = index / CONVERSATIONS_COUNT;
    let mut event = BytesMut::with_capacity(17);
    event.put_u8(b'e');
    event.put_u64(conversation);
    event.put_u64(seq);
    let mut idempotency = BytesMut::with_capacity(27);
    idempotency.put_slice(b"i\0\x01");
    idempotency.put_u64(conversation);
    idempotency.put_u64(scatter(index));
    idempotency.put_u64(scatter(index + 1));
    let mut head = BytesMut::with_capacity(9);
    head.put_u8(b'h');
    head.put_u64(conversation);
    let mut text = BytesMut::zeroed(133);
    for (at, byte) in text.iter_mut().enumerate() {
        *byte = b'a' + ((index as usize + at * 7) % 26) as u8;
    }
    [
        (event.freeze(), text.freeze()),
        (idempotency.freeze(), Bytes::copy_from_slice(&seq.to_be_bytes()[3..])),
        (
            head.freeze(),
            Bytes::copy_from_slice(&[seq.to_be_bytes(), index.to_be_bytes(), index.to_be_bytes()].concat()),
        ),
    ]
}

fn scatter(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// CPU the process has used, all threads, user and system.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Waits until nothing in the process has worked for a while; a minute at most.
fn rest() {
    for _ in 0..1200 {
        let before = cpu();
        std::thread::sleep(Duration::from_millis(50));
        if cpu() - before < Duration::from_millis(1) {
            return;
        }
    }
}

struct Measured {
    messages_per_s: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Runs `commits_count` commits and lets the background come to rest.
fn measure(commits_count: u64, batch: u64, mut commit: impl FnMut(std::ops::Range<u64>)) -> Measured {
    let cpu_before = cpu();
    let began = Instant::now();
    let mut latencies_us = Vec::with_capacity(commits_count as usize);
    for round in 0..commits_count {
        let sent = Instant::now();
        commit(round * batch..(round + 1) * batch);
        latencies_us.push(sent.elapsed().as_nanos() as f64 / 1e3);
    }
    let took = began.elapsed();
    rest();
    let messages = (commits_count * batch) as f64;
    latencies_us.sort_by(f64::total_cmp);
    let at = |part: f64| latencies_us[((latencies_us.len() - 1) as f64 * part) as usize];
    Measured {
        messages_per_s: messages / took.as_secs_f64(),
        cpu_us: (cpu() - cpu_before).as_secs_f64() * 1e6 / messages,
        p50_us: at(0.5),
        p99_us: at(0.99),
    }
}

fn embedded(dir: &Path, commits_count: u64, batch: u64, reads: bool) -> Measured {
    let engine = Embedded::open(dir, Options::default()).expect("opens");
    let measured = measure(commits_count, batch, |indexes| {
        engine
            .commit(0, &mut |txn| {
                for index in indexes.clone() {
                    let [event, idempotency, head] = message(index);
                    if reads {
                        assert!(txn.get(&idempotency.0)?.is_none());
                        std::hint::black_box(txn.get(&head.0)?);
                    }
                    txn.set(event.0, event.1);
                    txn.set(idempotency.0, idempotency.1);
                    txn.set(head.0, head.1);
                }
                Ok(())
            })
            .expect("commits");
    });
    if std::env::var_os("CARILLON_BENCH_FIGURES").is_some() {
        for figure in engine.figures() {
            eprintln!("  {} {:?}", figure.name, figure.value);
        }
    }
    engine.close().expect("closes");
    measured
}

fn fjall_alone(dir: &Path, commits_count: u64, batch: u64) -> Measured {
    let database = Database::builder(dir).open().expect("opens");
    let rows = database.keyspace("rows", KeyspaceCreateOptions::default).expect("opens");
    measure(commits_count, batch, |indexes| {
        let mut commit = database.batch().durability(Some(PersistMode::SyncData));
        for index in indexes {
            for (key, value) in message(index) {
                commit.insert(&rows, &key[..], &value[..]);
            }
        }
        commit.commit().expect("commits");
    })
}

/// A file that was written before, so that overwriting it allocates nothing.
fn written_file(dir: &Path) -> File {
    std::fs::create_dir_all(dir).expect("a directory");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("log"))
        .expect("opens");
    let zeros = vec![0; 1 << 20];
    for offset in (0..LOG_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).expect("writes");
    }
    file.sync_all().expect("syncs");
    file
}

fn bare_log(dir: &Path, commits_count: u64, batch: u64) -> Measured {
    let file = written_file(dir);
    let mut offset = 0;
    measure(commits_count, batch, |indexes| {
        let mut record = Vec::with_capacity(512 * batch as usize);
        for index in indexes {
            for (key, value) in message(index) {
                record.extend_from_slice(&key);
                record.extend_from_slice(&value);
            }
        }
        if offset + record.len() as u64 > LOG_BYTES {
            offset = 0;
        }
        file.write_all_at(&record, offset).expect("writes");
        file.sync_data().expect("syncs");
        offset += record.len() as u64;
    })
}

/// What the disk itself takes for one small durable write, in microseconds: median and 99th percentile.
fn probe(dir: &Path, count: u64) -> (f64, f64) {
    let file = written_file(dir);
    let page = [7; 4096];
    let measured = measure(count, 1, |indexes| {
        file.write_all_at(&page, indexes.start * 4096 % LOG_BYTES).expect("writes");
        file.sync_data().expect("syncs");
    });
    (measured.p50_us, measured.p99_us)
}

fn main() {
    let is_full = std::env::args().any(|argument| argument == "--bench");
    let scale = if is_full { 1 } else { 100 };
    // One line of the table alone, for a profiler: "400-embedded".
    let only = std::env::var("CARILLON_BENCH_ONLY").ok();
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name);
    let (p50_us, p99_us) = probe(&place("probe"), 1000 / scale);
    println!("disk: 4 KiB write + fdatasync, prewritten: p50 {p50_us:.0} us, p99 {p99_us:.0} us");
    println!();
    println!("| messages a commit | engine | messages/s | CPU us/message | commit p50 us | commit p99 us |");
    println!("|---:|---|---:|---:|---:|---:|");
    for (batch, commits_count) in [(1_u64, 8_000_u64), (32, 8_000), (400, 2_500)] {
        let commits_count = (commits_count / scale).max(2);
        for name in ["embedded", "embedded, with reads", "fjall's own journal", "bare log"] {
            if only.as_ref().is_some_and(|only| *only != format!("{batch}-{name}")) {
                continue;
            }
            let path = place(&format!("{batch}-{name}"));
            let measured = match name {
                "embedded" => embedded(&path, commits_count, batch, false),
                "embedded, with reads" => embedded(&path, commits_count, batch, true),
                "bare log" => bare_log(&path, commits_count, batch),
                _ => fjall_alone(&path, commits_count, batch),
            };
            let Measured { messages_per_s, cpu_us, p50_us, p99_us } = measured;
            println!("| {batch} | {name} | {messages_per_s:.0} | {cpu_us:.2} | {p50_us:.0} | {p99_us:.0} |");
            std::fs::remove_dir_all(&path).expect("removes");
        }
    }
}
