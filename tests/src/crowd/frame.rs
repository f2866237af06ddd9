//! A server's JSON frame, as little of it as crowds look at, borrowed from the text it came in.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// Any frame from the server; what a type does not have is absent.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame<'a> {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// What it answers.
    #[serde(default)]
    pub id: Option<Value>,
    /// Where.
    #[serde(default)]
    pub conversation_id: Option<&'a str>,
    /// Its place.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Of `new_message`.
    #[serde(default, borrow)]
    pub message: Option<Message<'a>>,
    /// Of `sync_batch`.
    #[serde(default, borrow)]
    pub events: Vec<Frame<'a>>,
    /// Of `sync_batch`.
    #[serde(default)]
    pub to_seq: Option<u64>,
    /// Of `sync_batch`.
    #[serde(default)]
    pub has_more: bool,
    /// Of `reset`.
    #[serde(default)]
    pub first_seq: Option<u64>,
    /// Of `reset` and `sync_batch`.
    #[serde(default)]
    pub head_seq: Option<u64>,
    /// Of `behind`.
    #[serde(default, borrow)]
    pub conversations: Vec<Listed<'a>>,
    /// Of `presence`.
    #[serde(default)]
    pub user_id: Option<&'a str>,
    /// Of `presence` and `delivery_ack`.
    #[serde(default)]
    pub status: Option<&'a str>,
    /// Of `delivery_ack`.
    #[serde(default, borrow)]
    pub client_msg_id: Option<Cow<'a, str>>,
    /// Of `delivery_ack`.
    #[serde(default)]
    pub duplicate: bool,
    /// Of `presence`.
    #[serde(default)]
    pub last_seen_at: Option<u64>,
    /// Of the `ok` to a `presence_subscribe`.
    #[serde(default, borrow)]
    pub presence: Vec<Presence<'a>>,
    /// Of events on members.
    #[serde(default, borrow)]
    pub user_ids: Vec<&'a str>,
    /// Of `error`.
    #[serde(default)]
    pub error: Option<Value>,
}

/// A message, as little of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Message<'a> {
    /// Where.
    pub conversation_id: &'a str,
    /// Its place.
    pub seq: u64,
    /// What it says.
    #[serde(borrow)]
    pub content: Cow<'a, str>,
}

/// A conversation that a connection is behind in.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed<'a> {
    /// Which.
    pub conversation_id: &'a str,
}

/// How somebody is.
#[derive(Clone, Debug, Deserialize)]
pub struct Presence<'a> {
    /// Who.
    pub user_id: &'a str,
    /// `online` or `offline`.
    pub status: &'a str,
}

impl<'a> Frame<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it: no server of ours says such things.
    pub fn read(text: &'a str) -> Result<Frame<'a>, String> {
        serde_json::from_str(text).map_err(|error| format!("unreadable frame {text:?}: {error}"))
    }

    /// The conversation and seq, when this is a durable event.
    #[must_use]
    pub fn position(&self) -> Option<(&'a str, u64)> {
        match self.kind {
            "new_message" => self.message.as_ref().map(|message| (message.conversation_id, message.seq)),
            "conversation_created"
            | "conversation_updated"
            | "member_added"
            | "member_removed"
            | "message_deleted"
            | "reaction_added"
            | "reaction_removed" => Some((self.conversation_id?, self.seq?)),
            _ => None,
        }
    }

    /// Every durable event in it: itself, or those of a page.
    pub fn events(&self) -> impl Iterator<Item = &Frame<'a>> {
        let own = self.position().is_some().then_some(self);
        own.into_iter().chain(self.events.iter().filter(|event| event.position().is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_by_what_they_have() {
        let text = r#"{"type":"new_message","message":{"conversation_id":"7","seq":3,"sender_id":"1","content":"a\"b","x":1},"head_seq":3}"#;
        let frame = Frame::read(text).unwrap();
        assert_eq!(frame.position(), Some(("7", 3)));
        assert_eq!(frame.message.as_ref().unwrap().content, "a\"b");
        let text = r#"{"type":"sync_batch","id":"s","conversation_id":"7","events":[{"type":"member_added","conversation_id":"7","seq":2,"user_ids":["5"],"by":"1"}],"from_seq":2,"to_seq":2,"head_seq":2,"has_more":false,"receipts":[]}"#;
        let frame = Frame::read(text).unwrap();
        assert_eq!(frame.events().filter_map(Frame::position).collect::<Vec<_>>(), [("7", 2)]);
        assert_eq!(frame.position(), None, "a page is no event");
        let frame = Frame::read(r#"{"type":"ok","id":1,"conversation_id":"7","seq":null}"#).unwrap();
        assert_eq!((frame.kind, frame.position()), ("ok", None));
        assert!(Frame::read("{").is_err());
    }
}
