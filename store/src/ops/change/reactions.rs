//! Reactions: at most one of each emoji from each member under a message. They have keys of their own; the message's own
//! value is not touched (FU6).

use carillon_protocol::ids::{MessageId, Seq};
use carillon_protocol::limits::{EMOJI_BYTES_MAX, MESSAGE_EMOJIS_MAX};
use carillon_protocol::reason::{Code, Refusal};
use carillon_protocol::record::{Body, Event, ReactionsRow};

use super::{Decided, Plan, Scene, too_large};
use crate::keys;
use crate::rows::{self, Halt, expect};

pub(super) fn react<'a>(
    scene: &mut Scene<'_>,
    message: MessageId,
    emoji: &'a str,
) -> Result<Decided<'a>, Halt> {
    let target_seq = target(scene, message, emoji)?;
    let key = keys::reaction(scene.conversation, target_seq, scene.by, emoji);
    if let Some(seq) = rows::load_number(scene.read, &key)? {
        return Ok(Decided::Unchanged(Some(seq)));
    }
    let mut row = rows::load_reactions(scene.read, scene.conversation, target_seq)?;
    let emojis_count = row.counts.len();
    match row.counts.iter_mut().find(|(counted, _)| counted == emoji) {
        Some((_, count)) => *count = count.saturating_add(1),
        None if emojis_count >= MESSAGE_EMOJIS_MAX => {
            return Err(too_large(
                "emoji",
                "as many different emojis as a message may have; use one of them",
            )
            .into());
        }
        None => row.counts.push((emoji.to_owned(), 1)),
    }
    Ok(Decided::Append(Plan {
        body: Body::ReactionAdded { target_seq, message, emoji },
        head: scene.head,
        rows: vec![
            (key, Some(rows::number(scene.seq()).to_vec())),
            (keys::reaction_counts(scene.conversation, target_seq), Some(row.encode())),
        ],
    }))
}

pub(super) fn unreact<'a>(
    scene: &mut Scene<'_>,
    message: MessageId,
    emoji: &'a str,
) -> Result<Decided<'a>, Halt> {
    let target_seq = target(scene, message, emoji)?;
    let key = keys::reaction(scene.conversation, target_seq, scene.by, emoji);
    let taken_back = keys::taken_back(scene.conversation, target_seq, scene.by, emoji);
    if scene.read.get(&key)?.is_none() {
        return Ok(Decided::Unchanged(rows::load_number(scene.read, &taken_back)?));
    }
    let mut row = rows::load_reactions(scene.read, scene.conversation, target_seq)?;
    // A reaction that is not counted, or a count of 0, is a row that somebody else wrote.
    let counted = expect(row.counts.iter_mut().find(|(counted, _)| counted == emoji))?;
    counted.1 = expect(counted.1.checked_sub(1))?;
    row.counts.retain(|(_, count)| *count > 0);
    Ok(Decided::Append(Plan {
        body: Body::ReactionRemoved { target_seq, message, emoji },
        head: scene.head,
        rows: vec![
            (key, None),
            (taken_back, Some(rows::number(scene.seq()).to_vec())),
            (keys::reaction_counts(scene.conversation, target_seq), encoded(&row)),
        ],
    }))
}

/// Where the message stands.
fn target(scene: &mut Scene<'_>, message: MessageId, emoji: &str) -> Result<Seq, Halt> {
    if !(1..=EMOJI_BYTES_MAX).contains(&emoji.len()) {
        return Err(Refusal::field("emoji", "emoji must have 1 to 64 bytes").into());
    }
    let (seq, record) = scene.message(message)?;
    match expect(Event::decode(&record))?.body {
        Body::Tombstone { .. } => Err(Refusal::new(Code::Gone, "the message was deleted").into()),
        _ => Ok(seq),
    }
}

/// No row for a message without reactions.
fn encoded(row: &ReactionsRow) -> Option<Vec<u8>> {
    (!row.counts.is_empty()).then(|| row.encode())
}
