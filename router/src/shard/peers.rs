//! What other routers say.

use std::collections::BTreeMap;

use carillon_protocol::frame::{
    self, ArchivedMoved, ArchivedNotify, ArchivedOwn, Deliver, Frame, Notified, Owned, Peek, Peeked,
};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::{Slot, slot_of_conversation};
use carillon_protocol::reason::{Code, Refusal};
use carillon_store::verb::{Incarnation, Query, Standing as Stands};

use super::{Shard, owned};
use crate::batch::{OVERLOADED_RETRY_MS, Origin};
use crate::cluster::table::Owner;
use crate::fanout::note_late;
use crate::lease;
use crate::meters::Metric;
use crate::outbox::{Asked, GatewayShard, LaneId, Peer};

impl Shard {
    pub(super) fn router_up(&mut self, router: Incarnation, lane: LaneId) {
        self.cluster.router_up(self.now, router, lane, &mut self.outbox);
    }

    pub(super) fn router_down(&mut self, router: Incarnation, lane: LaneId) {
        self.cluster.router_down(router, lane);
        self.fail_peeks(router);
    }

    /// A frame of another router; `None`: it is not one that routers say to each other.
    pub(super) fn router_frame(&mut self, lane: LaneId, from: Incarnation, frame: &Frame<'_>) -> Option<()> {
        match *frame {
            Frame::Notify(notice) => return self.notice(from, notice),
            Frame::Notified(answer) => {
                let answered = self.cluster.notified(from, answer.request.to_native());
                self.fanout.answered(from, answered);
            }
            Frame::Lapsed(lapsed) => {
                if self.cluster.lapsed(from, lapsed.request.to_native()) {
                    self.begin_anew();
                }
            }
            Frame::Own(own) => self.own(lane, from, own),
            Frame::Moved(moved) => self.moved(moved),
            Frame::Owned(answer) => {
                self.cluster.claims.answered(from, answer.request.to_native());
                self.settle_known();
            }
            Frame::Peek(peek) => self.peek_of_theirs(lane, from, owned(peek)?),
            Frame::Peeked(peeked) => {
                let peeked: Peeked = owned(peeked)?;
                if let Some(gather) = self.cluster.peeks.answered(peeked.request, from) {
                    self.gathered(gather, peeked.standings);
                }
            }
            Frame::Refused(refused) => self.peek_refused(from, refused.request.to_native()),
            Frame::NotOwner(refused) => self.peek_refused(from, refused.request.to_native()),
            Frame::Typed(typed) => self.typing.relay(typed, &self.registry, &mut self.outbox),
            Frame::Watermark(moved) => self.receipts.relay(moved, &self.registry, &mut self.outbox),
            Frame::ReadBy(read) => self.receipts.relay_read(read, &self.registry, &mut self.outbox),
            _ => return None,
        }
        Some(())
    }

    /// Other routers are told up to where everything of theirs was passed on.
    pub(super) fn answer_routers(&mut self) {
        for (lane, request) in self.cluster.take_owed() {
            self.outbox.send(lane, &Notified { request });
        }
    }

    /// An event for users of ours. `None`: one before it is missing, so the lane is broken.
    fn notice(&mut self, from: Incarnation, notice: &ArchivedNotify) -> Option<()> {
        if !self.cluster.is_next(from, notice.request.to_native())? {
            return Some(());
        }
        let conversation = ConversationId(notice.conversation.0.to_native());
        let (slot, epoch) = (slot_of_conversation(conversation), notice.slot_epoch.to_native());
        if epoch < self.cluster.table.epoch(slot) {
            self.outbox.meter.add(Metric::NoticesStale, 1);
            return Some(());
        }
        if self.cluster.table.learn(slot, Some(from), epoch) {
            // Gateways hear of it before anything that leaves users out who are not ours any more.
            self.settle_owners(self.now);
        }
        self.outbox.meter.add(Metric::NoticesHeard, 1);
        let users = notice.users.iter().map(|user| UserId(user.0.to_native()));
        if self.registry.has_pending() {
            note_late(&notice.record, conversation, users.clone(), &mut self.registry);
        }
        let mut lanes: BTreeMap<LaneId, Vec<UserId>> = BTreeMap::new();
        for user in users {
            let each = |lane| lanes.entry(lane).or_default().push(user);
            self.registry.lanes_of(user, &self.outbox).for_each(each);
        }
        let (epoch, shard) = (notice.origin_epoch.to_native(), notice.origin_shard.to_native());
        let origin = Peer::Gateway(GatewayShard { epoch, shard });
        for (lane, users) in lanes {
            let is_origin = self.outbox.peer(lane) == Some(origin);
            let deliver = Deliver {
                conversation,
                seq: notice.seq.to_native(),
                head_seq: notice.head_seq.to_native(),
                origin_session: if is_origin { notice.origin_session.to_native() } else { 0 },
                origin_request: if is_origin { notice.origin_request.to_native() } else { 0 },
                replayed: notice.replayed,
                users,
                record: notice.record.to_vec(),
            };
            self.outbox.send(lane, &deliver);
            self.outbox.meter.add(Metric::Delivers, 1);
        }
        Some(())
    }

    /// Another router let go of what it had to tell: who is here finds out by asking anew, as after a lost lane.
    fn begin_anew(&mut self) {
        self.outbox.meter.add(Metric::Lapses, 1);
        for lane in self.outbox.gateways() {
            self.close_lane(lane);
        }
    }

    /// Another router gained slots.
    fn own(&mut self, lane: LaneId, from: Incarnation, own: &ArchivedOwn) {
        for slot in own.slots.iter().filter(|slot| slot.owner == from.0) {
            self.cluster.table.learn(Slot(slot.slot.to_native()), Some(from), slot.epoch.to_native());
        }
        self.settle_owners(self.now);
        self.outbox.send(lane, &Owned { request: own.request.to_native() });
    }

    /// Another router says who has slots that were ours, or that we were given. Gateways hear of what is not ours any more
    /// before anything that leaves out its users. What is ours the store tells: it tells the rest with it.
    fn moved(&mut self, moved: &ArchivedMoved) {
        let me = self.cluster.me();
        let mut is_gift = false;
        for told in moved.slots.iter() {
            let (slot, owner, epoch) =
                (Slot(told.slot.to_native()), told.owner.to_native(), told.epoch.to_native());
            if owner == me.0 {
                is_gift |= self.cluster.table.epoch(slot) < epoch;
            } else {
                self.cluster.table.learn(slot, Some(Incarnation(owner)), epoch);
            }
        }
        self.settle_owners(self.now);
        if is_gift {
            self.lease(lease::Input::Gift);
        }
    }

    /// A session of another router's asks where conversations of ours stand. Only the owner of its user may ask: to it goes
    /// what follows.
    fn peek_of_theirs(&mut self, lane: LaneId, from: Incarnation, peek: Peek) {
        let Peek { session, request, user, conversations } = peek;
        let origin = Origin { lane, session, request };
        let are_ours = conversations
            .iter()
            .all(|conversation| self.cluster.answers(self.now, slot_of_conversation(*conversation)));
        if !are_ours || self.cluster.owner_of(user) != Owner::Other(from) {
            return self.outbox.refuse(origin, &changing_hands());
        }
        self.peek_ours(origin, user, conversations);
    }

    /// A session peeks: each owner is asked about its conversations.
    pub(super) fn peek_all(&mut self, origin: Origin, user: UserId, conversations: Vec<ConversationId>) {
        let mut parts: BTreeMap<Option<Incarnation>, Vec<ConversationId>> = BTreeMap::new();
        for conversation in conversations {
            let owner = match self.cluster.owner_of_conversation(conversation) {
                Owner::Us => None,
                Owner::Other(owner) if self.cluster.lane_to(owner).is_some() => Some(owner),
                _ => return self.outbox.refuse(origin, &changing_hands()),
            };
            parts.entry(owner).or_default().push(conversation);
        }
        if parts.keys().all(Option::is_none) {
            let ours = parts.into_values().next().unwrap_or_default();
            return self.peek_ours(origin, user, ours);
        }
        let parts_count = parts.len();
        let Some(gather) = self.cluster.peeks.begin(origin, parts_count) else {
            return self.outbox.refuse(origin, &changing_hands());
        };
        for (owner, conversations) in parts {
            match owner {
                Some(owner) => {
                    let request = self.cluster.peeks.ask(gather, owner);
                    if let Some(lane) = self.cluster.lane_to(owner) {
                        self.outbox.send(lane, &Peek { session: 0, request, user, conversations });
                    }
                }
                None => {
                    let query = Query::Peek { user, conversations };
                    if self.outbox.ask(Asked::PeekPart(gather, user), query).is_err() {
                        return self.fail_gather(gather);
                    }
                }
            }
        }
    }

    /// The store told where our part of a peek's conversations stand.
    pub(super) fn peeked_part(&mut self, gather: u64, user: UserId, standings: Option<Vec<Stands>>) {
        let standings = standings.and_then(|standings| {
            standings.into_iter().map(|standing| self.standing(user, standing)).collect::<Option<Vec<_>>>()
        });
        match standings {
            Some(standings) => self.gathered(gather, standings),
            None => self.fail_gather(gather),
        }
    }

    fn gathered(&mut self, gather: u64, standings: Vec<frame::Standing>) {
        if let Some((origin, standings)) = self.cluster.peeks.part(gather, standings) {
            let Origin { lane, session, request } = origin;
            self.outbox.send(lane, &Peeked { session, request, standings });
        }
    }

    fn peek_refused(&mut self, by: Incarnation, request: u64) {
        if let Some(gather) = self.cluster.peeks.answered(request, by) {
            self.fail_gather(gather);
        }
    }

    fn fail_gather(&mut self, gather: u64) {
        if let Some(origin) = self.cluster.peeks.fail(gather) {
            self.outbox.refuse(origin, &changing_hands());
        }
    }

    pub(super) fn fail_peeks(&mut self, router: Incarnation) {
        for origin in self.cluster.peeks.lost(router) {
            self.outbox.refuse(origin, &changing_hands());
        }
    }
}

fn changing_hands() -> Refusal {
    Refusal::new(Code::Unavailable, "a conversation is changing hands; try again")
        .retry_after(OVERLOADED_RETRY_MS)
}
