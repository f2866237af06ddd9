//! How far this shard has brought each conversation live, by the router whose lane it came on. When a lane was lost and
//! is back, or a user is another router's from now on, that tells what a session missed, without a list per session.
//!
//! A *life* is the time between two losses of a router's lane. A session that is live has received exactly up to the
//! tail of its life, or up to what it was paged beyond that (which it keeps itself until the tail has caught up). One that
//! goes to another router while the lane stays up has what the tails were at that *moment*.
//!
//! # Invariants
//! - A tail never lies above what every live session of that life has: it rises with a `Deliver`, which names all
//!   listeners of the shard at once, and to `fanned_out_seq`, below which every `Deliver` came before.
//! - The tails of an earlier life do not move any more.
//! - Bounded: [`TAILS_MAX`] conversations a life, the longest unheard forgotten first, and as many in doubt (beyond, all
//!   are), [`LIVES_MAX`] earlier lives, and [`RAISED_MAX`] steps back to a moment. What is forgotten is unknown, and a
//!   session that needs it is told `behind` or nothing, never something wrong.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use carillon_link::Peer;
use carillon_protocol::ids::{ConversationId, Seq};

use crate::hash::IdMap;

/// Conversations remembered in one life, about 30 bytes each.
pub(crate) const TAILS_MAX: usize = 65_536;
/// Earlier lives remembered, for sessions that did not get through in between.
pub(crate) const LIVES_MAX: usize = 3;
/// Latest rises remembered, for sessions that go to another router: 32 bytes each. A session that takes longer to get
/// through there than so many events take to come does not know what it has.
pub(crate) const RAISED_MAX: usize = 16_384;

/// Which life of which router's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    pub(crate) router: Peer,
    number: u32,
}

/// When a session stopped being live by a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    life: Life,
    /// So many rises had been counted; none: the life's end.
    raised_count: Option<u64>,
}

impl Moment {
    /// When the lane was lost.
    pub(crate) fn end_of(life: Life) -> Moment {
        Moment { life, raised_count: None }
    }

    pub(crate) fn router(self) -> Peer {
        self.life.router
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tails {
    life: Life,
    current: Recent,
    before: VecDeque<(Life, Recent)>,
    raised: VecDeque<Raised>,
    raised_count: u64,
    /// Conversations of which nothing was known when a new owner began to hand on again, in this life: what comes of that
    /// may be what a session has, however low the tail still is.
    unsure: IdMap<ConversationId, ()>,
}

/// A tail rose.
#[derive(Clone, Copy, Debug)]
struct Raised {
    life: u32,
    conversation: ConversationId,
    from: Option<Seq>,
}

impl Tails {
    pub(crate) fn of(router: Peer) -> Tails {
        Tails {
            life: Life { router, number: 0 },
            current: Recent::default(),
            before: VecDeque::new(),
            raised: VecDeque::new(),
            raised_count: 0,
            unsure: IdMap::default(),
        }
    }

    /// The life that began last.
    #[must_use]
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// This moment of a life.
    #[must_use]
    pub(crate) fn moment(&self, life: Life) -> Moment {
        Moment { life, raised_count: Some(self.raised_count) }
    }

    /// The lane is lost: the life is over.
    pub(crate) fn end_life(&mut self) {
        if self.before.len() == LIVES_MAX {
            self.before.pop_front();
        }
        self.before.push_back((self.life, std::mem::take(&mut self.current)));
        self.unsure = IdMap::default();
        self.life.number += 1;
    }

    /// Whether it is not known of what is handed on again if a session has it: then there is no telling whether it is the
    /// next event.
    #[must_use]
    pub(crate) fn is_doubtful(&self, conversation: ConversationId, seq: Seq) -> bool {
        let is_next = self.tail(conversation).is_some_and(|tail| seq <= tail + 1);
        !is_next || self.unsure.contains_key(&conversation) || self.unsure.len() >= TAILS_MAX
    }

    /// A `Deliver` came.
    pub(crate) fn delivered(&mut self, conversation: ConversationId, seq: Seq, is_replayed: bool) {
        let from = self.current.get(conversation);
        if self.unsure.len() < TAILS_MAX {
            if !is_replayed {
                self.unsure.remove(&conversation);
            } else if from.is_none() {
                self.unsure.insert(conversation, ());
            }
        }
        self.current.raise(conversation, seq);
        self.remember(conversation, from);
    }

    /// Every live session of this life has the conversation up to `seq`, says `fanned_out_seq`. That may be less than
    /// what they have, so a conversation that is not remembered is begun only when it `is_exact`: nothing above it is for
    /// the one who asked. Others may have more when that one left; so none is begun once something may be forgotten:
    /// until then whoever has more is remembered here, or keeps what they were paged themselves.
    pub(crate) fn note(&mut self, conversation: ConversationId, seq: Seq, is_exact: bool) {
        let from = self.current.get(conversation);
        if from.is_some() || (is_exact && self.current.may_begin()) {
            self.current.raise_in_place(conversation, seq);
            self.remember(conversation, from);
        }
    }

    fn remember(&mut self, conversation: ConversationId, from: Option<Seq>) {
        if self.current.get(conversation) == from {
            return;
        }
        if self.raised.len() == RAISED_MAX {
            self.raised.pop_front();
        }
        self.raised.push_back(Raised { life: self.life.number, conversation, from });
        self.raised_count += 1;
    }

    /// What every live session has by now.
    #[must_use]
    pub(crate) fn tail(&self, conversation: ConversationId) -> Option<Seq> {
        self.current.get(conversation)
    }

    /// What every session had that was live until then, of these conversations.
    #[must_use]
    pub(crate) fn had(
        &self,
        moment: Moment,
        conversations: impl Iterator<Item = ConversationId>,
    ) -> IdMap<ConversationId, Seq> {
        let Moment { life, raised_count } = moment;
        let recent = if life == self.life {
            Some(&self.current)
        } else {
            self.before.iter().find(|(other, _)| *other == life).map(|(_, recent)| recent)
        };
        let Some(recent) = recent else { return IdMap::default() };
        // What rose since then was lower: its first rise says how much.
        let mut since: IdMap<ConversationId, Option<Seq>> = IdMap::default();
        if let Some(raised_count) = raised_count {
            let first_count = self.raised_count - self.raised.len() as u64;
            let Some(known) = raised_count.checked_sub(first_count) else { return IdMap::default() };
            let rises = self.raised.iter().skip(usize::try_from(known).unwrap_or(usize::MAX));
            for raised in rises.filter(|raised| raised.life == life.number) {
                if let Entry::Vacant(place) = since.entry(raised.conversation) {
                    place.insert(raised.from);
                }
            }
        }
        let had =
            |conversation| since.get(&conversation).copied().unwrap_or_else(|| recent.get(conversation));
        conversations.filter_map(|conversation| Some((conversation, had(conversation)?))).collect()
    }
}

/// A bounded map that forgets what was not touched for longest, in two halves: when the young half is full it becomes
/// the old one, and the old one goes.
#[derive(Debug, Default)]
struct Recent {
    young: IdMap<ConversationId, Seq>,
    old: IdMap<ConversationId, Seq>,
    /// Whether something was not remembered for lack of room, or forgotten.
    is_forgetful: bool,
}

impl Recent {
    fn get(&self, conversation: ConversationId) -> Option<Seq> {
        // A conversation in both halves was touched lately: the young one is the higher.
        self.young.get(&conversation).or_else(|| self.old.get(&conversation)).copied()
    }

    fn raise(&mut self, conversation: ConversationId, seq: Seq) {
        let seq = self.get(conversation).map_or(seq, |tail| tail.max(seq));
        if self.young.len() >= TAILS_MAX / 2 && !self.young.contains_key(&conversation) {
            self.old = std::mem::take(&mut self.young);
            self.is_forgetful = true;
        }
        self.young.insert(conversation, seq);
    }

    fn may_begin(&mut self) -> bool {
        self.is_forgetful |= self.young.len() >= TAILS_MAX / 2;
        !self.is_forgetful
    }

    /// Raises without making anything younger, if the conversation is there; else adds it.
    fn raise_in_place(&mut self, conversation: ConversationId, seq: Seq) {
        if let Some(tail) = self.young.get_mut(&conversation) {
            *tail = (*tail).max(seq);
        } else if let Some(tail) = self.old.get_mut(&conversation) {
            *tail = (*tail).max(seq);
        } else {
            self.young.insert(conversation, seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(tails: &Tails, moment: Moment, conversation: u64) -> Option<Seq> {
        let conversation = ConversationId(conversation);
        tails.had(moment, std::iter::once(conversation)).get(&conversation).copied()
    }

    /// G6, G11: how far one was who left is not taken for how far others are, when what those had is forgotten.
    #[test]
    fn a_forgotten_tail_is_not_begun_by_one_who_left() {
        let mut tails = Tails::of(Peer(0));
        tails.note(ConversationId(7), 20, true);
        for conversation in 100..70_100 {
            tails.delivered(ConversationId(conversation), 1, false);
        }
        assert_eq!(tails.tail(ConversationId(7)), None);
        tails.note(ConversationId(7), 5, true);
        assert_eq!(tails.tail(ConversationId(7)), None);
    }

    /// G6, G13: bounded, and what is forgotten is unknown rather than wrong.
    #[test]
    fn tails_are_bounded_and_lives_stay_apart() {
        let mut tails = Tails::of(Peer(0));
        let first = Moment::end_of(tails.life());
        for conversation in 0..100_000 {
            tails.delivered(ConversationId(conversation), conversation + 1, false);
        }
        assert_eq!(tail_of(&tails, first, 0), None);
        assert_eq!(tail_of(&tails, first, 99_999), Some(100_000));
        assert!(tails.current.young.len() + tails.current.old.len() <= TAILS_MAX);
        tails.end_life();
        let second = Moment::end_of(tails.life());
        tails.delivered(ConversationId(99_999), 100_007, false);
        tails.note(ConversationId(99_999), 3, true);
        tails.note(ConversationId(5), 3, false);
        assert_eq!(tail_of(&tails, second, 5), None);
        assert_eq!(tail_of(&tails, first, 99_999), Some(100_000));
        assert_eq!(tail_of(&tails, second, 99_999), Some(100_007));
        for _ in 0..LIVES_MAX {
            tails.end_life();
        }
        assert_eq!(tail_of(&tails, first, 99_999), None);
        assert_eq!(tail_of(&tails, second, 99_999), Some(100_007));
    }

    /// G6: what is handed on again of a conversation that nothing was known of is in doubt until something new comes.
    #[test]
    fn a_tail_that_a_replay_began_says_nothing() {
        let mut tails = Tails::of(Peer(0));
        let here = ConversationId(7);
        assert!(tails.is_doubtful(here, 1));
        tails.delivered(here, 1, true);
        assert!(tails.is_doubtful(here, 2), "the first may have been for others");
        tails.delivered(here, 2, true);
        tails.delivered(here, 3, false);
        assert!(!tails.is_doubtful(here, 4) && tails.is_doubtful(here, 5));
        tails.delivered(here, 4, true);
        assert!(!tails.is_doubtful(here, 5), "something was known");
        tails.end_life();
        assert!(tails.is_doubtful(here, 5));
    }

    /// G6, G13: who goes to another router has what the tails were then, whatever rises for those who stay, and also when
    /// the lane is lost behind them; so many events later it is unknown.
    #[test]
    fn a_moment_is_remembered_for_a_while() {
        let mut tails = Tails::of(Peer(0));
        for conversation in 1..=3 {
            tails.delivered(ConversationId(conversation), 10, false);
        }
        let moment = tails.moment(tails.life());
        tails.delivered(ConversationId(1), 11, false);
        tails.delivered(ConversationId(1), 12, false);
        tails.note(ConversationId(2), 15, true);
        tails.delivered(ConversationId(4), 7, false);
        let had = |tails: &Tails| [1, 2, 3, 4].map(|conversation| tail_of(tails, moment, conversation));
        assert_eq!(had(&tails), [Some(10), Some(10), Some(10), None]);
        tails.end_life();
        tails.delivered(ConversationId(3), 20, false);
        assert_eq!(had(&tails), [Some(10), Some(10), Some(10), None]);
        assert_eq!(tail_of(&tails, tails.moment(tails.life()), 3), Some(20));
        for seq in 0..RAISED_MAX as u64 {
            tails.delivered(ConversationId(9), seq + 1, false);
        }
        assert_eq!(had(&tails), [None; 4]);
        assert_eq!(tails.raised.len(), RAISED_MAX);
    }
}
