//! What REST is driven by and what it says: requests as far as HTTP has been read off them, inputs, outputs, and what of
//! the settings matters.

use std::net::IpAddr;
use std::sync::Arc;

use carillon_link::Peer;
use carillon_protocol::ids::UserId;
use carillon_protocol::reason::{Code, Refusal};
use rkyv::util::AlignedVec;

use super::Response;
use crate::settings;

/// What of the gateway's settings matters here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `gateway.origins`: exact origins.
    pub origins: Vec<String>,
    /// Whether pages served from this machine may ask when no origin is listed.
    pub is_development: bool,
    /// `auth.auto_provision`.
    pub auto_provision: bool,
    /// `limits.inflight`: requests of one user that may wait; at this many, further ones are refused with `rate_limited`.
    pub inflight: usize,
    /// `limits.frame_bytes`: bytes of a body.
    pub body_bytes: usize,
    /// `limits.device_per_s`: durable commands of one device; 0: unlimited.
    pub device_per_s: u64,
    /// `limits.device_burst`.
    pub device_burst: u64,
    /// `limits.address_per_s`: connections from one address, counted at their first request; 0: unlimited.
    pub address_per_s: u64,
    /// `limits.address_burst`.
    pub address_burst: u64,
}

impl Settings {
    /// Takes what matters here.
    #[must_use]
    pub fn of(settings: &settings::Settings, is_development: bool) -> Settings {
        let limits = &settings.limits;
        Settings {
            origins: settings.gateway.origins.clone(),
            is_development,
            auto_provision: settings.auth.auto_provision,
            inflight: limits.inflight,
            body_bytes: limits.frame_bytes,
            device_per_s: limits.device_per_s,
            device_burst: limits.device_burst,
            address_per_s: limits.address_per_s,
            address_burst: limits.address_burst,
        }
    }
}

/// A user whom anybody at this machine may try out, in development mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyUser {
    /// Who.
    pub user: UserId,
    /// Their name.
    pub name: String,
    /// A token of theirs.
    pub token: String,
}

/// Makes the ready users with fresh tokens, each time the page is asked for.
pub type ReadyUsers = Arc<dyn Fn() -> Vec<ReadyUser> + Send + Sync>;

/// Which request a response belongs to: a number that its driver chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request, as far as HTTP has been read off it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// As sent, without the query; still percent-encoded.
    pub path: String,
    /// What stands behind `?`; empty when there is nothing.
    pub query: String,
    /// The headers that are looked at.
    pub headers: Headers,
    /// Who asks, when that is known.
    pub address: Option<IpAddr>,
    /// Whether others came on the same connection before it.
    pub is_follower: bool,
    /// The body.
    pub body: Body,
}

impl Request {
    /// The body, as far as its size and type go; what is in it is the handler's.
    ///
    /// # Errors
    /// `too_large`; `unsupported_media` for a body that says it is something else than JSON, or packed.
    pub(crate) fn json_body(&self, bytes_max: usize) -> Result<&[u8], Refusal> {
        let body = match &self.body {
            Body::Whole(bytes) if bytes.len() <= bytes_max => bytes,
            _ => {
                let message = format!("the body must be at most {bytes_max} bytes");
                return Err(Refusal::new(Code::TooLarge, message));
            }
        };
        if !body.is_empty() && !self.headers.is_json() {
            let message = "send the body as Content-Type: application/json, not packed";
            return Err(Refusal::new(Code::UnsupportedMedia, message));
        }
        Ok(body)
    }
}

/// Headers that are looked at. Bytes where a value may be any.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// `Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<Vec<u8>>,
    /// `X-Request-Id`.
    pub request_id: Option<Vec<u8>>,
    /// `Origin`.
    pub origin: Option<Vec<u8>>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<Vec<u8>>,
    /// `Host`.
    pub host: Option<Vec<u8>>,
    /// `Content-Type`.
    pub content_type: Option<Vec<u8>>,
    /// `Content-Encoding`.
    pub content_encoding: Option<Vec<u8>>,
}

impl Headers {
    /// Whether a body may be JSON (RFC 9110 section 8.3, RFC 6839 section 3.1). Nothing said will do, and so will what
    /// many programs say when nobody told them: that it is a form (curl), or text (fetch in a browser).
    fn is_json(&self) -> bool {
        let is_packed =
            self.content_encoding.as_deref().is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        let Some(given) = self.content_type.as_deref().filter(|given| !given.is_empty()) else {
            return !is_packed;
        };
        let essence = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let essence = essence.to_ascii_lowercase();
        let is_json = essence.ends_with(b"+json")
            || matches!(
                essence.as_slice(),
                b"application/json" | b"application/x-www-form-urlencoded" | b"text/plain"
            );
        is_json && !is_packed
    }
}

/// A request's body.
#[derive(Clone, Debug)]
pub enum Body {
    /// All of it; empty when there is none.
    Whole(Vec<u8>),
    /// More than [`Settings::body_bytes`]; dropped unread.
    TooLarge,
}

impl Default for Body {
    fn default() -> Body {
        Body::Whole(Vec::new())
    }
}

/// What happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "handed over once, on the stack")]
pub enum Input<'a> {
    /// A request arrived.
    Request {
        /// Its name from now on.
        ticket: Ticket,
        /// The request.
        request: Request,
    },
    /// A lane to a router is there.
    LaneUp {
        /// Which router.
        router: Peer,
        /// From its `Open`.
        incarnation: u64,
    },
    /// A frame from a router, header included, aligned to eight bytes.
    LaneFrame {
        /// From.
        router: Peer,
        /// The lane's memory.
        frame: &'a [u8],
    },
    /// A lane is lost.
    LaneDown {
        /// Which router.
        router: Peer,
    },
    /// The time of [`Rest::poll_timeout`](super::Rest::poll_timeout) has come, or nothing happened.
    Tick,
    /// Take nothing new; say when everything is answered.
    Drain,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Answer a request.
    Response {
        /// Which.
        ticket: Ticket,
        /// How.
        response: Response,
    },
    /// Put a frame on the lane to a router.
    Link {
        /// Which.
        router: Peer,
        /// Header included.
        frame: AlignedVec,
    },
    /// Give up a lane: something came on it that cannot be read. `LaneDown` follows.
    CloseLane {
        /// Which.
        router: Peer,
    },
    /// Everything is answered after a drain.
    Drained,
}
