//! Users and devices that may come in, so that only their first request here asks.
//!
//! # Invariants
//! - What is remembered is true: users are never removed, and a revocation is told on every lane after it is durable.
//!   When a lane is lost everything is forgotten, for what was told meanwhile was not heard, and so is a user who becomes
//!   another router's.
//! - A revocation only ever rises, in whatever order answers and news of it arrive.

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::ids::UserId;

/// How many devices are remembered; beyond it those that were seen first are forgotten, whose next request asks again.
const DEVICES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Tokens issued up to then are refused, Unix milliseconds; 0: never revoked.
    revoked_at_ms: BTreeMap<(UserId, String), u64>,
    order: VecDeque<(UserId, String)>,
}

impl Known {
    /// Up to when a device's tokens are refused; `None`: not known, ask.
    pub(super) fn revoked_at_ms(&self, user: UserId, device: &str) -> Option<u64> {
        self.revoked_at_ms.get(&(user, device.to_owned())).copied()
    }

    /// Remembers an answer or a revocation; returns what is true now.
    pub(super) fn insert(&mut self, user: UserId, device: &str, revoked_at_ms: u64) -> u64 {
        let key = (user, device.to_owned());
        if let Some(known) = self.revoked_at_ms.get_mut(&key) {
            *known = (*known).max(revoked_at_ms);
            return *known;
        }
        self.revoked_at_ms.insert(key.clone(), revoked_at_ms);
        self.order.push_back(key);
        if self.order.len() > DEVICES_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.revoked_at_ms.remove(&first);
        }
        revoked_at_ms
    }

    /// Forgets these users: news of them may have been told by somebody else before it was heard here.
    pub(super) fn forget(&mut self, is_meant: impl Fn(UserId) -> bool) {
        self.revoked_at_ms.retain(|(user, _), _| !is_meant(*user));
        self.order.retain(|(user, _)| !is_meant(*user));
    }

    pub(super) fn clear(&mut self) {
        *self = Known::default();
    }
}

/// Whether a token is from before a revocation: `iat` has whole seconds, so one of the same second counts as before.
pub(super) fn is_revoked(issued_s: u64, revoked_at_ms: u64) -> bool {
    revoked_at_ms != 0 && issued_s.saturating_mul(1_000) <= revoked_at_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G13: bounded, and the latest are kept.
    #[test]
    fn forgets_the_first() {
        let mut known = Known::default();
        for id in 1..=DEVICES_MAX as u64 + 1 {
            known.insert(UserId(id), "a", 0);
            known.insert(UserId(id), "a", 0);
        }
        assert_eq!(known.revoked_at_ms(UserId(1), "a"), None);
        assert_eq!(known.revoked_at_ms(UserId(2), "a"), Some(0));
        assert_eq!((known.revoked_at_ms.len(), known.order.len()), (DEVICES_MAX, DEVICES_MAX));
    }

    #[test]
    fn a_revocation_rises() {
        let mut known = Known::default();
        assert_eq!(known.insert(UserId(1), "a", 5_000), 5_000);
        assert_eq!(known.insert(UserId(1), "a", 0), 5_000, "an answer from before the news");
        assert_eq!(known.revoked_at_ms(UserId(1), "b"), None);
        for (issued_s, expected) in [(0, true), (4, true), (5, true), (6, false)] {
            assert_eq!(is_revoked(issued_s, 5_000), expected, "{issued_s}");
        }
        assert!(!is_revoked(0, 0), "never revoked");
        assert!(is_revoked(5, 5_999), "the same second");
    }
}
