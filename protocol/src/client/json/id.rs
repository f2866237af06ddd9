//! A frame's `id`: the one value of the protocol that is a string or a number.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::client::FrameId;

/// The `id` of the frame that an answer belongs to.
#[derive(Clone, Debug)]
pub(in crate::client) enum Id<'a> {
    Text(Cow<'a, str>),
    Number(i64),
}

impl<'a> From<&'a FrameId> for Id<'a> {
    fn from(id: &'a FrameId) -> Id<'a> {
        match id {
            FrameId::Text(text) => Id::Text(Cow::Borrowed(text)),
            FrameId::Number(number) => Id::Number(*number),
        }
    }
}

impl From<Id<'_>> for FrameId {
    fn from(id: Id<'_>) -> FrameId {
        match id {
            Id::Text(text) => FrameId::Text(text.into()),
            Id::Number(number) => FrameId::Number(number),
        }
    }
}

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Id::Text(text) => serializer.serialize_str(text),
            Id::Number(number) => serializer.serialize_i64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Id<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor).map(|id| match id {
            FrameId::Text(text) => Id::Text(Cow::Owned(text.into_string())),
            FrameId::Number(number) => Id::Number(number),
        })
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = FrameId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an integer")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<FrameId, E> {
        Ok(FrameId::Text(text.into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<FrameId, E> {
        Ok(FrameId::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<FrameId, E> {
        i64::try_from(number).map(FrameId::Number).map_err(E::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Id<'_> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FrameId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "The client's own name for a frame, echoed in the answer: a string of at most 64 bytes, or an \
                integer.",
            "anyOf": [
                { "type": "string", "maxLength": crate::limits::FRAME_ID_BYTES_MAX },
                {
                    "type": "integer",
                    "minimum": -crate::limits::FRAME_ID_NUMBER_MAX,
                    "maximum": crate::limits::FRAME_ID_NUMBER_MAX,
                },
            ],
        })
    }
}
