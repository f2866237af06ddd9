//! Changes of a log: what is common to all of them, names, roles, reactions.

use carillon_protocol::ids::{MessageId, UserId};
use carillon_protocol::limits::{GROUP_NAME_BYTES_MAX, MESSAGE_EMOJIS_MAX};
use carillon_protocol::record::{Body, ConversationType, Event, Role};
use carillon_store::conformance::world::{add, change, create, remove, reply, send};
use carillon_store::ops::{advance_generation, clear_generation};
use carillon_store::verb::{Change, ReactionCount};

use super::*;

fn react(message: MessageId, emoji: &str) -> Change {
    Change::React { message, emoji: emoji.to_owned() }
}

fn unreact(message: MessageId, emoji: &str) -> Change {
    Change::Unreact { message, emoji: emoji.to_owned() }
}

fn rename(name: &str) -> Change {
    Change::Rename { group_name: name.to_owned() }
}

fn role(user: u64, role: Role) -> Change {
    Change::SetRole { user: UserId(user), role }
}

/// G2: messages and changes of one sender share one name space; a retry is the same only with the same content.
#[test]
fn g2_a_key_is_for_one_thing_whatever_its_kind() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let message = world.append(send(1, group, "message", "hello")).id;
    let kinds = [
        ("a", add(&[2, 1]), Some(1)),
        ("r", remove(7), None),
        ("n", rename("group"), Some(1)),
        ("o", role(2, Role::Member), Some(1)),
        ("u", unreact(message, "+"), None),
    ];
    world.users([7]);
    for (key, kind, by) in &kinds {
        unchanged(&mut world, &change(1, group, key, kind.clone()), *by);
    }
    let appended = [
        ("A", rename("another"), 3),
        ("B", react(message, "+"), 4),
        ("C", unreact(message, "+"), 5),
        ("D", role(2, Role::Admin), 6),
        ("E", add(&[7]), 7),
        ("F", remove(7), 8),
        ("G", Change::Delete { message }, 9),
    ];
    for (key, kind, seq) in &appended {
        let first = world.append(change(1, group, key, kind.clone()));
        assert_eq!((first.seq, first.duplicate), (*seq, false));
        let again = world.append(change(1, group, key, kind.clone()));
        assert_eq!((again.seq, again.id, again.duplicate), (*seq, first.id, true), "{kind:?}");
        assert!(again.record.is_empty(), "nothing to fan out");
    }
    // Every key with every other kind, and with a message; and a message's key with a change.
    let every: Vec<(&str, &Change)> = kinds
        .iter()
        .map(|(key, kind, _)| (*key, kind))
        .chain(appended.iter().map(|(key, kind, _)| (*key, kind)))
        .collect();
    for (key, kind) in &every {
        refused(&mut world, &send(1, group, key, "hello"), Code::IdempotencyConflict, Some("client_msg_id"));
        let op = change(1, group, "message", (*kind).clone());
        refused(&mut world, &op, Code::IdempotencyConflict, Some("client_msg_id"));
        for (_, other) in every.iter().filter(|(_, other)| other != kind) {
            let op = change(1, group, key, (*other).clone());
            refused(&mut world, &op, Code::IdempotencyConflict, Some("client_msg_id"));
        }
    }
    unchanged_again(&mut world, &change(1, group, "a", add(&[1, 2, 2])));
    assert_eq!(world.seqs(1, group), (1..=9).collect::<Vec<_>>());
}

/// The order in which users are named, and repeats, are no other content.
fn unchanged_again(world: &mut MemoryWorld, op: &Op) {
    let outcome = world.one(op.clone());
    assert!(matches!(outcome, Outcome::Unchanged { duplicate: true, .. }), "{outcome:?}");
}

/// G2, G5: who left by a first attempt hears of it by the second; a refused attempt leaves its key free.
#[test]
fn g2_a_change_is_remembered_beyond_the_membership_of_who_made_it() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let left = world.append(change(2, group, "leave", remove(2)));
    assert!(world.append(change(2, group, "leave", remove(2))).duplicate);
    refused(&mut world, &change(2, group, "again", remove(2)), Code::Forbidden, None);
    refused(&mut world, &change(2, group, "k", rename("mine")), Code::Forbidden, None);
    world.append(change(1, group, "back", add(&[2])));
    let renamed = world.append(change(2, group, "k", rename("ours")));
    assert_eq!((renamed.seq, renamed.duplicate), (left.seq + 2, false));
}

/// G11: strangers, and members of what is not there, get one answer.
#[test]
fn g11_changes_are_for_members() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    world.users([3]);
    let message = world.append(send(1, group, "m", "hello")).id;
    let changes = [
        add(&[3]),
        remove(2),
        rename("x"),
        role(2, Role::Admin),
        Change::Delete { message },
        react(message, "+"),
        unreact(message, "+"),
    ];
    let absent = carillon_protocol::ids::ConversationId(77);
    for kind in changes {
        refused(&mut world, &change(3, group, "k", kind.clone()), Code::Forbidden, None);
        let here = world.refusal(change(3, group, "k", kind.clone()));
        assert_eq!(here, world.refusal(change(1, absent, "k", kind.clone())));
        for key in ["", &"x".repeat(65)] {
            let op = change(1, group, key, kind.clone());
            refused(&mut world, &op, Code::BadRequest, Some("client_msg_id"));
        }
    }
}

/// Any member renames a group; the name it has is no change.
#[test]
fn groups_are_renamed_and_pairs_are_not() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let pair = world.append(create(11, ConversationType::OneToOne, &[1, 2], "")).conversation;
    unchanged(&mut world, &change(2, group, "same", rename("group")), Some(1));
    let renamed = world.append(change(2, group, "a", rename("new")));
    let event = Event::decode(&renamed.record).unwrap();
    assert_eq!((event.sender, &*event.client_msg_id), (UserId(2), "a"));
    assert_eq!((event.id, event.body), (renamed.id, Body::Renamed { group_name: Some("new") }));
    assert_eq!(summary(&world, 1, group).group_name.as_deref(), Some("new"));
    unchanged(&mut world, &change(1, group, "b", rename("new")), Some(renamed.seq));
    let long = "x".repeat(GROUP_NAME_BYTES_MAX + 1);
    for name in ["", &long] {
        let op = change(1, group, "c", rename(name));
        refused(&mut world, &op, Code::BadRequest, Some("group_name"));
    }
    world.append(change(1, group, "c", rename(&long[1..])));
    for (kind, field) in [
        (rename("x"), "group_name"),
        (add(&[2]), "user_ids"),
        (remove(2), "user_id"),
        (remove(1), "user_id"),
        (role(2, Role::Admin), "user_id"),
    ] {
        refused(&mut world, &change(1, pair, "k", kind), Code::BadRequest, Some(field));
    }
}

/// The owner makes admins, and nobody else does.
#[test]
fn roles_are_the_owners_to_give() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    world.users([4]);
    refused(&mut world, &change(2, group, "k", role(3, Role::Admin)), Code::Forbidden, None);
    for (user, given, code, field) in [
        (2, Role::Owner, Code::BadRequest, "role"),
        (1, Role::Admin, Code::BadRequest, "user_id"),
        (4, Role::Admin, Code::NotFound, "user_id"),
        (99, Role::Admin, Code::NotFound, "user_id"),
    ] {
        refused(&mut world, &change(1, group, "k", role(user, given)), code, Some(field));
    }
    unchanged(&mut world, &change(1, group, "same", role(2, Role::Member)), Some(1));
    let made = world.append(change(1, group, "k", role(2, Role::Admin)));
    unchanged(&mut world, &change(1, group, "l", role(2, Role::Admin)), Some(made.seq));
    let page = Query::MemberPage { user: UserId(3), conversation: group, after: UserId(0), limit: 9 };
    let members =
        vec![(UserId(1), Role::Owner, 1), (UserId(2), Role::Admin, 1), (UserId(3), Role::Member, 1)];
    assert_eq!(world.ask(&page), Answer::MemberPage { members, more: false });
    refused(&mut world, &change(2, group, "m", role(3, Role::Admin)), Code::Forbidden, None);
    world.append(change(1, group, "m", role(2, Role::Member)));
}

/// FU6a: idempotent per user and emoji, counted in history, in keys of their own beside an untouched message.
#[test]
fn fu6a_reactions_count_once_for_a_user_and_an_emoji() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    let sent = world.append(send(1, group, "m", "hello"));
    let plus = world.append(change(2, group, "a", react(sent.id, "+")));
    unchanged(&mut world, &change(2, group, "b", react(sent.id, "+")), Some(plus.seq));
    world.append(change(2, group, "c", react(sent.id, "-")));
    world.append(change(3, group, "d", react(sent.id, "+")));
    let under = |world: &MemoryWorld, user| {
        let log = world.log(user, group);
        let shown = log.reactions.iter().flat_map(|(seq, reactions)| {
            reactions.iter().map(|one| (*seq, one.emoji.clone(), one.count, one.mine))
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(under(&world, 3), [(2, "+".into(), 2, true), (2, "-".into(), 1, false)]);
    assert_eq!(under(&world, 1), [(2, "+".into(), 2, false), (2, "-".into(), 1, false)]);
    let last = summary(&world, 3, group).last_reactions;
    assert_eq!(last[0], ReactionCount { emoji: "+".into(), count: 2, mine: true });
    let log = world.log(1, group);
    assert_eq!(log.entries[1].record, sent.record, "the message's own value is as it was");

    let taken = world.append(change(2, group, "e", unreact(sent.id, "+")));
    let body = Event::decode(&taken.record).unwrap().body;
    assert_eq!(body, Body::ReactionRemoved { target_seq: 2, message: sent.id, emoji: "+" });
    unchanged(&mut world, &change(2, group, "f", unreact(sent.id, "+")), Some(taken.seq));
    unchanged(&mut world, &change(1, group, "f", unreact(sent.id, "+")), None);
    unchanged(&mut world, &change(2, group, "f2", unreact(sent.id, "#")), None);
    world.append(change(3, group, "g", unreact(sent.id, "+")));
    assert_eq!(under(&world, 2), [(2, "-".into(), 1, true)]);
    world.append(change(2, group, "h", unreact(sent.id, "-")));
    assert_eq!(under(&world, 2), []);
    assert_eq!(summary(&world, 2, group).unread_count, 1, "reactions are not messages");
}

/// G11: what cannot be reacted to, and with what not.
#[test]
fn g11_reactions_are_to_messages_that_one_sees() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let other = world.group(11, &[1, 2]);
    let sent = world.append(send(1, group, "m", "hello")).id;
    let elsewhere = world.append(send(1, other, "m", "hello")).id;
    let reaction = world.append(change(1, group, "r", react(sent, "+"))).id;
    world.users([3]);
    world.append(change(1, group, "add", add(&[3])));
    for (by, target) in [(1, elsewhere), (1, MessageId(1)), (1, reaction), (3, sent)] {
        for kind in [react(target, "+"), unreact(target, "+")] {
            refused(&mut world, &change(by, group, "k", kind), Code::NotFound, Some("message_id"));
        }
    }
    for emoji in ["", &"x".repeat(65)] {
        for kind in [react(sent, emoji), unreact(sent, emoji)] {
            refused(&mut world, &change(1, group, "k", kind), Code::BadRequest, Some("emoji"));
        }
    }
    for number in 1..MESSAGE_EMOJIS_MAX {
        world.append(change(1, group, &format!("k{number}"), react(sent, &number.to_string())));
    }
    refused(&mut world, &change(2, group, "k", react(sent, "one more")), Code::TooLarge, Some("emoji"));
    world.append(change(2, group, "k", react(sent, "7")));
}

/// A reply may be to what is left of a message; a reaction may not.
#[test]
fn a_reply_to_a_deleted_message_is_a_reply() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let sent = world.append(send(1, group, "m", "hello")).id;
    world.append(change(1, group, "d", Change::Delete { message: sent }));
    world.append(reply(2, group, "r", sent));
    refused(&mut world, &change(2, group, "k", react(sent, "+")), Code::Gone, None);
    refused(&mut world, &change(2, group, "k", unreact(sent, "+")), Code::Gone, None);
}

/// G2: two generations count and are never cleared; what is older goes in bounded pieces.
#[test]
fn g2_only_generations_that_no_longer_count_are_cleared() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 9);
    let advance = |world: &MemoryWorld| {
        by_hand(world, |txn| assert!(advance_generation(txn).unwrap() > 0));
    };
    let clear = |world: &MemoryWorld, generation, rows_max| {
        let mut more = false;
        by_hand(world, |txn| more = clear_generation(txn, generation, rows_max).unwrap());
        more
    };
    let remembered =
        |world: &MemoryWorld| all_rows(world).iter().filter(|(key, _)| matches!(key[0], b'i' | b'j')).count();
    assert_eq!(remembered(&world), 10, "nine messages and a group");
    for newest in 0..2 {
        for generation in [0, newest, newest + 1, u64::MAX] {
            assert!(!clear(&world, generation, 100), "{generation}");
        }
        assert_eq!(remembered(&world), 10);
        advance(&world);
    }
    world.append(send(1, group, "new", "hello"));
    assert!(clear(&world, 0, 4) && clear(&world, 0, 4));
    assert_eq!(remembered(&world), 3);
    assert!(!clear(&world, 0, 4));
    assert_eq!(remembered(&world), 1);
    assert!(world.append(send(1, group, "new", "hello")).duplicate);
}
