//! Stored values.

use std::borrow::Cow;

use carillon_protocol::ids::{MessageId, UserId};
use carillon_protocol::record::{
    Body, ConversationRow, ConversationType, DeviceRow, Encoding, Event, HeadRow, History, IdempotencyRow,
    MemberRow, Message, MessageType, ReactionsRow, Role, TallyRow, UserConversationRow, UserRow,
};
use carillon_protocol::time::WallMs;

use crate::{Golden, bytes_of};

const UUID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

fn events() -> Vec<(&'static str, Event<'static>)> {
    let plain = Message { content: "hello, wörld", ..Message::default() };
    let full = Message {
        message_type: MessageType::Image,
        encoding: Encoding::Opaque,
        content: "b3BhcXVl",
        media_url: Some("https://media.example/v1/media/1"),
        reply_to: Some(MessageId(354_000_000_000_000_041)),
    };
    let created = Body::Created {
        conversation_type: ConversationType::Group,
        group_name: Some("five"),
        history: History::All,
        members: vec![UserId(42), UserId(43)],
    };
    let event = |client_msg_id: &'static str, body| Event {
        id: MessageId(354_000_000_000_000_042),
        sender: UserId(42),
        client_msg_id: Cow::Borrowed(client_msg_id),
        body,
    };
    let users = || vec![UserId(43), UserId(44)];
    let (target_seq, message) = (142, MessageId(354_000_000_000_000_041));
    let thumb = "\u{1f44d}";
    let added =
        Body::MembersAdded { users: users(), returning: vec![UserId(44)], history: History::FromJoin };
    let tombstone = Body::Tombstone { message_type: MessageType::Image, deleted_seq: 150 };
    vec![
        ("event.tombstone", event("", tombstone)),
        ("event.renamed", event("", Body::Renamed { group_name: Some("six") })),
        ("event.members_added", event("", added)),
        ("event.member_removed", event("", Body::MemberRemoved { user: UserId(44), heir: None })),
        ("event.owner_left", event("", Body::MemberRemoved { user: UserId(42), heir: Some(UserId(43)) })),
        ("event.role_changed", event("", Body::RoleChanged { user: UserId(43), role: Role::Admin })),
        ("event.deleted", event("mine", Body::Deleted { target_seq, message })),
        ("event.reaction_added", event("", Body::ReactionAdded { target_seq, message, emoji: thumb })),
        ("event.reaction_removed", event("", Body::ReactionRemoved { target_seq, message, emoji: thumb })),
        ("event.message", event("", Body::Message(plain))),
        ("event.message_full", event(UUID, Body::Message(full))),
        ("event.message_named", event("my own name", Body::Message(plain))),
        ("event.created", event("", created)),
    ]
}

fn conversation() -> ConversationRow {
    ConversationRow {
        conversation_type: ConversationType::Group,
        history: History::FromJoin,
        created_at: WallMs(1_790_000_000_123),
        created_by: UserId(42),
        group_name: Some("five".into()),
        named_seq: 1,
    }
}

fn renamed() -> ConversationRow {
    ConversationRow { named_seq: 150, ..conversation() }
}

fn head() -> HeadRow {
    HeadRow {
        seq: 142,
        message_index: 141,
        last_id: MessageId(354_000_000_000_000_042),
        members_version: 3,
        members_count: 5,
        deleted_seq: 0,
    }
}

fn thinned() -> HeadRow {
    HeadRow { deleted_seq: 150, ..head() }
}

fn member() -> MemberRow {
    MemberRow {
        from: 1,
        to: 0,
        role: Role::Owner,
        read_seq: 140,
        read_index: 139,
        own_since_read: 1,
        delivered_seq: 142,
        role_seq: 0,
    }
}

fn promoted() -> MemberRow {
    MemberRow { role: Role::Admin, role_seq: 150, ..member() }
}

fn joined() -> UserConversationRow {
    UserConversationRow { first_seq: 7, left_seq: 0, is_returning: false }
}

fn left() -> UserConversationRow {
    UserConversationRow { first_seq: 7, left_seq: 150, is_returning: true }
}

fn device() -> DeviceRow {
    DeviceRow { last_seen_at: Some(WallMs(1_790_000_000_123)), revoked_at: None, push_token: None }
}

fn full_device() -> DeviceRow {
    DeviceRow {
        revoked_at: Some(WallMs(1_790_000_000_124)),
        push_token: Some((2, "a token".into())),
        ..device()
    }
}

fn tally() -> TallyRow {
    TallyRow { messages: vec![(UserId(42), 1_000), (UserId(43), 1)] }
}

fn reactions() -> ReactionsRow {
    ReactionsRow { counts: vec![("\u{1f44d}".into(), 3), ("+1".into(), 300)] }
}

fn idempotency() -> IdempotencyRow {
    IdempotencyRow { seq: 142, payload_hash: *b"0123456789abcdef" }
}

fn user() -> UserRow {
    UserRow {
        username: "alice".into(),
        created_at: WallMs(1_790_000_000_123),
        last_seen_at: Some(WallMs(300)),
    }
}

pub(crate) fn golden() -> Vec<Golden> {
    let mut all: Vec<Golden> = events()
        .iter()
        .map(|(name, event)| Golden::hex(&format!("record/{name}"), &event.encode()))
        .collect();
    all.push(Golden::hex("record/conversation", &conversation().encode()));
    all.push(Golden::hex("record/head", &head().encode()));
    all.push(Golden::hex("record/member", &member().encode()));
    all.push(Golden::hex("record/idempotency", &idempotency().encode()));
    all.push(Golden::hex("record/user", &user().encode()));
    all.push(Golden::hex("record/conversation.renamed", &renamed().encode()));
    all.push(Golden::hex("record/head.deleted", &thinned().encode()));
    all.push(Golden::hex("record/member.promoted", &promoted().encode()));
    all.push(Golden::hex("record/user_conversation", &joined().encode()));
    all.push(Golden::hex("record/user_conversation.left", &left().encode()));
    all.push(Golden::hex("record/device", &device().encode()));
    all.push(Golden::hex("record/device.full", &full_device().encode()));
    all.push(Golden::hex("record/tally", &tally().encode()));
    all.push(Golden::hex("record/reactions", &reactions().encode()));
    all
}

/// What was stored once is read for ever.
#[test]
fn record_files_are_read_as_they_were_meant() {
    for (name, event) in events() {
        assert_eq!(Event::decode(&bytes_of(&format!("record/{name}.hex"))), Some(event), "{name}");
    }
    assert_eq!(ConversationRow::decode(&bytes_of("record/conversation.hex")), Some(conversation()));
    assert_eq!(HeadRow::decode(&bytes_of("record/head.hex")), Some(head()));
    assert_eq!(MemberRow::decode(&bytes_of("record/member.hex")), Some(member()));
    assert_eq!(IdempotencyRow::decode(&bytes_of("record/idempotency.hex")), Some(idempotency()));
    assert_eq!(UserRow::decode(&bytes_of("record/user.hex")), Some(user()));
    assert_eq!(ConversationRow::decode(&bytes_of("record/conversation.renamed.hex")), Some(renamed()));
    assert_eq!(HeadRow::decode(&bytes_of("record/head.deleted.hex")), Some(thinned()));
    assert_eq!(MemberRow::decode(&bytes_of("record/member.promoted.hex")), Some(promoted()));
    assert_eq!(UserConversationRow::decode(&bytes_of("record/user_conversation.hex")), Some(joined()));
    assert_eq!(UserConversationRow::decode(&bytes_of("record/user_conversation.left.hex")), Some(left()));
    assert_eq!(DeviceRow::decode(&bytes_of("record/device.hex")), Some(device()));
    assert_eq!(DeviceRow::decode(&bytes_of("record/device.full.hex")), Some(full_device()));
    assert_eq!(TallyRow::decode(&bytes_of("record/tally.hex")), Some(tally()));
    assert_eq!(ReactionsRow::decode(&bytes_of("record/reactions.hex")), Some(reactions()));
}
