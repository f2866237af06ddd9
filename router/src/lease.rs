//! Which slots are this router's, among several routers on one store: it beats, watches the others beat, takes what
//! nobody owns, gives away what others should own, and stops when it was declared dead.
//!
//! Driven by [`Lease::handle`], [`Lease::poll_output`] until `None`, [`Lease::poll_timeout`]. What it puts out are
//! transactions of `carillon_store::ops` on the control lane, one at a time, and polls, one at a time beside them; the
//! store's own fence (G15) decides who may commit, so a lease that is wrong costs time and never a message.
//!
//! # Invariants
//! - Only what was silent for [`DEAD_AFTER_MS`] of unbroken polls is declared dead: a store that nobody can reach, or an
//!   observer that slept, kills nobody.
//! - Memory answers reads of a slot only while the last beat that is known to be committed was sent less than
//!   [`ANSWERS_FOR_MS`] ago (G10, G15): shorter than anybody else waits before taking the slot, and both are counted on
//!   clocks that go on while a process sleeps.
//! - A slot is given away only when its owner has nothing in flight there, and then it begins nothing there any more.

mod hands;
pub mod orders;
mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_protocol::placement::{SLOTS_COUNT, Slot};
use carillon_protocol::time::Time;
use carillon_store::ops::{Holder, Living, Ownership};
use carillon_store::verb::Incarnation;

use hands::Seen;
pub use hands::home;
pub use turn::{Input, Output, Told};

/// How often a router beats.
pub const BEAT_MS: u64 = 300;
/// How often it looks at the others.
pub const POLL_MS: u64 = 300;
/// A router whose beat is the same for so long is dead.
pub const DEAD_AFTER_MS: u64 = 1_500;
/// For so long after it was sent, a committed beat vouches for what is in memory.
pub const ANSWERS_FOR_MS: u64 = 1_200;
/// Polls further apart than this do not follow each other unbroken: silence is counted anew.
pub const POLL_GAP_MS_MAX: u64 = 1_000;
/// A router whose beat is the same for so long is given nothing, and counts on nothing's taking.
pub const DOZING_AFTER_MS: u64 = 900;
/// A router is given slots once it has beaten so often.
pub const BEATS_BEFORE_GIFTS: u64 = 2;
/// A beat with this bit is that of a router that leaves: it is given nothing, and what it gives stays given.
pub const LEAVING_BIT: u64 = 1 << 63;
/// Slots that one transaction takes.
pub const TAKE_MAX: usize = 1_024;
/// Slots that are given away together: they rest together until nothing is in flight there.
pub const GIVE_MAX: usize = 256;
/// Somebody who asks for a slot that is not ours may know more than we do: look again, though not sooner than this.
pub const ASKED_POLL_MS: u64 = 50;
/// When something is tried again that the store could not do.
pub const RETRY_MS: u64 = 50;

const _: () = assert!(ANSWERS_FOR_MS < DEAD_AFTER_MS, "reads end before anybody may take over");
const _: () = assert!(3 * BEAT_MS <= DOZING_AFTER_MS && DOZING_AFTER_MS < DEAD_AFTER_MS);
const _: () = assert!(2 * POLL_MS <= POLL_GAP_MS_MAX);

/// The transaction in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    Beat { sent_at: Time, says_leaving: bool },
    Depose(Incarnation),
    Take,
    Give,
    Retire,
}

/// Slots on their way to another router.
#[derive(Debug)]
struct Leaving {
    slots: Vec<Slot>,
    to: Option<Incarnation>,
    is_quiet: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Lease {
    me: Incarnation,
    beats_count: u64,
    beat_at: Time,
    /// When the last beat that is known to be committed was sent.
    proven_at: Time,
    doing: Option<Doing>,
    /// Nothing but beats before then: something failed a moment ago.
    retry_at: Time,
    /// When the poll in flight was sent.
    polling: Option<Time>,
    poll_at: Time,
    /// What happened last that only a poll sent since then is sure to show.
    news_at: Time,
    /// When the last successful poll was sent; `None` when the next one begins a new run of them.
    polled_at: Option<Time>,
    /// When what we own last changed by our own doing: polls sent before do not know of it.
    settled_at: Time,
    seen: BTreeMap<Incarnation, Seen>,
    owners: Vec<Holder>,
    living: Vec<Living>,
    /// Those who may own slots, and by slot who should.
    hands: Vec<Incarnation>,
    homes: Vec<Option<Incarnation>>,
    /// Owners, hands or what is ours changed since it was last found that nothing is to be taken or left.
    is_unsettled: bool,
    mine: BTreeSet<Slot>,
    leaving: Option<Leaving>,
    /// Counts what changes in [`Lease::owner`].
    map_version: u64,
    outputs: VecDeque<Output>,
    is_draining: bool,
    /// Whether the others can know that this one leaves.
    is_leaving_told: bool,
    is_over: bool,
}

impl Lease {
    /// The lease of an incarnation that joined by a transaction sent at `joined_at`. It owns nothing yet.
    #[must_use]
    pub fn new(me: Incarnation, joined_at: Time) -> Lease {
        Lease {
            me,
            beats_count: 0,
            beat_at: joined_at,
            proven_at: joined_at,
            doing: None,
            retry_at: joined_at,
            polling: None,
            poll_at: joined_at,
            news_at: joined_at,
            polled_at: None,
            settled_at: joined_at,
            seen: BTreeMap::new(),
            owners: vec![Holder::default(); usize::from(SLOTS_COUNT)],
            living: Vec::new(),
            hands: Vec::new(),
            homes: Vec::new(),
            is_unsettled: true,
            mine: BTreeSet::new(),
            leaving: None,
            map_version: 0,
            outputs: VecDeque::new(),
            is_draining: false,
            is_leaving_told: false,
            is_over: false,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.is_over {
            return;
        }
        match input {
            Input::Tick => {}
            Input::Beaten(told) => self.beaten(now, &told),
            Input::Polled(told) => self.polled(now, told),
            Input::Deposed(told) => self.deposed(now, &told),
            Input::Taken(told) => self.taken(now, told),
            Input::Given(told) => self.given(now, &told),
            Input::Retired(told) => match told {
                Told::Done(()) | Told::Fenced => self.end(),
                Told::Failed => self.failed(now),
            },
            Input::Quiet => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.is_quiet = true;
                }
            }
            Input::Asked(slot) => {
                if !self.mine.contains(&slot) {
                    let last = self.polled_at.unwrap_or(Time(0));
                    self.poll_at = self.poll_at.min(last.after_ms(ASKED_POLL_MS)).max(now);
                }
            }
            Input::Gift => self.look(now),
            Input::Drain => {
                self.is_draining = true;
                self.beat_at = now;
                self.shake_hands();
            }
        }
        if !self.is_over {
            self.act(now);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.is_over {
            return None;
        }
        let control = match self.doing {
            None if self.has_work() => Some(self.retry_at.min(self.beat_at)),
            None => Some(self.beat_at),
            Some(_) => None,
        };
        let poll = self.polling.is_none().then_some(self.poll_at);
        [control, poll].into_iter().flatten().min()
    }

    /// Whether something may be begun in this slot.
    #[must_use]
    pub fn accepts(&self, slot: Slot) -> bool {
        self.mine.contains(&slot) && !self.is_leaving(slot)
    }

    /// Whether memory may answer reads of this slot now. `now` is read after everything that was heard was taken in.
    #[must_use]
    pub fn answers(&self, now: Time, slot: Slot) -> bool {
        self.accepts(slot) && now < self.proven_at.after_ms(ANSWERS_FOR_MS)
    }

    /// Who owns a slot, as far as is known here.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<Incarnation> {
        self.owners.get(usize::from(slot.0)).and_then(|held| held.owner)
    }

    /// By slot, who owns it and by which epoch, as far as is known here.
    #[must_use]
    pub fn owners(&self) -> &[Holder] {
        &self.owners
    }

    /// Who lives, as the last poll showed it, ascending; this one among them.
    #[must_use]
    pub fn living(&self) -> &[Living] {
        &self.living
    }

    /// When the last successful poll was sent.
    #[must_use]
    pub fn polled_at(&self) -> Option<Time> {
        self.polled_at
    }

    /// Rises with every change in what [`Lease::owner`] says.
    #[must_use]
    pub fn map_version(&self) -> u64 {
        self.map_version
    }

    /// How many slots are ours.
    #[must_use]
    pub fn mine_count(&self) -> usize {
        self.mine.len()
    }

    fn beaten(&mut self, now: Time, told: &Told<()>) {
        let Some(Doing::Beat { sent_at, says_leaving }) = self.doing.take() else { return };
        match told {
            Told::Done(()) => {
                self.proven_at = sent_at;
                self.is_leaving_told |= says_leaving;
                self.is_unsettled |= says_leaving;
            }
            // The next beat says the same, and more. If nobody can commit, nobody's silence means anything.
            Told::Failed => {
                self.beat_at = now.after_ms(RETRY_MS);
                self.polled_at = None;
            }
            Told::Fenced => self.end(),
        }
    }

    fn polled(&mut self, now: Time, told: Told<Ownership>) {
        let Some(sent_at) = self.polling.take() else { return };
        let shown = match told {
            Told::Done(shown) => shown,
            Told::Failed => {
                self.polled_at = None;
                self.poll_at = now.after_ms(RETRY_MS);
                return;
            }
            Told::Fenced => return self.end(),
        };
        if shown.living.iter().all(|one| one.incarnation != self.me) {
            return self.end();
        }
        let is_unbroken = self.polled_at.is_some_and(|last| now <= last.after_ms(POLL_GAP_MS_MAX));
        self.polled_at = Some(sent_at);
        self.poll_at = if sent_at < self.news_at { now } else { sent_at.after_ms(POLL_MS).max(now) };
        let before = std::mem::take(&mut self.seen);
        for one in shown.living.iter().filter(|one| one.incarnation != self.me) {
            let same = before.get(&one.incarnation).filter(|seen| is_unbroken && seen.beat == one.beat);
            let since = same.map_or(now, |seen| seen.since);
            self.seen.insert(one.incarnation, Seen { beat: one.beat, since, until: sent_at });
        }
        // What was read before our last own change does not know of it.
        let knows_us = sent_at >= self.settled_at && !matches!(self.doing, Some(Doing::Take | Doing::Give));
        if knows_us {
            self.learn(shown.owners);
        }
        self.living = shown.living;
        self.shake_hands();
    }

    /// Polls now, and once more if a poll is in flight, which may not show it.
    fn look(&mut self, now: Time) {
        self.news_at = now;
        self.poll_at = now;
    }

    /// Who may own slots: this one unless it leaves, and the others that are awake and have been for a moment.
    fn shake_hands(&mut self) {
        let is_ready = |seen: &Seen| {
            let is_new = seen.beat < BEATS_BEFORE_GIFTS;
            let leaves = seen.beat & LEAVING_BIT != 0;
            !seen.is_silent_for_ms(DOZING_AFTER_MS) && !is_new && !leaves
        };
        let others = self.seen.iter().filter(|(_, seen)| is_ready(seen)).map(|(incarnation, _)| *incarnation);
        let me = (!self.is_draining).then_some(self.me);
        let hands: Vec<Incarnation> = others.chain(me).collect();
        if hands != self.hands || self.homes.is_empty() {
            self.homes = (0..SLOTS_COUNT).map(|slot| home(Slot(slot), &hands)).collect();
            self.hands = hands;
            self.is_unsettled = true;
        }
    }

    /// The map, as of a moment after everything that we did to it ourselves.
    fn learn(&mut self, owners: Vec<Holder>) {
        if self.owners == owners {
            return;
        }
        self.forget_given(&owners);
        let mut gained = Vec::new();
        for (slot, held) in (0..).map(Slot).zip(&owners) {
            // A gift, or what an attempt of unknown outcome has taken.
            if held.owner == Some(self.me) && self.mine.insert(slot) {
                gained.push((slot, held.epoch));
            }
        }
        self.owners = owners;
        self.changed();
        self.gained(gained);
    }

    /// What an attempt of unknown outcome has given is on its way no more: whoever has it may have passed it on since, also
    /// to us, and by which epoch the map knows better than we do.
    fn forget_given(&mut self, owners: &[Holder]) {
        let Some(leaving) = &mut self.leaving else { return };
        let is_news = |slot: &mut Slot| {
            let place = usize::from(slot.0);
            owners.get(place) != self.owners.get(place)
        };
        let given: Vec<Slot> = leaving.slots.extract_if(.., is_news).collect();
        if leaving.slots.is_empty() {
            self.leaving = None;
        }
        if !given.is_empty() {
            self.mine.retain(|slot| given.binary_search(slot).is_err());
            self.outputs.push_back(Output::Left(given));
        }
    }

    fn changed(&mut self) {
        self.map_version += 1;
        self.is_unsettled = true;
    }

    fn gained(&mut self, slots: Vec<(Slot, u64)>) {
        if !slots.is_empty() {
            self.outputs.push_back(Output::Gained(slots));
        }
    }

    fn deposed(&mut self, now: Time, told: &Told<bool>) {
        let Some(Doing::Depose(silent)) = self.doing.take() else { return };
        match told {
            // Nobody owns what it had, or somebody does already: taking tells.
            Told::Done(true) => {
                self.seen.remove(&silent);
                let its = self.owners.iter_mut().filter(|held| held.owner == Some(silent));
                its.for_each(|held| held.owner = None);
                self.changed();
                self.look(now);
            }
            // It lives: it is silent no more.
            Told::Done(false) => {
                if let Some(seen) = self.seen.get_mut(&silent) {
                    seen.since = now;
                }
                self.look(now);
            }
            Told::Failed => self.failed(now),
            Told::Fenced => self.end(),
        }
    }

    fn taken(&mut self, now: Time, told: Told<Vec<(Slot, u64)>>) {
        if self.doing != Some(Doing::Take) {
            return;
        }
        self.doing = None;
        self.settled_at = now;
        // What was not taken has an owner that we do not know.
        self.look(now);
        match told {
            Told::Done(taken) => {
                for (slot, epoch) in &taken {
                    self.set_owner(*slot, Holder { owner: Some(self.me), epoch: *epoch });
                }
                let gained = taken.into_iter().filter(|(slot, _)| self.mine.insert(*slot)).collect();
                self.changed();
                self.gained(gained);
            }
            Told::Failed => self.failed(now),
            Told::Fenced => self.end(),
        }
    }

    fn given(&mut self, now: Time, told: &Told<()>) {
        if self.doing != Some(Doing::Give) {
            return;
        }
        self.doing = None;
        self.settled_at = now;
        match told {
            Told::Done(()) => {
                let Some(Leaving { slots, to, .. }) = self.leaving.take() else { return };
                for slot in &slots {
                    self.mine.remove(slot);
                    let epoch = self.owners.get(usize::from(slot.0)).map_or(0, |held| held.epoch + 1);
                    self.set_owner(*slot, Holder { owner: to, epoch });
                }
                self.changed();
                // Whether the other one lived to have them: the next poll shows it.
                self.look(now);
                self.outputs.push_back(Output::Left(slots));
            }
            // Perhaps they are gone: the same gift again, unless the next poll shows it, and nothing in them meanwhile.
            Told::Failed => self.failed(now),
            Told::Fenced => self.end(),
        }
    }

    fn set_owner(&mut self, slot: Slot, held: Holder) {
        if let Some(place) = self.owners.get_mut(usize::from(slot.0)) {
            *place = held;
        }
    }

    fn failed(&mut self, now: Time) {
        self.doing = None;
        self.retry_at = now.after_ms(RETRY_MS);
    }

    fn end(&mut self) {
        self.is_over = true;
        self.doing = None;
        self.mine.clear();
        self.leaving = None;
        self.outputs.push_back(Output::Over);
    }

    fn act(&mut self, now: Time) {
        if self.polling.is_none() && self.poll_at <= now {
            self.polling = Some(now);
            self.outputs.push_back(Output::Poll);
        }
        if self.doing.is_some() {
            return;
        }
        // A beat first: it is what everything else stands on.
        if self.beat_at <= now {
            self.beats_count += 1;
            self.beat_at = now.after_ms(BEAT_MS);
            let says_leaving = self.is_draining;
            let beat = self.beats_count | if says_leaving { LEAVING_BIT } else { 0 };
            self.start(Doing::Beat { sent_at: now, says_leaving }, Output::Beat(beat));
        } else if self.retry_at <= now {
            self.work();
        }
    }

    fn start(&mut self, doing: Doing, output: Output) {
        self.doing = Some(doing);
        self.outputs.push_back(output);
    }

    /// Whether [`Lease::work`] may find something without any news.
    fn has_work(&self) -> bool {
        self.dead().is_some()
            || self.leaving.as_ref().is_some_and(|leaving| leaving.is_quiet)
            || (self.is_unsettled && self.knows_the_map())
    }

    /// The one transaction that is due most.
    fn work(&mut self) {
        if let Some((silent, beat_seen)) = self.dead() {
            return self.start(Doing::Depose(silent), Output::Depose { silent, beat_seen });
        }
        if let Some(leaving) = self.leaving.as_ref().filter(|leaving| leaving.is_quiet) {
            let (slots, to) = (leaving.slots.clone(), leaving.to);
            return self.start(Doing::Give, Output::Give { slots, to });
        }
        if !self.is_unsettled || !self.knows_the_map() {
            return;
        }
        if self.leaving.is_none() && (self.is_leaving_told || !self.is_draining) {
            self.leave();
        }
        let free = if self.is_draining { Vec::new() } else { self.free_for_us() };
        if !free.is_empty() {
            self.start(Doing::Take, Output::Take(free));
        } else if self.is_leaving_told && self.mine.is_empty() {
            self.start(Doing::Retire, Output::Retire);
        } else {
            self.is_unsettled = false;
        }
    }

    /// Whether the last poll shows what we did ourselves.
    fn knows_the_map(&self) -> bool {
        self.polled_at.is_some_and(|sent_at| sent_at >= self.settled_at)
    }

    fn dead(&self) -> Option<(Incarnation, u64)> {
        let dead = self.seen.iter().find(|(_, seen)| seen.is_silent_for_ms(DEAD_AFTER_MS));
        dead.map(|(incarnation, seen)| (*incarnation, seen.beat))
    }

    fn home(&self, slot: Slot) -> Option<Incarnation> {
        self.homes.get(usize::from(slot.0)).copied().flatten()
    }

    fn free_for_us(&self) -> Vec<Slot> {
        let free = (0..).map(Slot).zip(&self.owners).filter(|(_, held)| held.owner.is_none());
        free.map(|(slot, _)| slot).filter(|slot| self.home(*slot) == Some(self.me)).take(TAKE_MAX).collect()
    }

    /// Begins to leave slots whose home is elsewhere, all to one.
    fn leave(&mut self) {
        let homes = self.mine.iter().map(|slot| (*slot, self.home(*slot)));
        let mut away = homes.filter(|(_, home)| *home != Some(self.me)).peekable();
        let Some((_, to)) = away.peek().copied() else { return };
        let slots: Vec<Slot> =
            away.filter(|(_, home)| *home == to).map(|(slot, _)| slot).take(GIVE_MAX).collect();
        self.outputs.push_back(Output::Leaving(slots.clone()));
        self.leaving = Some(Leaving { slots, to, is_quiet: false });
    }

    fn is_leaving(&self, slot: Slot) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.slots.binary_search(&slot).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G10: a beat vouches from when it was sent, however late its answer comes.
    #[test]
    fn g10_a_beat_vouches_from_when_it_was_sent() {
        let me = Incarnation(1);
        let at = |millis| Time(0).after_ms(millis);
        let mut lease = Lease::new(me, at(0));
        lease.handle(at(0), Input::Tick);
        assert_eq!((lease.poll_output(), lease.poll_output()), (Some(Output::Poll), Some(Output::Beat(1))));
        let living = vec![Living { incarnation: me, beat: 0, address: String::new() }];
        let owners = vec![Holder { owner: Some(me), epoch: 1 }; usize::from(SLOTS_COUNT)];
        lease.handle(at(1), Input::Polled(Told::Done(Ownership { living, owners })));
        lease.handle(at(1_000), Input::Beaten(Told::Done(())));
        assert!(lease.answers(at(ANSWERS_FOR_MS - 1), Slot(5)));
        assert!(lease.accepts(Slot(5)) && !lease.answers(at(ANSWERS_FOR_MS), Slot(5)));
    }

    /// SC8: a poll that was under way when a gift was told of may not show it: the next one follows at once.
    #[test]
    fn sc8_a_gift_during_a_poll_is_looked_for_again() {
        let me = Incarnation(1);
        let at = |millis| Time(0).after_ms(millis);
        let mut lease = Lease::new(me, at(0));
        lease.handle(at(0), Input::Tick);
        assert_eq!((lease.poll_output(), lease.poll_output()), (Some(Output::Poll), Some(Output::Beat(1))));
        lease.handle(at(1), Input::Gift);
        assert_eq!(lease.poll_output(), None, "one poll at a time");
        let living = vec![Living { incarnation: me, beat: 0, address: String::new() }];
        let owners = vec![Holder::default(); usize::from(SLOTS_COUNT)];
        lease.handle(at(2), Input::Polled(Told::Done(Ownership { living, owners })));
        assert_eq!(lease.poll_output(), Some(Output::Poll));
    }

    /// G7, G15: a gift of unknown outcome that a poll shows to have come is not given again: whoever has the slots may have
    /// passed them on, also back, and the lease believes no epoch that the store does not know.
    #[test]
    fn g7_a_gift_that_came_unheard_of_is_over() {
        let (me, other) = (Incarnation(1), Incarnation(2));
        let at = |millis| Time(0).after_ms(millis);
        let outputs = |lease: &mut Lease| std::iter::from_fn(|| lease.poll_output()).collect::<Vec<_>>();
        let shown = |beat, owners: &[Holder]| {
            let one = |incarnation| Living { incarnation, beat, address: String::new() };
            Input::Polled(Told::Done(Ownership {
                living: vec![one(me), one(other)],
                owners: owners.to_vec(),
            }))
        };
        let mut lease = Lease::new(me, at(0));
        let mut owners = vec![Holder { owner: Some(me), epoch: 1 }; usize::from(SLOTS_COUNT)];
        lease.handle(at(0), Input::Tick);
        lease.handle(at(1), Input::Beaten(Told::Done(())));
        lease.handle(at(2), shown(BEATS_BEFORE_GIFTS, &owners));
        lease.handle(at(3), Input::Quiet);
        let out = outputs(&mut lease);
        let Some(Output::Give { slots, to: Some(to) }) = out.last() else { panic!("no gift: {out:?}") };
        assert_eq!(*to, other);
        lease.handle(at(4), Input::Given(Told::Failed));
        assert!(slots.iter().all(|slot| !lease.accepts(*slot)), "they are gone, for all that is known");

        // It came. The first of them was given back since.
        for slot in slots {
            owners[usize::from(slot.0)] = Holder { owner: Some(other), epoch: 2 };
        }
        let (back, away) = (slots[0], slots[1]);
        owners[usize::from(back.0)] = Holder { owner: Some(me), epoch: 3 };
        lease.handle(at(POLL_MS), Input::Tick);
        lease.handle(at(POLL_MS + 1), shown(BEATS_BEFORE_GIFTS + 1, &owners));
        assert_eq!(lease.owners(), owners);
        assert!(lease.accepts(back) && !lease.accepts(away));
        let out = outputs(&mut lease);
        assert!(out.contains(&Output::Left(slots.clone())) && out.contains(&Output::Gained(vec![(back, 3)])));
        lease.handle(at(POLL_MS + 2), Input::Beaten(Told::Done(())));
        lease.handle(at(POLL_MS + 3), Input::Tick);
        let again = |output: &Output| matches!(output, Output::Give { slots, .. } if slots.contains(&away));
        assert!(!outputs(&mut lease).iter().any(again));
    }
}
