//! What [`Submit`](super::Submit) carries.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{ConversationId, MessageId, UserId};

/// What a [`Submit`](super::Submit) wants done.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Command {
    /// Append a message.
    Send {
        /// Where.
        conversation: ConversationId,
        /// [`crate::record::MessageType`] as a number.
        message_type: u8,
        /// [`crate::record::Encoding`] as a number.
        encoding: u8,
        /// At most [`crate::limits::CONTENT_BYTES_MAX`] bytes.
        content: String,
        /// At most [`crate::limits::MEDIA_URL_BYTES_MAX`] bytes.
        media_url: Option<String>,
        /// A message of the same conversation that the sender may see.
        reply_to: Option<MessageId>,
    },
    /// Create a conversation: the pair's one, or a new group.
    Create {
        /// [`crate::record::ConversationType`] as a number.
        conversation_type: u8,
        /// [`crate::record::History`] as a number.
        history: u8,
        /// For groups.
        group_name: Option<String>,
        /// At most [`crate::limits::MEMBER_IDS_MAX`]; the creator is a member without being named.
        members: Vec<UserId>,
    },
    /// Create a user, by an administrator.
    CreateUser {
        /// The user; a free number when absent.
        user: Option<UserId>,
        /// Unique.
        username: String,
    },
    /// Make the submitting user known at their first request on REST; nothing for one who is. `Register` does the same
    /// for sessions.
    Provision {
        /// The name they would like, from the token; empty when it has none.
        name: String,
    },
}
