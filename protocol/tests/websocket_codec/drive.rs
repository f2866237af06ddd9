//! Two ways to read a stream, ours and tungstenite's, with answers that can be compared; and a writer of frames that
//! may be wrong in any way, which shares no code with the encoder under test.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read, Write};

use carillon_protocol::websocket::{Decoder, Event, Role, Violation};
use proptest::test_runner::{Config, RngSeed};
use rkyv::util::AlignedVec;
use tungstenite::Message;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::{WebSocket, WebSocketConfig};

/// A copy of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
        }
    }
}

/// What one decoder made of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) seen: Vec<Seen>,
    pub(crate) violation: Option<Violation>,
    /// Whether anything was held at the end.
    pub(crate) is_idle: bool,
}

/// Feeds the pieces one after the other. A scratch buffer is handed over dirty, as a shard would.
pub(crate) fn ours<'b>(role: Role, pieces: impl IntoIterator<Item = &'b [u8]>, bytes_max: usize) -> Reading {
    let mut decoder = Decoder::new(role);
    let mut scratch = AlignedVec::<16>::new();
    scratch.extend_from_slice(b"left over from another connection");
    let mut seen = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            match decoder.decode(rest, bytes_max, &mut scratch) {
                Ok((used, event)) => {
                    assert!(0 < used && used <= rest.len(), "{used} bytes used of {}", rest.len());
                    assert!(event.is_some() || used == rest.len(), "no event, and bytes left over");
                    if let Some(Event::Binary(bytes)) = event {
                        assert_eq!(bytes.as_ptr().addr() % 16, 0, "a binary payload is aligned");
                    }
                    seen.extend(event.map(Seen::from));
                    rest = &rest[used..];
                }
                Err(violation) => {
                    let after = decoder.decode(b"after the end", bytes_max, &mut scratch);
                    assert_eq!(after, Ok((13, None)), "a violation is the end");
                    return Reading { seen, violation: Some(violation), is_idle: decoder.is_idle() };
                }
            }
        }
        assert_eq!(decoder.is_idle(), decoder.held_bytes() == 0, "idle is: nothing held");
        assert!(
            decoder.held_bytes() <= 1_024 + 2 * bytes_max.next_power_of_two(),
            "held memory is bounded (G13)"
        );
    }
    Reading { seen, violation: None, is_idle: decoder.is_idle() }
}

struct Wire<'b> {
    input: &'b [u8],
}

impl Read for Wire<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.input.read(out)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same stream, and why it refuses to read on, if it does.
pub(crate) fn theirs(role: Role, input: &[u8], bytes_max: usize) -> (Vec<Seen>, Option<Error>) {
    let role = match role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(1_024)
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max));
    let mut socket = WebSocket::from_raw_socket(Wire { input }, role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.to_string())),
            Ok(Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            Ok(Message::Close(frame)) => {
                let (code, reason) = frame.map_or((None, String::new()), |frame| {
                    (Some(u16::from(frame.code)), frame.reason.to_string())
                });
                seen.push(Seen::Close(code, reason));
                // What comes after a close is discarded; whether that is an error is a matter of taste.
                return (seen, None);
            }
            Ok(Message::Frame(_)) => panic!("raw frames are never read"),
            Err(Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (seen, None);
            }
            Err(error) => return (seen, Some(error)),
        }
    }
}

/// One frame by the letter of RFC 6455 section 5.2: `first` is the first byte, and the length takes its shortest form.
pub(crate) fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let form = match payload.len() {
        0..126 => 0,
        126..65_536 => 2,
        _ => 8,
    };
    frame_of_form(first, payload, key, form)
}

/// The same with 0, 2 or 8 bytes of extended length.
pub(crate) fn frame_of_form(first: u8, payload: &[u8], key: Option<[u8; 4]>, length_bytes: usize) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    let length = payload.len() as u64;
    out.push(
        masked | [length as u8, 126, 127][[0, 2, 8].iter().position(|form| *form == length_bytes).unwrap()],
    );
    out.extend_from_slice(&length.to_be_bytes()[8 - length_bytes..]);
    out.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
    for (index, byte) in payload.iter().enumerate() {
        out.push(byte ^ key.map_or(0, |key| key[index % 4]));
    }
    out
}

/// A configuration with a seed of its own, and on standard error (shown when the test fails) how to repeat it.
pub(crate) fn config(cases: u32) -> Config {
    let mut config = Config::with_cases(cases);
    config.failure_persistence = None;
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().build_hasher().finish());
    }
    eprintln!(
        "repeat with: PROPTEST_RNG_SEED={} cargo test -p carillon-protocol --test websocket_codec",
        config.rng_seed
    );
    config
}
