//! The simplest WebSocket that echoes: what engines that are not Carillon's gateway speak, so that what is compared is how
//! bytes are moved. It takes for granted what the client of this program does (a request without a body, whole small masked
//! frames) and checks nothing else; a server that may be reached by others has to do more.

/// Payload of a message: its frame is then 64 bytes, and sixteen of them fill a receive buffer of 1 KiB.
pub const PAYLOAD_BYTES: usize = 58;
/// A server's frame.
pub const ANSWER_BYTES: usize = 2 + PAYLOAD_BYTES;
const _: () = assert!(PAYLOAD_BYTES <= 125, "a length of one byte, also in a ping");

/// What every client asks for: Carillon's path, and the key of the example in RFC 6455 section 1.3.
pub const UPGRADE: &str = "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The answer to it, with that example's digest.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// FIN, and which kind of message.
const FINAL: u8 = 0x80;
/// A message of bytes.
pub const BINARY: u8 = 0x2;
/// What is asked with a ping is answered with a pong.
pub const PING: u8 = 0x9;
/// See [`PING`].
pub const PONG: u8 = 0xa;

/// Appends a client's frame. The mask is always the same: nobody here is to be protected by it, and it costs the server what
/// any other costs.
pub fn append_request(out: &mut Vec<u8>, opcode: u8, payload: &[u8; PAYLOAD_BYTES]) {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    out.extend([FINAL | opcode, FINAL | PAYLOAD_BYTES as u8]);
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a server's frame.
pub fn append_answer(out: &mut Vec<u8>, opcode: u8, payload: &[u8; PAYLOAD_BYTES]) {
    out.extend([FINAL | opcode, PAYLOAD_BYTES as u8]);
    out.extend(payload);
}

/// One connection of a server that echoes.
#[derive(Debug, Default)]
pub struct Echo {
    is_upgraded: bool,
    /// What is not whole yet; an idle connection owns nothing.
    rest: Vec<u8>,
}

impl Echo {
    /// Takes what was received and appends what is to be sent.
    pub fn receive(&mut self, bytes: &[u8], answers: &mut Vec<u8>) {
        if self.rest.is_empty() {
            let used = self.take(bytes, answers);
            self.rest.extend_from_slice(&bytes[used..]);
            return;
        }
        let mut gathered = std::mem::take(&mut self.rest);
        gathered.extend_from_slice(bytes);
        let used = self.take(&gathered, answers);
        if used < gathered.len() {
            gathered.drain(..used);
            self.rest = gathered;
        }
    }

    /// Answers all that is whole; how many bytes that was.
    fn take(&mut self, bytes: &[u8], answers: &mut Vec<u8>) -> usize {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        let mut used = 0;
        if !self.is_upgraded {
            let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
                return 0;
            };
            answers.extend_from_slice(UPGRADED);
            self.is_upgraded = true;
            used = end + HEAD_END.len();
        }
        while let Some(frame) = bytes.get(used..)
            && let [head, length, m0, m1, m2, m3, rest @ ..] = frame
            && let Some(payload) = rest.get(..usize::from(length & !FINAL))
        {
            answers.extend([*head, length & !FINAL]);
            let start = answers.len();
            answers.extend_from_slice(payload);
            unmask(&mut answers[start..], [*m0, *m1, *m2, *m3]);
            used += 6 + payload.len();
        }
        used
    }
}

/// Four bytes at a time: the compiler makes wider steps of it.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (fours, rest) = payload.as_chunks_mut::<4>();
    for four in fours {
        *four = (u32::from_ne_bytes(*four) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    rest.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut, each message comes back once, in order, and nothing stays behind.
    #[test]
    fn what_is_cut_anywhere_comes_back_whole() {
        let payloads: Vec<[u8; PAYLOAD_BYTES]> = (0..3).map(|n| [n; PAYLOAD_BYTES]).collect();
        let (mut requests, mut wanted) = (UPGRADE.as_bytes().to_vec(), UPGRADED.to_vec());
        for payload in &payloads {
            append_request(&mut requests, BINARY, payload);
            append_answer(&mut wanted, BINARY, payload);
        }
        for piece_bytes in 1..=requests.len() {
            let (mut echo, mut answers) = (Echo::default(), Vec::new());
            requests.chunks(piece_bytes).for_each(|piece| echo.receive(piece, &mut answers));
            assert_eq!(answers, wanted, "in pieces of {piece_bytes}");
            assert_eq!(echo.rest.capacity(), 0);
        }
    }
}
