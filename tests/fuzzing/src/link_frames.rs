//! Link frames, and the stored records that travel in them: archives that are damaged or nothing of the kind (DC2).
//!
//! The first byte chooses: a frame as it is; an archive of the kind that the second byte names, behind a header that is right;
//! or the bytes of a stored record.

use carillon_protocol::frame::{self, Frame, FrameError, LinkFrame as _};
use carillon_protocol::record::{
    ConversationRow, DeviceRow, Event, HeadRow, IdempotencyRow, MemberRow, ReactionsRow, TallyRow,
    UserConversationRow, UserRow,
};
use carillon_protocol::{framing, limits};

use crate::client_rkyv::{aligned, of_kind};
use crate::{Reached, Target};

macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {
        /// See [`crate::TARGETS`].
        pub const TARGET: Target = Target {
            name: "link_frames",
            run,
            outcomes: &[$(stringify!($kind),)+ "unknown kind", "invalid archive", "no header", "event", "rows"],
        };

        /// Takes every field out of an archive, and writes it again: what comes back is the same.
        fn sound(frame: &Frame<'_>, reached: &mut Reached) {
            match frame {
                $(Frame::$kind(archived) => {
                    let owned: frame::$kind = rkyv::deserialize::<_, rkyv::rancor::Error>(*archived).expect("it is valid");
                    let written = owned.to_frame();
                    let Ok(Frame::$kind(again)) = frame::read(&written) else { panic!("we wrote no {}", stringify!($kind)) };
                    let again: frame::$kind = rkyv::deserialize::<_, rkyv::rancor::Error>(again).expect("it is valid");
                    assert_eq!(again, owned);
                    records_in(&frame::Frame::$kind(*archived), reached);
                    reached.meet(stringify!($kind));
                })+
            }
        }
    };
}

kinds! {
    Open, Register, Registered, Replaced, Unregister, Peek, Peeked, Submit, Accepted, Refused, NotOwner, Notify, Notified,
    Deliver, Read, Page, Receipt, Watermark, Find, Found, Watch, Watched, Presence, Typing, Typed, ReadSync, Revoked, Owners,
    Own, Owned, Lapsed, ReadBy, Moved,
}

fn run(data: &[u8], reached: &mut Reached) {
    let Some((&form, data)) = data.split_first() else { return };
    let bytes = match form % 3 {
        0 => aligned(data),
        1 => {
            let Some((&kind, archive)) = data.split_first() else { return };
            of_kind(0x100 + u16::from(kind), archive)
        }
        _ => return record(data, reached),
    };
    match frame::read(&bytes) {
        Ok(frame) => sound(&frame, reached),
        Err(FrameError::UnknownKind(_)) => reached.meet("unknown kind"),
        Err(FrameError::Invalid(_)) => reached.meet("invalid archive"),
        Err(FrameError::Framing(_)) => reached.meet("no header"),
    }
    let mut moved = rkyv::util::AlignedVec::<16>::new();
    moved.push(0);
    moved.extend_from_slice(&bytes);
    // At an odd address it is refused, or what is looked at happens to be aligned.
    if let Ok(frame) = frame::read(&moved[1..]) {
        sound(&frame, reached);
    }
    // What a lane does first, to frames that came over the network: it walks them by their headers.
    let mut rest = &bytes[..];
    while let Ok(Some((_, archive, after))) = framing::split(rest, limits::LINK_FRAME_BYTES_MAX) {
        assert!(after.len() < rest.len() && archive.len() <= limits::LINK_FRAME_BYTES_MAX);
        rest = after;
    }
}

fn records_in(frame: &Frame<'_>, reached: &mut Reached) {
    match frame {
        Frame::Deliver(deliver) => event(&deliver.record, reached),
        Frame::Page(page) => page.entries.iter().for_each(|entry| event(&entry.record, reached)),
        _ => {}
    }
}

/// A stored event: read, written and read again it is the same.
fn event(bytes: &[u8], reached: &mut Reached) {
    let event = Event::decode(bytes);
    if let Some(event) = &event {
        let written = event.encode();
        assert_eq!(Event::decode(&written).as_ref(), Some(event));
        reached.meet("event");
    }
    // The short look at a message sees what the long one does.
    if let (Some((id, sender, _)), Some(event)) = (Event::decode_sender(bytes), event) {
        assert_eq!((id, sender), (event.id, event.sender), "decode_sender");
    }
}

fn record(data: &[u8], reached: &mut Reached) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    macro_rules! row {
        ($row:ident) => {
            if let Some(row) = $row::decode(bytes) {
                assert_eq!($row::decode(&row.encode()).as_ref(), Some(&row));
                reached.meet("rows");
            }
        };
    }
    match kind % 10 {
        0 => event(bytes, reached),
        // Seq 0 names nothing, and is written as the seq that does when nothing else did.
        1 if ConversationRow::decode(bytes).is_some_and(|row| row.named_seq == 0) => {}
        1 => row!(ConversationRow),
        2 => row!(HeadRow),
        3 => row!(MemberRow),
        4 => row!(IdempotencyRow),
        5 => row!(UserRow),
        6 => row!(UserConversationRow),
        7 => row!(DeviceRow),
        8 => row!(ReactionsRow),
        _ => row!(TallyRow),
    }
}
