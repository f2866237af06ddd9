//! The durable events of a conversation's log, and the message that the first of them carries.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::client::{EventFrame, MessageView, ReactionView, Status, Unreadable};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::record::{ConversationType, Encoding, History, MessageType, Role};
use crate::time::WallMs;

/// A durable event with its `type`, as it is pushed and as it stands in `sync_batch`.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Event<'a> {
    /// `new_message`.
    NewMessage(NewMessage<'a>),
    /// `conversation_created`.
    ConversationCreated(ConversationCreated<'a>),
    /// `conversation_updated`.
    ConversationUpdated(ConversationUpdated<'a>),
    /// `member_added`.
    MemberAdded(MemberAdded<'a>),
    /// `member_removed`.
    MemberRemoved(MemberRemoved<'a>),
    /// `message_deleted`.
    MessageDeleted(MessageDeleted),
    /// `reaction_added`, `reaction_removed`.
    Reaction(Reaction<'a>),
}

impl<'a> From<&'a EventFrame<'_>> for Event<'a> {
    fn from(event: &'a EventFrame<'_>) -> Event<'a> {
        match event {
            EventFrame::NewMessage { message, head_seq } => {
                Event::NewMessage(NewMessage { message: message.into(), head_seq: *head_seq })
            }
            EventFrame::ConversationCreated {
                conversation,
                seq,
                user_ids,
                by,
                conversation_type,
                group_name,
                history,
                created_at,
            } => Event::ConversationCreated(ConversationCreated {
                conversation_id: *conversation,
                seq: *seq,
                user_ids: Cow::Borrowed(user_ids),
                by: *by,
                conversation_type: *conversation_type,
                group_name: group_name.as_deref().map(Cow::Borrowed),
                history: *history,
                created_at: *created_at,
            }),
            EventFrame::ConversationUpdated { conversation, seq, by, group_name, role, created_at } => {
                Event::ConversationUpdated(ConversationUpdated {
                    conversation_id: *conversation,
                    seq: *seq,
                    user_ids: role.as_ref().map(|(user, _)| Cow::Borrowed(std::slice::from_ref(user))),
                    role: role.map(|(_, role)| role),
                    group_name: group_name.as_deref().map(Cow::Borrowed),
                    by: *by,
                    created_at: *created_at,
                })
            }
            EventFrame::MemberAdded { conversation, seq, user_ids, by, created_at } => {
                Event::MemberAdded(MemberAdded {
                    conversation_id: *conversation,
                    seq: *seq,
                    user_ids: Cow::Borrowed(user_ids),
                    by: *by,
                    created_at: *created_at,
                })
            }
            EventFrame::MemberRemoved { conversation, seq, user, by, owner, created_at } => {
                Event::MemberRemoved(MemberRemoved {
                    conversation_id: *conversation,
                    seq: *seq,
                    user_ids: Cow::Borrowed(std::slice::from_ref(user)),
                    by: *by,
                    owner_id: *owner,
                    created_at: *created_at,
                })
            }
            EventFrame::MessageDeleted { conversation, seq, message, target_seq, by, created_at } => {
                Event::MessageDeleted(MessageDeleted {
                    conversation_id: *conversation,
                    seq: *seq,
                    message_id: *message,
                    target_seq: *target_seq,
                    by: *by,
                    created_at: *created_at,
                })
            }
            EventFrame::Reaction {
                added,
                conversation,
                seq,
                message,
                target_seq,
                user,
                emoji,
                created_at,
            } => Event::Reaction(Reaction {
                r#type: if *added { ReactionType::Added } else { ReactionType::Removed },
                conversation_id: *conversation,
                seq: *seq,
                message_id: *message,
                target_seq: *target_seq,
                user_id: *user,
                emoji: Cow::Borrowed(emoji),
                created_at: *created_at,
            }),
        }
    }
}

/// A message, at its place in the log.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "new_message")]
pub struct NewMessage<'a> {
    #[serde(borrow)]
    message: Message<'a>,
    /// The last seq of the conversation's log.
    head_seq: Seq,
}

impl<'a> From<NewMessage<'a>> for EventFrame<'a> {
    fn from(event: NewMessage<'a>) -> EventFrame<'a> {
        EventFrame::NewMessage { message: event.message.into(), head_seq: event.head_seq }
    }
}

/// The first event of every conversation.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "conversation_created")]
pub struct ConversationCreated<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    user_ids: Cow<'a, [UserId]>,
    /// Who did it.
    by: UserId,
    conversation_type: ConversationType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_name: Option<Cow<'a, str>>,
    /// What members added later may see.
    history: History,
    created_at: WallMs,
}

impl<'a> From<ConversationCreated<'a>> for EventFrame<'a> {
    fn from(event: ConversationCreated<'a>) -> EventFrame<'a> {
        EventFrame::ConversationCreated {
            conversation: event.conversation_id,
            seq: event.seq,
            user_ids: event.user_ids.into_owned(),
            by: event.by,
            conversation_type: event.conversation_type,
            group_name: event.group_name,
            history: event.history,
            created_at: event.created_at,
        }
    }
}

/// A new `group_name`, or a new `role` of the one user in `user_ids`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "conversation_updated")]
pub struct ConversationUpdated<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_ids: Option<Cow<'a, [UserId]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_name: Option<Cow<'a, str>>,
    /// Who did it.
    by: UserId,
    created_at: WallMs,
}

impl<'a> From<ConversationUpdated<'a>> for EventFrame<'a> {
    fn from(event: ConversationUpdated<'a>) -> EventFrame<'a> {
        let user = event.user_ids.as_deref().and_then(<[UserId]>::first).copied();
        EventFrame::ConversationUpdated {
            conversation: event.conversation_id,
            seq: event.seq,
            by: event.by,
            group_name: event.group_name,
            role: user.zip(event.role),
            created_at: event.created_at,
        }
    }
}

/// These users are members now.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "member_added")]
pub struct MemberAdded<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    user_ids: Cow<'a, [UserId]>,
    /// Who did it.
    by: UserId,
    created_at: WallMs,
}

impl<'a> From<MemberAdded<'a>> for EventFrame<'a> {
    fn from(event: MemberAdded<'a>) -> EventFrame<'a> {
        EventFrame::MemberAdded {
            conversation: event.conversation_id,
            seq: event.seq,
            user_ids: event.user_ids.into_owned(),
            by: event.by,
            created_at: event.created_at,
        }
    }
}

/// The one user in `user_ids` left, or was removed.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "member_removed")]
pub struct MemberRemoved<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    user_ids: Cow<'a, [UserId]>,
    /// Who did it.
    by: UserId,
    /// Who is the owner now, when the owner left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner_id: Option<UserId>,
    created_at: WallMs,
}

impl<'a> TryFrom<MemberRemoved<'_>> for EventFrame<'a> {
    type Error = Unreadable;

    fn try_from(event: MemberRemoved<'_>) -> Result<EventFrame<'a>, Unreadable> {
        let user = event.user_ids.first().copied();
        Ok(EventFrame::MemberRemoved {
            conversation: event.conversation_id,
            seq: event.seq,
            user: user.ok_or_else(|| Unreadable::Invalid("member_removed names nobody".into()))?,
            by: event.by,
            owner: event.owner_id,
            created_at: event.created_at,
        })
    }
}

/// A message was deleted for everyone; its place stays.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename = "message_deleted")]
pub struct MessageDeleted {
    conversation_id: ConversationId,
    seq: Seq,
    message_id: MessageId,
    /// Where that message stands.
    target_seq: Seq,
    /// Who did it.
    by: UserId,
    created_at: WallMs,
}

impl From<MessageDeleted> for EventFrame<'_> {
    fn from(event: MessageDeleted) -> Self {
        EventFrame::MessageDeleted {
            conversation: event.conversation_id,
            seq: event.seq,
            message: event.message_id,
            target_seq: event.target_seq,
            by: event.by,
            created_at: event.created_at,
        }
    }
}

/// Which of the two.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ReactionType {
    /// `reaction_added`.
    #[serde(rename = "reaction_added")]
    Added,
    /// `reaction_removed`.
    #[serde(rename = "reaction_removed")]
    Removed,
}

/// Somebody put an emoji under a message, or took it back.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reaction<'a> {
    r#type: ReactionType,
    conversation_id: ConversationId,
    seq: Seq,
    message_id: MessageId,
    /// Where that message stands.
    target_seq: Seq,
    user_id: UserId,
    #[serde(borrow)]
    emoji: Cow<'a, str>,
    created_at: WallMs,
}

impl<'a> From<Reaction<'a>> for EventFrame<'a> {
    fn from(event: Reaction<'a>) -> EventFrame<'a> {
        EventFrame::Reaction {
            added: matches!(event.r#type, ReactionType::Added),
            conversation: event.conversation_id,
            seq: event.seq,
            message: event.message_id,
            target_seq: event.target_seq,
            user: event.user_id,
            emoji: event.emoji,
            created_at: event.created_at,
        }
    }
}

/// A message, as it stands in `new_message`, in `last_message` and in the pages of REST.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Message<'a> {
    message_id: MessageId,
    conversation_id: ConversationId,
    seq: Seq,
    sender_id: UserId,
    #[serde(borrow)]
    content: Cow<'a, str>,
    /// `opaque`: base64 that the server passes through.
    encoding: Encoding,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_url: Option<Cow<'a, str>>,
    message_type: MessageType,
    /// To the sender the minimum over the recipients; to recipients always `sent`.
    status: Status,
    created_at: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<MessageId>,
    /// Only a tombstone is left: no content, no media.
    #[serde(default, skip_serializing_if = "is_false")]
    deleted: bool,
    /// In history and `sync_batch`; absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<ReactionCount<'a>>,
    /// To the sender's own devices only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<Cow<'a, str>>,
}

impl<'a> From<&'a MessageView<'_>> for Message<'a> {
    fn from(view: &'a MessageView<'_>) -> Message<'a> {
        Message {
            message_id: view.message,
            conversation_id: view.conversation,
            seq: view.seq,
            sender_id: view.sender,
            content: Cow::Borrowed(&view.content),
            encoding: view.encoding,
            media_url: view.media_url.as_deref().map(Cow::Borrowed),
            message_type: view.message_type,
            status: view.status,
            created_at: view.created_at,
            reply_to: view.reply_to,
            deleted: view.deleted,
            reactions: view.reactions.iter().map(ReactionCount::from).collect(),
            client_msg_id: view.client_msg_id.as_deref().map(Cow::Borrowed),
        }
    }
}

impl<'a> From<Message<'a>> for MessageView<'a> {
    fn from(message: Message<'a>) -> MessageView<'a> {
        MessageView {
            message: message.message_id,
            conversation: message.conversation_id,
            seq: message.seq,
            sender: message.sender_id,
            content: message.content,
            encoding: message.encoding,
            message_type: message.message_type,
            media_url: message.media_url,
            reply_to: message.reply_to,
            status: message.status,
            created_at: message.created_at,
            deleted: message.deleted,
            reactions: message.reactions.into_iter().map(ReactionView::from).collect(),
            client_msg_id: message.client_msg_id,
        }
    }
}

/// How often an emoji stands under a message.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReactionCount<'a> {
    emoji: Cow<'a, str>,
    /// How many users.
    count: u64,
    /// Whether one of them is the reader's.
    mine: bool,
}

impl<'a> From<&'a ReactionView<'_>> for ReactionCount<'a> {
    fn from(view: &'a ReactionView<'_>) -> ReactionCount<'a> {
        ReactionCount { emoji: Cow::Borrowed(&view.emoji), count: view.count, mine: view.mine }
    }
}

impl<'a> From<ReactionCount<'a>> for ReactionView<'a> {
    fn from(reaction: ReactionCount<'a>) -> ReactionView<'a> {
        ReactionView { emoji: reaction.emoji, count: reaction.count, mine: reaction.mine }
    }
}
