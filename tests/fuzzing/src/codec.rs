//! WebSocket frames, in both roles, beside tungstenite: whole, byte by byte and cut anywhere.
//!
//! The first byte chooses the role, the cap, and whether the rest is the stream itself or the description of frames that may be
//! wrong in any way.

use carillon_protocol::websocket::{
    Opcode, Role, Violation, append_client_frame, append_server_frame, close_payload,
};

use crate::draw::Draw;
use crate::{Reached, Target};

#[path = "../../../protocol/tests/websocket_codec/oracle.rs"]
mod oracle;

use oracle::{Reading, Seen, disagreement, ours};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "codec",
    run,
    outcomes: &[
        "text",
        "binary",
        "ping",
        "pong",
        "close",
        "inside a frame",
        "ReservedBits",
        "UnknownOpcode",
        "FragmentedControl",
        "ControlTooLong",
        "ContinuationWithoutStart",
        "InterruptedMessage",
        "Unmasked",
        "Masked",
        "LengthNotMinimal",
        "LengthTopBit",
        "CloseCut",
        "CloseCode",
        "InvalidUtf8",
        "TooBig",
        "TooManyFragments",
    ],
};

/// Not below what a control frame may have: tungstenite holds those to the cap as well.
const CAPS_BYTES: [usize; 4] = [125, 126, 300, 1_024];
const FRAMES_MAX: usize = 80;
/// First bytes of frames: most of them right.
const FIRST: [u8; 16] =
    [0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a, 0x88, 0x00, 0x80, 0x09, 0x83, 0xc1, 0x01, 0x81];

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&head, data)) = data.split_first() else { return };
    let role = if head & 1 == 0 { Role::Server } else { Role::Client };
    let cap_bytes = CAPS_BYTES[usize::from(head >> 2 & 3)];
    let (stream, cuts) = if head & 2 == 0 {
        (data.to_vec(), vec![data.len() * usize::from(head >> 4) / 16])
    } else {
        let mut draw = Draw::new(data);
        let stream = frames(&mut draw, role);
        let cuts = draw.cuts(stream.len(), 8);
        (stream, cuts)
    };

    let reading = ours(role, [stream.as_slice()], cap_bytes);
    assert_eq!(reading, ours(role, stream.chunks(1), cap_bytes), "whole, and byte by byte");
    let cuts: Vec<usize> = [0].into_iter().chain(cuts).chain([stream.len()]).collect();
    let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
    assert_eq!(reading, ours(role, pieces, cap_bytes), "whole, and cut at {cuts:?}");
    if let Some(disagreement) = disagreement(role, &stream, cap_bytes, &reading) {
        panic!("{disagreement}");
    }
    what_was_read_can_be_written(role, cap_bytes, &reading);
    tell(&reading, reached);
}

/// One to [`FRAMES_MAX`] frames, as RFC 6455 section 5.2 has them or not.
fn frames(draw: &mut Draw<'_>, role: Role) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..FRAMES_MAX {
        if draw.is_empty() {
            break;
        }
        let plan = draw.byte();
        let first = FIRST[usize::from(plan & 15)];
        let payload = draw.bytes(140);
        // Mostly the shortest form and the right length, masked as the role wants it.
        let (form, announced) = match plan >> 4 {
            0 => (126, payload.len() as u64),
            1 => (127, payload.len() as u64),
            2 => (127, draw.number()),
            3 => (126, draw.number() & 0xffff),
            _ if payload.len() < 126 => (payload.len() as u8, payload.len() as u64),
            _ => (126, payload.len() as u64),
        };
        let masked = (role == Role::Server) != (plan >> 4 == 4);
        stream.push(if plan >> 4 == 5 { draw.byte() } else { first });
        stream.push(form | if masked { 0x80 } else { 0 });
        match form {
            126 => stream.extend_from_slice(&announced.to_be_bytes()[6..]),
            127 => stream.extend_from_slice(&announced.to_be_bytes()),
            _ => {}
        }
        let key: [u8; 4] = if masked { draw.array() } else { [0; 4] };
        if masked {
            stream.extend_from_slice(&key);
        }
        stream.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    stream
}

/// Written anew by our encoder, one frame a message, it is read as it was.
fn what_was_read_can_be_written(role: Role, cap_bytes: usize, reading: &Reading) {
    let mut stream = Vec::new();
    for seen in &reading.seen {
        let (opcode, payload) = match seen {
            Seen::Text(text) => (Opcode::Text, text.clone().into_bytes()),
            Seen::Binary(bytes) => (Opcode::Binary, bytes.clone()),
            Seen::Ping(bytes) => (Opcode::Ping, bytes.clone()),
            Seen::Pong(bytes) => (Opcode::Pong, bytes.clone()),
            Seen::Close(None, _) => (Opcode::Close, Vec::new()),
            Seen::Close(Some(code), reason) => (Opcode::Close, close_payload(*code, reason)),
        };
        match role {
            Role::Server => append_client_frame(&mut stream, opcode, &payload, [7, 0, 255, 1]),
            Role::Client => append_server_frame(&mut stream, opcode, &payload),
        }
    }
    let again = ours(role, [stream.as_slice()], cap_bytes);
    assert_eq!(again, Reading { seen: reading.seen.clone(), violation: None, is_idle: true });
}

fn tell(reading: &Reading, reached: &mut Reached) {
    for seen in &reading.seen {
        reached.meet(match seen {
            Seen::Text(_) => "text",
            Seen::Binary(_) => "binary",
            Seen::Ping(_) => "ping",
            Seen::Pong(_) => "pong",
            Seen::Close(..) => "close",
        });
    }
    match reading.violation {
        None if !reading.is_idle => reached.meet("inside a frame"),
        None => {}
        Some(violation) => reached.meet(name(violation)),
    }
}

const fn name(violation: Violation) -> &'static str {
    match violation {
        Violation::ReservedBits => "ReservedBits",
        Violation::UnknownOpcode(_) => "UnknownOpcode",
        Violation::FragmentedControl => "FragmentedControl",
        Violation::ControlTooLong => "ControlTooLong",
        Violation::ContinuationWithoutStart => "ContinuationWithoutStart",
        Violation::InterruptedMessage => "InterruptedMessage",
        Violation::Unmasked => "Unmasked",
        Violation::Masked => "Masked",
        Violation::LengthNotMinimal => "LengthNotMinimal",
        Violation::LengthTopBit => "LengthTopBit",
        Violation::CloseCut => "CloseCut",
        Violation::CloseCode(_) => "CloseCode",
        Violation::InvalidUtf8 => "InvalidUtf8",
        Violation::TooBig { .. } => "TooBig",
        Violation::TooManyFragments => "TooManyFragments",
    }
}
