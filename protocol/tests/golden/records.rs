//! Stored values.

use std::borrow::Cow;

use carillon_protocol::ids::{MessageId, UserId};
use carillon_protocol::record::{
    Body, ConversationRow, ConversationType, Encoding, Event, HeadRow, History, IdempotencyRow, MemberRow,
    Message, MessageType, Role, UserRow,
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
    vec![
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
    }
}

fn head() -> HeadRow {
    HeadRow {
        seq: 142,
        message_index: 141,
        last_id: MessageId(354_000_000_000_000_042),
        members_version: 3,
        members_count: 5,
    }
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
    }
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
}
