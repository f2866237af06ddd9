//! What a conversation looks like to a client, whatever the encoding: its events, its messages, and how far who got.

use std::borrow::Cow;

use super::FrameId;
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::record::{ConversationType, Encoding, History, MessageType, Role};
use crate::time::WallMs;

/// A durable event on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub enum EventFrame<'a> {
    /// `new_message`.
    NewMessage {
        /// The message.
        message: MessageView<'a>,
        /// The head when this was sent.
        head_seq: Seq,
    },
    /// `conversation_created`.
    ConversationCreated {
        /// Where.
        conversation: ConversationId,
        /// 1.
        seq: Seq,
        /// The first members, at most [`crate::limits::MEMBER_IDS_MAX`].
        user_ids: Vec<UserId>,
        /// By whom.
        by: UserId,
        /// Its type.
        conversation_type: ConversationType,
        /// Its name.
        group_name: Option<Cow<'a, str>>,
        /// What members added later may see.
        history: History,
        /// When.
        created_at: WallMs,
    },
    /// `conversation_updated`: another name, or another role of a member.
    ConversationUpdated {
        /// Where.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// By whom.
        by: UserId,
        /// The new name, when it is one.
        group_name: Option<Cow<'a, str>>,
        /// Whose role, and which, when it is that. On the wire `user_ids` and `role`.
        role: Option<(UserId, Role)>,
        /// When.
        created_at: WallMs,
    },
    /// `member_added`.
    MemberAdded {
        /// Where.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// Who, at most [`crate::limits::MEMBER_IDS_MAX`].
        user_ids: Vec<UserId>,
        /// By whom.
        by: UserId,
        /// When.
        created_at: WallMs,
    },
    /// `member_removed`.
    MemberRemoved {
        /// Where.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// Who: `user_ids` of one.
        user: UserId,
        /// By whom; the same: they left.
        by: UserId,
        /// The new owner, when the owner left. On the wire `owner_id`.
        owner: Option<UserId>,
        /// When.
        created_at: WallMs,
    },
    /// `message_deleted`.
    MessageDeleted {
        /// Where.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// The deleted message.
        message: MessageId,
        /// Its place.
        target_seq: Seq,
        /// By whom.
        by: UserId,
        /// When.
        created_at: WallMs,
    },
    /// `reaction_added`, `reaction_removed`.
    Reaction {
        /// Which of the two.
        added: bool,
        /// Where.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// The message.
        message: MessageId,
        /// Its place.
        target_seq: Seq,
        /// Whose.
        user: UserId,
        /// Which.
        emoji: Cow<'a, str>,
        /// When.
        created_at: WallMs,
    },
}

impl EventFrame<'_> {
    /// Where in which log.
    #[must_use]
    pub fn position(&self) -> (ConversationId, Seq) {
        match self {
            EventFrame::NewMessage { message, .. } => (message.conversation, message.seq),
            EventFrame::ConversationCreated { conversation, seq, .. }
            | EventFrame::ConversationUpdated { conversation, seq, .. }
            | EventFrame::MemberAdded { conversation, seq, .. }
            | EventFrame::MemberRemoved { conversation, seq, .. }
            | EventFrame::MessageDeleted { conversation, seq, .. }
            | EventFrame::Reaction { conversation, seq, .. } => (*conversation, *seq),
        }
    }
}

/// `sent`, `delivered` or `read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Status {
    /// Durable.
    #[default]
    Sent = 0,
    /// On a device of every recipient.
    Delivered = 1,
    /// Read by every recipient.
    Read = 2,
}

crate::record::names!(Status, Sent = "sent", Delivered = "delivered", Read = "read");

/// A message as a client sees it, in live pushes, `sync_batch` and REST.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageView<'a> {
    /// Its id.
    pub message: MessageId,
    /// Where.
    pub conversation: ConversationId,
    /// Its place.
    pub seq: Seq,
    /// Whose.
    pub sender: UserId,
    /// Its text.
    pub content: Cow<'a, str>,
    /// How to read that.
    pub encoding: Encoding,
    /// Its type.
    pub message_type: MessageType,
    /// Its media.
    pub media_url: Option<Cow<'a, str>>,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
    /// For the sender the minimum over the recipients; recipients always see `sent`.
    pub status: Status,
    /// The id's time.
    pub created_at: WallMs,
    /// Only a tombstone is left of it: no content, no media.
    pub deleted: bool,
    /// In history and `sync_batch`; empty: none.
    pub reactions: Vec<ReactionView<'a>>,
    /// To the sender's own devices only.
    pub client_msg_id: Option<Cow<'a, str>>,
}

/// How often an emoji stands under a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionView<'a> {
    /// Which.
    pub emoji: Cow<'a, str>,
    /// How often.
    pub count: u64,
    /// Whether one of them is the reader's.
    pub mine: bool,
}

/// How a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceView {
    /// Who.
    pub user: UserId,
    /// Connected on any device; on the wire `status`: `online` or `offline`.
    pub online: bool,
    /// When they last went offline, for those who may know.
    pub last_seen_at: Option<WallMs>,
}

/// A message was sent, delivered or read.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryAck<'a> {
    /// Of the `send_message` that this answers.
    pub id: Option<FrameId>,
    /// Which message.
    pub message: MessageId,
    /// How far it got.
    pub status: Status,
    /// Where.
    pub conversation: ConversationId,
    /// Its place: everything of this sender's at or below it got as far.
    pub seq: Seq,
    /// When.
    pub timestamp: WallMs,
    /// As the client gave it.
    pub client_msg_id: Option<Cow<'a, str>>,
    /// The same `client_msg_id` was committed before.
    pub duplicate: bool,
    /// Who received or read it, in small groups.
    pub user: Option<UserId>,
    /// How many did, in large ones: on the wire `delivered_count` or `read_count`, by `status`.
    pub count: Option<u64>,
}

/// Events from a seq on.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncBatch<'a> {
    /// Of the `sync` that this answers; absent on resume.
    pub id: Option<FrameId>,
    /// Where.
    pub conversation: ConversationId,
    /// In seq order.
    pub events: Vec<EventFrame<'a>>,
    /// First seq covered.
    pub from_seq: Seq,
    /// Last seq covered; `from_seq − 1` when empty.
    pub to_seq: Seq,
    /// Last seq there is.
    pub head_seq: Seq,
    /// Whether to ask again from `to_seq + 1`.
    pub has_more: bool,
    /// Watermarks of the members.
    pub receipts: ReceiptsView,
}

/// How far the members of a conversation got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiptsView {
    /// Each of them, in small groups.
    Each(Vec<ReceiptView>),
    /// How many, in large ones: an object of `delivered_count` and `read_count`.
    Counted {
        /// Delivered.
        delivered_count: u64,
        /// Read.
        read_count: u64,
    },
}

/// One member's watermarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptView {
    /// Whose.
    pub user: UserId,
    /// Delivered up to here.
    pub delivered_seq: Seq,
    /// Read up to here.
    pub read_seq: Seq,
}

/// `ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Of the frame that this answers.
    pub id: Option<FrameId>,
    /// Where, for commands on a conversation.
    pub conversation: Option<ConversationId>,
    /// The event, or the watermark. With a conversation it is always said, `null` when there is none.
    pub seq: Option<Seq>,
    /// Whether it was so before.
    pub duplicate: bool,
    /// How the users of `presence_subscribe` are.
    pub presence: Option<Vec<PresenceView>>,
}
