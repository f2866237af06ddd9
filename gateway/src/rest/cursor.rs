//! Cursors: where a page ended, as text that clients hand back and do not look into. A cursor names a place in what is
//! stored, so it survives restarts and new messages; it gives no rights, so it needs no signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carillon_protocol::ids::Seq;
use carillon_protocol::reason::Refusal;

/// The version that cursors are written with.
const VERSION: u8 = 1;

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cursor {
    /// Messages below this seq, newest first.
    Below(Seq),
    /// Messages above this seq, oldest first.
    Above(Seq),
    /// Conversations whose last id is below the first, as of the second.
    Conversations(u64, u64),
    /// Members above this user.
    Members(u64),
}

impl Cursor {
    /// The text.
    pub(super) fn to_text(self) -> String {
        let (kind, first, second) = match self {
            Cursor::Below(seq) => (b'b', seq, None),
            Cursor::Above(seq) => (b'a', seq, None),
            Cursor::Conversations(last_id, as_of) => (b'l', last_id, Some(as_of)),
            Cursor::Members(user) => (b'm', user, None),
        };
        let mut bytes = vec![VERSION, kind];
        bytes.extend_from_slice(&first.to_le_bytes());
        if let Some(second) = second {
            bytes.extend_from_slice(&second.to_le_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Not a cursor that was ever written.
    pub(super) fn parse(text: &str) -> Result<Cursor, Refusal> {
        let parsed = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| {
            let (head, rest) = bytes.split_first_chunk::<2>()?;
            let (first, rest) = rest.split_first_chunk::<8>()?;
            let first = u64::from_le_bytes(*first);
            match (head, rest) {
                ([VERSION, b'b'], []) => Some(Cursor::Below(first)),
                ([VERSION, b'a'], []) => Some(Cursor::Above(first)),
                ([VERSION, b'm'], []) => Some(Cursor::Members(first)),
                ([VERSION, b'l'], rest) => {
                    Some(Cursor::Conversations(first, u64::from_le_bytes(rest.try_into().ok()?)))
                }
                // As they were once written: last id, conversation.
                ([VERSION, b'c'], [_, _, _, _, _, _, _, _]) => Some(Cursor::Conversations(first, u64::MAX)),
                _ => None,
            }
        });
        parsed.ok_or_else(wrong)
    }
}

/// The refusal of a cursor that is none, or one of another list.
pub(super) fn wrong() -> Refusal {
    Refusal::field("cursor", "cursor must be a next_cursor of this list, unchanged")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AP4: what was handed out is read for ever.
    #[test]
    fn cursors_survive() {
        let cases = [
            (Cursor::Below(141), "AWKNAAAAAAAAAA"),
            (Cursor::Above(1), "AWEBAAAAAAAAAA"),
            (Cursor::Conversations(u64::MAX, 7), "AWz__________wcAAAAAAAAA"),
            (Cursor::Members(9), "AW0JAAAAAAAAAA"),
        ];
        for (cursor, text) in cases {
            assert_eq!(cursor.to_text(), text);
            assert_eq!(Cursor::parse(text), Ok(cursor));
        }
        let once = Cursor::parse("AWMJAAAAAAAAAAcAAAAAAAAA");
        assert_eq!(once, Ok(Cursor::Conversations(9, u64::MAX)), "it named a conversation");
        for wrong in
            ["", "x", "141", "AWKNAAAAAAAAAA==", "AmKNAAAAAAAAAA", "AWKNAAAAAAAAAAA", "AWONAAAAAAAAAA", "💣"]
        {
            assert_eq!(Cursor::parse(wrong).unwrap_err().field, Some("cursor"), "{wrong:?}");
        }
    }
}
