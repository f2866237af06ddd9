//! Two ways to read a stream, ours and tungstenite's, and what they have to agree on. The fuzz target of the codec includes
//! this file (`tests/fuzzing/src/codec.rs`).

use std::io::{self, Read, Write};

use carillon_protocol::websocket::{Decoder, Event, Role, Violation};
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

/// tungstenite answers a close code that may not be sent with an event of its own making.
fn is_refused_close(seen: Option<&Seen>) -> bool {
    matches!(seen, Some(Seen::Close(Some(1002), reason)) if reason == "Protocol violation")
}

/// Compares our reading of a damaged stream with tungstenite's; says what is wrong.
pub(crate) fn disagreement(role: Role, input: &[u8], bytes_max: usize, reading: &Reading) -> Option<String> {
    let mut oracle = theirs(role, input, bytes_max);
    if reading.violation.is_some() && oracle.1.is_none() {
        // It judges a frame when it is whole, we as soon as we can: complete the last one for it.
        oracle = theirs(role, &[input, &vec![0; bytes_max + 14]].concat(), bytes_max);
    }
    let (seen, end) = oracle;
    let refused = end.is_some();
    let agrees = match reading.violation {
        None => {
            // 1014 was registered after tungstenite's table was written.
            let same = match (reading.seen.split_last(), seen.split_last()) {
                (Some((Seen::Close(Some(1014), _), ours)), Some((last, theirs))) => {
                    is_refused_close(Some(last)) && ours == theirs
                }
                _ => reading.seen == seen,
            };
            same && !refused
        }
        // Stricter than the oracle, which reads on: until then it has to agree. A control frame with an extended length
        // is too long if the length is in its shortest form, and wrong anyway if it is not.
        Some(Violation::LengthNotMinimal | Violation::ControlTooLong | Violation::TooManyFragments) => {
            seen.starts_with(&reading.seen)
        }
        // Seen with its first wrong byte: the oracle may still find control frames before the message ends.
        Some(Violation::InvalidUtf8) => refused && seen.starts_with(&reading.seen),
        // The code is wrong, and perhaps the reason as well, which the oracle looks at first.
        Some(Violation::CloseCode(_)) => {
            let next = seen.strip_prefix(reading.seen.as_slice());
            next.is_some_and(|next| is_refused_close(next.first()) || (next.is_empty() && refused))
        }
        // Which rule comes first may differ; that a rule is broken, and where, may not.
        Some(_) => refused && seen == reading.seen,
    };
    (!agrees).then(|| format!("ours: {reading:?}\noracle: {seen:?}, {end:?}\ninput: {input:02x?}"))
}
