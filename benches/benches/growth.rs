//! How the embedded store grows: what a message of 100 bytes comes to on disk, and what commits and pages of history cost,
//! from a million stored messages to a hundred million, and from a thousand conversations to a million.
//!
//! ```text
//! cargo bench -p carillon-benches --bench growth -- --messages 1000000,10000000,100000000
//! cargo bench -p carillon-benches --bench growth -- --messages 2000000 --conversations 1000000
//! ```
//!
//! Without `--bench` (as in a test run) it only goes through the motions. Messages go to conversations of two, drawn at
//! random, 200 in a commit, each with a `client_msg_id` of its own: so each is an event, an idempotency row and a change of
//! its conversation's head. At each count the store is closed and its tables are merged, then every file of it is counted,
//! and it is opened again: pages of fifty messages are read once to warm it, then measured. Commits are those of the last
//! [`COMMITS`] before the count. CPU is of the whole process, the background's merging included.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and files")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carillon_node::prng::Prng;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::record::ConversationType;
use carillon_store::backend::embedded::{Embedded, Options};
use carillon_store::conformance::world::{World, create, send};
use carillon_store::txn::Engine;
use carillon_store::verb::{Answer, Op, PageQuery, Query};
use clap::Parser;
use fjall::{Database, KeyspaceCreateOptions};

/// Messages of a commit: about what one has when 400 are on their way.
const BATCH: u64 = 200;
/// Users and conversations of a commit that makes them.
const MADE_BATCH: usize = 1_000;
/// Commits that are measured before each count.
const COMMITS: u64 = 2_000;
/// Pages that are read at each count, and messages of one.
const PAGES: usize = 20_000;
const PAGE: u32 = 50;
const CONTENT_BYTES: usize = 100;

/// Measures the embedded store as it grows.
#[derive(Parser)]
struct Arguments {
    /// Stored messages at which it is measured, ascending
    #[arg(long, value_delimiter = ',', default_value = "1000000")]
    messages: Vec<u64>,
    /// Conversations, each of two users
    #[arg(long, default_value_t = 10_000)]
    conversations: u64,
    /// Where the store is made, and removed again [default: a temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// What cargo says to a benchmark
    #[arg(long)]
    bench: bool,
}

fn main() {
    let mut arguments = Arguments::parse();
    let pages = if arguments.bench { PAGES } else { 20 };
    if !arguments.bench {
        (arguments.messages, arguments.conversations) = (vec![2 * BATCH, 4 * BATCH], 10);
    }
    let directory = match &arguments.directory {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .expect("a directory");
    let mut store = Store::make(directory.path(), arguments.conversations);
    println!("{} conversations", arguments.conversations);
    println!(
        "| messages | bytes a message | messages/s | CPU us a message | commit p50 us | commit p99 us | newest page p50 us | p99 us |\
         \n|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for count in arguments.messages {
        let filled = store.fill(count);
        let bytes = store.compact();
        let (p50_us, p99_us) = store.pages(pages);
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {p50_us:.0} | {p99_us:.0} |",
            store.messages,
            bytes as f64 / store.messages as f64,
            filled.messages_per_s,
            filled.cpu_us,
            filled.p50_us,
            filled.p99_us,
        );
    }
}

struct Store {
    directory: PathBuf,
    /// `None` while it is closed.
    world: Option<World<Arc<dyn Engine>>>,
    conversations: Vec<ConversationId>,
    messages: u64,
    prng: Prng,
}

struct Filled {
    messages_per_s: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Store {
    fn make(directory: &Path, conversations: u64) -> Store {
        let mut world = open(directory);
        let mut prng = Prng::new(1);
        let users: Vec<Op> =
            (1..=2).map(|user| Op::Provision { user: UserId(user), name: String::new() }).collect();
        world.commit(&users);
        let conversations: Vec<ConversationId> =
            (0..conversations).map(|_| ConversationId(prng.next_u64() >> 1)).collect();
        for part in conversations.chunks(MADE_BATCH) {
            let made: Vec<Op> = part
                .iter()
                .map(|id| create(id.0, ConversationType::Group, &[1, 2], &format!("create {}", id.0)))
                .collect();
            world.commit(&made);
        }
        Store { directory: directory.to_owned(), world: Some(world), conversations, messages: 0, prng }
    }

    /// Adds messages until there are so many.
    fn fill(&mut self, count: u64) -> Filled {
        let world = self.world.as_mut().expect("open");
        let (cpu_before, began, before) = (cpu(), Instant::now(), self.messages);
        let mut taken_us = Vec::new();
        while self.messages < count {
            let ops: Vec<Op> = (0..BATCH)
                .map(|_| {
                    let conversation = self.conversations[self.prng.index(self.conversations.len())];
                    let name = format!("{:016x}-{:016x}", self.prng.next_u64(), self.prng.next_u64());
                    send(1 + self.prng.below(2), conversation, &name, &text(&mut self.prng))
                })
                .collect();
            // Some 20,000 messages a second.
            world.now.0 += BATCH / 20;
            let since = Instant::now();
            world.commit(&ops);
            self.messages += BATCH;
            if count - self.messages.min(count) < COMMITS * BATCH {
                taken_us.push(since.elapsed().as_nanos() as f64 / 1e3);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        rest();
        let added = (self.messages - before) as f64;
        let [p50_us, p99_us] = percentiles(taken_us);
        let cpu_us = (cpu() - cpu_before).as_secs_f64() * 1e6 / added;
        Filled { messages_per_s: added / seconds, cpu_us, p50_us, p99_us }
    }

    /// Merges all that can be merged; the bytes of all files then.
    fn compact(&mut self) -> u64 {
        let world = self.world.take().expect("open");
        world.engine.close().expect("closes");
        drop(world);
        let database = Database::builder(self.directory.join("tables")).open().expect("opens");
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default).expect("opens");
        rows.major_compact().expect("merges");
        drop((rows, database));
        self.world = Some(open(&self.directory));
        bytes_of(&self.directory)
    }

    /// Reads the newest page of conversations drawn at random; microseconds, median and 99th percentile.
    fn pages(&mut self, count: usize) -> (f64, f64) {
        let world = self.world.as_ref().expect("open");
        let drawn: Vec<ConversationId> =
            (0..count).map(|_| self.conversations[self.prng.index(self.conversations.len())]).collect();
        let read = |conversation: &ConversationId| {
            let since = Instant::now();
            let query = PageQuery {
                limit: PAGE,
                newest_first: true,
                ..carillon_store::conformance::world::page(2, *conversation, 0, Seq::MAX)
            };
            assert!(matches!(world.ask(&Query::Page(query)), Answer::Page(_)));
            since.elapsed().as_nanos() as f64 / 1e3
        };
        // The first time warms it.
        let measure = || percentiles(drawn.iter().map(read).collect());
        measure();
        let [p50_us, p99_us] = measure();
        (p50_us, p99_us)
    }
}

fn open(directory: &Path) -> World<Arc<dyn Engine>> {
    let engine: Arc<dyn Engine> = Arc::new(Embedded::open(directory, Options::default()).expect("opens"));
    World::begin(engine)
}

/// About a hundred bytes of words, as people use them: some often, most rarely.
fn text(prng: &mut Prng) -> String {
    const WORDS: &str = "the to and you it is in that of we for on have but not with this so me can are just was what be will \
        do know like time get when see there good well about think going tomorrow meeting please thanks really \
        great maybe later today dinner train minutes weekend photo call already question answer birthday coffee \
        weather holiday kitchen garden station ticket mountain project deadline window children brother sister";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut text = String::with_capacity(CONTENT_BYTES + 16);
    while text.len() < CONTENT_BYTES {
        // The lower of two draws: words at the front come more often.
        let word = words[prng.index(words.len()).min(prng.index(words.len()))];
        text.push_str(word);
        text.push(if prng.chance(1, 9) { ',' } else { ' ' });
    }
    text.truncate(CONTENT_BYTES);
    text
}

fn percentiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|part| {
        values.get((values.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
    })
}

/// What a directory takes on its disk, all files and folders in it.
fn bytes_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(directory).expect("reads");
    entries
        .map(|entry| {
            let entry = entry.expect("reads");
            let metadata = entry.metadata().expect("reads");
            let inside = if metadata.is_dir() { bytes_of(&entry.path()) } else { 0 };
            metadata.blocks() * 512 + inside
        })
        .sum()
}

/// CPU the process has used, all threads, user and system.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Waits until nothing in the process has worked for a while; ten minutes at most.
fn rest() {
    for _ in 0..12_000 {
        let before = cpu();
        std::thread::sleep(Duration::from_millis(50));
        if cpu() - before < Duration::from_millis(1) {
            return;
        }
    }
}
