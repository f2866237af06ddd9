//! What [`Submit`](super::Submit) and [`Find`](super::Find) carry: the only link types that are one of several.
//! Their resolvers stay private to this module.

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
}

/// What a [`Find`](super::Find) looks for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Wanted {
    /// The user's conversations, latest activity first.
    Conversations {
        /// Only those whose (last id, conversation) is below this; (`u64::MAX`, `u64::MAX`) for the first page.
        below: (u64, u64),
        /// At most [`crate::limits::PAGE_EVENTS_MAX`].
        limit: u32,
    },
    /// One conversation of the user's.
    Conversation(ConversationId),
    /// A user by id.
    User(UserId),
    /// A user by name.
    Username(String),
}
