//! The client's half of the upgrade, for the load generator and for tests (RFC 6455 section 4.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::header;
use super::headers::{Headers, Once, items, lists, token};
use super::{HEAD_BYTES_MAX, HEAD_END, HEADERS_MAX};
use crate::websocket::accept_key;

/// A `Sec-WebSocket-Key` from 16 bytes that the caller drew at random.
#[must_use]
pub fn encode_key(nonce: [u8; 16]) -> String {
    STANDARD.encode(nonce)
}

/// A request to upgrade. `host` is `name:port`; `key` comes from [`encode_key`]; a token goes into `Authorization`.
#[must_use]
pub fn request(host: &str, path: &str, key: &str, subprotocols: &[&str], bearer: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"GET ");
    out.extend(path.bytes().filter(u8::is_ascii_graphic));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    header(&mut out, "Host", host);
    header(&mut out, "Upgrade", "websocket");
    header(&mut out, "Connection", "Upgrade");
    header(&mut out, "Sec-WebSocket-Key", key);
    header(&mut out, "Sec-WebSocket-Version", "13");
    if !subprotocols.is_empty() {
        header(&mut out, "Sec-WebSocket-Protocol", &subprotocols.join(", "));
    }
    if let Some(token) = bearer {
        header(&mut out, "Authorization", &format!("Bearer {token}"));
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// What a server's first bytes amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'b> {
    /// Nothing yet: read more and call again with all of it.
    Partial,
    /// Upgraded.
    Accepted {
        /// The subprotocol that the server chose.
        subprotocol: Option<&'b str>,
        /// Bytes of the head; what follows are frames already.
        consumed: usize,
    },
    /// Answered with another status.
    Refused {
        /// The status.
        status: u16,
        /// Bytes of the head; what follows is the body.
        consumed: usize,
    },
    /// Not an answer to this request: the connection is to be failed.
    Invalid(&'static str),
}

/// Reads the answer to a [`request`] with this key and these subprotocols. Each call searches from the start: answers
/// are short and come in one piece, and a head ends at [`HEAD_BYTES_MAX`].
#[must_use]
pub fn parse_response<'b>(bytes: &'b [u8], key: &str, offered: &[&str]) -> Answer<'b> {
    let within = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    if !within.windows(HEAD_END.len()).any(|window| window == HEAD_END) {
        return if within.len() == HEAD_BYTES_MAX {
            Answer::Invalid("the head of the answer is longer than 8192 bytes")
        } else {
            Answer::Partial
        };
    }
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut storage);
    let Ok(httparse::Status::Complete(consumed)) = response.parse(within) else {
        return Answer::Invalid("the head of the answer is not HTTP");
    };
    let status = response.code.unwrap_or(0);
    if status != 101 {
        return Answer::Refused { status, consumed };
    }
    match accepted(&Headers::gather(response.headers), key, offered) {
        Ok(subprotocol) => Answer::Accepted { subprotocol, consumed },
        Err(sentence) => Answer::Invalid(sentence),
    }
}

/// The checks that a client owes (RFC 6455 section 4.1): gives the subprotocol.
fn accepted<'b>(headers: &Headers<'b>, key: &str, offered: &[&str]) -> Result<Option<&'b str>, &'static str> {
    if !matches!(headers.upgrade, Once::One(value) if lists(value, "websocket")) {
        return Err("the answer does not upgrade to websocket");
    }
    if !headers.connection_upgrade {
        return Err("the answer's Connection header does not name upgrade");
    }
    if !matches!(headers.accept, Once::One(value) if value == accept_key(key).as_bytes()) {
        return Err("Sec-WebSocket-Accept does not belong to the key");
    }
    if headers.extensions {
        return Err("the server chose an extension that was not offered");
    }
    let mut chosen = headers.subprotocols.iter().flat_map(|value| items(value));
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(None),
        (Some(name), None) => match token(name) {
            Some(name) if offered.contains(&name) => Ok(Some(name)),
            _ => Err("the server chose a subprotocol that was not offered"),
        },
        (Some(_), Some(_)) => Err("the server chose more than one subprotocol"),
    }
}
