//! Names that nobody can guess, and the paths for those who cannot set headers: good once, for half a minute.

use std::collections::VecDeque;

use carillon_node::tokens::Claims;
use carillon_protocol::reason::Refusal;
use carillon_protocol::time::Time;
use ring::hmac;

use crate::rest::Request;
use crate::rest::query::Query;

/// How long a path is good, in milliseconds.
const TICKET_MS: u64 = 30_000;
/// Paths that are good at once. Beyond: the oldest is good no longer.
const TICKETS_MAX: usize = 4_096;

/// Makes names: a counter under a key, so that one name says nothing about another.
pub(super) struct Names {
    key: hmac::Key,
    count: u64,
}

impl Names {
    pub(super) fn new(secret: &[u8; 32]) -> Names {
        Names { key: hmac::Key::new(hmac::HMAC_SHA256, secret), count: 0 }
    }

    /// 128 bits, in hexadecimal digits.
    pub(super) fn next(&mut self) -> String {
        self.count += 1;
        let tag = hmac::sign(&self.key, &self.count.to_be_bytes());
        tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Tickets {
    /// The oldest first.
    good: VecDeque<(Time, String, Claims)>,
}

impl Tickets {
    pub(super) fn insert(&mut self, now: Time, name: String, claims: Claims) {
        self.good.retain(|(until, _, _)| *until > now);
        if self.good.len() >= TICKETS_MAX {
            self.good.pop_front();
        }
        self.good.push_back((now.after_ms(TICKET_MS), name, claims));
    }

    /// Whose a name is, this once.
    pub(super) fn take(&mut self, now: Time, name: &str) -> Option<Claims> {
        let place = self.good.iter().position(|(until, other, _)| other == name && *until > now)?;
        self.good.remove(place).map(|(_, _, claims)| claims)
    }
}

/// The name in a request's query.
///
/// # Errors
/// A query that cannot be read.
pub(super) fn named(request: &Request) -> Result<Option<String>, Refusal> {
    Query::new(&request.query).text("ticket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_good_once_and_not_for_long() {
        let claims = Claims {
            user_id: 1,
            device_id: "default".into(),
            issued_s: 0,
            expires_s: 1,
            name: None,
            scope: String::new(),
        };
        let mut names = Names::new(&[7; 32]);
        let (one, other) = (names.next(), names.next());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        let mut tickets = Tickets::default();
        tickets.insert(Time(0), one.clone(), claims.clone());
        tickets.insert(Time(0), other.clone(), claims);
        assert!(tickets.take(Time(1), &one).is_some());
        assert!(tickets.take(Time(2), &one).is_none(), "once");
        assert!(tickets.take(Time(0).after_ms(TICKET_MS), &other).is_none(), "not for long");
    }
}
