//! Everything that can be said to a peer about what went wrong: one table of error codes, one of close codes. A row
//! tells the client which HTTP status it is, which close code repeats of it lead to, and whether to try again.

/// An error as protocol.md names it, on WebSocket and REST alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Code {
    /// The request is wrong as it stands.
    BadRequest = 1,
    /// No token, or none that is valid.
    Unauthenticated = 2,
    /// The token was valid once.
    TokenExpired = 3,
    /// Not allowed, or not there: the same answer, so that ids cannot be probed.
    Forbidden = 4,
    /// A user, a route, or a message inside one's own conversation that is not there.
    NotFound = 5,
    /// The same `client_msg_id` was used with other content (G2).
    IdempotencyConflict = 6,
    /// It was there.
    Gone = 7,
    /// Larger than the limit.
    TooLarge = 8,
    /// A media type that is not taken.
    UnsupportedMedia = 9,
    /// Too many in too little time.
    RateLimited = 10,
    /// The server has more work than it takes on.
    Overloaded = 11,
    /// A part that is needed is away for now.
    Unavailable = 12,
    /// It may or may not have happened: retry with the *same* `client_msg_id` (G5).
    UnknownOutcome = 13,
    /// A defect of the server.
    Internal = 14,
}

/// One row of the table of errors.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The code.
    pub code: Code,
    /// Its name on the wire.
    pub name: &'static str,
    /// Its HTTP status.
    pub http_status: u16,
    /// The close code that persistent repetition leads to, if any.
    pub close: Option<Close>,
    /// Whether the same request may succeed later, unchanged.
    pub retryable: bool,
    /// What the one who wrote the client should have it do.
    pub advice: &'static str,
}

/// The table: code → name → HTTP → close → retry?
pub const ROWS: [Row; 14] = [
    row(
        Code::BadRequest,
        "bad_request",
        400,
        Some(Close::MalformedFrames),
        false,
        "Correct the request: `message` says how, `field` names the place.",
    ),
    row(
        Code::Unauthenticated,
        "unauthenticated",
        401,
        Some(Close::AuthenticationFailed),
        false,
        "Get a token from the identity provider and identify with it.",
    ),
    row(
        Code::TokenExpired,
        "token_expired",
        401,
        Some(Close::AuthenticationFailed),
        false,
        "Get a fresh token and try again with it.",
    ),
    row(
        Code::Forbidden,
        "forbidden",
        403,
        None,
        false,
        "Do not repeat it: it is not there, or not for this user, or not for this role.",
    ),
    row(
        Code::NotFound,
        "not_found",
        404,
        None,
        false,
        "Do not repeat it: that user, message or route does not exist.",
    ),
    row(
        Code::IdempotencyConflict,
        "idempotency_conflict",
        409,
        None,
        false,
        "This `client_msg_id` already stands for other content: give every message its own.",
    ),
    row(Code::Gone, "gone", 410, None, false, "It was there and is no more: drop what refers to it."),
    row(
        Code::TooLarge,
        "too_large",
        413,
        None,
        false,
        "Send less: the bound is in `message` or in `hello.limits`.",
    ),
    row(
        Code::UnsupportedMedia,
        "unsupported_media",
        415,
        None,
        false,
        "Send `application/json`, or for media one of the types that are taken.",
    ),
    row(
        Code::RateLimited,
        "rate_limited",
        429,
        Some(Close::RateLimited),
        true,
        "Wait `retry_after_ms`, then send the same again.",
    ),
    row(
        Code::Overloaded,
        "overloaded",
        503,
        None,
        true,
        "Wait `retry_after_ms` or back off with jitter, then send the same again.",
    ),
    row(
        Code::Unavailable,
        "unavailable",
        503,
        None,
        true,
        "Wait `retry_after_ms` or back off with jitter, then send the same again.",
    ),
    row(
        Code::UnknownOutcome,
        "unknown_outcome",
        504,
        None,
        true,
        "Send the same again with the same `client_msg_id`: it takes effect once.",
    ),
    row(Code::Internal, "internal", 500, None, false, "Report `request_id` to whoever runs the server."),
];

const fn row(
    code: Code,
    name: &'static str,
    http_status: u16,
    close: Option<Close>,
    retryable: bool,
    advice: &'static str,
) -> Row {
    Row { code, name, http_status, close, retryable, advice }
}

// A row stands at its code's number less one, so that looking up is indexing.
const _: () = {
    let mut index = 0;
    while index < ROWS.len() {
        assert!(ROWS[index].code as usize == index + 1);
        index += 1;
    }
};

impl Code {
    /// The code's row of [`ROWS`].
    #[must_use]
    pub const fn row(self) -> &'static Row {
        &ROWS[self as usize - 1]
    }

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The code with this number on a link frame; [`Code::Internal`] for a number from a newer version.
    #[must_use]
    pub fn from_number(number: u16) -> Code {
        ROWS.get(usize::from(number).wrapping_sub(1)).map_or(Code::Internal, |row| row.code)
    }

    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Code> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.code)
    }
}

/// An error on its way to a peer: the code, what to change, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind.
    pub code: Code,
    /// A sentence that says what to change. No text of a user in it.
    pub message: std::borrow::Cow<'static, str>,
    /// The field that is wrong, by its name on the wire.
    pub field: Option<&'static str>,
    /// How long to wait before trying again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal without field or waiting time.
    #[must_use]
    pub fn new(code: Code, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
        Refusal { code, message: message.into(), field: None, retry_after_ms: None }
    }

    /// A `bad_request` about one field.
    #[must_use]
    pub fn field(field: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
        Refusal { code: Code::BadRequest, message: message.into(), field: Some(field), retry_after_ms: None }
    }

    /// The same refusal with a time to wait.
    #[must_use]
    pub fn retry_after(mut self, millis: u64) -> Refusal {
        self.retry_after_ms = Some(millis);
        self
    }
}

/// Why the server closes a WebSocket. 4000–4499: reconnect and go on. 4500–4999: stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Close {
    /// `bye`, or the peer's own normal close.
    Bye = 1000,
    /// The endpoint goes away.
    GoingAway = 1001,
    /// RFC 6455 was broken.
    ProtocolError = 1002,
    /// A frame of a type that this subprotocol does not carry.
    UnsupportedData = 1003,
    /// Text that is not UTF-8.
    InvalidUtf8 = 1007,
    /// A frame above `limits.frame_bytes`.
    TooBig = 1009,
    /// A defect of the server.
    Internal = 1011,
    /// The server drains: reconnect after the time in `reconnect`.
    Restart = 1012,
    /// No room for now.
    TryLater = 1013,
    /// No `identify` in time.
    IdentifyTimeout = 4003,
    /// Rate limit persistently exceeded.
    RateLimited = 4008,
    /// Too slow for longer than the grace time.
    SlowConsumer = 4010,
    /// Nothing was heard for two intervals and ten seconds.
    HeartbeatMissed = 4011,
    /// The token of a live connection expired.
    TokenExpired = 4012,
    /// The token was refused.
    AuthenticationFailed = 4500,
    /// The device was revoked.
    DeviceRevoked = 4501,
    /// Too many malformed frames.
    MalformedFrames = 4503,
    /// Too many connections of this user.
    TooManyConnections = 4505,
    /// The Origin is not allowed.
    OriginRefused = 4506,
    /// The same device connected anew.
    Replaced = 4507,
}

impl Close {
    /// Every one, ascending.
    pub const ALL: [Close; 20] = [
        Close::Bye,
        Close::GoingAway,
        Close::ProtocolError,
        Close::UnsupportedData,
        Close::InvalidUtf8,
        Close::TooBig,
        Close::Internal,
        Close::Restart,
        Close::TryLater,
        Close::IdentifyTimeout,
        Close::RateLimited,
        Close::SlowConsumer,
        Close::HeartbeatMissed,
        Close::TokenExpired,
        Close::AuthenticationFailed,
        Close::DeviceRevoked,
        Close::MalformedFrames,
        Close::TooManyConnections,
        Close::OriginRefused,
        Close::Replaced,
    ];

    /// Whether the client may connect again by itself: after 4500 to 4999 somebody has to do something first, and after
    /// `bye` nobody wants to.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        self.code() < 4500 && !matches!(self, Close::Bye)
    }

    /// The number on the wire (RFC 6455 section 7.4).
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason text of the close frame, at most 123 bytes (RFC 6455 section 5.5).
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Close::Bye => "bye",
            Close::GoingAway => "going away",
            Close::ProtocolError => "protocol error",
            Close::UnsupportedData => "unsupported data",
            Close::InvalidUtf8 => "invalid UTF-8",
            Close::TooBig => "frame too big",
            Close::Internal => "internal error",
            Close::Restart => "restart, reconnect",
            Close::TryLater => "try again later",
            Close::IdentifyTimeout => "no identify in time",
            Close::RateLimited => "rate limit persistently exceeded",
            Close::SlowConsumer => "slow consumer",
            Close::HeartbeatMissed => "heartbeat missed",
            Close::TokenExpired => "token expired",
            Close::AuthenticationFailed => "authentication failed",
            Close::DeviceRevoked => "device revoked",
            Close::MalformedFrames => "repeated malformed frames",
            Close::TooManyConnections => "too many connections of this user",
            Close::OriginRefused => "origin refused",
            Close::Replaced => "replaced by a newer connection of the same device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_link() {
        for row in ROWS {
            assert_eq!(Code::from_number(row.code as u16), row.code);
            assert_eq!(Code::from_name(row.name), Some(row.code));
        }
        assert_eq!(Code::from_number(0), Code::Internal);
        assert_eq!(Code::from_number(999), Code::Internal);
    }
}
