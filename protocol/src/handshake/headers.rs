//! The headers that matter to an upgrade, gathered in one pass, and the grammar of their values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Forwarded, REQUEST_ID_BYTES_MAX};
use crate::limits::TOKEN_BYTES_MAX;

/// A header that should come once. Two readers may choose differently between two of them, so two are never right.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Once<'b> {
    #[default]
    Absent,
    One(&'b [u8]),
    Several,
}

impl<'b> Once<'b> {
    fn meet(&mut self, value: &'b [u8]) {
        *self = match self {
            Once::Absent => Once::One(value),
            Once::One(_) | Once::Several => Once::Several,
        };
    }
}

/// The headers of one message. Names are compared without case (RFC 9110 section 5.1).
#[derive(Debug, Default)]
pub(super) struct Headers<'b> {
    pub(super) host: Once<'b>,
    pub(super) upgrade: Once<'b>,
    pub(super) key: Once<'b>,
    pub(super) version: Once<'b>,
    pub(super) content_length: Once<'b>,
    pub(super) origin: Once<'b>,
    pub(super) authorization: Once<'b>,
    pub(super) accept: Once<'b>,
    /// `Connection` names `upgrade`, in any of its lines (RFC 9110 section 7.6.1).
    pub(super) connection_upgrade: bool,
    pub(super) transfer_encoding: bool,
    pub(super) extensions: bool,
    /// The lines of `Sec-WebSocket-Protocol`: several are one list (RFC 6455 section 11.3.4).
    pub(super) subprotocols: Vec<&'b [u8]>,
    pub(super) request_id: Option<&'b str>,
    pub(super) forwarded: Vec<Forwarded<'b>>,
}

impl<'b> Headers<'b> {
    pub(super) fn gather(lines: &[httparse::Header<'b>]) -> Headers<'b> {
        let mut headers = Headers::default();
        for &httparse::Header { name, value } in lines {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("host") {
                headers.host.meet(value);
            } else if is("upgrade") {
                headers.upgrade.meet(value);
            } else if is("connection") {
                headers.connection_upgrade |= lists(value, "upgrade");
            } else if is("sec-websocket-key") {
                headers.key.meet(value);
            } else if is("sec-websocket-version") {
                headers.version.meet(value);
            } else if is("sec-websocket-protocol") {
                headers.subprotocols.push(value);
            } else if is("sec-websocket-accept") {
                headers.accept.meet(value);
            } else if is("sec-websocket-extensions") {
                headers.extensions |= items(value).next().is_some();
            } else if is("content-length") {
                headers.content_length.meet(value);
            } else if is("transfer-encoding") {
                headers.transfer_encoding = true;
            } else if is("origin") {
                headers.origin.meet(value);
            } else if is("authorization") {
                headers.authorization.meet(value);
            } else if is("x-request-id") {
                headers.request_id = headers.request_id.or(request_id(value));
            } else if is("x-forwarded-for") {
                headers.forwarded.push(Forwarded::List(value));
            } else if is("forwarded") {
                headers.forwarded.push(Forwarded::Pairs(value));
            }
        }
        headers
    }
}

/// The items of a list; empty ones are skipped (RFC 9110 section 5.6.1).
pub(super) fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// Whether a list holds this item, without case.
pub(super) fn lists(value: &[u8], wanted: &str) -> bool {
    items(value).any(|item| item.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// A token (RFC 9110 section 5.6.2).
pub(super) fn token(item: &[u8]) -> Option<&str> {
    let is_sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if item.is_empty() || !item.iter().all(is_sound) { None } else { std::str::from_utf8(item).ok() }
}

/// Whether a value can be a `Host` (RFC 9110 section 7.2): the characters of a host and a port (RFC 3986 section 3.2.2). No
/// comma, which would be two hosts to whoever reads a list.
pub(super) fn is_host(value: &[u8]) -> bool {
    let is_sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte);
    !value.is_empty() && value.iter().all(is_sound)
}

/// Visible ASCII, not empty.
pub(super) fn visible(value: &[u8]) -> Option<&str> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_graphic) {
        None
    } else {
        std::str::from_utf8(value).ok()
    }
}

/// A `Sec-WebSocket-Key`: 16 bytes in base64, in the one way to write them.
pub(super) fn key(value: &[u8]) -> Option<&str> {
    // Room for what 24 characters may stand for: with less padding they are 18 bytes, which is not a key.
    let mut nonce = [0; 18];
    match STANDARD.decode_slice(value, &mut nonce) {
        Ok(16) => std::str::from_utf8(value).ok(),
        _ => None,
    }
}

/// The token of `Authorization: Bearer <token>` (RFC 6750 section 2.1). The scheme is compared without case (RFC 9110
/// section 11.1).
pub(super) fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { token68(token.trim_matches(' ')) } else { None }
}

/// The characters that a token may have: letters, digits, `-._~+/`, then `=` (RFC 6750 section 2.1). At most
/// [`TOKEN_BYTES_MAX`].
pub(super) fn token68(token: &str) -> Option<&str> {
    let body = token.trim_end_matches('=');
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    (!body.is_empty() && token.len() <= TOKEN_BYTES_MAX && body.bytes().all(is_sound)).then_some(token)
}

/// An `X-Request-Id` that may stand in a header, a log and JSON as it is; `None` for any other, which is not echoed.
#[must_use]
pub fn request_id(value: &[u8]) -> Option<&str> {
    let is_sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:/+=@".contains(byte);
    if value.is_empty() || value.len() > REQUEST_ID_BYTES_MAX || !value.iter().all(is_sound) {
        return None;
    }
    std::str::from_utf8(value).ok()
}
