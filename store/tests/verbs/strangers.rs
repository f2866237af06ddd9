//! What a stranger can learn of what is there: nothing, neither by an answer nor by the work that it takes.

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::record::Role;
use carillon_protocol::time::WallMs;
use carillon_store::conformance::world::{add, change, page, receipt, remove, reply, send};
use carillon_store::error::ReadError;
use carillon_store::ops::{Context, append};
use carillon_store::query::answer;
use carillon_store::txn::{Abort, Read};
use carillon_store::verb::Change;

use super::*;

/// A view, or a transaction, that writes down what is read: of which family, and how.
struct Traced<'a, T: ?Sized> {
    inner: &'a mut T,
    trace: Vec<String>,
}

impl<T: Read + ?Sized> Read for Traced<'_, T> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.trace.push(format!("get {}", char::from(key[0])));
        self.inner.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        self.trace.push(format!("range {}", char::from(from[0])));
        self.inner.range(from, to, limit, reverse)
    }
}

impl<T: Txn + ?Sized> Txn for Traced<'_, T> {
    fn set(&mut self, key: Bytes, _: Bytes) {
        self.trace.push(format!("set {}", char::from(key[0])));
    }

    fn clear(&mut self, key: Bytes) {
        self.trace.push(format!("clear {}", char::from(key[0])));
    }

    fn expect_unchanged(&mut self, key: &[u8]) {
        self.inner.expect_unchanged(key);
    }
}

/// What is answered, and what it takes.
fn asked(world: &MemoryWorld, query: &Query) -> (Answer, Vec<String>) {
    let mut snapshot = world.engine.snapshot().unwrap();
    let mut traced = Traced { inner: &mut *snapshot, trace: Vec::new() };
    let answer = answer(&mut traced, query).unwrap();
    (answer, traced.trace)
}

/// What is decided, and what it takes. Nothing is committed.
fn decided(world: &MemoryWorld, op: &Op) -> (Outcome, Vec<String>) {
    let (now, incarnation, mut ids) = (world.now, world.incarnation, world.ids(0));
    let mut decided = None;
    let outcome = world.engine.commit(0, &mut |txn| {
        let mut context = Context { now, incarnation, ids: &mut ids, members_max: 10 };
        let mut traced = Traced { inner: txn, trace: Vec::new() };
        let mut outcomes = append(&mut traced, &mut context, std::slice::from_ref(op))?;
        decided = Some((outcomes.remove(0), traced.trace));
        Err(Abort::TooLarge)
    });
    assert!(outcome.is_err());
    decided.unwrap()
}

fn queries(user: u64, conversation: ConversationId) -> Vec<Query> {
    let asker = UserId(user);
    vec![
        Query::Page(page(user, conversation, 1, u64::MAX)),
        Query::Peek { user: asker, conversations: vec![conversation] },
        Query::Conversation { user: asker, conversation },
        Query::MemberPage { user: asker, conversation, after: UserId(0), limit: 9 },
        Query::Receipts { user: asker, conversation, seq: 1 },
        Query::Fellows { user: asker, conversation },
    ]
}

fn ops(user: u64, conversation: ConversationId, message: MessageId) -> Vec<Op> {
    let by = |change_: Change| change(user, conversation, "key", change_);
    let emoji = || "+".to_owned();
    vec![
        send(user, conversation, "key", "hello"),
        reply(user, conversation, "key", message),
        by(add(&[4])),
        by(remove(2)),
        by(remove(user)),
        by(Change::Rename { group_name: "other".to_owned() }),
        by(Change::SetRole { user: UserId(2), role: Role::Admin }),
        by(Change::Delete { message }),
        by(Change::React { message, emoji: emoji() }),
        by(Change::Unreact { message, emoji: emoji() }),
        receipt(user, conversation, 1, 1),
        receipt(user, conversation, 1_000, 1_000),
        Op::Mute { user: UserId(user), conversation, until: Some(WallMs(5)) },
    ]
}

/// Security, authorisation, AP8, G11: a stranger's question takes the same reads whether or not there is such a
/// conversation, and so has the same answer after the same time; nothing is written. A former member's command neither
/// takes more.
#[test]
fn what_is_forbidden_takes_what_the_absent_takes() {
    let mut world = world();
    world.users(1..=9);
    let group = world.group(10, &[1, 2, 3]);
    let message = world.append(send(1, group, "m", "hello")).id;
    world.append(change(2, group, "r", Change::React { message, emoji: "+".to_owned() }));
    world.append(change(3, group, "leave", remove(3)));
    let (former, stranger, absent) = (3, 9, ConversationId(77));
    for (there, nowhere) in queries(stranger, group).iter().zip(&queries(stranger, absent)) {
        let (answer, reads) = asked(&world, there);
        assert_eq!((answer, reads.clone()), asked(&world, nowhere), "{there:?}");
        assert_eq!(reads, ["get m"], "one row, of the asker's own: {there:?}");
    }
    for user in [stranger, former] {
        for (there, nowhere) in ops(user, group, message).iter().zip(&ops(user, absent, message)) {
            let (outcome, work) = decided(&world, there);
            assert!(
                matches!(&outcome, Outcome::Refused(refusal) if refusal.code == Code::Forbidden),
                "{outcome:?}"
            );
            assert_eq!((outcome, work.clone()), decided(&world, nowhere), "{user}: {there:?}");
            assert!(work.iter().all(|step| step.starts_with("get ")), "nothing is written: {work:?}");
        }
    }
    // And the wrapper sees what a member's takes.
    assert!(
        asked(&world, &queries(1, group)[0]).1.len() > 1
            && decided(&world, &ops(1, group, message)[0]).1.len() > 5
    );
}
