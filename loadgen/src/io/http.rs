//! As much of an HTTP/1.1 client as the set-up and the reading of histories need: one request at a time over one
//! connection that is kept, plain, blocking, with deadlines.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest answer that is read: a page of 200 of the largest messages, escaped, stays below.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A server that says nothing for this long is not there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Http {
    server: SocketAddr,
    stream: Option<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl Http {
    pub(crate) fn new(server: SocketAddr) -> Http {
        Http { server, stream: None }
    }

    /// One attempt. After an error the next one has a new connection.
    pub(crate) fn send(&mut self, request: &Request<'_>) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.server, TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream
            }
        };
        stream.write_all(&encoded(self.server, request))?;
        let (answer, is_kept) = read(&mut stream)?;
        self.stream = is_kept.then_some(stream);
        Ok(answer)
    }
}

fn encoded(server: SocketAddr, request: &Request<'_>) -> Vec<u8> {
    let Request { method, path, token, idempotency_key, body } = request;
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nAccept: application/json\r\n");
    if let Some(token) = token {
        out += &format!("Authorization: Bearer {token}\r\n");
    }
    if let Some(key) = idempotency_key {
        out += &format!("Idempotency-Key: {key}\r\n");
    }
    if !body.is_empty() {
        out += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    out += "\r\n";
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

fn invalid(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.to_owned())
}

/// How an answer's body ends (RFC 9112 section 6.3).
enum Length {
    Known(usize),
    Chunked,
    ToTheEnd,
}

/// Reads one answer; the flag says whether the connection may be used again.
fn read(stream: &mut TcpStream) -> io::Result<(Answer, bool)> {
    let mut bytes = Vec::new();
    let (status, head_bytes, length, mut is_kept) = loop {
        if let Some(head) = head(&bytes)? {
            break head;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(invalid("the head of an answer is too long"));
        }
        more(stream, &mut bytes)?;
    };
    bytes.drain(..head_bytes);
    let body = match length {
        Length::Known(length) if length > ANSWER_BYTES_MAX => return Err(invalid("an answer is too long")),
        Length::Known(length) => {
            while bytes.len() < length {
                more(stream, &mut bytes)?;
            }
            bytes.truncate(length);
            bytes
        }
        Length::ToTheEnd => {
            is_kept = false;
            let left = ANSWER_BYTES_MAX as u64;
            stream.take(left).read_to_end(&mut bytes)?;
            bytes
        }
        Length::Chunked => loop {
            if let Some(body) = dechunked(&bytes)? {
                break body;
            }
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(invalid("an answer is too long"));
            }
            more(stream, &mut bytes)?;
        },
    };
    Ok((Answer { status, body }, is_kept))
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    let count = stream.read(&mut piece).map_err(|error| match error.kind() {
        // What a deadline on a blocking socket is called.
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", TIMEOUT.as_secs()))
        }
        _ => error,
    })?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
    Ok(())
}

fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize, Length, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(bytes).map_err(|_| invalid("the answer is not HTTP"))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let status = answer.code.unwrap_or(0);
    let mut length = if status == 204 || status == 304 { Length::Known(0) } else { Length::ToTheEnd };
    let mut is_kept = true;
    for header in answer.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Length::Known(value.parse().map_err(|_| invalid("the content length is not a number"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding")
            && value.eq_ignore_ascii_case("chunked")
        {
            length = Length::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            is_kept = false;
        }
    }
    Ok(Some((status, head_bytes, length, is_kept)))
}

/// The body, when its last chunk is there.
fn dechunked(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(complete)) => complete,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(invalid("a chunk's size is not a number")),
        };
        let size = usize::try_from(size).ok().filter(|size| *size <= ANSWER_BYTES_MAX);
        let size = size.ok_or_else(|| invalid("a chunk is too long"))?;
        let Some(chunk) = rest.get(start..start + size) else { return Ok(None) };
        let Some(after) = rest.get(start + size + 2..) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(chunk);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(dechunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap(), Some(b"abcde".to_vec()));
        for cut in 0..15 {
            assert_eq!(dechunked(&b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"[..cut]).unwrap(), None);
        }
        assert!(dechunked(b"zz\r\n").is_err() && dechunked(b"ffffffffffff\r\n").is_err());
    }

    #[test]
    fn a_head_tells_how_its_body_ends() {
        assert!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").unwrap().is_none());
        let (status, bytes, length, is_kept) =
            head(b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello")
                .unwrap()
                .unwrap();
        assert!(status == 201 && bytes == 62 && matches!(length, Length::Known(5)) && !is_kept);
        assert!(head(b"SSH-2.0-x\r\n").is_err());
    }
}
