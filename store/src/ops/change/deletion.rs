//! A message is deleted for everyone: a tombstone takes its place, and its content is in no row any more (FU5).

use carillon_protocol::ids::MessageId;
use carillon_protocol::record::{Body, Event, HeadRow};

use super::{Decided, Plan, Scene, not_allowed};
use crate::keys;
use crate::rows::{self, Halt, Walk, expect, walk};

/// The most reactions, and of those that were taken back, that are removed with their message. More stay where they are,
/// and nobody sees them: what is shown is under the counts, which go.
const DELETED_REACTIONS_MAX: usize = 4_096;

/// The tombstone keeps id, sender and `client_msg_id`, so a retried send still finds its place in the log (G2), and it
/// counts as the message did, so nobody's read position moves.
pub(super) fn delete<'a>(scene: &mut Scene<'_>, message: MessageId) -> Result<Decided<'a>, Halt> {
    let conversation = scene.conversation;
    let (target_seq, record) = scene.message(message)?;
    let event = expect(Event::decode(&record))?;
    if event.sender != scene.by {
        return Err(not_allowed("only its sender deletes a message").into());
    }
    let message_type = match event.body {
        Body::Message(message) => message.message_type,
        Body::Tombstone { deleted_seq, .. } => return Ok(Decided::Unchanged(Some(deleted_seq))),
        _ => return Err(rows::damaged()),
    };
    let body = Body::Tombstone { message_type, deleted_seq: scene.seq() };
    let tombstone = Event { body, ..event };

    let mut written = vec![
        (keys::event(conversation, target_seq), Some(tombstone.encode())),
        (keys::deleted(conversation, target_seq), Some(rows::number(tombstone.sender.0).to_vec())),
    ];
    let counts = keys::reaction_counts(conversation, target_seq);
    let mut ranges = vec![keys::taken_back_under(conversation, target_seq)];
    if scene.read.get(&counts)?.is_some() {
        written.push((counts, None));
        ranges.push(keys::reactions_under(conversation, target_seq));
    }
    for range in ranges {
        walk(scene.read, range, DELETED_REACTIONS_MAX, |(key, _)| {
            written.push((key, None));
            Ok(Walk::On)
        })?;
    }
    let head = HeadRow { deleted_seq: scene.head.deleted_seq.max(target_seq), ..scene.head };
    Ok(Decided::Append(Plan { body: Body::Deleted { target_seq, message }, head, rows: written }))
}
