//! Random traffic of one conversation against a small model of it: every answer, and what each user sees afterwards. A
//! few lines of plain lists stand for what the store keeps in rows; they agree, or one of them is wrong.

mod model;

use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::record::{Body, ConversationType, Event, History, Role};

use self::model::Model;
use super::world::{World, add, change, create, page, receipt, remove, send};
use crate::chance::Chance;
use crate::txn::Engine;
use crate::verb::{Answer, Change, CreateOp, Entry, Op, Outcome, Page, Query, SendOp};

/// Users who exist; one more is named who does not.
const USERS_COUNT: u64 = 6;
/// How many members the conversation may have.
const MEMBERS_MAX: u64 = 5;
/// How many batches a case has, and the most operations of a batch.
const BATCHES_COUNT: u64 = 14;
const BATCH_OPS_MAX: u64 = 6;
/// How many cases every engine goes through in its suite.
const CASES_COUNT: u64 = 40;

pub(super) fn random(engine: Box<dyn Engine>) {
    let mut world = World::begin(engine);
    for seed in 0..CASES_COUNT {
        check(&mut world, seed);
    }
}

/// One case, which is a function of its seed alone, in a conversation of its own.
///
/// # Panics
/// When the store and the model differ; the message says the seed.
pub fn check<E: AsRef<dyn Engine>>(world: &mut World<E>, seed: u64) {
    let mut case = Case::begin(world, seed);
    for batch in 0..BATCHES_COUNT {
        case.batch(batch);
        case.look(batch);
    }
}

struct Case<'w, E> {
    world: &'w mut World<E>,
    seed: u64,
    chance: Chance,
    conversation: ConversationId,
    model: Model,
    /// The ids of the events, by seq − 1.
    ids: Vec<MessageId>,
}

impl<'w, E: AsRef<dyn Engine>> Case<'w, E> {
    fn begin(world: &'w mut World<E>, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        world.users(1..=USERS_COUNT);
        world.members_max = MEMBERS_MAX;
        let conversation = ConversationId(1_000_000 + seed);
        let history = if chance.below(2) == 0 { History::All } else { History::FromJoin };
        let key = format!("case {seed}");
        let Op::Create(op) = create(conversation.0, ConversationType::Group, &[1, 2, 3], &key) else {
            unreachable!("a creation is one")
        };
        let created = world.append(Op::Create(CreateOp { history, ..op }));
        let model = Model::begin(history, &[1, 2, 3]);
        Case { world, seed, chance, conversation, model, ids: vec![created.id] }
    }

    fn batch(&mut self, batch: u64) {
        let ops: Vec<Op> = (0..=self.chance.below(BATCH_OPS_MAX)).map(|_| self.draw()).collect();
        let outcomes = self.world.commit(&ops);
        for (op, outcome) in ops.iter().zip(outcomes) {
            let ids = &self.ids;
            let seq_of = |id: MessageId| ids.iter().position(|known| *known == id).map(|at| at as Seq + 1);
            let expected = self.model.apply(op, &seq_of);
            let case = format!("seed {} batch {batch}: {op:?}", self.seed);
            assert_eq!(describe(&outcome), expected, "{case}");
            if let Outcome::Appended(appended) = outcome
                && !appended.duplicate
            {
                assert!(self.ids.last() < Some(&appended.id), "{case}: ids rise with seq");
                self.ids.push(appended.id);
            }
        }
    }

    fn draw(&mut self) -> Op {
        let by = 1 + self.chance.below(USERS_COUNT);
        // Few enough that some are used again, by the same attempt or by another one.
        let key = format!("k{}", self.chance.below(120));
        let other = 1 + self.chance.below(USERS_COUNT + 1);
        let target = self.chance.below(self.ids.len() as u64 + 1) as usize;
        let message = self.ids.get(target).copied().unwrap_or(MessageId(1));
        let emoji = ["+", "-", "!"][self.chance.below(3) as usize].to_owned();
        let head = self.ids.len() as u64;
        let kind = self.chance.below(20);
        if kind < 7 {
            let Op::Send(op) = send(by, self.conversation, &key, &format!("text {}", self.chance.below(3)))
            else {
                unreachable!("a message is one")
            };
            let reply_to = (self.chance.below(4) == 0).then_some(message);
            return Op::Send(SendOp { reply_to, ..op });
        }
        if kind < 11 {
            let (delivered, read) = (self.chance.below(head + 2), self.chance.below(head + 1));
            return receipt(by, self.conversation, delivered, read * self.chance.below(2));
        }
        let drawn = match kind {
            11 | 12 => add(&[other, 1 + self.chance.below(USERS_COUNT)]),
            13 => remove(if self.chance.below(2) == 0 { by } else { other }),
            14 => {
                let role = if self.chance.below(3) == 0 { Role::Member } else { Role::Admin };
                Change::SetRole { user: UserId(other), role }
            }
            15 => Change::Rename { group_name: format!("name {}", self.chance.below(3)) },
            16 => Change::Delete { message },
            17 => Change::Unreact { message, emoji },
            _ => Change::React { message, emoji },
        };
        change(by, self.conversation, &key, drawn)
    }

    /// What everybody sees.
    fn look(&self, batch: u64) {
        let case = format!("seed {} batch {batch}", self.seed);
        for user in 1..=USERS_COUNT {
            let shown = self.page(user);
            let expected = self.model.visible(user);
            match (&shown, &expected) {
                (None, None) => {}
                (Some(page), Some(events)) => {
                    assert_eq!(texts(page), *events, "{case} user {user}");
                    self.look_at(page, user, &format!("{case} user {user}"));
                }
                _ => panic!("{case} user {user}: {shown:?} instead of {expected:?}"),
            }
            let session = self.world.ask(&Query::Session { user: UserId(user), device: "phone".to_owned() });
            let Answer::Session { conversations, .. } = session else { panic!("{case}: {session:?}") };
            let joined = conversations.iter().find(|joined| joined.conversation == self.conversation);
            let joined = joined.map(|joined| (joined.cursor, joined.is_returning));
            assert_eq!(joined, self.model.session(user), "{case} user {user}: session");
        }
        let members = self.world.ask(&Query::Members { conversation: self.conversation });
        let Answer::Members { members, .. } = members else { panic!("{case}: {members:?}") };
        let hearers: Vec<_> =
            members.iter().map(|hearer| (hearer.user.0, hearer.from_seq, hearer.to_seq)).collect();
        assert_eq!(hearers, self.model.hearers(), "{case}");
        self.look_open(&case);
    }

    /// The parts of a page and of a summary that are not events.
    fn look_at(&self, page: &Page, user: u64, case: &str) {
        let counted = page.reactions.iter().map(|(seq, reactions)| {
            let each = reactions.iter().map(|one| (one.emoji.clone(), one.count, one.mine));
            (*seq, each.collect::<Vec<_>>())
        });
        assert_eq!(counted.collect::<Vec<_>>(), self.model.reactions(user), "{case}: reactions");
        let marks: Vec<_> =
            page.marks.iter().map(|mark| (mark.user.0, mark.delivered_seq, mark.read_seq)).collect();
        assert_eq!(marks, self.model.marks(user), "{case}: marks");

        let query = Query::Conversation { user: UserId(user), conversation: self.conversation };
        match (self.world.ask(&query), self.model.is_current(user)) {
            (Answer::Refused(_), false) => {}
            (Answer::Conversations { summaries, .. }, true) => {
                let summary = &summaries[0];
                assert_eq!(summary.unread_count, unread(page, user, summary.read_seq), "{case}: recounted");
                assert_eq!(summary.unread_count, self.model.unread(user), "{case}: unread");
                assert_eq!(summary.head_seq, self.ids.len() as u64, "{case}: head");
                assert_eq!(summary.group_name, self.model.name(), "{case}: name");
                let members: Vec<u64> = summary.member_ids.iter().map(|member| member.0).collect();
                assert_eq!(members, self.model.current(), "{case}: members");
                assert_eq!(summary.members_count, members.len() as u64, "{case}: count");
            }
            (answer, _) => panic!("{case}: {answer:?}"),
        }
    }

    fn look_open(&self, case: &str) {
        let opened = match self.world.ask(&Query::Open { conversation: self.conversation }) {
            Answer::Open(opened) => opened,
            other => panic!("{case}: {other:?}"),
        };
        let all = self.model.events();
        let tail: Vec<String> = opened.tail.iter().map(text).collect();
        assert_eq!(tail, all[all.len() - tail.len()..], "{case}: tail");
        let first = opened.tail.first().map_or(0, |entry| entry.seq);
        assert_eq!(opened.reactions, self.model.reactors(first), "{case}: who reacted");
        assert_eq!(opened.deleted, self.model.deleted(), "{case}: deleted");
    }

    fn page(&self, user: u64) -> Option<Page> {
        match self.world.ask(&Query::Page(page(user, self.conversation, 1, Seq::MAX))) {
            Answer::Page(page) => Some(page),
            _ => None,
        }
    }
}

/// Others' messages above `read_seq`, one by one.
fn unread(page: &Page, user: u64, read_seq: Seq) -> u64 {
    let counts = |entry: &&Entry| {
        let event = Event::decode(&entry.record);
        entry.seq > read_seq
            && event
                .is_some_and(|event| event.sender != UserId(user) && matches!(event.body, Body::Message(_)))
    };
    page.entries.iter().filter(counts).count() as u64
}

fn texts(page: &Page) -> Vec<String> {
    page.entries.iter().map(text).collect()
}

/// An event as the model writes it.
fn text(entry: &Entry) -> String {
    let Some(Event { sender, body, .. }) = Event::decode(&entry.record) else {
        panic!("not an event: {entry:?}")
    };
    let users = |users: &[UserId]| users.iter().map(|user| user.0).collect::<Vec<_>>();
    match body {
        Body::Created { .. } => "created".to_owned(),
        Body::Message(message) => format!("{sender} says {}", message.content),
        Body::Tombstone { deleted_seq, .. } => format!("{sender} said what {deleted_seq} deleted"),
        Body::Renamed { group_name } => format!("{sender} names {}", group_name.unwrap_or_default()),
        Body::MembersAdded { users: added, returning, .. } => {
            format!("{sender} adds {:?} again {:?}", users(&added), users(&returning))
        }
        Body::MemberRemoved { user, heir } => {
            format!("{sender} removes {user} heir {}", heir.unwrap_or_default())
        }
        Body::RoleChanged { user, role } => format!("{sender} makes {user} {}", role.name()),
        Body::Deleted { target_seq, .. } => format!("{sender} deletes {target_seq}"),
        Body::ReactionAdded { target_seq, emoji, .. } => format!("{sender} puts {emoji} under {target_seq}"),
        Body::ReactionRemoved { target_seq, emoji, .. } => {
            format!("{sender} takes {emoji} from {target_seq}")
        }
    }
}

/// An outcome as the model writes it.
fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Appended(appended) if appended.duplicate => format!("again event {}", appended.seq),
        Outcome::Appended(appended) => format!("event {}", appended.seq),
        Outcome::Unchanged { seq, duplicate, .. } => {
            format!("{}same {}", if *duplicate { "again " } else { "" }, seq.unwrap_or(0))
        }
        Outcome::Receipted(receipted) => format!(
            "delivered {} read {} unread {}",
            receipted.delivered.1, receipted.read.1, receipted.unread_count
        ),
        Outcome::Refused(refusal) => refusal.code.name().to_owned(),
        other => format!("{other:?}"),
    }
}
