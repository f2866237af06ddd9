//! The HTTP/1.1 upgrade to a WebSocket (RFC 6455 section 4), for `GET /v1/ws` and nothing else.
//!
//! Drive it: keep a [`Head`] per connection, collect what is read, and hand all of it to [`Head::parse`] after each
//! read, until the answer is not [`Progress::Partial`]. The deadline is the caller's: this module has no clock.
//!
//! # Invariants
//! - Work is linear in the length of the head, however it is cut: the search for its end never starts over, and headers
//!   are parsed once, when all are there.
//! - A head has at most [`HEAD_BYTES_MAX`] bytes and [`HEADERS_MAX`] headers; more is refused with 431.
//! - A request for anything else is recognised by its first bytes, and is [`Progress::Other`] with nothing consumed.
//! - A token is taken from `Authorization` or from a subprotocol, never from the URL, and is not shown by `Debug`.
//! - What is refused with a status here was never upgraded: no close frame is due.

mod answer;
mod client;
mod headers;

use std::fmt;

pub use answer::{response_101, response_error};
pub use client::{Answer, encode_key, parse_response, request};

pub use headers::request_id;
use headers::{Headers, Once};

use crate::reason::{Code, Refusal};

/// The most bytes of a request's head, its last empty line included.
pub const HEAD_BYTES_MAX: usize = 8_192;
/// The most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// The most bytes of an `X-Request-Id` that is taken over; a longer one is ignored.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// The path of the WebSocket.
pub const PATH: &str = "/v1/ws";

const REQUEST_LINE_START: &[u8] = b"GET /v1/ws";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// How a token travels among the subprotocols: browsers cannot set headers on a WebSocket.
const BEARER_PREFIX: &str = "bearer.";

/// How frames are encoded on a connection, by the name that is negotiated (RFC 6455 section 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// Text frames of JSON.
    Json,
    /// Binary frames of rkyv archives.
    Rkyv,
}

impl Subprotocol {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Subprotocol::Json => "carillon.v1.json",
            Subprotocol::Rkyv => "carillon.v1.rkyv",
        }
    }

    /// The subprotocol of this name; names are compared byte by byte.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Subprotocol> {
        [Subprotocol::Json, Subprotocol::Rkyv].into_iter().find(|subprotocol| subprotocol.name() == name)
    }
}

/// A token as it came, not checked beyond its characters and length. `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bearer<'b>(&'b str);

impl<'b> Bearer<'b> {
    /// The token, for whoever verifies it.
    #[must_use]
    pub const fn reveal(self) -> &'b str {
        self.0
    }
}

impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Bearer({} bytes)", self.0.len())
    }
}

/// A request that may be upgraded, once its token and origin are found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'b> {
    /// `Sec-WebSocket-Key`: 24 characters that stand for 16 bytes.
    pub key: &'b str,
    /// The encoding that was agreed on.
    pub subprotocol: Subprotocol,
    /// Whether the client offered it: only then may the answer name it (RFC 6455 section 4.2.2).
    pub is_selected: bool,
    /// The subprotocols offered, in the client's order, without those that carry a token.
    pub offered: Vec<&'b str>,
    /// The token: from `Authorization`, else from the first `bearer.` subprotocol.
    pub bearer: Option<Bearer<'b>>,
    /// `Origin`: browsers send it always, others as they like.
    pub origin: Option<&'b str>,
    /// `X-Request-Id`, when it is fit to be echoed.
    pub request_id: Option<&'b str>,
    /// What proxies said about whose the request is, as it came: whoever asks knows whether to believe it.
    pub forwarded: Vec<Forwarded<'b>>,
}

/// A line of a header by which a proxy says whose a request is. It is as the client wrote it before the proxy added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded<'b> {
    /// `X-Forwarded-For`: addresses.
    List(&'b [u8]),
    /// `Forwarded`: pairs of names and values (RFC 7239).
    Pairs(&'b [u8]),
}

impl<'b> Forwarded<'b> {
    /// The line, if it is this one.
    #[must_use]
    pub fn list(self) -> Option<&'b [u8]> {
        if let Forwarded::List(line) = self { Some(line) } else { None }
    }

    /// The line, if it is this one.
    #[must_use]
    pub fn pairs(self) -> Option<&'b [u8]> {
        if let Forwarded::Pairs(line) = self { Some(line) } else { None }
    }
}

impl Request<'_> {
    /// The answer that upgrades. What follows it on the connection are frames.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        response_101(self.key, self.is_selected.then(|| self.subprotocol.name()), self.request_id)
    }
}

/// Why a request is not upgraded. The connection ends after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection<'b> {
    /// The HTTP status. It can be finer than the code's own: 426 and 431.
    pub status: u16,
    /// The code of the body.
    pub code: Code,
    /// What to change.
    pub message: &'static str,
    /// `X-Request-Id`, when it was read and is fit to be echoed.
    pub request_id: Option<&'b str>,
}

impl Rejection<'_> {
    /// The answer, with `request_id` when the client named none.
    #[must_use]
    pub fn response(&self, request_id: &str) -> Vec<u8> {
        let refusal = Refusal::new(self.code, self.message);
        response_error(self.status, &refusal, self.request_id.unwrap_or(request_id), &[])
    }
}

/// What a connection's first bytes amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'b> {
    /// Nothing yet: read more and call again with all of it.
    Partial,
    /// Not a request for [`PATH`]: every byte is for the HTTP server.
    Other,
    /// A request to upgrade, and how many bytes it took. Those behind it are frames already.
    Complete(Request<'b>, usize),
    /// A request for [`PATH`] that is wrong.
    Refused(Rejection<'b>),
}

/// How far a connection's head was searched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    scanned_bytes: u16,
}

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);

impl Head {
    /// The start of a connection.
    #[must_use]
    pub const fn new() -> Head {
        Head { scanned_bytes: 0 }
    }

    /// Looks at everything received so far: the bytes of the last call, and those that came since.
    #[must_use]
    pub fn parse<'b>(&mut self, bytes: &'b [u8]) -> Progress<'b> {
        match is_ours(bytes) {
            None => return Progress::Partial,
            Some(false) => return Progress::Other,
            Some(true) => {}
        }
        let within = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
        // The end may have begun in the last three bytes of what was searched before.
        let from = usize::from(self.scanned_bytes).saturating_sub(HEAD_END.len() - 1);
        let fresh = within.get(from..).unwrap_or(&[]);
        let Some(found) = fresh.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
            if within.len() == HEAD_BYTES_MAX {
                return refused(
                    431,
                    Code::TooLarge,
                    "the head of the request is longer than 8192 bytes",
                    None,
                );
            }
            self.scanned_bytes = u16::try_from(within.len()).unwrap_or(u16::MAX);
            return Progress::Partial;
        };
        let head_bytes = from + found + HEAD_END.len();
        parse_head(within.get(..head_bytes).unwrap_or(within))
    }
}

/// Parses bytes that were not looked at before; [`Head::parse`] is for a buffer that grows.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress<'_> {
    Head::new().parse(bytes)
}

/// Whether the request line is for [`PATH`], with or without a query; `None` when it is too early to say.
fn is_ours(bytes: &[u8]) -> Option<bool> {
    match bytes.strip_prefix(REQUEST_LINE_START) {
        Some([]) => None,
        Some([next, ..]) => Some(matches!(next, b' ' | b'?')),
        None if REQUEST_LINE_START.starts_with(bytes) => None,
        None => Some(false),
    }
}

fn refused<'b>(status: u16, code: Code, message: &'static str, request_id: Option<&'b str>) -> Progress<'b> {
    Progress::Refused(Rejection { status, code, message, request_id })
}

/// `head` ends with the first empty line.
fn parse_head(head: &[u8]) -> Progress<'_> {
    // Where a line ends, or a head, is the same to all who read it: where one takes LF alone for an end, it is a part of the
    // line to another (RFC 9112 section 2.2).
    let is_bare = |(before, byte): (&u8, &u8)| *byte == b'\n' && *before != b'\r';
    if head.iter().zip(head.iter().skip(1)).any(is_bare) {
        return refused(400, Code::BadRequest, "a line of the head does not end with CR LF", None);
    }
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut storage);
    match request.parse(head) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes == head.len() => {}
        Ok(_) => return refused(400, Code::BadRequest, "the head ends before its empty line", None),
        Err(httparse::Error::TooManyHeaders) => {
            return refused(431, Code::TooLarge, "the request has more than 64 headers", None);
        }
        Err(_) => return refused(400, Code::BadRequest, "the head is not HTTP/1.1", None),
    }
    let headers = Headers::gather(request.headers);
    match upgrade(request.version, &headers) {
        Ok(request) => Progress::Complete(request, head.len()),
        Err((status, code, message)) => refused(status, code, message, headers.request_id),
    }
}

type Wrong = (u16, Code, &'static str);

const fn bad(message: &'static str) -> Wrong {
    (400, Code::BadRequest, message)
}

const fn upgrade_required(message: &'static str) -> Wrong {
    (426, Code::BadRequest, message)
}

const fn unauthenticated(message: &'static str) -> Wrong {
    (401, Code::Unauthenticated, message)
}

/// The rules of RFC 6455 section 4.2.1, and ours about tokens and subprotocols.
fn upgrade<'b>(version: Option<u8>, headers: &Headers<'b>) -> Result<Request<'b>, Wrong> {
    if version != Some(1) {
        return Err(bad("a WebSocket needs HTTP/1.1"));
    }
    match headers.host {
        Once::One(host) if headers::is_host(host) => {}
        Once::One(_) => return Err(bad("the Host header is no host")),
        _ => return Err(bad("exactly one Host header is needed")),
    }
    match headers.upgrade {
        Once::Absent => return Err(upgrade_required("this path is a WebSocket: send an upgrade")),
        Once::One(value) if headers::lists(value, "websocket") => {}
        Once::One(_) => return Err(bad("the Upgrade header does not name websocket")),
        Once::Several => return Err(bad("more than one Upgrade header")),
    }
    if !headers.connection_upgrade {
        return Err(bad("the Connection header does not name upgrade"));
    }
    match headers.version {
        Once::One(b"13") => {}
        Once::Several => return Err(bad("more than one Sec-WebSocket-Version header")),
        _ => return Err(upgrade_required("Sec-WebSocket-Version has to be 13")),
    }
    let Once::One(key) = headers.key else {
        return Err(bad("exactly one Sec-WebSocket-Key header is needed"));
    };
    let key = headers::key(key).ok_or(bad("Sec-WebSocket-Key is not 16 bytes in base64"))?;
    if headers.transfer_encoding || !matches!(headers.content_length, Once::Absent | Once::One(b"0")) {
        return Err(bad("a request to upgrade has no body"));
    }
    let origin = match headers.origin {
        Once::Absent => None,
        Once::One(origin) => Some(headers::visible(origin).ok_or(bad("the Origin header is malformed"))?),
        Once::Several => return Err(bad("more than one Origin header")),
    };
    let authorization = match headers.authorization {
        Once::Absent => None,
        Once::One(value) => Some(
            headers::bearer(value)
                .ok_or(unauthenticated("the Authorization header is not: Bearer <token>"))?,
        ),
        Once::Several => return Err(unauthenticated("more than one Authorization header")),
    };
    let offer = Offer::read(&headers.subprotocols)?;
    let bearer = match (authorization, offer.bearer) {
        (None, Some(token)) => {
            Some(headers::token68(token).ok_or(unauthenticated("the bearer subprotocol holds no token"))?)
        }
        (authorization, _) => authorization,
    };
    Ok(Request {
        key,
        subprotocol: offer.chosen.unwrap_or(Subprotocol::Json),
        is_selected: offer.chosen.is_some(),
        offered: offer.names,
        bearer: bearer.map(Bearer),
        origin,
        request_id: headers.request_id,
        forwarded: headers.forwarded.clone(),
    })
}

/// What `Sec-WebSocket-Protocol` says.
struct Offer<'b> {
    names: Vec<&'b str>,
    chosen: Option<Subprotocol>,
    bearer: Option<&'b str>,
}

impl<'b> Offer<'b> {
    /// The client's order is its preference: the first name we know is taken. Something was offered and nothing of it
    /// is known: refused, since a browser would fail the connection anyway, with less to go by.
    fn read(values: &[&'b [u8]]) -> Result<Offer<'b>, Wrong> {
        let mut offer = Offer { names: Vec::new(), chosen: None, bearer: None };
        for item in values.iter().flat_map(|value| headers::items(value)) {
            let name = headers::token(item).ok_or(bad("Sec-WebSocket-Protocol is not a list of names"))?;
            match name.strip_prefix(BEARER_PREFIX) {
                Some(token) => offer.bearer = offer.bearer.or(Some(token)),
                None => {
                    offer.chosen = offer.chosen.or(Subprotocol::from_name(name));
                    offer.names.push(name);
                }
            }
        }
        if offer.chosen.is_none() && (offer.bearer.is_some() || !offer.names.is_empty()) {
            return Err(bad("offer the subprotocol carillon.v1.json or carillon.v1.rkyv"));
        }
        Ok(offer)
    }
}
