//! A body's fields, cut apart in one pass and looked into when a handler asks for them. Unknown fields are ignored, one
//! that is given twice is refused, and so is nesting deeper than frames may have.

use std::borrow::Cow;
use std::fmt;

use carillon_protocol::client::{field_name, json};
use carillon_protocol::ids::{Seq, UserId, parse_id};
use carillon_protocol::limits::{JSON_DEPTH_MAX, MEMBER_IDS_MAX};
use carillon_protocol::reason::{Code, Refusal};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of one body, ascending by name.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Fields<'a> {
    /// Cuts a body apart.
    pub(super) fn split(body: &'a [u8]) -> Result<Fields<'a>, Refusal> {
        let bad = |message: String| Refusal::new(Code::BadRequest, message);
        let text = std::str::from_utf8(body).map_err(|_| bad("the body must be UTF-8".to_owned()))?;
        if json::is_too_deep(body) {
            return Err(bad(format!("the body must not be nested deeper than {JSON_DEPTH_MAX}")));
        }
        let Members(mut fields) = serde_json::from_str(text).map_err(|error| {
            // The error's own text may quote the client's, its place does not.
            bad(format!("the body must be one JSON object (line {} column {})", error.line(), error.column()))
        })?;
        fields.sort_unstable();
        let twice = fields.windows(2).find_map(|pair| match pair {
            [(one, _), (other, _)] if one == other => Some(one),
            _ => None,
        });
        let inside = fields.iter().find(|(_, raw)| json::is_repetitive(raw)).map(|(name, _)| name);
        if let Some(name) = twice.or(inside) {
            let field = field_name(name);
            return Err(Refusal { field, ..bad("a field may be given only once".to_owned()) });
        }
        Ok(Fields(fields))
    }

    /// As [`Fields::split`], for requests that need no body.
    pub(super) fn split_or_none(body: &'a [u8]) -> Result<Fields<'a>, Refusal> {
        if body.is_empty() { Ok(Fields(Vec::new())) } else { Fields::split(body) }
    }

    /// A field's JSON; `None` when it is absent or `null`.
    fn raw(&self, field: &str) -> Option<&'a str> {
        let index = self.0.binary_search_by(|(name, _)| name.as_ref().cmp(field)).ok()?;
        self.0.get(index).map(|(_, raw)| *raw).filter(|raw| *raw != "null")
    }

    /// A string.
    pub(super) fn text(&self, field: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
        let Some(raw) = self.raw(field) else { return Ok(None) };
        text(raw).map(Some).ok_or_else(|| Refusal::field(field, format!("{field} must be a string")))
    }

    /// A string that has to be there.
    pub(super) fn required_text(&self, field: &'static str) -> Result<Cow<'a, str>, Refusal> {
        self.text(field)?.ok_or_else(|| required(field))
    }

    /// One of a closed set of names.
    pub(super) fn named<T: DeserializeOwned>(
        &self,
        field: &'static str,
        names: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.raw(field) else { return Ok(None) };
        let value = serde_json::from_str(raw);
        value.map(Some).map_err(|_| Refusal::field(field, format!("{field} must be {names}")))
    }

    /// An id.
    pub(super) fn id(&self, field: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(raw) = self.raw(field) else { return Ok(None) };
        let id = text(raw).and_then(|text| parse_id(&text));
        id.map(Some).ok_or_else(|| {
            let form = "a decimal string, 1 to 9223372036854775807, without leading zeros";
            Refusal::field(field, format!("{field} must be {form}"))
        })
    }

    /// An id that has to be there.
    pub(super) fn required_id(&self, field: &'static str) -> Result<u64, Refusal> {
        self.id(field)?.ok_or_else(|| required(field))
    }

    /// A list of users that has to be there; too long is `too_large`.
    pub(super) fn required_users(&self, field: &'static str) -> Result<Vec<UserId>, Refusal> {
        let raw = self.raw(field).ok_or_else(|| required(field))?;
        let form =
            || Refusal::field(field, format!("{field} must be a list of user ids, as decimal strings"));
        let users: Vec<UserId> = serde_json::from_str(raw).map_err(|_| form())?;
        if users.len() > MEMBER_IDS_MAX {
            let message = format!("{field} may name at most {MEMBER_IDS_MAX} users at once");
            return Err(Refusal { code: Code::TooLarge, ..Refusal::field(field, message) });
        }
        Ok(users)
    }

    /// A seq that has to be there. Its bounds are for the shared checks.
    pub(super) fn required_seq(&self, field: &'static str) -> Result<Seq, Refusal> {
        let raw = self.raw(field).ok_or_else(|| required(field))?;
        raw.parse().map_err(|_| Refusal::field(field, format!("{field} must be an integer of at least 1")))
    }

    /// A time in Unix milliseconds, at least 1.
    pub(super) fn millis(&self, field: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(raw) = self.raw(field) else { return Ok(None) };
        let millis = raw.parse().ok().filter(|millis| *millis != 0);
        let form = "an integer: milliseconds since 1970-01-01 UTC, at least 1";
        millis.map(Some).ok_or_else(|| Refusal::field(field, format!("{field} must be {form}")))
    }
}

/// The refusal of a field that is not there.
pub(super) fn required(field: &'static str) -> Refusal {
    Refusal::field(field, format!("{field} is required"))
}

/// The string that a raw value is, borrowed when nothing in it is escaped.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A name, borrowed when nothing in it is escaped.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    /// Security, JSON: depth, repeats, types; the field is named.
    #[test]
    fn bodies_are_held_to_their_form() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(JSON_DEPTH_MAX), "]".repeat(JSON_DEPTH_MAX));
        let cases: [(&[u8], Option<&str>); 9] = [
            (b"", None),
            (b"[]", None),
            (b"{", None),
            (b"{} {}", None),
            (b"\xff", None),
            (deep.as_bytes(), None),
            (br#"{"seq":1,"seq":1}"#, Some("seq")),
            (br#"{"s\u0065q":1,"seq":2}"#, Some("seq")),
            (br#"{"zzz":1,"zzz":1}"#, None),
        ];
        for (body, field) in cases {
            let refusal = Fields::split(body).unwrap_err();
            assert_eq!((refusal.code, refusal.field), (Code::BadRequest, field), "{}", body.escape_ascii());
        }
        let fields = Fields::split(
            br#"{ "content":"a\n\u00e9", "user_id":7, "seq": 3 , "member_ids":["1","2"], "x":{"x":1}, "username":null}"#,
        )
        .unwrap();
        assert_eq!(fields.required_text("content").unwrap(), "a\né");
        assert_eq!(fields.id("user_id").unwrap_err().field, Some("user_id"));
        assert_eq!(fields.required_seq("seq"), Ok(3));
        assert_eq!(fields.required_users("member_ids"), Ok(vec![UserId(1), UserId(2)]));
        assert_eq!(fields.text("username"), Ok(None), "null counts as absent");
        assert_eq!(fields.text("seq").unwrap_err().field, Some("seq"));
    }
}
