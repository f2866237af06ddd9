//! A conversation as simply as it can be said: the log, who is a member of it, and how far each has read. Everything else
//! is counted anew whenever it is asked for. The real thing has to give the same answers ([`crate::trial`]).

use std::collections::{BTreeMap, BTreeSet};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message and, until it is deleted, its content; and who put which reactions under it, by first use.
    Message { sender: u64, content: Option<String>, reactions: Vec<(String, BTreeSet<u64>)> },
    /// Anything else.
    Other,
}

/// One membership: its seqs are inclusive, and the last one is open while it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub joined: u64,
    pub left: Option<u64>,
    pub read: u64,
    pub delivered: u64,
    pub is_admin: bool,
}

/// See the module. The event of seq n stands at n − 1.
#[derive(Clone, Debug)]
pub struct Model {
    pub log: Vec<Event>,
    pub members: BTreeMap<u64, Member>,
    pub owner: u64,
    pub sees_all: bool,
    pub name: String,
}

impl Model {
    pub fn new(owner: u64, others: &[u64], sees_all: bool, name: &str) -> Model {
        let first = Member { joined: 1, ..Member::default() };
        let members = others.iter().chain([&owner]).map(|user| (*user, first)).collect();
        Model { log: vec![Event::Other], members, owner, sees_all, name: name.to_owned() }
    }

    pub fn head(&self) -> u64 {
        self.log.len() as u64
    }

    pub fn append(&mut self, event: Event) -> u64 {
        self.log.push(event);
        self.head()
    }

    pub fn current(&self, user: u64) -> Option<&Member> {
        self.members.get(&user).filter(|member| member.left.is_none())
    }

    /// What of the log a member, or a former one, may read.
    pub fn visible(&self, user: u64) -> Option<(u64, u64)> {
        let member = self.members.get(&user)?;
        Some((if self.sees_all { 1 } else { member.joined }, member.left.unwrap_or(self.head())))
    }

    /// Messages that a user may read: (seq, event), ascending.
    pub fn messages(&self, user: u64) -> Vec<(u64, &Event)> {
        let Some((first, last)) = self.visible(user) else { return Vec::new() };
        let log = (1..).zip(&self.log).filter(|(seq, _)| (first..=last).contains(seq));
        log.filter(|(_, event)| matches!(event, Event::Message { .. })).collect()
    }

    pub fn unread(&self, user: u64) -> u64 {
        let read = self.members.get(&user).map_or(0, |member| member.read);
        let is_unread = |(seq, event): &(u64, &Event)| match event {
            Event::Message { sender, content: Some(_), .. } => *seq > read && *sender != user,
            _ => false,
        };
        self.messages(user).iter().filter(|message| is_unread(message)).count() as u64
    }

    /// (user, delivered, read) of every other member. What was sent before somebody came is not held back by them.
    pub fn receipts(&self, user: u64) -> Vec<(u64, u64, u64)> {
        let others = self.members.iter().filter(|(other, member)| **other != user && member.left.is_none());
        others
            .map(|(other, member)| {
                let before = member.joined - 1;
                (*other, member.delivered.max(before), member.read.max(before))
            })
            .collect()
    }

    pub fn add(&mut self, user: u64) -> u64 {
        let seq = self.append(Event::Other);
        let old = self.members.get(&user).copied().unwrap_or_default();
        let floor = if self.sees_all { 0 } else { seq - 1 };
        let (read, delivered) = (old.read.max(floor), old.delivered.max(floor));
        self.members.insert(user, Member { joined: seq, left: None, read, delivered, is_admin: false });
        seq
    }

    pub fn remove(&mut self, user: u64) -> u64 {
        let seq = self.append(Event::Other);
        if let Some(member) = self.members.get_mut(&user) {
            (member.left, member.is_admin) = (Some(seq), false);
        }
        if user == self.owner {
            let heir = self.members.iter().filter(|(_, member)| member.left.is_none());
            let heir = heir.min_by_key(|(heir, member)| (!member.is_admin, member.joined, **heir));
            self.owner = heir.map_or(0, |(heir, _)| *heir);
        }
        seq
    }
}
