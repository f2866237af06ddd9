//! How far this shard has brought each conversation live. When a lane was lost and is back, that tells what its sessions
//! missed, without a list per session.
//!
//! A *life* is the time between two losses of a router's lane. A session that is live has received exactly up to the
//! tail of its life, or up to what it was paged beyond that (which it keeps itself until the tail has caught up).
//!
//! # Invariants
//! - A tail never lies above what every live session of that life has: it rises with a `Deliver`, which names all
//!   listeners of the shard at once, and to `fanned_out_seq`, below which every `Deliver` came before.
//! - The tails of an earlier life do not move any more.
//! - Bounded: [`TAILS_MAX`] conversations a life, the longest unheard forgotten first, and [`LIVES_MAX`] earlier lives.
//!   What is forgotten is unknown, and a session that needs it is told `behind` or nothing, never something wrong.

use std::collections::VecDeque;

use carillon_protocol::ids::{ConversationId, Seq};

use crate::hash::IdMap;

/// Conversations remembered in one life, about 30 bytes each.
pub(crate) const TAILS_MAX: usize = 65_536;
/// Earlier lives remembered, for sessions that did not get through in between.
pub(crate) const LIVES_MAX: usize = 3;

/// Which life of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(u32);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    life: Life,
    current: Recent,
    before: VecDeque<(Life, Recent)>,
}

impl Tails {
    /// The life that began last.
    #[must_use]
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// The lane is lost: the life is over.
    pub(crate) fn end_life(&mut self) {
        if self.before.len() == LIVES_MAX {
            self.before.pop_front();
        }
        self.before.push_back((self.life, std::mem::take(&mut self.current)));
        self.life.0 += 1;
    }

    /// A `Deliver` came.
    pub(crate) fn delivered(&mut self, conversation: ConversationId, seq: Seq) {
        self.current.raise(conversation, seq);
    }

    /// Every live session of this life has the conversation up to `seq`, says `fanned_out_seq`. That may be less than
    /// what they have, so a conversation that is not remembered is begun only when it `is_exact`: nothing above it is for
    /// the one who asked. Others may have more when that one left; so none is begun once something may be forgotten:
    /// until then whoever has more is remembered here, or keeps what they were paged themselves.
    pub(crate) fn note(&mut self, conversation: ConversationId, seq: Seq, is_exact: bool) {
        if self.current.get(conversation).is_some() || (is_exact && self.current.may_begin()) {
            self.current.raise_in_place(conversation, seq);
        }
    }

    /// What every live session of `life` had.
    #[must_use]
    pub(crate) fn tail(&self, life: Life, conversation: ConversationId) -> Option<Seq> {
        let tails = if life == self.life {
            &self.current
        } else {
            &self.before.iter().find(|(other, _)| *other == life)?.1
        };
        tails.get(conversation)
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

    /// G6, G11: how far one was who left is not taken for how far others are, when what those had is forgotten.
    #[test]
    fn a_forgotten_tail_is_not_begun_by_one_who_left() {
        let mut tails = Tails::default();
        let life = tails.life();
        tails.note(ConversationId(7), 20, true);
        for conversation in 100..70_100 {
            tails.delivered(ConversationId(conversation), 1);
        }
        assert_eq!(tails.tail(life, ConversationId(7)), None);
        tails.note(ConversationId(7), 5, true);
        assert_eq!(tails.tail(life, ConversationId(7)), None);
    }

    /// G6, G13: bounded, and what is forgotten is unknown rather than wrong.
    #[test]
    fn tails_are_bounded_and_lives_stay_apart() {
        let mut tails = Tails::default();
        let first = tails.life();
        for conversation in 0..100_000 {
            tails.delivered(ConversationId(conversation), conversation + 1);
        }
        assert_eq!(tails.tail(first, ConversationId(0)), None);
        assert_eq!(tails.tail(first, ConversationId(99_999)), Some(100_000));
        assert!(tails.current.young.len() + tails.current.old.len() <= TAILS_MAX);
        tails.end_life();
        let second = tails.life();
        tails.delivered(ConversationId(99_999), 100_007);
        tails.note(ConversationId(99_999), 3, true);
        tails.note(ConversationId(5), 3, false);
        assert_eq!(tails.tail(second, ConversationId(5)), None);
        assert_eq!(tails.tail(first, ConversationId(99_999)), Some(100_000));
        assert_eq!(tails.tail(second, ConversationId(99_999)), Some(100_007));
        for _ in 0..LIVES_MAX {
            tails.end_life();
        }
        assert_eq!(tails.tail(first, ConversationId(99_999)), None);
        assert_eq!(tails.tail(second, ConversationId(99_999)), Some(100_007));
    }
}
