//! What [`Submit`](super::Submit) carries.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{ConversationId, MessageId, UserId};

/// How the log of a conversation changes. Who may do it is decided in the append transaction.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Change {
    /// Any member, in groups.
    AddMembers {
        /// At most [`crate::limits::MEMBER_IDS_MAX`].
        users: Vec<UserId>,
    },
    /// Owner and admins; oneself: leaving. In groups.
    RemoveMember {
        /// Who.
        user: UserId,
    },
    /// Any member, in groups.
    Rename {
        /// At most [`crate::limits::GROUP_NAME_BYTES_MAX`] bytes.
        group_name: String,
    },
    /// The owner, in groups.
    SetRole {
        /// Who.
        user: UserId,
        /// [`crate::record::Role`] as a number: member or admin.
        role: u8,
    },
    /// Its sender.
    Delete {
        /// A message of this conversation.
        message: MessageId,
    },
    /// Any member.
    React {
        /// A message of this conversation that the member may see.
        message: MessageId,
        /// At most [`crate::limits::EMOJI_BYTES_MAX`] bytes.
        emoji: String,
    },
    /// Who reacted.
    Unreact {
        /// A message of this conversation that the member may see.
        message: MessageId,
        /// Which.
        emoji: String,
    },
}

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
    /// Change the log of a conversation otherwise than by a message.
    Change {
        /// Where.
        conversation: ConversationId,
        /// How.
        change: Change,
    },
    /// No notifications of a conversation for this user.
    Mute {
        /// Which.
        conversation: ConversationId,
        /// Until then, Unix milliseconds; `u64::MAX` for ever; 0 not any longer.
        until_ms: u64,
    },
    /// Give the submitting user another name.
    Profile {
        /// Unique.
        username: String,
    },
    /// Where notifications of a device of the submitting user go.
    PushToken {
        /// Which.
        device: String,
        /// [`crate::record::Platform`] as a number, and the token; nowhere when absent.
        token: Option<(u8, String)>,
    },
    /// Refuse the tokens of a device of the submitting user that were issued up to now, and close its connections.
    Revoke {
        /// Which.
        device: String,
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
