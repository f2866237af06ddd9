//! What a generated message says: who sent it, as which of their messages, and when it was meant to leave. So any
//! observer can tell which send a message is, and how late it is, without asking anybody.
//!
//! `lg1 <run> <user> <n> <intended> <padding>`, numbers in hexadecimal.
//!
//! # Invariants
//! - A function of its [`Mark`] and the number of bytes: a retry says the same, and the oracle can say it again.
//! - ASCII without anything JSON escapes, so bytes of content are bytes on the wire.

use carillon_protocol::client::{EventFrame, MessageView};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The run of the generator: messages of an earlier one are nobody's business.
    pub run: u32,
    /// The sender's user id.
    pub user: u64,
    /// Counts the sender's messages from 0.
    pub n: u64,
    /// When it was meant to leave, in nanoseconds on the generator's clock.
    pub intended_ns: u64,
}

/// The fewest bytes that hold any [`Mark`]: a tag, numbers of 8 and three times 16 digits, and their spaces.
pub const CONTENT_BYTES_MIN: usize = 64;

const TAG: &str = "lg1";

const _: () = assert!(TAG.len() + 1 + 8 + 1 + 3 * (16 + 1) <= CONTENT_BYTES_MIN);

/// Writes the content, `bytes` long, into `out`, which is cleared first.
pub fn write(mark: &Mark, bytes: usize, out: &mut String) {
    use std::fmt::Write as _;
    out.clear();
    let Mark { run, user, n, intended_ns } = mark;
    write!(out, "{TAG} {run:x} {user:x} {n:x} {intended_ns:x} ").expect("writing to memory");
    // Padding that differs from message to message: a mix-up of two buffers changes the digest.
    let mut drawn =
        user.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_add(1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    while out.len() < bytes {
        drawn ^= drawn << 13;
        drawn ^= drawn >> 7;
        drawn ^= drawn << 17;
        out.push(char::from(b'a' + (drawn % 26) as u8));
    }
}

/// Reads the mark; `None` when nobody like us wrote this.
#[must_use]
pub fn read(content: &str) -> Option<Mark> {
    let mut words = content.split(' ');
    if words.next() != Some(TAG) {
        return None;
    }
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    let run = u32::try_from(number()?).ok()?;
    Some(Mark { run, user: number()?, n: number()?, intended_ns: number()? })
}

/// The `client_msg_id` of a message: the same for each attempt.
pub fn write_client_msg_id(run: u32, user: u64, n: u64, out: &mut String) {
    use std::fmt::Write as _;
    out.clear();
    write!(out, "{run:08x}-{user:x}-{n:x}").expect("writing to memory");
}

/// Whether a message is one of the share that are media: as the rest of it, a function of whose it is.
#[must_use]
pub fn is_media(user: u64, n: u64, share: f64) -> bool {
    let drawn = event_digest(n, user, 0) >> 11;
    (drawn as f64) < share * (1u64 << 53) as f64
}

/// Where the media of a message lie. Nobody looks there.
pub fn write_media_url(user: u64, n: u64, out: &mut String) {
    use std::fmt::Write as _;
    out.clear();
    write!(out, "https://media.invalid/{user:x}/{n:x}.jpg").expect("writing to memory");
}

/// A digest of what a message says alone: its content, and where its media lie.
#[must_use]
pub fn digest(content: &str, media_url: Option<&str>) -> u64 {
    xxh3_64_with_seed(content.as_bytes(), media_url.map_or(0, |url| xxh3_64(url.as_bytes())))
}

/// A digest of what every observer of one seq has to agree on (G4): message id, sender and content. Never 0.
#[must_use]
pub fn event_digest(message: u64, sender: u64, content_digest: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&message.to_le_bytes());
    bytes[8..16].copy_from_slice(&sender.to_le_bytes());
    bytes[16..].copy_from_slice(&content_digest.to_le_bytes());
    xxh3_64(&bytes).max(1)
}

/// [`event_digest`] of a message as a client sees it.
#[must_use]
pub fn view_digest(message: &MessageView<'_>) -> u64 {
    let said = digest(&message.content, message.media_url.as_deref());
    event_digest(message.message.0, message.sender.0, said)
}

/// By whom an event is that is no message, and a digest of its kind and of what it is about: every observer of its seq has
/// to agree on that as well.
#[must_use]
pub fn other_digest(event: &EventFrame<'_>) -> (u64, u64) {
    let (kind, by, about) = match event {
        EventFrame::NewMessage { message, .. } => return (message.sender.0, view_digest(message)),
        // Who is named depends on how many there are, and is no matter here.
        EventFrame::ConversationCreated { by, .. } => (1, by.0, 0),
        EventFrame::ConversationUpdated { by, group_name, role, .. } => {
            let name = group_name.as_deref().map_or(0, |name| digest(name, None));
            (2, by.0, name ^ role.map_or(0, |(user, _)| user.0))
        }
        EventFrame::MemberAdded { by, user_ids, .. } => {
            (3, by.0, user_ids.iter().fold(0, |about, user| about ^ event_digest(0, 0, user.0)))
        }
        EventFrame::MemberRemoved { by, user, .. } => (4, by.0, user.0),
        EventFrame::MessageDeleted { by, message, .. } => (5, by.0, message.0),
        EventFrame::Reaction { added, user, message, emoji, .. } => {
            (6 + u64::from(*added), user.0, message.0 ^ digest(emoji, None))
        }
    };
    (by, event_digest(kind, by, about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_whose_it_is() {
        for mark in [
            Mark { run: 0, user: 1, n: 0, intended_ns: 0 },
            Mark { run: u32::MAX, user: u64::MAX, n: u64::MAX, intended_ns: u64::MAX },
        ] {
            let mut text = String::new();
            for bytes in [CONTENT_BYTES_MIN, 100, 16_384] {
                write(&mark, bytes, &mut text);
                assert_eq!(text.len(), bytes);
                assert_eq!(read(&text), Some(mark));
            }
        }
        for foreign in ["", "hello", "lg1", "lg1 1 2 3", "lg1 1ffffffff 1 1 1 ", "lg2 1 1 1 1 "] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn so_many_are_media_and_where_they_lie_counts() {
        let count = |share| (0..10_000).filter(|n| is_media(7, *n, share)).count();
        assert!(count(0.0) == 0 && count(1.0) == 10_000 && (900..1_100).contains(&count(0.1)));
        let mut url = String::new();
        write_media_url(7, 1, &mut url);
        assert_ne!(digest("hello", Some(&url)), digest("hello", None));
        write_media_url(u64::MAX, u64::MAX, &mut url);
        assert!(url.len() <= carillon_protocol::limits::MEDIA_URL_BYTES_MAX);
    }

    #[test]
    fn an_id_fits_its_bound() {
        let mut id = String::new();
        write_client_msg_id(u32::MAX, u64::MAX, u64::MAX, &mut id);
        assert!(id.len() <= carillon_protocol::ids::CLIENT_MSG_ID_BYTES_MAX);
    }
}
