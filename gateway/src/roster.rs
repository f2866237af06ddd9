//! Who is here: user → their sessions on this shard.

use std::collections::hash_map::Entry;

use carillon_protocol::ids::UserId;

use crate::hash::IdMap;
use crate::turn::ConnectionId;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    users: IdMap<UserId, Few>,
}

/// A user's sessions: almost always one, which then owns no memory of its own.
#[derive(Debug)]
enum Few {
    One(ConnectionId),
    #[expect(clippy::box_collection, reason = "who has one session pays for no more than it")]
    Many(Box<Vec<ConnectionId>>),
}

/// G13: what a session takes here. The map keeps up to more than half of its places free.
const _: () = assert!(size_of::<(UserId, Few)>() <= 24);

impl Roster {
    /// A session of the user is here. Adding it twice is a mistake of ours.
    pub(crate) fn add(&mut self, user: UserId, session: ConnectionId) {
        match self.users.entry(user) {
            Entry::Vacant(place) => {
                place.insert(Few::One(session));
            }
            Entry::Occupied(mut place) => match place.get_mut() {
                Few::One(first) => {
                    let both = vec![*first, session];
                    place.insert(Few::Many(Box::new(both)));
                }
                Few::Many(sessions) => sessions.push(session),
            },
        }
    }

    /// It is gone.
    pub(crate) fn remove(&mut self, user: UserId, session: ConnectionId) {
        let Entry::Occupied(mut place) = self.users.entry(user) else { return };
        match place.get_mut() {
            Few::One(only) if *only == session => {
                place.remove();
            }
            Few::One(_) => {}
            Few::Many(sessions) => {
                sessions.retain(|other| *other != session);
                if let [only] = sessions.as_slice() {
                    let only = *only;
                    place.insert(Few::One(only));
                }
            }
        }
    }

    /// The user's sessions here.
    #[must_use]
    pub(crate) fn sessions(&self, user: UserId) -> &[ConnectionId] {
        match self.users.get(&user) {
            None => &[],
            Some(Few::One(only)) => std::slice::from_ref(only),
            Some(Few::Many(sessions)) => sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_and_go() {
        let [a, b, c] = [1, 2, 3].map(|slot| ConnectionId { slot, generation: 0 });
        let mut roster = Roster::default();
        let user = UserId(7);
        roster.add(user, a);
        roster.add(user, b);
        roster.add(user, c);
        assert_eq!(roster.sessions(user), [a, b, c]);
        roster.remove(user, b);
        roster.remove(user, b);
        roster.remove(user, a);
        assert_eq!(roster.sessions(user), [c]);
        roster.remove(user, c);
        assert!(roster.sessions(user).is_empty() && roster.users.is_empty());
    }
}
