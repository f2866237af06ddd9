//! From payloads to frames. Everything we send is one unfragmented frame; an event for many clients is encoded once
//! and shared, so a frame is one contiguous run of bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::digest;

use super::{
    CLOSE_REASON_BYTES_MAX, Event, HEADER_BYTES_MAX, Opcode, SERVER_HEADER_BYTES_MAX, mask_in_place,
};
use crate::reason::Close;

/// Writes the header of an unfragmented frame to the front of `out` and says how many bytes it takes (RFC 6455
/// section 5.2). `mask` is for clients only.
#[must_use]
pub fn encode_header(
    out: &mut [u8; HEADER_BYTES_MAX],
    opcode: Opcode,
    payload_bytes: usize,
    mask: Option<[u8; 4]>,
) -> usize {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let [first, second, rest @ ..] = out;
    *first = 0x80 | opcode as u8;
    let length_bytes = match u16::try_from(payload_bytes) {
        #[expect(clippy::cast_possible_truncation, reason = "below 126")]
        Ok(length) if length < 126 => {
            *second = masked | length as u8;
            0
        }
        Ok(length) => {
            *second = masked | 126;
            rest[..2].copy_from_slice(&length.to_be_bytes());
            2
        }
        Err(_) => {
            *second = masked | 127;
            rest[..8].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            8
        }
    };
    let Some(key) = mask else { return 2 + length_bytes };
    rest[length_bytes..length_bytes + 4].copy_from_slice(&key);
    2 + length_bytes + 4
}

/// One frame of a server.
#[must_use]
pub fn server_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SERVER_HEADER_BYTES_MAX + payload.len());
    append_server_frame(&mut out, opcode, payload);
    out
}

/// One frame of a server, to be shared by many connections: its payload is written once, into `scratch`, whose memory
/// serves the next frame as well, and the frame takes no more than its bytes. `write` appends to what it is given and
/// removes nothing.
#[must_use]
pub fn server_frame_with(opcode: Opcode, scratch: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    scratch.clear();
    scratch.resize(SERVER_HEADER_BYTES_MAX, 0);
    write(scratch);
    assert!(scratch.len() >= SERVER_HEADER_BYTES_MAX, "the writer of a payload appends");
    let mut header = [0; HEADER_BYTES_MAX];
    let header_bytes = encode_header(&mut header, opcode, scratch.len() - SERVER_HEADER_BYTES_MAX, None);
    // The header ends where the payload begins; what is left over in front of it is cut off.
    let start = SERVER_HEADER_BYTES_MAX - header_bytes;
    scratch[start..SERVER_HEADER_BYTES_MAX].copy_from_slice(&header[..header_bytes]);
    Bytes::copy_from_slice(&scratch[start..])
}

/// Appends one frame of a server.
pub fn append_server_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let mut header = [0; HEADER_BYTES_MAX];
    let header_bytes = encode_header(&mut header, opcode, payload.len(), None);
    out.extend_from_slice(&header[..header_bytes]);
    out.extend_from_slice(payload);
}

/// Appends one frame of a client, masked with `key`, which has to be drawn anew for each frame (RFC 6455
/// section 5.3).
pub fn append_client_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    let mut header = [0; HEADER_BYTES_MAX];
    let header_bytes = encode_header(&mut header, opcode, payload.len(), Some(key));
    out.extend_from_slice(&header[..header_bytes]);
    let start = out.len();
    out.extend_from_slice(payload);
    mask_in_place(&mut out[start..], key);
}

/// The payload of a close frame: the code, and as much of `reason` as fits, cut between two characters (RFC 6455
/// section 5.5.1).
#[must_use]
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload
}

/// The server's close frame for a row of the table of close codes.
#[must_use]
pub fn close_frame(close: Close) -> Vec<u8> {
    server_frame(Opcode::Close, &close_payload(close.code(), close.text()))
}

/// What a server owes for an event by itself, whatever it is used for: a pong for a ping, a close for a close, each with
/// what came in it (RFC 6455 sections 5.5.1 and 5.5.2).
#[must_use]
pub fn reply(event: &Event<'_>) -> Option<Vec<u8>> {
    match event {
        Event::Ping(payload) => Some(server_frame(Opcode::Pong, payload)),
        Event::Close { code, .. } => {
            let payload = code.map_or_else(Vec::new, |code| close_payload(code, ""));
            Some(server_frame(Opcode::Close, &payload))
        }
        Event::Text(_) | Event::Binary(_) | Event::Pong(_) => None,
    }
}

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2). SHA-1 is no
/// protection here, only proof that the server has read the key.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        let mut scratch = Vec::new();
        let cases = [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (65_535, vec![0x82, 126, 0xff, 0xff]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (payload_bytes, expected) in cases {
            let mut out = [0; HEADER_BYTES_MAX];
            let header_bytes = encode_header(&mut out, Opcode::Binary, payload_bytes, None);
            assert_eq!(&out[..header_bytes], expected, "{payload_bytes} bytes");
            let payload = vec![7; payload_bytes];
            let shared =
                server_frame_with(Opcode::Binary, &mut scratch, |out| out.extend_from_slice(&payload));
            assert_eq!(shared, server_frame(Opcode::Binary, &payload), "{payload_bytes} bytes");
        }
    }

    /// The examples of RFC 6455 section 5.7.
    #[test]
    #[cfg_attr(miri, ignore = "SHA-1 is ring's, which is not Rust")]
    fn the_examples_of_the_rfc() {
        let mut masked = Vec::new();
        append_client_frame(&mut masked, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(server_frame(Opcode::Text, b"Hello"), [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn control_frames_are_answered_with_what_came_in_them() {
        assert_eq!(reply(&Event::Ping(b"abc")).unwrap(), [0x8a, 3, b'a', b'b', b'c']);
        assert_eq!(reply(&Event::Close { code: Some(4_003), reason: "no" }).unwrap(), [0x88, 2, 0x0f, 0xa3]);
        assert_eq!(reply(&Event::Close { code: None, reason: "" }).unwrap(), [0x88, 0]);
        for event in [Event::Pong(b"abc"), Event::Text("abc"), Event::Binary(b"abc")] {
            assert_eq!(reply(&event), None);
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let payload = close_payload(1000, &"é".repeat(100));
        assert_eq!(payload.len(), 2 + 122);
        assert!(std::str::from_utf8(&payload[2..]).is_ok());
        assert_eq!(close_payload(4003, "no"), [0x0f, 0xa3, b'n', b'o']);
    }
}
