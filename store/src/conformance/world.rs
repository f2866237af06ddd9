//! A store with a router that lives in it: a few lines to commit operations and ask questions. For checks and tests.

use carillon_protocol::ids::{ConversationId, MESSAGE_EPOCH_MS, MessageId, Seq, UserId};
use carillon_protocol::placement::lane_of_slot;
use carillon_protocol::reason::Refusal;
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType};
use carillon_protocol::time::WallMs;

use crate::ids::MessageIds;
use crate::ops::{Claim, Context, slot_of};
use crate::query::answer;
use crate::retry::{self, BatchError, commit_batch};
use crate::txn::Engine;
use crate::verb::{
    Answer, Appended, Change, ChangeOp, CreateOp, Incarnation, Op, Outcome, Page, PageQuery, Query,
    ReceiptOp, SendOp,
};

/// A router's life in a store.
#[derive(Debug)]
pub struct World<E> {
    /// Where everything is kept.
    pub engine: E,
    /// In whose name things are committed.
    pub incarnation: Incarnation,
    /// Its clock.
    pub now: WallMs,
    /// `conversations.max_members`.
    pub members_max: u64,
    /// One generator for each lane.
    ids: Vec<MessageIds>,
}

impl<E: AsRef<dyn Engine>> World<E> {
    /// A new life in a store, in which all slots are its own.
    ///
    /// # Panics
    /// When the store refuses.
    #[must_use]
    pub fn begin(engine: E) -> World<E> {
        let now = WallMs(MESSAGE_EPOCH_MS + 1_000_000);
        let claim: Claim = match retry::claim(engine.as_ref(), now, &mut |_| {}) {
            Ok(claim) => claim,
            Err(error) => panic!("no claim: {error}"),
        };
        let lanes_count = engine.as_ref().lanes_count();
        let ids = (0..lanes_count).map(|lane| claim.message_ids(lane, lanes_count)).collect();
        World { engine, incarnation: claim.incarnation, now, members_max: 1_000, ids }
    }

    /// The lane of an operation.
    pub fn lane(&self, op: &Op) -> u16 {
        lane_of_slot(slot_of(op), self.engine.as_ref().lanes_count())
    }

    /// A copy of a lane's generator, for what this life might still write when it is over.
    ///
    /// # Panics
    /// When there is no such lane.
    pub fn ids(&self, lane: u16) -> MessageIds {
        self.ids[usize::from(lane)].clone()
    }

    /// Commits a batch, whatever becomes of it. All of it must belong to one lane.
    ///
    /// # Panics
    /// When the operations belong to several lanes.
    pub fn try_commit(&mut self, ops: &[Op]) -> Vec<Result<Outcome, BatchError>> {
        let lane = ops.first().map_or(0, |op| self.lane(op));
        assert!(ops.iter().all(|op| self.lane(op) == lane), "a batch is for one lane");
        let ids = &mut self.ids[usize::from(lane)];
        let members_max = self.members_max;
        let mut context = Context { now: self.now, incarnation: self.incarnation, ids, members_max };
        commit_batch(self.engine.as_ref(), lane, &mut context, ops, &mut |_| {})
    }

    /// Commits a batch that has to have outcomes.
    ///
    /// # Panics
    /// When an operation has none.
    pub fn commit(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let results = self.try_commit(ops);
        assert_eq!(results.len(), ops.len(), "one result for each operation");
        results.into_iter().map(|result| result.unwrap_or_else(|error| panic!("{error}"))).collect()
    }

    /// Commits one operation.
    ///
    /// # Panics
    /// When it has no outcome.
    pub fn one(&mut self, op: Op) -> Outcome {
        let mut outcomes = self.commit(&[op]);
        outcomes.remove(0)
    }

    /// Commits one operation that has to append.
    ///
    /// # Panics
    /// When it does not.
    pub fn append(&mut self, op: Op) -> Appended {
        match self.one(op) {
            Outcome::Appended(appended) => appended,
            other => panic!("not appended: {other:?}"),
        }
    }

    /// Commits one operation that has to be refused.
    ///
    /// # Panics
    /// When it is not.
    pub fn refusal(&mut self, op: Op) -> Refusal {
        match self.one(op) {
            Outcome::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Makes users known.
    ///
    /// # Panics
    /// When the store refuses.
    pub fn users(&mut self, users: impl IntoIterator<Item = u64>) {
        for user in users {
            let outcome = self.one(Op::Provision { user: UserId(user), name: String::new() });
            assert!(matches!(outcome, Outcome::User { .. }), "{outcome:?}");
        }
    }

    /// A group of known users, the first being its creator.
    ///
    /// # Panics
    /// When the store refuses.
    pub fn group(&mut self, conversation: u64, members: &[u64]) -> ConversationId {
        self.users(members.iter().copied());
        let op = create(conversation, ConversationType::Group, members, &format!("create {conversation}"));
        self.append(op).conversation
    }

    /// Asks what is durable now.
    ///
    /// # Panics
    /// When the store cannot be read.
    pub fn ask(&self, query: &Query) -> Answer {
        let engine = self.engine.as_ref();
        let answered = engine.snapshot().and_then(|mut read| answer(&mut *read, query));
        answered.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The events of a whole conversation, as one member sees them, oldest first.
    ///
    /// # Panics
    /// When the user may not see any, or there are more than fit a page.
    pub fn log(&self, user: u64, conversation: ConversationId) -> Page {
        let mut query = page(user, conversation, 1, Seq::MAX);
        let mut whole: Option<Page> = None;
        // Each page moves on by an event at least.
        for _ in 0..1_000_000 {
            let part = match self.ask(&Query::Page(query)) {
                Answer::Page(page) => page,
                other => panic!("no page: {other:?}"),
            };
            let (has_more, last) = (part.has_more, part.entries.last().map(|entry| entry.seq));
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.entries.extend(part.entries),
            }
            match (has_more, last) {
                (true, Some(last)) => query.from_seq = last + 1,
                _ => break,
            }
        }
        whole.unwrap_or_else(|| panic!("no page"))
    }

    /// The seqs of a conversation for one member.
    ///
    /// # Panics
    /// As [`World::log`].
    pub fn seqs(&self, user: u64, conversation: ConversationId) -> Vec<Seq> {
        self.log(user, conversation).entries.iter().map(|entry| entry.seq).collect()
    }
}

/// A message.
#[must_use]
pub fn send(sender: u64, conversation: ConversationId, client_msg_id: &str, content: &str) -> Op {
    Op::Send(SendOp {
        said_after: Vec::new(),
        conversation,
        sender: UserId(sender),
        client_msg_id: client_msg_id.to_owned(),
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        content: content.to_owned(),
        media_url: None,
        reply_to: None,
    })
}

/// A message that answers another one.
#[must_use]
pub fn reply(sender: u64, conversation: ConversationId, client_msg_id: &str, target: MessageId) -> Op {
    match send(sender, conversation, client_msg_id, "reply") {
        Op::Send(op) => Op::Send(SendOp { reply_to: Some(target), ..op }),
        other => other,
    }
}

/// A conversation of `members`, the first being its creator.
#[must_use]
pub fn create(
    conversation: u64,
    conversation_type: ConversationType,
    members: &[u64],
    client_msg_id: &str,
) -> Op {
    Op::Create(CreateOp {
        conversation: ConversationId(conversation),
        creator: UserId(members.first().copied().unwrap_or_default()),
        client_msg_id: client_msg_id.to_owned(),
        conversation_type,
        history: History::FromJoin,
        group_name: (conversation_type == ConversationType::Group).then(|| "group".to_owned()),
        members: members.iter().copied().map(UserId).collect(),
    })
}

/// A change of a log.
#[must_use]
pub fn change(by: u64, conversation: ConversationId, client_msg_id: &str, change: Change) -> Op {
    let client_msg_id = client_msg_id.to_owned();
    Op::Change(ChangeOp { conversation, by: UserId(by), client_msg_id, said_after: Vec::new(), change })
}

/// These users join.
#[must_use]
pub fn add(users: &[u64]) -> Change {
    Change::AddMembers { users: users.iter().copied().map(UserId).collect() }
}

/// This user is removed, or leaves.
#[must_use]
pub fn remove(user: u64) -> Change {
    Change::RemoveMember { user: UserId(user) }
}

/// Watermarks of the user's device `phone`.
#[must_use]
pub fn receipt(user: u64, conversation: ConversationId, delivered_seq: Seq, read_seq: Seq) -> Op {
    Op::Receipt(ReceiptOp {
        user: UserId(user),
        device: "phone".to_owned(),
        conversation,
        delivered_seq,
        read_seq,
    })
}

/// A page of up to 100 events, oldest first.
#[must_use]
pub fn page(user: u64, conversation: ConversationId, from_seq: Seq, to_seq: Seq) -> PageQuery {
    let (newest_first, messages_only) = (false, false);
    PageQuery { user: UserId(user), conversation, from_seq, to_seq, limit: 100, newest_first, messages_only }
}
