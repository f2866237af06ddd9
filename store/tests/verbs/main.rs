//! What each verb promises, on the reference engine. See `guarantees.md` for the numbers in the names.

mod bounds;
mod changes;
mod costs;
mod damaged;
mod deletion;
mod members;
mod model;
mod people;
mod reading;
mod strangers;
mod verify;
mod watermarks;
mod writing;

use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationRow, History, MemberRow, UserConversationRow};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance::world::{World, send};
use carillon_store::keys;
use carillon_store::txn::{Engine, Row, Txn};
use carillon_store::verb::{Answer, Op, Outcome, PageQuery, Query, Summary};

type MemoryWorld = World<Arc<dyn Engine>>;

const PHONE: &str = "phone";

fn world() -> MemoryWorld {
    World::begin(Arc::new(Memory::new(Options::default())))
}

/// Writes rows that no verb writes yet.
fn by_hand(world: &MemoryWorld, mut body: impl FnMut(&mut dyn Txn)) {
    let written = world.engine.commit(0, &mut |txn| {
        body(txn);
        Ok(())
    });
    written.unwrap();
}

/// Makes `user` a member who sees `from..=to`; `to` 0 is to the end.
fn add_member(world: &MemoryWorld, conversation: ConversationId, user: u64, from: u64, to: u64) {
    by_hand(world, |txn| {
        let row = MemberRow { from, to, read_seq: from - 1, ..MemberRow::default() };
        txn.set(keys::member(conversation, UserId(user)), row.encode().into());
        if to == 0 {
            let row = UserConversationRow { first_seq: from, ..UserConversationRow::default() };
            txn.set(keys::user_conversation(UserId(user), conversation), row.encode().into());
        }
    });
}

fn set_history_all(world: &MemoryWorld, conversation: ConversationId) {
    by_hand(world, |txn| {
        let key = keys::conversation(conversation);
        let row = ConversationRow::decode(&txn.get(&key).unwrap().unwrap()).unwrap();
        txn.set(key, ConversationRow { history: History::All, ..row }.encode().into());
    });
}

fn fill(world: &mut MemoryWorld, conversation: ConversationId, sender: u64, count: u64) {
    for index in 0..count {
        world.append(send(sender, conversation, &format!("fill {index}"), "hello"));
    }
}

fn summary(world: &MemoryWorld, user: u64, conversation: ConversationId) -> Summary {
    match world.ask(&Query::Conversation { user: UserId(user), conversation }) {
        Answer::Conversations { mut summaries, more: false } if summaries.len() == 1 => summaries.remove(0),
        other => panic!("no conversation: {other:?}"),
    }
}

/// Everything that is stored.
fn all_rows(world: &MemoryWorld) -> Vec<Row> {
    world.engine.snapshot().unwrap().range(b"", b"\xff", usize::MAX, false).unwrap()
}

/// Refused for this reason, and without a trace.
fn refused(world: &mut MemoryWorld, op: &Op, code: Code, field: Option<&str>) {
    let before = all_rows(world);
    let refusal = world.refusal(op.clone());
    assert_eq!((refusal.code, refusal.field), (code, field), "{op:?}");
    assert!(all_rows(world) == before, "a refused operation leaves no trace: {op:?}");
}

/// So already, by this event.
fn unchanged(world: &mut MemoryWorld, op: &Op, by: Option<u64>) {
    let conversation = match op {
        Op::Change(op) => op.conversation,
        other => panic!("not a change: {other:?}"),
    };
    let head = |world: &MemoryWorld| world.engine.snapshot().unwrap().get(&keys::head(conversation)).unwrap();
    let before = head(world);
    let unchanged = |duplicate| Outcome::Unchanged { conversation, seq: by, duplicate };
    assert_eq!(world.one(op.clone()), unchanged(false), "{op:?}");
    assert_eq!(world.one(op.clone()), unchanged(true), "{op:?}");
    assert_eq!(head(world), before, "no number is taken");
}

fn code(answer: &Answer) -> Option<Code> {
    match answer {
        Answer::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

fn read_page(world: &MemoryWorld, query: PageQuery) -> (Vec<u64>, bool) {
    match world.ask(&Query::Page(query)) {
        Answer::Page(page) => (page.entries.iter().map(|entry| entry.seq).collect(), page.has_more),
        other => panic!("no page: {other:?}"),
    }
}
