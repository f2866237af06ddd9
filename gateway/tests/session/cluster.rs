//! A tiny model of several routers over one store: slots change hands, gracefully or after a crash, lanes are lost one by
//! one, and every step between a frame and its answer is taken at a drawn moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_node::prng::Prng;
use carillon_protocol::frame::{
    Accepted, Command, Deliver, Entry, Joined, LinkFrame, NotOwner, OwnedSlot, Owners, Page, Peeked, Refused,
    Registered, RouterAddress, Standing,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::{Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::Code;
use rkyv::util::AlignedVec;

use crate::rig::{Up, record};

pub(crate) const USERS: [u64; 3] = [1, 2, 3];
pub(crate) const CONVERSATIONS: [u64; 3] = [11, 12, 13];
pub(crate) const ROUTERS_COUNT: usize = 3;

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sender: u64,
    pub(crate) key: String,
    pub(crate) content: String,
}

/// A conversation of all users.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<Stored>,
    /// Handed on up to here by its present owner.
    sent: Seq,
    /// What every home has told its lanes for certain.
    marker: Seq,
    /// Up to here an earlier owner may have handed on, too.
    replayed_to: Seq,
}

impl Log {
    pub(crate) fn head(&self) -> Seq {
        self.events.len() as Seq
    }
}

/// An event on its way from a conversation's owner to a home.
#[derive(Debug)]
struct Note {
    conversation: u64,
    seq: Seq,
    is_replayed: bool,
    users: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) incarnation: u64,
    pub(crate) is_alive: bool,
    pub(crate) is_up: bool,
    pub(crate) inbound: VecDeque<Up>,
    pub(crate) outbound: VecDeque<AlignedVec>,
    /// session → user
    sessions: BTreeMap<u64, u64>,
    notes: VecDeque<Note>,
    /// What it refused once it refuses for ever (slot, epoch).
    refused: BTreeSet<(u16, u64)>,
}

impl Router {
    fn say(&mut self, frame: &impl LinkFrame) {
        if self.is_up {
            self.outbound.push_back(frame.to_frame());
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) routers: Vec<Router>,
    pub(crate) logs: BTreeMap<u64, Log>,
    /// slot → (owner, epoch)
    owners: BTreeMap<u16, (usize, u64)>,
    /// Changes that some router did not tell yet: (slot, who tells).
    untold: Vec<(u16, usize)>,
    pub(crate) moves_count: usize,
    pub(crate) replays_count: usize,
    pub(crate) refusals_count: usize,
}

fn all_slots() -> BTreeSet<u16> {
    let users = USERS.iter().map(|user| slot_of_user(UserId(*user)));
    let conversations = CONVERSATIONS.iter().map(|id| slot_of_conversation(ConversationId(*id)));
    users.chain(conversations).map(|slot| slot.0).collect()
}

impl Cluster {
    pub(crate) fn new(prng: &mut Prng) -> Cluster {
        let router = |number| Router { incarnation: 100 + number, is_alive: true, ..Router::default() };
        Cluster {
            routers: (0..ROUTERS_COUNT as u64).map(router).collect(),
            logs: CONVERSATIONS.iter().map(|id| (*id, Log::default())).collect(),
            owners: all_slots().into_iter().map(|slot| (slot, (prng.index(ROUTERS_COUNT), 1))).collect(),
            untold: Vec::new(),
            moves_count: 0,
            replays_count: 0,
            refusals_count: 0,
        }
    }

    fn owner(&self, slot: Slot) -> (usize, u64) {
        self.owners[&slot.0]
    }

    fn home(&self, user: u64) -> usize {
        self.owner(slot_of_user(UserId(user))).0
    }

    fn owned(&self, slots: impl Iterator<Item = u16>) -> Owners {
        let alive = self.routers.iter().filter(|router| router.is_alive);
        let address = |router: &Router| RouterAddress {
            incarnation: router.incarnation,
            address: format!("{}", router.incarnation),
        };
        let slot = |slot: u16| {
            let (owner, epoch) = self.owners[&slot];
            OwnedSlot { slot, owner: self.routers[owner].incarnation, epoch }
        };
        Owners { routers: alive.map(address).collect(), slots: slots.map(slot).collect() }
    }

    /// A lane is there; what it begins with is on its way.
    pub(crate) fn lane_up(&mut self, number: usize) {
        self.routers[number].is_up = true;
        let owners = self.owned(all_slots().into_iter());
        self.routers[number].say(&owners);
    }

    pub(crate) fn lane_down(&mut self, number: usize) {
        let router = &mut self.routers[number];
        router.is_up = false;
        router.inbound.clear();
        router.outbound.clear();
        router.sessions.clear();
    }

    /// The process dies, and its next life has another incarnation.
    pub(crate) fn crash(&mut self, number: usize) {
        self.lane_down(number);
        let router = &mut self.routers[number];
        (router.is_alive, router.incarnation) = (false, router.incarnation + 10);
        router.notes.clear();
        router.refused.clear();
    }

    /// Another one takes what a dead router owned, or a router gives something away.
    pub(crate) fn change_hands(&mut self, prng: &mut Prng) {
        let slots: Vec<u16> = self.owners.keys().copied().collect();
        let slot = slots[prng.index(slots.len())];
        let (from, epoch) = self.owners[&slot];
        let others: Vec<usize> =
            (0..ROUTERS_COUNT).filter(|number| *number != from && self.routers[*number].is_alive).collect();
        if others.is_empty() {
            return;
        }
        let to = others[prng.index(others.len())];
        // One that leaves refuses for a while before it is gone.
        if self.routers[from].is_alive && self.routers[from].refused.insert((slot, epoch)) {
            return;
        }
        self.give(slot, to, prng);
    }

    /// A slot has its next owner.
    fn give(&mut self, slot: u16, to: usize, prng: &mut Prng) {
        self.moves_count += 1;
        let (from, epoch) = self.owners[&slot];
        self.owners.insert(slot, (to, epoch + 1));
        let moved = |user: &u64| slot_of_user(UserId(*user)).0 == slot;
        self.routers[from].sessions.retain(|_, user| !moved(user));
        for (conversation, log) in &mut self.logs {
            if slot_of_conversation(ConversationId(*conversation)).0 != slot {
                continue;
            }
            let is_its = |note: &Note| note.conversation == *conversation;
            let pending = self.routers.iter().flat_map(|router| &router.notes).filter(|note| is_its(note));
            let certain = pending.map(|note| note.seq - 1).min().unwrap_or(log.sent).min(log.sent);
            log.marker = prng.between(log.marker.min(certain), certain);
            (log.sent, log.replayed_to) = (log.marker, log.head());
            if prng.chance(1, 2) {
                // A former owner's word comes late, and is not believed.
                self.routers.iter_mut().for_each(|router| router.notes.retain(|note| !is_its(note)));
            }
        }
        // Who gives it away says so before anything else; the others in their own time.
        let given = self.owned(std::iter::once(slot));
        self.routers[from].say(&given);
        self.untold.extend((0..ROUTERS_COUNT).filter(|number| *number != from).map(|number| (slot, number)));
    }

    /// A dead router has its next life, and takes itself what it owned if nobody has taken it yet.
    pub(crate) fn revive(&mut self, number: usize, prng: &mut Prng) {
        if std::mem::replace(&mut self.routers[number].is_alive, true) {
            return;
        }
        let slots = self.owners.iter().filter(|(_, (owner, _))| *owner == number).map(|(slot, _)| *slot);
        for slot in slots.collect::<Vec<_>>() {
            self.give(slot, number, prng);
        }
    }

    /// Somebody dead is found out, or nobody is.
    pub(crate) fn take_over(&mut self, prng: &mut Prng) {
        if self.owners.values().any(|(owner, _)| !self.routers[*owner].is_alive) {
            self.change_hands(prng);
        }
    }

    /// What a router was about to give away is given.
    pub(crate) fn heal(&mut self, prng: &mut Prng) {
        let is_refused = |cluster: &Cluster| {
            let mut owners = cluster.owners.iter();
            owners.any(|(slot, (owner, epoch))| cluster.routers[*owner].refused.contains(&(*slot, *epoch)))
        };
        while is_refused(self) {
            self.change_hands(prng);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let is_quiet = |router: &Router| {
            router.inbound.is_empty() && router.outbound.is_empty() && router.notes.is_empty()
        };
        self.routers.iter().all(is_quiet)
            && self.untold.is_empty()
            && self.logs.values().all(|log| log.sent == log.head())
    }

    /// Does one thing, if it is there to be done.
    pub(crate) fn step(&mut self, prng: &mut Prng, faults: bool) {
        let number = prng.index(ROUTERS_COUNT);
        match prng.below(5) {
            0 | 1 => self.look(number, prng, faults),
            2 => self.hand_on(prng),
            3 => self.tell_note(number),
            _ => self.tell_owner(prng),
        }
    }

    fn tell_owner(&mut self, prng: &mut Prng) {
        if self.untold.is_empty() {
            return;
        }
        let (slot, number) = self.untold.swap_remove(prng.index(self.untold.len()));
        let owners = self.owned(std::iter::once(slot));
        self.routers[number].say(&owners);
    }

    fn look(&mut self, number: usize, prng: &mut Prng, faults: bool) {
        let Some(up) = self.routers[number].inbound.pop_front() else { return };
        match up {
            Up::Register(register) => {
                let (session, request, user) = (register.session, register.request, register.user);
                if self.home(user.0) != number {
                    return self.disown(number, session, request, slot_of_user(user));
                }
                if faults && prng.chance(1, 6) {
                    let (code, message) = (Code::Unavailable as u16, "not yet".into());
                    let field = String::new();
                    let refused = Refused { session, request, code, retry_after_ms: 0, field, message };
                    return self.routers[number].say(&refused);
                }
                self.routers[number].sessions.insert(session, user.0);
                let joined =
                    |id: &u64| Joined { conversation: ConversationId(*id), cursor: 0, is_returning: false };
                let conversations = CONVERSATIONS.iter().map(joined).collect();
                self.routers[number].say(&Registered { session, request, conversations, more: false });
            }
            Up::Unregister(unregister) => {
                self.routers[number].sessions.remove(&unregister.session);
            }
            Up::Peek(peek) => {
                let (session, request) = (peek.session, peek.request);
                if self.home(peek.user.0) != number {
                    return self.disown(number, session, request, slot_of_user(peek.user));
                }
                // The owners' answers come behind what they handed on.
                self.tell_notes(number);
                let standing = |id: &ConversationId| Standing {
                    conversation: *id,
                    first_seq: 1,
                    joined_seq: 0,
                    head_seq: self.logs[&id.0].head(),
                    fanned_out_seq: self.logs[&id.0].sent,
                };
                let standings = peek.conversations.iter().map(standing).collect();
                self.routers[number].say(&Peeked { session, request, standings });
            }
            Up::Read(read) => {
                let (session, request, conversation) = (read.session, read.request, read.conversation);
                let slot = slot_of_conversation(conversation);
                if self.owner(slot).0 != number {
                    return self.disown(number, session, request, slot);
                }
                let is_home = self.home(read.user.0) == number;
                if is_home {
                    self.tell_notes(number);
                }
                let log = &self.logs[&conversation.0];
                let (head_seq, limit) = (log.head(), read.limit.min(prng.between(1, 6) as u32));
                let entries: Vec<Entry> = (read.from_seq..=read.to_seq.min(head_seq))
                    .take(limit as usize)
                    .map(|seq| Entry { seq, record: stored_record(seq, &log.events[seq as usize - 1]) })
                    .collect();
                let last = entries.last().map_or(read.from_seq - 1, |entry| entry.seq);
                let page = Page {
                    session,
                    request,
                    conversation,
                    first_seq: 1,
                    head_seq,
                    // Of another router's lane it knows nothing.
                    fanned_out_seq: if is_home { log.sent } else { head_seq },
                    entries,
                    has_more: last < head_seq,
                    marks: Vec::new(),
                    counts: None,
                    reacted: Vec::new(),
                };
                self.routers[number].say(&page);
            }
            Up::Submit(submit) => {
                let (session, request) = (submit.session, submit.request);
                let Command::Send { conversation, content, .. } = submit.command else {
                    panic!("nothing else is said here")
                };
                let slot = slot_of_conversation(conversation);
                let place = (slot.0, submit.slot_epoch);
                if self.owner(slot) != (number, submit.slot_epoch)
                    || self.routers[number].refused.contains(&place)
                {
                    self.routers[number].refused.insert(place);
                    return self.disown(number, session, request, slot);
                }
                let stored = Stored { sender: submit.user.0, key: submit.client_msg_id, content };
                let events = &mut self.logs.get_mut(&conversation.0).unwrap().events;
                let known = events.iter().position(|event| *event == stored);
                let seq = known.unwrap_or(events.len()) as Seq + 1;
                if known.is_none() {
                    events.push(stored);
                }
                let (id, duplicate, unchanged) = (seq << 22, known.is_some(), false);
                let accepted = Accepted { session, request, conversation, seq, id, duplicate, unchanged };
                self.routers[number].say(&accepted);
            }
            other => panic!("nobody says {other:?}"),
        }
    }

    fn disown(&mut self, number: usize, session: u64, request: u64, slot: Slot) {
        self.refusals_count += 1;
        self.routers[number].say(&NotOwner { session, request, slot: slot.0 });
    }

    /// An owner hands its next event on, to the homes as they are now.
    fn hand_on(&mut self, prng: &mut Prng) {
        let conversation = CONVERSATIONS[prng.index(CONVERSATIONS.len())];
        let (owner, _) = self.owner(slot_of_conversation(ConversationId(conversation)));
        let homes = USERS.map(|user| (user, self.home(user)));
        let log = self.logs.get_mut(&conversation).unwrap();
        if log.sent == log.head() || !self.routers[owner].is_alive {
            return;
        }
        log.sent += 1;
        let (seq, is_replayed) = (log.sent, log.sent <= log.replayed_to);
        self.replays_count += usize::from(is_replayed);
        for (number, router) in self.routers.iter_mut().enumerate().filter(|(_, router)| router.is_alive) {
            let users: Vec<u64> =
                homes.iter().filter(|(_, home)| *home == number).map(|(user, _)| *user).collect();
            if !users.is_empty() {
                router.notes.push_back(Note { conversation, seq, is_replayed, users });
            }
        }
    }

    fn tell_notes(&mut self, number: usize) {
        while !self.routers[number].notes.is_empty() {
            self.tell_note(number);
        }
    }

    fn tell_note(&mut self, number: usize) {
        let router = &mut self.routers[number];
        let Some(Note { conversation, seq, is_replayed, users }) = router.notes.pop_front() else { return };
        let here: BTreeSet<u64> = router.sessions.values().copied().collect();
        let users: Vec<UserId> = users.into_iter().filter(|user| here.contains(user)).map(UserId).collect();
        if users.is_empty() {
            return;
        }
        let log = &self.logs[&conversation];
        let deliver = Deliver {
            conversation: ConversationId(conversation),
            seq,
            head_seq: log.head(),
            origin_session: 0,
            origin_request: 0,
            replayed: is_replayed,
            users,
            record: stored_record(seq, &log.events[seq as usize - 1]),
        };
        router.say(&deliver);
    }
}

fn stored_record(seq: Seq, stored: &Stored) -> Vec<u8> {
    record(seq << 22, stored.sender, &stored.key, &stored.content)
}
