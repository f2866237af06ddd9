//! The fields of a client's frame, cut apart in one pass and not yet looked into: which of them matter, and as what, is
//! for the `type` to say. Unknown fields are skipped; a field that is given twice is remembered, known or not, at whatever
//! depth: two readers may choose differently between two of a name.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;
use crate::reason::{Code, Refusal};

mod flat;

macro_rules! fields {
    ($($field:ident = $name:literal),+ $(,)?) => {
        /// A field that some frame type has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::client) enum Field { $($field),+ }

        impl Field {
            const COUNT: usize = [$(Field::$field),+].len();

            /// Its name on the wire.
            pub(in crate::client) const fn name(self) -> &'static str {
                match self { $(Field::$field => $name),+ }
            }

            fn from_name(name: &str) -> Option<Field> {
                match name { $($name => Some(Field::$field),)+ _ => None }
            }
        }
    };
}
fields! {
    Type = "type",
    Id = "id",
    ConversationId = "conversation_id",
    Content = "content",
    ClientMsgId = "client_msg_id",
    MessageType = "message_type",
    Encoding = "encoding",
    MediaUrl = "media_url",
    ReplyTo = "reply_to",
    Seq = "seq",
    FromSeq = "from_seq",
    Limit = "limit",
    Token = "token",
    Cursors = "cursors",
    State = "state",
    UserIds = "user_ids",
    MessageId = "message_id",
    Emoji = "emoji",
}

/// The fields of one frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    raw: [Option<&'a str>; Field::COUNT],
    /// A field was given twice: which one, when it is a known one.
    repeated: Option<Option<Field>>,
}

impl<'a> Fields<'a> {
    /// Cuts a frame apart.
    pub(super) fn split(text: &'a str) -> Result<Fields<'a>, Refusal> {
        flat::split(text).map_or_else(|| Fields::split_any(text), Ok)
    }

    /// The same for any text, whatever is in it.
    fn split_any(text: &'a str) -> Result<Fields<'a>, Refusal> {
        if is_too_deep(text.as_bytes()) {
            return Err(Refusal::new(
                Code::BadRequest,
                format!("the frame must not be nested deeper than {JSON_DEPTH_MAX}"),
            ));
        }
        serde_json::from_str(text).map_err(|error| {
            // Syntax or end of input; a data error can only mean that the value is not an object. The error's own
            // text may quote the client's, its place does not.
            let message = if error.is_data() {
                "the frame must be a JSON object".into()
            } else {
                format!("the frame must be one JSON object (line {} column {})", error.line(), error.column())
            };
            Refusal::new(Code::BadRequest, message)
        })
    }

    /// The text of a field as JSON; `None` when it is absent or `null`.
    pub(super) fn raw(&self, field: Field) -> Option<&'a str> {
        let raw = self.raw.get(field as usize).copied().flatten()?;
        (raw != "null").then_some(raw)
    }

    /// Puts the value of a field in its place. `false`: there was one.
    fn put(&mut self, field: Field, value: &'a str) -> bool {
        self.raw.get_mut(field as usize).is_some_and(|slot| slot.replace(value).is_none())
    }

    /// Whether a field was given twice: which one, when it is a known one.
    pub(super) fn repeated(&self) -> Option<Option<Field>> {
        self.repeated
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        let mut unknown: Vec<Cow<'de, str>> = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let field = match key {
                Key::Known(field) => Some(field),
                Key::Unknown(name) => {
                    unknown.push(name);
                    None
                }
            };
            let value = map.next_value::<&'de RawValue>()?.get();
            let is_second = field.is_some_and(|field| !fields.put(field, value));
            // Whoever reads `cursors` looks at each of its names anyway.
            if is_second || (field != Some(Field::Cursors) && is_repetitive(value)) {
                fields.repeated.get_or_insert(field);
            }
        }
        if has_repeat(unknown) {
            fields.repeated.get_or_insert(None);
        }
        Ok(fields)
    }
}

enum Key<'de> {
    Known(Field),
    Unknown(Cow<'de, str>),
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Field::from_name(name).map_or(Key::Unknown(Cow::Borrowed(name)), Key::Known))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Field::from_name(name)
                    .map_or_else(|| Key::Unknown(Cow::Owned(name.to_owned())), Key::Known))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Whether an object inside this value, or the value itself, names a member twice. Text that is not JSON gets some answer.
/// To be asked only of what [`is_too_deep`] let pass.
pub fn is_repetitive(value: &str) -> bool {
    value.starts_with(['{', '[']) && serde_json::from_str(value).is_ok_and(|Repetitive(is_it)| is_it)
}

/// Sorted rather than compared pair by pair: a frame of 64 KiB holds thousands of names.
fn has_repeat(mut names: Vec<Cow<'_, str>>) -> bool {
    names.sort_unstable();
    names.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Repetitive(bool);

impl<'de> Deserialize<'de> for Repetitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RepetitiveVisitor;
        impl<'de> Visitor<'de> for RepetitiveVisitor {
            type Value = Repetitive;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Repetitive, A::Error> {
                let (mut names, mut is_it) = (Vec::new(), false);
                while let Some((Name(name), Repetitive(inside))) = map.next_entry()? {
                    names.push(name);
                    is_it |= inside;
                }
                Ok(Repetitive(is_it || has_repeat(names)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Repetitive, A::Error> {
                let mut is_it = false;
                while let Some(Repetitive(inside)) = seq.next_element()? {
                    is_it |= inside;
                }
                Ok(Repetitive(is_it))
            }

            fn visit_unit<E>(self) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }

            fn visit_str<E>(self, _: &str) -> Result<Repetitive, E> {
                Ok(Repetitive(false))
            }
        }
        deserializer.deserialize_any(RepetitiveVisitor)
    }
}

/// Whether brackets nest deeper than [`JSON_DEPTH_MAX`]. Text that is not JSON gets some answer, and is refused later.
pub fn is_too_deep(text: &[u8]) -> bool {
    // What opens no more brackets than that cannot nest deeper; nearly every frame ends here.
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= JSON_DEPTH_MAX {
        return false;
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(!is_too_deep(nested(JSON_DEPTH_MAX).as_bytes()));
        assert!(is_too_deep(nested(JSON_DEPTH_MAX + 1).as_bytes()));
        let text = format!("{{\"a\":\"\\\"{}\",\"b\":[{}[]]}}", "[".repeat(99), "[],".repeat(99));
        assert!(!is_too_deep(text.as_bytes()), "brackets in strings and side by side");
    }
}
