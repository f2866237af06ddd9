//! Ids are types. On the wire a 64-bit id is a canonical decimal string in JSON (it does not fit a JavaScript number)
//! and a little-endian `u64` in rkyv frames; a `seq` is a number in both.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The largest id: ids live in 1 … 2^63 − 1.
pub const ID_MAX: u64 = (1 << 63) - 1;

/// Reads an id in its one canonical form: decimal digits, no sign, no leading zero, 1 … 2^63 − 1.
#[must_use]
pub fn parse_id(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > 19 || bytes.first() == Some(&b'0') {
        return None;
    }
    let mut value: u64 = 0;
    for byte in bytes {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (value <= ID_MAX).then_some(value)
}

/// Decimal digits of the largest `u64`.
pub(crate) const DIGITS_MAX: usize = 20;

/// The canonical decimal form, two digits a step and without going through `fmt`: every frame to a client carries several
/// ids.
pub(crate) fn decimal(mut value: u64, digits: &mut [u8; DIGITS_MAX]) -> &str {
    let mut start = DIGITS_MAX;
    while value >= 10 {
        let pair = (value % 100) as u8;
        value /= 100;
        start -= 2;
        digits[start] = b'0' + pair / 10;
        digits[start + 1] = b'0' + pair % 10;
    }
    // The first digit of an odd number of them, and zero itself.
    if value > 0 || start == DIGITS_MAX {
        start -= 1;
        digits[start] = b'0' + value as u8;
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
        )]
        #[rkyv(derive(Debug, Clone, Copy))]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Reads the canonical decimal form (1 … 2^63 − 1); `None` for anything else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                parse_id(text).map(Self)
            }

            /// Whether the number is one that an id may have.
            #[must_use]
            pub fn is_valid(self) -> bool {
                (1..=ID_MAX).contains(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut digits = [0; DIGITS_MAX];
                serializer.serialize_str(decimal(self.0, &mut digits))
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                "Id".into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[1-9][0-9]{0,18}$",
                    "description": "An id: a decimal string, 1 to 9223372036854775807, without leading zeros.",
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map($name)
            }
        }
    };
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a string of decimal digits, 1 to 9223372036854775807")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        parse_id(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

id! {
    /// A user, as the identity provider numbers them (`sub` of the token).
    UserId
}
id! {
    /// A conversation. Its hash places it in a slot, see [`crate::placement`].
    ConversationId
}
id! {
    /// A message. Time-sortable: 41 bits of milliseconds since [`MESSAGE_EPOCH_MS`], 10 of incarnation, 12 of counter;
    /// rises with `seq` inside a conversation.
    MessageId
}

/// The epoch of message ids: 2024-01-01T00:00:00Z in Unix milliseconds. 41 bits reach into 2093.
pub const MESSAGE_EPOCH_MS: u64 = 1_704_067_200_000;
/// Low bits of a message id that are not time: 10 of incarnation and 12 of counter.
pub const MESSAGE_ID_LOW_BITS: u32 = 22;

impl MessageId {
    /// The wall-clock time that this id carries, which is the message's `created_at`.
    #[must_use]
    pub fn created_at(self) -> crate::time::WallMs {
        crate::time::WallMs((self.0 >> MESSAGE_ID_LOW_BITS) + MESSAGE_EPOCH_MS)
    }
}

/// The position of an event in its conversation's log: 1, 2, 3, … without holes. 0 stands for "before the first".
pub type Seq = u64;

/// The largest seq that is taken from a client: the neighbours of any seq it names can be computed without overflow.
pub const SEQ_MAX: Seq = ID_MAX;

/// The most bytes in a device id.
pub const DEVICE_ID_BYTES_MAX: usize = 64;

/// Whether `text` may be a device id: 1–64 of `[A-Za-z0-9_-]`.
#[must_use]
pub fn is_device_id(text: &str) -> bool {
    (1..=DEVICE_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The device of a token without `dev`.
pub const DEVICE_ID_DEFAULT: &str = "default";

/// The most bytes in a `client_msg_id` (UTF-8).
pub const CLIENT_MSG_ID_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_canonical_form() {
        assert_eq!(UserId::parse("1"), Some(UserId(1)));
        assert_eq!(UserId::parse("9223372036854775807"), Some(UserId(ID_MAX)));
        for wrong in
            ["", "0", "01", "+1", "-1", " 1", "1 ", "1.0", "9223372036854775808", "99999999999999999999", "१"]
        {
            assert_eq!(UserId::parse(wrong), None, "{wrong:?}");
        }
        assert!(serde_json::from_str::<UserId>("1").is_err(), "a JSON number is refused");
        for id in [0, 9, 10, 42, ID_MAX, u64::MAX] {
            assert_eq!(serde_json::to_string(&UserId(id)).unwrap(), format!("\"{id}\""));
        }
    }
}
