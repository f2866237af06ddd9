//! The frames that clients say all the time: one object of known fields, each once, whose values are texts without an
//! escape, whole numbers, or literals. Everything about such a frame is decided in one look at each of its bytes.
//! Anything else gives `None`, and is read by the code that reads anything.

use super::{Field, Fields};
use crate::client::json::plain_bytes;

/// The rest of a text.
struct Rest<'a> {
    text: &'a str,
    at: usize,
}

pub(super) fn split(text: &str) -> Option<Fields<'_>> {
    let mut rest = Rest { text, at: 0 };
    let mut fields = Fields::default();
    rest.take(b'{')?;
    loop {
        let name = rest.plain_text()?;
        let field = Field::from_name(name.get(1..name.len() - 1)?)?;
        rest.take(b':')?;
        if !fields.put(field, rest.value()?) {
            return None;
        }
        if rest.take(b',').is_none() {
            break;
        }
    }
    rest.take(b'}')?;
    rest.skip_space();
    (rest.at == text.len()).then_some(fields)
}

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// This byte comes next, behind any space.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next.then_some(())
    }

    /// A value as it stands there.
    fn value(&mut self) -> Option<&'a str> {
        self.skip_space();
        match self.peek()? {
            b'"' => self.plain_text(),
            b'-' | b'0'..=b'9' => self.whole_number(),
            _ => ["true", "false", "null"].into_iter().find_map(|word| self.word(word)),
        }
    }

    /// A text in its quotes that holds no escape.
    fn plain_text(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at - 1;
        self.at += plain_bytes(self.text.as_bytes().get(self.at..)?);
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        self.text.get(start..self.at)
    }

    fn whole_number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let first = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let is_canonical = match self.at - first {
            0 => false,
            1 => true,
            _ => self.text.as_bytes().get(first) != Some(&b'0'),
        };
        let is_whole = !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        (is_canonical && is_whole).then(|| self.text.get(start..self.at)).flatten()
    }

    fn word(&mut self, word: &'static str) -> Option<&'a str> {
        let end = self.at + word.len();
        let found = self.text.get(self.at..end).filter(|found| *found == word)?;
        self.at = end;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = r#" {"type" : "send_message","id":-17, "conversation_id":"123","content":"Grüße, { [ 🙂", "seq":0,
        "client_msg_id":null,"limit":true,"state":false } "#;

    /// What is cut quickly is cut as anything is.
    fn check(text: &str) -> bool {
        let fields = split(text);
        if let Some(fields) = &fields {
            assert_eq!(Some(fields), Fields::split_any(text).ok().as_ref(), "{text:?}");
        }
        fields.is_some()
    }

    #[test]
    fn plain_frames_are_cut_quickly() {
        assert!(check(FRAME));
        assert!(check(r#"{"type":"heartbeat"}"#));
        assert_eq!(split(FRAME).and_then(|fields| fields.raw(Field::Content)), Some("\"Grüße, { [ 🙂\""));
    }

    /// Whatever is put into a frame, wherever, it is cut as by the code that cuts anything, or left to that.
    #[test]
    fn damaged_frames_are_cut_alike_or_not_at_all() {
        let pieces = [
            "",
            "\"",
            "\\",
            "\\u0041",
            "\n",
            "\u{1}",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "0",
            "1",
            "-",
            ".5",
            "e1",
            " ",
            "x",
            "null",
            "true",
            "\"type\":1,",
            "\"unknown\":1,",
            "é",
            "\u{a0}",
        ];
        let boundaries = (0..=FRAME.len()).filter(|at| FRAME.is_char_boundary(*at));
        let mut quick_count = 0;
        for at in boundaries {
            let (front, back) = FRAME.split_at(at);
            check(front);
            let mut less = back.chars();
            less.next();
            for piece in pieces {
                quick_count += usize::from(check(&format!("{front}{piece}{back}")));
                quick_count += usize::from(check(&format!("{front}{piece}{}", less.as_str())));
            }
        }
        assert!(quick_count > 1_000, "{quick_count} were still plain");
    }
}
