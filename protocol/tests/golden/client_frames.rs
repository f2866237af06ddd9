//! Client frames, in both encodings.

use std::borrow::Cow;
use std::collections::BTreeSet;

use carillon_protocol::client::{
    Command, DeliveryAck, Done, EventFrame, FrameId, Hello, Incoming, MessageView, PresenceView,
    ReactionView, ReceiptView, ReceiptsView, SendMessage, ServerFrame, Status, SyncBatch, binary, json,
};
use carillon_protocol::framing;
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType, Role};
use carillon_protocol::time::WallMs;
use rkyv::util::AlignedVec;

use crate::{Golden, bytes_of, text_of};

const CONVERSATION: ConversationId = ConversationId(7_210_000_000_000_000_001);
const MESSAGE: MessageId = MessageId(354_000_000_000_000_042);
const ALICE: UserId = UserId(42);
const BOB: UserId = UserId(ID_MAX);
const AT: WallMs = WallMs(1_790_000_000_123);
const THUMB: &str = "\u{1f44d}\u{1f3fd}";
const UUID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

fn number() -> Option<FrameId> {
    Some(FrameId::Number(-7))
}

fn name() -> Option<FrameId> {
    Some(FrameId::Text("a frame of mine".into()))
}

fn commands() -> Vec<(&'static str, Option<FrameId>, Command<'static>)> {
    let plain = SendMessage {
        conversation: CONVERSATION,
        content: "hello, wörld \"1\"\n".into(),
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        media_url: None,
        client_msg_id: None,
        reply_to: None,
    };
    let full = SendMessage {
        content: "b3BhcXVl".into(),
        message_type: MessageType::Image,
        encoding: Encoding::Opaque,
        media_url: Some("https://media.example/v1/media/1".into()),
        client_msg_id: Some(UUID.into()),
        reply_to: Some(MESSAGE),
        ..plain.clone()
    };
    let identify = Command::Identify {
        token: Some("eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into()),
        cursors: vec![(ConversationId(1), 0), (CONVERSATION, 141)],
    };
    vec![
        ("identify", None, Command::Identify { token: None, cursors: Vec::new() }),
        ("identify.full", number(), identify),
        ("send_message", None, Command::SendMessage(plain)),
        ("send_message.full", name(), Command::SendMessage(full)),
        ("delivered", None, Command::Delivered { conversation: CONVERSATION, seq: 142 }),
        ("read", number(), Command::Read { conversation: CONVERSATION, seq: 142 }),
        ("sync", number(), Command::Sync { conversation: CONVERSATION, from_seq: 101, limit: 50 }),
        ("typing", None, Command::Typing { conversation: CONVERSATION, start: true }),
        ("typing.stop", number(), Command::Typing { conversation: CONVERSATION, start: false }),
        ("presence_subscribe", number(), Command::PresenceSubscribe { users: vec![BOB, ALICE] }),
        ("presence_unsubscribe", name(), Command::PresenceUnsubscribe { users: vec![BOB] }),
        ("delete_message", None, delete(None)),
        ("delete_message.full", number(), delete(Some(UUID))),
        ("react", None, react(true, None)),
        ("react.full", number(), react(true, Some(UUID))),
        ("unreact", number(), react(false, None)),
        ("refresh_token", name(), Command::RefreshToken { token: "eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into() }),
        ("heartbeat", None, Command::Heartbeat),
        ("bye", None, Command::Bye),
    ]
}

fn delete(client_msg_id: Option<&'static str>) -> Command<'static> {
    let client_msg_id = client_msg_id.map(Cow::Borrowed);
    Command::DeleteMessage { conversation: CONVERSATION, message: MESSAGE, client_msg_id }
}

fn react(add: bool, client_msg_id: Option<&'static str>) -> Command<'static> {
    let client_msg_id = client_msg_id.map(Cow::Borrowed);
    let emoji = Cow::Borrowed(THUMB);
    Command::React { conversation: CONVERSATION, message: MESSAGE, emoji, client_msg_id, add }
}

fn message() -> MessageView<'static> {
    MessageView {
        message: MESSAGE,
        conversation: CONVERSATION,
        seq: 142,
        sender: ALICE,
        content: "hello, wörld \"1\"\n".into(),
        encoding: Encoding::Utf8,
        message_type: MessageType::Text,
        media_url: None,
        reply_to: None,
        status: Status::Sent,
        created_at: AT,
        deleted: false,
        reactions: Vec::new(),
        client_msg_id: None,
    }
}

fn tombstone() -> MessageView<'static> {
    MessageView { content: Cow::Borrowed(""), deleted: true, ..message() }
}

fn full_message() -> MessageView<'static> {
    MessageView {
        content: Cow::Borrowed(""),
        encoding: Encoding::Opaque,
        message_type: MessageType::File,
        media_url: Some("https://media.example/v1/media/1".into()),
        reply_to: Some(MessageId(1)),
        status: Status::Read,
        client_msg_id: Some(UUID.into()),
        ..message()
    }
}

fn reacted_message() -> MessageView<'static> {
    let reactions = vec![
        ReactionView { emoji: Cow::Borrowed(THUMB), count: 3, mine: true },
        ReactionView { emoji: Cow::Borrowed("+1"), count: 1, mine: false },
    ];
    MessageView { reactions, ..message() }
}

fn created(conversation_type: ConversationType, group_name: Option<&'static str>) -> EventFrame<'static> {
    EventFrame::ConversationCreated {
        conversation: CONVERSATION,
        seq: 1,
        user_ids: vec![ALICE, BOB],
        by: ALICE,
        conversation_type,
        group_name: group_name.map(Into::into),
        history: History::FromJoin,
        created_at: AT,
    }
}

fn updated(group_name: Option<&'static str>, role: Option<(UserId, Role)>) -> EventFrame<'static> {
    EventFrame::ConversationUpdated {
        conversation: CONVERSATION,
        seq: 143,
        by: ALICE,
        group_name: group_name.map(Into::into),
        role,
        created_at: AT,
    }
}

fn removed(user: UserId, owner: Option<UserId>) -> EventFrame<'static> {
    EventFrame::MemberRemoved { conversation: CONVERSATION, seq: 145, user, by: ALICE, owner, created_at: AT }
}

fn reaction(added: bool) -> EventFrame<'static> {
    EventFrame::Reaction {
        added,
        conversation: CONVERSATION,
        seq: 147,
        message: MESSAGE,
        target_seq: 142,
        user: BOB,
        emoji: Cow::Borrowed(THUMB),
        created_at: AT,
    }
}

/// Every event but those of `sync_batch`, each with the name of its file.
fn changes() -> Vec<(&'static str, EventFrame<'static>)> {
    let added = EventFrame::MemberAdded {
        conversation: CONVERSATION,
        seq: 144,
        user_ids: vec![UserId(43), BOB],
        by: ALICE,
        created_at: AT,
    };
    let deleted = EventFrame::MessageDeleted {
        conversation: CONVERSATION,
        seq: 146,
        message: MESSAGE,
        target_seq: 142,
        by: ALICE,
        created_at: AT,
    };
    vec![
        ("conversation_updated", updated(Some("six"), None)),
        ("conversation_updated.role", updated(None, Some((BOB, Role::Admin)))),
        ("member_added", added),
        ("member_removed", removed(BOB, None)),
        ("member_removed.owner", removed(ALICE, Some(BOB))),
        ("message_deleted", deleted),
        ("reaction_added", reaction(true)),
        ("reaction_removed", reaction(false)),
    ]
}

fn sync_batch() -> SyncBatch<'static> {
    SyncBatch {
        id: number(),
        conversation: CONVERSATION,
        events: vec![
            created(ConversationType::Group, Some("five")),
            EventFrame::NewMessage { message: full_message(), head_seq: 142 },
        ],
        from_seq: 1,
        to_seq: 2,
        head_seq: 142,
        has_more: true,
        receipts: ReceiptsView::Each(vec![ReceiptView { user: BOB, delivered_seq: 141, read_seq: 140 }]),
    }
}

fn server_frames() -> Vec<(&'static str, ServerFrame<'static>)> {
    let hello = Hello {
        server_time: AT,
        heartbeat_interval_ms: 30_000,
        frame_bytes: 65_536,
        content_bytes: 16_384,
        inflight: 64,
        send_per_s: 20,
        send_burst: 64,
    };
    let ready = ServerFrame::Ready {
        id: Some(FrameId::Number(1)),
        user: ALICE,
        device: "phone".into(),
        pending_conversations: 2,
        pending_events: 340,
    };
    let ack = DeliveryAck {
        id: None,
        message: MESSAGE,
        status: Status::Delivered,
        conversation: CONVERSATION,
        seq: 142,
        timestamp: AT,
        client_msg_id: None,
        duplicate: false,
        user: Some(BOB),
        count: None,
    };
    let counted = |status| DeliveryAck { status, user: None, count: Some(900), ..ack.clone() };
    let duplicate = DeliveryAck {
        id: name(),
        status: Status::Sent,
        client_msg_id: Some(UUID.into()),
        duplicate: true,
        user: None,
        ..ack.clone()
    };
    let receipts = ReceiptsView::Each(Vec::new());
    let empty = SyncBatch { id: None, events: Vec::new(), has_more: false, receipts, ..sync_batch() };
    let mut events = vec![EventFrame::NewMessage { message: reacted_message(), head_seq: 147 }];
    events.extend(changes().into_iter().map(|(_, event)| event));
    let counts = SyncBatch {
        events,
        receipts: ReceiptsView::Counted { delivered_count: 900, read_count: 17 },
        ..sync_batch()
    };
    let online = PresenceView { user: BOB, online: true, last_seen_at: None };
    let offline = PresenceView { user: BOB, online: false, last_seen_at: Some(AT) };
    let typing = |start| ServerFrame::Typing { conversation: CONVERSATION, user: BOB, start };
    let reset = |id, reason| ServerFrame::Reset {
        id,
        conversation: CONVERSATION,
        first_seq: 1,
        head_seq: 142,
        reason,
    };
    let limited = Refusal::new(Code::RateLimited, "send fewer messages").retry_after(1_500);
    let wrong = Refusal::field("content", "content may be empty only with media_url");
    let request_id = || Cow::Borrowed("0f3c-17");
    let done = Done {
        id: number(),
        conversation: Some(CONVERSATION),
        seq: Some(142),
        duplicate: true,
        presence: None,
    };
    let nothing = Done { conversation: Some(CONVERSATION), ..Done::default() };
    let subscribed = Done { id: number(), presence: Some(vec![online, offline]), ..Done::default() };
    let mut frames = vec![
        ("hello", ServerFrame::Hello(hello)),
        ("ready", ready),
        ("caught_up", ServerFrame::CaughtUp),
        ("new_message", ServerFrame::Event(EventFrame::NewMessage { message: message(), head_seq: 142 })),
        (
            "new_message.full",
            ServerFrame::Event(EventFrame::NewMessage { message: full_message(), head_seq: 143 }),
        ),
        (
            "new_message.reactions",
            ServerFrame::Event(EventFrame::NewMessage { message: reacted_message(), head_seq: 143 }),
        ),
        (
            "new_message.tombstone",
            ServerFrame::Event(EventFrame::NewMessage { message: tombstone(), head_seq: 143 }),
        ),
        ("conversation_created", ServerFrame::Event(created(ConversationType::Group, Some("five")))),
        ("conversation_created.pair", ServerFrame::Event(created(ConversationType::OneToOne, None))),
        ("delivery_ack", ServerFrame::DeliveryAck(ack.clone())),
        ("delivery_ack.delivered_count", ServerFrame::DeliveryAck(counted(Status::Delivered))),
        ("delivery_ack.read_count", ServerFrame::DeliveryAck(counted(Status::Read))),
        ("delivery_ack.duplicate", ServerFrame::DeliveryAck(duplicate)),
        ("sync_batch", ServerFrame::SyncBatch(sync_batch())),
        ("sync_batch.changes", ServerFrame::SyncBatch(counts)),
        ("sync_batch.empty", ServerFrame::SyncBatch(empty)),
        ("behind", ServerFrame::Behind { conversations: vec![(CONVERSATION, 142), (ConversationId(1), 9)] }),
        ("reset", reset(None, "membership")),
        ("reset.answer", reset(number(), "cursor_ahead")),
        ("reconnect", ServerFrame::Reconnect { after_ms: 2_718, reason: "drain" }),
        ("ok", ServerFrame::Ok(Done { id: name(), ..Done::default() })),
        ("ok.event", ServerFrame::Ok(done)),
        ("ok.nothing", ServerFrame::Ok(nothing)),
        ("ok.presence", ServerFrame::Ok(subscribed)),
        ("error", ServerFrame::Error { id: None, refusal: limited, request_id: request_id() }),
        ("error.field", ServerFrame::Error { id: number(), refusal: wrong, request_id: request_id() }),
        ("heartbeat_ack", ServerFrame::HeartbeatAck { id: number() }),
        ("typing.pushed", typing(true)),
        ("typing.pushed_stop", typing(false)),
        ("presence", ServerFrame::Presence(online)),
        ("presence.offline", ServerFrame::Presence(offline)),
        ("read_sync", ServerFrame::ReadSync { conversation: CONVERSATION, read_seq: 140, unread_count: 2 }),
    ];
    frames.extend(changes().into_iter().map(|(name, event)| (name, ServerFrame::Event(event))));
    frames
}

pub(crate) fn golden() -> Vec<Golden> {
    let mut all = Vec::new();
    let mut add = |name: &str, text: Vec<u8>, bytes: &[u8]| {
        all.push(Golden::json(&format!("client/{name}"), text));
        all.push(Golden::hex(&format!("client/{name}"), bytes));
    };
    for (name, id, command) in commands() {
        let (mut text, mut bytes) = (Vec::new(), AlignedVec::new());
        json::encode_command(id.as_ref(), &command, &mut text);
        binary::encode_command(id.as_ref(), &command, &mut bytes);
        add(name, text, &bytes);
    }
    for (name, frame) in server_frames() {
        let (mut text, mut bytes) = (Vec::new(), AlignedVec::new());
        json::encode(&frame, &mut text);
        binary::encode(&frame, &mut bytes);
        add(name, text, &bytes);
    }
    all
}

/// `typing` names a command and a frame of the server's: names alone do not show that each kind is frozen.
#[test]
fn every_number_of_a_kind_is_in_a_file() {
    let mut seen = BTreeSet::new();
    for name in commands().iter().map(|(name, ..)| name).chain(server_frames().iter().map(|(name, _)| name)) {
        let bytes = bytes_of(&format!("client/{name}.hex"));
        let (kind, ..) = framing::split(&bytes, bytes.len()).unwrap().unwrap();
        seen.insert(kind);
    }
    assert_eq!(seen, binary::Kind::ALL.iter().map(|kind| *kind as u16).collect());
}

/// Released bytes are read for ever.
#[test]
fn client_files_are_read_as_they_were_meant() {
    for (name, id, command) in commands() {
        let expected = Incoming { id, command: Ok(command) };
        assert_eq!(json::decode(&text_of(&format!("client/{name}.json"))), expected, "{name}");
        let bytes = bytes_of(&format!("client/{name}.hex"));
        assert_eq!(binary::decode(&bytes).collect::<Vec<_>>(), [expected], "{name}");
    }
    for (name, frame) in server_frames() {
        let text = text_of(&format!("client/{name}.json"));
        assert_eq!(json::decode_server(&text).as_ref(), Ok(&frame), "{name}");
        let bytes = bytes_of(&format!("client/{name}.hex"));
        assert_eq!(binary::decode_server(&bytes).collect::<Vec<_>>(), [Ok(frame)], "{name}");
    }
}
