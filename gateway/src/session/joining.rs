//! How a user came into a conversation, as its log says it (G11): what they hear begins there.

use carillon_protocol::ids::{Seq, UserId};
use carillon_protocol::record::{Body, Event, History};

/// The event by which a user is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joining {
    /// Its place.
    pub(crate) seq: Seq,
    /// The first event that they may see by it.
    pub(crate) first_seq: Seq,
    /// Whether they had been a member before: what their devices hold ends before it.
    pub(crate) is_returning: bool,
}

impl Joining {
    /// Of `user`, if `event` is it.
    pub(crate) fn of(event: &Event<'_>, seq: Seq, user: UserId) -> Option<Joining> {
        match &event.body {
            Body::Created { members, .. } => {
                members.contains(&user).then_some(Joining { seq, first_seq: seq, is_returning: false })
            }
            Body::MembersAdded { users, returning, history } => {
                let first_seq = match history {
                    History::FromJoin => seq,
                    History::All => 1,
                };
                let is_returning = returning.binary_search(&user).is_ok();
                users.binary_search(&user).ok().map(|_| Joining { seq, first_seq, is_returning })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use carillon_protocol::ids::MessageId;
    use carillon_protocol::record::ConversationType;

    use super::*;

    #[test]
    fn g11_who_joins_and_what_they_see() {
        let of = |body: Body<'static>, user: u64| {
            let event = Event { id: MessageId(1), sender: UserId(1), client_msg_id: Cow::Borrowed(""), body };
            Joining::of(&event, 9, UserId(user))
        };
        let added = |history| Body::MembersAdded {
            users: vec![UserId(4), UserId(6)],
            returning: vec![UserId(6)],
            history,
        };
        let joining = |first_seq, is_returning| Some(Joining { seq: 9, first_seq, is_returning });
        assert_eq!(of(added(History::FromJoin), 4), joining(9, false));
        assert_eq!(of(added(History::All), 4), joining(1, false));
        assert_eq!(of(added(History::FromJoin), 6), joining(9, true));
        assert_eq!(of(added(History::All), 6), joining(1, true));
        assert_eq!(of(added(History::All), 5), None);
        let created = |history| Body::Created {
            conversation_type: ConversationType::Group,
            group_name: None,
            history,
            members: vec![UserId(4)],
        };
        assert_eq!(of(created(History::All), 4), joining(9, false));
        assert_eq!(of(created(History::All), 1), None);
    }
}
