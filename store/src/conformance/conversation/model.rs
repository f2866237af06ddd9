//! What a conversation is, in plain lists: no rows, no positions, no counters. Everything is counted from the whole log
//! whenever it is asked for.

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::ids::{MessageId, Seq, UserId};
use carillon_protocol::record::{History, Role};

use super::{MEMBERS_MAX, USERS_COUNT};
use crate::verb::{Change, Op, Reactors};

/// An answer, or the name of the code of a refusal.
type Answered = Result<String, &'static str>;
/// Where an event stands.
type SeqOf<'a> = &'a dyn Fn(MessageId) -> Option<Seq>;

/// An emoji, and the event of each user who put it there.
type Reacted = (String, BTreeMap<u64, Seq>);
/// An emoji, how often, and whether one of them is the reader's.
type Counted = (String, u64, bool);

pub(super) struct Model {
    history: History,
    name: String,
    named_seq: Seq,
    /// Sender and text, by seq − 1.
    events: Vec<(u64, String)>,
    members: BTreeMap<u64, Member>,
    /// Under each message, emojis in the order of their first use, with the seq of each user's.
    reactions: BTreeMap<Seq, Vec<Reacted>>,
    /// By which event a user last took an emoji back from under a message.
    taken_back: BTreeMap<(Seq, String, u64), Seq>,
    messages: BTreeSet<Seq>,
    /// And by which event.
    deleted: BTreeMap<Seq, Seq>,
    /// What was asked with each key, and what became of it.
    earlier: BTreeMap<(u64, String), (String, String)>,
}

#[derive(Clone, Default)]
struct Member {
    from: Seq,
    to: Option<Seq>,
    role: Role,
    role_seq: Seq,
    delivered: Seq,
    read: Seq,
    /// What the one device confirmed.
    cursor: Seq,
    returned: bool,
}

impl Model {
    pub(super) fn begin(history: History, members: &[u64]) -> Model {
        let role = |user: u64| if user == members[0] { Role::Owner } else { Role::Member };
        let member = |user: u64| Member { from: 1, role: role(user), ..Member::default() };
        Model {
            history,
            name: "group".to_owned(),
            named_seq: 1,
            events: vec![(members[0], "created".to_owned())],
            members: members.iter().map(|user| (*user, member(*user))).collect(),
            reactions: BTreeMap::new(),
            taken_back: BTreeMap::new(),
            messages: BTreeSet::new(),
            deleted: BTreeMap::new(),
            earlier: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, op: &Op, seq_of: SeqOf<'_>) -> String {
        let (user, key, asked) = match op {
            Op::Receipt(op) => {
                let moved = self.receipt(op.user.0, op.delivered_seq.max(op.read_seq), op.read_seq);
                return moved.unwrap_or_else(str::to_owned);
            }
            Op::Send(op) => (op.sender.0, &op.client_msg_id, format!("{} {:?}", op.content, op.reply_to)),
            Op::Change(op) => (op.by.0, &op.client_msg_id, asked(&op.change)),
            other => panic!("not drawn: {other:?}"),
        };
        if let Some((before, answer)) = self.earlier.get(&(user, key.clone())) {
            let again = format!("again {answer}");
            return if *before == asked { again } else { "idempotency_conflict".to_owned() };
        }
        let answered = match op {
            Op::Send(op) => self.send(user, &op.content, op.reply_to, seq_of),
            Op::Change(op) => self.change(user, &op.change, seq_of),
            _ => Err("internal"),
        };
        match answered {
            Err(code) => code.to_owned(),
            Ok(answer) => {
                self.earlier.insert((user, key.clone()), (asked, answer.clone()));
                answer
            }
        }
    }

    fn push(&mut self, by: u64, text: String) -> Answered {
        self.events.push((by, format!("{by} {text}")));
        Ok(format!("event {}", self.head()))
    }

    fn send(&mut self, by: u64, content: &str, reply_to: Option<MessageId>, seq_of: SeqOf<'_>) -> Answered {
        self.member(by)?;
        if let Some(target) = reply_to {
            self.message(by, target, seq_of)?;
        }
        let answer = self.push(by, format!("says {content}"));
        self.messages.insert(self.head());
        answer
    }

    fn receipt(&mut self, by: u64, delivered: Seq, read: Seq) -> Answered {
        self.member(by)?;
        if delivered > self.head() {
            return Err("bad_request");
        }
        let member = self.members.entry(by).or_default();
        member.delivered = member.delivered.max(delivered);
        member.cursor = member.cursor.max(delivered);
        member.read = member.read.max(read);
        let (delivered, read) = (member.delivered, member.read);
        Ok(format!("delivered {delivered} read {read} unread {}", self.unread(by)))
    }

    fn change(&mut self, by: u64, change: &Change, seq_of: SeqOf<'_>) -> Answered {
        let role = self.member(by)?.role;
        let next = self.head() + 1;
        match change {
            Change::AddMembers { users } => self.add(by, users),
            Change::RemoveMember { user } => self.remove(by, role, user.0),
            Change::Rename { group_name } if self.name == *group_name => same(self.named_seq),
            Change::Rename { group_name } => {
                (self.name, self.named_seq) = (group_name.clone(), next);
                self.push(by, format!("names {group_name}"))
            }
            Change::SetRole { .. } if role != Role::Owner => Err("forbidden"),
            Change::SetRole { user, .. } if user.0 == by => Err("bad_request"),
            Change::SetRole { user, role } => {
                let member = self.members.get_mut(&user.0).filter(|member| member.to.is_none());
                let member = member.ok_or("not_found")?;
                if member.role == *role {
                    return same(member.from.max(member.role_seq));
                }
                (member.role, member.role_seq) = (*role, next);
                self.push(by, format!("makes {user} {}", role.name()))
            }
            Change::Delete { message } => {
                let seq = self.message(by, *message, seq_of)?;
                if self.events[seq as usize - 1].0 != by {
                    return Err("forbidden");
                }
                if let Some(deleted) = self.deleted.get(&seq) {
                    return same(*deleted);
                }
                self.reactions.remove(&seq);
                self.deleted.insert(seq, next);
                self.events[seq as usize - 1].1 = format!("{by} said what {next} deleted");
                self.push(by, format!("deletes {seq}"))
            }
            Change::React { message, emoji } => {
                let seq = self.living(by, *message, seq_of)?;
                let under = self.reactions.entry(seq).or_default();
                if !under.iter().any(|(known, _)| known == emoji) {
                    under.push((emoji.clone(), BTreeMap::new()));
                }
                let users = under.iter_mut().find(|(known, _)| known == emoji).map(|(_, users)| users);
                if let Some(earlier) = users.ok_or("internal")?.insert(by, next) {
                    return self.unmoved(seq, emoji, by, earlier);
                }
                self.push(by, format!("puts {emoji} under {seq}"))
            }
            Change::Unreact { message, emoji } => {
                let seq = self.living(by, *message, seq_of)?;
                let under = self.reactions.entry(seq).or_default();
                let users = under.iter_mut().find(|(known, _)| known == emoji).map(|(_, users)| users);
                let taken_back = self.taken_back.entry((seq, emoji.clone(), by)).or_default();
                if users.and_then(|users| users.remove(&by)).is_none() {
                    return same(*taken_back);
                }
                *taken_back = next;
                under.retain(|(_, users)| !users.is_empty());
                self.push(by, format!("takes {emoji} from {seq}"))
            }
        }
    }

    /// The reaction was there: it keeps the event that made it.
    fn unmoved(&mut self, target: Seq, emoji: &str, by: u64, seq: Seq) -> Answered {
        for (known, users) in self.reactions.entry(target).or_default() {
            if known == emoji {
                users.insert(by, seq);
            }
        }
        same(seq)
    }

    fn add(&mut self, by: u64, users: &[UserId]) -> Answered {
        let users: BTreeSet<u64> = users.iter().map(|user| user.0).collect();
        if users.iter().any(|user| *user > USERS_COUNT) {
            return Err("not_found");
        }
        let (there, joining): (Vec<u64>, Vec<u64>) = users.iter().partition(|user| self.is_current(**user));
        if joining.is_empty() {
            return same(there.iter().map(|user| self.members[user].from).max().unwrap_or(0));
        }
        if self.current().len() + joining.len() > MEMBERS_MAX as usize {
            return Err("too_large");
        }
        let head = self.head();
        let again: Vec<u64> =
            joining.iter().copied().filter(|user| self.members.contains_key(user)).collect();
        for user in &joining {
            let earlier = self.members.get(user).cloned();
            let returned = earlier.is_some();
            let earlier = earlier.unwrap_or_default();
            let (role, role_seq) = (Role::Member, 0);
            let mut member = Member { from: head + 1, to: None, role, role_seq, returned, ..earlier };
            if self.history == History::FromJoin {
                (member.delivered, member.read) = (head, head);
            }
            self.members.insert(*user, member);
        }
        self.push(by, format!("adds {joining:?} again {again:?}"))
    }

    fn remove(&mut self, by: u64, role: Role, user: u64) -> Answered {
        if user != by && role == Role::Member {
            return Err("forbidden");
        }
        if user > USERS_COUNT {
            return Err("not_found");
        }
        let Some(member) = self.members.get(&user) else { return same(0) };
        if let Some(to) = member.to {
            return same(to);
        }
        let was_owner = member.role == Role::Owner;
        if was_owner && user != by {
            return Err("forbidden");
        }
        let next = self.head() + 1;
        self.members.entry(user).or_default().to = Some(next);
        let mut heir = 0;
        if was_owner {
            let mut order = self.current();
            order.sort_by_key(|user| (self.members[user].role == Role::Member, self.members[user].from));
            if let Some(first) = order.first() {
                heir = *first;
                let member = self.members.entry(heir).or_default();
                (member.role, member.role_seq) = (Role::Owner, next);
            }
        }
        self.push(by, format!("removes {user} heir {heir}"))
    }

    fn member(&self, user: u64) -> Result<&Member, &'static str> {
        self.members.get(&user).filter(|member| member.to.is_none()).ok_or("forbidden")
    }

    fn message(&self, by: u64, message: MessageId, seq_of: SeqOf<'_>) -> Result<Seq, &'static str> {
        let seq = seq_of(message).filter(|seq| self.messages.contains(seq) && *seq >= self.first(by));
        seq.ok_or("not_found")
    }

    fn living(&self, by: u64, message: MessageId, seq_of: SeqOf<'_>) -> Result<Seq, &'static str> {
        let seq = self.message(by, message, seq_of)?;
        if self.deleted.contains_key(&seq) { Err("gone") } else { Ok(seq) }
    }

    fn first(&self, user: u64) -> Seq {
        if self.history == History::All { 1 } else { self.members[&user].from }
    }

    fn head(&self) -> Seq {
        self.events.len() as Seq
    }

    pub(super) fn is_current(&self, user: u64) -> bool {
        self.member(user).is_ok()
    }

    pub(super) fn current(&self) -> Vec<u64> {
        self.members.keys().copied().filter(|user| self.is_current(*user)).collect()
    }

    pub(super) fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.events.iter().map(|(_, text)| text.clone()).collect()
    }

    /// What somebody who is or was a member sees.
    pub(super) fn visible(&self, user: u64) -> Option<Vec<String>> {
        let last = self.members.get(&user)?.to.unwrap_or(self.head());
        Some(self.events()[self.first(user) as usize - 1..last as usize].to_vec())
    }

    pub(super) fn unread(&self, user: u64) -> u64 {
        let after = self.members[&user].read.max(self.first(user) - 1);
        let others = |seq: &&Seq| self.events[**seq as usize - 1].0 != user;
        let unread = self.messages.iter().filter(|seq| **seq > after && !self.deleted.contains_key(seq));
        unread.filter(others).count() as u64
    }

    pub(super) fn marks(&self, reader: u64) -> Vec<(u64, Seq, Seq)> {
        if !self.is_current(reader) {
            return Vec::new();
        }
        let others = self.current().into_iter().filter(|user| *user != reader);
        let mark = |user: u64| {
            let member = &self.members[&user];
            (user, member.delivered.max(member.from - 1), member.read.max(member.from - 1))
        };
        others.map(mark).collect()
    }

    pub(super) fn hearers(&self) -> Vec<(u64, Seq, Seq)> {
        let heard = |(user, member): (&u64, &Member)| (*user, member.from, member.to.unwrap_or(Seq::MAX));
        self.members.iter().map(heard).collect()
    }

    pub(super) fn session(&self, user: u64) -> Option<(Seq, bool)> {
        let member = self.members.get(&user)?;
        let is_listed = member.to.is_none_or(|to| member.cursor < to);
        is_listed.then_some((member.cursor, member.returned))
    }

    /// Under the messages that `user` sees: emoji, count, and whether one of them is theirs.
    pub(super) fn reactions(&self, user: u64) -> Vec<(Seq, Vec<Counted>)> {
        let last = self.members[&user].to.unwrap_or(self.head());
        let seen = self
            .reactions
            .iter()
            .filter(|(seq, under)| (self.first(user)..=last).contains(*seq) && !under.is_empty());
        let count = |(emoji, users): &Reacted| (emoji.clone(), users.len() as u64, users.contains_key(&user));
        seen.map(|(seq, under)| (*seq, under.iter().map(count).collect())).collect()
    }

    pub(super) fn reactors(&self, first: Seq) -> Vec<(Seq, Reactors)> {
        let seen = self.reactions.iter().filter(|(seq, under)| **seq >= first && !under.is_empty());
        let who = |(emoji, users): &Reacted| (emoji.clone(), users.keys().copied().map(UserId).collect());
        seen.map(|(seq, under)| (*seq, under.iter().map(who).collect())).collect()
    }

    pub(super) fn deleted(&self) -> Vec<(Seq, UserId)> {
        self.deleted.keys().map(|seq| (*seq, UserId(self.events[*seq as usize - 1].0))).collect()
    }
}

fn same(seq: Seq) -> Answered {
    Ok(format!("same {seq}"))
}

/// What makes two attempts the same.
fn asked(change: &Change) -> String {
    match change {
        Change::AddMembers { users } => format!("add {:?}", users.iter().collect::<BTreeSet<_>>()),
        other => format!("{other:?}"),
    }
}
