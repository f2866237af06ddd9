//! Responses: status, headers, body, and what every one of them carries.

use carillon_protocol::client::json;
use carillon_protocol::reason::{Code, Refusal};
use serde::Serialize;

use super::{RETRY_MS, Ticket};

/// How long a browser may remember a preflight's answer, in seconds.
const PREFLIGHT_AGE_S: u32 = 600;

/// An answer, as far as HTTP does not concern it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case; values are visible ASCII.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

/// What a response is put into: whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) ticket: Ticket,
    pub(crate) request_id: String,
    /// The page that asked, when one did and may read the answer.
    pub(crate) origin: Option<String>,
}

impl Response {
    /// A JSON body.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(body) => {
                Response { status, headers: vec![("content-type", "application/json".to_owned())], body }
            }
            // Structs with named fields always serialise into memory.
            Err(_) => Response { status: 500, headers: Vec::new(), body: Vec::new() },
        }
    }

    /// Any body.
    pub(crate) fn bytes(status: u16, content_type: &str, body: Vec<u8>) -> Response {
        Response { status, headers: vec![("content-type", content_type.to_owned())], body }
    }

    /// 204.
    pub(crate) fn empty() -> Response {
        Response { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    /// The one shape of errors.
    pub(crate) fn refusal(refusal: &Refusal, request_id: &str) -> Response {
        let mut body = Vec::new();
        json::error_body(refusal, request_id, &mut body);
        let mut headers = vec![("content-type", "application/json".to_owned())];
        let status = refusal.code.row().http_status;
        match status {
            // RFC 9110 section 11.6.1.
            401 => headers.push(("www-authenticate", "Bearer".to_owned())),
            429 | 503 => {
                // RFC 9110 section 10.2.3: whole seconds, so rounded up.
                let seconds = refusal.retry_after_ms.unwrap_or(RETRY_MS).div_ceil(1_000).max(1);
                headers.push(("retry-after", seconds.to_string()));
            }
            _ => {}
        }
        Response { status, headers, body }
    }

    /// 405, which is a `bad_request` (RFC 9110 section 15.5.6).
    pub(super) fn wrong_method(methods: &[&'static str], request_id: &str) -> Response {
        let methods = methods.join(", ");
        let refusal = Refusal::new(Code::BadRequest, format!("this path takes {methods}"));
        let mut response = Response::refusal(&refusal, request_id);
        response.status = 405;
        response.headers.push(("allow", methods));
        response
    }

    /// 426 for the path of the WebSocket (RFC 9110 section 15.5.22). The connection ends, because an upgrade has to be its
    /// first request; who keeps connections in store, as proxies do, tries again on a fresh one.
    pub(super) fn upgrade_required(request_id: &str) -> Response {
        let message = "this path is a WebSocket: send an upgrade, as the first request of its connection";
        let mut response = Response::refusal(&Refusal::new(Code::BadRequest, message), request_id);
        response.status = 426;
        let headers = [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("connection", "close")];
        response.headers.extend(headers.map(|(name, value)| (name, value.to_owned())));
        response
    }

    /// What a browser asks before a page's first request (Fetch standard, CORS preflight). Whether the page may read it
    /// is decided as for every response.
    pub(super) fn preflight(methods: &[&'static str]) -> Response {
        let methods = methods.join(", ");
        let allowed = "authorization, content-type, idempotency-key, last-event-id, x-request-id";
        Response {
            status: 204,
            headers: vec![
                ("allow", methods.clone()),
                ("access-control-allow-methods", methods),
                ("access-control-allow-headers", allowed.to_owned()),
                ("access-control-max-age", PREFLIGHT_AGE_S.to_string()),
            ],
            body: Vec::new(),
        }
    }

    /// Adds what every response carries.
    pub(crate) fn in_envelope(mut self, envelope: &Envelope) -> Response {
        self.headers.push(("x-request-id", envelope.request_id.clone()));
        self.headers.push(("cache-control", "no-store".to_owned()));
        self.headers.push(("x-content-type-options", "nosniff".to_owned()));
        if let Some(origin) = &envelope.origin {
            self.headers.push(("access-control-allow-origin", origin.clone()));
            self.headers.push(("access-control-expose-headers", "x-request-id, retry-after".to_owned()));
            self.headers.push(("vary", "origin".to_owned()));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_rounded_up() {
        for (millis, seconds) in
            [(Some(1), "1"), (Some(1_000), "1"), (Some(1_001), "2"), (None, "1"), (Some(0), "1")]
        {
            let refusal = Refusal { retry_after_ms: millis, ..Refusal::new(Code::RateLimited, "x") };
            let response = Response::refusal(&refusal, "r");
            assert!(response.headers.contains(&("retry-after", seconds.to_owned())), "{millis:?}");
        }
    }
}
