//! What each verb promises, on the reference engine. See `guarantees.md` for the numbers in the names.

mod bounds;
mod reading;
mod writing;

use std::sync::Arc;

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationRow, History, MemberRow};
use carillon_store::backend::memory::{Memory, Options};
use carillon_store::conformance::world::{World, send};
use carillon_store::keys;
use carillon_store::txn::{Engine, Txn};
use carillon_store::verb::{Answer, PageQuery, Query, Summary};

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
            // The version byte and a small varint.
            let first = u8::try_from(from).unwrap();
            txn.set(keys::user_conversation(UserId(user), conversation), vec![1, first].into());
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
