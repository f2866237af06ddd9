//! What clients say, as a table: the fields of each command by the decoder's own names, which of them are required, and
//! what they may hold. A test sends what the table describes through the decoder, and everything but.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::{generator, object_of};
use crate::client::json::{Field, Id};
use crate::ids::{CLIENT_MSG_ID_BYTES_MAX, SEQ_MAX, UserId};
use crate::limits::{
    CONTENT_BYTES_MAX, CURSORS_MAX, EMOJI_BYTES_MAX, MEDIA_URL_BYTES_MAX, PAGE_EVENTS_MAX, PRESENCE_IDS_MAX,
    TOKEN_BYTES_MAX,
};
use crate::record::{Encoding, MessageType};

/// What a field may hold.
#[derive(Clone, Copy)]
enum Holds {
    /// A decimal string.
    Id,
    /// Text of at least and at most so many bytes.
    Text(usize, usize),
    /// One of these.
    Name(&'static [&'static str]),
    /// A place in the log.
    Seq,
    /// Any number, clamped.
    Limit,
    /// Ids of users.
    Users,
    /// Seqs by conversation.
    Cursors,
}

/// One field of a command: its name, whether it is required, what it holds, and what for.
struct Row(Field, bool, Holds, &'static str);

const REQUIRED: bool = true;
const OPTIONAL: bool = false;

const CONVERSATION: Row = Row(Field::ConversationId, REQUIRED, Holds::Id, "Where.");
const MESSAGE: Row = Row(Field::MessageId, REQUIRED, Holds::Id, "Which message of the conversation.");
const CLIENT_MSG_ID: Row = Row(
    Field::ClientMsgId,
    OPTIONAL,
    Holds::Text(1, CLIENT_MSG_ID_BYTES_MAX),
    "The client's own name for it, unique per sender and conversation: a retry with the same one takes effect once.",
);
const EMOJI: Row =
    Row(Field::Emoji, REQUIRED, Holds::Text(1, EMOJI_BYTES_MAX), "Which; no control characters.");
const UP_TO: Row = Row(Field::Seq, REQUIRED, Holds::Seq, "Up to here, cumulative.");
const USERS: Row = Row(Field::UserIds, REQUIRED, Holds::Users, "Whom.");

/// Every command: its `type`, what it is for, and its fields beside `type` and `id`.
const COMMANDS: &[(&str, &str, &[Row])] = &[
    (
        "identify",
        "The first frame of a connection.",
        &[
            Row(
                Field::Token,
                OPTIONAL,
                Holds::Text(0, TOKEN_BYTES_MAX),
                "A JWT, unless it came with the upgrade.",
            ),
            Row(
                Field::Cursors,
                OPTIONAL,
                Holds::Cursors,
                "What the client holds, by conversation; overrides the stored cursors for this connection.",
            ),
        ],
    ),
    (
        "send_message",
        "Send a message. Answered by delivery_ack with status sent, once it is durable.",
        &[
            CONVERSATION,
            Row(
                Field::Content,
                REQUIRED,
                Holds::Text(0, CONTENT_BYTES_MAX),
                "The text; empty only with media_url; base64 when opaque.",
            ),
            Row(
                Field::MessageType,
                OPTIONAL,
                Holds::Name(&[
                    MessageType::Text.name(),
                    MessageType::Image.name(),
                    MessageType::Video.name(),
                    MessageType::File.name(),
                ]),
                "text when absent.",
            ),
            Row(Field::MediaUrl, OPTIONAL, Holds::Text(1, MEDIA_URL_BYTES_MAX), "Where the media lie."),
            CLIENT_MSG_ID,
            Row(Field::ReplyTo, OPTIONAL, Holds::Id, "A message of the same conversation."),
            Row(
                Field::Encoding,
                OPTIONAL,
                Holds::Name(&[Encoding::Utf8.name(), Encoding::Opaque.name()]),
                "utf8 when absent; opaque content is passed through unread.",
            ),
        ],
    ),
    ("delivered", "Everything up to seq arrived on this device.", &[CONVERSATION, UP_TO]),
    ("read", "Everything up to seq was read; implies delivered.", &[CONVERSATION, UP_TO]),
    (
        "typing",
        "The user types, or stopped. Never stored.",
        &[CONVERSATION, Row(Field::State, REQUIRED, Holds::Name(&["start", "stop"]), "Which of the two.")],
    ),
    ("presence_subscribe", "Tell when these users come and go. Answered by ok with presence.", &[USERS]),
    ("presence_unsubscribe", "No longer.", &[USERS]),
    (
        "delete_message",
        "Delete a message of one's own for everyone. Answered by ok with the event's seq.",
        &[CONVERSATION, MESSAGE, CLIENT_MSG_ID],
    ),
    (
        "react",
        "Put an emoji under a message. Answered by ok with the event's seq.",
        &[CONVERSATION, MESSAGE, EMOJI, CLIENT_MSG_ID],
    ),
    (
        "unreact",
        "Take it back. Answered by ok with the event's seq.",
        &[CONVERSATION, MESSAGE, EMOJI, CLIENT_MSG_ID],
    ),
    (
        "sync",
        "Events from a seq on. Answered by sync_batch, or reset.",
        &[
            CONVERSATION,
            Row(Field::FromSeq, REQUIRED, Holds::Seq, "The first one wanted."),
            Row(
                Field::Limit,
                OPTIONAL,
                Holds::Limit,
                "How many at most; clamped to 1 to 200, 200 when absent.",
            ),
        ],
    ),
    (
        "refresh_token",
        "A new token for the live connection. Answered by ok.",
        &[Row(Field::Token, REQUIRED, Holds::Text(0, TOKEN_BYTES_MAX), "The JWT.")],
    ),
    ("heartbeat", "Still there. Answered by heartbeat_ack.", &[]),
    ("bye", "Going. The server closes with 1000.", &[]),
];

/// The `type` and the schema of each command.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    COMMANDS.iter().map(|(name, what, rows)| (*name, schema(name, what, rows))).collect()
}

fn schema(name: &str, what: &str, rows: &[Row]) -> Value {
    let mut properties = Map::new();
    properties.insert(Field::Type.name().into(), json!({ "type": "string", "const": name }));
    properties.insert(Field::Id.name().into(), in_full::<Id<'static>>());
    let mut required = vec![json!(Field::Type.name())];
    for Row(field, is_required, holds, what) in rows {
        let mut property = holds.schema();
        if let Value::Object(property) = &mut property {
            property.insert("description".into(), json!(what));
        }
        properties.insert(field.name().into(), property);
        if *is_required {
            required.push(json!(field.name()));
        }
    }
    json!({ "type": "object", "description": what, "properties": properties, "required": required })
}

/// A shape that refers to no other.
fn in_full<T: JsonSchema>() -> Value {
    object_of::<T>(&mut generator())
}

impl Holds {
    /// Lengths are of bytes; JSON Schema counts characters, of which there are never more.
    fn schema(self) -> Value {
        let id = in_full::<UserId>();
        match self {
            Holds::Id => id,
            Holds::Text(bytes_min, bytes_max) => {
                json!({ "type": "string", "minLength": bytes_min, "maxLength": bytes_max })
            }
            Holds::Name(names) => json!({ "type": "string", "enum": names }),
            Holds::Seq => json!({ "type": "integer", "minimum": 1, "maximum": SEQ_MAX }),
            Holds::Limit => json!({ "type": "number", "default": PAGE_EVENTS_MAX }),
            Holds::Users => {
                json!({ "type": "array", "items": id, "minItems": 1, "maxItems": PRESENCE_IDS_MAX })
            }
            Holds::Cursors => json!({
                "type": "object",
                "propertyNames": id,
                "additionalProperties": { "type": "integer", "minimum": 0, "maximum": SEQ_MAX },
                "maxProperties": CURSORS_MAX,
            }),
        }
    }
}
