//! What is stored: the values behind the keys of `store/src/keys.rs`, and nothing that is only on its way. Every value
//! begins with a version byte; integers are LEB128 varints unless a comment says otherwise, because a stored message
//! is mostly overhead (CP10).
//!
//! # Invariants
//! - `decode(encode(x)) == x`, and decoding arbitrary bytes returns `None` instead of panicking.
//! - Bytes that were ever released are read for ever: `golden/` holds one of each.

mod codec;
mod event;
mod rows;

pub use event::{Body, Event, Message};
pub use rows::{
    ConversationRow, DeviceRow, HeadRow, IdempotencyRow, MemberRow, ReactionsRow, TallyRow,
    UserConversationRow, UserRow,
};

use ring::digest;
use xxhash_rust::xxh3::xxh3_128;

use crate::ids::UserId;

/// The version byte that values are written with.
pub const VERSION: u8 = 1;

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum MessageType {
    /// Plain text.
    #[default]
    Text = 0,
    /// An image; `media_url` says where.
    Image = 1,
    /// A video.
    Video = 2,
    /// Any file.
    File = 3,
}

/// How `content` is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Encoding {
    /// Text.
    #[default]
    Utf8 = 0,
    /// A base64 string that the server passes through and never reads (E1).
    Opaque = 1,
}

/// The two types of conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ConversationType {
    /// Two users; one conversation per pair.
    OneToOne = 0,
    /// Any number, with a name.
    Group = 1,
}

/// What a member added later may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum History {
    /// Events from joining on.
    #[default]
    FromJoin = 0,
    /// The whole log.
    All = 1,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Role {
    /// Reads, writes, adds, renames, leaves.
    #[default]
    Member = 0,
    /// Removes others as well.
    Admin = 1,
    /// The creator; makes admins.
    Owner = 2,
}

/// Where notifications of a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Platform {
    /// Apple's.
    Apns = 0,
    /// Google's.
    Fcm = 1,
    /// A browser's (RFC 8030).
    WebPush = 2,
    /// An HTTP endpoint of the operator's.
    Webhook = 3,
}

macro_rules! names {
    ($type:ident, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }

            /// The variant with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some($type::$variant),)+ _ => None }
            }

            /// The variant with this number, as stored and as on binary frames.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                $(if number == $type::$variant as u8 { return Some($type::$variant); })+
                None
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($name),+] })
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Name;
                impl serde::de::Visitor<'_> for Name {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("one of" $(, " ", $name)+))
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$type, E> {
                        $type::from_name(name)
                            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
                    }
                }
                deserializer.deserialize_str(Name)
            }
        }
    };
}
pub(crate) use names;

names!(MessageType, Text = "text", Image = "image", Video = "video", File = "file");
names!(Encoding, Utf8 = "utf8", Opaque = "opaque");
names!(ConversationType, OneToOne = "one_to_one", Group = "group");
names!(History, FromJoin = "from_join", All = "all");
names!(Platform, Apns = "apns", Fcm = "fcm", WebPush = "webpush", Webhook = "webhook");
names!(Role, Member = "member", Admin = "admin", Owner = "owner");

/// The hash under which (sender, `client_msg_id`) is remembered. Cryptographic and cut to 128 bits, so that nobody can
/// aim at another sender's row.
#[must_use]
pub fn idempotency_hash(sender: UserId, client_msg_id: &str) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&sender.0.to_le_bytes());
    context.update(client_msg_id.as_bytes());
    let mut hash = [0; 16];
    if let Some(head) = context.finish().as_ref().first_chunk::<16>() {
        hash = *head;
    }
    hash
}

/// The hash by which a retry is known to have the same content (G2). Only the sender's own retries are compared by it.
#[must_use]
pub fn payload_hash(payload: &[u8]) -> [u8; 16] {
    xxh3_128(payload).to_le_bytes()
}
