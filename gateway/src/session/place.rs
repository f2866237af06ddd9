//! Where a client stands with each conversation, compared with where the conversation stands: what has to be brought.
//! Pure: standings in, plan out (F6, G6).

use std::collections::BTreeMap;

use carillon_protocol::frame::{Joined, Standing};
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::limits::RESUME_EVENTS_MAX;

use super::joining::Joining;
use super::plan::{Entry, How, Plan};
use super::work::Work;
use crate::hash::IdMap;
use crate::tails::{Moment, Tails};

/// Conversations that may be heard of while a session registers and peeks. Beyond: it is closed with 1013.
const HEARD_MAX: usize = 1_024;

/// What the routers say.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The user's conversations with this device's cursors, ascending.
    pub(super) joined: Vec<Joined>,
    /// Where those that the user may see stand.
    pub(super) standings: BTreeMap<ConversationId, Standing>,
    /// What came as `Deliver` meanwhile, unless a standing knows of it.
    heard: BTreeMap<ConversationId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Seq,
    /// By which the user is a member now, if that came meanwhile: for the first time, or once more from a router that is
    /// new.
    joining: Option<Joining>,
    /// Whether the list did not have the conversation: then it came for the first time.
    is_unlisted: bool,
}

impl Known {
    /// The list of conversations is complete: it knows better than what was heard.
    pub(super) fn listed(&mut self) {
        self.joined.sort_unstable_by_key(|joined| joined.conversation);
        self.joined.dedup_by_key(|joined| joined.conversation);
        let heard = std::mem::take(&mut self.heard).into_iter();
        self.heard = heard
            .filter(|(conversation, heard)| heard.joining.is_some() || self.joined(*conversation).is_none())
            .collect();
    }

    /// A `Deliver` came while the session does not know yet where it stands. `false`: too many of them.
    #[must_use]
    pub(super) fn hear(&mut self, conversation: ConversationId, seq: Seq, joining: Option<Joining>) -> bool {
        if let Some(standing) = self.standings.get_mut(&conversation) {
            raise(standing, seq);
            if joining.is_none() && !self.heard.contains_key(&conversation) {
                return true;
            }
        }
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&conversation) {
            return false;
        }
        let heard =
            self.heard.entry(conversation).or_insert(Heard { last: seq, joining, is_unlisted: false });
        heard.last = heard.last.max(seq);
        heard.joining = joining.or(heard.joining);
        true
    }

    /// The router told where a conversation stands. Its snapshot may be older than what came meanwhile.
    pub(super) fn stands(&mut self, mut standing: Standing) {
        if let Some(heard) = self.heard.get(&standing.conversation) {
            raise(&mut standing, heard.last);
            if heard.joining.is_none() {
                self.heard.remove(&standing.conversation);
            }
        }
        self.standings.insert(standing.conversation, standing);
    }

    /// Every conversation of the list was asked for. What is not among the answers is not for this user, unless they
    /// joined meanwhile: then that is where they stand. Of what else was heard they have everything: they left it.
    pub(super) fn is_known(&mut self) {
        self.heard.retain(|_, heard| heard.joining.is_some());
        for (&conversation, Heard { last, joining, is_unlisted }) in &mut self.heard {
            let (last, Some(Joining { seq, first_seq, is_returning })) = (*last, *joining) else { continue };
            let standing = self.standings.entry(conversation).or_insert(Standing {
                conversation,
                first_seq,
                joined_seq: seq,
                head_seq: last,
                fanned_out_seq: last,
            });
            raise(standing, last);
            if standing.joined_seq < seq {
                (standing.first_seq, standing.joined_seq) = (first_seq, seq);
            }
            match self.joined.binary_search_by_key(&conversation, |joined| joined.conversation) {
                Ok(place) => {
                    if let Some(joined) = self.joined.get_mut(place) {
                        joined.is_returning |= is_returning;
                    }
                }
                Err(place) => {
                    *is_unlisted = true;
                    self.joined.insert(place, Joined { conversation, cursor: 0, is_returning });
                }
            }
        }
    }

    fn joined(&self, conversation: ConversationId) -> Option<&Joined> {
        let place = self.joined.binary_search_by_key(&conversation, |joined| joined.conversation).ok()?;
        self.joined.get(place)
    }

    /// Whether the user is known never to have been a member before this membership, by its first event. (The list may be
    /// older than the membership.)
    fn is_first(&self, standing: &Standing) -> bool {
        let joining = self.heard.get(&standing.conversation).and_then(|heard| heard.joining);
        joining.is_some_and(|joining| joining.seq == standing.joined_seq && !joining.is_returning)
    }

    /// Whether that membership began since the list was read: no session of theirs had anything of it.
    fn is_new(&self, standing: &Standing) -> bool {
        self.is_first(standing)
            && self.heard.get(&standing.conversation).is_some_and(|heard| heard.is_unlisted)
    }
}

/// What a session was before its lane was lost, or its user became another router's.
#[derive(Debug)]
pub(super) struct Before {
    /// Until when it was live, with all conversations but the following.
    pub(super) moment: Moment,
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
    for Joined { conversation, cursor, is_returning } in &known.joined {
        let Some(standing) = known.standings.get(conversation) else { continue };
        let named = overrides.binary_search_by_key(conversation, |(other, _)| *other).ok();
        let named = named.and_then(|place| overrides.get(place)).map(|(_, cursor)| *cursor);
        let holds_nothing = match (named, *cursor) {
            (Some(named), _) => named == 0,
            // Who was a member before may hold what was never confirmed.
            (None, cursor) => cursor == 0 && !is_returning,
        };
        let cursor = named.unwrap_or(*cursor);
        // Who holds nothing begins with the first event they may see.
        let cursor = if holds_nothing { cursor.max(standing.first_seq.saturating_sub(1)) } else { cursor };
        // The list may be older than the membership; their own word is not.
        let is_first = holds_nothing && named.is_none();
        entries.extend(bring(standing, cursor, work, tails).map(|entry| Entry { is_first, ..entry }));
    }
    Placed { plan: Plan::new(entries), ..Placed::default() }
}

/// A session whose lane was lost and is back, or whose user became another router's. `had` is what every session had that
/// was live as it was, `tails` are those of its present lane.
pub(super) fn again(
    known: Known,
    before: &Before,
    had: &IdMap<ConversationId, Seq>,
    work: &mut Work,
    tails: &mut Tails,
) -> Placed {
    let mut entries = Vec::new();
    let mut placed = Placed::default();
    for Joined { conversation, cursor, .. } in &known.joined {
        let Some(standing) = known.standings.get(conversation) else { continue };
        let Standing { joined_seq, head_seq, .. } = *standing;
        let tail = had.get(conversation).copied();
        let was_left = tail.is_some_and(|tail| tail < joined_seq);
        if before.listed.binary_search_by_key(conversation, |(other, _)| *other).is_ok() {
            if was_left {
                entries.push(reset(standing, "membership"));
            } else {
                placed.listed.push((*conversation, 0));
            }
            continue;
        }
        let open = before.open.binary_search_by_key(conversation, |entry| entry.conversation).ok();
        let open = open.and_then(|place| before.open.get(place));
        let position = match open {
            Some(Entry { how: How::Reset(reason), .. }) => {
                entries.push(reset(standing, reason));
                continue;
            }
            Some(entry) => Some(entry.next.saturating_sub(1)),
            // What was brought live and lies before this membership says only how far others here were.
            None => match tail.max(work.ahead_of(*conversation)) {
                Some(position) if position >= joined_seq => Some(position),
                Some(_) if known.is_first(standing) => Some(standing.first_seq.saturating_sub(1)),
                Some(_) => {
                    entries.push(reset(standing, "membership"));
                    continue;
                }
                None => None,
            },
        };
        match position {
            // Who left hears no more than their last event, however far others are.
            Some(position) => {
                let is_first = open.is_some_and(|entry| entry.is_first);
                let entry = bring(standing, position.min(head_seq), work, tails);
                entries.extend(entry.map(|entry| Entry { is_first, ..entry }));
            }
            // What is confirmed as delivered is not missing, wherever it came from.
            None if head_seq <= *cursor => settle(standing, work, tails),
            None if known.is_new(standing) => {
                entries.extend(bring(standing, standing.first_seq.saturating_sub(1), work, tails));
            }
            None => placed.unknown.push((*conversation, head_seq)),
        }
    }
    placed.plan = Plan::new(entries);
    placed
}

fn raise(standing: &mut Standing, seq: Seq) {
    standing.head_seq = standing.head_seq.max(seq);
    standing.fanned_out_seq = standing.fanned_out_seq.max(seq);
}

/// Brings what lies between `cursor` and the last event that the member may see. `fanned_out_seq` may lie above that, for
/// who left: those events are for others.
fn bring(standing: &Standing, cursor: Seq, work: &mut Work, tails: &mut Tails) -> Option<Entry> {
    let Standing { conversation, first_seq, joined_seq, head_seq, fanned_out_seq } = *standing;
    let missing = head_seq.saturating_sub(cursor);
    if cursor > head_seq {
        Some(reset(standing, "cursor_ahead"))
    } else if missing == 0 {
        settle(standing, work, tails);
        None
    } else if cursor + 1 < first_seq {
        // Visible from joining on, or cut by retention since.
        Some(reset(standing, if first_seq == joined_seq { "membership" } else { "retention" }))
    } else if missing > RESUME_EVENTS_MAX {
        Some(reset(standing, "too_far_behind"))
    } else {
        let (next, fanned_out) = (cursor + 1, fanned_out_seq);
        Some(Entry { conversation, how: How::Pages, next, target: head_seq, fanned_out, is_first: false })
    }
}

fn reset(standing: &Standing, reason: &'static str) -> Entry {
    let Standing { conversation, first_seq, head_seq, fanned_out_seq, .. } = *standing;
    let how = How::Reset(reason);
    Entry {
        conversation,
        how,
        next: first_seq,
        target: head_seq,
        fanned_out: fanned_out_seq,
        is_first: false,
    }
}

/// The client has everything.
fn settle(standing: &Standing, work: &mut Work, tails: &mut Tails) {
    let Standing { conversation, head_seq, fanned_out_seq, .. } = *standing;
    work.placed(conversation, head_seq, fanned_out_seq);
    tails.note(conversation, fanned_out_seq.min(head_seq), fanned_out_seq >= head_seq);
}

#[cfg(test)]
mod tests {
    use carillon_link::Peer;

    use super::*;

    const HERE: ConversationId = ConversationId(9);

    fn standing(first_seq: Seq, joined_seq: Seq, head_seq: Seq, fanned_out_seq: Seq) -> Standing {
        Standing { conversation: HERE, first_seq, joined_seq, head_seq, fanned_out_seq }
    }

    fn known(cursor: Seq, is_returning: bool, standing: Standing) -> Known {
        let mut known = Known::default();
        known.joined.push(Joined { conversation: HERE, cursor, is_returning });
        known.standings.insert(HERE, standing);
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
            ((7, None, 1, 7, 9), None, 0, 0, None),
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
            let (mut work, mut tails) = (Work::default(), Tails::of(Peer(0)));
            let known = known(cursor, false, standing(first, 1, head, fanned_out));
            let mut placed = fresh(known, &overrides, &mut work, &mut tails);
            let entry = placed.plan.next();
            assert_eq!(entry.map(|entry| entry.how), how, "{case:?}");
            assert_eq!(entry.map_or((0, 0), |entry| (entry.next, entry.target)), (from, to), "{case:?}");
            assert_eq!(work.ahead_of(HERE), ahead, "{case:?}");
        }
    }

    /// G6: who left has their last event, and that is remembered although others hear more: another one who left earlier says
    /// less, and must not be believed for them.
    #[test]
    fn g6_what_who_left_has_is_remembered() {
        let (mut work, mut tails) = (Work::default(), Tails::of(Peer(0)));
        for (head, fanned_out) in [(15, 16), (11, 11)] {
            let known = known(head, false, standing(1, 1, head, fanned_out));
            assert!(fresh(known, &[], &mut work, &mut tails).plan.next().is_none());
        }
        assert_eq!(tails.tail(HERE), Some(15));
    }

    /// G11, D2: who was away from a conversation drops what they held, and nobody else does. (Stored cursor, the client's
    /// own, whether they return, first, joined, head) → how, from.
    #[test]
    fn g11_where_a_member_begins() {
        let (pages, reset) = (Some(How::Pages), Some(How::Reset("membership")));
        let cases = [
            // Joined for the first time, visible from joining on.
            ((0, None, false, 12, 12, 20), pages, 12),
            ((15, None, false, 12, 12, 20), pages, 16),
            // Came back: what is held, confirmed or not, is from before.
            ((0, None, true, 12, 12, 20), reset, 12),
            ((7, None, true, 12, 12, 20), reset, 12),
            ((15, None, true, 12, 12, 20), pages, 16),
            ((0, Some(7), true, 12, 12, 20), reset, 12),
            ((7, Some(0), true, 12, 12, 20), pages, 12),
            // The list was older than the membership.
            ((7, None, false, 12, 12, 20), reset, 12),
            // All of it is visible: nothing is missing in what is held.
            ((7, None, true, 1, 12, 20), pages, 8),
            ((0, None, true, 1, 12, 20), pages, 1),
        ];
        for (case, how, from) in cases {
            let (cursor, own, is_returning, first, joined, head) = case;
            let overrides: Vec<_> = own.map(|own| (HERE, own)).into_iter().collect();
            let (mut work, mut tails) = (Work::default(), Tails::of(Peer(0)));
            let known = known(cursor, is_returning, standing(first, joined, head, head));
            let entry = fresh(known, &overrides, &mut work, &mut tails).plan.next();
            assert_eq!(entry.map(|entry| (entry.how, entry.next)), how.map(|how| (how, from)), "{case:?}");
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
            // Others heard more than one who left.
            ((Some(12), None, 0, 9), None, false),
        ];
        for (case, pages, is_unknown) in cases {
            let (tail, ahead, cursor, head) = case;
            let mut placed = after(tail, ahead, known(cursor, false, standing(1, 1, head, head)));
            assert_eq!(placed.plan.next().map(|entry| (entry.next, entry.target)), pages, "{case:?}");
            assert_eq!(!placed.unknown.is_empty(), is_unknown, "{case:?}");
        }
    }

    fn after(tail: Option<Seq>, ahead: Option<Seq>, mut known: Known) -> Placed {
        let (mut work, mut tails) = (Work::default(), Tails::of(Peer(0)));
        if let Some(tail) = tail {
            tails.delivered(HERE, tail, false);
        }
        work.ahead.extend(ahead.map(|ahead| (HERE, ahead)));
        let moment = Moment::end_of(tails.life());
        tails.end_life();
        let before = Before { moment, open: Vec::new(), listed: Vec::new() };
        known.is_known();
        let had = tails.had(moment, std::iter::once(HERE));
        again(known, &before, &had, &mut work, &mut tails)
    }

    /// G11, D2: how far others here were says nothing about one who joined while the lane was lost: they begin with a
    /// reset, or, when their first event ever came on the new lane, with that.
    #[test]
    fn g11_who_joins_while_the_lane_is_lost_is_not_taken_for_the_others() {
        let joined = || known(0, false, standing(12, 12, 14, 14));
        for (tail, ahead) in [(Some(11), None), (Some(5), Some(9))] {
            let entry = after(tail, ahead, joined()).plan.next().unwrap();
            assert_eq!((entry.how, entry.next, entry.target), (How::Reset("membership"), 12, 14));
        }
        assert!(after(Some(14), None, joined()).plan.next().is_none(), "was a member before");
        let entry = after(Some(12), None, joined()).plan.next().unwrap();
        assert_eq!((entry.how, entry.next, entry.target), (How::Pages, 13, 14));
        for (first_seq, is_returning) in [(12, false), (1, false), (12, true)] {
            let mut known = Known::default();
            let joining = Joining { seq: 12, first_seq, is_returning };
            assert!(known.hear(HERE, 12, Some(joining)) && known.hear(HERE, 14, None));
            let entry = after(Some(11), None, known).plan.next().unwrap();
            let how = if is_returning { How::Reset("membership") } else { How::Pages };
            assert_eq!((entry.how, entry.next, entry.target), (how, first_seq, 14));
        }
    }

    /// G11: what lags in fan-out for one who left brings nothing back; what a standing does not know of yet does.
    #[test]
    fn g11_what_is_heard_before_the_standing() {
        let placed = |known| fresh(known, &[], &mut Work::default(), &mut Tails::of(Peer(0)));
        let mut left = Known::default();
        assert!(left.hear(HERE, 9, None));
        left.listed();
        left.is_known();
        assert!(placed(left).plan.next().is_none());

        let mut again = known(9, false, standing(3, 3, 9, 9));
        assert!(again.hear(HERE, 15, Some(Joining { seq: 15, first_seq: 15, is_returning: true })));
        again.is_known();
        let entry = placed(again).plan.next().unwrap();
        assert_eq!((entry.how, entry.next, entry.target), (How::Reset("membership"), 15, 15));
    }
}
