//! What a lease is told, and what it has done for it.

use carillon_protocol::placement::Slot;
use carillon_store::ops::Ownership;
use carillon_store::verb::Incarnation;

/// What became of what a lease put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// Committed, or read.
    Done(T),
    /// Not, or nobody knows.
    Failed,
    /// This incarnation was declared dead.
    Fenced,
}

/// What the world tells.
#[derive(Clone, Debug)]
pub enum Input {
    /// A timeout has come.
    Tick,
    /// The outcome of a [`Output::Beat`].
    Beaten(Told<()>),
    /// The answer to a [`Output::Poll`].
    Polled(Told<Ownership>),
    /// The outcome of a [`Output::Depose`]: whether it is dead now.
    Deposed(Told<bool>),
    /// The outcome of a [`Output::Take`]: what was taken, with its epochs.
    Taken(Told<Vec<(Slot, u64)>>),
    /// The outcome of a [`Output::Give`].
    Given(Told<()>),
    /// The outcome of a [`Output::Retire`].
    Retired(Told<()>),
    /// Nothing is in flight in the slots of the last [`Output::Leaving`].
    Quiet,
    /// Somebody asked for this slot.
    Asked(Slot),
    /// Another router gave slots to this one.
    Gift,
    /// Give everything away and retire.
    Drain,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// `ops::beat` with this number.
    Beat(u64),
    /// `ops::ownership`, from a snapshot that is opened now.
    Poll,
    /// `ops::depose`.
    Depose {
        /// Whom.
        silent: Incarnation,
        /// Its last beat that was seen.
        beat_seen: u64,
    },
    /// `ops::take`.
    Take(Vec<Slot>),
    /// `ops::give`.
    Give {
        /// What.
        slots: Vec<Slot>,
        /// Whom; `None`: whoever wants them.
        to: Option<Incarnation>,
    },
    /// `ops::retire`.
    Retire,
    /// These slots are ours now, by these epochs.
    Gained(Vec<(Slot, u64)>),
    /// Begin nothing in these slots any more, and say [`Input::Quiet`] when nothing is in flight there.
    Leaving(Vec<Slot>),
    /// These slots were given away.
    Left(Vec<Slot>),
    /// This life is over, by its own will or not: nothing is ours any more.
    Over,
}
