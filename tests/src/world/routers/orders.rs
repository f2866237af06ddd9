//! What leases have done for them: transactions of the control lane and polls, and what goes wrong with those.

use std::sync::Arc;

use carillon_node::prng::Prng;
use carillon_router::lease::orders::{self, Hands};
use carillon_router::lease::{self, Told};
use carillon_store::error::ReadError;
use carillon_store::ops::Ownership;
use carillon_store::retry::{self, BatchError};
use carillon_store::txn::{Abort, Engine as _, Txn};
use carillon_store::verb::Incarnation;

use crate::world::World;
use crate::world::agenda::Event;
use crate::world::faults::OrderFault;
use crate::world::plan::MS;

/// A kind of transaction of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::world) enum OrderKind {
    Beat,
    Depose,
    Take,
    Give,
    Retire,
}

impl OrderKind {
    pub(in crate::world) fn draw(chance: &mut Prng) -> OrderKind {
        use OrderKind::{Beat, Depose, Give, Retire, Take};
        [Beat, Depose, Take, Give, Retire][chance.index(5)]
    }

    fn is(self, order: &lease::Output) -> bool {
        use lease::Output;
        match order {
            Output::Beat(_) => self == OrderKind::Beat,
            Output::Depose { .. } => self == OrderKind::Depose,
            Output::Take(_) => self == OrderKind::Take,
            Output::Give { .. } => self == OrderKind::Give,
            Output::Retire => self == OrderKind::Retire,
            _ => false,
        }
    }
}

impl World<'_> {
    /// A transaction or poll of a lease.
    pub(in crate::world) fn order(&mut self, router: usize, life: u32, order: lease::Output) {
        let is_alive = self.routers[router].is_life(life);
        if is_alive && let Some(until) = self.late_for_store(router) {
            // The store's client gives up, now and then, what it cannot reach; or it comes late.
            if self.store_is_cut(router) && self.prng.chance(1, 2) {
                let at = self.now + self.delay(1_000 * MS);
                self.agenda.put(at, Event::Told { router, life, told: lost(&order) });
            } else {
                self.agenda.put(until, Event::Order { router, life, order });
            }
            return;
        }
        let fault = self.order_fault(&order, is_alive);
        if fault == Some(OrderFault::CrashBefore) {
            self.book.stats.order_crashes += 1;
            self.router_crash(router);
        }
        let is_alive = self.routers[router].is_life(life);
        // What a dead process had handed to the store comes, at once or much later, or does not.
        if !is_alive {
            match self.prng.below(4) {
                0 | 1 => return,
                2 => self.book.stats.late_orders += 1,
                _ => {
                    let late = self.now + self.prng.below(4_900 * MS);
                    self.agenda.put(late, Event::Order { router, life, order });
                    return;
                }
            }
        }
        let Some(me) = self.routers[router].identities.get(&life).map(|identity| identity.incarnation) else {
            return;
        };
        if let Some(OrderFault::Unknown { seed }) = fault {
            self.book.stats.unknown_orders += 1;
            self.unknown(&mut Prng::new(seed));
        }
        let told = self.carry_out(me, &order);
        self.note("order", [router as u64, u64::from(life), 0], || {
            format!("{router}: {}", words(&order, &told))
        });
        if fault == Some(OrderFault::CrashAfter) {
            self.book.stats.order_crashes += 1;
            self.router_crash(router);
        }
        if self.routers[router].is_life(life) {
            let at = self.heard_at(router, self.plan.report_ns);
            self.agenda.put(at, Event::Told { router, life, told });
        }
    }

    /// What was to go wrong with the next order of this kind.
    fn order_fault(&mut self, order: &lease::Output, is_alive: bool) -> Option<OrderFault> {
        let (_, fault) = self.armed_order.filter(|(kind, _)| is_alive && kind.is(order))?;
        self.armed_order = None;
        Some(fault)
    }

    pub(in crate::world) fn told(&mut self, router: usize, life: u32, told: lease::Input) {
        if self.routers[router].is_life(life) {
            self.routers[router].inbox.told.push(told);
            self.plan_router_turn(router, self.now + MS / 100);
        }
    }

    fn carry_out(&mut self, me: Incarnation, order: &lease::Output) -> lease::Input {
        // All that a beat changes, so that not everything has to be read again.
        let shown = if matches!(order, lease::Output::Beat(_)) { self.shown.take() } else { None };
        let told = orders::carry_out(self, me, order).expect("an order to the store");
        match (order, &told) {
            (lease::Output::Beat(beat), lease::Input::Beaten(Told::Done(()))) if !self.is_moving => {
                self.shown = shown;
                let living = self.shown.iter_mut().flat_map(|shown| &mut shown.living);
                living.filter(|one| one.incarnation == me).for_each(|one| one.beat = *beat);
            }
            (_, lease::Input::Deposed(Told::Done(true))) => self.book.stats.deposed += 1,
            (lease::Output::Give { .. }, _) => self.book.stats.gifts += 1,
            _ => {}
        }
        told
    }
}

impl Hands for World<'_> {
    fn ownership(&mut self) -> Result<Ownership, ReadError> {
        let is_failed = !self.is_calm && self.prng.chance(1, 200);
        if is_failed { Err(ReadError::Again("chance".to_owned())) } else { Ok(self.shown().clone()) }
    }

    /// A transaction of the control lane.
    fn control<T>(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>,
    ) -> Result<T, BatchError> {
        let engine = Arc::clone(&self.engine);
        let met = engine.faults().met();
        let result = retry::commit_one(&*engine, engine.control_lane(), body, &mut |_| ());
        self.book.stats.disturbed_orders += u64::from(engine.faults().met() != met);
        self.shown = None;
        // One attempt may still come.
        self.is_moving |= engine.late_count() > 0;
        let land_at = self.now + self.prng.below(4_900 * MS);
        if self.is_moving {
            self.agenda.put(land_at, Event::Land);
        }
        result
    }
}

impl World<'_> {
    /// Late commits may have come.
    pub(in crate::world) fn may_have_moved(&mut self) {
        if self.is_moving {
            self.shown = None;
            self.is_moving = self.engine.late_count() > 0;
        }
    }
}

/// Nobody knows what became of an order.
fn lost(order: &lease::Output) -> lease::Input {
    orders::unknown(order).expect("an order to the store")
}

fn words(order: &lease::Output, told: &lease::Input) -> String {
    use lease::{Input, Output};
    let what = match order {
        Output::Take(slots) => format!("take {} slots", slots.len()),
        Output::Give { slots, to } => format!("give {} slots to {to:?}", slots.len()),
        other => format!("{other:?}"),
    };
    let became = match told {
        Input::Polled(Told::Done(shown)) => {
            let living = shown.living.iter().map(|one| (one.incarnation.0, one.beat));
            format!("{:?}", living.collect::<Vec<_>>())
        }
        Input::Taken(Told::Done(taken)) => format!("{} taken", taken.len()),
        other => format!("{other:?}"),
    };
    format!("{what} -> {became}")
}
