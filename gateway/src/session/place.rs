//! Where a client stands with each conversation, compared with where the conversation stands: what has to be brought.
//! Pure: standings in, plan out (F6, G6).

use std::collections::BTreeMap;

use carillon_protocol::frame::{Joined, Standing};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::RESUME_EVENTS_MAX;

use super::plan::{Entry, How, Plan};
use super::work::Work;
use crate::tails::{Life, Tails};

/// Conversations that may be heard of while a session registers and peeks. Beyond: it is closed with 1013.
const HEARD_MAX: usize = 1_024;

/// What the routers say.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The user's conversations with this device's cursors, ascending.
    pub(super) joined: Vec<Joined>,
    /// Where those that the user may see stand.
    pub(super) standings: BTreeMap<ConversationId, Standing>,
    /// What came as `Deliver` of conversations without a standing: the first and last seq. Those that are not in `joined`
    /// either began meanwhile.
    pub(super) heard: BTreeMap<ConversationId, (Seq, Seq)>,
}

impl Known {
    /// The list of conversations is complete: it knows better than what was heard.
    pub(super) fn listed(&mut self) {
        self.joined.sort_unstable_by_key(|joined| joined.conversation);
        self.joined.dedup_by_key(|joined| joined.conversation);
        self.is_known();
    }

    /// A `Deliver` came while the session does not know yet where it stands. `false`: too many of them.
    #[must_use]
    pub(super) fn hear(&mut self, conversation: ConversationId, seq: Seq) -> bool {
        if let Some(standing) = self.standings.get_mut(&conversation) {
            raise(standing, seq);
            return true;
        }
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&conversation) {
            return false;
        }
        let (_, last) = self.heard.entry(conversation).or_insert((seq, seq));
        *last = (*last).max(seq);
        true
    }

    /// The router told where a conversation stands. Its snapshot may be older than what came meanwhile.
    pub(super) fn stands(&mut self, mut standing: Standing) {
        if let Some((_, last)) = self.heard.remove(&standing.conversation) {
            raise(&mut standing, last);
        }
        self.standings.insert(standing.conversation, standing);
    }

    /// Every conversation of the list was asked for: what is not among the answers is not for this user.
    pub(super) fn is_known(&mut self) {
        let heard = std::mem::take(&mut self.heard);
        self.heard = heard.into_iter().filter(|(conversation, _)| !self.is_joined(*conversation)).collect();
    }

    fn is_joined(&self, conversation: ConversationId) -> bool {
        self.joined.binary_search_by_key(&conversation, |joined| joined.conversation).is_ok()
    }
}

/// What a session was before its lane was lost.
#[derive(Debug)]
pub(super) struct Before {
    /// The life in which it was live, with all conversations but the following.
    pub(super) life: Life,
    /// What was still to be brought, ascending.
    pub(super) open: Vec<Entry>,
    /// What the client was asked to sync, ascending.
    pub(super) listed: Vec<(ConversationId, Seq)>,
}

/// What has to be brought.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) plan: Plan,
    /// Conversations whose place is unknown: the client has to sync.
    pub(super) unknown: Vec<(ConversationId, Seq)>,
    /// Those that the client was asked to sync before, and still has to. (Nothing came live yet: 0.)
    pub(super) listed: Vec<(ConversationId, Seq)>,
}

/// A session that begins. `overrides` are the client's own cursors, ascending.
pub(super) fn fresh(
    known: Known,
    overrides: &[(ConversationId, Seq)],
    work: &mut Work,
    tails: &mut Tails,
) -> Placed {
    let mut entries = Vec::new();
    for Joined { conversation, cursor } in &known.joined {
        let Some(standing) = known.standings.get(conversation) else { continue };
        let named = overrides.binary_search_by_key(conversation, |(other, _)| *other).ok();
        let named = named.and_then(|place| overrides.get(place)).map(|(_, cursor)| *cursor);
        // Who holds nothing begins with the first event they may see.
        let cursor = match named.unwrap_or(*cursor) {
            0 => standing.first_seq.saturating_sub(1),
            cursor => cursor,
        };
        entries.extend(bring(standing, cursor, work, tails));
    }
    entries.extend(heard(&known));
    Placed { plan: Plan::new(entries), ..Placed::default() }
}

/// A session whose lane was lost and is back.
pub(super) fn again(known: Known, before: &Before, work: &mut Work, tails: &mut Tails) -> Placed {
    let mut entries = Vec::new();
    let mut placed = Placed::default();
    for Joined { conversation, cursor } in &known.joined {
        let Some(standing) = known.standings.get(conversation) else { continue };
        let head = head_of(standing);
        if before.listed.binary_search_by_key(conversation, |(other, _)| *other).is_ok() {
            placed.listed.push((*conversation, 0));
            continue;
        }
        let open = before.open.binary_search_by_key(conversation, |entry| entry.conversation).ok();
        let position = match open.and_then(|place| before.open.get(place)) {
            Some(Entry { how: How::Reset(reason), .. }) => {
                entries.push(reset(standing, reason));
                continue;
            }
            Some(entry) => Some(entry.next.saturating_sub(1)),
            None => tails.tail(before.life, *conversation).max(work.ahead_of(*conversation)),
        };
        match position {
            Some(position) => entries.extend(bring(standing, position, work, tails)),
            // What is confirmed as delivered is not missing, wherever it came from.
            None if head <= *cursor => settle(standing, head, work, tails),
            None => placed.unknown.push((*conversation, head)),
        }
    }
    entries.extend(heard(&known));
    placed.plan = Plan::new(entries);
    placed
}

fn raise(standing: &mut Standing, seq: Seq) {
    standing.head_seq = standing.head_seq.max(seq);
    standing.fanned_out_seq = standing.fanned_out_seq.max(seq);
}

/// The last seq to bring: what a snapshot showed, or what came as a `Deliver` before the answer.
fn head_of(standing: &Standing) -> Seq {
    standing.head_seq.max(standing.fanned_out_seq)
}

fn bring(standing: &Standing, cursor: Seq, work: &mut Work, tails: &mut Tails) -> Option<Entry> {
    let head = head_of(standing);
    let missing = head.saturating_sub(cursor);
    if cursor > head {
        Some(reset(standing, "cursor_ahead"))
    } else if missing == 0 {
        settle(standing, head, work, tails);
        None
    } else if cursor + 1 < standing.first_seq {
        Some(reset(standing, "retention"))
    } else if missing > RESUME_EVENTS_MAX {
        Some(reset(standing, "too_far_behind"))
    } else {
        let Standing { conversation, fanned_out_seq, .. } = *standing;
        Some(Entry {
            conversation,
            how: How::Pages,
            next: cursor + 1,
            target: head,
            fanned_out: fanned_out_seq,
        })
    }
}

fn reset(standing: &Standing, reason: &'static str) -> Entry {
    let Standing { conversation, first_seq, fanned_out_seq, .. } = *standing;
    let target = head_of(standing);
    Entry { conversation, how: How::Reset(reason), next: first_seq, target, fanned_out: fanned_out_seq }
}

/// The client has everything.
fn settle(standing: &Standing, head: Seq, work: &mut Work, tails: &mut Tails) {
    let Standing { conversation, fanned_out_seq, .. } = *standing;
    work.placed(conversation, head, fanned_out_seq);
    tails.note(conversation, fanned_out_seq.min(head), fanned_out_seq >= head);
}

fn heard(known: &Known) -> impl Iterator<Item = Entry> {
    known.heard.iter().map(|(conversation, (first, last))| Entry {
        conversation: *conversation,
        how: How::Pages,
        next: *first,
        target: *last,
        fanned_out: *last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ConversationId = ConversationId(9);

    fn known(cursor: Seq, first_seq: Seq, head_seq: Seq, fanned_out_seq: Seq) -> Known {
        let mut known = Known::default();
        known.joined.push(Joined { conversation: HERE, cursor });
        known.standings.insert(HERE, Standing { conversation: HERE, first_seq, head_seq, fanned_out_seq });
        known
    }

    /// (stored cursor, the client's own, first, head, fanned out) → how, from, to; whether live pushes of what was
    /// brought are still to be expected.
    #[test]
    fn f6_where_a_client_begins() {
        let pages = Some(How::Pages);
        let cases = [
            ((7, None, 1, 7, 7), None, 0, 0, None),
            ((7, None, 1, 9, 9), pages, 8, 9, None),
            ((7, None, 1, 9, 8), pages, 8, 9, None),
            ((7, None, 1, 7, 9), pages, 8, 9, None),
            ((7, Some(9), 1, 9, 8), None, 0, 0, Some(9)),
            ((7, Some(3), 1, 7, 7), pages, 4, 7, None),
            ((0, None, 1, 1_000, 1_000), pages, 1, 1_000, None),
            ((0, None, 1, 1_001, 1_001), Some(How::Reset("too_far_behind")), 1, 1_001, None),
            ((7, Some(8), 1, 7, 7), Some(How::Reset("cursor_ahead")), 1, 7, None),
            ((7, None, 12, 20, 20), Some(How::Reset("retention")), 12, 20, None),
            ((11, None, 12, 20, 20), pages, 12, 20, None),
            ((11, Some(0), 12, 20, 20), pages, 12, 20, None),
        ];
        for (case, how, from, to, ahead) in cases {
            let (cursor, own, first, head, fanned_out) = case;
            let overrides: Vec<_> = own.map(|own| (HERE, own)).into_iter().collect();
            let (mut work, mut tails) = (Work::default(), Tails::default());
            let mut placed = fresh(known(cursor, first, head, fanned_out), &overrides, &mut work, &mut tails);
            let entry = placed.plan.next();
            assert_eq!(entry.map(|entry| entry.how), how, "{case:?}");
            assert_eq!(entry.map_or((0, 0), |entry| (entry.next, entry.target)), (from, to), "{case:?}");
            assert_eq!(work.ahead_of(HERE), ahead, "{case:?}");
        }
    }

    /// (tail of the life before, paged beyond it, stored cursor, head) → from, to, or unknown.
    #[test]
    fn g6_where_a_session_goes_on_after_its_lane_was_lost() {
        let cases = [
            ((Some(7), None, 0, 7), None, false),
            ((Some(7), None, 0, 9), Some((8, 9)), false),
            ((Some(7), Some(9), 0, 9), None, false),
            ((Some(7), Some(9), 0, 11), Some((10, 11)), false),
            ((None, Some(9), 0, 11), Some((10, 11)), false),
            ((None, None, 9, 9), None, false),
            ((None, None, 8, 9), None, true),
        ];
        for (case, pages, is_unknown) in cases {
            let (tail, ahead, cursor, head) = case;
            let (mut work, mut tails) = (Work::default(), Tails::default());
            let life = tails.life();
            if let Some(tail) = tail {
                tails.delivered(HERE, tail);
            }
            work.ahead.extend(ahead.map(|ahead| (HERE, ahead)));
            tails.end_life();
            let before = Before { life, open: Vec::new(), listed: Vec::new() };
            let mut placed = again(known(cursor, 1, head, head), &before, &mut work, &mut tails);
            assert_eq!(placed.plan.next().map(|entry| (entry.next, entry.target)), pages, "{case:?}");
            assert_eq!(!placed.unknown.is_empty(), is_unknown, "{case:?}");
        }
    }
}
