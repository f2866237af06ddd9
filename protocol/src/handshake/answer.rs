//! What a server answers to a request to upgrade.

use serde::Serialize;

use crate::reason::Refusal;
use crate::websocket::accept_key;

/// The answer that upgrades (RFC 6455 section 4.2.2). `subprotocol` only when the client offered it.
#[must_use]
pub fn response_101(key: &str, subprotocol: Option<&str>, request_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    header(&mut out, "Upgrade", "websocket");
    header(&mut out, "Connection", "Upgrade");
    header(&mut out, "Sec-WebSocket-Accept", &accept_key(key));
    if let Some(subprotocol) = subprotocol {
        header(&mut out, "Sec-WebSocket-Protocol", subprotocol);
    }
    if let Some(request_id) = request_id {
        header(&mut out, "X-Request-Id", request_id);
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    message: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    request_id: &'a str,
}

/// The answer that refuses; the connection ends after it. `status` is the code's own or a finer one. The headers that a
/// status asks for are added: `WWW-Authenticate` (401), `Upgrade` and the version we speak (426), `Retry-After` when the
/// refusal says when.
#[must_use]
pub fn response_error(status: u16, refusal: &Refusal, request_id: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let row = refusal.code.row();
    let error = Error {
        code: row.name,
        message: &refusal.message,
        retryable: row.retryable,
        retry_after_ms: refusal.retry_after_ms,
        field: refusal.field,
        request_id,
    };
    // Strings and numbers always serialise; an empty body would still be a correct answer.
    let body = serde_json::to_vec(&Body { error }).unwrap_or_default();

    let mut out = Vec::with_capacity(384 + body.len());
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", phrase(status)).as_bytes());
    header(&mut out, "Content-Type", "application/json");
    header(&mut out, "Content-Length", &body.len().to_string());
    match status {
        // RFC 9110 section 15.5.2.
        401 => header(&mut out, "WWW-Authenticate", "Bearer"),
        // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
        426 => {
            header(&mut out, "Upgrade", "websocket");
            header(&mut out, "Connection", "Upgrade");
            header(&mut out, "Sec-WebSocket-Version", "13");
        }
        _ => {}
    }
    if let Some(millis) = refusal.retry_after_ms {
        // Whole seconds, rounded up: early is too early.
        header(&mut out, "Retry-After", &millis.div_ceil(1_000).to_string());
    }
    header(&mut out, "X-Request-Id", request_id);
    for (name, value) in extra {
        header(&mut out, name, value);
    }
    header(&mut out, "Connection", "close");
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}

/// Appends one header line. Of the value only printable ASCII is written: nothing that came from outside can end a line.
pub(super) fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().filter(|byte| matches!(byte, 0x20..=0x7e)));
    out.extend_from_slice(b"\r\n");
}

/// The words behind a status, for people; nobody parses them (RFC 9112 section 4).
const fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Refused",
    }
}
