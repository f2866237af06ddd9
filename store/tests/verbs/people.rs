//! Users and their devices: names, mutes, last use, revocation, notifications, who may hear of whom.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::record::ConversationType;
use carillon_protocol::time::WallMs;
use carillon_store::conformance::world::{change, create, receipt, remove, send};
use carillon_store::error::CommitError;
use carillon_store::ops::{Context, append};
use carillon_store::verb::{Device, Profile, ReceiptOp};

use super::*;

fn profile(world: &MemoryWorld, asker: u64, user: u64) -> Profile {
    match world.ask(&Query::User { asker: UserId(asker), user: UserId(user) }) {
        Answer::User(profile) => profile,
        other => panic!("{other:?}"),
    }
}

fn rename(user: u64, username: &str) -> Op {
    Op::Profile { user: UserId(user), username: username.to_owned() }
}

fn seen(user: u64, device: &str, at: u64, offline: bool) -> Op {
    Op::Seen { user: UserId(user), device: device.to_owned(), at: WallMs(at), offline }
}

fn revoke(user: u64, device: &str) -> Op {
    Op::Revoke { user: UserId(user), device: device.to_owned() }
}

fn push_token(user: u64, device: &str, token: Option<(u8, &str)>) -> Op {
    let token = token.map(|(platform, token)| (platform, token.to_owned()));
    Op::PushToken { user: UserId(user), device: device.to_owned(), token }
}

fn devices(world: &MemoryWorld, user: u64) -> Vec<(String, Option<u64>, u64)> {
    match world.ask(&Query::Devices { user: UserId(user) }) {
        Answer::Devices(devices) => {
            let shown = |one: Device| (one.device, one.last_seen_at.map(|at| at.0), one.cursor_lag);
            devices.into_iter().map(shown).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Names are unique, and one that was given up is free.
#[test]
fn users_take_another_name() {
    let mut world = world();
    world.users([1, 2]);
    let user = UserId(1);
    assert_eq!(world.one(rename(1, "alice")), Outcome::User { user, existed: false });
    assert_eq!(world.one(rename(1, "alice")), Outcome::User { user, existed: true });
    assert_eq!(profile(&world, 2, 1).username, "alice");
    let by_name = |world: &MemoryWorld, name: &str| match world
        .ask(&Query::Username { asker: UserId(2), username: name.to_owned() })
    {
        Answer::User(profile) => Some(profile.user.0),
        _ => None,
    };
    assert_eq!((by_name(&world, "alice"), by_name(&world, "user-1")), (Some(1), None));
    refused(&mut world, &rename(2, "alice"), Code::BadRequest, Some("username"));
    for name in ["", &"x".repeat(65)] {
        refused(&mut world, &rename(1, name), Code::BadRequest, Some("username"));
    }
    refused(&mut world, &rename(99, "new"), Code::NotFound, None);
    world.one(rename(2, "user-1"));
    assert_eq!(by_name(&world, "user-1"), Some(2));
}

/// A name that two users take at the same time on two lanes is one user's: the second commits while the first is
/// between its reads and its commit.
#[test]
fn a_name_taken_at_the_same_time_is_one_users() {
    let memory: Arc<dyn Engine> = Arc::new(Memory::new(Options { lanes_count: 16 }));
    let mut world = World::begin(memory.clone());
    world.users([1]);
    let lane = world.lane(&rename(1, "alice"));
    let other = (2..).find(|user| world.lane(&rename(*user, "alice")) != lane).unwrap();
    world.users([other]);
    let (mut ids, mut other_ids) = (world.ids(lane), world.ids(world.lane(&rename(other, "alice"))));
    let (now, incarnation, members_max) = (world.now, world.incarnation, 10);
    let outcome = memory.commit(lane, &mut |txn| {
        let mut context = Context { now, incarnation, ids: &mut ids, members_max };
        append(txn, &mut context, &[rename(1, "alice")])?;
        let committed = memory.commit(world.lane(&rename(other, "alice")), &mut |txn| {
            let mut context = Context { now, incarnation, ids: &mut other_ids, members_max };
            append(txn, &mut context, &[rename(other, "alice")]).map(drop)
        });
        committed.unwrap();
        Ok(())
    });
    assert!(matches!(outcome, Err(CommitError::Conflict)), "{outcome:?}");
    refused(&mut world, &rename(1, "alice"), Code::BadRequest, Some("username"));
}

/// Only members mute, each for themself.
#[test]
fn conversations_are_muted_by_their_members() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    world.users([3]);
    let mute = |user, until: Option<u64>| Op::Mute {
        user: UserId(user),
        conversation: group,
        until: until.map(WallMs),
    };
    for (until, shown) in [(Some(5), Some(5)), (Some(u64::MAX), Some(u64::MAX)), (None, None), (None, None)] {
        assert_eq!(world.one(mute(1, until)), Outcome::Stored);
        assert_eq!(summary(&world, 1, group).muted_until, shown.map(WallMs));
        assert_eq!(summary(&world, 2, group).muted_until, None);
    }
    refused(&mut world, &mute(3, Some(5)), Code::Forbidden, None);
    world.append(change(2, group, "leave", remove(2)));
    refused(&mut world, &mute(2, Some(5)), Code::Forbidden, None);
    let op = Op::Mute { user: UserId(1), conversation: ConversationId(77), until: None };
    refused(&mut world, &op, Code::Forbidden, None);
}

/// Last seen is when the last device went, by maximum; nothing that moves nothing is written.
#[test]
fn last_use_is_merged_by_maximum() {
    let mut world = world();
    world.users([1]);
    world.one(seen(1, PHONE, 50, false));
    assert_eq!(profile(&world, 1, 1).last_seen_at, None, "another device is still there");
    world.one(seen(1, "tablet", 70, true));
    assert_eq!(profile(&world, 1, 1).last_seen_at, Some(WallMs(70)));
    assert_eq!(devices(&world, 1), [(PHONE.into(), Some(50), 0), ("tablet".into(), Some(70), 0)]);
    let before = all_rows(&world);
    for op in [seen(1, PHONE, 50, true), seen(1, PHONE, 20, true), seen(1, "tablet", 70, true)] {
        assert_eq!(world.one(op), Outcome::Stored);
    }
    assert!(all_rows(&world) == before, "late ones change nothing");
    world.one(seen(1, PHONE, 90, true));
    assert_eq!(profile(&world, 1, 1).last_seen_at, Some(WallMs(90)));
    refused(&mut world, &seen(9, PHONE, 90, true), Code::NotFound, None);
    refused(&mut world, &seen(1, "a b", 90, true), Code::BadRequest, Some("device_id"));
}

/// A revoked device is remembered, loses its notifications, and is listed again only when it is used again.
#[test]
fn revoked_devices_are_remembered() {
    let mut world = world();
    world.users([1]);
    world.one(push_token(1, PHONE, Some((1, "token"))));
    world.one(seen(1, "tablet", world.now.0, false));
    assert_eq!(profile(&world, 1, 1).push_tokens, [(PHONE.into(), 1, "token".into())]);
    let at = world.now;
    let revoked = Outcome::Revoked { user: UserId(1), device: PHONE.to_owned(), at };
    assert_eq!(world.one(revoke(1, PHONE)), revoked);
    world.now = WallMs(at.0 - 1);
    assert_eq!(world.one(revoke(1, PHONE)), revoked, "never back");
    world.now = at;
    assert!(profile(&world, 1, 1).push_tokens.is_empty());
    let admission = |device: &str| Query::Admission { user: UserId(1), device: device.to_owned() };
    assert_eq!(world.ask(&admission(PHONE)), Answer::Admission { known: true, revoked_at: Some(at) });
    assert_eq!(world.ask(&admission("tablet")), Answer::Admission { known: true, revoked_at: None });
    assert_eq!(world.ask(&admission("a b")), Answer::Admission { known: true, revoked_at: None });
    let stranger = Query::Admission { user: UserId(2), device: PHONE.to_owned() };
    assert_eq!(world.ask(&stranger), Answer::Admission { known: false, revoked_at: None });
    let session = world.ask(&Query::Session { user: UserId(1), device: PHONE.to_owned() });
    assert_eq!(session, Answer::Session { known: true, revoked_at: Some(at), conversations: vec![] });

    let listed = |world: &MemoryWorld| devices(world, 1).into_iter().map(|one| one.0).collect::<Vec<_>>();
    assert_eq!(listed(&world), ["tablet"]);
    world.one(seen(1, PHONE, at.0 + 3_000, true));
    assert_eq!(listed(&world), ["tablet"], "that its connection was closed is no use of it");
    world.one(seen(1, PHONE, at.0 + 60_000, true));
    assert_eq!(listed(&world), [PHONE, "tablet"]);
    world.one(revoke(1, "never seen"));
    refused(&mut world, &revoke(9, PHONE), Code::NotFound, None);
    refused(&mut world, &revoke(1, "a b"), Code::BadRequest, Some("device_id"));
}

/// Where notifications go is told to oneself alone.
#[test]
fn push_tokens_are_ones_own() {
    let mut world = world();
    world.group(10, &[1, 2]);
    let longest = "x".repeat(4_096);
    for token in [Some((0, "apns")), Some((3, longest.as_str())), None, None] {
        assert_eq!(world.one(push_token(1, PHONE, token)), Outcome::Stored);
        let shown: Vec<_> = token
            .iter()
            .map(|(platform, token)| (PHONE.to_owned(), *platform, (*token).to_owned()))
            .collect();
        assert_eq!(profile(&world, 1, 1).push_tokens, shown);
        assert!(profile(&world, 2, 1).push_tokens.is_empty());
    }
    let longer = "x".repeat(4_097);
    for (token, field) in [((9, "x"), "platform"), ((1, ""), "token"), ((1, longer.as_str()), "token")] {
        refused(&mut world, &push_token(1, PHONE, Some(token)), Code::BadRequest, Some(field));
    }
    refused(&mut world, &push_token(9, PHONE, None), Code::NotFound, None);
}

/// G13: a user has room for so many devices; further ones are refused, and go unnoticed when they disconnect.
#[test]
fn g13_devices_of_a_user_are_bounded() {
    let mut world = world();
    world.users([1]);
    let rows_count = |world: &MemoryWorld| all_rows(world).iter().filter(|(key, _)| key[0] == b'v').count();
    for number in 0..1_024 {
        world.one(seen(1, &format!("d{number}"), 5, false));
    }
    assert_eq!(rows_count(&world), 1_024);
    world.one(seen(1, "more", 9, true));
    assert_eq!((rows_count(&world), profile(&world, 1, 1).last_seen_at), (1_024, Some(WallMs(9))));
    refused(&mut world, &revoke(1, "more"), Code::TooLarge, Some("device_id"));
    refused(&mut world, &push_token(1, "more", Some((1, "x"))), Code::TooLarge, Some("device_id"));
    world.one(revoke(1, "d7"));
    assert_eq!(devices(&world, 1).len(), 64);
}

/// The lag of a device is what it may see and did not confirm, over all current conversations.
#[test]
fn devices_lag_behind_what_they_may_see() {
    let mut world = world();
    let (first, second) = (world.group(10, &[1, 2]), world.group(11, &[1, 2]));
    fill(&mut world, first, 1, 4);
    fill(&mut world, second, 1, 9);
    let confirmed = |device: &str, conversation, seq| {
        let (device, delivered_seq, read_seq) = (device.to_owned(), seq, 0);
        Op::Receipt(ReceiptOp { user: UserId(2), device, conversation, delivered_seq, read_seq })
    };
    world.one(confirmed("a", first, 5));
    world.one(confirmed("a", second, 3));
    world.one(confirmed("b", second, 10));
    world.one(seen(2, "c", 7, false));
    assert_eq!(devices(&world, 2), [("a".into(), None, 7), ("b".into(), None, 5), ("c".into(), Some(7), 15)]);
    world.append(change(2, first, "leave", remove(2)));
    assert_eq!(devices(&world, 2), [("a".into(), None, 7), ("b".into(), None, 0), ("c".into(), Some(7), 10)]);
    world.users([3]);
    world.append(change(1, second, "add", carillon_store::conformance::world::add(&[3])));
    world.append(send(1, second, "k", "hello"));
    world.one(receipt(3, second, 11, 0));
    assert_eq!(devices(&world, 3), [(PHONE.into(), None, 1)], "from their joining on");
}

/// Presence is for those who share a conversation now, or have one of two.
#[test]
fn presence_is_for_those_who_share_a_conversation() {
    let mut world = world();
    world.users(1..=6);
    world.append(create(20, ConversationType::OneToOne, &[1, 2], ""));
    let group = world.group(10, &[1, 3, 4]);
    world.append(change(4, group, "leave", remove(4)));
    world.one(seen(3, PHONE, 50, true));
    world.one(seen(5, PHONE, 60, true));
    let heard = |asker, users: &[u64], pairs_only| {
        let users = users.iter().copied().map(UserId).collect();
        match world.ask(&Query::Presence { asker: UserId(asker), users, pairs_only }) {
            Answer::Presence(heard) => {
                heard.into_iter().map(|(user, at)| (user.0, at.map(|at| at.0))).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let all = [5, 4, 3, 2, 1, 99, 3];
    assert_eq!(heard(1, &all, false), [(1, None), (2, None), (3, Some(50))]);
    assert_eq!(heard(1, &all, true), [(1, None), (2, None)]);
    assert_eq!(heard(4, &all, false), [(4, None)], "who left hears of nobody");
    assert_eq!(heard(2, &[1], true), [(1, None)]);
    let users = (1..=201).map(UserId).collect();
    let answer = world.ask(&Query::Presence { asker: UserId(1), users, pairs_only: false });
    assert_eq!(code(&answer), Some(Code::TooLarge));
    assert_eq!(profile(&world, 1, 3).last_seen_at, Some(WallMs(50)));
    assert_eq!(profile(&world, 4, 3).last_seen_at, None);
}
