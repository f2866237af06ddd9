//! What everybody said and saw, in one place: for what can be judged at once, and for the [`judge`](super::judge).

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::client::EventFrame;
use carillon_protocol::ids::{ConversationId, MessageId, Seq, UserId};

use super::members::{self, Claim, Wish};

/// How a send stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No answer yet.
    Open,
    /// Acknowledged.
    Acked { seq: Seq, message: MessageId },
    /// Definitely refused: must never appear (G5).
    Refused,
    /// Given up without knowing.
    Unknown,
}

/// One message that a device wants said.
#[derive(Clone, Debug)]
pub(super) struct Send {
    pub(super) device: usize,
    pub(super) user: UserId,
    pub(super) conversation: ConversationId,
    pub(super) client_msg_id: Option<String>,
    pub(super) content: String,
    pub(super) state: State,
    /// The highest seq that anybody was told before it was first said (G8); `None` before.
    pub(super) floor: Option<Seq>,
    /// How often it was said.
    pub(super) attempts: u32,
    /// When it was last said, in virtual nanoseconds.
    pub(super) said_at: u64,
    /// When it was first said.
    pub(super) first_said_at: u64,
    /// It was refused once, or may have been, so that later ones may stand before it (G9).
    pub(super) may_be_overtaken: bool,
    pub(super) is_expected_refused: bool,
}

/// What was seen at a place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) message: MessageId,
    pub(super) sender: UserId,
    pub(super) content: String,
}

/// The watermarks of a user in a conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// The highest that any device said.
    pub(super) said: Seq,
    /// The highest whose `ok` came.
    pub(super) confirmed: Seq,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// How often what happened, so that a run can show that it met what it is meant to meet.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),+ }

        impl Stats {
            /// Each with its name.
            #[must_use]
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }
        }

        impl std::ops::AddAssign for Stats {
            fn add_assign(&mut self, more: Stats) {
                $(self.$name += more.$name;)+
            }
        }
    };
}

stats! {
    /// Messages acknowledged.
    acked,
    /// Of them as duplicates.
    duplicates,
    /// Events that clients received.
    events,
    /// Connections that became live.
    lives,
    /// Lanes lost.
    lanes_lost,
    /// Gateways that died.
    gateway_crashes,
    /// Routers that died.
    router_crashes,
    /// Of them with a batch that was never committed.
    crashes_before_commit,
    /// Of them with a batch that was committed and not answered.
    crashes_after_commit,
    /// Of them between an ack and its fan-out.
    crashes_after_ack,
    /// Commits of a dead router that were fenced (G15).
    fenced,
    /// Connections cut.
    cuts,
    /// Events that somebody read before the router had heard of their commit.
    early_sights,
    /// Acks that came before lower seqs.
    early_acks,
    /// Refusals that a client heard.
    refusals,
    /// Of them `unknown_outcome`.
    unknown_outcomes,
    /// `behind`.
    behinds,
    /// `reset`.
    resets,
    /// Connections closed with 4507 although their device had no newer one.
    replaced_unduly,
    /// Drains of gateways.
    gateway_drains,
    /// Of routers that come back.
    router_restarts,
    /// Of those that do not.
    router_leaves,
    /// Routers that joined.
    router_joins,
    /// Clients that read nothing for a while.
    stalls,
    /// Gateways that stood still.
    gateway_pauses,
    /// Routers that stood still.
    router_pauses,
    /// In the middle of a turn.
    router_naps,
    /// Batches whose outcome was to stay unknown.
    unknowns,
    /// Times without room on the disk.
    disks_full,
    /// Jumps of the wall clock.
    wall_jumps,
    /// Times when everything was slow.
    slow_times,
    /// Lanes between routers lost.
    router_lanes_lost,
    /// Gateways and routers that did not reach each other.
    gateway_partitions,
    /// Pairs of routers that did not.
    router_partitions,
    /// Routers that did not reach the store, or did not hear of it.
    store_cuts,
    /// Commits that were to conflict.
    conflicts,
    /// Commits whose caller was not told.
    unknown_commits,
    /// Commits whose version was no longer kept.
    too_old_commits,
    /// Commits that were refused because they took too long.
    slow_commits,
    /// Commits that took up to seconds.
    long_commits,
    /// Transactions of leases that were disturbed: told to run again, or not told at all.
    disturbed_orders,
    /// Transactions of leases whose outcome stayed unknown.
    unknown_orders,
    /// Routers that died with a transaction of their lease under way, or committed and not heard of.
    order_crashes,
    /// Transactions of dead routers' leases that came all the same.
    late_orders,
    /// Routers that joined without hearing of it.
    lost_joins,
    /// Routers that others declared dead.
    deposed,
    /// Lives that began in a process that had lived before.
    new_lives,
    /// Slots given away, in how many transactions.
    gifts,
    /// Turns whose frames nobody heard, because it had slept meanwhile.
    forgets,
    /// Requests that went to a router that did not own the slot.
    not_owners,
    /// Events that went from router to router.
    notices,
    /// Of them such as a former owner may have sent already.
    replays,
    /// Receipts of others that were older than what the client had been told.
    older_marks,
    /// Receipts that a client was told are durable.
    receipts,
    /// Members that somebody added.
    members_added,
    /// That somebody else removed.
    members_removed,
    /// That left.
    members_left,
    /// Changes of members that were refused.
    changes_refused,
    /// Devices that heard of the end of their own membership.
    farewells,
    /// Resets because a device's user came back.
    returns,
    /// Refusals because a user is no member.
    forbidden,
    /// States of typing that a device heard.
    typings,
}

/// What goes wrong on purpose, and who comes and goes: a kind of it that happens in too few worlds proves little.
pub const FAULTS: [&str; 34] = [
    "lanes_lost",
    "gateway_crashes",
    "router_crashes",
    "crashes_before_commit",
    "crashes_after_commit",
    "crashes_after_ack",
    "cuts",
    "gateway_drains",
    "router_restarts",
    "router_leaves",
    "router_joins",
    "stalls",
    "gateway_pauses",
    "router_pauses",
    "router_naps",
    "unknowns",
    "disks_full",
    "wall_jumps",
    "slow_times",
    "router_lanes_lost",
    "gateway_partitions",
    "router_partitions",
    "store_cuts",
    "conflicts",
    "unknown_commits",
    "too_old_commits",
    "slow_commits",
    "long_commits",
    "disturbed_orders",
    "unknown_orders",
    "order_crashes",
    "members_added",
    "members_removed",
    "members_left",
];

/// See the module.
#[derive(Default)]
pub(super) struct Book {
    pub(super) sends: Vec<Send>,
    /// Sends by who said them under which name.
    pub(super) names: BTreeMap<(UserId, String), usize>,
    pub(super) sights: BTreeMap<(ConversationId, Seq), Sight>,
    /// The highest seq that anybody was told.
    pub(super) told: BTreeMap<ConversationId, Seq>,
    pub(super) members: BTreeMap<ConversationId, Vec<UserId>>,
    /// Members of conversations that begin meanwhile, by their number.
    pub(super) late: BTreeMap<usize, Vec<UserId>>,
    pub(super) delivered: BTreeMap<(UserId, ConversationId), Marks>,
    pub(super) read: BTreeMap<(UserId, ConversationId), Marks>,
    /// Who was first shown what, and when.
    pub(super) shown: BTreeMap<(UserId, ConversationId, Seq), u64>,
    /// From which seq on somebody was told that they see a conversation.
    pub(super) firsts: BTreeSet<(UserId, ConversationId, Seq)>,
    /// What depends on who was a member when.
    pub(super) claims: Vec<Claim>,
    /// Conversations whose members change, with who owns them, as far as is known.
    pub(super) moving: BTreeMap<ConversationId, Option<UserId>>,
    pub(super) wishes: BTreeMap<usize, Wish>,
    /// When something other than a message was first known to stand at a place.
    pub(super) known_at: BTreeMap<(ConversationId, Seq), u64>,
    /// When a user first typed in a conversation, and when they first did so although they had heard that they may not.
    pub(super) typed: BTreeMap<(UserId, ConversationId, bool), u64>,
    /// Of each slot, who said that it is theirs by which epoch.
    owners: Vec<Vec<(u64, u64)>>,
    pub(super) violations: Vec<String>,
    pub(super) stats: Stats,
}

impl Book {
    /// Somebody says that a slot is theirs by this epoch: who else said so before.
    pub(super) fn owner(&mut self, slot: u16, epoch: u64, owner: u64) -> Option<u64> {
        let slot = usize::from(slot);
        if self.owners.len() <= slot {
            self.owners.resize(slot + 1, Vec::new());
        }
        let said = &mut self.owners[slot];
        // The latest is asked for most.
        match said.iter().rev().find(|(known_epoch, _)| *known_epoch == epoch) {
            Some((_, known)) => (*known != owner).then_some(*known),
            None => {
                said.push((epoch, owner));
                None
            }
        }
    }

    /// A promise is broken.
    pub(super) fn wrong(&mut self, promise: &str, words: impl std::fmt::Display) {
        self.violations.push(format!("{promise}: {words}"));
    }

    /// A user was shown something of a conversation (G11): judged at the end.
    pub(super) fn shown(&mut self, user: UserId, conversation: ConversationId, seq: Seq, now: u64) {
        self.shown.entry((user, conversation, seq)).or_insert(now);
    }

    /// Whether a user is a member, as far as is known.
    pub(super) fn is_member(&self, user: UserId, conversation: ConversationId) -> bool {
        self.members.get(&conversation).is_some_and(|members| members.contains(&user))
    }

    pub(super) fn told(&self, conversation: ConversationId) -> Seq {
        self.told.get(&conversation).copied().unwrap_or(0)
    }

    /// Somebody was told what stands at a place (G4, G8).
    pub(super) fn see(&mut self, conversation: ConversationId, seq: Seq, sight: Sight, now: u64) {
        if sight.message == MessageId(0) {
            self.known_at.entry((conversation, seq)).or_insert(now);
        }
        let told = self.told.entry(conversation).or_insert(0);
        *told = (*told).max(seq);
        match self.sights.get(&(conversation, seq)) {
            None => {
                self.sights.insert((conversation, seq), sight);
            }
            Some(known) if *known == sight => {}
            Some(known) => {
                let words = format!("{conversation}/{seq} is {known:?} to one and {sight:?} to another");
                self.wrong("G4", words);
            }
        }
    }

    /// A user's send was refused by a router: later ones may overtake it.
    pub(super) fn overtakable(&mut self, user: UserId, client_msg_id: &str) {
        if let Some(send) =
            self.names.get(&(user, client_msg_id.to_owned())).and_then(|at| self.sends.get_mut(*at))
        {
            send.may_be_overtaken = true;
        }
    }
}

/// What a client was shown, and the name that only the sender's devices are told.
pub(super) fn sight<'a>(event: &'a EventFrame<'_>) -> (Sight, Option<&'a str>) {
    match event {
        EventFrame::NewMessage { message, .. } => {
            let sight = Sight {
                message: message.message,
                sender: message.sender,
                content: message.content.to_string(),
            };
            (sight, message.client_msg_id.as_deref())
        }
        EventFrame::ConversationCreated { by, .. } => change_sight(*by, "created".to_owned()),
        EventFrame::MemberAdded { user_ids, by, .. } => change_sight(*by, members::added(user_ids)),
        EventFrame::MemberRemoved { user, by, owner, .. } => {
            change_sight(*by, members::removed(*user, *owner))
        }
        EventFrame::ConversationUpdated { by, group_name: Some(group_name), .. } => {
            change_sight(*by, members::renamed(group_name))
        }
        // Nothing in this world changes a conversation otherwise.
        other => (Sight { message: MessageId(0), sender: UserId(0), content: format!("{other:?}") }, None),
    }
}

fn change_sight(sender: UserId, content: String) -> (Sight, Option<&'static str>) {
    (Sight { message: MessageId(0), sender, content }, None)
}
