//! RFC 6455 frames, incremental, in both roles: what a client and a server put on a socket after the handshake.
//!
//! Drive it: keep one [`Decoder`] per connection and one scratch buffer per thread; hand every piece that was read to
//! [`Decoder::decode`], again and again until it is used up. Answers are written with [`server_frame`] and its
//! siblings.
//!
//! # Invariants
//! - An idle decoder owns no memory beyond itself, and itself is at most [`DECODER_BYTES_MAX`].
//! - What a decoder holds is bounded by what the peer really sent, never by what a header announced (G13).
//! - The cut of the input into pieces has no influence on events and violations.
//! - A [`Event::Binary`] payload starts at a multiple of 16, so that archives in it are read in place.
//! - A violation, like a close, is the end: whatever follows is discarded.
//!
//! Stricter than many servers: unmasked client frames and lengths that are not in their shortest form are refused.
//! No extension is ever negotiated, so each reserved bit is a violation.

mod decode;
mod encode;
mod header;
mod mask;

pub use decode::Decoder;
pub use encode::{
    accept_key, append_client_frame, append_server_frame, close_frame, close_payload, encode_header, reply,
    server_frame, server_frame_with,
};
pub use mask::mask_in_place;

use crate::reason::Close;

/// The most bytes a [`Decoder`] takes inside a connection.
pub const DECODER_BYTES_MAX: usize = 32;
/// The most bytes of a frame header: two, eight of length, four of mask (RFC 6455 section 5.2).
pub const HEADER_BYTES_MAX: usize = 14;
/// The most bytes of a header that a server writes: it does not mask (RFC 6455 section 5.1).
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// The most payload bytes of a ping, pong or close (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// The most bytes of the reason in a close frame: what its code leaves.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;
/// The most frames one message may come in. No client of ours fragments; browsers do not at these sizes. The next
/// one is [`Violation::TooManyFragments`].
pub const FRAGMENTS_MAX: u32 = 64;

const _: () = assert!(size_of::<Decoder>() <= DECODER_BYTES_MAX);

/// On which end of the connection the decoder sits. It decides which frames have to be masked (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads frames of a client: all masked.
    Server,
    /// Reads frames of a server: none masked.
    Client,
}

/// What a frame is (RFC 6455 section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A later piece of a fragmented message.
    Continuation = 0x0,
    /// UTF-8.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// To be answered with a pong of the same payload.
    Ping = 0x9,
    /// The answer to a ping, or unsolicited.
    Pong = 0xA,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xA => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Whether the frame may stand between the fragments of a message (RFC 6455 section 5.4).
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// What has arrived completely. Payloads lie in the scratch buffer and live until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'s> {
    /// A text message.
    Text(&'s str),
    /// A binary message; it starts at a multiple of 16 bytes.
    Binary(&'s [u8]),
    /// A ping: answer with a pong that carries these bytes, at most [`CONTROL_BYTES_MAX`].
    Ping(&'s [u8]),
    /// A pong.
    Pong(&'s [u8]),
    /// The peer closes: answer with its code, then end the connection. No event follows.
    Close {
        /// The code, one that may appear on the wire (RFC 6455 section 7.4); `None` when the frame was empty.
        code: Option<u16>,
        /// The peer's words, at most [`CLOSE_REASON_BYTES_MAX`]; for logs only, and not to be trusted.
        reason: &'s str,
    },
}

/// What a peer did that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reserved bit without an extension (RFC 6455 section 5.2).
    #[error("a reserved bit is set although no extension was negotiated")]
    ReservedBits,
    /// An opcode outside the registry (RFC 6455 section 5.2).
    #[error("opcode {0:#x} is not defined")]
    UnknownOpcode(u8),
    /// A control frame without FIN (RFC 6455 section 5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame above [`CONTROL_BYTES_MAX`] (RFC 6455 section 5.5).
    #[error("a control frame is longer than {CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    /// A continuation of nothing (RFC 6455 section 5.4).
    #[error("a continuation frame came without a message to continue")]
    ContinuationWithoutStart,
    /// A second message inside the first (RFC 6455 section 5.4).
    #[error("a new message began inside a fragmented one")]
    InterruptedMessage,
    /// A client frame without mask (RFC 6455 section 5.1).
    #[error("a client frame is not masked")]
    Unmasked,
    /// A server frame with mask (RFC 6455 section 5.1).
    #[error("a server frame is masked")]
    Masked,
    /// A length that is not in its shortest form (RFC 6455 section 5.2).
    #[error("a length is not in its shortest form")]
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (RFC 6455 section 5.2).
    #[error("a 64-bit length has its top bit set")]
    LengthTopBit,
    /// A close frame of one byte (RFC 6455 section 5.5.1).
    #[error("a close frame holds half a code")]
    CloseCut,
    /// A close code that never appears on the wire (RFC 6455 section 7.4).
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// Text, or the reason of a close, that is not UTF-8 (RFC 6455 section 8.1).
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A message above the cap; seen in the header, before anything is allocated.
    #[error("a message is longer than {bytes_max} bytes")]
    TooBig {
        /// The cap, in bytes.
        bytes_max: usize,
    },
    /// More frames in one message than the decoder takes: [`FRAGMENTS_MAX`], where nobody said otherwise.
    #[error("a message came in too many frames")]
    TooManyFragments,
}

impl Violation {
    /// The row of the table of close codes that answers this.
    #[must_use]
    pub const fn close(self) -> Close {
        match self {
            Violation::InvalidUtf8 => Close::InvalidUtf8,
            Violation::TooBig { .. } | Violation::TooManyFragments => Close::TooBig,
            Violation::ReservedBits
            | Violation::UnknownOpcode(_)
            | Violation::FragmentedControl
            | Violation::ControlTooLong
            | Violation::ContinuationWithoutStart
            | Violation::InterruptedMessage
            | Violation::Unmasked
            | Violation::Masked
            | Violation::LengthNotMinimal
            | Violation::LengthTopBit
            | Violation::CloseCut
            | Violation::CloseCode(_) => Close::ProtocolError,
        }
    }

    /// The close code to send: 1002, 1007 or 1009.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        self.close().code()
    }
}

/// Whether a close code may appear on the wire (RFC 6455 section 7.4, and the codes registered since: 1012 to 1014).
#[must_use]
pub const fn close_code_is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
