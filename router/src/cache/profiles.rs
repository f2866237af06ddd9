//! Profiles as others see them (CA5).
//!
//! # Invariants
//! - A profile is forgotten when its user's name or absence changes; what was read before that is not remembered after.
//! - For [`PROFILE_TTL_MS`] it may say nothing of when a user was seen last to one who shares a conversation with them
//!   only since; it never says more than was said before.
//! - Bounded; the oldest goes first.

use std::collections::{BTreeMap, VecDeque};

use carillon_protocol::ids::UserId;
use carillon_protocol::time::Time;
use carillon_store::verb::Profile;

/// How long a profile is remembered.
pub const PROFILE_TTL_MS: u64 = 5 * 60 * 1_000;
/// Profiles that are remembered, each as one asker sees it: some 200 bytes.
pub const PROFILES_MAX: usize = 65_536;
/// Counters of changes, shared by users: a change of one has another's open question forgotten, which costs a reading.
const EPOCHS: usize = 1_024;

/// See the module.
pub struct Profiles {
    /// By whom it is, then by who asked.
    known: BTreeMap<(UserId, UserId), (Time, Profile)>,
    /// In the order in which they end.
    ends: VecDeque<(Time, (UserId, UserId))>,
    epochs: Vec<u64>,
}

impl Default for Profiles {
    fn default() -> Profiles {
        Profiles { known: BTreeMap::new(), ends: VecDeque::new(), epochs: vec![0; EPOCHS] }
    }
}

impl Profiles {
    /// What is known of a user for this asker.
    #[must_use]
    pub fn find(&self, now: Time, user: UserId, asker: UserId) -> Option<Profile> {
        let known = self.known.get(&(user, asker)).filter(|(until, _)| *until > now);
        known.map(|(_, profile)| profile.clone())
    }

    /// What [`Profiles::learn`] is to be given with the answer to a question that is asked now.
    #[must_use]
    pub fn epoch(&self, user: UserId) -> u64 {
        self.epochs.get(place(user)).copied().unwrap_or(0)
    }

    /// The store told a profile. One's own is not remembered: it holds what is nobody else's business.
    pub fn learn(&mut self, now: Time, asker: UserId, epoch: u64, profile: &Profile) {
        if asker == profile.user || epoch != self.epoch(profile.user) {
            return;
        }
        while self.ends.front().is_some_and(|(until, _)| *until <= now) || self.ends.len() >= PROFILES_MAX {
            let Some((until, key)) = self.ends.pop_front() else { break };
            if self.known.get(&key).is_some_and(|(known_until, _)| *known_until == until) {
                self.known.remove(&key);
            }
        }
        let key = (profile.user, asker);
        let until = now.after_ms(PROFILE_TTL_MS);
        self.known.insert(key, (until, profile.clone()));
        self.ends.push_back((until, key));
    }

    /// A profile has changed, or may have.
    pub fn forget(&mut self, user: UserId) {
        if let Some(epoch) = self.epochs.get_mut(place(user)) {
            *epoch += 1;
        }
        let keys: Vec<_> =
            self.known.range((user, UserId(0))..=(user, UserId(u64::MAX))).map(|(key, _)| *key).collect();
        for key in keys {
            self.known.remove(&key);
        }
    }
}

fn place(user: UserId) -> usize {
    usize::try_from(user.0 % EPOCHS as u64).unwrap_or(0)
}
