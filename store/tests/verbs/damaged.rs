//! Rows that cannot be read, or say what no verb ever wrote: whatever needs them is refused, and nothing falls over (F22).

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::record::{ConversationType, Role};
use carillon_protocol::time::WallMs;
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{add, change, create, page, receipt, remove, reply, send};
use carillon_store::ops::{Context, append};
use carillon_store::txn::Abort;
use carillon_store::verb::Change;

use super::*;

/// `u64::MAX` as it is stored.
const LARGEST: [u8; 10] = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];

/// The least, the most, other versions, and numbers as large as they can be.
fn garbage(chance: &mut Chance, value: &Bytes) -> Vec<Bytes> {
    let mut garbage: Vec<Bytes> = vec![Bytes::new(), vec![99].into(), vec![1].into(), vec![1; 40].into()];
    garbage.push([&[1][..], &[0xff; 40]].concat().into());
    // As many of the largest number as a row may have, behind what kinds may stand before them.
    for count in 1..=7 {
        for kinds in [&[1][..], &[1, 0], &[1, 0, 1]] {
            garbage.push([kinds, &LARGEST.repeat(count)].concat().into());
        }
    }
    garbage.push(value.slice(..value.len() / 2));
    let mut flipped = value.to_vec();
    let at = chance.below(flipped.len().max(1) as u64) as usize;
    if let Some(byte) = flipped.get_mut(at) {
        *byte ^= 1 << chance.below(8);
    }
    garbage.push(flipped.into());
    garbage
}

/// F22: whatever row of whatever family is damaged, every verb has an answer, and another conversation is as it was.
#[test]
fn f22_damaged_rows_fail_what_needs_them_and_nothing_else() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    let other = world.group(11, &[4, 5]);
    world.append(create(12, ConversationType::OneToOne, &[1, 2], ""));
    let message = world.append(send(1, group, "m", "hello")).id;
    let deleted = world.append(send(2, group, "d", "hello")).id;
    let emoji = || "+".to_owned();
    world.append(change(2, group, "r", Change::React { message, emoji: emoji() }));
    world.append(change(2, group, "e", Change::Delete { message: deleted }));
    world.append(change(3, group, "leave", remove(3)));
    world.one(receipt(2, group, 3, 2));
    let until = Some(WallMs(5));
    world.one(Op::Mute { user: UserId(1), conversation: group, until });
    let (device, at) = (PHONE.to_owned(), WallMs(9));
    world.one(Op::Seen { user: UserId(1), device, at, offline: true });

    let rows = all_rows(&world);
    let mut chance = Chance::new(22);
    let mut families = std::collections::BTreeSet::new();
    for (key, value) in rows.iter().filter(|(key, _)| !b"swk".contains(&key[0])) {
        families.insert(char::from(key[0]));
        for (index, wrong) in garbage(&mut chance, value).into_iter().enumerate() {
            by_hand(&world, |txn| txn.set(key.clone(), wrong.clone()));
            ask_everything(&world, group);
            let key_of = |name: &str| format!("{name} {index} {}", chance.clone().next_u64());
            let ops = [
                send(1, group, &key_of("s"), "hello"),
                reply(2, group, &key_of("p"), message),
                change(1, group, &key_of("a"), add(&[3])),
                change(1, group, &key_of("b"), remove(2)),
                change(1, group, &key_of("c"), Change::Rename { group_name: key_of("n") }),
                change(1, group, &key_of("o"), Change::SetRole { user: UserId(2), role: Role::Admin }),
                change(1, group, &key_of("e"), Change::Delete { message }),
                change(1, group, &key_of("f"), Change::React { message, emoji: emoji() }),
                change(2, group, &key_of("g"), Change::Unreact { message, emoji: emoji() }),
                change(2, group, "r", Change::React { message, emoji: emoji() }),
                receipt(2, group, 5, 3),
                receipt(1, group, 6, 6),
                create(12, ConversationType::OneToOne, &[1, 2], ""),
                create(10, ConversationType::Group, &[1, 2, 3], "create 10"),
                Op::FannedOut { conversation: group, seq: 3 },
                Op::Mute { user: UserId(1), conversation: group, until },
                Op::Profile { user: UserId(1), username: "user-2".to_owned() },
                Op::Provision { user: UserId(1), name: String::new() },
                Op::Seen { user: UserId(1), device: PHONE.to_owned(), at: WallMs(10), offline: true },
                Op::Revoke { user: UserId(1), device: PHONE.to_owned() },
                Op::PushToken { user: UserId(1), device: PHONE.to_owned(), token: None },
            ];
            ops.iter().for_each(|op| attempt(&world, op));
            by_hand(&world, |txn| txn.set(key.clone(), value.clone()));
        }
    }
    assert_eq!(families.iter().collect::<String>(), "cdehijlmnopruvxyz");
    assert!(all_rows(&world) == rows);
    assert_eq!(world.append(send(4, other, "k", "hello")).seq, 2);
}

/// Decides an operation and commits nothing, so that each meets the same rows.
fn attempt(world: &MemoryWorld, op: &Op) {
    let (now, incarnation, mut ids) = (world.now, world.incarnation, world.ids(0));
    let outcome = world.engine.commit(0, &mut |txn| {
        let mut context = Context { now, incarnation, ids: &mut ids, members_max: 10 };
        append(txn, &mut context, std::slice::from_ref(op))?;
        Err(Abort::TooLarge)
    });
    assert!(outcome.is_err(), "{op:?}");
}

fn ask_everything(world: &MemoryWorld, conversation: ConversationId) {
    for user in [1, 2, 3].map(UserId) {
        let device = PHONE.to_owned();
        let queries = [
            Query::Session { user, device: device.clone() },
            Query::Peek { user, conversations: vec![conversation] },
            Query::Open { conversation },
            Query::Page(page(user.0, conversation, 1, u64::MAX)),
            Query::Page(PageQuery {
                newest_first: true,
                messages_only: true,
                ..page(user.0, conversation, 0, u64::MAX)
            }),
            Query::Events { conversation, from_seq: 1, limit: 9 },
            Query::Members { conversation },
            Query::Fellows { user, conversation },
            Query::Senders { conversation, after_seq: 0, up_to_seq: 9, except: user },
            Query::Conversations { user, below: u64::MAX, as_of: u64::MAX, limit: 9 },
            Query::Conversation { user, conversation },
            Query::MemberPage { user, conversation, after: UserId(0), limit: 9 },
            Query::Receipts { user, conversation, seq: 0 },
            Query::Counts { conversation, senders: vec![(user, 2)] },
            Query::Devices { user },
            Query::Admission { user, device },
            Query::Presence { asker: user, users: vec![UserId(1), UserId(2)], pairs_only: false },
            Query::Presence { asker: user, users: vec![UserId(1), UserId(2)], pairs_only: true },
            Query::User { asker: UserId(1), user },
            Query::Username { asker: user, username: "user-1".to_owned() },
            Query::Markers,
        ];
        for query in queries {
            world.ask(&query);
        }
    }
}
