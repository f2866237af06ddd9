//! One conversation's turn: its next events leave for every lane on which somebody hears them.

use std::ops::ControlFlow;

use carillon_protocol::frame::{Deliver, Notify};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::slot_of_conversation;
use carillon_protocol::time::Time;
use carillon_store::verb::Query;

use super::log::{Crowd, Log};
use super::members::{Change, Listening, MembersCache};
use super::{DELIVER_USERS_MAX, EVENTS_READ_MAX, FRAME_COST, Fanout, TOLD_COST, VISIT_EVENTS_MAX};
use crate::batch::{Batches, Origin};
use crate::cache::Kind;
use crate::cluster::Cluster;
use crate::meters::{Metric, nanos};
use crate::outbox::{Asked, Outbox, Peer};
use crate::registry::Registry;

impl Fanout {
    /// One conversation's turn; returns what it cost, in users looked at.
    pub(super) fn visit(
        &mut self,
        now: Time,
        conversation: ConversationId,
        registry: &mut Registry,
        cluster: &mut Cluster,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) -> usize {
        let Some(log) = self.logs.get_mut(&conversation) else { return 0 };
        log.is_queued = false;
        let events_max = if log.crowd == Crowd::Few { VISIT_EVENTS_MAX } else { 1 };
        let mut users_count = 0;
        for _ in 0..events_max {
            match self.hand_on(now, conversation, registry, cluster, batches, outbox) {
                ControlFlow::Continue(users) => users_count += users,
                ControlFlow::Break(()) => return users_count,
            }
        }
        self.queue(conversation);
        if self.logs.get(&conversation).is_some_and(Log::is_marked_long_ago) {
            self.mark(now, conversation, batches, outbox);
        }
        users_count
    }

    /// Hands on a conversation's next event, or finds out what that takes; goes on with what it has cost.
    fn hand_on(
        &mut self,
        now: Time,
        conversation: ConversationId,
        registry: &mut Registry,
        cluster: &mut Cluster,
        batches: &mut Batches,
        outbox: &mut Outbox,
    ) -> ControlFlow<(), usize> {
        let Some(log) = self.logs.get_mut(&conversation) else { return ControlFlow::Break(()) };
        let Some(next) = log.next.filter(|_| !log.is_asking) else { return ControlFlow::Break(()) };
        if next > log.head && !log.exploring {
            self.rest(now, conversation, batches, outbox);
            return ControlFlow::Break(());
        }
        let number = log.number;
        let (bytes, events) = log.forget_before(next);
        self.tail_bytes -= bytes;
        self.tail_events -= events;
        let Some(record) = log.record_at(next) else {
            let query = Query::Events { conversation, from_seq: next, limit: EVENTS_READ_MAX };
            self.ask(conversation, Asked::Events(conversation, number), query, outbox);
            return ControlFlow::Break(());
        };
        let is_followed = follow(log, &mut self.members, (conversation, next, &record), registry);
        let counted = if is_followed { Metric::CacheHits } else { Metric::CacheMisses };
        outbox.meter.add_at(counted, Kind::Membership as usize, 1);
        if !is_followed {
            self.ask(
                conversation,
                Asked::Members(conversation, number),
                Query::Members { conversation },
                outbox,
            );
            return ControlFlow::Break(());
        }
        let Some(listening) = self.members.listening(conversation, next, registry, cluster, outbox) else {
            return ControlFlow::Break(());
        };
        log.crowd = match listening.hearers_count {
            count if count > self.settings.queue_min => Crowd::Mass,
            count if count > self.settings.direct_max => Crowd::Many,
            _ => Crowd::Few,
        };
        let told_count = listening.groups.users_count();
        let cost = listening.users_looked_at + FRAME_COST * listening.groups.len() + told_count / TOLD_COST;
        outbox.meter.observe(Metric::Recipients, told_count as u64);
        let recent = log.tail.front().filter(|recent| recent.seq == next);
        if let Some(recent) = recent {
            outbox.meter.observe(Metric::DeliverTime, nanos(now.since(recent.since)));
        }
        let origin = recent.and_then(|recent| recent.origin);
        tell(log, (conversation, next, &record), origin, &listening, cluster, outbox);
        log.handed_on(next, &record);
        log.next = Some(next + 1);
        log.handed_on_at = now;
        log.handed_on_before = outbox.next_ticket();
        ControlFlow::Continue(cost)
    }
}

/// Sends an event to everybody who hears it: to lanes, and to the routers of users who are not ours.
fn tell(
    log: &mut Log,
    (conversation, seq, record): (ConversationId, Seq, &[u8]),
    origin: Option<Origin>,
    listening: &Listening<'_>,
    cluster: &mut Cluster,
    outbox: &mut Outbox,
) {
    let origin = origin.filter(|origin| origin.session != 0);
    let (head_seq, replayed) = (log.head.max(seq), log.is_replay(seq));
    let mut deliver = Deliver {
        conversation,
        seq,
        head_seq,
        origin_session: 0,
        origin_request: 0,
        replayed,
        users: Vec::new(),
        record: if listening.groups.is_empty() { Vec::new() } else { record.to_vec() },
    };
    for (lane, users) in &listening.groups.lanes {
        let own = origin.filter(|origin| origin.lane == *lane);
        deliver.origin_session = own.map_or(0, |origin| origin.session);
        deliver.origin_request = own.map_or(0, |origin| origin.request);
        for users in users.chunks(DELIVER_USERS_MAX) {
            deliver.users = users.to_vec();
            outbox.send(*lane, &deliver);
            outbox.meter.add(Metric::Delivers, 1);
        }
    }
    let gateway = origin.and_then(|origin| match outbox.peer(origin.lane) {
        Some(Peer::Gateway(gateway)) => Some((gateway, origin)),
        _ => None,
    });
    for (router, users) in &listening.groups.routers {
        for users in users.chunks(DELIVER_USERS_MAX) {
            let notice = Notify {
                request: 0,
                conversation,
                seq,
                head_seq,
                slot_epoch: cluster.table.epoch(slot_of_conversation(conversation)),
                replayed,
                origin_epoch: gateway.map_or(0, |(gateway, _)| gateway.epoch),
                origin_shard: gateway.map_or(0, |(gateway, _)| gateway.shard),
                origin_session: gateway.map_or(0, |(_, origin)| origin.session),
                origin_request: gateway.map_or(0, |(_, origin)| origin.request),
                users: users.to_vec(),
                record: record.to_vec(),
            };
            cluster.notify(*router, notice, outbox);
            outbox.meter.add(Metric::Notices, 1);
        }
        log.waits_for(*router, seq);
    }
}

/// Brings the list of members up to the event whose turn it is. `false`: it has to be read.
fn follow(
    log: &mut Log,
    members: &mut MembersCache,
    (conversation, seq, record): (ConversationId, Seq, &[u8]),
    registry: &mut Registry,
) -> bool {
    let version = log.members_version_at(seq);
    let has = members.version(conversation);
    // The usual case: nobody came or went, and nobody registers.
    let is_same = version.is_some() && version == has;
    if is_same && !registry.has_pending() {
        log.is_followed = true;
        return true;
    }
    let change = Change::of(record);
    log.is_followed = match (version, has) {
        _ if matches!(change, Some(Change::Created(_))) => members.apply(conversation, seq, change.as_ref()),
        (Some(version), Some(has)) if has >= version => true,
        (Some(version), Some(has)) if has + 1 == version && change.is_some() => {
            members.apply(conversation, seq, change.as_ref())
        }
        (Some(_), _) => false,
        (None, _) => log.is_followed && members.apply(conversation, seq, change.as_ref()),
    };
    if registry.has_pending() {
        note_change(change.as_ref(), conversation, |_| true, registry);
    }
    log.is_followed
}

/// An event of another router's conversation, for these users of ours: see [`note_change`].
pub(crate) fn note_late(
    record: &[u8],
    conversation: ConversationId,
    users: impl Iterator<Item = UserId> + Clone,
    registry: &mut Registry,
) {
    let is_told = |user: UserId| users.clone().any(|told| told == user);
    note_change(Change::of(record).as_ref(), conversation, is_told, registry);
}

/// Whoever joins while they register may not find the conversation in what that reads.
fn note_change(
    change: Option<&Change>,
    conversation: ConversationId,
    is_told: impl Fn(UserId) -> bool,
    registry: &mut Registry,
) {
    match change {
        Some(Change::Created(users)) => {
            let told = users.iter().filter(|user| is_told(**user));
            told.for_each(|user| registry.note_late(*user, conversation, false));
        }
        Some(Change::Added(users, returning)) => {
            let told = users.iter().filter(|user| is_told(**user));
            told.for_each(|user| registry.note_late(*user, conversation, returning.contains(user)));
        }
        Some(Change::Removed(_)) | None => {}
    }
}
