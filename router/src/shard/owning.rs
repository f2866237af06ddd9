//! What becomes of slots: gained, left, lost, and who is told.

use carillon_protocol::ids::UserId;
use carillon_protocol::placement::{Slot, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::Time;

use super::Shard;
use crate::batch::{OVERLOADED_RETRY_MS, Origin};
use crate::cluster::table::{Owner, SlotSet};
use crate::lease::{self, Lease};
use crate::outbox::Output;

impl Shard {
    /// News for the lease.
    pub(super) fn lease(&mut self, input: lease::Input) {
        let is_poll = matches!(input, lease::Input::Polled(_));
        let Some(lease) = &mut self.cluster.lease else { return };
        lease.handle(self.now, input);
        // What a poll shows was so when it was sent, and so were those alive whom it shows.
        let at = if is_poll { lease.polled_at() } else { None };
        self.settle_owners(at.unwrap_or(self.now));
    }

    /// The end of a turn, or a timeout has come.
    pub(super) fn advance_lease(&mut self) {
        if self.cluster.is_sole() {
            return;
        }
        self.lease(lease::Input::Tick);
        let is_quiet = |slots: &Vec<Slot>| slots.iter().all(|slot| self.batches.is_quiet(*slot));
        if self.leaving.as_ref().is_some_and(is_quiet) {
            self.leaving = None;
            self.lease(lease::Input::Quiet);
        }
    }

    /// Acts on what the lease put out, and on every change of an owner, however it was learned. `at`: what is news was so
    /// then.
    pub(super) fn settle_owners(&mut self, at: Time) {
        // What is gained first: the same news may have the lease leave it.
        self.cluster.learn_owners();
        self.settle_changes(at);
        while let Some(output) = self.cluster.lease.as_mut().and_then(Lease::poll_output) {
            match output {
                // The map says so as well.
                lease::Output::Gained(_) | lease::Output::Left(_) => {}
                lease::Output::Leaving(slots) => self.leave(slots),
                lease::Output::Over => return self.end(),
                other => self.outbox.push(Output::Lease(other)),
            }
        }
        for (router, answered) in self.cluster.learn_living(&mut self.outbox) {
            // Whoever it served registers elsewhere, and asks anew.
            self.fanout.answered(router, answered);
            self.fail_peeks(router);
        }
        self.settle_known();
        if let Some(news) = self.cluster.take_news() {
            self.outbox.broadcast(&news);
        }
    }

    pub(super) fn settle_changes(&mut self, at: Time) {
        let Some(changes) = self.cluster.table.take_changes() else { return };
        self.cluster.tell_routers(&changes.moved, &mut self.outbox);
        if !changes.lost.is_empty() {
            let lost = SlotSet::new(changes.lost);
            self.batches.lost(&lost);
            self.fanout.lost(&lost);
            self.registry.lost(&lost);
            self.presence.lost(&lost);
            self.receipts.lost(&lost);
            self.typing.lost(&lost, &mut self.outbox);
            self.cache.lost(&lost);
            if let Some(leaving) = &mut self.leaving {
                leaving.retain(|slot| !lost.has(*slot));
            }
        }
        let mut gained = changes.gained;
        gained.retain(|slot| self.cluster.table.accepts(*slot));
        if !gained.is_empty() {
            self.batches.open(&SlotSet::new(gained.iter().copied()));
            self.fanout.gained(self.now);
            let owned = gained.into_iter().map(|slot| self.cluster.owned(slot)).collect();
            if !self.cluster.is_sole() {
                self.cluster.claims.add(at, owned);
            }
        }
        self.cluster.tell_of(&changes.changed);
    }

    /// Slots that everybody knows to be ours: their users may register.
    pub(super) fn settle_known(&mut self) {
        for (slot, epoch) in self.cluster.claims.take_known() {
            if self.cluster.table.epoch(slot) == epoch {
                self.cluster.table.set_known(slot);
            }
        }
    }

    /// Nothing is begun in these slots any more, and what was begun comes to its end.
    fn leave(&mut self, slots: Vec<Slot>) {
        self.cluster.table.leave(&slots);
        let left = SlotSet::new(slots.iter().copied());
        self.batches.close(&left);
        self.receipts.lost(&left);
        self.leaving = Some(slots);
    }

    /// This life is over: others own everything, and nothing that this one still knows is true.
    fn end(&mut self) {
        self.is_over = true;
        self.cluster.table.end();
        self.cluster.hang_up(&mut self.outbox);
        if self.is_draining {
            self.is_drained = true;
            self.outbox.push(Output::Drained);
        } else {
            self.outbox.push(Output::Over);
        }
    }

    /// The store let none of a batch through, because something in it is another router's. Whoever asked is told, and behind
    /// that, if as far as we know this slot is ours: it was not on its account, and they may try again.
    pub(super) fn fenced(&mut self, origin: Origin, slot: Slot) {
        self.outbox.not_owner(origin, slot);
        if self.cluster.table.accepts(slot) {
            self.cluster.tell_of(&[slot]);
        }
    }

    /// Whether a request in this slot is decided here; if not, whoever asked is told. `epoch`: by which they believe that
    /// the slot is ours; 0: they do not say.
    pub(super) fn owns(&mut self, origin: Origin, slot: Slot, epoch: u64) -> bool {
        let table = &self.cluster.table;
        let owns = table.accepts(slot) && (epoch == 0 || epoch == table.epoch(slot));
        if !owns {
            self.outbox.not_owner(origin, slot);
            self.asked_for(slot);
        }
        owns
    }

    /// Whether a user may register here, or be asked about by their sessions; if not, whoever asked is told.
    pub(super) fn serves(&mut self, origin: Origin, user: UserId) -> bool {
        let slot = slot_of_user(user);
        if !self.owns(origin, slot, 0) {
            return false;
        }
        let serves = self.cluster.table.serves(slot);
        if !serves {
            let refusal = Refusal::new(Code::Unavailable, "the user is changing hands; try again");
            self.outbox.refuse(origin, &refusal.retry_after(OVERLOADED_RETRY_MS));
        }
        serves
    }

    /// Somebody knows more than we do, or less.
    fn asked_for(&mut self, slot: Slot) {
        if self.cluster.table.owner(slot) != Owner::Us
            && let Some(lease) = &mut self.cluster.lease
        {
            lease.handle(self.now, lease::Input::Asked(slot));
        }
    }
}
