//! How far a stream got, as the opaque `id:` of its events: a client that comes back with it goes on from there.
//!
//! # Invariants
//! - An id names what was written up to and with its own event, never more.
//! - Bounded to [`CURSORS_MAX`] conversations, the longest unheard left out: for those the stored cursors hold, and the
//!   worst is that an event comes once more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_protocol::ids::{ConversationId, Seq};
use carillon_protocol::reason::Refusal;
use serde::Deserialize;

use crate::rest::Request;
use crate::rest::query::Query;

/// Conversations in an id: about a kilobyte with every event.
const CURSORS_MAX: usize = 64;
/// The most bytes of an id that comes back.
const ID_BYTES_MAX: usize = 4_096;
/// The first byte of what an id encodes.
const VERSION: u8 = 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursors {
    /// Conversation and seq, the latest heard last.
    heard: Vec<(ConversationId, Seq)>,
}

/// What of a frame says where it stands.
#[derive(Deserialize)]
struct Position<'a> {
    r#type: &'a str,
    conversation_id: Option<&'a str>,
    seq: Option<Seq>,
    to_seq: Option<Seq>,
    head_seq: Option<Seq>,
    message: Option<MessagePosition<'a>>,
}

#[derive(Deserialize)]
struct MessagePosition<'a> {
    conversation_id: &'a str,
    seq: Seq,
}

/// The cursors that a request comes with: `Last-Event-ID`, or `last_event_id` in the query for those who cannot set
/// headers.
///
/// # Errors
/// An id that is none of ours.
pub(super) fn of(request: &Request) -> Result<Cursors, Refusal> {
    let wrong = || Refusal::field("last_event_id", "this Last-Event-ID is none of ours: leave it out");
    let given = match &request.headers.last_event_id {
        Some(bytes) => Some(String::from_utf8(bytes.clone()).map_err(|_| wrong())?),
        None => Query::new(&request.query).text("last_event_id")?,
    };
    match given.filter(|id| !id.is_empty()) {
        Some(id) => Cursors::parse(&id).ok_or_else(wrong),
        None => Ok(Cursors::default()),
    }
}

impl Cursors {
    /// A frame is written. `true`: it says `behind`.
    pub(super) fn passed(&mut self, text: &str) -> bool {
        let Ok(position) = serde_json::from_str::<Position<'_>>(text) else { return false };
        let conversation = position.conversation_id;
        let place = match position.r#type {
            "behind" => return true,
            "new_message" => position.message.as_ref().map(|message| (message.conversation_id, message.seq)),
            "sync_batch" => conversation.zip(position.to_seq),
            "reset" => conversation.zip(position.head_seq),
            "message_deleted"
            | "reaction_added"
            | "reaction_removed"
            | "member_added"
            | "member_removed"
            | "conversation_created"
            | "conversation_updated" => conversation.zip(position.seq),
            _ => None,
        };
        if let Some((conversation, seq)) = place
            && let Some(conversation) = ConversationId::parse(conversation)
        {
            self.heard.retain(|(other, _)| *other != conversation);
            if self.heard.len() >= CURSORS_MAX {
                self.heard.remove(0);
            }
            self.heard.push((conversation, seq));
        }
        false
    }

    /// The id; none before anything durable was written.
    pub(super) fn id(&self) -> Option<String> {
        if self.heard.is_empty() {
            return None;
        }
        let mut bytes = vec![VERSION];
        for (conversation, seq) in &self.heard {
            for mut number in [conversation.0, *seq] {
                while number >= 0x80 {
                    bytes.push((number & 0x7f) as u8 | 0x80);
                    number >>= 7;
                }
                bytes.push((number & 0x7f) as u8);
            }
        }
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    fn parse(id: &str) -> Option<Cursors> {
        if id.len() > ID_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (version, mut rest) = bytes.split_first()?;
        let mut heard = Vec::new();
        while !rest.is_empty() {
            let conversation = ConversationId(number(&mut rest)?);
            let seq = number(&mut rest)?;
            if !conversation.is_valid() || heard.len() >= CURSORS_MAX {
                return None;
            }
            heard.push((conversation, seq));
        }
        (*version == VERSION).then_some(Cursors { heard })
    }

    /// The frame that a client with these cursors would begin with.
    pub(super) fn identify(&self) -> String {
        let cursors: serde_json::Map<String, serde_json::Value> =
            self.heard.iter().map(|(conversation, seq)| (conversation.to_string(), (*seq).into())).collect();
        serde_json::json!({ "type": "identify", "cursors": cursors }).to_string()
    }
}

/// An unsigned LEB128 varint off the front.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TR5: an id brings back exactly what was written with it.
    #[test]
    fn ids_come_back() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.id(), None);
        assert!(!cursors.passed(r#"{"type":"ready","user_id":"1"}"#));
        assert!(
            !cursors
                .passed(r#"{"type":"new_message","message":{"conversation_id":"7","seq":3},"head_seq":9}"#)
        );
        assert!(
            !cursors.passed(r#"{"type":"sync_batch","conversation_id":"9223372036854775807","to_seq":300}"#)
        );
        assert!(!cursors.passed(r#"{"type":"reaction_added","conversation_id":"7","seq":4}"#));
        assert!(cursors.passed(r#"{"type":"behind","conversations":[]}"#));
        let id = cursors.id().unwrap();
        let back = Cursors::parse(&id).unwrap();
        assert_eq!(back, cursors);
        let identify: serde_json::Value = serde_json::from_str(&back.identify()).unwrap();
        assert_eq!(identify["cursors"]["7"], 4);
        assert_eq!(identify["cursors"]["9223372036854775807"], 300);
    }

    #[test]
    fn ids_of_strangers_are_refused() {
        for id in ["", "!", "AA", "Ag", "AYA", "AYCAgICAgICAgIAB", &"A".repeat(5_000)] {
            assert_eq!(Cursors::parse(id), None, "{id}");
        }
        let mut many = Cursors::default();
        for conversation in 1..=100 {
            let text = format!(r#"{{"type":"member_added","conversation_id":"{conversation}","seq":5}}"#);
            many.passed(&text);
        }
        assert_eq!(many.heard.len(), CURSORS_MAX);
        assert_eq!(many.heard.last(), Some(&(ConversationId(100), 5)));
    }
}
