//! Who owns which slot, told to gateways, and what routers say to each other.
//!
//! A slot's *epoch* rises whenever it changes hands. Whoever hears of two owners believes the one with the higher epoch,
//! wherever that came from and however late the other one is.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{ConversationId, Seq, UserId};

/// A living router.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct RouterAddress {
    /// Its incarnation.
    pub incarnation: u64,
    /// Where it is reached: "host:port".
    pub address: String,
}

/// A slot and who owns it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct OwnedSlot {
    /// Which.
    pub slot: u16,
    /// Its owner's incarnation; 0: nobody.
    pub owner: u64,
    /// How often it changed hands.
    pub epoch: u64,
}

/// Down: the routers there are, and who owns what. Follows the router's `Open`, whole, and then again with what changed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Owners {
    /// All living routers, ascending by incarnation.
    pub routers: Vec<RouterAddress>,
    /// At first all slots, later those that changed; at most [`crate::placement::SLOTS_COUNT`].
    pub slots: Vec<OwnedSlot>,
}

/// Router to router: these slots are the sender's now; what their users are to hear goes there from here on. Answered by
/// [`Owned`]: only when every living router has answered does an owner read what its users joined, so that nothing can
/// fall between.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Own {
    /// Echoed.
    pub request: u64,
    /// Which; their owner is the sender.
    pub slots: Vec<OwnedSlot>,
}

/// The answer to [`Own`]: known, and acted on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Owned {
    /// From [`Own`].
    pub request: u64,
}

/// Router to router: who has these slots, as far as the sender knows. It goes to whoever had them, ahead of everything that
/// the sender hands on for their users elsewhere, and to whoever was given them. No answer. Nobody takes a slot by this
/// frame alone: who is named as the owner, and does not know it, looks into the store.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Moved {
    /// Which; at most [`crate::placement::SLOTS_COUNT`].
    pub slots: Vec<OwnedSlot>,
}

/// Router to router: an event for these users of the receiver's.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Notify {
    /// Counts the sender's `Notify` frames to this receiver from 1 on, without a hole. What was not answered when a lane
    /// was lost comes again on the next one, in order: a number that came before is only answered again.
    pub request: u64,
    /// The conversation.
    pub conversation: ConversationId,
    /// The event's seq.
    pub seq: Seq,
    /// The head when this was sent.
    pub head_seq: Seq,
    /// The epoch by which the sender owns the conversation's slot. One that is lower than what the receiver has heard of
    /// is that of a former owner, and nobody is told.
    pub slot_epoch: u64,
    /// Whether an earlier owner may have handed this on as well.
    pub replayed: bool,
    /// The process epoch of the gateway whose submit made the event; 0 when there is none.
    pub origin_epoch: u64,
    /// Its shard.
    pub origin_shard: u16,
    /// The session there; 0 when there is none.
    pub origin_session: u64,
    /// That submit's request.
    pub origin_request: u64,
    /// Who.
    pub users: Vec<UserId>,
    /// The stored event.
    pub record: Vec<u8>,
}

/// The answer to [`Notify`]: everything up to that number was handed to the lanes on which its users hear.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Notified {
    /// From [`Notify`]; all below are answered with it.
    pub request: u64,
}

/// Router to router: more waited for the receiver than is kept. Nothing up to this number comes any more: the receiver has
/// the sessions of all its users begin anew, and answers [`Notified`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Lapsed {
    /// As in [`Notify`].
    pub request: u64,
}

/// Router to router: a user of the receiver's read on one device; their other sessions hear it. No answer: whoever misses
/// it finds the watermark in their next look at the conversation.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct ReadBy {
    /// Whose.
    pub user: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// Read up to here.
    pub read_seq: Seq,
    /// What is left unread.
    pub unread_count: u64,
    /// The process epoch of the gateway on which the session said so that needs not hear it.
    pub origin_epoch: u64,
    /// Its shard.
    pub origin_shard: u16,
    /// The session there; 0: none.
    pub origin_session: u64,
}
