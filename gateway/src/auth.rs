//! Who may come in: tokens and origins. Both are pure: the keys and the wall time are handed in.

use carillon_node::tokens::{Claims, KeyTable, TokenError};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::time::WallMs;

/// Checks a token.
///
/// # Errors
/// `token_expired`, or `unauthenticated` with which rule it broke and never a piece of it.
pub(crate) fn verify(keys: &KeyTable, token: &str, wall: WallMs) -> Result<Claims, Refusal> {
    keys.verify(token, wall.0).map_err(|error| {
        let code = if error == TokenError::Expired { Code::TokenExpired } else { Code::Unauthenticated };
        Refusal::new(code, error.to_string())
    })
}

/// Whether a page from `origin` may open a WebSocket: one of the exact `origins`; without any, a page served from this
/// machine in development mode.
#[must_use]
pub(crate) fn is_origin_allowed(origin: &str, origins: &[String], is_development: bool) -> bool {
    if origins.is_empty() {
        is_development && is_loopback(origin)
    } else {
        origins.iter().any(|one| one == origin)
    }
}

/// RFC 6454 section 7: a scheme, a host, perhaps a port, and nothing else.
fn is_loopback(origin: &str) -> bool {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    host.is_some_and(is_loopback_host)
}

/// Whether a `Host` names this machine (RFC 9110 section 7.2: a host, perhaps a port).
#[must_use]
pub(crate) fn is_loopback_host(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].into_iter().any(|loopback| match host.strip_prefix(loopback) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|port| {
            (1..=5).contains(&port.len()) && port.bytes().all(|digit| digit.is_ascii_digit())
        }),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Security, browsers: an exact list, or loopback pages in development mode.
    #[test]
    fn origins() {
        let listed = ["https://chat.example.org".to_owned()];
        let cases = [
            ("https://chat.example.org", true, false),
            ("https://chat.example.org:443", false, false),
            ("http://chat.example.org", false, false),
            ("https://chat.example.org.evil.example", false, false),
            ("http://localhost:3000", false, true),
            ("https://127.0.0.1", false, true),
            ("http://[::1]:8080", false, true),
            ("http://localhost.evil.example", false, false),
            ("http://localhost:", false, false),
            ("http://localhost:80@evil.example", false, false),
            ("null", false, false),
            ("", false, false),
        ];
        for (origin, by_list, in_development) in cases {
            assert_eq!(is_origin_allowed(origin, &listed, true), by_list, "{origin:?} with a list");
            assert_eq!(
                is_origin_allowed(origin, &[], true),
                in_development,
                "{origin:?} in development mode"
            );
            assert!(!is_origin_allowed(origin, &[], false), "{origin:?} without a list");
        }
    }
}
