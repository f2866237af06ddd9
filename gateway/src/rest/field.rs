//! Fields of bodies and parameters of queries, as the table of routes describes them. A test sends what is described
//! here to the handlers, and everything but.

use carillon_protocol::ids::ID_MAX;
use carillon_protocol::limits::PAGE_EVENTS_DEFAULT;
use serde_json::{Value, json};

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Whether it has to be there.
    pub is_required: bool,
    /// What it is for.
    pub what: &'static str,
}

/// What a field may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A decimal string.
    Id,
    /// At most so many ids of users, one at least.
    Users(usize),
    /// A place in the log.
    Seq,
    /// A place in the log, or before its first.
    SeqOrZero,
    /// Any number, clamped.
    Limit,
    /// Text that the server gave.
    Cursor,
    /// Text of at least and at most so many bytes.
    Text(usize, usize),
    /// One of these.
    Name(&'static [&'static str]),
    /// A time, in Unix milliseconds.
    Millis,
    /// Client frames.
    Frames,
}

impl Field {
    pub(super) const fn required(name: &'static str, kind: Kind, what: &'static str) -> Field {
        Field { name, kind, is_required: true, what }
    }

    pub(super) const fn optional(name: &'static str, kind: Kind, what: &'static str) -> Field {
        Field { name, kind, is_required: false, what }
    }
}

impl Kind {
    /// As JSON Schema. Lengths are of bytes, while JSON Schema counts characters: of those there are never more.
    pub(super) fn schema(self) -> Value {
        let id = || json!({ "type": "string", "pattern": "^[1-9][0-9]{0,18}$" });
        match self {
            Kind::Id => id(),
            Kind::Users(count_max) => {
                json!({ "type": "array", "items": id(), "minItems": 1, "maxItems": count_max })
            }
            Kind::Seq => json!({ "type": "integer", "minimum": 1, "maximum": ID_MAX }),
            Kind::SeqOrZero => json!({ "type": "integer", "minimum": 0, "maximum": ID_MAX }),
            Kind::Limit => json!({ "type": "number", "default": PAGE_EVENTS_DEFAULT }),
            Kind::Cursor => json!({ "type": "string" }),
            Kind::Text(bytes_min, bytes_max) => {
                json!({ "type": "string", "minLength": bytes_min, "maxLength": bytes_max })
            }
            Kind::Name(names) => json!({ "type": "string", "enum": names }),
            Kind::Millis => json!({ "type": "integer", "minimum": 1 }),
            Kind::Frames => json!({ "type": "array", "items": { "type": "object" } }),
        }
    }
}
