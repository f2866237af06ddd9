//! The durable promise to fan out is kept, wholly or up to a seq.

use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::placement::slot_of_conversation;

use super::Attempt;
use crate::keys;
use crate::rows::{self, Halt};
use crate::verb::Outcome;

/// Moves the marker forward only, so that it may be repeated and reordered.
pub(super) fn fanned_out(
    attempt: &mut Attempt<'_, '_>,
    conversation: ConversationId,
    seq: Seq,
) -> Result<Outcome, Halt> {
    let key = keys::marker(slot_of_conversation(conversation), conversation);
    if let Some(first) = rows::load_number(attempt.read(), &key)? {
        let head_seq = rows::load_head(attempt.read(), conversation)?.map_or(0, |head| head.seq);
        if seq >= head_seq {
            attempt.clear(key);
        } else if seq >= first {
            attempt.set(key, rows::number(seq + 1));
        }
    }
    Ok(Outcome::FannedOut)
}
