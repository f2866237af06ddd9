//! Each rule of RFC 6455 that a peer can break, one row each; the row of guarantees.md is "frames" under Security.

use carillon_protocol::websocket::{
    CLOSE_REASON_BYTES_MAX, Decoder, Event, FRAGMENTS_MAX, Opcode, Role, Violation, append_client_frame,
    close_code_is_sendable, close_payload,
};
use rkyv::util::AlignedVec;

use crate::drive::{frame, frame_of_form};
use crate::oracle::{Seen, ours};

const KEY: Option<[u8; 4]> = Some([0xa1, 0x02, 0xff, 0x7e]);
const BYTES_MAX: usize = 1_000;

/// Reads as a server, whole and byte by byte: both have to end in the same way.
fn violation(input: &[u8]) -> Option<Violation> {
    let whole = ours(Role::Server, [input], BYTES_MAX);
    assert_eq!(whole, ours(Role::Server, input.chunks(1), BYTES_MAX), "{input:02x?}");
    whole.violation
}

fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.concat()
}

#[test]
fn each_breach_has_its_violation_and_close_code() {
    let text_start = frame(0x01, b"a", KEY);
    let rows: Vec<(&str, Vec<u8>, Violation, u16)> = vec![
        ("rsv1", frame(0xc1, b"", KEY), Violation::ReservedBits, 1002),
        ("rsv2", frame(0xa2, b"", KEY), Violation::ReservedBits, 1002),
        ("rsv3", frame(0x99, b"", KEY), Violation::ReservedBits, 1002),
        ("opcode 3", frame(0x83, b"", KEY), Violation::UnknownOpcode(3), 1002),
        ("opcode 7", frame(0x87, b"", KEY), Violation::UnknownOpcode(7), 1002),
        ("opcode 11", frame(0x8b, b"", KEY), Violation::UnknownOpcode(11), 1002),
        ("opcode 15", frame(0x8f, b"", KEY), Violation::UnknownOpcode(15), 1002),
        ("unmasked", frame(0x81, b"a", None), Violation::Unmasked, 1002),
        ("unmasked and empty", frame(0x82, b"", None), Violation::Unmasked, 1002),
        ("16 bits for 125", frame_of_form(0x82, &[0; 125], KEY, 2), Violation::LengthNotMinimal, 1002),
        ("16 bits for 0", frame_of_form(0x82, &[], KEY, 2), Violation::LengthNotMinimal, 1002),
        ("64 bits for 5", frame_of_form(0x82, &[0; 5], KEY, 8), Violation::LengthNotMinimal, 1002),
        ("64 bits for 65535", frame_of_form(0x82, &[0; 65_535], KEY, 8), Violation::LengthNotMinimal, 1002),
        ("top bit", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], Violation::LengthTopBit, 1002),
        ("ping without FIN", frame(0x09, b"", KEY), Violation::FragmentedControl, 1002),
        ("pong without FIN", frame(0x0a, b"", KEY), Violation::FragmentedControl, 1002),
        ("close without FIN", frame(0x08, b"", KEY), Violation::FragmentedControl, 1002),
        ("ping of 126", frame(0x89, &[0; 126], KEY), Violation::ControlTooLong, 1002),
        ("ping of 0 in 16 bits", frame_of_form(0x89, &[], KEY, 2), Violation::ControlTooLong, 1002),
        ("pong of 65536", frame(0x8a, &[0; 65_536], KEY), Violation::ControlTooLong, 1002),
        ("continuation of nothing", frame(0x80, b"a", KEY), Violation::ContinuationWithoutStart, 1002),
        (
            "continuation after the end",
            join(&[text_start.clone(), frame(0x80, b"", KEY), frame(0x80, b"", KEY)]),
            Violation::ContinuationWithoutStart,
            1002,
        ),
        (
            "text inside text",
            join(&[text_start.clone(), frame(0x81, b"b", KEY)]),
            Violation::InterruptedMessage,
            1002,
        ),
        (
            "binary inside text, after a ping",
            join(&[text_start.clone(), frame(0x89, b"", KEY), frame(0x82, b"b", KEY)]),
            Violation::InterruptedMessage,
            1002,
        ),
        ("close of one byte", frame(0x88, &[3], KEY), Violation::CloseCut, 1002),
        ("close reason", frame(0x88, &[3, 232, 0xff], KEY), Violation::InvalidUtf8, 1007),
        ("close reason cut", frame(0x88, &[3, 232, 0xc3], KEY), Violation::InvalidUtf8, 1007),
        ("text", frame(0x81, b"a\xff", KEY), Violation::InvalidUtf8, 1007),
        ("text with a surrogate", frame(0x81, b"\xed\xa0\x80", KEY), Violation::InvalidUtf8, 1007),
        ("text too long a form", frame(0x81, b"\xc0\xaf", KEY), Violation::InvalidUtf8, 1007),
        ("text above U+10FFFF", frame(0x81, b"\xf4\x90\x80\x80", KEY), Violation::InvalidUtf8, 1007),
        ("text cut at its end", frame(0x81, b"a\xe2\x82", KEY), Violation::InvalidUtf8, 1007),
        (
            "text cut over fragments",
            join(&[frame(0x01, b"\xe2", KEY), frame(0x80, b"\x82", KEY)]),
            Violation::InvalidUtf8,
            1007,
        ),
        (
            "one above the cap",
            frame(0x82, &[0; 1_001], KEY),
            Violation::TooBig { bytes_max: BYTES_MAX },
            1009,
        ),
        (
            "one above the cap over fragments",
            join(&[frame(0x02, &[0; 999], KEY), frame(0x80, &[0; 2], KEY)]),
            Violation::TooBig { bytes_max: BYTES_MAX },
            1009,
        ),
    ];
    for (name, input, expected, close_code) in rows {
        assert_eq!(violation(&input), Some(expected), "{name}");
        assert_eq!(expected.close_code(), close_code, "{name}");
        assert!(!expected.to_string().is_empty());
    }
}

#[test]
fn a_client_refuses_masked_frames_of_a_server() {
    let masked = ours(Role::Client, [&frame(0x81, b"a", KEY)[..]], BYTES_MAX);
    assert_eq!(masked.violation, Some(Violation::Masked));
    let plain = ours(Role::Client, [&frame(0x81, b"a", None)[..]], BYTES_MAX);
    assert_eq!(plain.seen, [Seen::Text("a".into())]);
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    let allowed = [1000..=1003, 1007..=1014, 3000..=4999];
    for code in 0..=u16::MAX {
        let expected = allowed.iter().any(|range| range.contains(&code));
        assert_eq!(close_code_is_sendable(code), expected, "{code}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let input = frame(0x88, &close_payload(code, "x"), KEY);
        assert_eq!(violation(&input), Some(Violation::CloseCode(code)));
    }
    for code in [1000, 1001, 1012, 3000, 4999] {
        let reading = ours(Role::Server, [&frame(0x88, &close_payload(code, "why"), KEY)[..]], BYTES_MAX);
        assert_eq!(reading.seen, [Seen::Close(Some(code), "why".into())]);
    }
    let longest = close_payload(1000, &"x".repeat(CLOSE_REASON_BYTES_MAX + 1));
    assert_eq!(ours(Role::Server, [&frame(0x88, &longest, KEY)[..]], BYTES_MAX).violation, None);
}

#[test]
fn what_follows_a_close_is_discarded() {
    let input = join(&[frame(0x88, b"", KEY), frame(0x81, b"late", KEY), vec![0xff; 9]]);
    let reading = ours(Role::Server, [&input[..]], BYTES_MAX);
    assert_eq!((reading.seen, reading.violation), (vec![Seen::Close(None, String::new())], None));
}

#[test]
fn control_frames_may_stand_between_fragments_and_are_not_capped_with_them() {
    let input = join(&[
        frame(0x01, "grü".as_bytes(), KEY),
        frame(0x89, &[7; 125], KEY),
        frame(0x00, b"", KEY),
        frame(0x8a, b"", KEY),
        frame(0x80, "ß".as_bytes(), KEY),
    ]);
    let expected = [Seen::Ping(vec![7; 125]), Seen::Pong(vec![]), Seen::Text("grüß".into())];
    for pieces in [1, 2, 3, 7, 1_000] {
        let reading = ours(Role::Server, input.chunks(pieces), 6);
        assert_eq!((reading.seen, reading.violation, reading.is_idle), (expected.to_vec(), None, true));
    }
}

#[test]
fn a_message_may_have_64_fragments_and_not_one_more() {
    let mut frames = vec![frame(0x02, b"a", KEY)];
    frames.extend((2..FRAGMENTS_MAX).map(|_| frame(0x00, b"a", KEY)));
    let fits = join(&[frames.concat(), frame(0x80, b"a", KEY)]);
    assert_eq!(ours(Role::Server, [&fits[..]], BYTES_MAX).seen, [Seen::Binary(vec![b'a'; 64])]);
    let above = join(&[frames.concat(), frame(0x00, b"a", KEY), frame(0x80, b"", KEY)]);
    assert_eq!(violation(&above), Some(Violation::TooManyFragments));
    assert_eq!(Violation::TooManyFragments.close_code(), 1009);

    let mut scratch = AlignedVec::new();
    let mut decode = |input: &[u8], fragments_max| {
        let mut decoder = Decoder::with_fragments_max(Role::Server, fragments_max);
        decoder.decode(input, BYTES_MAX, &mut scratch).map(|(used, event)| (used, event.is_some()))
    };
    assert_eq!(decode(&above, FRAGMENTS_MAX + 1), Ok((above.len(), true)));
    assert_eq!(decode(&fits, FRAGMENTS_MAX - 1), Err(Violation::TooManyFragments));
}

/// G13: an announced length costs the peer's bytes, not our memory.
#[test]
fn lengths_are_refused_or_paid_for_by_what_arrives() {
    let mut scratch = AlignedVec::new();
    let header = frame(0x82, &[0; 65_536], KEY)[..14].to_vec();

    let mut decoder = Decoder::new(Role::Server);
    let refused = decoder.decode(&header, 65_535, &mut scratch);
    assert_eq!(refused, Err(Violation::TooBig { bytes_max: 65_535 }));
    assert_eq!((decoder.held_bytes(), scratch.capacity()), (0, 0));

    let mut decoder = Decoder::new(Role::Server);
    assert_eq!(decoder.decode(&header, 65_536, &mut scratch), Ok((14, None)));
    assert!(decoder.held_bytes() < 512, "{} bytes held for a header", decoder.held_bytes());
    assert!(!decoder.is_idle());
    assert_eq!(decoder.decode(&[1; 1_000], 65_536, &mut scratch), Ok((1_000, None)));
    assert!(decoder.held_bytes() < 512 + 1_024, "{} bytes held for 1,000", decoder.held_bytes());
}

#[test]
fn whole_frames_allocate_nothing_once_the_scratch_has_grown() {
    let mut decoder = Decoder::new(Role::Server);
    let mut scratch = AlignedVec::new();
    let mut input = Vec::new();
    append_client_frame(&mut input, Opcode::Binary, &[9; 900], [1, 2, 3, 4]);
    decoder.decode(&input, BYTES_MAX, &mut scratch).unwrap();
    let (place, capacity) = (scratch.as_ptr(), scratch.capacity());
    for payload_bytes in 0..=900 {
        let payload = vec![5; payload_bytes];
        input.clear();
        append_client_frame(&mut input, Opcode::Binary, &payload, [1, 2, 3, 4]);
        let (used, event) = decoder.decode(&input, BYTES_MAX, &mut scratch).unwrap();
        assert_eq!((used, event), (input.len(), Some(Event::Binary(&payload))));
        assert_eq!(decoder.held_bytes(), 0);
        assert_eq!((scratch.as_ptr(), scratch.capacity()), (place, capacity));
    }
}

/// A text is refused with the first byte that decides, long before its frame or message is whole.
#[test]
fn text_fails_with_the_byte_that_makes_it_certain() {
    let long = frame(0x01, &[b"a\xe2\x82".as_slice(), &[0x41], &[b'a'; 500]].concat(), KEY);
    let header_bytes = long.len() - 504;
    let mut decoder = Decoder::new(Role::Server);
    let mut scratch = AlignedVec::new();
    let undecided = &long[..header_bytes + 3];
    assert_eq!(decoder.decode(undecided, BYTES_MAX, &mut scratch), Ok((undecided.len(), None)));
    let deciding = &long[undecided.len()..=undecided.len()];
    assert_eq!(decoder.decode(deciding, BYTES_MAX, &mut scratch), Err(Violation::InvalidUtf8));
}
