//! What a command has to satisfy whatever encoding it came in: the bounds of [`crate::limits`], numbers that are ids,
//! content that may be empty or not. Both decoders end here, so that neither can be laxer than the other. Also the
//! closed sets of names that a peer may send and we keep as `&'static str`.

use std::collections::BTreeSet;

use super::{Command, FrameId, SendMessage};
use crate::ids::{CLIENT_MSG_ID_BYTES_MAX, ConversationId, MessageId, SEQ_MAX, Seq, UserId};
use crate::limits::{
    CONTENT_BYTES_MAX, CURSORS_MAX, EMOJI_BYTES_MAX, FRAME_ID_BYTES_MAX, FRAME_ID_NUMBER_MAX,
    MEDIA_URL_BYTES_MAX, PAGE_EVENTS_MAX, PRESENCE_IDS_MAX, TOKEN_BYTES_MAX,
};
use crate::reason::{Code, Refusal};
use crate::record::Encoding;

/// The refusal of a frame type that there is not.
pub(super) fn unknown_type() -> Refusal {
    Refusal::field("type", "unknown frame type")
}

/// Holds a frame's `id` to its bounds.
pub(super) fn frame_id(id: FrameId) -> Result<FrameId, Refusal> {
    let fits = match &id {
        FrameId::Text(text) => text.len() <= FRAME_ID_BYTES_MAX,
        FrameId::Number(number) => (-FRAME_ID_NUMBER_MAX..=FRAME_ID_NUMBER_MAX).contains(number),
    };
    if fits { Ok(id) } else { Err(wrong_frame_id()) }
}

/// The refusal of an `id` that is neither kind or out of bounds.
pub(super) fn wrong_frame_id() -> Refusal {
    Refusal::field("id", "id must be a string of at most 64 bytes or an integer within ± 2^53")
}

/// The refusal of an id that is not one.
pub(super) fn wrong_id(field: &'static str) -> Refusal {
    Refusal::field(
        field,
        format!("{field} must be a decimal string, 1 to 9223372036854775807, without leading zeros"),
    )
}

/// The refusal of a seq that is not one.
pub(super) fn wrong_seq(field: &'static str) -> Refusal {
    Refusal::field(field, format!("{field} must be an integer of at least 1"))
}

/// The refusal of `cursors`.
pub(super) fn wrong_cursors() -> Refusal {
    Refusal::field(
        "cursors",
        format!(
            "cursors must map at most {CURSORS_MAX} conversation ids to integers of at least 0, each id once"
        ),
    )
}

/// The refusal of `user_ids`.
pub(super) fn wrong_users() -> Refusal {
    Refusal::field("user_ids", format!("user_ids must be an array of 1 to {PRESENCE_IDS_MAX} user ids"))
}

/// The refusal of a `state` that is neither.
pub(super) fn wrong_state() -> Refusal {
    Refusal::field("state", "state must be start or stop")
}

/// Holds a command to its bounds, and brings it into its one form: `limit` clamped, `cursors` ascending, `user_ids`
/// each once.
pub fn command(command: &mut Command<'_>) -> Result<(), Refusal> {
    match command {
        Command::Identify { token, cursors } => {
            if let Some(text) = token {
                self::token(text)?;
            }
            self::cursors(cursors)
        }
        Command::SendMessage(message) => send_message(message),
        Command::Delivered { conversation, seq } | Command::Read { conversation, seq } => {
            self::conversation(*conversation)?;
            self::seq("seq", *seq)
        }
        Command::Sync { conversation, from_seq, limit } => {
            *limit = (*limit).clamp(1, PAGE_EVENTS_MAX);
            self::conversation(*conversation)?;
            seq("from_seq", *from_seq)
        }
        Command::Typing { conversation, .. } => self::conversation(*conversation),
        Command::PresenceSubscribe { users } | Command::PresenceUnsubscribe { users } => self::users(users),
        Command::DeleteMessage { conversation, message, client_msg_id } => {
            self::conversation(*conversation)?;
            self::message(*message)?;
            self::client_msg_id(client_msg_id.as_deref())
        }
        Command::React { conversation, message, emoji, client_msg_id, .. } => {
            self::conversation(*conversation)?;
            self::message(*message)?;
            self::emoji(emoji)?;
            self::client_msg_id(client_msg_id.as_deref())
        }
        Command::RefreshToken { token } => self::token(token),
        Command::Heartbeat | Command::Bye => Ok(()),
    }
}

fn conversation(id: ConversationId) -> Result<(), Refusal> {
    if id.is_valid() { Ok(()) } else { Err(wrong_id("conversation_id")) }
}

fn message(id: MessageId) -> Result<(), Refusal> {
    if id.is_valid() { Ok(()) } else { Err(wrong_id("message_id")) }
}

/// The bound is on what was sent; of an id that is there twice the first counts.
fn users(users: &mut Vec<UserId>) -> Result<(), Refusal> {
    if !(1..=PRESENCE_IDS_MAX).contains(&users.len()) || !users.iter().all(|user| user.is_valid()) {
        return Err(wrong_users());
    }
    let mut seen = BTreeSet::new();
    users.retain(|user| seen.insert(*user));
    Ok(())
}

fn emoji(emoji: &str) -> Result<(), Refusal> {
    if (1..=EMOJI_BYTES_MAX).contains(&emoji.len()) && !emoji.contains(char::is_control) {
        return Ok(());
    }
    let message = format!("emoji must be 1 to {EMOJI_BYTES_MAX} bytes without control characters");
    Err(Refusal::field("emoji", message))
}

fn client_msg_id(client_msg_id: Option<&str>) -> Result<(), Refusal> {
    match client_msg_id {
        Some(text) if !(1..=CLIENT_MSG_ID_BYTES_MAX).contains(&text.len()) => {
            Err(Refusal::field("client_msg_id", "client_msg_id must be 1 to 64 bytes"))
        }
        _ => Ok(()),
    }
}

fn seq(field: &'static str, seq: Seq) -> Result<(), Refusal> {
    if (1..=SEQ_MAX).contains(&seq) { Ok(()) } else { Err(wrong_seq(field)) }
}

fn token(token: &str) -> Result<(), Refusal> {
    bytes("token", token, TOKEN_BYTES_MAX)
}

fn cursors(cursors: &mut [(ConversationId, Seq)]) -> Result<(), Refusal> {
    if cursors.len() > CURSORS_MAX {
        return Err(wrong_cursors());
    }
    cursors.sort_unstable();
    let valid = cursors.iter().all(|(conversation, seq)| conversation.is_valid() && *seq <= SEQ_MAX);
    let repeated = cursors.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
    if valid && !repeated { Ok(()) } else { Err(wrong_cursors()) }
}

fn send_message(message: &SendMessage<'_>) -> Result<(), Refusal> {
    conversation(message.conversation)?;
    bytes("content", &message.content, CONTENT_BYTES_MAX)?;
    if message.content.is_empty() && message.media_url.is_none() {
        return Err(Refusal::field("content", "content may be empty only with media_url"));
    }
    if message.encoding == Encoding::Opaque && !is_base64(message.content.as_bytes()) {
        return Err(Refusal::field(
            "content",
            "opaque content must be base64: standard alphabet, with padding",
        ));
    }
    if let Some(media_url) = &message.media_url {
        bytes("media_url", media_url, MEDIA_URL_BYTES_MAX)?;
        if media_url.is_empty() {
            return Err(Refusal::field("media_url", "leave media_url out when there is none"));
        }
    }
    client_msg_id(message.client_msg_id.as_deref())?;
    match message.reply_to {
        Some(id) if !id.is_valid() => Err(wrong_id("reply_to")),
        _ => Ok(()),
    }
}

fn bytes(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let message = format!("{field} must be at most {bytes_max} bytes");
    Err(Refusal { code: Code::TooLarge, ..Refusal::field(field, message) })
}

/// RFC 4648 section 4, with padding: whole groups of four, `=` only as the last one or two characters. The bits that
/// padding leaves over are not looked at: the content is passed through, never decoded (E1).
fn is_base64(text: &[u8]) -> bool {
    let data = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    text.len().is_multiple_of(4)
        && data.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// The fields that a refusal may name, over all transports.
const FIELDS: [&str; 37] = [
    "ack",
    "after_seq",
    "before_seq",
    "client_msg_id",
    "content",
    "conversation_id",
    "cursor",
    "cursors",
    "device_id",
    "emoji",
    "encoding",
    "frames",
    "from_seq",
    "group_name",
    "history",
    "id",
    "last_event_id",
    "limit",
    "media_url",
    "member_ids",
    "message_id",
    "message_type",
    "platform",
    "reply_to",
    "role",
    "scope",
    "seq",
    "state",
    "ticket",
    "timeout_ms",
    "token",
    "type",
    "until",
    "user_id",
    "user_ids",
    "username",
    "version",
];

/// The reasons that `reset` and `reconnect` give.
const REASONS: [&str; 5] = ["cursor_ahead", "drain", "membership", "retention", "too_far_behind"];

/// The one copy of a field's name: turns the name in a [`Refused`](crate::frame::Refused) or an `error` frame back
/// into [`Refusal::field`]. `None` for a name from another version.
#[must_use]
pub fn field_name(name: &str) -> Option<&'static str> {
    FIELDS.iter().find(|known| **known == name).copied()
}

/// The one copy of a reason of `reset` or `reconnect`; `other` for one from another version.
#[must_use]
pub fn reason_name(name: &str) -> &'static str {
    REASONS.iter().find(|known| **known == name).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_whole_groups_and_padding_at_the_end() {
        for right in ["", "QQ==", "QUI=", "QUJD", "+/+/", "QUJDRA=="] {
            assert!(is_base64(right.as_bytes()), "{right}");
        }
        for wrong in
            ["Q", "QQ", "QQ=", "QQ===", "====", "Q===", "QQ==QQ==", "-_-_", "QUJ\n", "QU J", "=QQQ", "ü=="]
        {
            assert!(!is_base64(wrong.as_bytes()), "{wrong}");
        }
    }
}
