//! A WebSocket by hand, for what no decent client would send.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::secure::Stream;
use crate::server::PATIENCE;

/// A connection that says exactly what it is told to.
pub struct Raw {
    stream: Stream,
    received: Vec<u8>,
}

/// One frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: FIN, reserved bits, opcode.
    pub first: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The headers of a good request to upgrade, without subprotocol and token.
pub const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

impl Raw {
    /// Connects, and sends a GET for `/v1/ws` with these headers.
    ///
    /// # Panics
    /// When there is no server.
    #[must_use]
    pub fn request(address: SocketAddr, headers: &[(&str, &str)]) -> Raw {
        let mut text = format!("GET /v1/ws HTTP/1.1\r\nHost: {address}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut stream = Stream::connect(address, PATIENCE);
        stream.socket().set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream.write_all(text.as_bytes()).expect("sent");
        Raw { stream, received: Vec::new() }
    }

    /// Upgrades with this subprotocol and token.
    ///
    /// # Panics
    /// When that is refused.
    #[must_use]
    pub fn upgrade(address: SocketAddr, subprotocol: &str, token: &str) -> Raw {
        let bearer = format!("Bearer {token}");
        let mut headers = UPGRADE.to_vec();
        headers.extend([("Sec-WebSocket-Protocol", subprotocol), ("Authorization", &bearer)]);
        let mut raw = Raw::request(address, &headers);
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    /// The head of the answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = self.received.drain(..end + 4).collect();
                return String::from_utf8(head).expect("ASCII");
            }
            assert!(self.fill(), "no answer but {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> String {
        while self.fill() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.received)).into_owned()
    }

    /// Sends bytes as they are. A server that has closed already takes no more: what it said is what counts.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a masked frame with the shortest length.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&masked(first, payload));
    }

    /// The next frame; `None` when the server closed.
    ///
    /// # Panics
    /// When the server says nothing for [`PATIENCE`], or masks.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse(&self.received) {
                self.received.drain(..used);
                return Some(frame);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads up to the close frame, and returns its code; 1005 for one without, 1006 when the connection just ends.
    ///
    /// # Panics
    /// When the server does not close.
    pub fn until_closed(&mut self) -> u16 {
        while let Some(frame) = self.frame() {
            if frame.first == 0x88 {
                return match frame.payload[..] {
                    [high, low, ..] => u16::from_be_bytes([high, low]),
                    _ => 1005,
                };
            }
        }
        1006
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server says nothing; so far {:?}", self.received)
            }
            Err(_) => false,
        }
    }
}

/// A masked frame with the shortest length (RFC 6455 section 5.2).
#[must_use]
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => bytes.push(0x80 | length.to_le_bytes()[0]),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The first frame and its length with the header, once it is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server never masks");
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((Frame { first, payload }, start + length))
}
