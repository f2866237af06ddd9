//! Client frames in rkyv, both ways: archives that are damaged or nothing of the kind (DC2).
//!
//! The first byte chooses: a WebSocket message as it is; an archive of the kind that the second byte names, behind a header that
//! is right; or a sound command with a few bytes changed.

use carillon_protocol::client::binary::{self, Kind};
use carillon_protocol::client::{Incoming, ServerFrame, check_command};
use carillon_protocol::framing::{self, ALIGN, HEADER_BYTES};
use rkyv::util::AlignedVec;

use crate::draw::Draw;
use crate::{Reached, Target, client_json, equivalence};

/// See [`crate::TARGETS`].
pub const TARGET: Target = Target {
    name: "client_rkyv",
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
        "refused",
        "several",
        "of a server",
    ],
};

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&form, data)) = data.split_first() else { return };
    let message = match form % 3 {
        0 => aligned(data),
        1 => {
            let Some((&kind, archive)) = data.split_first() else { return };
            of_kind(u16::from(kind), archive)
        }
        _ => damaged(data),
    };
    read(&message, reached);
    read_as_a_client(&message, reached);
    read_misaligned(&message);
}

fn read(message: &[u8], reached: &mut Reached) {
    let mut frames = 0;
    for incoming in binary::decode(message) {
        frames += 1;
        match &incoming.command {
            Ok(command) => {
                sound(&incoming);
                reached.meet(client_json::name(command));
            }
            Err(_) => reached.meet("refused"),
        }
    }
    assert!(frames <= message.len() / HEADER_BYTES + 1, "the length of a message bounds its frames");
    if frames > 1 {
        reached.meet("several");
    }
}

/// A command that was let through is within every bound, and comes back when it is written.
fn sound(incoming: &Incoming<'_>) {
    let Ok(command) = &incoming.command else { return };
    let mut checked = command.clone();
    assert_eq!(check_command(&mut checked), Ok(()));
    assert_eq!(checked, *command, "it is in its one form");
    let mut written = AlignedVec::new();
    binary::encode_command(incoming.id.as_ref(), command, &mut written);
    assert!(binary::decode(&written).eq([incoming.clone()]));
}

fn read_as_a_client(message: &[u8], reached: &mut Reached) {
    for frame in binary::decode_server(message).flatten() {
        reached.meet("of a server");
        let mut written = AlignedVec::new();
        binary::encode(&frame, &mut written);
        assert!(binary::decode_server(&written).eq([Ok::<ServerFrame<'_>, _>(frame)]));
    }
}

/// At an odd address nothing goes wrong: a frame is refused, or what is looked at happens to be aligned.
fn read_misaligned(message: &[u8]) {
    let mut moved = AlignedVec::<16>::new();
    moved.push(0);
    moved.extend_from_slice(message);
    binary::decode(&moved[1..]).for_each(|incoming| sound(&incoming));
}

pub(crate) fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::new();
    out.extend_from_slice(bytes);
    out
}

/// `archive` behind a header that is right for it.
pub(crate) fn of_kind(kind: u16, archive: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::new();
    out.extend_from_slice(&[framing::VERSION, 0]);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&u32::try_from(archive.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(archive);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    out
}

/// A few sound commands, and then some of their bytes set to others.
fn damaged(data: &[u8]) -> AlignedVec {
    let mut draw = Draw::new(data);
    let mut message = AlignedVec::new();
    for _ in 0..1 + draw.below(3) {
        let (id, command) = (equivalence::frame_id(&mut draw), equivalence::command(&mut draw));
        binary::encode_command(id.as_ref(), &command, &mut message);
    }
    for _ in 0..4 {
        if draw.is_empty() {
            break;
        }
        let place = draw.below(message.len());
        message[place] = draw.byte();
    }
    message
}

const _: () = assert!((Kind::ReadSync as u16) < 0x100, "a byte names every kind");
