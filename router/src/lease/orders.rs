//! What a lease orders, as transactions of `carillon_store::ops`: the same on a thread beside a real store and in every
//! simulated one.

use carillon_store::error::ReadError;
use carillon_store::ops::{self, Ownership};
use carillon_store::retry::BatchError;
use carillon_store::txn::{Abort, Txn};
use carillon_store::verb::Incarnation;

use super::turn::{Input, Output, Told};

/// How whoever carries out orders gets to the store.
pub trait Hands {
    /// `ops::ownership` from a snapshot that is opened now.
    ///
    /// # Errors
    /// As the store's.
    fn ownership(&mut self) -> Result<Ownership, ReadError>;

    /// A transaction of the control lane, with as many attempts as `commit_one` makes.
    ///
    /// # Errors
    /// As those of `commit_one`.
    fn control<T>(&mut self, body: &mut dyn FnMut(&mut dyn Txn) -> Result<T, Abort>)
    -> Result<T, BatchError>;
}

/// Carries out an order of this incarnation's lease, which is to be told what is returned; `None`: it is no order to the
/// store.
pub fn carry_out(hands: &mut impl Hands, me: Incarnation, order: &Output) -> Option<Input> {
    Some(match order {
        Output::Beat(number) => Input::Beaten(told(hands.control(&mut |txn| ops::beat(txn, me, *number)))),
        Output::Poll => Input::Polled(hands.ownership().map_or(Told::Failed, Told::Done)),
        Output::Depose { silent, beat_seen } => {
            Input::Deposed(told(hands.control(&mut |txn| ops::depose(txn, me, *silent, *beat_seen))))
        }
        Output::Take(slots) => Input::Taken(told(hands.control(&mut |txn| ops::take(txn, me, slots)))),
        Output::Give { slots, to } => {
            Input::Given(told(hands.control(&mut |txn| ops::give(txn, me, slots, *to))))
        }
        Output::Retire => Input::Retired(told(hands.control(&mut |txn| ops::retire(txn, me)))),
        Output::Gained(_) | Output::Leaving(_) | Output::Left(_) | Output::Over => return None,
    })
}

/// What a lease is told when nobody knows what became of an order; `None`: it is no order to the store.
#[must_use]
pub fn unknown(order: &Output) -> Option<Input> {
    Some(match order {
        Output::Beat(_) => Input::Beaten(Told::Failed),
        Output::Poll => Input::Polled(Told::Failed),
        Output::Depose { .. } => Input::Deposed(Told::Failed),
        Output::Take(_) => Input::Taken(Told::Failed),
        Output::Give { .. } => Input::Given(Told::Failed),
        Output::Retire => Input::Retired(Told::Failed),
        Output::Gained(_) | Output::Leaving(_) | Output::Left(_) | Output::Over => return None,
    })
}

fn told<T>(result: Result<T, BatchError>) -> Told<T> {
    match result {
        Ok(value) => Told::Done(value),
        Err(BatchError::Fenced) => Told::Fenced,
        Err(_) => Told::Failed,
    }
}
