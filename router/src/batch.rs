//! Commit lanes: what was submitted leaves in batches, one in flight a lane.
//!
//! # Invariants
//! - A lane has at most one batch in flight. The next one leaves when the outcome of the one before is definite; there
//!   is no age timer, the latency is the commit's own.
//! - Operations of a conversation share a lane and leave in the order in which they were offered (G9).
//! - Every operation that was taken is answered exactly once, by [`Batches::arrived`].
//! - A queue is bounded in operations and bytes; what does not fit is refused before it has any effect (G5, G13).

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::{SLOTS_COUNT, Slot, lane_of_slot, slot_of_conversation, slot_of_user};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::txn::TXN_BYTES_MAX;
use carillon_store::verb::{Change, Op, Outcome, ReceiptOp};

use crate::cluster::table::SlotSet;
use crate::meters::Metric;
use crate::outbox::{LaneId, Outbox, Output};

/// The most operations of one batch: what a transaction decides in a few milliseconds. More wait for the next one.
pub const BATCH_OPS_MAX: usize = 1_024;
/// The most bytes of one batch, estimated. More wait for the next one.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// The most operations that wait on one commit lane. Beyond: refused as `overloaded`.
pub const QUEUE_OPS_MAX: usize = 16 * BATCH_OPS_MAX;
/// The most bytes that wait on one commit lane. Beyond: refused as `overloaded`.
pub const QUEUE_BYTES_MAX: usize = 16 * BATCH_BYTES_MAX;
/// When to come back after `overloaded`: a few commits later.
pub const OVERLOADED_RETRY_MS: u64 = 100;
/// How long operations that nobody is eager for (receipts, last seen, fan-out marks) wait to be joined by others.
pub const LAZY_WAIT_MS: u64 = 50;
/// The most receipts that share one operation. Beyond: the next one begins another operation.
pub const MERGED_MAX: usize = 64;

// A batch is well below what a transaction takes: rows repeat an operation's ids in several keys.
const _: () = assert!(2 * BATCH_BYTES_MAX <= TXN_BYTES_MAX);

/// Who asked: a request of a session on a link lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The lane that the request came on. Ids of lanes are not used again, so a late answer finds nobody.
    pub lane: LaneId,
    /// The session; 0 for REST.
    pub session: u64,
    /// The request.
    pub request: u64,
}

/// One of the requests behind a merged receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Who asked.
    pub origin: Origin,
    /// As in [`ReceiptOp`].
    pub delivered_seq: Seq,
    /// As in [`ReceiptOp`].
    pub read_seq: Seq,
}

/// Who waits for an operation's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A submitted command.
    Submit(Origin),
    /// Receipts of one device in one conversation, merged by maximum.
    Receipts {
        /// Whose.
        user: UserId,
        /// On which device.
        device: String,
        /// Where.
        conversation: ConversationId,
        /// At least one.
        parts: Vec<Part>,
    },
    /// A registration whose user was not known.
    Registration(Origin),
    /// Nobody: what is written for later.
    Nobody,
    /// Presence, which writes only so many absences at once.
    Seen,
    /// A look-up of devices, one of which the store did not know.
    Devices(Origin, UserId),
    /// A conversation that was handed on up to this seq.
    FanOut(ConversationId, Seq),
}

/// Why an operation has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may or may not be committed, now or later.
    Unknown,
    /// Definitely not committed: too many conflicts, or one before it has no outcome.
    Busy,
    /// Definitely not committed: no space (F12).
    Full,
    /// Definitely not committed: this router does not own the slot any more (G15).
    Fenced,
    /// The store failed: stop (G14).
    Fatal(String),
}

/// What became of one operation.
#[derive(Clone, Debug)]
pub struct Done {
    /// Who waits.
    pub waiter: Waiter,
    /// Where it belongs.
    pub slot: Slot,
    /// What it may have changed.
    pub touches: Touches,
    /// When it was offered.
    pub since: Time,
    /// The slot was lost since: it may be ours again, by another epoch, whose own beginning shows what this came to.
    pub is_stale: bool,
    /// The outcome.
    pub result: Result<Outcome, Failure>,
}

/// What an operation changes, as far as anybody keeps it in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touches {
    /// Nothing of that.
    Nothing,
    /// The log of a conversation.
    Log(ConversationId),
    /// The watermarks of a member.
    Marks(ConversationId),
    /// Until when a member muted a conversation.
    Mute(ConversationId, UserId, Option<WallMs>),
    /// What others see of a user.
    Profile(UserId),
}

impl Touches {
    /// The conversation to whose log something may be appended.
    #[must_use]
    pub fn appends_to(self) -> Option<ConversationId> {
        match self {
            Touches::Log(conversation) => Some(conversation),
            _ => None,
        }
    }

    /// The conversation of which something may change.
    #[must_use]
    pub fn conversation(self) -> Option<ConversationId> {
        match self {
            Touches::Log(it) | Touches::Marks(it) | Touches::Mute(it, ..) => Some(it),
            Touches::Nothing | Touches::Profile(_) => None,
        }
    }
}

struct Kept {
    waiter: Waiter,
    slot: Slot,
    touches: Touches,
    since: Time,
    is_stale: bool,
    /// It may change who the members are.
    is_change: bool,
}

/// Operations in flight that change a conversation.
#[derive(Clone, Copy, Default)]
struct InFlight {
    /// Its log.
    appending: u64,
    /// Its members.
    changing: u64,
    /// Anything of it.
    touching: u64,
}

struct Queued {
    op: Op,
    bytes: usize,
    lazy: bool,
    kept: Kept,
}

/// Receipts that may be merged have this in common.
type ReceiptKey = (ConversationId, UserId, String);

#[derive(Default)]
struct CommitLane {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Queued operations that somebody is eager for.
    eager_count: usize,
    /// Operations that ever left: the absolute place of the queue's front.
    departed_count: u64,
    /// Absolute places of the queued receipts.
    receipts: BTreeMap<ReceiptKey, u64>,
    in_flight: Option<Vec<Kept>>,
    /// Nobody comes any more who could join what waits.
    is_draining: bool,
}

/// All commit lanes.
pub struct Batches {
    lanes: Vec<CommitLane>,
    /// By slot, operations that wait or are in flight.
    busy: Vec<u32>,
    /// Slots in which nothing is begun: they are not ours, or we leave them.
    closed: SlotSet,
    in_flight: BTreeMap<ConversationId, InFlight>,
}

impl Batches {
    /// Empty lanes, as many as the engine has.
    #[must_use]
    pub fn new(lanes_count: u16) -> Batches {
        let lanes = (0..lanes_count.max(1)).map(|_| CommitLane::default()).collect();
        let busy = vec![0; usize::from(SLOTS_COUNT)];
        Batches { lanes, busy, closed: SlotSet::new([]), in_flight: BTreeMap::new() }
    }

    /// Takes nothing more in these slots.
    pub fn close(&mut self, slots: &SlotSet) {
        self.closed.extend(slots);
    }

    /// These slots are another router's: what waits or is in flight there was begun by an epoch that is over.
    pub fn lost(&mut self, slots: &SlotSet) {
        self.close(slots);
        for lane in &mut self.lanes {
            let queued = lane.queue.iter_mut().map(|queued| &mut queued.kept);
            let kept = queued.chain(lane.in_flight.iter_mut().flatten());
            kept.filter(|kept| slots.has(kept.slot)).for_each(|kept| kept.is_stale = true);
        }
    }

    /// The process ends: nothing waits to be joined by others.
    pub fn drain(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.is_draining = true);
    }

    /// Takes operations in these slots again.
    pub fn open(&mut self, slots: &SlotSet) {
        self.closed.remove(slots);
    }

    /// Whether nothing waits or is in flight in this slot.
    #[must_use]
    pub fn is_quiet(&self, slot: Slot) -> bool {
        self.busy.get(usize::from(slot.0)).is_none_or(|count| *count == 0)
    }

    /// Takes an operation into the forming batch of its lane.
    ///
    /// # Errors
    /// The lane's queue is full, or the slot is closed: the operation had no effect.
    pub fn offer(&mut self, now: Time, op: Op, waiter: Waiter) -> Result<(), Refusal> {
        let (slot, touches) = place(&op);
        if self.closed.has(slot) {
            return Err(Refusal::new(Code::Unavailable, "this is changing hands; try again")
                .retry_after(OVERLOADED_RETRY_MS));
        }
        let is_change = matches!(op, Op::Change(_));
        let lane = self.lane(slot);
        let bytes = op_bytes(&op);
        if lane.queue.len() >= QUEUE_OPS_MAX || lane.queue_bytes + bytes > QUEUE_BYTES_MAX {
            return Err(Refusal::new(Code::Overloaded, "more work is waiting than is taken on; try again")
                .retry_after(OVERLOADED_RETRY_MS));
        }
        let lazy = matches!(op, Op::Receipt(_) | Op::Seen { .. } | Op::FannedOut { .. });
        lane.eager_count += usize::from(!lazy);
        lane.queue_bytes += bytes;
        lane.queue.push_back(Queued {
            op,
            bytes,
            lazy,
            kept: Kept { waiter, slot, touches, since: now, is_stale: false, is_change },
        });
        if let Some(busy) = self.busy.get_mut(usize::from(slot.0)) {
            *busy += 1;
        }
        Ok(())
    }

    /// Takes a receipt: merged by maximum with one of the same device that still waits, else an operation of its own.
    ///
    /// # Errors
    /// As [`Batches::offer`].
    pub fn offer_receipt(&mut self, now: Time, receipt: ReceiptOp, origin: Origin) -> Result<(), Refusal> {
        let key = (receipt.conversation, receipt.user, receipt.device.clone());
        let part = Part { origin, delivered_seq: receipt.delivered_seq, read_seq: receipt.read_seq };
        let lane = self.lane(slot_of_conversation(receipt.conversation));
        if lane.merge(&key, part) {
            return Ok(());
        }
        let place = lane.departed_count + lane.queue.len() as u64;
        self.offer_alone(now, receipt, part)?;
        self.lane(slot_of_conversation(key.0)).receipts.insert(key, place);
        Ok(())
    }

    /// Takes a receipt that is not to be merged with any other: a merged one was refused, and each of its parts is
    /// decided alone, so that a wrong receipt takes no right one with it.
    ///
    /// # Errors
    /// As [`Batches::offer`].
    pub fn offer_alone(&mut self, now: Time, receipt: ReceiptOp, part: Part) -> Result<(), Refusal> {
        let ReceiptOp { user, device, conversation, .. } = receipt.clone();
        let waiter = Waiter::Receipts { user, device, conversation, parts: vec![part] };
        self.offer(now, Op::Receipt(receipt), waiter)
    }

    /// Sends every batch off that may leave.
    pub fn depart(&mut self, now: Time, outbox: &mut Outbox) {
        for (number, lane) in (0_u16..).zip(&mut self.lanes) {
            if !lane.is_due(now) {
                continue;
            }
            let (ops, kept) = lane.take_batch();
            for Kept { touches, is_change, .. } in &kept {
                if let Some(conversation) = touches.conversation() {
                    let in_flight = self.in_flight.entry(conversation).or_default();
                    in_flight.touching += 1;
                    in_flight.appending += u64::from(touches.appends_to().is_some());
                    in_flight.changing += u64::from(*is_change);
                }
            }
            outbox.meter.observe(Metric::BatchOps, ops.len() as u64);
            lane.in_flight = Some(kept);
            outbox.push(Output::Commit { commit_lane: number, ops });
        }
    }

    /// Matches the results of a lane's batch with those who wait.
    ///
    /// # Panics
    /// When the lane has no batch in flight or the counts differ: outcomes would reach the wrong requests.
    pub fn arrived(&mut self, commit_lane: u16, results: Vec<Result<Outcome, Failure>>) -> Vec<Done> {
        let in_flight = self.lanes.get_mut(usize::from(commit_lane)).and_then(|lane| lane.in_flight.take());
        let kept = in_flight.expect("results belong to a batch in flight");
        assert_eq!(kept.len(), results.len(), "one result for each operation of the batch");
        for Kept { slot, touches, is_change, .. } in &kept {
            if let Some(busy) = self.busy.get_mut(usize::from(slot.0)) {
                *busy -= 1;
            }
            let Some(conversation) = touches.conversation() else { continue };
            if let Some(in_flight) = self.in_flight.get_mut(&conversation) {
                in_flight.touching -= 1;
                in_flight.appending -= u64::from(touches.appends_to().is_some());
                in_flight.changing -= u64::from(*is_change);
                if in_flight.touching == 0 {
                    self.in_flight.remove(&conversation);
                }
            }
        }
        let done = |(kept, result): (Kept, _)| Done {
            waiter: kept.waiter,
            slot: kept.slot,
            touches: kept.touches,
            since: kept.since,
            is_stale: kept.is_stale,
            result,
        };
        kept.into_iter().zip(results).map(done).collect()
    }

    /// Whether something in flight may change who the members are: a snapshot may show it already.
    #[must_use]
    pub fn is_changing(&self, conversation: ConversationId) -> bool {
        self.in_flight.get(&conversation).is_some_and(|in_flight| in_flight.changing > 0)
    }

    /// How many operations in flight may append to this conversation: a snapshot may show them already.
    #[must_use]
    pub fn appending_count(&self, conversation: ConversationId) -> u64 {
        self.in_flight.get(&conversation).map_or(0, |in_flight| in_flight.appending)
    }

    /// Whether nothing in flight may change anything of this conversation.
    #[must_use]
    pub fn is_untouched(&self, conversation: ConversationId) -> bool {
        !self.in_flight.contains_key(&conversation)
    }

    /// Operations that wait, on all lanes.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len()).sum()
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queue.is_empty() && lane.in_flight.is_none())
    }

    /// When a batch of lazy operations leaves alone.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.lanes.iter().filter(|lane| lane.in_flight.is_none()).filter_map(CommitLane::due_at).min()
    }

    fn lane(&mut self, slot: Slot) -> &mut CommitLane {
        let count = u16::try_from(self.lanes.len()).unwrap_or(u16::MAX);
        &mut self.lanes[usize::from(lane_of_slot(slot, count))]
    }
}

impl CommitLane {
    /// When the forming batch may leave, were nothing in flight: at once when somebody is eager for it.
    fn due_at(&self) -> Option<Time> {
        let front = self.queue.front()?;
        let hurried = self.eager_count > 0 || self.queue.len() >= BATCH_OPS_MAX || self.is_draining;
        Some(if hurried { Time(0) } else { front.kept.since.after_ms(LAZY_WAIT_MS) })
    }

    fn is_due(&self, now: Time) -> bool {
        self.in_flight.is_none() && self.due_at().is_some_and(|at| at <= now)
    }

    fn take_batch(&mut self) -> (Vec<Op>, Vec<Kept>) {
        let room = self.queue.len().min(BATCH_OPS_MAX);
        let (mut ops, mut kept, mut bytes) = (Vec::with_capacity(room), Vec::with_capacity(room), 0);
        while let Some(next) = self.queue.front() {
            // The first one always leaves: one operation is far below the bound.
            if ops.len() == BATCH_OPS_MAX || (bytes + next.bytes > BATCH_BYTES_MAX && !ops.is_empty()) {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            bytes += next.bytes;
            self.queue_bytes -= next.bytes;
            self.eager_count -= usize::from(!next.lazy);
            if let Op::Receipt(receipt) = &next.op {
                let key = (receipt.conversation, receipt.user, receipt.device.clone());
                if self.receipts.get(&key) == Some(&self.departed_count) {
                    self.receipts.remove(&key);
                }
            }
            self.departed_count += 1;
            ops.push(next.op);
            kept.push(next.kept);
        }
        (ops, kept)
    }

    fn merge(&mut self, key: &ReceiptKey, part: Part) -> bool {
        let Some(place) = self.receipts.get(key) else { return false };
        let index = usize::try_from(place - self.departed_count).unwrap_or(usize::MAX);
        let Some(queued) = self.queue.get_mut(index) else { return false };
        let (Op::Receipt(receipt), Waiter::Receipts { parts, .. }) =
            (&mut queued.op, &mut queued.kept.waiter)
        else {
            return false;
        };
        if parts.len() >= MERGED_MAX {
            return false;
        }
        receipt.delivered_seq = receipt.delivered_seq.max(part.delivered_seq);
        receipt.read_seq = receipt.read_seq.max(part.read_seq);
        parts.push(part);
        true
    }
}

/// The slot that an operation belongs to, and what it may change.
fn place(op: &Op) -> (Slot, Touches) {
    match op {
        Op::Send(send) => (slot_of_conversation(send.conversation), Touches::Log(send.conversation)),
        Op::Create(create) => (slot_of_conversation(create.conversation), Touches::Log(create.conversation)),
        Op::Change(change) => (slot_of_conversation(change.conversation), Touches::Log(change.conversation)),
        Op::Receipt(receipt) => {
            (slot_of_conversation(receipt.conversation), Touches::Marks(receipt.conversation))
        }
        Op::FannedOut { conversation, .. } => (slot_of_conversation(*conversation), Touches::Nothing),
        Op::Mute { user, conversation, until } => {
            (slot_of_user(*user), Touches::Mute(*conversation, *user, *until))
        }
        Op::Provision { user, .. }
        | Op::CreateUser { user, .. }
        | Op::Profile { user, .. }
        | Op::Seen { user, offline: true, .. } => (slot_of_user(*user), Touches::Profile(*user)),
        Op::Seen { user, .. } | Op::Revoke { user, .. } | Op::PushToken { user, .. } => {
            (slot_of_user(*user), Touches::Nothing)
        }
    }
}

/// What an operation's rows take, roughly and rather too much.
fn op_bytes(op: &Op) -> usize {
    /// Keys and values of an event, its idempotency row, head, member and marker rows without the content.
    const ROWS_BYTES: usize = 512;
    /// A member row and an index row.
    const MEMBER_BYTES: usize = 128;
    let own = match op {
        Op::Send(send) => {
            let keys_bytes = send.client_msg_id.len() + keys_bytes(&send.said_after);
            send.content.len() + send.media_url.as_ref().map_or(0, String::len) + keys_bytes
        }
        Op::Create(create) => {
            create.members.len() * MEMBER_BYTES + create.group_name.as_ref().map_or(0, String::len)
        }
        Op::Change(change) => {
            change.client_msg_id.len() + keys_bytes(&change.said_after) + change_bytes(&change.change)
        }
        Op::Provision { name, .. } => name.len(),
        Op::CreateUser { username, .. } | Op::Profile { username, .. } => username.len(),
        Op::Receipt(receipt) => receipt.device.len(),
        Op::PushToken { device, token, .. } => {
            device.len() + token.as_ref().map_or(0, |(_, token)| token.len())
        }
        Op::Seen { device, .. } | Op::Revoke { device, .. } => device.len(),
        Op::Mute { .. } | Op::FannedOut { .. } => 0,
    };
    ROWS_BYTES + own
}

fn keys_bytes(keys: &[String]) -> usize {
    keys.iter().map(String::len).sum()
}

fn change_bytes(change: &Change) -> usize {
    /// A member row, an index row, and the user's place in the event.
    const MEMBER_BYTES: usize = 160;
    /// The keys of the reactions that go with a deleted message: a hundred or so.
    const DELETION_BYTES: usize = 16 << 10;
    match change {
        Change::AddMembers { users } => users.len() * MEMBER_BYTES,
        // Two rows: who goes, and perhaps an heir.
        Change::RemoveMember { .. } | Change::SetRole { .. } => 2 * MEMBER_BYTES,
        Change::Rename { group_name } => 2 * group_name.len(),
        Change::Delete { .. } => DELETION_BYTES,
        Change::React { emoji, .. } | Change::Unreact { emoji, .. } => 4 * emoji.len(),
    }
}
