//! What an appended message costs in each engine: decided, numbered, and committed by the verbs of the store, in batches.
//! (Beside the floors of disk and of other stores: the bench `store`.)
//!
//! `cargo bench -p carillon-benches --bench append` measures; without `--bench` each runs once. What the embedded engine
//! takes is mostly its disk's `fdatasync`, once a batch.

mod quick;

use std::sync::Arc;

use carillon_protocol::ids::ConversationId;
use carillon_store::backend::embedded::{self, Embedded};
use carillon_store::backend::memory::{self, Memory};
use carillon_store::conformance::world::{World, send};
use carillon_store::txn::Engine;
use carillon_store::verb::Op;
use criterion::{Criterion, Throughput};
use quick::TEXT;

/// Conversations of two that the messages of a batch are spread over.
const CONVERSATIONS: u64 = 100;

fn append(criterion: &mut Criterion, name: &str, engine: Arc<dyn Engine>) {
    let mut world = World::begin(engine);
    let conversations: Vec<ConversationId> =
        (1..=CONVERSATIONS).map(|conversation| world.group(conversation, &[1, 2])).collect();
    // A batch is of one commit lane.
    let lane = |world: &World<_>, conversation| world.lane(&send(1, conversation, "", ""));
    let first = lane(&world, conversations[0]);
    let conversations: Vec<ConversationId> =
        conversations.into_iter().filter(|conversation| lane(&world, *conversation) == first).collect();
    let mut group = criterion.benchmark_group(format!("append, {name}"));
    let mut count = 0_u64;
    for batch in [1_u64, 100] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("a commit of {batch}"), |bencher| {
            bencher.iter(|| {
                let ops: Vec<Op> = (0..batch)
                    .map(|_| {
                        count += 1;
                        let conversation = conversations[count as usize % conversations.len()];
                        send(1 + count % 2, conversation, &count.to_string(), TEXT)
                    })
                    .collect();
                world.commit(&ops)
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = quick::criterion();
    append(&mut criterion, "memory", Arc::new(Memory::new(memory::Options::default())));
    let directory = tempfile::tempdir().expect("a directory");
    let engine = Embedded::open(directory.path(), embedded::Options::default()).expect("opens");
    append(&mut criterion, "embedded", Arc::new(engine));
    criterion.final_summary();
}
