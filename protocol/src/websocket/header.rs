//! The header of one frame (RFC 6455 section 5.2), read from as many of its bytes as are there.
//!
//! # Invariants
//! - Rules are checked in the order of the bytes they rest on, each as soon as its bytes are there: what is wrong with
//!   a header does not depend on how much of it arrived at once.
//! - A rule that the header alone can break is broken here, before a byte of payload is looked at.

use super::{CONTROL_BYTES_MAX, Opcode, Role, Violation};

/// A whole header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    pub(super) is_final: bool,
    /// The key; present exactly when the peer is a client.
    pub(super) mask: Option<[u8; 4]>,
    /// As announced: not checked against any cap yet.
    pub(super) payload_bytes: u64,
    /// Bytes of the header itself.
    pub(super) header_bytes: usize,
}

/// Reads the header at the start of `bytes`; `None` when it is not whole yet. `in_message` says whether a fragmented
/// message is open.
pub(super) fn parse(bytes: &[u8], role: Role, in_message: bool) -> Result<Option<Header>, Violation> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBits);
    }
    let bits = first & 0x0F;
    let opcode = Opcode::from_bits(bits).ok_or(Violation::UnknownOpcode(bits))?;
    let is_final = first & 0x80 != 0;
    match opcode {
        Opcode::Continuation if !in_message => return Err(Violation::ContinuationWithoutStart),
        Opcode::Text | Opcode::Binary if in_message => return Err(Violation::InterruptedMessage),
        Opcode::Close | Opcode::Ping | Opcode::Pong if !is_final => return Err(Violation::FragmentedControl),
        _ => {}
    }

    let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
    let masked = second & 0x80 != 0;
    match role {
        Role::Server if !masked => return Err(Violation::Unmasked),
        Role::Client if masked => return Err(Violation::Masked),
        _ => {}
    }
    let short = second & 0x7F;
    if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
        return Err(Violation::ControlTooLong);
    }

    let (payload_bytes, rest) = match short {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(*length);
            if length < 126 {
                return Err(Violation::LengthNotMinimal);
            }
            (u64::from(length), rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length >> 63 != 0 {
                return Err(Violation::LengthTopBit);
            }
            if length <= u64::from(u16::MAX) {
                return Err(Violation::LengthNotMinimal);
            }
            (length, rest)
        }
        length => (u64::from(length), rest),
    };

    let (mask, rest) = if masked {
        let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        (Some(*key), rest)
    } else {
        (None, rest)
    };
    Ok(Some(Header { opcode, is_final, mask, payload_bytes, header_bytes: bytes.len() - rest.len() }))
}
