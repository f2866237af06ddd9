//! A message is deleted for everyone.

use carillon_protocol::ids::{MessageId, UserId};
use carillon_protocol::record::{Body, Event, MessageType};
use carillon_store::conformance::world::{add, change, receipt, remove, send};
use carillon_store::verb::{Change, SendOp};

use super::*;

fn delete(message: MessageId) -> Change {
    Change::Delete { message }
}

/// G4: no row holds the content any more; its place, id, sender and type stay, and it is told by an event.
#[test]
fn g4_a_deleted_message_is_a_tombstone_in_its_place() {
    const SECRET: &str = "what should not have been said";
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let Op::Send(op) = send(1, group, "m", SECRET) else { unreachable!() };
    let media_url = Some("https://example.org/secret".to_owned());
    let sent = world.append(Op::Send(SendOp { message_type: MessageType::Image, media_url, ..op.clone() }));
    let again = Op::Send(SendOp {
        message_type: MessageType::Image,
        media_url: Some("https://example.org/secret".to_owned()),
        ..op
    });
    let emoji = || "+".to_owned();
    world.append(change(1, group, "r", Change::React { message: sent.id, emoji: emoji() }));
    world.append(change(1, group, "u", Change::Unreact { message: sent.id, emoji: emoji() }));
    world.append(change(2, group, "r", Change::React { message: sent.id, emoji: emoji() }));
    let deleted = world.append(change(1, group, "d", delete(sent.id)));
    let body = Event::decode(&deleted.record).unwrap().body;
    assert_eq!(body, Body::Deleted { target_seq: 2, message: sent.id });

    let log = world.log(2, group);
    let event = Event::decode(&log.entries[1].record).unwrap();
    assert_eq!((event.id, event.sender, &*event.client_msg_id), (sent.id, UserId(1), "m"));
    let (message_type, deleted_seq) = (MessageType::Image, deleted.seq);
    assert_eq!(event.body, Body::Tombstone { message_type, deleted_seq });
    assert_eq!((deleted_seq, log.reactions), (6, vec![]));
    let holds = |needle: &str| {
        let holds = |value: &[u8]| value.windows(needle.len()).any(|window| window == needle.as_bytes());
        all_rows(&world).iter().filter(|(_, value)| holds(value)).count()
    };
    assert_eq!((holds(SECRET), holds("example.org")), (0, 0));
    assert!(
        !all_rows(&world).iter().any(|(key, _)| matches!(key[0], b'f' | b'r' | b'z')),
        "no reaction is left"
    );
    assert_eq!(summary(&world, 2, group).last_message.unwrap().seq, 2, "it still is the last message");

    let retried = world.append(again);
    assert_eq!(
        (retried.seq, retried.id, retried.duplicate),
        (2, sent.id, true),
        "G2 holds beyond a deletion"
    );
    unchanged(&mut world, &change(1, group, "e", delete(sent.id)), Some(6));
}

/// Only its sender, and only what they see.
#[test]
fn deleting_is_refused_for_a_reason() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let other = world.group(11, &[1, 2]);
    let sent = world.append(send(2, group, "m", "hello")).id;
    let elsewhere = world.append(send(1, other, "m", "hello")).id;
    let renamed = world.append(change(1, group, "n", Change::Rename { group_name: "x".to_owned() })).id;
    refused(&mut world, &change(1, group, "k", delete(sent)), Code::Forbidden, None);
    for wrong in [elsewhere, renamed, MessageId(1), MessageId(u64::MAX)] {
        refused(&mut world, &change(1, group, "k", delete(wrong)), Code::NotFound, Some("message_id"));
    }
    world.append(change(2, group, "leave", remove(2)));
    world.append(change(1, group, "back", add(&[2])));
    refused(&mut world, &change(2, group, "k", delete(sent)), Code::NotFound, Some("message_id"));
}

/// Deleted messages are not unread, whoever deleted them, wherever the reader stands; positions do not move.
#[test]
fn deleted_messages_are_not_unread() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    let ids: Vec<MessageId> =
        (0..6).map(|index| world.append(send(1 + index % 2, group, &format!("m{index}"), "x")).id).collect();
    let unread = |world: &MemoryWorld, user| summary(world, user, group).unread_count;
    assert_eq!((unread(&world, 1), unread(&world, 2)), (3, 3));
    world.append(change(2, group, "a", delete(ids[1])));
    assert_eq!((unread(&world, 1), unread(&world, 2)), (2, 3), "one's own is not among one's unread");
    let outcome = world.one(receipt(1, group, 0, 3));
    assert!(matches!(&outcome, Outcome::Receipted(receipted) if receipted.unread_count == 2), "{outcome:?}");
    world.append(change(2, group, "b", delete(ids[5])));
    assert_eq!((unread(&world, 1), unread(&world, 2)), (1, 3));
    let outcome = world.one(receipt(1, group, 0, 9));
    assert!(matches!(&outcome, Outcome::Receipted(receipted) if receipted.unread_count == 0), "{outcome:?}");
    world.append(change(1, group, "c", delete(ids[0])));
    assert_eq!((unread(&world, 1), unread(&world, 2)), (0, 2));
    let opened = world.ask(&Query::Open { conversation: group });
    let Answer::Open(opened) = opened else { panic!("{opened:?}") };
    assert_eq!(opened.deleted, [(2, UserId(1)), (3, UserId(2)), (7, UserId(2))]);
}
