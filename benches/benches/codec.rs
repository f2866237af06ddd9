//! What it costs to read and to write the frames that a message passes in: WebSocket, the client's JSON and beside it rkyv,
//! the frames between the tiers.
//!
//! `cargo bench -p carillon-benches --bench codec` measures; without `--bench` each runs once.

mod quick;

use std::borrow::Cow;
use std::hint::black_box;

use carillon_protocol::client::{
    Command, EventFrame, FrameId, MessageView, SendMessage, ServerFrame, Status, binary, json,
};
use carillon_protocol::frame::{self, Deliver, Frame, LinkFrame as _, Submit};
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::record::{Encoding, MessageType};
use carillon_protocol::time::WallMs;
use carillon_protocol::websocket::{
    Decoder, Opcode, Role, append_client_frame, append_server_frame, mask_in_place,
};
use criterion::{Criterion, Throughput};
use quick::TEXT;
use rkyv::util::AlignedVec;

const CONVERSATION: ConversationId = ConversationId(0x1_0000_0001);
/// The longest message that the decoder takes here.
const MESSAGE_BYTES_MAX: usize = 65_536;
/// The mask of a client's frame.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// What masking alone is measured with: a page of messages.
const PAGE_BYTES: usize = 4_096;

/// What a client says to send a message.
fn command() -> Command<'static> {
    Command::SendMessage(SendMessage {
        conversation: CONVERSATION,
        content: Cow::Borrowed(TEXT),
        message_type: MessageType::Text,
        encoding: Encoding::Utf8,
        media_url: None,
        client_msg_id: Some(Cow::Borrowed("0b84af6e-5d0c-4b8e-9a3f-6c1f5a2d7e90")),
        reply_to: None,
    })
}

/// What the other one hears of it.
fn event() -> ServerFrame<'static> {
    let message = MessageView {
        message: MessageId(1 << 40),
        conversation: CONVERSATION,
        seq: 1_234,
        sender: UserId(42),
        content: Cow::Borrowed(TEXT),
        encoding: Encoding::Utf8,
        message_type: MessageType::Text,
        media_url: None,
        reply_to: None,
        status: Status::Sent,
        created_at: WallMs(1_780_000_000_000),
        client_msg_id: None,
        deleted: false,
        reactions: Vec::new(),
    };
    ServerFrame::Event(EventFrame::NewMessage { message, head_seq: 1_234 })
}

/// What a gateway says to the router for it.
fn submit() -> Submit {
    Submit {
        session: 7,
        request: 8,
        user: UserId(42),
        client_msg_id: "0b84af6e-5d0c-4b8e-9a3f-6c1f5a2d7e90".to_owned(),
        slot_epoch: 1,
        said_after: Vec::new(),
        command: frame::Command::Send {
            conversation: CONVERSATION,
            message_type: MessageType::Text as u8,
            encoding: Encoding::Utf8 as u8,
            content: TEXT.to_owned(),
            media_url: None,
            reply_to: None,
        },
    }
}

/// What a router says to a gateway for as many members.
fn deliver(users_count: u64) -> Deliver {
    Deliver {
        conversation: CONVERSATION,
        seq: 1_234,
        head_seq: 1_234,
        origin_session: 0,
        origin_request: 0,
        replayed: false,
        users: (1..=users_count).map(UserId).collect(),
        record: TEXT.as_bytes().to_vec(),
    }
}

fn websocket(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket");
    let mut text = Vec::new();
    json::encode_command(Some(&FrameId::Number(7)), &command(), &mut text);
    let mut bytes = Vec::new();
    append_client_frame(&mut bytes, Opcode::Text, &text, MASK);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let (mut decoder, mut scratch) = (Decoder::new(Role::Server), AlignedVec::<16>::new());
    group.bench_function("frame read, unmasked, found to be UTF-8", |bencher| {
        bencher.iter(|| {
            let read = decoder.decode(black_box(&bytes), MESSAGE_BYTES_MAX, &mut scratch);
            assert!(matches!(read, Ok((_, Some(_)))));
        });
    });
    let mut out = Vec::new();
    group.bench_function("frame written", |bencher| {
        bencher.iter(|| {
            out.clear();
            append_server_frame(&mut out, Opcode::Text, black_box(&text));
        });
    });
    let mut page = vec![0x5a; PAGE_BYTES];
    group.throughput(Throughput::Bytes(PAGE_BYTES as u64));
    group.bench_function("4 KiB unmasked", |bencher| {
        bencher.iter(|| mask_in_place(black_box(&mut page), MASK))
    });
    group.finish();
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client");
    let (id, command, event) = (FrameId::Number(7), command(), event());
    let mut text = Vec::new();
    json::encode_command(Some(&id), &command, &mut text);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    group.bench_function("send_message read from JSON", |bencher| {
        bencher.iter(|| assert!(json::decode(black_box(&text)).command.is_ok()));
    });
    let mut archive = AlignedVec::new();
    binary::encode_command(Some(&id), &command, &mut archive);
    group.bench_function("send_message read from rkyv", |bencher| {
        bencher
            .iter(|| assert!(binary::decode(black_box(&archive)).all(|incoming| incoming.command.is_ok())));
    });
    let mut out = Vec::new();
    group.bench_function("new_message written as JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            json::encode(black_box(&event), &mut out);
        });
    });
    group.bench_function("new_message written as rkyv", |bencher| {
        bencher.iter(|| {
            archive.clear();
            binary::encode(black_box(&event), &mut archive);
        });
    });
    group.finish();
}

fn between_tiers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("link frames");
    let submit = submit();
    let mut out = AlignedVec::new();
    group.bench_function("submit written", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&submit).append_to(&mut out);
        });
    });
    let bytes = submit.to_frame();
    group.bench_function("submit checked and read in place", |bencher| {
        bencher.iter(|| assert!(matches!(frame::read(black_box(&bytes)), Ok(Frame::Submit(_)))));
    });
    for users_count in [1, 1_000] {
        let deliver = deliver(users_count);
        group.bench_function(format!("deliver to {users_count} written"), |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&deliver).append_to(&mut out);
            });
        });
        let bytes = deliver.to_frame();
        group.bench_function(format!("deliver to {users_count} checked and read in place"), |bencher| {
            bencher.iter(|| assert!(matches!(frame::read(black_box(&bytes)), Ok(Frame::Deliver(_)))));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = quick::criterion();
    websocket(&mut criterion);
    client(&mut criterion);
    between_tiers(&mut criterion);
    criterion.final_summary();
}
