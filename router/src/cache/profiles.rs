//! Profiles as others see them (CA5).
//!
//! # Invariants
//! - A profile is forgotten when its user's name or absence changes, or when that user or who asked comes into a
//!   conversation or leaves one, by which they may see more of each other or less; what was read before that is not
//!   remembered after.
//! - Bounded; the oldest goes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// The same the other way round: who asked, and for whom.
    asked: BTreeSet<(UserId, UserId)>,
    /// In the order in which they end.
    ends: VecDeque<(Time, (UserId, UserId))>,
    epochs: Vec<u64>,
}

impl Default for Profiles {
    fn default() -> Profiles {
        Profiles {
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            ends: VecDeque::new(),
            epochs: vec![0; EPOCHS],
        }
    }
}

impl Profiles {
    /// What is known of a user for this asker.
    #[must_use]
    pub fn find(&self, now: Time, user: UserId, asker: UserId) -> Option<Profile> {
        let known = self.known.get(&(user, asker)).filter(|(until, _)| *until > now);
        known.map(|(_, profile)| profile.clone())
    }

    /// What [`Profiles::learn`] is to be given with the answer to a question that is asked now. It rises with every
    /// change of either.
    #[must_use]
    pub fn epoch(&self, user: UserId, asker: UserId) -> u64 {
        let epoch = |user| self.epochs.get(place(user)).copied().unwrap_or(0);
        epoch(user).wrapping_add(epoch(asker))
    }

    /// The store told a profile. One's own is not remembered: it holds what is nobody else's business.
    pub fn learn(&mut self, now: Time, asker: UserId, epoch: u64, profile: &Profile) {
        if asker == profile.user || epoch != self.epoch(profile.user, asker) {
            return;
        }
        while self.ends.front().is_some_and(|(until, _)| *until <= now) || self.ends.len() >= PROFILES_MAX {
            let Some((until, key)) = self.ends.pop_front() else { break };
            if self.known.get(&key).is_some_and(|(known_until, _)| *known_until == until) {
                self.remove(key);
            }
        }
        let key = (profile.user, asker);
        let until = now.after_ms(PROFILE_TTL_MS);
        self.known.insert(key, (until, profile.clone()));
        self.asked.insert((asker, profile.user));
        self.ends.push_back((until, key));
    }

    /// A user has changed, or may have: what others see of them, or what they may see of others.
    pub fn forget(&mut self, user: UserId) {
        if let Some(epoch) = self.epochs.get_mut(place(user)) {
            *epoch = epoch.wrapping_add(1);
        }
        let all = (user, UserId(0))..=(user, UserId(u64::MAX));
        let seen = self.known.range(all.clone()).map(|(key, _)| *key);
        let looked = self.asked.range(all).map(|(asker, user)| (*user, *asker));
        let keys: Vec<_> = seen.chain(looked).collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }

    /// Anybody may have changed.
    pub fn forget_all(&mut self) {
        self.epochs.iter_mut().for_each(|epoch| *epoch = epoch.wrapping_add(1));
        self.known.clear();
        self.asked.clear();
        self.ends.clear();
    }

    fn remove(&mut self, key: (UserId, UserId)) {
        let (user, asker) = key;
        self.known.remove(&key);
        self.asked.remove(&(asker, user));
    }
}

fn place(user: UserId) -> usize {
    usize::try_from(user.0 % EPOCHS as u64).unwrap_or(0)
}
