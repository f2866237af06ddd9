//! The journal: one line per send, answer and delivery, for whoever judges across processes. Words separated by
//! spaces, the time in nanoseconds first; clients by their number, conversations by id.
//!
//! ```text
//! 123 sent 0 17 4          client 0 sends its message 17 into conversation number 4
//! 456 acked 0 17 99 7001 0 it is seq 99, message id 7001, not a duplicate
//! 789 delivered 1 55 99 …  client 1 got seq 99 of conversation id 55, with this digest
//! ```

use std::io::Write as _;

use carillon_protocol::ids::{ConversationId, MessageId, Seq};
use carillon_protocol::reason::Code;

/// One line.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are the words of the line")]
pub enum Entry {
    /// A client has a connection.
    Connected { client: u32 },
    /// It lost it.
    Disconnected { client: u32 },
    /// A message is meant to leave.
    Sent { client: u32, n: u64, conversation: u32 },
    /// It is durable.
    Acked { client: u32, n: u64, seq: Seq, message: MessageId, duplicate: bool },
    /// It was refused.
    Refused { client: u32, n: u64, code: Code },
    /// An event arrived.
    Delivered { client: u32, conversation: ConversationId, seq: Seq, digest: u64 },
    /// A client was told to drop its copy.
    Reset { client: u32, conversation: ConversationId, head_seq: Seq },
}

impl Entry {
    /// Appends the line.
    pub fn write(self, now_ns: u64, out: &mut Vec<u8>) {
        let written = match self {
            Entry::Connected { client } => writeln!(out, "{now_ns} connected {client}"),
            Entry::Disconnected { client } => writeln!(out, "{now_ns} disconnected {client}"),
            Entry::Sent { client, n, conversation } => {
                writeln!(out, "{now_ns} sent {client} {n} {conversation}")
            }
            Entry::Acked { client, n, seq, message, duplicate } => {
                writeln!(out, "{now_ns} acked {client} {n} {seq} {message} {}", u8::from(duplicate))
            }
            Entry::Refused { client, n, code } => {
                writeln!(out, "{now_ns} refused {client} {n} {}", code.name())
            }
            Entry::Delivered { client, conversation, seq, digest } => {
                writeln!(out, "{now_ns} delivered {client} {conversation} {seq} {digest:016x}")
            }
            Entry::Reset { client, conversation, head_seq } => {
                writeln!(out, "{now_ns} reset {client} {conversation} {head_seq}")
            }
        };
        debug_assert!(written.is_ok(), "writing to memory");
    }
}
