//! Receipts: moved watermarks are told to the senders whose messages they passed, and to the reader's own other
//! sessions. Up to 200 members each reader is named; above that members are counted ([`large`]), and receipts wait a
//! moment before they are written ([`held`]).
//!
//! # Invariants
//! - A watermark is told only after it is durable (G12).
//! - To one sender, about one reader, `delivered` comes before `read`, and both rise (FR4): a reader has one question
//!   open at a time, and the delivered range goes first.
//! - Bounded: beyond [`WAITING_MAX`] readers a watermark is not told live; its senders find it in the next page.

pub mod held;
pub mod large;

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::frame::{ArchivedReadBy, ArchivedWatermark, Concerned, ReadBy, ReadSync, Watermark};
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};
use carillon_protocol::time::{Time, WallMs};
use carillon_store::verb::{Counts, Query, ReceiptOp, Receipted};

use crate::batch::{Batches, Origin, Part};
use crate::cluster::Cluster;
use crate::cluster::table::{Owner, SlotSet};
use crate::fanout::Fanout;
use crate::meters::Metric;
use crate::outbox::{Asked, GatewayShard, LaneId, Outbox, Peer, RECEIPT_QUERIES_MAX};
use crate::registry::Registry;
use crate::settings::ReceiptsSettings;
use carillon_protocol::reason::Refusal;
use held::Held;
use large::Large;

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
    at: WallMs,
}

/// Which watermark the open question is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Delivered,
    Read,
    /// The same range for both.
    Both,
    /// Nothing any more: the conversation's slot was left meanwhile.
    Nothing,
}

type Key = (ConversationId, UserId);

/// See the module.
pub struct Receipts {
    readers: BTreeMap<Key, Reader>,
    /// Readers that wait because too many questions are open.
    waiting: VecDeque<Key>,
    large: Large,
    held: Held,
}

impl Receipts {
    /// Nothing moved yet.
    #[must_use]
    pub fn new(settings: ReceiptsSettings) -> Receipts {
        Receipts {
            readers: BTreeMap::new(),
            waiting: VecDeque::new(),
            large: Large::new(settings),
            held: Held::default(),
        }
    }

    /// Takes a receipt: into the next batch, or, in a large group and when nobody waits for it, a moment later.
    /// `is_large`: whether the conversation is known from elsewhere to have many members.
    ///
    /// # Errors
    /// Too much is waiting: it had no effect.
    pub fn offer(
        &mut self,
        now: Time,
        receipt: ReceiptOp,
        origin: Origin,
        is_large: bool,
        batches: &mut Batches,
    ) -> Result<(), Refusal> {
        let can_wait = origin.request == 0 && (is_large || self.large.knows(receipt.conversation));
        if can_wait && self.held.hold(now, &receipt, origin) {
            return Ok(());
        }
        batches.offer_receipt(now, receipt, origin)
    }

    /// A receipt is durable since `at`. `parts`: who asked for it.
    pub fn committed(
        &mut self,
        now: Time,
        receipted: Receipted,
        (parts, at): (&[Part], WallMs),
        fanout: &Fanout,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        let Receipted { user, conversation, delivered, read, small, .. } = receipted;
        let moved = |(before, after): Passed| (after > before).then_some((before, after));
        if moved(read).is_some() {
            sync_reader(&receipted, parts, (registry, cluster), outbox);
        }
        if moved(delivered).is_none() && moved(read).is_none() {
            return;
        }
        if !small {
            self.large.moved(now, conversation, (moved(delivered), moved(read)), at, outbox);
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
        reader.at = at;
        self.ask(key, fanout, (registry, cluster), outbox);
    }

    /// The end of a turn, or a timeout has come: what was held long enough is offered, and counts are asked for.
    pub fn advance(&mut self, now: Time, batches: &mut Batches, outbox: &mut Outbox) {
        self.held.release(now, batches);
        self.large.advance(now, outbox);
    }

    /// When [`Receipts::advance`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.held.poll_timeout().into_iter().chain(self.large.poll_timeout()).min()
    }

    /// The process ends: nothing is held any longer.
    pub fn drain(&mut self) {
        self.held.drain();
    }

    /// Whether nothing is held that is still to be written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.count() == 0
    }

    /// The store counted how many members got as far as [`Large`] asked for. `None`: it could not.
    pub fn counted(
        &mut self,
        now: Time,
        conversation: ConversationId,
        counts: Option<&[Counts]>,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        self.large.counted(now, conversation, counts, (registry, cluster), outbox);
    }

    /// The store told whose messages lie in a reader's range. `None`: it could not, and those senders find the
    /// watermark in their next page.
    pub fn senders(
        &mut self,
        now: Time,
        key: Key,
        senders: Option<Vec<(UserId, Seq, MessageId)>>,
        fanout: &Fanout,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) {
        if key.1 == large::EVERYBODY {
            self.large.senders(now, key.0, senders, (registry, cluster), outbox);
        } else if let Some(reader) = self.readers.get_mut(&key)
            && let Some(asking) = reader.asking.take()
        {
            match senders {
                Some(senders) => tell(key, reader, asking, &senders, (registry, cluster), outbox),
                None => outbox.meter.add(Metric::WatermarksDropped, 1),
            }
        }
        self.ask(key, fanout, (registry, cluster), outbox);
        for _ in 0..RECEIPT_QUERIES_MAX {
            let Some(next) = self.waiting.pop_front() else { break };
            if let Some(reader) = self.readers.get_mut(&next) {
                reader.is_waiting = false;
            }
            if !self.ask(next, fanout, (registry, cluster), outbox) {
                break;
            }
        }
    }

    /// Slots are left, or not ours any more: watermarks that move there are told by their next owner; who misses one finds
    /// it in their next page.
    pub fn lost(&mut self, slots: &SlotSet) {
        self.readers.retain(|(conversation, _), reader| {
            if !slots.has_conversation(*conversation) {
                return true;
            }
            (reader.delivered, reader.read) = (None, None);
            // Its answer still comes: it is not to be taken for that of a later question.
            reader.asking = reader.asking.map(|_| Asking::Nothing);
            reader.asking.is_some()
        });
        self.held.lost(slots);
    }

    /// Another router tells of a moved watermark: the senders who are here hear it.
    pub fn relay(&self, moved: &ArchivedWatermark, registry: &Registry, outbox: &mut Outbox) {
        let mut lanes: BTreeMap<LaneId, Vec<Concerned>> = BTreeMap::new();
        for one in moved.senders.iter() {
            let concerned = Concerned {
                user: UserId(one.user.0.to_native()),
                seq: one.seq.to_native(),
                message: MessageId(one.message.0.to_native()),
                count: one.count.to_native(),
            };
            let each = |lane| lanes.entry(lane).or_default().push(concerned);
            registry.lanes_of(concerned.user, outbox).for_each(each);
        }
        for (lane, senders) in lanes {
            let watermark = Watermark {
                conversation: ConversationId(moved.conversation.0.to_native()),
                reader: UserId(moved.reader.0.to_native()),
                read: moved.read,
                at_ms: moved.at_ms.to_native(),
                named: moved.named,
                senders,
            };
            outbox.send(lane, &watermark);
        }
    }

    /// Another router tells how far a user of ours read.
    pub fn relay_read(&self, read: &ArchivedReadBy, registry: &Registry, outbox: &mut Outbox) {
        let (epoch, shard) = (read.origin_epoch.to_native(), read.origin_shard.to_native());
        let origin = Peer::Gateway(GatewayShard { epoch, shard });
        let origin_session = read.origin_session.to_native();
        let on_that_shard: Vec<LaneId> =
            outbox.gateways().into_iter().filter(|lane| outbox.peer(*lane) == Some(origin)).collect();
        let sync = ReadSync {
            user: UserId(read.user.0.to_native()),
            conversation: ConversationId(read.conversation.0.to_native()),
            read_seq: read.read_seq.to_native(),
            unread_count: read.unread_count.to_native(),
            except_session: 0,
        };
        let said_so = |lane, session| session == origin_session && on_that_shard.contains(&lane);
        tell_others(&sync, said_so, registry, outbox);
    }

    /// Readers whose watermarks wait to be told.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.readers.len()
    }

    /// Receipts that wait to be written.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.held.count()
    }

    /// Tells the senders of a reader's next ranges, or asks for them; `false`: too many questions are open, the reader
    /// waits.
    fn ask(
        &mut self,
        key: Key,
        fanout: &Fanout,
        (registry, cluster): (&Registry, &Cluster),
        outbox: &mut Outbox,
    ) -> bool {
        let (conversation, except) = key;
        // At most once for each of its ranges.
        while let Some(reader) = self.readers.get_mut(&key)
            && reader.asking.is_none()
            && !reader.is_waiting
        {
            let (asking, range) = match (reader.delivered, reader.read) {
                (Some(delivered), Some(read)) if delivered == read => (Asking::Both, read),
                (Some(delivered), _) => (Asking::Delivered, delivered),
                (None, Some(read)) => (Asking::Read, read),
                (None, None) => {
                    self.readers.remove(&key);
                    return true;
                }
            };
            // The usual case: what was handed on a moment ago is confirmed.
            if let Some(senders) = fanout.senders_of(conversation, range, except) {
                tell(key, reader, asking, &senders, (registry, cluster), outbox);
            } else {
                let (after_seq, up_to_seq) = range;
                let query = Query::Senders { conversation, after_seq, up_to_seq, except };
                if outbox.ask(Asked::Senders(conversation, except), query).is_err() {
                    reader.is_waiting = true;
                    self.waiting.push_back(key);
                    return false;
                }
                reader.asking = Some(asking);
            }
            if asking != Asking::Read {
                reader.delivered = None;
            }
            if asking != Asking::Delivered {
                reader.read = None;
            }
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

/// The reader's other sessions hear how far they read. The session that said so does not.
fn sync_reader(
    receipted: &Receipted,
    parts: &[Part],
    (registry, cluster): (&Registry, &Cluster),
    outbox: &mut Outbox,
) {
    let Receipted { user, conversation, read: (_, read_seq), unread_count, .. } = *receipted;
    if let Owner::Other(owner) = cluster.owner_of(user) {
        let said_so = parts.iter().find(|part| part.read_seq == read_seq && part.origin.session != 0);
        let gateway = said_so.and_then(|part| match outbox.peer(part.origin.lane) {
            Some(Peer::Gateway(gateway)) => Some((gateway, part.origin.session)),
            _ => None,
        });
        if let Some(lane) = cluster.lane_to(owner) {
            let read_by = ReadBy {
                user,
                conversation,
                read_seq,
                unread_count,
                origin_epoch: gateway.map_or(0, |(gateway, _)| gateway.epoch),
                origin_shard: gateway.map_or(0, |(gateway, _)| gateway.shard),
                origin_session: gateway.map_or(0, |(_, session)| session),
            };
            outbox.send(lane, &read_by);
        }
        return;
    }
    let said_so = |lane: LaneId, session: u64| {
        session != 0
            && parts.iter().any(|part| {
                part.read_seq == read_seq && (part.origin.lane, part.origin.session) == (lane, session)
            })
    };
    let sync = ReadSync { user, conversation, read_seq, unread_count, except_session: 0 };
    tell_others(&sync, said_so, registry, outbox);
}

/// The reader's sessions hear how far they read, but those that said so.
fn tell_others(
    sync: &ReadSync,
    said_so: impl Fn(LaneId, u64) -> bool,
    registry: &Registry,
    outbox: &mut Outbox,
) {
    let lanes: Vec<LaneId> = registry.lanes_of(sync.user, outbox).collect();
    for lane in lanes {
        let own = registry.sessions_of(sync.user).filter(|(on, _)| *on == lane);
        let (mut hears, mut except_session) = (false, 0);
        for (lane, session) in own {
            if said_so(lane, session) {
                except_session = session;
            } else {
                hears = true;
            }
        }
        if hears {
            outbox.send(lane, &ReadSync { except_session, ..*sync });
        }
    }
}

fn tell(
    (conversation, reader_id): Key,
    reader: &Reader,
    asking: Asking,
    senders: &[(UserId, Seq, MessageId)],
    (registry, cluster): (&Registry, &Cluster),
    outbox: &mut Outbox,
) {
    let mut lanes: BTreeMap<LaneId, Vec<Concerned>> = BTreeMap::new();
    for (user, seq, message) in senders {
        let concerned = Concerned { user: *user, seq: *seq, message: *message, count: 0 };
        cluster.each_way(*user, registry, outbox, |lane| lanes.entry(lane).or_default().push(concerned));
    }
    let kinds: &[bool] = match asking {
        Asking::Delivered => &[false],
        Asking::Read => &[true],
        Asking::Both => &[false, true],
        Asking::Nothing => &[],
    };
    for (lane, senders) in lanes {
        let mut watermark = Watermark {
            conversation,
            reader: reader_id,
            read: false,
            at_ms: reader.at.0,
            named: true,
            senders,
        };
        for read in kinds {
            watermark.read = *read;
            outbox.send(lane, &watermark);
        }
    }
}
