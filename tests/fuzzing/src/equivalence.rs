//! One schema, two encodings: what one form decodes, the other carries to the same command.
//!
//! The first byte chooses: the text of a frame; an archive of the kind that the second byte names; or a command put together from
//! values on both sides of every bound.

use std::borrow::Cow;

use carillon_protocol::client::{
    Command, FrameId, Incoming, SendMessage, ServerFrame, binary, check_command, json,
};
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, SEQ_MAX, UserId};
use carillon_protocol::limits::{CONTENT_BYTES_MAX, FRAME_ID_NUMBER_MAX};
use carillon_protocol::record::{Encoding, MessageType};
use rkyv::util::AlignedVec;

use crate::client_rkyv::of_kind;
use crate::draw::Draw;
use crate::{Reached, Target, client_json};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "equivalence",
    run,
    outcomes: &[
        "identify",
        "send_message",
        "delivered",
        "read",
        "sync",
        "typing",
        "presence_subscribe",
        "presence_unsubscribe",
        "delete_message",
        "react",
        "unreact",
        "refresh_token",
        "heartbeat",
        "bye",
        "refused by both",
        "id refused by both",
        "from JSON",
        "from rkyv",
        "of a server",
    ],
};

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&form, data)) = data.split_first() else { return };
    match form % 3 {
        0 => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            let incoming = json::decode(text);
            if let Ok(command) = &incoming.command {
                assert_eq!(
                    in_rkyv(incoming.id.as_ref(), command, |seen| seen == &incoming),
                    Some(true),
                    "{incoming:?}"
                );
                reached.meet("from JSON");
            }
            if let Ok(frame) = json::decode_server(text) {
                same_to_clients(&frame);
                reached.meet("of a server");
            }
        }
        1 => {
            let Some((&kind, archive)) = data.split_first() else { return };
            let message = of_kind(u16::from(kind), archive);
            for incoming in binary::decode(&message) {
                if let Ok(command) = &incoming.command {
                    let text = client_json::of_command(incoming.id.as_ref(), command);
                    assert_eq!(json::decode(&text), incoming, "{text}");
                    reached.meet("from rkyv");
                }
            }
            for frame in binary::decode_server(&message).flatten() {
                // rkyv holds more than a server says: ids out of bounds, the count of an ack that nobody counts.
                if let Ok(said) = json::decode_server(&client_json::of_server(&frame)) {
                    same_to_clients(&said);
                    reached.meet("of a server");
                }
            }
        }
        _ => {
            let mut draw = Draw::new(data);
            let (id, command) = (frame_id(&mut draw), command(&mut draw));
            both(id.as_ref(), command, reached);
        }
    }
}

/// Both encodings let a command through, in its one form, or both refuse it.
fn both(id: Option<&FrameId>, command: Command<'_>, reached: &mut Reached) {
    let text = client_json::of_command(id, &command);
    let of_json = json::decode(&text);
    let mut checked = command.clone();
    let verdict = check_command(&mut checked);
    // With an id that cannot be echoed nothing else is looked at.
    let id_is_sound = id.is_none_or(|id| match id {
        FrameId::Text(text) => text.len() <= 64,
        FrameId::Number(number) => (-FRAME_ID_NUMBER_MAX..=FRAME_ID_NUMBER_MAX).contains(number),
    });
    if verdict.is_ok() && id_is_sound {
        let expected = Incoming { id: id.cloned(), command: Ok(checked) };
        assert_eq!(of_json, expected, "{text}");
        assert_eq!(in_rkyv(id, &command, |seen| *seen == expected), Some(true), "{expected:?}");
        reached.meet(client_json::name(&command));
    } else {
        assert!(of_json.command.is_err(), "rkyv has it refused, JSON does not: {text}");
        let same_id = |seen: &Incoming<'_>| seen.command.is_err() && seen.id == of_json.id;
        assert_eq!(in_rkyv(id, &command, same_id), Some(true), "both refuse, with the same id: {text}");
        reached.meet(if id_is_sound { "refused by both" } else { "id refused by both" });
    }
}

/// What `look` says of the command's one frame in rkyv; `None` unless it is one.
fn in_rkyv(
    id: Option<&FrameId>,
    command: &Command<'_>,
    look: impl Fn(&Incoming<'_>) -> bool,
) -> Option<bool> {
    let mut message = AlignedVec::new();
    binary::encode_command(id, command, &mut message);
    let mut frames = binary::decode(&message);
    let only = frames.next()?;
    frames.next().is_none().then(|| look(&only))
}

/// A server's frame comes through either encoding as it is.
fn same_to_clients(frame: &ServerFrame<'_>) {
    let text = client_json::of_server(frame);
    assert_eq!(json::decode_server(&text).as_ref(), Ok(frame), "{text}");
    let mut message = AlignedVec::new();
    binary::encode(frame, &mut message);
    let mut frames = binary::decode_server(&message);
    assert_eq!(frames.next().as_ref(), Some(&Ok(frame.clone())), "in rkyv");
    assert_eq!(frames.next(), None);
}

fn id(draw: &mut Draw<'_>) -> u64 {
    match draw.byte() {
        0 => 0,
        1 => ID_MAX,
        2 => ID_MAX + 1,
        3 => draw.number(),
        small => u64::from(small),
    }
}

fn seq(draw: &mut Draw<'_>) -> u64 {
    match draw.byte() {
        0 => 0,
        1 => SEQ_MAX,
        2 => SEQ_MAX + 1,
        3 => draw.number(),
        small => u64::from(small),
    }
}

pub(crate) fn frame_id(draw: &mut Draw<'_>) -> Option<FrameId> {
    match draw.byte() % 8 {
        0..4 => None,
        4 | 5 => Some(FrameId::Text(draw.text(66).into())),
        6 => Some(FrameId::Number(i64::from(draw.byte()) - 100)),
        _ => Some(FrameId::Number(draw.number().cast_signed())),
    }
}

/// Text around a bound of 64 bytes, mostly short.
fn short_text<'d>(draw: &mut Draw<'d>) -> Cow<'d, str> {
    draw.text(66)
}

fn optional_text<'d>(draw: &mut Draw<'d>) -> Option<Cow<'d, str>> {
    draw.flag().then(|| short_text(draw))
}

fn ids(draw: &mut Draw<'_>) -> Vec<u64> {
    let count = match draw.byte() {
        255 => 201,
        254 => 200,
        count => usize::from(count % 8),
    };
    (0..count).map(|index| if draw.is_empty() { index as u64 + 1 } else { id(draw) }).collect()
}

pub(crate) fn command<'d>(draw: &mut Draw<'d>) -> Command<'d> {
    let conversation = ConversationId(id(draw));
    match draw.byte() % 14 {
        0 => Command::Identify {
            token: optional_text(draw),
            cursors: ids(draw).into_iter().map(|id| (ConversationId(id), seq(draw))).collect(),
        },
        1 => Command::SendMessage(send_message(draw, conversation)),
        2 => Command::Delivered { conversation, seq: seq(draw) },
        3 => Command::Read { conversation, seq: seq(draw) },
        4 => Command::Sync { conversation, from_seq: seq(draw), limit: draw.number() as u32 },
        5 => Command::Typing { conversation, start: draw.flag() },
        6 => Command::PresenceSubscribe { users: ids(draw).into_iter().map(UserId).collect() },
        7 => Command::PresenceUnsubscribe { users: ids(draw).into_iter().map(UserId).collect() },
        8 => Command::DeleteMessage {
            conversation,
            message: MessageId(id(draw)),
            client_msg_id: optional_text(draw),
        },
        9 | 10 => Command::React {
            conversation,
            message: MessageId(id(draw)),
            add: draw.flag(),
            client_msg_id: optional_text(draw),
            emoji: short_text(draw),
        },
        11 => Command::RefreshToken { token: short_text(draw) },
        12 => Command::Heartbeat,
        _ => Command::Bye,
    }
}

fn send_message<'d>(draw: &mut Draw<'d>, conversation: ConversationId) -> SendMessage<'d> {
    const TYPES: [MessageType; 4] =
        [MessageType::Text, MessageType::Image, MessageType::Video, MessageType::File];
    SendMessage {
        conversation,
        message_type: draw.pick(&TYPES),
        encoding: draw.pick(&[Encoding::Utf8, Encoding::Utf8, Encoding::Opaque]),
        media_url: optional_text(draw),
        client_msg_id: optional_text(draw),
        reply_to: draw.flag().then(|| MessageId(id(draw))),
        content: match draw.byte() {
            255 => Cow::Owned("é".repeat(CONTENT_BYTES_MAX / 2) + "x"),
            254 => Cow::Owned("é".repeat(CONTENT_BYTES_MAX / 2)),
            253 => Cow::Borrowed("QUJDRA=="),
            _ => draw.text(200),
        },
    }
}
