//! Moved watermarks are told to the senders whose messages they passed.
//!
//! # Invariants
//! - A watermark is told only after it is durable (G12).
//! - To one sender, about one reader, `delivered` comes before `read`, and both rise (FR4): a reader has one question
//!   open at a time, and the delivered range goes first.
//! - Bounded: beyond [`WAITING_MAX`] readers a watermark is not told live; its senders find it in the next page.

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::frame::{Concerned, Watermark};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::time::WallMs;
use carillon_store::verb::{Query, Receipted};

use crate::meters::Metric;
use crate::outbox::{Asked, LaneId, Outbox, RECEIPT_QUERIES_MAX};
use crate::registry::Registry;

/// Readers, counted per conversation, whose watermarks wait to be told.
pub const WAITING_MAX: usize = 16_384;

/// From (exclusive) – to (inclusive).
type Passed = (Seq, Seq);

#[derive(Default)]
struct Reader {
    delivered: Option<Passed>,
    read: Option<Passed>,
    asking: Option<Asking>,
    /// It stands in the queue of those that could not ask yet.
    is_waiting: bool,
    named: bool,
    at: WallMs,
}

/// Which watermark the open question is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Delivered,
    Read,
    /// The same range for both.
    Both,
}

type Key = (ConversationId, UserId);

/// See the module.
#[derive(Default)]
pub struct Receipts {
    readers: BTreeMap<Key, Reader>,
    /// Readers that wait because too many questions are open.
    waiting: VecDeque<Key>,
}

impl Receipts {
    /// A receipt is durable since `at`.
    pub fn committed(&mut self, receipted: Receipted, at: WallMs, outbox: &mut Outbox) {
        let Receipted { user, conversation, delivered, read, small } = receipted;
        let moved = |(before, after): Passed| (after > before).then_some((before, after));
        if moved(delivered).is_none() && moved(read).is_none() {
            return;
        }
        let key = (conversation, user);
        if !self.readers.contains_key(&key) && self.readers.len() >= WAITING_MAX {
            outbox.meter.add(Metric::WatermarksDropped, 1);
            return;
        }
        let reader = self.readers.entry(key).or_default();
        reader.delivered = join(reader.delivered, moved(delivered));
        reader.read = join(reader.read, moved(read));
        (reader.named, reader.at) = (small, at);
        self.ask(key, outbox);
    }

    /// The store told whose messages lie in a reader's range. `None`: it could not, and those senders find the
    /// watermark in their next page.
    pub fn senders(
        &mut self,
        key: Key,
        senders: Option<Vec<(UserId, Seq, MessageId)>>,
        registry: &Registry,
        outbox: &mut Outbox,
    ) {
        if let Some(reader) = self.readers.get_mut(&key)
            && let Some(asking) = reader.asking.take()
        {
            match senders {
                Some(senders) => tell(key, reader, asking, &senders, registry, outbox),
                None => outbox.meter.add(Metric::WatermarksDropped, 1),
            }
        }
        self.ask(key, outbox);
        for _ in 0..RECEIPT_QUERIES_MAX {
            let Some(next) = self.waiting.pop_front() else { break };
            if let Some(reader) = self.readers.get_mut(&next) {
                reader.is_waiting = false;
            }
            if !self.ask(next, outbox) {
                break;
            }
        }
    }

    /// Readers whose watermarks wait to be told.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.readers.len()
    }

    /// Asks for the senders of a reader's next range; `false`: too many questions are open, the reader waits.
    fn ask(&mut self, key: Key, outbox: &mut Outbox) -> bool {
        let Some(reader) = self.readers.get_mut(&key) else { return true };
        if reader.asking.is_some() || reader.is_waiting {
            return true;
        }
        let (asking, (after_seq, up_to_seq)) = match (reader.delivered, reader.read) {
            (Some(delivered), Some(read)) if delivered == read => (Asking::Both, read),
            (Some(delivered), _) => (Asking::Delivered, delivered),
            (None, Some(read)) => (Asking::Read, read),
            (None, None) => {
                self.readers.remove(&key);
                return true;
            }
        };
        let (conversation, except) = key;
        let query = Query::Senders { conversation, after_seq, up_to_seq, except };
        if outbox.ask(Asked::Senders(conversation, except), query).is_err() {
            reader.is_waiting = true;
            self.waiting.push_back(key);
            return false;
        }
        reader.asking = Some(asking);
        if asking != Asking::Read {
            reader.delivered = None;
        }
        if asking != Asking::Delivered {
            reader.read = None;
        }
        true
    }
}

/// What one range and a later one cover together.
fn join(one: Option<Passed>, other: Option<Passed>) -> Option<Passed> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

fn tell(
    (conversation, reader_id): Key,
    reader: &Reader,
    asking: Asking,
    senders: &[(UserId, Seq, MessageId)],
    registry: &Registry,
    outbox: &mut Outbox,
) {
    let mut lanes: BTreeMap<LaneId, Vec<Concerned>> = BTreeMap::new();
    for (user, seq, message) in senders {
        for lane in registry.lanes_of(*user, outbox) {
            lanes.entry(lane).or_default().push(Concerned { user: *user, seq: *seq, message: *message });
        }
    }
    let kinds: &[bool] = match asking {
        Asking::Delivered => &[false],
        Asking::Read => &[true],
        Asking::Both => &[false, true],
    };
    for (lane, senders) in lanes {
        let mut watermark = Watermark {
            conversation,
            reader: reader_id,
            read: false,
            at_ms: reader.at.0,
            named: reader.named,
            senders,
        };
        for read in kinds {
            watermark.read = *read;
            outbox.send(lane, &watermark);
        }
    }
}
