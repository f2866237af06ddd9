//! The binary encoding: a WebSocket message holds one or more frames, each an rkyv archive behind the header of
//! [`crate::framing`], validated before it is looked into and read in place.
//!
//! # Invariants
//! - A [`Kind`] is numbered once and never reused; its archive is the struct of the same name in `wire`, and
//!   `golden/client/` freezes its bytes.
//! - A message is aligned to [`framing::ALIGN`](crate::framing::ALIGN) by whoever received it; in one that is not,
//!   every frame is refused.
//! - A frame that cannot be read costs only itself; a header that cannot be read costs the rest of the message.

mod command;
mod read;
mod server;
mod wire;
mod write;

pub use command::encode_command;
pub use read::{Frames, decode};
pub use server::{ServerFrames, decode_server};
pub use write::encode;

macro_rules! kinds {
    ($($(#[$doc:meta])* $number:literal $kind:ident = $name:literal),+ $(,)?) => {
        /// The number of each client frame. Link frames begin at 0x100.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $kind = $number),+ }

        impl Kind {
            /// Every kind, for tables of metrics and golden files.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),+];

            /// Its `type` in JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),+ }
            }

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Kind> {
                match number { $($number => Some(Kind::$kind),)+ _ => None }
            }
        }
    };
}
kinds! {
    /// To the server: the first frame of a connection.
    0x01 Identify = "identify",
    /// To the server: a message.
    0x02 SendMessage = "send_message",
    /// To the server: everything up to a seq arrived.
    0x03 Delivered = "delivered",
    /// To the server: everything up to a seq was read.
    0x04 Read = "read",
    /// To the server: events from a seq on, please.
    0x05 Sync = "sync",
    /// To the server: a new token.
    0x06 RefreshToken = "refresh_token",
    /// To the server: still there.
    0x07 Heartbeat = "heartbeat",
    /// To the server: going.
    0x08 Bye = "bye",
    /// To the server: the user types.
    0x09 Typing = "typing",
    /// To the server: tell when these users come and go.
    0x0a PresenceSubscribe = "presence_subscribe",
    /// To the server: no longer.
    0x0b PresenceUnsubscribe = "presence_unsubscribe",
    /// To the server: delete for everyone.
    0x0c DeleteMessage = "delete_message",
    /// To the server: a reaction.
    0x0d React = "react",
    /// To the server: take it back.
    0x0e Unreact = "unreact",
    /// To the client: the first frame of a connection.
    0x40 Hello = "hello",
    /// To the client: identified.
    0x41 Ready = "ready",
    /// To the client: from here on, live.
    0x42 CaughtUp = "caught_up",
    /// To the client: a message.
    0x43 NewMessage = "new_message",
    /// To the client: a conversation began.
    0x44 ConversationCreated = "conversation_created",
    /// To the client: a message was sent, delivered or read.
    0x45 DeliveryAck = "delivery_ack",
    /// To the client: events from a seq on.
    0x46 SyncBatch = "sync_batch",
    /// To the client: live pushes have stopped.
    0x47 Behind = "behind",
    /// To the client: drop the local copy and page.
    0x48 Reset = "reset",
    /// To the client: the server drains.
    0x49 Reconnect = "reconnect",
    /// To the client: done.
    0x4a Ok = "ok",
    /// To the client: not done.
    0x4b Error = "error",
    /// To the client: heard.
    0x4c HeartbeatAck = "heartbeat_ack",
    /// To the client: another name, or another role of a member.
    0x4d ConversationUpdated = "conversation_updated",
    /// To the client: new members.
    0x4e MemberAdded = "member_added",
    /// To the client: one member fewer.
    0x4f MemberRemoved = "member_removed",
    /// To the client: a message was deleted for everyone.
    0x50 MessageDeleted = "message_deleted",
    /// To the client: a reaction.
    0x51 ReactionAdded = "reaction_added",
    /// To the client: taken back.
    0x52 ReactionRemoved = "reaction_removed",
    /// To the client: a member types. In JSON it has the name of the command.
    0x53 Typed = "typing",
    /// To the client: a watched user came or went.
    0x54 Presence = "presence",
    /// To the client: the user read on another device.
    0x55 ReadSync = "read_sync",
}

// The table stays below the link frames, and the two directions stay apart.
const _: () = {
    let mut index = 0;
    while index < Kind::ALL.len() {
        assert!((Kind::ALL[index] as u16) < 0x100);
        index += 1;
    }
    assert!((Kind::Unreact as u16) < Kind::Hello as u16);
};
