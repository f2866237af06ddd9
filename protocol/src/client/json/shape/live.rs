//! Watermarks, presence and typing: what is told of the members beside the log.

use serde::{Deserialize, Serialize};

use crate::client::{PresenceView, ReceiptView, ReceiptsView};
use crate::ids::{ConversationId, Seq, UserId};
use crate::time::WallMs;

/// How far the members of a conversation got, in `sync_batch` and on REST.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Receipts {
    /// Each of them, in small groups.
    Each(Vec<Receipt>),
    /// How many, in large ones.
    Counted {
        /// Delivered.
        delivered_count: u64,
        /// Read.
        read_count: u64,
    },
}

impl From<&ReceiptsView> for Receipts {
    fn from(view: &ReceiptsView) -> Receipts {
        match view {
            ReceiptsView::Each(receipts) => Receipts::Each(receipts.iter().map(Receipt::from).collect()),
            ReceiptsView::Counted { delivered_count, read_count } => {
                Receipts::Counted { delivered_count: *delivered_count, read_count: *read_count }
            }
        }
    }
}

impl From<Receipts> for ReceiptsView {
    fn from(receipts: Receipts) -> ReceiptsView {
        match receipts {
            Receipts::Each(receipts) => {
                ReceiptsView::Each(receipts.into_iter().map(ReceiptView::from).collect())
            }
            Receipts::Counted { delivered_count, read_count } => {
                ReceiptsView::Counted { delivered_count, read_count }
            }
        }
    }
}

/// One member's watermarks, in `sync_batch` and on REST.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Receipt {
    user_id: UserId,
    /// Delivered up to here.
    delivered_seq: Seq,
    /// Read up to here.
    read_seq: Seq,
}

impl From<&ReceiptView> for Receipt {
    fn from(view: &ReceiptView) -> Receipt {
        Receipt { user_id: view.user, delivered_seq: view.delivered_seq, read_seq: view.read_seq }
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> ReceiptView {
        ReceiptView {
            user: receipt.user_id,
            delivered_seq: receipt.delivered_seq,
            read_seq: receipt.read_seq,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(in crate::client) enum TypingState {
    Start,
    Stop,
}

/// A member types, or stopped; forget it after six seconds.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "typing")]
pub(in crate::client) struct Typing {
    pub(in crate::client) conversation_id: ConversationId,
    pub(in crate::client) user_id: UserId,
    pub(in crate::client) state: TypingState,
}

/// Whether a user is there.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PresenceStatus {
    /// On one device at least.
    Online,
    /// On none.
    Offline,
}

/// How a user is, in the `ok` of `presence_subscribe`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Presence {
    user_id: UserId,
    status: PresenceStatus,
    /// When they last went offline, for those who may know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<WallMs>,
}

impl From<&PresenceView> for Presence {
    fn from(view: &PresenceView) -> Presence {
        Presence {
            user_id: view.user,
            status: if view.online { PresenceStatus::Online } else { PresenceStatus::Offline },
            last_seen_at: view.last_seen_at,
        }
    }
}

impl From<Presence> for PresenceView {
    fn from(presence: Presence) -> PresenceView {
        PresenceView {
            user: presence.user_id,
            online: matches!(presence.status, PresenceStatus::Online),
            last_seen_at: presence.last_seen_at,
        }
    }
}

/// The fields of [`Presence`], with a `type`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "presence")]
pub(in crate::client) struct PresenceFrame {
    user_id: UserId,
    status: PresenceStatus,
    /// When they last went offline, for those who may know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<WallMs>,
}

impl From<&PresenceView> for PresenceFrame {
    fn from(view: &PresenceView) -> PresenceFrame {
        let Presence { user_id, status, last_seen_at } = view.into();
        PresenceFrame { user_id, status, last_seen_at }
    }
}

impl From<PresenceFrame> for PresenceView {
    fn from(frame: PresenceFrame) -> PresenceView {
        let PresenceFrame { user_id, status, last_seen_at } = frame;
        Presence { user_id, status, last_seen_at }.into()
    }
}

/// The user read on another device.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "read_sync")]
pub(in crate::client) struct ReadSync {
    pub(in crate::client) conversation_id: ConversationId,
    /// Read up to here.
    pub(in crate::client) read_seq: Seq,
    /// Others' messages above `read_seq`.
    pub(in crate::client) unread_count: u64,
}
