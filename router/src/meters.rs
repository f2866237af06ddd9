//! What a router counts: one page of metrics.

use std::time::Duration;

use carillon_node::metrics::{COUNT, Def, LATENCY_NS};

use crate::cache::KINDS;

/// A duration as what histograms of [`LATENCY_NS`] observe.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What became of requests, as indexes into the label of [`Metric::Requests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Told {
    /// An event was appended.
    Appended,
    /// An earlier attempt had appended it.
    Duplicate,
    /// It was so already.
    Unchanged,
    /// A receipt is durable.
    Receipt,
    /// Refused, reads among them.
    Refused,
    /// The outcome stayed unknown.
    Unknown,
    /// Another router owns the slot.
    NotOwner,
}

/// The labels of [`Told`], in its order.
pub const TOLD: [&str; 7] =
    ["appended", "duplicate", "unchanged", "receipt", "refused", "unknown", "not_owner"];

/// Whose rate a command was above, as indexes into the label of [`Metric::RateLimited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum LimitedBy {
    /// The user's.
    User,
    /// The conversation's.
    Conversation,
}

/// The labels of [`LimitedBy`], in its order. The gateway counts its own under the same name.
pub const LIMITED_BY: [&str; 2] = ["user", "conversation"];

carillon_node::metric_table! {
    /// What the router's thread counts.
    pub enum Metric {
        Requests = Def::counter("router_requests", "Requests by what was told to their sender").by("outcome", &TOLD),
        BatchOps = Def::histogram("router_batch_ops", "Operations in each commit", &COUNT),
        SubmitTime = Def::histogram(
            "router_submit_seconds", "From a submit to its definite outcome", &LATENCY_NS),
        DeliverTime = Def::histogram(
            "router_deliver_seconds", "From a definite commit to the event's frames for gateways", &LATENCY_NS),
        Delivers = Def::counter("router_delivers", "Events handed on, once for each lane with listeners"),
        Slots = Def::gauge("router_slots", "Slots that are this router's"),
        Peers = Def::gauge("router_peers", "Other routers that live"),
        NoticesWaiting = Def::gauge("router_notices_waiting", "Events that other routers were told and have not answered"),
        Notices = Def::counter("router_notices", "Events that other routers were told, once for each router with listeners"),
        NoticesHeard = Def::counter("router_notices_heard", "Events that other routers told, and that were passed on"),
        NoticesStale = Def::counter("router_notices_stale", "Events told by a former owner, which nobody hears"),
        Lapses = Def::counter("router_lapses", "Times that another router let go of what it had to tell: all sessions here begin anew"),
        Recipients = Def::histogram("fanout_recipients", "Users that were told of each event", &COUNT),
        CacheHits = Def::counter("cache_hits", "Questions answered from memory, by what they were about").by("cache", &KINDS),
        CacheMisses = Def::counter("cache_misses", "The same, which the store had to answer").by("cache", &KINDS),
        CacheConversations = Def::gauge("cache_conversations", "Conversations held in memory"),
        CacheBytes = Def::gauge("cache_bytes", "Bytes that they take, roughly"),
        WatermarksDropped = Def::counter(
            "router_watermarks_dropped", "Watermarks not told live, because too many were waiting or unread"),
        WatermarksCounted = Def::counter("router_watermarks_counted", "Frames with counts for senders in large groups"),
        HeldReceipts = Def::gauge("router_held_receipts", "Receipts of large groups that wait to be written"),
        RateLimited = Def::counter("rate_limited", "Commands and upgrades refused by rate, by whose rate it was")
            .by("by", &LIMITED_BY),
        PresenceWrites = Def::counter("presence_writes", "Last-seen times written to the store"),
        PresenceTransitions = Def::counter("presence_transitions", "Users whose coming or going was told"),
        PresenceFrames = Def::counter("presence_frames", "Frames that told of them, one for each lane with watchers"),
        PresenceReturns = Def::counter("presence_returns", "Devices that were back before they counted as gone"),
        PresenceWatches = Def::gauge("presence_watches", "Users watched, counted once for each session"),
        PresenceLeaving = Def::gauge("presence_leaving", "Devices whose absence is not certain yet"),
        TypingFrames = Def::counter("typing_frames", "Typing states passed on, once for each lane with listeners"),
        TypingDropped = Def::counter("typing_dropped", "Typing states dropped for more important work"),
        LanesRefused = Def::counter("router_lanes_refused", "Link lanes closed because of what came on them"),
        LanesOverflowed = Def::counter("router_lanes_overflowed", "Link lanes closed because their backlog was full"),
        Lanes = Def::gauge("router_lanes", "Link lanes that are up"),
        Users = Def::gauge("router_users", "Users with sessions"),
        Queued = Def::gauge("router_queued_ops", "Operations that wait for a commit lane"),
        Due = Def::gauge("router_due_conversations", "Conversations that wait for their turn to be handed on"),
        Asked = Def::gauge("router_open_queries", "Questions to the store that are not answered yet"),
        Watermarks = Def::gauge("router_waiting_watermarks", "Readers whose watermarks wait to be told"),
    }
}

/// The roles of a router's threads, as indexes into the label of [`ThreadMetric::Cpu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Role {
    /// The one that holds the state.
    Router,
    /// One a commit lane: with it goes what the store does on its caller's thread.
    Committer,
    /// The read pool.
    Reader,
    /// What is said to the other routers by the store: beats, polls, slots.
    Membership,
}

/// The labels of [`Role`], in its order.
pub const ROLES: [&str; 4] = ["router", "committer", "reader", "membership"];

carillon_node::metric_table! {
    /// What each thread counts of itself.
    pub enum ThreadMetric {
        Cpu = Def::counter("router_cpu_nanoseconds", "CPU time of a router's threads by role").by("role", &ROLES),
        CommitTime = Def::histogram("router_commit_seconds", "One batch, until its outcome is definite", &LATENCY_NS),
        Queries = Def::counter("router_queries", "Questions that were answered from the store"),
    }
}
