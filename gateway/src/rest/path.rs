//! Paths: which pattern of the table one matches, and what stood at its `{…}`.

use std::borrow::Cow;

use carillon_protocol::ids::{ConversationId, MessageId, UserId, is_device_id};
use carillon_protocol::reason::Refusal;

use super::query::decode;

/// The segments that stood at the `{…}` of a pattern, still percent-encoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Parameters<'a> {
    /// Compares segment by segment; `None`: another path.
    pub(super) fn of(pattern: &'static str, path: &'a str) -> Option<Parameters<'a>> {
        let mut parameters = Vec::new();
        let mut segments = path.split('/');
        for wanted in pattern.split('/') {
            let segment = segments.next()?;
            match wanted.strip_prefix('{').and_then(|wanted| wanted.strip_suffix('}')) {
                Some(name) if !segment.is_empty() => parameters.push((name, segment)),
                _ if wanted == segment => {}
                _ => return None,
            }
        }
        segments.next().is_none().then_some(Parameters(parameters))
    }

    fn segment(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, segment)| *segment)
    }

    pub(super) fn conversation(&self) -> Result<ConversationId, Refusal> {
        let name = "conversation_id";
        self.segment(name).and_then(ConversationId::parse).ok_or_else(|| wrong_id(name))
    }

    pub(super) fn user(&self) -> Result<UserId, Refusal> {
        let name = "user_id";
        self.segment(name).and_then(UserId::parse).ok_or_else(|| wrong_id(name))
    }

    pub(super) fn message(&self) -> Result<MessageId, Refusal> {
        let name = "message_id";
        self.segment(name).and_then(MessageId::parse).ok_or_else(|| wrong_id(name))
    }

    pub(super) fn device(&self) -> Result<&'a str, Refusal> {
        let name = "device_id";
        let device = self.segment(name).filter(|device| is_device_id(device));
        device.ok_or_else(|| Refusal::field(name, "device_id must be 1 to 64 of A-Z a-z 0-9 _ -"))
    }

    /// Its bounds are for the shared checks.
    pub(super) fn emoji(&self) -> Result<Cow<'static, str>, Refusal> {
        let emoji = self.segment("emoji").and_then(|segment| decode(segment, false));
        let emoji = emoji.ok_or_else(|| Refusal::field("emoji", "emoji must be UTF-8, percent-encoded"))?;
        Ok(Cow::Owned(emoji))
    }
}

fn wrong_id(field: &'static str) -> Refusal {
    Refusal::field(
        field,
        format!("{field} must be a decimal number, 1 to 9223372036854775807, without leading zeros"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_segment_by_segment() {
        let pattern = "/v1/conversations/{conversation_id}/members/{user_id}";
        let parameters = Parameters::of(pattern, "/v1/conversations/7/members/8").unwrap();
        assert_eq!((parameters.conversation(), parameters.user()), (Ok(ConversationId(7)), Ok(UserId(8))));
        assert_eq!(parameters.message().unwrap_err().field, Some("message_id"));
        for path in [
            "/v1/conversations/7/members/",
            "/v1/conversations//members/8",
            "/v1/conversations/7/members/8/",
            "/v1/conversations/7/member/8",
            "/v1/conversations/7/members",
            "",
        ] {
            assert_eq!(Parameters::of(pattern, path), None, "{path}");
        }
        assert_eq!(Parameters::of("/v1/users", "/v1/users"), Some(Parameters(Vec::new())));
    }

    #[test]
    fn segments_are_decoded_where_they_are_text() {
        let parameters = Parameters::of("/{emoji}/{device_id}", "/%F0%9F%91%8D+1/a%62").unwrap();
        assert_eq!(parameters.emoji().as_deref(), Ok("👍+1"), "a plus is a plus in a path");
        assert_eq!(parameters.device().unwrap_err().field, Some("device_id"));
        let parameters = Parameters::of("/{emoji}", "/%ff").unwrap();
        assert_eq!(parameters.emoji().unwrap_err().field, Some("emoji"));
    }
}
