//! Properties of both encodings of client frames: what is written is read back, both say the same, and bytes from
//! outside never do worse than be refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use carillon_protocol::client::{
    Command, DeliveryAck, Done, EventFrame, FrameId, Hello, Incoming, MessageView, PresenceView,
    ReactionView, ReceiptView, ReceiptsView, SendMessage, ServerFrame, Status, SyncBatch, binary, json,
};
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, SEQ_MAX, UserId};
use carillon_protocol::reason::{ROWS, Refusal};
use carillon_protocol::record::{ConversationType, Encoding, History, MessageType, Role};
use carillon_protocol::time::WallMs;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};
use rkyv::util::AlignedVec;

/// A runner with a seed of its own, and on standard error (shown when the test fails) how to repeat it.
fn run<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value) -> TestCaseResult) {
    // Miri is a thousand times slower.
    let cases = if cfg!(miri) { 2 } else { cases };
    let mut config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().build_hasher().finish());
    }
    eprintln!(
        "repeat with: PROPTEST_RNG_SEED={} cargo test -p carillon-protocol --test client_properties",
        config.rng_seed
    );
    if let Err(failure) = TestRunner::new(config).run(&strategy, check) {
        panic!("{failure}");
    }
}

fn text(chars_max: usize) -> impl Strategy<Value = Cow<'static, str>> {
    let char =
        prop_oneof![6 => any::<char>(), 2 => prop::char::range(' ', '~'), 1 => Just('"'), 1 => Just('\\')];
    prop::collection::vec(char, 0..=chars_max).prop_map(|chars| Cow::Owned(chars.into_iter().collect()))
}

fn some_text(chars_max: usize) -> impl Strategy<Value = Cow<'static, str>> {
    text(chars_max).prop_map(|text| if text.is_empty() { Cow::Borrowed("x") } else { text })
}

fn frame_id() -> impl Strategy<Value = Option<FrameId>> {
    let text = text(16).prop_map(|text| FrameId::Text(text.into()));
    let number = (-(1_i64 << 53)..=1 << 53).prop_map(FrameId::Number);
    prop::option::of(prop_oneof![text, number])
}

fn id() -> impl Strategy<Value = u64> {
    prop_oneof![1..=ID_MAX, 1..=9_u64, Just(ID_MAX)]
}

fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![1..=SEQ_MAX, 1..=300_u64]
}

fn message_type() -> impl Strategy<Value = MessageType> {
    prop::sample::select(vec![MessageType::Text, MessageType::Image, MessageType::Video, MessageType::File])
}

fn content() -> impl Strategy<Value = (Cow<'static, str>, Encoding)> {
    prop_oneof![
        3 => some_text(60).prop_map(|text| (text, Encoding::Utf8)),
        1 => "([A-Za-z0-9+/]{4}){1,9}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
            .prop_map(|text| (Cow::Owned(text), Encoding::Opaque)),
    ]
}

fn send_message() -> impl Strategy<Value = SendMessage<'static>> {
    let media_url = prop::option::of(some_text(30));
    let client_msg_id = prop::option::of(some_text(16));
    (id(), content(), any::<bool>(), message_type(), media_url, client_msg_id, prop::option::of(id()))
        .prop_map(
            |(conversation, (content, encoding), empty, message_type, media_url, client_msg_id, reply_to)| {
                let content = if empty && media_url.is_some() { Cow::Borrowed("") } else { content };
                SendMessage {
                    conversation: ConversationId(conversation),
                    content,
                    message_type,
                    encoding,
                    media_url,
                    client_msg_id,
                    reply_to: reply_to.map(MessageId),
                }
            },
        )
}

fn emoji() -> impl Strategy<Value = Cow<'static, str>> {
    let char = prop_oneof![prop::char::range(' ', '~'), prop::char::range('\u{1f300}', '\u{1f6ff}')];
    prop::collection::vec(char, 1..=16).prop_map(|chars| Cow::Owned(chars.into_iter().collect()))
}

/// As a decoder gives them: each once.
fn users() -> impl Strategy<Value = Vec<UserId>> {
    let ids = prop::collection::btree_set(id(), 1..20).prop_map(|ids| ids.into_iter().map(UserId).collect());
    Strategy::prop_shuffle(ids)
}

fn change() -> impl Strategy<Value = Command<'static>> {
    let place = || (id(), id()).prop_map(|(conversation, id)| (ConversationId(conversation), MessageId(id)));
    let client_msg_id = || prop::option::of(some_text(16));
    prop_oneof![
        (id(), any::<bool>())
            .prop_map(|(id, start)| Command::Typing { conversation: ConversationId(id), start }),
        users().prop_map(|users| Command::PresenceSubscribe { users }),
        users().prop_map(|users| Command::PresenceUnsubscribe { users }),
        (place(), client_msg_id()).prop_map(|((conversation, message), client_msg_id)| {
            Command::DeleteMessage { conversation, message, client_msg_id }
        }),
        (place(), emoji(), client_msg_id(), any::<bool>()).prop_map(
            |((conversation, message), emoji, client_msg_id, add)| Command::React {
                conversation,
                message,
                emoji,
                client_msg_id,
                add,
            }
        ),
    ]
}

fn command() -> impl Strategy<Value = Command<'static>> {
    let cursors =
        prop::collection::btree_map(id(), 0..=SEQ_MAX, 0..20).prop_map(|map: BTreeMap<u64, u64>| {
            map.into_iter().map(|(conversation, seq)| (ConversationId(conversation), seq)).collect()
        });
    let marked = || (id(), seq()).prop_map(|(conversation, seq)| (ConversationId(conversation), seq));
    prop_oneof![
        4 => send_message().prop_map(Command::SendMessage),
        1 => (prop::option::of(text(80)), cursors)
            .prop_map(|(token, cursors)| Command::Identify { token, cursors }),
        1 => marked().prop_map(|(conversation, seq)| Command::Delivered { conversation, seq }),
        1 => marked().prop_map(|(conversation, seq)| Command::Read { conversation, seq }),
        1 => (marked(), 1..=200_u32)
            .prop_map(|((conversation, from_seq), limit)| Command::Sync { conversation, from_seq, limit }),
        3 => change(),
        1 => text(80).prop_map(|token| Command::RefreshToken { token }),
        1 => Just(Command::Heartbeat),
        1 => Just(Command::Bye),
    ]
}

fn message_view() -> impl Strategy<Value = MessageView<'static>> {
    let status = prop::sample::select(vec![Status::Sent, Status::Delivered, Status::Read]);
    let ids = (id(), id(), seq(), id(), prop::option::of(id()));
    let texts = (prop::option::of(some_text(30)), prop::option::of(some_text(16)));
    let reaction = (emoji(), any::<u64>(), any::<bool>()).prop_map(|(emoji, count, mine)| ReactionView {
        emoji,
        count,
        mine,
    });
    let left = (any::<bool>(), prop::collection::vec(reaction, 0..4));
    (ids, text(60), any::<bool>(), message_type(), texts, status, any::<u64>(), left).prop_map(
        |(
            (message, conversation, seq, sender, reply_to),
            content,
            opaque,
            message_type,
            texts,
            status,
            at,
            (deleted, reactions),
        )| {
            MessageView {
                message: MessageId(message),
                conversation: ConversationId(conversation),
                seq,
                sender: UserId(sender),
                content,
                encoding: if opaque { Encoding::Opaque } else { Encoding::Utf8 },
                message_type,
                media_url: texts.0,
                reply_to: reply_to.map(MessageId),
                status,
                created_at: WallMs(at),
                deleted,
                reactions,
                client_msg_id: texts.1,
            }
        },
    )
}

fn place() -> impl Strategy<Value = (ConversationId, u64, UserId, WallMs)> {
    (id(), seq(), id(), any::<u64>())
        .prop_map(|(conversation, seq, by, at)| (ConversationId(conversation), seq, UserId(by), WallMs(at)))
}

fn event() -> impl Strategy<Value = EventFrame<'static>> {
    let created = (
        id(),
        prop::collection::vec(id(), 0..20),
        id(),
        any::<bool>(),
        prop::option::of(text(20)),
        any::<u64>(),
    )
        .prop_map(|(conversation, users, by, flag, group_name, at)| EventFrame::ConversationCreated {
            conversation: ConversationId(conversation),
            seq: 1,
            user_ids: users.into_iter().map(UserId).collect(),
            by: UserId(by),
            conversation_type: if flag { ConversationType::Group } else { ConversationType::OneToOne },
            group_name,
            history: if flag { History::All } else { History::FromJoin },
            created_at: WallMs(at),
        });
    let role = (id(), prop::sample::select(vec![Role::Member, Role::Admin, Role::Owner]))
        .prop_map(|(user, role)| (UserId(user), role));
    let updated = (place(), prop::option::of(text(20)), prop::option::of(role)).prop_map(
        |((conversation, seq, by, created_at), group_name, role)| EventFrame::ConversationUpdated {
            conversation,
            seq,
            by,
            group_name,
            role,
            created_at,
        },
    );
    let added = (place(), prop::collection::vec(id().prop_map(UserId), 0..20)).prop_map(
        |((conversation, seq, by, created_at), user_ids)| EventFrame::MemberAdded {
            conversation,
            seq,
            user_ids,
            by,
            created_at,
        },
    );
    let removed = (place(), id(), prop::option::of(id())).prop_map(
        |((conversation, seq, by, created_at), user, owner)| EventFrame::MemberRemoved {
            conversation,
            seq,
            user: UserId(user),
            by,
            owner: owner.map(UserId),
            created_at,
        },
    );
    let deleted =
        (place(), id(), seq()).prop_map(|((conversation, seq, by, created_at), message, target_seq)| {
            EventFrame::MessageDeleted {
                conversation,
                seq,
                message: MessageId(message),
                target_seq,
                by,
                created_at,
            }
        });
    let reaction = (place(), id(), seq(), emoji(), any::<bool>()).prop_map(
        |((conversation, seq, user, created_at), message, target_seq, emoji, added)| EventFrame::Reaction {
            added,
            conversation,
            seq,
            message: MessageId(message),
            target_seq,
            user,
            emoji,
            created_at,
        },
    );
    prop_oneof![
        1 => updated,
        1 => added,
        1 => removed,
        1 => deleted,
        1 => reaction,
        3 => (message_view(), seq()).prop_map(|(message, head_seq)| EventFrame::NewMessage { message, head_seq }),
        1 => created,
    ]
}

fn delivery_ack() -> impl Strategy<Value = DeliveryAck<'static>> {
    let status = prop::sample::select(vec![Status::Sent, Status::Delivered, Status::Read]);
    let rest = (
        prop::option::of(some_text(16)),
        any::<bool>(),
        prop::option::of(id()),
        prop::option::of(any::<u64>()),
    );
    (frame_id(), id(), status, id(), seq(), any::<u64>(), rest).prop_map(
        |(frame_id, message, status, conversation, seq, at, (client_msg_id, duplicate, user, count))| {
            DeliveryAck {
                id: frame_id,
                message: MessageId(message),
                status,
                conversation: ConversationId(conversation),
                seq,
                timestamp: WallMs(at),
                client_msg_id,
                duplicate,
                user: user.map(UserId),
                // Nobody counts those to whom it was sent.
                count: count.filter(|_| status != Status::Sent),
            }
        },
    )
}

fn sync_batch() -> impl Strategy<Value = SyncBatch<'static>> {
    let receipt = (id(), 0..=SEQ_MAX, 0..=SEQ_MAX).prop_map(|(user, delivered_seq, read_seq)| ReceiptView {
        user: UserId(user),
        delivered_seq,
        read_seq,
    });
    let events = prop::collection::vec(event(), 0..6);
    let receipts = prop_oneof![
        prop::collection::vec(receipt, 0..5).prop_map(ReceiptsView::Each),
        (any::<u64>(), any::<u64>())
            .prop_map(|(delivered_count, read_count)| ReceiptsView::Counted { delivered_count, read_count }),
    ];
    (frame_id(), id(), events, seq(), any::<u64>(), any::<u64>(), any::<bool>(), receipts).prop_map(
        |(id, conversation, events, from_seq, to_seq, head_seq, has_more, receipts)| SyncBatch {
            id,
            conversation: ConversationId(conversation),
            events,
            from_seq,
            to_seq,
            head_seq,
            has_more,
            receipts,
        },
    )
}

fn error() -> impl Strategy<Value = ServerFrame<'static>> {
    let field = prop::option::of(prop::sample::select(vec!["content", "member_ids", "cursors", "username"]));
    let code = prop::sample::select(ROWS.map(|row| row.code).to_vec());
    (frame_id(), code, text(40), field, prop::option::of(any::<u64>()), text(20)).prop_map(
        |(id, code, message, field, retry_after_ms, request_id)| ServerFrame::Error {
            id,
            refusal: Refusal { code, message, field, retry_after_ms },
            request_id,
        },
    )
}

fn server_frame() -> impl Strategy<Value = ServerFrame<'static>> {
    let reasons = vec!["cursor_ahead", "retention", "too_far_behind", "membership"];
    let hello = any::<[u64; 7]>().prop_map(|numbers| Hello {
        server_time: WallMs(numbers[0]),
        heartbeat_interval_ms: numbers[1],
        frame_bytes: numbers[2],
        content_bytes: numbers[3],
        inflight: numbers[4],
        send_per_s: numbers[5],
        send_burst: numbers[6],
    });
    let presence =
        || {
            (id(), any::<bool>(), prop::option::of(any::<u64>())).prop_map(|(user, online, at)| {
                PresenceView { user: UserId(user), online, last_seen_at: at.map(WallMs) }
            })
        };
    let views = prop::option::of(prop::collection::vec(presence(), 0..5));
    let done = (frame_id(), prop::option::of(id()), prop::option::of(seq()), any::<bool>(), views);
    let heads = prop::collection::vec((id(), seq()), 0..9);
    prop_oneof![
        hello.prop_map(ServerFrame::Hello),
        (frame_id(), id(), "[A-Za-z0-9_-]{1,64}", any::<u64>(), any::<u64>()).prop_map(
            |(id, user, device, pending_conversations, pending_events)| ServerFrame::Ready {
                id,
                user: UserId(user),
                device: Cow::Owned(device),
                pending_conversations,
                pending_events,
            }
        ),
        Just(ServerFrame::CaughtUp),
        event().prop_map(ServerFrame::Event),
        delivery_ack().prop_map(ServerFrame::DeliveryAck),
        sync_batch().prop_map(ServerFrame::SyncBatch),
        heads.prop_map(|heads| ServerFrame::Behind {
            conversations: heads.into_iter().map(|(id, seq)| (ConversationId(id), seq)).collect(),
        }),
        (frame_id(), id(), seq(), seq(), prop::sample::select(reasons)).prop_map(
            |(id, conversation, first_seq, head_seq, reason)| ServerFrame::Reset {
                id,
                conversation: ConversationId(conversation),
                first_seq,
                head_seq,
                reason,
            }
        ),
        any::<u64>().prop_map(|after_ms| ServerFrame::Reconnect { after_ms, reason: "drain" }),
        (id(), id(), any::<bool>()).prop_map(|(conversation, user, start)| ServerFrame::Typing {
            conversation: ConversationId(conversation),
            user: UserId(user),
            start,
        }),
        presence().prop_map(ServerFrame::Presence),
        (id(), seq(), any::<u64>()).prop_map(|(conversation, read_seq, unread_count)| {
            ServerFrame::ReadSync { conversation: ConversationId(conversation), read_seq, unread_count }
        }),
        done.prop_map(|(id, conversation, seq, duplicate, presence)| {
            ServerFrame::Ok(Done {
                id,
                conversation: conversation.map(ConversationId),
                seq,
                duplicate,
                presence,
            })
        }),
        error(),
        frame_id().prop_map(|id| ServerFrame::HeartbeatAck { id }),
    ]
}

fn json_of(id: Option<&FrameId>, command: &Command<'_>) -> String {
    let mut out = Vec::new();
    json::encode_command(id, command, &mut out);
    String::from_utf8(out).unwrap()
}

fn json_of_server(frame: &ServerFrame<'_>) -> String {
    let mut out = Vec::new();
    json::encode(frame, &mut out);
    String::from_utf8(out).unwrap()
}

fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::new();
    out.extend_from_slice(bytes);
    out
}

#[test]
fn commands_survive_both_encodings_and_are_the_same() {
    run(400, (frame_id(), command()), |(id, command)| {
        let text = json_of(id.as_ref(), &command);
        let of_json = json::decode(&text);
        let expected = Incoming { id: id.clone(), command: Ok(command.clone()) };
        prop_assert_eq!(&of_json, &expected, "{}", text);
        let mut message = AlignedVec::new();
        binary::encode_command(id.as_ref(), &command, &mut message);
        let of_binary: Vec<Incoming<'_>> = binary::decode(&message).collect();
        prop_assert_eq!(of_binary, vec![of_json]);
        Ok(())
    });
}

#[test]
fn server_frames_survive_both_encodings() {
    run(400, server_frame(), |frame| {
        let text = json_of_server(&frame);
        prop_assert_eq!(json::decode_server(&text), Ok(frame.clone()), "{}", text);
        let spaced = format!(" {}", text.replacen("{\"type\":", "{ \"new_field\":[{}], \"type\": ", 1));
        prop_assert_eq!(json::decode_server(&spaced), Ok(frame.clone()), "{}", spaced);
        let mut message = AlignedVec::new();
        binary::encode(&frame, &mut message);
        prop_assert_eq!(binary::decode_server(&message).collect::<Vec<_>>(), vec![Ok(frame)]);
        Ok(())
    });
}

#[test]
fn strings_are_read_in_place() {
    let inside = |outer: &[u8], inner: &str| outer.as_ptr_range().contains(&inner.as_ptr());
    run(64, send_message(), |mut message| {
        message.encoding = Encoding::Utf8;
        message.content = Cow::Borrowed("long enough to lie outside of its archive's struct");
        let command = Command::SendMessage(message);
        let text = json_of(None, &command);
        let Ok(Command::SendMessage(read)) = json::decode(&text).command else { panic!("{text}") };
        prop_assert!(inside(text.as_bytes(), &read.content));
        let mut bytes = AlignedVec::new();
        binary::encode_command(None, &command, &mut bytes);
        let incoming = binary::decode(&bytes).next().unwrap();
        let Ok(Command::SendMessage(read)) = incoming.command else { panic!("{bytes:?}") };
        prop_assert!(inside(&bytes, &read.content));
        Ok(())
    });
}

#[test]
fn several_frames_share_a_message() {
    run(100, prop::collection::vec((frame_id(), command()), 1..6), |frames| {
        let mut message = AlignedVec::new();
        for (id, command) in &frames {
            binary::encode_command(id.as_ref(), command, &mut message);
        }
        let seen: Vec<Incoming<'_>> = binary::decode(&message).collect();
        let expected: Vec<_> =
            frames.into_iter().map(|(id, command)| Incoming { id, command: Ok(command) }).collect();
        prop_assert_eq!(seen, expected);
        Ok(())
    });
}

/// Reads bytes in every way there is, and holds whatever command comes out to what a sound one is held to.
fn read_everything(bytes: &[u8]) -> TestCaseResult {
    let message = aligned(bytes);
    for incoming in binary::decode(&message) {
        sound(&incoming)?;
    }
    binary::decode_server(&message).for_each(drop);
    let text = String::from_utf8_lossy(bytes);
    sound(&json::decode(&text))?;
    let _ = json::decode_server(&text);
    Ok(())
}

/// A command that was let through survives being written and read again: it is within every bound.
fn sound(incoming: &Incoming<'_>) -> TestCaseResult {
    if let Ok(command) = &incoming.command {
        let text = json_of(incoming.id.as_ref(), command);
        prop_assert_eq!(&json::decode(&text), incoming);
    }
    Ok(())
}

#[test]
fn random_bytes_never_panic() {
    run(400, prop::collection::vec(any::<u8>(), 0..200), |bytes| read_everything(&bytes));
    // With a header that holds, so that the archive behind it is looked at.
    run(400, (any::<u8>(), prop::collection::vec(any::<u8>(), 0..25)), |(kind, words)| {
        let archive: Vec<u8> = words.iter().flat_map(|word| [*word, 0, 0, 0]).collect();
        let length = u32::try_from(archive.len()).unwrap().to_le_bytes();
        let mut bytes = vec![1, 0, kind % 0x58, 0];
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&archive);
        read_everything(&bytes)
    });
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"type\"",
        "\"id\"",
        "\"send_message\"",
        "\"sync\"",
        "\"presence_subscribe\"",
        "\"user_ids\"",
        "null",
        "1",
        "-",
        "1e9",
        "\"cursors\"",
        "\"1\"",
        "\\ud800",
        " ",
    ]);
    run(400, prop::collection::vec(token, 0..40), |tokens| read_everything(tokens.concat().as_bytes()));
}

/// What is done to a frame's bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Drop(Index),
    Twice(Index),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Damage::Set(place, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(place, bit)| Damage::Flip(place, bit)),
        any::<Index>().prop_map(Damage::Cut),
        any::<Index>().prop_map(Damage::Drop),
        any::<Index>().prop_map(Damage::Twice),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Set(place, byte) => bytes[place.index(length)] = *byte,
            Damage::Flip(place, bit) => bytes[place.index(length)] ^= 1 << bit,
            Damage::Cut(place) => bytes.truncate(place.index(length)),
            Damage::Drop(place) => drop(bytes.remove(place.index(length))),
            Damage::Twice(place) => bytes.extend_from_within(place.index(length)..),
        }
    }
    bytes
}

#[test]
fn damaged_frames_never_panic_and_never_pass_a_bound() {
    run(500, (frame_id(), command(), damage()), |(id, command, damage)| {
        let mut message = AlignedVec::new();
        binary::encode_command(id.as_ref(), &command, &mut message);
        read_everything(&damaged(message.to_vec(), &damage))?;
        read_everything(&damaged(json_of(id.as_ref(), &command).into_bytes(), &damage))
    });
    run(500, (server_frame(), damage()), |(frame, damage)| {
        let mut message = AlignedVec::new();
        binary::encode(&frame, &mut message);
        read_everything(&damaged(message.to_vec(), &damage))?;
        read_everything(&damaged(json_of_server(&frame).into_bytes(), &damage))
    });
}

#[test]
fn types_from_a_newer_server_are_told_apart() {
    use carillon_protocol::client::Unreadable;
    let unknown = json::decode_server(r#"{"type":"fireworks","x":1}"#);
    assert_eq!(unknown, Err(Unreadable::UnknownType("fireworks".into())));
    assert!(matches!(json::decode_server(r#"{"type":"ready"}"#), Err(Unreadable::Invalid(_))));
    let text = r#"{"type":"sync_batch","conversation_id":"1","events":[{"type":"fireworks","seq":1}],
        "from_seq":1,"to_seq":1,"head_seq":1,"has_more":false,"receipts":[]}"#;
    let Ok(ServerFrame::SyncBatch(batch)) = json::decode_server(text) else { panic!("{text}") };
    assert!(batch.events.is_empty());
    let mut message = AlignedVec::new();
    carillon_protocol::framing::append(&mut message, 0x7f, &1_u64);
    binary::encode(&ServerFrame::CaughtUp, &mut message);
    let seen: Vec<_> = binary::decode_server(&message).collect();
    assert_eq!(seen, [Err(Unreadable::UnknownType("0x007f".into())), Ok(ServerFrame::CaughtUp)]);
}
