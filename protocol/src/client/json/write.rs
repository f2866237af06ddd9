//! Writes what [`shape`](super::shape) describes, byte for byte as `serde_json` would, but straight into memory: names of
//! fields are ours and hold nothing to escape, and a text is copied whole when it holds nothing either. Every message is
//! written at least twice, so this is where much of a gateway's time would go.
//!
//! It knows the kinds of values that our shapes are made of and refuses any other: a test of that shape fails then.

use serde::ser::{self, Serialize, Serializer};

use super::plain_bytes;
use crate::ids::{DIGITS_MAX, decimal};

/// Why a value was not written: its kind is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unwritable(String);

impl ser::Error for Unwritable {
    fn custom<T: std::fmt::Display>(words: T) -> Unwritable {
        Unwritable(words.to_string())
    }
}

/// See the module.
pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
}

/// What stands behind the backslash for a byte that is not plain.
const fn escape(byte: u8) -> u8 {
    match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        0..0x20 => b'u',
        _ => byte,
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    loop {
        let (front, back) = rest.split_at(plain_bytes(rest));
        out.extend_from_slice(front);
        let Some((byte, back)) = back.split_first() else { break };
        out.extend_from_slice(&[b'\\', escape(*byte)]);
        if escape(*byte) == b'u' {
            let [high, low] = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(&[b'0', b'0', high, low]);
        }
        rest = back;
    }
    out.push(b'"');
}

fn unwritable<T>(kind: &str) -> Result<T, Unwritable> {
    Err(Unwritable(format!("none of our frames holds {kind}")))
}

impl<'w, 'o> Serializer for &'w mut Writer<'o> {
    type Ok = ();
    type Error = Unwritable;
    type SerializeSeq = Members<'w, 'o>;
    type SerializeTuple = ser::Impossible<(), Unwritable>;
    type SerializeTupleStruct = ser::Impossible<(), Unwritable>;
    type SerializeTupleVariant = ser::Impossible<(), Unwritable>;
    type SerializeMap = Members<'w, 'o>;
    type SerializeStruct = Members<'w, 'o>;
    type SerializeStructVariant = ser::Impossible<(), Unwritable>;

    fn serialize_bool(self, value: bool) -> Result<(), Unwritable> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Unwritable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Unwritable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Unwritable> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Unwritable> {
        if value < 0 {
            self.out.push(b'-');
        }
        self.serialize_u64(value.unsigned_abs())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Unwritable> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Unwritable> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Unwritable> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Unwritable> {
        self.out.extend_from_slice(decimal(value, &mut [0; DIGITS_MAX]).as_bytes());
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), Unwritable> {
        unwritable("a fraction")
    }

    fn serialize_f64(self, _: f64) -> Result<(), Unwritable> {
        unwritable("a fraction")
    }

    fn serialize_char(self, _: char) -> Result<(), Unwritable> {
        unwritable("a single character")
    }

    fn serialize_str(self, value: &str) -> Result<(), Unwritable> {
        text(value, self.out);
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unwritable> {
        unwritable("bytes")
    }

    fn serialize_none(self) -> Result<(), Unwritable> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unwritable> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unwritable> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Unwritable> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unwritable> {
        unwritable("a variant by its name")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Members<'w, 'o>, Unwritable> {
        Ok(Members::open(self, b'[', b']'))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unwritable> {
        unwritable("a tuple")
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unwritable> {
        unwritable("a tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unwritable> {
        unwritable("a tuple")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'w, 'o>, Unwritable> {
        Ok(Members::open(self, b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'w, 'o>, Unwritable> {
        Ok(Members::open(self, b'{', b'}'))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unwritable> {
        unwritable("a variant by its name")
    }
}

/// The inside of an object or an array.
pub(super) struct Members<'w, 'o> {
    writer: &'w mut Writer<'o>,
    is_first: bool,
    close: u8,
}

impl<'w, 'o> Members<'w, 'o> {
    fn open(writer: &'w mut Writer<'o>, open: u8, close: u8) -> Self {
        writer.out.push(open);
        Members { writer, is_first: true, close }
    }

    fn next(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.writer.out.push(b',');
        }
    }

    fn close(self) -> Result<(), Unwritable> {
        self.writer.out.push(self.close);
        Ok(())
    }
}

impl ser::SerializeSeq for Members<'_, '_> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.next();
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Unwritable> {
        self.close()
    }
}

impl ser::SerializeMap for Members<'_, '_> {
    type Ok = ();
    type Error = Unwritable;

    /// Names of members that are not fields are texts, or are written as texts.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        self.next();
        let start = self.writer.out.len();
        key.serialize(&mut *self.writer)?;
        let is_text = self.writer.out.get(start) == Some(&b'"');
        if is_text { Ok(()) } else { unwritable("a name that is no text") }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.writer.out.push(b':');
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Unwritable> {
        self.close()
    }
}

impl ser::SerializeStruct for Members<'_, '_> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        debug_assert_eq!(plain_bytes(name.as_bytes()), name.len(), "a name of ours needs no escape");
        let out = &mut *self.writer.out;
        out.reserve(name.len() + 4);
        out.extend_from_slice(if std::mem::take(&mut self.is_first) { b"\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Unwritable> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde::Serialize;

    use super::*;
    use crate::ids::{ID_MAX, UserId};

    fn written(value: &impl Serialize) -> String {
        let mut out = b"before".to_vec();
        value.serialize(&mut Writer { out: &mut out }).expect("a kind of ours");
        String::from_utf8(out.split_off(6)).expect("text")
    }

    fn check(value: &impl Serialize) {
        assert_eq!(written(value), serde_json::to_string(value).expect("serialises"));
    }

    /// Whatever a text holds and wherever, it is escaped as `serde_json` does, and so read back as it was.
    #[test]
    fn texts_are_escaped() {
        let all: String = (0..0x180).filter_map(char::from_u32).chain("\u{2028}\u{ffff}🙂".chars()).collect();
        check(&all);
        for char in all.chars() {
            for before in [0, 1, 14, 15, 16, 17, 33] {
                check(&format!("{}{char}", "x".repeat(before)));
                check(&format!("{}{char}{char}y{char}", "é".repeat(before)));
            }
        }
    }

    #[test]
    fn numbers_are_decimal() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        for number in powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX, ID_MAX]) {
            check(&number);
            check(&-i64::try_from(number).unwrap_or(i64::MAX));
            check(&UserId(number));
        }
        check(&i64::MIN);
    }

    #[derive(Serialize)]
    #[serde(tag = "type", rename = "kinds")]
    struct Kinds<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u64>,
        null: Option<u64>,
        some: Option<bool>,
        users: Cow<'a, [UserId]>,
        none: Vec<Kind>,
        kinds: Vec<Kind>,
        inner: Untagged,
        map: std::collections::BTreeMap<UserId, u64>,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        OneOfThem,
    }

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Untagged {
        Empty(Empty),
    }

    #[derive(Serialize)]
    #[serde(tag = "type", rename = "empty")]
    struct Empty {}

    #[test]
    fn every_kind_of_value_is_written() {
        check(&Kinds {
            absent: None,
            null: None,
            some: Some(false),
            users: Cow::Borrowed(&[UserId(7), UserId(8)]),
            none: Vec::new(),
            kinds: vec![Kind::OneOfThem, Kind::OneOfThem],
            inner: Untagged::Empty(Empty {}),
            map: [(UserId(1), 2), (UserId(3), 4)].into(),
        });
        assert!(1.5_f64.serialize(&mut Writer { out: &mut Vec::new() }).is_err());
    }
}
