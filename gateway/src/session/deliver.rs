//! What comes live: events and watermarks.

use bytes::Bytes;
use carillon_link::Peer;
use carillon_protocol::client::{ServerFrame, Wire};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::reason::Close;
use carillon_protocol::record::{Body, Event};

use super::catch_up::{Reset, Way};
use super::joining::Joining;
use super::register::Cause;
use super::work::ReadTo;
use super::{Session, Stage};
use crate::common::Common;
use crate::counters::Shared;
use crate::line::{Line, Scratch, encode};
use crate::render;

/// One event on its way to everybody of this shard who hears it. Encoded once for each encoding, and once more for the
/// sender's own devices, when the first of them needs it.
pub(crate) struct Delivery<'a> {
    /// On whose lane it came: those hear it whose home that is.
    pub(crate) router: Peer,
    /// Whether an earlier owner may have handed it on already.
    pub(crate) is_replayed: bool,
    /// Whether an earlier owner may have handed it on already, and it is not known whether it came here. Who is live does
    /// not know either what they have.
    pub(crate) is_doubtful: bool,
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
    pub(crate) head_seq: Seq,
    pub(crate) origin_session: u64,
    pub(crate) origin_request: u64,
    pub(crate) event: Event<'a>,
    /// How many of its users heard it already.
    pub(crate) users_count: usize,
    pub(crate) encoded: [Option<Bytes>; 4],
}

impl Delivery<'_> {
    fn bytes(&mut self, wire: Wire, viewer: UserId, scratch: &mut Scratch) -> Bytes {
        let is_own = viewer == self.event.sender;
        let place = usize::from(wire == Wire::Rkyv) * 2 + usize::from(is_own);
        let (conversation, seq, head_seq, event) = (self.conversation, self.seq, self.head_seq, &self.event);
        let mut encode_it = || {
            let frame = render::event_frame(conversation, seq, head_seq, event, viewer, &[]);
            encode(wire, &ServerFrame::Event(frame), scratch)
        };
        match self.encoded.get_mut(place) {
            Some(encoded) => encoded.get_or_insert_with(encode_it).clone(),
            None => encode_it(),
        }
    }
}

impl Session {
    /// An event of this session's is committed, and waits to be given out with others before it: its sender hears so
    /// now. When the event comes it finds its position filled.
    pub(crate) fn answered_early(&mut self, delivery: &Delivery<'_>, line: &mut Line, common: &mut Common) {
        let Delivery { conversation, seq, origin_request, event, .. } = delivery;
        let (conversation, seq, request) = (*conversation, *seq, Some(*origin_request));
        let is_placed = matches!(self.stage, Stage::CatchingUp(_) | Stage::Live(_));
        if line.closing.is_none()
            && is_placed
            && !self.is_paged(conversation, seq)
            && !self.is_unknown(conversation)
            && self.is_filled(conversation, seq, event, request, false, line, common)
        {
            self.work(common).early.add(conversation, seq);
        }
    }

    /// An event comes live.
    pub(crate) fn deliver(&mut self, delivery: &mut Delivery<'_>, line: &mut Line, common: &mut Common) {
        let (conversation, seq) = (delivery.conversation, delivery.seq);
        if line.closing.is_some() || self.home() != Some(delivery.router) {
            return;
        }
        // When nothing is left to be brought, `caught_up` comes before this.
        self.advance(line, common);
        let is_origin = delivery.origin_session == line.id.as_u64();
        let origin_request = is_origin.then_some(delivery.origin_request);
        // What the client has already is no ack any more: a command that says it again is answered as a duplicate. While
        // the session registers, or the client has to fetch, it is not known what the client has: a router that is new
        // hands on again what the one before it did.
        let is_placed = matches!(self.stage, Stage::CatchingUp(_) | Stage::Live(_));
        let is_paged = is_placed && self.is_paged(conversation, seq);
        let is_unknown = self.is_unknown(conversation);
        let is_known = is_placed && !is_paged && !(delivery.is_replayed && is_unknown);
        // Perhaps the client has fetched it: it hears of its command, and not that this fills a place.
        let is_filled = is_known
            && self.is_filled(conversation, seq, &delivery.event, origin_request, is_unknown, line, common)
            && !is_unknown;

        let joining = Joining::of(&delivery.event, seq, self.user).filter(|_| !is_paged);
        // Who is no member any more is shown nothing above, however long the log is.
        let is_farewell =
            matches!(&delivery.event.body, Body::MemberRemoved { user, .. } if *user == self.user);
        let head_seq = if is_farewell { seq } else { delivery.head_seq };
        let way = match &mut self.stage {
            Stage::AwaitIdentify(_) | Stage::Gone => return,
            Stage::Registering(registering) => {
                if !registering.known.hear(conversation, seq, joining) {
                    line.close(Close::TryLater);
                }
                Way::Later
            }
            Stage::Peeking(peeking) => {
                if !peeking.known.hear(conversation, seq, joining) {
                    line.close(Close::TryLater);
                }
                Way::Later
            }
            Stage::CatchingUp(catching_up) => catching_up.way(conversation, seq, joining),
            Stage::Live(_) => Way::Live,
        };
        match way {
            Way::Later if is_filled => self.work(common).early.add(conversation, seq),
            Way::Later => {}
            Way::Live => {
                let ahead = self.work.as_ref().and_then(|work| work.ahead_of(conversation));
                let was_paged = self.work.as_mut().is_some_and(|work| {
                    work.early.passed(conversation, seq);
                    work.was_paged(conversation, seq, delivery.is_doubtful)
                });
                if was_paged || is_filled {
                    return;
                }
                // Who knows how far they are by a page knows that this follows.
                let is_doubtful = delivery.is_doubtful && ahead.is_none_or(|ahead| ahead + 1 < seq);
                match joining {
                    Some(joining) if joining.is_returning => {
                        let Joining { seq, first_seq, .. } = joining;
                        let (id, head_seq, reason) = (None, seq - 1, "membership");
                        let reset = Reset { id, conversation, first_seq, head_seq, reason };
                        self.say_reset(reset, line, common);
                    }
                    // The client is to know what was before, too, and fetches it.
                    Some(joining) if joining.first_seq < seq => {
                        self.fall_behind(conversation, seq, head_seq, line, common);
                        return;
                    }
                    _ if is_doubtful => {
                        self.fall_behind(conversation, seq, head_seq, line, common);
                        return;
                    }
                    _ => {}
                }
                if self.is_behind() {
                    self.overflow(conversation, seq, head_seq, line, common);
                    return;
                }
                let bytes = delivery.bytes(line.wire, self.user, &mut common.scratch);
                if line.push(common, bytes, Shared::Event) {
                    let since_commit_ms = common.wall.0.saturating_sub(delivery.event.id.created_at().0);
                    common.counters.event_live(since_commit_ms);
                    if delivery.is_doubtful {
                        self.work(common).followed(conversation, seq);
                    }
                } else {
                    self.overflow(conversation, seq, head_seq, line, common);
                }
            }
        }
    }

    /// A reader's watermark passed a message of this user's, at `seq`.
    pub(crate) fn watermark(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        bytes: &mut [Option<Bytes>; 2],
        frame: &ServerFrame<'_>,
        line: &mut Line,
        common: &mut Common,
    ) {
        let is_heard = match &mut self.stage {
            Stage::AwaitIdentify(_) | Stage::Gone => false,
            // Nothing of a session is said before `ready`; after a lost lane that was long ago.
            Stage::Registering(registering) => matches!(registering.cause, Cause::Again { .. }),
            Stage::Peeking(peeking) => matches!(peeking.cause, Cause::Again { .. }),
            // Pages restate the watermarks.
            Stage::CatchingUp(catching_up) => matches!(catching_up.way(conversation, 0, None), Way::Live),
            Stage::Live(_) => true,
        };
        if !is_heard || line.closing.is_some() {
            return;
        }
        let place = usize::from(line.wire == Wire::Rkyv);
        let mut encode_it = || encode(line.wire, frame, &mut common.scratch);
        let bytes = match bytes.get_mut(place) {
            Some(bytes) => bytes.get_or_insert_with(encode_it).clone(),
            None => encode_it(),
        };
        // A watermark that does not fit is found again by syncing its conversation.
        let fits = line.push(common, bytes, Shared::DeliveryAck);
        if !fits && matches!(self.stage, Stage::Live(_) | Stage::CatchingUp(_)) {
            self.fall_behind(conversation, 0, seq, line, common);
        }
    }

    /// The user read on another device.
    pub(crate) fn read_elsewhere(&mut self, read: ReadTo, line: &mut Line, common: &mut Common) {
        let is_ready = match &self.stage {
            Stage::AwaitIdentify(_) | Stage::Gone => false,
            Stage::Registering(registering) => matches!(registering.cause, Cause::Again { .. }),
            Stage::Peeking(peeking) => matches!(peeking.cause, Cause::Again { .. }),
            Stage::CatchingUp(_) | Stage::Live(_) => true,
        };
        if !is_ready || line.closing.is_some() {
            return;
        }
        let ReadTo { conversation, read_seq, unread_count } = read;
        let frame = ServerFrame::ReadSync { conversation, read_seq, unread_count };
        let bytes = encode(line.wire, &frame, &mut common.scratch);
        if !line.push(common, bytes, Shared::ReadSync) {
            self.work.get_or_insert_default().keep_read(read);
        }
    }

    /// Says what was read elsewhere as soon as there is room.
    pub(super) fn say_reads(&mut self, line: &mut Line, common: &mut Common) {
        let Some(work) = self.work.as_mut().filter(|work| !work.reads.is_empty()) else { return };
        if line.has_room_for_page(common) {
            for read in std::mem::take(&mut work.reads) {
                self.read_elsewhere(read, line, common);
            }
        }
    }
}
