//! What is asked and what is answered: from memory where it is certain, else from the store.

use carillon_protocol::frame::{Find, Peek, Peeked, Read, Standing};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::limits::LINK_LIST_MAX;
use carillon_protocol::placement::{Slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_store::error::ReadError;
use carillon_store::held::Held;
use carillon_store::verb::{self, Answer, Device, Op, Query};

use super::{Shard, UNAVAILABLE_RETRY_MS};
use crate::batch::{Origin, Waiter};
use crate::cluster::table::Owner;
use crate::meters::Metric;
use crate::outbox::{Asked, LaneId, Peer, Ticket};
use crate::registry::{Next, SessionRead};
use crate::{answer, cache, submit};

impl Shard {
    pub(super) fn peek(&mut self, lane: LaneId, peek: Peek) {
        let origin = Origin { lane, session: peek.session, request: peek.request };
        let Peek { user, conversations, .. } = peek;
        if conversations.len() > LINK_LIST_MAX {
            return self.refuse_lane(lane);
        }
        if !self.serves(origin, user) {
            return;
        }
        if self.cluster.is_sole() {
            self.peek_ours(origin, user, conversations);
        } else {
            self.peek_all(origin, user, conversations);
        }
    }

    /// Where conversations of our own stand.
    pub(super) fn peek_ours(&mut self, origin: Origin, user: UserId, conversations: Vec<ConversationId>) {
        let asked = Asked::Peek(origin, user);
        match self.peek_held(user, &conversations) {
            Some(standings) => self.tell(asked, origin, Answer::Standings(standings)),
            None => self.ask(origin, asked, Query::Peek { user, conversations }),
        }
    }

    /// All of the standings, if all of the conversations are held in memory.
    fn peek_held(&mut self, user: UserId, conversations: &[ConversationId]) -> Option<Vec<verb::Standing>> {
        let mut standings = Vec::new();
        for conversation in conversations {
            let query = Query::Peek { user, conversations: vec![*conversation] };
            match self.held(*conversation, &query) {
                Some(Answer::Standings(found)) => standings.extend(found),
                _ => {
                    self.count(Metric::CacheMisses, cache::Kind::Metadata);
                    return None;
                }
            }
        }
        self.count(Metric::CacheHits, cache::Kind::Metadata);
        Some(standings)
    }

    pub(super) fn read(&mut self, lane: LaneId, read: &Read) {
        let origin = Origin { lane, session: read.session, request: read.request };
        let query = submit::page(read);
        if !self.owns(origin, slot_of_conversation(query.conversation), 0) {
            return;
        }
        self.look(origin, Asked::Page(origin, query.conversation), Query::Page(query));
    }

    pub(super) fn find(&mut self, lane: LaneId, find: Find) {
        let origin = Origin { lane, session: 0, request: find.request };
        let query = match submit::query(find) {
            Ok(query) => query,
            Err(refusal) => return self.outbox.refuse(origin, &refusal),
        };
        if let Some(slot) = slot_of(&query)
            && !self.owns(origin, slot, 0)
        {
            return;
        }
        match query {
            Query::Devices { user } => self.ask(origin, Asked::Devices(origin, user, false), query),
            // What others see of a user is decided by many routers, and known by heart only when there is one.
            Query::User { asker, user } => match self.profiles.find(self.now, user, asker) {
                Some(profile) if self.cluster.is_sole() => {
                    self.count(Metric::CacheHits, cache::Kind::Profile);
                    self.tell(Asked::Find(origin, None), origin, Answer::User(profile));
                }
                _ => {
                    self.count(Metric::CacheMisses, cache::Kind::Profile);
                    self.ask(origin, Asked::Profile(origin, asker, self.profiles.epoch(user, asker)), query);
                }
            },
            query => {
                let conversation = cache::about(&query).map(|(conversation, _)| conversation);
                self.look(origin, Asked::Find(origin, conversation), query);
            }
        }
    }

    /// Answers from memory, or asks the store.
    fn look(&mut self, origin: Origin, asked: Asked, query: Query) {
        let Some((conversation, kind)) = cache::about(&query) else { return self.ask(origin, asked, query) };
        if let Some(answer) = self.held(conversation, &query) {
            self.count(Metric::CacheHits, kind);
            return self.tell(asked, origin, answer);
        }
        self.count(Metric::CacheMisses, kind);
        let asked = match query {
            Query::Conversation { user, .. } => {
                Asked::Summary(origin, user, conversation, self.cache.id(conversation))
            }
            _ => asked,
        };
        self.ask(origin, asked, query);
    }

    /// Asks what there is to hold of a conversation into which somebody looked who may: what others ask, and what is not
    /// there, leaves no trace by which the one could be told from the other.
    fn hold(&mut self, conversation: ConversationId) {
        if self.is_settled(conversation)
            && self.outbox.has_room_to_open()
            && self.cache.begin(self.now, conversation)
        {
            // There is room, as was just asked.
            let asked = Asked::Open(conversation, self.cache.id(conversation));
            let _ = self.outbox.ask(asked, Query::Open { conversation });
        }
    }

    /// The answer from memory, if nothing is on its way that could change it.
    fn held(&mut self, conversation: ConversationId, query: &Query) -> Option<Answer> {
        if !self.is_settled(conversation)
            || !self.cluster.answers(self.now, slot_of_conversation(conversation))
        {
            return None;
        }
        // A user mutes at their own owner.
        if !self.cluster.is_sole() && matches!(query, Query::Conversation { .. }) {
            return None;
        }
        self.cache.answer(conversation, query)
    }

    /// Whether every operation on a conversation that left has come back, with an outcome.
    fn is_settled(&self, conversation: ConversationId) -> bool {
        self.batches.is_untouched(conversation) && !self.fanout.is_suspect(conversation)
    }

    fn count(&self, metric: Metric, kind: cache::Kind) {
        self.outbox.meter.add_at(metric, kind as usize, 1);
    }

    pub(super) fn ask(&mut self, origin: Origin, asked: Asked, query: Query) {
        if let Err(refusal) = self.outbox.ask(asked, query) {
            self.outbox.refuse(origin, &refusal);
        }
    }

    pub(super) fn answered(&mut self, ticket: Ticket, answer: Result<Answer, ReadError>) {
        let Some(asked) = self.outbox.answered(ticket) else { return };
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(ReadError::Again(_)) => None,
            Err(ReadError::Fatal(sentence)) => return self.outbox.fail(sentence),
        };
        match asked {
            Asked::Events(conversation, number) => {
                let entries = answer.map(|answer| match answer {
                    Answer::Events(entries) => entries,
                    other => mismatch(&other),
                });
                self.fanout.events(self.now, (conversation, number), entries, &mut self.outbox);
            }
            Asked::Members(conversation, number) => {
                let members = answer.map(|answer| match answer {
                    Answer::Members { version, members } => (version, members),
                    other => mismatch(&other),
                });
                self.fanout.members(self.now, (conversation, number), members);
            }
            Asked::Senders(conversation, reader) => {
                let senders = answer.map(|answer| match answer {
                    Answer::Senders(senders) => senders,
                    other => mismatch(&other),
                });
                let key = (conversation, reader);
                let Shard { now, receipts, fanout, registry, cluster, outbox, .. } = self;
                receipts.senders(*now, key, senders, fanout, (registry, cluster), outbox);
            }
            Asked::Counts(conversation) => {
                let counts = answer.map(|answer| match answer {
                    Answer::Counts(counts) => counts,
                    other => mismatch(&other),
                });
                let (now, counts) = (self.now, counts.as_deref());
                let around = (&self.registry, &self.cluster);
                self.receipts.counted(now, conversation, counts, around, &mut self.outbox);
            }
            Asked::Typing(conversation, user) => {
                let members = answer.map(|answer| match answer {
                    Answer::Members { members, .. } => members,
                    // Who types is no member, so nobody hears it.
                    Answer::Refused(_) => Vec::new(),
                    other => mismatch(&other),
                });
                self.typing.members((conversation, user), members);
            }
            Asked::Markers => {
                let markers = answer.map(|answer| match answer {
                    Answer::Markers(markers) => markers,
                    other => mismatch(&other),
                });
                self.fanout.markers(self.now, markers);
            }
            Asked::Session(origin) => match answer {
                Some(Answer::Session { known, revoked_at, conversations }) => {
                    self.session(origin, SessionRead { known, revoked_at, conversations });
                }
                Some(Answer::Refused(refusal)) => self.registry.refuse(origin, &refusal, &mut self.outbox),
                None => self.registry.refuse(origin, &read_again(), &mut self.outbox),
                Some(other) => mismatch(&other),
            },
            Asked::Presence(origin) => {
                let visible = match answer {
                    Some(Answer::Presence(visible)) => Ok(visible),
                    Some(Answer::Refused(refusal)) => Err(refusal),
                    None => Err(read_again()),
                    Some(other) => mismatch(&other),
                };
                self.presence.answered(origin, visible, &self.registry, &mut self.outbox);
            }
            Asked::Open(conversation, id) => {
                let held = match answer {
                    Some(Answer::Open(opened)) => Some(Box::new(Held::new(conversation, *opened))),
                    Some(Answer::Refused(_)) | None => None,
                    Some(other) => mismatch(&other),
                };
                let is_settled = self.is_settled(conversation);
                self.cache.opened(self.now, (conversation, id), held, is_settled);
            }
            Asked::PeekPart(gather, user) => {
                let standings = answer.and_then(|answer| match answer {
                    Answer::Standings(standings) => Some(standings),
                    Answer::Refused(_) => None,
                    other => mismatch(&other),
                });
                self.peeked_part(gather, user, standings);
            }
            Asked::Peek(origin, _)
            | Asked::Page(origin, _)
            | Asked::Find(origin, _)
            | Asked::Summary(origin, ..)
            | Asked::Profile(origin, ..)
            | Asked::Devices(origin, ..) => match answer {
                Some(answer) => {
                    let seen = asked.looks_into().filter(|_| !matches!(answer, Answer::Refused(_)));
                    self.tell(asked, origin, answer);
                    if let Some(conversation) = seen {
                        self.hold(conversation);
                    }
                }
                None => self.outbox.refuse(origin, &read_again()),
            },
        }
    }

    fn session(&mut self, origin: Origin, read: SessionRead) {
        match self.registry.session_read(origin, read, &mut self.outbox) {
            Next::Nothing => {}
            Next::Provision(user, name) => {
                let offered =
                    self.batches.offer(self.now, Op::Provision { user, name }, Waiter::Registration(origin));
                if let Err(refusal) = offered {
                    self.registry.refuse(origin, &refusal, &mut self.outbox);
                }
            }
        }
    }

    /// Sends an answer to the session or REST request that asked, with what is on the lanes by now.
    fn tell(&mut self, asked: Asked, origin: Origin, answer: Answer) {
        let Origin { lane, session, request } = origin;
        match (asked, answer) {
            (_, Answer::Refused(refusal)) => self.outbox.refuse(origin, &refusal),
            (Asked::Peek(_, user), Answer::Standings(standings)) => {
                let standings = standings.into_iter().map(|standing| self.standing(user, standing));
                match standings.collect::<Option<Vec<_>>>().filter(|_| self.hears(user, lane)) {
                    Some(standings) => self.outbox.send(lane, &Peeked { session, request, standings }),
                    None => self.outbox.refuse(origin, &read_again()),
                }
            }
            (Asked::Page(..), Answer::Page(page)) => {
                let conversation = page.standing.conversation;
                let sent_seq = self.sent_seq(conversation, page.standing.head_seq);
                self.outbox.send(lane, &answer::page(origin, page, sent_seq));
            }
            (Asked::Devices(_, user, are_known), Answer::Devices(devices)) => {
                self.devices(origin, user, are_known, devices);
            }
            (asked @ (Asked::Find(..) | Asked::Summary(..) | Asked::Profile(..)), answer) => {
                self.found(asked, origin, answer);
            }
            (_, other) => mismatch(&other),
        }
    }

    /// Answers a look-up, and remembers what it told.
    fn found(&mut self, asked: Asked, origin: Origin, answer: Answer) {
        match (asked, &answer) {
            (Asked::Summary(_, user, conversation, id), Answer::Conversations { summaries, .. }) => {
                if let Some(summary) = summaries.first() {
                    self.cache.learn_mute(conversation, id, user, summary.muted_until);
                }
            }
            (Asked::Profile(_, asker, epoch), Answer::User(profile)) => {
                self.profiles.learn(self.now, asker, epoch, profile);
            }
            _ => {}
        }
        match answer::found(origin.request, answer) {
            Some(found) => self.outbox.send(origin.lane, &found),
            None => panic!("the store gave an answer that no look-up has"),
        }
    }

    /// A user's devices, of which the connected ones are seen now. One that the store does not know yet, because it
    /// connected for the first time, is made known to it, so that its lag can be told too.
    fn devices(&mut self, origin: Origin, user: UserId, are_known: bool, mut devices: Vec<Device>) {
        let mut unknown = Vec::new();
        for name in self.registry.devices_of(user) {
            match devices.iter_mut().find(|device| device.device == name) {
                Some(device) => device.last_seen_at = Some(self.wall),
                None => unknown.push(name.to_owned()),
            }
        }
        // They share a lane: when the last is known, all are.
        if let Some(last) = unknown.pop().filter(|_| !are_known) {
            let seen = |device| Op::Seen { user, device, at: self.wall, offline: false };
            let mut offered = Ok(());
            for device in unknown {
                offered = offered.and_then(|()| self.batches.offer(self.now, seen(device), Waiter::Nobody));
            }
            let offered = offered
                .and_then(|()| self.batches.offer(self.now, seen(last), Waiter::Devices(origin, user)));
            if let Err(refusal) = offered {
                self.outbox.refuse(origin, &refusal);
            }
            return;
        }
        let found = answer::found(origin.request, Answer::Devices(devices));
        if let Some(found) = found {
            self.outbox.send(origin.lane, &found);
        }
    }

    /// A standing as of now. The gateway drops every `Deliver` that comes before `Peeked`, so the head has to cover
    /// all that are on the lane, also those that the snapshot did not see. `None`: it is too old to tell.
    pub(super) fn standing(&self, user: UserId, standing: verb::Standing) -> Option<Standing> {
        let verb::Standing { conversation, first_seq, joined_seq, head_seq } = standing;
        if !self.cluster.answers(self.now, slot_of_conversation(conversation)) {
            return None;
        }
        let heard_seq = self.fanout.heard_seq(conversation, user, head_seq)?;
        let fanned_out_seq = self.sent_seq(conversation, head_seq).min(heard_seq);
        Some(Standing { conversation, first_seq, joined_seq, head_seq: heard_seq, fanned_out_seq })
    }

    /// Whether what is new for a user leaves on this lane, or on one of its gateway's.
    fn hears(&self, user: UserId, lane: LaneId) -> bool {
        match self.outbox.peer(lane) {
            Some(Peer::Router(router)) => self.cluster.owner_of(user) == Owner::Other(router),
            _ => self.cluster.owner_of(user) == Owner::Us,
        }
    }

    /// Up to here `Deliver` frames are on their lanes, given that a snapshot showed `head_seq`.
    fn sent_seq(&self, conversation: ConversationId, head_seq: Seq) -> Seq {
        self.fanout.sent_seq(conversation, head_seq, self.batches.appending_count(conversation))
    }
}

/// The slot whose owner is to be asked; `None`: any router knows as much.
fn slot_of(query: &Query) -> Option<Slot> {
    match query {
        Query::Devices { user } => Some(slot_of_user(*user)),
        query => cache::about(query).map(|(conversation, _)| slot_of_conversation(conversation)),
    }
}

fn read_again() -> Refusal {
    Refusal::new(Code::Unavailable, "the store is busy; try again").retry_after(UNAVAILABLE_RETRY_MS)
}

/// An answer of another kind than its question: ours to mend, and nothing to go on with.
fn mismatch(answer: &Answer) -> ! {
    panic!("the store gave an answer of another kind: {:?}", std::mem::discriminant(answer))
}
