//! Members join, leave and come back: who may see what is decided by seq (G11).

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::MEMBER_IDS_MAX;
use carillon_protocol::record::{Body, ConversationType, Event, Role};
use carillon_store::conformance::world::{add, change, create, page, receipt, remove, send};
use carillon_store::verb::{Appended, Change, CreateOp, Hearer, Joined, Standing};

use super::*;

/// A group of 1, 2 and 3, whose owner is 1, with users up to 6.
fn group(world: &mut MemoryWorld, history: History) -> ConversationId {
    world.users(1..=6);
    let Op::Create(op) = create(10, ConversationType::Group, &[1, 2, 3], "create") else { unreachable!() };
    world.append(Op::Create(CreateOp { history, ..op })).conversation
}

fn session(world: &MemoryWorld, user: u64, device: &str) -> Vec<Joined> {
    match world.ask(&Query::Session { user: UserId(user), device: device.to_owned() }) {
        Answer::Session { conversations, .. } => conversations,
        other => panic!("{other:?}"),
    }
}

fn standing(world: &MemoryWorld, user: u64, conversation: ConversationId) -> (u64, u64, u64) {
    match world.ask(&Query::Peek { user: UserId(user), conversations: vec![conversation] }) {
        Answer::Standings(standings) => match standings[..] {
            [Standing { first_seq, joined_seq, head_seq, .. }] => (first_seq, joined_seq, head_seq),
            _ => panic!("{standings:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn removal(appended: &Appended) -> (u64, u64) {
    match Event::decode(&appended.record).unwrap().body {
        Body::MemberRemoved { user, heir } => (user.0, heir.unwrap_or_default().0),
        other => panic!("{other:?}"),
    }
}

/// G11: a member added at n sees n.. with nothing unread; a removed one sees to the event that removed them; one who
/// comes back begins anew, on every query.
#[test]
fn g11_from_join_a_member_sees_from_their_event_to_their_event() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    fill(&mut world, group, 1, 3);
    let added = world.append(change(2, group, "a", add(&[5, 4])));
    let body = Event::decode(&added.record).unwrap().body;
    let users = vec![UserId(4), UserId(5)];
    assert_eq!(body, Body::MembersAdded { users, returning: vec![], history: History::FromJoin });
    assert_eq!((added.seq, added.members_version), (5, 2));
    assert_eq!(standing(&world, 4, group), (5, 5, 5));
    let shown = summary(&world, 4, group);
    assert_eq!((shown.unread_count, shown.read_seq, shown.members_count), (0, 4, 5));
    assert_eq!(shown.last_message, None, "the messages were before");
    assert_eq!(session(&world, 4, PHONE), [Joined { conversation: group, cursor: 0, is_returning: false }]);
    world.append(send(1, group, "b", "to 4 and 5"));
    assert_eq!(summary(&world, 4, group).unread_count, 1);

    let removed = world.append(change(1, group, "c", remove(4)));
    assert_eq!((removed.seq, removed.members_version, removal(&removed)), (7, 3, (4, 0)));
    world.append(send(1, group, "d", "without 4"));
    assert_eq!(world.seqs(4, group), [5, 6, 7]);
    assert_eq!(standing(&world, 4, group), (5, 5, 7));
    let hearer = |user, from_seq, to_seq| Hearer { user: UserId(user), from_seq, to_seq };
    let max = u64::MAX;
    let members =
        vec![hearer(1, 1, max), hearer(2, 1, max), hearer(3, 1, max), hearer(4, 5, 7), hearer(5, 5, max)];
    let hearers = world.ask(&Query::Members { conversation: group });
    assert_eq!(hearers, Answer::Members { version: 3, members });
    assert_eq!(
        code(&world.ask(&Query::Conversation { user: UserId(4), conversation: group })),
        Some(Code::Forbidden)
    );
    refused(&mut world, &receipt(4, group, 7, 0), Code::Forbidden, None);
    refused(&mut world, &send(4, group, "x", "hello"), Code::Forbidden, None);

    let back = world.append(change(3, group, "e", add(&[4])));
    let body = Event::decode(&back.record).unwrap().body;
    let (users, returning) = (vec![UserId(4)], vec![UserId(4)]);
    assert_eq!(body, Body::MembersAdded { users, returning, history: History::FromJoin });
    assert_eq!(world.seqs(4, group), [9], "what was before is not theirs any more");
    assert_eq!(standing(&world, 4, group), (9, 9, 9));
    assert_eq!(session(&world, 4, PHONE), [Joined { conversation: group, cursor: 0, is_returning: true }]);
    assert_eq!(summary(&world, 4, group).unread_count, 0);
}

/// G11: with the whole history, a new member has everything unread, and one who comes back what came since they read.
#[test]
fn g11_history_all_shows_everything_and_counts_it() {
    let mut world = world();
    let group = group(&mut world, History::All);
    fill(&mut world, group, 1, 3);
    world.append(change(1, group, "a", add(&[4])));
    assert_eq!(standing(&world, 4, group), (1, 5, 5));
    assert_eq!(world.seqs(4, group), [1, 2, 3, 4, 5]);
    assert_eq!(summary(&world, 4, group).unread_count, 3);
    world.append(send(4, group, "own", "hello"));
    world.one(receipt(4, group, 0, 3));
    assert_eq!(summary(&world, 4, group).unread_count, 1);
    world.append(change(4, group, "b", remove(4)));
    world.append(send(1, group, "c", "while away"));
    assert_eq!(world.seqs(4, group), [1, 2, 3, 4, 5, 6, 7]);
    world.append(change(1, group, "d", add(&[4])));
    let shown = summary(&world, 4, group);
    assert_eq!((shown.read_seq, shown.unread_count), (3, 2), "the last of three, and the one while away");
    assert_eq!(world.seqs(4, group), (1..=9).collect::<Vec<_>>());
    // What was sent before they joined is not held back by them.
    let marks: Vec<_> = world.log(1, group).marks.iter().map(|mark| (mark.user.0, mark.read_seq)).collect();
    assert_eq!(marks, [(2, 0), (3, 0), (4, 8)]);
}

/// G11: a conversation that was left is listed until the device has its last event; lists are of current ones.
#[test]
fn a_conversation_that_was_left_is_listed_until_its_last_event_is_confirmed() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    fill(&mut world, group, 1, 2);
    world.one(receipt(2, group, 3, 0));
    world.append(change(2, group, "a", remove(2)));
    let joined = |cursor| Joined { conversation: group, cursor, is_returning: false };
    assert_eq!(session(&world, 2, PHONE), [joined(3)]);
    assert_eq!(session(&world, 2, "tablet"), [joined(0)]);
    by_hand(&world, |txn| txn.set(keys::device_cursor(UserId(2), PHONE, group), vec![1, 4].into()));
    assert_eq!(session(&world, 2, PHONE), []);
    let list = Query::Conversations { user: UserId(2), below: u64::MAX, as_of: u64::MAX, limit: 9 };
    assert_eq!(world.ask(&list), Answer::Conversations { summaries: vec![], more: false });
    let page = Query::MemberPage { user: UserId(2), conversation: group, after: UserId(0), limit: 9 };
    assert_eq!(code(&world.ask(&page)), Some(Code::Forbidden));
}

/// Who may be added, how many, and what it says about those who are there.
#[test]
fn adding_is_refused_for_a_reason() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    let many: Vec<u64> = (1..=MEMBER_IDS_MAX as u64 + 1).collect();
    refused(&mut world, &change(1, group, "k", add(&[])), Code::BadRequest, Some("user_ids"));
    refused(&mut world, &change(1, group, "k", add(&many)), Code::TooLarge, Some("user_ids"));
    refused(&mut world, &change(1, group, "k", add(&[4, 99])), Code::NotFound, Some("user_ids"));
    world.members_max = 4;
    refused(&mut world, &change(1, group, "k", add(&[4, 5])), Code::TooLarge, Some("user_ids"));
    let added = world.append(change(1, group, "k", add(&[2, 4, 4])));
    let body = Event::decode(&added.record).unwrap().body;
    assert!(
        matches!(body, Body::MembersAdded { users, .. } if users == [UserId(4)]),
        "only who was not there"
    );
    unchanged(&mut world, &change(2, group, "l", add(&[4, 1])), Some(added.seq));
    unchanged(&mut world, &change(2, group, "m", add(&[3, 1])), Some(1));
    assert_eq!(summary(&world, 1, group).members_count, 4);
}

/// Owner and admins remove others, anyone leaves, nobody removes the owner.
#[test]
fn the_owner_and_admins_remove_others() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    refused(&mut world, &change(2, group, "k", remove(3)), Code::Forbidden, None);
    refused(&mut world, &change(2, group, "k", remove(1)), Code::Forbidden, None);
    refused(&mut world, &change(2, group, "k", remove(99)), Code::Forbidden, None);
    refused(&mut world, &change(1, group, "k", remove(99)), Code::NotFound, Some("user_id"));
    unchanged(&mut world, &change(1, group, "never", remove(4)), None);
    world.append(change(1, group, "admin", Change::SetRole { user: UserId(2), role: Role::Admin }));
    refused(&mut world, &change(2, group, "k", remove(1)), Code::Forbidden, None);
    let removed = world.append(change(2, group, "k", remove(3)));
    unchanged(&mut world, &change(1, group, "gone", remove(3)), Some(removed.seq));
    world.append(change(1, group, "again", add(&[3])));
    let roles = Query::MemberPage { user: UserId(1), conversation: group, after: UserId(2), limit: 9 };
    let members = vec![(UserId(3), Role::Member, removed.seq + 1)];
    assert_eq!(world.ask(&roles), Answer::MemberPage { members, more: false });
}

/// The first admin follows an owner who leaves, else the first member, and nobody the last.
#[test]
fn an_owner_who_leaves_has_an_heir() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    world.append(change(1, group, "a", add(&[5])));
    world.append(change(1, group, "b", add(&[4])));
    world.append(change(1, group, "c", Change::SetRole { user: UserId(4), role: Role::Admin }));
    world.append(change(1, group, "d", Change::SetRole { user: UserId(5), role: Role::Admin }));
    let left = [(1, 5), (5, 4), (4, 2), (2, 3), (3, 0)];
    for (user, heir) in left {
        let removed = world.append(change(user, group, "leave", remove(user)));
        assert_eq!(removal(&removed), (user, heir));
    }
    let hearers = world.ask(&Query::Members { conversation: group });
    let Answer::Members { members, .. } = hearers else { panic!("{hearers:?}") };
    assert!(members.iter().all(|hearer| hearer.to_seq < u64::MAX), "{members:?}");
    assert_eq!(code(&world.ask(&Query::Page(page(6, group, 1, 9)))), Some(Code::Forbidden));
}

/// The members of a group in pages, former ones left out.
#[test]
fn members_are_listed_in_pages() {
    let mut world = world();
    let group = group(&mut world, History::FromJoin);
    world.append(change(1, group, "a", add(&[4, 5, 6])));
    world.append(change(1, group, "b", remove(4)));
    let page = |after, limit| {
        let query = Query::MemberPage { user: UserId(6), conversation: group, after: UserId(after), limit };
        match world.ask(&query) {
            Answer::MemberPage { members, more } => {
                (members.iter().map(|(user, _, joined)| (user.0, *joined)).collect::<Vec<_>>(), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(0, 9), (vec![(1, 1), (2, 1), (3, 1), (5, 2), (6, 2)], false));
    assert_eq!(page(0, 3), (vec![(1, 1), (2, 1), (3, 1)], true));
    assert_eq!(page(3, 2), (vec![(5, 2), (6, 2)], false));
    assert_eq!(page(6, 2), (vec![], false));
    assert_eq!(page(0, 0), (vec![], true));
    assert_eq!(page(u64::MAX, 2), (vec![], false));
}
