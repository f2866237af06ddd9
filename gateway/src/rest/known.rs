//! Users that are known to exist, so that only their first request here asks. Users are never removed, so what is
//! remembered stays true.

use std::collections::{BTreeSet, VecDeque};

use carillon_protocol::ids::UserId;

/// How many are remembered; beyond it those who were seen first are forgotten, whose next request asks again.
const USERS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    users: BTreeSet<UserId>,
    order: VecDeque<UserId>,
}

impl Known {
    pub(super) fn contains(&self, user: UserId) -> bool {
        self.users.contains(&user)
    }

    pub(super) fn insert(&mut self, user: UserId) {
        if !self.users.insert(user) {
            return;
        }
        self.order.push_back(user);
        if self.order.len() > USERS_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.users.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G13: bounded, and the latest are kept.
    #[test]
    fn forgets_the_first() {
        let mut known = Known::default();
        for id in 1..=USERS_MAX as u64 + 1 {
            known.insert(UserId(id));
            known.insert(UserId(id));
        }
        assert!(!known.contains(UserId(1)) && known.contains(UserId(2)));
        assert_eq!((known.users.len(), known.order.len()), (USERS_MAX, USERS_MAX));
    }
}
