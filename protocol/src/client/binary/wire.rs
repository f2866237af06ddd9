//! The archives: one struct per [`Kind`](super::Kind), flat. Enumerations travel as their numbers and are checked by
//! whoever reads them, so that an archive stays valid when a set grows. The field names are those of JSON.
//!
//! The order and types of fields are the bytes: a change here is a new [`VERSION`](crate::framing::VERSION).

use std::borrow::Cow;

use rkyv::with::{AsOwned, Map};
use rkyv::{Archive, Serialize};

use crate::client::FrameId;
use crate::ids::{ConversationId, MessageId, Seq, UserId};

#[derive(Archive, Serialize)]
pub(super) struct Cursor {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
}

#[derive(Archive, Serialize)]
pub(super) struct Identify<'a> {
    pub(super) id: Option<FrameId>,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) token: Option<Cow<'a, str>>,
    pub(super) cursors: Vec<Cursor>,
}

#[derive(Archive, Serialize)]
pub(super) struct SendMessage<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    #[rkyv(with = AsOwned)]
    pub(super) content: Cow<'a, str>,
    pub(super) message_type: u8,
    pub(super) encoding: u8,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) media_url: Option<Cow<'a, str>>,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) client_msg_id: Option<Cow<'a, str>>,
    pub(super) reply_to: Option<MessageId>,
}

/// `delivered` and `read`.
#[derive(Archive, Serialize)]
pub(super) struct UpTo {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
}

#[derive(Archive, Serialize)]
pub(super) struct Sync {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) from_seq: Seq,
    pub(super) limit: u32,
}

#[derive(Archive, Serialize)]
pub(super) struct Typing {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    /// 1: began, 0: stopped.
    pub(super) state: u8,
}

/// `presence_subscribe` and `presence_unsubscribe`.
#[derive(Archive, Serialize)]
pub(super) struct Users<'a> {
    pub(super) id: Option<FrameId>,
    #[rkyv(with = AsOwned)]
    pub(super) user_ids: Cow<'a, [UserId]>,
}

#[derive(Archive, Serialize)]
pub(super) struct DeleteMessage<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) message_id: MessageId,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) client_msg_id: Option<Cow<'a, str>>,
}

/// `react` and `unreact`.
#[derive(Archive, Serialize)]
pub(super) struct React<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) message_id: MessageId,
    #[rkyv(with = AsOwned)]
    pub(super) emoji: Cow<'a, str>,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) client_msg_id: Option<Cow<'a, str>>,
}

#[derive(Archive, Serialize)]
pub(super) struct RefreshToken<'a> {
    pub(super) id: Option<FrameId>,
    #[rkyv(with = AsOwned)]
    pub(super) token: Cow<'a, str>,
}

/// `heartbeat`, `bye`, `caught_up` (without `id`) and `heartbeat_ack`.
#[derive(Archive, Serialize)]
pub(super) struct Bare {
    pub(super) id: Option<FrameId>,
}

#[derive(Archive, Serialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) server_time: u64,
    pub(super) heartbeat_interval_ms: u64,
    pub(super) frame_bytes: u64,
    pub(super) content_bytes: u64,
    pub(super) inflight: u64,
    pub(super) send_per_s: u64,
    pub(super) send_burst: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct Ready<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) user_id: UserId,
    #[rkyv(with = AsOwned)]
    pub(super) device_id: Cow<'a, str>,
    pub(super) pending_conversations: u64,
    pub(super) pending_events: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct Message<'a> {
    pub(super) message_id: MessageId,
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) sender_id: UserId,
    #[rkyv(with = AsOwned)]
    pub(super) content: Cow<'a, str>,
    pub(super) encoding: u8,
    pub(super) message_type: u8,
    pub(super) status: u8,
    pub(super) deleted: bool,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) media_url: Option<Cow<'a, str>>,
    pub(super) created_at: u64,
    pub(super) reply_to: Option<MessageId>,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) client_msg_id: Option<Cow<'a, str>>,
    pub(super) reactions: Vec<Tally<'a>>,
}

/// How often an emoji stands under a message.
#[derive(Archive, Serialize)]
pub(super) struct Tally<'a> {
    #[rkyv(with = AsOwned)]
    pub(super) emoji: Cow<'a, str>,
    pub(super) count: u64,
    pub(super) mine: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct NewMessage<'a> {
    pub(super) message: Message<'a>,
    pub(super) head_seq: Seq,
}

#[derive(Archive, Serialize)]
pub(super) struct ConversationCreated<'a> {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    #[rkyv(with = AsOwned)]
    pub(super) user_ids: Cow<'a, [UserId]>,
    pub(super) by: UserId,
    pub(super) conversation_type: u8,
    pub(super) history: u8,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) group_name: Option<Cow<'a, str>>,
    pub(super) created_at: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct ConversationUpdated<'a> {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) by: UserId,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) group_name: Option<Cow<'a, str>>,
    /// Whose role, and [`crate::record::Role`] as a number.
    pub(super) role: Option<RoleOf>,
    pub(super) created_at: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct RoleOf {
    pub(super) user_id: UserId,
    pub(super) role: u8,
}

#[derive(Archive, Serialize)]
pub(super) struct MemberAdded<'a> {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    #[rkyv(with = AsOwned)]
    pub(super) user_ids: Cow<'a, [UserId]>,
    pub(super) by: UserId,
    pub(super) created_at: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct MemberRemoved {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) user_id: UserId,
    pub(super) by: UserId,
    pub(super) owner_id: Option<UserId>,
    pub(super) created_at: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct MessageDeleted {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) message_id: MessageId,
    pub(super) target_seq: Seq,
    pub(super) by: UserId,
    pub(super) created_at: u64,
}

/// `reaction_added` and `reaction_removed`.
#[derive(Archive, Serialize)]
pub(super) struct Reaction<'a> {
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) message_id: MessageId,
    pub(super) target_seq: Seq,
    pub(super) user_id: UserId,
    #[rkyv(with = AsOwned)]
    pub(super) emoji: Cow<'a, str>,
    pub(super) created_at: u64,
}

/// A durable event inside a `sync_batch`. New variants go to the end.
#[derive(Archive, Serialize)]
pub(super) enum Event<'a> {
    NewMessage(NewMessage<'a>),
    ConversationCreated(ConversationCreated<'a>),
    ConversationUpdated(ConversationUpdated<'a>),
    MemberAdded(MemberAdded<'a>),
    MemberRemoved(MemberRemoved),
    MessageDeleted(MessageDeleted),
    ReactionAdded(Reaction<'a>),
    ReactionRemoved(Reaction<'a>),
}

#[derive(Archive, Serialize)]
pub(super) struct DeliveryAck<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) message_id: MessageId,
    pub(super) status: u8,
    pub(super) duplicate: bool,
    pub(super) conversation_id: ConversationId,
    pub(super) seq: Seq,
    pub(super) timestamp: u64,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) client_msg_id: Option<Cow<'a, str>>,
    pub(super) user_id: Option<UserId>,
    /// `delivered_count` or `read_count`, by `status`.
    pub(super) count: Option<u64>,
}

/// A member types.
#[derive(Archive, Serialize)]
pub(super) struct Typed {
    pub(super) conversation_id: ConversationId,
    pub(super) user_id: UserId,
    /// 1: began, 0: stopped.
    pub(super) state: u8,
}

/// `presence`, and an entry of `presence` in `ok`.
#[derive(Archive, Serialize)]
pub(super) struct Presence {
    pub(super) user_id: UserId,
    /// 1: online, 0: offline.
    pub(super) status: u8,
    pub(super) last_seen_at: Option<u64>,
}

#[derive(Archive, Serialize)]
pub(super) struct ReadSync {
    pub(super) conversation_id: ConversationId,
    pub(super) read_seq: Seq,
    pub(super) unread_count: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct Receipt {
    pub(super) user_id: UserId,
    pub(super) delivered_seq: Seq,
    pub(super) read_seq: Seq,
}

#[derive(Archive, Serialize)]
pub(super) struct SyncBatch<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) events: Vec<Event<'a>>,
    pub(super) from_seq: Seq,
    pub(super) to_seq: Seq,
    pub(super) head_seq: Seq,
    pub(super) has_more: bool,
    pub(super) receipts: Receipts,
}

/// New variants go to the end.
#[derive(Archive, Serialize)]
pub(super) enum Receipts {
    Each(Vec<Receipt>),
    Counted { delivered_count: u64, read_count: u64 },
}

#[derive(Archive, Serialize)]
pub(super) struct Head {
    pub(super) conversation_id: ConversationId,
    pub(super) head_seq: Seq,
}

#[derive(Archive, Serialize)]
pub(super) struct Behind {
    pub(super) conversations: Vec<Head>,
}

#[derive(Archive, Serialize)]
pub(super) struct Reset<'a> {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: ConversationId,
    pub(super) first_seq: Seq,
    pub(super) head_seq: Seq,
    #[rkyv(with = AsOwned)]
    pub(super) reason: Cow<'a, str>,
}

#[derive(Archive, Serialize)]
pub(super) struct Reconnect<'a> {
    pub(super) after_ms: u64,
    #[rkyv(with = AsOwned)]
    pub(super) reason: Cow<'a, str>,
}

#[derive(Archive, Serialize)]
pub(super) struct Done {
    pub(super) id: Option<FrameId>,
    pub(super) conversation_id: Option<ConversationId>,
    pub(super) seq: Option<Seq>,
    pub(super) duplicate: bool,
    pub(super) presence: Option<Vec<Presence>>,
}

#[derive(Archive, Serialize)]
pub(super) struct Error<'a> {
    pub(super) id: Option<FrameId>,
    /// [`crate::reason::Code`] as a number.
    pub(super) code: u16,
    pub(super) retryable: bool,
    #[rkyv(with = AsOwned)]
    pub(super) message: Cow<'a, str>,
    pub(super) retry_after_ms: Option<u64>,
    #[rkyv(with = Map<AsOwned>)]
    pub(super) field: Option<Cow<'a, str>>,
    #[rkyv(with = AsOwned)]
    pub(super) request_id: Cow<'a, str>,
}
