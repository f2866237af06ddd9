//! Client frames, in both encodings.

use std::borrow::Cow;

use carillon_protocol::client::{
    Command, DeliveryAck, Done, EventFrame, FrameId, Hello, Incoming, MessageView, ReceiptView, SendMessage,
    ServerFrame, Status, SyncBatch, binary, json,
};
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, UserId};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType};
use carillon_protocol::time::WallMs;
use rkyv::util::AlignedVec;

use crate::{Golden, bytes_of, text_of};

const CONVERSATION: ConversationId = ConversationId(7_210_000_000_000_000_001);
const MESSAGE: MessageId = MessageId(354_000_000_000_000_042);
const ALICE: UserId = UserId(42);
const BOB: UserId = UserId(ID_MAX);
const AT: WallMs = WallMs(1_790_000_000_123);
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
        ("refresh_token", name(), Command::RefreshToken { token: "eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into() }),
        ("heartbeat", None, Command::Heartbeat),
        ("bye", None, Command::Bye),
    ]
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
        client_msg_id: None,
    }
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
        receipts: vec![ReceiptView { user: BOB, delivered_seq: 141, read_seq: 140 }],
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
    };
    let duplicate = DeliveryAck {
        id: name(),
        status: Status::Sent,
        client_msg_id: Some(UUID.into()),
        duplicate: true,
        user: None,
        ..ack.clone()
    };
    let empty =
        SyncBatch { id: None, events: Vec::new(), has_more: false, receipts: Vec::new(), ..sync_batch() };
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
    let done = Done { id: number(), conversation: Some(CONVERSATION), seq: Some(142), duplicate: true };
    vec![
        ("hello", ServerFrame::Hello(hello)),
        ("ready", ready),
        ("caught_up", ServerFrame::CaughtUp),
        ("new_message", ServerFrame::Event(EventFrame::NewMessage { message: message(), head_seq: 142 })),
        (
            "new_message.full",
            ServerFrame::Event(EventFrame::NewMessage { message: full_message(), head_seq: 143 }),
        ),
        ("conversation_created", ServerFrame::Event(created(ConversationType::Group, Some("five")))),
        ("conversation_created.pair", ServerFrame::Event(created(ConversationType::OneToOne, None))),
        ("delivery_ack", ServerFrame::DeliveryAck(ack)),
        ("delivery_ack.duplicate", ServerFrame::DeliveryAck(duplicate)),
        ("sync_batch", ServerFrame::SyncBatch(sync_batch())),
        ("sync_batch.empty", ServerFrame::SyncBatch(empty)),
        ("behind", ServerFrame::Behind { conversations: vec![(CONVERSATION, 142), (ConversationId(1), 9)] }),
        ("reset", reset(None, "membership")),
        ("reset.answer", reset(number(), "cursor_ahead")),
        ("reconnect", ServerFrame::Reconnect { after_ms: 2_718, reason: "drain" }),
        ("ok", ServerFrame::Ok(Done { id: name(), ..Done::default() })),
        ("ok.event", ServerFrame::Ok(done)),
        ("error", ServerFrame::Error { id: None, refusal: limited, request_id: request_id() }),
        ("error.field", ServerFrame::Error { id: number(), refusal: wrong, request_id: request_id() }),
        ("heartbeat_ack", ServerFrame::HeartbeatAck { id: number() }),
    ]
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
